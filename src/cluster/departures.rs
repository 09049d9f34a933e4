//! Voters that stop in order give their vote back: the leader makes them learners, so that those that stay are a
//! majority, down to one voter. The autopilot promotes them when they are back.
//!
//! A node that stops says goodbye to all others and does not wait for the demotion, unless the others have no quorum
//! without it until then. The leader waits [`GATHER_MS`] for further goodbyes before it demotes. Nodes that stop
//! together keep their votes: otherwise only the last one could start the cluster again, from its disk alone.
//!
//! Whether a change is safe is decided by raft: it is an ordinary demotion, and quorums of successive memberships
//! overlap. A goodbye that is lost, or comes from a node that stays, costs at most a vote that the autopilot gives back.
//!
//! Rules: D1 a node that stops demotes no node. D2 no node is demoted if fewer than half of the voters stay. D3 a node
//! that stops is not promoted (`autopilot.rs`) and gets no leadership (`raft/transfer.rs`).
//! Unlike the autopilot's own demotions, these may go below `voters_min`.
//! Not here: what a node does when it stops (`node/process/stop.rs`).

use crate::raft::{Change, Membership, Role, View, quorum};
use crate::types::{Identity, NodeId};
use std::collections::{BTreeMap, BTreeSet};

/// How long after a goodbye another one counts as part of the same stop. Signals that a script sends in a loop reach
/// processes on a busy machine tens of milliseconds apart; who stops nodes one by one waits longer.
pub const GATHER_MS: u64 = 300;

/// After this time a goodbye is forgotten: a stop takes at most five seconds, and a node that still answers then stays.
pub const FORGET_MS: u64 = 5000;

/// The goodbyes that a node has heard, its own among them.
#[derive(Clone, Debug, Default)]
pub struct Departures {
    /// Who, and when it was first heard.
    heard: BTreeMap<NodeId, (Identity, u64)>,
}

impl Departures {
    /// A node stops. Repeated goodbyes count once: they must not put the demotion off.
    pub fn on_goodbye(&mut self, who: Identity, now_ms: u64) {
        let (known, at) = self.heard.entry(who.id).or_insert((who, now_ms));
        if *known != who || is_forgotten(*at, now_ms) {
            (*known, *at) = (who, now_ms);
        }
    }

    /// A node has connected again: it is a new process.
    pub fn on_return(&mut self, id: NodeId) {
        self.heard.remove(&id);
    }

    /// The nodes that stop, or have just stopped.
    pub fn leaving(&self, now_ms: u64) -> BTreeSet<NodeId> {
        self.heard.iter().filter(|(_, (_, at))| !is_forgotten(*at, now_ms)).map(|(id, _)| *id).collect()
    }

    /// The next demotion, or `None` if there is none now. To be called often; returns the same change again until it is
    /// in the log.
    pub fn decide(&self, view: &View, now_ms: u64) -> Option<Change> {
        let is_able = view.role == Role::Leader
            && view.has_quorum
            && view.has_committed_own_term
            && view.transfer_to.is_none()
            && !self.heard.is_empty();
        let leaving = self.leaving(now_ms);
        if !is_able || view.leader.is_none_or(|me| leaving.contains(&me)) {
            return None;
        }
        let is_gathering = self.heard.values().any(|(_, at)| now_ms.saturating_sub(*at) < GATHER_MS);
        let is_named = |id: &NodeId| {
            self.heard.get(id).is_some_and(|(who, _)| leaving.contains(id) && view.membership.is_voter(who))
        };
        let first = view.membership.voters.keys().copied().find(is_named)?;
        let is_live =
            |id: NodeId| Some(id) == view.leader || view.peers.iter().any(|peer| peer.who.id == id && peer.is_active);
        let staying = view.membership.voters.keys().filter(|id| !is_named(id) && is_live(**id)).count();
        let is_whole_cluster = staying * 2 < view.membership.voters.len();
        (!is_gathering && !is_whole_cluster).then_some(Change::Demote(first))
    }
}

/// Whether a voter that stops should wait until it is demoted: without it the nodes that stay have no quorum, and they
/// would have one if it were a learner.
pub fn is_needed_until_demoted(membership: &Membership, me: &Identity, is_staying: impl Fn(NodeId) -> bool) -> bool {
    let voters = membership.voters.len();
    if voters < 2 || !membership.is_voter(me) {
        return false;
    }
    let staying = membership.voters.keys().filter(|id| **id != me.id && is_staying(**id)).count();
    staying < quorum(voters) && staying >= quorum(voters - 1)
}

fn is_forgotten(at: u64, now_ms: u64) -> bool {
    now_ms.saturating_sub(at) >= FORGET_MS
}

#[cfg(test)]
#[path = "tests/departures.rs"]
mod tests;
