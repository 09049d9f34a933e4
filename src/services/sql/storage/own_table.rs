//! The one table of our own in the database: which entries were applied, what they answered, and whose file it is.
//!
//! It changes in the same transactions as the tables of the users, so that file and journal never disagree. Rows above 0 are
//! entries of the log: the replies to their commands. Row 0 is written at the beginning of each command, so that
//! `last_insert_rowid()` does not tell of the command before. Rows below are single facts, and far below lie the pieces of a
//! database file that is being loaded.
//! Not here: who asks (`services/sql/writer.rs`).

use crate::services::Reply;
use crate::services::sql::budget::allowance::Allowance;
use rusqlite::config::DbConfig;
use rusqlite::types::ToSqlOutput;
use rusqlite::{Connection, OptionalExtension, Result, params};

/// A command begins.
const MARK: i64 = 0;
/// Replies up to this entry were removed.
const PRUNED: i64 = -1;
/// Whose file it is.
const OWNER: i64 = -2;
/// Which file is being loaded, and how long it is so far.
const STAGED: i64 = -3;
/// What that file is to be made into, when all of it has come.
const PLAN: i64 = -4;
/// How much requests may do.
const ALLOWANCE: i64 = -5;
/// The first piece of it; the next one is one lower.
const PIECES: i64 = -1000;

/// Its name. SQLite itself keeps names that begin with `sqlite_` from being dropped, altered and indexed, and tools that list the
/// tables of a database leave them out.
pub const TABLE: &str = "sqlite_phalanx";
/// What versions before 1.0 called it.
pub const OLD_TABLE: &str = "_phalanx";

/// Makes the table, or gives the one of an older version its present name: nothing else of the file changes then.
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

/// Removes the table: the file belongs to no node any more.
pub fn remove(conn: &Connection) -> Result<()> {
    // Under its present name SQLite would not drop it.
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

/// Runs a statement that SQLite allows only where the schema may be written. The schema is read again afterwards.
fn with_schema_writable(conn: &Connection, sql: &str) -> Result<()> {
    let is_defensive = conn.db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, false)?;
    let done = conn.execute_batch(&format!("PRAGMA writable_schema = ON; {sql}"));
    let reset = conn.execute_batch("PRAGMA writable_schema = RESET");
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, is_defensive)?;
    done.and(reset)
}

/// The newest entry; 0 if there is none.
pub fn newest(conn: &Connection) -> Result<u64> {
    let newest: Option<i64> = conn.query_row("SELECT max(idx) FROM sqlite_phalanx", [], |row| row.get(0))?;
    Ok(newest.map_or(0, |newest| newest.max(0).cast_unsigned()))
}

/// What an entry's commands answered; `None`: there is no such entry.
pub fn replies(conn: &Connection, index: u64) -> Result<Option<Vec<Reply>>> {
    let mut select = conn.prepare_cached("SELECT data FROM sqlite_phalanx WHERE idx = ?")?;
    let bytes: Option<Vec<u8>> = select.query_row([index.cast_signed()], |row| row.get(0)).optional()?;
    Ok(bytes.and_then(|bytes| postcard::from_bytes(&bytes).ok()))
}

/// Keeps what an entry's commands answered.
pub fn record(conn: &Connection, index: u64, replies: &[Reply]) -> Result<()> {
    let bytes = postcard::to_stdvec(replies).expect("encoding into memory cannot fail");
    let mut insert = conn.prepare_cached("INSERT OR REPLACE INTO sqlite_phalanx(idx, data) VALUES(?, ?)")?;
    insert.execute(params![index.cast_signed(), bytes]).map(drop)
}

/// Makes the connection forget what the command before did.
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

/// Up to which entry replies were removed.
pub fn pruned_to(conn: &Connection) -> Result<u64> {
    Ok(match fact(conn, PRUNED)? {
        Some(rusqlite::types::Value::Integer(index)) => index.max(0).cast_unsigned(),
        _ => 0,
    })
}

/// Removes replies up to an entry, but for the newest entry, whose number says how far the file is.
pub fn prune(conn: &Connection, to: u64) -> Result<()> {
    conn.execute(
        "DELETE FROM sqlite_phalanx WHERE idx > 0 AND idx <= ? AND idx < (SELECT max(idx) FROM sqlite_phalanx)",
        [to.cast_signed()],
    )?;
    set(conn, PRUNED, to.cast_signed())
}

