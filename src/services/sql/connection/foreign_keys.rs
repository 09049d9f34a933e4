//! Foreign keys: whether a connection enforces them.
//!
//! In SQLite that is a setting of the connection. Here it is a setting of the database, changed by a command of the log
//! and stored in the internal table, so that every node enforces the same at the same entry. A connection that reads
//! follows it too: the programs of its statements show what a write would remove.
//!
//! Not here: the command (`services/sql/writer.rs`), `PRAGMA foreign_keys` in a dump (`storage/load_text.rs`).

use super::hook_state::{HookState, Purpose};
use crate::services::sql::errors::StatementError;
use crate::services::sql::storage::own_table;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, Result};
use std::sync::atomic::Ordering::Relaxed;

/// SQLite's message.
const BROKEN: &str = "FOREIGN KEY constraint failed";

/// Whether the connection enforces foreign keys now.
pub fn are_enforced(hooks: &HookState) -> bool {
    hooks.has_foreign_keys.load(Relaxed)
}

/// Makes the connection enforce foreign keys, or not. No constraint may be broken.
///
/// # Errors
/// SQLite's error.
pub fn enforce(conn: &Connection, hooks: &HookState, are_enforced: bool) -> Result<()> {
    if hooks.has_foreign_keys.swap(are_enforced, Relaxed) != are_enforced {
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, are_enforced)?;
        hooks.changes_programs();
    }
    Ok(())
}

/// Makes the connection follow the setting of the database.
///
/// # Errors
/// SQLite's error.
pub fn follow(conn: &Connection, hooks: &HookState) -> Result<()> {
    enforce(conn, hooks, own_table::has_foreign_keys(conn)?)
}

/// Checks deferred constraints, as a COMMIT would.
///
/// # Errors
/// One of them is broken.
pub fn check(conn: &Connection) -> std::result::Result<(), StatementError> {
    if sqlite_ffi::foreign_keys::are_broken(conn) { Err(StatementError::Failed(BROKEN.to_string())) } else { Ok(()) }
}

/// What a value of `PRAGMA foreign_keys` means; `None` if it is neither ON nor OFF.
pub fn switch(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "on" | "yes" | "true" | "1" => Some(true),
        "off" | "no" | "false" | "0" => Some(false),
        _ => None,
    }
}

/// The reason for refusing `PRAGMA foreign_keys = value`; `None` if that is the setting already. In a request that writes
/// OFF is always refused: it was before there was a setting, and a log must mean the same as then.
pub fn refusal(hooks: &HookState, purpose: Purpose, value: &str) -> Option<String> {
    let Some(asked) = switch(value) else {
        return Some(format!("PRAGMA foreign_keys = {value}: not available, only ON and OFF"));
    };
    if !asked && !are_enforced(hooks) && purpose == Purpose::Write {
        return Some("PRAGMA foreign_keys = OFF: not available, and not needed: they are off".to_string());
    }
    let name = |is_on: bool| if is_on { "on" } else { "off" };
    (asked != are_enforced(hooks)).then(|| {
        format!(
            "foreign keys are {} in the whole cluster: switch them {} with `phalanx sql -c '.foreign_keys {}'`, or \
             PUT /db/settings",
            name(!asked),
            name(asked),
            name(asked)
        )
    })
}
