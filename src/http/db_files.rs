//! `/db/backup` and `/db/load`: the whole database out of a node, and into all of them.
//!
//! A backup is as fresh as its `level`, and leaves piece by piece: one that breaks off without its last chunk is not whole. A
//! file that is loaded goes through the log in pieces, which wait in the database until the last command puts them in place;
//! so a load that fails in the middle has changed no table. One load at a time: a file is held in memory meanwhile.
//! Not here: what a file may hold (`services/sql/load.rs`).

use super::api::{deadline, failed, leader};
use super::conn::Conn;
use super::db::{level, seed};
use super::idempotency;
use super::params::Params;
use super::parse::Head;
use super::reply::{self, Reply};
use super::routes::{Indexed, origin};
use super::server::Door;
use crate::node::BackupForm;
use crate::services::sql::words::{Bytes, RUN_BYTES_MAX, STAGE_BYTES_MAX};
use crate::services::sql::{Answer, Command, ReadLevel};
use crate::types::{Index, Outcome};
use serde_json::json;
use std::io::{self, Write};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Media type of a load; no form of another site can send it.
pub(super) const FILE: &str = "application/octet-stream";
/// Bytes of one chunk of a backup.
const CHUNK_BYTES: usize = 256 << 10;
/// Longest that a backup may take: a slow reader would keep old pages from being written over.
const BACKUP_TIME_MAX: Duration = Duration::from_secs(600);
/// Longest that a whole file may take through the log.
const LOAD_TIME_MAX: Duration = Duration::from_secs(120);

/// What is asked of `/db/backup`.
pub(super) struct Wanted {
    form: BackupForm,
    level: ReadLevel,
    is_chunked: bool,
}

impl Wanted {
    /// Media type and file name.
    pub(super) fn media(&self) -> (&'static str, &'static str) {
        match self.form {
            BackupForm::File => ("application/vnd.sqlite3", "phalanx.sqlite3"),
            BackupForm::Sql => ("application/sql; charset=utf-8", "phalanx.sql"),
        }
    }

    pub(super) fn of(head: &Head) -> Result<Wanted, Reply> {
        let params = Params::of(head);
        let form = match params.get("fmt") {
            None | Some("binary") => BackupForm::File,
            Some("sql") => BackupForm::Sql,
            Some(_) => return Err(Reply::refused(400, "fmt is binary or sql")),
        };
        let _ = params.flag("redirect")?;
        Ok(Wanted { form, level: level(&params)?, is_chunked: head.is_http11 })
    }
}

/// Sends a backup; the reply if it came to nothing before its first byte.
pub(super) fn backup(door: &Door, conn: &mut Conn, wanted: &Wanted) -> Option<Reply> {
    let ends = Instant::now() + BACKUP_TIME_MAX;
    let mut out = Pieces { door, conn, wanted, gathered: Vec::new(), has_begun: false, ends };
    match door.host.sql_backup(wanted.form, wanted.level, deadline(door), &mut out) {
        Outcome::Done(_) => {
            let _ = out.finish();
            None
        }
        // It breaks off: without its end the client knows.
        _ if out.has_begun => None,
        other => Some(failed(door, other)),
    }
}

/// The body of a backup on its way out.
struct Pieces<'a> {
    door: &'a Door,
    conn: &'a mut Conn,
    wanted: &'a Wanted,
    gathered: Vec<u8>,
    has_begun: bool,
    ends: Instant,
}

