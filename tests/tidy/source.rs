//! Reading of Rust sources: the files of the tree, which of them are tests, and their text without comments and strings, in
//! which a rule may be spoken of.

use crate::fault::{Fault, check_all};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Blanks comments, strings and character literals, keeping line breaks.
pub fn blank(source: &str) -> String {
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
pub fn without_tests(blanked: &str) -> String {
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
pub fn tests_of(blanked: &str) -> String {
    let kept = without_tests(blanked);
    let pairs = blanked.lines().zip(kept.lines().chain(std::iter::repeat("")));
    pairs.map(|(all, kept)| if kept.is_empty() { format!("{all}\n") } else { "\n".into() }).collect()
}

/// Every path that begins with `start` (`crate::`, `use std::`), one per leaf of a use tree, with its line.
pub fn paths(code: &str, start: &str) -> Vec<(usize, String)> {
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
pub fn leaves<'a>(text: &'a str, prefix: &str, found: &mut dyn FnMut(String)) -> &'a str {
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

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below a folder: its path from the root, and its text.
pub fn sources(folder: &str) -> BTreeMap<String, String> {
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
pub fn names_in(folder: &str) -> Vec<String> {
    let rows = std::fs::read_dir(root().join(folder)).unwrap();
    let names = rows.map(|row| format!("{folder}/{}", row.unwrap().file_name().to_string_lossy()));
    names.filter(|name| name.ends_with(".md")).collect()
}

/// `src/raft/state/log.rs` is of module `raft`, `src/types.rs` is the module `types`.
pub fn top_module(path: &str) -> &str {
    path.trim_start_matches("src/").split(['/', '.']).next().unwrap_or(path)
}

/// A file that is compiled for tests only: `#[cfg(test)]` stands on the `mod` line that names it or its folder, or on
/// the `#[path]` that does.
pub fn is_test_file(path: &str, all: &BTreeMap<String, String>) -> bool {
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

/// Runs a rule over everything in src/ that is not a test.
pub fn check_sources(rule: impl Fn(&str, &str) -> Vec<Fault>) {
    let all = sources("src");
    assert!(all.len() > 20, "the sources were not found");
    check_all(&all, |path, text| match is_test_file(path, &all) {
        true => Vec::new(),
        false => rule(path, &without_tests(&blank(text))),
    });
}

/// Everything in src/ that is not a test, blanked.
pub fn product() -> BTreeMap<String, String> {
    let all = sources("src");
    let product = all.iter().filter(|(path, _)| !is_test_file(path, &all));
    product.map(|(path, text)| (path.clone(), without_tests(&blank(text)))).collect()
}

// ---- each can fail ----

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
