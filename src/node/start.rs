//! How a node comes to life: folder and ports first, then its cluster, then its threads.
//!
//! Everything that may be refused (a taken port, a locked folder, damaged data, a foreign `config.json`) is tried before
//! anything is started, so a node never half starts. The peer port answers other seekers while this node looks itself.
//! Not here: what the folder holds (`open.rs`), what discovery decides (`cluster/discovery.rs`), how the node ends (`stop.rs`).

use super::apply::ApplyJob;
use super::core::{Core, CoreInput};
use super::disk::DiskJob;
use super::find::{Asker, Lookout, wake};
use super::gossip::GossipInput;
use super::handle::Handle;
use super::seek::RealWorld;
use super::shared::{Parts, Shared, lock};
use super::signals::{self, Signal};
use super::sql::Readers;
use super::sql_files::Folder;
use super::sql_laps::Laps;
use super::stop::{self, Stopper};
use super::worker::WorkerInput;
use super::{
    apply, chat, checkpoints, config_writer, console, disk, front, gossip, large_reads, logging, monitor, open, peers,
    renew, reunite, threads, watch, worker,
};
use crate::cluster::discovery::{Decision, DiscoveryError, Seeker, discover};
use crate::limits::{
    APPLY_INBOX_MAX, CHAT_INBOX_MAX, CORE_INBOX_MAX, DISK_INBOX_MAX, GOSSIP_INBOX_MAX, MONITOR_INBOX_MAX,
    WATCH_INBOX_MAX, WORKER_INBOX_MAX,
};
use crate::raft::{self, Config, Durable, Persist, Raft};
use crate::services::registry::Registry;
use crate::services::sql;
use crate::settings::{LeaderPreference, Settings, to_ticks};
use crate::store::identity::{self, FolderLock, Me};
use crate::store::{self, Files, RealFiles, Store, StoreError, mark};
use crate::types::{Identity, NodeId, Ticks};
use crate::wire::seal::Key;
use crossbeam_channel::{Receiver, bounded};
use log::{info, warn};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{TcpListener, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;
/// The system's rule for a port that several processes listen on.
const SHARED_PORT_HINT: &str = ". If other nodes of this host have it: the system shares a port only among processes of one user, so start all nodes as the \
     same user";
/// What reads of the database leave free on the disk beyond its reserve.
const READS_LEAVE_MB: u64 = 64;
/// File descriptors that a node keeps for itself at least: files of the log, snapshots and database, listeners, strangers and
/// peers on the peer port, reserved slots, pipes of jobs. Of a larger limit an eighth, for more peers.
const OWN_FILES: u64 = 256;
/// A whole stop takes no longer.
const STOP_MAX: Duration = Duration::from_millis(4500);

/// What a door is: the body of its thread.
pub type Door = fn(TcpListener, Handle);

/// The doors, given from above because arrows point down only.
#[derive(Clone, Copy)]
pub struct Doors {
    /// HTTP on `service_port_base + id`.
    pub http: Door,
    /// The shared front door on `service_port`.
    pub front: Door,
    /// The Redis protocol on `kv_port_base + id`.
    pub resp: Door,
}

/// What the command line says beyond the settings.
#[derive(Clone, Debug, Default)]
pub struct NodeOptions {
    /// Number of this node; `None`: the lowest free one.
    pub id: Option<NodeId>,
    /// Discard this node's state first.
    pub rejoin: bool,
    /// Serve clients only: never vote, never run jobs.
    pub is_gateway: bool,
    /// Stop when standard input ends.
    pub ends_with_input: bool,
    /// Obey what its console is told for the sake of a test: to do damage to itself.
    pub is_lab: bool,
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port cannot be had.
    #[error(
        "port {address} ({what}) cannot be used: {source}; stop what listens there or change {key} in settings.json{hint}"
    )]
    Port {
        /// `host:port`.
        address: String,
        /// What for.
        what: &'static str,
        /// Setting that moves it.
        key: &'static str,
        /// What else may be the cause.
        hint: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The data folder.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// No cluster could be found, joined or founded.
    #[error("{0}")]
    Discovery(#[from] DiscoveryError),
    /// The newest snapshot passed its checksums and still makes no sense.
    #[error(
        "the newest snapshot cannot be read: {0}; `phalanx node --id N --rejoin` fetches the state from the leader"
    )]
    Snapshot(io::Error),
    /// The database's folder.
    #[error("the database cannot be opened: {0}")]
    Database(io::Error),
    /// A node that votes was started as a gateway.
    #[error(
        "node {0} is a voter, and a gateway never votes: give the gateway another --id, or start node {0} without --gateway"
    )]
    Voter(u64),
    /// Stopped before it was up.
    #[error("stopped while looking for a cluster")]
    Stopped,
    /// The system refuses threads.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

