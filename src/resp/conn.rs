//! One Redis connection: its state, the batch that it is gathering, and the transaction that is open.
//!
//! Commands on keys that arrived together become one batch, which is submitted without waiting for the answer; the
//! thread that has the answer sends the reply (`outbox.rs`).
//! Not here: reading and dispatching requests (`dispatch.rs`).

use super::clients::Clients;
use super::outbox::{Client, RequestPath, Size};
use super::protocol::lines;
use super::protocol::parse::Owned;
use super::protocol::reply::{self, Proto};
use super::reply_plan::{Plan, Shape, error_text};
use super::shared::Shared;
use crate::limits::{RESP_RUN_BYTES_MAX, RESP_RUN_OPS_MAX};
use crate::node::{Ack, Addressing, Answered, Connections, Level, Operation, Requests, Reservation, SubscriptionKind};
use crate::outcome::Outcome;
use crate::outcome::codes::FAILED;
use crate::services::Replicated;
use crate::services::Reply;
use crate::services::kv::Store;
use crate::services::kv::commands::RUN_REPLY_BYTES_MAX;
use crate::services::kv::{Batch, BatchReply, Bytes, Op, Value};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes of this server's own replies that are gathered before they are sent.
const WRITTEN_BYTES_MAX: usize = 64 << 10;

/// What to do with the connection after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionAction {
    /// The next request is read.
    Continue,
    /// It is closed after all replies are sent.
    Close,
    /// It is closed at once: the client does not use the Redis protocol.
    Drop,
}

/// A transaction that is being gathered.
#[derive(Debug, Default)]
pub struct Multi {
    pub(crate) queued: Vec<Owned>,
    pub(crate) bytes: usize,
    /// Whether a command was refused, so that EXEC will be refused, too.
    pub(crate) is_void: bool,
}

/// One Redis connection.
pub struct Conn {
    pub(crate) shared: Arc<Shared>,
    /// All connections, for CLIENT.
    pub(crate) clients: Arc<Clients>,
    /// This one's replies and profile.
    pub(crate) client: Arc<Client>,
    pub(crate) proto: Proto,
    /// The present request is a plain line, and its reply is one.
    pub(crate) is_line: bool,
    /// The client has sent HELLO: it reads RESP, whatever the connection began with.
    pub(crate) has_greeted: bool,
    /// Whether the client is authenticated: it has sent the cluster's secret, or none is configured.
    pub(crate) is_known: bool,
    /// Reads are local, and writes are acknowledged when the leader has appended them.
    pub(crate) is_eventual: bool,
    /// Whether the last write was acknowledged in eventual mode, before it was committed. After a change to strong mode
    /// the next read goes through the log, so that it sees that write.
    has_taken: bool,
    /// The connection is closed after the present reply: CLIENT KILL.
    pub(crate) must_close: bool,
    pub(crate) multi: Option<Multi>,
    pub(crate) watched: Vec<(Bytes, u64)>,
    pub(crate) watched_bytes: usize,
    /// Channels and patterns.
    pub(crate) subscribed: BTreeSet<(SubscriptionKind, Vec<u8>)>,
    pub(crate) subscribed_bytes: usize,
    /// The batch that is being gathered, how its answer will be written, and how large it is.
    pub(crate) run: Batch,
    pub(crate) plan: Plan,
    run_bytes: usize,
    run_reads: usize,
    run_needs_log: bool,
    run_looks_through: bool,
    /// Replies that precede those of the batch.
    pub(crate) written: Vec<u8>,
    /// Clock of this turn, in milliseconds since 1970.
    pub(crate) now_ms: u64,
    /// For the transaction, the watched keys and the subscriptions.
    pub(crate) memory: Reservation,
}

