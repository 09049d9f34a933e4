//! Snapshots on their way from one virtual disk to another.

use crate::raft::SnapshotMeta;
use crate::store::SnapshotReceiver;
use crate::types::{Identity, Term};
use std::collections::BTreeMap;

/// One snapshot under way.
pub(crate) struct Transfer {
    pub(crate) from: usize,
    pub(crate) from_life: u64,
    pub(crate) from_identity: Identity,
    pub(crate) term: Term,
    pub(crate) to: Identity,
    pub(crate) to_node: usize,
    pub(crate) to_life: u64,
    pub(crate) meta: SnapshotMeta,
    pub(crate) bytes: Vec<u8>,
    pub(crate) offset: usize,
    pub(crate) receiver: Option<SnapshotReceiver>,
}

/// All snapshots under way.
#[derive(Default)]
pub struct Transfers {
    pub(crate) next: u64,
    pub(crate) all: BTreeMap<u64, Transfer>,
    /// The one that each node is receiving: a node takes one at a time, the newest.
    pub(crate) newest: BTreeMap<usize, u64>,
}
