//! Builds a database from a file that was sent in pieces, outside of the log: it can then replace the present one at
//! once.
//!
//! In a node this is work for a thread of its own: the pieces, which are stored in the database, are written into a
//! file, that file is opened and checked, and its content is copied into a new file (`load.rs`). In memory the same is
//! done at once. The result follows from the pieces and from the plan alone, so that it is the same on every node,
//! however long it takes there.
//!
//! Invariants: B1 the present tables are neither read nor changed. B2 the file of an abandoned load is removed.
//! Not here: when preparation begins and when the database is put in place (`services/sql/load_commands.rs`).

use super::file_header;
use super::load::{self, Stop};
use super::open::{FLAGS, KEPT, memory};
use super::own_table::{self, LoadPlan};
use crate::lock::{Mutex, MutexGuard, lock, wait};
use crate::services::sql::commands::{FILE_STEPS_MAX, FILE_STEPS_PER_BYTE};
use crate::services::sql::connection::files::Files;
use crate::services::sql::connection::hook_state::{HookState, InternalStatements, Purpose, Schema};
use crate::services::sql::connection::{configure, count_steps};
use crate::services::sql::errors::{BUDGET_EXCEEDED, Fatal, OTHER_FILE, StatementError};
use rusqlite::{Connection, OpenFlags};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar};

/// A database that can replace the present one.
#[derive(Debug)]
pub struct Prepared {
    /// Open for writing, with nothing in progress.
    pub conn: Connection,
    /// The hooks of this connection.
    pub hooks: Arc<HookState>,
    /// Its path, if it is in a file.
    pub path: Option<PathBuf>,
    /// It has the replies to entries up to this index.
    pub copied_to: u64,
}

/// The result of preparing a file.
#[derive(Debug)]
pub enum Built {
    Ready(Box<Prepared>),
    /// The file is refused, on every node: the reason.
    Refused(String),
    /// This node cannot continue.
    Broken(Fatal),
}

/// A file that is being prepared on a thread of its own.
#[derive(Debug)]
pub struct Preparing {
    /// The plan of the load.
    pub plan: LoadPlan,
    files: Arc<dyn Files>,
    slot: Arc<Slot>,
}

#[derive(Debug, Default)]
struct Slot {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    built: Option<Built>,
    /// The load was abandoned: no thread waits for the result.
    is_unwanted: bool,
}

impl Slot {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Preparing {
    /// Starts the preparation. The pieces must be committed.
    pub fn begin(files: &Arc<dyn Files>, plan: LoadPlan) -> Preparing {
        let slot: Arc<Slot> = Arc::default();
        let (own, theirs) = (Arc::clone(files), Arc::clone(&slot));
        files.in_background(Box::new(move || {
            let built = from_file(&own, plan, &theirs);
            let mut state = theirs.state();
            if state.is_unwanted {
                discard(&own, built);
                return;
            }
            state.built = Some(built);
            drop(state);
            theirs.changed.notify_all();
            own.prepared(plan.load);
        }));
        Preparing { plan, files: Arc::clone(files), slot }
    }

