//! Witnesses: how many voters may be witnesses, and how much of its log a witness must keep. Pure.
//!
//! A witness votes and keeps the end of the log, but no data. What a full node and a witness have committed is on one
//! data disk; the witness's log is the second copy, until other full nodes have it.
//!
//! Rules: W1 every quorum has a full voter, whatever a person or the autopilot changes: only full voters can serve what
//! was committed. W2 a witness becomes a voter only while witnesses are fewer than half of the voters. W3 a witness cuts
//! its log only as far as full voters hold it on disk that are as many as a quorum, as if there were no witness (all full
//! voters, if they are fewer); or, if its log is too long for that, as far as its snapshot reaches, and that is reported.
//! W4 the voters change only so that W3 holds among the new ones: what a witness has cut, as many full voters hold.
//! Not here: which changes are due (`autopilot.rs`), who is a witness (`services/directory.rs`), the cut
//! (`node/snapshots/witness.rs`), how a witness leads (`raft/election.rs`).

use crate::raft::{Change, Membership, View, quorum};
use crate::services::directory::Nodes;
use crate::types::{Index, NodeId, NodeKind};
use std::collections::{BTreeMap, BTreeSet};

/// The members that are witnesses.
pub fn members(membership: &Membership, nodes: &Nodes) -> BTreeSet<NodeId> {
    membership.members().filter(|who| nodes.kind_of(*who) == NodeKind::Witness).map(|who| who.id).collect()
}

/// The voters after a change.
fn voters_after(membership: &Membership, change: &Change) -> BTreeSet<NodeId> {
    let mut voters: BTreeSet<NodeId> = membership.voters.keys().copied().collect();
    match change {
        Change::AddLearner(_) => {}
        Change::Promote(id) => _ = voters.insert(*id),
        Change::Demote(id) | Change::Remove(id) => _ = voters.remove(id),
    }
    voters
}

/// Whether every quorum has a full voter after `change` (W1).
pub fn keeps_full_quorums(membership: &Membership, witnesses: &BTreeSet<NodeId>, change: &Change) -> bool {
    let voters = voters_after(membership, change);
    voters.intersection(witnesses).count() < quorum(voters.len())
}

/// On the leader: whether `change` keeps W1, W2 and W4. `cuts` has the witnesses, each with the index up to which its log
/// is cut. Raft decides whether the change is safe otherwise.
pub fn is_allowed(view: &View, cuts: &BTreeMap<NodeId, Index>, change: &Change) -> bool {
    let voters = voters_after(&view.membership, change);
    if voters.iter().eq(view.membership.voters.keys()) {
        return true;
    }
    let (full, witnesses): (Vec<NodeId>, Vec<NodeId>) = voters.iter().partition(|id| !cuts.contains_key(id));
    let is_minority = match change {
        Change::Promote(id) if cuts.contains_key(id) => witnesses.len() * 2 < voters.len(),
        _ => witnesses.len() < quorum(voters.len()),
    };
    let held = |id: NodeId| match Some(id) == view.leader {
        true => view.durable_index.min(view.commit_index),
        false => view.peers.iter().find(|peer| peer.who.id == id).map_or(Index(0), |peer| peer.match_index),
    };
    let releasable = releasable(voters.len(), full.into_iter().map(held).collect());
    is_minority && witnesses.iter().all(|id| cuts[id] <= releasable)
}

