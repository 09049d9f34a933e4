//! State that the hooks and functions of a connection share with the code that runs statements on it.
//!
//! SQLite calls an authorizer while it prepares a statement, a progress handler while it runs one, an update hook for
//! each row, and our functions. They read from atomics what they need (the entry's time, the random generator, the
//! budget of steps), and record what they observed.
//!
//! Not here: the hooks (`configure.rs`, `authorizer.rs`, `functions.rs`).

use super::files::Files;
use crate::lock::{Mutex, MutexGuard, lock};
use crate::services::sql::budget::fulltext::writes::{Definition, FulltextWrites};
use crate::services::sql::budget::prices::{self, Price};
use crate::services::sql::budget::step_cost::Cost;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

/// Steps between two checks of the budget, the disk and the deadline; in that time a statement can write about ten
/// megabytes.
pub const STEPS_PER_CHECK: i32 = 50;
/// Largest number of authorizer calls while a statement is prepared: columns, tables and functions, including those of
/// views and triggers.
const AUTHORIZER_CALLS_MAX: u64 = 8_000;
/// Largest number of statements whose cost is cached, and the largest length of such a statement in bytes.
const REMEMBERED_MAX: usize = 256;
const REMEMBERED_BYTES_MAX: usize = 4 << 10;
/// Approximate cost in steps of writing a row, and of each of its index entries.
const ROW_STEPS: u64 = 1_500;
const INDEX_STEPS: u64 = 5_000;
/// Smallest number of indexes assumed for a table if the command has changed the schema.
const INDEXES_UNKNOWN: i64 = 2;

/// Steps for informing an instance of a virtual table of the savepoints of a statement.
const INSTANCE_STEPS: u64 = 1_500;

/// How often the definitions of virtual tables can be read in the time in which SQLite reads the schema.
const READINGS_PER_REREAD: u64 = 10;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Applies the log: its answers must be the same on every node.
    Write,
    /// Answers reads outside of the log.
    Read,
}

/// What is known about the schema at the beginning of a command.
#[derive(Debug, Default)]
pub struct Schema {
    /// Number of indexes of each table; table names are in lower case.
    pub indexes: BTreeMap<String, i64>,
    pub views: Vec<String>,
    /// Full-text tables.
    pub fulltext: BTreeMap<String, Definition>,
}

