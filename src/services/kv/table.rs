//! The keys: value, revision and time to live of each, in order, and the times to live in the order in which they end.
//!
//! Both trees share their nodes with their copies: a clone costs two counters, and a write after it copies the few nodes
//! on its way. Values and long keys are shared bytes, so a copied node copies pointers and short keys.
//!
//! Invariants: T1 `due` holds exactly one row for each key that has a time to live. T2 no key is due at or before the log
//! time of the newest `expire`; that is the caller's duty, who never puts a key that is due already.
//! Not here: revisions are drawn in `store.rs`, conditions are judged there too.

use super::key::Key;
use super::stored::Stored;
use imbl::{OrdMap, OrdSet};
use std::num::NonZeroU64;
use std::ops::Bound;
use std::sync::Arc;

/// Bytes that copies of the state share.
pub type Shared = Arc<[u8]>;

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

/// Bytes of the largest value that was ever put. No part of the state: a node that came by a snapshot knows less, and equal
/// tables may differ in it.
#[derive(Clone, Copy, Debug, Default)]
struct Largest(usize);

impl PartialEq for Largest {
    fn eq(&self, _: &Largest) -> bool {
        true
    }
}

impl Eq for Largest {}

/// What a key takes beside its bytes and its value's, about: its place in the tree, and that of its time to live.
const KEY_BYTES_BESIDE: usize = 128;

fn bytes_of(key: &[u8], slot: &Slot) -> usize {
    key.len() + slot.value.len() + KEY_BYTES_BESIDE
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    largest: Largest,
    keys: OrdMap<Key, Slot>,
    /// Of all keys and values, with what each takes beside them.
    bytes: usize,
    due: OrdSet<(NonZeroU64, Key)>,
}

impl Table {
    /// Number of keys.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Bytes of all keys and values, and of what each takes beside them.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// No value that this table holds is larger, in bytes.
    pub fn largest_value(&self) -> usize {
        self.largest.0
    }

    /// What stands under a key.
    pub fn get(&self, key: &[u8]) -> Option<&Slot> {
        self.keys.get(key)
    }

    /// Writes a key.
    pub fn put(&mut self, key: &[u8], value: Stored, revision: u64, expires_ms: Option<u64>) {
        self.largest.0 = self.largest.0.max(value.len());
        let slot = Slot { value, revision, expires_ms: expires_ms.and_then(NonZeroU64::new) };
        let at = slot.expires_ms;
        self.bytes += bytes_of(key, &slot);
        let before = match self.keys.get_mut(key) {
            Some(old) => Some(std::mem::replace(old, slot)),
            None => self.keys.insert(key.into(), slot),
        };
        self.bytes -= before.as_ref().map_or(0, |old| bytes_of(key, old));
        self.move_due(key, before.and_then(|old| old.expires_ms), at);
    }

    /// Adds to the end of a key's value and keeps its time to live; `false`: there is no such key.
    pub fn append(&mut self, key: &[u8], more: &[u8], revision: u64) -> bool {
        let Some(slot) = self.keys.get_mut(key) else { return false };
        slot.revision = revision;
        slot.value.append(more);
        self.bytes += more.len();
        self.largest.0 = self.largest.0.max(slot.value.len());
        true
    }

    /// Changes a key's time to live, as a write of its own; `None`: it stays for ever.
    pub fn set_expiry(&mut self, key: &[u8], revision: u64, expires_ms: Option<u64>) {
        let Some(slot) = self.keys.get_mut(key) else { return };
        slot.revision = revision;
        let at = expires_ms.and_then(NonZeroU64::new);
        let before = std::mem::replace(&mut slot.expires_ms, at);
        self.move_due(key, before, at);
    }

    /// Removes a key and gives what stood there.
    pub fn remove(&mut self, key: &[u8]) -> Option<Slot> {
        let slot = self.keys.remove(key)?;
        self.bytes -= bytes_of(key, &slot);
        self.move_due(key, slot.expires_ms, None);
        Some(slot)
    }

    /// Removes every key.
    pub fn clear(&mut self) {
        *self = Table::default();
    }

    /// Removes every key whose time has come; `gone` hears of each.
    pub fn expire(&mut self, now_ms: u64, mut gone: impl FnMut(&[u8])) {
        while self.next_expiry_ms().is_some_and(|at_ms| at_ms <= now_ms) {
            let (_, key) = self.due.remove_min().expect("its first row was just seen");
            gone(&key);
            let slot = self.keys.remove(&*key);
            let slot = slot.unwrap_or_else(|| panic!("a key that is due does not exist: {key:?}"));
            self.bytes -= bytes_of(&key, &slot);
        }
    }

    /// When the next key is due.
    pub fn next_expiry_ms(&self) -> Option<u64> {
        self.due.get_min().map(|(at_ms, _)| at_ms.get())
    }

    /// Keys in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Slot)> {
        self.keys.iter()
    }

    /// Keys in order, from the first that has this prefix and comes after `after`, to the last that has the prefix.
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
        assert!(rows == self.due, "T1: times to live and their order differ: {rows:?}, {:?}", self.due);
    }
}
