//! The command line as a script sees it: exit codes, streams, JSON, and words that say what to do next.
//!
//! Answers come from a stand-in node that speaks just enough HTTP; real clusters are in `tests/cluster/`.

use crate::EXE;
use phalanx::lab::hosts::namespaces;
use phalanx::lab::process::Process;
use phalanx::lab::terminal::Terminal;
use phalanx::lab::{poll, wait_until};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A port of loopback where nothing listens.
const NOBODY: &str = "127.0.0.1:1";

fn phalanx(args: &[&str]) -> Output {
    let mut command = Command::new(EXE);
    for (name, _) in std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("PHALANX_")) {
        command.env_remove(name);
    }
    command.args(args).current_dir(std::env::temp_dir()).output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

/// A stand-in node: answers by the first line of the request, and remembers what it was asked.
fn stand_in(answer: impl Fn(&str) -> (u16, Value) + Send + 'static) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let heard = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            let mut piece = [0; 4096];
            while !is_whole(&request) {
                match stream.read(&mut piece) {
                    Ok(n) if n > 0 => request.extend_from_slice(&piece[..n]),
                    _ => break,
                }
            }
            let text = String::from_utf8_lossy(&request).into_owned();
            let first = text.lines().next().unwrap_or("").trim_end_matches(" HTTP/1.1").to_string();
            let body = text.split("\r\n\r\n").nth(1).unwrap_or("");
            heard.lock().unwrap().push(format!("{first} {body}").trim().to_string());
            let (status, value) = answer(&first);
            if status == 0 {
                continue; // hangs up without a word
            }
            let value = format!("{value}\n");
            let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", value.len());
            let _ = stream.write_all(format!("{head}{value}").as_bytes());
        }
    });
    (address, asked)
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_ascii_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")).map_or(0, |n| n.parse().unwrap());
    body.len() >= length
}

fn status(verdict: &str) -> Value {
    json!({
        "node": {"id": 4, "uuid": "6f9619ff-8b86-d011-b42d-00c04fc964ff", "role": "follower", "membership": "voter",
                 "version": "0.1.0", "uptime_ms": 81234},
        "cluster": {"id": null, "name": "phalanx", "leader": 5, "term": 7, "has_quorum": true, "voters": [4, 5],
                    "learners": [], "failure_tolerance": 2, "verdict": verdict, "reasons": []},
        "nodes": [{"id": 5, "status": "LEADER", "role": "leader", "membership": "voter", "term": 7, "load": 3,
                   "last_index": 120, "commit_index": 120, "applied_index": 120, "lag": 0, "http": "127.0.0.1:6705",
                   "kv": "127.0.0.1:7705", "peer": "127.0.0.1:5705", "heartbeat_age_ms": 80}],
        "sessions": [], "sessions_total": 0, "failovers": []
    })
}

#[test]
fn an_unreachable_cluster_is_exit_code_4_with_advice() {
    for args in [
        vec!["status"],
        vec!["status", "--check"],
        vec!["events"],
        vec!["leader"],
        vec!["leader", "transfer", "2"],
        vec!["member", "list"],
        vec!["member", "remove", "2"],
    ] {
        let output = phalanx(&[&args[..], &["-e", NOBODY]].concat());
        assert_eq!(code(&output), Some(4), "{args:?}: {}", err(&output));
        assert_eq!(out(&output), "", "{args:?}: data only on stdout");
        assert!(err(&output).contains("connection refused at 127.0.0.1:1"), "{}", err(&output));
        assert!(err(&output).contains("next:") && err(&output).contains("./run.sh"), "{}", err(&output));
        assert!(!err(&output).contains('\x1b'), "no colour off a terminal");
    }
}

#[test]
fn wrong_usage_is_exit_code_2() {
    for args in [
        vec!["frobnicate"],
        vec!["status", "-e", "nowhere"],
        vec!["leader", "transfer", "five"],
        vec!["dev", "-n", "0"],
        vec!["status", "--timeout", "-1"],
    ] {
        let output = phalanx(&args);
        assert_eq!(code(&output), Some(2), "{args:?}: {}", err(&output));
        assert!(out(&output).is_empty() && !err(&output).is_empty(), "{args:?}");
    }
}

