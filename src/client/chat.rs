//! What a chat user can do on any node that answers; and the event stream, which continues on the next node when one
//! fails.
//!
//! All tries to send a message use one client id and one key, so it is delivered once. A [`Follower`] returns each line
//! once: it knows the position of the newest line, reconnects after that position, and drops lines that it already has.
//! Not here: the chat's rules (`docs/chat.md`).

use super::{Client, ClientError, Connection, Request, refused};
use crate::text::percent_encode;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// A stream sends a line at least every two seconds: after so long a silence its node is considered frozen or cut off.
const SILENCE: Duration = Duration::from_secs(5);
/// Pause before the stream is opened on the next node.
const PAUSE: Duration = Duration::from_millis(20);

/// Where a message goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recipient {
    /// A conversation by its number.
    Conversation(u64),
    Person(String),
    Room(String),
}

impl Recipient {
    /// `#room`, `@person` or `person`, or the number of a conversation after a `:`.
    pub fn read(text: &str) -> Recipient {
        match (text.strip_prefix('#'), text.strip_prefix(':').and_then(|id| id.parse().ok())) {
            (Some(room), _) => Recipient::Room(room.to_string()),
            (_, Some(id)) => Recipient::Conversation(id),
            _ => Recipient::Person(text.strip_prefix('@').unwrap_or(text).to_string()),
        }
    }
}

/// A client of the chat, logged in or not.
#[derive(Debug)]
pub struct Chat {
    /// The HTTP client; its `token` is the log-in.
    pub client: Client,
}

impl Chat {
    /// Not logged in yet.
    pub fn new(addresses: Vec<String>) -> Chat {
        Chat { client: Client::new(addresses) }
    }

    /// Makes an account and is logged in.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn sign_up(&mut self, name: &str, password: &str) -> Result<Value, ClientError> {
        let body = json!({"name": name, "password": password});
        let answer = self.client.json(&Request::change("POST", "/v1/chat/accounts", &body))?;
        Ok(self.take_token(answer))
    }

    /// Logs in.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn log_in(&mut self, name: &str, password: &str) -> Result<Value, ClientError> {
        let body = json!({"name": name, "password": password});
        // A session whose token was lost expires.
        let answer = self.client.json(&Request::change("POST", "/v1/chat/login", &body).harmless())?;
        Ok(self.take_token(answer))
    }

    fn take_token(&mut self, answer: Value) -> Value {
        self.client.token = answer["token"].as_str().map(str::to_string);
        answer
    }

    /// Sends a query; `path` is relative to `/v1/chat/`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn get(&mut self, path: &str) -> Result<Value, ClientError> {
        self.client.json(&Request::get(format!("/v1/chat/{path}")))
    }

    /// Sends a change, which is applied once; `path` is relative to `/v1/chat/`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn post(&mut self, path: &str, body: &Value) -> Result<Value, ClientError> {
        self.client.json(&Request::change("POST", format!("/v1/chat/{path}"), body))
    }

    /// Sends a deletion, which is applied once.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn delete(&mut self, path: &str) -> Result<Value, ClientError> {
        self.client.json(&Request::once("DELETE", format!("/v1/chat/{path}"), None))
    }

    /// Sends a message, which is delivered once.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn send(&mut self, to: &Recipient, text: &str) -> Result<Value, ClientError> {
        self.send_as(&Uuid::new_v4().to_string(), to, text)
    }

    /// Like [`Chat::send`], with a client id chosen by the caller: a caller that does not know the outcome of a message
    /// repeats it under the same id.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn send_as(&mut self, client_id: &str, to: &Recipient, text: &str) -> Result<Value, ClientError> {
        let mut body = json!({"text": text, "client_id": client_id});
        match to {
            Recipient::Conversation(id) => body["conversation"] = (*id).into(),
            Recipient::Person(name) => body["with"] = name.as_str().into(),
            Recipient::Room(name) => body["room"] = name.as_str().into(),
        }
        self.post("messages", &body)
    }

    /// The number of a room, by its name.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn room(&mut self, name: &str) -> Result<u64, ClientError> {
        let name = name.strip_prefix('#').unwrap_or(name);
        let found = self.get(&format!("rooms?match={}", literal(name)))?;
        found["rooms"][0]["conversation"].as_u64().ok_or_else(|| self.nothing(format!("no such room: {name}")))
    }

    /// The number of the direct conversation with a person, if there is one; does not create one.
    ///
    /// # Errors
    /// See [`ClientError`]; no account has this name, or there is no conversation with it.
    pub fn direct(&mut self, name: &str) -> Result<u64, ClientError> {
        let found = self.get(&format!("accounts?match={}", literal(name)))?;
        let account = &found["accounts"][0]["account"];
        if account.is_null() {
            return Err(self.nothing(format!("no such account: {name}")));
        }
        let inbox = self.get("conversations")?;
        let with =
            inbox["conversations"].as_array().and_then(|rows| rows.iter().find(|row| row["account"] == *account));
        let id = with.and_then(|row| row["conversation"].as_u64());
        id.ok_or_else(|| self.nothing(format!("no conversation with {name} yet")))
    }

    fn nothing(&self, why: String) -> ClientError {
        ClientError::Refused { status: 404, from: self.client.address().to_string(), why }
    }

    /// Every stored message of a conversation, in order.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn all_of(&mut self, conversation: u64) -> Result<Vec<Value>, ClientError> {
        let mut all: Vec<Value> = Vec::new();
        loop {
            let after = all.last().map_or(0, |last| last["number"].as_u64().unwrap_or(0));
            let page = self.get(&format!("conversations/{conversation}/messages?after={after}&limit=200"))?;
            match page["messages"].as_array() {
                Some(rows) if !rows.is_empty() => all.extend(rows.iter().cloned()),
                _ => return Ok(all),
            }
        }
    }

    /// Follows events after a position, or from now on.
    pub fn follow(&self, after: Option<u64>) -> Follower {
        let token = self.client.token.clone().unwrap_or_default();
        let follower = Follower::new(self.client.addresses().to_vec(), token, after);
        Follower { at: self.client.at, password: self.client.password.clone(), ..follower }
    }
}

