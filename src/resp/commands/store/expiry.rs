//! Times to live: EXPIRE and its relatives, and the options EX, PX, EXAT, PXAT of others.
//!
//! Not here: when a key expires (`services/kv/`).

use super::context::{Context, Translated, bytes, invalid_expire, number, plain};
use crate::resp::protocol::parse::{Request, is_word};
use crate::resp::reply_plan::ReplyShape;
use crate::services::kv::{ExpireIf, Expiry, Op};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimeUnit {
    is_seconds: bool,
    is_absolute: bool,
}

impl TimeUnit {
    pub(crate) const EX: TimeUnit = TimeUnit { is_seconds: true, is_absolute: false };
    pub(crate) const PX: TimeUnit = TimeUnit { is_seconds: false, is_absolute: false };
    pub(crate) const EXAT: TimeUnit = TimeUnit { is_seconds: true, is_absolute: true };
    pub(crate) const PXAT: TimeUnit = TimeUnit { is_seconds: false, is_absolute: true };

    pub(crate) fn of(word: &[u8]) -> Option<TimeUnit> {
        [("ex", Self::EX), ("px", Self::PX), ("exat", Self::EXAT), ("pxat", Self::PXAT)]
            .into_iter()
            .find_map(|(name, unit)| is_word(word, name).then_some(unit))
    }

    /// The expiry of a write, which must be greater than 0.
    pub(crate) fn expiry(self, value: &[u8], command: &str, context: &Context) -> Result<Expiry, String> {
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

pub(crate) fn ttl(request: &Request, _: &Context) -> Translated {
    Ok((Op::Ttl(bytes(request.word(1))), ReplyShape::Seconds))
}

pub(crate) fn pttl(request: &Request, _: &Context) -> Translated {
    plain(Op::Ttl(bytes(request.word(1))))
}

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
            _ if is_word(word, "nx") => nx = true,
            _ if is_word(word, "xx") => xx = true,
            _ if is_word(word, "gt") => gt = true,
            _ if is_word(word, "lt") => lt = true,
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

pub(crate) fn expiretime(request: &Request, _: &Context) -> Translated {
    Ok((Op::ExpireTime(bytes(request.word(1))), ReplyShape::Seconds))
}

pub(crate) fn pexpiretime(request: &Request, _: &Context) -> Translated {
    plain(Op::ExpireTime(bytes(request.word(1))))
}
