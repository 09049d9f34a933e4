//! One client connection: bytes in and out, each phase under a total deadline.
//!
//! A per-read timeout alone lets a client live for ever on a byte a second (slowloris) or drain an answer a byte a
//! second (slow read). So a head, a body, an answer and each chunk of a stream has one deadline for the whole of it,
//! and every blocking call gets only what is left of it.
//!
//! Invariants: C1 a request is answered before the next one is parsed (order). C2 what a client sent ahead is bounded by
//! the read buffer, the rest waits in its socket. C3 a body that was not read whole is never parsed as a request.
//! Not here: what requests mean (`routes.rs`), who may ask (`guard.rs`).

use super::parse::{self, Chunked, Fault, Framing, Head};
use crate::limits;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Bytes asked of the socket at once.
const READ_BYTES: usize = 4 << 10;
/// Answers to pipelined requests are gathered up to here before they are written.
const OUTPUT_BYTES_GATHERED: usize = 32 << 10;
/// Bytes of an unread body that are dropped so that the client gets to see the answer.
const LINGER_BYTES_MAX: usize = 1 << 20;

/// How long each phase of a connection may take in all; shortened by tests.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// From the first byte of a head (or the start of the connection) to its end.
    pub head: Duration,
    /// A body.
    pub body: Duration,
    /// An answer, or one chunk of a stream.
    pub write: Duration,
    /// Between an answer and the next head.
    pub idle: Duration,
    /// After the last answer, for a client that still sends.
    pub linger: Duration,
}

impl Default for Deadlines {
    fn default() -> Deadlines {
        Deadlines {
            head: limits::HTTP_HEAD_DEADLINE,
            body: limits::HTTP_BODY_DEADLINE,
            write: limits::HTTP_WRITE_DEADLINE,
            idle: limits::HTTP_IDLE_DEADLINE,
            linger: Duration::from_millis(500),
        }
    }
}

/// What came of waiting for a request.
#[derive(Debug)]
pub enum Next {
    /// A request.
    Head(Box<Head>),
    /// The client went away, or stayed idle for too long.
    Gone,
    /// What it sent is not a request, or too slow: answer, then close.
    Fault(Fault),
}

/// Why a body did not arrive.
#[derive(Debug)]
pub enum Broken {
    /// The client went away.
    Gone,
    /// Answer, then close.
    Fault(Fault),
}

/// Bytes that clients have not taken yet, of many connections together, and how many they may be.
#[derive(Debug)]
pub struct Backlog {
    bytes: AtomicUsize,
    bytes_max: usize,
}

impl Backlog {
    /// Room for so many bytes.
    pub fn new(bytes_max: usize) -> Backlog {
        Backlog { bytes: AtomicUsize::new(0), bytes_max }
    }

    /// Room for these bytes until it is dropped, if there is any.
    fn hold(&self, bytes: usize) -> Option<Held<'_>> {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let held = Held { backlog: self, bytes };
        (before + bytes <= self.bytes_max).then_some(held)
    }
}

struct Held<'a> {
    backlog: &'a Backlog,
    bytes: usize,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.backlog.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// One client connection.
pub struct Conn {
    stream: Arc<TcpStream>,
    peer: SocketAddr,
    deadlines: Deadlines,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Receive timeout that the socket has now: saves a system call per request.
    read_timeout: Option<Duration>,
    is_first: bool,
}

