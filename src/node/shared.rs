//! What the threads of a node publish for each other and for the doors: small values behind short locks.
//!
//! State has one owner; here lie only its newest published copies and the ways to reach each thread's inbox. A lock
//! here is held for a few loads or one clone, never across a wait.
//! Not here: the owners (`core.rs`, `disk.rs`, `apply.rs`, `gossip.rs`, `monitor.rs`).

use super::activity::Activity;
use super::apply::ApplyJob;
use super::chat::{ChatFeed, ChatInput};
use super::core::CoreInput;
use super::events::{Events, FailoverLog};
use super::gossip::GossipInput;
use super::handle::{Ack, Published};
use super::integrity::Integrity;
use super::jobs::JobsView;
use super::links::Link;
use super::live::Live;
use super::memory::MemoryBudget;
use super::newcomers::Newcomers;
use super::peer_limits::FrameShare;
use super::quota;
use super::recovery::Recovery;
use super::requests::{Answered, Asked, ReplyTo, Request, now_ms};
use super::sessions::Sessions;
use super::sql::Readers;
use super::stop::Stopper;
use super::watch::WatchInput;
use super::worker::WorkerInput;
use crate::cluster::dispatch::Dispatch;
use crate::cluster::gossip::Gossip;
use crate::cluster::lag::Lags;
use crate::cluster::log_clock::{LogClock, Skews};
use crate::cluster::verdict::{self, Judgement, Outsider, Situation};
use crate::raft::{Membership, Promise, Refused, Role, View};
use crate::services::directory::Nodes;
use crate::services::jobs::JobId;
use crate::services::registry::Sizes;
use crate::settings::Settings;
use crate::store::Snapshots;
use crate::store::mark::Mark;
use crate::types::{Addresses, Identity, Index, NodeId, Outcome, Term};
use crate::wire::heartbeat::{JobReport, Row};
use crate::wire::seal::Key;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Slack between a request's deadline in `core` and the door's own: the core's words reach the client first.
const ANSWER_SLACK: Duration = Duration::from_millis(200);
/// Between two lines about frames that were not taken.
const REFUSED_FRAME_LINE_GAP: Duration = Duration::from_secs(10);

/// What `core` publishes after each change.
#[derive(Clone, Debug)]
pub struct CoreView {
    /// Raft, seen from outside.
    pub raft: View,
    /// Whose frames are taken: see `raft/guard.rs`.
    pub known: BTreeSet<Identity>,
}

/// Figures for `/metrics` that no owner keeps.
#[derive(Debug, Default)]
pub struct Counters {
    /// Handshakes on the peer port that came to nothing.
    pub peer_handshakes_failed: AtomicU64,
    /// Frames of identities that nobody knows.
    pub frames_of_strangers: AtomicU64,
    /// Messages with a term that no honest sequence of elections leads to.
    pub frames_with_absurd_term: AtomicU64,
    /// Messages that contradict themselves.
    pub frames_malformed: AtomicU64,
    /// When a line about such a frame was last written, in ms since this process started; 0: never.
    pub refused_frame_told_ms: AtomicU64,
    /// Syncs of the log.
    pub syncs: AtomicU64,
    /// Microseconds spent in them.
    pub sync_us: AtomicU64,
    /// Redirects by the front door.
    pub dispatched: AtomicU64,
    /// Leaders that followed one another, as this node saw it.
    pub failovers: AtomicU64,
}

impl Counters {
    /// Counts one sync of the log.
    pub fn synced(&self, took: Duration) {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.sync_us.fetch_add(took.as_micros() as u64, Ordering::Relaxed);
    }
}

/// The newest monitor frame, and a way to wait for the next.
pub struct Frames {
    newest: Mutex<Option<Arc<Published>>>,
    changed: Condvar,
}

