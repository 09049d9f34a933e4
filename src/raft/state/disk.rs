//! What was handed to the disk and what is known to be durable.
//!
//! Invariants: D1 sequence numbers grow by one. D2 `durable` never passes the last index, nor covers an entry that was
//! cut and rewritten since. D3 `pending` ascends and lies within `synced_seq+1 ..= last_seq`.
//! Not here: what a step writes, and which messages wait for it (`raft/persist.rs`).

use crate::raft::HardState;
use crate::types::Index;
use std::collections::VecDeque;

/// One persist on its way to the disk.
pub(crate) struct Pending {
    pub(crate) seq: u64,
    /// Last entry that it makes durable, unless cut since; `None` if it carries none.
    pub(crate) last: Option<Index>,
    /// Tick of its step.
    pub(crate) at: u64,
}

/// Persists that left and what is known to be on disk.
pub(crate) struct Disk {
    pub(crate) last_seq: u64,
    pub(crate) synced_seq: u64,
    /// The newest persist that carries term and vote.
    pub(crate) hard_seq: u64,
    /// Term and vote as last written.
    pub(crate) hard_written: HardState,
    pub(crate) pending: VecDeque<Pending>,
    /// Own log is on disk up to here.
    pub(crate) durable: Index,
}

impl Disk {
    /// What a restart finds is on disk.
    pub(crate) fn new(hard: HardState, last_index: Index) -> Disk {
        Disk {
            last_seq: 0,
            synced_seq: 0,
            hard_seq: 0,
            hard_written: hard,
            pending: VecDeque::new(),
            durable: last_index,
        }
    }

    /// Own log is on disk up to here.
    pub(crate) fn durable(&self) -> Index {
        self.durable
    }

    /// Whether anything at all waits for the disk.
    pub(crate) fn is_unsynced(&self) -> bool {
        self.last_seq > self.synced_seq
    }

    /// Whether term and vote on disk equal those in memory.
    pub(crate) fn is_hard_synced(&self, hard: &HardState) -> bool {
        self.hard_written == *hard && self.hard_seq <= self.synced_seq
    }

    /// Ticks that the oldest write has been waiting.
    pub(crate) fn oldest_wait(&self, now: u64) -> u64 {
        self.pending.front().map_or(0, |pending| now - pending.at)
    }

    /// Entries from `from` on are about to be replaced: neither disk nor pending writes vouch for them any more.
    pub(crate) fn on_cut(&mut self, from: Index) {
        self.durable = self.durable.min(from.prev());
        for pending in &mut self.pending {
            pending.last = pending.last.map(|last| last.min(from.prev()));
        }
    }

    /// A received snapshot takes the place of the whole log.
    pub(crate) fn on_install(&mut self) {
        self.durable = Index(0);
        for pending in &mut self.pending {
            pending.last = None;
        }
    }

    /// The disk has everything up to `seq`.
    pub(crate) fn on_synced(&mut self, seq: u64) {
        assert!(seq <= self.last_seq, "disk reports persist {seq}, the last one is {}", self.last_seq);
        self.synced_seq = self.synced_seq.max(seq);
        while self.pending.front().is_some_and(|pending| pending.seq <= seq) {
            let last = self.pending.pop_front().and_then(|pending| pending.last);
            self.durable = self.durable.max(last.unwrap_or_default());
        }
    }

    /// Asserts the invariants of this file.
    pub(crate) fn check(&self, last_index: Index) {
        assert!(self.durable <= last_index, "D2: durable {} > last index {last_index}", self.durable);
        let mut seq = self.synced_seq;
        for pending in &self.pending {
            assert!(pending.seq == seq + 1, "D3: persist {} follows {seq}", pending.seq);
            assert!(pending.last <= Some(last_index), "D2: persist {seq} vouches beyond {last_index}");
            seq = pending.seq;
        }
        assert!(seq == self.last_seq, "D3: last pending {seq}, last seq {}", self.last_seq);
    }
}
