//! The front door: clients spread evenly over workers, and the door stays open while leaders die.

use crate::EXE;
use phalanx::lab::web::{self, Connection};
use phalanx::lab::{Cluster, Result, poll};
use phalanx::node::views::status::{Liveness, Status};
use serde_json::json;
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Knocks at the front door and follows it to an open monitor page.
fn visit(front: &str) -> (String, Connection) {
    let redirect = web::get(front, "/", Duration::from_secs(5)).unwrap();
    assert_eq!(redirect.status, 307, "{}", redirect.text());
    let to = redirect.header("location").unwrap().trim_start_matches("http://").trim_end_matches('/').to_string();
    let mut page = Connection::open(&to, Duration::from_secs(5)).unwrap();
    page.send("GET", "/", None).unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    assert_eq!(page.head(deadline).unwrap().status, 200);
    assert!(page.chunk(deadline).unwrap().is_some(), "the page comes in the first chunk");
    (to, page)
}

/// By then the averages of the load have forgotten the start.
const STARTED_FOR_MS: u64 = 6000;

#[test]
fn two_hundred_clients_are_spread_evenly_over_four_workers() -> Result<()> {
    let cluster = Cluster::ready(EXE, 5, &json!({}))?;
    let leader = cluster.settle()?;
    let front = cluster.front();
    for round in 0..4 {
        // Every door must know all workers, and have heard that what was closed is no load any more: news travels by
        // gossip, to two random nodes at a time.
        cluster.wait_explained("every door knows five idle nodes", Duration::from_secs(20), || {
            let all = cluster.statuses();
            // The processor time of a start is load as well, for some seconds after the first second, and differs by node.
            if all.values().any(|s| s.node.uptime_ms < STARTED_FOR_MS) {
                return Err("a node has just started".into());
            }
            let known = |s: &Status| s.nodes.iter().filter(|n| n.status != Liveness::Offline).count();
            if all.len() < 5 || all.values().any(|s| known(s) < 5) {
                return Err(format!("known: {:?}", all.values().map(known).collect::<Vec<_>>()));
            }
            let loads: Vec<u64> = all.values().flat_map(|s| s.nodes.iter().map(|n| n.load)).collect();
            if loads.iter().all(|l| *l <= 1) { Ok(()) } else { Err(format!("{loads:?}")) }
        })?;
        let pages = Mutex::new(Vec::new());
        let begun = Instant::now();
        std::thread::scope(|scope| {
            // Eight visitors at a time, 25 waves, a second apart in all where the machine keeps up.
            for thread in 0..8 {
                let (front, pages) = (&front, &pages);
                scope.spawn(move || {
                    for wave in 0..25 {
                        poll::pause_until(begun + Duration::from_millis(36 * wave + thread * 4));
                        let page = visit(front);
                        pages.lock().unwrap().push(page);
                    }
                });
            }
        });
        let took = begun.elapsed();
        let pages = pages.into_inner().unwrap();
        let mut per_worker: BTreeMap<&str, i64> = BTreeMap::new();
        for (to, _) in &pages {
            *per_worker.entry(to).or_default() += 1;
        }
        eprintln!("round {round}: {took:?} {per_worker:?}");
        assert_eq!(per_worker.len(), 4, "four workers, not the leader {leader}: {per_worker:?}");
        assert!(!per_worker.contains_key(cluster.http(leader).as_str()), "{per_worker:?}");
        assert!(per_worker.values().all(|n| (48..=52).contains(n)), "each within two of the mean: {per_worker:?}");
        // The nodes agree: load is what is open.
        cluster.wait_explained("the leader sees the load", Duration::from_secs(5), || {
            let rows = cluster.status(leader).map_err(|e| e.to_string())?.nodes;
            let loads: Vec<u64> = rows.iter().filter(|n| n.id.0 != leader).map(|n| n.load).collect();
            if loads.iter().all(|l| (48..=53).contains(l)) { Ok(()) } else { Err(format!("{loads:?}")) }
        })?;
        drop(pages);
    }
    Ok(())
}

