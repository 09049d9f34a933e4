//! A connection that reads a node's file beside the one that writes.
//!
//! Statements of one request see one state. A read ends when its deadline has come or its rows are too many.
//! Not here: how many readers there are and who may have one (`node/sql.rs`), how fresh what they see is.

use super::authorizer::Purpose;
use super::machine::Own;
use super::statement::{self, Room, Trouble};
use super::watch::Watch;
use super::words::{
    Kind, Outcome, READ_ROWS_BYTES_MAX, READ_ROWS_MAX, ROW_BYTES_MAX, SQL_BYTES_MAX, STEPS_MAX, Statement,
};
use super::{connection, dump};
use rusqlite::{Connection, OpenFlags, Result};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

/// Statements that a connection keeps prepared.
const PREPARED_MAX: usize = 64;
/// Steps of one read: its deadline comes long before. What functions are charged for counts against it.
const READ_STEPS_MAX: u64 = 1000 * STEPS_MAX;

/// See the module.
#[derive(Debug)]
pub struct Reader {
    conn: Connection,
    watch: Arc<Watch>,
}

impl Reader {
    /// Opens the file. `is_over` is asked every few steps why the read must end.
    pub fn open(path: &Path, is_over: Arc<dyn Fn() -> Option<&'static str> + Send + Sync>) -> Result<Reader> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut conn = Connection::open_with_flags(path, flags)?;
        conn.execute_batch("PRAGMA busy_timeout = 5000; PRAGMA query_only = ON")?;
        conn.set_prepared_statement_cache_capacity(PREPARED_MAX);
        let watch = Arc::new(Watch::default());
        connection::furnish(&mut conn, &watch, Purpose::Read, Some(is_over))?;
        connection::set_length(&conn, Some(ROW_BYTES_MAX))?;
        Ok(Reader { conn, watch })
    }

    /// Reads; `now_ms`: what `now` is. `lap` is called before the first statement and after each.
    pub fn read(&mut self, statements: &[Statement], now_ms: u64, seed: u64, lap: &mut dyn FnMut()) -> Vec<Outcome> {
        self.watch.begin(now_ms, seed, READ_STEPS_MAX);
        let is_several = statements.len() > 1;
        if is_several && let Err(error) = self.own("BEGIN") {
            return vec![Outcome::Failed(statement::said(&error)); statements.len()];
        }
        let mut room = Room { bytes: READ_ROWS_BYTES_MAX, rows: READ_ROWS_MAX };
        lap();
        let timed = |one| {
            let outcome = self.one(one, &mut room);
            lap();
            outcome
        };
        let outcomes = statements.iter().map(timed).collect();
        if is_several {
            // Nothing was changed: how it ends makes no difference.
            let _ = self.own("COMMIT");
        }
        outcomes
    }

    fn own(&self, sql: &str) -> Result<()> {
        let _own = Own::begin(&self.watch);
        self.conn.execute_batch(sql)
    }

    fn one(&self, statement: &Statement, room: &mut Room) -> Outcome {
        if let Err(error) = connection::set_length(&self.conn, Some(ROW_BYTES_MAX)) {
            return Outcome::Failed(statement::said(&error));
        }
        let done = if is_plain(&statement.sql) {
            self.watch.begin_statement();
            let prepared = self.conn.prepare_cached(&statement.sql);
            match prepared.and_then(|prepared| statement::narrow(&self.conn, &prepared).map(|()| prepared)) {
                Ok(mut prepared) => {
                    statement::carry_out(&self.conn, &self.watch, &mut prepared, &statement.params, Kind::Query, room)
                }
                Err(error) => Err(statement::trouble(&self.watch, &error)),
            }
        } else {
            statement::run(&self.conn, &self.watch, statement, Kind::Query, room)
        };
        match done {
            Ok(outcome) => outcome,
            Err(Trouble::Failed(why) | Trouble::TooLong(why) | Trouble::Fatal { why, .. }) => Outcome::Failed(why),
            Err(Trouble::RanAway) => Outcome::Failed(super::functions::RAN_AWAY.to_string()),
        }
    }

    /// Whether each of these can only read, as far as the schema tells now. What cannot be prepared will be refused as a read too.
    pub fn only_read(&self, statements: &[Statement]) -> bool {
        // What an earlier read has used up is no reason to send this one through the log.
        self.watch.begin(0, 0, READ_STEPS_MAX);
        statements.iter().all(|statement| {
            self.watch.begin_statement();
            connection::set_length(&self.conn, Some(ROW_BYTES_MAX)).is_ok()
                && (statement.sql.len() > SQL_BYTES_MAX
                    || statement::too_many_selects(&statement.sql).is_some()
                    || self.conn.prepare(&statement.sql).map_or(true, |prepared| prepared.readonly()))
        })
    }

    /// Fingerprints of all tables, and the newest entry that they are of.
    pub fn digest(&self) -> Result<super::words::Digest> {
        self.watch.begin(0, 0, READ_STEPS_MAX);
        self.own("BEGIN")?;
        let own = Own::begin(&self.watch);
        let digest = super::journal::newest(&self.conn).and_then(|newest| super::digest::take(&self.conn, newest));
        drop(own);
        let _ = self.own("COMMIT");
        digest
    }

    /// Writes the statements that make everything anew.
    pub fn dump(&self, out: &mut dyn Write) -> io::Result<()> {
        self.own("BEGIN").map_err(io::Error::other)?;
        let own = Own::begin(&self.watch);
        let done = dump::write(&self.conn, out);
        drop(own);
        let _ = self.own("COMMIT");
        done
    }
}

/// One statement without another behind it, for certain, and none that takes too long to prepare: the cache may have it.
/// Preparing many in a row goes as deep as they are many.
fn is_plain(sql: &str) -> bool {
    let first = sql.trim_start().get(..6).unwrap_or_default();
    sql.len() <= SQL_BYTES_MAX
        && statement::too_many_selects(sql).is_none()
        && !first.eq_ignore_ascii_case("pragma")
        && !sql.trim_end_matches([';', ' ', '\n', '\r', '\t']).contains(';')
}
