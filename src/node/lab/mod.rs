//! The node's side of faults on demand: it obeys its supervisor (`follow.rs`), and its connections to peers may be cut,
//! slow or lossy (`link.rs`).
//!
//! Not here: which faults there are (`faults/`), who injects them (`lab/supervisor/`).

pub(crate) mod follow;
pub(crate) mod link;
