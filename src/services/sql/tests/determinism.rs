//! What must be the same on every node, whatever its connection did before.
//!
//! Not here: crashes (`crashes.rs`).

use super::super::connection::configure;
use super::crashes::ENDLESS;
use super::script_runner::{Node, outcome_text, request};
use crate::services::sql::commands::STEPS_MAX;
use crate::services::sql::connection::catalogue;
use crate::services::sql::connection::hook_state::HookState;
use crate::services::sql::connection::hook_state::InternalStatements;
use crate::services::sql::connection::hook_state::Purpose;
use crate::services::sql::{Command, Database, RunKind};
use rusqlite::Connection;
use std::collections::BTreeSet;
use std::sync::Arc;

/// SQLite's features, our decisions about them, and the statements of the manual about them: a new feature of a later
/// SQLite fails here until a decision about it is recorded.
#[test]
fn every_function_pragma_and_module_is_decided_and_documented() {
    let mut conn = Connection::open_in_memory().unwrap();
    let hooks = Arc::new(HookState::default());
    configure(&mut conn, &hooks, Purpose::Read, None).unwrap();
    let _own = InternalStatements::begin(&hooks);
    let of = |sql: &str| -> BTreeSet<String> {
        conn.prepare(sql).unwrap().query_map([], |row| row.get(0)).unwrap().map(rusqlite::Result::unwrap).collect()
    };
    let functions = of("SELECT DISTINCT name FROM pragma_function_list");
    let pragmas = of("SELECT name FROM pragma_pragma_list");
    let mut modules = of("SELECT name FROM pragma_module_list WHERE name NOT GLOB 'pragma_*'");
    // Eponymous tables, which come into existence when they are first named.
    modules.extend(catalogue::TABLES.iter().map(|name| name.to_string()));
    let manual = include_str!("../../../../docs/sql.md");
    let listed = |heading: &str| -> BTreeSet<String> {
        let line = manual.lines().find(|line| line.starts_with(&format!("| {heading} |")));
        let cell = line.unwrap_or_else(|| panic!("docs/sql.md lists no {heading}")).split(" | ").nth(1).unwrap();
        cell.split('`').skip(1).step_by(2).map(str::to_string).collect()
    };
    let compare = |heading: &str, decided: &[&str], known: &BTreeSet<String>| -> BTreeSet<String> {
        let names: BTreeSet<String> = decided.iter().map(|name| name.to_string()).collect();
        assert_eq!(listed(heading), names, "docs/sql.md: {heading}");
        names.intersection(known).cloned().collect()
    };
    let of_kind = |kinds: &[(&str, &[&str])], known: &BTreeSet<String>| -> BTreeSet<String> {
        kinds.iter().flat_map(|(heading, decided)| compare(heading, decided, known)).collect()
    };
    let decided = of_kind(
        &[
            ("functions", catalogue::FUNCTIONS),
            ("functions, reads only", catalogue::FUNCTIONS_OF_THE_BUILD),
            ("functions of matches, reads only", catalogue::FUNCTIONS_OF_MATCHES),
            ("functions, refused", catalogue::FUNCTIONS_REFUSED),
        ],
        &functions,
    );
    assert_eq!(functions, decided, "functions");
    let decided = of_kind(
        &[
            ("virtual tables", catalogue::MODULES),
            ("table-valued functions", catalogue::TABLES),
            ("virtual tables, refused", catalogue::TABLES_REFUSED),
        ],
        &modules,
    );
    assert_eq!(modules, decided, "modules");
    let for_reads =
        [catalogue::PRAGMAS_OF_PAGES, catalogue::PRAGMAS_OF_THE_PAST, catalogue::PRAGMAS_OF_THE_BUILD].concat();
    let allowed = [catalogue::PRAGMAS, catalogue::PRAGMAS_BARE].concat();
    let decided = of_kind(
        &[("pragmas", &allowed), ("pragmas, reads only", &for_reads), ("pragmas, refused", catalogue::PRAGMAS_REFUSED)],
        &pragmas,
    );
    assert_eq!(pragmas, decided, "pragmas");
}

