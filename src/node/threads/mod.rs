//! The bodies of a node's threads. Each owns its state and reads one inbox; they know
//! [`Shared`](super::shared::Shared), not each other.
//!
//! Not here: threads of connections (`node/peer/`, endpoints), of snapshots and digests (`node/snapshots/`); who starts
//! them all (`node/process/launch.rs`).

pub(crate) mod apply;
pub(crate) mod chat;
pub(crate) mod config_writer;
pub(crate) mod console;
pub(crate) mod core;
pub(crate) mod disk;
pub(crate) mod gossip;
pub(crate) mod large_reads;
pub(crate) mod monitor;
pub(crate) mod publish;
pub(crate) mod pubsub;
pub(crate) mod sql_checkpoint;
pub(crate) mod watch;
pub(crate) mod worker;
