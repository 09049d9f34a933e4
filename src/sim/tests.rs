//! The simulator as a test.

use super::*;

#[test]
fn replay() {
    let Some(seed) = std::env::var("PHALANX_SEED").ok().and_then(|seed| seed.parse().ok()) else { return };
    let options = Options { is_traced: std::env::var_os("PHALANX_TRACE").is_some(), ..Options::default() };
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
