//! Serves the connections of one listener in one thread, as long as nothing has to be waited for.
//!
//! A redirect takes some microseconds. With a thread for each connection, changing threads for each request would take
//! as long again. So one thread waits for all connections, by `epoll`, and answers what has arrived. A connection for
//! which something would have to be awaited (the rest of a head, a client that does not read, a body that is dropped) is
//! given a thread, which continues with the same functions and deadlines as for connections to a node.
//!
//! Invariants: W1 this thread waits in `epoll` only: sockets are read and written without waiting. W2 a connection of
//! which nothing arrives ends when its thread would have given up ([`Conn::idle_until`]), at most [`SWEEP_EVERY`]
//! later. W3 no client keeps the thread busy: after [`REQUESTS_AT_ONCE`] requests in a row it is the others' turn, those
//! first that have waited for none yet, and new ones. W4 many clients that send ahead keep no thread busy but this one:
//! with one each, a thousand threads would share the processor with the one that accepts.
//! Not here: parsing and deadlines (`protocol/conn.rs`), what the answer is (`front_door.rs`).

use super::acceptor::{self, After, ListenerRole, Open};
use super::protocol::conn::{Arrived, Conn, NextRequest};
use super::protocol::head::Head;
use super::server::Server;
use crate::node::accept::{Arrival, BACKOFF, Reserve};
use crate::node::{Admission, Listener};
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// Time between two looks at which connections have waited for too long.
const SWEEP_EVERY: Duration = Duration::from_millis(200);
/// Events that are taken at once. More: the next time.
const EVENTS_MAX: usize = 64;
/// Requests of one connection that are answered at once, all of them sent ahead: about 50 us, so that 2,000 connections
/// that all have more than that delay a new client by a tenth of a second.
const REQUESTS_AT_ONCE: usize = 16;
/// Turns of connections with more requests than that, before the thread looks for other connections again.
const TURNS_AT_ONCE: usize = 8;
/// Clients that are accepted in a row while others have more requests: each may be behind many that send ahead, too.
const ACCEPTS_AT_ONCE: usize = 64;

/// A connection of which nothing has arrived.
struct IdleConnection {
    client: Client,
    until: Instant,
}

/// A connection and what it holds until it ends.
struct Client {
    conn: Conn,
    _admission: Admission,
    _open: Open,
}

/// What is left to do with a connection.
enum Left {
    /// Wait until something arrives.
    Idle,
    /// Answer more requests, when it is this connection's turn again.
    Turn,
    /// Answer this request, if any, then read or write on, with waiting.
    Thread(Option<Box<Head>>),
    /// End the connection, with waiting.
    Close {
        has_unread_body: bool,
    },
    Nothing,
}

struct EventLoop<'a> {
    server: &'a Arc<Server>,
    listener: &'a Listener,
    service: ListenerRole,
    epoll: OwnedFd,
    /// By number, which `epoll` reports; the sockets of the listener have the numbers from `usize::MAX` down.
    waiting: Vec<Option<IdleConnection>>,
    free: Vec<usize>,
    /// Connections with more requests, in the order of their turns; `epoll` does not watch them.
    ready: VecDeque<Client>,
    reserve: Reserve,
    /// No client is accepted until then.
    paused_until: Option<Instant>,
}

/// Serves until the node stops.
///
/// # Errors
/// When the system has no `epoll` for this: no connection was accepted then.
pub(crate) fn serve(listener: &Listener, server: &Arc<Server>, service: ListenerRole) -> io::Result<()> {
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    let mut event_loop = EventLoop {
        server,
        listener,
        service,
        epoll,
        waiting: Vec::new(),
        free: Vec::new(),
        ready: VecDeque::new(),
        reserve: Reserve::new(),
        paused_until: None,
    };
    listener.sockets().iter().try_for_each(|socket| socket.set_nonblocking(true))?;
    event_loop.watch_listener()?;
    event_loop.run();
    Ok(())
}

