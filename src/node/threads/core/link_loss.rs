//! Which links lose packets: those with answers that are late. TCP repeats a lost packet after 200 ms at the earliest,
//! and the counters of the kernel are out of reach without unsafe code, so the time of an answer shows a loss.
//!
//! A mistake costs some datagrams for half a minute (`node/datagrams/outgoing.rs`). On loopback there are none.
//! Not here: measuring (`round_trips.rs`), what is done about it (`node/datagrams/`).

use super::state::Core;
use crate::raft::Role;
use std::time::{Duration, Instant};

/// Time between two checks.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// An answer that takes so much longer than two of the shortest, or a leader that is silent for so much longer than two
/// heartbeats, is late. Less than what a lost packet costs, more than what a busy machine usually does.
const LATE: Duration = Duration::from_millis(60);
/// Without a leader all messages go both ways: an election that takes longer costs writes. That says nothing of the
/// links.
const WITHOUT_LEADER_FOR: Duration = Duration::from_secs(1);
/// How long a follower whose link to the leader loses packets sends datagrams to the others, too, after each look.
const WITH_LOSSY_LEADER_FOR: Duration = Duration::from_secs(1);

impl Core {
    /// Looks for links that lose packets.
    pub(super) fn watch_links(&mut self, now: Instant) {
        if now.duration_since(self.links_watched) < LOOK_EVERY {
            return;
        }
        self.links_watched = now;
        if self.shared.datagrams.sockets().is_empty() {
            return;
        }
        match (self.raft.role(), self.raft.leader()) {
            (Role::Leader, _) => {
                for (id, link) in &self.links {
                    if self.round_trips.is_overdue(*id, now, LATE) {
                        link.on_loss();
                    }
                }
            }
            (_, Some(leader)) => {
                let late = LATE + Duration::from_millis(2 * self.shared.settings.heartbeat_ms);
                let is_late = self.shared.leader_age().is_some_and(|age| age > late);
                let Some(to_leader) = self.links.get(&leader) else { return };
                if is_late {
                    to_leader.on_loss();
                }
                // Nothing is regular enough on the others to show a loss; what is gossiped would fill a connection that
                // stands still, until it is closed.
                if to_leader.is_lossy() {
                    self.links.values().for_each(|link| link.use_datagrams(WITH_LOSSY_LEADER_FOR));
                }
            }
            (_, None) => self.links.values().for_each(|link| link.use_datagrams(WITHOUT_LEADER_FOR)),
        }
    }
}
