//! Leadership transfer: a leader hands leadership to a follower that has its whole log.
//!
//! The leader refuses new commands, waits until the target's match index is its own last index, and sends it
//! `TimeoutNow` to campaign at once. The target's vote requests carry `is_transfer`, so that voters which still hear
//! the outgoing leader do not refuse them (E2).
//!
//! Invariants: H1 the leadership transfer lives in the leader's role: stepping down ends it. H2 it ends after an
//! election timeout at the latest. H3 `TimeoutNow` is obeyed only in its own term and with exactly the log that it
//! names.
//! Not here: the campaign itself (`election.rs`).

use super::state::leadership::{Leadership, Transfer};
use super::state::progress::Mode;
use super::state::{Cx, Raft, State, refuse};
use super::{Answer, Body, Event, LossCause, Refusal, Token};
use crate::planted_bugs::is_planted;
use crate::types::{Identity, Index, NodeId};
use std::collections::BTreeSet;

/// Election timeouts between two tries of a leader with a nearly full disk to find one that has room.
const MAKE_WAY_TIMEOUTS: u64 = 75;

impl Raft {
    /// The host wants another leader (`None`: the best candidate).
    pub(crate) fn on_transfer(&mut self, cx: &mut Cx<'_>, token: Token, to: Option<NodeId>) {
        let State::Leader(lead) = &self.state else { return refuse(cx, token, Refusal::NotLeader) };
        if let Some(transfer) = &lead.transfer {
            let is_same = to.is_none_or(|to| to == transfer.to.id);
            let answer = match is_same {
                true => Answer::TransferStarted { to: transfer.to.id },
                false => Answer::Refused(Refusal::LeadershipTransfer),
            };
            return cx.fx.answers.push((token, answer));
        }
        let target = match to {
            Some(id) => self.candidates(lead).into_iter().find(|(who, _)| who.id == id).map(|(who, _)| who),
            None => self.best_target(lead),
        };
        match target {
            Some(who) => {
                cx.fx.answers.push((token, Answer::TransferStarted { to: who.id }));
                self.begin_transfer(cx, who);
            }
            None => refuse(cx, token, self.why_not(to)),
        }
    }

    /// Why this node cannot get the leadership (`None`: why no node can).
    fn why_not(&self, to: Option<NodeId>) -> Refusal {
        let membership = self.membership();
        match to {
            None => Refusal::NoOtherVoter,
            Some(id) if membership.learners.contains_key(&id) => Refusal::LearnerCannotLead(id),
            Some(id) if !membership.voters.contains_key(&id) => Refusal::NotAMember(id),
            Some(id) if self.leaving.contains(&id) => Refusal::Stops(id),
            Some(id) => Refusal::Silent(id),
        }
    }

    /// These nodes stop: if one of them was to take over, another may.
    pub(crate) fn on_leaving(&mut self, cx: &mut Cx<'_>, nodes: BTreeSet<NodeId>) {
        self.leaving = nodes;
        if let State::Leader(lead) = &self.state
            && let Some(transfer) = lead.transfer.as_ref().filter(|transfer| self.leaving.contains(&transfer.to.id))
        {
            self.abort_transfer_to(cx, transfer.to.id);
        }
    }

    /// The process of this peer is gone, or about to be: it will not take over.
    pub(crate) fn abort_transfer_to(&mut self, cx: &mut Cx<'_>, peer: NodeId) {
        let State::Leader(lead) = &mut self.state else { return };
        if lead.transfer.take_if(|transfer| transfer.to.id == peer).is_some() {
            cx.fx.events.push(Event::TransferAborted { to: peer });
        }
    }

    /// A person wants this node to lead.
    pub(crate) fn on_lead(&mut self, cx: &mut Cx<'_>) {
        match (&self.state, self.leader) {
            (State::Leader(_), _) => {}
            (_, Some(leader)) => self.envelope().send(cx, leader, Body::TransferMe),
            (_, None) => self.campaign(cx),
        }
    }

    /// A voter wants to lead.
    pub(crate) fn on_transfer_me(&mut self, cx: &mut Cx<'_>, from: Identity) {
        let State::Leader(lead) = &self.state else { return };
        if lead.transfer.is_none() && self.candidates(lead).iter().any(|(who, _)| *who == from) {
            self.begin_transfer(cx, from);
        }
    }

    /// The disk is nearly full, or no longer: a leader makes way, if anyone can take over.
    pub(crate) fn on_disk_low(&mut self, cx: &mut Cx<'_>, is_low: bool) {
        let was_low = std::mem::replace(&mut self.is_disk_low, is_low);
        let State::Leader(lead) = &self.state else { return };
        if is_low
            && !was_low
            && lead.transfer.is_none()
            && let Some(to) = self.best_target(lead)
        {
            self.begin_transfer(cx, to);
        }
    }

    /// The leader asks this node to campaign at once.
    pub(crate) fn on_timeout_now(&mut self, cx: &mut Cx<'_>, from: Identity, last_index: Index) {
        let is_from_leader = self.leader.is_none_or(|leader| leader == from);
        let is_same_log = last_index == self.log.last_index();
        let is_fit = is_from_leader && is_same_log || is_planted!(self.config, late_transfer_obeyed);
        if !is_fit || !self.can_campaign() || self.is_disk_low || !matches!(self.state, State::Follower) {
            return;
        }
        self.forget_leader(cx, LossCause::LeadershipTransfer);
        cx.fx.events.push(Event::Campaigning { term: self.hard.term.next() });
        self.campaign_for_real(cx, true);
    }

