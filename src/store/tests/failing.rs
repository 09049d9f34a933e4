//! Operations fail, once or for ever; the disk runs full.

use super::*;
use crate::planted_bugs::StoreBugs;
use crate::store::RealFiles;
use crate::store::tests::fault_files::{Fault, Restart};

/// Lets operation `n` fail; the store must say so, stay silent for ever, and keep its promises.
fn fail_at(fault: Fault, how: Restart, options: &Options) -> Result<bool, String> {
    let disk = FaultFiles::default();
    disk.plan(Some(fault));
    let mut model = Model::default();
    let mut has_failed = true;
    if let Ok((mut store, _)) = open(&disk, options) {
        let result = run(&mut store, &mut model, &script());
        has_failed = result.is_err();
        if let Err(e) = result {
            let operations = disk.operations();
            for result in [store.write(&entries(1..=1, 9)), store.sync(), store.prepare(), store.compact(Index(0))] {
                if !matches!(result, Err(StoreError::Poisoned { .. })) {
                    return Err(format!("after \"{e}\" the store said {result:?}"));
                }
            }
            if disk.operations() != operations {
                return Err("a poisoned store touched the disk".to_string());
            }
        }
    }
    disk.restart(how);
    reopen_and_judge(&disk, options, &model)?;
    Ok(has_failed)
}

fn fail_everywhere(options: &Options) -> Result<(), String> {
    for n in 1.. {
        let mut has_failed = false;
        for fault in [Fault::Once(n), Fault::Forever(n)] {
            for how in [Restart::Kill, Restart::LoseAll, Restart::LoseSome(n)] {
                let failed = fail_at(fault, how, options).map_err(|why| format!("{fault:?}, {how:?}: {why}"))?;
                has_failed |= failed;
            }
        }
        if !has_failed {
            return if n > 100 { Ok(()) } else { Err(format!("operation {n} failed unseen")) };
        }
    }
    unreachable!("the script ends")
}

#[test]
fn a_failed_operation_poisons_the_store_and_costs_nothing_synced() {
    fail_everywhere(&options()).unwrap();
}

#[test]
fn a_retried_sync_is_found() {
    let bugs = StoreBugs { retry_failed_sync: true, ..StoreBugs::default() };
    let why = fail_everywhere(&Options { bugs, ..options() }).unwrap_err();
    assert!(why.contains("recovered") || why.contains("refused"), "{why}");
}

#[test]
fn a_full_disk_is_reported_and_nothing_synced_is_lost() {
    let mut said = 0;
    for room in (0..6000).step_by(37) {
        let disk = FaultFiles::default();
        disk.set_room(Some(room));
        let mut model = Model::default();
        let result = open(&disk, &options()).and_then(|(mut store, _)| run(&mut store, &mut model, &script()));
        match result {
            Err(StoreError::NoSpace { doing }) => {
                said += 1;
                assert!(doing.contains("data/node-3"), "{doing}");
            }
            Err(e) => panic!("room {room}: {e}"),
            Ok(()) => {}
        }
        disk.set_room(None);
        for how in [Restart::Kill, Restart::LoseSome(room)] {
            let copy = if how == Restart::Kill { disk.copy() } else { disk.clone() };
            copy.restart(how);
            reopen_and_judge(&copy, &options(), &model).unwrap_or_else(|why| panic!("room {room}, {how:?}: {why}"));
        }
    }
    assert!(said > 20, "the disk was full {said} times only");
}

#[test]
fn preparing_on_a_full_disk_is_no_error_yet() {
    let disk = FaultFiles::default();
    let large = Options { segment_bytes_min: 1000, segment_bytes_max: 1000, ..options() };
    let (mut store, _) = open(&disk, &large).unwrap();
    store.write(&entries(1..=12, 1)).unwrap();
    store.sync().unwrap();
    disk.set_room(Some(1100));
    for _ in 0..5 {
        store.prepare().unwrap();
    }
    let result = (13..100).try_for_each(|index| store.write(&entries(index..=index, 1)));
    assert!(matches!(result, Err(StoreError::NoSpace { .. })), "{result:?}");
    assert!(matches!(store.sync(), Err(StoreError::Poisoned { .. })));
}

