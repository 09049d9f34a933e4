//! The revisions at which keys were last removed, to distinguish a key that was never created from one that was created
//! and removed again.
//!
//! A client that watches a missing key must learn whether it was written in the meantime. A removed key leaves nothing
//! in the table, so the newest revision at its removal is kept here, not for each key but for each of [`GROUPS`] groups
//! of keys (by hash): that takes constant memory, and is conservative. A transaction may be aborted because another key
//! of the group was removed; it is never executed although its own key was.
//! Not here: existing keys, which have their own revision (`table.rs`).

use imbl::OrdMap;

/// Number of groups of keys.
const GROUPS: u32 = 4096;

/// Newest revisions at removals. A clone shares its data with the original (copy-on-write).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Newest revision at a removal of a key, by group.
    by_group: OrdMap<u16, u64>,
    /// Newest revision at a removal of all keys.
    all: u64,
}

impl Removed {
    /// Creates it from the content of a snapshot.
    pub fn of(all: u64, rows: impl Iterator<Item = (u16, u64)>) -> Removed {
        Removed { by_group: rows.collect(), all }
    }

    /// Returns the content for a snapshot.
    pub fn parts(&self) -> (u64, &OrdMap<u16, u64>) {
        (self.all, &self.by_group)
    }

    /// Records the removal of a key when `revision` was the newest revision.
    pub fn note(&mut self, key: &[u8], revision: u64) {
        self.by_group.insert(group(key), revision);
    }

    /// Records the removal of many keys with one entry; writes each group once.
    pub fn note_many<'a>(&mut self, keys: impl Iterator<Item = &'a [u8]>, revision: u64) {
        let mut is_noted = [false; GROUPS as usize];
        for group in keys.map(group) {
            if !std::mem::replace(&mut is_noted[usize::from(group)], true) {
                self.by_group.insert(group, revision);
            }
        }
    }

    /// Records the removal of all keys.
    pub fn note_all(&mut self, revision: u64) {
        self.by_group.clear();
        self.all = revision;
    }

    /// Returns the newest revision at a removal that may have been of this key; 0 if it was never removed.
    pub fn newest(&self, key: &[u8]) -> u64 {
        self.by_group.get(&group(key)).copied().unwrap_or(0).max(self.all)
    }
}

fn group(key: &[u8]) -> u16 {
    (crc32fast::hash(key) % GROUPS) as u16
}
