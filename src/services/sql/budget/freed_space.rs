//! How much statements free: DROP TABLE, DROP INDEX and DELETE without WHERE give all pages of a table back at once, and a row that
//! is removed gives back all of its pages in one step, however long it is. No budget of steps sees it.
//!
//! How many pages a table has differs from node to node. So this is no part of what a command does: the endpoint that takes a
//! request looks at its own file before it puts the request into the log, and adds up the lengths of the rows that a DELETE would
//! remove. What triggers, foreign keys and REPLACE remove beside it is not added up.
//! Not here: what else a statement costs (`step_cost.rs`), who asks (`node/sql/handle.rs`).

use crate::services::sql::answer_limit::AnswerLimit;
use crate::services::sql::budget::text_cost::too_many_selects;
use crate::services::sql::commands::{Outcome, Params, SQL_BYTES_MAX, Statement, Value};
use crate::services::sql::connection::hook_state::{HookState, InternalStatements};
use crate::services::sql::statement;
use crate::services::sql::tokens::{from_first_word, words, words_outside};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Result};

/// Bytes that one request may free in such a way.
pub const FREED_BYTES_MAX: i64 = 256 << 20;

/// What a statement frees, as SQLite's program tells.
#[derive(Debug, Default)]
struct Freed {
    /// Tables and indexes of which all pages are given back.
    whole: Vec<String>,
    /// The first table that it writes to.
    written: Option<String>,
}

/// Whether a request has statements that may free much, as far as their words tell.
pub fn may_free(statements: &[Statement]) -> bool {
    statements.iter().any(|statement| frees(&statement.sql))
}

fn frees(sql: &str) -> bool {
    let is = |word: &[u8], one: &str| word.eq_ignore_ascii_case(one.as_bytes());
    let mut words = words(sql);
    match words.next() {
        Some(first) if is(first, "with") => words.any(|word| is(word, "delete")),
        first => first.is_some_and(|first| is(first, "drop") || is(first, "delete")),
    }
}

/// Why a request must not be carried out, if it frees too much: as far as this connection's file tells. The statements that look
/// at rows count on the hook state's budget.
///
/// # Errors
/// The file cannot be read.
pub fn excess(conn: &Connection, hooks: &HookState, statements: &[Statement]) -> Result<Option<String>> {
    let number = |sql: &str| {
        let _own = InternalStatements::begin(hooks);
        conn.query_row(sql, [], |row| row.get::<_, i64>(0))
    };
    let page_bytes = number("PRAGMA page_size")?;
    let most = FREED_BYTES_MAX / page_bytes;
    if number("PRAGMA page_count")? - number("PRAGMA freelist_count")? <= most {
        return Ok(None);
    }
    let renames =
        statements.iter().any(|one| words(&one.sql).next().is_some_and(|word| word.eq_ignore_ascii_case(b"alter")));
    let mut pages = 0;
    for statement in statements.iter().filter(|one| frees(&one.sql)) {
        // What cannot be prepared now will fail, or is about a table that this request makes.
        let freed = freed_by(conn, hooks, &statement.sql).unwrap_or_default();
        if renames && (!freed.whole.is_empty() || freed.written.is_none()) {
            let why = "in a large database, ALTER cannot be in the same request as statements that delete a whole \
                table: send them separately";
            return Ok(Some(why.to_string()));
        }
        for name in &freed.whole {
            let _own = InternalStatements::begin(hooks);
            pages += conn
                .prepare_cached("SELECT count(*) FROM (SELECT 1 FROM dbstat WHERE name = ?1 LIMIT ?2)")?
                .query_row((name, most + 1 - pages), |row| row.get::<_, i64>(0))?;
        }
        if freed.whole.is_empty()
            && let Some(table) = freed.written
        {
            pages += removed_bytes(conn, hooks, statement, &table)?.unwrap_or(0) / page_bytes;
        }
        if pages > most {
            return Ok(Some(format!(
                "this would free more than {} MiB at once and block other writes meanwhile: delete the rows in key \
                 ranges first, about ten thousand at a time, or fewer if they are long",
                FREED_BYTES_MAX >> 20
            )));
        }
    }
    Ok(None)
}

