//! Autopilot: a table of situations, and whole stories with simulated minutes.
#![allow(clippy::unwrap_used)] // tests; clippy.toml covers only functions that carry #[test]

use super::*;
use crate::raft::Membership;
use crate::settings::to_ticks;
use crate::types::{Identity, Index};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

const RULES: Rules = Rules {
    voters_min: 3,
    voters_max: 5,
    dead_after: Ticks(2000),
    unfit: BTreeSet::new(),
    hosted: BTreeSet::new(),
    witnesses: BTreeMap::new(),
};

fn uuid(id: u64) -> Uuid {
    Uuid::from_u128(u128::from(id))
}

/// Leader 1; each member with its silence in ticks.
fn view(voters: &[u64], learners: &[u64], silent: &dyn Fn(u64) -> u64) -> View {
    let all = |ids: &[u64]| -> BTreeMap<NodeId, Uuid> { ids.iter().map(|id| (NodeId(*id), uuid(*id))).collect() };
    let others = voters.iter().chain(learners).filter(|id| **id != 1);
    let peers = others.map(|&id| PeerView {
        silent_ticks: Ticks(silent(id)),
        is_active: silent(id) < 80,
        ..PeerView::level(Identity { id: NodeId(id), uuid: uuid(id) }, Index(5000))
    });
    let membership = Membership { voters: all(voters), learners: all(learners) };
    View::of_leader(NodeId(1), Index(5000), membership, peers.collect())
}

#[test]
fn hosted_voters_become_learners_at_once_below_voters_min_too() {
    let n = NodeId;
    let rules = |hosted: &[u64]| Rules { hosted: hosted.iter().map(|id| n(*id)).collect(), ..RULES };
    let decided = |voters: &[u64], learners: &[u64], silent: &'static [(u64, u64)], hosted: &[u64]| {
        let silence = move |id: u64| silent.iter().find(|(who, _)| *who == id).map_or(1, |(_, ticks)| *ticks);
        decide(&view(voters, learners, &silence), &rules(hosted))
    };
    assert_eq!(decided(&[1, 2, 3, 4, 5], &[], &[], &[3, 4, 5]), Some(Change::Demote(n(3))));
    assert_eq!(decided(&[1, 2, 3, 4, 5], &[], &[(4, 90)], &[3, 4, 5]), Some(Change::Demote(n(4))), "the one behind");
    assert_eq!(decided(&[1, 2], &[3, 4, 5], &[], &[2, 3, 4, 5]), Some(Change::Demote(n(2))), "the last one");
    assert_eq!(decided(&[1], &[2, 3], &[(3, 90)], &[2]), None, "not promoted while it is hosted");
    // 2 is frozen: without the hosted 3 there is no majority, until 2 counts as dead.
    assert_eq!(decided(&[1, 2, 3], &[], &[(2, 90)], &[3]), None);
    assert_eq!(decided(&[1, 2, 3], &[], &[(2, 2000)], &[3]), Some(Change::Demote(n(2))));
    assert_eq!(decided(&[1, 2, 3], &[], &[(2, 2000)], &[]), None, "voters_min");
}

#[test]
fn a_table_of_situations() {
    use Change::{Demote, Promote};
    let n = NodeId;
    // Voters, learners, silence of some members in ticks, what is expected, why.
    type Case = (&'static [u64], &'static [u64], &'static [(u64, u64)], Option<Change>, &'static str);
    let cases: [Case; 16] = [
        (&[1], &[], &[], None, "alone"),
        (&[1], &[2], &[], Some(Promote(n(2))), "a second voter"),
        (&[1], &[2, 3], &[], Some(Promote(n(3))), "the highest id first"),
        (&[1, 2, 3], &[4], &[], Some(Promote(n(4))), "an even number is a spare"),
        (&[1, 2, 3, 4, 5], &[6], &[], None, "voters_max"),
        (&[1, 2, 3], &[4], &[(4, 100)], None, "a silent learner is not promoted"),
        (&[1, 2, 3, 4, 5], &[], &[(5, 1999)], None, "silent, not dead yet"),
        (&[1, 2, 3, 4, 5], &[], &[(5, 2000)], Some(Demote(n(5))), "dead"),
        (&[1, 2, 3, 4, 5], &[6], &[(5, 2000)], Some(Demote(n(5))), "dead, replaced after that"),
        (&[1, 2, 3, 4, 5], &[], &[(4, 2000), (5, 2000)], Some(Demote(n(4))), "two dead, one at a time"),
        (&[1, 2, 3, 4, 5], &[], &[(3, 2000), (4, 2000), (5, 2000)], None, "no live majority"),
        (&[1, 2, 3, 4], &[], &[(3, 2000), (4, 90)], None, "two of four live: no majority"),
        (&[1, 2, 3], &[], &[(3, 9999)], None, "voters_min"),
        (&[1, 2, 3], &[4], &[(3, 9999)], Some(Promote(n(4))), "at the floor the replacement comes first"),
        (&[1, 2, 3, 4], &[], &[(3, 9999)], Some(Demote(n(3))), "and then the dead goes"),
        (&[1, 2], &[3], &[(2, 9999)], None, "one of two live: no majority"),
    ];
    for (voters, learners, silent, expected, why) in cases {
        let silence = |id: u64| silent.iter().find(|(who, _)| *who == id).map_or(1, |(_, ticks)| *ticks);
        assert_eq!(decide(&view(voters, learners, &silence), &RULES), expected, "{why}");
    }
}

