//! One statement on a connection: prepared, given its parameters, run, and its outcome in the words of the service.
//!
//! Not here: what surrounds it, and what follows when it fails (`writer.rs`, `reader.rs`).

use super::budget::step_cost::{self, Price, Program, STEPS_PER_INSTRUCTION};
use super::budget::{fulltext_matches, fulltext_settings, length_tiers, schema_changes};
use super::commands::{self, Bytes, Kind, Outcome, Params, SQL_BYTES_MAX, Statement};
use super::connection::hook_state::Watch;
use super::connection::{self, authorizer};
use super::storage::schema;
use super::writer::Own;
use rusqlite::fallible_iterator::FallibleIterator as _;
use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Batch, Connection, Error, ErrorCode, StatementStatus};
use std::sync::atomic::Ordering::Relaxed;

/// How often a statement says SELECT or VALUES.
const SELECTS_MAX: usize = 1_000;
/// How often an INSERT says ON CONFLICT.
const CONFLICTS_MAX: usize = 4;
/// What it costs to read a byte of a statement, and a word or sign.
const STEPS_PER_BYTE: u64 = 10;
const STEPS_PER_TOKEN: u64 = 350;
/// What it costs to compare two constants that stand beside operators.
const STEPS_PER_PAIR: u64 = 10;
/// Operators that are words, and what else takes a constant in an expression.
const OPERATORS: [&str; 13] =
    ["when", "then", "else", "and", "or", "not", "is", "like", "glob", "match", "regexp", "between", "collate"];
/// What any statement costs, however little it does: it is read, prepared and kept apart from the others.
pub const STATEMENT_STEPS: u64 = 6_000;
/// A statement shorter than this has no program that needs to be counted while values are short.
const LONG_SQL_BYTES: usize = 64 << 10;
/// Instructions of a program that reads times bytes of a value.
const READ_PROGRAM_BYTES_MAX: usize = 512 << 20;
/// Bytes that an instruction takes.
const INSTRUCTION_BYTES: usize = 32;
/// Of UTF-8.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Why a statement was not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// For a reason that is the same on every node; nothing of it was done.
    Failed(String),
    /// A value is longer than values may be.
    TooLong(String),
    /// It, and those before it, used up the steps of their command.
    RanAway,
    /// The database itself cannot go on. `is_damaged`: its content cannot be trusted.
    Fatal { why: String, is_damaged: bool },
}

/// What a request may answer.
pub struct Room<'a> {
    bytes: usize,
    rows: usize,
    /// Bytes of memory that the rows take so far, and how many of them were granted.
    held: usize,
    granted: usize,
    grant: Option<&'a mut dyn FnMut(usize) -> bool>,
}

/// Memory is asked for in pieces of so many bytes.
const GRANT_BYTES: usize = 256 << 10;
/// What a value or a row takes in memory beside its bytes.
const CELL_BYTES: usize = size_of::<commands::Value>() + 32;

impl<'a> Room<'a> {
    /// For so many bytes of so many rows.
    pub fn new(bytes: usize, rows: usize) -> Room<'a> {
        Room { bytes, rows, held: 0, granted: 0, grant: None }
    }

    /// The same, as far as memory is granted too: asked for all of it each time.
    pub fn granted_by(self, grant: &'a mut dyn FnMut(usize) -> bool) -> Room<'a> {
        Room { grant: Some(grant), ..self }
    }

    /// What is left, for a statement that may have to be run again; whatever memory it takes.
    pub fn left(&self) -> Room<'static> {
        Room::new(self.bytes, self.rows)
    }

    /// Takes a row of so many bytes and values; the error: why there is no room for it.
    fn take(&mut self, bytes: usize, values: usize) -> Result<(), &'static str> {
        if bytes > self.bytes || self.rows == 0 {
            return Err("the answer is too large: ask for fewer rows");
        }
        (self.bytes, self.rows) = (self.bytes - bytes, self.rows - 1);
        self.held += bytes + (values + 1) * CELL_BYTES;
        if self.held > self.granted
            && let Some(grant) = &mut self.grant
        {
            self.granted = self.held.next_multiple_of(GRANT_BYTES);
            if !grant(self.granted) {
                return Err("there is no memory for this answer now: ask for fewer rows, or later");
            }
        }
        Ok(())
    }
}

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

