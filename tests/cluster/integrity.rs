//! Differences between the nodes' states, planted in real processes: found at the next checkpoint, kept from clients,
//! and healed.
//!
//! `alter PART` on the console of a node that was started with `--lab` changes a part of its state behind the log's back. A
//! checkpoint is asked for, so that nothing waits for the next minute.

use crate::EXE;
use crate::redis::{Peer, Reply};
use phalanx::lab::web;
use phalanx::lab::{Cluster, Result};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);
const PARTS: [&str; 6] = ["key-value", "sql", "directory", "jobs", "chat", "sessions"];

/// With a secret: states that are given away go in frames with tags.
fn lab(n: u64) -> Result<Cluster> {
    let mut cluster = Cluster::prepare(EXE, &json!({"cluster_secret": "for the phalanx and nobody else"}))?;
    for id in 1..=n {
        cluster.spawn(id, &["--alterable"])?;
    }
    cluster.settle()?;
    Ok(cluster)
}

fn put(cluster: &Cluster, id: u64, key: &str, value: &str) -> u16 {
    let path = format!("/v1/kv/{key}");
    web::ask(&cluster.http(id), "PUT", &path, Some(&json!(value)), PATIENCE).unwrap().status
}

/// Some of everything.
fn fill(cluster: &Cluster) -> Result<()> {
    assert_eq!(put(cluster, 1, "k", "v"), 200);
    cluster.put("n", "t")?;
    let table = json!(["CREATE TABLE t (x)", "INSERT INTO t VALUES (1), (2.5), ('three'), (x'04'), (NULL)"]);
    assert_eq!(cluster.post(1, "/db/execute", &table)?.status, 200);
    let account = json!({"name": "alice", "password": "correct horse"});
    assert_eq!(cluster.post(1, "/v1/chat/accounts", &account)?.status, 200);
    Ok(())
}

fn checkpoint(cluster: &Cluster, id: u64) -> Option<u64> {
    cluster.post(id, "/v1/digests", &json!({})).ok()?.json()["index"].as_u64()
}

fn integrity(cluster: &Cluster, id: u64) -> Value {
    cluster.get(id, "/v1/digests").map_or(Value::Null, |answer| answer.json())
}

/// Sentences of a node's events about states, oldest first.
fn said(cluster: &Cluster, id: u64) -> Vec<String> {
    let Ok(answer) = cluster.get(id, "/v1/events") else { return Vec::new() };
    let events = answer.json()["events"].as_array().cloned().unwrap_or_default();
    let about = events.iter().filter(|event| event["kind"] == "state");
    about.map(|event| event["text"].as_str().unwrap().to_string()).collect()
}

