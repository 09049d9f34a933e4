//! Start, stop, `fresh` and `clean`: what they start and end, keep and remove.

use super::{ScriptRunner, WITHIN, is_alive, path_without, said};
use crate::EXE;
use phalanx::lab::process::Process;
use phalanx::lab::{poll, wait_until, web};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

#[test]
fn a_cluster_with_a_password_is_started_and_looked_at() {
    const PASSWORD: &str = "open sesame";
    let mut runner = ScriptRunner::new();
    runner.set("PHALANX_CLIENT_PASSWORD", PASSWORD);
    let started = runner.run(&["start", "--nodes", "3", "--terminal", "none"]);
    assert_eq!(started.status.code(), Some(0), "{}", said(&started));
    assert!(
        said(&started).contains("Phalanx is up") && !said(&started).contains("Not all online yet"),
        "{}",
        said(&started)
    );
    assert!(!said(&started).contains(PASSWORD), "{}", said(&started));
    assert_eq!(web::get(&runner.front(), "/", WITHIN).unwrap().status, 401);
    let status = runner.run(&["status"]);
    assert!(said(&status).contains("healthy: "), "{}", said(&status));
    runner.stop();
}

#[test]
fn background_processes_start_stop_and_start_again() {
    let mut runner = ScriptRunner::new();
    let started = runner.run(&["start", "--terminal", "none"]);
    // "Up" means all of them: the very next look finds nobody missing, and the worker named is one.
    let status = runner.run(&["status"]);
    assert!(said(&status).contains("healthy: "), "{}", said(&status));
    assert!(!said(&started).contains("Not all online yet"), "{}", said(&started));
    let worker =
        said(&started).split_once(", now http://").map(|(_, rest)| rest.split('/').next().unwrap().to_string());
    let row = said(&status).lines().find(|l| l.contains(worker.as_deref().unwrap())).unwrap().to_string();
    assert!(row.contains(" ONLINE "), "the worker is no leader: {row}");
    runner.assert_up(&started, 5);
    for id in 1..=5 {
        let log = runner.dir.path().join(format!("data/node-{id}/node.log"));
        assert!(std::fs::metadata(&log).is_ok_and(|m| m.len() > 0), "{} is empty", log.display());
    }

    let before = runner.pids();
    let again = runner.run(&["start", "--terminal", "none"]);
    assert_eq!(again.status.code(), Some(0));
    assert!(said(&again).contains("running already"), "{}", said(&again));
    assert_eq!(runner.pids(), before, "a second start starts nothing");

    let status = runner.run(&["status"]);
    assert_eq!(status.status.code(), Some(0), "{}", said(&status));
    assert!(said(&status).contains("node ") && said(&status).contains("leads in term"), "{}", said(&status));

    // One is killed: start brings back just that one.
    let victim = runner.pid(3).unwrap();
    assert!(Command::new("kill").args(["-9", &victim.to_string()]).status().unwrap().success());
    wait_until("node 3 is dead", WITHIN, || (!is_alive(victim)).then_some(())).unwrap();
    let repaired = runner.run(&["start", "--terminal", "none"]);
    assert_eq!(repaired.status.code(), Some(0), "{}", said(&repaired));
    wait_until("node 3 is another process", WITHIN, || runner.pid(3).filter(|p| *p != victim && is_alive(*p))).unwrap();
    assert_eq!(runner.pids().len(), 5);

    // One is frozen: the wait for it is bounded, and it is named.
    let frozen = runner.pid(2).unwrap().to_string();
    assert!(Command::new("kill").args(["-STOP", &frozen]).status().unwrap().success());
    runner.set("PHALANX_TEST_START_WITHIN", "1");
    let waited = runner.run(&["start", "--terminal", "none"]);
    assert!(said(&waited).contains("Not all online yet:           node(s) 2 "), "{}", said(&waited));

    runner.stop();
    let status = runner.run(&["status"]);
    assert_eq!(status.status.code(), Some(4), "{}", said(&status));
    let nothing = runner.run(&["stop"]);
    assert!(nothing.status.success() && said(&nothing).contains("Nothing is running"), "{}", said(&nothing));
}

