//! What the door answers: the API, the streams, the page's first chunk and the front door, with a fake node behind it.

use crate::fake_host::*;
use phalanx::outcome::{NoLeader, Outcome, Reason, UnknownReason};
use phalanx::raft::{Change, Refusal};
use phalanx::services::Replicated;
use phalanx::services::kv::{Batch, Bytes, Op, Store};
use phalanx::types::NodeId;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::Ordering;

/// Reads until `text` has been seen; returns all that was read.
fn read_until(stream: &mut TcpStream, text: &str) -> String {
    let (mut all, mut bytes) = (String::new(), [0; 4096]);
    while !all.contains(text) {
        let read = stream.read(&mut bytes).expect("more comes");
        assert_ne!(read, 0, "closed before {text:?}: {all}");
        all.push_str(&String::from_utf8_lossy(&bytes[..read]));
    }
    all
}

fn open(served: &Served, target: &str, more: &str) -> TcpStream {
    let mut stream = served.connect();
    write!(stream, "GET {target} HTTP/1.1\r\nHost: {}\r\n{more}\r\n", served.address).unwrap();
    stream
}

#[test]
fn status_names_the_node_that_answers() {
    let served = serve(patient());
    let answer = served.get("/v1/status");
    assert_eq!((answer.status, answer.header("Content-Type")), (200, Some("application/json")));
    for (name, value) in [("Node", "4"), ("Leader", "5"), ("Term", "7"), ("Index", "120")] {
        assert_eq!(answer.header(&format!("X-Phalanx-{name}")), Some(value), "{name}");
    }
    let json = answer.json();
    assert_eq!((&json["node"]["id"], &json["cluster"]["verdict"]), (&4.into(), &"healthy".into()));
    assert_eq!((&json["nodes"][4]["status"], &json["nodes"][0]["status"]), (&"LEADER".into(), &"ONLINE".into()));
    let head = served.ask("HEAD", "/v1/status", "", "");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert_eq!(head.header("Content-Length"), answer.header("Content-Length"));
}

#[test]
fn pages_of_other_nodes_may_read_status_and_stream_and_nothing_else() {
    let served = serve(patient());
    let allowed = |target: &str, origin: &str| {
        let mut stream = open(&served, target, &format!("Origin: {origin}\r\n"));
        let head = read_until(&mut stream, "\r\n\r\n");
        Answer::parse(&head).header("Access-Control-Allow-Origin").map(str::to_owned)
    };
    for target in ["/v1/status", "/v1/stream"] {
        for origin in ["http://127.0.0.1:6702", "http://localhost:6702", "http://127.0.0.1:8080"] {
            assert_eq!(allowed(target, origin).as_deref(), Some(origin), "{target}");
        }
        for origin in
            ["http://evil.example", "http://evil.example:6702", "https://127.0.0.1:6702", "null", "http://127.0.0.1:9"]
        {
            assert_eq!(allowed(target, origin), None, "{target} {origin}");
        }
    }
    assert_eq!(allowed("/v1/gossip", "http://127.0.0.1:6702"), None);
}

#[test]
fn events_gossip_health_and_metrics() {
    let served = serve(patient());
    let events = served.get("/v1/events?since=6").json();
    assert_eq!(events["events"].as_array().unwrap().len(), 2);
    assert_eq!(served.get("/v1/events?since=x").status, 400);
    let incarnation = events["incarnation"].as_str().unwrap();
    assert_eq!(served.get(&format!("/v1/events?since=6&incarnation={incarnation}")).json(), events);
    assert_eq!(served.get("/v1/events?since=6&incarnation=x").status, 400);
    assert_eq!(served.get("/v1/gossip").json()[0]["from"], 3);
    assert_eq!(served.get("/livez").status, 200);
    assert_eq!(served.get("/readyz").body, "ready\n");
    *served.host.refusal.lock().unwrap() = Some(Outcome::Refused(Reason::NoLeader(NoLeader::NotInTime)));
    let answer = served.get("/readyz?verbose");
    assert_eq!((answer.status, answer.body.as_str()), (503, "[-] no leader is known\nnot ready\n"));
    let text = served.get("/metrics").body;
    assert_eq!(text.matches("# TYPE phalanx_term gauge\n").count(), 1, "{text}");
    assert!(text.contains("phalanx_term 7\nphalanx_term{peer=\"a\\\"b\"} 7\n"), "{text}");
    // Those of earlier requests are closed when their threads have come to it.
    wait_until("one connection is open", || served.get("/metrics").body.contains("phalanx_http_connections_open 1\n"));
}

