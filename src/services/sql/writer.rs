//! The connection that writes: what is known about the database, and the transactions in which entries are applied.
//!
//! Invariants: M2 replies are stored by the same transaction as the effects of their commands.
//! Not here: the commands (`apply.rs`, `load_commands.rs`), the file (`database.rs`).

use super::budget::fulltext;
use super::budget::token_bucket::Allowance;
use super::commands::Command;
use super::connection::foreign_keys;
use super::connection::hook_state::{HookState, InternalStatements, Schema};
use super::errors::Fatal;
use super::storage::own_table;
use super::storage::prepare::Preparing;
#[cfg(any(test, feature = "planted-bugs"))]
use crate::planted_bugs::SqlBugs;
use crate::services::Reply;
use crate::types::Stamp;
use rusqlite::Connection;
use std::path::PathBuf;
use std::sync::Arc;
#[cfg(any(test, feature = "planted-bugs"))]
use std::sync::atomic::Ordering::Relaxed;

/// An entry that is being applied.
#[derive(Debug)]
pub struct Entry {
    pub(super) index: u64,
    /// Replies to its commands so far; those that were stored by an earlier process come first.
    pub(super) replies: Vec<Reply>,
    /// Number of replies already returned to the caller.
    pub(super) given: usize,
    /// Commands in the open transaction, each with its budget of steps.
    pub(super) since_begin: Vec<(Stamp, Command, u64)>,
}

/// A database that another one has replaced.
#[derive(Debug)]
pub struct ReplacedDatabase {
    pub(super) conn: Connection,
    /// Path of the file that replaces it, if it is in a file.
    pub(super) successor: Option<PathBuf>,
}

/// A database, on the connection that writes.
#[derive(Debug)]
pub struct Writer {
    pub(super) conn: Connection,
    pub(super) hooks: Arc<HookState>,
    pub(super) entry: Option<Entry>,
    pub(super) newest: u64,
    pub(super) pruned_to: u64,
    /// Schema version for which the virtual tables are known.
    pub(super) virtual_at: Option<i64>,
    /// Schema version for which the indexes and views are known.
    pub(super) indexes_at: Option<i64>,
    /// The file that is being prepared outside of the log, if any.
    pub(super) preparing: Option<Preparing>,
    /// The plan of the load may have changed since it was last read.
    pub(super) is_plan_unsure: bool,
    /// The previous database, until the file of the present one is durably recorded as the database.
    pub(super) replaced: Option<ReplacedDatabase>,
    /// How many steps requests may use.
    pub(super) allowance: Allowance,
    /// Incremented by each change.
    pub(super) generation: u64,
    /// Upper bound of the bytes of long rows written since the last commit.
    pub(super) long_bytes: u64,
    #[cfg(any(test, feature = "planted-bugs"))]
    pub bugs: SqlBugs,
}

impl Writer {
    /// Takes over a configured connection; creates the internal table if it is missing.
    pub fn new(conn: Connection, hooks: Arc<HookState>) -> Result<Writer, Fatal> {
        let own = InternalStatements::begin(&hooks);
        let seen = (|| {
            own_table::create(&conn)?;
            foreign_keys::follow(&conn, &hooks)?;
            Ok((own_table::newest(&conn)?, own_table::pruned_to(&conn)?, own_table::allowance(&conn)?))
        })();
        drop(own);
        let (newest, pruned_to, allowance) = seen.map_err(|error| Fatal::of(&hooks, &error))?;
        Ok(Writer {
            conn,
            hooks,
            entry: None,
            newest,
            pruned_to,
            virtual_at: None,
            indexes_at: None,
            preparing: None,
            is_plan_unsure: true,
            replaced: None,
            allowance,
            generation: 0,
            long_bytes: 0,
            #[cfg(any(test, feature = "planted-bugs"))]
            bugs: SqlBugs::default(),
        })
    }

    /// Index of the newest entry whose commands are in the database.
    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// Replies to entries up to this index were removed.
    pub fn pruned_to(&self) -> u64 {
        self.pruned_to
    }

