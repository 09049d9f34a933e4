//! Loads a database file that was made elsewhere, table by table.
//!
//! A file comes through the log in pieces, which are stored in the database itself. It is opened, checked, and copied
//! into a new database: its definitions are checked like statements of clients, its rows are copied unchanged. Pages of
//! the file are never used as they are.
//!
//! Not here: dumps (`load_text.rs`), when a file is copied and by which thread (`prepare.rs`).

use super::own_table::{self, LoadPlan};
use super::schema::{self, Table, TableForm, quoted};
use crate::services::sql::answer_limit::AnswerLimit;
use crate::services::sql::budget::fulltext;
use crate::services::sql::budget::length_tiers::{self, RowTier};
use crate::services::sql::commands::{Answer, Command, LOAD_BYTES_MAX, RunKind, STAGE_BYTES_MAX, Statement};
use crate::services::sql::connection::hook_state::{HookState, InternalStatements};
use crate::services::sql::effect_checks::integrity_violation;
use crate::services::sql::errors::{self, OTHER_FILE, StatementError, classify};
use crate::services::sql::statement::Executor;
use rusqlite::config::DbConfig;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, MAIN_DB, OpenFlags, Result};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Executes a command that concerns the pieces of a file: stores a piece, records the plan of the load, or removes a
/// piece. The caller commits.
///
/// # Errors
/// SQLite's error if the internal table cannot be read or written.
pub fn file(conn: &Connection, hooks: &HookState, at_ms: u64, command: &Command) -> Result<Answer> {
    let _own = InternalStatements::begin(hooks);
    match *command {
        Command::Stage { load, offset, ref bytes } => stage(conn, load, offset, bytes),
        Command::Prepare { load, bytes, crc, seed } => {
            if own_table::staged(conn)?.is_none_or(|staged| (staged.load, staged.bytes) != (load, bytes)) {
                return Ok(Answer::Refused(OTHER_FILE.to_string()));
            }
            own_table::set_plan(conn, LoadPlan { load, bytes, crc, seed, at_ms }).map(|()| Answer::Done)
        }
        Command::Unstage { load } => {
            if own_table::staged(conn)?.is_some_and(|staged| staged.load == load) {
                own_table::forget_load(conn)?;
            }
            Ok(if own_table::sweep(conn)? { Answer::More } else { Answer::Done })
        }
        _ => Ok(Answer::Refused("not a piece of a file".to_string())),
    }
}

fn stage(conn: &Connection, load: u64, offset: u64, bytes: &[u8]) -> Result<Answer> {
    if bytes.len() > STAGE_BYTES_MAX || offset + bytes.len() as u64 > LOAD_BYTES_MAX as u64 {
        let why = format!("a file may have at most {LOAD_BYTES_MAX} bytes, and each of its pieces {STAGE_BYTES_MAX}");
        return Ok(Answer::Refused(why));
    }
    let so_far =
        if offset == 0 { own_table::begin_load(conn, load)? } else { own_table::staged(conn)?.unwrap_or_default() };
    if (so_far.load, so_far.bytes) != (load, offset) || own_table::plan(conn)?.is_some() {
        return Ok(Answer::Refused(OTHER_FILE.to_string()));
    }
    own_table::stage(conn, so_far, bytes)?;
    // Removes up to two pieces of abandoned files for each new piece, so that they are removed faster than new ones
    // arrive.
    own_table::sweep(conn)?;
    own_table::sweep(conn)?;
    Ok(Answer::Done)
}

/// Opens a database file in memory and checks its integrity. The error is the reason for refusing it.
pub fn open(image: Vec<u8>) -> std::result::Result<Connection, String> {
    sound((|| {
        let mut conn = Connection::open_in_memory()?;
        conn.deserialize_read_exact(MAIN_DB, image.as_slice(), image.len(), false)?;
        Ok(conn)
    })())
}

/// Opens a database file on the disk, read-only, and checks its integrity. The error is the reason for refusing it.
pub fn open_file(path: &Path) -> std::result::Result<Connection, String> {
    sound(Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX))
}

fn sound(opened: Result<Connection>) -> std::result::Result<Connection, String> {
    let look = || -> Result<(Connection, String)> {
        let conn = opened?;
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
        // On this connection CHECK constraints would use SQLite's own functions, whose results may differ between
        // nodes. They are checked where the rows are copied to.
        conn.pragma_update(None, "ignore_check_constraints", true)?;
        let found = conn.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        Ok((conn, found))
    };
    match look() {
        Ok((conn, found)) if found == "ok" => Ok(conn),
        Ok((_, found)) => Err(format!("the database is damaged: {found}")),
        Err(error) => Err(format!("the SQLite database is damaged: {}", errors::message(&error))),
    }
}

/// Why a file was not copied.
pub enum Stop {
    /// The file contains something that is not allowed: the reason.
    Refused(String),
    /// The database that it is copied into failed, or the budget of steps was used up.
    Broken(StatementError),
}

impl Stop {
    /// Classifies an error of the database that the file is copied into. `what`: the table or definition being copied,
    /// for the message.
    fn of(hooks: &HookState, error: &rusqlite::Error, what: &str) -> Stop {
        Stop::from(classify(hooks, error), what)
    }

