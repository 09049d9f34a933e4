//! `./run.sh` as a newcomer uses it, with every kind of terminal, and everything that may be in its way.
//!
//! Graphical terminals are stand-ins on PATH that write down their arguments and run the command; tmux is the real one.
//! Each test has ports and a data folder of its own, given by PHALANX_* variables as a user would.

use crate::EXE;
use phalanx::lab::ports::Block;
use phalanx::lab::process::Process;
use phalanx::lab::{poll, wait_until, web};
use std::cell::Cell;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const WITHIN: Duration = Duration::from_secs(15);

/// A user's surroundings: a folder, ports, a PATH, variables.
struct ScriptRunner {
    dir: TempDir,
    block: Block,
    envs: Vec<(String, String)>,
    /// The umask of this user; as the tests' own without.
    umask: Option<&'static str>,
    has_no_home: bool,
    has_started: Cell<bool>,
}

impl ScriptRunner {
    fn new() -> ScriptRunner {
        let dir = tempfile::tempdir().unwrap();
        let block = Block::take().unwrap();
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        let envs = [
            ("PHALANX_LEADER_PORT_BASE", block.peer_base().to_string()),
            ("PHALANX_SERVICE_PORT_BASE", block.http_base().to_string()),
            ("PHALANX_KV_PORT_BASE", block.kv_base().to_string()),
            ("PHALANX_SERVICE_PORT", block.front().to_string()),
            ("PHALANX_DATA_DIR", text(dir.path().join("data"))),
            ("PHALANX_CONFIG_FILE_PATH", text(dir.path().join("config.json"))),
            // At each start of a node, the look for compilers takes seconds of processor time.
            ("PHALANX_JOBS_ENABLED", "false".to_string()),
            ("PHALANX_TEST_BINARY", EXE.to_string()),
            ("PHALANX_TEST_START_WITHIN", "20".to_string()),
            ("TMUX_TMPDIR", text(dir.path().to_path_buf())),
        ];
        let envs = envs.into_iter().map(|(k, v)| (k.to_string(), v)).collect();
        ScriptRunner { dir, block, envs, umask: None, has_no_home: false, has_started: Cell::new(false) }
    }

    fn set(&mut self, name: &str, value: &str) {
        self.envs.retain(|(n, _)| n != name);
        self.envs.push((name.into(), value.into()));
    }

    fn run(&self, args: &[&str]) -> Output {
        self.run_script(&Path::new(env!("CARGO_MANIFEST_DIR")).join("run.sh"), args)
    }

    fn run_script(&self, script: &Path, args: &[&str]) -> Output {
        self.has_started.set(self.has_started.get() || !matches!(args.first(), Some(&("stop" | "status" | "--help"))));
        let mut command = Command::new("bash");
        if let Some(umask) = self.umask {
            command.args(["-c", "umask \"$0\" && exec bash \"$@\"", umask]);
        }
        for name in ["DISPLAY", "WAYLAND_DISPLAY", "TMUX"] {
            command.env_remove(name);
        }
        if self.has_no_home {
            command.env_remove("HOME");
        }
        let envs = self.envs.iter().map(|(k, v)| (k, v));
        command.arg(script).args(args).envs(envs).stdin(Stdio::null()).output().unwrap()
    }

    /// Puts a stand-in of this name on PATH: it notes its arguments and runs what follows `mark` (or the last one).
    fn stand_in(&mut self, name: &str, body: &str) {
        let bin = self.dir.path().join("bin");
        std::fs::create_dir_all(&bin).unwrap();
        let path = bin.join(name);
        let heard = self.dir.path().join(format!("{name}.heard"));
        let text = format!("#!/usr/bin/env bash\nprintf '%s\\n' \"$*\" >>{}\n{body}\n", heard.display());
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let inherited = std::env::var("PATH").unwrap();
        self.set("PATH", &format!("{}:{inherited}", bin.display()));
    }