/// Up to where a witness may cut its log (W3): `held` says how far each full voter has the committed log on its disk.
pub fn releasable(voters: usize, mut held: Vec<Index>) -> Index {
    held.sort_unstable_by(|a, b| b.cmp(a));
    let needed = quorum(voters).min(held.len());
    needed.checked_sub(1).map_or(Index(0), |place| held[place])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::PeerView;
    use crate::types::Identity;
    use uuid::Uuid;

    /// Leader 1, whose log ends at 50; the others hold 50, or what `behind` says. Witnesses 8 and 9 have cut at 20.
    fn may(voters: &[u64], learners: &[u64], behind: &[(u64, u64)], change: Change) -> bool {
        let all = |ids: &[u64]| ids.iter().map(|id| (NodeId(*id), Uuid::nil())).collect();
        let peers = voters.iter().chain(learners).filter(|id| **id != 1).map(|id| {
            let end = behind.iter().find(|(who, _)| who == id).map_or(50, |(_, end)| *end);
            PeerView::level(Identity { id: NodeId(*id), uuid: Uuid::nil() }, Index(end))
        });
        let membership = Membership { voters: all(voters), learners: all(learners) };
        let view = View::of_leader(NodeId(1), Index(50), membership, peers.collect());
        let cuts = BTreeMap::from([(NodeId(8), Index(20)), (NodeId(9), Index(20))]);
        is_allowed(&view, &cuts, &change)
    }

    #[test]
    fn witnesses_become_voters_only_while_they_are_fewer_than_half() {
        let promote = |id| Change::Promote(NodeId(id));
        assert!(!may(&[1], &[9], &[], promote(9)), "the second voter must be a full node");
        assert!(may(&[1, 2], &[9], &[], promote(9)));
        assert!(!may(&[1, 2, 9], &[8], &[], promote(8)), "two of four are half");
        assert!(may(&[1, 2, 3, 9], &[8], &[], promote(8)));
        assert!(may(&[1, 9], &[2], &[], promote(2)), "a full node is welcome in any number");
    }

    #[test]
    fn every_quorum_keeps_a_full_voter() {
        for out in [Change::Demote, Change::Remove] {
            assert!(may(&[1, 2, 9], &[], &[], out(NodeId(2))), "two of two: the full one is in every quorum");
            assert!(!may(&[1, 9], &[], &[], out(NodeId(1))), "a witness alone");
            assert!(may(&[1, 9], &[], &[], out(NodeId(9))));
            assert!(may(&[1, 2, 3, 8, 9], &[], &[], out(NodeId(2))), "three of four");
            assert!(!may(&[1, 2, 8, 9], &[], &[], out(NodeId(2))), "two witnesses are a quorum of three");
        }
        let membership = Membership { voters: BTreeMap::from([(NodeId(9), Uuid::nil())]), ..Membership::default() };
        assert!(!keeps_full_quorums(&membership, &BTreeSet::from([NodeId(9)]), &Change::Demote(NodeId(1))));
    }

    #[test]
    fn the_new_voters_hold_what_the_witnesses_have_cut() {
        // A witness that has just got the leader's snapshot is no second copy of what node 2 lacks.
        assert!(!may(&[1, 2], &[9], &[(2, 19)], Change::Promote(NodeId(9))));
        assert!(may(&[1, 2], &[9], &[(2, 20)], Change::Promote(NodeId(9))));
        // What 1 and 2 held when the witness cut its log, 1 and 3 must hold before 2 may go.
        assert!(!may(&[1, 2, 3, 9], &[], &[(3, 19)], Change::Demote(NodeId(2))));
        assert!(may(&[1, 2, 3, 9], &[], &[(3, 20)], Change::Demote(NodeId(2))));
        assert!(may(&[1, 2, 9], &[], &[(2, 0)], Change::Demote(NodeId(9))), "without witnesses there is no such rule");
        assert!(may(&[1, 9], &[2], &[(2, 0)], Change::Remove(NodeId(2))), "a learner is no voter");
    }

    #[test]
    fn the_log_is_kept_until_as_many_full_voters_as_a_quorum_have_it() {
        let upto = |voters, held: &[u64]| releasable(voters, held.iter().copied().map(Index).collect()).0;
        assert_eq!(upto(3, &[50, 20]), 20, "two full voters and a witness: both");
        assert_eq!(upto(5, &[50, 20, 30]), 20, "three and two witnesses: all three");
        assert_eq!(upto(5, &[50, 20, 30, 40]), 30, "four and one: three of them, as without a witness");
        assert_eq!(upto(2, &[50]), 50, "there is no other");
        assert_eq!(upto(3, &[]), 0);
    }
}
