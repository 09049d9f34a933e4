//! Clients go only to nodes that can serve them: a node that has lost its way to the leader takes another, one that has
//! none takes no clients, and one that vanishes or freezes gets those of the first moment only.

use super::is_apart;
use crate::EXE;
use phalanx::lab::hosts::{CLIENT_PASSWORD, Hosts, Link};
use phalanx::lab::{Result, poll, web};
use serde_json::json;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(15);

/// Where the front door of a host sends a client, or the status that it answers with.
fn knock(hosts: &Hosts, at: u64, path: &str) -> std::result::Result<u64, u16> {
    let door = format!("10.77.0.{at}:{}", hosts.cluster.front().rsplit(':').next().unwrap());
    let within = Duration::from_secs(5);
    let answer = web::ask_with(Some(CLIENT_PASSWORD), &door, "GET", path, None, within).unwrap();
    let to = answer.header("location").map(str::to_string);
    match to.and_then(|to| hosts.ids().into_iter().find(|id| to == format!("http://{}{path}", hosts.cluster.http(*id))))
    {
        Some(id) => Ok(id),
        None => Err(answer.status),
    }
}

fn is_ready(hosts: &Hosts, id: u64) -> bool {
    hosts.cluster.get(id, "/readyz").is_ok_and(|answer| answer.status == 200)
}

/// Waits until the health, as a node sees it, is exactly this.
fn wait_health(hosts: &Hosts, at: u64, reasons: &[String]) -> Result<()> {
    hosts.cluster.wait_explained(&format!("node {at} says {reasons:?}"), PATIENCE, || {
        let status = hosts.cluster.status(at).map_err(|e| e.to_string())?;
        if status.cluster.reasons == reasons { Ok(()) } else { Err(format!("{:?}", status.cluster.reasons)) }
    })
}