/// The fields are atomics only because the hooks need shared access: a single thread uses a connection at a time, so
/// that `Relaxed` suffices.
#[derive(Debug, Default)]
pub struct HookState {
    /// An internal statement runs: nothing is refused and no steps are counted.
    pub is_internal: AtomicBool,
    /// A dump is being loaded: BEGIN, COMMIT and pragmas in it are skipped, not refused.
    pub is_loading: AtomicBool,
    /// The prepared statement of a dump is to be skipped.
    pub passes_over: AtomicBool,
    /// The dump contains a BEGIN that nothing has ended so far.
    pub is_begun: AtomicBool,
    /// The connection enforces foreign keys.
    pub has_foreign_keys: AtomicBool,
    /// The statement is an ALTER TABLE, which itself checks the table by a pragma.
    pub is_altering: AtomicBool,
    /// The statement creates a virtual table.
    pub is_creating_virtual: AtomicBool,
    /// The database has virtual tables, which keep in memory what was written to them.
    pub has_virtual: AtomicBool,
    /// The statement reads or writes a virtual table.
    pub touches_virtual: AtomicBool,
    /// The statement is prepared for the first time.
    pub is_connecting: AtomicBool,
    /// Virtual tables may have been created, dropped or renamed since the transaction began.
    is_virtual_unsure: AtomicBool,
    /// Steps for reading the schema, if the transaction has changed it: SQLite reads it again after each rollback to a
    /// savepoint. Otherwise 0.
    pub reread_steps: AtomicU64,
    /// The full-text tables may be others than those in `fulltext`.
    pub is_fulltext_unsure: AtomicBool,
    /// Length of the longest value that the statement is known to have, if it needs a higher tier.
    pub longest_known: AtomicU64,
    /// Upper bound of the instances of virtual tables that the transaction keeps although the schema was read again.
    instances: AtomicU64,
    /// Names of the virtual tables at the beginning of the transaction.
    virtual_names: Mutex<Vec<String>>,
    /// If the statement uses a virtual table: the tables that it writes to, and the number of INSERTs into each.
    filled: Mutex<Vec<(String, u64)>>,
    /// The full-text tables when the command began, and what of their writes is paid for.
    fulltext: Mutex<FulltextWrites>,
    /// Full-text tables write the changes of the statement: it is charged for them, although an internal statement
    /// triggers them.
    pub is_flushing: AtomicBool,
    /// Access to the node's folder, if the database is in a file.
    pub files: OnceLock<Arc<dyn Files>>,
    /// Price of a step of the present statement, independent of the length of values.
    step_price: AtomicU64,
    /// Price for each 256 bytes that a value may have.
    bytes_price: AtomicU64,
    /// Additional prices for each 256 bytes in tiers with longer values, and where values take pages of their own.
    long_price: AtomicU64,
    far_price: AtomicU64,
    /// Factor of `bytes_price` in the present tier: roughly the largest length of a value in units of 256 bytes.
    pub length_cost: AtomicU64,
    /// The same for the additional prices; 0 in tiers where they do not apply.
    pub long_cost: AtomicU64,
    pub far_cost: AtomicU64,
    /// The statement may do something for each of many rows.
    pub may_repeat: AtomicBool,
    /// The statement changes the schema.
    pub is_defining: AtomicBool,
    /// The statement reads a column `rank`.
    pub reads_rank: AtomicBool,
    /// The statement marks words that were found in a text.
    pub marks_matches: AtomicBool,
    /// Number of indexes of each table at the beginning of the command.
    indexes: Mutex<BTreeMap<String, i64>>,
    /// Names of the views in lower case, at the beginning of the command.
    views: Mutex<Vec<String>>,
    /// The table that the statement creates.
    created_table: Mutex<Option<String>>,
    /// The statement contains a SELECT.
    pub selects: AtomicBool,
    /// Rows changed by the previous statement of the same command: the result of `changes()`.
    pub changes: AtomicU64,
    /// Costs of statements that ran before.
    costs: Mutex<BTreeMap<String, Cost>>,
    /// The command has changed the schema.
    is_schema_changed: AtomicBool,
    /// Largest length of a value in the present tier, in bytes.
    pub longest: AtomicU64,
    /// Number of authorizer calls for the statement.
    asked: AtomicU64,
    /// Steps left in the budget of the command.
    pub steps_left: Arc<AtomicI64>,
    /// The budget was used up.
    pub is_budget_exceeded: AtomicBool,
    /// A row with the largest possible row id was written.
    pub has_topmost_row: AtomicBool,
    /// A statement wrote to `sqlite_sequence`, the table of `AUTOINCREMENT`.
    pub has_set_sequence: AtomicBool,
    /// Planted bug: the columns of an answer are read before the first step.
    #[cfg(any(test, feature = "planted-bugs"))]
    pub columns_before_first_step: AtomicBool,
    /// Planted bug: the time of a `now` that is not spelled in lower case, unless 0.
    #[cfg(any(test, feature = "planted-bugs"))]
    pub overlooked_now_ms: AtomicU64,
    /// Planted bug: settings of full-text tables may be changed.
    #[cfg(any(test, feature = "planted-bugs"))]
    pub settings_are_free: AtomicBool,
    /// The time of `now`, in milliseconds since 1970.
    pub now_ms: AtomicU64,
    rng_state: AtomicU64,
    why: Mutex<Option<String>>,
}

impl HookState {
    /// Starts a new command. `now_ms`: the time of `now`; `seed`: of the random generator; `steps_max`: its budget.
    pub fn begin(&self, now_ms: u64, seed: u64, steps_max: u64) {
        self.now_ms.store(now_ms, Relaxed);
        self.changes.store(0, Relaxed);
        self.rng_state.store(seed, Relaxed);
        self.steps_left.store(i64::try_from(steps_max).unwrap_or(i64::MAX), Relaxed);
        self.is_budget_exceeded.store(false, Relaxed);
        self.begin_statement();
    }

