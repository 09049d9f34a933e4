//! The threads of a node.

pub mod apply;
pub mod chat;
pub mod config_writer;
pub mod console;
pub mod core;
pub mod disk;
pub mod gossip;
pub mod large_reads;
pub mod leadership_events;
pub mod monitor;
pub mod pending_requests;
pub mod sql_checkpoint;
pub mod watch;
pub mod worker;
