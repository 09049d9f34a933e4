//! What each module may use and name, which libraries may be in the tree, how many files in a folder.
//!
//! Not here: imports in a circle (`circles.rs`).

use crate::fault::{Fault, check_all, fault, lines};
use crate::source::{
    blank, check_sources, is_test_file, paths, product, root, sources, tests_of, top_module, without_tests,
};
use std::collections::BTreeMap;

/// Which modules a module may use, from the top down, and why where it is not plain.
/// `types`, `limits` and `settings` lie at the bottom; the pure modules get only what is pure of them.
const ARROWS: &[(&str, &[&str])] = &[
    ("main", &["cli"]),
    // The command line starts everything and parses every answer.
    (
        "cli",
        &[
            "demo", "bench", "lab", "client", "sim", "check", "http", "resp", "node", "faults", "cluster", "wire",
            "outcome", "store", "services", "raft", "types", "limits", "settings", "text", "time", "progress",
            "address",
        ],
    ),
    // Demonstrations and measurements drive clusters of the lab.
    ("demo", &["lab", "client", "check", "node", "types", "settings"]),
    // One of them runs the bare command of a job's sandbox, to compare.
    ("bench", &["lab", "client", "node", "work", "types", "settings", "text", "progress"]),
    // Lab and sim stand side by side: real processes and virtual ones; both hand histories to check.
    (
        "lab",
        &[
            "lock", "client", "check", "node", "faults", "work", "store", "raft", "types", "settings", "text", "time",
            "address",
        ],
    ),
    // The simulator runs the real core, the real recovery code and the real registry; no threads, no sockets.
    ("sim", &["lock", "check", "cluster", "store", "services", "raft", "planted_bugs", "types", "limits", "settings"]),
    // A client knows what an answer says, and nothing of the node that gave it.
    ("client", &["types", "text", "address"]),
    // Judges see recorded histories only.
    ("check", &["types"]),
    (
        "http",
        &[
            "lock", "node", "faults", "outcome", "services", "raft", "types", "limits", "settings", "text", "time",
            "address",
        ],
    ),
    ("resp", &["lock", "node", "outcome", "services", "raft", "types", "limits", "settings", "address"]),
    (
        "node",
        &[
            "lock",
            "faults",
            "cluster",
            "wire",
            "outcome",
            "store",
            "work",
            "services",
            "raft",
            "planted_bugs",
            "types",
            "limits",
            "settings",
            "text",
            "time",
            "address",
        ],
    ),
    // Discovery asks over the peer protocol; autopilot and health read what the core shows.
    (
        "cluster",
        &[
            "lock",
            "wire",
            "outcome",
            "store",
            "services",
            "raft",
            "planted_bugs",
            "types",
            "limits",
            "settings",
            "address",
        ],
    ),
    // Frames carry what others own: raft messages, service replies, and reasons.
    ("wire", &["outcome", "services", "raft", "types", "limits"]),
    // A reason names what raft or a service refused; the table has a row for each.
    ("outcome", &["services", "raft", "types", "limits"]),
    // The log on disk holds raft entries and promises.
    ("store", &["raft", "planted_bugs", "types", "limits"]),
    // An attempt takes a job's request and gives its end; which languages there are is a setting.
    ("work", &["services", "types", "limits", "settings"]),
    // The pure modules do not know each other: the log carries opaque bytes.
    ("services", &["lock", "planted_bugs", "types", "limits"]),
    ("raft", &["planted_bugs", "types", "limits"]),
    // What a person injects into nodes of a lab.
    ("faults", &["lock", "types"]),
    ("settings", &["types", "limits", "text", "address"]),
    ("types", &["limits"]),
    ("limits", &[]),
    ("text", &[]),
    ("address", &[]),
    // Mutexes; a pure module may have some, because SQLite calls its functions from where it likes.
    ("lock", &[]),
    // Durations and times as text; how far something is.
    ("time", &[]),
    ("progress", &[]),
    // Switches of known mistakes, for tests alone.
    ("planted_bugs", &[]),
    ("lib", &[]),
];

/// Rooms that may not touch the world.
const PURE: &[&str] = &["raft", "services"];
/// What they may not name.
const IMPURE: &[&str] = &[
    "std::net",
    "std::fs",
    "std::thread",
    "std::time",
    "std::env",
    "std::process",
    "SystemTime",
    "Instant::now",
    "HashMap",
    "HashSet",
    "RandomState",
    "Rng::new",
    "Uuid::new_v4",
    "fs2::",
    "jiff::",
    "rustix::",
    "socket2::",
];

