//! A response: status, headers, body, written into a buffer.
//!
//! Invariant: R1 header values contain no control characters, whatever a handler has put into them, so nothing that a
//! client sent can begin another header.
//! Not here: responses that are sent while they are produced, and sockets (`conn.rs`).

use crate::types::Index;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value as Json;
use std::borrow::Cow;
use std::io::Write;

/// The origin of a response: the `X-Phalanx-*` headers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Origin {
    pub node: u64,
    pub leader: Option<u64>,
    pub term: u64,
    /// Index of the write or read, otherwise the index that this node has applied.
    pub index: u64,
}

/// What becomes of the connection after a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    Closed,
    /// It is kept, as HTTP/1.1 does unless told otherwise.
    Kept,
    /// It is kept for a client of HTTP/1.0 that has asked for it, and must be told.
    KeptOnRequest,
}

#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    /// Media type of the body.
    pub content_type: &'static str,
    /// Headers beyond those of every response.
    pub headers: Vec<(&'static str, String)>,
    pub body: Cow<'static, [u8]>,
    /// The length of the body is not known beforehand.
    pub is_stream: bool,
    /// Log index of the result; `None`: what this node has applied.
    pub index: Option<u64>,
}

impl Response {
    /// A response without a body.
    pub fn empty(status: u16) -> Response {
        Response {
            status,
            content_type: "text/plain; charset=utf-8",
            headers: Vec::new(),
            body: Cow::Borrowed(b""),
            is_stream: false,
            index: None,
        }
    }

    /// The head of a stream.
    pub fn stream(content_type: &'static str) -> Response {
        Response { content_type, is_stream: true, ..Response::empty(200) }
    }

    pub fn text(status: u16, text: impl Into<String>) -> Response {
        Response { body: Cow::Owned(text.into().into_bytes()), ..Response::empty(status) }
    }

    /// JSON, with a line feed at its end for users of curl.
    pub fn json(status: u16, value: &impl serde::Serialize) -> Response {
        let mut body = serde_json::to_vec(value).expect("our own types serialize");
        body.push(b'\n');
        Response { content_type: "application/json", body: Cow::Owned(body), ..Response::empty(status) }
    }

    /// Bytes that a client has stored: a browser must not interpret them.
    pub fn bytes(body: Vec<u8>) -> Response {
        Response { content_type: "application/octet-stream", body: Cow::Owned(body), ..Response::empty(200) }
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Response {
        self.headers.push((name, value.into()));
        self
    }

    /// Sets the log index of the result.
    pub fn at(mut self, index: Index) -> Response {
        self.index = Some(index.0);
        self
    }

    /// Appends the response to `out`. `has_body` is false for HEAD and for the head of a stream.
    pub fn write(&self, out: &mut Vec<u8>, persistence: Persistence, has_body: bool, origin: Option<Origin>) {
        write!(out, "HTTP/1.1 {} {}\r\n", self.status, reason(self.status)).expect("a Vec takes every write");
        if self.is_stream {
            header(out, "Content-Type", self.content_type);
        } else if self.status != 304 && self.status != 204 {
            header(out, "Content-Length", &self.body.len().to_string());
            if !self.body.is_empty() {
                header(out, "Content-Type", self.content_type);
            }
        }
        if !self.headers.iter().any(|(name, _)| *name == "Cache-Control") {
            header(out, "Cache-Control", "no-store");
        }
        header(out, "X-Content-Type-Options", "nosniff");
        if let Some(origin) = origin {
            Origin { index: self.index.unwrap_or(origin.index), ..origin }.write(out);
        }
        for (name, value) in &self.headers {
            header(out, name, value);
        }
        match persistence {
            Persistence::Closed => header(out, "Connection", "close"),
            Persistence::Kept => {}
            Persistence::KeptOnRequest => header(out, "Connection", "keep-alive"),
        }
        out.extend_from_slice(b"\r\n");
        if has_body {
            out.extend_from_slice(&self.body);
        }
    }
}

impl Origin {
    /// Appends the `X-Phalanx-*` headers.
    fn write(&self, out: &mut Vec<u8>) {
        let leader = self.leader.map_or("none".to_owned(), |leader| leader.to_string());
        write!(
            out,
            "X-Phalanx-Node: {}\r\nX-Phalanx-Leader: {leader}\r\nX-Phalanx-Term: {}\r\nX-Phalanx-Index: {}\r\n",
            self.node, self.term, self.index
        )
        .expect("a Vec takes every write");
    }
}

/// Bytes as text: UTF-8 as it is, anything else in base64; and whether it is base64.
pub(crate) fn as_text(bytes: Vec<u8>) -> (String, bool) {
    match String::from_utf8(bytes) {
        Ok(text) => (text, false),
        Err(e) => (BASE64.encode(e.as_bytes()), true),
    }
}

/// Adds a field with these bytes: as text if they are UTF-8, otherwise in base64, which the field `encoding` then says.
pub(crate) fn put_bytes(row: &mut Json, name: &str, encoding: &str, bytes: Vec<u8>) {
    let (text, is_base64) = as_text(bytes);
    row[name] = text.into();
    if is_base64 {
        row[encoding] = "base64".into();
    }
}

/// Appends one header; control characters in its value become spaces (R1).
fn header(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend(value.bytes().map(|byte| if byte < 0x20 || byte == 0x7f { b' ' } else { byte }));
    out.extend_from_slice(b"\r\n");
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        202 => "Accepted",
        204 => "No Content",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        507 => "Insufficient Storage",
        505 => "HTTP Version Not Supported",
        _ => "Unknown",
    }
}

#[cfg(test)]
mod tests {
    use crate::http::protocol::response::*;

    #[test]
    fn no_value_starts_a_header_of_its_own() {
        let mut out = Vec::new();
        Response::empty(307).with("Location", "http://a/\r\nSet-Cookie: b\0").write(
            &mut out,
            Persistence::Kept,
            true,
            None,
        );
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("Location: http://a/  Set-Cookie: b \r\n"), "{text}");
    }
}
