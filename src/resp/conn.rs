//! One Redis connection: its state, the batch that it is gathering, and the transaction that is open.
//!
//! Commands on keys that arrived together become one batch, which is submitted without waiting for the answer; the
//! thread that has the answer sends the reply (`outbox.rs`).
//! Not here: reading and dispatching requests (`dispatch.rs`).

use super::clients::Clients;
use super::outbox::{Client, RequestPath, Size};
use super::protocol::lines;
use super::protocol::parse::Owned;
use super::protocol::reply::{self, RespVersion};
use super::reply_plan::{ReplyPlan, ReplyShape, error_text};
use super::shared::ServerState;
use crate::limits::{RESP_BATCH_BYTES_MAX, RESP_BATCH_OPS_MAX};
use crate::node::{Ack, Addressing, Answered, Connections, Level, Operation, Requests, Reservation, SubscriptionKind};
use crate::outcome::Outcome;
use crate::outcome::codes::FAILED;
use crate::services::Replicated;
use crate::services::Reply;
use crate::services::kv::Store;
use crate::services::kv::commands::BATCH_REPLY_BYTES_MAX;
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

pub struct Conn {
    pub(crate) shared: Arc<ServerState>,
    /// All connections, for CLIENT.
    pub(crate) clients: Arc<Clients>,
    /// This one's replies and profile.
    pub(crate) client: Arc<Client>,
    pub(crate) proto: RespVersion,
    /// The present request is a plain line, and its reply is one.
    pub(crate) is_line: bool,
    /// The client has sent HELLO: it reads RESP, whatever the connection began with.
    pub(crate) has_greeted: bool,
    /// Whether the client is authenticated: it has sent `client_password`, or none is configured.
    pub(crate) is_known: bool,
    /// Reads are local, and writes are acknowledged when the leader has appended them.
    pub(crate) is_eventual: bool,
    /// Whether the last write was acknowledged in eventual mode, before it was committed. After a change to strong mode
    /// the next read goes through the log, so that it sees that write.
    has_uncommitted: bool,
    /// The connection is closed after the present reply: CLIENT KILL.
    pub(crate) must_close: bool,
    pub(crate) multi: Option<Multi>,
    pub(crate) watched: Vec<(Bytes, u64)>,
    pub(crate) watched_bytes: usize,
    /// Channels and patterns.
    pub(crate) subscribed: BTreeSet<(SubscriptionKind, Vec<u8>)>,
    pub(crate) subscribed_bytes: usize,
    /// The batch that is being gathered, how its answer will be written, and how large it is.
    pub(crate) batch: Batch,
    pub(crate) plan: ReplyPlan,
    batch_bytes: usize,
    batch_reads: usize,
    batch_needs_log: bool,
    batch_looks_through: bool,
    /// Replies that precede those of the batch.
    pub(crate) written: Vec<u8>,
    /// Clock of this turn, in milliseconds since 1970.
    pub(crate) now_ms: u64,
    /// For the transaction, the watched keys and the subscriptions.
    pub(crate) memory: Reservation,
}