impl Conn {
    pub(crate) fn new(shared: Arc<Shared>, clients: Arc<Clients>, client: Arc<Client>) -> Conn {
        let is_known = shared.handle.settings().cluster_secret.is_none();
        let memory = shared.handle.memory().reservation();
        Conn {
            shared,
            clients,
            client,
            proto: Proto::Two,
            is_line: false,
            has_greeted: false,
            is_known,
            is_eventual: false,
            has_taken: false,
            must_close: false,
            multi: None,
            watched: Vec::new(),
            watched_bytes: 0,
            subscribed: BTreeSet::new(),
            subscribed_bytes: 0,
            run: Batch::default(),
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

    /// Returns the time limit of one batch (`request_timeout_ms`).
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_millis(self.shared.handle.settings().request_timeout_ms)
    }

    /// Adds an operation to the batch.
    pub(crate) fn gather(&mut self, op: Op, shape: Shape, bytes: usize) {
        let needs_log = op.needs_log();
        if needs_log {
            self.shared.note_size(bytes);
        }
        // All replies of a batch must fit into one answer. Their sizes are unknown, so all values are assumed to be
        // large.
        let reads = self.run_reads + values_read(&op);
        let is_full = self.run.ops.len() >= RESP_RUN_OPS_MAX
            || self.run_bytes + bytes > RESP_RUN_BYTES_MAX
            || reads * self.shared.value_bytes() > RUN_REPLY_BYTES_MAX;
        // In eventual mode reads do not wait for writes. An operation that examines many keys does not go through the
        // log.
        let is_apart = self.is_eventual && needs_log != self.run_needs_log
            || op.looks_through() && self.run_needs_log
            || needs_log && self.run_looks_through;
        if is_full || is_apart {
            self.submit();
        }
        if self.run.ops.is_empty() {
            (self.plan.proto, self.plan.is_line) = (self.proto, self.is_line);
            (self.run_needs_log, self.run_looks_through) = (false, false);
        }
        self.run_needs_log |= needs_log;
        self.run_looks_through |= op.looks_through();
        self.run_bytes += bytes;
        self.run_reads += values_read(&op);
        self.run.ops.push(op);
        self.plan.push(shape);
    }

    /// A reply of this server itself, after all earlier replies.
    pub(crate) fn reply(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if self.run.ops.is_empty() && !self.is_line {
            write(&mut self.written);
            self.send_if_much();
        } else {
            let mut out = Vec::new();
            write(&mut out);
            self.reply_written(out);
        }
    }

    pub(crate) fn reply_written(&mut self, out: Vec<u8>) {
        if self.run.ops.is_empty() {
            match self.is_line {
                true => lines::write(&out, &mut self.written),
                false => self.written.extend_from_slice(&out),
            }
            self.send_if_much();
        } else {
            self.run_bytes += out.len();
            self.plan.push(Shape::Written(out));
        }
    }

    pub(crate) fn send_if_much(&mut self) {
        if self.written.len() > WRITTEN_BYTES_MAX {
            self.client.wait_room();
            self.client.push_written(&mut self.written);
        }
    }

    /// An error, after which the transaction that is being gathered cannot be executed.
    pub(crate) fn refuse(&mut self, why: &str) -> ConnectionAction {
        if let Some(multi) = &mut self.multi {
            *multi = Multi { is_void: true, ..Multi::default() };
            self.account();
        }
        self.reply(|out| reply::error(out, why));
        ConnectionAction::Continue
    }

    /// Submits the batch.
    pub(crate) fn submit(&mut self) {
        if self.run.ops.is_empty() {
            return;
        }
        let (run, plan) = (std::mem::take(&mut self.run), std::mem::take(&mut self.plan));
        let needs_log = self.run_needs_log;
        let mut ops = self.submit_batch(run, plan, needs_log);
        // The list's memory is used again.
        ops.clear();
        self.run.ops = ops;
        (self.run_bytes, self.run_reads) = (0, 0);
    }

    /// Submits a batch; returns its operations.
    pub(crate) fn submit_batch(&mut self, run: Batch, mut plan: Plan, mut needs_log: bool) -> Vec<Op> {
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
        let bytes = Store::encode_command(&run);
        // The possible size of the replies counts, too: a client that does not read must not fill the memory.
        let replies = run.ops.iter().map(values_read).sum::<usize>() * self.shared.value_bytes();
        let size = Size { commands: run.ops.len(), command: bytes.len(), replies };
        if !self.is_eventual && !needs_log && run.ops.iter().any(Op::looks_through) {
            // It must see earlier writes, so it waits until they are answered; in the log it would delay others.
            self.client.wait_logged();
        }
        let Some((way, place)) = self.client.push_run(plan, needs_log, self.is_eventual, size) else {
            return run.ops;
        };
        let work = match way {
            RequestPath::Log => Operation::Command { tag: None, command: bytes, ack },
            RequestPath::Query => Operation::Query { query: bytes, level: self.level() },
        };
        self.shared.handle.submit(work, Instant::now() + self.timeout(), Box::new(place));
        run.ops
    }

    fn level(&self) -> Level {
        if self.is_eventual { Level::Eventual } else { Level::Linearizable }
    }

    /// Submits everything that was gathered.
    pub(crate) fn flush(&mut self) {
        self.submit();
        self.client.push_written(&mut self.written);
    }

    /// Queries the store and waits: for the few commands of which the connection itself needs the answer. Earlier
    /// commands are answered first.
    pub(crate) fn ask(&mut self, ops: Vec<Op>, level: Level) -> Result<Vec<Value>, String> {
        self.flush();
        self.client.wait_answered();
        let run = Batch { watched: Vec::new(), ops };
        let answered: Answered =
            self.shared.handle.query(Store::encode_command(&run), level, Instant::now() + self.timeout());
        match answered {
            Outcome::Done((_, Reply::Ok(bytes))) => match BatchReply::decode(&bytes) {
                Some(BatchReply::Values(values)) => Ok(values),
                _ => Err("ERR internal error: malformed answer of the key-value store".to_string()),
            },
            Outcome::Done((_, Reply::Failed(why))) => Err(format!("{} {why}", FAILED.resp)),
            Outcome::Refused(why) => Err(error_text(&why)),
            Outcome::Unknown(why) => Err(error_text(&why)),
        }
    }

    /// Executes a transaction and waits for its answer, after all earlier commands.
    pub(crate) fn execute(&mut self, run: &Batch) -> Answered {
        self.flush();
        self.client.wait_answered();
        let deadline = Instant::now() + self.timeout();
        let bytes = Store::encode_command(run);
        match run.needs_log() || !run.watched.is_empty() {
            true => {
                self.shared.handle.ask(Operation::Command { tag: None, command: bytes, ack: Ack::Applied }, deadline)
            }
            false => self.shared.handle.query(bytes, self.level(), deadline),
        }
    }

    /// Reserves memory for the transaction, the watched keys and the subscriptions; returns whether there is room.
    pub(crate) fn account(&mut self) -> bool {
        let queued = self.multi.as_ref().map_or(0, |multi| multi.bytes);
        self.memory.resize(queued + self.watched_bytes + self.subscribed_bytes).is_ok()
    }

    /// Commands in the open transaction; `None`: none is open.
    pub(crate) fn queued(&self) -> Option<usize> {
        self.multi.as_ref().map(|multi| multi.queued.len())
    }

    pub(crate) fn forget_watched(&mut self) {
        (self.watched, self.watched_bytes) = (Vec::new(), 0);
        self.account();
    }
}

/// Maximum number of values in the answer to an operation.
fn values_read(op: &Op) -> usize {
    match op {
        Op::Get(_) | Op::GetDel(_) | Op::GetEx { .. } | Op::GetRange { .. } | Op::Set { get: true, .. } => 1,
        Op::MGet(keys) => keys.len(),
        _ => 0,
    }
}
