//! The internal table: hidden from tools, protected from statements of clients, and taken over from older versions.
//!
//! Not here: which statements are refused (`hostile.rs`).

use super::files::{folder, start};
use super::script_runner::{Node, outcome_text};
use crate::services::sql::{Database, Files, bare_image};
use crate::types::Stamp;
use rusqlite::{Connection, MAIN_DB};
use std::process::Command;
use std::sync::Arc;

/// Renames the table to the name used by older versions, which turns a present file into one of an older version.
const AS_BEFORE: &str = "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET name = '_phalanx', tbl_name = '_phalanx', \
    sql = 'CREATE TABLE _phalanx(idx INTEGER PRIMARY KEY, data)' WHERE name = 'sqlite_phalanx'; PRAGMA writable_schema = RESET";

const CONTENT: &[&str] = &[
    "CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, n)",
    "INSERT INTO t(n) VALUES(1), (2), (3)",
    "CREATE VIEW v AS SELECT n FROM t",
];

fn names(conn: &Connection, sql: &str) -> Vec<String> {
    let mut select = conn.prepare(sql).unwrap();
    select.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
}

#[test]
fn a_file_of_an_older_version_can_be_continued() {
    let home = tempfile::tempdir().unwrap();
    let files = folder(home.path(), "n1");
    let (mut node, mut model) = (Node::default(), Node::default());
    start(&mut node, &files);
    for node in [&mut node, &mut model] {
        node.execute(CONTENT);
    }
    node.registry = crate::services::registry::Registry::default();
    let bare = Connection::open(files.path()).unwrap();
    bare.execute_batch(AS_BEFORE).unwrap();
    assert!(names(&bare, "SELECT name FROM sqlite_schema").contains(&"_phalanx".to_string()));
    drop(bare);
    let before = node.log.len() as u64;
    let mut registry = crate::services::registry::Registry::default();
    registry.sql = Database::in_folder(Arc::clone(&files) as Arc<dyn Files>);
    registry.reset_services().unwrap();
    assert_eq!(registry.sql().newest(), before, "the file records its newest entry");
    assert_eq!(registry.take_news(), Vec::<String>::new(), "it was not rebuilt");
    assert!(
        names(&Connection::open(files.path()).unwrap(), "SELECT name FROM sqlite_schema")
            .contains(&"sqlite_phalanx".to_string())
    );
    assert!(files.aside.lock().unwrap().is_empty());
    drop(registry);
    start(&mut node, &files);
    for node in [&mut node, &mut model] {
        node.execute(&["INSERT INTO t(n) VALUES(4)"]);
    }
    let at = Stamp::default();
    let digests = [&node, &model].map(|node| node.registry.sql().digests(at).tables);
    assert_eq!(digests[0], digests[1]);
}

#[test]
fn an_image_of_an_older_version_has_the_digest_of_today() {
    let mut node = Node::default();
    node.execute(CONTENT);
    let image = node.registry.sql().image();
    let mut conn = Connection::open_in_memory().unwrap();
    conn.deserialize_read_exact(MAIN_DB, &image[16..], image.len() - 16, false).unwrap();
    conn.execute_batch(AS_BEFORE).unwrap();
    let bytes = conn.serialize(MAIN_DB).unwrap().to_vec();
    let mut old = image[..8].to_vec();
    old.extend((bytes.len() as u64).to_le_bytes());
    old.extend(bytes);
    let database = Database::survivor(&old);
    assert_eq!(database.newest(), node.registry.sql().newest());
    assert_eq!(database.digests(Stamp::default()), node.registry.sql().digests(Stamp::default()));
    let again = Database::survivor(&database.image());
    assert_eq!(again.digests(Stamp::default()), database.digests(Stamp::default()));
}

/// A tool lists the tables without SQLite's own, and drops the tables that it found.
#[test]
fn dropping_every_table_that_tools_see_leaves_a_working_database() {
    let mut node = Node::default();
    node.execute(CONTENT);
    for list in [
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name",
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite~_%' ESCAPE '~' ORDER BY name",
    ] {
        assert_eq!(outcome_text(&node.read(list)), "[name:text]\n  't'", "{list}");
    }
    let said = outcome_text(&node.execute(&["DROP TABLE sqlite_phalanx"])[0]);
    assert_eq!(said, "failed: table sqlite_phalanx is reserved");
    assert_eq!(outcome_text(&node.execute(&["DROP TABLE t"])[0]), "changed 0, last id 0");
    node.execute(CONTENT);
    assert_eq!(outcome_text(&node.read("SELECT sum(n) FROM v")), "[sum(n):integer]\n  6");
}

#[test]
fn a_backup_has_nothing_of_ours() {
    let home = tempfile::tempdir().unwrap();
    let files = folder(home.path(), "n1");
    let mut node = Node::default();
    start(&mut node, &files);
    node.execute(CONTENT);
    let mut bytes = Vec::new();
    bare_image(&(Arc::clone(&files) as Arc<dyn Files>), false, &mut bytes).unwrap();
    let path = home.path().join("backup.sqlite");
    std::fs::write(&path, &bytes).unwrap();
    let conn = Connection::open(&path).unwrap();
    assert_eq!(names(&conn, "SELECT name FROM sqlite_schema ORDER BY name"), ["sqlite_sequence", "t", "v"]);
    assert_eq!(names(&conn, "PRAGMA integrity_check"), ["ok"]);
    assert_eq!(conn.query_row("PRAGMA freelist_count", [], |row| row.get::<_, i64>(0)).unwrap(), 1, "its page is free");
    // The command line of SQLite, if the machine has it, does not list the internal table of a node's file either.
    for (path, words) in [(&path, ".tables"), (&path, ".dump"), (&files.path(), ".tables"), (&files.path(), ".dump")] {
        let Ok(output) = Command::new("sqlite3").args(["-readonly", path.to_str().unwrap(), words]).output() else {
            return;
        };
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains('t') && !text.contains("phalanx"), "{words} {text}");
    }
}
