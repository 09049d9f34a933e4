//! Every membership change and leadership transfer that a person may ask for, whatever the node is: each is answered at
//! once, and says what is wrong.

use crate::EXE;
use crate::clients::Stalls;
use phalanx::lab::{Cluster, Result, poll, web};
use phalanx::types::NodeId;
use serde_json::{Value, json};
use std::process::Command;
use std::time::{Duration, Instant};

/// An answer that waits for nothing but a commit comes within this time on an idle machine.
const AT_ONCE: Duration = Duration::from_millis(300);

/// What is asked, and what must be answered: a status, and a part of the text.
type Row = (Ask, u16, &'static str);

#[derive(Clone, Copy, Debug)]
enum Ask {
    Transfer(u64),
    Promote(u64),
    Demote(u64),
    Remove(u64),
    /// A node, and the number of which node's uuid.
    Add(u64, u64),
}

fn put(cluster: &Cluster, via: u64, ask: Ask) -> Result<web::Response> {
    let act = |id: u64, action: &str| (format!("/v1/members/{id}"), json!({"action": action}));
    let (path, body) = match ask {
        Ask::Transfer(to) => ("/v1/leader/transfer".to_string(), json!({"to": to})),
        Ask::Promote(id) => act(id, "promote"),
        Ask::Demote(id) => act(id, "demote"),
        Ask::Remove(id) => act(id, "remove"),
        Ask::Add(id, of) => {
            let uuid = cluster.status(of).map_or(uuid::Uuid::from_u128(9), |status| status.node.uuid);
            ("/v1/members".to_string(), json!({"id": id, "uuid": uuid}))
        }
    };
    cluster.post(via, &path, &body)
}

/// Asks all this of each of these nodes.
fn walk(cluster: &Cluster, via: &[u64], rows: &[Row]) -> Result<()> {
    for (ask, status, says) in rows {
        for via in via {
            let (begun, stalls) = (Instant::now(), Stalls::start());
            let answer = put(cluster, *via, *ask)?;
            let (took, stall) = (begun.elapsed(), stalls.worst());
            let text = answer.text();
            assert!(answer.status == *status && text.contains(says), "{ask:?} via {via}: {} {text}", answer.status);
            assert!(took < AT_ONCE + 5 * stall, "{ask:?} via {via} took {took:?}, stall {stall:?}: {text}");
        }
    }
    Ok(())
}

/// Five voters, node 6 a learner, node 7 a gateway; the leader is node 5.
fn cluster_of_all_kinds() -> Result<Cluster> {
    let mut cluster = Cluster::ready(EXE, 5, &json!({"dead_after_ms": 3_600_000}))?;
    cluster.spawn(6, &[])?;
    cluster.spawn(7, &["--gateway"])?;
    cluster.settle()?;
    if cluster.leader() != Some(5) {
        put(&cluster, 1, Ask::Transfer(5))?;
    }
    cluster.wait_until("node 5 leads", Duration::from_secs(10), || (cluster.leader() == Some(5)).then_some(()))?;
    Ok(cluster)
}

fn cli(cluster: &Cluster, args: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(EXE).args(args).arg("--settings").arg(cluster.settings_path()).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn each_question_about_members_is_answered_at_once_and_clearly() -> Result<()> {
    use Ask::{Add, Demote, Promote, Remove, Transfer};
    let mut cluster = cluster_of_all_kinds()?;
    let well: &[Row] = &[
        (Transfer(6), 409, "node 6 is a learner, and only a voter can lead"),
        (Transfer(7), 409, "node 7 is a gateway, which cannot vote"),
        (Transfer(9), 409, "node 9 is not a member"),
        (Transfer(0), 400, "the node id must be 1 to 999"),
        (Transfer(5), 200, "\"leader\":5"),
        (Promote(7), 409, "node 7 is a gateway, which cannot vote"),
        (Promote(1), 409, "node 1 is a voter already"),
        (Promote(5), 409, "node 5 is a voter already"),
        (Promote(9), 409, "node 9 is not a member"),
        (Demote(6), 409, "node 6 is a learner already"),
        (Demote(7), 409, "node 7 is a learner already"),
        (Demote(9), 409, "node 9 is not a member"),
        (Remove(9), 409, "node 9 is not a member"),
        (Remove(1000), 400, "the node id must be 1 to 999"),
        (Add(1, 1), 409, "node 1 is a member already\""),
        (Add(1, 2), 409, "node 1 is a member already, with the uuid "),
        (Add(6, 6), 409, "node 6 is a member already\""),
    ];
    walk(&cluster, &[5, 1, 7], well)?;
    walk(
        &cluster,
        &[1],
        &[
            (Add(9, 9), 200, "\"id\":9"),
            (Promote(9), 409, "node 9 does not answer the leader"),
            (Transfer(9), 409, "node 9 is a learner, and only a voter can lead"),
            (Remove(9), 200, "\"id\":9"),
        ],
    )?;
    for (args, says) in [
        (["leader", "transfer", "6"], "node 6 is a learner, and only a voter can lead"),
        (["member", "remove", "9"], "node 9 is not a member"),
        (["member", "promote", "7"], "node 7 is a gateway, which cannot vote"),
        (["member", "demote", "6"], "node 6 is a learner already"),
    ] {
        let (code, text) = cli(&cluster, &args);
        assert!(code == Some(1) && text.contains(says), "{args:?}: {code:?} {text}");
    }
    cluster.freeze(2)?;
    cluster.freeze(3)?;
    // Until then the leader may still wait for an answer, and a transfer ends when the target does not take over.
    poll::pause(Duration::from_secs(2));
    let unsafe_text = "the change would lose the quorum: of the 4 voters that it leaves, 2 answer and 3 are needed";
    walk(
        &cluster,
        &[5, 1],
        &[
            (Transfer(2), 409, "node 2 does not answer the leader"),
            (Promote(2), 409, "node 2 is a voter already"),
            (Demote(4), 409, unsafe_text),
            (Remove(4), 409, unsafe_text),
            (Demote(5), 409, unsafe_text),
            (Remove(5), 409, unsafe_text),
        ],
    )?;
    cluster.kill(2)?;
    walk(&cluster, &[5, 1], &[(Transfer(2), 409, "node 2 does not answer the leader"), (Remove(4), 409, unsafe_text)])?;
    walk(
        &cluster,
        &[1],
        &[
            (Demote(2), 200, "\"id\":2"),
            (Promote(2), 409, "node 2 does not answer the leader"),
            (Transfer(2), 409, "node 2 is a learner, and only a voter can lead"),
            (Demote(3), 200, "\"id\":3"),
            (Promote(3), 409, "node 3 does not answer the leader"),
            (Remove(2), 200, "\"id\":2"),
            (Demote(2), 409, "node 2 is not a member"),
        ],
    )?;
    Ok(())
}

#[test]
fn a_leader_is_demoted_and_removed_and_a_removed_node_says_so_at_once() -> Result<()> {
    let cluster = Cluster::ready(EXE, 3, &json!({}))?;
    let leader = cluster.settle()?;
    walk(&cluster, &[leader], &[(Ask::Demote(leader), 200, "\"index\"")])?;
    let next = cluster.wait_other_leader(leader)?;
    // The autopilot wants three voters: it promotes the node again.
    cluster.settle()?;
    walk(&cluster, &[next], &[(Ask::Remove(next), 200, "\"index\"")])?;
    cluster.wait_until("it knows", Duration::from_secs(5), || {
        let reasons = cluster.status(next).ok()?.cluster.reasons;
        reasons.iter().any(|reason| reason.starts_with("this node was removed")).then_some(())
    })?;
    let removed = "this node was removed from the cluster: stop it, or";
    walk(
        &cluster,
        &[next],
        &[
            (Ask::Transfer(leader), 503, removed),
            (Ask::Promote(next), 503, removed),
            (Ask::Remove(leader), 503, removed),
        ],
    )
}

#[test]
fn the_last_voter_stays() -> Result<()> {
    let cluster = Cluster::start(EXE, 1, &json!({}))?;
    cluster.wait_leader()?;
    cluster.put("a", "b")?;
    let only = "node 1 is the only voter: promote another node first";
    walk(
        &cluster,
        &[1],
        &[
            (Ask::Demote(1), 409, only),
            (Ask::Remove(1), 409, only),
            (Ask::Transfer(1), 200, "\"leader\":1"),
            (Ask::Transfer(2), 409, "node 2 is not a member"),
        ],
    )?;
    let any = cluster.post(1, "/v1/leader/transfer", &json!({}))?;
    assert!(any.status == 409 && any.text().contains("no other voter can lead"), "{}", any.text());
    Ok(())
}

#[test]
fn a_transfer_to_a_voter_that_has_just_died_ends_with_it() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 3, &json!({}))?;
    let leader = cluster.settle()?;
    let target = (1..=3).find(|id| *id != leader).expect("two others");
    // Frozen, it takes nothing over; its end is known at once.
    cluster.freeze(target)?;
    let http = cluster.http(leader);
    let asked = std::thread::spawn(move || {
        let body = json!({"to": target});
        let begun = Instant::now();
        let answer = web::ask(&http, "POST", "/v1/leader/transfer", Some(&body), Duration::from_secs(8)).unwrap();
        (answer.status, answer.text(), begun.elapsed())
    });
    poll::pause(Duration::from_millis(50));
    cluster.kill_now(target)?;
    let (status, text, took) = asked.join().unwrap();
    assert!(status == 503 && text.contains("did not take over in time"), "{status} {text}");
    // Without that it waits for an election timeout, 400 ms.
    assert!(took < Duration::from_millis(300), "took {took:?}");
    Ok(())
}

