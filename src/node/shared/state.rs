//! What the threads of a node publish for each other and for the endpoints: small values behind short locks.
//!
//! In `state/`: figures for `/metrics` (`counters.rs`), the node's clocks (`clocks.rs`), what `apply` publishes
//! (`applied.rs`), the stages of a stop (`stopping.rs`).
//! Not here: what follows from them for the cluster (`cluster_state.rs`), the owners (`node/threads/`).

mod applied;
mod clocks;
mod counters;
mod stopping;

pub use self::counters::Counters;
use super::clock::now_ms;
use super::hand_outs::HandOuts;
use super::hosted::Hosted;
use super::inboxes::Inboxes;
use super::link::{HeardTimes, Link};
use super::memory::MemoryBudget;
use super::messages::{GossipInput, WorkerInput};
use super::stopper::Stopper;
use crate::cluster::config::file::Projection;
use crate::cluster::dispatch::Dispatch;
use crate::cluster::gossip::Gossip;
use crate::cluster::lag::Lags;
use crate::cluster::load::{Load, LoadMeter};
use crate::cluster::log_clock::{LogClock, Skews};
use crate::cluster::reachability::relay::Ways;
use crate::lock::{Mutex, Permit, lock};
use crate::node::client_access::ClientAccess;
use crate::node::datagrams::Datagrams;
use crate::node::frozen_neighbours::Neighbours;
use crate::node::peer::frame_memory::FrameMemory;
use crate::node::peer::silent_learners::SilentLearners;
use crate::node::process::logging::{self, EXIT_DISK};
use crate::node::pubsub::Channels;
use crate::node::quota::Sizes;
use crate::node::scan_cursors::ScanCursors;
use crate::node::sql::reader_pool::ReaderPool;
use crate::node::views::activity::Activity;
use crate::node::views::catch_up::CatchUp;
use crate::node::views::chat_feed::ChatFeed;
use crate::node::views::events::{Author, Events, FailoverLog, HistoryQueue};
use crate::node::views::frames::Frames;
use crate::node::views::integrity::Integrity;
use crate::node::views::jobs::JobsView;
use crate::node::views::live_output::Live;
use crate::node::views::sessions::Sessions;
use crate::outcome::Outsider;
use crate::raft::View;
use crate::services::directory::{History, HistoryLine, Nodes};
use crate::settings::Settings;
use crate::store::integrity_record::IntegrityRecord;
use crate::store::{Snapshots, StoreError};
use crate::types::{Addresses, Identity, Index, NodeId, NodeKind, Term};
use crate::wire::authentication::Key;
use crate::wire::heartbeat::JobReport;
use log::error;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;
use uuid::Uuid;

/// What `core` publishes after each change.
#[derive(Clone, Debug)]
pub struct CoreView {
    pub raft: View,
    /// Identities whose frames are accepted: see `raft/guard.rs`.
    pub known: BTreeSet<Identity>,
    /// Nodes that stop.
    pub leaving: BTreeSet<NodeId>,
}

