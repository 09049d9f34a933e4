//! Dumps with virtual tables as Debian's sqlite3 writes them, and such dumps in the hands of an attacker.

use super::rewritten;
use crate::services::sql::commands::RUN_BYTES_MAX;
use crate::services::sql::storage::load;
use crate::services::sql::tests::script_runner::{Node, answer, outcome_text};
use crate::services::sql::{Answer, Command, Outcome};
use rusqlite::Connection;
use rusqlite::types::ValueRef;
use std::borrow::Cow;
use std::path::Path;
use std::process;
use std::time::{Duration, Instant};

/// What a row of the schema table begins with.
const ROW: &str = "INSERT INTO sqlite_schema(type,name,tbl_name,rootpage,sql)VALUES(";

/// The row of the schema table that defines a virtual table.
fn defined(name: &str, sql: &str) -> String {
    format!("{ROW}'table','{name}','{name}',0,'{}');\n", sql.replace('\'', "''"))
}

/// Sends a dump through the log as an endpoint does.
fn load(node: &mut Node, sql: &str) -> Answer {
    match rewritten(sql) {
        Ok(sql) => answer(node.entry(0, &[Command::LoadDump { sql: sql.into_owned(), seed: 1 }]).pop().unwrap()),
        Err(why) => Answer::Refused(why),
    }
}

/// Runs Debian's tool on a file; `None`: it is not installed.
fn tool(path: &Path, sql: &str) -> Option<String> {
    let done = process::Command::new("sqlite3").arg("-bail").arg(path).arg(sql).output().ok()?;
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    Some(String::from_utf8(done.stdout).unwrap())
}

/// The dump of a database that the tool has made, and that database.
fn made(sql: &str) -> Option<(String, Connection)> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("made.db");
    tool(&path, sql)?;
    let dump = tool(&path, ".dump")?;
    let image = std::fs::read(&path).unwrap();
    Some((dump, load::open(image).unwrap()))
}

fn rows(conn: &Connection, sql: &str) -> Vec<String> {
    let mut prepared = conn.prepare(sql).unwrap();
    let count = prepared.column_count();
    let mut found = prepared.query([]).unwrap();
    let mut rows = Vec::new();
    while let Some(row) = found.next().unwrap() {
        let values = (0..count).map(|place| match row.get_ref(place).unwrap() {
            ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
            other => format!("{other:?}"),
        });
        rows.push(values.collect::<Vec<_>>().join(" "));
    }
    rows
}

/// Loads the dump and compares what both databases answer.
fn compare(sql: &str, questions: &[&str]) {
    let Some((dump, theirs)) = made(sql) else {
        println!("skipped: sqlite3 is not installed");
        return;
    };
    // The last form is that of `phalanx sql -f`. Long dumps are loaded in one form.
    let forms = [dump.clone(), dump.replace('\n', "\r\n"), dump.replace(";\n", "\n;\n")];
    for dump in forms.into_iter().take(if dump.len() < 50_000 { 3 } else { 1 }) {
        let mut node = Node::default();
        assert_eq!(load(&mut node, &dump), Answer::Done);
        let image = node.registry.sql().image();
        let ours = load::open(image[16..].to_vec()).unwrap();
        assert_eq!(rows(&ours, "PRAGMA integrity_check"), ["ok"]);
        for question in questions {
            let expected = rows(&theirs, question);
            assert!(!expected.is_empty(), "{question}");
            let found = rows(&ours, question);
            let different = found.iter().zip(&expected).find(|(found, expected)| found != expected);
            assert!(different.is_none() && found.len() == expected.len(), "{question}: {different:?}");
        }
        let tables = rows(&ours, "SELECT name FROM pragma_table_list WHERE type = 'virtual'");
        for name in &tables {
            let literal = name.replace('\'', "''");
            let module = rows(&ours, &format!("SELECT sql FROM sqlite_schema WHERE name = '{literal}'")).remove(0);
            match () {
                () if module.contains("fts5vocab") => {}
                () if module.contains("rtree") => {
                    assert_eq!(rows(&ours, &format!("SELECT rtreecheck('{literal}')")), ["ok"]);
                }
                () => {
                    let check = format!("INSERT INTO \"{name}\"(\"{name}\", rank) VALUES('integrity-check', 1)");
                    let checked = node.execute(&[&check]);
                    assert!(matches!(checked[0], Outcome::Changed { .. }), "{name}: {checked:?}");
                }
            }
        }
    }
}

