//! How long one request may delay others: the statements of `hostile.corpus`, and the outcome of each.
//!
//! The tests check what depends on the content alone: which statements are refused for their cost. Times are not
//! checked: `cargo nextest run --release --lib how_long --run-ignored only --no-capture` prints them, the longest
//! first.

use super::script_runner::{Node, answer, outcome_text, request};
use crate::services::sql::commands::{Params, Run, Statement, Value};
use crate::services::sql::errors::BUDGET_EXCEEDED;
use crate::services::sql::{Answer, Command, Digest, Outcome, RunKind};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const CORPUS: &str = include_str!("hostile.corpus");
const FIXTURES: &str = include_str!("hostile.fixtures");

fn lines(text: &'static str) -> impl Iterator<Item = (&'static str, String)> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| {
        let (word, sql) = line.split_once(' ').unwrap();
        let numbers = |end: &str| format!("WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c{end})");
        let ends = [("@c", ""), ("@10k", " WHERE x < 10000"), ("@1k", " WHERE x < 1000"), ("@100", " WHERE x < 100")];
        let sql = ends.iter().fold(sql.to_string(), |sql, (mark, end)| sql.replace(mark, &numbers(end)));
        (word, repeated(&sql))
    })
}

/// Expands each `~3*{(#),}`: `(0),(1),(2),`.
fn repeated(sql: &str) -> String {
    let mut whole = String::new();
    let mut rest = sql;
    while let Some((before, (count, after))) =
        rest.split_once('~').and_then(|(before, rest)| Some((before, rest.split_once("*{")?)))
    {
        let (piece, behind) = after.split_once('}').unwrap();
        whole.push_str(before);
        (0..count.parse::<u32>().unwrap()).for_each(|number| whole.push_str(&piece.replace('#', &number.to_string())));
        rest = behind;
    }
    whole + rest
}

fn node() -> Node {
    let mut node = Node::default();
    for (times, sql) in lines(FIXTURES) {
        for _ in 0..times.parse::<u32>().unwrap() {
            let outcome = node.execute(&[&sql]).pop().unwrap();
            assert!(!matches!(outcome, Outcome::Failed(_)), "{sql}: {}", outcome_text(&outcome));
        }
    }
    node
}

/// The outcome of a statement, and the time it took, including the checks after it. Its changes are rolled back.
fn attempt(node: &mut Node, sql: &str) -> (Outcome, Duration) {
    let mut run = request(&[sql, "SELECT this_undoes_it"], RunKind::Execute, 1);
    run.is_transaction = true;
    let begun = Instant::now();
    let now_ms = 1_700_000_000_000 + 1_000 * node.log.len() as u64;
    let outcome = node.run(now_ms, run).swap_remove(0);
    (outcome, begun.elapsed())
}

fn verdict(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Failed(why) if why == BUDGET_EXCEEDED => "refused",
        Outcome::Failed(_) => "fails",
        _ => "accepted",
    }
}

/// Checks every third statement.
fn check(third: usize) {
    let mut node = node();
    let content = |node: &Node| Digest { index: 0, ..node.registry.sql().digests(Default::default()) };
    let before = content(&node);
    for (wanted, sql) in lines(CORPUS).skip(third).step_by(3) {
        let (outcome, _) = attempt(&mut node, &sql);
        let found = verdict(&outcome);
        let is_fine = if wanted == "bounded" { found != "fails" } else { found == wanted };
        assert!(is_fine, "{sql} should be {wanted}: {}", outcome_text(&outcome));
    }
    assert_eq!(content(&node), before);
}

#[test]
fn expensive_statements_are_refused_first_third() {
    check(0);
}

#[test]
fn expensive_statements_are_refused_second_third() {
    check(1);
}

#[test]
fn expensive_statements_are_refused_last_third() {
    check(2);
}

#[test]
fn the_corpus_has_two_hundred_statements_at_least() {
    assert!(lines(CORPUS).count() >= 200);
}

/// A node that reached the same content by another sequence of statements refuses the same statements.
#[test]
fn the_past_of_a_node_changes_no_price() {
    let mut node = node();
    let image = node.registry.sql().image();
    let mut other = Node::default();
    other.log.clone_from(&node.log);
    other.tags = node.tags;
    other.start_from(Some(crate::services::sql::Database::survivor(&image)));
    for (_, sql) in lines(CORPUS).step_by(9) {
        let (ours, theirs) = (attempt(&mut node, &sql).0, attempt(&mut other, &sql).0);
        assert_eq!(verdict(&ours), verdict(&theirs), "{sql}");
    }
}

