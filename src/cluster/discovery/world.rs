//! What discovery is given: the node that starts, and what it may do; and its result.

use super::claims::Claims;
#[cfg(any(test, feature = "planted-bugs"))]
use crate::planted_bugs::DiscoveryBugs;
use crate::raft::Promise;
use crate::settings::Settings;
use crate::types::{Addresses, Identity, NodeId};
use crate::wire::{DiscoveryAnswer, Mismatch};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::Duration;
use uuid::Uuid;

/// The node that looks for its cluster, with its recovered state.
#[derive(Clone, Debug)]
pub struct Seeker<'a> {
    /// Id and uuid of the node.
    pub me: Identity,
    /// Cluster that its data belongs to; `None` for a new node.
    pub cluster: Option<Uuid>,
    /// Votes and acknowledged entries that its disk has.
    pub kept: Promise,
    /// Whether it has a log of that cluster. With a cluster and without a log (`--rejoin`) it may only join that
    /// cluster.
    pub has_log: bool,
    /// The voters according to its log.
    pub voters: BTreeMap<NodeId, Uuid>,
    /// Last known peer addresses (`identity.json`).
    pub known: Vec<String>,
    /// If it must not bootstrap: the reason (too little disk space to lead).
    pub no_bootstrap: Option<String>,
    pub settings: &'a Settings,
    /// Known mistakes that a test switches on.
    #[cfg(any(test, feature = "planted-bugs"))]
    pub bugs: DiscoveryBugs,
}

/// Why a request to another node failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// No process listens there.
    #[error("connection refused")]
    Refused,
    /// There was no answer in time; a process may listen there.
    #[error("no answer in time")]
    Timeout,
    /// A node refused the request, for this reason (wrong secret, other version, id in use).
    #[error("{0}")]
    Rejected(String),
    /// The request was refused by a process that has not proved to know this node's secret; it may be any program.
    #[error("unproved: {0}")]
    Unproved(String),
    /// The node there cannot be in one cluster with this one. Nothing of it is proved.
    #[error("{what}")]
    Differs {
        what: Mismatch,
        /// The cluster that its data belongs to, as it says.
        cluster: Option<Uuid>,
    },
    /// Any other failure: not a Phalanx node, a broken connection.
    #[error("{0}")]
    Failed(String),
}

/// Answer to a join request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JoinAnswer {
    /// The node is a learner (or was a member already).
    Joined {
        cluster: Uuid,
        members: Vec<(NodeId, Addresses)>,
        /// Ids and uuids of the members.
        identities: Vec<Identity>,
    },
    /// The asked node does not lead (any more); it may know the leader.
    Elsewhere(DiscoveryAnswer),
}

/// The environment of discovery. The implementation bounds the duration of every call except `wait`.
pub trait World {
    /// Asks all of these addresses, preferably in parallel; returns the answers in the same order. An address that has
    /// not answered within `patience` counts as silent.
    fn ask_all(&self, addresses: &[String], patience: Duration) -> Vec<Result<DiscoveryAnswer, AskError>>;
    /// Claims the right to bootstrap from all of these addresses; an answer names this claim if it is granted.
    fn claim_all(
        &self,
        addresses: &[String],
        claim: Uuid,
        patience: Duration,
    ) -> Vec<Result<DiscoveryAnswer, AskError>>;
    /// What this node claims and has granted to nodes that ask.
    fn claims(&self) -> &Claims;
    /// Asks the leader at this address to add this node to its cluster.
    ///
    /// # Errors
    /// Returns the same errors as `ask_all`.
    fn join(&self, address: &str, cluster: Uuid) -> Result<JoinAnswer, AskError>;
    /// Makes this node the only voter of the new cluster, on disk: the first log entry first, the identity that names
    /// the cluster last, so that a crash in between leaves a new node. Called while the lock is held.
    ///
    /// # Errors
    /// Returns a message; the node cannot start then.
    fn bootstrap(&self, cluster: Uuid) -> Result<(), String>;
    /// Returns the cluster that uses this host's front door, if a node listens there and its cluster is not `but`.
    fn front_owner(&self, but: Option<Uuid>) -> Option<FrontOwner>;
    /// Waits for this time; returns `false` if the node stops.
    fn wait(&self, time: Duration) -> bool;
}

/// The cluster that listens at this host's front door (`service_port`).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct FrontOwner {
    pub cluster: Uuid,
    pub name: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The node has state and continues with its log.
    Resume,
    /// The node has state, but its peers remember votes or entries that it lacks, and there is a leader: it must join
    /// again under a new identity.
    Outdated,
    /// The node is a member of this cluster now.
    Joined {
        cluster: Uuid,
        members: Vec<(NodeId, Addresses)>,
        /// Ids and uuids of the members: messages of other nodes are dropped until the log names them.
        identities: Vec<Identity>,
    },
    /// The node has bootstrapped this cluster; [`World::bootstrap`] was called.
    Bootstrapped { cluster: Uuid },
    /// The node stops.
    Stopping,
}
