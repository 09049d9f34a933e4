//! The output of one connection: replies in the order of their commands, whichever thread produces them and whenever.
//!
//! Each batch, and each reply that this endpoint makes itself, has a place in a queue. The thread that fills the first
//! place writes everything that is ready into one buffer and sends it without waiting: waking the connection's own
//! thread would cost more than the send. What the socket does not accept is left to `resp-drain` (`drain.rs`), which
//! may wait.
//!
//! Invariants: O1 a reply leaves after all replies to earlier commands. O2 no thread holds the lock while waiting for a
//! socket, so `apply` and `core` never wait for a client. O3 a connection whose batch was dropped without an answer
//! (the node stops) is closed: its client must not mistake the next reply for that one. O4 everything in the queue and
//! the buffer is counted in the memory budget.
//! Not here: how a reply is written (`reply_plan.rs`), when a connection must wait (`conn.rs` calls
//! [`Client::wait_room`]).

use super::profile::Profile;
use super::protocol::lines;
use super::protocol::reply::{self, RespVersion};
use super::reply_plan::ReplyPlan;
use super::shared::ServerState;
use crate::limits::{RESP_BATCHES_BYTES_MAX, RESP_BATCHES_MAX, RESP_UNSENT_BYTES_MAX};
use crate::lock::{Mutex, MutexGuard, lock, wait_timeout};
use crate::node::{Answered, Reservation, Subscriber, Waiter};
use crate::outcome::{Outcome, Reason};
use crate::services::Reply;
use rustix::io::Errno;
use rustix::net::SendFlags;
use std::collections::VecDeque;
use std::fmt;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Condvar};
use std::time::{Duration, Instant};

/// Capacity that an idle connection's buffer keeps.
const BUFFER_BYTES_KEPT: usize = 16 << 10;
/// How often a waiting connection checks its condition, which may depend on the time.
const CHECK_EVERY: Duration = Duration::from_millis(500);

/// How a batch is executed, which decides when later batches of the connection may use the other path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestPath {
    /// Through the log.
    Log,
    /// As a query to the services' present state.
    Query,
}

/// How large a batch is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub commands: usize,
    /// Bytes of its encoded commands.
    pub command: usize,
    /// Upper bound of the bytes of its replies.
    pub replies: usize,
}

/// One place in the order of replies.
#[derive(Debug)]
enum QueuedReply {
    /// A batch: how to write its reply, how large the batch is, and its answer once it has arrived.
    Batch { plan: ReplyPlan, path: RequestPath, size: Size, answered: Option<Answered> },
    /// A reply that is already written.
    Written(Vec<u8>),
}

#[derive(Debug)]
struct Outbox {
    slots: VecDeque<QueuedReply>,
    /// Bytes held by the slots: unanswered commands, answers, replies.
    slots_bytes: usize,
    /// The memory budget's share for the slots and the buffer.
    memory: Reservation,
    /// Number of the first slot.
    first: u64,
    /// Unanswered batches, by path, and their bytes.
    log_batches: usize,
    query_batches: usize,
    batches_bytes: usize,
    /// Ready to be sent; the part before `sent` has been sent.
    out: Vec<u8>,
    sent: usize,
    /// `resp-drain` sends the rest.
    is_draining: bool,
    is_closed: bool,
    /// How messages of channels are written: the version, and whether without lengths.
    form: (RespVersion, bool),
    /// The connection's thread waits for a change.
    is_awaited: bool,
}

impl Outbox {
    fn new(memory: Reservation) -> Outbox {
        Outbox {
            slots: VecDeque::new(),
            slots_bytes: 0,
            memory,
            first: 0,
            log_batches: 0,
            query_batches: 0,
            batches_bytes: 0,
            out: Vec::new(),
            sent: 0,
            is_draining: false,
            is_closed: false,
            form: (RespVersion::Resp2, false),
            is_awaited: false,
        }
    }

    /// Whether the memory budget has room for so many bytes more.
    fn has_room(&mut self, more: usize) -> bool {
        self.memory.resize(self.slots_bytes + self.out.capacity() + more).is_ok()
    }
}

/// One connection, shared by its own thread and the threads that answer it.
pub struct Client {
    /// Number of the connection on this node.
    pub id: u64,
    pub stream: TcpStream,
    profile: Mutex<Profile>,
    /// Bytes of requests that were read.
    received: AtomicUsize,
    shared: Arc<ServerState>,
    outbox: Mutex<Outbox>,
    changed: Condvar,
}

