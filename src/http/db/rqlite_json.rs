//! Statements and results in the JSON of rqlite, as its clients send and read them.
//!
//! A body is a JSON array of statements; each is a string, or an array of the string and its parameters. Types of
//! SQLite that JSON lacks are written as rqlite writes them: blobs in base64 (or as arrays of bytes), columns declared
//! `boolean` as true and false, columns declared `date`, `datetime` or `timestamp` in RFC 3339, if their values are
//! such times.
//! Not here: the paths (`statements.rs`). Source: rqlite.io/docs/api, `http/` and `db/` of rqlite 8.

use crate::services::sql::Outcome;
use crate::services::sql::commands::{Bytes, Params, Statement, Value};
use crate::text::without_byte_order_mark;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::fmt::strtime;
use jiff::tz::Offset;
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};
use serde_json::Value as Json;
use std::time::Duration;

/// Reads the body of a request. The error: a sentence.
pub(crate) fn statements(body: &[u8]) -> Result<Vec<Statement>, String> {
    let body = without_byte_order_mark(body).map_err(|why| format!("body: {why}"))?;
    let Json::Array(items) = serde_json::from_slice(body).map_err(|error| format!("body: {error}"))? else {
        return Err("body: expected a JSON array of statements".to_string());
    };
    if items.is_empty() {
        return Err("body: no statements".to_string());
    }
    let numbered = items.into_iter().enumerate();
    numbered.map(|(at, item)| statement(item).map_err(|why| format!("statement {}: {why}", at + 1))).collect()
}

fn statement(item: Json) -> Result<Statement, String> {
    let mut parts = match item {
        Json::String(sql) => return Ok(Statement::bare(sql)),
        Json::Array(parts) => parts.into_iter(),
        _ => return Err("expected a string, or an array of a string and its parameters".to_string()),
    };
    let Some(Json::String(sql)) = parts.next() else {
        return Err("the first element of an array must be its SQL, a string".to_string());
    };
    let mut given: Vec<Json> = parts.collect();
    let params = match given.as_mut_slice() {
        [] => Params::None,
        [Json::Object(named)] => {
            let named = std::mem::take(named).into_iter();
            let named = named.map(|(name, it)| value(it).map(|it| (name, it)));
            Params::Named(named.collect::<Result<_, _>>()?)
        }
        _ => Params::Positional(given.into_iter().map(value).collect::<Result<_, _>>()?),
    };
    Ok(Statement { sql, params })
}

fn value(json: Json) -> Result<Value, String> {
    Ok(match json {
        Json::Null => Value::Null,
        Json::Bool(is_so) => Value::Integer(is_so.into()),
        Json::String(text) => Value::Text(text),
        Json::Number(number) => match (number.as_i64(), number.is_u64(), number.as_f64()) {
            (Some(integer), _, _) => Value::Integer(integer),
            (None, false, Some(real)) => Value::Real(real),
            _ => return Err(format!("{number} does not fit into a signed 64-bit integer")),
        },
        Json::Array(items) => {
            let byte = |item: &Json| item.as_u64().and_then(|number| u8::try_from(number).ok());
            let bytes = items.iter().map(byte).collect::<Option<Vec<u8>>>();
            Value::Blob(Bytes::from(
                bytes.ok_or("an array parameter is a blob and must contain numbers from 0 to 255")?,
            ))
        }
        Json::Object(_) => return Err("named parameters must be one object after the SQL".to_string()),
    })
}

/// How results are to be written.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Style {
    /// Each row is an object.
    pub is_associative: bool,
    /// Blobs as arrays of bytes instead of base64.
    pub has_blob_arrays: bool,
    /// Four blanks for each level.
    pub is_pretty: bool,
}

/// An answer: `{"results": [...], ...}`.
pub(crate) struct Results<'a> {
    pub outcomes: &'a [Outcome],
    pub style: Style,
    /// Time of each statement, if requested and known.
    pub times: &'a [Duration],
    /// Time of the whole request, if requested.
    pub time: Option<Duration>,
    /// Log index with its name in the answer, if requested.
    pub index: Option<(&'static str, u64)>,
}

impl Results<'_> {
    /// The body, with a line feed at its end.
    pub(crate) fn write(&self) -> Vec<u8> {
        write_json(self, self.style.is_pretty)
    }
}

