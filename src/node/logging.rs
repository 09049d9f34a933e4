//! Log lines: `12:04:07.123 info  n2 t7 follower  following leader=n1`. To stderr, and to `node.log` in the data folder
//! when the terminal would otherwise be the only copy.
//!
//! The prefix tells who speaks, in which term and role, so that five terminals' lines can be laid side by side.
//! Not here: what is logged; each room says it.

use crate::raft::Role;
use crate::types::{NodeId, Term};
use log::Level;
use std::fs::{File, OpenOptions};
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

/// A log file larger than this is set aside at the next start.
const FILE_BYTES_MAX: u64 = 16 << 20;

static FILE: OnceLock<Mutex<File>> = OnceLock::new();
static NODE: AtomicU64 = AtomicU64::new(0);
static TERM: AtomicU64 = AtomicU64::new(0);
static ROLE: AtomicU8 = AtomicU8::new(0);

/// Environment variable with the filter, as of `env_logger` (`info`, `phalanx::raft=debug`).
pub const LOG_VARIABLE: &str = "PHALANX_LOG";

/// Starts logging for this process. A second call changes nothing.
pub fn start() {
    let env = env_logger::Env::new().filter_or(LOG_VARIABLE, "info");
    let is_colourful = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let started = env_logger::Builder::from_env(env)
        .target(env_logger::Target::Pipe(Box::new(Tee)))
        .write_style(if is_colourful { env_logger::WriteStyle::Always } else { env_logger::WriteStyle::Never })
        .format(|out, record| {
            let style = out.default_level_style(record.level());
            let (node, term, role) = place();
            let level = level_word(record.level());
            writeln!(out, "{} {style}{level:<5}{style:#} {node} t{term} {role:<9} {}", clock(), record.args())
        })
        .try_init();
    // Only a second logger in one process fails here, and then the first one serves.
    drop(started);
}

/// From now on lines also go to this file, if the terminal is their only copy otherwise. One that has grown large in an
/// earlier life is kept as `.1`.
pub fn also_to(path: &Path) {
    if !std::io::stderr().is_terminal() {
        return;
    }
    if std::fs::metadata(path).is_ok_and(|meta| meta.len() > FILE_BYTES_MAX) {
        // If it cannot be moved it goes on growing, which is no reason not to start.
        let _ = std::fs::rename(path, path.with_extension("log.1"));
    }
    match OpenOptions::new().create(true).append(true).open(path) {
        Ok(file) => drop(FILE.set(Mutex::new(file))),
        Err(e) => log::warn!("no log file at {} err={e}", path.display()),
    }
}

/// Terminal and file; colours go to the terminal alone.
struct Tee;

impl Write for Tee {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if let Some(file) = FILE.get() {
            // A full disk must not cost the terminal its lines.
            let _ = file.lock().unwrap_or_else(|e| e.into_inner()).write_all(&without_colours(bytes));
        }
        // A terminal that was closed must not end the node.
        let _ = std::io::stderr().write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

fn without_colours(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(bytes.len());
    let mut is_escape = false;
    for byte in bytes {
        match (is_escape, byte) {
            (false, 0x1b) => is_escape = true,
            (false, byte) => plain.push(*byte),
            (true, b'm') => is_escape = false,
            (true, _) => {}
        }
    }
    plain
}

/// Tells the prefix who this process is.
pub fn set_node(id: NodeId) {
    NODE.store(id.0, Ordering::Relaxed);
}

/// Tells the prefix the node's term and role.
pub fn set_place(term: Term, role: Role) {
    TERM.store(term.0, Ordering::Relaxed);
    ROLE.store(role as u8 + 1, Ordering::Relaxed);
}

fn place() -> (String, u64, &'static str) {
    let node = match NODE.load(Ordering::Relaxed) {
        0 => "n?".to_string(),
        id => NodeId(id).to_string(),
    };
    let role = match ROLE.load(Ordering::Relaxed) {
        0 => "starting",
        1 => "follower",
        2 => "candidate",
        _ => "leader",
    };
    (node, TERM.load(Ordering::Relaxed), role)
}

fn level_word(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    }
}

/// Time of day, UTC.
fn clock() -> String {
    let ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
    let (seconds, ms) = (ms / 1000 % 86_400, ms % 1000);
    format!("{:02}:{:02}:{:02}.{ms:03}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_has_no_colours() {
        assert_eq!(without_colours(b"a \x1b[32minfo\x1b[0m b"), b"a info b");
    }

    #[test]
    fn roles_have_their_words() {
        for (role, word) in [(Role::Follower, "follower"), (Role::Candidate, "candidate"), (Role::Leader, "leader")] {
            set_place(Term(3), role);
            assert_eq!(place().2, word);
        }
    }
}
