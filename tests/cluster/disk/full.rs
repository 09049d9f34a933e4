//! Disks that are full, or nearly.

use crate::EXE;
use phalanx::lab::{Cluster, Result, web};
use phalanx::node::views::status::Health;
use phalanx::raft::Role;
use serde_json::json;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// A small file system of its own, where the system lets us mount one (as root); unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf, size: &str) -> Option<SmallDisk> {
        std::fs::create_dir_all(&at).ok()?;
        let options = format!("size={size}");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "phalanx-lab"]).arg(&at).output().ok()?;
        mounted.status.success().then_some(SmallDisk(at))
    }

    fn fill(&self, bytes: usize) {
        std::fs::write(self.0.join("ballast"), vec![0u8; bytes]).unwrap();
    }

    fn empty(&self) {
        std::fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output(); // the folder goes with the cluster
    }
}

#[test]
fn a_node_whose_disk_fills_up_hands_over_and_comes_back_when_there_is_room() -> Result<()> {
    let mut cluster = Cluster::prepare(EXE, &json!({"disk_reserve_mb": 64, "snapshot_every_mb": 4}))?;
    let Some(disk) = SmallDisk::mount(cluster.dir().join("small"), "256m") else {
        eprintln!("no right to mount a small file system; the next test injects the fault instead");
        return Ok(());
    };
    let data = disk.0.join("data").to_string_lossy().into_owned();
    for id in 1..=3 {
        let more: &[&str] = if id == 3 { &["--data", &data] } else { &[] };
        cluster.spawn(id, more)?;
    }
    cluster.settle()?;
    if cluster.leader() != Some(3) {
        cluster.post(3, "/v1/leader/transfer", &json!({"to": 3}))?;
        cluster.wait_until("node 3 leads", Duration::from_secs(5), || (cluster.leader() == Some(3)).then_some(()))?;
    }
    cluster.put("before", "x")?;
    disk.fill(200 << 20);
    let new = cluster.wait_other_leader(3)?;
    cluster.put("while-full", "y")?;
    // Its own reads go on.
    let read = cluster.get(3, "/v1/kv/before?level=eventual")?;
    assert_eq!((read.status, read.text()), (200, "x".to_string()));
    assert!(cluster.is_running(3), "a full disk is no reason to die");
    let refused = cluster.post(new, "/v1/leader/transfer", &json!({"to": 3}))?;
    assert_ne!(cluster.leader(), Some(3), "a node without room must not lead: {}", refused.text());
    disk.empty();
    cluster.settle()?;
    let mut at_three = web::KeyClient::new(vec![cluster.http(3)]);
    let read = at_three.read("while-full", Instant::now() + Duration::from_secs(5))?;
    assert_eq!(read.as_deref(), Some("y"), "it has caught up");
    cluster.kill_all(); // before the disk goes
    Ok(())
}

#[test]
fn a_node_without_room_from_the_start_never_leads() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 2, &json!({}))?;
    // More than any disk has free: node 3, which would be preferred, is below its reserve from the first look.
    cluster.spawn(3, &["--set", "disk_reserve_mb=1000000"])?;
    cluster.wait_explained("the verdict says so", Duration::from_secs(20), || {
        let cluster = cluster.status(1).map_err(|e| e.to_string())?.cluster;
        let is_told = cluster.reasons == ["node 3's disk is nearly full: make room there"];
        if (is_told, cluster.verdict) == (true, Health::Degraded) { Ok(()) } else { Err(format!("{cluster:?}")) }
    })?;
    for _ in 0..3 {
        let leader = cluster.wait_until("another node leads", Duration::from_secs(20), || {
            let leader = cluster.leader()?;
            (leader != 3).then_some(leader)
        })?;
        cluster.put("x", "y")?;
        cluster.wait_until("node 3 follows", Duration::from_secs(10), || {
            let status = cluster.status(3).ok()?;
            (status.node.role == Role::Follower && status.cluster.leader.map(|l| l.0) == Some(leader)).then_some(())
        })?;
        cluster.post(leader, "/v1/leader/transfer", &json!({}))?;
    }
    assert!(cluster.is_running(3));
    Ok(())
}

/// All disks are nearly full: reads go on, and everything that is asked how the cluster is says that writes do not.
#[test]
fn a_cluster_that_refuses_writes_for_want_of_room_is_not_called_healthy() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 3, &json!({}))?;
    cluster.kill_all();
    // Other addresses, which each node wants to write into the log.
    let kv: u16 = cluster.kv(1).rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap();
    let moved = format!("kv_port_base={}", kv + 8);
    for id in 1..=3 {
        let _ = std::fs::remove_file(cluster.log_path(id));
        cluster.spawn(id, &["--set", "disk_reserve_mb=1000000", "--set", &moved])?;
    }
    cluster.wait_explained("every node says that writes are refused", Duration::from_secs(30), || {
        for id in 1..=3 {
            let status = cluster.status(id).map_err(|e| e.to_string())?;
            let health = &status.cluster;
            let is_all =
                health.leader.is_some() && health.voters.len() == 3 && status.nodes.iter().all(|row| row.is_disk_low);
            let why = "and no other voter that could lead has room: make room there, or lower disk_reserve_mb";
            if health.verdict != Health::Unavailable
                || !is_all
                || !health.reasons.iter().any(|reason| reason.contains(why))
            {
                return Err(format!("node {id}: {:?} {:?}", status.nodes, status.cluster));
            }
        }
        Ok(())
    })?;
    let refused = cluster.post(1, "/v1/kv/x", &json!({"incr": 1}))?;
    assert!(refused.text().contains("the leader's disk is nearly full"), "{}", refused.text());
    let checked = Command::new(EXE).args(["status", "--check", "-e", &cluster.http(1)]).output().unwrap();
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert_eq!(checked.status.code(), Some(7), "{said}");
    assert!(said.starts_with("unavailable: ") && said.contains("writes are refused"), "{said}");
    let ready = cluster.wait_explained("reads go on", Duration::from_secs(10), || {
        let ready = cluster.get(1, "/readyz?verbose").map_err(|e| e.to_string())?;
        if ready.status == 200 { Ok(ready) } else { Err(ready.text()) }
    })?;
    assert!(ready.text().contains("\n[!] writes are refused: "), "{}", ready.text());
    let metrics = cluster.get(1, "/metrics")?.text();
    for line in ["\nphalanx_takes_writes 0\n", "\nphalanx_disk_low 1\n"] {
        assert!(metrics.contains(line), "{line:?} is not in {metrics}");
    }
    // It is tried twice a second, and said once for each reason.
    cluster.wait_until("the addresses were tried a few times", Duration::from_secs(10), || {
        let status = cluster.status(1).ok()?;
        (status.node.uptime_ms > 5_000 && !reasons(&cluster.log(1)).is_empty()).then_some(())
    })?;
    let reasons = reasons(&cluster.log(1));
    assert!(reasons.windows(2).all(|pair| pair[0] != pair[1]), "{reasons:?}");
    Ok(())
}

/// Why addresses were not registered, as a node's log tells it.
fn reasons(log: &str) -> Vec<String> {
    let lines = log.lines().filter_map(|line| line.split_once("addresses not registered yet err="));
    lines.map(|(_, why)| why.to_string()).collect()
}
