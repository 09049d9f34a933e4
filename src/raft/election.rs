//! Elections: when to campaign, who gets a vote, and winning.
//!
//! A campaign has two phases. Pre-votes ask whether a vote would be given; they bind no node and raise no term, so a
//! node that cannot hear the leader does not disturb the others. Votes follow once a quorum would give them. Timers
//! order the candidacies: each live voter of higher id that is not the lost leader adds `rank_delay_ticks`, and a
//! random part keeps timers out of step. The order never becomes a veto: a candidate with a fresh log gets the vote.
//!
//! Invariants: E1 one vote per term, durable before it leaves. E2 a pre-vote or vote is refused while a leader was
//! heard within `silence_ticks` and its link is up (unless that leader asked for the campaign). E3 only voters campaign
//! (and those whose leaving is not known to be committed, and learners without which no node can win), and only with a
//! disk that makes progress; voters without services only after a candidate with an older log has asked. E4 only voters
//! of the newest membership count, each once.
//! Not here: what a leader does once elected (`raft/replication/leader.rs`), leadership transfer (`transfer.rs`), how
//! long a timeout is (`timeouts.rs`).

use super::state::campaign::{Campaign, Phase, RESEND_TICKS_MIN};
use super::state::membership::quorum;
use super::state::{Cx, Raft, State};
use super::{Body, Event, LossCause, Membership, Message, TERM_MAX};
use crate::planted_bugs::is_planted;
use crate::types::{Identity, Index, NodeId, Term, Ticks};

/// Campaigns that a node with a nearly full disk leaves out: some three election timeouts.
const LOW_DISK_PATIENCE: u64 = 4;
/// Campaigns that a voter that leads only to pass on leaves to the others: some four election timeouts.
const PASS_ON_PATIENCE: u64 = 4;
/// How long a pre-vote that was refused for the leader's sake is remembered.
const DEFERRED_TICKS_MAX: u64 = 8;

