//! Shows the page with canned frames, for people who work on its looks; run by hand:
//! `cargo test --test http_page -- --ignored --nocapture`, then open http://127.0.0.1:6704/ (or 6702, 6705).
//! Commands on stdin: `offline N`, `leader N`, `degraded`, `unavailable`, `kill N` (that node's door stops for good).
#![allow(clippy::unwrap_used)] // a failed step is a failed test

mod http_fake;

use http_fake::*;
use phalanx::node::status::{Liveness, MonitorFrame, Verdict};
use phalanx::types::NodeId;
use std::io::BufRead;
use std::sync::mpsc;
use std::time::Duration;

#[test]
#[ignore = "serves until its standard input ends"]
fn serve_canned_frames() {
    let nodes: Vec<_> = [2, 4, 5]
        .map(|id| serve_on(FakeHost::new(id), patient(), &format!("127.0.0.1:{}", 6700 + id), false))
        .into_iter()
        .collect();
    let (lines, commands) = mpsc::sync_channel(8);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            lines.send(line.unwrap()).unwrap();
        }
    });
    let (mut leader, mut offline, mut verdict, mut step) = (5, Vec::new(), Verdict::Healthy, 0);
    loop {
        match commands.recv_timeout(Duration::from_millis(500)) {
            Ok(line) => {
                let (word, number) = line.split_once(' ').unwrap_or((&line, "0"));
                let id: u64 = number.parse().unwrap();
                match word {
                    "offline" => offline.push(NodeId(id)),
                    "leader" => leader = id,
                    "degraded" => verdict = Verdict::Degraded,
                    "unavailable" => verdict = Verdict::Unavailable,
                    "kill" => nodes.iter().filter(|node| node.host.me == id).for_each(|node| node.host.stop()),
                    other => panic!("unknown command {other}"),
                }
            }
            Err(mpsc::RecvTimeoutError::Timeout) => step += 1,
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
        for node in nodes.iter().filter(|node| !phalanx::http::Host::is_stopping(&*node.host)) {
            let frame = canned_frame(node.host.me, leader, step);
            node.host.publish(changed(frame, &offline, verdict, &node.host));
        }
    }
}

fn changed(mut frame: MonitorFrame, offline: &[NodeId], verdict: Verdict, host: &FakeHost) -> MonitorFrame {
    for row in frame.status.nodes.iter_mut().filter(|row| offline.contains(&row.id)) {
        (row.status, row.heartbeat_age_ms, row.load) = (Liveness::Offline, Some(48_000), 0);
        (row.last_index.0, row.commit_index.0, row.applied_index.0) = (110, 110, 110);
    }
    let cluster = &mut frame.status.cluster;
    cluster.verdict = verdict;
    match verdict {
        Verdict::Healthy => {}
        Verdict::Degraded => {
            cluster.failure_tolerance = 1;
            cluster.reasons = vec!["node 3 does not answer".to_owned()];
        }
        Verdict::Unavailable => {
            (cluster.leader, cluster.has_quorum) = (None, false);
            cluster.reasons = vec!["2 of 5 voters answer, 3 are needed".to_owned()];
        }
    }
    let mut sessions = host.sessions.lock().unwrap().clone();
    sessions.reverse();
    sessions
        .iter_mut()
        .enumerate()
        .for_each(|(at, session)| session.age_ms = frame.status.node.uptime_ms * (at as u64));
    if !sessions.is_empty() {
        frame.status.sessions_total = sessions.len();
        frame.status.sessions = sessions;
    }
    frame
}