/// Everything that more than one thread of a node uses.
pub struct Shared {
    pub settings: Settings,
    pub me: Identity,
    pub cluster: Uuid,
    /// Made of `cluster_secret`, for the peer port.
    pub peer_key: Option<Key>,
    /// Its data folder.
    pub dir: PathBuf,
    /// The inboxes of its threads.
    pub inboxes: Inboxes,
    /// Client connections.
    pub sessions: Arc<Sessions>,
    pub frames: Frames,
    pub events: Events,
    /// Changes of leader.
    pub failovers: FailoverLog,
    /// Events that are to be written into the replicated history.
    pub for_history: HistoryQueue,
    /// The heartbeats of the other nodes.
    pub gossip: Mutex<Gossip>,
    /// Nodes that do not catch up.
    pub lags: Mutex<Lags>,
    pub log_clock: Mutex<LogClock>,
    /// How far the others' wall clocks are ahead of this node's.
    pub skews: Mutex<Skews>,
    /// The choice of workers to which the front door redirects clients.
    pub dispatch: Mutex<Dispatch>,
    /// When frames of the peers last arrived over their own connections.
    pub heard: HeardTimes,
    /// How the peers are reached.
    ways: Mutex<Arc<Ways>>,
    /// Averages for this node's load.
    pub load_meter: Mutex<LoadMeter>,
    /// The other nodes of this host.
    pub neighbours: Neighbours,
    /// Redirects of which the other nodes are to be informed.
    pub hand_outs: HandOuts,
    pub counters: Counters,
    /// What the services hold, as applied.
    sizes: Mutex<Sizes>,
    /// How fast clients are answered.
    pub activity: Activity,
    /// Bytes that connections may hold.
    pub memory: Arc<MemoryBudget>,
    /// Who may use its endpoints.
    pub access: ClientAccess,
    /// How many clients wait for a key to change.
    pub watchers: AtomicUsize,
    /// Output of the jobs that run here.
    pub live: Live,
    /// Who subscribes to which channels.
    pub channels: Channels,
    pub scan_cursors: ScanCursors,
    /// The chat as the services have it, and who follows it.
    pub chat: Arc<ChatFeed>,
    /// This process as a worker: each process of a node has another identity.
    pub worker: Identity,
    pub kind: NodeKind,
    /// Connections that read the database.
    pub sql: Option<ReaderPool>,
    /// When another node was last heard as the leader, in milliseconds of uptime plus one; 0: never.
    leader_heard_ms: AtomicU64,
    /// Known differences between the nodes' states.
    pub integrity: Integrity,
    /// How long this node takes to apply what it has missed.
    pub catch_up: CatchUp,
    /// Less than `disk_reserve_mb` is free.
    is_disk_low: AtomicBool,
    /// What the leader reports about this node, if it is not a member (`node/peer/former_member.rs`).
    outsider: Mutex<Option<Outsider>>,
    /// The newest version of `config.json` that this node knows.
    pub config_file: Mutex<Option<Arc<Projection>>>,
    /// Addresses in `peers` at which a node cannot join, and why (`node/peer/mismatched_peers.rs`).
    mismatched_peers: Mutex<BTreeMap<String, String>>,
    /// Voters of dead processes that this node hosts.
    pub hosted: Hosted,
    pub stopper: Stopper,
    /// Held while a snapshot is being received.
    pub incoming_snapshot: Permit,
    /// Memory for large frames that peers are sending.
    pub frame_memory: FrameMemory,
    /// Datagrams of links that lose packets.
    pub datagrams: Datagrams,
    /// Members that this node has admitted and that were not heard yet.
    pub silent_learners: Mutex<SilentLearners>,
    started: Instant,
    started_ms: u64,
    view: Mutex<Arc<CoreView>>,
    directory: Mutex<Arc<Nodes>>,
    history: Mutex<Arc<History>>,
    jobs: Mutex<Arc<JobsView>>,
    job_report: Mutex<Arc<JobReport>>,
    peer_addresses: Mutex<Arc<BTreeMap<NodeId, Addresses>>>,
    links: Mutex<Arc<BTreeMap<NodeId, Link>>>,
    applied: AtomicU64,
    /// Index that this process must have applied before it is ready; 0: not known yet.
    must_reach: AtomicU64,
    /// Log time in milliseconds at which a key or lock expires next; `u64::MAX`: none will.
    next_expiry_ms: AtomicU64,
    /// Index of the newest state, if it contains expired keys that were not removed yet; else 0.
    left_at: AtomicU64,
    snapshots: Snapshots,
    is_stopping: AtomicBool,
    is_stopped: AtomicBool,
}

/// What [`Shared::new`] needs.
pub struct Parts {
    pub settings: Settings,
    pub me: Identity,
    pub cluster: Uuid,
    /// Made of `cluster_secret`.
    pub peer_key: Option<Key>,
    /// Its data folder.
    pub dir: PathBuf,
    /// The inboxes of its threads.
    pub inboxes: Inboxes,
    pub kind: NodeKind,
    pub snapshots: Snapshots,
    /// The database, if it has one.
    pub sql: Option<ReaderPool>,
    pub datagrams: Datagrams,
    pub stopper: Stopper,
    /// What an earlier process knew of this node's state.
    pub integrity_record: Option<IntegrityRecord>,
    /// Raft as recovered.
    pub view: View,
    /// Identities whose frames are accepted at the start.
    pub known: BTreeSet<Identity>,
    /// Log time of the newest entry that the snapshot covers.
    pub log_ms: u64,
}

