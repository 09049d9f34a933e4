//! Answers of real nodes, each judged by the document that those nodes serve: every operation once at least, as it
//! succeeds, and the refusals that a client meets.

use crate::EXE;
use crate::openapi::{Answer, Document, ask, missing};
use phalanx::bench::job_rates::wait_workers;
use phalanx::lab::Cluster;
use serde_json::{Value, json};
use std::collections::BTreeSet;

const JSON: &str = "Content-Type: application/json\r\n";
const PASSWORD: &str = "open-sesame-for-all";
/// Sent with every request: the nodes have a password.
const CLIENT: &str = "Authorization: Bearer open-sesame-for-all\r\n";

/// A client of one node that has every answer judged.
struct Judge<'a> {
    document: Document,
    cluster: &'a Cluster,
    at: u64,
    /// Header of a chat user.
    token: String,
    /// Operations that have succeeded.
    seen: BTreeSet<String>,
}

impl Judge<'_> {
    fn send(
        &mut self,
        status: u16,
        method: &str,
        target: &str,
        headers: &str,
        body: &[u8],
        bytes_max: usize,
    ) -> Answer {
        let headers = format!("{headers}{CLIENT}{}", self.token);
        let answer = ask(&self.cluster.http(self.at), method, target, &headers, body, bytes_max);
        assert_eq!(answer.status, status, "{method} {target}: {}", answer.text());
        let operation = self.document.find(method, target);
        let name = self.document.check(&operation, &answer);
        if status < 300 || status == 303 {
            self.seen.insert(name);
        }
        answer
    }

    fn get(&mut self, status: u16, target: &str) -> Answer {
        self.send(status, "GET", target, "", b"", usize::MAX)
    }

    /// The beginning of what never ends.
    fn begin(&mut self, target: &str, bytes: usize) -> Answer {
        self.send(200, "GET", target, "", b"", bytes)
    }

    /// Whatever is sent and taken has to be as the document says.
    fn post(&mut self, status: u16, target: &str, body: &Value) -> Answer {
        let operation = self.document.find("POST", target);
        if status < 300 {
            let schema = format!("{}/requestBody/content/application~1json/schema", operation.pointer);
            self.document.validate(&schema, body).unwrap_or_else(|why| panic!("{target} {body}: {why}"));
        }
        self.send(status, "POST", target, JSON, body.to_string().as_bytes(), usize::MAX)
    }

    fn delete(&mut self, status: u16, target: &str) -> Answer {
        self.send(status, "DELETE", target, "", b"", usize::MAX)
    }

    fn put(&mut self, status: u16, target: &str, body: &[u8]) -> Answer {
        self.send(status, "PUT", target, "", body, usize::MAX)
    }
}

fn keys_and_locks(judge: &mut Judge) {
    judge.put(200, "/v1/kv/a", b"one");
    judge.put(200, "/v1/kv/b%FF?ttl_ms=600000", b"\xff");
    judge.put(202, "/v1/kv/c?level=eventual", b"");
    judge.put(412, "/v1/kv/a?cas=0", b"two");
    judge.put(400, "/v1/kv/a?cas=1&level=eventual", b"two");
    judge.get(200, "/v1/kv/b%FF");
    judge.get(404, "/v1/kv/nothing");
    let index = judge.get(200, "/v1/kv/a").header("X-Phalanx-Key-Index").unwrap().to_string();
    judge.get(304, &format!("/v1/kv/a?watch={index}&wait=50ms"));
    judge.post(200, "/v1/kv/n", &json!({"incr": -5}));
    judge.post(409, "/v1/kv/a", &json!({"incr": 1}));
    judge.get(200, "/v1/kv?limit=1");
    assert_eq!(judge.get(200, "/v1/kv?prefix=b").json()["keys"][0]["encoding"], "base64");
    judge.delete(200, "/v1/kv/n");
    judge.delete(202, "/v1/kv/n?level=eventual");
    judge.delete(412, "/v1/kv/a?cas=77777");
    let token = judge.post(200, "/v1/lock/l/acquire", &json!({"ttl_ms": 60000})).json()["token"].clone();
    judge.post(409, "/v1/lock/l/acquire", &json!({"ttl_ms": 60000}));
    judge.get(200, "/v1/lock/l");
    judge.post(200, "/v1/lock/l/renew", &json!({"ttl_ms": 60000, "token": token}));
    judge.post(200, "/v1/lock/l/release", &json!({"token": token}));
    judge.post(409, "/v1/lock/l/release", &json!({"token": token}));
    judge.get(404, "/v1/lock/l");
}

