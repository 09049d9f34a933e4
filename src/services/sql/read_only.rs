//! Recognizes, by their words, statements that cannot change anything and therefore need not go through the log.
//!
//! Invariant: R1 a request that only reads never becomes a log entry, at any read level: however long it takes, it does
//! not delay writes.
//! Not here: the refusal of a statement that tries to write on a reader's connection (`statement.rs`).

use super::commands::Statement;
use super::tokens::{is_keyword, words};

/// Statements that begin with these words only read, or are refused.
const READS: [&str; 3] = ["select", "values", "explain"];
/// Words after a common table expression that may write. `replace` is also the name of a function.
const WRITES: [&str; 4] = ["insert", "update", "delete", "replace"];
/// Pragmas that change the database when a value is given.
const PRAGMAS_SET: [&str; 2] = ["user_version", "application_id"];

/// Whether none of the statements can change anything; `None` if the words do not decide it and SQLite must prepare the
/// statements.
pub fn all_read(statements: &[Statement]) -> Option<bool> {
    let mut all = Some(true);
    for statement in statements {
        match reads(&statement.sql) {
            Some(true) => {}
            Some(false) => return Some(false),
            None => all = None,
        }
    }
    all
}

fn reads(sql: &str) -> Option<bool> {
    let mut words = words(sql);
    // Without any word the statement does nothing.
    let Some(first) = words.next() else { return Some(true) };
    if READS.iter().any(|one| is_keyword(first, one)) {
        return Some(true);
    }
    if is_keyword(first, "pragma") {
        let lower = sql.to_ascii_lowercase();
        return Some(!(lower.contains(['=', '(']) && PRAGMAS_SET.iter().any(|name| lower.contains(name))));
    }
    match is_keyword(first, "with") {
        true if words.any(|word| WRITES.iter().any(|one| is_keyword(word, one))) => None,
        only_reads => Some(only_reads),
    }
}

#[cfg(test)]
mod tests {
    use crate::services::sql::read_only::*;

    #[test]
    fn words_tell_reads_from_writes() {
        for (sql, is_read) in [
            ("SELECT ';' || replace('a', 'b', 'c')", Some(true)),
            (" ; /* x */ values(1)", Some(true)),
            ("-- nothing", Some(true)),
            ("EXPLAIN QUERY PLAN DELETE FROM t", Some(true)),
            ("WITH c(x) AS (SELECT 'delete') SELECT * FROM c;", Some(true)),
            ("WITH c(x) AS (SELECT replace('a', 'b', 'c')) SELECT * FROM c", None),
            ("WITH c(x) AS (SELECT 1) DELETE FROM t", None),
            ("PRAGMA table_info(t)", Some(true)),
            ("PRAGMA user_version", Some(true)),
            ("PRAGMA main.\"user_version\" = 3", Some(false)),
            ("PRAGMA application_id(3)", Some(false)),
            ("DELETE FROM t", Some(false)),
            ("INSERT INTO t VALUES(1) RETURNING a", Some(false)),
            ("REINDEX", Some(false)),
            ("BEGIN", Some(false)),
        ] {
            assert_eq!(reads(sql), is_read, "{sql}");
        }
        let both =
            |other: &str| all_read(&["WITH c AS (SELECT replace(1, 2, 3)) SELECT 1", other].map(Statement::bare));
        assert_eq!((both("SELECT 1"), both("DELETE FROM t"), all_read(&[])), (None, Some(false), Some(true)));
    }
}
