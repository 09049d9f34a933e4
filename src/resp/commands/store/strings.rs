//! Commands on values: translates a request to one operation of the store, or to an error of Redis.
//!
//! Not here: what an operation does (`services/kv/`), the form of its reply (`resp/reply_plan.rs`).

use super::context::{Context, SYNTAX, Translated, bytes, error_reply, number, plain, rest};
use super::expiry::TimeUnit;
use crate::resp::protocol::parse::{Request, is_word};
use crate::resp::protocol::reply;
use crate::resp::reply_plan::ReplyShape;
use crate::services::kv::float::Float;
use crate::services::kv::{Bytes, Condition, Expiry, Op, OpError};

// ---- reading ----

pub(crate) fn get(request: &Request, _: &Context) -> Translated {
    plain(Op::Get(bytes(request.word(1))))
}

pub(crate) fn mget(request: &Request, _: &Context) -> Translated {
    plain(Op::MGet(rest(request, 1)))
}

pub(crate) fn strlen(request: &Request, _: &Context) -> Translated {
    plain(Op::StrLen(bytes(request.word(1))))
}

pub(crate) fn getrange(request: &Request, _: &Context) -> Translated {
    let (start, end) = (number(request.word(2))?, number(request.word(3))?);
    plain(Op::GetRange { key: bytes(request.word(1)), start, end })
}

// ---- writing ----

pub(crate) fn set(request: &Request, context: &Context) -> Translated {
    let (mut condition, mut expiry, mut get) = (Condition::Always, None, false);
    let mut at = 3;
    while at < request.len() {
        let word = request.word(at);
        let value = (at + 1 < request.len()).then(|| request.word(at + 1));
        let unit = TimeUnit::of(word);
        match (unit, value) {
            _ if is_word(word, "nx") && condition != Condition::Present => condition = Condition::Absent,
            _ if is_word(word, "xx") && condition != Condition::Absent => condition = Condition::Present,
            _ if is_word(word, "get") => get = true,
            _ if is_word(word, "keepttl") && matches!(expiry, None | Some(None)) => expiry = Some(None),
            (Some(unit), Some(value)) if expiry.is_none_or(|old| old.is_some_and(|(before, _)| before == unit)) => {
                expiry = Some(Some((unit, value)));
                at += 1;
            }
            _ => return Err(SYNTAX.to_string()),
        }
        at += 1;
    }
    let expiry = match expiry {
        None => Expiry::Never,
        Some(None) => Expiry::Keep,
        Some(Some((unit, value))) => unit.expiry(value, "set", context)?,
    };
    plain(Op::Set { key: bytes(request.word(1)), value: bytes(request.word(2)), condition, expiry, get })
}

pub(crate) fn setex(request: &Request, context: &Context) -> Translated {
    set_for(request, context, TimeUnit::EX, "setex")
}

pub(crate) fn psetex(request: &Request, context: &Context) -> Translated {
    set_for(request, context, TimeUnit::PX, "psetex")
}

fn set_for(request: &Request, context: &Context, unit: TimeUnit, command: &str) -> Translated {
    let expiry = unit.expiry(request.word(2), command, context)?;
    let (key, value) = (bytes(request.word(1)), bytes(request.word(3)));
    plain(Op::Set { key, value, condition: Condition::Always, expiry, get: false })
}

pub(crate) fn setnx(request: &Request, _: &Context) -> Translated {
    let (key, value) = (bytes(request.word(1)), bytes(request.word(2)));
    let op = Op::Set { key, value, condition: Condition::Absent, expiry: Expiry::Never, get: false };
    Ok((op, ReplyShape::OneIfDone))
}

pub(crate) fn getset(request: &Request, _: &Context) -> Translated {
    let (key, value) = (bytes(request.word(1)), bytes(request.word(2)));
    plain(Op::Set { key, value, condition: Condition::Always, expiry: Expiry::Never, get: true })
}

