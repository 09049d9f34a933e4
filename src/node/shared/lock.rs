//! Taking a lock, and waiting for a change below it, in a program that ends at the first panic.
//!
//! Not here: what the locks protect (each file that uses them).

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// A poisoned lock means that a thread panicked, and a panic ends the process: the value is still whole.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits while `must_wait` returns true, until the deadline at most.
pub fn wait_while<'a, T>(
    changed: &Condvar,
    guard: MutexGuard<'a, T>,
    deadline: Instant,
    must_wait: impl FnMut(&mut T) -> bool,
) -> MutexGuard<'a, T> {
    let left = deadline.saturating_duration_since(Instant::now());
    changed.wait_timeout_while(guard, left, must_wait).unwrap_or_else(PoisonError::into_inner).0
}
