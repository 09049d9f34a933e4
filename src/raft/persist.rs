//! What waits for the disk, and which messages wait with it.
//!
//! Every step ends here: what changed becomes one `Persist`, and each message is either free to leave or a promise that
//! waits for it. A promise (a vote, an acceptance) waits for everything written so far; any other message waits only
//! while the term it speaks for is not on disk.
//!
//! Not here: what is known to be on disk (`state/disk.rs`), files and syncs (`store/`).

use super::state::disk::Pending;
use super::state::{Cx, Raft};
use super::{Body, Message, Persist};
use crate::planted_bugs::is_planted;
use crate::types::Index;

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
        if !is_planted!(self.config, answer_before_sync) && cx.fx.send_now.iter().any(is_held) {
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
