//! A stream of appends is begun again once for what was lost, however late and in whatever order the refusals arrive.

use super::guard::{config, deliver, node_with, step};
use super::world::identity;
use super::*;

/// Node 1 leads and sends one entry an append.
fn leader() -> Raft {
    let mut raft = node_with(Config { append_bytes_max: 1, ..config(1) });
    while raft.view().role != Role::Candidate {
        let fx = step(&mut raft, Input::Tick);
        synced(&mut raft, &fx);
        if fx.send_now.iter().any(|message| matches!(message.body, Body::PreVote { .. })) {
            let term = fx.send_now[0].term.0;
            let fx = deliver(&mut raft, identity(2, 0), term, Body::PreVoteReply { is_granted: true });
            synced(&mut raft, &fx);
        }
    }
    let fx = answer(&mut raft, Body::VoteReply { is_granted: true });
    assert_eq!(raft.view().role, Role::Leader);
    let (session, end) = appends(&fx)[0];
    answer(&mut raft, Body::AppendReply { session, result: Ok(end) });
    raft
}

/// What the step wrote is on disk.
fn synced(raft: &mut Raft, fx: &Effects) {
    if let Some(persist) = &fx.persist {
        step(raft, Input::Synced { seq: persist.seq });
    }
}

/// Node 2 answers in the current term.
fn answer(raft: &mut Raft, body: Body) -> Effects {
    let term = raft.term().0;
    let fx = deliver(raft, identity(2, 0), term, body);
    synced(raft, &fx);
    fx
}

/// Session and index of the last entry of each append to node 2.
fn appends(fx: &Effects) -> Vec<(u64, Index)> {
    let to_second = fx.send_now.iter().filter(|message| message.to == identity(2, 0));
    let ends = to_second.filter_map(|message| match &message.body {
        Body::Append { session, prev_index, entries, .. } => {
            Some((*session, Index(prev_index.0 + entries.len() as u64)))
        }
        _ => None,
    });
    ends.collect()
}

#[test]
fn late_refusals_of_an_earlier_stream_do_not_begin_another() {
    let mut raft = leader();
    let mut sent = Vec::new();
    for token in 0..10 {
        let fx = step(&mut raft, Input::Propose { token: Token(token), command: vec![1].into() });
        synced(&mut raft, &fx);
        sent.extend(appends(&fx));
    }
    assert_eq!(sent.len(), 10, "each entry leaves in an append of its own");

    // The first is lost, so all others are refused.
    let held = sent[0].1.prev();
    let refusal = |(session, end): (u64, Index)| {
        let conflict = Conflict { prev_index: end.prev(), hint_index: held, hint_term: Term(1) };
        Body::AppendReply { session, result: Err(conflict) }
    };
    let probe = appends(&answer(&mut raft, refusal(sent[1])));
    assert_eq!(probe.iter().map(|(_, end)| *end).collect::<Vec<_>>(), [sent[0].1]);
    let (session, end) = probe[0];
    let again = appends(&answer(&mut raft, Body::AppendReply { session, result: Ok(end) }));
    assert_eq!(again.len(), 9, "what was lost leaves once more");

    for late in &sent[2..] {
        let fx = answer(&mut raft, refusal(*late));
        assert_eq!(appends(&fx), [], "a refusal of the earlier stream begins a third one");
    }
    // A refusal of this stream counts.
    assert_eq!(appends(&answer(&mut raft, refusal(again[1]))).len(), 1);
}
