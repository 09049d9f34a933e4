//! The newest events and changes of leader, for the page and the API.
//!
//! Not here: the texts of events (each thread's own; for raft's events `node/threads/core/leadership_events.rs`), how
//! they reach a browser (`http/pages/monitor_stream.rs`).

use super::status::{EventLine, Failover};
use crate::limits::{EVENTS_MAX, FAILOVERS_MAX};
use crate::node::shared::{lock, wait_while};
use crate::types::{NodeId, Term};
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex};
use std::time::Instant;

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
        let has_none = |ring: &mut Ring| ring.newest_seq <= after && !is_over();
        drop(wait_while(&self.changed, lock(&self.ring), deadline, has_none));
        self.since(after)
    }

    /// Wakes all who wait.
    pub fn wake(&self) {
        self.changed.notify_all();
    }
}

#[derive(Default)]
struct LeaderChanges {
    leader: Option<NodeId>,
    /// Since when there is none, whom we lost, and why.
    lost: Option<(Instant, NodeId, String)>,
    failovers: VecDeque<Failover>,
}

/// Changes of leader as this node saw them.
#[derive(Default)]
pub struct FailoverLog {
    leadership: Mutex<LeaderChanges>,
}

impl FailoverLog {
    /// Newest first.
    pub fn newest(&self) -> Vec<Failover> {
        lock(&self.leadership).failovers.iter().cloned().collect()
    }

    /// The leader was lost.
    pub fn lost(&self, leader: NodeId, since: Instant, cause: &str) {
        let mut leadership = lock(&self.leadership);
        leadership.leader = None;
        leadership.lost.get_or_insert_with(|| (since, leader, cause.to_string()));
    }

    /// There is a leader; what it took to get it, if another led before.
    pub fn found(&self, leader: NodeId, term: Term, at_ms: u64) -> Option<Failover> {
        let mut leadership = lock(&self.leadership);
        let before = leadership.leader.replace(leader);
        let (from, cause, leaderless_ms) = match (leadership.lost.take(), before) {
            (Some((since, from, cause)), _) => (from, cause, since.elapsed().as_millis() as u64),
            (None, Some(from)) => (from, "leadership transfer".to_string(), 0),
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