    /// A number that differs after each change.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Calls `ask` with the connection, for internal statements that change nothing.
    pub fn with_connection<T>(&self, ask: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, Fatal> {
        let _own = InternalStatements::begin(&self.hooks);
        ask(&self.conn).map_err(|error| Fatal::of(&self.hooks, &error))
    }

    /// Calls `change` with the connection, to replace all of its content.
    pub fn replace<T>(&mut self, change: impl FnOnce(&mut Connection) -> rusqlite::Result<T>) -> Result<T, Fatal> {
        let own = InternalStatements::begin(&self.hooks);
        let done = change(&mut self.conn).and_then(|done| {
            own_table::create(&self.conn)?;
            foreign_keys::follow(&self.conn, &self.hooks)?;
            let known =
                (own_table::newest(&self.conn)?, own_table::pruned_to(&self.conn)?, own_table::allowance(&self.conn)?);
            Ok((done, known))
        });
        drop(own);
        let (done, (newest, pruned_to, allowance)) = done.map_err(|error| Fatal::of(&self.hooks, &error))?;
        (self.newest, self.pruned_to, self.allowance) = (newest, pruned_to, allowance);
        (self.virtual_at, self.indexes_at, self.is_plan_unsure) = (None, None, true);
        self.forget_long_rows();
        self.generation += 1;
        Ok(done)
    }

    /// Discards the known sizes of long rows, because rows may have been written that were not counted.
    pub(super) fn forget_long_rows(&self) {
        if let Some(files) = self.hooks.files.get() {
            files.long_rows().forget();
        }
    }

    pub(super) fn commit(&mut self, entry: &mut Entry) -> Result<(), Fatal> {
        self.with_connection(|conn| {
            own_table::record(conn, entry.index, &entry.replies)?;
            own_table::set_allowance(conn, self.allowance)?;
            conn.prepare_cached("COMMIT")?.execute([]).map(drop)
        })?;
        if let Some(files) = self.hooks.files.get() {
            files.long_rows().note(std::mem::take(&mut self.long_bytes));
        }
        entry.since_begin.clear();
        self.newest = self.newest.max(entry.index);
        self.generation += 1;
        Ok(())
    }

    pub(super) fn begin(&mut self) -> Result<(), Fatal> {
        let version: i64 =
            self.with_connection(|conn| conn.prepare_cached("PRAGMA schema_version")?.query_row([], |row| row.get(0)))?;
        let names = if self.virtual_at == Some(version) {
            None
        } else {
            let find = "SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage = 0";
            Some(self.with_connection(|conn| conn.prepare(find)?.query_map([], |row| row.get(0))?.collect())?)
        };
        self.virtual_at = Some(version);
        let has_virtual = self.hooks.begin_transaction(names);
        self.with_connection(|conn| {
            if has_virtual {
                // A virtual table keeps prepared statements; the steps counted for them would depend on earlier
                // entries.
                conn.execute_batch("PRAGMA writable_schema = RESET")?;
            }
            conn.prepare_cached("BEGIN IMMEDIATE")?.execute([]).map(drop)
        })
    }

    pub(super) fn own(&self, sql: &str) -> Result<(), Fatal> {
        self.with_connection(|conn| conn.prepare_cached(sql)?.execute([]).map(drop))
    }

    /// Has foreign keys enforced from now on, or not.
    pub(super) fn set_foreign_keys(&mut self, are_enforced: bool) -> Result<(), Fatal> {
        self.with_connection(|conn| own_table::set_foreign_keys(conn, are_enforced))?;
        self.follow_foreign_keys()
    }

    /// Makes the connection enforce what the database says, for example after a rollback.
    pub(super) fn follow_foreign_keys(&self) -> Result<(), Fatal> {
        self.with_connection(|conn| foreign_keys::follow(conn, &self.hooks))
    }

    /// Opens savepoint `c` and resets what the connection remembers of the previous command.
    pub(super) fn begin_command(&mut self, at: Stamp, seed: u64, steps: u64) -> Result<(), Fatal> {
        self.with_connection(|conn| {
            conn.prepare_cached("SAVEPOINT c")?.execute([])?;
            own_table::mark(conn)
        })?;
        self.begin_schema()?;
        let now_ms = at.at_ms;
        #[cfg(any(test, feature = "planted-bugs"))]
        let now_ms = self.bugs.local_ms.unwrap_or(now_ms);
        #[cfg(any(test, feature = "planted-bugs"))]
        let seed = seed ^ self.bugs.random_seed.unwrap_or(0);
        #[cfg(any(test, feature = "planted-bugs"))]
        self.hooks.overlooked_now_ms.store(self.bugs.overlooked_now_ms.unwrap_or(0), Relaxed);
        #[cfg(any(test, feature = "planted-bugs"))]
        self.hooks.settings_are_free.store(self.bugs.settings_are_free, Relaxed);
        self.hooks.begin(now_ms, seed, steps);
        Ok(())
    }

    fn begin_schema(&mut self) -> Result<(), Fatal> {
        let version: i64 =
            self.with_connection(|conn| conn.prepare_cached("PRAGMA schema_version")?.query_row([], |row| row.get(0)))?;
        // A schema change of an earlier command may have been rolled back together with the version number.
        let schema = if self.indexes_at == Some(version) && !self.hooks.is_schema_changed() {
            None
        } else {
            let find = "SELECT lower(tbl_name), count(*) FROM sqlite_schema WHERE type = 'index' GROUP BY 1";
            let indexes = self.with_connection(|conn| {
                conn.prepare(find)?.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
            })?;
            let find = "SELECT name FROM sqlite_schema WHERE type = 'view'";
            let views = self.with_connection(|conn| conn.prepare(find)?.query_map([], |row| row.get(0))?.collect())?;
            Some(Schema { indexes, views, fulltext: self.with_connection(fulltext::writes::definitions)? })
        };
        self.indexes_at = Some(version);
        self.hooks.begin_schema(schema);
        Ok(())
    }

    /// Ends the node only if the damage is real: a statement must not stop every node by making SQLite report
    /// corruption.
    pub(super) fn confirm_fatal(&self, why: String, is_damaged: bool) -> Result<(), Fatal> {
        if is_damaged && !self.conn.is_autocommit() {
            let check: String =
                self.with_connection(|conn| conn.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)))?;
            if check == "ok" {
                return Ok(());
            }
        }
        Err(Fatal { why, is_damaged })
    }
}
