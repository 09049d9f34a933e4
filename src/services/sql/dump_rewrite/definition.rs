//! Definitions of virtual tables: which shadow tables belong to one, and where its rows are.
//!
//! What is read wrongly here leads to a statement that SQLite refuses, or to rows that it does: see W1 in `mod.rs`.

use crate::services::sql::storage::dump_lines::{leading_name, name_after};
use crate::services::sql::storage::schema::quoted;
use crate::services::sql::tokens::{parts, tokens};

/// Options of a full-text table in the order in which FTS5 looks for the first that begins with what is written.
const OPTIONS: [&str; 10] = [
    "prefix",
    "tokenize",
    "content",
    "contentless_delete",
    "contentless_unindexed",
    "content_rowid",
    "columnsize",
    "locale",
    "detail",
    "tokendata",
];

/// Where a full-text table keeps the texts that it indexes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    Own,
    /// In another table or view (`content='t'`).
    Elsewhere,
    /// Nowhere (`content=''`).
    None,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VirtualTable {
    Fulltext {
        /// `,"a","b"`
        columns: String,
        content: Content,
        /// It records how many words each row has.
        has_sizes: bool,
    },
    Rtree {
        /// Two for each dimension.
        coordinates: usize,
        is_integer: bool,
    },
    /// The words of a full-text table (`fts5vocab`).
    Vocabulary,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    pub name: String,
    /// The statement, with its semicolon.
    pub sql: String,
    pub form: VirtualTable,
}

impl Definition {
    /// Reads a definition. `name`: that of the table.
    ///
    /// # Errors
    /// The reason if it is not one statement that creates a table of that name, with a module that is available.
    pub fn of(name: String, sql: String) -> Result<Definition, String> {
        let sql = format!("{sql};");
        if !parts(&sql).eq([&sql, ""]) {
            return Err(format!("the definition of virtual table {name:.200} is not one statement without comments"));
        }
        let found = name_after(&sql, &["create", "virtual", "table"]).filter(|(found, _)| *found == name);
        let module = found.and_then(|(_, rest)| name_after(rest, &["using"]));
        let Some((module, rest)) = module else {
            return Err(format!(
                "the definition of virtual table {name:.200} does not create a virtual table of that name"
            ));
        };
        let arguments = arguments(rest);
        let form = match module.to_ascii_lowercase().as_str() {
            "fts5" => fulltext(&name, &arguments)?,
            "rtree" => rtree(&arguments, false),
            "rtree_i32" => rtree(&arguments, true),
            "fts5vocab" => VirtualTable::Vocabulary,
            _ => {
                return Err(format!(
                    "virtual table {name:.200} is of {module:.200}, which is not available, only fts5 and rtree are: leave \
                     it out of the dump, or create it with fts5"
                ));
            }
        };
        Ok(Definition { name, sql, form })
    }

    /// What the names of its shadow tables end with.
    pub fn shadows(&self) -> Vec<&'static str> {
        match &self.form {
            VirtualTable::Fulltext { content, has_sizes, .. } => {
                let mut shadows = vec!["data", "idx", "config"];
                shadows.extend((*content != Content::Elsewhere).then_some("content"));
                shadows.extend(has_sizes.then_some("docsize"));
                shadows
            }
            VirtualTable::Rtree { .. } => vec!["node", "parent", "rowid"],
            VirtualTable::Vocabulary => Vec::new(),
        }
    }
}

/// The arguments of a virtual table, split at commas outside of quotes and parentheses.
fn arguments(text: &str) -> Vec<&str> {
    let inner = text.trim_start().strip_prefix('(').and_then(|text| text.rsplit_once(')'));
    let Some((inner, _)) = inner else { return Vec::new() };
    let (mut found, mut begin, mut depth) = (Vec::new(), 0, 0_usize);
    for token in tokens(inner) {
        match token {
            b"(" => depth += 1,
            b")" => depth = depth.saturating_sub(1),
            b"," if depth == 0 => {
                let at = token.as_ptr().addr() - inner.as_ptr().addr();
                found.push(inner[begin..at].trim());
                begin = at + 1;
            }
            _ => {}
        }
    }
    found.push(inner[begin..].trim());
    found
}

fn rtree(arguments: &[&str], is_integer: bool) -> VirtualTable {
    let auxiliary = arguments.iter().filter(|argument| argument.starts_with('+')).count();
    VirtualTable::Rtree { coordinates: arguments.len().saturating_sub(auxiliary + 1), is_integer }
}

fn fulltext(name: &str, arguments: &[&str]) -> Result<VirtualTable, String> {
    let (mut columns, mut content, mut has_sizes) = (String::new(), Content::Own, true);
    for argument in arguments {
        let Some((word, rest)) = leading_name(argument) else { continue };
        let Some(value) = rest.trim_start().strip_prefix('=') else {
            columns.push(',');
            columns.push_str(&quoted(&word));
            continue;
        };
        let value = leading_name(value).map_or(String::new(), |(value, _)| value);
        let word = word.to_ascii_lowercase();
        match OPTIONS.into_iter().find(|option| option.starts_with(&word)) {
            Some("content") => content = if value.is_empty() { Content::None } else { Content::Elsewhere },
            Some("columnsize") => has_sizes = value != "0",
            Some("locale") if value != "0" => {
                return Err(format!("full-text table {name:.200} has the option locale, which is not available"));
            }
            _ => {}
        }
    }
    Ok(VirtualTable::Fulltext { columns, content, has_sizes })
}
