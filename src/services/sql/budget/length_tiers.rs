//! How long values may be while a statement of the log runs, and what its steps cost then.
//!
//! One step of SQLite's virtual machine can copy, sort, write or compute with a value of any length: counting steps
//! alone bounds neither time nor memory nor disk. So a statement starts in the lowest tier, where values are short and
//! a step costs one. If it meets a longer value, it is undone and starts again in the next tier, where values may be
//! longer and a step costs more in proportion: the bytes that a command can move in total are bounded by steps times
//! length. The tier in which it ends follows from the content alone, and so do the steps: they are the same on every
//! node.
//!
//! Invariant: G1 a statement that failed, in any tier, has left no changes behind.
//! Not here: counting steps (`services/sql/connection/hook_state.rs`), the message of a failure
//! (`services/sql/statement.rs`).

use super::fulltext::writes::Definition;
use super::long_rows::LONG_BYTES;
use super::{fulltext, prices};
use crate::services::sql::commands::{ROW_BYTES_MAX, Statement};
use crate::services::sql::connection::hook_state::{HookState, InternalStatements};
use crate::services::sql::connection::limits::set_length;
use crate::services::sql::errors::{StatementError, classify};
use crate::services::sql::tokens::{longest_literal, longest_row, words};
use rusqlite::hooks::Action;
use rusqlite::{Connection, Result};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Largest length of a value or row in each tier, in bytes.
const TIER_BYTES: [usize; 8] = [256, 1 << 10, 4 << 10, 16 << 10, (64 << 10) + 1024, 256 << 10, 1 << 20, ROW_BYTES_MAX];
/// Factor of the price of bytes in each tier, chosen so that a command can move about a gigabyte.
const COSTS: [u64; 8] = [1, 4, 16, 64, 256, 1024, 4096, 16_384];
/// Lowest tier for statements that use virtual tables: a full-text index writes its pages (64 KiB at most) without
/// checking whether they are too long, and would lose them.
const LOWEST_OF_VIRTUAL: usize = 4;
/// The tier whose cost matches the length of most values in virtual tables.
const SHORT_OF_VIRTUAL: usize = 2;
/// Divisor of the price of a step of such a statement: for each row a full-text index takes many steps, with short
/// values.
const VIRTUAL_STEPS: u64 = 4;
/// From this tier on, values may take pages other than that of their row.
const FAR_FROM: usize = 3;
/// From this tier on, the length of programs is limited: each register may hold a value.
const SHORT_FROM: usize = 3;
/// In those tiers: largest product of the number of values that a program concatenates and the length of a value in
/// bytes. Each may stay in memory until the program ends, and no limit is checked meanwhile.
const JOINED_BYTES_MAX: usize = 160 << 20;
/// In those tiers: largest product of the number of instructions of a program and the length of a value in bytes.
const PROGRAM_BYTES_MAX: usize = 1 << 30;

/// The reason of `suits`, which SQLite gives for nothing.
const NOT_RUN: &str = "";
/// Bytes of a row of the schema table besides the definition: mostly names.
const SCHEMA_ROW_BYTES: usize = 128;

/// Length of the longest value that the statement certainly has. Where undoing is expensive, also of a row that it
/// probably writes.
pub fn longest(hooks: &HookState, statement: &Statement) -> usize {
    let sql = &statement.sql;
    let longest = longest_literal(sql).max(statement.longest());
    if words(sql).next().is_some_and(|word| word.eq_ignore_ascii_case(b"create")) {
        longest.max(sql.len() + SCHEMA_ROW_BYTES)
    } else if hooks.rereads_schema() {
        longest.max(longest_row(sql, statement.params.bytes()))
    } else {
        longest
    }
}

