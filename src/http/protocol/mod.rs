//! HTTP/1.1 over one connection: bytes, request heads, responses, errors, and what is checked before anyone is asked.

pub mod conn;
pub mod error;
pub mod guard;
pub mod idempotency;
pub mod lines;
pub mod params;
pub mod parse;
pub mod response;
