//! Mutexes whose order is checked in debug builds, waiting for a change of what they protect, and permits.
//!
//! Two threads that take two locks in opposite orders wait for each other without end, but only if they do so at the
//! same moment, which tests rarely see. So each mutex belongs to a class: those of one type that one place in the code
//! creates. In debug builds, which all tests are, `order.rs` records which class is locked while which other one is
//! held, in any thread and at any time, and panics when the reverse order appears. Release builds keep neither
//! classes nor records. (The crate tracing-mutex orders single mutexes, not classes: it does not see two connections
//! that lock each other's state.)
//!
//! Invariants (debug builds): L1 the classes are ordered: none is locked while one is held that is itself locked,
//! directly or by way of others, while the first is held. L2 no thread holds two of one class at once. L3 a thread that
//! waits for a change holds no other lock than the one that it gives up meanwhile.
//!
//! A poisoned lock means that a thread panicked, and a panic ends the process: the value is still whole.
//! Not here: what the locks protect (each file that uses them).

mod order;
#[cfg(test)]
mod tests;

use self::order::{Class, HeldLock};
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{self, Condvar, PoisonError};
use std::time::{Duration, Instant};

/// A `std::sync::Mutex` whose order is checked in debug builds.
#[derive(Debug)]
pub struct Mutex<T> {
    class: Class,
    inner: sync::Mutex<T>,
}

impl<T> Mutex<T> {
    /// The caller's place determines the class.
    #[track_caller]
    pub const fn new(value: T) -> Mutex<T> {
        Mutex { class: Class::here::<T>(), inner: sync::Mutex::new(value) }
    }
}

/// As [`Mutex::new`]; where `Default` is derived, the place is that of the derivation, and fields of one type are of one
/// class. A container's `default` hides the place, which debug builds refuse: instead of `Arc::default()` it must be
/// `Arc::new(Mutex::default())`.
impl<T: Default> Default for Mutex<T> {
    #[track_caller]
    fn default() -> Mutex<T> {
        let mutex = Mutex::new(T::default());
        mutex.class.is_known();
        mutex
    }
}

/// Access to the value of a locked [`Mutex`].
#[derive(Debug)]
pub struct MutexGuard<'a, T> {
    inner: sync::MutexGuard<'a, T>,
    held: HeldLock,
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

#[track_caller]
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    let held = mutex.class.take();
    MutexGuard { inner: mutex.inner.lock().unwrap_or_else(PoisonError::into_inner), held }
}

/// Waits for the next notification.
#[track_caller]
pub fn wait<'a, T>(changed: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    let MutexGuard { inner, held } = guard;
    held.is_alone();
    MutexGuard { inner: changed.wait(inner).unwrap_or_else(PoisonError::into_inner), held }
}

/// Waits for the next notification, for so long at most.
#[track_caller]
pub fn wait_timeout<'a, T>(changed: &Condvar, guard: MutexGuard<'a, T>, most: Duration) -> MutexGuard<'a, T> {
    let MutexGuard { inner, held } = guard;
    held.is_alone();
    MutexGuard { inner: changed.wait_timeout(inner, most).unwrap_or_else(PoisonError::into_inner).0, held }
}

/// Waits while `must_wait` returns true, until the deadline at most.
#[track_caller]
pub fn wait_while<'a, T>(
    changed: &Condvar,
    guard: MutexGuard<'a, T>,
    deadline: Instant,
    must_wait: impl FnMut(&mut T) -> bool,
) -> MutexGuard<'a, T> {
    let MutexGuard { inner, held } = guard;
    held.is_alone();
    let left = deadline.saturating_duration_since(Instant::now());
    let waited = changed.wait_timeout_while(inner, left, must_wait);
    MutexGuard { inner: waited.unwrap_or_else(PoisonError::into_inner).0, held }
}

/// What one thread at a time may do, and no other waits for: it is refused meanwhile. So it may be held as long as it
/// takes, whatever else is locked.
#[derive(Debug)]
pub struct Permit {
    is_taken: AtomicBool,
    /// A thread was refused since it was taken.
    is_wanted: AtomicBool,
}

impl Permit {
    /// A permit that is free.
    pub const fn new() -> Permit {
        Permit { is_taken: AtomicBool::new(false), is_wanted: AtomicBool::new(false) }
    }

    /// Takes the permit until the returned value is dropped; `None` if another thread has it.
    pub fn try_take(&self) -> Option<PermitGuard<'_>> {
        let is_free = self.is_taken.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok();
        self.is_wanted.store(!is_free, Ordering::Release);
        is_free.then(|| PermitGuard(self))
    }
}

/// A [`Permit`] that was taken.
#[derive(Debug)]
pub struct PermitGuard<'a>(&'a Permit);

impl PermitGuard<'_> {
    /// Whether another thread was refused meanwhile.
    pub fn is_wanted(&self) -> bool {
        self.0.is_wanted.load(Ordering::Acquire)
    }
}

impl Drop for PermitGuard<'_> {
    fn drop(&mut self) {
        self.0.is_taken.store(false, Ordering::Release);
    }
}
