//! Loads content that was made elsewhere: a dump, statement by statement, or a database file, table by table.
//!
//! A file comes through the log in pieces, which are stored in the database itself. It is opened, checked, and copied
//! into a new database: its definitions are checked like statements of clients, its rows are copied unchanged. Pages of
//! the file are never used as they are.
//!
//! Not here: savepoints and the handling of a refusal (`services/sql/loading.rs`), when a file is copied and by which
//! thread (`prepare.rs`).

use super::own_table::{self, Plan};
use super::schema::{self, Form, Table, quoted};
use crate::services::sql::answer_limit::AnswerLimit;
use crate::services::sql::budget::length_tiers::{self, RowTier};
use crate::services::sql::budget::step_cost;
use crate::services::sql::budget::text_cost::{STATEMENT_STEPS, text_steps, too_many_conflicts};
use crate::services::sql::budget::{fulltext_settings, fulltext_writes};
use crate::services::sql::commands::{Answer, Command, Kind, LOAD_BYTES_MAX, Params, STAGE_BYTES_MAX, Statement};
use crate::services::sql::connection::hook_state::{HookState, InternalStatements};
use crate::services::sql::errors::{self, OTHER_FILE, StatementError, classify};
use crate::services::sql::integrity::{integrity_violation, settle};
use crate::services::sql::statement::{self, Executor};
use crate::services::sql::tokens::names_rollback;
use rusqlite::config::DbConfig;
use rusqlite::fallible_iterator::FallibleIterator as _;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Batch, Connection, MAIN_DB, OpenFlags, Result};
use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Runs all statements of a dump. On failure: the number of the statement that failed, counted from 1 (0 if the text as
/// a whole was refused), and the reason.
pub fn text(conn: &Connection, hooks: &Arc<HookState>, sql: &str) -> std::result::Result<(), (usize, StatementError)> {
    if names_rollback(sql) {
        return Err((
            0,
            StatementError::Failed(
                "ROLLBACK is not available: a script is applied completely or not at all".to_string(),
            ),
        ));
    }
    if let Some(why) = too_many_conflicts(sql) {
        return Err((0, StatementError::Failed(why)));
    }
    if !hooks.charge(text_steps(sql)) {
        return Err((0, StatementError::BudgetExceeded));
    }
    hooks.is_begun.store(false, Relaxed);
    let mut batch = Batch::new(conn, sql);
    for number in 1.. {
        let (mut prepared, mut recorded) = (None, (false, false, Vec::new(), None::<String>));
        let is_over = length_tiers::run_in_tiers(conn, hooks, 0, |tier| {
            let on_error = |error| classify(hooks, &error);
            hooks.begin_statement();
            if !hooks.charge(STATEMENT_STEPS) {
                return Err(StatementError::BudgetExceeded);
            }
            match prepared {
                // The statement is prepared only once: each further attempt restores what the hooks recorded then.
                Some(_) => {
                    hooks.may_repeat.store(recorded.0, Relaxed);
                    hooks.is_defining.store(recorded.1, Relaxed);
                    hooks.set_filled(&recorded.2);
                    if let Some(name) = &recorded.3 {
                        hooks.set_created_table(name);
                        hooks.is_creating_virtual.store(true, Relaxed);
                    }
                }
                None => {
                    hooks.set_price(step_cost::PLANNED);
                    prepared = batch.next().map_err(on_error)?;
                    recorded = (
                        hooks.may_repeat.load(Relaxed),
                        hooks.is_defining.load(Relaxed),
                        hooks.filled(),
                        hooks.created_table().filter(|_| hooks.is_creating_virtual.load(Relaxed)),
                    );
                }
            }
            hooks.set_price(step_cost::PLAIN);
            let Some(one) = &mut prepared else { return Ok(true) };
            if hooks.passes_over.load(Relaxed) {
                return Ok(false);
            }
            length_tiers::suits(hooks, tier)?;
            let text =
                length_tiers::at_any_length(conn, tier, || one.expanded_sql()).map_err(on_error)?.unwrap_or_default();
            statement::fits(conn, hooks, &text, 0, tier)?;
            let mut executor = Executor { conn, hooks, kind: Kind::Execute, limit: &mut AnswerLimit::new(0, 0) };
            match fulltext_writes::with_named_tokenizer(&text) {
                Cow::Borrowed(_) => executor.write(one, &Params::None),
                Cow::Owned(named) => {
                    let mut named = conn.prepare(&named).map_err(on_error)?;
                    executor.write(&mut named, &Params::None)
                }
            }?;
            settle(conn, hooks).map(|()| false)
        });
        let is_over = is_over.map_err(|error| (number, classify(hooks, &error)))?;
        if is_over.map_err(|error| (number, error))? {
            if hooks.is_begun.load(Relaxed) {
                let why = "the dump has BEGIN but no COMMIT: its end is missing";
                return Err((number - 1, StatementError::Failed(why.to_string())));
            }
            break;
        }
    }
    Ok(())
}

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
            own_table::set_plan(conn, Plan { load, bytes, crc, seed, at_ms }).map(|()| Answer::Done)
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
        Err(error) => Err(format!("the SQLite database is damaged: {}", errors::said(&error))),
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
    let theirs = |error: rusqlite::Error| Stop::Refused(format!("the database is damaged: {}", errors::said(&error)));
    let ours = |error: rusqlite::Error| Stop::of(hooks, &error, "the database");
    let tables = schema::tables(other).map_err(theirs)?;
    let others = schema::others(other).map_err(theirs)?;
    let define = |sql: &str| {
        let statement = Statement::bare(sql);
        let done = length_tiers::run_in_tiers(conn, hooks, 0, |tier| {
            let mut limit = AnswerLimit::new(0, 0);
            Executor { conn, hooks, kind: Kind::Execute, limit: &mut limit }.run(&statement, Some(tier))
        });
        done.map_err(ours)?.map(drop).map_err(|error| Stop::from(error, sql))
    };
    for table in tables.iter().filter(|table| table.form != Form::Shadow && table.name != "sqlite_sequence") {
        define(&table.sql)?;
    }
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, false).map_err(ours)?;
    let copied =
        tables.iter().filter(|table| table.form != Form::Virtual).try_for_each(|table| copy(conn, hooks, other, table));
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true).map_err(ours)?;
    copied?;
    for table in tables.iter().filter(|table| table.form == Form::Virtual) {
        if let Some(settings) = fulltext_settings::refused(conn, &table.name).map_err(ours)? {
            return Err(Stop::Refused(format!(
                "full-text table {} has settings that are not available: {settings}",
                table.name
            )));
        }
    }
    for sql in &others {
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
    let theirs = |error: rusqlite::Error| Stop::Refused(format!("table {}: {}", table.name, errors::said(&error)));
    let ours = |error: rusqlite::Error| Stop::of(hooks, &error, &table.name);
    let selected = table.selected();
    let mut select = other.prepare(&format!("SELECT {selected} FROM {name} NOT INDEXED")).map_err(theirs)?;
    let count = select.column_count();
    let marks = vec!["?"; count].join(", ");
    let own = InternalStatements::begin(hooks);
    if table.form == Form::Shadow || table.name == "sqlite_sequence" {
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
