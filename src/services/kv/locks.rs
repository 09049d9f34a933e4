//! The locks: who holds one has a fencing token, a number that grows with every lock that is taken.
//!
//! A holder that was asleep for longer than its lock lived may still believe that it holds it. So it shows its token to
//! whatever the lock protects, which refuses a token smaller than one that it has seen (Kleppmann, "How to do
//! distributed locking", 2016). Locks end by log time, on every node at the same index. One whose time has come is free
//! at once, and removed when its turn comes.
//!
//! Invariants: L1 `due` holds exactly one row for each lock. L2 tokens are drawn by the caller, who never draws one
//! twice.
//! Not here: keys that clients use as locks (`state.rs`, redis-py's scripts).

use super::stored::Shared;
use super::table::Portion;
use imbl::{OrdMap, OrdSet};
use std::sync::Arc;

/// A lock that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lock {
    /// Fencing token of its holder.
    pub token: u64,
    /// Log time at which it is free again.
    pub expires_ms: u64,
}

/// What a lock takes beside its name, about.
const LOCK_BYTES_BESIDE: usize = 128;

/// All locks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Locks {
    held: OrdMap<Shared, Lock>,
    /// Of all names, with what each lock takes beside.
    bytes: usize,
    due: OrdSet<(u64, Shared)>,
}

impl Locks {
    /// Number of locks, those included that are free again and not removed yet.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Bytes of all names, and of what each lock takes beside.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What is known of a lock at this log time; `None`: it is free.
    pub fn get(&self, name: &[u8], now_ms: u64) -> Option<Lock> {
        self.held.get(name).copied().filter(|lock| lock.expires_ms > now_ms)
    }

    /// Grants a lock, or extends it for its holder.
    pub fn put(&mut self, name: &[u8], lock: Lock) {
        let name: Shared = name.into();
        match self.held.insert(Arc::clone(&name), lock) {
            Some(before) => drop(self.due.remove(&(before.expires_ms, Arc::clone(&name)))),
            None => self.bytes += name.len() + LOCK_BYTES_BESIDE,
        }
        self.due.insert((lock.expires_ms, name));
    }

    /// Frees a lock.
    pub fn remove(&mut self, name: &[u8]) {
        if let Some((name, lock)) = self.held.remove_with_key(name) {
            self.bytes -= name.len() + LOCK_BYTES_BESIDE;
            self.due.remove(&(lock.expires_ms, name));
        }
    }

    /// Removes locks whose time has come, as much as one entry may (`table.rs`).
    pub fn expire(&mut self, now_ms: u64, portion: &mut Portion) {
        while self.next_expiry_ms().is_some_and(|at_ms| at_ms <= now_ms) && portion.has_more() {
            let (_, name) = self.due.remove_min().expect("its first row was just seen");
            portion.take(&name);
            self.bytes -= name.len() + LOCK_BYTES_BESIDE;
            self.held.remove(&name);
        }
    }

    /// When the next lock is free again by itself.
    pub fn next_expiry_ms(&self) -> Option<u64> {
        self.due.get_min().map(|(at_ms, _)| *at_ms)
    }

    /// Locks in order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&Shared, &Lock)> {
        self.held.iter()
    }

    /// Asserts what the module promises; for tests and the simulator.
    #[cfg(test)]
    pub fn check(&self) {
        let rows: OrdSet<(u64, Shared)> =
            self.held.iter().map(|(name, lock)| (lock.expires_ms, Arc::clone(name))).collect();
        let bytes: usize = self.held.keys().map(|name| name.len() + LOCK_BYTES_BESIDE).sum();
        assert_eq!(bytes, self.bytes, "bytes of all locks");
        assert!(rows == self.due, "L1: locks and their order differ: {rows:?}, {:?}", self.due);
    }
}
