//! Which languages this machine has, and how a program in each is compiled and run.
//!
//! A runtime of the settings is there if its probe succeeds. Toolchains outside the system's folders are shown to their own
//! jobs alone. Not here: which runtimes are looked for (`settings/runtimes.rs`), the cage around the commands (`cage.rs`).

use crate::settings::Runtime;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where the cage has programs, in the order of search.
pub const SYSTEM_PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// A Java class of ours that starts the user's: its `main`, or its `run()` that returns a text.
pub const LAUNCHER: (&str, &str) = ("PhalanxLauncher.java", include_str!("launcher.java"));

/// A runtime that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What it is.
    pub runtime: Runtime,
    /// First line of what its probe says.
    pub version: String,
    /// Folder of its toolchain, if that is not the system's.
    pub home: Option<PathBuf>,
}

/// Looks which of these are there.
pub fn find(runtimes: &[Runtime]) -> Vec<Found> {
    runtimes.iter().filter_map(find_one).collect()
}

fn find_one(runtime: &Runtime) -> Option<Found> {
    let home = match &runtime.home[..] {
        [] => None,
        command => Some(PathBuf::from(first_line(command, None)?)).filter(|home| home.is_dir()),
    };
    if home.is_none() && !runtime.home.is_empty() {
        return None;
    }
    let probe = fill(&runtime.probe, &Places { home: home.as_deref(), ..Places::default() });
    // What is not under the toolchain's own folder must be where the cage will look for it.
    let version = first_line(&probe, home.is_none().then_some(SYSTEM_PATH))?;
    Some(Found { runtime: runtime.clone(), version, home })
}

fn first_line(command: &[String], path: Option<&str>) -> Option<String> {
    let (program, args) = command.split_first()?;
    let program = match path {
        Some(path) if !program.contains('/') => {
            path.split(':').map(|folder| Path::new(folder).join(program)).find(|file| file.is_file())?
        }
        _ => PathBuf::from(program),
    };
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    let output = command.output().ok().filter(|output| output.status.success())?;
    // Java 8 tells its version on standard error.
    let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    Some(String::from_utf8_lossy(&text).lines().next().unwrap_or_default().trim().to_string())
}

/// What a command's places stand for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Places<'a> {
    /// `{home}`.
    pub home: Option<&'a Path>,
    /// `{files}`; the first is `{file}`.
    pub files: &'a [String],
    /// `{class}`.
    pub class: &'a str,
}

/// A command with its places filled in.
pub fn fill(command: &[String], places: &Places<'_>) -> Vec<String> {
    let mut filled = Vec::new();
    for word in command {
        if word == "{files}" {
            filled.extend(places.files.iter().cloned());
            continue;
        }
        let home = places.home.map(|home| home.to_string_lossy()).unwrap_or_default();
        let first = places.files.first().map_or("", String::as_str);
        filled.push(word.replace("{home}", &home).replace("{file}", first).replace("{class}", places.class));
    }
    filled
}

/// The class that a Java source declares, with its package: the public one, else the first. `None`: it declares none.
pub fn java_class(source: &str) -> Option<String> {
    let code = without_comments(source);
    let words: Vec<&str> =
        code.split(|c: char| !(c.is_alphanumeric() || "_$.".contains(c))).filter(|w| !w.is_empty()).collect();
    let package = words.windows(2).find(|pair| pair[0] == "package").map(|pair| format!("{}.", pair[1]));
    let is_kind = |word: &str| matches!(word, "class" | "enum" | "record" | "interface");
    let declared = |at: usize| words.get(at + 1).filter(|_| is_kind(words[at])).map(|name| (at, *name));
    let all: Vec<(usize, &str)> = (0..words.len()).filter_map(declared).collect();
    let is_public = |at: usize| {
        let mut before = words[..at]
            .iter()
            .rev()
            .take_while(|word| matches!(**word, "final" | "abstract" | "sealed" | "public" | "strictfp"));
        before.any(|word| *word == "public")
    };
    let chosen = all.iter().find(|(at, _)| is_public(*at)).or_else(|| all.first())?;
    Some(format!("{}{}", package.unwrap_or_default(), chosen.1))
}

/// Source code without comments, and without the insides of texts.
fn without_comments(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(c) = rest.chars().next() {
        let skip = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if let Some(inside) = rest.strip_prefix("/*") {
            inside.find("*/").map_or(rest.len(), |end| end + 4)
        } else if c == '"' || c == '\'' {
            out.push(' ');
            let mut end = rest.len();
            let mut is_escaped = false;
            for (at, inner) in rest.char_indices().skip(1) {
                if inner == c && !is_escaped {
                    end = at + 1;
                    break;
                }
                is_escaped = inner == '\\' && !is_escaped;
            }
            end
        } else {
            out.push(c);
            c.len_utf8()
        };
        rest = &rest[skip..];
    }
    out
}
