//! The hosts themselves: what is cut, delayed and lost is, and nothing of them stays.

use super::is_apart;
use crate::EXE;
use phalanx::lab::hosts::{Hosts, Link, OWN_PORT};
use phalanx::lab::process::Process;
use phalanx::lab::{Result, poll};
use phalanx::node::views::status::Liveness;
use serde_json::json;
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

/// Sends back each datagram.
const ECHO: &str = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', 7))\n\
                    while True: s.sendto(*s.recvfrom(2000))";

#[test]
fn links_are_cut_delayed_and_lossy_as_configured() -> Result<()> {
    if !is_apart("hosts::links::links_are_cut_delayed_and_lossy_as_configured") {
        return Ok(());
    }
    let mut hosts = Hosts::prepare(EXE, 2, &json!({}))?;
    let at = |id: u64| SocketAddr::from(([10, 77, 0, id as u8], 7));
    let connect =
        |id: u64| TcpStream::connect_timeout(&at(id), Duration::from_secs(1)).map(|_| ()).map_err(|e| e.kind());
    assert_eq!(connect(1), Err(ErrorKind::ConnectionRefused), "it is there, and nothing listens");
    hosts.link(&[OWN_PORT], &[1], Link { delay_ms: 60, ..Link::WHOLE })?;
    hosts.link(&[1], &[OWN_PORT], Link { delay_ms: 100, jitter_ms: 20, ..Link::WHOLE })?;
    let begun = Instant::now();
    assert_eq!(connect(1), Err(ErrorKind::ConnectionRefused));
    assert!(begun.elapsed() >= Duration::from_millis(160), "{:?}", begun.elapsed());
    hosts.heal()?;
    // One way is enough.
    hosts.link(&[1], &[OWN_PORT], Link::CUT)?;
    assert_eq!(connect(1), Err(ErrorKind::TimedOut));
    assert_eq!(connect(2), Err(ErrorKind::ConnectionRefused), "the other host is not concerned");
    hosts.heal()?;
    hosts.vanish(1)?;
    assert_eq!(connect(1), Err(ErrorKind::TimedOut));
    hosts.heal()?;

    let log = hosts.cluster.dir().join("echo.log");
    let echo = Process::start(hosts.command(1, "python3").args(["-c", ECHO]), &log)?;
    hosts.cluster.wait_until("the echo listens", Duration::from_secs(10), || {
        let socket = UdpSocket::bind("10.77.0.254:0").ok()?;
        socket.set_read_timeout(Some(Duration::from_millis(100))).ok()?;
        socket.send_to(b"?", at(1)).ok()?;
        socket.recv(&mut [0; 9]).ok()
    })?;
    hosts.link(&[OWN_PORT], &[1], Link { loss: 0.3, ..Link::WHOLE })?;
    let socket = UdpSocket::bind("10.77.0.254:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut returned = 0;
    for _ in 0..20 {
        for _ in 0..50 {
            socket.send_to(b"!", at(1)).unwrap();
        }
        while socket.recv(&mut [0; 9]).is_ok() {
            returned += 1;
        }
    }
    drop(echo);
    assert!((620..=780).contains(&returned), "{returned} of 1000 came back at a loss of 30 %");

    drop(hosts);
    let links = Command::new("ip").args(["-o", "link"]).output().unwrap();
    let links = String::from_utf8(links.stdout).unwrap();
    assert!(links.lines().all(|line| line.contains(": lo:")), "{links}");
    Ok(())
}

#[test]
fn five_hosts_found_one_cluster_and_go_on_without_a_leader_that_vanished() -> Result<()> {
    if !is_apart("hosts::links::five_hosts_found_one_cluster_and_go_on_without_a_leader_that_vanished") {
        return Ok(());
    }
    let mut hosts = Hosts::ready(EXE, 5, &json!({}))?;
    hosts.cluster.put("before", "x")?;
    let old = hosts.cluster.settle()?;
    hosts.vanish(old)?;
    let new = hosts.cluster.wait_other_leader(old)?;
    hosts.cluster.put("meanwhile", "y")?;
    hosts.heal()?;
    hosts.cluster.settle()?;
    // Cut off from the other hosts alone, a node still answers the test.
    let others: Vec<u64> = hosts.ids().into_iter().filter(|id| *id != new).collect();
    hosts.cut(&[new], &others)?;
    hosts.cluster.wait_other_leader(new)?;
    hosts.cluster.wait_explained("node says that it has no quorum", Duration::from_secs(10), || {
        let status = hosts.cluster.status(new).map_err(|e| e.to_string())?;
        if status.cluster.has_quorum { Err(format!("{:?}", status.cluster)) } else { Ok(()) }
    })?;
    hosts.heal()?;
    hosts.cluster.settle()?;
    Ok(())
}

/// Own ports of the connections that a node has made to peer ports at an address of `to`.
fn dialed(hosts: &mut Hosts, id: u64, to: &[u64]) -> Result<BTreeSet<String>> {
    let peers: Vec<String> = to
        .iter()
        .map(|to| match hosts.cluster.peer(*to).parse::<SocketAddr>() {
            // As the kernel prints it: the address as one number of this machine, the port as a number.
            Ok(SocketAddr::V4(at)) => format!("{:08X}:{:04X}", u32::from_ne_bytes(at.ip().octets()), at.port()),
            other => panic!("{other:?}"),
        })
        .collect();
    let pid = hosts.cluster.process(id)?.pid();
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap();
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    // Established.
    let rows = rows.filter(|row| row[3] == "01" && peers.iter().any(|peer| peer == row[2]));
    Ok(rows.map(|row| row[1].to_string()).collect())
}

/// TCP repeats what was lost ever more seldom: over a connection from before, nothing would arrive for seconds.
#[test]
fn a_host_that_was_cut_off_and_the_others_make_new_connections() -> Result<()> {
    if !is_apart("hosts::links::a_host_that_was_cut_off_and_the_others_make_new_connections") {
        return Ok(());
    }
    let mut hosts = Hosts::ready(EXE, 5, &json!({}))?;
    let leader = hosts.cluster.settle()?;
    let cut = leader % 5 + 1;
    let others: Vec<u64> = hosts.ids().into_iter().filter(|id| *id != cut).collect();
    let all = |hosts: &mut Hosts| -> Result<BTreeSet<(u64, String)>> {
        let mut all = BTreeSet::new();
        for id in &others {
            all.extend(dialed(hosts, *id, &[cut])?.into_iter().map(|port| (*id, port)));
        }
        all.extend(dialed(hosts, cut, &others)?.into_iter().map(|port| (cut, port)));
        Ok(all)
    };
    let before = all(&mut hosts)?;
    assert_eq!(before.len(), 8, "{before:?}");
    hosts.vanish(cut)?;
    hosts.cluster.wait_explained("the others know", Duration::from_secs(10), || {
        for id in &others {
            let nodes = hosts.cluster.status(*id).map_err(|e| e.to_string())?.nodes;
            if nodes.iter().any(|row| row.id.0 == cut && row.status != Liveness::Offline) {
                return Err(format!("node {id} does not"));
            }
        }
        Ok(())
    })?;
    hosts.heal()?;
    hosts.cluster.settle()?;
    poll::wait_explained("all are new", Duration::from_secs(10), || {
        let now = all(&mut hosts).map_err(|e| e.to_string())?;
        let old: Vec<_> = now.intersection(&before).collect();
        if now.len() == 8 && old.is_empty() { Ok(()) } else { Err(format!("{now:?}, of before: {old:?}")) }
    })?;
    Ok(())
}
