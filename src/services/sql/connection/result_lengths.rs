//! Functions whose result can be many times as long as their longest argument, or whose work grows with the number of
//! arguments.
//!
//! SQLite checks the length of a result only when it is complete: by then `concat_ws` has used half a gigabyte, and
//! `json_pretty` eight. So the length of the result is first computed from the arguments, the call is charged for the
//! bytes that it reads, and only then SQLite's own function is called on the auxiliary connection. Calls with few
//! arguments, whose result is at most a few times as long as a value, use SQLite's own functions directly.
//!
//! Invariant: N1 no call creates more than about ten times the longest value before it is refused.
//! Not here: functions whose work grows with the product of two lengths, and JSON with many paths (`functions.rs`).

use super::function_calls::{self, AuxiliaryConnection, JSON, fits, len_of, text_of};
use super::hook_state::{HookState, Purpose};
use super::limits::ARGS_MAX;
use rusqlite::functions::{Context, FunctionFlags};
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, Result};
use std::sync::Arc;

/// How the length of a result depends on the arguments.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// The arguments are concatenated.
    Joined,
    /// The arguments after the first are concatenated, with the first between them.
    Separated,
    /// SQLite checks the length while it writes the result.
    Formatted,
    /// The result is JSON text.
    Json,
    /// The result is a JSON blob, which is text while it is built.
    Jsonb,
}

/// Functions with any number of arguments.
const MANY: &[(&str, Shape)] = &[
    ("concat", Shape::Joined),
    ("concat_ws", Shape::Separated),
    ("printf", Shape::Formatted),
    ("format", Shape::Formatted),
    ("char", Shape::Formatted),
    ("json_array", Shape::Json),
    ("json_object", Shape::Json),
    ("jsonb_array", Shape::Jsonb),
    ("jsonb_object", Shape::Jsonb),
];
/// Number of arguments from which on a call is checked. Below it, a read is ended between two steps, and a write is
/// charged by its steps.
pub const MANY_FROM_WRITE: i32 = 3;
pub const MANY_FROM_READ: i32 = 7;
/// Steps that a call costs, and steps for each byte of its arguments.
const CALL_STEPS: u64 = 1_000;
const STEPS_PER_BYTE: u64 = 3;
/// Default indentation of `json_pretty`, in bytes.
const INDENT_BYTES: usize = 4;

/// Registers all replacements.
pub fn register(
    conn: &Connection,
    hooks: &Arc<HookState>,
    purpose: Purpose,
    auxiliary: &AuxiliaryConnection,
) -> Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC | FunctionFlags::SQLITE_INNOCUOUS;
    let of_json = flags | FunctionFlags::SQLITE_SUBTYPE | FunctionFlags::SQLITE_RESULT_SUBTYPE;
    let from = if purpose == Purpose::Write { MANY_FROM_WRITE } else { MANY_FROM_READ };
    for (name, shape) in MANY {
        let is_json = matches!(shape, Shape::Json | Shape::Jsonb);
        for args in from..=ARGS_MAX {
            let (hooks, auxiliary) = (Arc::clone(hooks), auxiliary.clone());
            conn.create_scalar_function(*name, args, if is_json { of_json } else { flags }, move |context| {
                charge(&hooks, purpose, context, 0)?;
                fits(&hooks, least_bytes(context, &auxiliary, *shape)?)?;
                Ok((auxiliary.pass(name, context, is_json)?, (*shape == Shape::Json).then_some(JSON)))
            })?;
        }
    }
    for args in [1, 2] {
        let (hooks, auxiliary) = (Arc::clone(hooks), auxiliary.clone());
        conn.create_scalar_function("json_pretty", args, flags, move |context| {
            charge(&hooks, purpose, context, 0)?;
            fits(&hooks, pretty_bytes_of(context, &auxiliary)?)?;
            auxiliary.pass("json_pretty", context, false)
        })?;
    }
    Ok(())
}

/// Charges for a call: a fixed part, a part for each byte of its arguments, and `more` steps.
pub fn charge(hooks: &HookState, purpose: Purpose, context: &Context<'_>, more: u64) -> Result<()> {
    let bytes: u64 = (0..context.len()).map(|place| len_of(context.get_raw(place))).sum();
    let work = CALL_STEPS + bytes.saturating_mul(STEPS_PER_BYTE).saturating_add(more);
    function_calls::charge(hooks, purpose, work)
}

/// Lower bound of the length of the result, in bytes.
fn least_bytes(context: &Context<'_>, auxiliary: &AuxiliaryConnection, shape: Shape) -> Result<usize> {
    let places = 0..context.len();
    match shape {
        Shape::Formatted => Ok(0),
        Shape::Joined => Ok(places.map(|place| plain_bytes(context.get_raw(place))).sum()),
        Shape::Separated => {
            let present = places.skip(1).filter(|place| context.get_raw(*place) != ValueRef::Null);
            let (count, bytes) = present
                .fold((0_usize, 0), |(count, bytes), place| (count + 1, bytes + plain_bytes(context.get_raw(place))));
            let between = count.saturating_sub(1).saturating_mul(plain_bytes(context.get_raw(0)));
            Ok(if context.get_raw(0) == ValueRef::Null { 0 } else { bytes.saturating_add(between) })
        }
        Shape::Json | Shape::Jsonb => json_bytes_of_all(context, auxiliary, places),
    }
}

