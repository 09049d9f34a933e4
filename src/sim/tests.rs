//! The simulator as a test: seeds that must pass, seeds that once failed, and proof that a run depends on its seed
//! alone.
//!
//! `replay` and `sweep_by_hand` do nothing unless asked by the environment (see their comments). Planted bugs:
//! `planted_bugs/`.

use super::environment::plan::{self, DiskFailure, Plan};
use super::exploration::run::TRACE_LINES;
use super::model::host::{Bugs, HostBugs};
use super::planted_bugs as planted;
use super::*;
use crate::types::Ticks;

/// Seeds of each of the two sweeps, which run side by side.
const SEEDS: u64 = 1_000;

/// The processors are for those who measure time first: tests of clusters run beside sweeps. Where a process has one
/// test, as with nextest, this is for that test alone.
pub(super) fn give_way() {
    rustix::process::nice(19).expect("a lower priority needs no rights");
}

/// Runs seeds and asserts that none fails, and that enough happened for that to mean something.
fn assert_seeds_pass(from: u64) {
    give_way();
    let result = sweep(from, SEEDS, &Options::default(), |failure| {
        if let Some(failure) = failure {
            println!("{failure}\n");
        }
        true
    });
    let failed: Vec<u64> = result.failures.iter().map(|failure| failure.seed).collect();
    assert!(failed.is_empty(), "{} of {SEEDS} seeds failed: {failed:?}", failed.len());
    for (what, count) in result.coverage.rows() {
        // Per thousand seeds; the rarest is some hundred.
        let least = match what {
            "events" | "steps" => 1_000_000,
            "operations" | "commits" | "proposals" | "reads" => 20_000,
            "elections" | "crashes" | "starts" | "snapshots_saved" | "memberships" => 4_000,
            "snapshots_installed" | "wipes" | "partitions" | "transfers" | "boundary_crashes" => 500,
            "jobs" | "attempts" | "jobs_finished" => 5_000,
            "jobs_finished_again" | "jobs_cancelled" | "jobs_moved" | "workers_gone" => 300,
            // Only losses after a proof of life count, or after ten seconds: a run is too short. Golden scripts show
            // it.
            "jobs_given_up" => 0,
            // They have a sweep of their own.
            "differences_healed" | "takeovers" | "takeovers_tried" => 0,
            part if part.starts_with("hosted_") || part.starts_with("witness_") => 0,
            part if part.starts_with("healed_") => 0,
            _ => 50,
        };
        assert!(count >= least, "{what}: only {count} in {SEEDS} seeds, at least {least} expected");
    }
    println!("{} seeds from {from} passed: {:?}", result.passed, result.coverage);
}

#[test]
fn a_thousand_seeds_pass() {
    assert_seeds_pass(0);
}

#[test]
fn another_thousand_seeds_pass() {
    assert_seeds_pass(SEEDS);
}

#[test]
fn seeds_that_once_failed_pass() {
    for (tuning, seeds) in seeds::REGRESSIONS {
        for (seed, what) in seeds {
            if let Err(failure) = run(*seed, &Options { tuning, ..Options::default() }) {
                panic!("seed {seed} fails again ({what}):\n{failure}");
            }
        }
    }
}

/// The tunings of single tests, for `replay`.
const TUNINGS: [Tuning; 5] = [IDLE_WITH_HUNG_DISK, WRITES_TO_HUNG_DISK, WORKER_WITH_HUNG_DISK, SLOW_LINKS, DIFFERENCES];

/// Five voters that nothing happens to, and no client.
fn quiet(plan: &mut Plan) {
    (plan.voters, plan.spares, plan.clients) = (5, 0, 0);
    plan.drift = vec![1.0; 5];
    plan.faults.clear();
    (plan.boundary_crash, plan.restores, plan.hostile) = (0.0, 0.0, 0.0);
    plan.net = plan::NetPlan::without_faults();
    (plan.link_signals, plan.preempt, plan.has_autopilot, plan.replaces_voters) = (true, false, false, false);
    plan.departures_us = None;
}

/// The case of seed 811838: the leader's disk hangs, and no client writes.
const IDLE_WITH_HUNG_DISK: Tuning = Tuning {
    name: "idle-with-hung-disk",
    change: |plan, rng| {
        quiet(plan);
        (tuning::WITHOUT_JOBS.change)(plan, rng);
        plan.broken = Some(vec![Some(DiskFailure::HungDisk)]);
    },
};

#[test]
fn an_idle_leader_whose_disk_hangs_may_lead() {
    let options = Options { tuning: Some(IDLE_WITH_HUNG_DISK), ..Options::default() };
    for seed in 0..20 {
        run(seed, &options).unwrap_or_else(|failure| panic!("{failure}"));
    }
}

