//! Log lines: `12:04:07.123 info  n2 t7 follower  following leader=n1`. To stderr, and to `node.log` in the data
//! folder.
//!
//! The prefix names the node, its term and its role, so that the lines of several nodes can be compared. Control
//! characters are escaped whatever their source, and each message is one line. A thread that logs never waits for the
//! reader of stderr, neither at a panic nor at the end of the process: the last lines get [`FLUSH_MAX`].
//! Not here: what is logged; each module does that. Queues, the file and its bounds are in `log_queue.rs`.

use super::log_queue::{FILE_BYTES_MAX, LogFile, Sink, Terminal};
use crate::node::shared::clock::now_ms;
use crate::raft::Role;
use crate::text;
use crate::time::time_of_day;
use crate::types::{NodeId, Term};
use std::io::{self, IsTerminal, Write};
use std::panic;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Exit code of a node whose disk failed.
pub const EXIT_DISK: i32 = 3;
/// How long the end of the process waits for its last lines to be taken.
const FLUSH_MAX: Duration = Duration::from_millis(500);

static STDERR: OnceLock<Sink> = OnceLock::new();
static FILE: OnceLock<Sink> = OnceLock::new();
/// Standard error goes to the log file: each line is written there once.
static STDERR_IS_FILE: AtomicBool = AtomicBool::new(false);
static NODE: AtomicU64 = AtomicU64::new(0);
static TERM: AtomicU64 = AtomicU64::new(0);
static ROLE: AtomicU8 = AtomicU8::new(0);

/// Environment variable with the filter, as of `env_logger` (`info`, `phalanx::raft=debug`).
pub const LOG_VARIABLE: &str = "PHALANX_LOG";

/// Starts logging for this process. A second call changes nothing.
pub fn start() {
    match Sink::start("log-stderr", Terminal, dropped) {
        Ok(sink) => drop(STDERR.set(sink)),
        Err(e) => eprintln!("cannot start the logging thread: {e}"),
    }
    let env = env_logger::Env::new().filter_or(LOG_VARIABLE, "info");
    let is_colourful = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let started = env_logger::Builder::from_env(env)
        .target(env_logger::Target::Pipe(Box::new(Tee)))
        .write_style(if is_colourful { env_logger::WriteStyle::Always } else { env_logger::WriteStyle::Never })
        .format(|out, record| {
            let style = out.default_level_style(record.level());
            let level = record.level().as_str().to_ascii_lowercase();
            let text = text::plain(&record.args().to_string());
            writeln!(out, "{} {style}{level:<5}{style:#} {} {text}", clock(), place())
        })
        .try_init();
    // Fails only if the process has a logger already, which stays in use.
    drop(started);
    panic::set_hook(Box::new(on_panic));
}

/// From now on lines are also written to this file.
pub fn also_to(path: &Path) {
    let opened = LogFile::open(path, FILE_BYTES_MAX).and_then(|file| {
        let is_stderr = file.is_stderr();
        Ok((Sink::start("log-file", file, dropped)?, is_stderr))
    });
    match opened {
        Ok((sink, is_stderr)) => {
            let _ = FILE.set(sink);
            STDERR_IS_FILE.store(is_stderr, Ordering::Relaxed);
        }
        Err(e) => log::warn!("cannot open the log file {} err={e}", path.display()),
    }
}

/// Opens the log file by its name again: it may have been moved.
pub fn reopen() {
    if let Some(file) = FILE.get() {
        file.reopen();
    }
}

/// Writes a line without time and prefix, regardless of the filter is.
pub fn print(text: &str) {
    queue(format!("{}\n", text::plain_lines(text)).as_bytes());
}

/// Ends the process once its last lines are written, or after [`FLUSH_MAX`].
pub fn exit(code: i32) -> ! {
    flush();
    std::process::exit(code);
}

/// Waits until all lines so far are written, for a short time at most.
pub fn flush() {
    let by = Instant::now() + FLUSH_MAX;
    // The file first: a terminal may take nothing.
    let asked = [FILE.get(), STDERR.get()].map(|sink| sink.and_then(|sink| sink.flush(by)));
    for is_done in asked.iter().flatten() {
        // After the deadline the process ends without these lines.
        let _ = is_done.recv_deadline(by);
    }
}

/// Writes lines to both outputs.
struct Tee;

impl Write for Tee {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        queue(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn queue(line: &[u8]) {
    if let Some(file) = FILE.get() {
        file.line(line);
    }
    if let Some(stderr) = STDERR.get().filter(|_| !STDERR_IS_FILE.load(Ordering::Relaxed)) {
        stderr.line(line);
    }
}

/// The standard hook would wait for a terminal that does not accept output.
fn on_panic(info: &panic::PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let at = info.location().map_or("?".to_string(), ToString::to_string);
    let what = info.payload_as_str().unwrap_or("(no message)");
    print(&format!("{} error {} thread {} panicked at {at}: {what}", clock(), place(), thread.name().unwrap_or("?")));
    // Captured if RUST_BACKTRACE is set.
    let backtrace = std::backtrace::Backtrace::capture();
    if backtrace.status() == std::backtrace::BacktraceStatus::Captured {
        print(&backtrace.to_string());
    }
    flush();
}

/// The line that reports how many others were left out.
fn dropped(lines: u64) -> String {
    format!("{} warn  {} {lines} lines dropped: this output was too slow\n", clock(), place())
}

/// Sets the node id in the prefix.
pub fn set_node(id: NodeId) {
    NODE.store(id.0, Ordering::Relaxed);
}

/// Sets the node's term and role in the prefix.
pub fn set_place(term: Term, role: Role) {
    TERM.store(term.0, Ordering::Relaxed);
    ROLE.store(role as u8 + 1, Ordering::Relaxed);
}

/// Node, term and role.
fn place() -> String {
    let node = match NODE.load(Ordering::Relaxed) {
        0 => "n?".to_string(),
        id => NodeId(id).to_string(),
    };
    format!("{node} t{} {:<9}", TERM.load(Ordering::Relaxed), role())
}

fn role() -> &'static str {
    match ROLE.load(Ordering::Relaxed) {
        0 => "starting",
        1 => "follower",
        2 => "candidate",
        _ => "leader",
    }
}

fn clock() -> String {
    time_of_day(now_ms())
}

#[cfg(test)]
mod tests {
    use crate::node::process::logging::*;

    #[test]
    fn roles_have_names() {
        for (now, word) in [(Role::Follower, "follower"), (Role::Candidate, "candidate"), (Role::Leader, "leader")] {
            set_place(Term(3), now);
            assert_eq!(role(), word);
        }
    }
}
