//! What a person types at a running node and at the command line, against real nodes.

use crate::EXE;
use phalanx::lab::process::Process;
use phalanx::lab::{Cluster, Result};
use phalanx::node::views::status::Health;
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

fn phalanx(cluster: &Cluster, args: &[&str]) -> Output {
    let mut command = Command::new(EXE);
    for (name, _) in std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("PHALANX_")) {
        command.env_remove(name);
    }
    // No -e: the settings name config.json, and that names the nodes.
    command.args(args).arg("--settings").arg(cluster.settings_path()).current_dir(cluster.dir()).output().unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Types a line at a node's console; what the node printed since, once it contains all of `words`.
fn type_and_read(cluster: &mut Cluster, id: u64, line: &str, words: &[&str]) -> Result<String> {
    let before = cluster.log(id).len();
    cluster.process(id)?.type_line(line)?;
    cluster.wait_explained(&format!("node {id} answers {line:?} with {words:?}"), SOON, || {
        let fresh = cluster.log(id)[before..].to_string();
        if words.iter().all(|w| fresh.contains(w)) { Ok(fresh) } else { Err(fresh) }
    })
}

#[test]
fn console_commands_answer_and_l_takes_the_leadership() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 3, &json!({}))?;
    let leader = cluster.settle()?;
    let other = (1..=3).find(|id| *id != leader).unwrap_or(1);
    cluster.wait_until("a follower has heard of all", SOON, || {
        let status = cluster.status(other).ok()?;
        (status.cluster.verdict == Health::Healthy).then_some(())
    })?;
    type_and_read(&mut cluster, other, "help", &["status", "peers", "quit"])?;
    type_and_read(&mut cluster, other, "status", &["healthy"])?;
    let peer = cluster.peer(leader);
    type_and_read(&mut cluster, other, "peers", &[&peer])?;
    type_and_read(&mut cluster, other, "frobnicate", &["help"])?;
    for (line, id) in [("L", other), ("lead", leader)] {
        cluster.process(id)?.type_line(line)?;
        cluster.wait_until(&format!("node {id} leads after {line:?}"), SOON, || {
            (cluster.leader() == Some(id)).then_some(())
        })?;
        cluster.settle()?;
    }
    type_and_read(&mut cluster, leader, "L", &[&format!("node {leader} leads already, in term ")])?;
    cluster.process(other)?.type_line("quit")?;
    assert_eq!(cluster.process(other)?.wait(Duration::from_secs(6))?.code(), Some(0));
    Ok(())
}

#[test]
fn the_end_of_standard_input_is_not_the_end_of_the_node() -> Result<()> {
    let mut cluster = Cluster::prepare(EXE, &json!({}))?;
    cluster.outlives_us = true;
    cluster.spawn(1, &[])?;
    cluster.settle()?;
    cluster.process(1)?.close_stdin();
    for n in 0..5 {
        cluster.put(&format!("still-{n}"), "here")?;
        let _ = cluster.wait_until("a moment", SOON, || cluster.status(1).ok())?;
    }
    assert!(cluster.is_running(1));
    Ok(())
}

#[test]
fn a_hang_up_opens_the_log_file_anew() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 1, &json!({}))?;
    let log = cluster.data_dir().join("node-1/node.log");
    let moved = log.with_extension("log.moved");
    std::fs::rename(&log, &moved).unwrap();
    cluster.process(1)?.signal(Signal::HUP)?;
    let is_there = || std::fs::read_to_string(&log).ok().filter(|text| text.contains("reopened"));
    cluster.wait_until("a new log file", SOON, is_there)?;
    assert!(std::fs::read_to_string(&moved).unwrap().contains("became leader"));
    cluster.put("still", "here")?;
    // Two causes of one event are no second Ctrl+C.
    cluster.process(1)?.signal(Signal::INT)?;
    cluster.process(1)?.signal(Signal::TERM)?;
    assert_eq!(cluster.process(1)?.wait(SOON)?.code(), Some(0));
    Ok(())
}

