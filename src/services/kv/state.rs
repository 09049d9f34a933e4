//! The state of the key-value store, and every operation that changes it.
//!
//! A run's operations are carried out one after another; one that cannot be answers an error and leaves the state as it
//! was. Times to live run on log time: before anything else of an entry, what is due at the entry's time is over, so
//! a key dies at the same index on every node. A portion of it is removed then, the rest with later entries. A quiet cluster has
//! no entries, so the leader proposes empty ones when [`Service::next_expiry_ms`] has come, until nothing is left to be removed.
//!
//! Invariants: K1 `revision` grows with every write and every lock that is taken, also within one entry, and is never
//! given twice. K2 no operation sees what is due at the log time of the newest entry.
//! Not here: operations that only read (`queries.rs`), exactly once (`services/sessions.rs`), the snapshot's form (`snapshot.rs`).

use super::commands::{
    ABSENT, Bytes, Condition, ENTRY_STEPS_MAX, ENTRY_STEPS_USED, ExpireIf, Expiry, KEY_BYTES_MAX, NO_TIME,
    NOT_AN_INTEGER, OVERFLOW, Op, READ_REPLY_BYTES_MAX, READ_STEPS_MAX, READ_STEPS_USED, RUN_REPLY_BYTES_MAX, Ran, Run,
    TOO_LARGE, Value, fits,
};
use super::locks::{Lock, Locks};
use super::queries::{self, Answer, Budget, int};
use super::removed::Removed;
use super::snapshot;
use super::stored::Stored;
use super::table::{Portion, Slot, Table};
use crate::services::{Reply, Service};
use crate::types::Stamp;
use std::io::{self, Read, Write};

/// The longest number of 64 bits has so many digits, with its sign. What is longer is not read, however long it is.
const NUMBER_BYTES_MAX: usize = 20;

/// See the module. A clone shares everything with the original until one of them is written to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Store {
    table: Table,
    locks: Locks,
    removed: Removed,
    revision: u64,
    /// Steps that looking through keys took in this entry so far.
    steps: Steps,
}

/// No part of the state: it begins anew with each entry.
#[derive(Clone, Copy, Debug, Default)]
struct Steps(u64);

impl PartialEq for Steps {
    fn eq(&self, _: &Steps) -> bool {
        true
    }
}

impl Eq for Steps {}

impl Store {
    /// The store that a snapshot holds.
    pub(crate) fn of(table: Table, locks: Locks, removed: Removed, revision: u64) -> Store {
        Store { table, locks, removed, revision, steps: Steps::default() }
    }

    /// Changes one key behind the log's back, and nothing that later answers depend on.
    pub(in crate::services) fn alter(&mut self) {
        self.table.put(b"altered", Stored::from(&b"1"[..]), self.revision, None);
    }

    /// The keys.
    pub(crate) fn table(&self) -> &Table {
        &self.table
    }

    /// The locks.
    pub(crate) fn locks(&self) -> &Locks {
        &self.locks
    }

    /// What was removed.
    pub(crate) fn removed(&self) -> &Removed {
        &self.removed
    }

    /// What WATCH remembers of a key: its revision, or that it does not exist now.
    pub fn mark_of(&self, key: &[u8]) -> u64 {
        self.table.get(key).map_or(ABSENT | self.revision, |slot| slot.revision)
    }

    /// The newest revision or fencing token that was drawn.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Revision of a key, 0 if it does not exist.
    pub fn revision_of(&self, key: &[u8]) -> u64 {
        self.table.get(key).map_or(0, |slot| slot.revision)
    }

    /// Number of keys.
    pub fn count(&self) -> usize {
        self.table.len()
    }

    /// Whether anything is over and not removed yet: the next entry goes on with it.
    pub fn is_left(&self, at: Stamp) -> bool {
        self.next_expiry_ms().is_some_and(|due_ms| due_ms <= at.at_ms)
    }

    /// Bytes of all keys, values and locks.
    pub fn bytes(&self) -> usize {
        self.table.bytes() + self.locks.bytes()
    }

    /// No value is larger, in bytes: doors cut pipelines of reads by it.
    pub fn largest_value(&self) -> usize {
        self.table.largest_value()
    }

    /// Carries out a run.
    pub fn run(&mut self, at: Stamp, run: Run) -> Ran {
        if self.has_changed(&run.watched) {
            return Ran::Aborted;
        }
        let steps = ENTRY_STEPS_MAX.saturating_sub(self.steps.0);
        let mut budget = Budget { bytes: RUN_REPLY_BYTES_MAX, steps, steps_used: ENTRY_STEPS_USED };
        let values = run.ops.into_iter().map(|op| {
            let answer = match op.needs_log() {
                true => self.carry_out(at, op, &mut budget),
                false => queries::answer(self, at, &op, &mut budget),
            };
            answer.unwrap_or_else(|why| Value::Error(why.to_string()))
        });
        let values = values.collect();
        self.steps.0 = ENTRY_STEPS_MAX - budget.steps;
        Ran::Values(values)
    }

