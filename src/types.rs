//! Types that every module shares: identities, terms, indexes and ticks.
//!
//! Newtypes keep a term from being passed where an index belongs. Absence is always `Option`, never a magic 0:
//! `Term(0)` and `Index(0)` mean "before the first" and appear only as the base of an empty log.
//! Not here: anything with behaviour; each module owns its own.

use serde::{Deserialize, Serialize};
use std::fmt;
use uuid::Uuid;

/// Number of a node, chosen by a person or taken as the lowest free one: 1 to [`NodeId::MAX`]. Prints as `n3`.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub u64);

impl NodeId {
    /// The highest id: each port base leaves room for this many ports above it.
    pub const MAX: u64 = 999;
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

/// Raft's term: only grows, with at most one leader in each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Term(pub u64);

impl Term {
    /// The term after this one.
    pub fn next(self) -> Term {
        Term(self.0.checked_add(1).expect("terms that are accepted stay far below u64::MAX"))
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Position in the log; the first entry has index 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Index(pub u64);

impl Index {
    /// The index after this one.
    pub fn next(self) -> Index {
        Index(self.0.checked_add(1).expect("indexes that are accepted stay far below u64::MAX"))
    }

    /// The index before this one; index 0 has none and stays.
    pub fn prev(self) -> Index {
        Index(self.0.saturating_sub(1))
    }
}

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A span of raft time. One tick is [`crate::limits::TICK_MS`] milliseconds in a running node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ticks(pub u64);

/// Identity of a node: its number and the uuid drawn when its data folder was made. A wiped disk is a new identity
/// under the old number, so promises (votes, acknowledged entries) of the lost disk are never counted again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Identity {
    pub id: NodeId,
    /// Drawn at random when the data folder was made.
    pub uuid: Uuid,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({:.8})", self.id, self.uuid.simple().to_string())
    }
}

/// Where a node can be reached: each `host:port`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Addresses {
    /// Other nodes: the peer protocol.
    pub peer: String,
    /// Browsers and scripts: HTTP.
    pub http: String,
    /// Redis clients.
    pub kv: String,
}

/// The place of one command in the replicated history: the only clock that services see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Stamp {
    /// Index of the entry that carried the command.
    pub index: Index,
    /// Leader time in milliseconds since 1970, never going back along the log.
    pub at_ms: u64,
}

/// What a node is for. It is chosen when its data folder is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeKind {
    /// Keeps the data, serves clients, and may vote, lead and run jobs.
    #[default]
    Full,
    /// Keeps the data and serves clients, but neither votes nor runs jobs.
    Gateway,
    /// Votes and keeps the end of the log, but no data: it serves no clients and runs no jobs.
    Witness,
}

/// Standing of a node in the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// Counts in quorums.
    Voter,
    /// Receives the log only.
    Learner,
    /// Not, or no longer, a member.
    #[default]
    None,
}

/// Liveness of a node, as others see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Liveness {
    /// Leads now.
    Leader,
    /// Its heartbeats arrive.
    Online,
    /// No heartbeat for `fail_after_ms`, or its port refuses connections.
    Offline,
}

/// What bounds the number of a job's processes on a node, besides the looks at all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcessLimit {
    /// The kernel: it counts the job's user namespace, or a user that only this slot has.
    Kernel,
    /// Nothing: the kernel would count the other processes of the node's user as well.
    Watched,
}
