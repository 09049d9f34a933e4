//! Queries running nodes over HTTP for the commands: every node is asked once, every wait is bounded and short, every
//! failure is explained and ends with its exit code.
//!
//! A query (`get`) goes to the next node whenever one does not answer. A change (`change`) goes to the next node only
//! while it is certain that no node has applied it; if it may have been applied, the exit code is 5. A change with a
//! key (`exchange`) takes effect once, so it goes to the next node in any case. A node holds a change for as long as
//! `request_timeout_ms` before it refuses it; so the client waits longer than that for a change, else it would report a
//! refusal as an unknown outcome.
//! Not here: the loop over the nodes (`client.rs`), the form of the responses (`node/views/status.rs`), printing
//! (`cli/cluster/status.rs` and its neighbours).

use crate::address;
use crate::cli::fault::{Fault, code};
use crate::client;
use crate::http::protocol::lines::Lines;
use crate::outcome::codes::exit_of;
use crate::settings::{self, Settings};
use crate::text::basic_credentials;
use crate::types::NodeId;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::cell::RefCell;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

pub use crate::client::Request;

/// How many local ports are tried when no address is known.
const LOCAL_NODES_TRIED: u64 = 9;
/// A node answers a query from its own state: one that has not answered by then is frozen, and the next one is asked.
const QUERY_TIMEOUT: Duration = Duration::from_secs(3);
/// A node answers a change at the latest just after `request_timeout_ms`; the response arrives within this time.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Advice when no node answers.
const UNREACHABLE_NEXT: &str =
    "start a cluster with ./run.sh (or phalanx dev), or name a running node with -e HOST:PORT";

/// A client of one cluster.
#[derive(Clone)]
pub struct ClusterClient {
    asks: RefCell<client::Client>,
    /// Longest wait for the response to a change.
    change_timeout: Duration,
    /// Longest wait for the response to a query.
    query_timeout: Duration,
}

/// A decoded response and the node that sent it.
#[derive(Debug)]
pub struct Answer<T> {
    /// The decoded body.
    pub value: T,
    /// `host:port` of the node that answered.
    pub from: String,
}

/// A response, regardless of its status.
#[derive(Clone, Debug, Default)]
pub struct RawResponse {
    pub status: u16,
    /// `X-Phalanx-Key-Index`.
    pub key_index: Option<u64>,
    /// `X-Phalanx-Key-Ttl-Ms`.
    pub ttl_ms: Option<u64>,
    pub body: Vec<u8>,
    /// `host:port` of the node that answered.
    pub from: String,
}

impl RawResponse {
    /// The body as JSON; `null` if it is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The reason that a node gives.
    pub fn reason(&self) -> String {
        self.json()["error"].as_str().unwrap_or("no reason given").to_string()
    }

    /// The refusal of a node as an error.
    pub fn fault(&self) -> Fault {
        let said = self.json()["error"].as_str().map_or(format!("HTTP status {}", self.status), str::to_string);
        declined(&self.from, self.status, &said)
    }
}

/// The nodes that the arguments name, or else those found by [`find_endpoints`].
///
/// # Errors
/// Invalid settings, or a malformed address.
pub fn endpoints(args: &ClientArgs) -> Result<Vec<String>, Fault> {
    endpoints_in(args, &settings_of(args)?)
}

/// The password that the cluster requires, from the settings of the arguments.
///
/// # Errors
/// Invalid settings.
pub fn password(args: &ClientArgs) -> Result<Option<String>, Fault> {
    Ok(settings_of(args)?.client_password)
}

fn settings_of(args: &ClientArgs) -> Result<Settings, Fault> {
    match settings(args.settings.as_deref()) {
        // With --endpoints, the settings file of the current folder is not needed and its faults do not matter. The
        // password of the environment does.
        Err(_) if !args.endpoints.is_empty() && args.settings.is_none() => {
            let client_password = std::env::var("PHALANX_CLIENT_PASSWORD").ok().filter(|text| !text.is_empty());
            Ok(Settings { client_password, ..Settings::default() })
        }
        settings => settings,
    }
}

fn endpoints_in(args: &ClientArgs, settings: &Settings) -> Result<Vec<String>, Fault> {
    if args.endpoints.is_empty() {
        return Ok(find_endpoints(settings));
    }
    args.endpoints.iter().map(|e| endpoint(e)).collect()
}

