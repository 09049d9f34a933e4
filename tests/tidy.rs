//! What the design stands on, enforced by reading the sources: the ✓ marks of the style guide.
//!
//! Each rule is a function from source text to the faults found in it, so that each can be shown to fail on a bad
//! snippet (second half of this file); then all run over the real tree. Comments and strings are blanked first:
//! a rule may be spoken of. Not here: formatting and lints (`cargo fmt`, `cargo clippy`).
#![allow(clippy::unwrap_used)] // tests; clippy.toml covers only functions that carry #[test]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Which modules a module may use, from the top down, and why where it is not plain.
/// `types`, `limits` and `settings` lie at the bottom; the pure modules get only what is pure of them.
const ARROWS: &[(&str, &[&str])] = &[
    ("main", &["cli"]),
    // The command line starts everything and parses every answer.
    (
        "cli",
        &[
            "demo", "bench", "lab", "client", "sim", "check", "http", "resp", "node", "cluster", "wire", "outcome",
            "store", "services", "raft", "types", "limits", "settings", "text",
        ],
    ),
    // Demonstrations and measurements drive clusters of the lab.
    ("demo", &["lab", "client", "check", "node", "types", "settings"]),
    // One of them runs the bare command of a job's sandbox, to compare.
    ("bench", &["lab", "client", "node", "work", "types", "settings"]),
    // Lab and sim stand side by side: real processes and virtual ones; both hand histories to check.
    ("lab", &["client", "check", "node", "work", "raft", "types", "settings"]),
    // The simulator runs the real core, the real recovery code and the real registry; no threads, no sockets.
    ("sim", &["check", "cluster", "store", "services", "raft", "types", "limits", "settings"]),
    // A client knows what an answer says, and nothing of the node that gave it.
    ("client", &["types"]),
    // Judges see recorded histories only.
    ("check", &["types"]),
    ("http", &["node", "outcome", "services", "raft", "types", "limits", "settings"]),
    ("resp", &["node", "outcome", "services", "raft", "types", "limits", "settings"]),
    (
        "node",
        &["cluster", "wire", "outcome", "store", "work", "services", "raft", "types", "limits", "settings", "text"],
    ),
    // Discovery asks over the peer protocol; autopilot and verdict read what the core shows.
    ("cluster", &["wire", "outcome", "store", "services", "raft", "types", "limits", "settings"]),
    // Frames carry what others own: raft messages, service replies, and reasons.
    ("wire", &["outcome", "services", "raft", "types", "limits"]),
    // A reason names what raft or a service refused; the table has a row for each.
    ("outcome", &["services", "raft", "types", "limits"]),
    // The log on disk holds raft entries and promises.
    ("store", &["raft", "types", "limits"]),
    // An attempt takes a job's request and gives its end; which languages there are is a setting.
    ("work", &["services", "types", "limits", "settings"]),
    // The pure modules do not know each other: the log carries opaque bytes.
    ("services", &["types", "limits"]),
    ("raft", &["types", "limits"]),
    ("settings", &["types", "limits"]),
    ("types", &["limits"]),
    ("limits", &[]),
    ("text", &[]),
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
/// Files of one folder, without its `mod.rs` and tests: more want sub-folders.
const FILES_PER_FOLDER_MAX: usize = 14;
/// Parts of `futures` without a runtime that js-sys names for browsers; nothing on our platforms builds them.
const ONLY_BELOW_JS_SYS: &[&str] = &["futures-core", "futures-task", "futures-util"];

/// One broken rule.
#[derive(Debug, PartialEq, Eq)]
struct Fault {
    line: usize,
    why: String,
}

fn fault(line: usize, why: impl Into<String>) -> Fault {
    Fault { line, why: why.into() }
}

// ---- reading ----

/// Blanks comments, strings and character literals, keeping line breaks.
fn blank(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let mut out = String::with_capacity(source.len());
    let mut i = 0;
    while i < chars.len() {
        let rest = &chars[i..];
        let end = match rest {
            ['/', '/', ..] => rest.iter().position(|c| *c == '\n').unwrap_or(rest.len()),
            ['/', '*', ..] => block_comment(rest),
            ['"', ..] => quoted(rest),
            ['\'', ..] => character(rest),
            ['r' | 'b', ..] => raw_string(rest, i.checked_sub(1).map(|p| chars[p])),
            _ => 0,
        };
        if end == 0 {
            out.push(rest[0]);
        } else {
            out.extend(rest[..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
        }
        i += end.max(1);
    }
    out
}

fn block_comment(rest: &[char]) -> usize {
    let (mut depth, mut i) = (0, 0);
    while i < rest.len() {
        match (rest[i], rest.get(i + 1)) {
            ('/', Some('*')) => (depth, i) = (depth + 1, i + 2),
            ('*', Some('/')) => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            break;
        }
    }
    i.min(rest.len())
}

/// Length of a raw string that begins here; 0 if none does.
fn raw_string(rest: &[char], before: Option<char>) -> usize {
    if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
        return 0;
    }
    let from = match rest {
        ['r', ..] => 1,
        ['b', 'r', ..] => 2,
        _ => return 0,
    };
    let hashes = rest[from..].iter().take_while(|c| **c == '#').count();
    let open = from + hashes;
    if rest.get(open) != Some(&'"') {
        return 0;
    }
    let closes =
        |i: &usize| rest[*i] == '"' && rest[i + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes;
    (open + 1..rest.len()).find(closes).map_or(rest.len(), |i| i + 1 + hashes)
}

fn quoted(rest: &[char]) -> usize {
    let mut i = 1;
    while i < rest.len() && rest[i] != '"' {
        i += if rest[i] == '\\' { 2 } else { 1 };
    }
    (i + 1).min(rest.len())
}

/// Length of a character literal; 0 for a lifetime.
fn character(rest: &[char]) -> usize {
    match rest {
        ['\'', '\\', _, tail @ ..] => tail.iter().position(|c| *c == '\'').map_or(0, |p| p + 4),
        ['\'', _, '\'', ..] => 3,
        _ => 0,
    }
}

/// A blanked file without the items that `#[cfg(test)]` stands on; their lines become empty.
fn without_tests(blanked: &str) -> String {
    let mut out = String::new();
    let mut lines = blanked.lines();
    while let Some(line) = lines.next() {
        let Some(mut rest) = line.trim_start().strip_prefix("#[cfg(test)]") else {
            out += line;
            out.push('\n');
            continue;
        };
        out.push('\n');
        let mut depth = 0i64;
        // To the end of the item's braces, or to its semicolon or comma where it has none.
        while !rest.chars().any(|c| {
            depth += i64::from(c == '{') - i64::from(c == '}');
            (depth <= 0 && matches!(c, '}' | ';')) || (depth == 0 && c == ',')
        }) {
            let Some(next) = lines.next() else { break };
            rest = next;
            out.push('\n');
        }
    }
    out
}

/// What [`without_tests`] takes away.
fn tests_of(blanked: &str) -> String {
    let kept = without_tests(blanked);
    let pairs = blanked.lines().zip(kept.lines().chain(std::iter::repeat("")));
    pairs.map(|(all, kept)| if kept.is_empty() { format!("{all}\n") } else { "\n".into() }).collect()
}

/// Every path that begins with `start` (`crate::`, `use std::`), one per leaf of a use tree, with its line.
fn paths(code: &str, start: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices(start) {
        if code[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let line = code[..at].matches('\n').count() + 1;
        leaves(&code[at + start.len()..], "", &mut |path| found.push((line, path)));
    }
    found
}

/// Expands `a::{b, c::d}` into `a::b` and `a::c::d`; gives what follows the tree.
fn leaves<'a>(text: &'a str, prefix: &str, found: &mut dyn FnMut(String)) -> &'a str {
    let text = text.trim_start();
    if let Some(mut inner) = text.strip_prefix('{') {
        loop {
            inner = inner.trim_start();
            if let Some(rest) = inner.strip_prefix('}') {
                return rest;
            }
            let rest = leaves(inner, prefix, found).trim_start();
            let rest = rest.strip_prefix(',').unwrap_or(rest);
            if rest.len() == inner.len() {
                return rest;
            }
            inner = rest;
        }
    }
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '*').unwrap_or(text.len());
    let path = if prefix.is_empty() { text[..end].to_string() } else { format!("{prefix}::{}", &text[..end]) };
    match text[end..].strip_prefix("::") {
        Some(rest) if rest.starts_with(|c: char| c.is_alphabetic() || matches!(c, '{' | '_' | '*')) => {
            leaves(rest, &path, found)
        }
        _ => {
            found(path);
            &text[end..]
        }
    }
}

// ---- the rules ----

fn arrows(module: &str, code: &str) -> Vec<Fault> {
    let Some((_, allowed)) = ARROWS.iter().find(|(r, _)| *r == module) else {
        return vec![fault(1, format!("module {module} is not on the map of tests/tidy.rs"))];
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

/// Modules of the crate: `raft::tracker` -> `src/raft/tracker/mod.rs`.
struct Modules<'a> {
    files: BTreeMap<String, &'a str>,
    /// What a module passes on from elsewhere: (module, name) -> path.
    passed_on: BTreeMap<(String, String), String>,
}

/// `src/raft/tracker/mod.rs` is `raft::tracker`, `src/lib.rs` is the empty path.
fn module_of(path: &str) -> String {
    let path = path.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
    if path == "lib" || path == "mod" { String::new() } else { path.replace('/', "::") }
}

fn join(module: &str, rest: &str) -> String {
    if module.is_empty() { rest.to_string() } else { format!("{module}::{rest}") }
}

impl<'a> Modules<'a> {
    fn new(code: &'a BTreeMap<String, String>) -> Modules<'a> {
        let files = code.keys().map(|path| (module_of(path), path.as_str())).collect();
        let mut modules = Modules { files, passed_on: BTreeMap::new() };
        for (path, text) in code {
            let module = module_of(path);
            for (at, _) in text.match_indices("pub use ").chain(text.match_indices("pub(crate) use ")) {
                let tree = text[at..].split_once("use ").map_or("", |(_, tree)| tree);
                leaves(tree, "", &mut |leaf| {
                    let name = leaf.rsplit("::").next().unwrap_or("").to_string();
                    modules.passed_on.insert((module.clone(), name), absolute(&module, &leaf));
                });
            }
        }
        modules
    }

    /// The file that defines what this path names, seen from `module`; `None`: another crate's.
    fn file(&self, module: &str, path: &str) -> Option<&'a str> {
        self.defines(&absolute(module, path), 0)
    }

    fn defines(&self, path: &str, depth: usize) -> Option<&'a str> {
        if let Some(file) = self.files.get(path) {
            return Some(file);
        }
        let (mut module, mut rest) = (path, "");
        while !self.files.contains_key(module) {
            (module, rest) = match module.rsplit_once("::") {
                Some((outer, _)) => (outer, &path[outer.len() + 2..]),
                None => return self.passed(String::new(), path, depth),
            };
        }
        self.passed(module.to_string(), rest, depth)
    }

    fn passed(&self, module: String, rest: &str, depth: usize) -> Option<&'a str> {
        let (name, more) = rest.split_once("::").unwrap_or((rest, ""));
        match self.passed_on.get(&(module.clone(), name.to_string())) {
            Some(elsewhere) if depth < 8 => self.defines(join(elsewhere, more).trim_end_matches("::"), depth + 1),
            _ if module.is_empty() => None,
            _ => self.files.get(&module).copied(),
        }
    }
}