    fn heard(&self, name: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.dir.path().join(format!("{name}.heard"))).unwrap_or_default();
        text.lines().map(str::to_string).collect()
    }

    fn front(&self) -> String {
        format!("127.0.0.1:{}", self.block.front())
    }

    fn pid(&self, id: u64) -> Option<u32> {
        let path = self.dir.path().join(format!("data/run/node-{id}.pid"));
        std::fs::read_to_string(path).ok()?.split_whitespace().next()?.parse().ok()
    }

    fn pids(&self) -> Vec<u32> {
        (1..=9).filter_map(|id| self.pid(id)).filter(|pid| is_alive(*pid)).collect()
    }

    /// The summary names everything that a newcomer needs, and the addresses in it answer.
    fn assert_up(&self, output: &Output, nodes: u64) {
        assert_eq!(output.status.code(), Some(0), "{}", said(output));
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains(&format!("http://{}/", self.front())), "front door: {text}");
        for id in 1..=nodes {
            let monitor = format!("127.0.0.1:{}", u64::from(self.block.http_base()) + id);
            assert!(text.contains(&format!("http://{monitor}/")), "monitor {id}: {text}");
            wait_until("the monitor answers", WITHIN, || web::get(&monitor, "/livez", WITHIN).ok()).unwrap();
        }
        assert!(text.contains("./run.sh stop"), "how to stop: {text}");
        for n in ["1. ", "2. ", "3. "] {
            assert!(text.contains(n), "three things to try: {text}");
        }
        wait_until("the front door redirects", WITHIN, || {
            web::get(&self.front(), "/", WITHIN).ok().filter(|r| r.status == 307)
        })
        .unwrap();
        assert_eq!(self.pids().len() as u64, nodes);
    }

    fn stop(&self) {
        let pids = self.pids();
        assert!(!pids.is_empty());
        let output = self.run(&["stop"]);
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        for pid in pids {
            assert!(!is_alive(pid), "pid {pid} still runs after stop: {}", said(&output));
        }
        assert!(TcpListener::bind(self.front()).is_ok(), "the front door is free again");
    }
}

