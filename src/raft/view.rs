//! Looks at the core from outside: status, entries to apply, and the invariants.
//!
//! Not here: anything that changes state.

use super::state::{Raft, State};
use super::{Entry, PeerView, View};
use crate::types::{Index, NodeId, Term, Ticks};

impl Raft {
    /// A copy of the state, for other threads and for tests.
    pub fn view(&self) -> View {
        let (transfer_to, peers) = match &self.state {
            State::Leader(lead) => {
                let timeout = self.answer_ticks();
                let row = |progress: &super::state::progress::Progress| PeerView {
                    who: progress.who,
                    match_index: progress.match_index,
                    silent_ticks: Ticks(self.now - progress.heard_at),
                    is_active: !progress.has_forgotten && progress.is_active(self.now, timeout),
                    has_forgotten: progress.has_forgotten,
                };
                let members = lead.peers.values().filter(|progress| progress.leaving.is_none());
                (lead.transfer.as_ref().map(|transfer| transfer.to.id), members.map(row).collect())
            }
            _ => (None, Vec::new()),
        };
        View {
            role: self.role(),
            term: self.hard.term,
            leader: self.leader(),
            last_index: self.log.last_index(),
            commit_index: self.commit,
            durable_index: self.disk.durable(),
            log_bytes: self.log.bytes() as u64,
            snapshot_index: self.log.snapshot_index(),
            membership: self.log.membership().1.clone(),
            promised: self.promised(),
            has_quorum: self.has_quorum(),
            has_committed_own_term: self.has_committed_own_term(),
            silence_timeout: Ticks(self.silence_ticks()),
            transfer_to,
            peers,
        }
    }

    /// Ticks until a timer of this node may ring, if nothing else happens: the next heartbeat of a leader, the next
    /// campaign of anyone else. Never 0.
    pub fn ticks_to_timer(&self) -> Ticks {
        let at = match &self.state {
            State::Leader(lead) => Some(lead.heartbeat_at),
            State::Follower | State::Candidate(_) => self.deadline,
        };
        Ticks(at.map_or(1, |at| at.saturating_sub(self.now)).max(1))
    }

    /// Entries `from..=to` that the log still holds.
    pub fn entries(&self, from: Index, to: Index) -> &[Entry] {
        self.log.slice(from, to)
    }

    pub fn term(&self) -> Term {
        self.hard.term
    }

    /// Leader of this term, if known.
    pub fn leader(&self) -> Option<NodeId> {
        self.leader.map(|leader| leader.id)
    }

    pub fn commit_index(&self) -> Index {
        self.commit
    }

    /// Index of the last entry, synced or not.
    pub fn last_index(&self) -> Index {
        self.log.last_index()
    }

    /// The own log is on disk up to here.
    pub fn durable_index(&self) -> Index {
        self.disk.durable()
    }

    /// Asserts this node's invariants.
    pub fn check(&self) {
        self.log.check();
        let last_index = self.log.last_index();
        self.disk.check(last_index);
        let (base, commit, term) = (self.log.base(), self.commit, self.hard.term);
        assert!(self.log.snapshot_index() <= commit, "S1: snapshot {} > {commit}", self.log.snapshot_index());
        assert!(base <= commit && commit <= last_index, "commit index {commit} outside {base}..={last_index}");
        assert!(self.log.last_term() <= term, "C4: last entry of term {}, current {term}", self.log.last_term());
        let State::Leader(lead) = &self.state else { return };
        assert!(self.leader == Some(self.config.me), "C2: leader of term {term} follows {:?}", self.leader);
        for progress in lead.peers.values() {
            progress.check();
            assert!(
                progress.match_index <= last_index,
                "P2: match {} of {} beyond the leader's last index {last_index}",
                progress.match_index,
                progress.who.id
            );
        }
        for who in self.membership().members().filter(|who| *who != self.config.me) {
            assert!(lead.peers.contains_key(&who.id), "R1: the leader of term {term} does not feed {}", who.id);
        }
        let uncommitted =
            self.log.slice(commit.next(), last_index).iter().map(super::state::log::entry_bytes).sum::<usize>();
        assert!(
            uncommitted == lead.uncommitted_bytes,
            "R4: {uncommitted} bytes uncommitted, counted {}",
            lead.uncommitted_bytes
        );
    }
}

/// Views that tests of other modules need.
#[cfg(test)]
mod samples {
    use super::{Index, NodeId, PeerView, Term, Ticks, View};
    use crate::raft::{Membership, Role};
    use crate::types::Identity;
    use std::sync::Arc;

    impl View {
        /// View of a leader with a log that ends at `end` and is all committed: for tests of code that reads views.
        pub fn of_leader(leader: NodeId, end: Index, membership: Membership, peers: Vec<PeerView>) -> View {
            View {
                role: Role::Leader,
                term: Term(1),
                leader: Some(leader),
                last_index: end,
                commit_index: end,
                durable_index: end,
                log_bytes: 0,
                snapshot_index: Index(0),
                membership: Arc::new(membership),
                promised: None,
                has_quorum: true,
                has_committed_own_term: true,
                silence_timeout: Ticks(0),
                transfer_to: None,
                peers,
            }
        }
    }

    impl PeerView {
        /// A member that holds the log up to `end` and answers.
        pub fn level(who: Identity, end: Index) -> PeerView {
            PeerView { who, match_index: end, silent_ticks: Ticks(0), is_active: true, has_forgotten: false }
        }
    }
}