    fn from(error: StatementError, what: &str) -> Stop {
        match error {
            StatementError::Failed(why) | StatementError::TooLong(why) => Stop::Refused(format!("{why}: {what:.200}")),
            other => Stop::Broken(other),
        }
    }
}

/// Copies all content of the database `other` into the empty database `conn`. The caller commits.
///
/// # Errors
/// See [`Stop`].
pub fn copy_all(conn: &Connection, hooks: &Arc<HookState>, other: &Connection) -> std::result::Result<(), Stop> {
    let theirs =
        |error: rusqlite::Error| Stop::Refused(format!("the database is damaged: {}", errors::message(&error)));
    let ours = |error: rusqlite::Error| Stop::of(hooks, &error, "the database");
    let tables = schema::tables(other).map_err(theirs)?;
    let others = schema::others(other).map_err(theirs)?;
    let define = |sql: &str| {
        let statement = Statement::bare(sql);
        let longest = length_tiers::longest(hooks, &statement);
        let done = length_tiers::run_in_tiers(conn, hooks, longest, |tier| {
            let mut limit = AnswerLimit::new(0, 0);
            Executor { conn, hooks, kind: RunKind::Execute, limit: &mut limit }.run(&statement, Some(tier))
        });
        done.map_err(ours)?.map(drop).map_err(|error| Stop::from(error, sql))
    };
    for table in tables.iter().filter(|table| table.form != TableForm::Shadow && table.name != "sqlite_sequence") {
        define(&table.sql)?;
    }
    own_table::without_defence(conn, || {
        let mut stored = tables.iter().filter(|table| table.form != TableForm::Virtual);
        Ok(stored.try_for_each(|table| copy(conn, hooks, other, table)))
    })
    .map_err(ours)??;
    for table in tables.iter().filter(|table| table.form == TableForm::Virtual) {
        if let Some(why) = fulltext::settings::unavailable(conn, &table.name).map_err(ours)? {
            return Err(Stop::Refused(why));
        }
    }
    for (_, sql) in &others {
        define(sql)?;
    }
    hooks.begin_statement();
    hooks.has_set_sequence.store(true, Relaxed);
    if let Some(why) = integrity_violation(conn, hooks) {
        return Err(Stop::Refused(why));
    }
    let _own = InternalStatements::begin(hooks);
    for pragma in ["user_version", "application_id"] {
        let value: i64 = other.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get(0)).map_err(theirs)?;
        conn.execute_batch(&format!("PRAGMA {pragma} = {value}")).map_err(ours)?;
    }
    Ok(())
}

/// Drops all tables, views and triggers of users, by internal statements.
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

fn copy(conn: &Connection, hooks: &Arc<HookState>, other: &Connection, table: &Table) -> std::result::Result<(), Stop> {
    let name = quoted(&table.name);
    let theirs = |error: rusqlite::Error| Stop::Refused(format!("table {}: {}", table.name, errors::message(&error)));
    let ours = |error: rusqlite::Error| Stop::of(hooks, &error, &table.name);
    let selected = table.selected();
    let mut select = other.prepare(&format!("SELECT {selected} FROM {name} NOT INDEXED")).map_err(theirs)?;
    let count = select.column_count();
    let marks = vec!["?"; count].join(", ");
    let own = InternalStatements::begin(hooks);
    if table.form == TableForm::Shadow || table.name == "sqlite_sequence" {
        // Rows that were written by the definition of the virtual table, or by insertions into tables with
        // AUTOINCREMENT.
        conn.execute_batch(&format!("DELETE FROM {name}")).map_err(ours)?;
    }
    let mut insert = conn.prepare(&format!("INSERT INTO {name}({selected}) VALUES({marks})")).map_err(ours)?;
    drop(own);
    hooks.begin_statement();
    let mut rows = select.query([]).map_err(theirs)?;
    let mut tier = RowTier::new(conn, hooks);
    while let Some(row) = rows.next().map_err(theirs)? {
        // Unchanged: text need not be UTF-8.
        let values: Vec<ValueRef> =
            (0..count).map(|place| row.get_ref(place)).collect::<Result<_>>().map_err(theirs)?;
        tier.at_least(values.iter().map(length).sum()).map_err(ours)?;
        for (place, value) in values.iter().enumerate() {
            insert.raw_bind_parameter(place + 1, ToSqlOutput::Borrowed(*value)).map_err(ours)?;
        }
        // What the table computes from a row (checks, generated columns) may be longer than the row.
        loop {
            match insert.raw_execute().map_err(|error| classify(hooks, &error)) {
                Ok(_) => break,
                Err(StatementError::TooLong(_)) if tier.is_not_all() => {
                    tier.at_least(tier.bytes() + 1).map_err(ours)?;
                }
                Err(error) => return Err(Stop::from(error, &table.name)),
            }
        }
    }
    if hooks.has_topmost_row.load(Relaxed) {
        return Err(Stop::Refused(format!("table {} has row id {}, which is reserved", table.name, i64::MAX)));
    }
    Ok(())
}

/// Largest number of bytes that a value takes in a row.
fn length(value: &ValueRef) -> usize {
    9 + match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.len(),
        _ => 8,
    }
}