/// SQLite searches the whole schema for each change of it, in steps that are not counted.
#[test]
fn changes_of_the_schema_cost_what_the_schema_is_large() {
    let mut node = Node::default();
    node.execute(&["CREATE TABLE t (a, b)"]);
    let ends = |node: &mut Node, statement: &dyn Fn(usize) -> String| {
        let all: Vec<String> = (0..3_000).map(statement).collect();
        let mut run = request(&all.iter().map(String::as_str).collect::<Vec<_>>(), RunKind::Execute, 1);
        run.is_transaction = true;
        let now_ms = 1_000 * node.log.len() as u64;
        let said = node.run(now_ms, run);
        assert_eq!(verdict(&said[said.len() - 1]), "refused", "{}: {}", all[0], outcome_text(&said[said.len() - 1]));
        said.len()
    };
    let made = ends(&mut node, &|n| format!("CREATE TABLE x{n} (a)"));
    assert!((300..2_000).contains(&made), "{made}");
    ends(&mut node, &|n| format!("CREATE VIEW x{n} AS SELECT 1"));
    ends(&mut node, &|n| format!("CREATE TRIGGER x{n} AFTER INSERT ON t BEGIN SELECT 1; END"));
    ends(&mut node, &|n| format!("CREATE INDEX x{n} ON t(a)"));
    let some = (0..300).map(|n| format!("c{n}")).collect::<Vec<_>>().join(",");
    assert!(ends(&mut node, &|n| format!("CREATE TABLE x{n} ({some})")) < 1_000);
    let columns = (0..1_000).map(|n| format!("c{n}")).collect::<Vec<_>>().join(",");
    let added = ends(&mut node, &|n| format!("ALTER TABLE t ADD COLUMN x{n}"));
    assert!((100..500).contains(&added), "{added}");
    node.execute(&[&format!("CREATE TABLE wide ({columns})")]);
    let renamed = ends(&mut node, &|n| {
        format!("ALTER TABLE wide RENAME COLUMN {}c0 TO {}c0", ["", "x"][n % 2], ["x", ""][n % 2])
    });
    assert!((5..100).contains(&renamed), "{renamed}");
}

#[test]
fn a_schema_grows_to_a_bound_and_can_be_made_smaller() {
    let mut node = Node::default();
    for part in 0..20 {
        let all: Vec<String> = (0..100).map(|n| format!("CREATE TABLE x{part}_{n} (a)")).collect();
        let said = node.execute(&all.iter().map(String::as_str).collect::<Vec<_>>());
        let failed = said.iter().position(|one| matches!(one, Outcome::Failed(_)));
        assert!(failed.is_none_or(|at| part == 19 && at > 90), "{part}: {failed:?}");
    }
    let mut refused = |sql: &str| {
        let said = outcome_text(&node.execute(&[sql])[0]);
        said.contains("2000 tables, indexes, views and triggers").then_some(()).ok_or(said)
    };
    for sql in [
        "CREATE TABLE y (a)",
        "CREATE INDEX y ON x0_0(a)",
        "CREATE VIEW y AS SELECT 1",
        "ALTER TABLE x0_0 ADD COLUMN b",
    ] {
        assert_eq!(refused(sql), Ok(()), "{sql}");
    }
    assert!(refused("INSERT INTO x0_0 VALUES(1)").is_err());
    let said = node.execute(&["DROP TABLE x0_0", "DROP TABLE x0_1", "CREATE TABLE y (a)"]);
    assert!(said.iter().all(|one| !matches!(one, Outcome::Failed(_))), "{said:?}");
    let long = format!("CREATE VIEW long AS SELECT '{}'", "x".repeat(1 << 20));
    let said = outcome_text(&node.execute(&[&long])[0]);
    assert!(said.contains("bytes of definitions at most"), "{said:.300}");
}

#[test]
#[ignore = "measures for minutes"]
fn longest_delay_caused_by_each_statement() {
    let mut node = node();
    let mut all: Vec<(Duration, &str, String)> = lines(CORPUS)
        .map(|(_, sql)| {
            let (outcome, took) = attempt(&mut node, &sql);
            (took, verdict(&outcome), sql)
        })
        .collect();
    all.sort_by_key(|(took, ..)| std::cmp::Reverse(*took));
    for (took, verdict, sql) in all {
        println!("{:8.1} ms {verdict:8} {sql:.120}", took.as_secs_f64() * 1e3);
    }
}

/// The outcome of the last of these statements.
fn last(node: &mut Node, statements: &[&str]) -> String {
    outcome_text(node.execute(statements).last().unwrap())
}

#[test]
fn the_work_of_the_planner_is_counted() {
    let mut node = Node::default();
    node.execute(&["CREATE TABLE p (x)", "CREATE TABLE q (a, b, c, d, e, f)"]);
    for start in 0..36_usize {
        let columns: Vec<&str> =
            (0..6).map(|n| ["a", "b", "c", "d", "e", "f"][(n * (1 + start / 6) + start) % 6]).collect();
        let mut distinct = columns.clone();
        distinct.dedup();
        node.execute(&[&format!("CREATE INDEX q{start} ON q({})", distinct.join(","))]);
    }
    let join = |tables: usize| {
        let from: Vec<String> = (0..tables).map(|n| format!("q t{n}")).collect();
        let equal: Vec<String> =
            (1..tables).flat_map(|n| ["a", "b", "c", "d", "e", "f"].map(|c| format!("t0.{c} = t{n}.{c}"))).collect();
        format!("INSERT INTO p SELECT count(*) FROM {} WHERE {}", from.join(", "), equal.join(" AND "))
    };
    assert!(last(&mut node, &[&join(20)]).contains("too many steps"), "{}", last(&mut node, &[&join(20)]));
    let ordinary = "INSERT INTO p SELECT count(*) FROM q x JOIN q y ON x.a = y.b JOIN q z ON y.c = z.d";
    assert!(!last(&mut node, &[ordinary]).contains("too many steps"));
}

