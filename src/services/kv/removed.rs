//! When keys were last removed: what tells a key that was absent all the while from one that came and went.
//!
//! A client that watches an absent key wants to know whether anybody wrote it since. The key itself leaves nothing
//! behind, so the newest revision at its removal is kept, not for each key but for each of some thousand groups of
//! keys: that takes the same room for ever, and errs on the safe side. A transaction may be aborted because another key
//! of the group was removed in the meantime; it is never carried out although its own key was.
//! Not here: keys that exist, which carry their revision themselves (`table.rs`).

use imbl::OrdMap;

/// Groups of keys.
const GROUPS: u32 = 4096;

/// A clone shares everything with the original until one of them is written to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Newest revision at a removal, by group.
    by_group: OrdMap<u16, u64>,
    /// The same for a removal of all keys.
    all: u64,
}

impl Removed {
    /// What a snapshot holds.
    pub fn of(all: u64, rows: impl Iterator<Item = (u16, u64)>) -> Removed {
        Removed { by_group: rows.collect(), all }
    }

    /// What a snapshot must hold.
    pub fn parts(&self) -> (u64, &OrdMap<u16, u64>) {
        (self.all, &self.by_group)
    }

    /// A key was removed when this was the newest revision.
    pub fn note(&mut self, key: &[u8], revision: u64) {
        self.by_group.insert(group(key), revision);
    }

    /// Many were, with one entry: each group is written once.
    pub fn note_many<'a>(&mut self, keys: impl Iterator<Item = &'a [u8]>, revision: u64) {
        let mut is_noted = [false; GROUPS as usize];
        for group in keys.map(group) {
            if !std::mem::replace(&mut is_noted[usize::from(group)], true) {
                self.by_group.insert(group, revision);
            }
        }
    }

    /// All keys were.
    pub fn note_all(&mut self, revision: u64) {
        self.by_group.clear();
        self.all = revision;
    }

    /// Newest revision at a removal that may have been of this key; 0: it was never removed.
    pub fn newest(&self, key: &[u8]) -> u64 {
        self.by_group.get(&group(key)).copied().unwrap_or(0).max(self.all)
    }
}

fn group(key: &[u8]) -> u16 {
    (crc32fast::hash(key) % GROUPS) as u16
}
