//! A request head, checked, and why a request is refused before it is examined.
//!
//! Not here: how bytes become a head (`parse.rs`), what the headers mean for a route (`guard.rs`, `http/router.rs`).

use crate::limits;

/// Why a request is refused before its content is examined. The connection closes after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestError {
    pub status: u16,
    pub why: &'static str,
}

pub(super) fn fault<T>(status: u16, why: &'static str) -> Result<T, RequestError> {
    Err(RequestError { status, why })
}

/// Methods that the server knows; others are answered with 501. Those in `Other` are never allowed (405).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    /// `OPTIONS`: the preflight request of a browser before a page of another node may use the chat.
    Options,
    /// `PATCH`, `QUERY`, `TRACE`, `CONNECT`: known, and allowed nowhere.
    Other,
}

impl Method {
    pub(super) const ALLOWED: [Method; 6] =
        [Method::Get, Method::Head, Method::Post, Method::Put, Method::Delete, Method::Options];

    /// The method's name; empty for methods that are never allowed.
    pub fn name(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Delete => "DELETE",
            Method::Options => "OPTIONS",
            Method::Other => "",
        }
    }
}

/// How the body is framed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Framing {
    #[default]
    Empty,
    /// So many bytes, at least one.
    Length(usize),
    Chunked,
}

/// One request head, checked.
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// `None`: a valid but unknown token (501).
    pub method: Option<Method>,
    /// Path and query as sent, visible ASCII, starting with `/`.
    pub target: String,
    /// HTTP/1.1, or else HTTP/1.0.
    pub is_http11: bool,
    /// `Host` as sent (or the authority of an absolute target, which must agree). Empty: HTTP/1.0 without it.
    pub host: String,
    pub framing: Framing,
    /// The connection may be used again.
    pub keep_alive: bool,
    /// The client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
    pub origin: Option<String>,
    pub fetch_site: Option<String>,
    /// `Sec-Fetch-Mode: navigate` with `Sec-Fetch-Dest: document`, or `Upgrade-Insecure-Requests` from a browser that
    /// sends neither: the response is for a window of its own.
    pub is_navigation: bool,
    /// `User-Agent` begins as that of every web browser.
    pub is_browser: bool,
    pub referer: Option<String>,
    pub content_type: Option<String>,
    pub accept: Option<String>,
    pub if_none_match: Option<String>,
    pub idempotency_key: Option<String>,
    pub authorization: Option<String>,
    pub cookie: Option<String>,
    /// `X-Phalanx-Chat-Token`: the log-in of a chat user.
    pub chat_token: Option<String>,
}

impl Head {
    /// The target up to `?`.
    pub fn path(&self) -> &str {
        self.target.split_once('?').map_or(self.target.as_str(), |(path, _)| path)
    }

    /// Value of the first query parameter of this name, undecoded.
    pub fn query(&self, name: &str) -> Option<&str> {
        let (_, query) = self.target.split_once('?')?;
        query.split('&').find_map(|pair| match pair.split_once('=') {
            Some((key, value)) if key == name => Some(value),
            None if pair == name => Some(""),
            _ => None,
        })
    }
}

/// The reason for refusing a body that is larger than this.
pub fn too_large(body_bytes_max: usize) -> &'static str {
    match body_bytes_max {
        limits::HTTP_LOAD_BYTES_MAX => "body larger than 1 GiB",
        limits::HTTP_LOGIN_BYTES_MAX => "body larger than 8 KiB",
        _ => "body larger than 8 MiB",
    }
}
