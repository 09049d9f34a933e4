//! PendingRequests without the core thread.

use super::*;
use crate::limits::{APPEND_BYTES_MAX, COMMAND_BYTES_MAX};
use crate::lock::{Mutex, lock};
use crate::node::shared::clock::now_ms;
use crate::node::shared::inboxes;
use crate::node::shared::link::{Link, Wire};
use crate::node::shared::state::Parts;
use crate::raft::{Raft, bootstrap_state};
use crate::settings::Settings;
use crate::store::{Options, RealFiles, Store};
use crate::types::{Identity, NodeKind};
use crate::wire::authentication::FrameTags;
use crate::wire::codec::encode_onto;
use crate::wire::{Ask, Forwarded, Frame};
use crossbeam_channel::{Receiver, TryRecvError, bounded};
use std::net::{TcpListener, TcpStream};

const SOON: Duration = Duration::from_secs(30);

fn requests() -> (PendingRequests, tempfile::TempDir) {
    requests_with(Settings::default())
}

fn requests_with(settings: Settings) -> (PendingRequests, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let me = Identity { id: NodeId(1), uuid: Uuid::from_u128(1) };
    let (store, _) = Store::open(Arc::new(RealFiles), dir.path(), Options::default()).unwrap();
    let raft = Raft::new(crate::node::process::launch::raft_config(&settings, me), bootstrap_state(me));
    let parts = Parts {
        stopper: crate::node::shared::stopper::Stopper::new().0,
        settings,
        me,
        cluster: Uuid::nil(),
        peer_key: None,
        dir: dir.path().to_path_buf(),
        inboxes: inboxes::channels().0,
        integrity_record: None,
        kind: NodeKind::Full,
        snapshots: store.snapshots(),
        sql: None,
        datagrams: Default::default(),
        known: Default::default(),
        log_ms: 0,
        view: raft.view(),
    };
    (PendingRequests::new(Arc::new(Shared::new(parts))), dir)
}

fn command(requests: &mut PendingRequests, within: Duration, ack: Ack) -> Receiver<Answered> {
    let (reply, answer) = bounded(1);
    let operation = Operation::Command { tag: None, command: vec![9], ack };
    requests.hold(Request { operation, deadline: Instant::now() + within, reply: ReplyTo::Local(reply) });
    answer
}

/// Proposes what is held; the token of the batch.
fn propose(requests: &mut PendingRequests, next_token: &mut u64) -> Option<Token> {
    match requests.next_input(next_token)? {
        Input::Propose { token, .. } => Some(token),
        other => panic!("{other:?}"),
    }
}

fn appended(index: u64, term: u64) -> Answer {
    Answer::Appended { index: Index(index), term: Term(term) }
}

/// The finding of a review: a leader that inherits a full log refused commands whose first copies it then committed.
#[test]
fn a_refusal_is_not_certain_after_an_attempt_that_may_be_logged() {
    let (mut requests, _dir) = requests();
    let (mut tokens, start) = (0, Instant::now());
    let answer = command(&mut requests, SOON, Ack::Applied);
    let token = propose(&mut requests, &mut tokens).unwrap();
    requests.on_answer(token, appended(5, 1));
    // Another leader cuts the entry off here; a third may have it still.
    requests.on_log_end(Index(4));
    requests.expire(start);
    let token = propose(&mut requests, &mut tokens).expect("it is sent again");
    requests.on_answer(token, Answer::Refused(Refusal::Busy));
    assert_eq!(answer.try_recv(), Err(TryRecvError::Empty), "refused for certain, though it may be applied");
    // It is tried again, though not at once.
    assert_eq!(propose(&mut requests, &mut tokens), None);
    requests.expire(start + EXPIRE_EVERY * 2);
    requests.expire(start + EXPIRE_EVERY * 4);
    assert!(propose(&mut requests, &mut tokens).is_some());
    // When its deadline has passed, its outcome is unknown.
    requests.expire(start + SOON + EXPIRE_EVERY);
    assert!(matches!(answer.try_recv(), Ok(Outcome::Unknown(_))));
}

