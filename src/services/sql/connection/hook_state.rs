//! What the hooks of a connection share with the code that runs statements on it.
//!
//! SQLite calls an authorizer while it prepares a statement, a progress handler while it runs one, an update hook for each
//! row, and functions of ours. They are given what they need through atomics: the entry's time, the source of chance, the
//! budget of steps; and leave here what they saw.
//! Not here: the hooks (`mod.rs`, `authorizer.rs`, `functions.rs`).

use super::files::Files;
use crate::services::sql::budget::fulltext_writes::{Definition, FulltextWrites};
use crate::services::sql::budget::step_cost::{self, Cost, Price};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// Steps between two looks at the budget, at the disk and at a deadline: in so many a statement can fill some ten megabytes.
pub const STEPS_PER_LOOK: i32 = 50;
/// Things that one statement may ask leave for: columns, tables, functions, with those of the views and triggers behind them.
const ASKED_MAX: u64 = 8_000;
/// Statements whose cost is kept, and how long they are at most.
const REMEMBERED_MAX: usize = 256;
const REMEMBERED_BYTES_MAX: usize = 4 << 10;
/// Steps that a row costs, and each entry of an index, about.
const ROW_STEPS: u64 = 1_500;
const INDEX_STEPS: u64 = 5_000;
/// Indexes that a table is thought to have at least when the command has changed the schema.
const INDEXES_UNKNOWN: i64 = 2;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Applies the log: what it answers must be the same everywhere.
    Write,
    /// Answers reads beside it.
    Read,
}

/// What is known of a schema when a command begins.
#[derive(Debug, Default)]
pub struct Schema {
    /// How many indexes each table has, in lower case.
    pub indexes: BTreeMap<String, i64>,
    pub views: Vec<String>,
    /// Full-text tables.
    pub fulltext: BTreeMap<String, Definition>,
}

/// One thread uses a connection at a time, so that nothing here needs an order.
#[derive(Debug, Default)]
pub struct HookState {
    /// A statement of our own: nothing is refused, nothing counted.
    pub is_internal: AtomicBool,
    /// A dump is being loaded: what it begins with and ends with is passed over, not refused.
    pub is_loading: AtomicBool,
    /// A statement of a dump that is to be passed over was prepared.
    pub passes_over: AtomicBool,
    /// The dump has said BEGIN, and nothing since that ends it.
    pub is_begun: AtomicBool,
    /// The statement is an ALTER TABLE, which checks the table by a pragma of its own.
    pub is_altering: AtomicBool,
    /// The statement creates a virtual table.
    pub is_creating_virtual: AtomicBool,
    /// There are virtual tables, which keep in memory what was written to them.
    pub has_virtual: AtomicBool,
    /// The statement reads or writes one of them.
    pub touches_virtual: AtomicBool,
    /// The statement is prepared for the first time.
    pub is_connecting: AtomicBool,
    /// Which they are may have changed since the transaction began.
    is_virtual_unsure: AtomicBool,
    /// Their names when it began.
    virtual_names: Mutex<Vec<String>>,
    /// Tables that the statement writes to, if it uses a virtual one, and how often it inserts into each.
    filled: Mutex<Vec<(String, u64)>>,
    /// How often FTS5 has written what it had collected.
    pub flushes: Arc<AtomicU64>,
    /// The full-text tables when the command began, and what of their writes is paid for.
    fulltext: Mutex<FulltextWrites>,
    /// Full-text tables write what the statement gave them: it is charged for that, though a statement of our own has them do so.
    pub is_flushing: AtomicBool,
    /// Where the file is, if it is in one.
    pub files: OnceLock<Arc<dyn Files>>,
    /// What a step of the present statement costs, whatever the length of values.
    step_price: AtomicU64,
    /// What it costs for each 256 bytes that a value may have.
    bytes_price: AtomicU64,
    /// What it costs on top where values may have more, and where they take pages of their own.
    long_price: AtomicU64,
    far_price: AtomicU64,
    /// How often values may have 256 bytes in the present tier, roughly.
    pub length_cost: AtomicU64,
    /// The same for what is on top; 0 where it is not.
    pub long_cost: AtomicU64,
    pub far_cost: AtomicU64,
    /// The statement may do something for each of many rows.
    pub may_repeat: AtomicBool,
    /// The statement changes what tables and indexes there are.
    pub is_defining: AtomicBool,
    /// The statement reads a column `rank`.
    pub reads_rank: AtomicBool,
    /// The statement marks words that were found in a text.
    pub marks_matches: AtomicBool,
    /// Indexes of each table, when the command began.
    indexes: Mutex<BTreeMap<String, i64>>,
    /// Views, in lower case, when the command began.
    views: Mutex<Vec<String>>,
    /// The table that the statement makes.
    made: Mutex<Option<String>>,
    /// The statement has a SELECT.
    pub selects: AtomicBool,
    /// Rows that the statement before in the same command changed: what `changes()` gives.
    pub changes: AtomicU64,
    /// What statements cost that were met before.
    costs: Mutex<BTreeMap<String, Cost>>,
    /// The command has changed what tables and indexes there are.
    is_schema_changed: AtomicBool,
    /// Bytes of a value in the present tier.
    pub longest: AtomicU64,
    /// What the statement has asked leave for.
    asked: AtomicU64,
    /// Steps left.
    pub steps_left: Arc<AtomicI64>,
    /// The budget was used up.
    pub is_budget_exceeded: AtomicBool,
    /// A row with the largest number there is was written.
    pub has_topmost_row: AtomicBool,
    /// The table of `AUTOINCREMENT` was written by a statement.
    pub has_set_sequence: AtomicBool,
    /// Planted bug: the columns of an answer are read before the first step.
    #[cfg(test)]
    pub columns_before_first_step: AtomicBool,
    /// Planted bug: what `now` is where it is spelled in another way, unless 0.
    #[cfg(test)]
    pub overlooked_now_ms: AtomicU64,
    /// Settings of full-text tables may be changed.
    #[cfg(test)]
    pub settings_are_free: AtomicBool,
    /// Milliseconds since 1970: what `now` is.
    pub now_ms: AtomicU64,
    chance: AtomicU64,
    why: Mutex<Option<String>>,
}

