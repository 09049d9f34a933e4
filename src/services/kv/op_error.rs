//! Errors of an operation.
//!
//! Replies are stored in the session table and in snapshots, and are part of digests; Redis clients parse the text. So
//! the text is the stored form of the error, and must not change.
//! Not here: the HTTP status of each (`outcome/codes.rs`).

use serde::{Deserialize, Serialize};
use std::fmt;

/// Why an operation failed. Displayed as Redis' error text, which begins with the error code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", from = "String")]
pub enum OpError {
    /// A key or value is longer than allowed.
    TooLarge,
    /// The value is not a 64-bit integer in decimal digits.
    NotAnInteger,
    /// The sum does not fit into 64 bits.
    Overflow,
    /// The time to live of a lock is 0.
    NoTime,
    /// The reply exceeds [`super::commands::BATCH_REPLY_BYTES_MAX`] or [`super::commands::READ_REPLY_BYTES_MAX`].
    ReplyTooLarge,
    /// The search exceeds [`super::commands::ENTRY_STEPS_MAX`].
    EntrySteps,
    /// The search exceeds [`super::commands::READ_STEPS_MAX`].
    ReadSteps,
    /// The value or the increment is not a decimal number.
    NotAFloat,
    /// The sum is not a number that can be printed.
    FloatOverflow,
    /// There is no key of this name.
    NoSuchKey,
    /// Copies and padding exceed [`super::commands::ENTRY_GROWTH_MAX`].
    EntryGrowth,
    /// A text from another version's snapshot.
    Other(String),
}

impl OpError {
    const KNOWN: [OpError; 11] = [
        OpError::TooLarge,
        OpError::NotAnInteger,
        OpError::Overflow,
        OpError::NoTime,
        OpError::ReplyTooLarge,
        OpError::EntrySteps,
        OpError::ReadSteps,
        OpError::NotAFloat,
        OpError::FloatOverflow,
        OpError::NoSuchKey,
        OpError::EntryGrowth,
    ];

    /// Returns Redis' error text, which begins with the error code.
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
            OpError::NotAFloat => "ERR value is not a valid float",
            OpError::FloatOverflow => "ERR increment would produce NaN or Infinity",
            OpError::NoSuchKey => "ERR no such key",
            OpError::EntryGrowth => {
                "ERR COPY and the padding of SETRANGE in current transactions exceed the limit of 8 MiB: \
                 send fewer of them at once"
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
