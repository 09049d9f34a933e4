//! Reads the `VALUES` of statements as sqlite3 writes them.

use crate::services::sql::storage::dump_lines::leading_name;
use crate::services::sql::tokens::tokens;

const VALUES: &str = "values";
/// Columns of the schema table as dumps name them, after the parenthesis.
const SCHEMA_COLUMNS: &str = "type,name,tbl_name,rootpage,sql)";

/// An INSERT from the word VALUES on. `rest`: what follows the table's name; no list of columns may be there.
pub fn values(rest: &str) -> Option<&str> {
    let rest = rest.trim_start();
    let word = rest.get(..VALUES.len())?;
    word.eq_ignore_ascii_case(VALUES).then_some(rest)
}

/// The name and the definition of the table that a row of the schema table describes. `rest`: what follows the name of
/// the schema table.
pub fn schema_row(rest: &str) -> Option<(String, String)> {
    let rest = match rest.trim_start().strip_prefix('(') {
        Some(columns) => columns.strip_prefix(SCHEMA_COLUMNS)?,
        None => rest,
    };
    let (kind, rest) = string(values(rest)?.get(VALUES.len()..)?, '(')?;
    let (name, rest) = string(rest, ',')?;
    let (_, rest) = string(rest, ',')?;
    let (sql, rest) = string(rest.trim_start().strip_prefix(",0")?, ',')?;
    (kind == "table" && end(rest)?.is_empty()).then_some((name, sql))
}

/// What precedes the parenthesis at the end of a statement.
fn end(rest: &str) -> Option<&str> {
    rest.trim_end().trim_end_matches(';').trim_end().strip_suffix(')')
}

/// The string after a comma or parenthesis, and what follows it.
fn string(text: &str, before: char) -> Option<(String, &str)> {
    let text = text.trim_start().strip_prefix(before)?;
    leading_name(text).filter(|_| text.starts_with('\''))
}

/// The first value, if it is a string.
pub fn first_literal(values: &str) -> Option<String> {
    string(&values[VALUES.len()..], '(').map(|(text, _)| text)
}

/// Integers, each followed by a comma or the end of the row, and then anything.
pub struct Row<'a> {
    values: &'a str,
    /// Offset of what follows the integers so far: a comma, or the end of the row.
    at: usize,
}

impl<'a> Row<'a> {
    /// A row by its statement from the word VALUES on.
    pub fn new(values: &'a str) -> Option<Row<'a>> {
        let open = tokens(values).nth(1).filter(|token| *token == b"(")?;
        Some(Row { values, at: open.as_ptr().addr() - values.as_ptr().addr() })
    }

    /// The next value, which must be an integer.
    pub fn integer(&mut self) -> Option<i64> {
        let rest = &self.values[self.at..];
        let mut tokens = tokens(rest).skip(1);
        let (mut word, mut digits) = (tokens.next()?, String::new());
        if word == b"-" {
            digits.push('-');
            word = tokens.next()?;
        }
        digits.push_str(std::str::from_utf8(word).ok()?);
        self.at += word.as_ptr().addr() - rest.as_ptr().addr() + word.len();
        matches!(tokens.next()?, b"," | b")").then_some(())?;
        digits.parse().ok()
    }

    /// The next and last value, which must be a blob: its hexadecimal digits.
    pub fn last_blob(&mut self) -> Option<&'a str> {
        let rest = &self.values[self.at..];
        let mut tokens = tokens(rest);
        (tokens.next()? == b"," && tokens.next()?.eq_ignore_ascii_case(b"x")).then_some(())?;
        let digits = std::str::from_utf8(tokens.next()?).ok()?.strip_prefix('\'')?.strip_suffix('\'')?;
        (tokens.next()? == b")").then_some(digits)
    }

    /// All further values, with the comma before each, as they are written.
    pub fn rest(&self) -> Option<&'a str> {
        end(&self.values[self.at..])
    }
}
