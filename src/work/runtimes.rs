//! Which languages this machine has, and how a program in each is compiled and run.
//!
//! A configured runtime is available if its probe command succeeds. A toolchain outside the system's folders is visible
//! only to jobs in its language. Not here: the configured runtimes (`settings/runtimes.rs`), the sandbox around the
//! commands (`sandbox.rs`).

use crate::settings::Runtime;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Search path of programs inside the sandbox.
pub const SYSTEM_PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// File name and source of the Java class that starts the user's class: it calls `main`, or prints the string that
/// `run()` returns.
pub const LAUNCHER: (&str, &str) = ("PhalanxLauncher.java", include_str!("launcher.java"));

/// Time limit of a probe in seconds. If a compiler hangs, the node still joins, without that language.
const PROBE_S: u64 = 10;
/// If a probe takes longer than this, the next one is started in parallel.
const SLOW: Duration = Duration::from_secs(1);
/// Time between two checks whether a command has ended.
const CHECK_EVERY: Duration = Duration::from_millis(2);
/// Command prefix that makes a program's standard output line-buffered ([`Runtime::line_buffered`]).
const LINE_BUFFER: [&str; 2] = ["stdbuf", "-oL"];
/// Maximum bytes that are kept of each output stream of a probe.
const SAID_MAX: usize = 4096;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AvailableRuntime {
    /// The configured runtime.
    pub runtime: Runtime,
    /// First line of the probe's output.
    pub version: String,
    /// Folder of the toolchain if it is outside the system's folders.
    pub home: Option<PathBuf>,
    /// Words to put before the command that runs a program.
    pub prefix: Vec<String>,
}

/// Probes the given runtimes and returns those that are available. A runtime whose probe hangs counts as unavailable
/// and does not delay the others for long.
pub fn find(runtimes: &[Runtime]) -> Vec<AvailableRuntime> {
    find_within(runtimes, PROBE_S)
}

/// Like [`find`], with a time limit in seconds for each probe.
pub(crate) fn find_within(runtimes: &[Runtime], seconds: u64) -> Vec<AvailableRuntime> {
    let homes = runtimes.iter().map(|runtime| command(&runtime.home, None, seconds));
    let homes: Vec<Option<PathBuf>> = first_lines(homes).into_iter().map(|home| home.map(PathBuf::from)).collect();
    let homes: Vec<Option<PathBuf>> = homes.into_iter().map(|home| home.filter(|home| home.is_dir())).collect();
    let probe = |(runtime, home): (&Runtime, &Option<PathBuf>)| {
        if home.is_none() && !runtime.home.is_empty() {
            return None;
        }
        let words = fill(&runtime.probe, &Places { home: home.as_deref(), ..Places::default() });
        // A command that is not under the toolchain's own folder must be in the search path of the sandbox.
        command(&words, home.is_none().then_some(SYSTEM_PATH), seconds)
    };
    let versions = first_lines(runtimes.iter().zip(&homes).map(probe));
    let rows = runtimes.iter().zip(homes).zip(versions);
    let found = |((runtime, home), version): ((&Runtime, _), Option<String>)| {
        Some(AvailableRuntime { runtime: runtime.clone(), version: version?, home, prefix: prefix(runtime) })
    };
    rows.filter_map(found).collect()
}

fn prefix(runtime: &Runtime) -> Vec<String> {
    let is_there = || SYSTEM_PATH.split(':').any(|folder| Path::new(folder).join(LINE_BUFFER[0]).is_file());
    if runtime.line_buffered && is_there() { LINE_BUFFER.map(String::from).to_vec() } else { Vec::new() }
}

/// Builds a command that is killed after `seconds`. If `path` is given, a program without a slash is searched there.
/// Returns `None` if there are no words or the program is not found.
fn command(words: &[String], path: Option<&str>, seconds: u64) -> Option<Command> {
    let (program, args) = words.split_first()?;
    let program = match path {
        Some(path) if !program.contains('/') => {
            path.split(':').map(|folder| Path::new(folder).join(program)).find(|file| file.is_file())?
        }
        _ => PathBuf::from(program),
    };
    let mut command = Command::new("timeout");
    command.args(["-s", "KILL", &seconds.to_string()]).arg(program).args(args);
    Some(command)
}

/// Returns the first line of output of each command, `None` where the command fails. The commands run one after
/// another, because starting a compiler loads the whole machine; if one is slow, the next is started in parallel.
fn first_lines(commands: impl Iterator<Item = Option<Command>>) -> Vec<Option<String>> {
    let start = |command: Option<Command>| {
        let mut probe = Probe::start(&mut command?).ok()?;
        probe.wait(Some(Instant::now() + SLOW)).ok()?;
        Some(probe)
    };
    let probes: Vec<Option<Probe>> = commands.map(start).collect();
    probes.into_iter().map(|probe| probe?.first_line()).collect()
}

