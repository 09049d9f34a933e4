//! Two full nodes and a witness: any one of the three may be lost, the witness keeps what only one full node has, and
//! it keeps no data and serves nobody.

use crate::EXE;
use crate::clients::{Onlooker, Writer, assert_all_there};
use crate::redis::{Peer, Reply};
use phalanx::lab::{Cluster, Result, web};
use phalanx::node::views::status::NodeRow;
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

const WITNESS: u64 = 3;
const PACE: Duration = Duration::from_millis(5);
const PATIENCE: Duration = Duration::from_secs(20);

/// Full nodes 1 and 2, and witness 3, which must vote before the test begins.
fn two_and_a_witness(overrides: &Value) -> Result<Cluster> {
    let mut cluster = Cluster::prepare(EXE, overrides)?;
    // It may come first: it waits until a full node creates the cluster.
    start(&mut cluster, WITNESS)?;
    start(&mut cluster, 1)?;
    start(&mut cluster, 2)?;
    cluster.settle_as(3)?;
    Ok(cluster)
}

fn start(cluster: &mut Cluster, id: u64) -> Result<()> {
    cluster.spawn(id, if id == WITNESS { &["--witness"] } else { &[] })
}

fn row(cluster: &Cluster, via: u64, id: u64) -> Option<NodeRow> {
    cluster.status(via).ok()?.nodes.into_iter().find(|row| row.id.0 == id)
}

/// The full node that leads, and the other one.
fn roles(cluster: &Cluster) -> Result<(u64, u64)> {
    let leader = cluster.wait_until("a full node leads", PATIENCE, || cluster.leader().filter(|id| *id != WITNESS))?;
    Ok((leader, 3 - leader))
}

/// Bytes of all files below a folder.
fn size(dir: &Path) -> u64 {
    let Ok(rows) = std::fs::read_dir(dir) else { return 0 };
    let of = |row: std::fs::DirEntry| match row.file_type() {
        Ok(kind) if kind.is_dir() => size(&row.path()),
        _ => row.metadata().map_or(0, |meta| meta.len()),
    };
    rows.flatten().map(of).sum()
}

fn node_dir(cluster: &Cluster, id: u64) -> std::path::PathBuf {
    cluster.data_dir().join(format!("node-{id}"))
}

#[test]
fn two_full_nodes_and_a_witness_survive_the_loss_of_any() -> Result<()> {
    let mut cluster = two_and_a_witness(&json!({}))?;
    let status = cluster.status(1)?;
    assert_eq!(status.cluster.voters.len(), 3);
    assert!(row(&cluster, 1, WITNESS).is_some_and(|row| row.is_witness), "{:?}", status.nodes);
    assert_eq!(status.cluster.failure_tolerance, 1);
    let writer = Writer::start(&cluster, "any", 0, PACE);
    let mut waits = Vec::new();
    for round in 0..3 {
        let (leader, _) = roles(&cluster)?;
        let begun = Instant::now();
        cluster.kill(leader)?;
        let next = cluster.wait_other_leader(leader)?;
        assert_eq!(next, 3 - leader, "the witness does not lead");
        cluster.put("without-the-leader", &round.to_string())?;
        waits.push(begun.elapsed());
        start(&mut cluster, leader)?;
        cluster.settle_as(3)?;
    }
    println!("from the kill of the leader to a write: {waits:?}");
    assert!(waits.iter().all(|wait| *wait < Duration::from_secs(5)), "{waits:?}");
    let (leader, other) = roles(&cluster)?;
    for id in [other, WITNESS] {
        let begun = Instant::now();
        cluster.kill(id)?;
        cluster.put("without-a-follower", "x")?;
        assert!(begun.elapsed() < Duration::from_secs(2), "a follower is not waited for: {:?}", begun.elapsed());
        assert_eq!(cluster.leader(), Some(leader), "and nobody else leads");
        start(&mut cluster, id)?;
        cluster.settle_as(3)?;
    }
    let written = writer.finish();
    assert_all_there(&cluster, &written);
    Ok(())
}

