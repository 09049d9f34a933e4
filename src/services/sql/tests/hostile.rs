//! Statements of bad will: each is refused with a sentence or ends in time, and the database is as before.
//!
//! Not here: what must be the same everywhere (`same.rs`).

use super::shell::{Node, in_words};
use std::time::Instant;

fn node() -> Node {
    let mut node = Node::default();
    node.execute(&[
        "CREATE TABLE t (id INTEGER PRIMARY KEY, n)",
        "INSERT INTO t(n) VALUES(1), (2)",
        "CREATE TABLE auto (id INTEGER PRIMARY KEY AUTOINCREMENT)",
        "CREATE VIRTUAL TABLE f USING fts5(body)",
        "INSERT INTO f VALUES('word')",
    ]);
    node
}

#[test]
fn what_reaches_out_or_differs_is_refused() {
    let mut node = node();
    let before = node.registry.digests().1;
    let refused = [
        "ATTACH '/etc/passwd' AS x",
        "DETACH main",
        "VACUUM",
        "VACUUM INTO '/tmp/x'",
        "ANALYZE",
        "CREATE TEMP TABLE x (a)",
        "CREATE TEMP VIEW x AS SELECT 1",
        "CREATE TABLE temp.x (a)",
        "CREATE TEMP TRIGGER x AFTER INSERT ON t BEGIN SELECT 1; END",
        "SELECT load_extension('x')",
        "SELECT total_changes()",
        "SELECT sqlite_log(1, 'x')",
        "SELECT fts3_tokenizer('simple')",
        "SELECT readfile('/etc/passwd')",
        "PRAGMA journal_mode = DELETE",
        "PRAGMA journal_mode",
        "PRAGMA synchronous = OFF",
        "PRAGMA writable_schema = ON",
        "PRAGMA foreign_keys = ON",
        "PRAGMA database_list",
        "PRAGMA temp_store_directory = '/tmp'",
        "PRAGMA data_store_directory = '/tmp'",
        "PRAGMA integrity_check",
        "PRAGMA page_count",
        "PRAGMA schema_version",
        "PRAGMA schema_version = 1",
        "PRAGMA encoding = 'UTF-16'",
        "PRAGMA optimize",
        "PRAGMA data_version",
        "SELECT * FROM pragma_data_version",
        "PRAGMA hard_heap_limit = 1",
        "PRAGMA wal_checkpoint",
        "PRAGMA case_sensitive_like = ON",
        "SELECT * FROM pragma_database_list",
        "SELECT * FROM pragma_page_count",
        "SELECT * FROM dbstat",
        "SELECT * FROM sqlite_dbpage",
        "SELECT * FROM _phalanx",
        "SELECT count(*) FROM _PHALANX",
        "INSERT INTO _phalanx VALUES(1, 1)",
        "DROP TABLE _phalanx",
        "CREATE TABLE _phalanx_own (a)",
        "CREATE INDEX i ON _phalanx(data)",
        "CREATE TRIGGER r AFTER INSERT ON _phalanx BEGIN DELETE FROM t; END",
        "ALTER TABLE _phalanx RENAME TO x",
        "INSERT INTO sqlite_schema VALUES('table', 'x', 'x', 2, 'CREATE TABLE x (a)')",
        "UPDATE sqlite_schema SET sql = ''",
        "UPDATE f_data SET block = x'00'",
        "DROP TABLE f_data",
        "DELETE FROM f_content",
        "CREATE VIRTUAL TABLE x USING fts3(a)",
        "CREATE VIRTUAL TABLE x USING dbstat",
        "CREATE VIRTUAL TABLE temp.x USING fts5(a)",
        "EXPLAIN SELECT 1",
        "BEGIN",
        "END",
        "SAVEPOINT c",
        "RELEASE c",
        "ROLLBACK TO c",
        "CREATE TRIGGER r AFTER INSERT ON t BEGIN SELECT RAISE(ROLLBACK, 'x'); END",
        "CREATE TABLE r (a UNIQUE ON CONFLICT ROLLBACK)",
        "INSERT INTO t(id) VALUES(9223372036854775807)",
        "UPDATE t SET id = 9223372036854775807 WHERE id = 1",
        "INSERT INTO sqlite_sequence VALUES('auto', 9223372036854775807)",
        "INSERT INTO sqlite_sequence VALUES('auto', 'x')",
        "CREATE INDEX i ON t(date(n))",
        "CREATE TABLE g (a, b AS (random()))",
        "SELECT 1; SELECT 2",
        "SELECT zeroblob(5000000)",
        "SELECT hex(randomblob(5000000))",
        "SELECT printf('%.*c', 5000000, 'x')",
        "SELECT\0 1",
    ];
    for sql in refused {
        let said = in_words(&node.execute(&[sql])[0]);
        assert!(said.starts_with("failed: "), "{sql}: {said}");
        println!("{sql}\n    {said}");
        assert_eq!(node.registry.digests().1, before, "{sql}");
    }
    let deep = format!("SELECT {}1{}", "(".repeat(5000), ")".repeat(5000));
    let wide = format!("SELECT {}", vec!["1"; 5000].join(","));
    let many = "SELECT 1;".repeat(100_000);
    let union = vec!["SELECT 1"; 5000].join(" UNION ");
    for sql in [&deep, &wide, &many, &union] {
        let said = in_words(&node.execute(&[sql])[0]);
        assert!(said.starts_with("failed: "), "{sql:.40}: {said:.100}");
    }
    for sql in [
        "PRAGMA table_info(t)",
        "SELECT name FROM pragma_table_info('t')",
        "PRAGMA user_version = 7",
        "PRAGMA user_version",
        "PRAGMA foreign_keys",
        "ALTER TABLE t ADD COLUMN c INTEGER NOT NULL DEFAULT 1 CHECK(c > 0)",
        "ALTER TABLE t RENAME COLUMN c TO d",
        "ALTER TABLE t DROP COLUMN d",
        "ALTER TABLE auto RENAME TO auto2",
        "DROP TABLE auto2",
        "SELECT sql, rootpage FROM sqlite_schema",
        "REINDEX",
        "EXPLAIN QUERY PLAN SELECT 1",
        "CREATE VIRTUAL TABLE r USING rtree(id, a, b)",
        "DROP TABLE f",
    ] {
        let said = in_words(&node.execute(&[sql])[0]);
        assert!(!said.starts_with("failed: "), "{sql}: {said}");
    }
}