impl Conn {
    /// Takes over an accepted socket.
    pub fn new(stream: Arc<TcpStream>, peer: SocketAddr, deadlines: Deadlines) -> io::Result<Conn> {
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(deadlines.write))?;
        Ok(Conn { stream, peer, deadlines, input: Vec::new(), output: Vec::new(), read_timeout: None, is_first: true })
    }

    /// The client's address.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Where answers are written; they leave with [`Conn::flush`] or before the next wait.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Waits for the next request head.
    pub fn next_request(&mut self) -> Next {
        let mut deadline = None;
        let mut is_worth_parsing = !self.input.is_empty();
        loop {
            if is_worth_parsing {
                match parse::head(&self.input) {
                    Err(fault) => return Next::Fault(fault),
                    Ok(Some((head, length))) => {
                        self.input.drain(..length);
                        self.is_first = false;
                        return Next::Head(Box::new(head));
                    }
                    Ok(None) => {}
                }
            }
            if (!self.output.is_empty() || self.input.is_empty()) && self.flush().is_err() {
                return Next::Gone;
            }
            let is_idle = self.input.is_empty() && !self.is_first;
            let until = if is_idle {
                None
            } else {
                Some(*deadline.get_or_insert_with(|| Instant::now() + self.deadlines.head))
            };
            let before = self.input.len();
            match self.fill(until) {
                Ok(0) => return Next::Gone,
                Ok(_) => {}
                Err(error) if is_timeout(&error) && !self.input.is_empty() => {
                    return Next::Fault(Fault { status: 408, why: "the request head took too long" });
                }
                Err(_) => return Next::Gone,
            }
            // Without a new line feed a head can only get too long, not complete.
            is_worth_parsing =
                self.input[before..].contains(&b'\n') || self.input.len() > parse::REQUEST_LINE_BYTES_MAX;
        }
    }

    /// Reads the whole body of a request, at most `body_bytes_max`.
    pub fn body(&mut self, head: &Head, body_bytes_max: usize) -> Result<Vec<u8>, Broken> {
        if let Framing::Length(length) = head.framing
            && length > body_bytes_max
        {
            return Err(Broken::Fault(Fault { status: 413, why: parse::too_large(body_bytes_max) }));
        }
        if head.expects_continue && self.input.is_empty() {
            self.output.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        self.flush().map_err(|_| Broken::Gone)?;
        let deadline = Instant::now() + self.deadlines.body;
        let mut body = Vec::new();
        let mut chunked = Chunked::default();
        loop {
            let (used, is_done) = match head.framing {
                Framing::Empty => (0, true),
                Framing::Length(length) => {
                    let used = self.input.len().min(length - body.len());
                    body.extend_from_slice(&self.input[..used]);
                    (used, body.len() == length)
                }
                Framing::Chunked => {
                    let used = chunked.feed(&self.input, &mut body, body_bytes_max).map_err(Broken::Fault)?;
                    (used, chunked.is_done())
                }
            };
            self.input.drain(..used);
            if is_done {
                return Ok(body);
            }
            match self.fill(Some(deadline)) {
                Ok(0) => return Err(Broken::Gone),
                Ok(_) => {}
                Err(error) if is_timeout(&error) => {
                    return Err(Broken::Fault(Fault { status: 408, why: "the body took too long" }));
                }
                Err(_) => return Err(Broken::Gone),
            }
        }
    }

    /// Reads more into the input; by the deadline, or within the idle time if there is none. `Ok(0)`: end of input.
    fn fill(&mut self, deadline: Option<Instant>) -> io::Result<usize> {
        let before = self.input.len();
        loop {
            let timeout = match deadline {
                None => self.deadlines.idle,
                Some(deadline) => match deadline.checked_duration_since(Instant::now()) {
                    Some(left) if !left.is_zero() => left.max(Duration::from_millis(1)),
                    _ => return Err(io::ErrorKind::TimedOut.into()),
                },
            };
            if self.read_timeout != Some(timeout) {
                self.stream.set_read_timeout(Some(timeout))?;
                self.read_timeout = Some(timeout);
            }
            self.input.resize(before + READ_BYTES, 0);
            let read = (&*self.stream).read(&mut self.input[before..]);
            self.input.truncate(before + read.as_ref().copied().unwrap_or(0));
            match read {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    }

    /// Whether another request has arrived already, so that its answer can leave together with the last one.
    pub fn may_gather(&self) -> bool {
        !self.input.is_empty() && self.output.len() < OUTPUT_BYTES_GATHERED
    }

    /// Writes all answers, by the write deadline.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.output.is_empty() {
            return Ok(());
        }
        let result = write_until(&self.stream, &self.output, Instant::now() + self.deadlines.write);
        self.output.clear();
        self.output.shrink_to(OUTPUT_BYTES_GATHERED);
        if result.is_ok() {
            self.stream.set_write_timeout(Some(self.deadlines.write)).ok()
        } else {
            None
        };
        result
    }

    /// Writes one piece of a stream in one system call, by the write deadline.
    pub fn send(&self, parts: &[&[u8]]) -> io::Result<()> {
        let deadline = Instant::now() + self.deadlines.write;
        let mut slices = [IoSlice::new(&[]); 8];
        assert!(parts.len() <= slices.len(), "a stream piece has {} parts", parts.len());
        for (slice, part) in slices.iter_mut().zip(parts) {
            *slice = IoSlice::new(part);
        }
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let written = loop {
            match (&*self.stream).write_vectored(&slices[..parts.len()]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        if written == length {
            return Ok(());
        }
        // Rare: the client reads slowly. What is left is copied once and gets what is left of the deadline.
        let rest = parts.concat().split_off(written);
        write_until(&self.stream, &rest, deadline)?;
        self.stream.set_write_timeout(Some(self.deadlines.write))
    }

    /// Writes a piece of a stream by the write deadline. What the socket does not take at once counts against `backlog`;
    /// without room there it is as if the deadline had come.
    pub fn send_within(&self, piece: &[u8], backlog: &Backlog) -> io::Result<()> {
        let deadline = Instant::now() + self.deadlines.write;
        let flags = rustix::net::SendFlags::DONTWAIT | rustix::net::SendFlags::NOSIGNAL;
        let taken = match rustix::net::send(&*self.stream, piece, flags) {
            Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => 0,
            other => other?,
        };
        if taken == piece.len() {
            return Ok(());
        }
        let _held = backlog.hold(piece.len()).ok_or(io::ErrorKind::TimedOut)?;
        write_until(&self.stream, &piece[taken..], deadline)?;
        self.stream.set_write_timeout(Some(self.deadlines.write))
    }

    /// Whether the client has closed, or the connection broke: for streams that have nothing to say for long.
    pub fn is_gone(&self) -> bool {
        let flags = rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT;
        match rustix::net::recv(&*self.stream, &mut [0][..], flags) {
            Ok((read, _)) => read == 0,
            Err(e) => !matches!(e, rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR),
        }
    }

    /// Gives back the buffers: a stream may last for days and needs neither.
    pub fn free_buffers(&mut self) {
        self.input = Vec::new();
        self.output = Vec::new();
    }

    /// Has the system keep no more than about so many bytes that the client has not taken.
    pub fn bound_system_buffer(&self, bytes: usize) {
        // Without it the stream works all the same.
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(&*self.stream, bytes);
    }

    /// Ends the connection so that the client gets to read the last answer: says that nothing more comes, then drops
    /// what it still sends, within bounds. Closing at once would reset the connection and lose the answer.
    pub fn close(mut self, has_unread_body: bool) {
        if self.flush().is_err() || !has_unread_body {
            return;
        }
        if self.stream.shutdown(Shutdown::Write).is_err() {
            return;
        }
        let deadline = Instant::now() + self.deadlines.linger;
        let mut dropped = 0;
        while dropped < LINGER_BYTES_MAX {
            self.input.clear();
            match self.fill(Some(deadline)) {
                Ok(0) | Err(_) => return,
                Ok(read) => dropped += read,
            }
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Writes everything by the deadline; the socket's send timeout bounds each call. Shortens it when a call comes back
/// early with less than asked, so whoever goes on using the socket sets it again.
fn write_until(stream: &TcpStream, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
    let mut is_first = true;
    while !bytes.is_empty() {
        if !is_first {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            stream.set_write_timeout(Some(left.max(Duration::from_millis(1))))?;
        }
        match (&*stream).write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        is_first = false;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn who_takes_nothing_is_dropped_when_others_hold_all_there_is() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, peer) = listener.accept().unwrap();
        let deadlines = Deadlines { write: Duration::from_secs(20), ..Deadlines::default() };
        let conn = Conn::new(Arc::new(stream), peer, deadlines).unwrap();
        let backlog = Backlog::new(100_000);
        let others = backlog.hold(99_999).unwrap();
        // The socket takes some megabytes, then nothing.
        let piece = vec![b'x'; 1 << 20];
        let refused = (0..64).find_map(|_| conn.send_within(&piece, &backlog).err()).unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::TimedOut);
        drop(others);
        assert_eq!(backlog.bytes.load(Ordering::Relaxed), 0);
        // With room it waits for the client.
        let backlog = Backlog::new(usize::MAX / 2);
        std::thread::scope(|scope| {
            let reading = scope.spawn(|| {
                let mut rest = Vec::new();
                (&client).read_to_end(&mut rest).map(|_| rest.len())
            });
            conn.send_within(b"end", &backlog).unwrap();
            conn.stream.shutdown(Shutdown::Write).unwrap();
            assert!(reading.join().unwrap().unwrap() > 1 << 16);
        });
        assert_eq!(backlog.bytes.load(Ordering::Relaxed), 0);
    }
}
