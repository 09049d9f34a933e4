//! Functions whose result is many times as long as their arguments, and functions that mark matches, in reads and in
//! writes.
//!
//! Not here: their cost (`cost.rs`).

use super::script_runner::{Node, outcome_text};
use crate::services::sql::commands::{Params, Value};
use crate::services::sql::storage::own_table;
use crate::services::sql::{Reader, Statement};
use rusqlite::Connection;
use std::sync::Arc;

/// A reader of a file with long texts (plain, control characters, and JSON) and a full-text table.
fn reader(home: &tempfile::TempDir) -> Reader {
    let path = home.path().join("some.sqlite");
    let conn = Connection::open(&path).unwrap();
    conn.execute_batch(
        "CREATE TABLE long (b, k, j); CREATE VIRTUAL TABLE f USING fts5(x); \
         INSERT INTO long SELECT hex(zeroblob(1300000)), replace(hex(zeroblob(600000)), '0', char(1)), \
            '[1' || replace(hex(zeroblob(200000)), '0', ',1') || ']'; \
         INSERT INTO f VALUES (replace(hex(zeroblob(250)), '0', 'a b ')), (replace(hex(zeroblob(20000)), '0', 'c d '));",
    )
    .unwrap();
    own_table::create(&conn).unwrap();
    Reader::open(&path, Arc::new(|| None)).unwrap()
}

fn ask(reader: &mut Reader, sql: &str, params: Params) -> String {
    outcome_text(&reader.read(&[Statement { sql: sql.to_string(), params }], 0, 0, &mut || ())[0])
}

#[test]
fn a_read_makes_nothing_that_is_many_times_too_long() {
    let home = tempfile::tempdir().unwrap();
    let mut reader = reader(&home);
    let many = |value: &str| vec![value; 120].join(",");
    for call in [
        format!("concat_ws(hex(zeroblob(1000000)), {})", many("''")),
        format!("concat({})", many("b")),
        format!("json_array({})", many("k")),
        format!("json_object({})", many("'a', k").split(',').take(120).collect::<Vec<_>>().join(",")),
        format!("json_set('{{}}', {})", vec!["'$.a', k"; 60].join(",")),
        format!("json_extract(j, {})", many("'$'")),
        format!("json_pretty('{}{}', hex(zeroblob(1000000)))", "[".repeat(900), "]".repeat(900)),
        format!(
            "json_pretty('{}1' || replace(substr(b, 1, 500000), '0', ',1') || '{}')",
            "[".repeat(900),
            "]".repeat(900)
        ),
    ] {
        let said = ask(&mut reader, &format!("SELECT length({call}) FROM long"), Params::None);
        let is_refused = said.contains("too big") || said.contains("too many steps");
        assert!(is_refused, "{call:.60}: {said}");
    }
    for (call, length) in [
        ("concat(b, 'a')".to_string(), 2_600_001),
        ("json_array(k)".to_string(), 0),
        (format!("concat_ws(', ', {})", many("'a'")), 358),
        ("json_extract(j, '$[0]', '$[1]', '$[2]', '$[3]', '$[4]', '$[5]', '$[6]', '$[7]')".to_string(), 17),
        ("json_pretty(substr(j, 1, 100001) || ']')".to_string(), 0),
    ] {
        let said = ask(&mut reader, &format!("SELECT length({call}) FROM long"), Params::None);
        let fails = length == 0 && said.contains("too big");
        assert!(fails || said.ends_with(&format!("  {length}")) || !said.starts_with("failed"), "{call:.60}: {said}");
    }
}

