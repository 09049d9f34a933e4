//! Single requests, and the client of tests and of the failover figures.
//!
//! Not here: HTTP itself and how a client continues with the next node (`client.rs`), the server (`http/`).

use super::{LabError, Result};
use crate::client::{Client, ClientError, Request};
pub use crate::client::{Connection, Response};
use crate::text::percent_encode;
use serde_json::Value;
use std::io;
use std::time::{Duration, Instant};

/// One `GET` on a connection of its own.
///
/// # Errors
/// As [`Connection::ask`].
pub fn get(address: &str, path: &str, within: Duration) -> io::Result<Response> {
    ask(address, "GET", path, None, within)
}

/// As [`ask`], with the setting `client_password` of the cluster.
///
/// # Errors
/// As [`Connection::ask`].
pub fn ask_with(
    password: Option<&str>,
    address: &str,
    method: &str,
    path: &str,
    body: Option<&Value>,
    within: Duration,
) -> io::Result<Response> {
    let deadline = Instant::now() + within;
    Connection::open(address, within)?.with_password(password).ask(method, path, body, deadline)
}

/// One request on a connection of its own.
///
/// # Errors
/// As [`Connection::ask`].
pub fn ask(address: &str, method: &str, path: &str, body: Option<&Value>, within: Duration) -> io::Result<Response> {
    ask_with(None, address, method, path, body, within)
}

/// How long one node may take before the next is asked.
const PATIENCE: Duration = Duration::from_millis(150);
/// Pause before it is asked: short, so that the measured gap is that of the cluster.
const PAUSE: Duration = Duration::from_millis(1);

/// Writes keys through whichever node takes them, and reads them back. A write may be sent twice: it is the same write.
#[derive(Debug)]
pub struct KeyClient {
    client: Client,
}

impl KeyClient {
    /// A client that starts with a random one of these `host:port`s.
    pub fn new(addresses: Vec<String>) -> KeyClient {
        let mut client = Client::new(addresses);
        (client.patience, client.pause) = (PATIENCE, PAUSE);
        let mut keys = KeyClient { client };
        keys.go_to_random();
        keys
    }

    /// Presents the setting `client_password` to the nodes.
    pub fn with_password(mut self, password: Option<String>) -> KeyClient {
        self.client.password = password;
        self
    }

    /// Waits this long for one node until the next is asked.
    pub fn with_patience(mut self, patience: Duration) -> KeyClient {
        self.client.patience = patience;
        self
    }

    /// Continues with a random node.
    pub fn go_to_random(&mut self) {
        self.go_to(fastrand::usize(..));
    }

    /// Continues with the node at this place of the list.
    pub fn go_to(&mut self, place: usize) {
        self.client.go_to(place);
    }

    /// Writes a key.
    ///
    /// # Errors
    /// A node says that the request itself is wrong, or the deadline passed (the key may be written or not).
    pub fn put(&mut self, key: &str, value: &str, deadline: Instant) -> Result<()> {
        let request = Request::once("PUT", path(key), Some(value.as_bytes().to_vec())).harmless();
        self.until(deadline, &format!("key {key} is written"), &request)?;
        Ok(())
    }

    /// Reads a key, linearizably; `None` if there is none.
    ///
    /// # Errors
    /// As [`KeyClient::put`].
    pub fn read(&mut self, key: &str, deadline: Instant) -> Result<Option<String>> {
        let request = Request::get(format!("{}?level=linearizable", path(key)));
        let answer = self.until(deadline, &format!("key {key} is read"), &request)?;
        Ok((answer.status == 200).then(|| answer.text()))
    }

    fn until(&mut self, deadline: Instant, what: &str, request: &Request) -> Result<Response> {
        answer_until(&mut self.client, deadline, what, request, |status| matches!(status, 200..=299 | 404))
    }
}

/// Sends a request until a node answers it with a status that is expected.
///
/// # Errors
/// An answer with another status, or no answer before the deadline; `what` says what was waited for.
pub fn answer_until(
    client: &mut Client,
    deadline: Instant,
    what: &str,
    request: &Request,
    is_expected: impl Fn(u16) -> bool,
) -> Result<Response> {
    let begun = Instant::now();
    client.within = Some(deadline.saturating_duration_since(begun));
    let timeout = |fault: ClientError| LabError::Timeout {
        what: what.into(),
        after: begun.elapsed(),
        detail: format!(" (last: {fault})"),
    };
    let response = client.answer(request).map_err(timeout)?;
    match is_expected(response.status) {
        true => Ok(response),
        false => Err(LabError::Answer(format!("{} says {}: {}", client.address(), response.status, response.text()))),
    }
}

fn path(key: &str) -> String {
    format!("/v1/kv/{}", percent_encode(key.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
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
    fn a_write_continues_with_the_next_address() {
        let good = serve(vec!["HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"]);
        let busy = serve(vec!["HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\n{}"]);
        let mut keys = KeyClient::new(vec!["127.0.0.1:1".into(), busy, good]);
        keys.go_to(0);
        keys.put("a", "b", Instant::now() + Duration::from_secs(5)).unwrap();
        assert_eq!(keys.client.place(), 2);
    }

    #[test]
    fn a_wrong_request_is_not_repeated() {
        let picky = serve(vec!["HTTP/1.1 400 Bad Request\r\nContent-Length: 3\r\n\r\nwhy"]);
        let err = KeyClient::new(vec![picky]).put("a", "b", Instant::now() + Duration::from_secs(5)).unwrap_err();
        assert!(err.to_string().contains("says 400: why"), "{err}");
    }
}
