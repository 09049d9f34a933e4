//! The service: one SQLite database as a replicated state machine, in memory or in a file.
//!
//! The in-memory form is used by the simulator and opened by the first command. In a node it is a file that is only a
//! cache of snapshot and log: it is changed by `apply` alone, and records which entries it contains. After a crash the
//! file may be ahead of the snapshot that the node starts from; then the entries in between are answered from the file
//! (`apply.rs`). When it is behind, damaged, missing or the file of another owner, the snapshot's image replaces it and
//! the log supplies the rest.
//!
//! Invariants: D1 a file is kept only if it has every entry of the snapshot, and the replies to all entries after it.
//! D2 a clone is the database at the moment of cloning.
//! Not here: running statements (`apply.rs`), the file's bytes (`services/sql/storage/image.rs`), reads of a node
//! (`reader.rs`).

use super::commands::{Answer, Command, Digest, Query};
use super::connection::configure;
use super::connection::files::Files;
use super::connection::foreign_keys;
use super::connection::hook_state::{HookState, Purpose};
use super::errors::Fatal;
use super::storage::image::{PinnedImage, ReceivedImage};
use super::storage::load::empty;
use super::storage::open::{FLAGS, KEPT, memory};
use super::storage::{digest, own_table};
use super::writer::Writer;
use crate::lock::{Mutex, lock};
#[cfg(any(test, feature = "planted-bugs"))]
use crate::planted_bugs::SqlBugs;
use crate::services::{Replicated, Reply, Service};
use crate::types::{Index, Stamp};
use rusqlite::Connection;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Which snapshots are on the disk; set by the thread that writes them.
#[derive(Debug, Default)]
struct SavedSnapshots {
    /// Index of the newest snapshot.
    newest: AtomicU64,
    /// Index of the one before: no start uses an older snapshot any more.
    before: AtomicU64,
}

#[derive(Debug, Default)]
pub struct Database {
    /// Where its file is; `None`: in memory.
    files: Option<Arc<dyn Files>>,
    state: State,
    /// The file was left by an earlier process: its index decides whether it is kept.
    is_survivor: bool,
    /// Index of the newest entry seen, with or without commands for this service.
    seen: u64,
    saved: Arc<SavedSnapshots>,
    /// The generation of the content and the fingerprint computed for it.
    fingerprint: Mutex<Option<(u64, u64)>>,
    news: Option<String>,
    #[cfg(any(test, feature = "planted-bugs"))]
    pub bugs: SqlBugs,
}

#[derive(Debug, Default)]
enum State {
    /// No command has been applied.
    #[default]
    Untouched,
    /// Open for writing.
    Live(Box<Writer>),
    /// A pinned copy, for a snapshot.
    Pinned(PinnedImage),
    /// Received with a snapshot and not in place yet.
    Arrived(ReceivedImage),
}

impl Clone for Database {
    /// Pins the present content: in a node nothing is copied.
    fn clone(&self) -> Database {
        let state = match (&self.state, &self.files) {
            (State::Untouched | State::Arrived(_), _) => State::Untouched,
            (State::Live(writer), Some(files)) => State::Pinned(PinnedImage::in_file(files, writer.newest())),
            (State::Live(writer), None) => {
                let pinned = writer.with_connection(|conn| Ok(PinnedImage::in_memory(conn, writer.newest())));
                State::Pinned(pinned.expect("memory can be read"))
            }
            (State::Pinned(pinned), _) => {
                let copy = pinned.with_connection(|conn| Ok(PinnedImage::in_memory(conn, pinned.newest)));
                copy.map_or(State::Untouched, State::Pinned)
            }
        };
        Database {
            files: self.files.clone(),
            state,
            is_survivor: false,
            seen: self.seen,
            saved: Arc::clone(&self.saved),
            fingerprint: Mutex::default(),
            news: None,
            #[cfg(any(test, feature = "planted-bugs"))]
            bugs: self.bugs,
        }
    }
}