#[test]
fn an_insert_has_few_conflict_clauses() {
    let mut node = Node::default();
    node.execute(&["CREATE TABLE t (a PRIMARY KEY, b UNIQUE)"]);
    let insert = |count: usize| format!("INSERT INTO t VALUES (1, 2) {}", "ON CONFLICT(a) DO NOTHING ".repeat(count));
    let refused = "at most 4 ON CONFLICT clauses";
    assert!(!last(&mut node, &[&insert(4)]).contains(refused));
    assert!(last(&mut node, &[&insert(5)]).contains(refused));
    let trigger = |body: String| format!("CREATE TRIGGER r AFTER INSERT ON t BEGIN {body}; END");
    assert!(last(&mut node, &[&trigger(insert(5))]).contains(refused));
    assert!(!last(&mut node, &[&trigger(vec![insert(1); 8].join("; "))]).contains(refused));
    let columns: Vec<String> = (0..9).map(|n| format!("c{n} UNIQUE ON CONFLICT REPLACE")).collect();
    assert!(!last(&mut node, &[&format!("CREATE TABLE many ({})", columns.join(", "))]).contains(refused));
}

#[test]
fn a_name_in_many_places_is_not_made_long() {
    let mut node = Node::default();
    let body = "DELETE FROM t;".repeat(3_000);
    node.execute(&["CREATE TABLE t (a)", "CREATE TABLE o (a)", "CREATE TABLE short (a)"]);
    node.execute(&[&format!("CREATE TRIGGER r AFTER INSERT ON o WHEN 0 BEGIN {body} END")]);
    let long = "x".repeat(5_000);
    assert!(last(&mut node, &[&format!("ALTER TABLE t RENAME TO {long}")]).contains("too many steps"));
    assert!(!last(&mut node, &[&format!("ALTER TABLE short RENAME TO {long}")]).contains("too many steps"));
}

#[test]
fn there_are_few_virtual_tables() {
    let mut node = Node::default();
    for number in 0..32 {
        let said = last(&mut node, &[&format!("CREATE VIRTUAL TABLE f{number} USING fts5(a)")]);
        assert!(!said.contains("at most"), "{number}: {said}");
    }
    assert!(last(&mut node, &["create virtual table more using fts5(a)"]).contains("at most 32 virtual tables"));
    assert!(!last(&mut node, &["DROP TABLE f7", "CREATE VIRTUAL TABLE more USING fts5(a)"]).contains("at most"));
}

#[test]
fn full_text_tables_keep_their_settings() {
    let mut node = Node::default();
    node.execute(&["CREATE TABLE t (a)", "CREATE VIRTUAL TABLE f USING fts5(a)", "INSERT INTO f VALUES ('one two')"]);
    for (name, value) in [
        ("pgsz", 64),
        ("secure-delete", 1),
        ("automerge", 0),
        ("crisismerge", 2_000),
        ("hashsize", 1),
        ("usermerge", 2),
        ("deletemerge", 0),
    ] {
        let set = format!("INSERT INTO f(f, rank) VALUES('{name}', {value})");
        assert!(last(&mut node, &[&set]).contains("settings of full-text tables other than rank"), "{name}");
    }
    let by_trigger = [
        "CREATE TRIGGER r AFTER INSERT ON t BEGIN INSERT INTO f(f, rank) VALUES(new.a, 64); END",
        "INSERT INTO t VALUES ('pgsz')",
    ];
    assert!(last(&mut node, &by_trigger).contains("settings of full-text tables"));
    let new = ["CREATE VIRTUAL TABLE g USING fts5(a)", "INSERT INTO g(g, rank) VALUES('pgsz', 64)"];
    assert!(last(&mut node, &new).contains("settings of full-text tables"));
    let count = last(&mut node, &["SELECT count(*) FROM f_config WHERE k <> 'version'"]);
    assert!(count.contains("Integer(0)") || count.contains('0'), "{count}");
    for fine in [
        "INSERT INTO f(f, rank) VALUES('rank', 'bm25(2.0)')",
        "INSERT INTO f(f) VALUES('optimize')",
        "INSERT INTO f(f) VALUES('rebuild')",
        "INSERT INTO f(f, rank) VALUES('merge', 16)",
        "INSERT INTO f VALUES ('three')",
        "DELETE FROM f WHERE f MATCH 'three'",
    ] {
        let said = last(&mut node, &[fine]);
        assert!(!said.contains("not available"), "{fine}: {said}");
    }
}

