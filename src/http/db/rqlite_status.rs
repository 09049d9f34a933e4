//! `/status` and `/nodes`: the cluster as rqlite's clients look for it, to find all nodes and the leader.
//!
//! Only what the clients read is there, under rqlite's names; `/v1/status` has the rest. Source: rqlite.io/docs/api,
//! `http/nodes.go` of rqlite 10; the clients gorqlite, rqlite-js and the rqlite shell.

use super::rqlite_json::write_json;
use crate::http::protocol::response::Response;
use crate::http::request::{ApiResult, Request};
use crate::node::views::status::{NodeRow, Status};
use crate::raft::Role;
use crate::types::{Liveness, Standing};
use serde_json::{Value as Json, json};
use std::num::NonZero;

/// The version of rqlite whose HTTP API this is, as clients ask for it.
pub(crate) const VERSION: &str = "v8.36.0";

/// `GET /status`
pub(crate) fn status(request: &Request) -> ApiResult {
    let frame = request.server.host.fresh_frame();
    let status = &frame.frame.status;
    let row = |id| status.nodes.iter().find(|row| row.id == id);
    let of_raft = |row: &NodeRow| json!({"addr": row.peer, "node_id": row.id.0.to_string()});
    let leader = status.cluster.leader.and_then(row).map_or_else(|| json!({"addr": "", "node_id": ""}), of_raft);
    let nodes = members(status, true).map(|row| {
        json!({"id": row.id.0.to_string(), "addr": row.peer, "suffrage": if is_voter(row) { "Voter" } else { "Nonvoter" }})
    });
    let own = row(status.node.id);
    let index = |of: fn(&NodeRow) -> u64| own.map_or(0, of);
    let state = match status.node.role {
        Role::Leader => "Leader",
        Role::Follower => "Follower",
        Role::Candidate => "Candidate",
    };
    let body = json!({
        "build": {"version": VERSION, "phalanx": status.node.version},
        "http": {"bind_addr": own.map_or("".into(), |row| request.seen(&row.http))},
        "runtime": {"num_cpu": std::thread::available_parallelism().map_or(1, NonZero::get)},
        "node": {"uptime": format!("{}s", status.node.uptime_ms as f64 / 1e3)},
        "store": {
            "node_id": status.node.id.0.to_string(),
            "addr": own.map_or("", |row| &row.peer),
            "ready": request.server.host.readiness().is_ok(),
            "leader": leader,
            "nodes": nodes.collect::<Vec<_>>(),
            "db_applied_index": index(|row| row.applied_index.0),
            "raft": {
                "state": state,
                "term": status.cluster.term.0,
                "voter": own.is_some_and(is_voter),
                "num_peers": status.cluster.voters.len().saturating_sub(1),
                "commit_index": index(|row| row.commit_index.0),
                "applied_index": index(|row| row.applied_index.0),
                "last_log_index": index(|row| row.last_index.0),
            },
        },
    });
    Ok(written(request, &body))
}

/// `GET /nodes`: by id; with `ver=2` as `{"nodes": [...]}`.
pub(crate) fn nodes(request: &Request) -> ApiResult {
    let frame = request.server.host.fresh_frame();
    let status = &frame.frame.status;
    let of_node = |row: &NodeRow| {
        let mut node = json!({
            "id": row.id.0.to_string(),
            "api_addr": format!("http://{}", request.seen(&row.http)),
            "addr": row.peer,
            "version": VERSION,
            "voter": is_voter(row),
            "reachable": row.status != Liveness::Offline,
            "leader": status.cluster.leader == Some(row.id),
            "time": row.heartbeat_age_ms.unwrap_or(0) as f64 / 1e3,
        });
        if row.status == Liveness::Offline {
            node["error"] = "no heartbeat".into();
        }
        node
    };
    let rows = members(status, request.params().is_set("nonvoters"));
    let body = match request.params().get("ver") {
        Some("2") => json!({"nodes": rows.map(of_node).collect::<Vec<_>>()}),
        _ => rows.map(|row| (row.id.0.to_string(), of_node(row))).collect::<serde_json::Map<_, _>>().into(),
    };
    Ok(written(request, &body))
}

fn members(status: &Status, has_learners: bool) -> impl Iterator<Item = &NodeRow> {
    status.nodes.iter().filter(move |row| is_voter(row) || (has_learners && row.membership == Standing::Learner))
}

fn is_voter(row: &NodeRow) -> bool {
    row.membership == Standing::Voter
}

fn written(request: &Request, body: &Json) -> Response {
    let text = write_json(body, request.params().is_set("pretty"));
    Response { content_type: "application/json", body: text.into(), ..Response::empty(200) }
}
