//! Real processes on this machine: starting them, injecting faults, and checking the result.
//!
//! [`poll`] waits for conditions; `ports.rs` finds ports that no other process uses; `process.rs` is one child process
//! and its signals; [`Cluster`] is a set of them with their folder; `folders.rs` makes and removes such folders;
//! `hosts/` gives each of its nodes a host of its own; `terminal.rs` runs a program on a terminal of its own; `web.rs`
//! sends HTTP requests, and writes keys while nodes die; `jobs.rs` submits jobs and waits for them; `supervisor/` is the
//! parent process of a node that has faults on demand. The tests in
//! `tests/cluster/`, `bench/` and `demo/` use this module.
//!
//! Invariants: L1 a signal is only sent to a child that this process started and has not yet reaped, so its pid cannot
//! belong to another process. L2 when a cluster is dropped, its children are dead and reaped. L3 one cluster at a time
//! on a machine, unless one thread holds several or the test runner says otherwise (`ports.rs`): clusters would disturb
//! each other's figures and deadlines.
//! Not here: virtual processes (`sim/`), checks of histories (`check/`).

pub(crate) mod chaos;
pub(crate) mod cluster;
pub(crate) mod folders;
pub mod hosts;
pub mod jobs;
pub mod poll;
pub mod ports;
pub mod process;
pub(crate) mod supervisor;
pub mod terminal;
pub mod web;

pub use cluster::{Cluster, Host};
pub use poll::wait_until;

use std::io;
use std::time::Duration;

/// Errors while processes are started, stopped and queried.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A condition did not become true in time.
    #[error("timed out after {after:?} waiting until {what}{detail}")]
    Timeout {
        what: String,
        after: Duration,
        /// What was missing last, if the probe reports it.
        detail: String,
    },
    /// A system call failed.
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
    /// No block of free ports.
    #[error("no free block of ports between 10000 and 32000")]
    NoPorts,
    /// The process does not exist here, or has ended.
    #[error("node {0} is not running")]
    NotRunning(u64),
    /// An unexpected answer of a node.
    #[error("{0}")]
    Answer(String),
}

impl LabError {
    /// Wraps a system error with what was tried.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> LabError {
        let what = what.into();
        move |source| LabError::Io { what, source }
    }
}

/// Result of everything in this module.
pub type Result<T> = std::result::Result<T, LabError>;
