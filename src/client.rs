//! A client of the cluster: it knows every node, and continues with the next when one dies, declines or does not
//! answer.
//!
//! This file has the loop over the nodes; `client/http.rs` is one connection; `client/chat.rs` is a chat user, with an
//! event stream that continues on another node.
//! A change carries a key (`Idempotency-Key`) which is the same on each attempt, so that it takes effect once however
//! often it is sent. The result is one of three: done; refused, certainly not done; unknown.
//!
//! Invariants: K1 a change without a key is never sent again once it may have arrived. K2 after an attempt that may
//! have taken effect, the result is never a refusal because later attempts fail.
//! Not here: arguments and output (`cli/`), what is measured (`lab/`).

pub(crate) mod chat;
mod http;

pub use chat::{Chat, Follower, Recipient};
pub use http::{Connection, Response};

use serde_json::Value;
use std::io;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Connecting to a live node takes far less than this, even across an ocean.
const CONNECT_MAX: Duration = Duration::from_secs(1);
/// Maximum number of redirects that are followed, as from the front door.
const HOPS_MAX: usize = 4;

/// Why a request has no successful answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// Certainly not done: a node refused it.
    #[error("{why}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// The node, as `host:port`.
        from: String,
        why: String,
    },
    /// It may or may not have been done.
    #[error("the outcome is unknown: {0}")]
    Unknown(String),
    /// Certainly not done: no node could be reached. Each reason with the nodes it holds for.
    #[error("no node answered: {0}")]
    Unreachable(String),
}

#[derive(Clone, Debug)]
pub struct Request {
    /// `GET`, `PUT`, `POST`, `DELETE`.
    pub method: &'static str,
    /// Path, from the first slash on, escaped, with its parameters.
    pub path: String,
    /// JSON, or bytes of any kind.
    pub body: Option<Vec<u8>>,
    /// Content type of the body.
    pub media: Option<&'static str>,
    /// Idempotency key: with it, the request takes effect once.
    pub key: Option<String>,
    /// Sending it twice does no harm.
    pub is_repeatable: bool,
}

impl Request {
    /// A GET request.
    pub fn get(path: impl Into<String>) -> Request {
        Request { method: "GET", path: path.into(), body: None, media: None, key: None, is_repeatable: true }
    }

    /// A change with a new key. The body of a `PUT` is bytes, any other is JSON.
    pub fn once(method: &'static str, path: impl Into<String>, body: Option<Vec<u8>>) -> Request {
        let media = (method != "PUT").then_some("application/json");
        let key = Some(Uuid::new_v4().to_string());
        Request { method, path: path.into(), body, media, key, is_repeatable: true }
    }

    /// A change with a new key and a JSON body.
    pub fn change(method: &'static str, path: impl Into<String>, body: &Value) -> Request {
        Request::once(method, path, Some(body.to_string().into_bytes()))
    }

    /// Without a key: it is never sent again once it may have arrived.
    pub fn at_most_once(self) -> Request {
        Request { key: None, is_repeatable: false, ..self }
    }

    /// Without a key, because sending it twice does no harm.
    pub fn harmless(self) -> Request {
        Request { key: None, is_repeatable: true, ..self }
    }

    fn may_be_sent_again(&self) -> bool {
        self.key.is_some() || self.is_repeatable
    }

    fn is_query(&self) -> bool {
        self.method == "GET"
    }
}

#[derive(Debug)]
pub struct Client {
    addresses: Vec<String>,
    at: usize,
    connection: Option<Connection>,
    /// How long one node may take before the next is asked.
    pub patience: Duration,
    /// How long all of them may take together; `None`: each is asked once.
    pub within: Option<Duration>,
    /// Pause before the next node is tried.
    pub pause: Duration,
    /// Token of a chat user, sent with each request.
    pub token: Option<String>,
    /// The setting `client_password` of the cluster, sent with each request.
    pub password: Option<String>,
}

/// A clone starts with the same node, on a connection of its own.
impl Clone for Client {
    fn clone(&self) -> Client {
        Client {
            addresses: self.addresses.clone(),
            connection: None,
            token: self.token.clone(),
            password: self.password.clone(),
            ..*self
        }
    }
}

enum AttemptResult {
    Answer(Response),
    /// It did not arrive.
    NotSent(String),
    /// It may have arrived.
    Lost(String),
}

/// The nodes that could not be reached, each with the last reason.
#[derive(Default)]
pub(crate) struct Failures(Vec<(String, String)>);

impl Failures {
    pub(crate) fn add(&mut self, address: &str, why: String) {
        match self.0.iter_mut().find(|(at, _)| at == address) {
            Some((_, last)) => *last = why,
            None => self.0.push((address.to_string(), why)),
        }
    }

    /// Each reason once, with the nodes it holds for.
    pub(crate) fn text(&self) -> String {
        let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
        for (address, why) in &self.0 {
            match reasons.iter_mut().find(|(reason, _)| reason == why) {
                Some((_, at)) => at.push(address),
                None => reasons.push((why, vec![address])),
            }
        }
        let texts: Vec<String> = reasons.iter().map(|(why, at)| format!("{why} at {}", at.join(", "))).collect();
        if texts.is_empty() { "no address is known".to_string() } else { texts.join("; ") }
    }
}