/// The system would let the nodes of any cluster share the port, and spread the clients of both over both.
#[test]
fn a_second_cluster_on_the_same_front_port_is_refused_by_name() -> Result<()> {
    let first = Cluster::ready(EXE, 2, &json!({"cluster_name": "the first"}))?;
    let port: u16 = first.front().rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap();
    let mut second = Cluster::prepare(EXE, &json!({}))?;
    let own_port = use_front(&second, &port.into());
    for id in 1..=3 {
        second.spawn(id, &[])?;
    }
    // Each of them, and no cluster is created: the node that did could not start, and the others would wait for it.
    for id in 1..=3 {
        let ended = second.process(id)?.wait(Duration::from_secs(15))?;
        let log = second.log(id);
        assert_eq!(ended.code(), Some(2), "{log}");
        assert!(log.contains("belongs to another cluster") && log.contains("\"the first\""), "{log}");
        assert!(log.contains("service_port") && !log.contains("created cluster"), "{log}");
    }
    assert!(!second.config_path().exists());
    for _ in 0..20 {
        let answer =
            web::get(&first.front(), "/livez", Duration::from_secs(5)).map_err(phalanx::lab::LabError::io("knock"))?;
        let to = answer.header("location").unwrap_or_default().to_string();
        assert!((1..=2).any(|id| to == format!("http://{}/livez", first.http(id))), "{to}");
    }
    // What the message says helps: nothing stands in the way afterwards.
    use_front(&second, &own_port);
    for id in 1..=3 {
        second.spawn(id, &[])?;
    }
    second.settle()?;
    // A node that has a cluster is refused before it says anything to anybody.
    second.kill_all();
    use_front(&second, &port.into());
    second.spawn(1, &[])?;
    assert_eq!(second.process(1)?.wait(Duration::from_secs(15))?.code(), Some(2), "{}", second.log(1));
    // A port that another program keeps for itself: the rule of the system is named.
    let alone = TcpListener::bind("127.0.0.1:0").unwrap();
    use_front(&second, &alone.local_addr().unwrap().port().into());
    second.spawn(1, &[])?;
    let ended = second.process(1)?.wait(Duration::from_secs(15))?;
    let log = second.log(1);
    assert_eq!(ended.code(), Some(1), "{log}");
    assert!(log.contains("a port can be shared only by processes of one user"), "{log}");

    // Two clusters that started at the same moment: the nodes that run find out. A stand-in for the other one's nodes
    // answers almost every question, as the system spreads them over all that listen.
    let other = stand_in_front(port, "the other");
    cluster_says_shared(&first, &other)
}

/// Listens at a front door that others share, as many nodes of another cluster would; its id.
fn stand_in_front(port: u16, name: &str) -> String {
    const LISTENERS: usize = 40;
    let id = "0bad0bad-0000-4000-8000-000000000000";
    let body = json!({"cluster": id, "name": name}).to_string();
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    for _ in 0..LISTENERS {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], port)).into()).unwrap();
        socket.listen(16).unwrap();
        let (listener, answer) = (TcpListener::from(socket), answer.clone());
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let _ = stream.read(&mut [0; 1024]);
                let _ = stream.write_all(answer.as_bytes());
            }
        });
    }
    id.to_string()
}

/// A running node warns, in its log and its events.
fn cluster_says_shared(cluster: &Cluster, other: &str) -> Result<()> {
    let said = format!("the front door {} is shared with another cluster, \"the other\" ({other})", cluster.front());
    cluster.wait_explained("a node says that its front door is shared", Duration::from_secs(30), || {
        let events = cluster.get(1, "/v1/events").map_err(|e| e.to_string())?.json();
        let is_told = |event: &serde_json::Value| event["text"].as_str().is_some_and(|text| text.starts_with(&said));
        let is_event = events["events"].as_array().unwrap().iter().any(is_told);
        if is_event && cluster.log(1).contains(&said) { Ok(()) } else { Err(events.to_string()) }
    })
}

