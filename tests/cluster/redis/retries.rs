//! The settings that docs/redis.md names, with which a library sends again what was refused for want of a quorum.
//!
//! A script gets the port of a node. It prints `take the quorum` and reads a line, which comes when that is done; after
//! the first refusal of a command that its library sends again it prints `give it back`, and at the end `done`.

use crate::EXE;
use phalanx::lab::{Cluster, Result};
use serde_json::json;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

/// An interpreter with the library that `./test.sh` has installed below `target/`.
fn interpreter(name: &str) -> Command {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    let mut command = Command::new(name);
    command.env("PYTHONPATH", target.join("celery")).env("NODE_PATH", target.join("redis-clients/node_modules"));
    command
}

fn outlasts_a_time_without_a_quorum(name: &str, probe: [&str; 2], script: &str) -> Result<()> {
    if !interpreter(name).args(probe).output().is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: {name} {probe:?} fails; ./test.sh installs what is missing where it can");
        return Ok(());
    }
    // Long enough that ten retries outlast the start of two nodes.
    let settings = json!({"jobs_enabled": false, "request_timeout_ms": 2000, "takeover_after_ms": 0});
    let mut cluster = Cluster::ready(EXE, 3, &settings)?;
    let leader = cluster.settle()?;
    let asked = leader % 3 + 1;
    let others: Vec<u64> = (1..=3).filter(|id| *id != asked).collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/redis").join(script);
    let port = cluster.kv(asked).rsplit(':').next().unwrap().to_string();
    let mut command = interpreter(name);
    let mut child = command.arg(path).arg(port).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        match line.as_str() {
            "take the quorum" => {
                for id in &others {
                    cluster.kill(*id).unwrap();
                }
                writeln!(child.stdin.as_ref().unwrap(), "taken").unwrap();
            }
            "give it back" => others.iter().for_each(|id| cluster.spawn(*id, &[]).unwrap()),
            _ => {}
        }
        said.push(line);
    }
    assert!(child.wait().unwrap().success(), "{script} failed; it said {said:?}, and why on stderr");
    assert_eq!(said, ["take the quorum", "give it back", "done"], "{script}");
    Ok(())
}

#[test]
fn redis_py() -> Result<()> {
    outlasts_a_time_without_a_quorum("python3", ["-c", "import redis, celery"], "retries.py")
}

#[test]
fn ioredis() -> Result<()> {
    outlasts_a_time_without_a_quorum("node", ["-e", "require('ioredis')"], "retries.js")
}
