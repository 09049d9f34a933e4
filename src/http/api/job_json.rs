//! A job as JSON: what was asked, how far it is, and how it ended.
//!
//! Output is text where it is UTF-8, else base64, and says so.
//! Not here: asking for a job (`jobs.rs`), output while the job runs (`job_output.rs`).

use crate::http::protocol::response::as_text;
use crate::services::jobs::{Job, JobId, Past, State, Verdict};
use serde_json::{Map, Value as Json, json};

/// The node that runs it or ran it.
pub(crate) fn worker_of(job: &Job) -> Option<u64> {
    match &job.state {
        State::Queued => None,
        State::Assigned { worker, .. } => Some(worker.id.0),
        State::Ended { worker, .. } => worker.map(|id| id.0),
    }
}

/// How far a job is, in one word.
fn state_word(job: &Job) -> &'static str {
    match &job.state {
        State::Queued => "queued",
        State::Assigned { .. } => "running",
        State::Ended { end, .. } => end.verdict.word(),
    }
}

/// Why an attempt did not end its job, in one word.
pub(crate) fn why_over(past: &Past) -> &'static str {
    if past.not_started.is_some() { "not_started" } else { "lost" }
}

/// An attempt that did not end its job.
fn past_to_json(past: &Past) -> Json {
    let mut row = json!({"attempt": past.attempt, "worker": past.worker.id.0, "why": why_over(past)});
    if let Some(why) = &past.not_started {
        row["error"] = why.as_str().into();
    }
    put_output(&mut row, &past.stdout, &past.stderr);
    row
}

fn put_output(row: &mut Json, stdout: &[u8], stderr: &[u8]) {
    for (name, encoding, bytes) in [("stdout", "stdout_encoding", stdout), ("stderr", "stderr_encoding", stderr)] {
        let (text, is_base64) = as_text(bytes.to_vec());
        row[name] = text.into();
        if is_base64 {
            row[encoding] = "base64".into();
        }
    }
}

/// A job without its sources: what was asked, how far it is, and how it ended.
pub(crate) fn to_json(id: JobId, job: &Job) -> Map<String, Json> {
    let request = &job.request;
    let files: Vec<&String> = request.files.iter().map(|(name, _)| name).collect();
    let mut all = json!({
        "id": id, "language": request.language, "state": state_word(job), "attempt": job.attempt,
        "worker": worker_of(job), "submitted_ms": job.submitted_ms, "files": files, "args": request.args,
        "limits": request.limits,
    });
    if let State::Assigned { since_ms, .. } = &job.state {
        all["since_ms"] = (*since_ms).into();
    }
    if !job.past.is_empty() {
        all["earlier"] = job.past.iter().map(past_to_json).collect();
    }
    if let State::Ended { end, at_ms, .. } = &job.state {
        all["ended_ms"] = (*at_ms).into();
        all["exit_code"] = end.exit_code.into();
        all["signal"] = end.signal.into();
        all["compile_ms"] = end.compile_ms.into();
        all["run_ms"] = end.run_ms.into();
        // One that has ended before anybody looked had some, but nobody knows how much.
        all["memory_peak_kib"] = Some(end.memory_peak_kib).filter(|kib| *kib > 0).into();
        if let Verdict::Failed(why) = &end.verdict {
            all["error"] = why.as_str().into();
        }
        put_output(&mut all, &end.stdout, &end.stderr);
    }
    match all {
        Json::Object(all) => all,
        _ => unreachable!("it was made as an object"),
    }
}
