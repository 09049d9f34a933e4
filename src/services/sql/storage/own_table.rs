//! The internal table of the database: which entries were applied, their replies, and the node that the file belongs
//! to.
//!
//! It changes in the same transactions as the tables of users, so that content and replies always agree. Row ids above
//! 0 are log entries: the replies to their commands. Row 0 is written at the beginning of each command, so that
//! `last_insert_rowid()` does not depend on the previous command. Negative row ids are single facts, and from -1000
//! downwards the pieces of a database file that is being loaded.
//!
//! All functions return SQLite's error if the table cannot be read or written.
//! Not here: who reads and writes it (`services/sql/writer.rs`).

use crate::services::Reply;
use crate::services::sql::budget::token_bucket::Allowance;
use rusqlite::config::DbConfig;
use rusqlite::types::ToSqlOutput;
use rusqlite::{Connection, OptionalExtension, Result, params};

/// Written at the beginning of a command.
const MARK: i64 = 0;
/// Replies to entries up to this index were removed.
const PRUNED: i64 = -1;
/// The node that the file belongs to.
const OWNER: i64 = -2;
/// The file that is being loaded, and its length so far.
const STAGED: i64 = -3;
/// The plan of the load, once all pieces have arrived.
const PLAN: i64 = -4;
/// How many steps requests may use.
const ALLOWANCE: i64 = -5;
/// Whether foreign keys are enforced.
const FOREIGN_KEYS: i64 = -6;
/// The first piece of the file; each further piece is one lower.
const PIECES: i64 = -1000;

/// Name of the table. SQLite itself prevents tables whose names begin with `sqlite_` from being dropped, altered and
/// indexed, and tools do not list them among the tables of a database.
pub const TABLE: &str = "sqlite_phalanx";
/// Name of the table before version 1.0.
pub const OLD_TABLE: &str = "_phalanx";

/// Creates the table, or renames the one of an older version, which changes nothing else in the file.
pub fn create(conn: &Connection) -> Result<()> {
    let mut select = conn.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name IN (?1, ?2)")?;
    let names = select.query_map([TABLE, OLD_TABLE], |row| row.get(0))?.collect::<Result<Vec<String>>>()?;
    drop(select);
    if names.iter().any(|name| name == TABLE) {
        return Ok(());
    }
    if names.is_empty() {
        return with_schema_writable(conn, &format!("CREATE TABLE {TABLE}(idx INTEGER PRIMARY KEY, data)"));
    }
    rename(conn, OLD_TABLE, TABLE)
}

/// Removes the table: the file then belongs to no node.
pub fn remove(conn: &Connection) -> Result<()> {
    // SQLite does not drop a table with its present name.
    rename(conn, TABLE, OLD_TABLE)?;
    conn.execute_batch(&format!("DROP TABLE {OLD_TABLE}"))
}

fn rename(conn: &Connection, from: &str, to: &str) -> Result<()> {
    with_schema_writable(
        conn,
        &format!(
            "UPDATE sqlite_schema SET name = '{to}', tbl_name = '{to}', \
             sql = 'CREATE TABLE {to}(idx INTEGER PRIMARY KEY, data)' WHERE type = 'table' AND name = '{from}'"
        ),
    )
}

/// Runs a statement that SQLite allows only while `writable_schema` is on. The schema is read again afterwards.
fn with_schema_writable(conn: &Connection, sql: &str) -> Result<()> {
    without_defence(conn, || {
        let done = conn.execute_batch(&format!("PRAGMA writable_schema = ON; {sql}"));
        done.and(conn.execute_batch("PRAGMA writable_schema = RESET"))
    })
}

/// Prepares and runs statements that write what SQLite protects: shadow tables and the schema.
pub fn without_defence<T>(conn: &Connection, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let is_defensive = conn.db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, false)?;
    let done = work();
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, is_defensive)?;
    done
}

/// Index of the newest entry; 0 if there is none.
pub fn newest(conn: &Connection) -> Result<u64> {
    let newest: Option<i64> = conn.query_row("SELECT max(idx) FROM sqlite_phalanx", [], |row| row.get(0))?;
    Ok(newest.map_or(0, |newest| newest.max(0).cast_unsigned()))
}

/// The replies to an entry's commands; `None` if the entry is not stored.
pub fn replies(conn: &Connection, index: u64) -> Result<Option<Vec<Reply>>> {
    let mut select = conn.prepare_cached("SELECT data FROM sqlite_phalanx WHERE idx = ?")?;
    let bytes: Option<Vec<u8>> = select.query_row([index.cast_signed()], |row| row.get(0)).optional()?;
    Ok(bytes.and_then(|bytes| postcard::from_bytes(&bytes).ok()))
}

