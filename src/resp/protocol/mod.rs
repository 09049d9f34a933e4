//! The Redis protocol: bytes to requests, and replies to bytes.

pub(crate) mod lines;
pub mod parse;
pub(crate) mod reply;
#[cfg(any(test, fuzzing))]
pub(crate) mod request_fuzzing;
