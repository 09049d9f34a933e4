//! Answers to queries.
//!
//! Not here: the types of queries and replies (`commands.rs`).

use super::commands::{End, Job, JobId, LIST_FILES_MAX, LIST_MAX, Query, Request, State};
use super::state::JobTable;
use crate::services::cost_within;
use std::sync::Arc;

/// Approximate maximum size of a job in a list, in addition to its file names.
const JOB_BYTES: usize = 256;

/// Returns the encoded reply to a query.
pub fn answer(table: &JobTable, query: Query) -> Vec<u8> {
    let encoded = match query {
        Query::Glance(id) => postcard::to_stdvec(&glance(table, id)),
        Query::List { before, limit } => postcard::to_stdvec(&list(table, before, limit)),
    };
    encoded.expect("encoding into memory cannot fail")
}

/// Returns about how many bytes are copied or examined to answer a query; stops counting beyond `most`.
pub fn cost(table: &JobTable, query: Query, most: usize) -> usize {
    let names = |job: &Job| job.request.files.iter().take(LIST_FILES_MAX).map(|(name, _)| name.len()).sum::<usize>();
    match query {
        Query::Glance(_) => JOB_BYTES,
        Query::List { before, limit } => {
            cost_within(newest_first(table, before, limit).map(|(_, job)| JOB_BYTES + names(job)), most)
        }
    }
}

fn newest_first(table: &JobTable, before: Option<JobId>, limit: u64) -> impl Iterator<Item = (&JobId, &Job)> {
    table.jobs.range(..before.unwrap_or(JobId::MAX)).rev().take(limit.min(LIST_MAX) as usize)
}

fn list(table: &JobTable, before: Option<JobId>, limit: u64) -> Vec<(JobId, Job)> {
    newest_first(table, before, limit).map(|(id, job)| (*id, for_list(job))).collect()
}

fn glance(table: &JobTable, id: JobId) -> Option<(u32, bool)> {
    table.job(id).map(|job| (job.attempt, matches!(job.state, State::Assigned { .. })))
}

/// Returns a copy of a job with the fields that a list contains.
fn for_list(job: &Job) -> Job {
    let state = match &job.state {
        State::Ended { end, worker, at_ms } => {
            let end = End {
                outcome: end.outcome.clone(),
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
