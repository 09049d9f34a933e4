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

/// Seconds that a probe may take.
const PROBE_S: &str = "10";

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
    // A compiler that hangs must not keep a node from joining: its language is not there.
    let mut command = Command::new("timeout");
    command.args(["-s", "KILL", PROBE_S]).arg(program).args(args).stdin(Stdio::null());
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
            filled.extend(places.files.iter().map(|name| plain(name)));
            continue;
        }
        // What stands for one place may look like another, and is not to be filled in again.
        let (mut text, mut rest) = (String::new(), word.as_str());
        while let Some((before, place, after)) = next_place(rest) {
            text.push_str(before);
            match place {
                "{home}" => text.push_str(&places.home.map(|home| home.to_string_lossy()).unwrap_or_default()),
                "{file}" => text.push_str(&places.files.first().map(|name| plain(name)).unwrap_or_default()),
                _ => text.push_str(places.class),
            }
            rest = after;
        }
        filled.push(text + rest);
    }
    filled
}

/// The first place in a word, with what stands before and after it.
fn next_place(word: &str) -> Option<(&str, &'static str, &str)> {
    let found = ["{home}", "{file}", "{class}"].into_iter().filter_map(|place| Some((word.find(place)?, place)));
    let (at, place) = found.min()?;
    Some((&word[..at], place, &word[at + place.len()..]))
}

/// A file's name that no compiler takes for an option, or for a list of options.
fn plain(name: &str) -> String {
    if name.starts_with(['-', '@']) { format!("./{name}") } else { name.to_string() }
}

/// The class of a Java source that is to be started, with its package: the one with a `main`, else with a `run()`, else the
/// public one, else the first. `None`: it declares none.
pub fn java_class(source: &str) -> Option<String> {
    let code = without_comments(source);
    let tokens = tokens(&code);
    let package = tokens.windows(2).find(|pair| pair[0] == "package").map(|pair| format!("{}.", pair[1]));
    let classes = classes(&tokens);
    let by_main = classes.iter().find(|class| class.is_public && class.has_main);
    let by_main = by_main.or_else(|| classes.iter().find(|class| class.has_main));
    let chosen = by_main.or_else(|| classes.iter().find(|class| class.has_run)).or_else(|| leading(&classes))?;
    Some(format!("{}{}", package.unwrap_or_default(), chosen.name))
}

/// The name that the file of a Java source must have, without its ending: that of the public class, else any of its classes.
pub fn java_file(source: &str) -> Option<String> {
    let code = without_comments(source);
    leading(&classes(&tokens(&code))).map(|class| class.name.to_string())
}

/// A class, or the like, that stands in no other.
struct JavaClass<'a> {
    name: &'a str,
    is_public: bool,
    has_main: bool,
    /// A `run()` with a body; an interface only promises one.
    has_run: bool,
}

fn leading<'a, 'b>(classes: &'b [JavaClass<'a>]) -> Option<&'b JavaClass<'a>> {
    classes.iter().find(|class| class.is_public).or_else(|| classes.first())
}

/// Words, and the brackets between them.
fn tokens(code: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    for piece in code.split_inclusive(|c: char| !(c.is_alphanumeric() || "_$.".contains(c))) {
        let word = piece.trim_end_matches(|c: char| !(c.is_alphanumeric() || "_$.".contains(c)));
        let sign = &piece[word.len()..];
        tokens.extend(Some(word).filter(|word| !word.is_empty()));
        tokens.extend(Some(sign).filter(|sign| matches!(*sign, "{" | "}" | "(" | ")")));
    }
    tokens
}

fn classes<'a>(tokens: &[&'a str]) -> Vec<JavaClass<'a>> {
    const BEFORE: [&str; 6] = ["final", "abstract", "sealed", "public", "strictfp", "non"];
    let mut classes: Vec<JavaClass<'a>> = Vec::new();
    let (mut depth, mut kind) = (0_i32, "");
    for (at, word) in tokens.iter().enumerate() {
        let next = |n: usize| tokens.get(at + n).copied().unwrap_or_default();
        match (*word, depth) {
            ("{", _) => depth += 1,
            ("}", _) => depth -= 1,
            ("class" | "enum" | "record" | "interface", 0) if !next(1).is_empty() => {
                let mut before = tokens[..at].iter().rev().take_while(|word| BEFORE.contains(word));
                let is_public = before.any(|word| *word == "public");
                kind = word;
                classes.push(JavaClass { name: next(1), is_public, has_main: false, has_run: false });
            }
            ("main", 1) if next(1) == "(" => {
                classes.last_mut().into_iter().for_each(|class| class.has_main = true);
            }
            ("run", 1) if kind != "interface" && (next(1), next(2)) == ("(", ")") => {
                let has_body = matches!(next(3), "{" | "throws");
                classes.last_mut().into_iter().for_each(|class| class.has_run |= has_body);
            }
            _ => {}
        }
    }
    classes
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
