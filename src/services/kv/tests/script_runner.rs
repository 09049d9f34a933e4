//! The language of the scripts: interprets a line as a Redis server would, and prints the reply as redis-cli would.
//!
//! - time: `at MS` sets the log time of the next lines; `wait MS` advances it and applies an entry without commands
//! - as in Redis, with times in milliseconds: `set K V [nx|xx|keepttl|get|px=MS|pxat=MS]`, `get`, `getdel`, `mget`,
//!   `mset`, `append`, `strlen`, `type`, `exists`, `del`, `incrby`, `pexpire K MS [nx|xx|gt|lt]`, `pexpireat`, `pttl`,
//!   `pexpiretime`, `persist`, `getex K [keepttl|px=MS|pxat=MS]`, `getrange`, `setrange`, `msetnx`, `incrbyfloat`,
//!   `rename K NEW [nx]`, `copy K NEW [replace]`, `randomkey DRAW`, `encoding`, `memory-usage`, `expiring`, `keys`,
//!   `scan [after=K] [match=GLOB] [count=N]`, `dbsize`, `flushall`, `multi` … `exec`, `watch`, `unwatch`
//! - our own: `put K V [if=absent|present|revision/N|equals/V] [px=MS]`, `del-if K if=…`, `read K`,
//!   `range PREFIX [after=K] [limit=N]`, `lock-acquire NAME MS`, `lock-renew NAME TOKEN MS`, `lock-release NAME TOKEN`,
//!   `lock-info NAME`
//! - redis-py's scripts: `release-if K TOKEN`, `extend-if K TOKEN MS [replace]`, `reacquire-if K TOKEN MS`
//! - a value `size=N` has N bytes; `snapshot` saves the state and continues with the restored one; `next-expiry`
//!
//! Everything is executed by two stores, one of which is saved and restored before each entry: replies and snapshots
//! must be equal. So each script also tests determinism.

use super::super::{Batch, BatchReply, Bytes, Condition, ExpireIf, Expiry, Op, Store, Value};
use super::{encode, ran, restored, saved, stamp};
use crate::services::Service;
use goldenscript::Command;
use std::error::Error;
use std::fmt::Write as _;

/// One client and its store.
#[derive(Default)]
pub struct Session {
    store: Store,
    twin: Store,
    index: u64,
    at_ms: u64,
    /// Log time of the newest entry.
    entry_ms: u64,
    /// Operations since `multi`.
    queued: Option<Vec<Op>>,
    watched: Vec<(Bytes, u64)>,
}

type Failure = Box<dyn Error>;

impl goldenscript::Runner for Session {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &goldenscript::Context) -> Result<String, Failure> {
        let mut words = Words::of(command);
        let mut out = match command.name.as_str() {
            "at" => {
                self.at_ms = words.number()?;
                String::new()
            }
            "wait" => {
                self.at_ms += words.number::<u64>()?;
                self.entry(None);
                String::new()
            }
            "next-expiry" => format!("{:?}", self.store.next_expiry_ms()),
            "snapshot" => {
                let bytes = saved(&self.store);
                self.store = self.came_by(&bytes);
                assert_eq!(self.store, self.twin);
                format!("{} bytes", bytes.len())
            }
            "watch" => {
                let keys = words.rest();
                let BatchReply::Values(values) = self.execute(Vec::new(), vec![Op::Marks(keys.clone())]) else {
                    return Err("a watch was aborted".into());
                };
                let [Value::List(revisions)] = &values[..] else { return Err("no list of revisions".into()) };
                for (key, revision) in keys.into_iter().zip(revisions) {
                    let Value::Int(revision) = revision else { return Err("no revision".into()) };
                    self.watched.push((key, *revision as u64));
                }
                "OK".to_string()
            }
            "unwatch" => {
                self.watched.clear();
                "OK".to_string()
            }
            "multi" => {
                self.queued = Some(Vec::new());
                "OK".to_string()
            }
            "exec" => {
                let ops = self.queued.take().ok_or("exec without multi")?;
                let watched = std::mem::take(&mut self.watched);
                match self.execute(watched, ops) {
                    BatchReply::Values(values) => show(&Value::List(values), ""),
                    BatchReply::Aborted => show(&Value::Nil, ""),
                }
            }
            name => {
                let op = words.op(name)?;
                if let Some(queued) = &mut self.queued {
                    queued.push(op);
                    "QUEUED".to_string()
                } else {
                    match self.execute(Vec::new(), vec![op]) {
                        BatchReply::Values(values) => show(&values[0], ""),
                        BatchReply::Aborted => return Err("aborted without a watched key".into()),
                    }
                }
            }
        };
        words.end()?;
        if !out.is_empty() && !out.ends_with('\n') {
            out.push('\n');
        }
        Ok(out)
    }
}

