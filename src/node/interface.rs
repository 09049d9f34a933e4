//! What endpoints ask of a running node: one small trait per feature, so that a test can stand in for a node.
//!
//! The database's are beside it (`sql/handle.rs`, `sql/load.rs`). Not here: what the methods do (`handle.rs`).

use super::client_access::ClientAccess;
use super::reports::metrics::Metric;
use super::shared::memory::MemoryBudget;
use super::shared::request::{Answered, Level, Operation, transferred_to};
use super::views::chat_feed::ChatReader;
use super::views::frames::Published;
use super::views::live_output::Output;
use super::views::sessions::SessionGuard;
use super::views::status::{EventPage, EventPosition, IntegrityStatus, MonitorFrame, NodeRuntimes};
use crate::outcome::{Outcome, UnknownReason};
use crate::raft::Change;
use crate::services::jobs::{Job, JobId};
use crate::settings::Settings;
use crate::types::{Identity, Index, NodeId};
use std::any::Any;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Instant;

/// Who the node is, and where it and the others are.
pub trait Addressing {
    /// The settings the node runs with.
    fn settings(&self) -> &Settings;
    fn identity(&self) -> Identity;
    /// `host:port` of every known node's HTTP endpoint, by id.
    fn http_addresses(&self) -> Vec<(NodeId, String)>;
    /// The node for the next client, already counted as handed out. `None`: no node is known.
    fn dispatch(&self) -> Option<Redirect>;
}

/// Where a client is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    pub node: NodeId,
    /// `host:port` of its HTTP endpoint.
    pub http: String,
    /// False: no node can serve; this one is there and can say why.
    pub can_serve: bool,
}

/// Slots, memory, threads and access of client connections.
pub trait Connections {
    /// What clients need before they are answered.
    fn access(&self) -> &ClientAccess;
    /// Registers a client connection.
    fn open_session(&self, kind: &'static str, peer: SocketAddr) -> SessionGuard;
    /// Bytes that connections may hold.
    fn memory(&self) -> &Arc<MemoryBudget>;
    /// Counts a client connection; `Err` when `connections_max` is reached. With `client`, it may get a reserved slot.
    fn admit(&self, client: Option<(IpAddr, Arc<TcpStream>)>) -> Result<Admission, String>;
    /// Runs a connection in a thread of this name; `Err` when the system refuses another thread.
    fn run_connection(&self, name: &'static str, run: Box<dyn FnOnce() + Send>) -> Result<(), String>;

    /// Admits a connection and runs it in a thread.
    fn spawn_connection(
        &self,
        name: &'static str,
        client: Option<(IpAddr, Arc<TcpStream>)>,
        run: Box<dyn FnOnce(ConnectionSlot) + Send>,
    ) -> Result<(), String> {
        let admission = self.admit(client)?;
        let job = move || {
            run(admission.slot);
            drop(admission);
        };
        self.run_connection(name, Box::new(job))
    }
    /// Whether the node has begun to stop: endpoints answer the requests that have arrived and accept no new
    /// connection.
    fn is_stopping(&self) -> bool;
}

/// What a connection holds until it ends.
pub struct Admission {
    pub slot: ConnectionSlot,
    _held: Box<dyn Any + Send>,
}

impl Admission {
    /// `held` gives the slot back when it is dropped.
    pub fn new(slot: ConnectionSlot, held: impl Any + Send) -> Admission {
        Admission { slot, _held: Box::new(held) }
    }
}

/// The slot of a connection among all of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionSlot {
    /// One of `connections_max`.
    Ordinary,
    /// One beyond these, for one request: health checks, status and administration; anything else is refused.
    Reserved,
}

/// Operations of the cluster, and queries of the services.
pub trait Requests {
    /// Submits an operation and waits for the answer.
    fn ask(&self, operation: Operation, deadline: Instant) -> Answered;

    fn query(&self, query: Vec<u8>, level: Level, deadline: Instant) -> Answered {
        self.ask(Operation::Query { query, level }, deadline)
    }

    /// Changes the membership by one step; done when the change is committed.
    fn change(&self, change: Change, deadline: Instant) -> Outcome<Index> {
        self.ask(Operation::Change(change), deadline).map(|(index, _)| index)
    }

    /// Transfers leadership (`None`: to the best live voter); done when the new leader is known.
    fn transfer(&self, to: Option<NodeId>, deadline: Instant) -> Outcome<NodeId> {
        match self.ask(Operation::Transfer(to), deadline) {
            Outcome::Done((_, reply)) => {
                transferred_to(&reply).map_or(Outcome::Unknown(UnknownReason::NoLeaderNamed), Outcome::Done)
            }
            Outcome::Refused(why) => Outcome::Refused(why),
            Outcome::Unknown(why) => Outcome::Unknown(why),
        }
    }

    /// Has every node digest its state at one index, which is returned; the digests are known a little later.
    fn checkpoint(&self, deadline: Instant) -> Outcome<Index>;
}

/// Waiting for what this node applies or runs.
pub trait Watching {
    /// Waits until a key has another revision than this one (0: it does not exist) on this node; false at the deadline,
    /// or when the node stops.
    fn wait_key(&self, key: &[u8], revision: u64, deadline: Instant) -> bool;
    /// A job as this node has it: not older than any answer that it has given. `None`: there is none, or this node's
    /// state is wrong.
    fn job(&self, id: JobId) -> Option<Job>;
    /// Waits until a job has ended, or until the services know at `at_least` that there is none; done also when the
    /// node stops. `Unknown` at the deadline. The reply is empty: [`Watching::job`] has the job.
    fn await_job(&self, job: JobId, at_least: Index, deadline: Instant) -> Answered;
    /// Output of an attempt on this node so far, until its end is in the log.
    fn live_output(&self, job: JobId, attempt: u32) -> Option<Arc<Output>>;
    /// Begins to follow the chat.
    fn follow_chat(&self) -> ChatReader;
    /// Number of the services' state, which changes when the state is replaced. `None`: it is known to be wrong, and
    /// must not be shown.
    fn state_epoch(&self) -> Option<u64>;
}

/// How the node and its cluster are.
pub trait Reports {
    /// The newest monitor frame.
    fn frame(&self) -> Arc<Published>;
    /// A frame of the present state.
    fn fresh_frame(&self) -> Published;
    /// Waits for a frame newer than `after`; `None` when the deadline passes first or the node stops.
    fn wait_frame(&self, after: u64, deadline: Instant) -> Option<Arc<Published>>;
    /// Events newer than `after`, oldest first.
    fn events_since(&self, after: EventPosition) -> EventPage;
    /// Waits until there is an event newer than `after`; returns as `events_since` (empty at the deadline).
    fn wait_events(&self, after: EventPosition, deadline: Instant) -> EventPage;
    /// Body of `/v1/gossip`: what this node heard, newest first.
    fn gossip_json(&self) -> serde_json::Value;
    /// Every known node, by id: whether it is online, and which languages in which versions it has.
    fn runtimes(&self) -> Vec<NodeRuntimes>;
    /// Whether this node's state and those of others are correct, as far as it knows.
    fn integrity(&self) -> IntegrityStatus;
    /// Whether the node knows a leader and has caught up; the error lists what is missing.
    fn readiness(&self) -> Result<(), Vec<String>>;
    /// Figures for `/metrics`; endpoints add their own.
    fn metrics(&self) -> Vec<Metric>;

    /// The newest frame's contents.
    fn status(&self) -> Arc<MonitorFrame> {
        Arc::clone(&self.frame().frame)
    }
}