impl Raft {
    /// Campaign timers of followers and candidates.
    pub(crate) fn on_election_tick(&mut self, cx: &mut Cx<'_>) {
        let now = self.now;
        self.deferred.retain(|(at, _)| now - at <= DEFERRED_TICKS_MAX);
        self.resend_forwarded(cx);
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            if let Some(leader) = self.leader {
                self.silent_leader = self.heard_at.map(|at| (leader.id, self.hard.term, at));
                self.lost.insert(leader.id);
                self.forget_leader(cx, LossCause::Timeout);
            }
            self.attempts += 1;
            self.campaign(cx);
        } else if let State::Candidate(campaign) = &mut self.state
            && now >= campaign.resend_at
        {
            campaign.resend_gap = (campaign.resend_gap * 2).min(self.config.heartbeat_ticks.0.max(RESEND_TICKS_MIN));
            campaign.resend_at = now + campaign.resend_gap;
            self.ask_all(cx);
        }
    }

    /// The link to a peer broke and reconnecting was refused: if it led, it counts as gone at once.
    pub(crate) fn on_link_lost(&mut self, cx: &mut Cx<'_>, peer: NodeId) {
        self.lost.insert(peer);
        match &mut self.state {
            State::Leader(lead) => {
                if let Some(progress) = lead.peers.get_mut(&peer) {
                    progress.become_probe();
                    progress.is_probing = true;
                }
                return self.abort_transfer_to(cx, peer);
            }
            State::Follower | State::Candidate(_) => {}
        }
        let led = self.leader.is_some_and(|leader| leader.id == peer);
        let has_my_vote = self.leader.is_none() && self.voted_at.is_some() && self.vote_id() == Some(peer);
        if !led && !has_my_vote {
            return;
        }
        self.forget_leader(cx, LossCause::LinkLost);
        self.voted_at = None;
        self.campaign_soon(cx);
        for (_, message) in std::mem::take(&mut self.deferred) {
            if let Body::PreVote { last_index, last_term } = message.body {
                self.on_pre_vote(cx, message.from, message.term, last_index, last_term);
            }
        }
    }

    /// The link to a peer is up (again): it may have missed what was asked or sent.
    pub(crate) fn on_link_up(&mut self, cx: &mut Cx<'_>, peer: NodeId, round_trip: Ticks) {
        self.on_round_trip(peer, round_trip);
        self.lost.remove(&peer);
        match self.state {
            State::Leader(_) => self.on_leader_link_up(cx, peer),
            State::Candidate(_) => self.ask_one(cx, peer),
            State::Follower => {}
        }
    }

    /// The next campaign comes as soon as this node's rank allows; at once for the first in line.
    pub(crate) fn campaign_soon(&mut self, cx: &mut Cx<'_>) {
        if !self.can_campaign() || self.defers_to_others() {
            return;
        }
        // Chance grows with each failed attempt, regardless of the settings: two candidates in step would split the vote
        // every time.
        let mut delay = cx.rng.u64(0..=self.attempts.min(8));
        if self.config.highest_id_first {
            delay += self.rank() * self.rank_ticks();
        } else {
            delay += cx.rng.u64(0..=self.rank_ticks() * self.membership().voters.len() as u64);
        }
        if delay == 0 && matches!(self.state, State::Follower) {
            self.attempts += 1;
            self.campaign(cx);
        } else {
            self.deadline = Some(self.deadline.unwrap_or(u64::MAX).min(self.now + delay.max(1)));
        }
    }

    /// Asks for pre-votes, if this node may lead at all.
    pub(crate) fn campaign(&mut self, cx: &mut Cx<'_>) {
        self.draw_retry(cx);
        if !self.can_campaign() || self.defers_to_others() {
            self.state = State::Follower;
            return;
        }
        let was_asking = matches!(&self.state, State::Candidate(campaign) if campaign.phase == Phase::PreVote);
        if !was_asking {
            cx.fx.events.push(Event::Campaigning { term: self.hard.term.next() });
        }
        let mut campaign = Campaign::new(Phase::PreVote, self.now);
        campaign.granted.insert(self.config.me.id);
        self.state = State::Candidate(campaign);
        self.ask_all(cx);
        self.maybe_win(cx);
    }

    /// Asks for votes in a new term. The own vote counts once it is on disk.
    pub(crate) fn campaign_for_real(&mut self, cx: &mut Cx<'_>, is_transfer: bool) {
        self.hard.term = if is_planted!(self.config, terms_wrap) {
            Term(self.hard.term.0.wrapping_add(1))
        } else {
            self.hard.term.next()
        };
        self.hard.vote = Some(self.config.me);
        self.voted_at = None;
        self.leader = None;
        self.heard_at = None;
        self.draw_retry(cx);
        self.state = State::Candidate(Campaign::new(Phase::Vote { is_transfer }, self.now));
        self.ask_all(cx);
    }

    /// A pre-vote request for `term`: granting it promises nothing.
    pub(crate) fn on_pre_vote(&mut self, cx: &mut Cx<'_>, from: Identity, term: Term, index: Index, last_term: Term) {
        let envelope = self.envelope();
        if term <= self.hard.term {
            return envelope.send(cx, from, Body::PreVoteReply { is_granted: false });
        }
        if self.hears_live_leader() || self.is_waiting_for_another(&from) {
            self.deferred.retain(|(_, message)| message.from.id != from.id);
            let body = Body::PreVote { last_index: index, last_term };
            self.deferred.push((self.now, Message { from, to: self.config.me, term, body }));
            return envelope.send(cx, from, Body::PreVoteReply { is_granted: false });
        }
        if !self.would_vote_for(&from, index, last_term) {
            envelope.send(cx, from, Body::PreVoteReply { is_granted: false });
            self.stale_candidate_at = Some(self.now);
            return self.campaign_soon(cx);
        }
        envelope.send_at(cx, from, term, Body::PreVoteReply { is_granted: true });
    }

    /// An answer to our pre-vote; a refusal in a newer term has already been adopted.
    pub(crate) fn on_pre_vote_reply(&mut self, cx: &mut Cx<'_>, from: Identity, term: Term, is_granted: bool) {
        let asked = self.hard.term.next();
        if let State::Candidate(campaign) = &mut self.state
            && campaign.phase == Phase::PreVote
            && is_granted
            && term == asked
        {
            campaign.granted.insert(from.id);
            self.maybe_win(cx);
        }
    }

    /// A candidate requests the vote of this term.
    pub(crate) fn on_vote(&mut self, cx: &mut Cx<'_>, from: Identity, index: Index, last_term: Term) {
        let envelope = self.envelope();
        let is_free = self.hard.vote.is_none_or(|vote| vote == from) && self.leader.is_none();
        let is_follower = matches!(self.state, State::Follower);
        let is_fresh = self.would_vote_for(&from, index, last_term);
        if is_free && is_follower && is_fresh {
            self.hard.vote = Some(from);
            self.voted_at = Some(self.now);
            self.draw_deadline(cx, self.answer_ticks());
            envelope.send(cx, from, Body::VoteReply { is_granted: true });
        } else {
            envelope.send(cx, from, Body::VoteReply { is_granted: false });
            if !is_fresh && is_follower && self.leader.is_none() {
                self.stale_candidate_at = Some(self.now);
                self.campaign_soon(cx);
            }
        }
    }

    /// An answer to our request for a vote in this term.
    pub(crate) fn on_vote_reply(&mut self, cx: &mut Cx<'_>, from: Identity, is_granted: bool) {
        let voters = self.membership().voters.len();
        let State::Candidate(campaign) = &mut self.state else { return };
        if !matches!(campaign.phase, Phase::Vote { .. }) {
            return;
        }
        if is_granted {
            let is_new = campaign.granted.insert(from.id);
            if !is_new && is_planted!(self.config, count_duplicate_vote) {
                campaign.extra += 1;
            }
            return self.maybe_win(cx);
        }
        campaign.refused.insert(from.id);
        if campaign.refused.len() > voters - quorum(voters) {
            // Lost: a split vote, or fresher logs elsewhere. A node with a fresher log goes first.
            self.state = State::Follower;
            self.draw_retry(cx);
            self.campaign_soon(cx);
        }
    }

    /// Our own vote is on disk: it counts from now on.
    pub(crate) fn maybe_count_own_vote(&mut self, cx: &mut Cx<'_>) {
        if self.disk.is_hard_synced(&self.hard)
            && let State::Candidate(campaign) = &mut self.state
            && matches!(campaign.phase, Phase::Vote { .. })
            && campaign.granted.insert(self.config.me.id)
        {
            self.maybe_win(cx);
        }
    }

    /// Starts the next phase if a quorum said yes.
    fn maybe_win(&mut self, cx: &mut Cx<'_>) {
        let membership = self.membership();
        let State::Candidate(campaign) = &self.state else { return };
        let yes = campaign.granted.iter().filter(|id| membership.voters.contains_key(id)).count() + campaign.extra;
        if yes < quorum(membership.voters.len()) {
            return;
        }
        match campaign.phase {
            Phase::PreVote => self.campaign_for_real(cx, false),
            Phase::Vote { .. } => self.become_leader(cx),
        }
    }

    /// Puts the campaign's question to every voter that has not answered it.
    fn ask_all(&mut self, cx: &mut Cx<'_>) {
        let voters: Vec<NodeId> = self.membership().voters.keys().copied().collect();
        for id in voters {
            self.ask_one(cx, id);
        }
    }

    /// Puts the campaign's question to one voter, unless it has answered.
    fn ask_one(&mut self, cx: &mut Cx<'_>, id: NodeId) {
        let State::Candidate(campaign) = &self.state else { return };
        let Some(&uuid) = self.membership().voters.get(&id) else { return };
        if id == self.config.me.id || campaign.granted.contains(&id) || campaign.refused.contains(&id) {
            return;
        }
        let (last_index, last_term) = (self.log.last_index(), self.log.last_term());
        let (to, envelope) = (Identity { id, uuid }, self.envelope());
        match campaign.phase {
            Phase::PreVote => {
                envelope.send_at(cx, to, self.hard.term.next(), Body::PreVote { last_index, last_term });
            }
            Phase::Vote { is_transfer } => envelope.send(cx, to, Body::Vote { last_index, last_term, is_transfer }),
        }
    }

    /// Whether a live leader binds this node: it was heard within an election timeout and its link is up.
    pub(crate) fn hears_live_leader(&self) -> bool {
        if matches!(self.state, State::Leader(_)) {
            return true;
        }
        let is_recent = self.heard_at.is_some_and(|at| self.now - at < self.silence_ticks());
        is_recent && self.leader.is_some_and(|leader| !self.lost.contains(&leader.id))
    }

    /// Whether this node has just voted for another candidate than `from` and should see what becomes of it.
    fn is_waiting_for_another(&self, from: &Identity) -> bool {
        let grace = self.round_trip_ticks().max(self.config.election_timeout_ticks.0 / 4);
        self.leader.is_none()
            && self.voted_at.is_some_and(|at| self.now - at < grace)
            && self.hard.vote.is_some_and(|vote| vote != *from && !self.lost.contains(&vote.id))
    }

    /// Whether a candidate's log holds all that ours may have helped to commit.
    fn would_vote_for(&self, from: &Identity, last_index: Index, last_term: Term) -> bool {
        if is_planted!(self.config, priority_vetoes) && from.id < self.config.me.id {
            return false;
        }
        is_planted!(self.config, skip_log_freshness) || self.log.is_not_fresher_than(last_index, last_term)
    }

    /// Whether this node may campaign: a voter by its own membership, or one without which perhaps no node can win;
    /// with a disk that works.
    pub(crate) fn can_campaign(&self) -> bool {
        let has_next_term = self.hard.term < TERM_MAX || is_planted!(self.config, terms_wrap);
        if self.config.leads_only_to_pass_on && !self.is_needed_to_pass_on() {
            return false;
        }
        (self.is_voter() || self.is_leaving_voter() || self.is_needed_learner())
            && !self.is_disk_stalled()
            && has_next_term
    }

    /// Whether a voter without services must lead, until another voter has its entries: it has refused a candidate that
    /// lacks some, or no node has won for long and the candidates may not know that it votes, because they lack the
    /// entry that made it a voter (`phalanx sim replay 234 --plan witness`).
    fn is_needed_to_pass_on(&self) -> bool {
        let me = &self.config.me;
        let was_no_voter = |membership: &Membership| !membership.voters.is_empty() && !membership.is_voter(me);
        self.refused_older_log() || (self.attempts > PASS_ON_PATIENCE && self.log.memberships().any(was_no_voter))
    }

    /// Whether this node leaves the lead to others for now: its disk is nearly full. If no other node becomes leader in
    /// time, it leads all the same: reads, membership and leadership transfer need a leader, though it refuses
    /// commands.
    fn defers_to_others(&self) -> bool {
        self.is_disk_low && self.attempts <= LOW_DISK_PATIENCE
    }

    /// Whether this node was a voter until a membership that may not be committed yet. It may be the only one that
    /// holds that entry, and then no other node can win (thesis, 4.2.2 and figure 4.6). Its own vote does not count.
    fn is_leaving_voter(&self) -> bool {
        let before = self.log.membership_before();
        self.log.membership().0 > self.commit && before.is_some_and(|before| before.is_voter(&self.config.me))
    }

    /// Whether this node is a learner whose vote a candidate needs that may not get it: the candidate's log is older,
    /// but holds a promotion of this node that ours does not. If too few others vote, only this node can win. Its own
    /// vote does not count.
    fn is_needed_learner(&self) -> bool {
        self.membership().is_member(&self.config.me) && self.refused_older_log()
    }

    /// Whether a candidate with an older log has just asked for this node's vote.
    pub fn refused_older_log(&self) -> bool {
        self.stale_candidate_at.is_some_and(|at| self.now - at < self.answer_ticks())
    }

    /// Live voters of a higher id that are neither this node, nor a witness, which hardly ever campaigns, nor the leader
    /// (which is gone when this matters).
    fn rank(&self) -> u64 {
        if !self.config.highest_id_first {
            return 0;
        }
        let me = self.config.me.id;
        let leader = self.leader.map(|leader| leader.id);
        let higher = self.membership().voters.range(me..).map(|(id, _)| *id);
        let may_go_first =
            |id: &NodeId| *id != me && Some(*id) != leader && !self.lost.contains(id) && !self.witnesses.contains(id);
        higher.filter(may_go_first).count() as u64
    }

    /// Whose vote this node gave in this term.
    fn vote_id(&self) -> Option<NodeId> {
        self.hard.vote.map(|vote| vote.id)
    }

    /// Random part of a timer: small beside the rank's delay, larger after each failed campaign.
    fn jitter(&self, cx: &mut Cx<'_>) -> u64 {
        let timeout = self.answer_ticks();
        let span = if self.config.highest_id_first { self.rank_ticks().max(1) } else { self.silence_ticks() };
        cx.rng.u64(0..=span + self.attempts.min(8) * timeout / 8)
    }

    /// Timer after a word from the leader or a vote given away: `ticks` and more.
    pub(crate) fn draw_deadline(&mut self, cx: &mut Cx<'_>, ticks: u64) {
        let delay = ticks + self.rank() * self.rank_ticks();
        self.deadline = Some(self.now + delay + self.jitter(cx));
    }

    /// Timer after a campaign began: shorter at first, because there is no leader meanwhile.
    fn draw_retry(&mut self, cx: &mut Cx<'_>) {
        let least = (self.config.election_timeout_ticks.0 / 4).max(2).max(self.round_trip_ticks() * 3 / 2);
        let base = least << self.attempts.saturating_sub(1).min(2);
        let delay = base + self.rank() * self.rank_ticks();
        self.deadline = Some(self.now + delay + self.jitter(cx));
    }

    /// Timer of a node that has just started: the only voter of a cluster does not wait.
    pub(crate) fn draw_first_deadline(&mut self, cx: &mut Cx<'_>) {
        if self.is_voter() && self.membership().voters.len() == 1 {
            self.deadline = Some(self.now + 1);
        } else {
            self.draw_deadline(cx, self.silence_ticks());
        }
    }
}
