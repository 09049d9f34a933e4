//! Commands about the node and its cluster: INFO, CONFIG, TIME, ROLE, CLUSTER, LEADER, PHALANX, RAFT.
//!
//! Every node accepts every command, so to a Redis client each looks like a single master; its state in the cluster is
//! in fields and commands that Redis does not have.
//! Not here: the connection's own state (`connection.rs`), keys (`keys.rs`).

use super::connection::{REDIS_VERSION, matching};
use crate::address;
use crate::limits::{RESP_REQUEST_BYTES_MAX, RESP_UNSENT_BYTES_MAX};
use crate::node::Level;
use crate::node::shared::memory;
use crate::node::views::status::{Liveness, Status};
use crate::node::{Addressing, Reports};
use crate::resp::conn::Conn;
use crate::resp::protocol::parse::{Request, is};
use crate::resp::protocol::reply;
use crate::services::kv::{Op, Value};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{SystemTime, UNIX_EPOCH};

fn status_of(conn: &Conn) -> Status {
    conn.shared.handle.fresh_frame().frame.status.clone()
}

// ---- INFO ----

/// Sections in Redis' order.
const SECTIONS: [&str; 10] =
    ["server", "clients", "memory", "persistence", "stats", "replication", "cpu", "errorstats", "cluster", "keyspace"];

pub(crate) fn info(conn: &mut Conn, request: &Request, out: &mut Vec<u8>) {
    let is_all = |word: &[u8]| is(word, "all") || is(word, "default") || is(word, "everything");
    let takes_all = request.len() == 1 || request.words().skip(1).any(is_all);
    let mut text = String::new();
    let status = status_of(conn);
    for section in SECTIONS {
        if !takes_all && !request.words().skip(1).any(|word| is(word, section)) {
            continue;
        }
        if !text.is_empty() {
            text += "\r\n";
        }
        let mut title = section.to_string();
        title[..1].make_ascii_uppercase();
        let title = if section == "cpu" { "CPU".to_string() } else { title };
        text += &format!("# {title}\r\n");
        for (name, value) in section_of(conn, section, &status) {
            text += &format!("{name}:{value}\r\n");
        }
    }
    reply::verbatim(out, conn.proto, &text);
}

fn section_of(conn: &mut Conn, section: &str, status: &Status) -> Vec<(&'static str, String)> {
    let shared = &conn.shared;
    let settings = shared.handle.settings();
    let me = shared.handle.identity().id;
    let uptime = shared.started.elapsed().as_secs();
    let own = status.nodes.iter().find(|row| row.id == me);
    let text = |value: &str| value.to_string();
    match section {
        "server" => vec![
            ("redis_version", text(REDIS_VERSION)),
            ("redis_mode", text("standalone")),
            ("phalanx_version", status.node.version.clone()),
            ("phalanx_cluster", settings.cluster_name.clone()),
            ("os", text(std::env::consts::OS)),
            ("arch_bits", usize::BITS.to_string()),
            ("process_id", std::process::id().to_string()),
            ("run_id", shared.run_id.simple().to_string()),
            ("tcp_port", (u64::from(settings.kv_port_base) + me.0).to_string()),
            ("uptime_in_seconds", uptime.to_string()),
            ("uptime_in_days", (uptime / 86400).to_string()),
        ],
        "clients" => vec![
            ("connected_clients", conn.clients.count().to_string()),
            ("maxclients", settings.connections_max.to_string()),
            ("blocked_clients", text("0")),
        ],
        "memory" => vec![("used_memory", memory::resident_bytes().to_string()), ("maxmemory", text("0"))],
        "persistence" => vec![("loading", text("0")), ("async_loading", text("0")), ("aof_enabled", text("1"))],
        "stats" => vec![
            ("total_connections_received", shared.counts.accepted.load(Relaxed).to_string()),
            ("total_commands_processed", shared.counts.commands.load(Relaxed).to_string()),
            ("rejected_connections", shared.counts.turned_away.load(Relaxed).to_string()),
        ],
        "replication" => vec![
            ("role", text("master")),
            ("connected_slaves", text("0")),
            ("master_repl_offset", own.map_or(0, |row| row.applied_index.0).to_string()),
            ("phalanx_node", me.0.to_string()),
            ("phalanx_role", own.map_or(String::new(), |row| word_of(&row.role))),
            ("phalanx_leader", status.cluster.leader.map_or(String::new(), |leader| leader.0.to_string())),
            ("phalanx_term", status.cluster.term.to_string()),
        ],
        "cluster" => vec![("cluster_enabled", text("0"))],
        "keyspace" => match conn.ask(vec![Op::Count], Level::Eventual).ok().as_deref() {
            Some([Value::Int(keys @ 1..)]) => vec![("db0", format!("keys={keys},expires=0,avg_ttl=0"))],
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}

/// The name of a unit variant in JSON.
fn word_of(value: &impl serde::Serialize) -> String {
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
        ("maxmemory", text("0")),
        ("maxmemory-policy", text("noeviction")),
        ("port", port.to_string()),
        ("proto-max-bulk-len", RESP_REQUEST_BYTES_MAX.to_string()),
        ("replica-read-only", text("no")),
        ("save", text("")),
        ("slave-read-only", text("no")),
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
        3 if is(request.word(2), "json") => match serde_json::to_string(&status) {
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
    if is(request.word(1), "leader") {
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
