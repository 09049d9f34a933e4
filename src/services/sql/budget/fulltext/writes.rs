//! Definitions of full-text tables, and the cost of the pages that FTS5 writes.
//!
//! FTS5 writes what it has collected to a segment of its index when its hash table is full (1 MiB), or at the next
//! savepoint. The charge for tokens covers that (`tokens.rs`). Everything else that it does to its index
//! (merges, removals) is charged by the pages that it writes: the update hook is called for each row of its tables.
//!
//! Invariant: F1 the charge depends on the statement and the content alone: at the beginning of each transaction FTS5
//! has nothing in memory, and its tables contain everything that its merges depend on.

use super::tokens::WrittenText;
use crate::services::sql::tokens::{tokens, words};
use rusqlite::hooks::Action;
use rusqlite::{Connection, Result};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Steps for a page written by a merge, and for any other row written or removed.
const MERGED_PAGE: u64 = 40_000;
const OTHER_ROW: u64 = 2_000;

/// Bytes of what the definition of a full-text table says of its tokenizer.
const TOKENIZER_BYTES_MAX: usize = 1_000;

/// Rowid of the row of FTS5's `data` table that describes the structure of the index: written at the end of each flush.
const STRUCTURE_ROW: i64 = 10;
/// Bits of a rowid of that table below the number of the segment.
const SEGMENT_SHIFT: u32 = 37;

/// A full-text table by its CREATE statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// Lengths of the tokens in its prefix indexes, in characters.
    prefixes: Vec<usize>,
    /// Whether it names a tokenizer, which makes its tokens visible.
    names_tokenizer: bool,
    /// Bytes of the tokenizer's definition.
    tokenizer_bytes: usize,
}

impl Definition {
    /// `None`: it is not a full-text table.
    pub fn of(sql: &str) -> Option<Definition> {
        let using = words(sql).find(|word| word.eq_ignore_ascii_case(b"using"))?;
        let rest = &sql[using.as_ptr().addr() - sql.as_ptr().addr() + using.len()..];
        let module = rest.trim_start_matches(|c: char| !c.is_alphanumeric());
        let is_module = |name: &str| module.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
        let mut found = Definition { prefixes: Vec::new(), names_tokenizer: false, tokenizer_bytes: 0 };
        if has_comment(rest) {
            // FTS5 may read it in another way than this function.
            return Some(found);
        }
        if is_module("rtree") || is_module("fts5vocab") {
            return None;
        }
        for argument in arguments(rest.split_once('(').map_or("", |(_, arguments)| arguments)) {
            let Some((name, value)) = argument.split_once('=') else { continue };
            let name = name.trim().to_ascii_lowercase();
            // FTS5 accepts abbreviated option names.
            let is = |option: &str| !name.is_empty() && option.starts_with(&name);
            if is("prefix") {
                let numbers = value.split(|c: char| !c.is_ascii_digit());
                found.prefixes.extend(numbers.filter_map(|number| number.parse::<usize>().ok()));
            } else if is("tokenize") {
                found.names_tokenizer = value.contains(char::is_alphanumeric);
                found.tokenizer_bytes += value.len();
            }
        }
        Some(found)
    }
}

/// The reason if a new virtual table is not accepted.
pub fn refusal(sql: &str) -> Option<String> {
    if has_comment(sql) {
        return Some("CREATE VIRTUAL TABLE may contain no comments".to_string());
    }
    // FTS5 compares each character of `tokenchars` and `separators` with all before it.
    let bytes = Definition::of(sql).map_or(0, |found| found.tokenizer_bytes);
    (bytes > TOKENIZER_BYTES_MAX).then(|| {
        format!("the tokenizer of a full-text table has at most {TOKENIZER_BYTES_MAX} bytes, this one has {bytes}")
    })
}

fn has_comment(sql: &str) -> bool {
    sql.contains("/*") || sql.contains("--")
}

