//! The state after a crash at any moment: nothing runs twice, nothing is skipped, and the replies are kept.
//!
//! Not here: files on a disk (`files.rs`).

use super::script_runner::{Node, answer, outcome_text, request, results};
use crate::services::sql::{Answer, Command, Database, Outcome, Run, RunKind, Statement};
use crate::services::{Reply, sql};

/// A statement that never ends.
pub const ENDLESS: &str =
    "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) INSERT INTO t(n) SELECT x FROM c";

fn command(rng: &mut fastrand::Rng) -> Command {
    let sql = [
        "CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY AUTOINCREMENT, n INTEGER DEFAULT (random()), at TEXT)",
        "INSERT INTO t(at) VALUES(datetime('now'))",
        "INSERT INTO t(n) SELECT n FROM t LIMIT 3",
        "UPDATE t SET n = n + 1",
        "DELETE FROM t WHERE id % 3 = 0",
        "CREATE TABLE IF NOT EXISTS u (a UNIQUE, b, PRIMARY KEY(b)) WITHOUT ROWID",
        "INSERT INTO u VALUES(abs(random()) % 20, abs(random()) % 20)",
        "ALTER TABLE t ADD COLUMN extra",
        "CREATE VIRTUAL TABLE IF NOT EXISTS f USING fts5(body)",
        "INSERT INTO f VALUES(hex(randomblob(4)) || ' word')",
        "DELETE FROM f WHERE rowid IN (SELECT rowid FROM f LIMIT 1)",
        "DROP TABLE IF EXISTS u",
        "SELECT last_insert_rowid(), changes(), count(*) FROM t",
    ];
    let statements = (0..rng.usize(1..4)).map(|_| Statement::bare(sql[rng.usize(0..sql.len())])).collect();
    Command::Run(Run { statements, is_transaction: rng.bool(), kind: RunKind::Request, seed: rng.u64(..) })
}

#[test]
fn a_crash_after_any_entry_changes_nothing() {
    for seed in 0..6 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (mut steady, mut shaky) = (Node::default(), Node::default());
        // What earlier crashes left behind: a power failure may restore an older file of the same node.
        let mut files: Vec<Vec<u8>> = Vec::new();
        for at_ms in 0..60 {
            let commands: Vec<Command> = (0..rng.usize(1..4)).map(|_| command(&mut rng)).collect();
            let replies = steady.entry(at_ms * 1000, &commands);
            assert_eq!(shaky.entry(at_ms * 1000, &commands), replies, "seed {seed} entry {at_ms}");
            if rng.u8(0..5) == 0 {
                shaky.take_snapshot();
            }
            files.push(shaky.registry.sql().image());
            match rng.u8(0..4) {
                0 => shaky.crash(),
                1 => {
                    let file = &files[rng.usize(0..files.len())];
                    shaky.start_from(Some(Database::survivor(file)));
                }
                2 => shaky.start_from(None),
                _ => {}
            }
            assert_eq!(shaky.registry.digests(), steady.registry.digests(), "seed {seed} entry {at_ms}");
        }
    }
}

#[test]
fn a_runaway_takes_no_other_command_along() {
    let (mut one, mut two) = (Node::default(), Node::default());
    let run = |sql: &[&str]| Command::Run(request(sql, RunKind::Execute, 3));
    for node in [&mut one, &mut two] {
        node.execute(&["CREATE TABLE t (id INTEGER PRIMARY KEY, n)"]);
        let commands = [
            run(&["INSERT INTO t(n) VALUES(random())"]),
            run(&["INSERT INTO t(n) VALUES(1)", "INSERT INTO t(id) VALUES(1)", ENDLESS, "INSERT INTO t(n) VALUES(2)"]),
            run(&["INSERT INTO t(n) VALUES(3)"]),
        ];
        let replies = node.entry(9, &commands);
        let said: Vec<String> = results(replies[1].clone()).iter().map(outcome_text).collect();
        assert_eq!(
            said[1..],
            [
                "failed: UNIQUE constraint failed: t.id",
                &format!("failed: {}", crate::services::sql::errors::BUDGET_EXCEEDED),
                "failed: not executed: the request ended with the previous statement",
            ]
        );
        let Outcome::Rows { values, .. } = node.read("SELECT id, n FROM t WHERE n < 10 AND n > 0") else { panic!() };
        assert_eq!(format!("{values:?}"), "[[Integer(2), Integer(1)], [Integer(3), Integer(3)]]");
    }
    two.crash();
    assert_eq!(one.registry.digests(), two.registry.digests());
    two.start_from(None);
    assert_eq!(one.registry.digests(), two.registry.digests());
}

#[test]
fn a_partly_applied_entry_is_continued() {
    let run = |sql: &[&str]| Command::Run(request(sql, RunKind::Execute, 3));
    let make = || {
        let mut node = Node::default();
        node.execute(&["CREATE TABLE t (id INTEGER PRIMARY KEY, n)"]);
        node
    };
    let (mut whole, mut part) = (make(), make());
    let first = run(&["INSERT INTO t(n) VALUES(7)"]);
    let commands = [first.clone(), run(&[ENDLESS]), run(&["UPDATE t SET n = n + 1"])];
    let replies = whole.entry(9, &commands);
    // The file after the early commit: the interrupted command is in it, the third one is not.
    part.entry(9, &commands[..2]);
    let file = part.registry.sql().image();
    whole.start_from(Some(Database::survivor(&file)));
    assert_eq!(replies.len(), 3);
    let Outcome::Rows { values, .. } = whole.read("SELECT n FROM t") else { panic!() };
    assert_eq!(format!("{values:?}"), "[[Integer(8)]]");
    let mut again = make();
    again.entry(9, &commands);
    assert_eq!(whole.registry.digests(), again.registry.digests());
}