#[test]
fn a_hang_up_that_was_ignored_at_the_start_stays_ignored() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let nohup = folder.path().join("nohup");
    std::fs::write(&nohup, format!("#!/bin/sh\ntrap '' HUP\nexec {EXE} \"$@\"\n")).unwrap();
    std::fs::set_permissions(&nohup, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut cluster = Cluster::ready(&nohup, 1, &json!({}))?;
    let status = std::fs::read_to_string(format!("/proc/{}/status", cluster.process(1)?.pid())).unwrap();
    let mask = |name: &str| {
        let mask = status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
        u64::from_str_radix(mask, 16).unwrap()
    };
    let hang_up = 1 << (Signal::HUP.as_raw() - 1);
    assert_eq!((mask("SigIgn:") & hang_up, mask("SigCgt:") & hang_up), (hang_up, 0), "{status}");
    Ok(())
}

#[test]
fn a_log_that_nobody_reads_stops_no_node() -> Result<()> {
    let cluster = Cluster::prepare(EXE, &json!({}))?;
    let mut command = Command::new(EXE);
    command.args(["node", "--id", "1", "--until-eof", "--settings"]).arg(cluster.settings_path());
    command.current_dir(cluster.dir()).env("PHALANX_LOG", "debug").stdin(Stdio::piped()).stdout(Stdio::null());
    let mut node = command.stderr(Stdio::piped()).spawn().unwrap();
    let dropped = || {
        let metrics = cluster.get(1, "/metrics").ok()?.text();
        let row = metrics.lines().find_map(|line| line.strip_prefix("phalanx_log_lines_dropped_total "))?.to_string();
        row.parse::<f64>().ok().filter(|lines| *lines > 0.0)
    };
    // Each of these costs one line at this level.
    let flood = || {
        for _ in 0..200 {
            let unknown = TcpStream::connect(cluster.peer(1)).ok()?;
            let _ = (&unknown).write_all(&[7; 64]);
        }
        dropped()
    };
    cluster.wait_until("lines are dropped", Duration::from_secs(30), flood).unwrap();
    let added = cluster.post(1, "/v1/kv/it-goes-on", &json!({"incr": 1})).unwrap();
    assert_eq!(added.status, 200, "{}", added.text());
    let log = std::fs::read_to_string(cluster.data_dir().join("node-1/node.log")).unwrap();
    assert!(log.contains("peer handshake failed"), "another place is not held up: {log}");
    let mut stderr = BufReader::new(node.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("lines dropped") {
        line.clear();
        assert!(stderr.read_line(&mut line).unwrap() > 0, "it is said when lines flow again");
    }
    node.kill().unwrap();
    node.wait().unwrap();
    Ok(())
}

#[test]
fn nodes_of_a_program_that_is_killed_end_with_it() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 2, &json!({}))?;
    cluster.process(1)?.close_stdin();
    assert_eq!(cluster.process(1)?.wait(SOON)?.code(), Some(0));
    assert!(cluster.is_running(2));
    Ok(())
}