impl Session {
    /// Executes operations as a node would: without the log if they only read.
    fn execute(&mut self, watched: Vec<(Bytes, u64)>, ops: Vec<Op>) -> BatchReply {
        let run = Batch { watched, ops };
        if run.needs_log() {
            return self.entry(Some(&run)).expect("a batch has an answer");
        }
        let now = stamp(self.index, self.at_ms);
        let reply = self.store.query(now, &encode(&run));
        assert_eq!(reply, self.twin.query(now, &encode(&run)));
        ran(reply)
    }

    /// Returns a store that was restored from a snapshot.
    fn came_by(&self, snapshot: &[u8]) -> Store {
        let mut store: Store = restored(snapshot);
        store.resume(stamp(self.index, self.entry_ms));
        store
    }

    /// Applies one log entry, as the registry does.
    fn entry(&mut self, run: Option<&Batch>) -> Option<BatchReply> {
        self.index += 1;
        let now = stamp(self.index, self.at_ms);
        self.twin = self.came_by(&saved(&self.twin));
        self.entry_ms = self.at_ms;
        let replies = [&mut self.store, &mut self.twin].map(|store| {
            store.expire(now);
            let reply = run.map(|run| store.apply(now, &encode(run)));
            store.check(now);
            reply
        });
        assert_eq!(replies[0], replies[1], "the same entry, two answers");
        assert_eq!(self.store, self.twin, "the same entry, two states");
        replies.into_iter().next().flatten().map(ran)
    }
}

/// The words of one line.
struct Words {
    places: Vec<String>,
    keys: Vec<(String, String)>,
}

impl Words {
    fn of(command: &Command) -> Words {
        let mut args = command.consume_args();
        let mut words = Words { places: Vec::new(), keys: Vec::new() };
        while let Some((key, value)) = args.next_key() {
            words.keys.push((key.to_string(), value.to_string()));
        }
        words.places = std::iter::from_fn(|| args.next_pos()).map(str::to_string).collect();
        words.places.reverse();
        words
    }

    fn end(&self) -> Result<(), Failure> {
        if self.places.is_empty() && self.keys.is_empty() {
            return Ok(());
        }
        Err(format!("what are {:?} and {:?}?", self.places, self.keys).into())
    }

    fn word(&mut self) -> Result<String, Failure> {
        Ok(self.places.pop().ok_or("a word is missing")?)
    }

    fn number<T: std::str::FromStr<Err = std::num::ParseIntError>>(&mut self) -> Result<T, Failure> {
        Ok(self.word()?.parse()?)
    }

    fn bytes(&mut self) -> Result<Bytes, Failure> {
        if let Some(size) = self.key("size") {
            return Ok(Bytes::from(vec![b'x'; size.parse()?]));
        }
        Ok(Bytes::from(self.word()?.into_bytes()))
    }

    fn rest(&mut self) -> Vec<Bytes> {
        std::iter::from_fn(|| self.places.pop()).map(|word| Bytes::from(word.into_bytes())).collect()
    }

