//! Jobs: people's programs, each run to exactly one end by whichever worker is there.
//!
//! The log is the queue. The tour: `words.rs` is what can be asked and answered; `board.rs` holds jobs and workers and says
//! what a command changes; `schedule.rs` decides who gets which job; `saved.rs` is the snapshot; `flaws.rs` are known mistakes,
//! which only tests can switch on.
//! Assignments are no messages: they follow from the commands, on every node alike, and a worker learns its work by applying
//! the log.
//! Not here: compiling and running anything, limits and cages, doors.

mod board;
mod flaws;
mod saved;
mod schedule;
#[cfg(test)]
mod tests;
pub mod words;

pub use board::Board;
#[cfg(test)]
pub use flaws::Flaws;
pub use words::{Answer, Command, End, Job, JobId, Limits, Past, Query, Refusal, Request, State, Verdict, Worker};
