//! `phalanx chaos` on a cluster whose nodes run in a lab: each fault happens, is confirmed, and heals.

use crate::EXE;
use phalanx::lab::{Cluster, Result, wait_until};
use phalanx::node::views::status::Liveness;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);

/// Three nodes, each with a supervisor.
fn lab() -> Result<Cluster> {
    let mut cluster = Cluster::prepare(EXE, &json!({}))?;
    for id in 1..=3 {
        cluster.spawn(id, &["--lab"])?;
    }
    cluster.settle()?;
    Ok(cluster)
}

fn phalanx(cluster: &Cluster, args: &[&str]) -> Output {
    let settings = cluster.settings_path();
    let args = args.iter().copied().chain(["--settings", settings.to_str().unwrap()]);
    Command::new(EXE).args(args).current_dir(cluster.dir()).env("NO_COLOR", "1").output().unwrap()
}

/// What `phalanx chaos` prints.
fn chaos(cluster: &Cluster, args: &[&str]) -> String {
    let output = phalanx(cluster, &[&["chaos"], args].concat());
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "chaos {args:?}: {} {out}{err}", output.status);
    out.into_owned()
}

/// A node of the lab as `chaos status` shows it.
fn node(cluster: &Cluster, id: u64) -> Value {
    let all: Value = serde_json::from_str(&chaos(cluster, &["status", "--json"])).unwrap();
    let nodes = all["nodes"].as_array().unwrap();
    nodes.iter().find(|node| node["node"] == id).unwrap().clone()
}

/// Whether node `id` knows that it belongs to a majority.
fn has_quorum(cluster: &Cluster, id: u64) -> bool {
    cluster.status(id).is_ok_and(|status| status.cluster.has_quorum)
}

#[test]
fn processes_are_killed_frozen_stopped_and_come_back() -> Result<()> {
    let cluster = lab()?;
    let leader = cluster.wait_leader()?;
    let name = leader.to_string();
    let pid = node(&cluster, leader)["pid"].clone();
    assert!(chaos(&cluster, &["kill", "leader"]).contains("SIGKILL"));
    assert_eq!(node(&cluster, leader)["process"], "ended");
    cluster.wait_other_leader(leader)?;
    let refused = phalanx(&cluster, &["chaos", "kill", &name]);
    assert_eq!(refused.status.code(), Some(1), "it does not run");
    chaos(&cluster, &["restart", &name]);
    assert_ne!(node(&cluster, leader)["pid"], pid);
    cluster.settle()?;

    let other = cluster.wait_leader()?.to_string();
    assert!(chaos(&cluster, &["pause", &other, "--for", "1s"]).contains("frozen"));
    assert_eq!(node(&cluster, other.parse().unwrap())["process"], "frozen");
    wait_until("it continues by itself", PATIENCE, || {
        (node(&cluster, other.parse().unwrap())["process"] == "running").then_some(())
    })?;
    cluster.settle()?;

    chaos(&cluster, &["stop", "1", "--for", "500ms"]);
    wait_until("it starts by itself", PATIENCE, || (node(&cluster, 1)["process"] == "running").then_some(()))?;
    cluster.settle()?;
    chaos(&cluster, &["pause", "2"]);
    chaos(&cluster, &["kill", "3"]);
    chaos(&cluster, &["heal"]);
    cluster.settle()?;
    Ok(())
}

#[test]
fn a_partition_cuts_a_minority_off_and_heals() -> Result<()> {
    let cluster = lab()?;
    let leader = cluster.wait_leader()?;
    chaos(&cluster, &["partition", "leader"]);
    let new = cluster.wait_until("another node leads", PATIENCE, || {
        cluster.leader().filter(|new| *new != leader && has_quorum(&cluster, *new))
    })?;
    cluster.wait_until("the old leader knows that it is cut off", PATIENCE, || {
        (!has_quorum(&cluster, leader)).then_some(())
    })?;
    // It is not dead, and starts again within the partition.
    chaos(&cluster, &["restart", &leader.to_string()]);
    assert_eq!(node(&cluster, leader)["faults"].as_array().unwrap().len(), 4, "two links, both directions");
    cluster.wait_until("it answers again", PATIENCE, || cluster.get(leader, "/livez").ok())?;
    let until = Instant::now() + Duration::from_millis(700);
    while Instant::now() < until {
        assert!(!has_quorum(&cluster, leader), "the partition outlasts a restart");
        assert_eq!(cluster.leader(), Some(new));
    }
    // The other ends of its links are healed with it.
    assert!(chaos(&cluster, &["heal", &leader.to_string()]).contains("healed at nodes 1, 2, 3"));
    (1..=3).for_each(|id| assert_eq!(node(&cluster, id)["faults"], json!([]), "node {id}"));
    cluster.settle()?;
    Ok(())
}

