//! HTTP as an outsider speaks it: one connection kept open, bodies by length or in chunks, a deadline on everything.
//!
//! Written on a bare socket so that every millisecond is known: no pool, no redirects followed, no hidden second try.
//! [`Notes`] is the client of the failover figures: it knows every address and goes on with the next when one fails.
//! Not here: the command line's client (`cli/client.rs`), the server (`http/`).

use super::{LabError, Result, poll};
use serde_json::{Value, json};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// Heads larger than this are no node's.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// One connection to a node.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    host: String,
    /// Bytes read and not yet used.
    spare: Vec<u8>,
}

/// An answer.
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

    /// Body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Body as JSON; `null` if it is none.
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
        let at: SocketAddr = address.to_socket_addrs()?.next().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let stream = TcpStream::connect_timeout(&at, within)?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, host: address.to_string(), spare: Vec::new() })
    }

    /// The socket below.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// Those of the socket, `TimedOut` at the deadline, `InvalidData` for what is no HTTP.
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
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n{headers}{length}\r\n", self.host);
        self.stream.set_write_timeout(Some(Duration::from_secs(5)))?;
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
                response.body.extend_from_slice(&chunk);
            }
        } else if let Some(length) = response.header("content-length") {
            let length = length.parse().map_err(|_| invalid("content-length is no number"))?;
            self.fill(length, deadline)?;
            response.body = self.spare.drain(..length).collect();
        } else if response.status >= 200 && response.status != 204 && response.status != 304 {
            while self.more(deadline)? > 0 {}
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
                return Err(invalid("head without an end"));
            }
            self.need_more(deadline)?;
        };
        let head: Vec<u8> = self.spare.drain(..end).collect();
        let mut room = [httparse::EMPTY_HEADER; 100];
        let mut parsed = httparse::Response::new(&mut room);
        parsed.parse(&head).map_err(|_| invalid("not an HTTP answer"))?;
        let status = parsed.code.ok_or_else(|| invalid("no status"))?;
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
        let size = size.map_err(|_| invalid("chunk size is no number"))?;
        self.fill(end + 2 + size + 2, deadline)?;
        let chunk = self.spare[end + 2..end + 2 + size].to_vec();
        self.spare.drain(..end + 2 + size + 2);
        Ok((size > 0).then_some(chunk))
    }

    fn fill(&mut self, length: usize, deadline: Instant) -> io::Result<()> {
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

/// One question on a connection of its own.
///
/// # Errors
/// As [`Connection::ask`].
pub fn get(address: &str, path: &str, within: Duration) -> io::Result<Response> {
    ask(address, "GET", path, None, within)
}

/// One request on a connection of its own.
///
/// # Errors
/// As [`Connection::ask`].
pub fn ask(address: &str, method: &str, path: &str, body: Option<&Value>, within: Duration) -> io::Result<Response> {
    let deadline = Instant::now() + within;
    Connection::open(address, within)?.ask(method, path, body, deadline)
}

/// Writes notes, come what may: it knows every address, keeps one connection, and goes on with the next address when
/// a node dies, declines or is silent for [`Notes::patience`]. A note written twice is the same note.
#[derive(Debug)]
pub struct Notes {
    addresses: Vec<String>,
    at: usize,
    connection: Option<Connection>,
    /// How long one node may take before the next is asked.
    pub patience: Duration,
}

impl Notes {
    /// A client that starts with a random one of these `host:port`s.
    pub fn new(addresses: Vec<String>) -> Notes {
        let at = fastrand::usize(0..addresses.len().max(1));
        Notes { addresses, at, connection: None, patience: Duration::from_millis(150) }
    }

    /// Leaves the present node for a random one.
    pub fn wander(&mut self) {
        self.connection = None;
        self.at = fastrand::usize(0..self.addresses.len().max(1));
    }

    /// Leaves the present node for the one at this place of the list.
    pub fn go_to(&mut self, place: usize) {
        self.connection = None;
        self.at = place % self.addresses.len().max(1);
    }

    /// Writes a note; true when some node acknowledged it before the deadline.
    ///
    /// # Errors
    /// A node says that the request itself is wrong, or the deadline passed (the note may be there or not).
    pub fn put(&mut self, id: &str, text: &str, deadline: Instant) -> Result<()> {
        let body = json!({"id": id, "text": text});
        self.until(deadline, &format!("note {id} is acknowledged"), |connection, deadline| {
            connection.ask("POST", "/v1/note", Some(&body), deadline)
        })?;
        Ok(())
    }

    /// Reads a note, linearizably; `None` if there is none.
    ///
    /// # Errors
    /// As [`Notes::put`].
    pub fn read(&mut self, id: &str, deadline: Instant) -> Result<Option<String>> {
        let path = format!("/v1/note/{id}?level=linearizable");
        let answer = self.until(deadline, &format!("note {id} is read"), |connection, deadline| {
            connection.ask("GET", &path, None, deadline)
        })?;
        Ok(answer.json()["text"].as_str().map(str::to_string))
    }

    fn until(
        &mut self,
        deadline: Instant,
        what: &str,
        mut attempt: impl FnMut(&mut Connection, Instant) -> io::Result<Response>,
    ) -> Result<Response> {
        let started = Instant::now();
        let mut last = String::from("never tried");
        while Instant::now() < deadline {
            let until = deadline.min(Instant::now() + self.patience);
            let address = &self.addresses[self.at];
            let connected = match self.connection.take() {
                Some(connection) => Ok(connection),
                None => Connection::open(address, self.patience),
            };
            match connected.and_then(|mut c| attempt(&mut c, until).map(|r| (c, r))) {
                Ok((connection, response)) => match response.status {
                    200..=299 | 404 => {
                        if response.header("connection") != Some("close") {
                            self.connection = Some(connection);
                        }
                        return Ok(response);
                    }
                    400..=499 => {
                        return Err(LabError::Answer(format!(
                            "{address} says {}: {}",
                            response.status,
                            response.text()
                        )));
                    }
                    status => last = format!("{address} says {status}: {}", response.text()),
                },
                Err(e) => last = format!("{address}: {e}"),
            }
            self.at = (self.at + 1) % self.addresses.len();
            poll::pause(Duration::from_millis(1));
        }
        let detail = format!(" (last: {last})");
        Err(LabError::Timeout { what: what.into(), after: started.elapsed(), detail })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// A server that answers each connection with these bytes and closes it.
    fn serve(answers: Vec<&'static str>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut head = [0; 4096];
                let _ = stream.read(&mut head);
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        address
    }

    #[test]
    fn reads_bodies_by_length_in_chunks_and_to_the_end() {
        let address = serve(vec![
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello rest",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n",
            "HTTP/1.1 307 Temporary Redirect\r\nLocation: http://a/\r\n\r\nhello",
        ]);
        for _ in 0..3 {
            assert_eq!(get(&address, "/", Duration::from_secs(5)).unwrap().text(), "hello");
        }
    }

    #[test]
    fn a_silent_server_costs_no_more_than_the_deadline() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let started = Instant::now();
        let e = get(&address, "/", Duration::from_millis(50)).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::TimedOut);
        assert!(started.elapsed() < Duration::from_secs(2));
    }

    #[test]
    fn notes_go_on_with_the_next_address() {
        let good = serve(vec!["HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"]);
        let busy = serve(vec!["HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\n{}"]);
        let mut notes = Notes::new(vec!["127.0.0.1:1".into(), busy, good]);
        notes.go_to(0);
        notes.put("a", "b", Instant::now() + Duration::from_secs(5)).unwrap();
        assert_eq!(notes.at, 2);
    }

    #[test]
    fn a_wrong_request_is_not_repeated() {
        let picky = serve(vec!["HTTP/1.1 400 Bad Request\r\nContent-Length: 3\r\n\r\nwhy"]);
        let err = Notes::new(vec![picky]).put("a", "b", Instant::now() + Duration::from_secs(5)).unwrap_err();
        assert!(err.to_string().contains("says 400: why"), "{err}");
    }
}
