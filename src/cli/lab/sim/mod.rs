//! `phalanx sim run|sweep|replay`: the real consensus code on a simulated network, disk and clock; a seed determines
//! each run.
//!
//! Exit codes: 0 no violation, 2 usage, 8 a violation. A failure prints the command that runs it again, and the
//! smallest run that breaks the same rule; `replay` prints the last events before it. Not here: the simulator (`sim/`),
//! the threads of a sweep (`sweep.rs`), planted bugs (`planted.rs`), drawings (`picture/`).

mod args;
mod picture;
#[cfg(feature = "planted-bugs")]
mod planted;
mod sweep;

pub use self::args::SimArgs;

use self::args::{PictureArgs, SimCommand};
use self::picture::Subject;
use self::sweep::Seeds;
use crate::cli::fault::{Fault, code};
use crate::cli::term;
use crate::progress::Progress;
use crate::sim::{self, Coverage, Failure, Options, TRACE_LINES, Tuning, seeds};
use std::time::{Duration, Instant};

/// Failures that a sweep prints in full.
const FAILURES_MAX: usize = 5;
/// Numbers of seeds that failed which a sweep lists.
const SEEDS_LISTED_MAX: usize = 100;

/// Runs it; returns the exit code.
pub fn run(args: SimArgs) -> u8 {
    match args.command {
        SimCommand::Run { seed, trace, picture, plan, shrinking } => {
            let seed = seed.unwrap_or_else(|| fastrand::u64(..1_000_000_000));
            let trace_lines = if trace { usize::MAX } else { 0 };
            let options = Options { trace_lines, ..plan.options() };
            if let Some(fault) = draw(seed, &picture, &options) {
                return fault.report();
            }
            one(seed, &options, Duration::from_secs(shrinking.shrink))
        }
        SimCommand::Replay {
            seed,
            trace,
            #[cfg(feature = "planted-bugs")]
            planted,
            plan,
        } => {
            note_plan(seed, plan.plan.as_deref());
            let trace_lines = if trace { usize::MAX } else { TRACE_LINES };
            let options = Options { trace_lines, ..plan.options() };
            #[cfg(feature = "planted-bugs")]
            let options = match planted {
                Some(name) => match planted::options(&name) {
                    Some(bug) => Options { trace_lines, restriction: options.restriction, ..bug },
                    None => return Fault::new(code::USAGE, format!("no planted bug is called {name}"), "").report(),
                },
                None => options,
            };
            if plan.has_end() { one_to_tick(seed, &options) } else { one(seed, &options, Duration::ZERO) }
        }
        SimCommand::Sweep { seeds, from, threads, planted, plan, shrinking } => {
            let seeds = Seeds { from, count: seeds.min(u64::MAX - from) };
            let threads = threads.unwrap_or_else(sweep::cores);
            if planted {
                return sweep_planted(seeds, threads);
            }
            many(seeds, threads, plan.options(), Duration::from_secs(shrinking.shrink))
        }
    }
}

#[cfg(feature = "planted-bugs")]
fn sweep_planted(seeds: Seeds, threads: u64) -> u8 {
    planted::sweep(seeds, threads)
}

/// Says how to make a build that has planted bugs.
#[cfg(not(feature = "planted-bugs"))]
fn sweep_planted(_: Seeds, _: u64) -> u8 {
    let next = "build one that has: cargo run --release --features planted-bugs -- sim sweep --planted";
    Fault::new(code::USAGE, "this build has no planted bugs", next).report()
}

/// Says it if the tests run this seed with another plan.
fn note_plan(seed: u64, plan: Option<&str>) {
    if let Some(Tuning { name, .. }) = seeds::tuning_of(seed)
        && plan != Some(name)
    {
        eprintln!("note: the tests run seed {seed} with --plan {name}; this run has another plan");
    }
}

