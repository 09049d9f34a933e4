//! What clients and unknown peers can make a node hold: resident memory of real processes under attacks.

use crate::EXE;
use phalanx::lab::{Cluster, Result};
use phalanx::types::{Addresses, Identity, NodeId};
use phalanx::wire::{Hello, PROTOCOL, Purpose, handshake};
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(20);
const MIB: u64 = 1 << 20;
const FRAME_BYTES: u32 = (16 << 20) - 1;

/// Bytes of a process: `VmRSS:` now, `VmHWM:` at most so far.
fn memory(pid: u32, what: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(what)).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 10
}

/// A connection to a node's peer port in somebody's name.
fn call(cluster: &Cluster, to: u64, from: Identity) -> TcpStream {
    let addresses = Addresses { peer: "127.0.0.1:1".into(), http: "127.0.0.1:1".into(), kv: "127.0.0.1:1".into() };
    let name = cluster.status(to).unwrap().cluster.id;
    let hello =
        Hello { protocol: PROTOCOL, cluster: name, from, addresses, opening: Vec::new(), purpose: Purpose::Peer };
    let stream = TcpStream::connect(cluster.peer(to)).unwrap();
    handshake::dial(&stream, hello, None, None).unwrap();
    stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    stream
}

/// Clients that say nothing take all connections, and those that are kept for health checks: the next health check
/// finds a place all the same, though it comes from the same address.
#[test]
fn silent_clients_keep_no_health_check_out() -> Result<()> {
    let settings = json!({"connections_max": 16, "client_password": "open sesame"});
    let cluster = Cluster::ready(EXE, 1, &settings)?;
    // All 16 and the 64 beyond them, and some more; Redis clients say nothing before they have named the password.
    for address in [cluster.http(1), cluster.kv(1)] {
        let silent: Vec<TcpStream> = (0..16 + 64 + 16).map(|_| TcpStream::connect(&address).unwrap()).collect();
        for _ in 0..20 {
            let answer = cluster.get(1, "/livez")?;
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
        drop(silent);
    }
    Ok(())
}

/// Clients that say nothing take all connections of nodes that may open few files: those keep what they need for their log.
#[test]
fn silent_clients_take_no_file_descriptor_from_the_log() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let limited = dir.path().join("phalanx");
    std::fs::write(&limited, format!("#!/bin/sh\nulimit -n 400\nexec {EXE} \"$@\"\n")).unwrap();
    std::fs::set_permissions(&limited, std::fs::Permissions::from_mode(0o755)).unwrap();
    // A new file of the log for every MiB.
    let cluster = Cluster::ready(&limited, 3, &json!({"snapshot_every_mb": 1}))?;
    let mut writer = TcpStream::connect(cluster.kv(cluster.wait_leader()?)).unwrap();
    writer.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut write = |key: u8, bytes: usize| {
        let mut answer = [0; "+OK\r\n".len()];
        writer.write_all(&set(key, bytes)).and_then(|()| writer.read_exact(&mut answer)).unwrap();
        assert_eq!(&answer, b"+OK\r\n");
    };
    write(b'a', 1);
    let silent: Vec<TcpStream> = (0..1500).map(|n| TcpStream::connect(cluster.http(1 + n % 3)).unwrap()).collect();
    (0..20).for_each(|_| write(b'a', 1 << 20));
    for id in 1..=3 {
        assert!(cluster.log(id).contains("connections_max is 12000, 144 are possible"), "{}", cluster.log(id));
        assert_eq!(cluster.get(id, "/livez")?.status, 200);
    }
    drop(silent);
    Ok(())
}

/// Announces the largest frame and sends a part of it, as far as the other side takes it.
fn announce(mut stream: &TcpStream, bytes: usize) {
    let header = [FRAME_BYTES.to_le_bytes(), [0; 4]].concat();
    let _ = stream.write_all(&header).and_then(|()| stream.write_all(&vec![b'x'; bytes]));
}

