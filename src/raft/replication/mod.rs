//! How the log reaches the followers.
//!
//! The tour: `leader.rs` and `feeder.rs` send, with flow control; `follower.rs` is what a follower does with an append;
//! `commit.rs` the commit rule; `snapshot.rs` what replaces a log's beginning.
//! Not here: who leads (`raft/election.rs`), the data (`raft/state/`).

mod commit;
pub(super) mod feeder;
mod follower;
mod leader;
mod snapshot;
