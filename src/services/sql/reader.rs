//! A connection that reads a node's file while another one writes.
//!
//! All statements of one request see the same state. A read ends at its deadline, or when it returns too many rows.
//!
//! Invariant: R1 a read runs in a transaction, and uses no prepared statement that was compiled for another schema than
//! that of this transaction.
//! Not here: the number of readers and their assignment (`node/sql/reader_pool.rs`), how fresh the state they see is.

use super::answer_limit::AnswerLimit;
use super::budget::freed_space;
use super::budget::long_rows::LongRows;
use super::budget::text_cost::too_many_selects;
use super::commands::{
    Outcome, READ_ROWS_BYTES_MAX, READ_ROWS_MAX, ROW_BYTES_MAX, RunKind, SQL_BYTES_MAX, STEPS_MAX, Statement,
};
use super::connection::configure;
use super::connection::foreign_keys;
use super::connection::hook_state::{HookState, InternalStatements, Purpose};
use super::connection::limits::set_length;
use super::errors::{self, BUDGET_EXCEEDED, StatementError};
use super::statement::Executor;
use super::storage::dump;
use rusqlite::{Connection, OpenFlags, Result};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

/// Largest number of prepared statements that a connection keeps.
const PREPARED_MAX: usize = 64;
/// Budget of one read, in steps: its deadline ends it long before. What functions are charged counts against it.
const READ_STEPS_MAX: u64 = 1000 * STEPS_MAX;

/// A read-only connection to the file.
#[derive(Debug)]
pub struct Reader {
    conn: Connection,
    hooks: Arc<HookState>,
    /// Version of the schema for which statements are prepared.
    schema_version: Option<i64>,
}

impl Reader {
    /// Opens the file, read-only. `is_over` is called every few steps and returns the reason if the read must end.
    pub fn open(path: &Path, is_over: Arc<dyn Fn() -> Option<&'static str> + Send + Sync>) -> Result<Reader> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut conn = Connection::open_with_flags(path, flags)?;
        conn.execute_batch("PRAGMA busy_timeout = 5000; PRAGMA query_only = ON")?;
        conn.set_prepared_statement_cache_capacity(PREPARED_MAX);
        let hooks = Arc::new(HookState::default());
        configure(&mut conn, &hooks, Purpose::Read, Some(is_over))?;
        set_length(&conn, Some(ROW_BYTES_MAX))?;
        Ok(Reader { conn, hooks, schema_version: None })
    }

    /// Runs statements that read. `now_ms`: the time of `now` in milliseconds since 1970. `on_statement` is called
    /// before the first statement and after each.
    pub fn read(
        &mut self,
        statements: &[Statement],
        now_ms: u64,
        seed: u64,
        on_statement: &mut dyn FnMut(),
    ) -> Vec<Outcome> {
        self.read_within(statements, now_ms, seed, on_statement, &mut |_| true)
    }

    /// Like [`Reader::read`], with limited memory: `grant` is called with the total bytes that the rows take, and
    /// returns false if there is not enough.
    pub fn read_within(
        &mut self,
        statements: &[Statement],
        now_ms: u64,
        seed: u64,
        on_statement: &mut dyn FnMut(),
        grant: &mut dyn FnMut(usize) -> bool,
    ) -> Vec<Outcome> {
        self.hooks.begin(now_ms, seed, READ_STEPS_MAX);
        if let Err(error) = self.begin() {
            let why = self.hooks.take_why().unwrap_or_else(|| errors::message(&error));
            return vec![Outcome::Failed(why); statements.len()];
        }
        let mut limit = AnswerLimit::new(READ_ROWS_BYTES_MAX, READ_ROWS_MAX).granted_by(grant);
        on_statement();
        let timed = |one| {
            let outcome = self.one(one, &mut limit);
            on_statement();
            outcome
        };
        let outcomes = statements.iter().map(timed).collect();
        // Nothing was changed, so a failure to commit has no effect.
        let _ = self.own("COMMIT");
        outcomes
    }

