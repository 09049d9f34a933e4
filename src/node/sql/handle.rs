//! The database as doors use it: writes through the log, reads beside it.
//!
//! Reads run on the thread of whoever asks, on one of a few read-only connections to this node's file. A read that must see
//! every acknowledged write first asks `apply` whether the read index is applied; what is applied is committed in the file.
//! Not here: what a statement does (`services/sql/`), rqlite's spelling (`http/`), the file's folder (`node/process/sql_folder.rs`).

use super::load_permit::{BUSY, Turn, Turns};
use crate::limits::{SQL_READERS_MAX, SQL_READS_BYTES_MAX};
use crate::node::handle::{Ack, Handle, Level, Work};
use crate::node::shared::memory::{self, Reservation};
use crate::node::shared::{Shared, lock};
use crate::node::views::statement_timings::{self, Laps};
use crate::services::sessions::Tag;
use crate::services::sql::{
    Answer, Checkpointer, Command, Digest, Files, Outcome as SqlOutcome, Query, ReadLevel, Reader, Run, Statement,
    all_read, bare_image, may_free,
};
use crate::services::{Reply, registry};
use crate::types::{Index, Outcome};
use log::warn;
use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// Between two passes; what is written in between is read from SQLite's log.
const CHECKPOINT_EVERY: Duration = Duration::from_millis(250);

/// Between two looks at memory and disk while somebody reads.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// The same while nobody does.
const CALM_EVERY: Duration = Duration::from_secs(1);

/// A read of the database.
#[derive(Clone, Debug)]
pub struct SqlRead {
    /// One after another, from one state.
    pub statements: Vec<Statement>,
    /// How fresh.
    pub level: ReadLevel,
    /// With level `None`: refuse if this node has heard from no leader for longer.
    pub freshness: Option<Duration>,
    /// What `random()` is made from.
    pub seed: u64,
}

/// In which form the whole database is given away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackupForm {
    /// A SQLite file.
    File,
    /// The statements that make it anew, as `.dump` of sqlite3 gives them.
    Sql,
}

/// The connections that read.
pub struct Readers {
    files: Arc<dyn Files>,
    pool: Mutex<Pool>,
    freed: Condvar,
    guard: Arc<Guard>,
    laps: Arc<Laps>,
    /// Name of the newest load that this node has prepared.
    prepared: Arc<AtomicU64>,
    turns: Turns,
}

/// Sees to it that reads do not take what the node lives on: SQLite bounds neither the memory of a statement nor the files that
/// it sorts with.
struct Guard {
    files: Arc<dyn Files>,
    started: Instant,
    /// Bytes of memory of this process when nobody read.
    calm_bytes: AtomicU64,
    /// When that was looked at, in microseconds since the start.
    calm_us: AtomicU64,
    /// When it was looked last, in microseconds since the start, and what was found.
    looked_us: AtomicU64,
    is_short_of_memory: AtomicBool,
    is_short_of_disk: AtomicBool,
}

impl Guard {
    /// Nobody reads now.
    fn remember_calm(&self) {
        let now_us = self.started.elapsed().as_micros() as u64;
        if now_us.saturating_sub(self.calm_us.load(Ordering::Relaxed)) >= CALM_EVERY.as_micros() as u64 {
            self.calm_us.store(now_us, Ordering::Relaxed);
            self.calm_bytes.store(resident_bytes(), Ordering::Relaxed);
        }
    }

    /// Why a read that must be done by then must end now, if it must.
    fn verdict(&self, ends_us: u64) -> Option<&'static str> {
        let now_us = self.started.elapsed().as_micros() as u64;
        if now_us > ends_us {
            return Some("interrupted: its time is up");
        }
        if now_us.saturating_sub(self.looked_us.load(Ordering::Relaxed)) >= LOOK_EVERY.as_micros() as u64 {
            self.looked_us.store(now_us, Ordering::Relaxed);
            let grown = resident_bytes().saturating_sub(self.calm_bytes.load(Ordering::Relaxed));
            self.is_short_of_memory.store(grown > SQL_READS_BYTES_MAX, Ordering::Relaxed);
            self.is_short_of_disk.store(!self.files.has_room_for_reads(), Ordering::Relaxed);
        }
        if self.is_short_of_memory.load(Ordering::Relaxed) {
            return Some("interrupted: reads take too much of this node's memory; ask for less, or later");
        }
        self.is_short_of_disk
            .load(Ordering::Relaxed)
            .then_some("interrupted: what this read sorts or gathers leaves too little room on this node's disk")
    }
}

/// Rows are in memory as they were read, and as text in a buffer that may have twice the room.
const ROWS_TIMES: usize = 3;

/// Memory of this process; 0 where the system does not tell.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}

