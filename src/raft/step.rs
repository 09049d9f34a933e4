//! The one entry point, [`Raft::step`]: what happened goes in, what the host must do about it comes out.
//!
//! Invariants: C1 term and commit index never go back. C2 a leader is its own leader. C3 no message of an older term
//! changes anything: it is only answered with the newer one. C4 no entry's term is above the current one.
//! Not here: what each role does with its inputs; see the tour in `mod.rs`.

use super::state::{Cx, Raft, State};
use super::{Body, Conflict, Effects, Event, HardState, Input, LossCause, Message, StepDownCause};
use crate::planted_bugs::is_planted;
use crate::types::{Identity, Index, Term};
use fastrand::Rng;

impl Raft {
    /// Takes one input, changes the state, and leaves in `effects` what the host must do.
    pub fn step(&mut self, input: Input, rng: &mut Rng, effects: &mut Effects) {
        let (term, commit) = (self.hard.term, self.commit);
        let membership = self.log.membership().1.clone();
        let mut cx = Cx { rng, fx: effects, persist_from: None, install: None };
        let cx = &mut cx;
        if self.deadline.is_none() {
            self.draw_first_deadline(cx);
        }
        match input {
            Input::Tick => self.on_tick(cx),
            Input::Message(message) => self.on_message(cx, message),
            Input::Introduce(who) => self.on_introduce(who),
            Input::LinkUp { peer, round_trip } => self.on_link_up(cx, peer, round_trip),
            Input::LinkLost(peer) => self.on_link_lost(cx, peer),
            Input::Propose { token, command } => self.on_propose(cx, token, command),
            Input::Read { token } => self.on_read(cx, token),
            Input::Change { token, change } => self.on_change(cx, token, change),
            Input::Transfer { token, to } => self.on_transfer(cx, token, to),
            Input::Lead => self.on_lead(cx),
            Input::Synced { seq } => self.on_synced(cx, seq),
            Input::SnapshotSaved { index } => self.on_snapshot_saved(index),
            Input::SnapshotReceived { from, term, meta } => self.on_snapshot_received(cx, from, term, meta),
            Input::SnapshotSent { to, ok } => self.on_snapshot_sent(cx, to, ok),
            Input::DiskLow(is_low) => self.on_disk_low(cx, is_low),
            Input::Leaving(nodes) => self.on_leaving(cx, nodes),
            Input::Witnesses(nodes) => self.witnesses = nodes,
        }
        let (index, newest) = self.log.membership();
        if *newest != membership {
            cx.fx.events.push(Event::Membership { index, membership: newest.clone() });
        }
        assert!(self.hard.term >= term, "C1: term would go back: {term} -> {}", self.hard.term);
        assert!(self.commit >= commit, "C1: commit index would go back: {commit} -> {}", self.commit);
        if self.commit > commit {
            cx.fx.commit = Some(self.commit);
        }
        self.finish(cx);
    }

    /// One tick: timers of the role.
    fn on_tick(&mut self, cx: &mut Cx<'_>) {
        self.now += 1;
        match self.state {
            State::Leader(_) => self.on_leader_tick(cx),
            _ => self.on_election_tick(cx),
        }
    }

    /// A message, judged first by identity and term.
    fn on_message(&mut self, cx: &mut Cx<'_>, message: Message) {
        if message.to != self.config.me || message.from == self.config.me {
            return;
        }
        if let Some(why) = self.objection(&message) {
            cx.fx.refused = Some(why);
            return;
        }
        if is_answer(&message.body) && !self.is_expected(&message.from) {
            return;
        }
        self.on_life_sign(&message);
        if message.term > self.hard.term && !self.on_newer_term(cx, &message) {
            return;
        }
        if message.term < self.hard.term {
            return self.on_older_term(cx, message);
        }
        let from = message.from;
        match message.body {
            Body::PreVote { last_index, last_term } => self.on_pre_vote(cx, from, message.term, last_index, last_term),
            Body::PreVoteReply { is_granted } => self.on_pre_vote_reply(cx, from, message.term, is_granted),
            Body::Vote { last_index, last_term, is_transfer: _ } => self.on_vote(cx, from, last_index, last_term),
            Body::VoteReply { is_granted } => self.on_vote_reply(cx, from, is_granted),
            Body::Append { session, prev_index, prev_term, commit, entries } => {
                self.on_append(cx, from, session, (prev_index, prev_term), commit, entries);
            }
            Body::AppendReply { session, result } => self.on_append_reply(cx, from, session, result),
            Body::Heartbeat { round, commit } => self.on_heartbeat(cx, from, round, commit),
            Body::HeartbeatReply { round } => self.on_heartbeat_reply(cx, from, round),
            Body::ReadIndex { token } => self.on_read_index(cx, from, token),
            Body::ReadIndexReply { token, index } => self.on_read_index_reply(cx, token, index),
            Body::TimeoutNow { last_index } => self.on_timeout_now(cx, from, last_index),
            Body::TransferMe => self.on_transfer_me(cx, from),
        }
    }

