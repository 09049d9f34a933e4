//! The bodies of a node's threads. Each owns its state and reads one inbox; they know [`Shared`](super::shared::Shared), not each
//! other.
//!
//! Not here: threads of connections (`node/peer/`, endpoints), of snapshots and digests (`node/snapshots/`); who starts them all
//! (`node/process/launch.rs`).

pub mod apply;
pub mod chat;
pub mod config_writer;
pub mod console;
pub mod core;
pub mod disk;
pub mod gossip;
pub mod large_reads;
pub mod monitor;
pub mod publish;
pub mod sql_checkpoint;
pub mod watch;
pub mod worker;
