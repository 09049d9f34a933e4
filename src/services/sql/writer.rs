//! Runs commands on the connection that writes: each atomic in itself, all of an entry in one transaction.
//!
//! A command runs in a savepoint, and each of its statements in one of its own, with a budget of steps for all of them.
//!
//! When SQLite interrupts a write, and for a few errors more, it rolls back everything since BEGIN, innocent commands of the
//! same entry too. Those are
//! then run again, with the same results, and committed at once with their replies, so that nothing runs a third time. A
//! restart in between finds the replies of the first part, and goes on with the command after it.
//!
//! Invariants: M1 a command's effect and reply depend on the content, its own bytes and the entry's time alone. M2 replies are
//! stored by the transaction that holds their effects. M3 an entry whose replies are stored is answered from there.
//! Not here: one statement (`statement.rs`), loads (`loading.rs`), the file (`database.rs`).

use super::budget::allowance::Allowance;
use super::budget::length_tiers;
use super::commands::{Answer, Command, Outcome, READ_ROWS_MAX, RUN_ROWS_BYTES_MAX, Run, STEPS_MAX};
use super::connection::hook_state::Watch;
use super::connection::{self, functions};
use super::loading::Before;
use super::statement::{self, Room, Trouble};
use super::storage::own_table;
use super::storage::prepare::Preparing;
use super::storage::schema;
use crate::services::Reply;
use crate::types::Stamp;
use rusqlite::Connection;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// The database cannot go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fatal {
    /// What SQLite said.
    pub why: String,
    /// Its content cannot be trusted.
    pub is_damaged: bool,
}

impl Fatal {
    /// Whatever goes wrong with a statement of our own.
    pub fn of(watch: &Watch, error: &rusqlite::Error) -> Fatal {
        match statement::trouble(watch, error) {
            Trouble::Fatal { why, is_damaged } => Fatal { why, is_damaged },
            Trouble::Failed(why) | Trouble::TooLong(why) => Fatal { why, is_damaged: false },
            Trouble::RanAway => Fatal { why: functions::RAN_AWAY.to_string(), is_damaged: false },
        }
    }
}

/// An entry that is being applied.
#[derive(Debug)]
pub(crate) struct Entry {
    index: u64,
    /// Stored ones first.
    replies: Vec<Reply>,
    /// Replies given so far.
    given: usize,
    /// Commands of the transaction that is open, with the steps that each might take.
    since_begin: Vec<(Stamp, Command, u64)>,
}

/// A database, on the connection that writes.
#[derive(Debug)]
pub struct Machine {
    pub(crate) conn: Connection,
    pub(crate) watch: Arc<Watch>,
    entry: Option<Entry>,
    newest: u64,
    pruned_to: u64,
    /// Version of the schema whose virtual tables are known.
    pub(crate) virtual_at: Option<i64>,
    /// Version of the schema whose indexes are known.
    pub(crate) indexes_at: Option<i64>,
    /// A file that is made into a database beside the log.
    pub(crate) preparing: Option<Preparing>,
    /// What is to be prepared may have changed.
    pub(crate) is_plan_unsure: bool,
    /// The database that was before the present one, and the file of the present one, which is not known to be it yet.
    pub(crate) before: Option<Before>,
    /// How much requests may do.
    allowance: Allowance,
    /// Grows with each change.
    generation: u64,
    /// Planted bugs.
    #[cfg(test)]
    pub flaws: super::Flaws,
}

/// How the statements of a run came out.
enum End {
    All,
    /// One in a transaction failed.
    Undone,
    /// The budget was used up, by the statement of this number.
    RanAway(usize),
    /// SQLite has taken the transaction away, in the statement of this number.
    Gone(usize),
}

impl Machine {
    /// Takes over a connection that was furnished; makes the journal if there is none.
    pub fn new(conn: Connection, watch: Arc<Watch>) -> Result<Machine, Fatal> {
        let own = Own::begin(&watch);
        let seen = (|| {
            own_table::create(&conn)?;
            Ok((own_table::newest(&conn)?, own_table::pruned_to(&conn)?, own_table::allowance(&conn)?))
        })();
        drop(own);
        let (newest, pruned_to, allowance) = seen.map_err(|error| Fatal::of(&watch, &error))?;
        Ok(Machine {
            conn,
            watch,
            entry: None,
            newest,
            pruned_to,
            virtual_at: None,
            indexes_at: None,
            preparing: None,
            is_plan_unsure: true,
            before: None,
            allowance,
            generation: 0,
            #[cfg(test)]
            flaws: super::Flaws::default(),
        })
    }

