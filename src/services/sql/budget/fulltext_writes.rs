//! What it costs to write to full-text indexes.
//!
//! FTS5 cuts a text into words in one step of SQLite's machine, collects them in a hash table, and writes that to a segment of
//! its index later: when the hash table is full (1 MiB), or at the next savepoint. Its hash function is known and has no key, so
//! a text can be made whose words all have the same hash: time grows with the square of their number. So a text is paid for
//! before it is cut, by its length, for each index of each table that the statement and its triggers write to. What cannot be
//! known beforehand (text out of a table, deletions, rebuilds, merges) is paid for by the pages that FTS5 writes: the update hook
//! is called for each row of its tables.
//!
//! Invariant: F1 what is charged follows from the statement and the content alone: FTS5 begins each transaction without anything
//! in memory, and keeps in its tables what its merges depend on.
//! Not here: when a statement is undone for it (`length_tiers.rs`), words that are searched for (`fulltext_terms.rs`).

use super::text_cost::Length;
use crate::services::sql::commands::STEPS_MAX;
use crate::services::sql::tokens::words;
use rusqlite::hooks::Action;
use rusqlite::{Connection, Result};
use std::collections::BTreeMap;

/// Prefix indexes of a new table.
const PREFIXES_MAX: u64 = 3;
/// Indexes that a statement may write to with its triggers: each may have a hash table of its own to fill.
const INDEXES_MAX: u64 = 8;

/// A byte of text in one index, measured with words of three to five random letters: 350 ns.
const STEPS_PER_BYTE: u64 = 210;
/// The same with a trigram tokenizer, where each byte begins a word: 3,500 ns with three nodes on two processors.
const TRIGRAM_STEPS_PER_BYTE: u64 = 2_400;
/// Text of so many bytes costs one step more for each of its bytes: words of 7 bytes with the same hash, 4 ns for each pair.
const BYTES_PER_SQUARE: u64 = 41;
/// The same for a trigram tokenizer, by bytes that are not ASCII: trigrams of three ASCII characters have 8,192 hash values, each
/// of 256 trigrams, but a character of three bytes can be chosen so that each trigram has the same hash.
const TRIGRAM_BYTES_PER_SQUARE: u64 = 8;
/// A page that is written of what was collected: the first, which is not full, and each further one (some 300 words).
const FIRST_PAGE: u64 = 30_000;
const PAGE: u64 = 480_000;
const TRIGRAM_PAGE: u64 = 2_400_000;
/// What the square of the number of such pages costs.
const PAGE_SQUARE: u64 = 115_000;
/// A page that is written of other pages, and one that is removed.
const MERGED_PAGE: u64 = 40_000;
const REMOVED_PAGE: u64 = 2_000;
/// For each of the two tables of a full-text index that have a row for each text, where texts are longer than the lowest tier of
/// virtual tables: an UPDATE removes two rows and writes two, and just fits. What could be put in can be taken out.
const LONG_ROW: u64 = STEPS_MAX / 4 - STEPS_MAX / 60;

/// Rowid of the row of FTS5's `data` table that describes the structure of the index: written at the end of each flush.
const STRUCTURE_ROW: i64 = 10;
/// Bits of a rowid of that table below the number of the segment.
const SEGMENT_SHIFT: u32 = 37;

/// What a definition says of a full-text table's indexes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Definition {
    /// Prefix indexes and the one of whole words.
    indexes: u64,
    is_trigram: bool,
    /// A row for each text tells that there is something to be written.
    has_row_sizes: bool,
}

impl Definition {
    /// From the CREATE statement of a virtual table. `None`: it is no full-text table.
    pub fn of(sql: &str) -> Option<Definition> {
        let using = words(sql).find(|word| word.eq_ignore_ascii_case(b"using"))?;
        let rest = &sql[using.as_ptr().addr() - sql.as_ptr().addr() + using.len()..];
        let module = rest.trim_start_matches(|c: char| !c.is_alphanumeric());
        let is_module = |name: &str| module.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
        if is_module("rtree") || is_module("fts5vocab") {
            return None;
        }
        let mut found = Definition { indexes: 1, is_trigram: false, has_row_sizes: true };
        for argument in arguments(rest.split_once('(').map_or("", |(_, arguments)| arguments)) {
            let Some((name, value)) = argument.split_once('=') else { continue };
            let name = name.trim().to_ascii_lowercase();
            // FTS5 takes the beginning of an option's name for it.
            let is = |option: &str| !name.is_empty() && option.starts_with(&name);
            if is("prefix") {
                let numbers = value.split(|c: char| !c.is_ascii_digit()).filter(|number| !number.is_empty());
                found.indexes += numbers.count() as u64;
            } else if is("tokenize") {
                found.is_trigram |= value.to_ascii_lowercase().contains("trigram");
            } else if is("columnsize") {
                found.has_row_sizes = false;
            }
        }
        Some(found)
    }

