//! Asking running nodes over HTTP: every address is tried, every wait is short, every failure says what it means.
//!
//! A question (`get`) goes to the next address whenever one does not answer. A change (`change`) goes on only while it
//! is certain that nobody has seen it: once the request has left, a broken connection means "may or may not be
//! applied", exit code 5, and trying another node could do the thing twice. A change of the store (`exchange`) carries a
//! key that makes it take effect once, so it goes on in any case. A node holds a change for as long as
//! `request_timeout_ms` before it refuses it; so a change waits longer than that, or a refusal would pass for doubt.
//! Not here: what the answers look like (`node/status.rs`), printing (`status.rs` and its neighbours).

use super::ClientArgs;
use super::fault::{Fault, code};
use crate::http::lines::Lines;
use crate::settings::Settings;
use crate::types::NodeId;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::cell::Cell;
use std::io;
use std::path::Path;
use std::time::Duration;

/// How many local ports are tried when nobody says where the cluster is.
const LOCAL_NODES_TRIED: u64 = 9;
/// Connecting to a live node takes far less than this, even across an ocean.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A node answers a question from what it knows: one that has not by now is frozen, and the next one is asked.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(3);
/// A node's last word on a change comes right after `request_timeout_ms`; its way back takes less than this.
const LAST_WORD_TIMEOUT: Duration = Duration::from_secs(2);
/// Largest answer that is read: a page of large values in base64.
const ANSWER_BYTES_MAX: u64 = 128 << 20;
/// Advice when nobody answers.
const NOBODY_NEXT: &str = "start a cluster with ./run.sh (or phalanx dev), or name a running node with -e HOST:PORT";

/// A client of one cluster.
#[derive(Clone)]
pub struct Client {
    agent: ureq::Agent,
    endpoints: Vec<String>,
    /// The endpoint that answered last: asked first next time.
    good: Cell<usize>,
    /// Longest wait for the answer to a change.
    change_timeout: Duration,
    /// How long a question waits.
    question_timeout: Duration,
}

/// An answer and who gave it.
#[derive(Debug)]
pub struct Answer<T> {
    /// The decoded body.
    pub value: T,
    /// `host:port` of the node that answered.
    pub from: String,
}

/// What a node says when it declines.
#[derive(Debug, Default, Deserialize)]
struct Declined {
    #[serde(default)]
    error: String,
    #[serde(default)]
    outcome: Option<String>,
}

/// How one attempt at one address ended.
enum Attempt {
    Answered(u16, String),
    /// Certainly not seen by the node.
    NotSent(String),
    /// The node may have seen it.
    Lost(String),
}

/// A request whose answer is bytes: the key-value store and its locks.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// `GET`, `PUT`, `POST`, `DELETE`.
    pub method: &'static str,
    /// From the first slash on, escaped.
    pub path: String,
    /// A JSON value for `POST`, else bytes of any kind.
    pub body: Option<Vec<u8>>,
    /// `Idempotency-Key`: the same request may be sent again, to any node, and takes effect once.
    pub key: Option<String>,
    /// What the body of a `POST` is, if it is not JSON.
    pub media: Option<&'static str>,
}

/// Its answer, whatever the status.
#[derive(Clone, Debug, Default)]
pub struct Raw {
    /// Status code.
    pub status: u16,
    /// `X-Phalanx-Key-Index`.
    pub key_index: Option<u64>,
    /// `X-Phalanx-Key-Ttl-Ms`.
    pub ttl_ms: Option<u64>,
    /// Body.
    pub body: Vec<u8>,
    /// `host:port` of the node that answered.
    pub from: String,
}

impl Raw {
    /// The body as JSON; `null` if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// What a node said that declined.
    pub fn fault(&self) -> Fault {
        decline(&self.from, self.status, &String::from_utf8_lossy(&self.body))
    }
}

impl Request {
    /// A question.
    pub fn get(path: String) -> Request {
        Request { method: "GET", path, ..Request::default() }
    }

    /// A change that takes effect once, however often it is sent.
    pub fn once(method: &'static str, path: String, body: Option<Vec<u8>>) -> Request {
        Request { method, path, body, key: Some(uuid::Uuid::new_v4().to_string()), media: None }
    }
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// `POST` with a JSON body.
    Post,
    /// `DELETE`.
    Delete,
}