impl Drop for ScriptRunner {
    fn drop(&mut self) {
        if self.has_started.get() {
            self.run(&["stop"]);
        }
        let _ = Command::new("tmux").arg("kill-server").env("TMUX_TMPDIR", self.dir.path()).output();
        if std::thread::panicking() {
            for id in 1..=5 {
                let log = self.dir.path().join(format!("data/node-{id}/node.log"));
                let text = std::fs::read_to_string(&log).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                eprintln!("--- {}\n{}", log.display(), lines[lines.len().saturating_sub(40)..].join("\n"));
            }
        }
    }
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn is_alive(pid: u32) -> bool {
    // A zombie, as there are where nobody reaps orphans, is dead.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

/// What lies below a folder and others may read, write or enter. What programs of jobs see as theirs lies within a folder that is
/// closed; links have no rights of their own.
fn open_to_others(folder: &Path) -> Vec<String> {
    let mut open = Vec::new();
    for row in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(meta) = row.metadata() else { continue }; // gone since
        let path = row.path();
        if !meta.is_symlink() && meta.permissions().mode() & 0o077 != 0 {
            open.push(format!("{:o} {}", meta.permissions().mode() & 0o7777, path.display()));
        }
        let is_attempt = folder.file_name().is_some_and(|name| name == "jobs");
        if meta.is_dir() && !is_attempt {
            open.extend(open_to_others(&path));
        }
    }
    open
}

/// Whatever the umask, which takes nothing away here, and whoever makes the file: nodes that join, restart, take snapshots, put a
/// database in place and run jobs.
#[test]
fn nothing_that_nodes_make_is_open_to_others() {
    let mut runner = ScriptRunner::new();
    runner.umask = Some("000");
    runner.set("PHALANX_SNAPSHOT_EVERY_ENTRIES", "20");
    runner.set("PHALANX_JOBS_ENABLED", "true");
    let data = runner.dir.path().join("data");
    let started = runner.run(&["start", "--terminal", "none", "--nodes", "1"]);
    assert_eq!(started.status.code(), Some(0), "{}", said(&started));
    let at = format!("127.0.0.1:{}", runner.block.http_base() + 1);
    let ask = |method: &str, path: &str, kind: &str, body: &[u8]| {
        let mut connection = web::Connection::open(&at, WITHIN).unwrap();
        connection.send_bytes(method, path, &format!("Content-Type: {kind}\r\n"), Some(body)).unwrap();
        let answer = connection.answer(Instant::now() + WITHIN).unwrap();
        assert!((200..300).contains(&answer.status), "{method} {path}: {} {}", answer.status, answer.text());
        answer
    };
    let (json, any) = ("application/json", "application/octet-stream");
    ask("POST", "/db/execute", json, br#"["CREATE TABLE t(x)", "INSERT INTO t VALUES (1), (2)"]"#);
    let copy = ask("GET", "/db/backup", any, b"").body;
    ask("POST", "/db/load", any, &copy);
    ask("GET", "/db/query?q=SELECT+x+FROM+t+ORDER+BY+x", json, b"");
    ask("POST", "/v1/chat/accounts", json, br#"{"name": "ann", "password": "correct horse"}"#);
    for number in 0..60 {
        ask("PUT", &format!("/v1/kv/key-{number}"), any, b"value");
    }
    wait_until("a snapshot is there", WITHIN, || {
        std::fs::read_dir(data.join("node-1/snapshots")).ok()?.next().map(drop)
    })
    .unwrap();
    wait_until("jobs are run", WITHIN, || {
        let status = web::get(&at, "/v1/status", WITHIN).ok()?.json();
        status["jobs"]["workers"].as_array().filter(|workers| !workers.is_empty()).map(drop)
    })
    .unwrap();
    let job = ask(
        "POST",
        "/v1/jobs",
        json,
        br#"{"language": "shell", "source": "umask; echo x > y; stat -c %a y; sleep 60"}"#,
    );
    let job = job.json()["id"].as_u64().unwrap();
    let output = wait_until("the job runs", WITHIN, || {
        let text = web::get(&at, &format!("/v1/jobs/{job}/output"), WITHIN).ok()?.text();
        text.contains("644").then_some(text)
    });
    assert_eq!(output.unwrap(), "0022\n644\n", "programs make files as they do elsewhere");
    assert_eq!(open_to_others(&data), [""; 0]);
    if rustix::process::geteuid().is_root() {
        // The users of slots pass through, and see nothing.
        let jobs = Path::new("/run/phalanx-jobs");
        let own = std::fs::read_dir(jobs).unwrap().flatten().map(|row| row.path());
        for folder in own.chain([jobs.to_path_buf()]) {
            let mode = std::fs::metadata(&folder).map_or(0, |it| it.permissions().mode() & 0o777);
            assert_eq!(mode & 0o066, 0, "{} {mode:o}", folder.display());
        }
    }
    ask("DELETE", &format!("/v1/jobs/{job}"), any, b"");
    let started = runner.run(&["start", "--terminal", "none", "--nodes", "3"]);
    assert_eq!(started.status.code(), Some(0), "{}", said(&started));
    assert_eq!(open_to_others(&data), [""; 0]);
    runner.stop();
    assert_eq!(open_to_others(&data), [""; 0]);
    let mode = |name: &str| std::fs::metadata(runner.dir.path().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("data"), mode("config.json")), (0o700, 0o666), "what is meant for others is as the user wants it");
}

/// A umask that takes all rights away, the owner's too: what a node makes it must read again.
#[test]
fn a_umask_of_777_leaves_the_owner_its_files() {
    let mut runner = ScriptRunner::new();
    runner.umask = Some("777");
    let started = runner.run(&["start", "--terminal", "none", "--nodes", "1"]);
    assert_eq!(started.status.code(), Some(0), "{}", said(&started));
    let mode = |name: &str| std::fs::metadata(runner.dir.path().join(name)).unwrap().permissions().mode() & 0o777;
    wait_until("config.json is written", WITHIN, || runner.dir.path().join("config.json").exists().then_some(()))
        .unwrap();
    for name in
        ["config.json", "config.json.lock", "data/node-1/identity.json", "data/node-1/node.log", "data/node-1/lock"]
    {
        assert_eq!(mode(name), 0o600, "{name}");
    }
    for name in ["data", "data/node-1", "data/node-1/wal"] {
        assert_eq!(mode(name), 0o700, "{name}");
    }
    runner.stop();
}

#[test]
fn what_run_sh_and_nodes_write_is_for_nobody_else() {
    let mut runner = ScriptRunner::new();
    runner.set("PHALANX_CLUSTER_SECRET", "nobody shall read it");
    let data = runner.dir.path().join("data");
    // As an older version left it, with the umask of most people.
    std::fs::create_dir_all(data.join("node-1")).unwrap();
    for folder in [&data, &data.join("node-1")] {
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let started = runner.run(&["start", "--terminal", "none", "--nodes", "2"]);
    assert_eq!(started.status.code(), Some(0), "{}", said(&started));
    let mode = |name: &str| std::fs::metadata(data.join(name)).unwrap().permissions().mode() & 0o777;
    for name in ["", "run", "node-1", "node-2", "node-1/wal", "run/node-1.sh"] {
        assert_eq!(mode(name), 0o700, "{name}");
    }
    // The script narrows what it looks into; the rest is narrowed, and told of, by the node that comes first.
    let log = |id: u64| std::fs::read_to_string(data.join(format!("node-{id}/node.log"))).unwrap();
    let warned = format!("{} was accessible to other users (mode 755); access removed", data.display());
    assert!([1, 2].iter().any(|id| log(*id).contains(&warned)), "{warned}: {}", log(1));
    for name in ["node-1/node.log", "node-2/node.log", "node-1/identity.json", "node-1/sql/db.sqlite", "node-2/lock"] {
        assert_eq!(mode(name), 0o600, "{name}");
    }
    for pid in runner.pids() {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
        assert!(!String::from_utf8_lossy(&line).contains("nobody shall"), "what ps shows");
    }
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
fn fresh_starts_with_empty_data_and_start_goes_on_with_the_old() {
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
fn real_tmux_gets_a_pane_per_node() {
    if Command::new("tmux").arg("-V").output().is_err() {
        eprintln!("tmux is not installed; ./test.sh installs it");
        return;
    }
    let mut runner = ScriptRunner::new();
    let home = runner.dir.path().to_string_lossy().into_owned();
    runner.set("HOME", &home);
    // What people have in theirs, each of which has closed, kept or renamed panes.
    let conf = "set -g base-index 1\nsetw -g pane-base-index 1\nset -g prefix C-a\nset -g remain-on-exit on\n\
        set -g default-command 'sleep 1'\nset -g destroy-unattached on\nset -g default-shell /bin/sh\n";
    std::fs::write(runner.dir.path().join(".tmux.conf"), conf).unwrap();
    let started = runner.run(&["start", "--nodes", "3", "--terminal", "tmux"]);
    runner.assert_up(&started, 3);
    assert!(said(&started).contains("tmux attach -t phalanx-"), "{}", said(&started));
    assert!(said(&started).contains("(C-a then arrow keys between them, C-a d to leave)"), "{}", said(&started));
    let tmux = |args: &[&str]| {
        let output = Command::new("tmux").args(args).env("TMUX_TMPDIR", runner.dir.path()).env_remove("TMUX").output();
        String::from_utf8_lossy(&output.unwrap().stdout).into_owned()
    };
    let titles = tmux(&["list-panes", "-a", "-F", "#{window_name}: #{pane_title}"]);
    assert_eq!(titles, "nodes 1 2 3: node 1\nnodes 1 2 3: node 2\nnodes 1 2 3: node 3\n");
    let panes = tmux(&["list-panes", "-a", "-F", "#{pane_id}"]);

    // Ctrl+C in a pane ends its node, and Enter starts it again: the terminal stays.
    let victim = runner.pid(1).unwrap();
    let pane = panes.lines().next().unwrap().to_string();
    tmux(&["send-keys", "-t", &pane, "C-c"]);
    wait_until("node 1 has ended", WITHIN, || (!is_alive(victim)).then_some(())).unwrap();
    wait_until("its terminal asks", WITHIN, || {
        tmux(&["capture-pane", "-p", "-t", &pane]).contains("Enter").then_some(())
    })
    .unwrap();
    tmux(&["send-keys", "-t", &pane, "Enter"]);
    wait_until("node 1 runs again", WITHIN, || runner.pid(1).filter(|p| *p != victim && is_alive(*p))).unwrap();
    runner.stop();
    let left = Command::new("tmux").arg("ls").env("TMUX_TMPDIR", runner.dir.path()).output().unwrap();
    assert!(!left.status.success(), "the session is still there: {}", said(&left));
}

#[test]
fn tmux_has_room_for_forty_nodes() {
    if Command::new("tmux").arg("-V").output().is_err() {
        eprintln!("tmux is not installed; ./test.sh installs it");
        return;
    }
    let runner = ScriptRunner::new();
    let (script, folder) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("run-unix.sh"), runner.dir.path());
    std::fs::write(folder.join("launcher"), "exec sleep 300\n").unwrap();
    let all =
        "source \"$1\"; run_dir=$2 session=forty; for id in $(seq 40); do open_tmux $id \"$2/launcher\" || exit; done";
    let mut bash = Command::new("bash");
    bash.args(["-c", all, "bash"])
        .arg(script)
        .arg(folder)
        .env("TMUX_TMPDIR", folder)
        .env_remove("TMUX")
        .env("HOME", folder);
    let output = bash.output().unwrap();
    assert!(output.status.success() && said(&output).is_empty(), "{}", said(&output));
    let form = "#{pane_title} #{pane_height}";
    let list = Command::new("tmux").args(["list-panes", "-a", "-F", form]).env("TMUX_TMPDIR", folder).output().unwrap();
    let list = said(&list);
    let titles: Vec<&str> = list.lines().map(|line| line.rsplit_once(' ').unwrap().0).collect();
    assert_eq!(titles, (1..=40).map(|id| format!("node {id}")).collect::<Vec<_>>());
    assert!(list.lines().all(|line| line.rsplit(' ').next().unwrap().parse::<u32>().unwrap() >= 15), "{list}");
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

/// A clone whose program is older than its source is built again, before the user's eyes; another one is not.
#[test]
fn run_sh_shows_the_build_and_only_when_there_is_one() {
    let mut runner = ScriptRunner::new();
    let clone = runner.dir.path().join("clone");
    for folder in ["src", "static", "crates", "target/release"] {
        std::fs::create_dir_all(clone.join(folder)).unwrap();
    }
    for name in ["run.sh", "run-unix.sh", "Cargo.toml", "Cargo.lock"] {
        std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join(name), clone.join(name)).unwrap();
    }
    std::fs::write(clone.join("src/main.rs"), "fn main() {}").unwrap();
    let program = clone.join("target/release/phalanx");
    std::fs::copy(EXE, &program).unwrap();
    runner.envs.retain(|(n, _)| n != "PHALANX_TEST_BINARY");
    runner.stand_in("cargo", "echo '   Compiling phalanx v0.1.0' >&2");
    let status = |runner: &ScriptRunner| {
        said(&runner.run_script(&clone.join("run.sh"), &["start", "--nodes", "1", "--terminal", "none"]))
    };
    let quiet = status(&runner);
    assert!(quiet.contains("Phalanx is up") && runner.heard("cargo").is_empty(), "{quiet}");
    let pulled = std::fs::OpenOptions::new().append(true).open(clone.join("src/main.rs")).unwrap();
    pulled.set_modified(std::time::SystemTime::now() + Duration::from_secs(1)).unwrap();
    let built = status(&runner);
    assert!(built.contains("Building Phalanx (its source has changed; "), "{built}");
    assert!(built.contains("   Compiling phalanx v0.1.0"), "{built}");
    assert_eq!(runner.heard("cargo"), ["build --release"]);
    runner.run_script(&clone.join("run.sh"), &["stop"]);
}

#[test]
fn test_sh_installs_what_is_missing_and_does_without_nextest() {
    let mut runner = ScriptRunner::new();
    let clone = runner.dir.path().join("clone");
    std::fs::create_dir_all(&clone).unwrap();
    std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("test.sh"), clone.join("test.sh")).unwrap();
    runner.stand_in("cargo", "case $1 in nextest | install) exit 1 ;; test) echo 'test result: ok. 3 passed' ;; esac");
    runner.stand_in("apt-get", "");
    runner.stand_in("python3", "[ \"$2\" != pip ]");
    runner.stand_in("id", "echo 0");
    let output = runner.run_script(&clone.join("test.sh"), &[]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let last = runner.heard("cargo").into_iter().filter(|line| !line.starts_with("nextest")).collect::<Vec<_>>();
    let expected = [
        "fmt --all --check",
        "clippy --quiet --all-targets -- -D warnings",
        "install --locked cargo-nextest",
        "test --no-fail-fast -- --test-threads=1",
    ];
    assert_eq!(last, expected, "{}", said(&output));
    let installed = runner.heard("apt-get").join(" ");
    assert!(installed.contains("python3-pip"), "{installed}");
    assert!(String::from_utf8_lossy(&output.stdout).ends_with("test result: ok. 3 passed\n"), "{}", said(&output));
}

/// Each graphical terminal: its stand-in, how it runs a command, and what it must have been told.
#[test]
fn every_graphical_terminal_is_opened_once_per_node() {
    // What a stand-in does with its arguments: everything after the mark is the command.
    let after = |mark: &str| {
        format!("while [ \"$1\" != {mark} ]; do shift; done; shift\nsetsid \"$@\" </dev/null >/dev/null 2>&1 &")
    };
    let apple =
        "script=${2#*do script \\\"}; script=${script%\\\"}\nsetsid bash -c \"$script\" </dev/null >/dev/null 2>&1 &";
    for (kind, program, body, expected) in [
        ("gnome", "gnome-terminal", after("--"), "--title=Phalanx node 2 -- bash "),
        ("konsole", "konsole", after("-e"), "tabtitle=Phalanx node 2 -e bash "),
        ("xterm", "xterm", after("-e"), " -T Phalanx node 2 -e bash "),
        ("mac", "osascript", apple.to_string(), "tell application \"Terminal\" to do script \"bash "),
    ] {
        let mut runner = ScriptRunner::new();
        runner.stand_in(program, &body);
        let started = runner.run(&["start", "--nodes", "2", "--terminal", kind]);
        runner.assert_up(&started, 2);
        let heard = runner.heard(program);
        assert_eq!(heard.len(), 2, "{kind}: {heard:?}");
        if kind == "xterm" {
            let mut places: Vec<&str> = heard.iter().map(|line| line.split(' ').nth(1).unwrap()).collect();
            places.sort_unstable();
            assert!(places[0].starts_with("80x24+0+") && places[0] != places[1], "side by side: {heard:?}");
        }
        assert!(heard.iter().any(|line| line.contains(expected)), "{kind}: {heard:?}");
        runner.stop();
    }
}

#[test]
fn auto_takes_a_window_with_a_display_and_none_without() {
    let mut runner = ScriptRunner::new();
    runner.stand_in(
        "gnome-terminal",
        "while [ \"$1\" != -- ]; do shift; done; shift\nsetsid \"$@\" </dev/null >/dev/null 2>&1 &",
    );
    runner.set("DISPLAY", ":99");
    // The runner removes DISPLAY from what it inherits; what it sets itself stays.
    let started = runner.run(&["start", "--nodes", "1"]);
    runner.assert_up(&started, 1);
    assert_eq!(runner.heard("gnome-terminal").len(), 1, "{}", said(&started));
    runner.stop();

    // No display and no tmux: background processes.
    let mut runner = ScriptRunner::new();
    let bare = path_without(&runner, &["tmux", "gnome-terminal", "konsole", "xterm"]);
    runner.set("PATH", &bare);
    let started = runner.run(&["start", "--nodes", "1"]);
    runner.assert_up(&started, 1);
    assert!(said(&started).contains("terminal: none"), "{}", said(&started));
    runner.stop();
}

/// A PATH of links to every program but these.
fn path_without(runner: &ScriptRunner, names: &[&str]) -> String {
    let bin = runner.dir.path().join("bare");
    std::fs::create_dir_all(&bin).unwrap();
    for folder in std::env::split_paths(&std::env::var_os("PATH").unwrap()) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !names.contains(&name.as_str()) {
                let _ = std::os::unix::fs::symlink(entry.path(), bin.join(name)); // the first of a name wins, as in PATH
            }
        }
    }
    bin.to_string_lossy().into_owned()
}

#[test]
fn a_taken_port_is_named_and_nothing_is_started() {
    let runner = ScriptRunner::new();
    let port = runner.block.http_base() + 3;
    let _guest = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let refused = runner.run(&["start", "--terminal", "none"]);
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(said(&refused).contains(&format!("{port} (node 3, HTTP)")), "{}", said(&refused));
    assert!(said(&refused).contains("Nothing was started"), "{}", said(&refused));
    assert!(runner.pids().is_empty());
}

#[test]
fn a_data_folder_that_cannot_be_written_is_named() {
    let mut runner = ScriptRunner::new();
    // A file stands where the folder should be: not even root can write into it.
    let blocked = runner.dir.path().join("blocked");
    std::fs::write(&blocked, "").unwrap();
    runner.set("PHALANX_DATA_DIR", &blocked.to_string_lossy());
    let refused = runner.run(&["start", "--terminal", "none"]);
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(said(&refused).contains("cannot write to the data folder"), "{}", said(&refused));
    assert!(said(&refused).contains(&*blocked.to_string_lossy()), "{}", said(&refused));
}

#[test]
fn a_missing_cargo_and_wrong_settings_are_explained() {
    let mut runner = ScriptRunner::new();
    // A clone of the project that was never built, on a machine without Rust.
    let clone = runner.dir.path().join("clone");
    std::fs::create_dir_all(clone.join("src")).unwrap();
    for name in ["run.sh", "run-unix.sh", "settings.json", "Cargo.toml"] {
        std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join(name), clone.join(name)).unwrap();
    }
    let bare = path_without(&runner, &["cargo"]);
    let (path, home) = (std::env::var("PATH").unwrap(), runner.dir.path().to_string_lossy().into_owned());
    runner.envs.retain(|(n, _)| n != "PHALANX_TEST_BINARY");
    runner.set("PATH", &bare);
    runner.set("HOME", &home);
    runner.set("CARGO_HOME", &home);
    let refused = runner.run_script(&clone.join("run.sh"), &["--terminal", "none"]);
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(said(&refused).contains("cargo is missing") && said(&refused).contains("rustup.rs"), "{}", said(&refused));

    runner.set("PATH", &path);
    runner.set("PHALANX_TEST_BINARY", EXE);
    runner.set("PHALANX_VOTERS_MIN", "many");
    let refused = runner.run(&["start", "--terminal", "none"]);
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    assert!(said(&refused).to_lowercase().contains("voters_min"), "{}", said(&refused));
    runner.envs.retain(|(n, _)| n != "PHALANX_VOTERS_MIN");
}

/// A cron job or a unit has no HOME, and a clone may have been built before.
#[test]
fn a_built_clone_starts_without_home_and_cargo() {
    let mut runner = ScriptRunner::new();
    let clone = runner.dir.path().join("clone");
    std::fs::create_dir_all(clone.join("target/release")).unwrap();
    for name in ["run.sh", "run-unix.sh", "settings.json", "Cargo.toml"] {
        std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join(name), clone.join(name)).unwrap();
    }
    std::os::unix::fs::symlink(EXE, clone.join("target/release/phalanx")).unwrap();
    let bare = path_without(&runner, &["cargo"]);
    runner.envs.retain(|(n, _)| n != "PHALANX_TEST_BINARY");
    runner.set("PATH", &bare);
    runner.has_no_home = true;
    let output = runner.run_script(&clone.join("run.sh"), &["--terminal", "none", "--nodes", "1"]);
    runner.assert_up(&output, 1);
    let stopped = runner.run_script(&clone.join("run.sh"), &["stop"]);
    assert_eq!(stopped.status.code(), Some(0), "{}", said(&stopped));
    runner.set("PHALANX_TEST_BINARY", EXE); // for the end of the test
}

