//! HTTP/1.1 over one connection: bytes, requests, replies, and what is checked before anyone is asked.

pub mod conn;
pub mod guard;
pub mod idempotency;
pub mod lines;
pub mod params;
pub mod parse;
pub mod reply;
