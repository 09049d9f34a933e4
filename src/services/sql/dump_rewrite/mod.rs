//! Rewrites a dump of sqlite3 that has virtual tables into statements that any client may send.
//!
//! The tool writes a virtual table as a row of the schema table and as the rows of its shadow tables, neither of which a
//! statement can write here. Instead the end of the script, before its COMMIT, creates the table and inserts into it what
//! its shadow tables say of its rows: the content of a full-text table, the leaves of an r-tree. A full-text table over
//! another table is rebuilt from that table. What shadow tables say of indexes is left out: SQLite builds them.
//!
//! This happens at the node that receives a dump, before the log. It happens at the end of the script because rows of
//! other tables cost more after a virtual table was created, and because a full-text table may be over a view.
//!
//! Invariants: W1 nothing relies on this code: its result is a script like any other, which every node runs with the
//! authorizer, the budget and SQLite's defensive mode. W2 a dump without rows of the schema table is left as it is.
//! W3 time is in proportion to the length of the text, except for one sort of the r-trees' rows; memory is too, and the
//! result has at most [`RUN_BYTES_MAX`] bytes.
//! Not here: lines that every node understands (`services/sql/storage/dump_lines.rs`), definitions of virtual tables
//! (`definition.rs`), nodes of r-trees (`rtree.rs`), the script on its way (`script.rs`).

mod definition;
mod rtree;
mod script;
#[cfg(test)]
mod tests;
mod values;

use self::definition::{Content, Definition, VirtualTable};
use self::rtree::Rtree;
use self::script::Script;
use self::values::{first_literal, schema_row, values};
use super::budget::schema_changes::VIRTUAL_MAX;
use super::storage::dump_lines::{SCHEMA_TABLES, TriggerBodies, is_schema_table, name_after};
use super::storage::schema::quoted;
use super::tokens::{contains_any, is_keyword, parts, words};
use std::borrow::Cow;
use std::collections::BTreeMap;

#[cfg(doc)]
use super::commands::RUN_BYTES_MAX;

/// The script that recreates what a dump holds.
///
/// # Errors
/// The reason if the dump cannot be expressed in statements.
pub fn rewritten(sql: &str) -> Result<Cow<'_, str>, String> {
    if !contains_any(sql.as_bytes(), &SCHEMA_TABLES) {
        return Ok(Cow::Borrowed(sql));
    }
    let tables = tables(sql)?;
    if tables.is_empty() {
        return Ok(Cow::Borrowed(sql));
    }
    let mut rewriter = Rewriter { tables, script: Script::default() };
    let mut bodies = TriggerBodies::default();
    for part in parts(sql) {
        match bodies.contain(part) {
            true => rewriter.script.keep(part)?,
            false => rewriter.part(part)?,
        }
    }
    rewriter.complete()?;
    Ok(Cow::Owned(rewriter.script.text()))
}

/// A virtual table of the dump.
struct Table<'a> {
    definition: Definition,
    /// The row that defines it was seen.
    is_defined: bool,
    /// The script creates it and its rows.
    is_complete: bool,
    /// Of a full-text table: rows of its content and its settings, from the word VALUES on.
    content: Vec<&'a str>,
    settings: Vec<&'a str>,
    /// The rows of an r-tree.
    rtree: Rtree<'a>,
}

/// All virtual tables that a dump defines, by their names in lower case. The definition of one may follow its shadow
/// tables: VACUUM changes the order.
fn tables(sql: &str) -> Result<BTreeMap<String, Table<'_>>, String> {
    let mut tables = BTreeMap::new();
    let mut bodies = TriggerBodies::default();
    for part in parts(sql) {
        if bodies.contain(part) {
            continue;
        }
        let Some((_, rest)) = name_after(part, &["insert", "into"]).filter(|(name, _)| is_schema_table(name)) else {
            continue;
        };
        let definition = defined(rest)?;
        let name = definition.name.clone();
        let table = Table {
            definition,
            is_defined: false,
            is_complete: false,
            content: Vec::new(),
            settings: Vec::new(),
            rtree: Rtree::default(),
        };
        if tables.insert(name.to_ascii_lowercase(), table).is_some() {
            return Err(format!("this dump defines virtual table {name:.200} twice"));
        }
        if tables.len() as u64 > VIRTUAL_MAX {
            return Err(format!("a database has at most {VIRTUAL_MAX} virtual tables: this dump defines more"));
        }
    }
    Ok(tables)
}

/// The definition in a row of the schema table. `rest`: what follows the table's name.
fn defined(rest: &str) -> Result<Definition, String> {
    let (name, sql) = schema_row(rest).ok_or(
        "a dump may write a row of the schema table only to define a virtual table, in the form that sqlite3 uses",
    )?;
    Definition::of(name, sql)
}

