//! Malicious statements: each is refused with a clear message or ends in time, and the database is unchanged.
//!
//! Not here: equality of all nodes (`determinism.rs`).

use super::script_runner::{Node, answer, outcome_text, request, results};
use crate::planted_bugs::SqlBugs;
use crate::services::sql::connection::catalogue;
use crate::services::sql::errors::BUDGET_EXCEEDED;
use crate::services::sql::{Answer, Command, Digest, Params, Run, RunKind, Statement, Value};
use std::time::Instant;

fn ran_away() -> String {
    format!("failed: {BUDGET_EXCEEDED}")
}

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

/// The visible content of the database.
fn content(node: &Node) -> Digest {
    Digest { index: 0, ..node.registry.sql().digests(Default::default()) }
}

#[test]
fn external_access_and_nondeterminism_are_refused() {
    let mut node = node();
    let before = content(&node);
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
        "SELECT * FROM sqlite_phalanx",
        "SELECT count(*) FROM SQLITE_PHALANX",
        "INSERT INTO sqlite_phalanx VALUES(1, 1)",
        "INSERT INTO t(n) SELECT idx FROM sqlite_phalanx",
        "UPDATE sqlite_phalanx SET data = NULL",
        "DELETE FROM sqlite_phalanx",
        "DROP TABLE sqlite_phalanx",
        "CREATE TABLE sqlite_phalanx (a)",
        "CREATE TABLE IF NOT EXISTS sqlite_phalanx (a)",
        "CREATE INDEX i ON sqlite_phalanx(data)",
        "CREATE TRIGGER r AFTER INSERT ON sqlite_phalanx BEGIN DELETE FROM t; END",
        "ALTER TABLE sqlite_phalanx RENAME TO x",
        "ALTER TABLE sqlite_phalanx ADD COLUMN x",
        "ALTER TABLE t RENAME TO sqlite_phalanx",
        "CREATE TABLE _phalanx_own (a)",
        "ALTER TABLE t RENAME TO _phalanx2",
        "ALTER TABLE t RENAME TO \"_PHALANX\"",
        "ALTER TABLE f RENAME TO _phalanx_words",
        "CREATE TABLE \"_Phalanx 2\" AS SELECT 1 AS a",
        "CREATE VIEW _phalanx_v AS SELECT 1",
        "CREATE INDEX _phalanx_i ON t(n)",
        "CREATE TRIGGER _phalanx_r AFTER INSERT ON t BEGIN SELECT 1; END",
        "CREATE VIRTUAL TABLE _phalanx_f USING fts5(a)",
        "CREATE TABLE IF NOT EXISTS _phalanx (a)",
        "CREATE TABLE temp._phalanx (a)",
        "SELECT sqlite_version()",
        "SELECT sqlite_source_id()",
        "SELECT fts5_source_id()",
        "PRAGMA compile_options",
        "SELECT * FROM pragma_pragma_list",
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
        "INSERT INTO t(n) VALUES(3);\0 DROP TABLE t",
        "PRAGMA module_list",
        "SELECT * FROM pragma_module_list",
        "SELECT * FROM pragma_table_list",
        "PRAGMA foreign_key_check",
        "SELECT * FROM pragma_function_list",
        "SELECT jsonb_group_array(n) FROM t",
        // Characters that SQLite treats as a blank at the beginning of a word, and a parameter with a quote in its
        // name.
        "INSERT OR \u{feff}ROLLBACK INTO t VALUES(1, 1)",
        "WITH x AS (SELECT $a(')) INSERT OR ROLLBACK INTO t VALUES(1, 1) -- '",
        "INSERT INTO t SELECT @b::c('), 1 FROM t WHERE 0 ON CONFLICT DO NOTHING; INSERT OR ROLLBACK INTO t VALUES(1, 1) -- '",
    ];
    for sql in refused {
        let said = outcome_text(&node.execute(&[sql])[0]);
        assert!(said.starts_with("failed: "), "{sql}: {said}");
        println!("{sql}\n    {said}");
        assert_eq!(content(&node), before, "{sql}");
    }
    let deep = format!("SELECT {}1{}", "(".repeat(5000), ")".repeat(5000));
    let wide = format!("SELECT {}", vec!["1"; 5000].join(","));
    let many = "SELECT 1;".repeat(100_000);
    let union = vec!["SELECT 1"; 5000].join(" UNION ");
    let tables: Vec<String> = (0..150_000).map(|n| format!("c{n}(a) AS (SELECT 1)")).collect();
    let tables = format!("WITH {} SELECT 1", tables.join(","));
    let nested = format!("SELECT {}1{}", "1 IN (SELECT ".repeat(20_000), ")".repeat(20_000));
    let begun = Instant::now();
    for sql in [&deep, &wide, &many, &union, &tables, &nested] {
        let said = outcome_text(&node.execute(&[sql])[0]);
        assert!(said.starts_with("failed: "), "{sql:.40}: {said:.100}");
        println!("{sql:.40}\n    {said:.100} ({:?})", begun.elapsed());
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
        let said = outcome_text(&node.execute(&[sql])[0]);
        assert!(!said.starts_with("failed: "), "{sql}: {said}");
    }
}