fn jobs(judge: &mut Judge) {
    let java = "Content-Type: text/x-java-source\r\n";
    let run = |judge: &mut Judge, status, source: &str| {
        judge.send(status, "POST", "/compileandrun", java, source.as_bytes(), usize::MAX)
    };
    assert_eq!(run(judge, 200, "echo hello").text(), "hello\n");
    run(judge, 400, "exit 3");
    run(judge, 400, "");
    let job = |source: &str| json!({"language": "shell", "source": source});
    judge.post(200, "/v1/jobs?wait=60s", &job("printf '\\377'; echo no >&2"));
    judge.post(400, "/v1/jobs", &json!({"language": "cobol", "source": "x"}));
    judge.post(400, "/v1/jobs", &json!({"language": "shell"}));
    let files =
        json!([{"name": "main.sh", "content": "Y2F0IGE=", "encoding": "base64"}, {"name": "a", "content": "b"}]);
    let with_all = json!({
        "language": "shell", "files": files, "stdin": "x", "args": ["y"], "limits": {"wall_ms": 5000, "memory_mb": 64},
    });
    judge.post(200, "/v1/jobs?wait=60s", &with_all);
    let id = judge.post(202, "/v1/jobs", &job("echo begun; sleep 60")).json()["id"].clone();
    let wanted = format!("/v1/jobs/{id}/output?follow&format=ndjson");
    judge.begin(&wanted, 60);
    judge.get(200, &format!("/v1/jobs/{id}"));
    judge.delete(200, &format!("/v1/jobs/{id}"));
    judge.delete(409, &format!("/v1/jobs/{id}"));
    judge.get(200, &wanted);
    judge.get(200, &format!("/v1/jobs/{id}/output"));
    judge.get(200, &format!("/v1/jobs/{id}?wait=60s"));
    judge.get(404, "/v1/jobs/999");
    judge.get(404, "/v1/jobs/999/output");
    judge.get(200, "/v1/jobs?limit=2");
    judge.get(200, "/v1/runtimes");
}

