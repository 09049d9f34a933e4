//! Clients that people use, unmodified, against a follower and against the leader.
//!
//! redis-cli, redis-benchmark and netcat are Debian packages, as is redis-py (python3-redis); `./test.sh` installs them.

use crate::EXE;
use ::redis::{Commands, ConnectionLike};
use phalanx::lab::terminal::Terminal;
use phalanx::lab::{Cluster, Result, poll};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

/// Longest that a client may take for all it has to do.
const CLIENT_MAX: Duration = Duration::from_secs(60);

/// Runs a program with this input; what it printed.
fn run(program: &str, arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{program} is needed ({e}); ./test.sh installs it"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let id = child.id();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let what = format!("{program} {arguments:?} ends");
            if poll::wait_until(&what, CLIENT_MAX, || done.load(Ordering::Relaxed).then_some(())).is_err() {
                let _ = Command::new("kill").arg(id.to_string()).status();
            }
        });
        let output = child.wait_with_output().unwrap();
        done.store(true, Ordering::Relaxed);
        output
    })
}

fn text(program: &str, arguments: &[&str], input: &str) -> String {
    let output = run(program, arguments, input);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {}\n{text}\n{errors}", output.status);
    text
}

fn port(cluster: &Cluster, id: u64) -> String {
    cluster.kv(id).rsplit(':').next().unwrap().to_string()
}

/// A cluster of three, with a follower and its leader.
fn three() -> Result<(Cluster, [u64; 2])> {
    three_with(&json!({}))
}

fn three_with(settings: &Value) -> Result<(Cluster, [u64; 2])> {
    let cluster = Cluster::ready(EXE, 3, settings)?;
    let leader = cluster.settle()?;
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    Ok((cluster, [follower, leader]))
}

#[test]
fn redis_cli_works_with_one_command_and_in_a_terminal() -> Result<()> {
    let (cluster, nodes) = three()?;
    for id in nodes {
        let port = port(&cluster, id);
        let cli = |arguments: &[&str]| text("redis-cli", &[&["-p", &port], arguments].concat(), "");
        assert_eq!(cli(&["set", "hello", "wor ld"]), "OK\n");
        assert_eq!(cli(&["get", "hello"]), "wor ld\n");
        assert_eq!(cli(&["-3", "get", "nothing"]), "\n");
        assert_eq!(cli(&["incr", "count"]).lines().count(), 1);
        assert_eq!(cli(&["--scan", "--pattern", "hel*"]), "hello\n");
        assert_eq!(
            text("redis-cli", &["-p", &port], "set a 1\nmulti\nincr a\nget a\nexec\n"),
            "OK\nOK\nQUEUED\nQUEUED\n2\n2\n"
        );
        assert!(text("redis-cli", &["-p", &port, "--pipe"], "SET p 1\r\nINCR p\r\n").contains("errors: 0, replies: 2"));
        // On a terminal it asks for COMMAND DOCS first and prints with types.
        let mut terminal = Terminal::start(&format!("stty cols 80 rows 24; redis-cli -p {port}"), &[])?;
        terminal.expect(&format!("127.0.0.1:{port}>"))?;
        for (typed, expected) in [
            ("set term inal", "OK"),
            ("get term", "\"inal\""),
            ("incr term", "(error) ERR value is not an integer or out of range"),
            ("help lock.acquire", "fencing token"),
            ("multi", "(TX)>"),
            ("get term", "QUEUED"),
            ("exec", "1) \"inal\""),
        ] {
            terminal.type_line(typed)?;
            terminal.expect(expected)?;
        }
    }
    Ok(())
}

#[test]
fn redis_benchmark_runs_with_and_without_pipelining() -> Result<()> {
    let (cluster, nodes) = three()?;
    for id in nodes {
        for pipeline in ["1", "16"] {
            let port = port(&cluster, id);
            let tests = "ping,set,get,incr,mset";
            let arguments = ["-p", &port, "-t", tests, "-n", "4000", "-c", "64", "-P", pipeline, "-r", "1000", "--csv"];
            let shown = text("redis-benchmark", &arguments, "");
            for name in ["PING_INLINE", "PING_MBULK", "SET", "GET", "INCR", "MSET (10 keys)"] {
                assert!(shown.contains(&format!("\"{name}\",")), "{name} is missing:\n{shown}");
            }
            eprintln!("node {id} -P {pipeline}\n{shown}");
        }
    }
    Ok(())
}

