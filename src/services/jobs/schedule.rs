//! Who gets which job: the capable worker with the fewest running jobs, among equals the one that has been idle
//! longest. A worker on which the job's sandbox did not start gets it again only if no other can take it.
//!
//! This runs after every command, on every node, and decides from the state alone; so no decision can be late, and none
//! takes an entry of its own. Jobs wait in the order of their numbers, for each language apart: one that no worker can
//! take now does not delay those behind it. A job that was lost with its worker keeps its number and is first again.
//! Not here: what a worker is told (`node/`), who is lost (the leader).

use super::commands::{JobId, Worker};
use super::state::JobTable;
use crate::planted_bugs::is_planted;
use crate::types::{NodeId, Stamp};

impl JobTable {
    /// Assigns jobs as long as a worker can take one.
    pub(crate) fn assign(&mut self, at: Stamp) {
        while let Some((job, worker)) = self.next_pair() {
            self.give(at, job, worker);
        }
    }

    /// The first job that a worker can take, with that worker.
    fn next_pair(&self) -> Option<(JobId, NodeId)> {
        let first_of_each = self.queues().filter_map(|(language, jobs)| Some((*jobs.get_min()?, language)));
        let takers = first_of_each.filter_map(|(job, language)| Some((job, self.taker(job, language)?)));
        takers.min()
    }

    fn taker(&self, job: JobId, language: &str) -> Option<NodeId> {
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
