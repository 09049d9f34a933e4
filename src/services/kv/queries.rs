//! Operations that only read, in a log entry or without one.
//!
//! Not here: operations that change something or need log time (`service.rs`, `state.rs`).

use super::budget::{Answer, Budget};
use super::commands::{Bytes, Op, RANGE_BYTES_MAX, Value, int};
use super::glob;
use super::key::Key;
use super::op_error::OpError;
use super::state::Store;
use crate::services::cost_within;
use crate::types::Stamp;

/// Read cost of examining one key, in bytes.
const LOOK_BYTES: usize = 64;

/// Returns about how many bytes are copied or examined to answer an operation; stops counting beyond `most`.
pub fn cost(store: &Store, op: &Op, most: usize) -> usize {
    let table = store.table();
    let value = |key: &Bytes| table.get(key).map_or(0, |slot| slot.value.len()) + LOOK_BYTES;
    match op {
        Op::Get(key) | Op::Read(key) => value(key),
        Op::MGet(keys) => cost_within(keys.iter().map(value), most),
        Op::Exists(keys) | Op::Revisions(keys) | Op::Marks(keys) => keys.len() * LOOK_BYTES,
        Op::Keys(pattern) => {
            let keys = table.with_prefix(glob::literal_prefix(pattern), None);
            cost_within(keys.map(|(key, _)| look_cost(key, Some(pattern))), most)
        }
        Op::Scan { after, glob, count } => {
            let keys = table.with_prefix(b"", after.as_ref().map(|after| after.as_slice()));
            let count = usize::try_from(*count).unwrap_or(usize::MAX).max(1);
            cost_within(keys.take(count).map(|(key, _)| look_cost(key, glob.as_ref())), most)
        }
        Op::Range { limit, .. } => {
            let rows = usize::try_from(*limit).unwrap_or(usize::MAX).min(table.rows());
            RANGE_BYTES_MAX.min(rows.saturating_mul(table.largest_value() + LOOK_BYTES))
        }
        _ => LOOK_BYTES,
    }
}

/// Returns the read cost of examining one key. A pattern costs at most its length for each byte of the key.
fn look_cost(key: &Key, pattern: Option<&Bytes>) -> usize {
    let steps = pattern.map_or(0, |pattern| pattern.len().saturating_mul(key.len() + 1));
    steps.saturating_add(key.len() + LOOK_BYTES)
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
                if budget.look(key, Some(pattern))? && !table.is_over(slot) {
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

fn scan(store: &Store, after: Option<&Bytes>, glob: Option<&Bytes>, count: u64, budget: &mut Budget) -> Answer {
    let table = store.table();
    let mut rows = table.with_prefix(b"", after.map(|after| after.as_slice())).peekable();
    let (mut found, mut last, mut looked) = (Vec::new(), None, 0);
    while let Some((key, slot)) = rows.peek().filter(|_| looked < count.max(1)) {
        match budget.look(key, glob) {
            Ok(true) if !table.is_over(slot) => found.push(budget.bytes(key)?),
            Ok(_) => {}
            // The page ends here, and the next one continues.
            Err(_) if last.is_some() => break,
            Err(why) => return Err(why),
        }
        looked += u64::from(!table.is_over(slot));
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
        budget.look(key, None)?;
        if table.is_over(slot) {
            continue;
        }
        bytes += key.len() + slot.value.len();
        // The first row is returned whatever its size, otherwise the pages would never get past it.
        if bytes > RANGE_BYTES_MAX && !rows.is_empty() {
            rows.push(Value::Nil);
            break;
        }
        rows.push(Value::List(vec![budget.bytes(key)?, budget.stored(&slot.value)?, int(slot.revision)]));
    }
    Ok(Value::List(rows))
}
