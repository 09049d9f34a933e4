//! Detects compilers, some of which hang: those are reported as missing, the others are found, and detection does not
//! wait for long.

use crate::settings::Runtime;
use crate::work::runtimes::find_within;
use std::time::{Duration, Instant};

fn runtime(language: &str, probe: &str) -> Runtime {
    let words = |words: &[&str]| words.iter().map(|word| word.to_string()).collect();
    Runtime {
        language: language.to_string(),
        file_name: "main".to_string(),
        home: Vec::new(),
        probe: words(&["sh", "-c", probe]),
        compile: Vec::new(),
        run: words(&["true"]),
        reserves_mb: 0,
        threads: 0,
        line_buffered: false,
    }
}

fn languages(runtimes: &[Runtime], seconds: u64, at_most: Duration) -> Vec<String> {
    let begun = Instant::now();
    let found = find_within(runtimes, seconds);
    assert!(begun.elapsed() < at_most, "it took {:?}", begun.elapsed());
    found.into_iter().map(|found| format!("{} {}", found.runtime.language, found.version)).collect()
}

#[test]
fn a_hanging_runtime_counts_as_missing_and_delays_no_other() {
    let home = |script: &str| ["sh", "-c", script].map(String::from).to_vec();
    let all = [
        runtime("hangs", "echo 1; sleep 60"),
        runtime("first", "echo 1.0"),
        runtime("deaf", "trap '' TERM INT HUP; echo 1; while :; do sleep 60; done"),
        runtime("apart", "setsid sleep 60; echo 1"),
        Runtime { home: home("echo /; sleep 60"), ..runtime("homeless", "echo 1") },
        runtime("fails", "echo 1; exit 1"),
        runtime("last", "echo 2.0 >&2"),
    ];
    // Four of them hang: they must be probed in parallel.
    assert_eq!(languages(&all, 3, Duration::from_secs(10)), ["first 1.0", "last 2.0"]);
}

#[test]
fn a_process_left_behind_is_not_waited_for() {
    // Build tools often start a daemon, which keeps the inherited output pipe open.
    let all = [runtime("daemon", "setsid sleep 20 & echo 3.0"), runtime("wordy", "seq 100000")];
    assert_eq!(languages(&all, 5, Duration::from_secs(4)), ["daemon 3.0", "wordy 1"]);
}