/// A body with a line feed at its end; `is_pretty`: indented by four blanks for each level, as rqlite does.
pub(crate) fn write_json(value: &impl Serialize, is_pretty: bool) -> Vec<u8> {
    let mut body = Vec::with_capacity(256);
    let written = if is_pretty {
        let form = serde_json::ser::PrettyFormatter::with_indent(b"    ");
        value.serialize(&mut serde_json::Serializer::with_formatter(&mut body, form))
    } else {
        serde_json::to_writer(&mut body, value)
    };
    written.expect("our own types serialize");
    body.push(b'\n');
    body.shrink_to_fit();
    body
}

impl Serialize for Results<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(None)?;
        let times = self.times.iter().copied().map(Some).chain(std::iter::repeat(None));
        let timed: Vec<JsonResult> = self
            .outcomes
            .iter()
            .zip(times)
            .map(|(outcome, time)| JsonResult { outcome, style: self.style, time })
            .collect();
        map.serialize_entry("results", &timed)?;
        if let Some(time) = self.time {
            map.serialize_entry("time", &time.as_secs_f64())?;
        }
        if let Some((name, index)) = self.index {
            map.serialize_entry(name, &index)?;
        }
        map.end()
    }
}

/// A JSON array of what a function makes of each item.
struct JsonArray<'a, T, F>(&'a [T], F);

fn json_array<'a, T, R: Serialize, F: Fn(&'a T) -> R>(items: &'a [T], make: F) -> JsonArray<'a, T, F> {
    JsonArray(items, make)
}

impl<'a, T, R: Serialize, F: Fn(&'a T) -> R> Serialize for JsonArray<'a, T, F> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut list = to.serialize_seq(Some(self.0.len()))?;
        for item in self.0 {
            list.serialize_element(&(self.1)(item))?;
        }
        list.end()
    }
}

struct JsonResult<'a> {
    outcome: &'a Outcome,
    style: Style,
    time: Option<Duration>,
}

impl Serialize for JsonResult<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(None)?;
        match self.outcome {
            Outcome::Failed(why) => map.serialize_entry("error", why)?,
            // As in rqlite, zeros are left out.
            Outcome::Changed { last_insert_id, rows_affected } => {
                if *last_insert_id != 0 {
                    map.serialize_entry("last_insert_id", last_insert_id)?;
                }
                if *rows_affected != 0 {
                    map.serialize_entry("rows_affected", rows_affected)?;
                }
                if self.style.is_associative {
                    map.serialize_entry("rows", &())?;
                }
            }
            Outcome::Rows { columns, types, values } if self.style.is_associative => {
                // Of columns with the same name the last counts, as in a map.
                let kept: Vec<usize> =
                    (0..columns.len()).filter(|at| !columns[at + 1..].contains(&columns[*at])).collect();
                let name_of = |at: &usize| (columns[*at].as_str(), types[*at].as_str());
                map.serialize_entry("types", &Object(kept.iter().map(name_of).collect()))?;
                let rows = json_array(values, |row| {
                    Object(kept.iter().map(|at| (columns[*at].as_str(), self.cell(&types[*at], &row[*at]))).collect())
                });
                map.serialize_entry("rows", &rows)?;
            }
            Outcome::Rows { columns, types, values } => {
                map.serialize_entry("columns", columns)?;
                map.serialize_entry("types", types)?;
                if !values.is_empty() {
                    map.serialize_entry("values", &json_array(values, |row| Row { of: self, types, values: row }))?;
                }
            }
        }
        if let Some(time) = self.time {
            map.serialize_entry("time", &time.as_secs_f64())?;
        }
        map.end()
    }
}

impl JsonResult<'_> {
    fn cell<'a>(&self, declared: &'a str, value: &'a Value) -> Cell<'a> {
        Cell { value, declared, has_blob_arrays: self.style.has_blob_arrays }
    }
}

/// Names and what belongs to them, in their order.
struct Object<'a, T>(Vec<(&'a str, T)>);

impl<T: Serialize> Serialize for Object<'_, T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().map(|(name, it)| (name, it)))
    }
}

struct Row<'a> {
    of: &'a JsonResult<'a>,
    types: &'a [String],
    values: &'a [Value],
}

impl Serialize for Row<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.types.iter().zip(self.values).map(|(declared, value)| self.of.cell(declared, value)))
    }
}

