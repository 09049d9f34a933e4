//! One client connection: bytes in and out, each phase under a deadline.
//!
//! A per-read timeout alone lets a client keep its connection forever with a byte a second (slowloris) or drain a
//! response a byte a second (slow read). So a head has one deadline in total; a body, a response and each chunk of a
//! stream must make progress (`deadlines.rs`); and every blocking call gets only what is left of the time.
//!
//! Invariants: C1 a request is answered before the next one is parsed (order). C2 what a client sent ahead is bounded
//! by the read buffer, the rest waits in its socket. C3 a body that was not read whole is never parsed as a request. C4
//! every buffer that grows with what a client sends, or does not read, is in the memory budget
//! (`node/shared/memory.rs`).
//! Not here: what requests mean (`http/router.rs`), which requests are allowed (`guard.rs`).

use super::body::{Arriving, Body, BodyError};
use super::deadlines::{Deadlines, TransferRate, is_timeout, write_all};
use super::head::{Framing, Head, RequestError};
use super::parse;
use super::response::{Origin, Persistence, Response};
use crate::limits;
use crate::node::shared::memory;
use crate::node::{ConnectionSlot, Reservation};
use crate::outcome::MEMORY_FULL;
use crate::outcome::codes::BUSY;
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use std::io::{self, IoSlice, Read};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes requested from the socket at once.
const READ_BYTES: usize = 4 << 10;
/// Responses to pipelined requests are gathered up to this many bytes before they are written.
const OUTPUT_BYTES_GATHERED: usize = 32 << 10;
/// Bytes that are read and dropped so that the client can read the response: as many as the largest body has.
const LINGER_BYTES_MAX: usize = limits::HTTP_LOAD_BYTES_MAX;
/// Bytes of it that are read at once.
const LINGER_READ_BYTES: usize = 16 << 10;
/// Time after which a client that still sends is given up if the node stops.
const LINGER_SLICE: Duration = Duration::from_millis(200);

/// The result of waiting for a request.
#[derive(Debug)]
pub enum NextRequest {
    Head(Box<Head>),
    /// The client has disconnected, or stayed idle for too long.
    Gone,
    /// What it sent is not a valid request, or too slow: answer, then close.
    Fault(RequestError),
}

/// What can be had without waiting.
#[derive(Debug)]
pub enum Arrived {
    /// What [`Conn::next_request`] would return.
    Next(NextRequest),
    Nothing,
    /// A part of a head.
    Part,
}

pub struct Conn {
    stream: Arc<TcpStream>,
    peer: SocketAddr,
    deadlines: Deadlines,
    input: Vec<u8>,
    output: Vec<u8>,
    /// The socket's present receive timeout: saves a system call per request.
    read_timeout: Option<Duration>,
    /// Until when the first request must have arrived; `None` after it.
    first_until: Option<Instant>,
    /// The present request is HTTP/1.1, so a stream is sent in chunks.
    is_chunked: bool,
    slot: ConnectionSlot,
    /// The reservation for both buffers.
    memory: Reservation,
}

impl Conn {
    /// Takes over an accepted socket. Without [`Conn::prepare_to_wait`] it is for what returns at once only.
    pub fn new(
        stream: Arc<TcpStream>,
        peer: SocketAddr,
        mut deadlines: Deadlines,
        slot: ConnectionSlot,
        memory: Reservation,
    ) -> Conn {
        if slot == ConnectionSlot::Reserved {
            deadlines = deadlines.at_most(limits::RESERVED_DEADLINE);
        }
        Conn {
            stream,
            peer,
            deadlines,
            input: Vec::new(),
            output: Vec::new(),
            read_timeout: None,
            first_until: Some(Instant::now() + deadlines.head),
            is_chunked: false,
            slot,
            memory,
        }
    }

    /// Sets what a socket needs whose thread waits for it: a send timeout, and that small pieces of a stream leave at
    /// once. Two system calls, which a connection that ends with its only response can do without.
    ///
    /// # Errors
    /// Those of the system.
    pub fn prepare_to_wait(&self) -> io::Result<()> {
        self.stream.set_nodelay(true)?;
        self.stream.set_write_timeout(Some(self.deadlines.write_slice()))
    }

