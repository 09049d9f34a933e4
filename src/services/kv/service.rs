//! The key-value store as a replicated service: decodes batches, executes their operations in order, and expires keys
//! and locks.
//!
//! An operation that fails returns an error and leaves the state unchanged. Times to live are counted in log time:
//! before an entry's commands, all keys and locks that are due at the entry's time expire, so a key expires at the same
//! index on every node. Part of them is removed then, the rest with later entries. An idle cluster has no entries, so
//! the leader proposes empty ones at [`Service::next_expiry_ms`], until all expired keys are removed.
//! Not here: what an operation changes (`state/`), exactly once (`services/sessions.rs`).

use super::budget::{Answer, Budget};
use super::commands::{
    BATCH_REPLY_BYTES_MAX, Batch, BatchReply, Condition, ENTRY_GROWTH_MAX, ENTRY_STEPS_MAX, ExpireIf, Expiry, Op,
    READ_REPLY_BYTES_MAX, READ_STEPS_MAX, Value, int,
};
use super::op_error::OpError;
use super::state::table::Portion;
use super::state::{Store, Used};
use super::{queries, snapshot};
use crate::services::{Replicated, Reply, Service, cost_within};
use crate::types::Stamp;
use std::io::{self, Read, Write};

/// The reply to bytes that do not decode.
const NOT_A_BATCH: &str = "not a batch of operations";

impl Replicated for Store {
    const ID: u8 = 2;
    const NAME: &'static str = "key-value";
    type Command = Batch;
    type Query = Batch;
}

impl Service for Store {
    fn apply(&mut self, at: Stamp, command: &[u8]) -> Reply {
        match postcard::from_bytes::<Batch>(command) {
            Ok(batch) => Reply::Ok(self.run(at, batch).encode()),
            Err(_) => Reply::Failed(NOT_A_BATCH.to_string()),
        }
    }

    fn expire(&mut self, at: Stamp) {
        self.used = Used::default();
        self.removed.note_many(self.table.move_to(at.at_ms), self.revision);
        let mut portion = Portion::default();
        self.table.expire(&mut portion);
        self.locks.expire(at.at_ms, &mut portion);
    }

    fn resume(&mut self, at: Stamp) {
        // A removal is recorded when a key expires, so the returned keys are not needed here.
        self.table.move_to(at.at_ms).for_each(drop);
    }

    fn next_expiry_ms(&self) -> Option<u64> {
        self.table.next_expiry_ms().into_iter().chain(self.locks.next_expiry_ms()).min()
    }

    fn query(&self, at: Stamp, query: &[u8]) -> Reply {
        match postcard::from_bytes::<Batch>(query) {
            Ok(batch) => self.query_batch(at, &batch),
            Err(_) => Reply::Failed(NOT_A_BATCH.to_string()),
        }
    }

    fn read_cost(&self, query: &[u8], most: usize) -> usize {
        let Ok(batch) = postcard::from_bytes::<Batch>(query) else { return 0 };
        cost_within(batch.ops.iter().map(|op| queries::cost(self, op, most)), most)
    }

    fn alter(&mut self, _at: Stamp) {
        self.put_altered();
    }

    fn snapshot(&self, out: &mut dyn Write) -> io::Result<()> {
        snapshot::write(self, out)
    }

    fn restore(&mut self, from: &mut dyn Read) -> io::Result<()> {
        *self = snapshot::read(from)?;
        Ok(())
    }
}

impl Store {
    /// Whether expired keys or locks are not removed yet; the next entry continues with them.
    pub fn has_expired_left(&self, at: Stamp) -> bool {
        self.next_expiry_ms().is_some_and(|due_ms| due_ms <= at.at_ms)
    }

    /// Executes a batch of the log: all its operations in order, one reply for each; none if a watched key has changed.
    /// The batches of one entry share their limits.
    pub fn run(&mut self, at: Stamp, batch: Batch) -> BatchReply {
        if self.has_changed(&batch.watched) {
            return BatchReply::Aborted;
        }
        let steps = ENTRY_STEPS_MAX.saturating_sub(self.used.steps);
        let growth = ENTRY_GROWTH_MAX.saturating_sub(self.used.growth);
        let mut budget = Budget { bytes: BATCH_REPLY_BYTES_MAX, steps, out_of_steps: OpError::EntrySteps, growth };
        let values = batch.ops.into_iter().map(|op| {
            let answer = match op.needs_log() {
                true => self.execute(at, op, &mut budget),
                false => queries::answer(self, at, &op, &mut budget),
            };
            answer.unwrap_or_else(Value::Error)
        });
        let values = values.collect();
        self.used = Used { steps: ENTRY_STEPS_MAX - budget.steps, growth: ENTRY_GROWTH_MAX - budget.growth };
        BatchReply::Values(values)
    }

