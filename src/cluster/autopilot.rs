//! Who should vote: promotes learners that have caught up, replaces voters that are dead. Runs on the leader.
//!
//! Evidence is the leader's own: how long a member has not answered *it*. Gossip may be wrong about anyone (a one-way
//! link, a slow path), so it has no say here. Whether a change is safe in the log (own-term commit, one at a time) is
//! raft's rule, checked there again; this file only chooses.
//!
//! Rules: A1 one change at a time. A2 live voters are a majority of the membership before and after each change. A3 a
//! demotion leaves at least `voters_min` voters. A4 voters are never more than `voters_max`, but for one extra while a
//! dead voter that A3 protects is being replaced.
//!
//! Gateways serve clients and are never promoted.
//!
//! An even number of voters is accepted. Four voters survive no more losses at once than three, but when one dies, the
//! dead one is demoted and three live voters remain: the fourth is the spare that makes the next loss survivable.
//! Not here: adding newcomers (they ask, `discovery.rs`), removing a wiped node's old identity (the join in `node/`).

use crate::raft::{Change, PeerView, Role, View, quorum};
use crate::settings::Settings;
use crate::types::{NodeId, Ticks};
use std::collections::BTreeSet;

/// A learner this many entries behind the commit index has caught up: under load the two are never equal.
const CAUGHT_UP_ENTRIES: u64 = 1000;

/// What autopilot aims at.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Never fewer voters than this by a demotion.
    pub voters_min: usize,
    /// Promote up to this many.
    pub voters_max: usize,
    /// Silent to the leader for this long is dead.
    pub dead_after: Ticks,
    /// Learners that stay learners.
    pub gateways: BTreeSet<NodeId>,
}

impl From<&Settings> for Rules {
    fn from(settings: &Settings) -> Rules {
        Rules {
            voters_min: settings.voters_min as usize,
            voters_max: settings.voters_max as usize,
            dead_after: settings.dead_after_ticks(),
            gateways: BTreeSet::new(),
        }
    }
}

/// The next change to the membership, or `None`: nothing to do, not the leader, or not safe now. Call it again after
/// each commit and about once a second; the same answer may come until the change is in the log.
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
    let peer = |id: NodeId| view.peers.iter().find(|peer| peer.who.id == id);
    let is_live = |id: NodeId| Some(id) == view.leader || peer(id).is_some_and(|peer| peer.is_active);
    let is_dead = |id: NodeId| peer(id).is_some_and(|p| !p.is_active && p.silent_ticks >= rules.dead_after);
    let voters = membership.voters.len();
    let live = membership.voters.keys().filter(|id| is_live(**id)).count();
    let dead = membership.voters.keys().copied().filter(|id| is_dead(*id)).min();
    let ready = view
        .peers
        .iter()
        .filter(|peer| !rules.gateways.contains(&peer.who.id))
        .filter(|peer| membership.learners.get(&peer.who.id) == Some(&peer.who.uuid) && has_caught_up(peer, view))
        .map(|peer| peer.who.id)
        .max();
    if live < quorum(voters) {
        return None;
    }
    // A dead voter first, where the floor allows it: each one demoted makes the next loss survivable.
    if let Some(dead) = dead
        && voters > rules.voters_min
        && live >= quorum(voters - 1)
    {
        return Some(Change::Demote(dead));
    }
    // At the floor, the replacement comes before the demotion and may exceed voters_max by one meanwhile.
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
