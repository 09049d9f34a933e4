//! The `gossip` thread: sends a heartbeat every `gossip_ms`, receives those of the others, and updates what follows
//! from them: the nodes that are online, those that the front door may choose, and what this node registered in the
//! directory.
//!
//! Not here: what a table contains and when a node counts as failed (`cluster/gossip.rs`).

use crate::cluster::gossip::{Edge, GossipRow, GossipTable};
use crate::cluster::log_clock::SkewNews;
use crate::lock::{Mutex, lock};
use crate::node::reports::heartbeat::own_row;
use crate::node::shared::clock::{mono_us, now_ms as wall_ms};
use crate::node::shared::cluster_state::is_removed;
use crate::node::shared::messages::{CoreInput, GossipInput};
use crate::node::shared::{Shared, inbox};
use crate::node::views::events::Author;
use crate::services::Replicated;
use crate::services::directory::Command;
use crate::services::directory::Directory;
use crate::types::{Addresses, Identity, NodeId};
use crate::wire::Frame;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use log::{info, warn};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Time between two tries to register this node's addresses.
const REGISTER_EVERY: Duration = Duration::from_millis(500);

struct Beats {
    shared: Arc<Shared>,
    rng: fastrand::Rng,
    registering: Arc<AtomicBool>,
    /// Lines of the history are on their way into the log.
    recording: Arc<AtomicBool>,
    /// Why the addresses could not be registered, as it was last logged: later tries log only another reason.
    logged_error: Arc<Mutex<Option<String>>>,
    last_register: Option<Instant>,
}

/// Body of the thread.
pub fn run(shared: &Arc<Shared>, inbox: &Receiver<GossipInput>) {
    let mut beats = Beats {
        shared: Arc::clone(shared),
        rng: fastrand::Rng::new(),
        registering: Arc::new(AtomicBool::new(false)),
        recording: Arc::new(AtomicBool::new(false)),
        logged_error: Arc::new(Mutex::default()),
        last_register: None,
    };
    let every = Duration::from_millis(shared.settings.gossip_ms);
    let mut next = Instant::now();
    loop {
        let now = Instant::now();
        // Before the inbox is read: a report may be due without a message, which a full inbox has dropped.
        if let Some(choices) = shared.hand_outs.take_due(now) {
            beats.send_choices(choices);
        }
        let until = shared.hand_outs.due(now).map_or(next, |due| due.min(next));
        match inbox::park(inbox, until) {
            Ok(GossipInput::Heard { from, table }) => beats.heard(from, &table),
            Ok(GossipInput::Refused(id)) => beats.refused(id),
            Ok(GossipInput::HandedOut) => {}
            Ok(GossipInput::Changed) => beats.refresh_dispatch(shared.now_ms()),
            Ok(GossipInput::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) if Instant::now() < next => {}
            Err(RecvTimeoutError::Timeout) => {
                beats.beat();
                // After a pause of the process the missed heartbeats are not sent.
                next = (next + every).max(Instant::now());
            }
        }
    }
}

impl Beats {
    fn beat(&mut self) {
        let now_ms = self.shared.now_ms();
        let view = self.shared.view();
        let links = self.shared.links();
        let peers: Vec<NodeId> = links.keys().copied().collect();
        let row = own_row(&self.shared);
        let beat = lock(&self.shared.gossip).tick(now_ms, row, view.raft.leader, &peers, &mut self.rng);
        let is_member = |row: &&GossipRow| view.raft.membership.is_member(&Identity { id: row.id, uuid: row.uuid });
        let rows = || beat.table.rows.iter().filter(is_member);
        let committed = rows().map(|row| row.commit_index).max().unwrap_or_default();
        let ends = rows().map(|row| (row.id, row.last_index));
        lock(&self.shared.lags).note(now_ms, committed, ends);
        let log_ms = lock(&self.shared.log_clock).now(mono_us());
        let table = Frame::Gossip(GossipTable { wall_ms: wall_ms(), log_ms, ..beat.table });
        for id in &beat.to {
            if let Some(link) = links.get(id) {
                link.send(&table);
            }
        }
        self.report(&beat.edges);
        self.refresh_dispatch(now_ms);
        self.register();
        self.record_history();
    }

    fn heard(&mut self, from: NodeId, table: &GossipTable) {
        let now_ms = self.shared.now_ms();
        // A node that is named by a node of this cluster belongs to it: tables of strangers are dropped before.
        let view = self.shared.view();
        for row in &table.rows {
            let who = Identity { id: row.id, uuid: row.uuid };
            if who != self.shared.me && !view.known.contains(&who) {
                self.shared.inboxes.to_core(CoreInput::Vouched(who));
            }
        }
        self.compare_clocks(from, table);
        let edges = {
            let mut gossip = lock(&self.shared.gossip);
            let edges = gossip.merge(now_ms, from, table);
            // The newest row of each node, whichever node sent it: a worker's own heartbeat reaches this front door
            // only now and then.
            let mut dispatch = lock(&self.shared.dispatch);
            for (row, ..) in gossip.all(now_ms) {
                dispatch.report(now_ms, row.id, row.load, row.sessions_opened_total);
            }
            edges
        };
        self.report(&edges);
        // Also without an edge: a new node is a worker at once, not at the next heartbeat. A front door that learns of
        // it while clients arrive restarts its rotation, and the unfinished rotations of five front doors add up.
        self.refresh_dispatch(now_ms);
    }

