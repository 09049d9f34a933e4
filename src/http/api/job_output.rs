//! `GET /v1/jobs/ID/output`: what a job has said, and with `follow` what it says from now on, as it says it.
//!
//! While an attempt runs, only its own node has its output: the door of another node asks that one, and passes the pieces on.
//! When the attempt is lost with its node, the next one begins anew, and so does the output: a line says so. When the job has
//! ended the log has all of it, and whatever was not sent yet comes from there.
//!
//! Plain by default (standard output and standard error as they came, or one of them with `stream=`); with `format=ndjson` a
//! line of JSON for each piece, and a last one that says how the job ended. A stream that breaks off without its end (a
//! chunk of length 0, the last line) is one whose node has stopped: ask another for it.
//! Not here: the pieces (`node/views/live_output.rs`), what became of the job (`jobs.rs`).

use super::jobs::{look, number, to_json, why_over, why_waiting};
use crate::http::protocol::conn::Conn;
use crate::http::protocol::lines::{Lines, Next};
use crate::http::protocol::params::Params;
use crate::http::protocol::parse::Head;
use crate::http::protocol::reply::{self, Reply, as_text};
use crate::http::server::Server;
use crate::node::{Level, Output, Stream};
use crate::services::jobs::commands::decode_glance;
use crate::services::jobs::{End, Job, JobId, Query, State};
use crate::services::{self, registry};
use crate::types::{Index, NodeId, Outcome};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value as Json, json};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between two looks at the job while nothing is said.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Between two looks for an attempt that is about to begin, or whose end is about to be in the log.
const SOON: Duration = Duration::from_millis(20);
/// Longest wait for another node's first word.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// So long a job may wait before its reader is told why.
const WAIT_UNEXPLAINED: Duration = Duration::from_millis(1500);
/// A reader of lines hears at least so often.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// What is asked for.
pub(crate) struct Wanted {
    id: JobId,
    is_followed: bool,
    is_lines: bool,
    only: Option<Stream>,
    /// Another node's door asks for what this node has of this attempt.
    attempt: Option<u32>,
    is_chunked: bool,
}

impl Wanted {
    pub(crate) fn of(head: &Head, id: &str) -> Result<Wanted, Reply> {
        let params = Params::of(head);
        let only = match params.get("stream") {
            None | Some("both") => None,
            Some("stdout") => Some(Stream::Out),
            Some("stderr") => Some(Stream::Err),
            Some(_) => return Err(Reply::refused(400, "stream is stdout, stderr or both")),
        };
        let is_lines = match params.get("format") {
            None | Some("plain") => false,
            Some("ndjson") => true,
            Some(_) => return Err(Reply::refused(400, "format is plain or ndjson")),
        };
        let attempt = params.number("attempt")?.map(u32::try_from).transpose();
        let attempt = attempt.map_err(|_| Reply::refused(400, "attempt must be a number"))?;
        let (id, is_followed) = (number(id)?, params.flag("follow")?);
        Ok(Wanted { id, is_followed, is_lines, only, attempt, is_chunked: head.is_http11 })
    }
}

/// Why a stream stopped before its end.
enum Cut {
    /// The client is gone, or does not read.
    Client,
    /// This node stops.
    Stopping,
}

/// What was sent of one attempt.
#[derive(Default)]
struct Shown {
    attempt: u32,
    /// Bytes of its output, in the order in which they were said.
    bytes: usize,
    /// How many of them were standard output, and standard error.
    each: [usize; 2],
}

struct Follower<'a> {
    server: &'a Server,
    conn: &'a Conn,
    wanted: &'a Wanted,
    shown: Shown,
    said_at: Instant,
    /// Since when the job waits, as far as it was seen, and what was said about it.
    waits: Option<(Instant, String)>,
}

/// Sends the output until the job has ended or the client has gone; a reply if there is nothing to send from.
pub(crate) fn run(server: &Server, conn: &mut Conn, wanted: Wanted) -> Option<Reply> {
    if let Some(attempt) = wanted.attempt {
        let Some(output) = find_soon(server, wanted.id, attempt) else {
            return Some(Reply::refused(404, "this attempt is not here"));
        };
        begin(server, conn, &wanted).ok()?;
        let mut follower = Follower {
            server,
            conn,
            wanted: &wanted,
            shown: Shown { attempt, ..Shown::default() },
            said_at: Instant::now(),
            waits: None,
        };
        if follower.pass_on(&output, || true).is_ok() {
            let _ = follower.line(&json!({"over": true})).and_then(|()| follower.finish());
        }
        return None;
    }
    let (index, job) = match look(server, wanted.id, Level::Linearizable, server.deadline()) {
        Ok(found) => found,
        Err(refusal) => return Some(refusal),
    };
    begin(server, conn, &wanted).ok()?;
    let (shown, said_at) = (Shown::default(), Instant::now());
    let mut follower = Follower { server, conn, wanted: &wanted, shown, said_at, waits: None };
    // Cut short: without a proper end the client knows.
    if follower.follow(index, job).is_ok() {
        let _ = follower.finish();
    }
    None
}

