//! Linearizable reads by read index.
//!
//! A leader answers with its commit index once a quorum, asked after the read came, has confirmed that it still leads.
//! All reads that come while one round is under way share the next. A follower asks its leader, in the same way: one
//! question under way, the next takes all who wait. There are no leader leases, because fast failover elects within any
//! lease.
//!
//! Invariants: Q1 a read joins only a round that starts after it came. Q2 no round starts before an entry of the own
//! term is committed. Q3 the number of a question to the leader is drawn at random, so an answer to an earlier run of
//! this process never fits. Q4 stepping down refuses every read that waits.
//! Not here: waiting until the index is applied (the host).

use super::replication::feeder::Feeder;
use super::state::membership::quorum;
use super::state::reads::Reader;
use super::state::{Cx, Raft, State, refuse};
use super::{Answer, Body, Refusal, Token};
use crate::planted_bugs::is_planted;
use crate::types::{Identity, Index};

impl Raft {
    /// The host wants to serve a linearizable read.
    pub(crate) fn on_read(&mut self, cx: &mut Cx<'_>, token: Token) {
        match (&self.state, self.leader) {
            (State::Leader(_), _) => self.add_read(cx, Reader::Host(token)),
            (State::Follower, Some(_)) => {
                self.forwarded.waiting.push(token);
                self.maybe_ask_leader(cx);
            }
            _ => refuse(cx, token, Refusal::NotLeader),
        }
    }

    /// A follower asks on behalf of its reads.
    pub(crate) fn on_read_index(&mut self, cx: &mut Cx<'_>, from: Identity, token: Token) {
        if matches!(self.state, State::Leader(_)) {
            self.add_read(cx, Reader::Peer(from, token));
        } else {
            self.envelope().send(cx, from, Body::ReadIndexReply { token, index: None });
        }
    }

    /// The leader answered the question under way.
    pub(crate) fn on_read_index_reply(&mut self, cx: &mut Cx<'_>, token: Token, index: Option<Index>) {
        if self.forwarded.under_way.as_ref().is_none_or(|(asked, ..)| *asked != token) {
            return;
        }
        let (_, reads, _) = self.forwarded.under_way.take().expect("checked just above");
        for read in reads {
            match index {
                Some(index) => cx.fx.answers.push((read, Answer::ReadAt(index))),
                None => refuse(cx, read, Refusal::NotLeader),
            }
        }
        self.maybe_ask_leader(cx);
    }

    /// Starts a round for the reads that wait, unless one is under way.
    pub(crate) fn maybe_start_round(&mut self, cx: &mut Cx<'_>) {
        let can_read = self.has_committed_own_term() || is_planted!(self.config, read_before_own_commit);
        let envelope = self.envelope();
        let voters = &self.log.membership().1.voters;
        let State::Leader(lead) = &mut self.state else { return };
        if !can_read || lead.reads.waiting.is_empty() || lead.reads.under_way.is_some() {
            return;
        }
        lead.reads.round += 1;
        lead.reads.under_way = Some((self.commit, std::mem::take(&mut lead.reads.waiting)));
        let feeder = Feeder { envelope, log: &self.log, commit: self.commit, now: self.now, config: &self.config };
        for progress in lead.peers.values_mut().filter(|progress| voters.contains_key(&progress.who.id)) {
            feeder.heartbeat(cx, progress, lead.reads.round);
        }
        self.maybe_confirm_reads(cx);
    }

    /// Answers the reads of the round under way if a quorum has confirmed it.
    pub(crate) fn maybe_confirm_reads(&mut self, cx: &mut Cx<'_>) {
        let me = self.config.me;
        let voters = &self.log.membership().1.voters;
        let State::Leader(lead) = &mut self.state else { return };
        let round = lead.reads.round;
        let confirmed = voters.iter().filter(|(id, uuid)| {
            let who = Identity { id: **id, uuid: **uuid };
            who == me || lead.peers.get(id).is_some_and(|progress| progress.who == who && progress.round >= round)
        });
        if confirmed.count() < quorum(voters.len()) {
            return;
        }
        if let Some((index, readers)) = lead.reads.under_way.take() {
            self.answer_reads(cx, readers, Some(index));
            self.maybe_start_round(cx);
        }
    }

    /// Leadership ends: every read that waits is refused.
    pub(crate) fn refuse_reads(&mut self, cx: &mut Cx<'_>) {
        let State::Leader(lead) = &mut self.state else { return };
        let mut readers = std::mem::take(&mut lead.reads.waiting);
        readers.extend(lead.reads.under_way.take().into_iter().flat_map(|(_, readers)| readers));
        self.answer_reads(cx, readers, None);
    }

    /// The leader that was asked is gone: its answer is not waited for.
    pub(crate) fn refuse_forwarded(&mut self, cx: &mut Cx<'_>) {
        let forwarded = std::mem::take(&mut self.forwarded);
        let asked = forwarded.under_way.into_iter().flat_map(|(_, reads, _)| reads);
        for read in asked.chain(forwarded.waiting) {
            refuse(cx, read, Refusal::NotLeader);
        }
    }

    /// Sends the question under way again: it or its answer may be lost.
    pub(crate) fn resend_forwarded(&mut self, cx: &mut Cx<'_>) {
        let (now, heartbeat_ticks) = (self.now, self.config.heartbeat_ticks.0);
        if let Some((token, _, at)) = &mut self.forwarded.under_way
            && now - *at >= 2 * heartbeat_ticks
        {
            *at = now;
            let body = Body::ReadIndex { token: *token };
            if let Some(leader) = self.leader {
                self.envelope().send(cx, leader, body);
            }
        }
    }

    /// A read that this leader must answer.
    fn add_read(&mut self, cx: &mut Cx<'_>, reader: Reader) {
        let State::Leader(lead) = &mut self.state else { return };
        if is_planted!(self.config, reuse_read_context)
            && let Some((_, readers)) = &mut lead.reads.under_way
        {
            return readers.push(reader);
        }
        let is_asked = lead.reads.under_way.as_ref().is_some_and(|(_, readers)| readers.contains(&reader));
        if matches!(reader, Reader::Peer(..)) && (is_asked || lead.reads.waiting.contains(&reader)) {
            return;
        }
        lead.reads.waiting.push(reader);
        self.maybe_start_round(cx);
    }

    /// Gives readers their index, or a refusal.
    fn answer_reads(&mut self, cx: &mut Cx<'_>, readers: Vec<Reader>, index: Option<Index>) {
        for reader in readers {
            match (reader, index) {
                (Reader::Host(token), Some(index)) => cx.fx.answers.push((token, Answer::ReadAt(index))),
                (Reader::Host(token), None) => refuse(cx, token, Refusal::NotLeader),
                (Reader::Peer(who, token), index) => {
                    self.envelope().send(cx, who, Body::ReadIndexReply { token, index });
                }
            }
        }
    }

    /// Puts the question for all reads that wait, unless one is under way.
    fn maybe_ask_leader(&mut self, cx: &mut Cx<'_>) {
        let Some(leader) = self.leader else { return };
        if self.forwarded.waiting.is_empty() || self.forwarded.under_way.is_some() {
            return;
        }
        let token = Token(cx.rng.u64(..));
        self.forwarded.under_way = Some((token, std::mem::take(&mut self.forwarded.waiting), self.now));
        self.envelope().send(cx, leader, Body::ReadIndex { token });
    }
}
