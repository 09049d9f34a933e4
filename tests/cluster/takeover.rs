//! Nodes of one host that die until one is left: it goes on by hosting the voters of the dead, and nothing is lost. A
//! frozen process is never taken for a dead one.

use crate::EXE;
use crate::clients::{Onlooker, Writer, assert_all_there};
use phalanx::lab::{Cluster, Host, Result};
use serde_json::json;
use std::time::{Duration, Instant};

const PACE: Duration = Duration::from_millis(5);

/// The voters, by what one node knows.
fn voters(cluster: &Cluster, at: u64) -> Vec<u64> {
    cluster.status(at).map(|status| status.cluster.voters.iter().map(|id| id.0).collect()).unwrap_or_default()
}

/// Waits until a node leads with these voters alone.
fn wait_voters(cluster: &Cluster, at: u64, expected: &[u64], within: Duration) -> Result<()> {
    cluster.wait_until(&format!("the voters are {expected:?}"), within, || {
        let status = cluster.status(at).ok()?;
        (status.cluster.leader.is_some() && voters(cluster, at) == expected).then_some(())
    })
}

/// Waits until five voters are well again, and starts those that do not run.
fn all_come_back(cluster: &mut Cluster) -> Result<()> {
    for id in 1..=5 {
        if !cluster.is_running(id) {
            cluster.spawn(id, &[])?;
        }
    }
    cluster.settle()?;
    wait_voters(cluster, 1, &[1, 2, 3, 4, 5], Duration::from_secs(20))
}

#[test]
fn four_of_five_die_two_seconds_apart_and_the_last_one_serves() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 5, &json!({}))?;
    let onlooker = Onlooker::start(&cluster);
    let writers: Vec<Writer> = (0..3).map(|n| Writer::start(&cluster, &format!("last-{n}"), n, PACE)).collect();
    let mut last_kill = Instant::now();
    let mut gaps = Vec::new();
    for _ in 0..4 {
        cluster.wait_until("two seconds have passed", Duration::from_secs(20), || {
            (last_kill.elapsed() > Duration::from_secs(2)).then_some(())
        })?;
        // Who leads, each time; while there is no leader, any.
        let running = cluster.running();
        let leader = cluster.status(running[0]).ok().and_then(|status| status.cluster.leader);
        let victim = leader.map(|id| id.0).filter(|id| running.contains(id)).unwrap_or(running[0]);
        last_kill = Instant::now();
        cluster.process(victim)?.kill()?;
        let survivors: Vec<u64> = running.into_iter().filter(|id| *id != victim).collect();
        cluster.wait_until("a write is acknowledged again", Duration::from_secs(20), || {
            cluster.put("again", &survivors.len().to_string()).ok()
        })?;
        gaps.push((survivors.len(), last_kill.elapsed()));
    }
    println!("survivors, time until a write was acknowledged: {gaps:?}");
    let [last] = cluster.running()[..] else { panic!("four are dead") };
    wait_voters(&cluster, last, &[last], Duration::from_secs(10))?;
    let begun = Instant::now();
    cluster.put("alone", "x")?;
    assert!(cluster.log(last).contains("hosts the voters of dead processes"), "{}", cluster.log(last));
    let health = cluster.status(last)?.cluster;
    assert!(health.reasons.iter().any(|why| why == "a single node cannot lose any"), "{:?}", health.reasons);
    all_come_back(&mut cluster)?;
    let written: Vec<_> = writers.into_iter().map(Writer::finish).collect();
    assert!(written.iter().map(|it| it.since(begun)).sum::<usize>() > 0, "nobody wrote to the last one");
    written.iter().for_each(|it| assert_all_there(&cluster, it));
    onlooker.assert_one_leader_per_term();
    Ok(())
}

/// The log of the only survivor may lack what the dead have acknowledged: it is in their folders.
#[test]
fn four_of_five_die_at_once_and_nothing_acknowledged_is_lost() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 5, &json!({}))?;
    for round in 0..3 {
        let writers: Vec<Writer> = (0..4)
            .map(|n| Writer::start(&cluster, &format!("once-{round}-{n}"), n, Duration::from_millis(2)))
            .collect();
        cluster.wait_until("notes flow", Duration::from_secs(30), || {
            writers.iter().all(|it| it.acked() > 20).then_some(())
        })?;
        let last = round + 1;
        for id in (1..=5).filter(|id| *id != last) {
            cluster.kill_now(id)?;
        }
        wait_voters(&cluster, last, &[last], Duration::from_secs(20))?;
        for written in writers.into_iter().map(Writer::finish) {
            assert_all_there(&cluster, &written);
        }
        assert_eq!(cluster.running(), [last]);
        all_come_back(&mut cluster)?;
    }
    Ok(())
}

