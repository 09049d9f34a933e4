//! Locks: LOCK.* and the scripts of redis-py's `Lock`.
//!
//! Not here: the texts of the scripts (`scripts.rs`).

use super::context::{Context, Translated, bytes, invalid_expire, number, plain};
use super::scripts::{self, Script};
use crate::resp::protocol::parse::{Request, integer};
use crate::services::kv::{Op, OpError};

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
