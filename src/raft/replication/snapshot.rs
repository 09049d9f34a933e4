//! Snapshots: what replaces the beginning of a log, one's own or one that the leader streamed.
//!
//! The host writes and carries the bytes; the core only decides where the log begins. A received snapshot brings its
//! membership along, and replaces the whole log: if the log holds the entry at its index, the snapshot is not needed
//! and only shows that everything up to there is committed.
//!
//! Invariants: S1 a snapshot covers committed entries only. S2 installing never takes the commit index back.
//! Not here: the files (`store/`), the stream (`wire/`).

use crate::planted_bugs::is_planted;
use crate::raft::state::progress::Mode;
use crate::raft::state::{Cx, Raft, State};
use crate::raft::{INDEX_MAX, Refused, SnapshotMeta, StepDownCause};
use crate::types::{Identity, Index, NodeId, Term};

impl Raft {
    /// What a snapshot of the services at this applied index must carry; `None` if the log no longer reaches there.
    pub fn snapshot_meta(&self, index: Index) -> Option<SnapshotMeta> {
        if index > self.commit { None } else { self.log.meta_at(index) }
    }

    /// The services' snapshot at `index` is durable: the log may begin there.
    pub(crate) fn on_snapshot_saved(&mut self, index: Index) {
        if index <= self.log.snapshot_index() {
            return;
        }
        assert!(index <= self.commit, "S1: snapshot at {index} beyond the commit index {}", self.commit);
        self.log.compact(index, self.config.inflight_bytes_max);
    }

    /// A snapshot from the leader is complete beside the log.
    pub(crate) fn on_snapshot_received(&mut self, cx: &mut Cx<'_>, from: Identity, term: Term, meta: SnapshotMeta) {
        if term < self.hard.term || from == self.config.me {
            return;
        }
        let why = match () {
            () if !self.knows(&from) => Some(Refused::UnknownSender(from)),
            () if !self.is_term_possible(term) => Some(Refused::TermJump(from, term)),
            () if meta.index > INDEX_MAX || meta.term > term => Some(Refused::Malformed(from)),
            () => None,
        };
        if why.is_some() {
            cx.fx.refused = why;
            return;
        }
        if term > self.hard.term {
            self.become_follower(cx, term, StepDownCause::NewerTerm);
        }
        if !self.follow(cx, from) || meta.index <= self.commit {
            return;
        }
        if self.log.term_at(meta.index) == Some(meta.term) {
            // The log holds all that the snapshot covers, and so does the disk, or soon will. Installing it would mean
            // to write the suffix again, and a crash in between would lose entries that were accepted long ago.
            self.commit = meta.index;
            return;
        }
        let keep_suffix = is_planted!(self.config, snapshot_keeps_conflict);
        let mut taken = meta.clone();
        if is_planted!(self.config, snapshot_loses_membership) {
            taken.membership = self.membership().clone();
        }
        self.log.install(&taken, keep_suffix);
        self.disk.on_install();
        self.commit = taken.index;
        self.persist_from(cx, taken.index.next());
        cx.install = Some(taken);
        cx.fx.install = Some(meta);
    }

    /// The host has streamed a snapshot to a follower, or could not.
    pub(crate) fn on_snapshot_sent(&mut self, cx: &mut Cx<'_>, to: NodeId, ok: bool) {
        let until = self.now + self.answer_ticks();
        let State::Leader(lead) = &mut self.state else { return };
        let Some(progress) = lead.peers.get_mut(&to).filter(|progress| progress.mode == Mode::Snapshot) else { return };
        progress.become_probe();
        // Either way no second one follows at once: it needs time to be put in place, or the reason to pass.
        progress.no_snapshot_before = until;
        if ok {
            progress.next_index = progress.next_index.max(self.log.snapshot_index().next());
            self.feed_one(cx, to);
        } else {
            progress.is_probing = true;
        }
    }
}