/// Each name in the lists of refused names, in a statement that writes and in a read.
#[test]
fn statements_refused_by_the_catalogue_are_refused() {
    let mut node = node();
    let before = content(&node);
    let mut refuse = |sql: &str, why: &[&str]| {
        for said in [outcome_text(&node.execute(&[sql])[0]), outcome_text(&node.read(sql))] {
            let is_refused = said.strip_prefix("failed: ").is_some_and(|said| why.iter().any(|why| said.contains(why)));
            assert!(is_refused, "{sql}: {said}");
        }
        assert_eq!(content(&node), before, "{sql}");
    };
    for name in catalogue::FUNCTIONS_REFUSED {
        // With the right number of arguments SQLite asks the authorizer; with another it fails before.
        let refused = format!("function {name}: not available");
        for arguments in ["", "n", "n, n", "n, n, n"] {
            let sql = format!("SELECT {name}({arguments}) FROM t");
            refuse(&sql, &[&refused, "wrong number of arguments", "no such function"]);
        }
    }
    for name in catalogue::PRAGMAS_REFUSED {
        for sql in [format!("PRAGMA {name}"), format!("PRAGMA {name} = 1"), format!("PRAGMA main.{name}")] {
            refuse(&sql, &[&format!("PRAGMA {name}"), "not available"]);
        }
    }
    for name in catalogue::TABLES_REFUSED {
        refuse(&format!("CREATE VIRTUAL TABLE x USING {name}(a)"), &["not available"]);
        refuse(&format!("SELECT * FROM {name}"), &[""]);
    }
}

/// Views that double the work of preparing a statement with each level.
#[test]
fn views_upon_views_end() {
    let mut node = node();
    node.execute(&["CREATE VIEW e0 AS SELECT 1 AS a"]);
    for level in 1..30 {
        let below = level - 1;
        node.execute(&[&format!("CREATE VIEW e{level} AS SELECT x.a FROM e{below} x, e{below} y")]);
    }
    let (few, many) = ("SELECT * FROM e3", "SELECT * FROM e12");
    let asked = request(&[&[few, "SELECT * FROM e29"], &[many; 2000][..]].concat(), RunKind::Request, 1);
    let begun = Instant::now();
    let said: Vec<String> = node.run(1, asked).iter().map(outcome_text).collect();
    println!("{:?}", begun.elapsed());
    assert!(said[0].ends_with("\n  1"), "{}", said[0]);
    assert!(said[1].starts_with("failed: "), "{}", said[1]);
    assert_eq!(said[2001], "failed: not executed: the request ended with the previous statement");
}