    /// A message of a newer term: whether to handle it (in that term, unless it is about a pre-vote).
    fn on_newer_term(&mut self, cx: &mut Cx<'_>, message: &Message) -> bool {
        match message.body {
            Body::PreVote { .. } | Body::PreVoteReply { is_granted: true } => return true,
            // A live leader is not deposed by a node that merely cannot hear it.
            Body::Vote { is_transfer: false, .. } if self.hears_live_leader() => return false,
            _ => {}
        }
        let was_asking = matches!(self.state, State::Candidate(_));
        self.become_follower(cx, message.term, StepDownCause::NewerTerm);
        if was_asking && matches!(message.body, Body::PreVoteReply { .. } | Body::VoteReply { .. }) {
            // Our log may well be the freshest: ask again soon, in the term just learnt.
            self.campaign_soon(cx);
        }
        true
    }

    /// A message of an older term is answered with the newer one: otherwise a node with a high term and a short log
    /// and a leader with a low term and a long log could ignore each other permanently.
    fn on_older_term(&mut self, cx: &mut Cx<'_>, message: Message) {
        let envelope = self.envelope();
        match message.body {
            Body::Append { prev_index, .. } => {
                let conflict = Conflict { prev_index, hint_index: Index(0), hint_term: Term(0) };
                // No session: it says only that the term is over. The sender may lead again, in a session of that
                // number.
                envelope.send(cx, message.from, Body::AppendReply { session: 0, result: Err(conflict) });
            }
            Body::Heartbeat { .. } => envelope.send(cx, message.from, Body::HeartbeatReply { round: 0 }),
            Body::PreVote { .. } => envelope.send(cx, message.from, Body::PreVoteReply { is_granted: false }),
            Body::Vote { .. } => envelope.send(cx, message.from, Body::VoteReply { is_granted: false }),
            Body::TimeoutNow { last_index } if is_planted!(self.config, late_transfer_obeyed) => {
                self.on_timeout_now(cx, message.from, last_index);
            }
            _ => {}
        }
    }

    /// The disk caught up: promises counted on one's own behalf become true.
    fn on_synced(&mut self, cx: &mut Cx<'_>, seq: u64) {
        self.disk.on_synced(seq);
        self.maybe_count_own_vote(cx);
        self.maybe_commit(cx);
    }

    /// Becomes a follower, in this term or a newer one; the state of the old role is dropped.
    pub(crate) fn become_follower(&mut self, cx: &mut Cx<'_>, term: Term, cause: StepDownCause) {
        assert!(term >= self.hard.term, "C1: term would go back: {} -> {term}", self.hard.term);
        let was_leader = matches!(self.state, State::Leader(_));
        if was_leader {
            self.refuse_reads(cx);
            cx.fx.events.push(Event::SteppedDown { term: self.hard.term, cause });
            self.leader = None;
        }
        if term > self.hard.term {
            self.forget_leader(cx, LossCause::NewerTerm);
            self.hard = HardState { term, vote: None };
            self.voted_at = None;
        } else if is_planted!(self.config, forget_vote_on_step_down) {
            self.hard.vote = None;
        }
        self.state = State::Follower;
        if was_leader {
            self.draw_deadline(cx, self.silence_ticks());
        }
    }

    /// No leader is known any more; reads that wait for its answer are refused.
    pub(crate) fn forget_leader(&mut self, cx: &mut Cx<'_>, cause: LossCause) {
        self.heard_at = None;
        if let Some(leader) = self.leader.take() {
            cx.fx.events.push(Event::LeaderLost { term: self.hard.term, leader: leader.id, cause });
        }
        self.refuse_forwarded(cx);
    }

    /// Whether answers of this identity may count: the membership names it, or the leader still feeds it.
    fn is_expected(&self, from: &Identity) -> bool {
        if is_planted!(self.config, count_earlier_session) {
            return true;
        }
        self.is_fed(from) || self.membership().is_member(from)
    }
}

/// Whether the message answers one of ours: such a message must come from the identity that was asked. `ReadIndexReply`
/// is matched by its token instead (`read.rs`).
fn is_answer(body: &Body) -> bool {
    matches!(
        body,
        Body::PreVoteReply { .. } | Body::VoteReply { .. } | Body::AppendReply { .. } | Body::HeartbeatReply { .. }
    )
}
