//! Leading: the first entry of the term, heartbeats, and feeding each follower.
//!
//! Appends leave at once, while the own disk still works on the same entries; the own copy counts only when it is
//! synced. A leader that hears no quorum for an election timeout, or has a stalled disk, steps down.
//!
//! Invariants: R1 `peers` holds every other member (and those that are leaving). R2 the first entry of a term is a
//! no-op. R3 no heartbeat leaves while the disk is stalled. R4 `uncommitted_bytes` are those of the entries after the
//! commit index.
//! Not here: what a peer may be sent (`raft/state/progress.rs`), counting copies (`commit.rs`), reads (`read.rs`).

use super::feeder::Feeder;
use crate::planted_bugs::is_planted;
use crate::raft::state::leadership::Leadership;
use crate::raft::state::log::entry_bytes;
use crate::raft::state::membership::quorum;
use crate::raft::state::progress::Mode;
use crate::raft::state::reads::Reads;
use crate::raft::state::{Cx, Raft, State, refuse};
use crate::raft::{Answer, Conflict, Entry, Event, Payload, Refusal, StepDownCause, Token};
use crate::types::{Identity, Index, NodeId};
use std::collections::BTreeMap;
use std::sync::Arc;

impl Raft {
    /// Won the election.
    pub(crate) fn become_leader(&mut self, cx: &mut Cx<'_>) {
        let me = self.config.me;
        assert!(self.hard.vote == Some(me), "leads term {} without its own vote", self.hard.term);
        let uncommitted = self.log.slice(self.commit.next(), self.log.last_index());
        self.leader = Some(me);
        self.heard_at = None;
        self.attempts = 0;
        self.deferred.clear();
        self.state = State::Leader(Box::new(Leadership {
            peers: BTreeMap::new(),
            first_index: self.log.last_index().next(),
            reads: Reads::new(),
            transfer: None,
            no_preempt_before: self.now + 2 * self.config.election_timeout_ticks.0,
            uncommitted_bytes: uncommitted.iter().map(entry_bytes).sum(),
            commit_marks: (self.commit, self.commit),
            last_session: 0,
            heartbeat_at: self.now + self.config.heartbeat_ticks.0,
        }));
        cx.fx.events.push(Event::BecameLeader { term: self.hard.term });
        self.refuse_forwarded(cx);
        self.reconcile_peers();
        self.append_own(cx, Payload::Noop);
        self.feed_all(cx);
    }

    /// A command of the host.
    pub(crate) fn on_propose(&mut self, cx: &mut Cx<'_>, token: Token, command: Arc<[u8]>) {
        let State::Leader(lead) = &self.state else { return refuse(cx, token, Refusal::NotLeader) };
        if lead.transfer.is_some() || self.config.leads_only_to_pass_on {
            return refuse(cx, token, Refusal::LeadershipTransfer);
        }
        if self.is_disk_low {
            return refuse(cx, token, Refusal::DiskLow);
        }
        if lead.uncommitted_bytes > 0 && lead.uncommitted_bytes + command.len() > self.config.uncommitted_bytes_max {
            return refuse(cx, token, Refusal::Busy);
        }
        let index = self.append_own(cx, Payload::Command(command));
        cx.fx.answers.push((token, Answer::Appended { index, term: self.hard.term }));
        self.feed_all(cx);
    }

    /// Appends an entry of this term to the leader's own log.
    pub(crate) fn append_own(&mut self, cx: &mut Cx<'_>, payload: Payload) -> Index {
        let entry = Entry { index: self.log.last_index().next(), term: self.hard.term, payload };
        let index = entry.index;
        if let State::Leader(lead) = &mut self.state {
            lead.uncommitted_bytes += entry_bytes(&entry);
        }
        self.log.append(entry);
        self.persist_from(cx, index);
        index
    }

    /// Sends every follower what it may have.
    pub(crate) fn feed_all(&mut self, cx: &mut Cx<'_>) {
        let envelope = self.envelope();
        let State::Leader(lead) = &mut self.state else { return };
        let feeder = Feeder { envelope, log: &self.log, commit: self.commit, now: self.now, config: &self.config };
        for progress in lead.peers.values_mut() {
            feeder.feed(cx, progress, true);
        }
    }

    /// Sends one follower what it may have.
    pub(crate) fn feed_one(&mut self, cx: &mut Cx<'_>, id: NodeId) {
        let envelope = self.envelope();
        let State::Leader(lead) = &mut self.state else { return };
        let feeder = Feeder { envelope, log: &self.log, commit: self.commit, now: self.now, config: &self.config };
        if let Some(progress) = lead.peers.get_mut(&id) {
            feeder.feed(cx, progress, true);
        }
    }

    /// Timers of a leader.
    pub(crate) fn on_leader_tick(&mut self, cx: &mut Cx<'_>) {
        let term = self.hard.term;
        if self.is_disk_stalled() {
            return self.become_follower(cx, term, StepDownCause::DiskStalled);
        }
        if !self.has_quorum() {
            return self.become_follower(cx, term, StepDownCause::NoQuorum);
        }
        self.measured_ticks += 1;
        self.on_transfer_tick(cx);
        let State::Leader(lead) = &mut self.state else { return };
        if self.now < lead.heartbeat_at {
            return;
        }
        lead.heartbeat_at = self.now + self.config.heartbeat_ticks.0;
        lead.commit_marks = (self.commit, lead.commit_marks.0);
        self.on_heartbeat_due(cx);
    }