/// SQLite reports "disk full" for an index that has no segment left, and rolls the transaction back.
#[test]
fn an_index_without_segments_is_no_full_disk() {
    let mut node = node();
    node.registry.sql.bugs = SqlBugs { settings_are_free: true, ..SqlBugs::default() };
    node.execute(&[
        "INSERT INTO f(f, rank) VALUES('automerge', 0)",
        "INSERT INTO f(f, rank) VALUES('crisismerge', 1999)",
    ]);
    node.registry.sql.bugs = SqlBugs::default();
    let words: Vec<String> = (0..2100).map(|n| format!("INSERT INTO f VALUES('w{n}')")).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let before: Vec<&str> = vec!["INSERT INTO t(n) VALUES(7)"; 3];
    let mut failed = None;
    for _ in 0..3 {
        // The commands of an entry whose transaction SQLite rolls back are run again.
        let commands = [request(&before, RunKind::Execute, 1), request(&words, RunKind::Execute, 2)].map(Command::Run);
        let said: Vec<String> = node
            .entry(1_000 * node.log.len() as u64, &commands)
            .into_iter()
            .flat_map(results)
            .map(|it| outcome_text(&it))
            .collect();
        assert!(said[..3].iter().all(|said| said.starts_with("changed 1")), "{:?}", &said[..3]);
        failed = failed.or(said.into_iter().find(|said| said.starts_with("failed: ")));
    }
    let failed = failed.expect("2,000 segments are the most");
    assert!(failed.contains("is full"), "{failed}");
    let rows = outcome_text(&node.read("SELECT count(*) FROM t WHERE n = 7"));
    assert!(rows.ends_with("\n  9"), "{rows}");
    let before = content(&node);
    node.crash();
    assert_eq!(content(&node), before);
}

/// A statement that fails leaves no changes behind, however late it failed; and long values cost more.
#[test]
fn a_statement_that_fails_late_leaves_nothing() {
    let mut node = node();
    let before = content(&node);
    let growing = "WITH RECURSIVE c(x) AS (SELECT 1000 UNION ALL SELECT x * 20 FROM c WHERE x < 5000000)";
    let said = outcome_text(&node.execute(&[&format!("INSERT INTO t(n) {growing} SELECT zeroblob(x) FROM c")])[0]);
    assert!(said.starts_with("failed: string or blob too big"), "{said}");
    let many = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)";
    let said = outcome_text(&node.execute(&[&format!("INSERT INTO t(n) {many} SELECT zeroblob(500000) FROM c")])[0]);
    assert_eq!(said, ran_away());
    let wide = vec!["zeroblob(4000000)"; 1000].join(",");
    let said = outcome_text(&node.execute(&[&format!("SELECT {wide}")])[0]);
    assert!(said.contains("instructions"), "{said:.200}");
    assert_eq!(content(&node), before);
    let fine = "INSERT INTO t(n) VALUES(zeroblob(4000000)), (zeroblob(2000000)), (zeroblob(1))";
    assert_eq!(outcome_text(&node.execute(&[fine])[0]), "changed 3, last id 5");
}

