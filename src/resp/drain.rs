//! The `resp-drain` thread: sends replies to clients that read slowly, so that no other thread has to wait for them.
//!
//! A client must read its pending output at a minimum rate: each piece (all of it, or the first `PIECE_BYTES` if it is
//! more) has one deadline in total. A byte now and then does not keep a connection alive. A client that is still
//! sending a pipeline need not read meanwhile: its replies are kept, within the limits of a connection and the memory
//! budget.
//! Not here: sending to clients that read everything at once (`outbox.rs`).

use super::clients::Clients;
use super::outbox::{Client, SendOutcome};
use crate::limits::{RESP_SENDING_BYTES_MIN, RESP_WRITE_DEADLINE};
use crate::warn_seldom;
use crossbeam_channel::Receiver;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::sync::{Arc, Weak};
use std::time::Instant;

/// Longest single poll: a client that is added meanwhile waits no longer than this.
const POLL_NS: i64 = 5_000_000;
/// What a client must read within the deadline, if so much is pending.
const PIECE_BYTES: usize = 1 << 20;

struct Slow {
    client: Arc<Client>,
    /// Bytes of the piece that it has not read yet.
    left: usize,
    deadline: Instant,
    /// Bytes of requests that had been read from it when the deadline was set.
    received: usize,
}

/// Body of the thread; returns when the server stops.
pub fn run(clients: &Weak<Clients>, inbox: &Receiver<u64>) {
    let mut slow: Vec<Slow> = Vec::new();
    loop {
        if slow.is_empty() {
            match inbox.recv() {
                Ok(id) => add(&mut slow, clients, id),
                Err(_) => return,
            }
        }
        while let Ok(id) = inbox.try_recv() {
            add(&mut slow, clients, id);
        }
        let is_writable = wait(&slow);
        let now = Instant::now();
        let mut looks = is_writable.into_iter();
        slow.retain_mut(|slow| go_on(slow, looks.next().unwrap_or(true), now));
    }
}

fn add(slow: &mut Vec<Slow>, clients: &Weak<Clients>, id: u64) {
    let Some(client) = clients.upgrade().and_then(|clients| clients.get(id)) else { return };
    let left = client.unsent_bytes().min(PIECE_BYTES);
    let (deadline, received) = (Instant::now() + RESP_WRITE_DEADLINE, client.received());
    slow.push(Slow { client, left, deadline, received });
}

/// Which of these clients' sockets are writable.
fn wait(slow: &[Slow]) -> Vec<bool> {
    let mut all: Vec<PollFd> = slow.iter().map(|slow| PollFd::new(&slow.client.stream, PollFlags::OUT)).collect();
    // An interrupted poll reports no socket as writable; the caller polls again.
    let _ = poll(&mut all, Some(&Timespec { tv_sec: 0, tv_nsec: POLL_NS }));
    all.iter().map(|one| !one.revents().is_empty()).collect()
}

/// Whether there is still something to send.
fn go_on(slow: &mut Slow, is_writable: bool, now: Instant) -> bool {
    if is_writable {
        match slow.client.drain() {
            (SendOutcome::Some(taken), left) if taken >= slow.left => {
                slow.left = left.min(PIECE_BYTES);
                slow.extend(now);
            }
            (SendOutcome::Some(taken), _) => slow.left -= taken,
            (SendOutcome::All | SendOutcome::Closed, _) => return false,
        }
    }
    if now < slow.deadline {
        return true;
    }
    if slow.client.received() >= slow.received + RESP_SENDING_BYTES_MIN {
        slow.extend(now);
        return true;
    }
    warn_seldom!(
        "Redis client disconnected: {} bytes of replies wait, and it has read none for {} s client={}",
        slow.client.unsent_bytes(),
        RESP_WRITE_DEADLINE.as_secs(),
        slow.client.id
    );
    slow.client.close();
    false
}

impl Slow {
    fn extend(&mut self, now: Instant) {
        (self.deadline, self.received) = (now + RESP_WRITE_DEADLINE, self.client.received());
    }
}
