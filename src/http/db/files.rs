//! `/db/backup` and `/db/load`: the whole database out of a node, and into all of them.
//!
//! A backup is as fresh as its `level`, and is sent piece by piece: one that ends without its last chunk is incomplete.
//! A file that is loaded goes through the log in pieces as it arrives; they are kept in the database until the last
//! command puts the file in place, so that a load that fails in the middle has changed no table. A node runs one load
//! at a time.
//! Not here: what a file may hold (`services/sql/storage/load.rs`).

use super::statements::{form_decode, level, seed};
use crate::http::outcome::{done, failed, unexpected};
use crate::http::protocol::body::Arriving;
use crate::http::protocol::conn::Conn;
use crate::http::protocol::error::ApiError;
use crate::http::protocol::head::Head;
use crate::http::protocol::idempotency;
use crate::http::protocol::response::Response;
use crate::http::request::{ApiResult, Request, Stream, Upload};
use crate::http::server::Server;
use crate::limits;
use crate::node::{Backup, BackupForm, SentFile};
use crate::outcome::Outcome;
use crate::services::sql::commands::{RUN_BYTES_MAX, STAGE_BYTES_MAX};
use crate::services::sql::{Answer, Command, ReadLevel, rewritten_dump};
use crate::types::Index;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::io::{self, Write};
use std::time::{Duration, Instant};

/// Bytes of one chunk of a backup.
const CHUNK_BYTES: usize = 256 << 10;
/// A backup or a load that lasts longer than this must have moved [`WHOLE_RATE_MIN`] on average: until a backup as text
/// ends, SQLite cannot reuse old pages; while a file is loaded, no other load can begin.
const WHOLE_GRACE: Duration = Duration::from_secs(600);
/// In bytes a second.
const WHOLE_RATE_MIN: u64 = 64 << 10;
/// Longest time for putting a loaded file in place, once it has arrived.
const PLACE_TIME_MAX: Duration = Duration::from_secs(1800);
/// Added to the reason if a dump was refused whose virtual tables were written as statements.
const REWRITTEN: &str = "statements are counted as they run here, with those that recreate virtual tables at the end; \
    a file of this dump may be larger: sqlite3 new.sqlite < dump.sql";
/// The first bytes of a database file.
const FILE_MARK: &[u8] = b"SQLite format 3\0";

/// `GET /db/backup`
pub(crate) fn backup(request: &Request) -> Result<Stream, ApiError> {
    let params = request.params();
    let (form, media, name) = match params.get("fmt") {
        None | Some("binary" | "delete") => (BackupForm::File, "application/vnd.sqlite3", "phalanx.sqlite3"),
        Some("sql") => (BackupForm::Sql, "application/sql; charset=utf-8", "phalanx.sql"),
        Some(_) => return Err(ApiError::refused(400, "fmt must be binary, delete or sql")),
    };
    let level = level(&params)?;
    let mut tables = Vec::new();
    for name in params.get("tables").unwrap_or_default().split(',') {
        let name = form_decode(name)?.trim().to_string();
        tables.extend(Some(name).filter(|name| !name.is_empty()));
    }
    let is_vacuumed = params.is_set("vacuum");
    if is_vacuumed && form == BackupForm::Sql {
        return Err(ApiError::refused(400, "vacuum is for files: leave it out, or use fmt=binary"));
    }
    if !tables.is_empty() && form == BackupForm::File {
        return Err(ApiError::refused(400, "a file contains all tables: leave tables out, or use fmt=sql"));
    }
    let is_compressed = params.is_set("compress");
    let (media, end) = if is_compressed { ("application/gzip", ".gz") } else { (media, "") };
    let head = Response::stream(media).with("Content-Disposition", format!("attachment; filename=\"{name}{end}\""));
    let backup = Backup { form, is_vacuumed, tables };
    Ok(Stream {
        head,
        run: Box::new(move |server, conn, head| send(server, conn, head, &backup, level, is_compressed)),
    })
}

/// Sends a backup; an error if it failed before its first byte.
fn send(
    server: &Server,
    conn: &mut Conn,
    head: Response,
    backup: &Backup,
    level: ReadLevel,
    is_compressed: bool,
) -> Result<(), ApiError> {
    let pace = SendRate { begun: Instant::now(), bytes: 0 };
    let mut out = Pieces { server, conn, head: Some(head), gathered: Vec::new(), pace, is_cut_short: false };
    let outcome = if is_compressed {
        let mut packed = GzEncoder::new(&mut out, Compression::fast());
        let outcome = server.host.sql_backup(backup, level, server.deadline(), &mut packed);
        // After a failure the end of the compressed form must not be sent, not even when `packed` is dropped.
        packed.get_mut().is_cut_short = !matches!(outcome, Outcome::Done(_));
        if packed.try_finish().is_err() && matches!(outcome, Outcome::Done(_)) {
            return Ok(());
        }
        outcome
    } else {
        server.host.sql_backup(backup, level, server.deadline(), &mut out)
    };
    if matches!(outcome, Outcome::Done(_)) {
        let _ = out.send().and_then(|()| out.conn.end_stream());
        return Ok(());
    }
    // A backup that has begun is cut short.
    if out.head.is_none() { Ok(()) } else { done(outcome).map(|_| ()) }
}

/// The body of a backup on its way out.
struct Pieces<'a> {
    server: &'a Server,
    conn: &'a mut Conn,
    /// `None`: it was sent.
    head: Option<Response>,
    gathered: Vec<u8>,
    pace: SendRate,
    /// Nothing more is sent.
    is_cut_short: bool,
}

/// How fast a whole database is on its way.
struct SendRate {
    begun: Instant,
    bytes: u64,
}

