//! Replacements for SQLite functions whose results would differ between nodes, or whose work in one step has no limit.
//!
//! - `random` and `randomblob` use the command's seed.
//! - `date`, `time` and similar functions, and `CURRENT_TIMESTAMP` and similar keywords, use the entry's time as `now`
//!   (`dates.rs`).
//! - `like`, `glob`, `trim` and similar functions do work in one step of the virtual machine that grows with the
//!   product of two lengths; so do `json_patch`, and `json_extract` and similar functions with many paths. They are
//!   charged for it beforehand, and then call SQLite's own function on the auxiliary connection. `instr` and `replace`
//!   are implemented here: they visit each byte once, and create no result that is too long.
//! - `json_group_array` and `json_group_object` of SQLite grow without bound until their result is read: here they end
//!   at the length limit of values. `changes()` returns the rows changed by the previous statement of the same command.
//!   `count(*)`, which SQLite computes in one step however large the table is, counts row by row where the log is
//!   applied.
//!
//! Not here: functions that are refused (`authorizer.rs`).

use super::function_calls::{
    AuxiliaryConnection, FunctionResult, JSON, args_of, charge, fits, len_of, refused, text_of,
};
use super::hook_state::{HookState, Purpose};
use super::limits::ARGS_MAX;
use super::result_lengths;
use crate::services::sql::commands::ROW_BYTES_MAX;
use crate::services::sql::errors::BUDGET_EXCEEDED;
use memchr::memmem;
use rusqlite::functions::{Aggregate, Context, FunctionFlags, SubType, WindowAggregate};
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, Result};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Largest blob that `randomblob` creates, in bytes.
const MADE_BYTES_MAX: i64 = crate::services::sql::commands::VALUE_BYTES_MAX as i64;
/// Functions whose work grows with the product of the lengths of two arguments: name, number of arguments, the
/// positions of the two arguments, and the product of their lengths in bytes that costs one step.
const PRODUCTS: &[(&str, i32, usize, usize, u64)] = &[
    ("like", 2, 0, 1, 6),
    ("like", 3, 0, 1, 6),
    ("glob", 2, 0, 1, 6),
    ("trim", 2, 0, 1, 6),
    ("ltrim", 2, 0, 1, 6),
    ("rtrim", 2, 0, 1, 6),
    ("unhex", 2, 0, 1, 6),
    ("json_patch", 2, 0, 1, 6),
];
/// Bytes of arguments copied to the auxiliary connection that cost one step.
const BYTES_COPIED_PER_STEP: u64 = 2;
/// Bytes read or written by `replace` that cost one step, and the cost of one replacement in steps.
const REPLACED_BYTES_PER_STEP: usize = 4;
const STEPS_PER_REPLACED: usize = 8;
/// Functions that walk through a whole JSON text for each path: name, smallest number of arguments with more than one
/// path, number of arguments for each further path, and whether the result is JSON text.
const PATHS: &[(&str, i32, usize, bool)] = &[
    ("json_extract", 3, 1, true),
    ("jsonb_extract", 3, 1, false),
    ("json_remove", 3, 1, true),
    ("jsonb_remove", 3, 1, false),
    ("json_set", 5, 2, true),
    ("jsonb_set", 5, 2, false),
    ("json_insert", 5, 2, true),
    ("jsonb_insert", 5, 2, false),
    ("json_replace", 5, 2, true),
    ("jsonb_replace", 5, 2, false),
    ("json_array_insert", 5, 2, true),
    ("jsonb_array_insert", 5, 2, false),
];
/// Steps for each byte of JSON on each path: it takes 2 ns, and 4 ns with three nodes on two processors.
const JSON_STEPS_PER_BYTE: u64 = 3;
/// Registers all replacements.
pub fn register(
    conn: &Connection,
    hooks: &Arc<HookState>,
    purpose: Purpose,
    auxiliary: &AuxiliaryConnection,
) -> Result<()> {
    random_functions(conn, hooks)?;
    product_functions(conn, hooks, purpose, auxiliary)?;
    search_functions(conn, hooks, auxiliary)?;
    path_functions(conn, hooks, purpose, auxiliary)?;
    if purpose == Purpose::Write {
        // SQLite's own function also counts the EXPLAIN of a statement, which a node runs only for statements that it
        // has not met before.
        let own = Arc::clone(hooks);
        conn.create_scalar_function(
            "changes",
            0,
            FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_INNOCUOUS,
            move |_| Ok(own.changes.load(Relaxed) as i64),
        )?;
        conn.create_window_function("count", 0, FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_INNOCUOUS, Count)?;
    }
    let flags = FunctionFlags::SQLITE_UTF8
        | FunctionFlags::SQLITE_INNOCUOUS
        | FunctionFlags::SQLITE_SUBTYPE
        | FunctionFlags::SQLITE_RESULT_SUBTYPE;
    for (name, args, ends) in [("json_group_array", 1, ['[', ']']), ("json_group_object", 2, ['{', '}'])] {
        let group = JsonGroup { hooks: Arc::clone(hooks), auxiliary: auxiliary.clone(), ends };
        conn.create_window_function(name, args, flags, group)?;
    }
    Ok(())
}

