//! Upper bounds of the bytes of long rows in each table, for the file of one node: what a statement could free at most.
//!
//! A table is scanned once, without reading its longest values. After that its bound is the result of the scan and
//! everything that was written since, by any statement; when the bound becomes too large, the table is scanned again.
//!
//! Not here: what a statement frees (`freed_space.rs`).

use crate::lock::{Mutex, lock};
use crate::services::sql::commands::ROW_BYTES_MAX;
use rusqlite::{Connection, Result};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Length in bytes up to which a row has no pages of its own.
pub const LONG_BYTES: i64 = 4_000;
/// A number of bytes that exceeds the size of any file.
const EVERYTHING: u64 = 1 << 40;

/// The bounds of the tables of one database.
#[derive(Debug, Default)]
pub struct LongRows {
    /// Upper bound of the bytes of long rows written since the process started.
    written: AtomicU64,
    /// By root page, which a table keeps when it is renamed.
    tables: Mutex<BTreeMap<i64, TableScan>>,
}

/// The result of scanning a table.
#[derive(Clone, Copy, Debug)]
struct TableScan {
    bytes: u64,
    longest: u64,
    /// [`LongRows::written`] before the scan.
    at: u64,
}

impl LongRows {
    /// Adds bytes of long rows that were committed.
    pub fn note(&self, bytes: u64) {
        self.written.fetch_add(bytes, Relaxed);
    }

    /// Invalidates all bounds: rows were written without being counted, or another file has become the database.
    pub fn forget(&self) {
        self.note(EVERYTHING);
    }

    /// Upper bounds of the bytes of all long rows of a table and of its longest row. `root`: its root page; a bound of
    /// at most `enough` need not be exact.
    ///
    /// # Errors
    /// The file cannot be read in time.
    pub fn of(&self, conn: &Connection, root: i64, enough: u64) -> Result<(u64, u64)> {
        let at = self.written.load(Relaxed);
        let tables = || lock(&self.tables);
        let known = tables().get(&root).copied();
        let bound = |found: TableScan| {
            let since = at.saturating_sub(found.at);
            (found.bytes.saturating_add(since), if since > 0 { ROW_BYTES_MAX as u64 } else { found.longest })
        };
        if let Some(known) = known.map(bound).filter(|(bytes, _)| *bytes <= enough) {
            return Ok(known);
        }
        let (bytes, longest) = measure(conn, root)?;
        let found = TableScan { bytes, longest, at };
        tables().insert(root, found);
        Ok(bound(found))
    }
}

fn measure(conn: &Connection, root: i64) -> Result<(u64, u64)> {
    let find = "SELECT name FROM main.sqlite_schema WHERE rootpage = ?1 AND type = 'table'";
    let names =
        conn.prepare_cached(find)?.query_map([root], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>>>()?;
    let Some(table) = names.first() else { return Ok((0, 0)) };
    let Some(length) = row_length(conn, table)? else { return Ok((0, 0)) };
    let quoted = table.replace('"', "\"\"");
    let select = format!(
        "SELECT ifnull(sum(n), 0), ifnull(max(n), 0) FROM (SELECT {length} AS n FROM main.\"{quoted}\") WHERE n > {LONG_BYTES}"
    );
    conn.query_row(&select, [], |row| Ok((row.get::<_, i64>(0)?.unsigned_abs(), row.get::<_, i64>(1)?.unsigned_abs())))
}

/// An SQL expression for the length of a row in bytes, which does not read long values; `None` if the table has no
/// columns.
///
/// # Errors
/// The file cannot be read.
pub fn row_length(conn: &Connection, table: &str) -> Result<Option<String>> {
    // Includes stored generated columns.
    let mut names = conn.prepare_cached("SELECT name FROM pragma_table_xinfo(?1) WHERE hidden IN (0, 3)")?;
    let columns = names.query_map([table], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>>>()?;
    let quoted = columns.iter().map(|name| format!("ifnull(octet_length(\"{}\"), 0)", name.replace('"', "\"\"")));
    Ok(sum(&quoted.collect::<Vec<_>>()))
}

/// The sum of the parts, as a balanced tree, because SQLite limits the depth of expressions.
fn sum(parts: &[String]) -> Option<String> {
    match parts {
        [] => None,
        [one] => Some(one.clone()),
        _ => {
            let (left, right) = parts.split_at(parts.len() / 2);
            Some(format!("({} + {})", sum(left)?, sum(right)?))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_looked_through_when_too_much_was_written_since() {
        let conn = Connection::open_in_memory().unwrap();
        let columns: Vec<String> = (0..1_000).map(|n| format!("c{n}")).collect();
        conn.execute_batch(&format!("CREATE TABLE t ({}, g AS (c0 || c0) STORED)", columns.join(","))).unwrap();
        conn.execute_batch(
            "INSERT INTO t(c999) VALUES(zeroblob(100000)); INSERT INTO t(c0) VALUES(hex(zeroblob(5000))), ('short')",
        )
        .unwrap();
        let root = conn.query_row("SELECT rootpage FROM sqlite_schema WHERE name = 't'", [], |row| row.get(0)).unwrap();
        let rows = LongRows::default();
        let of = |enough| rows.of(&conn, root, enough).unwrap();
        assert_eq!(of(1_000_000), (130_000, 100_000));
        conn.execute("DELETE FROM t WHERE c0 IS NULL", []).unwrap();
        assert_eq!(of(1_000_000), (130_000, 100_000), "as it was");
        rows.note(500);
        assert_eq!(of(1_000_000), (130_500, ROW_BYTES_MAX as u64));
        assert_eq!(of(100_000), (30_000, 30_000));
        rows.forget();
        assert_eq!(of(1_000_000), (30_000, 30_000));
    }
}
