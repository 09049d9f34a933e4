//! Unknown processes at the peer port: garbage, giants, the wrong secret and silence cost a connection, never the node.

use crate::EXE;
use phalanx::lab::{Cluster, Result};
use phalanx::raft::{Body, Change, Conflict, Entry, Membership, Message, Payload, Promise, Role, SnapshotMeta, Token};
use phalanx::services::Replicated;
use phalanx::services::kv::Store;
use phalanx::services::kv::{Batch, Op};
use phalanx::services::sessions::Tag;
use phalanx::types::{Addresses, Identity, Index, NodeId, NodeKind, Standing, Term};
use phalanx::wire::authentication::Key;
use phalanx::wire::codec::{self, WireError};
use phalanx::wire::datagram::Piece;
use phalanx::wire::heartbeat::{ClientRates, GossipRow, GossipTable, Load};
use phalanx::wire::{Ask, DiscoveryAnswer, Forwarded, Frame, Hello, Mismatch, PROTOCOL, Purpose, handshake};
use serde_json::json;
use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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
    Hello { protocol: PROTOCOL, cluster: None, from, addresses, opening: Vec::new(), purpose }
}

fn threads(cluster: &mut Cluster) -> Option<usize> {
    let pid = cluster.process(1).ok()?.pid();
    Some(std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.count())
}

