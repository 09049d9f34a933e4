//! CLIENT: the connections, as their clients describe themselves, and closing them.

use super::store::context::{SYNTAX, text};
use crate::resp::conn::Conn;
use crate::resp::outbox::Client;
use crate::resp::protocol::parse::{Request, integer, is_word};
use crate::resp::protocol::reply;
use crate::services::kv::OpError;
use std::sync::Arc;

pub(crate) const BAD_NAME: &str = "ERR Client names cannot contain spaces, newlines or special characters.";

/// A client that caches values would have to be told of writes on other nodes.
const NO_TRACKING: &str = "ERR CLIENT TRACKING is not supported: a node does not tell clients which keys have changed";

/// Longest name or library name that is kept.
const NAME_BYTES_MAX: usize = 256;

pub(crate) fn is_name(word: &[u8]) -> bool {
    word.len() <= NAME_BYTES_MAX && word.iter().all(|byte| (b'!'..=b'~').contains(byte))
}

pub(crate) fn client(conn: &mut Conn, request: &Request, out: &mut Vec<u8>) {
    let sub = text(request.word(1)).to_ascii_lowercase();
    match sub.as_str() {
        "id" => reply::int(out, conn.client.id as i64),
        "getname" => match conn.client.profile().name.as_str() {
            "" => reply::nil(out, conn.proto),
            name => reply::bulk(out, name.as_bytes()),
        },
        "setname" => match is_name(request.word(2)) {
            true => {
                conn.client.profile().name = text(request.word(2));
                reply::ok(out);
            }
            false => reply::error(out, BAD_NAME),
        },
        "setinfo" => set_info(conn, request, out),
        "info" => reply::verbatim(out, conn.proto, &line(conn, &conn.client)),
        "list" => list(conn, request, out),
        "kill" => kill(conn, request, out),
        "unblock" => unblock(request, out),
        "tracking" => match request.word(2) {
            word if is_word(word, "off") => reply::ok(out),
            word if is_word(word, "on") => reply::error(out, NO_TRACKING),
            _ => reply::error(out, SYNTAX),
        },
        _ => match request.word(2) {
            word if is_word(word, "on") || is_word(word, "off") => reply::ok(out),
            _ => reply::error(out, SYNTAX),
        },
    }
}

fn set_info(conn: &mut Conn, request: &Request, out: &mut Vec<u8>) {
    let (option, value) = (request.word(2), request.word(3));
    let is_lib_name = is_word(option, "lib-name");
    if !is_lib_name && !is_word(option, "lib-ver") {
        return reply::error(out, &format!("ERR Unrecognized option '{}'", text(option)));
    }
    if !is_name(value) {
        let option = if is_lib_name { "lib-name" } else { "lib-ver" };
        return reply::error(out, &format!("ERR {option} cannot contain spaces, newlines or special characters."));
    }
    let mut profile = conn.client.profile();
    let place = if is_lib_name { &mut profile.lib_name } else { &mut profile.lib_ver };
    *place = text(value);
    reply::ok(out);
}

fn list(conn: &Conn, request: &Request, out: &mut Vec<u8>) {
    let clients = match request.len() {
        2 => conn.clients.all(),
        4 if is_word(request.word(2), "type") => match request.word(3) {
            word if is_kind(word) => {
                conn.clients.all().into_iter().filter(|client| is_word(word, kind_of(client))).collect()
            }
            word => return reply::error(out, &unknown_kind(word)),
        },
        4.. if is_word(request.word(2), "id") => {
            let ids: Option<Vec<i64>> = request.words().skip(3).map(integer).collect();
            let Some(ids) = ids.filter(|ids| ids.iter().all(|id| *id > 0)) else {
                return reply::error(out, "ERR Invalid client ID");
            };
            conn.clients.all().into_iter().filter(|client| ids.contains(&(client.id as i64))).collect()
        }
        _ => return reply::error(out, SYNTAX),
    };
    let lines: String = clients.iter().map(|client| line(conn, client)).collect();
    reply::verbatim(out, conn.proto, &lines);
}

/// Which connections CLIENT KILL closes.
#[derive(Default)]
struct Filter<'a> {
    id: Option<i64>,
    address: Option<&'a [u8]>,
    local_address: Option<&'a [u8]>,
    kind: Option<&'a [u8]>,
    keeps_own: bool,
}