fn metric(cluster: &Cluster, id: u64, name: &str) -> f64 {
    let text = cluster.get(id, "/metrics").unwrap().text().to_string();
    let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// `phalanx check digest`: exit code and what it says.
fn check(cluster: &Cluster) -> (Option<i32>, String) {
    let done = Command::new(EXE).args(["check", "digest", "-e", &cluster.http(1)]).output().unwrap();
    (done.status.code(), String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned())
}

/// Changes a part of a node.
fn alter(cluster: &mut Cluster, victim: u64, part: &str) -> Result<()> {
    cluster.process(victim)?.type_line(&format!("alter {part}"))?;
    let altered = format!("altered {part}");
    cluster.wait_until("the console has taken it", PATIENCE, || {
        cluster.log(victim).lines().any(|line| line.trim() == altered).then_some(())
    })
}

/// Changes a part of a node, and waits until it says that it has healed itself.
fn alter_and_heal(cluster: &mut Cluster, victim: u64, part: &str) -> Result<()> {
    let (uuid, before) = (cluster.status(victim)?.node.uuid, said(cluster, victim).len());
    alter(cluster, victim, part)?;
    checkpoint(cluster, victim).unwrap();
    let healed = format!("node {victim} rebuilt its state from node ");
    let news = cluster.wait_explained(&format!("node {victim} heals its {part}"), PATIENCE, || {
        let news = said(cluster, victim).split_off(before);
        if news.iter().any(|text| text.starts_with(&healed)) { Ok(news) } else { Err(format!("{news:?}")) }
    })?;
    let log = cluster.log(victim);
    let marked = format!("state differs from the majority's parts=\"{part}\" index=");
    assert!(log.contains(&marked), "{log}");
    let found = format!("the state of node {victim} differs from the majority's in {part} at index ");
    assert!(news.iter().any(|text| text.starts_with(&found)), "{news:?}");
    assert!(
        news.iter().any(|text| text.starts_with(&format!("node {victim} fetches the state from node "))),
        "{news:?}"
    );
    cluster.wait_explained("everybody agrees and the node is ready", PATIENCE, || {
        let is_clean = |id: u64| {
            let status = integrity(cluster, id);
            if status["corrupt"] == json!([]) && status["split"].is_null() {
                Ok(())
            } else {
                Err(format!("{id}: {status}"))
            }
        };
        (1..=3).try_for_each(is_clean)?;
        let ready = cluster.get(victim, "/readyz?verbose").map_err(|e| e.to_string())?;
        if ready.status == 200 { Ok(()) } else { Err(ready.text().to_string()) }
    })?;
    assert_eq!(cluster.status(victim)?.node.uuid, uuid, "it keeps its identity, and with it its promises");
    Ok(())
}

#[test]
fn a_difference_in_each_part_is_found_and_healed() -> Result<()> {
    let mut cluster = lab(3)?;
    fill(&cluster)?;
    let (code, text) = check(&cluster);
    assert_eq!(code, Some(0), "{text}");
    for part in PARTS {
        assert!(text.lines().any(|line| line.ends_with(&format!("  {part}"))), "{part} is not compared: {text}");
    }
    for (number, part) in PARTS.iter().enumerate() {
        let leader = cluster.settle()?;
        // Leaders and followers in turn.
        let victim = if number.is_multiple_of(2) { leader } else { leader % 3 + 1 };
        alter_and_heal(&mut cluster, victim, part)?;
        assert!(metric(&cluster, victim, "phalanx_state_differences_total") >= 1.0);
        if victim == leader {
            let is_led = |text: &String| text.contains(&format!("node {victim} transfers the leadership"));
            let events = cluster.get(victim, "/v1/events")?.json();
            let all: Vec<String> =
                events["events"].as_array().unwrap().iter().map(|it| it["text"].to_string()).collect();
            assert!(all.iter().any(is_led), "a corrupt leader hands over: {all:?}");
        }
        let (code, text) = check(&cluster);
        assert_eq!(code, Some(0), "{part}: {text}");
    }
    // What was healed is durable: every node is killed, and comes back with the same.
    cluster.kill_all();
    for id in 1..=3 {
        cluster.spawn(id, &["--alterable"])?;
    }
    cluster.settle()?;
    let (code, text) = check(&cluster);
    assert_eq!(code, Some(0), "{text}");
    let value = cluster.get(2, "/v1/kv/k")?;
    assert_eq!((value.status, value.text().to_string()), (200, "\"v\"".to_string()));
    Ok(())
}

/// What was told of a wrong state is no ground to go on from: who follows the chat there is cut off, and begins anew.
#[test]
fn a_stream_of_a_wrong_state_ends() -> Result<()> {
    let mut cluster = lab(3)?;
    fill(&cluster)?;
    let victim = cluster.settle()? % 3 + 1;
    let login = json!({"name": "alice", "password": "correct horse"});
    let token = cluster.post(victim, "/v1/chat/login", &login)?.json()["token"].as_str().unwrap().to_string();
    let mut stream = TcpStream::connect(cluster.http(victim)).unwrap();
    let head = format!("GET /v1/chat/stream HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = [0; "HTTP/1.1 200".len()];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, *b"HTTP/1.1 200");
    alter_and_heal(&mut cluster, victim, "chat")?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // It beats every two seconds, so a read that returns nothing but beats would go on for ever.
    let begun = Instant::now();
    while stream.read(&mut [0; 4096]).unwrap() > 0 {
        assert!(begun.elapsed() < PATIENCE, "the stream goes on");
    }
    Ok(())
}

#[test]
fn a_node_that_is_marked_serves_no_reads_after_a_restart_until_it_has_healed() -> Result<()> {
    let mut cluster = lab(3)?;
    fill(&cluster)?;
    let uuid = cluster.status(1)?.node.uuid;
    cluster.kill_all();
    let mark = json!({"uuid": uuid, "kind": "corrupt", "index": 7, "parts": [2]});
    let file = cluster.data_dir().join("node-1/integrity.json");
    std::fs::write(&file, mark.to_string()).unwrap();
    // Alone it can fetch nothing.
    cluster.spawn(1, &["--alterable"])?;
    cluster.wait_until("node 1 answers", PATIENCE, || cluster.get(1, "/livez").ok())?;
    let reads = [
        "/v1/kv/k?level=eventual",
        "/v1/kv/k",
        "/v1/kv?prefix=k&level=eventual",
        "/v1/kv/n?level=eventual",
        "/db/query?level=none&q=SELECT+1",
        "/db/query?level=linearizable&q=SELECT+1",
        "/db/backup?level=none",
        "/v1/jobs?level=eventual",
        "/v1/chat/rooms?level=eventual",
        "/v1/lock/l?level=eventual",
    ];
    for path in reads {
        let answer = cluster.get(1, path)?;
        // The chat asks who is there first, and learns no more than that.
        let is_refused = answer.status == 503 || (path.starts_with("/v1/chat") && answer.status == 401);
        assert!(is_refused, "{path}: {} {}", answer.status, answer.text());
    }
    let mut redis = Peer::tcp(&cluster.kv(1));
    assert_eq!(redis.ask("CONSISTENCY eventual"), Reply::Simple("OK".into()));
    let refused = redis.ask("GET k");
    assert!(matches!(&refused, Reply::Error(why) if why.starts_with("CLUSTERDOWN ")), "{refused:?}");
    let why = cluster.get(1, "/v1/kv/k?level=eventual")?.text().to_string();
    assert!(why.contains("this node's key-value differs from the majority's at index 7"), "{why}");
    let ready = cluster.get(1, "/readyz?verbose")?;
    assert!(ready.status == 503 && ready.text().contains("differs from the majority"), "{}", ready.text());
    assert_eq!(metric(&cluster, 1, "phalanx_state_corrupt"), 1.0);
    let status = cluster.status(1)?;
    assert!(status.nodes.iter().any(|row| row.id.0 == 1 && row.is_corrupt));
    assert!(status.cluster.reasons.iter().any(|why| why.starts_with("node 1's state differs")), "{status:?}");
    for id in 2..=3 {
        cluster.spawn(id, &["--alterable"])?;
    }
    cluster.wait_explained("node 1 has healed", PATIENCE, || {
        let _ = checkpoint(&cluster, 2);
        let answer = cluster.get(1, "/v1/kv/k?level=eventual").map_err(|e| e.to_string())?;
        if answer.status == 200 && !file.exists() { Ok(()) } else { Err(answer.text().to_string()) }
    })?;
    cluster.settle()?;
    assert_eq!(check(&cluster).0, Some(0));
    Ok(())
}

#[test]
fn without_a_majority_nothing_is_written_until_one_is_chosen() -> Result<()> {
    let mut cluster = lab(2)?;
    fill(&cluster)?;
    let leader = cluster.settle()?;
    let other = 3 - leader;
    alter(&mut cluster, other, "sql")?;
    checkpoint(&cluster, leader).unwrap();
    let is_split = |cluster: &Cluster, id: u64| integrity(cluster, id)["split"]["parts"] == json!(["sql"]);
    cluster.wait_until("both say that they are split", PATIENCE, || {
        (is_split(&cluster, 1) && is_split(&cluster, 2)).then_some(())
    })?;
    for id in 1..=2 {
        assert_eq!(put(&cluster, id, "k", "w"), 503, "node {id} takes a write");
        assert_eq!(cluster.post(id, "/db/execute", &json!(["INSERT INTO t VALUES (6)"]))?.status, 503);
        assert_eq!(cluster.get(id, "/v1/kv/k?level=eventual")?.status, 200, "reads go on");
        let status = cluster.status(id)?;
        let reasons = status.cluster.reasons.join("; ");
        assert!(reasons.contains("read-only: the nodes differ in sql"), "{reasons}");
        assert!(reasons.contains("phalanx member remove N"), "it says what to do: {reasons}");
        assert!(said(&cluster, id).iter().any(|text| text.starts_with("read-only: ")));
    }
    // The check names the first part that differs, in the order of their names.
    for part in ["sql", "sessions", "key-value", "jobs", "directory", "chat"] {
        if part != "sql" {
            alter(&mut cluster, other, part)?;
        }
        let (code, text) = check(&cluster);
        assert_eq!(code, Some(8), "{part}: {text}");
        assert!(text.contains(&format!(": {part}\n")), "{part}: {text}");
    }
    // A restart of all changes nothing.
    cluster.kill_all();
    for id in 1..=2 {
        cluster.spawn(id, &["--alterable"])?;
    }
    cluster.wait_until("there is a leader", PATIENCE, || cluster.leader())?;
    assert_eq!(put(&cluster, 1, "k", "w"), 503, "a restart makes nobody right");
    // What it says to do: the leader's data is right, the other comes back with it. The one that was altered must not lead:
    // what the log says would contradict it again.
    cluster.wait_explained("the one with the right data leads", PATIENCE, || {
        let moved = cluster.post(leader, "/v1/leader/transfer", &json!({"to": leader})).map_err(|e| e.to_string())?;
        if cluster.wait_leader().ok() == Some(leader) { Ok(()) } else { Err(moved.text().to_string()) }
    })?;
    let removed = cluster.post(leader, &format!("/v1/members/{other}"), &json!({"action": "remove"}))?;
    assert_eq!(removed.status, 200, "{}", removed.text());
    cluster.kill(other)?;
    cluster.spawn(other, &["--alterable", "--rejoin"])?;
    cluster.wait_explained("writes are taken again", PATIENCE, || {
        let _ = checkpoint(&cluster, leader);
        let status = put(&cluster, leader, "k", "w");
        if status == 200 { Ok(()) } else { Err(format!("{status}: {}", integrity(&cluster, leader))) }
    })?;
    cluster.settle()?;
    assert_eq!(check(&cluster).0, Some(0));
    Ok(())
}

#[test]
fn an_unchecked_leader_gives_its_state_to_no_node() -> Result<()> {
    let mut cluster = Cluster::prepare(EXE, &json!({"snapshot_every_entries": 50}))?;
    for id in 1..=3 {
        cluster.spawn(id, &["--alterable"])?;
    }
    let leader = cluster.settle()?;
    let (other, behind) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    fill(&cluster)?;
    cluster.kill(behind)?;
    let write = |cluster: &Cluster, count: u64| {
        for number in 0..count {
            assert_eq!(put(cluster, leader, &format!("k{number}"), "v"), 200);
        }
    };
    let snapshot = |cluster: &Cluster| metric(cluster, leader, "phalanx_snapshot_index");
    write(&cluster, 200);
    // A snapshot of what is wrong, and no checkpoint that tells: one has just been.
    checkpoint(&cluster, leader).unwrap();
    alter(&mut cluster, leader, "key-value")?;
    let before = snapshot(&cluster);
    cluster.wait_until("the wrong state is saved", PATIENCE, || {
        // From then on the leader may ask the others about it, and writes are refused.
        put(&cluster, leader, "more", "v");
        (snapshot(&cluster) > before).then_some(())
    })?;
    let asked = metric(&cluster, leader, "phalanx_state_digests_total");
    cluster.spawn(behind, &["--alterable"])?;
    cluster.wait_until("the state is given away, or asked about first", PATIENCE, || {
        let log = cluster.log(leader);
        let is_over = ["snapshot sent peer=", "read-only: the nodes differ"].iter().any(|line| log.contains(line));
        (is_over || metric(&cluster, leader, "phalanx_state_digests_total") > asked).then_some(())
    })?;
    // With the third node's word the wrong state would have a majority.
    cluster.wait_explained("all see that nobody knows who is right", PATIENCE, || {
        let _ = checkpoint(&cluster, leader);
        let status: Vec<Value> = [leader, other].map(|id| integrity(&cluster, id)).to_vec();
        let is_split = |status: &Value| status["split"]["parts"] == json!(["key-value"]);
        if status.iter().all(is_split) { Ok(()) } else { Err(format!("{status:?}")) }
    })?;
    for id in 1..=3 {
        let said = said(&cluster, id);
        assert!(!said.iter().any(|text| text.contains("differs from the majority")), "node {id}: {said:?}");
    }
    Ok(())
}

/// Whoever saves a snapshot asks for a checkpoint. Alone: to send one to a follower would bring one as well. That of
/// each minute is not due yet.
#[test]
fn a_snapshot_brings_a_checkpoint() -> Result<()> {
    let cluster = Cluster::ready(EXE, 1, &json!({"snapshot_every_entries": 50}))?;
    let before = metric(&cluster, 1, "phalanx_state_checkpoint_index");
    cluster.wait_until("a checkpoint comes by itself", PATIENCE, || {
        for number in 0..10 {
            assert_eq!(put(&cluster, 1, &format!("k{number}"), "v"), 200);
        }
        (metric(&cluster, 1, "phalanx_state_checkpoint_index") > before).then_some(())
    })
}
