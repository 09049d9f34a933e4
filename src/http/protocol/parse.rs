//! Bytes to a request head, and chunked bodies to bytes: pure, and strict where leniency has let requests be smuggled.
//!
//! httparse finds the tokens; this file adds what it does not check: sizes, bare line feeds, `Host`, how the body is
//! framed. Whatever two programs could interpret differently is refused, never repaired (RFC 9112 sections 2.2, 5, 6,
//! 7, 11.2).
//!
//! Invariants: P1 a [`Head`] contains no byte below 0x20 in any value and only visible ASCII in its target, so both may
//! be copied into a response. P2 a body has exactly one framing. P3 nothing is allocated from a declared length.
//! Not here: reading and deadlines (`conn.rs`), which hosts and origins are allowed (`guard.rs`).

use crate::limits;

/// Longest request line; a longer one is refused with 414.
pub const REQUEST_LINE_BYTES_MAX: usize = 8 << 10;
/// Longest chunk-size line with its extensions, which no legitimate client needs.
const CHUNK_LINE_BYTES_MAX: usize = 128;
/// Longest trailer section; it is read and dropped.
const TRAILER_BYTES_MAX: usize = 4 << 10;

/// Why a request is refused before its content is examined. The connection closes after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Status of the response.
    pub status: u16,
    /// The reason, for people.
    pub why: &'static str,
}

fn fault<T>(status: u16, why: &'static str) -> Result<T, Fault> {
    Err(Fault { status, why })
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
    const ALLOWED: [Method; 6] =
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
    /// `Host` as sent (or the authority of an absolute target, which must agree).
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
        _ => "body larger than 8 MiB",
    }
}

/// Decodes `%41` to `A`; `None` for a broken escape. A plus stays a plus.
pub fn percent_decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        if byte != b'%' {
            bytes.push(byte);
            rest = after;
            continue;
        }
        let digits = after.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = &after[2..];
    }
    Some(bytes)
}

