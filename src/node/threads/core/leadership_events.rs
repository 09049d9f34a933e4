//! The log lines and event texts for raft's events.
//!
//! A log line (key=value) is for the operator of this node, an event for viewers of the page.
//! Not here: the ring and the failover list (`node/views/events.rs`), gossip's lines (`node/threads/gossip.rs`).

use crate::node::shared::Shared;
use crate::node::views::events::Author;
use crate::node::views::status::Failover;
use crate::raft::{Body, Event, LossCause, Message, StepDownCause};
use crate::types::{NodeId, Term};
use log::{info, warn};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// What `core` has received that explains why a leader was lost: a follower that is asked for its vote learns only that
/// there is a newer term.
#[derive(Debug, Default)]
pub struct LossHints {
    /// When the leader was last heard.
    heard: Option<Instant>,
    /// A candidate said that the leader asked it to take over.
    saw_transfer: bool,
}

impl LossHints {
    /// Takes note of a message before raft handles it.
    pub fn on_message(&mut self, message: &Message, leader: Option<NodeId>) {
        match message.body {
            Body::Append { .. } | Body::Heartbeat { .. } if leader == Some(message.from.id) => {
                self.heard = Some(Instant::now());
                self.saw_transfer = false;
            }
            Body::Vote { is_transfer, .. } => self.saw_transfer |= is_transfer,
            _ => {}
        }
    }

    /// Since when there is no leader, and why.
    fn explain(&self, shared: &Shared, leader: NodeId, cause: LossCause) -> (Instant, &'static str) {
        let now = Instant::now();
        let heard = self.heard.unwrap_or(now);
        let is_long_silent = heard.elapsed().as_millis() as u64 * 2 > shared.settings.election_timeout_ms;
        match cause {
            LossCause::Timeout => (heard, "timeout"),
            LossCause::LinkLost => (now, "link lost"),
            LossCause::LeadershipTransfer => (now, "leadership transfer"),
            LossCause::NewerTerm if self.saw_transfer => (now, "leadership transfer"),
            LossCause::NewerTerm if !shared.is_online(leader) => (heard, "link lost"),
            LossCause::NewerTerm if is_long_silent => (heard, "timeout"),
            LossCause::NewerTerm => (now, "newer term"),
        }
    }
}

/// Puts a raft event into the log, the ring and the failover list.
pub fn record(shared: &Shared, event: &Event, hints: &mut LossHints) {
    match event {
        Event::Following { term, leader } => {
            let failover = shared.failovers.found(*leader, *term, shared.now_ms());
            let waited_ms = failover.as_ref().map_or(0, |f| f.leaderless_ms);
            info!("following leader={leader} term={term} waited_ms={waited_ms}");
            led(shared, *leader, *term, failover);
        }
        Event::BecameLeader { term } => {
            let failover = shared.failovers.found(shared.me.id, *term, shared.now_ms());
            let waited_ms = failover.as_ref().map_or(0, |f| f.leaderless_ms);
            info!("became leader term={term} waited_ms={waited_ms}");
            shared.catch_up.on_commit(shared.view().raft.last_index, shared.applied(), Some(Duration::ZERO));
            failover.iter().for_each(|change| shared.for_history.push_change(change.clone()));
            led(shared, shared.me.id, *term, failover);
        }
        Event::LeaderLost { term, leader, cause } => {
            let (since, why) = hints.explain(shared, *leader, *cause);
            shared.failovers.lost(*leader, since, why);
            info!("lost leader={leader} term={term} cause={why:?}");
            shared.event("failure", Some(*leader), format!("node {} lost as leader of term {term}: {why}", leader.0));
        }
        Event::Campaigning { term } => {
            info!("campaigning term={term}");
            shared.event(
                "election",
                Some(shared.me.id),
                format!("node {} is a candidate in term {term}", shared.me.id.0),
            );
        }
        Event::SteppedDown { term, cause } => {
            let why = step_down_cause_text(*cause);
            // Until now this node was the leader.
            shared.set_leader_heard();
            // A leader that stepped down because of a newer term handed over or was deposed.
            shared.failovers.lost(
                shared.me.id,
                Instant::now(),
                if hints.saw_transfer { "leadership transfer" } else { why },
            );
            warn!("stepped down term={term} cause={why:?}");
            shared.event("election", Some(shared.me.id), format!("node {} stepped down: {why}", shared.me.id.0));
        }
        Event::Membership { index, membership } => {
            let list = |ids: Vec<NodeId>| ids.iter().map(|id| id.0.to_string()).collect::<Vec<_>>().join(", ");
            let voters = list(membership.voters.keys().copied().collect());
            let learners = list(membership.learners.keys().copied().collect());
            info!("membership index={index} voters=[{voters}] learners=[{learners}]");
            let text = match learners.is_empty() {
                true => format!("voters are now {voters}"),
                false => format!("voters are now {voters}; learners: {learners}"),
            };
            shared.history_event(Author::Leader, "membership", None, text);
        }
        Event::TransferStarted { to } => {
            info!("transferring leadership to={to}");
            shared.history_event(
                Author::Noticer,
                "leadership transfer",
                Some(*to),
                format!("node {} transfers the leadership to node {}", shared.me.id.0, to.0),
            );
        }
        Event::FollowerForgot { who, matched } => {
            let id = who.id;
            let text = format!("node {} lost entries up to {matched} that it had acknowledged: it must rejoin", id.0);
            warn!("{text}");
            shared.event("disk", Some(id), text);
        }
        // `core` has ended the process.
        Event::LeaderForgot { .. } => {}
        Event::TransferAborted { to } => {
            warn!("leadership transfer aborted to={to}");
            shared.event("leadership transfer", Some(*to), format!("node {} did not take over in time", to.0));
        }
    }
}

fn led(shared: &Shared, leader: NodeId, term: Term, failover: Option<Failover>) {
    let text = match failover {
        Some(Failover { from: Some(from), leaderless_ms, cause, .. }) if from != leader => {
            shared.counters.failovers.fetch_add(1, Ordering::Relaxed);
            format!("node {} leads in term {term}, {leaderless_ms} ms after node {} ({cause})", leader.0, from.0)
        }
        _ => format!("node {} leads in term {term}", leader.0),
    };
    match leader == shared.me.id {
        true => shared.history_event(Author::Noticer, "election", Some(leader), text),
        false => shared.event("election", Some(leader), text),
    }
}

fn step_down_cause_text(cause: StepDownCause) -> &'static str {
    match cause {
        StepDownCause::NewerTerm => "newer term",
        StepDownCause::NoQuorum => "no quorum answered",
        StepDownCause::DiskStalled => "its disk stalled",
        StepDownCause::NotAVoter => "it is not a voter",
    }
}
