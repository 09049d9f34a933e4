//! Applies the commands of the log: each command is atomic, and all commands of an entry run in one transaction.
//!
//! A command runs in a savepoint, and each of its statements in a savepoint of its own, with one budget of steps for
//! all of them.
//!
//! When SQLite interrupts a write, and on a few other errors, it rolls back everything since BEGIN, including the
//! earlier commands of the same entry. Those are then run again, with the same results, and committed at once with
//! their replies, so that nothing runs a third time. After a restart in between, the stored replies of that part are
//! found and the entry continues with the next command.
//!
//! Invariants: M1 a command's effect and reply depend only on the content, its own bytes and the entry's time. M3 an
//! entry whose replies are stored is answered from them.
//! Not here: transactions (`writer.rs`), one statement (`statement.rs`), loads (`load_commands.rs`).

use super::answer_limit::AnswerLimit;
use super::budget::length_tiers;
use super::commands::{
    Answer, Command, Outcome, READ_ROWS_BYTES_MAX, READ_ROWS_MAX, RUN_ROWS_BYTES_MAX, Run, RunKind, STEPS_MAX,
    Statement,
};
use super::connection::foreign_keys;
use super::connection::limits::set_length;
use super::effect_checks::settle;
use super::errors::{BUDGET_EXCEEDED, Fatal, StatementError};
use super::statement::Executor;
use super::storage::own_table;
use super::writer::{Entry, Writer};
use crate::services::Reply;
use crate::types::Stamp;
use std::sync::atomic::Ordering::Relaxed;

/// How a run ended.
enum End {
    All,
    /// A statement of a transaction failed.
    Undone,
    /// The budget was used up by the statement with this number.
    BudgetExceeded(usize),
    /// SQLite rolled back the transaction in the statement with this number.
    Gone(usize),
}

