//! Settings of full-text tables that statements may not change, and the tokenizer that a definition must name.
//!
//! A full-text table is configured by inserting a row with a setting's name. Some of these settings make later
//! statements do work that grows with the square of what is stored, in steps that are not counted.
//! Not here: what a statement costs that uses such a table (`services/sql/budget/length_tiers.rs`,
//! `services/sql/budget/step_cost.rs`).

use crate::services::sql::budget::length_tiers::definitions;
use crate::services::sql::connection::hook_state::{HookState, InternalStatements};
use crate::services::sql::errors::{StatementError, classify};
use rusqlite::{Connection, OptionalExtension, Result};
use sqlite_ffi::fts5::Seen;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// All settings but `rank`, the function that determines the sort order, which may be `bm25` with other weights.
const REFUSED: &str =
    "'pgsz', 'hashsize', 'automerge', 'usermerge', 'crisismerge', 'deletemerge', 'secure-delete', 'insttoken'";

/// The settings of each full-text table that the statement inserts into.
pub type Settings = BTreeMap<String, Option<String>>;

/// Reads these settings.
///
/// # Errors
/// SQLite's error.
pub fn settings(conn: &Connection, hooks: &HookState) -> Result<Settings> {
    let filled = hooks.filled();
    let _own = InternalStatements::begin(hooks);
    // Any table may have the name that such a table has, and be large.
    let is_fulltext = |name: &str| hooks.fulltext().has(name);
    filled
        .into_iter()
        .filter(|(table, _)| is_fulltext(table))
        .map(|(table, _)| refused(conn, &table).map(|found| (table, found)))
        .collect()
}

/// The settings of a table that statements may not change; `None` if none of them is set, or it is not a full-text
/// table.
///
/// # Errors
/// SQLite's error.
fn refused(conn: &Connection, table: &str) -> Result<Option<String>> {
    let config = format!("{table}_config");
    if !conn.table_exists(Some("main"), config.as_str())? {
        return Ok(None);
    }
    let config = config.replace('"', "\"\"");
    let select = format!(
        "SELECT group_concat(k || '=' || quote(v)) FROM main.\"{config}\" \
         WHERE k IN ({REFUSED}) OR (k = 'rank' AND v NOT LIKE 'bm25(%')"
    );
    // A table of that name that does not belong to a full-text table has other columns.
    let Ok(mut prepared) = conn.prepare_cached(&select) else { return Ok(None) };
    prepared.query_row([], |row| row.get::<_, Option<String>>(0)).optional().map(Option::flatten)
}

/// The reason for refusing a table whose rows were written elsewhere, if such settings are set.
///
/// # Errors
/// SQLite's error.
pub fn unavailable(conn: &Connection, table: &str) -> Result<Option<String>> {
    let why = |settings| format!("full-text table {table} has settings that are not available: {settings}");
    Ok(refused(conn, table)?.map(why))
}

/// Checks that a statement has not changed any of these settings. A setting made by a version that did not refuse it
/// stays in effect.
///
/// # Errors
/// The statement has changed one of them.
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

/// Checks that the tokens of the full-text table that a statement has created are seen, however the statement is
/// written.
///
/// # Errors
/// They are not.
pub fn check_tokenizer(conn: &Connection, hooks: &HookState) -> std::result::Result<(), StatementError> {
    let Some(name) = hooks.created_table() else { return Ok(()) };
    let found = definitions(conn, hooks)?;
    let own = InternalStatements::begin(hooks);
    if !found.keys().any(|other| other.eq_ignore_ascii_case(&name)) {
        return Ok(());
    }
    let is_seen = Rc::new(Cell::new(false));
    let seen = Rc::clone(&is_seen);
    let watcher = move |_: Seen<'_>| {
        seen.set(true);
        true
    };
    let quoted = name.replace('"', "\"\"");
    let query = format!("SELECT EXISTS (SELECT 1 FROM main.\"{quoted}\" WHERE \"{quoted}\" MATCH 'abc')");
    let queried = sqlite_ffi::fts5::watch(Box::new(watcher), || conn.query_row(&query, [], |_| Ok(())));
    drop(own);
    if queried.is_ok() && !is_seen.get() {
        let why = format!("name the tokenizer of full-text table {name}: tokenize = 'unicode61'");
        return Err(StatementError::Failed(why));
    }
    Ok(())
}
