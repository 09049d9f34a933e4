//! Commands on keys: a request is translated to one operation of the store, or to an error of Redis.
//!
//! `context.rs` is what a translation may use; `strings.rs`, `keys.rs`, `expiry.rs` and `locks.rs` are the
//! translations, `scripts.rs` has the scripts of redis-py's locks.

pub(crate) mod context;
pub(crate) mod expiry;
pub(crate) mod keys;
pub(crate) mod locks;
pub(crate) mod scripts;
pub(crate) mod strings;
