//! What a request for the store is translated with, and helpers of all translations.
//!
//! Pure: the input is the request, the position of a SCAN, a random number, and the time, which is needed to refuse
//! impossible expiries.
//! Not here: the translations (`strings.rs`, `keys.rs`, `expiry.rs`, `locks.rs`).

use super::scripts;
use crate::node::scan_cursors::Position;
use crate::resp::protocol::parse::{Request, integer};
use crate::resp::protocol::reply;
use crate::resp::reply_plan::ReplyShape;
use crate::services::kv::{Bytes, Op, OpError};

/// The input of a translation beyond the request.
pub struct Context<'a> {
    /// The key after which a SCAN with this cursor continues.
    pub position: &'a dyn Fn(u64) -> Position,
    pub scripts: &'a scripts::Loaded,
    /// This node's clock, in milliseconds since 1970.
    pub now_ms: u64,
    pub draw: fn() -> u64,
}

/// An operation and the form of its reply, or an error text.
pub type Translated = Result<(Op, ReplyShape), String>;

pub(crate) const SYNTAX: &str = "ERR syntax error";

pub(crate) fn bytes(word: &[u8]) -> Bytes {
    Bytes::from(word.to_vec())
}

pub(crate) fn rest(request: &Request, from: usize) -> Vec<Bytes> {
    request.words().skip(from).map(bytes).collect()
}

pub(crate) fn number(word: &[u8]) -> Result<i64, String> {
    integer(word).ok_or_else(|| OpError::NotAnInteger.to_string())
}

pub(crate) fn invalid_expire(command: &str) -> String {
    format!("ERR invalid expire time in '{command}' command")
}

pub(crate) fn plain(op: Op) -> Translated {
    Ok((op, ReplyShape::Plain))
}

/// An error as it is sent.
pub(crate) fn error_reply(why: &str) -> Vec<u8> {
    let mut out = Vec::new();
    reply::error(&mut out, why);
    out
}

/// A word for a message or a list; what is no UTF-8 in it is replaced.
pub(crate) fn text(word: &[u8]) -> String {
    String::from_utf8_lossy(word).into_owned()
}
