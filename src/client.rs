//! A client of the cluster that wants an answer, come what may: it knows every node, and goes on with the next when one dies,
//! declines or is silent.
//!
//! The tour: this file holds the loop over the nodes; `client/http.rs` is one connection; `client/chat.rs` what a member of the
//! chat can do, with the stream that goes on where it was.
//! A request that changes something carries a key (`Idempotency-Key`) which is the same on each try, so that it takes effect once
//! however often it is sent. What comes out is one of three things, as everywhere: done; refused, certainly not done; unknown.
//!
//! Invariants: K1 a change without a key is never sent again once it may have arrived. K2 after a try that may have been carried
//! out no silence is called a refusal.
//! Not here: arguments and output (`cli/`), what is measured (`lab/`).

pub mod chat;
mod http;

pub use chat::{Chat, Follower, To};
pub use http::{Connection, Response};

use serde_json::Value;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Pause before the next node is tried.
const PAUSE: Duration = Duration::from_millis(20);

/// Why there is no answer to be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Certainly not done: a node says why not.
    #[error("{why}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// In words.
        why: String,
        /// When it may be worth another try.
        retry_after: Option<Duration>,
    },
    /// It may or may not have been done.
    #[error("the outcome is unknown: {0}")]
    Unknown(String),
    /// Certainly not done: no node could be reached, or none had a leader.
    #[error("no node answers: {0}")]
    Unreachable(String),
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// `GET`, `POST`, `DELETE`.
    pub method: &'a str,
    /// With its parameters.
    pub path: &'a str,
    /// JSON.
    pub body: Option<&'a Value>,
    /// Makes it take effect once.
    pub key: Option<String>,
    /// To do it twice does no harm.
    pub is_repeatable: bool,
}

impl<'a> Request<'a> {
    /// A question.
    pub fn get(path: &'a str) -> Request<'a> {
        Request { method: "GET", path, body: None, key: None, is_repeatable: true }
    }

    /// A change, under a key of its own.
    pub fn change(method: &'a str, path: &'a str, body: Option<&'a Value>) -> Request<'a> {
        Request { method, path, body, key: Some(Uuid::new_v4().to_string()), is_repeatable: true }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Client {
    addresses: Vec<String>,
    at: usize,
    connection: Option<Connection>,
    /// How long one node may take before the next is asked.
    pub patience: Duration,
    /// How long all of them may take together.
    pub within: Duration,
    /// Shown with each request, if there is one.
    pub token: Option<String>,
}

/// What one try came to.
enum Tried {
    Answer(Response),
    /// Never arrived.
    NotSent(String),
    /// Arrived perhaps.
    Lost(String),
}

impl Client {
    /// A client that begins with the first of these `host:port`s of HTTP.
    pub fn new(addresses: Vec<String>) -> Client {
        let (patience, within) = (Duration::from_secs(3), Duration::from_secs(20));
        Client { addresses, at: 0, connection: None, patience, within, token: None }
    }

    /// The node that is asked next.
    pub fn address(&self) -> &str {
        self.addresses.get(self.at).map_or("", String::as_str)
    }

    /// All nodes that it knows.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// Goes on with the node at this place of the list.
    pub fn go_to(&mut self, place: usize) {
        self.connection = None;
        self.at = place % self.addresses.len().max(1);
    }

    /// Goes on with the next node.
    pub fn go_on(&mut self) {
        self.go_to(self.at + 1);
    }

    /// Asks until a node answers, or the time is up.
    ///
    /// # Errors
    /// See [`Fault`].
    pub fn ask(&mut self, request: &Request) -> Result<Response, Fault> {
        let deadline = Instant::now() + self.within;
        let (mut last, mut maybe_done, mut declined) = (String::from("never tried"), false, None);
        while Instant::now() < deadline {
            match self.attempt(request, deadline) {
                Tried::Answer(response) => match response.status {
                    200..=299 => return Ok(response),
                    503 => {
                        last = format!("{}: {}", self.address(), why(&response));
                        declined = Some(refused(&response));
                    }
                    504 => {
                        last = format!("{}: {}", self.address(), why(&response));
                        maybe_done = true;
                    }
                    _ => return Err(refused(&response)),
                },
                Tried::NotSent(why) => last = format!("{}: {why}", self.address()),
                Tried::Lost(why) => {
                    last = format!("{}: {why}", self.address());
                    maybe_done = true;
                }
            }
            if maybe_done && request.key.is_none() && !request.is_repeatable {
                break; // K1
            }
            self.go_on();
            std::thread::park_timeout(PAUSE.min(deadline.saturating_duration_since(Instant::now())));
        }
        match (maybe_done && request.method != "GET", declined) {
            (true, _) => Err(Fault::Unknown(last)), // K2
            (false, Some(declined)) => Err(declined),
            (false, None) => Err(Fault::Unreachable(last)),
        }
    }

    /// The same for an answer of JSON.
    ///
    /// # Errors
    /// See [`Fault`].
    pub fn json(&mut self, request: &Request) -> Result<Value, Fault> {
        Ok(self.ask(request)?.json())
    }

    fn attempt(&mut self, request: &Request, deadline: Instant) -> Tried {
        let until = deadline.min(Instant::now() + self.patience);
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => match Connection::open(self.address(), self.patience) {
                Ok(connection) => connection,
                Err(e) => return Tried::NotSent(e.to_string()),
            },
        };
        let body = request.body.map(Value::to_string);
        let asked = connection
            .send_bytes(request.method, request.path, &self.headers(request), body.as_ref().map(String::as_bytes))
            .and_then(|()| connection.answer(until));
        match asked {
            Ok(response) => {
                if response.header("connection") != Some("close") {
                    self.connection = Some(connection);
                }
                Tried::Answer(response)
            }
            Err(e) => Tried::Lost(e.to_string()),
        }
    }

    fn headers(&self, request: &Request) -> String {
        let mut headers = String::new();
        if let Some(token) = &self.token {
            headers += &format!("Authorization: Bearer {token}\r\n");
        }
        if let Some(key) = &request.key {
            headers += &format!("Idempotency-Key: {key}\r\n");
        }
        if request.method != "GET" {
            headers += "Content-Type: application/json\r\n";
        }
        headers
    }

    /// Learns the addresses of all nodes from whichever answers; the leader's, if there is one.
    ///
    /// # Errors
    /// See [`Fault`].
    pub fn learn(&mut self) -> Result<Option<String>, Fault> {
        let status = self.json(&Request::get("/v1/status"))?;
        let rows = status["nodes"].as_array().cloned().unwrap_or_default();
        for address in rows.iter().filter_map(|row| row["http"].as_str()) {
            if !self.addresses.iter().any(|known| known == address) {
                self.addresses.push(address.to_string());
            }
        }
        let leader = rows.iter().find(|row| row["id"] == status["cluster"]["leader"]);
        Ok(leader.and_then(|row| row["http"].as_str()).map(str::to_string))
    }
}

fn why(response: &Response) -> String {
    match response.json()["error"].as_str() {
        Some(why) => why.to_string(),
        None => format!("status {}", response.status),
    }
}

fn refused(response: &Response) -> Fault {
    let retry_after = response.header("retry-after").and_then(|text| text.parse().ok()).map(Duration::from_secs);
    Fault::Refused { status: response.status, why: why(response), retry_after }
}

#[cfg(test)]
mod tests;
