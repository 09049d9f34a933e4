//! The figures of `phalanx bench failover`: how long clients wait when a leader dies, freezes, vanishes or transfers
//! its leadership.
//!
//! Five nodes with the default settings (with a witness, two and the witness); one client that knows all addresses writes a key every 5 ms, one at a time,
//! and continues with the next address when a node fails (`stream.rs`). The measurement starts right before the fault
//! and ends at the acknowledgement of the first write that was proposed after the fault. Before each round all nodes
//! are voters and have caught up, and the client moves to a random node, which is the leader one time in five. After
//! each round the fault is verified: the old process is gone, stopped or does not answer, another node leads in a higher
//! term. The nodes are on this host (`one_host.rs`) or each on a host of its own (`several_hosts.rs`); `apart.rs` runs
//! this program again where there can be such hosts.
//! Not here: printing (`cli/lab/bench.rs`), checks of histories (`check/`).

mod apart;
mod figure;
mod one_host;
mod part;
mod several_hosts;
mod stream;

pub use figure::Figure;
pub(crate) use figure::median;
pub use part::{Options, Part};

use super::monitors;
use crate::lab::hosts::namespaces;
use crate::lab::{Cluster, Result};
use crate::progress::Progress;
use serde::Serialize;
use std::path::Path;
use std::time::Duration;
use stream::{NODES, defaults};

/// What was measured, and what could not be.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// In the order of their parts.
    pub figures: Vec<Figure>,
    /// Parts that this machine or user does not allow.
    pub skipped: Vec<Skipped>,
}

/// A part that was not measured.
#[derive(Debug, Serialize)]
pub struct Skipped {
    /// Which.
    pub part: Part,
    /// What it needs, and what is missing.
    pub why: String,
}

/// Runs the plan; `progress` shows how far it is.
///
/// # Errors
/// Processes do not start, do not settle between rounds, or a fault cannot be proved.
pub fn run(exe: &Path, options: &Options, progress: &Progress) -> Result<Report> {
    monitors::raise_file_limit();
    let is_wanted = |part: &Part| options.only.is_empty() || options.only.contains(part);
    let mut report = Report::default();
    let mut shared: Option<Cluster> = None;
    for part in Part::ALL.into_iter().filter(is_wanted) {
        let rounds = options.rounds.unwrap_or(part.rounds()).max(1);
        if matches!(part, Part::ColdStart | Part::Witness) || part.needs_hosts() {
            // These parts start their own processes.
            shared = None;
            match part {
                Part::ColdStart => report.figures.push(one_host::cold_start(exe, rounds, progress)?),
                Part::Witness => report.figures.push(one_host::witness(exe, rounds, progress)?),
                _ => over_hosts(exe, part, rounds, options, progress, &mut report)?,
            }
            continue;
        }
        if shared.is_none() {
            progress.begin("starting five nodes");
            shared = Some(Cluster::ready(exe, NODES, &defaults())?);
        }
        let cluster = shared.as_mut().expect("started just above");
        match part {
            Part::Kill => report.figures.push(one_host::kill(cluster, rounds, progress)?),
            Part::Stop => report.figures.push(one_host::stop(cluster, rounds, progress)?),
            Part::Transfer => report.figures.push(one_host::transfer(cluster, rounds, progress)?),
            Part::Idle => {
                let span = Duration::from_secs(options.idle.max(1));
                report.figures.push(one_host::idle(cluster, span, progress)?);
            }
            Part::Monitors => report.figures.extend(one_host::hold_monitors(cluster, options.monitors, progress)?),
            Part::ColdStart | Part::Witness | Part::Vanished | Part::SlowLinks => unreachable!("handled above"),
        }
    }
    Ok(report)
}

/// Measures a part that needs hosts, here or in a process that can have some.
fn over_hosts(
    exe: &Path,
    part: Part,
    rounds: usize,
    options: &Options,
    progress: &Progress,
    report: &mut Report,
) -> Result<()> {
    if namespaces::is_apart() {
        match part {
            Part::Vanished => report.figures.push(several_hosts::vanished(exe, rounds, progress)?),
            _ => report.figures.extend(several_hosts::slow_links(exe, rounds, options, progress)?),
        }
    } else if let Err(why) = namespaces::check() {
        progress.print_line(&format!("{} skipped: {why}", part.name()));
        report.skipped.push(Skipped { part, why });
    } else {
        report.figures.extend(apart::measure(exe, part, rounds, options, progress)?);
    }
    Ok(())
}
