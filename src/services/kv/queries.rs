//! Operations that only read, in a log entry or without one.
//!
//! Not here: operations that change something or need log time (`service.rs`, `state/`).

use super::budget::{Answer, Budget};
use super::commands::{Bytes, Op, RANGE_BYTES_MAX, Value, int};
use super::glob;
use super::op_error::OpError;
use super::state::key::Key;
use super::state::stored::Stored;
use super::state::{Store, number};
use crate::services::cost_within;
use crate::types::Stamp;

/// Read cost of examining one key, in bytes.
const EXAMINE_BYTES: usize = 64;
/// Longest value that Redis stores together with its object.
const EMBEDDED_BYTES_MAX: usize = 44;
/// Places at which RANDOMKEY chooses a byte; keys that differ further behind are chosen by their order.
const RANDOM_DEPTH_MAX: usize = 64;

/// Returns about how many bytes are copied or examined to answer an operation; stops counting beyond `most`.
pub fn cost(store: &Store, op: &Op, most: usize) -> usize {
    let table = store.table();
    // All of them may lie where keys are searched, and searches pass over them.
    let expired = (table.rows() - table.len()) * EXAMINE_BYTES;
    let value = |key: &Bytes| table.get(key).map_or(0, |slot| slot.value.len()) + EXAMINE_BYTES;
    match op {
        Op::Get(key) | Op::Read(key) | Op::GetRange { key, .. } => value(key),
        Op::RandomKey(_) => expired + RANDOM_DEPTH_MAX * EXAMINE_BYTES,
        Op::MGet(keys) => cost_within(keys.iter().map(value), most),
        Op::Exists(keys) | Op::Revisions(keys) | Op::Marks(keys) => keys.len() * EXAMINE_BYTES,
        Op::Keys(pattern) => {
            let keys = table.with_prefix(glob::literal_prefix(pattern), None);
            cost_within(keys.map(|(key, _)| examine_cost(key, Some(pattern))), most)
        }
        Op::Scan { after, glob, count } => {
            let keys = table.with_prefix(b"", after.as_ref().map(|after| after.as_slice()));
            let count = usize::try_from(*count).unwrap_or(usize::MAX).max(1);
            expired.saturating_add(cost_within(keys.take(count).map(|(key, _)| examine_cost(key, glob.as_ref())), most))
        }
        Op::Range { limit, .. } => {
            let rows = usize::try_from(*limit).unwrap_or(usize::MAX).min(table.rows());
            expired + RANGE_BYTES_MAX.min(rows.saturating_mul(table.largest_value() + EXAMINE_BYTES))
        }
        _ => EXAMINE_BYTES,
    }
}

/// Returns the read cost of examining one key. A pattern costs at most its length for each byte of the key.
fn examine_cost(key: &Key, pattern: Option<&Bytes>) -> usize {
    let steps = pattern.map_or(0, |pattern| pattern.len().saturating_mul(key.len() + 1));
    steps.saturating_add(key.len() + EXAMINE_BYTES)
}

/// Answers an operation that does not have to go through the log.
pub fn answer(store: &Store, at: Stamp, op: &Op, budget: &mut Budget) -> Answer {
    let table = store.table();
    match op {
        Op::Get(key) => budget.value(table.get(key)),
        Op::MGet(keys) => {
            let values = keys.iter().map(|key| {
                // A missing key costs as well: it has an element in the list.
                budget.spend(0)?;
                budget.value(table.get(key))
            });
            Ok(Value::List(values.collect::<Result<_, _>>()?))
        }
        Op::Read(key) => {
            let Some(slot) = table.get(key) else { return Ok(Value::Nil) };
            let ttl = slot.ttl_ms(at.at_ms).map_or(Value::Int(-1), int);
            Ok(Value::List(vec![budget.stored(&slot.value)?, int(slot.revision), ttl]))
        }
        Op::Exists(keys) => Ok(int(keys.iter().filter(|key| table.get(key).is_some()).count())),
        Op::StrLen(key) => Ok(int(table.get(key).map_or(0, |slot| slot.value.len()))),
        Op::GetRange { key, start, end } => match table.get(key) {
            Some(slot) => {
                let range = range_within(slot.value.len(), *start, *end);
                budget.spend(range.len())?;
                Ok(Value::Bytes(Bytes::from(slot.value.part(range))))
            }
            None => Ok(Value::Bytes(Bytes::new())),
        },
        Op::ExpireTime(key) => Ok(match table.get(key) {
            None => Value::Int(-2),
            Some(slot) => slot.expires_ms().map_or(Value::Int(-1), int),
        }),
        Op::Encoding(key) => Ok(table.get(key).map_or(Value::Nil, |slot| encoding(&slot.value))),
        Op::MemoryUsage(key) => Ok(table.bytes_of(key).map_or(Value::Nil, int)),
        Op::CountExpiring => Ok(int(table.expiring())),
        Op::RandomKey(draw) => random_key(store, *draw, budget),
        Op::Type(key) => Ok(Value::Text(if table.get(key).is_some() { "string" } else { "none" }.to_string())),
        Op::Revisions(keys) => {
            let revisions = keys.iter().map(|key| {
                budget.spend(0)?;
                Ok(int(store.revision_of(key)))
            });
            Ok(Value::List(revisions.collect::<Result<_, OpError>>()?))
        }
        Op::Marks(keys) => {
            let marks = keys.iter().map(|key| {
                budget.spend(0)?;
                Ok(Value::Int(store.mark_of(key) as i64))
            });
            Ok(Value::List(marks.collect::<Result<_, OpError>>()?))
        }
        Op::Count => Ok(int(table.len())),
        Op::Keys(pattern) => {
            let mut found = Vec::new();
            for (key, slot) in table.with_prefix(glob::literal_prefix(pattern), None) {
                if budget.examine(key, Some(pattern))? && !table.is_expired(slot) {
                    found.push(budget.bytes(key)?);
                }
            }
            Ok(Value::List(found))
        }
        Op::Scan { after, glob, count } => scan(store, after.as_ref(), glob.as_ref(), *count, budget),
        Op::Range { prefix, after, limit } => range(store, prefix, after.as_ref(), *limit, budget),
        Op::LockInfo(name) => Ok(store.locks().get(name, at.at_ms).map_or(Value::Nil, |lock| {
            Value::List(vec![int(lock.token), int(lock.expires_ms.saturating_sub(at.at_ms))])
        })),
        other => unreachable!("{other:?} needs the log"),
    }
}

