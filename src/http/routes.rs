//! From a request head to the one who answers it: names, methods, bodies, and what is checked before anyone is asked.
//!
//! The order of the checks is the order of trust: known method, our `Host`, a known path, an allowed method, a caller who
//! may change things, known parameters, a body within bounds.
//! Not here: which paths there are (`paths.rs`), the answers (`http/api/mod.rs`, `http/pages/monitor_stream.rs`, `http/pages/static_files.rs`), bytes (`http/protocol/conn.rs`,
//! `http/protocol/parse.rs`).

use super::acceptor::{self, NODE_CONNECTION};
use super::api::{self, job_output};
use super::chat;
use super::db::files;
use super::host::HostSession;
use super::pages::{chat_page, monitor_stream, static_files};
use super::paths::{self, Path, Route};
use super::protocol::conn::{Broken, Conn, Deadlines, Next};
use super::protocol::guard;
use super::protocol::params::Params;
use super::protocol::parse::{Framing, Head, Method};
use super::protocol::reply::{Origin, Reply};
use super::server::Server;
use crate::limits;
use crate::node::shared::memory;
use crate::node::{Handle, Slot};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Body of the `http` thread: serves until the node stops; the stopping node wakes the accept by connecting.
pub fn serve(listener: TcpListener, handle: Handle) {
    serve_host(&listener, &Server::new(Arc::new(handle), Deadlines::default()));
}

/// As [`serve`], for any host: tests give a fake one and short deadlines.
pub fn serve_host(listener: &TcpListener, server: &Arc<Server>) {
    acceptor::accept_all(listener, server, NODE_CONNECTION, serve_connection);
}

/// One client's connection to a node, from its first byte to its last.
fn serve_connection(server: &Arc<Server>, mut conn: Conn) {
    // Load is who is served: it counts from the first request, and a page's second connection (`/v1/hold`) never does.
    let mut session = None;
    loop {
        let head = match conn.next_request() {
            Next::Head(head) => head,
            Next::Gone => return,
            Next::Fault(fault) => {
                server.counts.refused_requests.fetch_add(1, Relaxed);
                Reply::from(fault).write(conn.output(), false, true, Some(server.origin()));
                return conn.close(true);
            }
        };
        server.counts.requests.fetch_add(1, Relaxed);
        if session.is_none() && head.path() != "/v1/hold" {
            session = Some(server.host.open_session("api", conn.peer()));
        }
        let (reply, is_body_read) = match answer(server, &mut conn, &head, session.as_deref()) {
            Answer::Reply(reply, is_body_read) => (reply, is_body_read),
            Answer::Output(wanted) => match job_output::run(server, &mut conn, wanted) {
                // It came to nothing before the first byte: an ordinary answer.
                Some(reply) => (reply.into(), true),
                None => return,
            },
            Answer::ChatStream(wanted) => match chat::stream::run(server, &mut conn, wanted) {
                Some(reply) => (reply.into(), true),
                None => return,
            },
            Answer::Backup(wanted) => match files::backup(server, &mut conn, &wanted) {
                Some(reply) => (reply.into(), true),
                None => return,
            },
            Answer::Hold => return monitor_stream::hold(server, conn),
            Answer::Stream(shape) => {
                drop(head);
                return monitor_stream::run(server, conn, shape);
            }
            Answer::Gone => return,
        };
        let reply = in_budget(&mut conn, &head, reply);
        let is_kept = conn.slot() == Slot::Ordinary && !server.host.is_stopping();
        let keep_alive = head.keep_alive && is_body_read && is_kept;
        let here = server.origin();
        let origin = Origin { index: reply.index.unwrap_or(here.index), ..here };
        reply.reply.write(conn.output(), keep_alive, head.method != Some(Method::Head), Some(origin));
        if !keep_alive {
            return conn.close(!is_body_read);
        }
        if !conn.may_gather() && conn.flush().is_err() {
            return;
        }
    }
}

/// The reply, or another one if the memory budget has no room for it. What was only read may be asked for again.
fn in_budget(conn: &mut Conn, head: &Head, reply: Indexed) -> Indexed {
    let found = paths::find(head.path()).zip(head.method);
    let operation = found.and_then(|((path, _), method)| path.operation(method));
    if conn.has_room(reply.reply.body.len()) || operation.is_none_or(|operation| operation.is_vital) {
        return reply;
    }
    match operation.is_some_and(|operation| operation.is_read) {
        true => Reply::refused(503, memory::FULL).into(),
        false => Reply::error(504, memory::FULL, "unknown", None).into(),
    }
}

/// A reply with the log index that it speaks of, if it is not simply what this node has applied.
pub(crate) struct Indexed {
    pub reply: Reply,
    pub index: Option<u64>,
}

impl From<Reply> for Indexed {
    fn from(reply: Reply) -> Indexed {
        Indexed { reply, index: None }
    }
}

enum Answer {
    /// The reply, and whether the request's body (if any) was read whole.
    Reply(Indexed, bool),
    Stream(monitor_stream::Shape),
    Output(job_output::Wanted),
    ChatStream(chat::stream::Wanted),
    Backup(files::Wanted),
    Hold,
    Gone,
}