/// Entries that one full node and the witness committed outlive the disk of that node: the witness leads until the other
/// one has them. It has kept them although it would have cut its log many times.
#[test]
fn what_one_full_node_and_the_witness_committed_survives_the_loss_of_its_disk() -> Result<()> {
    let settings = json!({"takeover_after_ms": 0, "snapshot_every_entries": 10, "dead_after_ms": 60_000});
    let mut cluster = two_and_a_witness(&settings)?;
    let onlooker = Onlooker::start(&cluster);
    let (leader, other) = roles(&cluster)?;
    // Killed, not frozen: the socket of a frozen process would still receive what the leader sends.
    cluster.kill(other)?;
    let mut keys = cluster.keys();
    for number in 0..80 {
        keys.put(&format!("kept-{number}"), &format!("value {number}"), Instant::now() + PATIENCE)?;
    }
    cluster.kill(leader)?;
    cluster.wipe(leader)?;
    start(&mut cluster, other)?;
    let next =
        cluster.wait_until("the other full node leads", PATIENCE, || cluster.leader().filter(|id| *id == other))?;
    assert!(cluster.log(WITNESS).contains("became leader"), "the witness led in between:\n{}", cluster.log(WITNESS));
    for number in 0..80 {
        let found = keys.read(&format!("kept-{number}"), Instant::now() + PATIENCE)?;
        assert_eq!(found, Some(format!("value {number}")), "acknowledged, and node {next} does not have it");
    }
    // The lost node comes back as a newcomer, and the cluster is as safe as before.
    start(&mut cluster, leader)?;
    cluster.settle_as(3)?;
    assert_eq!(cluster.status(other)?.cluster.failure_tolerance, 1);
    cluster.put("after", "x")?;
    onlooker.assert_one_leader_per_term();
    Ok(())
}

#[test]
fn a_witness_serves_nobody_and_says_who_does() -> Result<()> {
    let cluster = two_and_a_witness(&json!({}))?;
    let (leader, _) = roles(&cluster)?;
    cluster.put("k", "v")?;
    let ask = |method: &str, path: &str, body: Option<Value>| {
        web::ask(&cluster.http(WITNESS), method, path, body.as_ref(), PATIENCE).unwrap()
    };
    let select = json!(["SELECT 1"]);
    let program = json!({"language": "sh", "code": "true"});
    let says = format!("node 3 is a witness, which keeps no data and serves no clients: ask node {leader}");
    for (method, path, body) in [
        ("GET", "/v1/kv/k", None),
        ("GET", "/v1/kv/k?level=eventual", None),
        ("GET", "/v1/kv", None),
        ("PUT", "/v1/kv/k", Some(json!("w"))),
        ("POST", "/db/query", Some(select.clone())),
        ("POST", "/db/query?level=none", Some(select.clone())),
        ("POST", "/db/execute", Some(json!(["CREATE TABLE t (x)"]))),
        ("GET", "/v1/jobs?level=eventual", None),
        ("POST", "/v1/jobs", Some(program)),
        ("GET", "/v1/chat/accounts", None),
    ] {
        let answer = ask(method, path, body);
        let is_named = answer.text().contains(&says);
        // Some routes ask for more first: a token of the chat, jobs that are enabled.
        let is_refused = answer.status == 503 && is_named || [401, 403].contains(&answer.status);
        assert!(is_refused, "{method} {path}: {} {}", answer.status, answer.text());
    }
    let mut redis = Peer::tcp(&cluster.kv(WITNESS));
    for command in ["GET k", "SET k w"] {
        let reply = redis.ask(command);
        assert!(matches!(&reply, Reply::Error(text) if text.contains(&says)), "{command:?}: {reply:?}");
    }
    // What needs no data works there: pages, reports, and questions about members, which go to the leader.
    assert_eq!(ask("GET", "/livez", None).status, 200);
    let ready = ask("GET", "/readyz?verbose", None);
    assert!(ready.status == 503 && ready.text().contains("is a witness"), "{} {}", ready.status, ready.text());
    assert_eq!(ask("GET", "/v1/status", None).status, 200);
    for via in [1, 2, WITNESS] {
        let refused = cluster.post(via, "/v1/leader/transfer", &json!({"to": WITNESS}))?;
        assert_eq!(refused.status, 409, "{}", refused.text());
        assert!(refused.text().contains("node 3 is a witness, which cannot lead"), "{}", refused.text());
    }
    // No client of the front door is sent to it.
    for _ in 0..20 {
        let answer = web::ask(&cluster.front(), "GET", "/v1/kv/k", None, PATIENCE).unwrap();
        let to = answer.header("location").unwrap_or_default().to_string();
        assert!(answer.status == 307 && !to.contains(&cluster.http(WITNESS)), "{} {to}", answer.status);
    }
    Ok(())
}