impl ClusterClient {
    /// A client for the addresses that the arguments name, or else those found by [`find_endpoints`].
    ///
    /// # Errors
    /// Invalid settings, or a malformed address.
    pub fn new(args: &ClientArgs) -> Result<ClusterClient, Fault> {
        let settings = settings_of(args)?;
        let endpoints = endpoints_in(args, &settings)?;
        if let Some(seconds) = args.timeout {
            if !(0.001..=3600.0).contains(&seconds) {
                let message = format!("--timeout {seconds}: out of range");
                return Err(Fault::new(code::USAGE, message, "give 0.001 to 3600 seconds"));
            }
            let client = ClusterClient::to(endpoints, Duration::from_secs_f64(seconds));
            return Ok(client.with_password(settings.client_password));
        }
        let change_timeout = Duration::from_millis(settings.request_timeout_ms) + ANSWER_TIMEOUT;
        let client = ClusterClient { change_timeout, ..ClusterClient::to(endpoints, QUERY_TIMEOUT) };
        Ok(client.with_password(settings.client_password))
    }

    /// Presents this password to the nodes.
    pub fn with_password(self, password: Option<String>) -> ClusterClient {
        self.asks.borrow_mut().password = password;
        self
    }

    /// The password that it presents.
    pub fn password(&self) -> Option<String> {
        self.asks.borrow().password.clone()
    }

    /// A client of these addresses, each `host:port`.
    pub fn to(endpoints: Vec<String>, timeout: Duration) -> ClusterClient {
        let mut asks = client::Client::new(endpoints);
        asks.within = None;
        ClusterClient { asks: RefCell::new(asks), change_timeout: timeout, query_timeout: timeout }
    }

    /// A client of the same addresses that waits up to this long for every response.
    pub fn waiting(&self, timeout: Duration) -> ClusterClient {
        ClusterClient { change_timeout: timeout, query_timeout: timeout, ..self.clone() }
    }

    /// The addresses that it tries.
    pub fn endpoints(&self) -> Vec<String> {
        self.asks.borrow().addresses().to_vec()
    }

    /// Continues with the node that `other`, a clone of this client, uses now.
    pub fn follow(&self, other: &ClusterClient) {
        self.asks.replace(other.asks.borrow().clone());
    }

    /// A client of this address alone, with the same timeouts.
    pub fn only(&self, endpoint: &str) -> ClusterClient {
        let only = ClusterClient::to(vec![endpoint.to_string()], self.query_timeout).with_password(self.password());
        ClusterClient { change_timeout: self.change_timeout, ..only }
    }

    /// Asks for the addresses of all other nodes, so that the client can continue when the nodes it was given have
    /// failed. If no node answers, the known addresses stay.
    pub fn learn(&self) {
        let mut asks = self.asks.borrow_mut();
        asks.patience = self.query_timeout.min(QUERY_TIMEOUT);
        let _ = asks.learn();
    }

    /// Sends a request until a node answers it, regardless of the status.
    ///
    /// # Errors
    /// No node reachable, or none with a quorum (4); sent, with an unknown outcome (5).
    pub fn exchange(&self, request: &Request) -> Result<RawResponse, Fault> {
        let mut asks = self.asks.borrow_mut();
        asks.patience = if request.method == "GET" { self.query_timeout } else { self.change_timeout };
        let response = asks.answer(request).map_err(fault)?;
        let number = |name: &str| response.header(name)?.parse().ok();
        let (key_index, ttl_ms) = (number("x-phalanx-key-index"), number("x-phalanx-key-ttl-ms"));
        let from = asks.address().to_string();
        Ok(RawResponse { status: response.status, key_index, ttl_ms, body: response.body, from })
    }

