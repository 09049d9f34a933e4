//! Loads a dump: any number of statements, executed one after another.
//!
//! A dump of sqlite3 has lines that only the tool itself can execute (`dump_lines.rs`). Statistics are passed over. Rows
//! of the schema table, with which it defines virtual tables, are refused: they would need rows in shadow tables that
//! nothing checks. An endpoint replaces them before the log (`services/sql/dump_rewrite/`). `PRAGMA foreign_keys = OFF`
//! counts until the end of the script or `ON`: such a dump switches them off, because a table may precede the one that
//! it refers to. A script in a log of before knows none of this.
//!
//! Not here: savepoints and the handling of a refusal (`services/sql/load_commands.rs`), database files (`load.rs`).

use super::dump_lines::{self, Piece};
use crate::services::sql::answer_limit::AnswerLimit;
use crate::services::sql::budget::fulltext;
use crate::services::sql::budget::length_tiers;
use crate::services::sql::budget::prices;
use crate::services::sql::budget::text_cost::{STATEMENT_STEPS, text_steps, too_many_conflicts};
use crate::services::sql::commands::{Params, RunKind, Statement};
use crate::services::sql::connection::foreign_keys;
use crate::services::sql::connection::hook_state::{HookState, InternalStatements};
use crate::services::sql::effect_checks::settle;
use crate::services::sql::errors::{StatementError, classify};
use crate::services::sql::statement::{self, Executor};
use crate::services::sql::tokens::names_rollback;
use rusqlite::fallible_iterator::FallibleIterator as _;
use rusqlite::{Batch, Connection};
use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Reason for refusing the definition of a virtual table as sqlite3 writes it.
const SCHEMA_ROW: &str = "this dump defines a virtual table (fts5, rtree) as a row of the schema table, which cannot be \
    loaded as text: make a file of it (sqlite3 new.sqlite < dump.sql) and load that";

/// Runs all statements of a dump. `is_of_tool`: lines that sqlite3 writes for itself are recognised. On failure: the
/// number of the statement that failed, counted from 1 (0 if the text as a whole was refused), and the reason.
pub fn text(
    conn: &Connection,
    hooks: &Arc<HookState>,
    sql: &str,
    is_of_tool: bool,
) -> Result<(), (usize, StatementError)> {
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
    let are_enforced = foreign_keys::are_enforced(hooks);
    let mut script = Script { conn, hooks, number: 0, are_enforced };
    let done = match is_of_tool {
        true => dump_lines::pieces(sql).try_for_each(|piece| script.run(piece)),
        false => script.statements(sql),
    };
    let done = done.and_then(|()| script.finish());
    let done = done.map_err(|error| (script.number, error));
    let _own = InternalStatements::begin(hooks);
    // `PRAGMA defer_foreign_keys` of the script must not outlast it.
    let restored = conn.execute_batch("PRAGMA defer_foreign_keys = OFF");
    let restored = restored.and_then(|()| foreign_keys::enforce(conn, hooks, are_enforced));
    restored.map_err(|error| (0, classify(hooks, &error)))?;
    done
}

/// A script that is being executed.
struct Script<'a> {
    conn: &'a Connection,
    hooks: &'a Arc<HookState>,
    /// Number of the present statement.
    number: usize,
    /// Whether the database enforces foreign keys.
    are_enforced: bool,
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
            Piece::SchemaRow => {
                self.number += 1;
                Err(StatementError::Failed(SCHEMA_ROW.to_string()))
            }
            Piece::ForeignKeys(are_enforced) => {
                self.pass_over()?;
                foreign_keys::check(self.conn)?;
                let are_enforced = are_enforced && self.are_enforced;
                let _own = InternalStatements::begin(self.hooks);
                foreign_keys::enforce(self.conn, self.hooks, are_enforced).map_err(|error| classify(self.hooks, &error))
            }
        }
    }

    fn pass_over(&mut self) -> Result<(), StatementError> {
        self.number += 1;
        if self.hooks.charge(STATEMENT_STEPS) { Ok(()) } else { Err(StatementError::BudgetExceeded) }
    }

    /// Checks the script as a whole, after its last statement.
    fn finish(&self) -> Result<(), StatementError> {
        if self.hooks.is_begun.load(Relaxed) {
            let why = "the dump has BEGIN but no COMMIT: its end is missing";
            return Err(StatementError::Failed(why.to_string()));
        }
        foreign_keys::check(self.conn)
    }

    /// Runs all statements of a text.
    fn statements(&mut self, sql: &str) -> Result<(), StatementError> {
        // Of a text without a zero byte at its end, SQLite would copy all that is left for each statement.
        let text = [sql, "\0"].concat();
        let mut batch = Batch::new(self.conn, &text);
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
                hooks.set_price(prices::PLANNED);
                prepared = batch.next().map_err(on_error)?;
                recorded = Recorded::of(hooks);
            }
            hooks.set_price(prices::PLAIN);
            let Some(one) = &mut prepared else { return Ok(false) };
            if hooks.passes_over.load(Relaxed) {
                return Ok(true);
            }
            let text =
                length_tiers::at_any_length(conn, tier, || one.expanded_sql()).map_err(on_error)?.unwrap_or_default();
            let bare = Statement::bare(text);
            length_tiers::suits(hooks, tier, length_tiers::longest(hooks, &bare))?;
            let text = bare.sql;
            statement::fits(conn, hooks, &text, 0, tier)?;
            let mut executor = Executor { conn, hooks, kind: RunKind::Execute, limit: &mut AnswerLimit::new(0, 0) };
            match fulltext::writes::with_named_tokenizer(&text) {
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
