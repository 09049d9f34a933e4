//! The `takeover` thread: hosts the voters of dead processes of this host while the cluster has no majority without them.
//!
//! It may block on disks, locks and `core`. Messages to a hosted voter come from any thread that sends messages of raft
//! (`Shared::queue_raft`); its answers go to `core` as if a peer had sent them. No other node reaches it.
//! Files: `thread.rs` is the loop, `attempt.rs` one try to get the folders of a majority.
//! Not here: why this is safe, when it is tried and when it ends (`cluster/takeover/`); how the leader makes hosted
//! voters learners (`cluster/autopilot.rs`).

mod attempt;
mod thread;

pub(crate) use thread::run;
