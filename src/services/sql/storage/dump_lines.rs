//! Recognises the lines of sqlite3's `.dump` that only the tool itself can execute.
//!
//! The tool writes statistics, and it writes a virtual table as a row of the schema table, followed by its shadow
//! tables as if they were tables of their own. A script is cut here into such lines and plain statements.
//!
//! Not here: executing them (`load_text.rs`), virtual tables (`services/sql/dump_rewrite/`).

use crate::services::sql::connection::foreign_keys;
use crate::services::sql::tokens::{is_word, parts, words};

/// Names of the schema table that dumps use.
pub const SCHEMA_TABLES: [&str; 2] = ["sqlite_schema", "sqlite_master"];

/// A piece of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Any number of statements that are executed as they are.
    Plain(&'a str),
    /// A statement without effect here: statistics, which could make nodes choose different plans, or
    /// `PRAGMA writable_schema`.
    PassedOver,
    /// `PRAGMA foreign_keys = ...`
    ForeignKeys(bool),
    /// A row of the schema table, which is how a dump defines a virtual table.
    SchemaRow,
}

/// Cuts a script into pieces, in order.
pub fn pieces(sql: &str) -> impl Iterator<Item = Piece<'_>> {
    let mut parts = parts(sql);
    let mut bodies = TriggerBodies::default();
    // The piece that follows the plain statements before it.
    let mut next: Option<Piece<'_>> = None;
    let mut begin = 0;
    std::iter::from_fn(move || {
        if next.is_some() {
            return next.take();
        }
        let first = begin;
        loop {
            let Some(part) = parts.next() else {
                let rest = &sql[first..begin];
                return (!rest.is_empty()).then_some(Piece::Plain(rest));
            };
            let before = &sql[first..begin];
            begin += part.len();
            let is_in_trigger = bodies.contain(part);
            if let Some(piece) = special(part).filter(|_| !is_in_trigger) {
                if before.is_empty() {
                    return Some(piece);
                }
                next = Some(piece);
                return Some(Piece::Plain(before));
            }
        }
    })
}

/// Tells which parts of a script are within a trigger: the statements of its body are parts as well.
#[derive(Default)]
pub struct TriggerBodies {
    is_in: bool,
}

impl TriggerBodies {
    /// Whether the next part belongs to the body of a trigger, or ends it. Called with each part of a script, in order.
    pub fn contain(&mut self, part: &str) -> bool {
        let mut words = words(part);
        let Some(first) = words.next() else { return self.is_in };
        if self.is_in {
            self.is_in = !first.eq_ignore_ascii_case(b"end");
            return true;
        }
        if first.eq_ignore_ascii_case(b"create") {
            let is_temporary =
                |word: &[u8]| [&b"temp"[..], b"temporary"].iter().any(|temporary| word.eq_ignore_ascii_case(temporary));
            let kind = words.find(|word| !is_temporary(word));
            self.is_in = kind.is_some_and(|kind| kind.eq_ignore_ascii_case(b"trigger"));
        }
        false
    }
}

fn special(part: &str) -> Option<Piece<'static>> {
    match words(part).next()?.to_ascii_lowercase().as_slice() {
        b"analyze" => Some(Piece::PassedOver),
        b"pragma" => pragma(part),
        b"insert" => insertion(part),
        _ => None,
    }
}

fn insertion(part: &str) -> Option<Piece<'static>> {
    let (name, _) = name_after(part, &["insert", "into"])?;
    if name.to_ascii_lowercase().starts_with("sqlite_stat") {
        return Some(Piece::PassedOver);
    }
    is_schema_table(&name).then_some(Piece::SchemaRow)
}

/// Whether this is a name of the schema table that dumps use.
pub fn is_schema_table(name: &str) -> bool {
    SCHEMA_TABLES.iter().any(|one| one.eq_ignore_ascii_case(name))
}

fn pragma(part: &str) -> Option<Piece<'static>> {
    let mut words = words(part).skip(1);
    let (name, value) = (words.next()?, words.next()?);
    match name.to_ascii_lowercase().as_slice() {
        b"writable_schema" => Some(Piece::PassedOver),
        b"foreign_keys" => foreign_keys::switch(std::str::from_utf8(value).ok()?).map(Piece::ForeignKeys),
        _ => None,
    }
}

/// The name that follows these words at the beginning of a statement, without quotes, and what follows it.
pub fn name_after<'a>(part: &'a str, expected: &[&str]) -> Option<(String, &'a str)> {
    let mut all = words(part);
    let mut end = 0;
    for one in expected {
        let word = all.next().filter(|word| word.eq_ignore_ascii_case(one.as_bytes()))?;
        end = word.as_ptr().addr() - part.as_ptr().addr() + word.len();
    }
    leading_name(&part[end..])
}

/// The name at the beginning of a text, without quotes, and what follows it.
pub fn leading_name(text: &str) -> Option<(String, &str)> {
    let text = text.trim_start();
    let close = match text.chars().next()? {
        quote @ ('"' | '\'' | '`') => quote,
        '[' => ']',
        _ => {
            let len = text.bytes().position(|byte| !is_word(byte)).unwrap_or(text.len());
            return (len > 0).then(|| (text[..len].to_string(), &text[len..]));
        }
    };
    unquoted(text, close)
}

/// The text between the quote at the beginning and the closing one, which is doubled within, and what follows.
fn unquoted(text: &str, close: char) -> Option<(String, &str)> {
    let mut name = String::new();
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, char)) = chars.next() {
        if char != close {
            name.push(char);
        } else if close != ']' && chars.peek().is_some_and(|(_, next)| *next == close) {
            chars.next();
            name.push(close);
        } else {
            return Some((name, &text[at + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(sql: &str) -> Vec<Piece<'_>> {
        pieces(sql).collect()
    }

    #[test]
    fn dump_headers_are_recognized() {
        let sql = "PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\nPRAGMA writable_schema=ON;\n\
             INSERT INTO sqlite_schema(type,name,tbl_name,rootpage,sql)VALUES('table','a','a',0,'CREATE VIRTUAL TABLE a');\n\
             CREATE TABLE IF NOT EXISTS other(x);INSERT INTO \"it\"\"s\" VALUES(1);PRAGMA foreign_keys = 1;COMMIT;";
        assert_eq!(
            all(sql),
            [
                Piece::ForeignKeys(false),
                Piece::Plain("\nBEGIN TRANSACTION;"),
                Piece::PassedOver,
                Piece::SchemaRow,
                Piece::Plain("\nCREATE TABLE IF NOT EXISTS other(x);INSERT INTO \"it\"\"s\" VALUES(1);"),
                Piece::ForeignKeys(true),
                Piece::Plain("COMMIT;"),
            ]
        );
    }

    #[test]
    fn statistics_are_passed_over_outside_of_triggers() {
        let sql = "ANALYZE sqlite_schema; INSERT INTO sqlite_stat1 VALUES('t','i','1 1');insert into \"sqlite_stat4\" values(1)";
        assert_eq!(all(sql), [Piece::PassedOver, Piece::PassedOver, Piece::PassedOver]);
        let plain =
            "CREATE TRIGGER r AFTER INSERT ON t BEGIN INSERT INTO sqlite_stat1 VALUES(1); END; SELECT 1; -- ANALYZE;";
        assert_eq!(all(plain), [Piece::Plain(plain)]);
        assert_eq!(all(""), []);
        for plain in ["PRAGMA foreign_keys", "INSERT INTO \"open", "INSERT INTO [a]]b] VALUES(1)"] {
            assert_eq!(all(plain), [Piece::Plain(plain)]);
        }
    }
}