fn configured(mut conn: Connection, files: Option<&Arc<dyn Files>>) -> Result<Writer, Fatal> {
    let hooks = Arc::new(HookState::default());
    if let Some(files) = files {
        hooks.files.get_or_init(|| Arc::clone(files));
    }
    configure(&mut conn, &hooks, Purpose::Write, None).map_err(|error| Fatal::of(&hooks, &error))?;
    Writer::new(conn, hooks)
}

fn in_memory(image: Option<&ReceivedImage>) -> rusqlite::Result<Result<Writer, Fatal>> {
    let mut conn = memory()?;
    if let Some(image) = image {
        image.put_in_place(&mut conn)?;
    }
    conn.execute_batch("PRAGMA journal_mode = MEMORY")?;
    Ok(configured(conn, None))
}

fn in_file(files: &Arc<dyn Files>) -> Result<Writer, Fatal> {
    let bare = HookState::default();
    let fatal = |error: rusqlite::Error| Fatal::of(&bare, &error);
    let conn = Connection::open_with_flags(files.path(), FLAGS).map_err(fatal)?;
    conn.execute_batch(KEPT).map_err(fatal)?;
    let pages: i64 = conn.query_row("PRAGMA page_count", [], |row| row.get(0)).map_err(fatal)?;
    let damaged = |why: String| Fatal { why, is_damaged: true };
    if pages.max(0).cast_unsigned() * 4096 <= files.check_bytes_max() {
        // Checks the pages alone: a CHECK may use functions that are not registered on this connection yet.
        conn.execute_batch("PRAGMA ignore_check_constraints = ON").map_err(fatal)?;
        let found: String = conn.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(fatal)?;
        conn.execute_batch("PRAGMA ignore_check_constraints = OFF").map_err(fatal)?;
        if found != "ok" {
            return Err(damaged(found));
        }
    }
    let mut writer = configured(conn, Some(files))?;
    match writer.with_connection(own_table::owner)? {
        Some(owner) if owner == files.owner() => {}
        Some(_) => return Err(damaged("it belongs to another node or cluster".to_string())),
        None if pages > 1 && writer.newest() > 0 => {
            return Err(damaged("it does not record which node it belongs to".to_string()));
        }
        None => writer.replace(|conn| own_table::set_owner(conn, &files.owner()))?,
    }
    Ok(writer)
}

impl Database {
    /// The database in a node's folder. An unusable file is set aside, and a new one replaces it.
    pub fn in_folder(files: Arc<dyn Files>) -> Database {
        let mut news = None;
        let writer = in_file(&files).or_else(|fatal| {
            files.set_aside(&fatal.why);
            news = Some(format!("set its database aside ({})", fatal.why));
            in_file(&files)
        });
        let writer = match writer {
            Ok(writer) => writer,
            Err(fatal) => files.give_up(&format!("a new database cannot be created: {}", fatal.why), false),
        };
        let state = State::Live(Box::new(writer));
        let mut database = Database { files: Some(files), state, is_survivor: true, news, ..Database::default() };
        database.maybe_prepare();
        database
    }

    /// A database in memory that outlives its process, as a file does: for the simulator and for tests.
    ///
    /// # Panics
    /// When `image` was not made by [`Database::image`].
    pub fn survivor(image: &[u8]) -> Database {
        let arrived = ReceivedImage::read(&mut &image[..], None).expect("an image is whole");
        if arrived.is_none() {
            return Database::default();
        }
        let writer = in_memory(arrived.as_ref()).expect("an image is sound").expect("an image is sound");
        Database { state: State::Live(Box::new(writer)), is_survivor: true, ..Database::default() }
    }

    /// Runs statements as an earlier version might have done.
    #[cfg(test)]
    pub fn inspect_content(&self, sql: &str) {
        self.with_connection(|conn| conn.execute_batch(sql)).expect("it is open");
    }

    /// Row ids of the internal table.
    #[cfg(test)]
    pub fn own_rows(&self) -> Vec<i64> {
        let find = |conn: &Connection| {
            conn.prepare("SELECT idx FROM sqlite_phalanx")?.query_map([], |row| row.get(0))?.collect()
        };
        self.with_connection(find).expect("it is open")
    }

