//! The newest events of this process, for the API; and what of it waits to be written into the replicated history.
//!
//! An event of the history is written once: by the node that it is about, or by the leader. Every node notices the
//! failure of another one, and who will lead is not known yet when a leader fails: so each keeps what it noticed until it
//! leads itself, or another node has led for a while.
//! Not here: the texts of events (each thread's own; for raft's events `node/threads/core/leadership_events.rs`), how
//! they reach a browser (`http/pages/monitor_stream.rs`).

use super::status::{EventLine, Failover};
use crate::limits::{EVENTS_MAX, HISTORY_MAX};
use crate::node::shared::{lock, wait_while};
use crate::services::directory::HistoryLine;
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
}

/// Changes of leader as this node saw them.
#[derive(Default)]
pub struct FailoverLog {
    leadership: Mutex<LeaderChanges>,
}

impl FailoverLog {
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
        Some(Failover { term, from: Some(from), to: leader, cause, leaderless_ms, at_ms })
    }
}

/// Who writes an event into the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Author {
    /// The node that noticed it.
    Noticer,
    /// Whichever node leads; others drop it after [`LED_FOR_MS`].
    Leader,
}

/// An event that another node noticed as well is dropped when that one has led for so long.
const LED_FOR_MS: u64 = 5000;

/// What waits for the log: at most [`HISTORY_MAX`] of each. Full: the oldest goes.
#[derive(Debug, Default)]
pub struct HistoryQueue {
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: VecDeque<(Author, HistoryLine)>,
    changes: VecDeque<Failover>,
}

impl HistoryQueue {
    pub fn push(&self, author: Author, line: HistoryLine) {
        let Waiting { lines, .. } = &mut *lock(&self.waiting);
        lines.push_back((author, line));
        lines.drain(..lines.len().saturating_sub(HISTORY_MAX));
    }

    /// This node leads, in the place of another one.
    pub fn push_change(&self, change: Failover) {
        let Waiting { changes, .. } = &mut *lock(&self.waiting);
        changes.push_back(change);
        changes.drain(..changes.len().saturating_sub(HISTORY_MAX));
    }

    /// What this node is to write now.
    pub fn take(&self, is_leader: bool, now_ms: u64) -> (Vec<HistoryLine>, Vec<Failover>) {
        let Waiting { lines, changes } = &mut *lock(&self.waiting);
        let mut taken = Vec::new();
        lines.retain(|(author, line)| {
            let is_mine = is_leader || *author == Author::Noticer;
            if is_mine {
                taken.push(line.clone());
            }
            !is_mine && now_ms.saturating_sub(line.at_ms) < LED_FOR_MS
        });
        (taken, changes.drain(..).collect())
    }

    /// It could not be written, or nobody knows.
    pub fn put_back(&self, lines: Vec<HistoryLine>, changes: Vec<Failover>) {
        let waiting = &mut *lock(&self.waiting);
        lines.into_iter().rev().for_each(|line| waiting.lines.push_front((Author::Noticer, line)));
        changes.into_iter().rev().for_each(|change| waiting.changes.push_front(change));
    }
}

#[cfg(test)]
mod tests {
    use crate::node::views::events::*;

    #[test]
    fn what_others_noticed_too_is_written_by_the_leader_alone() {
        let queue = HistoryQueue::default();
        let line = |at_ms| HistoryLine { at_ms, kind: "failure".into(), node: None, text: format!("at {at_ms}") };
        for (author, at_ms) in [(Author::Leader, 1000), (Author::Noticer, 1001), (Author::Leader, 1002)] {
            queue.push(author, line(at_ms));
        }
        assert_eq!(queue.take(false, 1500).0, [line(1001)], "what it alone knows");
        assert_eq!(queue.take(true, 6001).0, [line(1000), line(1002)], "kept until it leads");
        queue.put_back(vec![line(1000)], Vec::new());
        assert_eq!(queue.take(false, 9000).0, [line(1000)], "it is this node's now");
        queue.push(Author::Leader, line(2000));
        assert_eq!(queue.take(false, 2000 + LED_FOR_MS).0, []);
        assert_eq!(queue.take(true, 2000 + LED_FOR_MS).0, [], "another one has written it");
    }
}
