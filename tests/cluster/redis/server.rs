//! What hostile, broken and slow clients may do at the Redis port: each gets an error, is limited and leaves nothing
//! behind.

use crate::EXE;
use crate::redis::{Peer, Reply, encoded};
use phalanx::lab::{Cluster, Result, poll};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde_json::json;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(10);

fn one(overrides: &serde_json::Value) -> Result<Cluster> {
    Cluster::ready(EXE, 1, overrides)
}

fn connect(cluster: &Cluster) -> TcpStream {
    let stream = TcpStream::connect(cluster.kv(1)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

/// Sends bytes and reads until the node closes. A node that drops a connection with unread bytes resets it.
fn reply_to(cluster: &Cluster, bytes: &[u8]) -> String {
    let mut stream = connect(cluster);
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn threads(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().count()
}

fn resident_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() / 1024
}

#[test]
fn invalid_requests_get_the_errors_of_redis_and_are_closed() -> Result<()> {
    let cluster = one(&json!({}))?;
    let mut witness = Peer::tcp(&cluster.kv(1));
    for (bad, why) in [
        ("*2147483648\r\n", "invalid multibulk length"),
        ("*x\r\n", "invalid multibulk length"),
        ("*1\r\n$-5\r\n", "invalid bulk length"),
        ("*1\r\n$536870912\r\n", "invalid bulk length"),
        ("*1\r\n$99999999999999999999\r\n", "invalid bulk length"),
        ("*2\r\n$3\r\nGET\r\nk\r\n", "expected '$', got 'k'"),
        ("GET \"k\r\n", "unbalanced quotes in request"),
        ("GET 'k'x\r\n", "unbalanced quotes in request"),
    ] {
        let expected = format!("+PONG\r\n-ERR Protocol error: {why}\r\n");
        assert_eq!(reply_to(&cluster, format!("PING\r\n{bad}PING\r\n").as_bytes()), expected, "{bad:?}");
    }
    let endless = vec![b'x'; 70_000];
    assert_eq!(reply_to(&cluster, &endless), "-ERR Protocol error: too big inline request\r\n");
    assert_eq!(reply_to(&cluster, b"*-10\r\n*0\r\n\r\nPING\r\nQUIT\r\nPING\r\n"), "+PONG\r\n+OK\r\n");
    for http in ["POST / HTTP/1.1\r\n", "Host: localhost\r\n", "*1\r\n$4\r\npost\r\n"] {
        assert_eq!(reply_to(&cluster, format!("{http}SET k v\r\n").as_bytes()), "", "{http:?}");
    }
    assert_eq!(witness.ask("GET k"), Reply::NilBulk, "nothing behind a dropped request was carried out");
    Ok(())
}

#[test]
fn requests_may_come_in_any_pieces() -> Result<()> {
    let cluster = one(&json!({}))?;
    let mut requests = encoded(&[b"SET", b"k", b"a\r\nb"]);
    requests.extend_from_slice(b"GET k\r\n");
    requests.extend(encoded(&[b"INCR", b"n"]));
    requests.extend(encoded(&[b"NOSUCH"]));
    requests.extend(encoded(&[b"STRLEN", b"k"]));
    let expected = |n: usize| {
        format!("+OK\r\n$4\r\na\r\nb\r\n:{n}\r\n-ERR unknown command 'NOSUCH', with args beginning with: \r\n:4\r\n")
    };
    let mut stream = connect(&cluster);
    for cut in 0..=requests.len() {
        stream.write_all(&requests[..cut]).unwrap();
        stream.write_all(&requests[cut..]).unwrap();
        let expected = expected(cut + 1);
        let mut answer = vec![0; expected.len()];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(String::from_utf8_lossy(&answer), expected, "cut at {cut}");
    }
    for byte in &requests {
        stream.write_all(&[*byte]).unwrap();
    }
    let expected = expected(requests.len() + 2);
    let mut answer = vec![0; expected.len()];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(String::from_utf8_lossy(&answer), expected, "byte by byte");
    Ok(())
}

#[test]
fn a_client_without_the_password_is_refused_and_sends_little() -> Result<()> {
    let cluster = one(&json!({"client_password": "open sesame"}))?;
    let mut peer = Peer::tcp(&cluster.kv(1));
    let no_auth = Reply::Error("NOAUTH Authentication required.".into());
    for line in ["GET k", "SET k v", "PING", "INFO", "EVALSHA a 0", "MULTI", "CLIENT ID"] {
        assert_eq!(peer.ask(line), no_auth, "{line}");
    }
    assert!(peer.ask("HELLO 3").text().starts_with("NOAUTH HELLO must be called"));
    let wrong = "WRONGPASS invalid username-password pair or user is disabled. The password is the setting \
                 client_password, and no longer cluster_secret.";
    assert_eq!(peer.call(&[b"AUTH", b"open sesam"]).text(), wrong);
    assert_eq!(peer.call(&[b"AUTH", b"root", b"open sesame"]).text(), wrong);
    assert_eq!(peer.call(&[b"HELLO", b"3", b"AUTH", b"default", b"x"]).text(), wrong);
    assert_eq!(peer.ask("GET k"), no_auth);
    assert_eq!(peer.call(&[b"AUTH", b"open sesame"]), Reply::Simple("OK".into()));
    assert_eq!(peer.ask("GET k"), Reply::NilBulk);
    assert_eq!(peer.ask("RESET"), Reply::Simple("RESET".into()));
    assert_eq!(peer.ask("GET k"), no_auth);
    let hello = peer.call(&[b"HELLO", b"3", b"AUTH", b"default", b"open sesame", b"SETNAME", b"me"]);
    assert_eq!(hello.kind(), "map");
    assert_eq!(peer.ask("CLIENT GETNAME").text(), "me");

    assert_eq!(reply_to(&cluster, b"*11\r\n"), "-ERR Protocol error: unauthenticated multibulk length\r\n");
    assert_eq!(reply_to(&cluster, b"*1\r\n$16385\r\n"), "-ERR Protocol error: unauthenticated bulk length\r\n");
    assert_eq!(reply_to(&cluster, &vec![b'x'; 16385]), "-ERR Protocol error: too big inline request\r\n");
    Ok(())
}

#[test]
fn values_have_a_limit_that_costs_no_connection() -> Result<()> {
    let cluster = one(&json!({}))?;
    let mut peer = Peer::tcp(&cluster.kv(1));
    let large = vec![b'v'; 4 << 20];
    assert_eq!(peer.call(&[b"SET", b"k", &large]), Reply::Simple("OK".into()));
    assert_eq!(peer.ask("GET k"), Reply::Bulk(large.clone()));
    let too_large = [&large[..], b"x"].concat();
    let refusal = "ERR string exceeds maximum allowed size (proto-max-bulk-len)";
    assert_eq!(peer.call(&[b"SET", b"k", &too_large]).text(), refusal);
    assert_eq!(peer.call(&[b"APPEND", b"k", b"x"]).text(), refusal);
    assert_eq!(peer.call(&[b"SET", &vec![b'k'; (64 << 10) + 1], b"v"]).text(), refusal);
    assert_eq!(peer.ask("STRLEN k"), Reply::Int(4 << 20));
    Ok(())
}

#[test]
fn a_request_names_so_many_keys_and_no_more() -> Result<()> {
    let cluster = one(&json!({}))?;
    let mut peer = Peer::tcp(&cluster.kv(1));
    let names: Vec<Vec<u8>> = (0..100_001).map(|n| format!("k{n}").into_bytes()).collect();
    let command = |name: &str, each: usize, keys: usize| {
        let words = names[..keys].iter().flat_map(|name| std::iter::repeat_n(name.as_slice(), each));
        encoded(&std::iter::once(name.as_bytes()).chain(words).collect::<Vec<_>>())
    };
    let mut ask = |bytes: &[u8]| {
        peer.send(bytes).unwrap();
        peer.reply().unwrap()
    };
    let refusal = "ERR a request or transaction may name at most 100000 keys, this one names 100001: split it";
    assert_eq!(ask(&command("MSET", 2, 100_001)).text(), refusal);
    assert_eq!(ask(&encoded(&[b"DBSIZE"])), Reply::Int(0));
    assert_eq!(ask(&command("MSET", 2, 100_000)), Reply::Simple("OK".into()));
    for name in ["DEL", "UNLINK", "EXISTS", "MGET", "TOUCH"] {
        assert_eq!(ask(&command(name, 1, 100_001)).text(), refusal, "{name}");
    }
    // A transaction is counted as a whole, and a pipeline is not.
    let half = command("DEL", 1, 50_000);
    for bytes in [encoded(&[b"MULTI"]), half.clone(), half.clone(), encoded(&[b"INCR", b"n"])] {
        ask(&bytes);
    }
    assert_eq!(ask(&encoded(&[b"EXEC"])).text(), refusal);
    assert_eq!(ask(&encoded(&[b"DBSIZE"])), Reply::Int(100_000));
    // What looks through all keys sees the writes that were sent with it.
    let pipeline =
        [&encoded(&[b"SET", b"x1", b"v"])[..], &encoded(&[b"KEYS", b"x*"]), &encoded(&[b"SET", b"x2", b"v"])];
    peer.send(&pipeline.concat()).unwrap();
    let replies = [(); 3].map(|()| peer.reply().unwrap());
    assert_eq!(replies[1], Reply::Array(vec![Reply::Bulk(b"x1".to_vec())]));
    peer.send(&[&half[..], &half, &half].concat()).unwrap();
    let removed = [(); 3].map(|()| peer.reply().unwrap().int());
    assert_eq!(removed, [50_000, 0, 0]);
    Ok(())
}

/// Asks for 2,000 MiB, and reads none of it.
fn deaf_client(cluster: &Cluster) -> TcpStream {
    let mut deaf = connect(cluster);
    deaf.write_all(&b"GET big\r\n".repeat(2000)).unwrap();
    deaf
}

/// A client that does not read costs the node no more than a bounded buffer, and nobody else any time. One that reads
/// slowly gets everything, in order.
#[test]
fn slow_readers_are_bounded_and_delay_no_other() -> Result<()> {
    let mut cluster = one(&json!({}))?;
    let pid = cluster.process(1)?.pid();
    let mut witness = Peer::tcp(&cluster.kv(1));
    let value = vec![b'v'; 1 << 20];
    witness.call(&[b"SET", b"big", &value]);

    let _deaf = deaf_client(&cluster);
    let mut slow = connect(&cluster);
    slow.write_all(&encoded(&[b"PING"])).unwrap();
    slow.read_exact(&mut [0; 7]).unwrap();
    slow.write_all(&b"GET big\r\nINCR slow\r\n".repeat(40)).unwrap();
    let mut slowest = Duration::ZERO;
    let mut buffer = vec![0; 256 << 10];
    let mut taken = Vec::new();
    let all =
        40 * (value.len() + b"$1048576\r\n\r\n".len()) + (1..=40).map(|n| format!(":{n}\r\n").len()).sum::<usize>();
    while taken.len() < all {
        let asked = Instant::now();
        assert_eq!(witness.ask("SET witness v"), Reply::Simple("OK".into()));
        slowest = slowest.max(asked.elapsed());
        let read = slow.read(&mut buffer).unwrap();
        assert!(read > 0, "closed after {} of {all} bytes", taken.len());
        taken.extend_from_slice(&buffer[..read]);
        poll::pause(Duration::from_millis(5));
    }
    assert!(taken.ends_with(b":40\r\n"), "in order to the end");
    assert!(slowest < Duration::from_secs(1), "another client waited {slowest:?}");
    let resident = resident_mib(pid);
    assert!(resident < 400, "{resident} MiB resident");
    Ok(())
}

#[test]
fn clients_that_do_not_read_and_half_requests_have_a_deadline() -> Result<()> {
    let cluster = one(&json!({}))?;
    let mut witness = Peer::tcp(&cluster.kv(1));
    witness.call(&[b"SET", b"big", &vec![b'v'; 1 << 20]]);

    let begun = Instant::now();
    let mut half = connect(&cluster);
    half.write_all(b"*2\r\n$3\r\nGET\r\n$5\r\nab").unwrap();
    let mut dripping = connect(&cluster);
    dripping.write_all(b"*2\r\n$3\r\nGET\r\n$60000\r\n").unwrap();

    let mut deaf = deaf_client(&cluster);
    let mut buffer = [0; 1];
    let mut gone = 0;
    let reset = poll::wait_until("the deaf client is closed", Duration::from_secs(25), || {
        deaf.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        // Looks without reading much: a byte now and then must not keep it alive.
        match deaf.read(&mut buffer) {
            Ok(1..) => {
                gone += 1;
                witness.ask("PING");
                let listed = witness.ask("CLIENT LIST").text();
                let port = deaf.local_addr().unwrap().port();
                (!listed.contains(&format!(":{port} "))).then_some(())
            }
            Ok(0) => Some(()),
            Err(e) => (e.kind() != std::io::ErrorKind::WouldBlock).then_some(()),
        }
    });
    assert!(reset.is_ok(), "{reset:?} after {gone} bytes");
    // The half requests are closed by their total deadline, however they drip.
    poll::wait_until("the half request is closed", Duration::from_secs(40), || {
        let _ = dripping.write_all(b"x");
        half.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        matches!(half.read(&mut buffer), Ok(0)).then_some(())
    })?;
    assert!(begun.elapsed() > Duration::from_secs(25), "too early: {:?}", begun.elapsed());
    poll::wait_until("the dripping request is closed", Duration::from_secs(5), || {
        dripping.write_all(b"x").is_err().then_some(())
    })?;
    assert_eq!(witness.ask("PING"), Reply::Simple("PONG".into()));
    Ok(())
}

/// What a node's metrics say.
fn metric(cluster: &Cluster, name: &str) -> u64 {
    let mut stream = TcpStream::connect(cluster.http(1)).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().parse::<f64>().unwrap() as u64
}

#[test]
fn all_clients_together_have_one_memory_budget() -> Result<()> {
    const BUDGET: u64 = 32 << 20;
    let cluster = one(&json!({"memory_budget_mb": 32}))?;
    let used = || metric(&cluster, "phalanx_memory_used_bytes");
    let mut witness = Peer::tcp(&cluster.kv(1));
    let value = vec![b'v'; 1 << 20];
    assert_eq!(witness.call(&[b"SET", b"k", &value.repeat(4)]), Reply::Simple("OK".into()));

    // Transactions that are never carried out.
    let mut open: Vec<Peer> = (0..60).map(|_| Peer::tcp(&cluster.kv(1))).collect();
    let mut refused = Vec::new();
    for (place, peer) in open.iter_mut().enumerate() {
        peer.ask("MULTI");
        match peer.call(&[b"SET", b"q", &value]) {
            Reply::Error(why) => {
                assert!(why.starts_with("BUSY ") && why.contains("memory_budget_mb"), "{why}");
                refused.push(place);
            }
            queued => assert_eq!(queued, Reply::Simple("QUEUED".into())),
        }
    }
    assert!((36..=45).contains(&refused.len()), "{refused:?}");
    assert!(used() <= BUDGET, "{}", used());
    assert_eq!(witness.ask("SET a b"), Reply::Simple("OK".into()));
    assert_eq!(witness.ask("GET a"), Reply::Bulk(b"b".to_vec()));
    assert!(matches!(witness.ask("GET k"), Reply::Error(why) if why.starts_with("BUSY ")), "it is too large now");
    for place in refused {
        let peer = &mut open[place];
        // A command that found no room while it arrived ends its connection; one that was whole spoils its transaction.
        match peer.send(b"EXEC\r\n").and_then(|()| peer.reply()) {
            Ok(Reply::Error(why)) => assert!(why.starts_with("EXECABORT"), "{why}"),
            Ok(other) => panic!("carried out: {other:?}"),
            Err(_) => {}
        }
    }
    assert_eq!(open[0].ask("DISCARD"), Reply::Simple("OK".into()));
    drop(open);
    poll::wait_until("it is given back", SOON, || (used() < 1 << 20).then_some(()))?;

    // Readers that take nothing.
    let refused = metric(&cluster, "phalanx_memory_refused_total");
    let slow: Vec<TcpStream> = (0..20)
        .map(|_| {
            let mut stream = connect(&cluster);
            stream.write_all(&b"GET k\r\n".repeat(100)).unwrap();
            stream
        })
        .collect();
    poll::wait_until("the budget is felt", SOON, || {
        assert!(used() <= BUDGET, "{}", used());
        (metric(&cluster, "phalanx_memory_refused_total") > refused + 5).then_some(())
    })?;
    assert_eq!(witness.ask("GET a"), Reply::Bulk(b"b".to_vec()));
    drop(slow);
    poll::wait_until("it is given back", SOON, || (used() < 1 << 20).then_some(()))?;
    assert_eq!(witness.ask("GET k").kind(), "bulk");
    Ok(())
}

#[test]
fn clients_of_other_protocols_are_disconnected() -> Result<()> {
    let cluster = one(&json!({"client_password": "open sesame"}))?;
    let silent = connect(&cluster);
    let mut chatty = connect(&cluster);
    let mut friend = Peer::tcp(&cluster.kv(1));
    assert_eq!(friend.call(&[b"AUTH", b"open sesame"]), Reply::Simple("OK".into()));
    let since = Instant::now();
    poll::wait_until("who goes on without the password is closed", SOON * 2, || {
        chatty
            .write_all(b"HELLO\r\n")
            .and_then(|()| chatty.read(&mut [0; 4096]))
            .map_or(Some(()), |read| (read == 0).then_some(()))
    })?;
    assert!(since.elapsed() > Duration::from_secs(5), "it has time to name it");
    let mut rest = Vec::new();
    (&silent).read_to_end(&mut rest).unwrap();
    assert_eq!(friend.ask("SET a b"), Reply::Simple("OK".into()));
    Ok(())
}

#[test]
fn clients_that_vanish_leave_nothing_behind() -> Result<()> {
    let mut cluster = one(&json!({}))?;
    let pid = cluster.process(1)?.pid();
    let mut witness = Peer::tcp(&cluster.kv(1));
    witness.call(&[b"SET", b"k", &vec![b'v'; 100_000]]);
    let before = threads(pid);
    for round in 0..60 {
        let mut stream = connect(&cluster);
        match round % 4 {
            0 => {}
            1 => stream.write_all(b"*2\r\n$3\r\nGE").unwrap(),
            2 => stream.write_all(&b"GET k\r\n".repeat(50)).unwrap(),
            _ => {
                stream.write_all(&b"INCR n\r\n".repeat(50)).unwrap();
                stream.shutdown(std::net::Shutdown::Write).unwrap();
                let mut answers = String::new();
                stream.read_to_string(&mut answers).unwrap();
                assert_eq!(answers.lines().count(), 50, "an early end of input still gets its answers");
            }
        }
    }
    poll::wait_explained("their threads have ended", SOON, || match threads(pid) {
        now if now <= before => Ok(()),
        now => Err(format!("{now} threads, {before} before")),
    })?;
    assert_eq!(witness.ask("GET n"), Reply::Bulk(b"750".to_vec()));
    // They count as load, and go with the connection.
    let redis = |cluster: &Cluster| {
        let status = cluster.status(1).ok()?;
        Some(status.sessions.iter().filter(|session| session.kind == "redis").count())
    };
    poll::wait_until("one session is left", SOON, || (redis(&cluster) == Some(1)).then_some(()))?;
    Ok(())
}

#[test]
fn connections_have_a_limit_and_descriptors_may_run_out() -> Result<()> {
    let mut cluster = one(&json!({"connections_max": 16}))?;
    let full = "-ERR max number of clients reached\r\n";
    let mut held: Vec<Peer> = Vec::new();
    let refused = poll::wait_until("one too many is told", SOON, || {
        let mut peer = Peer::tcp(&cluster.kv(1));
        match peer.ask("PING") {
            Reply::Error(why) => Some(why),
            _ => {
                held.push(peer);
                None
            }
        }
    })?;
    assert!(full.contains(&refused) && (10..=16).contains(&held.len()), "{refused} after {}", held.len());
    drop(held);
    poll::wait_until("there is room again", SOON, || {
        let mut stream = connect(&cluster);
        stream.write_all(b"PING\r\nQUIT\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        (answer == "+PONG\r\n+OK\r\n").then_some(())
    })?;

    let pid = cluster.process(1)?.pid();
    let raw = Pid::from_raw(pid.try_into().unwrap());
    // The node inherited its limits from this process.
    let usual = getrlimit(Resource::Nofile);
    // The node still closes the connections above, so a count of what is open may allow too much: then it is taken again.
    poll::wait_until("the limit is felt", SOON, || {
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as u64;
        prlimit(raw, Resource::Nofile, Rlimit { current: Some(open + 3), ..usual }).unwrap();
        let mut held: Vec<Peer> = Vec::new();
        for _ in 0..8 {
            let mut peer = Peer::tcp(&cluster.kv(1));
            if peer.send(b"PING\r\n").is_ok() && peer.reply().is_ok_and(|reply| reply.kind() == "simple") {
                held.push(peer);
            }
        }
        (held.len() < 8).then_some(())
    })?;
    prlimit(raw, Resource::Nofile, usual).unwrap();
    poll::wait_until("the door serves again", SOON, || {
        let mut stream = connect(&cluster);
        stream.write_all(b"PING\r\nQUIT\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        (answer == "+PONG\r\n+OK\r\n").then_some(())
    })?;
    Ok(())
}

#[test]
fn a_taken_port_is_named_with_the_setting_that_moves_it() -> Result<()> {
    let mut cluster = Cluster::prepare(EXE, &json!({}))?;
    let taken = TcpListener::bind(cluster.kv(1)).unwrap();
    cluster.spawn(1, &[])?;
    poll::wait_until("the node gives up", SOON, || (!cluster.is_running(1)).then_some(()))?;
    let log = cluster.log(1);
    let address = taken.local_addr().unwrap();
    assert!(log.contains(&format!("port {address} (Redis protocol) cannot be used")), "{log}");
    assert!(log.contains("change kv_port_base in settings.json"), "{log}");
    Ok(())
}

#[test]
fn a_stopping_node_answers_what_it_has_read_and_says_goodbye() -> Result<()> {
    let mut cluster = one(&json!({}))?;
    let mut idle: Vec<TcpStream> = (0..20).map(|_| connect(&cluster)).collect();
    let mut busy = connect(&cluster);
    busy.write_all(&b"INCR n\r\n".repeat(2000)).unwrap();
    let mut first = [0; 4];
    busy.read_exact(&mut first).unwrap();
    let begun = Instant::now();
    cluster.interrupt(1)?;
    let mut answers = String::from_utf8_lossy(&first).into_owned();
    busy.read_to_string(&mut answers).unwrap();
    assert!(answers.lines().enumerate().all(|(n, line)| line == format!(":{}", n + 1)), "whole answers, in order");
    for stream in &mut idle {
        assert_eq!(stream.read(&mut [0; 16]).unwrap(), 0, "told that nothing more comes");
    }
    poll::wait_until("the node has stopped", SOON, || (!cluster.is_running(1)).then_some(()))?;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(!cluster.log(1).contains("did not close in time"), "{}", cluster.log(1));
    Ok(())
}

#[test]
fn the_door_tells_about_its_cluster() -> Result<()> {
    let cluster = one(&json!({}))?;
    let mut peer = Peer::tcp(&cluster.kv(1));
    let address = cluster.kv(1);
    assert_eq!(peer.ask("LEADER"), Reply::Array(vec![Reply::Int(1), Reply::Bulk(address.clone().into())]));
    assert_eq!(peer.ask("RAFT LEADER").text(), address);
    assert!(peer.ask("RAFT INFO").text().contains("voters:1\r\n"));
    assert!(peer.ask("PHALANX STATUS").text().contains("node 1 LEADER leader voter"));
    let json: serde_json::Value = serde_json::from_str(&peer.ask("PHALANX STATUS JSON").text()).unwrap();
    assert_eq!(json["cluster"]["leader"], 1);
    assert_eq!(peer.ask("CONSISTENCY").text(), "strong");
    assert_eq!(peer.ask("CONSISTENCY EVENTUAL").text(), "OK");
    assert_eq!((peer.ask("SET e 1").text(), peer.ask("INCR e").int()), ("OK".to_string(), 2));
    assert_eq!(peer.ask("CONSISTENCY nonsense").kind(), "error");
    assert_eq!(peer.ask("CONSISTENCY strong").text(), "OK");
    assert_eq!(peer.ask("GET e").text(), "2");

    assert_eq!(peer.ask("CAS e 1 x"), Reply::Int(0));
    assert_eq!(peer.ask("CAS e 2 x"), Reply::Int(1));
    assert_eq!(peer.ask("CAS nothing a b"), Reply::Int(0));
    let token = peer.ask("LOCK.ACQUIRE l 60000").int();
    assert_eq!(peer.ask("LOCK.ACQUIRE l 60000"), Reply::NilBulk);
    assert_eq!(peer.ask(&format!("LOCK.RENEW l {token} 60000")), Reply::Int(1));
    assert_eq!(peer.ask(&format!("LOCK.RENEW l {} 60000", token + 1)), Reply::Int(0));
    assert!(matches!(peer.ask("LOCK.INFO l"), Reply::Array(info) if info[0] == Reply::Int(token)));
    assert_eq!(peer.ask(&format!("LOCK.RELEASE l {token}")), Reply::Int(1));
    assert!(peer.ask("LOCK.ACQUIRE l 60000").int() > token, "tokens grow");

    // Pages of a SCAN over more keys than one page holds, while others are written.
    for n in 0..300 {
        peer.ask(&format!("SET scan:{n} v"));
    }
    let (mut cursor, mut seen) = ("0".to_string(), std::collections::BTreeSet::new());
    loop {
        let Reply::Array(page) = peer.ask(&format!("SCAN {cursor} MATCH scan:* COUNT 17")) else { panic!("no page") };
        let Reply::Array(keys) = &page[1] else { panic!("no keys") };
        seen.extend(keys.iter().map(Reply::text));
        peer.ask(&format!("SET other:{} v", seen.len()));
        cursor = page[0].text();
        if cursor == "0" {
            break;
        }
    }
    assert_eq!(seen.len(), 300);
    Ok(())
}

/// Redis keeps the replies to a pipeline whose client writes all of it before it reads; so does a node, although the
/// client takes longer than a slow reader may.
#[test]
fn a_pipeline_may_be_sent_before_its_replies_are_read() -> Result<()> {
    let cluster = one(&json!({}))?;
    let mut stream = connect(&cluster);
    let value = vec![b'v'; 1000];
    let mut piece = Vec::new();
    for _ in 0..4000 {
        piece.extend(encoded(&[b"SET", b"k", &value]));
    }
    for _ in 0..1500 {
        piece.extend(encoded(&[b"GET", b"k"]));
    }
    let begun = Instant::now();
    for _ in 0..20 {
        stream.write_all(&piece).unwrap();
        poll::pause(Duration::from_millis(800));
    }
    assert!(begun.elapsed() > Duration::from_secs(15), "longer than a client may take that only reads");
    let get = [b"$1000\r\n", &value[..], b"\r\n"].concat();
    let answer = [b"+OK\r\n".repeat(4000), get.repeat(1500)].concat();
    let mut read = vec![0; answer.len()];
    for _ in 0..20 {
        stream.read_exact(&mut read).unwrap();
        assert!(read == answer);
    }
    Ok(())
}

#[test]
fn a_scan_goes_on_at_other_nodes() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 3, &json!({}))?;
    let mut peers: Vec<Peer> = (1..=3).map(|id| Peer::tcp(&cluster.kv(id))).collect();
    for n in 0..40 {
        let names: Vec<Vec<u8>> = (0..50).map(|m| format!("k{}", n * 50 + m).into_bytes()).collect();
        let words = names.iter().flat_map(|name| [name.as_slice(), b"v"]);
        peers[0].call(&std::iter::once(&b"MSET"[..]).chain(words).collect::<Vec<_>>());
    }
    let page = |peer: &mut Peer, cursor: &str| {
        let Reply::Array(page) = peer.ask(&format!("SCAN {cursor} COUNT 10")) else { panic!("no page") };
        let Reply::Array(keys) = &page[1] else { panic!("no keys") };
        (page[0].text(), keys.iter().map(Reply::text).collect::<Vec<_>>())
    };
    let (mut cursor, mut seen, mut calls) = ("0".to_string(), Vec::new(), 0);
    loop {
        let (next, keys) = page(&mut peers[calls % 3], &cursor);
        seen.extend(keys);
        calls += 1;
        if next == "0" {
            break;
        }
        assert!(calls <= 200, "{} keys after {calls} pages", seen.len());
        cursor = next;
    }
    seen.sort();
    seen.dedup();
    assert_eq!((seen.len(), calls), (2000, 200), "each key once");

    // A cursor of a node that is gone begins anew, and the scan ends.
    let (cursor, _) = page(&mut peers[2], "0");
    cluster.kill(3)?;
    let (_, keys) = page(&mut peers[0], &cursor);
    assert_eq!(keys, page(&mut peers[0], "0").1);
    Ok(())
}

#[test]
fn info_tells_the_truth_and_clients_can_be_closed() -> Result<()> {
    let cluster = one(&json!({"quota_kv_mb": 100}))?;
    let mut peer = Peer::tcp(&cluster.kv(1));
    let field = |peer: &mut Peer, section: &str, name: &str| {
        let text = peer.ask(&format!("INFO {section}")).text();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}:")).map(str::to_string));
        line.unwrap_or_else(|| panic!("no {name} in {text}"))
    };
    for line in ["SET a 1", "SET b 1 EX 100", "SET c 1 PX 100000", "SET d 1 PX 1"] {
        peer.ask(line);
    }
    poll::wait_until("one expires", SOON, || (peer.ask("EXISTS d").int() == 0).then_some(()))?;
    assert_eq!(field(&mut peer, "keyspace", "db0"), "keys=3,expires=2,avg_ttl=0");
    let used = |peer: &mut Peer| field(peer, "memory", "used_memory").parse::<u64>().unwrap();
    let before = used(&mut peer);
    peer.call(&[b"SET", b"large", &vec![b'x'; 4 << 20]]);
    poll::wait_until("the value is counted", SOON, || (used(&mut peer) > before + (3 << 20)).then_some(()))?;
    assert_eq!(field(&mut peer, "memory", "maxmemory"), (100 << 20).to_string());
    // The system counts in hundredths of a second.
    let cpu = poll::wait_until("its time is counted", SOON, || {
        let cpu = field(&mut peer, "cpu", "used_cpu_user").parse::<f64>().unwrap();
        (cpu > 0.0).then_some(cpu)
    })?;
    assert!(cpu < 600.0, "{cpu} s");

    let mut victim = Peer::tcp(&cluster.kv(1));
    let id = victim.ask("CLIENT ID").int();
    assert_eq!(peer.ask(&format!("CLIENT KILL ID {id}")), Reply::Int(1));
    let listed = peer.ask("CLIENT LIST").text();
    assert!(!listed.contains(&format!("id={id} ")) && listed.contains(" cmd=client|list "), "{listed}");
    victim.send(b"PING\r\n").and_then(|()| victim.reply()).expect_err("it is closed");
    let own = peer.ask("CLIENT ID").int();
    assert_eq!(peer.ask(&format!("CLIENT KILL ID {own}")), Reply::Int(0), "SKIPME is yes by default");
    assert_eq!(peer.ask(&format!("CLIENT KILL ID {own} SKIPME no")), Reply::Int(1));
    peer.send(b"PING\r\n").and_then(|()| peer.reply()).expect_err("it is closed after the answer");
    Ok(())
}
