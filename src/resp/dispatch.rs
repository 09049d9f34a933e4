//! The thread of one Redis connection: reads bytes, parses and dispatches the requests in them, and reads again.
//!
//! Commands on keys that arrived together become one batch (`conn.rs`). A command that the server answers itself joins
//! the batch that is being gathered, so that its reply keeps its place.
//!
//! Invariants: C1 all requests that were read are submitted before the thread waits for more bytes. C3 nothing is read
//! while too many requests of the connection are in progress, so that a client cannot use more memory.
//! Not here: what commands mean (`commands/`), the order of replies (`outbox.rs`).

use super::clients::Clients;
use super::commands::store::context::{Context, Translated};
use super::commands::{self, Control, Handler, Spec, WORD_BYTES_SHOWN};
use super::conn::{Conn, ConnectionAction, Multi};
use super::input::{Filled, Input};
use super::outbox::Client;
use super::protocol::parse::{Owned, Parser, ProtocolError, Request};
use super::protocol::reply::{self, RespVersion};
use super::reply_plan;
use super::shared::ServerState;
use super::transactions::too_many_keys;
use crate::limits::RESP_WRITE_DEADLINE;
use crate::node::Connections;
use crate::node::shared::clock::now_ms;
use crate::outcome::Reason;
use crate::services::kv::commands::BATCH_KEYS_MAX;
use crate::warn_seldom;
use std::io::Read;
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// How long a client may still send after the last reply, and how many bytes.
const LINGER: (Duration, usize) = (Duration::from_millis(500), 1 << 20);
/// Body of the thread.
pub fn serve_connection(shared: &Arc<ServerState>, clients: &Arc<Clients>, client: &Arc<Client>) {
    let mut conn = Conn::new(Arc::clone(shared), Arc::clone(clients), Arc::clone(client));
    let action = conn.run(&mut Input::new(shared.handle.memory().reservation()));
    conn.flush();
    conn.forget_subscriptions();
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
        let (mut has_asked, mut session) = (false, None);
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
                    Err(ProtocolError(why)) => {
                        self.shared.counts.protocol_errors.fetch_add(1, Relaxed);
                        self.reply(|out| reply::error(out, &why));
                        return ConnectionAction::Close;
                    }
                }
            }
            self.shared.counts.commands.fetch_add(count, Relaxed);
            self.flush();
            has_asked |= count > 0;
            // A client without the password is no load of this node.
            if self.is_known && session.is_none() {
                session = Some(self.shared.handle.open_session("redis", self.client.profile().peer));
            }
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
        let is_line = request.is_line && !self.has_greeted;
        if is_line != self.is_line {
            // Replies to earlier requests keep their form.
            self.submit();
            self.is_line = is_line;
        }
        if let Some(value) = request.value.filter(|_| is_line && request.len() > 3 && !self.has_options(request)) {
            let mut whole = Owned::default();
            [request.word(0), request.word(1), value].into_iter().for_each(|word| whole.push(word));
            return self.whole_command(&whole.request());
        }
        self.whole_command(request)
    }

    /// Whether the words after the value of a plain line are options, as in `SET k v EX 5`.
    fn has_options(&self, request: &Request) -> bool {
        commands::find(request.word(0)).is_some_and(|spec| {
            spec.check(request).is_ok()
                && matches!(spec.handler, Handler::Store(_))
                && self.translate(spec, request) != Err(commands::SYNTAX.to_string())
        })
    }

    fn whole_command(&mut self, request: &Request) -> ConnectionAction {
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
        if self.is_subscribed_only() && !spec.is_for_subscribers() {
            let name = spec.full_name(request);
            return self.refuse(&format!("ERR Can't execute '{name}': only {FOR_SUBSCRIBERS}"));
        }
        match (&mut self.multi, spec.handler) {
            (None, Handler::Store(_)) if !spec.asks_help(request) => self.on_key(spec, request),
            (None, Handler::Store(_) | Handler::Server(_) | Handler::Table(_)) => {
                self.note(spec, request);
                let mut out = Vec::new();
                self.run_own(spec, request, &mut out);
                self.reply_written(out);
            }
            (None, Handler::Publish) => {
                self.note(spec, request);
                self.publish(request);
            }
            (Some(_), Handler::Store(_) | Handler::Server(_) | Handler::Table(_) | Handler::Publish) => {
                self.queue(request);
            }
            (Some(_), Handler::Control(Control::Subscribe(_) | Control::Unsubscribe(_))) => {
                let name = spec.name.to_ascii_uppercase();
                return self.refuse(&format!("ERR {name} is not allowed in a transaction"));
            }
            (_, Handler::Control(control)) => {
                self.note(spec, request);
                return self.on_control(control, request);
            }
        }
        if self.must_close { ConnectionAction::Close } else { ConnectionAction::Continue }
    }

    /// A command that the server executes itself.
    pub(super) fn run_own(&mut self, spec: &Spec, request: &Request, out: &mut Vec<u8>) {
        match spec.handler {
            _ if spec.asks_help(request) => spec.help(out),
            Handler::Server(own) => own(self, request, out),
            Handler::Table(own) => own(commands::TABLE, self, request, out),
            Handler::Store(_) | Handler::Publish | Handler::Control(_) => {
                unreachable!("{} is not the server's own", spec.name)
            }
        }
    }

    /// For CLIENT LIST.
    fn note(&mut self, spec: &'static Spec, request: &Request) {
        let mut profile = self.client.profile();
        (profile.active, profile.command) = (Instant::now(), spec.full_name(request));
    }

    fn on_key(&mut self, spec: &'static Spec, request: &Request) {
        match self.translate(spec, request) {
            Ok((op, _)) if op.keys_named() > BATCH_KEYS_MAX => {
                self.reply(|out| reply::error(out, &too_many_keys(op.keys_named())));
            }
            Ok((op, shape)) => self.gather(op, shape, request.words().map(<[u8]>::len).sum()),
            Err(why) => self.reply(|out| reply::error(out, &why)),
        }
    }

    pub(super) fn translate(&self, spec: &Spec, request: &Request) -> Translated {
        let ServerState { handle, scripts, .. } = &*self.shared;
        let position = |cursor| handle.scan_position(cursor);
        let context = Context { position: &position, scripts, now_ms: self.now_ms, draw: || fastrand::u64(..) };
        match spec.handler {
            Handler::Store(translate) => translate(request, &context),
            _ => unreachable!("{} is not on keys", spec.name),
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
            Control::Subscribe(kind) => self.subscribe(kind, request),
            Control::Unsubscribe(kind) => self.unsubscribe(kind, request),
            Control::Quit => {
                self.reply(reply::ok);
                return ConnectionAction::Close;
            }
            Control::Reset => {
                self.submit();
                self.multi = None;
                self.forget_watched();
                self.forget_subscriptions();
                self.proto = RespVersion::Resp2;
                self.is_eventual = false;
                self.is_known = !self.shared.handle.access().is_required();
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
        if self.must_close { ConnectionAction::Close } else { ConnectionAction::Continue }
    }
}

/// What a client of RESP2 with subscriptions may send.
const FOR_SUBSCRIBERS: &str = "(P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context";

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
