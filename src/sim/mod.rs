//! Virtual processes: the real raft and the real recovery code over a seeded network, disk and clock.
//!
//! One seed is one run. It draws a plan (`environment/plan.rs`, swarm testing), builds a world of nodes with disks and
//! links (`world.rs`, `events.rs`), injects faults (`steps/faults.rs`) while clients, workers and chat clients work,
//! and ends with a phase without faults in which progress must return (`steps/liveness.rs`).
//! - `environment/`: the plan, the network and the disks.
//! - `model/`: the state of nodes, clients, workers and transfers. `model/services.rs` runs the real services.
//! - `steps/`: what happens, one event after another; `clocks.rs`, `stale_disks.rs` (older copies of disks),
//!   `hostile_processes.rs` and `differences.rs` (a state that was altered) are scenarios of their own.
//! - `checks/`: the rules. `checks/raft_checker.rs` asserts those of consensus after every step,
//!   `checks/client_checker.rs` what clients were promised; both keep models of their own (`checks/log_model.rs`,
//!   `checks/kv_model.rs`, `checks/jobs_checker.rs`, `checks/delivery_checker.rs`).
//! - `coverage.rs` counts what happened; `seeds.rs` keeps the seeds that once found a bug; `planted_bugs.rs` lists
//!   known mistakes that the simulator must find.
//!
//! A failure prints the command that runs it again and prints its last events: `phalanx sim replay`, or a test where
//! the run differs from all that the program can do. Not here: real processes (`lab/`).

pub(crate) mod checks;
mod clocks;
pub(crate) mod coverage;
mod differences;
pub(crate) mod environment;
mod events;
mod hostile_processes;
pub(crate) mod model;
#[cfg(test)]
mod planted_bugs;
pub(crate) mod seeds;
mod stale_disks;
pub(crate) mod steps;
#[cfg(test)]
mod tests;
pub(crate) mod tuning;
pub(crate) mod violation;
mod world;

pub use self::environment::plan::Plan;
pub use self::model::host::Bugs;
#[cfg(test)]
pub use self::model::host::HostBugs;
pub use self::tuning::Tuning;
pub use self::violation::Violation;
pub use coverage::Coverage;

use std::cell::RefCell;
use std::fmt;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

/// How to run a seed.
#[derive(Clone, Copy, Default)]
pub struct Options {
    pub bugs: Bugs,
    /// Their name in the list of planted bugs.
    pub bugs_name: Option<&'static str>,
    /// Keep the last events for the failure.
    pub is_traced: bool,
    /// Changes to the plan that the seed drew, to aim at something.
    pub tuning: Option<Tuning>,
}

impl Options {
    /// The command that runs a seed again as it runs with these options.
    fn replay_command(&self, seed: u64) -> String {
        let is_known = |tuning: &Tuning| tuning::ALL.iter().any(|other| other.name == tuning.name);
        let (before, test) = match (self.bugs_name, self.tuning) {
            (Some(name), _) => (format!("PHALANX_PLANTED_SEED={name},{seed}"), "replay_planted"),
            (None, None) => return format!("phalanx sim replay {seed}"),
            (None, Some(tuning)) if is_known(&tuning) => {
                return format!("phalanx sim replay {seed} --plan {}", tuning.name);
            }
            (None, Some(tuning)) => {
                (format!("PHALANX_SEED={seed} PHALANX_PLAN={} PHALANX_TRACE=1", tuning.name), "sim::tests::replay")
            }
        };
        format!("{before} cargo test --lib {test} -- --nocapture")
    }
}

/// A run in which nothing broke.
#[derive(Clone, Debug)]
pub struct Report {
    /// Length in virtual ticks.
    pub ticks: u64,
    /// What happened.
    pub coverage: Coverage,
    /// Fingerprint of everything that happened: equal seeds give equal ones.
    pub hash: u64,
}

/// A run in which something broke.
#[derive(Clone, Debug)]
pub struct Failure {
    pub seed: u64,
    /// When, in virtual ticks.
    pub tick: u64,
    pub violation: Violation,
    /// The last events, if they were kept.
    pub trace: Vec<String>,
    /// The command that runs it again.
    pub replay_command: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.trace {
            writeln!(f, "{line}")?;
        }
        writeln!(f, "sim failed: {} at tick {} ({})", self.violation.what, self.tick, self.violation.rule)?;
        write!(f, "run it again: {}", self.replay_command)
    }
}

thread_local! {
    /// Message of a failed assertion in the run on this thread; `None` outside a run.
    static SAID: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Assertions that fail within a run are findings of that run: their message is kept, not printed.
fn catch_assertions() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let is_ours = SAID.with_borrow_mut(|said| match said {
                Some(said) => {
                    *said = info.to_string().replace('\n', " ");
                    true
                }
                None => false,
            });
            if !is_ours {
                before(info);
            }
        }));
    });
}

/// Runs one seed to its end, or to the first broken rule.
pub fn run(seed: u64, options: &Options) -> Result<Report, Box<Failure>> {
    catch_assertions();
    let outer = SAID.replace(Some(String::new()));
    let tune = |plan: &mut Plan, rng: &mut fastrand::Rng| {
        if let Some(tuning) = options.tuning {
            (tuning.change)(plan, rng);
        }
    };
    let mut slot: Option<world::World> = None;
    let result = panic::catch_unwind(AssertUnwindSafe(|| {
        let world = slot.insert(world::World::new(seed, options.bugs, options.is_traced, tune)?);
        world.run()
    }));
    let said = SAID.replace(outer).unwrap_or_default();
    let violation = match result {
        Ok(Ok(())) => None,
        Ok(Err(violation)) => Some(violation),
        Err(_) => Some(Violation { rule: "Assertion", what: said }),
    };
    let (tick, trace) = slot.as_ref().map_or((0, Vec::new()), |world| (world.tick(), world.trace()));
    match (violation, slot) {
        (Some(violation), _) => {
            let replay_command = options.replay_command(seed);
            Err(Box::new(Failure { seed, tick, violation, trace, replay_command }))
        }
        (None, Some(world)) => Ok(Report { ticks: tick, coverage: world.coverage, hash: world.hash.end() }),
        (None, None) => unreachable!("a run without a violation has a world"),
    }
}

/// What a sweep over many seeds found.
#[derive(Clone, Debug, Default)]
pub struct Sweep {
    /// Seeds that passed.
    pub passed: u64,
    /// All coverage of those, added up.
    pub coverage: Coverage,
    /// The others.
    pub failures: Vec<Failure>,
}

/// Runs `count` seeds from `from` on, one after the other; `each` is called after every seed and may stop the sweep.
pub fn sweep(from: u64, count: u64, options: &Options, mut each: impl FnMut(Option<&Failure>) -> bool) -> Sweep {
    let mut sweep = Sweep::default();
    for seed in from..from + count {
        let result = run(seed, options);
        let goes_on = each(result.as_ref().err().map(|failure| &**failure));
        match result {
            Ok(report) => {
                sweep.passed += 1;
                sweep.coverage += report.coverage;
            }
            Err(failure) => sweep.failures.push(*failure),
        }
        if !goes_on {
            break;
        }
    }
    sweep
}
