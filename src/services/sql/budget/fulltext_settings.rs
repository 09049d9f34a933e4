//! Settings of full-text tables that statements may not change.
//!
//! A full-text table is told by a row that is inserted how to lay out its index. Some of these settings make later statements do
//! work that grows with the square of what is stored, in steps that nobody counts.
//! Not here: what a statement costs that uses such a table (`length_tiers.rs`, `step_cost.rs`).

use crate::services::sql::connection::hook_state::{HookState, InternalStatements};
use crate::services::sql::errors::{StatementError, classify};
use rusqlite::{Connection, OptionalExtension, Result};
use std::collections::BTreeMap;

/// All settings but `rank`, which tells how to sort.
const REFUSED: &str =
    "'pgsz', 'hashsize', 'automerge', 'usermerge', 'crisismerge', 'deletemerge', 'secure-delete', 'insttoken'";

/// The settings of each full-text table that the statement inserts into.
pub type Settings = BTreeMap<String, Option<String>>;

/// Reads them.
///
/// # Errors
/// SQLite's.
pub fn settings(conn: &Connection, hooks: &HookState) -> Result<Settings> {
    let filled = hooks.filled();
    let _own = InternalStatements::begin(hooks);
    filled.into_iter().map(|(table, _)| refused(conn, &table).map(|found| (table, found))).collect()
}

/// Settings of a table that no statement may give it; `None`: it has none of them, or is no full-text table.
///
/// # Errors
/// SQLite's.
pub fn refused(conn: &Connection, table: &str) -> Result<Option<String>> {
    let find = "SELECT EXISTS (SELECT 1 FROM main.sqlite_schema WHERE name = ?1 || '_config' COLLATE NOCASE)";
    if !conn.prepare_cached(find)?.query_row([table], |row| row.get::<_, bool>(0))? {
        return Ok(None);
    }
    let config = format!("{table}_config").replace('"', "\"\"");
    let select = format!("SELECT group_concat(k || '=' || quote(v)) FROM main.\"{config}\" WHERE k IN ({REFUSED})");
    // A table of that name which is no full-text table's has other columns.
    let Ok(mut prepared) = conn.prepare_cached(&select) else { return Ok(None) };
    prepared.query_row([], |row| row.get::<_, Option<String>>(0)).optional().map(Option::flatten)
}

/// Looks whether a statement has changed any. What a table has had since these settings were not refused goes on.
///
/// # Errors
/// It has.
pub fn keep(conn: &Connection, hooks: &HookState, before: &Settings) -> std::result::Result<(), StatementError> {
    #[cfg(test)]
    if hooks.settings_are_free.load(std::sync::atomic::Ordering::Relaxed) {
        return Ok(());
    }
    let now = settings(conn, hooks).map_err(|error| classify(hooks, &error))?;
    if now.iter().all(|(table, found)| found.is_none() || before.get(table) == Some(found)) {
        return Ok(());
    }
    Err(StatementError::Failed(format!("settings of full-text tables other than rank are not available: {REFUSED}")))
}
