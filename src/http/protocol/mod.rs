//! HTTP/1.1 over one connection: bytes, request heads, responses, errors, and what is checked before anyone is asked.

pub(crate) mod body;
pub(crate) mod chunked;
pub(crate) mod conn;
pub(crate) mod deadlines;
pub(crate) mod error;
pub(crate) mod guard;
pub(crate) mod head;
pub(crate) mod idempotency;
pub(crate) mod lines;
pub(crate) mod params;
pub(crate) mod parse;
pub(crate) mod response;