/// An attempt that the log gives to this node may begin a moment later than others hear of it.
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

fn begin(server: &Server, conn: &mut Conn, wanted: &Wanted) -> io::Result<()> {
    let mut out = Vec::with_capacity(512);
    reply::status_line(&mut out, 200);
    let media = if wanted.is_lines { "application/x-ndjson" } else { "text/plain; charset=utf-8" };
    reply::header(&mut out, "Content-Type", media);
    reply::header(&mut out, "Cache-Control", "no-store");
    reply::header(&mut out, "X-Content-Type-Options", "nosniff");
    reply::header(&mut out, "X-Accel-Buffering", "no");
    reply::header(&mut out, "X-Phalanx-Job", &wanted.id.to_string());
    server.origin().write(&mut out);
    if wanted.is_chunked {
        reply::header(&mut out, "Transfer-Encoding", "chunked");
    }
    reply::header(&mut out, "Connection", "close");
    out.extend_from_slice(b"\r\n");
    conn.output().extend_from_slice(&out);
    conn.flush()?;
    conn.free_buffers();
    Ok(())
}

impl Follower<'_> {
    fn follow(&mut self, index: Index, mut job: Job) -> Result<(), Cut> {
        loop {
            match &job.state {
                State::Ended { end, .. } => {
                    let end = Arc::clone(end);
                    return self.rest(&job, &end);
                }
                State::Assigned { worker, .. } => {
                    let worker = worker.id;
                    self.waits = None;
                    self.turn_to(&job, worker.0)?;
                    let is_mine = worker == self.server.host.identity().id;
                    let output = self.server.host.live_output(self.wanted.id, job.attempt).filter(|_| is_mine);
                    match output {
                        Some(output) => self.pass_on_while_current(&output, job.attempt)?,
                        None if !is_mine => self.fetch(worker, job.attempt)?,
                        None => {}
                    }
                }
                State::Queued => self.explain(&job)?,
            }
            if !self.wanted.is_followed {
                return Ok(());
            }
            // Between attempts, or before the first: the next look is the cheaper one, at this node's own copy.
            let pause = if matches!(job.state, State::Queued) { LOOK_EVERY } else { SOON };
            self.server.host.await_job(self.wanted.id, index, Instant::now() + pause);
            self.check()?;
            self.keep_alive()?;
            match look(self.server, self.wanted.id, Level::Eventual, self.server.deadline()) {
                Ok((_, next)) => job = next,
                // Forgotten meanwhile: all of it was said long ago.
                Err(_) => return Ok(()),
            }
        }
    }

    /// Tells a reader of lines why the job waits, once it has waited for a while, and again when that changes.
    fn explain(&mut self, job: &Job) -> Result<(), Cut> {
        let (since, said) = self.waits.get_or_insert_with(|| (Instant::now(), String::new()));
        if !self.wanted.is_lines || since.elapsed() < WAIT_UNEXPLAINED {
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

    /// From now on it is the present attempt's output.
    fn turn_to(&mut self, job: &Job, worker: u64) -> Result<(), Cut> {
        let attempt = job.attempt;
        if self.shown.attempt == attempt {
            return Ok(());
        }
        let had_output = self.shown.bytes > 0;
        self.shown = Shown { attempt, ..Shown::default() };
        if self.wanted.is_lines {
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

    /// Passes pieces on until the attempt is over, or not the job's any more.
    fn pass_on_while_current(&mut self, output: &Output, attempt: u32) -> Result<(), Cut> {
        let (server, id) = (self.server, self.wanted.id);
        self.pass_on(output, || is_current(server, id, attempt))
    }

    fn pass_on(&mut self, output: &Output, is_wanted: impl Fn() -> bool) -> Result<(), Cut> {
        loop {
            let pause = if self.wanted.is_followed { LOOK_EVERY } else { Duration::ZERO };
            let (pieces, is_over) = output.read(self.shown.bytes, Instant::now() + pause);
            let has_nothing = pieces.is_empty();
            for (stream, bytes) in pieces {
                self.piece(stream, &bytes)?;
            }
            if is_over || !self.wanted.is_followed {
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
    }

    /// Passes on what another node has. What goes wrong on the way is no concern: the job is looked at again.
    fn fetch(&mut self, worker: NodeId, attempt: u32) -> Result<(), Cut> {
        let addresses = self.server.host.http_addresses();
        let Some((_, address)) = addresses.into_iter().find(|(id, _)| *id == worker) else { return Ok(()) };
        let follow = if self.wanted.is_followed { "follow&" } else { "" };
        let path = format!("/v1/jobs/{}/output?{follow}attempt={attempt}&format=ndjson", self.wanted.id);
        let Ok((200, mut lines)) = Lines::get(&address, &path, 2 * CONNECT_TIMEOUT, LOOK_EVERY) else { return Ok(()) };
        let mut skip = self.shown.bytes;
        loop {
            let line = match lines.next() {
                Ok(Next::Line(line)) => line,
                Ok(Next::Nothing) => {
                    self.check()?;
                    self.keep_alive()?;
                    if !is_current(self.server, self.wanted.id, attempt) {
                        return Ok(());
                    }
                    continue;
                }
                Ok(Next::End) | Err(_) => return Ok(()),
            };
            if line.is_empty() {
                continue;
            }
            let Some((stream, bytes)) = piece_of(&line) else { return Ok(()) };
            // After a broken connection it begins anew: what was passed on before is not passed on again.
            let known = skip.min(bytes.len());
            skip -= known;
            if known < bytes.len() {
                self.piece(stream, &bytes[known..])?;
            }
        }
    }

    /// The job has ended: what was not sent yet, and how it ended.
    fn rest(&mut self, job: &Job, end: &End) -> Result<(), Cut> {
        if self.shown.attempt != job.attempt {
            let State::Ended { worker, .. } = &job.state else { return Ok(()) };
            self.turn_to(job, worker.map_or(0, |id| id.0))?;
        }
        for (place, (stream, bytes)) in [(Stream::Out, &end.stdout), (Stream::Err, &end.stderr)].into_iter().enumerate()
        {
            let known = self.shown.each[place].min(bytes.len());
            if known < bytes.len() {
                self.piece(stream, &bytes[known..])?;
            }
        }
        if self.wanted.is_lines {
            let mut last = to_json(self.wanted.id, job);
            last.retain(|name, _| !matches!(name.as_str(), "stdout" | "stderr" | "earlier"));
            self.line(&Json::Object(last))?;
        }
        Ok(())
    }

    fn piece(&mut self, stream: Stream, bytes: &[u8]) -> Result<(), Cut> {
        self.shown.bytes += bytes.len();
        self.shown.each[if stream == Stream::Out { 0 } else { 1 }] += bytes.len();
        if self.wanted.only.is_some_and(|only| only != stream) {
            return Ok(());
        }
        if !self.wanted.is_lines {
            return self.chunk(bytes);
        }
        let name = if stream == Stream::Out { "stdout" } else { "stderr" };
        let (text, is_base64) = as_text(bytes.to_vec());
        let mut line = json!({"attempt": self.shown.attempt, "stream": name});
        line[if is_base64 { "base64" } else { "text" }] = text.into();
        self.line(&line)
    }

    /// An empty line now and then: a reader of lines knows that this node is there, however little the program says.
    fn keep_alive(&mut self) -> Result<(), Cut> {
        if self.wanted.is_lines && self.said_at.elapsed() >= KEEP_ALIVE {
            self.said_at = Instant::now();
            return self.chunk(b"\n");
        }
        Ok(())
    }

    fn line(&self, line: &Json) -> Result<(), Cut> {
        self.chunk(format!("{line}\n").as_bytes())
    }

    fn chunk(&self, bytes: &[u8]) -> Result<(), Cut> {
        if bytes.is_empty() {
            return Ok(());
        }
        let size = format!("{:x}\r\n", bytes.len());
        let sent = match self.wanted.is_chunked {
            true => self.conn.send(&[size.as_bytes(), bytes, b"\r\n"]),
            false => self.conn.send(&[bytes]),
        };
        sent.map_err(|_| Cut::Client)
    }

    fn finish(&self) -> Result<(), Cut> {
        match self.wanted.is_chunked {
            true => self.conn.send(&[b"0\r\n\r\n"]).map_err(|_| Cut::Client),
            false => Ok(()),
        }
    }
}

fn is_current(server: &Server, id: JobId, attempt: u32) -> bool {
    let query = registry::jobs_query(&Query::Glance(id));
    match server.host.query(query, Level::Eventual, server.deadline()) {
        Outcome::Done((_, services::Reply::Ok(bytes))) => decode_glance(&bytes).flatten() == Some((attempt, true)),
        _ => false,
    }
}

/// A piece as another node tells it; `None` for its last line, and for what is no piece.
fn piece_of(line: &[u8]) -> Option<(Stream, Vec<u8>)> {
    let piece: Json = serde_json::from_slice(line).ok()?;
    let stream = match piece["stream"].as_str()? {
        "stdout" => Stream::Out,
        "stderr" => Stream::Err,
        _ => return None,
    };
    match (piece["text"].as_str(), piece["base64"].as_str()) {
        (Some(text), _) => Some((stream, text.as_bytes().to_vec())),
        (_, Some(text)) => Some((stream, BASE64.decode(text).ok()?)),
        _ => None,
    }
}
