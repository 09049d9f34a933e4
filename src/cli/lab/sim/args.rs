//! Arguments of `phalanx sim`.
//!
//! Not here: what the subcommands do (`mod.rs`).

use super::sweep::THREADS_MAX;
use crate::sim::{Options, Restriction, Tuning, restriction, tuning};
use clap::builder::PossibleValuesParser;
use std::path::PathBuf;

/// Arguments of `phalanx sim`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:\n  phalanx sim run --seed 7 --nodes 5 --trace\n  \
    phalanx sim sweep --seeds 500 --from 1000\n  phalanx sim replay 1234 --plan witness\n  \
    phalanx sim run --seed 7 --html run.html\n  phalanx sim replay 1234 --to 400\n  \
    phalanx sim replay 1234 --nodes 3 --clients 1 --until 1200 --without partitions,wipes\n\n\
    Exit codes: 0 no violation, 2 wrong usage, 8 a safety property of Raft or the promise of an answer was violated; \
    the last lines then print the command that runs that seed again, and the smallest run that was found to break the \
    same rule.")]
pub struct SimArgs {
    #[command(subcommand)]
    pub command: SimCommand,
}

/// What to simulate.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum SimCommand {
    /// Run one seed
    Run {
        /// Determines network, disks, clocks, crashes and clients [default: random]
        #[arg(long)]
        seed: Option<u64>,
        /// Print every event
        #[arg(long)]
        trace: bool,
        #[command(flatten)]
        picture: PictureArgs,
        #[command(flatten)]
        plan: PlanArgs,
        #[command(flatten)]
        shrinking: ShrinkArgs,
    },
    /// Run many seeds, on all cores
    Sweep {
        /// Number of seeds
        #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..))]
        seeds: u64,
        /// First seed
        #[arg(long, default_value_t = 1)]
        from: u64,
        /// Seeds that run side by side [default: one on each core]
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..=THREADS_MAX))]
        threads: Option<u64>,
        /// Print how many seeds it takes until each planted bug is found; for builds with `--features planted-bugs`
        #[arg(long, conflicts_with_all = ["plan", "nodes", "clients", "operations", "fault_ticks", "until", "without"])]
        planted: bool,
        #[command(flatten)]
        plan: PlanArgs,
        #[command(flatten)]
        shrinking: ShrinkArgs,
    },
    /// Run one seed again and print its last events
    Replay {
        /// The seed that failed
        seed: u64,
        /// Print every event, not the last ones only
        #[arg(long)]
        trace: bool,
        /// With this planted bug
        #[cfg(feature = "planted-bugs")]
        #[arg(long, value_name = "NAME")]
        planted: Option<String>,
        #[command(flatten)]
        plan: PlanArgs,
    },
}

/// A page with a picture of the run.
#[derive(Clone, Debug, clap::Args)]
pub struct PictureArgs {
    /// Write a page with a picture of the run: nodes as lanes, terms as colours, messages as arrows
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// First tick of the picture [default: some before the violation, or 0]
    #[arg(long, value_name = "TICK", requires = "html")]
    pub from_tick: Option<u64>,
    /// Last tick of the picture
    #[arg(long, value_name = "TICK", requires = "html")]
    pub to_tick: Option<u64>,
}

/// How the first failures are shrunk.
#[derive(Clone, Debug, clap::Args)]
pub struct ShrinkArgs {
    /// Longest time to shrink a run that failed, in seconds; 0 does not shrink
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    pub shrink: u64,
}

/// What is changed of the plan that a seed draws.
#[derive(Clone, Debug, clap::Args)]
pub struct PlanArgs {
    /// A change to the plan that the seed draws; the last line of a run that failed says so
    #[arg(long, value_parser = PossibleValuesParser::new(tuning::ALL.map(|tuning| tuning.name)))]
    pub plan: Option<String>,
    /// So many voters, and no other nodes
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=restriction::NODES as u64))]
    nodes: Option<u64>,
    /// So many clients
    #[arg(long, value_parser = clap::value_parser!(u64).range(..=CLIENTS_MAX))]
    clients: Option<u64>,
    /// Clients begin so many operations together, at most
    #[arg(long)]
    operations: Option<u64>,
    /// Faults stop after so many ticks, or earlier
    #[arg(long, value_name = "TICKS")]
    fault_ticks: Option<u64>,
    /// End after this tick, without the checks of the end
    #[arg(long, visible_alias = "to", value_name = "TICK")]
    until: Option<u64>,
    /// Leave out these parts of the plan, separated by commas
    #[arg(long, value_delimiter = ',', hide_possible_values = true,
        value_parser = PossibleValuesParser::new(restriction::PARTS.iter().map(|part| part.name)))]
    without: Vec<String>,
}

/// Clients, at most: each has its own registers' values in the checker.
const CLIENTS_MAX: u64 = 100;

impl PlanArgs {
    /// The options that these arguments ask for.
    pub fn options(&self) -> Options {
        let restriction = Restriction {
            nodes: self.nodes.map(|count| count as usize),
            clients: self.clients.map(|count| count as usize),
            operations: self.operations,
            fault_ticks: self.fault_ticks,
            until: self.until,
            ..Restriction::default()
        };
        let restriction = restriction.without_parts(self.without.iter().map(String::as_str));
        Options { tuning: self.tuning(), restriction, ..Options::default() }
    }

    /// Whether these arguments ask for a run that ends at a tick.
    pub fn has_end(&self) -> bool {
        self.until.is_some()
    }

    fn tuning(&self) -> Option<Tuning> {
        tuning::ALL.into_iter().find(|tuning| Some(tuning.name) == self.plan.as_deref())
    }
}