impl HookState {
    /// A new command begins.
    pub fn begin(&self, now_ms: u64, seed: u64, steps_max: u64) {
        self.now_ms.store(now_ms, Relaxed);
        self.changes.store(0, Relaxed);
        self.chance.store(seed, Relaxed);
        self.steps_left.store(i64::try_from(steps_max).unwrap_or(i64::MAX), Relaxed);
        self.is_budget_exceeded.store(false, Relaxed);
        self.begin_statement();
    }

    /// A new statement begins.
    pub fn begin_statement(&self) {
        self.has_topmost_row.store(false, Relaxed);
        self.has_set_sequence.store(false, Relaxed);
        self.passes_over.store(false, Relaxed);
        self.is_altering.store(false, Relaxed);
        self.is_creating_virtual.store(false, Relaxed);
        self.is_defining.store(false, Relaxed);
        self.marks_matches.store(false, Relaxed);
        self.reads_rank.store(false, Relaxed);
        self.asked.store(0, Relaxed);
        self.may_repeat.store(false, Relaxed);
        self.selects.store(false, Relaxed);
        self.made.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.filled.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.set_price(step_cost::PLAIN);
        *self.why() = None;
    }

    /// A transaction begins; `names`: the virtual tables, where the schema is another than before. Whether there are any.
    pub fn begin_transaction(&self, names: Option<Vec<String>>) -> bool {
        let mut known = self.virtual_names.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(names) = names {
            *known = names;
        }
        self.has_virtual.store(!known.is_empty(), Relaxed);
        self.is_virtual_unsure.store(false, Relaxed);
        !known.is_empty()
    }

    /// The statement uses this table.
    pub fn uses(&self, table: &str) {
        if !self.has_virtual.load(Relaxed) {
            return;
        }
        let names = self.virtual_names.lock().unwrap_or_else(PoisonError::into_inner);
        let is_virtual =
            self.is_virtual_unsure.load(Relaxed) || names.iter().any(|name| name.eq_ignore_ascii_case(table));
        self.touches_virtual.fetch_or(is_virtual, Relaxed);
    }

