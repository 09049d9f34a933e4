//! Jobs over HTTP: submit a program, query its state, cancel it; and `/compileandrun`, which waits and answers with the
//! output.
//!
//! A job that was accepted is in the log: whatever happens to this node, it runs and ends once. A client that is cut
//! off while it waits asks again with the job's number.
//! Not here: decisions about jobs (`services/jobs/`), live output (`job_output.rs`), bodies (`new_job.rs`,
//! `job_json.rs`).

use super::job_json::{shown_bytes, state_word, to_json, with_output, worker_of};
use super::job_wait_reason;
use super::new_job::NewJob;
use crate::http::outcome::{answered, refused, unexpected};
use crate::http::protocol::error::ApiError;
use crate::http::protocol::idempotency;
use crate::http::protocol::params;
use crate::http::protocol::response::Response;
use crate::http::request::{ApiResult, Request};
use crate::http::server::Server;
use crate::node::{Ack, Level, Operation};
use crate::outcome::{Coded, MEMORY_FULL, Outcome};
use crate::services::Replicated;
use crate::services::jobs::JobTable;
use crate::services::jobs::commands::{LIMITS_USUAL, LIST_MAX, decode_list};
use crate::services::jobs::{self, Answer, Command, Job, JobId, JobOutcome, Query, Refusal, State};
use crate::types::Index;
use serde_json::{Map, Value as Json, json};
use std::time::{Duration, Instant};

/// Media type of `/compileandrun`.
pub(crate) const JAVA_SOURCE: &str = "text/x-java-source";
/// Longest wait that a request may ask for.
const WAIT_MAX: Duration = Duration::from_secs(600);
/// A request is answered by then, whatever it asks for: nginx, HAProxy and the load balancers of the large clouds cut a
/// response that has not begun after 60 s, and its job's number would be lost.
const ANSWER_WITHIN: Duration = Duration::from_secs(50);
/// How often a request checks whether a worker has joined.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often a request checks whether its client still waits for the result.
const CLIENT_LOOK: Duration = Duration::from_secs(1);
/// Default number of jobs in a list.
const LIMIT: u64 = 100;

/// How long results are kept on this node; refuses where jobs are off.
fn keep_ms(server: &Server) -> Result<u64, ApiError> {
    let settings = server.host.settings();
    settings.has_jobs().then_some(settings.jobs_keep_ms).ok_or_else(|| {
        ApiError::refused(403, "jobs are disabled on this node: set jobs_enabled, and on addresses other than loopback also cluster_secret")
    })
}

/// How long a request waits for its result.
fn wait_of(request: &Request) -> Result<Option<Duration>, ApiError> {
    let wait = request.params().duration("wait", WAIT_MAX)?;
    Ok(wait.map(|wait| wait.min(ANSWER_WITHIN)))
}

/// `POST /v1/jobs`: 202 with the number, or with `wait=30s` 200 with the result if the job ends by then.
pub(crate) fn submit(request: &Request) -> ApiResult {
    let server = request.server;
    let keep_ms = keep_ms(server)?;
    let wait = wait_of(request)?;
    let new: NewJob = params::object(request.body)?;
    let job = new.read(server, keep_ms)?;
    let now = Instant::now();
    let (index, id) = submit_once(request, job, submit_until(server, now, wait))?;
    let location = format!("/v1/jobs/{id}");
    let ended = wait.map(|wait| ended(request, id, index, now + wait));
    let (response, index) = match ended {
        // Without memory for the result the client still gets the job's number.
        Some(Some((index, job))) if request.hold(shown_bytes(&job)).is_ok() => (described(server, id, &job), index),
        waited => {
            let mut taken = json!({"id": id, "state": "queued"});
            let job = waited.and_then(|_| read_job(server, id, Level::Eventual, server.deadline()).ok());
            if let Some((_, job)) = job {
                taken["state"] = state_word(&job).into();
                if let Some(why) = why_waiting(server, &job) {
                    taken["waiting"] = why.into();
                }
            }
            (Response::json(202, &taken).with("X-Phalanx-Job", id.to_string()), index)
        }
    };
    Ok(response.with("Location", location).at(index))
}

