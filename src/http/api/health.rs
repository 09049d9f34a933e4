//! `/v1/status`, `/v1/events`, `/v1/gossip`, `/livez`, `/readyz`, `/metrics`: how the node and its cluster are.
//!
//! Not here: what the figures mean (`node/views/status.rs`), collecting them (`node/reports/metrics.rs`).

use crate::address;
use crate::http::outcome::answered;
use crate::http::protocol::error::ApiError;
use crate::http::protocol::response::Response;
use crate::http::request::{ApiResult, Request};
use crate::node::views::status::{ClusterStatus, EventPosition, Health};
use crate::node::{Level, Metric, MetricValue, counter, gauge};
use crate::services::Replicated as _;
use crate::services::sql::{Database, Query};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, prometheus_text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// Longest wait of one request for events.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// `GET /v1/status`: the newest frame of the monitor page.
pub(crate) fn status(request: &Request) -> ApiResult {
    let frame = request.server.host.fresh_frame();
    let Some(by) = request.server.host_for(request.head, request.client) else {
        return Ok(Response::json(200, &frame.frame.status));
    };
    let mut status = frame.frame.status.clone();
    for row in &mut status.nodes {
        for at in [&mut row.http, &mut row.kv, &mut row.peer] {
            *at = address::as_seen_by(&by, at);
        }
    }
    Ok(Response::json(200, &status))
}

/// `GET /v1/gossip`
pub(crate) fn gossip(request: &Request) -> ApiResult {
    Ok(Response::json(200, &request.server.host.gossip_json()))
}

/// `GET /v1/events`: the events newer than `since`; with `wait=10s` it waits for news. With the `incarnation` of the
/// response that `since` comes from, a restart of the node is noticed: then all its events are newer.
pub(crate) fn events(request: &Request) -> ApiResult {
    let (server, head) = (request.server, request.head);
    let Ok(seq) = head.query("since").unwrap_or("0").parse() else {
        return Err(ApiError::refused(400, "since must be the sequence number of an event"));
    };
    let Ok(incarnation) = head.query("incarnation").map(str::parse).transpose() else {
        return Err(ApiError::refused(400, "incarnation must be that of an earlier response"));
    };
    let since = EventPosition { incarnation, seq };
    let page = match request.params().duration("wait", WAIT_MAX)? {
        None => server.host.events_since(since),
        Some(wait) => server.host.wait_events(since, Instant::now() + wait),
    };
    Ok(Response::json(200, &page))
}

/// `GET /livez`
pub(crate) fn live(_: &Request) -> ApiResult {
    Ok(Response::text(200, "alive\n"))
}

/// `GET /readyz`; with `noleader` it asks for no leader, with `sync` it waits until the node has applied all that is
/// committed.
pub(crate) fn ready(request: &Request) -> ApiResult {
    let (host, params) = (&request.server.host, request.params());
    let timeout = params.duration("timeout", WAIT_MAX)?;
    if params.is_set("noleader") {
        return Ok(Response::text(200, "ready\n"));
    }
    if params.is_set("sync") {
        let deadline = timeout.map_or_else(|| request.deadline(), |wait| Instant::now() + wait);
        answered(host.query(Database::encode_query(&Query::Applied), Level::Linearizable, deadline))?;
    }
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

/// A node of a cluster that refuses writes still serves reads: it is ready, and reports what does not work.
fn ready_text(cluster: &ClusterStatus) -> String {
    let mut text = "[+] knows a leader\n[+] has caught up\n".to_string();
    if cluster.verdict == Health::Unavailable {
        text.extend(cluster.reasons.iter().map(|reason| format!("[!] {reason}\n")));
    }
    text + "ready\n"
}

/// `GET /metrics` in Prometheus' text format 0.0.4: figures of one name are grouped under one heading.
pub(crate) fn metrics(request: &Request) -> ApiResult {
    let (mut figures, counts) = (request.server.host.metrics(), &request.server.counts);
    figures.extend(counts.times.rows());
    figures.push(gauge("phalanx_http_connections_open", "Open HTTP connections.", counts.open.load(Relaxed)));
    for (name, help, value) in [
        ("phalanx_http_connections_total", "HTTP connections accepted.", &counts.accepted),
        ("phalanx_http_turned_away_total", "HTTP connections refused at the connection limit.", &counts.turned_away),
        ("phalanx_http_accept_errors_total", "Failed accept calls.", &counts.accept_errors),
        ("phalanx_http_requests_total", "HTTP requests.", &counts.requests),
        ("phalanx_http_refused_total", "HTTP requests refused as malformed or not allowed.", &counts.refused_requests),
        (
            "phalanx_http_slow_readers_total",
            "Streams closed because the client did not read.",
            &counts.slow_readers_dropped,
        ),
    ] {
        figures.push(counter(name, help, value.load(Relaxed)));
    }
    figures.sort_by_key(|figure| figure.name);
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape(figures)));
    let mut text = String::with_capacity(4096);
    prometheus_text::encode(&mut text, &registry).expect("a String takes every write");
    Ok(Response { content_type: prometheus_text::CONTENT_TYPE, ..Response::text(200, text) })
}

/// The figures of one scrape, by name. A collector, because registered metrics would get a full stop after their help.
#[derive(Debug)]
struct Scrape(Vec<Metric>);

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        for family in self.0.chunk_by(|one, other| one.name == other.name) {
            let kind = match family[0].value {
                MetricValue::Counter(_) => MetricType::Counter,
                MetricValue::Gauge(_) => MetricType::Gauge,
                MetricValue::Histogram { .. } => MetricType::Histogram,
            };
            // The encoder adds the suffix itself.
            let name = family[0].name.trim_end_matches("_total");
            let mut metrics = encoder.encode_descriptor(name, family[0].help, None, kind)?;
            for metric in family {
                let mut encoder = metrics.encode_family(&metric.labels)?;
                match &metric.value {
                    MetricValue::Counter(value) if value.fract() == 0.0 => {
                        encoder.encode_counter::<NoLabelSet, _, f64>(&(*value as u64), None)?;
                    }
                    MetricValue::Counter(value) => encoder.encode_counter::<NoLabelSet, _, f64>(value, None)?,
                    MetricValue::Gauge(value) if value.fract() == 0.0 => encoder.encode_gauge(&(*value as i64))?,
                    MetricValue::Gauge(value) => encoder.encode_gauge(value)?,
                    MetricValue::Histogram { sum, buckets } => {
                        let count = buckets.iter().map(|(_, count)| count).sum();
                        encoder.encode_histogram::<NoLabelSet>(*sum, count, buckets, None)?;
                    }
                }
            }
        }
        Ok(())
    }
}
