//! Locks with fencing tokens: the holder of a lock has a token, a number that increases with every acquired lock.
//!
//! A holder that was paused for longer than its lock's time to live may still assume that it holds the lock. So it
//! sends its token with each access to the protected resource, which refuses a token smaller than one it has seen
//! (Kleppmann, "How to do distributed locking", 2016). Locks expire by log time, on every node at the same index. An
//! expired lock is free immediately, and is removed with this entry or a later one.
//!
//! Invariants: L1 `due` has exactly one row for each lock. L2 the caller never uses a token twice.
//! Not here: keys that clients use as locks (`state/`, redis-py's scripts).

use super::stored::Shared;
use super::table::{KEY_OVERHEAD_BYTES, Portion};
use imbl::{OrdMap, OrdSet};
use std::sync::Arc;

/// A lock that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lock {
    /// Fencing token of its holder.
    pub token: u64,
    /// Log time at which it expires, in milliseconds.
    pub expires_ms: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Locks {
    held: OrdMap<Shared, Lock>,
    /// Memory of all locks, including [`KEY_OVERHEAD_BYTES`] for each.
    bytes: usize,
    due: OrdSet<(u64, Shared)>,
}

impl Locks {
    /// Returns the number of locks, including expired ones that are not removed yet.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Returns the approximate memory of all locks in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns a lock at this log time; `None` if it is free.
    pub fn get(&self, name: &[u8], now_ms: u64) -> Option<Lock> {
        self.held.get(name).copied().filter(|lock| lock.expires_ms > now_ms)
    }

    /// Grants a lock, or replaces it to change its expiry.
    pub fn put(&mut self, name: &[u8], lock: Lock) {
        let name: Shared = name.into();
        match self.held.insert(Arc::clone(&name), lock) {
            Some(before) => drop(self.due.remove(&(before.expires_ms, Arc::clone(&name)))),
            None => self.bytes += name.len() + KEY_OVERHEAD_BYTES,
        }
        self.due.insert((lock.expires_ms, name));
    }

    pub fn remove(&mut self, name: &[u8]) {
        if let Some((name, lock)) = self.held.remove_with_key(name) {
            self.bytes -= name.len() + KEY_OVERHEAD_BYTES;
            self.due.remove(&(lock.expires_ms, name));
        }
    }

    /// Removes expired locks within the limit of one entry (`table.rs`).
    pub fn expire(&mut self, now_ms: u64, portion: &mut Portion) {
        while self.next_expiry_ms().is_some_and(|at_ms| at_ms <= now_ms) && portion.has_more() {
            let (_, name) = self.due.remove_min().expect("its first row was just seen");
            portion.take(&name);
            self.bytes -= name.len() + KEY_OVERHEAD_BYTES;
            self.held.remove(&name);
        }
    }

    /// Returns the log time at which the next lock expires.
    pub fn next_expiry_ms(&self) -> Option<u64> {
        self.due.get_min().map(|(at_ms, _)| *at_ms)
    }

    /// Returns all locks, ordered by name.
    pub fn iter(&self) -> impl Iterator<Item = (&Shared, &Lock)> {
        self.held.iter()
    }

    /// Asserts the invariants; for tests and the simulator.
    #[cfg(test)]
    pub fn check(&self) {
        let rows: OrdSet<(u64, Shared)> =
            self.held.iter().map(|(name, lock)| (lock.expires_ms, Arc::clone(name))).collect();
        let bytes: usize = self.held.keys().map(|name| name.len() + KEY_OVERHEAD_BYTES).sum();
        assert_eq!(bytes, self.bytes, "bytes of all locks");
        assert!(rows == self.due, "L1: locks and their order differ: {rows:?}, {:?}", self.due);
    }
}
