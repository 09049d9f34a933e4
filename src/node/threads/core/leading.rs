//! What only a leader does beside replication: membership changes by the autopilot and for nodes that stop, jobs of lost
//! workers, and reminders to peers that have lost what they acknowledged. A witness that leads does none of it.
//!
//! Not here: the rules (`cluster/autopilot.rs`, `cluster/worker_liveness.rs`).

use super::state::Core;
use crate::cluster::autopilot;
use crate::cluster::witness;
use crate::cluster::worker_liveness::Patience;
use crate::node::views::events::Author;
use crate::raft::{Change, Input, Role, Token};
use crate::services::Replicated;
use crate::services::jobs;
use crate::services::jobs::JobTable;
use crate::settings::to_ticks;
use crate::types::{Identity, NodeId, NodeKind};
use crate::wire::Frame;
use log::info;

/// A worker that was declared lost and is still registered is declared lost again after this time.
const DECLARE_AGAIN_MS: u64 = 1000;

impl Core {
    pub(super) fn consult_autopilot(&mut self) {
        if self.raft.role() != Role::Leader || self.autopilot_token.is_some() || self.leads_only_to_pass_on() {
            return;
        }
        // A gateway or witness is registered before it becomes a learner: a node that has applied so much knows all.
        if self.shared.applied() < self.membership_index {
            return;
        }
        let view = self.raft.view();
        let now_ms = self.shared.uptime_ms();
        let mut unfit = self.shared.directory().gateways.clone();
        unfit.extend(self.departures.leaving(now_ms));
        // A learner that has just gone answered a moment ago: raft would refuse it.
        unfit.extend(self.links.values().filter(|link| !link.is_up()).map(|link| link.who.id));
        let hosted = self.shared.hosted.all().iter().map(|who| who.id).collect();
        let witnesses = self.shared.witness_cuts();
        let rules = autopilot::Rules { unfit, hosted, witnesses, ..autopilot::Rules::from(&self.shared.settings) };
        let is_allowed = |change: &Change| witness::is_allowed(&view, &rules.witnesses, change);
        let overdue = || self.shared.overdue_silent_learner(&view).map(Change::Remove);
        let departed = self.departures.decide(&view, now_ms).filter(is_allowed);
        let decision = departed.or_else(|| autopilot::decide(&view, &rules)).or_else(overdue);
        if decision.is_none() {
            self.autopilot_logged = None;
        }
        if let Some(change) = decision {
            self.next_token += 1;
            let token = Token(self.next_token);
            self.autopilot_token = Some(token);
            // The promotion of a learner that is not up to date is proposed again and again, and logged once.
            if self.autopilot_logged.as_ref() != Some(&change) {
                info!("autopilot {}", describe_change(&change));
                self.autopilot_logged = Some(change.clone());
            }
            self.step(Input::Change { token, change });
            self.autopilot_token = None;
        }
    }

    /// Whether this node is a witness.
    pub(super) fn leads_only_to_pass_on(&self) -> bool {
        self.shared.kind == NodeKind::Witness
    }

    /// A witness that leads gives the leadership to the full voter that can have its log.
    pub(super) fn pass_leadership_on(&mut self) {
        if self.raft.role() == Role::Leader && self.leads_only_to_pass_on() {
            self.next_token += 1;
            self.step(Input::Transfer { token: Token(self.next_token), to: None });
        }
    }

    /// Tells raft which members are witnesses.
    pub(super) fn update_witnesses(&mut self) {
        let witnesses = witness::members(self.raft.membership(), &self.shared.directory());
        if witnesses != self.witnesses {
            self.witnesses = witnesses.clone();
            self.step(Input::Witnesses(witnesses));
        }
    }

    /// A node stops, perhaps this one. Where this node leads now or later, that one becomes a learner.
    pub(super) fn on_goodbye(&mut self, who: Identity) {
        let now_ms = self.shared.uptime_ms();
        let is_news = !self.departures.leaving(now_ms).contains(&who.id);
        self.departures.on_goodbye(who, now_ms);
        if is_news && who != self.shared.me {
            info!("node {} stops", who.id.0);
        }
        self.update_leaving();
    }

    /// A node has connected.
    pub(super) fn on_return(&mut self, id: NodeId) {
        self.departures.on_return(id);
        self.update_leaving();
    }

    /// Tells raft and the other threads which nodes stop, if that has changed.
    pub(super) fn update_leaving(&mut self) {
        let leaving = self.departures.leaving(self.shared.uptime_ms());
        if leaving != self.shared.view().leaving {
            self.step(Input::Leaving(leaving));
            self.publish();
        }
    }

    /// On the leader: reminds peers that have lost what they acknowledged, until they return under a new identity.
    pub(super) fn remind_peers_of_lost_promises(&self) {
        if self.raft.role() != Role::Leader {
            return;
        }
        let view = self.raft.view();
        for peer in view.peers.iter().filter(|peer| peer.has_forgotten) {
            if let Some(link) = self.links.get(&peer.who.id) {
                link.send(&Frame::Remembered(view.remembered(&peer.who)));
            }
        }
    }

    /// On the leader: declares workers lost that are gone, so that their jobs are restarted on others.
    pub(super) fn declare_lost_workers(&mut self) {
        if self.leads_only_to_pass_on() {
            return;
        }
        let fail_after = to_ticks(self.shared.settings.fail_after_ms);
        let patience = Patience { silent_max: fail_after, still_max: fail_after, again: to_ticks(DECLARE_AGAIN_MS) };
        let now = to_ticks(self.shared.uptime_ms());
        let jobs = self.shared.jobs();
        for worker in self.worker_liveness.due(&self.raft.view(), now, patience, &jobs.here) {
            let row = jobs.status.workers.iter().find(|row| row.id == worker.id);
            if let Some(row) = row.filter(|row| !row.running.is_empty()) {
                let text = format!(
                    "node {} is lost: its {} jobs are restarted on other nodes",
                    worker.id.0,
                    row.running.len()
                );
                info!("{text}");
                self.shared.history_event(Author::Noticer, "failure", Some(worker.id), text);
            }
            self.requests.hold_own(JobTable::encode_command(&jobs::Command::Leave { worker, is_lost: true }));
        }
    }
}

/// A change as the predicate of a log line about the autopilot.
fn describe_change(change: &Change) -> String {
    match change {
        Change::AddLearner(who) => format!("adds node {} as a learner", who.id.0),
        Change::Promote(id) => format!("promotes node {}", id.0),
        Change::Demote(id) => format!("demotes node {}", id.0),
        Change::Remove(id) => format!("removes node {}", id.0),
    }
}
