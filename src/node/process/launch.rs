//! From a node's parts to its running threads, and from there to its end.
//!
//! Not here: how the parts are found (`start.rs`), what a thread does (its own file).

use super::ports::{Ports, close};
use super::sql_folder::SqlFolder;
use super::{outdated, stop};
use crate::cluster::dispatch::{Candidate, KnownLeader};
use crate::limits;
use crate::lock::lock;
use crate::node::datagrams::Datagrams;
use crate::node::handle::Handle;
use crate::node::listener::Listener;
use crate::node::peer::{acceptor, address_search, datagram_reader};
use crate::node::reports::status;
use crate::node::shared::Shared;
use crate::node::shared::inboxes::{self, Receivers};
use crate::node::shared::messages::{
    ApplyJob, CoreInput, DiskJob, GossipInput, PubSubInput, TakeoverInput, WorkerInput,
};
use crate::node::shared::state::Parts;
use crate::node::shared::stopper::Stopper;
use crate::node::snapshots::checkpoints;
use crate::node::spawn;
use crate::node::sql::reader_pool::ReaderPool;
use crate::node::takeover;
use crate::node::threads::console::ConsoleOptions;
use crate::node::threads::core::Core;
use crate::node::threads::{
    apply, chat, config_writer, console, disk, gossip, large_reads, monitor, pubsub, sql_checkpoint, watch, worker,
};
use crate::node::views::events::Author;
use crate::node::views::statement_timings::StatementTimings;
#[cfg(any(test, feature = "planted-bugs"))]
use crate::planted_bugs::RaftBugs;
use crate::raft::{Config, Durable, Raft};
use crate::services::registry::Registry;
use crate::services::sql;
use crate::settings::{LeaderPreference, Settings, to_ticks};
use crate::store::anchor::Anchor;
use crate::store::folder_lock::FolderLock;
use crate::store::identity::StoredIdentity;
use crate::store::{RealFiles, Store, StoreError, integrity_record};
use crate::types::{Identity, NodeKind, Ticks};
use crate::wire::authentication::Key;
use crossbeam_channel::Receiver;
use log::{info, warn};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// What reads of the database must leave free on the disk beyond its reserve, in MiB.
const READS_LEAVE_MB: u64 = 64;
/// Longest duration of a stop.
const STOP_MAX: Duration = Duration::from_millis(4500);
/// Of that, what leaving in order may take: transferring leadership, clients, the vote.
const STEPS_MAX: Duration = Duration::from_millis(3500);

/// The body of an endpoint's thread.
pub type Endpoint = fn(Listener, Handle);

/// The endpoints, given from above because arrows point down only.
#[derive(Clone, Copy)]
pub struct Endpoints {
    /// HTTP on `service_port_base + id`.
    pub http: Endpoint,
    /// The shared front door on `service_port`.
    pub front: Endpoint,
    /// The Redis protocol on `kv_port_base + id`.
    pub resp: Endpoint,
}

/// Why a node that has its parts did not start.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The data folder.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The newest snapshot passed its checksums and still cannot be decoded.
    #[error(
        "the newest snapshot cannot be read: {0}; `phalanx node --id N --rejoin` fetches the state from the leader"
    )]
    Snapshot(io::Error),
    /// The database's folder.
    #[error("the database cannot be opened: {0}")]
    Database(io::Error),
    /// A node that votes was started as a gateway.
    #[error(
        "node {0} is a voter, and a gateway cannot vote: give the gateway another --id, or start node {0} without \
            --gateway"
    )]
    Voter(u64),
    /// The system refuses threads.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

/// A node that has found its cluster, before its threads run.
pub struct NodeParts {
    pub settings: Settings,
    /// Made of `cluster_secret`, for the peer port.
    pub peer_key: Option<Key>,
    /// Identity, cluster and known peers, as on disk.
    pub me: StoredIdentity,
    /// The data folder.
    pub dir: PathBuf,
    /// Locks it against other processes.
    pub folder: FolderLock,
    /// The log and the snapshots.
    pub store: Store,
    /// The state of raft in them.
    pub durable: Durable,
    pub ports: Ports,
    pub stopper: Stopper,
    pub kind: NodeKind,
    pub console: ConsoleOptions,
    /// Members that the leader named, if this node has just joined.
    pub members: Vec<Identity>,
}

