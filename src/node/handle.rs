//! What a running node does for endpoints. Cheap to clone; every call is bounded in time.
//!
//! Endpoints never touch `core` or the services themselves; they hold a [`Handle`]. Published state (the newest monitor
//! frame, the event ring, the gossip log) is read without asking any thread.
//! Not here: what the methods promise (`interface.rs`), the threads behind them (`mod.rs`), HTTP (`http/`).

use super::client_access::ClientAccess;
use super::connection_threads::ConnectionThreads;
#[cfg(target_os = "linux")]
use super::frozen_neighbours::accept;
use super::interface::{Addressing, Admission, ConnectionSlot, Connections, Redirect, Reports, Requests, Watching};
use super::listener::Listener;
use super::pubsub::Channels;
use super::reports::metrics::{self, Metric};
use super::reports::process;
use super::reports::readiness;
use super::reports::status;
use super::reserved_slots::ReservedSlots;
use super::scan_cursors::{CursorPlace, Position, ScanCursors};
use super::shared::Shared;
use super::shared::link::Link;
use super::shared::memory::MemoryBudget;
use super::shared::messages::GossipInput;
use super::shared::request::{Answered, Operation, ReplyTo, Waiter};
use super::spawn;
use super::threads::watch;
use super::views::chat_feed::ChatReader;
use super::views::frames::Published;
use super::views::live_output::Output;
use super::views::sessions::SessionGuard;
use super::views::status::{EventPage, EventPosition, IntegrityStatus, NodeRuntimes};
use crate::limits::{COMMAND_BYTES_MAX, PUBLISHED_BYTES_MAX, SCAN_ANSWER_DEADLINE};
use crate::lock::lock;
use crate::outcome::{NoLeader, Outcome, Reason};
use crate::services::jobs::{Job, JobId};
use crate::services::registry::checkpoint_command;
use crate::settings::Settings;
use crate::types::{Identity, Index, NodeId};
use crate::wire::Frame;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A running node as endpoints see it.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
    connections: Arc<AtomicUsize>,
    reserved: Arc<ReservedSlots>,
    threads: Arc<ConnectionThreads>,
}

/// Counts a connection until it is dropped, however its thread ends.
struct ConnectionCount(Arc<AtomicUsize>);

impl Drop for ConnectionCount {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Handle {
    /// A handle to a node whose threads share `shared`.
    pub fn new(shared: Arc<Shared>) -> Handle {
        Handle { shared, connections: Arc::default(), reserved: Arc::default(), threads: Arc::default() }
    }

    /// What the node's threads share, for the other files of this module.
    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Submits an operation without waiting for its answer, which the waiter gets on whichever thread has it. Waits
    /// only while the inbox of `core` is full, until the deadline at most.
    pub fn submit(&self, operation: Operation, deadline: Instant, waiter: Box<dyn Waiter>) {
        match self.refusal(&operation) {
            None => self.shared.inboxes.submit(operation, deadline, ReplyTo::Callback(waiter)),
            Some(why) => waiter.answer(Outcome::Refused(why)),
        }
    }

    /// Counts a client's commands by their outcome, and how long they took: for endpoints that use [`Handle::submit`].
    pub fn answered<T>(&self, outcome: &Outcome<T>, commands: u64, took: Duration) {
        self.shared.activity.record(outcome, commands, took);
    }

    /// An upper bound of the bytes of each value in this node's store.
    pub fn largest_value(&self) -> usize {
        self.shared.activity.largest_value() as usize
    }

    /// Who of this node's clients subscribes to what.
    pub fn channels(&self) -> &Channels {
        &self.shared.channels
    }

    /// Gives a message to the subscribers of this node and sends it to the other nodes; returns how many of this node
    /// got it.
    pub fn publish(&self, channel: &[u8], message: &[u8]) -> usize {
        let receivers = self.shared.channels.deliver(channel, message);
        let frame = Frame::Published { channel: channel.to_vec(), message: message.to_vec() };
        for link in self.shared.links().values() {
            if !link.try_send(&frame, PUBLISHED_BYTES_MAX) {
                self.shared.channels.count_dropped();
            }
        }
        receivers
    }

