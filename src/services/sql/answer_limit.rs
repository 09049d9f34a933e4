//! Limits the number of rows, the bytes and the memory of the answer to one request.
//!
//! Not here: who grants memory (`node/sql/`).

use super::commands::Value;

/// How much the answer to a request may still take.
pub struct AnswerLimit<'a> {
    bytes: usize,
    rows: usize,
    /// Bytes of memory that the rows take so far, and bytes that were granted.
    held: usize,
    granted: usize,
    grant: Option<&'a mut dyn FnMut(usize) -> bool>,
}

/// Memory is requested in multiples of this many bytes.
const GRANT_BYTES: usize = 256 << 10;
/// Bytes that a value or a row takes in memory in addition to its content.
const CELL_BYTES: usize = size_of::<Value>() + 32;

impl<'a> AnswerLimit<'a> {
    /// A limit of `bytes` bytes and `rows` rows, without a limit of memory.
    pub fn new(bytes: usize, rows: usize) -> AnswerLimit<'a> {
        AnswerLimit { bytes, rows, held: 0, granted: 0, grant: None }
    }

    /// Limits memory as well: `grant` is called with the total number of bytes needed, and returns false if there is
    /// not enough.
    pub fn granted_by(self, grant: &'a mut dyn FnMut(usize) -> bool) -> AnswerLimit<'a> {
        AnswerLimit { grant: Some(grant), ..self }
    }

    /// A copy of what is left, without a limit of memory, for a statement that may have to run again.
    pub fn left(&self) -> AnswerLimit<'static> {
        AnswerLimit::new(self.bytes, self.rows)
    }

    /// Counts a row of `bytes` bytes and `values` values. The error is the reason why the row exceeds the limit.
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
