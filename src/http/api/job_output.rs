//! `GET /v1/jobs/ID/output`: a job's output, and with `follow` further output as it is printed.
//!
//! While an attempt runs, only its worker node has its output: another node requests it from the worker and forwards
//! the pieces. When the attempt is lost with its node, the next one starts from the beginning, and so does the output:
//! a line reports it. When the job has ended the log has all of its output, and whatever was not sent yet comes from
//! there.
//!
//! Plain by default (standard output and standard error as they arrived, or one of them with `stream=`); with
//! `format=ndjson` a line of JSON for each piece, and a last one that reports how the job ended. A stream that breaks
//! off without its end (a chunk of length 0, the last line) comes from a node that has stopped: the client asks another
//! node.
//! Not here: the pieces (`node/views/live_output.rs`), the job's outcome (`jobs.rs`).

use super::job_json::{to_json, why_over, worker_of};
use super::jobs::{number, read_job, why_waiting};
use crate::http::access;
use crate::http::protocol::conn::Conn;
use crate::http::protocol::error::ApiError;
use crate::http::protocol::lines::{Lines, Next};
use crate::http::protocol::response::{Response, as_text};
use crate::http::request::{Request, Stream};
use crate::http::server::Server;
use crate::node::views::live_output::first_piece;
use crate::node::{self, Level, Output};
use crate::outcome::Outcome;
use crate::services;
use crate::services::Replicated;
use crate::services::jobs::JobTable;
use crate::services::jobs::commands::decode_glance;
use crate::services::jobs::{Job, JobId, Query, State};
use crate::types::{Index, NodeId};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value as Json, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the job's state is checked while it prints nothing.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often the state is checked for an attempt that is about to begin, or whose end is about to be in the log.
const SOON: Duration = Duration::from_millis(20);
/// Longest wait for the first bytes of another node's response.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a job may wait before its reader is informed why.
const WAIT_UNEXPLAINED: Duration = Duration::from_millis(1500);
/// Longest silence on an NDJSON stream.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// The parameters of a request.
struct OutputParams {
    id: JobId,
    is_followed: bool,
    is_lines: bool,
    only: Option<node::OutputStream>,
    /// Another node requests the output that this node has of this attempt.
    attempt: Option<u32>,
}

impl OutputParams {
    fn of(request: &Request) -> Result<OutputParams, ApiError> {
        let params = request.params();
        let only = match params.get("stream") {
            None | Some("both") => None,
            Some("stdout") => Some(node::OutputStream::Out),
            Some("stderr") => Some(node::OutputStream::Err),
            Some(_) => return Err(ApiError::refused(400, "stream must be stdout, stderr or both")),
        };
        let is_lines = match params.get("format") {
            None | Some("plain") => false,
            Some("ndjson") => true,
            Some(_) => return Err(ApiError::refused(400, "format must be plain or ndjson")),
        };
        let attempt = params.number("attempt")?.map(u32::try_from).transpose();
        let attempt = attempt.map_err(|_| ApiError::refused(400, "attempt must be a number"))?;
        let (id, is_followed) = (number(request.args.0)?, params.flag("follow")?);
        Ok(OutputParams { id, is_followed, is_lines, only, attempt })
    }
}

/// Why a stream stopped before its end.
enum Cut {
    /// The client has disconnected, or does not read.
    Client,
    /// This node is stopping.
    Stopping,
    /// The job was forgotten meanwhile, or this node's state was found to be corrupt.
    Forgotten,
}

/// What has been sent of one attempt.
#[derive(Default)]
struct SentOutput {
    attempt: u32,
    /// Bytes of its output, in the order in which they were printed.
    bytes: usize,
    /// How many of them were standard output, and standard error.
    each: [usize; 2],
}

struct Follower<'a> {
    server: &'a Server,
    conn: &'a Conn,
    params: &'a OutputParams,
    shown: SentOutput,
    said_at: Instant,
    /// Since when the job has been seen waiting, and the reason that was sent last.
    waits: Option<(Instant, String)>,
}