#[test]
fn a_file_comes_through_the_log_and_into_place() {
    let other = rusqlite::Connection::open_in_memory().unwrap();
    other
        .execute_batch(
            "CREATE TABLE a (id INTEGER PRIMARY KEY AUTOINCREMENT, x); INSERT INTO a(x) VALUES(1.5), ('two'), (x'03');
             DELETE FROM a WHERE id = 2; CREATE INDEX i ON a(x); CREATE VIEW v AS SELECT x FROM a;
             CREATE TABLE w (k PRIMARY KEY, rowid) WITHOUT ROWID; INSERT INTO w VALUES('k', 'r');
             CREATE VIRTUAL TABLE f USING fts5(body); INSERT INTO f VALUES('hello world'), ('hello you');
             CREATE TABLE u (t TEXT); INSERT INTO u VALUES(CAST(x'ff41' AS TEXT));
             CREATE TABLE g (a, b AS (a + 1)); INSERT INTO g VALUES(4); PRAGMA user_version = 9; ANALYZE;",
        )
        .unwrap();
    let mut other = other;
    let image = other.serialize(rusqlite::MAIN_DB).unwrap().to_vec();
    let mut node = Node::default();
    node.execute(&["CREATE TABLE old (x)", "CREATE VIRTUAL TABLE g USING fts5(y)", "INSERT INTO old VALUES(1)"]);
    assert_eq!(super::script_runner::load_file(&mut node, &image), Answer::Done);
    for (sql, wanted) in [
        ("SELECT id, x FROM a", "[[Integer(1), Real(1.5)], [Integer(3), Blob([3])]]"),
        ("SELECT rowid FROM f WHERE f MATCH 'you'", "[[Integer(2)]]"),
        ("SELECT * FROM g", "[[Integer(4), Integer(5)]]"),
        ("SELECT hex(t), typeof(t) FROM u", "[[Text(\"FF41\"), Text(\"text\")]]"),
        ("SELECT count(*) FROM sqlite_schema WHERE name IN ('old', 'sqlite_stat1', 'sqlite_stat4')", "[[Integer(0)]]"),
        ("SELECT seq FROM sqlite_sequence", "[[Integer(3)]]"),
        ("PRAGMA user_version", "[[Integer(9)]]"),
    ] {
        let Outcome::Rows { values, .. } = node.read(sql) else { panic!("{sql}: {:?}", node.read(sql)) };
        assert_eq!(format!("{values:?}"), wanted, "{sql}");
    }
    node.execute(&["INSERT INTO f VALUES('you again')"]);
    let before = node.registry.digests();
    node.crash();
    assert_eq!(node.registry.digests(), before);
    node.start_from(None);
    assert_eq!(node.registry.digests(), before);
    // A file that is not a database, is damaged, or contains something that is not allowed changes nothing.
    let mut damaged = image.clone();
    damaged[4096..4300].fill(0xAA);
    let views = rusqlite::Connection::open_in_memory().unwrap();
    views.execute_batch("CREATE TABLE t (x); CREATE VIRTUAL TABLE other USING fts3(body)").unwrap();
    let mut views = views;
    let hostile = views.serialize(rusqlite::MAIN_DB).unwrap().to_vec();
    for bytes in [b"not a database".to_vec(), image[..3000].to_vec(), damaged, hostile] {
        let answer = super::script_runner::load_file(&mut node, &bytes);
        assert!(matches!(answer, Answer::Refused(_)), "{answer:?}");
        println!("{answer:?}");
        assert_eq!(node.registry.digests().1, before.1);
    }
}

#[test]
fn a_dump_loaded_elsewhere_gives_the_same_content() {
    let mut rng = fastrand::Rng::with_seed(5);
    let mut node = Node::default();
    for at_ms in 0..40 {
        node.entry(at_ms, &[command(&mut rng)]);
    }
    // Tools that read line by line treat a carriage return as part of the line ending.
    node.execute(&["CREATE TABLE lines (x)", "INSERT INTO lines VALUES('a' || char(13, 10) || 'b')"]);
    let dump = node.dump();
    assert!(dump.contains("CAST(X'610D0A62' AS TEXT)") && !dump.contains('\r'));
    let mut other = Node::default();
    let reply = other.entry(0, &[Command::Load { sql: dump.clone(), seed: 1 }]).pop().unwrap();
    assert_eq!(answer(reply), Answer::Done);
    assert_eq!(other.dump(), dump);
}

#[test]
fn garbage_is_refused_and_changes_nothing() {
    use crate::services::Service as _;
    let mut node = Node::default();
    node.execute(&["CREATE TABLE t (x)"]);
    let before = node.registry.digests();
    let at = crate::types::Stamp::default();
    let mut database = sql::Database::default();
    let whole = Command::Run(request(&["SELECT 1"], RunKind::Query, 1)).encode();
    for garbage in [&[][..], &[0xff; 9], &whole[..whole.len() - 1]] {
        assert!(matches!(database.apply(at, garbage), Reply::Failed(_)));
        assert!(matches!(database.query(at, &[0xff; 3]), Reply::Failed(_)));
    }
    assert_eq!(node.registry.digests(), before);
}