/// SQLite reports "out of memory" for a default that is longer than values may be in a tier.
#[test]
fn long_defaults_are_no_lack_of_memory() {
    for long in [200, 300, 5_000, 70_000] {
        let default = "d".repeat(long);
        let mut node = Node::default();
        let statements = [
            "CREATE TABLE w(k)",
            "INSERT INTO w VALUES(1)",
            &format!("ALTER TABLE w ADD COLUMN z DEFAULT '{default}'"),
            &format!("CREATE TABLE v(k, z DEFAULT '{default}')"),
            "INSERT INTO v(k) VALUES(1), (2)",
            "UPDATE v SET k = k + 1",
            "CREATE INDEX i ON w(z)",
            "CREATE TRIGGER g AFTER INSERT ON w BEGIN UPDATE v SET k = k + new.k; END",
            "INSERT INTO w(k) VALUES(7) RETURNING length(z)",
            "INSERT INTO v SELECT * FROM w",
            "ALTER TABLE v RENAME COLUMN k TO j",
            "ALTER TABLE v ADD COLUMN l CHECK(1)",
            "ALTER TABLE v DROP COLUMN l",
            "CREATE VIRTUAL TABLE f USING fts5(a)",
            "INSERT INTO f SELECT z FROM w LIMIT 1",
            "ALTER TABLE w RENAME TO x",
        ];
        for sql in statements {
            let said = outcome_text(&node.execute(&[sql])[0]);
            assert!(!said.starts_with("failed"), "{long}: {sql:.50}: {said:.200}");
        }
        let lengths = outcome_text(
            &node.read("SELECT sum(length(z)), count(*) FROM (SELECT z FROM x UNION ALL SELECT z FROM v)"),
        );
        assert!(lengths.ends_with(&format!("  {} | 6", 6 * long)), "{long}: {lengths}");
        let dump = node.dump();
        let mut other = Node::default();
        let load = Command::Load { sql: dump.clone(), seed: 1 };
        assert_eq!(answer(other.entry(1, &[load]).remove(0)), Answer::Done);
        assert_eq!(other.dump(), dump);
    }
}

/// Rows that SQLite would move from page to page are charged as well, and so are the entries of many indexes.
#[test]
fn copied_bytes_are_counted() {
    let mut node = Node::default();
    node.execute(&["CREATE TABLE a (x)", "CREATE TABLE b (x)", "INSERT INTO a VALUES(zeroblob(1000000))"]);
    let growing = ["INSERT INTO b SELECT * FROM a", "INSERT INTO a SELECT * FROM b"].repeat(12);
    let said = node.run(1, request(&growing, RunKind::Execute, 1));
    assert!(said.iter().any(|one| outcome_text(one) == ran_away()), "the statements would write 75 GB");
    let rows = outcome_text(&node.read("SELECT (SELECT count(*) FROM a) + (SELECT count(*) FROM b)"));
    let rows: u64 = rows.rsplit("  ").next().unwrap().parse().unwrap();
    assert!((100..3_000).contains(&rows), "{rows} MB");

    let mut node = Node::default();
    node.execute(&["CREATE TABLE v (a)", "CREATE VIRTUAL TABLE f USING fts5(a)"]);
    for n in 0..12 {
        node.execute(&[&format!("CREATE INDEX v{n} ON v(a)")]);
    }
    let rows = |count: u64| {
        format!(
            "INSERT INTO v WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < {count}) \
             SELECT zeroblob(65000) FROM c"
        )
    };
    assert_eq!(outcome_text(&node.execute(&[&rows(2000)])[0]), ran_away(), "1.7 GB");
    assert_eq!(outcome_text(&node.execute(&[&rows(100)])[0]), "changed 100, last id 100");
}

#[test]
fn leading_comments_hide_no_statement() {
    let mut node = node();
    let wide: Vec<String> = (0..240).map(|n| format!("zeroblob({})", 4_000_000 + n)).collect();
    for before in ["", ";", " ; \n;", "/* x */ ;", "-- x\n"] {
        let said = outcome_text(&node.execute(&[&format!("{before}SELECT {}", wide.join(","))])[0]);
        assert!(said.contains("instructions"), "{before:?}: {said:.200}");
    }
    for sql in ["PRAGMA \"data_version\"", "PRAGMA [data_version]", "PRAGMA main.`DATA_VERSION`"] {
        let said = outcome_text(&node.execute(&[sql])[0]);
        assert!(said.contains("not available"), "{sql}: {said}");
    }
}