#[test]
fn words_that_an_index_is_asked_for_are_paid_by_the_byte_wherever_a_statement_writes() {
    let mut node = Node::default();
    node.execute(&[
        "CREATE TABLE p (x)",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT)",
        "CREATE VIRTUAL TABLE f USING fts5(a)",
        "CREATE VIRTUAL TABLE tri USING fts5(a, tokenize = 'trigram')",
        "INSERT INTO t(id) WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 1000) SELECT x FROM c",
        "UPDATE t SET a = 'a'",
        "INSERT INTO f VALUES ('a b')",
        "CREATE TRIGGER asks AFTER INSERT ON t BEGIN DELETE FROM f WHERE f MATCH new.a; END",
    ]);
    let words = |bytes: usize| "a ".repeat(bytes / 2);
    for sql in [
        format!("INSERT INTO p SELECT count(*) FROM f WHERE f MATCH '{}'", words(40_000)),
        format!("INSERT INTO p SELECT count(*) FROM f WHERE a MATCH '{}'", words(40_000)),
        format!("INSERT INTO p SELECT count(*) FROM f('{}')", words(40_000)),
        format!("INSERT INTO p SELECT count(*) FROM f WHERE f = '{}'", words(40_000)),
        format!("DELETE FROM f WHERE f MATCH '{}'", words(40_000)),
        format!("INSERT INTO p SELECT count(*) FROM tri WHERE a LIKE '%{}'", "aaa%".repeat(10_000)),
        format!("INSERT INTO p SELECT count(*) FROM tri WHERE a GLOB '*{}'", "aaa*".repeat(10_000)),
        // For each row of t.
        format!("INSERT INTO p SELECT (SELECT count(*) FROM f WHERE f MATCH '{}' AND rowid = id) FROM t", words(100)),
        format!(
            "UPDATE t SET a = 1 WHERE EXISTS (SELECT 1 FROM tri WHERE tri.a LIKE '%{}' AND rowid = id)",
            "aaa%".repeat(25)
        ),
    ] {
        assert_eq!(last(&mut node, &[&sql]), format!("failed: {BUDGET_EXCEEDED}"), "{sql:.90}");
    }
    for sql in [
        "INSERT INTO p SELECT count(*) FROM t, f WHERE f MATCH t.a",
        "INSERT INTO p SELECT count(*) FROM t, tri WHERE tri.a LIKE t.a",
        "DELETE FROM f WHERE f MATCH (SELECT a FROM t)",
        "DELETE FROM f WHERE f MATCH upper('a')",
        "DELETE FROM f WHERE f MATCH 'a' AND a MATCH (SELECT a FROM t)",
        "INSERT INTO t(a) VALUES('b')",
    ] {
        let said = last(&mut node, &[sql]);
        assert!(said.contains("can MATCH only literals"), "{sql}: {said}");
    }
    // A parameter costs as much as the same text in the statement.
    let mut ask = |bytes: usize| {
        let sql = "INSERT INTO p SELECT count(*) FROM f WHERE f MATCH ?".to_string();
        let statement = Statement { sql, params: Params::Positional(vec![Value::Text(words(bytes))]) };
        let run = Run { statements: vec![statement], ..request(&[], RunKind::Execute, 1) };
        outcome_text(&node.run(1_800_000_000_000, run)[0])
    };
    assert_eq!(ask(40_000), format!("failed: {BUDGET_EXCEEDED}"));
    let said = ask(1_000);
    assert!(said.starts_with("changed"), "{said}");
    for sql in [
        "INSERT INTO p SELECT count(*) FROM f WHERE f MATCH 'a b'".to_string(),
        format!("INSERT INTO p SELECT count(*) FROM f WHERE f MATCH '{}'", words(2_000)),
        "INSERT INTO p SELECT (SELECT count(*) FROM f WHERE f MATCH 'a' AND rowid = id) FROM t".to_string(),
        "INSERT INTO p SELECT count(*) FROM tri WHERE a LIKE '%aaa%'".to_string(),
        "DELETE FROM f WHERE rowid = 7 AND f MATCH CAST('a' AS TEXT)".to_string(),
        format!("UPDATE f SET a = '{}' WHERE rowid = 1", words(40_000)),
        format!("UPDATE f SET a = '{}' WHERE f MATCH 'a'", words(100_000)),
        "DELETE FROM f WHERE f MATCH 'a'".to_string(),
    ] {
        let said = last(&mut node, &[&sql]);
        assert!(said.starts_with("changed"), "{sql:.90}: {said}");
    }
}

/// Distinct words of five letters and digits.
fn text(bytes: usize) -> String {
    let word = |n: usize| format!("{:05} ", n * 7919 % 100_003);
    (0..bytes / 6).map(word).collect()
}