/// What nodes listen on, what they tell, and how that stands in URLs.
#[test]
fn every_kind_of_host_works_in_the_scripts() {
    for (host, advertised, shown) in [
        ("::1", None, "[::1]"),
        ("localhost", None, "localhost"),
        ("0.0.0.0", None, "127.0.0.1"),
        ("::", None, "[::1]"),
        ("::", Some("localhost"), "localhost"),
    ] {
        if host.contains(':') && TcpListener::bind((host, 0)).is_err() {
            eprintln!("skipped: {host}, this system has no IPv6");
            continue;
        }
        let mut runner = ScriptRunner::new();
        runner.set("PHALANX_HOST", host);
        runner.set("PHALANX_CLUSTER_SECRET", "abracadabra-abracadabra");
        if let Some(advertised) = advertised {
            runner.set("PHALANX_ADVERTISE_HOST", advertised);
        }
        let output = runner.run(&["--terminal", "none", "--nodes", "2"]);
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{host}: {}", said(&output));
        for (what, port) in
            [("Front door:", runner.block.front()), ("monitor of node 2:", runner.block.http_base() + 2)]
        {
            let url = format!("http://{shown}:{port}/");
            assert!(text.lines().any(|line| line.contains(what) && line.contains(&url)), "{host} {what} {url}: {text}");
        }
        let told = format!("\"ip\": \"{}\"", shown.trim_matches(['[', ']']));
        let config = std::fs::read_to_string(runner.dir.path().join("config.json")).unwrap();
        assert_eq!(config.matches(&told).count(), 2, "{host} {told}: {config}");
        // The front door of this host, and where it sends a client.
        let front = format!("{shown}:{}", runner.block.front());
        let redirect = web::get(&front, "/x", WITHIN).unwrap();
        let to = redirect.header("location").unwrap_or_default().to_string();
        assert!(to.starts_with(&format!("http://{shown}:")), "{host}: {redirect:?}");
        let seen = runner.run(&["status"]);
        assert!(
            said(&seen).contains("node 2 leads") || said(&seen).contains("node 1 leads"),
            "{host}: {}",
            said(&seen)
        );
        let stopped = runner.run(&["stop"]);
        assert_eq!(stopped.status.code(), Some(0), "{host}: {}", said(&stopped));
    }
}

