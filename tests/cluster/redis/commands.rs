//! The Redis door in front of a real cluster, compared with a real redis-server: same commands, same replies.

use crate::EXE;
use crate::redis::{Judge, Peer, RealRedis, Reply, Step};
use phalanx::lab::{Cluster, Result, poll};
use serde_json::json;
use std::time::Duration;

/// Asks both the same; the difference, if there is one that should not be, or none where one is listed.
fn compare(step: &Step, redis: &mut Peer, phalanx: &mut Peer) -> Option<String> {
    let words: Vec<&[u8]> = step.words.iter().map(Vec::as_slice).collect();
    if step.judge == Judge::Gone {
        for peer in [&mut *redis, &mut *phalanx] {
            let what = format!("line {}: the key is gone", step.line);
            poll::wait_until(&what, Duration::from_secs(5), || (peer.call(&words) == Reply::Int(0)).then_some(()))
                .unwrap();
        }
        return None;
    }
    let (theirs, ours) = (redis.call(&words), phalanx.call(&words));
    let is_same = match step.judge {
        Judge::Sorted => theirs.clone().sorted() == ours.clone().sorted(),
        Judge::Kind => theirs.kind() == ours.kind(),
        _ => theirs == ours,
    };
    let command = words.iter().map(|word| String::from_utf8_lossy(word)).collect::<Vec<_>>().join(" ");
    match (is_same, step.judge == Judge::Differs) {
        (true, true) => Some(format!("line {}: {command}: no longer differs ({}): {ours:?}", step.line, step.reason)),
        (false, false) => Some(format!("line {}: {command}\n    redis   {theirs:?}\n    phalanx {ours:?}", step.line)),
        _ => None,
    }
}

#[test]
fn replies_are_those_of_a_real_redis_server() -> Result<()> {
    let cluster = Cluster::ready(EXE, 3, &json!({}))?;
    let leader = cluster.settle()?;
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    let steps = crate::redis::steps(include_str!("commands.txt"));
    assert!(steps.len() > 400, "{} commands", steps.len());
    let mut faults = String::new();
    for proto in ["2", "3"] {
        let real = RealRedis::start();
        let mut theirs = [real.connect(), real.connect()];
        let mut ours = [Peer::tcp(&cluster.kv(follower)), Peer::tcp(&cluster.kv(leader))];
        for peer in theirs.iter_mut().chain(&mut ours) {
            let hello = peer.ask(&format!("HELLO {proto}"));
            assert!(matches!(hello.kind(), "array" | "map"), "{hello:?}");
        }
        for step in &steps {
            let n = usize::from(step.is_second);
            if let Some(fault) = compare(step, &mut theirs[n], &mut ours[n]) {
                faults += &format!("\nRESP{proto} {fault}");
            }
        }
    }
    assert!(faults.is_empty(), "{faults}");
    Ok(())
}