#[test]
fn frames_of_unknown_peers_cost_little_memory_and_members_go_on() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 3, &json!({"memory_budget_mb": 64}))?;
    let leader = cluster.settle()?;
    let pid = cluster.process(leader)?.pid();
    let term = cluster.status(leader)?.cluster.term;
    let before = memory(pid, "VmHWM:");
    let mut open = Vec::new();
    for n in 0..512 {
        let from = Identity { id: NodeId(9 + n % 5), uuid: Uuid::from_u128(0xbad + u128::from(n)) };
        let stream = call(&cluster, leader, from);
        announce(&stream, 1 << 20);
        open.push(stream);
        if n % 64 == 0 {
            cluster.put("meanwhile", "x")?;
        }
    }
    let grown = memory(pid, "VmHWM:") - before;
    assert!(grown < 12 * MIB, "512 unknown peers cost {} KiB", grown >> 10);
    // In a member's name it is that member's share that is used up.
    let member = cluster.status(leader % 3 + 1)?.node.uuid;
    let from = Identity { id: NodeId(leader % 3 + 1), uuid: member };
    for _ in 0..8 {
        let stream = call(&cluster, leader, from);
        announce(&stream, 12 << 20);
        open.push(stream);
    }
    let grown = memory(pid, "VmHWM:") - before;
    assert!(grown < 56 * MIB, "connections in a member's name cost {} KiB", grown >> 10);
    cluster.put("after", "y")?;
    assert_eq!(cluster.settle()?, leader);
    assert!(cluster.status(leader)?.cluster.term.0 <= term.0 + 2, "it went on leading");
    // A member's handshake is one of the newest: it finds a place while unknown peers keep connecting.
    let other = leader % 3 + 1;
    cluster.kill(other)?;
    cluster.spawn(other, &[])?;
    let until = Instant::now() + Duration::from_secs(20);
    while cluster.get(other, "/readyz").map_or(true, |reply| reply.status != 200) {
        assert!(Instant::now() < until, "{}", cluster.log(other));
        open.push(call(&cluster, leader, Identity { id: NodeId(9), uuid: Uuid::new_v4() }));
    }
    cluster.settle()?;
    assert!(!cluster.log(leader).contains("panicked"), "{}", cluster.log(leader));
    Ok(())
}

/// A node of its own, with a budget of 64 MiB; its process, and what it has had at most.
fn one() -> Result<(Cluster, u32, u64)> {
    let mut cluster = Cluster::ready(EXE, 1, &json!({"memory_budget_mb": 64}))?;
    cluster.put("before", "x")?;
    let pid = cluster.process(1)?.pid();
    Ok((cluster, pid, memory(pid, "VmHWM:")))
}

/// What the node has had beyond `before` is within the budget, and it serves others.
fn is_within_budget(cluster: &Cluster, pid: u32, before: u64) -> Result<()> {
    is_within(cluster, pid, before, 64 * MIB)
}

fn is_within(cluster: &Cluster, pid: u32, before: u64, most: u64) -> Result<()> {
    cluster.put("meanwhile", "x")?;
    let grown = memory(pid, "VmHWM:") - before;
    assert!(grown <= most, "{} KiB beyond the {} KiB of an idle node", grown >> 10, before >> 10);
    Ok(())
}

/// Runs the same client on many threads; their connections stay open until the result is dropped.
fn many(count: usize, address: &str, client: impl Fn(&mut TcpStream) -> std::io::Result<()> + Sync) -> Vec<TcpStream> {
    std::thread::scope(|scope| {
        let client = &client;
        let begun: Vec<_> = (0..count)
            .map(|_| {
                scope.spawn(move || {
                    let mut stream = TcpStream::connect(address).unwrap();
                    stream.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
                    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                    let _ = client(&mut stream); // it may be refused at any point
                    stream
                })
            })
            .collect();
        begun.into_iter().map(|client| client.join().unwrap()).collect()
    })
}

/// `SET` of a key of one letter.
fn set(key: u8, bytes: usize) -> Vec<u8> {
    let mut request = format!("*3\r\n$3\r\nSET\r\n$1\r\n{}\r\n${bytes}\r\n", char::from(key)).into_bytes();
    request.resize(request.len() + bytes, b'v');
    request.extend(b"\r\n");
    request
}

#[test]
fn half_sent_requests_stay_within_the_budget() -> Result<()> {
    let (cluster, pid, before) = one()?;
    let bytes = 4 << 20;
    let head = format!("POST /v1/kv/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: {bytes}\r\n\r\n");
    let open = many(80, &cluster.http(1), |stream| {
        stream.write_all(head.as_bytes())?;
        stream.write_all(&vec![b'x'; bytes - 1])
    });
    is_within_budget(&cluster, pid, before)?;
    drop(open);
    Ok(())
}

#[test]
fn open_transactions_stay_within_the_budget() -> Result<()> {
    for (commands, bytes) in [(6, 1 << 20), (40_000, 1)] {
        let (cluster, pid, before) = one()?;
        let request = set(b'q', bytes);
        let open = many(60, &cluster.kv(1), |stream| {
            stream.write_all(b"MULTI\r\n")?;
            let at_once = (64 << 10) / request.len() + 1;
            for _ in 0..commands / at_once {
                stream.write_all(&request.repeat(at_once))?;
                // Its answers need not be taken apart: some bytes of them have come, so some commands are queued.
                if stream.read(&mut vec![0; 64 << 10])? == 0 {
                    break;
                }
            }
            Ok(())
        });
        is_within_budget(&cluster, pid, before)?;
        drop(open);
    }
    Ok(())
}

