//! One virtual node: the real raft, the real store and the real services, and the duties of their host.
//!
//! The same duties as `node/`: inputs one by one, effects in order, the disk's reports in order, commands applied once
//! and in order, answers given only when an entry of the promised term is applied at the promised index.
//!
//! Not here: the order of events (`sim/world.rs`), carrying out effects (`sim/steps/effects.rs`).

use super::services::{Registers, ServiceBugs};
use super::worker::Worker;
use crate::cluster::departures::Departures;
use crate::cluster::integrity::StateReport;
use crate::cluster::log_clock::LogClock;
use crate::lock::{Mutex, MutexGuard, lock};
#[cfg(any(test, feature = "planted-bugs"))]
use crate::planted_bugs::{RaftBugs, StoreBugs};
use crate::raft::{self, Durable, Membership, Message, Persist, Promise, Raft, Role, SnapshotMeta};
use crate::services::jobs::JobId;
use crate::services::registry::Registry;
use crate::sim::environment::disk::Disk;
use crate::sim::environment::files::SimFiles;
use crate::sim::environment::plan::Plan;
use crate::store::error::StoreError;
use crate::store::{self, Store};
use crate::types::{Identity, Index, Term};
use fastrand::Rng;
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

/// Mistakes that a host can make, for the simulator to find.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostBugs {
    /// A snapshot contains commands after its index, which are applied again after a restart.
    pub apply_twice_after_restart: bool,
    /// A wiped node comes back under its old uuid.
    pub wiped_keeps_identity: bool,
    /// A node continues with a disk although other nodes remember more than it holds.
    pub outdated_keeps_identity: bool,
    /// `Synced` is reported when the bytes are written.
    pub synced_before_sync: bool,
    /// A snapshot is written without its membership.
    pub snapshot_without_membership: bool,
    /// The leader declares no worker gone.
    pub nobody_is_gone: bool,
    /// The leader checks only for silence: a worker whose log does not advance counts as present.
    pub stuck_are_not_gone: bool,
    /// A worker joins without knowing whether it can follow the log.
    pub joins_without_a_read: bool,
    /// A worker does not stop a job that is no longer assigned to it.
    pub lost_worker_goes_on: bool,
    /// A node's next process works under the identity of the one before.
    pub worker_keeps_identity: bool,
    /// A worker reports a sandbox that did not start as if the program had ended.
    pub failed_sandbox_is_a_result: bool,
    /// A worker reports an end once, regardless of the result.
    pub ends_are_told_once: bool,
    /// Digests that differ are compared, and nothing follows from it.
    pub mismatches_are_not_reported: bool,
    /// The leader stamps entries with its wall clock.
    pub log_time_is_wall_time: bool,
    /// A folder can be locked although its process runs, or another node hosts its voter.
    pub folder_locks_are_shared: bool,
    /// A voter goes on where it was hosted after its folder was released.
    pub released_voters_go_on: bool,
    /// A hosted voter votes for its host, whatever the host's log lacks.
    pub hosted_vote_for_older_logs: bool,
    /// A witness cuts its log at its commit index, whatever the full voters hold.
    pub witness_cuts_at_once: bool,
    /// A witness campaigns and leads as a full node does.
    pub witness_leads_like_any: bool,
    /// Mistakes of the service.
    pub service: ServiceBugs,
}

/// All planted bugs of a run: raft's, the store's and the host's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bugs {
    /// In `raft/`.
    #[cfg(any(test, feature = "planted-bugs"))]
    pub raft: RaftBugs,
    /// In `store/`.
    #[cfg(any(test, feature = "planted-bugs"))]
    pub store: StoreBugs,
    /// In the simulator's own host.
    pub host: HostBugs,
}

/// The source of a request, which waits for an answer of this node.
#[derive(Clone, Debug)]
pub enum Ask {
    /// A client of this node: attempt number of a command.
    Command(u64),
    /// A client of this node: attempt number of a read of a register.
    Read { attempt: u64, key: u8 },
    /// Another node that forwarded a command, its life, and the name it gave it.
    Forwarded { node: usize, life: u64, token: u64 },
    /// This node's worker, or its check of workers: number of the attempt, and the end that it reports, if any.
    Work { attempt: u64, about: Option<(JobId, u32)> },
    /// This node's worker, which joins when it has seen a fresh state.
    Join,
    /// No reply: the driver watches the log.
    Driver,
}

/// One job of the disk thread.
pub enum DiskJob {
    /// Write, then sync.
    Persist(Persist),
    /// Drop what the durable snapshot at this index covers.
    Compact(Index),
}

/// What the disk thread is doing until its time has come.
pub enum Running {
    /// Written; the sync comes at the end. Then everything up to `seq` is durable.
    Sync { seq: u64 },
    /// As the job.
    Compact(Index),
}