fn one(seed: u64, options: &Options, shrinking: Duration) -> u8 {
    match sim::run(seed, options) {
        Ok(report) => {
            // The trace of a run in which nothing broke is for those who ask for all of it.
            if options.trace_lines == usize::MAX {
                report.trace.iter().for_each(|line| term::line(line));
            }
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
            print_shrunk(&failure, options, shrinking);
            code::VIOLATION
        }
    }
}

/// Writes the page about a run, if the user asked for one.
fn draw(seed: u64, args: &PictureArgs, options: &Options) -> Option<Fault> {
    let path = args.html.as_ref()?;
    let result = sim::run(seed, &Options { is_recorded: true, trace_lines: 0, ..*options });
    let (recording, failure) = match &result {
        Ok(report) => (report.recording.as_ref(), None),
        Err(failure) => (failure.recording.as_ref(), Some(&**failure)),
    };
    let Some(recording) = recording else {
        return Some(Fault::failed(format!("seed {seed} broke a rule before its run began: there is nothing to draw")));
    };
    let window = picture::window((args.from_tick, args.to_tick), recording, failure);
    let page = picture::page(&Subject { seed, command: options.replay_command(seed), failure }, recording, window);
    let written = std::fs::write(path, page);
    let failed = |e| Fault::failed(format!("cannot write {}: {e}", path.display()));
    written.err().map(failed)
}

/// A run up to a tick: its last events, whether or not something broke.
fn one_to_tick(seed: u64, options: &Options) -> u8 {
    match sim::run(seed, options) {
        Ok(report) => {
            report.trace.iter().for_each(|line| term::line(line));
            term::line(&format!("seed {seed}: no violation up to tick {}", report.ticks));
            0
        }
        Err(failure) => {
            term::line(&failure.to_string());
            code::VIOLATION
        }
    }
}

/// Looks for a smaller run that breaks the same rule, and prints its line.
fn print_shrunk(failure: &Failure, options: &Options, longest: Duration) {
    if longest.is_zero() {
        return;
    }
    let began = Instant::now();
    let (smaller, restriction) = sim::shrink(failure, options, &mut || began.elapsed() >= longest);
    if restriction == options.restriction {
        term::line("no smaller run was found that breaks the same rule");
    } else {
        term::line(&format!("smallest run found ({}): {}", smaller.violation.rule, smaller.replay_command));
    }
}

fn many(seeds: Seeds, threads: u64, options: Options, shrinking: Duration) -> u8 {
    let began = Instant::now();
    let mut printed = 0;
    let progress = Progress::new();
    progress.count(seeds.count);
    let result = sweep::sweep(seeds, threads, options, |failure| {
        if let Some(failure) = failure.filter(|_| printed < FAILURES_MAX) {
            printed += 1;
            progress.aside(|| {
                term::line(&failure.to_string());
                // One failure is enough to learn from; the others may have the same cause.
                print_shrunk(failure, &options, if printed == 1 { shrinking } else { Duration::ZERO });
                term::line("");
            });
        }
        progress.advance(1);
    });
    drop(progress);
    let result = match result {
        Ok(result) => result,
        Err(e) => {
            return Fault::new(code::FAILED, format!("cannot start {threads} threads: {e}"), "use fewer --threads")
                .report();
        }
    };
    let done = result.passed + result.failures.len() as u64;
    if done < seeds.count {
        term::line(&format!("interrupted after {done} of {} seeds", seeds.count));
    }
    let seconds = began.elapsed().as_secs_f64();
    term::line(&format!("{} of {done} seeds from {} passed in {seconds:.1} s", result.passed, seeds.from));
    print(&result.coverage);
    if result.failures.is_empty() {
        return 0;
    }
    print_failed(&result.failures);
    code::VIOLATION
}

fn print_failed(failures: &[Failure]) {
    let failed: Vec<u64> = failures.iter().map(|failure| failure.seed).take(SEEDS_LISTED_MAX).collect();
    let more = failures.len() - failed.len();
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    term::line(&format!("failed: {failed:?}{rest}"));
}

fn print(coverage: &Coverage) {
    for (what, count) in coverage.rows() {
        term::line(&format!("{count:>12} {}", what.replace('_', " ")));
    }
}
