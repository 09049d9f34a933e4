//! Whether a request may be answered: how a client presents the setting `client_password`, or a browser's session.
//!
//! Programs send the password in each request, as HTTP Basic (with any user name: there are no users) or as a Bearer
//! token. A browser that has logged in sends a cookie to every node of the host, since a browser does not separate
//! cookies by port; to nodes of other hosts its pages send the session as a Bearer token.
//! Not here: the comparison and the wait after wrong passwords (`node/client_access.rs`), the log-in page and the
//! answers to those who are refused (`pages/login.rs`), which routes are open to everybody (`routes.rs`).

use super::protocol::conn::Conn;
use super::protocol::head::Head;
use super::server::Server;
use crate::node::client_access::{SESSION, SESSION_OF_NODE};
use crate::node::shared::clock::now_ms;
use crate::node::{ClientAccess, PasswordCheck};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::time::{Duration, Instant};

/// Why a request is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// It has neither a password nor a valid session.
    Missing,
    Wrong,
    MustWait(Duration),
}

/// What the header `Authorization` presents.
#[derive(Debug, PartialEq, Eq)]
enum Presented<'a> {
    Session(&'a str),
    Password(Vec<u8>),
}

/// Whether the request may be answered, as far as the password is concerned. A request without one, or with a session
/// that has ended, is no try of a guesser and is not counted.
pub(crate) fn check(server: &Server, client: &Conn, head: &Head) -> Result<(), Denied> {
    let access = server.host.access();
    if !access.is_required() || has_session_cookie(server, client, head) {
        return Ok(());
    }
    match head.authorization.as_deref().and_then(presented) {
        Some(Presented::Session(session)) if is_session(server, client, session) => Ok(()),
        Some(Presented::Password(password)) => check_password(server, client, &password),
        Some(Presented::Session(_)) | None => Err(Denied::Missing),
    }
}

/// Compares a password that this client has sent.
pub(crate) fn check_password(server: &Server, client: &Conn, password: &[u8]) -> Result<(), Denied> {
    match server.host.access().check(client.peer().ip(), "HTTP", password, Instant::now()) {
        PasswordCheck::Right => Ok(()),
        PasswordCheck::Wrong => Err(Denied::Wrong),
        PasswordCheck::MustWait(wait) => Err(Denied::MustWait(wait)),
    }
}

/// A session for a page to reach nodes of other hosts with; `None`: no password is required.
pub(crate) fn new_session(server: &Server) -> Option<String> {
    server.host.access().new_session(now_ms(), SESSION)
}

/// Value of `Authorization` for a request of this node to another one. Not the password: some other process may have
/// taken the port of a node that is down.
pub(crate) fn of_node(server: &Server) -> Option<String> {
    Some(format!("Bearer {}", server.host.access().new_session(now_ms(), SESSION_OF_NODE)?))
}

/// Name of the cookie. Clusters that share a host have one each.
pub(crate) fn cookie_name(server: &Server) -> String {
    let cluster = server.host.status().status.cluster.id.unwrap_or_default().simple().to_string();
    format!("phalanx-session-{}", &cluster[..8])
}

fn has_session_cookie(server: &Server, client: &Conn, head: &Head) -> bool {
    let Some(cookies) = &head.cookie else { return false };
    let name = cookie_name(server);
    let mut pairs = cookies.split(';').filter_map(|pair| pair.trim().split_once('='));
    pairs.any(|(given, value)| given == name && is_session(server, client, value))
}

fn is_session(server: &Server, client: &Conn, session: &str) -> bool {
    server.host.access().is_session(client.peer().ip(), session, now_ms(), Instant::now())
}

fn presented(authorization: &str) -> Option<Presented<'_>> {
    let (scheme, value) = authorization.split_once(' ')?;
    let value = value.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(match ClientAccess::looks_like_session(value) {
            true => Presented::Session(value),
            false => Presented::Password(value.as_bytes().to_vec()),
        });
    }
    let decoded = scheme.eq_ignore_ascii_case("basic").then(|| BASE64.decode(value).ok())??;
    // RFC 7617: a user name has no colon, a password may have some.
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    Some(Presented::Password(decoded[colon + 1..].to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_presented_in_two_ways() {
        let password = |text: &str| Some(Presented::Password(text.as_bytes().to_vec()));
        let basic = |text: &str| format!("Basic {}", BASE64.encode(text));
        for (authorization, expected) in [
            (basic("anybody:open sesame"), password("open sesame")),
            (basic(":a:b"), password("a:b")),
            (basic("a:"), password("")),
            (basic("a:pass\u{e9}"), password("pass\u{e9}")),
            (basic("none"), None),
            (basic("a:b").replace("Basic ", "bASIC   "), password("b")),
            ("Basic a:b".into(), None),
            ("Bearer open".into(), password("open")),
            ("bearer phalanx-session.1.x".into(), Some(Presented::Session("phalanx-session.1.x"))),
            ("Digest username=\"a\"".into(), None),
            ("Basic".into(), None),
            (String::new(), None),
        ] {
            assert_eq!(presented(&authorization), expected, "{authorization}");
        }
    }
}
