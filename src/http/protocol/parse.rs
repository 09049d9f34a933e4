//! Bytes to a request head: pure, and strict where leniency has let requests be smuggled.
//!
//! httparse finds the tokens; this file adds what it does not check: sizes, bare line feeds, `Host`, how the body is
//! framed. Whatever two programs could interpret differently is refused, never repaired (RFC 9112 sections 2.2, 5, 6,
//! 7, 11.2).
//!
//! Invariants: P1 a [`Head`] contains no byte below 0x20 in any value and only visible ASCII in its target, so both may
//! be copied into a response. P2 a body has exactly one framing. P3 nothing is allocated from a declared length.
//! Not here: reading and deadlines (`conn.rs`), which hosts and origins are allowed (`guard.rs`).

use super::head::{Framing, Head, Method, RequestError, fault};
use crate::limits;

/// Longest request line; a longer one is refused with 414.
pub const REQUEST_LINE_BYTES_MAX: usize = 8 << 10;
/// Parses a head at the start of `bytes`. `Ok(None)`: more bytes are needed. `Ok(Some((head, length)))`: the body, or
/// the next request, starts at `length`.
pub fn head(bytes: &[u8]) -> Result<Option<(Head, usize)>, RequestError> {
    let mut headers = [httparse::EMPTY_HEADER; limits::HTTP_HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let length = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return check_unfinished(bytes).map(|()| None),
        Err(httparse::Error::TooManyHeaders) => return fault(431, "more than 100 headers"),
        Err(httparse::Error::Version) => return fault(505, "only HTTP/1.0 and HTTP/1.1 are supported"),
        Err(httparse::Error::Token) => return fault(400, "malformed request line"),
        Err(_) => return fault(400, "malformed request head"),
    };
    let raw = &bytes[..length];
    check_unfinished(raw)?;
    if raw.iter().enumerate().any(|(at, byte)| *byte == b'\n' && (at == 0 || raw[at - 1] != b'\r')) {
        return fault(400, "line feed without carriage return in the head");
    }
    let is_http11 = request.version == Some(1);
    let target = request.path.unwrap_or_default();
    if !target.bytes().all(|byte| (0x21..=0x7e).contains(&byte) && byte != b'#') {
        return fault(400, "invalid bytes in the request target");
    }
    let mut fields = Fields::default();
    for header in request.headers.iter() {
        fields.take(header.name, header.value)?;
    }
    let method = match request.method.unwrap_or_default() {
        "PATCH" | "QUERY" | "TRACE" | "CONNECT" => Some(Method::Other),
        name => Method::ALLOWED.into_iter().find(|method| method.name() == name),
    };
    fields.finish(method, target, is_http11).map(|head| Some((head, length)))
}

/// Size rules that hold however much of the head has arrived.
fn check_unfinished(bytes: &[u8]) -> Result<(), RequestError> {
    // Empty lines before the request are skipped by the parser; they do not make the line longer.
    let start = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(bytes.len());
    if start > 4 {
        return fault(400, "empty lines before the request");
    }
    let line = bytes[start..].iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len() - start);
    if line > REQUEST_LINE_BYTES_MAX {
        return fault(414, "request line longer than 8 KiB");
    }
    if bytes.len() > limits::HTTP_HEAD_BYTES_MAX {
        return fault(431, "head larger than 16 KiB");
    }
    Ok(())
}

/// A head whose header fields are being read; fields that the server does not use are checked and dropped.
#[derive(Default)]
struct Fields {
    /// What is known already; `host` is `None` until its field was read.
    head: Head,
    host: Option<String>,
    content_length: Option<usize>,
    has_transfer_encoding: bool,
    wants_close: bool,
    wants_keep_alive: bool,
    fetch_mode: Option<String>,
    fetch_dest: Option<String>,
    wants_secure: bool,
}