    pub fn scan_cursors(&self) -> &ScanCursors {
        &self.shared.scan_cursors
    }

    /// The key after which a SCAN with this cursor continues, from the node that has given the cursor; `None`: it starts
    /// again.
    pub fn scan_position(&self, cursor: u64) -> Position {
        let cursors = self.scan_cursors();
        let node = match cursors.find(cursor) {
            CursorPlace::Here(position) => return position,
            CursorPlace::At(node) => node,
        };
        let link = self.shared.links().get(&node).cloned().filter(Link::is_usable)?;
        cursors.expect(cursor);
        link.send(&Frame::AskScan { cursor });
        cursors.wait(cursor, Instant::now() + SCAN_ANSWER_DEADLINE)
    }

    /// Bytes of this node's keys, values and locks, approximately.
    pub fn kv_bytes(&self) -> u64 {
        self.shared.sizes().kv_bytes
    }

    /// Has other nodes of this host help out at this front door while this node is frozen, and helps out at theirs with
    /// `take`, each in a thread. A client that could not be accepted otherwise is the only loss if that fails.
    pub fn share_front(&self, door: &Listener, take: impl Fn(TcpStream, SocketAddr) + Send + 'static) {
        #[cfg(target_os = "linux")]
        {
            let (giving, serving) = (Arc::clone(&self.shared), Arc::clone(&self.shared));
            let started = door.try_clone().and_then(|door| {
                spawn::spawn("front-share", move || accept::share(&giving, &door))?;
                spawn::spawn("front-silent", move || accept::serve_silent(&serving, take))
            });
            if let Err(e) = started {
                log::warn!("no thread for the front doors of frozen nodes err={e}");
            }
        }
        #[cfg(not(target_os = "linux"))]
        let _ = (door, take);
    }

    /// Starts a thread of an endpoint's own, which ends with it.
    ///
    /// # Errors
    /// When the system refuses another thread.
    pub fn spawn_own(&self, name: &'static str, run: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        spawn::spawn(name, run).map(|_| ())
    }

    /// Why an operation is refused before it is submitted: it is too large, or this node's state is wrong.
    fn refusal(&self, operation: &Operation) -> Option<Reason> {
        match operation {
            Operation::Command { command: bytes, .. } | Operation::Query { query: bytes, .. }
                if bytes.len() > COMMAND_BYTES_MAX =>
            {
                Some(Reason::TooLarge { bytes: bytes.len() as u64 })
            }
            Operation::Command { .. } => self.shared.no_data().or_else(|| self.shared.integrity.no_writes()),
            Operation::Query { .. } => self.shared.no_reads(),
            // No member hears it, so it would wait for nothing.
            Operation::Change(_) | Operation::Transfer(_) => {
                self.shared.outsider().map(|why| Reason::NoLeader(NoLeader::Outsider(why, self.shared.me)))
            }
        }
    }
}

impl Addressing for Handle {
    fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    fn identity(&self) -> Identity {
        self.shared.me
    }

    fn http_addresses(&self) -> Vec<(NodeId, String)> {
        self.shared.known_addresses().into_iter().map(|(id, addresses)| (id, addresses.http)).collect()
    }

    fn dispatch(&self) -> Option<Redirect> {
        let choice = lock(&self.shared.dispatch).pick(self.shared.now_ms())?;
        self.shared.counters.dispatched.fetch_add(1, Ordering::Relaxed);
        if self.shared.hand_outs.add(choice.node) {
            self.shared.inboxes.to_gossip(GossipInput::HandedOut);
        }
        if !choice.ask.is_empty() {
            let links = self.shared.links();
            choice.ask.iter().filter_map(|id| links.get(id)).for_each(|link| link.send(&Frame::Probe));
        }
        Some(Redirect { node: choice.node, http: choice.http, can_serve: choice.can_serve })
    }
}

impl Connections for Handle {
    fn access(&self) -> &ClientAccess {
        &self.shared.access
    }

    fn open_session(&self, kind: &'static str, peer: SocketAddr) -> SessionGuard {
        SessionGuard::open(Arc::clone(&self.shared.sessions), kind, peer)
    }

    fn memory(&self) -> &Arc<MemoryBudget> {
        &self.shared.memory
    }