#[test]
fn functions_with_checked_lengths_answer_as_in_sqlite() {
    let plain = Connection::open_in_memory().unwrap();
    let mut node = Node::default();
    node.execute(&["CREATE TABLE made (x)"]);
    for call in [
        "concat('a', 1, 2.5, NULL, x'62', CAST(x'ff' AS TEXT))",
        "concat_ws(', ', 'a', NULL, 1, 2.5, x'62')",
        "concat_ws(NULL, 'a', 'b', 'c')",
        "concat_ws(7, 'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h')",
        "printf('%d|%s|%5.2f|%q', 7, 'a', 1.5, 'it''s')",
        "char(65, 66, 67, 8364)",
        "json_array(1, 'a\"b', NULL, 1.5, json('[1, 2]'), char(1, 9, 10))",
        "json_array(1, 2, jsonb('{\"a\":[1]}'))",
        "hex(jsonb_array(1, 'a', json('{\"a\":1}')))",
        "json_object('a', 1, 'b', json_array(1, 2, 3), 'c', 'x')",
        "json_type(json_array(json_object('a', 1, 'b', 2), 1, 2), '$[0]')",
        "json_array(json_pretty('[1]'), 1, 2)",
        "json_pretty('[1,{\"a\":[]}]', char(9))",
        "json_pretty(jsonb('[1,{\"a\":[]}]'))",
        "json_pretty(NULL)",
        "json_set('{\"a\":1}', '$.a', json('[1]'), '$.b', 'text', '$.c', NULL)",
        "json_extract('{\"a\":[1,2],\"b\":\"c\"}', '$.a', '$.b', '$.d')",
    ] {
        let wanted = format!("SELECT typeof(x) || hex(x) FROM (SELECT {call} AS x)");
        let hex: String = plain.query_row(&wanted, [], |row| row.get(0)).unwrap();
        node.execute(&["DELETE FROM made", &format!("INSERT INTO made SELECT {call}")]);
        let found = outcome_text(&node.read("SELECT typeof(x) || hex(x) FROM made"));
        assert!(found.ends_with(&format!("'{hex}'")), "{call}: {found} {hex}");
    }
    for wrong in ["json_object('a', 1, 'b')", "json_object(1, 2, 3, 4)", "json_array(1, 2, x'ff')", "json_pretty('[')"]
    {
        let wanted = plain.query_row(&format!("SELECT {wrong}"), [], |_| Ok(())).unwrap_err().to_string();
        let found = outcome_text(&node.execute(&[&format!("INSERT INTO made SELECT {wrong}")])[0]);
        let said = found.strip_prefix("failed: ").unwrap();
        assert!(wanted.starts_with(said), "{wrong}: {found} {wanted}");
    }
}

#[test]
fn words_are_marked_in_reads_with_marks_that_are_known() {
    let home = tempfile::tempdir().unwrap();
    let mut reader = reader(&home);
    let text = |text: &str| Params::Positional(vec![Value::Text(text.to_string()), Value::Text("]".to_string())]);
    for _ in 0..2 {
        for sql in [
            "SELECT length(highlight(f, 0, '<b>', '</b>')) FROM f WHERE f MATCH 'a'",
            "SELECT snippet(f, 0, '[', ']', '...', 2) FROM f WHERE f MATCH 'a'",
            "SELECT count(*) FROM (SELECT highlight(f, 0, '[', ']') FROM f('a OR b') ORDER BY rank)",
        ] {
            let said = ask(&mut reader, sql, Params::None);
            assert!(!said.starts_with("failed"), "{sql}: {said}");
        }
        let bound = "SELECT length(highlight(f, 0, ?, ?)) FROM f WHERE f MATCH 'a'";
        assert!(!ask(&mut reader, bound, text("[")).starts_with("failed"));
        for (sql, params) in [
            ("SELECT highlight(f, 0, hex(zeroblob(50000)), '') FROM f WHERE f MATCH 'a'", Params::None),
            ("SELECT snippet(f, 0, '', '', hex(zeroblob(50000)), 3) FROM f WHERE f MATCH 'a'", Params::None),
            (bound, text(&"<".repeat(1000))),
            ("SELECT highlight(f, 0, '<', '>') FROM f WHERE f MATCH upper('a')", Params::None),
        ] {
            let said = ask(&mut reader, sql, params);
            assert!(said.contains("the marks of highlight and snippet"), "{sql}: {said}");
        }
        let said = ask(&mut reader, "SELECT highlight(f, 0, '<', '>') FROM f WHERE f MATCH 'c'", Params::None);
        assert!(said.contains("split longer texts into several rows"), "{said:.200}");
        // Reads that do not mark matches may still return long texts.
        assert!(!ask(&mut reader, "SELECT count(x) FROM f WHERE f MATCH 'c'", Params::None).starts_with("failed"));
    }
}

#[test]
fn writes_cannot_use_fulltext_highlighting() {
    let mut node = Node::default();
    node.execute(&["CREATE VIRTUAL TABLE f USING fts5(x)", "CREATE TABLE t (x)", "INSERT INTO f VALUES('a b')"]);
    node.execute(&["CREATE VIEW v AS SELECT highlight(f, 0, '<', '>') AS x FROM f WHERE f MATCH 'a'"]);
    for sql in [
        "INSERT INTO t SELECT highlight(f, 0, '<', '>') FROM f WHERE f MATCH 'a'",
        "INSERT INTO t SELECT snippet(f, 0, '<', '>', '', 5) FROM f WHERE f MATCH 'a'",
        "INSERT INTO t SELECT x FROM v",
    ] {
        let said = outcome_text(&node.execute(&[sql])[0]);
        assert!(said.contains("not available in requests that write"), "{sql}: {said}");
    }
}