struct Cell<'a> {
    value: &'a Value,
    declared: &'a str,
    has_blob_arrays: bool,
}

impl Serialize for Cell<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let is_time = matches!(self.declared, "date" | "datetime" | "timestamp");
        match self.value {
            Value::Null => to.serialize_unit(),
            Value::Integer(number) if self.declared == "boolean" => to.serialize_bool(*number > 0),
            Value::Integer(number) if is_time => match at_unix(*number) {
                Some(text) => to.serialize_str(&text),
                None => to.serialize_i64(*number),
            },
            Value::Integer(number) => to.serialize_i64(*number),
            Value::Real(number) if number.is_finite() => to.serialize_f64(*number),
            // JSON has no infinity; SQLite prints it like this.
            Value::Real(number) => to.serialize_str(if *number > 0.0 { "Inf" } else { "-Inf" }),
            Value::Text(text) if is_time => match rfc3339(text) {
                Some(written) => to.serialize_str(&written),
                None => to.serialize_str(text),
            },
            Value::Text(text) => to.serialize_str(text),
            Value::Blob(bytes) if self.has_blob_arrays => to.collect_seq(bytes.iter()),
            Value::Blob(bytes) => to.serialize_str(&BASE64.encode(bytes)),
        }
    }
}

/// A time in one of rqlite's forms, `2026-11-26 14:05:06.25+01:00` or shorter, in RFC 3339; `None`: it is not a time.
fn rfc3339(text: &str) -> Option<String> {
    let (civil, offset) = match text.len().checked_sub(6).and_then(|at| text.split_at_checked(at)) {
        Some((civil, offset)) if offset.starts_with(['+', '-']) && civil.len() >= 19 => (civil, offset),
        _ => (text.strip_suffix('Z').unwrap_or(text), "+00:00"),
    };
    let written = civil.parse::<DateTime>().ok()?.to_string();
    // jiff parses more than these forms, and a second of 60 as 59: only a time that it writes as it was read is
    // accepted.
    let whole = civil.split_once('.').map_or(civil, |(whole, _)| whole);
    if !matches!(whole.len(), 10 | 16 | 19) || !written.starts_with(&whole.replacen(' ', "T", 1)) {
        return None;
    }
    let is_utc = strtime::parse("%:z", offset).ok()?.offset()? == Offset::UTC;
    Some(written + if is_utc { "Z" } else { offset })
}

/// Seconds since 1970, or milliseconds if they are so many, in RFC 3339; `None` beyond the years 0 to 9999.
fn at_unix(number: i64) -> Option<String> {
    let at = match number.unsigned_abs() {
        ..=1_000_000_000_000 => Timestamp::from_second(number),
        _ => Timestamp::from_millisecond(number),
    };
    at.ok().map(|at| at.to_string()).filter(|text| !text.starts_with('-'))
}

#[cfg(test)]
mod tests {
    use crate::http::db::rqlite_json::*;