/// A common table expression with the numbers up to `last`.
fn numbers(last: u32) -> String {
    format!("WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < {last}) ")
}

#[test]
fn fulltext_tables_of_the_tool_load() {
    let text = "printf('word%d running Strasse common%d', x * 7919 % 1009, x % 13)";
    for (arguments, asked, rows) in [
        ("a", "word17", 3_000),
        ("a, prefix='2 3', tokenize='porter unicode61'", "run* AND wo*", 1_000),
        ("a, tokenize = \"trigram\"", "\"mon1\"", 1_000),
        ("a, tokenize = 'unicode61 remove_diacritics 2', columnsize=0", "word17 OR common3", 1_000),
        ("a, detail=none", "word17", 1_000),
        ("a, DET=columns, co='t', content_rowid=\"id\"", "a: word17", 3_000),
    ] {
        let fill = |table: &str| format!("{} INSERT INTO {table} SELECT 3 * x, {text} FROM n;", numbers(rows));
        let sql = match arguments.contains("co='t'") {
            false => format!("CREATE VIRTUAL TABLE f USING fts5({arguments}); {}", fill("f(rowid, a)")),
            true => format!(
                "CREATE VIRTUAL TABLE f USING fts5({arguments}); CREATE TABLE t(id INTEGER PRIMARY KEY, a); {} \
                 INSERT INTO f(f) VALUES('rebuild'); \
                 CREATE TRIGGER r AFTER INSERT ON t BEGIN INSERT INTO f(rowid, a) VALUES(new.id, new.a); END;",
                fill("t")
            ),
        };
        compare(
            &sql,
            &[
                &format!("SELECT rowid, a FROM f WHERE f MATCH '{asked}' ORDER BY rowid"),
                "SELECT count(*), sum(rowid) FROM f",
                "SELECT sql LIKE '%USING fts5(a%' FROM sqlite_schema WHERE name = 'f'",
            ],
        );
    }
}

#[test]
fn rtrees_of_the_tool_load() {
    for (module, auxiliary) in [("rtree", ""), ("rtree_i32", ""), ("rtree", ", +name, +size TEXT")] {
        let values = if auxiliary.is_empty() { "" } else { ", 'it''s ' || x || char(10) || ',)', CAST(x AS BLOB)" };
        let coordinates = "x * 0.1, x * 0.1 + 0.7, -x / 3.0, x * 1e6, -1e-30 * x, x * 1e-30";
        // Small pages, so that the tree is deep.
        let sql = format!(
            "PRAGMA page_size = 512; CREATE VIRTUAL TABLE \"it's\" USING {module}(id, a, b, c, d, e, f{auxiliary}); {} \
             INSERT INTO \"it's\" SELECT 3000 - 2 * x, {coordinates}{values} FROM n;",
            numbers(1_000)
        );
        let questions = [
            "SELECT count(*), min(id), max(id) FROM \"it's\"",
            "SELECT * FROM \"it's\" ORDER BY id",
            "SELECT id FROM \"it's\" WHERE a < 50 AND b > 20 AND c < -100 ORDER BY id",
        ];
        compare(&sql, &questions);
        if let Some((_, theirs)) = made(&sql) {
            let depth = "SELECT rtreedepth(data) > 1 FROM \"it's_node\" WHERE nodeno = 1";
            assert_eq!(rows(&theirs, depth), ["Integer(1)"]);
        }
    }
    // Numbers at the ends of what the table stores, and a table without rows.
    compare(
        "CREATE VIRTUAL TABLE r USING rtree(id, a, b); INSERT INTO r VALUES(-9223372036854775808, -9e999, 9e999), \
         (1, -1e300, 1e300), (2, -0.0, 0.0), (3, 1e-45, 1e-45), (4, 16777217, 16777217), (5, -1e-50, 1e-50); \
         CREATE VIRTUAL TABLE empty USING rtree_i32(id, a, b);",
        &["SELECT * FROM r ORDER BY id", "SELECT count(*) FROM empty"],
    );
}

