//! The threads of a node.

pub mod apply;
pub mod chat;
pub mod config_writer;
pub mod console;
pub mod core;
pub mod disk;
pub mod gossip;
pub mod large_reads;
pub mod monitor;
pub mod sql_checkpoint;
pub mod watch;
pub mod worker;