#[test]
fn replaces_also_when_floor_and_ceiling_are_equal() {
    let rules = Rules { voters_max: 3, ..RULES };
    let silence = |id: u64| if id == 3 { 9999 } else { 1 };
    assert_eq!(decide(&view(&[1, 2, 3], &[4], &silence), &rules), Some(Change::Promote(NodeId(4))));
    assert_eq!(decide(&view(&[1, 2, 3, 4], &[], &silence), &rules), Some(Change::Demote(NodeId(3))));
    assert_eq!(decide(&view(&[1, 2, 4], &[3], &silence), &rules), None);
}

#[test]
fn a_gateway_stays_a_learner() {
    let rules = Rules { unfit: BTreeSet::from([NodeId(5)]), ..RULES };
    assert_eq!(decide(&view(&[1, 2, 3], &[5], &|_| 1), &rules), None);
    assert_eq!(decide(&view(&[1, 2, 3], &[4, 5], &|_| 1), &rules), Some(Change::Promote(NodeId(4))));
}

#[test]
fn a_witness_gets_a_vote_beside_two_full_voters_and_is_never_the_majority() {
    use Change::{Demote, Promote};
    let n = NodeId;
    let rules =
        |witnesses: &[u64]| Rules { witnesses: witnesses.iter().map(|id| (n(*id), Index(20))).collect(), ..RULES };
    let decided = |voters: &[u64], learners: &[u64], silent: &'static [(u64, u64)], witnesses: &[u64]| {
        let silence = move |id: u64| silent.iter().find(|(who, _)| *who == id).map_or(1, |(_, ticks)| *ticks);
        decide(&view(voters, learners, &silence), &rules(witnesses))
    };
    assert_eq!(decided(&[1], &[9], &[], &[9]), None);
    assert_eq!(decided(&[1], &[2, 9], &[], &[9]), Some(Promote(n(2))), "the full node first, whatever the ids");
    assert_eq!(decided(&[1, 2], &[9], &[], &[9]), Some(Promote(n(9))));
    assert_eq!(decided(&[1, 2, 9], &[8], &[], &[8, 9]), None, "half of four");
    assert_eq!(decided(&[1, 2, 3, 9], &[8], &[], &[8, 9]), Some(Promote(n(8))));
    // A dead full voter is not demoted if two of the remaining three would be witnesses.
    assert_eq!(decided(&[1, 2, 8, 9], &[], &[(2, 9999)], &[8, 9]), None);
    assert_eq!(decided(&[1, 2, 3, 8, 9], &[], &[(2, 9999)], &[8, 9]), Some(Demote(n(2))));
    let behind = |end| {
        let mut view = view(&[1, 2], &[9], &|_| 1);
        view.peers[0].match_index = Index(end);
        decide(&view, &rules(&[9]))
    };
    assert_eq!((behind(19), behind(20)), (None, Some(Promote(n(9)))), "node 2 must have what the witness has not");
    // Hosted voters: the witness first, so that the rest always has a full voter in every quorum.
    let hosting = |voters: &[u64]| {
        let rules = Rules { hosted: BTreeSet::from([n(2), n(3), n(8), n(9)]), ..rules(&[8, 9]) };
        decide(&view(voters, &[], &|_| 1), &rules)
    };
    assert_eq!(hosting(&[1, 2, 8, 9]), Some(Demote(n(8))));
}

