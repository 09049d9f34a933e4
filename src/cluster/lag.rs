//! Nodes that are online and do not catch up: their log ends before what is committed and has not grown for a while.
//! Such a node answers heartbeats but lacks the newest entries, so it does not count as a copy.
//!
//! Derived from heartbeat rows, so every node can determine it. Not here: the effect on the health (`health.rs`); the
//! leader's own record, on which jobs depend (`worker_liveness.rs`).

use crate::types::{Index, NodeId};
use std::collections::{BTreeMap, VecDeque};

/// Commit indexes that are kept with their times: with the least time between heartbeats, for a second.
const PAST_MAX: usize = 100;

/// Last index of each log, and since when it has lacked committed entries without growing.
#[derive(Debug, Default)]
pub struct Lags {
    rows: BTreeMap<NodeId, (Index, u64)>,
    committed: Index,
    /// The highest known commit index at each of the last calls, with its time.
    past: VecDeque<(u64, Index)>,
}

impl Lags {
    /// Records the last index of the log of each node that is online, and the highest known commit index. To be called
    /// often: a log counts as caught up until the last call at which it was.
    pub fn note(&mut self, now_ms: u64, committed: Index, ends: impl IntoIterator<Item = (NodeId, Index)>) {
        let before = std::mem::take(&mut self.rows);
        self.committed = committed;
        self.past.push_back((now_ms, committed));
        if self.past.len() > PAST_MAX {
            self.past.pop_front();
        }
        let since = |id, end| match before.get(&id) {
            Some((earlier, since)) if *earlier == end && end < committed => *since,
            _ => now_ms,
        };
        self.rows = ends.into_iter().map(|(id, end)| (id, (end, since(id, end)))).collect();
    }

    /// Returns the commit index that was known at this time, with which the row of a heartbeat of then is to be compared;
    /// of an earlier time than the calls that are remembered, the oldest of them.
    pub fn committed_at(&self, ms: u64) -> Index {
        let then = self.past.iter().rev().find(|(at, _)| *at <= ms).or(self.past.front());
        then.map_or(Index(0), |(_, committed)| *committed)
    }

    /// Returns the nodes that have not caught up for `after_ms`, each with the last index of its log and the one that
    /// it should have.
    pub fn stuck(&self, now_ms: u64, after_ms: u64) -> BTreeMap<NodeId, (Index, Index)> {
        let is_stuck = |(end, since): &(Index, u64)| *end < self.committed && now_ms.saturating_sub(*since) >= after_ms;
        self.rows.iter().filter(|(_, row)| is_stuck(row)).map(|(id, (end, _))| (*id, (*end, self.committed))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_stands_still_below_the_commit_index_is_stuck_and_one_that_moves_is_not() {
        let mut lags = Lags::default();
        let mut at = |now_ms, committed, ends: [u64; 2]| {
            let ends = ends.into_iter().zip(1..).map(|(end, id)| (NodeId(id), Index(end)));
            lags.note(now_ms, Index(committed), ends);
            lags.stuck(now_ms, 1000).keys().map(|id| id.0).collect::<Vec<_>>()
        };
        assert!(at(0, 10, [10, 10]).is_empty());
        assert!(at(5000, 10, [10, 10]).is_empty(), "nothing is new, so nobody lacks anything");
        assert!(at(5100, 20, [20, 10]).is_empty(), "it has only just fallen behind");
        assert!(at(6000, 30, [30, 12]).is_empty(), "it moves");
        assert!(at(6900, 40, [40, 12]).is_empty());
        assert_eq!(at(7000, 40, [40, 12]), [2]);
        assert!(at(7100, 40, [40, 40]).is_empty());
        let at = [0, 5050, 5100, 6500, 9000].map(|ms| lags.committed_at(ms).0);
        assert_eq!(at, [10, 10, 20, 30, 40]);
    }
}
