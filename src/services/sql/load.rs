//! Takes over what was made elsewhere: a dump, statement by statement, or a database file, table by table.
//!
//! A file comes through the log in pieces, which wait in the database itself. Put in place, it is opened in memory, checked,
//! and copied: its definitions through the same gate as those of clients, its rows as they are. So its pages never become
//! ours, and all happens in the entry's transaction.
//! Not here: savepoints and what follows when it is refused (`machine.rs`).

use super::authorizer::OWN_TABLE;
use super::journal::{self, Staged};
use super::machine::Own;
use super::schema::{self, Form, Table, quoted};
use super::statement::{self, Room, Trouble};
use super::watch::Watch;
use super::words::{Answer, Command, Kind, LOAD_BYTES_MAX, Params, STAGE_BYTES_MAX, Statement};
use rusqlite::config::DbConfig;
use rusqlite::fallible_iterator::FallibleIterator as _;
use rusqlite::types::Value;
use rusqlite::{Batch, Connection, MAIN_DB, Result};
use std::sync::atomic::Ordering::Relaxed;

/// Runs all statements of a dump; which failed, counted from one, and why.
pub fn text(conn: &Connection, watch: &Watch, sql: &str) -> Result<(), (usize, Trouble)> {
    if statement::names_rollback(sql) {
        return Err((0, Trouble::Failed("ROLLBACK: not available".to_string())));
    }
    let (mut has_topmost, mut has_sequence) = (false, false);
    let mut batch = Batch::new(conn, sql);
    for number in 1.. {
        watch.begin_statement();
        let prepared = batch.next().map_err(|error| (number, statement::trouble(watch, &error)))?;
        let Some(mut prepared) = prepared else { break };
        if watch.passes_over.load(Relaxed) {
            continue;
        }
        let mut room = Room { bytes: 0, rows: 0 };
        statement::carry_out(conn, watch, &mut prepared, &Params::None, Kind::Execute, &mut room)
            .map_err(|trouble| (number, trouble))?;
        has_topmost |= watch.has_topmost_row.load(Relaxed);
        has_sequence |= watch.has_set_sequence.load(Relaxed);
    }
    watch.has_topmost_row.store(has_topmost, Relaxed);
    watch.has_set_sequence.store(has_sequence, Relaxed);
    Ok(())
}

/// Takes a piece of a file, or puts the file in place.
pub fn file(conn: &Connection, watch: &Watch, command: &Command) -> Result<Answer> {
    match command {
        Command::Stage { load, offset, bytes } => stage(conn, watch, *load, *offset, bytes),
        Command::PutInPlace { load, bytes, crc, .. } => put_in_place(conn, watch, *load, *bytes, *crc),
        Command::Run(_) | Command::Load { .. } => Ok(refused("not a piece of a file")),
    }
}

fn refused(why: impl Into<String>) -> Answer {
    Answer::Refused(why.into())
}

fn stage(conn: &Connection, watch: &Watch, load: u64, offset: u64, bytes: &[u8]) -> Result<Answer> {
    let _own = Own::begin(watch);
    if bytes.len() > STAGE_BYTES_MAX || offset + bytes.len() as u64 > LOAD_BYTES_MAX as u64 {
        return Ok(refused(format!("a file has {LOAD_BYTES_MAX} bytes at most, a piece {STAGE_BYTES_MAX}")));
    }
    if offset == 0 {
        journal::unstage(conn)?;
    }
    let so_far = journal::staged(conn)?.unwrap_or(Staged { load, ..Staged::default() });
    if (so_far.load, so_far.bytes) != (load, offset) {
        return Ok(refused("another file is being loaded: begin again"));
    }
    journal::stage(conn, so_far, bytes)?;
    Ok(Answer::Done)
}

fn put_in_place(conn: &Connection, watch: &Watch, load: u64, bytes: u64, crc: u32) -> Result<Answer> {
    let own = Own::begin(watch);
    let Some(staged) = journal::staged(conn)?.filter(|staged| (staged.load, staged.bytes) == (load, bytes)) else {
        return Ok(refused("another file is being loaded: begin again"));
    };
    let image = journal::gather(conn, staged)?;
    journal::unstage(conn)?;
    if image.len() as u64 != bytes || crc32fast::hash(&image) != crc {
        return Ok(refused("the file did not arrive as it was sent: begin again"));
    }
    drop(own);
    let other = match open(image) {
        Ok(other) => other,
        Err(why) => return Ok(refused(why)),
    };
    match take_over(conn, watch, &other) {
        Ok(()) => Ok(Answer::Done),
        Err(Stop::Refused(why)) => Ok(refused(why)),
        Err(Stop::Broken(error)) => Err(error),
    }
}