/// Sockets of a node, bound before anything starts; the doors listen once there is a cluster to serve.
struct Ports {
    peer: TcpListener,
    http: TcpListener,
    resp: TcpListener,
    front: TcpListener,
}

/// Runs a node until it is told to stop; the exit code (STYLE section 4).
pub fn run(mut settings: Settings, options: &NodeOptions, doors: Doors) -> u8 {
    store::make_all_private();
    logging::start();
    bound_connections(&mut settings);
    let (stopper, stop_asked) = Stopper::new();
    obey_signals(&stopper);
    let code = match start(settings, options, &stopper, &stop_asked, doors) {
        Ok(running) => match running.until_stopped(&stop_asked) {
            renew::OUTDATED => {
                logging::flush();
                renew::start_again()
            }
            _ => 0,
        },
        Err(StartError::Stopped) => 0,
        Err(e) => {
            logging::say(&format!("error: {e}"));
            match e {
                StartError::Store(_) | StartError::Snapshot(_) | StartError::Database(_) => 3,
                StartError::Discovery(_) | StartError::Voter(_) => 2,
                _ => 1,
            }
        }
    };
    logging::flush();
    code
}

/// Ctrl+C and SIGTERM stop the node, and so does its terminal when it is closed. Any other SIGHUP opens the log file anew.
fn obey_signals(stopper: &Stopper) {
    let (on_signal, had_terminal) = (stopper.clone(), signals::has_terminal());
    let obey = move |signal| match signal {
        Signal::Interrupt => on_signal.stop("interrupt"),
        Signal::Terminate => on_signal.stop("termination"),
        Signal::HangUp if had_terminal && !signals::has_terminal() => on_signal.stop("terminal closed"),
        Signal::HangUp => {
            logging::reopen();
            info!("log file opened anew, as asked by SIGHUP");
        }
    };
    if let Err(e) = signals::listen(obey) {
        warn!("no signal handler, Ctrl+C will end the node at once err={e}");
    }
}

struct Running {
    shared: Arc<Shared>,
    inboxes: Inboxes,
    /// Peer port, HTTP, Redis protocol, front door: handles to end the accepts with.
    listening: [TcpListener; 4],
    /// In the order in which they are joined: each may still need those after it.
    own: Vec<std::thread::JoinHandle<()>>,
    _folder: FolderLock,
}

struct Inboxes {
    core: crossbeam_channel::Sender<CoreInput>,
    disk: crossbeam_channel::Sender<DiskJob>,
    apply: crossbeam_channel::Sender<ApplyJob>,
    gossip: crossbeam_channel::Sender<GossipInput>,
    worker: crossbeam_channel::Sender<WorkerInput>,
}

