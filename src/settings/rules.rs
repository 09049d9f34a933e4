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

/// Random bits that a `cluster_secret` must have room for: a process that connects to a peer port can compare guesses
/// with the proof that it is sent (`wire/authentication.rs`), as fast as its machines allow.
const SECRET_BITS: f64 = 128.0;

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
    /// A password of clients.
    Password(usize, usize),
    /// The secret of the nodes: it must have room for [`SECRET_BITS`] random bits.
    Secret(usize),
    Runtimes,
}

/// A value as the user wrote it.
pub(crate) enum RawValue {
    /// From a file.
    Json(Value),
    /// From the environment or the command line.
    Typed(String),
}

impl RawValue {
    pub(crate) fn shown(&self, key: &str) -> String {
        match self {
            // Also if the key is misspelt.
            _ if is_secret(key) => MASK.into(),
            RawValue::Json(value) => value.to_string(),
            RawValue::Typed(text) => format!("{text:?}"),
        }
    }
}

/// Shown in place of a secret.
pub(crate) const MASK: &str = "********";

/// Whether the value of a key must not be shown, also if the key is misspelt.
pub(crate) fn is_secret(key: &str) -> bool {
    key.contains("secret") || key.contains("password")
}

/// The most random bits that a text of these characters can hold: as many as if it had been drawn from the smallest
/// common alphabet that has them all. Whether it was drawn at random cannot be seen.
fn bits_at_most(text: &str) -> f64 {
    let all = |is_one: fn(char) -> bool| text.chars().all(is_one);
    let has = |is_one: fn(char) -> bool, size: u32| if text.chars().any(is_one) { size } else { 0 };
    let is_lower_hex = |c: char| matches!(c, '0'..='9' | 'a'..='f');
    let is_upper_hex = |c: char| matches!(c, '0'..='9' | 'A'..='F');
    let size = if !all(|c| c.is_ascii_digit()) && (all(is_lower_hex) || all(is_upper_hex)) {
        16
    } else {
        has(|c| c.is_ascii_digit(), 10)
            + has(|c| c.is_ascii_lowercase(), 26)
            + has(|c| c.is_ascii_uppercase(), 26)
            + has(|c| !c.is_ascii_alphanumeric(), 32)
    };
    text.chars().count() as f64 * f64::from(size.max(1)).log2()
}

/// Characters of a secret that `phalanx secret new` prints, five bits each, and how many it has: 160 bits.
pub const RANDOM_ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
pub const RANDOM_CHARS: usize = 32;

/// Whether a text has the form of a secret that `phalanx secret new` has printed. People choose no such text, and it is
/// no digest in hexadecimal digits.
pub fn is_random_secret(text: &str) -> bool {
    let has = |is_one: fn(&u8) -> bool| text.as_bytes().iter().any(is_one);
    text.len() == RANDOM_CHARS
        && text.bytes().all(|byte| RANDOM_ALPHABET.contains(&byte))
        && has(u8::is_ascii_digit)
        && has(|byte| byte.is_ascii_lowercase() && !byte.is_ascii_hexdigit())
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
            Rule::Password(least, most) => {
                format!("null or text of {least} to {most} characters without control characters")
            }
            Rule::Secret(most) => format!(
                "null, or text with room for 128 random bits (at least 22 letters and digits, or 32 hexadecimal digits; at \
                 most {most} characters), as `phalanx secret new` prints it; to change it, stop all nodes, and set the same \
                 new one on all of them"
            ),
            Rule::Runtimes => {
                "a list of objects with language, file_name, probe, run and, if needed, home, compile, reserves_mb, \
                 threads; each language once (docs/operations.md, Jobs)"
                    .into()
            }
        }
    }

    /// The value in the form that [`Settings`] takes, or what is wrong with it.
    pub(crate) fn check(self, raw: &RawValue) -> Result<Value, &'static str> {
        let value = match raw {
            RawValue::Json(value) => value.clone(),
            RawValue::Typed(text) => self.read_typed(text)?,
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
            | (Rule::Secret(..) | Rule::Password(..) | Rule::NumberOrNull(..) | Rule::HostOrNull, Value::Null) => true,
            (Rule::Secret(most), Value::String(text)) if is_text(text, 1, most) && bits_at_most(text) < SECRET_BITS => {
                return Err("too short to hold 128 random bits, so it can be guessed");
            }
            (Rule::Text(least, most) | Rule::Password(least, most), Value::String(text)) => is_text(text, least, most),
            (Rule::Secret(most), Value::String(text)) => is_text(text, 1, most),
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
            Rule::Secret(..) | Rule::Password(..) if text.is_empty() => Value::Null,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_secrets_are_told_from_what_people_choose() {
        assert!(is_random_secret("a2bcdefghijkmnpqrstuvwxyz2345678"));
        for chosen in [
            "a2bcdefghijkmnpqrstuvwxyz234567",
            "a2bcdefghijkmnpqrstuvwxyz23456789",
            "A2bcdefghijkmnpqrstuvwxyz2345678",
            "a-bcdefghijkmnpqrstuvwxyz2345678",
            // MD5 of "password", without 0 and 1.
            "5f4dcc3b5aa765d62d8327deb882cf99",
            "thisisapasswhrasethatsameanehase",
            "correct horse battery staple 123",
        ] {
            assert!(!is_random_secret(chosen), "{chosen}");
        }
    }

    #[test]
    fn a_secret_must_have_room_for_128_bits() {
        for (text, is_long_enough) in [
            (&"7".repeat(38)[..], false),
            (&"7".repeat(39), true),
            (&"0a".repeat(15), false),
            (&"0a".repeat(16), true),
            (&"0A".repeat(16), true),
            (&"x".repeat(27), false),
            (&"x".repeat(28), true),
            (&"x7".repeat(12), false),
            ("x7x7x7x7x7x7x7x7x7x7x7x7x", true),
            ("0aZ0aZ0aZ0aZ0aZ0aZ0aZ", false),
            ("0aZ0aZ0aZ0aZ0aZ0aZ0aZ0", true),
            ("-aZ0aZ0aZ0aZ0aZ0aZ0a", true),
            ("", false),
        ] {
            assert_eq!(bits_at_most(text) >= SECRET_BITS, is_long_enough, "{text}: {}", bits_at_most(text));
        }
    }
}