/// Runs the same commands on a node that is restarted from its file after each of them, one restarted from the log
/// alone, and one restarted from a snapshot.
#[test]
fn a_restart_after_each_command_makes_no_difference() {
    let sql = [
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, r DEFAULT (random()), at DEFAULT CURRENT_TIMESTAMP)",
        "CREATE VIRTUAL TABLE f USING fts5(body)",
        "CREATE VIRTUAL TABLE g USING rtree(id, x0, x1)",
        "INSERT INTO t(a) VALUES('x'), ('y'), (hex(randomblob(3)))",
        "SELECT last_insert_rowid(), changes()",
        "INSERT INTO f SELECT a || ' word' FROM t",
        "INSERT INTO g SELECT id, id, id + 1.5 FROM t",
        "CREATE TRIGGER tr AFTER UPDATE ON t BEGIN INSERT INTO f VALUES('changed ' || new.a || random()); END",
        "UPDATE t SET a = a || strftime('%s', 'now'), r = random()",
        "SELECT last_insert_rowid(), changes(), (SELECT count(*) FROM f WHERE f MATCH 'changed')",
        "DELETE FROM t WHERE a = 'nothing'",
        "SELECT last_insert_rowid(), changes()",
        "ALTER TABLE t RENAME TO t2",
        "INSERT INTO t2(a) SELECT a FROM t2",
        "CREATE INDEX i ON t2(a)",
        "SELECT group_concat(a) FROM t2 WHERE a LIKE 'x%' OR a GLOB 'y*'",
        "INSERT INTO f(f) VALUES('optimize')",
        "DROP TABLE g",
    ];
    let mut nodes: Vec<Node> = (0..4).map(|_| Node::default()).collect();
    for (number, sql) in sql.iter().enumerate() {
        let mut replies = Vec::new();
        for (way, node) in nodes.iter_mut().enumerate() {
            replies.push(
                node.entry(
                    1_700_000_000_000 + number as u64 * 777,
                    &[Command::Run(request(&[sql], RunKind::Request, 5))],
                ),
            );
            match way {
                0 => {}
                1 => node.crash(),
                2 => node.start_from(None),
                _ => {
                    node.take_snapshot();
                    node.start_from(None);
                }
            }
        }
        assert!(replies.iter().all(|reply| *reply == replies[0]), "{sql}: {replies:?}");
        let digests: Vec<_> = nodes.iter().map(|node| node.registry.digests()).collect();
        assert!(digests.iter().all(|digest| *digest == digests[0]), "{sql}: {digests:?}");
    }
}

/// A write ends after the same step on every node, also if full-text tables keep prepared statements.
#[test]
fn a_runaway_ends_at_the_same_step_whatever_was_before() {
    let run = |sql: &[&str]| Command::Run(request(sql, RunKind::Request, 3));
    // How many iterations of a limited loop fit the budget: found by bisection, on a node with a history and on one
    // without.
    let comes_to = |is_busy: bool| {
        let mut node = Node::default();
        node.execute(&["CREATE TABLE t (id INTEGER PRIMARY KEY, n)", "CREATE VIRTUAL TABLE f USING fts5(body)"]);
        if is_busy {
            for _ in 0..50 {
                node.execute(&["INSERT INTO f VALUES('a b c')", "SELECT count(*) FROM f WHERE f MATCH 'a'"]);
            }
            node.execute(&["DELETE FROM f"]);
        }
        let (mut low, mut high) = (0, 20_000_000);
        while high - low > 1 {
            let middle = (low + high) / 2;
            let sql = format!(
                "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < {middle}) SELECT max(x), (SELECT count(*) FROM f) FROM c"
            );
            let answer =
                super::script_runner::results(node.entry(1000 * node.log.len() as u64, &[run(&[&sql])]).pop().unwrap());
            if outcome_text(&answer[0]).starts_with("failed") { high = middle } else { low = middle }
        }
        low
    };
    assert_eq!(comes_to(false), comes_to(true));
    let _ = ENDLESS;
}