/// Everything that more than one thread of a node looks at.
pub struct Shared {
    /// Settings of this process.
    pub settings: Settings,
    /// This node.
    pub me: Identity,
    /// Its cluster.
    pub cluster: Uuid,
    /// Made of `cluster_secret`, for the peer port.
    pub peer_key: Option<Key>,
    /// Its data folder.
    pub dir: PathBuf,
    /// Client connections.
    pub sessions: Sessions,
    /// The event ring.
    pub events: Events,
    /// Changes of leader.
    pub failovers: FailoverLog,
    /// What rumour says of the others.
    pub gossip: Mutex<Gossip>,
    /// Who does not catch up.
    pub lags: Mutex<Lags>,
    /// Log time, as this node keeps it.
    pub log_clock: Mutex<LogClock>,
    /// How far the others' wall clocks are ahead of this node's.
    pub skews: Mutex<Skews>,
    /// Whom the front door sends clients to.
    pub dispatch: Mutex<Dispatch>,
    /// Figures.
    pub counters: Counters,
    /// What the services hold, as applied.
    sizes: Mutex<Sizes>,
    /// What clients get.
    pub activity: Activity,
    /// Bytes that connections may hold.
    pub memory: Arc<MemoryBudget>,
    /// Clients that wait for a key to change.
    pub watchers: AtomicUsize,
    /// What this node's jobs are saying.
    pub live: Live,
    /// The chat as the services have it, and who follows it.
    pub chat: Arc<ChatFeed>,
    /// This process as a worker: each process of a node is another.
    pub worker: Identity,
    /// This node serves clients, and neither votes nor runs jobs.
    pub is_gateway: bool,
    /// Who reads the database.
    pub sql: Option<Readers>,
    /// When another node was last heard as the leader, in milliseconds of uptime plus one; 0: never.
    leader_heard_ms: AtomicU64,
    /// What is known of the soundness of states.
    pub integrity: Integrity,
    /// What this node missed, and how long it takes to make up for it.
    pub recovery: Recovery,
    /// Less than `disk_reserve_mb` is free.
    is_disk_low: AtomicBool,
    /// What the leader says of this node, if it is no member (`outsider.rs`).
    outsider: Mutex<Option<Outsider>>,
    /// Ends this process.
    pub stopper: Stopper,
    /// Held while a snapshot is being received.
    pub incoming_snapshot: Mutex<()>,
    /// Large frames that peers are sending.
    pub peer_frames: FrameShare,
    /// Whom this node has taken in.
    pub newcomers: Mutex<Newcomers>,
    started: Instant,
    started_ms: u64,
    core: Sender<CoreInput>,
    gossip_inbox: Sender<GossipInput>,
    monitor: Sender<()>,
    watch: Sender<WatchInput>,
    worker_inbox: Sender<WorkerInput>,
    apply: Sender<ApplyJob>,
    checkpoints: Sender<()>,
    view: Mutex<Arc<CoreView>>,
    directory: Mutex<Arc<Nodes>>,
    jobs: Mutex<Arc<JobsView>>,
    job_report: Mutex<Arc<JobReport>>,
    book: Mutex<Arc<BTreeMap<NodeId, Addresses>>>,
    links: Mutex<Arc<BTreeMap<NodeId, Link>>>,
    applied: AtomicU64,
    /// What this process must have applied before it is ready; 0: not known yet.
    must_reach: AtomicU64,
    /// Log time in milliseconds at which a key or lock expires next; `u64::MAX`: none will.
    next_expiry_ms: AtomicU64,
    /// Index of the newest state, if it holds what is over and was not removed yet; else 0.
    left_at: AtomicU64,
    frames: Frames,
    snapshots: Snapshots,
    is_stopping: AtomicBool,
    is_stopped: AtomicBool,
}