#[test]
fn an_unknown_process_costs_a_connection_and_nothing_else() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 3, &json!({"cluster_secret": "for the phalanx and nobody else"}))?;
    cluster.put("before", "x")?;
    let pid = cluster.process(1)?.pid();
    let threads_before = threads(&mut cluster);
    // The deadline of a handshake, and a second.
    let soon = Duration::from_secs(5);

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
    let mut frame = codec::encode(&Frame::Hello(hello(Purpose::Ask))).unwrap();
    frame[4] ^= 1;
    let mut stream = connect(&cluster);
    let _ = stream.write_all(&frame);
    until_hung_up(&stream, soon);
    // The wrong secret, and none: told so in a sentence.
    for secret in [Some("guessed"), None] {
        let stream = connect(&cluster);
        match handshake::dial(&stream, hello(Purpose::Peer), None, secret.map(Key::of).as_ref()) {
            Err(WireError::Differs { what: Mismatch::Secret, .. }) => {}
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
    // Silence, a half-closed connection, and one byte at a time: the deadline of 4 s ends them.
    let silent = connect(&cluster);
    let half = connect(&cluster);
    half.shutdown(Shutdown::Write).unwrap();
    let dripping = connect(&cluster);
    let begun = Instant::now();
    cluster.wait_until("the dripping connection is cut", Duration::from_secs(6), || {
        (&dripping).write_all(&[0]).and_then(|()| (&dripping).write_all(&[0])).is_err().then_some(())
    })?;
    assert!(begun.elapsed() <= Duration::from_secs(5), "{:?}", begun.elapsed());
    until_hung_up(&silent, soon);
    until_hung_up(&half, soon);

    // The node is the same one, serves, and has put every thread away.
    assert_eq!(cluster.process(1)?.pid(), pid);
    assert!(cluster.is_running(1));
    cluster.put("after", "y")?;
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

/// The value of a row of `/metrics`.
fn metric(cluster: &Cluster, id: u64, row: &str) -> Option<u64> {
    let text = cluster.get(id, "/metrics").ok()?.text();
    let line = text.lines().find(|line| line.starts_with(row))?.to_string();
    line.rsplit(' ').next()?.parse::<f64>().ok().map(|value| value as u64)
}

/// Every kind of frame that a peer connection may carry, its numbers at an extreme.
fn frames(from: Identity, to: Identity, term: u64, number: u64) -> Vec<Frame> {
    let (index, last_term, token) = (Index(number), Term(number), Token(number));
    let entry = Entry { index: Index(number.wrapping_add(1)), term: last_term, payload: Payload::Noop };
    let conflict = Conflict { prev_index: index, hint_index: index, hint_term: last_term };
    let bodies = [
        Body::PreVote { last_index: index, last_term },
        Body::PreVoteReply { is_granted: false },
        Body::PreVoteReply { is_granted: true },
        Body::Vote { last_index: index, last_term, is_transfer: true },
        Body::VoteReply { is_granted: true },
        Body::Append { session: number, prev_index: index, prev_term: last_term, commit: index, entries: vec![entry] },
        Body::AppendReply { session: number, result: Ok(index) },
        Body::AppendReply { session: number, result: Err(conflict) },
        Body::Heartbeat { round: number, commit: index },
        Body::HeartbeatReply { round: number },
        Body::ReadIndex { token },
        Body::ReadIndexReply { token, index: Some(index) },
        Body::TimeoutNow { last_index: index },
        Body::TransferMe,
    ];
    let raft = bodies.map(|body| Frame::Raft(Message { from, to, term: Term(term), body }));
    let promise = Promise { term: Term(term), has_voted: true, index, is_broken: true };
    let tag = Tag { origin: from.uuid, number, done_below: number };
    let command = || Store::encode_command(&Batch { watched: Vec::new(), ops: vec![Op::FlushAll] });
    let addresses = hello(Purpose::Peer).addresses;
    let (cluster, members) = (Uuid::from_u128(0xbad), vec![(to.id, addresses.clone())]);
    let other = [
        Frame::Gossip(GossipTable::default()),
        // The receiver's own row, from far ahead.
        Frame::Gossip(GossipTable { rows: vec![row(to, term, number)], wall_ms: number, log_ms: Some(number) }),
        Frame::Remembered(promise),
        Frame::HandedOut(vec![(NodeId(number), u32::MAX)]),
        Frame::Forward {
            order: Some(0),
            asks: vec![
                (number, Ask::Change(Change::Remove(to.id))),
                (number, Ask::Transfer(Some(NodeId(number)))),
                (number, Ask::Command { tag, command: command(), is_accepted_enough: true }),
            ],
        },
        Frame::Pieces(vec![Piece { number, is_last: true, bytes: vec![0; 9] }]),
        Frame::Forwarded(vec![(number, Forwarded::NotLeader)]),
        Frame::DiscoveryAnswer(DiscoveryAnswer {
            cluster: Some(cluster),
            id: Some(from.id),
            term: Term(term),
            leader: Some((from.id, addresses)),
            members: members.clone(),
            holder: Some(from.uuid),
            ..DiscoveryAnswer::default()
        }),
        Frame::Joined { cluster, members, identities: vec![from] },
        Frame::SnapshotHead {
            term: Term(term),
            meta: SnapshotMeta { index, term: last_term, membership: Membership::default() },
            bytes: number,
        },
        Frame::SnapshotChunk { offset: number, bytes: vec![0xff; 100] },
        Frame::SnapshotDone { ok: true, why: String::new() },
        Frame::Probe,
        Frame::ProbeAnswer,
        Frame::Relay { from, to, frame: vec![0xff; 100] },
        Frame::Relay { from: to, to: from, frame: Vec::new() },
        Frame::Relay { from, to, frame: codec::encode_body(&Frame::Relay { from, to, frame: Vec::new() }).unwrap() },
        Frame::Relay { from, to, frame: codec::encode_body(&Frame::HandedOut(vec![(NodeId(number), 7)])).unwrap() },
    ];
    raft.into_iter().chain(other).collect()
}

/// What gossip says of a node, its numbers at an extreme.
fn row(who: Identity, term: u64, number: u64) -> GossipRow {
    GossipRow {
        held_index: Index(0),
        cut_index: Index(0),
        id: who.id,
        uuid: who.uuid,
        counter: number,
        load: Load { connections: number, requests: number, jobs: number, cpu: number },
        sessions_opened_total: number,
        role: Role::Leader,
        standing: Standing::Voter,
        term: Term(term),
        last_index: Index(number),
        promise: Promise { term: Term(term), has_voted: true, index: Index(number), is_broken: true },
        commit_index: Index(number),
        applied_index: Index(number),
        pace: ClientRates::default(),
        state: Arc::default(),
        prepared_load: number,
        jobs: Arc::default(),
        is_disk_low: true,
        pid: 1,
        addresses: hello(Purpose::Peer).addresses,
        is_ready: true,
        unreached: vec![NodeId(1), NodeId(number)],
        relayed: vec![(NodeId(1), NodeId(2)), (NodeId(number), NodeId(number))],
    }
}

/// Twice over, in an order of its own: as a network would that keeps, swaps and repeats what it carries.
fn replayed(frames: Vec<Frame>, seed: u64) -> Vec<Frame> {
    let mut all = [frames.clone(), frames].concat();
    fastrand::Rng::with_seed(seed).shuffle(&mut all);
    all
}

/// How often a member, all of which live, was looked for where nobody listens.
fn refused_members(cluster: &Cluster, id: u64) -> usize {
    let log = cluster.log(id);
    let of_members =
        |line: &&str| (1..=3).any(|peer| line.contains(&format!("peer down peer=n{peer} err=\"Connection refused")));
    log.lines().filter(of_members).count()
}

/// Terms and numbers that an attacker would try.
const EDGES: [u64; 6] = [0, 1, 1 << 32, 1 << 63, u64::MAX - 1, u64::MAX];

/// Without a secret anybody on this machine may connect. Frames of an unknown sender change nothing, and what comes in
/// a member's name cannot take the cluster to the end of all terms.
#[test]
fn frames_of_unknown_senders_and_impossible_terms_change_nothing() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 3, &json!({}))?;
    cluster.put("before", "x")?;
    let leader = cluster.settle()?;
    let statuses = cluster.statuses();
    let term = statuses[&leader].cluster.term;
    let name = statuses[&leader].cluster.id;
    let identity = |id: u64| Identity { id: NodeId(id), uuid: statuses[&id].node.uuid };
    let call = |to: u64, from: Identity, purpose: Purpose| {
        let stream = TcpStream::connect(cluster.peer(to)).unwrap();
        let hello = Hello { cluster: name, from, ..hello(purpose) };
        handshake::dial(&stream, hello, None, None).map(|_| stream)
    };

    let refused_before = [1, 2, 3].map(|id| refused_members(&cluster, id));
    let mut frames_of_unknown = 0;
    for to in 1..=3 {
        // A number of its own, and the number of every member.
        for id in [9, 1, 2, 3, 0, u64::MAX] {
            let from = Identity { id: NodeId(id), uuid: Uuid::from_u128(0xbad) };
            let stream = call(to, from, Purpose::Peer).unwrap();
            let edges = EDGES.into_iter().flat_map(|term| EDGES.map(|number| (term, number)));
            let all = edges.flat_map(|(term, number)| frames(from, identity(to), term, number)).collect();
            for frame in replayed(all, to ^ id) {
                codec::write_frame(&mut &stream, &frame).unwrap();
                frames_of_unknown += u64::from(to == leader);
            }
        }
        // In a member's name, with a term that cannot be; the first of them would have been the last.
        let from = identity(to % 3 + 1);
        let stream = call(to, from, Purpose::Peer).unwrap();
        for absurd in [u64::MAX, u64::MAX - 1, 1 << 63, (1 << 33) + term.0] {
            let all = EDGES.into_iter().flat_map(|number| frames(from, identity(to), absurd, number));
            for frame in replayed(all.filter(|frame| matches!(frame, Frame::Raft(_))).collect(), absurd) {
                codec::write_frame(&mut &stream, &frame).unwrap();
            }
        }
        // A snapshot that would replace everything.
        let from = Identity { id: NodeId(9), uuid: Uuid::from_u128(0xbad) };
        let stream = call(to, from, Purpose::Snapshot).unwrap();
        let meta = SnapshotMeta { index: Index(1 << 61), term: Term(1 << 61), membership: Membership::default() };
        let _ = codec::write_frame(&mut &stream, &Frame::SnapshotHead { term: Term(u64::MAX), meta, bytes: 1 << 60 });
        until_hung_up(&stream, Duration::from_secs(12));
        // The whole state is given to members alone.
        let stream = call(to, from, Purpose::State).unwrap();
        match codec::read_frame(&mut &stream, 1 << 20).unwrap() {
            Frame::Reject { why } => assert_eq!(why, "only members may fetch the state"),
            other => panic!("an unknown process is given {other:?}"),
        }
        // Connections of one that does not say which cluster it means.
        let stream = TcpStream::connect(cluster.peer(to)).unwrap();
        handshake::dial(&stream, Hello { from, ..hello(Purpose::Peer) }, None, None).unwrap();
        until_hung_up(&stream, Duration::from_secs(3));
    }
    let refused = "phalanx_peer_frames_refused_total{why=\"stranger\"}";
    cluster.wait_explained("all of them are counted", Duration::from_secs(20), || {
        match metric(&cluster, leader, refused) {
            Some(count) if count >= frames_of_unknown => Ok(()),
            count => Err(format!("{count:?} of {frames_of_unknown}")),
        }
    })?;
    for id in 1..=3 {
        cluster.wait_until("absurd terms are counted", Duration::from_secs(20), || {
            metric(&cluster, id, "phalanx_peer_frames_refused_total{why=\"term\"}").filter(|count| *count > 0)
        })?;
        let lines = cluster.log(id).matches("phalanx_peer_frames_refused_total").count();
        assert!((1..=6).contains(&lines), "{lines} lines about it in the log of node {id}");
        assert!(!cluster.log(id).contains("panicked"), "{}", cluster.log(id));
    }
    // The cluster is what it was, and no term was ever near those that were named. (A busy machine may hold an election.)
    let leader = cluster.settle()?;
    let now = cluster.status(leader)?.cluster.term;
    assert!(now.0 < term.0 + 100, "term {now}, it was {term}");
    cluster.put("after", "y")?;
    for id in 1..=3 {
        assert_eq!(
            refused_members(&cluster, id),
            refused_before[id as usize - 1],
            "node {id} was led away from a member"
        );
    }
    for id in 1..=3 {
        assert_eq!(cluster.status(id)?.node.uuid, statuses[&id].node.uuid);
        assert!(cluster.is_running(id));
    }
    // A member is still found when it comes back, and a new node may still ask to join.
    let away = leader % 3 + 1;
    cluster.kill(away)?;
    let as_away = Hello { cluster: name, from: identity(away), ..hello(Purpose::Peer) };
    tells_of_another_clock(&cluster, leader, as_away)?;
    cluster.spawn(away, &[])?;
    cluster.spawn(4, &[])?;
    cluster.settle()?;
    Ok(())
}