/// A value of SQLite in words. Text that is no UTF-8 is made so.
pub fn value(value: ValueRef<'_>) -> commands::Value {
    match value {
        ValueRef::Null => commands::Value::Null,
        ValueRef::Integer(number) => commands::Value::Integer(number),
        ValueRef::Real(number) => commands::Value::Real(number),
        ValueRef::Text(text) => commands::Value::Text(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(blob) => commands::Value::Blob(Bytes::from(blob)),
    }
}

/// What SQLite says, without the statement that it was about.
pub fn said(error: &Error) -> String {
    match error {
        Error::SqliteFailure(_, Some(said)) => said.clone(),
        Error::SqlInputError { msg, .. } => msg.clone(),
        Error::MultipleStatement => "one statement at a time".to_string(),
        other => other.to_string(),
    }
}

/// Sorts an error of SQLite.
pub fn trouble(watch: &Watch, error: &Error) -> Trouble {
    if watch.has_run_away.load(Relaxed) {
        return Trouble::RanAway;
    }
    let why = watch.take_why().unwrap_or_else(|| said(error));
    let extended = error.sqlite_extended_error_code().unwrap_or(0);
    match error.sqlite_error_code() {
        // A virtual table that its own statements have made a mess of: the same everywhere.
        Some(ErrorCode::DatabaseCorrupt) if extended == rusqlite::ffi::SQLITE_CORRUPT_VTAB => Trouble::Failed(why),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Trouble::Fatal { why, is_damaged: true },
        // SQLite says so as well of row numbers and of a full-text index that have come to their end. It is not the disk: that
        // was looked at while the statement ran, and is looked at now.
        Some(ErrorCode::DiskFull) => {
            watch.look_at_room(true);
            Trouble::Failed(
                "a table or index has come to its end: SQLite has no row number or no segment left".to_string(),
            )
        }
        // SQLite has no other word for the default of a column that is longer than values may be.
        Some(ErrorCode::OutOfMemory) if watch.longest.load(Relaxed) < commands::VALUE_BYTES_MAX as u64 => {
            Trouble::TooLong(why)
        }
        // Nor for something longer than it ever asks memory for, which is the same on every node.
        Some(ErrorCode::OutOfMemory) if has_memory() => {
            Trouble::Failed("a value on the way to the result is longer than SQLite can hold".to_string())
        }
        Some(
            ErrorCode::SystemIoFailure
            | ErrorCode::OutOfMemory
            | ErrorCode::CannotOpen
            | ErrorCode::ReadOnly
            | ErrorCode::DatabaseBusy
            | ErrorCode::FileLockingProtocolFailed
            | ErrorCode::PermissionDenied,
        ) if extended != rusqlite::ffi::SQLITE_READONLY || !why.contains("query operation") => {
            Trouble::Fatal { why, is_damaged: false }
        }
        Some(ErrorCode::TooBig) => Trouble::TooLong(why),
        _ => Trouble::Failed(why),
    }
}

/// Whether the system gives memory, and SQLite failed for another reason.
fn has_memory() -> bool {
    Vec::<u8>::new().try_reserve_exact(connection::ALLOCATION_BYTES_MAX as usize).is_ok()
}

/// Runs one statement outside of any gear. `room` shrinks by the rows that it answers.
pub fn run(
    conn: &Connection,
    watch: &Watch,
    statement: &Statement,
    kind: Kind,
    room: &mut Room<'_>,
) -> Result<Outcome, Trouble> {
    run_in(conn, watch, statement, kind, room, None)
}

/// Runs one statement that only reads; the connection keeps it prepared.
pub fn read(conn: &Connection, watch: &Watch, statement: &Statement, room: &mut Room<'_>) -> Result<Outcome, Trouble> {
    if !is_plain(&statement.sql) {
        return run(conn, watch, statement, Kind::Query, room);
    }
    watch.begin_statement();
    let prepared = conn.prepare_cached(&statement.sql);
    let mut prepared = prepared
        .and_then(|prepared| narrow(conn, &prepared).map(|()| prepared))
        .map_err(|error| trouble(watch, &error))?;
    let bytes = fulltext_matches::narrow(conn, watch, statement);
    let is_bounded = !matches!(bytes, Ok(None));
    let done = bytes.and_then(|bytes| {
        let done = carry_out(conn, watch, &mut prepared, &statement.params, Kind::Query, room);
        done.map_err(|trouble| fulltext_matches::explain(trouble, bytes))
    });
    if is_bounded {
        // That it marks words is seen when it is prepared.
        prepared.discard();
    }
    done
}

/// One statement without another behind it, for certain, and none that takes too long to prepare: the cache may have it.
/// Preparing many in a row goes as deep as they are many.
fn is_plain(sql: &str) -> bool {
    let first = sql.trim_start().get(..6).unwrap_or_default();
    sql.len() <= SQL_BYTES_MAX
        && too_many_selects(sql).is_none()
        && !first.eq_ignore_ascii_case("pragma")
        && !sql.trim_end_matches([';', ' ', '\n', '\r', '\t']).contains(';')
}

/// Runs one statement in a gear, or outside of any.
pub fn run_in(
    conn: &Connection,
    watch: &Watch,
    statement: &Statement,
    kind: Kind,
    room: &mut Room<'_>,
    gear: Option<usize>,
) -> Result<Outcome, Trouble> {
    watch.begin_statement();
    if statement.sql.len() > SQL_BYTES_MAX {
        return Err(Trouble::Failed(format!("a statement has {SQL_BYTES_MAX} bytes at most")));
    }
    if statement.sql.contains('\0') {
        return Err(Trouble::Failed("a statement has no NUL: SQLite would read no further".to_string()));
    }
    // Its name may stand in quotes.
    if names(&statement.sql, "pragma") && statement.sql.to_ascii_lowercase().contains("data_version") {
        return Err(Trouble::Failed("PRAGMA data_version: not available".to_string()));
    }
    if names_rollback(&statement.sql) {
        let why = "ROLLBACK would undo what other requests did: not available; ABORT does the same for this one";
        return Err(Trouble::Failed(why.to_string()));
    }
    if let Some(why) = too_many_selects(&statement.sql).or_else(|| too_many_conflicts(&statement.sql)) {
        return Err(Trouble::Failed(why));
    }
    if !watch.charge(STATEMENT_STEPS + text_steps(&statement.sql)) {
        return Err(Trouble::RanAway);
    }
    let on_error = |error: Error| trouble(watch, &error);
    watch.set_price(step_cost::PLANNED);
    let mut batch = Batch::new(conn, &statement.sql);
    let Some(mut prepared) = batch.next().map_err(on_error)? else {
        return Ok(Outcome::Changed { last_insert_id: 0, rows_affected: 0 });
    };
    match batch.next() {
        Ok(None) => {}
        Ok(Some(_)) => return Err(Trouble::Failed("one statement at a time".to_string())),
        Err(error) => return Err(on_error(error)),
    }
    if watch.passes_over.load(Relaxed) {
        return Ok(Outcome::Changed { last_insert_id: 0, rows_affected: 0 });
    }
    watch.set_price(step_cost::PLAIN);
    match gear {
        Some(gear) => {
            length_tiers::suits(watch, gear)?;
            length_tiers::charge_virtual(watch, gear, statement.bytes())?;
            fits(conn, watch, &statement.sql, statement.params.bytes(), gear)?;
            // The answer is kept with the log.
            let columns: Vec<String> = prepared.column_names().map(str::to_string).collect();
            if let Some(why) = schema::random_name(&columns) {
                return Err(Trouble::Failed(why));
            }
        }
        None => narrow(conn, &prepared).map_err(on_error)?,
    }
    let bytes = fulltext_matches::narrow(conn, watch, statement)?;
    let done = carry_out(conn, watch, &mut prepared, &statement.params, kind, room);
    done.map_err(|trouble| fulltext_matches::explain(trouble, bytes))
}

/// What it costs to prepare the statements of a text. SQLite compares each constant that stands beside an operator with all of those
/// before it in its statement.
pub fn text_steps(sql: &str) -> u64 {
    let mut before: &[u8] = b"(";
    let (mut count, mut operators, mut pairs) = (0, 0_u64, 0_u64);
    for token in tokens(sql) {
        count += 1;
        if token == b";" {
            pairs += operators * operators;
            operators = 0;
        }
        let is_sign = matches!(token, b"-" | b"+") && matches!(before, b"(" | b",");
        let is_operator = match token {
            [byte] if !is_word(*byte) => b"=<>+-*/%|&~".contains(byte) && !is_sign,
            word => OPERATORS.iter().any(|one| word.eq_ignore_ascii_case(one.as_bytes())),
        };
        operators += u64::from(is_operator);
        before = token;
    }
    pairs += operators * operators;
    sql.len() as u64 * STEPS_PER_BYTE + count * STEPS_PER_TOKEN + pairs * STEPS_PER_PAIR
}

/// Bytes of the longest string or blob that a text has, about.
pub fn longest_literal(sql: &str) -> usize {
    let mut before: &[u8] = b"";
    let bytes = tokens(sql).map(|token| {
        let is_blob = before.eq_ignore_ascii_case(b"x");
        before = token;
        if token[0] == b'\'' { token.len().saturating_sub(2) / if is_blob { 2 } else { 1 } } else { 0 }
    });
    bytes.max().unwrap_or(0)
}

/// Shortens values for a long program that reads: SQLite asks nobody between two jumps, and each register may hold a value.
pub fn narrow(conn: &Connection, prepared: &rusqlite::Statement<'_>) -> rusqlite::Result<()> {
    let used = usize::try_from(prepared.get_status(StatementStatus::MemUsed)).unwrap_or(0);
    let bytes = READ_PROGRAM_BYTES_MAX / (used / INSTRUCTION_BYTES).max(1);
    if bytes < commands::VALUE_BYTES_MAX { connection::set_length(conn, Some(bytes)) } else { Ok(()) }
}

/// Refuses a program that is too long for its gear; sets what its steps cost.
pub fn fits(conn: &Connection, watch: &Watch, sql: &str, parameters: usize, gear: usize) -> Result<(), Trouble> {
    if watch.is_defining.load(Relaxed) {
        schema_changes::charge(conn, watch, sql, gear)?;
    }
    let is_bounded = length_tiers::is_high(gear) || sql.len() >= LONG_SQL_BYTES;
    let may_repeat = watch.may_repeat.load(Relaxed);
    let sql = from_first_word(sql);
    // EXPLAIN runs nothing.
    if (!is_bounded && !may_repeat) || sql.get(..7).is_some_and(|word| word.eq_ignore_ascii_case("explain")) {
        return Ok(());
    }
    // It takes time to look at a program, however little it will do; and what was met before is refused as what was not: which
    // statements these are differs from node to node.
    let most = usize::try_from(watch.steps_left.load(Relaxed)).unwrap_or(0) / STEPS_PER_INSTRUCTION;
    let cost = match watch.known_cost(sql) {
        Some(cost) if cost.instructions > most => {
            watch.has_run_away.store(true, Relaxed);
            return Err(Trouble::RanAway);
        }
        Some(cost) => cost,
        None => {
            let own = Own::begin(watch);
            let program = Program::of(conn, sql, most).map_err(|error| trouble(watch, &error))?;
            drop(own);
            let Some(program) = program else {
                watch.has_run_away.store(true, Relaxed);
                return Err(Trouble::RanAway);
            };
            let cost = program.cost();
            watch.remember_cost(sql, cost);
            cost
        }
    };
    if cost.computes_words {
        let why = "what writes asks a full-text index only for words that stand in the statement or are a parameter as a whole: ask first, then write";
        return Err(Trouble::Failed(why.to_string()));
    }
    if may_repeat {
        let in_gear = |price: Price| watch.in_gear(price.with_parameters(parameters));
        watch.set_price(cost.per_step.with_parameters(parameters));
        if !watch.charge(in_gear(cost.once).saturating_add(cost.search)) {
            return Err(Trouble::RanAway);
        }
    }
    let excess = length_tiers::excess(gear, cost.instructions).filter(|_| is_bounded);
    excess.map_or(Ok(()), |why| Err(Trouble::Failed(why)))
}

/// The part after preparing.
pub fn carry_out(
    conn: &Connection,
    watch: &Watch,
    prepared: &mut rusqlite::Statement<'_>,
    params: &Params,
    kind: Kind,
    room: &mut Room<'_>,
) -> Result<Outcome, Trouble> {
    if kind == Kind::Query && !prepared.readonly() {
        return Err(Trouble::Failed("attempt to change database via query operation".to_string()));
    }
    if prepared.is_explain() == 1 {
        return Err(Trouble::Failed("EXPLAIN: not available, only EXPLAIN QUERY PLAN".to_string()));
    }
    let on_error = |error: Error| trouble(watch, &error);
    bind(watch, prepared, params)?;
    let settings = fulltext_settings::settings(conn, watch).map_err(on_error)?;
    let before = conn.total_changes();
    let outcome = step_through(conn, watch, prepared, kind, room)?;
    fulltext_settings::keep(conn, watch, &settings)?;
    if !prepared.readonly() {
        watch.changes.store(rows_changed(conn, before), Relaxed);
    }
    Ok(outcome)
}

/// Runs what is prepared and has its parameters.
fn step_through(
    conn: &Connection,
    watch: &Watch,
    prepared: &mut rusqlite::Statement<'_>,
    kind: Kind,
    room: &mut Room<'_>,
) -> Result<Outcome, Trouble> {
    let on_error = |error: Error| trouble(watch, &error);
    let before = conn.total_changes();
    if prepared.column_count() > 0 && kind != Kind::Execute {
        return rows(watch, prepared, room);
    }
    let reserved = reserved_names(conn, watch).map_err(on_error)?;
    let mut rows = prepared.raw_query();
    while rows.next().map_err(on_error)?.is_some() {}
    drop(rows);
    if reserved_names(conn, watch).map_err(on_error)?.iter().any(|name| !reserved.contains(name)) {
        return Err(Trouble::Failed(authorizer::reserved()));
    }
    Ok(Outcome::Changed { last_insert_id: conn.last_insert_rowid(), rows_affected: rows_changed(conn, before) })
}

/// Rows that a statement has changed. `before`: `total_changes` when it began, as what changes nothing leaves the number of the statement
/// before it standing.
fn rows_changed(conn: &Connection, before: u64) -> u64 {
    if conn.total_changes() == before { 0 } else { conn.changes() }
}

/// Everything that has a reserved name, if the statement is an ALTER TABLE: the authorizer is not told which name it gives.
fn reserved_names(conn: &Connection, watch: &Watch) -> rusqlite::Result<Vec<String>> {
    if !watch.is_altering.load(Relaxed) {
        return Ok(Vec::new());
    }
    let _own = Own::begin(watch);
    let mut select = conn.prepare_cached("SELECT name FROM main.sqlite_schema")?;
    let names = select.query_map([], |row| row.get::<_, String>(0))?;
    names.filter(|name| name.as_ref().map_or(true, |name| authorizer::is_reserved(name))).collect()
}

fn bind(watch: &Watch, prepared: &mut rusqlite::Statement<'_>, params: &Params) -> Result<(), Trouble> {
    let wanted = prepared.parameter_count();
    let failed = |why: String| Err(Trouble::Failed(why));
    let on_error = |error: Error| trouble(watch, &error);
    match params {
        Params::None if wanted == 0 => Ok(()),
        Params::None => failed(format!("the statement wants {wanted} parameters, it has none")),
        Params::Positional(values) if values.len() != wanted => {
            failed(format!("the statement wants {wanted} parameters, it has {}", values.len()))
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
                        true => format!("parameter {place} has no name, and the values have: name it in the SQL"),
                        false => format!("there is no value for parameter {name}"),
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
/// SQLite prepares a statement again at its first step when the schema has become another: before that step the columns may
/// be those of the older schema.
fn header(prepared: &rusqlite::Statement<'_>) -> (Vec<String>, Vec<String>) {
    let declared = |column: &rusqlite::Column<'_>| column.decl_type().unwrap_or_default().to_ascii_lowercase();
    prepared.columns().map(|column| (column.name().to_string(), declared(&column))).unzip()
}

fn rows(watch: &Watch, prepared: &mut rusqlite::Statement<'_>, room: &mut Room<'_>) -> Result<Outcome, Trouble> {
    let on_error = |error: Error| trouble(watch, &error);
    let mut known: Option<(Vec<String>, Vec<String>)> = None;
    #[cfg(test)]
    if watch.columns_before_first_step.load(Relaxed) {
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
        room.take(bytes, one.len()).map_err(|why| Trouble::Failed(why.to_string()))?;
        values.push(one);
    }
    drop(found);
    let (columns, types) = known.unwrap_or_else(|| header(prepared));
    Ok(Outcome::Rows { columns, types, values })
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

/// A statement without what may stand before it: blanks, comments and semicolons.
pub fn from_first_word(sql: &str) -> &str {
    words(sql).next().map_or("", |word| &sql[word.as_ptr().addr() - sql.as_ptr().addr()..])
}

/// Whether a statement says ROLLBACK.
pub fn names_rollback(sql: &str) -> bool {
    names(sql, "rollback")
}

/// Why SQLite would take too long to prepare a statement, if it would: its work grows with the square of the selects, and it
/// asks nobody meanwhile. Rows behind one VALUES are one.
pub fn too_many_selects(sql: &str) -> Option<String> {
    let is_select = |word: &&[u8]| ["select", "values"].iter().any(|it| word.eq_ignore_ascii_case(it.as_bytes()));
    let count = words(sql).filter(is_select).take(SELECTS_MAX + 1).count();
    (count > SELECTS_MAX)
        .then(|| format!("a statement says SELECT and VALUES {SELECTS_MAX} times at most: send several statements"))
}

/// Why SQLite would take too long to prepare an INSERT, if it would: it compares the columns of each ON CONFLICT with those of every unique
/// index, and with all clauses before it.
pub fn too_many_conflicts(sql: &str) -> Option<String> {
    let (mut count, mut inserts) = (0, false);
    let has_too_many = tokens(sql).any(|token| {
        if token == b";" {
            (count, inserts) = (0, false);
        }
        inserts |= token.eq_ignore_ascii_case(b"into");
        count += usize::from(inserts && token.eq_ignore_ascii_case(b"conflict"));
        count > CONFLICTS_MAX
    });
    has_too_many.then(|| format!("an INSERT says ON CONFLICT {CONFLICTS_MAX} times at most: send several statements"))
}

/// Whether a word stands in a statement, outside of strings, names in quotes and comments.
fn names(sql: &str, wanted: &str) -> bool {
    words(sql).any(|word| word.eq_ignore_ascii_case(wanted.as_bytes()))
}

/// Words and numbers of a statement, outside of strings, names in quotes, comments and parameters, cut as SQLite cuts them.
pub fn words(sql: &str) -> impl Iterator<Item = &[u8]> {
    tokens(sql).filter(|token| is_word(token[0]))
}

/// The same with strings, and every other byte that is no blank.
fn tokens(sql: &str) -> impl Iterator<Item = &[u8]> {
    let bytes = sql.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < bytes.len() {
            let rest = &bytes[at..];
            at += match bytes[at] {
                quote @ (b'\'' | b'"' | b'`') => {
                    let len = rest[1..].iter().position(|b| *b == quote).map_or(rest.len(), |end| end + 2);
                    if quote == b'\'' {
                        at += len;
                        return Some(&rest[..len]);
                    }
                    len
                }
                b'[' => rest.iter().position(|b| *b == b']').map_or(rest.len(), |end| end + 1),
                b'-' if rest.starts_with(b"--") => rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len()),
                b'/' if rest.starts_with(b"/*") => {
                    rest[2..].windows(2).position(|two| two == b"*/").map_or(rest.len(), |end| end + 4)
                }
                // At the beginning of a word this is a blank, within one it is a letter.
                _ if rest.starts_with(BYTE_ORDER_MARK) => BYTE_ORDER_MARK.len(),
                b'$' | b'@' | b':' | b'#' => parameter(rest),
                byte if byte.is_ascii_whitespace() || byte == 0x0b => 1,
                byte => {
                    let len =
                        if is_word(byte) { rest.iter().position(|b| !is_word(*b)).unwrap_or(rest.len()) } else { 1 };
                    at += len;
                    return Some(&rest[..len]);
                }
            };
        }
        None
    })
}

/// Length of a parameter: its name may have `::` in it, and anything but blanks between parentheses.
fn parameter(rest: &[u8]) -> usize {
    let (mut len, mut letters) = (1, 0);
    while let Some(byte) = rest.get(len) {
        len += match byte {
            byte if is_word(*byte) => {
                letters += 1;
                1
            }
            b'(' if letters > 0 => {
                let end = rest[len..].iter().position(|b| *b == b')' || b.is_ascii_whitespace() || *b == 0x0b);
                return len + end.map_or(rest.len() - len, |end| end + usize::from(rest[len + end] == b')'));
            }
            b':' if rest[len..].starts_with(b"::") => 2,
            _ => break,
        };
    }
    len
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$') || !byte.is_ascii()
}
