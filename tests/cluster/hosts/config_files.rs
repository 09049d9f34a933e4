//! `config.json` of each host: the same everywhere and soon right, and one that cannot be says so.

use super::is_apart;
use crate::EXE;
use phalanx::lab::Result;
use phalanx::lab::hosts::Hosts;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// How soon after a change each file is right.
const RIGHT_WITHIN: Duration = Duration::from_millis(1500);

fn file(hosts: &Hosts, id: u64) -> std::result::Result<Value, String> {
    let text = std::fs::read_to_string(hosts.cluster.config_path_of(id)).map_err(|e| e.to_string())?;
    serde_json::from_str(&text).map_err(|e| format!("{e}: {text}"))
}

/// Waits until the files of these hosts are equal, name this leader, and call exactly these nodes OFFLINE.
fn wait_right(hosts: &Hosts, ids: &[u64], leader: u64, offline: &[u64], within: Duration) -> Result<()> {
    hosts.cluster.wait_explained("the files are equal and right", within, || {
        let files = ids.iter().map(|id| file(hosts, *id)).collect::<std::result::Result<Vec<_>, _>>()?;
        let first = &files[0];
        if files.iter().any(|other| other != first) {
            let versions: Vec<_> = files.iter().map(|file| file["cluster_info"].to_string()).collect();
            return Err(format!("they differ: {versions:?}"));
        }
        let away = |node: &&Value| node["status"] == "OFFLINE";
        let nodes = first["nodes"].as_object().ok_or("no nodes")?;
        let away: Vec<u64> = nodes.values().filter(away).filter_map(|node| node["id"].as_u64()).collect();
        let info = &first["cluster_info"];
        if info["leader"] == format!("node_{leader}") && away == offline && info["stale_since"].is_null() {
            return Ok(());
        }
        Err(format!("{info}, OFFLINE: {away:?}"))
    })
}

fn wait_stale(hosts: &Hosts, id: u64, is_stale: bool, within: Duration) -> Result<Value> {
    hosts.cluster.wait_explained(&format!("the file of host {id} is stale: {is_stale}"), within, || {
        let file = file(hosts, id)?;
        let since = file["cluster_info"]["stale_since"].as_str();
        if since.is_some_and(|at| at.ends_with('Z')) == is_stale { Ok(file) } else { Err(file.to_string()) }
    })
}

fn others(hosts: &Hosts, than: u64) -> Vec<u64> {
    hosts.ids().into_iter().filter(|id| *id != than).collect()
}

#[test]
fn every_hosts_file_is_current_and_one_that_is_cut_off_says_since_when_it_is_not() -> Result<()> {
    if !is_apart("hosts::config_files::every_hosts_file_is_current_and_one_that_is_cut_off_says_since_when_it_is_not") {
        return Ok(());
    }
    let mut hosts = Hosts::ready(EXE, 5, &json!({}))?;
    let all = hosts.ids();
    let mut leader = hosts.cluster.settle()?;
    wait_right(&hosts, &all, leader, &[], Duration::from_secs(5))?;
    for _ in 0..2 {
        let killed = Instant::now();
        hosts.cluster.kill_now(leader)?;
        let new = hosts.cluster.wait_other_leader(leader)?;
        let left = RIGHT_WITHIN.saturating_sub(killed.elapsed());
        wait_right(&hosts, &others(&hosts, leader), new, &[leader], left)?;
        hosts.cluster.restart(leader)?;
        leader = hosts.cluster.settle()?;
        wait_right(&hosts, &all, leader, &[], Duration::from_secs(5))?;
    }
    // A follower without the others, then the leader.
    let follower = leader % 5 + 1;
    for away in [follower, leader] {
        let rest = others(&hosts, away);
        let before = file(&hosts, away).expect("it is right");
        hosts.cut(&[away], &rest)?;
        // It takes an election timeout or two to notice.
        let stale = wait_stale(&hosts, away, true, RIGHT_WITHIN + Duration::from_secs(1))?;
        assert_eq!(stale["nodes"].as_object().map(|it| it.len()), Some(5), "it says what it knew: {stale}");
        assert_eq!(stale["cluster_info"]["leader"], before["cluster_info"]["leader"]);
        leader = if away == leader { hosts.cluster.wait_other_leader(away)? } else { leader };
        wait_right(&hosts, &rest, leader, &[away], Duration::from_secs(6))?;
        hosts.heal()?;
        let leader = hosts.cluster.settle()?;
        wait_right(&hosts, &all, leader, &[], Duration::from_secs(5))?;
    }
    Ok(())
}
