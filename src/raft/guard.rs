//! Which messages a node accepts at all: only those of members, and only terms and indexes that an honest sequence of
//! events can reach.
//!
//! One heartbeat of an unknown sender with the term 2^64-1 would end a cluster permanently: every node would adopt the
//! term, and there is none after it. So a message counts only if its sender is known here, and only if what it says is
//! possible.
//!
//! Who is known: (1) an identity that a membership names which this node's log or snapshot still holds; (2) one that
//! this leader still feeds; (3) one that this node has voted for, which it has therefore known, though it may have
//! started again since; (4) one that the host has *introduced*. The last is for a node that is behind: it must take
//! appends from a leader whose membership entry it has not got, or it would never get it. The host introduces an
//! identity only from a sender that this node has a reason to believe: the sender proved the cluster's secret; or a
//! node that is known here names it in its gossip; or it answered at the address of the member that has its number; or
//! the leader that this new node joined named it. An unknown sender can cause none of these. An introduction is not a
//! membership: it changes no quorum.
//!
//! Invariants: K1 a message of an unknown identity changes nothing. K2 the term grows by at most [`TERM_JUMP_MAX`] a
//! message and never beyond [`TERM_MAX`]. K3 an append that is taken has consecutive indexes below [`INDEX_MAX`] and
//! terms that do not go back, none above the message's own; no entry of it is larger than [`ENTRY_BYTES_MAX`].
//! Not here: what a message means (`step.rs`), who may be introduced (`node/peer/acceptor.rs`,
//! `node/threads/gossip.rs`).

use super::state::bounds::{ENTRY_BYTES_MAX, INDEX_MAX, TERM_JUMP_MAX, TERM_MAX};
use super::state::{Raft, State};
use super::{Body, Entry, Message, Payload, Refused};
use crate::planted_bugs::is_planted;
use crate::types::{Identity, Index, NodeId, Term};
use std::collections::BTreeSet;
use uuid::Uuid;

/// Identities under one number that may be introduced: a node that was replaced so often since this one went away is
/// found again by the next round of gossip.
const INTRODUCED_MAX: usize = 4;

impl Raft {
    /// The host confirms this identity; see the head of this file. Earlier ones under the same number still count:
    /// the sender may have named a member that was replaced since.
    pub(crate) fn on_introduce(&mut self, who: Identity) {
        if who == self.config.me || self.knows(&who) {
            return;
        }
        let uuids = self.introduced.entry(who.id).or_default();
        uuids.push(who.uuid);
        if uuids.len() > INTRODUCED_MAX {
            uuids.remove(0);
        }
    }

    /// Whether this node listens to the identity.
    pub fn knows(&self, who: &Identity) -> bool {
        is_planted!(self.config, hears_unknown_senders)
            || self.is_named(who)
            || self.introduced.get(&who.id).is_some_and(|uuids| uuids.contains(&who.uuid))
            || self.is_fed(who)
            || self.hard.vote == Some(*who)
    }

    /// All identities that this node listens to.
    pub fn known(&self) -> BTreeSet<Identity> {
        let mut known: BTreeSet<Identity> =
            self.log.memberships().flat_map(|membership| membership.members()).collect();
        known.extend(self.all_introduced());
        known.extend(self.hard.vote.filter(|who| *who != self.config.me));
        if let State::Leader(lead) = &self.state {
            known.extend(lead.peers.values().map(|progress| progress.who));
        }
        known
    }

    /// Identities that were introduced and that no membership here names; under each number the newest last.
    pub fn introduced(&self) -> impl Iterator<Item = Identity> + '_ {
        self.all_introduced().filter(|who| !self.is_named(who))
    }

    fn all_introduced(&self) -> impl Iterator<Item = Identity> + '_ {
        let identities =
            |(&id, uuids): (&NodeId, &'_ Vec<Uuid>)| uuids.clone().into_iter().map(move |uuid| Identity { id, uuid });
        self.introduced.iter().flat_map(identities)
    }

    /// Whether a membership names it that the log or the snapshot holds. An earlier one counts too: a node that is
    /// leaving must be heard until that is committed, and may be the only one that can win.
    fn is_named(&self, who: &Identity) -> bool {
        self.log.memberships().any(|membership| membership.is_member(who))
    }

    /// Whether the leader feeds it, be it only until it has learnt that it left.
    pub(crate) fn is_fed(&self, who: &Identity) -> bool {
        match &self.state {
            State::Leader(lead) => lead.peers.get(&who.id).is_some_and(|peer| peer.who == *who),
            _ => false,
        }
    }

    /// Why a message is not to be heard, if so.
    pub(crate) fn objection(&self, message: &Message) -> Option<Refused> {
        if !self.knows(&message.from) {
            return Some(Refused::UnknownSender(message.from));
        }
        if !self.is_term_possible(message.term) {
            return Some(Refused::TermJump(message.from, message.term));
        }
        match &message.body {
            Body::Append { prev_index, prev_term, entries, .. }
                if !is_append_sound(message.term, (*prev_index, *prev_term), entries) =>
            {
                Some(Refused::Malformed(message.from))
            }
            _ => None,
        }
    }

    /// Whether an honest sequence of elections can have led to this term since this node last heard of one.
    pub(crate) fn is_term_possible(&self, term: Term) -> bool {
        is_planted!(self.config, terms_wrap)
            || term <= TERM_MAX && term.0.saturating_sub(self.hard.term.0) <= TERM_JUMP_MAX
    }
}

/// Invariant K3.
fn is_append_sound(term: Term, prev: (Index, Term), entries: &[Entry]) -> bool {
    let (mut index, mut last_term) = prev;
    if index > INDEX_MAX {
        return false;
    }
    for entry in entries {
        let is_next = Some(entry.index.0) == index.0.checked_add(1) && entry.index <= INDEX_MAX;
        let is_small = !matches!(&entry.payload, Payload::Command(bytes) if bytes.len() > ENTRY_BYTES_MAX);
        if !is_next || !is_small || entry.term < last_term {
            return false;
        }
        (index, last_term) = (entry.index, entry.term);
    }
    last_term <= term
}