    /// Answers a run that does not need the log; `None` if it does.
    pub fn ask(&self, at: Stamp, run: &Run) -> Option<Ran> {
        if run.needs_log() {
            return None;
        }
        if self.has_changed(&run.watched) {
            return Some(Ran::Aborted);
        }
        let mut budget = Budget { bytes: READ_REPLY_BYTES_MAX, steps: READ_STEPS_MAX, steps_used: READ_STEPS_USED };
        let answers = run.ops.iter().map(|op| queries::answer(self, at, op, &mut budget));
        Some(Ran::Values(answers.map(|answer| answer.unwrap_or_else(|why| Value::Error(why.to_string()))).collect()))
    }

    /// The reply to a query.
    pub fn answer(&self, at: Stamp, run: &Run) -> Reply {
        match self.ask(at, run) {
            Some(ran) => Reply::Ok(ran.encode()),
            None => Reply::Failed("this run must go through the log".to_string()),
        }
    }

    /// What it costs to answer a query, in bytes that are copied or looked at, about; not looked at beyond `most`.
    pub fn read_cost(&self, run: &Run, most: usize) -> usize {
        queries::sum(run.ops.iter().map(|op| queries::cost(self, op, most)), most)
    }

    /// Asserts what the room promises; for tests and the simulator.
    #[cfg(test)]
    pub fn check(&self, at: Stamp) {
        self.table.check();
        self.locks.check();
        assert!(
            self.table.iter().all(|(_, slot)| self.table.is_over(slot) == is_over(at, slot.expires_ms())),
            "K2: what is over at {at:?}"
        );
        let newest = self.table.iter().map(|(_, slot)| slot.revision).chain(self.locks.iter().map(|(_, l)| l.token));
        assert!(newest.max().unwrap_or(0) <= self.revision, "K1: a revision beyond {}", self.revision);
    }

    fn has_changed(&self, watched: &[(Bytes, u64)]) -> bool {
        watched.iter().any(|(key, mark)| match mark & ABSENT {
            0 => self.revision_of(key) != *mark,
            _ => self.table.get(key).is_some() || self.removed.newest(key) > mark & !ABSENT,
        })
    }

    /// Removes a key, and remembers when.
    fn remove(&mut self, key: &[u8]) -> Option<Slot> {
        let slot = self.table.remove(key)?;
        self.removed.note(key, self.revision);
        Some(slot)
    }

    fn draw(&mut self) -> u64 {
        self.revision += 1;
        self.revision
    }

    fn carry_out(&mut self, at: Stamp, op: Op, budget: &mut Budget) -> Answer {
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
            Op::MSet(pairs) => {
                if !pairs.iter().all(|(key, value)| fits(key, value.len())) {
                    return Err(TOO_LARGE);
                }
                for (key, value) in &pairs {
                    self.write(at, key, value.as_slice().into(), Expiry::Never);
                }
                Ok(Value::Ok)
            }
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
            Op::IncrBy { key, by } => self.incr_by(at, &key, by),
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
                let is_meant = self.has_value(&key, &token);
                Ok(int(u8::from(is_meant && self.remove(&key).is_some())))
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

    fn has_value(&self, key: &[u8], value: &[u8]) -> bool {
        self.table.get(key).is_some_and(|slot| slot.value.is(value))
    }

    fn holds(&self, key: &[u8], condition: &Condition) -> bool {
        match condition {
            Condition::Always => true,
            Condition::Absent => self.table.get(key).is_none(),
            Condition::Present => self.table.get(key).is_some(),
            Condition::Equals(value) => self.has_value(key, value),
            Condition::Revision(revision) => self.revision_of(key) == *revision,
        }
    }

    /// Writes a key and gives its revision; `None`: the condition is not met.
    fn write_if(
        &mut self,
        at: Stamp,
        key: &[u8],
        value: &[u8],
        condition: &Condition,
        expiry: Expiry,
    ) -> Result<Option<u64>, &'static str> {
        if !fits(key, value.len()) {
            return Err(TOO_LARGE);
        }
        Ok(self.holds(key, condition).then(|| self.write(at, key, value.into(), expiry)))
    }

    fn write(&mut self, at: Stamp, key: &[u8], value: Stored, expiry: Expiry) -> u64 {
        let revision = self.draw();
        let expires_ms = match expiry {
            Expiry::Keep => self.table.get(key).and_then(Slot::expires_ms),
            new => time_of(at, new),
        };
        if is_over(at, expires_ms) {
            self.remove(key);
        } else {
            self.table.put(key, value, revision, expires_ms);
        }
        revision
    }

    fn incr_by(&mut self, at: Stamp, key: &[u8], by: i64) -> Answer {
        let now = self.table.get(key).map_or(Some(0), |slot| number(&slot.value)).ok_or(NOT_AN_INTEGER)?;
        let sum = now.checked_add(by).ok_or(OVERFLOW)?;
        if !fits(key, 0) {
            return Err(TOO_LARGE);
        }
        self.write(at, key, sum.to_string().as_bytes().into(), Expiry::Keep);
        Ok(Value::Int(sum))
    }