#[test]
fn a_whole_database_of_the_tool_loads() {
    let sql = "CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, \"a b\", c); \
        INSERT INTO t VALUES(7, 'one two', 'x'), (9, 'two' || char(13,10) || 'three', NULL); \
        CREATE VIRTUAL TABLE rt USING rtree(id, a, b, +label); INSERT INTO rt VALUES(4, 0.1, 0.2, 'four points'); \
        CREATE VIEW labels AS SELECT id, \"a b\" AS label FROM t; \
        CREATE VIRTUAL TABLE of_view USING fts5(label, content='labels', content_rowid='id'); \
        INSERT INTO of_view(of_view) VALUES('rebuild'); \
        CREATE VIRTUAL TABLE \"of t\" USING fts5(\"a b\", [c], content=t, content_rowid=id); \
        INSERT INTO \"of t\"(\"of t\") VALUES('rebuild'); \
        CREATE VIRTUAL TABLE own USING fts5('it''s', b UNINDEXED); INSERT INTO own VALUES('one', ';'), (NULL, x'00'); \
        INSERT INTO own(own, rank) VALUES('rank', 'bm25(10.0, 5.0)'); \
        CREATE VIRTUAL TABLE words USING fts5vocab(own, 'row'); CREATE VIRTUAL TABLE none USING fts5(a, content=''); \
        CREATE TABLE own_other(a); INSERT INTO own_other VALUES('a table of its own'); ";
    let questions = [
        "SELECT rowid, * FROM \"of t\" WHERE \"of t\" MATCH 'two' ORDER BY rowid",
        "SELECT rowid, label FROM of_view WHERE of_view MATCH 'two'",
        "SELECT rowid, * FROM own",
        "SELECT rowid, bm25(own) FROM own WHERE own MATCH 'one'",
        "SELECT v FROM own_config WHERE k = 'rank'",
        "SELECT * FROM words",
        "SELECT * FROM rt",
        "SELECT * FROM own_other",
        "SELECT seq FROM sqlite_sequence",
        "SELECT count(*) FROM none",
    ];
    // VACUUM puts the shadow tables before the definitions.
    for after in ["", "VACUUM;"] {
        let sql = format!("{sql}{after}");
        let Some((dump, _)) = made(&sql) else { return };
        assert_eq!(dump.find("'own_data'") > dump.find("'table','own'"), after.is_empty(), "{dump}");
        compare(&sql, &questions);
    }
}

