//! The keys with value, revision and time to live, ordered by key, and an index of the expiry times.
//!
//! Both trees share their nodes with their copies: a clone increments two reference counts, and a later write copies
//! the few nodes on its path. Values and long keys are shared bytes, so copying a node copies pointers and short keys.
//!
//! A million keys may expire at the same time, and removing them takes seconds. So an entry removes only a [`Portion`]
//! of them; the others are expired: operations do not see them, and later entries remove them.
//!
//! Invariants: T1 `due` has exactly one row for each key with a time to live. T2 a key has expired when its expiry is at or
//! before the log time of the newest entry; then only iterators and the snapshot include it. T3 the caller never puts a
//! key that is already expired.
//! Not here: revisions and conditions (`state/`).

use super::key::Key;
use super::stored::Stored;
use imbl::{OrdMap, OrdSet};
use std::num::NonZeroU64;
use std::ops::Bound;

/// Value, revision and expiry of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    pub value: Stored,
    /// Revision of the last write.
    pub revision: u64,
    /// Log time at which it expires, in milliseconds; `NonZeroU64` keeps the slot small.
    expires_ms: Option<NonZeroU64>,
}

impl Slot {
    /// Returns the log time at which it expires, in milliseconds.
    pub fn expires_ms(&self) -> Option<u64> {
        self.expires_ms.map(NonZeroU64::get)
    }

    /// Returns the milliseconds until it expires, at log time `now_ms`.
    pub fn ttl_ms(&self, now_ms: u64) -> Option<u64> {
        self.expires_ms().map(|at_ms| at_ms.saturating_sub(now_ms))
    }
}

/// Derived figures that are not part of the state: they follow from the state and log time, or differ on a node that
/// restored a snapshot. So they do not count when tables are compared.
#[derive(Clone, Copy, Debug, Default)]
struct Derived {
    /// Length of the largest value that was ever put, in bytes.
    largest: usize,
    /// Log time of the newest entry.
    now_ms: u64,
    /// Number of keys that have expired and are not removed yet.
    expired: usize,
}

impl Derived {
    fn is_expired(&self, slot: &Slot) -> bool {
        slot.expires_ms().is_some_and(|at_ms| at_ms <= self.now_ms)
    }
}

impl PartialEq for Derived {
    fn eq(&self, _: &Derived) -> bool {
        true
    }
}

impl Eq for Derived {}

/// How many expired keys and locks may still be removed with the present entry.
#[derive(Debug)]
pub struct Portion(usize);

/// Approximate number of keys and locks that one entry removes. Lower in tests.
const PORTION_KEYS: usize = if cfg!(test) { 2 } else { 10_000 };
/// A key of this length takes twice as long to be found as a short one.
const PORTION_KEY_BYTES: usize = 256;

impl Default for Portion {
    fn default() -> Portion {
        Portion(PORTION_KEYS)
    }
}

impl Portion {
    /// Whether one more may be removed.
    pub fn has_more(&self) -> bool {
        self.0 > 0
    }

    /// Counts one removal.
    pub fn take(&mut self, key: &[u8]) {
        self.0 = self.0.saturating_sub(1 + key.len() / PORTION_KEY_BYTES);
    }
}

/// Approximate memory of a key or lock in addition to its bytes and its value, in bytes: its places in the two trees.
pub const KEY_OVERHEAD_BYTES: usize = 128;

fn bytes_of(key: &[u8], slot: &Slot) -> usize {
    key.len() + slot.value.len() + KEY_OVERHEAD_BYTES
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    derived: Derived,
    keys: OrdMap<Key, Slot>,
    /// Memory of all keys and values, including [`KEY_OVERHEAD_BYTES`] for each.
    bytes: usize,
    due: OrdSet<(NonZeroU64, Key)>,
}

impl Table {
    /// Returns the number of keys that have not expired.
    pub fn len(&self) -> usize {
        self.keys.len() - self.derived.expired
    }

    /// Returns the number of keys with a time to live that have not expired.
    pub fn expiring(&self) -> usize {
        self.due.len() - self.derived.expired
    }

    /// Returns the approximate memory of one key in bytes, unless it has expired.
    pub fn bytes_of(&self, key: &[u8]) -> Option<usize> {
        self.get(key).map(|slot| bytes_of(key, slot))
    }

    /// Returns the number of keys, including those that have expired and not removed yet.
    pub fn rows(&self) -> usize {
        self.keys.len()
    }

    /// Returns the approximate memory of all keys and values in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns an upper bound of the length of all values in bytes.
    pub fn largest_value(&self) -> usize {
        self.derived.largest
    }

    /// Returns the slot of a key, unless it has expired.
    pub fn get(&self, key: &[u8]) -> Option<&Slot> {
        self.keys.get(key).filter(|slot| !self.is_expired(slot))
    }

    /// Whether a slot has expired (T2).
    pub fn is_expired(&self, slot: &Slot) -> bool {
        self.derived.is_expired(slot)
    }

    pub fn put(&mut self, key: &[u8], value: Stored, revision: u64, expires_ms: Option<u64>) {
        self.derived.largest = self.derived.largest.max(value.len());
        let slot = Slot { value, revision, expires_ms: expires_ms.and_then(NonZeroU64::new) };
        let at = slot.expires_ms;
        self.bytes += bytes_of(key, &slot);
        let before = match self.keys.get_mut(key) {
            Some(old) => Some(std::mem::replace(old, slot)),
            None => self.keys.insert(key.into(), slot),
        };
        if let Some(old) = &before {
            self.bytes -= bytes_of(key, old);
            self.derived.expired -= usize::from(self.is_expired(old));
        }
        self.move_due(key, before.and_then(|old| old.expires_ms), at);
    }

