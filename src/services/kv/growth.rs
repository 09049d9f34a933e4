//! Upper bounds of what a command adds to the memory of the store, known before it is applied: quotas are checked with
//! them (`node/quota.rs`).
//!
//! Invariant: G1 the commands of an entry make the store larger by the sum of their `contained` at most, and by the sum
//! of their `copied`, or [`ENTRY_GROWTH_MAX`] if that is less.

use super::commands::{Batch, Bytes, ENTRY_GROWTH_MAX, Op, VALUE_BYTES_MAX};
use super::float;
use super::state::table::KEY_OVERHEAD_BYTES;

/// Upper bounds of the bytes that a command adds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Growth {
    /// Keys, values and locks that the command contains, with the store's overhead for each.
    pub contained: u64,
    /// Copies of values, and zeros before a part that is written.
    pub copied: u64,
}

/// No command adds more for each of its bytes: the shortest part of one that adds a key has two, a decimal number that
/// is added has four.
const CONTAINED_PER_BYTE: u64 = 128;

impl Growth {
    /// The bounds that hold for every command of this length, which need not be decoded for them.
    pub fn of_length(bytes: usize) -> Growth {
        Growth { contained: bytes as u64 * CONTAINED_PER_BYTE, copied: ENTRY_GROWTH_MAX as u64 }
    }

    /// The bounds of this command.
    pub fn of(command: &[u8]) -> Growth {
        let Ok(batch) = postcard::from_bytes::<Batch>(command) else { return Growth::default() };
        let (mut contained, mut copied) = (0, 0);
        for op in &batch.ops {
            let (adds, copies) = of_op(op);
            contained += adds;
            copied += copies;
        }
        Growth { contained: contained as u64, copied: copied as u64 }
    }
}

fn of_op(op: &Op) -> (usize, usize) {
    let row = |key: &Bytes, value: usize| key.len() + value + KEY_OVERHEAD_BYTES;
    match op {
        Op::Set { key, value, .. } | Op::Put { key, value, .. } | Op::Append { key, value } => {
            (row(key, value.len()), 0)
        }
        Op::SetRange { key, offset, value } => {
            (row(key, value.len()), usize::try_from(*offset).map_or(VALUE_BYTES_MAX, |at| at.min(VALUE_BYTES_MAX)))
        }
        Op::MSet(pairs) | Op::MSetNx(pairs) => (pairs.iter().map(|(key, value)| row(key, value.len())).sum(), 0),
        Op::IncrBy { key, .. } => (row(key, i64::MIN.to_string().len()), 0),
        Op::IncrByFloat { key, .. } => (row(key, float::PRINTED_BYTES_MAX), 0),
        Op::Rename { to, .. } => (to.len(), 0),
        Op::Copy { to, .. } => (row(to, 0), VALUE_BYTES_MAX),
        Op::LockAcquire { name, .. } => (row(name, 0), 0),
        _ => (0, 0),
    }
}
