//! The Redis protocol: bytes to requests, and replies to bytes.

pub mod fuzz;
pub mod parse;
pub mod reply;
