//! The start of a node: folder and ports first, then its cluster, then its threads.
//!
//! Everything that may fail (a port in use, a locked folder, damaged data, the `config.json` of another cluster) is
//! tried before anything is started, so a node never starts partly. The peer port answers other nodes that look for a
//! cluster while this one does.
//! Not here: what the folder holds (`open.rs`), what discovery decides (`cluster/discovery/`), how the node ends
//! (`stop.rs`).

use super::launch::{Endpoints, LaunchError, NodeParts, Running, launch};
use super::ports::{PortError, Ports};
use super::signals::{self, Signal};
use super::{front_door, logging, open, outdated};
use crate::cluster::discovery::{Claims, Decision, DiscoveryError, Seeker, discover};
use crate::node::lab::follow::follow;
use crate::node::peer::discovery_client::{Asker, DiscoveryResponder};
use crate::node::peer::discovery_io::RealWorld;
use crate::node::shared::stopper::Stopper;
use crate::node::threads::console::ConsoleOptions;
use crate::raft::{self, Durable, Persist};
use crate::settings::Settings;
use crate::store::folder_lock::{self, FolderLock};
use crate::store::identity::{self, StoredIdentity};
use crate::store::{self, Files, RealFiles, Store, StoreError};
use crate::types::{Identity, NodeId, NodeKind};
use crate::wire::authentication::Key;
use crossbeam_channel::Receiver;
use log::{info, warn};
use std::io;
use std::path::Path;
use std::sync::Arc;
use uuid::Uuid;

/// File descriptors that a node needs itself at least: files of the log, snapshots and database, listeners, unknown peers
/// and peers on the peer port, reserved slots, pipes of jobs. Of a larger limit it is an eighth, for more peers.
const OWN_FILES: u64 = 256;

/// The fewest file descriptors with which a node starts: an idle node of three holds 40, and each worker, client and
/// snapshot needs more.
const FILES_MIN: u64 = 128;
/// The least address space with which a node starts, in bytes: an idle node of three reserves 1.1 GiB, most of it for
/// the stacks and heaps of its threads, and uses 50 MiB of it.
const ADDRESS_SPACE_MIN: u64 = 2 << 30;

/// Options of the command line beyond the settings.
#[derive(Clone, Debug, Default)]
pub struct NodeOptions {
    /// Number of this node; `None`: the lowest free one.
    pub id: Option<NodeId>,
    /// Discard this node's state first.
    pub rejoin: bool,
    /// What the node is for.
    pub kind: NodeKind,
    /// Stop when standard input ends.
    pub ends_with_input: bool,
    /// Accept console commands of tests, which damage this node.
    pub is_alterable: bool,
    /// A supervisor keeps faults for this process.
    pub is_supervised: bool,
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port cannot be used.
    #[error("{0}")]
    Port(#[from] PortError),
    /// The data folder.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// No cluster could be found, joined or bootstrapped.
    #[error("{0}")]
    Discovery(#[from] DiscoveryError),
    /// The threads could not be started.
    #[error("{0}")]
    Launch(#[from] LaunchError),
    /// Stopped before it was up.
    #[error("stopped while looking for a cluster")]
    Stopped,
    /// The system refuses threads.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    /// It is to have faults, and nobody tells which.
    #[error("the supervisor of this node does not answer: {0}; start the node with phalanx node --lab")]
    Supervisor(io::Error),
    /// The system gives too few file descriptors.
    #[error(
        "the limit of open files is {0}, a node needs at least {FILES_MIN}: raise it, for example with ulimit -n 4096"
    )]
    Descriptors(u64),
    /// The system gives too little address space: an allocation that fails would abort the node later.
    #[error(
        "the limit of address space is {} MiB, a node needs at least {} MiB: raise it (ulimit -v unlimited)",
        .0 >> 20,
        ADDRESS_SPACE_MIN >> 20
    )]
    AddressSpace(u64),
}