/// In the name of a member that is away, whose clock is an hour ahead: metric, event, log and status say so.
fn tells_of_another_clock(cluster: &Cluster, leader: u64, hello: Hello) -> Result<()> {
    const HOUR_MS: u64 = 3_600_000;
    let away = hello.from.id.0;
    let stream = TcpStream::connect(cluster.peer(leader)).unwrap();
    handshake::dial(&stream, hello, None, None).unwrap();
    let skew = format!("phalanx_clock_skew_seconds{{peer=\"{away}\"}}");
    let said = format!("the clock of node {away} is 3");
    cluster.wait_explained("the skew is told", Duration::from_secs(20), || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let table = GossipTable { rows: Vec::new(), wall_ms: now.as_millis() as u64 + HOUR_MS, log_ms: None };
        codec::write_frame(&mut &stream, &Frame::Gossip(table)).map_err(|e| e.to_string())?;
        let seconds = metric(cluster, leader, &skew).unwrap_or_default();
        let events = cluster.get(leader, "/v1/events").map_err(|e| e.to_string())?.json();
        let is_event = |event: &serde_json::Value| {
            event["kind"] == "clock" && event["text"].as_str().is_some_and(|text| text.starts_with(&said))
        };
        let is_told = events["events"].as_array().unwrap().iter().any(is_event);
        let rows = cluster.status(leader).map_err(|e| e.to_string())?.nodes;
        let ahead_ms = rows.iter().find(|row| row.id.0 == away).and_then(|row| row.clock_ahead_ms).unwrap_or_default();
        let is_near = (3_590..=3_610).contains(&seconds) && (3_590_000..=3_610_000).contains(&ahead_ms);
        if is_near && is_told { Ok(()) } else { Err(format!("{seconds} s, {ahead_ms} ms, {events}")) }
    })?;
    let log = cluster.log(leader);
    assert!(log.contains(&said) && log.contains("check that time synchronization (NTP) runs on both"), "{log}");
    Ok(())
}