impl Pieces<'_> {
    fn begin(&mut self) -> io::Result<()> {
        self.has_begun = true;
        let (media, name) = self.wanted.media();
        let out = self.conn.output();
        reply::status_line(out, 200);
        reply::header(out, "Content-Type", media);
        reply::header(out, "Content-Disposition", &format!("attachment; filename=\"{name}\""));
        reply::header(out, "Cache-Control", "no-store");
        reply::header(out, "X-Content-Type-Options", "nosniff");
        origin(self.door).write(out);
        if self.wanted.is_chunked {
            reply::header(out, "Transfer-Encoding", "chunked");
        }
        reply::header(out, "Connection", "close");
        out.extend_from_slice(b"\r\n");
        self.conn.flush()
    }

    fn send(&mut self) -> io::Result<()> {
        if !self.has_begun {
            self.begin()?;
        }
        if Instant::now() > self.ends || self.door.host.is_stopping() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        if !self.gathered.is_empty() {
            let head = format!("{:x}\r\n", self.gathered.len());
            match self.wanted.is_chunked {
                true => self.conn.send(&[head.as_bytes(), &self.gathered, b"\r\n"])?,
                false => self.conn.send(&[&self.gathered])?,
            }
            self.gathered.clear();
        }
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        self.send()?;
        if self.wanted.is_chunked { self.conn.send(&[b"0\r\n\r\n"]) } else { Ok(()) }
    }
}

impl Write for Pieces<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = CHUNK_BYTES - self.gathered.len();
        let taken = bytes.len().min(room);
        self.gathered.extend_from_slice(&bytes[..taken]);
        if self.gathered.len() == CHUNK_BYTES {
            self.send()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The right to load, until it is dropped.
pub(super) struct Turn<'a>(&'a Door);

impl Turn<'_> {
    /// Before the body is read: one file in memory is enough.
    pub(super) fn take(door: &Door) -> Result<Turn<'_>, Reply> {
        match door.is_loading.swap(true, Ordering::Acquire) {
            false => Ok(Turn(door)),
            true => Err(Reply::refused(503, "another load is under way on this node")),
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.is_loading.store(false, Ordering::Release);
    }
}

/// `POST /db/load`: a SQLite file replaces all tables; SQL text is carried out, all or nothing.
pub(super) fn load(door: &Door, head: &Head, body: &[u8]) -> Indexed {
    let answered = (|| {
        Params::of(head).flag("redirect")?;
        let tag = idempotency::tag(head, body)?;
        let seed = seed();
        let (command, until) = if body.starts_with(b"SQLite format 3\0") {
            let until = Instant::now() + LOAD_TIME_MAX;
            stage(door, body, seed, until)?;
            let crc = crc32fast::hash(body);
            (Command::PutInPlace { load: seed, bytes: body.len() as u64, crc, seed }, until)
        } else {
            if body.len() > RUN_BYTES_MAX {
                let why = format!("SQL text has {RUN_BYTES_MAX} bytes at most; a SQLite file may be larger");
                return Err(Reply::refused(413, &why));
            }
            let text = std::str::from_utf8(body);
            let sql = text.map_err(|_| Reply::refused(400, "neither a SQLite file nor SQL text in UTF-8"))?.to_string();
            if sql.trim().is_empty() {
                return Err(Reply::refused(400, "nothing to load: send a SQLite file or SQL text"));
            }
            (Command::Load { sql, seed }, deadline(door))
        };
        let index = done(door, door.host.sql_write(&command, tag, until))?;
        Ok(Indexed { reply: Reply::json(200, &json!({"results": []})), index: Some(index.0) })
    })();
    answered.unwrap_or_else(|reply: Reply| reply.into())
}

/// Sends a file through the log. Whatever becomes of a piece, no table has changed.
fn stage(door: &Door, body: &[u8], load: u64, until: Instant) -> Result<(), Reply> {
    for (at, piece) in body.chunks(STAGE_BYTES_MAX).enumerate() {
        let offset = (at * STAGE_BYTES_MAX) as u64;
        let outcome = door.host.sql_write(&Command::Stage { load, offset, bytes: Bytes::from(piece) }, None, until);
        let outcome = match outcome {
            Outcome::Unknown(why) => Outcome::Refused(format!("nothing was changed: {why}")),
            other => other,
        };
        done(door, outcome)?;
    }
    Ok(())
}

fn done(door: &Door, outcome: Outcome<(Index, Answer)>) -> Result<Index, Reply> {
    match outcome {
        Outcome::Done((index, Answer::Done)) => Ok(index),
        Outcome::Done((_, Answer::Refused(why))) => Err(Reply::error(400, &why, "refused", leader(door))),
        Outcome::Done(_) => Err(super::kv::strange()),
        other => Err(failed(door, other)),
    }
}