    #[test]
    fn bodies_are_read_as_rqlite_reads_them() {
        let read = |text: &str| statements(text.as_bytes());
        let one = |text: &str| read(text).unwrap().pop().unwrap().params;
        assert_eq!(read(r#"["SELECT 1"]"#), Ok(vec![Statement::bare("SELECT 1")]));
        assert_eq!(read("\u{feff}[\"SELECT 1\"]\r\n"), Ok(vec![Statement::bare("SELECT 1")]));
        assert_eq!(statements(b"\xff\xfe[\0\"\0"), Err("body: the text is in UTF-16; save it in UTF-8".to_string()));
        assert_eq!(
            one(r#"[["x", 1, 2.0, true, null, "t", [0, 255]]]"#),
            Params::Positional(vec![
                Value::Integer(1),
                Value::Real(2.0),
                Value::Integer(1),
                Value::Null,
                Value::Text("t".into()),
                Value::Blob(Bytes::from(vec![0, 255])),
            ])
        );
        assert_eq!(one(r#"[["x", {"a": 1}]]"#), Params::Named(vec![("a".into(), Value::Integer(1))]));
        for bad in [
            "",
            "{}",
            "[]",
            "[1]",
            "[[]]",
            "[[1]]",
            r#"[["x", {"a": 1}, 2]]"#,
            r#"[["x", [256]]]"#,
            r#"[["x", {"a": {}}]]"#,
            r#"[["x", 9223372036854775808]]"#,
            r#"["x"] y"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn results_are_written_as_rqlite_writes_them() {
        let rows = Outcome::Rows {
            columns: vec!["a".into(), "b".into(), "a".into()],
            types: vec!["datetime".into(), "blob".into(), "boolean".into()],
            values: vec![vec![
                Value::Text("2026-11-26 14:05:06".into()),
                Value::Blob(Bytes::from(vec![1, 2])),
                Value::Integer(1),
            ]],
        };
        let outcomes = [
            Outcome::Changed { last_insert_id: 3, rows_affected: 0 },
            Outcome::Failed("no such table: a".into()),
            rows,
            Outcome::Rows { columns: vec!["a".into()], types: vec![String::new()], values: vec![] },
        ];
        let write = |style| {
            let times = &[Duration::from_micros(1500), Duration::ZERO];
            let results = Results { outcomes: &outcomes, style, times, time: None, index: Some(("raft_index", 7)) };
            String::from_utf8(results.write()).unwrap()
        };
        assert_eq!(
            write(Style::default()),
            r#"{"results":[{"last_insert_id":3,"time":0.0015},{"error":"no such table: a","time":0.0},"#.to_owned()
                + r#"{"columns":["a","b","a"],"types":["datetime","blob","boolean"],"values":[["2026-11-26T14:05:06Z","AQI=",true]]},"#
                + r#"{"columns":["a"],"types":[""]}],"raft_index":7}"#
                + "\n"
        );
        let style = Style { is_associative: true, has_blob_arrays: true, ..Style::default() };
        assert_eq!(
            write(style),
            r#"{"results":[{"last_insert_id":3,"rows":null,"time":0.0015},{"error":"no such table: a","time":0.0},"#
                .to_owned()
                + r#"{"types":{"b":"blob","a":"boolean"},"rows":[{"b":[1,2],"a":true}]},"#
                + r#"{"types":{"a":""},"rows":[]}],"raft_index":7}"#
                + "\n"
        );
    }

    #[test]
    fn times_are_written_in_one_form() {
        for (text, expected) in [
            ("2026-11-26", Some("2026-11-26T00:00:00Z")),
            ("2026-11-26 14:05", Some("2026-11-26T14:05:00Z")),
            ("2026-11-26T14:05:06.2500Z", Some("2026-11-26T14:05:06.25Z")),
            ("2026-11-26 14:05:06.", None),
            ("2026-11-26Z", Some("2026-11-26T00:00:00Z")),
            ("2024-02-29", Some("2024-02-29T00:00:00Z")),
            ("2023-02-29", None),
            ("2024-13-45", None),
            ("2024-04-31 00:00", None),
            ("2024-00-10", None),
            ("2024-01-01 25:00:00", None),
            ("2024-01-01 23:59:60", None),
            ("yesterday", None),
            ("2026-11-26 14:05:06+01:00", Some("2026-11-26T14:05:06+01:00")),
            ("2026-11-26T14:05:06.250-09:30", Some("2026-11-26T14:05:06.25-09:30")),
            ("2026-11-26 14:05:06-00:00", Some("2026-11-26T14:05:06Z")),
            ("2026-11-26 14:05:06+01:60", None),
            ("2026-11-26 14:05+01:00", None),
            ("2026-11-26+01:00", None),
            ("2026-11-26 14:05:06,5", None),
            ("2026-11-26 14:05:06.1234567890", None),
            ("2026-11-26 14", None),
            ("2026-11-26t14:05:06", None),
            ("20261126", None),
            ("-002026-11-26", None),
            ("äääää", None),
        ] {
            assert_eq!(rfc3339(text).as_deref(), expected, "{text}");
        }
        assert_eq!(at_unix(0).unwrap(), "1970-01-01T00:00:00Z");
        assert_eq!(at_unix(951_782_400).unwrap(), "2000-02-29T00:00:00Z");
        assert_eq!(at_unix(-1).unwrap(), "1969-12-31T23:59:59Z");
        assert_eq!(at_unix(1_764_165_906_250).unwrap(), "2025-11-26T14:05:06.25Z");
        assert_eq!(at_unix(i64::MIN), None);
    }
}
