//! `phalanx chaos`: faults of nodes that run in a lab, on this host.
//!
//! A command ends as soon as the fault is in force; with `--for` it heals by itself. Exit codes: 0 done, 1 a supervisor
//! refuses or does not confirm it, 2 wrong usage, 4 no lab. `faults.rs` has the faults, `run.rs` a cluster of its own that
//! is broken and judged.
//! Not here: what the faults do (`faults/`), who does it (`lab/supervisor/`).

mod faults;
mod run;

use self::faults::{FaultCommand, Lab};
use crate::cli::client;
use crate::cli::fault::{Fault, code};
use crate::cli::term;
use crate::faults::control::{ControlError, LabNode, ProcessState};
use serde_json::json;
use std::path::PathBuf;

/// Arguments of `phalanx chaos`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "A NODE is a number, leader, or all.\n\nExamples:\n  ./run.sh --lab\n  \
    phalanx chaos kill leader --for 10s\n  phalanx chaos partition 1,2 3,4,5 --for 30s\n  \
    phalanx chaos delay leader --ms 80 --jitter 20\n  phalanx chaos loss 1 2 --percent 20\n  \
    phalanx chaos disk 3 slow --ms 200\n  phalanx chaos clock 2 +1h\n  phalanx chaos status\n  phalanx chaos heal\n\n\
    Exit codes: 0 in force, 1 refused or not confirmed, 2 wrong usage, 4 no such node in a lab on this host.")]
pub struct ChaosArgs {
    #[command(subcommand)]
    command: ChaosCommand,
    /// Settings file of the nodes [default: settings.json in the current directory, if there is one]
    #[arg(long, value_name = "FILE", global = true)]
    settings: Option<PathBuf>,
    /// Print the state of the nodes afterwards as JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum ChaosCommand {
    #[command(flatten)]
    Fault(FaultCommand),
    /// Show the nodes of the lab and their faults
    Status,
    /// Break a cluster of its own while clients record what they do, and give a verdict
    Run(run::RunArgs),
}

/// Injects the fault, and shows what has become of it.
pub fn run(args: &ChaosArgs) -> Result<(), Fault> {
    let asked = match &args.command {
        ChaosCommand::Run(asked) => return run::run(asked, args.json),
        ChaosCommand::Status => None,
        ChaosCommand::Fault(asked) => Some(asked),
    };
    let settings = client::settings(args.settings.as_deref())?;
    let lab = Lab::find(settings.clone())?;
    let Some(asked) = asked else {
        show(&lab, args.json);
        return Ok(());
    };
    let (lines, faults) = faults::carry_out(&lab, asked)?;
    if !args.json {
        lines.iter().for_each(|line| term::line(line));
    }
    let mut faults: Vec<Fault> = faults.into_iter().map(to_fault).collect();
    if let Some(last) = faults.pop() {
        faults.iter().for_each(|fault| _ = fault.report());
        return Err(last);
    }
    if args.json {
        show(&Lab::find(settings)?, true);
    }
    Ok(())
}

fn to_fault(e: ControlError) -> Fault {
    match e {
        ControlError::NoSupervisor { .. } => {
            Fault::new(code::UNREACHABLE, e, "phalanx chaos status lists the nodes of the lab")
        }
        _ => Fault::new(code::FAILED, e, "phalanx chaos status shows the state of each node"),
    }
}

fn show(lab: &Lab, is_json: bool) {
    match is_json {
        true => term::line(&json!({ "nodes": lab.nodes }).to_string()),
        false => lab.nodes.iter().for_each(|node| term::line(&row(node))),
    }
}

/// A node in one line.
fn row(node: &LabNode) -> String {
    let left = |left_ms: Option<u64>| left_ms.map_or(String::new(), |ms| format!(", {:.1} s left", ms as f64 / 1000.0));
    let process = match (node.process, node.pid) {
        (ProcessState::Running, Some(pid)) => format!("running (pid {pid})"),
        (ProcessState::Frozen, Some(pid)) => format!("frozen (pid {pid}{})", left(node.left_ms)),
        _ if node.left_ms.is_some() => format!("ended{}", left(node.left_ms)),
        _ => "ended".to_string(),
    };
    let faults: Vec<String> = node.faults.iter().map(|it| format!("{}{}", it.fault, left(it.left_ms))).collect();
    let faults = if faults.is_empty() { "no fault".to_string() } else { faults.join("; ") };
    format!("node {}: {process}; {faults}", node.node.0)
}
