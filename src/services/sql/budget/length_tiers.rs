//! How long values may be while a statement of the log runs, and what its steps cost then.
//!
//! One step of SQLite's machine can copy, sort, write or compute with a value, whatever its length: counting steps alone bounds
//! neither time nor memory nor disk. So a statement begins in the lowest gear, where values are short and a step costs one. If
//! it meets a longer one, it is undone and begins again in the next gear, where values may be longer and a step costs more in
//! proportion: what a command can move altogether is bounded by steps times length. Which gear it ends in follows from the
//! content alone, and so do the steps: they are the same on every node.
//!
//! Invariant: G1 a statement that failed, in any gear, has left nothing behind.
//! Not here: who counts (`services/sql/connection/hook_state.rs`), what is said of a failure (`services/sql/statement.rs`).

use super::step_cost;
use crate::services::sql::commands::ROW_BYTES_MAX;
use crate::services::sql::connection::hook_state::{Own, Watch};
use crate::services::sql::connection::limits::set_length;
use crate::services::sql::errors::Trouble;
use rusqlite::{Connection, Result};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Bytes of a value or row in each gear.
const GEARS: [usize; 8] = [256, 1 << 10, 4 << 10, 16 << 10, (64 << 10) + 1024, 256 << 10, 1 << 20, ROW_BYTES_MAX];
/// By which the price of bytes is multiplied: so much that a command can move about a gigabyte.
const COSTS: [u64; 8] = [1, 4, 16, 64, 256, 1024, 4096, 16_384];
/// For statements that use virtual tables no gear is lower: a full-text index writes its pages (64 KiB at most) without looking whether
/// they are too long, and would lose them.
const LOWEST_OF_VIRTUAL: usize = 4;
/// So long, as a gear, are most of the values there.
const SHORT_OF_VIRTUAL: usize = 2;
/// A step of theirs costs so much less: for each row a full-text index takes many, with short values.
const VIRTUAL_STEPS: u64 = 4;
/// What a byte of text costs that is cut into words and put into an index: half a megabyte is the budget.
const VIRTUAL_STEPS_PER_BYTE: u64 = 560;
/// The same for each of the two tables of a full-text index that have a row for each text, where a statement goes through many: by how long
/// the text may be; an UPDATE removes two rows and writes two. What could be put in can be taken out.
const ROW_STEPS_PER_BYTE: u64 = 67;
/// In gears from here on values take more than the page of their row.
const FAR_FROM: usize = 3;
/// Gears from here on are not for long programs: each of its registers may hold a value.
const SHORT_FROM: usize = 3;
/// Instructions of a program times bytes of a value, in those.
const PROGRAM_BYTES_MAX: usize = 1 << 30;

/// Runs `attempt` in one gear after another until no value is too long for it. `longest`: a value that is there for certain.
/// The outer error: a statement of our own failed.
pub fn climb<T>(
    conn: &Connection,
    watch: &Arc<Watch>,
    longest: usize,
    mut attempt: impl FnMut(usize) -> std::result::Result<T, Trouble>,
) -> Result<std::result::Result<T, Trouble>> {
    own(conn, watch, "SAVEPOINT s")?;
    watch.touches_virtual.store(false, Relaxed);
    watch.is_connecting.store(true, Relaxed);
    let mut gear = gear_of(longest);
    loop {
        shift(conn, watch, Some(gear))?;
        let done = attempt(gear);
        shift(conn, watch, None)?;
        if conn.is_autocommit() {
            // SQLite has taken back all that was done since BEGIN.
            return Ok(done);
        }
        match done {
            Ok(done) => {
                own(conn, watch, "RELEASE s")?;
                return Ok(Ok(done));
            }
            Err(Trouble::TooLong(_))
                if watch.touches_virtual.load(Relaxed) && watch.is_connecting.swap(false, Relaxed) =>
            {
                undo(conn, watch)?;
                gear = gear.max(LOWEST_OF_VIRTUAL);
            }
            // A definition that is too long for this gear looks like damage.
            Err(Trouble::TooLong(_) | Trouble::Fatal { is_damaged: true, .. }) if gear + 1 < GEARS.len() => {
                undo(conn, watch)?;
                gear = (gear + 1).max(if watch.touches_virtual.load(Relaxed) { LOWEST_OF_VIRTUAL } else { 0 });
            }
            Err(trouble) => {
                undo(conn, watch)?;
                own(conn, watch, "RELEASE s")?;
                return Ok(Err(trouble));
            }
        }
    }
}

/// Does something of our own in the middle of a gear, with values of any length.
///
/// # Errors
/// SQLite's.
pub fn at_any_length<T>(conn: &Connection, gear: usize, work: impl FnOnce() -> T) -> Result<T> {
    set_length(conn, None)?;
    let done = work();
    set_length(conn, Some(GEARS[gear]))?;
    Ok(done)
}

/// Called when a statement is prepared, which tells what it uses. A virtual table that is used for the first time in a transaction prepares
/// statements of its own meanwhile, which look as if they were parts of this one: so it is prepared once more.
///
/// # Errors
/// It uses a virtual table, and was prepared for the first time.
pub fn suits(watch: &Watch, gear: usize) -> std::result::Result<(), Trouble> {
    if watch.touches_virtual.load(Relaxed) && watch.is_connecting.load(Relaxed) {
        return Err(Trouble::TooLong(String::new()));
    }
    set_cost(watch, gear);
    Ok(())
}

