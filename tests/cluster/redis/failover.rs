//! The key-value store through its Redis door while leaders die and quorums are lost.
//!
//! A client that stays with a follower must not notice the leader's death: its commands wait, then succeed, each applied
//! once. A counter tells: it ends at what was acknowledged, plus at most what was answered `-UNKNOWN`.

use crate::EXE;
use crate::redis::{Peer, Reply};
use phalanx::lab::{Cluster, Result, poll};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// What one client was told.
#[derive(Debug, Default)]
struct Answers {
    acknowledged: u64,
    unknown: u64,
    other: Vec<Reply>,
    longest: Duration,
}

fn ok() -> Reply {
    Reply::Simple("OK".into())
}

fn bulk(value: &str) -> Reply {
    Reply::Bulk(value.as_bytes().to_vec())
}

/// Time between two rounds of a client: what a restarted node has to catch up with is not what the test is about.
const PACE: Duration = Duration::from_millis(2);

/// Counts up, `depth` commands at a time, until told to stop.
fn count_up(address: &str, depth: usize, stop: &AtomicBool, done: &AtomicU64) -> Answers {
    let mut redis = Peer::tcp(address);
    let (mut answers, mut before) = (Answers::default(), 0);
    while !stop.load(Relaxed) {
        let asked = Instant::now();
        redis.send("INCR counter\r\n".repeat(depth).as_bytes()).unwrap();
        for _ in 0..depth {
            match redis.reply().unwrap() {
                Reply::Int(number) => {
                    assert!(number > before, "the counter went from {before} to {number}");
                    before = number;
                    answers.acknowledged += 1;
                }
                Reply::Error(why) if why.starts_with("UNKNOWN ") => answers.unknown += 1,
                other => answers.other.push(other),
            }
        }
        answers.longest = answers.longest.max(asked.elapsed());
        done.fetch_add(depth as u64, Relaxed);
        poll::pause(PACE);
    }
    answers
}

#[test]
fn clients_of_followers_do_not_notice_twenty_leaders_die() -> Result<()> {
    const STAY: [u64; 2] = [1, 2];
    let mut cluster = Cluster::ready(EXE, 5, &json!({}))?;
    cluster.settle()?;
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = STAY
        .iter()
        .flat_map(|id| [(*id, 1), (*id, 1), (*id, 8)])
        .map(|(id, depth)| {
            let (address, stop, done) = (cluster.kv(id), Arc::clone(&stop), Arc::clone(&done));
            std::thread::spawn(move || count_up(&address, depth, &stop, &done))
        })
        .collect();
    let mut killed = 0;
    while killed < 20 {
        let leader = cluster.settle()?;
        if STAY.contains(&leader) {
            // The clients stay with followers: send the leadership away from theirs.
            cluster.post(leader, "/v1/leader/transfer", &json!({"to": 5}))?;
            cluster.wait_other_leader(leader)?;
            continue;
        }
        let before = done.load(Relaxed);
        cluster.wait_until("the clients count", Duration::from_secs(20), || {
            (done.load(Relaxed) > before + 100).then_some(())
        })?;
        cluster.kill(leader)?;
        killed += 1;
        let next = cluster.wait_other_leader(leader)?;
        let before = done.load(Relaxed);
        cluster.wait_until("the clients go on counting", Duration::from_secs(20), || {
            (done.load(Relaxed) > before + 20).then_some(())
        })?;
        assert_ne!(next, leader);
        for row in cluster.status(STAY[0])?.nodes {
            let (applied, commit, last) = (row.applied_index, row.commit_index, row.last_index);
            assert!(applied <= commit && commit <= last, "node {}: {applied} applied of {commit} of {last}", row.id);
        }
        cluster.restart(leader)?;
    }
    cluster.settle()?;
    stop.store(true, Relaxed);
    let answers: Vec<Answers> =
        clients.into_iter().map(|client| client.join().expect("its own message above")).collect();
    let acknowledged: u64 = answers.iter().map(|answers| answers.acknowledged).sum();
    let unknown: u64 = answers.iter().map(|answers| answers.unknown).sum();
    eprintln!("{killed} leaders killed, {acknowledged} acknowledged, {unknown} unknown");
    for answers in &answers {
        assert_eq!(answers.other, Vec::new(), "an error was not spared: {answers:?}");
    }
    for id in 1..=5 {
        let counter: u64 = Peer::tcp(&cluster.kv(id)).ask("GET counter").text().parse().unwrap();
        assert!(
            (acknowledged..=acknowledged + unknown).contains(&counter),
            "node {id}: the counter is {counter}, {acknowledged} were acknowledged and {unknown} are unknown"
        );
    }
    Ok(())
}

