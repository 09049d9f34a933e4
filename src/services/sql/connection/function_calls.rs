//! What the functions that replace SQLite's share: their arguments and results, the cost of a call, and access to
//! SQLite's own functions on an auxiliary connection.
//!
//! Not here: the functions (`functions.rs`, `result_lengths.rs`, `dates.rs`).

use super::hook_state::{HookState, Purpose};
use crate::lock::{Mutex, MutexGuard, lock};
use crate::services::sql::commands::{ROW_BYTES_MAX, STEPS_MAX};
use crate::services::sql::errors::BUDGET_EXCEEDED;
use rusqlite::functions::Context;
use rusqlite::limits::Limit;
use rusqlite::types::{ToSql, ToSqlOutput, Value, ValueRef};
use rusqlite::{Connection, Error, Result, ffi, params_from_iter};
use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Largest cost of one function call in a read, in steps: some seconds, during which the deadline is not checked.
const READ_CALL_STEPS_MAX: u64 = STEPS_MAX / 4;
/// The subtype with which SQLite marks JSON, so that it is not quoted again.
pub const JSON: u32 = b'J' as u32;

/// An auxiliary connection with SQLite's own functions, opened when it is first used.
#[derive(Clone)]
pub struct AuxiliaryConnection(Arc<Mutex<Option<Connection>>>);

impl Default for AuxiliaryConnection {
    fn default() -> AuxiliaryConnection {
        AuxiliaryConnection(Arc::new(Mutex::default()))
    }
}

impl AuxiliaryConnection {
    /// Runs a query and returns the value of its only row and column.
    pub fn call(&self, sql: &str, args: &[Value]) -> Result<Value> {
        let slot = self.open()?;
        open_of(&slot).prepare_cached(sql)?.query_row(params_from_iter(args), |row| row.get(0))
    }

    /// Length in bytes of a query's result; 0 if the query fails, because the function call itself will then fail as
    /// well.
    pub fn bytes(&self, sql: &str, args: &[Value]) -> usize {
        match self.call(sql, args) {
            Ok(Value::Integer(bytes)) => bytes.unsigned_abs() as usize,
            _ => 0,
        }
    }

    fn open(&self) -> Result<MutexGuard<'_, Option<Connection>>> {
        let mut slot = lock(&self.0);
        if slot.is_none() {
            let conn = Connection::open_in_memory()?;
            // A longer value could not be used, and would only take memory.
            conn.set_limit(Limit::SQLITE_LIMIT_LENGTH, ROW_BYTES_MAX as i32)?;
            *slot = Some(conn);
        }
        Ok(slot)
    }

    /// Calls SQLite's function of that name.
    pub fn function(&self, name: &str, args: &[Value]) -> Result<Value> {
        let marks = vec!["?"; args.len()].join(",");
        self.call(&format!("SELECT {name}({marks})"), args)
    }

    /// Calls SQLite's function of that name with the unchanged arguments of a call. `quotes`: text becomes a JSON
    /// string, unless it is JSON already.
    pub fn pass(&self, name: &str, context: &Context<'_>, quotes: bool) -> Result<FunctionResult> {
        let mark = |place| if quotes && context.get_subtype(place) == JSON { "json(?)" } else { "?" };
        let marks: Vec<&str> = (0..context.len()).map(mark).collect();
        let slot = self.open()?;
        let mut prepared = open_of(&slot).prepare_cached(&format!("SELECT {name}({})", marks.join(",")))?;
        for place in 0..context.len() {
            prepared.raw_bind_parameter(place + 1, ToSqlOutput::Borrowed(context.get_raw(place)))?;
        }
        let mut rows = prepared.raw_query();
        let row = rows.next()?.ok_or(Error::QueryReturnedNoRows)?;
        Ok(match row.get_ref(0)? {
            ValueRef::Text(text) => FunctionResult::Text(text.to_vec()),
            other => FunctionResult::Other(Value::try_from(other)?),
        })
    }
}

/// The result of a function: text of arbitrary bytes, or another value.
pub enum FunctionResult {
    Text(Vec<u8>),
    Other(Value),
}

impl ToSql for FunctionResult {
    fn to_sql(&self) -> Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            FunctionResult::Text(text) => ValueRef::Text(text),
            FunctionResult::Other(value) => value.into(),
        }))
    }
}

fn open_of(slot: &Option<Connection>) -> &Connection {
    slot.as_ref().expect("it was opened")
}

/// An error of a function.
pub fn refused(why: impl Into<String>) -> Error {
    Error::UserFunctionError(why.into().into())
}

/// Fails as SQLite does if a value may not have so many bytes.
pub fn fits(hooks: &HookState, bytes: usize) -> Result<()> {
    match bytes as u64 > hooks.longest.load(Relaxed) {
        true => Err(Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_TOOBIG), None)),
        false => Ok(()),
    }
}

/// The arguments of a call, as values.
pub fn args_of(context: &Context<'_>) -> Vec<Value> {
    let arg = |place| match context.get_raw(place) {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => Value::Integer(number),
        ValueRef::Real(number) => Value::Real(number),
        ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(blob) => Value::Blob(blob.to_vec()),
    };
    (0..context.len()).map(arg).collect()
}

/// Approximate length of a value in bytes.
pub fn len_of(value: ValueRef<'_>) -> u64 {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.len() as u64,
        _ => 20,
    }
}

/// The value as SQLite converts it to text.
pub fn text_of<'a>(auxiliary: &AuxiliaryConnection, value: ValueRef<'a>) -> Result<Option<Cow<'a, [u8]>>> {
    Ok(match value {
        ValueRef::Null => None,
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(Cow::Borrowed(bytes)),
        number => match auxiliary.call("SELECT CAST(? AS TEXT)", &[Value::try_from(number)?])? {
            Value::Text(text) => Some(Cow::Owned(text.into_bytes())),
            _ => None,
        },
    })
}

/// Charges for one call, in steps; in a read, a single call has a limit as well.
pub fn charge(hooks: &HookState, purpose: Purpose, work: u64) -> Result<()> {
    match (purpose == Purpose::Read && work > READ_CALL_STEPS_MAX) || !hooks.charge(work) {
        true => Err(refused(BUDGET_EXCEEDED)),
        false => Ok(()),
    }
}
