//! One run of a seed: its options, its report or its failure, and the command that runs it again.
//!
//! Not here: the run itself (`sim/world.rs`), many seeds side by side (`cli/lab/sim/sweep.rs`).

use super::restriction::Restriction;
use crate::sim::coverage::Coverage;
use crate::sim::environment::plan::Plan;
use crate::sim::model::host::Bugs;
use crate::sim::recording::Recording;
use crate::sim::tuning::{self, Tuning};
use crate::sim::violation::Violation;
use crate::sim::world;
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
    /// Keep so many of the last events as lines; 0: none.
    pub trace_lines: usize,
    /// Keep what happens, for a picture.
    pub is_recorded: bool,
    /// Changes to the plan that the seed drew, to aim at something.
    pub tuning: Option<Tuning>,
    /// Parts of the plan that are left out, after the tuning.
    pub restriction: Restriction,
}

/// Lines of the trace that a failure shows.
pub const TRACE_LINES: usize = 40;

impl Options {
    /// What these options change of the plan that a seed drew.
    fn change(&self, plan: &mut Plan, rng: &mut fastrand::Rng) {
        if let Some(tuning) = self.tuning {
            (tuning.change)(plan, rng);
        }
        self.restriction.apply(plan);
    }

    /// The command that runs a seed again as it runs with these options.
    pub fn replay_command(&self, seed: u64) -> String {
        let is_known = |tuning: &Tuning| tuning::ALL.iter().any(|other| other.name == tuning.name);
        let restriction = self.restriction.arguments();
        let (before, test) = match (self.bugs_name, self.tuning) {
            (Some(name), _) if cfg!(feature = "planted-bugs") => {
                return format!("phalanx sim replay {seed} --planted {name}{restriction}");
            }
            (Some(name), _) => (format!("PHALANX_PLANTED_SEED={name},{seed}"), "replay_planted"),
            (None, None) => return format!("phalanx sim replay {seed}{restriction}"),
            (None, Some(tuning)) if is_known(&tuning) => {
                return format!("phalanx sim replay {seed} --plan {}{restriction}", tuning.name);
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
    /// The last events, if they were kept.
    pub trace: Vec<String>,
    /// What happened, if it was recorded.
    pub recording: Option<Recording>,
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
    /// What happened, if it was recorded.
    pub recording: Option<Recording>,
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

/// The plan that a seed has with these options.
pub fn plan(seed: u64, options: &Options) -> Plan {
    world::draw_plan(seed, |plan, rng| options.change(plan, rng)).0
}

/// Runs one seed to its end, or to the first broken rule.
pub fn run(seed: u64, options: &Options) -> Result<Report, Box<Failure>> {
    catch_assertions();
    let outer = SAID.replace(Some(String::new()));
    let tune = |plan: &mut Plan, rng: &mut fastrand::Rng| options.change(plan, rng);
    let mut slot: Option<world::World> = None;
    let result = panic::catch_unwind(AssertUnwindSafe(|| {
        let world = slot.insert(world::World::new(seed, options.bugs, options.trace_lines, tune)?);
        world.recording = options.is_recorded.then(|| Recording::new(world.hosts.len()));
        world.until_us = options.restriction.until_us();
        world.run()
    }));
    let said = SAID.replace(outer).unwrap_or_default();
    let violation = match result {
        Ok(Ok(())) => None,
        Ok(Err(violation)) => Some(violation),
        Err(_) => Some(Violation { rule: "Assertion", what: said }),
    };
    let (tick, trace) = slot.as_ref().map_or((0, Vec::new()), |world| (world.tick(), world.trace()));
    let recording = slot.as_mut().and_then(|world| world.recording.take());
    match (violation, slot) {
        (Some(violation), _) => {
            let replay_command = options.replay_command(seed);
            Err(Box::new(Failure { seed, tick, violation, trace, recording, replay_command }))
        }
        (None, Some(world)) => {
            Ok(Report { ticks: tick, coverage: world.coverage, hash: world.hash.end(), trace, recording })
        }
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

impl Sweep {
    /// Counts the result of one seed.
    pub fn add(&mut self, result: Result<Report, Box<Failure>>) {
        match result {
            Ok(report) => {
                self.passed += 1;
                self.coverage += report.coverage;
            }
            Err(failure) => self.failures.push(*failure),
        }
    }
}

/// Runs `count` seeds from `from` on, one after the other; `each` is called after every seed and may stop the sweep.
#[cfg(test)]
pub fn sweep(from: u64, count: u64, options: &Options, mut each: impl FnMut(Option<&Failure>) -> bool) -> Sweep {
    let mut sweep = Sweep::default();
    for seed in from..from + count {
        let result = run(seed, options);
        let goes_on = each(result.as_ref().err().map(|failure| &**failure));
        sweep.add(result);
        if !goes_on {
            break;
        }
    }
    sweep
}
