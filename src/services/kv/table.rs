//! The keys: value, revision and time to live of each, in order, and the times to live in the order in which they end.
//!
//! Both trees share their nodes with their copies: a clone costs two counters, and a write after it copies the few
//! nodes on its way. Values and long keys are shared bytes, so a copied node copies pointers and short keys.
//!
//! A million keys may be due at one moment, and removing them takes seconds. So an entry removes a [`Portion`] of them,
//! the rest is over: it looks absent to everyone, and goes with the next entries.
//!
//! Invariants: T1 `due` holds exactly one row for each key that has a time to live. T2 a key is over when it is due at
//! or before the log time of the newest entry, and nothing but a walk and the snapshot shows it then. T3 no key is put
//! that is due already; that is the caller's duty.
//! Not here: revisions and conditions (`state.rs`).

use super::key::Key;
use super::stored::Stored;
use imbl::{OrdMap, OrdSet};
use std::num::NonZeroU64;
use std::ops::Bound;

/// What stands under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// What a client stored.
    pub value: Stored,
    /// Of the write that made it so.
    pub revision: u64,
    /// Log time at which it is gone; a number that is never 0 keeps the slot small.
    expires_ms: Option<NonZeroU64>,
}

impl Slot {
    /// Log time at which it is gone.
    pub fn expires_ms(&self) -> Option<u64> {
        self.expires_ms.map(NonZeroU64::get)
    }

    /// Milliseconds that remain at `now_ms`.
    pub fn ttl_ms(&self, now_ms: u64) -> Option<u64> {
        self.expires_ms().map(|at_ms| at_ms.saturating_sub(now_ms))
    }
}

/// What is known beside the state: it follows from it and from log time, or is different on a node that came by a
/// snapshot. So equal tables may differ in it.
#[derive(Clone, Copy, Debug, Default)]
struct Beside {
    /// Bytes of the largest value that was ever put.
    largest: usize,
    /// Log time of the newest entry.
    now_ms: u64,
    /// Keys that are over and not removed yet.
    over: usize,
}

impl Beside {
    fn is_over(&self, slot: &Slot) -> bool {
        slot.expires_ms().is_some_and(|at_ms| at_ms <= self.now_ms)
    }
}

impl PartialEq for Beside {
    fn eq(&self, _: &Beside) -> bool {
        true
    }
}

impl Eq for Beside {}

/// How much of what is over may still be removed with an entry. Tests have fewer.
#[derive(Debug)]
pub struct Portion(usize);

/// Keys and locks that are removed with one entry, about.
const PORTION_KEYS: usize = if cfg!(test) { 2 } else { 10_000 };
/// A key of so many bytes takes twice as long to be found as a short one.
const PORTION_KEY_BYTES: usize = 256;

impl Default for Portion {
    fn default() -> Portion {
        Portion(PORTION_KEYS)
    }
}

impl Portion {
    /// Whether one more may go.
    pub fn has_more(&self) -> bool {
        self.0 > 0
    }

    /// It goes.
    pub fn take(&mut self, key: &[u8]) {
        self.0 = self.0.saturating_sub(1 + key.len() / PORTION_KEY_BYTES);
    }
}

/// What a key takes beside its bytes and its value's, about: its place in the tree, and that of its time to live.
const KEY_BYTES_BESIDE: usize = 128;

fn bytes_of(key: &[u8], slot: &Slot) -> usize {
    key.len() + slot.value.len() + KEY_BYTES_BESIDE
}

/// All keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    beside: Beside,
    keys: OrdMap<Key, Slot>,
    /// Of all keys and values, with what each takes beside them.
    bytes: usize,
    due: OrdSet<(NonZeroU64, Key)>,
}

impl Table {
    /// Number of keys.
    pub fn len(&self) -> usize {
        self.keys.len() - self.beside.over
    }

    /// The same with those that are over and not removed yet.
    pub fn rows(&self) -> usize {
        self.keys.len()
    }

    /// Bytes of all keys and values, and of what each takes beside them.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// No value that this table holds is larger, in bytes.
    pub fn largest_value(&self) -> usize {
        self.beside.largest
    }

    /// What stands under a key.
    pub fn get(&self, key: &[u8]) -> Option<&Slot> {
        self.keys.get(key).filter(|slot| !self.is_over(slot))
    }

    /// Whether this is over: it looks absent to everyone.
    pub fn is_over(&self, slot: &Slot) -> bool {
        self.beside.is_over(slot)
    }

    /// Writes a key.
    pub fn put(&mut self, key: &[u8], value: Stored, revision: u64, expires_ms: Option<u64>) {
        self.beside.largest = self.beside.largest.max(value.len());
        let slot = Slot { value, revision, expires_ms: expires_ms.and_then(NonZeroU64::new) };
        let at = slot.expires_ms;
        self.bytes += bytes_of(key, &slot);
        let before = match self.keys.get_mut(key) {
            Some(old) => Some(std::mem::replace(old, slot)),
            None => self.keys.insert(key.into(), slot),
        };
        if let Some(old) = &before {
            self.bytes -= bytes_of(key, old);
            self.beside.over -= usize::from(self.is_over(old));
        }
        self.move_due(key, before.and_then(|old| old.expires_ms), at);
    }

