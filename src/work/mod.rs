//! Runs users' programs: detects the languages of this machine, and runs one attempt of one job in a sandbox.
//!
//! The tour: `runtimes.rs` detects the available languages and builds their commands; `sandbox.rs` isolates a command,
//! `syscall_filter.rs` refuses system calls that namespaces do not isolate, `advice.rs` explains why a sandbox cannot
//! be set up; `run.rs` runs an attempt, `monitor.rs` follows its running command; `process_tree.rs` measures a process
//! with all its descendants, `namespace.rs` counts the processes of a sandbox; `scratch.rs` creates and measures an
//! attempt's folder, `untrusted_dir.rs` counts and removes the files that programs leave there, `leftovers.rs` has the
//! folder of all attempts and cleans up after a killed node.
//! Not here: assigning jobs (`services/jobs/`), the threads that run attempts (`node/`).

mod advice;
pub(crate) mod leftovers;
pub(crate) mod monitor;
mod namespace;
pub(crate) mod process_tree;
pub(crate) mod run;
pub(crate) mod runtimes;
pub(crate) mod sandbox;
pub(crate) mod scratch;
mod syscall_filter;
#[cfg(test)]
mod tests;
mod untrusted_dir;

/// Why a program cannot be run at all.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    /// No sandbox can be set up on this machine.
    #[error("jobs are refused here: this node cannot run programs in a sandbox: {why}")]
    NoSandbox {
        /// What was tried, how it failed, and what to do.
        why: String,
    },
    /// The sandbox of a program could not be set up; the program never began.
    #[error("the sandbox did not start: {why}")]
    NotStarted {
        /// Output of the wrapper program that failed, or its exit status.
        why: String,
    },
    /// A system call failed.
    #[error("cannot {doing}: {source}")]
    Io {
        /// The operation, as a verb phrase: "create the job's folder".
        doing: String,
        source: std::io::Error,
    },
}

impl WorkError {
    fn io(doing: &str) -> impl FnOnce(std::io::Error) -> WorkError {
        let doing = doing.to_string();
        move |source| WorkError::Io { doing, source }
    }
}
