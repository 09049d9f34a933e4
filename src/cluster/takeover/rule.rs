//! When a node hosts the voters of dead processes, and until when.
//!
//! None of this decides whether a promise holds: a hosted voter keeps those of its folder, no matter who hosts it and
//! for how long. It decides whether the attempt can help, and that folders are not held for longer than they are
//! needed.
//!
//! Rules: T1 only a voter that has had a leader since its process started, and has none now. T2 only with a majority of
//! the voters, itself and those whose folders it holds: no other node can have one then. T3 a folder is released as soon as
//! its voter is none any more, or another node leads, or no leader was found in time.
//! Not here: locks (`folder_claims.rs`), what the leader does with hosted voters (`cluster/autopilot.rs`).

use crate::raft::{Role, View, quorum};
use crate::types::{Identity, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use uuid::Uuid;

/// What a node knows of itself when it considers an attempt.
#[derive(Clone, Debug)]
pub struct TakeoverSituation<'a> {
    pub me: Identity,
    pub view: &'a View,
    /// Since a leader was last heard, this node included; `None`: never in this process.
    pub leader_age: Option<Duration>,
    /// Setting `takeover_after_ms`; `None`: never.
    pub after: Option<Duration>,
    /// It stops, its disk is nearly full, or its state is wrong.
    pub is_unfit: bool,
}

/// Rule T1.
pub fn is_due(situation: &TakeoverSituation<'_>) -> bool {
    let TakeoverSituation { me, view, leader_age, after, is_unfit } = situation;
    let (Some(age), Some(after)) = (leader_age, after) else { return false };
    !is_unfit && view.leader.is_none() && age >= after && view.membership.is_voter(me)
}

/// Rule T2: whether this node and the voters whose folders it holds are a majority.
pub fn is_majority(voters: &BTreeMap<NodeId, Uuid>, me: Identity, held: &BTreeSet<Identity>) -> bool {
    let counts = |who: &Identity| voters.get(&who.id) == Some(&who.uuid);
    let others = held.iter().filter(|who| **who != me && counts(who)).count();
    counts(&me) && 1 + others >= quorum(voters.len())
}

/// Rule T3: which hosted voters are no longer needed. `hosted_leads`: one of them leads, until its host has its entries.
pub fn released(view: &View, hosted: &BTreeSet<Identity>, hosted_leads: bool, is_overdue: bool) -> BTreeSet<Identity> {
    let is_led_elsewhere =
        view.leader.is_some_and(|leader| view.role != Role::Leader && hosted.iter().all(|who| who.id != leader));
    let is_vain = is_overdue && view.role != Role::Leader;
    if is_vain || (is_led_elsewhere && !hosted_leads) {
        return hosted.clone();
    }
    hosted.iter().filter(|who| !view.membership.is_voter(who)).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::Membership;
    use crate::types::Index;

    fn who(id: u64) -> Identity {
        Identity { id: NodeId(id), uuid: Uuid::from_u128(id.into()) }
    }

    fn view(leader: Option<u64>, role: Role, voters: &[u64]) -> View {
        let voters = voters.iter().map(|id| (NodeId(*id), who(*id).uuid)).collect();
        let membership = Membership { voters, learners: BTreeMap::new() };
        View { leader: leader.map(NodeId), role, ..View::of_leader(NodeId(1), Index(9), membership, Vec::new()) }
    }

    #[test]
    fn only_a_voter_that_had_a_leader_and_has_none_tries() {
        let leaderless = view(None, Role::Candidate, &[1, 2, 3]);
        let second = Some(Duration::from_secs(1));
        let due =
            TakeoverSituation { me: who(1), view: &leaderless, leader_age: second, after: second, is_unfit: false };
        assert!(is_due(&due));
        let led = view(Some(2), Role::Follower, &[1, 2, 3]);
        let soon = Some(Duration::from_millis(999));
        for not_due in [
            TakeoverSituation { view: &led, ..due.clone() },
            TakeoverSituation { me: who(4), ..due.clone() },
            TakeoverSituation { me: Identity { uuid: Uuid::nil(), ..who(1) }, ..due.clone() },
            TakeoverSituation { leader_age: None, ..due.clone() },
            TakeoverSituation { leader_age: soon, ..due.clone() },
            TakeoverSituation { after: None, ..due.clone() },
            TakeoverSituation { is_unfit: true, ..due.clone() },
        ] {
            assert!(!is_due(&not_due), "{not_due:?}");
        }
    }

    #[test]
    fn voters_are_counted_by_identity_and_once() {
        let voters = view(None, Role::Candidate, &[1, 2, 3, 4, 5]).membership.voters.clone();
        let unknown = Identity { uuid: Uuid::nil(), ..who(4) };
        for (held, is_enough) in [
            (vec![2, 3], true),
            (vec![2, 3, 4, 5], true),
            (vec![2], false),
            (vec![1, 2], false),
            (vec![2, 6], false),
            (vec![], false),
        ] {
            let held = held.into_iter().map(who).collect();
            assert_eq!(is_majority(&voters, who(1), &held), is_enough, "{held:?}");
        }
        assert!(!is_majority(&voters, who(1), &BTreeSet::from([who(2), unknown])));
        assert!(!is_majority(&voters, who(6), &BTreeSet::from([who(2), who(3)])), "not a voter itself");
    }

    #[test]
    fn folders_are_released_as_soon_as_they_do_not_help() {
        let hosted = BTreeSet::from([who(2), who(3)]);
        let all = hosted.clone();
        let none = BTreeSet::new();
        let searching = view(None, Role::Candidate, &[1, 2, 3]);
        assert_eq!(released(&searching, &hosted, false, false), none);
        assert_eq!(released(&searching, &hosted, false, true), all, "no leader in time");
        let leads = view(Some(1), Role::Leader, &[1, 2, 3]);
        assert_eq!(released(&leads, &hosted, false, true), none, "they are its quorum");
        let without_2 = view(Some(1), Role::Leader, &[1, 3]);
        assert_eq!(released(&without_2, &hosted, false, true), BTreeSet::from([who(2)]), "a learner now");
        let elsewhere = view(Some(4), Role::Follower, &[1, 2, 3, 4]);
        assert_eq!(released(&elsewhere, &hosted, false, false), all, "another node leads");
        let by_hosted = view(Some(2), Role::Follower, &[1, 2, 3]);
        assert_eq!(released(&by_hosted, &hosted, true, false), none, "its log is newer");
    }
}
