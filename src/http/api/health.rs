//! `/v1/status`, `/v1/events`, `/v1/gossip`, `/livez`, `/readyz`, `/metrics`: how the node and its cluster are.
//!
//! Not here: what the figures mean (`node/views/status.rs`), collecting them (`node/reports/metrics.rs`).

use crate::http::protocol::error::ApiError;
use crate::http::protocol::params;
use crate::http::protocol::response::Response;
use crate::http::request::{ApiResult, Request};
use crate::node::views::status::{ClusterStatus, Verdict};
use serde_json::json;
use std::fmt::Write;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// Longest wait of one request for events.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// `GET /v1/status`: the newest frame of the monitor page.
pub(crate) fn status(request: &Request) -> ApiResult {
    Ok(Response::json(200, &request.server.host.fresh_frame().frame.status))
}

/// `GET /v1/gossip`
pub(crate) fn gossip(request: &Request) -> ApiResult {
    Ok(Response::json(200, &request.server.host.gossip_json()))
}

/// `GET /v1/events`: `{"events": [...]}` newer than `since`; with `wait=10s` it waits for news.
pub(crate) fn events(request: &Request) -> ApiResult {
    let (server, head) = (request.server, request.head);
    let Ok(since) = head.query("since").unwrap_or("0").parse() else {
        return Err(ApiError::refused(400, "since must be the sequence number of an event"));
    };
    let events = match head.query("wait").map(params::span) {
        None => server.host.events_since(since),
        Some(Some(wait)) => server.host.wait_events(since, Instant::now() + wait.min(WAIT_MAX)),
        Some(None) => return Err(ApiError::refused(400, "wait must be a duration, for example wait=10s")),
    };
    Ok(Response::json(200, &json!({"events": events})))
}

/// `GET /livez`
pub(crate) fn live(_: &Request) -> ApiResult {
    Ok(Response::text(200, "alive\n"))
}

/// `GET /readyz`
pub(crate) fn ready(request: &Request) -> ApiResult {
    let host = &request.server.host;
    let is_verbose = request.head.query("verbose").is_some();
    Ok(match host.readiness() {
        Ok(()) if is_verbose => Response::text(200, ready_text(&host.fresh_frame().frame.status.cluster)),
        Ok(()) => Response::text(200, "ready\n"),
        Err(missing) if is_verbose => {
            Response::text(503, missing.iter().map(|what| format!("[-] {what}\n")).collect::<String>() + "not ready\n")
        }
        Err(_) => Response::text(503, "not ready\n"),
    })
}

/// A node whose cluster refuses writes still serves reads: it is ready, and says what does not work.
fn ready_text(cluster: &ClusterStatus) -> String {
    let mut text = "[+] knows a leader\n[+] has caught up\n".to_string();
    if cluster.verdict == Verdict::Unavailable {
        text.extend(cluster.reasons.iter().map(|reason| format!("[!] {reason}\n")));
    }
    text + "ready\n"
}

/// `GET /metrics` in Prometheus' text format 0.0.4: figures of one name stand together under one heading.
pub(crate) fn metrics(request: &Request) -> ApiResult {
    let server = request.server;
    let mut figures = server.host.metrics();
    figures.sort_by_key(|figure| figure.name);
    let mut text = String::with_capacity(4096);
    let mut heading = "";
    for figure in &figures {
        if heading != figure.name {
            heading = figure.name;
            let _ = write!(
                text,
                "# HELP {} {}\n# TYPE {} {}\n",
                figure.name,
                escape(figure.help),
                figure.name,
                figure.kind
            );
        }
        text.push_str(figure.name);
        for (at, (label, value)) in figure.labels.iter().enumerate() {
            let _ =
                write!(text, "{}{label}=\"{}\"", if at == 0 { '{' } else { ',' }, escape(value).replace('"', "\\\""));
        }
        let _ = writeln!(text, "{} {}", if figure.labels.is_empty() { "" } else { "}" }, figure.value);
    }
    let counts = &server.counts;
    for (name, kind, help, value) in [
        ("phalanx_http_connections_open", "gauge", "Open HTTP connections.", &counts.open),
        ("phalanx_http_connections_total", "counter", "HTTP connections accepted.", &counts.accepted),
        (
            "phalanx_http_turned_away_total",
            "counter",
            "HTTP connections refused at the connection limit.",
            &counts.turned_away,
        ),
        ("phalanx_http_accept_errors_total", "counter", "Failed accept calls.", &counts.accept_errors),
        ("phalanx_http_requests_total", "counter", "HTTP requests.", &counts.requests),
        (
            "phalanx_http_refused_total",
            "counter",
            "HTTP requests refused as malformed or not allowed.",
            &counts.refused_requests,
        ),
        (
            "phalanx_http_slow_readers_total",
            "counter",
            "Streams closed because the client did not read.",
            &counts.slow_readers_dropped,
        ),
    ] {
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {}\n", value.load(Relaxed));
    }
    Ok(Response { content_type: "text/plain; version=0.0.4; charset=utf-8", ..Response::text(200, text) })
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n")
}
