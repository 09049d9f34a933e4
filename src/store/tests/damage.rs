//! Truncates the files on disk at every byte, and flips every bit.

use super::*;
use crate::planted_bugs::StoreBugs;
use crate::store::inspect;
use crate::store::tests::fault_files::Restart;
use crate::store::wal::segment;
use std::path::PathBuf;

/// A disk with several segments and a snapshot, everything synced; sealed or not.
fn disk(options: &Options, is_sealed: bool) -> (FaultFiles, Durable, Durable) {
    let disk = FaultFiles::default();
    let (mut store, _) = open(&disk, options).unwrap();
    let state = Persist { hard_state: Some(hard_state(1, 1)), ..entries(1..=4, 1) };
    store.write(&state).unwrap();
    store.sync().unwrap();
    for index in 5..=12 {
        store.write(&entries(index..=index, 1)).unwrap();
        store.sync().unwrap();
    }
    store.snapshots().save(&meta(3, 1), &data(3)).unwrap();
    let before = Durable {
        hard_state: hard_state(1, 1),
        snapshot: Some(meta(3, 1)),
        entries: (4..=12).map(|index| entry(index, 1)).collect(),
    };
    store.write(&entries(13..=14, 1)).unwrap();
    store.sync().unwrap();
    let mut all = before.clone();
    all.entries.extend([entry(13, 1), entry(14, 1)]);
    drop(store);
    disk.restart(if is_sealed { Restart::Kill } else { Restart::LoseAll });
    (disk, all, before)
}

fn segments(disk: &FaultFiles) -> Vec<PathBuf> {
    disk.paths().into_iter().filter(|path| path.extension().is_some_and(|e| e == "wal")).collect()
}

/// Opens a copy with one file replaced.
fn open_with(disk: &FaultFiles, path: &Path, bytes: Vec<u8>, options: &Options) -> Result<Durable, StoreError> {
    let copy = disk.copy();
    copy.put(path, bytes);
    let opened = open(&copy, options).map(|(_, durable)| durable);
    if let Ok(durable) = &opened {
        // Whatever is accepted must come back the same for ever.
        copy.restart(Restart::LoseAll);
        assert_eq!(&open(&copy, options).unwrap().1, durable);
    }
    opened
}

/// Flips every bit of every file; each flip is refused with file and place, or costs nothing, or (`may_lose`) only the
/// newest batch. Says which bits went unpunished.
fn flip_everything(options: &Options, is_sealed: bool) -> Result<(), String> {
    let (disk, all, before) = disk(options, is_sealed);
    for path in disk.paths() {
        let bytes = disk.get(&path);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            match open_with(&disk, &path, flipped, options) {
                Ok(durable) if durable == all => {}
                // Nothing on disk proves that the newest batch was synced: part of it may be left.
                Ok(durable)
                    if !is_sealed
                        && durable.entries.len() >= before.entries.len()
                        && all.entries.starts_with(&durable.entries)
                        && durable.hard_state == all.hard_state => {}
                Ok(durable) => return Err(format!("bit {bit} of {}: {}", path.display(), brief(&durable))),
                Err(StoreError::Damaged { file, offset, .. }) => {
                    if file != path || offset > (bit / 8) as u64 {
                        return Err(format!("bit {bit} of {}: blamed {}:{offset}", path.display(), file.display()));
                    }
                }
                Err(StoreError::Version { file, .. }) if file == path && bit / 8 == 7 => {}
                Err(e) => return Err(format!("bit {bit} of {}: {e}", path.display())),
            }
        }
    }
    Ok(())
}

#[test]
fn every_flipped_bit_is_refused_or_costs_nothing() {
    flip_everything(&options(), true).unwrap();
    flip_everything(&Options { segment_bytes_min: 4000, segment_bytes_max: 4000, ..options() }, true).unwrap();
}

#[test]
fn without_the_seal_only_the_newest_batch_is_in_doubt() {
    flip_everything(&options(), false).unwrap();
    flip_everything(&Options { segment_bytes_min: 4000, segment_bytes_max: 4000, ..options() }, false).unwrap();
}