    /// Begins a transaction, and discards the prepared statements if its schema differs from the previous one (R1).
    fn begin(&mut self) -> Result<()> {
        self.own("BEGIN")?;
        let seen = self.see_schema();
        if seen.is_err() {
            self.schema_version = None;
            let _ = self.own("COMMIT");
        }
        seen
    }

    fn see_schema(&mut self) -> Result<()> {
        let _own = InternalStatements::begin(&self.hooks);
        let version = self.conn.prepare_cached("PRAGMA schema_version")?.query_row([], |row| row.get(0))?;
        if self.schema_version != Some(version) {
            self.conn.flush_prepared_statement_cache();
            // SQLite itself notices the change only when it next uses a table.
            self.conn.query_row("SELECT count(*) FROM main.sqlite_schema", [], |_| Ok(()))?;
            foreign_keys::follow(&self.conn, &self.hooks)?;
            self.schema_version = Some(version);
        }
        Ok(())
    }

    fn own(&self, sql: &str) -> Result<()> {
        let _own = InternalStatements::begin(&self.hooks);
        self.conn.prepare_cached(sql)?.execute([]).map(drop)
    }

    fn one(&self, statement: &Statement, limit: &mut AnswerLimit<'_>) -> Outcome {
        if let Err(error) = set_length(&self.conn, Some(ROW_BYTES_MAX)) {
            return Outcome::Failed(errors::message(&error));
        }
        let mut executor = Executor { conn: &self.conn, hooks: &self.hooks, kind: RunKind::Query, limit };
        match executor.read(statement) {
            Ok(outcome) => outcome,
            Err(StatementError::Failed(why) | StatementError::TooLong(why) | StatementError::Fatal { why, .. }) => {
                Outcome::Failed(why)
            }
            Err(StatementError::BudgetExceeded) => Outcome::Failed(BUDGET_EXCEEDED.to_string()),
        }
    }

    /// Whether every statement only reads, with the present schema. One that cannot be prepared counts as a read, which
    /// will refuse it too.
    pub fn only_read(&self, statements: &[Statement]) -> bool {
        // A budget used up by an earlier read must not send this request through the log.
        self.hooks.begin(0, 0, READ_STEPS_MAX);
        statements.iter().all(|statement| {
            self.hooks.begin_statement();
            set_length(&self.conn, Some(ROW_BYTES_MAX)).is_ok()
                && (statement.sql.len() > SQL_BYTES_MAX
                    || too_many_selects(&statement.sql).is_some()
                    || self.conn.prepare(&statement.sql).map_or(true, |prepared| prepared.readonly()))
        })
    }

    /// The reason if a request frees too much at once. `now_ms`, `seed`: as for [`Reader::read_within`].
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn excess_freed(
        &mut self,
        long_rows: &LongRows,
        statements: &[Statement],
        now_ms: u64,
        seed: u64,
    ) -> Result<Option<String>> {
        self.hooks.begin(now_ms, seed, READ_STEPS_MAX);
        self.see_schema()?;
        set_length(&self.conn, Some(ROW_BYTES_MAX))?;
        freed_space::excess(&self.conn, &self.hooks, long_rows, statements)
    }

    /// Fingerprints of all tables, with the index of the newest entry in the database.
    pub fn digest(&self) -> Result<super::commands::Digest> {
        self.hooks.begin(0, 0, READ_STEPS_MAX);
        self.own("BEGIN")?;
        let own = InternalStatements::begin(&self.hooks);
        let digest = super::storage::own_table::newest(&self.conn)
            .and_then(|newest| super::storage::digest::take(&self.conn, newest, &mut || {}));
        drop(own);
        let _ = self.own("COMMIT");
        digest
    }

    /// Writes a dump of the database, or of these tables alone.
    pub fn dump(&self, tables: &[String], out: &mut dyn Write) -> io::Result<()> {
        self.own("BEGIN").map_err(io::Error::other)?;
        let own = InternalStatements::begin(&self.hooks);
        let done = dump::write(&self.conn, tables, out);
        drop(own);
        let _ = self.own("COMMIT");
        done
    }
}
