//! What happened, in plain words: the event ring, the failover list, and the sentences for raft's events.
//!
//! A log line is for the person at this terminal (key=value), an event for whoever looks at the page.
//! Not here: how events reach a browser (`http/stream.rs`), gossip's lines (`gossip.rs`).

use super::shared::{Shared, lock};
use super::status::{EventLine, Failover};
use crate::limits::{EVENTS_MAX, FAILOVERS_MAX};
use crate::raft::{Body, Event, LossCause, Message, StepDownCause};
use crate::types::{NodeId, Term};
use log::{info, warn};
use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

#[derive(Default)]
struct Ring {
    newest_seq: u64,
    lines: VecDeque<EventLine>,
}

/// The last events of this process.
#[derive(Default)]
pub struct Events {
    ring: Mutex<Ring>,
    changed: Condvar,
}

impl Events {
    /// Adds an event.
    pub fn push(&self, at_ms: u64, kind: &str, node: Option<NodeId>, text: String) {
        let mut ring = lock(&self.ring);
        ring.newest_seq += 1;
        let seq = ring.newest_seq;
        if ring.lines.len() == EVENTS_MAX {
            ring.lines.pop_front();
        }
        ring.lines.push_back(EventLine { seq, at_ms, kind: kind.to_string(), node, text });
        self.changed.notify_all();
    }

    /// Events newer than `after`, oldest first.
    pub fn since(&self, after: u64) -> Vec<EventLine> {
        lock(&self.ring).lines.iter().filter(|line| line.seq > after).cloned().collect()
    }

    /// The newest `max`, oldest first.
    pub fn newest(&self, max: usize) -> Vec<EventLine> {
        let ring = lock(&self.ring);
        ring.lines.iter().skip(ring.lines.len().saturating_sub(max)).cloned().collect()
    }

    /// Waits for an event newer than `after`; as [`Events::since`], empty at the deadline.
    pub fn wait(&self, after: u64, deadline: Instant, is_over: impl Fn() -> bool) -> Vec<EventLine> {
        let mut ring = lock(&self.ring);
        while ring.newest_seq <= after && !is_over() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Vec::new();
            }
            ring = self.changed.wait_timeout(ring, left).unwrap_or_else(|e| e.into_inner()).0;
        }
        ring.lines.iter().filter(|line| line.seq > after).cloned().collect()
    }

    /// Wakes all who wait.
    pub fn wake(&self) {
        self.changed.notify_all();
    }
}

#[derive(Default)]
struct Leadership {
    leader: Option<NodeId>,
    /// Since when there is none, whom we lost, and why.
    lost: Option<(Instant, NodeId, String)>,
    failovers: VecDeque<Failover>,
}

/// Changes of leader as this node saw them.
#[derive(Default)]
pub struct FailoverLog {
    leadership: Mutex<Leadership>,
}

impl FailoverLog {
    /// Newest first.
    pub fn newest(&self) -> Vec<Failover> {
        lock(&self.leadership).failovers.iter().cloned().collect()
    }

    fn lost(&self, leader: NodeId, since: Instant, cause: &str) {
        let mut leadership = lock(&self.leadership);
        leadership.leader = None;
        leadership.lost.get_or_insert_with(|| (since, leader, cause.to_string()));
    }

    fn found(&self, leader: NodeId, term: Term, at_ms: u64) -> Option<Failover> {
        let mut leadership = lock(&self.leadership);
        let before = leadership.leader.replace(leader);
        let (from, cause, leaderless_ms) = match (leadership.lost.take(), before) {
            (Some((since, from, cause)), _) => (from, cause, since.elapsed().as_millis() as u64),
            (None, Some(from)) => (from, "hand-over".to_string(), 0),
            (None, None) => return None,
        };
        if from == leader && before == Some(leader) {
            return None;
        }
        let failover = Failover { term, from: Some(from), to: leader, cause, leaderless_ms, at_ms };
        leadership.failovers.push_front(failover.clone());
        leadership.failovers.truncate(FAILOVERS_MAX);
        Some(failover)
    }
}