impl EventLoop<'_> {
    fn run(&mut self) {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        let mut sweep_at = Instant::now();
        loop {
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), self.timeout().as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => panic!("epoll_wait fails with {error}"),
            }
            for event in events.drain(..) {
                let number = event.data.u64() as usize;
                match self.socket_of(number) {
                    Some(socket) => self.accept(socket),
                    None => self.on_arrival(number),
                }
            }
            if self.server.host.is_stopping() {
                return self.finish();
            }
            self.take_turns(TURNS_AT_ONCE);
            let now = Instant::now();
            if self.paused_until.is_some_and(|until| until <= now) {
                self.resume();
            }
            if sweep_at <= now {
                self.sweep(now);
                sweep_at = now + SWEEP_EVERY;
            }
        }
    }

    /// How long to wait for the next event; `None`: as long as it takes.
    fn timeout(&self) -> Option<Timespec> {
        let longest = match (self.ready.is_empty(), self.paused_until) {
            (false, _) => Duration::ZERO,
            (true, Some(_)) => BACKOFF,
            (true, None) if self.waiting.len() == self.free.len() => return None,
            (true, None) => SWEEP_EVERY,
        };
        Timespec::try_from(longest).ok()
    }

    /// Answers one request that has arrived on each connection, and closes it: the node stops.
    fn finish(&mut self) {
        (0..self.waiting.len()).for_each(|number| self.on_arrival(number));
        self.take_turns(self.ready.len());
    }

    /// Lets the connections that have waited the longest continue.
    fn take_turns(&mut self, most: usize) {
        for _ in 0..most {
            let Some(client) = self.ready.pop_front() else { return };
            self.go_on(client, None);
        }
    }

    fn watch_listener(&self) -> io::Result<()> {
        for (at, socket) in self.listener.sockets().iter().enumerate() {
            self.watch(socket, usize::MAX - at)?;
        }
        Ok(())
    }

    fn watch(&self, socket: impl AsFd, number: usize) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, socket, EventData::new_u64(number as u64), EventFlags::IN)?)
    }

    /// Which socket of the listener has this number.
    fn socket_of(&self, number: usize) -> Option<usize> {
        Some(usize::MAX - number).filter(|at| *at < self.listener.sockets().len())
    }

    /// Accepts clients of a socket of the listener. `epoll` reports the next client, beside the requests of others:
    /// trying until there is none would cost a system call for each round.
    fn accept(&mut self, socket: usize) {
        let most = if self.ready.is_empty() { 1 } else { ACCEPTS_AT_ONCE };
        for _ in 0..most {
            if !self.accept_one(socket) {
                return;
            }
        }
    }

    /// Accepts a client and answers what it has sent already; returns whether there was one.
    fn accept_one(&mut self, socket: usize) -> bool {
        match self.listener.accept_waiting(socket) {
            // The end of the accept is an error, too.
            _ if self.server.host.is_stopping() => {}
            Ok(Some((stream, peer))) => {
                if let Some(client) = self.admit(stream, peer) {
                    self.go_on(client, None);
                }
                return true;
            }
            Ok(None) => {}
            Err(error) => self.on_accept_error(&error, socket),
        }
        false
    }

    fn admit(&self, stream: TcpStream, peer: SocketAddr) -> Option<Client> {
        let server = self.server;
        server.counts.accepted.fetch_add(1, Relaxed);
        let stream = Arc::new(stream);
        match server.host.admit(None) {
            Ok(admission) => {
                let open = Open::new(Arc::clone(server));
                let memory = server.host.memory().reservation();
                let conn = Conn::new(stream, peer, server.deadlines, admission.slot, memory);
                Some(Client { conn, _admission: admission, _open: open })
            }
            Err(why) => {
                acceptor::refuse_connection(server, &stream, &why);
                None
            }
        }
    }

    /// Without descriptors the listener is not watched for a moment: clients that were accepted go on.
    fn on_accept_error(&mut self, error: &io::Error, socket: usize) {
        let (server, listener) = (self.server, self.listener);
        let again = || listener.accept_waiting(socket).ok().flatten();
        let must_pause = self.reserve.on_error(error, "connections", again, |arrival| match arrival {
            Arrival::NoRoom(stream) => acceptor::refuse_connection(server, &stream, "too many open files"),
            _ => drop(server.counts.accept_errors.fetch_add(1, Relaxed)),
        });
        if must_pause && self.paused_until.is_none() {
            for socket in self.listener.sockets() {
                let _ = epoll::delete(&self.epoll, socket);
            }
            self.paused_until = Some(Instant::now() + BACKOFF);
        }
    }

    fn resume(&mut self) {
        self.reserve.renew();
        // A failure is tried again.
        self.paused_until = self.watch_listener().err().map(|_| Instant::now() + BACKOFF);
    }

    /// Something has arrived on a connection that waits.
    fn on_arrival(&mut self, number: usize) {
        if let Some(waiting) = self.waiting.get_mut(number).and_then(Option::take) {
            self.go_on(waiting.client, Some(number));
        }
    }

    /// Answers what a connection has sent. `number`: under which it waited.
    fn go_on(&mut self, mut client: Client, number: Option<usize>) {
        let left = self.answer_all(&mut client.conn);
        if let (Left::Idle, Some(number)) = (&left, number) {
            return self.keep(number, client);
        }
        if let Some(number) = number {
            self.free.push(number);
            // One that ends is forgotten when its socket is closed.
            if !matches!(left, Left::Nothing) {
                let _ = epoll::delete(&self.epoll, client.conn.socket());
            }
        }
        match left {
            Left::Nothing => {}
            Left::Idle => self.wait_for(client),
            Left::Turn => self.ready.push_back(client),
            left => self.give_thread(client, left),
        }
    }

    /// Answers the requests that have arrived, at most [`REQUESTS_AT_ONCE`], without waiting.
    fn answer_all(&self, conn: &mut Conn) -> Left {
        for _ in 0..REQUESTS_AT_ONCE {
            let next = match conn.request_now() {
                Arrived::Next(NextRequest::Head(head)) if (self.service.must_wait)(self.server, &head) => {
                    return Left::Thread(Some(head));
                }
                Arrived::Next(next) => next,
                Arrived::Nothing => return Left::Idle,
                Arrived::Part => return Left::Thread(None),
            };
            let answer = |conn: &mut Conn, head: Box<Head>| (self.service.answer)(self.server, conn, &head);
            let after = acceptor::respond(self.server, conn, next, false, answer);
            match after {
                After::Gone => return Left::Nothing,
                After::Kept if conn.may_gather() => {}
                After::Kept => match conn.flush_now() {
                    Ok(true) if conn.is_input_empty() => return Left::Idle,
                    Ok(true) => {}
                    Ok(false) => return Left::Thread(None),
                    Err(_) => return Left::Nothing,
                },
                After::Closed { has_unread_body } => match conn.flush_now() {
                    Ok(true) if !has_unread_body && conn.is_input_empty() => return Left::Nothing,
                    Ok(_) => return Left::Close { has_unread_body },
                    Err(_) => return Left::Nothing,
                },
            }
        }
        match conn.flush_now() {
            Ok(true) => Left::Turn,
            Ok(false) => Left::Thread(None),
            Err(_) => Left::Nothing,
        }
    }

    fn wait_for(&mut self, client: Client) {
        let number = self.free.pop().unwrap_or_else(|| {
            self.waiting.push(None);
            self.waiting.len() - 1
        });
        if self.watch(client.conn.socket(), number).is_err() {
            // The system watches no more of them.
            self.free.push(number);
            return self.give_thread(client, Left::Thread(None));
        }
        self.keep(number, client);
    }

    fn keep(&mut self, number: usize, mut client: Client) {
        client.conn.shrink_buffers();
        let until = client.conn.idle_until();
        self.waiting[number] = Some(IdleConnection { client, until });
    }

    fn give_thread(&self, client: Client, left: Left) {
        let (server, service) = (Arc::clone(self.server), self.service);
        let job = move || {
            let Client { conn, _admission, _open } = client;
            if conn.prepare_to_wait().is_err() {
                return;
            }
            match left {
                Left::Close { has_unread_body } => conn.close(has_unread_body, || server.host.is_stopping()),
                Left::Thread(first) => {
                    let answer = |conn: &mut Conn, head: Box<Head>| service.answer_in_turn(&server, conn, &head);
                    acceptor::serve_requests_after(&server, conn, first, false, answer);
                }
                Left::Idle | Left::Turn | Left::Nothing => {}
            }
        };
        if self.server.host.run_connection(self.service.thread, Box::new(job)).is_err() {
            self.server.counts.turned_away.fetch_add(1, Relaxed);
        }
    }

    /// Ends connections that have waited for too long.
    fn sweep(&mut self, now: Instant) {
        for (number, waiting) in self.waiting.iter_mut().enumerate() {
            if waiting.as_ref().is_some_and(|waiting| waiting.until <= now) {
                *waiting = None;
                self.free.push(number);
            }
        }
    }
}
