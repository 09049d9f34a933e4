//! The rules of the door, each against a real socket: what is refused, what survives, and in what order answers come.

use crate::fake_host::*;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::{Duration, Instant};

const OK: &str = "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[test]
fn malformed_heads_are_refused_and_closed() {
    let served = serve(patient());
    for (bytes, status) in [
        ("GET /livez HTTP/1.1\r\n\r\n", 400),
        ("GET /livez HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400),
        ("GET /livez HTTP/1.1\r\nHost : localhost\r\n\r\n", 400),
        ("GET /livez HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b\r\n\r\n", 400),
        ("GET /livez HTTP/1.1\r\nHost: localhost\r\nX: a\0b\r\n\r\n", 400),
        ("GET /livez HTTP/1.1\nHost: localhost\n\n", 400),
        ("POST /v1/kv/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        ("POST /v1/kv/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1, 1\r\n\r\n", 400),
        ("POST /v1/kv/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999\r\n\r\n", 400),
        ("GET /livez HTTP/2.0\r\nHost: localhost\r\n\r\n", 505),
        ("POST /v1/kv/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
    ] {
        // A second request follows: it must not be answered, for nobody can say where it starts.
        let text = served.talk(format!("{bytes}{OK}"));
        let answer = Answer::parse(&text);
        assert_eq!((answer.status, answer.header("Connection")), (status, Some("close")), "{bytes:?}");
        let answers = text.lines().filter(|line| line.starts_with("HTTP/1.1 ")).count();
        assert_eq!(answers, 1, "{bytes:?} was followed by another answer");
        assert_eq!(answer.json()["outcome"], "refused");
    }
    assert_eq!(served.server.counts.refused_requests.load(Relaxed), 11);
}

#[test]
fn sizes_are_bounded() {
    let served = serve(patient());
    assert_eq!(Answer::parse(&served.talk(format!("GET /{} HTTP/1.1\r\n", "a".repeat(9000)))).status, 414);
    let headers = "X: y\r\n".repeat(100);
    let text = served.talk(format!("GET /livez HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n"));
    assert_eq!(Answer::parse(&text).status, 431);
    let text = served.talk(format!("GET /livez HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "a".repeat(17_000)));
    assert_eq!(Answer::parse(&text).status, 431);
    let json = "Content-Type: application/json\r\n";
    let head = format!("POST /v1/kv/a HTTP/1.1\r\nHost: localhost\r\n{json}");
    assert_eq!(Answer::parse(&served.talk(format!("{head}Content-Length: 8388609\r\n\r\n"))).status, 413);
    let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n");
    assert_eq!(Answer::parse(&served.talk(format!("{chunked}800001\r\n"))).status, 413);
    assert_eq!(Answer::parse(&served.talk(format!("{chunked}5\nhello\n0\n\n"))).status, 400);
    assert_eq!(Answer::parse(&served.talk(format!("{chunked}fffffffffffffffff\r\n"))).status, 400);
    assert_eq!(Answer::parse(&served.talk(format!("{chunked}5;{}\r\n", "x".repeat(200)))).status, 400);
}

#[test]
fn a_413_reaches_a_client_that_is_still_sending() {
    let served = serve(patient());
    let mut stream = served.connect();
    let head = "POST /v1/kv/a HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9000000\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&[b'x'; 100_000]).unwrap();
    assert_eq!(read_answer(&mut stream).status, 413);
}

#[test]
fn methods_and_paths_are_exact() {
    let served = serve(patient());
    let cases = [
        ("get", "/livez", 501),
        ("BREW", "/livez", 501),
        ("POST", "/livez", 405),
        ("OPTIONS", "/v1/status", 204),
        ("DELETE", "/v1/members", 405),
        ("GET", "/v1/leader/transfer", 405),
        ("GET", "/nothing", 404),
        ("GET", "/v1/status/", 404),
        ("GET", "/%76%31/status", 404),
        ("GET", "/static/../Cargo.toml", 404),
        ("GET", "/static/%2e%2e/Cargo.toml", 404),
        ("GET", "/static/app.js%00", 404),
        ("GET", "/static//app.js", 404),
        ("GET", "/static/", 404),
    ];
    for (method, target, status) in cases {
        let answer = served.ask(method, target, "", "");
        assert_eq!(answer.status, status, "{method} {target}");
        assert_eq!(answer.header("Allow").is_some(), matches!(status, 204 | 405), "{method} {target}");
    }
    assert_eq!(served.ask("POST", "/livez", "", "").header("Allow"), Some("GET, HEAD"));
}

#[test]
fn only_this_machine_s_names_are_served() {
    let served = serve(patient());
    for (host, status) in [
        ("localhost", 200),
        ("LOCALHOST:1", 200),
        ("127.0.0.1:6701", 200),
        ("127.8.8.8", 200),
        ("[::1]:6701", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("10.0.0.1", 421),
        ("local host", 400),
        ("localhost:80:80", 400),
    ] {
        for path in ["/", "/static/app.js", "/v1/status", "/nothing"] {
            let text = served.talk(format!("HEAD {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"));
            let found = Answer::parse(&text).status;
            assert!(found == status || (status == 200 && path == "/nothing" && found == 404), "{host} {path}: {found}");
        }
    }
}

#[test]
fn changes_come_from_our_own_pages_or_from_none() {
    let served = serve(patient());
    let json = "Content-Type: application/json; charset=utf-8\r\n";
    let own = format!("Origin: http://{}\r\nSec-Fetch-Site: same-origin\r\n", served.address);
    let post = |more: &str| served.ask("POST", "/v1/leader/transfer", more, "{\"to\":2}").status;
    assert_eq!(post(json), 200);
    assert_eq!(post(&format!("{json}{own}")), 200);
    // No browser: curl says it is a form.
    for media in ["", "Content-Type: text/plain\r\n", "Content-Type: application/x-www-form-urlencoded\r\n"] {
        assert_eq!((post(media), post(&format!("{media}{own}"))), (200, 415));
    }
    for more in [
        "Origin: http://evil.example\r\n",
        "Origin: null\r\n",
        "Origin: http://127.0.0.1:1\r\n",
        "Sec-Fetch-Site: cross-site\r\n",
        "Sec-Fetch-Site: same-site\r\n",
    ] {
        assert_eq!(post(&format!("{json}{more}")), 403, "{more}");
        assert_eq!(served.ask("DELETE", "/v1/members/3", more, "").status, 403, "{more}");
    }
    assert_eq!(served.host.transfers.lock().unwrap().len(), 5);
    assert!(served.host.changes.lock().unwrap().is_empty());
}

#[test]
fn an_unread_body_closes_the_connection() {
    let served = serve(patient());
    // The second is a stream that fails before its first byte.
    for (target, status) in [("/livez", 200), ("/v1/jobs/7/output?attempt=1", 404)] {
        let head = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", OK.len());
        let text = served.talk(format!("{head}{OK}"));
        let answers = text.lines().filter(|line| line.starts_with("HTTP/1.1 ")).count();
        assert_eq!(answers, 1, "{text}");
        let answer = Answer::parse(&text);
        assert_eq!((answer.status, answer.header("Connection")), (status, Some("close")));
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let served = serve(patient());
    let mut stream = served.connect();
    let mut bytes = Vec::new();
    for at in 0..200 {
        let path = if at % 2 == 0 { "/livez".to_owned() } else { format!("/v1/members/{at}") };
        write!(bytes, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    }
    let mut writer = stream.try_clone().unwrap();
    let sending = std::thread::spawn(move || writer.write_all(&bytes).unwrap());
    for at in 0..200 {
        let status = read_answer(&mut stream).status;
        let expected = if at % 2 == 0 || at < 6 { 200 } else { 404 };
        assert_eq!(status, expected, "answer {at}");
    }
    sending.join().unwrap();
}

#[test]
fn bodies_are_framed_right_on_a_kept_connection() {
    let served = serve(patient());
    let mut stream = served.connect();
    let head = "POST /v1/leader/transfer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    let text = format!(
        "{head}Content-Length: 8\r\n\r\n{{\"to\":2}}{head}Transfer-Encoding: chunked\r\n\r\n3\r\n{{\"t\r\n5;x=y\r\no\":3}}\r\n0\r\nT: x\r\n\r\n{OK}"
    );
    stream.write_all(text.as_bytes()).unwrap();
    let leaders: Vec<_> = (0..2).map(|_| read_answer(&mut stream).json()["leader"].clone()).collect();
    assert_eq!(leaders, [2, 3]);
    assert_eq!(read_answer(&mut stream).body, "alive\n");
}

#[test]
fn a_request_may_arrive_split_at_every_byte() {
    let served = serve(patient());
    let text = "POST /v1/leader/transfer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n{\"to\":2}\r\n0\r\n\r\n";
    let mut stream = served.connect();
    for cut in 1..text.len() {
        stream.write_all(&text.as_bytes()[..cut]).unwrap();
        std::thread::yield_now();
        stream.write_all(&text.as_bytes()[cut..]).unwrap();
        assert_eq!(read_answer(&mut stream).json()["leader"], 2, "cut at {cut}");
    }
    let mut stream = served.connect();
    for byte in text.bytes() {
        stream.write_all(&[byte]).unwrap();
    }
    assert_eq!(read_answer(&mut stream).json()["leader"], 2);
}

#[test]
fn continue_is_sent_only_to_accepted_requests() {
    let served = serve(patient());
    let mut stream = served.connect();
    let head = "Host: localhost\r\nContent-Type: application/json\r\nContent-Length: 8\r\nExpect: 100-continue\r\n\r\n";
    write!(stream, "POST /v1/leader/transfer HTTP/1.1\r\n{head}").unwrap();
    assert_eq!(read_answer(&mut stream).status, 100);
    stream.write_all(b"{\"to\":2}").unwrap();
    assert_eq!(read_answer(&mut stream).status, 200);
    write!(stream, "POST /nothing HTTP/1.1\r\n{head}").unwrap();
    assert_eq!(read_answer(&mut stream).status, 404);
    assert!(is_closed(&mut stream));
}

#[test]
fn slow_heads_and_bodies_meet_a_total_deadline() {
    let served = serve(quick());
    for opening in [
        "GET /livez HTTP/1.1\r\nHost: localhost\r\nX: ",
        "POST /v1/kv/a HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n",
    ] {
        let mut stream = served.connect();
        stream.write_all(opening.as_bytes()).unwrap();
        let started = Instant::now();
        // A byte at a time, each well within any per-read timeout: the whole still ends.
        stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let mut answer = Vec::new();
        while started.elapsed() < Duration::from_secs(5) {
            let _ = stream.write_all(b"x");
            let mut bytes = [0; 1024];
            match stream.read(&mut bytes) {
                Ok(0) => break,
                Ok(read) => answer.extend_from_slice(&bytes[..read]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
        }
        let took = started.elapsed();
        assert!(took < Duration::from_secs(3), "a slow client was kept for {took:?}");
        assert_eq!(Answer::parse(std::str::from_utf8(&answer).unwrap()).status, 408);
    }
    wait_until("no thread is left", || served.host.connections.load(SeqCst) == 0);
}

#[test]
fn silent_half_open_and_vanished_clients_leave_no_thread_behind() {
    let served = serve(quick());
    let silent = served.connect();
    let mut idle = served.connect();
    idle.write_all(OK.as_bytes()).unwrap();
    assert_eq!(read_answer(&mut idle).status, 200);
    let mut cut_off = served.connect();
    cut_off.write_all(b"GET /livez HT").unwrap();
    cut_off.shutdown(Shutdown::Write).unwrap();
    drop(served.connect());
    let mut early = served.connect();
    early.write_all(OK.as_bytes()).unwrap();
    early.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_answer(&mut early).status, 200, "a client that has finished sending still gets its answer");
    wait_until("no thread is left", || served.host.connections.load(SeqCst) == 0);
    assert_eq!(served.host.sessions.count(), 0);
    drop(silent);
}

#[test]
fn a_client_that_does_not_read_is_dropped() {
    let served = serve(quick());
    // Streams: frames pile up in the socket until a write stands still.
    let mut stream = served.connect();
    stream.write_all(b"GET /v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    wait_until("the stream stands", || served.host.sessions.newest(1).iter().any(|s| s.kind == "stream"));
    let mut frame = canned_frame(4, 5, 0);
    frame.events[0].text = "x".repeat(1 << 20);
    wait_until("the slow reader is dropped", || {
        served.host.publish(frame.clone());
        served.host.connections.load(SeqCst) == 0
    });
    assert_eq!(served.server.counts.slow_readers_dropped.load(Relaxed), 1);
    // Answers: a client that asks without end and reads nothing.
    let mut greedy = served.connect();
    let ask = "GET /v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(100);
    greedy.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
    while greedy.write_all(ask.as_bytes()).is_ok() {}
    wait_until("the greedy client is dropped", || served.host.connections.load(SeqCst) == 0);
}

#[test]
fn excess_connections_get_an_error() {
    let served = serve(patient());
    served.host.connections_max.store(2, SeqCst);
    let mut kept: Vec<_> = (0..2).map(|_| served.connect()).collect();
    for stream in &mut kept {
        stream.write_all(OK.as_bytes()).unwrap();
        assert_eq!(read_answer(stream).status, 200);
    }
    // Two more are kept for health and administration, one answer each.
    for (method, path, status) in [
        ("GET", "/livez", 200),
        ("GET", "/readyz", 200),
        ("GET", "/v1/status", 200),
        ("GET", "/metrics", 200),
        ("POST", "/v1/leader/transfer", 200),
        ("GET", "/v1/kv/a", 503),
        ("GET", "/", 503),
        ("POST", "/v1/kv/a", 503),
    ] {
        let mut late = served.connect();
        let text = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        late.write_all(text.as_bytes()).unwrap();
        assert_eq!(read_answer(&mut late).status, status, "{method} {path}");
        assert!(is_closed(&mut late));
        wait_until("its place is free again", || served.host.connections.load(SeqCst) == 2);
    }
    let more: Vec<_> = (0..RESERVED).map(|_| served.connect()).collect();
    wait_until("they have their places", || served.host.connections.load(SeqCst) == 4);
    let mut late = served.connect();
    let answer = read_answer(&mut late);
    assert_eq!((answer.status, answer.header("Retry-After")), (503, Some("1")));
    assert!(is_closed(&mut late));
    // Who says nothing there does not keep its place.
    wait_until("silent ones are let go", || served.host.connections.load(SeqCst) == 2);
    drop(more);
    drop(kept);
    wait_until("there is room again", || served.host.connections.load(SeqCst) == 0);
    assert_eq!(served.get("/livez").status, 200);
}

/// The budget of the fake host has 16 MiB, of which large requests get 12.
#[test]
fn the_newest_large_request_is_refused_and_nobody_else_notices() {
    let served = serve(patient());
    let head = |bytes: usize| {
        format!("POST /v1/kv/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: {bytes}\r\nExpect: 100-continue\r\n\r\n")
    };
    let begin = |bytes: usize| {
        let mut stream = served.connect();
        stream.write_all(head(bytes).as_bytes()).unwrap();
        let mut line = [0; 12];
        stream.read_exact(&mut line).unwrap();
        (stream, String::from_utf8(line.to_vec()).unwrap())
    };
    let mut half_sent: Vec<_> = (0..40).map(|_| begin(2 << 20)).collect();
    let refused = half_sent.split_off(half_sent.iter().position(|(_, line)| line.ends_with("503")).unwrap());
    assert!((5..=6).contains(&half_sent.len()), "{}", half_sent.len());
    assert!(refused.iter().all(|(_, line)| line.ends_with("503")));
    let used = served.host.memory.used();
    assert!(used <= 16 << 20, "{used}");
    // Small requests, health and status go on; the answer names the setting.
    *served.host.reply.lock().unwrap() = sum_reply(7, 77);
    let added = served.ask("POST", "/v1/kv/a", "", "{\"incr\":1}");
    assert_eq!((added.status, served.get("/livez").status, served.get("/v1/status").status), (200, 200, 200));
    let mut late = served.connect();
    late.write_all(head(2 << 20).as_bytes()).unwrap();
    let answer = read_answer(&mut late);
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains("memory_budget_mb") && answer.header("Retry-After").is_some(), "{}", answer.body);
    // One that was begun is not refused later.
    let (stream, _) = &mut half_sent[0];
    stream.write_all(&vec![b'x'; 2 << 20]).unwrap();
    stream.read_exact(&mut [0; " Continue\r\n\r\n".len()]).unwrap();
    assert_eq!(read_answer(stream).status, 400, "it is no JSON");
    drop(half_sent);
    wait_until("all of it is given back", || served.host.memory.used() < 64 << 10);
    assert_eq!(begin(2 << 20).1, "HTTP/1.1 100");
}

#[test]
fn old_clients_are_served_and_closed() {
    let served = serve(patient());
    let text = served.talk("GET /livez HTTP/1.0\r\nHost: localhost\r\n\r\n");
    assert!(text.ends_with("alive\n"), "{text}");
    let mut stream = served.connect();
    stream.write_all(b"GET /v1/stream HTTP/1.0\r\nHost: localhost\r\n\r\n").unwrap();
    let mut text = String::new();
    let mut bytes = [0; 4096];
    while !text.contains("\"seq\":1") {
        let read = stream.read(&mut bytes).unwrap();
        text.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
    }
    assert!(!text.contains("chunked"), "{text}");
}
