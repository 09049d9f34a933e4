//! The redirector: redirects any request to the least-loaded online worker, with the same path and query.
//!
//! Every node listens here, so redirects continue while a leader is elected or a node dies. `cluster/dispatch.rs`
//! decides which node is least loaded, and counts the clients that were just redirected to it. The redirector itself
//! answers one question, which cluster it belongs to: nodes of two clusters may have been given the same port.
//! Not here: asking that question (`node/process/front_port.rs`).

use super::acceptor;
use super::protocol::conn::Conn;
use super::protocol::deadlines::Deadlines;
use super::protocol::error::ApiError;
use super::protocol::guard;
use super::protocol::head::{Framing, Head};
use super::protocol::response::Response;
use super::request::ApiResult;
use super::routes;
use super::server::Server;
use crate::address;
use crate::node::process::front_port::PROBE_PATH;
use crate::node::{Addressing, Handle, Listener};
use serde_json::json;
use std::sync::Arc;

/// Body of the `door` thread: redirects until the node stops.
pub fn serve(listener: Listener, handle: Handle) {
    let deadlines = Deadlines::of(handle.settings());
    serve_host(&listener, &Server::new(Arc::new(handle), deadlines));
}

/// As [`serve`], for any host: tests give a fake one and short deadlines.
pub fn serve_host(listener: &Listener, server: &Arc<Server>) {
    acceptor::accept_all(listener, server, "door-conn", serve_connection);
}

/// One client's connection to the redirector. It does not count as load: another connection will serve the client.
fn serve_connection(server: &Arc<Server>, conn: Conn) {
    acceptor::serve_requests(server, conn, false, |client, head| {
        let response = answer(server, client, &head).unwrap_or_else(|error| error.into_response(server.leader()));
        Some((response, head.framing == Framing::Empty))
    });
}

fn answer(server: &Server, client: &Conn, head: &Head) -> ApiResult {
    let method = head.method.ok_or_else(|| ApiError::refused(501, "unknown method"))?;
    let path = routes::find(head.path());
    if !path.as_ref().is_some_and(routes::Path::has_any_host) {
        guard::check_host(&*server.host, head)?;
    }
    if head.target == PROBE_PATH {
        let cluster = &server.host.status().status.cluster;
        return Ok(Response::json(200, &json!({"cluster": cluster.id, "name": cluster.name})));
    }
    // A request that the node would refuse is not counted as sent to it.
    if let Some(route) = path.and_then(|path| path.route(method)) {
        guard::check(&*server.host, head, route.audience, None)?;
    }
    match server.host.dispatch() {
        // The target is visible ASCII (parse.rs, P1), so it cannot start another header.
        Some((worker, address)) => {
            let address = match server.host_for(head, client) {
                Some(by) => address::as_seen_by(&by, &address),
                None => address,
            };
            Ok(Response::text(307, format!("redirecting to node {}: http://{address}/\n", worker.0))
                .with("Location", format!("http://{address}{}", head.target))
                .with("X-Phalanx-Node", worker.0.to_string()))
        }
        None => Err(ApiError::refused(503, "no node is available; try again in a moment").with_leader()),
    }
}