#[test]
fn a_node_with_another_secret_does_not_join() -> Result<()> {
    let mut cluster = Cluster::prepare(EXE, &json!({"cluster_secret": "for the phalanx and nobody else"}))?;
    std::fs::set_permissions(cluster.settings_path(), PermissionsExt::from_mode(0o644)).unwrap();
    for id in 1..=3 {
        cluster.spawn(id, &[])?;
    }
    cluster.settle()?;
    let readable =
        format!("{} contains cluster_secret, but other users can read it", cluster.settings_path().display());
    assert!(cluster.log(1).contains(&format!("warning: {readable} (mode 644): chmod 600")), "{}", cluster.log(1));
    cluster.set_env("PHALANX_CLUSTER_SECRET", "something else of the same length");
    cluster.spawn(4, &[])?;
    cluster.wait_until("node 4 is told why", Duration::from_secs(20), || {
        cluster.log(4).contains("cluster_secret differs").then_some(())
    })?;
    assert!(!cluster.log(4).contains(&readable), "its secret is from the environment: {}", cluster.log(4));
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
    let log = cluster.log(1);
    assert!(log.contains("cluster_secret and client_password") && log.contains("`phalanx secret new`"), "{log}");
    Ok(())
}

/// A process that has the port of a member and not the secret: whoever calls is told that it leads, and remembers more
/// than can be.
fn pretend(
    listener: TcpListener,
    who: Identity,
    cluster: Uuid,
    addresses: Addresses,
) -> (Arc<AtomicU64>, impl FnOnce()) {
    let (calls, is_over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let (counted, over, address) = (Arc::clone(&calls), Arc::clone(&is_over), listener.local_addr().unwrap());
    let answer = move |mut stream: TcpStream, addresses: Addresses| -> std::result::Result<(), WireError> {
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        codec::write_frame(&mut stream, &Frame::Challenge { nonce: [7; 16] })?;
        let Frame::Hello(hello) = codec::read_frame(&mut stream, 1 << 16)? else { return Ok(()) };
        let remembered = Promise { term: Term(1000), has_voted: true, index: Index(1_000_000), is_broken: false };
        codec::write_frame(&mut stream, &Frame::Welcome { who, cluster: Some(cluster), remembered, datagrams: None })?;
        let members = vec![(who.id, addresses.clone())];
        match hello.purpose {
            Purpose::Ask => {
                let leader = Some((who.id, addresses));
                let (cluster, term, id) = (Some(cluster), Term(1000), Some(who.id));
                let answer = DiscoveryAnswer { cluster, id, term, leader, members, ..DiscoveryAnswer::default() };
                codec::write_frame(&mut stream, &Frame::DiscoveryAnswer(answer))?;
            }
            Purpose::Join { .. } => {
                codec::write_frame(&mut stream, &Frame::Joined { cluster, members, identities: vec![who] })?;
            }
            _ => {}
        }
        while stream.read(&mut [0; 4096])? > 0 {}
        Ok(())
    };
    let thread = std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            if over.load(Ordering::Acquire) {
                return;
            }
            counted.fetch_add(1, Ordering::Relaxed);
            let addresses = addresses.clone();
            std::thread::spawn(move || answer(stream, addresses));
        }
    });
    let end = move || {
        is_over.store(true, Ordering::Release);
        let _ = TcpStream::connect(address);
        thread.join().unwrap();
    };
    (calls, end)
}

