//! The database's doors before a host without a node: what they make of requests, and of a host that refuses or does
//! not know.

use crate::fake_host::{Served, patient, serve};
use phalanx::outcome::{self, NoLeader, Reason, UnknownReason};
use phalanx::services::sql::{Answer, Command, Outcome, ReadLevel, RunKind, Statement};
use serde_json::json;
use std::io::{Read, Write};
use std::time::Duration;

const JSON: &str = "Content-Type: application/json\r\n";

fn door() -> Served {
    let served = serve(patient());
    *served.host.sql_answer.lock().unwrap() =
        Answer::Results(vec![Outcome::Changed { last_insert_id: 1, rows_affected: 1 }]);
    served
}

#[test]
fn a_key_that_is_too_long_is_refused_whatever_the_statements_do() {
    let (served, key) = (door(), "k".repeat(256));
    for body in [r#"["SELECT 1"]"#, r#"["DELETE FROM a"]"#] {
        let answer = served.ask("POST", "/db/execute", &format!("{JSON}Idempotency-Key: {key}\r\n"), body);
        assert_eq!(answer.status, 400, "{body}");
    }
}

#[test]
fn requests_become_commands_and_reads() {
    let served = door();
    let body = r#"[["INSERT INTO a VALUES(?)", 1]]"#;
    let answer = served.ask("POST", "/db/execute?transaction", JSON, body);
    assert_eq!((answer.status, answer.header("x-phalanx-index")), (200, Some("81")));
    assert_eq!(answer.json(), json!({"results": [{"last_insert_id": 1, "rows_affected": 1}]}));
    served.ask("POST", "/db/execute", &format!("{JSON}Idempotency-Key: a\r\n"), body);
    served.ask("POST", "/db/execute", &format!("{JSON}Idempotency-Key: a\r\n"), body);
    served.ask("POST", "/db/request", JSON, r#"["SELECT 1", "DELETE FROM a"]"#);
    let queued = served.ask("POST", "/db/execute?queue&wait&timeout=2s", JSON, body);
    assert_eq!(queued.json()["sequence_number"], 81);
    let commands = std::mem::take(&mut *served.host.sql_commands.lock().unwrap());
    let runs: Vec<_> = commands
        .iter()
        .map(|(tag, command)| match command {
            Command::Run(run) => (tag.is_some(), run.is_transaction, run.kind, run.seed),
            other => panic!("{other:?}"),
        })
        .collect();
    let shapes: Vec<_> = runs.iter().map(|(tag, is_transaction, kind, _)| (*tag, *is_transaction, *kind)).collect();
    assert_eq!(
        shapes,
        [
            (false, true, RunKind::Execute),
            (true, false, RunKind::Execute),
            (true, false, RunKind::Execute),
            (false, false, RunKind::Request),
            (false, false, RunKind::Execute)
        ]
    );
    assert_eq!(commands[1].0, commands[2].0, "one key, one tag");
    assert_ne!(runs[0].3, runs[1].3, "each draws its own seed");

    for target in [
        "/db/query?q=SELECT+%27a%2Bb%27&level=none&freshness=1m1.5s",
        "/db/query?q=SELECT+%27a%2Bb%27&level=weak",
        "/db/query?q=SELECT+%27a%2Bb%27&level=strong",
        "/db/query?q=SELECT+%27a%2Bb%27",
        "/db/query?q=SELECT+%27a%2Bb%27&noleader",
    ] {
        assert_eq!(served.get(target).status, 200, "{target}");
    }
    for target in ["/db/request", "/db/request?level=strong&queue", "/db/execute"] {
        assert_eq!(served.ask("POST", target, JSON, r#"["SELECT 'a+b'"]"#).status, 200, "{target}");
    }
    let reads = std::mem::take(&mut *served.host.sql_reads.lock().unwrap());
    assert!(reads.iter().all(|read| read.statements == [Statement::bare("SELECT 'a+b'")]), "{reads:?}");
    let levels: Vec<_> = reads.iter().map(|read| read.level).collect();
    use ReadLevel::{Linearizable, None as Any, Strong, Weak};
    assert_eq!(levels, [Any, Weak, Strong, Linearizable, Any, Linearizable, Strong, Linearizable]);
    assert_eq!((reads[0].freshness, reads[3].freshness), (Some(Duration::from_millis(61_500)), None));
    assert!(served.host.sql_commands.lock().unwrap().is_empty(), "what only reads needs no log");
}

#[test]
fn refused_and_unknown_outcomes_are_distinguished() {
    let served = door();
    let body = r#"["INSERT INTO a VALUES(1)"]"#;
    for (outcome, status, said) in [
        (outcome::Outcome::Refused(Reason::NoLeader(NoLeader::NotInTime)), 503, "refused"),
        (outcome::Outcome::Unknown(UnknownReason::LeaderLost), 504, "unknown"),
    ] {
        *served.host.refusal.lock().unwrap() = Some(outcome);
        for target in ["/db/execute", "/db/query", "/db/request"] {
            let answer = served.ask("POST", target, JSON, body);
            assert_eq!((answer.status, &answer.json()["outcome"]), (status, &json!(said)), "{target}");
        }
        // A file's pieces change no table, so nothing is in doubt.
        let file = "Content-Type: application/octet-stream\r\n";
        let answer = served.ask("POST", "/db/load", file, "SQLite format 3\0...");
        assert_eq!((answer.status, &answer.json()["outcome"]), (503, &json!("refused")), "{answer:?}");
        // It had begun: the end is missing, and the client knows.
        let mut stream = served.connect();
        stream.write_all(b"GET /db/backup HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        assert!(all.starts_with(b"HTTP/1.1 200") && !all.ends_with(b"0\r\n\r\n"), "{} bytes", all.len());
        assert_eq!(served.get("/db/backup?fmt=sql").status, status, "nothing had been sent");
    }
    *served.host.refusal.lock().unwrap() = None;
    *served.host.sql_answer.lock().unwrap() = Answer::Refused("statement 2: no such table: b".to_string());
    let file = "Content-Type: application/octet-stream\r\n";
    let answer = served.ask("POST", "/db/load", file, "INSERT INTO b VALUES(1)");
    assert_eq!((answer.status, &answer.json()["error"]), (400, &json!("statement 2: no such table: b")));
}

/// The log gets statements that any client may send, in place of rows of the schema and of shadow tables.
#[test]
fn virtual_tables_of_a_dump_are_rewritten_before_the_log() {
    let served = door();
    let load = |sql: &str| served.ask("POST", "/db/load", "Content-Type: application/octet-stream\r\n", sql);
    let row = "INSERT INTO sqlite_schema(type,name,tbl_name,rootpage,sql)VALUES('table','f','f',0,'CREATE VIRTUAL TABLE f USING ";
    let dump = format!("{row}fts5(a)');INSERT INTO f_content VALUES(7,'x');COMMIT;");
    *served.host.sql_answer.lock().unwrap() = Answer::Done;
    assert_eq!(load(&dump).status, 200);
    let sent = match served.host.sql_commands.lock().unwrap().pop() {
        Some((_, Command::LoadDump { sql, .. })) => sql,
        other => panic!("{other:?}"),
    };
    let lines: Vec<&str> = sent.trim().lines().collect();
    let expected = ["CREATE VIRTUAL TABLE f USING fts5(a);", "INSERT INTO \"f\"(rowid,\"a\") VALUES(7,'x');COMMIT;"];
    assert_eq!(lines, expected);
    *served.host.sql_answer.lock().unwrap() = Answer::Refused("statement 2: too long".to_string());
    let answer = load(&dump);
    let why = answer.json()["error"].as_str().unwrap().to_string();
    assert!(answer.status == 400 && why.starts_with("statement 2: too long (statements are counted"), "{why}");
    served.host.sql_commands.lock().unwrap().clear();
    let answer = load(&format!("{row}fts4(a)');"));
    assert!(
        answer.status == 400 && answer.json()["error"].as_str().unwrap().contains("fts4, which is not available"),
        "{answer:?}"
    );
    assert!(served.host.sql_commands.lock().unwrap().is_empty(), "it was refused before the log");
}

#[test]
fn a_backup_leaves_in_chunks_and_ends() {
    let served = door();
    let head = served.ask("HEAD", "/db/backup?fmt=sql", "", "");
    assert_eq!((head.status, head.header("content-type")), (200, Some("application/sql; charset=utf-8")));
    assert_eq!(head.header("content-length"), None, "nobody knows how long it is");
    let mut stream = served.connect();
    stream.write_all(b"GET /db/backup HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    let text = String::from_utf8_lossy(&all[..600]).into_owned();
    assert!(text.contains("Transfer-Encoding: chunked\r\n") && text.contains("filename=\"phalanx.sqlite3\""), "{text}");
    assert!(all.ends_with(b"\r\n0\r\n\r\n"));
    assert_eq!(all.iter().filter(|byte| **byte == 7).count(), 1_000_000);
}