/// A started probe command with the output that it has written so far.
struct Probe {
    child: Child,
    said: [Vec<u8>; 2],
    status: Option<ExitStatus>,
}

impl Probe {
    fn start(command: &mut Command) -> io::Result<Probe> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        child.stdout.iter().try_for_each(|pipe| rustix::io::ioctl_fionbio(pipe, true))?;
        child.stderr.iter().try_for_each(|pipe| rustix::io::ioctl_fionbio(pipe, true))?;
        Ok(Probe { child, said: Default::default(), status: None })
    }

    /// Reads output until the command has ended, or until `until`. Does not wait for child processes that keep the
    /// output pipe open.
    fn wait(&mut self, until: Option<Instant>) -> io::Result<()> {
        while self.status.is_none() && until.is_none_or(|until| Instant::now() < until) {
            self.status = self.child.try_wait()?;
            let [out, err] = &mut self.said;
            self.child.stdout.iter_mut().for_each(|pipe| take(pipe, out));
            self.child.stderr.iter_mut().for_each(|pipe| take(pipe, err));
            if self.status.is_none() {
                std::thread::sleep(CHECK_EVERY);
            }
        }
        Ok(())
    }

    fn first_line(mut self) -> Option<String> {
        self.wait(None).ok()?;
        self.status.filter(ExitStatus::success)?;
        // Java 8 prints its version to standard error.
        let [out, err] = self.said;
        let text = if out.is_empty() { err } else { out };
        Some(String::from_utf8_lossy(&text).lines().next().unwrap_or_default().trim().to_string())
    }
}

/// Reads what is available without blocking; keeps the first [`SAID_MAX`] bytes.
fn take(pipe: &mut impl Read, into: &mut Vec<u8>) {
    let mut buffer = [0; 4096];
    // Bounded: a command that prints without end must not prevent the check of its deadline.
    for _ in 0..16 {
        let Ok(read @ 1..) = pipe.read(&mut buffer) else { break };
        let kept = read.min(SAID_MAX - into.len());
        into.extend_from_slice(&buffer[..kept]);
    }
}

/// Values of a command's placeholders.
#[derive(Clone, Copy, Debug, Default)]
pub struct Places<'a> {
    /// Value of `{home}`.
    pub home: Option<&'a Path>,
    /// Value of `{files}`; its first element is the value of `{file}`.
    pub files: &'a [String],
    /// Value of `{class}`.
    pub class: &'a str,
}

/// Returns the command with its placeholders replaced by their values. The word `{files}` becomes one word per file.
pub fn fill(command: &[String], places: &Places<'_>) -> Vec<String> {
    let mut filled = Vec::new();
    for word in command {
        if word == "{files}" {
            filled.extend(places.files.iter().map(|name| plain(name)));
            continue;
        }
        // A single pass: a value that looks like a placeholder must not be replaced again.
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

/// The first placeholder in a word, with the text before and after it.
fn next_place(word: &str) -> Option<(&str, &'static str, &str)> {
    let found = ["{home}", "{file}", "{class}"].into_iter().filter_map(|place| Some((word.find(place)?, place)));
    let (at, place) = found.min()?;
    Some((&word[..at], place, &word[at + place.len()..]))
}

/// Returns a form of the file name that no compiler parses as an option or as a file with options.
fn plain(name: &str) -> String {
    if name.starts_with(['-', '@']) { format!("./{name}") } else { name.to_string() }
}

/// Returns the class of a Java source to start, with its package: the class with a `main`, else the one with a
/// `run()`, else the public one, else the first. Returns `None` if the source declares no class.
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

/// Returns the file name that a Java source must have, without its extension: the name of the public class, else of
/// the first class. Returns `None` if the source declares no class.
pub fn java_file(source: &str) -> Option<String> {
    let code = without_comments(source);
    leading(&classes(&tokens(&code))).map(|class| class.name.to_string())
}

/// A top-level class, record, interface or enum.
struct JavaClass<'a> {
    name: &'a str,
    is_public: bool,
    has_main: bool,
    /// It has a `run()` with a body; a declaration in an interface does not count.
    has_run: bool,
}

fn leading<'a, 'b>(classes: &'b [JavaClass<'a>]) -> Option<&'b JavaClass<'a>> {
    classes.iter().find(|class| class.is_public).or_else(|| classes.first())
}

/// Splits code into words and brackets; other characters are dropped.
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

/// Returns the source code without comments and without string and character literals.
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
