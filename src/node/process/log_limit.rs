//! Log lines that unknown senders cause: a few of each kind, and the count of those that were left out.
//!
//! Anyone may connect and send invalid bytes, as fast as the network carries them. The first lines of each kind say
//! what happens; a flood of them must not fill a disk or push what matters out of a terminal.
//! Not here: queues that keep writers from waiting (`log_queue.rs`).

use crate::lock::{Mutex, lock};
use std::fmt;
use std::time::{Duration, Instant};

/// Lines of one kind in one [`WINDOW`].
const LINES_MAX: u32 = 5;
/// Period over which lines are counted.
const WINDOW: Duration = Duration::from_secs(60);

/// Which lines of one kind are written. One `static` for each kind.
#[derive(Debug)]
pub struct LineLimit(Mutex<State>);

#[derive(Debug)]
struct State {
    since: Option<Instant>,
    written: u32,
    left_out: u64,
}

/// How many lines were left out before one that may be written.
#[derive(Debug, PartialEq, Eq)]
pub struct SuppressedLines(u64);

impl fmt::Display for SuppressedLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            n => write!(f, " ({n} lines like this were left out)"),
        }
    }
}

impl LineLimit {
    #[allow(clippy::new_without_default, reason = "for statics")]
    pub const fn new() -> LineLimit {
        LineLimit(Mutex::new(State { since: None, written: 0, left_out: 0 }))
    }

    /// Whether a line may be written now.
    pub fn pass(&self, now: Instant) -> Option<SuppressedLines> {
        let mut state = lock(&self.0);
        if state.since.is_none_or(|since| now.saturating_duration_since(since) >= WINDOW) {
            (state.since, state.written) = (Some(now), 0);
        }
        if state.written == LINES_MAX {
            state.left_out += 1;
            return None;
        }
        state.written += 1;
        Some(SuppressedLines(std::mem::take(&mut state.left_out)))
    }
}

/// As `log::warn!`, a few times a minute from each place in the code.
#[macro_export]
macro_rules! warn_seldom {
    ($($text:tt)+) => {{
        static LIMIT: $crate::node::process::log_limit::LineLimit = $crate::node::process::log_limit::LineLimit::new();
        if let Some(left_out) = LIMIT.pass(std::time::Instant::now()) {
            log::warn!("{}{left_out}", format_args!($($text)+));
        }
    }};
}

#[cfg(test)]
mod tests {
    use crate::node::process::log_limit::*;

    #[test]
    fn a_flood_becomes_a_few_lines_and_a_count() {
        let limit = LineLimit::new();
        let begun = Instant::now();
        let written = |at: Instant, tries: u32| {
            (0..tries).filter_map(|_| limit.pass(at)).map(|left| left.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(written(begun, 1000), [""; LINES_MAX as usize]);
        assert_eq!(written(begun + WINDOW / 2, 5), [""; 0]);
        assert_eq!(written(begun + WINDOW, 2), [" (1000 lines like this were left out)", ""]);
    }
}
