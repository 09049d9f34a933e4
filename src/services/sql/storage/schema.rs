//! Reads the schema for code that visits every table: digest, dump and load.
//!
//! Not here: what that code does with it.

use rusqlite::{Connection, Result};

/// Refuses a list of columns in which SQLite has generated a random name. SQLite does so for the fifth and further
/// columns of the same name, in a view, in a subquery and in a table created from a SELECT. Returns the reason.
pub fn random_name(columns: &[String]) -> Option<String> {
    let numbered = |name: &str| {
        let (name, number) = name.rsplit_once(':')?;
        Some((name.to_ascii_lowercase(), number.parse::<u32>().ok()?))
    };
    let numbers: Vec<_> = columns.iter().filter_map(|name| numbered(name)).collect();
    let found = numbers.iter().find(|(name, number)| *number > 3 && numbers.contains(&(name.clone(), 3)))?;
    Some(format!("column {} appears more than four times: name the columns with AS", found.0))
}

/// How a table stores its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableForm {
    /// By row id.
    Plain,
    /// By primary key (`WITHOUT ROWID`).
    WithoutRowid,
    /// A virtual table: its rows are stored in shadow tables.
    Virtual,
    /// A shadow table, which stores the rows of a virtual table.
    Shadow,
}

#[derive(Clone, Debug)]
pub struct Table {
    pub name: String,
    /// The `CREATE TABLE` statement.
    pub sql: String,
    pub form: TableForm,
    /// Columns with values of their own: hidden and generated columns are left out.
    pub columns: Vec<String>,
    /// A name of the row id that is not also the name of a column; `None` if there is no such name or no row id.
    pub rowid: Option<&'static str>,
}

impl Table {
    /// The row id, if there is one, and all columns, quoted and separated by commas.
    pub fn selected(&self) -> String {
        let columns = self.columns.iter().map(|column| quoted(column));
        self.rowid.map(str::to_string).into_iter().chain(columns).collect::<Vec<_>>().join(", ")
    }
}

/// A name as a quoted identifier.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// All tables in order of creation, `sqlite_sequence` last; without the internal table and the statistics tables.
pub fn tables(conn: &Connection) -> Result<Vec<Table>> {
    let mut select = conn.prepare_cached(
        "SELECT s.name, s.sql, l.type, l.wr FROM sqlite_schema s JOIN pragma_table_list l ON l.name = s.name AND l.schema = 'main' \
         WHERE s.type = 'table' AND s.name NOT IN ('sqlite_phalanx', '_phalanx') AND s.name NOT GLOB 'sqlite_stat*' \
         ORDER BY s.name = 'sqlite_sequence', s.rowid",
    )?;
    let found = select.query_map([], |row| {
        let (kind, without_rowid): (String, bool) = (row.get(2)?, row.get(3)?);
        let form = match kind.as_str() {
            "virtual" => TableForm::Virtual,
            "shadow" => TableForm::Shadow,
            _ if without_rowid => TableForm::WithoutRowid,
            _ => TableForm::Plain,
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

/// The table or view, and the definition, of each index, then of triggers and views: an order in which they can be
/// created.
pub fn others(conn: &Connection) -> Result<Vec<(String, String)>> {
    let mut select = conn.prepare_cached(
        "SELECT tbl_name, sql FROM sqlite_schema WHERE type IN ('index', 'trigger', 'view') AND sql IS NOT NULL \
         ORDER BY type <> 'index', rowid",
    )?;
    select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}