fn metric(hosts: &Hosts, id: u64, name: &str) -> f64 {
    let text = hosts.cluster.get(id, "/metrics").unwrap().text();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn a_node_that_is_cut_off_from_the_leader_alone_reaches_it_through_another() -> Result<()> {
    if !is_apart("hosts::dispatch::a_node_that_is_cut_off_from_the_leader_alone_reaches_it_through_another") {
        return Ok(());
    }
    let mut hosts = Hosts::ready(EXE, 3, &json!({"jobs_enabled": false}))?;
    let leader = hosts.cluster.settle()?;
    let cut = if leader == 1 { 2 } else { 1 };
    let between = 6 - leader - cut;
    let term = hosts.cluster.status(leader)?.cluster.term;
    hosts.cut(&[cut], &[leader])?;
    let begun = Instant::now();
    // A write through it is never refused: it waits until the node has a way again.
    let answer = hosts.cluster.post(cut, "/v1/kv/n", &json!({"incr": 1}))?;
    assert_eq!(answer.status, 200, "{}", answer.text());
    println!("the first write after the cut took {:?}", begun.elapsed());
    let told = [format!("node {cut} reaches the leader through node {between}")];
    for at in [leader, cut, between] {
        wait_health(&hosts, at, &told)?;
    }
    println!("all say so after {:?}", begun.elapsed());
    let mut longest = Duration::ZERO;
    for n in 2..=40 {
        let at = Instant::now();
        let answer = hosts.cluster.post(cut, "/v1/kv/n", &json!({"incr": 1}))?;
        assert_eq!((answer.status, answer.json()["value"].as_i64()), (200, Some(n)), "{}", answer.text());
        longest = longest.max(at.elapsed());
        assert_eq!(hosts.cluster.get(cut, "/v1/kv/n")?.text(), n.to_string(), "a linearizable read");
    }
    println!("forty writes and reads, the longest write {longest:?}");
    assert!(longest < Duration::from_secs(1), "{longest:?}");
    assert!(is_ready(&hosts, cut));
    // Each door sends clients to it and to the other follower: both can serve.
    let to: Vec<_> = (0..20).map(|n| knock(&hosts, 1 + n % 3, "/livez")).collect();
    assert!([cut, between].iter().all(|id| to.contains(&Ok(*id))) && !to.contains(&Ok(leader)), "{to:?}");
    assert_eq!(hosts.cluster.status(between)?.cluster.term, term, "an election");
    assert_eq!(hosts.cluster.status(cut)?.cluster.leader.map(|id| id.0), Some(leader));
    assert!(metric(&hosts, between, "phalanx_relay_frames_total{what=\"passed_on\"}") > 0.0);
    hosts.heal()?;
    for at in [leader, cut, between] {
        wait_health(&hosts, at, &[])?;
    }
    println!("healed, all say so after {:?}", begun.elapsed());
    assert_eq!(metric(&hosts, cut, "phalanx_peers_relayed"), 0.0);
    assert_eq!(hosts.cluster.status(leader)?.cluster.term, term, "an election");
    Ok(())
}

/// Only what the leader sends to the node is lost.
#[test]
fn a_node_that_does_not_hear_the_leader_reaches_it_through_another() -> Result<()> {
    if !is_apart("hosts::dispatch::a_node_that_does_not_hear_the_leader_reaches_it_through_another") {
        return Ok(());
    }
    let mut hosts = Hosts::ready(EXE, 5, &json!({"jobs_enabled": false}))?;
    let leader = hosts.cluster.settle()?;
    let cut = leader % 5 + 1;
    let term = hosts.cluster.status(leader)?.cluster.term;
    hosts.link(&[leader], &[cut], Link::CUT)?;
    hosts.cluster.wait_explained("the leader says that it is reached through another", PATIENCE, || {
        let reasons = hosts.cluster.status(leader).map_err(|e| e.to_string())?.cluster.reasons;
        let begin = format!("node {cut} reaches the leader through node ");
        if reasons.len() == 1 && reasons[0].starts_with(&begin) { Ok(()) } else { Err(format!("{reasons:?}")) }
    })?;
    for n in 1..=20 {
        let answer = hosts.cluster.post(cut, "/v1/kv/n", &json!({"incr": 1}))?;
        assert_eq!((answer.status, answer.json()["value"].as_i64()), (200, Some(n)), "{}", answer.text());
    }
    assert_eq!(hosts.cluster.status(leader)?.cluster.term, term, "an election");
    hosts.heal()?;
    hosts.cluster.settle()?;
    Ok(())
}

#[test]
fn a_node_without_any_way_to_the_leader_gets_no_clients() -> Result<()> {
    if !is_apart("hosts::dispatch::a_node_without_any_way_to_the_leader_gets_no_clients") {
        return Ok(());
    }
    let mut hosts = Hosts::ready(EXE, 3, &json!({"jobs_enabled": false}))?;
    let leader = hosts.cluster.settle()?;
    let cut = if leader == 1 { 2 } else { 1 };
    let others: Vec<u64> = hosts.ids().into_iter().filter(|id| *id != cut).collect();
    hosts.cut(&[cut], &others)?;
    hosts.cluster.wait_until("it is not ready", PATIENCE, || (!is_ready(&hosts, cut)).then_some(()))?;
    poll::pause(Duration::from_millis(800));
    for n in 0..30 {
        let at = others[n % 2];
        assert_eq!(knock(&hosts, at, "/v1/kv/k"), Ok(6 - leader - cut), "at node {at}");
        // It knows of no node that can serve, and refuses at its own door; what it can answer itself it does.
        assert_eq!(knock(&hosts, cut, "/v1/kv/k"), Err(503));
        assert_eq!(knock(&hosts, cut, "/"), Ok(cut), "its page says what is wrong");
    }
    hosts.heal()?;
    hosts.cluster.settle()?;
    hosts.cluster.wait_explained("its door leads to a node that serves", PATIENCE, || {
        match knock(&hosts, cut, "/v1/kv/k") {
            Ok(_) => Ok(()),
            Err(status) => Err(status.to_string()),
        }
    })
}

#[test]
fn a_host_that_vanishes_or_freezes_gets_the_clients_of_the_first_moment_only() -> Result<()> {
    if !is_apart("hosts::dispatch::a_host_that_vanishes_or_freezes_gets_the_clients_of_the_first_moment_only") {
        return Ok(());
    }
    let mut hosts = Hosts::ready(EXE, 5, &json!({"jobs_enabled": false}))?;
    let leader = hosts.cluster.settle()?;
    let gone = leader % 5 + 1;
    let door = gone % 5 + 1;
    let (door, others) = if door == leader { (door % 5 + 1, 3) } else { (door, 3) };
    for is_frozen in [false, true] {
        hosts.cluster.wait_explained("its door leads to all followers", PATIENCE, || {
            let to: Vec<_> = (0..40).map(|_| knock(&hosts, door, "/livez")).collect();
            if hosts.ids().iter().all(|id| to.contains(&Ok(*id)) != (*id == leader)) {
                Ok(())
            } else {
                Err(format!("{to:?}"))
            }
        })?;
        match is_frozen {
            true => hosts.cluster.freeze(gone)?,
            false => hosts.vanish(gone)?,
        }
        // Clients come at 50 a second, as long as it would take to call the node failed and more.
        let begun = Instant::now();
        let mut sent = Vec::new();
        let mut all = 0;
        while begun.elapsed() < Duration::from_millis(2500) {
            all += 1;
            if knock(&hosts, door, "/livez") == Ok(gone) {
                sent.push(begun.elapsed().as_millis());
            }
            poll::pause_until(begun + Duration::from_millis(20 * all));
        }
        println!("frozen: {is_frozen}: {} of {all} clients, after {sent:?} ms", sent.len());
        assert!(all > 60, "{all} clients within 2.5 s are too few to see anything");
        assert!(sent.iter().all(|ms| *ms < 700), "frozen: {is_frozen}: {sent:?}");
        assert!(sent.len() <= all as usize / others / 3, "{} of {all}", sent.len());
        match is_frozen {
            true => hosts.cluster.thaw(gone)?,
            false => hosts.heal()?,
        }
        hosts.cluster.settle()?;
    }
    Ok(())
}
