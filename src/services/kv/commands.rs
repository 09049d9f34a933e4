//! Operations of the key-value store and their replies: the types that endpoints and the service share.
//!
//! An endpoint translates a client's request into a [`Batch`]: operations that are executed atomically, in order. A
//! pipeline and a transaction are both batches; a transaction may have watched keys.
//! Times to live are relative to log time, or absolute on the clock that log time follows (milliseconds since 1970).
//!
//! Invariant: an operation is self-contained: it depends on no connection state, clock or local setting.
//! Not here: what an operation does (`state/`), its form in a protocol (`resp/`, `http/`).

use super::op_error::OpError;
use serde::{Deserialize, Serialize};
pub use serde_bytes::ByteBuf as Bytes;

/// Maximum length of a key in bytes.
pub const KEY_BYTES_MAX: usize = 64 << 10;
/// Maximum length of a value in bytes.
pub const VALUE_BYTES_MAX: usize = 4 << 20;
/// Maximum reply size in bytes of a batch that goes through the log: the reply must fit into one frame between nodes,
/// and the session table keeps it until the client has received it. An operation that would exceed it fails with
/// [`OpError::ReplyTooLarge`] and changes nothing.
pub const BATCH_REPLY_BYTES_MAX: usize = 8 << 20;
/// Maximum reply size in bytes of a batch that only reads, which the node that the client is connected to answers.
pub const READ_REPLY_BYTES_MAX: usize = 64 << 20;
/// Maximum bytes of keys and values in one page of a range, so that a page of large values does not take long.
pub const RANGE_BYTES_MAX: usize = 1 << 20;

/// Maximum number of keys named in one request, in all its operations and including watched keys. Each key that is
/// written or removed takes about two microseconds on every node, while other requests wait. Endpoints refuse requests
/// with more.
pub const BATCH_KEYS_MAX: usize = 100_000;
/// Maximum number of steps that searching through keys (KEYS, SCAN, ranges) may take in all batches of one log entry,
/// while other requests wait. A step is one comparison of a pattern byte, a few nanoseconds; examining a key takes
/// [`EXAMINE_STEPS`]. Lower in tests.
pub const ENTRY_STEPS_MAX: u64 = if cfg!(test) { 1_000_000 } else { 50_000_000 };
/// The same for a batch that only reads, which does not go through the log.
pub const READ_STEPS_MAX: u64 = if cfg!(test) { 6_000_000 } else { 300_000_000 };
/// Steps of examining one key, in addition to those of the pattern.
pub const EXAMINE_STEPS: u64 = 50;
/// Maximum number of bytes that all batches of one log entry may add beyond what they contain: copies of values, and
/// the zeros before a part that is written. How many they are is known only when the entry is applied, so a quota may
/// be exceeded by so much (`growth.rs`).
pub const ENTRY_GROWTH_MAX: usize = 8 << 20;

/// When a written key expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expiry {
    /// The key does not expire.
    Never,
    /// The key keeps its expiry.
    Keep,
    /// This many milliseconds of log time after the write; 0 expires the key immediately.
    In(u64),
    /// At this time, in milliseconds since 1970. If it has passed, the written key expires immediately.
    At(u64),
}

/// Condition of a write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    Always,
    /// Only if the key does not exist (`NX`).
    Absent,
    /// Only if the key exists (`XX`).
    Present,
    /// Only if the key has this value.
    Equals(Bytes),
    /// Only if the key has this revision (0: it does not exist).
    ///
    /// Every write of a key, including a change of its time to live, gives it a new revision that no key had before. So
    /// a key that was removed and created again is distinguished from one that was not; a missing key that was created
    /// and removed again is not distinguished.
    Revision(u64),
}

/// Condition under which `Expire` changes the time to live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExpireIf {
    Always,
    /// Only if the key has no expiry (`NX`).
    HasNone,
    /// Only if the key has an expiry (`XX`).
    HasOne,
    /// Only if the new expiry is later (`GT`; none counts as infinite).
    Later,
    /// Only if the new expiry is earlier (`LT`).
    Earlier,
    /// Only if the key has an expiry and the new one is earlier (`XX LT`).
    EarlierThanOne,
}