#[test]
fn fresh_starts_with_empty_data_and_start_keeps_the_old() {
    let runner = ScriptRunner::new();
    let id = |runner: &ScriptRunner| {
        let at = format!("127.0.0.1:{}", runner.block.http_base() + 1);
        wait_until("node 1 knows its cluster", WITHIN, || {
            let status = web::get(&at, "/v1/status", WITHIN).ok()?.json();
            status["cluster"]["id"].as_str().map(str::to_string)
        })
        .unwrap()
    };
    runner.assert_up(&runner.run(&["start", "--nodes", "3", "--terminal", "none"]), 3);
    let first = id(&runner);
    runner.stop();
    runner.assert_up(&runner.run(&["--nodes=3", "--terminal=none"]), 3);
    assert_eq!(id(&runner), first, "start goes on with its data");
    // While it runs, too, and where the job of a killed node has left a file system.
    let left = runner.dir.path().join("data").join("node-3").join("jobs").join("7 x-1");
    std::fs::create_dir_all(&left).unwrap();
    if rustix::process::geteuid().is_root() {
        let none = rustix::mount::MountFlags::empty();
        rustix::mount::mount("none", &left, "tmpfs", none, None).unwrap();
    }
    runner.assert_up(&runner.run(&["fresh", "--nodes", "3", "--terminal", "none"]), 3);
    assert!(!left.exists());
    assert_ne!(id(&runner), first, "fresh creates another cluster");
    runner.stop();
}

#[test]
fn fresh_deletes_nothing_before_it_may_start() {
    let mut runner = ScriptRunner::new();
    let data = runner.dir.path().join("data");
    let identity = data.join("node-7/identity.json");
    let neighbour = data.join("node-notes");
    std::fs::create_dir_all(&neighbour).unwrap();
    let envs = runner.envs.iter().filter(|(name, _)| name.starts_with("PHALANX_")).cloned();
    let args = ["node", "--id", "7"];
    let log = runner.dir.path().join("by-hand.log");
    let mut by_hand =
        Process::start(Command::new(EXE).args(args).envs(envs).current_dir(runner.dir.path()), &log).unwrap();
    wait_until("node 7 has written its identity", WITHIN, || identity.exists().then_some(())).unwrap();

    // A node that a person runs keeps its folder: seen by its lock, and by its pid where there is no flock.
    let path = std::env::var("PATH").unwrap();
    let bare = path_without(&runner, &["flock", "xterm"]);
    for path in [&path, &bare] {
        runner.set("PATH", path);
        let refused = runner.run(&["fresh", "--nodes", "1", "--terminal", "none"]);
        assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
        assert!(
            said(&refused).contains("data/node-7") && said(&refused).contains("nothing was deleted"),
            "{refused:?}"
        );
        assert!(identity.exists() && runner.pids().is_empty());
    }
    let refused = runner.run(&["fresh", "--nodes", "1", "--terminal", "xterm"]);
    assert!(said(&refused).contains("xterm is not installed") && identity.exists(), "{}", said(&refused));
    assert!(by_hand.exited().is_none(), "it runs on");
    by_hand.kill().unwrap();

    // Nor may a taken port cost data.
    runner.set("PATH", &path);
    let port = runner.block.http_base() + 1;
    let guest = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let refused = runner.run(&["fresh", "--nodes", "1", "--terminal", "none"]);
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(said(&refused).contains(&format!("{port} (node 1, HTTP)")), "{}", said(&refused));
    assert!(identity.exists() && said(&refused).contains("nothing was deleted"), "{}", said(&refused));
    drop(guest);

    runner.assert_up(&runner.run(&["fresh", "--nodes", "1", "--terminal", "none"]), 1);
    assert!(!identity.exists() && neighbour.exists(), "node 7 is gone, what is no node's is not");

    // Its own nodes it may have to stop first; then it says so, and the data is still there.
    let own = data.join("node-1/identity.json");
    let _guest = TcpListener::bind(("127.0.0.1", port + 1)).unwrap();
    let refused = runner.run(&["fresh", "--nodes", "2", "--terminal", "none"]);
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(own.exists() && runner.pids().len() == 1, "node 1 was not even stopped: {}", said(&refused));
    runner.stop();
}

