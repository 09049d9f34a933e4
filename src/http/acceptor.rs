//! Accepts connections, gives each a thread, and serves its requests with the caller's function.
//!
//! Limits are checked before a thread exists, and a client that exceeds them gets one response instead of
//! being left to time out.
//! Not here: how a request is answered (`router.rs`, `front_door.rs`), accepting (`node/accept.rs`), starting threads
//! (`node/spawn.rs`).

use super::protocol::conn::{Conn, NextRequest};
use super::protocol::error::ApiError;
use super::protocol::head::{Head, Method};
use super::protocol::response::{Persistence, Response};
use super::server::Server;
use crate::lock::lock;
use crate::node::accept::{self, Arrival};
use crate::node::{ConnectionSlot, Listener};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Time that the acceptor spends on refusing one client for lack of room.
const REFUSAL_DEADLINE: Duration = Duration::from_millis(50);

/// Name of the threads of connections to the node itself: the reserved slots are for these, not for the front door's.
pub(crate) const NODE_CONNECTION: &str = "http-conn";

/// What a listener is for.
#[derive(Clone, Copy)]
pub(crate) struct ListenerRole {
    /// Name of the threads of connections.
    pub thread: &'static str,
    /// Whether the answer to a request may have to be waited for.
    pub must_wait: fn(&Server, &Head) -> bool,
    /// The response to a request, and whether its body was read; `None`: the connection is over.
    pub answer: fn(&Server, &mut Conn, &Head) -> Option<(Response, bool)>,
}

impl ListenerRole {
    /// As `answer`, in a thread of its own: one such thread at a time, as long as nothing has to be waited for. A thousand
    /// threads that can all run would leave little of the processor to the one that accepts.
    pub(crate) fn answer_in_turn(self, server: &Server, conn: &mut Conn, head: &Head) -> Option<(Response, bool)> {
        let _turn = (!(self.must_wait)(server, head)).then(|| lock(&server.turn));
        (self.answer)(server, conn, head)
    }
}

/// Accepts until the node stops; each connection gets a thread that runs `run`.
pub(crate) fn accept_all(listener: &Listener, server: &Arc<Server>, name: &'static str, run: fn(&Arc<Server>, Conn)) {
    let is_stopping = || server.host.is_stopping();
    accept::accept_all(listener, "connections", is_stopping, |arrival| match arrival {
        Arrival::Client(stream, peer) => accepted(server, stream, peer, name, run),
        Arrival::NoRoom(stream) => refuse_connection(server, &stream, "too many open files"),
        Arrival::Failed => {
            server.counts.accept_errors.fetch_add(1, Relaxed);
        }
    });
}

/// Serves a client that was accepted, in a thread that runs `run`.
pub(crate) fn accepted(
    server: &Arc<Server>,
    stream: TcpStream,
    peer: SocketAddr,
    name: &'static str,
    run: fn(&Arc<Server>, Conn),
) {
    server.counts.accepted.fetch_add(1, Relaxed);
    start(server, stream, peer, name, run);
}

fn start(server: &Arc<Server>, stream: TcpStream, peer: SocketAddr, name: &'static str, run: fn(&Arc<Server>, Conn)) {
    let stream = Arc::new(stream);
    let job = {
        let (server, stream) = (server.clone(), stream.clone());
        move |slot| {
            let _open = Open::new(Arc::clone(&server));
            let memory = server.host.memory().reservation();
            let conn = Conn::new(stream, peer, server.deadlines, slot, memory);
            if conn.prepare_to_wait().is_ok() {
                run(&server, conn);
            }
        }
    };
    let client = (name == NODE_CONNECTION).then(|| (peer.ip(), stream.clone()));
    if let Err(why) = server.host.spawn_connection(name, client, Box::new(job)) {
        refuse_connection(server, &stream, &why);
    }
}