#[test]
fn endless_single_steps_are_stopped() {
    let mut node = node();
    node.execute(&["CREATE TABLE big (a)"]);
    let object = |from: usize| {
        let pairs: Vec<String> = (from..from + 250_000).map(|n| format!("\"{n}\":1")).collect();
        Value::Text(format!("{{{}}}", pairs.join(",")))
    };
    let params = Params::Positional(vec![object(0), object(1_000_000)]);
    let sql = "INSERT INTO big VALUES(length(json_patch(?, ?)))".to_string();
    let run =
        Run { statements: vec![Statement { sql, params }], is_transaction: false, kind: RunKind::Execute, seed: 1 };
    assert_eq!(outcome_text(&node.run(1, run)[0]), ran_away());
    let group = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 40000) \
                 SELECT length(json_group_array(hex(zeroblob(32000)))) FROM c";
    let said = outcome_text(&node.execute(&[group])[0]);
    assert!(said.starts_with("failed: "), "{said}");

    let text = |word: &str, times: usize| Value::Text(word.repeat(times));
    let array = Value::Text(format!("[1{}]", ",1".repeat(799_999)));
    let long = vec![text("a", 1_100_000), Value::Text("a".repeat(700_000) + "b"), text("b", 4000), array];
    node.execute(&["CREATE TABLE args (hay, needle, b, array)"]);
    let sql = "INSERT INTO args VALUES(?, ?, ?, ?)".to_string();
    let statement = Statement { sql, params: Params::Positional(long) };
    node.run(1, Run { statements: vec![statement], is_transaction: false, kind: RunKind::Execute, seed: 1 });
    let mut fifty = |what: &str| {
        let sql = format!("INSERT INTO big SELECT {what} FROM args");
        let now_ms = 1_000 * node.log.len() as u64;
        let said = node.run(now_ms, request(&[sql.as_str()].repeat(50), RunKind::Execute, 1));
        said.iter().map(outcome_text).collect::<Vec<String>>()
    };
    let said = fifty("length(replace(hay, 'a', b))");
    // A statement that fails is charged as well: the budget is used up before the fiftieth.
    assert_eq!(said[0], "failed: string or blob too big");
    assert!(said.iter().all(|one| one.starts_with("failed: ")) && said.contains(&ran_away()), "{said:?}");
    let said = fifty("instr(hay, needle)");
    assert!(said[0].starts_with("changed 1"), "{said:?}");
    let paths = vec!["'$[799999]'"; 40].join(",");
    let said = fifty(&format!("length(json_extract(array, {paths}))"));
    assert!(said[0].starts_with("changed 1") && said.iter().any(|one| *one == ran_away()), "{said:?}");
    // Reads outside of the log have a deadline, which is not checked within one step.
    let cut = "SELECT trim(hex(zeroblob(1000000)), hex(zeroblob(1000000)))";
    assert_eq!(outcome_text(&node.read(cut)), ran_away());
}