    /// Whether the database exists: a command was applied, or a snapshot with it was installed.
    #[cfg(any(test, feature = "planted-bugs"))]
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Live(_))
    }

    fn replace(&mut self, before: &mut Database, arrived: Option<&ReceivedImage>, applied: Index) -> io::Result<()> {
        let Some(files) = self.files.clone() else {
            if let Some(arrived) = arrived {
                let writer = in_memory(Some(arrived)).map_err(io::Error::other)?;
                self.state = State::Live(Box::new(writer.map_err(|fatal| io::Error::other(fatal.why))?));
            }
            return Ok(());
        };
        let State::Live(mut writer) = std::mem::take(&mut before.state) else {
            return Err(io::Error::other("the database is not open"));
        };
        let owner = files.owner();
        let replaced = writer.replace(|conn| {
            match arrived {
                Some(arrived) => arrived.put_in_place(conn)?,
                None => empty(conn)?,
            }
            own_table::create(conn)?;
            own_table::set_owner(conn, &owner)?;
            // Replies to entries that the snapshot covers are never needed again.
            own_table::prune(conn, applied.0)
        });
        if let Err(fatal) = replaced {
            files.give_up(&format!("the snapshot's database cannot be put in place: {}", fatal.why), true);
        }
        if before.is_survivor && applied.0 > 0 {
            let why = self.news.take().map(|news| format!("{news} and ")).unwrap_or_default();
            self.news = Some(format!("{why}rebuilt its database from the snapshot at index {applied}"));
        }
        self.state = State::Live(writer);
        Ok(())
    }

    /// Bytes of pages in use: pages freed by deletion are reused.
    pub fn used_bytes(&self) -> u64 {
        let State::Live(writer) = &self.state else { return 0 };
        let count =
            |conn: &Connection, name: &str| conn.prepare_cached(name)?.query_row([], |row| row.get::<_, i64>(0));
        let found = writer.with_connection(|conn| {
            let pages = count(conn, "PRAGMA page_count")? - count(conn, "PRAGMA freelist_count")?;
            Ok(pages * count(conn, "PRAGMA page_size")?)
        });
        found.map_or(0, |bytes| bytes.max(0).cast_unsigned())
    }

    /// Whether statements may run further ones through triggers or actions of foreign keys.
    pub fn has_triggers(&self) -> bool {
        let State::Live(writer) = &self.state else { return false };
        if foreign_keys::are_enforced(&writer.hooks) {
            return true;
        }
        let find = "SELECT EXISTS (SELECT 1 FROM main.sqlite_schema WHERE type = 'trigger')";
        writer.with_connection(|conn| conn.prepare_cached(find)?.query_row([], |row| row.get(0))).unwrap_or(true)
    }

    fn pinned(&self) -> Option<&PinnedImage> {
        if let State::Pinned(pinned) = &self.state { Some(pinned) } else { None }
    }

    /// Index of its newest entry.
    pub fn newest(&self) -> u64 {
        match &self.state {
            State::Live(writer) => writer.newest(),
            State::Pinned(pinned) => pinned.newest,
            State::Arrived(arrived) => arrived.newest,
            State::Untouched => 0,
        }
    }

    /// The bytes from which [`Database::survivor`] restores it: what a crash leaves of a file.
    pub fn image(&self) -> Vec<u8> {
        let mut image = Vec::new();
        let written = match &self.state {
            State::Live(_) => self.clone().pinned().map(|pinned| pinned.write(&mut image)),
            _ => self.pinned().map(|pinned| pinned.write(&mut image)),
        };
        match written {
            None => vec![0; 16],
            Some(written) => {
                written.expect("memory takes every byte");
                image
            }
        }
    }

    /// The database, open for writing; created by the first command.
    fn live(&mut self) -> &mut Writer {
        if !matches!(self.state, State::Live(_)) {
            let writer = match &self.state {
                // A clone that is written to.
                State::Pinned(pinned) => {
                    let mut image = Vec::new();
                    let arrived =
                        pinned.write(&mut image).and_then(|()| ReceivedImage::read(&mut image.as_slice(), None));
                    in_memory(arrived.expect("memory can be read").as_ref())
                }
                State::Arrived(arrived) => in_memory(Some(arrived)),
                _ => in_memory(None),
            };
            let writer = writer.map_err(|error| error.to_string()).and_then(|done| done.map_err(|fatal| fatal.why));
            self.state = State::Live(Box::new(writer.expect("memory has room for an empty database")));
        }
        match &mut self.state {
            State::Live(writer) => writer,
            _ => unreachable!("it is created above if it is missing"),
        }
    }

    /// Begins to prepare a file that is being loaded, once all pieces have arrived.
    fn maybe_prepare(&mut self) {
        if let State::Live(writer) = &mut self.state
            && let Err(fatal) = writer.maybe_prepare()
        {
            self.give_up(&fatal);
        }
    }

    fn give_up(&self, fatal: &Fatal) -> ! {
        match &self.files {
            Some(files) => files.give_up(&format!("the database cannot continue: {}", fatal.why), fatal.is_damaged),
            None => panic!("the database cannot continue: {}", fatal.why),
        }
    }

    fn with_connection<T>(&self, ask: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Option<T> {
        match &self.state {
            State::Live(writer) => Some(writer.with_connection(ask).unwrap_or_else(|fatal| self.give_up(&fatal))),
            State::Pinned(pinned) => pinned.with_connection(|conn| ask(conn).map_err(io::Error::other)).ok(),
            State::Untouched | State::Arrived(_) => None,
        }
    }

    /// Fingerprints of all content.
    pub fn digests(&self, at: Stamp) -> Digest {
        let index = self.newest().max(at.index.0);
        self.with_connection(|conn| digest::take(conn, index, &mut || {})).unwrap_or_else(|| {
            // The same as of an opened, empty database.
            let empty = in_memory(None).ok().and_then(Result::ok);
            let empty =
                empty.and_then(|writer| writer.with_connection(|conn| digest::take(conn, index, &mut || {})).ok());
            empty.unwrap_or_default()
        })
    }

    fn answer(&self, at: Stamp, query: Query) -> Reply {
        let answer = match query {
            Query::Applied => Answer::Applied,
            Query::Digest => Answer::Digest(self.digests(at)),
            Query::Read(statements) => match &self.state {
                State::Live(writer) => match writer.read(at, &statements) {
                    Ok(outcomes) => Answer::Results(outcomes),
                    Err(fatal) => self.give_up(&fatal),
                },
                _ => match in_memory(None).ok().and_then(Result::ok).map(|writer| writer.read(at, &statements)) {
                    Some(Ok(outcomes)) => Answer::Results(outcomes),
                    _ => Answer::Refused("the database cannot be opened".to_string()),
                },
            },
        };
        Reply::Ok(answer.encode())
    }
}