fn answer(server: &Server, conn: &mut Conn, head: &Head, session: Option<&dyn HostSession>) -> Answer {
    let has_body = head.framing != Framing::Empty;
    let refuse = |reply: Reply| Answer::Reply(reply.into(), !has_body);
    let Some(method) = head.method else {
        return refuse(Reply::refused(501, "unknown method"));
    };
    if let Err(refusal) = guard::check_host(&*server.host, head) {
        return refuse(refusal);
    }
    let Some((path, route)) = paths::find(head.path()) else {
        return refuse(Reply::refused(404, "nothing is served at this path"));
    };
    if let (Route::Chat(_), Method::Options) = (route, method) {
        return refuse(preflight(server, head, path));
    }
    let Some(operation) = path.operation(method) else {
        if let (Route::Lock(_), Method::Post) = (route, method) {
            return refuse(Reply::refused(404, "POST to /v1/lock/{name}/acquire, /renew or /release"));
        }
        return refuse(Reply::refused(405, "this path does not take this method").with("Allow", path.allow()));
    };
    let is_change = !matches!(method, Method::Get | Method::Head);
    let media = operation.media.filter(|_| method != Method::Delete || has_body);
    if let Err(refusal) = guard::check(&*server.host, head, operation.audience, media) {
        return refuse(refusal);
    }
    if conn.slot() == Slot::Reserved && !operation.is_vital {
        return refuse(Reply::refused(503, "all connections are in use (setting connections_max)"));
    }
    // Pages of the other nodes may read these.
    let is_shared = operation.audience.is_shared();
    if operation.refuses_unknown()
        && let Err(refusal) = Params::check(head, operation.params())
    {
        return refuse(if is_shared { guard::with_cors(&*server.host, head, refusal) } else { refusal });
    }
    match route {
        Route::Hold if method == Method::Get => return Answer::Hold,
        Route::Hold => return refuse(Reply::empty(200)),
        Route::Monitor | Route::Stream => {
            let session = session.expect("every request but /v1/hold opens a session");
            let shape = match monitor_stream::Shape::of(server, head, route == Route::Stream, session) {
                Ok(shape) => shape,
                Err(refusal) => return refuse(refusal),
            };
            if method == Method::Head {
                session.set_kind("api");
                return refuse(shape.head_only());
            }
            return Answer::Stream(shape);
        }
        Route::Output(id) => {
            return match job_output::Wanted::of(head, id) {
                Ok(_) if method == Method::Head => refuse(Reply::stream("text/plain; charset=utf-8")),
                Ok(wanted) => Answer::Output(wanted),
                Err(refusal) => refuse(refusal),
            };
        }
        Route::Chat(chat::Place::Stream) => {
            if let Some(session) = session {
                session.set_kind("chat");
            }
            return match chat::stream::Wanted::of(server, head) {
                Ok(_) if method == Method::Head => refuse(Reply::stream("application/x-ndjson")),
                Ok(wanted) => Answer::ChatStream(wanted),
                Err(refusal) => refuse(guard::with_cors(&*server.host, head, refusal)),
            };
        }
        Route::ChatPage => return refuse(chat_page::answer(server)),
        Route::Backup => {
            return match files::Wanted::of(head) {
                Ok(wanted) if method == Method::Head => refuse(Reply::stream(wanted.media().0)),
                Ok(wanted) => Answer::Backup(wanted),
                Err(refusal) => refuse(refusal),
            };
        }
        Route::Load => {
            return match files::load(server, conn, head) {
                files::Loaded::Answered(indexed) => Answer::Reply(indexed, true),
                files::Loaded::Refused(refusal) => {
                    server.counts.refused_requests.fetch_add(1, Relaxed);
                    Answer::Reply(refusal.into(), false)
                }
                files::Loaded::Gone => Answer::Gone,
            };
        }
        Route::Static(name) => return refuse(static_files::answer(name, head)),
        Route::OpenApi => return refuse(static_files::answer("openapi.json", head)),
        _ => {}
    }
    let mut body = if is_change {
        Some(match conn.body(head, limits::HTTP_BODY_BYTES_MAX) {
            Ok(body) => body,
            Err(Broken::Gone) => return Answer::Gone,
            Err(Broken::Fault(fault)) => {
                server.counts.refused_requests.fetch_add(1, Relaxed);
                return Answer::Reply(Reply::from(fault).into(), false);
            }
        })
    } else {
        None
    };
    if let Some(body) = &mut body
        && operation.media == Some(guard::JSON)
        && body.hold_json().is_err()
    {
        return Answer::Reply(Reply::refused(503, memory::FULL).into(), true);
    }
    let mut indexed = api::answer(server, conn, route, method, head, body.as_deref().unwrap_or_default());
    if is_shared {
        indexed.reply = guard::with_cors(&*server.host, head, indexed.reply);
    }
    Answer::Reply(indexed, is_change || !has_body)
}

/// What a browser asks before a page of another node may use the chat.
fn preflight(server: &Server, head: &Head, path: &Path) -> Reply {
    if guard::allowed_origin(&*server.host, head).is_none() {
        return Reply::refused(403, "the chat is used by pages of this cluster only");
    }
    guard::with_cors(&*server.host, head, Reply::empty(204))
        .with("Access-Control-Allow-Methods", path.allow())
        .with("Access-Control-Allow-Headers", "Authorization, Content-Type, Idempotency-Key")
        .with("Access-Control-Max-Age", "600")
}
