//! Decides which nodes should vote: promotes learners that have caught up, and replaces dead voters. Runs on the
//! leader.
//!
//! Only the leader's own observations count: how long a member has not answered *it*. Gossip may be wrong about any
//! node (a one-way link, a slow path), so it is ignored. Raft checks whether a change is safe in the log (an entry of
//! its own term committed, one change at a time); this file only proposes.
//!
//! Rules: A1 one change at a time. A2 live voters are a majority of the membership before and after each change. A3 a
//! demotion leaves at least `voters_min` voters. A4 there are never more than `voters_max` voters, except one extra
//! while a dead voter that A3 protects is being replaced. A5 a hosted voter is demoted at once; while there is
//! one, A3 holds for one voter: the node that hosts it may be the last of the cluster.
//!
//! Gateways serve clients and are never promoted. Neither are nodes that stop (`departures.rs`). What witnesses allow
//! is in `witness.rs`: a change against its rules is not proposed.
//!
//! An even number of voters is accepted. Four voters tolerate no more simultaneous failures than three, but when one
//! fails, it is demoted and three live voters remain, which tolerate another failure.
//! Not here: adding new nodes (they ask to join, `discovery/`), removing a wiped node's old identity (the join in
//! `node/`).

use super::witness;
use crate::raft::{Change, PeerView, Role, View, quorum};
use crate::settings::Settings;
use crate::types::{Index, NodeId, Ticks};
use std::collections::{BTreeMap, BTreeSet};

/// A learner has caught up when it is at most this many entries behind the commit index: under load the two are never
/// equal.
const CAUGHT_UP_ENTRIES: u64 = 1000;

#[derive(Clone, Debug)]
pub struct Rules {
    /// Minimum number of voters after a demotion.
    pub voters_min: usize,
    /// Number of voters up to which learners are promoted.
    pub voters_max: usize,
    /// A member that has not answered the leader for this long counts as dead.
    pub dead_after: Ticks,
    /// Nodes that are not promoted now: gateways, and those that stop or are not reached.
    pub unfit: BTreeSet<NodeId>,
    /// Voters whose processes are dead and that the leader hosts (`takeover/`).
    pub hosted: BTreeSet<NodeId>,
    /// Members that vote and keep no data, each with the index up to which its log is cut.
    pub witnesses: BTreeMap<NodeId, Index>,
}

impl From<&Settings> for Rules {
    fn from(settings: &Settings) -> Rules {
        Rules {
            voters_min: settings.voters_min as usize,
            voters_max: settings.voters_max as usize,
            dead_after: settings.dead_after_ticks(),
            unfit: BTreeSet::new(),
            hosted: BTreeSet::new(),
            witnesses: BTreeMap::new(),
        }
    }
}

/// Returns the next change of the membership, or `None` if there is nothing to do, if this node does not lead, or if no
/// change is safe now. To be called after each commit and about once a second; returns the same change again until it
/// is in the log.
pub fn decide(view: &View, rules: &Rules) -> Option<Change> {
    let is_able = view.role == Role::Leader
        && view.has_quorum
        && view.has_committed_own_term
        && view.transfer_to.is_none()
        && !view.membership.voters.is_empty();
    if !is_able {
        return None;
    }
    let membership = &view.membership;
    let is_allowed = |change: &Change| witness::is_allowed(view, &rules.witnesses, change);
    let peer = |id: NodeId| view.peers.iter().find(|peer| peer.who.id == id);
    let is_live = |id: NodeId| Some(id) == view.leader || peer(id).is_some_and(|peer| peer.is_active);
    let is_dead = |id: NodeId| peer(id).is_some_and(|p| !p.is_active && p.silent_ticks >= rules.dead_after);
    let voters = membership.voters.len();
    let live = membership.voters.keys().filter(|id| is_live(**id)).count();
    let dead = membership.voters.keys().copied().filter(|id| is_dead(*id)).min();
    let ready = view
        .peers
        .iter()
        .filter(|peer| !rules.unfit.contains(&peer.who.id) && !rules.hosted.contains(&peer.who.id))
        .filter(|peer| membership.learners.get(&peer.who.id) == Some(&peer.who.uuid) && has_caught_up(peer, view))
        .map(|peer| peer.who.id)
        .filter(|id| is_allowed(&Change::Promote(*id)))
        .max();
    if live < quorum(voters) {
        return None;
    }
    // A hosted voter has no process: the sooner it is a learner, the sooner its process can start again. Those that are
    // behind go first.
    let hosted = membership.voters.keys().copied().filter(|id| rules.hosted.contains(id));
    let hosted = hosted.filter(|id| is_allowed(&Change::Demote(*id)));
    if let Some(hosted) = hosted.min_by_key(|id| (is_live(*id), *id))
        && live - usize::from(is_live(hosted)) >= quorum(voters - 1)
    {
        return Some(Change::Demote(hosted));
    }
    let voters_min = if rules.hosted.is_empty() { rules.voters_min } else { 1 };
    // Dead voters are demoted first, as far as `voters_min` allows: each demotion lets the cluster tolerate another
    // failure.
    if let Some(dead) = dead
        && voters > voters_min
        && live >= quorum(voters - 1)
        && is_allowed(&Change::Demote(dead))
    {
        return Some(Change::Demote(dead));
    }
    // At `voters_min`, the replacement is promoted before the demotion, and may exceed `voters_max` by one until then.
    let room = rules.voters_max + usize::from(dead.is_some() && voters <= rules.voters_min);
    let ready = ready.filter(|_| voters < room && live + 1 >= quorum(voters + 1));
    ready.map(Change::Promote)
}

fn has_caught_up(peer: &PeerView, view: &View) -> bool {
    peer.is_active && peer.match_index.0 > 0 && peer.match_index.0 + CAUGHT_UP_ENTRIES >= view.commit_index.0
}

#[cfg(test)]
#[path = "tests/autopilot.rs"]
mod tests;