/// The nodes that the arguments name, or else those found as INTERFACES says.
///
/// # Errors
/// Settings with faults, or an address that is none.
pub fn endpoints(args: &ClientArgs) -> Result<Vec<String>, Fault> {
    let settings = match settings(args.settings.as_deref()) {
        Err(_) if !args.endpoints.is_empty() && args.settings.is_none() => Settings::default(),
        settings => settings?,
    };
    endpoints_in(args, &settings)
}

fn endpoints_in(args: &ClientArgs, settings: &Settings) -> Result<Vec<String>, Fault> {
    if args.endpoints.is_empty() {
        return Ok(find_endpoints(settings));
    }
    args.endpoints.iter().map(|e| endpoint(e)).collect()
}

impl Client {
    /// A client for the addresses that the arguments name, or else those found as INTERFACES says.
    ///
    /// # Errors
    /// Settings with faults, or an address that is none.
    pub fn new(args: &ClientArgs) -> Result<Client, Fault> {
        let settings = match settings(args.settings.as_deref()) {
            // Who names the nodes can ask them whatever stands in the settings file of the folder at hand.
            Err(_) if !args.endpoints.is_empty() && args.settings.is_none() => Settings::default(),
            settings => settings?,
        };
        let endpoints = endpoints_in(args, &settings)?;
        if let Some(seconds) = args.timeout {
            if !(0.001..=3600.0).contains(&seconds) {
                let message = format!("--timeout {seconds}: not a sensible number of seconds");
                return Err(Fault::new(code::USAGE, message, "give 0.001 to 3600"));
            }
            return Ok(Client::to(endpoints, Duration::from_secs_f64(seconds)));
        }
        let change_timeout = Duration::from_millis(settings.request_timeout_ms) + LAST_WORD_TIMEOUT;
        Ok(Client { change_timeout, ..Client::to(endpoints, QUESTION_TIMEOUT) })
    }

    /// A client for these `host:port`s.
    pub fn to(endpoints: Vec<String>, timeout: Duration) -> Client {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .timeout_connect(Some(CONNECT_TIMEOUT.min(timeout)))
            .timeout_global(Some(timeout))
            .user_agent(concat!("phalanx/", env!("CARGO_PKG_VERSION")))
            .build();
        Client {
            agent: config.new_agent(),
            endpoints,
            good: Cell::new(0),
            change_timeout: timeout,
            question_timeout: timeout,
        }
    }

    /// A client of the same addresses that waits so long for every answer.
    pub fn waiting(&self, timeout: Duration) -> Client {
        let client = Client::to(self.endpoints.clone(), timeout);
        client.good.set(self.good.get());
        client
    }

    /// The node that answered another one is asked first.
    pub fn follow(&self, other: &Client) {
        self.good.set(other.good.get());
    }

    /// A client of this address alone, as patient as this one.
    pub fn only(&self, endpoint: &str) -> Client {
        let only = Client::to(vec![endpoint.to_string()], self.question_timeout);
        Client { change_timeout: self.change_timeout, ..only }
    }

    /// Sends a request that may be sent again (a question, or a change with a key) until a node answers it. A node that
    /// finds no leader is no reason to give up: the next one may be on the other side of the cut.
    ///
    /// # Errors
    /// Nobody reachable, or nobody with a quorum (4); sent, and nobody can say whether it happened (5).
    pub fn exchange(&self, request: &Request) -> Result<Raw, Fault> {
        let (mut failures, mut declined, mut lost) = (Vec::new(), None, None);
        for (i, endpoint) in self.order() {
            match self.attempt_raw(endpoint, request) {
                Ok(raw) if raw.status == 503 => declined = Some(raw.fault()),
                Ok(raw) if raw.status == 504 => lost = Some(raw.fault()),
                Ok(raw) => {
                    self.good.set(i);
                    return Ok(raw);
                }
                Err(Attempt::Lost(why)) if request.method != "GET" => {
                    let message =
                        format!("{endpoint} took the request and gave no answer ({why}): it may have happened");
                    lost = Some(Fault::new(
                        code::UNKNOWN,
                        message,
                        "look before you try again: phalanx status; phalanx events",
                    ));
                }
                Err(Attempt::NotSent(why) | Attempt::Lost(why)) => failures.push((endpoint.clone(), why)),
                Err(Attempt::Answered(..)) => unreachable!("an answer is no error"),
            }
        }
        Err(lost.or(declined).unwrap_or_else(|| unreachable(&failures)))
    }

