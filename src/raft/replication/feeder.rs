//! What a leader sends to one follower: appends within flow control, heartbeats, and word that it needs a snapshot.
//!
//! Not here: when to send (`leader.rs`), how much may be under way (`state/progress.rs`).

use crate::raft::state::log::Log;
use crate::raft::state::progress::{Mode, Progress};
use crate::raft::state::{Cx, Envelope};
use crate::raft::{Body, Config};
use crate::types::Index;

/// What feeding a follower needs besides its progress.
pub(crate) struct Feeder<'a> {
    pub(crate) envelope: Envelope,
    pub(crate) log: &'a Log,
    pub(crate) commit: Index,
    pub(crate) now: u64,
    pub(crate) config: &'a Config,
}

impl Feeder<'_> {
    /// Sends appends as far as flow control allows; without `with_entries` a probe carries none.
    pub(crate) fn feed(&self, cx: &mut Cx<'_>, progress: &mut Progress, with_entries: bool) {
        let last_index = self.log.last_index();
        while progress.can_send(last_index, self.config.inflight_bytes_max) {
            let prev_index = progress.next_index.prev();
            let Some(prev_term) = self.log.term_at(prev_index) else {
                return self.begin_snapshot(cx, progress);
            };
            let bytes_max = self.config.append_bytes_max;
            let (entries, bytes) = match with_entries {
                true => self.log.slice_bytes(progress.next_index, bytes_max),
                false => (&[][..], 0),
            };
            let body = Body::Append {
                session: progress.session,
                prev_index,
                prev_term,
                commit: self.commit,
                entries: entries.to_vec(),
            };
            let end = Index(prev_index.0 + entries.len() as u64);
            progress.on_sent(end, bytes, self.now);
            progress.told_commit = self.commit.min(end);
            self.envelope.send(cx, progress.who, body);
        }
        if progress.lacks_commit(self.commit) {
            self.heartbeat(cx, progress, 0);
        }
    }

    /// Whether the next heartbeat should be answered. Who holds the whole log and answered lately need not: an idle
    /// cluster's cost is its wake-ups. A quarter of the election timeout leaves check-quorum three losses in a row.
    pub(crate) fn needs_answer(&self, progress: &Progress) -> bool {
        let unheard_ticks = self.now - progress.heard_at + self.config.heartbeat_ticks.0;
        !progress.is_level(self.log.last_index()) || unheard_ticks > self.config.election_timeout_ticks.0 / 4
    }

    /// A heartbeat, answered unless its round is 0. The commit index in it never goes beyond what this follower is
    /// known to hold.
    pub(crate) fn heartbeat(&self, cx: &mut Cx<'_>, progress: &mut Progress, round: u64) {
        let commit = self.commit.min(progress.match_index);
        progress.told_commit = commit;
        self.envelope.send(cx, progress.who, Body::Heartbeat { round, commit });
    }

    /// The follower needs what is compacted: the host streams the newest snapshot, unless one has just been sent.
    fn begin_snapshot(&self, cx: &mut Cx<'_>, progress: &mut Progress) {
        if self.now < progress.no_snapshot_before {
            // It may not have put it in place yet: ask for it again, in an empty probe with the next heartbeat.
            // Probing even if it was being streamed to: a stream with nothing left to send would never end.
            progress.become_probe();
            progress.next_index = self.log.snapshot_index().next();
            progress.is_probing = true;
            return;
        }
        progress.become_probe();
        progress.mode = Mode::Snapshot;
        cx.fx.send_snapshot.push(progress.who);
    }
}
