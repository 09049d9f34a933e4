//! Answers to queries, none of which changes anything.
//!
//! Not here: what is asked (`commands.rs`).

use super::commands::{End, Job, JobId, LIST_FILES_MAX, LIST_MAX, Query, Request, State};
use super::state::JobTable;
use std::sync::Arc;

/// The reply's bytes.
pub fn answer(table: &JobTable, query: Query) -> Vec<u8> {
    let encoded = match query {
        Query::Job(id) => postcard::to_stdvec(&table.job(id).map(without_sources)),
        Query::Glance(id) => postcard::to_stdvec(&glance(table, id)),
        Query::List { before, limit } => postcard::to_stdvec(&list(table, before, limit)),
        Query::Workers => postcard::to_stdvec(&table.workers().collect::<Vec<_>>()),
    };
    encoded.expect("encoding into memory cannot fail")
}

fn list(table: &JobTable, before: Option<JobId>, limit: u64) -> Vec<(JobId, Job)> {
    let end = before.unwrap_or(JobId::MAX);
    let newest_first = table.jobs.range(..end).rev().take(limit.min(LIST_MAX) as usize);
    newest_first.map(|(id, job)| (*id, for_list(job))).collect()
}

fn glance(table: &JobTable, id: JobId) -> Option<(u32, bool)> {
    table.job(id).map(|job| (job.attempt, matches!(job.state, State::Assigned { .. })))
}

/// A job without its files and input, which may be megabytes.
fn without_sources(job: &Job) -> Job {
    let request = &job.request;
    let files = request.files.iter().map(|(name, _)| (name.clone(), Default::default())).collect();
    let request = Request {
        language: request.language.clone(),
        files,
        stdin: Default::default(),
        args: request.args.clone(),
        ..*request.as_ref()
    };
    Job { request: Arc::new(request), state: job.state.clone(), past: job.past.clone(), ..*job }
}

/// A job for a list.
fn for_list(job: &Job) -> Job {
    let state = match &job.state {
        State::Ended { end, worker, at_ms } => {
            let end = End {
                verdict: end.verdict.clone(),
                stdout: Default::default(),
                stderr: Default::default(),
                ..*end.as_ref()
            };
            State::Ended { end: Arc::new(end), worker: *worker, at_ms: *at_ms }
        }
        other => other.clone(),
    };
    let request = &job.request;
    let files = request.files.iter().take(LIST_FILES_MAX).map(|(name, _)| (name.clone(), Default::default()));
    let request = Request {
        language: request.language.clone(),
        files: files.collect(),
        stdin: Default::default(),
        args: Vec::new(),
        ..*request.as_ref()
    };
    Job { request: Arc::new(request), state, past: Vec::new(), ..*job }
}
