//! `phalanx chaos run`: a cluster of its own is broken while clients record what they do; then the verdict.
//!
//! Exit codes: 0 every promise was kept, 8 one was broken, 9 undecided, 1 the run itself failed.
//! Not here: the run (`lab/chaos/`), what each fault means (`faults.rs`).

use super::faults;
use crate::cli::fault::{Fault, code};
use crate::cli::lab::{lab_fault, own_program};
use crate::cli::term;
use crate::lab::chaos::plan::{KINDS, Options, Plan};
use crate::lab::chaos::{self, Ended, Injector, html};
use crate::lab::cluster::Cluster;
use crate::lab::folders::clean_up_on_signals;
use crate::progress::Progress;
use crate::time::parse_duration;
use clap::builder::PossibleValuesParser;
use std::path::PathBuf;
use std::time::Duration;

/// How much a run may last: a day.
const LASTS_MAX: Duration = Duration::from_secs(86_400);

#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Nodes, ports and folder are the run's own. Clients write, read and count over HTTP, the Redis protocol \
    and SQL, and record every outcome; each key's history must be linearizable, no acknowledged write may be lost, and in the end \
    all nodes must hold the same state.\n\nA plan has a fault on each line, after its time:\n  5s kill leader --for 2s\n  \
    10s partition 1,2 --for 4s\n  20s calm\nWhat follows the time is what follows phalanx chaos; calm heals everything and waits \
    until the cluster is healthy.\n\nExamples:\n  phalanx chaos run\n  phalanx chaos run --duration 10m --seed 7 --html run.html\n  \
    phalanx chaos run --faults kill,pause --nodes 3\n  phalanx chaos run --level eventual\n\n\
    Exit codes: 0 every promise was kept, 8 one was broken, 9 undecided, 1 the run itself failed, 2 wrong usage."
)]
pub struct RunArgs {
    /// How long faults are injected
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = lasts)]
    duration: Duration,
    /// Determines the faults [default: random]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Kinds of faults to draw from, with commas [default: all]
    #[arg(long, value_name = "KINDS", value_delimiter = ',', value_parser = PossibleValuesParser::new(KINDS))]
    faults: Vec<String>,
    /// Faults from this file instead
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seed", "faults"])]
    plan: Option<PathBuf>,
    /// Number of nodes
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=9))]
    nodes: u64,
    /// What is asked of the cluster: with eventual, reads may be stale and acknowledged writes be lost, which the verdict
    /// shows
    #[arg(long, default_value = "strong", value_parser = ["strong", "eventual"])]
    level: String,
    /// Number of clients
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(u64).range(1..=200))]
    clients: u64,
    /// Milliseconds from one operation of a client to its next
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pace: u64,
    /// Write a page with the timeline of the run
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

fn lasts(text: &str) -> Result<Duration, String> {
    let time = parse_duration(text).filter(|time| (Duration::from_secs(1)..=LASTS_MAX).contains(time));
    time.ok_or_else(|| "give a time from 1s to 24h, for example 90s or 10m".to_string())
}

pub fn run(args: &RunArgs, is_json: bool) -> Result<(), Fault> {
    let exe = own_program()?;
    let (plan, words) = plan(args)?;
    clean_up_on_signals();
    let options = Options {
        nodes: args.nodes,
        lasts: args.duration,
        clients: args.clients,
        pace: Duration::from_millis(args.pace),
        is_eventual: args.level == "eventual",
        plan,
    };
    let progress = Progress::new();
    progress.begin_timed(&words, args.duration);
    let Ended { report, cluster } =
        chaos::run(&exe, &options, injector, &mut |line| progress.print_line(line)).map_err(lab_fault)?;
    drop(progress);
    if let Some(path) = &args.html {
        std::fs::write(path, html::page(&report, &words)).map_err(|e| {
            Fault::new(code::FAILED, format!("cannot write {}: {e}", path.display()), "name another file with --html")
        })?;
    }
    match is_json {
        true => term::json(&report.json()),
        false => term::out(&report.text()),
    }
    let advice = format!("the nodes' logs and data are in {}", cluster.dir().display());
    match report.verdict() {
        "ok" => Ok(()),
        "violation" => Err(Fault::new(code::VIOLATION, "a promise was broken (see above)", advice)),
        _ => Err(Fault::new(code::UNDECIDED, "undecided (see above)", advice)),
    }
}

/// The plan, and the command that makes the same run again.
fn plan(args: &RunArgs) -> Result<(Plan, String), Fault> {
    let common = format!(
        "--duration {}ms --nodes {} --level {} --clients {} --pace {}",
        args.duration.as_millis(),
        args.nodes,
        args.level,
        args.clients,
        args.pace
    );
    if let Some(path) = &args.plan {
        let usage = |e: String| {
            Fault::new(code::USAGE, format!("{}: {e}", path.display()), "phalanx chaos run --help shows a plan")
        };
        let text = std::fs::read_to_string(path).map_err(|e| usage(e.to_string()))?;
        let plan = Plan::read(&text).map_err(|e| usage(e.to_string()))?;
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let command = line.split_once(char::is_whitespace).map_or("", |(_, command)| command.trim());
            if command != "calm" {
                faults::parse(command).map_err(|e| usage(format!("\"{line}\": {e}")))?;
            }
        }
        return Ok((plan, format!("phalanx chaos run --plan {} {common}", path.display())));
    }
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let is_wanted = |kind: &&str| args.faults.is_empty() || args.faults.iter().any(|it| it == kind);
    let kinds: Vec<&'static str> = KINDS.into_iter().filter(is_wanted).collect();
    let faults = if args.faults.is_empty() { String::new() } else { format!(" --faults {}", kinds.join(",")) };
    Ok((Plan::drawn(seed, kinds), format!("phalanx chaos run --seed {seed}{faults} {common}")))
}

/// Injects faults into the run's own cluster.
fn injector(cluster: &Cluster) -> Injector {
    let file = cluster.settings_path();
    Box::new(move |command| {
        // The environment of the user is for another cluster.
        let settings = crate::settings::Settings::load(Some(&file), [], &[]).map_err(|faults| format!("{faults:?}"))?.0;
        faults::inject(settings, command)
    })
}