    /// Heartbeats to all, and another try for what seems lost.
    fn on_heartbeat_due(&mut self, cx: &mut Cx<'_>) {
        let (envelope, now) = (self.envelope(), self.now);
        let stuck_ticks = (2 * self.config.heartbeat_ticks.0).max(self.answer_ticks() / 2);
        let State::Leader(lead) = &mut self.state else { return };
        lead.peers.retain(|_, progress| !progress.has_left(now));
        let feeder = Feeder { envelope, log: &self.log, commit: self.commit, now, config: &self.config };
        let is_read_waiting = lead.reads.is_under_way();
        for progress in lead.peers.values_mut() {
            let is_asked = is_read_waiting || feeder.needs_answer(progress);
            feeder.heartbeat(cx, progress, if is_asked { lead.reads.round } else { 0 });
            if progress.is_stuck(now, stuck_ticks) {
                progress.become_probe();
            }
            progress.is_probing = false;
            feeder.feed(cx, progress, progress.mode != Mode::Probe);
        }
        self.maybe_preempt(cx);
        self.maybe_make_way(cx);
    }

    /// The link to a follower is up (again): its answers to what went before do not count, and all is probed anew.
    pub(crate) fn on_leader_link_up(&mut self, cx: &mut Cx<'_>, peer: NodeId) {
        let State::Leader(lead) = &mut self.state else { return };
        let session = lead.next_session();
        if let Some(progress) = lead.peers.get_mut(&peer) {
            progress.on_link_up(session);
            self.feed_one(cx, peer);
        }
    }

    /// A follower took or refused an append.
    pub(crate) fn on_append_reply(
        &mut self,
        cx: &mut Cx<'_>,
        from: Identity,
        session: u64,
        result: Result<Index, Conflict>,
    ) {
        let (now, last_index) = (self.now, self.log.last_index());
        let State::Leader(lead) = &mut self.state else { return };
        let Some(progress) = lead.peers.get_mut(&from.id) else { return };
        let silence = now - std::mem::replace(&mut progress.heard_at, now);
        self.on_answer_after(silence);
        let State::Leader(lead) = &mut self.state else { return };
        let Some(progress) = lead.peers.get_mut(&from.id) else { return };
        if progress.session != session && !is_planted!(self.config, count_earlier_session) {
            return;
        }
        match result {
            Ok(matched) if matched > last_index => return,
            Ok(matched) => {
                let is_news = progress.on_matched(matched, now);
                if progress.mode == Mode::Snapshot && progress.match_index >= self.log.base() {
                    progress.become_probe();
                    progress.mode = Mode::Stream;
                }
                if is_news {
                    self.maybe_commit(cx);
                    self.maybe_send_timeout_now(cx);
                }
            }
            Err(conflict) if progress.has_acknowledged(conflict.prev_index) => {
                // Late, or the follower lost what it had acknowledged. An answer to a new session shows which.
                if !progress.is_broken_by(conflict) {
                    let session = lead.next_session();
                    if let Some(progress) = lead.peers.get_mut(&from.id) {
                        progress.on_link_up(session);
                    }
                } else if !progress.has_forgotten {
                    let matched = progress.match_index;
                    progress.forget();
                    cx.fx.events.push(Event::FollowerForgot { who: from, matched });
                }
            }
            Err(conflict) => {
                let was_streaming = progress.mode == Mode::Stream;
                if progress.on_conflict(conflict, &self.log) && was_streaming {
                    // All that follows in the stream is refused as well. If each late refusal ended the next stream,
                    // a network that changes the order would have the same entries sent without end.
                    let session = lead.next_session();
                    if let Some(progress) = lead.peers.get_mut(&from.id) {
                        progress.begin_session(session);
                    }
                }
            }
        }
        self.feed_one(cx, from.id);
    }

    /// A follower confirms that it knows no newer term.
    pub(crate) fn on_heartbeat_reply(&mut self, cx: &mut Cx<'_>, from: Identity, round: u64) {
        let State::Leader(lead) = &mut self.state else { return };
        let Some(progress) = lead.peers.get_mut(&from.id) else { return };
        let silence = self.now - std::mem::replace(&mut progress.heard_at, self.now);
        // A round that was never sent confirms nothing.
        if round <= lead.reads.round {
            progress.round = progress.round.max(round);
        }
        self.on_answer_after(silence);
        self.maybe_confirm_reads(cx);
        self.feed_one(cx, from.id);
    }

    /// Whether a quorum of voters answered within the last election timeout.
    pub(crate) fn has_quorum(&self) -> bool {
        let State::Leader(lead) = &self.state else { return false };
        let voters = &self.membership().voters;
        let timeout = self.answer_ticks();
        let active = voters.iter().filter(|(id, uuid)| {
            let who = Identity { id: **id, uuid: **uuid };
            who == self.config.me || self.has_answered(lead, &who, timeout)
        });
        active.count() >= quorum(voters.len())
    }

    /// Whether this very member answered within the last election timeout.
    pub(crate) fn is_active(&self, lead: &Leadership, who: &Identity) -> bool {
        self.has_answered(lead, who, self.answer_ticks())
    }

    fn has_answered(&self, lead: &Leadership, who: &Identity, timeout: u64) -> bool {
        lead.peers
            .get(&who.id)
            .is_some_and(|peer| peer.who == *who && !peer.has_forgotten && peer.is_active(self.now, timeout))
    }
}
