//! Connections between nodes.
//!
//! - `dialer.rs` keeps one link to each peer; `acceptor.rs` reads what peers send, within the places of `limits.rs` and the
//!   memory of `frame_memory.rs`; `datagram_reader.rs` reads small frames of links that lose packets; `relay.rs` passes
//!   frames on for other nodes.
//! - `discovery_client.rs` and `discovery_io.rs` ask other nodes for `cluster/discovery/`.
//! - `join.rs` is the leader's side of a join, `silent_learners.rs` bounds the learners that were never heard.
//! - `address_search.rs` asks members that are not connected; `mismatched_peers.rs` finds nodes that cannot join, and
//!   `former_member.rs` whether this node has been removed.
//!
//! Not here: frames and the handshake (`wire/`), when a peer counts as failed (`cluster/gossip.rs`).

pub(crate) mod acceptor;
pub(crate) mod address_search;
pub(crate) mod datagram_reader;
pub(crate) mod dialer;
pub(crate) mod discovery_client;
pub(crate) mod discovery_io;
pub(crate) mod former_member;
pub(crate) mod frame_memory;
pub(crate) mod join;
pub(crate) mod limits;
pub(crate) mod mismatched_peers;
pub(crate) mod relay;
pub(crate) mod silent_learners;
