//! One operation at one endpoint of one node, and what its answer means: done, certainly not done, or unknown.
//!
//! A connection stays for the next operation as long as it works, and nothing is sent twice: what becomes of a request
//! whose connection breaks is for the judge to find out.
//! Not here: which operations (`clients.rs`).

use super::super::web::Connection;
use super::super::{Cluster, LabError, Result};
use crate::address;
use crate::check::Action;
use crate::text::percent_encode;
use serde_json::{Value, json};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Longer than a node takes to answer, whatever happens (`request_timeout_ms`).
const ANSWER_WITHIN: Duration = Duration::from_secs(8);
const CONNECT_WITHIN: Duration = Duration::from_millis(500);
/// The largest reply of the Redis protocol that these clients expect.
const REPLY_BYTES_MAX: u64 = 1 << 20;

/// The endpoints of a cluster.
#[derive(Clone, Debug)]
pub struct Target {
    pub http: Vec<String>,
    pub redis: Vec<String>,
    pub is_eventual: bool,
}

impl Target {
    pub fn of(cluster: &Cluster, nodes: u64, is_eventual: bool) -> Target {
        let all = |address: &dyn Fn(u64) -> String| (1..=nodes).map(address).collect();
        Target { http: all(&|id| cluster.http(id)), redis: all(&|id| cluster.kv(id)), is_eventual }
    }
}

/// How a client speaks to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Door {
    Http,
    Redis,
    Sql,
}

impl Door {
    pub const ALL: [Door; 3] = [Door::Http, Door::Redis, Door::Sql];

    pub fn name(self) -> &'static str {
        match self {
            Door::Http => "HTTP",
            Door::Redis => "Redis",
            Door::Sql => "SQL",
        }
    }
}

/// What is asked.
#[derive(Clone, Debug)]
pub enum Ask {
    Read,
    Write(String),
    /// Not over SQL.
    Add(i64),
}

#[derive(Clone, Debug)]
pub enum Outcome {
    Done(Action),
    /// Certainly without effect, or a read without an answer.
    Refused,
    /// It may have happened, and may still happen.
    Unknown(Action),
}

impl Ask {
    fn unknown(&self) -> Outcome {
        match self {
            Ask::Read => Outcome::Refused,
            Ask::Write(value) => Outcome::Unknown(Action::Write(value.clone())),
            Ask::Add(by) => Outcome::Unknown(Action::Add { by: *by, sum: None }),
        }
    }
}

/// Makes the table that SQL clients use.
///
/// # Errors
/// No node does it in time.
pub fn prepare(target: &Target) -> Result<()> {
    let body = json!([["CREATE TABLE IF NOT EXISTS chaos(key TEXT PRIMARY KEY, value TEXT)"]]);
    super::super::wait_until("the table of the SQL clients is there", Duration::from_secs(20), || {
        let mut connection = Connection::open(&target.http[0], CONNECT_WITHIN).ok()?;
        let answer = connection.ask("POST", "/db/execute", Some(&body), Instant::now() + ANSWER_WITHIN).ok()?;
        (answer.status == 200).then_some(())
    })
    .map_err(|e| LabError::Answer(e.to_string()))
}

/// A connection to one node at a time.
pub struct Endpoint {
    door: Door,
    target: Target,
    http: Option<Connection>,
    redis: Option<BufReader<TcpStream>>,
}

impl Endpoint {
    pub fn new(door: Door, target: Target) -> Endpoint {
        Endpoint { door, target, http: None, redis: None }
    }

    pub fn door(&self) -> Door {
        self.door
    }

    pub fn is_open(&self) -> bool {
        self.http.is_some() || self.redis.is_some()
    }

