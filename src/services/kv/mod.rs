//! The replicated key-value store: strings under keys in order, with times to live, conditions and locks.
//!
//! The tour: `op.rs` is what can be asked and answered; `store.rs` holds the state, takes runs apart and carries out what
//! changes something; `reads.rs` answers what does not. Below them, `table.rs` is the keys with their times to live, `stored.rs` their values,
//! `locks.rs` the locks with their fencing tokens, `removed.rs` what is left of keys that went, `glob.rs` the patterns of KEYS
//! and SCAN, `saved.rs` the snapshot.
//! All of it lies in trees that share their nodes with their copies, so a copy of a million keys costs nothing.
//! Not here: the Redis protocol (`resp/`), HTTP (`http/`).

pub mod glob;
mod key;
mod locks;
pub mod op;
mod reads;
mod removed;
mod saved;
mod store;
mod stored;
mod table;
#[cfg(test)]
mod tests;

pub use op::{Bytes, Condition, ExpireIf, Expiry, Op, Ran, Run, Value};
pub use store::Store;
