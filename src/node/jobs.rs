//! What `apply` publishes of the jobs: this process's own work, who works, and what the page shows.
//!
//! Built anew whenever the jobs have changed; `worker` compares it with what runs, `core` looks for workers that are gone.
//! Not here: the jobs themselves (`services/jobs/`).

use super::status::{JobRow, JobsStatus, WorkerRow};
use super::worker::Task;
use crate::services::jobs::{Board, Job, JobId, State};
use crate::types::Identity;

/// Results that a look shows.
const LAST_SHOWN: usize = 12;
/// Characters of output in one line of it.
const SAYS_MAX: usize = 60;

/// One look at the jobs.
#[derive(Clone, Debug, Default)]
pub struct JobsView {
    /// What the log gives to this process.
    pub mine: Vec<Task>,
    /// Whether this process has joined, and nobody has declared it gone since.
    pub am_here: bool,
    /// Processes that are there.
    pub here: Vec<Identity>,
    /// For the page.
    pub status: JobsStatus,
}

impl JobsView {
    /// The jobs as the process `me` sees them.
    pub fn of(board: &Board, me: Identity) -> JobsView {
        let task = |(job, attempt): (JobId, u32)| Some(Task { job, attempt, request: board.job(job)?.request.clone() });
        let here: Vec<Identity> = board.workers().filter(|worker| worker.is_here).map(|worker| worker.who).collect();
        let (queued, running) = board.counts();
        let workers = board.workers().map(|worker| WorkerRow {
            id: worker.who.id,
            is_here: worker.is_here,
            slots: worker.slots,
            running: worker.running.iter().copied().collect(),
            runtimes: worker.runtimes.iter().cloned().collect(),
            trouble: worker.trouble.clone(),
        });
        let last = board.last_ended(LAST_SHOWN).filter_map(|(id, job)| row(id, job));
        let status = JobsStatus { queued, running, workers: workers.collect(), last: last.collect() };
        let mine = board.work_of(me).into_iter().filter_map(task).collect();
        JobsView { mine, am_here: here.contains(&me), here, status }
    }
}

fn row(id: JobId, job: &Job) -> Option<JobRow> {
    let State::Ended { end, worker, at_ms } = &job.state else { return None };
    let said = if end.stdout.is_empty() { &end.stderr } else { &end.stdout };
    let head = String::from_utf8_lossy(&said[..said.len().min(4 * SAYS_MAX)]);
    Some(JobRow {
        id,
        language: job.request.language.clone(),
        verdict: end.verdict.word().to_string(),
        exit_code: end.exit_code,
        signal: end.signal,
        worker: *worker,
        attempt: job.attempt,
        took_ms: end.compile_ms + end.run_ms,
        says: head.lines().next().unwrap_or_default().chars().take(SAYS_MAX).collect(),
        at_ms: *at_ms,
    })
}