/// Runs `attempt` in one tier after another until no value is too long for it. `longest`: length of a value that
/// certainly occurs. The outer error: an internal statement failed.
pub fn run_in_tiers<T>(
    conn: &Connection,
    hooks: &Arc<HookState>,
    longest: usize,
    mut attempt: impl FnMut(usize) -> std::result::Result<T, StatementError>,
) -> Result<std::result::Result<T, StatementError>> {
    own(conn, hooks, "SAVEPOINT s")?;
    hooks.charge_instances();
    // Before its own change.
    let reread_steps = hooks.reread_steps.load(Relaxed);
    hooks.touches_virtual.store(false, Relaxed);
    hooks.is_connecting.store(true, Relaxed);
    let mut tier = tier_of(longest);
    loop {
        // Here nothing needs to be undone. A statement that failed may have used up the budget by being undone.
        if hooks.is_over_budget() {
            own(conn, hooks, "RELEASE s")?;
            return Ok(Err(StatementError::BudgetExceeded));
        }
        set_tier(conn, hooks, Some(tier))?;
        let done = attempt(tier);
        set_tier(conn, hooks, None)?;
        if conn.is_autocommit() {
            // SQLite has rolled back everything since BEGIN.
            return Ok(done);
        }
        match done {
            Ok(done) => {
                own(conn, hooks, "RELEASE s")?;
                return Ok(Ok(done));
            }
            // Undoing nothing is not free: see `undo`.
            Err(StatementError::TooLong(why)) if why == NOT_RUN => {
                hooks.fulltext().begin(None);
                tier = tier.max(tier_of(usize::try_from(hooks.longest_known.load(Relaxed)).unwrap_or(usize::MAX)));
                if hooks.touches_virtual.load(Relaxed) && hooks.is_connecting.swap(false, Relaxed) {
                    tier = tier.max(LOWEST_OF_VIRTUAL);
                }
            }
            Err(StatementError::TooLong(_))
                if hooks.touches_virtual.load(Relaxed) && hooks.is_connecting.swap(false, Relaxed) =>
            {
                undo(conn, hooks, reread_steps)?;
                tier = tier.max(LOWEST_OF_VIRTUAL);
            }
            // SQLite reports a definition that is too long for this tier as corruption.
            Err(StatementError::TooLong(_) | StatementError::Fatal { is_damaged: true, .. })
                if tier + 1 < TIER_BYTES.len() =>
            {
                undo(conn, hooks, reread_steps)?;
                tier = (tier + 1).max(if hooks.touches_virtual.load(Relaxed) { LOWEST_OF_VIRTUAL } else { 0 });
            }
            Err(error) => {
                undo(conn, hooks, reread_steps)?;
                own(conn, hooks, "RELEASE s")?;
                return Ok(Err(error));
            }
        }
    }
}

/// Runs internal work in the middle of a tier, with values of any length.
///
/// # Errors
/// SQLite's error.
pub fn at_any_length<T>(conn: &Connection, tier: usize, work: impl FnOnce() -> T) -> Result<T> {
    set_length(conn, None)?;
    let done = work();
    set_length(conn, Some(TIER_BYTES[tier]))?;
    Ok(done)
}

/// Sets the cost of a prepared statement, whose use of virtual tables is now known. A virtual table that is used for
/// the first time in a transaction prepares statements of its own meanwhile, which look like parts of this statement:
/// so this statement must be prepared once more. `longest`: see [`longest`].
///
/// # Errors
/// The statement needs a higher tier, or uses a virtual table and was prepared for the first time.
pub fn suits(hooks: &HookState, tier: usize, longest: usize) -> std::result::Result<(), StatementError> {
    let is_connecting = hooks.touches_virtual.load(Relaxed) && hooks.is_connecting.load(Relaxed);
    if is_connecting || tier_of(longest) > tier {
        hooks.longest_known.store(longest as u64, Relaxed);
        return Err(StatementError::TooLong(NOT_RUN.to_string()));
    }
    set_cost(hooks, tier);
    Ok(())
}

/// The tier for a sequence of rows, each of which fails as a whole or not at all.
pub struct RowTier<'a> {
    conn: &'a Connection,
    hooks: &'a Arc<HookState>,
    tier: Option<usize>,
}

impl<'a> RowTier<'a> {
    /// No tier is set yet.
    pub fn new(conn: &'a Connection, hooks: &'a Arc<HookState>) -> RowTier<'a> {
        RowTier { conn, hooks, tier: None }
    }

    /// Sets the tier for a row of `bytes` bytes; the highest tier for longer rows.
    pub fn at_least(&mut self, bytes: usize) -> Result<()> {
        let tier = Some(tier_of(bytes));
        if self.tier != tier {
            set_tier(self.conn, self.hooks, tier)?;
            self.tier = tier;
        }
        Ok(())
    }

    /// Longest row of the present tier, in bytes.
    pub fn bytes(&self) -> usize {
        TIER_BYTES[self.tier.unwrap_or(0)]
    }

    /// Whether there is a higher tier.
    pub fn is_not_all(&self) -> bool {
        self.tier.is_none_or(|tier| tier + 1 < TIER_BYTES.len())
    }
}

impl Drop for RowTier<'_> {
    fn drop(&mut self) {
        // Setting a limit cannot fail.
        let _ = set_tier(self.conn, self.hooks, None);
    }
}

fn tier_of(bytes: usize) -> usize {
    TIER_BYTES.iter().position(|most| *most >= bytes).unwrap_or(TIER_BYTES.len() - 1)
}

/// The reason if a program of so many instructions, which concatenates so many values, is too long for a tier.
pub fn excess(tier: usize, instructions: usize, joined: usize) -> Option<String> {
    if joined.saturating_mul(TIER_BYTES[tier]) > JOINED_BYTES_MAX {
        let (kib, most) = (TIER_BYTES[tier] >> 10, JOINED_BYTES_MAX / TIER_BYTES[tier]);
        return Some(format!(
            "a statement on values of up to {kib} KiB may have at most {most} operators ||, including those of \
             generated columns, indexes and triggers; this one has {joined}"
        ));
    }
    (instructions.saturating_mul(TIER_BYTES[tier]) > PROGRAM_BYTES_MAX).then(|| {
        let (kib, most) = (TIER_BYTES[tier] >> 10, PROGRAM_BYTES_MAX / TIER_BYTES[tier]);
        format!(
            "a statement on values of up to {kib} KiB may have at most {most} instructions; this one has {instructions}"
        )
    })
}