    /// Continues with the node at this place.
    pub fn connect(&mut self, place: usize) -> io::Result<()> {
        self.close();
        match self.door {
            Door::Http | Door::Sql => self.http = Some(Connection::open(&self.target.http[place], CONNECT_WITHIN)?),
            Door::Redis => {
                let stream = address::connect(&self.target.redis[place], CONNECT_WITHIN)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(ANSWER_WITHIN))?;
                self.redis = Some(BufReader::new(stream));
                if self.target.is_eventual {
                    self.reply(&["CONSISTENCY", "eventual"])?;
                }
            }
        }
        Ok(())
    }

    pub fn close(&mut self) {
        (self.http, self.redis) = (None, None);
    }

    /// Sends an operation over the open connection, and waits for its answer.
    pub fn operate(&mut self, key: &str, ask: &Ask) -> Outcome {
        let outcome = match self.door {
            Door::Http => self.over_http(key, ask),
            Door::Redis => self.over_redis(key, ask),
            Door::Sql => self.over_sql(key, ask),
        };
        outcome.unwrap_or_else(|_| {
            self.close();
            ask.unknown()
        })
    }

    fn over_http(&mut self, key: &str, ask: &Ask) -> io::Result<Outcome> {
        let path = format!("/v1/kv/{}", percent_encode(key.as_bytes()));
        let level = if self.target.is_eventual { "?level=eventual" } else { "" };
        let (method, path, body) = match ask {
            Ask::Read => ("GET", format!("{path}{level}"), None),
            Ask::Write(value) => ("PUT", format!("{path}{level}"), Some(json!(value))),
            // An addition is answered with its sum, so it waits for its commit in any case.
            Ask::Add(by) => ("POST", path, Some(json!({ "incr": by }))),
        };
        let (status, answer, text) = self.request(method, &path, body.as_ref())?;
        Ok(match (ask, status) {
            // The body of a PUT is the value as it stands, here a JSON string.
            (Ask::Read, 200) => Outcome::Done(Action::Read(Some(unquoted(&text)))),
            (Ask::Read, 404) => Outcome::Done(Action::Read(None)),
            (Ask::Write(value), 200 | 202) => Outcome::Done(Action::Write(value.clone())),
            (Ask::Add(by), 200) => Outcome::Done(Action::Add { by: *by, sum: answer["value"].as_i64() }),
            _ if answer["outcome"] == "refused" => Outcome::Refused,
            _ => ask.unknown(),
        })
    }

    fn over_sql(&mut self, key: &str, ask: &Ask) -> io::Result<Outcome> {
        const UPSERT: &str = "INSERT INTO chaos VALUES(?, ?) ON CONFLICT(key) DO UPDATE SET value = excluded.value";
        let level = if self.target.is_eventual { "none" } else { "linearizable" };
        let (path, statement) = match ask {
            Ask::Write(value) => ("/db/execute".to_string(), json!([UPSERT, key, value])),
            _ => (format!("/db/query?level={level}"), json!(["SELECT value FROM chaos WHERE key = ?", key])),
        };
        let (status, answer, _) = self.request("POST", &path, Some(&json!([statement])))?;
        let result = &answer["results"][0];
        let is_done = status == 200 && result["error"].is_null() && answer["error"].is_null();
        Ok(match ask {
            Ask::Write(value) if is_done => Outcome::Done(Action::Write(value.clone())),
            Ask::Read if is_done => Outcome::Done(Action::Read(result["values"][0][0].as_str().map(str::to_string))),
            _ if answer["outcome"] == "refused" => Outcome::Refused,
            _ => ask.unknown(),
        })
    }

    fn request(&mut self, method: &str, path: &str, body: Option<&Value>) -> io::Result<(u16, Value, String)> {
        let connection = self.http.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let answer = connection.ask(method, path, body, Instant::now() + ANSWER_WITHIN)?;
        if answer.header("connection").is_some_and(|it| it.eq_ignore_ascii_case("close")) {
            self.http = None;
        }
        Ok((answer.status, answer.json(), answer.text()))
    }

    fn over_redis(&mut self, key: &str, ask: &Ask) -> io::Result<Outcome> {
        let by;
        let words = match ask {
            Ask::Read => vec!["GET", key],
            Ask::Write(value) => vec!["SET", key, value],
            Ask::Add(amount) => {
                by = amount.to_string();
                vec!["INCRBY", key, &by]
            }
        };
        Ok(match (ask, self.reply(&words)?) {
            (Ask::Read, Reply::Text(value)) => Outcome::Done(Action::Read(value)),
            (Ask::Write(value), Reply::Text(_)) => Outcome::Done(Action::Write(value.clone())),
            (Ask::Add(by), Reply::Number(sum)) => Outcome::Done(Action::Add { by: *by, sum: Some(sum) }),
            (_, Reply::Error(why)) if !why.starts_with("UNKNOWN") => Outcome::Refused,
            _ => ask.unknown(),
        })
    }

    fn reply(&mut self, words: &[&str]) -> io::Result<Reply> {
        let reader = self.redis.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request += &format!("${}\r\n{word}\r\n", word.len());
        }
        reader.get_mut().write_all(request.as_bytes())?;
        Reply::read(reader)
    }
}

/// What was put as JSON text.
fn unquoted(text: &str) -> String {
    serde_json::from_str::<String>(text).unwrap_or_else(|_| text.to_string())
}

/// A reply of the Redis protocol, as far as these clients get one.
enum Reply {
    /// A simple or a bulk string; `None`: null.
    Text(Option<String>),
    Number(i64),
    Error(String),
}

impl Reply {
    fn read(from: &mut BufReader<TcpStream>) -> io::Result<Reply> {
        let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("a reply with {what}"));
        let mut line = String::new();
        from.by_ref().take(REPLY_BYTES_MAX).read_line(&mut line)?;
        let line = line.strip_suffix("\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
        let (kind, rest) = line.split_at_checked(1).ok_or_else(|| bad("an empty line"))?;
        match kind {
            "+" => Ok(Reply::Text(Some(rest.to_string()))),
            "-" => Ok(Reply::Error(rest.to_string())),
            ":" => rest.parse().map(Reply::Number).map_err(|_| bad("no number")),
            "_" => Ok(Reply::Text(None)),
            "$" if rest == "-1" => Ok(Reply::Text(None)),
            "$" => {
                let count = rest.parse::<u64>().ok().filter(|count| *count <= REPLY_BYTES_MAX);
                let mut bytes = vec![0; count.ok_or_else(|| bad("a wrong length"))? as usize + 2];
                from.read_exact(&mut bytes)?;
                bytes.truncate(bytes.len() - 2);
                String::from_utf8(bytes).map(|text| Reply::Text(Some(text))).map_err(|_| bad("bytes that are no text"))
            }
            _ => Err(bad("an unexpected type")),
        }
    }
}