#[test]
fn the_command_line_shows_and_changes_a_real_cluster() -> Result<()> {
    let mut cluster =
        Cluster::ready(EXE, 4, &json!({"dead_after_ms": 3000, "request_timeout_ms": 1500, "takeover_after_ms": 0}))?;
    let leader = cluster.settle()?;
    cluster.wait_until("config.json is there", SOON, || cluster.config_path().exists().then_some(()))?;
    let status = phalanx(&cluster, &["status", "--check"]);
    assert_eq!(status.status.code(), Some(0), "{}", said(&status));
    assert!(said(&status).starts_with(&format!("healthy: node {leader} leads in term ")), "{}", said(&status));
    for id in 1..=4 {
        assert!(said(&status).contains(&cluster.http(id)), "{}", said(&status));
    }
    let json: Value = serde_json::from_slice(&phalanx(&cluster, &["leader", "--json"]).stdout).unwrap();
    assert_eq!(json["leader"], leader);

    let to = (1..=4).find(|id| *id != leader).unwrap_or(1);
    let moved = phalanx(&cluster, &["leader", "transfer", &to.to_string()]);
    assert_eq!(moved.status.code(), Some(0), "{}", said(&moved));
    cluster.wait_until("every node says so", SOON, || (cluster.settle().ok()? == to).then_some(()))?;
    let nobody = phalanx(&cluster, &["leader", "transfer", "42"]);
    assert_eq!(nobody.status.code(), Some(1), "{}", said(&nobody));

    let events = phalanx(&cluster, &["events"]);
    assert_eq!(events.status.code(), Some(0), "{}", said(&events));
    assert!(said(&events).contains("leads in term"), "{}", said(&events));

    let victim = (1..=4).find(|id| *id != to).unwrap_or(1).to_string();
    for (args, words) in [
        (["member", "demote", &victim], "learner"),
        (["member", "promote", &victim], "voter"),
        (["member", "remove", &victim], "removed"),
    ] {
        let changed = phalanx(&cluster, &args);
        // The autopilot may have been quicker with a change of its own: then the answer says so, and asking again works.
        assert!(matches!(changed.status.code(), Some(0 | 1 | 4)), "{args:?}: {}", said(&changed));
        if changed.status.code() == Some(0) {
            assert!(said(&changed).contains(words), "{args:?}: {}", said(&changed));
        }
    }
    let list = phalanx(&cluster, &["member", "list"]);
    assert_eq!(list.status.code(), Some(0), "{}", said(&list));

    // Without a quorum nothing is changed, and that is certain: refused, not unknown.
    let survivor = (1..=4).rev().find(|id| *id != to).unwrap_or(4);
    for id in (1..=4).filter(|id| *id != survivor) {
        if cluster.is_running(id) {
            cluster.kill(id)?;
        }
    }
    cluster
        .wait_until("nobody leads", SOON, || cluster.status(survivor).ok()?.cluster.leader.is_none().then_some(()))?;
    for args in [["leader", "transfer", &survivor.to_string()], ["member", "demote", &survivor.to_string()]] {
        let refused = phalanx(&cluster, &args);
        assert_eq!(refused.status.code(), Some(4), "{args:?}: {}", said(&refused));
    }
    cluster.kill(survivor)?;
    let gone = phalanx(&cluster, &["status"]);
    assert_eq!(gone.status.code(), Some(4), "{}", said(&gone));
    Ok(())
}

