//! Which nodes can be reached now, and how, within fractions of a second. Nothing depends on it but where messages and
//! clients are sent; which nodes have failed is decided later (`cluster/gossip.rs`, `raft/`).
//!
//! The tour: `rhythm.rs` says when a silence is longer than usual, `relay.rs` which peers are reached by way of another
//! node, `probes.rs` which nodes do not answer while clients are sent to them.

pub(crate) mod probes;
pub(crate) mod relay;
pub(crate) mod rhythm;