#[test]
fn every_address_is_tried() {
    let (node, _) = stand_in(|_| (200, status("healthy")));
    for endpoints in [format!("{NOBODY},{node}"), format!("http://{node}/,{NOBODY}")] {
        let output = phalanx(&["status", "-e", &endpoints]);
        assert_eq!(code(&output), Some(0), "{}", err(&output));
        assert!(out(&output).starts_with("healthy: node 5 leads in term 7; can lose 2 more\n"), "{}", out(&output));
    }
}

#[test]
fn check_turns_the_verdict_into_exit_code_7() {
    for (verdict, expected) in [("healthy", 0), ("degraded", 7), ("unavailable", 7)] {
        let (node, _) = stand_in(move |_| (200, status(verdict)));
        assert_eq!(code(&phalanx(&["status", "-e", &node])), Some(0));
        let output = phalanx(&["status", "--check", "-e", &node]);
        assert_eq!(code(&output), Some(expected), "{verdict}: {}", err(&output));
        assert!(out(&output).starts_with(verdict), "the table comes all the same");
    }
}

/// The node is still digesting its state at index 4 when the first checkpoint comes, and so skips that.
#[test]
fn check_digest_takes_another_checkpoint_if_a_node_has_skipped_one() {
    let own = Arc::new(Mutex::new(String::new()));
    let (address, newest, is_digesting) = (own.clone(), AtomicI64::new(4), AtomicBool::new(true));
    let (node, requests) = stand_in(move |first| {
        let answer = match first {
            "GET /v1/members" => json!({"members": [{"id": 1, "http": *address.lock().unwrap()}]}),
            "POST /v1/digests" => json!({"index": newest.fetch_add(1, SeqCst) + 1}),
            "GET /v1/digests" => {
                let row = |index: u64| json!({"index": index, "parts": {"sql": "0a"}});
                let newest = newest.load(SeqCst);
                let rows = if newest == 6 { vec![row(4), row(6)] } else { vec![row(4)] };
                json!({"agreed_index": 4, "checkpoint_index": newest, "checkpoint_age_ms": 1, "corrupt": [],
                       "split": null, "is_digesting": is_digesting.swap(false, SeqCst), "digests": rows})
            }
            _ => json!({"index": 9, "schema": "0b", "tables": {}}),
        };
        (200, answer)
    });
    *own.lock().unwrap() = node.clone();
    let output = phalanx(&["check", "digest", "-e", &node]);
    assert_eq!(code(&output), Some(0), "{}", err(&output));
    assert!(out(&output).starts_with("nodes 1 hold the same state at index 6\n"), "{}", out(&output));
    let taken = requests.lock().unwrap().iter().filter(|request| request.starts_with("POST /v1/digests")).count();
    assert_eq!(taken, 2, "one checkpoint after the skipped one");
}

#[test]
fn json_is_one_value_on_stdout() {
    let (node, _) = stand_in(|first| match first {
        "GET /v1/events?since=0" => {
            (200, json!({"events": [{"seq": 1, "at_ms": 5, "kind": "start", "node": 4, "text": "node 4 started"}]}))
        }
        "GET /v1/status" => (200, status("healthy")),
        _ => (200, json!({"index": 9, "leader": 2})),
    });
    for args in [
        vec!["status"],
        vec!["events"],
        vec!["leader"],
        vec!["leader", "transfer", "2"],
        vec!["member", "list"],
        vec!["member", "promote", "3"],
        vec!["member", "add", "3", "--uuid", "6f9619ff-8b86-d011-b42d-00c04fc964ff"],
    ] {
        let output = phalanx(&[&args[..], &["--json", "-e", &node]].concat());
        assert_eq!(code(&output), Some(0), "{args:?}: {}", err(&output));
        let value: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{args:?}: {e}"));
        assert!(value.is_object(), "{args:?}: {value}");
    }
}

