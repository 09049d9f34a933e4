//! What SQLite itself bounds on a connection.
//!
//! Not here: how long values may be while a statement runs (`services/sql/budget/length_tiers.rs`).

use rusqlite::limits::Limit;
use rusqlite::{Connection, Result};

/// The longest value that SQLite may hold when statements of our own run: what SQLite itself says.
const LENGTH_MAX: i32 = 1_000_000_000;
/// Bytes of memory that SQLite asks for at once, as it is compiled: no function makes a text that takes more, whatever it was
/// given.
pub const ALLOCATION_BYTES_MAX: i64 = 128 << 20;
/// Values of parameters in one statement.
const VARIABLES_MAX: i32 = 32_766;
/// Bytes of a pattern of LIKE and GLOB.
const PATTERN_BYTES_MAX: i32 = 1024;
/// Most arguments of a function.
pub const ARGS_MAX: i32 = 127;

/// What is bounded, and by what. The length of a statement is not: it is checked before SQLite sees it, and a definition
/// that grew by ALTER TABLE must still be read.
const LIMITS: &[(Limit, i32)] = &[
    (Limit::SQLITE_LIMIT_COLUMN, 2000),
    (Limit::SQLITE_LIMIT_EXPR_DEPTH, 200),
    (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 500),
    // Beyond it SQLite says that there is no memory: what bounds a program is the length of its statement.
    (Limit::SQLITE_LIMIT_VDBE_OP, 250_000_000),
    (Limit::SQLITE_LIMIT_FUNCTION_ARG, ARGS_MAX),
    (Limit::SQLITE_LIMIT_ATTACHED, 0),
    (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, PATTERN_BYTES_MAX),
    (Limit::SQLITE_LIMIT_VARIABLE_NUMBER, VARIABLES_MAX),
    (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 50),
    (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
];

/// Sets them all, with values as long as statements of our own may have them.
pub fn set_limits(conn: &Connection) -> Result<()> {
    for (limit, value) in LIMITS {
        conn.set_limit(*limit, *value)?;
    }
    set_length(conn, None)
}

/// Bounds the length of values and rows; `None`: as for statements of our own.
pub fn set_length(conn: &Connection, bytes: Option<usize>) -> Result<()> {
    let bytes = bytes.map_or(LENGTH_MAX, |bytes| i32::try_from(bytes).unwrap_or(LENGTH_MAX));
    conn.set_limit(Limit::SQLITE_LIMIT_LENGTH, bytes).map(drop)
}
