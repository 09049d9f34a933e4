//! One host of several with another secret, version or cluster name: the majority creates the cluster without it, and
//! everyone says what is wrong and what cures it.

use crate::EXE;
use crate::hosts::is_apart;
use phalanx::lab::hosts::Hosts;
use phalanx::lab::{Cluster, Host, Result};
use phalanx::wire::{Frame, Mismatch, codec};
use serde_json::json;
use std::net::TcpListener;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);
/// The setting in the environment: the command line is visible to all.
const SECRET: &str = "PHALANX_CLUSTER_SECRET";
const RIGHT_SECRET: &str = "for the phalanx and nobody else";

/// Hosts 1 to 5, each with an address of this machine's loopback and folders of its own.
fn prepare() -> Result<Cluster> {
    let mut cluster = Cluster::prepare(EXE, &json!({}))?;
    cluster.set_env(SECRET, RIGHT_SECRET);
    for id in 1..=5 {
        cluster.place(id, Host { address: format!("127.0.1.{id}"), enter: Vec::new() });
    }
    Ok(cluster)
}

/// These nodes are the voters of one cluster, whose health names this reason and no other.
fn one_cluster(cluster: &Cluster, nodes: &[u64], reason: &str) -> Result<()> {
    cluster.wait_explained("the majority is one cluster, and says what is wrong", PATIENCE, || {
        for id in nodes {
            let seen = cluster.status(*id).map_err(|e| e.to_string())?.cluster;
            let voters: Vec<u64> = seen.voters.iter().map(|id| id.0).collect();
            if voters != nodes || seen.reasons != [reason] {
                return Err(format!("node {id}: {voters:?}, {:?}", seen.reasons));
            }
        }
        Ok(())
    })
}

fn logged(cluster: &Cluster, id: u64, text: &str) -> Result<()> {
    cluster.wait_explained(&format!("node {id} logs {text:?}"), PATIENCE, || {
        let log = cluster.log(id);
        if log.contains(text) { Ok(()) } else { Err(log) }
    })
}

/// Node 5 with a wrong value of this setting in its environment; corrected later.
fn four_go_ahead_and_the_fifth_follows(setting: &str, [wrong, right]: [&str; 2], what: &str) -> Result<()> {
    let mut cluster = prepare()?;
    for id in 1..=4 {
        cluster.spawn(id, &[])?;
    }
    cluster.set_env(setting, wrong);
    cluster.spawn(5, &[])?;
    let at = cluster.peer(5);
    one_cluster(&cluster, &[1, 2, 3, 4], &format!("{at} in peers cannot join: {what}: set the same one on all nodes"))?;
    for id in 1..=4 {
        logged(&cluster, id, &format!("{at}, which is in peers, cannot join: {what}"))?;
    }
    logged(&cluster, 5, "no new cluster is created: 1 of 5 nodes agree")?;
    let first = cluster.peer(1);
    logged(&cluster, 5, &format!("nodes that cannot be in one cluster with this one: {first}: "))?;
    cluster.put("early", "x")?;
    cluster.set_env(setting, right);
    cluster.restart(5)?;
    cluster.settle()?;
    logged(&cluster, 1, &format!("{at}, which is in peers, no longer differs"))
}

#[test]
fn a_host_with_another_secret_is_named_and_the_others_go_ahead() -> Result<()> {
    four_go_ahead_and_the_fifth_follows(SECRET, ["for nobody in particular", RIGHT_SECRET], "cluster_secret differs")
}

#[test]
fn a_host_with_another_cluster_name_is_named_and_the_others_go_ahead() -> Result<()> {
    let what = "cluster_name is \"other\" there";
    four_go_ahead_and_the_fifth_follows("PHALANX_CLUSTER_NAME", ["other", "phalanx"], what)
}

#[test]
fn hosts_in_namespaces_go_ahead_without_one_with_another_secret() -> Result<()> {
    if !is_apart("mismatched_hosts::hosts_in_namespaces_go_ahead_without_one_with_another_secret") {
        return Ok(());
    }
    let Hosts { cluster, .. } = &mut Hosts::prepare(EXE, 5, &json!({}))?;
    for id in 1..=4 {
        cluster.spawn(id, &[])?;
    }
    cluster.set_env(SECRET, "for nobody in particular");
    cluster.spawn(5, &[])?;
    let at = cluster.peer(5);
    let reason = format!("{at} in peers cannot join: cluster_secret differs: set the same one on all nodes");
    one_cluster(cluster, &[1, 2, 3, 4], &reason)?;
    cluster.set_env(SECRET, RIGHT_SECRET);
    cluster.restart(5)?;
    cluster.settle().map(drop)
}

#[test]
fn a_host_with_another_version_is_named_and_the_others_go_ahead() -> Result<()> {
    let mut cluster = prepare()?;
    // As every later version answers a hello of this one.
    let listener = TcpListener::bind(cluster.peer(5)).unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = codec::write_frame(&mut stream, &Frame::Challenge { nonce: [7; 16] });
            if let Ok(Frame::Hello(_)) = codec::read_frame(&mut stream, 1 << 16) {
                let answer = Frame::Differs { what: Mismatch::Protocol(99), cluster: None };
                let _ = codec::write_frame(&mut stream, &answer);
            }
        }
    });
    for id in 1..=4 {
        cluster.spawn(id, &[])?;
    }
    let what = Mismatch::Protocol(99).to_string();
    assert!(what.contains("99 there: run the same version on all nodes"), "{what}");
    one_cluster(&cluster, &[1, 2, 3, 4], &format!("{} in peers cannot join: {what}", cluster.peer(5)))
}

#[test]
fn without_a_majority_that_agrees_nobody_creates_a_cluster() -> Result<()> {
    let mut cluster = prepare()?;
    for (id, secret) in [(1, "first"), (2, "first"), (3, "second"), (4, "second"), (5, "third")] {
        cluster.set_env(SECRET, &format!("the {secret} of several secrets"));
        cluster.spawn(id, &[])?;
    }
    for (id, agree) in [(1, 2), (2, 2), (3, 2), (4, 2), (5, 1)] {
        logged(&cluster, id, &format!("no new cluster is created: {agree} of 5 nodes agree on cluster_secret"))?;
    }
    // Two pairs more, and three agree.
    cluster.kill_all();
    for (id, secret) in [(1, "first"), (2, "first"), (3, "second"), (4, "second"), (5, "second")] {
        cluster.set_env(SECRET, &format!("the {secret} of several secrets"));
        cluster.spawn(id, &[])?;
    }
    cluster.wait_explained("the three are one cluster", PATIENCE, || {
        let all: Vec<_> = [3, 4, 5].iter().filter_map(|id| cluster.status(*id).ok()).collect();
        let ids = all.iter().filter(|it| it.cluster.voters.len() == 3).map(|it| it.cluster.id);
        let ids = ids.collect::<Vec<_>>();
        if ids.len() == 3 && ids.iter().all(|id| *id == ids[0]) { Ok(()) } else { Err(format!("{ids:?}")) }
    })?;
    for id in [1, 2] {
        assert!(!cluster.log(id).contains("created cluster"), "{}", cluster.log(id));
        logged(&cluster, id, &format!("{}: cluster_secret differs", cluster.peer(3)))?;
    }
    Ok(())
}