/// What [`Shared::new`] needs.
pub struct Parts {
    /// Settings of this process.
    pub settings: Settings,
    /// This node.
    pub me: Identity,
    /// Its cluster.
    pub cluster: Uuid,
    /// Made of `cluster_secret`.
    pub peer_key: Option<Key>,
    /// Its data folder.
    pub dir: PathBuf,
    /// Inbox of `core`.
    pub core: Sender<CoreInput>,
    /// Inbox of `gossip`.
    pub gossip: Sender<GossipInput>,
    /// Inbox of `monitor`.
    pub monitor: Sender<()>,
    /// Inbox of `watch`.
    pub watch: Sender<WatchInput>,
    /// Inbox of `chat`.
    pub chat: Sender<ChatInput>,
    /// Inbox of `worker`.
    pub worker: Sender<WorkerInput>,
    /// Inbox of `apply`.
    pub apply: Sender<ApplyJob>,
    /// This node runs no jobs and never votes.
    pub is_gateway: bool,
    /// Snapshot files.
    pub snapshots: Snapshots,
    /// The database, if it has one.
    pub sql: Option<Readers>,
    /// Ends this process.
    pub stopper: Stopper,
    /// What an earlier process knew of this node's state.
    pub mark: Option<Mark>,
    /// Inbox of `checkpoints`.
    pub checkpoints: Sender<()>,
    /// Raft as recovered.
    pub view: View,
    /// Whose frames are taken at first.
    pub known: BTreeSet<Identity>,
    /// Log time of the newest entry that the snapshot covers.
    pub log_ms: u64,
}

/// Microseconds since this machine started, its sleep included; no wall clock that is set moves it.
pub fn mono_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec.unsigned_abs() * 1_000_000 + now.tv_nsec.unsigned_abs() / 1_000
}

