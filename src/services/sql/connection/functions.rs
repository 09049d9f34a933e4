//! Functions of SQLite that would not give the same everywhere, or would take for ever: replaced by ones that do and do not.
//!
//! - `random` and `randomblob` draw from the command's seed.
//! - `date`, `time` and their like, and `CURRENT_TIMESTAMP` and its like, take `now` from the log (`dates.rs`).
//! - `like`, `glob`, `trim` and their like do in one step of the virtual machine work that grows with the product of two lengths,
//!   and so do `json_patch` and `json_extract` and its like with many paths. They are charged for it before they begin, and then
//!   done by SQLite's own on the connection beside. `instr` and `replace` are ours: they look at each byte once, and make
//!   nothing that is too long.
//! - `json_group_array` and `json_group_object` would grow without bound until their result is asked for: they end where a value
//!   would. `changes()` tells of the statement before in the same command. `count(*)`, which SQLite answers in one step however
//!   long the table is, counts row by row where the log is applied.
//!
//! Not here: functions that are refused altogether (`authorizer.rs`).

use super::function_calls::{Beside, JSON, Made, args_of, charge, fits, len_of, refused, text_of};
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

/// Bytes of a blob that a function makes from nothing.
const MADE_BYTES_MAX: i64 = crate::services::sql::commands::VALUE_BYTES_MAX as i64;
/// Functions whose work grows with the product of the lengths of two arguments: how many arguments, which two, and bytes
/// times bytes that are as much work as one step.
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
/// Bytes of arguments that are handed over to the connection beside, as much work as one step.
const BYTES_COPIED_PER_STEP: u64 = 2;
/// Bytes that `replace` looks at or makes, as much work as one step, and what it costs to put in one piece.
const REPLACED_BYTES_PER_STEP: usize = 4;
const STEPS_PER_REPLACED: usize = 8;
/// Functions that walk through all of a JSON text for each path: from how many arguments on they have more than one, and how
/// many more make another. Whether what comes out is JSON as text.
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
/// Steps to read a byte of JSON on each path: 2 ns, with three nodes on two processors 4.
const JSON_STEPS_PER_BYTE: u64 = 3;
/// Puts all of them in place.
pub fn register(conn: &Connection, hooks: &Arc<HookState>, purpose: Purpose, beside: &Beside) -> Result<()> {
    chance(conn, hooks)?;
    products(conn, hooks, purpose, beside)?;
    searches(conn, hooks, beside)?;
    paths(conn, hooks, purpose, beside)?;
    if purpose == Purpose::Write {
        // SQLite's own tells of the EXPLAIN of a statement as well, which only a node runs that has not met the statement before.
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
        let group = JsonGroup { hooks: Arc::clone(hooks), beside: beside.clone(), ends };
        conn.create_window_function(name, args, flags, group)?;
    }
    Ok(())
}

/// `count(*)`, row by row.
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

/// The rows of a group as one JSON text.
struct JsonGroup {
    hooks: Arc<HookState>,
    beside: Beside,
    ends: [char; 2],
}

/// What is gathered so far: each with a comma behind it.
#[derive(Default)]
struct Gathered {
    text: String,
    lengths: VecDeque<usize>,
    /// Bytes at the beginning that have left the window.
    gone: usize,
}

