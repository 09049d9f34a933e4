//! The database as endpoints use it: writes through the log, reads beside it.
//!
//! Reads run on the thread that asks, on one of a few read-only connections to this node's file. A read that must see
//! every acknowledged write first asks `apply` whether the read index is applied; what is applied is committed in the
//! file.
//! Not here: the connections (`reader_pool.rs`), what a statement does (`services/sql/`), rqlite's JSON (`http/db/`),
//! the file's folder (`node/process/sql_folder.rs`).

use super::load_permit::LoadPermit;
use super::reader_pool::ReaderPool;
use crate::node::handle::Handle;
use crate::node::interface::Requests;
use crate::node::shared::Shared;
use crate::node::shared::memory::Reservation;
use crate::node::shared::request::{Ack, Level, Operation};
use crate::node::views::statement_timings;
use crate::outcome::{Outcome, Reason, UnknownReason};
use crate::services::Replicated;
use crate::services::Reply;
use crate::services::sessions::Tag;
use crate::services::sql::Database;
use crate::services::sql::{
    Answer, Command, Digest, FREED_BYTES_MAX, Outcome as SqlOutcome, Query, ReadLevel, Run, Statement, all_read,
    bare_image, may_free, script_parts,
};
use crate::types::Index;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

/// A read of the database.
#[derive(Clone, Debug)]
pub struct SqlRead {
    /// One after another, from one state.
    pub statements: Vec<Statement>,
    pub level: ReadLevel,
    /// With level `None`: refuse if this node has not heard a leader for longer.
    pub freshness: Option<Duration>,
    /// What `random()` is made from.
    pub seed: u64,
}

/// The form of a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackupForm {
    File,
    /// The statements that recreate it, as by `.dump` of sqlite3.
    Sql,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    pub form: BackupForm,
    /// A file is rebuilt without free pages.
    pub is_vacuumed: bool,
    /// Statements: of these tables alone, unless empty.
    pub tables: Vec<String>,
}

/// Rows are in memory as they were read, and as text in a buffer of up to twice the size.
const ROWS_TIMES: usize = 3;

/// Whether the database is so large that a request could free too much of it: by the sizes of its file and SQLite's
/// log.
fn is_large(path: &Path) -> bool {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    let bytes = |path: &Path| std::fs::metadata(path).map_or(0, |file| file.len());
    bytes(path) + bytes(Path::new(&log)) > FREED_BYTES_MAX.unsigned_abs()
}

/// The reason if statements would free too much of the database at once, as far as this node's file tells.
fn excess_freed(
    shared: &Shared,
    statements: &[Statement],
    seed: u64,
    deadline: Instant,
) -> Result<Option<String>, Reason> {
    let Ok(pool) = pool(shared) else { return Ok(None) };
    if !may_free(statements, shared.sizes().has_triggers) || !is_large(&pool.files.path()) {
        return Ok(None);
    }
    let mut reader = pool.take_for_check(deadline)?;
    let excess = reader.excess_freed(pool.files.long_rows(), statements, shared.now_ms(), seed);
    excess.map_err(|error| Reason::Unreadable(error.to_string()))
}

/// The database as endpoints use it.
pub trait Sql {
    /// Runs statements through the log. `times` gets how long each took on this node: nothing, if this node did not run
    /// them, because the request was a repetition, or a snapshot contained its effects.
    fn sql_run(
        &self,
        run: Run,
        tag: Option<Tag>,
        times: Option<&mut Vec<Duration>>,
        deadline: Instant,
    ) -> Outcome<(Index, Answer)>;
    /// Runs a command of the database through the log. `tag`: from the `Idempotency-Key`, if the client sent one.
    fn sql_write(&self, command: &Command, tag: Option<Tag>, deadline: Instant) -> Outcome<(Index, Answer)>;
    /// Reads. A statement that could change anything fails, regardless of the level. `times` gets how long each took.
    /// `held` reserves memory for the rows and for their encoded form.
    fn sql_read(
        &self,
        read: SqlRead,
        times: Option<&mut Vec<Duration>>,
        held: &mut Reservation,
        deadline: Instant,
    ) -> Outcome<(Index, Answer)>;
    /// Whether none of these can change anything: such a request need not go through the log.
    fn sql_only_reads(&self, statements: &[Statement], deadline: Instant) -> bool;
    /// Writes the whole database out, as it is at the index that is returned, or a little later.
    fn sql_backup(&self, backup: &Backup, level: ReadLevel, deadline: Instant, out: &mut dyn Write) -> Outcome<Index>;
    /// Digests of this node's tables, and the newest entry of the database that they include.
    fn sql_digest(&self, level: ReadLevel, deadline: Instant) -> Outcome<Digest>;
}