/// `super::x` seen from `a::b` is `a::x`.
fn absolute(module: &str, path: &str) -> String {
    let (mut module, mut path) = (module.to_string(), path);
    if let Some(rest) = path.strip_prefix("crate::") {
        return rest.to_string();
    }
    path = path.strip_prefix("self::").unwrap_or(path);
    while let Some(rest) = path.strip_prefix("super::") {
        module = module.rsplit_once("::").map_or(String::new(), |(outer, _)| outer.to_string());
        path = rest;
    }
    join(&module, path)
}

/// Which files each file imports from, with one name for each. `mod.rs` may pass names on without importing them.
fn imports(code: &BTreeMap<String, String>) -> BTreeMap<&str, BTreeMap<&str, String>> {
    let modules = Modules::new(code);
    let mut found: BTreeMap<&str, BTreeMap<&str, String>> = BTreeMap::new();
    for (path, text) in code {
        let module = module_of(path);
        let mut named = Vec::new();
        for start in ["crate::", "super::", "self::"] {
            // The outer `super::` of `super::super::x` counts.
            let inside = |at: usize| text[..at].ends_with("::") || text[..at].ends_with("pub use ");
            for (at, _) in text.match_indices(start).filter(|(at, _)| !inside(*at)) {
                let before = text[..at].chars().next_back();
                if !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$') {
                    leaves(&text[at..], "", &mut |leaf| named.push(leaf));
                }
            }
        }
        // A child module by its bare name.
        for line in text.lines().map(|line| line.trim_start()) {
            let child = line.trim_start_matches("pub ").trim_start_matches("pub(crate) ").strip_prefix("mod ");
            let Some(name) = child.and_then(|rest| rest.strip_suffix(';')) else { continue };
            for (at, start) in text.match_indices(&format!("{name}::")) {
                let before = text[..at].chars().next_back();
                let is_passed_on = text[..at].ends_with("pub use ") || text[..at].ends_with("pub(crate) use ");
                if !is_passed_on && !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                    leaves(&text[at + start.len()..], name, &mut |leaf| named.push(leaf));
                }
            }
        }
        for name in named {
            let Some(file) = modules.file(&module, &name).filter(|file| file != path) else { continue };
            found.entry(path.as_str()).or_default().entry(file).or_insert(name);
        }
    }
    found
}