    /// Opens a stream of lines at the first node that offers it; a read without data returns after `read_timeout`.
    ///
    /// # Errors
    /// No node reachable, or none with a leader (4); not found (1).
    pub fn lines(&self, path: &str, read_timeout: Duration) -> Result<Lines, Fault> {
        let mut failures = client::Failures::default();
        let mut refusal = None;
        let mut asks = self.asks.borrow_mut();
        for _ in 0..asks.addresses().len() {
            let endpoint = asks.address().to_string();
            // A node may wait for a leader before it answers.
            let authorization = asks.password.as_deref().map(basic_credentials);
            match Lines::get(&endpoint, path, authorization.as_deref(), self.change_timeout, read_timeout) {
                Ok((200, lines)) => return Ok(lines),
                Ok((status @ 500.., _)) => {
                    refusal = Some(declined(&endpoint, status, &format!("HTTP status {status}")));
                }
                Ok((404, _)) => {
                    let next = "phalanx job list shows the jobs; results are kept for jobs_keep_ms";
                    return Err(Fault::new(code::FAILED, format!("{endpoint}: no such job"), next));
                }
                Ok((status, _)) => return Err(declined(&endpoint, status, &format!("HTTP status {status}"))),
                Err(e) => failures.add(&endpoint, client::describe_io_error(&e)),
            }
            asks.go_on();
        }
        Err(refusal.unwrap_or_else(|| fault(client::ClientError::Unreachable(failures.text()))))
    }

    /// Switches to the next node, because the connection to the current one broke.
    pub fn turn_to_next(&self) {
        self.asks.borrow_mut().go_on();
    }

    /// Queries one node after another until one returns a valid response.
    ///
    /// # Errors
    /// No node reachable (4), or the refusal of the last node that answered.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Answer<T>, Fault> {
        self.decoded(&Request::get(path), code::UNREACHABLE)
    }

    /// Sends a change at most once: never again after it may have been applied.
    ///
    /// # Errors
    /// No node reachable or no quorum (4), refused (1), or sent and never answered (5).
    pub fn change<T: DeserializeOwned>(
        &self,
        method: &'static str,
        path: &str,
        body: &Value,
    ) -> Result<Answer<T>, Fault> {
        let body = (!body.is_null()).then(|| body.to_string().into_bytes());
        self.decoded(&Request::once(method, path, body).at_most_once(), code::UNKNOWN)
    }

    /// `unexpected`: the exit code for a body that is not of type `T`.
    fn decoded<T: DeserializeOwned>(&self, request: &Request, unexpected: u8) -> Result<Answer<T>, Fault> {
        let raw = self.exchange(request)?;
        if !(200..=299).contains(&raw.status) {
            return Err(raw.fault());
        }
        let body: &[u8] = if raw.body.trim_ascii().is_empty() { b"null" } else { &raw.body };
        let value = serde_json::from_slice(body).map_err(|e| {
            let message = format!("{} answered {} with an unexpected body: {e}", raw.from, raw.status);
            Fault::new(
                unexpected,
                message,
                "check that the node has the same version; phalanx status and phalanx events show the current state",
            )
        })?;
        Ok(Answer { value, from: raw.from })
    }
}

/// Adds exit code and advice to an error of the client.
fn fault(fault: client::ClientError) -> Fault {
    match fault {
        client::ClientError::Refused { status, from, why, .. } => declined(&from, status, &why),
        client::ClientError::Unknown(why) => {
            let next = "check with phalanx status and phalanx events before you try again";
            Fault::new(code::UNKNOWN, format!("{why}; the change may or may not be applied"), next)
        }
        fault @ client::ClientError::Unreachable(_) => Fault::new(code::UNREACHABLE, fault, UNREACHABLE_NEXT),
    }
}

/// The refusal of a node as an error.
fn declined(from: &str, status: u16, said: &str) -> Fault {
    let message = format!("{from}: {said}");
    let exit = exit_of(status);
    let next = match (exit, status) {
        (code::UNKNOWN, _) => "the change may or may not be applied: check with phalanx status and phalanx events",
        (code::UNREACHABLE, _) => "phalanx status shows the reason; try again when the cluster is healthy",
        (_, 401) => "set client_password in the settings file or PHALANX_CLIENT_PASSWORD to the cluster's password",
        (_, 404 | 405) => "check that the address is a node of the same version",
        _ => "nothing was changed; phalanx status shows the current state",
    };
    Fault::new(exit, message, next)
}

/// The settings in force, or all errors in them.
pub fn settings(file: Option<&Path>) -> Result<Settings, Fault> {
    Settings::from_process(file, &[]).map(|(settings, _)| settings).map_err(|faults| settings_fault(&faults))
}

