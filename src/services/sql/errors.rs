//! Why statements and the database fail, and what SQLite's errors mean.
//!
//! Not here: what follows from a failure (`apply.rs`, `reader.rs`).

use super::commands;
use super::connection::hook_state::HookState;
use super::connection::limits::ALLOCATION_BYTES_MAX;
use rusqlite::{Error, ErrorCode};
use std::sync::atomic::Ordering::Relaxed;

/// Said when the budget of steps is used up.
pub const BUDGET_EXCEEDED: &str = "the request takes too many steps (the limit is 300 million): split it";
/// Said to whoever puts another file in place than the one that is being loaded.
pub const OTHER_FILE: &str = "another file is being loaded: start the load again";

/// Why a statement was not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StatementError {
    /// For a reason that is the same on every node; nothing of it was done.
    Failed(String),
    /// A value is longer than values may be.
    TooLong(String),
    /// It, and those before it, used up the steps of their command.
    BudgetExceeded,
    /// The database itself cannot go on. `is_damaged`: its content cannot be trusted.
    Fatal { why: String, is_damaged: bool },
}

/// The database cannot go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fatal {
    /// What SQLite said.
    pub why: String,
    /// Its content cannot be trusted.
    pub is_damaged: bool,
}

impl Fatal {
    /// Whatever goes wrong with a statement of our own.
    pub fn of(hooks: &HookState, error: &rusqlite::Error) -> Fatal {
        match classify(hooks, error) {
            StatementError::Fatal { why, is_damaged } => Fatal { why, is_damaged },
            StatementError::Failed(why) | StatementError::TooLong(why) => Fatal { why, is_damaged: false },
            StatementError::BudgetExceeded => Fatal { why: BUDGET_EXCEEDED.to_string(), is_damaged: false },
        }
    }
}

/// What SQLite says, without the statement that it was about.
pub fn said(error: &Error) -> String {
    match error {
        Error::SqliteFailure(_, Some(said)) => said.clone(),
        Error::SqlInputError { msg, .. } => msg.clone(),
        Error::MultipleStatement => "one statement at a time".to_string(),
        other => other.to_string(),
    }
}

/// Sorts an error of SQLite.
pub fn classify(hooks: &HookState, error: &Error) -> StatementError {
    if hooks.is_budget_exceeded.load(Relaxed) {
        return StatementError::BudgetExceeded;
    }
    let why = hooks.take_why().unwrap_or_else(|| said(error));
    let extended = error.sqlite_extended_error_code().unwrap_or(0);
    match error.sqlite_error_code() {
        // A virtual table that its own statements have made a mess of: the same everywhere.
        Some(ErrorCode::DatabaseCorrupt) if extended == rusqlite::ffi::SQLITE_CORRUPT_VTAB => {
            StatementError::Failed(why)
        }
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StatementError::Fatal { why, is_damaged: true },
        // SQLite says so as well of row numbers and of a full-text index that have come to their end. It is not the disk: that
        // was looked at while the statement ran, and is looked at now.
        Some(ErrorCode::DiskFull) => {
            hooks.look_at_room(true);
            StatementError::Failed("a table or index is full: SQLite has no row id or no segment left".to_string())
        }
        // SQLite has no other word for the default of a column that is longer than values may be.
        Some(ErrorCode::OutOfMemory) if hooks.longest.load(Relaxed) < commands::VALUE_BYTES_MAX as u64 => {
            StatementError::TooLong(why)
        }
        // Nor for something longer than it ever asks memory for, which is the same on every node.
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

/// Whether the system gives memory, and SQLite failed for another reason.
fn has_memory() -> bool {
    Vec::<u8>::new().try_reserve_exact(ALLOCATION_BYTES_MAX as usize).is_ok()
}
