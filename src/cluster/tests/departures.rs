//! Who is demoted when nodes stop, who waits, and who leads next.

use super::*;
use crate::raft::PeerView;
use crate::types::Index;
use uuid::Uuid;

fn who(id: u64) -> Identity {
    Identity { id: NodeId(id), uuid: Uuid::from_u128(u128::from(id)) }
}

fn membership(voters: &[u64]) -> Membership {
    Membership { voters: voters.iter().map(|id| (NodeId(*id), who(*id).uuid)).collect(), ..Membership::default() }
}

/// Node 1 leads; negative voters do not answer it.
fn view(voters: &[i64]) -> View {
    let ids: Vec<u64> = voters.iter().map(|id| id.unsigned_abs()).collect();
    let peers = voters
        .iter()
        .filter(|id| **id != 1)
        .map(|id| PeerView { is_active: *id > 0, ..PeerView::level(who(id.unsigned_abs()), Index(50)) });
    View::of_leader(NodeId(1), Index(50), membership(&ids), peers.collect())
}

/// Goodbyes as node and time.
fn heard(goodbyes: &[(u64, u64)]) -> Departures {
    let mut departures = Departures::default();
    goodbyes.iter().for_each(|(id, at)| departures.on_goodbye(who(*id), *at));
    departures
}

#[test]
fn a_table_of_departures() {
    let demote = |id: u64| Some(Change::Demote(NodeId(id)));
    // Voters, goodbyes with their times, what is done at 1000 ms, why.
    type Case = (&'static [i64], &'static [(u64, u64)], Option<Change>, &'static str);
    let cases: [Case; 15] = [
        (&[1, 2, 3, 4, 5], &[], None, "nobody stops"),
        (&[1, 2, 3, 4, 5], &[(2, 701)], None, "others may follow"),
        (&[1, 2, 3, 4, 5], &[(2, 700)], demote(2), "none has"),
        (&[1, 2, 3, 4, 5], &[(2, 400), (3, 701)], None, "the group is not complete"),
        (&[1, 2, 3, 4, 5], &[(2, 400), (3, 700)], demote(2), "a minority, one at a time"),
        (&[1, 2, 3, 4, 5], &[(2, 400), (3, 700), (4, 700)], None, "a majority keeps its votes"),
        (&[1, 2, 3, 4, -5], &[(2, 400), (3, 700)], None, "two of five stay: one is dead"),
        (&[1, 2, 3, 4], &[(2, 400), (3, 700)], demote(2), "half stays"),
        (&[1, 2, 3], &[(3, 700)], demote(3), "below voters_min"),
        (&[1, 2, 3], &[(2, 700), (3, 700)], None, "one of three stays"),
        (&[1, 2], &[(2, 700)], demote(2), "down to one voter"),
        (&[1, 2], &[(1, 0), (2, 0)], None, "a leader that stops demotes nobody"),
        (&[1, 2, 3], &[(1, 0), (2, 0)], None, "neither if others stay"),
        (&[1, 2, 3], &[(7, 700)], None, "not a voter"),
        (&[1, 2, 3], &[(3, 700), (7, 800)], None, "a learner that stops is part of the stop"),
    ];
    for (voters, goodbyes, expected, why) in cases {
        assert_eq!(heard(goodbyes).decide(&view(voters), 1000), expected, "{why}");
    }
}

#[test]
fn a_goodbye_counts_once_for_one_process_and_for_five_seconds() {
    let mut departures = heard(&[(2, 0)]);
    departures.on_goodbye(who(2), 250);
    assert!(departures.decide(&view(&[1, 2, 3]), 300).is_some(), "repeated: not put off");
    departures.on_return(NodeId(2));
    assert_eq!(departures.decide(&view(&[1, 2, 3]), 400), None, "it is back");
    let departures = heard(&[(2, 0)]);
    assert!(departures.decide(&view(&[1, 2, 3]), FORGET_MS - 1).is_some());
    assert_eq!(departures.decide(&view(&[1, 2, 3]), FORGET_MS), None);
    assert!(departures.leaving(FORGET_MS).is_empty());
    let other = Identity { uuid: Uuid::from_u128(99), ..who(2) };
    let mut departures = Departures::default();
    departures.on_goodbye(other, 0);
    assert_eq!(departures.decide(&view(&[1, 2, 3]), 500), None, "an earlier identity of that number");
}

#[test]
fn a_leader_that_cannot_change_the_membership_waits() {
    let departures = heard(&[(2, 0)]);
    let able = view(&[1, 2, 3]);
    assert!(departures.decide(&able, 500).is_some());
    for unable in [
        View { role: Role::Follower, ..able.clone() },
        View { has_quorum: false, ..able.clone() },
        View { has_committed_own_term: false, ..able.clone() },
        View { transfer_to: Some(NodeId(3)), ..able.clone() },
    ] {
        assert_eq!(departures.decide(&unable, 500), None);
    }
}

#[test]
fn a_voter_waits_only_where_the_others_need_it_until_it_is_demoted() {
    let waits = |voters: &[u64], staying: &[u64]| {
        is_needed_until_demoted(&membership(voters), &who(2), |id| staying.contains(&id.0))
    };
    assert!(!waits(&[1, 2, 3, 4, 5], &[1, 3, 4, 5]), "they have a quorum");
    assert!(!waits(&[1, 2, 3], &[1, 3]));
    assert!(waits(&[1, 2], &[1]));
    assert!(waits(&[1, 2, 3, 4], &[1, 3]));
    assert!(!waits(&[1, 2, 3], &[1]), "they have none then either");
    assert!(!waits(&[1, 2], &[]), "all stop");
    assert!(!waits(&[1, 3], &[1]), "it is no voter any more");
    assert!(!waits(&[2], &[]));
}