/// The counterpart: as soon as a client writes, the leader must step down.
const WRITES_TO_HUNG_DISK: Tuning = Tuning {
    name: "writes-to-hung-disk",
    change: |plan, rng| {
        (IDLE_WITH_HUNG_DISK.change)(plan, rng);
        (plan.clients, plan.reads, plan.think_us) = (1, 0.0, 100_000);
        plan.disk_stall_ticks = Ticks(u64::MAX / 2);
    },
};

#[test]
fn a_leader_with_a_hung_disk_must_step_down_once_there_are_writes() {
    let options = Options { tuning: Some(WRITES_TO_HUNG_DISK), ..Options::default() };
    for seed in 0..5 {
        let failure = run(seed, &options).expect_err("it never steps down");
        assert_eq!(failure.violation.rule, "Progress", "{failure}");
        assert!(failure.to_string().contains(&format!("PHALANX_SEED={seed} PHALANX_PLAN=writes-to-hung-disk ")));
    }
}

/// Five nodes on five continents, and a client.
const SLOW_LINKS: Tuning = Tuning {
    name: "slow-links",
    change: |plan, rng| {
        quiet(plan);
        (tuning::WITHOUT_JOBS.change)(plan, rng);
        plan.net.delay_us = (290_000, 310_000);
        (plan.heartbeat_ticks, plan.election_timeout_ticks) = (Ticks(10), Ticks(80));
        (plan.election_timeout_min_ticks, plan.election_timeout_max_ticks) = (Ticks(40), Ticks(1_000));
        (plan.rank_delay_ticks, plan.disk_stall_ticks) = (Ticks(4), Ticks(400));
        (plan.clients, plan.think_us, plan.deadline_us) = (1, 100_000, 5_000_000);
        plan.fault_us = 60_000_000;
    },
};

/// 300 ms one way: the first leader is elected by its second campaign, and stays.
#[test]
fn slow_links_elect_a_leader_and_keep_it() {
    let options = Options { tuning: Some(SLOW_LINKS), ..Options::default() };
    for seed in 0..20 {
        let report = run(seed, &options).unwrap_or_else(|failure| panic!("{failure}"));
        println!("seed {seed}: {} elections", report.coverage.elections);
        assert!(report.coverage.elections <= 2, "seed {seed}: {} leaders", report.coverage.elections);
    }
}

/// What seed 807516 was about: a worker whose disk hangs lacks the last entry, and its patience ends long after all
/// else has settled.
const WORKER_WITH_HUNG_DISK: Tuning = Tuning {
    name: "worker-with-hung-disk",
    change: |plan, rng| {
        quiet(plan);
        let mut jobs = plan::JobsPlan::draw(rng, plan);
        jobs.fail_after_ticks = Ticks(6 * plan.election_us() / plan::TICK_US);
        (jobs.ready_us, jobs.again_us) = (1_000, 3_000);
        plan.jobs = Some(jobs);
        plan.broken = Some(vec![None, Some(DiskFailure::HungDisk), Some(DiskFailure::Down)]);
    },
};

#[test]
fn a_worker_whose_disk_hangs_is_gone_before_the_end() {
    let options = Options { tuning: Some(WORKER_WITH_HUNG_DISK), ..Options::default() };
    for seed in 0..20 {
        let report = run(seed, &options).unwrap_or_else(|failure| panic!("seed {seed}: {failure}"));
        assert!(report.coverage.workers_gone >= 2, "seed {seed}: only {} gone", report.coverage.workers_gone);
    }
}

#[test]
fn survivors_that_host_the_voters_of_the_dead_break_no_rule() {
    give_way();
    let options = Options { tuning: Some(tuning::TAKEOVER), ..Options::default() };
    let result = sweep(0, 300, &options, |failure| match failure {
        Some(failure) => panic!("{failure}"),
        None => true,
    });
    let coverage = result.coverage;
    println!("{coverage:?}");
    assert!(coverage.takeovers >= 150 && coverage.takeovers_tried > coverage.takeovers, "{coverage:?}");
    assert!(coverage.hosted_led >= 1_000 && coverage.hosted_released >= 100, "{coverage:?}");
}

#[test]
fn witnesses_lose_no_entry_and_serve_nobody() {
    give_way();
    let options = Options { tuning: Some(tuning::WITNESS), ..Options::default() };
    let result = sweep(0, 300, &options, |failure| match failure {
        Some(failure) => panic!("{failure}"),
        None => true,
    });
    let coverage = result.coverage;
    println!("{coverage:?}");
    assert!(coverage.witness_led >= 300 && coverage.witness_waits >= 1_000, "{coverage:?}");
    assert!(coverage.wipes >= 100 && coverage.snapshots_saved >= 1_000, "{coverage:?}");
}

const DIFFERENCES: Tuning = Tuning { name: "differences", change: planted::differences };

