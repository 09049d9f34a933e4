//! Configures a connection for statements of clients: limits, hooks and functions, so that nothing depends on SQLite's
//! defaults.
//!
//! Not here: what is refused (`authorizer.rs`), which functions are replaced (`functions.rs`), when a connection is
//! opened.

use super::function_calls::AuxiliaryConnection;
use super::hook_state::{HookState, Purpose, STEPS_PER_CHECK};
use super::limits::{ALLOCATION_BYTES_MAX, set_limits};
use super::{authorizer, dates, functions, result_lengths};
use crate::services::sql::budget::length_tiers;
use crate::services::sql::commands::VALUE_BYTES_MAX;
use rusqlite::config::DbConfig;
use rusqlite::hooks::Action;
use rusqlite::{Connection, Result};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Largest number of internal statements that stay prepared on a connection that writes; there are about forty.
const OWN_PREPARED_MAX: usize = 64;

/// Returns the reason if a statement must end now. Called every few steps.
pub type InterruptCheck = Arc<dyn Fn() -> Option<&'static str> + Send + Sync>;

/// Configures a new connection. `is_over` is called every few steps: the statement ends when it returns a reason.
pub fn configure(
    conn: &mut Connection,
    hooks: &Arc<HookState>,
    purpose: Purpose,
    is_over: Option<InterruptCheck>,
) -> Result<()> {
    set_limits(conn)?;
    for (config, value) in [
        // Statements cannot write shadow tables, nor the schema table.
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_FTS3_TOKENIZER, false),
        // The default of SQLite and rqlite; the SQLite compiled here has another one. See `foreign_keys.rs`.
        (DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false),
        // Query plans depend on the text of a statement, never on its parameters.
        (DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true),
    ] {
        conn.set_db_config(config, value)?;
    }
    check_build_of(conn)?;
    sqlite_ffi::fts5::install(conn)?;
    let auxiliary = AuxiliaryConnection::default();
    functions::register(conn, hooks, purpose, &auxiliary)?;
    dates::register(conn, hooks)?;
    result_lengths::register(conn, hooks, purpose, &auxiliary)?;
    hooks.length_cost.store(1, Relaxed);
    hooks.longest.store(VALUE_BYTES_MAX as u64, Relaxed);
    count_steps(conn, hooks, is_over)?;
    if purpose == Purpose::Write {
        conn.set_prepared_statement_cache_capacity(OWN_PREPARED_MAX);
        let own = Arc::clone(hooks);
        // After a row with the largest row id, SQLite would choose row ids at random.
        conn.update_hook(Some(move |action, _: &str, table: &str, row| {
            length_tiers::on_row(&own, action, table, row);
            if action != Action::SQLITE_DELETE && row == i64::MAX {
                own.has_topmost_row.store(true, Relaxed);
            }
        }))?;
    }
    let own = Arc::clone(hooks);
    conn.authorizer(Some(move |asked: rusqlite::hooks::AuthContext<'_>| authorizer::decide(&own, purpose, asked)))
}

/// Checks how SQLite is compiled, before any file is opened: a database must not be set aside because of the program.
///
/// # Errors
/// The program was built without the settings of `.cargo/config.toml`, for example from another folder.
pub fn check_build() -> Result<()> {
    check_build_of(&Connection::open_in_memory()?)
}

fn check_build_of(conn: &Connection) -> Result<()> {
    let has_hook: bool =
        conn.query_row("SELECT sqlite_compileoption_used('ENABLE_PREUPDATE_HOOK')", [], |row| row.get(0))?;
    let too_large = conn.query_row("SELECT octet_length(randomblob(?))", [ALLOCATION_BYTES_MAX + 1], |_| Ok(()));
    if has_hook && too_large.is_err() {
        return Ok(());
    }
    let why = "SQLite is not compiled as .cargo/config.toml says: run `cargo clean -p libsqlite3-sys` and build \
               phalanx in its own folder";
    Err(rusqlite::Error::UserFunctionError(why.into()))
}

/// Counts the steps of all statements from now on.
pub fn count_steps(conn: &mut Connection, hooks: &Arc<HookState>, is_over: Option<InterruptCheck>) -> Result<()> {
    let own = Arc::clone(hooks);
    conn.progress_handler(
        STEPS_PER_CHECK,
        Some(move || {
            own.check_free_space(false);
            let why = is_over.as_ref().and_then(|is_over| is_over());
            if let Some(why) = why {
                own.refuse(why);
            }
            why.is_some() || !own.charge_steps(STEPS_PER_CHECK.unsigned_abs().into())
        }),
    )
}
