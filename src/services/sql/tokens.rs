//! Splits SQL text into tokens as SQLite does.
//!
//! Not here: decisions based on them (`read_only.rs`, `services/sql/budget/`).

/// In UTF-8.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Approximate length in bytes of the longest string or blob literal in a text.
pub fn longest_literal(sql: &str) -> usize {
    let mut before: &[u8] = b"";
    let bytes = tokens(sql).map(|token| {
        let is_blob = before.eq_ignore_ascii_case(b"x");
        before = token;
        if token[0] == b'\'' { token.len().saturating_sub(2) / if is_blob { 2 } else { 1 } } else { 0 }
    });
    bytes.max().unwrap_or(0)
}

/// Approximate length in bytes of the longest row of an `INSERT ... VALUES`; 0 for other statements. `parameters`: bytes
/// of all parameters, counted if there is one row.
pub fn longest_row(sql: &str, parameters: usize) -> usize {
    if !words(sql).next().is_some_and(|word| is_keyword(word, "insert") || is_keyword(word, "replace")) {
        return 0;
    }
    let (mut depth, mut rows, mut row, mut longest) = (0_usize, 0, 0, 0);
    for token in tokens(sql).skip_while(|token| !is_keyword(token, "values")) {
        match token {
            b"(" => {
                (rows, row) = if depth == 0 { (rows + 1, 0) } else { (rows, row) };
                depth += 1;
            }
            b")" => depth = depth.saturating_sub(1),
            _ if depth == 0 => {}
            token if token[0] == b'\'' => row += token.len(),
            token if is_word(token[0]) => row += token.len().min(8) + 1,
            _ => {}
        }
        longest = row.max(longest);
    }
    if rows == 1 { longest + parameters } else { longest }
}

/// A statement without leading blanks, comments and semicolons.
pub fn from_first_word(sql: &str) -> &str {
    words(sql).next().map_or("", |word| &sql[word.as_ptr().addr() - sql.as_ptr().addr()..])
}

/// Whether a statement contains the word ROLLBACK.
pub fn names_rollback(sql: &str) -> bool {
    names(sql, "rollback")
}

/// Whether a statement contains a word, outside of strings, quoted names and comments. Case is ignored.
pub fn names(sql: &str, wanted: &str) -> bool {
    words(sql).any(|word| is_keyword(word, wanted))
}

/// Whether a token is this keyword, ignoring case.
pub fn is_keyword(token: &[u8], keyword: &str) -> bool {
    token.eq_ignore_ascii_case(keyword.as_bytes())
}

/// The words and numbers of a statement, outside of strings, quoted names, comments and parameters.
pub fn words(sql: &str) -> impl Iterator<Item = &[u8]> {
    tokens(sql).filter(|token| is_word(token[0]))
}

/// The words of a statement that are not in parentheses; each is a slice of `sql`.
pub fn words_outside(sql: &str) -> impl Iterator<Item = &[u8]> {
    let (bytes, mut depth, mut at) = (sql.as_bytes(), 0_usize, 0);
    words(sql).filter(move |word| {
        let begin = word.as_ptr().addr() - bytes.as_ptr().addr();
        for byte in &bytes[at..begin] {
            match byte {
                b'(' => depth += 1,
                b')' => depth = depth.saturating_sub(1),
                _ => {}
            }
        }
        at = begin;
        depth == 0
    })
}

/// Whether a text contains one of these words, in any case and also as part of another word.
pub fn contains_any(text: &[u8], words: &[&str]) -> bool {
    words.iter().any(|word| text.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word.as_bytes())))
}

/// The parts of a script, each of which ends at a semicolon. Statements within a trigger are parts as well.
pub fn parts(sql: &str) -> impl Iterator<Item = &str> {
    let ends = tokens(sql).filter(|token| *token == b";").map(|end| end.as_ptr().addr() - sql.as_ptr().addr() + 1);
    let mut begin = 0;
    ends.chain([sql.len()]).map(move |end| &sql[std::mem::replace(&mut begin, end)..end])
}

/// The tokens of a statement: words, numbers and string literals, and every other byte that is not a blank.
pub fn tokens(sql: &str) -> impl Iterator<Item = &[u8]> {
    let bytes = sql.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < bytes.len() {
            let rest = &bytes[at..];
            at += match bytes[at] {
                quote @ (b'\'' | b'"' | b'`') => {
                    let len = rest[1..].iter().position(|b| *b == quote).map_or(rest.len(), |end| end + 2);
                    if quote == b'\'' {
                        at += len;
                        return Some(&rest[..len]);
                    }
                    len
                }
                b'[' => rest.iter().position(|b| *b == b']').map_or(rest.len(), |end| end + 1),
                b'-' if rest.starts_with(b"--") => rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len()),
                b'/' if rest.starts_with(b"/*") => {
                    rest[2..].windows(2).position(|two| two == b"*/").map_or(rest.len(), |end| end + 4)
                }
                // SQLite treats it as a blank at the beginning of a word, and as a letter within one.
                _ if rest.starts_with(BYTE_ORDER_MARK) => BYTE_ORDER_MARK.len(),
                b'$' | b'@' | b':' | b'#' => parameter(rest),
                byte if byte.is_ascii_whitespace() || byte == 0x0b => 1,
                byte => {
                    let len =
                        if is_word(byte) { rest.iter().position(|b| !is_word(*b)).unwrap_or(rest.len()) } else { 1 };
                    at += len;
                    return Some(&rest[..len]);
                }
            };
        }
        None
    })
}

/// Length of a parameter in bytes: its name may contain `::` and, in parentheses, anything but blanks.
fn parameter(rest: &[u8]) -> usize {
    let (mut len, mut letters) = (1, 0);
    while let Some(byte) = rest.get(len) {
        len += match byte {
            byte if is_word(*byte) => {
                letters += 1;
                1
            }
            b'(' if letters > 0 => {
                let end = rest[len..].iter().position(|b| *b == b')' || b.is_ascii_whitespace() || *b == 0x0b);
                return len + end.map_or(rest.len() - len, |end| end + usize::from(rest[len + end] == b')'));
            }
            b':' if rest[len..].starts_with(b"::") => 2,
            _ => break,
        };
    }
    len
}

pub fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$') || !byte.is_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_values_is_about_as_long_as_its_literals() {
        for (sql, expected) in [
            ("INSERT INTO t(abc, def) VALUES('12345', x'1234')", 115),
            ("insert into t values(1, 'it''s'), (replace('1234567', 'a', 'b'), 2)", 25),
            ("REPLACE INTO t VALUES(?, '1234')", 106),
            ("INSERT INTO t SELECT a FROM u WHERE a IN ('1234567', '1234567')", 0),
            ("DELETE FROM t WHERE a IN (SELECT * FROM (VALUES('1234567')))", 0),
        ] {
            assert_eq!(longest_row(sql, 100), expected, "{sql}");
        }
    }

    #[test]
    fn a_script_is_cut_at_semicolons_outside_of_strings_and_comments() {
        let all = |sql| parts(sql).collect::<Vec<_>>();
        assert_eq!(all("DROP TABLE a; SELECT ';' -- ;\n;x"), ["DROP TABLE a;", " SELECT ';' -- ;\n;", "x"]);
        assert_eq!(all(""), [""]);
    }
}
