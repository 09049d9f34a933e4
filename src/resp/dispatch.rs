//! The thread of one Redis connection: reads bytes, parses and dispatches the requests in them, and reads again.
//!
//! Commands on keys that arrived together become one batch (`conn.rs`). A command that the server answers itself joins
//! the batch that is being gathered, so that its reply keeps its place.
//!
//! Invariants: C1 all requests that were read are submitted before the thread waits for more bytes. C3 nothing is read
//! while too many requests of the connection are in progress, so that a client cannot use more memory.
//! Not here: what commands mean (`commands/`), the order of replies (`outbox.rs`).

use super::clients::Clients;
use super::commands::keys::{Context, Translated};
use super::commands::{self, Control, Handler, Spec, WORD_BYTES_SHOWN};
use super::conn::{Conn, ConnectionAction, Multi};
use super::input::{Filled, Input};
use super::outbox::Client;
use super::protocol::parse::{Fault, Owned, Parser, Request};
use super::protocol::reply::{self, Proto};
use super::reply_plan::{self, Plan, Shape};
use super::shared::Shared;
use crate::limits::{RESP_REQUEST_BYTES_MAX, RESP_WRITE_DEADLINE};
use crate::node::Level;
use crate::node::shared::clock::now_ms;
use crate::node::{Addressing, Connections};
use crate::outcome::{Outcome, Reason};
use crate::services::Reply;
use crate::services::kv::commands::RUN_KEYS_MAX;
use crate::services::kv::{Batch, BatchReply, Bytes, Op, Value};
use crate::warn_seldom;
use std::io::Read;
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// How long a client may still send after the last reply, and how many bytes.
const LINGER: (Duration, usize) = (Duration::from_millis(500), 1 << 20);
/// Memory of a watched key beside its bytes: two numbers and the allocator's overhead, in a list with twice the
/// capacity.
const WATCHED_BYTES: usize = 128;

/// Body of the thread.
pub fn serve_connection(shared: &Arc<Shared>, clients: &Arc<Clients>, client: &Arc<Client>) {
    let _session = shared.handle.open_session("redis", client.profile().peer);
    let mut conn = Conn::new(Arc::clone(shared), Arc::clone(clients), Arc::clone(client));
    let action = conn.run(&mut Input::new(shared.handle.memory().reservation()));
    conn.flush();
    if action != ConnectionAction::Drop {
        client.wait_sent(Instant::now() + conn.timeout() + RESP_WRITE_DEADLINE);
        linger(client);
    }
    client.close();
}

impl Conn {
    /// Serves requests until the connection ends.
    fn run(&mut self, input: &mut Input) -> ConnectionAction {
        let mut parser = Parser::default();
        let mut has_asked = false;
        loop {
            let mut count = 0;
            loop {
                let is_known = self.is_known;
                match parser.next(input.bytes(), is_known) {
                    Ok(None) => break,
                    Ok(Some((request, length))) => {
                        let action =
                            if request.is_empty() { ConnectionAction::Continue } else { self.command(&request) };
                        input.consume(length);
                        count += 1;
                        if action != ConnectionAction::Continue {
                            return action;
                        }
                    }
                    Err(Fault(why)) => {
                        self.shared.counts.protocol_errors.fetch_add(1, Relaxed);
                        self.reply(|out| reply::error(out, &why));
                        return ConnectionAction::Close;
                    }
                }
            }
            self.shared.counts.commands.fetch_add(count, Relaxed);
            self.flush();
            has_asked |= count > 0;
            input.bound(self.is_known, has_asked);
            if !self.client.wait_room() {
                return ConnectionAction::Close;
            }
            match input.fill(&self.client, count > 0) {
                Filled::More => {}
                Filled::Ended => return ConnectionAction::Close,
                Filled::Full => {
                    self.reply(|out| reply::error(out, &reply_plan::error_text(&Reason::Memory)));
                    return ConnectionAction::Close;
                }
            }
            self.now_ms = now_ms();
        }
    }

