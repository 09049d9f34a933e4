//! The newest events of this process, for the API; and what of it waits to be written into the replicated history.
//!
//! An event of the history is written once: by the node that it is about, or by the leader. Every node notices the
//! failure of another one, and who will lead is not known yet when a leader fails: so each keeps what it noticed until it
//! leads itself, or another node has led for a while.
//! Not here: the texts of events (each thread's own; for raft's events `node/threads/core/leadership_events.rs`), how
//! they reach a browser (`http/pages/monitor_stream.rs`).

use super::status::{EventLine, EventPage, EventPosition, Failover};
use crate::limits::{EVENTS_MAX, HISTORY_MAX};
use crate::lock::{Mutex, lock, wait_while};
use crate::services::directory::HistoryLine;
use crate::types::{NodeId, Term};
use std::collections::VecDeque;
use std::sync::Condvar;
use std::time::Instant;
use uuid::Uuid;

#[derive(Default)]
struct Ring {
    newest_seq: u64,
    lines: VecDeque<EventLine>,
}

/// The last events of this process.
pub struct Events {
    incarnation: Uuid,
    ring: Mutex<Ring>,
    changed: Condvar,
}

impl Default for Events {
    fn default() -> Events {
        Events { incarnation: Uuid::new_v4(), ring: Mutex::default(), changed: Condvar::new() }
    }
}

impl Events {
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

    /// Events newer than `after`; all of them if that is not a position in this process.
    pub fn since(&self, after: EventPosition) -> EventPage {
        let ring = lock(&self.ring);
        let after = self.seq_of(&ring, after);
        let events = ring.lines.iter().filter(|line| line.seq > after).cloned().collect();
        EventPage { incarnation: Some(self.incarnation), events }
    }

    /// The sequence number of a position; 0 for one of another process, or one that this process has not reached.
    fn seq_of(&self, ring: &Ring, position: EventPosition) -> u64 {
        let is_ours = position.incarnation.is_none_or(|it| it == self.incarnation);
        if is_ours && position.seq <= ring.newest_seq { position.seq } else { 0 }
    }

    /// Waits for an event newer than `after`; as [`Events::since`], empty at the deadline.
    pub fn wait(&self, after: EventPosition, deadline: Instant, is_over: impl Fn() -> bool) -> EventPage {
        let has_none = |ring: &mut Ring| ring.newest_seq <= self.seq_of(ring, after) && !is_over();
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
    /// Since when there is none, which node it was, and why.
    lost: Option<(Instant, NodeId, String)>,
}

/// Changes of leader as this node saw them.
#[derive(Default)]
pub struct FailoverLog {
    leadership: Mutex<LeaderChanges>,
}

impl FailoverLog {
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
        // It was lost and found again, or elected again: no change of leader.
        if from == leader {
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
    waiting: Mutex<QueuedHistory>,
}

#[derive(Debug, Default)]
struct QueuedHistory {
    lines: VecDeque<(Author, HistoryLine)>,
    changes: VecDeque<Failover>,
}

impl HistoryQueue {
    pub fn push(&self, author: Author, line: HistoryLine) {
        let QueuedHistory { lines, .. } = &mut *lock(&self.waiting);
        lines.push_back((author, line));
        lines.drain(..lines.len().saturating_sub(HISTORY_MAX));
    }

    /// This node leads, in the place of another one.
    pub fn push_change(&self, change: Failover) {
        let QueuedHistory { changes, .. } = &mut *lock(&self.waiting);
        changes.push_back(change);
        changes.drain(..changes.len().saturating_sub(HISTORY_MAX));
    }

    /// What this node is to write now.
    pub fn take(&self, is_leader: bool, now_ms: u64) -> (Vec<HistoryLine>, Vec<Failover>) {
        let QueuedHistory { lines, changes } = &mut *lock(&self.waiting);
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

    /// It could not be written, or the outcome is unknown.
    pub fn put_back(&self, lines: Vec<HistoryLine>, changes: Vec<Failover>) {
        let waiting = &mut *lock(&self.waiting);
        lines.into_iter().rev().for_each(|line| waiting.lines.push_front((Author::Noticer, line)));
        changes.into_iter().rev().for_each(|change| waiting.changes.push_front(change));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_position_of_another_process_is_the_beginning() {
        let events = Events::default();
        for text in ["one", "two", "three"] {
            events.push(7, "start", None, text.to_string());
        }
        let seen = |incarnation, seq| {
            let page = events.since(EventPosition { incarnation, seq });
            page.events.into_iter().map(|event| event.text).collect::<Vec<_>>()
        };
        let ours = events.since(EventPosition::default()).incarnation;
        assert_eq!(seen(ours, 2), ["three"]);
        assert_eq!(seen(None, 2), ["three"]);
        assert_eq!(seen(ours, 3), [""; 0]);
        assert_eq!(seen(Some(Uuid::new_v4()), 2), ["one", "two", "three"]);
        assert_eq!(seen(None, 500), ["one", "two", "three"], "a number that this process has not reached");
        let at_once = Instant::now() + Duration::from_secs(60);
        let page = events.wait(EventPosition { incarnation: None, seq: 500 }, at_once, || false);
        assert_eq!(page.events.len(), 3);
    }

    #[test]
    fn a_leader_that_is_found_again_is_no_change_of_leader() {
        let log = FailoverLog::default();
        let (five, four) = (NodeId(5), NodeId(4));
        assert_eq!(log.found(five, Term(1), 1), None, "the first one");
        log.lost(five, Instant::now(), "timeout");
        assert_eq!(log.found(five, Term(2), 2), None);
        log.lost(five, Instant::now(), "link lost");
        assert_eq!(log.found(four, Term(3), 3).unwrap().from, Some(five));
    }

    #[test]
    fn only_the_leader_writes_events_that_all_nodes_see() {
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