/// What a statement frees. It is prepared within the bounds of every other read.
fn freed_by(conn: &Connection, hooks: &HookState, sql: &str) -> Result<Freed> {
    if sql.len() > SQL_BYTES_MAX || too_many_selects(sql).is_some() {
        return Ok(Freed::default());
    }
    hooks.begin_statement();
    let mut explain = conn.prepare(&format!("EXPLAIN {}", from_first_word(sql)))?;
    let mut rows = explain.raw_query();
    let (mut roots, mut modules, mut written) = (Vec::new(), Vec::new(), None);
    while let Some(row) = rows.next()? {
        match row.get_ref(1)? {
            ValueRef::Text(b"Destroy" | b"Clear") => roots.push(row.get::<_, i64>(2)?),
            ValueRef::Text(b"VDestroy") => modules.push(row.get_ref(5)?.as_str().unwrap_or_default().to_string()),
            ValueRef::Text(b"OpenWrite") => written = written.or(Some(row.get::<_, i64>(3)?)),
            _ => {}
        }
    }
    let _own = InternalStatements::begin(hooks);
    let named = |root: i64| {
        let mut name = conn.prepare_cached("SELECT name FROM main.sqlite_schema WHERE rootpage = ?1")?;
        let names = name.query_map([root], |row| row.get::<_, String>(0))?;
        names.collect::<Result<Vec<_>>>()
    };
    let mut whole = Vec::new();
    for root in roots {
        whole.extend(named(root)?);
    }
    for table in modules {
        // Its module keeps it in tables whose names begin with its own.
        let find = "SELECT name FROM main.sqlite_schema WHERE substr(name, 1, length(?1) + 1) = ?1 || '_'";
        let mut own = conn.prepare_cached(find)?;
        whole.extend(own.query_map([table], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>>>()?);
    }
    let written = written.map(named).transpose()?.and_then(|names| names.into_iter().next());
    Ok(Freed { whole, written })
}

/// Bytes of the rows that a DELETE removes. `None`: it is none, or its rows cannot be told.
fn removed_bytes(conn: &Connection, hooks: &HookState, statement: &Statement, table: &str) -> Result<Option<i64>> {
    let columns = {
        let _own = InternalStatements::begin(hooks);
        let mut names = conn.prepare_cached("SELECT name FROM pragma_table_info(?1)")?;
        names.query_map([table], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>>>()?
    };
    let Some(sql) = weighing(&statement.sql, &columns) else { return Ok(None) };
    let Ok(wanted) = conn.prepare(&sql).map(|prepared| prepared.parameter_count()) else { return Ok(None) };
    let params = match &statement.params {
        // Those behind are for RETURNING.
        Params::Positional(values) => Params::Positional(values.iter().take(wanted).cloned().collect()),
        other => other.clone(),
    };
    let mut limit = AnswerLimit::new(1 << 10, 1);
    match statement::read(conn, hooks, &Statement { sql, params }, &mut limit) {
        Ok(Outcome::Rows { values, .. }) => match values.first().and_then(|row| row.first()) {
            Some(Value::Integer(bytes)) => Ok(Some(*bytes)),
            _ => Ok(None),
        },
        _ => Ok(None),
    }
}

/// A SELECT in the place of a DELETE: it adds up how many bytes the columns have of the rows that would be removed.
fn weighing(sql: &str, columns: &[String]) -> Option<String> {
    let at = |word: &[u8]| word.as_ptr().addr() - sql.as_ptr().addr();
    let mut words = words_outside(sql);
    let begin = at(words.find(|word| word.eq_ignore_ascii_case(b"delete"))?);
    let end = words.find(|word| word.eq_ignore_ascii_case(b"returning")).map_or(sql.len(), at);
    let quoted = columns.iter().map(|name| format!("ifnull(octet_length(\"{}\"), 0)", name.replace('"', "\"\"")));
    let bytes = quoted.collect::<Vec<_>>().join(" + ");
    let rest = sql[begin + "delete".len()..end].trim_end_matches([';', ' ', '\n', '\r', '\t']);
    (!bytes.is_empty()).then(|| format!("{}SELECT ifnull(sum({bytes}), 0){rest}", &sql[..begin]))
}

#[cfg(test)]
mod tests {
    use crate::services::sql::budget::freed_space::*;

    #[test]
    fn words_tell_what_may_free_much() {
        for (sql, expected) in [
            ("DROP TABLE t", true),
            ("/* x */ drop index i", true),
            ("DELETE FROM t", true),
            ("DELETE FROM t WHERE a = 1", true),
            ("WITH c AS (SELECT 1) DELETE FROM t", true),
            ("WITH c AS (SELECT 1) INSERT INTO t SELECT 1 FROM c", false),
            ("INSERT INTO t VALUES('DROP')", false),
            ("UPDATE t SET a = 1", false),
        ] {
            assert_eq!(may_free(&[Statement::bare("SELECT 1"), Statement::bare(sql)]), expected, "{sql}");
        }
    }

    #[test]
    fn what_a_statement_frees_is_found_with_indexes_and_the_tables_behind_a_virtual_one() {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(
            "CREATE TABLE t (a, b); CREATE INDEX i ON t(a); CREATE INDEX j ON t(b); CREATE VIRTUAL TABLE f USING fts5(x); CREATE TABLE g_data (a)",
        )
        .unwrap();
        let found = |sql: &str| {
            let mut found = freed_by(&conn, &HookState::default(), sql).unwrap().whole;
            found.sort();
            found.join(" ")
        };
        assert_eq!(found("DROP TABLE t"), "i j t");
        assert_eq!(found("; /* x */ ;DROP TABLE t"), "i j t");
        assert_eq!(found("DROP INDEX j"), "j");
        assert_eq!(found("DELETE FROM t"), "i j t");
        assert_eq!(found("DELETE FROM t WHERE a > 1"), "");
        assert_eq!(found("DROP TABLE f"), "f_config f_content f_data f_docsize f_idx");
        assert_eq!(found("DROP TABLE IF EXISTS missing"), "");
    }

    #[test]
    fn a_select_weighs_what_a_delete_removes() {
        let columns = ["a".to_string(), "b \"c".to_string()];
        let sum = "SELECT ifnull(sum(ifnull(octet_length(\"a\"), 0) + ifnull(octet_length(\"b \"\"c\"), 0)), 0)";
        for (sql, expected) in [
            ("DELETE FROM t WHERE a > ?;", Some("{} FROM t WHERE a > ?")),
            ("/* delete */ delete from t returning a", Some("/* delete */ {} from t")),
            (
                "WITH d AS (SELECT 'delete') DELETE FROM t WHERE a IN d",
                Some("WITH d AS (SELECT 'delete') {} FROM t WHERE a IN d"),
            ),
            ("INSERT INTO t VALUES(1)", None),
        ] {
            assert_eq!(weighing(sql, &columns), expected.map(|text| text.replace("{}", sum)), "{sql}");
        }
        assert_eq!(weighing("DELETE FROM t", &[]), None);
    }

    #[test]
    fn a_large_table_is_not_freed_at_once() {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch("CREATE TABLE large (a); CREATE TABLE small (a); INSERT INTO small VALUES(1)").unwrap();
        let excess = |sql: &[&str]| {
            excess(&conn, &HookState::default(), &sql.iter().map(|sql| Statement::bare(*sql)).collect::<Vec<_>>())
                .unwrap()
        };
        assert_eq!(excess(&["DROP TABLE large"]), None);
        for _ in 0..260 {
            conn.execute("INSERT INTO large VALUES(zeroblob(1 << 20))", []).unwrap();
        }
        for refused in [&["DROP TABLE large"][..], &["SELECT 1", "DELETE FROM large"], &["DROP TABLE IF EXISTS large"]]
        {
            assert!(excess(refused).is_some_and(|why| why.contains("256 MiB")), "{refused:?}");
        }
        for fine in [
            &["DROP TABLE small"][..],
            &["DELETE FROM large WHERE rowid < 5"],
            &["DROP TABLE missing"],
            &["DELETE FROM large WHERE rowid < 0", "DELETE FROM small WHERE a"],
            &["ALTER TABLE small RENAME TO s", "DELETE FROM large WHERE rowid = 1"],
        ] {
            assert_eq!(excess(fine), None, "{fine:?}");
        }
        for refused in [
            &["DELETE FROM large WHERE rowid > 0"][..],
            &["DELETE FROM large WHERE rowid < 130", "DELETE FROM large AS l WHERE l.rowid >= 130 RETURNING 1"],
            &["WITH most(id) AS (VALUES(2)) DELETE FROM large WHERE rowid > (SELECT id FROM most)"],
        ] {
            assert!(excess(refused).is_some_and(|why| why.contains("fewer if they are long")), "{refused:?}");
        }
        let sql = "DELETE FROM large WHERE rowid > ? RETURNING ?".to_string();
        let weighed = |least: i64| {
            let params = Params::Positional(vec![Value::Integer(least), Value::Integer(1)]);
            super::excess(&conn, &HookState::default(), &[Statement { sql: sql.clone(), params }]).unwrap()
        };
        assert!(weighed(1).is_some() && weighed(100).is_none(), "parameters count");
        let renamed = excess(&["ALTER TABLE large RENAME TO l", "DROP TABLE IF EXISTS l"]);
        assert!(renamed.is_some_and(|why| why.contains("send them separately")));
        conn.execute("DELETE FROM large WHERE rowid > 10", []).unwrap();
        assert_eq!(excess(&["DROP TABLE large"]), None);
    }
}
