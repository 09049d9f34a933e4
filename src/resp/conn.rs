//! The thread of one Redis connection: reads what has come, takes it apart, hands it to the node and reads on.
//!
//! Commands on keys that came together become one run, which the node gets without anybody waiting for the answer; the
//! reply is sent by the thread that has it (`outbox.rs`). A command that the door answers itself joins the run that is
//! being gathered, so that its reply keeps its place.
//!
//! Invariants: C1 whatever was read is handed on before the thread waits for more. C2 a request that has begun must be
//! whole by a deadline, whatever the pace of its bytes; between requests a connection may rest as long as it likes.
//! C3 nothing is read while too much of the connection is under way: back-pressure, not memory.
//! Not here: what commands mean (`resp/commands/mod.rs` and those it names), the order of replies (`outbox.rs`).

use super::commands::keys::Context;
use super::commands::{self, Act, Flow, Spec, WORD_BYTES_SHOWN};
use super::door::Door;
use super::outbox::{Client, Size, Way};
use super::protocol::parse::{Fault, Owned, Parser, Request};
use super::protocol::reply::{self, Proto};
use super::reply_plan::{self, Plan, Shape};
use crate::limits::{
    HTTP_BODY_DEADLINE, HTTP_WRITE_DEADLINE, RESP_AUTH_DEADLINE, RESP_FIRST_DEADLINE, RESP_REQUEST_BYTES_MAX,
    RESP_RUN_BYTES_MAX, RESP_RUN_OPS_MAX,
};
use crate::node::shared::memory;
use crate::node::threads::pending_requests::now_ms;
use crate::node::{Ack, Answered, Level, Reservation, Work};
use crate::services::Reply;
use crate::services::kv::commands::{RUN_KEYS_MAX, RUN_REPLY_BYTES_MAX};
use crate::services::kv::{Bytes, Op, Ran, Run, Value};
use crate::services::registry::kv_run;
use crate::types::Outcome;
use crate::warn_seldom;
use rustix::net::RecvFlags;
use std::io::{self, Read};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// Input buffer: what an idle connection has, what a busy one may have between requests.
const INPUT_BYTES: (usize, usize) = (4 << 10, 64 << 10);
/// Replies of the door's own that are gathered before they are sent.
const WRITTEN_BYTES_MAX: usize = 64 << 10;
/// How long a connection that was told goodbye may go on sending, and how much.
const LINGER: (Duration, usize) = (Duration::from_millis(500), 1 << 20);
/// What a watched key costs beside its bytes: two numbers and what the allocator adds, in a list with twice the room.
const WATCHED_BYTES: usize = 128;

/// What becomes of the connection after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    /// It goes on.
    On,
    /// Replies leave, then it is closed.
    Close,
    /// It is dropped: whoever this is does not speak our language.
    Drop,
}

/// A transaction that is being gathered.
#[derive(Debug, Default)]
pub struct Multi {
    queued: Vec<Owned>,
    bytes: usize,
    /// A command was refused: EXEC will be, too.
    is_void: bool,
}

/// See the module.
pub struct Conn {
    /// What all connections share.
    pub(crate) door: Arc<Door>,
    /// This one's replies and profile.
    pub(crate) client: Arc<Client>,
    /// Version of the protocol.
    pub(crate) proto: Proto,
    /// The client has named the secret, or there is none.
    pub(crate) is_known: bool,
    /// Reads are local, and writes acknowledged when the leader has taken them.
    pub(crate) is_eventual: bool,
    /// Such a write was the last: back in strong mode, the next read goes through the log behind it.
    has_taken: bool,
    multi: Option<Multi>,
    watched: Vec<(Bytes, u64)>,
    watched_bytes: usize,
    /// What is being gathered, how its answer will be written, and how large it is.
    run: Run,
    plan: Plan,
    run_bytes: usize,
    run_reads: usize,
    run_needs_log: bool,
    run_looks_through: bool,
    /// Replies that come before those of the run.
    written: Vec<u8>,
    /// Clock of this turn, in milliseconds since 1970.
    now_ms: u64,
    /// For the transaction and the watched keys.
    memory: Reservation,
}

/// Body of the thread.
pub fn serve(door: &Arc<Door>, client: &Arc<Client>) {
    let _session = door.handle.open_session("redis", client.profile().peer);
    let mut conn = Conn::new(Arc::clone(door), Arc::clone(client));
    let course = conn.run(&mut Input::new(door.handle.memory().reservation()));
    conn.flush();
    if course != Course::Drop {
        client.wait_sent(Instant::now() + conn.timeout() + HTTP_WRITE_DEADLINE);
        linger(client);
    }
    client.close();
}