/// The deadline for submitting: a client that does not wait for the result still needs the job's number.
fn submit_until(server: &Server, now: Instant, wait: Option<Duration>) -> Instant {
    server.deadline().max(now + wait.unwrap_or_default())
}

/// Submits a job through the log.
fn submit_once(request: &Request, job: jobs::Request, until: Instant) -> Result<(Index, JobId), ApiError> {
    let tag = idempotency::tag_without_params(request.head, request.body)?;
    // The rest of the time is for the command itself: else a lack of workers would look like a lack of a leader.
    let now = Instant::now();
    wait_for_workers(request.server, now + until.saturating_duration_since(now) * 3 / 4);
    let command = JobTable::encode_command(&Command::Submit(job));
    match change(request.server, Operation::Command { tag, command, ack: Ack::Applied }, until)? {
        (index, Answer::Submitted(id)) => Ok((index, id)),
        (_, Answer::Refused(why)) => Err(refusal(request.server, &why)),
        (_, Answer::Done) => Err(unexpected()),
    }
}

/// In a cluster that has just started no worker may have joined yet: that is not a reason to refuse.
fn wait_for_workers(server: &Server, until: Instant) {
    loop {
        let now = Instant::now();
        let frame = server.host.frame();
        if !frame.frame.status.jobs.workers.is_empty() || now >= until || server.host.is_stopping() {
            return;
        }
        server.host.wait_frame(frame.seq, until.min(now + LOOK_EVERY));
    }
}

fn change(server: &Server, work: Operation, until: Instant) -> Result<(Index, Answer), ApiError> {
    let (index, bytes) = answered(server.host.ask(work, until))?;
    Ok((index, Answer::decode(&bytes).ok_or_else(unexpected)?))
}

fn refusal(server: &Server, why: &Refusal) -> ApiError {
    match why {
        Refusal::NoRuntime { wanted, there, .. } => {
            ApiError::refused(why.codes().status, no_runtime(server, wanted, there)).with_leader()
        }
        other => refused(other),
    }
}

/// Which runtimes exist when the requested one does not, and what keeps workers from having any.
fn no_runtime(server: &Server, wanted: &str, there: &[String]) -> String {
    let workers = &server.host.status().status.jobs.workers;
    let instead = match there {
        [] => job_wait_reason::offered(wanted, workers),
        there => {
            [vec![format!("there are: {}", there.join(", "))], job_wait_reason::problems(workers)].concat().join("; ")
        }
    };
    format!("no node has the runtime {wanted}; {instead}")
}

/// Why a job waits for a worker; `None` if it does not, or if the reason is unknown.
fn why_it_waits(server: &Server, id: JobId) -> Option<String> {
    let (_, job) = read_job(server, id, Level::Eventual, server.deadline()).ok()?;
    why_waiting(server, &job)
}

/// The same, of a job that the caller has just read.
pub(crate) fn why_waiting(server: &Server, job: &Job) -> Option<String> {
    let is_queued = matches!(job.state, State::Queued);
    is_queued
        .then(|| job_wait_reason::reason(&job.request.language, &server.host.status().status.jobs.workers))
        .flatten()
}

/// The job once it has ended; `None` if it has not by then, is already forgotten, or its client has disconnected.
fn ended(request: &Request, id: JobId, at_least: Index, until: Instant) -> Option<(Index, Job)> {
    let (server, client) = (request.server, request.client);
    loop {
        let slice = until.min(Instant::now() + CLIENT_LOOK);
        if let Outcome::Done((index, _)) = server.host.await_job(id, at_least, slice) {
            let job = server.host.job(id).filter(|job| matches!(job.state, State::Ended { .. }))?;
            return Some((index, job));
        }
        if slice >= until || client.is_gone() || server.host.is_stopping() {
            return None;
        }
    }
}

