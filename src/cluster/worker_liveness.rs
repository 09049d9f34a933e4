//! Which workers are lost, so that their jobs are restarted on other nodes. Runs on the leader.
//!
//! Only the leader's own observations count: the worker's connection broke and its port refuses (its process is gone),
//! or it has not answered for `fail_after_ms`, or it answers while its log does not grow ([`LogProgress`]), so that it
//! cannot know its jobs. Gossip may be wrong about any node, so it is ignored. A worker that was declared lost by
//! mistake joins again; its jobs are on other workers by then, and are dropped.
//! Not here: what happens to the jobs (`services/jobs/`), proposing (`node/threads/core/`).

use crate::raft::{Role, View};
use crate::types::{Identity, Index, NodeId, Ticks};
use std::collections::{BTreeMap, BTreeSet};

/// Returns those of `workers` (each a process of a node) that are lost. `lost` are nodes whose port refuses
/// connections; `silent_max` is the maximum time without an answer.
pub fn lost_workers(view: &View, lost: &BTreeSet<NodeId>, silent_max: Ticks, workers: &[Identity]) -> Vec<Identity> {
    if view.role != Role::Leader {
        return Vec::new();
    }
    let is_gone = |id: NodeId| {
        let peer = view.peers.iter().find(|peer| peer.who.id == id);
        // A node that is no longer a member does not receive the log.
        lost.contains(&id) || peer.is_none_or(|peer| peer.silent_ticks >= silent_max)
    };
    // The leader's own earlier process is replaced when this one joins.
    workers.iter().copied().filter(|worker| Some(worker.id) != view.leader && is_gone(worker.id)).collect()
}

/// The leader's record of how far each peer's log has grown. A node with a disk that hangs answers every heartbeat and
/// gets no new entries.
#[derive(Debug, Default)]
pub struct LogProgress {
    /// Last known index of each log, and since when.
    rows: BTreeMap<NodeId, (Identity, Index, Ticks)>,
}

impl LogProgress {
    /// Updates the record and returns the nodes that lack committed entries and have received none for `still_max`.
    /// `now` is the leader's own time. To be called often: a peer counts as caught up until the last call at which it
    /// was.
    pub fn stuck(&mut self, view: &View, now: Ticks, still_max: Ticks) -> BTreeSet<NodeId> {
        let row = |who: Identity, end: Index| match self.rows.get(&who.id) {
            Some(row) if (row.0, row.1) == (who, end) && end < view.commit_index => *row,
            _ => (who, end, now),
        };
        self.rows = view.peers.iter().map(|peer| (peer.who.id, row(peer.who, peer.match_index))).collect();
        let is_stuck = |since: Ticks| now.0 - since.0 >= still_max.0;
        self.rows.iter().filter(|(_, (_, _, since))| is_stuck(*since)).map(|(id, _)| *id).collect()
    }
}

/// Time limits of worker liveness.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Maximum time without an answer.
    pub silent_max: Ticks,
    /// Maximum time for which a log that lacks committed entries may not grow.
    pub still_max: Ticks,
    /// A worker that was declared lost and is still registered is declared lost again after this time.
    pub again: Ticks,
}

/// Which workers are alive, as this node has observed them.
#[derive(Debug, Default)]
pub struct WorkerLiveness {
    /// Nodes with a peer port that has refused a connection of this node.
    lost: BTreeSet<NodeId>,
    /// As the leader: how far the logs of the others have grown.
    log_progress: LogProgress,
    /// As the leader: since when each worker has been registered. A worker that joins has received entries: its log has
    /// grown since `log_progress` was last updated.
    joined_at: BTreeMap<Identity, Ticks>,
    /// As the leader: the workers that were declared lost, and when.
    declared: BTreeMap<Identity, Ticks>,
}

impl WorkerLiveness {
    /// Records that the node's port refuses connections.
    pub fn mark_lost(&mut self, id: NodeId) {
        self.lost.insert(id);
    }

    /// Records that there is a connection to the node.
    pub fn mark_reachable(&mut self, id: NodeId) {
        self.lost.remove(&id);
    }

    /// Returns the workers of `registered` that the leader has to declare lost now; none on a follower. `now` is this
    /// node's own time. To be called often.
    pub fn due(&mut self, view: &View, now: Ticks, patience: Patience, registered: &[Identity]) -> Vec<Identity> {
        if view.role != Role::Leader {
            self.log_progress = LogProgress::default();
            self.joined_at.clear();
            self.declared.clear();
            return Vec::new();
        }
        self.joined_at =
            registered.iter().map(|worker| (*worker, self.joined_at.get(worker).copied().unwrap_or(now))).collect();
        let is_new =
            |id: &NodeId| self.joined_at.iter().any(|(who, at)| who.id == *id && now.0 - at.0 < patience.still_max.0);
        let mut lost = self.log_progress.stuck(view, now, patience.still_max);
        lost.retain(|id| !is_new(id));
        lost.extend(&self.lost);
        let mut due = lost_workers(view, &lost, patience.silent_max, registered);
        let is_fresh = |at: Ticks| now.0 - at.0 < patience.again.0;
        self.declared.retain(|_, at| is_fresh(*at));
        due.retain(|worker| !self.declared.contains_key(worker));
        self.declared.extend(due.iter().map(|worker| (*worker, now)));
        due
    }
}

