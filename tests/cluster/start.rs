//! How a cluster comes to be: five at once, one alone, a latecomer, a wiped disk.

use crate::EXE;
use phalanx::lab::process::Process;
use phalanx::lab::{Cluster, Result, web};
use phalanx::node::views::status::Standing;
use phalanx::types::NodeId;
use serde_json::json;
use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

/// Every node of a cluster that has just started knows one and the same cluster; its id.
fn one_cluster(cluster: &Cluster, n: usize) -> Result<String> {
    let ids = cluster.wait_explained("all nodes are in a cluster", Duration::from_secs(30), || {
        let all = cluster.statuses();
        let ids: BTreeSet<_> = all.values().filter_map(|s| s.cluster.id).collect();
        let known = all.values().filter(|s| s.cluster.id.is_some() && s.cluster.leader.is_some()).count();
        if known == n { Ok(ids) } else { Err(format!("{known} of {n} know one: {ids:?}")) }
    })?;
    assert_eq!(ids.len(), 1, "several clusters were created: {ids:?}");
    Ok(ids.first().map(ToString::to_string).unwrap_or_default())
}

/// Discovery is hurried (20 ms instead of 250 ms between attempts): that makes the race for the lock tighter.
#[test]
fn five_nodes_started_at_once_found_one_cluster_a_hundred_times() -> Result<()> {
    for _ in 0..100 {
        let cluster = Cluster::start(EXE, 5, &json!({"discovery_interval_ms": 20}))?;
        let id = one_cluster(&cluster, 5)?;
        cluster.wait_explained("config.json names the cluster", Duration::from_secs(10), || {
            let text = std::fs::read_to_string(cluster.config_path()).map_err(|e| e.to_string())?;
            if text.contains(&id) { Ok(()) } else { Err(text) }
        })?;
    }
    Ok(())
}

#[test]
fn five_nodes_with_default_settings_become_five_voters() -> Result<()> {
    let cluster = Cluster::ready(EXE, 5, &json!({}))?;
    one_cluster(&cluster, 5)?;
    // A follower hears of the others by gossip, a little later than the leader hears their answers.
    cluster.wait_explained("node 1 sees a cluster that can lose two", Duration::from_secs(5), || {
        let seen = cluster.status(1).map_err(|e| e.to_string())?.cluster;
        if seen.failure_tolerance == 2 && seen.reasons.is_empty() { Ok(()) } else { Err(seen.reasons.join("; ")) }
    })?;
    // Refused connections while looking for a leader are expected: one plain line, no errors.
    for id in 1..=5 {
        let log = cluster.log(id);
        assert!(!log.to_lowercase().contains(" error "), "node {id} logged an error:\n{log}");
    }
    Ok(())
}

#[test]
fn a_single_node_leads_alone_and_serves() -> Result<()> {
    let cluster = Cluster::start(EXE, 1, &json!({}))?;
    cluster.wait_until("it leads", Duration::from_secs(10), || (cluster.leader() == Some(1)).then_some(()))?;
    cluster.put("alone", "works")?;
    let redirect = cluster.wait_until("the front door opens", Duration::from_secs(5), || {
        web::get(&cluster.front(), "/v1/status?a=b", Duration::from_secs(1)).ok().filter(|r| r.status == 307)
    })?;
    assert_eq!(redirect.header("location"), Some(format!("http://{}/v1/status?a=b", cluster.http(1)).as_str()));
    Ok(())
}

#[test]
fn a_sixth_node_joins_as_a_learner() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 5, &json!({}))?;
    cluster.put("before", "x")?;
    cluster.spawn(6, &[])?;
    cluster.settle()?;
    let status = cluster.status(6)?;
    assert_eq!(status.node.membership, Standing::Learner, "five voters are enough");
    assert_eq!(status.cluster.learners, [NodeId(6)]);
    let mut at_six = web::KeyClient::new(vec![cluster.http(6)]);
    at_six.put("at-six", "y", Instant::now() + Duration::from_secs(5))?;
    assert_eq!(at_six.read("before", Instant::now() + Duration::from_secs(5))?.as_deref(), Some("x"));
    Ok(())
}