    /// Its slot among all connections.
    pub fn slot(&self) -> ConnectionSlot {
        self.slot
    }

    /// Whether the memory budget has room for a response of so many bytes beside what the connection holds. They stay
    /// reserved until the response has been sent.
    pub fn has_room(&mut self, bytes: usize) -> bool {
        // The response is copied into the buffer.
        let held = self.input.capacity() + self.output.capacity() + 2 * bytes;
        if bytes <= memory::FIRST_BYTES {
            self.memory.force(held);
            return true;
        }
        self.memory.resize(held).is_ok()
    }

    /// Charges the present size of the buffers to the memory budget.
    fn account(&mut self) {
        self.memory.force(self.input.capacity() + self.output.capacity());
    }

    /// The socket, to wait until something arrives.
    pub fn socket(&self) -> &TcpStream {
        &self.stream
    }

    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The address of this machine that the client has connected to.
    pub fn local_ip(&self) -> Option<IpAddr> {
        Some(self.stream.local_addr().ok()?.ip().to_canonical())
    }

    /// The buffer for responses; they are sent by [`Conn::flush`] or before the next wait.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Waits for the next request head.
    pub fn next_request(&mut self) -> NextRequest {
        let mut deadline = self.first_until;
        let mut is_worth_parsing = !self.input.is_empty();
        loop {
            if is_worth_parsing && let Some(next) = self.parse() {
                return next;
            }
            if (!self.output.is_empty() || self.input.is_empty()) && self.flush().is_err() {
                return NextRequest::Gone;
            }
            let is_idle = self.input.is_empty() && self.first_until.is_none();
            if is_idle {
                self.shrink_buffers();
            }
            let until = if is_idle {
                None
            } else {
                Some(*deadline.get_or_insert_with(|| Instant::now() + self.deadlines.head))
            };
            let before = self.input.len();
            match self.fill(until) {
                Ok(0) => return NextRequest::Gone,
                Ok(_) => {
                    if let Some(fault) = self.reserve_input() {
                        return fault;
                    }
                }
                Err(error) if is_timeout(&error) && !self.input.is_empty() => {
                    return NextRequest::Fault(RequestError { status: 408, why: "the request head took too long" });
                }
                Err(_) => return NextRequest::Gone,
            }
            // Without a new line feed a head can only get too long, not complete.
            is_worth_parsing =
                self.input[before..].contains(&b'\n') || self.input.len() > parse::REQUEST_LINE_BYTES_MAX;
        }
    }

    /// The next request if it has arrived, without waiting for it or for the client to read responses.
    pub fn request_now(&mut self) -> Arrived {
        if !self.input.is_empty()
            && let Some(next) = self.parse()
        {
            return Arrived::Next(next);
        }
        let before = self.input.len();
        self.input.resize(before + READ_BYTES, 0);
        let flags = rustix::net::RecvFlags::DONTWAIT;
        let read = rustix::net::recv(&*self.stream, &mut self.input[before..], flags).map(|(read, _)| read);
        self.input.truncate(before + read.unwrap_or(0));
        match read {
            Ok(0) => return Arrived::Next(NextRequest::Gone),
            Ok(_) => {
                if let Some(next) = self.reserve_input().or_else(|| self.parse()) {
                    return Arrived::Next(next);
                }
            }
            Err(Errno::WOULDBLOCK | Errno::INTR) => {}
            Err(_) => return Arrived::Next(NextRequest::Gone),
        }
        if self.input.is_empty() { Arrived::Nothing } else { Arrived::Part }
    }

    /// Until when a connection of which nothing has arrived waits for its next request.
    pub fn idle_until(&self) -> Instant {
        self.first_until.unwrap_or_else(|| Instant::now() + self.deadlines.idle)
    }

    /// Gives back what an idle connection does not need.
    pub fn shrink_buffers(&mut self) {
        self.input.shrink_to(READ_BYTES);
        self.output.shrink_to(READ_BYTES);
    }