impl Conn {
    fn new(door: Arc<Door>, client: Arc<Client>) -> Conn {
        let is_known = door.handle.settings().cluster_secret.is_none();
        let memory = door.handle.memory().reservation();
        Conn {
            door,
            client,
            proto: Proto::Two,
            is_known,
            is_eventual: false,
            has_taken: false,
            multi: None,
            watched: Vec::new(),
            watched_bytes: 0,
            run: Run::default(),
            plan: Plan::default(),
            run_bytes: 0,
            run_reads: 0,
            run_needs_log: false,
            run_looks_through: false,
            written: Vec::new(),
            now_ms: 0,
            memory,
        }
    }

    /// Serves requests until the connection ends.
    fn run(&mut self, input: &mut Input) -> Course {
        let mut parser = Parser::default();
        let mut has_asked = false;
        loop {
            let mut count = 0;
            loop {
                let is_known = self.is_known;
                match parser.next(input.bytes(), is_known) {
                    Ok(None) => break,
                    Ok(Some((request, length))) => {
                        let course = if request.is_empty() { Course::On } else { self.command(&request) };
                        input.consume(length);
                        count += 1;
                        if course != Course::On {
                            return course;
                        }
                    }
                    Err(Fault(why)) => {
                        self.door.counts.protocol_errors.fetch_add(1, Relaxed);
                        self.reply(|out| reply::error(out, &why));
                        return Course::Close;
                    }
                }
            }
            self.door.counts.commands.fetch_add(count, Relaxed);
            self.flush();
            has_asked |= count > 0;
            input.bound(self.is_known, has_asked);
            if !self.client.wait_room() {
                return Course::Close;
            }
            match input.fill(&self.client, count > 0) {
                Filled::More => {}
                Filled::Ended => return Course::Close,
                Filled::Full => {
                    self.reply(|out| reply::error(out, &reply_plan::refused(memory::FULL)));
                    return Course::Close;
                }
            }
            self.now_ms = now_ms();
        }
    }

