//! Which messages are accepted: those of unknown senders, those with terms that no node can have reached, and those with
//! indexes that wrap change nothing; an introduced node is heard as a member is.

use super::super::state::bounds::ENTRY_BYTES_MAX;
use super::world::identity;
use super::*;
use crate::planted_bugs::RaftBugs;

const NODES: u64 = 3;

pub(crate) fn config(id: u64) -> Config {
    Config {
        me: identity(id, 0),
        heartbeat_ticks: Ticks(4),
        election_timeout_ticks: Ticks(20),
        election_timeout_min_ticks: Ticks(20),
        election_timeout_max_ticks: Ticks(20),
        rank_delay_ticks: Ticks(2),
        highest_id_first: true,
        preempt: false,
        disk_stall_ticks: Ticks(100),
        append_bytes_max: 1 << 20,
        inflight_bytes_max: 8 << 20,
        uncommitted_bytes_max: 64 << 20,
        leads_only_to_pass_on: false,
        bugs: RaftBugs::default(),
    }
}

/// Node 1 of three voters, in term 5, with one entry.
fn node() -> Raft {
    node_with(config(1))
}

pub(crate) fn node_with(config: Config) -> Raft {
    Raft::new(config, durable())
}

fn durable() -> Durable {
    let voters = (1..=NODES).map(|id| (NodeId(id), identity(id, 0).uuid)).collect();
    let payload = Payload::Membership(Arc::new(Membership { voters, learners: BTreeMap::new() }));
    let entries = vec![Entry { index: Index(1), term: Term(1), payload }];
    Durable { hard_state: HardState { term: Term(5), vote: None }, snapshot: None, entries }
}

pub(crate) fn step(raft: &mut Raft, input: Input) -> Effects {
    let (mut rng, mut fx) = (fastrand::Rng::with_seed(1), Effects::default());
    raft.step(input, &mut rng, &mut fx);
    raft.check();
    fx
}

pub(crate) fn deliver(raft: &mut Raft, from: Identity, term: u64, body: Body) -> Effects {
    step(raft, Input::Message(Message { from, to: identity(1, 0), term: Term(term), body }))
}

fn heartbeat() -> Body {
    Body::Heartbeat { round: 1, commit: Index(0) }
}

/// Every kind of message, its numbers being `number`.
fn bodies(number: u64) -> Vec<Body> {
    let (index, term, token) = (Index(number), Term(number), Token(number));
    let entry = Entry { index: Index(number.wrapping_add(1)), term, payload: Payload::Noop };
    let conflict = Conflict { prev_index: index, hint_index: index, hint_term: term };
    vec![
        Body::PreVote { last_index: index, last_term: term },
        Body::PreVoteReply { is_granted: true },
        Body::PreVoteReply { is_granted: false },
        Body::Vote { last_index: index, last_term: term, is_transfer: false },
        Body::Vote { last_index: index, last_term: term, is_transfer: true },
        Body::VoteReply { is_granted: true },
        Body::VoteReply { is_granted: false },
        Body::Append { session: number, prev_index: index, prev_term: term, commit: index, entries: vec![] },
        Body::Append { session: number, prev_index: index, prev_term: term, commit: index, entries: vec![entry] },
        Body::AppendReply { session: number, result: Ok(index) },
        Body::AppendReply { session: number, result: Err(conflict) },
        Body::Heartbeat { round: number, commit: index },
        Body::HeartbeatReply { round: number },
        Body::ReadIndex { token },
        Body::ReadIndexReply { token, index: Some(index) },
        Body::ReadIndexReply { token, index: None },
        Body::TimeoutNow { last_index: index },
        Body::TransferMe,
    ]
}

const EDGES: [u64; 9] = [0, 1, 5, 6, 7, TERM_JUMP_MAX + 5, TERM_MAX.0, u64::MAX - 1, u64::MAX];

#[test]
fn messages_of_unknown_senders_change_nothing() {
    let unknown = [identity(2, 7), identity(9, 0), Identity { id: NodeId(0), uuid: Uuid::nil() }];
    let mut raft = node();
    step(&mut raft, Input::Tick);
    let before = format!("{:?}", raft.view());
    for from in unknown {
        for term in EDGES {
            for body in EDGES.iter().flat_map(|number| bodies(*number)) {
                let fx = deliver(&mut raft, from, term, body);
                assert_eq!(fx.refused, Some(Refused::UnknownSender(from)));
                assert!(fx.send_now.is_empty() && fx.persist.is_none() && fx.events.is_empty(), "{fx:?}");
            }
            let meta = SnapshotMeta { index: Index(term), term: Term(term), membership: Membership::default() };
            let fx = step(&mut raft, Input::SnapshotReceived { from, term: Term(term), meta });
            assert!(fx.install.is_none() && fx.persist.is_none(), "{fx:?}");
        }
    }
    assert_eq!(format!("{:?}", raft.view()), before);
}

#[test]
fn a_member_cannot_introduce_an_impossible_term() {
    let member = identity(2, 0);
    for term in [5 + TERM_JUMP_MAX + 1, TERM_MAX.0 + 1, u64::MAX - 1, u64::MAX] {
        let mut raft = node();
        for body in EDGES.iter().flat_map(|number| bodies(*number)) {
            let fx = deliver(&mut raft, member, term, body);
            assert_eq!(fx.refused, Some(Refused::TermJump(member, Term(term))));
            assert_eq!(raft.term(), Term(5));
        }
    }
    // What an honest node may bring after a very long time is taken.
    let mut raft = node();
    let fx = deliver(&mut raft, member, 5 + TERM_JUMP_MAX, heartbeat());
    assert_eq!((fx.refused, raft.term(), raft.leader()), (None, Term(5 + TERM_JUMP_MAX), Some(NodeId(2))));
}

