//! Text handling of the SQL shell: where a statement ends, and how a result is printed.
//!
//! Not here: querying nodes and reading lines (`mod.rs`).

use crate::cli::term;
use comfy_table::{Cell, CellAlignment, ContentLineStyle, LineStyle, Table, TableStyle};
use serde_json::Value;

/// Columns of a terminal that one cell of a table may occupy; a longer one is cut.
const CELL_WIDTH_MAX: usize = 60;
/// The border of a table.
const LINES: TableStyle = TableStyle::new()
    .top_border(LineStyle::new('┌', '─', '┬', '┐'))
    .header_lines(ContentLineStyle::new('│', '│', '│'))
    .header_separator(LineStyle::new('├', '─', '┼', '┤'))
    .content_lines(ContentLineStyle::new('│', '│', '│'))
    .bottom_border(LineStyle::new('└', '─', '┴', '┘'));

/// The output format of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutputFormat {
    /// A table with borders.
    #[default]
    Table,
    /// RFC 4180, names first.
    Csv,
    /// One array of objects for each statement, on a line of its own.
    Json,
}

/// A word, a semicolon, or anything else that is not a blank or a comment.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Semicolon,
    Other,
}

/// The token at the start of a text and its length; `None`: blanks and comments. A quote without its end is `Err`.
fn token(rest: &str) -> Result<(Option<Token<'_>>, usize), ()> {
    let first = rest.chars().next().ok_or(())?;
    let end = |closing: &str, from: usize| rest[from..].find(closing).map(|at| from + at + closing.len());
    Ok(match first {
        ';' => (Some(Token::Semicolon), 1),
        '\'' | '"' | '`' => (Some(Token::Other), end(&first.to_string(), 1).ok_or(())?),
        '[' => (Some(Token::Other), end("]", 1).ok_or(())?),
        '-' if rest.starts_with("--") => (None, end("\n", 2).unwrap_or(rest.len())),
        '/' if rest.starts_with("/*") => (None, end("*/", 2).ok_or(())?),
        _ if first.is_whitespace() => (None, first.len_utf8()),
        _ if first.is_alphanumeric() || first == '_' => {
            let len = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            (Some(Token::Word(&rest[..len])), len)
        }
        _ => (Some(Token::Other), first.len_utf8()),
    })
}

/// Splits a text into whole statements, without their semicolons, and the incomplete rest. The body of a trigger has
/// semicolons of its own: it ends with `; END;`. A line with a dot where a statement could begin is a statement by
/// itself.
pub fn statements(text: &str) -> (Vec<&str>, &str) {
    let (mut found, mut begin, mut at) = (Vec::new(), 0, 0);
    let mut tokens: Vec<Token> = Vec::new();
    while at < text.len() {
        if tokens.is_empty() && text[at..].starts_with('.') {
            let len = text[at..].find('\n').unwrap_or(text.len() - at);
            found.push(text[at..at + len].trim());
            at += len;
            begin = at;
            continue;
        }
        let Ok((token, len)) = token(&text[at..]) else { break };
        let is_end = token == Some(Token::Semicolon) && (!is_trigger(&tokens) || ends_trigger(&tokens));
        if is_end {
            if !tokens.is_empty() {
                found.push(text[begin..at].trim());
            }
            begin = at + len;
            tokens.clear();
        } else if let Some(token) = token {
            // The first four identify a trigger, the last two its end.
            if tokens.len() >= 6 {
                tokens.remove(4);
            }
            tokens.push(token);
        }
        at += len;
    }
    let rest = &text[begin..];
    (found, if is_blank(rest) { "" } else { rest })
}

/// Whether there is nothing but blanks and comments.
fn is_blank(text: &str) -> bool {
    let mut at = 0;
    while at < text.len() {
        match token(&text[at..]) {
            Ok((None, len)) => at += len,
            _ => return false,
        }
    }
    true
}

fn is_keyword(token: &Token, word: &str) -> bool {
    matches!(token, Token::Word(it) if it.eq_ignore_ascii_case(word))
}

fn is_trigger(tokens: &[Token]) -> bool {
    let tokens = match tokens {
        [explain, rest @ ..] if is_keyword(explain, "explain") => rest,
        tokens => tokens,
    };
    match tokens {
        [create, temp, trigger, ..]
            if is_keyword(create, "create") && (is_keyword(temp, "temp") || is_keyword(temp, "temporary")) =>
        {
            is_keyword(trigger, "trigger")
        }
        [create, trigger, ..] => is_keyword(create, "create") && is_keyword(trigger, "trigger"),
        _ => false,
    }
}

fn ends_trigger(tokens: &[Token]) -> bool {
    matches!(tokens, [.., Token::Semicolon, end] if is_keyword(end, "end"))
}