#[test]
fn a_first_attempt_that_is_refused_is_refused_for_certain() {
    let (mut requests, _dir) = requests();
    let answer = command(&mut requests, SOON, Ack::Applied);
    let token = propose(&mut requests, &mut 0).unwrap();
    requests.on_answer(token, Answer::Refused(Refusal::Busy));
    assert!(matches!(answer.try_recv(), Ok(Outcome::Refused(_))));
    assert!(requests.is_idle());
}

#[test]
fn requests_never_sent_are_refused_at_their_deadline() {
    let (mut requests, _dir) = requests();
    let answer = command(&mut requests, Duration::ZERO, Ack::Applied);
    requests.expire(Instant::now() + SOON);
    assert!(matches!(answer.try_recv(), Ok(Outcome::Refused(_))));
    assert!(requests.is_idle());
}

#[test]
fn commands_keep_their_order_when_they_come_back() {
    let (mut requests, _dir) = requests();
    let mut tokens = 0;
    let first = command(&mut requests, SOON, Ack::Applied);
    let token = propose(&mut requests, &mut tokens).unwrap();
    let second = command(&mut requests, SOON, Ack::Applied);
    requests.on_answer(token, Answer::Refused(Refusal::NotLeader));
    requests.expire(Instant::now());
    let token = propose(&mut requests, &mut tokens).expect("both in one batch");
    requests.on_answer(token, appended(7, 2));
    let waiting = requests.take_waiting(Index(7), Term(2));
    for (at, mut reply) in waiting.into_iter().enumerate() {
        reply.answer(Outcome::Done((Index(7), Reply::Ok(vec![at as u8]))));
    }
    assert_eq!(first.try_recv(), Ok(Outcome::Done((Index(7), Reply::Ok(vec![0])))));
    assert_eq!(second.try_recv(), Ok(Outcome::Done((Index(7), Reply::Ok(vec![1])))));
    assert!(requests.is_idle());
}

#[test]
fn a_write_that_need_only_be_taken_is_answered_by_the_leaders_log() {
    let (mut requests, _dir) = requests();
    let answer = command(&mut requests, SOON, Ack::Accepted);
    let token = propose(&mut requests, &mut 0).unwrap();
    requests.on_answer(token, appended(3, 1));
    assert_eq!(answer.try_recv(), Ok(Outcome::Done((Index(3), Reply::Ok(Vec::new())))));
    let [mut reply] = <[ReplyTo; 1]>::try_from(requests.take_waiting(Index(3), Term(1))).unwrap();
    reply.answer(Outcome::Unknown(UnknownReason::NoAnswer));
    assert_eq!(answer.try_recv(), Err(TryRecvError::Disconnected), "one answer");
}

#[test]
fn few_batches_are_in_flight_at_once() {
    let (mut requests, _dir) = requests();
    let mut tokens = 0;
    for index in 0..BATCHES_IN_FLIGHT as u64 {
        command(&mut requests, SOON, Ack::Applied);
        let token = propose(&mut requests, &mut tokens).unwrap();
        requests.on_answer(token, appended(index + 1, 1));
    }
    command(&mut requests, SOON, Ack::Applied);
    assert_eq!(propose(&mut requests, &mut tokens), None);
    requests.take_waiting(Index(1), Term(1));
    assert!(propose(&mut requests, &mut tokens).is_some());
}

