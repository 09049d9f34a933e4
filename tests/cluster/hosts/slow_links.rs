//! Slow and lossy links: the cluster keeps its leader.

use super::{CLIENT_PASSWORD, Hosts, Link, is_apart};
use phalanx::lab::{Result, web};
use phalanx::node::views::status::Standing;
use serde_json::json;
use std::time::{Duration, Instant};

/// Creates a cluster of five hosts over links like `first`, writes over links like `then` for twenty seconds, and returns
/// the times of the writes and the number of elections meanwhile.
fn over(first: Link, then: Link) -> Result<(Vec<Duration>, u64)> {
    let mut hosts = Hosts::prepare(5, &json!({"request_timeout_ms": 20_000}))?;
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
    hosts.cluster.wait_until("all five are voters", Duration::from_secs(120), everyone)?;
    println!("five voters after {:?}", begun.elapsed());
    hosts.link(&all, &all, then)?;
    let term = || hosts.cluster.status(1).map(|status| status.cluster.term.0);
    let before = term()?;
    let (until, mut times, mut unanswered) = (Instant::now() + Duration::from_secs(20), Vec::new(), 0);
    for id in all.iter().cycle().take_while(|_| Instant::now() < until) {
        let at = Instant::now();
        match web::ask_with(
            Some(CLIENT_PASSWORD),
            &hosts.cluster.http(*id),
            "PUT",
            "/v1/kv/key",
            Some(&json!("value")),
            Duration::from_secs(30),
        ) {
            Ok(answer) if answer.status == 200 => times.push(at.elapsed()),
            other => {
                println!("through node {id} after {:?}: {other:?}", at.elapsed());
                unanswered += 1;
            }
        }
    }
    assert_eq!(unanswered, 0, "requests within {:?}", Duration::from_secs(20));
    times.sort_unstable();
    println!("{then:?}: {} writes, median {:?}, longest {:?}", times.len(), times[times.len() / 2], times.last());
    Ok((times, term()? - before))
}

#[test]
fn hosts_300_ms_apart_create_a_cluster_and_keep_its_leader() -> Result<()> {
    if !is_apart("hosts::slow_links::hosts_300_ms_apart_create_a_cluster_and_keep_its_leader") {
        return Ok(());
    }
    let link = Link { delay_ms: 300, ..Link::WHOLE };
    let (times, elections) = over(link, link)?;
    assert!(times.len() >= 5, "{times:?}");
    assert_eq!(elections, 0, "a leader that was alive was deposed");
    Ok(())
}

#[test]
fn a_leader_stays_where_links_lose_10_percent() -> Result<()> {
    if !is_apart("hosts::slow_links::a_leader_stays_where_links_lose_10_percent") {
        return Ok(());
    }
    let (times, elections) = over(Link::WHOLE, Link { loss: 0.1, delay_ms: 5, jitter_ms: 5 })?;
    assert!(times.len() >= 5, "{times:?}");
    // The links were good until then: the nodes may have to learn that they no longer are.
    assert!(elections <= 1, "{elections} elections in twenty seconds");
    Ok(())
}