/// Upper bound of the bytes of long rows written by a statement that changed so many rows.
pub fn long_bytes(hooks: &HookState, rows: u64) -> u64 {
    let longest = hooks.longest.load(Relaxed);
    if longest > LONG_BYTES.unsigned_abs() { longest.saturating_mul(rows).min(1 << 40) } else { 0 }
}

/// Whether programs have to be short in this tier.
pub fn is_high(tier: usize) -> bool {
    tier >= SHORT_FROM
}

/// Undoes what the statement has done. If the transaction has changed the schema, SQLite forgets the schema, and with it
/// the instance of each virtual table; the transaction keeps those that were written to, and informs each of every
/// savepoint. `reread_steps`: the price of reading the schema again, if an earlier statement has changed it.
fn undo(conn: &Connection, hooks: &HookState, reread_steps: u64) -> Result<()> {
    hooks.charge(reread_steps);
    hooks.is_fulltext_unsure.fetch_or(hooks.rereads_schema(), Relaxed);
    own(conn, hooks, "ROLLBACK TO s")?;
    hooks.leaves_instances();
    hooks.fulltext().begin(None);
    // If the schema was rolled back as well, it is read again now, where nothing is too long.
    let _own = InternalStatements::begin(hooks);
    conn.prepare_cached("SELECT 1 FROM sqlite_phalanx WHERE idx = 0")?.exists([]).map(drop)
}

fn own(conn: &Connection, hooks: &HookState, sql: &str) -> Result<()> {
    let _own = InternalStatements::begin(hooks);
    conn.prepare_cached(sql)?.execute([]).map(drop)
}

/// Called by the update hook for each row that is written: charges for rows of full-text tables.
pub fn on_row(hooks: &HookState, action: Action, table: &str, row: i64) {
    if !hooks.has_virtual.load(Relaxed) || !["_data", "_docsize", "_content"].iter().any(|end| table.ends_with(end)) {
        return;
    }
    let steps = hooks.fulltext().row(action, table, row);
    if steps > 0 {
        hooks.charge_fulltext(steps);
    }
}

/// Sets the price of a step for a statement that uses virtual tables. Returns the full-text tables that it writes to;
/// `None`: it uses no virtual table.
///
/// # Errors
/// The statement is refused.
pub fn fulltext_written(
    conn: &Connection,
    hooks: &HookState,
) -> std::result::Result<Option<fulltext::tokens::WrittenText>, StatementError> {
    if !hooks.touches_virtual.load(Relaxed) {
        return Ok(None);
    }
    if !hooks.may_repeat.load(Relaxed) {
        hooks.set_price(prices::VIRTUAL);
    }
    let filled = hooks.filled();
    if hooks.is_schema_changed() && !filled.is_empty() {
        // A statement that changes the schema has not done so yet.
        let is_unsure = hooks.is_fulltext_unsure.swap(hooks.is_defining.load(Relaxed), Relaxed);
        let found = if is_unsure { Some(definitions(conn, hooks)?) } else { None };
        hooks.fulltext().begin(found);
    }
    hooks.fulltext().written(&filled).map(Some).map_err(StatementError::Failed)
}

/// The full-text tables, for a statement that pays for finding them.
///
/// # Errors
/// The budget is exceeded, or SQLite's error.
pub fn definitions(
    conn: &Connection,
    hooks: &HookState,
) -> std::result::Result<BTreeMap<String, Definition>, StatementError> {
    if !hooks.charge_definitions() {
        return Err(StatementError::BudgetExceeded);
    }
    let _own = InternalStatements::begin(hooks);
    fulltext::writes::definitions(conn).map_err(|error| classify(hooks, &error))
}

/// Changes the tier; `None`: for internal statements.
fn set_tier(conn: &Connection, hooks: &Arc<HookState>, tier: Option<usize>) -> Result<()> {
    set_length(conn, tier.map(|tier| TIER_BYTES[tier]))?;
    let Some(tier) = tier else { return Ok(()) };
    hooks.longest.store(TIER_BYTES[tier] as u64, Relaxed);
    set_cost(hooks, tier);
    Ok(())
}

fn set_cost(hooks: &HookState, tier: usize) {
    let cost = if hooks.touches_virtual.load(Relaxed) { COSTS[tier].div_ceil(VIRTUAL_STEPS) } else { COSTS[tier] };
    hooks.length_cost.store(cost, Relaxed);
    // In the lowest tier of virtual tables most values are short.
    let is_lowest = hooks.touches_virtual.load(Relaxed) && tier == LOWEST_OF_VIRTUAL;
    let long = if is_lowest { COSTS[SHORT_OF_VIRTUAL] } else { cost };
    hooks.long_cost.store(if tier > 0 { long } else { 0 }, Relaxed);
    hooks.far_cost.store(if tier >= FAR_FROM { long } else { 0 }, Relaxed);
}