#[test]
fn a_node_that_stops_is_not_promoted() {
    let rules = Rules { unfit: BTreeSet::from([NodeId(5)]), ..RULES };
    assert_eq!(decide(&view(&[1, 2, 3], &[4, 5], &|_| 1), &rules), Some(Change::Promote(NodeId(4))));
    assert_eq!(decide(&view(&[1, 2, 3], &[5], &|_| 1), &rules), None);
}

#[test]
fn only_an_able_leader_decides() {
    let able = view(&[1], &[2], &|_| 1);
    assert!(decide(&able, &RULES).is_some());
    for unable in [
        View { role: Role::Follower, ..able.clone() },
        View { has_quorum: false, ..able.clone() },
        View { has_committed_own_term: false, ..able.clone() },
        View { transfer_to: Some(NodeId(2)), ..able.clone() },
    ] {
        assert_eq!(decide(&unable, &RULES), None);
    }
    let mut behind = able.clone();
    behind.peers[0].match_index = Index(10);
    assert_eq!(decide(&behind, &RULES), None, "a learner far behind");
    let mut wiped = able;
    wiped.peers[0].who.uuid = uuid(99);
    assert_eq!(decide(&wiped, &RULES), None, "another identity than the membership's");
}

/// A cluster whose leader is node 1, driven by `decide` alone: one change per 100 ms, applied at once.
struct Scenario {
    voters: BTreeSet<u64>,
    learners: BTreeSet<u64>,
    dead_since: BTreeMap<u64, u64>,
    now_ms: u64,
}

impl Scenario {
    fn five() -> Scenario {
        Scenario { voters: (1..=5).collect(), learners: BTreeSet::new(), dead_since: BTreeMap::new(), now_ms: 0 }
    }

    fn is_serving(&self) -> bool {
        let live = self.voters.iter().filter(|id| !self.dead_since.contains_key(id)).count();
        live >= quorum(self.voters.len())
    }

    fn run(&mut self, ms: u64) {
        for _ in 0..ms / 100 {
            self.now_ms += 100;
            let silence = |id: u64| self.dead_since.get(&id).map_or(1, |since| to_ticks(self.now_ms - since).0);
            let list = |ids: &BTreeSet<u64>| ids.iter().copied().collect::<Vec<_>>();
            let mut view = view(&list(&self.voters), &list(&self.learners), &silence);
            view.has_quorum = self.is_serving();
            match decide(&view, &RULES) {
                Some(Change::Promote(NodeId(id))) => {
                    assert!(self.learners.remove(&id) && self.voters.insert(id), "promoted {id}");
                }
                Some(Change::Demote(NodeId(id))) => {
                    assert!(self.voters.remove(&id) && self.learners.insert(id), "demoted {id}");
                    assert!(self.voters.len() >= RULES.voters_min, "below the floor");
                }
                None => {}
                other => panic!("unexpected {other:?}"),
            }
            assert!(self.voters.len() <= RULES.voters_max + 1, "{:?}", self.voters);
        }
    }
}

/// One by one, 15 s apart: five voters shrink to four, then to three, each dead one demoted 10 s after its death, so
/// every kill meets a membership of live voters only. With three dead, two of the last three voters live and go on
/// serving; nothing shrinks below `voters_min`, so the fourth death ends it.
#[test]
fn a_five_node_cluster_killed_one_by_one() {
    let mut story = Scenario::five();
    for (id, voters_after) in [(5, 4), (4, 3), (3, 3)] {
        story.dead_since.insert(id, story.now_ms);
        assert!(story.is_serving(), "after the death of {id}");
        story.run(15_000);
        assert!(story.is_serving());
        assert_eq!(story.voters.len(), voters_after, "after the death of {id}");
    }
    story.dead_since.insert(2, story.now_ms);
    assert!(!story.is_serving());
    // Restarted, all are back without any command.
    story.dead_since.clear();
    story.run(5000);
    assert_eq!(story.voters.len(), 5);
    assert!(story.is_serving());
}

#[test]
fn two_at_once_are_survived_three_at_once_are_not() {
    let mut story = Scenario::five();
    story.dead_since = BTreeMap::from([(4, 0), (5, 0)]);
    story.run(12_000);
    assert_eq!(story.voters, BTreeSet::from([1, 2, 3]));
    let mut story = Scenario::five();
    story.dead_since = BTreeMap::from([(3, 0), (4, 0), (5, 0)]);
    story.run(60_000);
    assert_eq!(story.voters.len(), 5, "without a quorum nothing may change");
}
