//! Connections between nodes.

pub(crate) mod acceptor;
pub(crate) mod datagram_reader;
pub(crate) mod dialer;
pub(crate) mod discovery_client;
pub(crate) mod discovery_io;
pub(crate) mod former_member;
pub(crate) mod join;
pub(crate) mod limits;
pub(crate) mod silent_learners;
pub(crate) mod mismatched_peers;
pub(crate) mod relay;
pub(crate) mod reunite;