    /// The head at the start of the input, or what is wrong with it; `None` if more bytes are needed.
    fn parse(&mut self) -> Option<NextRequest> {
        match parse::head(&self.input) {
            Err(fault) => Some(NextRequest::Fault(fault)),
            Ok(Some((head, length))) => {
                self.input.drain(..length);
                (self.first_until, self.is_chunked) = (None, head.is_http11);
                Some(NextRequest::Head(Box::new(head)))
            }
            Ok(None) => None,
        }
    }

    /// Reserves memory for what was read; a fault if there is none.
    fn reserve_input(&mut self) -> Option<NextRequest> {
        let is_full = self.memory.resize(self.input.capacity() + self.output.capacity()).is_err();
        is_full.then_some(NextRequest::Fault(RequestError { status: BUSY.status, why: MEMORY_FULL }))
    }

    /// Reads the whole body of a request, at most `body_bytes_max`. For a declared length, all of its memory is
    /// reserved before reading, so that no request that has begun is refused in favour of a later one.
    pub fn body(&mut self, head: &Head, body_bytes_max: usize) -> Result<Body, BodyError> {
        let whole = if let Framing::Length(length) = head.framing { length } else { 0 };
        let mut arriving = self.begin(head, body_bytes_max, whole)?;
        self.read_body(&mut arriving, usize::MAX)?;
        Ok(arriving.into_body())
    }

    /// Begins to read a body of at most `body_bytes_max` that is not to be held as a whole.
    pub fn begin_body(&mut self, head: &Head, body_bytes_max: usize) -> Result<Arriving, BodyError> {
        self.begin(head, body_bytes_max, 0)
    }