/// A poisoned lock means that a thread panicked, and a panic ends the process: the value is still whole.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Shared {
    /// The published state of a node that is about to start.
    pub fn new(parts: Parts) -> Shared {
        let started_ms = now_ms();
        Shared {
            gossip: Mutex::new(Gossip::new(parts.me, started_ms, &parts.settings)),
            dispatch: Mutex::new(Dispatch::new(parts.me.id)),
            lags: Mutex::default(),
            memory: MemoryBudget::of_setting(parts.settings.memory_budget_mb),
            settings: parts.settings,
            me: parts.me,
            cluster: parts.cluster,
            peer_key: parts.peer_key,
            dir: parts.dir,
            sessions: Sessions::default(),
            events: Events::default(),
            failovers: FailoverLog::default(),
            log_clock: Mutex::new(LogClock::recovered(parts.log_ms)),
            skews: Mutex::default(),
            counters: Counters::default(),
            activity: Activity::default(),
            sizes: Mutex::default(),
            watchers: AtomicUsize::new(0),
            live: Live::default(),
            chat: Arc::new(ChatFeed::new(parts.chat)),
            worker: Identity { id: parts.me.id, uuid: Uuid::new_v4() },
            is_gateway: parts.is_gateway,
            sql: parts.sql,
            leader_heard_ms: AtomicU64::new(0),
            integrity: Integrity::new(parts.mark),
            recovery: Recovery::new(parts.view.last_index > Index(0)),
            is_disk_low: AtomicBool::new(false),
            outsider: Mutex::default(),
            stopper: parts.stopper,
            incoming_snapshot: Mutex::new(()),
            peer_frames: FrameShare::default(),
            newcomers: Mutex::default(),
            started: Instant::now(),
            started_ms,
            core: parts.core,
            gossip_inbox: parts.gossip,
            monitor: parts.monitor,
            watch: parts.watch,
            worker_inbox: parts.worker,
            apply: parts.apply,
            checkpoints: parts.checkpoints,
            view: Mutex::new(Arc::new(CoreView { raft: parts.view, known: parts.known })),
            directory: Mutex::default(),
            jobs: Mutex::default(),
            job_report: Mutex::default(),
            book: Mutex::default(),
            links: Mutex::default(),
            applied: AtomicU64::new(0),
            must_reach: AtomicU64::new(0),
            next_expiry_ms: AtomicU64::new(u64::MAX),
            left_at: AtomicU64::new(0),
            frames: Frames { newest: Mutex::new(None), changed: Condvar::new() },
            snapshots: parts.snapshots,
            is_stopping: AtomicBool::new(false),
            is_stopped: AtomicBool::new(false),
        }
    }

    /// Milliseconds since 1970 by this node's clock at start; never goes back.
    pub fn now_ms(&self) -> u64 {
        self.started_ms + self.uptime_ms()
    }

    /// Log time for the next entry: this node leads.
    pub fn stamp_ms(&self) -> u64 {
        let wall_ms = lock(&self.skews).middle(now_ms());
        lock(&self.log_clock).stamp(mono_us(), wall_ms)
    }

    /// Log time, as far as this node knows; while nobody has kept it, what the clocks say.
    pub fn log_now_ms(&self) -> u64 {
        let now_ms_kept = lock(&self.log_clock).now(mono_us());
        now_ms_kept.unwrap_or_else(|| lock(&self.skews).middle(now_ms()))
    }

    /// Since start.
    pub fn uptime_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// The leader has just been heard.
    pub fn set_leader_heard(&self) {
        self.leader_heard_ms.store(self.uptime_ms() + 1, Ordering::Relaxed);
    }

    /// How long ago a leader was heard: not at all, if this node leads; `None` if none ever was.
    pub fn leader_age(&self) -> Option<std::time::Duration> {
        if self.view().raft.role == crate::raft::Role::Leader {
            return Some(std::time::Duration::ZERO);
        }
        let heard_ms = self.leader_heard_ms.load(Ordering::Relaxed);
        (heard_ms > 0).then(|| std::time::Duration::from_millis((self.uptime_ms() + 1).saturating_sub(heard_ms)))
    }

    /// Gives `core` an input; waits while its inbox is full. Never called by `core` itself.
    pub fn to_core(&self, input: CoreInput) {
        // Fails only when `core` has ended, and then nobody needs it.
        let _ = self.core.send(input);
    }

    /// Gives `gossip` an input; drops it when the inbox is full, the next heartbeat replaces it.
    pub fn to_gossip(&self, input: GossipInput) {
        let _ = self.gossip_inbox.try_send(input);
    }

    /// Tells `monitor` that something worth a frame has changed.
    pub fn poke_monitor(&self) {
        // A full inbox means that a frame is due anyway.
        let _ = self.monitor.try_send(());
    }

    /// Tells `checkpoints` that there is something to compare.
    pub fn poke_checkpoints(&self) {
        // A full inbox means that a look is due anyway.
        let _ = self.checkpoints.try_send(());
    }

    /// Changes one part of the state behind the log's back: for a node of a lab.
    pub fn alter(&self, part: u8) {
        let _ = self.apply.send_timeout(ApplyJob::Alter { part }, Duration::from_secs(1));
    }

    /// Sends a request to `core` and waits for its answer, a little longer than the deadline at most.
    pub fn ask(&self, asked: Asked, deadline: Instant) -> Answered {
        let (reply, answer) = crossbeam_channel::bounded(1);
        self.submit(asked, deadline, ReplyTo::Local(reply));
        wait_for(&answer, deadline + ANSWER_SLACK)
    }

    /// Sends a request to `core` and goes on.
    pub fn submit(&self, asked: Asked, deadline: Instant, reply: ReplyTo) {
        let request = Request { asked, deadline, reply };
        if let Err(e) = self.core.send_deadline(CoreInput::Request(request), deadline) {
            let CoreInput::Request(mut request) = e.into_inner() else { unreachable!("it is what was sent") };
            request.reply.answer(Outcome::Refused("this node is too busy or stopping".to_string()));
        }
    }

    /// Runs a service command through the log, once, on whichever node leads.
    pub fn run(&self, command: Vec<u8>, deadline: Instant) -> Answered {
        self.ask(Asked::Command { tag: None, command, ack: Ack::Applied }, deadline)
    }

    /// What the services hold, as applied.
    pub fn sizes(&self) -> Sizes {
        *lock(&self.sizes)
    }

    /// Publishes what they hold.
    pub fn set_sizes(&self, sizes: Sizes) {
        *lock(&self.sizes) = sizes;
    }

    /// Newest published raft view.
    pub fn view(&self) -> Arc<CoreView> {
        Arc::clone(&lock(&self.view))
    }

    /// Publishes raft's view, also to the log lines' prefix.
    pub fn set_view(&self, view: CoreView) {
        super::logging::set_place(view.raft.term, view.raft.role);
        let view = Arc::new(view);
        let before = std::mem::replace(&mut *lock(&self.view), Arc::clone(&view));
        let key = |v: &View| (v.role, v.term, v.leader, v.commit_index, v.last_index, v.has_quorum, v.transfer_to);
        if key(&before.raft) != key(&view.raft) {
            self.poke_monitor();
        }
        if before.raft.leader != view.raft.leader || before.raft.membership != view.raft.membership {
            self.to_gossip(GossipInput::Changed);
        }
    }

    /// Newest node table of the directory.
    pub fn directory(&self) -> Arc<Nodes> {
        Arc::clone(&lock(&self.directory))
    }

    /// Publishes the directory's node table.
    pub fn set_directory(&self, nodes: Arc<Nodes>) {
        *lock(&self.directory) = nodes;
        self.to_gossip(GossipInput::Changed);
        self.poke_monitor();
    }

    /// Counts a stranger's frame that was not taken.
    pub fn count_stranger(&self) {
        self.counters.frames_of_strangers.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a frame that was not taken, and tells of it. At most one line in [`REFUSED_FRAME_LINE_GAP`] tells of such frames: whoever sends them
    /// must not fill the log.
    pub fn refuse_frame(&self, why: Refused) {
        let (counter, text) = match why {
            Refused::Stranger(who) => (
                &self.counters.frames_of_strangers,
                format!("node {who:?} is no member of this cluster: its frames are dropped"),
            ),
            Refused::TermJump(who, term) => (
                &self.counters.frames_with_absurd_term,
                format!("node {who:?} speaks of term {term}, which nobody can have reached: its message is dropped"),
            ),
            Refused::Malformed(who) => (
                &self.counters.frames_malformed,
                format!("a message of node {who:?} contradicts itself and is dropped"),
            ),
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let (now_ms, last_ms) = (self.uptime_ms().max(1), self.counters.refused_frame_told_ms.load(Ordering::Relaxed));
        let is_due = last_ms == 0 || now_ms - last_ms.min(now_ms) >= REFUSED_FRAME_LINE_GAP.as_millis() as u64;
        let swap = |told: &AtomicU64| told.compare_exchange(last_ms, now_ms, Ordering::Relaxed, Ordering::Relaxed);
        if is_due && swap(&self.counters.refused_frame_told_ms).is_ok() {
            log::warn!("{text}; more are counted in phalanx_peer_frames_refused_total");
        }
    }

    /// The outgoing links as they are now.
    pub fn links(&self) -> Arc<BTreeMap<NodeId, Link>> {
        Arc::clone(&lock(&self.links))
    }

    /// Publishes the outgoing links.
    pub fn set_links(&self, links: &BTreeMap<NodeId, Link>) {
        *lock(&self.links) = Arc::new(links.clone());
    }

    /// Publishes where peers can be reached.
    pub fn set_book(&self, book: &BTreeMap<NodeId, Addresses>) {
        let mut published = lock(&self.book);
        if **published != *book {
            *published = Arc::new(book.clone());
            self.to_gossip(GossipInput::Changed);
        }
    }

    /// Where every known node can be reached, this one included, by id.
    pub fn known_addresses(&self) -> Vec<(NodeId, Addresses)> {
        let book = Arc::clone(&lock(&self.book));
        let mut all: BTreeMap<NodeId, Addresses> =
            self.directory().nodes.iter().map(|(id, (_, addresses))| (*id, addresses.clone())).collect();
        all.extend(book.iter().map(|(id, addresses)| (*id, addresses.clone())));
        all.insert(self.me.id, self.settings.addresses(self.me.id));
        let membership = Arc::clone(&self.view().raft.membership);
        all.retain(|id, _| *id == self.me.id || membership.uuid_of(*id).is_some());
        all.into_iter().collect()
    }

    /// The jobs as the services have them.
    pub fn jobs(&self) -> Arc<JobsView> {
        Arc::clone(&lock(&self.jobs))
    }

    /// Publishes them.
    pub fn set_jobs(&self, view: JobsView) {
        let view = Arc::new(view);
        let before = std::mem::replace(&mut *lock(&self.jobs), Arc::clone(&view));
        if !view.is_same_work(&before) {
            // A full inbox means that a look is due anyway.
            let _ = self.worker_inbox.try_send(WorkerInput::Look);
        }
        self.poke_monitor();
    }

    /// What this node says of the jobs that it can run.
    pub fn job_report(&self) -> Arc<JobReport> {
        Arc::clone(&lock(&self.job_report))
    }

    /// Publishes it, for the heartbeats.
    pub fn set_job_report(&self, report: JobReport) {
        *lock(&self.job_report) = Arc::new(report);
    }

    /// Waits until a job has ended, or until the services know at `at_least` that there is none; answers the job as the
    /// services have it: `Option<Job>`.
    pub fn await_job(&self, job: JobId, at_least: Index, deadline: Instant) -> Answered {
        let (reply, answer) = crossbeam_channel::bounded(1);
        let wait = ApplyJob::Await { job, at_least, deadline, reply: ReplyTo::Local(reply) };
        if self.apply.send_deadline(wait, deadline).is_err() {
            return Outcome::Refused("this node is too busy or stopping".to_string());
        }
        wait_for(&answer, deadline + ANSWER_SLACK)
    }

    /// Index that the services have applied.
    pub fn applied(&self) -> Index {
        Index(self.applied.load(Ordering::Acquire))
    }

    /// Publishes it, also to those who wait for a key to change.
    pub fn set_applied(&self, index: Index) {
        self.applied.store(index.0, Ordering::SeqCst);
        if self.watchers.load(Ordering::SeqCst) > 0 {
            // A full inbox means that a look is due anyway.
            let _ = self.watch.try_send(WatchInput::Applied);
        }
    }

    /// Gives `watch` an input; false if it could not take it before the deadline, or has ended.
    pub fn watch(&self, input: WatchInput, deadline: Instant) -> bool {
        self.watch.send_deadline(input, deadline).is_ok()
    }

    /// What this process must have applied before it is ready: the leader's commit index when it was first known.
    pub fn must_reach(&self, committed: Option<Index>) -> Option<Index> {
        if let Some(committed) = committed {
            // Fails if it is known already, which is as well.
            let _ = self.must_reach.compare_exchange(0, committed.0, Ordering::AcqRel, Ordering::Acquire);
        }
        Some(Index(self.must_reach.load(Ordering::Acquire))).filter(|index| index.0 > 0)
    }

    /// Log time at which a key or lock expires next, by what this node has applied.
    pub fn next_expiry_ms(&self) -> Option<u64> {
        Some(self.next_expiry_ms.load(Ordering::Acquire)).filter(|at_ms| *at_ms != u64::MAX)
    }

    /// The newest state that was published, if it holds what is over and was not removed yet.
    pub fn left_at(&self) -> Option<Index> {
        Some(Index(self.left_at.load(Ordering::Acquire))).filter(|index| index.0 > 0)
    }

    /// Publishes it.
    pub fn set_left_at(&self, index: Option<Index>) {
        self.left_at.store(index.map_or(0, |index| index.0), Ordering::Release);
    }

    /// The services moved on.
    pub fn set_next_expiry_ms(&self, at_ms: Option<u64>) {
        self.next_expiry_ms.store(at_ms.unwrap_or(u64::MAX), Ordering::Release);
    }

    /// Whether this node's disk is nearly full.
    pub fn is_disk_low(&self) -> bool {
        self.is_disk_low.load(Ordering::Acquire)
    }

    /// The disk thread has looked.
    pub fn set_disk_low(&self, is_low: bool) {
        self.is_disk_low.store(is_low, Ordering::Release);
        self.poke_monitor();
    }

    /// Why this node is no member, as its own log or the leader says; `None`: it is one, as far as it knows.
    pub fn outsider(&self) -> Option<Outsider> {
        let by_own_log = is_removed(&self.view().raft, self.me).then_some(Outsider::Removed);
        lock(&self.outsider).or(by_own_log)
    }

    /// The leader has been asked.
    pub fn set_outsider(&self, outsider: Option<Outsider>) {
        let before = std::mem::replace(&mut *lock(&self.outsider), outsider);
        if before != outsider {
            self.poke_monitor();
        }
    }

    /// Snapshot files of this node.
    pub fn snapshots(&self) -> Snapshots {
        self.snapshots.clone()
    }

    /// Newest monitor frame.
    pub fn frame(&self) -> Arc<Published> {
        lock(&self.frames.newest).clone().expect("the first frame is published before any door opens")
    }

    /// Publishes a frame and wakes all viewers.
    pub fn publish_frame(&self, frame: Published) {
        *lock(&self.frames.newest) = Some(Arc::new(frame));
        self.frames.changed.notify_all();
    }

    /// Waits for a frame newer than `after`; `None` at the deadline or when the node stops.
    pub fn wait_frame(&self, after: u64, deadline: Instant) -> Option<Arc<Published>> {
        let mut newest = lock(&self.frames.newest);
        loop {
            if let Some(frame) = newest.as_ref().filter(|frame| frame.seq > after) {
                return Some(Arc::clone(frame));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.is_stopping() {
                return None;
            }
            newest = self.frames.changed.wait_timeout(newest, left).unwrap_or_else(|e| e.into_inner()).0;
        }
    }

    /// Records an event for people.
    pub fn event(&self, kind: &'static str, node: Option<NodeId>, text: String) {
        self.events.push(self.now_ms(), kind, node, text);
        self.poke_monitor();
    }

    /// Another door's choices.
    pub fn heard_handed_out(&self, choices: &[(NodeId, u32)]) {
        lock(&self.dispatch).handed_out(self.now_ms(), choices);
    }

    /// What this node remembers of another's promises.
    pub fn remembers(&self, who: &Identity) -> Promise {
        let mut promise = lock(&self.gossip).remembered(who);
        promise.merge(&self.view().raft.remembered(who));
        promise
    }

    /// Whether a node is online, as far as this one knows.
    pub fn is_online(&self, id: NodeId) -> bool {
        is_member_online(&lock(&self.gossip), &self.view().raft.membership, self.me.id, id)
    }

    /// The cluster's verdict from what this node knows.
    pub fn judgement(&self) -> Judgement {
        let view = self.view();
        let raft = &view.raft;
        let is_leader = raft.role == Role::Leader;
        let corrupt = super::checkpoints::corrupt_nodes(self).into_keys().collect();
        let gossip = lock(&self.gossip);
        let is_reachable = |id: NodeId, uuid: Uuid| {
            id == self.me.id
                || gossip.is_online_as(Identity { id, uuid })
                || (is_leader && raft.peers.iter().any(|peer| peer.who.id == id && peer.is_active))
        };
        let now_ms = self.now_ms();
        let is_named = |row: &Row| raft.membership.uuid_of(row.id) == Some(row.uuid);
        let rows = gossip.all(now_ms).into_iter().filter(|(row, is_online, _)| *is_online && is_named(row));
        let mut disk_low: BTreeSet<NodeId> = rows.filter(|(row, ..)| row.is_disk_low).map(|(row, ..)| row.id).collect();
        if self.is_disk_low() {
            disk_low.insert(self.me.id);
        }
        verdict::judge(&Situation {
            disk_low,
            outsider: self.outsider().map(|it| it.in_words(self.me)),
            leader: raft.leader,
            voters: raft.membership.voters.iter().map(|(id, uuid)| (*id, is_reachable(*id, *uuid))).collect(),
            learners: raft.membership.learners.iter().map(|(id, uuid)| (*id, is_reachable(*id, *uuid))).collect(),
            gateways: self.directory().gateways.clone(),
            stuck: lock(&self.lags).stuck(now_ms, self.settings.fail_after_ms),
            voters_max: self.settings.voters_max,
            quotas: quota::reached(&self.settings, &self.sizes()),
            corrupt,
            split: self.integrity.no_writes(),
            has_quorum: is_leader.then_some(raft.has_quorum),
        })
    }

    /// Why a request found no leader, in words: `no quorum: 2 of 5 voters reachable, 3 needed`.
    pub fn why_no_leader(&self) -> String {
        if let Some(outsider) = self.outsider() {
            return outsider.in_words(self.me);
        }
        let view = self.view();
        let voters = &view.raft.membership.voters;
        let reachable = voters.keys().filter(|id| self.is_online(**id)).count();
        let needed = verdict::quorum(voters.len());
        match reachable < needed {
            true => format!("no quorum: {reachable} of {} voters reachable, {needed} needed", voters.len()),
            false => "no leader answered in time; an election may be under way: try again".to_string(),
        }
    }

    /// Whether the node has begun to stop.
    pub fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Acquire)
    }

    /// Begins to stop: doors refuse newcomers, streams end.
    pub fn begin_stop(&self) {
        self.is_stopping.store(true, Ordering::Release);
        self.frames.changed.notify_all();
        self.events.wake();
        self.chat.stop();
        self.stop_watching();
        let _ = self.apply.send_timeout(ApplyJob::LetGo, Duration::from_millis(200));
    }

    /// Whether the node's own threads are to end now.
    pub fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Acquire)
    }

    /// Ends the node's own threads.
    pub fn finish_stop(&self) {
        self.is_stopped.store(true, Ordering::Release);
        self.chat.stop();
        self.stop_watching();
    }

    /// Tells `watch` to look how far the stop has come.
    fn stop_watching(&self) {
        // Should it be full for so long, the thread finds out by itself within a second.
        let _ = self.watch.send_timeout(WatchInput::Stop, Duration::from_millis(200));
    }

    /// Term of this node, for headers.
    pub fn term(&self) -> Term {
        self.view().raft.term
    }
}

/// Whether the newest membership that this node knows leaves it out, and nobody leads it any more. A newcomer that is
/// still catching up is not named by its log either, but it has a leader.
pub fn is_removed(raft: &View, me: Identity) -> bool {
    raft.leader.is_none() && !raft.membership.voters.is_empty() && !raft.membership.is_member(&me)
}

/// Online, and the very identity that the membership names: an old disk put back under its number is somebody else.
pub fn is_member_online(gossip: &Gossip, membership: &Membership, me: NodeId, id: NodeId) -> bool {
    let is_named = |uuid: Uuid| gossip.is_online_as(Identity { id, uuid });
    id == me || membership.uuid_of(id).map_or_else(|| gossip.is_online(id), is_named)
}

fn wait_for(answer: &Receiver<Answered>, deadline: Instant) -> Answered {
    match answer.recv_deadline(deadline) {
        Ok(outcome) => outcome,
        Err(RecvTimeoutError::Timeout) => {
            Outcome::Unknown("no answer in time: it may or may not be applied".to_string())
        }
        Err(RecvTimeoutError::Disconnected) => {
            Outcome::Unknown("this node stopped before the answer: it may or may not be applied".to_string())
        }
    }
}