#[test]
fn outcomes_become_statuses() {
    let served = serve(patient());
    let json = "Content-Type: application/json\r\n";
    let post = |body: &str| served.ask("POST", "/v1/leader/transfer", json, body);
    assert_eq!(post("{\"to\":3}").json()["leader"], 3);
    for body in ["{\"to\":0}", "{\"to\":1000}", "{\"to\":\"x\"}", "{\"too\":1}", "{"] {
        assert_eq!(post(body).status, 400, "{body}");
    }
    for (outcome, status, word) in [
        (Outcome::Refused(Reason::NoLeader(NoLeader::NotInTime)), 503, "refused"),
        (Outcome::Refused(Reason::Raft(Refusal::NoOtherVoter)), 409, "refused"),
        (Outcome::Unknown(UnknownReason::LeaderLost), 504, "unknown"),
    ] {
        *served.host.refusal.lock().unwrap() = Some(outcome);
        let answer = post("{}");
        assert_eq!((answer.status, &answer.json()["outcome"]), (status, &word.into()));
        assert_eq!((answer.header("Retry-After").is_some(), &answer.json()["leader"]), (status == 503, &5.into()));
    }
}

#[test]
fn members_are_read_and_changed() {
    let served = serve(patient());
    let json = "Content-Type: application/json\r\n";
    assert_eq!(served.get("/v1/members").json()["voters"].as_array().unwrap().len(), 5);
    assert_eq!(served.get("/v1/members/3").json()["http"], "127.0.0.1:6703");
    assert_eq!(served.get("/v1/members/9").status, 404);
    let answer = served.ask("DELETE", "/v1/members/3", "", "");
    assert_eq!((answer.status, answer.header("X-Phalanx-Index")), (200, Some("78")));
    assert_eq!(served.ask("POST", "/v1/members/2", json, "{\"action\":\"promote\"}").status, 200);
    assert_eq!(served.ask("POST", "/v1/members", json, "{\"id\":2,\"action\":\"demote\"}").status, 200);
    assert_eq!(served.ask("POST", "/v1/members/2", json, "{\"membership\":\"voter\"}").status, 200);
    assert_eq!(served.ask("POST", "/v1/members/2", json, "{\"id\":3,\"action\":\"demote\"}").status, 400);
    assert_eq!(served.ask("POST", "/v1/members/+2", json, "{\"action\":\"demote\"}").status, 400);
    assert_eq!(served.ask("POST", "/v1/members/2", json, "{\"action\":\"explode\"}").status, 400);
    assert_eq!(served.ask("POST", "/v1/members/2", json, "{\"action\":\"add\"}").status, 400);
    let expected =
        [Change::Remove(NodeId(3)), Change::Promote(NodeId(2)), Change::Demote(NodeId(2)), Change::Promote(NodeId(2))];
    assert_eq!(*served.host.changes.lock().unwrap(), expected);
}