pub(crate) fn cas(request: &Request, _: &Context) -> Translated {
    let (key, old, value) = (bytes(request.word(1)), bytes(request.word(2)), bytes(request.word(3)));
    let op = Op::Set { key, value, condition: Condition::Equals(old), expiry: Expiry::Keep, get: false };
    Ok((op, ReplyShape::OneIfDone))
}

pub(crate) fn mset(request: &Request, _: &Context) -> Translated {
    plain(Op::MSet(pairs(request, "mset")?))
}

pub(crate) fn msetnx(request: &Request, _: &Context) -> Translated {
    plain(Op::MSetNx(pairs(request, "msetnx")?))
}

fn pairs(request: &Request, command: &str) -> Result<Vec<(Bytes, Bytes)>, String> {
    if request.len().is_multiple_of(2) {
        return Err(reply::wrong_arity(command));
    }
    let pair = |at: usize| (bytes(request.word(at)), bytes(request.word(at + 1)));
    Ok((1..request.len()).step_by(2).map(pair).collect())
}

pub(crate) fn getdel(request: &Request, _: &Context) -> Translated {
    plain(Op::GetDel(bytes(request.word(1))))
}

pub(crate) fn incr(request: &Request, _: &Context) -> Translated {
    plain(Op::IncrBy { key: bytes(request.word(1)), by: 1 })
}

pub(crate) fn decr(request: &Request, _: &Context) -> Translated {
    plain(Op::IncrBy { key: bytes(request.word(1)), by: -1 })
}

pub(crate) fn incrby(request: &Request, _: &Context) -> Translated {
    plain(Op::IncrBy { key: bytes(request.word(1)), by: number(request.word(2))? })
}

pub(crate) fn decrby(request: &Request, _: &Context) -> Translated {
    match number(request.word(2))?.checked_neg() {
        Some(by) => plain(Op::IncrBy { key: bytes(request.word(1)), by }),
        None => Err("ERR decrement would overflow".to_string()),
    }
}

pub(crate) fn append(request: &Request, _: &Context) -> Translated {
    plain(Op::Append { key: bytes(request.word(1)), value: bytes(request.word(2)) })
}

pub(crate) fn setrange(request: &Request, _: &Context) -> Translated {
    let offset = number(request.word(2))?;
    let offset = u64::try_from(offset).map_err(|_| "ERR offset is out of range".to_string())?;
    plain(Op::SetRange { key: bytes(request.word(1)), offset, value: bytes(request.word(3)) })
}

pub(crate) fn incrbyfloat(request: &Request, _: &Context) -> Translated {
    match Float::parse(request.word(2)) {
        Some(_) => plain(Op::IncrByFloat { key: bytes(request.word(1)), by: bytes(request.word(2)) }),
        None => Err(OpError::NotAFloat.to_string()),
    }
}

pub(crate) fn getex(request: &Request, context: &Context) -> Translated {
    let key = bytes(request.word(1));
    // `Some(None)`: PERSIST.
    let mut chosen: Option<Option<(TimeUnit, &[u8])>> = None;
    let mut at = 2;
    while at < request.len() {
        let word = request.word(at);
        match (TimeUnit::of(word), request.len() > at + 1) {
            _ if is_word(word, "persist") && matches!(chosen, None | Some(None)) => chosen = Some(None),
            (Some(unit), true) if chosen.is_none_or(|old| old.is_some_and(|(before, _)| before == unit)) => {
                chosen = Some(Some((unit, request.word(at + 1))));
                at += 1;
            }
            _ => return Err(SYNTAX.to_string()),
        }
        at += 1;
    }
    match chosen {
        None => plain(Op::Get(key)),
        Some(None) => plain(Op::GetEx { key, expiry: Expiry::Never }),
        Some(Some((unit, value))) => match unit.expiry(value, "getex", context) {
            Ok(expiry) => plain(Op::GetEx { key, expiry }),
            // As in Redis, which looks for the key first.
            Err(why) => Ok((Op::Exists(vec![key]), ReplyShape::IfPresent(error_reply(&why)))),
        },
    }
}
