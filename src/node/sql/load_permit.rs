//! Permits for requests that would load the database for long: they were refused for now, and are tried again one at a
//! time.
//!
//! Not here: which requests are refused (`services/sql/budget/token_bucket.rs`).

use crate::lock::{Mutex, lock, wait_while};
use std::sync::Condvar;
use std::time::{Duration, Instant};

/// One permit on this node, so that such requests do not take the log's time from each other.
#[derive(Debug, Default)]
pub struct LoadPermits {
    is_taken: Mutex<bool>,
    freed: Condvar,
}

/// The permit, until it is dropped.
#[derive(Debug)]
pub struct LoadPermit<'a>(&'a LoadPermits);

impl LoadPermits {
    /// Waits for the permit until the deadline.
    pub fn take(&self, deadline: Instant) -> Option<LoadPermit<'_>> {
        let mut is_taken = wait_while(&self.freed, lock(&self.is_taken), deadline, |is_taken| *is_taken);
        (!std::mem::replace(&mut *is_taken, true)).then_some(LoadPermit(self))
    }
}

impl LoadPermit<'_> {
    /// Waits this long; `None`, at once, if the deadline is sooner.
    pub fn wait(&self, time: Duration, deadline: Instant) -> Option<()> {
        (Instant::now() + time < deadline).then(|| std::thread::sleep(time))
    }
}

impl Drop for LoadPermit<'_> {
    fn drop(&mut self) {
        *lock(&self.0.is_taken) = false;
        self.0.freed.notify_one();
    }
}
