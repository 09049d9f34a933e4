//! The datagram port of real nodes: a firewall that drops all datagrams, and unknown senders.

use super::is_apart;
use crate::EXE;
use phalanx::lab::hosts::{CLIENT_PASSWORD, Hosts, Link};
use phalanx::lab::{Result, web};
use serde_json::json;
use std::net::UdpSocket;
use std::time::Duration;

/// The sum of a metric's rows that begin so, of one node.
fn metric(hosts: &Hosts, id: u64, row: &str) -> Result<u64> {
    let text = hosts.cluster.get(id, "/metrics")?.text();
    let rows = text.lines().filter(|line| line.starts_with(row));
    Ok(rows.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64)
}

#[test]
fn a_firewall_that_drops_datagrams_leaves_the_connections() -> Result<()> {
    if !is_apart("hosts::datagrams::a_firewall_that_drops_datagrams_leaves_the_connections") {
        return Ok(());
    }
    let mut hosts = Hosts::prepare(EXE, 3, &json!({"request_timeout_ms": 20_000, "jobs_enabled": false}))?;
    hosts.drop_datagrams()?;
    for id in hosts.ids() {
        hosts.cluster.spawn(id, &[])?;
    }
    let leader = hosts.cluster.settle()?;
    let all = hosts.ids();
    hosts.link(&all, &all, Link { loss: 0.1, delay_ms: 5, jitter_ms: 5 })?;
    for round in 0..20 {
        for id in &all {
            let patience = Duration::from_secs(20);
            let answer = web::ask_with(
                Some(CLIENT_PASSWORD),
                &hosts.cluster.http(*id),
                "PUT",
                "/v1/kv/key",
                Some(&json!(round)),
                patience,
            );
            assert!(answer.as_ref().is_ok_and(|answer| answer.status == 200), "round {round}, node {id}: {answer:?}");
        }
    }
    let sent = metric(&hosts, leader, "phalanx_datagrams_sent_total ")?;
    // Some in vain, and then one in a second to each other node.
    assert!((1..600).contains(&sent), "{sent} datagrams were sent");
    for id in all {
        assert_eq!(metric(&hosts, id, "phalanx_datagrams_received_total ")?, 0);
    }
    Ok(())
}

#[test]
fn datagrams_of_unknown_senders_are_counted_and_never_answered() -> Result<()> {
    if !is_apart("hosts::datagrams::datagrams_of_unknown_senders_are_counted_and_never_answered") {
        return Ok(());
    }
    let hosts = Hosts::ready(EXE, 3, &json!({"jobs_enabled": false}))?;
    let unknown = UdpSocket::bind("10.77.0.254:0").unwrap();
    unknown.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let before = metric(&hosts, 1, "phalanx_datagrams_refused_total{why=\"unknown\"}")?;
    let mut rng = fastrand::Rng::with_seed(3);
    for len in (0..1400).step_by(14) {
        let bytes: Vec<u8> = (0..len).map(|_| rng.u8(..)).collect();
        unknown.send_to(&bytes, hosts.cluster.peer(1)).unwrap();
    }
    hosts.cluster.wait_explained("strange datagrams are counted", Duration::from_secs(10), || {
        let counted =
            metric(&hosts, 1, "phalanx_datagrams_refused_total{why=\"unknown\"}").map_err(|e| e.to_string())?;
        if counted >= before + 100 { Ok(()) } else { Err(format!("{counted} of {before} + 100")) }
    })?;
    assert!(unknown.recv(&mut [0; 2000]).is_err(), "a datagram came back");
    hosts.cluster.put("after", "x")?;
    assert_eq!(hosts.cluster.settle()?, hosts.cluster.wait_leader()?);
    Ok(())
}