#[derive(Default)]
struct Pool {
    idle: Vec<Seat>,
    /// Idle or in use.
    open: usize,
}

/// A reader, and when it must be done: microseconds since the start.
struct Seat {
    reader: Reader,
    /// Which file it reads.
    path: PathBuf,
    ends_us: Arc<AtomicU64>,
}

/// A reader on loan.
struct Loan<'a> {
    readers: &'a Readers,
    seat: Option<Seat>,
}

impl fmt::Debug for Readers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readers").field("open", &lock(&self.pool).open).finish_non_exhaustive()
    }
}

impl Readers {
    /// None yet; they are opened when they are needed. `laps`: what the writer of the same files is timed by; `prepared`: where
    /// it says which load it has prepared.
    pub fn new(files: Arc<dyn Files>, laps: Arc<Laps>, prepared: Arc<AtomicU64>) -> Readers {
        let guard = Guard {
            files: Arc::clone(&files),
            started: Instant::now(),
            calm_bytes: AtomicU64::new(resident_bytes()),
            calm_us: AtomicU64::new(0),
            looked_us: AtomicU64::new(0),
            is_short_of_memory: AtomicBool::new(false),
            is_short_of_disk: AtomicBool::new(false),
        };
        Readers {
            files,
            pool: Mutex::default(),
            freed: Condvar::new(),
            guard: Arc::new(guard),
            laps,
            prepared,
            turns: Turns::default(),
        }
    }

    /// A reader that must be done by the deadline; waits for one until then. The error: a sentence.
    fn borrow(&self, deadline: Instant) -> Result<Loan<'_>, String> {
        let mut pool = lock(&self.pool);
        if pool.idle.len() == pool.open {
            self.guard.remember_calm();
        }
        let seat = loop {
            match pool.idle.pop() {
                // A file that was loaded has taken the place of the one that it reads.
                Some(seat) if seat.path != self.files.path() => {
                    pool.open -= 1;
                    continue;
                }
                Some(seat) => break Some(seat),
                None => {}
            }
            if pool.open < SQL_READERS_MAX {
                pool.open += 1;
                break None;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err("too many reads at once; try again later".to_string());
            }
            let (again, _) = self.freed.wait_timeout(pool, left).unwrap_or_else(std::sync::PoisonError::into_inner);
            pool = again;
        };
        drop(pool);
        let mut loan = Loan { readers: self, seat };
        if loan.seat.is_none() {
            loan.seat = Some(self.open().map_err(|e| format!("the database cannot be read: {e}"))?);
        }
        let ends_us = deadline.saturating_duration_since(self.guard.started).as_micros() as u64;
        if let Some(seat) = &loan.seat {
            seat.ends_us.store(ends_us, Ordering::Relaxed);
        }
        Ok(loan)
    }

    /// Name of the newest load that this node has prepared.
    pub fn prepared_load(&self) -> u64 {
        self.prepared.load(Ordering::Relaxed)
    }

    /// Closes what reads a file whose place another one has taken: as long as it is open it takes room on the disk.
    fn close_old(&self, path: &Path) {
        let mut pool = lock(&self.pool);
        let before = pool.idle.len();
        pool.idle.retain(|seat| seat.path == path);
        pool.open -= before - pool.idle.len();
    }

    fn open(&self) -> rusqlite::Result<Seat> {
        let ends_us = Arc::new(AtomicU64::new(u64::MAX));
        let (ends, guard) = (Arc::clone(&ends_us), Arc::clone(&self.guard));
        let is_over = move || guard.verdict(ends.load(Ordering::Relaxed));
        let is_over: Arc<dyn Fn() -> Option<&'static str> + Send + Sync> = Arc::new(is_over);
        loop {
            let path = self.files.path();
            match Reader::open(&path, Arc::clone(&is_over)) {
                Ok(reader) => return Ok(Seat { reader, path, ends_us }),
                // Another file has taken its place in between.
                Err(_) if path != self.files.path() => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        let mut pool = lock(&self.readers.pool);
        match self.seat.take() {
            Some(seat) => pool.idle.push(seat),
            None => pool.open -= 1,
        }
        drop(pool);
        self.readers.freed.notify_one();
    }
}

impl Loan<'_> {
    fn reader(&mut self) -> &mut Reader {
        &mut self.seat.as_mut().expect("it is there until it is given back").reader
    }
}