impl Fields {
    fn take(&mut self, name: &str, value: &[u8]) -> Result<(), RequestError> {
        if value.iter().any(|byte| (*byte < 0x20 && *byte != b'\t') || *byte == 0x7f) {
            return fault(400, "control character in a header value");
        }
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        let text = || String::from_utf8_lossy(value).trim_matches([' ', '\t']).to_owned();
        let plain = [
            ("origin", &mut self.head.origin),
            ("sec-fetch-site", &mut self.head.fetch_site),
            ("sec-fetch-mode", &mut self.fetch_mode),
            ("sec-fetch-dest", &mut self.fetch_dest),
            ("referer", &mut self.head.referer),
            ("content-type", &mut self.head.content_type),
            ("accept", &mut self.head.accept),
            ("if-none-match", &mut self.head.if_none_match),
            ("authorization", &mut self.head.authorization),
            ("cookie", &mut self.head.cookie),
            ("x-phalanx-chat-token", &mut self.head.chat_token),
        ];
        if let Some((_, field)) = plain.into_iter().find(|(other, _)| is(other)) {
            *field = Some(text());
        } else if is("host") {
            if self.host.replace(text()).is_some() {
                return fault(400, "more than one Host");
            }
        } else if is("content-length") {
            let length = content_length(value)?;
            if self.content_length.replace(length).is_some() {
                return fault(400, "more than one Content-Length");
            }
        } else if is("transfer-encoding") {
            if self.has_transfer_encoding {
                return fault(400, "more than one Transfer-Encoding");
            }
            self.has_transfer_encoding = true;
            let coding = text();
            if coding.contains(',') {
                return fault(400, "more than one transfer coding");
            }
            if !coding.eq_ignore_ascii_case("chunked") {
                return fault(501, "the only supported transfer coding is chunked");
            }
        } else if is("connection") {
            for option in text().split(',') {
                self.wants_close |= option.trim().eq_ignore_ascii_case("close");
                self.wants_keep_alive |= option.trim().eq_ignore_ascii_case("keep-alive");
            }
        } else if is("expect") {
            if !text().eq_ignore_ascii_case("100-continue") {
                return fault(417, "the only supported expectation is 100-continue");
            }
            self.head.expects_continue = true;
        } else if is("upgrade-insecure-requests") {
            self.wants_secure = true;
        } else if is("user-agent") {
            self.head.is_browser |= value.starts_with(b"Mozilla/");
        } else if is("content-encoding") {
            if !text().eq_ignore_ascii_case("identity") {
                return fault(415, "Content-Encoding is not supported");
            }
        } else if is("idempotency-key") {
            let key = text();
            if self.head.idempotency_key.as_ref().is_some_and(|known| *known != key) {
                return fault(400, "two different Idempotency-Key headers");
            }
            self.head.idempotency_key = Some(key);
        }
        Ok(())
    }

    fn finish(self, method: Option<Method>, target: &str, is_http11: bool) -> Result<Head, RequestError> {
        let mut host = self.host.unwrap_or_default();
        // HTTP/1.0 has no Host: health checks of load balancers send none, and browsers always do.
        if host.is_empty() && is_http11 {
            return fault(400, "missing Host header");
        }
        let mut target = target.to_owned();
        if let Some(rest) =
            target.get(..7).filter(|scheme| scheme.eq_ignore_ascii_case("http://")).map(|_| &target[7..])
        {
            let (authority, path) = rest.find(['/', '?']).map_or((rest, ""), |at| rest.split_at(at));
            if !host.is_empty() && !authority.eq_ignore_ascii_case(&host) {
                return fault(400, "target and Host disagree");
            }
            host = authority.to_owned();
            target = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        }
        if !target.starts_with('/') {
            return fault(400, "the target must be a path");
        }
        let framing = match (self.has_transfer_encoding, self.content_length) {
            (true, Some(_)) => return fault(400, "both Content-Length and Transfer-Encoding"),
            (true, None) if !is_http11 => return fault(400, "Transfer-Encoding in HTTP/1.0"),
            (true, None) => Framing::Chunked,
            (false, Some(length)) if length > 0 => Framing::Length(length),
            (false, _) => Framing::Empty,
        };
        Ok(Head {
            method,
            target,
            is_http11,
            host,
            framing,
            keep_alive: if is_http11 { !self.wants_close } else { self.wants_keep_alive && !self.wants_close },
            expects_continue: self.head.expects_continue && is_http11 && framing != Framing::Empty,
            is_navigation: match (&self.fetch_mode, &self.fetch_dest) {
                (None, None) => self.wants_secure,
                (mode, dest) => mode.as_deref() == Some("navigate") && dest.as_deref() == Some("document"),
            },
            ..self.head
        })
    }
}