/// Parses a head at the start of `bytes`. `Ok(None)`: more bytes are needed. `Ok(Some((head, length)))`: the body, or
/// the next request, starts at `length`.
pub fn head(bytes: &[u8]) -> Result<Option<(Head, usize)>, Fault> {
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
fn check_unfinished(bytes: &[u8]) -> Result<(), Fault> {
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
    fn take(&mut self, name: &str, value: &[u8]) -> Result<(), Fault> {
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

    fn finish(self, method: Option<Method>, target: &str, is_http11: bool) -> Result<Head, Fault> {
        let Some(mut host) = self.host.filter(|host| !host.is_empty()) else {
            return fault(400, "missing Host header");
        };
        let mut target = target.to_owned();
        if let Some(rest) =
            target.get(..7).filter(|scheme| scheme.eq_ignore_ascii_case("http://")).map(|_| &target[7..])
        {
            let (authority, path) = rest.find(['/', '?']).map_or((rest, ""), |at| rest.split_at(at));
            if !authority.eq_ignore_ascii_case(&host) {
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
fn content_length(value: &[u8]) -> Result<usize, Fault> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return fault(400, "Content-Length must be a number");
    }
    let digits = std::str::from_utf8(value).expect("ASCII digits are UTF-8");
    match digits.parse() {
        Ok(length) => Ok(length),
        Err(_) => fault(400, "Content-Length overflows"),
    }
}

/// Decoder of one chunked body, fed with whatever pieces arrive.
#[derive(Debug, Default)]
pub struct Chunked {
    state: ChunkState,
    /// Bytes of the line or trailer section read so far.
    line_bytes: usize,
    size: usize,
    has_digit: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ChunkState {
    #[default]
    Size,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    Trailer,
    TrailerLf,
    EndLf,
    Done,
}

impl Chunked {
    /// The whole body has been read.
    pub fn is_done(&self) -> bool {
        self.state == ChunkState::Done
    }

    /// Consumes bytes from `input` and appends body bytes to `body` (at most `body_bytes_max` in all). Returns how many
    /// bytes of `input` belong to this body; the rest belongs to the next request.
    pub fn feed(&mut self, input: &[u8], body: &mut Vec<u8>, body_bytes_max: usize) -> Result<usize, Fault> {
        let mut at = 0;
        while at < input.len() && !self.is_done() {
            if self.state == ChunkState::Data {
                let length = self.size.min(input.len() - at);
                body.extend_from_slice(&input[at..at + length]);
                at += length;
                self.size -= length;
                if self.size == 0 {
                    self.state = ChunkState::DataCr;
                }
                continue;
            }
            self.on_byte(input[at])?;
            at += 1;
            if self.state == ChunkState::Data && self.size > body_bytes_max.saturating_sub(body.len()) {
                return fault(413, too_large(body_bytes_max));
            }
        }
        Ok(at)
    }

    fn on_byte(&mut self, byte: u8) -> Result<(), Fault> {
        use ChunkState::*;
        self.line_bytes += 1;
        self.state = match (self.state, byte) {
            (Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = (byte as char).to_digit(16).expect("a hexadecimal digit") as usize;
                let Some(size) = self.size.checked_mul(16).and_then(|size| size.checked_add(digit)) else {
                    return fault(400, "chunk size overflows");
                };
                self.size = size;
                self.has_digit = true;
                Size
            }
            (Size, b';') if self.has_digit => Extension,
            (Size | Extension, b'\r') if self.has_digit => SizeLf,
            (Extension, b'\t' | 0x20..=0x7e | 0x80..) => Extension,
            (SizeLf, b'\n') => {
                self.line_bytes = 0;
                self.has_digit = false;
                if self.size == 0 { TrailerStart } else { Data }
            }
            (DataCr, b'\r') => DataLf,
            (DataLf, b'\n') => {
                self.line_bytes = 0;
                Size
            }
            (TrailerStart, b'\r') => EndLf,
            (TrailerStart | Trailer, b'\t' | 0x20..=0x7e | 0x80..) => Trailer,
            (Trailer, b'\r') => TrailerLf,
            (TrailerLf, b'\n') => TrailerStart,
            (EndLf, b'\n') => Done,
            _ => return fault(400, "malformed chunked body"),
        };
        match self.state {
            Size | Extension if self.line_bytes > CHUNK_LINE_BYTES_MAX => fault(400, "chunk size line too long"),
            Trailer if self.line_bytes > TRAILER_BYTES_MAX => fault(431, "trailers larger than 4 KiB"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::http::protocol::parse::*;
    use crate::text::percent_encode;

    #[test]
    fn names_are_decoded_once_and_strictly() {
        for (text, expected) in [
            ("a%20b", Some(&b"a b"[..])),
            ("a+b/c", Some(b"a+b/c")),
            ("%25", Some(b"%")),
            ("%2525", Some(b"%25")),
            ("%00%fF", Some(b"\x00\xff")),
            ("%", None),
            ("%4", None),
            ("%+4", None),
        ] {
            assert_eq!(percent_decode(text).as_deref(), expected, "{text}");
        }
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(percent_decode(&percent_encode(&all)), Some(all));
        assert_eq!(percent_encode(b"a/b\xff"), "a%2Fb%FF");
    }

    fn parse(text: &str) -> Result<Head, Fault> {
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

    fn chunks(text: &str) -> Result<(Vec<u8>, usize), Fault> {
        let (mut decoder, mut body) = (Chunked::default(), Vec::new());
        let used = decoder.feed(text.as_bytes(), &mut body, 1000)?;
        assert!(decoder.is_done(), "{text:?} did not end");
        Ok((body, used))
    }

    #[test]
    fn decodes_chunks_at_every_cut() {
        let text = "4\r\nWiki\r\n00005;a=b\r\npedia\r\n0\r\nTrailer: x\r\n\r\nGET";
        assert_eq!(chunks(text).unwrap(), (b"Wikipedia".to_vec(), text.len() - 3));
        for cut in 0..text.len() - 3 {
            let (mut decoder, mut body) = (Chunked::default(), Vec::new());
            assert_eq!(decoder.feed(&text.as_bytes()[..cut], &mut body, 9).unwrap(), cut);
            assert!(!decoder.is_done());
            decoder.feed(&text.as_bytes()[cut..], &mut body, 9).unwrap();
            assert!(decoder.is_done() && body == b"Wikipedia", "cut at {cut}");
        }
    }

    #[test]
    fn refuses_odd_chunks() {
        for text in [
            "4\nWiki\r\n0\r\n\r\n",
            "4\r\nWiki\n0\r\n\r\n",
            "4\r\nWikis\r\n0\r\n\r\n",
            "0x4\r\nWiki\r\n0\r\n\r\n",
            "+4\r\nWiki\r\n0\r\n\r\n",
            " 4\r\nWiki\r\n0\r\n\r\n",
            "4 \r\nWiki\r\n0\r\n\r\n",
            "\r\nWiki\r\n0\r\n\r\n",
            ";a\r\n\r\n",
            "4;a\nb\r\nWiki\r\n0\r\n\r\n",
            "10000000000000000\r\n",
            "0\r\nA: b\n\r\n",
            "0\r\n\n",
        ] {
            assert_eq!(chunks(text).expect_err(text).status, 400, "{text:?}");
        }
        assert_eq!(chunks(&format!("1;{}\r\n", "a".repeat(200))).unwrap_err().status, 400);
        assert_eq!(chunks(&format!("{}1\r\n", "0".repeat(200))).unwrap_err().status, 400);
        assert_eq!(chunks(&format!("0\r\n{}", "A: b\r\n".repeat(2000))).unwrap_err().status, 431);
        assert_eq!(chunks("3e9\r\n").unwrap_err().status, 413);
        assert_eq!(chunks("ffffffffffffffff\r\n").unwrap_err().status, 413);
    }
}