impl Handle {
    /// Runs statements through the log. `times` gets how long each took on this node: nothing, if this node did not run them,
    /// because the same request was answered before or a snapshot brought what they did.
    pub fn sql_run(
        &self,
        run: Run,
        tag: Option<Tag>,
        times: Option<&mut Vec<Duration>>,
        deadline: Instant,
    ) -> Outcome<(Index, Answer)> {
        let readers = readers(self.shared());
        if let Ok(readers) = &readers
            && may_free(&run.statements)
        {
            let excess = readers.borrow(deadline).and_then(|mut loan| {
                let excess = loan.reader().excess_freed(&run.statements, self.shared().now_ms(), run.seed);
                excess.map_err(|e| format!("the database cannot be read: {e}"))
            });
            match excess {
                Ok(None) => {}
                // Nothing of the request is done, with the reason in the place of each statement.
                Ok(Some(why)) => {
                    let count = if run.is_transaction { 1 } else { run.statements.len() };
                    let answer = Answer::Results(vec![SqlOutcome::Failed(why); count]);
                    return Outcome::Done((self.shared().applied(), answer));
                }
                Err(why) => return Outcome::Refused(why),
            }
        }
        let (Some(times), Ok(readers)) = (times, readers) else {
            return self.sql_write(&Command::Run(run), tag, deadline);
        };
        let wanted = readers.laps.want(run.seed);
        let outcome = self.sql_write(&Command::Run(run), tag, deadline);
        if let Outcome::Done((_, Answer::Results(results))) = &outcome {
            *times = wanted.times();
            if times.len() < results.len() {
                // Another node has answered, and this one may be about to apply it, or in the middle of it.
                let _ = self.sql_barrier(ReadLevel::Linearizable, None, deadline);
                *times = wanted.times();
            }
        }
        outcome
    }

    /// Runs a command of the database through the log, on whichever node leads. `tag`: its name, if the client chose one.
    pub fn sql_write(&self, command: &Command, tag: Option<Tag>, deadline: Instant) -> Outcome<(Index, Answer)> {
        let (mut tag, mut turn) = (tag, None);
        loop {
            // Encoded anew for each turn: nearly every command needs one only, and none is copied.
            let work = Work::Command { tag, command: registry::sql_command(command), ack: Ack::Applied };
            let after_ms = match understood(self.ask(work, deadline)) {
                Outcome::Done((_, Answer::Busy { after_ms })) => after_ms,
                other => return other,
            };
            let Ok(readers) = readers(self.shared()) else { return Outcome::Refused(BUSY.to_string()) };
            let time = Duration::from_millis(after_ms);
            turn = turn.or_else(|| readers.turns.take(deadline));
            if turn.as_ref().and_then(|turn: &Turn<'_>| turn.wait(time, deadline)).is_none() {
                return Outcome::Refused(BUSY.to_string());
            }
            // What was told to come again is known by its name: a copy of the request comes by the same names.
            tag = tag.map(|tag| Tag { number: tag.number + 1, ..tag });
        }
    }

    /// Reads. Whatever its level, a statement that could change anything fails in its place. `times` gets how long each took.
    /// `held` is for the rows and for the form in which they go on, until they have it.
    pub fn sql_read(
        &self,
        read: SqlRead,
        times: Option<&mut Vec<Duration>>,
        held: &mut Reservation,
        deadline: Instant,
    ) -> Outcome<(Index, Answer)> {
        let SqlRead { statements, level, freshness, seed } = read;
        if let Some(why) = self.shared().integrity.no_reads() {
            return Outcome::Refused(why);
        }
        let index = match self.sql_barrier(level, freshness, deadline) {
            Outcome::Done(index) => index,
            Outcome::Refused(why) | Outcome::Unknown(why) => return Outcome::Refused(why),
        };
        let shared = self.shared();
        let begun = Instant::now();
        let mut loan = match readers(shared).and_then(|readers| readers.borrow(deadline)) {
            Ok(loan) => loan,
            Err(why) => return Outcome::Refused(why),
        };
        let mut laps = Vec::new();
        let is_timed = times.is_some();
        let mut lap = || laps.extend(is_timed.then(Instant::now));
        let mut is_full = false;
        let mut grant = |bytes: usize| {
            is_full |= held.resize(ROWS_TIMES * bytes).is_err();
            !is_full
        };
        let outcomes = loan.reader().read_within(&statements, shared.now_ms(), seed, &mut lap, &mut grant);
        if is_full {
            return Outcome::Refused(memory::FULL.to_string());
        }
        if let Some(times) = times {
            *times = statement_timings::between(&laps);
        }
        self.answered(1, begun.elapsed());
        Outcome::Done((index, Answer::Results(outcomes)))
    }

    /// Whether none of these can change anything: such a request needs no log.
    pub fn sql_only_reads(&self, statements: &[Statement], deadline: Instant) -> bool {
        match all_read(statements) {
            Some(is_read) => is_read,
            // SQLite tells, from a schema that has what was acknowledged before.
            None => {
                matches!(self.sql_barrier(ReadLevel::Linearizable, None, deadline), Outcome::Done(_))
                    && readers(self.shared())
                        .and_then(|readers| readers.borrow(deadline))
                        .is_ok_and(|mut loan| loan.reader().only_read(statements))
            }
        }
    }