#[test]
fn a_long_text_is_put_into_a_full_text_index_and_taken_out_of_it() {
    let mut node = Node::default();
    node.execute(&["CREATE VIRTUAL TABLE f USING fts5(a)", "CREATE TABLE t (a)"]);
    let said = last(&mut node, &[&format!("INSERT INTO f VALUES('{}')", "some of the words ".repeat(150_000))]);
    assert!(said.starts_with("changed 1"), "2.7 MB: {said}");
    for _ in 0..4 {
        let said = last(&mut node, &[&format!("INSERT INTO f VALUES('{}')", text(500_000))]);
        assert!(said.starts_with("changed 1"), "{said}");
    }
    for sql in ["DELETE FROM f", "INSERT INTO f SELECT a FROM f", "UPDATE f SET a = 'b'"] {
        assert!(last(&mut node, &[sql]).contains("too many steps"), "{sql}");
    }
    for sql in ["UPDATE f SET a = 'short' WHERE rowid = 2", "DELETE FROM f WHERE rowid = 3"] {
        let said = last(&mut node, &[sql]);
        assert!(said.starts_with("changed 1"), "{sql}: {said}");
    }
}

/// Only the tokens of a named tokenizer are seen and charged.
#[test]
fn each_full_text_table_names_its_tokenizer() {
    let mut node = Node::default();
    node.execute(&["CREATE VIRTUAL TABLE f USING fts5(a)"]);
    let load = Command::Load { sql: "CREATE VIRTUAL TABLE g USING fts5(a); CREATE TABLE t (x);".to_string(), seed: 1 };
    node.entry(2_000_000_000_000, &[load]);
    for name in ["f", "g"] {
        let sql = format!("CREATE VIRTUAL TABLE {name} USING fts5(a, tokenize = 'unicode61')");
        assert!(node.dump().contains(&sql), "{}", node.dump());
    }
    let words: String = (0..250_000).map(|n| format!("{n} ")).collect();
    let mut created = 0;
    for (name, definition) in [
        ("h", "h USING fts5(a, columnsize = 0 /* , tokenize = 'unicode61' */)"),
        ("h", "h USING fts5(a, columnsize = 0 -- , tokenize = x\n)"),
        ("using fts5(a, tokenize = x)", "\"using fts5(a, tokenize = x)\" USING fts5(a)"),
        ("h)", "[h)] USING 'fts5' (a, \"tokenize = x\" UNINDEXED)"),
        ("h", "h USING fts5(a, 'b = c')"),
        ("h", "IF NOT EXISTS h USING \"FTS5\"(a);"),
        ("h", "h USING /*rtree*/ fts5(a)"),
        ("h", "h USING -- fts5vocab\n fts5(a, tokenize = ascii)"),
        ("h", "h USING fts5(a /* ' */, prefix='1 2 3' /* ' */, tokenize = ascii)"),
        ("h", "h USING fts5(a, tokenize = '')"),
        ("h", "h USING fts5(a, tokenize = ' ')"),
    ] {
        if !last(&mut node, &[&format!("CREATE VIRTUAL TABLE {definition}")]).starts_with("changed") {
            continue;
        }
        created += 1;
        let said = last(&mut node, &[&format!("INSERT INTO \"{name}\"(a) VALUES('{words}')")]);
        assert_eq!(said, format!("failed: {BUDGET_EXCEEDED}"), "{definition}");
        node.execute(&[&format!("DROP TABLE \"{name}\"")]);
    }
    assert!(created >= 2, "{created}");
    // In a dump a definition is prepared once and carried out twice.
    for definition in ["fts5(a, tokenize = '')", "fts5(a, tokenize =)", "fts5(a /*, tokenize = x */)"] {
        let sql = format!("CREATE VIRTUAL TABLE d USING {definition};");
        let said = node.entry(2_100_000_000_000, &[Command::Load { sql, seed: 1 }]).remove(0);
        assert!(matches!(answer(said), Answer::Refused(_)), "{definition}");
    }
    let long =
        format!("CREATE VIRTUAL TABLE l USING fts5(a, tokenize = \"unicode61 tokenchars '{}'\")", "x".repeat(2_000));
    assert!(last(&mut node, &[&long]).contains("at most 1000 bytes"));
}

/// The number of these statements that a request may contain: all but the last succeed.
fn count(node: &mut Node, statements: Vec<String>) -> usize {
    let all: Vec<&str> = statements.iter().map(String::as_str).collect();
    let run = request(&all, RunKind::Execute, 1);
    let now_ms = 1_900_000_000_000 + 1_000 * node.log.len() as u64;
    node.run(now_ms, run).iter().take_while(|one| !matches!(one, Outcome::Failed(_))).count()
}

#[test]
fn a_text_is_paid_for_by_each_index_that_it_goes_to() {
    let mut node = Node::default();
    node.execute(&[
        "CREATE VIRTUAL TABLE one USING fts5(a)",
        "CREATE VIRTUAL TABLE four USING fts5(a, prefix = '3 4 5')",
        "CREATE VIRTUAL TABLE tri USING fts5(a, tokenize = 'trigram')",
        "CREATE TABLE t (a)",
        "CREATE VIRTUAL TABLE x0 USING fts5(a)",
        "CREATE VIRTUAL TABLE x1 USING fts5(a)",
        "CREATE TRIGGER r AFTER INSERT ON t BEGIN INSERT INTO x0 VALUES(new.a); INSERT INTO x1 VALUES(new.a); END",
    ]);
    let mut inserts =
        |table: &str| count(&mut node, vec![format!("INSERT INTO {table} VALUES('{}')", text(60_000)); 30]);
    let (one, four, two) = (inserts("one"), inserts("four"), inserts("t"));
    assert!((15..30).contains(&one) && four <= one / 2 && two <= one / 2 + 1, "{one} {four} {two}");
    let tri = inserts("tri");
    assert!((one / 2..30).contains(&tri), "few different trigrams: {tri} of {one}");
}

