//! Loads a dump: any number of statements, executed one after another.
//!
//! A dump of sqlite3 has lines that only the tool itself can execute (`dump_lines.rs`). Statistics are passed over. A
//! virtual table is created by its own statement; the rows of its shadow tables then replace those that this has
//! written. `PRAGMA foreign_keys` counts until the end of the script, as on a connection of sqlite3: such a dump switches
//! them off, because a table may precede the one that it refers to.
//!
//! Not here: savepoints and the handling of a refusal (`services/sql/loading.rs`), database files (`load.rs`).

use super::dump_lines::{self, Piece};
use super::own_table::without_defence;
use super::schema::quoted;
use crate::services::sql::answer_limit::AnswerLimit;
use crate::services::sql::budget::length_tiers;
use crate::services::sql::budget::step_cost;
use crate::services::sql::budget::text_cost::{STATEMENT_STEPS, text_steps, too_many_conflicts};
use crate::services::sql::budget::{fulltext_settings, fulltext_writes};
use crate::services::sql::commands::{Kind, Params};
use crate::services::sql::connection::foreign_keys;
use crate::services::sql::connection::hook_state::{HookState, InternalStatements};
use crate::services::sql::errors::{StatementError, classify};
use crate::services::sql::integrity::settle;
use crate::services::sql::statement::{self, Executor};
use crate::services::sql::tokens::names_rollback;
use rusqlite::fallible_iterator::FallibleIterator as _;
use rusqlite::{Batch, Connection};
use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Runs all statements of a dump. On failure: the number of the statement that failed, counted from 1 (0 if the text as
/// a whole was refused), and the reason.
pub fn text(conn: &Connection, hooks: &Arc<HookState>, sql: &str) -> Result<(), (usize, StatementError)> {
    let refused = |why: String| Err((0, StatementError::Failed(why)));
    if names_rollback(sql) {
        return refused("ROLLBACK is not available: a script is applied completely or not at all".to_string());
    }
    if let Some(why) = too_many_conflicts(sql) {
        return refused(why);
    }
    if !hooks.charge(text_steps(sql)) {
        return Err((0, StatementError::BudgetExceeded));
    }
    hooks.is_begun.store(false, Relaxed);
    let mut script = Script { conn, hooks, number: 0, virtual_tables: Vec::new(), shadow_tables: Vec::new() };
    let are_enforced = foreign_keys::are_enforced(hooks);
    let done = dump_lines::pieces(sql).try_for_each(|piece| script.run(piece)).and_then(|()| script.finish());
    let done = done.map_err(|error| (script.number, error));
    let _own = InternalStatements::begin(hooks);
    foreign_keys::enforce(conn, hooks, are_enforced).map_err(|error| (0, classify(hooks, &error)))?;
    done
}

/// A script that is being executed.
struct Script<'a> {
    conn: &'a Connection,
    hooks: &'a Arc<HookState>,
    /// Number of the present statement.
    number: usize,
    /// Virtual tables that the script has defined as a dump does, and their shadow tables, which it fills.
    virtual_tables: Vec<String>,
    shadow_tables: Vec<String>,
}

/// What the hooks recorded when a statement was prepared.
#[derive(Default)]
struct Recorded {
    may_repeat: bool,
    is_defining: bool,
    filled: Vec<(String, u64)>,
    /// The virtual table that the statement creates.
    created_table: Option<String>,
}

impl Recorded {
    fn of(hooks: &HookState) -> Recorded {
        Recorded {
            may_repeat: hooks.may_repeat.load(Relaxed),
            is_defining: hooks.is_defining.load(Relaxed),
            filled: hooks.filled(),
            created_table: hooks.created_table().filter(|_| hooks.is_creating_virtual.load(Relaxed)),
        }
    }

    fn restore(&self, hooks: &HookState) {
        hooks.may_repeat.store(self.may_repeat, Relaxed);
        hooks.is_defining.store(self.is_defining, Relaxed);
        hooks.set_filled(&self.filled);
        if let Some(name) = &self.created_table {
            hooks.set_created_table(name);
            hooks.is_creating_virtual.store(true, Relaxed);
        }
    }
}