/// One operation. Each variant names the [`Value`] that it returns.
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
    /// Type of a key's value: `Text("string")`, or `Text("none")` if the key does not exist.
    Type(Bytes),
    /// Revision of each key, 0 if it does not exist: `List` of `Int`.
    Revisions(Vec<Bytes>),
    /// Number of keys: `Int`.
    Count,
    /// Keys that match a glob (`*`, `?`, `[a-c]`, `[^a]`, `\x`), in order: `List` of `Bytes`.
    Keys(Bytes),
    /// A page of keys in order: examines `count` keys (at least one) after `after` and returns those that match the
    /// glob: `List [Bytes last key examined, or Nil at the end; List of Bytes]`. A key that exists throughout a scan is
    /// returned exactly once, whatever is written between two pages.
    Scan { after: Option<Bytes>, glob: Option<Bytes>, count: u64 },
    /// Keys with a prefix, in order, after `after`, at most `limit`, and at most [`RANGE_BYTES_MAX`] bytes after the
    /// first: `List` of `List [Bytes key, Bytes value, Int revision]`, followed by `Nil` if the byte limit ended the
    /// page.
    Range { prefix: Bytes, after: Option<Bytes>, limit: u64 },
    /// State of a lock: `List [Int token, Int ttl_ms]`, or `Nil` if it is free.
    LockInfo(Bytes),
    /// Remaining milliseconds: `Int`; -1: never expires, -2: no such key. Goes through the log, because it needs log
    /// time.
    Ttl(Bytes),
    /// Writes a key. `Ok` or `Nil` (condition not met); with `get` the old value (`Bytes` or `Nil`) in either case.
    Set { key: Bytes, value: Bytes, condition: Condition, expiry: Expiry, get: bool },
    /// Writes a key if the condition holds: `Int` new revision, or `Nil`.
    Put { key: Bytes, value: Bytes, condition: Condition, expiry: Expiry },
    /// Writes several keys: `Ok`.
    MSet(Vec<(Bytes, Bytes)>),
    /// Removes keys: `Int`, the number of keys that existed.
    Del(Vec<Bytes>),
    /// Removes a key if the condition holds: `Int` 1, 0 (no such key), or `Nil` (condition not met).
    DelIf { key: Bytes, condition: Condition },
    /// Removes a key and returns its value: `Bytes` or `Nil`.
    GetDel(Bytes),
    /// Adds to a number (a missing key counts as 0) and keeps the time to live: `Int`, or `Error`.
    IncrBy { key: Bytes, by: i64 },
    /// Appends to a value and keeps the time to live: `Int`, the new length, or `Error`.
    Append { key: Bytes, value: Bytes },
    /// Sets the time to live: `Int` 1, or 0 (no such key, or condition not met). A time that has passed removes the
    /// key. `Never` counts as an infinite time to live, `Keep` as the present one.
    Expire { key: Bytes, expiry: Expiry, condition: ExpireIf },
    /// Removes the time to live: `Int` 1 or 0.
    Persist(Bytes),
    /// Removes all keys (not the locks): `Ok`.
    FlushAll,
    /// Acquires a lock: `Int` fencing token, or `Nil` while it is held. A `ttl_ms` of 0 is an `Error`, as in
    /// `LockRenew`.
    LockAcquire { name: Bytes, ttl_ms: u64 },
    /// Sets the expiry of a held lock to `ttl_ms` from now: `Int` 1, or 0 if it is not held under this token.
    LockRenew { name: Bytes, token: u64, ttl_ms: u64 },
    /// Releases a lock: `Int` 1, or 0 if it is not held under this token.
    LockRelease { name: Bytes, token: u64 },
    /// Release script of redis-py's locks, which are ordinary keys: removes the key if its value is `token`: `Int` 1 or
    /// 0.
    ReleaseIf { key: Bytes, token: Bytes },
    /// Extend script of redis-py: if the value is `token` and the key expires, sets the time to live to `ms`
    /// (`replace`), or adds `ms` to it: `Int` 1 or 0.
    ExtendIf { key: Bytes, token: Bytes, ms: u64, replace: bool },
    /// Reacquire script of redis-py: if the value is `token`, sets the time to live to `ms`: `Int` 1 or 0.
    ReacquireIf { key: Bytes, token: Bytes, ms: u64 },
    /// The marks of keys for WATCH ([`Batch::watched`]): the key's revision, or, if it does not exist, [`ABSENT`] with
    /// the store's newest revision. `List` of `Int`, each with the bits of the mark.
    Marks(Vec<Bytes>),
    /// Value of a key, and sets its time to live: `Bytes` or `Nil`. A time that has passed removes the key.
    GetEx { key: Bytes, expiry: Expiry },
    /// Part of a value, from byte `start` to byte `end` inclusive, counted from the end if negative: `Bytes`.
    GetRange { key: Bytes, start: i64, end: i64 },
    /// Overwrites a value from this byte on, padded with zeros, and keeps the time to live: `Int`, the length.
    SetRange { key: Bytes, offset: u64, value: Bytes },
    /// Writes several keys if none of them exists: `Int` 1 or 0.
    MSetNx(Vec<(Bytes, Bytes)>),
    /// Adds to a decimal number (`float.rs`) and keeps the time to live: `Bytes`, or `Error`.
    IncrByFloat { key: Bytes, by: Bytes },
    /// Gives a key another name, with its time to live. `Ok`, or with `if_absent` `Int` 1, or 0 if the new name is in
    /// use; `Error` if there is no such key.
    Rename { from: Bytes, to: Bytes, if_absent: bool },
    /// Copies a key with its time to live: `Int` 1, or 0 (no such key, or `to` exists and is not to be replaced).
    Copy { from: Bytes, to: Bytes, replace: bool },
    /// Time of expiry in milliseconds since 1970: `Int`; -1: never expires, -2: no such key.
    ExpireTime(Bytes),
    /// A key that the caller's random number chooses, or `Nil` if there is none: `Bytes`.
    RandomKey(u64),
    /// How Redis would store a value: `Bytes` `int`, `embstr` or `raw`; `Nil`: no such key.
    Encoding(Bytes),
    /// Approximate memory of a key and its value in bytes: `Int` or `Nil`.
    MemoryUsage(Bytes),
    /// Number of keys with a time to live: `Int`.
    CountExpiring,
}