#[test]
fn a_frozen_majority_is_never_taken_over() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 5, &json!({}))?;
    let writer = Writer::start(&cluster, "frozen", 0, PACE);
    cluster.wait_until("notes flow", Duration::from_secs(10), || (writer.acked() > 20).then_some(()))?;
    let written = writer.finish();
    let leader = cluster.wait_leader()?;
    let frozen: Vec<u64> = (1..=5).filter(|id| *id != leader).take(3).collect();
    for id in &frozen {
        cluster.freeze(*id)?;
    }
    let rest: Vec<u64> = (1..=5).filter(|id| !frozen.contains(id)).collect();
    // It is tried, several times, and says why it cannot be.
    for id in &rest {
        let why = |text: &str| text.contains("dead voters cannot be hosted: a process holds the folder of nodes");
        cluster
            .wait_until("the survivor says why", Duration::from_secs(15), || why(&cluster.log(*id)).then_some(()))?;
        cluster.wait_until("its health says so, too", Duration::from_secs(5), || {
            cluster.status(*id).ok()?.cluster.reasons.iter().any(|it| why(it)).then_some(())
        })?;
    }
    // One of the two dies: now three of five folders are held by frozen processes, and one is free.
    cluster.kill(rest[0])?;
    let begun = Instant::now();
    cluster.wait_until("four seconds without a leader", Duration::from_secs(10), || {
        let status = cluster.status(rest[1]).ok()?;
        assert_eq!(status.cluster.leader, None, "it leads without a majority");
        (begun.elapsed() > Duration::from_secs(4)).then_some(())
    })?;
    assert!(!cluster.log(rest[1]).contains("hosts the voters"), "{}", cluster.log(rest[1]));
    for id in &frozen {
        cluster.thaw(*id)?;
    }
    all_come_back(&mut cluster)?;
    assert_all_there(&cluster, &written);
    Ok(())
}

#[test]
fn voters_of_other_hosts_are_not_taken_over_and_none_with_the_setting_0() -> Result<()> {
    let mut cluster = Cluster::prepare(EXE, &json!({"cluster_secret": "abracadabra-abracadabra"}))?;
    for id in 1..=3 {
        cluster.place(id, Host { address: format!("127.0.0.{}", id + 1), enter: Vec::new() });
    }
    for id in 1..=3 {
        cluster.spawn(id, &[])?;
    }
    cluster.settle()?;
    cluster.kill(1)?;
    cluster.kill(2)?;
    let why = "dead voters cannot be hosted: the folder of nodes 1, 2 is not on this host";
    let says = || cluster.log(3).contains(why).then_some(());
    cluster.wait_until("the survivor says why", Duration::from_secs(15), says)?;
    assert_eq!(cluster.status(3)?.cluster.leader, None);
    drop(cluster);

    let mut cluster = Cluster::ready(EXE, 3, &json!({"takeover_after_ms": 0}))?;
    let last = cluster.wait_leader()?;
    for id in (1..=3).filter(|id| *id != last) {
        cluster.kill(id)?;
    }
    let begun = Instant::now();
    cluster.wait_until("four seconds have passed", Duration::from_secs(10), || {
        (begun.elapsed() > Duration::from_secs(4)).then_some(())
    })?;
    assert_eq!(cluster.status(last)?.cluster.leader, None);
    assert!(!cluster.log(last).contains("host"), "{}", cluster.log(last));
    Ok(())
}

/// A power cut: whoever starts first has had no leader, and waits for a majority as ever.
#[test]
fn a_node_that_starts_alone_takes_nothing_over() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 3, &json!({}))?;
    cluster.put("before", "kept")?;
    cluster.kill_all();
    cluster.spawn(1, &[])?;
    let begun = Instant::now();
    cluster.wait_until("four seconds without a leader", Duration::from_secs(20), || {
        assert_eq!(cluster.status(1).ok()?.cluster.leader, None, "it leads alone");
        (begun.elapsed() > Duration::from_secs(4)).then_some(())
    })?;
    cluster.spawn(2, &[])?;
    cluster.wait_leader()?;
    cluster.spawn(3, &[])?;
    cluster.settle()?;
    let read = cluster.keys().read("before", Instant::now() + Duration::from_secs(5))?;
    assert_eq!(read.as_deref(), Some("kept"));
    Ok(())
}
