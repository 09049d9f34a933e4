//! What the process of a virtual node knows of jobs; lost with it.

use crate::cluster::worker_liveness::WorkerLiveness;
use crate::services::jobs::{self, JobId};
use crate::services::sessions::Tag;
use crate::types::Identity;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// A job and an attempt at it.
pub(crate) type Key = (JobId, u32);

/// How an attempt ended, or what it had printed when it was stopped, that the log may not have yet.
pub(crate) struct UnreportedEnd {
    pub(crate) command: jobs::Command,
    /// The attempt is no longer assigned to this worker: it is reported once.
    pub(crate) is_past: bool,
    /// The tag under which it was reported last.
    pub(crate) tag: Option<Tag>,
    pub(crate) next_try: u64,
}

/// What a process knows of jobs, all of it lost with the process.
pub struct Worker {
    /// The node, and what this process has drawn.
    pub who: Identity,
    /// Of its commands.
    pub(crate) origin: Uuid,
    pub(crate) slots: u64,
    pub(crate) runtimes: BTreeSet<String>,
    /// Not before it knows what it can run.
    pub(crate) next_join: u64,
    /// Running programs, and whether they are being stopped.
    pub(crate) running: BTreeMap<Key, bool>,
    pub(crate) unreported: BTreeMap<Key, UnreportedEnd>,
    /// Number of its newest command.
    pub(crate) number: u64,
    /// Time of its next check, if one is scheduled.
    pub(crate) look_at: Option<u64>,
    /// The job table's turn at the last check.
    pub(crate) turn: u64,
    /// As the node's core has it.
    pub(crate) worker_liveness: WorkerLiveness,
    /// Time of the next check of workers, on the leader.
    pub(crate) next_worker_check: u64,
}

impl Worker {
    /// What to stop and what to begin, if this is its work. `goes_on`: it stops nothing (a planted bug).
    pub(crate) fn compare(&mut self, mine: &BTreeSet<Key>, goes_on: bool) -> (Vec<Key>, Vec<Key>) {
        let mut stopped = Vec::new();
        if !goes_on {
            for (key, is_cancelled) in self.running.iter_mut().filter(|(key, _)| !mine.contains(key)) {
                if !std::mem::replace(is_cancelled, true) {
                    stopped.push(*key);
                }
            }
            self.unreported.retain(|key, unreported| unreported.is_past || mine.contains(key));
        }
        let mut begun = Vec::new();
        for key in mine {
            let is_known = self.running.contains_key(key) || self.unreported.contains_key(key);
            if !is_known && (self.running.len() as u64) < self.slots {
                self.running.insert(*key, false);
                begun.push(*key);
            }
        }
        (stopped, begun)
    }

    /// A tag for its next command. All ends that it has reported are still open.
    pub(crate) fn tag(&mut self) -> Tag {
        self.number += 1;
        let numbers = self.unreported.values().filter_map(|unreported| unreported.tag).map(|tag| tag.number);
        let done_below = numbers.min().unwrap_or(self.number);
        Tag { origin: self.origin, number: self.number, done_below }
    }
}