    fn key(&mut self, name: &str) -> Option<String> {
        let at = self.keys.iter().position(|(key, _)| key == name)?;
        Some(self.keys.remove(at).1)
    }

    fn flag(&mut self, name: &str) -> bool {
        let at = self.places.iter().position(|word| word == name);
        at.map(|at| self.places.remove(at)).is_some()
    }

    fn expiry(&mut self) -> Result<Expiry, Failure> {
        Ok(match (self.key("px"), self.key("pxat"), self.flag("keepttl")) {
            (Some(ms), _, _) => Expiry::In(ms.parse()?),
            (_, Some(ms), _) => Expiry::At(ms.parse()?),
            (_, _, true) => Expiry::Keep,
            _ => Expiry::Never,
        })
    }

    fn condition(&mut self) -> Result<Condition, Failure> {
        let text = self.key("if").unwrap_or_else(|| "always".to_string());
        Ok(match text.split_once('/') {
            Some(("revision", number)) => Condition::Revision(number.parse()?),
            Some(("equals", value)) => Condition::Equals(value.as_bytes().to_vec().into()),
            _ if text == "absent" => Condition::Absent,
            _ if text == "present" => Condition::Present,
            _ if text == "always" => Condition::Always,
            _ => return Err(format!("if what? {text}").into()),
        })
    }

    fn expire_if(&mut self) -> ExpireIf {
        match [self.flag("nx"), self.flag("xx"), self.flag("gt"), self.flag("lt")] {
            [true, ..] => ExpireIf::HasNone,
            [_, true, ..] => ExpireIf::HasOne,
            [_, _, true, _] => ExpireIf::Later,
            [_, _, _, true] => ExpireIf::Earlier,
            _ => ExpireIf::Always,
        }
    }