/// Words whose hash values are the same in a table of 65,536 slots.
fn colliding_words(count: usize) -> String {
    let step = |hash: u32, byte: u8| ((hash << 3) ^ hash ^ u32::from(byte)) & 0xFFFF;
    let hash = |start: u32, word: &[u8]| word.iter().rev().fold(start, |hash, byte| step(hash, *byte));
    let letters = || b'a'..=b'z';
    let mut beginnings = BTreeMap::new();
    for word in letters().flat_map(|a| letters().flat_map(move |b| letters().map(move |c| [a, b, c]))) {
        beginnings.insert(hash(0, &word), word);
    }
    let ends = (10_000_u32..).filter_map(|n| {
        let end = format!("{n}x");
        let start = hash(hash(13, end.as_bytes()), &[0, 0, 0]);
        let begin = beginnings.get(&(start ^ 0x2A5A))?;
        Some(format!("{}{end}", String::from_utf8_lossy(begin)))
    });
    ends.take(count).collect::<Vec<_>>().join(" ")
}

/// Words in the same slot: FTS5 compares each with all before it.
#[test]
fn words_of_the_same_hash_value_are_paid_for_wherever_they_come_from() {
    let mut node = Node::default();
    let words = colliding_words(16_000);
    node.execute(&[
        "CREATE TABLE store (id INTEGER PRIMARY KEY, b)",
        &format!("INSERT INTO store VALUES(1, '{words}')"),
        "CREATE TABLE t (n)",
        "CREATE VIRTUAL TABLE f USING fts5(a)",
        "CREATE VIRTUAL TABLE g USING fts5(a, b, c, content = '')",
        "CREATE TRIGGER r AFTER INSERT ON t BEGIN INSERT INTO f VALUES((SELECT b FROM store WHERE id = new.n)); END",
    ]);
    for sql in [
        &format!("INSERT INTO f VALUES('{words}')"),
        "INSERT INTO f SELECT b FROM store",
        "INSERT INTO f VALUES((SELECT b FROM store))",
        "INSERT INTO t VALUES(1)",
        "INSERT INTO g SELECT substr(b, 1, 45000), substr(b, 45001, 45000), substr(b, 90001) FROM store",
        "INSERT INTO g(g, rowid, a, b, c) SELECT 'delete', 1, b, '', '' FROM store",
        "INSERT INTO f(rowid, a) SELECT 1000 - id, b FROM store, (SELECT 1 UNION ALL SELECT 2)",
    ] {
        assert_eq!(last(&mut node, &[sql]), format!("failed: {BUDGET_EXCEEDED}"), "{sql:.90}");
        // Nothing of the text is left in the index.
        let said = last(&mut node, &["INSERT INTO f VALUES('sound')", "INSERT INTO f(f) VALUES('integrity-check')"]);
        assert!(said.starts_with("changed"), "{sql:.90}: {said}");
    }
    // A few of them succeed, and so do as many other words.
    for sql in [
        format!("INSERT INTO f VALUES('{}')", colliding_words(6_000)),
        format!("INSERT INTO f VALUES('{}')", text(160_000)),
    ] {
        let said = last(&mut node, &[&sql]);
        assert!(said.starts_with("changed 1"), "{sql:.90}: {said}");
    }
}

/// The function that ranks matches is called past the authorizer.
#[test]
fn matches_are_ranked_by_bm25_alone() {
    let mut node = Node::default();
    node.execute(&["CREATE VIRTUAL TABLE f USING fts5(a)", "CREATE TABLE p (x)", "INSERT INTO f VALUES('x y')"]);
    for sql in [
        "INSERT INTO p SELECT rank FROM f WHERE f MATCH 'x' AND rank MATCH 'snippet(0,''['','']'',''.'',3)'",
        "INSERT INTO p SELECT rank FROM f WHERE f MATCH 'x' AND rank = 'highlight(0,''['','']'')'",
        "INSERT INTO p SELECT rank FROM f('x', 'snip' || 'pet(0,''['','']'',''.'',3)')",
        "INSERT INTO p SELECT rank FROM f WHERE f MATCH 'x' AND rank MATCH 'bm25(2.0)'",
    ] {
        assert!(last(&mut node, &[sql]).contains("rank MATCH and rank = are not available"), "{sql}");
        let read = sql.trim_start_matches("INSERT INTO p ");
        if !read.contains("||") {
            let said = outcome_text(&node.read(read));
            assert!(said.contains("rank MATCH and rank = are not available"), "{read}: {said}");
        }
    }
    let set = "INSERT INTO f(f, rank) VALUES('rank', 'snippet(0,''['','']'',''.'',3)')";
    assert!(last(&mut node, &[set]).contains("settings of full-text tables"));
    for sql in [
        "INSERT INTO f(f, rank) VALUES('rank', 'bm25(2.0)')",
        "INSERT INTO p SELECT rank FROM f WHERE f MATCH 'x' ORDER BY rank",
        "INSERT INTO p SELECT bm25(f, 3.0) FROM f WHERE f MATCH 'x' ORDER BY 1",
    ] {
        let said = last(&mut node, &[sql]);
        assert!(said.starts_with("changed"), "{sql}: {said}");
    }
    let said = outcome_text(&node.read("SELECT a FROM f WHERE f MATCH 'x' ORDER BY rank"));
    assert!(said.contains("x y"), "{said}");
}

