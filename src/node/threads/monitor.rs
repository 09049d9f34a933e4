//! The `monitor` thread: builds one frame per change, at most ten a second and about two without one, and publishes it to
//! all viewers at once, encoded. A page shows by the age of its newest frame that its node may be frozen.
//!
//! Not here: sending frames (`http/`), what is in a frame (`node/reports/status.rs`).

use crate::node::reports::status;
use crate::node::shared::Shared;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Shortest and longest time between two frames.
const FRAME_GAP: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(600));
/// Time between two checks of what does not wake this thread: sessions and the rows of other nodes.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Body of the thread.
pub fn run(shared: &Arc<Shared>, inbox: &Receiver<()>) {
    let mut seq = 0;
    let mut last = Instant::now();
    let mut sessions_seen = 0;
    loop {
        let mut is_due = false;
        match inbox.recv_timeout(LOOK_EVERY) {
            Ok(()) => is_due = true,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if shared.is_stopped() {
            return;
        }
        let sessions = shared.sessions.changes();
        is_due |= sessions != sessions_seen || last.elapsed() + LOOK_EVERY >= FRAME_GAP.1;
        if !is_due {
            continue;
        }
        // A burst of changes is one frame: the thread sleeps until the next frame is due, then empties its inbox.
        // Waiting on the inbox would wake it at each change.
        std::thread::sleep((last + FRAME_GAP.0).saturating_duration_since(Instant::now()));
        inbox.try_iter().for_each(drop);
        sessions_seen = sessions;
        seq += 1;
        last = Instant::now();
        shared.frames.publish(status::frame(shared, seq));
    }
}
