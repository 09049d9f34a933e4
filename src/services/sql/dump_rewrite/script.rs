//! The script that replaces a dump: statements, and parts of the dump that stay.

use crate::services::sql::commands::RUN_BYTES_MAX;

#[derive(Debug, Default)]
pub struct Script {
    text: String,
}

impl Script {
    /// Adds a part of the dump as it is.
    pub fn keep(&mut self, part: &str) -> Result<(), String> {
        if self.text.len() + part.len() > RUN_BYTES_MAX {
            return Err(format!(
                "the statements that recreate the virtual tables of this dump have more than {RUN_BYTES_MAX} bytes: \
                 make a file of it (sqlite3 new.sqlite < dump.sql) and load that"
            ));
        }
        self.text.push_str(part);
        Ok(())
    }

    /// Adds a statement that consists of these pieces. The line before it may have ended in a comment.
    pub fn add(&mut self, pieces: &[&str]) -> Result<(), String> {
        self.keep("\n")?;
        pieces.iter().try_for_each(|piece| self.keep(piece))?;
        match pieces.last().is_some_and(|last| last.ends_with(';')) {
            true => Ok(()),
            false => self.keep(";"),
        }
    }

    pub fn text(self) -> String {
        self.text
    }
}