#[test]
fn changes_say_what_they_ask() {
    let (node, asked) = stand_in(|_| (200, json!({"index": 9})));
    let uuid = "6f9619ff-8b86-d011-b42d-00c04fc964ff";
    for args in [
        vec!["leader", "transfer", "2"],
        vec!["member", "add", "6", "--uuid", uuid],
        vec!["member", "promote", "6"],
        vec!["member", "demote", "6"],
        vec!["member", "remove", "6"],
    ] {
        assert_eq!(code(&phalanx(&[&args[..], &["-e", &node]].concat())), Some(0), "{args:?}");
    }
    let expected = [
        r#"POST /v1/leader/transfer {"to":2}"#.to_string(),
        format!(r#"POST /v1/members {{"id":6,"uuid":"{uuid}"}}"#),
        r#"POST /v1/members/6 {"membership":"voter"}"#.into(),
        r#"POST /v1/members/6 {"membership":"learner"}"#.into(),
        "DELETE /v1/members/6".into(),
    ];
    assert_eq!(*asked.lock().unwrap(), expected);
}

#[test]
fn a_change_without_an_answer_is_unknown_and_not_sent_twice() {
    let (deaf, asked) = stand_in(|_| (0, Value::Null));
    let (second, asked_second) = stand_in(|_| (200, json!({})));
    let output = phalanx(&["member", "remove", "3", "-e", &format!("{deaf},{second}")]);
    assert_eq!(code(&output), Some(5), "{}", err(&output));
    assert!(err(&output).contains("the change may or may not be applied"), "{}", err(&output));
    assert_eq!((asked.lock().unwrap().len(), asked_second.lock().unwrap().len()), (1, 0));
}

#[test]
fn a_nodes_refusal_and_doubt_keep_their_codes() {
    for (status, outcome, expected) in [(503, "refused", 4), (504, "unknown", 5), (409, "refused", 1)] {
        let (node, _) = stand_in(move |_| (status, json!({"error": "because", "outcome": outcome})));
        let output = phalanx(&["leader", "transfer", "3", "-e", &node]);
        assert_eq!(code(&output), Some(expected), "{}", err(&output));
        assert!(err(&output).contains("because"), "{}", err(&output));
    }
}

#[test]
fn a_refusal_that_comes_late_is_still_a_refusal() {
    // A node holds a change for request_timeout_ms (5 s) before it refuses it.
    let (node, _) = stand_in(|_| {
        poll::pause(Duration::from_millis(3300));
        (503, json!({"error": "no quorum", "outcome": "refused"}))
    });
    let output = phalanx(&["leader", "transfer", "2", "-e", &node]);
    assert_eq!(code(&output), Some(4), "{}", err(&output));
    assert!(err(&output).contains("no quorum"), "{}", err(&output));
}

#[test]
fn a_wrong_settings_file_does_not_keep_from_asking_a_node_that_is_named() {
    let (node, _) = stand_in(|_| (200, status("healthy")));
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("settings.json"), "{").unwrap();
    let run = |args: &[&str]| {
        let mut command = Command::new(EXE);
        command.args(args).current_dir(folder.path()).output().unwrap()
    };
    assert_eq!(code(&run(&["status", "-e", &node])), Some(0));
    assert_eq!(code(&run(&["status"])), Some(2));
    assert_eq!(code(&run(&["status", "-e", &node, "--settings", "settings.json"])), Some(2));
}

