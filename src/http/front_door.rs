//! The front door: redirects any request to the least-loaded online worker, with the same path and query.
//!
//! Every node listens here, so redirects continue while a leader is elected or a node dies. `cluster/dispatch.rs`
//! decides which node is least loaded, and counts the clients that were just redirected to it. If no node can serve, the
//! pages and reports that need no leader are this node's, and anything else is refused for now. The front door itself
//! answers one question, which cluster it belongs to: nodes of two clusters may have been given the same port, and ask
//! before they share any password. For everything else it requires the password as a node does, and a person logs in here
//! as there.
//! Not here: asking that question (`node/process/front_door.rs`).

use super::acceptor::{self, ListenerRole};
use super::access;
#[cfg(target_os = "linux")]
use super::event_loop;
use super::pages::login;
use super::protocol::conn::Conn;
use super::protocol::deadlines::Deadlines;
use super::protocol::error::ApiError;
use super::protocol::guard;
use super::protocol::head::{Framing, Head};
use super::protocol::response::Response;
use super::request::{ApiResult, Upload};
use super::routes;
use super::server::Server;
use crate::address;
use crate::node::process::front_door::PROBE_PATH;
use crate::node::{Addressing, Handle, Listener, Redirect};
use serde_json::json;
use std::sync::Arc;

/// What the front door answers; the form of the log-in page is read as it arrives.
const SERVICE: ListenerRole = ListenerRole { thread: "front-conn", must_wait: is_log_in, answer: answer_request };

/// Body of the `front` thread: redirects until the node stops.
pub fn serve(listener: Listener, handle: Handle) {
    let deadlines = Deadlines::of(handle.settings());
    let server = Server::new(Arc::new(handle.clone()), deadlines);
    let aiding = Arc::clone(&server);
    handle.share_front(&listener, move |stream, peer| {
        acceptor::accepted(&aiding, stream, peer, "front-conn", serve_connection);
    });
    serve_host(&listener, &server);
}

/// As [`serve`], for any host: tests give a fake one and short deadlines.
pub fn serve_host(listener: &Listener, server: &Arc<Server>) {
    #[cfg(target_os = "linux")]
    match event_loop::serve(listener, server, SERVICE) {
        Ok(()) => return,
        Err(error) => log::warn!("clients of the front door get a thread each err=\"{error}\""),
    }
    acceptor::accept_all(listener, server, SERVICE.thread, serve_connection);
}

/// One client's connection to the front door in a thread of its own.
fn serve_connection(server: &Arc<Server>, conn: Conn) {
    acceptor::serve_requests(server, conn, false, |client, head| SERVICE.answer_in_turn(server, client, &head));
}

/// The connection does not count as load: another one will serve the client.
fn answer_request(server: &Server, client: &mut Conn, head: &Head) -> Option<(Response, bool)> {
    let (result, is_body_read) = match log_in(server, client, head) {
        None => (answer(server, client, head), head.framing == Framing::Empty),
        Some(Upload::Read(result)) => (result, true),
        Some(Upload::Unread(error)) => (Err(error), false),
        Some(Upload::Gone) => return None,
    };
    Some((result.unwrap_or_else(|error| error.into_response(server.leader())), is_body_read))
}

/// Whether it is a request for the log-in page or its form.
fn is_log_in(server: &Server, head: &Head) -> bool {
    head.path() == login::LOGIN_PATH && server.host.access().is_required()
}

/// The form of the log-in page; `None`: it is another request.
fn log_in(server: &Server, client: &mut Conn, head: &Head) -> Option<Upload> {
    if !is_log_in(server, head) {
        return None;
    }
    let route = routes::find(head.path())?.route(head.method?)?;
    let checked = guard::check_host(&*server.host, head)
        .and_then(|()| guard::check(&*server.host, head, route.audience, route.media));
    Some(match checked {
        Ok(()) => login::log_in(server, client, head),
        Err(error) => Upload::Unread(error),
    })
}

fn answer(server: &Server, client: &Conn, head: &Head) -> ApiResult {
    let method = head.method.ok_or_else(|| ApiError::refused(501, "unknown method"))?;
    let path = routes::find(head.path());
    if !path.as_ref().is_some_and(|path| path.has_any_host(server.host.settings())) {
        guard::check_host(&*server.host, head)?;
    }
    if head.target == PROBE_PATH {
        let cluster = &server.host.status().status.cluster;
        return Ok(Response::json(200, &json!({"cluster": cluster.id, "name": cluster.name})));
    }
    // A request that the node would refuse is not counted as sent to it.
    let route = path.and_then(|path| path.route(method));
    if let Some(route) = route {
        guard::check(&*server.host, head, route.audience, None)?;
    }
    if !route.is_some_and(|route| route.is_open(server.host.settings()))
        && let Err(why) = access::check(server, client, head)
    {
        return login::denied(server, head, why);
    }
    let is_local = route.is_some_and(|route| route.is_local);
    match server.host.dispatch() {
        Some(redirect) if !redirect.can_serve && !is_local => {
            let why = "no node that can serve is reachable from this one; try again in a moment";
            Err(ApiError::refused(503, why).with_leader())
        }
        // The target is visible ASCII (parse.rs, P1), so it cannot start another header.
        Some(Redirect { node: worker, http: address, .. }) => {
            let address = match server.host_for(head, client) {
                Some(by) => address::as_seen_by(&by, &address),
                None if server.host.access().is_required() => under_same_name(&head.host, address),
                None => address,
            };
            Ok(Response::text(307, format!("redirecting to node {}: http://{address}/\n", worker.0))
                .with("Location", format!("http://{address}{}", head.target))
                .with("X-Phalanx-Node", worker.0.to_string()))
        }
        None => Err(ApiError::refused(503, "no node is available; try again in a moment").with_leader()),
    }
}

/// The address of a node on loopback, by the name of loopback that the client uses: browsers separate cookies by name, so
/// a user who has logged in at `localhost` has no session at `127.0.0.1`.
fn under_same_name(host: &str, address: String) -> String {
    match (address::split(host), address::split(&address)) {
        (Some((name, _)), Some((node, Some(port)))) if address::is_loopback(name) && address::is_loopback(node) => {
            address::join(name, port)
        }
        _ => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_at_one_name_of_loopback_goes_on_there() {
        for (host, address, expected) in [
            ("localhost:8080", "127.0.0.1:6701", "localhost:6701"),
            ("[::1]:8080", "127.0.0.1:6701", "[::1]:6701"),
            ("127.0.0.1:8080", "127.0.0.1:6701", "127.0.0.1:6701"),
            ("localhost:8080", "10.0.0.1:6701", "10.0.0.1:6701"),
            ("phalanx.example", "127.0.0.1:6701", "127.0.0.1:6701"),
            ("", "127.0.0.1:6701", "127.0.0.1:6701"),
        ] {
            assert_eq!(under_same_name(host, address.to_string()), expected, "{host}");
        }
    }
}