    fn attempt_raw(&self, endpoint: &str, request: &Request) -> Result<Raw, Attempt> {
        let uri = format!("http://{endpoint}{}", request.path);
        let mut builder = ureq::http::Request::builder().method(request.method).uri(uri);
        if request.method == "POST" {
            builder = builder.header("Content-Type", request.media.unwrap_or("application/json"));
        }
        if let Some(key) = &request.key {
            builder = builder.header("Idempotency-Key", key);
        }
        let unsendable = |e: ureq::http::Error| Attempt::NotSent(e.to_string());
        let within = Some(if request.method == "GET" { self.question_timeout } else { self.change_timeout });
        let sent = match &request.body {
            Some(body) => {
                let request = builder.body(body.as_slice()).map_err(unsendable)?;
                self.agent.run(self.agent.configure_request(request).timeout_global(within).build())
            }
            None => {
                let request = builder.body(()).map_err(unsendable)?;
                self.agent.run(self.agent.configure_request(request).timeout_global(within).build())
            }
        };
        let mut response = match sent {
            Ok(response) => response,
            Err(e) if is_before_sending(&e) => return Err(Attempt::NotSent(why(&e))),
            Err(e) => return Err(Attempt::Lost(why(&e))),
        };
        let number = |name: &str| response.headers().get(name)?.to_str().ok()?.parse().ok();
        let (key_index, ttl_ms) = (number("x-phalanx-key-index"), number("x-phalanx-key-ttl-ms"));
        let body = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
        let body = body.map_err(|e| Attempt::Lost(why(&e)))?;
        Ok(Raw { status: response.status().as_u16(), key_index, ttl_ms, body, from: endpoint.to_string() })
    }

    /// The addresses in the order in which they would be asked now.
    fn order(&self) -> impl Iterator<Item = (usize, &String)> {
        let n = self.endpoints.len();
        (0..n).map(move |i| (i + self.good.get()) % n).map(|i| (i, &self.endpoints[i]))
    }

    /// Opens a stream of lines at the first node that has it; a read that brings nothing returns after `read_timeout`.
    ///
    /// # Errors
    /// Nobody reachable, or nobody with a leader (4); no such thing (1).
    pub fn lines(&self, path: &str, read_timeout: Duration) -> Result<Lines, Fault> {
        let mut failures = Vec::new();
        let mut declined = None;
        for (i, endpoint) in self.order() {
            // A node may wait for a leader before its first word.
            match Lines::get(endpoint, path, self.change_timeout, read_timeout) {
                Ok((200, lines)) => {
                    self.good.set(i);
                    return Ok(lines);
                }
                Ok((status @ 500.., _)) => declined = Some(decline(endpoint, status, "")),
                Ok((404, _)) => {
                    let next = "phalanx job list shows the jobs; results are kept for jobs_keep_ms";
                    return Err(Fault::new(code::FAILED, format!("{endpoint}: there is no such job"), next));
                }
                Ok((status, _)) => return Err(decline(endpoint, status, "")),
                Err(e) => failures.push((endpoint.clone(), e.to_string())),
            }
        }
        Err(declined.unwrap_or_else(|| unreachable(&failures)))
    }

    /// The node that answered last has broken off: the next one is asked first from now on.
    pub fn turn_to_next(&self) {
        self.good.set((self.good.get() + 1) % self.endpoints.len().max(1));
    }

