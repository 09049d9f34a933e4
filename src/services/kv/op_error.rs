//! Why an operation could not be carried out.
//!
//! Replies lie in the session table, in snapshots and in digests, and Redis clients read the text: so the text is the
//! stored form of the error, and must not change.
//! Not here: the HTTP status of each (`outcome/codes.rs`).

use serde::{Deserialize, Serialize};
use std::fmt;

/// Why an operation could not. Prints as Redis' own text, code first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", from = "String")]
pub enum OpError {
    /// A key or value beyond its limit.
    TooLarge,
    /// Not a number of 64 bits in plain decimal digits.
    NotAnInteger,
    /// The sum does not fit into 64 bits.
    Overflow,
    /// A lock must live for some time.
    NoTime,
    /// See [`super::commands::RUN_REPLY_BYTES_MAX`].
    ReplyTooLarge,
    /// See [`super::commands::ENTRY_STEPS_MAX`].
    EntrySteps,
    /// See [`super::commands::READ_STEPS_MAX`].
    ReadSteps,
    /// The text of another version, from a snapshot.
    Other(String),
}

impl OpError {
    const KNOWN: [OpError; 7] = [
        OpError::TooLarge,
        OpError::NotAnInteger,
        OpError::Overflow,
        OpError::NoTime,
        OpError::ReplyTooLarge,
        OpError::EntrySteps,
        OpError::ReadSteps,
    ];

    /// Redis' text, code first.
    pub fn text(&self) -> &str {
        match self {
            OpError::TooLarge => "ERR string exceeds maximum allowed size (proto-max-bulk-len)",
            OpError::NotAnInteger => "ERR value is not an integer or out of range",
            OpError::Overflow => "ERR increment or decrement would overflow",
            OpError::NoTime => "ERR invalid expire time",
            OpError::ReplyTooLarge => "ERR reply exceeds maximum allowed size",
            OpError::EntrySteps => {
                "ERR KEYS and SCAN in current transactions exceed the limit of 50 million steps: \
                 use them outside of MULTI, or with a smaller COUNT"
            }
            OpError::ReadSteps => {
                "ERR matching all keys exceeds the limit of 300 million steps: \
                 use SCAN, a shorter pattern or one that begins with a literal prefix"
            }
            OpError::Other(text) => text,
        }
    }
}

impl fmt::Display for OpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl From<OpError> for String {
    fn from(error: OpError) -> String {
        match error {
            OpError::Other(text) => text,
            known => known.text().to_string(),
        }
    }
}

impl From<String> for OpError {
    fn from(text: String) -> OpError {
        OpError::KNOWN.into_iter().find(|known| known.text() == text).unwrap_or(OpError::Other(text))
    }
}

#[cfg(test)]
mod tests {
    use crate::services::kv::op_error::*;

    #[test]
    fn an_error_is_stored_as_its_text_and_read_back() {
        for error in OpError::KNOWN.into_iter().chain([OpError::Other("WRONGTYPE of old".to_string())]) {
            let bytes = postcard::to_stdvec(&error).unwrap();
            assert_eq!(postcard::from_bytes::<String>(&bytes).unwrap(), error.text());
            assert_eq!(postcard::from_bytes::<OpError>(&bytes).unwrap(), error);
        }
    }
}
