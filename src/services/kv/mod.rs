//! The replicated key-value store: strings under keys in order, with times to live, conditions and locks.
//!
//! The tour, from the top: `service.rs` applies commands and answers queries; `state/` has the state and the operations
//! that change it, `queries.rs` those that only read, `snapshot.rs` the snapshot. Below them, `glob.rs` has the
//! patterns of KEYS and SCAN, `budget.rs` the limits of one request, `growth.rs` what a command may add, `float.rs` the
//! numbers of INCRBYFLOAT, `commands.rs` the operations and replies, `op_error.rs` the errors of an operation. The
//! state is in persistent trees that share their nodes with copies, so copying a million keys is cheap.
//! Not here: the Redis protocol (`resp/`), HTTP (`http/`).

mod budget;
pub(crate) mod commands;
pub(crate) mod float;
pub(crate) mod glob;
mod growth;
mod op_error;
mod queries;
mod service;
mod snapshot;
mod state;
#[cfg(test)]
mod tests;

pub use self::commands::{Batch, BatchReply, Bytes, Condition, ExpireIf, Expiry, Op, Value};
pub use self::growth::Growth;
pub use self::op_error::OpError;
pub use self::state::Store;