/// Our replacements of SQLite functions return the same results.
#[test]
fn functions_of_ours_answer_as_sqlite_does() {
    let values = [
        "NULL",
        "''",
        "'a'",
        "'aXbXXc'",
        "'X'",
        "'XX'",
        "'日本x'",
        "'本'",
        "12345",
        "34",
        "1.5",
        "x''",
        "x'6158'",
        "x'58'",
        "x'e697a5e69cac'",
        "x'9c'",
        "CAST(x'9ce69c' AS TEXT)",
        "CAST(x'9c' AS TEXT)",
        "x'00'",
        "CAST(x'610062' AS TEXT)",
    ];
    let json =
        [r#"'{"a":[1,{"b":2}],"c":"x"}'"#, "'[1,2,3]'", "'5'", "NULL", "'{'", r#"jsonb('{"a":[1,2],"c":null}')"#];
    let mut asked = Vec::new();
    for a in values {
        for b in values {
            asked.push(format!("instr({a}, {b})"));
            for c in ["NULL", "''", "'yy'", "x'78'", "7"] {
                asked.push(format!("replace({a}, {b}, {c})"));
            }
        }
    }
    for a in json {
        for more in ["'$.a', '$.c'", "'$[0]', '$.a[1].b', '$.z'", "'$.a', NULL", "'a', '$.b'", "'$.a', '$.a'"] {
            for name in ["json_extract", "jsonb_extract", "json_remove", "jsonb_remove"] {
                asked.push(format!("{name}({a}, {more})"));
            }
        }
        for more in [
            "'$.a', 1, '$.n', 'text'",
            "'$.a', json('[7, 8]'), '$.m', '[7]'",
            "'$[0]', NULL, '$.a[0]', x'00'",
            "'$.a', json_array(1, 'q'), '$.c', jsonb('{}')",
            "'x', 1, '$', 2",
        ] {
            for name in ["json_set", "jsonb_set", "json_insert", "jsonb_insert", "json_replace", "jsonb_replace"] {
                asked.push(format!("{name}({a}, {more})"));
                asked.push(format!("json_array({name}({a}, {more}))"));
            }
        }
    }
    let plain = rusqlite::Connection::open_in_memory().unwrap();
    let mut node = Node::default();
    for what in asked {
        let sql = format!("SELECT typeof(it), hex(it) FROM (SELECT {what} AS it)");
        let theirs = plain.query_row(&sql, [], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)));
        let ours = outcome_text(&node.run(1, request(&[&sql], RunKind::Query, 1))[0]);
        match theirs {
            Ok((kind, hex)) => {
                assert!(ours.ends_with(&format!("'{kind}' | '{hex}'")), "{what}: {ours}, not {kind} {hex}")
            }
            Err(_) => assert!(ours.starts_with("failed"), "{what}: {ours}"),
        }
    }
}

/// The slowest known statements: run with `--ignored --nocapture` for their times.
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
        ("json of 60 kB", of("json_valid(hex(zeroblob(30000)) || x)")),
        ("rows of 60 kB", "INSERT INTO t(n) WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT zeroblob(60000) FROM c".into()),
        ("rows of 1 kB", "INSERT INTO t(n) WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT zeroblob(1000) FROM c".into()),
        ("sorting", "SELECT count(*) FROM (WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 9000000) SELECT DISTINCT x, hex(zeroblob(400)) AS z FROM c ORDER BY z, x)".into()),
        ("dates", of("length(datetime(x, 'unixepoch'))")),
    ]
}

#[test]
fn a_runaway_ends() {
    let mut node = node();
    for (name, sql) in endless().into_iter().filter(|(name, _)| ["counting", "instr", "like"].contains(name)) {
        let said = outcome_text(&node.execute(&[&sql])[0]);
        assert_eq!(said, ran_away(), "{name}");
    }
}

#[test]
#[ignore = "measures for minutes"]
fn duration_of_a_runaway_statement() {
    let mut node = node();
    for (name, sql) in endless() {
        let begun = Instant::now();
        let said = outcome_text(&node.execute(&[&sql])[0]);
        println!("{name}: {:.1} s, {said}", begun.elapsed().as_secs_f64());
    }
}

/// An object whose reserved name was allowed by an earlier version remains usable: it can be read, renamed and dropped,
/// and does not prevent other statements.
#[test]
fn a_reserved_name_from_before_can_be_taken_away() {
    let mut node = node();
    node.registry
        .sql()
        .inspect_content("CREATE TABLE _phalanx2 (a); INSERT INTO _phalanx2 VALUES(7); CREATE TABLE _phalanx3 (a)");
    for (sql, expected) in [
        ("ALTER TABLE t RENAME TO u", "changed"),
        ("ALTER TABLE _phalanx3 RENAME TO _phalanx4", "failed: names that begin with _phalanx"),
        ("ALTER TABLE _phalanx3 RENAME TO fine", "changed"),
        ("DROP TABLE _phalanx2", "changed"),
        ("ALTER TABLE u RENAME COLUMN n TO _phalanx_n", "changed"),
    ] {
        let said = outcome_text(&node.execute(&[sql])[0]);
        assert!(said.starts_with(expected), "{sql}: {said}");
    }
}
