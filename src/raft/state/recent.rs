//! The largest value of the last minutes.
//!
//! Not here: what is measured, and what follows from it (`raft/timeouts.rs`).

use std::collections::VecDeque;

/// Ticks of one span; values are forgotten by the span.
const SPAN_TICKS: u64 = 2_000;
/// Spans that are remembered: five minutes.
const SPANS: u64 = 30;

/// The largest value of the last [`SPANS`] spans, or the newest one if all are older.
#[derive(Clone, Debug, Default)]
pub(crate) struct RecentMax {
    /// Spans with their largest value, in order of time; each value is larger than all later ones.
    spans: VecDeque<(u64, u64)>,
    newest: u64,
}

impl RecentMax {
    pub(crate) fn add(&mut self, now: u64, value: u64) {
        while self.spans.back().is_some_and(|(_, largest)| *largest <= value) {
            self.spans.pop_back();
        }
        let span = now / SPAN_TICKS;
        if self.spans.back().is_none_or(|(newest, _)| *newest != span) {
            self.spans.push_back((span, value));
        }
        while self.spans.front().is_some_and(|(oldest, _)| oldest + SPANS <= span) {
            self.spans.pop_front();
        }
        self.newest = value;
    }

    /// The largest value; 0 if there is none.
    pub(crate) fn get(&self, now: u64) -> u64 {
        let span = now / SPAN_TICKS;
        let recent = self.spans.iter().find(|(at, _)| at + SPANS > span);
        recent.map_or(self.newest, |(_, largest)| *largest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compared with a list of all values, over random times.
    #[test]
    fn it_is_the_largest_of_the_last_spans() {
        for seed in 0..50 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let (mut recent, mut all, mut now) = (RecentMax::default(), Vec::new(), 0);
            for _ in 0..500 {
                now += rng.u64(0..SPAN_TICKS * 3);
                let value = rng.u64(0..100);
                recent.add(now, value);
                all.push((now / SPAN_TICKS, value));
                let later = now + rng.u64(0..SPAN_TICKS * SPANS * 2);
                for at in [now, later] {
                    let kept = all.iter().filter(|(span, _)| span + SPANS > at / SPAN_TICKS).map(|(_, value)| *value);
                    assert_eq!(recent.get(at), kept.max().unwrap_or(value), "seed {seed} at {at}");
                }
                assert!(recent.spans.len() <= SPANS as usize);
            }
        }
    }
}
