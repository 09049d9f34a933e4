//! Fingerprints that are the same on every machine and in every build, and runs that shrink.

use super::restriction::{PARTS, Restriction};
use super::run::{Options, run};
use super::shrink::shrink;
use crate::sim::model::host::{Bugs, HostBugs};
use crate::sim::tuning;

/// Seed, plan, length in ticks and fingerprint, as `phalanx sim run` prints them. They change when the simulator or the
/// code that it runs changes; `UPDATE_GOLDENFILES=1 cargo test --lib fingerprints` records them again.
const FINGERPRINTS: &str = "src/sim/exploration/fingerprints.txt";

#[test]
fn fingerprints_are_as_recorded() {
    let mut found = String::new();
    for (seed, tuning) in [
        (1, None),
        (7, None),
        (62, Some(tuning::WITHOUT_JOBS)),
        (1234, Some(tuning::WITNESS)),
        (5, Some(tuning::TAKEOVER)),
        (10_115_394, None),
    ] {
        let report = run(seed, &Options { tuning, ..Options::default() }).expect("this seed passes");
        let plan = tuning.map_or("as-drawn", |tuning| tuning.name);
        found += &format!("{seed} {plan} {} {:016x}\n", report.ticks, report.hash);
    }
    if std::env::var_os("UPDATE_GOLDENFILES").is_some() {
        std::fs::write(FINGERPRINTS, &found).expect("the sources can be written");
    }
    let recorded = std::fs::read_to_string(FINGERPRINTS).expect("it is in the sources");
    assert_eq!(
        found, recorded,
        "runs differ from those on other machines, or the simulator changed: then \
         UPDATE_GOLDENFILES=1 cargo test --lib fingerprints"
    );
}

fn planted() -> Options {
    let host = HostBugs { synced_before_sync: true, ..HostBugs::default() };
    Options { bugs: Bugs { host, ..Bugs::default() }, ..Options::default() }
}

#[test]
fn a_shrunk_run_breaks_the_same_rule_with_less() {
    let options = planted();
    let failure = run(0, &options).expect_err("the planted bug is found at once");
    let (smaller, restriction) = shrink(&failure, &options, &mut || false);
    assert_eq!(smaller.violation.rule, failure.violation.rule);
    assert!(restriction.without.count_ones() >= 3, "hardly anything was left out: {restriction:?}");
    assert!(smaller.replay_command.len() > failure.replay_command.len(), "{}", smaller.replay_command);
    // The printed restriction is the one that was found, and it needs nothing else.
    assert!(smaller.replay_command.ends_with(&restriction.arguments()), "{}", smaller.replay_command);
    let again = run(0, &Options { restriction, ..options }).expect_err("it fails again");
    assert_eq!((again.violation, again.tick), (smaller.violation, smaller.tick));
    // What is not planted does not break.
    assert!(run(0, &Options { restriction, ..Options::default() }).is_ok());
}

#[test]
fn shrinking_stops_when_it_is_told() {
    let options = planted();
    let failure = run(0, &options).expect_err("the planted bug is found at once");
    let mut asked = 0;
    let (same, restriction) = shrink(&failure, &options, &mut || {
        asked += 1;
        true
    });
    assert_eq!((restriction, same.tick), (Restriction::default(), failure.tick));
    assert!(asked > 0);
}

#[test]
fn a_restriction_is_written_as_arguments() {
    assert_eq!(Restriction::default().arguments(), "");
    let restriction = Restriction { nodes: Some(3), clients: Some(1), until: Some(1_200), ..Restriction::default() }
        .without_parts(["wipes", "partitions"]);
    assert_eq!(restriction.arguments(), " --nodes 3 --clients 1 --until 1200 --without partitions,wipes");
    assert!(PARTS.len() <= 64, "each part has a bit");
}