/// What `core` saw on the wire that tells why a leader was lost: a follower that is asked for its vote learns only that
/// there is a newer term.
#[derive(Debug, Default)]
pub struct LossHints {
    /// When the leader was last heard.
    heard: Option<Instant>,
    /// A candidate said that the leader asked it to take over.
    saw_hand_over: bool,
}

impl LossHints {
    /// Looks at a message before raft does.
    pub fn look(&mut self, message: &Message, leader: Option<NodeId>) {
        match message.body {
            Body::Append { .. } | Body::Heartbeat { .. } if leader == Some(message.from.id) => {
                self.heard = Some(Instant::now());
                self.saw_hand_over = false;
            }
            Body::Vote { is_transfer, .. } => self.saw_hand_over |= is_transfer,
            _ => {}
        }
    }

    /// Since when there is no leader, and why, in words.
    fn explain(&self, shared: &Shared, leader: NodeId, cause: LossCause) -> (Instant, &'static str) {
        let now = Instant::now();
        let heard = self.heard.unwrap_or(now);
        let is_long_silent = heard.elapsed().as_millis() as u64 * 2 > shared.settings.election_timeout_ms;
        match cause {
            LossCause::Timeout => (heard, "timeout"),
            LossCause::LinkLost => (now, "link lost"),
            LossCause::HandOver => (now, "hand-over"),
            LossCause::NewerTerm if self.saw_hand_over => (now, "hand-over"),
            LossCause::NewerTerm if !shared.is_online(leader) => (heard, "link lost"),
            LossCause::NewerTerm if is_long_silent => (heard, "timeout"),
            LossCause::NewerTerm => (now, "newer term"),
        }
    }
}

/// Puts a raft event into the log, the ring and the failover list.
pub fn tell(shared: &Shared, event: &Event, hints: &mut LossHints) {
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
            shared.recovery.heard(shared.view().raft.last_index, shared.applied(), Some(Duration::ZERO));
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
            shared.event("election", Some(shared.me.id), format!("node {} stands for term {term}", shared.me.id.0));
        }
        Event::SteppedDown { term, cause } => {
            let why = step_down_in_words(*cause);
            // Until now it was the leader itself.
            shared.set_leader_heard();
            // A leader that stepped down because of a newer term handed over or was deposed.
            shared.failovers.lost(shared.me.id, Instant::now(), if hints.saw_hand_over { "hand-over" } else { why });
            warn!("stepped down term={term} cause={why:?}");
            shared.event("election", Some(shared.me.id), format!("node {} no longer leads: {why}", shared.me.id.0));
        }
        Event::Membership { index, membership } => {
            let list = |ids: Vec<NodeId>| ids.iter().map(|id| id.0.to_string()).collect::<Vec<_>>().join(", ");
            let voters = list(membership.voters.keys().copied().collect());
            let learners = list(membership.learners.keys().copied().collect());
            info!("membership index={index} voters=[{voters}] learners=[{learners}]");
            let text = match learners.is_empty() {
                true => format!("voters are now {voters}"),
                false => format!("voters are now {voters}; learning: {learners}"),
            };
            shared.event("membership", None, text);
        }
        Event::TransferStarted { to } => {
            info!("handing leadership over to={to}");
            shared.event("hand-over", Some(*to), format!("node {} hands leadership to node {}", shared.me.id.0, to.0));
        }
        Event::FollowerForgot { who, matched } => {
            let id = who.id;
            let text =
                format!("node {} has lost entries up to {matched} that it had acknowledged: it must rejoin", id.0);
            warn!("{text}");
            shared.event("disk", Some(id), text);
        }
        // The process has ended.
        Event::LeaderForgot { .. } => {}
        Event::TransferAborted { to } => {
            warn!("hand-over given up to={to}");
            shared.event("hand-over", Some(*to), format!("node {} did not take over in time", to.0));
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
    shared.event("election", Some(leader), text);
}

fn step_down_in_words(cause: StepDownCause) -> &'static str {
    match cause {
        StepDownCause::NewerTerm => "newer term",
        StepDownCause::NoQuorum => "no quorum answered",
        StepDownCause::DiskStalled => "its disk stands still",
        StepDownCause::NotAVoter => "it is not a voter",
    }
}
