//! Commands about the node and its cluster: CONFIG, TIME, ROLE, CLUSTER, LEADER, PHALANX, RAFT.
//!
//! Every node accepts every command, so to a Redis client each looks like a single master; its state in the cluster is
//! in fields and commands that Redis does not have.
//! Not here: INFO (`info.rs`), the connection's own state (`connection.rs`), keys (`store/keys.rs`).

use super::connection::{REDIS_VERSION, matching};
use crate::address;
use crate::limits::{RESP_REQUEST_BYTES_MAX, RESP_UNSENT_BYTES_MAX};
use crate::node::views::status::{Liveness, Status};
use crate::node::{Addressing, Reports};
use crate::resp::conn::Conn;
use crate::resp::protocol::parse::{Request, integer, is_word};
use crate::resp::protocol::reply;
use std::time::{SystemTime, UNIX_EPOCH};

pub(crate) fn status_of(conn: &Conn) -> Status {
    conn.shared.handle.fresh_frame().frame.status.clone()
}

/// The name of a unit variant in JSON.
pub(crate) fn word_of(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

// ---- CONFIG, TIME, ROLE, CLUSTER ----

pub(crate) fn config(conn: &mut Conn, request: &Request, out: &mut Vec<u8>) {
    let settings = conn.shared.handle.settings();
    let port = u64::from(settings.kv_port_base) + conn.shared.handle.identity().id.0;
    let text = |value: &str| value.to_string();
    // The log is synced before anything is acknowledged, as in Redis with appendonly and fsync always.
    let all = [
        ("appendfsync", text("always")),
        ("appendonly", text("yes")),
        ("bind", settings.host.clone()),
        ("client-output-buffer-limit", format!("normal {RESP_UNSENT_BYTES_MAX} 0 0")),
        ("cluster-enabled", text("no")),
        ("databases", text("1")),
        ("dir", settings.data_dir.display().to_string()),
        ("maxclients", settings.connections_max.to_string()),
        ("maxmemory", (settings.quota_kv_mb << 20).to_string()),
        ("maxmemory-policy", text("noeviction")),
        ("port", port.to_string()),
        ("proto-max-bulk-len", RESP_REQUEST_BYTES_MAX.to_string()),
        ("replica-read-only", text("no")),
        ("replicaof", text("")),
        ("save", text("")),
        ("slave-read-only", text("no")),
        ("slaveof", text("")),
        ("tcp-keepalive", text("300")),
        ("timeout", text("0")),
    ];
    let found = matching(&all, request, 2);
    reply::map(out, conn.proto, found.len());
    for (name, value) in found {
        reply::bulk(out, name.as_bytes());
        reply::bulk(out, value.as_bytes());
    }
}

pub(crate) fn time(_: &mut Conn, _: &Request, out: &mut Vec<u8>) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    reply::array(out, 2);
    reply::bulk(out, now.as_secs().to_string().as_bytes());
    reply::bulk(out, now.subsec_micros().to_string().as_bytes());
}

pub(crate) fn role(conn: &mut Conn, _: &Request, out: &mut Vec<u8>) {
    let me = conn.shared.handle.identity().id;
    let applied = status_of(conn).nodes.iter().find(|row| row.id == me).map_or(0, |row| row.applied_index.0);
    reply::array(out, 3);
    reply::bulk(out, b"master");
    reply::int(out, applied as i64);
    reply::array(out, 0);
}

pub(crate) fn cluster(_: &mut Conn, _: &Request, out: &mut Vec<u8>) {
    reply::error(out, "ERR This instance has cluster support disabled");
}

// ---- what there is nothing of ----

pub(crate) fn acl(_: &mut Conn, _: &Request, out: &mut Vec<u8>) {
    reply::bulk(out, b"default");
}

pub(crate) fn module(_: &mut Conn, _: &Request, out: &mut Vec<u8>) {
    reply::array(out, 0);
}

pub(crate) fn slowlog(_: &mut Conn, request: &Request, out: &mut Vec<u8>) {
    match request.word(1) {
        word if is_word(word, "len") => reply::int(out, 0),
        word if is_word(word, "reset") => reply::ok(out),
        _ => match request.len() {
            2 => reply::array(out, 0),
            3 if integer(request.word(2)).is_some_and(|count| count >= -1) => reply::array(out, 0),
            3 => reply::error(out, "ERR count should be greater than or equal to -1"),
            _ => reply::error(out, "ERR wrong number of arguments for 'slowlog|get' command"),
        },
    }
}