#[test]
fn the_folder_of_a_witness_stays_small() -> Result<()> {
    let mut cluster = two_and_a_witness(&json!({"snapshot_every_mb": 1}))?;
    let mut keys = cluster.keys();
    let value = "x".repeat(200_000);
    for number in 0..150 {
        keys.put(&format!("large-{number}"), &value, Instant::now() + PATIENCE)?;
    }
    // Large enough for a snapshot of each node to contain the data, and the witness's not.
    let are_written = || {
        let row = row(&cluster, 1, WITNESS)?;
        let bytes = |id| size(&node_dir(&cluster, id).join("snapshots"));
        let (full, own) = (bytes(1), bytes(WITNESS));
        (own > 0 && row.applied_index == row.commit_index && full > 20_000_000).then_some((full, own))
    };
    let (full, snapshots) = cluster.wait_until("snapshots of the data are written", PATIENCE, are_written)?;
    let all = size(&node_dir(&cluster, WITNESS));
    println!("snapshots: {full} bytes of a full node, {snapshots} of the witness; its folder has {all}");
    assert!(snapshots < 100_000, "{snapshots} and {full} bytes");
    assert!(!node_dir(&cluster, WITNESS).join("sql").exists(), "no database");
    cluster.kill(WITNESS)?;
    start(&mut cluster, WITNESS)?;
    cluster.settle_as(3)?;
    Ok(())
}

/// While a full node is away the witness keeps the log; beyond `witness_log_mb` it cuts it and says so.
#[test]
fn a_log_that_grows_too_long_is_cut_and_that_is_reported() -> Result<()> {
    let settings = json!({"snapshot_every_mb": 1, "witness_log_mb": 4, "takeover_after_ms": 0});
    let mut cluster = two_and_a_witness(&settings)?;
    let (leader, other) = roles(&cluster)?;
    cluster.kill(other)?;
    let (mut keys, value) = (cluster.keys(), "y".repeat(200_000));
    for number in 0..60 {
        keys.put(&format!("large-{number}"), &value, Instant::now() + PATIENCE)?;
    }
    let says = "node 3, a witness, has cut its log at ";
    cluster.wait_until("the health says so", PATIENCE, || {
        cluster.status(leader).ok()?.cluster.reasons.iter().any(|reason| reason.contains(says)).then_some(())
    })?;
    assert!(cluster.log(WITNESS).contains("too few full nodes hold the entries"), "{}", cluster.log(WITNESS));
    start(&mut cluster, other)?;
    cluster.settle_as(3)?;
    Ok(())
}

#[test]
fn a_folder_is_that_of_a_witness_or_of_a_full_node() -> Result<()> {
    let mut cluster = two_and_a_witness(&json!({}))?;
    cluster.put("k", "v")?;
    let refused = |cluster: &mut Cluster, id: u64, more: &[&str], says: &str| -> Result<()> {
        if cluster.is_running(id) {
            cluster.kill(id)?;
        }
        cluster.spawn(id, more)?;
        let ended = cluster.process(id)?.wait(PATIENCE)?;
        assert_eq!(ended.code(), Some(2), "{}", cluster.log(id));
        assert!(cluster.log(id).contains(says), "{}", cluster.log(id));
        Ok(())
    };
    refused(&mut cluster, WITNESS, &[], "node 3 is a witness: start it with --witness, or with --rejoin")?;
    refused(&mut cluster, WITNESS, &["--gateway"], "node 3 is a witness: start it with --witness, or with --rejoin")?;
    start(&mut cluster, WITNESS)?;
    cluster.settle_as(3)?;
    refused(&mut cluster, 1, &["--witness"], "node 1 keeps data there: start it without --witness")?;
    start(&mut cluster, 1)?;
    cluster.settle_as(3)?;
    // As it says: the folder's state is discarded, and the node is what the command line says.
    cluster.kill(WITNESS)?;
    cluster.spawn(WITNESS, &["--rejoin"])?;
    cluster.settle_as(3)?;
    assert!(row(&cluster, 1, WITNESS).is_some_and(|row| !row.is_witness));
    let read = web::get(&cluster.http(WITNESS), "/v1/kv/k", PATIENCE).unwrap();
    assert_eq!((read.status, read.text()), (200, "v".to_string()));
    cluster.kill(WITNESS)?;
    cluster.spawn(WITNESS, &["--witness", "--rejoin"])?;
    cluster.wait_until("it is a witness again", PATIENCE, || row(&cluster, 1, WITNESS).filter(|row| row.is_witness))?;
    cluster.settle_as(3)?;
    assert!(!node_dir(&cluster, WITNESS).join("sql").exists(), "the database is gone");
    // Two of three must keep the data.
    cluster.kill(2)?;
    cluster.spawn(2, &["--witness", "--rejoin"])?;
    cluster.wait_until("a second witness stays a learner", PATIENCE, || {
        row(&cluster, 1, 2).filter(|row| row.is_witness && row.membership == phalanx::types::Standing::Learner)
    })?;
    let refused = cluster.post(1, "/v1/members/2", &json!({"action": "promote"}))?;
    assert!(
        refused.status == 409 && refused.text().contains("too few voters would keep the data"),
        "{}",
        refused.text()
    );
    Ok(())
}
