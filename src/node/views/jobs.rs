//! What `apply` publishes of the jobs: this process's own tasks, the workers, and what the page shows.
//!
//! Rebuilt whenever the jobs have changed; `worker` compares it with what runs, `core` finds workers that are gone.
//! Not here: the jobs themselves (`services/jobs/`).

use super::status::{JobRow, JobsStatus, WorkerRow};
use crate::services::jobs::{Job, JobId, JobTable, Request, State, Worker};
use crate::types::Identity;
use imbl::OrdMap;
use std::sync::Arc;

/// Results on the page.
const LAST_SHOWN: usize = 12;
/// Characters of output in the line of a result.
const SAYS_MAX: usize = 60;

/// One attempt that the log assigns to this process.
#[derive(Clone, Debug)]
pub struct AssignedAttempt {
    pub job: JobId,
    pub attempt: u32,
    /// The program to run.
    pub request: Arc<Request>,
}

/// The jobs at one index.
#[derive(Clone, Debug, Default)]
pub struct JobsView {
    /// All of them: a copy that shares everything with the state.
    pub all: OrdMap<JobId, Job>,
    /// Attempts that the log assigns to this process.
    pub mine: Vec<AssignedAttempt>,
    /// Whether this process is a worker: it has joined, and was not declared lost since.
    pub am_here: bool,
    pub here: Vec<Identity>,
    /// For the page.
    pub status: JobsStatus,
    /// For each worker's row: its identity, the versions at which its work and what it offers have last changed, and
    /// whether it is there.
    stamps: Vec<(Identity, u64, u64, bool)>,
}

impl JobsView {
    /// The jobs for the process `me`. Rows that have not changed are taken from the view `before`: under load there are
    /// hundreds of views a second, and copying texts would be most of their cost.
    pub fn of(table: &JobTable, me: Identity, before: &JobsView) -> JobsView {
        let assigned = |(job, attempt): (JobId, u32)| {
            Some(AssignedAttempt { job, attempt, request: table.job(job)?.request.clone() })
        };
        let here: Vec<Identity> = table.workers().filter(|worker| worker.is_here).map(|worker| worker.who).collect();
        let (queued, running) = table.counts();
        let stamps: Vec<_> =
            table.workers().map(|worker| (worker.who, worker.turn, worker.heard, worker.is_here)).collect();
        let known = |at: usize| before.status.workers.get(at).filter(|_| before.stamps.get(at) == Some(&stamps[at]));
        let workers = table
            .workers()
            .enumerate()
            .map(|(at, worker)| known(at).map_or_else(|| Arc::new(worker_row(worker)), Arc::clone))
            .collect();
        let known = |id: JobId| before.status.last.iter().find(|row| row.id == id);
        let last = table
            .last_ended(LAST_SHOWN)
            .filter_map(|(id, job)| known(id).cloned().or_else(|| row(id, job).map(Arc::new)))
            .collect();
        let status = JobsStatus { queued, running, workers, last };
        let mine = table.work_of(me).into_iter().filter_map(assigned).collect();
        JobsView { all: table.parts().0.clone(), mine, am_here: here.contains(&me), here, status, stamps }
    }

    /// Whether nothing has changed for a worker since `before`.
    pub fn is_same_work(&self, before: &JobsView) -> bool {
        let keys = |view: &JobsView| view.mine.iter().map(|task| (task.job, task.attempt)).collect::<Vec<_>>();
        self.am_here == before.am_here && self.here == before.here && keys(self) == keys(before)
    }
}

fn worker_row(worker: &Worker) -> WorkerRow {
    WorkerRow {
        id: worker.who.id,
        is_here: worker.is_here,
        slots: worker.slots,
        running: worker.running.iter().copied().collect(),
        runtimes: worker.runtimes.iter().cloned().collect(),
        trouble: worker.trouble.clone(),
    }
}

fn row(id: JobId, job: &Job) -> Option<JobRow> {
    let State::Ended { end, worker, at_ms } = &job.state else { return None };
    let said = if end.stdout.is_empty() { &end.stderr } else { &end.stdout };
    let head = String::from_utf8_lossy(&said[..said.len().min(4 * SAYS_MAX)]);
    Some(JobRow {
        id,
        language: job.request.language.clone(),
        verdict: end.outcome.word().to_string(),
        exit_code: end.exit_code,
        signal: end.signal,
        worker: *worker,
        attempt: job.attempt,
        took_ms: end.compile_ms + end.run_ms,
        says: head.lines().next().unwrap_or_default().chars().take(SAYS_MAX).collect(),
        at_ms: *at_ms,
    })
}

#[cfg(test)]
mod tests {
    use crate::node::views::jobs::*;
    use crate::services::jobs::Command;
    use crate::types::{NodeId, Stamp};
    use uuid::Uuid;

    #[test]
    fn a_worker_that_joins_again_shows_what_it_offers_now() {
        let who = Identity { id: NodeId(1), uuid: Uuid::from_u128(1) };
        let (mut table, mut view) = (JobTable::default(), JobsView::default());
        for trouble in [None, Some("no room for namespaces".to_string()), None] {
            let runtimes = trouble.is_none().then(|| "shell".to_string());
            let runtimes = runtimes.into_iter().collect();
            table.run(Stamp::default(), Command::Join { worker: who, slots: 1, runtimes, trouble: trouble.clone() });
            view = JobsView::of(&table, who, &view);
            let row = &view.status.workers[0];
            assert_eq!((&row.trouble, row.runtimes.len()), (&trouble, usize::from(trouble.is_none())));
        }
    }
}