pub(crate) fn latency(_: &mut Conn, request: &Request, out: &mut Vec<u8>) {
    match request.word(1) {
        word if is_word(word, "reset") => reply::int(out, 0),
        _ => reply::array(out, 0),
    }
}

pub(crate) fn lolwut(conn: &mut Conn, _: &Request, out: &mut Vec<u8>) {
    let text = format!("Phalanx ver. {}, Redis ver. {REDIS_VERSION}\n", env!("CARGO_PKG_VERSION"));
    reply::verbatim(out, conn.proto, &text);
}

// ---- LEADER, PHALANX, RAFT ----

/// The leader, and its address as this client reaches it.
fn leader_address(conn: &Conn) -> Option<(u64, String)> {
    let status = status_of(conn);
    let leader = status.cluster.leader?;
    let row = status.nodes.iter().find(|row| row.id == leader)?;
    let by = conn.client.stream.local_addr().map(|at| at.ip().to_canonical().to_string()).unwrap_or_default();
    let is_told = conn.shared.handle.settings().advertise_host.is_none();
    Some((leader.0, if is_told { address::as_seen_by(&by, &row.kv) } else { row.kv.clone() }))
}

pub(crate) fn leader(conn: &mut Conn, _: &Request, out: &mut Vec<u8>) {
    match leader_address(conn) {
        Some((id, address)) => {
            reply::array(out, 2);
            reply::int(out, id as i64);
            reply::bulk(out, address.as_bytes());
        }
        None => reply::nil_array(out, conn.proto),
    }
}

pub(crate) fn phalanx(conn: &mut Conn, request: &Request, out: &mut Vec<u8>) {
    let status = status_of(conn);
    match request.len() {
        2 => reply::verbatim(out, conn.proto, &status_text(&status)),
        3 if is_word(request.word(2), "json") => match serde_json::to_string(&status) {
            Ok(json) => reply::bulk(out, json.as_bytes()),
            Err(why) => reply::error(out, &format!("ERR {why}")),
        },
        _ => reply::error(out, "ERR syntax error"),
    }
}

/// The cluster's health, then a line per node.
fn status_text(status: &Status) -> String {
    let cluster = &status.cluster;
    let leader = cluster.leader.map_or("none".to_string(), |leader| leader.0.to_string());
    let mut text = format!("{} {}: leader {leader}, term {}", cluster.name, word_of(&cluster.verdict), cluster.term);
    for reason in &cluster.reasons {
        text += &format!("; {reason}");
    }
    text.push('\n');
    for row in &status.nodes {
        let standing = match row.status {
            Liveness::Leader => "LEADER",
            Liveness::Online => "ONLINE",
            Liveness::Offline => "OFFLINE",
        };
        text += &format!(
            "node {} {standing} {} {} applied={} lag={} load={} kv={}\n",
            row.id.0,
            word_of(&row.role),
            word_of(&row.membership),
            row.applied_index,
            row.lag,
            row.load,
            row.kv,
        );
    }
    text
}

pub(crate) fn raft(conn: &mut Conn, request: &Request, out: &mut Vec<u8>) {
    if is_word(request.word(1), "leader") {
        return match leader_address(conn) {
            Some((_, address)) => reply::bulk(out, address.as_bytes()),
            None => reply::nil(out, conn.proto),
        };
    }
    let (status, me) = (status_of(conn), conn.shared.handle.identity().id);
    let list = |ids: &[crate::types::NodeId]| ids.iter().map(|id| id.0.to_string()).collect::<Vec<_>>().join(",");
    let own = status.nodes.iter().find(|row| row.id == me);
    let index = |of: fn(&crate::node::views::status::NodeRow) -> u64| own.map_or(0, of).to_string();
    let facts = [
        ("node_id", me.0.to_string()),
        ("role", word_of(&status.node.role)),
        ("membership", word_of(&status.node.membership)),
        ("term", status.cluster.term.to_string()),
        ("leader_id", status.cluster.leader.map_or(String::new(), |leader| leader.0.to_string())),
        ("has_quorum", u8::from(status.cluster.has_quorum).to_string()),
        ("voters", list(&status.cluster.voters)),
        ("learners", list(&status.cluster.learners)),
        ("last_index", index(|row| row.last_index.0)),
        ("commit_index", index(|row| row.commit_index.0)),
        ("applied_index", index(|row| row.applied_index.0)),
    ];
    let mut text = "# Raft\r\n".to_string();
    for (name, value) in facts {
        text += &format!("{name}:{value}\r\n");
    }
    reply::verbatim(out, conn.proto, &text);
}
