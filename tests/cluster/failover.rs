//! Leaders that die, freeze and retire: another steps forward, and nothing that was acknowledged is lost.

use crate::EXE;
use crate::clients::{Onlooker, Stalls, Writer, assert_all_there};
use phalanx::lab::{Cluster, Result};
use phalanx::node::views::status::Liveness;
use serde_json::json;
use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

const PACE: Duration = Duration::from_millis(5);

#[test]
fn killed_leader_is_replaced_and_nothing_acknowledged_is_lost() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 5, &json!({}))?;
    let onlooker = Onlooker::start(&cluster);
    let writer = Writer::start(&cluster, "kill", 0, PACE);
    for _ in 0..3 {
        let leader = cluster.settle()?;
        let (term, pid) = (cluster.status(leader)?.cluster.term, cluster.process(leader)?.pid());
        cluster.wait_until("notes flow", Duration::from_secs(5), || cluster.put("before", "x").ok())?;
        let ended = cluster.kill(leader)?;
        assert!(!ended.success(), "killed, not stopped");
        let new = cluster.wait_other_leader(leader)?;
        assert!(cluster.status(new)?.cluster.term > term, "a new leader has a newer term");
        cluster.put("after", "y")?;
        cluster.restart(leader)?;
        assert_ne!(cluster.process(leader)?.pid(), pid);
    }
    cluster.settle()?;
    let written = writer.finish();
    assert_all_there(&cluster, &written);
    assert!(onlooker.assert_one_leader_per_term().len() >= 4, "three failovers were seen");
    Ok(())
}

#[test]
fn the_history_is_the_same_on_every_node_also_after_a_restart() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 3, &json!({}))?;
    let leader = cluster.settle()?;
    cluster.kill(leader)?;
    let new = cluster.wait_other_leader(leader)?;
    cluster.restart(leader)?;
    cluster.settle()?;
    // Events, as the page has them, and changes of leader.
    let history = |id: u64| -> Option<(serde_json::Value, serde_json::Value)> {
        let body = ureq::get(format!("http://{}/v1/stream", cluster.http(id))).call().ok()?.into_body();
        let line = BufReader::new(body.into_reader()).lines().next()?.ok()?;
        let frame: serde_json::Value = serde_json::from_str(&line).ok()?;
        Some((frame["events"].clone(), frame["failovers"].clone()))
    };
    let has_all = |(events, failovers): &(serde_json::Value, serde_json::Value)| {
        let texts = events.to_string();
        failovers[0]["from"] == leader
            && failovers[0]["to"] == new
            && texts.contains(&format!("no heartbeat from node {leader}: failed"))
            && texts.contains(&format!("node {new} leads in term "))
            && texts.matches(&format!("node {leader} started")).count() == 2
    };
    let all_alike = || {
        let all: Vec<_> = (1..=3).filter_map(history).collect();
        (all.len() == 3 && all.iter().all(|one| *one == all[0] && has_all(one))).then(|| all[0].clone())
    };
    cluster.wait_until("all nodes have the same history", Duration::from_secs(20), all_alike)?;
    Ok(())
}

#[test]
fn frozen_leader_is_replaced_and_steps_down_when_it_thaws() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 5, &json!({}))?;
    let onlooker = Onlooker::start(&cluster);
    let writer = Writer::start(&cluster, "freeze", 0, PACE);
    for _ in 0..2 {
        let old = cluster.settle()?;
        cluster.freeze(old)?;
        let begun = Instant::now();
        let new = cluster.wait_other_leader(old)?;
        cluster.put("while-frozen", "x")?;
        assert!(begun.elapsed() < Duration::from_secs(5), "failover took {:?}", begun.elapsed());
        cluster.thaw(old)?;
        cluster.wait_until("the thawed leader follows", Duration::from_secs(10), || {
            let status = cluster.status(old).ok()?;
            (status.cluster.leader.map(|l| l.0) == Some(new) && status.node.id.0 == old).then_some(())
        })?;
    }
    cluster.settle()?;
    let written = writer.finish();
    assert_all_there(&cluster, &written);
    onlooker.assert_one_leader_per_term();
    Ok(())
}

#[test]
fn ctrl_c_transfers_leadership_before_the_leader_exits() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 5, &json!({}))?;
    let onlooker = Onlooker::start(&cluster);
    for round in 0..3 {
        let leader = cluster.settle()?;
        // One writer per node: those at the leader lose their connection, the others should notice nothing.
        let start =
            |place| Writer::start(&cluster, &format!("ctrl-c-{round}-{place}"), place, Duration::from_millis(10));
        let writers: Vec<Writer> = (0..5).map(start).collect();
        cluster.wait_until("notes flow at every node", Duration::from_secs(10), || {
            writers.iter().all(|w| w.acked() >= 5).then_some(())
        })?;
        let (begun, stalls) = (Instant::now(), Stalls::start());
        cluster.interrupt(leader)?;
        let ended = cluster.process(leader)?.wait(Duration::from_secs(5))?;
        assert_eq!(ended.code(), Some(0), "an orderly end is a success; it took {:?}", begun.elapsed());
        cluster.wait_other_leader(leader)?;
        cluster.put("after", "x")?;
        // A write passes through three processes, each of which may be kept waiting as long.
        let stall = stalls.worst();
        let longest_allowed = Duration::from_millis(100) + 3 * stall;
        for (place, writer) in writers.into_iter().enumerate() {
            let written = writer.finish();
            assert!(written.since(begun) > 0 && written.doubtful == 0, "writer {place}: {} in doubt", written.doubtful);
            let longest = written.longest_wait(begun);
            assert!(longest <= longest_allowed, "a write at node {} waited {longest:?}, stall {stall:?}", place + 1);
            if round == 0 {
                assert_all_there(&cluster, &written);
            }
        }
        cluster.spawn(leader, &[])?;
    }
    onlooker.assert_one_leader_per_term();
    Ok(())
}