struct Rewriter<'a> {
    tables: BTreeMap<String, Table<'a>>,
    script: Script,
}

impl<'a> Rewriter<'a> {
    /// Takes a part of the dump outside of triggers.
    fn part(&mut self, part: &'a str) -> Result<(), String> {
        if let Some((name, rest)) = name_after(part, &["insert", "into"]) {
            if is_schema_table(&name) {
                let name = defined(rest)?.name.to_ascii_lowercase();
                self.tables.entry(name).and_modify(|table| table.is_defined = true);
                return Ok(());
            }
            if let Some((table, shadow)) = shadow(&mut self.tables, &name) {
                return take(table, shadow, values(rest));
            }
        } else if created_table(part).is_some_and(|name| shadow(&mut self.tables, &name).is_some()) {
            return Ok(());
        } else if words(part).next().is_some_and(|word| is_keyword(word, "commit") || is_keyword(word, "end")) {
            self.complete()?;
        }
        self.script.keep(part)
    }

    /// Adds the virtual tables that were defined.
    fn complete(&mut self) -> Result<(), String> {
        let script = &mut self.script;
        let mut open: Vec<&mut Table<'_>> =
            self.tables.values_mut().filter(|table| table.is_defined && !table.is_complete).collect();
        for table in &mut open {
            table.is_complete = true;
            script.add(&[&table.definition.sql])?;
            table.insert_rows(script)?;
        }
        for table in open {
            if let VirtualTable::Fulltext { content: Content::Elsewhere, .. } = table.definition.form {
                let name = quoted(&table.definition.name);
                script.add(&["INSERT INTO ", &name, "(", &name, ") VALUES('rebuild')"])?;
            }
        }
        Ok(())
    }
}

impl Table<'_> {
    fn insert_rows(&self, script: &mut Script) -> Result<(), String> {
        let Definition { name, form, .. } = &self.definition;
        let quoted = quoted(name);
        match form {
            VirtualTable::Fulltext { columns, .. } => {
                for values in &self.content {
                    script.add(&["INSERT INTO ", &quoted, "(rowid", columns, ") ", values])?;
                }
                for values in &self.settings {
                    script.add(&["INSERT INTO ", &quoted, "(", &quoted, ",rank) ", values])?;
                }
                Ok(())
            }
            VirtualTable::Rtree { coordinates, is_integer } => {
                self.rtree.insert_all(name, *coordinates, *is_integer, script)
            }
            VirtualTable::Vocabulary => Ok(()),
        }
    }
}

/// The name of the table that a statement creates.
fn created_table(part: &str) -> Option<String> {
    let may_exist = name_after(part, &["create", "table", "if", "not", "exists"]);
    may_exist.or_else(|| name_after(part, &["create", "table"])).map(|(name, _)| name)
}

/// The virtual table to which a shadow table belongs, and what that one is for.
fn shadow<'t, 'a>(
    tables: &'t mut BTreeMap<String, Table<'a>>,
    name: &str,
) -> Option<(&'t mut Table<'a>, &'static str)> {
    let (table, shadow) = name.rsplit_once('_')?;
    let table = tables.get_mut(&table.to_ascii_lowercase())?;
    let shadows = table.definition.shadows();
    let shadow = shadows.into_iter().find(|one| one.eq_ignore_ascii_case(shadow))?;
    Some((table, shadow))
}

/// Takes what is needed of a row of a shadow table. `values`: its statement from the word VALUES on.
fn take<'a>(table: &mut Table<'a>, shadow: &'static str, values: Option<&'a str>) -> Result<(), String> {
    let name = &table.definition.name;
    let damaged = || format!("a row of shadow table {name:.200}_{shadow} is not written as sqlite3 writes it");
    if table.is_complete {
        return Err(format!("a row of shadow table {name:.200}_{shadow} follows the COMMIT of the dump"));
    }
    let values = values.ok_or_else(damaged)?;
    match (&table.definition.form, shadow) {
        (VirtualTable::Fulltext { content: Content::None, .. }, "content" | "docsize" | "idx") => Err(format!(
            "full-text table {name:.200} has an index without content, which cannot be loaded as text: make a file of \
             the dump (sqlite3 new.sqlite < dump.sql) and load that"
        )),
        (VirtualTable::Fulltext { .. }, "content") => {
            table.content.push(values);
            Ok(())
        }
        // The version of the format is that of the program that writes it.
        (VirtualTable::Fulltext { .. }, "config") if first_literal(values).as_deref() != Some("version") => {
            table.settings.push(values);
            Ok(())
        }
        (VirtualTable::Rtree { .. }, "node") => table.rtree.node(values).ok_or_else(damaged),
        (VirtualTable::Rtree { .. }, "rowid") => table.rtree.row(values).ok_or_else(damaged),
        _ => Ok(()),
    }
}
