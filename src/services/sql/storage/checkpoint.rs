//! Moves committed pages from SQLite's WAL into the database file, on a connection and thread of its own.
//!
//! By default SQLite does so within a commit, and waits for the disk there: while a snapshot of a large database was
//! copied, single writes took seconds. Here a pass runs concurrently with the writes; only when the WAL has grown
//! large, and a pass has just moved nearly all of it, writers wait for the rest to be moved, so that the WAL can
//! restart at its beginning.
//! Not here: how often (`node/threads/sql_checkpoint.rs`).

use rusqlite::{Connection, OpenFlags, Result};
use std::path::Path;

/// Pages of the WAL above which it is restarted.
const LARGE: i64 = 16_000;
/// Largest number of pages that are moved while writers wait.
const REST_MAX: i64 = 1_000;

/// The connection that runs checkpoints.
#[derive(Debug)]
pub struct Checkpointer(Connection);

impl Checkpointer {
    /// Opens the file, which must exist.
    ///
    /// # Errors
    /// SQLite's error.
    pub fn open(path: &Path) -> Result<Checkpointer> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags(path, flags)?;
        // The checkpoint never waits for a reader or writer that is in its way.
        conn.execute_batch("PRAGMA busy_timeout = 0; PRAGMA wal_autocheckpoint = 0; PRAGMA synchronous = NORMAL")?;
        Ok(Checkpointer(conn))
    }

    /// One pass.
    ///
    /// # Errors
    /// SQLite's error.
    pub fn pass(&self) -> Result<()> {
        let (log, moved) = self.run("PASSIVE")?;
        // As the WAL keeps growing meanwhile, a second pass leaves almost nothing.
        if log > LARGE && moved == log {
            let (log, moved) = self.run("PASSIVE")?;
            if log - moved < REST_MAX {
                self.run("RESTART")?;
            }
        }
        Ok(())
    }

    /// Pages in the WAL, and how many of those are in the file.
    fn run(&self, mode: &str) -> Result<(i64, i64)> {
        let sql = format!("PRAGMA wal_checkpoint({mode})");
        self.0.query_row(&sql, [], |row| Ok((row.get(1)?, row.get(2)?)))
    }
}
