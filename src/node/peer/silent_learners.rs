//! Limits for learners that were admitted and have not been heard yet: how many there may be, and for how long.
//!
//! Without a `cluster_secret` any process of this machine may ask to join, under any free number, and each join costs
//! every node a thread and a link. A real node follows its leader within moments, so few need to be waited for at once.
//!
//! A learner counts as silent if it has acknowledged nothing to this leader, and has not registered its addresses in
//! the log or was admitted by this process (which registers a gateway itself). So a learner that has been a member for
//! long and is down does not count.
//! Invariants: J1 no learner is admitted while [`SILENT_LEARNERS_MAX`] others are silent. J2 a learner that answers the
//! leader is not removed, however long its first snapshot takes.
//! Not here: the join itself (`join.rs`), who becomes a voter (`cluster/autopilot.rs`).

use crate::raft::View;
use crate::settings::to_ticks;
use crate::types::{Identity, Index, NodeId};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Silent learners. More: a new node is refused, and asks again.
pub const SILENT_LEARNERS_MAX: usize = 8;
/// A learner that is silent for so long is removed.
const SILENT_MAX: Duration = Duration::from_secs(60);
/// A join takes no longer than this until the membership names the new node.
const JOIN_MAX: Duration = Duration::from_secs(10);

/// Nodes that this process has admitted as the leader and that are not heard yet.
#[derive(Debug, Default)]
pub struct SilentLearners(BTreeMap<Identity, Instant>);

impl SilentLearners {
    /// Whether one more may be admitted; if so, it is counted from now on.
    pub fn try_add(&mut self, who: Identity, view: &View, is_registered: impl Fn(&Identity) -> bool) -> bool {
        let silent = self.silent(view, is_registered);
        self.0.retain(|who, at| match view.membership.is_member(who) {
            true => silent.contains(who),
            false => at.elapsed() < JOIN_MAX,
        });
        let is_other = |other: &&Identity| **other != who;
        let pending = self.0.keys().filter(|other| !silent.contains(other));
        if silent.iter().chain(pending).filter(is_other).count() >= SILENT_LEARNERS_MAX {
            return false;
        }
        self.0.insert(who, Instant::now());
        true
    }

    /// A learner that has been silent for too long, if there is one. This node leads.
    pub fn overdue(&self, view: &View, is_registered: impl Fn(&Identity) -> bool) -> Option<NodeId> {
        let silent = self.silent(view, is_registered);
        let overdue = view.peers.iter().filter(|peer| peer.silent_ticks >= to_ticks(SILENT_MAX.as_millis() as u64));
        overdue.map(|peer| peer.who).find(|who| silent.contains(who)).map(|who| who.id)
    }

    fn silent(&self, view: &View, is_registered: impl Fn(&Identity) -> bool) -> Vec<Identity> {
        let has_followed =
            |who: &Identity| view.peers.iter().any(|peer| peer.who == *who && peer.match_index > Index(0));
        let learners = view.membership.learners.iter().map(|(&id, &uuid)| Identity { id, uuid });
        learners.filter(|who| !has_followed(who) && (!is_registered(who) || self.0.contains_key(who))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::{Membership, PeerView};
    use crate::types::Ticks;
    use uuid::Uuid;

    fn who(id: u64) -> Identity {
        Identity { id: NodeId(id), uuid: Uuid::from_u128(id.into()) }
    }

    /// Node 1 leads these learners: number, what it acknowledged, and for how many seconds it has been silent.
    fn view(learners: &[(u64, u64, u64)]) -> View {
        let peer = |&(id, end, silent_s): &(u64, u64, u64)| PeerView {
            silent_ticks: Ticks(silent_s * to_ticks(1000).0),
            is_active: silent_s == 0,
            ..PeerView::level(who(id), Index(end))
        };
        let voters = [(NodeId(1), who(1).uuid)].into();
        let named = learners.iter().map(|(id, ..)| (NodeId(*id), who(*id).uuid)).collect();
        let membership = Membership { voters, learners: named };
        View::of_leader(NodeId(1), Index(9), membership, learners.iter().map(peer).collect())
    }

    #[test]
    fn silent_learners_are_limited() {
        let mut silent_learners = SilentLearners::default();
        let none = |_: &Identity| false;
        let added = (2..12).filter(|id| silent_learners.try_add(who(*id), &view(&[]), none)).count();
        assert_eq!(added, SILENT_LEARNERS_MAX, "before the membership names them");
        let silent: Vec<_> = (2..10).map(|id| (id, 0, 1)).collect();
        assert!(!silent_learners.try_add(who(20), &view(&silent), none));
        assert!(silent_learners.try_add(who(2), &view(&silent), none), "one of them asks again");
        // One has followed: it makes room.
        let mut heard = silent.clone();
        heard[3].1 = 5;
        assert!(silent_learners.try_add(who(20), &view(&heard), none));
        // Another leader knows them by what the log lacks.
        let mut silent_learners = SilentLearners::default();
        assert!(!silent_learners.try_add(who(20), &view(&silent), none));
        assert!(silent_learners.try_add(who(20), &view(&silent), |_| true), "members of old that are down");
    }

    #[test]
    fn a_learner_that_stays_silent_is_removed_after_a_minute() {
        let mut silent_learners = SilentLearners::default();
        let none = |_: &Identity| false;
        assert_eq!(silent_learners.overdue(&view(&[(2, 0, 59), (3, 9, 100), (4, 0, 0)]), none), None);
        assert_eq!(silent_learners.overdue(&view(&[(2, 0, 59), (3, 0, 61)]), none), Some(NodeId(3)));
        assert_eq!(silent_learners.overdue(&view(&[(3, 0, 61)]), |_| true), None, "a member of old that is down");
        assert!(silent_learners.try_add(who(3), &view(&[]), none));
        assert_eq!(silent_learners.overdue(&view(&[(3, 0, 61)]), |_| true), Some(NodeId(3)), "a gateway taken in here");
    }
}