    /// Executes one request, or gathers it.
    fn command(&mut self, request: &Request) -> ConnectionAction {
        let name = request.word(0);
        let Some(spec) = commands::find(name) else {
            if name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:") {
                // A browser that some web page has made send a POST to this port.
                warn_seldom!("HTTP request on the Redis port, connection closed");
                return ConnectionAction::Drop;
            }
            return self.refuse(&unknown(request));
        };
        if let Err(why) = spec.check(request) {
            return self.refuse(&why);
        }
        if !self.is_known && !spec.is_open() {
            return self.refuse("NOAUTH Authentication required.");
        }
        match (&mut self.multi, spec.handler) {
            (None, Handler::Store(_)) => self.on_key(spec, request),
            (None, Handler::Server(own)) => {
                self.note(spec);
                let mut out = Vec::new();
                own(self, request, &mut out);
                self.reply_written(out);
            }
            (Some(_), Handler::Store(_) | Handler::Server(_)) => self.queue(request),
            (_, Handler::Control(control)) => {
                self.note(spec);
                return self.on_control(control, request);
            }
        }
        ConnectionAction::Continue
    }

    /// For CLIENT LIST.
    fn note(&mut self, spec: &'static Spec) {
        let mut profile = self.client.profile();
        (profile.active, profile.command) = (Instant::now(), spec.name);
    }

    fn on_key(&mut self, spec: &'static Spec, request: &Request) {
        match self.translate(spec, request) {
            Ok((op, _)) if op.keys_named() > RUN_KEYS_MAX => {
                self.reply(|out| reply::error(out, &too_many_keys(op.keys_named())));
            }
            Ok((op, shape)) => self.gather(op, shape, request.words().map(<[u8]>::len).sum()),
            Err(why) => self.reply(|out| reply::error(out, &why)),
        }
    }

    fn translate(&self, spec: &Spec, request: &Request) -> Translated {
        let context = Context { cursors: &self.shared.cursors, scripts: &self.shared.scripts, now_ms: self.now_ms };
        match spec.handler {
            Handler::Store(translate) => translate(request, &context),
            Handler::Server(_) | Handler::Control(_) => unreachable!("{} is not on keys", spec.name),
        }
    }

    fn on_control(&mut self, control: Control, request: &Request) -> ConnectionAction {
        match control {
            Control::Multi if self.multi.is_some() => {
                self.reply(|out| reply::error(out, "ERR MULTI calls can not be nested"));
            }
            Control::Multi => {
                self.multi = Some(Multi::default());
                self.reply(reply::ok);
            }
            Control::Exec => self.exec(),
            Control::Discard => match self.multi.take() {
                Some(_) => {
                    self.forget_watched();
                    self.reply(reply::ok);
                }
                None => self.reply(|out| reply::error(out, "ERR DISCARD without MULTI")),
            },
            Control::Watch => self.watch(request),
            Control::Quit => {
                self.reply(reply::ok);
                return ConnectionAction::Close;
            }
            Control::Reset => {
                self.submit();
                self.multi = None;
                self.forget_watched();
                self.proto = Proto::Two;
                self.is_eventual = false;
                self.is_known = self.shared.handle.settings().cluster_secret.is_none();
                let mut profile = self.client.profile();
                profile.name.clear();
                profile.resp = 2;
                drop(profile);
                self.reply(|out| reply::simple(out, "RESET"));
            }
        }
        self.account();
        let mut profile = self.client.profile();
        profile.multi = self.multi.as_ref().map(|multi| multi.queued.len());
        profile.watch = self.watched.len();
        ConnectionAction::Continue
    }

    fn queue(&mut self, request: &Request) {
        let Some(multi) = &mut self.multi else { unreachable!("only a transaction has a queue") };
        if multi.is_void {
            // EXEC will be refused.
            return self.reply(|out| reply::simple(out, "QUEUED"));
        }
        let owned = Owned::of(request);
        multi.bytes += owned.size();
        if multi.bytes > RESP_REQUEST_BYTES_MAX {
            self.refuse("ERR transaction is too large");
            return;
        }
        multi.queued.push(owned);
        if !self.account() {
            self.refuse(&reply_plan::error_text(&Reason::Memory));
            return;
        }
        self.reply(|out| reply::simple(out, "QUEUED"));
    }

    /// Runs the transaction: one run, one entry of the log.
    fn exec(&mut self) {
        let Some(multi) = self.multi.take() else {
            return self.reply(|out| reply::error(out, "ERR EXEC without MULTI"));
        };
        let watched = std::mem::take(&mut self.watched);
        self.watched_bytes = 0;
        if multi.is_void {
            let why = "EXECABORT Transaction discarded because of previous errors.";
            return self.reply(|out| reply::error(out, why));
        }
        self.submit();
        let mut run = Batch { watched, ops: Vec::with_capacity(multi.queued.len()) };
        let mut plan = Plan { proto: self.proto, is_exec: true, ..Plan::default() };
        for owned in &multi.queued {
            let request = owned.request();
            let Some(spec) = commands::find(request.word(0)) else { unreachable!("it was found when it was queued") };
            let mut out = Vec::new();
            match spec.handler {
                Handler::Server(own) => own(self, &request, &mut out),
                Handler::Control(_) => unreachable!("{} is never queued", spec.name),
                Handler::Store(_) => match self.translate(spec, &request) {
                    Ok((op, shape)) => {
                        run.ops.push(op);
                        plan.push(shape);
                        continue;
                    }
                    Err(why) => reply::error(&mut out, &why),
                },
            }
            plan.push(Shape::Written(out));
        }
        if run.ops.is_empty() && run.watched.is_empty() {
            let nothing = Outcome::Done((crate::types::Index(0), Reply::Ok(BatchReply::Values(Vec::new()).encode())));
            let mut out = Vec::new();
            plan.write(&nothing, &self.shared.cursors, &mut out);
            return self.reply_written(out);
        }
        if run.keys_named() > RUN_KEYS_MAX {
            return self.reply(|out| reply::error(out, &too_many_keys(run.keys_named())));
        }
        // Watched keys are compared when the entry is applied, so that no other write can come between.
        let needs_log = run.needs_log() || !run.watched.is_empty();
        self.submit_batch(run, plan, needs_log);
    }

    fn watch(&mut self, request: &Request) {
        if self.multi.is_some() {
            return self.reply(|out| reply::error(out, "ERR WATCH inside MULTI is not allowed"));
        }
        // A key that is watched already keeps its first mark.
        let is_new = |key: &&[u8]| self.watched.iter().all(|(known, _)| known.as_slice() != *key);
        let keys: Vec<Bytes> = request.words().skip(1).filter(is_new).map(|key| Bytes::from(key.to_vec())).collect();
        let more: usize = keys.iter().map(|key| key.len() + WATCHED_BYTES).sum();
        if self.watched_bytes + more > RESP_REQUEST_BYTES_MAX {
            return self.reply(|out| reply::error(out, "ERR too many watched keys"));
        }
        let seen = match self.ask(vec![Op::Marks(keys.clone())], Level::Linearizable) {
            Ok(seen) => seen,
            Err(why) => return self.reply(|out| reply::error(out, &why)),
        };
        let Some(Value::List(marks)) = seen.into_iter().next() else {
            return self.reply(|out| reply::error(out, "ERR internal error: malformed answer of the key-value store"));
        };
        for (key, mark) in keys.into_iter().zip(marks) {
            if let Value::Int(mark) = mark {
                self.watched.push((key, mark as u64));
            }
        }
        self.watched_bytes += more;
        if !self.account() {
            self.forget_watched();
            return self.reply(|out| reply::error(out, &reply_plan::error_text(&Reason::Memory)));
        }
        self.reply(reply::ok);
    }
}

