//! Nodes that are stopped in order give their votes back, down to one; nodes that are stopped together keep them.

use crate::EXE;
use crate::clients::{Onlooker, Stalls, Writer, assert_all_there};
use phalanx::lab::{Cluster, Result, poll};
use serde_json::json;
use std::time::{Duration, Instant};

/// Between two stops: longer than nodes count as stopped together (`cluster/departures.rs`).
const APART: Duration = Duration::from_secs(1);

fn voters(cluster: &Cluster, at: u64) -> Vec<u64> {
    let status = cluster.status(at);
    status.map(|status| status.cluster.voters.iter().map(|id| id.0).collect()).unwrap_or_default()
}

/// `stopped after 350 ms`, in a node's log.
fn stop_took(log: &str) -> Option<Duration> {
    let ms = log.split("stopped after ").nth(1)?.split(' ').next()?;
    Some(Duration::from_millis(ms.parse().ok()?))
}

/// Ctrl+C at these nodes one second apart, while a client writes; the last node serves, and all come back.
fn stop_in_order(order: [u64; 4], last: u64) -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 5, &json!({}))?;
    let (onlooker, stalls) = (Onlooker::start(&cluster), Stalls::start());
    let writer = Writer::start(&cluster, "order", last as usize - 1, Duration::from_millis(5));
    cluster.wait_until("notes flow", Duration::from_secs(10), || (writer.acked() > 50).then_some(()))?;
    let begun = Instant::now();
    for (done, id) in order.into_iter().enumerate() {
        let at = begun + APART * done as u32;
        poll::pause_until(at);
        cluster.interrupt(id)?;
    }
    for id in order {
        let ended = cluster.process(id)?.wait(Duration::from_secs(6))?;
        assert_eq!(ended.code(), Some(0), "node {id}");
    }
    let (acked, alone) = (writer.acked(), Instant::now());
    assert_eq!(voters(&cluster, last), [last], "the others gave their votes back");
    cluster
        .wait_until("the last one serves", Duration::from_secs(2), || (writer.acked() > acked + 20).then_some(()))?;
    assert!(alone.elapsed() < Duration::from_secs(2));
    let status = cluster.status(last)?;
    let reasons = status.cluster.reasons.join("; ");
    assert!(reasons.contains("have no vote until they are back; a single node cannot lose any"), "{reasons}");
    for id in order {
        cluster.spawn(id, &[])?;
    }
    cluster.settle()?;
    assert_eq!(voters(&cluster, last).len(), 5);
    let written = writer.finish();
    let stall = stalls.worst();
    for id in order {
        // It waits for its clients' connections, and only the second-last node for its demotion.
        let took = stop_took(&cluster.log(id)).expect("it says how long its stop took");
        assert!(took < Duration::from_millis(1800) + 10 * stall, "the stop of node {id} took {took:?}");
    }
    let (longest, allowed) = (written.longest_wait(begun), Duration::from_millis(500) + 3 * stall);
    assert_eq!(written.doubtful, 0, "writes without an answer");
    assert!(longest <= allowed, "a write waited {longest:?}, allowed are {allowed:?}");
    assert_all_there(&cluster, &written);
    onlooker.assert_one_leader_per_term();
    Ok(())
}

#[test]
fn followers_stopped_one_by_one_leave_a_last_node_that_serves() -> Result<()> {
    stop_in_order([1, 2, 3, 4], 5)
}

#[test]
fn leaders_stopped_one_by_one_leave_a_last_node_that_serves() -> Result<()> {
    stop_in_order([5, 4, 3, 2], 1)
}

#[test]
fn nodes_stopped_together_keep_their_votes() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 5, &json!({}))?;
    cluster.put("before", "x")?;
    for round in 0..2u64 {
        for id in 1..=5 {
            cluster.interrupt(id)?;
            // As a script does on a busy machine.
            poll::pause(Duration::from_millis(40));
        }
        for id in 1..=5 {
            assert_eq!(cluster.process(id)?.wait(Duration::from_secs(6))?.code(), Some(0));
        }
        // Any three: had some given their votes back, these could be the wrong ones.
        let three = [[1, 2, 3], [3, 4, 5]][round as usize];
        for id in three {
            cluster.spawn(id, &[])?;
        }
        let leader = cluster.wait_leader()?;
        cluster.put(&format!("round {round}"), "y")?;
        assert_eq!(voters(&cluster, leader), [1, 2, 3, 4, 5]);
        for id in (1..=5).filter(|id| !three.contains(id)) {
            cluster.spawn(id, &[])?;
        }
        cluster.settle()?;
    }
    assert!((1..=5).all(|id| !cluster.log(id).contains("demotes")), "no vote was given back");
    Ok(())
}

#[test]
fn nodes_without_a_vote_wait_for_the_only_voter_and_name_it() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 2, &json!({}))?;
    cluster.put("kept", "x")?;
    for id in [1, 2] {
        cluster.interrupt(id)?;
        cluster.process(id)?.wait(Duration::from_secs(6))?;
    }
    cluster.spawn(1, &[])?;
    let cure =
        "node 2 has the only vote: start it (phalanx node --id 2), or, if its folder is lost, see phalanx recover";
    cluster.wait_until("its health says what to do", Duration::from_secs(10), || {
        cluster.status(1).ok()?.cluster.reasons.iter().any(|reason| reason == cure).then_some(())
    })?;
    cluster.wait_until("its log, too", Duration::from_secs(20), || {
        cluster.log(1).contains("node 2, which has the only vote, is offline").then_some(())
    })?;
    let refused = cluster.post(1, "/v1/leader/transfer", &json!({"to": 1}))?;
    assert_eq!(refused.status, 503);
    assert!(refused.text().contains("node 2, which has the only vote, is offline"), "{}", refused.text());
    cluster.spawn(2, &[])?;
    cluster.settle()?;
    assert_eq!(cluster.keys().read("kept", Instant::now() + Duration::from_secs(5))?.as_deref(), Some("x"));
    Ok(())
}