    /// Sends `TimeoutNow` as soon as the target holds the whole log.
    pub(crate) fn maybe_send_timeout_now(&mut self, cx: &mut Cx<'_>) {
        let (now, last_index, envelope) = (self.now, self.log.last_index(), self.envelope());
        let State::Leader(lead) = &mut self.state else { return };
        let Some(transfer) = &mut lead.transfer else { return };
        let has_all = lead.peers.get(&transfer.to.id).is_some_and(|progress| progress.match_index == last_index);
        if has_all && transfer.sent_at.is_none() {
            transfer.sent_at = Some(now);
            envelope.send(cx, transfer.to, Body::TimeoutNow { last_index });
        }
    }

    /// Sends a lost `TimeoutNow` again; gives up what takes too long.
    pub(crate) fn on_transfer_tick(&mut self, cx: &mut Cx<'_>) {
        let (now, heartbeat_ticks) = (self.now, self.config.heartbeat_ticks.0);
        let State::Leader(lead) = &mut self.state else { return };
        let Some(transfer) = &mut lead.transfer else { return };
        if now >= transfer.until && !is_planted!(self.config, transfer_never_cleared) {
            let to = transfer.to.id;
            lead.transfer = None;
            let pause = if self.is_disk_low { MAKE_WAY_TIMEOUTS } else { 10 };
            lead.no_preempt_before = now + pause * self.config.election_timeout_ticks.0;
            return cx.fx.events.push(Event::TransferAborted { to });
        }
        if transfer.sent_at.is_some_and(|at| now - at >= heartbeat_ticks) {
            transfer.sent_at = None;
        }
        self.maybe_send_timeout_now(cx);
    }

    /// With `preempt`, transfers leadership to a voter of higher id that has caught up.
    pub(crate) fn maybe_preempt(&mut self, cx: &mut Cx<'_>) {
        let State::Leader(lead) = &self.state else { return };
        let is_time = self.now >= lead.no_preempt_before && self.has_committed_own_term();
        if !self.config.preempt || !is_time || lead.transfer.is_some() {
            return;
        }
        let ready = self.candidates(lead).into_iter().filter(|(_, is_ready)| *is_ready);
        let highest = ready.map(|(who, _)| who).max_by_key(|who| who.id);
        if let Some(to) = highest.filter(|who| who.id > self.config.me.id) {
            self.begin_transfer(cx, to);
        }
    }

    /// A leader whose disk is nearly full periodically asks another voter to take over: a voter may have free space by
    /// now, or be reachable again. A voter without free space does not obey, so the target is chosen at random.
    pub(crate) fn maybe_make_way(&mut self, cx: &mut Cx<'_>) {
        let State::Leader(lead) = &self.state else { return };
        if !self.is_disk_low || self.now < lead.no_preempt_before || lead.transfer.is_some() {
            return;
        }
        let ready: Vec<_> = self.candidates(lead).into_iter().filter(|(_, is_ready)| *is_ready).collect();
        if !ready.is_empty() {
            let at = cx.rng.usize(0..ready.len());
            self.begin_transfer(cx, ready[at].0);
        }
        let State::Leader(lead) = &mut self.state else { return };
        lead.no_preempt_before = self.now + MAKE_WAY_TIMEOUTS * self.config.election_timeout_ticks.0;
    }

    /// A leader that is no longer a voter asks the best one to take over, so that no node waits for a timeout.
    pub(crate) fn pass_on(&mut self, cx: &mut Cx<'_>) {
        let State::Leader(lead) = &self.state else { return };
        let last_index = self.log.last_index();
        let has_all = |who: &Identity| lead.peers.get(&who.id).is_some_and(|p| p.match_index == last_index);
        if let Some(to) = self.best_target(lead).filter(has_all) {
            self.envelope().send(cx, to, Body::TimeoutNow { last_index });
        }
    }

    /// Live voters that could lead, do not stop and are no witnesses, and whether each has caught up.
    fn candidates(&self, lead: &Leadership) -> Vec<(Identity, bool)> {
        let voters = self.membership().voters.iter().map(|(id, uuid)| Identity { id: *id, uuid: *uuid });
        let live =
            voters.filter(|who| *who != self.config.me && self.is_active(lead, who) && !self.lost.contains(&who.id));
        let staying = live.filter(|who| !self.leaving.contains(&who.id) && !self.witnesses.contains(&who.id));
        staying
            .map(|who| {
                let progress = &lead.peers[&who.id];
                (who, progress.mode == Mode::Stream && progress.match_index >= self.commit)
            })
            .collect()
    }

    /// Of the live voters the highest id that has caught up, else the one that is least behind.
    fn best_target(&self, lead: &Leadership) -> Option<Identity> {
        let key = |(who, is_ready): &(Identity, bool)| {
            let behind = if *is_ready { Index(0) } else { lead.peers[&who.id].match_index };
            (*is_ready, behind, who.id)
        };
        self.candidates(lead).into_iter().max_by_key(key).map(|(who, _)| who)
    }

    /// Starts a leadership transfer.
    fn begin_transfer(&mut self, cx: &mut Cx<'_>, to: Identity) {
        // The rest of the log, the request to campaign, the campaign, and its end: three round trips.
        let until = self.now + self.answer_ticks() + self.round_trip_ticks();
        let State::Leader(lead) = &mut self.state else { return };
        lead.transfer = Some(Transfer { to, until, sent_at: None });
        cx.fx.events.push(Event::TransferStarted { to: to.id });
        self.maybe_send_timeout_now(cx);
    }
}