    fn admit(&self, client: Option<(IpAddr, Arc<TcpStream>)>) -> Result<Admission, String> {
        let max = self.shared.settings.connections_max as usize;
        let counted = ConnectionCount(Arc::clone(&self.connections));
        if self.connections.fetch_add(1, Ordering::AcqRel) < max {
            return Ok(Admission::new(ConnectionSlot::Ordinary, counted));
        }
        drop(counted);
        match client.and_then(|(ip, stream)| self.reserved.enter(ip, stream)) {
            Some(reserved) => Ok(Admission::new(ConnectionSlot::Reserved, reserved)),
            None => Err(format!("{max} connections are open, the limit of connections_max")),
        }
    }

    fn run_connection(&self, name: &'static str, run: Box<dyn FnOnce() + Send>) -> Result<(), String> {
        self.threads.run(name, run).map_err(|e| format!("no thread for the connection: {e}"))
    }

    fn is_stopping(&self) -> bool {
        self.shared.is_stopping()
    }
}

impl Requests for Handle {
    fn ask(&self, operation: Operation, deadline: Instant) -> Answered {
        let begun = Instant::now();
        let is_for_services = matches!(operation, Operation::Command { .. } | Operation::Query { .. });
        let answered = match self.refusal(&operation) {
            None => self.shared.inboxes.ask(operation, deadline),
            Some(why) => Outcome::Refused(why),
        };
        if is_for_services {
            self.answered(&answered, 1, begun.elapsed());
        }
        answered
    }

    fn checkpoint(&self, deadline: Instant) -> Outcome<Index> {
        self.shared.inboxes.run(checkpoint_command(), deadline).map(|(index, _)| index)
    }
}

impl Watching for Handle {
    fn wait_key(&self, key: &[u8], revision: u64, deadline: Instant) -> bool {
        watch::wait(&self.shared, key, revision, deadline)
    }

    fn job(&self, id: JobId) -> Option<Job> {
        let is_readable = self.shared.no_reads().is_none();
        self.shared.jobs().all.get(&id).filter(|_| is_readable).cloned()
    }

    fn await_job(&self, job: JobId, at_least: Index, deadline: Instant) -> Answered {
        match self.shared.no_reads() {
            Some(why) => Outcome::Refused(why),
            None => self.shared.inboxes.await_job(job, at_least, deadline),
        }
    }

    fn live_output(&self, job: JobId, attempt: u32) -> Option<Arc<Output>> {
        self.shared.live.find(job, attempt)
    }

    fn follow_chat(&self) -> ChatReader {
        self.shared.chat.follow()
    }

    fn state_epoch(&self) -> Option<u64> {
        let integrity = &self.shared.integrity;
        (self.shared.no_reads().is_none()).then(|| integrity.epoch())
    }
}

impl Reports for Handle {
    fn frame(&self) -> Arc<Published> {
        self.shared.frames.newest()
    }

    fn fresh_frame(&self) -> Published {
        status::frame(&self.shared, self.shared.frames.newest().seq)
    }

    fn wait_frame(&self, after: u64, deadline: Instant) -> Option<Arc<Published>> {
        self.shared.frames.wait(after, deadline, || self.shared.is_stopping())
    }

    fn events_since(&self, after: EventPosition) -> EventPage {
        self.shared.events.since(after)
    }

    fn wait_events(&self, after: EventPosition, deadline: Instant) -> EventPage {
        self.shared.events.wait(after, deadline, || self.shared.is_stopping())
    }

    fn gossip_json(&self) -> serde_json::Value {
        lock(&self.shared.gossip).to_json(self.shared.now_ms())
    }

    fn runtimes(&self) -> Vec<NodeRuntimes> {
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

    fn integrity(&self) -> IntegrityStatus {
        status::integrity(&self.shared)
    }

    fn readiness(&self) -> Result<(), Vec<String>> {
        let missing = readiness::missing(&self.shared);
        if missing.is_empty() { Ok(()) } else { Err(missing) }
    }

    fn metrics(&self) -> Vec<Metric> {
        let started_ms = self.shared.now_ms() - self.shared.uptime_ms();
        let mut rows = metrics::all(&self.shared);
        rows.extend(process::all(started_ms));
        rows
    }
}