/// While a member is down, a process without the secret listens at its port and claims to lead. Nobody gives its log up
/// for it.
#[test]
fn a_process_at_the_port_of_a_dead_member_is_not_trusted() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 3, &json!({"cluster_secret": "for the phalanx and nobody else"}))?;
    cluster.put("before", "x")?;
    let leader = cluster.settle()?;
    let statuses = cluster.statuses();
    let (away, third) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    let who = Identity { id: NodeId(away), uuid: statuses[&away].node.uuid };
    let addresses = Addresses { peer: cluster.peer(away), http: cluster.http(away), kv: cluster.kv(away) };
    cluster.kill(away)?;
    let listener = TcpListener::bind(cluster.peer(away)).unwrap();
    let (calls, end) = pretend(listener, who, statuses[&away].cluster.id.unwrap(), addresses);
    // One that runs meets it, and one that starts.
    cluster.kill(third)?;
    cluster.restart(third)?;
    let calls_of_both = Instant::now();
    cluster.wait_until("it is called", Duration::from_secs(20), || {
        (calls.load(Ordering::Relaxed) >= 20 && calls_of_both.elapsed() > Duration::from_secs(3)).then_some(())
    })?;
    cluster.wait_until("a leader", Duration::from_secs(20), || cluster.leader().filter(|id| *id != away))?;
    cluster.put("meanwhile", "y")?;
    for id in [leader, third] {
        let now = cluster.status(id)?;
        assert_eq!(now.node.uuid, statuses[&id].node.uuid, "node {id} gave its log up: {}", cluster.log(id));
        assert!(now.cluster.term < Term(1000), "term {}", now.cluster.term);
        assert!(!cluster.log(id).contains("older"), "{}", cluster.log(id));
    }
    end();
    cluster.restart(away)?;
    cluster.settle()?;
    cluster.put("after", "z")?;
    Ok(())
}