/// Whether a statement begins with one of these words.
fn begins_with(sql: &str, words: &[&str]) -> bool {
    first_words(sql).first().is_some_and(|first| words.iter().any(|word| first.eq_ignore_ascii_case(word)))
}

/// Whether a script has transactions of its own, as a dump has.
fn has_transaction(statements: &[&str]) -> bool {
    statements.iter().any(|sql| begins_with(sql, &["begin", "savepoint"]))
}

/// How many of a script's statements belong to its transactions: those up to the last statement that ends one.
pub fn in_transactions(statements: &[&str]) -> usize {
    if !has_transaction(statements) {
        return 0;
    }
    let ends = |sql: &&str| begins_with(sql, &["commit", "end", "rollback", "release"]);
    statements.iter().rposition(ends).map_or(statements.len(), |at| at + 1)
}

/// Whether a statement is run for its rows.
pub fn is_question(sql: &str) -> bool {
    begins_with(sql, &["select", "values", "explain"]) || (begins_with(sql, &["with"]) && !changes(sql))
}

fn changes(sql: &str) -> bool {
    let mut at = 0;
    while let Ok((token, len)) = token(&sql[at..]) {
        at += len;
        if let Some(word) = token
            && ["insert", "update", "delete", "replace"].iter().any(|it| is_keyword(&word, it))
        {
            return true;
        }
    }
    false
}

/// Whether a script leaves a transaction open: such a script is incomplete and should not be run.
pub fn leaves_open(statements: &[&str]) -> bool {
    statements.iter().fold(false, |is_open, sql| {
        let words = first_words(sql);
        let is_at = |at: usize, word: &str| words.get(at).is_some_and(|it| it.eq_ignore_ascii_case(word));
        let is_partial = is_at(1, "to") || is_at(2, "to");
        let ends = is_at(0, "commit") || is_at(0, "end") || (is_at(0, "rollback") && !is_partial);
        is_at(0, "begin") || (is_open && !ends)
    })
}

/// The first words of a statement, three at most.
fn first_words(sql: &str) -> Vec<&str> {
    let (mut words, mut at) = (Vec::new(), 0);
    while words.len() < 3 && at < sql.len() {
        match token(&sql[at..]) {
            Ok((Some(Token::Word(word)), len)) => (_, at) = (words.push(word), at + len),
            Ok((None, len)) => at += len,
            _ => break,
        }
    }
    words
}

/// Writes the rows of a result.
pub fn rows(form: OutputFormat, columns: &[String], values: &[Vec<Value>]) -> String {
    match form {
        OutputFormat::Table => table(columns, values),
        OutputFormat::Csv => {
            let names = columns.iter().map(|name| csv(name)).collect::<Vec<_>>().join(",");
            let lines = values.iter().map(|row| {
                let cells = row.iter().map(|value| if value.is_null() { String::new() } else { csv(&shown(value)) });
                cells.collect::<Vec<_>>().join(",")
            });
            std::iter::once(names).chain(lines).map(|line| line + "\n").collect()
        }
        OutputFormat::Json => {
            let object = |row: &Vec<Value>| {
                let entry = |(name, value): (&String, &Value)| {
                    let value = if value.is_array() { Value::from(shown(value)) } else { value.clone() };
                    format!("{}:{value}", Value::from(name.as_str()))
                };
                format!("{{{}}}", columns.iter().zip(row).map(entry).collect::<Vec<_>>().join(","))
            };
            let text = format!("[{}]\n", values.iter().map(object).collect::<Vec<_>>().join(","));
            term::escaped(&text)
        }
    }
}

/// A value as SQL would write it, without the quotes of text. Blobs come as arrays of bytes.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_string(),
        Value::String(text) => text.clone(),
        Value::Array(bytes) => {
            let hex = bytes.iter().map(|byte| format!("{:02x}", byte.as_u64().unwrap_or_default()));
            format!("x'{}'", hex.collect::<String>())
        }
        other => other.to_string(),
    }
}

fn csv(text: &str) -> String {
    match text.contains([',', '"', '\n', '\r']) || text.is_empty() {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_string(),
    }
}

fn table(columns: &[String], values: &[Vec<Value>]) -> String {
    let value_cell = |value: &Value| {
        let alignment = if value.is_number() { CellAlignment::Right } else { CellAlignment::Left };
        Cell::new(cell(&shown(value))).set_alignment(alignment)
    };
    let mut table = Table::new();
    table.load_style(LINES).set_header(columns.iter().map(|name| cell(name)));
    table.add_rows(values.iter().map(|row| row.iter().map(value_cell)));
    format!("{table}\n")
}

/// One line without terminal control sequences, cut to the width of a cell.
fn cell(text: &str) -> String {
    term::cut(&term::plain(&text.replace('\n', "↵")), CELL_WIDTH_MAX)
}

