//! Taking a lock in a program that ends at the first panic.
//!
//! Not here: what the locks protect (each file that uses them).

use std::sync::{Mutex, MutexGuard};

/// A poisoned lock means that a thread panicked, and a panic ends the process: the value is still whole.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