    /// The newest entry whose commands are in the file.
    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// Replies up to this entry are gone.
    pub fn pruned_to(&self) -> u64 {
        self.pruned_to
    }

    /// Another number after each change.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The connection, for statements of our own that change nothing.
    pub fn look<T>(&self, ask: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, Fatal> {
        let _own = Own::begin(&self.watch);
        ask(&self.conn).map_err(|error| Fatal::of(&self.watch, &error))
    }

    /// The connection, for replacing all of its content.
    pub fn replace<T>(&mut self, change: impl FnOnce(&mut Connection) -> rusqlite::Result<T>) -> Result<T, Fatal> {
        let own = Own::begin(&self.watch);
        let done = change(&mut self.conn).and_then(|done| {
            own_table::create(&self.conn)?;
            let known =
                (own_table::newest(&self.conn)?, own_table::pruned_to(&self.conn)?, own_table::allowance(&self.conn)?);
            Ok((done, known))
        });
        drop(own);
        let (done, (newest, pruned_to, allowance)) = done.map_err(|error| Fatal::of(&self.watch, &error))?;
        (self.newest, self.pruned_to, self.allowance) = (newest, pruned_to, allowance);
        (self.virtual_at, self.is_plan_unsure) = (None, true);
        self.generation += 1;
        Ok(done)
    }

    /// Runs a command of an entry, or finds what it answered when it ran.
    pub fn apply(&mut self, at: Stamp, command: Command) -> Result<Reply, Fatal> {
        let index = at.index.0;
        let mut entry = match self.entry.take() {
            Some(entry) => entry,
            None => {
                let stored =
                    if index <= self.newest { self.look(|conn| own_table::replies(conn, index))? } else { None };
                #[cfg(test)]
                let stored = stored.filter(|_| !self.flaws.entries_run_again);
                let replies = stored.unwrap_or_default();
                Entry { index, replies, given: 0, since_begin: Vec::new() }
            }
        };
        assert!(entry.index == index, "entry {index} begins before {} has ended", entry.index);
        if entry.given == entry.replies.len() {
            let is_gap = index < self.newest;
            #[cfg(test)]
            let is_gap = is_gap && !self.flaws.entries_run_again;
            if is_gap {
                let why = format!("the file has come to entry {} and does not know what {index} answered", self.newest);
                return Err(Fatal { why, is_damaged: true });
            }
            let answer = match &command {
                Command::PutInPlace { .. } => self.put_in_place(at, &command, &mut entry)?,
                _ => self.run_and_settle(at, command, &mut entry)?,
            };
            entry.replies.push(Reply::Ok(answer.encode()));
            if self.has_to_commit_early(&entry) {
                self.commit(&mut entry)?;
                self.adopt()?;
            }
        }
        entry.given += 1;
        let reply = entry.replies[entry.given - 1].clone();
        self.entry = Some(entry);
        Ok(reply)
    }

    /// The entry is over: what it did lasts from now on. `prune_to`: replies up to there will not be asked for.
    pub fn finish(&mut self, prune_to: u64) -> Result<(), Fatal> {
        let Some(mut entry) = self.entry.take() else { return Ok(()) };
        if entry.since_begin.is_empty() {
            return Ok(());
        }
        let prune_to = prune_to.min(entry.index);
        if prune_to > self.pruned_to {
            self.look(|conn| own_table::prune(conn, prune_to))?;
            self.pruned_to = prune_to;
        }
        self.commit(&mut entry)
    }

    fn has_to_commit_early(&self, entry: &Entry) -> bool {
        entry.since_begin.is_empty() && !self.conn.is_autocommit()
    }

    pub(crate) fn commit(&mut self, entry: &mut Entry) -> Result<(), Fatal> {
        self.look(|conn| {
            own_table::record(conn, entry.index, &entry.replies)?;
            own_table::set_allowance(conn, self.allowance)?;
            conn.prepare_cached("COMMIT")?.execute([]).map(drop)
        })?;
        entry.since_begin.clear();
        self.newest = self.newest.max(entry.index);
        self.generation += 1;
        Ok(())
    }

    pub(crate) fn begin(&mut self) -> Result<(), Fatal> {
        let version: i64 =
            self.look(|conn| conn.prepare_cached("PRAGMA schema_version")?.query_row([], |row| row.get(0)))?;
        let names = if self.virtual_at == Some(version) {
            None
        } else {
            let find = "SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage = 0";
            Some(self.look(|conn| conn.prepare(find)?.query_map([], |row| row.get(0))?.collect())?)
        };
        self.virtual_at = Some(version);
        let has_virtual = self.watch.begin_transaction(names);
        self.look(|conn| {
            if has_virtual {
                // A virtual table keeps prepared statements, whose counts of steps would tell of entries before.
                conn.execute_batch("PRAGMA writable_schema = RESET")?;
            }
            conn.prepare_cached("BEGIN IMMEDIATE")?.execute([]).map(drop)
        })
    }

    /// Runs a command; when SQLite took the transaction away, makes again what was in it.
    fn run_and_settle(&mut self, at: Stamp, command: Command, entry: &mut Entry) -> Result<Answer, Fatal> {
        if self.conn.is_autocommit() {
            self.begin()?;
        }
        let steps = self.allowance.budget(at.at_ms);
        self.watch.begin(at.at_ms, 0, steps);
        let (mut answer, mut rolled_back) = self.run(at, &command, steps)?;
        if is_charged(&command) {
            self.allowance.charge(steps - self.watch.steps_left.load(Relaxed).max(0).cast_unsigned());
            if steps < STEPS_MAX && self.watch.has_run_away.load(Relaxed) {
                answer = Answer::Busy { after_ms: self.allowance.wait_ms() };
                rolled_back = rolled_back.map(|_| 0);
            }
        }
        let Some(done) = rolled_back else {
            entry.since_begin.push((at, command, steps));
            return Ok(answer);
        };
        self.begin()?;
        for (at, before, steps) in std::mem::take(&mut entry.since_begin) {
            let (_, again) = self.run(at, &before, steps)?;
            assert!(again.is_none(), "a command ran away only when it ran again");
        }
        if let Command::Run(run) = &command
            && !run.is_transaction
            && done > 0
        {
            self.begin_command(at, run.seed, steps)?;
            self.statements(run, done)?;
            self.own("RELEASE c")?;
        }
        // `since_begin` is empty and a transaction is open: the caller commits.
        Ok(answer)
    }

    pub(crate) fn own(&self, sql: &str) -> Result<(), Fatal> {
        self.look(|conn| conn.prepare_cached(sql)?.execute([]).map(drop))
    }

    /// The answer; and if the transaction is gone, with which statement.
    fn run(&mut self, at: Stamp, command: &Command, steps: u64) -> Result<(Answer, Option<usize>), Fatal> {
        let run = match command {
            Command::Run(run) => run,
            Command::Load { sql, seed } => return self.load_text(at, sql, *seed, steps),
            other => return self.load_piece(at, other),
        };
        if let Some(why) = run.excess() {
            return Ok((Answer::Refused(why), None));
        }
        self.begin_command(at, run.seed, steps)?;
        let (mut outcomes, end) = self.statements(run, run.statements.len())?;
        match end {
            End::Gone(number) => {
                close(run, &mut outcomes, number);
                return Ok((Answer::Results(outcomes), Some(number)));
            }
            // One that may come again has done nothing.
            End::RanAway(_) if steps < STEPS_MAX => self.own("ROLLBACK TO c")?,
            End::RanAway(_) | End::Undone if run.is_transaction => self.own("ROLLBACK TO c")?,
            End::RanAway(number) => close(run, &mut outcomes, number),
            End::All | End::Undone => {}
        }
        self.own("RELEASE c")?;
        Ok((Answer::Results(outcomes), None))
    }

    /// Opens savepoint `c` and makes the connection forget what was before.
    pub(crate) fn begin_command(&mut self, at: Stamp, seed: u64, steps: u64) -> Result<(), Fatal> {
        self.look(|conn| {
            conn.prepare_cached("SAVEPOINT c")?.execute([])?;
            own_table::mark(conn)
        })?;
        self.begin_schema()?;
        let now_ms = at.at_ms;
        #[cfg(test)]
        let now_ms = self.flaws.local_ms.unwrap_or(now_ms);
        #[cfg(test)]
        let seed = seed ^ self.flaws.own_chance.unwrap_or(0);
        #[cfg(test)]
        self.watch.overlooked_now_ms.store(self.flaws.overlooked_now_ms.unwrap_or(0), Relaxed);
        #[cfg(test)]
        self.watch.settings_are_free.store(self.flaws.settings_are_free, Relaxed);
        self.watch.begin(now_ms, seed, steps);
        Ok(())
    }

    fn begin_schema(&mut self) -> Result<(), Fatal> {
        let version: i64 =
            self.look(|conn| conn.prepare_cached("PRAGMA schema_version")?.query_row([], |row| row.get(0)))?;
        let schema = if self.indexes_at == Some(version) {
            None
        } else {
            let find = "SELECT lower(tbl_name), count(*) FROM sqlite_schema WHERE type = 'index' GROUP BY 1";
            let indexes =
                self.look(|conn| conn.prepare(find)?.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect())?;
            let find = "SELECT name FROM sqlite_schema WHERE type = 'view'";
            Some((indexes, self.look(|conn| conn.prepare(find)?.query_map([], |row| row.get(0))?.collect())?))
        };
        self.indexes_at = Some(version);
        self.watch.begin_schema(schema);
        Ok(())
    }

    fn statements(&mut self, run: &Run, count: usize) -> Result<(Vec<Outcome>, End), Fatal> {
        let mut room = Room::new(RUN_ROWS_BYTES_MAX, READ_ROWS_MAX);
        let mut outcomes = Vec::with_capacity(count);
        self.lap(run.seed);
        for (number, statement) in run.statements.iter().take(count).enumerate() {
            let longest = statement.longest().max(statement::longest_literal(&statement.sql));
            let done = length_tiers::climb(&self.conn, &self.watch, longest, |gear| {
                let mut left = room.left();
                let done = statement::run_in(&self.conn, &self.watch, statement, run.kind, &mut left, Some(gear))?;
                settle(&self.conn, &self.watch)?;
                room = left;
                Ok(done)
            });
            self.lap(run.seed);
            let is_gone = self.conn.is_autocommit();
            let failed = match done.map_err(|error| Fatal::of(&self.watch, &error))? {
                Ok(outcome) => {
                    assert!(!is_gone, "a statement has ended the entry's transaction: {}", statement.sql);
                    outcomes.push(outcome);
                    continue;
                }
                Err(failed) => failed,
            };
            let has_run_away = failed == Trouble::RanAway;
            outcomes.push(Outcome::Failed(match failed {
                Trouble::RanAway => functions::RAN_AWAY.to_string(),
                Trouble::Failed(why) | Trouble::TooLong(why) => why,
                Trouble::Fatal { why, is_damaged } => {
                    self.judge(why.clone(), is_damaged)?;
                    why
                }
            }));
            if is_gone {
                return Ok((outcomes, End::Gone(number)));
            }
            if has_run_away {
                return Ok((outcomes, End::RanAway(number)));
            }
            if run.is_transaction {
                return Ok((outcomes, End::Undone));
            }
        }
        Ok((outcomes, End::All))
    }

    fn lap(&self, seed: u64) {
        if let Some(files) = self.watch.files.get() {
            files.lap(seed);
        }
    }

    /// Whether what SQLite says is really the end: a statement must not bring down every node by making SQLite believe so.
    pub(crate) fn judge(&self, why: String, is_damaged: bool) -> Result<(), Fatal> {
        if is_damaged && !self.conn.is_autocommit() {
            let check: String = self.look(|conn| conn.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)))?;
            if check == "ok" {
                return Ok(());
            }
        }
        Err(Fatal { why, is_damaged })
    }

    /// Answers a read from the state as it stands, between entries: for the simulator and tests.
    pub fn read(&self, at: Stamp, statements: &[super::commands::Statement]) -> Result<Vec<Outcome>, Fatal> {
        self.watch.begin(at.at_ms, 0, STEPS_MAX);
        let mut room = Room::new(super::commands::READ_ROWS_BYTES_MAX, READ_ROWS_MAX);
        #[cfg(test)]
        self.watch.columns_before_first_step.store(self.flaws.columns_before_first_step, Relaxed);
        let run = |statement| match statement::read(&self.conn, &self.watch, statement, &mut room) {
            Ok(outcome) => Ok(outcome),
            Err(Trouble::Failed(why) | Trouble::TooLong(why)) => Ok(Outcome::Failed(why)),
            Err(Trouble::RanAway) => Ok(Outcome::Failed(functions::RAN_AWAY.to_string())),
            Err(Trouble::Fatal { why, is_damaged }) => Err(Fatal { why, is_damaged }),
        };
        let outcomes = statements.iter().map(run).collect();
        connection::set_length(&self.conn, None).map_err(|error| Fatal::of(&self.watch, &error))?;
        outcomes
    }
}