/// Least value of a wall clock at the start of a run.
const CLOCK_MS: u64 = 1_000_000_000;

pub struct Process {
    /// The real core.
    pub raft: Raft,
    /// The real store.
    pub store: Store,
    /// The replicated state.
    pub service: Registers,
    /// Applied up to here.
    pub applied: u64,
    /// Membership at the applied index.
    pub applied_membership: Arc<Membership>,
    pub commit: u64,
    /// Entries applied since the last snapshot was begun.
    pub since_snapshot: u64,
    /// A snapshot is being written.
    pub is_saving: bool,
    /// Raft's source of random numbers.
    pub rng: Rng,
    /// Jobs that the disk has not begun.
    pub jobs: VecDeque<DiskJob>,
    /// What the disk is doing.
    pub running: Option<Running>,
    /// Messages that wait for a sync.
    pub held: VecDeque<(u64, Vec<Message>)>,
    /// The next token for a request to raft.
    pub next_token: u64,
    /// Requests to raft without an answer.
    pub asks: BTreeMap<u64, Ask>,
    /// Requests that wait until an index is applied, with the term that it must have.
    pub waiting: BTreeMap<u64, Vec<(Term, Ask)>>,
    /// Reads that wait until an index is applied.
    pub reads: Vec<(u64, Ask)>,
    /// State of a completely received snapshot, until raft installs it.
    pub received: Option<(SnapshotMeta, Vec<u8>)>,
    /// Role and term before the step that runs.
    pub led: Option<Term>,
    /// An apply run is scheduled.
    pub is_apply_due: bool,
    /// Its part in the jobs, if there are any.
    pub worker: Option<Worker>,
    /// The promises of other nodes that it has received.
    pub memory: BTreeMap<Identity, Promise>,
    /// What it reports about its state.
    pub report: StateReport,
    /// The time by which the log lives.
    pub log_clock: LogClock,
    /// When it last knew a leader.
    pub leader_seen: Option<u64>,
}

/// A node, whether its process runs or not.
pub struct Host {
    /// Number and uuid of the present disk.
    pub identity: Identity,
    /// The disk, shared with the store.
    pub disk: Arc<Mutex<Disk>>,
    /// The process, if it runs.
    pub process: Option<Process>,
    /// Grows with every start: what was scheduled for an earlier life is void.
    pub life: u64,
    pub paused_until: u64,
    /// Length of a tick.
    pub tick_us: u64,
    /// How wrong its wall clock is.
    pub clock_offset_ms: u64,
    /// Syncs end no earlier than this.
    pub hung_until: u64,
    /// Syncs take this many times longer until then.
    pub slow_until: u64,
    /// Restarts fail (or are not tried) before this.
    pub down_until: u64,
    /// A start is scheduled.
    pub is_start_due: bool,
    /// Dies again soon after each start, until then.
    pub loops_until: u64,
    /// Gossip is about to arrive.
    pub is_gossip_due: bool,
    /// A bit of it was flipped: it may refuse to start.
    pub is_damaged: bool,
    /// Its disk is below the reserve.
    pub is_low: bool,
    /// The part of its state that was altered without a log entry, until it has healed.
    pub altered: Option<u8>,
    /// Votes, and keeps no data.
    pub is_witness: bool,
    /// Stays broken in the liveness phase.
    pub is_left_out: bool,
    /// What the last process left of its database's file.
    pub sql_file: Option<Vec<u8>>,
    /// What the process before that left: a power cut may bring it back.
    pub sql_older: Option<Vec<u8>>,
    /// An older copy of its disk, with the identity at that time.
    pub disk_copy: Option<(Identity, Disk)>,
    /// What its disk held before an older copy was put in its place, until it has started.
    pub replaced_disk: Option<Disk>,
    /// The goodbyes that its process has heard.
    pub departures: Departures,
}

impl Host {
    /// A node with an empty disk.
    pub fn new(identity: Identity, seed: u64, tick_us: u64) -> Host {
        Host {
            identity,
            disk: Arc::new(Mutex::new(Disk::new(seed))),
            process: None,
            life: 0,
            paused_until: 0,
            tick_us,
            // A time before 1970 cannot be represented: all clocks begin long after it.
            clock_offset_ms: CLOCK_MS + seed % 400,
            hung_until: 0,
            slow_until: 0,
            down_until: 0,
            is_start_due: false,
            loops_until: 0,
            is_gossip_due: false,
            is_damaged: false,
            is_low: false,
            altered: None,
            is_witness: false,
            is_left_out: false,
            sql_file: None,
            sql_older: None,
            disk_copy: None,
            replaced_disk: None,
            departures: Departures::default(),
        }
    }

