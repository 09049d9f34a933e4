//! Folders that are removed, replaced or swapped, or have lost their identity.

use super::{copy_folder, folder, write};
use crate::EXE;
use phalanx::lab::{Cluster, Result, web};
use serde_json::json;
use std::time::{Duration, Instant};

/// A node whose folder was taken away writes into nothing: it ends, says so, and the others go on.
#[test]
fn a_node_whose_folder_is_removed_or_replaced_stops_and_says_so() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 3, &json!({}))?;
    cluster.put("before", "x")?;
    let aside = cluster.dir().join("aside");
    for (round, what) in ["removed", "renamed", "replaced"].into_iter().enumerate() {
        let leader = cluster.settle()?;
        // A follower at first, then the leader.
        let victim = if round == 0 { leader % 3 + 1 } else { leader };
        let at = folder(&cluster, victim);
        match what {
            "removed" => std::fs::remove_dir_all(&at).unwrap(),
            "renamed" => std::fs::rename(&at, &aside).unwrap(),
            _ => {
                std::fs::rename(&at, &aside).unwrap();
                copy_folder(&aside, &at);
            }
        }
        let ended = cluster.process(victim)?.wait(Duration::from_secs(5))?;
        let log = cluster.log(victim);
        assert_eq!(ended.code(), Some(3), "{what}: {log}");
        assert!(log.contains("this node stops: "), "{what}: {log}");
        assert!(log.contains("was removed, renamed or replaced while the node ran"), "{what}: {log}");
        assert!(log.contains(&format!("phalanx node --id {victim}")), "{what}: {log}");
        cluster.put(what, "y")?;
        if what != "removed" {
            let _ = std::fs::remove_dir_all(&at);
            std::fs::rename(&aside, &at).unwrap();
        }
        cluster.restart(victim)?;
    }
    cluster.settle()?;
    for id in 1..=3 {
        let mut keys = web::KeyClient::new(vec![cluster.http(id)]);
        for name in ["before", "removed", "renamed", "replaced"] {
            assert!(keys.read(name, Instant::now() + Duration::from_secs(5))?.is_some(), "{name} at node {id}");
        }
    }
    Ok(())
}

/// All folders at once, as `rm -rf data` under running nodes: nothing is acknowledged that only memory has.
#[test]
fn a_cluster_whose_folders_are_all_removed_acknowledges_nothing_more() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 3, &json!({}))?;
    cluster.put("before", "x")?;
    std::fs::remove_dir_all(cluster.data_dir()).unwrap();
    for id in 1..=3 {
        let ended = cluster.process(id)?.wait(Duration::from_secs(5))?;
        assert_eq!(ended.code(), Some(3), "{}", cluster.log(id));
        assert!(!cluster.log(id).contains("cannot read the free space"), "{}", cluster.log(id));
    }
    Ok(())
}

/// The logs are whole; only the small file beside them is gone, from two of three and then from all.
#[test]
fn a_log_whose_identity_is_lost_is_neither_removed_nor_founded_over() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 3, &json!({}))?;
    cluster.settle()?;
    write(&cluster, "note", 20);
    cluster.kill_all();
    let identity = |cluster: &Cluster, id| folder(cluster, id).join("identity.json");
    let copies = |cluster: &Cluster| -> Vec<Vec<u8>> {
        (1..=3).map(|id| std::fs::read(identity(cluster, id)).unwrap()).collect()
    };
    let kept = copies(&cluster);
    let logs = |cluster: &Cluster| -> Vec<Vec<u8>> {
        (1..=3).map(|id| std::fs::read(folder(cluster, id).join("wal/0000000000000001.wal")).unwrap()).collect()
    };
    let before = logs(&cluster);
    let is_refused = |cluster: &mut Cluster, id| -> Result<()> {
        let _ = std::fs::remove_file(cluster.log_path(id));
        cluster.spawn(id, &[])?;
        let ended = cluster.process(id)?.wait(Duration::from_secs(10))?;
        assert_eq!(ended.code(), Some(3), "{}", cluster.log(id));
        let log = cluster.log(id);
        assert!(log.contains("identity.json is missing") && log.contains("from a copy"), "{log}");
        assert!(!log.contains("--rejoin") && !identity(cluster, id).exists(), "{log}");
        Ok(())
    };
    for id in [1, 2] {
        std::fs::remove_file(identity(&cluster, id)).unwrap();
        is_refused(&mut cluster, id)?;
    }
    std::fs::remove_file(identity(&cluster, 3)).unwrap();
    std::fs::remove_file(cluster.config_path()).unwrap();
    for id in 1..=3 {
        is_refused(&mut cluster, id)?;
    }
    assert!(logs(&cluster) == before, "a log has changed");
    // A new node does not bootstrap beside them either.
    cluster.spawn(4, &[])?;
    cluster.wait_until("the new node says why it creates no cluster", Duration::from_secs(10), || {
        cluster.log(4).contains("no new cluster is created while").then_some(())
    })?;
    cluster.kill(4)?;
    assert!(!cluster.config_path().exists(), "{}", cluster.log(4));
    for (id, bytes) in (1..=3).zip(kept) {
        std::fs::write(identity(&cluster, id), bytes).unwrap();
        cluster.spawn(id, &[])?;
    }
    cluster.restart(4)?;
    cluster.settle()?;
    let mut keys = cluster.keys();
    assert_eq!(keys.read("note19", Instant::now() + Duration::from_secs(5))?.as_deref(), Some("x"));
    Ok(())
}

/// What the message says brings all back; what it does not say (`--rejoin`) does no harm.
#[test]
fn two_folders_that_were_swapped_are_renamed_back_and_nothing_is_lost() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 3, &json!({}))?;
    cluster.settle()?;
    write(&cluster, "note", 5);
    cluster.kill_all();
    let swap = |cluster: &Cluster| {
        let aside = cluster.dir().join("aside");
        std::fs::rename(folder(cluster, 1), &aside).unwrap();
        std::fs::rename(folder(cluster, 2), folder(cluster, 1)).unwrap();
        std::fs::rename(aside, folder(cluster, 2)).unwrap();
    };
    swap(&cluster);
    for (id, other) in [(1, 2), (2, 1)] {
        for more in [&[][..], &["--rejoin"]] {
            let _ = std::fs::remove_file(cluster.log_path(id));
            cluster.spawn(id, more)?;
            let ended = cluster.process(id)?.wait(Duration::from_secs(10))?;
            let log = cluster.log(id);
            assert_eq!(ended.code(), Some(3), "{log}");
            assert!(log.contains(&format!("node-{id} is the folder of node {other}, not of node {id}")), "{log}");
            assert!(log.contains("rename") && !log.contains("--rejoin"), "{log}");
        }
    }
    swap(&cluster);
    for id in 1..=3 {
        cluster.spawn(id, &[])?;
    }
    cluster.settle()?;
    let mut keys = cluster.keys();
    assert_eq!(keys.read("note4", Instant::now() + Duration::from_secs(5))?.as_deref(), Some("x"));
    Ok(())
}
