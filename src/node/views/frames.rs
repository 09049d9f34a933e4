//! The newest monitor frame, and a way to wait for the next.
//!
//! Not here: what is in a frame (`status.rs`), who builds it (`node/threads/monitor.rs`).

use super::status::MonitorFrame;
use crate::node::shared::lock;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

/// The newest monitor frame, encoded once for all viewers.
#[derive(Clone, Debug)]
pub struct Published {
    /// Sequence number of the frame.
    pub seq: u64,
    /// The frame as one line of JSON, safe inside a `<script>` element (`<` is escaped as `\u003c`).
    pub json: Arc<str>,
    /// The frame itself.
    pub frame: Arc<MonitorFrame>,
}

/// The newest monitor frame, and a way to wait for the next.
#[derive(Debug, Default)]
pub struct Frames {
    newest: Mutex<Option<Arc<Published>>>,
    changed: Condvar,
}

impl Frames {
    /// The newest frame.
    pub fn newest(&self) -> Arc<Published> {
        lock(&self.newest).clone().expect("the first frame is published before any endpoint opens")
    }

    /// Publishes a frame and wakes all viewers.
    pub fn publish(&self, frame: Published) {
        *lock(&self.newest) = Some(Arc::new(frame));
        self.changed.notify_all();
    }

    /// Waits for a frame newer than `after`; `None` at the deadline or when the node stops.
    pub fn wait(&self, after: u64, deadline: Instant, is_over: impl Fn() -> bool) -> Option<Arc<Published>> {
        let mut newest = lock(&self.newest);
        loop {
            if let Some(frame) = newest.as_ref().filter(|frame| frame.seq > after) {
                return Some(Arc::clone(frame));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || is_over() {
                return None;
            }
            newest = self.changed.wait_timeout(newest, left).unwrap_or_else(|e| e.into_inner()).0;
        }
    }

    /// Wakes all who wait.
    pub fn wake(&self) {
        self.changed.notify_all();
    }
}
