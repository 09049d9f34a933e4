//! The database as bytes: pinned at one moment while writes continue, written into a snapshot, and restored from it.
//!
//! In a node the moment is a read transaction of a second connection to the same file: SQLite's WAL keeps the pages
//! that this transaction sees. They are copied into a temporary file, which is streamed into the snapshot. A database
//! in memory is copied at once.
//!
//! Format in a snapshot: the index of the database's newest entry and the length of its image in bytes, as
//! little-endian `u64`, followed by the image.
//!
//! Not here: whether an image is needed (`services/sql/database.rs`).

use super::file_header::without_log;
use super::own_table;
use crate::lock::{Mutex, Permit, lock};
use crate::services::snapshot_format::{bad, put_numbers, take_numbers};
use crate::services::sql::connection::files::Files;
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, MAIN_DB, OpenFlags, Result};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Largest database that is rebuilt for a backup, in bytes.
const VACUUM_BYTES_MAX: i64 = 256 << 20;
/// Pages copied between two pauses, in which other threads can use the disk.
const PAGES_PER_STEP: i32 = 256;

/// The content of a database at one moment.
#[derive(Debug)]
pub struct PinnedImage {
    /// Index of its newest entry.
    pub newest: u64,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Memory(Mutex<Connection>),
    File {
        conn: Mutex<Connection>,
        files: Arc<dyn Files>,
        copy: Mutex<Option<PathBuf>>,
    },
    /// The database could not be pinned: the reason.
    Failed(String),
}

impl PinnedImage {
    /// Copies a database in memory. `newest`: index of its newest entry.
    pub fn in_memory(conn: &Connection, newest: u64) -> PinnedImage {
        let copy = || -> Result<Connection> {
            let mut to = Connection::open_in_memory()?;
            copy(conn, &mut to, &|| {})?;
            Ok(to)
        };
        let source = match copy() {
            Ok(copy) => Source::Memory(Mutex::new(copy)),
            Err(error) => Source::Failed(error.to_string()),
        };
        PinnedImage { newest, source }
    }

    /// Pins a database in a file, which must not be changed until this returns. `newest`: index of its newest entry.
    pub fn in_file(files: &Arc<dyn Files>, newest: u64) -> PinnedImage {
        let open = || -> Result<Connection> {
            let conn = Connection::open_with_flags(files.path(), OpenFlags::SQLITE_OPEN_READ_ONLY)?;
            conn.execute_batch("BEGIN")?;
            // A transaction sees the state at its first read.
            conn.query_row("SELECT count(*) FROM sqlite_phalanx WHERE idx = 0", [], |_| Ok(()))?;
            Ok(conn)
        };
        let source = match open() {
            Ok(conn) => Source::File { conn: Mutex::new(conn), files: Arc::clone(files), copy: Mutex::default() },
            Err(error) => Source::Failed(error.to_string()),
        };
        PinnedImage { newest, source }
    }

    /// Writes the image into a snapshot.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        match &self.source {
            Source::Memory(conn) => {
                let mut conn = lock(conn);
                let image = conn.serialize(MAIN_DB).map_err(io::Error::other)?;
                put_numbers(&mut &mut *out, [self.newest, image.len() as u64])?;
                stream(&mut &image[..], out)
            }
            Source::File { conn, files, copy: slot } => {
                let mut slot = lock(slot);
                if slot.is_none() {
                    let path = files.temporary();
                    let conn = lock(conn);
                    let made = copy_to_file(&conn, &path, files);
                    *slot = Some(path);
                    made.map_err(io::Error::other)?;
                }
                let path = slot.as_ref().expect("it is created above if it is missing");
                let (mut file, len) = files.open(path)?;
                put_numbers(&mut &mut *out, [self.newest, len])?;
                stream(&mut *file, out)
            }
            Source::Failed(why) => Err(io::Error::other(why.clone())),
        }
    }

    /// Calls `ask` with a connection to the pinned content.
    pub fn with_connection<T>(&self, ask: impl FnOnce(&Connection) -> io::Result<T>) -> io::Result<T> {
        match &self.source {
            Source::Memory(conn) | Source::File { conn, .. } => ask(&lock(conn)),
            Source::Failed(why) => Err(io::Error::other(why.clone())),
        }
    }
}

impl Drop for PinnedImage {
    fn drop(&mut self) {
        if let Source::File { files, copy, .. } = &self.source
            && let Some(path) = lock(copy).take()
        {
            files.remove(&path);
        }
    }
}

