//! How long statements of replicated commands took on this node, for the doors that asked.
//!
//! A door says which command it wants to know about before it sends it; `apply` marks the time as it goes through the
//! statements. Nothing of this is in a state or in the log: another node needs another time.
//! Not here: reads, whose thread takes the times itself (`node/sql/handle.rs`).

use crate::node::shared::lock;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Marks of the commands that somebody waits for, by their seeds: no more than requests under way.
#[derive(Debug, Default)]
pub struct Laps {
    count: AtomicUsize,
    marks: Mutex<BTreeMap<u64, Vec<Instant>>>,
}

/// As long as it lives a command is timed.
#[derive(Debug)]
pub struct Wanted<'a> {
    laps: &'a Laps,
    seed: u64,
}

impl Laps {
    /// Times the command with this seed.
    pub fn want(&self, seed: u64) -> Wanted<'_> {
        let mut marks = lock(&self.marks);
        marks.insert(seed, Vec::new());
        self.count.store(marks.len(), Ordering::Relaxed);
        Wanted { laps: self, seed }
    }

    /// The command begins, or one of its statements is over.
    pub fn lap(&self, seed: u64) {
        if self.count.load(Ordering::Relaxed) > 0
            && let Some(marks) = lock(&self.marks).get_mut(&seed)
        {
            marks.push(Instant::now());
        }
    }
}

impl Wanted<'_> {
    /// How long each statement took that is over.
    pub fn times(&self) -> Vec<Duration> {
        lock(&self.laps.marks).get(&self.seed).map(|marks| between(marks)).unwrap_or_default()
    }
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        let mut marks = lock(&self.laps.marks);
        marks.remove(&self.seed);
        self.laps.count.store(marks.len(), Ordering::Relaxed);
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
    fn only_what_is_wanted_is_timed_and_nothing_stays() {
        let laps = Laps::default();
        laps.lap(1);
        let wanted = laps.want(1);
        for seed in [1, 2, 1, 1] {
            laps.lap(seed);
        }
        assert_eq!(wanted.times().len(), 2);
        drop(wanted);
        laps.lap(1);
        assert!(lock(&laps.marks).is_empty());
    }
}
