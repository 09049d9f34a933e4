//! `/db/backup` and `/db/load`: the whole database out of a node, and into all of them.
//!
//! A backup is as fresh as its `level`, and leaves piece by piece: one that breaks off without its last chunk is not whole. A
//! file that is loaded goes through the log in pieces as it arrives; they wait in the database until the last command puts the
//! file in place, so that a load that fails in the middle has changed no table. One load at a time on a node.
//! Not here: what a file may hold (`services/sql/storage/load.rs`).

use super::statements::{level, seed};
use crate::http::outcome::{done, failed, unexpected};
use crate::http::protocol::conn::{Arriving, Conn};
use crate::http::protocol::error::ApiError;
use crate::http::protocol::idempotency;
use crate::http::protocol::parse::Head;
use crate::http::protocol::response::Response;
use crate::http::request::{ApiResult, Request, Stream, Upload};
use crate::http::server::Server;
use crate::limits;
use crate::node::{BackupForm, SentFile};
use crate::outcome::Outcome;
use crate::services::sql::commands::{RUN_BYTES_MAX, STAGE_BYTES_MAX};
use crate::services::sql::{Answer, Command, ReadLevel};
use crate::types::Index;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::io::{self, Write};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Bytes of one chunk of a backup.
const CHUNK_BYTES: usize = 256 << 10;
/// Longest that a backup may take: a slow reader would keep old pages from being written over.
const BACKUP_TIME_MAX: Duration = Duration::from_secs(600);
/// Longest that a whole file may take through the log.
const LOAD_TIME_MAX: Duration = Duration::from_secs(1800);
/// How a database file begins.
const FILE_MARK: &[u8] = b"SQLite format 3\0";

/// `GET /db/backup`
pub(crate) fn backup(request: &Request) -> Result<Stream, ApiError> {
    let params = request.params();
    let (form, media, name) = match params.get("fmt") {
        None | Some("binary") => (BackupForm::File, "application/vnd.sqlite3", "phalanx.sqlite3"),
        Some("sql") => (BackupForm::Sql, "application/sql; charset=utf-8", "phalanx.sql"),
        Some(_) => return Err(ApiError::refused(400, "fmt must be binary or sql")),
    };
    let (level, is_chunked) = (level(&params)?, request.head.is_http11);
    let head = Response::stream(media).with("Content-Disposition", format!("attachment; filename=\"{name}\""));
    Ok(Stream { head, run: Box::new(move |server, conn, head| send(server, conn, head, (form, level), is_chunked)) })
}

/// Sends a backup; an error if it came to nothing before its first byte.
fn send(
    server: &Server,
    conn: &mut Conn,
    head: Response,
    (form, level): (BackupForm, ReadLevel),
    is_chunked: bool,
) -> Result<(), ApiError> {
    let ends = Instant::now() + BACKUP_TIME_MAX;
    let mut out = Pieces { server, conn, head, is_chunked, gathered: Vec::new(), has_begun: false, ends };
    let outcome = server.host.sql_backup(form, level, server.deadline(), &mut out);
    if matches!(outcome, Outcome::Done(_)) {
        let _ = out.finish();
        return Ok(());
    }
    // One that has begun breaks off: without its end the client knows.
    if out.has_begun { Ok(()) } else { done(outcome).map(|_| ()) }
}

/// The body of a backup on its way out.
struct Pieces<'a> {
    server: &'a Server,
    conn: &'a mut Conn,
    head: Response,
    is_chunked: bool,
    gathered: Vec<u8>,
    has_begun: bool,
    ends: Instant,
}

impl Pieces<'_> {
    fn begin(&mut self) -> io::Result<()> {
        self.has_begun = true;
        self.head.write_stream_head(self.conn.output(), self.is_chunked, self.server.origin());
        self.conn.flush()
    }

    fn send(&mut self) -> io::Result<()> {
        if !self.has_begun {
            self.begin()?;
        }
        if Instant::now() > self.ends || self.server.host.is_stopping() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        if !self.gathered.is_empty() {
            let head = format!("{:x}\r\n", self.gathered.len());
            match self.is_chunked {
                true => self.conn.send(&[head.as_bytes(), &self.gathered, b"\r\n"])?,
                false => self.conn.send(&[&self.gathered])?,
            }
            self.gathered.clear();
        }
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        self.send()?;
        if self.is_chunked { self.conn.send(&[b"0\r\n\r\n"]) } else { Ok(()) }
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
struct LoadPermit<'a>(&'a Server);

impl LoadPermit<'_> {
    /// Before the body is read.
    fn take(server: &Server) -> Result<LoadPermit<'_>, ApiError> {
        match server.is_loading.swap(true, Ordering::Acquire) {
            false => Ok(LoadPermit(server)),
            true => Err(ApiError::refused(503, "another load is in progress on this node: try again later")),
        }
    }
}

impl Drop for LoadPermit<'_> {
    fn drop(&mut self) {
        self.0.is_loading.store(false, Ordering::Release);
    }
}

/// `POST /db/load`: a SQLite file replaces all tables; SQL text is carried out, all or nothing.
pub(crate) fn load(server: &Server, conn: &mut Conn, head: &Head) -> Upload {
    let _permit = match LoadPermit::take(server) {
        Ok(turn) => turn,
        Err(error) => return Upload::Unread(error),
    };
    let mut body = match conn.begin_body(head, limits::HTTP_LOAD_BYTES_MAX) {
        Ok(body) => body,
        Err(broken) => return broken.into(),
    };
    // A piece, and what was read beyond it.
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
    let text = std::str::from_utf8(body);
    let sql = text
        .map_err(|_| ApiError::refused(400, "the body is neither a SQLite file nor SQL text in UTF-8"))?
        .to_string();
    if sql.trim().is_empty() {
        return Err(ApiError::refused(400, "nothing to load: send a SQLite file or SQL text"));
    }
    loaded(server.host.sql_write(&Command::Load { sql, seed: seed() }, tag, server.deadline()))
}

/// Sends a file through the log as it arrives. Until the last step no table has changed.
fn load_file(server: &Server, conn: &mut Conn, head: &Head, mut body: Arriving, load: u64) -> Upload {
    let until = Instant::now() + LOAD_TIME_MAX;
    let (mut crc, mut hash, mut bytes) = (crc32fast::Hasher::new(), Sha256::new(), 0_u64);
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
        if let Err(error) = applied(server.host.sql_stage(load, bytes, &piece)) {
            return if body.is_done() { Upload::Read(Err(error)) } else { Upload::Unread(error) };
        }
        bytes += piece.len() as u64;
        if Instant::now() >= until {
            return Upload::Unread(ApiError::refused(408, "the upload took too long"));
        }
    }
    let file = SentFile { load, bytes, crc: crc.finalize() };
    let answered = idempotency::tag_of_hash(head, &hash.finalize().into())
        .and_then(|tag| loaded(server.host.sql_put_in_place(file, tag, until)));
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
