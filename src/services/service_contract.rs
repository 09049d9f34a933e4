//! Test helpers for the requirements of every service: golden scripts, invalid commands, damaged snapshots.
//!
//! Not here: tests of one service's behaviour (in its module), of all services together (`registry.rs`, `sim/`).

use super::{Reply, Service};
use crate::types::{Index, Stamp};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Returns the stamp of an entry.
pub fn stamp(index: u64, at_ms: u64) -> Stamp {
    Stamp { index: Index(index), at_ms }
}

/// Returns the service's snapshot.
pub fn saved(service: &impl Service) -> Vec<u8> {
    let mut bytes = Vec::new();
    service.snapshot(&mut bytes).unwrap();
    bytes
}

/// Returns a new service restored from a snapshot.
pub fn restored<S: Service + Default>(bytes: &[u8]) -> S {
    let mut service = S::default();
    service.restore(&mut &bytes[..]).unwrap();
    service
}

/// Runs the golden scripts of a service, each with a new runner.
pub fn scripts<R: goldenscript::Runner>(service: &str, new: impl Fn() -> R) {
    let folder = format!("{}/src/services/{service}/scripts", env!("CARGO_MANIFEST_DIR"));
    let mut paths: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "script"));
    paths.sort();
    assert!(!paths.is_empty(), "no scripts in {folder}");
    let mut failed = Vec::new();
    for path in paths {
        match catch_unwind(AssertUnwindSafe(|| goldenscript::run(&mut new(), &path))) {
            Ok(Ok(())) => {}
            Ok(Err(why)) => failed.push(format!("{}: {why}", path.display())),
            Err(_) => failed.push(format!("{}: panicked", path.display())),
        }
    }
    assert!(failed.is_empty(), "scripts failed: {failed:#?}");
}

/// Asserts that invalid commands and queries, and a truncated `command`, fail and change nothing.
pub fn garbage_changes_nothing(service: &mut impl Service, command: &[u8]) {
    let before = saved(service);
    for garbage in [&[][..], &[0xff; 3], &[0xff; 9], &command[..5]] {
        assert!(matches!(service.apply(stamp(9, 0), garbage), Reply::Failed(_)), "{garbage:?}");
    }
    assert!(matches!(service.query(stamp(9, 0), &[0xff; 3]), Reply::Failed(_)));
    assert_eq!(saved(service), before);
}

/// Asserts that a snapshot restores the same state, that a truncated one is an error, and that a damaged one is an
/// error or another state, but never a panic or an allocation failure.
pub fn damage_costs_nothing<S: Service + Default>(service: &S) {
    let bytes = saved(service);
    assert_eq!(saved(&restored::<S>(&bytes)), bytes);
    for end in 0..bytes.len() {
        assert!(S::default().restore(&mut &bytes[..end]).is_err(), "cut at {end}");
    }
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x80;
        let _ = S::default().restore(&mut damaged.as_slice());
    }
}