impl StartError {
    fn exit_code(&self) -> u8 {
        use LaunchError::{Database, Snapshot, Voter};
        match self {
            StartError::Store(StoreError::OtherKind { .. })
            | StartError::Discovery(_)
            | StartError::Launch(Voter(_))
            | StartError::Descriptors(_)
            | StartError::AddressSpace(_) => 2,
            StartError::Store(_) | StartError::Launch(LaunchError::Store(_) | Snapshot(_) | Database(_)) => 3,
            _ => 1,
        }
    }
}

/// Runs a node until it is stopped; returns the exit code.
pub fn run(mut settings: Settings, options: &NodeOptions, endpoints: Endpoints) -> u8 {
    store::make_all_private();
    logging::start();
    let (stopper, stop_asked) = Stopper::new();
    obey_signals(&stopper);
    let started =
        bound_connections(&mut settings).and_then(|()| start(settings, options, &stopper, &stop_asked, endpoints));
    let code = match started {
        Ok(running) => match running.until_stopped(&stop_asked) {
            outdated::OUTDATED => {
                logging::flush();
                outdated::restart()
            }
            _ => 0,
        },
        Err(StartError::Stopped) => 0,
        Err(e) => {
            logging::print(&format!("error: {e}"));
            e.exit_code()
        }
    };
    logging::flush();
    code
}

/// Ctrl+C, SIGTERM and closing its terminal stop the node. Any other SIGHUP reopens the log file.
fn obey_signals(stopper: &Stopper) {
    let (on_signal, had_terminal) = (stopper.clone(), signals::has_terminal());
    let obey = move |signal| match signal {
        Signal::Interrupt => on_signal.stop("interrupt"),
        Signal::Terminate => on_signal.stop("termination"),
        Signal::HangUp if had_terminal && !signals::has_terminal() => on_signal.stop("terminal closed"),
        Signal::HangUp => {
            logging::reopen();
            info!("log file reopened (SIGHUP)");
        }
    };
    if let Err(e) = signals::listen(obey) {
        warn!("cannot install a signal handler, Ctrl+C will kill the node err={e}");
    }
}

fn start(
    settings: Settings,
    options: &NodeOptions,
    stopper: &Stopper,
    stop_asked: &Receiver<&'static str>,
    endpoints: Endpoints,
) -> Result<Running, StartError> {
    let files: Arc<dyn Files> = Arc::new(RealFiles);
    let (id, folder) = choose_id(&settings, options)?;
    logging::set_node(id);
    if options.is_supervised {
        follow(&settings, id).map_err(StartError::Supervisor)?;
    }
    let dir = settings.node_dir(id);
    let mut me = open::load_identity(&*files, &dir, id, options.kind, options.rejoin)?;
    let ports = Ports::bind(&settings, id)?;
    let narrowed = store::narrow(&dir);
    logging::also_to(&dir.join("node.log"));
    for (dir, narrowed) in [(&dir, narrowed), (&settings.data_dir, store::narrow_data(&settings.data_dir))] {
        match narrowed {
            Ok(None) => {}
            Ok(Some(mode)) => warn!("{} was accessible to other users (mode {mode:o}); access removed", dir.display()),
            Err(e) => warn!("cannot restrict access to {} to its owner: {e}", dir.display()),
        }
    }
    info!("node {} starts, version {} uuid {}", id.0, env!("CARGO_PKG_VERSION"), me.uuid);

    let (mut store, mut durable) = open::open(&files, &dir, &mut me)?;
    if let Some(torn) = store.torn_tail() {
        info!("truncated an incomplete write at the end of the log, which was never acknowledged: {torn}");
    }
    let kind = options.kind;
    let key = settings.cluster_secret.as_deref().map(Key::of);
    let search =
        Search { settings: &settings, key: key.as_ref(), files: &*files, dir: &dir, ports: &ports, stop_asked, kind };
    let mut found = search.run(&mut me, &mut store, &durable)?;
    if found == ClusterRole::Outdated {
        drop(store);
        me = identity::set_aside(&*files, &dir, &me, Uuid::new_v4())?;
        info!("node {} is now uuid {}", id.0, me.uuid);
        (store, durable) = open::open(&files, &dir, &mut me)?;
        found = search.run(&mut me, &mut store, &durable)?;
    }
    if found == ClusterRole::Bootstrapped {
        durable = raft::bootstrap_state(me.identity());
    }
    // Checked again, because the search may have taken long.
    let ours = me.cluster.unwrap_or_else(Uuid::nil);
    if let Some(owner) = front_door::other_owner(&settings.local_front_door(), Some(ours)) {
        return Err(DiscoveryError::front_taken(&settings, owner, ours).into());
    }
    let members = if let ClusterRole::Member { identities } = found { identities } else { Vec::new() };
    let console = ConsoleOptions { ends_with_input: options.ends_with_input, is_alterable: options.is_alterable };
    let stopper = stopper.clone();
    let parts =
        NodeParts { settings, peer_key: key, me, dir, folder, store, durable, ports, stopper, kind, console, members };
    Ok(launch(parts, endpoints)?)
}

