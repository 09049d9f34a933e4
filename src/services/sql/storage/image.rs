//! The database as bytes: pinned at a moment while writes go on, written into a snapshot, and put in place again.
//!
//! In a node the moment is a read transaction of a second connection on the same file: SQLite's log keeps what it sees. From
//! there a backup goes into a file beside, which is what a snapshot streams. In memory the backup is made at once. In a snapshot:
//! the newest entry of the database and the length of its image, as little-endian `u64`, and the image.
//! Not here: whether an image is needed (`services/sql/database.rs`).

use super::file_header::without_log;
use super::own_table;
use crate::services::snapshot_format::{bad, put_numbers, take_numbers};
use crate::services::sql::connection::files::Files;
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, MAIN_DB, OpenFlags, Result};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Pages copied before others may have the disk.
const PAGES_PER_STEP: i32 = 256;

/// A database at one moment.
#[derive(Debug)]
pub struct PinnedImage {
    /// Its newest entry.
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
    /// It could not be pinned: why.
    Failed(String),
}

impl PinnedImage {
    /// Of a database in memory.
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

    /// Of a database in a file, which must not be changed until this returns.
    pub fn in_file(files: &Arc<dyn Files>, newest: u64) -> PinnedImage {
        let open = || -> Result<Connection> {
            let conn = Connection::open_with_flags(files.path(), OpenFlags::SQLITE_OPEN_READ_ONLY)?;
            conn.execute_batch("BEGIN")?;
            // A transaction sees what is there when it first reads.
            conn.query_row("SELECT count(*) FROM sqlite_phalanx WHERE idx = 0", [], |_| Ok(()))?;
            Ok(conn)
        };
        let source = match open() {
            Ok(conn) => Source::File { conn: Mutex::new(conn), files: Arc::clone(files), copy: Mutex::default() },
            Err(error) => Source::Failed(error.to_string()),
        };
        PinnedImage { newest, source }
    }

    /// Writes it into a snapshot.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        match &self.source {
            Source::Memory(conn) => {
                let mut conn = conn.lock().unwrap_or_else(PoisonError::into_inner);
                let image = conn.serialize(MAIN_DB).map_err(io::Error::other)?;
                put_numbers(&mut &mut *out, [self.newest, image.len() as u64])?;
                stream(&mut &image[..], out)
            }
            Source::File { conn, files, copy: slot } => {
                let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
                if slot.is_none() {
                    let path = files.temporary();
                    let conn = conn.lock().unwrap_or_else(PoisonError::into_inner);
                    let made = copy_to_file(&conn, &path, files);
                    *slot = Some(path);
                    made.map_err(io::Error::other)?;
                }
                let path = slot.as_ref().expect("it was just made if it was not there");
                let (mut file, len) = files.open(path)?;
                put_numbers(&mut &mut *out, [self.newest, len])?;
                stream(&mut *file, out)
            }
            Source::Failed(why) => Err(io::Error::other(why.clone())),
        }
    }

    /// Looks at it.
    pub fn look<T>(&self, ask: impl FnOnce(&Connection) -> io::Result<T>) -> io::Result<T> {
        match &self.source {
            Source::Memory(conn) | Source::File { conn, .. } => {
                ask(&conn.lock().unwrap_or_else(PoisonError::into_inner))
            }
            Source::Failed(why) => Err(io::Error::other(why.clone())),
        }
    }
}

impl Drop for PinnedImage {
    fn drop(&mut self) {
        if let Source::File { files, copy, .. } = &self.source
            && let Some(path) = copy.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            files.remove(&path);
        }
    }
}

/// Writes a node's database out as a SQLite file without anything of ours in it.
///
/// # Errors
/// When it cannot be read, there is no room for a copy, or the writer refuses.
pub fn bare_image(files: &Arc<dyn Files>, out: &mut dyn Write) -> io::Result<()> {
    let path = files.temporary();
    let pinned = loop {
        let current = files.path();
        let pinned = PinnedImage::in_file(files, 0);
        // Another file may have taken its place in between.
        if !matches!(pinned.source, Source::Failed(_)) || current == files.path() {
            break pinned;
        }
    };
    let made = pinned.look(|conn| {
        copy_to_file(conn, &path, files).map_err(io::Error::other)?;
        let copy = Connection::open(&path).map_err(io::Error::other)?;
        copy.execute_batch("PRAGMA journal_mode = DELETE")
            .and_then(|()| own_table::remove(&copy))
            .map_err(io::Error::other)
    });
    let written = made.and_then(|()| stream(&mut *files.open(&path)?.0, out));
    files.remove(&path);
    written
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
    copy(from, &mut to, &|| files.breathe())
}

/// Passes an image on, without the mark that it has a log beside it.
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

/// An image that came with a snapshot.
#[derive(Debug)]
pub struct ReceivedImage {
    /// Its newest entry.
    pub newest: u64,
    image: Image,
}

#[derive(Debug)]
enum Image {
    Memory(Vec<u8>),
    File(PathBuf, Arc<dyn Files>),
}

impl ReceivedImage {
    /// Reads it; `None`: there was no database.
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
            return Err(bad("the database's image is cut short"));
        }
        Ok(Some(ReceivedImage { newest, image }))
    }

    /// Puts it in place of what a connection holds.
    pub fn put_in_place(&self, live: &mut Connection) -> Result<()> {
        match &self.image {
            Image::Memory(bytes) => {
                live.flush_prepared_statement_cache();
                live.deserialize_read_exact(MAIN_DB, bytes.as_slice(), bytes.len(), false)?;
                // Reads the schema: an image that is none is found here.
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