/// A node whose threads run.
pub struct Running {
    shared: Arc<Shared>,
    /// Peer port, HTTP, Redis protocol, front door: handles to end the accepts with.
    listening: [Listener; 4],
    /// In the order in which they are joined: each may still need those after it.
    threads: Vec<std::thread::JoinHandle<()>>,
    _folder: FolderLock,
}

/// The services as the newest snapshot has them, and who reads the database.
struct Services {
    registry: Registry,
    /// `None`: it has no database.
    readers: Option<ReaderPool>,
    /// Repairs of the database.
    news: Vec<String>,
}

impl Services {
    fn open(settings: &Settings, me: &StoredIdentity, dir: &Path, store: &Store) -> Result<Services, LaunchError> {
        let (who, begun) = (me.identity(), Instant::now());
        let owner = format!("node {} {} of cluster {}", who.id, who.uuid, me.cluster.unwrap_or_else(Uuid::nil));
        let (timings, prepared) = (Arc::new(StatementTimings::default()), Arc::default());
        sql::check_build().map_err(|e| LaunchError::Database(io::Error::other(e)))?;
        let files: Arc<dyn sql::Files> = {
            let reserve_bytes = (settings.disk_reserve_mb + READS_LEAVE_MB) << 20;
            let folder = SqlFolder::open(dir, owner, reserve_bytes, Arc::clone(&timings), Arc::clone(&prepared));
            Arc::new(folder.map_err(LaunchError::Database)?)
        };
        if let Err(e) = sql::sort_in(&dir.join("sql")) {
            warn!("SQL reads sort in the temporary folder of the system: {e}");
        }
        let mut registry = Registry::default();
        registry.sql = sql::Database::in_folder(Arc::clone(&files));
        restore(&mut registry, store)?;
        let seconds = begun.elapsed().as_secs_f64();
        let news = registry.take_news().into_iter().map(|news| format!("node {} {news} in {seconds:.1} s", who.id.0));
        let news = news.collect();
        Ok(Services { registry, readers: Some(ReaderPool::new(files, timings, prepared)), news })
    }

    /// A witness has no data. The file of a database is there if the folder was that of a full node before it joined
    /// again.
    fn of_witness(dir: &Path, store: &Store) -> Result<Services, LaunchError> {
        match std::fs::remove_dir_all(dir.join("sql")) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(LaunchError::Database(e)),
            _ => {}
        }
        let mut registry = Registry::of_witness();
        restore(&mut registry, store)?;
        Ok(Services { registry, readers: None, news: Vec::new() })
    }
}

/// Brings the services to the newest snapshot.
fn restore(registry: &mut Registry, store: &Store) -> Result<(), LaunchError> {
    match store.newest_snapshot()? {
        Some(mut reader) => registry.restore(&mut reader).map_err(|e| match e.downcast::<StoreError>() {
            Ok(damaged) => LaunchError::from(damaged),
            Err(other) => LaunchError::Snapshot(other),
        }),
        None => registry.reset_services().map_err(LaunchError::Database),
    }
}

