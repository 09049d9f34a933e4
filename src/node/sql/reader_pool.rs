//! The read-only connections to this node's database, and the limits on what reads may take.
//!
//! Not here: what a read is and when it is fresh enough (`handle.rs`), what a statement does
//! (`services/sql/reader.rs`).

use super::load_permit::LoadPermits;
use crate::limits::{SQL_READERS_MAX, SQL_READS_BYTES_MAX};
use crate::lock::{Mutex, lock, wait_while};
use crate::node::shared::memory::resident_bytes;
use crate::node::views::statement_timings::StatementTimings;
use crate::outcome::Reason;
use crate::services::sql::{Files, Reader};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar};
use std::time::{Duration, Instant};

/// Readers beyond [`SQL_READERS_MAX`] for the checks of writes, each of which takes a moment.
const CHECK_READERS: usize = 4;
/// Time between two checks of memory and disk while a read runs.
const CHECK_EVERY: Duration = Duration::from_millis(5);
/// The same while no read runs.
const IDLE_CHECK_EVERY: Duration = Duration::from_secs(1);

/// Read-only connections to the database, and what else its reads share.
pub struct ReaderPool {
    /// The database's files.
    pub files: Arc<dyn Files>,
    connections: Mutex<Connections>,
    freed: Condvar,
    limits: Arc<ReadLimits>,
    /// How long statements of the writer take.
    pub timings: Arc<StatementTimings>,
    /// Name of the newest load that this node has prepared.
    prepared: Arc<AtomicU64>,
    pub load_permits: LoadPermits,
}

/// Interrupts reads that take too long, or too much memory or disk: SQLite bounds neither the memory of a statement nor
/// its temporary files for sorting.
struct ReadLimits {
    files: Arc<dyn Files>,
    started: Instant,
    /// Bytes of memory of this process without reads.
    idle_bytes: AtomicU64,
    /// When that was measured, in microseconds since the start.
    idle_us: AtomicU64,
    /// When memory and disk were checked last, in microseconds since the start, and what was found.
    checked_us: AtomicU64,
    is_short_of_memory: AtomicBool,
    is_short_of_disk: AtomicBool,
}

impl ReadLimits {
    /// Called while no read runs: measures the memory that the process uses without reads.
    fn note_idle(&self) {
        let now_us = self.started.elapsed().as_micros() as u64;
        if now_us.saturating_sub(self.idle_us.load(Ordering::Relaxed)) >= IDLE_CHECK_EVERY.as_micros() as u64 {
            self.idle_us.store(now_us, Ordering::Relaxed);
            self.idle_bytes.store(resident_bytes(), Ordering::Relaxed);
        }
    }

    /// Why a read with this deadline must end now, if it must.
    fn reason_to_stop(&self, ends_us: u64) -> Option<&'static str> {
        let now_us = self.started.elapsed().as_micros() as u64;
        if now_us > ends_us {
            return Some("interrupted: timeout exceeded");
        }
        if now_us.saturating_sub(self.checked_us.load(Ordering::Relaxed)) >= CHECK_EVERY.as_micros() as u64 {
            self.checked_us.store(now_us, Ordering::Relaxed);
            let grown = resident_bytes().saturating_sub(self.idle_bytes.load(Ordering::Relaxed));
            self.is_short_of_memory.store(grown > SQL_READS_BYTES_MAX, Ordering::Relaxed);
            self.is_short_of_disk.store(!self.files.has_room_for_reads(), Ordering::Relaxed);
        }
        if self.is_short_of_memory.load(Ordering::Relaxed) {
            return Some("interrupted: SQL reads use too much memory on this node; read less, or try again later");
        }
        self.is_short_of_disk
            .load(Ordering::Relaxed)
            .then_some("interrupted: sorting the rows of this read leaves too little space on this node's disk")
    }
}

#[derive(Default)]
struct Connections {
    idle: Vec<PooledReader>,
    open: usize,
}

/// A reader, and its deadline in microseconds since the start.
struct PooledReader {
    reader: Reader,
    /// Which file it reads.
    path: PathBuf,
    ends_us: Arc<AtomicU64>,
}

/// A reader of the pool, which gets it back when this is dropped.
pub struct ReaderGuard<'a> {
    pool: &'a ReaderPool,
    pooled: Option<PooledReader>,
}

impl fmt::Debug for ReaderPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReaderPool").field("open", &lock(&self.connections).open).finish_non_exhaustive()
    }
}

impl ReaderPool {
    /// Connections are opened when they are needed. `timings`: of the writer of the same files; `prepared`: the newest
    /// load that it has prepared.
    pub fn new(files: Arc<dyn Files>, timings: Arc<StatementTimings>, prepared: Arc<AtomicU64>) -> ReaderPool {
        let limits = ReadLimits {
            files: Arc::clone(&files),
            started: Instant::now(),
            idle_bytes: AtomicU64::new(resident_bytes()),
            idle_us: AtomicU64::new(0),
            checked_us: AtomicU64::new(0),
            is_short_of_memory: AtomicBool::new(false),
            is_short_of_disk: AtomicBool::new(false),
        };
        ReaderPool {
            files,
            connections: Mutex::default(),
            freed: Condvar::new(),
            limits: Arc::new(limits),
            timings,
            prepared,
            load_permits: LoadPermits::default(),
        }
    }