#[test]
fn redis_py_works_with_its_lock() -> Result<()> {
    let (cluster, nodes) = three()?;
    // The system's own Python has Debian's package; another one may come first in PATH.
    let has_redis = |python: &&str| run(python, &["-c", "import redis"], "").status.success();
    let python = ["/usr/bin/python3", "python3"].into_iter().find(has_redis).expect("python3-redis; see ./test.sh");
    for id in nodes {
        let shown = text(python, &["tests/cluster/redis/client.py", &port(&cluster, id)], "");
        assert!(shown.trim_end().ends_with("ok"), "{shown}");
    }
    Ok(())
}

#[test]
fn netcat_gets_its_answers_although_it_hangs_up_at_once() -> Result<()> {
    let (cluster, nodes) = three()?;
    for id in nodes {
        let lines = "SET hello world\r\nGET hello\r\nGET \"hello\"\nPING\r\nQUIT\r\n";
        let nc = |lines: &str| text("nc", &["-N", "127.0.0.1", &port(&cluster, id)], lines);
        assert_eq!(nc(lines), "+OK\r\nworld\r\nworld\r\n+PONG\r\n+OK\r\n");
        // A connection that begins with a plain line: the rest of the line is the value, and values have no length.
        for (line, answer) in [
            ("SET msg hello big  world", "+OK"),
            ("GET msg", "hello big  world"),
            ("SET msg it's \"fine\"", "+OK"),
            ("GET msg", "it's \"fine\""),
            ("SET msg 'quoted text' EX 100", "+OK"),
            ("GET msg", "quoted text"),
            ("TTL msg", ":100"),
            ("SET msg two words EX 100", "+OK"),
            ("GET msg", "two words EX 100"),
            ("APPEND msg  and more", ":24"),
            ("SETNX msg a b c", ":0"),
            ("GETSET msg a b c", "two words EX 100and more"),
            ("SET msg", "-ERR wrong number of arguments for 'set' command"),
            ("GET nothing", "(nil)"),
            ("INCR msg", "-ERR value is not an integer or out of range"),
            ("MGET msg nothing", "*2\r\n$5\r\na b c\r\n$-1"),
            ("DEL msg", ":1"),
            ("INCR count", ":1"),
            ("DEL count", ":1"),
            ("KEYS nothing", "*0"),
            (
                "MULTI\r\nSET x in a transaction\r\nGET x\r\nEXEC",
                "+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n+OK\r\n$16\r\nin a transaction",
            ),
            ("CLIENT GETNAME", "(nil)"),
            ("ECHO hey", "hey"),
            ("*2\r\n$4\r\nECHO\r\n$3\r\nhey", "$3\r\nhey"),
            ("PING", "+PONG"),
            ("HELLO 2\r\nECHO hey\r\nQUIT", "*14\r\n"),
        ] {
            let shown = nc(&format!("PING\r\n{line}\r\n"));
            let shown = shown.strip_prefix("+PONG\r\n").unwrap();
            match line.starts_with("HELLO") {
                true => assert!(shown.starts_with(answer) && shown.ends_with("$3\r\nhey\r\n+OK\r\n"), "{shown}"),
                false => assert_eq!(shown, format!("{answer}\r\n"), "{line}"),
            }
        }
        let many: String = (0..3000).map(|n| format!("SET many:{n} {n}\r\nGET many:{n}\r\n")).collect();
        let shown = text("nc", &["-N", "127.0.0.1", &port(&cluster, id)], &many);
        let expected: String = (0..3000).map(|n: u32| format!("+OK\r\n{n}\r\n")).collect();
        assert!(shown == expected, "{} of {} bytes came back", shown.len(), expected.len());
    }
    Ok(())
}

#[test]
fn the_rust_client_works_in_both_protocols() -> Result<()> {
    let (cluster, nodes) = three()?;
    for id in nodes {
        for suffix in ["", "?protocol=resp3"] {
            let client = ::redis::Client::open(format!("redis://{}/{suffix}", cluster.kv(id))).unwrap();
            let mut c = client.get_connection().unwrap();
            let _: () = c.flushall().unwrap();
            let _: () = c.set("k", b"\x00\xff".as_slice()).unwrap();
            assert_eq!(c.get::<_, Vec<u8>>("k").unwrap(), b"\x00\xff");
            assert_eq!(c.get::<_, Option<String>>("nothing").unwrap(), None);
            assert_eq!(c.incr::<_, _, i64>("n", 5).unwrap(), 5);
            assert!(c.set_nx::<_, _, bool>("nx", 1).unwrap() && !c.set_nx::<_, _, bool>("nx", 2).unwrap());
            assert_eq!(c.mget::<_, Vec<Option<i64>>>(&["n", "nothing"]).unwrap(), [Some(5), None]);
            assert!(c.expire::<_, bool>("n", 100).unwrap() && c.ttl::<_, i64>("n").unwrap() == 100);
            let error = c.incr::<_, _, i64>("k", 1).unwrap_err();
            assert!(error.to_string().contains("not an integer"), "{error}");
            let mut pipe = ::redis::pipe();
            for n in 0..200 {
                pipe.cmd("SET").arg(n).arg(n).ignore().cmd("GET").arg(n);
            }
            let values: Vec<i64> = pipe.query(&mut c).unwrap();
            assert_eq!(values, (0..200).collect::<Vec<_>>());
            let (sum,): (i64,) = ::redis::transaction(&mut c, &["n"], |c, pipe| {
                let n: i64 = c.get("n")?;
                pipe.set("n", n + 1).ignore().get("n").query(c)
            })
            .unwrap();
            assert_eq!(sum, 6);
            let scanned: BTreeSet<String> = c.scan::<String>().unwrap().map(|key| key.unwrap()).collect();
            assert_eq!(scanned.len(), 203);
            assert!(c.check_connection());
        }
    }
    Ok(())
}

