//! Jobs: people's programs, each run to exactly one end by whichever worker is there.
//!
//! The log is the queue. The tour: `commands.rs` is what can be asked and answered; `state.rs` holds jobs and workers
//! and says what a command changes; `schedule.rs` decides who gets which job; `queries.rs` answers questions;
//! `snapshot.rs` is the snapshot; `service.rs` puts them together. Assignments are no messages: they follow from the
//! commands, on every node alike, and a worker learns its work by applying the log.
//! Not here: compiling and running anything, limits and sandboxes (`work/`), endpoints (`http/`).

pub(crate) mod commands;
mod queries;
mod schedule;
mod service;
mod snapshot;
mod state;
#[cfg(test)]
mod tests;

pub use self::commands::{
    Answer, Command, End, Job, JobId, JobOutcome, Limits, Past, Query, Refusal, Request, State, Worker,
};
pub use self::state::JobTable;
