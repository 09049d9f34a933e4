//! The node's side of faults on demand: it obeys its supervisor (`follow.rs`), and its connections to peers may be cut,
//! slow or lossy
//! (`link.rs`), and its datagrams lost or late (`datagrams.rs`).
//!
//! Not here: which faults there are (`faults/`), who injects them (`lab/supervisor/`).

pub(crate) mod datagrams;
pub(crate) mod follow;
pub(crate) mod link;