/// How a node belongs to its cluster, as discovery has found.
#[derive(Clone, Debug, PartialEq, Eq)]
enum ClusterRole {
    /// It has bootstrapped the cluster.
    Bootstrapped,
    /// It is a member, or will be one soon. `identities`: the members that the leader named, if this node has just
    /// joined.
    Member { identities: Vec<Identity> },
    /// It is a member with a data folder that is older than what the others remember.
    Outdated,
}

/// The input of the search for the cluster.
struct Search<'a> {
    settings: &'a Settings,
    key: Option<&'a Key>,
    files: &'a dyn Files,
    dir: &'a Path,
    ports: &'a Ports,
    stop_asked: &'a Receiver<&'static str>,
    kind: NodeKind,
}

impl Search<'_> {
    /// Returns when this node has a cluster.
    fn run(&self, me: &mut StoredIdentity, store: &mut Store, durable: &Durable) -> Result<ClusterRole, StartError> {
        let Search { settings, key, files, dir, ports, stop_asked, kind } = *self;
        let (identity, cluster) = (me.identity(), me.cluster);
        let asker = Asker::new(settings, key.cloned(), identity, cluster, kind);
        let has_log = *durable != Durable::default();
        let known = me.peers.values().map(|addresses| addresses.peer.clone()).collect();
        let free_mb = store::free_bytes(dir)? >> 20;
        let no_disk = (free_mb < settings.disk_reserve_mb).then(|| {
            format!("{free_mb} MiB free, disk_reserve_mb is {}: free some space or lower it", settings.disk_reserve_mb)
        });
        let no_bootstrap = match kind {
            NodeKind::Gateway => {
                Some("it is a gateway; start the nodes of the cluster, for example with ./run.sh".to_string())
            }
            NodeKind::Witness => Some("it is a witness, which keeps no data; start a full node first".to_string()),
            NodeKind::Full => no_disk,
        };
        let kept = raft::Promise::from(durable);
        let voters = raft::membership_of(durable).map(|membership| membership.voters.clone()).unwrap_or_default();
        let seeker = Seeker {
            me: identity,
            cluster,
            kept,
            has_log,
            voters,
            known,
            no_bootstrap,
            settings,
            #[cfg(any(test, feature = "planted-bugs"))]
            bugs: Default::default(),
        };
        let claims = Arc::new(Claims::default());
        let responder = DiscoveryResponder::start(&ports.peer, asker.clone(), Arc::clone(&claims));
        let responder = responder.map_err(StartError::Thread)?;
        let world = RealWorld::new(asker, claims, settings.local_front_door(), stop_asked, |cluster| {
            bootstrap(files, dir, me, store, cluster)
        });
        let decision = discover(&seeker, &world)?;
        drop((world, responder));
        match decision {
            Decision::Resume => Ok(ClusterRole::Member { identities: Vec::new() }),
            Decision::Outdated => Ok(ClusterRole::Outdated),
            Decision::Bootstrapped { .. } => Ok(ClusterRole::Bootstrapped),
            Decision::Stopping => Err(StartError::Stopped),
            Decision::Joined { cluster, members, identities } => {
                me.cluster = Some(cluster);
                me.peers.extend(members.into_iter().filter(|(id, _)| *id != me.id));
                identity::save(files, dir, me)?;
                Ok(ClusterRole::Member { identities })
            }
        }
    }
}

