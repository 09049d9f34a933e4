//! The binary: hands the command line to `cli/` and its answer to the system.
//!
//! Not here: everything else.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(phalanx::cli::run())
}
