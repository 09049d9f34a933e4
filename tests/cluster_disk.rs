//! A disk that fills up: its node refuses writes and leads no more, and the cluster goes on.
#![allow(clippy::unwrap_used)] // tests; clippy.toml covers only functions that carry #[test]

mod clients;

use clients::EXE;
use phalanx::lab::{Cluster, Result, web};
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
    cluster.note("before", "x")?;
    disk.fill(200 << 20);
    let new = cluster.wait_other_leader(3)?;
    cluster.note("while-full", "y")?;
    // Its own reads go on.
    let read = cluster.get(3, "/v1/note/before?level=eventual")?;
    assert_eq!(read.json()["text"], "x", "{}", read.text());
    assert!(cluster.is_running(3), "a full disk is no reason to die");
    let refused = cluster.post(new, "/v1/leader/transfer", &json!({"to": 3}))?;
    assert_ne!(cluster.leader(), Some(3), "a node without room must not lead: {}", refused.text());
    disk.empty();
    cluster.settle()?;
    let mut at_three = web::Notes::new(vec![cluster.http(3)]);
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
    cluster.settle()?;
    for _ in 0..3 {
        let leader = cluster.wait_until("another node leads", Duration::from_secs(20), || {
            let leader = cluster.leader()?;
            (leader != 3).then_some(leader)
        })?;
        cluster.note("x", "y")?;
        cluster.wait_until("node 3 follows", Duration::from_secs(10), || {
            let status = cluster.status(3).ok()?;
            (status.node.role == Role::Follower && status.cluster.leader.map(|l| l.0) == Some(leader)).then_some(())
        })?;
        cluster.post(leader, "/v1/leader/transfer", &json!({}))?;
    }
    assert!(cluster.is_running(3));
    Ok(())
}