#[cfg(test)]
mod tests {
    use crate::cli::sql::text::*;
    use serde_json::json;
    use unicode_width::UnicodeWidthStr;

    #[test]
    fn statements_end_where_sqlite_ends_them() {
        let trigger = "CREATE TRIGGER a AFTER INSERT ON b BEGIN UPDATE c SET d = 1; DELETE FROM e; END";
        let case = "SELECT CASE 1 WHEN 1 THEN 2 END";
        for (text, whole, rest) in [
            ("", vec![], ""),
            (" ; -- no\n;", vec![], ""),
            ("SELECT 1", vec![], "SELECT 1"),
            ("SELECT 1; SELECT ';' ;", vec!["SELECT 1", "SELECT ';'"], ""),
            ("SELECT 'a;", vec![], "SELECT 'a;"),
            ("SELECT \"a;\", `;`, [;]; x", vec!["SELECT \"a;\", `;`, [;]"], " x"),
            ("SELECT 1 /* ; */; /* open", vec!["SELECT 1 /* ; */"], " /* open"),
            ("SELECT 1 -- ;\n;", vec!["SELECT 1 -- ;"], ""),
            (&format!("{trigger};{case};"), vec![trigger, case], ""),
            (
                "create temp trigger a after insert on b begin delete from c; ",
                vec![],
                "create temp trigger a after insert on b begin delete from c; ",
            ),
        ] {
            assert_eq!(statements(text), (whole, rest), "{text}");
        }
        assert_eq!(statements(" .tables x; y\n.a"), (vec![".tables x; y", ".a"], ""));
        assert_eq!(statements("SELECT 1\n.5; .b"), (vec!["SELECT 1\n.5", ".b"], ""));
        for (script, count) in [
            ("SELECT 1; SELECT 2;", 0),
            ("PRAGMA a; BEGIN; INSERT INTO a VALUES (1); COMMIT; SELECT 1;", 4),
            ("BEGIN; END; BEGIN; ROLLBACK; SELECT 1;", 4),
            ("SAVEPOINT a; DELETE FROM b; RELEASE a; SELECT 1;", 3),
        ] {
            assert_eq!(in_transactions(&statements(script).0), count, "{script}");
        }
        for (sql, is_it) in [
            ("/* a */ select 1", true),
            ("WITH a AS (SELECT 1) SELECT * FROM a", true),
            ("WITH a AS (SELECT 1) INSERT INTO b SELECT * FROM a", false),
            ("VALUES (1)", true),
            ("INSERT INTO a SELECT 1", false),
        ] {
            assert_eq!(is_question(sql), is_it, "{sql}");
        }
        assert!(has_transaction(&["PRAGMA foreign_keys=OFF", "/* a */ begin transaction"]));
        assert!(!has_transaction(&["SELECT 'begin'"]));
        for (script, is_open) in [
            ("BEGIN; INSERT INTO a VALUES (1)", true),
            ("begin immediate; SELECT 1; /* no */ -- COMMIT\n; SELECT 'commit'", true),
            ("BEGIN; SELECT 1; COMMIT", false),
            ("BEGIN; SELECT 1; END TRANSACTION; SELECT 2", false),
            ("BEGIN; COMMIT; BEGIN", true),
            ("BEGIN; ROLLBACK", false),
            ("SAVEPOINT a; BEGIN; ROLLBACK TRANSACTION TO a", true),
            ("SELECT 1; COMMIT", false),
        ] {
            let (mut whole, rest) = statements(script);
            whole.push(rest);
            assert_eq!(leaves_open(&whole), is_open, "{script}");
        }
    }

    #[test]
    fn results_are_drawn_neatly() {
        let columns = ["id".to_string(), "name".to_string()];
        let values =
            [vec![json!(1), json!("日本")], vec![json!(12), json!("a\"\nb")], vec![json!([0, 255]), Value::Null]];
        assert_eq!(
            rows(OutputFormat::Table, &columns, &values),
            "┌─────────┬──────┐\n│ id      │ name │\n├─────────┼──────┤\n│       1 │ 日本 │\n\
             │      12 │ a\"↵b │\n│ x'00ff' │ NULL │\n└─────────┴──────┘\n"
        );
        assert_eq!(rows(OutputFormat::Csv, &columns, &values), "id,name\n1,日本\n12,\"a\"\"\nb\"\nx'00ff',\n");
        assert_eq!(
            rows(OutputFormat::Json, &columns, &values),
            "[{\"id\":1,\"name\":\"日本\"},{\"id\":12,\"name\":\"a\\\"\\nb\"},{\"id\":\"x'00ff'\",\"name\":null}]\n"
        );
        let long = rows(OutputFormat::Table, &columns[..1], &[vec![json!("x".repeat(1000))]]);
        assert!(long.lines().all(|line| line.width() <= CELL_WIDTH_MAX + 4), "{long}");
    }
}