impl Shared {
    /// The published state of a node that is about to start.
    pub fn new(parts: Parts) -> Shared {
        let started_ms = now_ms();
        Shared {
            gossip: Mutex::new(Gossip::new(parts.me, started_ms, &parts.settings)),
            dispatch: Mutex::new(Dispatch::new(parts.me.id)),
            hand_outs: HandOuts::default(),
            lags: Mutex::default(),
            memory: MemoryBudget::of_setting(parts.settings.memory_budget_mb),
            access: ClientAccess::new(parts.settings.client_password.as_deref(), parts.peer_key.as_ref()),
            settings: parts.settings,
            me: parts.me,
            cluster: parts.cluster,
            peer_key: parts.peer_key,
            dir: parts.dir,
            sessions: Arc::default(),
            events: Events::default(),
            failovers: FailoverLog::default(),
            for_history: HistoryQueue::default(),
            log_clock: Mutex::new(LogClock::recovered(parts.log_ms)),
            skews: Mutex::default(),
            heard: HeardTimes::default(),
            ways: Mutex::default(),
            load_meter: Mutex::default(),
            neighbours: Neighbours::default(),
            counters: Counters::default(),
            activity: Activity::default(),
            sizes: Mutex::default(),
            watchers: AtomicUsize::new(0),
            live: Live::default(),
            channels: Channels::default(),
            scan_cursors: ScanCursors::new(parts.me.id, Uuid::new_v4().as_u64_pair().1),
            chat: Arc::new(ChatFeed::new(parts.inboxes.chat.clone())),
            inboxes: parts.inboxes,
            worker: Identity { id: parts.me.id, uuid: Uuid::new_v4() },
            kind: parts.kind,
            sql: parts.sql,
            leader_heard_ms: AtomicU64::new(0),
            integrity: Integrity::new(parts.integrity_record),
            catch_up: CatchUp::new(parts.view.last_index > Index(0)),
            is_disk_low: AtomicBool::new(false),
            outsider: Mutex::default(),
            config_file: Mutex::default(),
            mismatched_peers: Mutex::default(),
            hosted: Hosted::default(),
            stopper: parts.stopper,
            incoming_snapshot: Permit::new(),
            frame_memory: FrameMemory::default(),
            datagrams: parts.datagrams,
            silent_learners: Mutex::default(),
            started: Instant::now(),
            started_ms,
            view: Mutex::new(Arc::new(CoreView { raft: parts.view, known: parts.known, leaving: BTreeSet::new() })),
            directory: Mutex::default(),
            history: Mutex::default(),
            jobs: Mutex::default(),
            job_report: Mutex::default(),
            peer_addresses: Mutex::default(),
            links: Mutex::default(),
            applied: AtomicU64::new(0),
            must_reach: AtomicU64::new(0),
            next_expiry_ms: AtomicU64::new(u64::MAX),
            left_at: AtomicU64::new(0),
            frames: Frames::default(),
            snapshots: parts.snapshots,
            is_stopping: AtomicBool::new(false),
            is_stopped: AtomicBool::new(false),
        }
    }

    pub fn view(&self) -> Arc<CoreView> {
        Arc::clone(&lock(&self.view))
    }

    /// Publishes raft's view, also to the log lines' prefix.
    pub fn set_view(&self, view: CoreView) {
        logging::set_place(view.raft.term, view.raft.role);
        let view = Arc::new(view);
        let before = std::mem::replace(&mut *lock(&self.view), Arc::clone(&view));
        let key = |v: &View| (v.role, v.term, v.leader, v.commit_index, v.last_index, v.has_quorum, v.transfer_to);
        if key(&before.raft) != key(&view.raft) {
            self.inboxes.wake_monitor();
        }
        if before.raft.leader != view.raft.leader || before.raft.membership != view.raft.membership {
            self.inboxes.to_gossip(GossipInput::Changed);
        }
    }

    /// The history as this node has applied it.
    pub fn history(&self) -> Arc<History> {
        Arc::clone(&lock(&self.history))
    }

    pub fn set_history(&self, history: Arc<History>) {
        *lock(&self.history) = history;
        self.inboxes.wake_monitor();
    }

    /// Newest node table of the directory.
    pub fn directory(&self) -> Arc<Nodes> {
        Arc::clone(&lock(&self.directory))
    }

    pub fn set_directory(&self, nodes: Arc<Nodes>) {
        *lock(&self.directory) = nodes;
        self.inboxes.to_gossip(GossipInput::Changed);
        self.inboxes.wake_monitor();
    }

    /// The outgoing links as they are now.
    pub fn links(&self) -> Arc<BTreeMap<NodeId, Link>> {
        Arc::clone(&lock(&self.links))
    }

    pub fn set_links(&self, links: &BTreeMap<NodeId, Link>) {
        *lock(&self.links) = Arc::new(links.clone());
    }

    /// How the peers are reached, as of the last heartbeat.
    pub fn ways(&self) -> Arc<Ways> {
        Arc::clone(&lock(&self.ways))
    }