impl JsonGroup {
    fn json(&self, arg: Value, subtype: u32) -> Result<String> {
        let arg = match (subtype, arg) {
            (JSON, Value::Text(text)) => return Ok(text),
            (_, other) => other,
        };
        match self.beside.function("json_quote", &[arg])? {
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
                // As SQLite has it: no entry.
                gathered.lengths.push_back(0);
                return Ok(());
            }
            match self.beside.call("SELECT json_quote(CAST(? AS TEXT))", &[key])? {
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

fn chance(conn: &Connection, hooks: &Arc<HookState>) -> Result<()> {
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

fn products(conn: &Connection, hooks: &Arc<HookState>, purpose: Purpose, beside: &Beside) -> Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC | FunctionFlags::SQLITE_INNOCUOUS;
    for (name, args, long, short, per_step) in PRODUCTS {
        let flags = if *name == "json_patch" { flags | FunctionFlags::SQLITE_RESULT_SUBTYPE } else { flags };
        // With SQLite's own, readers keep the use of indexes for patterns; their deadline comes after one pattern at most.
        if purpose == Purpose::Read && matches!(*name, "like" | "glob") {
            continue;
        }
        let (hooks, beside) = (Arc::clone(hooks), beside.clone());
        conn.create_scalar_function(*name, *args, flags, move |context| {
            let (long, short) = (len_of(context.get_raw(*long)), len_of(context.get_raw(*short)));
            let work = long.saturating_mul(short) / per_step + (long + short) / BYTES_COPIED_PER_STEP;
            charge(&hooks, purpose, work)?;
            let subtype = (*name == "json_patch").then_some(JSON);
            Ok((beside.function(name, &args_of(context))?, subtype))
        })?;
    }
    Ok(())
}

/// `json_extract` and its like with more than one path.
fn paths(conn: &Connection, hooks: &Arc<HookState>, purpose: Purpose, beside: &Beside) -> Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8
        | FunctionFlags::SQLITE_DETERMINISTIC
        | FunctionFlags::SQLITE_INNOCUOUS
        | FunctionFlags::SQLITE_SUBTYPE
        | FunctionFlags::SQLITE_RESULT_SUBTYPE;
    for (name, from, step, is_text) in PATHS {
        // Readers keep SQLite's own where the result is a few times as long as a value at most.
        let is_looked_at = |args: &i32| purpose == Purpose::Write || *args >= result_lengths::MANY_FROM_READ;
        for args in (*from..=ARGS_MAX).step_by(*step).filter(is_looked_at) {
            let (hooks, beside) = (Arc::clone(hooks), beside.clone());
            conn.create_scalar_function(*name, args, flags, move |context| {
                let count = (context.len() - 1) / step;
                let each = len_of(context.get_raw(0)).saturating_mul(JSON_STEPS_PER_BYTE);
                result_lengths::charge(&hooks, purpose, context, each.saturating_mul(count as u64))?;
                fits(&hooks, path_bytes(context, &beside, *step, name.ends_with("extract"))?)?;
                Ok((beside.pass(name, context, true)?, is_text.then_some(JSON)))
            })?;
        }
    }
    Ok(())
}

/// Bytes that come of it, about: all values that are put in, or all that are taken out.
fn path_bytes(context: &Context<'_>, beside: &Beside, step: usize, extracts: bool) -> Result<usize> {
    let document = len_of(context.get_raw(0)) as usize;
    if step == 2 {
        let values = (2..context.len()).step_by(2);
        return result_lengths::json_bytes_of_all(context, beside, values);
    }
    if !extracts || document.saturating_mul(context.len() - 1) <= ROW_BYTES_MAX {
        return Ok(0);
    }
    // One after another, which takes the memory of one at a time. What is wrong with a path is said by the call itself.
    let each = (2..=context.len()).map(|place| format!("coalesce(octet_length(?1 -> ?{place}), 0)"));
    Ok(beside.bytes(&format!("SELECT {}", each.collect::<Vec<_>>().join("+")), &args_of(context)))
}

/// Whether a byte is within a letter, and not its first.
fn is_within(byte: u8) -> bool {
    byte & 0xc0 == 0x80
}

/// The byte at which a needle stands. In text SQLite looks at the beginning and then at the first bytes of letters.
fn position(hay: &[u8], needle: &[u8], is_text: bool) -> Option<usize> {
    match needle.first() {
        Some(first) if is_text && is_within(*first) => hay.starts_with(needle).then_some(0),
        _ => memmem::find(hay, needle),
    }
}

/// `instr` and `replace`.
fn searches(conn: &Connection, hooks: &Arc<HookState>, beside: &Beside) -> Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC | FunctionFlags::SQLITE_INNOCUOUS;
    let own = beside.clone();
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
    let (hooks, beside) = (Arc::clone(hooks), beside.clone());
    conn.create_scalar_function("replace", 3, flags, move |context| {
        let text = |place| text_of(&beside, context.get_raw(place));
        let (Some(from), Some(what)) = (text(0)?, text(1)?) else { return Ok(None) };
        // As SQLite has it: a pattern that is empty, or begins with NUL, is found nowhere.
        if what.first().is_none_or(|byte| *byte == 0) {
            return Ok(Some(Made::Text(from.into_owned())));
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
        let mut made = Vec::with_capacity(bytes);
        let mut at = 0;
        for found in finder.find_iter(&from) {
            made.extend_from_slice(&from[at..found]);
            made.extend_from_slice(&with);
            at = found + what.len();
        }
        made.extend_from_slice(&from[at..]);
        Ok(Some(Made::Text(made)))
    })
}