#[test]
fn no_term_is_the_last_one() {
    let mut raft = node();
    raft.hard.term = TERM_MAX;
    for _ in 0..1_000 {
        step(&mut raft, Input::Tick);
    }
    assert_eq!((raft.term(), raft.role()), (TERM_MAX, Role::Follower), "it does not even ask");
    assert!(deliver(&mut raft, identity(2, 0), TERM_MAX.0 + 1, heartbeat()).refused.is_some());
    assert!(deliver(&mut raft, identity(2, 0), TERM_MAX.0, heartbeat()).refused.is_none());
}

#[test]
fn an_append_that_contradicts_itself_is_not_taken() {
    let leader = identity(2, 0);
    let entry = |index: u64, term: u64| Entry { index: Index(index), term: Term(term), payload: Payload::Noop };
    let cases = [
        (u64::MAX, 1, vec![]),
        (u64::MAX, 1, vec![entry(0, 1)]),
        (INDEX_MAX.0, 1, vec![entry(INDEX_MAX.0 + 1, 1)]),
        (1, 1, vec![entry(3, 5)]),
        (1, 1, vec![entry(2, 5), entry(2, 5)]),
        (1, 1, vec![entry(2, 5), entry(3, 4)]),
        (1, 1, vec![entry(2, 0)]),
        (1, 1, vec![entry(2, 7)]),
        (1, 7, vec![]),
        (1, 1, vec![Entry { payload: Payload::Command(vec![0; ENTRY_BYTES_MAX + 1].into()), ..entry(2, 5) }]),
    ];
    for (prev_index, prev_term, entries) in cases {
        let mut raft = node();
        let (prev_index, prev_term) = (Index(prev_index), Term(prev_term));
        let body = Body::Append { session: 1, prev_index, prev_term, commit: Index(u64::MAX), entries };
        let fx = deliver(&mut raft, leader, 6, body.clone());
        assert!(fx.refused == Some(Refused::Malformed(leader)), "{:.200}", format!("{body:?}"));
        assert_eq!((raft.term(), raft.last_index(), raft.commit_index()), (Term(5), Index(1), Index(0)));
    }
}

#[test]
fn a_node_that_is_behind_hears_a_new_leader_once_it_is_introduced_and_then_knows_it_from_the_log() {
    let mut raft = node();
    let new_node = identity(4, 0);
    assert!(deliver(&mut raft, new_node, 6, heartbeat()).refused.is_some());
    step(&mut raft, Input::Introduce(new_node));
    let mut membership = (*raft.view().membership).clone();
    membership.voters.insert(new_node.id, new_node.uuid);
    let entry = Entry { index: Index(2), term: Term(6), payload: Payload::Membership(Arc::new(membership)) };
    let body =
        Body::Append { session: 1, prev_index: Index(1), prev_term: Term(1), commit: Index(2), entries: vec![entry] };
    assert_eq!(deliver(&mut raft, new_node, 6, body).refused, None);
    assert_eq!((raft.leader(), raft.commit_index()), (Some(NodeId(4)), Index(2)));
    assert_eq!(raft.introduced().count(), 0, "the membership names it now");
    // Another identity under the same number is another node.
    assert!(deliver(&mut raft, identity(4, 1), 7, heartbeat()).refused.is_some());
}

/// A peer may still name the identity that a number had before its node was replaced.
#[test]
fn an_introduction_replaces_no_known_node() {
    let mut raft = node();
    for uuid in [1, 0, 2, 3] {
        step(&mut raft, Input::Introduce(identity(4, uuid)));
    }
    step(&mut raft, Input::Introduce(identity(4, 1)));
    for uuid in 0..4 {
        assert!(deliver(&mut raft, identity(4, uuid), 5, heartbeat()).refused.is_none(), "{uuid}");
    }
    // They are not kept without bound.
    for uuid in 10..20 {
        step(&mut raft, Input::Introduce(identity(4, uuid)));
    }
    assert_eq!(
        raft.introduced().map(|who| who.uuid).collect::<Vec<_>>(),
        [16, 17, 18, 19].map(|uuid| identity(4, uuid).uuid)
    );
}

#[test]
fn a_new_node_accepts_only_the_cluster_that_it_joined() {
    let mut raft = Raft::new(config(1), Durable::default());
    assert!(deliver(&mut raft, identity(2, 0), 1, heartbeat()).refused.is_some());
    step(&mut raft, Input::Introduce(identity(2, 0)));
    assert!(deliver(&mut raft, identity(2, 0), 1, heartbeat()).refused.is_none());
    assert!(deliver(&mut raft, identity(3, 0), 2, heartbeat()).refused.is_some());
}

#[test]
fn a_node_that_has_started_again_hears_whom_it_voted_for() {
    let new_node = identity(4, 0);
    let mut raft = node();
    step(&mut raft, Input::Introduce(new_node));
    let question = Body::Vote { last_index: Index(9), last_term: Term(5), is_transfer: false };
    let hard_state = deliver(&mut raft, new_node, 6, question).persist.and_then(|persist| persist.hard_state);
    let hard_state = hard_state.expect("the new node gets the vote");
    let mut raft = Raft::new(config(1), Durable { hard_state, ..durable() });
    assert!(raft.known().contains(&new_node), "the host lets it through");
    deliver(&mut raft, new_node, 6, heartbeat());
    assert_eq!(raft.view().leader, Some(new_node.id), "it won in the meantime");
    assert!(!raft.knows(&identity(5, 0)), "others are as unknown as before");
}