/// Lower bound of the length of these arguments as JSON, in bytes.
pub fn json_bytes_of_all(
    context: &Context<'_>,
    auxiliary: &AuxiliaryConnection,
    places: impl Iterator<Item = usize>,
) -> Result<usize> {
    let bytes = |place| json_bytes(context.get_raw(place), context.get_subtype(place), auxiliary);
    places.map(bytes).try_fold(0_usize, |sum, bytes| Ok(sum.saturating_add(bytes?)))
}

/// Length of a value as text, in bytes; at least 1 for a number.
fn plain_bytes(value: ValueRef<'_>) -> usize {
    match value {
        ValueRef::Null => 0,
        ValueRef::Integer(_) | ValueRef::Real(_) => 1,
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.len(),
    }
}

/// Length of a value as JSON, in bytes.
fn json_bytes(value: ValueRef<'_>, subtype: u32, auxiliary: &AuxiliaryConnection) -> Result<usize> {
    Ok(match value {
        ValueRef::Text(text) if subtype == JSON => text.len(),
        ValueRef::Text(text) => 2 + text.iter().map(|byte| escaped_bytes(*byte)).sum::<usize>(),
        ValueRef::Blob(blob) => {
            // The call itself refuses a blob that is not JSON.
            auxiliary.bytes("SELECT octet_length(json(?))", &[Value::Blob(blob.to_vec())])
        }
        other => plain_bytes(other),
    })
}

/// Length of a byte within a JSON string, in bytes.
fn escaped_bytes(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' | 0x08 | b'\t' | b'\n' | 0x0c | b'\r' => 2,
        0..0x20 => 6,
        _ => 1,
    }
}

/// Length of the result of `json_pretty`, in bytes.
fn pretty_bytes_of(context: &Context<'_>, auxiliary: &AuxiliaryConnection) -> Result<usize> {
    let indent = match context.len() {
        2 => text_of(auxiliary, context.get_raw(1))?.map_or(INDENT_BYTES, |indent| indent.len()),
        _ => INDENT_BYTES,
    };
    match context.get_raw(0) {
        ValueRef::Text(text) => Ok(pretty_bytes(text, indent)),
        ValueRef::Blob(blob) => match auxiliary.function("json", &[Value::Blob(blob.to_vec())]) {
            Ok(Value::Text(text)) => Ok(pretty_bytes(text.as_bytes(), indent)),
            _ => Ok(0),
        },
        _ => Ok(0),
    }
}

/// The same for a JSON text: each element of an array or object that is not empty is on a line of its own.
fn pretty_bytes(json: &[u8], indent: usize) -> usize {
    let (mut bytes, mut depth) = (0_usize, 0_usize);
    let mut rest = json.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).peekable();
    let line = |depth: usize| indent.saturating_mul(depth).saturating_add(1);
    while let Some(byte) = rest.next() {
        let more = match byte {
            quote @ (b'"' | b'\'') => string_bytes(&mut rest, quote),
            b'[' | b'{' if rest.next_if(|next| matches!(next, b']' | b'}')).is_some() => 2,
            b'[' | b'{' => {
                depth += 1;
                1_usize.saturating_add(line(depth))
            }
            b']' | b'}' => {
                depth = depth.saturating_sub(1);
                1_usize.saturating_add(line(depth))
            }
            b',' => 1_usize.saturating_add(line(depth)),
            _ => 1,
        };
        bytes = bytes.saturating_add(more);
    }
    bytes
}

/// Number of bytes up to the end of a string whose opening quote has been read.
fn string_bytes(rest: &mut impl Iterator<Item = u8>, quote: u8) -> usize {
    let mut bytes = 1;
    while let Some(byte) = rest.next() {
        bytes += 1;
        match byte {
            b'\\' => bytes += usize::from(rest.next().is_some()),
            byte if byte == quote => break,
            _ => {}
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use crate::services::sql::connection::result_lengths::*;

    #[test]
    fn the_length_of_indented_json_is_known_before() {
        let conn = Connection::open_in_memory().unwrap();
        for json in [
            "[]",
            "{}",
            "7",
            "[1,2,[3,[],{}],{\"a\":[1,\"x,[\\\"]\"],\"b\":null}]",
            " [ [ [ 1 , 2 ] ] , 'a b' ] ",
            "[[[[[[[[]]]]]]]]",
        ] {
            for indent in ["", "  ", "long one"] {
                let made: String =
                    conn.query_row("SELECT json_pretty(?, ?)", [json, indent], |row| row.get(0)).unwrap();
                let found = pretty_bytes(json.as_bytes(), indent.len());
                // Blanks in strings and after colons are not counted.
                assert!(found <= made.len() && found + 8 >= made.len(), "{json}: {found} {}", made.len());
            }
        }
        let deep = "[".repeat(990) + &"1,".repeat(2_000) + "1" + &"]".repeat(990);
        assert!(pretty_bytes(deep.as_bytes(), 4) > 7_000_000);
        assert_eq!(pretty_bytes(b"[1,2]", usize::MAX), usize::MAX);
    }

    #[test]
    fn the_length_of_json_strings_is_known_before() {
        let conn = Connection::open_in_memory().unwrap();
        let text: String = (1..=255_u8).map(char::from).collect();
        let made: i64 = conn.query_row("SELECT octet_length(json_quote(?))", [&text], |row| row.get(0)).unwrap();
        let found = json_bytes(ValueRef::Text(text.as_bytes()), 0, &AuxiliaryConnection::default()).unwrap();
        assert_eq!(found as i64, made);
    }
}