/// Paths of files in backticks that a text names and that do not exist, as seen from the text's own folder, its module, `src` or
/// the root.
fn missing_paths(path: &str, text: &str, exists: impl Fn(&str) -> bool) -> Vec<Fault> {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let module = path.strip_prefix("src/").and_then(|path| path.split_once('/')).map_or("", |(module, _)| module);
    let above = folder.rsplit_once('/').map_or("", |(above, _)| above);
    let below = path.trim_end_matches(".rs");
    let mut faults = Vec::new();
    for (n, line) in text.lines().enumerate() {
        if path.ends_with(".rs") && !line.trim_start().starts_with("//") {
            continue;
        }
        for name in
            line.split('`').skip(1).step_by(2).filter(|name| name.ends_with(".rs") && !name.contains([' ', '*']))
        {
            let places = ["", "src", &format!("src/{module}"), folder, above, below];
            if !places.iter().any(|place| exists(format!("{place}/{name}").trim_start_matches('/'))) {
                faults.push(fault(n + 1, format!("there is no {name}")));
            }
        }
    }
    faults
}

/// Files that import each other in a circle, one text for each import that belongs to one.
fn circles(code: &BTreeMap<String, String>) -> Vec<String> {
    let imports = imports(code);
    let reach = |from: &str| -> BTreeSet<&str> {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
        while let Some(file) = open.pop() {
            for to in imports.get(file).into_iter().flat_map(|to| to.keys()) {
                if seen.insert(*to) {
                    open.push(to);
                }
            }
        }
        seen
    };
    let reached: BTreeMap<&str, BTreeSet<&str>> = imports.keys().map(|file| (*file, reach(file))).collect();
    let mut found = Vec::new();
    for (from, to) in &imports {
        for (to, name) in to {
            if reached.get(to).is_some_and(|reached| reached.contains(from)) {
                found.push(format!("{from} -> {to} ({name})"));
            }
        }
    }
    found
}

