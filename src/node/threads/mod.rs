//! The threads of a node.

pub mod apply;
pub mod config_writer;
pub mod console;
pub mod core;
pub mod disk;
pub mod gossip;
pub mod large_reads;
pub mod metrics;
pub mod monitor;
pub mod pending_requests;
pub mod watch;
pub mod worker;