/// What a statement did that nothing had refused beforehand.
pub fn misdeed(conn: &Connection, watch: &Watch) -> Option<String> {
    if watch.has_topmost_row.load(Relaxed) {
        return Some(format!("row number {} is not for use: what follows it would be up to chance", i64::MAX));
    }
    if let Some(table) = watch.made_of_select() {
        let _own = Own::begin(watch);
        let names: rusqlite::Result<Vec<String>> = conn
            .prepare_cached("SELECT name FROM pragma_table_info(?1)")
            .and_then(|mut columns| columns.query_map([table], |row| row.get(0))?.collect());
        if let Some(why) = schema::random_name(&names.unwrap_or_default()) {
            return Some(why);
        }
    }
    if watch.has_set_sequence.load(Relaxed) {
        let _own = Own::begin(watch);
        let find = "SELECT count(*) FROM sqlite_sequence WHERE typeof(seq) <> 'integer' OR seq >= 9223372036854775806";
        // No such table: it was a statement that would have written it.
        let count: i64 = conn.query_row(find, [], |row| row.get(0)).unwrap_or(0);
        if count > 0 {
            return Some("sqlite_sequence holds integers, and none so large that no row could follow".to_string());
        }
    }
    None
}

/// Looks at what a statement has done, and has virtual tables write what they keep in memory: what goes wrong with it is the
/// fault of the statement, not of the commit.
pub fn settle(conn: &Connection, watch: &Watch) -> Result<(), Trouble> {
    if let Some(why) = misdeed(conn, watch) {
        return Err(Trouble::Failed(why));
    }
    if !watch.has_virtual.load(Relaxed) {
        return Ok(());
    }
    let own = Own::begin(watch);
    let flushed = conn.execute_batch("SAVEPOINT f; RELEASE f");
    drop(own);
    flushed.map_err(|error| statement::trouble(watch, &error))
}

/// Whether a command takes steps of the budget.
fn is_charged(command: &Command) -> bool {
    matches!(command, Command::Run(_) | Command::Load { .. })
}

/// Says of the statements after the one that ended a request that nothing was done about them.
fn close(run: &Run, outcomes: &mut Vec<Outcome>, number: usize) {
    if !run.is_transaction {
        let left = run.statements.len().saturating_sub(number + 1);
        let why = || Outcome::Failed("not run: the request ended with the statement before".to_string());
        outcomes.extend(std::iter::repeat_with(why).take(left));
    }
}

/// As long as it lives statements are our own: nothing is refused, nothing counted.
pub struct Own<'a>(&'a Watch, bool);

impl Own<'_> {
    /// Begins.
    pub fn begin(watch: &Watch) -> Own<'_> {
        Own(watch, watch.is_internal.swap(true, Relaxed))
    }
}

impl Drop for Own<'_> {
    fn drop(&mut self) {
        self.0.is_internal.store(self.1, Relaxed);
    }
}