fn start(
    settings: Settings,
    options: &NodeOptions,
    stopper: &Stopper,
    stop_asked: &Receiver<&'static str>,
    doors: Doors,
) -> Result<Running, StartError> {
    let files: Arc<dyn Files> = Arc::new(RealFiles);
    let (id, folder) = choose_id(&settings, options)?;
    logging::set_node(id);
    let dir = settings.node_dir(id);
    let mut me = open::load_identity(&*files, &dir, id, options.rejoin)?;
    let ports = bind(&settings, id)?;
    let narrowed = store::narrow(&dir);
    logging::also_to(&dir.join("node.log"));
    for (dir, narrowed) in [(&dir, narrowed), (&settings.data_dir, store::narrow_data(&settings.data_dir))] {
        match narrowed {
            Ok(None) => {}
            Ok(Some(mode)) => warn!("{} was open to others (mode {mode:o}), now it is not", dir.display()),
            Err(e) => warn!("{} may be open to others: {e}", dir.display()),
        }
    }
    info!("node {} starts, version {} uuid {}", id.0, env!("CARGO_PKG_VERSION"), me.uuid);

    let (mut store, mut durable) = open::open(&files, &dir, &mut me)?;
    if let Some(torn) = store.torn_tail() {
        info!("the last write before the crash was cut off, as it was never acknowledged: {torn}");
    }
    let is_gateway = options.is_gateway;
    let key = settings.cluster_secret.as_deref().map(Key::of);
    let find = |me: &mut Me, store: &mut Store, durable: &Durable| {
        find_cluster(&settings, key.as_ref(), &*files, &dir, me, store, durable, &ports, stop_asked, is_gateway)
    };
    let mut found = find(&mut me, &mut store, &durable)?;
    if found == Found::Outdated {
        drop(store);
        me = identity::set_aside(&*files, &dir, &me, Uuid::new_v4())?;
        info!("node {} is now uuid {}", id.0, me.uuid);
        (store, durable) = open::open(&files, &dir, &mut me)?;
        found = find(&mut me, &mut store, &durable)?;
    }
    if found == Found::Founder {
        durable = raft::founding_state(me.identity());
    }
    // Again: the search may have taken long.
    let ours = me.cluster.unwrap_or_else(Uuid::nil);
    if let Some(owner) = front::other_owner(&settings.front_door(), Some(ours)) {
        return Err(DiscoveryError::front_taken(&settings, owner, ours).into());
    }
    let identities = if let Found::Member { identities } = found { identities } else { Vec::new() };
    launch(settings, key, me, dir, store, durable, folder, ports, stopper, doors, options, &identities)
}

/// What a node is that has found its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Found {
    /// It founded it.
    Founder,
    /// One of it, or soon.
    Member {
        /// Members that the leader named, if this node has just joined.
        identities: Vec<Identity>,
    },
    /// One of it, with a folder that is older than what the others remember.
    Outdated,
}

/// Returns when this node has a cluster.
#[expect(clippy::too_many_arguments, reason = "called once, with everything that a node is before it runs")]
fn find_cluster(
    settings: &Settings,
    key: Option<&Key>,
    files: &dyn Files,
    dir: &Path,
    me: &mut Me,
    store: &mut Store,
    durable: &Durable,
    ports: &Ports,
    stop_asked: &Receiver<&'static str>,
    is_gateway: bool,
) -> Result<Found, StartError> {
    let (identity, cluster) = (me.identity(), me.cluster);
    let asker = Asker::new(settings, key.cloned(), identity, cluster, is_gateway);
    let has_log = *durable != Durable::default();
    let known = me.peers.values().map(|addresses| addresses.peer.clone()).collect();
    let free_mb = store::free_bytes(dir)? >> 20;
    let no_disk = (free_mb < settings.disk_reserve_mb).then(|| {
        format!("{free_mb} MiB free, disk_reserve_mb is {}: free some space or lower it", settings.disk_reserve_mb)
    });
    let no_founder = match is_gateway {
        true => Some("it is a gateway; start the nodes that it is to serve, with ./run.sh for example".to_string()),
        false => no_disk,
    };
    let kept = raft::Promise::from(durable);
    let voters = raft::membership_of(durable).map(|membership| membership.voters.clone()).unwrap_or_default();
    let seeker = Seeker { me: identity, cluster, kept, has_log, voters, known, no_founder, settings };
    let lookout = Lookout::start(&ports.peer, asker.clone()).map_err(StartError::Thread)?;
    let world = RealWorld::new(asker, settings.front_door(), stop_asked, |cluster| {
        become_founder(files, dir, me, store, cluster)
    });
    let decision = discover(&seeker, &world)?;
    drop((world, lookout));
    match decision {
        Decision::Resume => Ok(Found::Member { identities: Vec::new() }),
        Decision::Outdated => Ok(Found::Outdated),
        Decision::Founded { .. } => Ok(Found::Founder),
        Decision::Stopping => Err(StartError::Stopped),
        Decision::Joined { cluster, members, identities } => {
            me.cluster = Some(cluster);
            me.peers.extend(members.into_iter().filter(|(id, _)| *id != me.id));
            identity::save(files, dir, me)?;
            Ok(Found::Member { identities })
        }
    }
}

