//! The connection that writes: what it knows of the database, and the transactions in which entries are applied.
//!
//! Invariants: M2 replies are stored by the transaction that holds their effects.
//! Not here: the commands (`apply.rs`, `loading.rs`), the file (`database.rs`).

use super::budget::allowance::Allowance;
use super::budget::fulltext_writes;
use super::commands::Command;
use super::connection::hook_state::{HookState, InternalStatements, Schema};
use super::errors::Fatal;
use super::storage::own_table;
use super::storage::prepare::Preparing;
#[cfg(test)]
use crate::planted_bugs::SqlBugs;
use crate::services::Reply;
use crate::types::Stamp;
use rusqlite::Connection;
use std::path::PathBuf;
use std::sync::Arc;
#[cfg(test)]
use std::sync::atomic::Ordering::Relaxed;

/// An entry that is being applied.
#[derive(Debug)]
pub struct Entry {
    pub(super) index: u64,
    /// Stored ones first.
    pub(super) replies: Vec<Reply>,
    /// Replies given so far.
    pub(super) given: usize,
    /// Commands of the transaction that is open, with the steps that each might take.
    pub(super) since_begin: Vec<(Stamp, Command, u64)>,
}

/// A database whose place another one has taken.
#[derive(Debug)]
pub struct ReplacedDatabase {
    pub(super) conn: Connection,
    /// Where the other one is, if it is in a file.
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
    /// Version of the schema whose virtual tables are known.
    pub(super) virtual_at: Option<i64>,
    /// Version of the schema whose indexes are known.
    pub(super) indexes_at: Option<i64>,
    /// A file that is made into a database beside the log.
    pub(super) preparing: Option<Preparing>,
    /// What is to be prepared may have changed.
    pub(super) is_plan_unsure: bool,
    /// The database that was before the present one, and the file of the present one, which is not known to be it yet.
    pub(super) replaced: Option<ReplacedDatabase>,
    /// How much requests may do.
    pub(super) allowance: Allowance,
    /// Grows with each change.
    pub(super) generation: u64,
    /// Bytes of long rows that are not committed yet, at most.
    pub(super) long_bytes: u64,
    /// Planted bugs.
    #[cfg(test)]
    pub bugs: SqlBugs,
}

impl Writer {
    /// Takes over a configured connection; makes our own table if there is none.
    pub fn new(conn: Connection, hooks: Arc<HookState>) -> Result<Writer, Fatal> {
        let own = InternalStatements::begin(&hooks);
        let seen = (|| {
            own_table::create(&conn)?;
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
            #[cfg(test)]
            bugs: SqlBugs::default(),
        })
    }

    /// The newest entry whose commands are in the file.
    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// Replies up to this entry are gone.
    pub fn pruned_to(&self) -> u64 {
        self.pruned_to
    }

    /// Another number after each change.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The connection, for statements of our own that change nothing.
    pub fn look<T>(&self, ask: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, Fatal> {
        let _own = InternalStatements::begin(&self.hooks);
        ask(&self.conn).map_err(|error| Fatal::of(&self.hooks, &error))
    }

    /// The connection, for replacing all of its content.
    pub fn replace<T>(&mut self, change: impl FnOnce(&mut Connection) -> rusqlite::Result<T>) -> Result<T, Fatal> {
        let own = InternalStatements::begin(&self.hooks);
        let done = change(&mut self.conn).and_then(|done| {
            own_table::create(&self.conn)?;
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

    /// Rows may have been written that were not counted.
    pub(super) fn forget_long_rows(&self) {
        if let Some(files) = self.hooks.files.get() {
            files.long_rows().forget();
        }
    }

    pub(super) fn commit(&mut self, entry: &mut Entry) -> Result<(), Fatal> {
        self.look(|conn| {
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
            self.look(|conn| conn.prepare_cached("PRAGMA schema_version")?.query_row([], |row| row.get(0)))?;
        let names = if self.virtual_at == Some(version) {
            None
        } else {
            let find = "SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage = 0";
            Some(self.look(|conn| conn.prepare(find)?.query_map([], |row| row.get(0))?.collect())?)
        };
        self.virtual_at = Some(version);
        let has_virtual = self.hooks.begin_transaction(names);
        self.look(|conn| {
            if has_virtual {
                // A virtual table keeps prepared statements, whose counts of steps would tell of entries before.
                conn.execute_batch("PRAGMA writable_schema = RESET")?;
            }
            conn.prepare_cached("BEGIN IMMEDIATE")?.execute([]).map(drop)
        })
    }

    pub(super) fn own(&self, sql: &str) -> Result<(), Fatal> {
        self.look(|conn| conn.prepare_cached(sql)?.execute([]).map(drop))
    }

    /// Opens savepoint `c` and makes the connection forget what was before.
    pub(super) fn begin_command(&mut self, at: Stamp, seed: u64, steps: u64) -> Result<(), Fatal> {
        self.look(|conn| {
            conn.prepare_cached("SAVEPOINT c")?.execute([])?;
            own_table::mark(conn)
        })?;
        self.begin_schema()?;
        let now_ms = at.at_ms;
        #[cfg(test)]
        let now_ms = self.bugs.local_ms.unwrap_or(now_ms);
        #[cfg(test)]
        let seed = seed ^ self.bugs.own_chance.unwrap_or(0);
        #[cfg(test)]
        self.hooks.overlooked_now_ms.store(self.bugs.overlooked_now_ms.unwrap_or(0), Relaxed);
        #[cfg(test)]
        self.hooks.settings_are_free.store(self.bugs.settings_are_free, Relaxed);
        self.hooks.begin(now_ms, seed, steps);
        Ok(())
    }

    fn begin_schema(&mut self) -> Result<(), Fatal> {
        let version: i64 =
            self.look(|conn| conn.prepare_cached("PRAGMA schema_version")?.query_row([], |row| row.get(0)))?;
        // What a command before has made may have been undone, with the number of the version.
        let schema = if self.indexes_at == Some(version) && !self.hooks.is_schema_changed() {
            None
        } else {
            let find = "SELECT lower(tbl_name), count(*) FROM sqlite_schema WHERE type = 'index' GROUP BY 1";
            let indexes =
                self.look(|conn| conn.prepare(find)?.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect())?;
            let find = "SELECT name FROM sqlite_schema WHERE type = 'view'";
            let views = self.look(|conn| conn.prepare(find)?.query_map([], |row| row.get(0))?.collect())?;
            Some(Schema { indexes, views, fulltext: self.look(fulltext_writes::definitions)? })
        };
        self.indexes_at = Some(version);
        self.hooks.begin_schema(schema);
        Ok(())
    }

    /// Whether what SQLite says is really the end: a statement must not bring down every node by making SQLite believe so.
    pub(super) fn confirm_fatal(&self, why: String, is_damaged: bool) -> Result<(), Fatal> {
        if is_damaged && !self.conn.is_autocommit() {
            let check: String = self.look(|conn| conn.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)))?;
            if check == "ok" {
                return Ok(());
            }
        }
        Err(Fatal { why, is_damaged })
    }
}
