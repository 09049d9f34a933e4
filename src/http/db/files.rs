//! `/db/backup` and `/db/load`: the whole database out of a node, and into all of them.
//!
//! A backup is as fresh as its `level`, and leaves piece by piece: one that breaks off without its last chunk is not whole. A
//! file that is loaded goes through the log in pieces as it arrives; they wait in the database until the last command puts the file in
//! place, so that a load that fails in the middle has changed no table. One load at a time on a node.
//! Not here: what a file may hold (`services/sql/storage/load.rs`).

use super::{level, seed};
use crate::http::api::failed;
use crate::http::protocol::conn::{Arriving, Broken, Conn};
use crate::http::protocol::idempotency;
use crate::http::protocol::params::Params;
use crate::http::protocol::parse::Head;
use crate::http::protocol::reply::{self, Reply};
use crate::http::routes::Indexed;
use crate::http::server::Server;
use crate::limits;
use crate::node::{BackupForm, SentFile};
use crate::services::sql::commands::{RUN_BYTES_MAX, STAGE_BYTES_MAX};
use crate::services::sql::{Answer, Command, ReadLevel};
use crate::types::{Index, Outcome};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::io::{self, Write};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Media type of a load; no form of another site can send it.
pub(crate) const FILE: &str = "application/octet-stream";
/// Bytes of one chunk of a backup.
const CHUNK_BYTES: usize = 256 << 10;
/// Longest that a backup may take: a slow reader would keep old pages from being written over.
const BACKUP_TIME_MAX: Duration = Duration::from_secs(600);
/// Longest that a whole file may take through the log.
const LOAD_TIME_MAX: Duration = Duration::from_secs(1800);
/// How a database file begins.
const FILE_MARK: &[u8] = b"SQLite format 3\0";

/// What is asked of `/db/backup`.
pub(crate) struct Wanted {
    form: BackupForm,
    level: ReadLevel,
    is_chunked: bool,
}

impl Wanted {
    /// Media type and file name.
    pub(crate) fn media(&self) -> (&'static str, &'static str) {
        match self.form {
            BackupForm::File => ("application/vnd.sqlite3", "phalanx.sqlite3"),
            BackupForm::Sql => ("application/sql; charset=utf-8", "phalanx.sql"),
        }
    }

    pub(crate) fn of(head: &Head) -> Result<Wanted, Reply> {
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
pub(crate) fn backup(server: &Server, conn: &mut Conn, wanted: &Wanted) -> Option<Reply> {
    let ends = Instant::now() + BACKUP_TIME_MAX;
    let mut out = Pieces { server, conn, wanted, gathered: Vec::new(), has_begun: false, ends };
    match server.host.sql_backup(wanted.form, wanted.level, server.deadline(), &mut out) {
        Outcome::Done(_) => {
            let _ = out.finish();
            None
        }
        // It breaks off: without its end the client knows.
        _ if out.has_begun => None,
        other => Some(failed(server, other)),
    }
}

/// The body of a backup on its way out.
struct Pieces<'a> {
    server: &'a Server,
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
        self.server.origin().write(out);
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
        if Instant::now() > self.ends || self.server.host.is_stopping() {
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
struct Turn<'a>(&'a Server);

impl Turn<'_> {
    /// Before the body is read.
    fn take(server: &Server) -> Result<Turn<'_>, Reply> {
        match server.is_loading.swap(true, Ordering::Acquire) {
            false => Ok(Turn(server)),
            true => Err(Reply::refused(503, "another load is under way on this node")),
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.is_loading.store(false, Ordering::Release);
    }
}

/// What became of a load.
pub(crate) enum Loaded {
    /// Its body was read.
    Answered(Indexed),
    /// It was not, or not whole.
    Refused(Reply),
    /// The client went away.
    Gone,
}

impl From<Broken> for Loaded {
    fn from(broken: Broken) -> Loaded {
        match broken {
            Broken::Gone => Loaded::Gone,
            Broken::Fault(fault) => Loaded::Refused(Reply::from(fault)),
        }
    }
}

/// `POST /db/load`: a SQLite file replaces all tables; SQL text is carried out, all or nothing.
pub(crate) fn load(server: &Server, conn: &mut Conn, head: &Head) -> Loaded {
    let _turn = match Params::of(head).flag("redirect").and_then(|_| Turn::take(server)) {
        Ok(turn) => turn,
        Err(refusal) => return Loaded::Refused(refusal),
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
            Ok(indexed) => Loaded::Answered(indexed),
            Err(refusal) if body.is_done() => Loaded::Answered(refusal.into()),
            Err(refusal) => Loaded::Refused(refusal),
        },
        Err(broken) => broken.into(),
    }
}

fn load_text(server: &Server, head: &Head, body: &[u8]) -> Result<Indexed, Reply> {
    if body.len() > RUN_BYTES_MAX {
        let why = format!("SQL text has {RUN_BYTES_MAX} bytes at most; a SQLite file may be larger");
        return Err(Reply::refused(413, &why));
    }
    let tag = idempotency::tag(head, body)?;
    let text = std::str::from_utf8(body);
    let sql = text.map_err(|_| Reply::refused(400, "neither a SQLite file nor SQL text in UTF-8"))?.to_string();
    if sql.trim().is_empty() {
        return Err(Reply::refused(400, "nothing to load: send a SQLite file or SQL text"));
    }
    loaded(server, server.host.sql_write(&Command::Load { sql, seed: seed() }, tag, server.deadline()))
}

/// Sends a file through the log as it arrives. Until the last step no table has changed.
fn load_file(server: &Server, conn: &mut Conn, head: &Head, mut body: Arriving, load: u64) -> Loaded {
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
        if let Err(refusal) = done(server, server.host.sql_stage(load, bytes, &piece)) {
            return if body.is_done() { Loaded::Answered(refusal.into()) } else { Loaded::Refused(refusal) };
        }
        bytes += piece.len() as u64;
        if Instant::now() >= until {
            return Loaded::Refused(Reply::refused(408, "the file took too long"));
        }
    }
    let file = SentFile { load, bytes, crc: crc.finalize() };
    let answered = idempotency::tag_of_hash(head, &hash.finalize().into())
        .and_then(|tag| loaded(server, server.host.sql_put_in_place(file, tag, until)));
    Loaded::Answered(answered.unwrap_or_else(|refusal| refusal.into()))
}

fn loaded(server: &Server, outcome: Outcome<(Index, Answer)>) -> Result<Indexed, Reply> {
    let index = done(server, outcome)?;
    Ok(Indexed { reply: Reply::json(200, &json!({"results": []})), index: Some(index.0) })
}

fn done(server: &Server, outcome: Outcome<(Index, Answer)>) -> Result<Index, Reply> {
    match outcome {
        Outcome::Done((index, Answer::Done)) => Ok(index),
        Outcome::Done((_, Answer::Refused(why))) => Err(Reply::error(400, &why, "refused", server.leader())),
        Outcome::Done(_) => Err(crate::http::api::kv::strange()),
        other => Err(failed(server, other)),
    }
}
