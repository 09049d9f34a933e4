//! What waits for the disk, and which messages wait with it.
//!
//! Every step ends here: what changed becomes one `Persist`, and each message is either free to leave or a promise that
//! waits for it. A promise (a vote, an acceptance) waits for everything written so far; any other message waits only while
//! the term it speaks for is not on disk.
//!
//! Invariants: D1 sequence numbers grow by one. D2 `durable` never passes the last index, nor covers an entry that was cut
//! and rewritten since. D3 `pending` ascends and lies within `synced_seq+1 ..= last_seq`.
//! Not here: files and syncs (`store/`).

use crate::raft::state::{Cx, Raft};
use crate::raft::{Body, HardState, Message, Persist};
use crate::types::Index;
use std::collections::VecDeque;

/// One persist on its way to the disk.
struct Pending {
    seq: u64,
    /// Last entry that it makes durable, unless cut since; `None` if it carries none.
    last: Option<Index>,
    /// Tick of its step.
    at: u64,
}

/// Persists that left and what is known to be on disk.
pub(crate) struct Disk {
    last_seq: u64,
    synced_seq: u64,
    /// The newest persist that carries term and vote.
    hard_seq: u64,
    /// Term and vote as last written.
    hard_written: HardState,
    pending: VecDeque<Pending>,
    /// Own log is on disk up to here.
    durable: Index,
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
    fn is_unsynced(&self) -> bool {
        self.last_seq > self.synced_seq
    }

    /// Whether term and vote are on disk as they stand in memory.
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

impl Raft {
    /// Ends a step: writes what changed and holds back what must wait for it.
    pub(crate) fn finish(&mut self, cx: &mut Cx<'_>) {
        let mut persist = Persist::default();
        if self.disk.hard_written != self.hard {
            persist.hard_state = Some(self.hard);
        }
        persist.install = cx.install.take();
        if let Some(from) = cx.persist_from {
            persist.entries = self.log.slice(from, self.log.last_index()).to_vec();
        }
        let is_something = persist.hard_state.is_some() || persist.install.is_some() || !persist.entries.is_empty();

        let must_wait = self.disk.is_unsynced() || is_something;
        let is_hard_unsynced = persist.hard_state.is_some() || self.disk.hard_seq > self.disk.synced_seq;
        let is_held = |message: &Message| must_wait && (is_hard_unsynced || is_promise(&message.body));
        if !flaw!(self.config, answer_before_sync) && cx.fx.send_now.iter().any(is_held) {
            let (held, free) = std::mem::take(&mut cx.fx.send_now).into_iter().partition(is_held);
            cx.fx.after_sync = held;
            cx.fx.send_now = free;
        }
        if !is_something && cx.fx.after_sync.is_empty() {
            return;
        }
        self.disk.last_seq += 1;
        persist.seq = self.disk.last_seq;
        if persist.hard_state.is_some() {
            self.disk.hard_written = self.hard;
            self.disk.hard_seq = persist.seq;
        }
        let installed = persist.install.as_ref().map(|meta| meta.index);
        let last = persist.entries.last().map(|entry| entry.index).or(installed);
        self.disk.pending.push_back(Pending { seq: persist.seq, last, at: self.now });
        cx.fx.persist = Some(persist);
    }

    /// Entries from `from` on must be written by the end of this step.
    pub(crate) fn persist_from(&mut self, cx: &mut Cx<'_>, from: Index) {
        cx.persist_from = Some(cx.persist_from.map_or(from, |lowest| lowest.min(from)));
    }

    /// The disk makes no progress: this node must neither lead nor campaign.
    pub(crate) fn is_disk_stalled(&self) -> bool {
        self.disk.oldest_wait(self.now) > self.config.disk_stall_ticks.0
    }
}

/// Whether the message vouches for state that a power cut must not take back.
fn is_promise(body: &Body) -> bool {
    matches!(body, Body::Vote { .. } | Body::VoteReply { is_granted: true } | Body::AppendReply { result: Ok(_), .. })
}
