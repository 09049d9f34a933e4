//! Runs one statement on a connection: prepares it, binds its parameters, and converts its outcome to the service's
//! types.
//!
//! Not here: the transaction around it, and the handling of its failure (`apply.rs`, `reader.rs`).

use super::answer_limit::AnswerLimit;
use super::budget::prices::{self, Price};
use super::budget::program::Program;
use super::budget::step_cost::STEPS_PER_INSTRUCTION;
use super::budget::text_cost::{STATEMENT_STEPS, text_steps, too_many_conflicts, too_many_selects};
use super::budget::{fulltext, length_tiers, schema_changes};
use super::commands::{self, Bytes, Outcome, Params, RunKind, SQL_BYTES_MAX, Statement};
use super::connection::authorizer;
use super::connection::hook_state::{HookState, InternalStatements};
use super::connection::limits::set_length;
use super::errors::{StatementError, classify};
use super::storage::schema;
use super::tokens::{from_first_word, names, names_rollback};
use rusqlite::fallible_iterator::FallibleIterator as _;
use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Batch, Connection, Error, StatementStatus};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Bytes of text above which the length of a statement's program is checked even in the lower tiers.
const LONG_SQL_BYTES: usize = 64 << 10;
/// For a read: largest product of the number of its program's instructions and the length of a value in bytes.
const READ_PROGRAM_BYTES_MAX: usize = 512 << 20;
/// Approximate size of an instruction in memory, in bytes.
const INSTRUCTION_BYTES: usize = 32;

impl ToSql for commands::Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            commands::Value::Null => ValueRef::Null,
            commands::Value::Integer(number) => ValueRef::Integer(*number),
            commands::Value::Real(number) => ValueRef::Real(*number),
            commands::Value::Text(text) => ValueRef::Text(text.as_bytes()),
            commands::Value::Blob(blob) => ValueRef::Blob(blob),
        }))
    }
}

