//! A dump: the statements that recreate the whole database, as sqlite3's `.dump` writes them.
//!
//! A virtual table is written as its own rows, not as the tables behind it, so that the dump can be loaded here as
//! well.
//! Not here: loading a dump (`load.rs`).

use super::schema::{self, Table, TableForm, quoted};
use rusqlite::Connection;
use rusqlite::types::ValueRef;
use std::io::{self, Write};

/// Writes a dump as SQL text, one statement per line: of all tables, or of those in `only` with their indexes and
/// triggers.
///
/// # Errors
/// The database cannot be read, `out` fails, or a table cannot be recreated by statements; in the last case nothing was
/// written.
pub fn write(conn: &Connection, only: &[String], out: &mut dyn Write) -> io::Result<()> {
    let mut tables = schema::tables(conn).map_err(io::Error::other)?;
    let is = |one: &str, other: &str| one.eq_ignore_ascii_case(other);
    let is_asked = |name: &str| only.is_empty() || only.iter().any(|one| is(one, name));
    if let Some(unknown) = only.iter().find(|one| !tables.iter().any(|table| is(&table.name, one))) {
        return Err(io::Error::other(format!("there is no table {unknown}")));
    }
    tables.retain(|table| is_asked(&table.name));
    if let Some(table) = tables.iter().find(|table| has_no_content(table)) {
        let why = "is a full-text index without content, which SQL cannot recreate: use fmt=binary";
        return Err(io::Error::other(format!("table {} {why}", table.name)));
    }
    writeln!(out, "PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;")?;
    for table in tables {
        match table.form {
            TableForm::Shadow => continue,
            _ if table.name == "sqlite_sequence" => writeln!(out, "DELETE FROM sqlite_sequence;")?,
            _ => writeln!(out, "{};", table.sql)?,
        }
        rows(conn, &table, out)?;
    }
    for (_, sql) in schema::others(conn).map_err(io::Error::other)?.iter().filter(|(table, _)| is_asked(table)) {
        writeln!(out, "{sql};")?;
    }
    let pragmas: &[&str] = if only.is_empty() { &["user_version", "application_id"] } else { &[] };
    for pragma in pragmas {
        let value: i64 = conn.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get(0)).map_err(io::Error::other)?;
        if value != 0 {
            writeln!(out, "PRAGMA {pragma}={value};")?;
        }
    }
    writeln!(out, "COMMIT;")
}

fn has_no_content(table: &Table) -> bool {
    let sql: String = table.sql.to_ascii_lowercase().split_whitespace().collect();
    table.form == TableForm::Virtual && (sql.contains("content=''") || sql.contains("content=\"\""))
}

fn rows(conn: &Connection, table: &Table, out: &mut dyn Write) -> io::Result<()> {
    let name = quoted(&table.name);
    let is_virtual = table.form == TableForm::Virtual;
    let columns: Vec<String> = table.columns.iter().map(|column| quoted(column)).collect();
    // Other tables may refer to the rows of a virtual table by row id.
    let rowid = table.rowid.filter(|_| is_virtual && !table.sql.to_ascii_lowercase().contains("rtree"));
    let selected: Vec<&str> = rowid.into_iter().chain(columns.iter().map(String::as_str)).collect();
    let selected = selected.join(",");
    let into = if is_virtual { format!("{name}({selected})") } else { name.clone() };
    let mut select = conn.prepare(&format!("SELECT {selected} FROM {name}")).map_err(io::Error::other)?;
    let count = select.column_count();
    let mut rows = select.query([]).map_err(io::Error::other)?;
    while let Some(row) = rows.next().map_err(io::Error::other)? {
        write!(out, "INSERT INTO {into} VALUES(")?;
        for place in 0..count {
            if place > 0 {
                write!(out, ",")?;
            }
            literal(row.get_ref(place).map_err(io::Error::other)?, out)?;
        }
        writeln!(out, ");")?;
    }
    Ok(())
}

fn literal(value: ValueRef<'_>, out: &mut dyn Write) -> io::Result<()> {
    match value {
        ValueRef::Null => write!(out, "NULL"),
        ValueRef::Integer(number) => write!(out, "{number}"),
        ValueRef::Real(number) if number == f64::INFINITY => write!(out, "9.0e+999"),
        ValueRef::Real(number) if number == f64::NEG_INFINITY => write!(out, "-9.0e+999"),
        // Rust writes the shortest digits that parse to exactly this number.
        ValueRef::Real(number) => write!(out, "{number:?}"),
        ValueRef::Text(text) => match std::str::from_utf8(text) {
            // A tool that reads line by line would treat a carriage return before a line feed as part of the line
            // ending.
            Ok(text) if !text.contains(['\0', '\r']) => write!(out, "'{}'", text.replace('\'', "''")),
            _ => {
                write!(out, "CAST(X'")?;
                hex(text, out)?;
                write!(out, "' AS TEXT)")
            }
        },
        ValueRef::Blob(blob) => {
            write!(out, "X'")?;
            hex(blob, out)?;
            write!(out, "'")
        }
    }
}

fn hex(bytes: &[u8], out: &mut dyn Write) -> io::Result<()> {
    bytes.iter().try_for_each(|byte| write!(out, "{byte:02X}"))
}