    /// The statement writes to this table. `inserts`: by an INSERT, of which it may have several.
    pub fn fills(&self, table: &str, inserts: bool) {
        if self.touches_virtual.load(Relaxed) {
            let mut filled = self.filled.lock().unwrap_or_else(PoisonError::into_inner);
            match filled.iter_mut().find(|(name, _)| name == table) {
                Some((_, times)) => *times += u64::from(inserts),
                None => filled.push((table.to_string(), 1)),
            }
        }
    }

    /// The tables that the statement writes to, if it uses a virtual one, and how often it inserts into each.
    pub fn filled(&self) -> Vec<(String, u64)> {
        self.filled.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What preparing told of a statement that is not prepared again.
    pub fn set_filled(&self, filled: &[(String, u64)]) {
        *self.filled.lock().unwrap_or_else(PoisonError::into_inner) = filled.to_vec();
    }

    /// The full-text tables.
    pub fn fulltext(&self) -> MutexGuard<'_, FulltextWrites> {
        self.fulltext.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Charges for what a full-text table does for the present statement.
    pub fn charge_fulltext(&self, steps: u64) {
        if self.is_flushing.load(Relaxed) {
            self.take(steps);
        } else {
            self.charge(steps);
        }
    }

    /// The statement makes, removes or renames tables that may be virtual ones.
    pub fn changes_virtual(&self) {
        self.is_virtual_unsure.store(true, Relaxed);
        self.touches_virtual.store(self.has_virtual.load(Relaxed), Relaxed);
    }

    /// A command begins; `schema`: where it may be another than before.
    pub fn begin_schema(&self, schema: Option<Schema>) {
        let mut fulltext = None;
        if let Some(Schema { indexes, views, fulltext: found }) = schema {
            fulltext = Some(found);
            *self.indexes.lock().unwrap_or_else(PoisonError::into_inner) = indexes;
            *self.views.lock().unwrap_or_else(PoisonError::into_inner) = views;
            self.costs.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
        self.fulltext().begin(fulltext);
        self.is_schema_changed.store(false, Relaxed);
    }

    /// Whether the command has changed what tables and indexes there are.
    pub fn is_schema_changed(&self) -> bool {
        self.is_schema_changed.load(Relaxed)
    }

    /// Whether there may be a view of that name.
    pub fn may_be_view(&self, name: &str) -> bool {
        let views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_schema_changed.load(Relaxed) || views.iter().any(|view| view.eq_ignore_ascii_case(name))
    }

    /// The statement makes this table.
    pub fn makes(&self, table: &str) {
        *self.made.lock().unwrap_or_else(PoisonError::into_inner) = Some(table.to_string());
    }

    /// The table that the statement makes.
    pub fn made(&self) -> Option<String> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The table that the statement has made of a SELECT.
    pub fn made_of_select(&self) -> Option<String> {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.clone().filter(|_| self.selects.load(Relaxed))
    }

    /// What a statement costs that was met before, with the schema that the command began with.
    pub fn known_cost(&self, sql: &str) -> Option<Cost> {
        let costs = self.costs.lock().unwrap_or_else(PoisonError::into_inner);
        costs.get(sql).copied().filter(|_| !self.is_schema_changed.load(Relaxed))
    }

    /// Keeps what a statement costs, as long as the schema stays as it is.
    pub fn remember_cost(&self, sql: &str, cost: Cost) {
        if self.is_schema_changed.load(Relaxed) || sql.len() > REMEMBERED_BYTES_MAX {
            return;
        }
        let mut costs = self.costs.lock().unwrap_or_else(PoisonError::into_inner);
        if costs.len() >= REMEMBERED_MAX {
            costs.clear();
        }
        costs.insert(sql.to_string(), cost);
    }

    /// The command changes what tables and indexes there are.
    pub fn changes_schema(&self) {
        self.is_schema_changed.store(true, Relaxed);
        self.is_defining.store(true, Relaxed);
        self.may_repeat.store(true, Relaxed);
    }

    /// Charges for one row of a table that a statement writes, and its entries in indexes.
    pub fn charge_row(&self, table: &str) {
        let indexes = self.indexes.lock().unwrap_or_else(PoisonError::into_inner);
        let known = indexes.get(&table.to_ascii_lowercase()).copied().unwrap_or(0);
        drop(indexes);
        let count = if self.is_schema_changed.load(Relaxed) { known.max(INDEXES_UNKNOWN) } else { known };
        self.charge(ROW_STEPS + count.unsigned_abs() * INDEX_STEPS);
    }

    /// What a step of the present statement costs from now on.
    pub fn set_price(&self, price: Price) {
        self.step_price.store(price.step, Relaxed);
        self.bytes_price.store(price.bytes, Relaxed);
        self.long_price.store(price.long, Relaxed);
        self.far_price.store(price.far, Relaxed);
    }

    /// Whether the budget was used up.
    pub fn is_over_budget(&self) -> bool {
        self.is_budget_exceeded.load(Relaxed) || self.steps_left.load(Relaxed) < 0
    }

    /// Charges for so many steps of the present statement; false if the budget has not so many.
    pub fn charge_steps(&self, count: u64) -> bool {
        let price = Price {
            step: self.step_price.load(Relaxed),
            bytes: self.bytes_price.load(Relaxed),
            long: self.long_price.load(Relaxed),
            far: self.far_price.load(Relaxed),
            words: 0,
        };
        self.charge(count.saturating_mul(self.in_tier(price)))
    }

    /// A price where values have the length of the present tier.
    pub fn in_tier(&self, price: Price) -> u64 {
        let times = |part: u64, cost: &AtomicU64| part.saturating_mul(cost.load(Relaxed));
        let on_top = times(price.long, &self.long_cost).saturating_add(times(price.far, &self.far_cost));
        price.step.saturating_add(times(price.bytes, &self.length_cost)).saturating_add(on_top)
    }

    /// A statement that is being prepared asks leave for one thing more. Views in views double it with each level, and SQLite's
    /// work grows faster than their number: each costs more than the one before. False: that is too much.
    pub fn charge_leave(&self) -> bool {
        let asked = self.asked.fetch_add(1, Relaxed) + 1;
        if asked > ASKED_MAX {
            self.is_budget_exceeded.store(true, Relaxed);
        }
        asked <= ASKED_MAX && self.charge(asked * 8)
    }

    /// Looks whether the disk has room for what may be written until the next look; without it the node ends. `is_certain`: now,
    /// however short ago it was looked at.
    pub fn look_at_room(&self, is_certain: bool) {
        if let Some(files) = self.files.get()
            && !self.is_internal.load(Relaxed)
        {
            files.look_at_room(is_certain);
        }
    }

    /// The next number of chance (splitmix64, whose numbers are the same for ever).
    pub fn draw(&self) -> u64 {
        let state = self.chance.load(Relaxed).wrapping_add(0x9E37_79B9_7F4A_7C15);
        self.chance.store(state, Relaxed);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Takes steps from the budget; false if there were not so many.
    pub fn charge(&self, steps: u64) -> bool {
        self.is_internal.load(Relaxed) || self.take(steps)
    }

    fn take(&self, steps: u64) -> bool {
        let steps = i64::try_from(steps).unwrap_or(i64::MAX);
        let left = self.steps_left.load(Relaxed).saturating_sub(steps);
        self.steps_left.store(left, Relaxed);
        if left < 0 {
            self.is_budget_exceeded.store(true, Relaxed);
        }
        left >= 0
    }

    /// Keeps the reason for a refusal, for the error that follows from it.
    pub fn refuse(&self, why: impl Into<String>) {
        self.why().get_or_insert_with(|| why.into());
    }

    /// The reason that was kept.
    pub fn take_why(&self) -> Option<String> {
        self.why().take()
    }

    fn why(&self) -> MutexGuard<'_, Option<String>> {
        // A panic of another thread cannot have left it half written.
        self.why.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// While it exists, statements on the connection are the database's own: nothing is refused, nothing is counted.
pub struct InternalStatements<'a>(&'a HookState, bool);

impl InternalStatements<'_> {
    /// Begins.
    pub fn begin(hooks: &HookState) -> InternalStatements<'_> {
        InternalStatements(hooks, hooks.is_internal.swap(true, Relaxed))
    }
}

impl Drop for InternalStatements<'_> {
    fn drop(&mut self) {
        self.0.is_internal.store(self.1, Relaxed);
    }
}
