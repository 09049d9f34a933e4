//! What a request asks for: behind the question mark, none of it unknown or twice, and in a body of JSON.
//!
//! An unknown parameter is refused: with `?cas_index=7` misspelt, a write that was meant to be careful would not be.
//! Only where rqlite's clients send theirs is it ignored, as rqlite does.
//! Not here: which are known (`http/routes.rs`), what a parameter means (each handler).

use super::error::ApiError;
use super::parse::{Head, percent_decode};
use crate::time::parse_duration;
use serde::de::DeserializeOwned;
use std::time::Duration;

/// What a request asks for in its query, none of it unknown or twice.
pub(crate) struct Params<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Params<'a> {
    /// All that is asked for. The router has checked it.
    pub(crate) fn of(head: &'a Head) -> Params<'a> {
        let query = head.target.split_once('?').map_or("", |(_, query)| query);
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        Params(pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).collect())
    }

    /// Refuses what is not among the known ones, or there twice.
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
        let number = text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
        number.map(Some).ok_or_else(|| ApiError::refused(400, format!("{name} must be a number")))
    }

    /// Whether it is there, with `true`, `1` or nothing as its value.
    pub(crate) fn flag(&self, name: &str) -> Result<bool, ApiError> {
        match self.get(name) {
            None | Some("false" | "0") => Ok(false),
            Some("" | "true" | "1") => Ok(true),
            Some(_) => Err(ApiError::refused(400, format!("{name} must be true or false"))),
        }
    }

    /// Whether it is there, whatever its value: so rqlite reads its flags.
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

/// What a body of JSON says, which is an object: without this look an array of the fields' values would do, too.
pub(crate) fn object<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    if body.trim_ascii_start().first().is_some_and(|byte| *byte != b'{') {
        return Err(ApiError::refused(400, "body: expected a JSON object"));
    }
    serde_json::from_slice(body).map_err(|error| ApiError::refused(400, format!("body: {error}")))
}
