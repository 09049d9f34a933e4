//! What it costs to change the schema, and how large a schema may become.
//!
//! SQLite works with the whole schema in single steps that nobody counts: it looks through it for each new definition, and ALTER TABLE
//! parses all of it, several times. So a statement that changes the schema pays for the schema's size before it runs.
//!
//! Invariant: D1 what is charged follows from the statement and the schema alone: it is the same on every node.
//! Not here: what the program of such a statement costs (`price.rs`).

use super::machine::Own;
use super::statement::{Trouble, words};
use super::watch::Watch;
use super::{gears, statement};
use rusqlite::Connection;

/// Tables, indexes, views and triggers of a database, with those that SQLite makes by itself.
const OBJECTS_MAX: u64 = 5_000;
/// Bytes of all definitions.
const BYTES_MAX: u64 = 2 << 20;
/// What any change costs, and for each object that there is.
const CHANGE_STEPS: u64 = 150_000;
const STEPS_PER_OBJECT: u64 = 300;
/// What a comma of a statement costs, which may stand between two columns, and the square of their number.
const STEPS_PER_COMMA: u64 = 3_000;
/// What ALTER TABLE costs: by itself, for each object of the schema, for each comma in their definitions, and for each byte of those.
struct Alter {
    once: u64,
    object: u64,
    comma: u64,
    byte: u64,
}

const ADD: Alter = Alter { once: 400_000, object: 6_000, comma: 1_500, byte: 50 };
/// To rename or to remove something: each definition is parsed again and searched for the name.
const RENAME: Alter = Alter { once: 2_000_000, object: 30_000, comma: 10_000, byte: 300 };

/// How large a schema is.
struct Size {
    objects: u64,
    bytes: u64,
    /// In all definitions; known for ALTER TABLE alone.
    commas: u64,
}

/// Charges for a statement that changes the schema.
///
/// # Errors
/// The budget has not so much, or the schema is as large as it may be.
pub fn charge(conn: &Connection, watch: &Watch, sql: &str, gear: usize) -> Result<(), Trouble> {
    let mut verbs = words(sql).map(<[u8]>::to_ascii_lowercase);
    let verb = verbs.next().unwrap_or_default();
    let size = size(conn, watch, gear, verb == b"alter").map_err(|error| statement::trouble(watch, &error))?;
    let Size { objects, bytes, .. } = size;
    let own_bytes = sql.len() as u64;
    let commas = sql.bytes().filter(|byte| *byte == b',').count() as u64;
    let mut steps = CHANGE_STEPS + objects * STEPS_PER_OBJECT + commas * STEPS_PER_COMMA + commas * commas;
    if verb == b"alter" {
        // A new name is written wherever the old one stands.
        let touched = bytes + objects * own_bytes;
        let Alter { once, object, comma, byte } =
            if verbs.any(|word| word == b"rename" || word == b"drop") { RENAME } else { ADD };
        steps += once + objects * object + size.commas * comma + touched * byte;
    }
    if !watch.charge(steps) {
        return Err(Trouble::RanAway);
    }
    let grows = verb == b"create" || verb == b"alter";
    if grows && (objects >= OBJECTS_MAX || bytes + own_bytes > BYTES_MAX) {
        return Err(Trouble::Failed(format!(
            "a database has {OBJECTS_MAX} tables, indexes, views and triggers and {BYTES_MAX} bytes of definitions at most, this one has \
             {objects} and {bytes}: drop some of them first"
        )));
    }
    Ok(())
}

fn size(conn: &Connection, watch: &Watch, gear: usize, counts_commas: bool) -> rusqlite::Result<Size> {
    let _own = Own::begin(watch);
    let commas = if counts_commas { "total(octet_length(sql) - octet_length(replace(sql, ',', '')))" } else { "0.0" };
    let select = format!("SELECT count(*), total(octet_length(sql)), {commas} FROM main.sqlite_schema");
    gears::at_any_length(conn, gear, || {
        let number = |row: &rusqlite::Row<'_>, place| row.get::<_, f64>(place).map(|number| number as u64);
        conn.prepare_cached(&select)?.query_row([], |row| {
            Ok(Size { objects: row.get::<_, i64>(0)?.unsigned_abs(), bytes: number(row, 1)?, commas: number(row, 2)? })
        })
    })?
}