/// Arguments of a virtual table, split at commas outside of quotes.
fn arguments(text: &str) -> Vec<&str> {
    let (mut parts, mut begin, mut quote) = (Vec::new(), 0, None);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"' | '`') => quote = Some(c),
            (None, '[') => quote = Some(']'),
            (None, ',') => {
                parts.push(&text[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[begin..]);
    parts
}

/// Adds the default tokenizer to a statement that creates a full-text table without naming one: only the tokens of
/// named tokenizers are visible. Any other statement is returned unchanged.
pub fn with_named_tokenizer(sql: &str) -> Cow<'_, str> {
    let mut first = words(sql);
    let creates = ["create", "virtual"]
        .iter()
        .all(|one| first.next().is_some_and(|word| word.eq_ignore_ascii_case(one.as_bytes())));
    if !creates || Definition::of(sql).is_none_or(|found| found.names_tokenizer) {
        return Cow::Borrowed(sql);
    }
    let Some(end) = tokens(sql).filter(|token| *token == b")").last() else { return Cow::Borrowed(sql) };
    let at = end.as_ptr().addr() - sql.as_ptr().addr();
    Cow::Owned(format!("{}, tokenize = 'unicode61'{}", &sql[..at], &sql[at..]))
}

/// State of a full-text table while a command runs.
#[derive(Debug)]
struct Table {
    definition: Definition,
    /// Tokens were collected and are not written yet.
    is_pending: bool,
    /// The segment that they are written to.
    flushed: Option<i64>,
}

/// The full-text tables of the database.
#[derive(Debug, Default)]
pub struct FulltextWrites {
    tables: BTreeMap<String, Table>,
    flushes: Arc<AtomicU64>,
}

impl FulltextWrites {
    /// How often FTS5 has written what it had collected, in any of the tables.
    pub fn flushes(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.flushes)
    }

    /// Starts a command, or continues one that has changed the schema. `tables`: the present definitions, if the schema
    /// may have changed.
    pub fn begin(&mut self, tables: Option<BTreeMap<String, Definition>>) {
        if let Some(tables) = tables {
            let bare = |definition| Table { definition, is_pending: false, flushed: None };
            self.tables = tables.into_iter().map(|(name, definition)| (name, bare(definition))).collect();
        }
        for table in self.tables.values_mut() {
            (table.is_pending, table.flushed) = (false, None);
        }
    }

    /// Whether this is one of them.
    pub fn has(&self, table: &str) -> bool {
        self.tables.contains_key(table)
    }

    /// The full-text tables among the tables in `filled`.
    ///
    /// # Errors
    /// One of them names no tokenizer, so its tokens would not be charged.
    pub fn written(&self, filled: &[(String, u64)]) -> std::result::Result<WrittenText, String> {
        let mut written = WrittenText::default();
        for (name, table) in filled.iter().filter_map(|(name, _)| Some((name, self.tables.get(name)?))) {
            if !table.definition.names_tokenizer {
                return Err(format!(
                    "full-text table {name} was created by an older version: create it again, with tokenize = 'unicode61'"
                ));
            }
            written.tables += 1;
            written.prefixes.extend(&table.definition.prefixes);
        }
        Ok(written)
    }

    /// The cost in steps of writing a row of one of FTS5's shadow tables. `name`: the shadow table.
    pub fn row(&mut self, action: Action, name: &str, row: i64) -> u64 {
        let Some((name, part)) = name.rsplit_once('_') else { return 0 };
        let Some(table) = self.tables.get_mut(name) else { return 0 };
        match part {
            "docsize" | "content" => {
                table.is_pending = true;
                0
            }
            "data" => {
                if row == STRUCTURE_ROW {
                    self.flushes.fetch_add(1, Relaxed);
                }
                table.page(action, row)
            }
            _ => 0,
        }
    }
}

impl Table {
    fn page(&mut self, action: Action, row: i64) -> u64 {
        if action == Action::SQLITE_DELETE || row < STRUCTURE_ROW {
            return OTHER_ROW;
        }
        if row == STRUCTURE_ROW {
            (self.is_pending, self.flushed) = (false, None);
            return OTHER_ROW;
        }
        let segment = row >> SEGMENT_SHIFT;
        // What is merged after a flush goes to other segments. A table that has no row for each text, and so is never
        // pending, pays for a flush as for a merge.
        if self.is_pending && *self.flushed.get_or_insert(segment) == segment { OTHER_ROW } else { MERGED_PAGE }
    }
}

