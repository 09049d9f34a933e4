//! An HTTP/1.1 client: one persistent connection, bodies by length or in chunks, a deadline for every read.
//!
//! It uses the socket directly, so that latencies can be measured: no pool, no redirects, no hidden retries.
//! Not here: which node is asked, and retries (`client.rs`), the server (`http/`).

use crate::address;
use crate::text::basic_credentials;
use serde_json::Value;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Larger heads are refused.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Larger answers are refused; a whole database as text is the largest.
const ANSWER_BYTES_MAX: usize = 2 << 30;

/// One connection to a node.
pub struct Connection {
    stream: TcpStream,
    host: String,
    /// A header line that presents the password, or nothing.
    authorization: String,
    /// Bytes read and not yet used.
    spare: Vec<u8>,
    /// Longest time that the server may read nothing while a request is sent.
    pub write_within: Duration,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("host", &self.host).finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, Default)]
pub struct Response {
    /// `200`, `307`, ...
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// Whole body; empty for a stream, whose chunks are read with [`Connection::chunk`].
    pub body: Vec<u8>,
}

impl Response {
    /// Value of a header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Body as JSON; `null` if it is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    fn is_chunked(&self) -> bool {
        self.header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked"))
    }
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn open(address: &str, within: Duration) -> io::Result<Connection> {
        let stream = address::connect(address, within)?;
        stream.set_nodelay(true)?;
        let (host, authorization, spare) = (address.to_string(), String::new(), Vec::new());
        Ok(Connection { stream, host, authorization, spare, write_within: Duration::from_secs(5) })
    }

    /// Presents the setting `client_password` with each request.
    pub fn with_password(mut self, password: Option<&str>) -> Connection {
        self.authorization =
            password.map(|it| format!("Authorization: {}\r\n", basic_credentials(it))).unwrap_or_default();
        self
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// Those of the socket, `TimedOut` at the deadline, `InvalidData` if the answer is not HTTP.
    pub fn ask(&mut self, method: &str, path: &str, body: Option<&Value>, deadline: Instant) -> io::Result<Response> {
        self.send(method, path, body)?;
        self.answer(deadline)
    }

    /// Sends a request only.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn send(&mut self, method: &str, path: &str, body: Option<&Value>) -> io::Result<()> {
        match body {
            Some(body) => {
                self.send_bytes(method, path, "Content-Type: application/json\r\n", Some(body.to_string().as_bytes()))
            }
            None => self.send_bytes(method, path, "", None),
        }
    }

    /// Sends a request with header lines, each with its end, and a body of any bytes.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn send_bytes(&mut self, method: &str, path: &str, headers: &str, body: Option<&[u8]>) -> io::Result<()> {
        let length = body.map_or(String::new(), |body| format!("Content-Length: {}\r\n", body.len()));
        let Connection { host, authorization, .. } = &*self;
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n{authorization}{headers}{length}\r\n");
        self.stream.set_write_timeout(Some(self.write_within))?;
        self.stream.write_all(&[head.as_bytes(), body.unwrap_or_default()].concat())
    }

    /// Reads one whole answer.
    ///
    /// # Errors
    /// As [`Connection::ask`].
    pub fn answer(&mut self, deadline: Instant) -> io::Result<Response> {
        let mut response = self.head(deadline)?;
        if response.is_chunked() {
            while let Some(chunk) = self.chunk(deadline)? {
                if response.body.len() + chunk.len() > ANSWER_BYTES_MAX {
                    return Err(invalid("response too large"));
                }
                response.body.extend_from_slice(&chunk);
            }
        } else if let Some(length) = response.header("content-length") {
            let length = length.parse().map_err(|_| invalid("content-length is not a number"))?;
            response.body = self.bytes(length, deadline)?;
        } else if response.status >= 200 && response.status != 204 && response.status != 304 {
            while self.more(deadline)? > 0 {
                if self.spare.len() > ANSWER_BYTES_MAX {
                    return Err(invalid("response too large"));
                }
            }
            response.body = std::mem::take(&mut self.spare);
        }
        Ok(response)
    }

    /// Reads the head of an answer; the body stays on the connection.
    ///
    /// # Errors
    /// As [`Connection::ask`].
    pub fn head(&mut self, deadline: Instant) -> io::Result<Response> {
        let end = loop {
            if let Some(at) = find(&self.spare, b"\r\n\r\n") {
                break at + 4;
            }
            if self.spare.len() > HEAD_BYTES_MAX {
                return Err(invalid("response head without end"));
            }
            self.need_more(deadline)?;
        };
        let head: Vec<u8> = self.spare.drain(..end).collect();
        let mut room = [httparse::EMPTY_HEADER; 100];
        let mut parsed = httparse::Response::new(&mut room);
        parsed.parse(&head).map_err(|_| invalid("not an HTTP response"))?;
        let status = parsed.code.ok_or_else(|| invalid("response without a status"))?;
        let pair = |h: &httparse::Header| (h.name.to_ascii_lowercase(), String::from_utf8_lossy(h.value).into_owned());
        Ok(Response { status, headers: parsed.headers.iter().map(pair).collect(), body: Vec::new() })
    }

    /// Reads one chunk of a chunked body; `None` at its end.
    ///
    /// # Errors
    /// As [`Connection::ask`].
    pub fn chunk(&mut self, deadline: Instant) -> io::Result<Option<Vec<u8>>> {
        let end = loop {
            if let Some(at) = find(&self.spare, b"\r\n") {
                break at;
            }
            self.need_more(deadline)?;
        };
        let line = String::from_utf8_lossy(&self.spare[..end]).into_owned();
        let size = usize::from_str_radix(line.split(';').next().unwrap_or("").trim(), 16);
        let size = size.map_err(|_| invalid("chunk size is not a number"))?;
        self.fill(size.saturating_add(end + 4), deadline)?;
        let chunk = self.spare[end + 2..end + 2 + size].to_vec();
        self.spare.drain(..end + 2 + size + 2);
        Ok((size > 0).then_some(chunk))
    }

    /// Reads so many bytes of a body.
    ///
    /// # Errors
    /// As [`Connection::ask`].
    pub fn bytes(&mut self, length: usize, deadline: Instant) -> io::Result<Vec<u8>> {
        self.fill(length, deadline)?;
        Ok(self.spare.drain(..length).collect())
    }

    fn fill(&mut self, length: usize, deadline: Instant) -> io::Result<()> {
        if length > ANSWER_BYTES_MAX {
            return Err(invalid("response too large"));
        }
        while self.spare.len() < length {
            self.need_more(deadline)?;
        }
        Ok(())
    }

    fn need_more(&mut self, deadline: Instant) -> io::Result<()> {
        if self.more(deadline)? == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    /// Reads what is there, at least one byte; 0 at the end of the stream.
    fn more(&mut self, deadline: Instant) -> io::Result<usize> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        let mut piece = [0; 16 << 10];
        match self.stream.read(&mut piece) {
            Ok(n) => {
                self.spare.extend_from_slice(&piece[..n]);
                Ok(n)
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Err(io::ErrorKind::TimedOut.into()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => self.more(deadline),
            Err(e) => Err(e),
        }
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