impl Writer {
    /// Runs a command of an entry, or returns the stored reply if it has run before.
    pub fn apply(&mut self, at: Stamp, command: Command) -> Result<Reply, Fatal> {
        let index = at.index.0;
        let mut entry = match self.entry.take() {
            Some(entry) => entry,
            None => {
                let stored = if index <= self.newest {
                    self.with_connection(|conn| own_table::replies(conn, index))?
                } else {
                    None
                };
                #[cfg(any(test, feature = "planted-bugs"))]
                let stored = stored.filter(|_| !self.bugs.entries_run_again);
                let replies = stored.unwrap_or_default();
                Entry { index, replies, given: 0, since_begin: Vec::new() }
            }
        };
        assert!(entry.index == index, "entry {index} begins before {} has ended", entry.index);
        if entry.given == entry.replies.len() {
            let is_gap = index < self.newest;
            #[cfg(any(test, feature = "planted-bugs"))]
            let is_gap = is_gap && !self.bugs.entries_run_again;
            if is_gap {
                let why = format!("the database file is at entry {} but has no replies to entry {index}", self.newest);
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

    /// Ends the entry: commits its effects. `prune_to`: replies to entries up to this index are no longer needed.
    pub fn finish(&mut self, prune_to: u64) -> Result<(), Fatal> {
        let Some(mut entry) = self.entry.take() else { return Ok(()) };
        if entry.since_begin.is_empty() {
            return Ok(());
        }
        let prune_to = prune_to.min(entry.index);
        if prune_to > self.pruned_to {
            self.with_connection(|conn| own_table::prune(conn, prune_to))?;
            self.pruned_to = prune_to;
        }
        self.commit(&mut entry)
    }

    fn has_to_commit_early(&self, entry: &Entry) -> bool {
        entry.since_begin.is_empty() && !self.conn.is_autocommit()
    }

    /// Runs a command; if SQLite rolled back the transaction, runs the earlier commands in it again.
    fn run_and_settle(&mut self, at: Stamp, command: Command, entry: &mut Entry) -> Result<Answer, Fatal> {
        // What an earlier command did to the schema must not make this one more expensive.
        if self.hooks.rereads_schema() && !self.conn.is_autocommit() {
            self.commit(entry)?;
        }
        if self.conn.is_autocommit() {
            self.begin()?;
        }
        let steps = self.allowance.budget(at.at_ms);
        self.hooks.begin(at.at_ms, 0, steps);
        let (mut answer, mut rolled_back) = self.run(at, &command, steps)?;
        if is_charged(&command) {
            self.allowance.charge(steps - self.hooks.steps_left.load(Relaxed).max(0).cast_unsigned());
            if steps < STEPS_MAX && self.hooks.is_over_budget() {
                answer = Answer::Busy { after_ms: self.allowance.wait_ms() };
                rolled_back = rolled_back.map(|_| 0);
            }
        }
        let Some(done) = rolled_back else {
            entry.since_begin.push((at, command, steps));
            return Ok(answer);
        };
        self.begin()?;
        self.follow_foreign_keys()?;
        for (at, before, steps) in std::mem::take(&mut entry.since_begin) {
            let (_, again) = self.run(at, &before, steps)?;
            assert!(again.is_none(), "a command that ran without a rollback was rolled back when it ran again");
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

    /// Returns the answer and, if the transaction was rolled back, the number of the statement in which that happened.
    fn run(&mut self, at: Stamp, command: &Command, steps: u64) -> Result<(Answer, Option<usize>), Fatal> {
        let run = match command {
            Command::Run(run) => run,
            Command::Load { sql, seed } => return self.load_text(at, sql, *seed, steps, false),
            Command::LoadDump { sql, seed } => return self.load_text(at, sql, *seed, steps, true),
            Command::SetForeignKeys { are_enforced } => {
                self.set_foreign_keys(*are_enforced)?;
                return Ok((Answer::Done, None));
            }
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
            // A command that may be sent again must leave no changes behind.
            End::BudgetExceeded(_) if steps < STEPS_MAX => self.own("ROLLBACK TO c")?,
            End::BudgetExceeded(_) | End::Undone if run.is_transaction => self.own("ROLLBACK TO c")?,
            End::BudgetExceeded(number) => close(run, &mut outcomes, number),
            End::All | End::Undone => {}
        }
        self.own("RELEASE c")?;
        Ok((Answer::Results(outcomes), None))
    }

    fn statements(&mut self, run: &Run, count: usize) -> Result<(Vec<Outcome>, End), Fatal> {
        let mut limit = AnswerLimit::new(RUN_ROWS_BYTES_MAX, READ_ROWS_MAX);
        let mut outcomes = Vec::with_capacity(count);
        self.on_statement(run.seed);
        for (number, statement) in run.statements.iter().take(count).enumerate() {
            let before = self.conn.total_changes();
            let longest = length_tiers::longest(&self.hooks, statement);
            let done = length_tiers::run_in_tiers(&self.conn, &self.hooks, longest, |tier| {
                let mut left = limit.left();
                let (conn, hooks) = (&self.conn, &*self.hooks);
                let done = Executor { conn, hooks, kind: run.kind, limit: &mut left }.run(statement, Some(tier))?;
                settle(&self.conn, &self.hooks)?;
                if !run.is_transaction {
                    foreign_keys::check(&self.conn)?;
                }
                limit = left;
                Ok(done)
            });
            self.on_statement(run.seed);
            let is_gone = self.conn.is_autocommit();
            let failed = match done.map_err(|error| Fatal::of(&self.hooks, &error))? {
                Ok(outcome) => {
                    let created_rows = u64::from(self.hooks.table_created_by_select().is_some()) << 40;
                    let rows = self.conn.total_changes().saturating_sub(before).max(created_rows);
                    self.long_bytes = self.long_bytes.saturating_add(length_tiers::long_bytes(&self.hooks, rows));
                    assert!(!is_gone, "a statement has ended the entry's transaction: {}", statement.sql);
                    outcomes.push(outcome);
                    continue;
                }
                Err(failed) => failed,
            };
            let is_budget_exceeded = failed == StatementError::BudgetExceeded;
            outcomes.push(Outcome::Failed(match failed {
                StatementError::BudgetExceeded => BUDGET_EXCEEDED.to_string(),
                StatementError::Failed(why) | StatementError::TooLong(why) => why,
                StatementError::Fatal { why, is_damaged } => {
                    self.confirm_fatal(why.clone(), is_damaged)?;
                    why
                }
            }));
            if is_gone {
                return Ok((outcomes, End::Gone(number)));
            }
            if is_budget_exceeded {
                return Ok((outcomes, End::BudgetExceeded(number)));
            }
            if run.is_transaction {
                return Ok((outcomes, End::Undone));
            }
        }
        if run.is_transaction
            && let (Err(StatementError::Failed(why)), Some(last)) =
                (foreign_keys::check(&self.conn), outcomes.last_mut())
        {
            *last = Outcome::Failed(why);
            return Ok((outcomes, End::Undone));
        }
        Ok((outcomes, End::All))
    }

    fn on_statement(&self, seed: u64) {
        if let Some(files) = self.hooks.files.get() {
            files.on_statement(seed);
        }
    }

    /// Answers a read from the present state, between entries: for the simulator and tests.
    pub fn read(&self, at: Stamp, statements: &[Statement]) -> Result<Vec<Outcome>, Fatal> {
        self.hooks.begin(at.at_ms, 0, STEPS_MAX);
        let mut limit = AnswerLimit::new(READ_ROWS_BYTES_MAX, READ_ROWS_MAX);
        #[cfg(any(test, feature = "planted-bugs"))]
        self.hooks.columns_before_first_step.store(self.bugs.columns_before_first_step, Relaxed);
        let mut executor = Executor { conn: &self.conn, hooks: &self.hooks, kind: RunKind::Query, limit: &mut limit };
        let run = |statement| match executor.read(statement) {
            Ok(outcome) => Ok(outcome),
            Err(StatementError::Failed(why) | StatementError::TooLong(why)) => Ok(Outcome::Failed(why)),
            Err(StatementError::BudgetExceeded) => Ok(Outcome::Failed(BUDGET_EXCEEDED.to_string())),
            Err(StatementError::Fatal { why, is_damaged }) => Err(Fatal { why, is_damaged }),
        };
        let outcomes = statements.iter().map(run).collect();
        set_length(&self.conn, None).map_err(|error| Fatal::of(&self.hooks, &error))?;
        outcomes
    }
}

/// Whether the steps of a command are charged to the allowance.
fn is_charged(command: &Command) -> bool {
    matches!(command, Command::Run(_) | Command::Load { .. } | Command::LoadDump { .. })
}

/// Adds outcomes for the statements after the one that ended the request: they were not executed.
fn close(run: &Run, outcomes: &mut Vec<Outcome>, number: usize) {
    if !run.is_transaction {
        let left = run.statements.len().saturating_sub(number + 1);
        let why = || Outcome::Failed("not executed: the request ended with the previous statement".to_string());
        outcomes.extend(std::iter::repeat_with(why).take(left));
    }
}