/// Stores the replies to an entry's commands.
pub fn record(conn: &Connection, index: u64, replies: &[Reply]) -> Result<()> {
    let bytes = postcard::to_stdvec(replies).expect("encoding into memory cannot fail");
    let mut insert = conn.prepare_cached("INSERT OR REPLACE INTO sqlite_phalanx(idx, data) VALUES(?, ?)")?;
    insert.execute(params![index.cast_signed(), bytes]).map(drop)
}

/// Resets `last_insert_rowid()` and `changes()` of the connection.
pub fn mark(conn: &Connection) -> Result<()> {
    conn.prepare_cached("INSERT OR REPLACE INTO sqlite_phalanx(idx, data) VALUES(?, NULL)")?.execute([MARK])?;
    conn.prepare_cached("DELETE FROM sqlite_phalanx WHERE idx IS NULL")?.execute([]).map(drop)
}

fn fact(conn: &Connection, row: i64) -> Result<Option<rusqlite::types::Value>> {
    conn.query_row("SELECT data FROM sqlite_phalanx WHERE idx = ?", [row], |row| row.get(0)).optional()
}

fn set(conn: &Connection, row: i64, data: impl rusqlite::ToSql) -> Result<()> {
    conn.execute("INSERT OR REPLACE INTO sqlite_phalanx(idx, data) VALUES(?, ?)", params![row, data]).map(drop)
}

/// Index up to which replies were removed.
pub fn pruned_to(conn: &Connection) -> Result<u64> {
    Ok(match fact(conn, PRUNED)? {
        Some(rusqlite::types::Value::Integer(index)) => index.max(0).cast_unsigned(),
        _ => 0,
    })
}

/// Removes the replies up to an index, except those of the newest entry, whose index tells how far the file is.
pub fn prune(conn: &Connection, to: u64) -> Result<()> {
    conn.execute(
        "DELETE FROM sqlite_phalanx WHERE idx > 0 AND idx <= ? AND idx < (SELECT max(idx) FROM sqlite_phalanx)",
        [to.cast_signed()],
    )?;
    set(conn, PRUNED, to.cast_signed())
}

/// The node that the file belongs to.
pub fn owner(conn: &Connection) -> Result<Option<String>> {
    Ok(match fact(conn, OWNER)? {
        Some(rusqlite::types::Value::Text(owner)) => Some(owner),
        _ => None,
    })
}

/// Records the node that the file belongs to.
pub fn set_owner(conn: &Connection, owner: &str) -> Result<()> {
    set(conn, OWNER, owner)
}

/// How many steps requests may use.
pub fn allowance(conn: &Connection) -> Result<Allowance> {
    Ok(read(conn, ALLOWANCE)?.unwrap_or_default())
}

/// Records how many steps requests may use.
pub fn set_allowance(conn: &Connection, allowance: Allowance) -> Result<()> {
    let bytes = postcard::to_stdvec(&allowance).expect("encoding into memory cannot fail");
    let mut insert = conn.prepare_cached("INSERT OR REPLACE INTO sqlite_phalanx(idx, data) VALUES(?, ?)")?;
    insert.execute(params![ALLOWANCE, bytes]).map(drop)
}

/// Whether foreign keys are enforced.
pub fn has_foreign_keys(conn: &Connection) -> Result<bool> {
    Ok(fact(conn, FOREIGN_KEYS)? == Some(rusqlite::types::Value::Integer(1)))
}

/// Records whether foreign keys are enforced. Connections that read notice it as a change of the schema.
pub fn set_foreign_keys(conn: &Connection, are_enforced: bool) -> Result<()> {
    set(conn, FOREIGN_KEYS, are_enforced)?;
    let version: i64 = conn.query_row("PRAGMA schema_version", [], |row| row.get(0))?;
    without_defence(conn, || conn.execute_batch(&format!("PRAGMA schema_version = {}", version.wrapping_add(1) as i32)))
}

/// A file that is being loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Staged {
    /// Identifies the file; drawn by the endpoint.
    pub load: u64,
    /// Bytes received so far.
    pub bytes: u64,
    /// Pieces received so far.
    pub pieces: u64,
    /// Pieces of earlier files that are stored before the first piece of this one.
    pub before: u64,
}

/// A file all of whose pieces have arrived, and what its database is computed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LoadPlan {
    /// Identifies the file.
    pub load: u64,
    /// Length of the file.
    pub bytes: u64,
    /// CRC-32 of the whole file.
    pub crc: u32,
    /// Seed of `random()`.
    pub seed: u64,
    /// Time of `now`, in milliseconds since 1970.
    pub at_ms: u64,
}

/// The file that is being loaded.
pub fn staged(conn: &Connection) -> Result<Option<Staged>> {
    read(conn, STAGED)
}