/// All errors in the settings, a line each.
pub fn settings_fault(faults: &[settings::SettingsError]) -> Fault {
    let lines: Vec<String> = faults.iter().map(|fault| format!("  {fault}")).collect();
    let count = match faults.len() {
        1 => "1 setting is wrong".to_string(),
        many => format!("{many} settings are wrong"),
    };
    let next = "correct them; `phalanx config show` prints the settings in use";
    Fault::new(code::USAGE, format!("{count}:\n{}", lines.join("\n")), next)
}

/// Accepts `host:port`, `http://host:port` or `http://host:port/`.
fn endpoint(text: &str) -> Result<String, Fault> {
    let bare = text.trim().trim_start_matches("http://").trim_end_matches('/');
    let port = bare.rsplit_once(':').map(|(host, port)| (host.is_empty(), port.parse::<u16>()));
    match port {
        Some((false, Ok(1..))) if !bare.contains(['/', '@', ' ']) => Ok(bare.to_string()),
        _ => Err(Fault::new(
            code::USAGE,
            format!("{text:?} is not host:port"),
            "give an address such as -e 127.0.0.1:6701",
        )),
    }
}

/// The nodes in `config.json`, those that it lists as online first; else the first local ports.
fn find_endpoints(settings: &Settings) -> Vec<String> {
    let named = std::fs::read_to_string(&settings.config_file_path).map(|text| named_in(&text)).unwrap_or_default();
    if !named.is_empty() {
        return named;
    }
    (1..=LOCAL_NODES_TRIED).map(|id| settings.local_addresses(NodeId(id)).http).collect()
}

fn named_in(config_json: &str) -> Vec<String> {
    let value: Value = serde_json::from_str(config_json).unwrap_or_default();
    let rows = value["nodes"].as_object().map(|nodes| nodes.values().collect::<Vec<_>>()).unwrap_or_default();
    let mut named: Vec<(bool, String)> = Vec::new();
    for row in rows {
        if let (Some(ip), Some(port)) = (row["ip"].as_str(), row["service_port"].as_u64()) {
            let port = u16::try_from(port).unwrap_or_default();
            named.push((row["status"] == "OFFLINE", address::join(ip, port)));
        }
    }
    named.sort_by_key(|(is_offline, _)| *is_offline);
    named.into_iter().map(|(_, endpoint)| endpoint).collect()
}

/// How to find the cluster and how to print: the arguments of every subcommand that queries a running node.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ClientArgs {
    /// HTTP addresses of nodes, tried in this order [default: those in config.json, else the local ports]
    #[arg(short, long, global = true, value_delimiter = ',', value_name = "HOST:PORT")]
    pub endpoints: Vec<String>,
    /// Settings file with the path of config.json and the ports [default: settings.json in the current directory, if
    /// there is one]
    #[arg(long, global = true, value_name = "FILE")]
    pub settings: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// Seconds to wait for a node's response [default: 3 for a read, request_timeout_ms + 2 s for a write]
    #[arg(long, global = true, value_name = "SECONDS")]
    pub timeout: Option<f64>,
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
    fn without_an_answer_the_exit_code_is_4_and_names_the_addresses() {
        // Port 1 on loopback is reserved and nothing listens there.
        let client = ClusterClient::to(vec!["127.0.0.1:1".into()], Duration::from_secs(1));
        let fault = client.get::<Value>("/v1/status").unwrap_err();
        assert_eq!(fault.code, code::UNREACHABLE);
        assert!(fault.message.contains("connection refused at 127.0.0.1:1"), "{fault}");
        let fault = client.change::<Value>("POST", "/v1/leader/transfer", &Value::Null).unwrap_err();
        assert_eq!(fault.code, code::UNREACHABLE, "never sent, so it is not unknown: {fault}");
    }

    #[test]
    fn a_nodes_refusal_keeps_its_meaning() {
        let codes = |status, body: &str| {
            let body = body.as_bytes().to_vec();
            RawResponse { status, from: "a:1".to_string(), body, ..RawResponse::default() }.fault().code
        };
        assert_eq!(codes(503, r#"{"error":"no quorum","outcome":"refused"}"#), code::UNREACHABLE);
        assert_eq!(codes(504, r#"{"error":"late","outcome":"unknown"}"#), code::UNKNOWN);
        assert_eq!(codes(409, r#"{"error":"another change is under way","outcome":"refused"}"#), code::FAILED);
        assert_eq!(codes(500, "gibberish"), code::FAILED);
    }
}
