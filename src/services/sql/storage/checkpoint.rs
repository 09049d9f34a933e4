//! Moves what is committed from SQLite's log into its file, on a connection and thread of its own.
//!
//! Left to itself SQLite does so within a commit, and waits for the disk there: while a snapshot of a large database was copied,
//! single writes took seconds. Here a pass runs beside the writes; only when the log has grown large, and a pass has just moved
//! nearly all of it, writers wait for the rest to be moved, so that the log can begin again at its start.
//! Not here: how often (`node/threads/sql_checkpoint.rs`).

use rusqlite::{Connection, OpenFlags, Result};
use std::path::Path;

/// Pages of log, from which on it shall begin again.
const LARGE: i64 = 16_000;
/// Pages that are moved while writers wait.
const REST_MAX: i64 = 1_000;

/// The connection that moves the log.
#[derive(Debug)]
pub struct Checkpointer(Connection);

impl Checkpointer {
    /// Opens the file. It must be there.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn open(path: &Path) -> Result<Checkpointer> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags(path, flags)?;
        // Whoever is in the way, reader or writer, goes first.
        conn.execute_batch("PRAGMA busy_timeout = 0; PRAGMA wal_autocheckpoint = 0; PRAGMA synchronous = NORMAL")?;
        Ok(Checkpointer(conn))
    }

    /// One pass.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn pass(&self) -> Result<()> {
        let (log, moved) = self.run("PASSIVE")?;
        // As the log goes on growing meanwhile, a second pass leaves next to nothing.
        if log > LARGE && moved == log {
            let (log, moved) = self.run("PASSIVE")?;
            if log - moved < REST_MAX {
                self.run("RESTART")?;
            }
        }
        Ok(())
    }

    /// Pages of log, and of those how many are in the file.
    fn run(&self, mode: &str) -> Result<(i64, i64)> {
        let sql = format!("PRAGMA wal_checkpoint({mode})");
        self.0.query_row(&sql, [], |row| Ok((row.get(1)?, row.get(2)?)))
    }
}
