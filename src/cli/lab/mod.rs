//! Commands that start clusters of their own: to try them out, inject faults and measure.

pub(crate) mod bench;
pub(crate) mod chaos;
pub(crate) mod demo;
pub(crate) mod dev;
pub(crate) mod sim;

use crate::cli::fault::{Fault, code};
use crate::lab::LabError;
use std::path::PathBuf;

/// The path of this program, which is started again as nodes.
fn own_program() -> Result<PathBuf, Fault> {
    std::env::current_exe().map_err(|e| {
        Fault::new(code::FAILED, format!("cannot find the path of this program: {e}"), "run it with its full path")
    })
}

fn lab_fault(e: LabError) -> Fault {
    Fault::new(code::FAILED, e, "see the nodes' last log lines above, if any was started")
}
