//! Membership: one change at a time, in force as soon as it is in the log.
//!
//! Two memberships that differ by one voter have no disjoint quorums, so no joint phase is needed, provided that a
//! change starts only when the one before it, and an entry of the leader's own term, are committed. A new node is a
//! learner until it has caught up. A change that would leave the live voters without a majority is refused.
//!
//! Invariants: G1 the membership in force is the newest in the log, else the snapshot's. G2 at most one change is
//! uncommitted. G3 there is always a voter. G4 an id belongs to one identity at a time.
//! Not here: who should be a voter (`cluster/autopilot.rs`).

use super::state::membership::quorum;
use super::state::progress::{Mode, Progress};
use super::state::{Cx, Raft, State, refuse};
use super::{Answer, Change, Membership, Payload, Refusal, Token};
use crate::planted_bugs::is_planted;
use crate::types::{Identity, NodeId};
use std::sync::Arc;

impl Raft {
    /// The host wants another membership.
    pub(crate) fn on_change(&mut self, cx: &mut Cx<'_>, token: Token, change: Change) {
        let next = match self.changed(change) {
            Ok(next) => next,
            Err(why) => return refuse(cx, token, why),
        };
        let index = self.append_own(cx, Payload::Membership(Arc::new(next)));
        self.reconcile_peers();
        cx.fx.answers.push((token, Answer::Appended { index, term: self.hard.term }));
        self.feed_all(cx);
        self.maybe_commit(cx);
        // The node that is missing for a quorum may just have left: it will not answer.
        self.maybe_confirm_reads(cx);
    }

    /// The membership after `change`, or why it is refused.
    fn changed(&self, change: Change) -> Result<Membership, Refusal> {
        let State::Leader(lead) = &self.state else { return Err(Refusal::NotLeader) };
        if lead.transfer.is_some() || self.config.leads_only_to_pass_on {
            return Err(Refusal::LeadershipTransfer);
        }
        if !self.has_committed_own_term() && !is_planted!(self.config, change_before_own_commit) {
            return Err(Refusal::TermNotCommitted);
        }
        let (since, current) = self.log.membership();
        if since > self.commit && !is_planted!(self.config, two_changes) {
            return Err(Refusal::ChangeInFlight);
        }
        let mut next = (**current).clone();
        match change {
            Change::AddLearner(who) => {
                match next.uuid_of(who.id) {
                    Some(uuid) if uuid == who.uuid => return Err(Refusal::MemberAlready(who.id)),
                    Some(uuid) => return Err(Refusal::NumberTaken(Identity { id: who.id, uuid })),
                    None => {}
                }
                next.learners.insert(who.id, who.uuid);
            }
            Change::Promote(id) => {
                let uuid = next.learners.remove(&id).ok_or_else(|| inapplicable(current, id))?;
                if !self.answers(&Identity { id, uuid }) {
                    return Err(Refusal::Silent(id));
                }
                if !self.has_caught_up(&Identity { id, uuid }) {
                    return Err(Refusal::NotCaughtUp);
                }
                next.voters.insert(id, uuid);
            }
            Change::Demote(id) => {
                let uuid = next.voters.remove(&id).ok_or_else(|| inapplicable(current, id))?;
                next.learners.insert(id, uuid);
            }
            Change::Remove(id) => {
                let was_learner = next.learners.remove(&id).is_some();
                if !was_learner && next.voters.remove(&id).is_none() {
                    return Err(inapplicable(current, id));
                }
            }
        }
        if next.voters != current.voters {
            self.check_live_majority(&next)?;
        }
        Ok(next)
    }

    /// Refuses a membership in which the voters that answer now are fewer than a quorum.
    fn check_live_majority(&self, next: &Membership) -> Result<(), Refusal> {
        let State::Leader(lead) = &self.state else { return Err(Refusal::NotLeader) };
        if next.voters.is_empty() {
            return Err(Refusal::OnlyVoter(self.config.me.id));
        }
        let live = next.voters.iter().filter(|(id, uuid)| {
            let who = Identity { id: **id, uuid: **uuid };
            who == self.config.me || (self.is_active(lead, &who) && !self.lost.contains(id))
        });
        let (voters, live, needed) = (next.voters.len(), live.count(), quorum(next.voters.len()));
        if live >= needed {
            return Ok(());
        }
        Err(Refusal::Unsafe { voters: voters as u64, live: live as u64, needed: needed as u64 })
    }

    /// Whether a member answers this leader.
    fn answers(&self, who: &Identity) -> bool {
        matches!(&self.state, State::Leader(lead) if self.is_active(lead, who) && !self.lost.contains(&who.id))
    }

    /// Whether a learner holds what was committed a heartbeat ago, and answers.
    fn has_caught_up(&self, who: &Identity) -> bool {
        let State::Leader(lead) = &self.state else { return false };
        let is_near = |progress: &Progress| {
            progress.mode == Mode::Stream && progress.match_index >= lead.commit_marks.1.max(lead.first_index)
        };
        self.is_active(lead, who) && lead.peers.get(&who.id).is_some_and(is_near)
    }

    /// Makes the leader's peers those of the newest membership. One that left is fed until it has learnt so.
    pub(crate) fn reconcile_peers(&mut self) {
        let (now, next_index) = (self.now, self.log.last_index().next());
        let (since, membership) = self.log.membership();
        let me = self.config.me;
        let until = now + 4 * self.answer_ticks();
        let State::Leader(lead) = &mut self.state else { return };
        for (id, progress) in &mut lead.peers {
            if membership.uuid_of(*id) == Some(progress.who.uuid) {
                progress.leaving = None;
            } else if progress.leaving.is_none() {
                progress.leaving = Some((since, until));
            }
        }
        for who in membership.members().filter(|who| *who != me) {
            if lead.peers.get(&who.id).is_none_or(|progress| progress.who != who) {
                let session = lead.next_session();
                let progress = Progress::new(who, session, next_index, now);
                let is_earlier_kept = is_planted!(self.config, count_earlier_session);
                let earlier = lead.peers.insert(who.id, progress);
                if let (true, Some(earlier), Some(progress)) = (is_earlier_kept, earlier, lead.peers.get_mut(&who.id)) {
                    progress.match_index = earlier.match_index;
                    progress.next_index = progress.next_index.max(earlier.match_index.next());
                }
            }
        }
    }
}

/// Why a change of this node's standing does not apply.
fn inapplicable(current: &Membership, id: NodeId) -> Refusal {
    if current.voters.contains_key(&id) {
        Refusal::VoterAlready(id)
    } else if current.learners.contains_key(&id) {
        Refusal::LearnerAlready(id)
    } else {
        Refusal::NotAMember(id)
    }
}