    /// Starts a new statement.
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
        lock(&self.created_table).take();
        lock(&self.filled).clear();
        self.set_price(prices::PLAIN);
        *self.why() = None;
    }

    /// Starts a transaction. `names`: the virtual tables, if the schema has changed since the previous transaction.
    /// Returns whether there are any.
    pub fn begin_transaction(&self, names: Option<Vec<String>>) -> bool {
        let mut known = lock(&self.virtual_names);
        if let Some(names) = names {
            *known = names;
        }
        self.has_virtual.store(!known.is_empty(), Relaxed);
        self.is_virtual_unsure.store(false, Relaxed);
        self.reread_steps.store(0, Relaxed);
        self.instances.store(0, Relaxed);
        !known.is_empty()
    }

    /// Charges a statement for the instances of virtual tables.
    pub fn charge_instances(&self) {
        self.charge(self.instances.load(Relaxed).saturating_mul(INSTANCE_STEPS));
    }

    /// Records that a statement was undone: the virtual tables that it writes to may have left instances behind.
    pub fn leaves_instances(&self) {
        if self.rereads_schema() && self.touches_virtual.load(Relaxed) {
            let written = lock(&self.filled).len();
            self.instances.fetch_add(written.max(1) as u64, Relaxed);
        }
    }

    /// Records that the statement uses this table.
    pub fn uses(&self, table: &str) {
        if !self.has_virtual.load(Relaxed) {
            return;
        }
        let names = lock(&self.virtual_names);
        let is_virtual =
            self.is_virtual_unsure.load(Relaxed) || names.iter().any(|name| name.eq_ignore_ascii_case(table));
        self.touches_virtual.fetch_or(is_virtual, Relaxed);
    }

    /// Records that the statement writes to this table. `inserts`: by an INSERT, of which a statement may have several.
    pub fn fills(&self, table: &str, inserts: bool) {
        if self.touches_virtual.load(Relaxed) {
            let mut filled = lock(&self.filled);
            match filled.iter_mut().find(|(name, _)| name == table) {
                Some((_, times)) => *times += u64::from(inserts),
                None => filled.push((table.to_string(), 1)),
            }
        }
    }

    /// If the statement uses a virtual table: the tables that it writes to, and the number of INSERTs into each.
    pub fn filled(&self) -> Vec<(String, u64)> {
        lock(&self.filled).clone()
    }

    /// Restores what was recorded when the statement was prepared, for a statement that is not prepared again.
    pub fn set_filled(&self, filled: &[(String, u64)]) {
        *lock(&self.filled) = filled.to_vec();
    }

    /// The full-text tables.
    pub fn fulltext(&self) -> MutexGuard<'_, FulltextWrites> {
        lock(&self.fulltext)
    }

    /// Charges for the work of a full-text table for the present statement.
    pub fn charge_fulltext(&self, steps: u64) {
        if self.is_flushing.load(Relaxed) {
            self.take(steps);
        } else {
            self.charge(steps);
        }
    }

    /// Records that the statement creates, drops or renames tables, which may be virtual.
    pub fn changes_virtual(&self) {
        self.is_virtual_unsure.store(true, Relaxed);
        self.touches_virtual.store(self.has_virtual.load(Relaxed), Relaxed);
    }

    /// Starts a command. `schema`: the present schema, if it may have changed since the previous command.
    pub fn begin_schema(&self, schema: Option<Schema>) {
        let mut fulltext = None;
        if let Some(Schema { indexes, views, fulltext: found }) = schema {
            fulltext = Some(found);
            *lock(&self.indexes) = indexes;
            *lock(&self.views) = views;
            lock(&self.costs).clear();
        }
        self.fulltext().begin(fulltext);
        self.is_schema_changed.store(false, Relaxed);
    }

    /// Whether the command has changed the schema.
    pub fn is_schema_changed(&self) -> bool {
        self.is_schema_changed.load(Relaxed)
    }

    /// Whether there may be a view with that name.
    pub fn may_be_view(&self, name: &str) -> bool {
        let views = lock(&self.views);
        self.is_schema_changed.load(Relaxed) || views.iter().any(|view| view.eq_ignore_ascii_case(name))
    }

    /// Records that the statement creates this table.
    pub fn set_created_table(&self, table: &str) {
        *lock(&self.created_table) = Some(table.to_string());
    }

    /// The table that the statement creates.
    pub fn created_table(&self) -> Option<String> {
        lock(&self.created_table).clone()
    }

    /// The table that the statement has created from a SELECT.
    pub fn table_created_by_select(&self) -> Option<String> {
        let created_table = lock(&self.created_table);
        created_table.clone().filter(|_| self.selects.load(Relaxed))
    }

    /// The cached cost of a statement; `None` if it is unknown or the command has changed the schema.
    pub fn known_cost(&self, sql: &str) -> Option<Cost> {
        let costs = lock(&self.costs);
        costs.get(sql).copied().filter(|_| !self.is_schema_changed.load(Relaxed))
    }

    /// Caches the cost of a statement until the schema changes.
    pub fn remember_cost(&self, sql: &str, cost: Cost) {
        if self.is_schema_changed.load(Relaxed) || sql.len() > REMEMBERED_BYTES_MAX {
            return;
        }
        let mut costs = lock(&self.costs);
        if costs.len() >= REMEMBERED_MAX {
            costs.clear();
        }
        costs.insert(sql.to_string(), cost);
    }

    /// Records that the same statement now has another program: known costs do not hold any more.
    pub fn changes_programs(&self) {
        self.is_schema_changed.store(true, Relaxed);
    }

    /// Records that the statement changes the schema.
    pub fn changes_schema(&self) {
        self.is_schema_changed.store(true, Relaxed);
        self.is_fulltext_unsure.store(true, Relaxed);
        self.is_defining.store(true, Relaxed);
        self.may_repeat.store(true, Relaxed);
    }

    /// Whether the transaction has changed the schema.
    pub fn rereads_schema(&self) -> bool {
        self.reread_steps.load(Relaxed) > 0
    }

    /// Charges for finding the full-text tables in the schema. False if the budget is exceeded.
    pub fn charge_definitions(&self) -> bool {
        self.charge(self.reread_steps.load(Relaxed) / READINGS_PER_REREAD)
    }

    /// Charges for a row that a statement writes to a table, and for its index entries.
    pub fn charge_row(&self, table: &str) {
        let indexes = lock(&self.indexes);
        let known = indexes.get(&table.to_ascii_lowercase()).copied().unwrap_or(0);
        drop(indexes);
        let count = if self.is_schema_changed.load(Relaxed) { known.max(INDEXES_UNKNOWN) } else { known };
        self.charge(ROW_STEPS + count.unsigned_abs() * INDEX_STEPS);
    }

    /// Sets the price of a step of the present statement.
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

    /// Charges for `count` steps of the present statement; false if the budget is exceeded.
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

    /// The price in steps with the length of values in the present tier.
    pub fn in_tier(&self, price: Price) -> u64 {
        let times = |part: u64, cost: &AtomicU64| part.saturating_mul(cost.load(Relaxed));
        let on_top = times(price.long, &self.long_cost).saturating_add(times(price.far, &self.far_cost));
        price.step.saturating_add(times(price.bytes, &self.length_cost)).saturating_add(on_top)
    }

    /// Charges for one authorizer call while a statement is prepared. Nested views double their number with each level,
    /// and SQLite's work grows faster than their number, so each call costs more than the previous one. False: the
    /// limit or the budget is exceeded.
    pub fn charge_authorizer_call(&self) -> bool {
        let asked = self.asked.fetch_add(1, Relaxed) + 1;
        if asked > AUTHORIZER_CALLS_MAX {
            self.is_budget_exceeded.store(true, Relaxed);
        }
        asked <= AUTHORIZER_CALLS_MAX && self.charge(asked * 8)
    }

    /// Checks that the disk has room for everything that may be written until the next check; otherwise the node ends.
    /// `is_certain`: the check must not be skipped because of a recent one.
    pub fn check_free_space(&self, is_certain: bool) {
        if let Some(files) = self.files.get()
            && !self.is_internal.load(Relaxed)
        {
            files.check_free_space(is_certain);
        }
    }

    /// The next random number (splitmix64, whose sequence for a seed never changes).
    pub fn draw(&self) -> u64 {
        let state = self.rng_state.load(Relaxed).wrapping_add(0x9E37_79B9_7F4A_7C15);
        self.rng_state.store(state, Relaxed);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Takes steps from the budget; false if it is exceeded.
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

    /// Stores the reason for a refusal, for the error that SQLite returns next.
    pub fn refuse(&self, why: impl Into<String>) {
        self.why().get_or_insert_with(|| why.into());
    }

    /// Takes the stored reason.
    pub fn take_why(&self) -> Option<String> {
        self.why().take()
    }

    fn why(&self) -> MutexGuard<'_, Option<String>> {
        // A panic of another thread cannot have left it half written.
        lock(&self.why)
    }
}

/// While it exists, statements on the connection are internal: nothing is refused and no steps are counted.
pub struct InternalStatements<'a>(&'a HookState, bool);

impl InternalStatements<'_> {
    /// Starts internal statements; the previous state is restored when the value is dropped.
    pub fn begin(hooks: &HookState) -> InternalStatements<'_> {
        InternalStatements(hooks, hooks.is_internal.swap(true, Relaxed))
    }
}

impl Drop for InternalStatements<'_> {
    fn drop(&mut self) {
        self.0.is_internal.store(self.1, Relaxed);
    }
}
