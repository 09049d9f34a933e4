//! From a request head to its handler: the checks before a handler is called, and how its result becomes a response.
//!
//! The checks in order: known method, our `Host` (except for probes), a caller whose page may ask, the password, a
//! known path, an allowed method, known parameters, a body within bounds. A preflight request has no password.
//! Not here: which routes there are (`routes.rs`), handlers (`api/`, `chat/`, `db/`, `pages/`), bytes (`protocol/`).

use super::acceptor::{self, NODE_CONNECTION};
use super::access;
use super::db::rqlite_status;
use super::pages::login;
use super::pages::monitor_stream::HOLD_PATH;
use super::protocol::body::Body;
use super::protocol::conn::Conn;
use super::protocol::deadlines::Deadlines;
use super::protocol::error::ApiError;
use super::protocol::guard;
use super::protocol::head::{Framing, Head, Method};
use super::protocol::params::Params;
use super::protocol::response::Response;
use super::request::{ApiResult, Request, Upload};
use super::routes::{self, Handler, Path, Route};
use super::server::Server;
use crate::limits;
use crate::node::{Addressing, ConnectionSlot, Handle, Listener, SessionGuard};
use crate::outcome::MEMORY_FULL;
use crate::outcome::codes::{BUSY, UNKNOWN};
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

/// Body of the `http` thread: serves until the node stops.
pub fn serve(listener: Listener, handle: Handle) {
    let deadlines = Deadlines::of(handle.settings());
    serve_host(&listener, &Server::new(Arc::new(handle), deadlines));
}

/// As [`serve`], for any host: tests give a fake one and short deadlines.
pub fn serve_host(listener: &Listener, server: &Arc<Server>) {
    acceptor::accept_all(listener, server, NODE_CONNECTION, serve_connection);
}

/// One client's connection to a node.
fn serve_connection(server: &Arc<Server>, conn: Conn) {
    let mut session = None;
    acceptor::serve_requests(server, conn, true, |conn, head| {
        let begun = Instant::now();
        let answered = answer(server, conn, head, &mut session)?;
        let mut response = answered.result.unwrap_or_else(|error| error.into_response(server.leader()));
        response.headers.extend(answered.headers);
        let response = in_budget(conn, answered.route, response);
        server.counts.times.record(routes::names, routes::position(answered.route), response.status, begun.elapsed());
        Some((response, answered.is_body_read))
    });
}

/// The response, or an error if the memory budget has no room for it. A client may repeat a request that only reads.
fn in_budget(conn: &mut Conn, route: Option<&Route>, response: Response) -> Response {
    match route {
        _ if conn.has_room(response.body.len()) => response,
        Some(route) if !route.is_vital && route.is_read => {
            ApiError::refused(BUSY.status, MEMORY_FULL).into_response(None)
        }
        Some(route) if !route.is_vital => ApiError::unknown(UNKNOWN.status, MEMORY_FULL).into_response(None),
        _ => response,
    }
}

