//! A connection as statements of clients need it: limits, hooks, functions, and nothing of SQLite's own choosing.
//!
//! Not here: what is refused (`authorizer.rs`), which functions are replaced (`functions.rs`), when a connection is opened.

pub mod authorizer;
pub mod catalogue;
pub mod dates;
pub mod files;
pub mod functions;
pub mod hook_state;
pub mod result_lengths;
use self::authorizer::Purpose;

use self::hook_state::{STEPS_PER_LOOK, Watch};
use super::budget::length_tiers;
use super::commands::VALUE_BYTES_MAX;
use rusqlite::config::DbConfig;
use rusqlite::hooks::Action;
use rusqlite::limits::Limit;
use rusqlite::{Connection, Result};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// The longest value that SQLite may hold when statements of our own run: what SQLite itself says.
const LENGTH_MAX: i32 = 1_000_000_000;
/// Bytes of memory that SQLite asks for at once, as it is compiled: no function makes a text that takes more, whatever it was given.
pub(crate) const ALLOCATION_BYTES_MAX: i64 = 128 << 20;
/// Values of parameters in one statement.
const VARIABLES_MAX: i32 = 32_766;
/// Bytes of a pattern of LIKE and GLOB.
const PATTERN_BYTES_MAX: i32 = 1024;

/// Statements of our own that stay prepared on a connection that writes: there are some forty.
const OWN_PREPARED_MAX: usize = 64;

/// What is bounded, and by what. The length of a statement is not: it is checked before SQLite sees it, and a definition
/// that grew by ALTER TABLE must still be read.
const LIMITS: &[(Limit, i32)] = &[
    (Limit::SQLITE_LIMIT_COLUMN, 2000),
    (Limit::SQLITE_LIMIT_EXPR_DEPTH, 200),
    (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 500),
    // Beyond it SQLite says that there is no memory: what bounds a program is the length of its statement.
    (Limit::SQLITE_LIMIT_VDBE_OP, 250_000_000),
    (Limit::SQLITE_LIMIT_FUNCTION_ARG, functions::ARGS_MAX),
    (Limit::SQLITE_LIMIT_ATTACHED, 0),
    (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, PATTERN_BYTES_MAX),
    (Limit::SQLITE_LIMIT_VARIABLE_NUMBER, VARIABLES_MAX),
    (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 50),
    (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
];

/// Why a statement must end now, if it must: asked every few steps.
pub type IsOver = Arc<dyn Fn() -> Option<&'static str> + Send + Sync>;

/// Makes a fresh connection fit. `is_over` is asked every few steps: a read ends when it says why.
pub fn furnish(conn: &mut Connection, watch: &Arc<Watch>, purpose: Purpose, is_over: Option<IsOver>) -> Result<()> {
    for (limit, value) in LIMITS {
        conn.set_limit(*limit, *value)?;
    }
    set_length(conn, None)?;
    for (config, value) in [
        // Tables behind virtual tables, and the schema as a table, are not written by statements.
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_FTS3_TOKENIZER, false),
        // As SQLite and rqlite have it unless told otherwise; the way SQLite is compiled here says otherwise.
        (DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false),
        // Plans follow from the text of a statement, never from its parameters.
        (DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true),
    ] {
        conn.set_db_config(config, value)?;
    }
    if !conn.query_row("SELECT sqlite_compileoption_used('ENABLE_PREUPDATE_HOOK')", [], |row| row.get(0))? {
        let why = "SQLite is not compiled as .cargo/config.toml says: run `cargo clean -p libsqlite3-sys` and build phalanx in its own folder";
        return Err(rusqlite::Error::UserFunctionError(why.into()));
    }
    if conn.query_row("SELECT octet_length(randomblob(?))", [ALLOCATION_BYTES_MAX + 1], |_| Ok(())).is_ok() {
        let why = "SQLite is not compiled as .cargo/config.toml says, with a bound on memory: run `cargo clean -p libsqlite3-sys` and build phalanx in its own folder";
        return Err(rusqlite::Error::UserFunctionError(why.into()));
    }
    functions::register(conn, watch, purpose)?;
    watch.length_cost.store(1, Relaxed);
    watch.longest.store(VALUE_BYTES_MAX as u64, Relaxed);
    count_steps(conn, watch, is_over)?;
    if purpose == Purpose::Write {
        conn.set_prepared_statement_cache_capacity(OWN_PREPARED_MAX);
        let own = Arc::clone(watch);
        // Beyond the largest number SQLite would look for a free one by chance.
        conn.update_hook(Some(move |action, _: &str, table: &str, row| {
            length_tiers::charge_text(&own, table);
            if action != Action::SQLITE_DELETE && row == i64::MAX {
                own.has_topmost_row.store(true, Relaxed);
            }
        }))?;
    }
    let own = Arc::clone(watch);
    conn.authorizer(Some(move |asked: rusqlite::hooks::AuthContext<'_>| authorizer::decide(&own, purpose, asked)))
}

/// Has the steps of all statements counted from now on.
pub fn count_steps(conn: &mut Connection, watch: &Arc<Watch>, is_over: Option<IsOver>) -> Result<()> {
    let own = Arc::clone(watch);
    conn.progress_handler(
        STEPS_PER_LOOK,
        Some(move || {
            own.look_at_room(false);
            let why = is_over.as_ref().and_then(|is_over| is_over());
            if let Some(why) = why {
                own.refuse(why);
            }
            why.is_some() || !own.charge_steps(STEPS_PER_LOOK.unsigned_abs().into())
        }),
    )
}

/// Bounds the length of values and rows; `None`: as for statements of our own.
pub fn set_length(conn: &Connection, bytes: Option<usize>) -> Result<()> {
    let bytes = bytes.map_or(LENGTH_MAX, |bytes| i32::try_from(bytes).unwrap_or(LENGTH_MAX));
    conn.set_limit(Limit::SQLITE_LIMIT_LENGTH, bytes).map(drop)
}
