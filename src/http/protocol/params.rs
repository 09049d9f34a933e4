//! Parameters of a request: its query, in which no parameter may be unknown or given twice, and a body of JSON.
//!
//! An unknown parameter is refused: with a misspelt `?cas_index=7`, a write that is meant to be conditional would not
//! be. Only the operations of rqlite's API ignore unknown ones, as rqlite does.
//! Not here: which parameters are known (`http/routes.rs`), what they mean (each handler).

use super::error::ApiError;
use super::head::Head;
use crate::text::without_byte_order_mark;
use crate::time::parse_duration;
use serde::de::DeserializeOwned;
use std::time::Duration;

/// The parameters in the query of a request.
pub(crate) struct Params<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Params<'a> {
    /// All parameters. The router has checked them.
    pub(crate) fn of(head: &'a Head) -> Params<'a> {
        let query = head.target.split_once('?').map_or("", |(_, query)| query);
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        Params(pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).collect())
    }

    /// Refuses parameters that are unknown or given twice.
    pub(crate) fn check(head: &Head, known: impl Iterator<Item = &'static str>) -> Result<(), ApiError> {
        if !head.target.contains('?') {
            return Ok(());
        }
        let (known, Params(given)) = (known.collect::<Vec<_>>(), Params::of(head));
        for (at, (name, _)) in given.iter().enumerate() {
            if !known.contains(name) || given[..at].iter().any(|(other, _)| other == name) {
                let known = if known.is_empty() { "none".to_string() } else { known.join(", ") };
                let why = format!("parameter {name:?} is unknown or given twice; known parameters: {known}");
                return Err(ApiError::refused(400, why));
            }
        }
        Ok(())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find(|(other, _)| *other == name).map(|(_, value)| *value)
    }

    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, ApiError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        digits(text).map(Some).ok_or_else(|| ApiError::refused(400, format!("{name} must be a number")))
    }

    /// Whether it is given, with `true`, `1` or no value.
    pub(crate) fn flag(&self, name: &str) -> Result<bool, ApiError> {
        match self.get(name) {
            None | Some("false" | "0") => Ok(false),
            Some("" | "true" | "1") => Ok(true),
            Some(_) => Err(ApiError::refused(400, format!("{name} must be true or false"))),
        }
    }

    /// Whether it is there, regardless of its value: so rqlite reads its flags.
    pub(crate) fn is_set(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// A duration such as `30s`, `500ms` or `1.5s`, at most `max`; a bare number is seconds.
    pub(crate) fn duration(&self, name: &str, max: Duration) -> Result<Option<Duration>, ApiError> {
        let Some(bytes) = self.bytes(name)? else { return Ok(None) };
        let duration = str::from_utf8(&bytes).ok().and_then(parse_duration);
        let why = || ApiError::refused(400, format!("{name} must be a duration, for example {name}=1.5s"));
        duration.map(|it| Some(it.min(max))).ok_or_else(why)
    }

    pub(crate) fn bytes(&self, name: &str) -> Result<Option<Vec<u8>>, ApiError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        percent_decode(text).map(Some).ok_or_else(|| ApiError::refused(400, "malformed percent-encoding"))
    }
}

/// A number of decimal digits alone: `parse` would also accept a plus sign.
pub(crate) fn digits(text: &str) -> Option<u64> {
    text.parse().ok().filter(|_| !text.starts_with('+'))
}

/// A body that is a JSON object. serde would also accept an array of the fields' values. An integer may have a fraction
/// of zeros: `5.0` is an integer in JSON Schema, and some clients write all numbers so.
pub(crate) fn object<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let body = without_byte_order_mark(body).map_err(|why| ApiError::refused(400, format!("body: {why}")))?;
    if body.trim_ascii_start().first().is_some_and(|byte| *byte != b'{') {
        return Err(ApiError::refused(400, "body: expected a JSON object"));
    }
    serde_json::from_slice(body).or_else(|error| {
        let integers = without_zero_fractions(body).and_then(|text| serde_json::from_slice(&text).ok());
        integers.ok_or_else(|| ApiError::refused(400, format!("body: {error}")))
    })
}

/// A JSON text with its numbers such as `5.0` as integers, if it has any.
fn without_zero_fractions(text: &[u8]) -> Option<Vec<u8>> {
    let mut integers = Vec::with_capacity(text.len());
    let (mut at, mut is_string, mut is_escaped) = (0, false, false);
    while let Some(&byte) = text.get(at) {
        if byte == b'.' && !is_string {
            let zeros = text[at + 1..].iter().take_while(|byte| **byte == b'0').count();
            let is_number_over = !matches!(text.get(at + 1 + zeros), Some(b'0'..=b'9' | b'e' | b'E'));
            if zeros > 0 && is_number_over {
                at += 1 + zeros;
                continue;
            }
        }
        is_string ^= byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && is_string && !is_escaped;
        integers.push(byte);
        at += 1;
    }
    (integers.len() < text.len()).then_some(integers)
}

/// Decodes `%41` to `A`; `None` for a broken escape. A plus stays a plus.
pub fn percent_decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        if byte != b'%' {
            bytes.push(byte);
            rest = after;
            continue;
        }
        let digits = after.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = &after[2..];
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use crate::http::protocol::params::*;
    use crate::text::percent_encode;
    use serde::Deserialize;

    #[test]
    fn names_are_decoded_once_and_strictly() {
        for (text, expected) in [
            ("a%20b", Some(&b"a b"[..])),
            ("a+b/c", Some(b"a+b/c")),
            ("%25", Some(b"%")),
            ("%2525", Some(b"%25")),
            ("%00%fF", Some(b"\x00\xff")),
            ("%", None),
            ("%4", None),
            ("%+4", None),
        ] {
            assert_eq!(percent_decode(text).as_deref(), expected, "{text}");
        }
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(percent_decode(&percent_encode(&all)), Some(all));
        assert_eq!(percent_encode(b"a/b\xff"), "a%2Fb%FF");
    }

    #[derive(Debug, Deserialize, PartialEq)]
    struct Pair {
        a: u64,
        b: String,
    }

    #[test]
    fn an_integer_may_have_a_fraction_of_zeros() {
        let pair = |a: u64, b: &str| Pair { a, b: b.to_string() };
        for (text, expected) in [
            (r#"{"a": 5.0, "b": "1.0"}"#, pair(5, "1.0")),
            (r#"{"a": 120.000,"b":"\"2.0"}"#, pair(120, "\"2.0")),
            (r#"{"b": "\\", "a": 7.0}"#, pair(7, "\\")),
        ] {
            assert_eq!(object::<Pair>(text.as_bytes()).unwrap(), expected, "{text}");
        }
        for bad in [
            r#"{"a": 5.5, "b": ""}"#,
            r#"{"a": 5.0e1, "b": ""}"#,
            r#"{"a": 5.01, "b": ""}"#,
            r#"{"a": 5., "b": ""}"#,
            r#"{"a": 5.0, "a": 5.0, "b": ""}"#,
        ] {
            assert!(object::<Pair>(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
