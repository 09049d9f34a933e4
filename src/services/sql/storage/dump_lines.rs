//! Recognises the lines of sqlite3's `.dump` that only the tool itself can execute.
//!
//! The tool writes statistics, and it writes a virtual table as a row of the schema table, followed by its shadow
//! tables as if they were tables of their own. A script is cut here into such lines and plain statements.
//!
//! Not here: executing them (`load_text.rs`).

use crate::services::sql::tokens::{is_word, parts, tokens, words};

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
    /// The definition of a virtual table: its `CREATE VIRTUAL TABLE` statement.
    VirtualTable(String),
    /// What may be the definition of a shadow table of such a virtual table: its name, and the statement.
    ShadowTable(String, &'a str),
    /// What may be a row of a shadow table: the name of the table, and the statement.
    ShadowRow(String, &'a str),
}

/// Cuts a script into pieces, in order.
pub fn pieces(sql: &str) -> impl Iterator<Item = Piece<'_>> {
    let mut parts = parts(sql);
    let mut context = Context::default();
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
            if let Some(piece) = context.special(part) {
                if before.is_empty() {
                    return Some(piece);
                }
                next = Some(piece);
                return Some(Piece::Plain(before));
            }
        }
    })
}

/// What is known from the pieces so far.
#[derive(Default)]
struct Context {
    /// The statements of a trigger are parts as well.
    is_in_trigger: bool,
    /// Names of the virtual tables that were written as rows of the schema table.
    virtual_tables: Vec<String>,
}

impl Context {
    fn special<'a>(&mut self, part: &'a str) -> Option<Piece<'a>> {
        let mut words = words(part);
        let mut next_is = |one: &str| words.next().is_some_and(|word| word.eq_ignore_ascii_case(one.as_bytes()));
        if self.is_in_trigger {
            self.is_in_trigger = !next_is("end");
            return None;
        }
        let first = words.next()?.to_ascii_lowercase();
        match first.as_slice() {
            b"create" => self.definition(part),
            b"analyze" => Some(Piece::PassedOver),
            b"pragma" => pragma(part),
            b"insert" => self.insertion(part),
            _ => None,
        }
    }

    fn definition<'a>(&mut self, part: &'a str) -> Option<Piece<'a>> {
        let mut words = words(part).skip(1).map(<[u8]>::to_ascii_lowercase);
        match words.next()?.as_slice() {
            b"temp" | b"temporary" => self.is_in_trigger = words.next()? == b"trigger",
            b"trigger" => self.is_in_trigger = true,
            b"table" if words.take(3).eq([&b"if"[..], b"not", b"exists"]) => {
                let name = name_after(part, &["create", "table", "if", "not", "exists"])?;
                return self.may_be_shadow(&name).then_some(Piece::ShadowTable(name, part));
            }
            _ => {}
        }
        None
    }

    fn insertion<'a>(&mut self, part: &'a str) -> Option<Piece<'a>> {
        let name = name_after(part, &["insert", "into"])?;
        let lower = name.to_ascii_lowercase();
        if lower.starts_with("sqlite_stat") {
            return Some(Piece::PassedOver);
        }
        if lower != "sqlite_schema" && lower != "sqlite_master" {
            return self.may_be_shadow(&name).then_some(Piece::ShadowRow(name, part));
        }
        let [kind, name, table, create] = <[String; 4]>::try_from(literals(part)).ok()?;
        let is_virtual = kind == "table"
            && name == table
            && words(&create).take(3).map(<[u8]>::to_ascii_lowercase).eq([&b"create"[..], b"virtual", b"table"]);
        if !is_virtual {
            return None;
        }
        self.virtual_tables.push(name);
        Some(Piece::VirtualTable(create))
    }

    fn may_be_shadow(&self, table: &str) -> bool {
        let of = |owner: &String| {
            table.get(..owner.len()).is_some_and(|start| start.eq_ignore_ascii_case(owner))
                && table[owner.len()..].starts_with('_')
        };
        self.virtual_tables.iter().any(of)
    }
}

