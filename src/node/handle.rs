//! What doors see of a running node: ask, propose, read, watch. Cheap to clone; every call is bounded in time.
//!
//! Doors never touch `core` or the services themselves; they hold a [`Handle`]. Published state (the newest monitor
//! frame, the event ring, the gossip log) is read without asking any thread.
//! Not here: the threads behind it (`mod.rs`), HTTP (`http/`).

use super::status::{EventLine, MonitorFrame, Session};
use crate::raft::Change;
use crate::services::Reply;
use crate::settings::Settings;
use crate::types::{Identity, Index, NodeId, Outcome};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Sees every write acknowledged before it was called.
    Linearizable,
    /// What this node has applied so far.
    Eventual,
}

/// The newest monitor frame, encoded once for all viewers.
#[derive(Clone, Debug)]
pub struct Published {
    /// Sequence number of the frame.
    pub seq: u64,
    /// The frame as one line of JSON, safe inside a `<script>` element (`<` is escaped as `\u003c`).
    pub json: Arc<str>,
    /// The frame itself.
    pub frame: Arc<MonitorFrame>,
}

/// One figure of `/metrics`.
#[derive(Clone, Debug)]
pub struct Metric {
    /// `phalanx_...`
    pub name: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// `counter` or `gauge`.
    pub kind: &'static str,
    /// Label pairs.
    pub labels: Vec<(&'static str, String)>,
    /// Value.
    pub value: f64,
}

/// A running node as doors see it.
#[derive(Clone)]
pub struct Handle {}

/// A client connection that counts as load until it is dropped.
pub struct SessionGuard {}

impl SessionGuard {
    /// Eight hexadecimal digits.
    pub fn id(&self) -> &str {
        todo!()
    }

    /// Says what the connection turned out to be: `monitor`, `stream`, `api`, `watch`.
    pub fn set_kind(&self, _kind: &'static str) {
        todo!()
    }
}

#[allow(unused_variables)]
impl Handle {
    /// The settings the node runs with.
    pub fn settings(&self) -> &Settings {
        todo!()
    }
    /// Who this node is.
    pub fn identity(&self) -> Identity {
        todo!()
    }
    /// The newest monitor frame.
    pub fn frame(&self) -> Arc<Published> {
        todo!()
    }
    /// Waits for a frame newer than `after`; `None` when the deadline passes first or the node stops.
    pub fn wait_frame(&self, after: u64, deadline: Instant) -> Option<Arc<Published>> {
        todo!()
    }
    /// Events newer than `after`, oldest first.
    pub fn events_since(&self, after: u64) -> Vec<EventLine> {
        todo!()
    }
    /// Waits until there is an event newer than `after`; returns as `events_since` (empty at the deadline).
    pub fn wait_events(&self, after: u64, deadline: Instant) -> Vec<EventLine> {
        todo!()
    }
    /// Body of `/v1/gossip`: what this node heard, newest first.
    pub fn gossip_json(&self) -> serde_json::Value {
        todo!()
    }
    /// Runs a command through the log, on whichever node leads.
    pub fn propose(&self, command: Vec<u8>, deadline: Instant) -> Outcome<(Index, Reply)> {
        todo!()
    }
    /// Asks the services.
    pub fn query(&self, query: Vec<u8>, level: Level, deadline: Instant) -> Outcome<(Index, Reply)> {
        todo!()
    }
    /// Changes the membership by one step; done when the change is committed.
    pub fn change(&self, change: Change, deadline: Instant) -> Outcome<Index> {
        todo!()
    }
    /// Hands leadership over (`None`: to the best live voter); done when the new leader is known.
    pub fn transfer(&self, to: Option<NodeId>, deadline: Instant) -> Outcome<NodeId> {
        todo!()
    }
    /// Registers a client connection.
    pub fn open_session(&self, kind: &'static str, peer: SocketAddr) -> SessionGuard {
        todo!()
    }
    /// Least-loaded online worker, already counted as handed out: id and `host:port` of its HTTP door.
    pub fn dispatch(&self) -> Option<(NodeId, String)> {
        todo!()
    }
    /// `host:port` of every known node's HTTP door, by id.
    pub fn http_addresses(&self) -> Vec<(NodeId, String)> {
        todo!()
    }
    /// Whether the node has begun to stop: doors finish politely and accept nobody.
    pub fn is_stopping(&self) -> bool {
        todo!()
    }
    /// Ready: knows a leader and has caught up. Otherwise what is missing.
    pub fn readiness(&self) -> Result<(), Vec<String>> {
        todo!()
    }
    /// Figures for `/metrics`; doors add their own.
    pub fn metrics(&self) -> Vec<Metric> {
        todo!()
    }
    /// Starts a thread for one client connection; `Err` when `connections_max` is reached or the system refuses.
    pub fn spawn_connection(&self, name: &'static str, run: impl FnOnce() + Send + 'static) -> Result<(), String> {
        todo!()
    }
}
