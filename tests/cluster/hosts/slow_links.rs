//! Slow and lossy links: a cluster elects, writes and keeps its leader.
//!
//! Not here: figures of such links (`phalanx bench failover --only slow-links`).

use super::is_apart;
use crate::EXE;
use phalanx::lab::hosts::{CLIENT_PASSWORD, Hosts, Link};
use phalanx::lab::{Result, web};
use phalanx::node::views::status::Standing;
use serde_json::json;
use std::time::{Duration, Instant};

/// What happened over links of one kind.
#[derive(Debug)]
struct Measured {
    /// In ascending order.
    writes: Vec<Duration>,
    elections: u64,
}

impl Measured {
    fn percentile(&self, percent: usize) -> Duration {
        self.writes[(self.writes.len() - 1) * percent / 100]
    }
}

/// Creates a cluster of five hosts over links like `first`.
fn start(first: Link) -> Result<Hosts> {
    let mut hosts = Hosts::prepare(EXE, 5, &json!({"request_timeout_ms": 20_000, "jobs_enabled": false}))?;
    let all = hosts.ids();
    hosts.link(&all, &all, first)?;
    let begun = Instant::now();
    for id in 1..=5 {
        hosts.cluster.spawn(id, &[])?;
    }
    let everyone = || {
        let rows = hosts.cluster.status(1).ok()?.nodes;
        (rows.iter().filter(|row| row.membership == Standing::Voter).count() == 5).then_some(())
    };
    hosts.cluster.wait_until("all five are voters", Duration::from_secs(180), everyone)?;
    println!("five voters after {:?}", begun.elapsed());
    Ok(hosts)
}

fn put(hosts: &Hosts, id: u64) -> bool {
    let at = Instant::now();
    let patience = Duration::from_secs(30);
    match web::ask_with(
        Some(CLIENT_PASSWORD),
        &hosts.cluster.http(id),
        "PUT",
        "/v1/kv/key",
        Some(&json!("value")),
        patience,
    ) {
        Ok(answer) if answer.status == 200 => true,
        other => {
            println!("through node {id} after {:?}: {other:?}", at.elapsed());
            false
        }
    }
}

/// Creates a cluster of five hosts over links like `first`, and writes over links like `then`, through one node after
/// the other.
fn over(first: Link, then: Link, lasts: Duration) -> Result<(Hosts, Measured)> {
    let mut hosts = start(first)?;
    let all = hosts.ids();
    hosts.link(&all, &all, then)?;
    let term = |hosts: &Hosts| hosts.cluster.status(1).map(|status| status.cluster.term.0);
    let before = term(&hosts)?;
    let (until, mut writes, mut unanswered) = (Instant::now() + lasts, Vec::new(), 0);
    for id in all.iter().cycle().take_while(|_| Instant::now() < until) {
        let at = Instant::now();
        if put(&hosts, *id) { writes.push(at.elapsed()) } else { unanswered += 1 }
    }
    assert_eq!(unanswered, 0, "requests within {:?}", Duration::from_secs(20));
    writes.sort_unstable();
    let elections = term(&hosts)? - before;
    let measured = Measured { writes, elections };
    let (median, p99) = (measured.percentile(50), measured.percentile(99));
    let longest = measured.writes.last();
    println!(
        "{then:?}: {} writes, median {median:?}, p99 {p99:?}, longest {longest:?}, {elections} elections",
        measured.writes.len()
    );
    Ok((hosts, measured))
}

#[test]
fn hosts_300_ms_apart_create_a_cluster_and_keep_its_leader() -> Result<()> {
    if !is_apart("hosts::slow_links::hosts_300_ms_apart_create_a_cluster_and_keep_its_leader") {
        return Ok(());
    }
    let link = Link { delay_ms: 300, ..Link::WHOLE };
    let (_hosts, measured) = over(link, link, Duration::from_secs(20))?;
    assert!(measured.writes.len() >= 5, "{measured:?}");
    assert_eq!(measured.elections, 0, "a leader that was alive was deposed");
    Ok(())
}

#[test]
fn a_leader_stays_where_links_lose_10_percent() -> Result<()> {
    if !is_apart("hosts::slow_links::a_leader_stays_where_links_lose_10_percent") {
        return Ok(());
    }
    let (_hosts, measured) = over(Link::WHOLE, Link { loss: 0.1, delay_ms: 5, jitter_ms: 5 }, Duration::from_secs(20))?;
    assert!(measured.writes.len() >= 5, "{measured:?}");
    // The links were good until then: the nodes may have to learn that they no longer are.
    assert!(measured.elections <= 1, "{} elections in twenty seconds", measured.elections);
    Ok(())
}

/// An answer that is lost with its connection, and not asked for again, makes a request wait for its deadline: one of
/// some 1,500 writes. Over TCP alone the median of a write is near two seconds, the longest take ten and more, and
/// leaders are lost.
#[test]
fn hosts_whose_links_lose_30_percent_create_a_cluster_and_keep_its_leader() -> Result<()> {
    if !is_apart("hosts::slow_links::hosts_whose_links_lose_30_percent_create_a_cluster_and_keep_its_leader") {
        return Ok(());
    }
    let link = Link { loss: 0.3, delay_ms: 5, jitter_ms: 5 };
    let (hosts, measured) = over(link, link, Duration::from_secs(60))?;
    assert_eq!(measured.elections, 0, "a leader that was alive was deposed");
    assert!(measured.percentile(50) < Duration::from_millis(300), "{measured:?}");
    assert!(measured.percentile(99) < Duration::from_secs(3), "{measured:?}");
    let metrics = hosts.cluster.get(1, "/metrics")?.text();
    assert!(metrics.lines().any(|line| line.starts_with("phalanx_link_lossy{") && line.ends_with(" 1")), "{metrics}");
    Ok(())
}
