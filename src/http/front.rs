//! The redirector: sends any request on to the least-loaded online worker, with the same path and query.
//!
//! Every node listens here, so redirects go on while a leader is elected or a node dies; which node is least loaded is
//! decided by `cluster/dispatch.rs`, which counts what it has just handed out.
//! It serves one thing itself: which cluster it belongs to, because nodes of two clusters may have been given one port.
//! Not here: asking that (`node/process/front_port.rs`).

use super::acceptor;
use super::protocol::conn::{Conn, Deadlines, Next};
use super::protocol::error::ApiError;
use super::protocol::guard;
use super::protocol::parse::{Framing, Head, Method};
use super::protocol::response::Response;
use super::request::ApiResult;
use super::routes;
use super::server::Server;
use crate::node::Handle;
use crate::node::process::front_port::PROBE_PATH;
use serde_json::json;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Body of the `door` thread: redirects until the node stops.
pub fn serve(listener: TcpListener, handle: Handle) {
    serve_host(&listener, &Server::new(Arc::new(handle), Deadlines::default()));
}

/// As [`serve`], for any host: tests give a fake one and short deadlines.
pub fn serve_host(listener: &TcpListener, server: &Arc<Server>) {
    acceptor::accept_all(listener, server, "door-conn", serve_connection);
}

/// One client's connection to the redirector; it is not load, for it is served elsewhere.
fn serve_connection(server: &Arc<Server>, mut conn: Conn) {
    loop {
        let head = match conn.next_request() {
            Next::Head(head) => head,
            Next::Gone => return,
            Next::Fault(fault) => {
                server.counts.refused_requests.fetch_add(1, Relaxed);
                ApiError::from(fault).into_response(None).write(conn.output(), false, true, None);
                return conn.close(true);
            }
        };
        server.counts.requests.fetch_add(1, Relaxed);
        let has_unread_body = head.framing != Framing::Empty;
        let keep_alive = head.keep_alive && !has_unread_body && !server.host.is_stopping();
        let has_body = head.method != Some(Method::Head);
        let response = answer(server, &head).unwrap_or_else(|error| error.into_response(server.leader()));
        response.write(conn.output(), keep_alive, has_body, None);
        if !keep_alive {
            return conn.close(has_unread_body);
        }
        if !conn.may_gather() && conn.flush().is_err() {
            return;
        }
    }
}

fn answer(server: &Server, head: &Head) -> ApiResult {
    let method = head.method.ok_or_else(|| ApiError::refused(501, "unknown method"))?;
    guard::check_host(&*server.host, head)?;
    if head.target == PROBE_PATH {
        let cluster = &server.host.status().status.cluster;
        return Ok(Response::json(200, &json!({"cluster": cluster.id, "name": cluster.name})));
    }
    // What the node would refuse anyway need not count as sent to it.
    if let Some(route) = routes::find(head.path()).and_then(|path| path.route(method)) {
        guard::check(&*server.host, head, route.audience, None)?;
    }
    match server.host.dispatch() {
        // The target is visible ASCII (parse.rs, P1), so it cannot start another header.
        Some((worker, address)) => {
            Ok(Response::text(307, format!("redirecting to node {}: http://{address}/\n", worker.0))
                .with("Location", format!("http://{address}{}", head.target))
                .with("X-Phalanx-Node", worker.0.to_string()))
        }
        None => Err(ApiError::refused(503, "no node is available; try again in a moment").with_leader()),
    }
}
