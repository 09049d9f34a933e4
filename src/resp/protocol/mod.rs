//! The Redis protocol: bytes to requests, and replies to bytes.

pub mod parse;
pub mod reply;
#[cfg(any(test, fuzzing))]
pub mod request_fuzzing;