/// A log's beginning is gone: the new node is sent a snapshot, in frames with tags.
#[test]
fn a_snapshot_goes_between_nodes_that_share_a_secret() -> Result<()> {
    let mut cluster = Cluster::ready(
        EXE,
        3,
        &json!({"cluster_secret": "for the phalanx and nobody else", "snapshot_every_entries": 50}),
    )?;
    let leader = cluster.settle()?;
    let away = leader % 3 + 1;
    cluster.kill(away)?;
    cluster.wipe(away)?;
    for number in 0..200 {
        cluster.put(&format!("n{number}"), "x")?;
    }
    cluster.restart(away)?;
    let leader = cluster.settle()?;
    assert!(cluster.log(leader).contains("snapshot sent peer="), "{}", cluster.log(leader));
    cluster.put("after", "y")?;
    Ok(())
}

/// The identity of each node, and the cluster's.
fn identities(cluster: &Cluster) -> (impl Fn(u64) -> Identity + use<>, Option<Uuid>) {
    let statuses = cluster.statuses();
    let name = statuses[&1].cluster.id;
    (move |id| Identity { id: NodeId(id), uuid: statuses[&id].node.uuid }, name)
}

fn addresses(cluster: &Cluster, id: u64) -> Addresses {
    Addresses { peer: cluster.peer(id), http: cluster.http(id), kv: cluster.kv(id) }
}

/// A command that makes an entry that no frame can carry ended each leader that took it.
#[test]
fn an_invalid_forwarded_command_stops_no_node() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 3, &json!({}))?;
    let leader = cluster.settle()?;
    let pid = cluster.process(leader)?.pid();
    let (identity, name) = identities(&cluster);
    let other = leader % 3 + 1;
    let stream = TcpStream::connect(cluster.peer(leader)).unwrap();
    let hello =
        Hello { cluster: name, from: identity(other), addresses: addresses(&cluster, other), ..hello(Purpose::Peer) };
    handshake::dial(&stream, hello, None, None).unwrap();
    let tag = Tag { origin: Uuid::from_u128(7), number: 1, done_below: 1 };
    let command = vec![200; (16 << 20) - 64];
    let ask = Ask::Command { tag, command, is_accepted_enough: false };
    codec::write_frame(&mut &stream, &Frame::Forward { order: Some(0), asks: vec![(u64::MAX, ask)] }).unwrap();
    // What follows on the connection was read after it.
    codec::write_frame(&mut &stream, &Frame::SnapshotDone { ok: true, why: String::new() }).unwrap();
    until_hung_up(&stream, Duration::from_secs(20));
    cluster.put("after", "x")?;
    cluster.settle()?;
    assert_eq!(cluster.process(leader)?.pid(), pid);
    assert!(cluster.is_running(leader) && !cluster.log(leader).contains("panicked"), "{}", cluster.log(leader));
    Ok(())
}

/// Connections that stand at the peer ports, by the number of the port at the dialer's side.
fn peer_connections(cluster: &Cluster) -> BTreeSet<(u16, u16)> {
    let port = |address: &str, radix| u16::from_str_radix(address.rsplit(':').next().unwrap(), radix).unwrap();
    let peers: BTreeSet<u16> = (1..=3).map(|id| port(&cluster.peer(id), 10)).collect();
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let standing = rows.filter(|row| row[3] == "01").map(|row| (port(row[1], 16), port(row[2], 16)));
    standing.filter(|(own, _)| peers.contains(own)).collect()
}

