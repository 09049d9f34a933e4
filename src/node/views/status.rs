//! The types of `/v1/status`, events and monitor frames: what a node reports about itself and its cluster.
//!
//! Built by the `monitor` thread, published once, read by every endpoint; the command line parses the same types.
//! Names and types are an interface for users: fields may be added, never renamed.
//! Not here: how the figures are gathered (`node/reports/status.rs`), how they are shown (`http/`, `cli/`, `static/`).

pub use crate::cluster::health::Health;
use crate::raft::Role;
pub use crate::services::directory::LeaderChange as Failover;
use crate::services::jobs::JobId;
use crate::types::{Index, NodeId, Term};
pub use crate::types::{Liveness, Standing};
use crate::wire::heartbeat::JobReport;
pub use crate::wire::heartbeat::{ClientRates, Load};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;

/// `GET /v1/status`, and the heart of each monitor frame.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The node that answers.
    pub node: NodeStatus,
    /// The cluster as this node sees it.
    pub cluster: ClusterStatus,
    /// A row per known node, by id.
    pub nodes: Vec<NodeRow>,
    /// Client connections of this node, newest first, at most [`crate::limits::SESSIONS_SHOWN_MAX`].
    pub sessions: Vec<Session>,
    /// How many there are in all.
    pub sessions_total: usize,
    /// Last changes of leader, newest first: on all nodes the same.
    pub failovers: Vec<Failover>,
    /// The jobs as this node has applied them.
    #[serde(default)]
    pub jobs: JobsStatus,
}

/// The jobs, as the page shows them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobsStatus {
    /// Jobs that wait for a worker.
    pub queued: usize,
    /// Jobs that a worker has.
    pub running: usize,
    /// By id.
    pub workers: Vec<Arc<WorkerRow>>,
    /// The last results, newest first.
    pub last: Vec<Arc<JobRow>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerRow {
    pub id: NodeId,
    /// Whether it is alive: the jobs of one that is not are restarted on other nodes.
    pub is_here: bool,
    /// Jobs that it runs at once.
    pub slots: u64,
    /// Jobs that it has now.
    pub running: Vec<JobId>,
    /// Languages that it has.
    pub runtimes: Vec<String>,
    /// Why it has none, if it knows.
    pub trouble: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRow {
    pub id: JobId,
    pub language: String,
    /// How it ended, in one word.
    pub verdict: String,
    /// Exit code, if it ran and no signal ended it.
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    #[serde(default)]
    pub signal: Option<i32>,
    /// Who ran it.
    pub worker: Option<NodeId>,
    /// How often it was begun.
    pub attempt: u32,
    /// Time that compiling and running took.
    pub took_ms: u64,
    /// First line of its output, cut.
    pub says: String,
    /// When it ended, in milliseconds since 1970.
    pub at_ms: u64,
}

/// Languages of one node, from its heartbeats.
#[derive(Clone, Debug)]
pub struct NodeRuntimes {
    pub id: NodeId,
    pub is_online: bool,
    pub jobs: Arc<JobReport>,
}

/// The node that answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeStatus {
    pub id: NodeId,
    pub uuid: Uuid,
    /// Role in the current term.
    pub role: Role,
    pub membership: Standing,
    pub version: String,
    /// Since start, in milliseconds.
    pub uptime_ms: u64,
}

/// The cluster as one node sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// Random, drawn when the cluster was created.
    pub id: Option<Uuid>,
    /// Setting `cluster_name`.
    pub name: String,
    /// Leader, if known.
    pub leader: Option<NodeId>,
    pub term: Term,
    /// Whether enough voters are reachable to commit.
    pub has_quorum: bool,
    /// By id.
    pub voters: Vec<NodeId>,
    /// By id.
    pub learners: Vec<NodeId>,
    /// How many more voters may fail before the cluster stops serving.
    pub failure_tolerance: u32,
    /// The cluster's health.
    pub verdict: Health,
    /// Sentences, unless the health is `healthy`.
    pub reasons: Vec<String>,
    /// Whether the nodes hold the same state.
    #[serde(default)]
    pub integrity: IntegrityStatus,
}

/// `GET /v1/digests`, and in short in the status: whether the nodes hold the same state, as this node knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntegrityStatus {
    /// Newest checkpoint at which a majority of the voters agreed in every part.
    pub agreed_index: Option<Index>,
    /// Newest checkpoint that this node has applied.
    pub checkpoint_index: Index,
    /// How long ago that was, or the start.
    pub checkpoint_age_ms: u64,
    /// Whether it is taking a digest: checkpoints that it applies meanwhile are skipped.
    #[serde(default)]
    pub is_digesting: bool,
    /// The nodes that differ from the majority.
    pub corrupt: Vec<DifferenceRow>,
    /// In which parts of the state no majority agrees: nothing is written until one does.
    pub split: Option<DifferenceRow>,
    /// This node's digests at its newest checkpoints, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub digests: Vec<DigestRow>,
}

