//! The gossip table as it crosses the peer port: one row per node that the sender believes alive.
//!
//! It is not in `cluster/`, because frames contain it and imports point down only.
//! Not here: what a table means and to which nodes it is sent (`cluster/gossip.rs`).

use crate::raft::{Promise, Role};
use crate::services::digests::{Difference, StateDigest};
use crate::types::{Addresses, Index, NodeId, ProcessLimit, Standing, Term};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;

/// What one node reports to another about all nodes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GossipTable {
    /// By id, the sender's own row among them.
    pub rows: Vec<GossipRow>,
    /// The sender's wall clock as it sends this, in milliseconds since 1970.
    pub wall_ms: u64,
    /// If the sender leads: log time.
    pub log_ms: Option<u64>,
}

/// The newest state of one node, as it has reported it itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GossipRow {
    pub id: NodeId,
    /// Its identity: a new one replaces the row of the old.
    pub uuid: Uuid,
    /// Heartbeat counter: begins at the wall clock in milliseconds and grows with each heartbeat, so that a restarted
    /// process is ahead of the earlier one.
    pub counter: u64,
    /// What it has to do, as a number of client connections: see [`Load::total`].
    pub load: Load,
    /// Client connections that this process has ever had: by this, other nodes know which of their redirected clients
    /// have connected.
    pub sessions_opened_total: u64,
    pub role: Role,
    /// Standing in the newest membership it knows.
    pub standing: Standing,
    pub term: Term,
    /// Last index in its log.
    pub last_index: Index,
    /// What it has promised, for others to remember.
    pub promise: Promise,
    pub commit_index: Index,
    /// Applied to its services.
    pub applied_index: Index,
    /// All that is committed up to here is on its disk.
    pub held_index: Index,
    /// On a witness: its log is cut up to here; elsewhere 0.
    pub cut_index: Index,
    /// What its clients get.
    pub pace: ClientRates,
    pub state: Arc<StateReport>,
    /// Name of the newest database file that it has prepared to be put in place; 0 if there is none.
    pub prepared_load: u64,
    pub jobs: Arc<JobReport>,
    /// Its disk is nearly full: as the leader it would refuse writes.
    pub is_disk_low: bool,
    /// Its process, on its host.
    pub pid: u32,
    pub addresses: Addresses,
    /// Whether it can serve clients: what `/readyz` says.
    pub is_ready: bool,
    /// The nodes to which it has no working connection.
    pub unreached: Vec<NodeId>,
    /// Those of them that it reaches through another node, which is the second of each pair.
    pub relayed: Vec<(NodeId, NodeId)>,
}

/// What a node has to do, in parts that are all counted in client connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Load {
    /// Open client connections.
    pub connections: u64,
    /// For the requests that it answers.
    pub requests: u64,
    /// For the jobs that it runs.
    pub jobs: u64,
    /// For the processor time of its process.
    pub cpu: u64,
}

impl Load {
    /// The load: the sum of the parts.
    pub fn total(&self) -> u64 {
        self.connections.saturating_add(self.work())
    }

    /// The parts beside the connections.
    pub fn work(&self) -> u64 {
        self.requests.saturating_add(self.jobs).saturating_add(self.cpu)
    }
}

/// The jobs that a node can run, as it reports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobReport {
    /// Languages, with the version of each.
    pub runtimes: BTreeMap<String, String>,
    /// What bounds their processes; `None`: it runs no jobs.
    pub process_limit: Option<ProcessLimit>,
}

/// What a node reports about its replicated state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateReport {
    /// Digests at the newest checkpoints that it has applied, oldest first; none from before its state was last
    /// replaced.
    pub digests: Vec<StateDigest>,
    /// It knows that its state differs from the majority's: it serves no reads.
    pub corrupt: Option<Difference>,
}

/// What the clients of one node get, over about the last second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClientRates {
    /// Commands answered in a second.
    pub kv_ops_per_s: u64,
    /// Requests in a second that other nodes forwarded to this one, as their leader.
    pub led_per_s: u64,
    /// Microseconds within which half of them were answered; 0 if there were none.
    pub kv_p50_us: u64,
    /// Microseconds within which 99 of 100 were.
    pub kv_p99_us: u64,
    /// Keys in its copy of the store.
    pub keys: u64,
}