/// Writes a node's database as a SQLite file without the internal table. `is_vacuumed`: it is rebuilt, without free pages.
///
/// # Errors
/// The database cannot be read, the disk has no room for a copy, or `out` fails.
pub fn bare_image(files: &Arc<dyn Files>, is_vacuumed: bool, out: &mut dyn Write) -> io::Result<()> {
    let path = files.temporary();
    let pinned = loop {
        let current = files.path();
        let pinned = PinnedImage::in_file(files, 0);
        // The file may have been replaced by another one in between.
        if !matches!(pinned.source, Source::Failed(_)) || current == files.path() {
            break pinned;
        }
    };
    let made = pinned.with_connection(|conn| {
        copy_to_file(conn, &path, files).map_err(io::Error::other)?;
        let copy = Connection::open(&path).map_err(io::Error::other)?;
        copy.execute_batch("PRAGMA journal_mode = DELETE")
            .and_then(|()| own_table::remove(&copy))
            .map_err(io::Error::other)?;
        if is_vacuumed { vacuum(&copy) } else { Ok(()) }
    });
    let written = made.and_then(|()| stream(&mut *files.open(&path)?.0, out));
    files.remove(&path);
    written
}

/// Rebuilds a copy without free pages, one at a time: SQLite needs twice its size on the disk meanwhile.
fn vacuum(copy: &Connection) -> io::Result<()> {
    static RUNNING: Permit = Permit::new();
    let number = |sql: &str| copy.query_row(sql, [], |row| row.get::<_, i64>(0)).map_err(io::Error::other);
    let bytes = number("PRAGMA page_count")? * number("PRAGMA page_size")?;
    if bytes > VACUUM_BYTES_MAX {
        let why = format!("vacuum is for databases of up to {} MiB: run VACUUM on the backup", VACUUM_BYTES_MAX >> 20);
        return Err(io::Error::other(why));
    }
    let Some(_running) = RUNNING.try_take() else {
        return Err(io::Error::other("another backup is being vacuumed: try again later"));
    };
    copy.execute_batch("VACUUM").map_err(io::Error::other)
}

fn copy(from: &Connection, to: &mut Connection, rest: &dyn Fn()) -> Result<()> {
    let backup = Backup::new(from, to)?;
    loop {
        match backup.step(PAGES_PER_STEP)? {
            StepResult::Done => return Ok(()),
            _ => rest(),
        }
    }
}

fn copy_to_file(from: &Connection, path: &Path, files: &Arc<dyn Files>) -> Result<()> {
    let mut to = Connection::open(path)?;
    to.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF")?;
    copy(from, &mut to, &|| files.pause_copy())
}

/// Copies an image to `out`, with a header that does not refer to a WAL.
fn stream(from: &mut dyn Read, out: &mut dyn Write) -> io::Result<()> {
    let (mut buffer, mut at) = (vec![0; 64 << 10], 0);
    loop {
        let len = from.read(&mut buffer)?;
        if len == 0 {
            return Ok(());
        }
        without_log(at, &mut buffer[..len]);
        out.write_all(&buffer[..len])?;
        at += len as u64;
    }
}

/// An image received with a snapshot.
#[derive(Debug)]
pub struct ReceivedImage {
    /// Index of its newest entry.
    pub newest: u64,
    image: Image,
}

#[derive(Debug)]
enum Image {
    Memory(Vec<u8>),
    File(PathBuf, Arc<dyn Files>),
}

impl ReceivedImage {
    /// Reads an image from a snapshot; `None` if the snapshot has no database.
    pub fn read(from: &mut dyn Read, files: Option<&Arc<dyn Files>>) -> io::Result<Option<ReceivedImage>> {
        let [newest, len] = take_numbers(&mut &mut *from)?;
        if len == 0 {
            return Ok(None);
        }
        let mut from = from.take(len);
        let (image, got) = match files {
            None => {
                let mut bytes = Vec::new();
                let got = from.read_to_end(&mut bytes)? as u64;
                (Image::Memory(bytes), got)
            }
            Some(files) => {
                let path = files.temporary();
                let image = Image::File(path.clone(), Arc::clone(files));
                let mut file = files.create(&path)?;
                let got = io::copy(&mut from, &mut file)?;
                file.flush()?;
                (image, got)
            }
        };
        if got != len {
            return Err(bad("the database image in the snapshot is truncated"));
        }
        Ok(Some(ReceivedImage { newest, image }))
    }

    /// Replaces the content of a connection by the image.
    pub fn put_in_place(&self, live: &mut Connection) -> Result<()> {
        match &self.image {
            Image::Memory(bytes) => {
                live.flush_prepared_statement_cache();
                live.deserialize_read_exact(MAIN_DB, bytes.as_slice(), bytes.len(), false)?;
                // Reads the schema: bytes that are not a database are detected here.
                live.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))
            }
            Image::File(path, _) => {
                let from = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
                from.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
                copy(&from, live, &|| {})
            }
        }
    }
}

impl Drop for ReceivedImage {
    fn drop(&mut self) {
        if let Image::File(path, files) = &self.image {
            files.remove(path);
        }
    }
}