    /// Asks until one node gives a proper answer.
    ///
    /// # Errors
    /// Nobody reachable (4), or what the last node that did answer said.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Answer<T>, Fault> {
        let mut failures = Vec::new();
        let mut declined = None;
        for (i, endpoint) in self.order() {
            match attempt(self.agent.get(format!("http://{endpoint}{path}")).call()) {
                Attempt::Answered(200, body) => match serde_json::from_str(&body) {
                    Ok(value) => {
                        self.good.set(i);
                        return Ok(Answer { value, from: endpoint.clone() });
                    }
                    Err(e) => failures.push((endpoint.clone(), format!("not an answer of a node: {e}"))),
                },
                Attempt::Answered(status, body) => declined = Some(decline(endpoint, status, &body)),
                Attempt::NotSent(why) | Attempt::Lost(why) => failures.push((endpoint.clone(), why)),
            }
        }
        Err(declined.unwrap_or_else(|| unreachable(&failures)))
    }

    /// Asks for a change, at most once as far as anyone can tell.
    ///
    /// # Errors
    /// Nobody reachable or no quorum (4), declined (1), or sent and never answered (5).
    pub fn change<T: DeserializeOwned>(&self, method: Method, path: &str, body: &Value) -> Result<Answer<T>, Fault> {
        let mut failures = Vec::new();
        for (i, endpoint) in self.order() {
            let url = format!("http://{endpoint}{path}");
            let within = Some(self.change_timeout);
            let sent = match method {
                Method::Post => {
                    let request = self.agent.post(&url).config().timeout_global(within).build();
                    request.header("Content-Type", "application/json").send(body.to_string().as_str())
                }
                Method::Delete => {
                    let request = self.agent.delete(&url).config().timeout_global(within).build();
                    request.header("Content-Type", "application/json").call()
                }
            };
            match attempt(sent) {
                Attempt::Answered(status @ 200..=299, text) => {
                    self.good.set(i);
                    let text = if text.trim().is_empty() { "null" } else { &text };
                    let value = serde_json::from_str(text).map_err(|e| {
                        let message =
                            format!("{endpoint} answered {status} with something else than a node would: {e}");
                        Fault::new(code::UNKNOWN, message, "see what happened with: phalanx status; phalanx events")
                    })?;
                    return Ok(Answer { value, from: endpoint.clone() });
                }
                Attempt::Answered(status, text) => return Err(decline(endpoint, status, &text)),
                Attempt::NotSent(why) => failures.push((endpoint.clone(), why)),
                Attempt::Lost(why) => {
                    let message =
                        format!("{endpoint} took the request and gave no answer ({why}): it may have happened");
                    let next = "look before you try again: phalanx status; phalanx events";
                    return Err(Fault::new(code::UNKNOWN, message, next));
                }
            }
        }
        Err(unreachable(&failures))
    }
}

