//! Folders that are put back to an older copy, or belong to a node that was replaced meanwhile.

use super::{copy_folder, folder, put_back, write};
use crate::EXE;
use phalanx::lab::{Cluster, Result, web};
use phalanx::node::views::status::Health;
use serde_json::json;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// A follower that comes back with last week's folder must not vote and acknowledge as if nothing had happened.
#[test]
fn a_node_put_back_to_an_older_folder_joins_again_under_a_new_identity() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 3, &json!({}))?;
    let leader = cluster.settle()?;
    let victim = (1..=3).find(|id| *id != leader).unwrap();
    write(&cluster, "early", 10);
    cluster.kill(victim)?;
    let copy = cluster.dir().join("copy");
    copy_folder(&folder(&cluster, victim), &copy);
    cluster.restart(victim)?;
    cluster.settle()?;
    write(&cluster, "late", 50);
    let old = cluster.status(victim)?.node.uuid;
    cluster.kill(victim)?;
    put_back(&mut cluster, victim, &copy);
    cluster.restart(victim)?;
    cluster.settle()?;
    let status = cluster.status(victim)?;
    assert_ne!(status.node.uuid, old, "it goes on under the identity whose promises it forgot");
    let mut keys = web::KeyClient::new(vec![cluster.http(victim)]);
    assert_eq!(keys.read("late49", Instant::now() + Duration::from_secs(5))?.as_deref(), Some("x"));
    assert!(cluster.log(victim).contains("is outdated: its log ends"), "{}", cluster.log(victim));
    assert!(folder(&cluster, victim).join("wal.older").is_dir(), "the older log is set aside");
    Ok(())
}

/// Two of three are put back while the third runs: nothing is elected over its head, and they say what to do.
#[test]
fn a_majority_put_back_to_older_folders_waits_and_says_why() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 3, &json!({"snapshot_every_entries": 10, "takeover_after_ms": 0}))?;
    let leader = cluster.settle()?;
    write(&cluster, "early", 5);
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    let copies: Vec<PathBuf> = others.iter().map(|id| cluster.dir().join(format!("copy-{id}"))).collect();
    for (id, copy) in others.iter().zip(&copies) {
        cluster.kill(*id)?;
        copy_folder(&folder(&cluster, *id), copy);
        cluster.restart(*id)?;
        cluster.settle()?;
    }
    // A snapshot of what only one node will have: it is known to be committed after a restart, too.
    let applied = |cluster: &Cluster| {
        let nodes = cluster.status(leader).ok()?.nodes;
        nodes.iter().find(|row| row.id.0 == leader).map(|row| row.applied_index.0)
    };
    let early = applied(&cluster).unwrap();
    write(&cluster, "late", 30);
    cluster.wait_until("a snapshot is taken", Duration::from_secs(10), || {
        let text = cluster.get(leader, "/metrics").ok()?.text();
        let line = text.lines().find_map(|line| line.strip_prefix("phalanx_snapshot_index "))?;
        (line.parse::<f64>().ok()? >= (early + 15) as f64).then_some(())
    })?;
    for id in &others {
        cluster.kill(*id)?;
    }
    for (id, copy) in others.iter().zip(&copies) {
        put_back(&mut cluster, *id, copy);
        cluster.spawn(*id, &[])?;
    }
    for id in &others {
        cluster.wait_explained("they say why", Duration::from_secs(10), || {
            let log = cluster.log(*id);
            if log.contains("no confirmed leader has a newer log") { Ok(()) } else { Err(log) }
        })?;
    }
    let survivor = cluster.status(leader)?;
    assert_eq!(survivor.cluster.verdict, Health::Unavailable, "{:?}", survivor.cluster.reasons);
    // The way back to the older state: the one that knows more stops, and joins them anew.
    for id in 1..=3 {
        cluster.kill(id)?;
    }
    for id in &others {
        cluster.spawn(*id, &[])?;
    }
    cluster.wait_until("the older ones elect a leader", Duration::from_secs(10), || cluster.leader())?;
    // Started as it is, it does not follow them: that would be to lose what it has without a word.
    write(&cluster, "other", 3);
    cluster.spawn(leader, &[])?;
    let ended = cluster.process(leader)?.wait(Duration::from_secs(20))?;
    let log = cluster.log(leader);
    assert_eq!(ended.code(), Some(3), "{log}");
    assert!(log.contains(" has another entry ") && log.contains(&format!("--id {leader} --rejoin")), "{log}");
    cluster.spawn(leader, &["--rejoin"])?;
    cluster.settle()?;
    let mut keys = cluster.keys();
    assert_eq!(keys.read("early4", Instant::now() + Duration::from_secs(5))?.as_deref(), Some("x"));
    Ok(())
}

