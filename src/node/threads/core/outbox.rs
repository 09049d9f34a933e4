//! An ordered queue to another thread that never makes its owner wait.

use crossbeam_channel::{Sender, TrySendError};
use std::collections::VecDeque;

/// Messages that the inbox does not accept at once are kept, in order.
#[derive(Debug)]
pub struct Outbox<T> {
    to: Sender<T>,
    backlog: VecDeque<T>,
}

impl<T> Outbox<T> {
    /// A queue to this inbox.
    pub fn new(to: Sender<T>) -> Outbox<T> {
        Outbox { to, backlog: VecDeque::new() }
    }

    /// Sends a message after those that wait, or keeps it.
    pub fn push(&mut self, job: T) {
        self.backlog.push_back(job);
        self.flush();
    }

    /// Sends as many as the inbox accepts.
    pub fn flush(&mut self) {
        while let Some(job) = self.backlog.pop_front() {
            match self.to.try_send(job) {
                Ok(()) => {}
                Err(TrySendError::Full(job)) => {
                    self.backlog.push_front(job);
                    return;
                }
                // The other thread ended: the node is stopping.
                Err(TrySendError::Disconnected(_)) => return,
            }
        }
    }
}
