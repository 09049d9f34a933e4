//! Operations that change nothing: answered from the state as it stands, in the log or beside it.
//!
//! The caller says how many bytes the answer may still have ([`Budget`]): a client that asks a thousand times for the
//! largest value in one run gets errors, not a node without memory. The log is cut off at the same byte on every node.
//! Not here: operations that change something, or ask for the time (`store.rs`).

use super::glob;
use super::op::{Bytes, Op, RANGE_BYTES_MAX, TOO_LARGE_A_REPLY, Value};
use super::store::Store;
use super::stored::Stored;
use super::table::Slot;
use crate::types::Stamp;

/// What one operation answers; `Err` is the text of a [`Value::Error`].
pub type Answer = Result<Value, &'static str>;

/// What a value costs beside its bytes.
const VALUE_BYTES: usize = 16;

/// Bytes that a run may still answer.
pub struct Budget(pub usize);

impl Budget {
    /// Takes what one more value of so many bytes needs; refused, the budget stays as it is.
    pub fn spend(&mut self, bytes: usize) -> Result<(), &'static str> {
        self.0 = self.0.checked_sub(bytes + VALUE_BYTES).ok_or(TOO_LARGE_A_REPLY)?;
        Ok(())
    }

    fn bytes(&mut self, bytes: &[u8]) -> Answer {
        self.spend(bytes.len())?;
        Ok(Value::Bytes(Bytes::from(bytes)))
    }

    fn stored(&mut self, value: &Stored) -> Answer {
        self.spend(value.len())?;
        Ok(Value::Bytes(Bytes::from(value.to_vec())))
    }

    fn value(&mut self, slot: Option<&Slot>) -> Answer {
        slot.map_or(Ok(Value::Nil), |slot| self.stored(&slot.value))
    }
}

/// A count or number as the protocol has it.
pub fn int(number: impl TryInto<i64>) -> Value {
    Value::Int(number.try_into().unwrap_or(i64::MAX))
}

/// What a key costs that is looked at.
const LOOK_BYTES: usize = 64;

/// See [`Store::read_cost`].
pub fn cost(store: &Store, op: &Op) -> usize {
    let table = store.table();
    let value = |key: &Bytes| table.get(key).map_or(0, |slot| slot.value.len()) + LOOK_BYTES;
    match op {
        Op::Get(key) | Op::Read(key) => value(key),
        Op::MGet(keys) => keys.iter().map(value).sum(),
        Op::Exists(keys) | Op::Revisions(keys) | Op::Marks(keys) => keys.len() * LOOK_BYTES,
        Op::Keys(_) => table.len() * LOOK_BYTES,
        Op::Scan { count, .. } => {
            usize::try_from(*count).unwrap_or(usize::MAX).clamp(1, table.len().max(1)) * LOOK_BYTES
        }
        Op::Range { limit, .. } => {
            let rows = usize::try_from(*limit).unwrap_or(usize::MAX).min(table.len());
            RANGE_BYTES_MAX.min(rows.saturating_mul(table.largest_value() + LOOK_BYTES))
        }
        _ => LOOK_BYTES,
    }
}

/// Answers an operation that does not need the log.
pub fn answer(store: &Store, at: Stamp, op: &Op, budget: &mut Budget) -> Answer {
    let table = store.table();
    match op {
        Op::Get(key) => budget.value(table.get(key)),
        Op::MGet(keys) => {
            let values = keys.iter().map(|key| {
                // A missing key costs as well: the list has a place for it.
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
            Ok(Value::List(revisions.collect::<Result<_, &'static str>>()?))
        }
        Op::Marks(keys) => {
            let marks = keys.iter().map(|key| {
                budget.spend(0)?;
                Ok(Value::Int(store.mark_of(key) as i64))
            });
            Ok(Value::List(marks.collect::<Result<_, &'static str>>()?))
        }
        Op::Count => Ok(int(table.len())),
        Op::Keys(pattern) => {
            let keys = table.with_prefix(glob::literal_prefix(pattern), None).map(|(key, _)| key);
            let matching = keys.filter(|key| glob::matches(pattern, key));
            Ok(Value::List(matching.map(|key| budget.bytes(key)).collect::<Result<_, _>>()?))
        }
        Op::Scan { after, glob, count } => scan(store, after.as_ref(), glob.as_ref(), *count, budget),
        Op::Range { prefix, after, limit } => range(store, prefix, after.as_ref(), *limit, budget),
        Op::LockInfo(name) => Ok(store.locks().get(name).map_or(Value::Nil, |lock| {
            Value::List(vec![int(lock.token), int(lock.expires_ms.saturating_sub(at.at_ms))])
        })),
        other => unreachable!("{other:?} needs the log"),
    }
}

fn scan(store: &Store, after: Option<&Bytes>, glob: Option<&Bytes>, count: u64, budget: &mut Budget) -> Answer {
    let mut keys = store.table().with_prefix(b"", after.map(|after| after.as_slice())).map(|(key, _)| key);
    let mut found = Vec::new();
    let mut last = None;
    for _ in 0..count.max(1) {
        let Some(key) = keys.next() else { break };
        last = Some(key);
        if glob.is_none_or(|glob| glob::matches(glob, key)) {
            found.push(budget.bytes(key)?);
        }
    }
    let cursor = match (last, keys.next()) {
        (Some(last), Some(_)) => budget.bytes(last)?,
        _ => Value::Nil,
    };
    Ok(Value::List(vec![cursor, Value::List(found)]))
}

fn range(store: &Store, prefix: &Bytes, after: Option<&Bytes>, limit: u64, budget: &mut Budget) -> Answer {
    let slots = store.table().with_prefix(prefix, after.map(|after| after.as_slice()));
    let (mut rows, mut bytes) = (Vec::new(), 0);
    for (key, slot) in slots.take(usize::try_from(limit).unwrap_or(usize::MAX)) {
        bytes += key.len() + slot.value.len();
        // The first row is given however large it is, or the pages would never get beyond it.
        if bytes > RANGE_BYTES_MAX && !rows.is_empty() {
            rows.push(Value::Nil);
            break;
        }
        rows.push(Value::List(vec![budget.bytes(key)?, budget.stored(&slot.value)?, int(slot.revision)]));
    }
    Ok(Value::List(rows))
}