/// `events -f` prints what `events` prints, of one millisecond or not, also across a restart of the node it asks.
#[test]
fn events_are_followed_across_a_restart_of_their_node() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 3, &json!({}))?;
    let leader = cluster.settle()?;
    let asked = (1..=3).find(|id| *id != leader).unwrap_or(1);
    let at = cluster.http(asked);
    let lines = || {
        let output = Command::new(EXE).args(["events", "-e", &at]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let log = cluster.dir().join("events.log");
    let follower = Process::start(Command::new(EXE).args(["events", "-f", "-e", &at]), &log)?;
    let has_all = |plain: &str| {
        let followed = follower.output();
        plain.lines().all(|line| followed.contains(line))
    };
    let before = cluster.wait_until("all events are followed", SOON, || {
        let plain = lines();
        (plain.lines().count() >= 4 && has_all(&plain)).then_some(plain)
    })?;
    cluster.restart(asked)?;
    cluster.settle()?;
    // Fewer than before, with sequence numbers that the former process has used.
    cluster.wait_until("the events of the new process are followed", SOON, || {
        let plain = lines();
        (!plain.is_empty() && plain != before && has_all(&plain)).then_some(())
    })?;
    Ok(())
}

#[test]
fn dev_thaws_what_it_froze_and_names_ports_in_use() -> Result<()> {
    let cluster = Cluster::prepare(EXE, &json!({"jobs_enabled": false}))?;
    let settings = cluster.settings_path().to_string_lossy().into_owned();
    let dev = |nodes: &str, log: &str| {
        let args = ["dev", "-n", nodes, "--settings", &settings];
        let mut command = Command::new(EXE);
        Process::start(command.args(args).process_group(0).current_dir(cluster.dir()), &cluster.dir().join(log))
    };
    let mut first = dev("3", "first.log")?;
    cluster.wait_explained("all nodes vote", SOON, || {
        let voters = cluster.status(1).map_err(|e| e.to_string())?.cluster.voters.len();
        if voters == 3 { Ok(()) } else { Err(format!("{voters} voters; {}", first.output())) }
    })?;
    first.type_line("f")?;
    let frozen = cluster.wait_until("the leader is frozen", SOON, || {
        let output = first.output();
        let line = output.lines().find(|line| line.contains("frozen (SIGSTOP)"))?;
        line.strip_prefix('n')?.split(' ').next()?.parse::<u64>().ok()
    })?;
    let asked = if frozen == 1 { 2 } else { 1 };
    cluster.wait_until("another node leads", SOON, || {
        cluster.status(asked).ok()?.cluster.leader.filter(|leader| leader.0 != frozen)
    })?;
    first.type_line("f")?;
    cluster.wait_explained("the same node continues", SOON, || {
        let output = first.output();
        if output.contains(&format!("n{frozen} | (continued (SIGCONT))")) { Ok(()) } else { Err(output) }
    })?;

    let mut second = dev("2", "second.log")?;
    assert_eq!(second.wait(SOON)?.code(), Some(1), "{}", second.output());
    let said = second.output();
    assert!(said.contains("these ports are in use: ") && said.contains(&cluster.http(2)), "{said}");
    assert!(said.contains("next:"), "{said}");
    first.type_line("q")?;
    assert_eq!(first.wait(SOON)?.code(), Some(0));

    let mut fewer = dev("2", "fewer.log")?;
    cluster.wait_explained("the node that is left out is named", SOON, || {
        let output = fewer.output();
        if output.contains("also has nodes 3, which are not started") { Ok(()) } else { Err(output) }
    })?;
    fewer.type_line("q")?;
    assert_eq!(fewer.wait(SOON)?.code(), Some(0));
    Ok(())
}

#[test]
fn dev_stops_its_nodes_in_order_and_once() -> Result<()> {
    let cluster = Cluster::prepare(EXE, &json!({}))?;
    let settings = cluster.settings_path().to_string_lossy().into_owned();
    let args = ["dev", "-n", "2", "--settings", &settings];
    for is_told_by_key in [true, false] {
        let log = cluster.dir().join(format!("dev-{is_told_by_key}.log"));
        let mut dev = Process::start(Command::new(EXE).args(args).process_group(0).current_dir(cluster.dir()), &log)?;
        cluster.wait_explained("both nodes vote", SOON, || {
            let voters = cluster.status(1).map_err(|e| e.to_string())?.cluster.voters.len();
            if voters == 2 { Ok(()) } else { Err(format!("{voters} voters; {}", dev.output())) }
        })?;
        if is_told_by_key {
            // The end of a pipe right behind the key is no second word.
            dev.type_line("q")?;
            dev.close_stdin();
        } else {
            // As `timeout` and a closing terminal do it: all processes of the group at once.
            let group = Pid::from_raw(dev.pid() as i32).expect("a pid is not 0");
            rustix::process::kill_process_group(group, Signal::TERM).expect("the group is there");
        }
        let ended = dev.wait(SOON)?;
        let output = dev.output();
        assert_eq!(ended.code(), Some(0), "{output}");
        assert_eq!(output.matches("(exited: exit status: 0;").count(), 2, "{output}");
        assert!(!output.contains("asked twice"), "{output}");
    }
    Ok(())
}