/// `count(*)` without SQLite's optimization: it counts row by row.
struct Count;

impl Aggregate<i64, i64> for Count {
    fn init(&self, _: &mut Context<'_>) -> Result<i64> {
        Ok(0)
    }

    fn step(&self, _: &mut Context<'_>, count: &mut i64) -> Result<()> {
        *count += 1;
        Ok(())
    }

    fn finalize(&self, _: &mut Context<'_>, count: Option<i64>) -> Result<i64> {
        Ok(count.unwrap_or(0))
    }
}

impl WindowAggregate<i64, i64> for Count {
    fn value(&self, count: Option<&mut i64>) -> Result<i64> {
        Ok(count.map_or(0, |count| *count))
    }

    fn inverse(&self, _: &mut Context<'_>, count: &mut i64) -> Result<()> {
        *count -= 1;
        Ok(())
    }
}

/// Aggregates the rows of a group into one JSON text.
struct JsonGroup {
    hooks: Arc<HookState>,
    auxiliary: AuxiliaryConnection,
    ends: [char; 2],
}

/// The elements so far, each followed by a comma.
#[derive(Default)]
struct Gathered {
    text: String,
    lengths: VecDeque<usize>,
    /// Bytes at the beginning that belong to rows outside of the window.
    gone: usize,
}

impl JsonGroup {
    fn json(&self, arg: Value, subtype: u32) -> Result<String> {
        let arg = match (subtype, arg) {
            (JSON, Value::Text(text)) => return Ok(text),
            (_, other) => other,
        };
        match self.auxiliary.function("json_quote", &[arg])? {
            Value::Text(text) => Ok(text),
            Value::Integer(number) => Ok(number.to_string()),
            _ => Err(refused("JSON cannot hold this value")),
        }
    }

    fn whole(&self, gathered: Option<&Gathered>) -> (String, SubType) {
        let inner = gathered.map_or("", |it| it.text[it.gone..].strip_suffix(',').unwrap_or_default());
        (format!("{}{inner}{}", self.ends[0], self.ends[1]), Some(JSON))
    }
}

impl Aggregate<Gathered, (String, SubType)> for JsonGroup {
    fn init(&self, _: &mut Context<'_>) -> Result<Gathered> {
        Ok(Gathered::default())
    }

    fn step(&self, context: &mut Context<'_>, gathered: &mut Gathered) -> Result<()> {
        let before = gathered.text.len();
        let mut args = args_of(context);
        let subtype = context.get_subtype(args.len() - 1);
        let value = args.pop().unwrap_or(Value::Null);
        if let Some(key) = args.pop() {
            if key == Value::Null {
                // As in SQLite: no entry.
                gathered.lengths.push_back(0);
                return Ok(());
            }
            match self.auxiliary.call("SELECT json_quote(CAST(? AS TEXT))", &[key])? {
                Value::Text(key) => gathered.text += &(key + ":"),
                _ => return Err(refused("JSON cannot hold this name")),
            }
        }
        gathered.text += &self.json(value, subtype)?;
        gathered.text.push(',');
        gathered.lengths.push_back(gathered.text.len() - before);
        fits(&self.hooks, gathered.text.len() - gathered.gone)
    }

    fn finalize(&self, _: &mut Context<'_>, gathered: Option<Gathered>) -> Result<(String, SubType)> {
        Ok(self.whole(gathered.as_ref()))
    }
}