/// Sorts an attempt's result by what it proves.
fn attempt(result: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Attempt {
    match result {
        Ok(mut response) => {
            let status = response.status().as_u16();
            match response.body_mut().read_to_string() {
                Ok(body) => Attempt::Answered(status, body),
                Err(e) => Attempt::Lost(why(&e)),
            }
        }
        Err(e) if is_before_sending(&e) => Attempt::NotSent(why(&e)),
        Err(e) => Attempt::Lost(why(&e)),
    }
}

fn is_before_sending(e: &ureq::Error) -> bool {
    match e {
        ureq::Error::Io(io) => io.kind() == io::ErrorKind::ConnectionRefused,
        ureq::Error::Timeout(t) => matches!(t, ureq::Timeout::Resolve | ureq::Timeout::Connect),
        ureq::Error::HostNotFound | ureq::Error::ConnectionFailed | ureq::Error::BadUri(_) => true,
        _ => false,
    }
}

fn why(e: &ureq::Error) -> String {
    match e {
        ureq::Error::Io(io) if io.kind() == io::ErrorKind::ConnectionRefused => "connection refused".into(),
        ureq::Error::Timeout(_) => "no answer in time".into(),
        other => other.to_string(),
    }
}

/// Turns a node's error body into a fault with the exit code that its status means.
fn decline(endpoint: &str, status: u16, body: &str) -> Fault {
    let declined: Declined = serde_json::from_str(body).unwrap_or_default();
    let said = if declined.error.is_empty() { format!("HTTP status {status}") } else { declined.error };
    let message = format!("{endpoint}: {said}");
    match (status, declined.outcome.as_deref()) {
        (504, _) | (_, Some("unknown")) => {
            Fault::new(code::UNKNOWN, message, "it may have happened: look with phalanx status; phalanx events")
        }
        (503, _) => {
            Fault::new(code::UNREACHABLE, message, "phalanx status says what is missing; try again when it is healthy")
        }
        (404 | 405, _) => Fault::new(code::FAILED, message, "is this a node of the same version? see phalanx status"),
        _ => Fault::new(code::FAILED, message, "nothing was changed; phalanx status shows how things are"),
    }
}

/// Nobody answered: says so once per reason, not once per address.
fn unreachable(failures: &[(String, String)]) -> Fault {
    let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
    for (endpoint, reason) in failures {
        match reasons.iter_mut().find(|(r, _)| r == reason) {
            Some((_, at)) => at.push(endpoint),
            None => reasons.push((reason, vec![endpoint])),
        }
    }
    let said: Vec<String> = reasons.iter().map(|(reason, at)| format!("{reason} at {}", at.join(", "))).collect();
    Fault::new(code::UNREACHABLE, format!("no node answered: {}", said.join("; ")), NOBODY_NEXT)
}

/// The settings in force, or all that is wrong with them.
pub fn settings(file: Option<&Path>) -> Result<Settings, Fault> {
    match Settings::from_process(file, &[]) {
        Ok((settings, _)) => Ok(settings),
        Err(faults) => {
            let all: Vec<String> = faults.iter().map(ToString::to_string).collect();
            Err(Fault::new(code::USAGE, all.join("\n       "), "phalanx config validate lists every key and its range"))
        }
    }
}

/// Takes `host:port`, `http://host:port` or `http://host:port/`.
fn endpoint(text: &str) -> Result<String, Fault> {
    let bare = text.trim().trim_start_matches("http://").trim_end_matches('/');
    let port = bare.rsplit_once(':').map(|(host, port)| (host.is_empty(), port.parse::<u16>()));
    match port {
        Some((false, Ok(1..))) if !bare.contains(['/', '@', ' ']) => Ok(bare.to_string()),
        _ => Err(Fault::new(code::USAGE, format!("{text:?} is not host:port"), "for example -e 127.0.0.1:6701")),
    }
}

/// What `config.json` names, those that it calls online first; else the first local ports.
fn find_endpoints(settings: &Settings) -> Vec<String> {
    let named = std::fs::read_to_string(&settings.config_file_path).map(|text| named_in(&text)).unwrap_or_default();
    if !named.is_empty() {
        return named;
    }
    (1..=LOCAL_NODES_TRIED).map(|id| settings.addresses(NodeId(id)).http).collect()
}

fn named_in(config_json: &str) -> Vec<String> {
    let value: Value = serde_json::from_str(config_json).unwrap_or_default();
    let rows = value["nodes"].as_object().map(|nodes| nodes.values().collect::<Vec<_>>()).unwrap_or_default();
    let mut named: Vec<(bool, String)> = Vec::new();
    for row in rows {
        if let (Some(ip), Some(port)) = (row["ip"].as_str(), row["service_port"].as_u64()) {
            let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_string() };
            named.push((row["status"] == "OFFLINE", format!("{host}:{port}")));
        }
    }
    named.sort_by_key(|(is_offline, _)| *is_offline);
    named.into_iter().map(|(_, endpoint)| endpoint).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_host_and_port() {
        for good in ["127.0.0.1:6701", "http://127.0.0.1:6701/", " 127.0.0.1:6701 "] {
            assert_eq!(endpoint(good).unwrap(), "127.0.0.1:6701");
        }
        assert_eq!(endpoint("[::1]:6701").unwrap(), "[::1]:6701");
        for bad in ["", "127.0.0.1", ":6701", "a:0", "a:70000", "a:1/x", "https://a:1"] {
            assert_eq!(endpoint(bad).unwrap_err().code, code::USAGE, "{bad}");
        }
    }

    #[test]
    fn config_json_names_online_nodes_first() {
        let text = r#"{"nodes":{"node_1":{"ip":"127.0.0.1","service_port":6701,"status":"OFFLINE"},
            "node_2":{"ip":"127.0.0.1","service_port":6702,"status":"LEADER"}}}"#;
        assert_eq!(named_in(text), ["127.0.0.1:6702", "127.0.0.1:6701"]);
        assert!(named_in("{torn").is_empty());
    }

    #[test]
    fn nobody_answering_is_exit_code_4_and_says_where() {
        // Port 1 on loopback is reserved and nothing listens there.
        let client = Client::to(vec!["127.0.0.1:1".into()], Duration::from_secs(1));
        let fault = client.get::<Value>("/v1/status").unwrap_err();
        assert_eq!(fault.code, code::UNREACHABLE);
        assert!(fault.message.contains("connection refused at 127.0.0.1:1"), "{fault}");
        let fault = client.change::<Value>(Method::Post, "/v1/leader/transfer", &Value::Null).unwrap_err();
        assert_eq!(fault.code, code::UNREACHABLE, "never sent, hence not unknown: {fault}");
    }

    #[test]
    fn a_nodes_refusal_keeps_its_meaning() {
        let codes = |status, body| decline("a:1", status, body).code;
        assert_eq!(codes(503, r#"{"error":"no quorum","outcome":"refused"}"#), code::UNREACHABLE);
        assert_eq!(codes(504, r#"{"error":"late","outcome":"unknown"}"#), code::UNKNOWN);
        assert_eq!(codes(409, r#"{"error":"another change is under way","outcome":"refused"}"#), code::FAILED);
        assert_eq!(codes(500, "gibberish"), code::FAILED);
    }
}