/// What Kubernetes gives to each pod beside a service that is called `phalanx`.
#[test]
fn variables_of_a_service_called_phalanx_are_ignored_with_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let run = |args: &[&str], more: &[(&str, &str)]| {
        let mut command = Command::new(EXE);
        command.args(args).current_dir(folder.path());
        for (name, value) in [
            ("PHALANX_SERVICE_HOST", "10.96.0.7"),
            ("PHALANX_SERVICE_PORT", "80"),
            ("PHALANX_SERVICE_PORT_HTTP", "80"),
            ("PHALANX_PORT", "tcp://10.96.0.7:80"),
            ("PHALANX_PORT_80_TCP", "tcp://10.96.0.7:80"),
            ("PHALANX_PORT_80_TCP_PROTO", "tcp"),
            ("PHALANX_PORT_80_TCP_PORT", "80"),
            ("PHALANX_PORT_80_TCP_ADDR", "10.96.0.7"),
        ] {
            command.env(name, value);
        }
        command.envs(more.iter().copied()).output().unwrap()
    };
    let valid = run(&["config", "validate"], &[]);
    assert_eq!(code(&valid), Some(0), "{}", err(&valid));
    assert_eq!(err(&valid).matches("Kubernetes").count(), 1, "one warning: {}", err(&valid));
    assert!(
        err(&valid).contains("PHALANX_SERVICE_HOST") && err(&valid).contains("PHALANX_SERVICE_PORT,"),
        "{}",
        err(&valid)
    );
    let shown: Value = serde_json::from_str(&out(&run(&["config", "show", "--json"], &[]))).unwrap();
    assert_eq!(shown["service_port"]["value"], 8080, "the port of the service is not the setting");
    // The pod's own settings count, and a mistyped one is an error.
    let shown = run(&["config", "show", "--json"], &[("PHALANX_SERVICE_PORT", "9000"), ("PHALANX_HEARTBEAT_MS", "60")]);
    let shown: Value = serde_json::from_str(&out(&shown)).unwrap();
    assert_eq!((&shown["service_port"]["value"], &shown["heartbeat_ms"]["value"]), (&9000.into(), &60.into()));
    for (name, value) in
        [("PHALANX_SERVICE_PROT", "80"), ("PHALANX_SERVICE_PORT_BAES", "6700"), ("PHALANX_PORTS", "80")]
    {
        let refused = run(&["config", "validate"], &[(name, value)]);
        assert_eq!(code(&refused), Some(2), "{name}");
        let key = name["PHALANX_".len()..].to_ascii_lowercase();
        assert!(err(&refused).contains(&key) && err(&refused).contains("unknown key"), "{}", err(&refused));
    }
}

#[test]
fn no_leader_is_exit_code_4_and_wait_waits() {
    let asked = Mutex::new(0);
    let (node, _) = stand_in(move |_| {
        let mut n = asked.lock().unwrap();
        *n += 1;
        let mut status = status("unavailable");
        if *n < 4 {
            status["cluster"]["leader"] = Value::Null;
        }
        (200, status)
    });
    assert_eq!(code(&phalanx(&["leader", "-e", &node])), Some(4));
    let output = phalanx(&["leader", "--wait", "-e", &node]);
    assert_eq!(code(&output), Some(0), "{}", err(&output));
    assert_eq!(out(&output), "node 5 leads in term 7 (http://127.0.0.1:6705/)\n");
}

#[test]
fn completions_know_the_subcommands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = phalanx(&["completions", shell]);
        assert_eq!(code(&output), Some(0), "{}", err(&output));
        for word in ["status", "transfer", "failover", "rejoin"] {
            assert!(out(&output).contains(word), "{shell}: {word}");
        }
    }
}

#[test]
fn a_command_has_a_manual_page() {
    let output = phalanx(&["man", "kv", "put"]);
    assert_eq!(code(&output), Some(0), "{}", err(&output));
    assert!(out(&output).contains(".TH") && out(&output).contains("ttl"), "{}", out(&output));
    assert!(out(&phalanx(&["man"])).contains("7 unhealthy"));
    assert_eq!(code(&phalanx(&["man", "nonsense"])), Some(2));
}

