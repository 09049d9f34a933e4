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

pub(crate) mod chat;
mod http;

pub use chat::{Chat, Follower, To};
pub use http::{Connection, Response};

use serde_json::Value;
use std::io;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Connecting to a live node takes far less than this, even across an ocean.
const CONNECT_MAX: Duration = Duration::from_secs(1);
/// How often a request may be sent on by the front door and its like.
const HOPS_MAX: usize = 4;

/// Why there is no answer to be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Certainly not done: a node says why not.
    #[error("{why}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Which node says so, as `host:port`.
        from: String,
        /// In words.
        why: String,
    },
    /// It may or may not have been done.
    #[error("the outcome is unknown: {0}")]
    Unknown(String),
    /// Certainly not done: no node could be reached. Each reason with those it holds for.
    #[error("no node answered: {0}")]
    Unreachable(String),
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET`, `PUT`, `POST`, `DELETE`.
    pub method: &'static str,
    /// From the first slash on, escaped, with its parameters.
    pub path: String,
    /// JSON, or bytes of any kind.
    pub body: Option<Vec<u8>>,
    /// What the body is.
    pub media: Option<&'static str>,
    /// Makes it take effect once.
    pub key: Option<String>,
    /// To do it twice does no harm.
    pub is_repeatable: bool,
}

impl Request {
    /// A question.
    pub fn get(path: impl Into<String>) -> Request {
        Request { method: "GET", path: path.into(), body: None, media: None, key: None, is_repeatable: true }
    }

    /// A change that takes effect once, however often it is sent, under a key of its own. What is put is bytes, all else JSON.
    pub fn once(method: &'static str, path: impl Into<String>, body: Option<Vec<u8>>) -> Request {
        let media = (method != "PUT").then_some("application/json");
        let key = Some(Uuid::new_v4().to_string());
        Request { method, path: path.into(), body, media, key, is_repeatable: true }
    }

    /// The same with a body of JSON.
    pub fn change(method: &'static str, path: impl Into<String>, body: &Value) -> Request {
        Request::once(method, path, Some(body.to_string().into_bytes()))
    }

    /// Without a key: it is never sent again once it may have arrived.
    pub fn at_most_once(self) -> Request {
        Request { key: None, is_repeatable: false, ..self }
    }

    /// Without a key, because to do it twice does no harm.
    pub fn harmless(self) -> Request {
        Request { key: None, is_repeatable: true, ..self }
    }

    fn may_be_sent_again(&self) -> bool {
        self.key.is_some() || self.is_repeatable
    }

    fn is_question(&self) -> bool {
        self.method == "GET"
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
    /// How long all of them may take together; `None`: each is asked once.
    pub within: Option<Duration>,
    /// Before the next node is tried.
    pub pause: Duration,
    /// Shown with each request, if there is one.
    pub token: Option<String>,
}

/// A clone has the same place and a connection of its own.
impl Clone for Client {
    fn clone(&self) -> Client {
        let Client { addresses, at, connection: _, patience, within, pause, token } = self;
        let (addresses, token) = (addresses.clone(), token.clone());
        Client { addresses, at: *at, connection: None, patience: *patience, within: *within, pause: *pause, token }
    }
}

/// What one try came to.
enum Tried {
    Answer(Response),
    /// Never arrived.
    NotSent(String),
    /// Arrived perhaps.
    Lost(String),
}

/// Who could not be reached, and why, once per node.
#[derive(Default)]
pub(crate) struct Failures(Vec<(String, String)>);

impl Failures {
    pub(crate) fn add(&mut self, address: &str, why: String) {
        match self.0.iter_mut().find(|(at, _)| at == address) {
            Some((_, last)) => *last = why,
            None => self.0.push((address.to_string(), why)),
        }
    }

    /// Each reason once, with those it holds for.
    pub(crate) fn told(&self) -> String {
        let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
        for (address, why) in &self.0 {
            match reasons.iter_mut().find(|(reason, _)| reason == why) {
                Some((_, at)) => at.push(address),
                None => reasons.push((why, vec![address])),
            }
        }
        let told: Vec<String> = reasons.iter().map(|(why, at)| format!("{why} at {}", at.join(", "))).collect();
        if told.is_empty() { "no address is known".to_string() } else { told.join("; ") }
    }
}

impl Client {
    /// A client that begins with the first of these `host:port`s of HTTP.
    pub fn new(addresses: Vec<String>) -> Client {
        Client {
            addresses,
            at: 0,
            connection: None,
            patience: Duration::from_secs(3),
            within: Some(Duration::from_secs(20)),
            pause: Duration::from_millis(20),
            token: None,
        }
    }

    /// The node that is asked next: after an answer the one that gave it.
    pub fn address(&self) -> &str {
        self.addresses.get(self.at).map_or("", String::as_str)
    }

    /// All nodes that it knows.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// Place of the node that is asked next.
    pub fn place(&self) -> usize {
        self.at
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

    /// Goes on with this node, known or not.
    fn go_to_address(&mut self, address: &str) {
        let place = self.addresses.iter().position(|known| known == address).unwrap_or_else(|| {
            self.addresses.push(address.to_string());
            self.addresses.len() - 1
        });
        self.go_to(place);
    }

    /// Asks until a node gives an answer of its own, whatever that is, or the time is up. A node that finds no leader is no
    /// reason to give up: the next one may be on the other side of the cut.
    ///
    /// # Errors
    /// See [`Fault`].
    pub fn answer(&mut self, request: &Request) -> Result<Response, Fault> {
        let deadline = self.within.map(|within| Instant::now() + within);
        let (mut failures, mut declined, mut maybe_done) = (Failures::default(), None, None);
        let (mut left, mut hops) = (self.addresses.len(), 0);
        while left > 0 {
            match self.attempt(request, deadline) {
                Tried::Answer(response) => {
                    if hops < HOPS_MAX
                        && let Some(address) = sent_on(&response)
                    {
                        hops += 1;
                        self.go_to_address(&address);
                        continue;
                    }
                    let (is_unknown, refusal) = (is_unknown(&response), refused(self.address(), &response));
                    match response.status {
                        _ if is_unknown && !request.is_question() => {
                            maybe_done = Some(format!("{}: {}", self.address(), why(&response)));
                        }
                        500.. if is_unknown || response.status == 503 || request.is_question() => {
                            declined = Some(refusal);
                        }
                        _ => return Ok(response),
                    }
                }
                Tried::Lost(why) if !request.is_question() => {
                    maybe_done = Some(format!("{} received the request but did not answer ({why})", self.address()));
                }
                Tried::NotSent(why) | Tried::Lost(why) => failures.add(self.address(), why),
            }
            if maybe_done.is_some() && !request.may_be_sent_again() {
                break; // K1
            }
            self.go_on();
            match deadline {
                None => left -= 1,
                Some(deadline) => {
                    let time_left = deadline.saturating_duration_since(Instant::now());
                    if time_left.is_zero() {
                        break;
                    }
                    std::thread::park_timeout(self.pause.min(time_left));
                }
            }
        }
        match (maybe_done, declined) {
            (Some(why), _) => Err(Fault::Unknown(why)), // K2
            (None, Some(declined)) => Err(declined),
            (None, None) => Err(Fault::Unreachable(failures.told())),
        }
    }

    /// The same; an answer that is no success is an error.
    ///
    /// # Errors
    /// See [`Fault`].
    pub fn ask(&mut self, request: &Request) -> Result<Response, Fault> {
        let response = self.answer(request)?;
        match response.status {
            200..=299 => Ok(response),
            _ => Err(refused(self.address(), &response)),
        }
    }

    /// The same for an answer of JSON.
    ///
    /// # Errors
    /// See [`Fault`].
    pub fn json(&mut self, request: &Request) -> Result<Value, Fault> {
        Ok(self.ask(request)?.json())
    }

    fn attempt(&mut self, request: &Request, deadline: Option<Instant>) -> Tried {
        let until = Instant::now() + self.patience;
        let until = deadline.map_or(until, |deadline| deadline.min(until));
        // The node may have closed an idle connection meanwhile: that is no reason to leave it, if the request may be repeated.
        let kept = self.connection.take().filter(|_| request.may_be_sent_again());
        let broke = match kept.map(|connection| self.exchange(connection, request, until)) {
            Some(Ok(response)) => return Tried::Answer(response),
            Some(Err(e)) if e.kind() == io::ErrorKind::TimedOut => return Tried::Lost(in_words(&e)),
            Some(Err(_)) => true,
            None => false,
        };
        let connection = match Connection::open(self.address(), self.patience.min(CONNECT_MAX)) {
            Ok(connection) => connection,
            Err(e) if broke => return Tried::Lost(in_words(&e)),
            Err(e) => return Tried::NotSent(in_words(&e)),
        };
        match self.exchange(connection, request, until) {
            Ok(response) => Tried::Answer(response),
            Err(e) => Tried::Lost(in_words(&e)),
        }
    }

    fn exchange(&mut self, mut connection: Connection, request: &Request, until: Instant) -> io::Result<Response> {
        connection.write_within = self.patience;
        connection.send_bytes(request.method, &request.path, &self.headers(request), request.body.as_deref())?;
        let response = connection.answer(until)?;
        if response.header("connection") != Some("close") {
            self.connection = Some(connection);
        }
        Ok(response)
    }

    fn headers(&self, request: &Request) -> String {
        let mut headers = String::new();
        if let Some(token) = &self.token {
            headers += &format!("Authorization: Bearer {token}\r\n");
        }
        if let Some(key) = &request.key {
            headers += &format!("Idempotency-Key: {key}\r\n");
        }
        if let Some(media) = request.media {
            headers += &format!("Content-Type: {media}\r\n");
        }
        headers
    }

    /// Learns the addresses of all nodes from whichever answers, so that it can go on when those it was given are gone; the
    /// leader's, if there is one.
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

/// Where the front door sends a request.
fn sent_on(response: &Response) -> Option<String> {
    let location = matches!(response.status, 307 | 308).then(|| response.header("location"))??;
    let address = location.strip_prefix("http://")?.split('/').next()?;
    address.contains(':').then(|| address.to_string())
}

fn is_unknown(response: &Response) -> bool {
    response.status == 504 || (response.status >= 500 && response.json()["outcome"] == "unknown")
}

fn why(response: &Response) -> String {
    match response.json()["error"].as_str() {
        Some(why) => why.to_string(),
        None => format!("HTTP status {}", response.status),
    }
}

fn refused(from: &str, response: &Response) -> Fault {
    Fault::Refused { status: response.status, from: from.to_string(), why: why(response) }
}

pub(crate) fn in_words(e: &io::Error) -> String {
    match e.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".into(),
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => "no answer in time".into(),
        io::ErrorKind::UnexpectedEof => "the connection broke".into(),
        _ => e.to_string(),
    }
}

#[cfg(test)]
mod tests;
