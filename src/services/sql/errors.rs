//! Why statements and the database fail, and what SQLite's errors mean.
//!
//! Not here: what follows from a failure (`apply.rs`, `reader.rs`).

use super::commands;
use super::connection::hook_state::HookState;
use super::connection::limits::ALLOCATION_BYTES_MAX;
use rusqlite::{Error, ErrorCode};
use std::sync::atomic::Ordering::Relaxed;

/// Error text when the budget of steps is used up.
pub const BUDGET_EXCEEDED: &str = "the request takes too many steps (the limit is 300 million): split it";
/// Error text for a client that completes the load of another file than the one being loaded.
pub const OTHER_FILE: &str = "another file is being loaded: start the load again";

/// Why a statement failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StatementError {
    /// The same reason on every node; none of its changes were made.
    Failed(String),
    /// A value is longer than the limit.
    TooLong(String),
    /// The statement, and those before it, used up the steps of their command.
    BudgetExceeded,
    /// The database itself cannot continue. `is_damaged`: its content cannot be trusted.
    Fatal { why: String, is_damaged: bool },
}

/// The database cannot continue: the node ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fatal {
    /// SQLite's message.
    pub why: String,
    /// Whether the content cannot be trusted any more.
    pub is_damaged: bool,
}

impl Fatal {
    /// Converts any error of an internal statement.
    pub fn of(hooks: &HookState, error: &rusqlite::Error) -> Fatal {
        match classify(hooks, error) {
            StatementError::Fatal { why, is_damaged } => Fatal { why, is_damaged },
            StatementError::Failed(why) | StatementError::TooLong(why) => Fatal { why, is_damaged: false },
            StatementError::BudgetExceeded => Fatal { why: BUDGET_EXCEEDED.to_string(), is_damaged: false },
        }
    }
}

/// SQLite's message, without the statement.
pub fn message(error: &Error) -> String {
    match error {
        Error::SqliteFailure(_, Some(said)) => said.clone(),
        Error::SqlInputError { msg, .. } => msg.clone(),
        Error::MultipleStatement => "one statement at a time".to_string(),
        other => other.to_string(),
    }
}

/// Classifies an error of SQLite.
pub fn classify(hooks: &HookState, error: &Error) -> StatementError {
    if hooks.is_over_budget() {
        return StatementError::BudgetExceeded;
    }
    let why = hooks.take_why().unwrap_or_else(|| message(error));
    let extended = error.sqlite_extended_error_code().unwrap_or(0);
    match error.sqlite_error_code() {
        // A virtual table whose content was made inconsistent by statements: the same on every node.
        Some(ErrorCode::DatabaseCorrupt) if extended == rusqlite::ffi::SQLITE_CORRUPT_VTAB => {
            StatementError::Failed(why)
        }
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StatementError::Fatal { why, is_damaged: true },
        // SQLite also reports this when row numbers or a full-text index are exhausted. The disk is not the cause: it
        // was checked while the statement ran, and is checked again here.
        Some(ErrorCode::DiskFull) => {
            hooks.check_free_space(true);
            StatementError::Failed("a table or index is full: SQLite has no row id or no segment left".to_string())
        }
        // SQLite reports the same error for a column default that is longer than the limit.
        Some(ErrorCode::OutOfMemory) if hooks.longest.load(Relaxed) < commands::VALUE_BYTES_MAX as u64 => {
            StatementError::TooLong(why)
        }
        // Also for a request larger than SQLite ever makes to the allocator, which is the same on every node.
        Some(ErrorCode::OutOfMemory) if has_memory() => {
            StatementError::Failed("an intermediate value is longer than SQLite can hold".to_string())
        }
        Some(
            ErrorCode::SystemIoFailure
            | ErrorCode::OutOfMemory
            | ErrorCode::CannotOpen
            | ErrorCode::ReadOnly
            | ErrorCode::DatabaseBusy
            | ErrorCode::FileLockingProtocolFailed
            | ErrorCode::PermissionDenied,
        ) if extended != rusqlite::ffi::SQLITE_READONLY || !why.contains("query operation") => {
            StatementError::Fatal { why, is_damaged: false }
        }
        Some(ErrorCode::TooBig) => StatementError::TooLong(why),
        _ => StatementError::Failed(why),
    }
}

/// Whether the system provides memory, so that SQLite failed for another reason.
fn has_memory() -> bool {
    Vec::<u8>::new().try_reserve_exact(ALLOCATION_BYTES_MAX as usize).is_ok()
}
