//! What a leader knows of one follower, and how much it may send.
//!
//! *Probe* looks for the common point with one append at a time; *stream* sends ahead, bounded by bytes in flight;
//! *snapshot* waits until the host has streamed a snapshot to a follower that needs compacted entries.
//!
//! Invariants: P1 `match_index < next_index`. P2 only an answer of this identity, in this leader's term and in the
//! current session, moves `match_index`, and never back. P3 bytes in flight are those of `inflight`.
//! Not here: choosing what to send (`raft/replication/leader.rs`), counting copies (`raft/replication/commit.rs`).

use super::log::Log;
use crate::raft::Conflict;
use crate::types::{Identity, Index};
use std::collections::VecDeque;

/// How a follower is fed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Looking for the common point.
    Probe,
    /// Entries are sent before earlier ones are acknowledged.
    Stream,
    /// A snapshot is under way on its own connection.
    Snapshot,
}

/// One follower as its leader sees it.
pub(crate) struct Progress {
    /// The only identity with answers that count.
    pub(crate) who: Identity,
    /// Echoed by answers; an answer to an earlier session is dropped.
    pub(crate) session: u64,
    /// Known equal and durable up to here.
    pub(crate) match_index: Index,
    /// `match_index` when the session began: a refusal in this session of anything up to there was sent after the
    /// follower had acknowledged it.
    proven_index: Index,
    /// Its log lacks what it acknowledged: it counts as a copy of nothing and is not fed.
    pub(crate) has_forgotten: bool,
    pub(crate) next_index: Index,
    pub(crate) mode: Mode,
    /// Probe: whether one is unanswered.
    pub(crate) is_probing: bool,
    /// Stream: last index and bytes of each unanswered append.
    inflight: VecDeque<(Index, usize)>,
    inflight_bytes: usize,
    /// Stream: tick at which the oldest append in flight last moved.
    moved_at: u64,
    /// No new snapshot is begun before this tick: the last one may still be settling in.
    pub(crate) no_snapshot_before: u64,
    /// Tick of the last answer of any kind.
    pub(crate) heard_at: u64,
    /// Newest commit index that was sent to it, of entries that it is known to hold.
    pub(crate) told_commit: Index,
    /// Newest heartbeat round that it answered.
    pub(crate) round: u64,
    /// No longer a member since this index: fed only until it has learnt so, or until this tick.
    pub(crate) leaving: Option<(Index, u64)>,
}

impl Progress {
    /// A follower of which nothing is known yet.
    pub(crate) fn new(who: Identity, session: u64, next_index: Index, now: u64) -> Progress {
        Progress {
            who,
            session,
            match_index: Index(0),
            proven_index: Index(0),
            has_forgotten: false,
            next_index,
            mode: Mode::Probe,
            is_probing: false,
            inflight: VecDeque::new(),
            inflight_bytes: 0,
            moved_at: now,
            no_snapshot_before: 0,
            heard_at: now,
            told_commit: Index(0),
            round: 0,
            leaving: None,
        }
    }

    /// Starts to look for the common point again, just after what is known to match.
    pub(crate) fn become_probe(&mut self) {
        self.mode = Mode::Probe;
        self.is_probing = false;
        self.next_index = self.match_index.next();
        self.inflight.clear();
        self.inflight_bytes = 0;
    }

    /// A new connection: answers to what went over the old one no longer count.
    pub(crate) fn on_link_up(&mut self, session: u64) {
        self.begin_session(session);
        let next_index = self.next_index;
        let was_probe = self.mode == Mode::Probe;
        self.become_probe();
        if was_probe && next_index > self.next_index {
            self.next_index = next_index;
        }
    }

    /// Whether an append may leave now, given the end of the leader's log.
    pub(crate) fn can_send(&self, last_index: Index, inflight_bytes_max: usize) -> bool {
        match self.mode {
            _ if self.has_forgotten => false,
            Mode::Probe => !self.is_probing,
            Mode::Stream => self.next_index <= last_index && self.inflight_bytes < inflight_bytes_max,
            Mode::Snapshot => false,
        }
    }

    /// From here on only answers to what is sent from here on count.
    pub(crate) fn begin_session(&mut self, session: u64) {
        self.session = session;
        self.proven_index = self.match_index;
    }