/// Starts the threads.
///
/// # Errors
/// See [`LaunchError`]; nothing runs then, unless it is the system that refuses a thread.
pub fn launch(parts: NodeParts, endpoints: Endpoints) -> Result<Running, LaunchError> {
    let NodeParts { settings, peer_key, me, dir, folder, store, durable, mut ports, stopper, kind, console, members } =
        parts;
    let who = me.identity();
    let anchor = folder.anchor()?;
    let Services { registry, readers, news } = match kind {
        NodeKind::Witness => Services::of_witness(&dir, &store)?,
        NodeKind::Full | NodeKind::Gateway => Services::open(&settings, &me, &dir, &store)?,
    };
    let leads_only_to_pass_on = kind == NodeKind::Witness;
    let raft = Raft::new(Config { leads_only_to_pass_on, ..raft_config(&settings, who) }, durable);
    if kind == NodeKind::Gateway && raft.membership().voters.get(&who.id) == Some(&who.uuid) {
        return Err(LaunchError::Voter(who.id.0));
    }
    let (inboxes, receivers) = inboxes::channels();
    let integrity_record = integrity_record::load(&RealFiles, &dir, who.uuid)?;
    let shared = Arc::new(Shared::new(Parts {
        settings,
        me: who,
        cluster: me.cluster.unwrap_or_else(Uuid::nil),
        peer_key,
        dir,
        inboxes,
        kind,
        snapshots: store.snapshots(),
        sql: readers,
        datagrams: Datagrams::new(std::mem::take(&mut ports.datagrams)),
        stopper,
        known: raft.known(),
        log_ms: registry.applied().at_ms,
        integrity_record,
        view: raft.view(),
    }));
    let applied = registry.applied().index;
    shared.frames.publish(status::frame(&shared, 0));
    shared.set_applied(applied);
    shared.history_event(Author::Noticer, "start", Some(who.id), format!("node {} started", who.id.0));
    for news in news {
        warn!("{news}");
        shared.event("database", Some(who.id), news);
    }
    // Only now: a node that is still looking for its cluster must not accept clients of the front door. Until it knows
    // which other nodes are online, it redirects them to itself.
    let http = shared.settings.addresses(who.id).http;
    let own = Candidate { id: who.id, http, is_fresh: true, is_ready: false };
    let serving = if kind == NodeKind::Witness { Vec::new() } else { vec![own] };
    lock(&shared.dispatch).set_online(KnownLeader::Electing, &serving);
    ports.listen_for_clients().map_err(LaunchError::Thread)?;
    let clone = |listener: &Listener| listener.try_clone().map_err(LaunchError::Thread);
    let listening = [clone(&ports.peer)?, clone(&ports.http)?, clone(&ports.resp)?, clone(&ports.front)?];
    let core = || Core::new(Arc::clone(&shared), raft, me.peers.into_iter().collect(), applied);
    let mut threads = Threads { shared: &shared, started: Vec::new() };
    threads.start_owners(registry, store, anchor, core, &members, receivers)?;
    threads.start_endpoints(ports, endpoints)?;
    let threads = threads.started;
    // Not joined: it waits for a terminal that may never send anything again.
    let s = Arc::clone(&shared);
    spawn::spawn("console", move || console::run(&s, io::stdin().lock(), console)).map_err(LaunchError::Thread)?;
    Ok(Running { shared, listening, threads, _folder: folder })
}

/// The threads that were started, in the order in which they are joined: each may still need those after it.
struct Threads<'a> {
    shared: &'a Arc<Shared>,
    started: Vec<JoinHandle<()>>,
}

impl Threads<'_> {
    fn start(&mut self, name: &str, run: impl FnOnce(Arc<Shared>) + Send + 'static) -> Result<(), LaunchError> {
        let shared = Arc::clone(self.shared);
        self.started.push(spawn::spawn(name, move || run(shared)).map_err(LaunchError::Thread)?);
        Ok(())
    }

    /// The node's own threads. `core` makes the core thread's state, when the threads that it sends to run.
    fn start_owners(
        &mut self,
        registry: Registry,
        store: Store,
        anchor: Anchor,
        core: impl FnOnce() -> Core,
        members: &[Identity],
        inbox: Receivers,
    ) -> Result<(), LaunchError> {
        let (large_reads_inbox, large_reads) = large_reads::inbox();
        self.start("apply", move |s| apply::run(&s, registry, large_reads_inbox, &inbox.apply))?;
        self.start("large-reads", move |_| large_reads::run(&large_reads))?;
        self.start("disk", move |s| disk::run(&s, store, anchor, &inbox.disk))?;
        self.start("gossip", move |s| gossip::run(&s, &inbox.gossip))?;
        self.start("monitor", move |s| monitor::run(&s, &inbox.monitor))?;
        self.start("watch", move |s| watch::run(&s, &inbox.watch))?;
        self.start("chat", move |s| chat::run(&s, &inbox.chat))?;
        self.start("pubsub", move |s| pubsub::run(&s, &inbox.pubsub))?;
        self.start("worker", move |s| worker::run(&s, &inbox.worker))?;
        self.start("checkpoint", |s| sql_checkpoint::run(&s))?;
        self.start("checkpoints", move |s| checkpoints::run(&s, &inbox.checkpoints))?;
        self.start("config", |s| config_writer::run(&s))?;
        self.start("addr-search", |s| address_search::run(&s))?;
        let core = core();
        for who in members {
            self.shared.inboxes.to_core(CoreInput::Vouched(*who));
        }
        let choices = raft_config(&self.shared.settings, self.shared.me);
        self.start("takeover", move |s| takeover::run(&s, choices, &inbox.takeover))?;
        self.start("core", move |_| core.run(&inbox.core))
    }

    /// The peer port, and what clients connect to.
    fn start_endpoints(&mut self, ports: Ports, endpoints: Endpoints) -> Result<(), LaunchError> {
        let handle = Handle::new(Arc::clone(self.shared));
        let (http, resp, front) = (handle.clone(), handle.clone(), handle);
        self.start("peers", move |s| acceptor::accept_all(&s, &ports.peer))?;
        for socket in self.shared.datagrams.sockets() {
            let socket = Arc::clone(socket);
            self.start("datagrams", move |s| datagram_reader::read_all(&s, &socket))?;
        }
        self.start("http", move |_| (endpoints.http)(ports.http, http))?;
        self.start("resp", move |_| (endpoints.resp)(ports.resp, resp))?;
        self.start("front", move |_| (endpoints.front)(ports.front, front))
    }
}