impl Conn {
    pub(crate) fn new(shared: Arc<ServerState>, clients: Arc<Clients>, client: Arc<Client>) -> Conn {
        let is_known = !shared.handle.access().is_required();
        let memory = shared.handle.memory().reservation();
        Conn {
            shared,
            clients,
            client,
            proto: RespVersion::Resp2,
            is_line: false,
            has_greeted: false,
            is_known,
            is_eventual: false,
            has_uncommitted: false,
            must_close: false,
            multi: None,
            watched: Vec::new(),
            watched_bytes: 0,
            subscribed: BTreeSet::new(),
            subscribed_bytes: 0,
            batch: Batch::default(),
            plan: ReplyPlan::default(),
            batch_bytes: 0,
            batch_reads: 0,
            batch_needs_log: false,
            batch_looks_through: false,
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
    pub(crate) fn gather(&mut self, op: Op, shape: ReplyShape, bytes: usize) {
        let needs_log = op.needs_log();
        if needs_log {
            self.shared.note_size(bytes);
        }
        // All replies of a batch must fit into one answer. Their sizes are unknown, so all values are assumed to be
        // large.
        let reads = self.batch_reads + values_read(&op);
        let is_full = self.batch.ops.len() >= RESP_BATCH_OPS_MAX
            || self.batch_bytes + bytes > RESP_BATCH_BYTES_MAX
            || reads * self.shared.value_bytes() > BATCH_REPLY_BYTES_MAX;
        // In eventual mode reads do not wait for writes. An operation that examines many keys does not go through the
        // log.
        let is_apart = self.is_eventual && needs_log != self.batch_needs_log
            || op.looks_through() && self.batch_needs_log
            || needs_log && self.batch_looks_through;
        if is_full || is_apart {
            self.submit();
        }
        if self.batch.ops.is_empty() {
            (self.plan.proto, self.plan.is_line) = (self.proto, self.is_line);
            (self.batch_needs_log, self.batch_looks_through) = (false, false);
        }
        self.batch_needs_log |= needs_log;
        self.batch_looks_through |= op.looks_through();
        self.batch_bytes += bytes;
        self.batch_reads += values_read(&op);
        self.batch.ops.push(op);
        self.plan.push(shape);
    }

    /// A reply of this server itself, after all earlier replies.
    pub(crate) fn reply(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if self.batch.ops.is_empty() && !self.is_line {
            write(&mut self.written);
            self.send_if_much();
        } else {
            let mut out = Vec::new();
            write(&mut out);
            self.reply_written(out);
        }
    }

    pub(crate) fn reply_written(&mut self, out: Vec<u8>) {
        if self.batch.ops.is_empty() {
            match self.is_line {
                true => lines::write(&out, &mut self.written),
                false => self.written.extend_from_slice(&out),
            }
            self.send_if_much();
        } else {
            self.batch_bytes += out.len();
            self.plan.push(ReplyShape::Written(out));
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

    pub(crate) fn submit(&mut self) {
        if self.batch.ops.is_empty() {
            return;
        }
        let (batch, plan) = (std::mem::take(&mut self.batch), std::mem::take(&mut self.plan));
        let needs_log = self.batch_needs_log;
        let mut ops = self.submit_batch(batch, plan, needs_log);
        // The list's memory is used again.
        ops.clear();
        self.batch.ops = ops;
        (self.batch_bytes, self.batch_reads) = (0, 0);
    }

    /// Submits a batch; returns its operations.
    pub(crate) fn submit_batch(&mut self, batch: Batch, mut plan: ReplyPlan, mut needs_log: bool) -> Vec<Op> {
        if !self.client.wait_room() {
            return batch.ops;
        }
        self.client.push_written(&mut self.written);
        let is_certain = |op: &Op| op.certain_reply() == Some(Value::Ok);
        plan.is_accepted = self.is_eventual && !plan.is_exec && needs_log && batch.ops.iter().all(is_certain);
        self.has_uncommitted |= plan.is_accepted;
        if !self.is_eventual {
            needs_log |= std::mem::take(&mut self.has_uncommitted);
        }
        let ack = if plan.is_accepted { Ack::Accepted } else { Ack::Applied };
        let bytes = Store::encode_command(&batch);
        // The possible size of the replies counts, too: a client that does not read must not fill the memory.
        let replies = batch.ops.iter().map(values_read).sum::<usize>() * self.shared.value_bytes();
        let size = Size { commands: batch.ops.len(), command: bytes.len(), replies };
        if !self.is_eventual && !needs_log && batch.ops.iter().any(Op::looks_through) {
            // It must see earlier writes, so it waits until they are answered; in the log it would delay others.
            self.client.wait_logged();
        }
        let Some((path, place)) = self.client.push_batch(plan, needs_log, self.is_eventual, size) else {
            return batch.ops;
        };
        let work = match path {
            RequestPath::Log => Operation::Command { tag: None, command: bytes, ack },
            RequestPath::Query => Operation::Query { query: bytes, level: self.level() },
        };
        self.shared.handle.submit(work, Instant::now() + self.timeout(), Box::new(place));
        batch.ops
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
        let batch = Batch { watched: Vec::new(), ops };
        let answered: Answered =
            self.shared.handle.query(Store::encode_command(&batch), level, Instant::now() + self.timeout());
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
    pub(crate) fn execute(&mut self, batch: &Batch) -> Answered {
        self.flush();
        self.client.wait_answered();
        let deadline = Instant::now() + self.timeout();
        let bytes = Store::encode_command(batch);
        match batch.needs_log() || !batch.watched.is_empty() {
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