    /// Returns the previous value.
    pub fn set_ways(&self, ways: Ways) -> Arc<Ways> {
        std::mem::replace(&mut *lock(&self.ways), Arc::new(ways))
    }

    pub fn load(&self) -> Load {
        lock(&self.load_meter).load(self.sessions.count() as u64)
    }

    /// Where peers can be reached.
    pub fn peer_addresses(&self) -> Arc<BTreeMap<NodeId, Addresses>> {
        Arc::clone(&lock(&self.peer_addresses))
    }

    pub fn set_peer_addresses(&self, peer_addresses: &BTreeMap<NodeId, Addresses>) {
        let mut published = lock(&self.peer_addresses);
        if **published != *peer_addresses {
            *published = Arc::new(peer_addresses.clone());
            self.inboxes.to_gossip(GossipInput::Changed);
        }
    }

    /// The jobs as the services have them.
    pub fn jobs(&self) -> Arc<JobsView> {
        Arc::clone(&lock(&self.jobs))
    }

    pub fn set_jobs(&self, view: JobsView) {
        let view = Arc::new(view);
        let before = std::mem::replace(&mut *lock(&self.jobs), Arc::clone(&view));
        if !view.is_same_work(&before) {
            // A full inbox means that the thread will check anyway.
            let _ = self.inboxes.worker.try_send(WorkerInput::JobsChanged);
        }
        self.inboxes.wake_monitor();
    }

    /// Which jobs this node can run, for its heartbeats.
    pub fn job_report(&self) -> Arc<JobReport> {
        Arc::clone(&lock(&self.job_report))
    }

    pub fn set_job_report(&self, report: JobReport) {
        *lock(&self.job_report) = Arc::new(report);
    }

    /// Whether this node's disk is nearly full.
    pub fn is_disk_low(&self) -> bool {
        self.is_disk_low.load(Ordering::Acquire)
    }

    pub fn set_disk_low(&self, is_low: bool) {
        self.is_disk_low.store(is_low, Ordering::Release);
        self.inboxes.wake_monitor();
    }

    /// What the leader reported about this node, if it is not a member.
    pub fn asked_outsider(&self) -> Option<Outsider> {
        *lock(&self.outsider)
    }

    pub fn set_outsider(&self, outsider: Option<Outsider>) {
        let before = std::mem::replace(&mut *lock(&self.outsider), outsider);
        if before != outsider {
            self.inboxes.wake_monitor();
        }
    }

    /// Addresses in `peers` at which a node cannot join, and why.
    pub fn mismatched_peers(&self) -> BTreeMap<String, String> {
        lock(&self.mismatched_peers).clone()
    }

    /// Returns the previous value.
    pub fn set_mismatched_peers(&self, mismatched: BTreeMap<String, String>) -> BTreeMap<String, String> {
        let is_new = *lock(&self.mismatched_peers) != mismatched;
        let before = std::mem::replace(&mut *lock(&self.mismatched_peers), mismatched);
        if is_new {
            self.inboxes.wake_monitor();
        }
        before
    }

    /// Snapshot files of this node.
    pub fn snapshots(&self) -> Snapshots {
        self.snapshots.clone()
    }

    /// Records an event that belongs to the history of the cluster, which all nodes have alike.
    pub fn history_event(&self, author: Author, kind: &'static str, node: Option<NodeId>, text: String) {
        let (at_ms, kind_of) = (self.now_ms(), kind.to_string());
        self.for_history.push(author, HistoryLine { at_ms, kind: kind_of, node, text: text.clone() });
        self.event(kind, node, text);
    }

    /// Records an event of this node, for `/v1/events`.
    pub fn event(&self, kind: &'static str, node: Option<NodeId>, text: String) {
        self.events.push(self.now_ms(), kind, node, text);
        self.inboxes.wake_monitor();
    }

    /// Another front door has redirected clients to these workers.
    pub fn on_handed_out(&self, choices: &[(NodeId, u32)]) {
        lock(&self.dispatch).handed_out(self.now_ms(), choices);
    }

    /// The value; an error ends the process, because a disk that has failed once is not used again.
    pub fn disk_or_exit<T>(&self, result: Result<T, StoreError>) -> T {
        match result {
            Ok(value) => value,
            Err(e) => {
                let what = if e.is_out_of_descriptors() { "too many open files" } else { "the disk failed" };
                error!("{what}, this node stops: {e}");
                self.event("disk", Some(self.me.id), format!("{what}: {e}"));
                logging::exit(EXIT_DISK);
            }
        }
    }

    /// Term of this node, for headers.
    pub fn term(&self) -> Term {
        self.view().raft.term
    }
}
