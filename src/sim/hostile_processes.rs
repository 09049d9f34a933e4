//! Hostile processes at the peer port, and how honest nodes are introduced to each other.
//!
//! A hostile process sends every kind of message, every number at its extremes, and old messages of others, under an
//! identity of its own or under that of a member with a term that no node can have reached. None of it may change
//! anything: the rule is called `UnknownSenderHeard`.
//!
//! Honest nodes are introduced to each other as `node/` does it: by the cluster's secret where the seed has one, by the
//! address of a member that they know, by the answer to a join, else by the gossip of a node that they know.
//! Not here: which senders a node accepts (`raft/guard.rs`).

use super::environment::plan::pick;
use super::events::{Packet, SimEvent};
use super::violation::{CheckResult, violation};
use super::world::World;
use crate::raft::{
    Body, Conflict, Effects, Entry, INDEX_MAX, Input, Message, Payload, SnapshotMeta, TERM_JUMP_MAX, TERM_MAX, Token,
    View,
};
use crate::types::{Identity, Index, NodeId, Term};
use fastrand::Rng;
use uuid::Uuid;

impl World {
    /// Introduces the sender `who` of a message to the host `to`, if the rules of `node/` allow it.
    pub fn maybe_introduce(&mut self, from: usize, to: usize, who: Identity) {
        let me = self.hosts[to].identity;
        let Some(process) = self.hosts[to].process.as_ref() else { return };
        if process.raft.knows(&who) {
            return;
        }
        let membership = process.raft.view().membership;
        let is_open = !self.net.is_cut(from, to) && !self.net.is_cut(to, from);
        let is_at_its_address = is_open && self.hosts[from].identity == who && self.hosts[from].process.is_some();
        let sender = self.hosts[from].process.as_ref().map(|process| process.raft.view().membership);
        // A new node asked this cluster's leader to join, and the answer names the members.
        let has_joined = membership.members().next().is_none() && sender.is_some_and(|theirs| theirs.is_member(&me));
        if self.plan.has_secret || (is_at_its_address && membership.uuid_of(who.id).is_some()) || has_joined {
            return self.introduce(to, who);
        }
        if !self.hosts[to].is_gossip_due {
            self.hosts[to].is_gossip_due = true;
            let life = self.hosts[to].life;
            self.after(self.plan.election_us() / 4, SimEvent::Gossip { node: to, life });
        }
    }

    fn introduce(&mut self, node: usize, who: Identity) {
        if let Some(process) = self.hosts[node].process.as_mut() {
            process.raft.step(Input::Introduce(who), &mut process.rng, &mut Effects::default());
        }
    }

    /// A node learns the identities that its known nodes know. It calls every member at the address of its number,
    /// whichever node answers there now.
    pub fn on_gossip(&mut self, node: usize) -> CheckResult {
        self.hosts[node].is_gossip_due = false;
        for other in (0..self.hosts.len()).filter(|other| *other != node) {
            let (Some(me), Some(it)) = (&self.hosts[node].process, &self.hosts[other].process) else { continue };
            let who = self.hosts[other].identity;
            let answers = !self.net.is_cut(node, other) && me.raft.view().membership.uuid_of(who.id).is_some();
            if self.net.is_cut(other, node) || !(answers || me.raft.knows(&who)) {
                continue;
            }
            let known = it.raft.known();
            for who in known.into_iter().chain([who]) {
                self.introduce(node, who);
            }
        }
        Ok(())
    }

    /// A hostile process sends a message to a node.
    pub fn on_hostile(&mut self) -> CheckResult {
        if self.in_liveness_phase {
            return Ok(());
        }
        let mean = (self.plan.election_us() as f64 / self.plan.hostile) as u64;
        let delay = self.rng.u64(1..=mean.max(1) * 2);
        self.after(delay, SimEvent::Hostile);
        let node = self.rng.usize(0..self.hosts.len());
        let host = &self.hosts[node];
        let Some(process) = host.process.as_ref().filter(|_| host.paused_until <= self.now) else { return Ok(()) };
        let (life, me, before) = (host.life, host.identity, process.raft.view());
        let old = self.old_raft_message();
        let input = hostile(&mut self.rng, me, &before, old);
        self.note(|_| format!("n{} <- a hostile process: {input:?}", node + 1));
        self.coverage.hostile_messages += 1;
        self.step(node, input)?;
        if !self.is_alive(node, life) {
            return Ok(());
        }
        let Some(process) = self.hosts[node].process.as_ref() else { return Ok(()) };
        let after = process.raft.view();
        if key(&before) != key(&after) {
            let (before, after) = (key(&before), key(&after));
            return violation!("UnknownSenderHeard", "n{} was {before:?} and became {after:?}", node + 1);
        }
        Ok(())
    }