#[test]
fn progress_is_shown_on_a_terminal_only() {
    let mut terminal = Terminal::start(&format!("{EXE} sim sweep --seeds 5"), &[]).unwrap();
    terminal.expect(" of 5, ").unwrap();
    terminal.expect("/s, ").unwrap();
    terminal.expect(" left").unwrap();
    terminal.expect("5 of 5 seeds from 1 passed").unwrap();
    terminal.expect_end(0).unwrap();
    let mut terminal = Terminal::start(&format!("{EXE} bench kv --nodes 1 --seconds 1 --mode strong"), &[]).unwrap();
    terminal.expect("starting 1 nodes").unwrap();
    terminal.expect(" of 1 s").unwrap();
    terminal.expect("(strong: 0 elections meanwhile)").unwrap();
    terminal.expect_end(0).unwrap();
    let output = phalanx(&["sim", "sweep", "--seeds", "1"]);
    assert_eq!((code(&output), err(&output)), (Some(0), String::new()));
}

#[test]
fn help_names_exit_codes_and_a_first_step() {
    let output = phalanx(&["--help"]);
    assert_eq!(code(&output), Some(0));
    assert!(out(&output).contains("7 unhealthy") && out(&output).contains(", 130 "), "{}", out(&output));
    let (first_step, commands) = (out(&output).find("./run.sh").unwrap(), out(&output).find("Commands:").unwrap());
    assert!(first_step < commands, "{}", out(&output));
}

#[test]
fn help_shows_what_a_command_needs_to_be_used() {
    let cases: [(&[&str], &str); 9] = [
        (&["node"], "Ctrl+C or SIGTERM stops it gracefully"),
        (&["node"], "[default: settings.json in the current directory, if there is one]"),
        (&["status"], "the last index in its log"),
        (&["dev"], "f freeze or continue"),
        (&["sim"], "phalanx sim replay 1234 --plan witness"),
        (&["member"], "phalanx member list"),
        (&["check", "digest"], "Example: phalanx check digest"),
        (&["bench", "kv"], "[alias: --endpoints]"),
        (&["bench", "kv"], "overwrites the keys key:000000000000"),
    ];
    for (command, text) in cases {
        let output = phalanx(&[command, &["--help"]].concat());
        // Lines are broken by the width of the terminal.
        let printed = out(&output).split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(code(&output) == Some(0) && printed.contains(text), "{command:?}: {text:?} is not in {printed}");
    }
}

#[test]
fn a_reader_that_stops_reading_ends_the_program_quietly() {
    let (node, _) = stand_in(|_| (200, status("healthy")));
    let mut child = Command::new(EXE)
        .args(["status", "--watch", "-e", &node])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 1];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((code(&output), err(&output)), (Some(0), String::new()));
}

/// What lies in a temporary folder, but for the locks of ports, which this user's later demos use as well.
fn left_in(folder: &std::path::Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).unwrap().flatten().map(|row| row.file_name().to_string_lossy().into_owned());
    names.filter(|name| !name.starts_with("phalanx-lab-locks-")).collect()
}

/// The logs of nodes in the folders of a folder, down to a depth.
fn logs_below(folder: &std::path::Path, depth: usize, found: &mut Vec<String>) {
    for path in std::fs::read_dir(folder).into_iter().flatten().flatten().map(|row| row.path()) {
        if path.file_name().is_some_and(|name| name == "node.log") {
            found.extend(std::fs::read_to_string(&path));
        } else if depth > 0 && path.is_dir() {
            logs_below(&path, depth - 1, found);
        }
    }
}