#[test]
fn without_an_id_a_node_takes_the_lowest_free_one() -> Result<()> {
    let cluster = Cluster::ready(EXE, 2, &json!({}))?;
    let log = cluster.dir().join("anonymous.log");
    let settings = cluster.settings_path();
    let _child =
        Process::start(Command::new(EXE).args(["node", "--settings"]).arg(settings).current_dir(cluster.dir()), &log)?;
    cluster.wait_until("node 3 answers", Duration::from_secs(15), || {
        let status = cluster.status(3).ok()?;
        (status.node.id == NodeId(3) && status.cluster.leader.is_some()).then_some(())
    })
}

#[test]
fn a_wiped_node_comes_back_under_its_old_id_with_a_new_identity() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 3, &json!({"dead_after_ms": 2000}))?;
    cluster.put("before", "x")?;
    let leader = cluster.settle()?;
    let victim = (1..=3).find(|id| *id != leader).unwrap_or(1);
    let old = cluster.status(victim)?;
    cluster.kill(victim)?;
    cluster.wipe(victim)?;
    cluster.spawn(victim, &[])?;
    cluster.settle()?;
    let new = cluster.status(victim)?;
    assert_ne!(old.node.uuid, new.node.uuid, "a wiped disk is a new identity");
    assert_eq!(old.cluster.id, new.cluster.id);
    assert_eq!(new.node.membership, Standing::Voter);
    let mut at_victim = web::KeyClient::new(vec![cluster.http(victim)]);
    assert_eq!(at_victim.read("before", Instant::now() + Duration::from_secs(5))?.as_deref(), Some("x"));
    Ok(())
}

#[test]
fn rejoin_discards_a_nodes_state_and_fetches_it_again() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 3, &json!({"dead_after_ms": 2000}))?;
    cluster.put("before", "x")?;
    let leader = cluster.settle()?;
    let victim = (1..=3).find(|id| *id != leader).unwrap_or(1);
    let old = cluster.status(victim)?.node.uuid;
    cluster.kill(victim)?;
    cluster.spawn(victim, &["--rejoin"])?;
    cluster.settle()?;
    assert_ne!(cluster.status(victim)?.node.uuid, old);
    Ok(())
}

/// All move at once, with whole disks: nobody is where anybody knew it to be.
#[test]
fn nodes_that_all_got_new_addresses_find_each_other() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 3, &json!({}))?;
    cluster.put("before", "x")?;
    let id = one_cluster(&cluster, 3)?;
    cluster.stop_orderly(Duration::from_secs(10))?;
    // Ports that nobody has: those of a cluster that is never started.
    let other = Cluster::prepare(EXE, &json!({}))?;
    let read = |path: &std::path::Path| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(path).unwrap_or_default()).unwrap_or_default()
    };
    let (mut settings, theirs) = (read(&cluster.settings_path()), read(&other.settings_path()));
    assert_ne!(settings["leader_port_base"], theirs["leader_port_base"]);
    settings["leader_port_base"] = theirs["leader_port_base"].clone();
    std::fs::write(cluster.settings_path(), settings.to_string())
        .map_err(phalanx::lab::LabError::io("write the settings"))?;
    for node in 1..=3 {
        cluster.spawn(node, &[])?;
    }
    assert_eq!(one_cluster(&cluster, 3)?, id);
    let mut keys = cluster.keys();
    assert_eq!(keys.read("before", Instant::now() + Duration::from_secs(5))?.as_deref(), Some("x"));
    Ok(())
}