impl Client {
    /// A client that starts with the first of these `host:port`s of HTTP.
    pub fn new(addresses: Vec<String>) -> Client {
        Client {
            addresses,
            at: 0,
            connection: None,
            patience: Duration::from_secs(3),
            within: Some(Duration::from_secs(20)),
            pause: Duration::from_millis(20),
            token: None,
            password: None,
        }
    }

    /// The node that is asked next: after an answer, the one that answered.
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

    /// Continues with the node at this place of the list.
    pub fn go_to(&mut self, place: usize) {
        self.connection = None;
        self.at = place % self.addresses.len().max(1);
    }

    /// Continues with the next node.
    pub fn go_on(&mut self) {
        self.go_to(self.at + 1);
    }

    /// Continues with this node, and adds it to the list if it is new.
    fn go_to_address(&mut self, address: &str) {
        let place = self.addresses.iter().position(|known| known == address).unwrap_or_else(|| {
            self.addresses.push(address.to_string());
            self.addresses.len() - 1
        });
        self.go_to(place);
    }

    /// Sends a request until a node answers it, with any status, or the time is up. After an answer that there is no
    /// leader, the next node is tried: it may be on the other side of a partition.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn answer(&mut self, request: &Request) -> Result<Response, ClientError> {
        let deadline = self.within.map(|within| Instant::now() + within);
        let (mut failures, mut declined, mut maybe_done) = (Failures::default(), None, None);
        let (mut left, mut hops) = (self.addresses.len(), 0);
        while left > 0 {
            match self.attempt(request, deadline) {
                AttemptResult::Answer(response) => {
                    if hops < HOPS_MAX
                        && let Some(address) = redirect(&response)
                    {
                        hops += 1;
                        self.go_to_address(&address);
                        continue;
                    }
                    let (is_unknown, refusal) = (is_unknown(&response), refused(self.address(), &response));
                    match response.status {
                        _ if is_unknown && !request.is_query() => {
                            maybe_done = Some(format!("{}: {}", self.address(), why(&response)));
                        }
                        500.. if is_unknown || response.status == 503 || request.is_query() => {
                            declined = Some(refusal);
                        }
                        _ => return Ok(response),
                    }
                }
                AttemptResult::Lost(why) if !request.is_query() => {
                    maybe_done = Some(format!("{} received the request but did not answer ({why})", self.address()));
                }
                AttemptResult::NotSent(why) | AttemptResult::Lost(why) => failures.add(self.address(), why),
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
            (Some(why), _) => Err(ClientError::Unknown(why)), // K2
            (None, Some(declined)) => Err(declined),
            (None, None) => Err(ClientError::Unreachable(failures.text())),
        }
    }

    /// As [`Client::answer`], but a status other than success is an error.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn ask(&mut self, request: &Request) -> Result<Response, ClientError> {
        let response = self.answer(request)?;
        match response.status {
            200..=299 => Ok(response),
            _ => Err(refused(self.address(), &response)),
        }
    }

    /// As [`Client::ask`]; returns the body as JSON.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn json(&mut self, request: &Request) -> Result<Value, ClientError> {
        Ok(self.ask(request)?.json())
    }

    fn attempt(&mut self, request: &Request, deadline: Option<Instant>) -> AttemptResult {
        let until = Instant::now() + self.patience;
        let until = deadline.map_or(until, |deadline| deadline.min(until));
        // The node may have closed an idle connection: a request that may be repeated is sent to it again.
        let kept = self.connection.take().filter(|_| request.may_be_sent_again());
        let broke = match kept.map(|connection| self.exchange(connection, request, until)) {
            Some(Ok(response)) => return AttemptResult::Answer(response),
            Some(Err(e)) if e.kind() == io::ErrorKind::TimedOut => return AttemptResult::Lost(describe_io_error(&e)),
            Some(Err(_)) => true,
            None => false,
        };
        let connection = match Connection::open(self.address(), self.patience.min(CONNECT_MAX)) {
            Ok(connection) => connection.with_password(self.password.as_deref()),
            Err(e) if broke => return AttemptResult::Lost(describe_io_error(&e)),
            Err(e) => return AttemptResult::NotSent(describe_io_error(&e)),
        };
        match self.exchange(connection, request, until) {
            Ok(response) => AttemptResult::Answer(response),
            Err(e) => AttemptResult::Lost(describe_io_error(&e)),
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
            headers += &format!("X-Phalanx-Chat-Token: {token}\r\n");
        }
        if let Some(key) = &request.key {
            headers += &format!("Idempotency-Key: {key}\r\n");
        }
        if let Some(media) = request.media {
            headers += &format!("Content-Type: {media}\r\n");
        }
        headers
    }

    /// Asks for the addresses of all nodes, so that the client can continue when those it was given are gone; returns
    /// the leader's, if there is one.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn learn(&mut self) -> Result<Option<String>, ClientError> {
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

/// The node that a redirect names.
fn redirect(response: &Response) -> Option<String> {
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

fn refused(from: &str, response: &Response) -> ClientError {
    ClientError::Refused { status: response.status, from: from.to_string(), why: why(response) }
}

pub(crate) fn describe_io_error(e: &io::Error) -> String {
    match e.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".into(),
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => "no answer in time".into(),
        io::ErrorKind::UnexpectedEof => "the connection broke".into(),
        _ => e.to_string(),
    }
}

#[cfg(test)]
mod tests;
