//! The page for people without a browser; and the page with canned frames, for people who work on its looks, by hand:
//! `cargo test --test http page -- --ignored --nocapture`, then open http://127.0.0.1:6704/ (or 6702, 6705).
//! Commands on stdin: `offline N`, `leader N`, `degraded`, `unavailable`, `kill N` (that node's door stops for good).

use crate::fake_host::*;
use phalanx::node::Connections;
use phalanx::node::views::status::{Health, Liveness, MonitorFrame};
use phalanx::types::NodeId;
use std::io::{BufRead, Read, Write};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

/// What a script is sent, up to the end of the first table.
fn first_table(served: &Served) -> String {
    let mut stream = served.connect();
    write!(stream, "GET / HTTP/1.1\r\nHost: {}\r\nAccept: */*\r\n\r\n", served.address).unwrap();
    let (mut text, mut piece) = (Vec::new(), [0; 4096]);
    while !text.ends_with(b"-->\n\r\n") {
        let read = stream.read(&mut piece).unwrap();
        assert!(read > 0, "closed after {:?}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&piece[..read]);
    }
    let text = String::from_utf8(text).unwrap();
    text[text.rfind("<!--\n").expect("the table stands in a comment")..].to_owned()
}

#[test]
fn people_with_curl_get_two_lines_about_jobs() {
    let table = first_table(&serve(patient()));
    for line in [
        "\n  jobs: 4 running, 0 queued; 4 workers with 8 slots; offline: node 3\n",
        "\n  last: job 39, python, finished, exit code 0, on node 5, 51 ms: Hello from <python> & friends\n",
    ] {
        assert!(table.contains(line), "{line:?} is not in {table}");
    }
}

/// The first table of an endless response in plain text.
fn first_text(served: &Served, target: &str, accept: &str) -> String {
    let mut stream = served.connect();
    write!(stream, "GET {target} HTTP/1.1\r\nHost: {}\r\nAccept: {accept}\r\n\r\n", served.address).unwrap();
    let (mut text, mut piece) = (Vec::new(), [0; 4096]);
    while !text.ends_with(b"\n\n\r\n") {
        let read = stream.read(&mut piece).unwrap();
        assert!(read > 0, "closed after {:?}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&piece[..read]);
    }
    String::from_utf8(text).unwrap()
}

#[test]
fn watch_and_a_page_for_plain_text_are_tables_alone() {
    let served = serve(patient());
    let mut frame = canned_frame(4, 5, 1);
    (frame.status.nodes[2].status, frame.status.nodes[2].load) = (Liveness::Offline, 17);
    served.host.publish(frame);
    for (target, accept) in [("/v1/watch", "*/*"), ("/", "text/plain")] {
        let text = first_text(&served, target, accept);
        assert!(text.contains("\r\nContent-Type: text/plain; charset=utf-8\r\n"), "{text}");
        assert!(text.contains("  node  state    role       load "), "{text}");
        assert!(text.contains("\n  jobs: 4 running, 1 queued; 4 workers with 8 slots; offline: node 3\n"), "{text}");
        assert!(!text.contains("<script") && !text.contains("<!--") && !text.contains("update("), "{text}");
        let offline = text.lines().find(|line| line.contains("OFFLINE")).unwrap();
        assert_eq!(offline.split_whitespace().nth(3), Some("-"), "an offline node has no load: {offline}");
    }
    assert!(first_table(&served).contains("OFFLINE"), "a page, for all others");
}

#[test]
fn program_output_cannot_break_the_page_or_the_terminal() {
    let served = serve(patient());
    let mut frame = canned_frame(4, 5, 1);
    Arc::make_mut(&mut frame.status.jobs.last[0]).says = "--><script>alert(1)</script>\u{1b}[2J\r".to_owned();
    Arc::make_mut(&mut frame.status.jobs.last[0]).attempt = 2;
    Arc::make_mut(&mut frame.status.jobs.workers[1]).trouble = Some("no sandbox: --> \u{1b}[31m".to_owned());
    served.host.publish(frame);
    let table = first_table(&served);
    assert!(table.contains("; problem on node 2: no sandbox: - >  [31m"), "{table}");
    assert!(table.contains(", attempt 2, 51 ms: - ><script>alert(1)</script> [2J"), "{table}");
    assert_eq!(table.matches("-->").count(), 1, "{table}");
    let is_plain = |c: char| !c.is_control() || c == '\n';
    assert!(table.trim_end_matches("\r\n").chars().all(is_plain), "{table:?}");
}

#[test]
fn a_cluster_without_workers_shows_nothing_about_jobs() {
    let served = serve(patient());
    let mut frame = canned_frame(4, 5, 1);
    frame.status.jobs = Default::default();
    served.host.publish(frame);
    let table = first_table(&served);
    assert!(!table.contains("jobs:") && !table.contains("last: job"), "{table}");
}

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
    let (mut leader, mut offline, mut verdict, mut step) = (5, Vec::new(), Health::Healthy, 0);
    loop {
        match commands.recv_timeout(Duration::from_millis(500)) {
            Ok(line) => {
                let (word, number) = line.split_once(' ').unwrap_or((&line, "0"));
                let id: u64 = number.parse().unwrap();
                match word {
                    "offline" => offline.push(NodeId(id)),
                    "leader" => leader = id,
                    "degraded" => verdict = Health::Degraded,
                    "unavailable" => verdict = Health::Unavailable,
                    "kill" => nodes.iter().filter(|node| node.host.me == id).for_each(|node| node.host.stop()),
                    other => panic!("unknown command {other}"),
                }
            }
            Err(mpsc::RecvTimeoutError::Timeout) => step += 1,
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
        for node in nodes.iter().filter(|node| !node.host.is_stopping()) {
            let frame = canned_frame(node.host.me, leader, step);
            node.host.publish(changed(frame, &offline, verdict, &node.host));
        }
    }
}

fn changed(mut frame: MonitorFrame, offline: &[NodeId], verdict: Health, host: &FakeHost) -> MonitorFrame {
    for row in frame.status.nodes.iter_mut().filter(|row| offline.contains(&row.id)) {
        (row.status, row.heartbeat_age_ms, row.load) = (Liveness::Offline, Some(48_000), 0);
        (row.last_index.0, row.commit_index.0, row.applied_index.0) = (110, 110, 110);
    }
    let cluster = &mut frame.status.cluster;
    cluster.verdict = verdict;
    match verdict {
        Health::Healthy => {}
        Health::Degraded => {
            cluster.failure_tolerance = 1;
            cluster.reasons = vec!["node 3 does not answer".to_owned()];
        }
        Health::Unavailable => {
            (cluster.leader, cluster.has_quorum) = (None, false);
            cluster.reasons = vec!["2 of 5 voters answer, 3 are needed".to_owned()];
        }
    }
    let mut sessions = host.sessions.newest(usize::MAX);
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