/// Serves the requests of a connection one after another, from its first byte to its last. `answer` returns the
/// response and whether the request's body was read; `None`: the connection is over. `has_origin`: responses name the
/// node.
pub(crate) fn serve_requests(
    server: &Server,
    conn: Conn,
    has_origin: bool,
    answer: impl FnMut(&mut Conn, Box<Head>) -> Option<(Response, bool)>,
) {
    serve_requests_after(server, conn, None, has_origin, answer);
}

/// As [`serve_requests`]; the head of the first request was read already.
pub(crate) fn serve_requests_after(
    server: &Server,
    mut conn: Conn,
    mut first: Option<Box<Head>>,
    has_origin: bool,
    mut answer: impl FnMut(&mut Conn, Box<Head>) -> Option<(Response, bool)>,
) {
    loop {
        let next = first.take().map_or_else(|| conn.next_request(), NextRequest::Head);
        match respond(server, &mut conn, next, has_origin, &mut answer) {
            After::Kept if conn.may_gather() || conn.flush().is_ok() => {}
            After::Kept | After::Gone => return,
            After::Closed { has_unread_body } => return conn.close(has_unread_body, || server.host.is_stopping()),
        }
    }
}

/// What becomes of a connection after a response, which is in its output.
pub(crate) enum After {
    Kept,
    Closed {
        has_unread_body: bool,
    },
    /// There is no response, because the connection is over.
    Gone,
}

/// Puts the response to what a connection has received into its output.
pub(crate) fn respond(
    server: &Server,
    conn: &mut Conn,
    next: NextRequest,
    has_origin: bool,
    mut answer: impl FnMut(&mut Conn, Box<Head>) -> Option<(Response, bool)>,
) -> After {
    let origin = || has_origin.then(|| server.origin());
    let head = match next {
        NextRequest::Head(head) => head,
        NextRequest::Gone => return After::Gone,
        NextRequest::Fault(fault) => {
            server.counts.refused_requests.fetch_add(1, Relaxed);
            ApiError::from(fault).into_response(None).write(conn.output(), Persistence::Closed, true, origin());
            return After::Closed { has_unread_body: true };
        }
    };
    server.counts.requests.fetch_add(1, Relaxed);
    let (wished, has_body) = (persistence(&head), head.method != Some(Method::Head));
    let Some((response, is_body_read)) = answer(conn, head) else { return After::Gone };
    let may_keep = is_body_read && conn.slot() == ConnectionSlot::Ordinary && !server.host.is_stopping();
    let persistence = if may_keep { wished } else { Persistence::Closed };
    response.write(conn.output(), persistence, has_body, origin());
    match persistence {
        Persistence::Closed => After::Closed { has_unread_body: !is_body_read },
        _ => After::Kept,
    }
}

/// What the client wants to become of the connection.
fn persistence(head: &Head) -> Persistence {
    match (head.keep_alive, head.is_http11) {
        (false, _) => Persistence::Closed,
        (true, true) => Persistence::Kept,
        (true, false) => Persistence::KeptOnRequest,
    }
}

/// Refuses a client for lack of room, without letting a slow one delay the next.
pub(crate) fn refuse_connection(server: &Server, stream: &TcpStream, why: &str) {
    server.counts.turned_away.fetch_add(1, Relaxed);
    let mut answer = Vec::new();
    ApiError::refused(503, why.to_string()).into_response(None).write(&mut answer, Persistence::Closed, true, None);
    let said =
        stream.set_write_timeout(Some(REFUSAL_DEADLINE)).and_then(|()| io::Write::write_all(&mut &*stream, &answer));
    if said.is_ok() {
        // What the client has sent is read, so that closing does not reset the connection under the answer.
        let _ = stream.set_nonblocking(true).and_then(|()| io::Read::read(&mut &*stream, &mut [0; 1024]));
        let _ = stream.shutdown(std::net::Shutdown::Write);
    }
}

/// Counts a connection as open while it lives.
pub(crate) struct Open(Arc<Server>);

impl Open {
    pub(crate) fn new(server: Arc<Server>) -> Open {
        server.counts.open.fetch_add(1, Relaxed);
        Open(server)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.counts.open.fetch_sub(1, Relaxed);
    }
}
