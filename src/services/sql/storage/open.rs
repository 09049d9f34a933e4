//! How the writer opens a database, in a file or in memory.

use rusqlite::{Connection, OpenFlags, Result};

/// How the writer opens a file.
pub const FLAGS: OpenFlags =
    OpenFlags::SQLITE_OPEN_READ_WRITE.union(OpenFlags::SQLITE_OPEN_CREATE).union(OpenFlags::SQLITE_OPEN_NO_MUTEX);
/// How the writer keeps a file, with up to 64 MiB of it in memory: beyond that an index in no order is read and written page
/// by page. It waits for a lock that a reader should never hold. The log is what is durable; NORMAL keeps the file
/// sound through a power cut, and some of its end may be lost.
pub const KEPT: &str = "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; \
    PRAGMA wal_autocheckpoint = 0; PRAGMA journal_size_limit = 67108864; PRAGMA cache_size = -65536";

/// An empty database in memory.
pub fn memory() -> Result<Connection> {
    let conn = Connection::open_in_memory()?;
    // No journal is needed: after a crash nothing is left anyway. Small pages keep the simulator's snapshots small.
    conn.execute_batch("PRAGMA page_size = 1024; PRAGMA temp_store = MEMORY; PRAGMA journal_mode = MEMORY")?;
    Ok(conn)
}