/// The gear for one row after another, each of which fails as a whole or not at all.
pub struct Reach<'a> {
    conn: &'a Connection,
    watch: &'a Arc<Watch>,
    gear: Option<usize>,
}

impl<'a> Reach<'a> {
    /// None yet.
    pub fn new(conn: &'a Connection, watch: &'a Arc<Watch>) -> Reach<'a> {
        Reach { conn, watch, gear: None }
    }

    /// The gear for a row of so many bytes, the last for longer ones.
    pub fn at_least(&mut self, bytes: usize) -> Result<()> {
        let gear = Some(gear_of(bytes));
        if self.gear != gear {
            shift(self.conn, self.watch, gear)?;
            self.gear = gear;
        }
        Ok(())
    }

    /// Bytes of a row in the present gear.
    pub fn bytes(&self) -> usize {
        GEARS[self.gear.unwrap_or(0)]
    }

    /// Whether there is a higher one.
    pub fn is_not_all(&self) -> bool {
        self.gear.is_none_or(|gear| gear + 1 < GEARS.len())
    }
}

impl Drop for Reach<'_> {
    fn drop(&mut self) {
        // It sets a number: nothing can go wrong.
        let _ = shift(self.conn, self.watch, None);
    }
}

fn gear_of(bytes: usize) -> usize {
    GEARS.iter().position(|most| *most >= bytes).unwrap_or(GEARS.len() - 1)
}

/// Whether a program of so many instructions is too long for a gear; why.
pub fn excess(gear: usize, instructions: usize) -> Option<String> {
    (instructions.saturating_mul(GEARS[gear]) > PROGRAM_BYTES_MAX).then(|| {
        let (kib, most) = (GEARS[gear] >> 10, PROGRAM_BYTES_MAX / GEARS[gear]);
        format!(
            "where values have up to {kib} KiB a statement may have {most} instructions, this one has {instructions}"
        )
    })
}

/// Whether programs have to be short in this gear.
pub fn is_high(gear: usize) -> bool {
    gear >= SHORT_FROM
}

fn undo(conn: &Connection, watch: &Watch) -> Result<()> {
    own(conn, watch, "ROLLBACK TO s")?;
    // If the schema was undone as well, it is read again now, where nothing is too long.
    let _own = Own::begin(watch);
    conn.prepare_cached("SELECT 1 FROM sqlite_phalanx WHERE idx = 0")?.exists([]).map(drop)
}

fn own(conn: &Connection, watch: &Watch, sql: &str) -> Result<()> {
    let _own = Own::begin(watch);
    conn.prepare_cached(sql)?.execute([]).map(drop)
}

/// Charges for a text that is put into a full-text index or taken out of it, by a statement that goes through many rows: that a row of this
/// table was written tells so. Short ones are paid by the step.
pub fn charge_text(watch: &Watch, table: &str) {
    let is_repeated = watch.touches_virtual.load(Relaxed) && watch.may_repeat.load(Relaxed);
    let longest = watch.longest.load(Relaxed);
    if is_repeated
        && longest > GEARS[LOWEST_OF_VIRTUAL] as u64
        && (table.ends_with("_content") || table.ends_with("_docsize"))
    {
        watch.charge(longest * ROW_STEPS_PER_BYTE);
    }
}

/// Charges for the text that a statement gives a full-text index once: what does so for many rows pays by the step.
///
/// # Errors
/// The budget has not so much.
pub fn charge_virtual(watch: &Watch, gear: usize, bytes: usize) -> std::result::Result<(), Trouble> {
    if !watch.touches_virtual.load(Relaxed) || watch.may_repeat.load(Relaxed) {
        return Ok(());
    }
    watch.set_price(step_cost::VIRTUAL);
    // What is longer than what it was given is computed, and may be as long as the gear allows.
    let is_computed = gear > LOWEST_OF_VIRTUAL && bytes < GEARS[gear - 1];
    let bytes = if is_computed { GEARS[gear] } else { bytes };
    match watch.charge(bytes as u64 * VIRTUAL_STEPS_PER_BYTE) {
        true => Ok(()),
        false => Err(Trouble::RanAway),
    }
}

/// Changes the gear; `None`: for statements of our own.
fn shift(conn: &Connection, watch: &Arc<Watch>, gear: Option<usize>) -> Result<()> {
    set_length(conn, gear.map(|gear| GEARS[gear]))?;
    let Some(gear) = gear else { return Ok(()) };
    watch.longest.store(GEARS[gear] as u64, Relaxed);
    set_cost(watch, gear);
    Ok(())
}

fn set_cost(watch: &Watch, gear: usize) {
    let cost = if watch.touches_virtual.load(Relaxed) { COSTS[gear].div_ceil(VIRTUAL_STEPS) } else { COSTS[gear] };
    watch.length_cost.store(cost, Relaxed);
    // In the lowest gear of virtual tables most values are short.
    let is_lowest = watch.touches_virtual.load(Relaxed) && gear == LOWEST_OF_VIRTUAL;
    let long = if is_lowest { COSTS[SHORT_OF_VIRTUAL] } else { cost };
    watch.long_cost.store(if gear > 0 { long } else { 0 }, Relaxed);
    watch.far_cost.store(if gear >= FAR_FROM { long } else { 0 }, Relaxed);
}