fn choose_id(settings: &Settings, options: &NodeOptions) -> Result<(NodeId, FolderLock), StartError> {
    match options.id {
        Some(id) => Ok((id, identity::lock_patiently(&settings.node_dir(id))?)),
        None => {
            let is_free = |id: NodeId| std::net::TcpListener::bind(&settings.addresses(id).peer).is_ok();
            Ok(identity::lock_lowest(&settings.data_dir, is_free)?)
        }
    }
}

/// What a founder writes, while it holds the lock of `config.json`.
fn become_founder(files: &dyn Files, dir: &Path, me: &mut Me, store: &mut Store, cluster: Uuid) -> Result<(), String> {
    let first = raft::founding_state(me.identity());
    let persist = Persist { seq: 0, hard_state: Some(first.hard_state), install: None, entries: first.entries };
    store.write(&persist).and_then(|()| store.sync()).map_err(|e| e.to_string())?;
    // Last, so that a crash in between leaves a newcomer.
    me.cluster = Some(cluster);
    identity::save(files, dir, me).map_err(|e| e.to_string())
}

fn bind(settings: &Settings, id: NodeId) -> Result<Ports, StartError> {
    let addresses = settings.addresses(id);
    let take = |address: &str, what, key, is_shared| {
        bind_one(address, is_shared).map_err(|source| StartError::Port {
            address: address.to_string(),
            what,
            key,
            hint: if is_shared { SHARED_PORT_HINT } else { "" },
            source,
        })
    };
    let peer = take(&addresses.peer, "nodes", "leader_port_base", false)?;
    rustix::net::listen(&peer, BACKLOG).map_err(|e| StartError::Thread(e.into()))?;
    Ok(Ports {
        peer,
        http: take(&addresses.http, "HTTP", "service_port_base", false)?,
        resp: take(&addresses.kv, "Redis protocol", "kv_port_base", false)?,
        front: take(&settings.front_door(), "front door", "service_port", true)?,
    })
}

/// `SO_REUSEPORT` lets all nodes of a host share the front door; `SO_REUSEADDR` lets a restarted node have its ports back.
fn bind_one(address: &str, is_shared: bool) -> io::Result<TcpListener> {
    let at = address.to_socket_addrs()?.next().ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))?;
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if is_shared {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&at.into())?;
    Ok(socket.into())
}