/// Packages that are async runtimes or live on one.
const ASYNC_CRATES: &[&str] = &[
    "tokio",
    "async-std",
    "smol",
    "mio",
    "async-executor",
    "async-io",
    "async-global-executor",
    "async-task",
    "polling",
    "futures",
    "futures-executor",
    "futures-io",
    "hyper",
    "reqwest",
    "tonic",
    "axum",
    "actix-rt",
    "actix-web",
    "warp",
    "h2",
    "tower",
    "glommio",
    "monoio",
    "compio",
    "embassy-executor",
    "pollster",
    "blocking",
];
/// Files of one folder, without its mod.rs and tests: more want sub-folders.
const FILES_PER_FOLDER_MAX: usize = 13;
/// Parts of `futures` without a runtime that js-sys names for browsers; nothing on our platforms builds them.
const ONLY_BELOW_JS_SYS: &[&str] = &["futures-core", "futures-task", "futures-util"];

// ---- the rules ----

fn arrows(module: &str, code: &str) -> Vec<Fault> {
    let Some((_, allowed)) = ARROWS.iter().find(|(r, _)| *r == module) else {
        return vec![fault(1, format!("module {module} is not on the map of tests/tidy/layout.rs"))];
    };
    let begins = |path: &str, with: &str| path == with || path.starts_with(&format!("{with}::"));
    let is_module = |path: &str| ARROWS.iter().any(|(r, _)| begins(path, r));
    let is_fine = |path: &str| begins(path, module) || allowed.iter().any(|a| begins(path, a));
    let upward = paths(code, "crate::").into_iter().filter(|(_, path)| is_module(path) && !is_fine(path));
    upward.map(|(line, path)| fault(line, format!("{module}/ may not use {path}: arrows point down only"))).collect()
}

/// Lines that contain one of these words, not as part of a longer name.
fn naming(code: &str, words: &[&str], why: &str) -> Vec<Fault> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let mut faults = Vec::new();
    for (n, line) in code.lines().enumerate() {
        for word in words {
            let stands_alone = |at: usize| {
                let before = line[..at].chars().next_back().is_some_and(is_name);
                let after = line[at + word.len()..].chars().next().is_some_and(is_name);
                let is_glued = before && word.starts_with(is_name) || after && word.ends_with(is_name);
                !is_glued
            };
            if line.match_indices(word).any(|(at, _)| stands_alone(at)) {
                faults.push(fault(n + 1, format!("{word}: {why}")));
            }
        }
    }
    faults
}

fn purity(code: &str) -> Vec<Fault> {
    let mut faults = naming(code, IMPURE, "raft/ and services/ are pure; time and chance are inputs");
    for (n, line) in code.lines().enumerate() {
        // `fastrand::u64(..)` draws from the global source; `fastrand::Rng` as an argument is fine.
        if line.match_indices("fastrand::").any(|(at, m)| !line[at + m.len()..].starts_with("Rng")) {
            faults.push(fault(n + 1, "the global random source: take a fastrand::Rng as an argument"));
        }
    }
    for (line, path) in paths(code, "use std::") {
        let module = path.split("::").next().unwrap_or("");
        if ["net", "fs", "thread", "env", "process", "time"].contains(&module) && !faults.iter().any(|f| f.line == line)
        {
            faults.push(fault(line, format!("std::{path}: raft/ and services/ are pure")));
        }
    }
    faults
}

fn bounded_channels(code: &str) -> Vec<Fault> {
    naming(code, &["unbounded", "mpsc::channel"], "every inbox is bounded; its capacity stands in limits.rs")
}

fn threads_in_one_file(path: &str, code: &str) -> Vec<Fault> {
    if path == "src/node/spawn.rs" {
        return Vec::new();
    }
    naming(code, &["thread::spawn", "thread::Builder", "thread::scope"], "threads start in src/node/spawn.rs only")
}