#[test]
fn without_a_quorum_a_change_is_refused_before_its_deadline() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 3, &json!({"fail_after_ms": 600}))?;
    let leader = cluster.settle()?;
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    for id in &others {
        cluster.freeze(*id)?;
    }
    cluster.wait_until("it has stepped down", Duration::from_secs(10), || {
        let reasons = cluster.status(leader).ok()?.cluster.reasons;
        reasons.iter().any(|reason| reason.starts_with("1 of 3 voters reachable")).then_some(())
    })?;
    poll::pause(Duration::from_secs(1));
    let text = "no quorum: 1 of 3 voters reachable, 2 needed";
    walk(
        &cluster,
        &[leader],
        &[
            (Ask::Transfer(others[0]), 503, text),
            (Ask::Remove(others[0]), 503, text),
            (Ask::Demote(leader), 503, text),
            (Ask::Promote(leader), 503, text),
        ],
    )
}

/// As documented in operations.md.
#[test]
fn with_preempt_the_highest_voter_that_has_caught_up_leads() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 3, &json!({"preempt": true}))?;
    let leads = |cluster: &Cluster, id: u64| {
        cluster.wait_until(&format!("node {id} leads"), Duration::from_secs(20), || {
            (cluster.leader() == Some(id)).then_some(())
        })
    };
    leads(&cluster, 3)?;
    cluster.kill(3)?;
    let next = cluster.wait_other_leader(3)?;
    assert_eq!(NodeId(next), NodeId(2), "the highest of those that are there");
    cluster.put("while-away", "x")?;
    cluster.spawn(3, &[])?;
    leads(&cluster, 3)?;
    let moved: Value = serde_json::from_slice(&put(&cluster, 1, Ask::Transfer(1))?.body).unwrap();
    assert_eq!(moved["leader"], 1, "a transfer is done, and lasts until the next comparison");
    leads(&cluster, 3)?;
    cluster.settle()?;
    Ok(())
}