    /// Appends to a key's value and keeps its time to live; returns `false` if there is no such key.
    pub fn append(&mut self, key: &[u8], more: &[u8], revision: u64) -> bool {
        let Some(slot) = self.keys.get_mut(key).filter(|slot| !self.derived.is_expired(slot)) else { return false };
        slot.revision = revision;
        slot.value.append(more);
        self.bytes += more.len();
        self.derived.largest = self.derived.largest.max(slot.value.len());
        true
    }

    /// Overwrites a key's value from byte `offset` on, padded with zeros, and keeps its time to live.
    pub fn overwrite(&mut self, key: &[u8], offset: usize, part: &[u8], revision: u64) {
        let Some(slot) = self.keys.get_mut(key).filter(|slot| !self.derived.is_expired(slot)) else { return };
        slot.revision = revision;
        self.bytes -= slot.value.len();
        slot.value.overwrite(offset, part);
        self.bytes += slot.value.len();
        self.derived.largest = self.derived.largest.max(slot.value.len());
    }

    /// Changes a key's expiry (`None`: never), with a new revision.
    pub fn set_expiry(&mut self, key: &[u8], revision: u64, expires_ms: Option<u64>) {
        let Some(slot) = self.keys.get_mut(key).filter(|slot| !self.derived.is_expired(slot)) else { return };
        slot.revision = revision;
        let at = expires_ms.and_then(NonZeroU64::new);
        let before = std::mem::replace(&mut slot.expires_ms, at);
        self.move_due(key, before, at);
    }

    /// Removes a key and returns its slot.
    pub fn remove(&mut self, key: &[u8]) -> Option<Slot> {
        let slot = self.keys.remove(key)?;
        if self.is_expired(&slot) {
            // `expire` removes it later.
            self.keys.insert(key.into(), slot);
            return None;
        }
        self.bytes -= bytes_of(key, &slot);
        self.move_due(key, slot.expires_ms, None);
        Some(slot)
    }

    pub fn clear(&mut self) {
        let derived = Derived { now_ms: self.derived.now_ms, ..Derived::default() };
        *self = Table { derived, ..Table::default() };
    }

    /// Advances log time; returns the keys that have expired now. The caller must consume the whole iterator, because each
    /// key is counted as it is returned.
    pub fn move_to(&mut self, now_ms: u64) -> impl Iterator<Item = &[u8]> {
        let before_ms = self.derived.now_ms;
        self.derived.now_ms = before_ms.max(now_ms);
        let (from, to) = (before_ms, self.derived.now_ms);
        let is_any = from < to && self.next_expiry_ms().is_some_and(|at_ms| at_ms <= to);
        let first = |ms: u64| (NonZeroU64::MIN.saturating_add(ms), Key::from(&b""[..]));
        let expired = &mut self.derived.expired;
        let rows = is_any.then(|| self.due.range(first(from)..first(to)));
        rows.into_iter().flatten().map(|(_, key)| {
            *expired += 1;
            &**key
        })
    }

    /// Removes keys that have expired, within the limit of one entry.
    pub fn expire(&mut self, portion: &mut Portion) {
        while self.derived.expired > 0 && portion.has_more() {
            let (_, key) = self.due.remove_min().expect("what has expired has a row");
            portion.take(&key);
            let slot = self.keys.remove(&*key);
            let slot = slot.unwrap_or_else(|| panic!("a key that is due does not exist: {key:?}"));
            self.bytes -= bytes_of(&key, &slot);
            self.derived.expired -= 1;
        }
    }

    /// Returns the log time at which the next key expires.
    pub fn next_expiry_ms(&self) -> Option<u64> {
        self.due.get_min().map(|(at_ms, _)| at_ms.get())
    }

    /// Returns the keys in order, including those that have expired and not removed yet.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Slot)> {
        self.keys.iter()
    }

    /// Returns the keys with this prefix after `after`, in order, including those that have expired and not removed yet.
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

    /// Returns the first key with this prefix that is not below `from`, and the last one, also if they have expired.
    pub fn ends(&self, prefix: &[u8], from: &[u8]) -> Option<(&Key, &Key)> {
        let mut after = prefix.to_vec();
        while after.pop_if(|last| *last == u8::MAX).is_some() {}
        let end = match after.last_mut() {
            None => Bound::Unbounded,
            Some(last) => {
                *last += 1;
                Bound::Excluded(after.as_slice())
            }
        };
        let mut keys = self.keys.range::<_, [u8]>((Bound::Included(from.max(prefix)), end));
        let (first, _) = keys.next()?;
        Some((first, keys.next_back().map_or(first, |(last, _)| last)))
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

    /// Asserts the invariants; for tests and the simulator.
    #[cfg(test)]
    pub fn check(&self) {
        let rows = self.keys.iter().filter_map(|(key, slot)| Some((slot.expires_ms?, key.clone())));
        let rows: OrdSet<(NonZeroU64, Key)> = rows.collect();
        let bytes: usize = self.keys.iter().map(|(key, slot)| bytes_of(key, slot)).sum();
        assert_eq!(bytes, self.bytes, "bytes of all keys");
        let expired = self.keys.values().filter(|slot| self.is_expired(slot)).count();
        assert_eq!(expired, self.derived.expired, "T2: keys that have expired");
        assert!(rows == self.due, "T1: times to live and their order differ: {rows:?}, {:?}", self.due);
    }
}
