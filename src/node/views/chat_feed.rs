//! The chat as the services have it, published for the clients that follow it.
//!
//! `apply` leaves a copy of the chat here after each change, which costs nothing. The `chat` thread writes what has
//! happened since the previous copy as lines, each once for all readers.
//!
//! Invariants: F1 the newest runs of lines that are kept here follow each other without a gap. F2 a client that has
//! begun to follow is sent every later change: it is counted before it asks, and `apply` wakes the thread whenever the
//! count is not zero.
//! Not here: when that is done (`node/threads/chat.rs`), who may hear what (`http/chat/stream.rs`), how a line is
//! written (`chat_lines.rs`).

use super::chat_lines;
use crate::lock::{Mutex, lock, wait_while};
use crate::node::shared::messages::ChatInput;
use crate::services::chat::{Chat, ConversationId};
use crossbeam_channel::Sender;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar};
use std::time::{Duration, Instant};

/// Events in one run. More (after a snapshot from the leader): each reader asks the chat itself.
const RUN_EVENTS_MAX: usize = 2000;
/// Runs that are kept for readers that are a little behind.
const RUNS_KEPT: usize = 32;

/// A line, with its position and the conversation whose members it is for.
pub type Line = (u64, ConversationId, Arc<str>);

/// What happened between two positions.
#[derive(Debug)]
pub struct EventRun {
    /// After this one,
    pub from: u64,
    /// up to this one.
    pub to: u64,
    /// In order.
    pub lines: Vec<Line>,
}

/// The chat as readers see it.
#[derive(Clone, Debug, Default)]
pub struct ChatView {
    pub chat: Arc<Chat>,
    /// The newest runs, each behind the one before (F1); the last ends at the chat's position.
    pub runs: Vec<Arc<EventRun>>,
}

/// Where `apply` leaves the chat and readers find it.
pub struct ChatFeed {
    newest: Mutex<Arc<Chat>>,
    view: Mutex<Arc<ChatView>>,
    changed: Condvar,
    readers: AtomicUsize,
    is_stopping: AtomicBool,
    inbox: Sender<ChatInput>,
}

/// A client that follows the chat, until this value is dropped.
pub struct ChatReader(Arc<ChatFeed>);

impl ChatFeed {
    /// A feed whose thread reads the other end of `inbox`.
    pub fn new(inbox: Sender<ChatInput>) -> ChatFeed {
        ChatFeed {
            newest: Mutex::default(),
            view: Mutex::default(),
            changed: Condvar::new(),
            readers: AtomicUsize::new(0),
            is_stopping: AtomicBool::new(false),
            inbox,
        }
    }

    /// The services have changed the chat.
    pub fn set(&self, chat: Chat) {
        *lock(&self.newest) = Arc::new(chat);
        if self.readers.load(Ordering::SeqCst) > 0 {
            // A full inbox means that the thread will check anyway.
            let _ = self.inbox.try_send(ChatInput::Changed);
        }
    }

    /// The chat as the services have it.
    pub fn newest(&self) -> Arc<Chat> {
        Arc::clone(&lock(&self.newest))
    }

    /// Begins to follow.
    pub fn follow(self: &Arc<ChatFeed>) -> ChatReader {
        self.readers.fetch_add(1, Ordering::SeqCst);
        let _ = self.inbox.try_send(ChatInput::Changed);
        ChatReader(Arc::clone(self))
    }

    /// How many follow.
    pub fn readers(&self) -> usize {
        self.readers.load(Ordering::Relaxed)
    }

    /// The node stops: no reader waits any longer.
    pub fn stop(&self) {
        self.is_stopping.store(true, Ordering::Release);
        // Under the lock, so that no reader is between its check and its wait.
        drop(lock(&self.view));
        self.changed.notify_all();
        // If the inbox stays full for so long, the thread checks by itself within a second.
        let _ = self.inbox.send_timeout(ChatInput::Stop, Duration::from_millis(200));
    }