#[test]
fn a_node_that_ends_at_once_takes_the_others_down_with_a_reason() {
    let runner = ScriptRunner::new();
    // The data folder of node 2 holds damaged state: it refuses to start.
    let damaged = runner.dir.path().join("data/node-2");
    std::fs::create_dir_all(&damaged).unwrap();
    std::fs::write(damaged.join("identity.json"), "not an identity").unwrap();
    // A front door that opens before node 2 has ended would hide it: five nodes are slower than that.
    let refused = runner.run(&["start", "--terminal", "none"]);
    if refused.status.success() {
        wait_until("node 2 has ended", WITHIN, || runner.pid(2).filter(|pid| !is_alive(*pid))).unwrap();
    } else {
        assert!(said(&refused).contains("node 2 ended at once"), "{}", said(&refused));
        assert!(said(&refused).contains("identity.json"), "its own words are shown: {}", said(&refused));
        assert!(runner.pids().is_empty(), "nothing half-started");
    }
}

#[test]
fn a_terminal_that_opens_no_window_is_given_up() {
    let mut runner = ScriptRunner::new();
    runner.stand_in("xterm", "exit 1");
    runner.set("PHALANX_TEST_START_WITHIN", "2");
    let refused = runner.run(&["start", "--nodes", "1", "--terminal", "xterm"]);
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(said(&refused).contains("no terminal opened"), "{}", said(&refused));
}

