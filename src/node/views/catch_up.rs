//! How long this node takes to apply what the others committed while it was away: stopped, cut off or frozen.
//!
//! Catching up begins with the first message of a leader after silence, which carries the commit index, and ends when
//! this node has applied up to that index. The death of a leader needs none: this node has missed nothing then.
//! Not here: snapshots, which the thread that installs them reports (`node/threads/apply.rs`).

use crate::lock::{Mutex, lock};
use crate::types::{Index, NodeId};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A node that has not heard a leader for so long was away.
const AWAY_AFTER: Duration = Duration::from_secs(1);

/// Measures how long this node takes to catch up.
#[derive(Debug)]
pub struct CatchUp {
    state: Mutex<State>,
    /// Whether this node is catching up: read after every entry.
    is_under_way: AtomicBool,
}

#[derive(Debug)]
enum State {
    /// This process has not heard a leader yet.
    Started,
    /// Everything that was missed is applied.
    Done,
    UnderWay {
        begun: Instant,
        from: Index,
        to: Index,
    },
}

impl CatchUp {
    /// The node starts. `has_past`: it has the log of an earlier process.
    pub fn new(has_past: bool) -> CatchUp {
        let state = if has_past { State::Started } else { State::Done };
        CatchUp { state: Mutex::new(state), is_under_way: AtomicBool::new(false) }
    }

    /// A leader reports its commit index. `silence`: time since a leader was heard before, if ever.
    pub fn on_commit(&self, commit: Index, applied: Index, silence: Option<Duration>) {
        let was_away = silence.is_none_or(|silence| silence >= AWAY_AFTER);
        if self.is_under_way.load(Ordering::Relaxed) {
            return;
        }
        let mut state = lock(&self.state);
        match *state {
            State::Started => {}
            State::Done if was_away => {}
            _ => return,
        }
        *state = State::Done;
        if commit > applied {
            *state = State::UnderWay { begun: Instant::now(), from: applied, to: commit };
            self.is_under_way.store(true, Ordering::Relaxed);
        }
    }

    /// A snapshot brought the state to this index: the entries that it covers were not replayed.
    pub fn installed(&self, index: Index) {
        if let State::UnderWay { from, .. } = &mut *lock(&self.state) {
            *from = index.max(*from);
        }
    }

    /// The applied index has advanced; returns a sentence for the log when it has caught up.
    pub fn applied(&self, applied: Index, me: NodeId) -> Option<String> {
        if !self.is_under_way.load(Ordering::Relaxed) {
            return None;
        }
        let mut state = lock(&self.state);
        let State::UnderWay { begun, from, to } = *state else { return None };
        if applied < to {
            return None;
        }
        *state = State::Done;
        self.is_under_way.store(false, Ordering::Relaxed);
        let (count, seconds) = (to.0.saturating_sub(from.0), begun.elapsed().as_secs_f64());
        let entries = if count == 1 { "entry" } else { "entries" };
        Some(format!("node {} replayed {} {entries} in {seconds:.1} s", me.0, in_thousands(count)))
    }
}

/// A number with separators: `1,204`.
fn in_thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use crate::node::views::catch_up::*;

    const ME: NodeId = NodeId(2);

    #[test]
    fn a_restart_and_a_silence_are_reported_once() {
        let catch_up = CatchUp::new(true);
        catch_up.on_commit(Index(1300), Index(96), None);
        catch_up.on_commit(Index(1400), Index(96), Some(Duration::ZERO));
        assert_eq!(catch_up.applied(Index(1299), ME), None);
        let message = catch_up.applied(Index(1310), ME).unwrap();
        assert!(message.starts_with("node 2 replayed 1,204 entries in 0.") && message.ends_with(" s"), "{message}");
        assert_eq!(catch_up.applied(Index(1400), ME), None);
        catch_up.on_commit(Index(1500), Index(1400), Some(Duration::from_millis(300)));
        assert_eq!(catch_up.applied(Index(1500), ME), None, "a leader that falls silent for a moment");
        catch_up.on_commit(Index(1501), Index(1400), Some(Duration::from_secs(3)));
        catch_up.installed(Index(1500));
        assert!(catch_up.applied(Index(1501), ME).unwrap().starts_with("node 2 replayed 1 entry in "));
    }

    #[test]
    fn a_first_start_and_a_failover_need_no_catching_up() {
        let first = CatchUp::new(false);
        first.on_commit(Index(7), Index(0), Some(Duration::ZERO));
        assert_eq!(first.applied(Index(7), ME), None);
        first.on_commit(Index(7), Index(7), Some(Duration::from_secs(3)));
        assert_eq!(first.applied(Index(8), ME), None);
    }

    #[test]
    fn numbers_have_commas() {
        let texts = [0, 7, 999, 1000, 1_234_567].map(in_thousands);
        assert_eq!(texts, ["0", "7", "999", "1,000", "1,234,567"]);
    }
}
