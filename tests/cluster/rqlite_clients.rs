//! rqlite's client libraries, unmodified, on a cluster of three whose leader dies in the middle.
//!
//! Scripts in `tests/cluster/rqlite_clients/` do what users of a library do. A script gets the ports of the nodes, the
//! leader's last; it prints `kill the leader`, reads a line, which comes when the leader is dead, and prints `done` at
//! the end. `./test.sh` installs the libraries below `target/`; where one is missing, its test says so and passes.
//!
//! No registry in reach has gorqlite, a library in Go: the requests of its own test suite are sent again as they were
//! recorded (`gorqlite.txt`), and the answers must be those with which that suite has passed.
//! Not here: how clients discover a cluster (`sql/requests.rs`), the results of their own suites (docs/compatibility.md).

use crate::EXE;
use phalanx::lab::web::Connection;
use phalanx::lab::{Cluster, Result};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(10);

const PASSWORD: &str = "open-sesame";

fn cluster() -> Result<Cluster> {
    Cluster::ready(EXE, 3, &json!({"jobs_enabled": false}))
}

/// A command for an interpreter that finds the libraries that `./test.sh` has installed.
fn interpreter(name: &str) -> Command {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/rqlite-clients");
    let mut command = Command::new(name);
    command.env("PYTHONPATH", installed.join("python")).env("NODE_PATH", installed.join("node_modules"));
    command
}

/// Whether a command of the interpreter succeeds, as it does if the script's libraries are installed.
fn has(name: &str, probe: [&str; 2]) -> bool {
    let has_all = interpreter(name).args(probe).output().is_ok_and(|output| output.status.success());
    if !has_all {
        eprintln!("skipped: {name} {probe:?} fails; ./test.sh installs what is missing where it can");
    }
    has_all
}

fn path_of(script: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/rqlite_clients").join(script)
}

/// Runs a script that presents the password of its cluster.
fn run_with_password(name: &str, probe: [&str; 2], script: &str) -> Result<()> {
    if !has(name, probe) {
        return Ok(());
    }
    let cluster = Cluster::ready(EXE, 3, &json!({"jobs_enabled": false, "client_password": PASSWORD}))?;
    let ports = (1..=3).map(|id| cluster.http(id).rsplit_once(':').unwrap().1.to_string());
    let output = interpreter(name).arg(path_of(script)).arg(PASSWORD).args(ports).output().unwrap();
    let (said, why) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(said, "done\n", "{script}: {why}");
    Ok(())
}

/// Runs a script; `probe` is a command of the interpreter that succeeds if the script's libraries are installed.
fn run(name: &str, probe: [&str; 2], script: &str) -> Result<()> {
    if !has(name, probe) {
        return Ok(());
    }
    let mut cluster = cluster()?;
    let leader = cluster.settle()?;
    let mut ids: Vec<u64> = (1..=3).collect();
    ids.sort_by_key(|id| *id == leader);
    let ports = ids.iter().map(|id| cluster.http(*id).rsplit_once(':').unwrap().1.to_string());
    let mut command = interpreter(name);
    command.arg(path_of(script)).args(ports).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut said = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if line == "kill the leader" {
            cluster.kill(leader).unwrap();
            writeln!(child.stdin.as_ref().unwrap(), "dead").unwrap();
        }
        said.push(line);
    }
    assert!(child.wait().unwrap().success(), "{script} failed; it said {said:?}, and why on stderr");
    assert_eq!(said.last().map(String::as_str), Some("done"), "{script} said {said:?}");
    assert!(!cluster.is_running(leader), "{script} did not have the leader killed");
    Ok(())
}

#[test]
fn pyrqlite() -> Result<()> {
    run("python3", ["-c", "import pyrqlite"], "pyrqlite_client.py")
}

#[test]
fn rqdb() -> Result<()> {
    run("python3", ["-c", "import rqdb"], "rqdb_client.py")
}

#[test]
fn sqlalchemy_and_alembic() -> Result<()> {
    run("python3", ["-c", "import sqlalchemy_rqlite, alembic"], "sqlalchemy_client.py")
}

#[test]
fn pyrqlite_presents_a_password() -> Result<()> {
    run_with_password("python3", ["-c", "import pyrqlite"], "password.py")
}

#[test]
fn rqlite_js_presents_a_password() -> Result<()> {
    run_with_password("node", ["-e", "require('rqlite-js')"], "password.js")
}

#[test]
fn rqlite_js() -> Result<()> {
    run("node", ["-e", "require('rqlite-js')"], "rqlite_js_client.js")
}

#[test]
fn gorqlite_as_recorded() -> Result<()> {
    let cluster = cluster()?;
    let mut connections: Vec<Connection> =
        (1..=3).map(|id| Connection::open(&cluster.http(id), PATIENCE).unwrap()).collect();
    let mut count = 0;
    let mut lines = include_str!("rqlite_clients/gorqlite.txt").lines().filter(|line| !line.starts_with('#'));
    while let (Some(path), Some(body), Some(expected)) = (lines.next(), lines.next(), lines.next()) {
        let connection = &mut connections[count % 3];
        count += 1;
        let headers = "User-Agent: Go-http-client/1.1\r\nContent-Type: application/json\r\nAccept-Encoding: gzip\r\n";
        connection.send_bytes("POST", path, headers, Some(body.as_bytes())).unwrap();
        let answer = connection.answer(Instant::now() + PATIENCE).unwrap();
        assert_eq!(answer.status, 200, "{path} {body}: {}", answer.text());
        let mut answer = answer.json();
        assert!(answer["time"].as_f64().unwrap() > 0.0, "{path} {body}: {answer}");
        for result in answer["results"].as_array_mut().unwrap() {
            let result = result.as_object_mut().unwrap();
            assert!(result.remove("time").is_some() || result.contains_key("error"), "{path} {body}: {result:?}");
        }
        if path.ends_with("&queue") {
            assert!(answer["sequence_number"].as_u64().unwrap() > 0, "{path} {body}: {answer}");
        }
        let expected = serde_json::from_str::<Value>(expected).unwrap().to_string();
        let results = answer["results"].to_string();
        let is_as_recorded = match expected.split_once("<now>") {
            Some((before, after)) => results.starts_with(before) && results.ends_with(after),
            None => results == expected,
        };
        assert!(is_as_recorded, "{path} {body}: {results} instead of {expected}");
    }
    assert!(count > 50, "{count} requests: the recording is incomplete");
    Ok(())
}
