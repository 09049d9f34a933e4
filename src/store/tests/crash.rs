//! The machine stops at every single operation of a script, and of the recovery after it.

use super::*;
use crate::planted_bugs::StoreBugs;
use crate::store::tests::fault_files::{Fault, Restart};

/// Operations of the whole script on a well disk.
fn operations(options: &Options) -> u64 {
    let disk = FaultFiles::default();
    let (mut store, _) = open(&disk, options).unwrap();
    run(&mut store, &mut Model::default(), &script()).unwrap();
    assert!(store.segment_numbers()[0] > 1, "the script must reach compaction");
    disk.operations()
}

/// Runs the script with a crash at operation `n`; the disk as it comes back and what may be on it.
fn crash_at(n: u64, how: Restart, options: &Options) -> (FaultFiles, Model) {
    let disk = FaultFiles::default();
    disk.plan(Some(Fault::Crash(n)));
    let mut model = Model::default();
    if let Ok((mut store, _)) = open(&disk, options) {
        // It always fails, but at a seal the model does not know that the sync before it worked.
        let _ = run(&mut store, &mut model, &script());
    }
    disk.restart(how);
    (disk, model)
}

fn crash_everywhere(options: &Options, seeds: u64) -> Result<(), String> {
    for n in 1..=operations(options) {
        let some = (0..seeds).map(|seed| Restart::LoseSome(n * 1000 + seed));
        for how in [Restart::Kill, Restart::LoseAll].into_iter().chain(some) {
            let (disk, model) = crash_at(n, how, options);
            let judged = reopen_and_judge(&disk, options, &model);
            judged.map_err(|why| format!("crash at operation {n}, {how:?}: {why}"))?;
        }
    }
    Ok(())
}

#[test]
fn nothing_synced_is_lost_and_nothing_invented_wherever_it_crashes() {
    crash_everywhere(&options(), 6).unwrap();
}

#[test]
fn nor_with_large_segments() {
    let large = Options { segment_bytes_min: 4000, segment_bytes_max: 4000, ..options() };
    let disk = FaultFiles::default();
    let (mut store, _) = open(&disk, &large).unwrap();
    run(&mut store, &mut Model::default(), &script()).unwrap();
    let total = disk.operations();
    for n in 1..=total {
        for seed in 0..4 {
            let (disk, model) = crash_at(n, Restart::LoseSome(seed * 7919 + n), &large);
            reopen_and_judge(&disk, &large, &model).unwrap_or_else(|why| panic!("crash at {n}, seed {seed}: {why}"));
        }
    }
}

#[test]
fn recovery_may_crash_anywhere_too() {
    let options = options();
    for n in (1..=operations(&options)).step_by(5) {
        for m in 1.. {
            let (disk, model) = crash_at(n, Restart::LoseSome(n), &options);
            disk.plan(Some(Fault::Crash(m)));
            let is_through = open(&disk, &options).is_ok();
            disk.restart(Restart::LoseSome(m * 31 + n));
            let judged = reopen_and_judge(&disk, &options, &model);
            judged.unwrap_or_else(|why| panic!("crash at operation {n}, then at {m} of recovery: {why}"));
            if is_through {
                break;
            }
        }
    }
}

#[test]
fn the_planted_bugs_of_the_log_are_found() {
    let broken = |bugs| crash_everywhere(&Options { bugs, ..options() }, 6);
    let why = broken(StoreBugs { vote_in_its_own_record: true, ..StoreBugs::default() }).unwrap_err();
    assert!(why.contains("recovered"), "{why}");
    let why = broken(StoreBugs { replay_resurrects_truncated: true, ..StoreBugs::default() }).unwrap_err();
    assert!(why.contains("recovered"), "{why}");
}

#[test]
fn a_snapshot_from_another_history_takes_the_log_with_it() {
    let disk = FaultFiles::default();
    let (mut store, _) = open(&disk, &options()).unwrap();
    let state = Persist { hard_state: Some(hard_state(1, 1)), ..entries(1..=9, 1) };
    store.write(&state).unwrap();
    store.sync().unwrap();
    // Saved by another thread, before the log's own overwriting record was synced.
    store.snapshots().save(&meta(5, 2), &data(5)).unwrap();
    drop(store);
    for _ in 0..2 {
        disk.restart(Restart::LoseAll);
        let (_, durable) = open(&disk, &options()).unwrap();
        let expected = Durable { hard_state: hard_state(2, 0), snapshot: Some(meta(5, 2)), entries: Vec::new() };
        assert_eq!(durable, expected);
    }
    let (mut store, _) = open(&disk, &options()).unwrap();
    store.write(&entries(6..=7, 2)).unwrap();
    store.sync().unwrap();
    disk.restart(Restart::LoseAll);
    assert_eq!(open(&disk, &options()).unwrap().1.entries, vec![entry(6, 2), entry(7, 2)]);
}