impl SendRate {
    fn is_too_slow(&self) -> bool {
        self.begun.elapsed() > time_for(self.bytes)
    }
}

impl Pieces<'_> {
    fn send(&mut self) -> io::Result<()> {
        if let Some(head) = self.head.take() {
            self.conn.begin_stream(head, self.server.origin())?;
        }
        if self.pace.is_too_slow() || self.server.host.is_stopping() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.conn.send_piece(&[&self.gathered])?;
        self.pace.bytes += self.gathered.len() as u64;
        self.gathered.clear();
        Ok(())
    }
}

impl Write for Pieces<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_cut_short {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
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

/// The longest time that so many bytes may take.
fn time_for(bytes: u64) -> Duration {
    WHOLE_GRACE + Duration::from_secs(bytes / WHOLE_RATE_MIN)
}

/// `POST /db/load`: a SQLite file replaces all tables; SQL text is executed, all or nothing.
pub(crate) fn load(server: &Server, conn: &mut Conn, head: &Head) -> Upload {
    let Some(_loading) = server.loading.try_take() else {
        return Upload::Unread(ApiError::refused(503, "another load is in progress on this node: try again later"));
    };
    let mut body = match conn.begin_body(head, limits::HTTP_LOAD_BYTES_MAX) {
        Ok(body) => body,
        Err(broken) => return broken.into(),
    };
    // For a piece, and for bytes that were read beyond it.
    let begun = body.hold(2 * STAGE_BYTES_MAX).and_then(|()| conn.read_body(&mut body, FILE_MARK.len()));
    if let Err(broken) = begun {
        return broken.into();
    }
    if body.bytes().starts_with(FILE_MARK) {
        let load = seed();
        let loaded = load_file(server, conn, head, body, load);
        server.host.sql_unstage(load);
        return loaded;
    }
    match conn.read_body(&mut body, RUN_BYTES_MAX + 1) {
        Ok(()) => match load_text(server, head, body.bytes()) {
            Ok(response) => Upload::Read(Ok(response)),
            Err(error) if body.is_done() => Upload::Read(Err(error)),
            Err(error) => Upload::Unread(error),
        },
        Err(broken) => broken.into(),
    }
}

fn load_text(server: &Server, head: &Head, body: &[u8]) -> ApiResult {
    if body.len() > RUN_BYTES_MAX {
        let why = format!("SQL text has at most {RUN_BYTES_MAX} bytes; a SQLite file may be larger");
        return Err(ApiError::refused(413, why));
    }
    let tag = idempotency::tag(head, body)?;
    let sql = std::str::from_utf8(body)
        .map_err(|_| ApiError::refused(400, "the body is neither a SQLite file nor SQL text in UTF-8"))?;
    if sql.trim().is_empty() {
        return Err(ApiError::refused(400, "nothing to load: send a SQLite file or SQL text"));
    }
    let script = rewritten_dump(sql).map_err(failed)?;
    let is_rewritten = matches!(script, Cow::Owned(_));
    let command = Command::LoadDump { sql: script.into_owned(), seed: seed() };
    match server.host.sql_write(&command, tag, server.deadline()) {
        Outcome::Done((_, Answer::Refused(why))) if is_rewritten => Err(failed(format!("{why} ({REWRITTEN})"))),
        outcome => loaded(outcome),
    }
}

/// Sends a file through the log as it arrives. Until the last step no table has changed.
fn load_file(server: &Server, conn: &mut Conn, head: &Head, mut body: Arriving, load: u64) -> Upload {
    let mut pace = SendRate { begun: Instant::now(), bytes: 0 };
    let (mut crc, mut hash) = (crc32fast::Hasher::new(), Sha256::new());
    loop {
        if let Err(broken) = conn.read_body(&mut body, STAGE_BYTES_MAX) {
            return broken.into();
        }
        let piece = body.take_piece(STAGE_BYTES_MAX);
        if piece.is_empty() {
            break;
        }
        crc.update(&piece);
        if head.idempotency_key.is_some() {
            hash.update(&piece);
        }
        if let Err(error) = applied(server.host.sql_stage(load, pace.bytes, &piece)) {
            return if body.is_done() { Upload::Read(Err(error)) } else { Upload::Unread(error) };
        }
        pace.bytes += piece.len() as u64;
        if pace.is_too_slow() && !body.is_done() {
            return Upload::Unread(ApiError::refused(408, "the upload is too slow"));
        }
    }
    let file = SentFile { load, bytes: pace.bytes, crc: crc.finalize() };
    let answered = idempotency::tag_of_hash(head, &hash.finalize().into())
        .and_then(|tag| loaded(server.host.sql_put_in_place(file, tag, Instant::now() + PLACE_TIME_MAX)));
    Upload::Read(answered)
}

fn loaded(outcome: Outcome<(Index, Answer)>) -> ApiResult {
    let index = applied(outcome)?;
    Ok(Response::json(200, &json!({"results": []})).at(index))
}

fn applied(outcome: Outcome<(Index, Answer)>) -> Result<Index, ApiError> {
    match done(outcome)? {
        (index, Answer::Done) => Ok(index),
        (_, Answer::Refused(why)) => Err(failed(why)),
        _ => Err(unexpected()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_larger_database_may_take_longer() {
        assert_eq!(time_for(0), Duration::from_secs(600));
        // 1 GiB, the largest that is loaded.
        assert_eq!(time_for(1 << 30), Duration::from_secs(600 + 16 * 1024));
        let pace = SendRate { begun: Instant::now(), bytes: 0 };
        assert!(!pace.is_too_slow());
    }
}