#[test]
fn an_expiry_that_is_due_moves_log_time_once() {
    let (mut requests, _dir) = requests();
    let mut tokens = 0;
    requests.shared.set_next_expiry_ms(Some(now_ms() + 3_600_000));
    assert_eq!(propose(&mut requests, &mut tokens), None);
    requests.shared.set_next_expiry_ms(Some(now_ms() - 1));
    let token = propose(&mut requests, &mut tokens).expect("an empty batch");
    requests.on_answer(token, appended(1, 1));
    assert_eq!(propose(&mut requests, &mut tokens), None, "one is under way");
    requests.take_waiting(Index(1), Term(1));
    assert_eq!(propose(&mut requests, &mut tokens), None, "the services have not got to it yet");
    for index in 1..4 {
        // An entry removes a portion of what is over: each that is applied and leaves some brings another.
        requests.shared.set_left_at(Some(Index(index)));
        let token = propose(&mut requests, &mut tokens).expect("there is more to be removed");
        requests.on_answer(token, appended(index + 1, 1));
        requests.take_waiting(Index(index + 1), Term(1));
        assert_eq!(propose(&mut requests, &mut tokens), None, "it is not applied yet");
    }
    requests.shared.set_left_at(None);
    assert_eq!(propose(&mut requests, &mut tokens), None, "the rest is the next entry's");
    requests.shared.set_next_expiry_ms(None);
    assert_eq!(propose(&mut requests, &mut tokens), None);
}

#[test]
fn a_forwarded_command_that_no_door_takes_is_refused_where_it_arrives() {
    let (mut requests, _dir) = requests();
    let link = Link::idle(Identity { id: NodeId(2), uuid: Uuid::from_u128(2) });
    let command = |len| {
        let tag = Tag { origin: Uuid::from_u128(2), number: 1, done_below: 1 };
        vec![(1, Ask::Command { tag, command: vec![9; len], is_accepted_enough: false })]
    };
    requests.hold_forwarded(&link, command(COMMAND_BYTES_MAX + 1));
    assert!(requests.is_idle());
    requests.hold_forwarded(&link, command(COMMAND_BYTES_MAX));
    assert!(!requests.is_idle());
}

/// A leader that has logged a forwarded command and then lost the entry to another leader must not say that the command
/// is certainly in no log: a third node may still have the entry, and commit it when it leads.
#[test]
fn a_former_leader_does_not_deny_what_it_has_logged() {
    let (mut requests, _dir) = requests();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = Arc::new(TcpStream::connect(socket.local_addr().unwrap()).unwrap());
    let wire = Arc::new(Mutex::new(Wire { stream: Some(stream), ..Wire::default() }));
    let peer = Identity { id: NodeId(2), uuid: Uuid::from_u128(2) };
    let link = Link::new(peer, peer, String::new(), Arc::clone(&wire), bounded(1).0);
    let ask = |number| {
        let tag = Tag { origin: Uuid::from_u128(2), number, done_below: 1 };
        vec![(number, Ask::Command { tag, command: vec![9], is_accepted_enough: false })]
    };
    requests.hold_forwarded(&link, ask(1));
    let token = propose(&mut requests, &mut 0).unwrap();
    requests.on_answer(token, appended(5, 1));
    requests.on_log_end(Index(4));
    requests.expire(Instant::now());
    requests.hold_forwarded(&link, ask(2));
    requests.return_forwarded();
    let mut expected = Vec::new();
    let mut tags = FrameTags::default();
    for (number, answer) in [(1, Forwarded::Unknown { why: UnknownReason::LeaderLost }), (2, Forwarded::NotLeader)] {
        encode_onto(&mut expected, &Frame::Forwarded(vec![(number, answer)]), &mut tags).unwrap();
    }
    assert_eq!(lock(&wire).rest, expected);
}

/// The names of the commands count: of many short ones they are most of what an entry holds.
#[test]
fn many_short_commands_make_no_entry_that_is_too_large() {
    let (mut requests, _dir) = requests();
    let link = Link::idle(Identity { id: NodeId(2), uuid: Uuid::from_u128(2) });
    let tag = |number| Tag { origin: Uuid::from_u128(u128::MAX), number, done_below: u64::MAX };
    let ask =
        |number| (number, Ask::Command { tag: tag(u64::MAX - number), command: vec![9], is_accepted_enough: false });
    requests.hold_forwarded(&link, (0..100_000).map(ask).collect());
    let Some(Input::Propose { command, .. }) = requests.next_input(&mut 0) else { panic!("nothing proposed") };
    assert!((1 << 19..=APPEND_BYTES_MAX + 1024).contains(&command.len()), "an entry of {} bytes", command.len());
}

