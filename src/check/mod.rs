//! Checks of recorded histories.
//!
//! `history.rs` is the record of what clients did and what was answered; `linear.rs` decides whether a history of
//! registers (keys, counters) is linearizable: whether each operation can be assigned a point in time between its call
//! and its return such that every read sees the newest write before it.
//! Not here: invariants of nodes (`sim/checks/raft_checker.rs`), running anything.

pub(crate) mod history;
pub(crate) mod linear;

pub use history::{Action, Operation};
pub use linear::{Verdict, check_history};
