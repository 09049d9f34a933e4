//! The replicated key-value store: strings under keys in order, with times to live, conditions and locks.
//!
//! The tour, from the top: `service.rs` applies commands and answers queries; `state.rs` holds the state and the
//! operations that change it; `queries.rs` are those that do not, `snapshot.rs` is the snapshot. Below them, `table.rs`
//! is the keys with their times to live, `stored.rs` their values, `locks.rs` the locks with their fencing tokens,
//! `removed.rs` what is kept of keys that were removed, `glob.rs` the patterns of KEYS and SCAN, `budget.rs` how much
//! one request may answer, `commands.rs` what can be asked and answered, `op_error.rs` why an operation could not be
//! carried out. All of it lies in trees that share their nodes with their copies, so a copy of a million keys costs
//! nothing.
//! Not here: the Redis protocol (`resp/`), HTTP (`http/`).

mod budget;
pub(crate) mod commands;
pub(crate) mod glob;
mod key;
mod locks;
mod op_error;
mod queries;
mod removed;
mod service;
mod snapshot;
mod state;
mod stored;
mod table;
#[cfg(test)]
mod tests;

pub use self::commands::{Batch, BatchReply, Bytes, Condition, ExpireIf, Expiry, Op, Value};
pub use self::op_error::OpError;
pub use self::state::Store;
