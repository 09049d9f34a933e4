//! The clocks of a node: its own, log time, and how long ago a leader was heard.
//!
//! Not here: log time itself (`cluster/log_clock.rs`), the machine's clocks (`node/shared/clock.rs`).

use crate::lock::lock;
use crate::node::shared::Shared;
use crate::node::shared::clock::{mono_us, now_ms};
use crate::raft::Role;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

impl Shared {
    /// Milliseconds since 1970, by this node's clock at its start and the time since then: never decreases.
    pub fn now_ms(&self) -> u64 {
        self.started_ms + self.uptime_ms()
    }

    /// Log time for the next entry: this node leads.
    pub fn stamp_ms(&self) -> u64 {
        let wall_ms = lock(&self.skews).middle(now_ms());
        lock(&self.log_clock).stamp(mono_us(), wall_ms)
    }

    /// Log time, as far as this node knows; if it knows none, the time by the wall clocks.
    pub fn log_now_ms(&self) -> u64 {
        let now_ms_kept = lock(&self.log_clock).now(mono_us());
        now_ms_kept.unwrap_or_else(|| lock(&self.skews).middle(now_ms()))
    }

    /// Milliseconds since the start.
    pub fn uptime_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// Deadline of a request that this node makes itself now.
    pub fn request_deadline(&self) -> Instant {
        Instant::now() + Duration::from_millis(self.settings.request_timeout_ms)
    }

    /// A message from the leader has just arrived.
    pub fn set_leader_heard(&self) {
        self.leader_heard_ms.store(self.uptime_ms() + 1, Ordering::Relaxed);
    }

    /// Time since a leader was last heard: zero if this node leads, `None` if none was ever heard.
    pub fn leader_age(&self) -> Option<Duration> {
        if self.view().raft.role == Role::Leader {
            return Some(Duration::ZERO);
        }
        let heard_ms = self.leader_heard_ms.load(Ordering::Relaxed);
        (heard_ms > 0).then(|| Duration::from_millis((self.uptime_ms() + 1).saturating_sub(heard_ms)))
    }
}