#[expect(clippy::too_many_arguments, reason = "called once, with everything that a node consists of")]
fn launch(
    settings: Settings,
    peer_key: Option<Key>,
    me: Me,
    dir: PathBuf,
    store: Store,
    durable: Durable,
    folder: FolderLock,
    ports: Ports,
    stopper: &Stopper,
    doors: Doors,
    options: &NodeOptions,
    identities: &[Identity],
) -> Result<Running, StartError> {
    let who = me.identity();
    let anchor = folder.anchor()?;
    let begun = Instant::now();
    let owner = format!("node {} {} of cluster {}", who.id, who.uuid, me.cluster.unwrap_or_else(Uuid::nil));
    let (laps, prepared) = (Arc::new(Laps::default()), Arc::default());
    let sql: Arc<dyn sql::Files> = {
        let reserve_bytes = (settings.disk_reserve_mb + READS_LEAVE_MB) << 20;
        let folder = Folder::open(&dir, owner, reserve_bytes, Arc::clone(&laps), Arc::clone(&prepared));
        Arc::new(folder.map_err(StartError::Database)?)
    };
    if let Err(e) = sql::sort_in(&dir.join("sql")) {
        warn!("reads of the database sort in the system's temporary folder: {e}");
    }
    let mut registry = Registry::default();
    registry.open_sql(sql::Database::in_folder(Arc::clone(&sql)));
    match store.newest_snapshot()? {
        Some(mut reader) => registry.restore(&mut reader).map_err(|e| match e.downcast::<StoreError>() {
            Ok(damaged) => StartError::from(damaged),
            Err(strange) => StartError::Snapshot(strange),
        })?,
        None => registry.settle_sql().map_err(StartError::Database)?,
    }
    let news =
        registry.sql_news().map(|news| format!("node {} {news} in {:.1} s", who.id.0, begun.elapsed().as_secs_f64()));
    let raft = Raft::new(raft_config(&settings, who), durable);
    let is_gateway = options.is_gateway;
    if is_gateway && raft.view().membership.voters.get(&who.id) == Some(&who.uuid) {
        return Err(StartError::Voter(who.id.0));
    }
    let (core_in, core_out) = bounded(CORE_INBOX_MAX);
    let (disk_in, disk_out) = bounded(DISK_INBOX_MAX);
    let (apply_in, apply_out) = bounded(APPLY_INBOX_MAX);
    let (gossip_in, gossip_out) = bounded(GOSSIP_INBOX_MAX);
    let (monitor_in, monitor_out) = bounded(MONITOR_INBOX_MAX);
    let (watch_in, watch_out) = bounded(WATCH_INBOX_MAX);
    let (worker_in, worker_out) = bounded(WORKER_INBOX_MAX);
    let (chat_in, chat_out) = bounded(CHAT_INBOX_MAX);
    let (checkpoints_in, checkpoints_out) = bounded(1);
    let mark = mark::load(&RealFiles, &dir, who.uuid)?;
    let snapshots = store.snapshots();
    let shared = Arc::new(Shared::new(Parts {
        settings,
        me: who,
        cluster: me.cluster.unwrap_or_else(Uuid::nil),
        peer_key,
        dir,
        core: core_in.clone(),
        gossip: gossip_in.clone(),
        monitor: monitor_in,
        watch: watch_in,
        chat: chat_in,
        worker: worker_in.clone(),
        apply: apply_in.clone(),
        is_gateway,
        snapshots: snapshots.clone(),
        sql: Some(Readers::new(sql, laps, prepared)),
        stopper: stopper.clone(),
        known: raft.known(),
        log_ms: registry.applied().at_ms,
        mark,
        checkpoints: checkpoints_in,
        view: raft.view(),
    }));
    shared.publish_frame(monitor::build(&shared, 0));
    shared.set_applied(registry.applied().index);
    shared.event("start", Some(who.id), format!("node {} started", who.id.0));
    if let Some(news) = news {
        warn!("{news}");
        shared.event("database", Some(who.id), news);
    }
    let applied = registry.applied().index;
    // Only now: a node that still looks for its cluster must not swallow its share of the front door's clients. Until it
    // has heard who else is online, it sends them to itself.
    let own_http = shared.settings.addresses(who.id).http;
    lock(&shared.dispatch).set_online(None, &[(who.id, own_http)]);
    for door in [&ports.http, &ports.resp, &ports.front] {
        rustix::net::listen(door, BACKLOG).map_err(|e| StartError::Thread(e.into()))?;
    }
    let clone = |listener: &TcpListener| listener.try_clone().map_err(StartError::Thread);
    let listening = [clone(&ports.peer)?, clone(&ports.http)?, clone(&ports.resp)?, clone(&ports.front)?];

    let mut own = Vec::new();
    let mut thread = |name: &str, run: Box<dyn FnOnce() + Send>| -> Result<(), StartError> {
        own.push(threads::spawn(name, run).map_err(StartError::Thread)?);
        Ok(())
    };
    let (s, disk_for_apply) = (Arc::clone(&shared), disk_in.clone());
    let (large_reads_in, large_reads_out) = large_reads::inbox();
    thread("apply", Box::new(move || apply::run(&s, registry, disk_for_apply, large_reads_in, &apply_out)))?;
    thread("large-reads", Box::new(move || large_reads::run(&large_reads_out)))?;
    let s = Arc::clone(&shared);
    let to_disk = disk_in.clone();
    thread("disk", Box::new(move || disk::run(&s, store, anchor, &to_disk, &disk_out)))?;
    let s = Arc::clone(&shared);
    thread("gossip", Box::new(move || gossip::run(&s, &gossip_out)))?;
    let s = Arc::clone(&shared);
    thread("monitor", Box::new(move || monitor::run(&s, &monitor_out)))?;
    let s = Arc::clone(&shared);
    thread("watch", Box::new(move || watch::run(&s, &watch_out)))?;
    let s = Arc::clone(&shared);
    thread("chat", Box::new(move || chat::run(&s, &chat_out)))?;
    let (s, sender) = (Arc::clone(&shared), worker_in.clone());
    thread("worker", Box::new(move || worker::run(&s, &worker_out, sender)))?;
    let s = Arc::clone(&shared);
    thread("checkpoint", Box::new(move || super::sql::checkpoint(&s)))?;
    let (s, disk_for_checkpoints) = (Arc::clone(&shared), disk_in.clone());
    thread("checkpoints", Box::new(move || checkpoints::run(&s, disk_for_checkpoints, &checkpoints_out)))?;
    let s = Arc::clone(&shared);
    thread("config", Box::new(move || config_writer::run(&s)))?;
    let s = Arc::clone(&shared);
    thread("reunite", Box::new(move || reunite::run(&s)))?;
    let core = Core::new(
        Arc::clone(&shared),
        raft,
        disk_in.clone(),
        apply_in.clone(),
        snapshots,
        me.peers.into_iter().collect(),
        applied,
    );
    for who in identities {
        shared.to_core(CoreInput::Vouched(*who));
    }
    thread("core", Box::new(move || core.run(&core_out)))?;
    let s = Arc::clone(&shared);
    thread("peers", Box::new(move || peers::accept_all(&s, &ports.peer)))?;
    let handle = Handle::new(Arc::clone(&shared));
    let (http, resp, front) = (handle.clone(), handle.clone(), handle);
    thread("http", Box::new(move || (doors.http)(ports.http, http)))?;
    thread("resp", Box::new(move || (doors.resp)(ports.resp, resp)))?;
    thread("door", Box::new(move || (doors.front)(ports.front, front)))?;
    // Not joined: it waits on a terminal that may never say anything again.
    let (s, stopper, options) = (Arc::clone(&shared), stopper.clone(), options.clone());
    let console = move || console::run(&s, &stopper, io::stdin().lock(), &options);
    threads::spawn("console", console).map_err(StartError::Thread)?;

    let inboxes = Inboxes { core: core_in, disk: disk_in, apply: apply_in, gossip: gossip_in, worker: worker_in };
    Ok(Running { shared, inboxes, listening, own, _folder: folder })
}

