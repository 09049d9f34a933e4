//! The largest terms, indexes and entries that are believed, so that there is always a next one.

use crate::types::{Index, Term};

/// Most that a term may grow by one message. Terms grow by real elections alone (pre-votes raise none), each of which a
/// quorum must grant and sync: one in a millisecond, without a pause, for 49 days. A node that was away for years is
/// not refused.
pub const TERM_JUMP_MAX: u64 = 1 << 32;
/// No term is adopted or asked for beyond this one, so that there is always a next one.
pub const TERM_MAX: Term = Term(1 << 62);
/// No entry or snapshot is beyond this index.
pub const INDEX_MAX: Index = Index(1 << 62);
/// No entry that is appended is larger: a leader could not pass it on in one frame of the peer port (`limits.rs`).
/// Honest ones have little more than one command.
pub const ENTRY_BYTES_MAX: usize = 15 << 20;
