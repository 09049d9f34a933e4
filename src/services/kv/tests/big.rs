//! Measurements with a million keys: memory, copies, snapshots. To be run as a release build:
//! `cargo test --release --lib services::kv::tests::big -- --ignored --nocapture --test-threads=1`.

use super::super::{Batch, Condition, Expiry, Op, Store};
use super::{encode, stamp};
use crate::services::Service;
use crate::services::registry::Registry;
use std::time::Instant;

const KEYS: u64 = 1_000_000;

/// Returns the resident memory of this process in bytes.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

fn key(n: u64) -> Vec<u8> {
    format!("key:{n:012}").into_bytes()
}

fn set(key: Vec<u8>, value: Vec<u8>, expiry: Expiry) -> Op {
    Op::Set { key: key.into(), value: value.into(), condition: Condition::Always, expiry, get: false }
}

fn filled(numbers: impl Iterator<Item = u64>, expiry: impl Fn(u64) -> Expiry) -> Store {
    let mut store = Store::default();
    for n in numbers {
        let run = Batch { watched: Vec::new(), ops: vec![set(key(n), vec![b'v'; 100], expiry(n))] };
        store.apply(stamp(n + 1, 0), &encode(&run));
    }
    store
}

#[test]
#[ignore = "prints figures of a release build"]
fn memory_per_key() {
    let shuffled = || {
        let mut numbers: Vec<u64> = (0..KEYS).collect();
        fastrand::Rng::with_seed(1).shuffle(&mut numbers);
        numbers.into_iter()
    };
    // Only the first measurement in a process is exact.
    let way = std::env::var("PHALANX_BIG").unwrap_or_default();
    let before = resident();
    let started = Instant::now();
    let store = match way.as_str() {
        "ttl" => filled(shuffled(), |n| Expiry::In(1 + n * 7 % KEYS)),
        "shuffled" => filled(shuffled(), |_| Expiry::Never),
        _ => filled(0..KEYS, |_| Expiry::Never),
    };
    let took = started.elapsed();
    let per_key = (resident() - before) as f64 / KEYS as f64;
    let own = (key(0).len() + 100) as f64;
    println!("{way}: {per_key:.0} bytes per key, {:.0} beside key and value; {took:?} to write", per_key - own);
    assert!(per_key - own <= 300.0);
    drop(store);
}

#[test]
#[ignore = "prints figures of a release build"]
fn copies_and_snapshots() {
    let mut registry = Registry::default();
    let fill = filled(0..KEYS, |_| Expiry::Never);
    let started = Instant::now();
    let mut copy = fill.clone();
    println!("clone {:?}", started.elapsed());
    for (name, store) in [("shared", &mut copy), ("again", &mut fill.clone())] {
        let started = Instant::now();
        for n in 0..100_000 {
            let run =
                Batch { watched: Vec::new(), ops: vec![set(key(n * 7919 % KEYS), vec![b'w'; 100], Expiry::Never)] };
            store.apply(stamp(n, 1), &encode(&run));
        }
        println!("100000 writes to a copy ({name}) {:?}", started.elapsed());
        let started = Instant::now();
        for n in 0..100_000 {
            let run =
                Batch { watched: Vec::new(), ops: vec![set(key(n * 7919 % KEYS), vec![b'w'; 100], Expiry::Never)] };
            store.apply(stamp(n, 1), &encode(&run));
        }
        println!("100000 writes to the same places ({name}) {:?}", started.elapsed());
    }
    registry.kv = fill;
    let mut bytes = Vec::new();
    let started = Instant::now();
    registry.clone().snapshot(&mut bytes).unwrap();
    println!("snapshot of {} bytes written in {:?}", bytes.len(), started.elapsed());
    let mut back = Registry::default();
    let started = Instant::now();
    back.restore(&mut bytes.as_slice()).unwrap();
    let took = started.elapsed();
    println!("read in {took:?}");
    assert!(took.as_secs_f64() < 2.0 && back.kv() == registry.kv());
}