/// Bit of a mark: the key did not exist; the other bits are the store's newest revision at that time.
pub const ABSENT: u64 = 1 << 63;

impl Op {
    /// Whether the operation must go through the log, because it changes something or needs log time.
    pub fn needs_log(&self) -> bool {
        !matches!(
            self,
            Op::Get(_)
                | Op::GetRange { .. }
                | Op::MGet(_)
                | Op::Read(_)
                | Op::Exists(_)
                | Op::StrLen(_)
                | Op::Type(_)
                | Op::ExpireTime(_)
                | Op::Encoding(_)
                | Op::MemoryUsage(_)
                | Op::Revisions(_)
                | Op::Marks(_)
                | Op::Count
                | Op::CountExpiring
                | Op::Keys(_)
                | Op::Scan { .. }
                | Op::Range { .. }
                | Op::RandomKey(_)
                | Op::LockInfo(_)
        )
    }

    /// Whether the operation searches through keys that it does not name.
    pub fn looks_through(&self) -> bool {
        matches!(self, Op::Keys(_) | Op::Scan { .. } | Op::Range { .. } | Op::RandomKey(_))
    }

    /// Returns the number of keys and locks that the operation names.
    pub fn keys_named(&self) -> usize {
        match self {
            Op::MGet(keys) | Op::Exists(keys) | Op::Revisions(keys) | Op::Marks(keys) | Op::Del(keys) => keys.len(),
            Op::MSet(pairs) | Op::MSetNx(pairs) => pairs.len(),
            Op::Rename { .. } | Op::Copy { .. } => 2,
            _ => 1,
        }
    }

    /// Returns the reply if it does not depend on the state: such a write can be acknowledged before it is applied
    /// (except in a batch with watched keys, which may be aborted).
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

/// Whether a key and a value of this many bytes are within the limits; otherwise a write fails with
/// [`OpError::TooLarge`].
pub fn fits(key: &[u8], value_bytes: usize) -> bool {
    key.len() <= KEY_BYTES_MAX && value_bytes <= VALUE_BYTES_MAX
}

/// Operations that are executed atomically. One that fails with [`Value::Error`] changes nothing, and the following
/// ones are still executed, as in Redis' EXEC.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Watched keys with their marks ([`Op::Marks`]). If one of them was written, removed or has expired since, nothing
    /// is executed and the reply is `Aborted`.
    pub watched: Vec<(Bytes, u64)>,
    pub ops: Vec<Op>,
}

impl Batch {
    /// Returns the number of keys and locks that the batch names, including watched keys.
    pub fn keys_named(&self) -> usize {
        self.watched.len() + self.ops.iter().map(Op::keys_named).sum::<usize>()
    }

    /// Whether any operation must go through the log.
    pub fn needs_log(&self) -> bool {
        self.ops.iter().any(Op::needs_log)
    }
}

/// Result of one operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Value {
    /// No such key, or condition not met.
    Nil,
    /// Success without a value.
    Ok,
    Int(i64),
    /// A word that the service defines.
    Text(String),
    /// A key or value that a client stored.
    Bytes(Bytes),
    List(Vec<Value>),
    Error(OpError),
}

/// Converts a number to [`Value::Int`]; a number beyond `i64` becomes `i64::MAX`.
pub fn int(number: impl TryInto<i64>) -> Value {
    Value::Int(number.try_into().unwrap_or(i64::MAX))
}

/// Reply to a batch: the payload of `Reply::Ok`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BatchReply {
    /// One value per operation.
    Values(Vec<Value>),
    /// A watched key has changed: nothing was executed.
    Aborted,
}

impl BatchReply {
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("encoding into memory cannot fail")
    }

    /// Decodes a reply; `None` if the bytes are not a valid one.
    pub fn decode(bytes: &[u8]) -> Option<BatchReply> {
        postcard::from_bytes(bytes).ok()
    }
}

/// A [`Value`] that borrows from the bytes of a reply, so that an endpoint forwards it without copying. Must have the
/// same variants in the same order.
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

/// A [`BatchReply`] that borrows from the bytes of a reply.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub enum BatchReplyRef<'a> {
    /// One value per operation.
    #[serde(borrow)]
    Values(Vec<ValueRef<'a>>),
    /// A watched key has changed: nothing was executed.
    Aborted,
}

impl<'a> BatchReplyRef<'a> {
    /// Decodes a reply; `None` if the bytes are not a valid one.
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