    /// A node's heartbeat contains its wall clock, and the leader's contains log time.
    fn compare_clocks(&self, from: NodeId, table: &GossipTable) {
        let view = self.shared.view();
        if let Some(log_ms) = table.log_ms {
            lock(&self.shared.log_clock).heard(log_ms, view.raft.leader == Some(from), mono_us());
        }
        let news = lock(&self.shared.skews).heard(from, table.wall_ms, wall_ms(), mono_us());
        let text = match news {
            Some(SkewNews::Off(ahead_ms)) => {
                let (by_s, way) =
                    (ahead_ms.unsigned_abs() as f64 / 1e3, if ahead_ms > 0 { "ahead of" } else { "behind" });
                format!(
                    "the clock of node {} is {by_s:.1} s {way} this node's: check that time synchronization (NTP) \
                        runs on both",
                    from.0
                )
            }
            Some(SkewNews::Fine) => format!("the clocks of node {} and this node agree again", from.0),
            None => return,
        };
        warn!("{text}");
        self.shared.event("clock", Some(from), text);
    }

    fn refused(&mut self, id: NodeId) {
        let now_ms = self.shared.now_ms();
        let edge = lock(&self.shared.gossip).refused(now_ms, id);
        if let Some(edge) = edge {
            self.report(&[edge]);
            self.refresh_dispatch(now_ms);
        }
    }

    fn report(&self, edges: &[Edge]) {
        for edge in edges {
            if matches!(edge, Edge::Failed { .. }) {
                lock(&self.shared.skews).forget(edge.id());
            }
            info!("{edge}");
            self.shared.history_event(Author::Leader, "failure", Some(edge.id()), edge.to_string());
        }
    }

    /// Updates the online workers and this node's own load.
    fn refresh_dispatch(&self, now_ms: u64) {
        let view = self.shared.view();
        // A node that was removed still gets some clients of the front door: it redirects them to the others.
        let is_removed = is_removed(&view.raft, self.shared.me);
        let leader = view.raft.leader.or_else(|| lock(&self.shared.gossip).leader().filter(|_| is_removed));
        // A node that serves no reads does not count as a worker.
        let corrupt = self.shared.corrupt_nodes();
        // Clients are not redirected to gateways.
        let gateways = &self.shared.directory().gateways;
        let online: Vec<(NodeId, String)> = self
            .shared
            .known_addresses()
            .into_iter()
            .filter(|(id, _)| self.shared.is_online(*id) && !(is_removed && *id == self.shared.me.id))
            .filter(|(id, _)| !gateways.contains(id) && !corrupt.contains_key(id))
            .map(|(id, addresses)| (id, addresses.http))
            .collect();
        let sessions = &self.shared.sessions;
        let mut dispatch = lock(&self.shared.dispatch);
        dispatch.set_online(leader, &online);
        dispatch.report(now_ms, self.shared.me.id, sessions.count() as u64, sessions.opened_total());
    }

    /// Sends this front door's choices to all others.
    fn send_choices(&self, choices: Vec<(NodeId, u32)>) {
        let choices = Frame::HandedOut(choices);
        for link in self.shared.links().values() {
            link.send(&choices);
        }
    }

    /// Writes into the log what belongs to the cluster's history.
    fn record_history(&mut self) {
        let (me, view) = (self.shared.me, self.shared.view());
        let is_member = view.raft.membership.uuid_of(me.id) == Some(me.uuid);
        let Some(leader) = view.raft.leader.filter(|_| is_member) else { return };
        if self.recording.load(Ordering::Acquire) {
            return;
        }
        let (lines, leaders) = self.shared.for_history.take(leader == me.id, self.shared.now_ms());
        if lines.is_empty() && leaders.is_empty() {
            return;
        }
        self.recording.store(true, Ordering::Release);
        // Waiting for the answer here would stop the heartbeats.
        let (shared, recording) = (Arc::clone(&self.shared), Arc::clone(&self.recording));
        let started = crate::node::spawn::spawn("history", move || {
            let command = Command::Record { lines: lines.clone(), leaders: leaders.clone() };
            let done = shared.inboxes.run(Directory::encode_command(&command), shared.request_deadline());
            if done.into_result().is_err() {
                shared.for_history.put_back(lines, leaders);
            }
            recording.store(false, Ordering::Release);
        });
        if let Err(e) = started {
            self.recording.store(false, Ordering::Release);
            warn!("no thread to write the history err={e}");
        }
    }

    /// Registers this node's addresses in the log, once and whenever they change.
    fn register(&mut self) {
        let me = self.shared.me;
        let addresses: Addresses = self.shared.settings.addresses(me.id);
        let view = self.shared.view();
        let is_known = self.shared.directory().has(me, &addresses, self.shared.is_gateway);
        let is_member = view.raft.membership.uuid_of(me.id) == Some(me.uuid);
        let is_too_soon = self.last_register.is_some_and(|at| at.elapsed() < REGISTER_EVERY);
        if is_known || !is_member || view.raft.leader.is_none() || is_too_soon {
            return;
        }
        if self.registering.swap(true, Ordering::AcqRel) {
            return;
        }
        self.last_register = Some(Instant::now());
        // Waiting for the answer here would stop the heartbeats.
        let (shared, registering) = (Arc::clone(&self.shared), Arc::clone(&self.registering));
        let logged_error = Arc::clone(&self.logged_error);
        let started = crate::node::spawn::spawn("register", move || {
            let command =
                Directory::encode_command(&Command::Register { who: me, addresses, is_gateway: shared.is_gateway });
            let deadline = shared.request_deadline();
            let error = shared.inboxes.run(command, deadline).into_result().err();
            let before = std::mem::replace(&mut *lock(&logged_error), error.clone());
            if let Some(why) = error.filter(|error| before.as_ref() != Some(error)) {
                info!("addresses not registered yet err={why:?}");
            }
            registering.store(false, Ordering::Release);
        });
        if let Err(e) = started {
            self.registering.store(false, Ordering::Release);
            warn!("no thread to register addresses err={e}");
        }
    }
}