#[test]
fn stop_spares_a_stranger_with_the_same_pid() {
    let runner = ScriptRunner::new();
    let mut stranger = Command::new("sleep").arg("60").spawn().unwrap();
    let run = runner.dir.path().join("data/run");
    std::fs::create_dir_all(&run).unwrap();
    // As if node 1 had died long ago and its pid been given to somebody else since.
    std::fs::write(run.join("node-1.pid"), format!("{} 12345\n", stranger.id())).unwrap();
    let output = runner.run(&["stop"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    poll::pause(Duration::from_millis(100));
    assert!(stranger.try_wait().unwrap().is_none(), "a stranger was ended: {}", said(&output));
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[test]
fn wrong_arguments_are_exit_code_2_and_help_is_0() {
    let runner = ScriptRunner::new();
    for args in [&["frobnicate"][..], &["--nodes"], &["--nodes", "0"], &["--nodes", "x"], &["--terminal", "vt100"]] {
        let output = runner.run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", said(&output));
    }
    let output = runner.run(&["--help"]);
    assert!(output.status.success() && said(&output).contains("--terminal"), "{}", said(&output));
}

#[test]
fn scripts_pass_shellcheck() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let scripts = ["run.sh", "run-unix.sh", "test.sh", ".ci/run"];
    match Command::new("shellcheck").arg("-x").args(scripts).current_dir(root).output() {
        Ok(output) => assert!(output.status.success(), "{}", said(&output)),
        Err(_) => eprintln!("shellcheck is not installed; ./test.sh installs it"),
    }
}