/// Opens a database file in memory, and looks whether it is one.
pub fn open(mut image: Vec<u8>) -> std::result::Result<Connection, String> {
    if !image.starts_with(b"SQLite format 3\0") || image.len() < 512 {
        return Err("this is no SQLite database".to_string());
    }
    // A file in memory has no log beside it.
    image[18..20].fill(1);
    let open = || -> Result<(Connection, String)> {
        let mut conn = Connection::open_in_memory()?;
        conn.deserialize_read_exact(MAIN_DB, image.as_slice(), image.len(), false)?;
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
        let found = conn.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        Ok((conn, found))
    };
    match open() {
        Ok((conn, found)) if found == "ok" => Ok(conn),
        Ok((_, found)) => Err(format!("the database is damaged: {found}")),
        Err(error) => Err(format!("this is no sound SQLite database: {}", statement::said(&error))),
    }
}

enum Stop {
    /// The file has what is not allowed.
    Refused(String),
    /// Our own database does not do what it must.
    Broken(rusqlite::Error),
}

fn take_over(conn: &Connection, watch: &Watch, other: &Connection) -> std::result::Result<(), Stop> {
    let theirs =
        |error: rusqlite::Error| Stop::Refused(format!("the database is damaged: {}", statement::said(&error)));
    let tables = schema::tables(other).map_err(theirs)?;
    let others = schema::others(other).map_err(theirs)?;
    clear(conn, watch).map_err(Stop::Broken)?;
    let define = |sql: &str| match statement::run(
        conn,
        watch,
        &Statement::bare(sql),
        Kind::Execute,
        &mut Room { bytes: 0, rows: 0 },
    ) {
        Ok(_) => Ok(()),
        Err(Trouble::Failed(why) | Trouble::TooLong(why) | Trouble::Fatal { why, .. }) => {
            Err(Stop::Refused(format!("{why}: {:.200}", sql)))
        }
        Err(Trouble::RanAway) => Err(Stop::Refused(super::functions::RAN_AWAY.to_string())),
    };
    for table in tables.iter().filter(|table| table.form != Form::Shadow && table.name != "sqlite_sequence") {
        define(&table.sql)?;
    }
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, false).map_err(Stop::Broken)?;
    let copied =
        tables.iter().filter(|table| table.form != Form::Virtual).try_for_each(|table| copy(conn, watch, other, table));
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true).map_err(Stop::Broken)?;
    copied?;
    for sql in others.iter().filter(|sql| !sql.to_ascii_lowercase().contains(OWN_TABLE)) {
        define(sql)?;
    }
    let _own = Own::begin(watch);
    for pragma in ["user_version", "application_id"] {
        let value: i64 = other.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get(0)).map_err(theirs)?;
        conn.execute_batch(&format!("PRAGMA {pragma} = {value}")).map_err(Stop::Broken)?;
    }
    Ok(())
}

/// Drops everything that users have made.
fn clear(conn: &Connection, watch: &Watch) -> Result<()> {
    let _own = Own::begin(watch);
    empty(conn)
}

/// The same, as a statement of our own.
pub fn empty(conn: &Connection) -> Result<()> {
    let find =
        "SELECT type, name FROM sqlite_schema WHERE type IN ('view', 'trigger') OR (type = 'table' AND rootpage = 0)";
    let mut select = conn.prepare(find)?;
    let found =
        select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<Vec<(String, String)>>>()?;
    drop(select);
    for (kind, name) in found {
        conn.execute_batch(&format!("DROP {kind} IF EXISTS {}", quoted(&name)))?;
    }
    for table in schema::tables(conn)?.iter().filter(|table| table.name != "sqlite_sequence") {
        conn.execute_batch(&format!("DROP TABLE IF EXISTS {}", quoted(&table.name)))?;
    }
    Ok(())
}

fn copy(conn: &Connection, watch: &Watch, other: &Connection, table: &Table) -> std::result::Result<(), Stop> {
    let _own = Own::begin(watch);
    let name = quoted(&table.name);
    if table.form == Form::Shadow || table.name == "sqlite_sequence" {
        // What the definition of its virtual table, or an insertion, has put there.
        conn.execute_batch(&format!("DELETE FROM {name}")).map_err(Stop::Broken)?;
    }
    let selected = table.selected();
    let theirs = |error: rusqlite::Error| Stop::Refused(format!("table {}: {}", table.name, statement::said(&error)));
    let mut select = other.prepare(&format!("SELECT {selected} FROM {name} NOT INDEXED")).map_err(theirs)?;
    let count = select.column_count();
    let marks = vec!["?"; count].join(", ");
    let mut insert = conn.prepare(&format!("INSERT INTO {name}({selected}) VALUES({marks})")).map_err(theirs)?;
    watch.begin_statement();
    let mut rows = select.query([]).map_err(theirs)?;
    while let Some(row) = rows.next().map_err(theirs)? {
        for place in 0..count {
            let value: Value = row.get(place).map_err(theirs)?;
            insert.raw_bind_parameter(place + 1, value).map_err(theirs)?;
        }
        insert.raw_execute().map_err(theirs)?;
    }
    if watch.has_topmost_row.load(Relaxed) {
        return Err(Stop::Refused(format!("table {} has row number {}, which is not for use", table.name, i64::MAX)));
    }
    Ok(())
}
