//! Looks at the schema for those who walk over every table: digest, dump and load.
//!
//! Not here: what they do with it.

use rusqlite::{Connection, Result};

/// Why a list of columns is refused, if SQLite has named one of them by chance: it does so when the same name comes for the fifth
/// time, in a view, a subquery or a table that is made of a SELECT.
pub fn random_name(columns: &[String]) -> Option<String> {
    let numbered = |name: &str| {
        let (name, number) = name.rsplit_once(':')?;
        Some((name.to_ascii_lowercase(), number.parse::<u32>().ok()?))
    };
    let numbers: Vec<_> = columns.iter().filter_map(|name| numbered(name)).collect();
    let found = numbers.iter().find(|(name, number)| *number > 3 && numbers.contains(&(name.clone(), 3)))?;
    Some(format!("column {} appears more than four times: name the columns with AS", found.0))
}

/// How a table keeps its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// By row number.
    Plain,
    /// By primary key.
    WithoutRowid,
    /// Virtual: its module keeps them elsewhere.
    Virtual,
    /// Where a virtual table keeps them.
    Shadow,
}

/// A table.
#[derive(Clone, Debug)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// Its definition.
    pub sql: String,
    /// How it keeps its rows.
    pub form: Form,
    /// Columns that hold something of their own.
    pub columns: Vec<String>,
    /// A name for the row number that no column has.
    pub rowid: Option<&'static str>,
}

impl Table {
    /// Its row number, if it has any, and columns, in quotes.
    pub fn selected(&self) -> String {
        let columns = self.columns.iter().map(|column| quoted(column));
        self.rowid.map(str::to_string).into_iter().chain(columns).collect::<Vec<_>>().join(", ")
    }
}

/// A name in quotes.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Every table in the order in which they were made, `sqlite_sequence` last; not our own, and no statistics.
pub fn tables(conn: &Connection) -> Result<Vec<Table>> {
    let mut select = conn.prepare_cached(
        "SELECT s.name, s.sql, l.type, l.wr FROM sqlite_schema s JOIN pragma_table_list l ON l.name = s.name AND l.schema = 'main' \
         WHERE s.type = 'table' AND s.name NOT IN ('sqlite_phalanx', '_phalanx') AND s.name NOT GLOB 'sqlite_stat*' \
         ORDER BY s.name = 'sqlite_sequence', s.rowid",
    )?;
    let found = select.query_map([], |row| {
        let (kind, without_rowid): (String, bool) = (row.get(2)?, row.get(3)?);
        let form = match kind.as_str() {
            "virtual" => Form::Virtual,
            "shadow" => Form::Shadow,
            _ if without_rowid => Form::WithoutRowid,
            _ => Form::Plain,
        };
        Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, form, without_rowid))
    })?;
    let mut tables = Vec::new();
    for found in found {
        let (name, sql, form, without_rowid) = found?;
        let mut select = conn.prepare_cached("SELECT name FROM pragma_table_xinfo(?) WHERE hidden = 0")?;
        let columns = select.query_map([&name], |row| row.get(0))?.collect::<Result<Vec<String>>>()?;
        let is_free = |rowid: &&str| !columns.iter().any(|column| column.eq_ignore_ascii_case(rowid));
        let rowid = if without_rowid { None } else { ["rowid", "_rowid_", "oid"].into_iter().find(is_free) };
        tables.push(Table { name, sql, form, columns, rowid });
    }
    Ok(tables)
}

/// Definitions of everything else, in an order in which they can be made: indexes, then triggers and views.
pub fn others(conn: &Connection) -> Result<Vec<String>> {
    let mut select = conn.prepare_cached(
        "SELECT sql FROM sqlite_schema WHERE type IN ('index', 'trigger', 'view') AND sql IS NOT NULL \
         ORDER BY type <> 'index', rowid",
    )?;
    select.query_map([], |row| row.get(0))?.collect()
}