    /// An append with entries up to `last` left.
    pub(crate) fn on_sent(&mut self, last: Index, bytes: usize, now: u64) {
        match self.mode {
            Mode::Probe => self.is_probing = true,
            Mode::Stream => {
                if self.inflight.is_empty() {
                    self.moved_at = now;
                }
                self.inflight.push_back((last, bytes));
                self.inflight_bytes += bytes;
                self.next_index = last.next();
            }
            Mode::Snapshot => unreachable!("nothing is appended while a snapshot is under way"),
        }
    }

    /// The follower holds everything up to `matched`, durably. Returns whether that is news.
    pub(crate) fn on_matched(&mut self, matched: Index, now: u64) -> bool {
        let is_news = matched > self.match_index;
        if is_news {
            self.match_index = matched;
            self.moved_at = now;
        }
        self.next_index = self.next_index.max(self.match_index.next());
        while self.inflight.front().is_some_and(|(last, _)| *last <= self.match_index) {
            self.inflight_bytes -= self.inflight.pop_front().map_or(0, |(_, bytes)| bytes);
        }
        if self.mode == Mode::Probe {
            self.become_probe();
            self.mode = Mode::Stream;
        }
        is_news
    }

    /// The follower does not hold the entry before an append. Returns whether that changed anything.
    pub(crate) fn on_conflict(&mut self, conflict: Conflict, log: &Log) -> bool {
        let is_current = match self.mode {
            Mode::Probe => conflict.prev_index == self.next_index.prev() && conflict.prev_index > self.match_index,
            Mode::Stream => conflict.prev_index > self.match_index,
            Mode::Snapshot => false,
        };
        if !is_current {
            return false;
        }
        let agree = log.last_not_above(conflict.hint_index, conflict.hint_term).min(conflict.prev_index.prev());
        self.become_probe();
        self.next_index = agree.max(self.match_index).next();
        true
    }

    /// Whether the follower has acknowledged what it now refuses.
    pub(crate) fn has_acknowledged(&self, index: Index) -> bool {
        index > Index(0) && index <= self.match_index && self.mode != Mode::Snapshot
    }

    /// Whether this refusal of the current session proves that the follower lost what it had acknowledged.
    pub(crate) fn is_broken_by(&self, conflict: Conflict) -> bool {
        conflict.prev_index <= self.proven_index
    }

    /// The follower lost what it had acknowledged: it must come back under another identity.
    pub(crate) fn forget(&mut self) {
        self.become_probe();
        self.has_forgotten = true;
    }

    /// Whether appends in flight have not moved for this long: they are lost.
    pub(crate) fn is_stuck(&self, now: u64, ticks: u64) -> bool {
        self.mode == Mode::Stream && !self.inflight.is_empty() && now - self.moved_at >= ticks
    }

    /// Whether it holds committed entries without knowing it, and no message is under way that would say so.
    pub(crate) fn lacks_commit(&self, commit: Index) -> bool {
        self.mode == Mode::Stream && self.inflight.is_empty() && self.told_commit < commit.min(self.match_index)
    }

    /// Whether a peer that left the membership knows it, or cannot be reached.
    pub(crate) fn has_left(&self, now: u64) -> bool {
        self.leaving.is_some_and(|(since, until)| self.told_commit >= since || now >= until)
    }

    /// Whether it is known to hold the log up to `last_index`.
    pub(crate) fn is_level(&self, last_index: Index) -> bool {
        self.mode == Mode::Stream && self.match_index == last_index
    }

    /// Whether it answered within the last `ticks`.
    pub(crate) fn is_active(&self, now: u64, ticks: u64) -> bool {
        now - self.heard_at < ticks
    }

    /// Asserts the invariants of this file.
    pub(crate) fn check(&self) {
        assert!(
            self.match_index < self.next_index,
            "P1: match {} >= next {} of {}",
            self.match_index,
            self.next_index,
            self.who.id
        );
        let bytes: usize = self.inflight.iter().map(|(_, bytes)| bytes).sum();
        assert!(bytes == self.inflight_bytes, "P3: {bytes} bytes in flight, counted {}", self.inflight_bytes);
    }
}
