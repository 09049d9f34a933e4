//! Virtual processes: the real raft and the real recovery code over a seeded network, disk and clock.
//!
//! One seed is one run. It draws a plan (`environment/plan.rs`, swarm testing), builds a world of nodes with disks and
//! links (`world.rs`, `events.rs`), injects faults (`steps/faults.rs`) while clients, workers and chat clients work,
//! and ends with a phase without faults in which progress must return (`steps/liveness.rs`).
//! - `environment/`: the plan, the network and the disks.
//! - `model/`: the state of nodes, clients, workers and transfers. `model/services.rs` runs the real services.
//! - `steps/`: what happens, one event after another; `clocks.rs`, `stale_disks.rs` (older copies of disks),
//!   `hostile_processes.rs` and `differences.rs` (a state that was altered) are scenarios of their own.
//! - `checks/`: the rules. `checks/raft_checker.rs` asserts those of consensus after every step,
//!   `checks/client_checker.rs` what clients were promised; both keep models of their own (`checks/log_model.rs`,
//!   `checks/kv_model.rs`, `checks/jobs_checker.rs`, `checks/delivery_checker.rs`).
//! - `exploration/`: one run of a seed with its options, restrictions of its plan, and how a failing run is shrunk.
//! - `recording.rs` keeps what one run did, for a picture.
//! - `coverage.rs` counts what happened; `seeds.rs` keeps the seeds that once found a bug; `planted_bugs/` lists
//!   known mistakes that the simulator must find.
//!
//! A failure prints the command that runs it again and prints its last events: `phalanx sim replay`, or a test where
//! the run differs from all that the program can do. Not here: real processes (`lab/`).

pub(crate) mod checks;
mod clocks;
pub(crate) mod coverage;
mod differences;
pub(crate) mod environment;
mod events;
mod exploration;
mod hostile_processes;
pub(crate) mod model;
#[cfg(any(test, feature = "planted-bugs"))]
pub(crate) mod planted_bugs;
pub(crate) mod recording;
pub(crate) mod seeds;
mod stale_disks;
pub(crate) mod steps;
#[cfg(test)]
mod tests;
pub(crate) mod tuning;
pub(crate) mod violation;
mod world;

pub use self::environment::plan::TICK_US;
pub use self::exploration::restriction::{self, Restriction};
#[cfg(test)]
pub use self::exploration::run::sweep;
pub use self::exploration::run::{Failure, Options, Report, Sweep, TRACE_LINES, run};
pub use self::exploration::shrink::shrink;
pub use self::recording::{Flight, MessageKind, NodeState, Recording};
pub use self::tuning::Tuning;
#[cfg(test)]
pub use self::violation::Violation;
pub use crate::raft::Role;
pub use coverage::Coverage;