#[test]
fn without_a_quorum_writes_are_refused_and_eventual_reads_go_on() -> Result<()> {
    let timeout = Duration::from_millis(1500);
    let settings = json!({"request_timeout_ms": timeout.as_millis() as u64, "takeover_after_ms": 0});
    let mut cluster = Cluster::ready(EXE, 5, &settings)?;
    cluster.settle()?;
    let mut strong = Peer::tcp(&cluster.kv(1));
    let mut eventual = Peer::tcp(&cluster.kv(1));
    assert_eq!(strong.ask("SET k v1"), ok());
    assert_eq!(eventual.ask("CONSISTENCY eventual"), ok());
    // The acknowledgement may be here before the word that the write is committed.
    cluster.wait_explained("node 1 has applied it", Duration::from_secs(10), || match eventual.ask("GET k") {
        value if value == bulk("v1") => Ok(()),
        other => Err(other.text()),
    })?;
    for id in [3, 4, 5] {
        cluster.kill_now(id)?;
    }
    cluster.wait_explained("node 1 knows that there is no quorum", Duration::from_secs(20), || {
        let status = cluster.status(1).map_err(|e| e.to_string())?;
        if status.cluster.has_quorum { Err(status.cluster.verdict.word().to_string()) } else { Ok(()) }
    })?;
    for command in ["SET k v2", "GET k", "INCR n"] {
        let asked = Instant::now();
        let reply = strong.ask(command);
        let took = asked.elapsed();
        let refusal = "CLUSTERDOWN no quorum: 2 of 5 voters reachable, 3 needed";
        assert_eq!(reply, Reply::Error(refusal.into()), "{command}");
        assert!(took < timeout + Duration::from_secs(2), "{command} took {took:?}");
    }
    assert_eq!(eventual.ask("GET k"), bulk("v1"));
    for id in [3, 4, 5] {
        cluster.spawn(id, &[])?;
    }
    cluster.wait_leader()?;
    // No command is needed, on the same connections.
    cluster.wait_explained("writes go on", Duration::from_secs(20), || match strong.ask("SET k v3") {
        reply if reply == ok() => Ok(()),
        reply => Err(reply.text()),
    })?;
    assert_eq!(strong.ask("GET k"), bulk("v3"));
    Ok(())
}

/// Many commands may be few entries: a node whose folder was removed is not ready before it holds them.
#[test]
fn a_wiped_node_is_ready_when_it_holds_what_was_written() -> Result<()> {
    const KEYS: usize = 20_000;
    let mut cluster = Cluster::ready(EXE, 3, &json!({}))?;
    let leader = cluster.settle()?;
    let mut redis = Peer::tcp(&cluster.kv(leader));
    for from in (0..KEYS).step_by(1000) {
        let lines: Vec<String> = (from..from + 1000).map(|n| format!("SET key:{n} {n}:{}", "v".repeat(200))).collect();
        redis.send(format!("{}\r\n", lines.join("\r\n")).as_bytes()).unwrap();
        assert!((0..1000).all(|_| redis.reply().unwrap() == ok()));
    }
    let wiped = (1..=3).find(|id| *id != leader).unwrap();
    cluster.kill(wiped)?;
    cluster.wipe(wiped)?;
    cluster.spawn(wiped, &[])?;
    cluster.wait_explained("the wiped node is ready", Duration::from_secs(30), || {
        match cluster.get(wiped, "/readyz") {
            Ok(answer) if answer.status == 200 => Ok(()),
            Ok(answer) => Err(answer.text()),
            Err(e) => Err(e.to_string()),
        }
    })?;
    let mut redis = Peer::tcp(&cluster.kv(wiped));
    assert_eq!(redis.ask("CONSISTENCY eventual"), ok());
    let last = redis.ask(&format!("GET key:{}", KEYS - 1)).text();
    assert!(last.starts_with(&format!("{}:", KEYS - 1)), "it said that it is ready and answers {last:?}");
    Ok(())
}
