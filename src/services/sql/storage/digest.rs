//! Fingerprints of the content: every definition, and the rows of every table, independent of the page layout.
//!
//! Not here: who compares them.

use super::own_table;
use super::schema::{self, TableForm, quoted};
use crate::services::sql::commands::Digest;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Result};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;

/// Bytes hashed between two calls of `rest`; each row counts [`ROW_BYTES`] in addition to its values.
const PIECE_BYTES: usize = 256 << 10;
const ROW_BYTES: usize = 128;

/// Hashes all definitions and every row of every table. Calls `rest` about every 256 KiB, so that the caller can pause.
pub fn take(conn: &Connection, index: u64, rest: &mut dyn FnMut()) -> Result<Digest> {
    let mut hash = Sha256::new();
    let mut select = conn.prepare_cached(
        "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE name <> 'sqlite_phalanx' ORDER BY type, name",
    )?;
    rows(&mut select, &mut hash, rest)?;
    for pragma in ["user_version", "application_id"] {
        let mut select = conn.prepare_cached(&format!("PRAGMA {pragma}"))?;
        rows(&mut select, &mut hash, rest)?;
    }
    hash.update(
        postcard::to_stdvec(&(own_table::staged(conn)?, own_table::plan(conn)?))
            .expect("encoding into memory cannot fail"),
    );
    if own_table::has_foreign_keys(conn)? {
        hash.update("foreign keys");
    }
    let mut tables = BTreeMap::new();
    for table in schema::tables(conn)? {
        if table.form == TableForm::Virtual {
            continue;
        }
        let mut hash = Sha256::new();
        // In the order of the table itself: an index that covers every column would give another order.
        let sql = format!("SELECT {} FROM {} NOT INDEXED", table.selected(), quoted(&table.name));
        rows(&mut conn.prepare(&sql)?, &mut hash, rest)?;
        tables.insert(table.name, short(hash));
    }
    Ok(Digest { index, schema: short(hash), tables })
}

fn short(hash: Sha256) -> u64 {
    u64::from_le_bytes(hash.finalize()[..8].try_into().expect("a SHA-256 hash has 32 bytes"))
}

fn rows(select: &mut rusqlite::Statement<'_>, hash: &mut Sha256, rest: &mut dyn FnMut()) -> Result<()> {
    let columns = select.column_count();
    let mut rows = select.query([])?;
    let mut work = 0;
    while let Some(row) = rows.next()? {
        work += ROW_BYTES;
        if work >= PIECE_BYTES {
            work = 0;
            rest();
        }
        for place in 0..columns {
            let (kind, bytes): (u8, &[u8]) = match row.get_ref(place)? {
                ValueRef::Null => (0, &[]),
                ValueRef::Integer(number) => (1, &number.to_le_bytes()),
                ValueRef::Real(number) => (2, &number.to_bits().to_le_bytes()),
                ValueRef::Text(text) => (3, text),
                ValueRef::Blob(blob) => (4, blob),
            };
            work += bytes.len();
            hash.update([kind]);
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        }
    }
    Ok(())
}