/// `GET /v1/jobs/{id}/output`
pub(crate) fn output(request: &Request) -> Result<Stream, ApiError> {
    let params = OutputParams::of(request)?;
    let content_type = if params.is_lines { "application/x-ndjson" } else { "text/plain; charset=utf-8" };
    let head =
        Response::stream(content_type).with("X-Accel-Buffering", "no").with("X-Phalanx-Job", params.id.to_string());
    Ok(Stream { head, run: Box::new(move |server, conn, head| run(server, conn, head, &params)) })
}

/// Sends the output until the job has ended or the client has disconnected; an error if there is nothing to send from.
fn run(server: &Server, conn: &mut Conn, head: Response, params: &OutputParams) -> Result<(), ApiError> {
    let said_at = Instant::now();
    if let Some(attempt) = params.attempt {
        let output = find_soon(server, params.id, attempt)
            .ok_or_else(|| ApiError::refused(404, "this node does not have this attempt"))?;
        if conn.begin_stream(head, server.origin()).is_err() {
            return Ok(());
        }
        let shown = SentOutput { attempt, ..SentOutput::default() };
        let mut follower = Follower { server, conn, params, shown, said_at, waits: None };
        if follower.pass_on(&output, || true).is_ok() && follower.line(&json!({"over": true})).is_ok() {
            let _ = conn.end_stream();
        }
        return Ok(());
    }
    let (index, job) = read_job(server, params.id, Level::Linearizable, server.deadline())?;
    if conn.begin_stream(head, server.origin()).is_err() {
        return Ok(());
    }
    let mut follower = Follower { server, conn, params, shown: SentOutput::default(), said_at, waits: None };
    if follower.follow(index, job).is_ok() {
        let _ = conn.end_stream();
    }
    Ok(())
}

/// An attempt that the log assigns to this node may begin a moment after other nodes have applied that entry.
fn find_soon(server: &Server, id: JobId, attempt: u32) -> Option<Arc<Output>> {
    let until = Instant::now() + CONNECT_TIMEOUT;
    loop {
        let found = server.host.live_output(id, attempt);
        if found.is_some() || Instant::now() >= until || server.host.is_stopping() {
            return found;
        }
        if let Outcome::Done(_) = server.host.await_job(id, Index(u64::MAX), Instant::now() + SOON) {
            return None;
        }
    }
}