/// A number that was given to another folder, or to nobody, while its node was stopped: the former folder says so when
/// it is started.
#[test]
fn a_folder_whose_number_was_given_to_another_reports_it() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 3, &json!({"dead_after_ms": 2000}))?;
    let leader = cluster.settle()?;
    let victim = leader % 3 + 1;
    cluster.kill(victim)?;
    let former = cluster.dir().join("former");
    copy_folder(&folder(&cluster, victim), &former);
    cluster.wipe(victim)?;
    cluster.spawn(victim, &[])?;
    cluster.settle()?;
    let replacement = cluster.status(victim)?.node.uuid;
    cluster.kill(victim)?;
    put_back(&mut cluster, victim, &former);
    cluster.spawn(victim, &[])?;
    let now = format!("node {victim} is now another data folder, with uuid {replacement}");
    is_told_everywhere(&cluster, victim, &now)?;
    // The way that it names.
    cluster.kill(victim)?;
    cluster.spawn(victim, &["--rejoin"])?;
    cluster.settle()?;
    cluster.wait_until("it is a member again and says nothing of the kind", Duration::from_secs(5), || {
        let status = cluster.status(victim).ok()?;
        (status.cluster.verdict == Health::Healthy).then_some(())
    })?;
    // Likewise one that was removed while it was stopped: its own log says nothing of it.
    cluster.kill(victim)?;
    let removed = Command::new(EXE)
        .args(["member", "remove", &victim.to_string(), "-e", &cluster.http(leader)])
        .output()
        .unwrap();
    assert!(removed.status.success(), "{removed:?}");
    cluster.spawn(victim, &[])?;
    is_told_everywhere(&cluster, victim, "this node was removed from the cluster: stop it, or")
}

/// The former folder of a node that was replaced is started for a moment: the others link to the node again afterwards,
/// also when their logs name the former identity no more.
#[test]
fn a_node_is_a_member_again_after_its_former_folder_was_started_by_mistake() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 3, &json!({"snapshot_every_mb": 1, "dead_after_ms": 2000}))?;
    let leader = cluster.settle()?;
    let victim = leader % 3 + 1;
    cluster.kill(victim)?;
    let (former, right) = (cluster.dir().join("former"), cluster.dir().join("right"));
    copy_folder(&folder(&cluster, victim), &former);
    cluster.wipe(victim)?;
    cluster.spawn(victim, &[])?;
    cluster.settle()?;
    let value = json!("v".repeat(1 << 20));
    for n in 0..20 {
        let path = format!("/v1/kv/k{}", n % 4);
        let put = web::ask(&cluster.http(leader), "PUT", &path, Some(&value), Duration::from_secs(10)).unwrap();
        assert_eq!(put.status, 200, "{}", put.text());
    }
    cluster.settle()?;
    cluster.kill(victim)?;
    copy_folder(&folder(&cluster, victim), &right);
    put_back(&mut cluster, victim, &former);
    cluster.spawn(victim, &[])?;
    cluster.wait_until("both others have met the former", Duration::from_secs(20), || {
        let has_met = |id: u64| cluster.log(id).contains("in place of");
        (1..=3).filter(|id| *id != victim).all(has_met).then_some(())
    })?;
    cluster.kill(victim)?;
    put_back(&mut cluster, victim, &right);
    cluster.spawn(victim, &[])?;
    cluster.settle()?;
    for id in 1..=3 {
        cluster.wait_explained("all is well", Duration::from_secs(10), || {
            let status = cluster.status(id).map_err(|e| e.to_string())?.cluster;
            if status.verdict == Health::Healthy { Ok(()) } else { Err(format!("{id}: {:?}", status.reasons)) }
        })?;
    }
    Ok(())
}

/// Log, status, health check and events of a node say what is wrong with it.
fn is_told_everywhere(cluster: &Cluster, id: u64, what: &str) -> Result<()> {
    cluster.wait_explained(what, Duration::from_secs(30), || {
        let status = cluster.status(id).map_err(|e| e.to_string())?.cluster;
        let log = cluster.log(id);
        match status.reasons.iter().any(|reason| reason.contains(what)) && log.contains(what) {
            true => Ok(()),
            false => Err(format!("{:?} {log}", status.reasons)),
        }
    })?;
    assert_eq!(cluster.status(id)?.cluster.verdict, Health::Unavailable);
    for args in [&["status", "--check"][..], &["events"]] {
        let asked = Command::new(EXE).args(args).args(["-e", &cluster.http(id)]).output().unwrap();
        let said = String::from_utf8_lossy(&asked.stdout).into_owned();
        assert!(said.contains(what), "{args:?}: {said}");
    }
    assert!(cluster.get(id, "/readyz?verbose")?.text().contains(what));
    Ok(())
}