/// The result of a request.
struct Answered {
    result: ApiResult,
    /// The request has no body, or all of it was read.
    is_body_read: bool,
    /// Headers of the route: those that let pages of the cluster's other nodes read the response, and rqlite's version.
    headers: Vec<(&'static str, String)>,
    /// `None`: no route was found for the request.
    route: Option<&'static Route>,
}

/// Checks a request and calls its handler. `None`: the connection is over.
fn answer(server: &Server, conn: &mut Conn, head: Box<Head>, session: &mut Option<SessionGuard>) -> Option<Answered> {
    let has_no_body = head.framing == Framing::Empty;
    let early = |result| Some(Answered { result, is_body_read: has_no_body, headers: Vec::new(), route: None });
    let (route, args) = match check(server, conn, &head) {
        Ok(Checked::Route(route, args)) => (route, args),
        Ok(Checked::Options(response)) => return early(Ok(response)),
        Ok(Checked::Denied(route, result)) => {
            // A page of another node must be able to read why.
            let has_cors = route.is_some_and(|route| route.has_cors);
            let headers = if has_cors { guard::cors_headers(&*server.host, &head) } else { Vec::new() };
            return Some(Answered { result, is_body_read: has_no_body, headers, route });
        }
        Err(error) => return early(Err(error)),
    };
    // A connection counts as load from the first request that is let in: nobody without the password makes front doors
    // avoid a node. A page's second connection never does.
    if session.is_none() && head.path() != HOLD_PATH {
        *session = Some(server.host.open_session("api", conn.peer()));
    }
    let session = session.as_ref();
    let mut headers = if route.has_cors { guard::cors_headers(&*server.host, &head) } else { Vec::new() };
    if route.is_rqlite {
        headers.push(("X-Rqlite-Version", rqlite_status::VERSION.to_string()));
    }
    if route.refuses_unknown()
        && let Err(error) = Params::check(&head, route.known_params())
    {
        return Some(Answered { result: Err(error), is_body_read: has_no_body, headers, route: Some(route) });
    }
    let held = RefCell::new(server.host.memory().reservation());
    let (result, is_body_read) = match route.handler {
        Handler::Respond(respond) => match body(conn, &head, route) {
            Ok(body) => {
                let body = body.as_deref().unwrap_or_default();
                let result = respond(&Request { server, client: conn, head: &head, args, body, session, held });
                (result, has_no_body || route.method != Method::Get)
            }
            Err(upload) => read_of(server, upload)?,
        },
        Handler::Upload(load) => read_of(server, load(server, conn, &head))?,
        Handler::Stream(open) => {
            let opened = open(&Request { server, client: conn, head: &head, args, body: &[], session, held });
            let result = match opened {
                Ok(stream) if head.method == Some(Method::Head) => Ok(stream.head),
                Ok(mut stream) => {
                    if let (Some(session), Some(kind)) = (session, route.session_kind) {
                        session.set_kind(kind);
                    }
                    stream.head.headers.extend(headers.iter().cloned());
                    // A stream may last for days and needs no more of its request.
                    drop(head);
                    match (stream.run)(server, conn, stream.head) {
                        Ok(()) => return None,
                        Err(error) => Err(error),
                    }
                }
                Err(error) => Err(error),
            };
            (result, has_no_body)
        }
    };
    Some(Answered { result, is_body_read, headers, route: Some(route) })
}

/// The result of an upload, and whether its body was read whole.
fn read_of(server: &Server, upload: Upload) -> Option<(ApiResult, bool)> {
    match upload {
        Upload::Read(result) => Some((result, true)),
        Upload::Unread(error) => {
            server.counts.refused_requests.fetch_add(1, Relaxed);
            Some((Err(error), false))
        }
        Upload::Gone => None,
    }
}

/// The whole body of a request whose method has one.
fn body(conn: &mut Conn, head: &Head, route: &Route) -> Result<Option<Body>, Upload> {
    if route.method == Method::Get {
        return Ok(None);
    }
    let mut body = conn.body(head, limits::HTTP_BODY_BYTES_MAX)?;
    if route.media == Some(guard::JSON) && body.hold_json().is_err() {
        return Err(Upload::Read(Err(ApiError::refused(BUSY.status, MEMORY_FULL))));
    }
    Ok(Some(body))
}

enum Checked<'a> {
    Route(&'static Route, (&'a str, &'a str)),
    /// The answer to OPTIONS.
    Options(Response),
    /// The answer to a client without the password.
    Denied(Option<&'static Route>, ApiResult),
}

fn check<'a>(server: &Server, conn: &Conn, head: &'a Head) -> Result<Checked<'a>, ApiError> {
    let method = head.method.ok_or_else(|| ApiError::refused(501, "unknown method"))?;
    let found = routes::find(head.path());
    if !found.as_ref().is_some_and(|path| path.has_any_host(server.host.settings())) {
        guard::check_host(&*server.host, head)?;
    }
    if let Some(path) = found.as_ref().filter(|_| method == Method::Options) {
        // A preflight request has an origin; without one it is a health check, such as HAProxy's.
        let is_preflight = path.has_preflight() && head.origin.is_some();
        let allowed = || Ok(Response::empty(204).with("Allow", path.allow()));
        return Ok(Checked::Options(if is_preflight { preflight(server, head, path) } else { allowed() }?));
    }
    let route = found.as_ref().and_then(|path| path.route(method));
    if let Some(route) = route {
        let media = route.media.filter(|_| method != Method::Delete || head.framing != Framing::Empty);
        guard::check(&*server.host, head, route.audience, media)?;
    }
    if !route.is_some_and(|route| route.is_open(server.host.settings()))
        && let Err(why) = access::check(server, conn, head)
    {
        return Ok(Checked::Denied(route, login::denied(server, head, why)));
    }
    let path = found.ok_or_else(|| ApiError::refused(404, "no such path"))?;
    let Some(route) = route else {
        return Err(match path.post_hint().filter(|_| method == Method::Post) {
            Some(hint) => ApiError::refused(404, hint),
            None => ApiError::refused(405, "method not allowed for this path").with("Allow", path.allow()),
        });
    };
    if conn.slot() == ConnectionSlot::Reserved && !route.is_vital {
        return Err(ApiError::refused(503, "all connections are in use (setting connections_max)"));
    }
    Ok(Checked::Route(route, path.args))
}

/// What a browser asks before a page of another node may use the chat or run programs.
fn preflight(server: &Server, head: &Head, path: &Path) -> ApiResult {
    if guard::allowed_origin(&*server.host, head).is_none() {
        return Err(ApiError::refused(403, "this can be used only by pages of this cluster"));
    }
    let mut response = Response::empty(204);
    response.headers.extend(guard::cors_headers(&*server.host, head));
    Ok(response
        .with("Access-Control-Allow-Methods", path.allow())
        .with("Access-Control-Allow-Headers", "Authorization, Content-Type, Idempotency-Key, X-Phalanx-Chat-Token")
        .with("Access-Control-Max-Age", "600"))
}
