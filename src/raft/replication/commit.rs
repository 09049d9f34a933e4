//! The commit rule: an entry is committed once a quorum has it on disk, if it is of the leader's own term.
//!
//! Entries of earlier terms are committed only by what follows them: a copy on a quorum does not keep an old entry from
//! being replaced by a leader that never saw it (figure 8 of the Raft paper).
//!
//! Invariants: M1 the own copy counts only as far as it is synced. M2 learners and leavers never count.
//! Not here: how copies come about (`leader.rs`, `follower.rs`).

use crate::planted_bugs::is_planted;
use crate::raft::StepDownCause;
use crate::raft::state::log::entry_bytes;
use crate::raft::state::membership::quorum;
use crate::raft::state::{Cx, Raft, State};
use crate::types::{Identity, Index};

impl Raft {
    /// Moves the commit index to the highest entry of this term that a quorum has on disk, if any is new.
    pub(crate) fn maybe_commit(&mut self, cx: &mut Cx<'_>) {
        let State::Leader(lead) = &self.state else { return };
        let membership = self.membership();
        let copies_of = |who: Identity| {
            if who == self.config.me {
                return self.disk.durable();
            }
            let progress = lead.peers.get(&who.id);
            let is_it = |p: &&crate::raft::state::progress::Progress| {
                (p.who == who || is_planted!(self.config, count_earlier_session)) && !p.has_forgotten
            };
            progress.filter(is_it).map_or(Index(0), |progress| progress.match_index)
        };
        let mut copies: Vec<Index> =
            membership.voters.iter().map(|(id, uuid)| copies_of(Identity { id: *id, uuid: *uuid })).collect();
        let quorum = quorum(copies.len());
        if is_planted!(self.config, count_learner) {
            copies.extend(membership.learners.iter().map(|(id, uuid)| copies_of(Identity { id: *id, uuid: *uuid })));
        }
        copies.sort_unstable_by(|a, b| b.cmp(a));
        let Some(&on_quorum) = copies.get(quorum - 1) else { return };
        let is_own_term = self.log.term_at(on_quorum) == Some(self.hard.term);
        if on_quorum > self.commit && (is_own_term || is_planted!(self.config, commit_old_term)) {
            self.advance_commit(cx, on_quorum);
        }
    }

    /// Whether an entry of the leader's own term is committed: only then does it know what is.
    pub(crate) fn has_committed_own_term(&self) -> bool {
        matches!(&self.state, State::Leader(lead) if self.commit >= lead.first_index)
    }

    /// Moves the leader's commit index, and continues what waited for that.
    fn advance_commit(&mut self, cx: &mut Cx<'_>, to: Index) {
        let newly = self.log.slice(self.commit.next(), to);
        let bytes: usize = newly.iter().map(entry_bytes).sum();
        self.commit = to;
        let State::Leader(lead) = &mut self.state else { return };
        lead.uncommitted_bytes = lead.uncommitted_bytes.saturating_sub(bytes);
        // Followers without a message under way would otherwise learn of it only with the next heartbeat.
        self.feed_all(cx);
        self.maybe_start_round(cx);
        // A leader that is not a voter was needed only for this commit.
        if !self.is_voter() && self.has_committed_own_term() && self.log.membership().0 <= self.commit {
            self.pass_on(cx);
            self.become_follower(cx, self.hard.term, StepDownCause::NotAVoter);
        }
    }
}