    /// Writes what happened since the last call into lines, and wakes the readers.
    pub fn publish(&self) {
        let chat = Arc::clone(&lock(&self.newest));
        let before = Arc::clone(&lock(&self.view));
        if chat.revision() == before.chat.revision() {
            return;
        }
        let (from, to) = (before.chat.position(), chat.position());
        let mut runs = before.runs.clone();
        if to != from {
            match chat.happened_after(from, RUN_EVENTS_MAX) {
                Some(events) if from > 0 => {
                    let lines = events.into_iter().filter_map(|(position, conversation, event)| {
                        let line = chat_lines::for_all(&chat, position, conversation, &event)?;
                        Some((position, conversation, line.into()))
                    });
                    runs.push(Arc::new(EventRun { from, to, lines: lines.collect() }));
                }
                // Too much, or the first call: readers ask the chat itself (F1: later runs do not follow earlier ones).
                _ => runs.clear(),
            }
        }
        let surplus = runs.len().saturating_sub(RUNS_KEPT);
        runs.drain(..surplus);
        *lock(&self.view) = Arc::new(ChatView { chat, runs });
        self.changed.notify_all();
    }
}

impl ChatReader {
    /// The chat once it has changed after this revision; `None` at the deadline or when the node stops.
    pub fn wait(&self, revision: u64, deadline: Instant) -> Option<Arc<ChatView>> {
        let feed = &self.0;
        let is_stopping = || feed.is_stopping.load(Ordering::Acquire);
        let must_wait = |view: &mut Arc<ChatView>| view.chat.revision() <= revision && !is_stopping();
        let view = wait_while(&feed.changed, lock(&feed.view), deadline, must_wait);
        (view.chat.revision() > revision && !is_stopping()).then(|| Arc::clone(&view))
    }

    /// The chat as it was published last.
    pub fn view(&self) -> Arc<ChatView> {
        Arc::clone(&lock(&self.0.view))
    }
}

impl Drop for ChatReader {
    fn drop(&mut self) {
        self.0.readers.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use crate::node::views::chat_feed::*;
    use crate::services::chat::{Command, Target, names};
    use crate::types::Stamp;

    fn post(chat: &mut Chat, text: &str) {
        let to = Target::Account("bob".to_string());
        chat.run(Stamp::default(), Command::Post { token: [1; 32], to, text: text.to_string(), client_id: None });
    }

    #[test]
    fn runs_follow_each_other_and_wake_who_waits() {
        let (sender, inbox) = crossbeam_channel::bounded(4);
        let feed = Arc::new(ChatFeed::new(sender));
        let mut chat = Chat::default();
        for (name, token) in [("ann", [1; 32]), ("bob", [2; 32])] {
            let name = names::account(name).unwrap();
            chat.run(Stamp::default(), Command::Create { name, hash: "h".to_string(), token, token_ms: 1000 });
        }
        post(&mut chat, "one");
        feed.set(chat.clone());
        assert!(inbox.try_recv().is_err(), "nobody follows");
        let reader = feed.follow();
        assert!(matches!(inbox.try_recv(), Ok(ChatInput::Changed)));
        feed.publish();
        let view = reader.wait(0, Instant::now()).unwrap();
        assert_eq!((view.chat.position(), view.runs.len()), (2, 0));
        assert!(reader.wait(view.chat.revision(), Instant::now()).is_none());
        for text in ["two", "three"] {
            post(&mut chat, text);
            feed.set(chat.clone());
            assert!(matches!(inbox.try_recv(), Ok(ChatInput::Changed)));
            feed.publish();
        }
        let view = reader.view();
        let spans: Vec<_> = view.runs.iter().map(|run| (run.from, run.to, run.lines.len())).collect();
        assert_eq!(spans, [(2, 3, 1), (3, 4, 1)]);
        assert!(view.runs[1].lines[0].2.contains("\"three\""));
        drop(reader);
        assert_eq!(feed.readers(), 0);
    }
}
