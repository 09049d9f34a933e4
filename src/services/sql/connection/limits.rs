//! Limits that SQLite itself enforces on a connection.
//!
//! Not here: the length of values while a statement runs (`services/sql/budget/length_tiers.rs`).

use rusqlite::limits::Limit;
use rusqlite::{Connection, Result};

/// Largest length of a value in internal statements, in bytes: SQLite's default.
const LENGTH_MAX: i32 = 1_000_000_000;
/// Largest allocation of SQLite in bytes, set when it is compiled: no function can create a longer text, whatever its
/// arguments are.
pub const ALLOCATION_BYTES_MAX: i64 = 128 << 20;
/// Largest number of parameters in one statement.
const VARIABLES_MAX: i32 = 32_766;
/// Largest length of a pattern of LIKE and GLOB in bytes.
const PATTERN_BYTES_MAX: i32 = 1024;
/// Largest number of arguments of a function.
pub const ARGS_MAX: i32 = 127;

/// All limits. The length of a statement is not among them: it is checked before SQLite sees it, and a definition that
/// grew by ALTER TABLE must remain readable.
const LIMITS: &[(Limit, i32)] = &[
    (Limit::SQLITE_LIMIT_COLUMN, 2000),
    (Limit::SQLITE_LIMIT_EXPR_DEPTH, 200),
    (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 500),
    // SQLite reports an exceeded limit as lack of memory, so it is not used: the length of the statement limits the
    // program.
    (Limit::SQLITE_LIMIT_VDBE_OP, 250_000_000),
    (Limit::SQLITE_LIMIT_FUNCTION_ARG, ARGS_MAX),
    (Limit::SQLITE_LIMIT_ATTACHED, 0),
    (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, PATTERN_BYTES_MAX),
    (Limit::SQLITE_LIMIT_VARIABLE_NUMBER, VARIABLES_MAX),
    (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 50),
    (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
];

/// Sets all limits, with the length of values as for internal statements.
pub fn set_limits(conn: &Connection) -> Result<()> {
    for (limit, value) in LIMITS {
        conn.set_limit(*limit, *value)?;
    }
    set_length(conn, None)
}

/// Limits the length of values and rows to so many bytes; `None`: as for internal statements.
pub fn set_length(conn: &Connection, bytes: Option<usize>) -> Result<()> {
    let bytes = bytes.map_or(LENGTH_MAX, |bytes| i32::try_from(bytes).unwrap_or(LENGTH_MAX));
    conn.set_limit(Limit::SQLITE_LIMIT_LENGTH, bytes).map(drop)
}
