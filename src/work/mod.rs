//! Running users' programs: which languages this machine has, and one attempt of one job in its sandbox.
//!
//! The tour: `runtimes.rs` knows how a language is compiled and run, and finds out which are available; `sandbox.rs`
//! isolates a command, `syscall_filter.rs` from what namespaces do not separate, `cure.rs` explains why that is not
//! possible; `run.rs` runs and watches an attempt; `process_tree.rs` measures a process with all its children,
//! `namespace.rs` counts those of a sandbox; `scratch.rs` makes and measures an attempt's folder, `untrusted_dir.rs`
//! counts and removes the files that programs leave there.
//! Not here: assigning jobs (`services/jobs/`), the threads that run attempts (`node/`).

mod cure;
mod namespace;
mod process_tree;
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
    /// Programs cannot be shut in on this machine.
    #[error("jobs are refused here: this node cannot run programs in a sandbox: {why}")]
    NoSandbox {
        /// What was tried and what came of it.
        why: String,
    },
    /// The sandbox could not be built around a program, which never began.
    #[error("the sandbox did not start: {why}")]
    NotStarted {
        /// What the one that failed said.
        why: String,
    },
    /// The machine failed.
    #[error("cannot {doing}: {source}")]
    Io {
        /// What was being done.
        doing: String,
        /// Why not.
        source: std::io::Error,
    },
}

impl WorkError {
    fn io(doing: &str) -> impl FnOnce(std::io::Error) -> WorkError {
        let doing = doing.to_string();
        move |source| WorkError::Io { doing, source }
    }
}
