//! Nodes that are killed, frozen and started again while rows are inserted through all of them.

use super::{JSON, PATIENCE, Spray, ask, cluster, cluster_with, compare, get, prepare, walk};
use crate::EXE;
use phalanx::lab::{Cluster, Result};
use serde_json::json;
use std::collections::BTreeSet;
use std::time::Duration;

#[test]
fn one_and_many_requests_to_one_and_to_many_nodes() -> Result<()> {
    let cluster = cluster(3)?;
    prepare(&cluster);
    let mut acked = BTreeSet::new();
    for (name, at, each) in [("one", &[2][..], 1), ("many", &[1], 50), ("spread", &[1, 2, 3, 1, 2, 3], 50)] {
        acked.extend(Spray::start(&cluster, name, at, each, 1).join());
    }
    assert_eq!(acked.len(), 351);
    compare(&cluster, &[1, 2, 3], &acked)
}

#[test]
fn two_crashes_and_two_recoveries_under_load() -> Result<()> {
    let mut cluster = cluster(5)?;
    prepare(&cluster);
    let spray = Spray::start(&cluster, "s", &[1, 2, 3, 4, 5], usize::MAX, 50);
    spray.goes_on(&cluster, 200)?;
    let first = cluster.wait_leader()?;
    cluster.kill(first)?;
    spray.goes_on(&cluster, 200)?;
    let second = cluster.wait_other_leader(first)?;
    cluster.kill(second)?;
    spray.goes_on(&cluster, 200)?;
    cluster.restart(first)?;
    spray.goes_on(&cluster, 200)?;
    cluster.restart(second)?;
    spray.goes_on(&cluster, 200)?;
    cluster.settle()?;
    for id in [first, second] {
        let replayed = format!("node {id} replayed ");
        cluster.wait_until(&replayed, PATIENCE, || cluster.log(id).contains(&replayed).then_some(()))?;
        let events = get(&cluster, id, "/v1/events").text();
        assert!(events.contains(&replayed) && events.contains(" entries in "), "{events}");
    }
    compare(&cluster, &[1, 2, 3, 4, 5], &spray.finish())
}

#[test]
fn all_killed_at_once_and_revived() -> Result<()> {
    let mut cluster = cluster(3)?;
    prepare(&cluster);
    let spray = Spray::start(&cluster, "s", &[1, 2, 3], usize::MAX, 50);
    for _ in 0..3 {
        spray.goes_on(&cluster, 200)?;
        cluster.kill_all();
        assert_eq!(cluster.running(), Vec::<u64>::new());
        (1..=3).try_for_each(|id| cluster.spawn(id, &[]))?;
    }
    spray.goes_on(&cluster, 100)?;
    cluster.settle()?;
    compare(&cluster, &[1, 2, 3], &spray.finish())
}

#[test]
fn killed_and_revived_one_by_one_under_a_spray() -> Result<()> {
    let mut cluster = cluster(3)?;
    prepare(&cluster);
    let spray = Spray::start(&cluster, "s", &[1, 2, 3, 1, 2, 3], usize::MAX, 50);
    for id in [1, 2, 3, 3, 2, 1] {
        spray.goes_on(&cluster, 100)?;
        cluster.kill(id)?;
        spray.goes_on(&cluster, 100)?;
        cluster.restart(id)?;
        cluster.settle()?;
    }
    compare(&cluster, &[1, 2, 3], &spray.finish())
}

#[test]
fn two_thousand_and_five_requests_with_a_snapshot_every_400_then_all_killed_and_revived() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 3, &json!({"jobs_enabled": false, "snapshot_every_entries": 400}))?;
    cluster.settle()?;
    prepare(&cluster);
    // One after another: each is an entry of its own, while those that come together share one.
    let rounds = [("a", 1), ("b", 2), ("c", 3), ("d", 1), ("e", 2)];
    let acked: BTreeSet<String> =
        rounds.iter().flat_map(|(name, id)| Spray::start(&cluster, name, &[*id], 401, 4 << 10).join()).collect();
    assert_eq!(acked.len(), 2005);
    cluster.wait_until("snapshots are taken again and again", PATIENCE, || {
        (1..=3).all(|id| cluster.log(id).matches("snapshot index=").count() >= 4).then_some(())
    })?;
    cluster.kill_all();
    // One comes back without its database's file, one with a torn one: both are built anew from snapshot and log.
    let file = |id: u64| {
        let folder = cluster.data_dir().join(format!("node-{id}"));
        let found =
            walk(&folder).into_iter().filter(|path| path.to_string_lossy().contains("sqlite")).collect::<Vec<_>>();
        assert!(!found.is_empty(), "no database in {}", folder.display());
        found
    };
    file(1).iter().for_each(|path| std::fs::remove_file(path).unwrap());
    file(2).iter().for_each(|path| std::fs::write(path, b"torn").unwrap());
    (1..=3).try_for_each(|id| cluster.spawn(id, &[]))?;
    cluster.settle()?;
    compare(&cluster, &[1, 2, 3], &acked)
}

#[test]
fn a_node_without_its_quorum_refuses_and_the_one_that_hung_catches_up() -> Result<()> {
    // The last one must stay without a majority.
    let mut cluster = cluster_with(3, &json!({"takeover_after_ms": 0}))?;
    prepare(&cluster);
    let leader = cluster.wait_leader()?;
    let late = (1..=3).find(|id| *id != leader).unwrap();
    cluster.freeze(late)?;
    let others: Vec<u64> = (1..=3).filter(|id| *id != late).collect();
    let spray = Spray::start(&cluster, "s", &others, usize::MAX, 50);
    spray.goes_on(&cluster, 300)?;
    cluster.thaw(late)?;
    cluster.settle()?;
    let mut acked = spray.finish();
    compare(&cluster, &[1, 2, 3], &acked)?;

    for id in &others {
        cluster.kill(*id)?;
    }
    let insert = json!([["INSERT INTO t VALUES (?, 1, 'x')", "never"]]).to_string();
    let refused = cluster.wait_until("the last node refuses", Duration::from_secs(30), || {
        let path = "/db/execute?timeout=500ms";
        let answer = ask(&cluster.http(late), "POST", path, JSON, Some(insert.as_bytes())).unwrap();
        assert!(matches!(answer.status, 503 | 504), "{}", answer.text());
        (answer.status == 503).then_some(answer)
    })?;
    assert_eq!(refused.json()["outcome"], "refused", "{}", refused.text());
    let read = |more: &str| get(&cluster, late, &format!("/db/query?timeout=500ms&q=SELECT+count(*)+FROM+t{more}"));
    assert_eq!(read("").status, 503, "what may be old is not given away as new");
    let known = read("&level=none");
    assert_eq!((known.status, &known.json()["results"][0]["values"][0][0]), (200, &json!(acked.len())));
    let stale = cluster.wait_until("it knows that it may be behind", PATIENCE, || {
        Some(read("&level=none&freshness=200ms")).filter(|answer| answer.status != 200)
    })?;
    assert!(stale.status == 503 && stale.text().contains("stale"), "{}", stale.text());
    for id in &others {
        cluster.spawn(*id, &[])?;
    }
    cluster.settle()?;
    acked.extend(Spray::start(&cluster, "after", &[1, 2, 3], 10, 5).join());
    compare(&cluster, &[1, 2, 3], &acked)
}
