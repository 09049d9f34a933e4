//! `phalanx sim run|sweep|replay`: the real consensus code on a simulated network, disk and clock; a seed determines
//! each run.
//!
//! Exit codes: 0 no violation, 8 a violation. A failure prints the command that runs it again; `replay` prints the last
//! events before it. Not here: the simulator (`sim/`).

use crate::cli::fault::code;
use crate::cli::term;
use crate::progress::Progress;
use crate::sim::{self, Coverage, Options, Tuning, seeds, tuning};
use clap::builder::PossibleValuesParser;
use std::time::Instant;

/// Failures that a sweep prints in full.
const FAILURES_MAX: usize = 5;

/// Arguments of `phalanx sim`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:\n  phalanx sim run --seed 7\n  phalanx sim sweep --seeds 500 --from 1000\n  \
    phalanx sim replay 1234 --plan witness\n\n\
    Exit codes: 0 no violation, 8 a safety property of Raft or the promise of an answer was violated; the last lines \
    then print the command that runs that seed again.")]
pub struct SimArgs {
    #[command(subcommand)]
    command: SimCommand,
}

/// What to simulate.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum SimCommand {
    /// Run one seed
    Run {
        /// Determines network, disks, clocks, crashes and clients [default: random]
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Run many seeds
    Sweep {
        /// Number of seeds
        #[arg(long, default_value_t = 2000)]
        seeds: u64,
        /// First seed
        #[arg(long, default_value_t = 1)]
        from: u64,
        /// A change to the plans that the seeds draw
        #[arg(long, value_parser = PossibleValuesParser::new(tuning::ALL.map(|tuning| tuning.name)))]
        plan: Option<String>,
    },
    /// Run one seed again and print its last steps
    Replay {
        /// The seed that failed
        seed: u64,
        /// The plan, if the run that failed did not have the one that its seed draws; its last line says so
        #[arg(long, value_parser = PossibleValuesParser::new(tuning::ALL.map(|tuning| tuning.name)))]
        plan: Option<String>,
    },
}

/// Runs it; returns the exit code.
pub fn run(args: SimArgs) -> u8 {
    match args.command {
        SimCommand::Run { seed } => {
            let seed = seed.unwrap_or_else(|| fastrand::u64(..1_000_000_000));
            one(seed, &Options::default())
        }
        SimCommand::Replay { seed, plan } => replay(seed, plan.as_deref()),
        SimCommand::Sweep { seeds, from, plan } => sweep(from, seeds, named(plan.as_deref())),
    }
}

fn named(plan: Option<&str>) -> Option<Tuning> {
    tuning::ALL.into_iter().find(|tuning| Some(tuning.name) == plan)
}

fn replay(seed: u64, plan: Option<&str>) -> u8 {
    let tuning = named(plan);
    if let Some(Tuning { name, .. }) = seeds::tuning_of(seed)
        && plan != Some(name)
    {
        eprintln!("note: the tests run seed {seed} with --plan {name}; this run has another plan");
    }
    one(seed, &Options { is_traced: true, tuning, ..Options::default() })
}

fn one(seed: u64, options: &Options) -> u8 {
    match sim::run(seed, options) {
        Ok(report) => {
            let plan = options.tuning.map_or(String::new(), |tuning| format!(" with the plan {}", tuning.name));
            term::line(&format!(
                "seed {seed}{plan}: no violation in {} ticks (fingerprint {:016x})",
                report.ticks, report.hash
            ));
            print(&report.coverage);
            0
        }
        Err(failure) => {
            term::line(&failure.to_string());
            code::VIOLATION
        }
    }
}

fn sweep(from: u64, seeds: u64, tuning: Option<Tuning>) -> u8 {
    let began = Instant::now();
    let mut printed = 0;
    let progress = Progress::new();
    progress.count(seeds);
    let result = sim::sweep(from, seeds, &Options { tuning, ..Options::default() }, |failure| {
        if let Some(failure) = failure.filter(|_| printed < FAILURES_MAX) {
            printed += 1;
            progress.aside(|| term::line(&format!("{failure}\n")));
        }
        progress.advance(1);
        true
    });
    drop(progress);
    term::line(&format!(
        "{} of {seeds} seeds from {from} passed in {:.1} s",
        result.passed,
        began.elapsed().as_secs_f64()
    ));
    print(&result.coverage);
    if result.failures.is_empty() {
        return 0;
    }
    let failed: Vec<u64> = result.failures.iter().map(|failure| failure.seed).collect();
    term::line(&format!("failed: {failed:?}"));
    code::VIOLATION
}

fn print(coverage: &Coverage) {
    for (what, count) in coverage.rows() {
        term::line(&format!("{count:>12} {}", what.replace('_', " ")));
    }
}