/// Where states differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DifferenceRow {
    /// The node that differs; `None`: all nodes.
    pub node: Option<NodeId>,
    /// Of the checkpoint.
    pub index: Index,
    /// The parts that differ: `directory`, `key-value`, `jobs`, `sql`, `chat`, `sessions`.
    pub parts: Vec<String>,
}

/// Digests at one checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DigestRow {
    pub index: Index,
    /// By part, in hexadecimal.
    pub parts: BTreeMap<String, String>,
}

/// One node of the cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeRow {
    pub id: NodeId,
    pub status: Liveness,
    /// Role as last heard.
    pub role: Role,
    /// Standing in the newest membership.
    pub membership: Standing,
    /// Its term as last heard.
    pub term: Term,
    /// What it has to do, as a number of client connections: the sum of `load_parts`.
    pub load: u64,
    /// Of which parts: `connections`, `requests`, `jobs`, `cpu`.
    #[serde(default)]
    pub load_parts: Load,
    /// Last index in its log.
    pub last_index: Index,
    pub commit_index: Index,
    /// Applied to its services.
    pub applied_index: Index,
    /// Entries that were committed when this node sent its heartbeat, and that it had not applied by then.
    pub lag: u64,
    /// What its clients get: `kv_ops_per_s`, `led_per_s`, `kv_p50_us`, `kv_p99_us`, `keys`.
    #[serde(flatten)]
    pub pace: ClientRates,
    /// `host:port` of HTTP.
    pub http: String,
    /// `host:port` of the Redis protocol.
    pub kv: String,
    /// `host:port` of the peer protocol.
    pub peer: String,
    /// Since its heartbeat counter last moved; `None`: never heard.
    pub heartbeat_age_ms: Option<u64>,
    /// It serves clients, and neither votes nor runs jobs.
    #[serde(default)]
    pub is_gateway: bool,
    /// It votes and keeps the end of the log, but no data: it serves no clients.
    #[serde(default)]
    pub is_witness: bool,
    /// Its process id, if it is on the same host as the node that answers.
    #[serde(default)]
    pub pid: Option<u32>,
    /// Its state differs from the majority's: it serves no reads and rebuilds itself.
    #[serde(default)]
    pub is_corrupt: bool,
    /// Its disk is nearly full: as the leader it refuses writes.
    #[serde(default)]
    pub is_disk_low: bool,
    /// How far its wall clock is ahead of that of the node that answers (negative: behind); `None`: it has not been
    /// heard.
    #[serde(default)]
    pub clock_ahead_ms: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Eight hexadecimal digits.
    pub id: String,
    /// `monitor`, `stream`, `api`, `watch`.
    pub kind: String,
    /// `host:port` of the client.
    pub peer: String,
    /// Since it was opened.
    pub age_ms: u64,
}

/// `GET /v1/events`: events of one process, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventPage {
    /// Random, drawn when the process started: sequence numbers of two processes cannot be compared. `None` from nodes
    /// of older versions.
    #[serde(default)]
    pub incarnation: Option<Uuid>,
    pub events: Vec<EventLine>,
}

/// Up to which event a client has read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventPosition {
    /// Of the process that numbered the event; `None`: whichever answers.
    pub incarnation: Option<Uuid>,
    pub seq: u64,
}

/// One event in plain words, for `/v1/events`, the page and `phalanx events`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventLine {
    /// Grows by one per event: of this process in `/v1/events`, of the cluster's history in a frame.
    pub seq: u64,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// `election`, `failure`, `join`, `membership`, `snapshot`, `leadership transfer`, `disk`, `start`, `stop`.
    pub kind: String,
    pub node: Option<NodeId>,
    /// A sentence: `node 5 leads in term 7, 23 ms after node 3 was lost`.
    pub text: String,
}

/// One frame of the monitor stream: `update(...)` on the page, a line of `/v1/stream`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MonitorFrame {
    /// Grows by one per frame of this process.
    pub seq: u64,
    /// When it was built, in milliseconds since 1970.
    pub at_ms: u64,
    /// Everything of `/v1/status`.
    #[serde(flatten)]
    pub status: Status,
    /// The newest events of the cluster's history, oldest first, at most 30.
    pub events: Vec<EventLine>,
}