// ---- the tree ----

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below a folder: its path from the root, and its text.
fn sources(folder: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        let entries: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).collect();
        for path in entries {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path.strip_prefix(root()).unwrap().to_string_lossy().replace('\\', "/");
                found.insert(name, std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    found
}

/// The Markdown files of a folder.
fn names_in(folder: &str) -> Vec<String> {
    let rows = std::fs::read_dir(root().join(folder)).unwrap();
    let names = rows.map(|row| format!("{folder}/{}", row.unwrap().file_name().to_string_lossy()));
    names.filter(|name| name.ends_with(".md")).collect()
}

/// `src/raft/state/log.rs` is of module `raft`, `src/types.rs` is the module `types`.
fn top_module(path: &str) -> &str {
    path.trim_start_matches("src/").split(['/', '.']).next().unwrap_or(path)
}

/// A file that is compiled for tests only: `#[cfg(test)]` stands on the `mod` line that names it or its folder, or on
/// the `#[path]` that does.
fn is_test_file(path: &str, all: &BTreeMap<String, String>) -> bool {
    let module = path.trim_end_matches(".rs").trim_end_matches("/mod");
    let Some((folder, name)) = module.rsplit_once('/') else { return false };
    let parents = [format!("{folder}/mod.rs"), format!("{folder}/lib.rs"), format!("{folder}.rs")];
    let line = format!("mod {name};");
    let is_mod = |l: &str| l.trim_start_matches("pub ").trim_start_matches("pub(crate) ") == line;
    let by_name = parents.iter().filter_map(|p| all.get(p)).any(|text| for_tests(text).any(is_mod));
    let by_path =
        all.iter().filter(|(p, _)| path.starts_with(p.rsplit_once('/').map_or("", |(f, _)| f))).any(|(p, text)| {
            let inner =
                path.strip_prefix(p.rsplit_once('/').map_or("", |(f, _)| f)).unwrap_or("").trim_start_matches('/');
            for_tests(text).any(|l| l == format!("#[path = \"{inner}\"]"))
        });
    by_name || by_path || is_test_file(folder, all)
}

/// The lines right below a `#[cfg(test)]`.
fn for_tests(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .zip(text.lines().skip(1))
        .filter(|(above, _)| above.trim() == "#[cfg(test)]")
        .map(|(_, line)| line.trim())
}

fn check_all(files: &BTreeMap<String, String>, rule: impl Fn(&str, &str) -> Vec<Fault>) {
    let mut report = String::new();
    for (path, text) in files {
        for fault in rule(path, text) {
            report += &format!("\n{path}:{}: {}", fault.line, fault.why);
        }
    }
    assert!(report.is_empty(), "{report}");
}

/// Runs a rule over everything in src/ that is not a test.
fn check_sources(rule: impl Fn(&str, &str) -> Vec<Fault>) {
    let all = sources("src");
    assert!(all.len() > 20, "the sources were not found");
    check_all(&all, |path, text| match is_test_file(path, &all) {
        true => Vec::new(),
        false => rule(path, &without_tests(&blank(text))),
    });
}

/// Everything in src/ that is not a test, blanked.
fn product() -> BTreeMap<String, String> {
    let all = sources("src");
    let product = all.iter().filter(|(path, _)| !is_test_file(path, &all));
    product.map(|(path, text)| (path.clone(), without_tests(&blank(text)))).collect()
}

#[test]
fn no_file_imports_itself_by_way_of_others() {
    let found = circles(&product());
    assert!(found.is_empty(), "{} imports belong to circles:\n{}", found.len(), found.join("\n"));
}

#[test]
fn files_that_are_named_exist() {
    let mut texts = sources("src");
    texts.extend(sources("tests"));
    texts.remove("tests/tidy.rs");
    for name in ["README.md"].into_iter().map(String::from).chain(names_in("docs")) {
        texts.insert(name.clone(), std::fs::read_to_string(root().join(&name)).unwrap());
    }
    check_all(&texts, |path, text| missing_paths(path, text, |name| root().join(name).is_file()));
}

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
fn nothing_unwraps_outside_tests() {
    check_sources(|_, code| no_unwrap(code));
}

#[test]
fn unsafe_code_is_forbidden() {
    assert!(forbids_unsafe(&std::fs::read_to_string(root().join("Cargo.toml")).unwrap()));
}

#[test]
fn no_async_crate_in_the_tree() {
    let faults = no_async(&std::fs::read_to_string(root().join("Cargo.lock")).unwrap());
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn every_package_is_in_the_third_party_notices() {
    let notices = std::fs::read_to_string(root().join("docs/third-party.md")).unwrap();
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let packages = lock.lines().filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'));
    let missing: Vec<&str> =
        packages.filter(|name| *name != "phalanx" && !notices.contains(&format!("\n| {name} | "))).collect();
    assert!(missing.is_empty(), "docs/third-party.md lacks {missing:?}; cargo metadata tells their licenses");
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

fn lines(faults: Vec<Fault>) -> Vec<usize> {
    faults.into_iter().map(|f| f.line).collect()
}

#[test]
fn blanking_keeps_lines_and_code() {
    let source = r###"let a = "x // y"; // .unwrap()
let b = r#""q"#; /* a
/* b */ */ let c = '"'; let d: &'a str;
let e = '\''; let f = '\u{1f}'; let bar = 1; g()"###;
    let blanked = blank(source);
    assert_eq!(blanked.lines().count(), source.lines().count());
    let words: Vec<&str> = blanked.split_whitespace().collect();
    let expected = "let a = ; let b = ; let c = ; let d: &'a str; let e = ; let f = ; let bar = 1; g()";
    assert_eq!(words.join(" "), expected);
}

#[test]
fn tests_are_left_out_and_only_they() {
    let source = "fn a() { x.unwrap() }\n#[cfg(test)]\nmod tests {\n fn b() { y.unwrap() }\n}\nfn c() { z.unwrap() }\n\
        #[cfg(test)]\nmod more;\nfn d() { w.unwrap() }\n";
    assert_eq!(lines(no_unwrap(&without_tests(source))), [1, 6, 9]);
    assert_eq!(lines(no_unwrap(&tests_of(source))), [4]);
}

#[test]
fn files_of_tests_are_known_by_their_mod_line() {
    let text = |s: &str| s.to_string();
    let all = BTreeMap::from([
        (text("src/raft/mod.rs"), text("pub mod core;\n#[cfg(test)]\nmod scripts;\n")),
        (text("src/raft/core.rs"), text("#[cfg(test)]\n#[path = \"tests/core.rs\"]\nmod tests;\n")),
        (text("src/lib.rs"), text("pub mod raft;\n")),
    ]);
    assert!(is_test_file("src/raft/tests/core.rs", &all));
    assert!(is_test_file("src/raft/scripts.rs", &all));
    assert!(is_test_file("src/raft/scripts/world.rs", &all));
    assert!(!is_test_file("src/raft/core.rs", &all));
    assert!(!is_test_file("src/raft/mod.rs", &all));
}

#[test]
fn a_circle_of_imports_is_found() {
    let file = |path: &str, text: &str| (path.to_string(), text.to_string());
    let code = |log: &str, state: &str, top: &str| {
        let raft = "pub mod log;\npub mod state;\npub use self::state::Raft;\n";
        BTreeMap::from([
            file("src/lib.rs", "pub mod raft;\npub mod node;\n"),
            file("src/raft/mod.rs", &format!("{raft}{top}")),
            file("src/raft/log.rs", log),
            file("src/raft/state.rs", state),
            file("src/node.rs", "use crate::raft::Raft;\n"),
        ])
    };
    let fine = code("pub struct Log;\n", "use super::log::Log;\npub struct Raft;\n", "pub struct Entry;\n");
    assert_eq!(circles(&fine), Vec::<String>::new());
    let direct = circles(&code("use super::state::Raft;\n", "use super::log::Log;\n", ""));
    assert_eq!(direct.len(), 2, "{direct:?}");
    // By way of a name that mod.rs passes on, and of a path in the middle of the code.
    let passed_on = circles(&code("use crate::raft::Raft;\n", "fn f(log: super::log::Log) {}\n", ""));
    assert_eq!(passed_on.len(), 2, "{passed_on:?}");
    let by_parent = circles(&code("use super::Entry;\n", "", "use self::log::Log;\npub struct Entry;\n"));
    assert_eq!(by_parent.len(), 2, "{by_parent:?}");
    let by_child_name = circles(&code("use super::Entry;\n", "", "fn f() { log::g() }\npub struct Entry;\n"));
    assert_eq!(by_child_name.len(), 2, "{by_child_name:?}");
}

#[test]
fn a_name_of_a_file_that_is_gone_is_found() {
    let exists = |name: &str| ["src/raft/log.rs", "src/node/mod.rs", "docs/sql.md"].contains(&name);
    let text = "//! See `log.rs`, `raft/log.rs` and `node/mod.rs`, not `core.rs`.\nlet x = \"`gone.rs`\";\n";
    assert_eq!(lines(missing_paths("src/raft/state.rs", text, exists)), [1]);
    assert_eq!(lines(missing_paths("docs/a.md", "`src/raft/log.rs`\n`log.rs`\n", exists)), [2]);
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
