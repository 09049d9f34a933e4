//! The `gossip` thread: sends a heartbeat every `gossip_ms`, receives those of the others, and updates what follows
//! from them: the nodes that are online, those that the front door may choose, and what this node registered in the
//! directory.
//!
//! Not here: what a table contains and when a node counts as failed (`cluster/gossip.rs`).

use crate::cluster::dispatch::{Candidate, KnownLeader};
use crate::cluster::gossip::{Edge, Gossip, GossipRow, GossipTable};
use crate::cluster::log_clock::SkewNews;
use crate::cluster::reachability::relay::{Paths, PeerLink, Reports};
use crate::lock::{Mutex, lock};
use crate::node::frozen_neighbours::Neighbour;
use crate::node::reports::heartbeat::{LoadWatch, own_row};
use crate::node::reports::readiness;
use crate::node::shared::clock::{mono_us, now_ms as wall_ms};
use crate::node::shared::cluster_state::is_removed;
use crate::node::shared::link::Link;
use crate::node::shared::messages::{CoreInput, GossipInput};
use crate::node::shared::{Shared, inbox};
use crate::node::views::events::Author;
use crate::raft::{Role, quorum};
use crate::services::Replicated;
use crate::services::directory::Command;
use crate::services::directory::Directory;
use crate::types::{Addresses, Identity, NodeId};
use crate::wire::Frame;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use log::{info, warn};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Time between two tries to register this node's addresses.
const REGISTER_EVERY: Duration = Duration::from_millis(500);

struct GossipThread {
    shared: Arc<Shared>,
    rng: fastrand::Rng,
    registering: Arc<AtomicBool>,
    /// Lines of the history are on their way into the log.
    recording: Arc<AtomicBool>,
    /// Why the addresses could not be registered, as it was last logged: later tries log only another reason.
    logged_error: Arc<Mutex<Option<String>>>,
    last_register: Option<Instant>,
    load_watch: LoadWatch,
    paths: Paths,
    last_beat_ms: u64,
}

/// What heartbeats say of the peers' connections.
struct Rows<'a> {
    gossip: &'a Gossip,
    now_ms: u64,
}

impl Reports for Rows<'_> {
    fn misses(&self, peer: NodeId, other: NodeId) -> Option<bool> {
        let is_fresh = self.gossip.is_fresh(self.now_ms, peer);
        let (row, _) = self.gossip.row(self.now_ms, peer).filter(|_| is_fresh)?;
        Some(row.unreached.contains(&other))
    }
}

/// Body of the thread.
pub fn run(shared: &Arc<Shared>, inbox: &Receiver<GossipInput>) {
    let mut thread = GossipThread {
        shared: Arc::clone(shared),
        rng: fastrand::Rng::new(),
        registering: Arc::new(AtomicBool::new(false)),
        recording: Arc::new(AtomicBool::new(false)),
        logged_error: Arc::new(Mutex::default()),
        last_register: None,
        load_watch: LoadWatch::new(),
        paths: Paths::new(shared.me.id, shared.settings.gossip_ms, shared.settings.fail_after_ms),
        last_beat_ms: shared.now_ms(),
    };
    let every = Duration::from_millis(shared.settings.gossip_ms);
    let mut next = Instant::now();
    loop {
        let now = Instant::now();
        // Before the inbox is read: a report may be due without a message, which a full inbox has dropped.
        if let Some(choices) = shared.hand_outs.take_due(now) {
            thread.send_choices(choices);
        }
        let until = shared.hand_outs.due(now).map_or(next, |due| due.min(next));
        match inbox::park(inbox, until) {
            Ok(GossipInput::Heard { from, table }) => thread.on_table(from, &table),
            Ok(GossipInput::Refused(id)) => thread.refused(id),
            Ok(GossipInput::HandedOut) => {}
            Ok(GossipInput::Changed) => thread.refresh_dispatch(shared.now_ms()),
            Ok(GossipInput::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) if Instant::now() < next => {}
            Err(RecvTimeoutError::Timeout) => {
                thread.beat();
                // After a pause of the process the missed heartbeats are not sent.
                next = (next + every).max(Instant::now());
            }
        }
    }
}

impl GossipThread {
    fn beat(&mut self) {
        let now_ms = self.shared.now_ms();
        let view = self.shared.view();
        let links = self.shared.links();
        let peers: Vec<NodeId> = links.keys().copied().collect();
        self.load_watch.maybe_note(&self.shared);
        self.update_ways(now_ms, &links);
        let row = own_row(&self.shared);
        let round = lock(&self.shared.gossip).tick(now_ms, row, view.raft.leader, &peers, &mut self.rng);
        let is_member = |row: &&GossipRow| view.raft.membership.is_member(&Identity { id: row.id, uuid: row.uuid });
        let rows = || round.table.rows.iter().filter(is_member);
        let committed = rows().map(|row| row.commit_index).max().unwrap_or_default();
        let ends = rows().map(|row| (row.id, row.last_index));
        lock(&self.shared.lags).note(now_ms, committed, ends);
        let log_ms = lock(&self.shared.log_clock).now(mono_us());
        let table = Frame::Gossip(GossipTable { wall_ms: wall_ms(), log_ms, ..round.table });
        // A connection that does not work is tried at each heartbeat: what arrives shows that it works again.
        let ways = self.shared.ways();
        let to: BTreeSet<&NodeId> = round.to.iter().chain(&ways.unreached).chain(ways.relayed.keys()).collect();
        for id in to {
            if let Some(link) = links.get(id) {
                link.send(&table);
            }
        }
        self.report(&round.edges);
        self.refresh_dispatch(now_ms);
        self.publish_neighbours(now_ms);
        self.register();
        self.record_history();
    }