#[test]
fn ordinary_texts_are_indexed() {
    let mut node = Node::default();
    node.execute(&[
        "CREATE TABLE docs (id INTEGER PRIMARY KEY, body TEXT)",
        "CREATE VIRTUAL TABLE f USING fts5(body, content = 'docs', content_rowid = 'id')",
        "CREATE TRIGGER i AFTER INSERT ON docs BEGIN INSERT INTO f(rowid, body) VALUES(new.id, new.body); END",
        "CREATE TRIGGER d AFTER DELETE ON docs BEGIN INSERT INTO f(f, rowid, body) VALUES('delete', old.id, old.body); END",
        "CREATE TRIGGER u AFTER UPDATE ON docs BEGIN INSERT INTO f(f, rowid, body) VALUES('delete', old.id, old.body); \
         INSERT INTO f(rowid, body) VALUES(new.id, new.body); END",
        "CREATE VIRTUAL TABLE plain USING fts5(body)",
    ]);
    let insert = |table: &str, n: usize| format!("INSERT INTO {table}(body) VALUES('some words of document {n}')");
    for table in ["docs", "plain"] {
        let done = count(&mut node, (0..1_000).map(|n| insert(table, n)).collect());
        assert_eq!(done, 1_000, "{table}");
        let said = last(&mut node, &[&format!("INSERT INTO {table}(body) VALUES('{}')", text(100_000))]);
        assert!(said.starts_with("changed 1"), "{table}: {said}");
    }
    let done =
        count(&mut node, (1..=50).map(|n| format!("UPDATE docs SET body = 'other words' WHERE id = {n}")).collect());
    assert_eq!(done, 50);
    let said = last(&mut node, &["INSERT INTO f(f) VALUES('delete-all')"]);
    assert!(said.starts_with("changed"), "{said}");
}

/// After a change of the schema SQLite keeps an instance of a virtual table for each statement on it that is undone,
/// and informs all instances of each savepoint.
#[test]
fn instances_of_virtual_tables_that_undone_statements_leave_are_paid_for() {
    let insert = "INSERT INTO f(rowid, a) VALUES(1, 'a')";
    let many = |first: &str, statement: &str| {
        let mut all = vec![first];
        all.extend([statement; 700]);
        request(&all, RunKind::Execute, 1)
    };
    let is = |outcome: &Outcome, part: &str| matches!(outcome, Outcome::Failed(why) if why.contains(part));
    let table = "CREATE VIRTUAL TABLE f USING fts5(a)";
    let mut node = Node::default();
    node.execute(&[table, insert]);
    let failed = node.run(2_000, many("CREATE TABLE t(a)", insert));
    assert!(failed.iter().any(|outcome| is(outcome, "too many steps")), "{:?}", failed.last());
    // There are none as long as the schema does not change, or nothing is undone.
    let failed = node.run(4_000, many(insert, insert));
    assert!(failed.iter().all(|outcome| is(outcome, "constraint failed")), "{:?}", failed.last());
    let done = Node::default().run(0, many(table, "INSERT INTO f VALUES('a')"));
    assert!(done.iter().all(|outcome| matches!(outcome, Outcome::Changed { .. })), "{:?}", done.last());
}

