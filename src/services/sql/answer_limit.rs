//! How many rows, bytes and how much memory the answer to one request may take.
//!
//! Not here: who grants memory (`node/sql/`).

use super::commands::Value;

/// What a request may answer.
pub struct AnswerLimit<'a> {
    bytes: usize,
    rows: usize,
    /// Bytes of memory that the rows take so far, and how many of them were granted.
    held: usize,
    granted: usize,
    grant: Option<&'a mut dyn FnMut(usize) -> bool>,
}

/// Memory is asked for in pieces of so many bytes.
const GRANT_BYTES: usize = 256 << 10;
/// What a value or a row takes in memory beside its bytes.
const CELL_BYTES: usize = size_of::<Value>() + 32;

impl<'a> AnswerLimit<'a> {
    /// For so many bytes of so many rows.
    pub fn new(bytes: usize, rows: usize) -> AnswerLimit<'a> {
        AnswerLimit { bytes, rows, held: 0, granted: 0, grant: None }
    }

    /// The same, as far as memory is granted too: asked for all of it each time.
    pub fn granted_by(self, grant: &'a mut dyn FnMut(usize) -> bool) -> AnswerLimit<'a> {
        AnswerLimit { grant: Some(grant), ..self }
    }

    /// What is left, for a statement that may have to be run again; whatever memory it takes.
    pub fn left(&self) -> AnswerLimit<'static> {
        AnswerLimit::new(self.bytes, self.rows)
    }

    /// Takes a row of so many bytes and values; the error: why there is no room for it.
    pub fn take(&mut self, bytes: usize, values: usize) -> Result<(), &'static str> {
        if bytes > self.bytes || self.rows == 0 {
            return Err("the result is too large: select fewer rows");
        }
        (self.bytes, self.rows) = (self.bytes - bytes, self.rows - 1);
        self.held += bytes + (values + 1) * CELL_BYTES;
        if self.held > self.granted
            && let Some(grant) = &mut self.grant
        {
            self.granted = self.held.next_multiple_of(GRANT_BYTES);
            if !grant(self.granted) {
                return Err("not enough memory for this result now: select fewer rows, or try again later");
            }
        }
        Ok(())
    }
}