    /// Adds to the end of a key's value and keeps its time to live; `false`: there is no such key.
    pub fn append(&mut self, key: &[u8], more: &[u8], revision: u64) -> bool {
        let Some(slot) = self.keys.get_mut(key).filter(|slot| !self.beside.is_over(slot)) else { return false };
        slot.revision = revision;
        slot.value.append(more);
        self.bytes += more.len();
        self.beside.largest = self.beside.largest.max(slot.value.len());
        true
    }

    /// Changes a key's time to live, as a write of its own; `None`: it stays for ever.
    pub fn set_expiry(&mut self, key: &[u8], revision: u64, expires_ms: Option<u64>) {
        let Some(slot) = self.keys.get_mut(key).filter(|slot| !self.beside.is_over(slot)) else { return };
        slot.revision = revision;
        let at = expires_ms.and_then(NonZeroU64::new);
        let before = std::mem::replace(&mut slot.expires_ms, at);
        self.move_due(key, before, at);
    }

    /// Removes a key and gives what stood there.
    pub fn remove(&mut self, key: &[u8]) -> Option<Slot> {
        let slot = self.keys.remove(key)?;
        if self.is_over(&slot) {
            // It goes when its turn comes.
            self.keys.insert(key.into(), slot);
            return None;
        }
        self.bytes -= bytes_of(key, &slot);
        self.move_due(key, slot.expires_ms, None);
        Some(slot)
    }

    /// Removes every key.
    pub fn clear(&mut self) {
        let beside = Beside { now_ms: self.beside.now_ms, ..Beside::default() };
        *self = Table { beside, ..Table::default() };
    }

    /// Log time moves on: keys that have become due are over, and given. They count as such when they are taken, so all
    /// must be.
    pub fn move_to(&mut self, now_ms: u64) -> impl Iterator<Item = &[u8]> {
        let before_ms = self.beside.now_ms;
        self.beside.now_ms = before_ms.max(now_ms);
        let (from, to) = (before_ms, self.beside.now_ms);
        let is_any = from < to && self.next_expiry_ms().is_some_and(|at_ms| at_ms <= to);
        let first = |ms: u64| (NonZeroU64::MIN.saturating_add(ms), Key::from(&b""[..]));
        let over = &mut self.beside.over;
        let rows = is_any.then(|| self.due.range(first(from)..first(to)));
        rows.into_iter().flatten().map(|(_, key)| {
            *over += 1;
            &**key
        })
    }

    /// Removes keys that are over, as much as one entry may.
    pub fn expire(&mut self, portion: &mut Portion) {
        while self.beside.over > 0 && portion.has_more() {
            let (_, key) = self.due.remove_min().expect("what is over has a row");
            portion.take(&key);
            let slot = self.keys.remove(&*key);
            let slot = slot.unwrap_or_else(|| panic!("a key that is due does not exist: {key:?}"));
            self.bytes -= bytes_of(&key, &slot);
            self.beside.over -= 1;
        }
    }

    /// When the next key is due.
    pub fn next_expiry_ms(&self) -> Option<u64> {
        self.due.get_min().map(|(at_ms, _)| at_ms.get())
    }

    /// Keys in order, those included that are over and not removed yet.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Slot)> {
        self.keys.iter()
    }

    /// Keys in order, from the first that has this prefix and comes after `after`, to the last that has the prefix;
    /// those included that are over and not removed yet.
    pub fn with_prefix<'a>(
        &'a self,
        prefix: &'a [u8],
        after: Option<&'a [u8]>,
    ) -> impl Iterator<Item = (&'a Key, &'a Slot)> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        self.keys.range::<_, [u8]>((from, Bound::Unbounded)).take_while(move |(key, _)| key.starts_with(prefix))
    }

    fn move_due(&mut self, key: &[u8], before: Option<NonZeroU64>, at: Option<NonZeroU64>) {
        if before == at {
            return;
        }
        let key = match self.keys.get_key_value(key) {
            Some((key, _)) => key.clone(),
            None => key.into(),
        };
        if let Some(before) = before {
            let row = self.due.remove(&(before, key.clone()));
            assert!(row.is_some(), "a time to live has no row: {key:?}");
        }
        if let Some(at) = at {
            self.due.insert((at, key));
        }
    }

    /// Asserts what the module promises; for tests and the simulator.
    #[cfg(test)]
    pub fn check(&self) {
        let rows = self.keys.iter().filter_map(|(key, slot)| Some((slot.expires_ms?, key.clone())));
        let rows: OrdSet<(NonZeroU64, Key)> = rows.collect();
        let bytes: usize = self.keys.iter().map(|(key, slot)| bytes_of(key, slot)).sum();
        assert_eq!(bytes, self.bytes, "bytes of all keys");
        let over = self.keys.values().filter(|slot| self.is_over(slot)).count();
        assert_eq!(over, self.beside.over, "T2: keys that are over");
        assert!(rows == self.due, "T1: times to live and their order differ: {rows:?}, {:?}", self.due);
    }
}