    fn on_table(&mut self, from: NodeId, table: &GossipTable) {
        let now_ms = self.shared.now_ms();
        // A node that is named by a node of this cluster belongs to it: tables of unknown nodes are dropped before.
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
                dispatch.report(now_ms, row.id, row.load.total(), row.sessions_opened_total);
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
            lock(&self.shared.log_clock).on_log_time(log_ms, view.raft.leader == Some(from), mono_us());
        }
        let news = lock(&self.shared.skews).on_heartbeat(from, table.wall_ms, wall_ms(), mono_us());
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
            match edge {
                Edge::Failed { id, .. } => lock(&self.shared.skews).forget(*id),
                Edge::Back { id, down_ms } => {
                    let failed_at = Instant::now().checked_sub(Duration::from_millis(*down_ms));
                    if let (Some(link), Some(failed_at)) = (self.shared.links().get(id), failed_at) {
                        link.renew(failed_at);
                    }
                }
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
        // Clients are not redirected to gateways, nor to witnesses.
        let nodes = self.shared.directory();
        let is_full = |id: NodeId| !nodes.gateways.contains(&id) && !nodes.witnesses.contains(&id);
        let is_own = |id: NodeId| id == self.shared.me.id;
        let is_ready = readiness::missing(&self.shared).is_empty();
        // Before the lock, which asking whether a node is online takes too.
        let known: Vec<(NodeId, Addresses)> = self
            .shared
            .known_addresses()
            .into_iter()
            .filter(|(id, _)| self.shared.is_online(*id) && !(is_removed && is_own(*id)))
            .filter(|(id, _)| is_full(*id) && !corrupt.contains_key(id))
            .collect();
        let gossip = lock(&self.shared.gossip);
        let candidate = |(id, addresses): (NodeId, Addresses)| Candidate {
            id,
            http: addresses.http,
            is_fresh: gossip.is_fresh(now_ms, id),
            is_ready: if is_own(id) { is_ready } else { gossip.row(now_ms, id).is_some_and(|(row, _)| row.is_ready) },
        };
        let online: Vec<Candidate> = known.into_iter().map(candidate).collect();
        let voters = &view.raft.membership.voters;
        let heard = voters.keys().filter(|id| gossip.is_fresh(now_ms, **id)).count();
        drop(gossip);
        let leadership = match leader {
            Some(leader) => KnownLeader::Of(leader),
            None if heard >= quorum(voters.len()) => KnownLeader::Electing,
            None => KnownLeader::Unknown,
        };
        let (load, opened) = (self.shared.load().total(), self.shared.sessions.opened_total());
        let mut dispatch = lock(&self.shared.dispatch);
        dispatch.set_online(leadership, &online);
        dispatch.report(now_ms, self.shared.me.id, load, opened);
    }

    /// Determines how each peer is reached, and has its link send that way.
    fn update_ways(&mut self, now_ms: u64, links: &BTreeMap<NodeId, Link>) {
        let view = self.shared.view();
        let is_leading = view.raft.role == Role::Leader;
        let leader = view.raft.leader.or_else(|| lock(&self.shared.gossip).leader());
        let peer_link = |(id, link): (&NodeId, &Link)| PeerLink {
            id: *id,
            is_connected: link.is_up(),
            is_refused: link.is_refused(),
            is_regular: (is_leading && view.raft.membership.is_member(&link.who)) || leader == Some(*id),
            heard_ms: self.shared.heard.of(*id).load(Ordering::Relaxed),
        };
        let all: Vec<PeerLink> = links.iter().map(peer_link).collect();
        let pause_ms = now_ms.saturating_sub(self.last_beat_ms);
        if pause_ms > 2 * self.shared.settings.gossip_ms {
            self.paths.exclude_pause(pause_ms, now_ms);
        }
        self.last_beat_ms = now_ms;
        let gossip = lock(&self.shared.gossip);
        let ways = self.paths.update(now_ms, &all, &Rows { gossip: &gossip, now_ms });
        drop(gossip);
        for (id, link) in links {
            let by = ways.relayed.get(id);
            if link.set_way(by.and_then(|by| links.get(by))) {
                // What was sent the other way may be lost.
                self.shared.inboxes.to_core(CoreInput::Rerouted(*id));
                match by {
                    Some(by) => info!("peer reached through another node peer={id} by={by}"),
                    None => info!("peer no longer reached through another node peer={id}"),
                }
            }
        }
        if *self.shared.set_ways(ways.clone()) != ways {
            self.shared.inboxes.wake_monitor();
        }
    }

    /// The other nodes of this host, and whether each is silent.
    fn publish_neighbours(&self, now_ms: u64) {
        let host = |http: &str| http.rsplit_once(':').map(|(host, _)| host.to_string());
        let known = self.shared.known_addresses();
        let own = host(&self.shared.settings.addresses(self.shared.me.id).http);
        let gossip = lock(&self.shared.gossip);
        let neighbour = |(id, addresses): (NodeId, Addresses)| {
            let (row, _) = gossip.row(now_ms, id).filter(|_| host(&addresses.http) == own)?;
            Some(Neighbour { id, pid: row.pid, is_silent: !gossip.is_fresh(now_ms, id) })
        };
        let neighbours = known.into_iter().filter_map(neighbour).collect();
        drop(gossip);
        self.shared.neighbours.set(neighbours);
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
        let is_known = self.shared.directory().has(me, &addresses, self.shared.kind);
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
            let command = Directory::encode_command(&Command::register(me, addresses, shared.kind));
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
