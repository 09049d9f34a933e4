//! Jobs: users' programs, which workers run; each job ends exactly once.
//!
//! The replicated log is the queue. The tour: `commands.rs` has the commands, queries and replies; `state.rs` has jobs
//! and workers and applies commands; `schedule.rs` assigns jobs to workers; `queries.rs` answers queries; `snapshot.rs`
//! is the snapshot; `service.rs` is the service's facade. No message assigns a job: assignments follow from the
//! commands, equally on every node, and a worker learns about its jobs by applying the log.
//! Not here: compiling and running programs, limits and sandboxes (`work/`), endpoints (`http/`).

pub(crate) mod commands;
mod queries;
mod schedule;
mod service;
mod snapshot;
mod state;
#[cfg(test)]
mod tests;

pub use self::commands::{
    Answer, Command, End, Job, JobId, JobOutcome, Limits, PastAttempt, Query, Refusal, Request, State, Worker,
};
pub use self::state::JobTable;