    fn op(&mut self, name: &str) -> Result<Op, Failure> {
        Ok(match name {
            "get" => Op::Get(self.bytes()?),
            "mget" => Op::MGet(self.rest()),
            "read" => Op::Read(self.bytes()?),
            "exists" => Op::Exists(self.rest()),
            "strlen" => Op::StrLen(self.bytes()?),
            "type" => Op::Type(self.bytes()?),
            "revisions" => Op::Revisions(self.rest()),
            "dbsize" => Op::Count,
            "keys" => Op::Keys(self.bytes()?),
            "scan" => Op::Scan {
                after: self.key("after").map(|key| Bytes::from(key.into_bytes())),
                glob: self.key("match").map(|key| Bytes::from(key.into_bytes())),
                count: self.key("count").map_or(Ok(10), |count| count.parse())?,
            },
            "range" => Op::Range {
                prefix: self.bytes()?,
                after: self.key("after").map(|key| Bytes::from(key.into_bytes())),
                limit: self.key("limit").map_or(Ok(10), |limit| limit.parse())?,
            },
            "pttl" => Op::Ttl(self.bytes()?),
            "set" => {
                let (expiry, get) = (self.expiry()?, self.flag("get"));
                let condition = match (self.flag("nx"), self.flag("xx")) {
                    (true, _) => Condition::Absent,
                    (_, true) => Condition::Present,
                    _ => self.condition()?,
                };
                Op::Set { key: self.key_word()?, value: self.bytes()?, condition, expiry, get }
            }
            "put" => {
                let (expiry, condition) = (self.expiry()?, self.condition()?);
                Op::Put { key: self.key_word()?, value: self.bytes()?, condition, expiry }
            }
            "mset" => {
                let words = self.rest();
                Op::MSet(words.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect())
            }
            "del" => Op::Del(self.rest()),
            "del-if" => Op::DelIf { condition: self.condition()?, key: self.bytes()? },
            "getdel" => Op::GetDel(self.bytes()?),
            "incrby" => Op::IncrBy { key: self.key_word()?, by: self.number()? },
            "append" => Op::Append { key: self.key_word()?, value: self.bytes()? },
            "pexpire" | "pexpireat" => {
                let condition = self.expire_if();
                let (key, ms) = (self.bytes()?, self.number()?);
                let expiry = if name == "pexpire" { Expiry::In(ms) } else { Expiry::At(ms) };
                Op::Expire { key, expiry, condition }
            }
            "getex" => Op::GetEx { expiry: self.expiry()?, key: self.bytes()? },
            "getrange" => Op::GetRange { key: self.bytes()?, start: self.number()?, end: self.number()? },
            "setrange" => Op::SetRange { key: self.key_word()?, offset: self.number()?, value: self.bytes()? },
            "msetnx" => {
                let words = self.rest();
                Op::MSetNx(words.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect())
            }
            "incrbyfloat" => Op::IncrByFloat { key: self.key_word()?, by: self.bytes()? },
            "rename" => {
                let if_absent = self.flag("nx");
                Op::Rename { from: self.bytes()?, to: self.bytes()?, if_absent }
            }
            "copy" => {
                let replace = self.flag("replace");
                Op::Copy { from: self.bytes()?, to: self.bytes()?, replace }
            }
            "pexpiretime" => Op::ExpireTime(self.bytes()?),
            "randomkey" => Op::RandomKey(self.number()?),
            "encoding" => Op::Encoding(self.bytes()?),
            "memory-usage" => Op::MemoryUsage(self.bytes()?),
            "expiring" => Op::CountExpiring,
            "persist" => Op::Persist(self.bytes()?),
            "flushall" => Op::FlushAll,
            "lock-acquire" => Op::LockAcquire { name: self.bytes()?, ttl_ms: self.number()? },
            "lock-renew" => Op::LockRenew { name: self.bytes()?, token: self.number()?, ttl_ms: self.number()? },
            "lock-release" => Op::LockRelease { name: self.bytes()?, token: self.number()? },
            "lock-info" => Op::LockInfo(self.bytes()?),
            "release-if" => Op::ReleaseIf { key: self.bytes()?, token: self.bytes()? },
            "extend-if" => {
                let replace = self.flag("replace");
                Op::ExtendIf { key: self.bytes()?, token: self.bytes()?, ms: self.number()?, replace }
            }
            "reacquire-if" => Op::ReacquireIf { key: self.bytes()?, token: self.bytes()?, ms: self.number()? },
            other => return Err(format!("unknown command '{other}'").into()),
        })
    }

    /// A key, which may be `key-size=N` bytes long.
    fn key_word(&mut self) -> Result<Bytes, Failure> {
        match self.key("key-size") {
            Some(size) => Ok(Bytes::from(vec![b'k'; size.parse()?])),
            None => Ok(Bytes::from(self.word()?.into_bytes())),
        }
    }
}

/// Formats a value as redis-cli does; `margin` is the indentation of its lines.
fn show(value: &Value, margin: &str) -> String {
    match value {
        Value::Nil => "(nil)".to_string(),
        Value::Ok => "OK".to_string(),
        Value::Int(number) => format!("(integer) {number}"),
        Value::Text(text) => text.clone(),
        Value::Error(text) => format!("(error) {text}"),
        Value::Bytes(bytes) if bytes.len() > 60 => format!("{} bytes", bytes.len()),
        Value::Bytes(bytes) => format!("\"{}\"", bytes.escape_ascii()),
        Value::List(values) if values.is_empty() => "(empty array)".to_string(),
        Value::List(values) => {
            let width = values.len().to_string().len();
            let mut out = String::new();
            for (n, value) in values.iter().enumerate() {
                let before = if n == 0 { String::new() } else { margin.to_string() };
                let within = format!("{margin}{}", " ".repeat(width + 2));
                let text = show(value, &within);
                writeln!(out, "{before}{:>width$}) {}", n + 1, text.trim_end()).expect("a string takes all");
            }
            out
        }
    }
}
