//! Commands on keys, whatever their values: translates a request to one operation of the store, or to an error of
//! Redis.
//!
//! Not here: what an operation does (`services/kv/`), the form of its reply (`resp/reply_plan.rs`), times to live
//! (`expiry.rs`), values (`strings.rs`).

use super::context::{Context, SYNTAX, Translated, bytes, error_reply, number, plain, rest};
use crate::resp::commands::connection::database;
use crate::resp::protocol::parse::{Request, is_word};
use crate::resp::protocol::reply;
use crate::resp::reply_plan::ReplyShape;
use crate::services::kv::{Bytes, Op};

/// Maximum number of keys that one page of a SCAN examines.
pub(crate) const SCAN_COUNT_MAX: u64 = 10_000;

pub(crate) fn exists(request: &Request, _: &Context) -> Translated {
    plain(Op::Exists(rest(request, 1)))
}

pub(crate) fn kind(request: &Request, _: &Context) -> Translated {
    plain(Op::Type(bytes(request.word(1))))
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
            word if is_word(word, "count") => {
                count = number(value)?;
                if count < 1 {
                    return Err(SYNTAX.to_string());
                }
            }
            word if is_word(word, "match") => glob = Some(bytes(value)),
            word if is_word(word, "type") => is_hidden = !is_word(value, "string"),
            _ => return Err(SYNTAX.to_string()),
        }
        at += 2;
    }
    let after = (context.position)(cursor).map(Bytes::from);
    let count = (count as u64).min(SCAN_COUNT_MAX);
    Ok((Op::Scan { after, glob, count }, ReplyShape::Page { is_hidden }))
}

pub(crate) fn del(request: &Request, _: &Context) -> Translated {
    plain(Op::Del(rest(request, 1)))
}

pub(crate) fn flush(request: &Request, _: &Context) -> Translated {
    // In Redis these choose when memory is freed; here they have no effect.
    let is_fine = |word: &[u8]| is_word(word, "async") || is_word(word, "sync");
    match request.len() {
        1 => plain(Op::FlushAll),
        2 if is_fine(request.word(1)) => plain(Op::FlushAll),
        _ => Err(SYNTAX.to_string()),
    }
}

pub(crate) fn rename(request: &Request, _: &Context) -> Translated {
    plain(renamed(request, false))
}

pub(crate) fn renamenx(request: &Request, _: &Context) -> Translated {
    plain(renamed(request, true))
}

fn renamed(request: &Request, if_absent: bool) -> Op {
    Op::Rename { from: bytes(request.word(1)), to: bytes(request.word(2)), if_absent }
}

pub(crate) fn copy(request: &Request, _: &Context) -> Translated {
    let (from, to) = (request.word(1), request.word(2));
    let (mut replace, mut at) = (false, 3);
    while at < request.len() {
        match request.word(at) {
            word if is_word(word, "replace") => replace = true,
            word if is_word(word, "db") && at + 1 < request.len() => {
                database(request.word(at + 1))?;
                at += 1;
            }
            _ => return Err(SYNTAX.to_string()),
        }
        at += 1;
    }
    if from == to {
        return Err("ERR source and destination objects are the same".to_string());
    }
    plain(Op::Copy { from: bytes(from), to: bytes(to), replace })
}

pub(crate) fn randomkey(_: &Request, context: &Context) -> Translated {
    plain(Op::RandomKey((context.draw)()))
}

pub(crate) fn object(request: &Request, _: &Context) -> Translated {
    let key = bytes(request.word(2));
    if is_word(request.word(1), "encoding") {
        return plain(Op::Encoding(key));
    }
    let reply = match request.word(1) {
        word if is_word(word, "refcount") => {
            let mut out = Vec::new();
            reply::int(&mut out, 1);
            out
        }
        word if is_word(word, "freq") => error_reply(
            "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when switching \
             between policies at runtime LRU and LFU data will take some time to adjust.",
        ),
        _ => error_reply("ERR the time of the last access to a key is not tracked"),
    };
    Ok((Op::Exists(vec![key]), ReplyShape::IfPresent(reply)))
}

pub(crate) fn memory(request: &Request, _: &Context) -> Translated {
    for at in (3..request.len()).step_by(2) {
        let has_value = at + 1 < request.len();
        if !is_word(request.word(at), "samples") || !has_value || number(request.word(at + 1))? < 0 {
            return Err(SYNTAX.to_string());
        }
    }
    plain(Op::MemoryUsage(bytes(request.word(2))))
}
