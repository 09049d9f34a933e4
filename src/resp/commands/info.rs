//! INFO: this node and its cluster, in Redis' sections.
//!
//! Every node accepts every command, so to a Redis client each looks like a single master; its state in the cluster is
//! in fields that Redis does not have.

use super::connection::REDIS_VERSION;
use super::server::{status_of, word_of};
use crate::node::Level;
use crate::node::shared::memory;
use crate::node::views::status::Status;
use crate::node::{Addressing, Connections};
use crate::resp::conn::Conn;
use crate::resp::protocol::parse::{Request, is_word};
use crate::resp::protocol::reply;
use crate::services::kv::{Op, Value};
use std::sync::atomic::Ordering::Relaxed;

/// Sections in Redis' order.
const SECTIONS: [&str; 10] =
    ["server", "clients", "memory", "persistence", "stats", "replication", "cpu", "errorstats", "cluster", "keyspace"];

pub(crate) fn info(conn: &mut Conn, request: &Request, out: &mut Vec<u8>) {
    let is_all = |word: &[u8]| is_word(word, "all") || is_word(word, "default") || is_word(word, "everything");
    let takes_all = request.len() == 1 || request.words().skip(1).any(is_all);
    let mut text = String::new();
    let status = status_of(conn);
    for section in SECTIONS {
        if !takes_all && !request.words().skip(1).any(|word| is_word(word, section)) {
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
        "memory" => {
            let (data, connections) = (shared.handle.kv_bytes(), shared.handle.memory().used() as u64);
            vec![
                ("used_memory", (data + connections).to_string()),
                ("used_memory_rss", memory::resident_bytes().to_string()),
                ("used_memory_dataset", data.to_string()),
                ("maxmemory", (settings.quota_kv_mb << 20).to_string()),
                ("maxmemory_policy", text("noeviction")),
            ]
        }
        "persistence" => vec![("loading", text("0")), ("async_loading", text("0")), ("aof_enabled", text("1"))],
        "stats" => vec![
            ("total_connections_received", shared.counts.accepted.load(Relaxed).to_string()),
            ("total_commands_processed", shared.counts.commands.load(Relaxed).to_string()),
            ("rejected_connections", shared.counts.rejected.load(Relaxed).to_string()),
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
        "cpu" => processor_time(),
        "keyspace" => match conn.ask(vec![Op::Count, Op::CountExpiring], Level::Eventual).ok().as_deref() {
            Some([Value::Int(keys @ 1..), Value::Int(expires)]) => {
                vec![("db0", format!("keys={keys},expires={expires},avg_ttl=0"))]
            }
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}

/// Processor time of this process and of its children that have ended, in seconds; nothing where the system does not
/// report it.
fn processor_time() -> Vec<(&'static str, String)> {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name of the program, in parentheses, may contain blanks. User time is field 14 of proc(5).
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let seconds = |place: usize| {
        let ticks: f64 = fields.get(place)?.parse().ok()?;
        Some(format!("{:.6}", ticks / rustix::param::clock_ticks_per_second() as f64))
    };
    let names =
        [("used_cpu_sys", 12), ("used_cpu_user", 11), ("used_cpu_sys_children", 14), ("used_cpu_user_children", 13)];
    names.into_iter().filter_map(|(name, place)| Some((name, seconds(place)?))).collect()
}