impl Sql for Handle {
    fn sql_run(
        &self,
        run: Run,
        tag: Option<Tag>,
        times: Option<&mut Vec<Duration>>,
        deadline: Instant,
    ) -> Outcome<(Index, Answer)> {
        match excess_freed(self.shared(), &run.statements, run.seed, deadline) {
            Ok(None) => {}
            // No statement is executed; the result of each is the reason.
            Ok(Some(why)) => {
                let count = if run.is_transaction { 1 } else { run.statements.len() };
                let answer = Answer::Results(vec![SqlOutcome::Failed(why); count]);
                return Outcome::Done((self.shared().applied(), answer));
            }
            Err(why) => return Outcome::Refused(why),
        }
        let (Some(times), Ok(pool)) = (times, pool(self.shared())) else {
            return self.sql_write(&Command::Run(run), tag, deadline);
        };
        let timed = pool.timings.begin(run.seed);
        let outcome = self.sql_write(&Command::Run(run), tag, deadline);
        if let Outcome::Done((_, Answer::Results(results))) = &outcome {
            *times = timed.times();
            if times.len() < results.len() {
                // Another node has answered, and this one has not applied the command completely.
                let _ = self.sql_barrier(ReadLevel::Linearizable, None, deadline);
                *times = timed.times();
            }
        }
        outcome
    }

    fn sql_write(&self, command: &Command, tag: Option<Tag>, deadline: Instant) -> Outcome<(Index, Answer)> {
        if let Command::LoadDump { sql, seed } = command
            && pool(self.shared()).is_ok_and(|pool| is_large(&pool.files.path()))
        {
            match excess_freed(
                self.shared(),
                &script_parts(sql).map(Statement::bare).collect::<Vec<_>>(),
                *seed,
                deadline,
            ) {
                Ok(None) => {}
                Ok(Some(why)) => return Outcome::Done((self.shared().applied(), Answer::Refused(why))),
                Err(why) => return Outcome::Refused(why),
            }
        }
        let (mut tag, mut permit) = (tag, None);
        loop {
            // Encoded again for each try: nearly every command needs only one, and so none is copied.
            let command = Operation::Command { tag, command: Database::encode_command(command), ack: Ack::Applied };
            let after_ms = match understood(self.ask(command, deadline)) {
                Outcome::Done((_, Answer::Busy { after_ms })) => after_ms,
                other => return other,
            };
            let Ok(pool) = pool(self.shared()) else { return Outcome::Refused(Reason::DatabaseBusy) };
            let time = Duration::from_millis(after_ms);
            permit = permit.or_else(|| pool.load_permits.take(deadline));
            if permit.as_ref().and_then(|permit: &LoadPermit<'_>| permit.wait(time, deadline)).is_none() {
                return Outcome::Refused(Reason::DatabaseBusy);
            }
            // The refused attempt is in the session table under its tag. A repetition of the request uses the same
            // tags.
            tag = tag.map(|tag| Tag { number: tag.number + 1, ..tag });
        }
    }

    fn sql_read(
        &self,
        read: SqlRead,
        times: Option<&mut Vec<Duration>>,
        held: &mut Reservation,
        deadline: Instant,
    ) -> Outcome<(Index, Answer)> {
        let SqlRead { statements, level, freshness, seed } = read;
        let shared = self.shared();
        let index = match self.readable_index(level, freshness, deadline) {
            Ok(index) => index,
            Err(why) => return Outcome::Refused(why),
        };
        let begun = Instant::now();
        let mut reader = match pool(shared).and_then(|pool| pool.take(deadline)) {
            Ok(reader) => reader,
            Err(why) => return Outcome::Refused(why),
        };
        let mut instants = Vec::new();
        let is_timed = times.is_some();
        let mut mark = || instants.extend(is_timed.then(Instant::now));
        let mut is_full = false;
        let mut grant = |bytes: usize| {
            is_full |= held.resize(ROWS_TIMES * bytes).is_err();
            !is_full
        };
        let outcomes = reader.read_within(&statements, shared.now_ms(), seed, &mut mark, &mut grant);
        if is_full {
            return Outcome::Refused(Reason::Memory);
        }
        if let Some(times) = times {
            *times = statement_timings::between(&instants);
        }
        let done = Outcome::Done((index, Answer::Results(outcomes)));
        self.answered(&done, 1, begun.elapsed());
        done
    }