impl Script<'_> {
    fn run(&mut self, piece: Piece<'_>) -> Result<(), StatementError> {
        match piece {
            Piece::Plain(sql) => self.statements(sql),
            Piece::PassedOver => self.pass_over(),
            Piece::ShadowTable(table, _) if self.is_shadow(&table) => self.pass_over(),
            Piece::ForeignKeys(are_enforced) => {
                self.pass_over()?;
                if are_enforced {
                    foreign_keys::check(self.conn)?;
                }
                let _own = InternalStatements::begin(self.hooks);
                foreign_keys::enforce(self.conn, self.hooks, are_enforced).map_err(|error| classify(self.hooks, &error))
            }
            Piece::VirtualTable(create) => self.virtual_table(&create),
            Piece::ShadowRow(table, sql) if self.is_shadow(&table) => self.shadow_row(sql),
            Piece::ShadowTable(_, sql) | Piece::ShadowRow(_, sql) => self.statements(sql),
        }
    }

    fn pass_over(&mut self) -> Result<(), StatementError> {
        self.number += 1;
        if self.hooks.charge(STATEMENT_STEPS) { Ok(()) } else { Err(StatementError::BudgetExceeded) }
    }

    fn is_shadow(&self, table: &str) -> bool {
        self.shadow_tables.iter().any(|own| own.eq_ignore_ascii_case(table))
    }

    /// Checks the script as a whole, after its last statement.
    fn finish(&mut self) -> Result<(), StatementError> {
        if self.hooks.is_begun.load(Relaxed) {
            let why = "the dump has BEGIN but no COMMIT: its end is missing";
            return Err(StatementError::Failed(why.to_string()));
        }
        foreign_keys::check(self.conn)?;
        if self.virtual_tables.is_empty() {
            return Ok(());
        }
        let _own = InternalStatements::begin(self.hooks);
        let on_error = |error: rusqlite::Error| classify(self.hooks, &error);
        // A virtual table keeps in memory what it wrote itself.
        self.conn.execute_batch("PRAGMA writable_schema = RESET").map_err(on_error)?;
        for table in &self.virtual_tables {
            if let Some(why) = fulltext_settings::unavailable(self.conn, table).map_err(on_error)? {
                return Err(StatementError::Failed(why));
            }
        }
        Ok(())
    }

    /// Creates a virtual table, and removes the rows that this has written into its shadow tables.
    fn virtual_table(&mut self, create: &str) -> Result<(), StatementError> {
        let before = self.tables()?;
        self.statements(create)?;
        for (name, is_virtual) in self.tables()?.into_iter().filter(|made| !before.contains(made)) {
            if is_virtual {
                self.virtual_tables.push(name);
                continue;
            }
            let _own = InternalStatements::begin(self.hooks);
            let delete = || self.conn.execute_batch(&format!("DELETE FROM {}", quoted(&name)));
            without_defence(self.conn, delete).map_err(|error| classify(self.hooks, &error))?;
            self.shadow_tables.push(name);
        }
        Ok(())
    }

    /// The name of each table, and whether it is virtual.
    fn tables(&self) -> Result<Vec<(String, bool)>, StatementError> {
        let _own = InternalStatements::begin(self.hooks);
        let find = "SELECT name, rootpage = 0 FROM main.sqlite_schema WHERE type = 'table'";
        let found = self.conn.prepare_cached(find).and_then(|mut select| {
            select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<rusqlite::Result<_>>()
        });
        found.map_err(|error| classify(self.hooks, &error))
    }

    /// Writes a row of a shadow table.
    fn shadow_row(&mut self, sql: &str) -> Result<(), StatementError> {
        let (conn, hooks) = (self.conn, self.hooks);
        without_defence(conn, || Ok(self.statements(sql))).map_err(|error| classify(hooks, &error))?
    }

    /// Runs all statements of a text.
    fn statements(&mut self, sql: &str) -> Result<(), StatementError> {
        let mut batch = Batch::new(self.conn, sql);
        while self.statement(&mut batch)? {}
        Ok(())
    }

    /// Runs the next statement of a text; false: there is none.
    fn statement(&mut self, batch: &mut Batch<'_, '_>) -> Result<bool, StatementError> {
        let (conn, hooks) = (self.conn, self.hooks);
        let on_error = |error| classify(hooks, &error);
        let mut recorded = Recorded::default();
        let mut prepared = None;
        self.number += 1;
        let done = length_tiers::run_in_tiers(conn, hooks, 0, |tier| {
            hooks.begin_statement();
            if !hooks.charge(STATEMENT_STEPS) {
                return Err(StatementError::BudgetExceeded);
            }
            // The statement is prepared only once: each further attempt restores what the hooks recorded then.
            if prepared.is_some() {
                recorded.restore(hooks);
            } else {
                hooks.set_price(step_cost::PLANNED);
                prepared = batch.next().map_err(on_error)?;
                recorded = Recorded::of(hooks);
            }
            hooks.set_price(step_cost::PLAIN);
            let Some(one) = &mut prepared else { return Ok(false) };
            if hooks.passes_over.load(Relaxed) {
                return Ok(true);
            }
            length_tiers::suits(hooks, tier)?;
            let text =
                length_tiers::at_any_length(conn, tier, || one.expanded_sql()).map_err(on_error)?.unwrap_or_default();
            statement::fits(conn, hooks, &text, 0, tier)?;
            let mut executor = Executor { conn, hooks, kind: Kind::Execute, limit: &mut AnswerLimit::new(0, 0) };
            match fulltext_writes::with_named_tokenizer(&text) {
                Cow::Borrowed(_) => executor.write(one, &Params::None),
                Cow::Owned(named) => {
                    let mut named = conn.prepare(&named).map_err(on_error)?;
                    executor.write(&mut named, &Params::None)
                }
            }?;
            settle(conn, hooks).map(|()| true)
        });
        let goes_on = done.map_err(on_error)??;
        if !goes_on {
            self.number -= 1;
        }
        Ok(goes_on)
    }
}