fn database(judge: &mut Judge) {
    let table = "CREATE TABLE t(id INTEGER PRIMARY KEY, s TEXT, b BLOB, r REAL, is_so BOOLEAN, at DATETIME)";
    judge.post(200, "/db/execute?timings", &json!([table]));
    let insert = "INSERT INTO t(s, b, r, is_so, at) VALUES(?, ?, ?, ?, ?)";
    let row =
        json!([[insert, "x", [0, 255], 1.5, true, "2026-11-26 14:05:06"], [insert, null, null, null, null, null]]);
    judge.post(200, "/db/execute?raft_index", &row);
    judge.post(200, "/db/execute?queue", &json!([["INSERT INTO t(s) VALUES(:s)", {"s": "y"}], "nonsense"]));
    judge.get(200, "/db/query?q=SELECT+*+FROM+t&timings");
    judge.get(400, "/db/query");
    judge.get(400, "/db/query?q=SELECT+1&level=fresh");
    judge.get(200, "/db/query?q=SELECT+1&noparse&pretty=yes");
    judge.get(200, "/status?pretty");
    judge.get(200, "/nodes");
    judge.get(200, "/nodes?ver=2&nonvoters");
    judge.get(200, "/readyz?sync");
    for params in
        ["?associative", "?blob_array", "?associative&blob_array", "?level=strong", "?level=none&freshness=1m"]
    {
        judge.post(
            200,
            &format!("/db/query{params}"),
            &json!(["SELECT * FROM t", "SELECT 1 WHERE 0", "SELECT nothing"]),
        );
    }
    judge.post(400, "/db/query", &json!([]));
    let both = json!(["SELECT count(*) FROM t", "DELETE FROM t WHERE id = 3"]);
    judge.post(200, "/db/request?transaction&associative", &both);
    judge.get(200, "/db/digest");
    judge.send(200, "PUT", "/db/settings", JSON, br#"{"foreign_keys": false}"#, usize::MAX);
    judge.get(200, "/db/settings");
    let file = judge.get(200, "/db/backup").body;
    assert!(file.starts_with(b"SQLite format 3\0"));
    judge.get(200, "/db/backup?fmt=sql&tables=t");
    judge.get(200, "/db/backup?compress&vacuum");
    judge.get(400, "/db/backup?fmt=sql&vacuum");
    judge.get(200, "/db/sql?q=SELECT+nonsense");
    judge.post(200, "/db/sql", &json!(["SELECT 1", "INSERT INTO t VALUES(9)"]));
    let bytes = "Content-Type: application/octet-stream\r\n";
    judge.send(200, "POST", "/db/load", bytes, &file, usize::MAX);
    judge.send(400, "POST", "/db/load", bytes, b"CREATE nonsense", usize::MAX);
}

fn chat(judge: &mut Judge) {
    let who = |name: &str| json!({"name": name, "password": "correct horse"});
    judge.get(401, "/v1/chat/me");
    judge.post(200, "/v1/chat/accounts", &who("bob"));
    judge.post(409, "/v1/chat/accounts", &who("BOB"));
    judge.post(400, "/v1/chat/accounts", &who("a b"));
    judge.post(200, "/v1/chat/accounts", &who("ann"));
    judge.post(401, "/v1/chat/login", &json!({"name": "ann", "password": "wrong one"}));
    let token = judge.post(200, "/v1/chat/login", &who("ann")).json()["token"].as_str().unwrap().to_string();
    judge.token = format!("X-Phalanx-Chat-Token: {token}\r\n");
    judge.get(200, "/v1/chat/me");
    judge.get(200, "/v1/chat/accounts?match=*&limit=1");
    let room = judge.post(200, "/v1/chat/rooms", &json!({"name": "tea"})).json()["conversation"].clone();
    judge.get(200, "/v1/chat/rooms");
    judge.get(200, &format!("/v1/chat/rooms/{room}/members"));
    judge.post(200, &format!("/v1/chat/rooms/{room}/join"), &json!({}));
    let direct = judge.post(200, "/v1/chat/direct", &json!({"with": "bob"})).json()["conversation"].clone();
    judge.post(400, "/v1/chat/direct", &json!({"with": "ann"}));
    judge.post(404, "/v1/chat/direct", &json!({"with": "eve"}));
    judge.post(200, "/v1/chat/messages", &json!({"with": "bob", "text": "hello", "client_id": "1"}));
    judge.post(409, "/v1/chat/messages", &json!({"with": "bob", "text": "other", "client_id": "1"}));
    judge.post(413, "/v1/chat/messages", &json!({"room": "tea", "text": "x".repeat(8193)}));
    judge.post(200, "/v1/chat/messages", &json!({"conversation": room, "text": "tea?"}));
    judge.get(200, "/v1/chat/conversations");
    judge.get(200, &format!("/v1/chat/conversations/{direct}"));
    judge.get(404, "/v1/chat/conversations/999");
    judge.get(200, &format!("/v1/chat/conversations/{direct}/messages?limit=1"));
    judge.post(200, &format!("/v1/chat/conversations/{direct}/read"), &json!({"number": 1}));
    judge.delete(200, &format!("/v1/chat/conversations/{direct}/messages/1"));
    judge.delete(404, &format!("/v1/chat/conversations/{direct}/messages/9"));
    judge.post(200, &format!("/v1/chat/rooms/{room}/leave"), &json!({}));
    let text = judge.begin("/v1/chat/stream?after=0", 400).text();
    assert!(text.contains("\"joined\"") && text.contains("\"left\""), "{text}");
    judge.get(400, "/v1/chat/stream?after=999");
    judge.post(200, "/v1/chat/logout", &json!({"everywhere": true}));
    judge.get(401, "/v1/chat/stream");
    judge.token.clear();
    let token = judge.post(200, "/v1/chat/login", &who("ann")).json()["token"].as_str().unwrap().to_string();
    judge.token = format!("X-Phalanx-Chat-Token: {token}\r\n");
    judge.delete(200, "/v1/chat/account");
    judge.token.clear();
    (0..5).for_each(|_| drop(judge.post(401, "/v1/chat/login", &who("nobody"))));
    judge.post(429, "/v1/chat/login", &who("nobody"));
}

fn lab(judge: &mut Judge) {
    let token = judge.get(200, "/v1/lab").json()["token"].clone();
    let other = judge.at % 3 + 1;
    judge.post(403, "/v1/lab", &json!({"token": "guessed", "action": "kill", "nodes": [other]}));
    judge.post(400, "/v1/lab", &json!({"token": token, "action": "kill", "nodes": []}));
    judge.post(400, "/v1/lab", &json!({"token": token, "action": "kill", "nodes": [77]}));
    judge.post(400, "/v1/lab", &json!({"token": token, "action": "partition", "nodes": [1, 2, 3]}));
    for (action, done) in [("slow", "100 ms delay"), ("freeze", "frozen"), ("partition", "cut"), ("heal", "healed")] {
        let answer = judge.post(200, "/v1/lab", &json!({"token": token, "action": action, "nodes": [other]})).json();
        assert!(answer["results"].to_string().contains(done), "{answer}");
        judge.get(200, "/v1/lab");
    }
    judge.post(200, "/v1/lab", &json!({"token": token, "action": "thaw", "nodes": [other], "for_ms": null}));
    judge.cluster.settle().unwrap();
}

fn cluster_and_pages(judge: &mut Judge) {
    judge.get(200, "/v1/status");
    judge.begin("/v1/stream?since=0", 2000);
    judge.begin("/v1/watch", 100);
    judge.begin("/v1/hold", 1);
    judge.get(200, "/v1/events");
    judge.get(200, "/v1/events?since=999999&wait=10ms");
    judge.get(200, "/v1/gossip");
    judge.get(200, "/v1/members");
    judge.get(200, "/v1/members/1");
    judge.get(404, "/v1/members/77");
    let new_node = json!({"id": 8, "uuid": "0b0d7d8a-9c4e-4f5e-8f5b-0f6f7a1b2c3d"});
    judge.post(200, "/v1/members", &new_node);
    judge.post(409, "/v1/members/8", &json!({"membership": "voter"}));
    judge.post(400, "/v1/members/8", &json!({"action": "crown"}));
    judge.delete(200, "/v1/members/8");
    judge.post(200, "/v1/members/8", &json!({"uuid": "0b0d7d8a-9c4e-4f5e-8f5b-0f6f7a1b2c3e"}));
    judge.delete(200, "/v1/members/8");
    judge.post(200, "/v1/digests", &json!({}));
    judge.post(400, "/v1/digests", &json!({"part": "kv"}));
    judge.get(200, "/v1/digests");
    judge.post(409, "/v1/leader/transfer", &json!({"to": 77}));
    let leader = judge.get(200, "/v1/status").json()["cluster"]["leader"].as_u64().unwrap();
    judge.post(200, "/v1/leader/transfer", &json!({"to": leader % 3 + 1}));
    lab(judge);
    judge.get(200, "/livez");
    judge.get(200, "/metrics");
    judge.begin("/", 2000);
    judge.get(200, "/chat");
    judge.get(200, "/static/app.js");
    judge.get(404, "/static/nothing.js");
    judge.get(200, "/openapi.json");
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    for (status, password) in [(303, PASSWORD), (401, "wrong")] {
        let body = format!("password={password}&next=/");
        judge.send(status, "POST", "/login", form, body.as_bytes(), usize::MAX);
    }
    judge.post(204, "/logout", &json!({}));
}

#[test]
fn every_operation_answers_as_it_is_described() {
    let as_shell = |language: &str| json!({"language": language, "file_name": "main.sh", "probe": ["sh", "-c", "true"], "run": ["sh", "{file}"]});
    // No compiler is wanted here: what is judged are the answers.
    // The timeout is waited for in full by what is asked of a node without a quorum.
    let settings = json!({
        "jobs_enabled": true, "runtimes": [as_shell("shell"), as_shell("java")], "request_timeout_ms": 1500,
        "client_password": PASSWORD, "takeover_after_ms": 0,
    });
    let mut cluster = Cluster::prepare(EXE, &settings).unwrap();
    (1..=3).for_each(|id| cluster.spawn(id, &["--lab"]).unwrap());
    cluster.settle().unwrap();
    wait_workers(&cluster, 3).unwrap();
    let leader = cluster.settle().unwrap();
    // A follower, so that writes go on to somebody else.
    let at = leader % 3 + 1;
    let document = ask(&cluster.http(at), "GET", "/openapi.json", CLIENT, b"", usize::MAX);
    let document = Document::new(&document.body);
    let mut judge = Judge { document, cluster: &cluster, at, token: String::new(), seen: BTreeSet::new() };
    cluster
        .wait_until("the node is ready", std::time::Duration::from_secs(30), || {
            (ask(&cluster.http(at), "GET", "/readyz", "", b"", usize::MAX).status == 200).then_some(())
        })
        .unwrap();
    judge.get(200, "/readyz?verbose");
    keys_and_locks(&mut judge);
    jobs(&mut judge);
    database(&mut judge);
    chat(&mut judge);
    cluster_and_pages(&mut judge);
    assert_eq!(missing(&judge.document, &judge.seen), Vec::<String>::new(), "never seen to succeed");

    // Without a quorum: refused or unknown, and stale reads go on.
    let Judge { document, seen, .. } = judge;
    for id in (1..=3).filter(|id| *id != at) {
        cluster.kill(id).unwrap();
    }
    let mut judge = Judge { document, cluster: &cluster, at, token: String::new(), seen };
    cluster
        .wait_until("the others are missed", std::time::Duration::from_secs(30), || {
            (ask(&cluster.http(at), "GET", "/readyz", "", b"", usize::MAX).status == 503).then_some(())
        })
        .unwrap();
    judge.get(503, "/readyz?verbose");
    judge.put(503, "/v1/kv/a", b"late");
    judge.get(503, "/v1/kv/a");
    judge.get(200, "/v1/kv/a?level=eventual");
    judge.get(200, "/db/query?q=SELECT+1&level=none");
    judge.get(503, "/db/query?q=SELECT+1");
    judge.post(503, "/v1/leader/transfer", &json!({}));
    judge.get(200, "/v1/status");
}