/// Bytes of an answer beside its slot; a refusal has next to none.
fn bytes_of(answered: &Answered) -> usize {
    match answered {
        Outcome::Done((_, Reply::Ok(bytes))) => bytes.len(),
        Outcome::Done((_, Reply::Failed(why))) => why.len(),
        Outcome::Refused(_) | Outcome::Unknown(_) => 0,
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client {}", self.id)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendOutcome {
    All,
    /// The socket accepts no more now; so many bytes were sent in all calls.
    Some(usize),
    Closed,
}

impl Client {
    /// A connection that has just been accepted.
    pub fn new(id: u64, stream: TcpStream, peer: SocketAddr, shared: Arc<ServerState>, memory: Reservation) -> Client {
        let profile = Mutex::new(Profile::new(peer, Instant::now()));
        let (outbox, received) = (Mutex::new(Outbox::new(memory)), AtomicUsize::new(0));
        Client { id, stream, profile, received, shared, outbox, changed: Condvar::new() }
    }

    /// Bytes of requests that were read so far.
    pub fn received(&self) -> usize {
        self.received.load(Relaxed)
    }

    pub fn add_received(&self, bytes: usize) {
        self.received.fetch_add(bytes, Relaxed);
    }

    /// How the next messages of channels are written.
    pub fn set_form(&self, proto: RespVersion, is_line: bool) {
        self.lock().form = (proto, is_line);
    }

    /// Confirms a subscription, when all earlier replies are in the buffer.
    pub fn confirm(&self, reply: &[u8]) {
        self.push(|out, _| out.extend_from_slice(reply));
    }

    /// Adds what answers no request between the replies: the buffer contains whole ones only.
    fn push(&self, write: impl FnOnce(&mut Vec<u8>, RespVersion)) {
        let outbox = &mut *self.lock();
        if outbox.is_closed {
            return;
        }
        match outbox.form {
            (proto, false) => write(&mut outbox.out, proto),
            (proto, true) => {
                let mut reply = Vec::new();
                write(&mut reply, proto);
                lines::write(&reply, &mut outbox.out);
            }
        }
        self.send(outbox);
        self.bound(outbox);
        if outbox.out.len() - outbox.sent > RESP_UNSENT_BYTES_MAX {
            log::debug!("client disconnected, it reads its messages too slowly client={}", self.id);
            self.close_locked(outbox);
        }
    }

    /// What is known of its client.
    pub fn profile(&self) -> MutexGuard<'_, Profile> {
        lock(&self.profile)
    }

    fn lock(&self) -> MutexGuard<'_, Outbox> {
        lock(&self.outbox)
    }

    /// Sends replies that the connection's own thread has written, after all earlier replies.
    pub fn push_written(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let mut outbox = self.lock();
        if outbox.slots.is_empty() {
            outbox.out.extend_from_slice(bytes);
            self.send(&mut outbox);
        } else {
            outbox.slots_bytes += bytes.len();
            outbox.slots.push_back(QueuedReply::Written(bytes.clone()));
        }
        self.bound(&mut outbox);
        bytes.clear();
    }

    /// Makes a place for the reply to a batch; returns the path that the batch takes, and the receiver of its answer.
    /// A batch that only reads goes through the log while writes of this connection are on their way there, so that a
    /// client sees its own writes; a write waits until earlier reads are answered, so that they do not see it. Neither
    /// holds in eventual mode. `None`: the memory budget has no room for it; its place already holds that refusal.
    pub fn push_batch(
        self: &Arc<Client>,
        plan: ReplyPlan,
        needs_log: bool,
        is_eventual: bool,
        size: Size,
    ) -> Option<(RequestPath, PendingReply)> {
        let mut outbox = self.lock();
        if needs_log && !is_eventual {
            outbox = self.wait_until(outbox, |outbox| outbox.query_batches == 0);
        }
        let path =
            if needs_log || (!is_eventual && outbox.log_batches > 0) { RequestPath::Log } else { RequestPath::Query };
        let number = outbox.first + outbox.slots.len() as u64;
        let is_full = !outbox.has_room(size.command);
        outbox.slots.push_back(QueuedReply::Batch { plan, path, size, answered: None });
        outbox.slots_bytes += size.command;
        outbox.batches_bytes += size.command + size.replies;
        match path {
            RequestPath::Log => outbox.log_batches += 1,
            RequestPath::Query => outbox.query_batches += 1,
        }
        if is_full {
            self.fill_locked(outbox, number, Outcome::Refused(Reason::Memory));
            return None;
        }
        let (client, commands, since) = (Arc::clone(self), size.commands as u64, Instant::now());
        Some((path, PendingReply { client, number, commands, since, is_filled: false }))
    }

    /// Waits while too much of this connection is in progress; its client then waits for the socket. `false`: it is
    /// closed.
    pub fn wait_room(&self) -> bool {
        let has_room = |outbox: &Outbox| {
            outbox.slots.len() < RESP_BATCHES_MAX
                && outbox.batches_bytes < RESP_BATCHES_BYTES_MAX
                && outbox.out.len() - outbox.sent < RESP_UNSENT_BYTES_MAX
        };
        !self.wait_until(self.lock(), has_room).is_closed
    }

    /// Waits until all batches are answered.
    pub fn wait_answered(&self) {
        drop(self.wait_until(self.lock(), |outbox| outbox.slots.is_empty()));
    }

    /// Waits until no batch of this connection is in progress through the log.
    pub fn wait_logged(&self) {
        drop(self.wait_until(self.lock(), |outbox| outbox.log_batches == 0));
    }

    /// Waits until everything has been sent, until the deadline at most.
    pub fn wait_sent(&self, deadline: Instant) {
        let is_sent = |outbox: &Outbox| outbox.slots.is_empty() && outbox.out.is_empty();
        drop(self.wait_until(self.lock(), |outbox| is_sent(outbox) || Instant::now() >= deadline));
    }

    fn wait_until<'a>(
        &'a self,
        mut outbox: MutexGuard<'a, Outbox>,
        is_so: impl Fn(&Outbox) -> bool,
    ) -> MutexGuard<'a, Outbox> {
        while !outbox.is_closed && !is_so(&outbox) {
            outbox.is_awaited = true;
            outbox = wait_timeout(&self.changed, outbox, CHECK_EVERY);
        }
        outbox.is_awaited = false;
        outbox
    }

    fn fill(&self, number: u64, answer: Answered) {
        self.fill_locked(self.lock(), number, answer);
    }

    fn fill_locked(&self, mut outbox: MutexGuard<'_, Outbox>, number: u64, mut answer: Answered) {
        let place = (number - outbox.first) as usize;
        let Some(QueuedReply::Batch { path, size, .. }) = outbox.slots.get(place) else {
            unreachable!("place {number} of client {} is not a batch", self.id)
        };
        let (path, size) = (*path, *size);
        match path {
            RequestPath::Log => outbox.log_batches -= 1,
            RequestPath::Query => outbox.query_batches -= 1,
        }
        outbox.batches_bytes -= size.command + size.replies;
        outbox.slots_bytes -= size.command;
        // A read can be repeated, so without memory for its answer it is refused. A client that is also slow to read
        // its earlier replies is disconnected: further reads for it would be wasted.
        if path == RequestPath::Query && !outbox.has_room(bytes_of(&answer)) {
            answer = Outcome::Refused(Reason::Memory);
            if outbox.is_draining {
                self.close_locked(&mut outbox);
            }
        }
        outbox.slots_bytes += bytes_of(&answer);
        if let Some(QueuedReply::Batch { answered, .. }) = outbox.slots.get_mut(place) {
            *answered = Some(answer);
        }
        if place == 0 {
            self.write_ready(&mut outbox);
            match outbox.is_closed {
                true => outbox.out.clear(),
                false => self.send(&mut outbox),
            }
        }
        self.bound(&mut outbox);
        if outbox.is_awaited {
            self.changed.notify_all();
        }
    }

    /// Charges the queue and the buffer to the memory budget; disconnects a client that does not read its replies when
    /// there is no room.
    fn bound(&self, outbox: &mut Outbox) {
        let held = outbox.slots_bytes + outbox.out.capacity();
        if !outbox.memory.force(held) && !outbox.is_closed && outbox.out.len() > outbox.sent {
            log::debug!("client disconnected, no memory left for its unread replies client={}", self.id);
            self.close_locked(outbox);
            outbox.memory.force(outbox.slots_bytes);
        }
    }

    /// Moves the replies at the head of the queue that are ready into the buffer.
    fn write_ready(&self, outbox: &mut Outbox) {
        while let Some(QueuedReply::Written(_) | QueuedReply::Batch { answered: Some(_), .. }) = outbox.slots.front() {
            match outbox.slots.pop_front() {
                Some(QueuedReply::Written(bytes)) => {
                    outbox.slots_bytes -= bytes.len();
                    outbox.out.extend_from_slice(&bytes);
                }
                Some(QueuedReply::Batch { plan, answered: Some(answered), .. }) => {
                    let bytes = bytes_of(&answered);
                    outbox.slots_bytes -= bytes;
                    if bytes > BUFFER_BYTES_KEPT {
                        // Room was granted for these bytes, not for twice as many.
                        outbox.out.reserve_exact(bytes + bytes / 8);
                    }
                    let largest = plan.write(&answered, self.shared.handle.scan_cursors(), &mut outbox.out);
                    self.shared.note_size(largest);
                }
                other => unreachable!("{other:?} was ready"),
            }
            outbox.first += 1;
        }
    }

    /// Sends what is ready, unless `resp-drain` is sending; leaves to it what the socket does not accept.
    fn send(&self, outbox: &mut Outbox) {
        if outbox.is_draining || outbox.is_closed || outbox.out.is_empty() {
            return;
        }
        match self.send_now(outbox) {
            SendOutcome::All => {}
            SendOutcome::Some(_) => {
                outbox.is_draining = self.shared.drain(self.id);
                if !outbox.is_draining {
                    self.close_locked(outbox);
                }
            }
            SendOutcome::Closed => self.close_locked(outbox),
        }
    }

    fn send_now(&self, outbox: &mut Outbox) -> SendOutcome {
        let mut taken_in_all = 0;
        while outbox.sent < outbox.out.len() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::send(&self.stream, &outbox.out[outbox.sent..], flags) {
                Ok(taken) => {
                    outbox.sent += taken;
                    taken_in_all += taken;
                }
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => {
                    // What was sent is removed once it is the larger part, so that the rest is seldom moved.
                    if outbox.sent > outbox.out.len() / 2 {
                        outbox.out.drain(..outbox.sent);
                        outbox.out.shrink_to(BUFFER_BYTES_KEPT);
                        outbox.sent = 0;
                    }
                    return SendOutcome::Some(taken_in_all);
                }
                Err(_) => return SendOutcome::Closed,
            }
        }
        outbox.out.clear();
        outbox.out.shrink_to(BUFFER_BYTES_KEPT);
        outbox.sent = 0;
        SendOutcome::All
    }

    /// Continues sending, for `resp-drain`; returns the bytes that are left.
    pub(crate) fn drain(&self) -> (SendOutcome, usize) {
        let mut outbox = self.lock();
        if outbox.is_closed {
            return (SendOutcome::Closed, 0);
        }
        let sent = self.send_now(&mut outbox);
        self.bound(&mut outbox);
        match sent {
            SendOutcome::All => outbox.is_draining = false,
            SendOutcome::Some(_) => {}
            SendOutcome::Closed => self.close_locked(&mut outbox),
        }
        if outbox.is_awaited {
            self.changed.notify_all();
        }
        (sent, outbox.out.len() - outbox.sent)
    }

    /// Bytes that wait for the socket.
    pub fn unsent_bytes(&self) -> usize {
        let outbox = self.lock();
        outbox.out.len() - outbox.sent
    }

    /// Ends the connection at once: its thread's read returns.
    pub fn close(&self) {
        self.close_locked(&mut self.lock());
    }

    fn close_locked(&self, outbox: &mut Outbox) {
        outbox.is_closed = true;
        outbox.out = Vec::new();
        outbox.sent = 0;
        // Fails if the other side has closed already, which is fine.
        let _ = self.stream.shutdown(Shutdown::Both);
        self.changed.notify_all();
    }

    /// Lets the connection end: what its client has sent is still answered, and nothing more is read.
    pub fn stop_reading(&self) {
        // Fails if the other side has closed already.
        let _ = self.stream.shutdown(Shutdown::Read);
    }
}

impl Subscriber for Client {
    fn id(&self) -> u64 {
        self.id
    }

    fn take(&self, channel: &[u8], message: &[u8], pattern: Option<&[u8]>) {
        self.push(|out, proto| reply::message(out, proto, channel, message, pattern));
    }
}

/// The place of one batch's reply; receives its answer.
#[derive(Debug)]
pub struct PendingReply {
    client: Arc<Client>,
    number: u64,
    /// How many commands the batch holds, and since when it waits: the node counts both.
    commands: u64,
    since: Instant,
    is_filled: bool,
}

impl Waiter for PendingReply {
    fn answer(mut self: Box<Self>, answered: Answered) {
        self.is_filled = true;
        self.client.shared.handle.answered(&answered, self.commands, self.since.elapsed());
        self.client.fill(self.number, answered);
    }
}

impl Drop for PendingReply {
    fn drop(&mut self) {
        if !self.is_filled {
            self.client.close();
        }
    }
}
