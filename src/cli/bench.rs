//! `phalanx bench failover`: what a leader's death costs on this machine, beside what it should cost.
//!
//! It starts nodes of its own on free ports with data in a temporary folder; a running cluster is not touched.
//! Not here: how each figure is taken (`lab/failover.rs`).

use super::fault::{Fault, code};
use super::term::{self, Colour};
use crate::lab::failover::{self, Figure, Part, Plan};
use serde_json::json;
use std::time::Duration;

/// Arguments of `phalanx bench`.
#[derive(Clone, Debug, clap::Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

/// What to measure.
#[derive(Clone, Debug, clap::Subcommand)]
enum BenchCommand {
    /// Leader killed, frozen, handed over; cold start; idle cost; many monitor pages
    Failover {
        /// Only these parts
        #[arg(long, value_delimiter = ',', value_name = "PART")]
        only: Vec<Part>,
        /// Rounds of each part [default: kill 20, stop 10, hand-over 10, cold-start 5]
        #[arg(long, value_name = "N")]
        rounds: Option<usize>,
        /// Monitor pages to hold
        #[arg(long, default_value_t = 2000, value_name = "N")]
        monitors: usize,
        /// Seconds that idle nodes are watched
        #[arg(long, default_value_t = 20, value_name = "SECONDS")]
        idle: u64,
        /// Answer in JSON
        #[arg(long)]
        json: bool,
    },
}

/// Measures and prints.
pub fn run(args: &BenchArgs) -> Result<(), Fault> {
    let BenchCommand::Failover { only, rounds, monitors, idle, json } = &args.command;
    let exe = std::env::current_exe().map_err(|e| {
        Fault::new(code::FAILED, format!("cannot find this program's own file: {e}"), "run it by its path")
    })?;
    let plan = Plan {
        exe,
        only: only.clone(),
        rounds: *rounds,
        monitors: *monitors,
        idle: Duration::from_secs((*idle).max(1)),
    };
    let figures = failover::run(&plan, &mut |line| eprintln!("{line}"))
        .map_err(|e| Fault::new(code::FAILED, e, "the nodes' last log lines stand above, if any was started"))?;
    if *json {
        let all_met = figures.iter().all(|f| f.is_met);
        term::json(&json!({"build": build(), "figures": figures, "all_met": all_met}));
    } else {
        term::out(&render(&figures));
    }
    Ok(())
}

fn build() -> &'static str {
    if cfg!(debug_assertions) { "debug" } else { "release" }
}

fn render(figures: &[Figure]) -> String {
    let number = |x: f64| if x >= 100.0 { format!("{x:.0}") } else { format!("{x:.2}") };
    let rows: Vec<Vec<String>> = figures
        .iter()
        .map(|f| {
            let met = if f.is_met { term::paint("yes", Colour::Green) } else { term::paint("no", Colour::Red) };
            let rounds = f.samples.len().to_string();
            vec![f.what.clone(), f.unit.into(), rounds, number(f.median), number(f.worst), f.target.into(), met]
        })
        .collect();
    let mut text = term::table(&["WHAT", "UNIT", "N", "MEDIAN", "WORST", "TARGET", "MET"], &rows);
    if cfg!(debug_assertions) {
        text += "(a debug build: figures for README come from cargo build --release)\n";
    }
    text
}