impl WindowAggregate<Gathered, (String, SubType)> for JsonGroup {
    fn value(&self, gathered: Option<&mut Gathered>) -> Result<(String, SubType)> {
        Ok(self.whole(gathered.as_deref()))
    }

    fn inverse(&self, _: &mut Context<'_>, gathered: &mut Gathered) -> Result<()> {
        gathered.gone += gathered.lengths.pop_front().unwrap_or(0);
        if gathered.gone > gathered.text.len() / 2 {
            gathered.text.drain(..std::mem::take(&mut gathered.gone));
        }
        Ok(())
    }
}

fn random_functions(conn: &Connection, hooks: &Arc<HookState>) -> Result<()> {
    let source = Arc::clone(hooks);
    conn.create_scalar_function("random", 0, FunctionFlags::SQLITE_UTF8, move |_| Ok(source.draw().cast_signed()))?;
    let source = Arc::clone(hooks);
    conn.create_scalar_function("randomblob", 1, FunctionFlags::SQLITE_UTF8, move |context| {
        let wanted = match context.get_raw(0) {
            ValueRef::Integer(wanted) => wanted,
            ValueRef::Real(wanted) => wanted as i64,
            ValueRef::Text(text) => {
                std::str::from_utf8(text).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
            }
            ValueRef::Null | ValueRef::Blob(_) => 0,
        }
        .max(1);
        if wanted > MADE_BYTES_MAX {
            return Err(refused("string or blob too big"));
        }
        if !source.charge(wanted.unsigned_abs() * 4) {
            return Err(refused(BUDGET_EXCEEDED));
        }
        let mut blob = Vec::with_capacity(wanted.unsigned_abs() as usize + 8);
        while (blob.len() as u64) < wanted.unsigned_abs() {
            blob.extend_from_slice(&source.draw().to_le_bytes());
        }
        blob.truncate(wanted.unsigned_abs() as usize);
        Ok(blob)
    })
}

fn product_functions(
    conn: &Connection,
    hooks: &Arc<HookState>,
    purpose: Purpose,
    auxiliary: &AuxiliaryConnection,
) -> Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC | FunctionFlags::SQLITE_INNOCUOUS;
    for (name, args, long, short, per_step) in PRODUCTS {
        let flags = if *name == "json_patch" { flags | FunctionFlags::SQLITE_RESULT_SUBTYPE } else { flags };
        // Readers use SQLite's own functions, so that indexes can be used for patterns; the deadline is checked after
        // each call.
        if purpose == Purpose::Read && matches!(*name, "like" | "glob") {
            continue;
        }
        let (hooks, auxiliary) = (Arc::clone(hooks), auxiliary.clone());
        conn.create_scalar_function(*name, *args, flags, move |context| {
            let (long, short) = (len_of(context.get_raw(*long)), len_of(context.get_raw(*short)));
            let work = long.saturating_mul(short) / per_step + (long + short) / BYTES_COPIED_PER_STEP;
            charge(&hooks, purpose, work)?;
            let subtype = (*name == "json_patch").then_some(JSON);
            Ok((auxiliary.function(name, &args_of(context))?, subtype))
        })?;
    }
    Ok(())
}

/// `json_extract` and similar functions with more than one path.
fn path_functions(
    conn: &Connection,
    hooks: &Arc<HookState>,
    purpose: Purpose,
    auxiliary: &AuxiliaryConnection,
) -> Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8
        | FunctionFlags::SQLITE_DETERMINISTIC
        | FunctionFlags::SQLITE_INNOCUOUS
        | FunctionFlags::SQLITE_SUBTYPE
        | FunctionFlags::SQLITE_RESULT_SUBTYPE;
    for (name, from, step, is_text) in PATHS {
        // Readers use SQLite's own functions while the result can be only a few times as long as a value.
        let is_looked_at = |args: &i32| purpose == Purpose::Write || *args >= result_lengths::MANY_FROM_READ;
        for args in (*from..=ARGS_MAX).step_by(*step).filter(is_looked_at) {
            let (hooks, auxiliary) = (Arc::clone(hooks), auxiliary.clone());
            conn.create_scalar_function(*name, args, flags, move |context| {
                let count = (context.len() - 1) / step;
                let each = len_of(context.get_raw(0)).saturating_mul(JSON_STEPS_PER_BYTE);
                result_lengths::charge(&hooks, purpose, context, each.saturating_mul(count as u64))?;
                fits(&hooks, path_bytes(context, &auxiliary, *step, name.ends_with("extract"))?)?;
                Ok((auxiliary.pass(name, context, true)?, is_text.then_some(JSON)))
            })?;
        }
    }
    Ok(())
}

