//! The entries in memory: everything after the compacted prefix, and the memberships they carry.
//!
//! The log starts after `base`, an entry that is no longer held but whose term is known. The newest snapshot is at or
//! after `base`: a short tail below it is kept, so that a follower that is only a little behind needs no snapshot.
//!
//! Invariants: L1 `entries[i].index == base + 1 + i`. L2 terms never decrease along the log. L3 `memberships` ascends
//! by index; its first element is the membership at `base` and is never cut. L4 `base <= snapshot_index <= last_index`.
//! L5 `bytes` are those of the entries.
//! Not here: what may be cut or kept (`raft/replication/follower.rs`, `raft/replication/snapshot.rs`), disk
//! (`raft/persist.rs`).

use crate::raft::{Entry, Membership, Payload, SnapshotMeta};
use crate::types::{Index, Term};
use std::sync::Arc;

/// Most entries kept below a snapshot for followers that lag a little.
const TAIL_ENTRIES_MAX: u64 = 4096;

/// The log since `base`.
pub(crate) struct Log {
    /// Index of the last compacted entry; 0 before the first.
    base: Index,
    base_term: Term,
    /// What follows it.
    entries: Vec<Entry>,
    /// Memberships by the index from which they are in force, newest last.
    memberships: Vec<(Index, Arc<Membership>)>,
    /// Index of the newest snapshot (0: none).
    snapshot_index: Index,
    /// What the entries count towards byte limits.
    bytes: usize,
}

impl Log {
    /// The log that a restart finds.
    pub(crate) fn new(snapshot: Option<SnapshotMeta>, entries: Vec<Entry>) -> Log {
        let (base, base_term, membership) = match snapshot {
            Some(meta) => (meta.index, meta.term, meta.membership),
            None => (Index(0), Term(0), Membership::default()),
        };
        let mut log = Log {
            base,
            base_term,
            entries: Vec::new(),
            memberships: vec![(base, Arc::new(membership))],
            snapshot_index: base,
            bytes: 0,
        };
        for entry in entries {
            log.append(entry);
        }
        log
    }

    /// Index of the last compacted entry.
    pub(crate) fn base(&self) -> Index {
        self.base
    }

    /// Index of the newest snapshot (0: none).
    pub(crate) fn snapshot_index(&self) -> Index {
        self.snapshot_index
    }

    /// Index of the last entry.
    pub(crate) fn last_index(&self) -> Index {
        Index(self.base.0 + self.entries.len() as u64)
    }

    /// What the entries count towards byte limits.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Term of the last entry.
    pub(crate) fn last_term(&self) -> Term {
        self.entries.last().map_or(self.base_term, |entry| entry.term)
    }