#[cfg(test)]
mod tests {
    use crate::cluster::worker_liveness::*;
    use crate::raft::{Membership, PeerView};
    use crate::types::Index;
    use uuid::Uuid;

    fn who(id: u64) -> Identity {
        Identity { id: NodeId(id), uuid: Uuid::from_u128(u128::from(id)) }
    }

    fn view(role: Role, silent: &[(u64, u64)]) -> View {
        let peer = |(id, ticks): &(u64, u64)| PeerView {
            silent_ticks: Ticks(*ticks),
            is_active: *ticks < 80,
            ..PeerView::level(who(*id), Index(1))
        };
        let peers = silent.iter().map(peer).collect();
        View { role, ..View::of_leader(NodeId(1), Index(1), Membership::default(), peers) }
    }

    #[test]
    fn only_lost_silent_and_removed_workers_are_dropped() {
        let workers = [1, 2, 3, 4, 5].map(who);
        let rows = [(2, 10), (3, 400), (4, 0)];
        let lost = BTreeSet::from([NodeId(4)]);
        assert_eq!(lost_workers(&view(Role::Leader, &rows), &lost, Ticks(400), &workers), [3, 4, 5].map(who));
        assert_eq!(lost_workers(&view(Role::Leader, &rows), &BTreeSet::new(), Ticks(401), &workers), [who(5)]);
        assert!(
            lost_workers(&view(Role::Follower, &rows), &lost, Ticks(1), &workers).is_empty(),
            "a follower has no evidence"
        );
    }

    #[test]
    fn a_lost_worker_is_declared_lost_again_after_a_while() {
        let (mut liveness, registered) = (WorkerLiveness::default(), [2, 3].map(who));
        let patience = Patience { silent_max: Ticks(400), still_max: Ticks(400), again: Ticks(100) };
        let leads = view(Role::Leader, &[(2, 0), (3, 0)]);
        assert!(liveness.due(&leads, Ticks(1), patience, &registered).is_empty());
        liveness.mark_lost(NodeId(3));
        assert_eq!(liveness.due(&leads, Ticks(2), patience, &registered), [who(3)]);
        assert!(
            liveness.due(&leads, Ticks(101), patience, &registered).is_empty(),
            "it was declared lost a moment ago"
        );
        assert_eq!(liveness.due(&leads, Ticks(102), patience, &registered), [who(3)], "the log did not take it");
        liveness.due(&view(Role::Follower, &[]), Ticks(103), patience, &registered);
        assert_eq!(
            liveness.due(&leads, Ticks(104), patience, &registered),
            [who(3)],
            "a new leadership declares it again"
        );
        liveness.mark_reachable(NodeId(3));
        assert!(liveness.due(&leads, Ticks(300), patience, &registered).is_empty());
    }

    #[test]
    fn a_worker_that_has_just_joined_is_not_held_to_what_was_known_before() {
        let (mut liveness, registered) = (WorkerLiveness::default(), [who(2)]);
        let patience = Patience { silent_max: Ticks(400), still_max: Ticks(10), again: Ticks(100) };
        let mut leads = view(Role::Leader, &[(2, 0)]);
        leads.commit_index = Index(5);
        assert!(liveness.due(&leads, Ticks(1), patience, &[]).is_empty());
        assert!(
            liveness.due(&leads, Ticks(11), patience, &registered).is_empty(),
            "its log has stood still, as far as is known; but it joined"
        );
        assert!(liveness.due(&leads, Ticks(20), patience, &registered).is_empty());
        assert_eq!(liveness.due(&leads, Ticks(21), patience, &registered), registered);
    }

    #[test]
    fn a_log_that_stands_still_while_others_go_on_is_stuck_and_a_slow_one_is_not() {
        let mut log_progress = LogProgress::default();
        let mut at = |now: u64, ends: [u64; 3], commit: u64| {
            let mut view = view(Role::Leader, &[(2, 0), (3, 0), (4, 0)]);
            view.commit_index = Index(commit);
            view.peers.iter_mut().zip(ends).for_each(|(peer, end)| peer.match_index = Index(end));
            log_progress.stuck(&view, Ticks(now), Ticks(10)).into_iter().map(|id| id.0).collect::<Vec<_>>()
        };
        assert!(at(0, [5, 5, 5], 5).is_empty());
        assert!(at(59, [5, 5, 5], 5).is_empty(), "nothing is new, so nobody lacks anything");
        assert!(at(60, [9, 5, 5], 9).is_empty());
        assert!(at(68, [9, 5, 6], 9).is_empty());
        assert_eq!(at(69, [9, 5, 6], 9), [3]);
        assert_eq!(at(78, [9, 9, 6], 9), [4]);
        assert!(at(80, [9, 9, 9], 9).is_empty());
    }
}
