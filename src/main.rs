//! The binary: runs the command line (`cli/`) and returns its exit code.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(phalanx::cli::run())
}
