//! Client activity on this node: commands answered per second, their latency, and the number of keys.
//!
//! Endpoints record an answer with two additions to a shared histogram; the thread that asks for the figures, once a
//! second or less often, gets the difference to the last time. So recording never waits, and a window is never shorter
//! than a second. Not here: the buckets (`latency.rs`), how figures travel (`node/threads/gossip.rs`), the page
//! (`static/`).

use super::latency::{BUCKETS, Recorder, percentile_us};
use crate::lock::{Mutex, lock};
use crate::outcome::Outcome;
use crate::wire::heartbeat::ClientRates;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Shortest time that figures are taken over.
const WINDOW: Duration = Duration::from_secs(1);

/// Counts since the start, and the figures of the last window.
#[derive(Debug)]
pub struct Activity {
    answers: Recorder,
    /// Requests that other nodes forwarded to this one.
    forwarded: AtomicU64,
    refused: AtomicU64,
    unknown: AtomicU64,
    keys: AtomicU64,
    largest_value: AtomicU64,
    window: Mutex<Window>,
}

#[derive(Debug)]
struct Window {
    begun: Instant,
    counts: Vec<u64>,
    forwarded: u64,
    rates: ClientRates,
}

impl Default for Activity {
    fn default() -> Activity {
        Activity {
            answers: Recorder::default(),
            forwarded: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
            keys: AtomicU64::new(0),
            largest_value: AtomicU64::new(0),
            window: Mutex::new(Window {
                begun: Instant::now(),
                counts: vec![0; BUCKETS],
                forwarded: 0,
                rates: ClientRates::default(),
            }),
        }
    }
}

impl Activity {
    /// Counts commands by their outcome, and how long it took to answer those that were done.
    pub fn record<T>(&self, outcome: &Outcome<T>, commands: u64, took: Duration) {
        match outcome {
            Outcome::Done(_) => self.answers.record(took, commands),
            Outcome::Refused(_) => drop(self.refused.fetch_add(commands, Ordering::Relaxed)),
            Outcome::Unknown(_) => drop(self.unknown.fetch_add(commands, Ordering::Relaxed)),
        }
    }

    /// Commands that were refused, and those whose outcome is unknown, since the start.
    pub fn failed(&self) -> (u64, u64) {
        (self.refused.load(Ordering::Relaxed), self.unknown.load(Ordering::Relaxed))
    }

    /// Counts requests that other nodes forwarded to this one, and that are answered.
    pub fn record_forwarded(&self, requests: u64) {
        self.forwarded.fetch_add(requests, Ordering::Relaxed);
    }

    /// An upper bound of the bytes of each value in this node's store.
    pub fn largest_value(&self) -> u64 {
        self.largest_value.load(Ordering::Relaxed)
    }

    /// Publishes the number of keys, and an upper bound of the bytes of each value.
    pub fn set_store(&self, keys: u64, largest_value: u64) {
        self.largest_value.store(largest_value, Ordering::Relaxed);
        self.keys.store(keys, Ordering::Relaxed);
    }

    /// How long the answers to commands took since the start.
    pub fn answers(&self) -> &Recorder {
        &self.answers
    }

    /// The figures of the last whole window.
    pub fn rates(&self) -> ClientRates {
        self.rates_at(Instant::now())
    }

    fn rates_at(&self, now: Instant) -> ClientRates {
        let mut window = lock(&self.window);
        let span = now.saturating_duration_since(window.begun);
        if span >= WINDOW {
            let counts = self.answers.counts();
            let fresh: Vec<u64> = counts.iter().zip(&window.counts).map(|(now, then)| now - then).collect();
            let commands: u64 = fresh.iter().sum();
            let forwarded = self.forwarded.load(Ordering::Relaxed);
            let per_second = |count: u64| (count as f64 / span.as_secs_f64()).round() as u64;
            window.rates = ClientRates {
                kv_ops_per_s: per_second(commands),
                led_per_s: per_second(forwarded - window.forwarded),
                kv_p50_us: percentile_us(&fresh, 0.5),
                kv_p99_us: percentile_us(&fresh, 0.99),
                keys: 0,
            };
            window.begun = now;
            window.counts = counts;
            window.forwarded = forwarded;
        }
        ClientRates { keys: self.keys.load(Ordering::Relaxed), ..window.rates }
    }
}

#[cfg(test)]
mod tests {
    use crate::node::views::activity::*;
    use crate::outcome::{Reason, UnknownReason};

    #[test]
    fn figures_are_those_of_the_last_window() {
        let activity = Activity::default();
        let begun = lock(&activity.window).begun;
        activity.set_store(7, 0);
        for ms in 1..=100 {
            activity.record(&Outcome::Done(()), 2, Duration::from_millis(ms));
        }
        activity.record(&Outcome::<()>::Refused(Reason::Stopping), 3, WINDOW);
        activity.record(&Outcome::<()>::Unknown(UnknownReason::LeaderLost), 1, WINDOW);
        assert_eq!(activity.failed(), (3, 1));
        assert_eq!(
            activity.rates_at(begun + WINDOW / 2),
            ClientRates { keys: 7, ..ClientRates::default() },
            "no window is over yet"
        );
        activity.record_forwarded(40);
        let rates = activity.rates_at(begun + 2 * WINDOW);
        assert_eq!((rates.kv_ops_per_s, rates.led_per_s, rates.keys), (100, 20, 7));
        assert!(
            (50_000..51_000).contains(&rates.kv_p50_us) && (99_000..101_000).contains(&rates.kv_p99_us),
            "{rates:?}"
        );
        assert_eq!(activity.rates_at(begun + 5 * WINDOW / 2), rates, "until the next is over");
        assert_eq!(
            activity.rates_at(begun + 3 * WINDOW),
            ClientRates { keys: 7, ..ClientRates::default() },
            "and a quiet one is zero"
        );
        assert_eq!(activity.answers().count(), 200);
    }
}