#[test]
fn a_key_is_counted_up_through_the_log() {
    let served = serve(patient());
    *served.host.reply.lock().unwrap() = sum_reply(7, 70);
    let json = "Content-Type: application/json\r\n";
    let answer = served.ask("POST", "/v1/kv/a%20b", json, "{\"incr\":5}");
    assert_eq!((answer.status, answer.json()), (200, serde_json::json!({"value": 7, "index": 70})));
    assert_eq!(answer.header("X-Phalanx-Index"), Some("77"));
    let (tag, command) = served.host.commands.lock().unwrap().pop().unwrap();
    let key = Bytes::from(&b"a b"[..]);
    let ops = vec![Op::IncrBy { key: key.clone(), by: 5 }, Op::Revisions(vec![key])];
    assert_eq!((tag, command), (None, Store::encode_command(&Batch { watched: Vec::new(), ops })));
    assert_eq!(served.ask("POST", "/v1/kv/a", json, "{\"incr\":\"x\"}").status, 400);
    assert_eq!(served.ask("POST", "/v1/kv/a", json, "{\"by\":1}").status, 400);
    assert_eq!(served.get("/v1/kv/a?level=stale").status, 400);
    assert_eq!(served.get("/v1/kv/a%zz").status, 400);
}

#[test]
fn static_files_are_served_by_exact_name_and_revalidated() {
    let served = serve(patient());
    for (name, kind) in [("app.js", "text/javascript"), ("style.css", "text/css"), ("shield.svg", "image/svg+xml")] {
        let answer = served.get(&format!("/static/{name}"));
        assert_eq!(answer.status, 200);
        assert!(answer.header("Content-Type").unwrap().starts_with(kind));
        let tag = answer.header("ETag").unwrap();
        let again = served.ask("GET", &format!("/static/{name}"), &format!("If-None-Match: {tag}\r\n"), "");
        assert_eq!((again.status, again.body.as_str()), (304, ""));
    }
}

#[test]
fn the_stream_sends_each_frame_once_and_ends_well() {
    let served = serve(patient());
    let mut stream = open(&served, "/v1/stream?since=0", "");
    let head = read_until(&mut stream, "}\n\r\n");
    assert!(head.contains("Transfer-Encoding: chunked") && head.contains("application/x-ndjson"), "{head}");
    let session = &served.host.sessions.newest(1)[0];
    assert!(head.contains(&format!("X-Phalanx-Session: {}", session.id)) && session.kind == "stream", "{head}");
    for seq in 2..20 {
        served.host.publish(canned_frame(4, 5, seq));
        let text = format!("\r\n{}", read_until(&mut stream, "}\n\r\n"));
        assert_eq!(text.matches(&format!("\r\n{{\"seq\":{seq},")).count(), 1, "{text}");
    }
    served.host.stop();
    assert!(read_until(&mut stream, "0\r\n\r\n").ends_with("0\r\n\r\n"));
    assert!(is_closed(&mut stream));
}

#[test]
fn a_held_request_is_no_load_and_ends_with_the_node() {
    let served = serve(patient());
    let mut stream = open(&served, "/v1/hold", "");
    read_until(&mut stream, "\r\n\r\n\n");
    assert_eq!(served.host.sessions.count(), 0);
    assert_eq!(served.ask("HEAD", "/v1/hold", "", "").status, 200);
    served.host.stop();
    wait_until("it ends", || served.host.connections.load(std::sync::atomic::Ordering::SeqCst) == 0);
}

#[test]
fn a_number_from_another_life_starts_with_the_newest_frame() {
    let served = serve(patient());
    read_until(&mut open(&served, "/v1/stream?since=99999", ""), "\"seq\":1,");
    let mut stream = open(&served, "/v1/stream?since=1", "");
    read_until(&mut stream, "\r\n\r\n");
    served.host.publish(canned_frame(4, 5, 1));
    assert!(!read_until(&mut stream, "\n{\"seq\":2,").contains("\n{\"seq\":1,"));
    assert_eq!(served.get("/v1/stream?since=-1").status, 400);
}

