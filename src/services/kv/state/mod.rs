//! The state of the key-value store, and every operation that changes it.
//!
//! Invariants: K1 `revision` increases with every write and every acquired lock, also within one entry, so no value is
//! used twice. K2 no operation sees a key or lock that is expired at the log time of the newest entry.
//! Below it, `table.rs` has the keys with their times to live, `stored.rs` their values, `key.rs` their names, `locks.rs`
//! the locks with their fencing tokens, `removed.rs` the revisions of removals.
//! Not here: the operations of a command (`service.rs`), operations that only read (`queries.rs`), the format of the
//! snapshot (`snapshot.rs`).

pub(super) mod key;
pub(super) mod locks;
pub(super) mod removed;
pub(super) mod stored;
pub(super) mod table;

use self::locks::{Lock, Locks};
use self::removed::Removed;
use self::stored::Stored;
use self::table::{Slot, Table};
use super::budget::{Answer, Budget};
use super::commands::{ABSENT, Bytes, Condition, ExpireIf, Expiry, KEY_BYTES_MAX, Value, fits, int};
use super::float::Float;
use super::op_error::OpError;
use crate::types::Stamp;

/// Maximum length of a 64-bit number in decimal, with its sign. A longer value is not parsed.
const NUMBER_BYTES_MAX: usize = 20;

/// State of the key-value store. A clone shares its data with the original (copy-on-write).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Store {
    pub(super) table: Table,
    pub(super) locks: Locks,
    pub(super) removed: Removed,
    pub(super) revision: u64,
    /// What the batches of this entry have used so far.
    pub(super) used: Used,
}

/// What the batches of one entry have used of its limits. It is not part of the state, so all values compare as equal.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Used {
    /// Steps of searching through keys.
    pub(super) steps: u64,
    /// Bytes that were added beyond what the batches contain.
    pub(super) growth: usize,
}

impl PartialEq for Used {
    fn eq(&self, _: &Used) -> bool {
        true
    }
}

impl Eq for Used {}

impl Store {
    /// Creates a store from the content of a snapshot.
    pub(crate) fn of(table: Table, locks: Locks, removed: Removed, revision: u64) -> Store {
        Store { table, locks, removed, revision, used: Used::default() }
    }

    /// Adds one key on which no later reply depends; see [`crate::services::Service::alter`].
    pub(super) fn put_altered(&mut self) {
        self.table.put(b"altered", Stored::from(&b"1"[..]), self.revision, None);
    }

    pub(crate) fn table(&self) -> &Table {
        &self.table
    }

    pub(crate) fn locks(&self) -> &Locks {
        &self.locks
    }

    /// Returns the revisions of removals.
    pub(crate) fn removed(&self) -> &Removed {
        &self.removed
    }

    /// Returns the mark of a key for WATCH ([`super::commands::Op::Marks`]).
    pub fn mark_of(&self, key: &[u8]) -> u64 {
        self.table.get(key).map_or(ABSENT | self.revision, |slot| slot.revision)
    }

    /// Returns the newest revision or fencing token.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Returns the revision of a key, 0 if it does not exist.
    pub fn revision_of(&self, key: &[u8]) -> u64 {
        self.table.get(key).map_or(0, |slot| slot.revision)
    }

    pub fn count(&self) -> usize {
        self.table.len()
    }

    /// Returns the approximate memory of all keys, values and locks in bytes.
    pub fn bytes(&self) -> usize {
        self.table.bytes() + self.locks.bytes()
    }

    /// Returns an upper bound of the length of all values in bytes, by which endpoints split pipelines of reads.
    pub fn largest_value(&self) -> usize {
        self.table.largest_value()
    }

    /// Asserts the invariants; for tests and the simulator.
    #[cfg(test)]
    pub fn check(&self, at: Stamp) {
        self.table.check();
        self.locks.check();
        assert!(
            self.table.iter().all(|(_, slot)| self.table.is_expired(slot) == is_expired(at, slot.expires_ms())),
            "K2: what has expired at {at:?}"
        );
        let newest = self.table.iter().map(|(_, slot)| slot.revision).chain(self.locks.iter().map(|(_, l)| l.token));
        assert!(newest.max().unwrap_or(0) <= self.revision, "K1: a revision beyond {}", self.revision);
    }

    pub(super) fn has_changed(&self, watched: &[(Bytes, u64)]) -> bool {
        watched.iter().any(|(key, mark)| match mark & ABSENT {
            0 => self.revision_of(key) != *mark,
            _ => self.table.get(key).is_some() || self.removed.newest(key) > mark & !ABSENT,
        })
    }