/// Digits only: no sign, no list, no blank, no overflow.
fn content_length(value: &[u8]) -> Result<usize, RequestError> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return fault(400, "Content-Length must be a number");
    }
    let digits = std::str::from_utf8(value).expect("ASCII digits are UTF-8");
    match digits.parse() {
        Ok(length) => Ok(length),
        Err(_) => fault(400, "Content-Length overflows"),
    }
}

#[cfg(test)]
mod tests {
    use crate::http::protocol::parse::*;

    fn parse(text: &str) -> Result<Head, RequestError> {
        head(text.as_bytes()).map(|found| found.expect("a whole head").0)
    }

    fn status(text: &str) -> u16 {
        parse(text).expect_err(text).status
    }

    #[test]
    fn takes_a_plain_request() {
        let head = parse("GET /a/b?x=1&y&z= HTTP/1.1\r\nHost: localhost:6701\r\nConnection: x, Close\r\n\r\n").unwrap();
        assert_eq!((head.method, head.path(), head.host.as_str()), (Some(Method::Get), "/a/b", "localhost:6701"));
        assert_eq!(
            (head.query("x"), head.query("y"), head.query("z"), head.query("w")),
            (Some("1"), Some(""), Some(""), None)
        );
        assert!(!head.keep_alive && head.framing == Framing::Empty);
        let old = parse("GET / HTTP/1.0\r\nHost: a\r\n\r\n").unwrap();
        assert!(!old.keep_alive && !old.is_http11);
        assert_eq!(parse("GET http://A:1?q HTTP/1.1\r\nhost: a:1\r\n\r\n").unwrap().target, "/?q");
    }

    #[test]
    fn asks_for_more_at_every_cut() {
        let text = b"POST /v1/note HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n";
        for cut in 0..text.len() {
            assert!(head(&text[..cut]).expect("no fault").is_none(), "cut at {cut}");
        }
        assert_eq!(head(text).unwrap().unwrap().1, text.len());
    }

    #[test]
    fn refuses_what_could_be_read_in_two_ways() {
        let with = |line: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n");
        for line in [
            "Content-Length: +1",
            "Content-Length: -1",
            "Content-Length: 0x1",
            "Content-Length: 1, 1",
            "Content-Length: 1\r\nContent-Length: 1",
            "Content-Length:",
            "Content-Length: 18446744073709551616",
            "Content-Length: 1\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: gzip, chunked",
            "Content-Length : 1",
            " folded: 1",
            "X: a\r\n folded",
            "X: a\r\n\tfolded",
            "X: a\0b",
            "X: a\rb",
            "X: a\nY: b",
            "X: a\x7f",
            "X(: a",
            ": a",
            "Host: a",
            "Idempotency-Key: a\r\nIdempotency-Key: b",
        ] {
            assert_eq!(status(&with(line)), 400, "{line:?}");
        }
        assert_eq!(status(&with("Transfer-Encoding: xchunked")), 501);
        assert_eq!(status(&with("Content-Encoding: gzip")), 415);
        assert_eq!(status(&with("Expect: tea")), 417);
        for text in [
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost:\r\n\r\n",
            "GET / HTTP/1.1\nHost: a\n\n",
            "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /#f HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET * HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET a HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        ] {
            assert_eq!(status(text), 400, "{text:?}");
        }
        for version in ["HTTP/2.0", "HTTP/1.2", "HTTP/0.9"] {
            assert_eq!(status(&format!("GET / {version}\r\nHost: a\r\n\r\n")), 505, "{version}");
        }
        assert_eq!(parse("get / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap().method, None);
        assert_eq!(parse("BREW / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap().method, None);
    }

    #[test]
    fn bounds_lines_headers_and_heads() {
        assert_eq!(head(&vec![b'a'; REQUEST_LINE_BYTES_MAX + 1]).unwrap_err().status, 414);
        assert_eq!(status(&format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(9000))), 414);
        let many = |count: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(count - 1));
        assert!(parse(&many(100)).is_ok());
        assert_eq!(status(&many(101)), 431);
        assert_eq!(status(&format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "a".repeat(16 << 10))), 431);
        assert_eq!(head(format!("GET / HTTP/1.1\r\nX: {}", "a".repeat(16 << 10)).as_bytes()).unwrap_err().status, 431);
    }
}