fn choose_id(settings: &Settings, options: &NodeOptions) -> Result<(NodeId, FolderLock), StartError> {
    match options.id {
        Some(id) => Ok((id, folder_lock::lock_with_retries(&settings.node_dir(id))?)),
        None => Ok(folder_lock::lock_lowest(&settings.data_dir, |id| Ports::is_free(settings, id))?),
    }
}

/// Writes the first state of a new cluster, while this node holds the lock of `config.json`.
fn bootstrap(
    files: &dyn Files,
    dir: &Path,
    me: &mut StoredIdentity,
    store: &mut Store,
    cluster: Uuid,
) -> Result<(), String> {
    let first = raft::bootstrap_state(me.identity());
    let persist = Persist { seq: 0, hard_state: Some(first.hard_state), install: None, entries: first.entries };
    store.write(&persist).and_then(|()| store.sync()).map_err(|e| e.to_string())?;
    // Last, so that a crash before leaves a new node.
    me.cluster = Some(cluster);
    identity::save(files, dir, me).map_err(|e| e.to_string())
}

/// Raises the soft limit of descriptors to the hard one, because thousands of clients need thousands of descriptors,
/// and lowers `connections_max` so that enough descriptors and threads remain for the node's own files, peers and
/// threads.
///
/// # Errors
///
/// [`StartError::Descriptors`] and [`StartError::AddressSpace`] where a limit is too low for a node.
fn bound_connections(settings: &mut Settings) -> Result<(), StartError> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut files = getrlimit(Resource::Nofile);
    let raised = rustix::process::Rlimit { current: files.maximum, ..files };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => files = raised,
        Err(e) => warn!("cannot raise the soft limit of open files err={e}"),
    }
    if let Some(limit) = files.current.filter(|limit| *limit < FILES_MIN) {
        return Err(StartError::Descriptors(limit));
    }
    if let Some(limit) = getrlimit(Resource::As).current.filter(|limit| *limit < ADDRESS_SPACE_MIN) {
        return Err(StartError::AddressSpace(limit));
    }
    // The system's limit of processes counts all threads of the user; root is not bound by it.
    let is_root = rustix::process::geteuid().is_root();
    let threads = getrlimit(Resource::Nproc).current.filter(|_| !is_root);
    let wanted = settings.connections_max;
    settings.connections_max = connections_within(wanted, files.current, threads);
    if settings.connections_max < wanted {
        let limit = |limit: Option<u64>| limit.map_or_else(|| "none".to_string(), |limit| limit.to_string());
        warn!(
            "connections_max is {wanted}, {} are possible: the limit of open files is {}, that of threads {}. Raise \
             the limits (ulimit -n, ulimit -u) or lower connections_max",
            settings.connections_max,
            limit(files.current),
            limit(threads)
        );
    }
    Ok(())
}

/// How many of `wanted` connections are possible with these limits of descriptors and of the user's threads.
fn connections_within(wanted: u32, files: Option<u64>, threads: Option<u64>) -> u32 {
    let by_files = files.map(|max| max.saturating_sub((max / 8).max(OWN_FILES)).max(max / 4));
    let by_threads = threads.map(|max| max / 2);
    let most = by_files.into_iter().chain(by_threads).min().unwrap_or(u64::MAX);
    wanted.min(u32::try_from(most).unwrap_or(u32::MAX)).max(1)
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
