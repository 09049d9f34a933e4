//! No spelling and no kind of statement makes the clock or the time zone of the machine part of the content.
//!
//! Not here: the format of dates (`scripts/`).

use super::super::connection::configure;
use super::script_runner::{Node, outcome_text, request, results};
use crate::services::sql::commands::STEPS_MAX;
use crate::services::sql::connection::hook_state::HookState;
use crate::services::sql::connection::hook_state::Purpose;
use crate::services::sql::{Command, Params, RunKind, Statement, Value};
use rusqlite::types::Value as Stored;
use rusqlite::{Connection, Result, params_from_iter};
use std::sync::Arc;

/// 2001-02-03 04:05:06.789
const AT_MS: u64 = 981_173_106_789;
const AT: &str = "2001-02-03 04:05:06.789";
const FUNCTIONS: [&str; 8] = ["date", "time", "datetime", "julianday", "unixepoch", "strftime", "strftime", "timediff"];

/// Values as SQL literals, each of which SQLite reads in a different way.
const WORDS: &[&str] = &[
    "NULL",
    "0",
    "1.5",
    "1e300",
    "-1",
    "''",
    "x''",
    "'now'",
    "'NOW'",
    "'nOw'",
    "' now'",
    "'now '",
    "x'6e6f77'",
    "x'4E4F5700ff'",
    "CAST(x'6e6f770078' AS TEXT)",
    "CAST(x'ff6e6f77' AS TEXT)",
    "'now' || char(0)",
    "'subsec'",
    "'SUBSECOND'",
    "x'737562736563'",
    "'subsec' || char(0, 1)",
    "'localtime'",
    "'LocalTime'",
    "'utc'",
    "x'757463'",
    "x'6c6f63616c74696d65'",
    "'utc' || char(0)",
    "'localtime '",
    "'unixepoch'",
    "x'756e697865706f6368'",
    "'auto'",
    "'julianday'",
    "'+1 day'",
    "'-1.5 months'",
    "'+01:30'",
    "'start of month'",
    "'weekday 2'",
    "'2020-02-30'",
    "'2020-01-01T10:00:00Z'",
    "'10:11:12.5'",
    "'2020-01-01 10:00+02:00'",
    "'floor'",
    "'ceiling'",
    "'tomorrow'",
];

/// The result in a place where SQLite must not read the clock. The error means that it would read it there.
fn pure(conn: &Connection, name: &str, args: &[Stored]) -> Result<Stored> {
    let columns: Vec<String> = (0..args.len()).map(|place| format!("a{place}")).collect();
    let (table, columns) = (format!("{name}_{}", args.len()), columns.join(","));
    conn.prepare_cached(&format!(
        "CREATE TABLE IF NOT EXISTS {table}(id INTEGER PRIMARY KEY, {columns}, r AS ({name}({columns})))"
    ))?
    .execute([])?;
    let marks = vec!["?"; args.len()].join(",");
    conn.prepare_cached(&format!("INSERT OR REPLACE INTO {table}(id,{columns}) VALUES(1,{marks}) RETURNING r"))?
        .query_row(params_from_iter(args), |row| row.get(0))
}

fn ours(conn: &Connection, name: &str, args: &[Stored]) -> Result<Stored> {
    let marks = vec!["?"; args.len()].join(",");
    conn.prepare_cached(&format!("SELECT {name}({marks})"))?.query_row(params_from_iter(args), |row| row.get(0))
}

/// The expected result: SQLite's, with the entry's time instead of the clock; `None`: refused.
fn expected(conn: &Connection, name: &str, args: &[Stored]) -> Option<Stored> {
    let is_of_clock = |result: &Result<Stored>| matches!(result, Err(e) if e.to_string().contains("non-deterministic"));
    let first = usize::from(name == "strftime");
    let mut args = args.to_vec();
    let mut result = pure(conn, name, &args);
    let points = if name == "timediff" { first..2 } else { first..first + 1 };
    for point in points {
        if is_of_clock(&result) {
            // After a point in time it is a modifier.
            let is_subsec = name != "timediff"
                && match &args[point] {
                    Stored::Text(word) => word.to_lowercase().starts_with("subsec"),
                    Stored::Blob(word) => word.starts_with(b"subsec"),
                    _ => false,
                };
            if is_of_clock(&pure(conn, "date", &args[point..=point])) {
                args[point] = AT.to_string().into();
                if is_subsec {
                    args.insert(point + 1, "subsec".to_string().into());
                }
            }
            result = pure(conn, name, &args);
        }
    }
    if is_of_clock(&result) { None } else { Some(result.unwrap()) }
}

