//! Reads that mark the words which were found in a text: `highlight` and `snippet`.
//!
//! `highlight` copies all that it has so far for each place, `snippet` looks at all places for each place, and nobody looks at a
//! deadline meanwhile. SQLite has no way to put functions of ours in their place. So marks stand in the statement or are
//! parameters, and texts are the shorter the longer the marks and the words are.
//!
//! Not here: what writes, where both are refused (`services/sql/connection/authorizer.rs`).

use super::fulltext_terms::SearchTerms;
use super::step_cost::Program;
use crate::services::sql::commands::Statement;
use crate::services::sql::connection::hook_state::{HookState, InternalStatements};
use crate::services::sql::connection::limits::set_length;
use crate::services::sql::errors::{StatementError, classify};
use crate::services::sql::tokens::from_first_word;
use rusqlite::Connection;
use std::sync::atomic::Ordering::Relaxed;

/// Bytes of a value where marks and words are short.
const TEXT_BYTES_MAX: usize = 64 << 10;
/// So many bytes of marks, or of words, halve it, twice as many make it a third.
const MARK_BYTES: usize = 32;
const WORD_BYTES: usize = 16;
/// The shortest that it becomes: with longer marks or words the read is refused.
const TEXT_BYTES_MIN: usize = 4 << 10;

/// Bounds the length of values for a statement that marks words; how long they may be, if it does.
///
/// # Errors
/// Marks or words are computed, or too long.
pub fn narrow(conn: &Connection, hooks: &HookState, statement: &Statement) -> Result<Option<usize>, StatementError> {
    if !hooks.marks_matches.load(Relaxed) {
        return Ok(None);
    }
    let on_error = |error: rusqlite::Error| classify(hooks, &error);
    let own = InternalStatements::begin(hooks);
    let program = Program::of(conn, from_first_word(&statement.sql), usize::MAX).map_err(on_error)?;
    drop(own);
    let bytes = program.and_then(|program| text_bytes(program.marks, program.asked, statement.params.bytes()));
    let bytes = bytes.ok_or_else(|| {
        let why = "highlight and snippet take marks, and MATCH beside them takes words, that stand in the statement or are a parameter as a whole, some hundred bytes of them";
        StatementError::Failed(why.to_string())
    })?;
    set_length(conn, Some(bytes)).map_err(on_error)?;
    Ok(Some(bytes))
}

/// Says so where a value was longer.
pub fn explain(error: StatementError, bytes: Option<usize>) -> StatementError {
    match (error, bytes) {
        (StatementError::TooLong(_), Some(bytes)) => StatementError::Failed(format!(
            "where highlight or snippet marks words with these marks a row and an answer may have {bytes} bytes: make several rows of a longer text"
        )),
        (error, _) => error,
    }
}

/// How long values may be; `None`: too short.
fn text_bytes(marks: Option<SearchTerms>, words: Option<SearchTerms>, parameters: usize) -> Option<usize> {
    let bytes = |asked: Option<SearchTerms>| {
        let asked = asked.unwrap_or_default();
        (!asked.are_computed).then_some(asked.bytes + if asked.parameters > 0 { parameters } else { 0 })
    };
    let parts = (1 + bytes(marks)? / MARK_BYTES) * (1 + bytes(words)? / WORD_BYTES);
    Some(TEXT_BYTES_MAX / parts).filter(|bytes| *bytes >= TEXT_BYTES_MIN)
}
