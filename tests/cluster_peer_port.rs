//! Strangers at the peer port: garbage, giants, the wrong secret and silence cost a connection, never the node.
#![allow(clippy::unwrap_used)] // tests; clippy.toml covers only functions that carry #[test]

mod clients;

use clients::EXE;
use phalanx::lab::{Cluster, Result};
use phalanx::types::{Addresses, Identity, NodeId};
use phalanx::wire::codec::{self, WireError};
use phalanx::wire::{Frame, Hello, PROTOCOL, Purpose, handshake};
use serde_json::json;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};
use uuid::Uuid;

fn connect(cluster: &Cluster) -> TcpStream {
    let stream = TcpStream::connect(cluster.peer(1)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

/// Reads until the node hangs up; panics if it does not in time. How long that took.
fn until_hung_up(mut stream: &TcpStream, within: Duration) -> Duration {
    let begun = Instant::now();
    let mut piece = [0; 4096];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(_) => {}
            Err(e) if matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => break,
            Err(e) => panic!("the node did not hang up: {e}"),
        }
    }
    assert!(begun.elapsed() <= within, "it hung up after {:?}, {within:?} allowed", begun.elapsed());
    begun.elapsed()
}

fn hello(purpose: Purpose) -> Hello {
    let from = Identity { id: NodeId(9), uuid: Uuid::from_u128(9) };
    let addresses = Addresses { peer: "127.0.0.1:1".into(), http: "127.0.0.1:1".into(), kv: "127.0.0.1:1".into() };
    Hello { protocol: PROTOCOL, cluster: None, from, addresses, proof: Vec::new(), purpose }
}

fn threads(cluster: &mut Cluster) -> Option<usize> {
    let pid = cluster.process(1).ok()?.pid();
    Some(std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.count())
}

#[test]
fn strangers_cost_a_connection_and_nothing_else() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 3, &json!({"cluster_secret": "for the phalanx only"}))?;
    cluster.note("before", "x")?;
    let pid = cluster.process(1)?.pid();
    let threads_before = threads(&mut cluster);
    let soon = Duration::from_secs(3);

    // Garbage of every kind, also a browser's.
    for garbage in [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], &[0; 64], &[0xff; 64], b"\x00", b"PING\r\n"] {
        let mut stream = connect(&cluster);
        let _ = stream.write_all(garbage); // it may have hung up already
        until_hung_up(&stream, soon);
    }
    // A frame that declares more than any frame may hold; nothing is allocated for it.
    let mut stream = connect(&cluster);
    let _ = stream.write_all(&[&u32::MAX.to_le_bytes()[..], &[0; 4]].concat());
    until_hung_up(&stream, soon);
    // A frame whose checksum is wrong.
    let mut frame = codec::encode(&Frame::Hello(hello(Purpose::Ask)));
    frame[4] ^= 1;
    let mut stream = connect(&cluster);
    let _ = stream.write_all(&frame);
    until_hung_up(&stream, soon);
    // The wrong secret, and none: told so in a sentence.
    for secret in [Some("guessed"), None] {
        let stream = connect(&cluster);
        match handshake::dial(&stream, hello(Purpose::Peer), secret) {
            Err(WireError::Rejected(why)) => assert!(why.contains("cluster_secret"), "{why}"),
            other => panic!("{secret:?} was let in: {other:?}"),
        }
        until_hung_up(&stream, soon);
    }
    // The wrong version.
    let stream = connect(&cluster);
    let mut first = [0; 4096];
    assert!((&stream).read(&mut first).unwrap() > 0, "the node speaks first");
    codec::write_frame(&mut &stream, &Frame::Hello(Hello { protocol: 99, ..hello(Purpose::Ask) })).unwrap();
    until_hung_up(&stream, soon);
    // Silence, a half-closed connection, and one byte at a time: the deadline of 2 s ends them.
    let silent = connect(&cluster);
    let half = connect(&cluster);
    half.shutdown(Shutdown::Write).unwrap();
    let dripping = connect(&cluster);
    let begun = Instant::now();
    cluster.wait_until("the dripping connection is cut", Duration::from_secs(4), || {
        (&dripping).write_all(&[0]).and_then(|()| (&dripping).write_all(&[0])).is_err().then_some(())
    })?;
    assert!(begun.elapsed() <= Duration::from_secs(3), "{:?}", begun.elapsed());
    until_hung_up(&silent, soon);
    until_hung_up(&half, soon);

    // The node is the same one, serves, and has put every thread away.
    assert_eq!(cluster.process(1)?.pid(), pid);
    assert!(cluster.is_running(1));
    cluster.note("after", "y")?;
    cluster.settle()?;
    if let Some(before) = threads_before {
        cluster.wait_explained("its threads are gone", Duration::from_secs(5), || match threads_of(pid) {
            Some(now) if now > before + 2 => Err(format!("{now} threads, {before} before")),
            _ => Ok(()),
        })?;
    }
    assert!(!cluster.log(1).contains("panicked"), "{}", cluster.log(1));
    Ok(())
}

fn threads_of(pid: u32) -> Option<usize> {
    Some(std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.count())
}

#[test]
fn a_node_with_another_secret_does_not_join() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 3, &json!({"cluster_secret": "for the phalanx only"}))?;
    cluster.spawn(4, &["--set", "cluster_secret=something else"])?;
    cluster.wait_until("node 4 is told why", Duration::from_secs(20), || {
        cluster.log(4).contains("cluster_secret").then_some(())
    })?;
    let leader = cluster.wait_leader()?;
    let status = cluster.status(leader)?;
    assert_eq!(status.cluster.voters.len() + status.cluster.learners.len(), 3, "{:?}", status.cluster);
    Ok(())
}

#[test]
fn beyond_loopback_a_node_wants_a_secret() -> Result<()> {
    let mut cluster = Cluster::start(EXE, 1, &json!({"host": "0.0.0.0"}))?;
    let ended = cluster.process(1)?.wait(Duration::from_secs(5))?;
    assert_eq!(ended.code(), Some(2), "{}", cluster.log(1));
    assert!(cluster.log(1).contains("cluster_secret"), "{}", cluster.log(1));
    Ok(())
}
