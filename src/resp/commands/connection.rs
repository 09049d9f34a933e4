//! Commands about the connection itself: authentication, the client's name, the protocol version, the consistency of
//! reads.
//!
//! If `client_password` is set, a client must send it with AUTH or HELLO first, on every address. Without one the node
//! listens on loopback only. The secret of the nodes, `cluster_secret`, is no password of clients.
//! Not here: transactions (`resp/conn.rs`), information about the node (`server.rs`).

use super::client::{BAD_NAME, is_name};
use super::store::context::{SYNTAX, text};
use super::store::scripts;
use crate::node::{Connections, PasswordCheck};
use crate::resp::conn::Conn;
use crate::resp::protocol::parse::{Request, integer, is_word};
use crate::resp::protocol::reply::{self, RespVersion, wrong_arity};
use crate::services::kv::{OpError, glob};
use std::time::Instant;

/// The Redis release that this server behaves like: some clients depend on it.
pub const REDIS_VERSION: &str = "7.0.15";

pub(crate) fn ping(conn: &mut Conn, request: &Request, out: &mut Vec<u8>) {
    match request.len() {
        1 | 2 if conn.is_subscribed_only() => {
            reply::array(out, 2);
            reply::bulk(out, b"pong");
            reply::bulk(out, if request.len() == 2 { request.word(1) } else { b"" });
        }
        1 => reply::simple(out, "PONG"),
        2 => reply::bulk(out, request.word(1)),
        _ => reply::error(out, &wrong_arity("ping")),
    }
}

pub(crate) fn echo(_: &mut Conn, request: &Request, out: &mut Vec<u8>) {
    reply::bulk(out, request.word(1));
}

pub(crate) fn select(_: &mut Conn, request: &Request, out: &mut Vec<u8>) {
    match database(request.word(1)) {
        Ok(()) => reply::ok(out),
        Err(why) => reply::error(out, &why),
    }
}

/// Checks the number of a database.
///
/// # Errors
/// Every number but 0.
pub(crate) fn database(word: &[u8]) -> Result<(), String> {
    match integer(word) {
        Some(0) => Ok(()),
        Some(_) => {
            Err("ERR DB index is out of range: there is one database, 0; to keep applications apart, begin their \
            keys with a prefix of their own, as in app1:name"
                .to_string())
        }
        None => Err(OpError::NotAnInteger.to_string()),
    }
}

pub(crate) fn unwatch(conn: &mut Conn, _: &Request, out: &mut Vec<u8>) {
    conn.forget_watched();
    conn.client.profile().watch = 0;
    reply::ok(out);
}

pub(crate) fn consistency(conn: &mut Conn, request: &Request, out: &mut Vec<u8>) {
    let is_eventual = match request.len() {
        1 => return reply::simple(out, if conn.is_eventual { "eventual" } else { "strong" }),
        2 if is_word(request.word(1), "strong") => false,
        2 if is_word(request.word(1), "eventual") => true,
        2 => return reply::error(out, "ERR consistency must be strong or eventual"),
        _ => return reply::error(out, &wrong_arity("consistency")),
    };
    // Earlier commands keep their consistency.
    conn.submit();
    conn.is_eventual = is_eventual;
    reply::ok(out);
}

// ---- authentication ----

/// Notes that user and password are right, or returns the error. As in Redis, any password is right for the default user
/// until one is set.
fn authenticate(conn: &mut Conn, user: &[u8], password: &[u8]) -> Result<(), String> {
    let access = conn.shared.handle.access();
    if user != b"default" {
        let which = if access.is_required() { WHICH_PASSWORD } else { "" };
        return Err(format!("{WRONG_PASSWORD}{which}"));
    }
    let from = conn.client.profile().peer.ip();
    match access.check(from, "Redis", password, Instant::now()) {
        PasswordCheck::Right => {
            conn.is_known = true;
            Ok(())
        }
        PasswordCheck::Wrong => Err(format!("{WRONG_PASSWORD}{WHICH_PASSWORD}")),
        PasswordCheck::MustWait(wait) => {
            Err(format!("ERR too many wrong passwords from this address: try again in {} ms", wait.as_millis().max(1)))
        }
    }
}

const WRONG_PASSWORD: &str = "WRONGPASS invalid username-password pair or user is disabled.";
/// Follows it, for those who send the secret of the nodes, which earlier versions took.
const WHICH_PASSWORD: &str = " The password is the setting client_password, and no longer cluster_secret.";