fn mutexes_in_one_folder(path: &str, code: &str) -> Vec<Fault> {
    if path.starts_with("src/lock/") {
        return Vec::new();
    }
    let why = "crate::lock::Mutex is one whose order is checked in debug builds";
    let is_mutex = |path: &str| ["Mutex", "MutexGuard", "RwLock"].contains(&path.split("::").next().unwrap_or(""));
    let found = paths(code, "sync::").into_iter().filter(|(_, path)| is_mutex(path));
    found.map(|(line, _)| fault(line, why)).collect()
}

fn no_unwrap(code: &str) -> Vec<Fault> {
    naming(code, &[".unwrap()", ".unwrap_err()"], "say why it cannot fail with expect(), or hand the error on")
}

fn no_sleep(code: &str) -> Vec<Fault> {
    naming(code, &["thread::sleep", "sleep_ms"], "wait for what should become true: wait_until(what, deadline, probe)")
}

fn has_head(source: &str) -> Vec<Fault> {
    if source.starts_with("//! ") { Vec::new() } else { vec![fault(1, "a file starts with //! and what it is for")] }
}

fn no_async(lock: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut package = "";
    for (n, line) in lock.lines().enumerate() {
        let quoted = line.split('"').nth(1).unwrap_or("");
        if line.starts_with("name = ") {
            package = quoted;
            if ASYNC_CRATES.contains(&package) {
                faults.push(fault(n + 1, format!("{package}: no async runtime anywhere in the tree")));
            }
        } else if line.starts_with(" \"") {
            let name = quoted.split(' ').next().unwrap_or("");
            let is_web = package == "js-sys" || package.starts_with("wasm-bindgen");
            if ONLY_BELOW_JS_SYS.contains(&name) && !is_web && !ONLY_BELOW_JS_SYS.contains(&package) {
                faults.push(fault(n + 1, format!("{package} brings {name}, which only js-sys may")));
            }
        }
    }
    faults
}

fn forbids_unsafe(manifest: &str) -> bool {
    let lints = manifest.split("[lints.rust]").nth(1).unwrap_or("");
    lints.split("\n[").next().unwrap_or("").lines().any(|l| l.replace(' ', "") == "unsafe_code=\"forbid\"")
}

// ---- the tree ----

#[test]
fn no_folder_is_a_heap() {
    let mut folders: BTreeMap<String, usize> = BTreeMap::new();
    for path in product().keys().filter(|path| !path.ends_with("/mod.rs")) {
        *folders.entry(path.rsplit_once('/').unwrap().0.to_string()).or_default() += 1;
    }
    folders.retain(|_, files| *files > FILES_PER_FOLDER_MAX);
    assert!(folders.is_empty(), "more than {FILES_PER_FOLDER_MAX} files: {folders:?}");
}

#[test]
fn arrows_point_down() {
    check_sources(|path, code| arrows(top_module(path), code));
}

#[test]
fn raft_and_services_are_pure() {
    check_sources(|path, code| if PURE.contains(&top_module(path)) { purity(code) } else { Vec::new() });
}

#[test]
fn every_channel_is_bounded() {
    check_sources(|_, code| bounded_channels(code));
}

#[test]
fn threads_start_in_one_file() {
    check_sources(threads_in_one_file);
}

#[test]
fn the_order_of_all_mutexes_is_checked() {
    check_sources(mutexes_in_one_folder);
}

#[test]
fn nothing_unwraps_outside_tests() {
    check_sources(|_, code| no_unwrap(code));
}

#[test]
fn unsafe_code_is_forbidden() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(forbids_unsafe(&manifest));
    let crates: Vec<&str> = manifest.lines().filter(|line| line.contains("path = \"crates/")).collect();
    assert!(
        matches!(crates[..], [one] if one.starts_with("sqlite-ffi ")),
        "the only crate that may have some: {crates:?}"
    );
}