#[test]
fn only_one_script_works_in_a_folder() {
    let mut runner = ScriptRunner::new();
    let run = runner.dir.path().join("data/run");
    std::fs::create_dir_all(&run).unwrap();
    let is_refused = |runner: &ScriptRunner, actions: &[&str]| {
        for action in actions {
            let refused = runner.run(&[action, "--nodes", "1", "--terminal", "none"]);
            assert_eq!(refused.status.code(), Some(1), "{action}: {}", said(&refused));
            assert!(said(&refused).contains("another ./run.sh is at work here"), "{action}: {}", said(&refused));
            assert!(runner.pids().is_empty(), "{action}");
        }
    };
    let lock = std::fs::File::create(run.join("lock")).unwrap();
    fs2::FileExt::lock_exclusive(&lock).unwrap();
    is_refused(&runner, &["start", "stop", "fresh"]);
    drop(lock);

    // Two at the same moment: whichever is second starts nothing that `stop` does not know.
    let start = || {
        let mut command = Command::new("bash");
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("run.sh")).args(["--nodes=2", "--terminal=none"]);
        command.envs(runner.envs.iter().map(|(k, v)| (k, v))).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    runner.has_started.set(true);
    let both = [start(), start()].map(|child| child.wait_with_output().unwrap());
    assert!(both.iter().any(|output| said(output).contains("Phalanx is up")), "{both:?}");
    let is_second =
        |output: &Output| said(output).contains("another ./run.sh") || said(output).contains("running already");
    assert!(both.iter().any(is_second), "{both:?}");
    assert_eq!(runner.pids().len(), 2);
    runner.stop();
    for port in [runner.block.http_base() + 1, runner.block.http_base() + 2] {
        assert!(TcpListener::bind(("127.0.0.1", port)).is_ok(), "an orphan holds port {port}: {both:?}");
    }

    // Where there is no flock a folder is the lock, and one whose maker is dead counts for nothing.
    let bare = path_without(&runner, &["flock"]);
    runner.set("PATH", &bare);
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let began = stat.rsplit(") ").next().unwrap().split(' ').nth(19).unwrap().to_string();
    std::fs::create_dir(run.join("lock.d")).unwrap();
    std::fs::write(run.join("lock.d/pid"), format!("{} {began}\n", std::process::id())).unwrap();
    is_refused(&runner, &["start"]);
    std::fs::write(run.join("lock.d/pid"), format!("{} 12345\n", std::process::id())).unwrap();
    runner.assert_up(&runner.run(&["--nodes=2", "--terminal=none"]), 2);
    runner.stop();
    assert!(!run.join("lock.d").exists(), "the lock is given back");
}

#[test]
fn clean_removes_all_that_was_made_and_no_other_file() {
    let mut runner = ScriptRunner::new();
    let data = runner.dir.path().join("my data");
    runner.set("PHALANX_DATA_DIR", &data.to_string_lossy());
    // Without HOME, as from a unit or in a container.
    let run = |runner: &ScriptRunner, args: &[&str]| {
        let mut command = Command::new("bash");
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("run.sh")).args(args).env_clear();
        command.env("PATH", std::env::var("PATH").unwrap()).stdin(Stdio::null());
        command.envs(runner.envs.iter().map(|(k, v)| (k, v))).output().unwrap()
    };
    runner.has_started.set(true);
    let started = run(&runner, &["--nodes", "2", "--terminal", "none"]);
    assert_eq!(started.status.code(), Some(0), "{}", said(&started));
    let quoted = data.to_string_lossy().replace(' ', "\\ ");
    for line in [format!("tail -f {quoted}/node-1/node.log"), format!("cut -d ' ' -f 1 {quoted}/run/node-N.pid)")] {
        assert!(said(&started).contains(&line), "{line}: {}", said(&started));
    }
    assert_eq!(run(&runner, &["stop"]).status.code(), Some(0));
    let fewer = run(&runner, &["--nodes", "1", "--terminal", "none"]);
    assert!(said(&fewer).contains("Node(s) 2 have data here, too, and are not started"), "{}", said(&fewer));
    let own = data.join("notes");
    std::fs::write(&own, "mine").unwrap();
    let cleaned = run(&runner, &["clean"]);
    assert_eq!(cleaned.status.code(), Some(0), "{}", said(&cleaned));
    let left: Vec<_> = std::fs::read_dir(&data).unwrap().flatten().map(|row| row.file_name()).collect();
    assert_eq!(left, ["notes"], "{}", said(&cleaned));
    for name in ["config.json", "config.json.lock", "config.json.contact.lock"] {
        assert!(!runner.dir.path().join(name).exists(), "{name} is left");
    }
    assert!(TcpListener::bind(runner.front()).is_ok(), "the node was stopped");
    std::fs::remove_file(own).unwrap();
    assert_eq!(run(&runner, &["clean"]).status.code(), Some(0));
    assert!(!data.exists());
}

#[test]
fn stop_spares_another_process_with_the_same_pid() {
    let runner = ScriptRunner::new();
    let mut other = Command::new("sleep").arg("60").spawn().unwrap();
    let run = runner.dir.path().join("data/run");
    std::fs::create_dir_all(&run).unwrap();
    // As if node 1 had died long ago and its pid been given to somebody else since.
    std::fs::write(run.join("node-1.pid"), format!("{} 12345\n", other.id())).unwrap();
    let output = runner.run(&["stop"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    poll::pause(Duration::from_millis(100));
    assert!(other.try_wait().unwrap().is_none(), "another process was ended: {}", said(&output));
    other.kill().unwrap();
    other.wait().unwrap();
}
