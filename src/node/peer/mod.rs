//! Connections between nodes.

pub mod acceptor;
pub mod dialer;
pub mod discovery_client;
pub mod discovery_io;
pub mod former_member;
pub mod join;
pub mod limits;
pub mod newcomers;
pub mod reunite;