#[test]
fn damage_taken_for_a_torn_tail_is_found() {
    let bugs = StoreBugs { damage_is_torn_tail: true, ..StoreBugs::default() };
    flip_everything(&Options { bugs, ..options() }, true).unwrap_err();
}

#[test]
fn a_log_cut_at_any_byte_keeps_every_whole_record() {
    let options = Options { segment_bytes_min: 4000, segment_bytes_max: 4000, ..options() };
    let (disk, all, _) = disk(&options, true);
    let [path] = &segments(&disk)[..] else { panic!("one segment expected") };
    let bytes = disk.get(path);
    let mut ends = Vec::new();
    let source = segment::Source { path, number: 1, bytes: &bytes, node: None };
    let scan = segment::scan(source, |offset, _, record| {
        ends.push((offset, record));
        Ok(())
    });
    let (end, header_end) = scan.map(|scan| (scan.end, scan.header_end)).unwrap();
    for cut in header_end..=end + 5 {
        let whole = ends.iter().enumerate().filter(|(i, _)| ends.get(i + 1).map_or(end, |next| next.0) <= cut);
        let entries: Vec<_> = whole
            .filter_map(|(_, (_, record))| match record {
                crate::store::wal::record::Record::Entry(entry) if entry.index > Index(3) => Some(entry.clone()),
                _ => None,
            })
            .collect();
        let shorter = bytes[..cut].to_vec();
        let mut zeroed = bytes.clone();
        zeroed[cut..].fill(0);
        let mut garbage = bytes.clone();
        garbage[cut..].fill(0xa5);
        for damaged in [shorter, zeroed, garbage] {
            let durable = open_with(&disk, path, damaged, &options).unwrap_or_else(|e| panic!("cut at {cut}: {e}"));
            assert_eq!(durable.entries, entries, "cut at {cut}");
            assert!(all.entries.starts_with(&durable.entries));
        }
    }
    for cut in 0..header_end {
        let refused = open_with(&disk, path, bytes[..cut].to_vec(), &options).unwrap_err();
        assert!(matches!(refused, StoreError::Damaged { .. }), "cut at {cut}: {refused}");
    }
}

#[test]
fn a_cut_record_never_reappears() {
    let large = Options { segment_bytes_min: 4000, segment_bytes_max: 4000, ..options() };
    let disk = FaultFiles::default();
    let (mut store, _) = open(&disk, &large).unwrap();
    store.write(&entries(1..=3, 1)).unwrap();
    store.sync().unwrap();
    drop(store);
    disk.restart(Restart::LoseAll);
    let (mut store, _) = open(&disk, &large).unwrap();
    let path = segments(&disk).pop().unwrap();
    let filled = |disk: &FaultFiles| disk.get(&path).iter().rposition(|b| *b != 0).unwrap();
    let end = filled(&disk) + 1;
    // A batch of which the power cut leaves the second half: entry 4 is torn, 5 and 6 are whole.
    store.write(&entries(4..=6, 1)).unwrap();
    store.sync().unwrap();
    drop(store);
    disk.restart(Restart::LoseAll);
    let mut bytes = disk.get(&path);
    bytes[end + 30] ^= 1;
    disk.put(&path, bytes);
    let (mut store, durable) = open(&disk, &large).unwrap();
    assert_eq!(durable.entries, (1..=3).map(|i| entry(i, 1)).collect::<Vec<_>>());
    // Entry 4 again, of the same length: it ends where 5 began.
    store.write(&entries(4..=4, 2)).unwrap();
    store.sync().unwrap();
    drop(store);
    disk.restart(Restart::LoseAll);
    let (_, durable) = open(&disk, &large).unwrap();
    assert_eq!(durable.entries, [entry(1, 1), entry(2, 1), entry(3, 1), entry(4, 2)]);
}