    fn append(&mut self, at: Stamp, key: &[u8], more: &[u8]) -> Answer {
        let len = self.table.get(key).map_or(0, |slot| slot.value.len()) + more.len();
        if !fits(key, len) {
            return Err(TOO_LARGE);
        }
        let revision = self.revision + 1;
        match self.table.append(key, more, revision) {
            true => self.revision = revision,
            false => drop(self.write(at, key, more.into(), Expiry::Keep)),
        }
        Ok(int(len))
    }

    fn expire_key(&mut self, at: Stamp, key: &[u8], expiry: Expiry, condition: ExpireIf) -> Value {
        let Some(slot) = self.table.get(key) else { return int(0) };
        let now = slot.expires_ms();
        let new = if expiry == Expiry::Keep { now } else { time_of(at, expiry) };
        // No time to live counts as an infinite one.
        let order = |time: Option<u64>| (time.is_none(), time);
        let is_met = match condition {
            ExpireIf::Always => true,
            ExpireIf::HasNone => now.is_none(),
            ExpireIf::HasOne => now.is_some(),
            ExpireIf::Later => order(new) > order(now),
            ExpireIf::Earlier => order(new) < order(now),
            ExpireIf::EarlierThanOne => now.is_some() && order(new) < order(now),
        };
        if !is_met {
            return int(0);
        }
        if is_over(at, new) {
            self.remove(key);
        } else {
            let revision = self.draw();
            self.table.set_expiry(key, revision, new);
        }
        int(1)
    }

    fn acquire(&mut self, at: Stamp, name: &[u8], ttl_ms: u64) -> Answer {
        if name.len() > KEY_BYTES_MAX {
            return Err(TOO_LARGE);
        }
        if ttl_ms == 0 {
            return Err(NO_TIME);
        }
        if self.locks.get(name, at.at_ms).is_some() {
            return Ok(Value::Nil);
        }
        let token = self.draw();
        self.locks.put(name, Lock { token, expires_ms: at.at_ms.saturating_add(ttl_ms) });
        Ok(int(token))
    }

    fn renew(&mut self, at: Stamp, name: &[u8], token: u64, ttl_ms: u64) -> Answer {
        if ttl_ms == 0 {
            return Err(NO_TIME);
        }
        let is_held = self.locks.get(name, at.at_ms).is_some_and(|lock| lock.token == token);
        if is_held {
            self.locks.put(name, Lock { token, expires_ms: at.at_ms.saturating_add(ttl_ms) });
        }
        Ok(int(u8::from(is_held)))
    }

    fn release(&mut self, at: Stamp, name: &[u8], token: u64) -> Value {
        let is_held = self.locks.get(name, at.at_ms).is_some_and(|lock| lock.token == token);
        if is_held {
            self.locks.remove(name);
        }
        int(u8::from(is_held))
    }
}

impl Service for Store {
    fn apply(&mut self, at: Stamp, command: &[u8]) -> Reply {
        match postcard::from_bytes::<Run>(command) {
            Ok(run) => Reply::Ok(self.run(at, run).encode()),
            Err(_) => Reply::Failed("not a run of operations".to_string()),
        }
    }

    fn expire(&mut self, at: Stamp) {
        self.steps = Steps::default();
        self.removed.note_many(self.table.move_to(at.at_ms), self.revision);
        let mut portion = Portion::default();
        self.table.expire(&mut portion);
        self.locks.expire(at.at_ms, &mut portion);
    }

    fn resume(&mut self, at: Stamp) {
        // They were noted when they became due.
        self.table.move_to(at.at_ms).for_each(drop);
    }

    fn next_expiry_ms(&self) -> Option<u64> {
        self.table.next_expiry_ms().into_iter().chain(self.locks.next_expiry_ms()).min()
    }

    fn query(&self, at: Stamp, query: &[u8]) -> Reply {
        match postcard::from_bytes::<Run>(query) {
            Ok(run) => self.answer(at, &run),
            Err(_) => Reply::Failed("not a run of operations".to_string()),
        }
    }

    fn snapshot(&self, out: &mut dyn Write) -> io::Result<()> {
        snapshot::write(self, out)
    }

    fn restore(&mut self, from: &mut dyn Read) -> io::Result<()> {
        *self = snapshot::read(from)?;
        Ok(())
    }
}

/// The log time that an expiry names; `None`: never.
fn time_of(at: Stamp, expiry: Expiry) -> Option<u64> {
    match expiry {
        Expiry::Never | Expiry::Keep => None,
        Expiry::In(ms) => Some(at.at_ms.saturating_add(ms)),
        Expiry::At(ms) => Some(ms),
    }
}

fn is_over(at: Stamp, expires_ms: Option<u64>) -> bool {
    expires_ms.is_some_and(|expires_ms| expires_ms <= at.at_ms)
}

/// A number as Redis stores it: no sign but a minus, no zero in front, nothing around it.
fn number(value: &Stored) -> Option<i64> {
    let text = value.short().filter(|text| text.len() <= NUMBER_BYTES_MAX)?;
    let number: i64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (number.to_string().as_bytes() == text).then_some(number)
}