/// Approximate length of the result in bytes: of all values that are inserted, or of all that are extracted.
fn path_bytes(context: &Context<'_>, auxiliary: &AuxiliaryConnection, step: usize, extracts: bool) -> Result<usize> {
    let document = len_of(context.get_raw(0)) as usize;
    if step == 2 {
        let values = (2..context.len()).step_by(2);
        return result_lengths::json_bytes_of_all(context, auxiliary, values);
    }
    if !extracts || document.saturating_mul(context.len() - 1) <= ROW_BYTES_MAX {
        return Ok(0);
    }
    // The lengths are computed one after another, which takes the memory of one value at a time. The call itself
    // reports an invalid path.
    let each = (2..=context.len()).map(|place| format!("coalesce(octet_length(?1 -> ?{place}), 0)"));
    Ok(auxiliary.bytes(&format!("SELECT {}", each.collect::<Vec<_>>().join("+")), &args_of(context)))
}

/// Whether a byte is a continuation byte of UTF-8.
fn is_within(byte: u8) -> bool {
    byte & 0xc0 == 0x80
}

/// Offset of a needle in bytes. In text SQLite searches only at the beginning and at first bytes of characters.
fn position(hay: &[u8], needle: &[u8], is_text: bool) -> Option<usize> {
    match needle.first() {
        Some(first) if is_text && is_within(*first) => hay.starts_with(needle).then_some(0),
        _ => memmem::find(hay, needle),
    }
}

/// `instr` and `replace`.
fn search_functions(conn: &Connection, hooks: &Arc<HookState>, auxiliary: &AuxiliaryConnection) -> Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC | FunctionFlags::SQLITE_INNOCUOUS;
    let own = auxiliary.clone();
    conn.create_scalar_function("instr", 2, flags, move |context| {
        let (hay, needle) = (context.get_raw(0), context.get_raw(1));
        let is_text = !matches!((hay, needle), (ValueRef::Blob(_), ValueRef::Blob(_)));
        let (Some(hay), Some(needle)) = (text_of(&own, hay)?, text_of(&own, needle)?) else { return Ok(None) };
        let place = position(&hay, &needle, is_text).map_or(0, |at| match is_text {
            true => 1 + hay.iter().take(at + 1).skip(1).filter(|byte| !is_within(**byte)).count(),
            false => 1 + at,
        });
        Ok(Some(place as i64))
    })?;
    let (hooks, auxiliary) = (Arc::clone(hooks), auxiliary.clone());
    conn.create_scalar_function("replace", 3, flags, move |context| {
        let text = |place| text_of(&auxiliary, context.get_raw(place));
        let (Some(from), Some(what)) = (text(0)?, text(1)?) else { return Ok(None) };
        // As in SQLite: a pattern that is empty or begins with NUL is never found.
        if what.first().is_none_or(|byte| *byte == 0) {
            return Ok(Some(FunctionResult::Text(from.into_owned())));
        }
        let Some(with) = text(2)? else { return Ok(None) };
        let finder = memmem::Finder::new(&what[..]);
        let count = finder.find_iter(&from).count();
        let bytes = from.len() - count * what.len() + count.saturating_mul(with.len());
        let work = ((from.len() + bytes) / REPLACED_BYTES_PER_STEP + count * STEPS_PER_REPLACED) as u64;
        fits(&hooks, bytes)?;
        if !hooks.charge(work) {
            return Err(refused(BUDGET_EXCEEDED));
        }
        let mut replaced = Vec::with_capacity(bytes);
        let mut at = 0;
        for found in finder.find_iter(&from) {
            replaced.extend_from_slice(&from[at..found]);
            replaced.extend_from_slice(&with);
            at = found + what.len();
        }
        replaced.extend_from_slice(&from[at..]);
        Ok(Some(FunctionResult::Text(replaced)))
    })
}
