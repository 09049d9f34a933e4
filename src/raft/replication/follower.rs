//! Follower side of replication: takes or refuses what a leader offers.
//!
//! A follower never chooses what is in the log. It checks that the entry just before the offer is one it holds; if so
//! it skips what it has, cuts at the first real conflict and takes the rest. Refused or not, an offer in the current
//! term is a word from the leader: it refreshes the timer, so that a recovering follower does not depose the one that
//! heals it.
//!
//! Invariants: F1 nothing at or below the commit index is ever cut. F2 an acceptance names `prev + len` of the very
//! offer, never the own last index, and leaves after the sync. F3 the commit index follows the leader's only as far as
//! the offer proves the logs equal.
//! Not here: elections (`election.rs`), choosing the commit index (`commit.rs`), disk (`store/`).

use crate::planted_bugs::is_planted;
use crate::raft::state::{Cx, Raft, State};
use crate::raft::{Body, Conflict, Entry, Event, StepDownCause};
use crate::types::{Identity, Index, Term};

impl Raft {
    /// The leader of this term spoke. False if that cannot be (two leaders in one term).
    pub(crate) fn follow(&mut self, cx: &mut Cx<'_>, from: Identity) -> bool {
        if matches!(self.state, State::Leader(_)) {
            return false;
        }
        if !matches!(self.state, State::Follower) {
            self.become_follower(cx, self.hard.term, StepDownCause::NewerTerm);
        }
        if self.leader != Some(from) {
            self.refuse_forwarded(cx);
            self.leader = Some(from);
            self.silent_leader = None;
            cx.fx.events.push(Event::Following { term: self.hard.term, leader: from.id });
        }
        self.on_leader_heard();
        self.heard_at = Some(self.now);
        self.voted_at = None;
        self.attempts = 0;
        self.deferred.clear();
        self.draw_deadline(cx, self.silence_ticks());
        true
    }

    /// Entries after `prev`, or a probe without any.
    pub(crate) fn on_append(
        &mut self,
        cx: &mut Cx<'_>,
        from: Identity,
        session: u64,
        prev: (Index, Term),
        commit: Index,
        mut entries: Vec<Entry>,
    ) {
        let (mut prev_index, mut prev_term) = prev;
        // K3 has been looked at: the indexes follow each other, and none is near the end of all numbers.
        if !self.follow(cx, from) {
            return;
        }
        let end = Index(prev_index.0 + entries.len() as u64);
        if let Some(index) = self.contradicted(prev, &entries) {
            return cx.fx.events.push(Event::LeaderForgot { leader: from.id, index });
        }
        // What the snapshot covers is committed and so equal: look only at what comes after it.
        let base = self.log.base();
        if prev_index < base {
            entries.retain(|entry| entry.index > base);
            prev_index = base;
            prev_term = self.log.term_at(base).expect("the base's term is known");
        }
        let result = if self.log.term_at(prev_index) == Some(prev_term) {
            self.acknowledged = match self.acknowledged {
                (term, index) if term == self.hard.term => (term, index.max(end)),
                _ => (self.hard.term, end),
            };
            self.take_entries(cx, prev_index, entries);
            self.follow_commit(commit.min(end));
            Ok(if is_planted!(self.config, ack_own_last_index) { self.log.last_index() } else { end })
        } else {
            Err(self.conflict_at(prev_index, prev_term))
        };
        self.envelope().send(cx, from, Body::AppendReply { session, result });
    }

    /// The sender still leads; `commit` covers what this node is known to hold.
    pub(crate) fn on_heartbeat(&mut self, cx: &mut Cx<'_>, from: Identity, round: u64, commit: Index) {
        if !self.follow(cx, from) {
            return;
        }
        self.follow_commit(commit);
        if round > 0 {
            self.envelope().send(cx, from, Body::HeartbeatReply { round });
        }
    }

    /// The first place at which the offer differs from what is committed here, or from what was written here in the
    /// same term. A leader can have won with such a log only if voters lost what they had acknowledged: nothing of its
    /// offer is taken, or committed entries would be cut without a word. Of what the snapshot covers only this is
    /// known: no term there is newer than that of its last entry.
    fn contradicted(&self, prev: (Index, Term), entries: &[Entry]) -> Option<Index> {
        let offered = std::iter::once(prev).chain(entries.iter().map(|entry| (entry.index, entry.term)));
        let mut committed = offered.take_while(|(index, _)| *index <= self.commit);
        let base_term = self.log.term_at(self.log.base()).unwrap_or_default();
        let is_other = |(index, term): &(Index, Term)| match self.log.term_at(*index) {
            Some(held) => held != *term,
            None => *index < self.log.base() && *term > base_term,
        };
        // One leader of a term writes one entry of that term to an index, committed or not.
        let is_rewritten = |entry: &&Entry| {
            let held = self.log.slice(entry.index, entry.index).first();
            held.is_some_and(|held| held.term == entry.term && held != *entry)
        };
        let other = committed.find(is_other).map(|(index, _)| index);
        other.or_else(|| entries.iter().find(is_rewritten).map(|entry| entry.index))
    }

    /// Takes entries whose predecessor matches; cuts only where a held entry differs.
    fn take_entries(&mut self, cx: &mut Cx<'_>, prev_index: Index, entries: Vec<Entry>) {
        if is_planted!(self.config, truncate_after_prev) && prev_index.next() > self.commit {
            self.cut(cx, prev_index.next());
        }
        for entry in entries {
            match self.log.term_at(entry.index) {
                Some(term) if term == entry.term => continue,
                Some(_) => self.cut(cx, entry.index),
                None => {}
            }
            self.persist_from(cx, entry.index);
            self.log.append(entry);
        }
    }

    /// Cuts the log from `from` on.
    fn cut(&mut self, cx: &mut Cx<'_>, from: Index) {
        assert!(from > self.commit, "F1: cut at {from}, commit index is {}", self.commit);
        if from > self.log.last_index() {
            return;
        }
        self.log.truncate(from);
        self.disk.on_cut(from);
        self.persist_from(cx, from);
    }

    /// Moves the commit index to what the leader says and the log holds.
    fn follow_commit(&mut self, commit: Index) {
        self.commit = self.commit.max(commit.min(self.log.last_index()));
    }

    /// Where the leader should try instead: the last place that may agree, never below what is committed.
    fn conflict_at(&self, prev_index: Index, prev_term: Term) -> Conflict {
        let hint_index = self.log.last_not_above(prev_index.prev(), prev_term).max(self.commit);
        let hint_term = self.log.term_at(hint_index).unwrap_or_default();
        Conflict { prev_index, hint_index, hint_term }
    }
}