    /// Why a new table may not have it, if it may not.
    pub fn refusal(self) -> Option<String> {
        if self.is_trigram && self.indexes > 1 {
            return Some("a full-text table with the trigram tokenizer has no prefix indexes".to_string());
        }
        (self.indexes > 1 + PREFIXES_MAX).then(|| {
            format!("a full-text table has {PREFIXES_MAX} prefix indexes at most, this one has {}", self.indexes - 1)
        })
    }

    /// What it costs to put a text into the index, or to take it out.
    fn text_steps(self, text: Length) -> u64 {
        let (bytes, wide) = (text.bytes as u64, text.wide as u64);
        let linear = if self.is_trigram { TRIGRAM_STEPS_PER_BYTE } else { STEPS_PER_BYTE };
        let square = match self.is_trigram {
            true => wide.saturating_mul(wide) / TRIGRAM_BYTES_PER_SQUARE,
            false => bytes.saturating_mul(bytes) / BYTES_PER_SQUARE,
        };
        linear.saturating_mul(bytes).saturating_add(square).saturating_mul(self.indexes)
    }
}

/// Arguments of a virtual table, cut at commas outside of quotes.
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

/// A full-text table while a command runs.
#[derive(Debug)]
struct Table {
    definition: Definition,
    /// Something was collected that is not written yet.
    is_pending: bool,
    /// The segment that it is written to, and how many of its pages are written.
    flushed: Option<(i64, u64)>,
}

/// The full-text tables, and what of their writes is paid for.
#[derive(Debug, Default)]
pub struct FulltextWrites {
    tables: BTreeMap<String, Table>,
    /// Steps that were charged for texts before FTS5 wrote them.
    prepaid: u64,
}

impl FulltextWrites {
    /// A command begins. `tables`: their definitions, where the schema may be another than before.
    pub fn begin(&mut self, tables: Option<BTreeMap<String, Definition>>) {
        self.prepaid = 0;
        if let Some(tables) = tables {
            let bare = |definition| Table { definition, is_pending: false, flushed: None };
            self.tables = tables.into_iter().map(|(name, definition)| (name, bare(definition))).collect();
        }
        for table in self.tables.values_mut() {
            (table.is_pending, table.flushed) = (false, None);
        }
    }

    /// The command has changed the schema.
    pub fn refresh(&mut self, tables: BTreeMap<String, Definition>) {
        let prepaid = self.prepaid;
        self.begin(Some(tables));
        self.prepaid = prepaid;
    }

    /// What a text costs that a statement gives to these tables, each so many times; it counts as paid. `is_paid_by_row`: it will be
    /// paid for when its row is written.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn price(
        &mut self,
        filled: &[(String, u64)],
        text: Length,
        is_paid_by_row: bool,
    ) -> std::result::Result<u64, String> {
        let definitions: Vec<(Definition, u64)> = filled
            .iter()
            .filter_map(|(name, times)| self.tables.get(name).map(|table| (table.definition, *times)))
            .collect();
        let indexes: u64 = definitions.iter().map(|(definition, times)| definition.indexes * times).sum();
        if definitions.iter().map(|(_, times)| times).sum::<u64>() > 1 && indexes > INDEXES_MAX {
            return Err(format!(
                "a statement writes with its triggers to {INDEXES_MAX} full-text indexes at most, prefix indexes among them, this one to \
                 {indexes}: use several statements"
            ));
        }
        if is_paid_by_row {
            return Ok(0);
        }
        let steps = |text| {
            definitions
                .iter()
                .fold(0, |sum: u64, (one, times)| sum.saturating_add(one.text_steps(text).saturating_mul(*times)))
        };
        let price = steps(text);
        if price > STEPS_MAX {
            let thousands = (1..).take_while(|n| steps(text.part(*n, 1_000)) <= STEPS_MAX).last().unwrap_or(0);
            return Err(format!(
                "this text is too long for the full-text indexes that it goes to: they take {} bytes of it in one statement, it has {}; \
                 split it into several rows",
                text.part(thousands, 1_000).bytes,
                text.bytes
            ));
        }
        self.prepaid = self.prepaid.saturating_add(price);
        Ok(price)
    }

    /// A row of one of FTS5's own tables was written: what that costs beyond what is paid for.
    pub fn row(&mut self, action: Action, name: &str, row: i64, is_long: bool) -> u64 {
        let Some((name, part)) = name.rsplit_once('_') else { return 0 };
        let Some(table) = self.tables.get_mut(name) else { return 0 };
        match part {
            "docsize" | "content" => {
                table.is_pending = true;
                let steps = if is_long { LONG_ROW } else { 0 };
                self.prepaid += steps;
                steps
            }
            "data" => {
                let steps = table.page(action, row);
                let paid = steps.min(self.prepaid);
                self.prepaid -= paid;
                steps - paid
            }
            _ => 0,
        }
    }
}

