//! Bytes that have arrived on one connection and are not handled yet, and waiting for more.
//!
//! Invariant: C2 a request that has begun must be complete by a deadline, regardless of the rate of its bytes; between
//! requests a connection may stay idle without limit.

use super::outbox::Client;
use crate::limits::{RESP_AUTH_DEADLINE, RESP_COMMAND_DEADLINE, RESP_FIRST_DEADLINE};
use crate::node::Reservation;
use rustix::net::RecvFlags;
use std::io::{self, Read};
use std::time::{Duration, Instant};

/// Sizes of the input buffer: that of an idle connection, and the largest that a connection keeps between requests.
const INPUT_BYTES: (usize, usize) = (4 << 10, 64 << 10);

/// The result of waiting for more bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filled {
    More,
    /// The connection has ended, or a deadline has passed.
    Ended,
    /// The memory budget has no room for a longer request.
    Full,
}

/// Bytes that have arrived and are not handled yet.
pub(crate) struct Input {
    buffer: Vec<u8>,
    from: usize,
    to: usize,
    /// The last read filled the buffer: there may be more at once.
    was_full: bool,
    /// When the request that is arriving began.
    begun: Option<Instant>,
    timeout: Option<Duration>,
    /// When a client that has not sent the password, or has not sent any request yet, is disconnected.
    admission: Option<Instant>,
    memory: Reservation,
}

impl Input {
    pub(crate) fn new(memory: Reservation) -> Input {
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

    /// Sets the admission deadline: a client that has not authenticated, or has sent no request, is disconnected then.
    /// Other input does not extend it.
    pub(crate) fn bound(&mut self, is_known: bool, has_asked: bool) {
        self.admission = match (is_known, has_asked) {
            (true, true) => None,
            (false, _) => Some(self.admission.unwrap_or_else(|| Instant::now() + RESP_AUTH_DEADLINE)),
            (true, false) => Some(self.admission.unwrap_or_else(|| Instant::now() + RESP_FIRST_DEADLINE)),
        };
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buffer[self.from..self.to]
    }

    pub(crate) fn consume(&mut self, length: usize) {
        self.from += length;
    }

    /// Waits for more bytes. `is_anew`: the request in the buffer has just begun.
    pub(crate) fn fill(&mut self, client: &Client, is_anew: bool) -> Filled {
        if !self.make_room() {
            return Filled::Full;
        }
        if is_anew || self.from == self.to {
            self.begun = None;
        }
        loop {
            let whole = match self.from == self.to {
                true => None,
                false => Some(*self.begun.get_or_insert_with(Instant::now) + RESP_COMMAND_DEADLINE),
            };
            let until = whole.into_iter().chain(self.admission).min();
            match self.read(client, until) {
                Ok(0) => return Filled::Ended,
                Ok(read) => {
                    self.to += read;
                    client.add_received(read);
                    self.was_full = self.to == self.buffer.len();
                    return Filled::More;
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut if until.is_none() => {
                        // A timeout remains from an earlier request; an idle connection has none.
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

    /// The buffer ends within a request: makes room for more of it before the next read. Returns whether the memory
    /// budget has that room.
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
        // Rounded up to whole seconds, so that the pieces of one request do not set the timeout again and again.
        let left = Duration::from_secs(left.as_secs() + 1);
        if self.timeout != Some(left) {
            client.stream.set_read_timeout(Some(left))?;
            self.timeout = Some(left);
        }
        (&client.stream).read(into)
    }
}
