//! What documents and comments say of the tree is so: files that they name, third-party notices.
//!
//! Not here: the page about services, whose code is run (`new_service.rs`).

use crate::fault::{Fault, check_all, fault, lines};
use crate::source::{names_in, root, sources};

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

#[test]
fn files_that_are_named_exist() {
    let mut texts = sources("src");
    texts.extend(sources("tests"));
    for name in ["README.md"].into_iter().map(String::from).chain(names_in("docs")) {
        texts.insert(name.clone(), std::fs::read_to_string(root().join(&name)).unwrap());
    }
    check_all(&texts, |path, text| missing_paths(path, text, |name| root().join(name).is_file()));
}

#[test]
fn every_package_is_in_the_third_party_notices() {
    let notices = std::fs::read_to_string(root().join("docs/third-party.md")).unwrap();
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let packages = lock.lines().filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'));
    let missing: Vec<&str> = packages
        .filter(|name| !["phalanx", "sqlite-ffi"].contains(name) && !notices.contains(&format!("\n| {name} | ")))
        .collect();
    assert!(missing.is_empty(), "docs/third-party.md lacks {missing:?}; cargo metadata tells their licenses");
}

#[test]
fn a_name_of_a_file_that_is_gone_is_found() {
    let exists = |name: &str| ["src/raft/log.rs", "src/node/mod.rs", "docs/sql.md"].contains(&name);
    let text = "//! See `log.rs`, `raft/log.rs` and `node/mod.rs`, not `core.rs`.\nlet x = \"`gone.rs`\";\n";
    assert_eq!(lines(missing_paths("src/raft/state.rs", text, exists)), [1]);
    assert_eq!(lines(missing_paths("docs/a.md", "`src/raft/log.rs`\n`log.rs`\n", exists)), [2]);
}