#[test]
fn demos_and_benches_leave_nothing_behind_when_stopped() {
    let mut cases = vec![
        (&["demo", "chat"][..], Signal::TERM, 143),
        (&["demo", "jobs"], Signal::INT, 130),
        (&["bench", "failover"], Signal::HUP, 129),
        (&["bench", "kv"], Signal::TERM, 143),
        (&["bench", "job"], Signal::INT, 130),
    ];
    if namespaces::check().is_ok() {
        // Its nodes are processes of a process of its own.
        cases.push((&["bench", "failover", "--only", "vanished"], Signal::TERM, 143));
    }
    for (command, signal, code) in cases {
        let (temporary, own) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        std::fs::set_permissions(temporary.path(), open).unwrap();
        let log = own.path().join("log");
        let mut process = Process::start(
            Command::new(EXE).args(command).env("TMPDIR", temporary.path()).current_dir(own.path()),
            &log,
        )
        .unwrap();
        let nodes = || {
            let mut logs = Vec::new();
            logs_below(temporary.path(), 6, &mut logs);
            logs.iter().any(|log| log.contains("leader")).then_some(())
        };
        wait_until("its nodes have a leader", Duration::from_secs(60), nodes).unwrap();
        process.signal(signal).unwrap();
        let ended = process.wait(Duration::from_secs(30)).unwrap();
        let said = std::fs::read_to_string(&log).unwrap();
        assert_eq!(ended.code(), Some(code), "{command:?}: {said}");
        assert_eq!(left_in(temporary.path()), [""; 0], "{command:?}: {said}");
        let data = temporary.path().to_string_lossy().into_owned();
        let pids = std::fs::read_dir("/proc").unwrap().flatten().map(|row| row.path());
        let lines = pids.filter_map(|pid| std::fs::read(pid.join("cmdline")).ok());
        let alive: Vec<String> = lines.map(|line| String::from_utf8_lossy(&line).into_owned()).collect();
        assert!(!alive.iter().any(|line| line.contains(&data)), "{command:?}: {alive:?}");
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!table.contains(&data), "{command:?}: {table}");
    }
}

#[test]
fn an_error_leaves_nothing_either_unless_it_is_a_failure_to_be_looked_at() {
    let temporary = tempfile::tempdir().unwrap();
    let mut command = Command::new(EXE);
    let output = command.args(["bench", "kv", "-e", NOBODY]).env("TMPDIR", temporary.path()).output().unwrap();
    assert_ne!(code(&output), Some(0));
    assert_eq!(left_in(temporary.path()), [""; 0], "{}", err(&output));
}

/// A cluster that has just started has no workers yet: a job waits for them. Where they are and cannot run anything it
/// does not.
#[test]
fn a_job_is_handed_in_again_until_the_nodes_know_what_they_can_run() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hello.sh");
    std::fs::write(&file, "echo hello").unwrap();
    let cluster = |workers: Value, leader: Value| {
        let refusals = AtomicI64::new(2);
        stand_in(move |first| match first.split(' ').nth(1) {
            Some("/v1/status") => (200, json!({"cluster": {"leader": leader}, "jobs": {"workers": workers}})),
            Some("/v1/jobs") if refusals.fetch_sub(1, SeqCst) > 0 => {
                (503, json!({"error": "no node has it", "outcome": "refused"}))
            }
            _ => (202, json!({"id": 7, "state": "queued"})),
        })
    };
    let submit = |node: &str| phalanx(&["job", "submit", file.to_str().unwrap(), "-e", node]);
    let asked = |asked: &Mutex<Vec<String>>| {
        asked.lock().unwrap().iter().filter(|first| first.starts_with("POST /v1/jobs")).count()
    };
    let (node, heard) = cluster(json!([]), json!(1));
    let output = submit(&node);
    assert_eq!((code(&output), out(&output).as_str(), asked(&heard)), (Some(0), "7\n", 3), "{}", err(&output));
    assert_eq!(err(&output), "waiting: no worker has joined yet\n", "once");
    let broken = json!([{"id": 1, "is_here": true, "slots": 1, "running": [], "runtimes": [], "trouble": "no bwrap"}]);
    // Once more if a worker is there: it may have joined since the refusal.
    for (workers, leader, count) in [(broken, json!(1), 2), (json!([]), Value::Null, 1)] {
        let (node, heard) = cluster(workers, leader);
        let output = submit(&node);
        assert_eq!((code(&output), asked(&heard)), (Some(4), count), "{}", err(&output));
    }
}

