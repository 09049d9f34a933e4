//! What endpoints see of a running node: ask, propose, read, watch. Cheap to clone; every call is bounded in time.
//!
//! Endpoints never touch `core` or the services themselves; they hold a [`Handle`]. Published state (the newest monitor
//! frame, the event ring, the gossip log) is read without asking any thread.
//! Not here: the threads behind it (`mod.rs`), HTTP (`http/`).

use super::reports::metrics::{self, Metric};
use super::reports::status;
use super::shared::memory::MemoryBudget;
use super::shared::messages::GossipInput;
use super::shared::request::{Answered, Level, Operation, ReplyTo, Waiter, transferred_to};
use super::shared::reserved_slots::ReservedSlots;
use super::shared::{Shared, lock};
use super::spawn;
use super::threads::watch;
use super::views::chat_feed::ChatReader;
use super::views::frames::Published;
use super::views::live_output::Output;
use super::views::sessions::id_of;
use super::views::status::{EventLine, IntegrityStatus, NodeRuntimes};
use crate::limits::{COMMAND_BYTES_MAX, CONNECTION_STACK_BYTES};
use crate::raft::Change;
use crate::services::jobs::{Job, JobId};
use crate::services::registry::checkpoint_command;
use crate::settings::Settings;
use crate::types::{Identity, Index, NodeId, Outcome};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A node this many entries behind still counts as caught up: under load the two are never equal.
const READY_LAG_MAX: u64 = 1000;

/// The place of a connection among all of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// One of `connections_max`.
    Ordinary,
    /// One beyond, for health checks, status and administration: anything else is refused, and it lasts for one request.
    Reserved,
}

/// A running node as endpoints see it.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
    connections: Arc<AtomicUsize>,
    reserved: Arc<ReservedSlots>,
}

/// A client connection that counts as load until it is dropped.
pub struct SessionGuard {
    shared: Arc<Shared>,
    key: u64,
    id: String,
}

impl SessionGuard {
    /// Eight hexadecimal digits.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Says what the connection turned out to be: `monitor`, `stream`, `api`, `watch`.
    pub fn set_kind(&self, kind: &'static str) {
        self.shared.sessions.set_kind(self.key, kind);
    }
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        self.shared.sessions.close(self.key);
    }
}