/// Our replacements of SQLite functions return the same results.
#[test]
fn our_functions_are_like_those_of_sqlite() {
    let theirs = Connection::open_in_memory().unwrap();
    let mut ours = Connection::open_in_memory().unwrap();
    let hooks = Arc::new(HookState::default());
    configure(&mut ours, &hooks, Purpose::Write, None).unwrap();
    hooks.begin(0, 0, STEPS_MAX);
    for conn in [&theirs, &ours] {
        conn.execute_batch(
            "CREATE TABLE t (k, v); INSERT INTO t VALUES('a', 1), ('b', 2.5), (NULL, 'x'), (4, NULL), ('q\"', 'it''s, \"so\"'), \
             ('j', '[1,2]'), (1.5, -0.0), ('a', 9e99)",
        )
        .unwrap();
    }
    for sql in [
        "SELECT json_group_array(v) FROM t",
        "SELECT json_group_array(v) FROM t WHERE 0",
        "SELECT json_group_object(k, v) FROM t",
        "SELECT json_group_object(k, v) FROM t WHERE 0",
        "SELECT json_group_object(k, v) FROM t WHERE k IS NULL",
        "SELECT json_group_array(json(v)) FROM t WHERE k = 'j'",
        "SELECT json_group_array(json_array(k, v)) FROM t",
        "SELECT json_array(json_group_array(v), 1) FROM t",
        "SELECT json_group_array(jsonb(v)) FROM t WHERE k = 'j'",
        "SELECT json_group_array(DISTINCT k) FROM t",
        "SELECT json_group_array(k ORDER BY k DESC) FROM t",
        "SELECT json_group_array(k) FILTER (WHERE v > 1) FROM t",
        "SELECT json_group_array(v) OVER (ORDER BY rowid ROWS BETWEEN 2 PRECEDING AND CURRENT ROW) FROM t",
        "SELECT json_group_object(k, v) OVER (ORDER BY rowid ROWS BETWEEN 2 PRECEDING AND 1 PRECEDING) FROM t",
        "SELECT json_group_array(x'00') FROM t",
        "SELECT json_patch('{\"a\":{\"b\":1}}', '{\"a\":{\"c\":[1]}}')",
        "SELECT json_array(json_patch('{}', '{\"a\":1}'))",
        "SELECT json_patch('x', '{}')",
        "SELECT count(*) FROM t",
        "SELECT count(*), count(k), count() FROM t",
        "SELECT count(*) FROM t WHERE 0",
        "SELECT count(*) FILTER (WHERE v > 1), k FROM t GROUP BY k ORDER BY k",
        "SELECT count(*) OVER (ORDER BY rowid ROWS BETWEEN 2 PRECEDING AND CURRENT ROW) FROM t",
    ] {
        let of = |conn: &Connection| -> rusqlite::Result<Vec<rusqlite::types::Value>> {
            conn.prepare(sql)?.query_map([], |row| row.get(0))?.collect()
        };
        match (of(&theirs), of(&ours)) {
            (Ok(theirs), Ok(ours)) => assert_eq!(theirs, ours, "{sql}"),
            (Err(_), Err(_)) => {}
            (theirs, ours) => panic!("{sql}: {theirs:?} {ours:?}"),
        }
    }
}

/// The last answer of two nodes: one that has run the statements before, and one that has just started.
fn answers(prepare: &[&[&str]], last: &[&str]) -> [Vec<String>; 2] {
    let mut node = Node::default();
    for request in prepare {
        node.execute(request);
    }
    let mut restarted = Node { log: node.log.clone(), tags: node.tags, ..Node::default() };
    let image = node.registry.sql().image();
    restarted.start_from(Some(Database::survivor(&image)));
    [&mut node, &mut restarted].map(|node| {
        let outcomes = node.execute(last);
        let content = node.read("SELECT group_concat(x) FROM t");
        outcomes.iter().chain([&content]).map(outcome_text).collect()
    })
}

