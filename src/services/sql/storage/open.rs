//! How the writer opens a database, in a file or in memory.

use rusqlite::{Connection, OpenFlags, Result};

/// Flags with which the writer opens a file.
pub const FLAGS: OpenFlags =
    OpenFlags::SQLITE_OPEN_READ_WRITE.union(OpenFlags::SQLITE_OPEN_CREATE).union(OpenFlags::SQLITE_OPEN_NO_MUTEX);
/// Settings of the writer's connection to a file. The page cache holds up to 64 MiB; beyond that, each insertion in
/// random order into an index reads and writes a page of the file. `busy_timeout` (ms) covers locks that a reader
/// should never hold. Durability comes from the Raft log: with `synchronous = NORMAL` a power failure may lose the last
/// transactions, but does not damage the file.
pub const KEPT: &str = "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; \
    PRAGMA wal_autocheckpoint = 0; PRAGMA journal_size_limit = 67108864; PRAGMA cache_size = -65536";

/// An empty database in memory.
pub fn memory() -> Result<Connection> {
    let conn = Connection::open_in_memory()?;
    // No journal on disk is needed: nothing survives a crash anyway. Small pages keep the simulator's snapshots small.
    conn.execute_batch("PRAGMA page_size = 1024; PRAGMA temp_store = MEMORY; PRAGMA journal_mode = MEMORY")?;
    Ok(conn)
}