    /// Removes a key and records the revision of its removal.
    pub(super) fn remove(&mut self, key: &[u8]) -> Option<Slot> {
        let slot = self.table.remove(key)?;
        self.removed.note(key, self.revision);
        Some(slot)
    }

    fn next_revision(&mut self) -> u64 {
        self.revision += 1;
        self.revision
    }

    pub(super) fn has_value(&self, key: &[u8], value: &[u8]) -> bool {
        self.table.get(key).is_some_and(|slot| slot.value.is(value))
    }

    pub(super) fn holds(&self, key: &[u8], condition: &Condition) -> bool {
        match condition {
            Condition::Always => true,
            Condition::Absent => self.table.get(key).is_none(),
            Condition::Present => self.table.get(key).is_some(),
            Condition::Equals(value) => self.has_value(key, value),
            Condition::Revision(revision) => self.revision_of(key) == *revision,
        }
    }

    /// Writes a key and returns its revision; `None` if the condition is not met.
    pub(super) fn write_if(
        &mut self,
        at: Stamp,
        key: &[u8],
        value: &[u8],
        condition: &Condition,
        expiry: Expiry,
    ) -> Result<Option<u64>, OpError> {
        if !fits(key, value.len()) {
            return Err(OpError::TooLarge);
        }
        Ok(self.holds(key, condition).then(|| self.write(at, key, value.into(), expiry)))
    }

    /// Writes several keys if the condition holds for each; returns whether it does.
    pub(super) fn write_all(
        &mut self,
        at: Stamp,
        pairs: &[(Bytes, Bytes)],
        condition: &Condition,
    ) -> Result<bool, OpError> {
        if !pairs.iter().all(|(key, value)| fits(key, value.len())) {
            return Err(OpError::TooLarge);
        }
        let is_met = pairs.iter().all(|(key, _)| self.holds(key, condition));
        for (key, value) in pairs.iter().filter(|_| is_met) {
            self.write(at, key, value.as_slice().into(), Expiry::Never);
        }
        Ok(is_met)
    }

    pub(super) fn write(&mut self, at: Stamp, key: &[u8], value: Stored, expiry: Expiry) -> u64 {
        let revision = self.next_revision();
        let expires_ms = match expiry {
            Expiry::Keep => self.table.get(key).and_then(Slot::expires_ms),
            new => time_of(at, new),
        };
        if is_expired(at, expires_ms) {
            self.remove(key);
        } else {
            self.table.put(key, value, revision, expires_ms);
        }
        revision
    }

    pub(super) fn incr_by(&mut self, at: Stamp, key: &[u8], by: i64) -> Answer {
        let now = self.table.get(key).map_or(Some(0), |slot| number(&slot.value)).ok_or(OpError::NotAnInteger)?;
        let sum = now.checked_add(by).ok_or(OpError::Overflow)?;
        if !fits(key, 0) {
            return Err(OpError::TooLarge);
        }
        self.write(at, key, sum.to_string().as_bytes().into(), Expiry::Keep);
        Ok(Value::Int(sum))
    }

    pub(super) fn append(&mut self, at: Stamp, key: &[u8], more: &[u8]) -> Answer {
        let len = self.table.get(key).map_or(0, |slot| slot.value.len()) + more.len();
        if !fits(key, len) {
            return Err(OpError::TooLarge);
        }
        let revision = self.revision + 1;
        match self.table.append(key, more, revision) {
            true => self.revision = revision,
            false => drop(self.write(at, key, more.into(), Expiry::Keep)),
        }
        Ok(int(len))
    }

    /// Overwrites a value from byte `offset` on.
    pub(super) fn set_range(&mut self, at: Stamp, key: &[u8], offset: u64, part: &[u8], budget: &mut Budget) -> Answer {
        let old = self.table.get(key).map(|slot| slot.value.len());
        let len = old.unwrap_or(0);
        if part.is_empty() {
            return Ok(int(len));
        }
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let new_len = offset.saturating_add(part.len()).max(len);
        if !fits(key, new_len) {
            return Err(OpError::TooLarge);
        }
        budget.grow(offset.saturating_sub(len))?;
        let revision = self.revision + 1;
        match old {
            Some(_) => {
                self.table.overwrite(key, offset, part, revision);
                self.revision = revision;
            }
            None => {
                let mut value = vec![0; offset];
                value.extend_from_slice(part);
                self.write(at, key, value.as_slice().into(), Expiry::Keep);
            }
        }
        Ok(int(new_len))
    }

