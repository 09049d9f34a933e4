//! Judges of recorded histories, used by `sim/` (virtual processes) and `lab/` (real ones) alike.
//!
//! The tour: `history.rs` is the record of what clients did and were told, one JSON object per line; `linear.rs` decides
//! whether a history of registers (keys, counters, notes) is linearizable: whether each operation can be given one instant
//! between its call and its return such that every read sees the newest write before it.
//! Not here: invariants of nodes (`sim/checks/raft_checker.rs`), running anything.

pub(crate) mod history;
pub(crate) mod linear;

pub use history::{Action, Operation};
pub use linear::{Verdict, judge};