    /// Answers a batch that only reads; `None` if it must go through the log.
    pub fn read_batch(&self, at: Stamp, batch: &Batch) -> Option<BatchReply> {
        if batch.needs_log() {
            return None;
        }
        if self.has_changed(&batch.watched) {
            return Some(BatchReply::Aborted);
        }
        let (bytes, steps) = (READ_REPLY_BYTES_MAX, READ_STEPS_MAX);
        let mut budget = Budget { bytes, steps, out_of_steps: OpError::ReadSteps, growth: 0 };
        let answers = batch.ops.iter().map(|op| queries::answer(self, at, op, &mut budget));
        Some(BatchReply::Values(answers.map(|answer| answer.unwrap_or_else(Value::Error)).collect()))
    }

    /// Returns the encoded reply to a query.
    pub fn query_batch(&self, at: Stamp, batch: &Batch) -> Reply {
        match self.read_batch(at, batch) {
            Some(ran) => Reply::Ok(ran.encode()),
            None => Reply::Failed("this batch must go through the log".to_string()),
        }
    }

    fn execute(&mut self, at: Stamp, op: Op, budget: &mut Budget) -> Answer {
        match op {
            Op::Ttl(key) => Ok(match self.table.get(&key) {
                None => Value::Int(-2),
                Some(slot) => slot.ttl_ms(at.at_ms).map_or(Value::Int(-1), int),
            }),
            Op::Set { key, value, condition, expiry, get } => {
                let old = match get {
                    true => Some(queries::answer(self, at, &Op::Get(key.clone()), budget)?),
                    false => None,
                };
                let is_written = self.write_if(at, &key, &value, &condition, expiry)?.is_some();
                Ok(old.unwrap_or(if is_written { Value::Ok } else { Value::Nil }))
            }
            Op::Put { key, value, condition, expiry } => {
                Ok(self.write_if(at, &key, &value, &condition, expiry)?.map_or(Value::Nil, int))
            }
            Op::MSet(pairs) => self.write_all(at, &pairs, &Condition::Always).map(|_| Value::Ok),
            Op::MSetNx(pairs) => self.write_all(at, &pairs, &Condition::Absent).map(|is_met| int(u8::from(is_met))),
            Op::Del(keys) => Ok(int(keys.iter().filter(|key| self.remove(key).is_some()).count())),
            Op::DelIf { key, condition } => Ok(match self.holds(&key, &condition) {
                true => int(u8::from(self.remove(&key).is_some())),
                false => Value::Nil,
            }),
            Op::GetDel(key) => {
                let value = queries::answer(self, at, &Op::Get(key.clone()), budget)?;
                self.remove(&key);
                Ok(value)
            }
            Op::GetEx { key, expiry } => {
                let value = queries::answer(self, at, &Op::Get(key.clone()), budget)?;
                let condition = if expiry == Expiry::Never { ExpireIf::HasOne } else { ExpireIf::Always };
                self.expire_key(at, &key, expiry, condition);
                Ok(value)
            }
            Op::IncrBy { key, by } => self.incr_by(at, &key, by),
            Op::IncrByFloat { key, by } => self.incr_by_float(at, &key, &by),
            Op::SetRange { key, offset, value } => self.set_range(at, &key, offset, &value, budget),
            Op::Rename { from, to, if_absent } => self.rename(&from, &to, if_absent),
            Op::Copy { from, to, replace } => self.copy(&from, &to, replace, budget),
            Op::Append { key, value } => self.append(at, &key, &value),
            Op::Expire { key, expiry, condition } => Ok(self.expire_key(at, &key, expiry, condition)),
            Op::Persist(key) => Ok(self.expire_key(at, &key, Expiry::Never, ExpireIf::HasOne)),
            Op::FlushAll => {
                self.table.clear();
                self.removed.note_all(self.revision);
                Ok(Value::Ok)
            }
            Op::LockAcquire { name, ttl_ms } => self.acquire(at, &name, ttl_ms),
            Op::LockRenew { name, token, ttl_ms } => self.renew(at, &name, token, ttl_ms),
            Op::LockRelease { name, token } => Ok(self.release(at, &name, token)),
            Op::ReleaseIf { key, token } => {
                let is_holder = self.has_value(&key, &token);
                Ok(int(u8::from(is_holder && self.remove(&key).is_some())))
            }
            Op::ExtendIf { key, token, ms, replace } => {
                let remaining = self.table.get(&key).and_then(|slot| slot.ttl_ms(at.at_ms));
                let Some(remaining) = remaining.filter(|_| self.has_value(&key, &token)) else { return Ok(int(0)) };
                let ms = if replace { ms } else { ms.saturating_add(remaining) };
                Ok(self.expire_key(at, &key, Expiry::In(ms), ExpireIf::Always))
            }
            Op::ReacquireIf { key, token, ms } => Ok(match self.has_value(&key, &token) {
                true => self.expire_key(at, &key, Expiry::In(ms), ExpireIf::Always),
                false => int(0),
            }),
            other => unreachable!("{other:?} does not need the log"),
        }
    }
}