/// Once a request has changed the schema, SQLite reads all of it again after each statement that is undone.
#[test]
fn statements_undone_after_a_schema_change_pay_for_the_schema() {
    let mut node = Node::default();
    for part in 0..10 {
        let tables: Vec<String> = (0..100).map(|n| format!("CREATE TABLE t{part}_{n}(a, b)")).collect();
        let done = node.execute(&tables.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(done.iter().all(|outcome| matches!(outcome, Outcome::Changed { .. })), "{:?}", done.last());
    }
    node.execute(&["CREATE UNIQUE INDEX i ON t0_0(a)", "INSERT INTO t0_0 VALUES(1, 1)"]);
    let failing = "INSERT INTO t0_0 VALUES(1, 1)";
    let long = format!("UPDATE t0_0 SET b = hex(zeroblob({}))", 100_000);
    let run = |node: &mut Node, first: &str, statement: &str, is_transaction: bool| {
        let all: Vec<&str> = [first].into_iter().chain(std::iter::repeat_n(statement, 1_000)).collect();
        let now_ms = 1_000_000 + 1_000 * node.log.len() as u64;
        let outcomes = node.run(now_ms, Run { is_transaction, ..request(&all, RunKind::Execute, 1) });
        outcomes.iter().take_while(|outcome| !outcome_text(outcome).contains("not executed")).count()
    };
    // The schema stays as it is: nothing is read again.
    assert_eq!(run(&mut node, failing, failing, false), 1_001);
    let executed = run(&mut node, "CREATE TABLE new1(a)", failing, false);
    assert!((5..100).contains(&executed), "{executed}");
    // A statement that starts again with longer values is undone each time.
    let executed = run(&mut node, "CREATE TABLE new2(a)", &long, false);
    assert!((2..20).contains(&executed), "{executed}");
    // The next request of the same entry does not pay for it.
    let cheap = request(&[failing; 100], RunKind::Execute, 1);
    let change = request(&["CREATE TABLE new3(a)"], RunKind::Execute, 1);
    let now_ms = 1_000_000 + 1_000 * node.log.len() as u64;
    let answers = node.entry(now_ms, &[Command::Run(change), Command::Run(cheap)]);
    let Answer::Results(outcomes) = answer(answers[1].clone()) else { panic!("{answers:?}") };
    assert!(outcomes.iter().all(|outcome| outcome_text(outcome).contains("UNIQUE")), "{:?}", outcomes.last());
    // A schema change is paid for before it is made: with little left it waits, and nothing is read.
    let much = "INSERT INTO t0_1(b) WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 70000) \
        SELECT max(x) FROM c";
    let much = Command::Run(request(&[much], RunKind::Execute, 1));
    let change = Command::Run(request(&["CREATE TABLE new4(a)", failing], RunKind::Execute, 1));
    let answers = node.entry(now_ms + 1_000, &[much, change]);
    assert!(matches!(answer(answers[1].clone()), Answer::Busy { .. }), "{answers:?}");
    let before = node.registry.digests();
    node.start_from(None);
    assert_eq!(node.registry.digests(), before, "from the log");
    node.crash();
    assert_eq!(node.registry.digests(), before, "after a crash");
}

/// Long rows of a dump are not written in vain, although it changes the schema: that would read the schema each time.
#[test]
fn a_dump_with_many_tables_and_long_rows_is_loaded() {
    let columns = (0..30).map(|n| format!("column_{n}")).collect::<Vec<_>>().join(", ");
    let mut sql = "BEGIN TRANSACTION;\n".to_string();
    for table in 0..60 {
        sql += &format!("CREATE TABLE IF NOT EXISTS \"table {table}\" ({columns});\n");
        for row in 0..10 {
            let value = |n: usize| format!("'{}'", "it''s".repeat((n * 7 + row) % 15));
            let values = (0..30).map(value).collect::<Vec<_>>().join(",");
            sql += &format!("INSERT INTO \"table {table}\" VALUES({values});\n");
        }
    }
    sql += "COMMIT;\n";
    for load in [Command::Load { sql: sql.clone(), seed: 1 }, Command::LoadDump { sql: sql.clone(), seed: 1 }] {
        let mut node = Node::default();
        let said = answer(node.entry(1_000, &[load]).pop().unwrap());
        assert_eq!(said, Answer::Done);
        assert_eq!(outcome_text(&node.read("SELECT count(*) FROM \"table 59\"")), "[count(*):integer]\n  10");
    }
}

/// The full-text tables are looked for again only after a change, but then also if it is in the same request or undone.
#[test]
fn full_text_tables_are_known_in_the_request_that_creates_them() {
    let words = (0..150_000).map(|n| format!("w{n:x}")).collect::<Vec<_>>().join(" ");
    let much = format!("INSERT INTO g VALUES('{words}')");
    let (f, g) = ("CREATE VIRTUAL TABLE f USING fts5(a)", "CREATE VIRTUAL TABLE g USING fts5(a)");
    let insert = "INSERT INTO f VALUES('a')";
    let taken = "CREATE VIRTUAL TABLE f USING rtree(id, a, b)";
    for statements in [vec![f, insert, g, &much], vec![f, g, insert, taken, &much]] {
        let mut node = Node::default();
        assert_eq!(verdict(node.execute(&statements).last().unwrap()), "refused");
    }
}

/// Tables of users may be called as those that belong to full-text tables.
#[test]
fn a_table_of_settings_belongs_to_a_full_text_table() {
    let done = Node::default().execute(&[
        "CREATE VIRTUAL TABLE f USING fts5(a)",
        "INSERT INTO f VALUES('a')",
        "CREATE TABLE t(a)",
        "CREATE TABLE t_config(k, v)",
        "CREATE TRIGGER i AFTER INSERT ON t BEGIN INSERT INTO t_config VALUES('pgsz', new.a); END",
        "INSERT INTO t SELECT a FROM f",
    ]);
    assert_eq!(outcome_text(done.last().unwrap()), "changed 1, last id 1");
}
