//! Log lines: `12:04:07.123 info  n2 t7 follower  following leader=n1`. To stderr, and to `node.log` in the data folder
//! when the terminal would otherwise be the only copy.
//!
//! The prefix tells who speaks, in which term and role, so that five terminals' lines can be laid side by side.
//! Not here: what is logged; each room says it.

use crate::raft::Role;
use crate::types::{NodeId, Term};
use log::Level;
use std::io::Write;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

static NODE: AtomicU64 = AtomicU64::new(0);
static TERM: AtomicU64 = AtomicU64::new(0);
static ROLE: AtomicU8 = AtomicU8::new(0);

/// Environment variable with the filter, as of `env_logger` (`info`, `phalanx::raft=debug`).
pub const LOG_VARIABLE: &str = "PHALANX_LOG";

/// Starts logging for this process. A second call changes nothing.
pub fn start() {
    let env = env_logger::Env::new().filter_or(LOG_VARIABLE, "info");
    let started = env_logger::Builder::from_env(env)
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
    fn roles_have_their_words() {
        for (role, word) in [(Role::Follower, "follower"), (Role::Candidate, "candidate"), (Role::Leader, "leader")] {
            set_place(Term(3), role);
            assert_eq!(place().2, word);
        }
    }
}
