//! What a request asks for behind the question mark, none of it unknown or twice.
//!
//! An unknown parameter is refused: with `?cas_index=7` misspelt, a write that was meant to be careful would not be.
//! Not here: what a parameter means (each handler).

use super::parse::{Head, percent_decode};
use super::reply::Reply;
use std::time::Duration;

/// What a request asks for in its query, none of it unknown or twice.
pub(super) struct Params<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Params<'a> {
    pub(super) fn of(head: &'a Head, known: &[&str]) -> Result<Params<'a>, Reply> {
        let query = head.target.split_once('?').map_or("", |(_, query)| query);
        let mut found: Vec<(&str, &str)> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if !known.contains(&name) || found.iter().any(|(other, _)| *other == name) {
                let why = format!("parameter {name:?} is unknown here or given twice; known: {}", known.join(", "));
                return Err(Reply::refused(400, &why));
            }
            found.push((name, value));
        }
        Ok(Params(found))
    }

    pub(super) fn get(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find(|(other, _)| *other == name).map(|(_, value)| *value)
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, Reply> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let number = text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
        number.map(Some).ok_or_else(|| Reply::refused(400, &format!("{name} must be a number")))
    }

    /// Whether it is there, with `true`, `1` or nothing as its value.
    pub(super) fn flag(&self, name: &str) -> Result<bool, Reply> {
        match self.get(name) {
            None | Some("false" | "0") => Ok(false),
            Some("" | "true" | "1") => Ok(true),
            Some(_) => Err(Reply::refused(400, &format!("{name} must be true or false"))),
        }
    }

    /// A time such as `30s`, `500ms` or `30`, at most `most`.
    pub(super) fn span(&self, name: &str, most: Duration) -> Result<Option<Duration>, Reply> {
        let Some(text) = self.get(name) else { return Ok(None) };
        match span(text) {
            Some(span) => Ok(Some(span.min(most))),
            None => Err(Reply::refused(400, &format!("{name} must be a time, as in {name}=30s"))),
        }
    }

    pub(super) fn bytes(&self, name: &str) -> Result<Option<Vec<u8>>, Reply> {
        let Some(text) = self.get(name) else { return Ok(None) };
        percent_decode(text).map(Some).ok_or_else(|| Reply::refused(400, "malformed escape"))
    }
}

/// `30s`, `500ms` or `30`; `None` if it is no time.
pub(super) fn span(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let number: u64 = digits.parse().ok()?;
    match unit {
        "" | "s" => Some(Duration::from_secs(number)),
        "ms" => Some(Duration::from_millis(number)),
        _ => None,
    }
}