    /// Waits for the result.
    pub fn wait(self) -> Built {
        let mut state = self.slot.state();
        loop {
            if let Some(built) = state.built.take() {
                return built;
            }
            state = wait(&self.slot.changed, state);
        }
    }
}

impl Drop for Preparing {
    fn drop(&mut self) {
        let mut state = self.slot.state();
        state.is_unwanted = true;
        if let Some(built) = state.built.take() {
            let files = Arc::clone(&self.files);
            self.files.in_background(Box::new(move || discard(&files, built)));
        }
    }
}

fn discard(files: &Arc<dyn Files>, built: Built) {
    if let Built::Ready(prepared) = built {
        let Prepared { conn, path, .. } = *prepared;
        drop(conn);
        path.iter().for_each(|path| files.remove(path));
    }
}

/// Prepares a file at once, in memory, from pieces that need not be committed.
pub fn in_memory(conn: &Connection, plan: LoadPlan) -> Built {
    let mut image = Vec::new();
    let gathered = gather(conn, plan, |piece| {
        image.extend_from_slice(piece);
        Ok(())
    });
    let opened = gathered.map(|gathered| gathered.and_then(|()| load::open(image)));
    let built = opened.map_err(|error| unusable(&error)).and_then(|opened| {
        let other = opened.map_err(Built::Refused)?;
        let conn = memory().map_err(|error| Built::Broken(Fatal::of(&HookState::default(), &error)))?;
        build(conn, None, plan, &other, &Arc::default())
    });
    built.unwrap_or_else(|built| built)
}

fn from_file(files: &Arc<dyn Files>, plan: LoadPlan, slot: &Arc<Slot>) -> Built {
    let (source, path) = (files.temporary(), files.successor());
    // An old file of that name is useless, and would change the result.
    files.remove(&path);
    let built = prepare_file(files, plan, slot, &source, &path).unwrap_or_else(|built| built);
    files.remove(&source);
    if !matches!(built, Built::Ready(_)) {
        files.remove(&path);
    }
    built
}

/// Prepares a file on the disk. Refusal and failure come as the error, so that `?` can be used.
fn prepare_file(
    files: &Arc<dyn Files>,
    plan: LoadPlan,
    slot: &Arc<Slot>,
    source: &Path,
    path: &Path,
) -> Result<Built, Built> {
    let sqlite = |error: rusqlite::Error| Built::Broken(Fatal::of(&HookState::default(), &error));
    let read = || Connection::open_with_flags(files.path(), OpenFlags::SQLITE_OPEN_READ_ONLY);
    let written = (|| {
        let pieces = read().map_err(io::Error::other)?;
        pieces.execute_batch("BEGIN").map_err(io::Error::other)?;
        let mut file = files.create(source)?;
        let gathered = gather(&pieces, plan, |piece| file.write_all(piece))?;
        file.flush().map(|()| gathered)
    })();
    written.map_err(|error| unusable(&error))?.map_err(Built::Refused)?;
    let other = load::open_file(source).map_err(Built::Refused)?;
    let conn = Connection::open_with_flags(path, FLAGS).map_err(sqlite)?;
    // Until it is complete the file is useless: nothing needs to survive a crash.
    conn.execute_batch("PRAGMA journal_mode = MEMORY; PRAGMA synchronous = OFF").map_err(sqlite)?;
    let built = build(conn, Some(files), plan, &other, slot)?;
    if let Built::Ready(prepared) = &built {
        let _own = InternalStatements::begin(&prepared.hooks);
        prepared.conn.execute_batch(KEPT).map_err(sqlite)?;
        files.sync(path).map_err(|error| unusable(&error))?;
    }
    let Built::Ready(mut prepared) = built else { return Ok(built) };
    // Replies to later entries are added when it is put in place.
    let own = InternalStatements::begin(&prepared.hooks);
    let copied = read().and_then(|from| {
        prepared.conn.execute_batch("BEGIN IMMEDIATE")?;
        let newest = own_table::copy_entries(&from, &prepared.conn, 0)?;
        prepared.conn.execute_batch("COMMIT").map(|()| newest)
    });
    drop(own);
    prepared.copied_to = copied.map_err(sqlite)?;
    prepared.path = Some(path.to_path_buf());
    Ok(Built::Ready(prepared))
}

fn unusable(error: &io::Error) -> Built {
    Built::Broken(Fatal { why: format!("a file that is loaded cannot be prepared: {error}"), is_damaged: false })
}

/// Passes the pieces of the planned file to `take`, in order. The inner error is the reason for refusing the file.
fn gather(
    conn: &Connection,
    plan: LoadPlan,
    mut take: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<Result<(), String>> {
    let staged = own_table::staged(conn).map_err(io::Error::other)?;
    let Some(staged) = staged.filter(|staged| (staged.load, staged.bytes) == (plan.load, plan.bytes)) else {
        return Ok(Err(OTHER_FILE.to_string()));
    };
    let (mut crc, mut start, mut at) = (crc32fast::Hasher::new(), Vec::<u8>::new(), 0_u64);
    own_table::gather(conn, staged, |piece| {
        crc.update(piece);
        start.extend(piece.iter().take(file_header::MAGIC.len().saturating_sub(start.len())));
        let mut piece = piece.to_vec();
        file_header::without_log(at, &mut piece);
        at += piece.len() as u64;
        take(&piece)
    })?;
    Ok(if at != plan.bytes || crc.finalize() != plan.crc {
        Err("the file was damaged in transit: start the load again".to_string())
    } else if start != file_header::MAGIC || at < file_header::BYTES_MIN {
        Err("not a SQLite database".to_string())
    } else {
        Ok(())
    })
}

/// Copies the content of the file into an empty database. Refusal and failure come as the error, so that `?` can be
/// used.
fn build(
    mut conn: Connection,
    files: Option<&Arc<dyn Files>>,
    plan: LoadPlan,
    other: &Connection,
    slot: &Arc<Slot>,
) -> Result<Built, Built> {
    let hooks = Arc::new(HookState::default());
    if let Some(files) = files {
        hooks.files.get_or_init(|| Arc::clone(files));
    }
    let fatal = |error: &rusqlite::Error| Built::Broken(Fatal::of(&hooks, error));
    let unwanted = Arc::clone(slot);
    let is_over = move || unwanted.state().is_unwanted.then_some("the request was cancelled");
    configure(&mut conn, &hooks, Purpose::Write, Some(Arc::new(is_over))).map_err(|error| fatal(&error))?;
    let own = InternalStatements::begin(&hooks);
    own_table::create(&conn).and_then(|()| conn.execute_batch("BEGIN IMMEDIATE")).map_err(|error| fatal(&error))?;
    drop(own);
    hooks.begin_transaction(Some(Vec::new()));
    hooks.begin_schema(Some(Schema::default()));
    hooks.begin(plan.at_ms, plan.seed, FILE_STEPS_MAX + plan.bytes.saturating_mul(FILE_STEPS_PER_BYTE));
    let copied = load::copy_all(&conn, &hooks, other);
    let own = InternalStatements::begin(&hooks);
    match copied {
        Ok(()) => conn.execute_batch("COMMIT; PRAGMA writable_schema = RESET").map_err(|error| fatal(&error))?,
        Err(Stop::Refused(why)) => return Err(Built::Refused(why)),
        Err(Stop::Broken(StatementError::BudgetExceeded)) => return Err(Built::Refused(BUDGET_EXCEEDED.to_string())),
        // A definition may make SQLite report corruption.
        Err(Stop::Broken(StatementError::Fatal { why, is_damaged: true })) => {
            let found: rusqlite::Result<String> = conn.query_row("PRAGMA quick_check(1)", [], |row| row.get(0));
            return Err(match found {
                Ok(found) if found == "ok" => Built::Refused(why),
                _ => Built::Broken(Fatal { why, is_damaged: false }),
            });
        }
        Err(Stop::Broken(
            StatementError::Fatal { why, .. } | StatementError::Failed(why) | StatementError::TooLong(why),
        )) => {
            return Err(Built::Broken(Fatal { why, is_damaged: false }));
        }
    }
    drop(own);
    // From here on it is a database like any other.
    count_steps(&mut conn, &hooks, None).map_err(|error| fatal(&error))?;
    Ok(Built::Ready(Box::new(Prepared { conn, hooks, path: None, copied_to: 0 })))
}