pub(crate) fn raft_config(settings: &Settings, me: Identity) -> Config {
    Config {
        me,
        heartbeat_ticks: settings.heartbeat_ticks(),
        election_timeout_ticks: settings.election_timeout_ticks(),
        election_timeout_min_ticks: to_ticks(settings.election_timeout_min_ms),
        election_timeout_max_ticks: to_ticks(settings.election_timeout_max_ms),
        rank_delay_ticks: rank_delay(settings),
        highest_id_first: settings.leader_preference == LeaderPreference::HighestId,
        preempt: settings.preempt,
        disk_stall_ticks: Ticks(settings.election_timeout_ticks().0 * 5),
        append_bytes_max: limits::APPEND_BYTES_MAX,
        inflight_bytes_max: limits::INFLIGHT_BYTES_MAX,
        uncommitted_bytes_max: limits::UNCOMMITTED_BYTES_MAX,
        leads_only_to_pass_on: false,
        #[cfg(any(test, feature = "planted-bugs"))]
        bugs: RaftBugs::default(),
    }
}

/// Long enough for the node of the highest id to win before the next one campaigns, short against the election timeout.
fn rank_delay(settings: &Settings) -> Ticks {
    to_ticks((settings.election_timeout_ms / 20).max(10))
}

impl Running {
    /// Waits until the node is to stop, and stops it; returns the reason.
    pub fn until_stopped(self, stop_asked: &Receiver<&'static str>) -> &'static str {
        let why = stop_asked.recv().unwrap_or("its control channel closed");
        let begun = Instant::now();
        let until = begun + STEPS_MAX;
        let shared = &self.shared;
        let inboxes = &shared.inboxes;
        info!("stopping: {why}");
        shared.event("stop", Some(shared.me.id), format!("node {} stops ({why})", shared.me.id.0));
        let is_outdated = why == outdated::OUTDATED;
        if !is_outdated {
            stop::send_goodbye(shared);
        }
        // While there is a leader: so its jobs continue on other nodes.
        let _ = inboxes.worker.send_timeout(WorkerInput::Stop, Duration::from_millis(200));
        stop::transfer_leadership(shared, until);
        shared.begin_stop();
        let [peer, http, resp, front] = self.listening;
        close(&http);
        close(&resp);
        close(&front);
        stop::drain_clients(shared, until);
        if !is_outdated {
            stop::give_vote_back(shared, until);
        }
        shared.finish_stop();
        close(&peer);
        shared.datagrams.wake();
        let _ = inboxes.gossip.try_send(GossipInput::Stop);
        let _ = inboxes.pubsub.send_timeout(PubSubInput::Stop, Duration::from_millis(200));
        let _ = inboxes.takeover.try_send(TakeoverInput::Stop);
        let _ = inboxes.core.send_timeout(CoreInput::Stop, STOP_MAX.saturating_sub(begun.elapsed()));
        let _ = inboxes.apply.send_timeout(ApplyJob::Stop, Duration::from_millis(200));
        let _ = inboxes.disk.send_timeout(DiskJob::Stop, Duration::from_millis(200));
        for thread in self.threads {
            let name = thread.thread().name().unwrap_or("?").to_string();
            while !thread.is_finished() && begun.elapsed() < STOP_MAX {
                std::thread::sleep(Duration::from_millis(2));
            }
            match thread.is_finished() {
                true => drop(thread.join()),
                false => warn!("thread {name} did not end in time"),
            }
        }
        info!("stopped after {} ms", begun.elapsed().as_millis());
        why
    }
}