/// The definitions of all full-text tables.
///
/// # Errors
/// SQLite's error.
pub fn definitions(conn: &Connection) -> Result<BTreeMap<String, Definition>> {
    let find = "SELECT name, sql FROM main.sqlite_schema WHERE type = 'table' AND rootpage = 0";
    let mut prepared = conn.prepare(find)?;
    let found = prepared.query_map([], |row| Ok((row.get(0)?, Definition::of(&row.get::<_, String>(1)?))))?;
    found.filter_map(|one| one.map(|(name, found)| found.map(|found| (name, found))).transpose()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_definition_has_prefixes_and_a_tokenizer() {
        let of = |arguments: &str| {
            let found = Definition::of(&format!("CREATE VIRTUAL TABLE \"a using\" USING fts5{arguments}")).unwrap();
            (found.prefixes, found.names_tokenizer)
        };
        for (arguments, expected) in [
            ("(body)", (vec![], false)),
            ("(prefix, tokenize)", (vec![], false)),
            ("(a, prefix='1 2', pre = \"3,4\", P=5)", (vec![1, 2, 3, 4, 5], false)),
            ("(a, tokenize = \"'Trigram' remove_diacritics 1\")", (vec![], true)),
            ("(a, tok=trigram, prefix='2')", (vec![2], true)),
            ("(a, tokenize='')", (vec![], false)),
            ("(a /* ' */, prefix='1 2' /* ' */, tokenize=ascii)", (vec![], false)),
            ("(a, tokenize='porter unicode61', columnsize=0)", (vec![], true)),
        ] {
            assert_eq!(of(arguments), expected, "{arguments}");
        }
        assert_eq!(Definition::of("CREATE VIRTUAL TABLE r USING rtree(id, a, b)"), None);
        assert_eq!(Definition::of("CREATE VIRTUAL TABLE v USING fts5vocab(f, row)"), None);
        let hidden = Definition::of("CREATE VIRTUAL TABLE v USING /*rtree*/ fts5(a)");
        assert_eq!(hidden.map(|found| found.names_tokenizer), Some(false));
        let quoted = Definition::of("CREATE VIRTUAL TABLE v USING \"FTS5\"(a, prefix='1')");
        assert_eq!(quoted.unwrap().prefixes, [1]);
    }

    #[test]
    fn the_tokenizer_is_named() {
        for (sql, expected) in [
            (
                "create virtual table f using fts5(a)",
                Some("create virtual table f using fts5(a, tokenize = 'unicode61')"),
            ),
            (
                "CREATE VIRTUAL TABLE IF NOT EXISTS [f)] USING fts5(a, content=')') ; -- )",
                Some(
                    "CREATE VIRTUAL TABLE IF NOT EXISTS [f)] USING fts5(a, content=')', tokenize = 'unicode61') ; -- )",
                ),
            ),
            ("CREATE VIRTUAL TABLE f USING fts5(a, tokenize=porter)", None),
            ("CREATE VIRTUAL TABLE r USING rtree(id, a, b)", None),
            ("CREATE TABLE virtual (a)", None),
            ("INSERT INTO t VALUES('create virtual table f using fts5(a)')", None),
        ] {
            assert_eq!(with_named_tokenizer(sql), expected.unwrap_or(sql));
        }
    }

    #[test]
    fn pages_of_a_merge_cost_more_than_those_that_tokens_have_paid_for() {
        let mut writes = FulltextWrites::default();
        let definition = Definition::of("CREATE VIRTUAL TABLE f USING fts5(a)").unwrap();
        writes.begin(Some(BTreeMap::from([("f".to_string(), definition)])));
        let insert = Action::SQLITE_INSERT;
        let page = |segment: i64, page: i64| (segment << SEGMENT_SHIFT) + page;
        assert_eq!(writes.row(insert, "f_data", page(1, 1)), MERGED_PAGE, "nothing was collected");
        assert_eq!(writes.row(insert, "f_data", STRUCTURE_ROW), OTHER_ROW);
        assert_eq!(writes.row(insert, "f_docsize", 1), 0);
        assert_eq!(writes.row(insert, "f_data", page(2, 1)), OTHER_ROW);
        assert_eq!(writes.row(insert, "f_data", page(2, 2)), OTHER_ROW);
        assert_eq!(writes.row(insert, "f_data", page(3, 1)), MERGED_PAGE);
        assert_eq!(writes.row(insert, "g_data", page(3, 1)), 0, "not a full-text table");
    }
}
