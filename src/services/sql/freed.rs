//! How much statements free in one step: DROP TABLE, DROP INDEX and DELETE without WHERE give all pages of a table back at once, and no
//! budget of steps sees it.
//!
//! How many pages a table has differs from node to node. So this is no part of what a command does: the door that takes a request looks
//! at its own file before it puts the request into the log.
//! Not here: what else a statement costs (`price.rs`), who asks (`node/sql.rs`).

use super::machine::Own;
use super::statement::{from_first_word, too_many_selects, words};
use super::watch::Watch;
use super::words::{SQL_BYTES_MAX, Statement};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Result};

/// Bytes that one request may free in such a way.
pub const FREED_BYTES_MAX: i64 = 256 << 20;

/// Whether a request has statements that may free a table at once, as far as their words tell. A DELETE within a trigger frees row by
/// row (`authorizer.rs`).
pub fn may_free(statements: &[Statement]) -> bool {
    statements.iter().any(|statement| frees(&statement.sql))
}

fn frees(sql: &str) -> bool {
    let is = |word: &[u8], one: &str| word.eq_ignore_ascii_case(one.as_bytes());
    let mut words = words(sql);
    match words.next() {
        Some(first) if is(first, "drop") => true,
        Some(first) if is(first, "delete") => !words.any(|word| is(word, "where")),
        // Behind a common table expression.
        Some(first) if is(first, "with") => words.any(|word| is(word, "delete")),
        _ => false,
    }
}

/// Why a request must not be carried out, if it frees too much: as far as this connection's file tells.
///
/// # Errors
/// The file cannot be read.
pub fn excess(conn: &Connection, watch: &Watch, statements: &[Statement]) -> Result<Option<String>> {
    let number = |sql: &str| {
        let _own = Own::begin(watch);
        conn.query_row(sql, [], |row| row.get::<_, i64>(0))
    };
    let page_bytes = number("PRAGMA page_size")?;
    let most = FREED_BYTES_MAX / page_bytes;
    if number("PRAGMA page_count")? - number("PRAGMA freelist_count")? <= most {
        return Ok(None);
    }
    let renames =
        statements.iter().any(|one| words(&one.sql).next().is_some_and(|word| word.eq_ignore_ascii_case(b"alter")));
    if renames {
        let why = "ALTER stands beside statements that remove a whole table, in a large database: send those in a request of their own";
        return Ok(Some(why.to_string()));
    }
    let mut pages = 0;
    for statement in statements.iter().filter(|one| frees(&one.sql)) {
        // What cannot be prepared now will fail, or is about a table that this request makes.
        for name in freed_by(conn, watch, &statement.sql).unwrap_or_default() {
            let _own = Own::begin(watch);
            pages += conn
                .prepare_cached("SELECT count(*) FROM (SELECT 1 FROM dbstat WHERE name = ?1 LIMIT ?2)")?
                .query_row((name, most + 1 - pages), |row| row.get::<_, i64>(0))?;
            if pages > most {
                return Ok(Some(format!(
                    "this would free more than {} MiB at once, and hold up the writes of others meanwhile: remove rows by ranges of the key \
                     first, some ten thousand at a time",
                    FREED_BYTES_MAX >> 20
                )));
            }
        }
    }
    Ok(None)
}

/// Tables and indexes that a statement gives all pages back of. It is prepared within the bounds of every other read.
fn freed_by(conn: &Connection, watch: &Watch, sql: &str) -> Result<Vec<String>> {
    if sql.len() > SQL_BYTES_MAX || too_many_selects(sql).is_some() {
        return Ok(Vec::new());
    }
    watch.begin_statement();
    let mut explain = conn.prepare(&format!("EXPLAIN {}", from_first_word(sql)))?;
    let mut rows = explain.raw_query();
    let (mut roots, mut modules) = (Vec::new(), Vec::new());
    while let Some(row) = rows.next()? {
        match row.get_ref(1)? {
            ValueRef::Text(b"Destroy" | b"Clear") => roots.push(row.get::<_, i64>(2)?),
            ValueRef::Text(b"VDestroy") => modules.push(row.get_ref(5)?.as_str().unwrap_or_default().to_string()),
            _ => {}
        }
    }
    let _own = Own::begin(watch);
    let mut names = Vec::new();
    for root in roots {
        let mut name = conn.prepare_cached("SELECT name FROM main.sqlite_schema WHERE rootpage = ?1")?;
        names.extend(name.query_map([root], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>>>()?);
    }
    for table in modules {
        // Its module keeps it in tables whose names begin with its own.
        let find = "SELECT name FROM main.sqlite_schema WHERE substr(name, 1, length(?1) + 1) = ?1 || '_'";
        let mut own = conn.prepare_cached(find)?;
        names.extend(own.query_map([table], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>>>()?);
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_tell_what_may_free_a_table() {
        for (sql, expected) in [
            ("DROP TABLE t", true),
            ("/* x */ drop index i", true),
            ("DELETE FROM t", true),
            ("DELETE FROM t WHERE a = 1", false),
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
            let mut found = freed_by(&conn, &Watch::default(), sql).unwrap();
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
    fn a_large_table_is_not_freed_at_once() {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch("CREATE TABLE large (a); CREATE TABLE small (a); INSERT INTO small VALUES(1)").unwrap();
        let excess = |sql: &[&str]| {
            excess(&conn, &Watch::default(), &sql.iter().map(|sql| Statement::bare(*sql)).collect::<Vec<_>>()).unwrap()
        };
        assert_eq!(excess(&["DROP TABLE large"]), None);
        for _ in 0..260 {
            conn.execute("INSERT INTO large VALUES(zeroblob(1 << 20))", []).unwrap();
        }
        for refused in [&["DROP TABLE large"][..], &["SELECT 1", "DELETE FROM large"], &["DROP TABLE IF EXISTS large"]]
        {
            assert!(excess(refused).is_some_and(|why| why.contains("256 MiB")), "{refused:?}");
        }
        for fine in [&["DROP TABLE small"][..], &["DELETE FROM large WHERE rowid < 5"], &["DROP TABLE missing"]] {
            assert_eq!(excess(fine), None, "{fine:?}");
        }
        let renamed = excess(&["ALTER TABLE large RENAME TO l", "DROP TABLE IF EXISTS l"]);
        assert!(renamed.is_some_and(|why| why.contains("a request of their own")));
        conn.execute("DELETE FROM large WHERE rowid > 10", []).unwrap();
        assert_eq!(excess(&["DROP TABLE large"]), None);
    }
}