#[test]
fn links_are_slow_disks_full_and_clocks_wrong() -> Result<()> {
    let cluster = lab()?;
    chaos(&cluster, &["delay", "all", "--ms", "80"]);
    let begun = Instant::now();
    let put = phalanx(&cluster, &["kv", "put", "key", "value"]);
    assert!(put.status.success(), "{}", String::from_utf8_lossy(&put.stderr));
    assert!(begun.elapsed() >= Duration::from_millis(160), "to a quorum and back");
    chaos(&cluster, &["heal"]);

    let leader = cluster.wait_leader()?;
    chaos(&cluster, &["disk", "leader", "full"]);
    cluster.wait_other_leader(leader)?;
    chaos(&cluster, &["heal", "--only", "disk"]);
    cluster.settle()?;

    chaos(&cluster, &["clock", "2", "+2h"]);
    cluster.wait_until("the wrong clock is reported", PATIENCE, || {
        let status = phalanx(&cluster, &["status"]);
        String::from_utf8_lossy(&status.stdout).contains("clock of node 2").then_some(())
    })?;
    chaos(&cluster, &["disk", "3", "failing"]);
    assert!(phalanx(&cluster, &["kv", "put", "key", "other"]).status.success(), "two of three are enough");
    cluster.wait_until("the node with the failing disk ends", PATIENCE, || {
        (node(&cluster, 3)["process"] == "ended").then_some(())
    })?;
    chaos(&cluster, &["heal"]);
    cluster.settle()?;

    assert!(chaos(&cluster, &["disk", "1", "damage"]).contains("one bit"));
    chaos(&cluster, &["restart", "1"]);
    cluster.wait_until("the damage is found", PATIENCE, || cluster.log(1).contains("damaged file").then_some(()))?;
    chaos(&cluster, &["disk", "1", "wipe"]);
    chaos(&cluster, &["restart", "1"]);
    cluster.settle()?;
    Ok(())
}

/// Without `--lab` none of it exists; with it, it is for the user alone.
#[test]
fn only_the_user_of_a_lab_may_break_it() -> Result<()> {
    let mut plain = Cluster::ready(EXE, 1, &json!({}))?;
    let none = phalanx(&plain, &["chaos", "kill", "1"]);
    assert_eq!(none.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&none.stderr).contains("--lab"), "it says how to have one");
    assert!(!plain.data_dir().join("lab").exists());
    plain.kill(1)?;

    let mut cluster = Cluster::prepare(EXE, &json!({}))?;
    cluster.spawn(1, &["--lab"])?;
    cluster.wait_leader()?;
    let file = cluster.data_dir().join("lab/node-1.json");
    for (path, mode) in [(&file, 0o600), (&cluster.data_dir().join("lab"), 0o700)] {
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, mode, "{}", path.display());
    }
    let known: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let port = known["port"].as_u64().unwrap() as u16;
    let guess = "0".repeat(known["token"].as_str().unwrap().len());
    for bad in [
        format!("{}\n", json!({"token": guess, "action": {"kill": {"for_ms": null}}})),
        format!("{}\n", json!({"token": guess, "action": "follow"})),
        "POST / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".to_string(),
        "[".repeat(300_000),
        "\n".to_string(),
    ] {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = stream.write_all(bad.as_bytes());
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        assert!(answer.is_empty() || answer.contains("wrong token"), "{answer}");
    }
    assert_eq!(node(&cluster, 1)["process"], "running");
    assert!(node(&cluster, 1)["faults"].as_array().unwrap().is_empty());
    for unknown in
        [&["kill", "7"][..], &["partition", "1"], &["delay", "1", "1", "--ms", "5"], &["loss", "1", "--percent", "120"]]
    {
        let refused = phalanx(&cluster, &[&["chaos"], unknown].concat());
        assert_eq!(refused.status.code(), Some(2), "{unknown:?}: {}", String::from_utf8_lossy(&refused.stderr));
    }

    // A node does not outlive its supervisor, which ends with its node on Ctrl+C.
    cluster.kill(1)?;
    cluster.spawn(1, &["--lab"])?;
    let alive = |cluster: &Cluster| cluster.status(1).is_ok_and(|status| status.nodes[0].status != Liveness::Offline);
    cluster.wait_until("it leads again", PATIENCE, || alive(&cluster).then_some(()))?;
    cluster.interrupt(1)?;
    let status = cluster.process(1)?.wait(Duration::from_secs(8))?;
    assert!(status.success() && !file.exists(), "{status}");
    Ok(())
}
