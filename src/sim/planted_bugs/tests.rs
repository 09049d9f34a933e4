//! Every planted bug is found; by hand: how often, and by which run.
//!
//! Not here: the bugs (`mod.rs`).

use super::{ALL, Planted};
use crate::sim::exploration::run::TRACE_LINES;
use crate::sim::{Options, run, seeds};

/// Seed, tries and rule of the first run that finds it.
fn find(planted: &Planted, from: u64) -> Option<(u64, u64, String)> {
    let kept = seeds::PLANTED.iter().find(|(name, _)| *name == planted.name).map_or(&[][..], |(_, seeds)| seeds);
    let seeds = kept.iter().copied().chain(from..from + planted.seeds_max);
    for (tries, seed) in seeds.enumerate() {
        if let Err(failure) = run(seed, &planted.options()) {
            let what = failure.violation.what.lines().next().unwrap_or_default().to_string();
            return Some((seed, tries as u64 + 1, format!("{}: {what}", failure.violation.rule)));
        }
    }
    None
}

/// How often each planted bug is found: `PHALANX_PLANTED=FROM,SEEDS[,NAME]`.
#[test]
fn planted_by_hand() {
    let Some(args) = std::env::var("PHALANX_PLANTED").ok() else { return };
    let args: Vec<&str> = args.split(',').collect();
    let (from, count): (u64, u64) = (args[0].parse().unwrap(), args[1].parse().unwrap());
    for planted in ALL.iter().filter(|planted| args.get(2).is_none_or(|name| planted.name.contains(name))) {
        let began = std::time::Instant::now();
        let mut found = Vec::new();
        let mut rules = std::collections::BTreeMap::<&str, u64>::new();
        let mut example = String::new();
        for seed in from..from + count {
            if let Err(failure) = run(seed, &planted.options()) {
                found.push(seed);
                *rules.entry(failure.violation.rule).or_default() += 1;
                if example.is_empty() {
                    example = failure.violation.what.lines().next().unwrap_or_default().chars().take(150).collect();
                }
            }
        }
        let first = &found[..found.len().min(5)];
        println!(
            "{} {}/{count} {first:?} {rules:?} {:.1}s {example}",
            planted.name,
            found.len(),
            began.elapsed().as_secs_f32()
        );
    }
}

/// One run with a planted bug: `PHALANX_PLANTED_SEED=NAME,SEED`.
#[test]
fn replay_planted() {
    let Some(args) = std::env::var("PHALANX_PLANTED_SEED").ok() else { return };
    let (name, seed) = args.split_once(',').expect("NAME,SEED");
    let planted = ALL.iter().find(|planted| planted.name == name).expect("a planted bug");
    let options = Options { trace_lines: TRACE_LINES, ..planted.options() };
    match run(seed.parse().unwrap(), &options) {
        Ok(report) => println!("{report:?}"),
        Err(failure) => panic!("{failure}"),
    }
}

/// The simulator sees: every planted bug is found.
#[test]
fn each_planted_bug_is_found() {
    let mut missed = Vec::new();
    for planted in ALL {
        match find(planted, 0) {
            Some((seed, tries, what)) => println!("{}: seed {seed} after {tries} tries: {what}", planted.name),
            None => missed.push(planted.name),
        }
    }
    assert!(missed.is_empty(), "the simulator is blind to {missed:?}");
}