pub(super) fn raft_config(settings: &Settings, me: Identity) -> Config {
    Config {
        me,
        heartbeat_ticks: settings.heartbeat_ticks(),
        election_timeout_ticks: settings.election_timeout_ticks(),
        rank_delay_ticks: rank_delay(settings),
        highest_id_first: settings.leader_preference == LeaderPreference::HighestId,
        preempt: settings.preempt,
        disk_stall_ticks: Ticks(settings.election_timeout_ticks().0 * 5),
        append_bytes_max: crate::limits::APPEND_BYTES_MAX,
        inflight_bytes_max: crate::limits::INFLIGHT_BYTES_MAX,
        uncommitted_bytes_max: crate::limits::UNCOMMITTED_BYTES_MAX,
        #[cfg(test)]
        flaws: raft::Flaws::default(),
    }
}

/// Long enough for the node of higher id to win before the next one stands, short against the election timeout.
fn rank_delay(settings: &Settings) -> Ticks {
    to_ticks((settings.election_timeout_ms / 20).max(10))
}

/// Thousands of clients need thousands of descriptors and threads. Raises the soft limit of descriptors to the hard one, and
/// keeps clients from taking what the node needs for its own files, peers and threads.
fn bound_connections(settings: &mut Settings) {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut files = getrlimit(Resource::Nofile);
    let raised = rustix::process::Rlimit { current: files.maximum, ..files };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => files = raised,
        Err(e) => warn!("file descriptors stay at their soft limit err={e}"),
    }
    // The system's limit of processes counts all threads of the user; root is not bound by it.
    let is_root = rustix::process::geteuid().is_root();
    let threads = getrlimit(Resource::Nproc).current.filter(|_| !is_root);
    let wanted = settings.connections_max;
    settings.connections_max = connections_within(wanted, files.current, threads);
    if settings.connections_max < wanted {
        let limit = |limit: Option<u64>| limit.map_or_else(|| "none".to_string(), |limit| limit.to_string());
        warn!(
            "connections_max is {wanted}, {} are possible: the limit of open files is {}, of threads {}. Raise them (ulimit -n, \
             ulimit -u) or lower connections_max",
            settings.connections_max,
            limit(files.current),
            limit(threads)
        );
    }
}

