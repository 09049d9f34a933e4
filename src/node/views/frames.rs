//! The newest monitor frame, and a way to wait for the next.
//!
//! Not here: what is in a frame (`status.rs`), who builds it (`node/threads/monitor.rs`).

use super::status::MonitorFrame;
use crate::lock::{Mutex, lock, wait_while};
use std::sync::{Arc, Condvar};
use std::time::Instant;

/// The newest monitor frame, encoded once for all viewers.
#[derive(Clone, Debug)]
pub struct Published {
    /// Sequence number of the frame.
    pub seq: u64,
    /// The frame as one line of JSON, safe inside a `<script>` element (`<` is escaped as `\u003c`).
    pub json: Arc<str>,
    pub frame: Arc<MonitorFrame>,
}

/// The newest monitor frame, and a way to wait for the next.
#[derive(Debug, Default)]
pub struct Frames {
    newest: Mutex<Option<Arc<Published>>>,
    changed: Condvar,
}

impl Frames {
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
        let is_newer = |frame: &Arc<Published>| frame.seq > after;
        let must_wait = |newest: &mut Option<_>| !newest.as_ref().is_some_and(is_newer) && !is_over();
        let newest = wait_while(&self.changed, lock(&self.newest), deadline, must_wait);
        newest.clone().filter(is_newer)
    }

    /// Wakes all who wait.
    pub fn wake(&self) {
        self.changed.notify_all();
    }
}