fn kill(conn: &mut Conn, request: &Request, out: &mut Vec<u8>) {
    let filter = match filter_of(request) {
        Ok(filter) => filter,
        Err(why) => return reply::error(out, &why),
    };
    let mut killed = 0;
    for client in conn.clients.all() {
        let is_own = client.id == conn.client.id;
        let laddr = client.stream.local_addr().map_or(String::new(), |address| address.to_string());
        let is_meant = filter.id.is_none_or(|id| id == client.id as i64)
            && filter.address.is_none_or(|address| address == client.profile().peer.to_string().as_bytes())
            && filter.local_address.is_none_or(|address| address == laddr.as_bytes())
            && filter.kind.is_none_or(|kind| is_word(kind, kind_of(&client)))
            && !(filter.keeps_own && is_own);
        if is_meant && is_own {
            // The reply is still sent.
            conn.must_close = true;
        } else if is_meant {
            client.close();
            // Its thread ends a moment later; CLIENT LIST no longer shows it.
            conn.clients.remove(client.id);
        }
        killed += i64::from(is_meant);
    }
    match (request.len(), killed) {
        (3, 0) => reply::error(out, "ERR No such client"),
        (3, _) => reply::ok(out),
        _ => reply::int(out, killed),
    }
}

fn filter_of<'a>(request: &Request<'a>) -> Result<Filter<'a>, String> {
    if request.len() == 3 {
        return Ok(Filter { address: Some(request.word(2)), ..Filter::default() });
    }
    let mut filter = Filter { keeps_own: true, ..Filter::default() };
    for at in (2..request.len()).step_by(2) {
        if at + 1 == request.len() {
            return Err(SYNTAX.to_string());
        }
        let value = request.word(at + 1);
        match request.word(at) {
            word if is_word(word, "id") => {
                let id = integer(value).filter(|id| *id > 0);
                filter.id = Some(id.ok_or("ERR client-id should be greater than 0")?);
            }
            word if is_word(word, "addr") => filter.address = Some(value),
            word if is_word(word, "laddr") => filter.local_address = Some(value),
            word if is_word(word, "type") && is_kind(value) => filter.kind = Some(value),
            word if is_word(word, "type") => return Err(unknown_kind(value)),
            word if is_word(word, "user") && value == b"default" => {}
            word if is_word(word, "user") => return Err(format!("ERR No such user '{}'", text(value))),
            word if is_word(word, "skipme") && is_word(value, "yes") => filter.keeps_own = true,
            word if is_word(word, "skipme") && is_word(value, "no") => filter.keeps_own = false,
            _ => return Err(SYNTAX.to_string()),
        }
    }
    Ok(filter)
}

/// Kinds of clients in Redis; here there are no replicas.
fn is_kind(word: &[u8]) -> bool {
    ["normal", "pubsub", "master", "replica", "slave"].iter().any(|kind| is_word(word, kind))
}

fn unknown_kind(word: &[u8]) -> String {
    format!("ERR Unknown client type '{}'", text(word))
}

fn kind_of(client: &Client) -> &'static str {
    if client.profile().is_subscriber() { "pubsub" } else { "normal" }
}

/// No command blocks, so no client is ever unblocked.
fn unblock(request: &Request, out: &mut Vec<u8>) {
    let is_reason = |word: &[u8]| is_word(word, "timeout") || is_word(word, "error");
    if request.len() > 3 && !is_reason(request.word(3)) {
        return reply::error(out, "ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR");
    }
    match integer(request.word(2)) {
        Some(_) if request.len() <= 4 => reply::int(out, 0),
        Some(_) => reply::error(out, SYNTAX),
        None => reply::error(out, OpError::NotAnInteger.text()),
    }
}

fn line(conn: &Conn, client: &Arc<Client>) -> String {
    let profile = client.profile();
    let multi = if client.id == conn.client.id { conn.queued() } else { profile.multi };
    let laddr = client.stream.local_addr().map_or_else(|_| "?".to_string(), |address| address.to_string());
    format!(
        "id={} addr={} laddr={laddr} name={} age={} idle={} flags={} db=0 sub={} psub={} ssub=0 multi={} watch={} omem={} \
         cmd={} user=default resp={} lib-name={} lib-ver={}\n",
        client.id,
        profile.peer,
        profile.name,
        profile.since.elapsed().as_secs(),
        profile.active.elapsed().as_secs(),
        match (multi.is_some(), profile.is_subscriber()) {
            (true, _) => "x",
            (_, true) => "P",
            _ => "N",
        },
        profile.channels,
        profile.patterns,
        multi.map_or(-1, |queued| queued as i64),
        profile.watch,
        client.unsent_bytes(),
        profile.command,
        profile.resp,
        profile.lib_name,
        profile.lib_ver,
    )
}