#[test]
fn second_ctrl_c_ends_the_node_at_once() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 5, &json!({}))?;
    let leader = cluster.settle()?;
    // Nobody can take the leadership over: the first Ctrl+C has something to wait for.
    for id in (1..=5).filter(|id| *id != leader) {
        cluster.freeze(id)?;
    }
    cluster.interrupt(leader)?;
    let begun = Instant::now();
    let log_says_stopping = || cluster.log(leader).to_lowercase().contains("stopping").then_some(());
    cluster.wait_until("the node says that it stops", Duration::from_secs(3), log_says_stopping)?;
    assert!(cluster.is_running(leader), "the first Ctrl+C ended it at once: there was nothing to cut short");
    cluster.interrupt(leader)?;
    cluster.process(leader)?.wait(Duration::from_secs(1))?;
    assert!(begun.elapsed() < Duration::from_secs(4));
    Ok(())
}

#[test]
fn all_nodes_killed_come_back_with_everything() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 5, &json!({}))?;
    let writer = Writer::start(&cluster, "all", 0, PACE);
    cluster.wait_until("notes flow", Duration::from_secs(10), || (writer.acked() >= 50).then_some(()))?;
    let before = cluster.status(1)?;
    cluster.kill_all();
    let written = writer.finish();
    for id in 1..=5 {
        assert!(!cluster.is_running(id));
        cluster.spawn(id, &[])?;
    }
    cluster.settle()?;
    let after = cluster.status(1)?;
    assert_eq!(before.cluster.id, after.cluster.id, "the same cluster");
    assert_eq!(before.node.uuid, after.node.uuid, "the same node");
    assert!(after.cluster.term > before.cluster.term, "after a new election");
    assert_all_there(&cluster, &written);
    Ok(())
}

/// The issue says 15 s between kills with the default `dead_after_ms` of 10 s; both are scaled down here by five.
#[test]
fn nodes_killed_one_by_one_leave_a_cluster_that_serves_until_three_are_dead() -> Result<()> {
    let scaled = json!({"dead_after_ms": 2000, "fail_after_ms": 800});
    let mut cluster = Cluster::ready(EXE, 5, &scaled)?;
    cluster.put("first", "kept")?;
    let mut dead = Vec::new();
    for _ in 0..2 {
        let leader = cluster.wait_leader()?;
        let killed = Instant::now();
        cluster.kill(leader)?;
        dead.push(leader);
        cluster.put(&format!("after-{}", dead.len()), "written with nodes dead")?;
        cluster.wait_until("three seconds have passed, writes go on", Duration::from_secs(10), || {
            cluster.put("meanwhile", "x").ok()?;
            (killed.elapsed() > Duration::from_secs(3)).then_some(())
        })?;
    }
    // The third: whoever leads. Two of five are left; they serve only if the autopilot has shrunk the voters to three.
    let third = cluster.wait_leader()?;
    cluster.kill(third)?;
    dead.push(third);
    assert_eq!(cluster.running().len(), 2);
    for id in dead {
        cluster.spawn(id, &[])?;
    }
    cluster.settle()?;
    assert_eq!(cluster.keys().read("first", Instant::now() + Duration::from_secs(5))?.as_deref(), Some("kept"));
    Ok(())
}

#[test]
fn every_node_reports_missing_heartbeats_of_a_dead_one() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 3, &json!({"fail_after_ms": 1000}))?;
    let leader = cluster.settle()?;
    let victim = (1..=3).find(|id| *id != leader).unwrap_or(1);
    cluster.freeze(victim)?;
    let line = format!("no heartbeat from node {victim}: failed");
    for id in (1..=3).filter(|id| *id != victim) {
        cluster.wait_until(&format!("node {id} logs {line:?}"), Duration::from_secs(10), || {
            cluster.log(id).contains(&line).then_some(())
        })?;
        let gossip = cluster.get(id, "/v1/gossip")?;
        assert!(gossip.status == 200 && !gossip.json().is_null(), "{}", gossip.text());
    }
    cluster.thaw(victim)?;
    cluster.wait_until("the leader sees it again", Duration::from_secs(10), || {
        let row = cluster.status(leader).ok()?.nodes.into_iter().find(|n| n.id.0 == victim)?;
        (row.status == Liveness::Online).then_some(())
    })?;
    Ok(())
}