/// Commands of the next entry, each by its first byte; the entry is applied at once.
fn next_entry(requests: &mut PendingRequests, tokens: &mut u64, index: u64) -> Vec<u8> {
    let token = propose(requests, tokens).expect("something waits");
    let first = |held: &PendingRequest| command_of(held).1[0];
    let entry = requests.asked[&token].iter().map(first).collect();
    requests.on_answer(token, appended(index, 1));
    requests.take_waiting(Index(index), Term(1));
    entry
}

/// Twenty clients with 8 MB each made a small write wait for 160 MB of log.
#[test]
fn small_commands_wait_for_few_large_ones_and_clients_keep_their_order() {
    let (mut requests, _dir) = requests();
    let large = |name: u8| vec![name; 4 << 20];
    let local = || ReplyTo::Local(bounded(1).0);
    #[derive(Debug)]
    struct Pipelined;
    impl crate::node::shared::request::Waiter for Pipelined {
        fn answer(self: Box<Self>, _: Answered) {}
    }
    let pipelined = || ReplyTo::Callback(Box::new(Pipelined));
    let links = [2, 3].map(|id| Link::idle(Identity { id: NodeId(id), uuid: Uuid::from_u128(id.into()) }));
    let peer = |at: usize| ReplyTo::Peer(links[at].clone(), 1);
    let hold = |requests: &mut PendingRequests, command: Vec<u8>, reply: ReplyTo| {
        let operation = Operation::Command { tag: None, command, ack: Ack::Applied };
        requests.hold(Request { operation, deadline: Instant::now() + SOON, reply });
    };
    for name in b'A'..=b'E' {
        hold(&mut requests, large(name), local());
    }
    hold(&mut requests, large(b'P'), pipelined());
    hold(&mut requests, large(b'Q'), peer(0));
    for (command, reply) in [(b'a', local()), (b'p', pipelined()), (b'q', peer(0)), (b'r', peer(1))] {
        hold(&mut requests, vec![command], reply);
    }
    let mut tokens = 0;
    // Those whose client may have a large one before them stay behind it.
    assert_eq!(next_entry(&mut requests, &mut tokens, 1), b"ar");
    assert_eq!(next_entry(&mut requests, &mut tokens, 2), b"A");
    // New ones come all the time, and the large ones have their turn all the same.
    for (index, name) in (b'B'..=b'E').enumerate() {
        hold(&mut requests, vec![b'b'], local());
        assert_eq!(next_entry(&mut requests, &mut tokens, 3 + 2 * index as u64), b"b");
        assert_eq!(next_entry(&mut requests, &mut tokens, 4 + 2 * index as u64), [name]);
    }
    let rest: Vec<u8> = (20..24).flat_map(|index| next_entry(&mut requests, &mut tokens, index)).collect();
    assert_eq!(rest, b"PpQq");
    assert!(requests.is_idle());
}

/// Commands of 30 bytes that each made the store larger by megabytes were checked against what was applied alone.
#[test]
fn near_a_quota_a_copy_waits_until_what_is_before_it_is_applied() {
    use crate::services::{Replicated, kv};
    let (mut requests, _dir) = requests_with(Settings { quota_kv_mb: 16, ..Settings::default() });
    let (key, mut tokens) = (|name: &str| kv::Bytes::from(name.as_bytes()), 0);
    let copy = kv::Op::Copy { from: key("a"), to: key("b"), replace: true };
    let hold = |requests: &mut PendingRequests, op: kv::Op, reply: ReplyTo| {
        let command = kv::Store::encode_command(&kv::Batch { watched: Vec::new(), ops: vec![op] });
        let operation = Operation::Command { tag: None, command, ack: Ack::Applied };
        requests.hold(Request { operation, deadline: Instant::now() + SOON, reply });
    };
    let used = |requests: &PendingRequests, mb: u64| {
        requests.shared.set_sizes(crate::node::quota::Sizes { kv_bytes: mb << 20, ..Default::default() });
    };
    used(&requests, 10);
    for index in 1..4 {
        hold(&mut requests, copy.clone(), ReplyTo::Discard);
        let token = propose(&mut requests, &mut tokens).expect("nothing is before it");
        requests.on_answer(token, appended(index, 1));
        requests.take_waiting(Index(index), Term(1));
        hold(&mut requests, copy.clone(), ReplyTo::Discard);
        hold(&mut requests, kv::Op::Del(vec![key("of the same source")]), ReplyTo::Discard);
        assert_eq!((propose(&mut requests, &mut tokens), requests.has_postponed()), (None, true));
        hold(&mut requests, kv::Op::Del(vec![key("of another")]), ReplyTo::Local(bounded(1).0));
        let token = propose(&mut requests, &mut tokens).expect("the one that adds nothing");
        assert_eq!(requests.asked[&token].len(), 1);
        requests.on_answer(token, Answer::Refused(Refusal::NotLeader));
        requests.shared.set_applied(Index(index));
        let token = propose(&mut requests, &mut tokens).expect("all is applied");
        assert_eq!((requests.asked[&token].len(), requests.has_postponed()), (2, false));
        requests.on_answer(token, Answer::Refused(Refusal::Busy));
        requests.later.clear();
    }
    used(&requests, 17);
    hold(&mut requests, copy, ReplyTo::Discard);
    assert_eq!((propose(&mut requests, &mut tokens), requests.has_postponed()), (None, false), "it is refused");
    assert!(requests.is_idle());
}

