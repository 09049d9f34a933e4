//! The values that a key may have: types, bounds and words, and how text from the environment is read.
//!
//! Not here: where values come from, and rules between keys (`gather.rs`).

use super::runtimes::{self, Runtime};
use crate::address;
use crate::types::NodeId;
use serde_json::Value;
use std::net::IpAddr;

/// Highest value of a port base: it leaves room for every node id.
pub(crate) const PORT_BASE_MAX: u64 = 65_535 - NodeId::MAX;

/// Longest list of hosts.
const LISTED_MAX: usize = 1000;

/// The values that one key may have.
#[derive(Clone, Copy)]
pub(crate) enum Rule {
    Number(u64, u64),
    NumberOrNull(u64, u64),
    Switch,
    Text(usize, usize),
    Host,
    HostOrNull,
    HttpHosts,
    Peers,
    File,
    Choice(&'static [&'static str]),
    Secret(usize, usize),
    Runtimes,
}

/// A value as the user wrote it.
pub(crate) enum Raw {
    /// From a file.
    Json(Value),
    /// From the environment or the command line.
    Typed(String),
}

impl Raw {
    pub(crate) fn shown(&self, key: &str) -> String {
        match self {
            // Also if the key is misspelt.
            _ if key.contains("secret") => "********".into(),
            Raw::Json(value) => value.to_string(),
            Raw::Typed(text) => format!("{text:?}"),
        }
    }
}

fn is_host(host: &str) -> bool {
    let is_name = !host.is_empty()
        && host.len() <= 253
        && host.split('.').all(|part| {
            !part.is_empty()
                && part.len() <= 63
                && !part.starts_with('-')
                && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
        });
    // Digits and dots that are not an address are a typing error ("127.0.0"), not a name.
    let is_numeric = host.chars().all(|c| c.is_ascii_digit() || c == '.');
    host.parse::<IpAddr>().is_ok() || (is_name && !is_numeric)
}

/// A host that can be reached: not the address that stands for all of a machine.
fn is_reachable(host: &str) -> bool {
    is_host(host) && !address::is_unspecified(host)
}

/// `name`, `name:port`, or one of both behind `http://` or `https://`.
fn is_http_host(text: &str) -> bool {
    let authority = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")).unwrap_or(text);
    address::split(authority).is_some_and(|(host, port)| is_reachable(host) && port != Some(0))
}

fn is_host_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    is_host(host) && port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
}

impl Rule {
    /// What is allowed, in words.
    pub(crate) fn allowed(self) -> String {
        match self {
            Rule::Number(least, most) => format!("a whole number from {least} to {most}"),
            Rule::NumberOrNull(least, most) => format!("null or a whole number from {least} to {most}"),
            Rule::Switch => "true or false".into(),
            Rule::Text(least, most) => format!("text of {least} to {most} characters without control characters"),
            Rule::Host => "an IP address or host name of this machine".into(),
            Rule::HostOrNull => "null, or an IP address or host name at which others reach this machine".into(),
            Rule::HttpHosts => {
                "a list of host names or addresses, each with a port or with http:// or https:// if needed (typed: \
                 separated by commas)"
                    .into()
            }
            Rule::Peers => "a list of host:port (typed: separated by commas)".into(),
            Rule::File => "a path".into(),
            Rule::Choice(words) => words.join(" or "),
            Rule::Secret(least, most) => format!("null or text of {least} to {most} characters"),
            Rule::Runtimes => {
                "a list of objects with language, file_name, probe, run and, if needed, home, compile, reserves_mb, \
                 threads; each language once (docs/operations.md, Jobs)"
                    .into()
            }
        }
    }

    /// The value in the form that [`Settings`] takes, or what is wrong with it.
    pub(crate) fn check(self, raw: &Raw) -> Result<Value, &'static str> {
        let value = match raw {
            Raw::Json(value) => value.clone(),
            Raw::Typed(text) => self.read_typed(text)?,
        };
        let is_text = |text: &str, least, most| {
            (least..=most).contains(&text.chars().count()) && !text.chars().any(char::is_control)
        };
        let is_right = match (self, &value) {
            (Rule::Number(least, most) | Rule::NumberOrNull(least, most), Value::Number(n)) => match n.as_u64() {
                Some(n) => (least..=most).contains(&n),
                None if n.is_f64() => return Err("wrong type"),
                None => false,
            },
            (Rule::Switch, Value::Bool(_))
            | (Rule::Secret(..) | Rule::NumberOrNull(..) | Rule::HostOrNull, Value::Null) => true,
            (Rule::Text(least, most) | Rule::Secret(least, most), Value::String(text)) => is_text(text, least, most),
            (Rule::Host, Value::String(text)) => is_host(text),
            (Rule::HostOrNull, Value::String(text)) => is_reachable(text),
            (Rule::File, Value::String(text)) => is_text(text, 1, 4096),
            (Rule::Choice(words), Value::String(text)) => words.contains(&text.as_str()),
            (Rule::Peers | Rule::HttpHosts, Value::Array(all)) if all.iter().all(Value::is_string) => {
                let is_one = if matches!(self, Rule::Peers) { is_host_port } else { is_http_host };
                all.len() <= LISTED_MAX && all.iter().filter_map(Value::as_str).all(is_one)
            }
            (Rule::Runtimes, Value::Array(_)) => {
                let all: Vec<Runtime> = serde_json::from_value(value.clone()).map_err(|_| "not allowed")?;
                runtimes::check(&all)?;
                true
            }
            _ => return Err("wrong type"),
        };
        let why =
            if matches!(self, Rule::Number(..) | Rule::NumberOrNull(..)) { "out of range" } else { "not allowed" };
        if is_right { Ok(value) } else { Err(why) }
    }

    /// What was typed in the environment or on the command line, as JSON.
    fn read_typed(self, text: &str) -> Result<Value, &'static str> {
        Ok(match self {
            Rule::NumberOrNull(..) | Rule::HostOrNull if matches!(text.trim(), "" | "null") => Value::Null,
            Rule::Number(..) | Rule::NumberOrNull(..) => Value::from(
                text.trim()
                    .parse::<i128>()
                    .map_err(|_| "wrong type")
                    .and_then(|n| u64::try_from(n).map_err(|_| "out of range"))?,
            ),
            Rule::Switch => Value::from(text.trim().parse::<bool>().map_err(|_| "wrong type")?),
            Rule::Secret(..) if text.is_empty() => Value::Null,
            Rule::Runtimes => read_json(text)?,
            Rule::Peers | Rule::HttpHosts => match serde_json::from_str::<Vec<String>>(text) {
                Ok(all) => all.into_iter().collect(),
                // `[::1]:5701` begins as a list does.
                Err(_) => text.split(',').map(str::trim).filter(|one| !one.is_empty()).collect(),
            },
            _ => Value::from(text),
        })
    }
}

fn read_json(text: &str) -> Result<Value, &'static str> {
    serde_json::from_str(text).map_err(|_| "wrong type")
}