#[test]
fn the_history_of_a_node_changes_no_answer() {
    // Only a node that has not seen the statement before explains it.
    let request: &[&str] = &["INSERT INTO t(x) VALUES(7)", "INSERT INTO t(x) SELECT 'changes ' || changes()"];
    let [one, other] = answers(&[&["CREATE TABLE t (id INTEGER PRIMARY KEY, x)"], request], request);
    assert_eq!(one, other);
    assert!(one[2].contains("7,changes 1,7,changes 1"), "{one:?}");

    // A program that is longer than the rest of the budget is refused, whether it was seen before or not.
    let body = format!("INSERT INTO wide VALUES({}); ", ["new.x"; 100].join(","));
    let trigger = format!("CREATE TRIGGER g AFTER INSERT ON t WHEN new.x IS NULL BEGIN {} END", body.repeat(20));
    let columns = (0..100).map(|n| format!("c{n}")).collect::<Vec<_>>().join(",");
    let wide = format!("CREATE TABLE wide ({columns})");
    let insert = format!("INSERT INTO t(x) VALUES('{}')", "y".repeat(10_000));
    let filler = "INSERT INTO wide(c1) WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 50) SELECT x FROM c";
    let tables: &[&str] = &["CREATE TABLE t (id INTEGER PRIMARY KEY, x)", &wide, &trigger];
    let both = |count: usize| {
        let mut last = vec![filler; count];
        last.push(&insert);
        let [one, other] = answers(&[tables, &[&insert]], &last);
        assert_eq!(one, other, "{count}");
        one
    };
    // The smallest number of fillers that is refused: any smaller number succeeds.
    let (mut fits, mut refused) = (1, 1_000);
    while refused - fits > 1 {
        let middle = (fits + refused) / 2;
        let done = both(middle);
        if done[middle].starts_with("changed") { fits = middle } else { refused = middle }
    }
    let said = both(refused);
    assert!(said[refused - 1].starts_with("changed") && said[refused].contains("too many steps"), "{said:?}");
}

#[test]
fn names_that_sqlite_gives_by_chance_are_not_kept() {
    let five = ["1 AS a"; 6].join(", ");
    let view = format!("CREATE VIEW v AS SELECT {five}");
    let mut node = Node::default();
    node.execute(&["CREATE TABLE t (x)", &view, "CREATE VIEW w AS SELECT * FROM v"]);
    for sql in [
        &format!("CREATE TABLE z AS SELECT {five}")[..],
        &format!("CREATE TABLE z AS SELECT * FROM (SELECT {five})"),
        "CREATE TABLE z AS SELECT * FROM v",
        "CREATE TABLE z AS SELECT * FROM w",
        "CREATE TABLE z AS WITH c AS (SELECT * FROM w) SELECT * FROM c",
    ] {
        let said = outcome_text(&node.execute(&[sql])[0]);
        assert!(said.contains("appears more than four times"), "{sql}: {said}");
    }
    for sql in [
        "INSERT INTO t SELECT name FROM pragma_table_info('v')",
        "INSERT INTO t SELECT name FROM pragma_table_xinfo('W')",
        "INSERT INTO t SELECT i.name FROM sqlite_schema m, pragma_table_info(m.name) i",
    ] {
        let said = outcome_text(&node.execute(&[sql])[0]);
        assert!(said.contains("may differ between nodes"), "{sql}: {said}");
    }
    let made = outcome_text(
        &node.execute(&[&view.replace(" v ", " fresh "), "INSERT INTO t SELECT name FROM pragma_table_info('fresh')"])
            [1],
    );
    assert!(made.contains("may differ between nodes"), "{made}");
    let both = request(&["INSERT INTO t VALUES(1)", "SELECT * FROM v"], RunKind::Request, 1);
    let said = outcome_text(&node.run(1_000_000, both)[1]);
    assert!(said.contains("appears more than four times"), "{said}");
    for fine in [
        "CREATE TABLE y AS SELECT 1 AS a, 2 AS a, 3 AS a, 4 AS a",
        "CREATE TABLE u (\"a:3\", \"a:77\")",
        "INSERT INTO t SELECT name FROM pragma_table_info('t')",
        "INSERT INTO t SELECT a FROM v",
    ] {
        let said = outcome_text(&node.execute(&[fine])[0]);
        assert!(said.starts_with("changed"), "{fine}: {said}");
    }
    assert!(
        outcome_text(&node.execute(&["INSERT INTO t VALUES(fts5_locale('de', 'x'))"])[0]).contains("not available")
    );
}

#[test]
fn values_too_long_for_sqlite_fail_harmlessly() {
    let mut node = Node::default();
    node.execute(&["CREATE TABLE t (x)"]);
    let sql =
        format!("INSERT INTO t VALUES(json_pretty('{}{}', hex(zeroblob(2000000))))", "[".repeat(900), "]".repeat(900));
    let said = outcome_text(&node.execute(&[&sql])[0]);
    assert!(said.starts_with("failed"), "{said}");
    assert!(outcome_text(&node.execute(&["INSERT INTO t VALUES(1)"])[0]).starts_with("changed 1"));
}