/// A glob pattern that matches this name alone, escaped for a query string.
fn literal(name: &str) -> String {
    let mut pattern = String::new();
    for c in name.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '^' | '-' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    percent_encode(pattern.as_bytes())
}

/// The event stream, read from one node after another.
#[derive(Debug)]
pub struct Follower {
    addresses: Vec<String>,
    at: usize,
    token: String,
    /// The setting `client_password` of the cluster.
    pub password: Option<String>,
    position: Option<u64>,
    connection: Option<Connection>,
    heard_at: Instant,
    /// The beginning of a line that has not arrived completely.
    begun: Vec<u8>,
    ready: VecDeque<Value>,
    /// How long a node may take to open the stream.
    pub patience: Duration,
}

impl Follower {
    /// Starts after a position, or at the present one.
    pub fn new(addresses: Vec<String>, token: String, after: Option<u64>) -> Follower {
        Follower {
            addresses,
            at: 0,
            token,
            password: None,
            position: after,
            connection: None,
            heard_at: Instant::now(),
            begun: Vec::new(),
            ready: VecDeque::new(),
            patience: Duration::from_secs(3),
        }
    }

    /// The node that is followed.
    pub fn address(&self) -> &str {
        self.addresses.get(self.at).map_or("", String::as_str)
    }

    /// The next event, each once; `None` at the deadline.
    ///
    /// # Errors [`ClientError::Refused`]: logged out, or the position belongs to another cluster. The failure of a node
    /// is not an error.
    pub fn next(&mut self, deadline: Instant) -> Result<Option<Value>, ClientError> {
        loop {
            while let Some(line) = self.ready.pop_front() {
                let position = line["position"].as_u64();
                if line["type"] == "logged_out" {
                    let why = "this session has ended".to_string();
                    let from = self.address().to_string();
                    return Err(ClientError::Refused { status: 401, from, why });
                }
                let is_known = position.is_none() || (self.position.is_some() && position <= self.position);
                self.position = self.position.max(position);
                if line["type"] != "beat" && !is_known {
                    return Ok(Some(line));
                }
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            if self.connection.is_none() && !self.open(deadline)? {
                self.at = (self.at + 1) % self.addresses.len().max(1);
                std::thread::park_timeout(PAUSE);
                continue;
            }
            self.read(deadline);
        }
    }

    /// Opens the stream on the present node; `false` if that node cannot provide it now.
    fn open(&mut self, deadline: Instant) -> Result<bool, ClientError> {
        let until = (Instant::now() + self.patience).min(deadline.max(Instant::now() + Duration::from_millis(50)));
        let after = self.position.map_or(String::new(), |position| format!("?after={position}"));
        let headers = format!("X-Phalanx-Chat-Token: {}\r\n", self.token);
        let opened = Connection::open(self.address(), self.patience).and_then(|connection| {
            let mut connection = connection.with_password(self.password.as_deref());
            connection.send_bytes("GET", &format!("/v1/chat/stream{after}"), &headers, None)?;
            let head = connection.head(until)?;
            Ok((connection, head))
        });
        match opened {
            Ok((connection, head)) if head.status == 200 => {
                (self.connection, self.heard_at) = (Some(connection), Instant::now());
                self.begun.clear();
                Ok(true)
            }
            // The body holds the reason.
            Ok((mut connection, head)) if (400..500).contains(&head.status) => {
                let length = head.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
                let body = connection.bytes(length, until).unwrap_or_default();
                Err(refused(self.address(), &super::Response { body, ..head }))
            }
            Ok(_) | Err(_) => Ok(false),
        }
    }

    /// Reads until the deadline; leaves the node when the connection ends or stays silent.
    fn read(&mut self, deadline: Instant) {
        let Some(connection) = &mut self.connection else { return };
        let chunk = connection.chunk(deadline.min(self.heard_at + SILENCE));
        match chunk {
            Ok(Some(bytes)) => {
                self.heard_at = Instant::now();
                self.begun.extend_from_slice(&bytes);
                while let Some(end) = self.begun.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = self.begun.drain(..=end).collect();
                    if let Ok(line) = serde_json::from_slice(&line) {
                        self.ready.push_back(line);
                    }
                }
            }
            Err(e) if e.kind() == std::io::ErrorKind::TimedOut && self.heard_at.elapsed() < SILENCE => {}
            // An orderly end, a broken connection, or silence: continue on another node.
            Ok(None) | Err(_) => {
                self.connection = None;
                self.at = (self.at + 1) % self.addresses.len().max(1);
            }
        }
    }
}
