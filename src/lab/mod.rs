//! Real processes on this machine: starting them, injecting faults, and checking the result.
//!
//! The tour: [`poll`] is the one place that waits for something to become true; `ports.rs` finds ports that no other
//! process uses; `process.rs` is one child process and the signals it can get; [`Cluster`] is a folder full of them,
//! `folders.rs` such folders and their end; `terminal.rs` is a program that is typed at; `web.rs` speaks HTTP as an
//! outsider would, and writes keys while nodes die; `bench/failover.rs`, `bench/monitors.rs`, `bench/kv_rates.rs`,
//! `bench/sql_rates.rs` and `bench/large_store.rs` measure, the last three with the clients of `bench/load.rs`, which
//! speak what `bench/protocols.rs` and `bench/etcd_zookeeper.rs` teach them; `jobs.rs` is a client of the jobs,
//! `bench/job_rates.rs` measures them and `demo/jobs.rs` plays them; `bench/chat_rates.rs` and `demo/chat.rs` do the
//! same with the chat. Tests in `tests/cluster/` and `phalanx bench` stand on the same code.
//!
//! Invariants: L1 a signal only ever goes to a child that this process started and has not yet reaped, so no
//! stranger's pid is hit. L2 when a cluster is dropped its children are dead and reaped. L3 one cluster at a time on a
//! machine, unless one thread holds several or the runner of the tests says otherwise (`ports.rs`): figures and deadlines
//! would otherwise measure the neighbours.
//! Not here: virtual processes (`sim/`), verdicts on histories (`check/`).

pub(crate) mod cluster;
pub(crate) mod folders;
pub mod jobs;
pub mod poll;
pub mod ports;
pub mod process;
pub mod terminal;
pub mod web;

pub use cluster::Cluster;
pub use poll::wait_until;

use std::io;
use std::time::Duration;

/// What can go wrong while processes are started, broken and asked.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The probe never said yes.
    #[error("timed out after {after:?} waiting until {what}{detail}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        after: Duration,
        /// What the last look showed, if the probe said.
        detail: String,
    },
    /// The system refused.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why not.
        source: io::Error,
    },
    /// No block of free ports.
    #[error("no free block of ports between 10000 and 32000")]
    NoPorts,
    /// The process does not exist here, or has ended.
    #[error("node {0} is not running")]
    NotRunning(u64),
    /// A node answered what it should not.
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