    /// Reserves so many bytes, and only then sends `100 Continue` to a client that expects it.
    fn begin(&mut self, head: &Head, body_bytes_max: usize, room: usize) -> Result<Arriving, BodyError> {
        let mut arriving = Arriving::new(head.framing, body_bytes_max, self.memory.another())?;
        arriving.hold(room)?;
        if head.expects_continue && self.input.is_empty() {
            self.output.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        self.flush().map_err(|_| BodyError::Gone)?;
        Ok(arriving)
    }

    /// Continues to read a body until so many bytes of it are available, or all, as long as it makes progress.
    pub fn read_body(&mut self, arriving: &mut Arriving, until: usize) -> Result<(), BodyError> {
        let mut progress = TransferRate::new(self.deadlines.body);
        loop {
            let used = arriving.take(&self.input, until)?;
            self.input.drain(..used);
            if arriving.is_done() || arriving.bytes().len() >= until {
                return Ok(());
            }
            match self.fill(Some(progress.until())) {
                Ok(0) => return Err(BodyError::Gone),
                Ok(read) => progress.moved(read),
                Err(error) if is_timeout(&error) => {
                    return Err(BodyError::Fault(RequestError { status: 408, why: "the body arrives too slowly" }));
                }
                Err(_) => return Err(BodyError::Gone),
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

    /// Whether another request has arrived already, so that its response can be sent together with the last one.
    pub fn may_gather(&self) -> bool {
        !self.input.is_empty() && self.output.len() < OUTPUT_BYTES_GATHERED
    }

    /// Writes all responses, as long as the client reads them.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.output.is_empty() {
            return Ok(());
        }
        let result = write_all(&self.stream, &self.output, &mut TransferRate::new(self.deadlines.write));
        self.output.clear();
        self.output.shrink_to(OUTPUT_BYTES_GATHERED);
        self.account();
        result
    }

    /// Writes what the client reads at once; returns whether these were all responses.
    pub fn flush_now(&mut self) -> io::Result<bool> {
        if self.output.is_empty() {
            return Ok(true);
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match rustix::net::send(&*self.stream, &self.output, flags) {
            Ok(written) => drop(self.output.drain(..written)),
            Err(Errno::WOULDBLOCK | Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        self.account();
        Ok(self.output.is_empty())
    }

    /// Whether nothing is left to read of what has arrived.
    pub fn is_input_empty(&self) -> bool {
        self.input.is_empty()
    }

    /// Begins a response whose length is not known: sends its head, then frees the buffers.
    pub fn begin_stream(&mut self, head: Response, origin: Origin) -> io::Result<()> {
        let head = if self.is_chunked { head.with("Transfer-Encoding", "chunked") } else { head };
        head.write(&mut self.output, Persistence::Closed, false, Some(origin));
        self.flush()?;
        self.free_buffers();
        Ok(())
    }

    /// Sends a piece of a stream, as a chunk if the client speaks HTTP/1.1. An empty one, which would end the stream,
    /// is not sent.
    pub fn send_piece(&self, parts: &[&[u8]]) -> io::Result<()> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        match (length, self.is_chunked) {
            (0, _) => Ok(()),
            (_, false) => self.send(parts),
            (_, true) => self.send(&[&[format!("{length:x}\r\n").as_bytes()], parts, &[b"\r\n"]].concat()),
        }
    }

    /// Ends a stream that is complete. Without this, the client knows that it was cut short.
    pub fn end_stream(&self) -> io::Result<()> {
        if self.is_chunked { self.send(&[b"0\r\n\r\n"]) } else { Ok(()) }
    }

    /// Writes bytes of a stream in one system call, as long as the client reads them. Bytes that the socket does not
    /// accept at once are reserved in the memory budget; without room there, the call fails as without progress.
    pub fn send(&self, parts: &[&[u8]]) -> io::Result<()> {
        let mut slices = [IoSlice::new(&[]); 8];
        assert!(parts.len() <= slices.len(), "a stream piece has {} parts", parts.len());
        for (slice, part) in slices.iter_mut().zip(parts) {
            *slice = IoSlice::new(part);
        }
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let written = loop {
            match sendmsg(&*self.stream, &slices[..parts.len()], &mut SendAncillaryBuffer::default(), flags) {
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => break 0,
                other => break other?,
            }
        };
        if written == length {
            return Ok(());
        }
        // Rare: the client reads slowly.
        let mut progress = TransferRate::new(self.deadlines.write);
        let mut held = self.memory.another();
        held.resize(length).map_err(|_| io::ErrorKind::TimedOut)?;
        let mut skip = written;
        for part in parts {
            let rest = &part[skip.min(part.len())..];
            skip -= part.len() - rest.len();
            write_all(&self.stream, rest, &mut progress)?;
        }
        Ok(())
    }

    /// Whether the client has closed, or the connection broke: for streams that may be silent for long.
    pub fn is_gone(&self) -> bool {
        let flags = rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT;
        match rustix::net::recv(&*self.stream, &mut [0][..], flags) {
            Ok((read, _)) => read == 0,
            Err(e) => !matches!(e, rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR),
        }
    }

    /// Frees the buffers: a stream may last for days and needs neither.
    pub fn free_buffers(&mut self) {
        self.input = Vec::new();
        self.output = Vec::new();
        self.account();
    }

    /// Limits the system's send buffer to about so many bytes.
    pub fn bound_system_buffer(&self, bytes: usize) {
        // The stream also works without it.
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(&*self.stream, bytes);
    }

    /// Ends the connection so that the client can read the last response. Closing while it still sends would reset the
    /// connection, and the client would lose the response: most send the whole body before they read. So the end of
    /// output is signalled, and what the client still sends is dropped, within bounds.
    pub fn close(mut self, has_unread_body: bool, is_stopping: impl Fn() -> bool) {
        if self.flush().is_err() || (!has_unread_body && self.input.is_empty()) {
            return;
        }
        if self.stream.shutdown(Shutdown::Write).is_err() {
            return;
        }
        self.free_buffers();
        let (end, mut heard, mut dropped) = (Instant::now() + self.deadlines.linger, Instant::now(), 0);
        let mut waste = [0; LINGER_READ_BYTES];
        while dropped < LINGER_BYTES_MAX && !is_stopping() {
            let until = end.min(heard + self.deadlines.linger_silence);
            let left = until.saturating_duration_since(Instant::now()).min(LINGER_SLICE);
            if left.is_zero() || self.stream.set_read_timeout(Some(left)).is_err() {
                return;
            }
            match (&*self.stream).read(&mut waste) {
                Ok(0) => return,
                Ok(read) => (heard, dropped) = (Instant::now(), dropped + read),
                Err(error) if is_timeout(&error) || error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::http::protocol::conn::*;
    use crate::node::MemoryBudget;
    use crate::settings::Settings;
    use std::io::Write;
    use std::net::TcpListener;

    fn pair(memory: Reservation, slot: ConnectionSlot) -> (TcpStream, Conn) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, peer) = listener.accept().unwrap();
        let deadlines = Deadlines { write: Duration::from_secs(20), ..Deadlines::of(&Settings::default()) };
        let conn = Conn::new(Arc::new(stream), peer, deadlines, slot, memory);
        conn.prepare_to_wait().unwrap();
        (client, conn)
    }

    #[test]
    fn a_client_that_reads_nothing_is_dropped_when_memory_is_short() {
        let budget = MemoryBudget::new(16 << 20);
        let (client, conn) = pair(budget.reservation(), ConnectionSlot::Ordinary);
        let mut others = budget.reservation();
        others.resize(12 << 20).unwrap();
        // The socket accepts some megabytes, then nothing.
        let piece = vec![b'x'; 1 << 20];
        let refused = (0..64).find_map(|_| conn.send(&[&piece]).err()).unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::TimedOut);
        drop(others);
        assert_eq!(budget.used(), 0);
        // With memory reserved it waits for the client.
        std::thread::scope(|scope| {
            let reading = scope.spawn(|| {
                let mut rest = Vec::new();
                (&client).read_to_end(&mut rest).map(|_| rest.len())
            });
            conn.send(&[b"end"]).unwrap();
            conn.stream.shutdown(Shutdown::Write).unwrap();
            assert!(reading.join().unwrap().unwrap() > 1 << 16);
        });
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn every_byte_of_a_connection_is_in_the_budget() {
        let budget = MemoryBudget::new(16 << 20);
        let (mut client, mut conn) = pair(budget.reservation(), ConnectionSlot::Ordinary);
        let head = |more: &str| format!("POST /v1/note HTTP/1.1\r\nHost: localhost\r\n{more}\r\n\r\n");
        let mut ask = |conn: &mut Conn, more: &str, body: &[u8]| {
            client.write_all(head(more).as_bytes()).unwrap();
            client.write_all(body).unwrap();
            let NextRequest::Head(head) = conn.next_request() else { panic!("no head") };
            conn.body(&head, 8 << 20)
        };
        // The whole declared length is reserved from the start, before it has arrived.
        let body = ask(&mut conn, "Content-Length: 8000", &[b'x'; 8000]).unwrap();
        assert!((8000..24 << 10).contains(&budget.used()), "{}", budget.used());
        drop(body);
        let mut others = budget.reservation();
        others.resize((12 << 20) - (32 << 10)).unwrap();
        let full =
            |found: Result<Body, BodyError>| matches!(found, Err(BodyError::Fault(RequestError { status: 503, .. })));
        assert!(full(ask(&mut conn, "Content-Length: 8000000", b"")), "a large one is refused before it is sent");
        assert!(!full(ask(&mut conn, "Content-Length: 8000", &[b'x'; 8000])), "a small one is not");
        let chunk = format!("11000\r\n{}\r\n0\r\n\r\n", "x".repeat(0x11000));
        assert!(full(ask(&mut conn, "Transfer-Encoding: chunked", chunk.as_bytes())));
        drop(others);
        // A response stays reserved until it has been sent.
        assert!(conn.has_room(1 << 20) && budget.used() >= 2 << 20);
        assert!(!conn.has_room(100 << 20));
        conn.output().extend_from_slice(b"HTTP/1.1 200 OK\r\n\r\n");
        conn.flush().unwrap();
        assert!(budget.used() < 64 << 10);
        drop(conn);
        assert_eq!(budget.used(), 0);
    }
}