#[test]
fn hostile_dumps_are_refused_or_run_as_plain_scripts() {
    let two = "CREATE VIRTUAL TABLE f USING fts5(a); DROP TABLE t";
    let damaged = "is not written as sqlite3 writes it";
    for (sql, why) in [
        (defined("f", two), "not one statement"),
        (defined("f", "CREATE VIRTUAL TABLE f USING fts5(a) -- "), "not one statement"),
        (defined("f", "CREATE VIRTUAL TABLE f USING fts5(a, 'b)"), "not one statement"),
        (defined("f", "CREATE TABLE f(a)"), "does not create a virtual table of that name"),
        (defined("f", "CREATE TRIGGER f AFTER INSERT ON t BEGIN SELECT 1; END"), "not one statement"),
        (defined("f", "DELETE FROM t"), "does not create a virtual table of that name"),
        (defined("f", "CREATE VIRTUAL TABLE g USING fts5(a)"), "does not create a virtual table of that name"),
        (defined("f", "CREATE VIRTUAL TABLE temp.f USING fts5(a)"), "does not create a virtual table of that name"),
        (defined("f", "CREATE VIRTUAL TABLE f USING fts4(a)"), "is of fts4, which is not available"),
        (defined("f", "CREATE VIRTUAL TABLE f USING dbstat"), "is of dbstat, which is not available"),
        (defined("f", "CREATE VIRTUAL TABLE f USING fts5(a, locale=1)"), "locale"),
        (defined("f", "CREATE VIRTUAL TABLE f USING fts5(a /* b */)"), "may contain no comments"),
        (defined("sqlite_f", "CREATE VIRTUAL TABLE sqlite_f USING fts5(a)"), "reserved"),
        (defined("_phalanx", "CREATE VIRTUAL TABLE _phalanx USING fts5(a)"), "reserved"),
        (
            format!("{ROW}'trigger','f','f',0,'CREATE VIRTUAL TABLE f USING fts5(a)');"),
            "only to define a virtual table",
        ),
        (format!("{ROW}'table','f','f',5,'CREATE VIRTUAL TABLE f USING fts5(a)');"), "only to define a virtual table"),
        (format!("{ROW}'table','f','f',0,lower('a'));"), "only to define a virtual table"),
        ("INSERT INTO sqlite_master SELECT * FROM t;".to_string(), "only to define a virtual table"),
        (rtree_of("INSERT INTO r_node VALUES(1,X'0000');"), ""),
        (rtree_of("INSERT INTO r_node VALUES(1,zeroblob(1000000000));"), damaged),
        (rtree_of("INSERT INTO r_node SELECT 1;"), damaged),
        (rtree_of("INSERT INTO r_rowid VALUES(1,(SELECT 1));"), damaged),
        (rtree_of("INSERT INTO r_rowid VALUES(1,9223372036854775808);"), damaged),
        (rtree_of("INSERT INTO r_rowid VALUES(1"), damaged),
        (format!("{0}{0}", defined("f", "CREATE VIRTUAL TABLE f USING fts5(a)")), "defines virtual table f twice"),
        (
            format!("{}INSERT INTO f_content VALUES(1,'a'", defined("f", "CREATE VIRTUAL TABLE f USING fts5(a)")),
            "syntax error",
        ),
        (
            format!(
                "{}INSERT INTO f_docsize VALUES(1,X'01');",
                defined("f", "CREATE VIRTUAL TABLE f USING fts5(a,c='')")
            ),
            "index without content",
        ),
        (
            format!("{}INSERT INTO f_config VALUES('pgsz',32);", defined("f", "CREATE VIRTUAL TABLE f USING fts5(a)")),
            "settings of full-text tables other than rank",
        ),
        (
            format!(
                "{}INSERT INTO f_config VALUES('rank','f()');",
                defined("f", "CREATE VIRTUAL TABLE f USING fts5(a)")
            ),
            "settings of full-text tables other than rank",
        ),
        (
            format!("CREATE VIEW f_data AS SELECT 1;{}", defined("f", "CREATE VIRTUAL TABLE f USING fts5(a)")),
            "'f_data' already exists",
        ),
        (
            format!(
                "CREATE TABLE f_content(a);{}",
                defined("f", "CREATE VIRTUAL TABLE f USING fts5(a, content=f_content)")
            ) + "INSERT INTO f_content VALUES(1); CREATE TRIGGER r AFTER INSERT ON f_content BEGIN SELECT 1; END;",
            "",
        ),
        (
            format!(
                "{}COMMIT; CREATE TRIGGER r AFTER INSERT ON f_content BEGIN SELECT 1; END;",
                defined("f", "CREATE VIRTUAL TABLE f USING fts5(a)")
            ),
            "cannot create triggers on shadow tables",
        ),
        (
            format!("{}COMMIT; DELETE FROM f_data;", defined("f", "CREATE VIRTUAL TABLE f USING fts5(a)")),
            "table f_data may not be modified",
        ),
        (
            format!(
                "{}COMMIT; INSERT INTO f_content VALUES(1,2);",
                defined("f", "CREATE VIRTUAL TABLE f USING fts5(a)")
            ),
            "follows the COMMIT",
        ),
        (
            (0..33).map(|n| defined(&format!("f{n}"), &format!("CREATE VIRTUAL TABLE f{n} USING fts5(a)"))).collect(),
            "at most 32 virtual tables",
        ),
        ("INSERT INTO f_data VALUES(1,X'00');".to_string(), "no such table: f_data"),
    ] {
        match (load(&mut Node::default(), &sql), why) {
            (Answer::Done, "") => {}
            (Answer::Refused(found), why) if !why.is_empty() && found.contains(why) => {}
            (other, why) => panic!("{other:?}, not {why}: {sql}"),
        }
    }
}

