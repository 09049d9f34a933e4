//! What a node has promised, as remembered by the nodes that received the promise.
//!
//! A data folder that was replaced by an older copy of itself has forgotten votes and acknowledgements, so it must not
//! vote or acknowledge under its old identity. It cannot detect that itself; its peers can: term, vote and the
//! acknowledged index of a term only grow on a disk that keeps what it syncs, so a disk that falls short of what a peer
//! remembers is an older one. The comparison has no false alarms: within a term only that term's leader truncates a
//! log, and never below what the node acknowledged to it.
//!
//! Not here: how peers learn, spread and remember it (`node/`, `cluster/gossip.rs`), what an outdated node does
//! (`node/`).

use super::bounds::{INDEX_MAX, TERM_JUMP_MAX, TERM_MAX};
use super::{Raft, State};
use crate::raft::View;
use crate::types::{Identity, Index, Term};
use serde::{Deserialize, Serialize};

/// What is on the disk of a node and may have left it. The default promises nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    /// Newest term.
    pub term: Term,
    /// Whether it has voted in that term.
    pub has_voted: bool,
    /// In what others remember: acknowledged in that term up to here. In what a disk holds: the end of its log.
    pub index: Index,
    /// The leader of that term found the log to lack what it had acknowledged.
    pub is_broken: bool,
}

impl Promise {
    /// Whether a disk that holds this has lost some of what was `known` to be on it.
    pub fn falls_short_of(&self, known: &Promise) -> bool {
        known.term > self.term
            || (known.term == self.term
                && (known.is_broken || (known.has_voted && !self.has_voted) || known.index > self.index))
    }

    /// Whether an honest sequence of elections can have led from what a disk holds to this: as for terms in messages
    /// (`guard.rs`).
    pub fn is_possible_after(&self, kept: &Promise) -> bool {
        self.term <= TERM_MAX && self.term.0.saturating_sub(kept.term.0) <= TERM_JUMP_MAX && self.index <= INDEX_MAX
    }

    /// Remembers the more of both.
    pub fn merge(&mut self, other: &Promise) {
        if other.term > self.term {
            *self = *other;
        } else if other.term == self.term {
            self.has_voted |= other.has_voted;
            self.is_broken |= other.is_broken;
            self.index = self.index.max(other.index);
        }
    }
}

impl Raft {
    /// What this node has promised, for others to remember; `None` while term and vote are on their way to the disk.
    pub fn promised(&self) -> Option<Promise> {
        let (term, acknowledged) = self.acknowledged;
        let index = if matches!(self.state, State::Leader(_)) {
            self.disk.durable()
        } else if term == self.hard.term {
            acknowledged.min(self.disk.durable())
        } else {
            Index(0)
        };
        let (term, has_voted) = (self.hard.term, self.hard.vote.is_some());
        self.disk.is_hard_synced(&self.hard).then_some(Promise { term, has_voted, index, is_broken: false })
    }

    /// What this node still holds, to be compared with what others remember. Memory is never behind the disk, and what
    /// left was on the disk before.
    pub fn kept(&self) -> Promise {
        let (term, has_voted) = (self.hard.term, self.hard.vote.is_some());
        Promise { term, has_voted, index: self.log.last_index(), is_broken: false }
    }
}

impl View {
    /// What the leader of this term remembers of a member, first hand; nothing, elsewhere.
    pub fn remembered(&self, who: &Identity) -> Promise {
        let peer = self.peers.iter().find(|peer| peer.who == *who && peer.match_index > Index(0));
        peer.map_or_else(Promise::default, |peer| Promise {
            term: self.term,
            has_voted: false,
            index: peer.match_index,
            is_broken: peer.has_forgotten,
        })
    }
}

/// What a disk holds on which nothing runs yet.
impl From<&crate::raft::Durable> for Promise {
    fn from(durable: &crate::raft::Durable) -> Promise {
        let snapshot = durable.snapshot.as_ref().map(|meta| meta.index);
        let index = durable.entries.last().map(|entry| entry.index).or(snapshot).unwrap_or_default();
        let crate::raft::HardState { term, vote } = durable.hard_state;
        Promise { term, has_voted: vote.is_some(), index, is_broken: false }
    }
}

#[cfg(test)]
mod tests {
    use crate::raft::state::promise::*;

    fn promise(term: u64, has_voted: bool, index: u64) -> Promise {
        Promise { term: Term(term), has_voted, index: Index(index), is_broken: false }
    }

    #[test]
    fn a_disk_falls_short_of_a_newer_term_a_vote_and_a_longer_log_of_the_same_term() {
        let kept = promise(5, true, 100);
        for known in [promise(0, false, 0), promise(5, true, 100), promise(5, false, 7), promise(4, true, 900)] {
            assert!(!kept.falls_short_of(&known), "{known:?}");
        }
        for known in [promise(6, false, 0), promise(5, true, 101), Promise { is_broken: true, ..promise(5, true, 3) }] {
            assert!(kept.falls_short_of(&known), "{known:?}");
        }
        assert!(promise(5, false, 100).falls_short_of(&promise(5, true, 100)), "a vote was forgotten");
    }

    #[test]
    fn impossible_promises_differ_from_forgotten_ones() {
        let kept = promise(5, true, 100);
        for known in [promise(0, false, 0), promise(5 + (1 << 32), true, 900), promise(6, true, 1 << 62)] {
            assert!(known.is_possible_after(&kept), "{known:?}");
        }
        for known in [promise(6 + (1 << 32), true, 0), promise(u64::MAX, true, 0), promise(5, true, (1 << 62) + 1)] {
            assert!(!known.is_possible_after(&kept), "{known:?}");
        }
    }

    #[test]
    fn the_more_of_two_memories_is_kept() {
        let mut known = promise(5, false, 100);
        known.merge(&promise(5, true, 40));
        assert_eq!(known, promise(5, true, 100));
        known.merge(&promise(4, true, 900));
        assert_eq!(known, promise(5, true, 100));
        known.merge(&promise(6, false, 10));
        assert_eq!(known, promise(6, false, 10));
    }
}