#[test]
fn no_async_crate_in_the_tree() {
    let faults = no_async(&std::fs::read_to_string(root().join("Cargo.lock")).unwrap());
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn no_test_sleeps_and_hopes() {
    check_all(&sources("tests"), |_, text| no_sleep(&blank(text)));
    let all = sources("src");
    check_all(&all, |path, text| {
        let code = blank(text);
        no_sleep(&if is_test_file(path, &all) { code } else { tests_of(&code) })
    });
}

#[test]
fn every_file_says_what_it_is_for() {
    check_all(&sources("src"), |_, text| has_head(text));
    check_all(&sources("tests"), |_, text| has_head(text));
}

// ---- each rule can fail ----

#[test]
fn tests_are_left_out_and_only_they() {
    let source = "fn a() { x.unwrap() }\n#[cfg(test)]\nmod tests {\n fn b() { y.unwrap() }\n}\nfn c() { z.unwrap() }\n\
        #[cfg(test)]\nmod more;\nfn d() { w.unwrap() }\n";
    assert_eq!(lines(no_unwrap(&without_tests(source))), [1, 6, 9]);
    assert_eq!(lines(no_unwrap(&tests_of(source))), [4]);
}

#[test]
fn an_upward_arrow_is_found() {
    assert_eq!(lines(arrows("raft", "use crate::types::Term;\nuse crate::services::Reply;\n")), [2]);
    assert_eq!(lines(arrows("services", "use crate::{types::Stamp, raft::{Entry, Role}};")), [1, 1]);
    assert_eq!(lines(arrows("node", "fn f() {\n  crate::http::serve();\n}")), [2]);
    assert_eq!(lines(arrows("store", "use super::x;\nuse crate::settings::Settings;")), [2]);
    assert_eq!(arrows("http", "use crate::node::{Handle, status::Status};\nuse crate::types::*;"), []);
    assert_eq!(lines(arrows("wire", "use crate::cluster::autopilot;")), [1]);
    assert_eq!(lines(arrows("sim", "use crate::lab::Cluster;")), [1]);
    assert_eq!(lines(arrows("attic", "")), [1], "a module that is not on the map");
}

#[test]
fn impurity_is_found() {
    let timed = "use std::time::Instant;\nuse std::collections::{BTreeMap, BTreeSet};\nlet m: HashMap<u8, u8>;";
    assert_eq!(lines(purity(timed)), [1, 3]);
    assert_eq!(lines(purity("use std::{io, fs};")), [1]);
    assert_eq!(lines(purity("let x = fastrand::u64(..);\nfn f(rng: &mut fastrand::Rng) {}")), [1]);
    assert_eq!(purity("use std::io::{Read, Write};\nuse std::sync::Arc;\nlet std_times = election_time;"), []);
}

#[test]
fn unbounded_channels_and_stray_threads_are_found() {
    assert_eq!(lines(bounded_channels("let (a, b) = crossbeam_channel::unbounded();\nlet c = bounded(3);")), [1]);
    assert_eq!(lines(threads_in_one_file("src/http/mod.rs", "\nstd::thread::spawn(|| {});")), [2]);
    assert_eq!(threads_in_one_file("src/node/spawn.rs", "std::thread::Builder::new()"), []);
}

#[test]
fn mutexes_whose_order_is_not_checked_are_found() {
    let bare = "use std::sync::{Arc, Condvar, Mutex};\nuse std::{io, sync::RwLock};\nlet x = std::sync::Mutex::new(1);";
    assert_eq!(lines(mutexes_in_one_folder("src/http/mod.rs", bare)), [1, 2, 3]);
    assert_eq!(mutexes_in_one_folder("src/lock/mod.rs", bare), []);
    assert_eq!(mutexes_in_one_folder("src/http/mod.rs", "use crate::lock::Mutex;\nuse std::sync::Condvar;"), []);
}

#[test]
fn sleeps_and_missing_heads_are_found() {
    assert_eq!(lines(no_sleep("let a = 1;\nstd::thread::sleep(d);")), [2]);
    assert_eq!(lines(has_head("use a;\n")), [1]);
    assert_eq!(has_head("//! Purpose.\n"), []);
}

#[test]
fn an_async_crate_is_found() {
    assert_eq!(lines(no_async("[[package]]\nname = \"tokio\"\nversion = \"1\"\n")), [2]);
    assert_eq!(lines(no_async("name = \"rogue\"\ndependencies = [\n \"futures-util\",\n]\n")), [3]);
    assert_eq!(no_async("name = \"js-sys\"\ndependencies = [\n \"futures-util\",\n]\n"), []);
}

#[test]
fn a_missing_lint_is_found() {
    assert!(forbids_unsafe("[lints.rust]\nunsafe_code = \"forbid\"\n\n[lints.clippy]\n"));
    assert!(!forbids_unsafe("[lints.rust]\n\n[lints.clippy]\nunsafe_code = \"forbid\"\n"));
}