/// The plan of the load, if all pieces have arrived.
pub fn plan(conn: &Connection) -> Result<Option<LoadPlan>> {
    read(conn, PLAN)
}

/// Records the plan of the load.
pub fn set_plan(conn: &Connection, plan: LoadPlan) -> Result<()> {
    set(conn, PLAN, postcard::to_stdvec(&plan).expect("encoding into memory cannot fail"))
}

fn read<T: serde::de::DeserializeOwned>(conn: &Connection, row: i64) -> Result<Option<T>> {
    Ok(match fact(conn, row)? {
        Some(rusqlite::types::Value::Blob(bytes)) => postcard::from_bytes(&bytes).ok(),
        _ => None,
    })
}

/// Begins a new file. Pieces of earlier files remain until they are removed by [`sweep`].
pub fn begin_load(conn: &Connection, load: u64) -> Result<Staged> {
    forget_load(conn)?;
    let last: i64 = conn.query_row("SELECT coalesce(min(idx), 0) FROM sqlite_phalanx", [], |row| row.get(0))?;
    let before = (PIECES - last + 1).max(0).cast_unsigned();
    Ok(Staged { load, before, ..Staged::default() })
}

/// Appends a piece to the file.
pub fn stage(conn: &Connection, so_far: Staged, bytes: &[u8]) -> Result<()> {
    let place = PIECES - (so_far.before + so_far.pieces).cast_signed();
    conn.execute("INSERT OR REPLACE INTO sqlite_phalanx(idx, data) VALUES(?, ?)", params![place, bytes])?;
    let staged = Staged { bytes: so_far.bytes + bytes.len() as u64, pieces: so_far.pieces + 1, ..so_far };
    set(conn, STAGED, postcard::to_stdvec(&staged).expect("encoding into memory cannot fail"))
}

/// Passes all pieces to `take`, in order.
pub fn gather(
    conn: &Connection,
    staged: Staged,
    mut take: impl FnMut(&[u8]) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let first = PIECES - staged.before.cast_signed();
    let mut each = || -> Result<std::io::Result<()>> {
        let mut select =
            conn.prepare("SELECT data FROM sqlite_phalanx WHERE idx <= ? AND idx > ? ORDER BY idx DESC")?;
        let mut rows = select.query([first, first - staged.pieces.cast_signed()])?;
        while let Some(row) = rows.next()? {
            if let Err(error) = take(row.get_ref(0)?.as_blob().unwrap_or_default()) {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    };
    each().map_err(std::io::Error::other)?
}

/// Abandons the file that is being loaded. Its pieces remain until they are removed by [`sweep`].
pub fn forget_load(conn: &Connection) -> Result<()> {
    conn.execute("DELETE FROM sqlite_phalanx WHERE idx IN (?, ?)", [STAGED, PLAN]).map(drop)
}

/// Removes one piece of an abandoned file; removing all of them at once would take long. Returns whether others are
/// left.
pub fn sweep(conn: &Connection) -> Result<bool> {
    let before = staged(conn)?.map_or(i64::MAX, |staged| staged.before.cast_signed());
    let last = PIECES.saturating_sub(before);
    let find = "SELECT idx FROM sqlite_phalanx WHERE idx <= ? AND idx > ? ORDER BY idx DESC LIMIT 2";
    let found: Vec<i64> =
        conn.prepare_cached(find)?.query_map([PIECES, last], |row| row.get(0))?.collect::<Result<_>>()?;
    if let Some(place) = found.first() {
        conn.prepare_cached("DELETE FROM sqlite_phalanx WHERE idx = ?")?.execute([place])?;
    }
    Ok(found.len() > 1)
}

/// Copies the replies to entries after `after` into another file; returns the index of the newest entry copied.
pub fn copy_entries(from: &Connection, to: &Connection, after: u64) -> Result<u64> {
    let mut select = from.prepare_cached("SELECT idx, data FROM sqlite_phalanx WHERE idx > ? ORDER BY idx")?;
    let mut insert = to.prepare_cached("INSERT OR REPLACE INTO sqlite_phalanx(idx, data) VALUES(?, ?)")?;
    let mut rows = select.query([after.cast_signed()])?;
    let mut newest = after;
    while let Some(row) = rows.next()? {
        let index: i64 = row.get(0)?;
        insert.execute(params![index, ToSqlOutput::Borrowed(row.get_ref(1)?)])?;
        newest = index.cast_unsigned();
    }
    Ok(newest)
}

/// Copies the owner, the settings, the allowance, and the index up to which replies were removed into another file.
pub fn copy_facts(from: &Connection, to: &Connection) -> Result<()> {
    for row in [OWNER, PRUNED, ALLOWANCE, FOREIGN_KEYS] {
        if let Some(data) = fact(from, row)? {
            set(to, row, data)?;
        }
    }
    Ok(())
}
