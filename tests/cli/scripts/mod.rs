//! `./run.sh` as a new node uses it, with every kind of terminal, and everything that may be in its way.
//!
//! [`lifecycle`]: start, stop, `fresh` and `clean`; [`terminals`]: where nodes get a window or a pane; [`build`]: what
//! is built and installed; [`permissions`]: who may read what is written; [`refusals`]: what is in the way is named.
//!
//! Graphical terminals are stand-ins on PATH that write down their arguments and run the command; tmux is the real one.
//! Each test has ports and a data folder of its own, given by PHALANX_* variables as a user would.

mod build;
mod lifecycle;
mod permissions;
mod refusals;
mod terminals;

use crate::EXE;
use phalanx::lab::ports::Block;
use phalanx::lab::{wait_until, web};
use std::cell::Cell;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;
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

    /// The summary names everything that a new node needs, and the addresses in it answer.
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