impl Table {
    fn page(&mut self, action: Action, row: i64) -> u64 {
        if action == Action::SQLITE_DELETE {
            return REMOVED_PAGE;
        }
        if row <= STRUCTURE_ROW {
            if row == STRUCTURE_ROW {
                (self.is_pending, self.flushed) = (false, None);
            }
            return REMOVED_PAGE;
        }
        let segment = row >> SEGMENT_SHIFT;
        let is_flush = self.is_pending || !self.definition.has_row_sizes;
        let (flushed, pages) = self.flushed.get_or_insert((segment, 0));
        // What is merged after a flush goes to other segments.
        if !is_flush || *flushed != segment {
            return MERGED_PAGE;
        }
        *pages += 1;
        match *pages {
            1 => FIRST_PAGE,
            pages => {
                let linear = if self.definition.is_trigram { TRIGRAM_PAGE } else { PAGE };
                linear + (2 * pages - 1) * PAGE_SQUARE / self.definition.indexes
            }
        }
    }
}

/// The definitions of all full-text tables.
///
/// # Errors
/// SQLite's.
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
    fn a_definition_tells_its_indexes() {
        let of = |arguments: &str| {
            let found = Definition::of(&format!("CREATE VIRTUAL TABLE \"a using\" USING fts5{arguments}")).unwrap();
            (found.indexes, found.is_trigram, found.has_row_sizes)
        };
        for (arguments, expected) in [
            ("(body)", (1, false, true)),
            ("(prefix, tokenize)", (1, false, true)),
            ("(a, prefix='1 2', pre = \"3,4\", P=5)", (6, false, true)),
            ("(a, tokenize = \"'Trigram' remove_diacritics 1\")", (1, true, true)),
            ("(a, tok=trigram, prefix='2')", (2, true, true)),
            ("(a, tokenize='porter unicode61', columnsize=0)", (1, false, false)),
        ] {
            assert_eq!(of(arguments), expected, "{arguments}");
        }
        assert_eq!(Definition::of("CREATE VIRTUAL TABLE r USING rtree(id, a, b)"), None);
        assert_eq!(Definition::of("CREATE VIRTUAL TABLE v USING fts5vocab(f, row)"), None);
        assert!(
            Definition::of("CREATE VIRTUAL TABLE v USING \"FTS5\"(a, prefix='1')").is_some_and(|it| it.indexes == 2)
        );
    }

    #[test]
    fn pages_of_a_flush_cost_more_than_those_of_a_merge() {
        let mut writes = FulltextWrites::default();
        let definition = Definition::of("CREATE VIRTUAL TABLE f USING fts5(a)").unwrap();
        writes.begin(Some(BTreeMap::from([("f".to_string(), definition)])));
        let insert = Action::SQLITE_INSERT;
        let page = |segment: i64, page: i64| (segment << SEGMENT_SHIFT) + page;
        assert_eq!(writes.row(insert, "f_data", page(1, 1), false), MERGED_PAGE, "nothing was collected");
        assert_eq!(writes.row(insert, "f_data", STRUCTURE_ROW, false), REMOVED_PAGE);
        assert_eq!(writes.row(insert, "f_docsize", 1, false), 0);
        assert_eq!(writes.row(insert, "f_data", page(2, 1), false), FIRST_PAGE);
        assert!(writes.row(insert, "f_data", page(2, 2), false) > PAGE);
        assert_eq!(writes.row(insert, "f_data", page(3, 1), false), MERGED_PAGE);
        assert_eq!(writes.row(insert, "g_data", page(3, 1), false), 0, "no full-text table");
        assert_eq!(writes.row(insert, "f_content", 1, true), LONG_ROW);
        assert_eq!(writes.row(insert, "f_data", page(4, 1), false), 0, "it is paid for");
    }
}