    /// A reader that must be done by the deadline; waits for one until then.
    ///
    /// # Errors
    /// All are in use, or the file cannot be opened.
    pub fn take(&self, deadline: Instant) -> Result<ReaderGuard<'_>, Reason> {
        self.take_within(SQL_READERS_MAX, deadline)
    }

    /// As [`ReaderPool::take`], for the check of a write: long reads that have all other readers do not hold it up.
    ///
    /// # Errors
    /// As [`ReaderPool::take`].
    pub fn take_for_check(&self, deadline: Instant) -> Result<ReaderGuard<'_>, Reason> {
        self.take_within(SQL_READERS_MAX + CHECK_READERS, deadline)
    }

    /// Takes a reader if fewer than `most` are in use.
    fn take_within(&self, most: usize, deadline: Instant) -> Result<ReaderGuard<'_>, Reason> {
        let mut connections = lock(&self.connections);
        if connections.idle.len() == connections.open {
            self.limits.note_idle();
        }
        let is_full = |it: &mut Connections| it.open - it.idle.len() >= most;
        connections = wait_while(&self.freed, connections, deadline, is_full);
        if is_full(&mut connections) {
            return Err(Reason::TooManyReads);
        }
        let mut pooled = connections.idle.pop();
        // A file that was loaded has replaced the one that this connection reads.
        while pooled.take_if(|pooled| pooled.path != self.files.path()).is_some() {
            connections.open -= 1;
            pooled = connections.idle.pop();
        }
        connections.open += usize::from(pooled.is_none());
        drop(connections);
        let mut guard = ReaderGuard { pool: self, pooled };
        if guard.pooled.is_none() {
            guard.pooled = Some(self.open().map_err(|e| Reason::Unreadable(e.to_string()))?);
        }
        let ends_us = deadline.saturating_duration_since(self.limits.started).as_micros() as u64;
        if let Some(pooled) = &guard.pooled {
            pooled.ends_us.store(ends_us, Ordering::Relaxed);
        }
        Ok(guard)
    }

    /// Connections that reads use now.
    pub fn in_use(&self) -> usize {
        let connections = lock(&self.connections);
        connections.open - connections.idle.len()
    }

    /// Name of the newest load that this node has prepared.
    pub fn prepared_load(&self) -> u64 {
        self.prepared.load(Ordering::Relaxed)
    }

    /// Closes connections to a file that another one has replaced: while it is open it takes space on the disk.
    pub fn close_old(&self, path: &Path) {
        let mut connections = lock(&self.connections);
        let before = connections.idle.len();
        connections.idle.retain(|pooled| pooled.path == path);
        connections.open -= before - connections.idle.len();
    }

    fn open(&self) -> rusqlite::Result<PooledReader> {
        let ends_us = Arc::new(AtomicU64::new(u64::MAX));
        let (ends, limits) = (Arc::clone(&ends_us), Arc::clone(&self.limits));
        let is_over = move || limits.reason_to_stop(ends.load(Ordering::Relaxed));
        let is_over: Arc<dyn Fn() -> Option<&'static str> + Send + Sync> = Arc::new(is_over);
        loop {
            let path = self.files.path();
            match Reader::open(&path, Arc::clone(&is_over)) {
                Ok(reader) => return Ok(PooledReader { reader, path, ends_us }),
                // Another file has replaced it meanwhile.
                Err(_) if path != self.files.path() => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for ReaderGuard<'_> {
    fn drop(&mut self) {
        let mut connections = lock(&self.pool.connections);
        match self.pooled.take() {
            Some(pooled) => connections.idle.push(pooled),
            None => connections.open -= 1,
        }
        drop(connections);
        // All of them: the waiting threads have different bounds.
        self.pool.freed.notify_all();
    }
}

impl Deref for ReaderGuard<'_> {
    type Target = Reader;

    fn deref(&self) -> &Reader {
        &self.pooled.as_ref().expect("it is there until it is given back").reader
    }
}

impl DerefMut for ReaderGuard<'_> {
    fn deref_mut(&mut self) -> &mut Reader {
        &mut self.pooled.as_mut().expect("it is there until it is given back").reader
    }
}

#[cfg(test)]
mod tests {
    use crate::node::process::sql_folder::SqlFolder;
    use crate::node::sql::reader_pool::*;

    #[test]
    fn reads_that_take_long_hold_up_no_check_of_a_write() {
        let home = tempfile::tempdir().unwrap();
        let files = SqlFolder::open(home.path(), "n1".to_string(), 0, Arc::default(), Arc::default()).unwrap();
        rusqlite::Connection::open(files.path()).unwrap().execute_batch("CREATE TABLE t (n)").unwrap();
        let pool = ReaderPool::new(Arc::new(files), Arc::default(), Arc::default());
        let soon = || Instant::now() + Duration::from_millis(20);
        let mut reads: Vec<_> = (0..SQL_READERS_MAX).map(|_| pool.take(soon()).unwrap()).collect();
        assert!(matches!(pool.take(soon()), Err(Reason::TooManyReads)));
        let checks: Vec<_> = (0..CHECK_READERS).map(|_| pool.take_for_check(soon()).unwrap()).collect();
        assert!(matches!(pool.take_for_check(soon()), Err(Reason::TooManyReads)));
        drop(checks);
        assert!(matches!(pool.take(soon()), Err(Reason::TooManyReads)), "idle ones are kept for checks");
        reads.pop();
        pool.take(soon()).unwrap();
        pool.take_for_check(soon()).unwrap();
    }
}
