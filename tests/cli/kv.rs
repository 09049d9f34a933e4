//! `phalanx kv` and `phalanx lock run` as a script sees them, on a real cluster.

use crate::EXE;
use phalanx::lab::Cluster;
use phalanx::lab::process::Process;
use phalanx::lab::terminal::Terminal;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

struct Cli {
    cluster: Cluster,
}

impl Cli {
    fn new() -> Cli {
        Cli { cluster: Cluster::ready(EXE, 3, &json!({})).unwrap() }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(EXE);
        for (name, _) in std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("PHALANX_")) {
            command.env_remove(name);
        }
        // Arguments after `--` are the command's own.
        let at = args.iter().position(|arg| *arg == "--").unwrap_or(args.len());
        command.args(&args[..at]).args(["-e", &self.cluster.addresses().join(",")]).args(&args[at..]);
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs and expects this exit code; stdout.
    fn says(&self, code: i32, args: &[&str]) -> String {
        let output = self.run(args);
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {err}");
        assert_eq!(code == 0, err.is_empty(), "{args:?}: {err}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn with_stdin(&self, args: &[&str], input: &[u8]) -> Output {
        let mut child = self.command(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap()
    }
}

#[test]
fn keys_and_values_of_any_bytes() {
    let cli = Cli::new();
    let index: u64 = cli.says(0, &["kv", "put", "a key/with 100%", "hello"]).trim().parse().unwrap();
    assert_eq!(cli.says(0, &["kv", "get", "a key/with 100%"]), "hello", "no byte more");
    let read: Value = serde_json::from_str(&cli.says(0, &["kv", "get", "a key/with 100%", "--json"])).unwrap();
    assert_eq!(read, json!({"key": "a key/with 100%", "value": "hello", "index": index}));

    let all: Vec<u8> = (0..=255).collect();
    for source in [&["kv", "put", "bin"][..], &["kv", "put", "bin", "-"], &["kv", "put", "bin", "--file", "-"]] {
        assert!(cli.with_stdin(source, &all).status.success(), "{source:?}");
        assert_eq!(cli.run(&["kv", "get", "bin", "--level", "eventual"]).stdout.len(), 256);
    }
    assert_eq!(cli.run(&["kv", "get", "bin"]).stdout, all);
    let file = cli.cluster.dir().join("value");
    std::fs::write(&file, b"from a file\n").unwrap();
    cli.says(0, &["kv", "put", "f", "--file", file.to_str().unwrap(), "--ttl", "1h"]);
    assert_eq!(cli.says(0, &["kv", "get", "f"]), "from a file\n");
    let left: Value = serde_json::from_str(&cli.says(0, &["kv", "get", "f", "--json"])).unwrap();
    assert!((1..=3_600_000).contains(&left["ttl_ms"].as_u64().unwrap()), "{left}");

    cli.says(0, &["kv", "put", "f", "v", "--ttl", "5"]);
    let left: Value = serde_json::from_str(&cli.says(0, &["kv", "get", "f", "--json"])).unwrap();
    assert!((1..=5000).contains(&left["ttl_ms"].as_u64().unwrap()), "a bare number is seconds: {left}");

    // Values that begin with a dash; what looks like a misspelt option must stand after --.
    for put in
        [&["kv", "put", "d", "-5"][..], &["kv", "put", "d", "--ttl", "1h", "-5"], &["kv", "put", "d", "--", "-5"]]
    {
        cli.says(0, put);
        assert_eq!(cli.says(0, &["kv", "get", "d"]), "-5", "{put:?}");
    }
    cli.says(0, &["kv", "put", "d", "--", "--file=x"]);
    assert_eq!(cli.says(0, &["kv", "get", "d"]), "--file=x");
    cli.says(2, &["kv", "put", "d", "--fiel=x"]);
    cli.says(0, &["kv", "cas", "dc", "0", "-v"]);
    assert_eq!(cli.says(0, &["kv", "get", "dc"]), "-v");

    // A forgotten value is not an empty one.
    cli.says(2, &["kv", "put", "d"]);
    assert_eq!(cli.says(0, &["kv", "get", "d"]), "--file=x");
    for empty in [&["kv", "put", "d", ""][..], &["kv", "put", "d", "-"], &["kv", "put", "d", "--file", "/dev/null"]] {
        cli.says(0, empty);
        assert_eq!(cli.says(0, &["kv", "get", "d"]), "", "{empty:?}");
    }

    assert_eq!(cli.says(1, &["kv", "get", "nothing"]), "");
    assert_eq!(cli.says(1, &["kv", "del", "nothing"]), "");
    cli.says(0, &["kv", "del", "f"]);
    cli.says(1, &["kv", "get", "f"]);
    assert_eq!(cli.says(0, &["kv", "incr", "n"]), "1\n");
    assert_eq!(cli.says(0, &["kv", "incr", "n", "-5"]), "-4\n");
    cli.says(1, &["kv", "incr", "bin"]);
    cli.says(2, &["kv", "put", "a", "b", "--ttl", "soon"]);

    let new: u64 = cli.says(0, &["kv", "cas", "c", "0", "first"]).trim().parse().unwrap();
    cli.says(1, &["kv", "cas", "c", "0", "second"]);
    cli.says(0, &["kv", "cas", "c", &new.to_string(), "second"]);
    cli.says(1, &["kv", "del", "c", "--if-index", &new.to_string()]);
    assert_eq!(cli.says(0, &["kv", "get", "c"]), "second");
    let taken = cli.run(&["kv", "put", "e", "v", "--level", "eventual"]);
    assert!(taken.status.success() && taken.stdout.is_empty());
    assert!(String::from_utf8_lossy(&taken.stderr).contains("not yet on a quorum"));
}

#[test]
fn scans_are_whole_and_watches_see_every_change_in_order() {
    let cli = Cli::new();
    let mut bulk = std::net::TcpStream::connect(cli.cluster.http(1)).unwrap();
    for n in 0..450 {
        write!(bulk, "PUT /v1/kv/s{n:03} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nv").unwrap();
    }
    let all = || {
        let keys = cli.says(0, &["kv", "scan", "s", "--keys-only"]);
        (keys.lines().count() == 450).then_some(keys)
    };
    let keys = cli.cluster.wait_until("all keys are written", PATIENCE, all).unwrap();
    assert!(keys.starts_with("s000\ns001\n") && keys.ends_with("s449\n"), "in order, over three pages");
    assert_eq!(cli.says(0, &["kv", "scan", "--limit", "3", "--keys-only"]), "s000\ns001\ns002\n");
    assert_eq!(cli.says(0, &["kv", "scan", "none"]), "");
    cli.with_stdin(&["kv", "put", "t"], b"a\tb\xff\n");
    let line = cli.says(0, &["kv", "scan", "t"]);
    assert!(line.ends_with("\tt\ta\\tb\\xff\\n\n"), "{line:?}");
    let row: Value = serde_json::from_str(&cli.says(0, &["kv", "scan", "t", "--json"])).unwrap();
    assert_eq!((&row["value"], &row["encoding"]), (&json!("YQli/wo="), &json!("base64")));

    let mut watch = cli.command(&["kv", "watch", "w"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut next = || lines.next().unwrap().unwrap();
    assert_eq!(next(), "0\t(no such key)");
    for value in ["one", "two"] {
        let index = cli.says(0, &["kv", "put", "w", value]);
        assert_eq!(next(), format!("{}\t{value}", index.trim()));
    }
    cli.says(0, &["kv", "del", "w"]);
    assert_eq!(next(), "0\t(no such key)");
    watch.kill().unwrap();
    watch.wait().unwrap();
    assert_eq!(cli.says(0, &["kv", "watch", "s000", "--once", "--index", "0", "--json"]).lines().count(), 1);
}

#[test]
fn the_next_node_is_tried_and_no_node_is_exit_code_4() {
    let mut cli = Cli::new();
    cli.cluster.kill(1).unwrap();
    for n in 1..=5 {
        assert_eq!(cli.says(0, &["kv", "incr", "n"]), format!("{n}\n"), "node 1 is asked first and dead");
    }
    for id in [2, 3] {
        cli.cluster.kill(id).unwrap();
    }
    for args in [&["kv", "get", "n"][..], &["kv", "put", "n", "1"], &["kv", "scan"], &["kv", "watch", "n"]] {
        cli.says(4, args);
    }
    cli.says(4, &["lock", "run", "l", "--wait", "0", "--", "true"]);
}

fn lock_run<'a>(name: &'a str, more: &[&'a str], command: &[&'a str]) -> Vec<&'a str> {
    [&["lock", "run", name], more, &["--"], command].concat()
}

fn ends(child: &mut Child) -> Option<i32> {
    let by = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        assert!(Instant::now() < by, "it still runs");
        phalanx::lab::poll::pause(Duration::from_millis(10));
    }
}

#[test]
fn a_command_under_a_lock() {
    let cli = Cli::new();
    let script = "echo $PHALANX_LOCK_NAME $PHALANX_LOCK_TOKEN; exit 7";
    let token = |out: String| -> u64 { out.trim().strip_prefix("a job ").unwrap().parse().unwrap() };
    let output = cli.run(&lock_run("a job", &[], &["sh", "-c", script]));
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    let first = token(String::from_utf8(output.stdout).unwrap());
    let second = token(String::from_utf8(cli.run(&lock_run("a job", &[], &["sh", "-c", script])).stdout).unwrap());
    assert!(second > first);
    assert_eq!(cli.run(&lock_run("a job", &[], &["sh", "-c", "kill -9 $$"])).status.code(), Some(137));
    assert_eq!(cli.run(&lock_run("a job", &[], &["/no/such/command"])).status.code(), Some(127));
    cli.says(2, &["lock", "run", "a job"]);

    // Held for longer than its time to live, because it is renewed; nobody else gets it meanwhile.
    let mut holder = cli.command(&lock_run("b", &["--ttl", "600ms"], &["cat"])).stdin(Stdio::piped()).spawn().unwrap();
    let held = || (cli.cluster.get(1, "/v1/lock/b").unwrap().status == 200).then_some(());
    cli.cluster.wait_until("the lock is held", PATIENCE, held).unwrap();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(1500) {
        assert_eq!(cli.run(&lock_run("b", &["--wait", "0"], &["true"])).status.code(), Some(1));
    }
    let mut waiter = cli.command(&lock_run("b", &["--wait", "20s"], &["true"])).stderr(Stdio::null()).spawn().unwrap();
    drop(holder.stdin.take());
    assert_eq!((ends(&mut holder), ends(&mut waiter)), (Some(0), Some(0)));
    // Given back: the next one has it at once.
    assert_eq!(cli.cluster.get(1, "/v1/lock/b").unwrap().status, 404);

    // SIGTERM and SIGHUP to the holder go on to the command, and the lock is given back.
    for (signal, code) in [(Signal::TERM, 143), (Signal::HUP, 129)] {
        let mut command = cli.command(&lock_run("c", &[], &["sh", "-c", "echo ready; exec sleep 60"]));
        let mut holder = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(cli.cluster.get(1, "/v1/lock/c").unwrap().status, 200);
        kill_process(Pid::from_child(&holder), signal).unwrap();
        assert_eq!(ends(&mut holder), Some(code));
        assert_eq!(cli.cluster.get(1, "/v1/lock/c").unwrap().status, 404);
    }
}

#[test]
fn a_command_ends_when_its_lock_is_lost() {
    let mut cli = Cli::new();
    let log = cli.cluster.dir().join("holder.log");
    let script = "trap 'echo told; exit' TERM; while :; do sleep 0.05; done";
    let command = lock_run("l", &["--ttl", "3s", "--timeout", "0.2"], &["sh", "-c", script]);
    let mut holder = Process::start(&mut cli.command(&command), &log).unwrap();
    let held = || (cli.cluster.get(1, "/v1/lock/l").unwrap().status == 200).then_some(());
    cli.cluster.wait_until("the lock is held", PATIENCE, held).unwrap();
    let begun = Instant::now();
    for id in 1..=3 {
        cli.cluster.kill_now(id).unwrap();
    }
    let ended = holder.wait(PATIENCE).unwrap();
    let said = holder.output();
    assert_eq!(ended.code(), Some(1), "{said}");
    assert!(said.contains("told") && said.contains("lock \"l\" is lost: it could not be renewed"), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

fn is_at_work(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

/// The command and what it has started in the background, both deaf to SIGTERM.
#[test]
fn nothing_of_a_command_goes_on_when_its_lock_is_given_to_another() {
    const DEAF: &str = "trap '' TERM; sleep 300 & echo $! $$ >pids.new; mv pids.new pids; ";
    const TTL: Duration = Duration::from_secs(4);
    let mut cli = Cli::new();
    for (how, script) in [
        ("its runner is killed", "wait; sleep 300"),
        ("it ends itself", "exit 0"),
        ("the cluster does not answer", "wait; sleep 300"),
    ] {
        let pids = cli.cluster.dir().join("pids");
        let _ = std::fs::remove_file(&pids);
        let script = format!("{DEAF}{script}");
        let mut command = cli.command(&lock_run("d", &["--ttl", "4s"], &["sh", "-c", &script]));
        let mut runner = command.current_dir(cli.cluster.dir()).spawn().unwrap();
        let started = || std::fs::read_to_string(&pids).ok();
        let family = cli.cluster.wait_until("the command has started", PATIENCE, started).unwrap();
        let family: Vec<u32> = family.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
        let at_work = || family.iter().filter(|pid| is_at_work(**pid)).count();
        match how {
            "its runner is killed" => kill_process(Pid::from_child(&runner), Signal::KILL).unwrap(),
            "it ends itself" => {}
            _ => {
                assert_eq!(at_work(), 2);
                (1..=3).for_each(|id| cli.cluster.freeze(id).unwrap());
                let frozen = Instant::now();
                let ended = || (at_work() == 0).then_some(());
                cli.cluster.wait_until("nothing is at work", PATIENCE, ended).unwrap();
                // The last renewal was sent before; whoever counts from it counts no longer.
                assert!(frozen.elapsed() < TTL, "{:?}", frozen.elapsed());
                (1..=3).for_each(|id| cli.cluster.thaw(id).unwrap());
            }
        }
        cli.cluster.settle().unwrap();
        let mut next = cli.command(&lock_run("d", &["--wait", "30s"], &["sh", "-c", "echo mine; cat"]));
        let mut next = next.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(next.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!((line.as_str(), at_work()), ("mine\n", 0), "{how}");
        drop(next.stdin.take());
        assert_eq!(ends(&mut next), Some(0));
        let code = runner.wait().unwrap().code();
        assert_eq!(code, if how == "it ends itself" { Some(0) } else { code.filter(|code| *code == 1) }, "{how}");
    }
}

#[test]
fn a_terminal_shows_what_others_wrote_and_ctrl_c_reaches_a_command_under_a_lock() {
    let cli = Cli::new();
    let at = cli.cluster.addresses().join(",");
    cli.says(0, &["kv", "put", "bad", "x\u{1b}[2J\u{202e}y"]);
    let mut terminal = Terminal::start(&format!("{EXE} kv get bad -e {at}"), &[]).unwrap();
    terminal.expect(r"x\x1b[2J\u{202e}y").unwrap();
    terminal.expect_end(0).unwrap();
    let mut terminal = Terminal::start(&format!("{EXE} kv get bad --raw -e {at}"), &[]).unwrap();
    terminal.expect("x\u{1b}[2J\u{202e}y").unwrap();
    assert_eq!(cli.says(0, &["kv", "get", "bad"]), "x\u{1b}[2J\u{202e}y", "a pipe gets the bytes");
    let mut terminal = Terminal::start(&format!("{EXE} kv watch bad -e {at}"), &[]).unwrap();
    terminal.expect(r"x\x1b[2J\xe2\x80\xaey").unwrap();
    cli.says(0, &["kv", "put", "bad", "\u{9b}2Jz"]);
    terminal.expect(r"\xc2\x9b2Jz").unwrap();
    let shown = terminal.shown();
    assert!(!["\u{1b}[2J", "\u{202e}", "\u{9b}"].iter().any(|obeyed| shown.contains(obeyed)), "{shown:?}");

    let script = r#"trap "echo told; exit 7" INT; echo ready; while :; do sleep 0.05; done"#;
    let mut terminal = Terminal::start(&format!("{EXE} lock run t -e {at} -- sh -c '{script}'"), &[]).unwrap();
    terminal.expect("ready").unwrap();
    terminal.press(b"\x03").unwrap();
    terminal.expect("told").unwrap();
    terminal.expect_end(7).unwrap();
    assert_eq!(cli.cluster.get(1, "/v1/lock/t").unwrap().status, 404, "given back");
}

#[test]
fn bench_drives_its_own_nodes_and_prints_both_modes() {
    let bench = |more: &[&str]| {
        let args = ["--clients", "4", "--pipeline", "3", "--keys", "50", "--seconds", "0.4", "--nodes", "3", "--json"];
        let output = Command::new(EXE).arg("bench").args(more).args(args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    for more in [&["kv"][..], &["read", "--target", "follower"]] {
        let found = bench(more);
        for (rate, mode) in found["rates"].as_array().unwrap().iter().zip(["strong", "eventual"]) {
            assert_eq!((&rate["mode"], &rate["errors"]), (&json!(mode), &json!(0)), "{rate}");
            assert!(rate["per_second"].as_f64().unwrap() > 100.0, "{rate}");
            let ms = ["p50_ms", "p99_ms", "max_ms"].map(|name| rate[name].as_f64().unwrap());
            assert!(0.0 < ms[0] && ms[0] <= ms[1] && ms[1] <= ms[2], "{rate}");
        }
    }
}