/// The bytes that GETRANGE returns of a value of this length.
fn range_within(len: usize, start: i64, end: i64) -> std::ops::Range<usize> {
    if start < 0 && end < 0 && start > end {
        return 0..0;
    }
    let from_start = |at: i64| match usize::try_from(at) {
        Ok(at) => at,
        Err(_) => len.saturating_sub(usize::try_from(at.unsigned_abs()).unwrap_or(usize::MAX)),
    };
    let (start, end) = (from_start(start), from_start(end).saturating_add(1).min(len));
    if start < end { start..end } else { 0..0 }
}

/// The name that Redis would give to the form in which it stores a value that was written as a whole.
fn encoding(value: &Stored) -> Value {
    let name = match value.len() {
        _ if number(value).is_some() => "int",
        0..=EMBEDDED_BYTES_MAX => "embstr",
        _ => "raw",
    };
    Value::Bytes(Bytes::from(name.as_bytes()))
}

/// Goes down the keys as a tree of their bytes: where they differ, `draw` chooses one of the bytes from the first key's
/// to the last one's. So every key can be chosen, and those of one form (numbers of equal length) about equally often.
fn random_key(store: &Store, mut draw: u64, budget: &mut Budget) -> Answer {
    let table = store.table();
    let Some((mut first, mut last)) = table.ends(b"", b"") else { return Ok(Value::Nil) };
    for _ in 0..RANDOM_DEPTH_MAX {
        if first == last {
            break;
        }
        budget.examine(first, None)?;
        let shared = first.iter().zip(last.iter()).take_while(|(a, b)| a == b).count();
        // 0: the key that ends here, if there is one.
        let byte_at = |key: &Key| key.get(shared).map_or(0, |byte| u64::from(*byte) + 1);
        let choices = byte_at(last) - byte_at(first) + 1;
        // A linear congruential generator (Knuth).
        draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let choice = byte_at(first) + (draw >> 33) % choices;
        let Some(byte) = choice.checked_sub(1) else {
            break;
        };
        let prefix = first[..shared].to_vec();
        let from = [&prefix[..], &[byte as u8]].concat();
        // No key may have this byte; then the next higher one that a key has.
        let Some((next, _)) = table.ends(&prefix, &from) else { break };
        let Some((a, b)) = table.ends(&next[..=shared], b"") else { break };
        (first, last) = (a, b);
    }
    // The chosen key may have expired and not be removed yet.
    if table.get(first).is_some() {
        return budget.bytes(first);
    }
    for (key, slot) in table.with_prefix(b"", Some(first)).chain(table.with_prefix(b"", None)) {
        budget.examine(key, None)?;
        if !table.is_expired(slot) {
            return budget.bytes(key);
        }
    }
    Ok(Value::Nil)
}

fn scan(store: &Store, after: Option<&Bytes>, glob: Option<&Bytes>, count: u64, budget: &mut Budget) -> Answer {
    let table = store.table();
    let mut rows = table.with_prefix(b"", after.map(|after| after.as_slice())).peekable();
    let (mut found, mut last, mut looked) = (Vec::new(), None, 0);
    while let Some((key, slot)) = rows.peek().filter(|_| looked < count.max(1)) {
        match budget.examine(key, glob) {
            Ok(true) if !table.is_expired(slot) => found.push(budget.bytes(key)?),
            Ok(_) => {}
            // The page ends here, and the next one continues.
            Err(_) if last.is_some() => break,
            Err(why) => return Err(why),
        }
        looked += u64::from(!table.is_expired(slot));
        last = Some(*key);
        rows.next();
    }
    let cursor = match (last, rows.next()) {
        (Some(last), Some(_)) => budget.bytes(last)?,
        _ => Value::Nil,
    };
    Ok(Value::List(vec![cursor, Value::List(found)]))
}

fn range(store: &Store, prefix: &Bytes, after: Option<&Bytes>, limit: u64, budget: &mut Budget) -> Answer {
    let table = store.table();
    let (mut rows, mut bytes) = (Vec::new(), 0);
    for (key, slot) in table.with_prefix(prefix, after.map(|after| after.as_slice())) {
        if rows.len() as u64 >= limit {
            break;
        }
        budget.examine(key, None)?;
        if table.is_expired(slot) {
            continue;
        }
        bytes += key.len() + slot.value.len();
        // The first row is returned regardless of its size, otherwise the pages would never get past it.
        if bytes > RANGE_BYTES_MAX && !rows.is_empty() {
            rows.push(Value::Nil);
            break;
        }
        rows.push(Value::List(vec![budget.bytes(key)?, budget.stored(&slot.value)?, int(slot.revision)]));
    }
    Ok(Value::List(rows))
}
