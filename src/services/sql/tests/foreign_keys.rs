//! Foreign keys where a script does not reach: rollbacks of a whole entry, files, dumps of the tool, and what they cost.

use super::script_runner::{Node, answer, load_file, outcome_text, request};
use crate::services::sql::commands::STEPS_MAX;
use crate::services::sql::{Answer, Command, Outcome, RunKind};
use rusqlite::{Connection, MAIN_DB};
use std::process;

const TABLES: [&str; 2] =
    ["CREATE TABLE p(id INTEGER PRIMARY KEY, b)", "CREATE TABLE c(p INTEGER REFERENCES p(id) ON DELETE CASCADE, b)"];

fn enforcing() -> Node {
    let mut node = Node::default();
    node.execute(&TABLES);
    node.entry(0, &[Command::SetForeignKeys { are_enforced: true }]);
    node
}

fn run(sql: &str) -> Command {
    Command::Run(request(&[sql], RunKind::Execute, 1))
}

fn is_broken(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Failed(why) if why == "FOREIGN KEY constraint failed")
}

#[test]
fn an_entry_that_is_rolled_back_runs_again_as_before() {
    let mut node = Node::default();
    node.execute(&TABLES);
    // SQLite rolls back everything when it interrupts the last command; what came before runs again.
    let endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) INSERT INTO p SELECT NULL, x FROM n";
    let commands = [
        run("INSERT INTO c VALUES(1, 'an orphan')"),
        Command::SetForeignKeys { are_enforced: true },
        run("INSERT INTO c VALUES(2, 'refused')"),
        run(endless),
        run("INSERT INTO c VALUES(3, 'refused')"),
    ];
    let replies = node.entry(0, &commands);
    let words: Vec<String> = replies.into_iter().map(|reply| format!("{:?}", answer(reply))).collect();
    assert!(words[0].contains("Changed") && words[1] == "Done", "{words:?}");
    assert!(words[2].contains("FOREIGN KEY") && words[4].contains("FOREIGN KEY"), "{words:?}");
    assert!(words[3].contains("too many steps") || words[3].contains("Busy"), "{words:?}");
    assert_eq!(outcome_text(&node.read("SELECT p FROM c")), "[p:integer]\n  1");
}

#[test]
fn a_database_file_keeps_the_setting_and_brings_its_rows() {
    let mut node = enforcing();
    let mut conn = Connection::open_in_memory().unwrap();
    conn.execute_batch(&TABLES.join(";")).unwrap();
    conn.execute_batch("PRAGMA foreign_keys = OFF; INSERT INTO c VALUES(5, 'an orphan')").unwrap();
    let image = conn.serialize(MAIN_DB).unwrap().to_vec();
    conn.execute_batch("DROP TABLE c").unwrap();
    assert_eq!(load_file(&mut node, &image), Answer::Done);
    assert!(is_broken(&node.execute(&["INSERT INTO c VALUES(6, 'refused')"])[0]));
    assert_eq!(outcome_text(&node.read("SELECT p FROM c")), "[p:integer]\n  5");
}

#[test]
fn a_deletion_pays_for_the_rows_that_it_takes_with_it() {
    let mut node = enforcing();
    let fill = |table: &str, count: u32| {
        format!(
            "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < {count}) INSERT INTO {table} SELECT x, 'b' FROM n"
        )
    };
    for sql in [fill("p", 2_000), fill("c", 2_000)] {
        assert!(matches!(node.execute(&[&sql])[0], Outcome::Changed { rows_affected: 2_000, .. }));
    }
    // Without an index each parent's children are found by a scan: four million rows are looked at.
    let all = node.execute(&["DELETE FROM p"]);
    assert!(matches!(&all[0], Outcome::Failed(why) if why.contains("too many steps")), "{all:?}");
    for sql in ["DELETE FROM p WHERE id <= 10", "CREATE INDEX i ON c(p)", "DELETE FROM p WHERE id <= 1000"] {
        let few = node.execute(&[sql]);
        assert!(matches!(few[0], Outcome::Changed { .. }), "{sql}: {few:?}");
    }
    assert_eq!(outcome_text(&node.read("SELECT count(*) FROM c")), "[count(*):integer]\n  1000");
    const { assert!(STEPS_MAX < 4_000_000 * 100) }
}

/// What Debian's tool writes, of the version that is installed.
#[test]
fn dumps_of_the_tool_itself_load() {
    let tool = |sql: &str| {
        let done = process::Command::new("sqlite3").arg(":memory:").arg(format!("{sql}\n.dump")).output();
        done.ok().filter(|done| done.status.success()).map(|done| String::from_utf8(done.stdout).unwrap())
    };
    if tool("SELECT 1;").is_none() {
        println!("skipped: sqlite3 is not installed");
        return;
    }
    let load = |node: &mut Node, sql: &str| {
        answer(node.entry(0, &[Command::LoadDump { sql: sql.to_string(), seed: 1 }]).pop().unwrap())
    };
    let dump = tool(
        "CREATE TABLE t(a PRIMARY KEY, b AS (a + 1)); INSERT INTO t VALUES(1); CREATE TABLE \"w_own\"(x); \
         INSERT INTO w_own VALUES(1); CREATE TRIGGER r AFTER INSERT ON t BEGIN INSERT INTO w_own VALUES(2); END; ANALYZE;",
    )
    .unwrap();
    assert!(dump.contains("sqlite_stat1"), "{dump}");
    for ends in ["\n", "\r\n"] {
        let mut node = Node::default();
        let sql = format!("\u{feff}{}", dump.replace('\n', ends));
        assert_eq!(load(&mut node, &sql), Answer::Done);
        node.execute(&["INSERT INTO t VALUES(5)"]);
        for (sql, expected) in [
            ("SELECT group_concat(x) || ',' || (SELECT max(b) FROM t) FROM w_own", "'1,2,6'"),
            ("SELECT count(*) FROM sqlite_schema WHERE name GLOB 'sqlite_stat*'", "0"),
        ] {
            let found = outcome_text(&node.read(sql));
            assert_eq!(found.lines().last().unwrap().trim(), expected, "{sql}");
        }
        // A log of before means the same as then.
        let old = node.entry(0, &[Command::Load { sql, seed: 1 }]).pop().unwrap();
        assert!(matches!(answer(old), Answer::Refused(why) if why.contains("t already exists")));
        let old = node.entry(0, &[Command::Load { sql: "ANALYZE;".to_string(), seed: 1 }]).pop().unwrap();
        assert!(matches!(answer(old), Answer::Refused(why) if why.contains("ANALYZE")));
    }
    // The log takes no virtual table in this form: an endpoint has rewritten it, or somebody has avoided the endpoint.
    let with_words = tool("CREATE VIRTUAL TABLE w USING fts5(a); INSERT INTO w VALUES('one');").unwrap();
    let refused = load(&mut Node::default(), &with_words);
    assert!(matches!(&refused, Answer::Refused(why) if why.contains("load that")), "{refused:?}");
}