    /// Time for one run.
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_millis(self.door.handle.settings().request_timeout_ms)
    }

    /// Carries one request out, or gathers it.
    fn command(&mut self, request: &Request) -> Course {
        let name = request.word(0);
        let Some(spec) = commands::find(name) else {
            if name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:") {
                // A browser that was talked into posting to this port by some web page.
                warn_seldom!("an HTTP request came to the Redis port, connection dropped");
                return Course::Drop;
            }
            return self.refuse(&unknown(request));
        };
        if let Err(why) = spec.check(request) {
            return self.refuse(&why);
        }
        if !self.is_known && !spec.is_open() {
            return self.refuse("NOAUTH Authentication required.");
        }
        match (&mut self.multi, spec.act) {
            (None, Act::Key(_)) => self.on_key(spec, request),
            (None, Act::Own(own)) => {
                self.note(spec);
                let mut out = Vec::new();
                own(self, request, &mut out);
                self.reply_written(out);
            }
            (Some(_), Act::Key(_) | Act::Own(_)) => self.queue(request),
            (_, Act::Flow(flow)) => {
                self.note(spec);
                return self.on_flow(flow, request);
            }
        }
        Course::On
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

    fn translate(&self, spec: &Spec, request: &Request) -> super::commands::keys::Translated {
        let context = Context { cursors: &self.door.cursors, scripts: &self.door.scripts, now_ms: self.now_ms };
        match spec.act {
            Act::Key(translate) => translate(request, &context),
            Act::Own(_) | Act::Flow(_) => unreachable!("{} is not on keys", spec.name),
        }
    }

    /// Adds an operation to the run.
    fn gather(&mut self, op: Op, shape: Shape, bytes: usize) {
        let needs_log = op.needs_log();
        if needs_log {
            self.door.note_size(bytes);
        }
        // All replies of a run must fit into one answer; as their sizes are not known, as if all values were large.
        let reads = self.run_reads + values_read(&op);
        let is_full = self.run.ops.len() >= RESP_RUN_OPS_MAX
            || self.run_bytes + bytes > RESP_RUN_BYTES_MAX
            || reads * self.door.value_bytes() > RUN_REPLY_BYTES_MAX;
        // In eventual mode reads do not wait for writes. What looks through many keys never goes through the log with them.
        let is_apart = self.is_eventual && needs_log != self.run_needs_log
            || op.looks_through() && self.run_needs_log
            || needs_log && self.run_looks_through;
        if is_full || is_apart {
            self.submit();
        }
        if self.run.ops.is_empty() {
            self.plan.proto = self.proto;
            (self.run_needs_log, self.run_looks_through) = (false, false);
        }
        self.run_needs_log |= needs_log;
        self.run_looks_through |= op.looks_through();
        self.run_bytes += bytes;
        self.run_reads += values_read(&op);
        self.run.ops.push(op);
        self.plan.push(shape);
    }

    /// A reply of the door's own, after all those before it.
    pub(crate) fn reply(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if self.run.ops.is_empty() {
            write(&mut self.written);
            self.send_if_much();
        } else {
            let mut out = Vec::new();
            write(&mut out);
            self.reply_written(out);
        }
    }

    fn reply_written(&mut self, out: Vec<u8>) {
        if self.run.ops.is_empty() {
            self.written.extend_from_slice(&out);
            self.send_if_much();
        } else {
            self.run_bytes += out.len();
            self.plan.push(Shape::Written(out));
        }
    }

    fn send_if_much(&mut self) {
        if self.written.len() > WRITTEN_BYTES_MAX {
            self.client.wait_room();
            self.client.push_written(&mut self.written);
        }
    }

    /// An error that also spoils the transaction that is being gathered.
    fn refuse(&mut self, why: &str) -> Course {
        if let Some(multi) = &mut self.multi {
            *multi = Multi { is_void: true, ..Multi::default() };
            self.account();
        }
        self.reply(|out| reply::error(out, why));
        Course::On
    }

    /// Hands the run to the node.
    pub(crate) fn submit(&mut self) {
        if self.run.ops.is_empty() {
            return;
        }
        let (run, plan) = (std::mem::take(&mut self.run), std::mem::take(&mut self.plan));
        let needs_log = self.run_needs_log;
        let mut ops = self.hand_over(run, plan, needs_log);
        // The list is used again.
        ops.clear();
        self.run.ops = ops;
        (self.run_bytes, self.run_reads) = (0, 0);
    }

    fn hand_over(&mut self, run: Run, mut plan: Plan, mut needs_log: bool) -> Vec<Op> {
        if !self.client.wait_room() {
            return run.ops;
        }
        self.client.push_written(&mut self.written);
        let is_certain = |op: &Op| op.certain_reply() == Some(Value::Ok);
        plan.is_taken = self.is_eventual && !plan.is_exec && needs_log && run.ops.iter().all(is_certain);
        self.has_taken |= plan.is_taken;
        if !self.is_eventual {
            needs_log |= std::mem::take(&mut self.has_taken);
        }
        let ack = if plan.is_taken { Ack::Taken } else { Ack::Applied };
        let bytes = kv_run(&run);
        // What it may come to when it is answered counts as well: a client that does not read must not fill the memory.
        let replies = run.ops.iter().map(values_read).sum::<usize>() * self.door.value_bytes();
        let size = Size { commands: run.ops.len(), command: bytes.len(), replies };
        if !self.is_eventual && !needs_log && run.ops.iter().any(Op::looks_through) {
            // It sees the writes before it once they are answered; behind them in the log it would hold others up.
            self.client.wait_logged();
        }
        let Some((way, place)) = self.client.push_run(plan, needs_log, self.is_eventual, size) else {
            return run.ops;
        };
        let work = match way {
            Way::Log => Work::Command { tag: None, command: bytes, ack },
            Way::Query => Work::Query { query: bytes, level: self.level() },
        };
        self.door.handle.submit(work, Instant::now() + self.timeout(), Box::new(place));
        run.ops
    }

    fn level(&self) -> Level {
        if self.is_eventual { Level::Eventual } else { Level::Linearizable }
    }

    /// Hands on everything that was gathered.
    fn flush(&mut self) {
        self.submit();
        self.client.push_written(&mut self.written);
    }

    /// Asks the store and waits: for the few commands whose answer the connection itself needs. Whatever came before is
    /// answered first.
    pub(crate) fn ask(&mut self, ops: Vec<Op>, level: Level) -> Result<Vec<Value>, String> {
        self.flush();
        self.client.wait_answered();
        let run = Run { watched: Vec::new(), ops };
        let answered: Answered = self.door.handle.query(kv_run(&run), level, Instant::now() + self.timeout());
        match answered {
            Outcome::Done((_, Reply::Ok(bytes))) => match Ran::decode(&bytes) {
                Some(Ran::Values(values)) => Ok(values),
                _ => Err("ERR the store's answer cannot be read".to_string()),
            },
            Outcome::Done((_, Reply::Failed(why))) => Err(format!("ERR {why}")),
            Outcome::Refused(why) => Err(reply_plan::refused(&why)),
            Outcome::Unknown(why) => Err(format!("UNKNOWN {why}")),
        }
    }

    fn on_flow(&mut self, flow: Flow, request: &Request) -> Course {
        match flow {
            Flow::Multi if self.multi.is_some() => {
                self.reply(|out| reply::error(out, "ERR MULTI calls can not be nested"));
            }
            Flow::Multi => {
                self.multi = Some(Multi::default());
                self.reply(reply::ok);
            }
            Flow::Exec => self.exec(),
            Flow::Discard => match self.multi.take() {
                Some(_) => {
                    self.forget_watched();
                    self.reply(reply::ok);
                }
                None => self.reply(|out| reply::error(out, "ERR DISCARD without MULTI")),
            },
            Flow::Watch => self.watch(request),
            Flow::Quit => {
                self.reply(reply::ok);
                return Course::Close;
            }
            Flow::Reset => {
                self.submit();
                self.multi = None;
                self.forget_watched();
                self.proto = Proto::Two;
                self.is_eventual = false;
                self.is_known = self.door.handle.settings().cluster_secret.is_none();
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
        Course::On
    }

    fn queue(&mut self, request: &Request) {
        let Some(multi) = &mut self.multi else { unreachable!("only a transaction has a queue") };
        if multi.is_void {
            // It will not run.
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
            self.refuse(&reply_plan::refused(memory::FULL));
            return;
        }
        self.reply(|out| reply::simple(out, "QUEUED"));
    }

    /// Takes the transaction and the watched keys into the memory budget; whether there is room for them.
    fn account(&mut self) -> bool {
        let queued = self.multi.as_ref().map_or(0, |multi| multi.bytes);
        self.memory.resize(queued + self.watched_bytes).is_ok()
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
        let mut run = Run { watched, ops: Vec::with_capacity(multi.queued.len()) };
        let mut plan = Plan { proto: self.proto, is_exec: true, ..Plan::default() };
        for owned in &multi.queued {
            let request = owned.request();
            let Some(spec) = commands::find(request.word(0)) else { unreachable!("it was found when it was queued") };
            let mut out = Vec::new();
            match spec.act {
                Act::Own(own) => own(self, &request, &mut out),
                Act::Flow(_) => unreachable!("{} is never queued", spec.name),
                Act::Key(_) => match self.translate(spec, &request) {
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
            let nothing = Outcome::Done((crate::types::Index(0), Reply::Ok(Ran::Values(Vec::new()).encode())));
            let mut out = Vec::new();
            plan.write(&nothing, &self.door.cursors, &mut out);
            return self.reply_written(out);
        }
        if run.keys_named() > RUN_KEYS_MAX {
            return self.reply(|out| reply::error(out, &too_many_keys(run.keys_named())));
        }
        // What was watched is compared where nothing can come between: in the log.
        let needs_log = run.needs_log() || !run.watched.is_empty();
        self.hand_over(run, plan, needs_log);
    }

    fn watch(&mut self, request: &Request) {
        if self.multi.is_some() {
            return self.reply(|out| reply::error(out, "ERR WATCH inside MULTI is not allowed"));
        }
        // A key that is watched already stays as it was first seen.
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
            return self.reply(|out| reply::error(out, "ERR the store's answer cannot be read"));
        };
        for (key, mark) in keys.into_iter().zip(marks) {
            if let Value::Int(mark) = mark {
                self.watched.push((key, mark as u64));
            }
        }
        self.watched_bytes += more;
        if !self.account() {
            self.forget_watched();
            return self.reply(|out| reply::error(out, &reply_plan::refused(memory::FULL)));
        }
        self.reply(reply::ok);
    }

    /// Commands in the open transaction; `None`: none is open.
    pub(crate) fn queued(&self) -> Option<usize> {
        self.multi.as_ref().map(|multi| multi.queued.len())
    }

    /// No key is watched any more.
    pub(crate) fn forget_watched(&mut self) {
        (self.watched, self.watched_bytes) = (Vec::new(), 0);
        self.account();
    }
}

/// How many values an operation may answer with.
fn values_read(op: &Op) -> usize {
    match op {
        Op::Get(_) | Op::GetDel(_) | Op::Set { get: true, .. } => 1,
        Op::MGet(keys) => keys.len(),
        _ => 0,
    }
}

/// For a request that would hold others up.
fn too_many_keys(keys: usize) -> String {
    format!("ERR a request or transaction names {RUN_KEYS_MAX} keys at most, not {keys}: send several")
}

/// Redis' words for a command that is not there.
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

/// Says that nothing more comes, then drops what the client still sends, within bounds: closing at once would reset the
/// connection and lose the last reply.
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

/// What came of waiting for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Filled {
    More,
    /// The connection has ended, or took too long.
    Ended,
    /// The memory budget has no room for a longer request.
    Full,
}

/// Bytes that have come and are not dealt with.
struct Input {
    buffer: Vec<u8>,
    from: usize,
    to: usize,
    /// The last read filled the buffer: there may be more at once.
    was_full: bool,
    /// When the request that is arriving began.
    begun: Option<Instant>,
    /// The socket's timeout.
    timeout: Option<Duration>,
    /// When whoever has not named the secret, or has asked for nothing yet, is let go.
    admission: Option<Instant>,
    memory: Reservation,
}

impl Input {
    fn new(memory: Reservation) -> Input {
        Input {
            buffer: Vec::new(),
            from: 0,
            to: 0,
            was_full: false,
            begun: None,
            timeout: None,
            admission: None,
            memory,
        }
    }

    /// A stranger has so long and no longer, whatever else it says meanwhile.
    fn bound(&mut self, is_known: bool, has_asked: bool) {
        self.admission = match (is_known, has_asked) {
            (true, true) => None,
            (false, _) => Some(self.admission.unwrap_or_else(|| Instant::now() + RESP_AUTH_DEADLINE)),
            (true, false) => Some(self.admission.unwrap_or_else(|| Instant::now() + RESP_FIRST_DEADLINE)),
        };
    }

    fn bytes(&self) -> &[u8] {
        &self.buffer[self.from..self.to]
    }

    fn consume(&mut self, length: usize) {
        self.from += length;
    }

    /// Waits for more. `is_anew`: what is in the buffer has just begun.
    fn fill(&mut self, client: &Client, is_anew: bool) -> Filled {
        if !self.make_room() {
            return Filled::Full;
        }
        if is_anew || self.from == self.to {
            self.begun = None;
        }
        loop {
            let whole = match self.from == self.to {
                true => None,
                false => Some(*self.begun.get_or_insert_with(Instant::now) + HTTP_BODY_DEADLINE),
            };
            let until = whole.into_iter().chain(self.admission).min();
            match self.read(client, until) {
                Ok(0) => return Filled::Ended,
                Ok(read) => {
                    self.to += read;
                    self.was_full = self.to == self.buffer.len();
                    return Filled::More;
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut if until.is_none() => {
                        // A timeout was left from an earlier request; a connection at rest has none.
                        self.timeout = None;
                        if client.stream.set_read_timeout(None).is_err() {
                            return Filled::Ended;
                        }
                    }
                    _ => return Filled::Ended,
                },
            }
        }
    }

    /// A request is cut short at the buffer's end: room for more of it is made before it is read on. Whether there is any in the
    /// memory budget.
    fn make_room(&mut self) -> bool {
        let (least, most) = INPUT_BYTES;
        if self.from == self.to {
            (self.from, self.to) = (0, 0);
            if self.buffer.len() > most {
                self.buffer = Vec::new();
            }
        } else if self.from > 0 {
            self.buffer.copy_within(self.from..self.to, 0);
            (self.from, self.to) = (0, self.to - self.from);
        }
        let is_short = self.was_full && self.buffer.len() < most;
        let wanted = match self.buffer.len() {
            0 => least,
            length if self.to == length || is_short => length * 2,
            length => length,
        };
        let is_granted = self.memory.resize(wanted).is_ok();
        if is_granted && wanted > self.buffer.len() {
            self.buffer.reserve_exact(wanted - self.buffer.len());
            self.buffer.resize(wanted, 0);
        }
        is_granted
    }

    /// One read. The socket's timeout is set only for a request that is slow, so most reads need no other system call.
    fn read(&mut self, client: &Client, until: Option<Instant>) -> io::Result<usize> {
        let into = &mut self.buffer[self.to..];
        let Some(until) = until else { return (&client.stream).read(into) };
        if std::mem::take(&mut self.was_full) {
            match rustix::net::recv(&client.stream, &mut *into, RecvFlags::DONTWAIT) {
                Ok((read, _)) => return Ok(read),
                Err(rustix::io::Errno::WOULDBLOCK) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        // To the second, so that the pieces of one request do not set it again and again.
        let left = Duration::from_secs(left.as_secs() + 1);
        if self.timeout != Some(left) {
            client.stream.set_read_timeout(Some(left))?;
            self.timeout = Some(left);
        }
        (&client.stream).read(into)
    }
}
