//! How regularly something is heard, and when its silence is longer than that: for nodes that are only not to be chosen
//! while they are silent. Whether a node has failed is decided elsewhere, later (`cluster/gossip.rs`, `raft/timeouts.rs`).
//!
//! The limit is half as long again as the longest silence of the last minute or two, within bounds. So a network that
//! delays and a machine that is busy raise it, and one lost heartbeat does not exceed it.
//! Invariant: R1 a silence of more than twice the limit was an absence and does not raise the limit.
//! Not here: clocks; times are milliseconds of one node's own clock.

/// How long a silence is remembered: for one span at least and two at most.
const SPAN_MS: u64 = 60_000;

/// The bounds of the limit, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    pub least_ms: u64,
    pub most_ms: u64,
}

impl Bounds {
    /// For what is heard at this interval, of a node that counts as failed after so long.
    pub fn of(interval_ms: u64, fail_after_ms: u64) -> Bounds {
        let least_ms = 3 * interval_ms;
        Bounds { least_ms, most_ms: fail_after_ms.max(least_ms) }
    }
}

/// When something was last heard, and the longest silences before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rhythm {
    heard_ms: u64,
    /// Longest silence of the present span and of the one before.
    longest_ms: [u64; 2],
    span_ends_ms: u64,
}

impl Rhythm {
    /// A node that was heard for the first time at `now_ms`.
    pub fn new(now_ms: u64) -> Rhythm {
        Rhythm { heard_ms: now_ms, longest_ms: [0; 2], span_ends_ms: now_ms + SPAN_MS }
    }

    /// Records a message that was received at `now_ms`.
    pub fn on_message(&mut self, now_ms: u64, bounds: Bounds) {
        let silence_ms = self.silence_ms(now_ms);
        if silence_ms <= 2 * self.limit_ms(bounds) {
            self.longest_ms[0] = self.longest_ms[0].max(silence_ms);
        }
        if now_ms >= self.span_ends_ms {
            self.longest_ms = [0, self.longest_ms[0]];
            self.span_ends_ms = now_ms + SPAN_MS;
        }
        self.heard_ms = self.heard_ms.max(now_ms);
    }

    /// From now on it is heard regularly; its silence before says nothing.
    pub fn restart(&mut self, now_ms: u64) {
        self.heard_ms = now_ms;
    }

    pub fn heard_ms(&self) -> u64 {
        self.heard_ms
    }

    /// This node itself was suspended for so long: that was no silence of the other.
    pub fn exclude(&mut self, pause_ms: u64, now_ms: u64) {
        self.heard_ms = (self.heard_ms + pause_ms).min(now_ms);
    }

    /// Milliseconds since it was last heard.
    pub fn silence_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.heard_ms)
    }

    /// Whether its silence is no longer than usual.
    pub fn is_fresh(&self, now_ms: u64, bounds: Bounds) -> bool {
        self.silence_ms(now_ms) <= self.limit_ms(bounds)
    }

    fn limit_ms(&self, bounds: Bounds) -> u64 {
        let longest_ms = self.longest_ms[0].max(self.longest_ms[1]);
        (longest_ms + longest_ms / 2).clamp(bounds.least_ms, bounds.most_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_follows_what_was_heard_and_forgets_it() {
        let bounds = Bounds::of(200, 2000);
        let mut rhythm = Rhythm::new(0);
        (1..=10).for_each(|n| rhythm.on_message(200 * n, bounds));
        assert!(rhythm.is_fresh(2600, bounds) && !rhythm.is_fresh(2601, bounds), "three intervals");
        rhythm.on_message(2800, bounds);
        // The longest was 800 ms.
        assert!(rhythm.is_fresh(4000, bounds) && !rhythm.is_fresh(4001, bounds));
        let mut now_ms = 2800;
        while now_ms < 2 * SPAN_MS + 5000 {
            now_ms += 200;
            rhythm.on_message(now_ms, bounds);
        }
        assert!(!rhythm.is_fresh(now_ms + 601, bounds), "it has been regular since");
    }

    #[test]
    fn an_absence_and_a_pause_of_this_node_do_not_raise_the_limit() {
        let bounds = Bounds::of(200, 2000);
        let mut rhythm = Rhythm::new(0);
        rhythm.on_message(200, bounds);
        rhythm.on_message(1500, bounds);
        assert!(!rhythm.is_fresh(2101, bounds), "R1");
        rhythm.exclude(5000, 7100);
        assert!(rhythm.is_fresh(7100, bounds), "{rhythm:?}");
        assert!(!rhythm.is_fresh(7101, bounds), "{rhythm:?}");
        // Never beyond the time after which a node counts as failed.
        let slow = Bounds::of(10_000, 2000);
        assert_eq!(slow, Bounds { least_ms: 30_000, most_ms: 30_000 });
    }
}
