//! Date and time functions: SQLite's own, except that `now` is the time of the log entry and that time zones are
//! refused.
//!
//! What matters is how SQLite reads an argument, not its type: a blob is text, text ends at the first NUL, and case is
//! ignored. Arguments are first converted to that form. `now`, whether explicit, implied by a missing argument or
//! implied by `subsec`, is replaced by the entry's time; `localtime` and `utc` are refused. SQLite computes the rest on
//! an auxiliary connection.
//!
//! Invariant: T1 no date or time function reads the clock or the time zone of this machine. Arguments with words other
//! than those known to be pure are computed in a generated column, where SQLite itself refuses to read them: a word
//! that a later version of SQLite adds leads to an error and not to a difference between nodes.
//!
//! The functions are not marked as deterministic, because `now` is not: SQLite does not allow them in indexes and
//! generated columns.
//! Not here: other functions (`functions.rs`).

use super::function_calls::refused;
use super::hook_state::HookState;
use crate::lock::{Mutex, MutexGuard, lock};
use crate::services::sql::errors::BUDGET_EXCEEDED;
use rusqlite::functions::{Context, FunctionFlags};
use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, Result, params_from_iter};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Functions with modifiers, and the number of their first arguments that are not points in time.
const WITH_MODIFIERS: &[(&str, usize)] =
    &[("date", 0), ("time", 0), ("datetime", 0), ("julianday", 0), ("unixepoch", 0), ("strftime", 1)];
/// Keywords, and the function that computes each from `now`.
const KEYWORDS: &[(&str, &str)] =
    &[("current_timestamp", "datetime"), ("current_date", "date"), ("current_time", "time")];
/// Modifiers that use the time zone of the machine.
const ZONES: &[&str] = &["localtime", "utc"];
/// Words that are modifiers after a point in time, and mean `now` in place of one.
const SUBSECONDS: &[&str] = &["subsec", "subsecond"];
/// Modifiers whose effect depends on the point in time alone.
const PURE: &[&str] = &[
    "auto",
    "ceiling",
    "day",
    "days",
    "floor",
    "hour",
    "hours",
    "julianday",
    "minute",
    "minutes",
    "month",
    "months",
    "second",
    "seconds",
    "start of day",
    "start of month",
    "start of year",
    "subsec",
    "subsecond",
    "unixepoch",
    "weekday",
    "year",
    "years",
];
/// Steps for one call, and bytes of text that cost a further step.
const CALL_STEPS: u64 = 10;
const BYTES_PER_STEP: u64 = 2;

/// An argument as SQLite reads it, or a result.
#[derive(Clone, Debug, PartialEq)]
pub enum DateValue {
    Null,
    Integer(i64),
    Real(f64),
    /// Arbitrary bytes: SQLite does not check that they are UTF-8.
    Text(Vec<u8>),
}

impl DateValue {
    /// Converts a value to the form in which date and time functions see it.
    fn read(value: ValueRef<'_>) -> DateValue {
        match value {
            ValueRef::Null => DateValue::Null,
            ValueRef::Integer(number) => DateValue::Integer(number),
            ValueRef::Real(number) => DateValue::Real(number),
            ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
                let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
                DateValue::Text(bytes[..end].to_vec())
            }
        }
    }

    fn bytes(&self) -> &[u8] {
        if let DateValue::Text(bytes) = self { bytes } else { &[] }
    }

    fn is_one_of(&self, words: &[&str]) -> bool {
        words.iter().any(|word| self.bytes().eq_ignore_ascii_case(word.as_bytes()))
    }

    /// Whether SQLite certainly reads nothing but this argument.
    fn is_pure(&self) -> bool {
        let is_of_time = |byte: &u8| byte.is_ascii_digit() || b" +-.:TZ".contains(byte);
        let bytes = self.bytes();
        let Some(begin) = bytes.iter().position(|byte| !is_of_time(byte)) else { return true };
        let end = bytes.iter().rposition(|byte| !is_of_time(byte)).map_or(0, |last| last + 1);
        PURE.iter().any(|word| bytes[begin..end].eq_ignore_ascii_case(word.as_bytes()))
    }
}

impl ToSql for DateValue {
    fn to_sql(&self) -> Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            DateValue::Null => ValueRef::Null,
            DateValue::Integer(number) => ValueRef::Integer(*number),
            DateValue::Real(number) => ValueRef::Real(*number),
            DateValue::Text(bytes) => ValueRef::Text(bytes),
        }))
    }
}

/// Computes the functions.
pub struct Dates {
    /// The hooks with the time of `now`.
    pub hooks: Arc<HookState>,
    /// Auxiliary connection with SQLite's own functions, opened when it is first used.
    auxiliary: Mutex<Option<Connection>>,
}

pub fn register(conn: &Connection, hooks: &Arc<HookState>) -> Result<()> {
    let dates = Arc::new(Dates::new(hooks));
    let flags = FunctionFlags::SQLITE_UTF8;
    for (name, place) in WITH_MODIFIERS {
        let dates = Arc::clone(&dates);
        conn.create_scalar_function(*name, -1, flags, move |context| {
            let mut args = arguments(context);
            if args.len() < *place {
                return Ok(DateValue::Null);
            }
            dates.set_in_time(&mut args, *place)?;
            dates.compute(name, &args)
        })?;
    }
    let own = Arc::clone(&dates);
    conn.create_scalar_function("timediff", 2, flags, move |context| {
        let mut args = arguments(context);
        for point in args.iter_mut().filter(|point| point.is_one_of(&["now"]) || point.is_one_of(SUBSECONDS)) {
            *point = own.now()?;
        }
        own.compute("timediff", &args)
    })?;
    for (keyword, name) in KEYWORDS {
        let dates = Arc::clone(&dates);
        conn.create_scalar_function(*keyword, 0, flags, move |_| dates.compute(name, &[dates.now()?]))?;
    }
    Ok(())
}