#[test]
fn a_state_that_was_altered_is_found_and_healed() {
    give_way();
    let options = Options { tuning: Some(DIFFERENCES), ..Options::default() };
    let result = sweep(0, 40, &options, |failure| match failure {
        Some(failure) => panic!("{failure}"),
        None => true,
    });
    let healed = result.coverage.differences_healed;
    // In some runs the node is left out or dies first, and then there is nothing to find.
    assert!(healed >= 20, "only {healed} of 40 were healed");
    for (part, count) in result.coverage.rows().into_iter().filter(|(name, _)| name.starts_with("healed_")) {
        assert!(count >= 1, "{part}: never in 40 runs");
    }
}

#[test]
fn one_seed_is_one_run() {
    give_way();
    for seed in 0..20 {
        let hash = |trace_lines| {
            let options = Options { trace_lines, ..Options::default() };
            run(seed, &options).map(|report| (report.hash, report.ticks, report.coverage)).map_err(|f| f.to_string())
        };
        let first = hash(0).expect("these seeds pass");
        assert_eq!(first, hash(0).expect("it has just passed"), "seed {seed} ran differently the second time");
        assert_eq!(first, hash(40).expect("it has just passed"), "seed {seed} runs differently when watched");
        assert_ne!(first.0, run(seed + 1_000_000, &Options::default()).expect("passes").hash);
    }
}

#[test]
fn a_failure_prints_how_to_replay_it() {
    let options = Options {
        bugs: Bugs { host: HostBugs { synced_before_sync: true, ..HostBugs::default() }, ..Bugs::default() },
        bugs_name: Some("synced_before_sync"),
        trace_lines: TRACE_LINES,
        ..Options::default()
    };
    let failure = run(0, &options).expect_err("the planted bug is found at once");
    let text = failure.to_string();
    assert!(text.contains("sim failed: "), "{text}");
    let replay =
        "run it again: PHALANX_PLANTED_SEED=synced_before_sync,0 cargo test --lib replay_planted -- --nocapture";
    assert!(text.contains(replay), "{text}");
    assert!(text.contains(&format!("at tick {} ", failure.tick)), "{text}");
    assert!(!failure.trace.is_empty() && failure.trace.len() <= 41, "{} lines of trace", failure.trace.len());
}

#[test]
fn a_seed_is_replayed_with_the_plan_that_it_had() {
    let command = |tuning| Options { tuning, ..Options::default() }.replay_command(62);
    assert_eq!(command(None), "phalanx sim replay 62");
    assert_eq!(command(Some(tuning::WITHOUT_JOBS)), "phalanx sim replay 62 --plan without-jobs");
    assert_eq!(seeds::tuning_of(62).map(|tuning| tuning.name), Some("without-jobs"));
    assert!(seeds::tuning_of(63).is_none());
}

/// Runs one seed again: `PHALANX_SEED=N`, with its last events if `PHALANX_TRACE` is set (all, with
/// `PHALANX_TRACE_ALL`), and with the tuning that `PHALANX_PLAN` names.
#[test]
fn replay() {
    let Some(seed) = std::env::var("PHALANX_SEED").ok().and_then(|seed| seed.parse().ok()) else { return };
    let is_set = |name| std::env::var_os(name).is_some();
    let trace_lines = match (is_set("PHALANX_TRACE_ALL"), is_set("PHALANX_TRACE")) {
        (true, _) => usize::MAX,
        (false, true) => TRACE_LINES,
        (false, false) => 0,
    };
    let tuning = std::env::var("PHALANX_PLAN").ok().map(|name| {
        let found = tuning::ALL.into_iter().chain(TUNINGS).find(|tuning| tuning.name == name);
        found.unwrap_or_else(|| panic!("no plan is called {name}"))
    });
    let options = Options { trace_lines, tuning, ..Options::default() };
    match run(seed, &options) {
        Ok(report) => println!("{report:?}"),
        Err(failure) => panic!("{failure}"),
    }
}

/// A sweep by hand: `PHALANX_SWEEP=FROM,COUNT`.
#[test]
fn sweep_by_hand() {
    let Some(range) = std::env::var("PHALANX_SWEEP").ok() else { return };
    let (from, count) = range.split_once(',').expect("FROM,COUNT");
    let (from, count) = (from.parse().unwrap(), count.parse().unwrap());
    let began = std::time::Instant::now();
    let mut kinds = std::collections::BTreeMap::<String, Vec<u64>>::new();
    let result = sweep(from, count, &Options::default(), |failure| {
        let Some(failure) = failure else { return true };
        let what = failure.violation.what.lines().next().unwrap_or_default();
        if kinds.get(failure.violation.rule).is_none_or(|seeds| seeds.len() < 6) {
            println!("seed {} tick {} {}: {what}", failure.seed, failure.tick, failure.violation.rule);
        }
        kinds.entry(failure.violation.rule.to_string()).or_default().push(failure.seed);
        true
    });
    println!("passed {} of {count} in {:?}", result.passed, began.elapsed());
    for (kind, seeds) in kinds {
        println!("{kind}: {} {:?}", seeds.len(), &seeds[..seeds.len().min(12)]);
    }
    println!("{:?}", result.coverage);
}
