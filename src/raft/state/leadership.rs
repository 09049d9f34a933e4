//! What a node needs only while it leads; stepping down forgets it as a whole.

use super::progress::Progress;
use super::reads::Reads;
use crate::types::{Identity, Index, NodeId};
use std::collections::BTreeMap;

/// What a node needs only while it leads.
pub(crate) struct Leadership {
    /// Every other member.
    pub(crate) peers: BTreeMap<NodeId, Progress>,
    /// Index of the term's no-op.
    pub(crate) first_index: Index,
    pub(crate) reads: Reads,
    pub(crate) transfer: Option<Transfer>,
    /// No leadership transfer of this node's own accord before this tick.
    pub(crate) no_preempt_before: u64,
    pub(crate) uncommitted_bytes: usize,
    /// Commit index at the last heartbeat and the one before: a learner beyond the older has caught up.
    pub(crate) commit_marks: (Index, Index),
    pub(crate) last_session: u64,
    pub(crate) heartbeat_at: u64,
}

impl Leadership {
    /// Draws a session number that no answer has seen in this term.
    pub(crate) fn next_session(&mut self) -> u64 {
        self.last_session += 1;
        self.last_session
    }
}

/// A leadership transfer under way.
pub(crate) struct Transfer {
    pub(crate) to: Identity,
    /// Given up at this tick.
    pub(crate) until: u64,
    /// `TimeoutNow` was last sent at this tick.
    pub(crate) sent_at: Option<u64>,
}