/// `POST /compileandrun`: the output; 400 with the output of the compiler or the program if that failed; 202 with the
/// job's address if it has not ended by then.
pub(crate) fn compile_and_run(request: &Request) -> ApiResult {
    let (server, body) = (request.server, request.body);
    let keep_ms = keep_ms(server)?;
    let wait = wait_of(request)?;
    if body.is_empty() {
        return Err(ApiError::refused(400, "the body must be the Java source to compile and run"));
    }
    let language = "java".to_string();
    let name = server.file_name(&language).unwrap_or("Main.java").to_string();
    let job = jobs::Request {
        language,
        files: vec![(name, body.to_vec().into())],
        stdin: Default::default(),
        args: Vec::new(),
        limits: LIMITS_USUAL,
        keep_ms,
    };
    let now = Instant::now();
    let (index, id) = submit_once(request, job, submit_until(server, now, wait))?;
    let Some((index, job)) = ended(request, id, index, now + wait.unwrap_or(ANSWER_WITHIN)) else {
        let waits = why_it_waits(server, id).map_or(String::new(), |why| format!("; it waits: {why}"));
        let later = format!("job {id} has not ended yet, its result will be at /v1/jobs/{id}{waits}\n");
        let response = Response::text(202, later).with("X-Phalanx-Job", id.to_string());
        return Ok(response.with("Location", format!("/v1/jobs/{id}")).at(index));
    };
    if request.hold(job.output_bytes()).is_err() {
        let why = format!("job {id} has ended, its result is at /v1/jobs/{id}; {}", MEMORY_FULL);
        return Err(ApiError::unknown(504, why).with_leader().with("X-Phalanx-Job", id.to_string()).at(index));
    }
    Ok(with_origin(output_of(&job)?, id, &job).at(index))
}

fn output_of(job: &Job) -> ApiResult {
    let State::Ended { end, .. } = &job.state else { return Err(unexpected()) };
    if end.outcome == JobOutcome::Finished && end.exit_code == Some(0) {
        return Ok(text(end.stdout.to_vec()));
    }
    let (status, why) = match (&end.outcome, end.exit_code, end.signal) {
        (JobOutcome::Finished, Some(code), _) => (400, format!("exit code {code}")),
        (JobOutcome::Finished, None, signal) => (400, format!("ended by signal {}", signal.unwrap_or_default())),
        (JobOutcome::NotCompiled, ..) => (400, String::new()),
        (JobOutcome::Failed(why), ..) => (500, why.clone()),
        (JobOutcome::Cancelled, ..) => (409, "cancelled".to_string()),
        (other, ..) => (400, other.word().replace('_', " ")),
    };
    let mut said = end.stdout.to_vec();
    said.extend_from_slice(&end.stderr);
    if !why.is_empty() {
        if !said.is_empty() && !said.ends_with(b"\n") {
            said.push(b'\n');
        }
        said.extend_from_slice(why.as_bytes());
        said.push(b'\n');
    }
    Ok(Response { status, ..text(said) })
}

/// A program's output as plain text, so that a browser does not interpret it.
fn text(bytes: Vec<u8>) -> Response {
    Response { content_type: "text/plain; charset=utf-8", ..Response::bytes(bytes) }
}

fn with_origin(response: Response, id: JobId, job: &Job) -> Response {
    let response = response.with("X-Phalanx-Job", id.to_string()).with("X-Phalanx-Attempt", job.attempt.to_string());
    match worker_of(job) {
        Some(worker) => response.with("X-Phalanx-Worker", worker.to_string()),
        None => response,
    }
}

fn described(server: &Server, id: JobId, job: &Job) -> Response {
    let mut all = with_output(id, job);
    if let Some(why) = why_waiting(server, job) {
        all["waiting"] = why.into();
    }
    with_origin(Response::json(200, &all), id, job)
}

/// A job's number in a path.
pub(crate) fn number(text: &str) -> Result<JobId, ApiError> {
    params::digits(text).ok_or_else(|| ApiError::refused(400, "the path needs the id of a job: /v1/jobs/17"))
}

