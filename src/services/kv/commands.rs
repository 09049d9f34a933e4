//! What can be asked of the key-value store, and what it answers: the types that endpoints and the service share.
//!
//! An endpoint turns what its client sent into a [`Batch`]: operations that are executed one after another with nothing
//! in between. A batch of a pipelining client and a transaction are the same thing; the latter may carry conditions.
//! Times to live are relative to log time, or absolute on the clock that log time follows (milliseconds since 1970).
//!
//! Invariants: an operation's meaning is complete in itself: no connection state, no clock, no local setting.
//! Not here: what an operation does (`state.rs`), any protocol's spelling of it (`resp/`, `http/`).

use super::op_error::OpError;
use crate::services::Growth;
use serde::{Deserialize, Serialize};
pub use serde_bytes::ByteBuf as Bytes;

/// Bytes of a key.
pub const KEY_BYTES_MAX: usize = 64 << 10;
/// Bytes of a value.
pub const VALUE_BYTES_MAX: usize = 4 << 20;
/// Bytes that a batch which goes through the log may answer: its reply fits into one frame between nodes, and the
/// session table keeps it until its client has it. An operation that would go beyond answers [`OpError::ReplyTooLarge`]
/// and changes nothing.
pub const RUN_REPLY_BYTES_MAX: usize = 8 << 20;
/// Bytes that a batch which only reads may answer: it is served by the node that was asked.
pub const READ_REPLY_BYTES_MAX: usize = 64 << 20;
/// Bytes of keys and values in one page of a range: a page never takes long, however large the values are.
pub const RANGE_BYTES_MAX: usize = 1 << 20;

/// Keys that one request may name, in all its operations, and watched ones: each that is written or removed takes some
/// two microseconds on every node, and others wait meanwhile. The endpoints refuse what names more.
pub const RUN_KEYS_MAX: usize = 100_000;
/// Steps that looking through keys (KEYS, SCAN, ranges) may take in all batches of one entry of the log, for which
/// others wait. A step is a byte of a pattern that is compared, some nanoseconds; a key that is looked at takes
/// [`LOOK_STEPS`]. Tests have fewer.
pub const ENTRY_STEPS_MAX: u64 = if cfg!(test) { 1_000_000 } else { 50_000_000 };
/// The same for a batch that only reads: it is answered beside the log.
pub const READ_STEPS_MAX: u64 = if cfg!(test) { 6_000_000 } else { 300_000_000 };
/// What looking at a key takes beside the steps of the pattern.
pub const LOOK_STEPS: u64 = 50;

/// When a key that is written shall expire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expiry {
    /// Never.
    Never,
    /// As it was before.
    Keep,
    /// So many milliseconds of log time after the write; 0: at once.
    In(u64),
    /// At this time, in milliseconds since 1970. If it has passed, the key is written and gone in the same moment.
    At(u64),
}

/// Under which condition `Set` writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// Always.
    Always,
    /// Only if the key does not exist (`NX`).
    Absent,
    /// Only if it exists (`XX`).
    Present,
    /// Only if its value is this one.
    Equals(Bytes),
    /// Only if its revision is this one (0: it does not exist).
    ///
    /// Every write of a key, a change of its time to live included, gives it a revision that no key ever had. A key
    /// that was away and came back is told from the one that stayed, but one that was absent, came and went is not.
    Revision(u64),
}

