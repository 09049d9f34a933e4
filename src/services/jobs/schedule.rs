//! Assigns jobs to workers: to the worker with the language that has the fewest running jobs, among equals the one that
//! has been idle longest. A worker on which the job's sandbox did not start gets it again only if no other can take it.
//!
//! This runs after every command, on every node, and depends on the state alone, so an assignment is never late and
//! needs no log entry. Each language has a queue in the order of job numbers: a job that no worker can take now does
//! not delay jobs in other languages. A job that was lost with its worker keeps its number and is first in its queue
//! again.
//! Not here: starting the assigned jobs (`node/`), declaring workers lost (the leader).

use super::commands::{JobId, Worker};
use super::state::JobTable;
use crate::planted_bugs::is_planted;
use crate::types::{NodeId, Stamp};

impl JobTable {
    /// Assigns jobs until no worker can take another one.
    pub(crate) fn assign(&mut self, at: Stamp) {
        while let Some((job, worker)) = self.next_pair() {
            self.give(at, job, worker);
        }
    }

    /// Returns the first job that a worker can take, with that worker.
    fn next_pair(&self) -> Option<(JobId, NodeId)> {
        let first_of_each = self.queues().filter_map(|(language, jobs)| Some((*jobs.get_min()?, language)));
        let pairs = first_of_each.filter_map(|(job, language)| Some((job, self.find_worker(job, language)?)));
        pairs.min()
    }

    fn find_worker(&self, job: JobId, language: &str) -> Option<NodeId> {
        let can_take = |worker: &&Worker| {
            let has_room = (worker.running.len() as u64) < worker.slots || is_planted!(self, slots_are_not_counted);
            worker.is_here && has_room && worker.runtimes.contains(language)
        };
        let setbacks =
            |on: NodeId| self.job(job).map_or(0, |job| job.setbacks().filter(|worker| *worker == on).count());
        let rank = |worker: &&Worker| (setbacks(worker.who.id), worker.running.len(), worker.turn, worker.who.id);
        self.workers().filter(can_take).min_by_key(rank).map(|worker| worker.who.id)
    }
}
