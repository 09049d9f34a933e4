//! Checks the effects of a statement of the log after it has run.
//!
//! Not here: actions that are refused before it runs (`services/sql/connection/authorizer.rs`).

use super::connection::hook_state::{HookState, InternalStatements};
use super::errors::{StatementError, classify};
use super::storage::schema;
use rusqlite::Connection;
use std::sync::atomic::Ordering::Relaxed;

/// The reason for undoing a statement whose effects are not allowed, if the authorizer could not detect this
/// beforehand.
pub fn integrity_violation(conn: &Connection, hooks: &HookState) -> Option<String> {
    if hooks.has_topmost_row.load(Relaxed) {
        return Some(format!("row id {} is reserved: row ids after it would be random", i64::MAX));
    }
    if let Some(table) = hooks.table_created_by_select() {
        let _own = InternalStatements::begin(hooks);
        let names: rusqlite::Result<Vec<String>> = conn
            .prepare_cached("SELECT name FROM pragma_table_info(?1)")
            .and_then(|mut columns| columns.query_map([table], |row| row.get(0))?.collect());
        if let Some(why) = schema::random_name(&names.unwrap_or_default()) {
            return Some(why);
        }
    }
    if hooks.has_set_sequence.load(Relaxed) {
        let _own = InternalStatements::begin(hooks);
        let find = "SELECT count(*) FROM sqlite_sequence WHERE typeof(seq) <> 'integer' OR seq >= 9223372036854775806";
        // There is no such table: the statement that would have created it failed.
        let count: i64 = conn.query_row(find, [], |row| row.get(0)).unwrap_or(0);
        if count > 0 {
            return Some("sqlite_sequence may contain only integers that leave room for another row".to_string());
        }
    }
    None
}

/// Checks the effects of a statement, and makes virtual tables write the changes that they keep in memory, so that a
/// failure to do so is an error of the statement and not of the commit.
pub fn settle(conn: &Connection, hooks: &HookState) -> Result<(), StatementError> {
    if let Some(why) = integrity_violation(conn, hooks) {
        return Err(StatementError::Failed(why));
    }
    if !hooks.has_virtual.load(Relaxed) {
        return Ok(());
    }
    let own = InternalStatements::begin(hooks);
    // The statement pays for what full-text tables write.
    hooks.is_flushing.store(true, Relaxed);
    let flushed = conn.execute_batch("SAVEPOINT f; RELEASE f");
    hooks.is_flushing.store(false, Relaxed);
    drop(own);
    flushed.map_err(|error| classify(hooks, &error))?;
    if hooks.is_over_budget() { Err(StatementError::BudgetExceeded) } else { Ok(()) }
}
