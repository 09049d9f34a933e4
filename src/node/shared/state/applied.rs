//! What the `apply` thread publishes about the services' state: its index, its size, and when its keys expire.
//!
//! Not here: applying (`node/threads/apply.rs`), when a node is ready (`node/reports/readiness.rs`).

use crate::lock::lock;
use crate::node::quota::Sizes;
use crate::node::shared::Shared;
use crate::node::shared::messages::WatchInput;
use crate::types::Index;
use std::sync::atomic::Ordering;

impl Shared {
    /// Index that the services have applied.
    pub fn applied(&self) -> Index {
        Index(self.applied.load(Ordering::Acquire))
    }

    /// Publishes the index, also to clients that wait for a key to change.
    pub fn set_applied(&self, index: Index) {
        self.applied.store(index.0, Ordering::SeqCst);
        if self.watchers.load(Ordering::SeqCst) > 0 {
            // A full inbox means that the thread will check anyway.
            let _ = self.inboxes.watch.try_send(WatchInput::Applied);
        }
    }

    /// Index that this process must have applied before it is ready: the leader's commit index when it was first known.
    pub fn must_reach(&self, committed: Option<Index>) -> Option<Index> {
        if let Some(committed) = committed {
            // Fails if it is known already.
            let _ = self.must_reach.compare_exchange(0, committed.0, Ordering::AcqRel, Ordering::Acquire);
        }
        Some(Index(self.must_reach.load(Ordering::Acquire))).filter(|index| index.0 > 0)
    }

    /// Log time at which a key or lock expires next, by what this node has applied.
    pub fn next_expiry_ms(&self) -> Option<u64> {
        Some(self.next_expiry_ms.load(Ordering::Acquire)).filter(|at_ms| *at_ms != u64::MAX)
    }

    /// Index of the newest state, if it contains expired keys that were not removed yet.
    pub fn left_at(&self) -> Option<Index> {
        Some(Index(self.left_at.load(Ordering::Acquire))).filter(|index| index.0 > 0)
    }

    pub fn set_left_at(&self, index: Option<Index>) {
        self.left_at.store(index.map_or(0, |index| index.0), Ordering::Release);
    }

    pub fn set_next_expiry_ms(&self, at_ms: Option<u64>) {
        self.next_expiry_ms.store(at_ms.unwrap_or(u64::MAX), Ordering::Release);
    }

    /// What the services hold, as applied.
    pub fn sizes(&self) -> Sizes {
        *lock(&self.sizes)
    }

    pub fn set_sizes(&self, sizes: Sizes) {
        *lock(&self.sizes) = sizes;
    }
}
