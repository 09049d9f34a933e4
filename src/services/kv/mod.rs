//! The replicated key-value store: strings under keys in order, with times to live, conditions and locks.
//!
//! The tour: `commands.rs` is what can be asked and answered; `state.rs` holds the state, takes runs apart and carries out what
//! changes something; `queries.rs` answers what does not. Below them, `table.rs` is the keys with their times to live, `stored.rs` their values,
//! `locks.rs` the locks with their fencing tokens, `removed.rs` what is left of keys that went, `glob.rs` the patterns of KEYS
//! and SCAN, `snapshot.rs` the snapshot.
//! All of it lies in trees that share their nodes with their copies, so a copy of a million keys costs nothing.
//! Not here: the Redis protocol (`resp/`), HTTP (`http/`).

pub mod commands;
pub mod glob;
mod key;
mod locks;
mod queries;
mod removed;
mod snapshot;
mod state;
mod stored;
mod table;
#[cfg(test)]
mod tests;

pub use self::commands::{Bytes, Condition, ExpireIf, Expiry, Op, Ran, Run, Value};
pub use self::state::Store;