/// An r-tree of one dimension with these rows of shadow tables.
fn rtree_of(rows: &str) -> String {
    defined("r", "CREATE VIRTUAL TABLE r USING rtree(id, a, b)") + rows
}

/// A node of an r-tree of one dimension. `count`: what it says of the number of its cells.
fn node(number: i64, count: u16, cells: &[(i64, f32, f32)]) -> String {
    let mut text = format!("INSERT INTO r_node VALUES({number},X'0000{count:04x}");
    for (id, low, high) in cells {
        text += &format!("{id:016x}{:08x}{:08x}", low.to_bits(), high.to_bits());
    }
    text + "');\n"
}

#[test]
fn forged_nodes_are_refused_without_being_followed() {
    let row = |id: i64, leaf: i64| format!("INSERT INTO r_rowid VALUES({id},{leaf});\n");
    let cell = |id: i64| (id, 1.0, 2.0);
    for (rows, why) in [
        (node(1, 1, &[cell(5)]) + &row(5, 1), ""),
        // Nodes that no row refers to are inner ones: a parent may be its own child, or missing, or not a node at all.
        (node(2, 1, &[cell(5)]) + &row(5, 2) + &node(1, 9, &[cell(1)]) + "INSERT INTO r_parent VALUES(1,1),(2,2);", ""),
        (node(1, 2, &[cell(5)]) + &row(5, 1), "more cells than bytes"),
        (node(1, u16::MAX, &[]) + &row(5, 1), "more cells than bytes"),
        ("INSERT INTO r_node VALUES(1,X'0000');".to_string() + &row(5, 1), "more cells than bytes"),
        ("INSERT INTO r_node VALUES(1,X'');".to_string() + &row(5, 1), "more cells than bytes"),
        ("INSERT INTO r_node VALUES(1,X'000');".to_string() + &row(5, 1), "a leaf is missing"),
        ("INSERT INTO r_node VALUES(1,X'00+1');".to_string() + &row(5, 1), "a leaf is missing"),
        (row(5, 1), "a leaf is missing"),
        (node(1, 1, &[cell(5)]) + &row(6, 1), "lacks a row"),
        (node(1, 1, &[cell(5)]) + &row(5, 1) + &row(5, 1), "lacks a row"),
        (node(1, 2, &[cell(5), cell(5)]) + &row(5, 1), "same row twice"),
        (node(1, 2, &[cell(5), cell(6)]) + &row(5, 1), "more rows than the table"),
        (node(1, 1, &[cell(5)]) + &node(1, 1, &[cell(5)]), "is not written as"),
        (node(1, 1, &[(5, f32::NAN, 1.0)]) + &row(5, 1), "not a number"),
        (node(1, 1, &[(5, 2.0, 1.0)]) + &row(5, 1), "constraint failed"),
        (node(1, 1, &[cell(5)]) + &node(2, 1, &[cell(5)]) + &row(5, 1) + &row(5, 2), "constraint failed"),
        (node(1, 1, &[cell(i64::MAX)]) + &row(i64::MAX, 1), "is reserved"),
        (node(1, 1, &[cell(5)]) + "INSERT INTO r_rowid VALUES(5,1),(6,1);", "same number of terms"),
        (node(1, 1, &[cell(5)]) + "INSERT INTO r_rowid VALUES(5,1,1); DROP TABLE r;", "no such table: r"),
    ] {
        match (load(&mut Node::default(), &rtree_of(&rows)), why) {
            (Answer::Done, "") => {}
            (Answer::Refused(found), why) if !why.is_empty() && found.contains(why) => {}
            (other, why) => panic!("{other:?}, not {why}: {rows}"),
        }
    }
}