/// Whose file it is.
pub fn owner(conn: &Connection) -> Result<Option<String>> {
    Ok(match fact(conn, OWNER)? {
        Some(rusqlite::types::Value::Text(owner)) => Some(owner),
        _ => None,
    })
}

/// Says whose file it is.
pub fn set_owner(conn: &Connection, owner: &str) -> Result<()> {
    set(conn, OWNER, owner)
}

/// How much requests may do.
pub fn allowance(conn: &Connection) -> Result<Allowance> {
    Ok(read(conn, ALLOWANCE)?.unwrap_or_default())
}

/// Says how much requests may do.
pub fn set_allowance(conn: &Connection, allowance: Allowance) -> Result<()> {
    let bytes = postcard::to_stdvec(&allowance).expect("encoding into memory cannot fail");
    let mut insert = conn.prepare_cached("INSERT OR REPLACE INTO sqlite_phalanx(idx, data) VALUES(?, ?)")?;
    insert.execute(params![ALLOWANCE, bytes]).map(drop)
}

/// A file that is being loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Staged {
    /// Its name.
    pub load: u64,
    /// Bytes so far.
    pub bytes: u64,
    /// Pieces so far.
    pub pieces: u64,
    /// Pieces of earlier files that lie before the first one of this.
    pub before: u64,
}

/// A file whose pieces have all come: what it is to be made into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Plan {
    /// Its name.
    pub load: u64,
    /// How long it is.
    pub bytes: u64,
    /// CRC-32 of all of it.
    pub crc: u32,
    /// What `random()` is made from.
    pub seed: u64,
    /// What `now` is.
    pub at_ms: u64,
}

/// The file that is being loaded.
pub fn staged(conn: &Connection) -> Result<Option<Staged>> {
    read(conn, STAGED)
}

/// What it is to be made into.
pub fn plan(conn: &Connection) -> Result<Option<Plan>> {
    read(conn, PLAN)
}

/// Says what it is to be made into.
pub fn set_plan(conn: &Connection, plan: Plan) -> Result<()> {
    set(conn, PLAN, postcard::to_stdvec(&plan).expect("encoding into memory cannot fail"))
}

fn read<T: serde::de::DeserializeOwned>(conn: &Connection, row: i64) -> Result<Option<T>> {
    Ok(match fact(conn, row)? {
        Some(rusqlite::types::Value::Blob(bytes)) => postcard::from_bytes(&bytes).ok(),
        _ => None,
    })
}

/// Begins a file; pieces of the one before stay until they are swept.
pub fn begin_load(conn: &Connection, load: u64) -> Result<Staged> {
    forget_load(conn)?;
    let last: i64 = conn.query_row("SELECT coalesce(min(idx), 0) FROM sqlite_phalanx", [], |row| row.get(0))?;
    let before = (PIECES - last + 1).max(0).cast_unsigned();
    Ok(Staged { load, before, ..Staged::default() })
}

/// Adds a piece at the end.
pub fn stage(conn: &Connection, so_far: Staged, bytes: &[u8]) -> Result<()> {
    let place = PIECES - (so_far.before + so_far.pieces).cast_signed();
    conn.execute("INSERT OR REPLACE INTO sqlite_phalanx(idx, data) VALUES(?, ?)", params![place, bytes])?;
    let staged = Staged { bytes: so_far.bytes + bytes.len() as u64, pieces: so_far.pieces + 1, ..so_far };
    set(conn, STAGED, postcard::to_stdvec(&staged).expect("encoding into memory cannot fail"))
}

/// Gives all pieces, one after another.
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

/// Forgets the file that was being loaded. Its pieces are of no use any more.
pub fn forget_load(conn: &Connection) -> Result<()> {
    conn.execute("DELETE FROM sqlite_phalanx WHERE idx IN (?, ?)", [STAGED, PLAN]).map(drop)
}

/// Removes one piece that is of no use any more: to free all of them at once would take long. Whether others are left.
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

/// Copies what is known of entries after one of them into another file; the newest that is copied.
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

/// Copies whose file it is and up to where replies were removed into another file.
pub fn copy_facts(from: &Connection, to: &Connection) -> Result<()> {
    for row in [OWNER, PRUNED, ALLOWANCE] {
        if let Some(data) = fact(from, row)? {
            set(to, row, data)?;
        }
    }
    Ok(())
}