    pub(super) fn incr_by_float(&mut self, at: Stamp, key: &[u8], by: &[u8]) -> Answer {
        let now = match self.table.get(key) {
            None => Some(Float::ZERO),
            Some(slot) => slot.value.short().and_then(Float::parse),
        };
        let (Some(now), Some(by)) = (now, Float::parse(by)) else { return Err(OpError::NotAFloat) };
        let sum = now.plus(by).print().ok_or(OpError::FloatOverflow)?;
        if !fits(key, sum.len()) {
            return Err(OpError::TooLarge);
        }
        self.write(at, key, sum.as_bytes().into(), Expiry::Keep);
        Ok(Value::Bytes(Bytes::from(sum.into_bytes())))
    }

    pub(super) fn rename(&mut self, from: &[u8], to: &[u8], if_absent: bool) -> Answer {
        let done = |is_done: bool| if if_absent { int(u8::from(is_done)) } else { Value::Ok };
        if self.table.get(from).is_none() {
            return Err(OpError::NoSuchKey);
        }
        if from == to {
            return Ok(done(false));
        }
        if !fits(to, 0) {
            return Err(OpError::TooLarge);
        }
        if if_absent && self.table.get(to).is_some() {
            return Ok(done(false));
        }
        let slot = self.remove(from).expect("it is there");
        let (revision, expires_ms) = (self.next_revision(), slot.expires_ms());
        self.table.put(to, slot.value, revision, expires_ms);
        Ok(done(true))
    }

    pub(super) fn copy(&mut self, from: &[u8], to: &[u8], replace: bool, budget: &mut Budget) -> Answer {
        let Some(slot) = self.table.get(from) else { return Ok(int(0)) };
        if !replace && self.table.get(to).is_some() {
            return Ok(int(0));
        }
        if !fits(to, 0) {
            return Err(OpError::TooLarge);
        }
        budget.grow(slot.value.len())?;
        // Not shared with the original: a later write of one would have to copy the bytes then.
        let (value, expires_ms) = (Stored::from(slot.value.to_vec().as_slice()), slot.expires_ms());
        let revision = self.next_revision();
        self.table.put(to, value, revision, expires_ms);
        Ok(int(1))
    }

    pub(super) fn expire_key(&mut self, at: Stamp, key: &[u8], expiry: Expiry, condition: ExpireIf) -> Value {
        let Some(slot) = self.table.get(key) else { return int(0) };
        let now = slot.expires_ms();
        let new = if expiry == Expiry::Keep { now } else { time_of(at, expiry) };
        // A missing time to live counts as infinite.
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
        if is_expired(at, new) {
            self.remove(key);
        } else {
            let revision = self.next_revision();
            self.table.set_expiry(key, revision, new);
        }
        int(1)
    }

    pub(super) fn acquire(&mut self, at: Stamp, name: &[u8], ttl_ms: u64) -> Answer {
        if name.len() > KEY_BYTES_MAX {
            return Err(OpError::TooLarge);
        }
        if ttl_ms == 0 {
            return Err(OpError::NoTime);
        }
        if self.locks.get(name, at.at_ms).is_some() {
            return Ok(Value::Nil);
        }
        let token = self.next_revision();
        self.locks.put(name, Lock { token, expires_ms: at.at_ms.saturating_add(ttl_ms) });
        Ok(int(token))
    }

    pub(super) fn renew(&mut self, at: Stamp, name: &[u8], token: u64, ttl_ms: u64) -> Answer {
        if ttl_ms == 0 {
            return Err(OpError::NoTime);
        }
        let is_held = self.locks.get(name, at.at_ms).is_some_and(|lock| lock.token == token);
        if is_held {
            self.locks.put(name, Lock { token, expires_ms: at.at_ms.saturating_add(ttl_ms) });
        }
        Ok(int(u8::from(is_held)))
    }

    pub(super) fn release(&mut self, at: Stamp, name: &[u8], token: u64) -> Value {
        let is_held = self.locks.get(name, at.at_ms).is_some_and(|lock| lock.token == token);
        if is_held {
            self.locks.remove(name);
        }
        int(u8::from(is_held))
    }
}

/// Returns the log time of an expiry in milliseconds; `None` if the key does not expire.
fn time_of(at: Stamp, expiry: Expiry) -> Option<u64> {
    match expiry {
        Expiry::Never | Expiry::Keep => None,
        Expiry::In(ms) => Some(at.at_ms.saturating_add(ms)),
        Expiry::At(ms) => Some(ms),
    }
}

fn is_expired(at: Stamp, expires_ms: Option<u64>) -> bool {
    expires_ms.is_some_and(|expires_ms| expires_ms <= at.at_ms)
}

/// Parses a number as Redis does: no plus sign, no leading zeros, no white space.
pub(super) fn number(value: &Stored) -> Option<i64> {
    let text = value.short().filter(|text| text.len() <= NUMBER_BYTES_MAX)?;
    let number: i64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (number.to_string().as_bytes() == text).then_some(number)
}