/// Under which condition `Expire` changes the time to live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExpireIf {
    /// Always.
    Always,
    /// It has none (`NX`).
    HasNone,
    /// It has one (`XX`).
    HasOne,
    /// The new one is later (`GT`; none counts as infinite).
    Later,
    /// The new one is earlier (`LT`).
    Earlier,
    /// It has one, and the new one is earlier (`XX LT`).
    EarlierThanOne,
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Value of a key: `Bytes` or `Nil`.
    Get(Bytes),
    /// Values of keys: `List` of `Bytes` or `Nil`.
    MGet(Vec<Bytes>),
    /// Value, revision and remaining time: `List [Bytes, Int revision, Int ttl_ms or -1]` or `Nil`.
    Read(Bytes),
    /// How many of these keys exist, counting repeats: `Int`.
    Exists(Vec<Bytes>),
    /// Bytes of a value, 0 if there is none: `Int`.
    StrLen(Bytes),
    /// `Text("string")` or `Text("none")`.
    Type(Bytes),
    /// Revision of each key, 0 if it does not exist: `List` of `Int`.
    Revisions(Vec<Bytes>),
    /// Number of keys: `Int`.
    Count,
    /// Keys that match a glob (`*`, `?`, `[a-c]`, `[^a]`, `\x`), in order: `List` of `Bytes`.
    Keys(Bytes),
    /// A page of keys in order: looks at `count` keys (at least one) after `after` and gives those that match the glob:
    /// `List [Bytes last key looked at, or Nil at the end; List of Bytes]`. A key that is there all the time is given
    /// once, whatever is written between two pages.
    Scan { after: Option<Bytes>, glob: Option<Bytes>, count: u64 },
    /// Keys with a prefix, in order, after `after`, at most `limit`, and at most [`RANGE_BYTES_MAX`] bytes beyond the
    /// first: `List` of `List [Bytes key, Bytes value, Int revision]`, and a `Nil` behind them if the bytes ended the
    /// page.
    Range { prefix: Bytes, after: Option<Bytes>, limit: u64 },
    /// What is known of a lock: `List [Int token, Int ttl_ms]` or `Nil`.
    LockInfo(Bytes),
    /// Remaining milliseconds: `Int`; -1: never expires, -2: no such key. It needs the time, so it goes through the
    /// log.
    Ttl(Bytes),
    /// Writes a key. `Ok` or `Nil` (condition not met); with `get` the old value (`Bytes` or `Nil`) in either case.
    Set { key: Bytes, value: Bytes, condition: Condition, expiry: Expiry, get: bool },
    /// Writes a key if the condition holds: `Int` new revision, or `Nil`.
    Put { key: Bytes, value: Bytes, condition: Condition, expiry: Expiry },
    /// Writes several keys: `Ok`.
    MSet(Vec<(Bytes, Bytes)>),
    /// Removes keys: `Int`, how many there were.
    Del(Vec<Bytes>),
    /// Removes a key if the condition holds: `Int` 1 or 0 (there was none), or `Nil` (condition not met).
    DelIf { key: Bytes, condition: Condition },
    /// Removes a key and gives its value: `Bytes` or `Nil`.
    GetDel(Bytes),
    /// Adds to a number, 0 if there is none, and keeps its time to live: `Int`, or `Error`.
    IncrBy { key: Bytes, by: i64 },
    /// Adds to a value's end and keeps its time to live: `Int`, its new length, or `Error`.
    Append { key: Bytes, value: Bytes },
    /// Sets the time to live: `Int` 1, or 0 (no such key, or condition not met). A time that has passed removes the
    /// key. `Never` is infinite; `Keep` is the time that it has.
    Expire { key: Bytes, expiry: Expiry, condition: ExpireIf },
    /// Removes the time to live: `Int` 1 or 0.
    Persist(Bytes),
    /// Removes all keys (not the locks): `Ok`.
    FlushAll,
    /// Takes a lock: `Int` fencing token, or `Nil` while it is held. A time of 0 is an `Error`, as in `LockRenew`.
    LockAcquire { name: Bytes, ttl_ms: u64 },
    /// Keeps a lock for `ttl_ms` from now on: `Int` 1, or 0 if it is not held under this token.
    LockRenew { name: Bytes, token: u64, ttl_ms: u64 },
    /// Gives a lock back: `Int` 1, or 0 if it is not held under this token.
    LockRelease { name: Bytes, token: u64 },
    /// redis-py's lock scripts on an ordinary key. Release: delete if the value is `token`: `Int` 1 or 0.
    ReleaseIf { key: Bytes, token: Bytes },
    /// Extend: if the value is `token` and it has a time to live, that becomes `ms`, after adding what remains unless
    /// `replace`: `Int` 1 or 0.
    ExtendIf { key: Bytes, token: Bytes, ms: u64, replace: bool },
    /// Reacquire: if the value is `token`, the time to live becomes `ms`: `Int` 1 or 0.
    ReacquireIf { key: Bytes, token: Bytes, ms: u64 },
    /// What WATCH remembers of each key, for [`Batch::watched`]: its revision, or if it does not exist, [`ABSENT`] with
    /// the store's newest revision: `List` of `Int`, the bits of which are the mark's.
    Marks(Vec<Bytes>),
}

/// In a mark: the key did not exist when the rest of it was the store's newest revision.
pub const ABSENT: u64 = 1 << 63;

impl Op {
    /// Whether the operation needs the log: it changes something, or asks for the time.
    pub fn needs_log(&self) -> bool {
        use Op::{Count, Exists, Get, Keys, LockInfo, MGet, Marks, Range, Read, Revisions, Scan, StrLen, Type};
        !matches!(
            self,
            Get(_)
                | MGet(_)
                | Read(_)
                | Exists(_)
                | StrLen(_)
                | Type(_)
                | Revisions(_)
                | Marks(_)
                | Count
                | Keys(_)
                | Scan { .. }
                | Range { .. }
                | LockInfo(_)
        )
    }

    /// Whether it looks through keys that it does not name.
    pub fn looks_through(&self) -> bool {
        matches!(self, Op::Keys(_) | Op::Scan { .. } | Op::Range { .. })
    }

    /// Keys and locks that it names.
    pub fn keys_named(&self) -> usize {
        match self {
            Op::MGet(keys) | Op::Exists(keys) | Op::Revisions(keys) | Op::Marks(keys) | Op::Del(keys) => keys.len(),
            Op::MSet(pairs) => pairs.len(),
            _ => 1,
        }
    }

    /// What the operation answers whatever the state is, where that is known beforehand: such a write can be
    /// acknowledged before it is applied. (Not in a batch with watched keys, which may be aborted.)
    pub fn certain_reply(&self) -> Option<Value> {
        match self {
            Op::Set { key, value, condition: Condition::Always, get: false, .. } => {
                fits(key, value.len()).then_some(Value::Ok)
            }
            Op::MSet(pairs) => pairs.iter().all(|(key, value)| fits(key, value.len())).then_some(Value::Ok),
            Op::FlushAll => Some(Value::Ok),
            _ => None,
        }
    }
}