    fn sql_only_reads(&self, statements: &[Statement], deadline: Instant) -> bool {
        match all_read(statements) {
            Some(is_read) => is_read,
            // SQLite decides, with a schema that includes every acknowledged change.
            None => {
                self.sql_barrier(ReadLevel::Linearizable, None, deadline).is_ok()
                    && pool(self.shared())
                        .and_then(|pool| pool.take(deadline))
                        .is_ok_and(|reader| reader.only_read(statements))
            }
        }
    }

    fn sql_backup(&self, backup: &Backup, level: ReadLevel, deadline: Instant, out: &mut dyn Write) -> Outcome<Index> {
        let mut write = || {
            let index = self.readable_index(level, None, deadline)?;
            let pool = pool(self.shared())?;
            match backup.form {
                BackupForm::File => bare_image(&pool.files, backup.is_vacuumed, out),
                BackupForm::Sql => pool.take(deadline)?.dump(&backup.tables, out),
            }
            .map_err(|error| Reason::NoBackup(error.to_string()))?;
            Ok(index)
        };
        done_or_refused(write())
    }

    fn sql_digest(&self, level: ReadLevel, deadline: Instant) -> Outcome<Digest> {
        let digest = self
            .sql_barrier(level, None, deadline)
            .and_then(|_| pool(self.shared())?.take(deadline))
            .and_then(|reader| reader.digest().map_err(|e| Reason::Unreadable(e.to_string())));
        done_or_refused(digest)
    }
}

fn done_or_refused<T>(result: Result<T, Reason>) -> Outcome<T> {
    match result {
        Ok(done) => Outcome::Done(done),
        Err(why) => Outcome::Refused(why),
    }
}

impl Handle {
    /// As [`Handle::sql_barrier`], but refuses if this node's state is wrong.
    fn readable_index(
        &self,
        level: ReadLevel,
        freshness: Option<Duration>,
        deadline: Instant,
    ) -> Result<Index, Reason> {
        self.shared().no_reads().map_or(Ok(()), Err)?;
        self.sql_barrier(level, freshness, deadline)
    }

    /// Waits until this node's file is as fresh as required; returns an index that it includes.
    fn sql_barrier(&self, level: ReadLevel, freshness: Option<Duration>, deadline: Instant) -> Result<Index, Reason> {
        if level == ReadLevel::None {
            let age = self.shared().leader_age();
            return match freshness {
                Some(most) if age.is_none_or(|age| age > most) => {
                    Err(Reason::StaleRead { age_ms: age.map(|age| age.as_millis() as u64) })
                }
                _ => Ok(self.shared().applied()),
            };
        }
        match self.query(Database::encode_query(&Query::Applied), Level::Linearizable, deadline) {
            Outcome::Done((index, _)) => Ok(index),
            Outcome::Refused(why) => Err(why),
            Outcome::Unknown(_) => Err(Reason::Stopping),
        }
    }
}

fn pool(shared: &Shared) -> Result<&ReaderPool, Reason> {
    shared.sql.as_ref().ok_or_else(|| shared.no_reads().unwrap_or(Reason::NoDatabase))
}

fn understood(outcome: Outcome<(Index, Reply)>) -> Outcome<(Index, Answer)> {
    match outcome {
        Outcome::Done((index, Reply::Ok(bytes))) => match Answer::decode(&bytes) {
            Some(answer) => Outcome::Done((index, answer)),
            None => Outcome::Unknown(UnknownReason::StrangeAnswer),
        },
        Outcome::Done((index, Reply::Failed(why))) => Outcome::Done((index, Answer::Refused(why))),
        Outcome::Refused(why) => Outcome::Refused(why),
        Outcome::Unknown(why) => Outcome::Unknown(why),
    }
}