/// A job as of everything that this level includes; 404 if there is none.
pub(crate) fn read_job(server: &Server, id: JobId, level: Level, until: Instant) -> Result<(Index, Job), ApiError> {
    let (index, _) = answered(server.host.query(JobTable::encode_query(&Query::Glance(id)), level, until))?;
    let job = server.host.job(id).ok_or_else(|| refusal(server, &Refusal::NoSuchJob(id)))?;
    Ok((index, job))
}

/// `GET /v1/jobs/ID`; with `wait=30s`, once the job has ended or the time is up, with its state then.
pub(crate) fn show(request: &Request) -> ApiResult {
    let server = request.server;
    let id = number(request.args.0)?;
    let wait = wait_of(request)?;
    let (mut index, mut job) = read_job(server, id, request.level()?, server.deadline())?;
    if let Some(wait) = wait.filter(|_| !matches!(job.state, State::Ended { .. })) {
        let news = ended(request, id, index, Instant::now() + wait);
        // Its present state: it may at least have begun.
        (index, job) = news.map_or_else(|| read_job(server, id, Level::Eventual, server.deadline()), Ok)?;
    }
    request.hold(shown_bytes(&job)).map_err(|full| ApiError::refused(503, full.to_string()))?;
    Ok(described(server, id, &job).at(index))
}

/// `GET /v1/jobs`: newest first; `before` is the `next` of the previous page.
pub(crate) fn list(request: &Request) -> ApiResult {
    let params = request.params();
    let limit = params.number("limit")?.unwrap_or(LIMIT);
    if !(1..=LIST_MAX).contains(&limit) {
        return Err(ApiError::refused(400, format!("limit must be 1 to {LIST_MAX}")));
    }
    let query = JobTable::encode_query(&Query::List { before: params.number("before")?, limit });
    let (index, bytes) = request.read(query, request.level()?)?;
    let jobs = decode_list(&bytes).ok_or_else(unexpected)?;
    let next = jobs.last().filter(|_| jobs.len() as u64 == limit).map(|(id, _)| *id);
    // A list omits fields that may be large.
    let rows: Vec<Json> = jobs.iter().map(|(id, job)| to_json(*id, job, false)).collect();
    Ok(Response::json(200, &json!({"jobs": rows, "next": next})).at(index))
}

/// `DELETE /v1/jobs/ID`: cancels the job; 409 if it has ended.
pub(crate) fn cancel(request: &Request) -> ApiResult {
    let server = request.server;
    let id = number(request.args.0)?;
    let tag = idempotency::tag(request.head, request.body)?;
    let command = JobTable::encode_command(&Command::Cancel { job: id });
    match change(server, Operation::Command { tag, command, ack: Ack::Applied }, server.deadline())? {
        (index, Answer::Done) => Ok(Response::json(200, &json!({"id": id, "state": "cancelled"})).at(index)),
        (_, Answer::Refused(why)) => Err(refusal(server, &why)),
        (_, Answer::Submitted(_)) => Err(unexpected()),
    }
}

/// `GET /v1/runtimes`: each language with the nodes that have it and their versions, as reported by heartbeats.
pub(crate) fn runtimes(request: &Request) -> ApiResult {
    let server = request.server;
    let mut languages: Map<String, Json> = Map::new();
    let mut workers = Vec::new();
    for node in server.host.runtimes().iter().filter(|node| node.is_online) {
        workers.extend(node.jobs.process_limit.map(|limit| json!({"id": node.id, "process_limit": limit})));
        for (language, version) in &node.jobs.runtimes {
            let row = languages.entry(language.clone()).or_insert_with(|| json!({"language": language, "nodes": []}));
            if let Some(nodes) = row["nodes"].as_array_mut() {
                nodes.push(json!({"id": node.id, "version": version}));
            }
        }
    }
    let troubles = job_wait_reason::problems(&server.host.status().status.jobs.workers);
    let rows: Vec<Json> = languages.into_iter().map(|(_, row)| row).collect();
    Ok(Response::json(200, &json!({"runtimes": rows, "workers": workers, "troubles": troubles})))
}
