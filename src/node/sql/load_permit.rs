//! Requests of the database that were told to come again: they wait in turn, at the door, for the log to have time for them.
//!
//! Not here: which are told so (`services/sql/budget/allowance.rs`).

use crate::node::shared::lock;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What is said when the time of a request is over before its turn has come.
pub const BUSY: &str = "the database is busy with other requests that take long; nothing was done, try again later";

/// Whose turn it is on this node: one at a time, so that they do not take the log's time from each other.
#[derive(Debug, Default)]
pub struct Turns {
    is_taken: Mutex<bool>,
    freed: Condvar,
}

/// A turn, until it is dropped.
#[derive(Debug)]
pub struct Turn<'a>(&'a Turns);

impl Turns {
    /// Waits for a turn until the deadline.
    pub fn take(&self, deadline: Instant) -> Option<Turn<'_>> {
        let mut is_taken = lock(&self.is_taken);
        while *is_taken {
            let left = deadline.checked_duration_since(Instant::now())?;
            let (again, _) = self.freed.wait_timeout(is_taken, left).unwrap_or_else(PoisonError::into_inner);
            is_taken = again;
        }
        *is_taken = true;
        Some(Turn(self))
    }
}

impl Turn<'_> {
    /// Waits so long, if the deadline is not before.
    pub fn wait(&self, time: Duration, deadline: Instant) -> Option<()> {
        (Instant::now() + time < deadline).then(|| std::thread::sleep(time))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *lock(&self.0.is_taken) = false;
        self.0.freed.notify_one();
    }
}
