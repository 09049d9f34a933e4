//! Redirects by this node's front door of which the other nodes have not been informed yet.
//!
//! Each node counts the others' redirects (`cluster/dispatch.rs`), so they must be reported soon, but not one by one: a
//! report costs a write for each other node, and a read and two changes of thread there. The first redirect after a
//! pause is reported at once, those that follow together.
//!
//! Invariants: H1 each redirect is in exactly one report. H2 two reports are [`REPORT_EVERY`] apart at least, and no
//! redirect waits longer for its own.
//! Not here: sending (`node/threads/gossip.rs`).

use crate::lock::{Mutex, lock};
use crate::types::NodeId;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Time between two reports. With the way to the other nodes it stays below what the test of five nodes in
/// `cluster/tests/dispatch.rs` assumes.
pub const REPORT_EVERY: Duration = Duration::from_millis(10);

/// What the next report will contain.
#[derive(Debug, Default)]
pub struct HandOuts(Mutex<Unreported>);

#[derive(Debug, Default)]
struct Unreported {
    counts: BTreeMap<NodeId, u32>,
    reported: Option<Instant>,
}

impl HandOuts {
    /// Counts a redirect to `worker`. Returns whether the thread that reports must be woken, because there was nothing
    /// to report before.
    pub fn add(&self, worker: NodeId) -> bool {
        let mut unreported = lock(&self.0);
        let was_empty = unreported.counts.is_empty();
        *unreported.counts.entry(worker).or_default() += 1;
        was_empty
    }

    /// Time of the next report, which may be in the past; `None` if there is nothing to report.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        lock(&self.0).due(now)
    }

    /// Takes the report if it is due.
    pub fn take_due(&self, now: Instant) -> Option<Vec<(NodeId, u32)>> {
        let mut unreported = lock(&self.0);
        unreported.due(now).filter(|due| *due <= now)?;
        unreported.reported = Some(now);
        Some(std::mem::take(&mut unreported.counts).into_iter().collect())
    }
}

impl Unreported {
    fn due(&self, now: Instant) -> Option<Instant> {
        (!self.counts.is_empty()).then(|| self.reported.map_or(now, |at| at + REPORT_EVERY))
    }
}

#[cfg(test)]
mod tests {
    use crate::node::shared::hand_outs::*;

    #[test]
    fn the_first_is_reported_at_once_and_those_that_follow_together() {
        let (hand_outs, begin) = (HandOuts::default(), Instant::now());
        let at = |ms: u64| begin + Duration::from_millis(ms);
        assert_eq!((hand_outs.due(begin), hand_outs.take_due(begin)), (None, None));
        assert!(hand_outs.add(NodeId(2)), "the thread is woken");
        assert_eq!((hand_outs.due(begin), hand_outs.take_due(begin)), (Some(begin), Some(vec![(NodeId(2), 1)])));
        // 1,000 a millisecond for 20 ms: two more reports, with everything.
        let (mut reports, mut reported, mut woken) = (0, 0, 0);
        for ms in 0..=20 {
            if ms < 20 {
                woken += (0..1000).filter(|n| hand_outs.add(NodeId(n % 4))).count();
            }
            for (_, count) in hand_outs.take_due(at(ms)).inspect(|_| reports += 1).unwrap_or_default() {
                reported += count;
            }
        }
        assert_eq!((reports, reported, woken), (2, 20_000, 2));
        // After a pause the next one does not wait.
        assert!(hand_outs.add(NodeId(3)) && !hand_outs.add(NodeId(3)));
        assert_eq!(hand_outs.take_due(at(40)), Some(vec![(NodeId(3), 2)]));
    }
}
