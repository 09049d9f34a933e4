//! Reads that mark matched words in a text: `highlight` and `snippet`.
//!
//! `highlight` copies its output so far for each match, `snippet` examines all matches for each match, and neither
//! checks a deadline meanwhile. SQLite offers no way to replace them with functions of ours. So marks must be literals
//! in the statement or parameters, and the longer the marks and words are, the shorter texts must be.
//!
//! Not here: writes, where both are refused (`services/sql/connection/authorizer.rs`).

use super::terms::SearchTerms;
use crate::services::sql::budget::program::Program;
use crate::services::sql::commands::Statement;
use crate::services::sql::connection::hook_state::{HookState, InternalStatements};
use crate::services::sql::connection::limits::set_length;
use crate::services::sql::errors::{StatementError, classify};
use crate::services::sql::tokens::from_first_word;
use rusqlite::Connection;
use std::sync::atomic::Ordering::Relaxed;

/// Largest length of a value in bytes if marks and words are short.
const TEXT_BYTES_MAX: usize = 64 << 10;
/// Length in bytes of marks or words that halves that limit; twice the length divides it by three, and so on.
const MARK_BYTES: usize = 32;
const WORD_BYTES: usize = 16;
/// Smallest limit in bytes: if longer marks or words would lower it further, the read is refused.
const TEXT_BYTES_MIN: usize = 4 << 10;

/// Functions that mark words: a text with such a name may be meant as the function that ranks matches.
const MARKING: [&str; 2] = ["snippet", "highlight"];
/// The reason why a statement may not choose the function that ranks matches: it would be called past the authorizer.
pub const RANK_IS_FIXED: &str = "rank MATCH and rank = are not available: use ORDER BY bm25(table, weight, ...)";

/// Bounds the length of values for a statement that marks words; returns the bound, if the statement does.
///
/// # Errors
/// Marks or words are computed, or too long.
pub fn narrow(conn: &Connection, hooks: &HookState, statement: &Statement) -> Result<Option<usize>, StatementError> {
    let marks = hooks.marks_matches.load(Relaxed);
    if !marks && !hooks.reads_rank.load(Relaxed) && !statement.mentions(&MARKING) {
        return Ok(None);
    }
    let on_error = |error: rusqlite::Error| classify(hooks, &error);
    let own = InternalStatements::begin(hooks);
    let program = Program::of(conn, from_first_word(&statement.sql), usize::MAX).map_err(on_error)?;
    drop(own);
    if program.as_ref().is_none_or(|program| program.names_rank) {
        return Err(StatementError::Failed(RANK_IS_FIXED.to_string()));
    }
    if !marks {
        return Ok(None);
    }
    let bytes = program.and_then(|program| text_bytes(program.marks, program.asked, statement.params.bytes()));
    let bytes = bytes.ok_or_else(|| {
        let why = "the marks of highlight and snippet, and the words of MATCH in the same read, must be literals or \
            whole parameters, of a few hundred bytes at most";
        StatementError::Failed(why.to_string())
    })?;
    set_length(conn, Some(bytes)).map_err(on_error)?;
    Ok(Some(bytes))
}

/// Explains the error where a value was longer than the bound.
pub fn explain(error: StatementError, bytes: Option<usize>) -> StatementError {
    match (error, bytes) {
        (StatementError::TooLong(_), Some(bytes)) => StatementError::Failed(format!(
            "with these marks in highlight or snippet a row and a result may have at most {bytes} bytes: split longer \
             texts into several rows"
        )),
        (error, _) => error,
    }
}

/// The bound on values; `None`: it would be too short.
fn text_bytes(marks: Option<SearchTerms>, words: Option<SearchTerms>, parameters: usize) -> Option<usize> {
    let bytes = |asked: Option<SearchTerms>| {
        let asked = asked.unwrap_or_default();
        (!asked.are_computed).then_some(asked.bytes + if asked.parameters > 0 { parameters } else { 0 })
    };
    let parts = (1 + bytes(marks)? / MARK_BYTES) * (1 + bytes(words)? / WORD_BYTES);
    Some(TEXT_BYTES_MAX / parts).filter(|bytes| *bytes >= TEXT_BYTES_MIN)
}