/// Gives a connection's place back, however its thread ends.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Handle {
    /// A handle to a node whose threads share `shared`.
    pub fn new(shared: Arc<Shared>) -> Handle {
        Handle { shared, connections: Arc::default(), reserved: Arc::default() }
    }

    /// What the node's threads share, for the other files of this module.
    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The settings the node runs with.
    pub fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    /// Who this node is.
    pub fn identity(&self) -> Identity {
        self.shared.me
    }

    /// The newest monitor frame.
    pub fn frame(&self) -> Arc<Published> {
        self.shared.frames.newest()
    }

    /// The frame as things stand now, for a single look.
    pub fn fresh_frame(&self) -> Published {
        status::frame(&self.shared, self.shared.frames.newest().seq)
    }

    /// Waits for a frame newer than `after`; `None` when the deadline passes first or the node stops.
    pub fn wait_frame(&self, after: u64, deadline: Instant) -> Option<Arc<Published>> {
        self.shared.frames.wait(after, deadline, || self.shared.is_stopping())
    }

    /// Events newer than `after`, oldest first.
    pub fn events_since(&self, after: u64) -> Vec<EventLine> {
        self.shared.events.since(after)
    }

    /// Waits until there is an event newer than `after`; returns as `events_since` (empty at the deadline).
    pub fn wait_events(&self, after: u64, deadline: Instant) -> Vec<EventLine> {
        self.shared.events.wait(after, deadline, || self.shared.is_stopping())
    }

    /// Body of `/v1/gossip`: what this node heard, newest first.
    pub fn gossip_json(&self) -> serde_json::Value {
        lock(&self.shared.gossip).to_json(self.shared.now_ms())
    }

    /// Runs a command through the log, on whichever node leads.
    pub fn propose(&self, command: Vec<u8>, deadline: Instant) -> Answered {
        match self.shared.integrity.no_writes() {
            Some(why) => Outcome::Refused(why),
            None => self.shared.inboxes.run(command, deadline),
        }
    }

    /// Has every node digest its state at one index, which is answered; the digests are known a little later.
    pub fn checkpoint(&self, deadline: Instant) -> Outcome<Index> {
        match self.shared.inboxes.run(checkpoint_command(), deadline) {
            Outcome::Done((index, _)) => Outcome::Done(index),
            Outcome::Refused(why) => Outcome::Refused(why),
            Outcome::Unknown(why) => Outcome::Unknown(why),
        }
    }

    /// What this node says of its state, and what it has found of others.
    pub fn integrity(&self) -> IntegrityStatus {
        status::integrity(&self.shared)
    }

    /// Which state this node's services have: another number after it was replaced. `None`: it is known to be wrong, and nothing of
    /// it may be told.
    pub fn state_epoch(&self) -> Option<u64> {
        let integrity = &self.shared.integrity;
        (!integrity.is_corrupt()).then(|| integrity.epoch())
    }

    /// Submits an operation and goes on: the waiter gets the answer, on whichever thread has it. Waits only while `core` is
    /// too busy to take it, until the deadline at most.
    pub fn submit(&self, operation: Operation, deadline: Instant, waiter: Box<dyn Waiter>) {
        match self.refusal(&operation) {
            None => self.shared.inboxes.submit(operation, deadline, ReplyTo::Callback(waiter)),
            Some(why) => waiter.answer(Outcome::Refused(why)),
        }
    }

    /// Submits an operation and waits for the answer.
    pub fn ask(&self, operation: Operation, deadline: Instant) -> Answered {
        let begun = Instant::now();
        let answered = match self.refusal(&operation) {
            None => self.shared.inboxes.ask(operation, deadline),
            Some(why) => Outcome::Refused(why),
        };
        if let Outcome::Done(_) = answered {
            self.answered(1, begun.elapsed());
        }
        answered
    }

    /// Counts commands that were done for a client, and how long they took: the endpoints that use [`Handle::submit`] know.
    pub fn answered(&self, commands: u64, took: Duration) {
        self.shared.activity.answered(commands, took);
    }

    /// Bytes of which no value in this node's store has more.
    pub fn largest_value(&self) -> usize {
        self.shared.activity.largest_value() as usize
    }

    /// Waits until a key of the store has another revision than this one (0: it does not exist), as this node applies
    /// what happens; false at the deadline, or when the node stops.
    pub fn wait_key(&self, key: &[u8], revision: u64, deadline: Instant) -> bool {
        watch::wait(&self.shared, key, revision, deadline)
    }

    /// A job as this node has it: not older than any answer that it has given. `None`: there is none, or nothing may be read.
    pub fn job(&self, id: JobId) -> Option<Job> {
        let is_readable = self.shared.integrity.no_reads().is_none();
        self.shared.jobs().all.get(&id).filter(|_| is_readable).cloned()
    }

    /// Waits until a job has ended, or until the services know at `at_least` that there is none; done also when the node
    /// stops. `Unknown` at the deadline. The reply is empty: [`Handle::job`] has the job.
    pub fn await_job(&self, job: JobId, at_least: Index, deadline: Instant) -> Answered {
        match self.shared.integrity.no_reads() {
            Some(why) => Outcome::Refused(why),
            None => self.shared.inboxes.await_job(job, at_least, deadline),
        }
    }

    /// Begins to follow the chat.
    pub fn follow_chat(&self) -> ChatReader {
        self.shared.chat.follow()
    }

    /// What an attempt on this node has said so far, until the log has its end.
    pub fn live_output(&self, job: JobId, attempt: u32) -> Option<Arc<Output>> {
        self.shared.live.find(job, attempt)
    }

    /// Every node that has been heard of, by id: whether it is online, and which languages it has with which versions.
    pub fn runtimes(&self) -> Vec<NodeRuntimes> {
        let own = NodeRuntimes { id: self.shared.me.id, is_online: true, jobs: self.shared.job_report() };
        let gossip = lock(&self.shared.gossip);
        let all = gossip.all(self.shared.now_ms());
        let others = all.into_iter().map(|(row, is_online, _)| NodeRuntimes {
            id: row.id,
            is_online,
            jobs: Arc::clone(&row.jobs),
        });
        let mut rows: Vec<NodeRuntimes> = others.chain([own]).collect();
        rows.sort_by_key(|row| row.id);
        rows
    }

    /// Asks the services.
    pub fn query(&self, query: Vec<u8>, level: Level, deadline: Instant) -> Answered {
        self.ask(Operation::Query { query, level }, deadline)
    }

    /// Changes the membership by one step; done when the change is committed.
    pub fn change(&self, change: Change, deadline: Instant) -> Outcome<Index> {
        match self.shared.inboxes.ask(Operation::Change(change), deadline) {
            Outcome::Done((index, _)) => Outcome::Done(index),
            Outcome::Refused(why) => Outcome::Refused(why),
            Outcome::Unknown(why) => Outcome::Unknown(why),
        }
    }

    /// Hands leadership over (`None`: to the best live voter); done when the new leader is known.
    pub fn transfer(&self, to: Option<NodeId>, deadline: Instant) -> Outcome<NodeId> {
        match self.shared.inboxes.ask(Operation::Transfer(to), deadline) {
            Outcome::Done((_, reply)) => match transferred_to(&reply) {
                Some(leader) => Outcome::Done(leader),
                None => Outcome::Unknown("the answer names no leader".to_string()),
            },
            Outcome::Refused(why) => Outcome::Refused(why),
            Outcome::Unknown(why) => Outcome::Unknown(why),
        }
    }

    /// Registers a client connection.
    pub fn open_session(&self, kind: &'static str, peer: SocketAddr) -> SessionGuard {
        let key = self.shared.sessions.open(kind, peer);
        SessionGuard { shared: Arc::clone(&self.shared), key, id: id_of(key) }
    }

    /// Least-loaded online worker, already counted as handed out: id and `host:port` of its HTTP endpoint.
    pub fn dispatch(&self) -> Option<(NodeId, String)> {
        let choice = lock(&self.shared.dispatch).pick(self.shared.now_ms())?;
        self.shared.counters.dispatched.fetch_add(1, Ordering::Relaxed);
        self.shared.inboxes.to_gossip(GossipInput::HandedOut(choice.0));
        Some(choice)
    }

    /// `host:port` of every known node's HTTP endpoint, by id.
    pub fn http_addresses(&self) -> Vec<(NodeId, String)> {
        self.shared.known_addresses().into_iter().map(|(id, addresses)| (id, addresses.http)).collect()
    }

    /// Whether the node has begun to stop: endpoints answer what has arrived and accept nobody.
    pub fn is_stopping(&self) -> bool {
        self.shared.is_stopping()
    }

    /// Ready: knows a leader and has caught up. Otherwise what is missing.
    pub fn readiness(&self) -> Result<(), Vec<String>> {
        let status = status::status(&self.shared);
        let mut missing: Vec<String> = self.shared.integrity.no_reads().into_iter().collect();
        if status.cluster.leader.is_none() {
            missing.push("no leader is known".to_string());
        }
        missing.extend(self.shared.outsider().map(|it| it.in_words(self.shared.me)));
        let row_of = |id: NodeId| status.nodes.iter().find(|row| row.id == id);
        let lag = row_of(self.shared.me.id).map_or(0, |row| row.lag);
        if lag > READY_LAG_MAX {
            missing.push(format!("{lag} entries behind the leader"));
        }
        // Few entries may be many megabytes, and a node that has none yet may be few behind: at first it must reach what
        // was committed when it began to look.
        let committed = status.cluster.leader.and_then(row_of).map(|row| row.commit_index).filter(|index| index.0 > 0);
        if let Some(wanted) = self.shared.must_reach(committed).filter(|wanted| self.shared.applied() < *wanted) {
            missing.push(format!("has applied {} of the first {wanted} entries", self.shared.applied()));
        } else if committed.is_none() && status.cluster.leader.is_some() {
            missing.push("the leader has not been heard yet".to_string());
        }
        if self.shared.is_stopping() {
            missing.push("stopping".to_string());
        }
        if missing.is_empty() { Ok(()) } else { Err(missing) }
    }

    /// Figures for `/metrics`; endpoints add their own.
    pub fn metrics(&self) -> Vec<Metric> {
        metrics::all(&self.shared)
    }

    /// Starts a thread of an endpoint's own, which ends with it.
    ///
    /// # Errors
    /// When the system refuses another thread.
    pub fn spawn_own(&self, name: &'static str, run: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        spawn::spawn(name, run).map(|_| ())
    }

    /// Bytes that connections may hold.
    pub fn memory(&self) -> &Arc<MemoryBudget> {
        &self.shared.memory
    }

    /// Starts a thread for one client connection; `Err` when `connections_max` is reached or the system refuses. An endpoint that
    /// serves what the reserved slots are for names its client, who gets one of them then.
    pub fn spawn_connection(
        &self,
        name: &'static str,
        client: Option<(IpAddr, Arc<TcpStream>)>,
        run: impl FnOnce(Slot) + Send + 'static,
    ) -> Result<(), String> {
        let max = self.shared.settings.connections_max as usize;
        let place = Place(Arc::clone(&self.connections));
        let ordinary = (self.connections.fetch_add(1, Ordering::AcqRel) < max).then_some(place);
        let reserved = match ordinary {
            Some(_) => None,
            None => client.and_then(|(ip, stream)| self.reserved.enter(ip, stream)),
        };
        let slot = match (&ordinary, &reserved) {
            (Some(_), _) => Slot::Ordinary,
            (None, Some(_)) => Slot::Reserved,
            (None, None) => return Err(format!("{max} connections are open, the limit of connections_max")),
        };
        let started = spawn::spawn_small(name, CONNECTION_STACK_BYTES, move || {
            let _held = (ordinary, reserved);
            run(slot);
        });
        started.map(|_| ()).map_err(|e| format!("no thread for the connection: {e}"))
    }

    /// Why an operation is refused before anybody takes it: it is too large, or no node with such a state may answer it.
    fn refusal(&self, operation: &Operation) -> Option<String> {
        let integrity = &self.shared.integrity;
        match operation {
            Operation::Command { command: bytes, .. } | Operation::Query { query: bytes, .. }
                if bytes.len() > COMMAND_BYTES_MAX =>
            {
                Some(format!("a request of {} bytes, at most {COMMAND_BYTES_MAX} are allowed", bytes.len()))
            }
            Operation::Command { .. } => integrity.no_writes(),
            Operation::Query { .. } => integrity.no_reads(),
            Operation::Change(_) | Operation::Transfer(_) => None,
        }
    }
}