#[test]
fn small_bodies_of_many_values_and_large_results_stay_within_the_budget() -> Result<()> {
    let (cluster, pid, before) = one()?;
    let ask = |method: &str, path: &str, body: &[u8]| {
        let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
        let request = [head.as_bytes(), body].concat();
        many(20, &cluster.http(1), |stream| {
            stream.write_all(&request)?;
            stream.read_exact(&mut [0; "HTTP/1.1 503".len()])
        })
    };
    let nested = [&b"[\"x\""[..], &b",[]".repeat(2 << 20), b"]"].concat();
    let open = ask("POST", "/db/execute", &nested);
    is_within_budget(&cluster, pid, before)?;
    drop(open);
    // Some 6 MB of text each, in few rows and in many. Twenty readers have caches of 2 MB beside them.
    for (rows, value) in [(60, "hex(zeroblob(50000))"), (300_000, "x")] {
        let sql = format!(
            "WITH%20RECURSIVE%20c(x)%20AS(SELECT%201%20UNION%20ALL%20SELECT%20x%2B1%20FROM%20c%20WHERE%20x%3C{rows})SELECT%20{value}%20FROM%20c"
        );
        let open = ask("GET", &format!("/db/query?level=none&q={sql}"), b"");
        is_within(&cluster, pid, before, (64 + 20 * 2) * MIB)?;
        drop(open);
    }
    Ok(())
}

/// Clients that read the output of jobs, ended and running, and take nothing of it.
#[test]
fn readers_of_long_job_output_stay_within_the_budget() -> Result<()> {
    let shell =
        json!({"language": "shell", "file_name": "main.sh", "probe": ["sh", "-c", "true"], "run": ["sh", "{file}"]});
    let settings = json!({"memory_budget_mb": 64, "jobs_enabled": true, "runtimes": [shell]});
    let mut cluster = Cluster::ready(EXE, 1, &settings)?;
    let pid = cluster.process(1)?.pid();
    let print = "head -c 4000000 /dev/zero | tr '\\0' x";
    let get = |path: String| cluster.get(1, &path).ok();
    let submit = |source: &str| {
        let limits = json!({"output_bytes": 4 << 20, "wall_ms": 120_000});
        let job = json!({"language": "shell", "source": source, "limits": limits});
        let id = || cluster.post(1, "/v1/jobs", &job).ok()?.json()["id"].as_u64();
        cluster.wait_until("a worker takes jobs", PATIENCE, id)
    };
    let (ended, running) = (submit(print)?, submit(&format!("{print}; sleep 100"))?);
    cluster.wait_until("one has ended", PATIENCE, || {
        (get(format!("/v1/jobs/{ended}"))?.json()["state"] == "finished").then_some(())
    })?;
    for id in [ended, running] {
        cluster.wait_until("both have printed", PATIENCE, || {
            (get(format!("/v1/jobs/{id}/output"))?.text() == "x".repeat(4_000_000)).then_some(())
        })?;
    }
    let before = memory(pid, "VmHWM:");
    for path in [
        format!("{ended}/output"),
        format!("{ended}/output?format=ndjson"),
        format!("{running}/output?follow"),
        format!("{running}/output?follow&format=ndjson"),
        ended.to_string(),
    ] {
        let request = format!("GET /v1/jobs/{path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let open = many(100, &cluster.http(1), |stream| {
            rustix::net::sockopt::set_socket_recv_buffer_size(&*stream, 2048)?;
            stream.write_all(request.as_bytes())?;
            stream.read_exact(&mut [0; "HTTP/1.1 200".len()])
        });
        is_within_budget(&cluster, pid, before)?;
        drop(open);
    }
    Ok(())
}

#[test]
fn readers_that_take_nothing_stay_within_the_budget() -> Result<()> {
    let (cluster, pid, _) = one()?;
    many(1, &cluster.kv(1), |stream| {
        stream.write_all(&set(b'k', 4 << 20))?;
        stream.read_exact(&mut [0; "+OK\r\n".len()])
    });
    let before = memory(pid, "VmHWM:");
    let open = many(20, &cluster.kv(1), |stream| stream.write_all(&b"GET k\r\n".repeat(100)));
    cluster.wait_until("the budget is felt", Duration::from_secs(20), || {
        let text = cluster.get(1, "/metrics").ok()?.text();
        let refused = text.lines().find_map(|line| line.strip_prefix("phalanx_memory_refused_total "))?;
        (refused.trim().parse::<f64>().ok()? > 5.0).then_some(())
    })?;
    is_within_budget(&cluster, pid, before)?;
    drop(open);
    Ok(())
}