/// For a request that would delay others.
fn too_many_keys(keys: usize) -> String {
    format!("ERR a request or transaction may name at most {RUN_KEYS_MAX} keys, this one names {keys}: split it")
}

/// The error of Redis for an unknown command.
fn unknown(request: &Request) -> String {
    let name = String::from_utf8_lossy(&request.word(0)[..request.word(0).len().min(WORD_BYTES_SHOWN)]);
    let mut arguments = String::new();
    for word in request.words().skip(1) {
        if arguments.len() >= WORD_BYTES_SHOWN {
            break;
        }
        let shown = &word[..word.len().min(WORD_BYTES_SHOWN - arguments.len())];
        arguments += &format!("'{}' ", String::from_utf8_lossy(shown));
    }
    format!("ERR unknown command '{name}', with args beginning with: {arguments}")
}

/// Ends the output, then drops what the client still sends, within limits: closing at once would reset the connection
/// and lose the last reply.
fn linger(client: &Client) {
    if client.stream.shutdown(Shutdown::Write).is_err() {
        return;
    }
    let deadline = Instant::now() + LINGER.0;
    let (mut dropped, mut buffer) = (0, [0; 4096]);
    while dropped < LINGER.1 {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || client.stream.set_read_timeout(Some(left.max(Duration::from_millis(1)))).is_err() {
            return;
        }
        match (&client.stream).read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(read) => dropped += read,
        }
    }
}