    fn old_raft_message(&mut self) -> Option<Message> {
        let len = self.old_packets.len();
        let at = (len > 0).then(|| self.rng.usize(0..len))?;
        match &self.old_packets[at].2 {
            Packet::Raft(message) => Some(message.clone()),
            _ => None,
        }
    }
}

/// What a message may not change.
fn key(view: &View) -> impl PartialEq + std::fmt::Debug + use<> {
    (view.term, view.role, view.leader, view.commit_index, view.last_index, view.membership.clone(), view.transfer_to)
}

/// A message that no honest node sends.
fn hostile(rng: &mut Rng, me: Identity, view: &View, old: Option<Message>) -> Input {
    let unknown = Identity { id: NodeId(rng.u64(0..=8)), uuid: Uuid::from_u128(rng.u128(..)) };
    let from = *pick(rng, &[unknown, Identity { uuid: Uuid::nil(), ..unknown }, Identity { id: me.id, ..unknown }]);
    let now = view.term.0;
    let terms = [0, 1, now.saturating_sub(1), now, now + 1, now + 100, now + TERM_JUMP_MAX, TERM_MAX.0, u64::MAX - 1];
    let term = Term(*pick(rng, &[&terms[..], &[u64::MAX]].concat()));
    let members: Vec<Identity> = view.membership.members().filter(|who| *who != me).collect();
    match rng.u8(0..10) {
        // A member's name, which can be read in many places, and a term that it cannot have.
        0 | 1 if !members.is_empty() => {
            let term = Term(*pick(rng, &[now + TERM_JUMP_MAX + 1, TERM_MAX.0 + 1, u64::MAX - 1, u64::MAX]));
            let from = *pick(rng, &members);
            Input::Message(Message { from, to: me, term, body: body(rng, view) })
        }
        // The same, and indexes that wrap.
        2 if !members.is_empty() => {
            let prev_index = Index(*pick(rng, &[INDEX_MAX.0 + 1, u64::MAX - 1, u64::MAX]));
            let entries =
                vec![Entry { index: Index(prev_index.0.wrapping_add(1)), term: view.term, payload: Payload::Noop }];
            let body = Body::Append { session: 1, prev_index, prev_term: view.term, commit: prev_index, entries };
            Input::Message(Message { from: *pick(rng, &members), to: me, term: view.term, body })
        }
        3 if let Some(old) = old => {
            let term = *pick(rng, &[old.term, term]);
            Input::Message(Message { from, to: me, term, body: old.body })
        }
        4 => {
            let index = Index(number(rng, view));
            let meta = SnapshotMeta { index, term, membership: (*view.membership).clone() };
            Input::SnapshotReceived { from, term, meta }
        }
        _ => Input::Message(Message { from, to: me, term, body: body(rng, view) }),
    }
}

/// Numbers at the limits of what a node accepts.
fn number(rng: &mut Rng, view: &View) -> u64 {
    let (last, commit) = (view.last_index.0, view.commit_index.0);
    *pick(rng, &[0, 1, commit, last, last + 1, last + 100, INDEX_MAX.0, u64::MAX - 1, u64::MAX])
}

/// A message of any kind.
fn body(rng: &mut Rng, view: &View) -> Body {
    let (last_index, last_term) = (Index(number(rng, view)), Term(number(rng, view)));
    let session = number(rng, view);
    match rng.u8(0..12) {
        0 => Body::PreVote { last_index, last_term },
        1 => Body::PreVoteReply { is_granted: rng.bool() },
        2 => Body::Vote { last_index, last_term, is_transfer: rng.bool() },
        3 => Body::VoteReply { is_granted: rng.bool() },
        4 => {
            let first = last_index.0.wrapping_add(1);
            let entry =
                |at: u64| Entry { index: Index(first.wrapping_add(at)), term: last_term, payload: Payload::Noop };
            let entries = (0..rng.u64(0..3)).map(entry).collect();
            let commit = Index(number(rng, view));
            Body::Append { session, prev_index: last_index, prev_term: last_term, commit, entries }
        }
        5 => Body::AppendReply { session, result: Ok(last_index) },
        6 => {
            let conflict =
                Conflict { prev_index: last_index, hint_index: Index(number(rng, view)), hint_term: last_term };
            Body::AppendReply { session, result: Err(conflict) }
        }
        7 => Body::Heartbeat { round: session, commit: last_index },
        8 => Body::HeartbeatReply { round: session },
        9 => Body::ReadIndex { token: Token(session) },
        10 => Body::ReadIndexReply { token: Token(session), index: rng.bool().then_some(last_index) },
        _ => pick(rng, &[Body::TimeoutNow { last_index }, Body::TransferMe]).clone(),
    }
}