/// Whether a key and a value of so many bytes may be written; what does not fit is refused with [`OpError::TooLarge`].
pub fn fits(key: &[u8], value_bytes: usize) -> bool {
    key.len() <= KEY_BYTES_MAX && value_bytes <= VALUE_BYTES_MAX
}

/// Operations that are executed together. One that answers [`Value::Error`] changes nothing, and those after it are
/// executed all the same, as in Redis' EXEC.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Key and mark ([`Op::Marks`]): if anybody wrote or removed one of them since, nothing is executed and the reply
    /// is `Aborted`. A key that has expired meanwhile is different.
    pub watched: Vec<(Bytes, u64)>,
    /// In order.
    pub ops: Vec<Op>,
}

/// See [`Growth`].
pub fn growth(command: &[u8]) -> Growth {
    let adds = |op: &Op| {
        matches!(
            op,
            Op::Set { .. }
                | Op::Put { .. }
                | Op::MSet(_)
                | Op::IncrBy { .. }
                | Op::Append { .. }
                | Op::LockAcquire { .. }
        )
    };
    match postcard::from_bytes::<Batch>(command) {
        Ok(batch) if batch.ops.iter().any(adds) => Growth::Adds,
        _ => Growth::Nothing,
    }
}

impl Batch {
    /// Keys and locks that it names, watched ones included.
    pub fn keys_named(&self) -> usize {
        self.watched.len() + self.ops.iter().map(Op::keys_named).sum::<usize>()
    }

    /// Whether any operation needs the log.
    pub fn needs_log(&self) -> bool {
        self.ops.iter().any(Op::needs_log)
    }
}

/// One operation's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Value {
    /// Nothing there, or condition not met.
    Nil,
    /// Done.
    Ok,
    /// A number.
    Int(i64),
    /// A word of the service's own.
    Text(String),
    /// What a client stored.
    Bytes(Bytes),
    /// Several.
    List(Vec<Value>),
    /// The operation could not.
    Error(OpError),
}

/// A count or number as the protocol has it.
pub fn int(number: impl TryInto<i64>) -> Value {
    Value::Int(number.try_into().unwrap_or(i64::MAX))
}

/// The answer to a batch: the payload of `Reply::Ok`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BatchReply {
    /// One value per operation.
    Values(Vec<Value>),
    /// A watched key has changed: nothing was executed.
    Aborted,
}

impl BatchReply {
    /// The bytes of the reply.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("encoding into memory cannot fail")
    }

    /// Reads a reply back; `None` if it is none.
    pub fn decode(bytes: &[u8]) -> Option<BatchReply> {
        postcard::from_bytes(bytes).ok()
    }
}

/// [`Value`] as it lies in a reply's bytes: an endpoint passes it on without copying. Same variants in the same order.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[allow(missing_docs)]
pub enum ValueRef<'a> {
    Nil,
    Ok,
    Int(i64),
    Text(&'a str),
    Bytes(&'a serde_bytes::Bytes),
    #[serde(borrow)]
    List(Vec<ValueRef<'a>>),
    /// The text of an [`OpError`].
    Error(&'a str),
}

/// [`BatchReply`] as it lies in a reply's bytes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub enum BatchReplyRef<'a> {
    /// One value per operation.
    #[serde(borrow)]
    Values(Vec<ValueRef<'a>>),
    /// A watched key has changed: nothing was executed.
    Aborted,
}

impl<'a> BatchReplyRef<'a> {
    /// Reads a reply; `None` if it is none.
    pub fn decode(bytes: &'a [u8]) -> Option<BatchReplyRef<'a>> {
        postcard::from_bytes(bytes).ok()
    }
}

#[cfg(test)]
mod tests {
    use crate::services::kv::commands::*;

    #[test]
    fn a_reply_reads_the_same_with_and_without_copying() {
        let bytes = |text: &str| Value::Bytes(Bytes::from(text.as_bytes().to_vec()));
        let all = vec![
            Value::Nil,
            Value::Ok,
            Value::Int(-7),
            Value::Text("string".to_string()),
            bytes("v"),
            Value::List(vec![bytes("k"), Value::Nil]),
            Value::Error(OpError::Overflow),
        ];
        let encoded = BatchReply::Values(all).encode();
        let borrowed = vec![
            ValueRef::Nil,
            ValueRef::Ok,
            ValueRef::Int(-7),
            ValueRef::Text("string"),
            ValueRef::Bytes(serde_bytes::Bytes::new(b"v")),
            ValueRef::List(vec![ValueRef::Bytes(serde_bytes::Bytes::new(b"k")), ValueRef::Nil]),
            ValueRef::Error(OpError::Overflow.text()),
        ];
        assert_eq!(BatchReplyRef::decode(&encoded), Some(BatchReplyRef::Values(borrowed)));
        assert_eq!(BatchReplyRef::decode(&BatchReply::Aborted.encode()), Some(BatchReplyRef::Aborted));
    }
}