#[test]
fn a_full_disk_is_asked_once_in_each_segment() {
    let disk = FaultFiles::default();
    let (mut store, _) =
        open(&disk, &Options { segment_bytes_min: 1000, segment_bytes_max: 1000, ..options() }).unwrap();
    store.write(&entries(1..=12, 1)).unwrap();
    store.sync().unwrap();
    let job = store.spare_job().expect("the segment is half full");
    assert!(store.spare_job().is_none(), "one is out");
    disk.set_room(Some(0));
    store.take_spare(job.run()).unwrap();
    assert!(store.spare_job().is_none(), "there was no room a moment ago");
    disk.set_room(None);
    let mut next = (13..60).filter_map(|index| {
        store.write(&entries(index..=index, 1)).unwrap();
        store.sync().unwrap();
        store.spare_job()
    });
    assert!(next.next().is_some(), "the next segment has its own");
}

#[test]
fn a_snapshot_being_read_stays_whole_when_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = Store::open(Arc::new(RealFiles), dir.path(), Options::default()).unwrap();
    store.write(&entries(1..=9, 1)).unwrap();
    store.sync().unwrap();
    // Larger than what is removed in one step.
    let bytes = vec![7; 5 << 20];
    store.save_snapshot(&meta(4, 1), &bytes).unwrap();
    let mut reader = store.newest_snapshot().unwrap().unwrap();
    let mut read = reader.next_chunk().unwrap().unwrap();
    store.save_snapshot(&meta(8, 1), &bytes).unwrap();
    while let Some(chunk) = reader.next_chunk().unwrap() {
        read.extend_from_slice(&chunk);
    }
    assert!(read == bytes, "{} of {} bytes", read.len(), bytes.len());
    assert_eq!(store.snapshots().list().unwrap(), [(Index(8), Term(1))]);
}

#[test]
fn a_transfer_that_makes_no_sense_is_refused() {
    let disk = FaultFiles::default();
    let (store, _) = open(&disk, &options()).unwrap();
    let mut receiver = store.receive_snapshot(&meta(5, 1), 10).unwrap();
    receiver.chunk(0, b"12345").unwrap();
    assert!(matches!(receiver.chunk(4, b"5"), Err(StoreError::Transfer(_))));
    assert!(matches!(receiver.chunk(5, b"678901"), Err(StoreError::Transfer(_))));
    assert!(matches!(receiver.finish(), Err(StoreError::Transfer(_))));
    assert!(!store.snapshots().has_received(&meta(5, 1)).unwrap());
}

#[test]
fn two_leaders_may_stream_the_same_snapshot_at_once() {
    let disk = FaultFiles::default();
    let (mut store, _) = open(&disk, &options()).unwrap();
    let snapshot = meta(5, 1);
    let mut receivers = [5, 5].map(|index| store.receive_snapshot(&meta(index, 1), 200).unwrap());
    for receiver in &mut receivers {
        receiver.chunk(0, &data(5)).unwrap();
    }
    for receiver in receivers {
        receiver.finish().unwrap();
    }
    let temporary = || disk.paths().iter().filter(|path| path.extension().is_some_and(|e| e == "tmp")).count();
    for index in 6..9 {
        drop(store.receive_snapshot(&meta(index, 1), 200).unwrap());
        assert_eq!(temporary(), 1, "transfers that broke off must not fill the disk");
    }
    store.receive_snapshot(&meta(9, 1), 200).unwrap().abandon();
    assert_eq!(temporary(), 0);
    store.write(&Persist { install: Some(snapshot.clone()), ..Persist::default() }).unwrap();
    store.sync().unwrap();
    disk.restart(Restart::LoseAll);
    let (store, durable) = open(&disk, &options()).unwrap();
    assert_eq!(durable.snapshot, Some(snapshot));
    assert_eq!(store.newest_snapshot().unwrap().unwrap().read_all().unwrap(), data(5));
    assert!(disk.paths().iter().all(|path| path.extension().is_none_or(|e| e != "tmp")));
}
