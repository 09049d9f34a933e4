//! The `chat` thread: publishes the events of the chat as lines for all clients that follow it.
//!
//! It takes the newest copy of the chat that `apply` has published, has the events since the previous one written as
//! lines, and wakes the readers. The more readers there are, the less often it does so: a message to a thousand sockets
//! costs a thousand writes, so several messages share them. One reader gets an event within milliseconds, a thousand
//! within a tenth of a second.
//! Not here: the published chat and its readers (`node/views/chat_feed.rs`).

use crate::node::shared::Shared;
use crate::node::shared::messages::ChatInput;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Shortest time between two runs of lines.
const GAP: Duration = Duration::from_millis(4);
/// What each reader adds to it: a write to a socket takes some 20 us of a processor.
const GAP_PER_READER: Duration = Duration::from_micros(60);
/// Longest time between two runs while there are events.
const GAP_MAX: Duration = Duration::from_millis(100);
/// Time between two checks whether the node has stopped.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// Body of the thread.
pub fn run(shared: &Arc<Shared>, inbox: &Receiver<ChatInput>) {
    let feed = &shared.chat;
    let mut due: Option<Instant> = None;
    let mut last = None::<Instant>;
    loop {
        if due.is_some_and(|due| due <= Instant::now()) {
            due = None;
            last = Some(Instant::now());
            feed.publish();
        }
        match inbox.recv_deadline(due.unwrap_or_else(|| Instant::now() + CHECK_EVERY)) {
            Ok(ChatInput::Changed) => {
                let now = Instant::now();
                let gap = (GAP + GAP_PER_READER * feed.readers() as u32).min(GAP_MAX);
                due.get_or_insert(last.map_or(now, |last| now.max(last + gap)));
            }
            Ok(ChatInput::Stop) | Err(RecvTimeoutError::Timeout) if shared.is_stopped() => return,
            Ok(ChatInput::Stop) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
