//! Commands on keys and locks: translates a request to one operation of the store, or to an error of Redis.
//!
//! Pure: the input is the request, the position of a SCAN, and the time, which is needed to refuse impossible expiries.
//! Not here: what an operation does (`services/kv/`), the form of its reply (`resp/reply_plan.rs`), the other commands
//! (`connection.rs`, `server.rs`).

use super::scripts::{self, Script};
use crate::resp::cursors::Cursors;
use crate::resp::protocol::parse::{Request, integer, is};
use crate::resp::reply_plan::Shape;
use crate::services::kv::OpError;
use crate::services::kv::{Bytes, Condition, ExpireIf, Expiry, Op};

/// The input of a translation beyond the request.
pub struct Context<'a> {
    /// Positions of SCANs.
    pub cursors: &'a Cursors,
    /// Scripts that were loaded.
    pub scripts: &'a scripts::Loaded,
    /// This node's clock, in milliseconds since 1970.
    pub now_ms: u64,
}

/// An operation and the form of its reply, or an error text.
pub type Translated = Result<(Op, Shape), String>;

/// Maximum number of keys that one page of a SCAN examines.
const SCAN_COUNT_MAX: u64 = 10_000;

const SYNTAX: &str = "ERR syntax error";

fn bytes(word: &[u8]) -> Bytes {
    Bytes::from(word.to_vec())
}

fn rest(request: &Request, from: usize) -> Vec<Bytes> {
    request.words().skip(from).map(bytes).collect()
}

fn number(word: &[u8]) -> Result<i64, String> {
    integer(word).ok_or_else(|| OpError::NotAnInteger.to_string())
}

fn invalid_expire(command: &str) -> String {
    format!("ERR invalid expire time in '{command}' command")
}

fn plain(op: Op) -> Translated {
    Ok((op, Shape::Plain))
}

// ---- reading ----

pub(crate) fn get(request: &Request, _: &Context) -> Translated {
    plain(Op::Get(bytes(request.word(1))))
}

pub(crate) fn mget(request: &Request, _: &Context) -> Translated {
    plain(Op::MGet(rest(request, 1)))
}

pub(crate) fn exists(request: &Request, _: &Context) -> Translated {
    plain(Op::Exists(rest(request, 1)))
}

pub(crate) fn strlen(request: &Request, _: &Context) -> Translated {
    plain(Op::StrLen(bytes(request.word(1))))
}

pub(crate) fn kind(request: &Request, _: &Context) -> Translated {
    plain(Op::Type(bytes(request.word(1))))
}

pub(crate) fn ttl(request: &Request, _: &Context) -> Translated {
    Ok((Op::Ttl(bytes(request.word(1))), Shape::Seconds))
}

pub(crate) fn pttl(request: &Request, _: &Context) -> Translated {
    plain(Op::Ttl(bytes(request.word(1))))
}

pub(crate) fn dbsize(_: &Request, _: &Context) -> Translated {
    plain(Op::Count)
}

pub(crate) fn keys(request: &Request, _: &Context) -> Translated {
    plain(Op::Keys(bytes(request.word(1))))
}