    /// Writes the whole database out, as it is at the index that is answered or a little later.
    pub fn sql_backup(
        &self,
        form: BackupForm,
        level: ReadLevel,
        deadline: Instant,
        out: &mut dyn Write,
    ) -> Outcome<Index> {
        if let Some(why) = self.shared().integrity.no_reads() {
            return Outcome::Refused(why);
        }
        let index = match self.sql_barrier(level, None, deadline) {
            Outcome::Done(index) => index,
            other => return other,
        };
        let readers = match readers(self.shared()) {
            Ok(readers) => readers,
            Err(why) => return Outcome::Refused(why),
        };
        let written = match form {
            BackupForm::File => bare_image(&readers.files, out).map_err(|e| e.to_string()),
            BackupForm::Sql => {
                readers.borrow(deadline).and_then(|mut loan| loan.reader().dump(out).map_err(|e| e.to_string()))
            }
        };
        match written {
            Ok(()) => Outcome::Done(index),
            Err(why) => Outcome::Refused(format!("the database cannot be given away: {why}")),
        }
    }

    /// Fingerprints of this node's tables, and the newest entry of the database that they are of.
    pub fn sql_digest(&self, level: ReadLevel, deadline: Instant) -> Outcome<Digest> {
        match self.sql_barrier(level, None, deadline) {
            Outcome::Done(_) => {}
            Outcome::Refused(why) | Outcome::Unknown(why) => return Outcome::Refused(why),
        }
        let digest = readers(self.shared())
            .and_then(|readers| readers.borrow(deadline))
            .and_then(|mut loan| loan.reader().digest().map_err(|e| format!("the database cannot be read: {e}")));
        match digest {
            Ok(digest) => Outcome::Done(digest),
            Err(why) => Outcome::Refused(why),
        }
    }

    /// Waits until this node's file is as fresh as asked for; the index that it has then at least.
    fn sql_barrier(&self, level: ReadLevel, freshness: Option<Duration>, deadline: Instant) -> Outcome<Index> {
        if level == ReadLevel::None {
            let age = self.shared().leader_age();
            return match freshness {
                Some(most) if age.is_none_or(|age| age > most) => Outcome::Refused(match age {
                    Some(age) => format!("stale read: this node has heard from no leader for {} ms", age.as_millis()),
                    None => "stale read: this node has heard from no leader yet".to_string(),
                }),
                _ => Outcome::Done(self.shared().applied()),
            };
        }
        match self
            .ask(Work::Query { query: registry::sql_query(&Query::Applied), level: Level::Linearizable }, deadline)
        {
            Outcome::Done((index, _)) => Outcome::Done(index),
            Outcome::Refused(why) | Outcome::Unknown(why) => Outcome::Refused(why),
        }
    }
}

/// Body of the thread that moves SQLite's log into its file, until the node stops.
pub fn checkpoint(shared: &Shared) {
    let Some(readers) = &shared.sql else { return };
    let mut open: Option<(PathBuf, Checkpointer)> = None;
    let mut is_well = true;
    while !shared.is_stopping() {
        std::thread::sleep(CHECKPOINT_EVERY);
        let path = readers.files.path();
        let done = match open.take().filter(|(of, _)| *of == path) {
            Some(open) => Ok(open),
            None => {
                readers.close_old(&path);
                Checkpointer::open(&path).map(|checkpointer| (path, checkpointer))
            }
        };
        let done = done.and_then(|(path, checkpointer)| {
            let done = checkpointer.pass();
            open = Some((path, checkpointer));
            done
        });
        if let Err(e) = &done
            && is_well
        {
            warn!("the log of the database was not moved into its file: {e}");
        }
        is_well = done.is_ok();
    }
}

fn readers(shared: &Shared) -> Result<&Readers, String> {
    shared.sql.as_ref().ok_or_else(|| "this node has no database".to_string())
}

fn understood(outcome: Outcome<(Index, Reply)>) -> Outcome<(Index, Answer)> {
    match outcome {
        Outcome::Done((index, Reply::Ok(bytes))) => match Answer::decode(&bytes) {
            Some(answer) => Outcome::Done((index, answer)),
            None => Outcome::Unknown("the database gave an answer that this node does not know".to_string()),
        },
        Outcome::Done((index, Reply::Failed(why))) => Outcome::Done((index, Answer::Refused(why))),
        Outcome::Refused(why) => Outcome::Refused(why),
        Outcome::Unknown(why) => Outcome::Unknown(why),
    }
}