/// What somebody wrote: it clears a terminal's screen, by two means, and turns the order of what follows.
const THEIRS: &str = "a\u{1b}[2Jb\u{9b}2Jc\u{202e}d";

/// A node whose every answer is full of that.
fn strange_node() -> String {
    let job = json!({"id": 7, "language": THEIRS, "state": THEIRS, "worker": 1, "attempt": 1, "files": [THEIRS],
        "stdout": THEIRS, "exit_code": 0, "compile_ms": 1, "run_ms": 1});
    let (node, _) = stand_in(move |first| {
        let path = first.split(' ').nth(1).unwrap_or_default();
        let answer = match path.split('?').next().unwrap_or_default() {
            "/v1/status" => {
                let mut status = status("degraded");
                status["cluster"]["reasons"] = json!([THEIRS]);
                status["nodes"][0]["http"] = THEIRS.into();
                status
            }
            "/v1/events" => json!({"events": [{"seq": 1, "at_ms": 1, "kind": THEIRS, "text": THEIRS}], "newest": 1}),
            "/v1/kv" => json!({"keys": [{"key": THEIRS, "value": THEIRS, "index": 3}]}),
            "/v1/jobs" => json!({"jobs": [job]}),
            "/v1/jobs/7" => job.clone(),
            "/v1/jobs/7/output" => json!({"attempt": 1, "stream": "stdout", "text": THEIRS}),
            "/v1/runtimes" => json!({"runtimes": [{"language": THEIRS, "nodes": [{"id": 1, "version": THEIRS}]}]}),
            "/db/request" => json!({"results": [{"columns": [THEIRS], "types": ["text"], "values": [[THEIRS]]}]}),
            "/v1/chat/accounts" => json!({"accounts": [{"account": 1, "name": THEIRS}]}),
            "/v1/chat/rooms" => json!({"rooms": [{"conversation": 2, "name": THEIRS}]}),
            "/v1/chat/conversations" => json!({"conversations": [{"conversation": 2, "kind": "room", "name": THEIRS,
                "unread": 0, "last": {"text": THEIRS}}]}),
            "/v1/chat/conversations/2" => json!({"conversation": 2, "unread": 0, "name": THEIRS}),
            "/v1/chat/conversations/2/messages" => json!({"messages": [{"number": 1, "text": THEIRS,
                "from": {"name": THEIRS}, "at_ms": 0}], "newest": 1}),
            "/v1/chat/conversations/2/read" => json!({}),
            _ => return (400, json!({"error": THEIRS})),
        };
        (200, answer)
    });
    node
}