/// Gives a cluster another front door; the one that it had.
fn use_front(cluster: &Cluster, port: &serde_json::Value) -> serde_json::Value {
    let path = cluster.settings_path();
    let mut settings: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let before = std::mem::replace(&mut settings["service_port"], port.clone());
    std::fs::write(path, settings.to_string()).unwrap();
    before
}

#[test]
fn the_door_stays_open_while_leaders_are_elected() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 5, &json!({}))?;
    let stop = Arc::new(AtomicBool::new(false));
    let (should_stop, front) = (stop.clone(), cluster.front());
    let knocker = std::thread::spawn(move || {
        let (mut sent, mut away, mut cut) = (0, 0, 0);
        while !should_stop.load(Ordering::Relaxed) {
            match web::get(&front, "/livez", Duration::from_secs(2)) {
                Ok(answer) if answer.status == 307 => sent += 1,
                Ok(answer) if answer.status == 503 => {
                    assert!(answer.header("retry-after").is_some(), "503 without Retry-After");
                    away += 1;
                }
                Ok(answer) => panic!("the front door answered {}: {}", answer.status, answer.text()),
                Err(e) if e.kind() == ErrorKind::ConnectionRefused => panic!("the front door is shut"),
                // What waited at a killed node's own listener goes down with it; that is a handful, not an outage.
                Err(_) => cut += 1,
            }
            poll::pause(Duration::from_millis(1));
        }
        (sent, away, cut)
    });
    for _ in 0..3 {
        let leader = cluster.settle()?;
        cluster.kill(leader)?;
        cluster.wait_other_leader(leader)?;
        cluster.restart(leader)?;
    }
    cluster.settle()?;
    stop.store(true, Ordering::Relaxed);
    let (sent, away, cut) = knocker.join().expect("the door was shut (above)");
    eprintln!("{sent} sent on, {away} told to come again, {cut} cut off");
    assert!(sent > 50 && cut <= 30, "{sent} sent on, {away} told to come again, {cut} cut off");
    Ok(())
}

#[test]
fn without_a_quorum_the_door_still_leads_to_whoever_lives() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 3, &json!({"takeover_after_ms": 0}))?;
    let survivor = cluster.settle()?;
    for id in (1..=3).filter(|id| *id != survivor) {
        cluster.kill(id)?;
    }
    // Nobody can write now, but the monitor page says so: that is where visitors are sent. 503 is for nobody at all.
    cluster.wait_explained("the door leads to the survivor", Duration::from_secs(5), || {
        let answer = web::get(&cluster.front(), "/livez", Duration::from_secs(1)).map_err(|e| e.to_string())?;
        match (answer.status, answer.header("location"), answer.header("retry-after")) {
            (307, Some(to), _) if to == format!("http://{}/livez", cluster.http(survivor)) => Ok(()),
            (503, _, Some(_)) | (307, Some(_), _) => Err(format!("{answer:?}")),
            _ => panic!("neither a redirect nor a proper refusal: {answer:?}"),
        }
    })?;
    let refused = cluster.post(survivor, "/v1/kv/x", &json!({"incr": 1}))?;
    assert!(matches!(refused.status, 503 | 504), "a write without a quorum: {} {}", refused.status, refused.text());
    Ok(())
}

