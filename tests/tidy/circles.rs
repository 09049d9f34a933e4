//! No file of `src/` imports itself by way of others, inside folders as between them.

use crate::source::{leaves, product};
use std::collections::{BTreeMap, BTreeSet};

/// Modules of the crate: `raft` -> `src/raft/mod.rs`.
struct Modules<'a> {
    files: BTreeMap<String, &'a str>,
    /// What a module passes on from elsewhere: (module, name) -> path.
    passed_on: BTreeMap<(String, String), String>,
}

/// `src/raft/mod.rs` is `raft`, `src/lib.rs` is the empty path.
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

/// Which files each file imports from, with one name for each. A module may pass names on without importing them.
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

#[test]
fn no_file_imports_itself_by_way_of_others() {
    let found = circles(&product());
    assert!(found.is_empty(), "{} imports belong to circles:\n{}", found.len(), found.join("\n"));
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