#[test]
fn a_script_gets_the_page_then_plain_updates_and_a_table() {
    let served = serve(patient());
    let mut stream = open(&served, "/", "Accept: */*\r\n");
    let text = read_until(&mut stream, "-->\n\r\n");
    let page = text.find("<!doctype html>").expect("the page comes first");
    let hello =
        text.find("hello({\"access\":null,\"front_port\":8080,\"is_lab\":false,\"node\":4,").expect("then who answers");
    let update = text.find("<script>update({").expect("then a frame");
    let table = text.find("  phalanx: healthy: can lose 2 more   node 5 leads in term 7").expect("then a table");
    assert!(page < hello && hello < update && update < table);
    assert!(text.contains("9f3c0001") && text.contains("127.0.0.1:6702"));
}

#[test]
fn a_browser_runs_only_scripts_that_carry_the_nonce() {
    let served = serve(patient());
    let mut stream = open(&served, "/", "Accept: text/html,*/*\r\n");
    let text = read_until(&mut stream, ">update({");
    let policy = text.lines().find(|line| line.starts_with("Content-Security-Policy")).unwrap();
    let nonce = policy.split("script-src 'nonce-").nth(1).unwrap().split('\'').next().unwrap().to_owned();
    assert_eq!(nonce.len(), 32);
    assert!(!policy.contains("unsafe"), "{policy}");
    assert_eq!(text.matches("<script").count(), text.matches(&format!("<script nonce=\"{nonce}\">")).count());
    let other = read_until(&mut open(&served, "/", "Accept: text/html\r\n"), ">update({");
    assert!(!other.contains(&nonce), "a nonce is used once");
}

#[test]
fn the_front_door_redirects_anything_to_the_same_path() {
    let served = serve_front(patient());
    let mut stream = served.connect();
    for (method, target) in [("GET", "/"), ("HEAD", "/v1/status?x=1&y=%0d%0aSet-Cookie:a"), ("POST", "//evil.example/")]
    {
        write!(stream, "{method} {target} HTTP/1.1\r\nHost: localhost:8080\r\n\r\n").unwrap();
        let mut text = read_until(&mut stream, "\r\n\r\n");
        if method != "HEAD" && !text.ends_with("/\n") {
            text.push_str(&read_until(&mut stream, "/\n"));
        }
        let answer = Answer::parse(&text);
        assert_eq!(answer.status, 307);
        assert_eq!(answer.header("Location"), Some(format!("http://127.0.0.1:6702{target}").as_str()));
        assert_eq!(answer.header("Set-Cookie"), None);
    }
    let text = served.talk("GET /\r\nX: y HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(Answer::parse(&text).status, 400);
    assert_eq!(
        Answer::parse(&served.talk("GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")).status,
        421
    );
    let text = served.talk("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(Answer::parse(&text).header("Connection"), Some("close"), "an unread body ends the connection");
    assert_eq!(served.host.sessions.count(), 0, "who is sent on is no load");
}

/// Where no node can serve, the one that was asked answers what needs no leader, and everything else is to be sent again.
#[test]
fn without_a_node_that_can_serve_the_front_door_leads_to_pages_and_reports_only() {
    let served = serve_front(patient());
    served.host.cannot_serve.store(true, Ordering::SeqCst);
    for path in ["/", "/chat", "/livez", "/readyz?verbose", "/metrics", "/v1/status", "/v1/watch", "/static/app.js"] {
        assert_eq!(served.get(path).status, 307, "{path}");
    }
    for path in ["/v1/kv/x", "/v1/jobs/1", "/db/query?q=SELECT+1", "/nothing"] {
        let answer = served.get(path);
        assert_eq!((answer.status, answer.header("Retry-After")), (503, Some("1")), "{path}");
    }
}

#[test]
fn the_front_door_answers_503_when_no_node_is_online() {
    let served = serve_front(patient());
    *served.host.worker.lock().unwrap() = None;
    let answer = served.get("/");
    assert_eq!((answer.status, answer.header("Retry-After")), (503, Some("1")));
    assert_eq!((&answer.json()["outcome"], &answer.json()["retry_after_ms"]), (&"refused".into(), &200.into()));
}
