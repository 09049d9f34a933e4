//! A job as JSON: its request, its progress, and how it ended.
//!
//! Output is text if it is UTF-8, else base64, and the object says which.
//! Not here: submitting a job (`jobs.rs`), output while the job runs (`job_output.rs`).

use crate::http::protocol::response::put_bytes;
use crate::services::jobs::{Job, JobId, JobOutcome, PastAttempt, State};
use serde_json::{Value as Json, json};

/// The node that runs the job or ran it.
pub(crate) fn worker_of(job: &Job) -> Option<u64> {
    match &job.state {
        State::Queued => None,
        State::Assigned { worker, .. } => Some(worker.id.0),
        State::Ended { worker, .. } => worker.map(|id| id.0),
    }
}

/// The job's progress, in one word.
pub(crate) fn state_word(job: &Job) -> &'static str {
    match &job.state {
        State::Queued => "queued",
        State::Assigned { .. } => "running",
        State::Ended { end, .. } => end.outcome.word(),
    }
}

/// Why an attempt did not end its job, in one word.
pub(crate) fn why_over(past: &PastAttempt) -> &'static str {
    if past.not_started.is_some() { "not_started" } else { "lost" }
}

/// An attempt that did not end its job.
fn past_to_json(past: &PastAttempt) -> Json {
    let mut row = json!({"attempt": past.attempt, "worker": past.worker.id.0, "why": why_over(past)});
    if let Some(why) = &past.not_started {
        row["error"] = why.as_str().into();
    }
    put_output(&mut row, &past.stdout, &past.stderr);
    row
}

fn put_output(row: &mut Json, stdout: &[u8], stderr: &[u8]) {
    put_bytes(row, "stdout", "stdout_encoding", stdout.to_vec());
    put_bytes(row, "stderr", "stderr_encoding", stderr.to_vec());
}

/// A job without its sources: its request, progress and end, and the output of its attempts.
pub(crate) fn with_output(id: JobId, job: &Job) -> Json {
    let mut all = to_json(id, job, true);
    if !job.past.is_empty() {
        all["earlier"] = job.past.iter().map(|past| past_to_json(past)).collect();
    }
    if let State::Ended { end, .. } = &job.state {
        put_output(&mut all, &end.stdout, &end.stderr);
    }
    all
}

/// About how many bytes of memory it takes to return so much output: it is copied into JSON, and that is written as
/// text.
pub(crate) fn shown_bytes(job: &Job) -> usize {
    let of = |bytes: &[u8]| {
        let is_escaped = |byte: &&u8| **byte < b' ';
        // `\u0001` takes six bytes; base64, for output that is not text, takes less.
        let escapes =
            bytes.iter().filter(is_escaped).count() * 5 + bytes.iter().filter(|byte| b"\"\\".contains(byte)).count();
        2 * bytes.len() + bytes.len() / 3 + escapes
    };
    let past: usize = job.past.iter().map(|past| of(&past.stdout) + of(&past.stderr)).sum();
    past + if let State::Ended { end, .. } = &job.state { of(&end.stdout) + of(&end.stderr) } else { 0 }
}

/// A job without its sources and output, and maybe without its arguments.
pub(crate) fn to_json(id: JobId, job: &Job, has_args: bool) -> Json {
    let request = &job.request;
    let files: Vec<&String> = request.files.iter().map(|(name, _)| name).collect();
    let mut all = json!({
        "id": id, "language": request.language, "state": state_word(job), "attempt": job.attempt,
        "worker": worker_of(job), "submitted_ms": job.submitted_ms, "files": files, "limits": request.limits,
    });
    if has_args {
        all["args"] = request.args.clone().into();
    }
    if let State::Assigned { since_ms, .. } = &job.state {
        all["since_ms"] = (*since_ms).into();
    }
    if let State::Ended { end, at_ms, .. } = &job.state {
        all["ended_ms"] = (*at_ms).into();
        all["exit_code"] = end.exit_code.into();
        all["signal"] = end.signal.into();
        all["compile_ms"] = end.compile_ms.into();
        all["run_ms"] = end.run_ms.into();
        // A job that ended before its memory was first measured has no known peak; the record holds 0 then.
        all["memory_peak_kib"] = Some(end.memory_peak_kib).filter(|kib| *kib > 0).into();
        if let JobOutcome::Failed(why) = &end.outcome {
            all["error"] = why.as_str().into();
        }
    }
    all
}