/// How many of `wanted` connections leave the node what it needs itself, with so many descriptors, and threads of the user.
fn connections_within(wanted: u32, files: Option<u64>, threads: Option<u64>) -> u32 {
    let by_files = files.map(|max| max.saturating_sub((max / 8).max(OWN_FILES)).max(max / 4));
    let by_threads = threads.map(|max| max / 2);
    let most = by_files.into_iter().chain(by_threads).min().unwrap_or(u64::MAX);
    wanted.min(u32::try_from(most).unwrap_or(u32::MAX)).max(1)
}

/// Ends a listener and the `accept` that waits on it. A connection to the front door could reach any node of this host,
/// so waking by connecting would not do; where the system does not know this shutdown (macOS), it has to.
fn close(listener: TcpListener) {
    if rustix::net::shutdown(&listener, rustix::net::Shutdown::Both).is_err()
        && let Ok(address) = listener.local_addr()
    {
        wake(address);
    }
}

impl Running {
    /// Returns why it stopped.
    fn until_stopped(self, stop_asked: &Receiver<&'static str>) -> &'static str {
        let why = stop_asked.recv().unwrap_or("no one left to ask");
        let begun = Instant::now();
        let shared = &self.shared;
        info!("stopping: {why}");
        shared.event("stop", Some(shared.me.id), format!("node {} stops ({why})", shared.me.id.0));
        // First of all: while it still has a leader to tell, its jobs go on elsewhere.
        let _ = self.inboxes.worker.send_timeout(WorkerInput::Stop, Duration::from_millis(200));
        stop::hand_over(shared);
        shared.begin_stop();
        let [peer, http, resp, front] = self.listening;
        close(http);
        close(resp);
        close(front);
        stop::drain_clients(shared);
        shared.finish_stop();
        close(peer);
        let _ = self.inboxes.gossip.try_send(GossipInput::Stop);
        let _ = self.inboxes.core.send_timeout(CoreInput::Stop, STOP_MAX.saturating_sub(begun.elapsed()));
        let _ = self.inboxes.apply.send_timeout(ApplyJob::Stop, Duration::from_millis(200));
        let _ = self.inboxes.disk.send_timeout(DiskJob::Stop, Duration::from_millis(200));
        for thread in self.own {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_the_node_its_own_files_and_threads() {
        assert_eq!(connections_within(12_000, None, None), 12_000);
        assert_eq!(connections_within(12_000, Some(1 << 20), Some(63_000)), 12_000);
        assert_eq!(connections_within(12_000, Some(4096), None), 4096 - 512);
        assert_eq!(connections_within(12_000, Some(1024), None), 1024 - 256);
        assert_eq!(connections_within(100, Some(1024), None), 100, "fewer are wanted");
        assert_eq!(connections_within(12_000, Some(300), None), 75, "a quarter at least");
        assert_eq!(connections_within(12_000, Some(4096), Some(400)), 200);
        assert_eq!(connections_within(12_000, Some(0), Some(0)), 1);
    }
}
