//! What a node does if its data folder is older than what it has promised: it was replaced by an older copy, or the
//! disk has lost what it had synced.
//!
//! The node's votes and acknowledgements since then are lost, so its old identity must not be used again. While a
//! leader is known, the node sets its log aside, takes a new identity and joins again as a learner, which catches up
//! and becomes a voter. Without a leader it waits and logs why, because the majority may be outdated, and then a person
//! must decide. A node that notices this while it runs stops and restarts itself; the start does the rest.
//!
//! Not here: the comparison (`raft/state/promise.rs`), waiting for a leader (`cluster/discovery/`), files
//! (`store/identity.rs`).

use super::logging::{self, EXIT_DISK};
use crate::node::shared::Shared;
use crate::raft::Promise;
use crate::types::{Index, NodeId};
use log::{error, info};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Why a node stops to start itself again.
pub const OUTDATED: &str = "the data folder is an older copy";

/// What the folder of `me` lacks, as text: `own` is what it contains, `remembered` what node `by` knows of its promises.
pub fn describe(me: NodeId, by: NodeId, own: &Promise, remembered: &Promise) -> String {
    let (me, by) = (me.0, by.0);
    let lost = match remembered.is_broken {
        true => format!("entries up to {} that it had acknowledged", remembered.index),
        false => format!(
            "votes or entries that it had acknowledged (node {by} has seen term {} entry {})",
            remembered.term, remembered.index
        ),
    };
    format!(
        "the data folder of node {me} is outdated: its log ends in term {} at entry {} and lacks {lost}; \
         was it replaced by an older copy?",
        own.term, own.index
    )
}

/// The leader has other entries than those that are committed here: a majority has lost what it had acknowledged. If
/// this node followed, it would silently lose them as well; if it continued, it would answer with them.
pub fn refuse_leader(shared: &Shared, leader: NodeId, index: Index) {
    error!(
        "the leader, node {}, has another entry {index} than the one that is committed here: the data folders of a \
         majority were replaced by older copies. Writes from entry {index} on are only in {}, so this node stops. To \
         keep them: stop all nodes and restore the newer folders. To discard them: `phalanx node --id {} --rejoin`",
        leader.0,
        shared.dir.display(),
        shared.me.id.0
    );
    logging::exit(EXIT_DISK);
}

/// Replaces this process by a new one of the same program; returns the exit code if that fails.
pub fn restart() -> u8 {
    info!("restarting, to join under a new identity");
    // The folder must be discarded only once.
    let args = std::env::args_os().skip(1).filter(|arg| arg != "--rejoin");
    let why = match std::env::current_exe() {
        Ok(exe) => Command::new(exe).args(args).exec(),
        Err(e) => e,
    };
    error!("cannot restart: {why}; start this node again");
    EXIT_DISK as u8
}