fn change(requests: &mut PendingRequests, within: Duration) -> Receiver<Answered> {
    let (reply, answer) = bounded(1);
    let operation = Operation::Change(raft::Change::Demote(NodeId(2)));
    requests.hold(Request { operation, deadline: Instant::now() + within, reply: ReplyTo::Local(reply) });
    answer
}

#[test]
fn a_change_that_waited_for_another_to_its_deadline_says_so() {
    let (mut requests, _dir) = requests();
    let answer = change(&mut requests, SOON);
    let Some(Input::Change { token, .. }) = requests.next_input(&mut 0) else { panic!("it is the only request") };
    requests.on_answer(token, Answer::Refused(Refusal::ChangeInFlight));
    assert_eq!(answer.try_recv(), Err(TryRecvError::Empty), "it waits");
    requests.expire(Instant::now() + SOON + EXPIRE_EVERY);
    let delayed = Outcome::Refused(Reason::Raft(Refusal::ChangeInFlight));
    assert_eq!(answer.try_recv(), Ok(delayed));
}

#[test]
fn without_a_leader_a_change_waits_for_an_election_and_no_longer() {
    let (mut requests, _dir) = requests();
    // This node is the only voter, and online: an election is all that is missing.
    let (start, answer) = (Instant::now(), change(&mut requests, SOON));
    requests.on_no_leader(start);
    requests.on_no_leader(start + ELECTION_MAX * 2);
    assert_eq!(answer.try_recv(), Err(TryRecvError::Empty));
    requests.shared.set_outsider(Some(crate::outcome::Outsider::Removed));
    requests.on_some_leader();
    requests.on_no_leader(start + ELECTION_MAX * 3);
    assert_eq!(answer.try_recv(), Err(TryRecvError::Empty), "a leader has just gone");
    requests.on_no_leader(start + ELECTION_MAX * 4);
    assert!(matches!(answer.try_recv(), Ok(Outcome::Refused(Reason::NoLeader(NoLeader::Outsider(..))))));
    assert!(requests.is_idle());
}

#[test]
fn a_transfer_of_a_leader_that_lost_its_quorum_has_failed() {
    let (mut requests, _dir) = requests();
    let (reply, answer) = bounded(1);
    let operation = Operation::Transfer(Some(NodeId(2)));
    requests.hold(Request { operation, deadline: Instant::now() + SOON, reply: ReplyTo::Local(reply) });
    let Some(Input::Transfer { token, .. }) = requests.next_input(&mut 0) else { panic!("it is the only request") };
    requests.on_answer(token, Answer::TransferStarted { to: NodeId(2) });
    requests.on_stepped_down();
    assert_eq!(answer.try_recv(), Ok(Outcome::Refused(Reason::NotTakenOver(NodeId(2)))));
}
