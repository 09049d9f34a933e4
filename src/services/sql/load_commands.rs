//! Commands that load: a dump, the pieces of a database file, and the step that puts such a file in place.
//!
//! That step is short, however large the file is: the node has prepared a new database from the file outside of the log
//! (`services/sql/storage/prepare.rs`) and now switches to it. It copies the stored replies into the new database,
//! commits, and durably records that this file is the database from now on. After a crash before that, the node has the
//! old database, which does not contain this command; after a crash later, it has the new one, which does.
//!
//! Invariants: L1 whether a file is put in place depends on the content and the command alone. L2 a file becomes the
//! database only when it is durable, including the stored replies.
//! Not here: what a file may contain (`services/sql/storage/load.rs`), who sends the commands in which order
//! (`node/sql/load.rs`).

use super::commands::{Answer, Command};
use super::connection::foreign_keys;
use super::connection::hook_state::InternalStatements;
use super::errors::{BUDGET_EXCEEDED, Fatal, OTHER_FILE, StatementError};
use super::storage::own_table::{self, LoadPlan};
use super::storage::prepare::{self, Built, Prepared, Preparing};
use super::storage::{load, load_text};
use super::writer::{Entry, ReplacedDatabase, Writer};
use crate::types::Stamp;
use rusqlite::config::DbConfig;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

impl Writer {
    pub(super) fn load_text(
        &mut self,
        at: Stamp,
        sql: &str,
        seed: u64,
        steps: u64,
        is_of_tool: bool,
    ) -> Result<(Answer, Option<usize>), Fatal> {
        self.begin_command(at, seed, steps)?;
        self.hooks.is_loading.store(true, Relaxed);
        let loaded = load_text::text(&self.conn, &self.hooks, sql, is_of_tool);
        self.hooks.is_loading.store(false, Relaxed);
        let refused = match loaded {
            Ok(()) => {
                self.own("RELEASE c")?;
                self.long_bytes = 1 << 40;
                return Ok((Answer::Done, None));
            }
            Err((_, StatementError::Fatal { why, is_damaged })) => {
                self.confirm_fatal(why.clone(), is_damaged)?;
                why
            }
            Err((_, StatementError::BudgetExceeded)) => BUDGET_EXCEEDED.to_string(),
            Err((0, StatementError::Failed(why) | StatementError::TooLong(why))) => why,
            Err((number, StatementError::Failed(why) | StatementError::TooLong(why))) => {
                format!("statement {number}: {why}")
            }
        };
        // Undoes the command, unless SQLite has already rolled back.
        if self.conn.is_autocommit() {
            return Ok((Answer::Refused(refused), Some(0)));
        }
        self.own("ROLLBACK TO c")?;
        self.own("RELEASE c")?;
        Ok((Answer::Refused(refused), None))
    }

    /// Executes a command that concerns the pieces of a file: internal statements without a budget.
    pub(super) fn load_piece(&mut self, at: Stamp, command: &Command) -> Result<(Answer, Option<usize>), Fatal> {
        self.is_plan_unsure = true;
        let answer = load::file(&self.conn, &self.hooks, at.at_ms, command);
        Ok((answer.map_err(|error| Fatal::of(&self.hooks, &error))?, None))
    }

    /// Starts preparing the file all of whose pieces have arrived, if there is one. Called between entries.
    pub fn maybe_prepare(&mut self) -> Result<(), Fatal> {
        let Some(files) = self.hooks.files.get().cloned() else { return Ok(()) };
        if !std::mem::take(&mut self.is_plan_unsure) {
            return Ok(());
        }
        let plan = self.with_connection(own_table::plan)?;
        if self.preparing.as_ref().map(|preparing| preparing.plan) != plan {
            self.preparing = plan.map(|plan| Preparing::begin(&files, plan));
        }
        Ok(())
    }

    /// Switches to the database that was prepared from a file. When it returns, a transaction is open, and nothing of
    /// this entry needs to run again: the caller commits.
    pub(super) fn put_in_place(&mut self, at: Stamp, command: &Command, entry: &mut Entry) -> Result<Answer, Fatal> {
        let Command::PutInPlace { load, bytes, crc, seed } = *command else {
            return Ok(Answer::Refused("not a file".to_string()));
        };
        if !self.conn.is_autocommit() {
            self.commit(entry)?;
        }
        let (staged, plan) = self.with_connection(|conn| Ok((own_table::staged(conn)?, own_table::plan(conn)?)))?;
        if staged.is_none_or(|staged| (staged.load, staged.bytes) != (load, bytes)) {
            self.begin()?;
            return Ok(Answer::Refused(OTHER_FILE.to_string()));
        }
        let plan = plan.filter(|plan| (plan.load, plan.bytes, plan.crc) == (load, bytes, crc));
        match self.built(plan.unwrap_or(LoadPlan { load, bytes, crc, seed, at_ms: at.at_ms })) {
            Built::Ready(prepared) => self.change_over(*prepared).map(|()| Answer::Done),
            Built::Refused(why) => {
                self.begin()?;
                self.with_connection(own_table::forget_load)?;
                Ok(Answer::Refused(why))
            }
            Built::Broken(fatal) => Err(fatal),
        }
    }

    /// The result of preparing a file; waits for it.
    fn built(&mut self, plan: LoadPlan) -> Built {
        self.is_plan_unsure = true;
        let Some(files) = self.hooks.files.get() else {
            let _own = InternalStatements::begin(&self.hooks);
            return prepare::in_memory(&self.conn, plan);
        };
        let preparing = self.preparing.take().filter(|preparing| preparing.plan == plan);
        preparing.unwrap_or_else(|| Preparing::begin(files, plan)).wait()
    }

    /// Switches to the prepared database. No transaction is open on the present connection.
    fn change_over(&mut self, prepared: Prepared) -> Result<(), Fatal> {
        let Prepared { conn, hooks, path, copied_to } = prepared;
        let (_own, _theirs) = (InternalStatements::begin(&self.hooks), InternalStatements::begin(&hooks));
        (|| {
            if path.is_some() {
                // This commit must be durable before the file becomes the database (L2).
                conn.execute_batch("PRAGMA synchronous = FULL")?;
            }
            conn.execute_batch("BEGIN IMMEDIATE")?;
            own_table::copy_entries(&self.conn, &conn, copied_to)?;
            own_table::copy_facts(&self.conn, &conn)?;
            foreign_keys::follow(&conn, &hooks)
        })()
        .map_err(|error| Fatal::of(&hooks, &error))?;
        drop((_own, _theirs));
        self.hooks = hooks;
        self.replaced = Some(ReplacedDatabase { conn: std::mem::replace(&mut self.conn, conn), successor: path });
        (self.virtual_at, self.indexes_at) = (None, None);
        Ok(())
    }

    /// Records durably that the present file is the database, if it has replaced another one.
    pub(super) fn adopt(&mut self) -> Result<(), Fatal> {
        let Some(ReplacedDatabase { conn, successor }) = self.replaced.take() else { return Ok(()) };
        let (Some(path), Some(files)) = (successor, self.hooks.files.get().cloned()) else { return Ok(()) };
        self.forget_long_rows();
        self.with_connection(|own| {
            own.execute_batch("PRAGMA synchronous = NORMAL")?;
            // Checkpointing the WAL of the old file would be useless.
            conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map(drop)
        })?;
        let old = files.path();
        files.adopt(&path);
        let own = Arc::clone(&files);
        files.in_background(Box::new(move || {
            drop(conn);
            own.remove(&old);
        }));
        Ok(())
    }
}