#[test]
fn an_earlier_segment_is_never_cut() {
    let (disk, ..) = disk(&options(), true);
    let paths = segments(&disk);
    assert!(paths.len() >= 3, "{paths:?}");
    for path in &paths[..paths.len() - 1] {
        let bytes = disk.get(path);
        let filled = bytes.iter().rposition(|b| *b != 0).unwrap();
        for cut in 0..=filled {
            let mut zeroed = bytes.clone();
            zeroed[cut..].fill(0);
            for damaged in [bytes[..cut].to_vec(), zeroed] {
                let differs = bytes.iter().zip(&damaged).position(|(a, b)| a != b);
                let first_bad = differs.unwrap_or(damaged.len()) as u64;
                match open_with(&disk, path, damaged, &options()) {
                    Err(StoreError::Damaged { file, offset, .. }) => {
                        assert_eq!(&file, path);
                        assert!(offset <= first_bad, "cut at {cut}, blamed {offset}");
                    }
                    other => panic!("cut of {} at {cut}: {other:?}", path.display()),
                }
            }
        }
    }
}

#[test]
fn a_missing_segment_or_snapshot_is_a_hole() {
    let (full, ..) = disk(&options(), true);
    let paths = segments(&full);
    for path in &paths[..paths.len() - 1] {
        let copy = full.copy();
        super::super::Files::remove(&copy, path).unwrap();
        let why = open(&copy, &options()).err().expect("a hole").to_string();
        assert!(why.contains("phalanx node --id 3 --rejoin"), "{why}");
    }
    // Once the log was cut below the snapshot, the snapshot is all that is left of its entries.
    let (mut store, _) = open(&full, &options()).unwrap();
    store.save_snapshot(&meta(12, 1), &data(12)).unwrap();
    drop(store);
    let snapshot = full.paths().into_iter().find(|path| path.extension().is_some_and(|e| e == "snap")).unwrap();
    super::super::Files::remove(&full, &snapshot).unwrap();
    let why = open(&full, &options()).err().expect("a hole").to_string();
    assert!(why.contains("the log starts after entry"), "{why}");
}

#[test]
fn the_error_says_what_to_do() {
    let (disk, ..) = disk(&options(), true);
    let path = &segments(&disk)[1];
    let mut bytes = disk.get(path);
    let middle = bytes.iter().rposition(|b| *b != 0).unwrap() / 2;
    bytes[middle] ^= 0x10;
    disk.put(path, bytes);
    let why = open(&disk, &options()).err().unwrap().to_string();
    assert!(why.starts_with("damaged file data/node-3/wal/0000000000000002.wal at byte "), "{why}");
    assert!(why.contains("`phalanx node --id 3 --rejoin`"), "{why}");
}

#[test]
fn looking_changes_nothing_and_sees_what_a_start_would() {
    let (disk, all, _) = disk(&options(), true);
    let before: Vec<_> = disk.paths().iter().map(|path| (path.clone(), disk.get(path))).collect();
    let mut seen = 0;
    let summary = inspect::inspect(Arc::new(disk.clone()), dir(), |_| seen += 1).unwrap();
    assert!(summary.damage.is_empty() && summary.torn.is_none(), "{summary:?}");
    assert_eq!((summary.records, summary.hard_state), (seen, all.hard_state));
    assert_eq!(summary.entries, Some((Index(4), Index(14))));
    let after: Vec<_> = disk.paths().iter().map(|path| (path.clone(), disk.get(path))).collect();
    assert_eq!(before, after);

    let last = segments(&disk).pop().unwrap();
    let mut bytes = disk.get(&last);
    let end = bytes.iter().rposition(|b| *b != 0).unwrap();
    bytes[end + 3] = 1;
    disk.put(&last, bytes);
    let summary = inspect::inspect(Arc::new(disk.clone()), dir(), |_| {}).unwrap();
    assert!(summary.damage.is_empty() && summary.torn.is_some(), "{summary:?}");
    for path in disk.paths() {
        let mut bytes = disk.get(&path);
        bytes[10] ^= 1;
        disk.put(&path, bytes);
    }
    let summary = inspect::inspect(Arc::new(disk.clone()), dir(), |_| {}).unwrap();
    assert_eq!(summary.damage.len(), 2, "the log and the snapshot: {summary:?}");
}