/// Without a secret a member's name is soon said. That closes no connection of that member's, and nobody looks for it anew.
#[test]
fn claims_of_a_members_name_close_none_of_its_connections() -> Result<()> {
    let cluster = Cluster::ready(EXE, 3, &json!({}))?;
    cluster.settle()?;
    let (identity, name) = identities(&cluster);
    let before = cluster.wait_until("all links stand", Duration::from_secs(10), || {
        Some(peer_connections(&cluster)).filter(|all| all.len() == 6)
    })?;
    let begun = Instant::now();
    let (mut kept, mut claims) = (std::collections::VecDeque::new(), 0);
    cluster.wait_until("the claims are made", Duration::from_secs(20), || {
        for (to, claimed) in (1..=3).flat_map(|to| (1..=3).map(move |claimed| (to, claimed))).filter(|(a, b)| a != b) {
            let from = identity(claimed);
            let hello = Hello { cluster: name, from, addresses: addresses(&cluster, claimed), ..hello(Purpose::Peer) };
            let stream = TcpStream::connect(cluster.peer(to)).unwrap();
            if handshake::dial(&stream, hello, None, None).is_ok() {
                claims += 1;
                kept.push_back(stream);
            }
        }
        while kept.len() > 12 {
            kept.pop_front();
        }
        (begun.elapsed() > Duration::from_secs(3)).then_some(())
    })?;
    cluster.put("meanwhile", "x")?;
    let lost: Vec<_> = before.difference(&peer_connections(&cluster)).copied().collect();
    assert!(claims > 30 && lost.is_empty(), "{claims} claims closed {lost:?} of {before:?}");
    drop(kept);
    cluster.put("after", "y")?;
    Ok(())
}

/// Asks the leader to join under this number, as somebody who listens nowhere.
fn ask_to_join(cluster: &Cluster, leader: u64, name: Option<Uuid>, id: u64) -> Frame {
    let stream = TcpStream::connect(cluster.peer(leader)).unwrap();
    let from = Identity { id: NodeId(id), uuid: Uuid::new_v4() };
    let hello = Hello { cluster: name, from, ..hello(Purpose::Join { kind: NodeKind::Full }) };
    handshake::dial(&stream, hello, None, None).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    codec::read_frame(&mut &stream, 1 << 20).unwrap()
}

/// An unknown process does not get the number of a member that is about to be back, and no more than a few places; a
/// node whose disk was wiped gets its number back at once.
#[test]
fn a_number_stays_with_a_member_that_starts_again() -> Result<()> {
    let mut cluster = Cluster::ready(EXE, 3, &json!({"dead_after_ms": 600_000}))?;
    let leader = cluster.settle()?;
    let (identity, name) = identities(&cluster);
    let away = leader % 3 + 1;
    cluster.kill(away)?;
    let begun = Instant::now();
    let mut reasons = BTreeSet::new();
    cluster.wait_until("it is refused for want of silence", Duration::from_secs(20), || {
        match ask_to_join(&cluster, leader, name, away) {
            Frame::Reject { why } => _ = reasons.insert(why),
            other => panic!("{other:?}"),
        }
        (begun.elapsed() > Duration::from_secs(2) && reasons.iter().any(|why| why.contains("dead_after_ms")))
            .then_some(())
    })?;
    cluster.restart(away)?;
    cluster.settle()?;
    assert_eq!(cluster.status(away)?.node.uuid, identity(away).uuid);
    // Its disk is lost: it answers where it was.
    cluster.kill(away)?;
    cluster.wipe(away)?;
    cluster.restart(away)?;
    let leader = cluster.settle()?;
    assert_ne!(cluster.status(away)?.node.uuid, identity(away).uuid);
    // Unknown processes under free ids that are not heard again.
    let joined =
        (11..=22).filter(|id| matches!(ask_to_join(&cluster, leader, name, *id), Frame::Joined { .. })).count();
    assert_eq!(joined, 8);
    assert!(
        matches!(ask_to_join(&cluster, leader, name, 23), Frame::Reject { why } if why.contains("have not answered since they joined"))
    );
    cluster.put("after", "x")?;
    Ok(())
}