/// Every word in every position, in each way that SQLite reads it.
#[test]
fn no_spelling_reads_the_clock() {
    let theirs = Connection::open_in_memory().unwrap();
    let mut conn = Connection::open_in_memory().unwrap();
    let hooks = Arc::new(HookState::default());
    configure(&mut conn, &hooks, Purpose::Write, None).unwrap();
    // Text that is not UTF-8 remains a blob here: SQLite reads both in the same way.
    let value = |sql: &str| -> Stored {
        theirs.query_row(&format!("SELECT {sql}"), [], |row| row.get(0)).unwrap_or_else(|_| {
            Stored::Blob(theirs.query_row(&format!("SELECT CAST({sql} AS BLOB)"), [], |row| row.get(0)).unwrap())
        })
    };
    let words: Vec<Stored> = WORDS.iter().map(|sql| value(sql)).collect();
    let mut calls: Vec<Vec<Stored>> = words.iter().map(|word| vec![word.clone()]).collect();
    for first in &words {
        for second in &words {
            calls.push(vec![first.clone(), second.clone()]);
            for third in ["localtime", "+1 day", "utc"] {
                calls.push(vec![first.clone(), second.clone(), third.to_string().into()]);
            }
        }
    }
    let (mut of_clock, mut refused) = (0, 0);
    for (number, name) in FUNCTIONS.iter().enumerate() {
        for call in calls.iter().filter(|call| *name != "timediff" || call.len() == 2) {
            hooks.begin(AT_MS, 0, STEPS_MAX);
            let format = if number == 5 { "%Y-%m-%d %H:%M:%f" } else { "%s \u{e9} %j" };
            let mut args = call.clone();
            if *name == "strftime" {
                args.insert(0, format.to_string().into());
            }
            let got = ours(&conn, name, &args);
            let is_of_clock =
                matches!(pure(&theirs, name, &args), Err(e) if e.to_string().contains("non-deterministic"));
            of_clock += u32::from(is_of_clock);
            match expected(&theirs, name, &args) {
                Some(expected) => match got {
                    Ok(got) => assert_eq!(got, expected, "{name}({args:?})"),
                    // A time zone is refused even where SQLite would not reach it.
                    Err(e) => assert!(e.to_string().contains("time zone"), "{name}({args:?}): {e}"),
                },
                None => {
                    refused += 1;
                    assert!(got.is_err(), "{name}({args:?}): {got:?}");
                }
            }
        }
    }
    assert!(of_clock > 5_000 && refused > 1_000, "{of_clock} {refused}");
}

/// A word that is not known to be pure is computed in a place where SQLite does not allow the clock.
#[test]
fn unproven_date_expressions_run_where_sqlite_refuses_the_clock() {
    use crate::services::sql::connection::dates::Dates;
    let dates = Dates::new(&Arc::new(HookState::default()));
    dates.hooks.begin(AT_MS, 0, STEPS_MAX);
    let text = |text: &str| crate::services::sql::connection::dates::DateValue::Text(text.as_bytes().to_vec());
    for args in [&[text("now")][..], &[text("subsec")], &[text("2020-01-01"), text("localtime")]] {
        let why = dates.compute("datetime", args).unwrap_err().to_string();
        assert!(why.contains("would read the clock"), "{why}");
    }
}

/// Literal, parameter, column, expression, default, trigger, view, check and subquery all see the same time.
#[test]
fn every_path_takes_the_time_of_the_entry() {
    let mut node = Node::default();
    node.execute(&[
        "CREATE TABLE words (w)",
        "INSERT INTO words VALUES('now'), (x'6e6f77'), ('now' || char(0)), ('NOW')",
        "CREATE TABLE r (v)",
        "CREATE TABLE d (id INTEGER PRIMARY KEY, a DEFAULT (datetime(x'6e6f77')), b DEFAULT CURRENT_TIMESTAMP, c DEFAULT (strftime('%F %T', 'now' || char(0))))",
        "CREATE TABLE c (v CHECK (v = datetime(x'4e4f57')))",
        "CREATE VIEW vw AS SELECT datetime(w) AS v FROM words UNION ALL SELECT datetime(julianday(x'6e6f77'))",
        "CREATE TRIGGER tr AFTER INSERT ON c BEGIN INSERT INTO r VALUES(datetime(unixepoch(x'6e6f77'), 'unixepoch')); END",
    ]);
    let parameters =
        vec![Value::Blob(b"now".to_vec().into()), Value::Text("now\0".to_string()), Value::Text("Now".into())];
    let bound = Statement {
        sql: "INSERT INTO r VALUES(datetime(?)), (datetime(?)), (datetime(?))".to_string(),
        params: Params::Positional(parameters),
    };
    let mut run = request(
        &[
            "INSERT INTO r SELECT v FROM vw",
            "INSERT INTO r SELECT datetime(w) FROM words ORDER BY datetime(w)",
            "INSERT INTO r VALUES(datetime('now')), (datetime()), (CURRENT_TIMESTAMP), (current_date || ' ' || current_time), (datetime(x'6e6f77', '+0 days')), (strftime('%F %T', 'subsec')), (datetime(timediff('subsec', '2001-01-01') > '', 'unixepoch', '+981173105 seconds'))",
            "INSERT INTO d(id) VALUES(1)",
            "INSERT INTO r SELECT a FROM d UNION ALL SELECT b FROM d UNION ALL SELECT c FROM d",
            "INSERT INTO c VALUES('2001-02-03 04:05:06')",
            "INSERT INTO r SELECT (SELECT max(datetime(w)) FROM words WHERE datetime(w) <= datetime('now'))",
        ],
        RunKind::Execute,
        1,
    );
    run.statements.push(bound);
    for outcome in results(node.entry(AT_MS, &[Command::Run(run)]).pop().unwrap()) {
        assert!(!outcome_text(&outcome).contains("failed"), "{outcome:?}");
    }
    let seen = outcome_text(&node.read("SELECT DISTINCT CAST(v AS TEXT) || ' ' || count(*) FROM r GROUP BY 1 || v"));
    assert!(seen.contains("2001-02-03 04:05:06 ") && seen.lines().count() == 2, "{seen}");
    // Where a value must never change, SQLite allows none of these functions.
    for sql in [
        "CREATE INDEX i ON words(datetime(w))",
        "CREATE INDEX i ON words(w) WHERE julianday(w) > 1",
        "CREATE TABLE g (a, b AS (date(a)))",
        "CREATE TABLE g (a, b AS (date(a)) STORED)",
        "ALTER TABLE words ADD COLUMN g AS (strftime('%F', w))",
    ] {
        let outcome = outcome_text(&node.execute(&[sql])[0]);
        assert!(outcome.contains("non-deterministic"), "{sql}: {outcome}");
    }
}