    /// Term of the entry at `index`; `None` if it is compacted or not there.
    pub(crate) fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.base {
            return Some(self.base_term);
        }
        if index < self.base {
            return None;
        }
        self.entries.get((index.0 - self.base.0 - 1) as usize).map(|entry| entry.term)
    }

    /// Entries `from..=to`, as far as they are held.
    pub(crate) fn slice(&self, from: Index, to: Index) -> &[Entry] {
        let start = (from.0.max(self.base.0 + 1) - self.base.0 - 1) as usize;
        let end = to.0.saturating_sub(self.base.0).min(self.entries.len() as u64) as usize;
        if start >= end { &[] } else { &self.entries[start..end] }
    }

    /// Entries from `from` on, as many as fit into `bytes_max` (one at least), and their bytes.
    pub(crate) fn slice_bytes(&self, from: Index, bytes_max: usize) -> (&[Entry], usize) {
        let all = self.slice(from, self.last_index());
        let (mut count, mut bytes) = (0, 0);
        for entry in all {
            let size = entry_bytes(entry);
            if count > 0 && bytes + size > bytes_max {
                break;
            }
            count += 1;
            bytes += size;
        }
        (&all[..count], bytes)
    }

    /// Puts an entry at the end.
    pub(crate) fn append(&mut self, entry: Entry) {
        assert!(
            entry.index == self.last_index().next(),
            "log would have a hole: {} after {}",
            entry.index,
            self.last_index()
        );
        assert!(
            entry.term >= self.last_term(),
            "terms would go back in the log: {} after {} at index {}",
            entry.term,
            self.last_term(),
            entry.index
        );
        if let Payload::Membership(membership) = &entry.payload {
            self.memberships.push((entry.index, membership.clone()));
        }
        self.bytes += entry_bytes(&entry);
        self.entries.push(entry);
    }

    /// Cuts the entry at `from` and all after it; memberships in them are undone.
    pub(crate) fn truncate(&mut self, from: Index) {
        assert!(from > self.base, "cut at {from} reaches below the compacted prefix at {}", self.base);
        let kept = (from.0 - self.base.0 - 1) as usize;
        self.bytes -= self.entries.iter().skip(kept).map(entry_bytes).sum::<usize>();
        self.entries.truncate(kept);
        while self.memberships.len() > 1 && self.memberships.last().is_some_and(|(index, _)| *index >= from) {
            self.memberships.pop();
        }
    }

    /// The services' snapshot at `index` is durable: the entries before it are removed, except a short tail.
    pub(crate) fn compact(&mut self, index: Index, tail_bytes_max: usize) {
        assert!(
            index >= self.snapshot_index && index <= self.last_index(),
            "snapshot at {index} outside the log {}..={}",
            self.snapshot_index,
            self.last_index()
        );
        // A quarter of the way between two snapshots: proportional, so that tiny logs are compacted in full.
        let tail_max = ((index.0 - self.snapshot_index.0) / 4).min(TAIL_ENTRIES_MAX);
        let mut base = index;
        let mut bytes = 0;
        while base > self.base && index.0 - base.0 < tail_max {
            bytes += self.slice(base, base).first().map_or(0, entry_bytes);
            if bytes > tail_bytes_max {
                break;
            }
            base = base.prev();
        }
        self.snapshot_index = index;
        let base_term = self.term_at(base).expect("base is between the old base and the last index");
        self.memberships = self.memberships_from(base);
        let gone = self.entries.drain(..(base.0 - self.base.0) as usize);
        self.bytes -= gone.as_slice().iter().map(entry_bytes).sum::<usize>();
        drop(gone);
        (self.base, self.base_term) = (base, base_term);
    }

    /// A received snapshot replaces the log's beginning; the suffix survives if `keep_suffix`.
    pub(crate) fn install(&mut self, meta: &SnapshotMeta, keep_suffix: bool) {
        let suffix = if keep_suffix { self.slice(meta.index.next(), self.last_index()).to_vec() } else { Vec::new() };
        *self = Log::new(Some(meta.clone()), suffix);
    }

    /// The newest membership in the log, else the one below it, and the index from which it is in force.
    pub(crate) fn membership(&self) -> (Index, &Arc<Membership>) {
        let (index, membership) = self.memberships.last().expect("the membership at base is never cut");
        (*index, membership)
    }

    /// All memberships that it holds.
    pub(crate) fn memberships(&self) -> impl Iterator<Item = &Membership> {
        self.memberships.iter().map(|(_, membership)| &**membership)
    }

    /// The membership before the newest one, if the log still holds it.
    pub(crate) fn membership_before(&self) -> Option<&Arc<Membership>> {
        self.memberships.iter().rev().nth(1).map(|(_, membership)| membership)
    }

    /// Snapshot words for `index`: its term and the membership in force there. `None` outside the log.
    pub(crate) fn meta_at(&self, index: Index) -> Option<SnapshotMeta> {
        let term = self.term_at(index)?;
        let memberships = self.memberships.iter().rev();
        let (_, membership) = memberships.into_iter().find(|(from, _)| *from <= index)?;
        Some(SnapshotMeta { index, term, membership: (**membership).clone() })
    }

    /// Highest index up to `index` whose term is not above `term`: where two logs may still agree.
    pub(crate) fn last_not_above(&self, index: Index, term: Term) -> Index {
        let mut index = index.min(self.last_index());
        while index > self.base && self.term_at(index).is_some_and(|at| at > term) {
            index = index.prev();
        }
        index
    }

    /// Whether a log that ends with (`last_index`, `last_term`) holds all that this one may have helped to commit.
    pub(crate) fn is_not_fresher_than(&self, last_index: Index, last_term: Term) -> bool {
        (last_term, last_index) >= (self.last_term(), self.last_index())
    }

    /// Memberships from `base` on: the one in force there, moved to `base`, and all later ones.
    fn memberships_from(&self, base: Index) -> Vec<(Index, Arc<Membership>)> {
        let at = self.memberships.iter().rposition(|(index, _)| *index <= base).unwrap_or(0);
        self.memberships[at..].to_vec()
    }

    /// Asserts the invariants of this file.
    pub(crate) fn check(&self) {
        for (i, entry) in self.entries.iter().enumerate() {
            let index = Index(self.base.0 + 1 + i as u64);
            assert!(entry.index == index, "L1: entry {} stands at {index}", entry.index);
            let before = if i == 0 { self.base_term } else { self.entries[i - 1].term };
            assert!(entry.term >= before, "L2: term {} after {before} at index {index}", entry.term);
        }
        let bytes: usize = self.entries.iter().map(entry_bytes).sum();
        assert!(bytes == self.bytes, "L5: {bytes} bytes of entries, counted {}", self.bytes);
        assert!(!self.memberships.is_empty(), "L3: no membership at base {}", self.base);
        assert!(
            self.memberships[0].0 <= self.base,
            "L3: membership {} above base {}",
            self.memberships[0].0,
            self.base
        );
        assert!(self.memberships.is_sorted_by(|a, b| a.0 < b.0), "L3: memberships out of order");
        assert!(
            self.base <= self.snapshot_index && self.snapshot_index <= self.last_index(),
            "L4: snapshot {} outside {}..={}",
            self.snapshot_index,
            self.base,
            self.last_index()
        );
    }
}

/// What an entry counts towards byte limits: its payload and a flat share for the rest.
pub(crate) fn entry_bytes(entry: &Entry) -> usize {
    const OVERHEAD: usize = 32;
    OVERHEAD
        + match &entry.payload {
            Payload::Noop => 0,
            Payload::Command(command) => command.len(),
            Payload::Membership(membership) => 24 * (membership.voters.len() + membership.learners.len()),
        }
}