    pub fn disk(&self) -> MutexGuard<'_, Disk> {
        lock(&self.disk)
    }

    /// Replaces the content of its disk and returns the previous content. Faults of the device remain: they are not
    /// content.
    pub fn replace_disk(&self, mut content: Disk) -> Disk {
        let mut disk = self.disk();
        std::mem::swap(&mut disk.faults, &mut content.faults);
        std::mem::replace(&mut *disk, content)
    }

    pub fn open(&self, plan: &Plan, bugs: &Bugs) -> Result<(Store, Durable), StoreError> {
        let files = Arc::new(SimFiles::new(self.disk.clone()));
        let dir = PathBuf::from(format!("/data/node-{}", self.identity.id.0));
        let _ = bugs;
        let options = store::Options {
            node: Some(self.identity.id),
            segment_bytes_min: plan.segment_bytes_min,
            segment_bytes_max: plan.segment_bytes_min * 4,
            snapshot_chunk_bytes: 64,
            #[cfg(any(test, feature = "planted-bugs"))]
            bugs: bugs.store,
            ..store::Options::default()
        };
        Store::open(files, &dir, options)
    }

    /// Raft's choices for this node.
    pub fn config(&self, plan: &Plan, bugs: &Bugs) -> raft::Config {
        raft::Config {
            me: self.identity,
            heartbeat_ticks: plan.heartbeat_ticks,
            election_timeout_ticks: plan.election_timeout_ticks,
            election_timeout_min_ticks: plan.election_timeout_min_ticks,
            election_timeout_max_ticks: plan.election_timeout_max_ticks,
            rank_delay_ticks: plan.rank_delay_ticks,
            highest_id_first: plan.highest_id_first,
            preempt: plan.preempt,
            disk_stall_ticks: plan.disk_stall_ticks,
            append_bytes_max: plan.append_bytes_max,
            inflight_bytes_max: plan.inflight_bytes_max,
            uncommitted_bytes_max: plan.uncommitted_bytes_max,
            leads_only_to_pass_on: self.is_witness && !bugs.host.witness_leads_like_any,
            #[cfg(any(test, feature = "planted-bugs"))]
            bugs: bugs.raft,
        }
    }

    /// Whether something that its process wrote is not on its disk yet.
    pub fn waits_for_disk(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.running.is_some() || !process.jobs.is_empty())
    }

    /// Whether its process leads, and in which term.
    pub fn leads(&self) -> Option<Term> {
        self.process.as_ref().and_then(Process::leads)
    }
}

impl Process {
    /// A process as it starts: the snapshot restored, the log not yet applied.
    pub fn start(host: &Host, plan: &Plan, bugs: &Bugs, store: Store, durable: Durable, rng: Rng) -> Process {
        let mut service = Registers::new(bugs.host.service);
        if host.is_witness {
            service.registry = Registry::of_witness();
        }
        let mut applied = 0;
        let mut applied_membership = Arc::default();
        if let Some(file) = host.sql_file.as_ref().filter(|_| !host.is_witness) {
            service.open_sql(file);
        }
        if durable.snapshot.is_none() {
            service.settle();
        }
        if let Some(meta) = &durable.snapshot {
            let reader = store.newest_snapshot().ok().flatten().expect("recovery has just verified it");
            assert_eq!(reader.meta(), meta, "the newest snapshot is the recovered one");
            let bytes = reader.read_all().expect("recovery has just verified it");
            service.restore(&mut bytes.as_slice()).expect("its checksum was right");
            applied = meta.index.0;
            applied_membership = Arc::new(meta.membership.clone());
        }
        let log_clock = LogClock::recovered(service.log_ms());
        Process {
            raft: Raft::new(host.config(plan, bugs), durable),
            store,
            service,
            applied,
            applied_membership,
            commit: applied,
            since_snapshot: 0,
            is_saving: false,
            rng,
            jobs: VecDeque::new(),
            running: None,
            held: VecDeque::new(),
            next_token: 1,
            asks: BTreeMap::new(),
            waiting: BTreeMap::new(),
            reads: Vec::new(),
            received: None,
            led: None,
            is_apply_due: false,
            worker: None,
            memory: BTreeMap::new(),
            report: StateReport::default(),
            log_clock,
            leader_seen: None,
        }
    }

    /// The term that it leads in, if it does.
    pub fn leads(&self) -> Option<Term> {
        let view = self.raft.view();
        (view.role == Role::Leader).then_some(view.term)
    }

    /// A new token for a request to raft.
    pub fn token(&mut self, ask: Ask) -> raft::Token {
        let token = self.next_token;
        self.next_token += 1;
        self.asks.insert(token, ask);
        raft::Token(token)
    }
}