fn pragma(part: &str) -> Option<Piece<'static>> {
    let mut words = words(part).skip(1).map(<[u8]>::to_ascii_lowercase);
    let (name, value) = (words.next()?, words.next()?);
    match (name.as_slice(), value.as_slice()) {
        (b"writable_schema", _) => Some(Piece::PassedOver),
        (b"foreign_keys", b"on" | b"1" | b"yes" | b"true") => Some(Piece::ForeignKeys(true)),
        (b"foreign_keys", b"off" | b"0" | b"no" | b"false") => Some(Piece::ForeignKeys(false)),
        _ => None,
    }
}

/// The name that follows these words at the beginning of a statement, without quotes.
fn name_after(part: &str, expected: &[&str]) -> Option<String> {
    let mut all = words(part);
    let mut end = 0;
    for one in expected {
        let word = all.next().filter(|word| word.eq_ignore_ascii_case(one.as_bytes()))?;
        end = word.as_ptr().addr() - part.as_ptr().addr() + word.len();
    }
    let rest = part[end..].trim_start();
    let quote = rest.chars().next()?;
    let close = match quote {
        '"' | '\'' | '`' => quote,
        '[' => ']',
        _ => {
            let len = rest.bytes().position(|byte| !is_word(byte)).unwrap_or(rest.len());
            return (len > 0).then(|| rest[..len].to_string());
        }
    };
    unquoted(rest, close).map(|(name, _)| name)
}

/// The text between the quote at the beginning and the closing one, which is doubled within; and the length of all.
fn unquoted(text: &str, close: char) -> Option<(String, usize)> {
    let mut name = String::new();
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, char)) = chars.next() {
        if char != close {
            name.push(char);
        } else if close != ']' && chars.peek().is_some_and(|(_, next)| *next == close) {
            chars.next();
            name.push(close);
        } else {
            return Some((name, at + close.len_utf8()));
        }
    }
    None
}

/// The values of all string literals of a statement.
fn literals(part: &str) -> Vec<String> {
    let start = |token: &[u8]| token.as_ptr().addr() - part.as_ptr().addr();
    let mut found = Vec::new();
    let mut end = 0;
    for token in tokens(part).filter(|token| token[0] == b'\'') {
        let at = start(token);
        if at < end {
            continue;
        }
        // A doubled quote within a literal looks like two literals.
        let Some((value, len)) = unquoted(&part[at..], '\'') else { break };
        found.push(value);
        end = at + len;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(sql: &str) -> Vec<Piece<'_>> {
        pieces(sql).collect()
    }

    #[test]
    fn a_virtual_table_is_recognised_with_its_shadow_tables() {
        let table = "CREATE TABLE IF NOT EXISTS 'it''s_data'(id INTEGER PRIMARY KEY, block BLOB);";
        let row = "INSERT INTO 'it''s_data' VALUES(1,X'00');";
        let sql = format!(
            "PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\nPRAGMA writable_schema=ON;\n\
             INSERT INTO sqlite_schema(type,name,tbl_name,rootpage,sql)VALUES('table','it''s','it''s',0,\
             'CREATE VIRTUAL TABLE \"it''s\" USING fts5(a, tokenize = ''ascii'')');\n\
             {table}\n{row}\n\
             CREATE TABLE IF NOT EXISTS other_data(x);INSERT INTO other_data VALUES(1);PRAGMA writable_schema=OFF;COMMIT;"
        );
        let create = "CREATE VIRTUAL TABLE \"it's\" USING fts5(a, tokenize = 'ascii')";
        assert_eq!(
            all(&sql),
            [
                Piece::ForeignKeys(false),
                Piece::Plain("\nBEGIN TRANSACTION;"),
                Piece::PassedOver,
                Piece::VirtualTable(create.to_string()),
                Piece::ShadowTable("it's_data".to_string(), &format!("\n{table}")),
                Piece::ShadowRow("it's_data".to_string(), &format!("\n{row}")),
                Piece::Plain("\nCREATE TABLE IF NOT EXISTS other_data(x);INSERT INTO other_data VALUES(1);"),
                Piece::PassedOver,
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
        for plain in [
            "INSERT INTO sqlite_schema VALUES('table','t','t',0,'CREATE TABLE t(x)')",
            "INSERT INTO sqlite_schema(sql) VALUES('CREATE VIRTUAL TABLE t USING fts5(a)')",
            "PRAGMA foreign_keys",
            "INSERT INTO \"open",
            "INSERT INTO [a]]b] VALUES(1)",
        ] {
            assert_eq!(all(plain), [Piece::Plain(plain)]);
        }
    }
}