#[test]
fn a_client_of_a_follower_does_not_notice_that_leaders_die() -> Result<()> {
    let (mut cluster, [follower, _]) = three()?;
    let address = cluster.kv(follower);
    let (stop, counted) = (AtomicBool::new(false), AtomicI64::new(0));
    std::thread::scope(|scope| {
        let counting = scope.spawn(|| {
            let client = ::redis::Client::open(format!("redis://{address}/")).unwrap();
            let mut c = client.get_connection().unwrap();
            while !stop.load(Ordering::Relaxed) {
                let now = counted.load(Ordering::Relaxed) + 1;
                assert_eq!(c.incr::<_, _, i64>("count", 1).unwrap(), now, "each command takes effect once");
                counted.store(now, Ordering::Relaxed);
            }
        });
        let breaking = (|| -> Result<()> {
            let mut killed = 0;
            while killed < 3 {
                let leader = cluster.settle()?;
                if leader == follower {
                    // The client's own node leads: another one takes over, for its process must live.
                    let other = (1..=3).find(|id| *id != follower).unwrap();
                    let _ = cluster.post(follower, "/v1/leader/transfer", &json!({"to": other}))?;
                    cluster.wait_other_leader(follower)?;
                    continue;
                }
                let before = counted.load(Ordering::Relaxed);
                cluster.kill(leader)?;
                cluster.wait_until("the client goes on", Duration::from_secs(10), || {
                    (counted.load(Ordering::Relaxed) > before + 5).then_some(())
                })?;
                cluster.spawn(leader, &[])?;
                killed += 1;
            }
            Ok(())
        })();
        stop.store(true, Ordering::Relaxed);
        counting.join().unwrap();
        breaking
    })?;
    Ok(())
}

#[test]
fn eventual_reads_go_on_without_a_quorum_and_strong_ones_are_refused() -> Result<()> {
    let timeout = Duration::from_millis(1500);
    let (mut cluster, [follower, _]) =
        three_with(&json!({"request_timeout_ms": timeout.as_millis() as u64, "takeover_after_ms": 0}))?;
    let client = ::redis::Client::open(format!("redis://{}/", cluster.kv(follower))).unwrap();
    let mut c = client.get_connection().unwrap();
    let _: () = c.set("k", "v").unwrap();
    for id in (1..=3).filter(|id| *id != follower) {
        cluster.kill(id)?;
    }
    let begun = Instant::now();
    for command in ["SET", "GET"] {
        let mut cmd = ::redis::cmd(command);
        cmd.arg("k");
        if command == "SET" {
            cmd.arg("w");
        }
        let error = cmd.query::<()>(&mut c).unwrap_err().to_string();
        assert!(error.to_lowercase().contains("clusterdown") || error.contains("UNKNOWN"), "{command}: {error}");
    }
    assert!(
        begun.elapsed() < 2 * timeout + Duration::from_secs(3),
        "within the request timeout, twice: {:?}",
        begun.elapsed()
    );
    let mode: String = ::redis::cmd("CONSISTENCY").arg("eventual").query(&mut c).unwrap();
    assert_eq!(mode, "OK");
    assert_eq!(c.get::<_, String>("k").unwrap(), "v");
    for id in (1..=3).filter(|id| *id != follower) {
        cluster.spawn(id, &[])?;
    }
    cluster.settle()?;
    let _: () = c.set("k", "x").unwrap();
    let _: String = ::redis::cmd("CONSISTENCY").arg("strong").query(&mut c).unwrap();
    assert_eq!(c.get::<_, String>("k").unwrap(), "x");
    Ok(())
}