pub(crate) fn auth(conn: &mut Conn, request: &Request, out: &mut Vec<u8>) {
    let (user, password) = match request.len() {
        2 if !conn.shared.handle.access().is_required() => {
            let why = "ERR AUTH <password> called without any password configured for the default user. \
                Are you sure your configuration is correct? (setting client_password)";
            return reply::error(out, why);
        }
        2 => (&b"default"[..], request.word(1)),
        3 => (request.word(1), request.word(2)),
        _ => return reply::error(out, SYNTAX),
    };
    match authenticate(conn, user, password) {
        Ok(()) => reply::ok(out),
        Err(why) => reply::error(out, &why),
    }
}

pub(crate) fn hello(conn: &mut Conn, request: &Request, out: &mut Vec<u8>) {
    let mut proto = conn.proto;
    if request.len() > 1 {
        proto = match integer(request.word(1)) {
            Some(2) => RespVersion::Resp2,
            Some(3) => RespVersion::Resp3,
            Some(_) => return reply::error(out, "NOPROTO unsupported protocol version"),
            None => return reply::error(out, "ERR Protocol version is not an integer or out of range"),
        };
    }
    let (mut login, mut name) = (None, None);
    let mut at = 2;
    while at < request.len() {
        let more = request.len() - 1 - at;
        match request.word(at) {
            word if is_word(word, "auth") && more >= 2 => {
                login = Some((request.word(at + 1), request.word(at + 2)));
                at += 2;
            }
            word if is_word(word, "setname") && more >= 1 => {
                let chosen = request.word(at + 1);
                if !is_name(chosen) {
                    return reply::error(out, BAD_NAME);
                }
                name = Some(text(chosen));
                at += 1;
            }
            word => return reply::error(out, &format!("ERR Syntax error in HELLO option '{}'", text(word))),
        }
        at += 1;
    }
    if let Some((user, password)) = login
        && let Err(why) = authenticate(conn, user, password)
    {
        return reply::error(out, &why);
    }
    if !conn.is_known {
        let why = "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH \
            <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time";
        return reply::error(out, why);
    }
    // Replies to earlier commands keep their protocol version.
    conn.submit();
    (conn.proto, conn.is_line, conn.has_greeted) = (proto, false, true);
    conn.client.set_form(proto, false);
    let mut profile = conn.client.profile();
    profile.resp = number_of(proto) as u8;
    if let Some(name) = name {
        profile.name = name;
    }
    drop(profile);
    write_hello(out, proto, conn.client.id);
}

fn number_of(proto: RespVersion) -> i64 {
    match proto {
        RespVersion::Resp2 => 2,
        RespVersion::Resp3 => 3,
    }
}

fn write_hello(out: &mut Vec<u8>, proto: RespVersion, id: u64) {
    reply::map(out, proto, 7);
    for (key, value) in [("server", "redis"), ("version", REDIS_VERSION)] {
        reply::bulk(out, key.as_bytes());
        reply::bulk(out, value.as_bytes());
    }
    for (key, value) in [("proto", number_of(proto)), ("id", id as i64)] {
        reply::bulk(out, key.as_bytes());
        reply::int(out, value);
    }
    // Any node accepts any command, so each looks like a single master to a client.
    for (key, value) in [("mode", "standalone"), ("role", "master")] {
        reply::bulk(out, key.as_bytes());
        reply::bulk(out, value.as_bytes());
    }
    reply::bulk(out, b"modules");
    reply::array(out, 0);
}

// ---- SCRIPT ----

pub(crate) fn script(conn: &mut Conn, request: &Request, out: &mut Vec<u8>) {
    if is_word(request.word(1), "load") {
        return match conn.shared.scripts.load(request.word(2)) {
            Some(name) => reply::bulk(out, name.as_bytes()),
            None => reply::error(out, scripts::UNKNOWN),
        };
    }
    reply::array(out, request.len() - 2);
    for name in request.words().skip(2) {
        reply::int(out, i64::from(conn.shared.scripts.find(name).is_some()));
    }
}

/// The pairs that the words from `from` on name, each once: exactly, as the client spells it, or by a pattern.
pub(crate) fn matching<'a, V>(pairs: &'a [(&'static str, V)], request: &Request, from: usize) -> Vec<(String, &'a V)> {
    let mut found: Vec<(String, &V)> = Vec::new();
    for (name, value) in pairs {
        let mut words = request.words().skip(from);
        let matches =
            |word: &[u8]| glob::matches(&word.to_ascii_lowercase(), name.as_bytes(), &mut { u64::MAX }) == Some(true);
        if let Some(word) = words.find(|word| matches(word)) {
            let is_pattern = word.iter().any(|byte| matches!(byte, b'*' | b'?' | b'['));
            found.push((if is_pattern { name.to_string() } else { text(word) }, value));
        }
    }
    found
}