impl Replicated for Database {
    const ID: u8 = 4;
    const NAME: &'static str = "sql";
    type Command = Command;
    type Query = Query;

    fn successor(&self) -> Database {
        Database {
            files: self.files.clone(),
            saved: Arc::clone(&self.saved),
            #[cfg(any(test, feature = "planted-bugs"))]
            bugs: self.bugs,
            ..Database::default()
        }
    }

    /// Takes the connection of the previous database, and puts the received image in place unless that database has all
    /// its entries already.
    fn take_over(&mut self, before: &mut Database, applied: Index) -> io::Result<()> {
        let arrived = match std::mem::take(&mut self.state) {
            State::Arrived(arrived) => Some(arrived),
            _ => None,
        };
        self.seen = applied.0;
        self.news = before.news.take();
        let needed = arrived.as_ref().map_or(0, |arrived| arrived.newest);
        let is_kept = before.is_survivor
            && matches!(&before.state, State::Live(writer)
                if writer.newest() >= needed && writer.pruned_to() <= applied.0);
        if is_kept {
            self.state = std::mem::take(&mut before.state);
        } else {
            self.replace(before, arrived.as_ref(), applied)?;
        }
        if before.is_survivor {
            self.saved.newest.store(applied.0, Ordering::Relaxed);
        }
        self.maybe_prepare();
        Ok(())
    }
}