#[test]
fn the_script_is_bounded_and_so_is_the_time() {
    // Long names of columns before each of many short rows.
    let column = "c".repeat(4_000);
    let sql = defined("f", &format!("CREATE VIRTUAL TABLE f USING fts5({column})"));
    let rows = "INSERT INTO f_content VALUES(1,2);".repeat(100_000);
    let why = rewritten(&(sql + &rows)).unwrap_err();
    assert!(why.contains(&RUN_BYTES_MAX.to_string()), "{why}");
    // All rows in one leaf that has as many cells as can be said; rows that refer to it again and again.
    let cells: Vec<(i64, f32, f32)> = (0..65_535).map(|id| (id, 0.0, 1.0)).collect();
    let mut rows = node(1, u16::MAX, &cells);
    rows.extend((0..65_535).rev().map(|id| format!("INSERT INTO r_rowid VALUES({id},1);")));
    let begun = Instant::now();
    let dump = rtree_of(&rows);
    let script = rewritten(&dump).unwrap();
    assert!(script.contains("VALUES(65534,0.0,1.0);") && begun.elapsed() < Duration::from_secs(20));
    let mut node = Node::default();
    let refused = load(&mut node, &dump);
    assert!(matches!(&refused, Answer::Refused(why) if why.contains("too many steps")), "{refused:?}");
    let whole = outcome_text(&node.read("SELECT count(*) FROM sqlite_schema WHERE name LIKE 'r%'"));
    assert!(whole.ends_with(" 0"), "{whole}");
}

#[test]
fn a_dump_with_any_byte_changed_is_a_script_or_refused() {
    let dump = defined("f", "CREATE VIRTUAL TABLE f USING fts5(a, \"b c\", tokenize='porter')")
        + "CREATE TABLE IF NOT EXISTS 'f_content'(id INTEGER PRIMARY KEY, c0, c1);\n\
           INSERT INTO f_content VALUES(1,'it''s',replace('a\\nb','\\n',char(10)));\n"
        + &rtree_of(&node(1, 1, &[(5, 0.5, 1.5)]))
        + "INSERT INTO r_rowid VALUES(5,1);\nCREATE TRIGGER x AFTER INSERT ON t BEGIN SELECT 1; END;\nCOMMIT;\n";
    let whole = rewritten(&dump).unwrap();
    assert!(
        whole.contains("INSERT INTO \"f\"(rowid,\"a\",\"b c\") VALUES(1,'it''s'") && whole.contains("(5,0.5,1.5);")
    );
    let mut refused = 0;
    for at in 0..dump.len() {
        for byte in [b'\'', b';', b'(', b')', b',', b'"', b'[', b'-', b'/', b' ', b'\0', b'9', b'e'] {
            let mut bytes = dump.clone().into_bytes();
            bytes[at] = byte;
            refused += usize::from(rewritten(&String::from_utf8(bytes).unwrap()).is_err());
        }
        refused += usize::from(rewritten(&dump[..at]).is_err());
        for letter in ['\u{fc}', '\u{feff}', '\u{a0}'] {
            refused += usize::from(rewritten(&format!("{}{letter}{}", &dump[..at], &dump[at..])).is_err());
        }
    }
    assert!(refused > 1_000, "{refused}");
    assert!(matches!(rewritten("INSERT INTO t VALUES('sqlite_schema');"), Ok(Cow::Borrowed(_))));
}