#[test]
fn a_second_process_for_the_same_node_is_refused() -> Result<()> {
    let cluster = Cluster::ready(EXE, 1, &json!({}))?;
    let log = cluster.dir().join("twin.log");
    let settings = cluster.settings_path().to_string_lossy().into_owned();
    let args = ["node", "--id", "1", "--settings", &settings];
    let mut twin = Process::start(Command::new(EXE).args(args).current_dir(cluster.dir()), &log)?;
    let ended = twin.wait(Duration::from_secs(10))?;
    assert!(!ended.success() && ended.code().is_some(), "{ended}: {}", twin.output());
    assert!(!twin.output().contains("panicked"), "{}", twin.output());
    cluster.put("still", "works")
}

#[test]
fn a_node_with_too_low_limits_reports_it_at_start() -> Result<()> {
    let cluster = Cluster::prepare(EXE, &json!({}))?;
    let settings = cluster.settings_path().to_string_lossy().into_owned();
    let files =
        "error: the limit of open files is 16, a node needs at least 128: raise it, for example with ulimit -n 4096";
    let space =
        "error: the limit of address space is 976 MiB, a node needs at least 2048 MiB: raise it (ulimit -v unlimited)";
    for (limit, refusal) in [("-n 16", files), ("-v 1000000", space)] {
        let start = format!("ulimit {limit}; exec {EXE} node --id 1 --settings {settings}");
        let log = cluster.dir().join("limited.log");
        let args = ["-c", &start];
        let mut limited = Process::start(Command::new("sh").args(args).current_dir(cluster.dir()), &log)?;
        let ended = limited.wait(Duration::from_secs(10))?;
        assert_eq!(ended.code(), Some(2), "{}", limited.output());
        assert!(limited.output().contains(refusal), "{}", limited.output());
    }
    Ok(())
}

/// Three hosts that know each other by `peers` alone are moved: all come back at other addresses at once, with whole disks.
#[test]
fn hosts_that_all_have_new_addresses_find_each_other() -> Result<()> {
    let mut cluster = Cluster::prepare(EXE, &json!({"cluster_secret": "for the phalanx and nobody else"}))?;
    let host = |id: u64, net: u8| format!("127.0.{net}.{id}");
    let at = |cluster: &Cluster, id: u64, net: u8, of: fn(&Cluster, u64) -> String| {
        of(cluster, id).replace("127.0.0.1", &host(id, net))
    };
    let start = |cluster: &mut Cluster, net: u8| -> Result<()> {
        for id in 1..=3 {
            let others = (1..=3).filter(|other| *other != id);
            let peers: Vec<String> = others.map(|other| at(cluster, other, net, Cluster::peer)).collect();
            cluster.set_env("PHALANX_HOST", &host(id, net));
            cluster.set_env("PHALANX_PEERS", &peers.join(","));
            // Each host has a file of its own.
            let file = cluster.dir().join(format!("config-{id}.json"));
            cluster.set_env("PHALANX_CONFIG_FILE_PATH", &file.to_string_lossy());
            cluster.spawn(id, &[])?;
        }
        Ok(())
    };
    let soon = Duration::from_secs(5);
    start(&mut cluster, 1)?;
    cluster.wait_explained("the key is written at the old addresses", Duration::from_secs(30), || {
        let body = json!("yes");
        let answer = web::ask(&at(&cluster, 1, 1, Cluster::http), "PUT", "/v1/kv/k", Some(&body), soon);
        let voters = web::get(&at(&cluster, 1, 1, Cluster::http), "/v1/status", soon).map_err(|e| e.to_string())?;
        let voters = voters.json()["cluster"]["voters"].clone();
        match answer {
            Ok(answer) if answer.status == 200 && voters == json!([1, 2, 3]) => Ok(()),
            other => Err(format!("{voters}: {other:?}")),
        }
    })?;
    cluster.kill_all();
    start(&mut cluster, 2)?;
    for id in 1..=3 {
        cluster.wait_explained("it is read at the new ones", Duration::from_secs(30), || {
            let answer = web::get(&at(&cluster, id, 2, Cluster::http), "/v1/kv/k", soon).map_err(|e| e.to_string())?;
            if answer.status == 200 && answer.text().contains("yes") { Ok(()) } else { Err(answer.text()) }
        })?;
    }
    Ok(())
}