#[test]
fn foreign_text_is_escaped_on_terminals_only() {
    let node = strange_node();
    let exe = EXE;
    let state = tempfile::tempdir().unwrap();
    let (shown, json_shown) = (r"a\x1b[2Jb", r"a\u001b[2Jb\u009b2Jc\u202ed");
    let json_piped = "a\\u001b[2Jb\u{9b}2Jc\u{202e}d";
    // A command, and whether it writes JSON, which has no bare control characters below a blank.
    for (command, is_json) in [
        ("status", false),
        ("status --json", true),
        ("leader", false),
        ("events", false),
        ("events --json", true),
        ("kv scan x", false),
        ("kv scan x --json", true),
        ("job list", false),
        ("job list --json", true),
        ("job show 7", false),
        ("job show 7 --json", true),
        ("job logs 7", false),
        ("job runtimes", false),
        ("sql -c 'SELECT 1'", false),
        ("sql --csv -c 'SELECT 1'", false),
        ("sql --json -c 'SELECT 1'", true),
        ("chat people", false),
        ("chat rooms", false),
        ("chat list", false),
        ("chat read :2", false),
        ("chat read :2 --json", true),
        ("kv get x", false),
        ("job cancel 9", false),
    ] {
        let line = format!("{exe} {command} -e {node}");
        let mut terminal = Terminal::start(&line, &[("XDG_STATE_HOME", &state.path().to_string_lossy())]).unwrap();
        let is_error = matches!(command, "kv get x" | "job cancel 9");
        let ended = terminal.expect_end(if is_error { 1 } else { 0 });
        let on_terminal = terminal.shown();
        let wanted = if is_json { json_shown } else { shown };
        assert!(ended.is_ok() && on_terminal.contains(wanted), "{command} on a terminal: {on_terminal:?}");
        for obeyed in ["\u{1b}[2J", "\u{9b}", "\u{202e}"] {
            assert!(!on_terminal.contains(obeyed), "{command} on a terminal: {on_terminal:?}");
        }
        let output = Command::new("sh").args(["-c", &line]).env("XDG_STATE_HOME", state.path()).output().unwrap();
        let piped = out(&output) + &err(&output);
        let wanted = if is_json { json_piped } else { THEIRS };
        assert!(piped.contains(wanted), "{command} in a pipe: {piped:?}");
    }
    // Those that go on: how they end is of no interest here.
    for (command, wanted) in [("events -f", shown), ("events -f --json", json_shown)] {
        let mut terminal = Terminal::start(&format!("{exe} {command} -e {node}"), &[]).unwrap();
        terminal.expect(wanted).unwrap(); // its kind
        terminal.expect(wanted).unwrap();
        terminal.expect("\n").unwrap();
        let on_terminal = terminal.shown();
        for obeyed in ["\u{1b}[2J", "\u{9b}", "\u{202e}"] {
            assert!(!on_terminal.contains(obeyed), "{command} on a terminal: {on_terminal:?}");
        }
    }
    let mut raw = Terminal::start(&format!("{exe} job logs 7 --raw -e {node}"), &[]).unwrap();
    raw.expect(THEIRS).unwrap();
}

/// A runner that is stopped reads nothing: its guardian, which tells it of each renewal, ends the command all the same.
#[test]
fn a_guardian_without_a_reader_ends_its_command() {
    let (mut mouth, _ear) = std::os::unix::net::UnixStream::pair().unwrap();
    mouth.set_nonblocking(true).unwrap();
    while mouth.write(&[b'\n'; 4096]).is_ok() {}
    mouth.set_nonblocking(false).unwrap();
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let span = |secs: i64, nanos: i64| json!({"secs": secs, "nanos": nanos});
    let lease = json!({"endpoints": [NOBODY], "patience": span(0, 100_000_000), "path": "/v1/lock/x", "name": "x",
        "ttl": span(1, 0), "token": 1, "held_from": span(now.tv_sec, now.tv_nsec)});
    let mut command = Command::new(EXE);
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let stdout = std::process::Stdio::from(std::os::fd::OwnedFd::from(mouth));
    let mut guardian =
        command.args(["lock", "keep"]).stdin(std::process::Stdio::piped()).stdout(stdout).spawn().unwrap();
    writeln!(guardian.stdin.as_mut().unwrap(), "{lease}").unwrap();
    let ended = wait_until("it has ended its group", Duration::from_secs(20), || guardian.try_wait().unwrap());
    let signal = ended.map(|status| std::os::unix::process::ExitStatusExt::signal(&status));
    let _ = guardian.kill(); // if it has not
    assert_eq!(signal.unwrap(), Some(9));
}

#[test]
fn a_folder_of_another_user_is_refused_with_the_rule() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: only root can be two users");
    }
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let (exe, data) = (folder.path().join("phalanx"), folder.path().join("data"));
    std::fs::copy(EXE, &exe).unwrap();
    std::fs::create_dir(&data).unwrap();
    for (path, mode) in [(folder.path(), 0o755), (exe.as_path(), 0o755), (data.as_path(), 0o700)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65533", "--regid=65533", "--clear-groups"]).arg(&exe).args(["node", "--id", "2", "--data"]);
    let output = command.arg(&data).current_dir("/").env_clear().output().unwrap();
    assert_eq!(code(&output), Some(3), "{}", err(&output));
    assert!(err(&output).contains("start all nodes of a host as the same user"), "{}", err(&output));
}