fn arguments(context: &Context<'_>) -> Vec<DateValue> {
    (0..context.len()).map(|place| DateValue::read(context.get_raw(place))).collect()
}

impl Dates {
    /// Does not open the auxiliary connection yet.
    pub fn new(hooks: &Arc<HookState>) -> Dates {
        Dates { hooks: Arc::clone(hooks), auxiliary: Mutex::default() }
    }

    /// The time of `now` as text in a format that SQLite reads.
    fn now(&self) -> Result<DateValue> {
        let seconds = self.hooks.now_ms.load(Relaxed) as f64 / 1000.0;
        let args = [
            DateValue::Text(b"%Y-%m-%d %H:%M:%f".to_vec()),
            DateValue::Real(seconds),
            DateValue::Text(b"unixepoch".to_vec()),
        ];
        self.ask("SELECT strftime(?, ?, ?)", &args)
    }

    /// Whether a planted bug is active.
    #[cfg(any(test, feature = "planted-bugs"))]
    fn is_overlooking(&self) -> bool {
        self.hooks.overlooked_now_ms.load(Relaxed) != 0
    }

    /// Replaces `now`, explicit or implied, where a point in time is expected, and refuses modifiers that use the
    /// machine's time zone.
    fn set_in_time(&self, args: &mut Vec<DateValue>, place: usize) -> Result<()> {
        match args.get(place) {
            None => args.push(self.now()?),
            #[cfg(any(test, feature = "planted-bugs"))]
            Some(point) if point.is_one_of(&["now"]) && point.bytes() != b"now" && self.is_overlooking() => {
                args[place] =
                    DateValue::Real(self.hooks.overlooked_now_ms.load(Relaxed) as f64 / 86_400_000.0 + 2_440_587.5);
            }
            Some(point) if point.is_one_of(&["now"]) => args[place] = self.now()?,
            Some(point) if point.is_one_of(SUBSECONDS) => args.insert(place, self.now()?),
            Some(_) => {}
        }
        match args[place + 1..].iter().find(|modifier| modifier.is_one_of(ZONES)) {
            Some(modifier) => {
                let modifier = String::from_utf8_lossy(modifier.bytes());
                Err(refused(format!("modifier '{modifier}': not available, time zones differ between nodes")))
            }
            None => Ok(()),
        }
    }

    /// Calls SQLite's function of that name.
    pub fn compute(&self, name: &str, args: &[DateValue]) -> Result<DateValue> {
        let bytes: usize = args.iter().map(|arg| arg.bytes().len()).sum();
        if !self.hooks.charge(CALL_STEPS + bytes as u64 / BYTES_PER_STEP) {
            return Err(refused(BUDGET_EXCEEDED));
        }
        // A format is not a modifier: it can only show the point in time.
        let args_of_time = &args[usize::from(name == "strftime")..];
        let points = if name == "timediff" { 2 } else { 1 };
        let has_point = args_of_time.iter().take(points).all(|point| !point.is_one_of(SUBSECONDS));
        if has_point && args_of_time.iter().all(DateValue::is_pure) {
            return self.ask(&format!("SELECT {name}({})", vec!["?"; args.len()].join(",")), args);
        }
        self.compute_as_column(name, args).map_err(|error| match error.to_string().contains("non-deterministic") {
            true => refused(format!("{name}: this would read the clock or the time zone of one node")),
            false => error,
        })
    }

    /// Like `compute`, in a generated column, where SQLite refuses everything that does not depend on the arguments
    /// alone.
    fn compute_as_column(&self, name: &str, args: &[DateValue]) -> Result<DateValue> {
        let columns: Vec<String> = (0..args.len()).map(|place| format!("a{place}")).collect();
        let (table, columns) = (format!("{name}{}", args.len()), columns.join(","));
        {
            let mut auxiliary = self.auxiliary();
            let conn = opened(&mut auxiliary)?;
            let sql = format!("CREATE TABLE IF NOT EXISTS {table}({columns}, result AS ({name}({columns})))");
            conn.prepare_cached(&sql)?.execute([])?;
        }
        let marks = vec!["?"; args.len()].join(",");
        let sql = format!("INSERT OR REPLACE INTO {table}(rowid,{columns}) VALUES(1,{marks}) RETURNING result");
        self.ask(&sql, args)
    }

    fn ask(&self, sql: &str, args: &[DateValue]) -> Result<DateValue> {
        let mut auxiliary = self.auxiliary();
        opened(&mut auxiliary)?.prepare_cached(sql)?.query_row(params_from_iter(args), |row| match row.get_ref(0)? {
            // Unlike an argument, a result does not end at the first NUL.
            ValueRef::Text(bytes) => Ok(DateValue::Text(bytes.to_vec())),
            other => Ok(DateValue::read(other)),
        })
    }

    fn auxiliary(&self) -> MutexGuard<'_, Option<Connection>> {
        lock(&self.auxiliary)
    }
}

fn opened(slot: &mut Option<Connection>) -> Result<&Connection> {
    Ok(match slot {
        Some(conn) => conn,
        empty => empty.insert(Connection::open_in_memory()?),
    })
}