/// Its share of the front door stays with a node that was removed: the clients who get there are sent on to members.
#[test]
fn a_removed_node_redirects_no_client_to_itself() -> Result<()> {
    let cluster = Cluster::ready(EXE, 4, &json!({}))?;
    let leader = cluster.settle()?;
    let gone = (1..=4).find(|id| *id != leader).unwrap();
    let path = format!("/v1/members/{gone}");
    let mut connection = Connection::open(&cluster.http(leader), Duration::from_secs(5)).unwrap();
    let answer = connection.ask("DELETE", &path, None, Instant::now() + Duration::from_secs(10)).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    cluster.wait_explained("the removed node knows", Duration::from_secs(10), || {
        let status = cluster.status(gone).map_err(|e| e.to_string())?;
        let reasons = status.cluster.reasons.join("; ");
        if reasons.contains("was removed from the cluster") { Ok(()) } else { Err(reasons) }
    })?;
    let members = |to: &str| (1..=4).any(|id| id != gone && id != leader && cluster.http(id) == to);
    // Which door takes a connection is the kernel's choice: of so many, each gets some.
    cluster.wait_explained("no door sends anyone to the removed node or to the leader", Duration::from_secs(10), || {
        for _ in 0..60 {
            let answer = web::get(&cluster.front(), "/livez", Duration::from_secs(5)).map_err(|e| e.to_string())?;
            let to = answer.header("location").unwrap_or_default().trim_start_matches("http://").to_string();
            let to = to.split('/').next().unwrap_or_default().to_string();
            if !members(&to) {
                return Err(format!("sent to {to:?}, removed is {}", cluster.http(gone)));
            }
        }
        Ok(())
    })
}

/// Waits until so many nodes have descriptors of the front door of this one: each holds a connection to it.
fn wait_for_neighbours(cluster: &Cluster, id: u64, count: usize) -> Result<()> {
    let name = format!("/{}/{id}", cluster.front().rsplit(':').next().unwrap());
    cluster.wait_until("the other nodes have its descriptors", Duration::from_secs(10), || {
        let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
        // Beside the connections there is the one that listens.
        (sockets.lines().filter(|line| line.ends_with(&name)).count() > count).then_some(())
    })
}

/// The kernel gives a frozen node its share of the clients of the port that all share: the other nodes take them.
#[test]
fn clients_of_a_frozen_nodes_door_are_taken_by_the_others() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 3, &json!({"jobs_enabled": false}))?;
    let leader = cluster.settle()?;
    let frozen = (1..=3).find(|id| *id != leader).unwrap();
    wait_for_neighbours(&cluster, frozen, 2)?;
    for signal in ["freeze", "kill"] {
        match signal {
            "freeze" => cluster.freeze(frozen)?,
            _ => cluster.kill_now(frozen)?,
        }
        let begun = Instant::now();
        let (mut slowest, mut lost) = (Duration::ZERO, 0);
        for n in 0..60 {
            let at = Instant::now();
            match web::get(&cluster.front(), "/livez", Duration::from_secs(10)) {
                Ok(answer) => assert_eq!(answer.status, 307, "client {n}: {}", answer.text()),
                // What waited at the door of a process that is killed may be cut off.
                Err(_) if signal == "kill" => lost += 1,
                Err(e) => panic!("client {n} after {:?}: {e}", begun.elapsed()),
            }
            slowest = slowest.max(at.elapsed());
        }
        println!("{signal}: sixty clients, the slowest answered after {slowest:?}, {lost} cut off");
        assert!(slowest < Duration::from_secs(3) && lost <= 3, "{signal}: {slowest:?}, {lost} cut off");
        if signal == "freeze" {
            cluster.thaw(frozen)?;
            cluster.settle()?;
        }
    }
    cluster.restart(frozen)?;
    cluster.settle()?;
    wait_for_neighbours(&cluster, frozen, 2)?;
    cluster.freeze(frozen)?;
    // The descriptors of the new process, not those of the one that was killed.
    for n in 0..60 {
        let answer = web::get(&cluster.front(), "/livez", Duration::from_secs(10));
        assert!(answer.as_ref().is_ok_and(|answer| answer.status == 307), "client {n}: {answer:?}");
    }
    cluster.thaw(frozen)
}
