//! The two stages of a stop: endpoints refuse new clients, then the node's own threads end.
//!
//! Not here: who begins it (`node/shared/stopper.rs`), its steps (`node/process/stop.rs`).

use crate::node::shared::Shared;
use crate::node::shared::messages::{ApplyJob, WatchInput};
use std::sync::atomic::Ordering;
use std::time::Duration;

impl Shared {
    /// Whether the node has begun to stop.
    pub fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Acquire)
    }

    /// Begins to stop: endpoints refuse new clients, streams end.
    pub fn begin_stop(&self) {
        self.is_stopping.store(true, Ordering::Release);
        self.frames.wake();
        self.neighbours.wake();
        self.events.wake();
        self.chat.stop();
        self.stop_watching();
        let _ = self.inboxes.apply.send_timeout(ApplyJob::AnswerWaiting, Duration::from_millis(200));
    }

    /// Whether the node's own threads are to end now.
    pub fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Acquire)
    }

    /// Ends the node's own threads.
    pub fn finish_stop(&self) {
        self.is_stopped.store(true, Ordering::Release);
        self.chat.stop();
        self.stop_watching();
    }

    /// Informs `watch` about the progress of the stop.
    fn stop_watching(&self) {
        // If the inbox stays full for so long, the thread checks by itself within a second.
        let _ = self.inboxes.watch.send_timeout(WatchInput::Stop, Duration::from_millis(200));
    }
}