/// What takes longest among what is known: run with `--ignored --nocapture` for the times.
fn endless() -> Vec<(&'static str, String)> {
    let rows = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT sum(";
    let of = |work: &str| format!("{rows}{work}) FROM c");
    vec![
        ("counting", of("x")),
        ("short hex", of("length(hex(zeroblob(30000)))")),
        ("long hex", of("length(hex(zeroblob(1000000)))")),
        ("long concatenation", of("length(zeroblob(2000000) || x)")),
        ("instr", of("instr(hex(zeroblob(20000)), hex(zeroblob(10000)) || '1')")),
        ("replace", of("length(replace(hex(zeroblob(20000)), '00000001', 'x'))")),
        ("like", of("hex(zeroblob(20000)) LIKE '%0%0%0%0%0%0%0%1'")),
        ("glob", of("hex(zeroblob(20000)) GLOB '*0*0*0*0*0*0*0*1'")),
        ("trim", of("length(trim(hex(zeroblob(20000)), hex(zeroblob(20000))))")),
        ("json", of("json_array_length('[' || rtrim(replace(hex(zeroblob(10000)), '0', '1,'), ',') || ']')")),
        ("format", of("length(format('%60000d', x))")),
        ("quote", of("length(quote(zeroblob(30000)))")),
        ("dates", of("length(datetime(x, 'unixepoch'))")),
    ]
}

#[test]
fn a_runaway_ends() {
    let mut node = node();
    for (name, sql) in endless().into_iter().filter(|(name, _)| ["counting", "instr", "like"].contains(name)) {
        let said = in_words(&node.execute(&[&sql])[0]);
        assert_eq!(said, "failed: the request takes too many steps", "{name}");
    }
}

#[test]
#[ignore = "measures for minutes"]
fn how_long_a_runaway_takes() {
    let mut node = node();
    for (name, sql) in endless() {
        let begun = Instant::now();
        let said = in_words(&node.execute(&[&sql])[0]);
        println!("{name}: {:.1} s, {said}", begun.elapsed().as_secs_f64());
    }
}