impl Follower<'_> {
    fn follow(&mut self, index: Index, mut job: Job) -> Result<(), Cut> {
        loop {
            match &job.state {
                State::Ended { .. } => return self.rest(job),
                State::Assigned { worker, .. } => {
                    let worker = worker.id;
                    self.waits = None;
                    self.turn_to(&job, worker.0)?;
                    let is_mine = worker == self.server.host.identity().id;
                    let output = self.server.host.live_output(self.params.id, job.attempt).filter(|_| is_mine);
                    match output {
                        Some(output) => {
                            let (server, id, attempt) = (self.server, self.params.id, job.attempt);
                            self.pass_on(&output, || is_current(server, id, attempt))?;
                        }
                        None if !is_mine => self.fetch(worker, job.attempt)?,
                        None => {}
                    }
                }
                State::Queued => self.explain(&job)?,
            }
            if !self.params.is_followed {
                return Ok(());
            }
            // Between attempts, or before the first: the next check is the cheaper one, of this node's own copy.
            let pause = if matches!(job.state, State::Queued) { LOOK_EVERY } else { SOON };
            self.server.host.await_job(self.params.id, index, Instant::now() + pause);
            self.check()?;
            self.keep_alive()?;
            match read_job(self.server, self.params.id, Level::Eventual, self.server.deadline()) {
                Ok((_, next)) => job = next,
                // Forgotten meanwhile: all of its output was sent long ago.
                Err(_) => return Ok(()),
            }
        }
    }

    /// Tells an NDJSON reader why the job waits, once it has waited for a while, and again when the reason changes.
    fn explain(&mut self, job: &Job) -> Result<(), Cut> {
        let (since, said) = self.waits.get_or_insert_with(|| (Instant::now(), String::new()));
        if !self.params.is_lines || since.elapsed() < WAIT_UNEXPLAINED {
            return Ok(());
        }
        match why_waiting(self.server, job).filter(|why| why != said) {
            Some(why) => {
                let line = json!({"waiting": why});
                *said = why;
                self.line(&line)
            }
            None => Ok(()),
        }
    }

    fn check(&self) -> Result<(), Cut> {
        if self.conn.is_gone() {
            return Err(Cut::Client);
        }
        if self.server.host.is_stopping() { Err(Cut::Stopping) } else { Ok(()) }
    }

    /// Switches to the present attempt's output.
    fn turn_to(&mut self, job: &Job, worker: u64) -> Result<(), Cut> {
        let attempt = job.attempt;
        if self.shown.attempt == attempt {
            return Ok(());
        }
        let had_output = self.shown.bytes > 0;
        self.shown = SentOutput { attempt, ..SentOutput::default() };
        if self.params.is_lines {
            let mut line = json!({"attempt": attempt, "worker": worker});
            if let Some(past) = job.past.last() {
                line["why"] = why_over(past).into();
            }
            self.line(&line)?;
        } else if had_output {
            self.chunk(format!("\n[its worker was lost; attempt {attempt} begins on node {worker}]\n").as_bytes())?;
        }
        Ok(())
    }

    /// Forwards pieces until the attempt is over, or its output is no longer wanted.
    fn pass_on(&mut self, output: &Output, is_wanted: impl Fn() -> bool) -> Result<(), Cut> {
        // Without `follow`, a client gets the output that exists now, even while the program prints more.
        let until = if self.params.is_followed { usize::MAX } else { output.bytes() };
        while self.shown.bytes < until {
            let (piece, is_over) = output.read(self.shown.bytes, Instant::now() + LOOK_EVERY);
            let has_nothing = piece.is_none();
            if let Some((stream, bytes)) = piece {
                self.piece(stream, bytes)?;
            }
            if is_over {
                return Ok(());
            }
            if has_nothing {
                self.check()?;
                self.keep_alive()?;
                if !is_wanted() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Forwards the output that another node has. Errors on the way are ignored: the caller checks the job's state
    /// again.
    fn fetch(&mut self, worker: NodeId, attempt: u32) -> Result<(), Cut> {
        let addresses = self.server.host.http_addresses();
        let Some((_, address)) = addresses.into_iter().find(|(id, _)| *id == worker) else { return Ok(()) };
        let follow = if self.params.is_followed { "follow&" } else { "" };
        let path = format!("/v1/jobs/{}/output?{follow}attempt={attempt}&format=ndjson", self.params.id);
        let authorization = access::of_node(self.server);
        let answer = Lines::get(&address, &path, authorization.as_deref(), 2 * CONNECT_TIMEOUT, LOOK_EVERY);
        let Ok((200, mut lines)) = answer else {
            return Ok(());
        };
        let mut skip = self.shown.bytes;
        loop {
            let line = match lines.next() {
                Ok(Next::Line(line)) => line,
                Ok(Next::Nothing) => {
                    self.check()?;
                    self.keep_alive()?;
                    if !is_current(self.server, self.params.id, attempt) {
                        return Ok(());
                    }
                    continue;
                }
                Ok(Next::End) | Err(_) => return Ok(()),
            };
            if line.is_empty() {
                continue;
            }
            let Some((stream, mut bytes)) = piece_of(&line) else { return Ok(()) };
            // After a broken connection the worker sends the output from its beginning: the part that was forwarded
            // before is skipped.
            let known = skip.min(bytes.len());
            skip -= known;
            if known < bytes.len() {
                self.piece(stream, bytes.split_off(known))?;
            }
        }
    }

    /// The job has ended: sends the rest of its output, and how it ended.
    fn rest(&mut self, job: Job) -> Result<(), Cut> {
        if self.shown.attempt != job.attempt {
            self.turn_to(&job, worker_of(&job).unwrap_or(0))?;
        }
        let last = self.params.is_lines.then(|| to_json(self.params.id, &job, true));
        // Dropped so that a client that reads slowly keeps nothing in memory that the services have forgotten.
        drop(job);
        for stream in [node::OutputStream::Out, node::OutputStream::Err] {
            while let Some(bytes) = self.next_of_end(stream)? {
                self.piece(stream, bytes)?;
            }
        }
        last.map_or(Ok(()), |last| self.line(&last))
    }

    /// The next piece of an ended job's output.
    fn next_of_end(&self, stream: node::OutputStream) -> Result<Option<Vec<u8>>, Cut> {
        let Some(Job { state: State::Ended { end, .. }, .. }) = self.server.host.job(self.params.id) else {
            return Err(Cut::Forgotten);
        };
        let bytes = if stream == node::OutputStream::Out { &end.stdout } else { &end.stderr };
        let rest = bytes.get(self.shown.each[place_of(stream)]..).filter(|rest| !rest.is_empty());
        Ok(rest.map(|rest| first_piece(rest).to_vec()))
    }

    fn piece(&mut self, stream: node::OutputStream, bytes: Vec<u8>) -> Result<(), Cut> {
        self.shown.bytes += bytes.len();
        self.shown.each[place_of(stream)] += bytes.len();
        if self.params.only.is_some_and(|only| only != stream) {
            return Ok(());
        }
        if !self.params.is_lines {
            return self.chunk(&bytes);
        }
        let name = if stream == node::OutputStream::Out { "stdout" } else { "stderr" };
        let (text, is_base64) = as_text(bytes);
        let mut row = json!({"attempt": self.shown.attempt, "stream": name});
        row[if is_base64 { "base64" } else { "text" }] = text.into();
        let line = format!("{row}\n");
        // Only the line is kept while the client reads it.
        drop(row);
        self.chunk(line.as_bytes())
    }

    /// Sends an empty line now and then: an NDJSON reader sees that this node is alive, however little the program
    /// prints.
    fn keep_alive(&mut self) -> Result<(), Cut> {
        if self.params.is_lines && self.said_at.elapsed() >= KEEP_ALIVE {
            self.said_at = Instant::now();
            return self.chunk(b"\n");
        }
        Ok(())
    }

    fn line(&self, line: &Json) -> Result<(), Cut> {
        self.chunk(format!("{line}\n").as_bytes())
    }

    fn chunk(&self, bytes: &[u8]) -> Result<(), Cut> {
        self.conn.send_piece(&[bytes]).map_err(|_| Cut::Client)
    }
}

/// The stream's index in [`SentOutput::each`].
fn place_of(stream: node::OutputStream) -> usize {
    usize::from(stream == node::OutputStream::Err)
}

fn is_current(server: &Server, id: JobId, attempt: u32) -> bool {
    let query = JobTable::encode_query(&Query::Glance(id));
    match server.host.query(query, Level::Eventual, server.deadline()) {
        Outcome::Done((_, services::Reply::Ok(bytes))) => decode_glance(&bytes).flatten() == Some((attempt, true)),
        _ => false,
    }
}

/// A piece as another node sends it; `None` for its last line, and for anything that is not a piece.
fn piece_of(line: &[u8]) -> Option<(node::OutputStream, Vec<u8>)> {
    let piece: Json = serde_json::from_slice(line).ok()?;
    let stream = match piece["stream"].as_str()? {
        "stdout" => node::OutputStream::Out,
        "stderr" => node::OutputStream::Err,
        _ => return None,
    };
    match (piece["text"].as_str(), piece["base64"].as_str()) {
        (Some(text), _) => Some((stream, text.as_bytes().to_vec())),
        (_, Some(text)) => Some((stream, BASE64.decode(text).ok()?)),
        _ => None,
    }
}
