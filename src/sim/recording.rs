//! What one run did, as data for a picture: the state of each node over time, messages, and faults.
//!
//! Kept only where somebody asks for it, within a window of time, and bounded; it changes nothing of the run. Times are
//! virtual microseconds, nodes are numbered from 0. Not here: the picture (`cli/lab/sim/picture/`).

use crate::raft::{Body, Message, Role};
use std::collections::BTreeMap;

/// Messages kept; when there are more the oldest go, because a failure is at the end.
const MESSAGES_MAX: usize = 200_000;

/// What a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// Its process does not run.
    Down,
    Runs {
        term: u64,
        role: Role,
        is_paused: bool,
    },
}

/// What a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MessageKind {
    Vote,
    VoteReply,
    Append,
    Heartbeat,
    Reply,
    Snapshot,
    Other,
}

/// A message on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flight {
    pub from: usize,
    pub to: usize,
    pub sent: u64,
    /// `None`: it never arrives.
    pub arrives: Option<u64>,
    pub kind: MessageKind,
    pub term: u64,
}

/// Something that happened to a node, or to all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    pub at: u64,
    pub node: Option<usize>,
    pub what: String,
}

/// The record of one run.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// Changes of nodes' states, in order of time.
    pub states: Vec<(u64, usize, NodeState)>,
    pub messages: std::collections::VecDeque<Flight>,
    pub marks: Vec<Mark>,
    /// When the run ended.
    pub end: u64,
    last: Vec<Option<NodeState>>,
    /// Snapshots under way: from, to, and when it began.
    snapshots: BTreeMap<u64, (usize, usize, u64)>,
}

impl Recording {
    /// The record of a run of so many nodes.
    pub fn new(nodes: usize) -> Recording {
        Recording { last: vec![None; nodes], ..Recording::default() }
    }

    pub fn nodes(&self) -> usize {
        self.last.len()
    }

    /// Keeps a node's state if it is another one than before.
    pub fn on_state(&mut self, now: u64, node: usize, state: NodeState) {
        self.end = now;
        if self.last[node] != Some(state) {
            self.last[node] = Some(state);
            self.states.push((now, node, state));
        }
    }

    pub fn on_message(&mut self, sent: u64, (from, to): (usize, usize), message: &Message, arrives: Option<u64>) {
        let kind = match &message.body {
            Body::PreVote { .. } | Body::Vote { .. } | Body::TimeoutNow { .. } => MessageKind::Vote,
            Body::PreVoteReply { .. } | Body::VoteReply { .. } => MessageKind::VoteReply,
            Body::Append { entries, .. } if !entries.is_empty() => MessageKind::Append,
            Body::Append { .. } | Body::Heartbeat { .. } => MessageKind::Heartbeat,
            Body::AppendReply { .. } | Body::HeartbeatReply { .. } => MessageKind::Reply,
            _ => MessageKind::Other,
        };
        self.push(Flight { from, to, sent, arrives, kind, term: message.term.0 });
    }

    fn push(&mut self, flight: Flight) {
        if self.messages.len() >= MESSAGES_MAX {
            self.messages.pop_front();
        }
        self.messages.push_back(flight);
    }

    pub fn on_snapshot_begins(&mut self, now: u64, transfer: u64, from: usize, to: usize) {
        self.snapshots.insert(transfer, (from, to, now));
    }

    pub fn on_snapshot_arrives(&mut self, now: u64, transfer: u64) {
        if let Some((from, to, sent)) = self.snapshots.remove(&transfer) {
            self.push(Flight { from, to, sent, arrives: Some(now), kind: MessageKind::Snapshot, term: 0 });
        }
    }

    pub fn on_mark(&mut self, at: u64, node: Option<usize>, what: String) {
        self.marks.push(Mark { at, node, what });
    }
}