/// Converts a value of SQLite. Invalid UTF-8 in text is replaced.
pub fn value(value: ValueRef<'_>) -> commands::Value {
    match value {
        ValueRef::Null => commands::Value::Null,
        ValueRef::Integer(number) => commands::Value::Integer(number),
        ValueRef::Real(number) => commands::Value::Real(number),
        ValueRef::Text(text) => commands::Value::Text(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(blob) => commands::Value::Blob(Bytes::from(blob)),
    }
}

/// Runs statements on a connection.
pub struct Executor<'a, 'limit> {
    pub conn: &'a Connection,
    pub hooks: &'a HookState,
    /// What the statements may do and return.
    pub kind: RunKind,
    /// Shrinks by the rows that they return.
    pub limit: &'a mut AnswerLimit<'limit>,
}

impl Executor<'_, '_> {
    /// Runs one statement in a tier; `None`: a read, which has no tier.
    pub fn run(&mut self, statement: &Statement, tier: Option<usize>) -> Result<Outcome, StatementError> {
        let (conn, hooks) = (self.conn, self.hooks);
        hooks.begin_statement();
        if statement.sql.len() > SQL_BYTES_MAX {
            return Err(StatementError::Failed(format!("a statement has at most {SQL_BYTES_MAX} bytes")));
        }
        if statement.sql.contains('\0') {
            return Err(StatementError::Failed("a statement cannot contain a NUL character".to_string()));
        }
        // The pragma's name may be quoted.
        if names(&statement.sql, "pragma") && statement.sql.to_ascii_lowercase().contains("data_version") {
            return Err(StatementError::Failed("PRAGMA data_version: not available".to_string()));
        }
        if names_rollback(&statement.sql) {
            let why = "ON CONFLICT ROLLBACK is not available, as it would undo other requests: use ABORT";
            return Err(StatementError::Failed(why.to_string()));
        }
        if let Some(why) = too_many_selects(&statement.sql).or_else(|| too_many_conflicts(&statement.sql)) {
            return Err(StatementError::Failed(why));
        }
        if !hooks.charge(STATEMENT_STEPS + text_steps(&statement.sql)) {
            return Err(StatementError::BudgetExceeded);
        }
        let on_error = |error: Error| classify(hooks, &error);
        hooks.set_price(prices::PLANNED);
        let sql = fulltext::writes::with_named_tokenizer(&statement.sql);
        let mut batch = Batch::new(conn, &sql);
        let Some(mut prepared) = batch.next().map_err(on_error)? else {
            return Ok(Outcome::Changed { last_insert_id: 0, rows_affected: 0 });
        };
        match batch.next() {
            Ok(None) => {}
            Ok(Some(_)) => return Err(StatementError::Failed("one statement at a time".to_string())),
            Err(error) => return Err(on_error(error)),
        }
        if hooks.passes_over.load(Relaxed) {
            return Ok(Outcome::Changed { last_insert_id: 0, rows_affected: 0 });
        }
        hooks.set_price(prices::PLAIN);
        match tier {
            Some(tier) => {
                length_tiers::suits(hooks, tier, 0)?;
                fits(conn, hooks, &statement.sql, statement.params.bytes(), tier)?;
                // The answer is stored with the log entry, so it must be the same on every node.
                let columns: Vec<String> = prepared.column_names().map(str::to_string).collect();
                if let Some(why) = schema::random_name(&columns) {
                    return Err(StatementError::Failed(why));
                }
            }
            None => narrow(conn, &prepared).map_err(on_error)?,
        }
        if tier.is_some() {
            // The authorizer refuses functions that mark words here, and `fits` a ranking function.
            return self.write(&mut prepared, &statement.params);
        }
        let bytes = fulltext::matches::narrow(conn, hooks, statement)?;
        let done = self.execute(&mut prepared, &statement.params);
        done.map_err(|error| fulltext::matches::explain(error, bytes))
    }

    /// Runs one statement that only reads and keeps it prepared on the connection.
    pub fn read(&mut self, statement: &Statement) -> Result<Outcome, StatementError> {
        if !is_plain(&statement.sql) {
            return self.run(statement, None);
        }
        let (conn, hooks) = (self.conn, self.hooks);
        hooks.begin_statement();
        let prepared = conn.prepare_cached(&statement.sql);
        let mut prepared = prepared
            .and_then(|prepared| narrow(conn, &prepared).map(|()| prepared))
            .map_err(|error| classify(hooks, &error))?;
        let bytes = fulltext::matches::narrow(conn, hooks, statement);
        let is_bounded = !matches!(bytes, Ok(None));
        let done = bytes.and_then(|bytes| {
            let done = self.execute(&mut prepared, &statement.params);
            done.map_err(|error| fulltext::matches::explain(error, bytes))
        });
        if is_bounded {
            // The hooks learn that a statement marks matches only when it is prepared, so it must be prepared again next
            // time.
            prepared.discard();
        }
        done
    }

    /// Runs a prepared statement of the log, with full-text tables charged for the tokens of their texts.
    pub fn write(
        &mut self,
        prepared: &mut rusqlite::Statement<'_>,
        params: &Params,
    ) -> Result<Outcome, StatementError> {
        let (conn, hooks) = (self.conn, self.hooks);
        let Some(written) = length_tiers::fulltext_written(conn, hooks)? else {
            return self.execute(prepared, params);
        };
        let flushes = hooks.fulltext().flushes();
        let done = fulltext::tokens::charged(Arc::clone(&hooks.steps_left), flushes, written, || {
            self.execute(prepared, params)
        })?;
        if hooks.is_creating_virtual.load(Relaxed) {
            fulltext::settings::check_tokenizer(conn, hooks)?;
        }
        Ok(done)
    }

    /// Binds the parameters and runs a prepared statement.
    fn execute(&mut self, prepared: &mut rusqlite::Statement<'_>, params: &Params) -> Result<Outcome, StatementError> {
        let (conn, hooks) = (self.conn, self.hooks);
        // The program of a statement whose plan is shown is not run.
        if self.kind == RunKind::Query && !prepared.readonly() && prepared.is_explain() != 2 {
            return Err(StatementError::Failed("attempt to change database via query operation".to_string()));
        }
        if prepared.is_explain() == 1 {
            return Err(StatementError::Failed("EXPLAIN: not available, only EXPLAIN QUERY PLAN".to_string()));
        }
        let on_error = |error: Error| classify(hooks, &error);
        bind(hooks, prepared, params)?;
        let settings = fulltext::settings::settings(conn, hooks).map_err(on_error)?;
        let before = conn.total_changes();
        let outcome = self.step_through(prepared)?;
        fulltext::settings::keep(conn, hooks, &settings)?;
        if !prepared.readonly() {
            hooks.changes.store(rows_changed(conn, before), Relaxed);
        }
        Ok(outcome)
    }

    /// Runs a prepared statement whose parameters are bound.
    fn step_through(&mut self, prepared: &mut rusqlite::Statement<'_>) -> Result<Outcome, StatementError> {
        let (conn, hooks) = (self.conn, self.hooks);
        let on_error = |error: Error| classify(hooks, &error);
        let before = conn.total_changes();
        // Among statements that write, only those with RETURNING have columns.
        if prepared.column_count() > 0 && (self.kind != RunKind::Execute || !prepared.readonly()) {
            return self.rows(prepared);
        }
        let reserved = reserved_names(conn, hooks).map_err(on_error)?;
        let mut rows = prepared.raw_query();
        while rows.next().map_err(on_error)?.is_some() {}
        drop(rows);
        if reserved_names(conn, hooks).map_err(on_error)?.iter().any(|name| !reserved.contains(name)) {
            return Err(StatementError::Failed(authorizer::reserved()));
        }
        Ok(Outcome::Changed { last_insert_id: conn.last_insert_rowid(), rows_affected: rows_changed(conn, before) })
    }

    fn rows(&mut self, prepared: &mut rusqlite::Statement<'_>) -> Result<Outcome, StatementError> {
        let hooks = self.hooks;
        let on_error = |error: Error| classify(hooks, &error);
        let mut known: Option<(Vec<String>, Vec<String>)> = None;
        #[cfg(any(test, feature = "planted-bugs"))]
        if hooks.columns_before_first_step.load(Relaxed) {
            known = Some(header(prepared));
        }
        let mut values: Vec<Vec<commands::Value>> = Vec::new();
        let mut found = prepared.raw_query();
        while let Some(row) = found.next().map_err(on_error)? {
            let (columns, types) = known.get_or_insert_with(|| header(row.as_ref()));
            let mut one = Vec::with_capacity(columns.len());
            let mut bytes = 2;
            for (place, declared) in types.iter_mut().enumerate() {
                let value = value(row.get_ref(place).map_err(on_error)?);
                bytes += value.bytes();
                if values.is_empty() && declared.is_empty() {
                    *declared = type_of(&value).to_string();
                }
                one.push(value);
            }
            self.limit.take(bytes, one.len()).map_err(|why| StatementError::Failed(why.to_string()))?;
            values.push(one);
        }
        drop(found);
        let (columns, types) = known.unwrap_or_else(|| header(prepared));
        Ok(Outcome::Rows { columns, types, values })
    }
}

/// Whether the text is certainly one statement that can be prepared quickly, so that it may be cached. Preparing a text
/// of many statements recurses as deeply as their number.
fn is_plain(sql: &str) -> bool {
    let first = sql.trim_start().get(..6).unwrap_or_default();
    sql.len() <= SQL_BYTES_MAX
        && too_many_selects(sql).is_none()
        && !first.eq_ignore_ascii_case("pragma")
        && !sql.trim_end_matches([';', ' ', '\n', '\r', '\t']).contains(';')
}

/// Lowers the length limit of values for a long program that reads: SQLite checks no limit between two jumps, and each
/// register may hold a value.
pub fn narrow(conn: &Connection, prepared: &rusqlite::Statement<'_>) -> rusqlite::Result<()> {
    let used = usize::try_from(prepared.get_status(StatementStatus::MemUsed)).unwrap_or(0);
    let bytes = READ_PROGRAM_BYTES_MAX / (used / INSTRUCTION_BYTES).max(1);
    if bytes < commands::VALUE_BYTES_MAX { set_length(conn, Some(bytes)) } else { Ok(()) }
}

/// Sets the price of a step for a program, and refuses a program that is too long for its tier.
pub fn fits(
    conn: &Connection,
    hooks: &HookState,
    sql: &str,
    parameters: usize,
    tier: usize,
) -> Result<(), StatementError> {
    if hooks.is_defining.load(Relaxed) {
        schema_changes::charge(conn, hooks, sql, tier)?;
    }
    let is_bounded = length_tiers::is_high(tier) || sql.len() >= LONG_SQL_BYTES;
    let may_repeat = hooks.may_repeat.load(Relaxed);
    let sql = from_first_word(sql);
    // EXPLAIN does not run the program.
    if (!is_bounded && !may_repeat) || sql.get(..7).is_some_and(|word| word.eq_ignore_ascii_case("explain")) {
        return Ok(());
    }
    // Examining a program takes time, however little it does. A statement with a known cost is refused like a new one,
    // because the set of known costs differs between nodes.
    let most = usize::try_from(hooks.steps_left.load(Relaxed)).unwrap_or(0) / STEPS_PER_INSTRUCTION;
    let cost = match hooks.known_cost(sql) {
        Some(cost) if cost.instructions > most => {
            hooks.is_budget_exceeded.store(true, Relaxed);
            return Err(StatementError::BudgetExceeded);
        }
        Some(cost) => cost,
        None => {
            let own = InternalStatements::begin(hooks);
            let program = Program::of(conn, sql, most).map_err(|error| classify(hooks, &error))?;
            drop(own);
            let Some(program) = program else {
                hooks.is_budget_exceeded.store(true, Relaxed);
                return Err(StatementError::BudgetExceeded);
            };
            let cost = program.cost();
            hooks.remember_cost(sql, cost);
            cost
        }
    };
    if cost.names_rank {
        return Err(StatementError::Failed(fulltext::matches::RANK_IS_FIXED.to_string()));
    }
    if cost.computes_words {
        let why = "a statement that writes can MATCH only literals or whole parameters: run the full-text query \
            first, then write";
        return Err(StatementError::Failed(why.to_string()));
    }
    if may_repeat {
        let in_tier = |price: Price| hooks.in_tier(price.with_parameters(parameters));
        hooks.set_price(cost.per_step.with_parameters(parameters));
        if !hooks.charge(in_tier(cost.once).saturating_add(cost.search)) {
            return Err(StatementError::BudgetExceeded);
        }
    }
    let excess = length_tiers::excess(tier, cost.instructions, cost.joined).filter(|_| is_bounded);
    excess.map_or(Ok(()), |why| Err(StatementError::Failed(why)))
}

/// Rows that a statement has changed. `before`: `total_changes` at its start, because a statement without changes
/// leaves the row count of the previous statement in place.
fn rows_changed(conn: &Connection, before: u64) -> u64 {
    if conn.total_changes() == before { 0 } else { conn.changes() }
}

/// All objects with a reserved name, if the statement is an ALTER TABLE: the authorizer is not given the new name.
fn reserved_names(conn: &Connection, hooks: &HookState) -> rusqlite::Result<Vec<String>> {
    if !hooks.is_altering.load(Relaxed) {
        return Ok(Vec::new());
    }
    let _own = InternalStatements::begin(hooks);
    let mut select = conn.prepare_cached("SELECT name FROM main.sqlite_schema")?;
    let names = select.query_map([], |row| row.get::<_, String>(0))?;
    names.filter(|name| name.as_ref().map_or(true, |name| authorizer::is_reserved(name))).collect()
}

fn bind(hooks: &HookState, prepared: &mut rusqlite::Statement<'_>, params: &Params) -> Result<(), StatementError> {
    let wanted = prepared.parameter_count();
    let failed = |why: String| Err(StatementError::Failed(why));
    let on_error = |error: Error| classify(hooks, &error);
    match params {
        Params::None if wanted == 0 => Ok(()),
        Params::None => failed(format!("the statement needs {wanted} parameters, but none are given")),
        Params::Positional(values) if values.len() != wanted => {
            failed(format!("the statement needs {wanted} parameters, but {} are given", values.len()))
        }
        Params::Positional(values) => {
            for (place, value) in values.iter().enumerate() {
                prepared.raw_bind_parameter(place + 1, value).map_err(on_error)?;
            }
            Ok(())
        }
        Params::Named(values) => {
            let bare = |name: &str| name.trim_start_matches([':', '@', '$']).to_string();
            for place in 1..=wanted {
                let name = prepared.parameter_name(place).unwrap_or_default().to_string();
                let Some((_, value)) = values.iter().find(|(given, _)| bare(given) == bare(&name)) else {
                    return failed(match name.is_empty() {
                        true => format!("parameter {place} has no name, but the values are named: name it in the SQL"),
                        false => format!("no value for parameter {name}"),
                    });
                };
                prepared.raw_bind_parameter(place, value).map_err(on_error)?;
            }
            Ok(())
        }
    }
}

/// Names and declared types of the columns.
///
/// SQLite prepares a statement again at its first step when the schema has changed: before that step the columns may be
/// those of the older schema.
fn header(prepared: &rusqlite::Statement<'_>) -> (Vec<String>, Vec<String>) {
    let declared = |column: &rusqlite::Column<'_>| column.decl_type().unwrap_or_default().to_ascii_lowercase();
    prepared.columns().map(|column| (column.name().to_string(), declared(&column))).unzip()
}

fn type_of(value: &commands::Value) -> &'static str {
    match value {
        commands::Value::Null => "",
        commands::Value::Integer(_) => "integer",
        commands::Value::Real(_) => "real",
        commands::Value::Text(_) => "text",
        commands::Value::Blob(_) => "blob",
    }
}