impl Service for Database {
    fn apply(&mut self, at: Stamp, command: &[u8]) -> Reply {
        let Ok(command) = postcard::from_bytes::<Command>(command) else {
            return Reply::Failed("not a command of the database".to_string());
        };
        #[cfg(any(test, feature = "planted-bugs"))]
        let bugs = self.bugs;
        let writer = self.live();
        #[cfg(any(test, feature = "planted-bugs"))]
        {
            writer.bugs = bugs;
        }
        match writer.apply(at, command) {
            Ok(reply) => reply,
            Err(fatal) => self.give_up(&fatal),
        }
    }

    fn finish(&mut self, at: Stamp) {
        self.seen = at.index.0;
        let prune_to = self.saved.before.load(Ordering::Relaxed);
        if let State::Live(writer) = &mut self.state
            && let Err(fatal) = writer.finish(prune_to)
        {
            self.give_up(&fatal);
        }
        self.maybe_prepare();
    }

    fn query(&self, at: Stamp, query: &[u8]) -> Reply {
        match postcard::from_bytes(query) {
            Ok(query) => self.answer(at, query),
            Err(_) => Reply::Failed("not a question to the database".to_string()),
        }
    }

    /// A node only sends [`Query::Applied`]: its reads run on connections of their own (`node/sql/`).
    fn read_cost(&self, _query: &[u8], _most: usize) -> usize {
        0
    }

    fn snapshot(&self, out: &mut dyn Write) -> io::Result<()> {
        #[cfg(any(test, feature = "planted-bugs"))]
        if self.bugs.left_out_of_snapshot {
            return crate::services::snapshot_format::put_numbers(&mut &mut *out, [0, 0]);
        }
        match &self.state {
            State::Live(_) => self.clone().snapshot(out),
            State::Pinned(pinned) => pinned.write(out),
            State::Untouched | State::Arrived(_) => {
                crate::services::snapshot_format::put_numbers(&mut &mut *out, [0, 0])
            }
        }
    }

    fn restore(&mut self, from: &mut dyn Read) -> io::Result<()> {
        if let Some(arrived) = ReceivedImage::read(from, self.files.as_ref())? {
            self.state = State::Arrived(arrived);
        }
        Ok(())
    }

    fn is_ahead(&self) -> bool {
        self.newest() > self.seen
    }

    fn saved(&self) {
        let newest = self.saved.newest.swap(self.seen, Ordering::Relaxed);
        self.saved.before.store(newest, Ordering::Relaxed);
    }

    fn take_news(&mut self) -> Option<String> {
        self.news.take()
    }

    fn alter(&mut self, _at: Stamp) {
        let sql = "CREATE TABLE IF NOT EXISTS altered (n INTEGER); INSERT INTO altered VALUES (1)";
        if let Err(fatal) = self.live().replace(|conn| conn.execute_batch(sql)) {
            self.give_up(&fatal);
        }
    }

    fn digest(&self, rest: &mut dyn FnMut()) -> io::Result<u64> {
        let generation = match &self.state {
            State::Untouched | State::Arrived(_) => return Ok(0),
            State::Live(writer) => writer.generation(),
            State::Pinned(_) => u64::MAX,
        };
        let mut known = lock(&self.fingerprint);
        if let Some((at, fingerprint)) = *known
            && at == generation
        {
            return Ok(fingerprint);
        }
        let mut take = |conn: &Connection| -> rusqlite::Result<_> {
            Ok((digest::take(conn, 0, rest)?, own_table::allowance(conn)?))
        };
        let (digests, allowance) = match &self.state {
            State::Pinned(pinned) => pinned.with_connection(|conn| take(conn).map_err(io::Error::other))?,
            _ => self.with_connection(take).unwrap_or_default(),
        };
        let bytes = postcard::to_stdvec(&(digests.schema, digests.tables, allowance))
            .expect("encoding into memory cannot fail");
        let fingerprint = u64::from(crc32fast::hash(&bytes)) | 1 << 32;
        *known = Some((generation, fingerprint));
        Ok(fingerprint)
    }
}
