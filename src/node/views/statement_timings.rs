//! How long statements of replicated commands took on this node, for the requests that asked.
//!
//! An endpoint registers a command to be timed before it sends it; `apply` marks the time after each statement. The
//! times are neither in the state nor in the log: they differ between nodes.
//! Not here: reads, which are timed by their own thread (`node/sql/handle.rs`).

use crate::lock::{Mutex, lock};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// When the statements of each timed command ended, by the seed of the command. There are no more than requests under
/// way.
#[derive(Debug, Default)]
pub struct StatementTimings {
    count: AtomicUsize,
    marks: Mutex<BTreeMap<u64, Vec<Instant>>>,
}

/// A command is timed until this is dropped.
#[derive(Debug)]
pub struct TimedCommand<'a> {
    timings: &'a StatementTimings,
    seed: u64,
}

impl StatementTimings {
    /// Times the command with this seed.
    pub fn begin(&self, seed: u64) -> TimedCommand<'_> {
        let mut marks = lock(&self.marks);
        marks.insert(seed, Vec::new());
        self.count.store(marks.len(), Ordering::Relaxed);
        TimedCommand { timings: self, seed }
    }

    /// The command begins, or one of its statements has ended.
    pub fn mark(&self, seed: u64) {
        if self.count.load(Ordering::Relaxed) > 0
            && let Some(marks) = lock(&self.marks).get_mut(&seed)
        {
            marks.push(Instant::now());
        }
    }
}

impl TimedCommand<'_> {
    /// How long each statement took that has ended.
    pub fn times(&self) -> Vec<Duration> {
        lock(&self.timings.marks).get(&self.seed).map(|marks| between(marks)).unwrap_or_default()
    }
}

impl Drop for TimedCommand<'_> {
    fn drop(&mut self) {
        let mut marks = lock(&self.timings.marks);
        marks.remove(&self.seed);
        self.timings.count.store(marks.len(), Ordering::Relaxed);
    }
}

/// From each mark to the next.
pub fn between(marks: &[Instant]) -> Vec<Duration> {
    marks.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

#[cfg(test)]
mod tests {
    use crate::node::views::statement_timings::*;

    #[test]
    fn only_what_is_timed_is_timed_and_nothing_stays() {
        let timings = StatementTimings::default();
        timings.mark(1);
        let timed = timings.begin(1);
        for seed in [1, 2, 1, 1] {
            timings.mark(seed);
        }
        assert_eq!(timed.times().len(), 2);
        drop(timed);
        timings.mark(1);
        assert!(lock(&timings.marks).is_empty());
    }
}