pub(crate) fn scan(request: &Request, context: &Context) -> Translated {
    // Redis accepts a minus sign, too.
    let text = std::str::from_utf8(request.word(1)).unwrap_or_default();
    let cursor = text
        .strip_prefix('-')
        .map_or_else(|| text.parse().ok(), |text| text.parse::<u64>().ok().map(u64::wrapping_neg));
    let Some(cursor) = cursor else { return Err("ERR invalid cursor".to_string()) };
    let (mut glob, mut count, mut is_hidden) = (None, 10, false);
    let mut at = 2;
    while at < request.len() {
        let Some(value) = (at + 1 < request.len()).then(|| request.word(at + 1)) else {
            return Err(SYNTAX.to_string());
        };
        match request.word(at) {
            word if is(word, "count") => {
                count = number(value)?;
                if count < 1 {
                    return Err(SYNTAX.to_string());
                }
            }
            word if is(word, "match") => glob = Some(bytes(value)),
            word if is(word, "type") => is_hidden = !is(value, "string"),
            _ => return Err(SYNTAX.to_string()),
        }
        at += 2;
    }
    let after = context.cursors.find(cursor).map(Bytes::from);
    let count = (count as u64).min(SCAN_COUNT_MAX);
    Ok((Op::Scan { after, glob, count }, Shape::Page { is_hidden }))
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
            _ if is(word, "nx") && condition != Condition::Present => condition = Condition::Absent,
            _ if is(word, "xx") && condition != Condition::Absent => condition = Condition::Present,
            _ if is(word, "get") => get = true,
            _ if is(word, "keepttl") && matches!(expiry, None | Some(None)) => expiry = Some(None),
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TimeUnit {
    is_seconds: bool,
    is_absolute: bool,
}

impl TimeUnit {
    const EX: TimeUnit = TimeUnit { is_seconds: true, is_absolute: false };
    const PX: TimeUnit = TimeUnit { is_seconds: false, is_absolute: false };
    const EXAT: TimeUnit = TimeUnit { is_seconds: true, is_absolute: true };
    const PXAT: TimeUnit = TimeUnit { is_seconds: false, is_absolute: true };

    fn of(word: &[u8]) -> Option<TimeUnit> {
        [("ex", Self::EX), ("px", Self::PX), ("exat", Self::EXAT), ("pxat", Self::PXAT)]
            .into_iter()
            .find_map(|(name, unit)| is(word, name).then_some(unit))
    }

    /// The expiry of a write, which must be greater than 0.
    fn expiry(self, value: &[u8], command: &str, context: &Context) -> Result<Expiry, String> {
        let value = number(value)?;
        if value <= 0 {
            return Err(invalid_expire(command));
        }
        Ok(match self.ms(value, command, context)? {
            (ms, true) => Expiry::At(ms as u64),
            (ms, false) => Expiry::In(ms as u64),
        })
    }

    /// Milliseconds, and whether they are absolute; an error if they or the time they lead to do not fit.
    fn ms(self, value: i64, command: &str, context: &Context) -> Result<(i64, bool), String> {
        let ms = if self.is_seconds { value.checked_mul(1000) } else { Some(value) };
        let base = if self.is_absolute { 0 } else { context.now_ms as i64 };
        match ms.filter(|ms| ms.checked_add(base).is_some()) {
            Some(ms) => Ok((ms, self.is_absolute)),
            None => Err(invalid_expire(command)),
        }
    }
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
    Ok((op, Shape::OneIfDone))
}

pub(crate) fn getset(request: &Request, _: &Context) -> Translated {
    let (key, value) = (bytes(request.word(1)), bytes(request.word(2)));
    plain(Op::Set { key, value, condition: Condition::Always, expiry: Expiry::Never, get: true })
}

pub(crate) fn cas(request: &Request, _: &Context) -> Translated {
    let (key, old, value) = (bytes(request.word(1)), bytes(request.word(2)), bytes(request.word(3)));
    let op = Op::Set { key, value, condition: Condition::Equals(old), expiry: Expiry::Keep, get: false };
    Ok((op, Shape::OneIfDone))
}

pub(crate) fn mset(request: &Request, _: &Context) -> Translated {
    if request.len().is_multiple_of(2) {
        return Err("ERR wrong number of arguments for 'mset' command".to_string());
    }
    let pair = |at: usize| (bytes(request.word(at)), bytes(request.word(at + 1)));
    plain(Op::MSet((1..request.len()).step_by(2).map(pair).collect()))
}

pub(crate) fn del(request: &Request, _: &Context) -> Translated {
    plain(Op::Del(rest(request, 1)))
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

pub(crate) fn flush(request: &Request, _: &Context) -> Translated {
    // In Redis these choose when memory is freed; here they have no effect.
    let is_fine = |word: &[u8]| is(word, "async") || is(word, "sync");
    match request.len() {
        1 => plain(Op::FlushAll),
        2 if is_fine(request.word(1)) => plain(Op::FlushAll),
        _ => Err(SYNTAX.to_string()),
    }
}

// ---- times to live ----

pub(crate) fn expire(request: &Request, context: &Context) -> Translated {
    expire_in(request, context, TimeUnit::EX, "expire")
}

pub(crate) fn pexpire(request: &Request, context: &Context) -> Translated {
    expire_in(request, context, TimeUnit::PX, "pexpire")
}

pub(crate) fn expireat(request: &Request, context: &Context) -> Translated {
    expire_in(request, context, TimeUnit::EXAT, "expireat")
}

pub(crate) fn pexpireat(request: &Request, context: &Context) -> Translated {
    expire_in(request, context, TimeUnit::PXAT, "pexpireat")
}

fn expire_in(request: &Request, context: &Context, unit: TimeUnit, command: &str) -> Translated {
    let condition = expire_condition(request)?;
    let (ms, is_absolute) = unit.ms(number(request.word(2))?, command, context)?;
    // A time before 1970 is in the past.
    let ms = u64::try_from(ms).ok();
    let expiry = match (ms, is_absolute) {
        (Some(ms), true) => Expiry::At(ms),
        (Some(ms), false) => Expiry::In(ms),
        (None, _) => Expiry::At(0),
    };
    plain(Op::Expire { key: bytes(request.word(1)), expiry, condition })
}

fn expire_condition(request: &Request) -> Result<ExpireIf, String> {
    let (mut nx, mut xx, mut gt, mut lt) = (false, false, false, false);
    for word in request.words().skip(3) {
        match word {
            _ if is(word, "nx") => nx = true,
            _ if is(word, "xx") => xx = true,
            _ if is(word, "gt") => gt = true,
            _ if is(word, "lt") => lt = true,
            _ => return Err(format!("ERR Unsupported option {}", String::from_utf8_lossy(word))),
        }
    }
    if nx && (xx || gt || lt) {
        return Err("ERR NX and XX, GT or LT options at the same time are not compatible".to_string());
    }
    match (nx, xx, gt, lt) {
        (_, _, true, true) => Err("ERR GT and LT options at the same time are not compatible".to_string()),
        (true, ..) => Ok(ExpireIf::HasNone),
        // No expiry counts as infinite, so nothing is later than it: GT implies XX.
        (_, _, true, _) => Ok(ExpireIf::Later),
        (_, true, _, true) => Ok(ExpireIf::EarlierThanOne),
        (_, _, _, true) => Ok(ExpireIf::Earlier),
        (_, true, ..) => Ok(ExpireIf::HasOne),
        _ => Ok(ExpireIf::Always),
    }
}

pub(crate) fn persist(request: &Request, _: &Context) -> Translated {
    plain(Op::Persist(bytes(request.word(1))))
}

// ---- locks ----

fn lock_ttl(word: &[u8], command: &str) -> Result<u64, String> {
    number(word)?.try_into().ok().filter(|ms| *ms > 0).ok_or_else(|| invalid_expire(command))
}

fn lock_token(word: &[u8]) -> Result<u64, String> {
    number(word)?.try_into().map_err(|_| OpError::NotAnInteger.to_string())
}

pub(crate) fn lock_acquire(request: &Request, _: &Context) -> Translated {
    let ttl_ms = lock_ttl(request.word(2), "lock.acquire")?;
    plain(Op::LockAcquire { name: bytes(request.word(1)), ttl_ms })
}

pub(crate) fn lock_renew(request: &Request, _: &Context) -> Translated {
    let ttl_ms = lock_ttl(request.word(3), "lock.renew")?;
    plain(Op::LockRenew { name: bytes(request.word(1)), token: lock_token(request.word(2))?, ttl_ms })
}

pub(crate) fn lock_release(request: &Request, _: &Context) -> Translated {
    plain(Op::LockRelease { name: bytes(request.word(1)), token: lock_token(request.word(2))? })
}

pub(crate) fn lock_info(request: &Request, _: &Context) -> Translated {
    plain(Op::LockInfo(bytes(request.word(1))))
}

pub(crate) fn eval(request: &Request, _: &Context) -> Translated {
    match scripts::recognise(request.word(1)) {
        Some(script) => script_op(request, script),
        None => numbers_of_keys(request).and(Err(scripts::UNKNOWN.to_string())),
    }
}

pub(crate) fn evalsha(request: &Request, context: &Context) -> Translated {
    if request.word(1).len() != scripts::NAME_BYTES {
        return Err("NOSCRIPT No matching script. Please use EVAL.".to_string());
    }
    match context.scripts.find(request.word(1)) {
        Some(script) => script_op(request, script),
        None => numbers_of_keys(request).and(Err("NOSCRIPT No matching script. Please use EVAL.".to_string())),
    }
}

fn numbers_of_keys(request: &Request) -> Result<usize, String> {
    let keys = number(request.word(2))?;
    if keys > request.len() as i64 - 3 {
        return Err("ERR Number of keys can't be greater than number of args".to_string());
    }
    usize::try_from(keys).map_err(|_| "ERR Number of keys can't be negative".to_string())
}

fn script_op(request: &Request, script: Script) -> Translated {
    let keys = numbers_of_keys(request)?;
    let argument = |n: usize| (3 + keys + n < request.len()).then(|| request.word(3 + keys + n));
    let (1.., Some(token)) = (keys, argument(0)) else {
        return Err("ERR this lock script needs one key and a token".to_string());
    };
    let (key, token) = (bytes(request.word(3)), bytes(token));
    let ms = |word: Option<&[u8]>| {
        let ms = word.and_then(integer).and_then(|ms| u64::try_from(ms).ok());
        ms.ok_or_else(|| OpError::NotAnInteger.to_string())
    };
    plain(match script {
        Script::Release => Op::ReleaseIf { key, token },
        Script::Extend => Op::ExtendIf { key, token, ms: ms(argument(1))?, replace: argument(2) != Some(b"0") },
        Script::Reacquire => Op::ReacquireIf { key, token, ms: ms(argument(1))? },
    })
}

#[cfg(test)]
#[path = "tests/keys.rs"]
mod tests;
