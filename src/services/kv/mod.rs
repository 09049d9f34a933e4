//! The replicated key-value store: strings under keys in order, with times to live, conditions and locks.
//!
//! The tour: `op.rs` is what can be asked and answered; `store.rs` holds the state and carries operations out.
//! Not here: the Redis protocol (`resp/`), HTTP (`http/`).

pub mod op;

pub use op::{Bytes, Condition, ExpireIf, Expiry, Op, Ran, Run, Value};
