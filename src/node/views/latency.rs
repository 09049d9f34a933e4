//! How long things took, in log-linear buckets: exact below 64 microseconds, within 1.6 % above.
//!
//! [`Histogram`] belongs to one thread; [`Recorder`] is shared by all threads that answer, and costs two additions
//! each. A bucket's bounds depend on its number alone, so the counts of any two can be added or subtracted.
//! [`CoarseRecorder`] is the same with thirteen buckets, for what is recorded by route or by peer.
//! Not here: what is measured and when a window ends (`activity.rs`, `bench/load.rs`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Buckets to one doubling, as a power of two.
const FINE_BITS: u32 = 6;
/// Values at and above this many microseconds (17 minutes) share the last bucket.
const VALUE_BITS_MAX: u32 = 30;
pub const BUCKETS: usize = ((VALUE_BITS_MAX - FINE_BITS + 1) as usize) << FINE_BITS;

/// The bucket of a value in microseconds.
pub fn bucket_of(us: u64) -> usize {
    let us = us.min((1 << VALUE_BITS_MAX) - 1);
    if us < 1 << FINE_BITS {
        return us as usize;
    }
    let shift = us.ilog2() - FINE_BITS;
    // The top bits after the leading one number the bucket within its doubling.
    ((shift as usize) << FINE_BITS) + (us >> shift) as usize
}

/// The highest value of a bucket, in microseconds: the value of a percentile that falls into it.
pub fn highest_in(bucket: usize) -> u64 {
    if bucket < 1 << FINE_BITS {
        return bucket as u64;
    }
    let shift = (bucket >> FINE_BITS) - 1;
    let top = (bucket - (shift << FINE_BITS)) as u64;
    ((top + 1) << shift) - 1
}

/// Durations by bucket, with their exact sum and maximum.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    count: u64,
    sum_us: u64,
    max_us: u64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { counts: vec![0; BUCKETS], count: 0, sum_us: 0, max_us: 0 }
    }
}

impl Histogram {
    /// Adds `times` durations of the same length.
    pub fn record(&mut self, took: Duration, times: u64) {
        let us = took.as_micros() as u64;
        self.counts[bucket_of(us)] += times;
        self.count += times;
        self.sum_us += us * times;
        self.max_us = self.max_us.max(us);
    }

    /// Adds the durations of another one.
    pub fn merge(&mut self, other: &Histogram) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.count += other.count;
        self.sum_us += other.sum_us;
        self.max_us = self.max_us.max(other.max_us);
    }

    /// How many durations it holds.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their mean in microseconds; 0 without any.
    pub fn mean_us(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum_us as f64 / self.count as f64 }
    }

    /// The longest, in microseconds.
    pub fn max_us(&self) -> u64 {
        self.max_us
    }

    /// Microseconds that this share of all durations (0.99: 99 %) does not exceed; 0 without any.
    pub fn percentile_us(&self, share: f64) -> u64 {
        percentile_us(&self.counts, share).min(self.max_us)
    }
}

/// Durations by bucket since the start, recorded by any thread.
#[derive(Debug)]
pub struct Recorder {
    counts: Vec<AtomicU64>,
    sum_us: AtomicU64,
}

impl Default for Recorder {
    fn default() -> Recorder {
        let counts = std::iter::repeat_with(AtomicU64::default).take(BUCKETS).collect();
        Recorder { counts, sum_us: AtomicU64::default() }
    }
}

impl Recorder {
    /// Adds `times` durations of the same length.
    pub fn record(&self, took: Duration, times: u64) {
        let us = took.as_micros() as u64;
        self.counts[bucket_of(us)].fetch_add(times, Ordering::Relaxed);
        self.sum_us.fetch_add(us * times, Ordering::Relaxed);
    }

    /// How many durations each bucket holds.
    pub fn counts(&self) -> Vec<u64> {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }

    /// How many durations there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    pub fn sum_seconds(&self) -> f64 {
        self.sum_us.load(Ordering::Relaxed) as f64 / 1e6
    }

    /// Upper bounds in seconds, each twice the one before, and how many durations lie between a bound and the one
    /// before it.
    pub fn by_doubling(&self) -> Vec<(f64, u64)> {
        let counts = self.counts();
        let mut from = 0;
        let bound = |bits: u32| {
            let to = if bits == VALUE_BITS_MAX { BUCKETS } else { bucket_of(1 << bits) };
            let upper = if bits == VALUE_BITS_MAX { f64::INFINITY } else { (1u64 << bits) as f64 / 1e6 };
            (upper, counts[std::mem::replace(&mut from, to)..to].iter().sum())
        };
        (FINE_BITS..=VALUE_BITS_MAX).map(bound).collect()
    }
}

/// Number of buckets of a [`CoarseRecorder`]: below 64 microseconds, then one for each factor of four to 268 s and beyond.
const COARSE_BUCKETS: usize = 13;

/// Durations since the start in few buckets, recorded by any thread.
#[derive(Debug, Default)]
pub struct CoarseRecorder {
    counts: [AtomicU64; COARSE_BUCKETS],
    sum_us: AtomicU64,
}

impl CoarseRecorder {
    pub fn record(&self, took: Duration) {
        let us = took.as_micros() as u64;
        let bucket = us.checked_ilog2().and_then(|bits| bits.checked_sub(FINE_BITS)).map_or(0, |bits| bits / 2 + 1);
        self.counts[(bucket as usize).min(COARSE_BUCKETS - 1)].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// Whether there were no durations.
    pub fn is_empty(&self) -> bool {
        self.counts.iter().all(|count| count.load(Ordering::Relaxed) == 0)
    }

    pub fn sum_seconds(&self) -> f64 {
        self.sum_us.load(Ordering::Relaxed) as f64 / 1e6
    }

    /// As [`Recorder::by_doubling`], each bound four times the one before.
    pub fn by_factor_of_four(&self) -> Vec<(f64, u64)> {
        let bound = |at: usize| match at {
            _ if at == COARSE_BUCKETS - 1 => f64::INFINITY,
            _ => (1u64 << (FINE_BITS as usize + 2 * at)) as f64 / 1e6,
        };
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        counts.enumerate().map(|(at, count)| (bound(at), count)).collect()
    }
}

/// Microseconds that this share of what is counted does not exceed; 0 if nothing is.
pub fn percentile_us(counts: &[u64], share: f64) -> u64 {
    let total: u64 = counts.iter().sum();
    let wanted = ((total as f64 * share).ceil() as u64).max(1);
    let mut seen = 0;
    for (bucket, count) in counts.iter().enumerate() {
        seen += count;
        if seen >= wanted {
            return highest_in(bucket);
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use crate::node::views::latency::*;

    #[test]
    fn every_value_lies_in_its_bucket_and_buckets_follow_one_another() {
        let mut last = 0;
        for us in (0..5000).chain((0..VALUE_BITS_MAX).flat_map(|b| [(1 << b) - 1, 1 << b, (1 << b) + 1])) {
            let bucket = bucket_of(us);
            let low = if bucket == 0 { 0 } else { highest_in(bucket - 1) + 1 };
            assert!(low <= us && us <= highest_in(bucket), "{us} in bucket {bucket}: {low} to {}", highest_in(bucket));
            assert!(highest_in(bucket) - low <= us / 64, "bucket {bucket} is too wide");
            last = last.max(bucket);
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
        assert!(last < BUCKETS);
    }

    #[test]
    fn a_duration_lies_below_the_first_bound_above_it() {
        let times = Recorder::default();
        for us in [0, 63, 64, 1000, 1 << 40] {
            times.record(Duration::from_micros(us), 2);
        }
        let found = times.by_doubling().into_iter().filter(|(_, count)| *count > 0).collect::<Vec<_>>();
        assert_eq!(found, [(0.000064, 4), (0.000128, 2), (0.001024, 2), (f64::INFINITY, 2)]);
        assert_eq!(times.count(), 10);
    }

    #[test]
    fn a_coarse_bucket_holds_what_lies_below_its_bound() {
        let times = CoarseRecorder::default();
        assert!(times.is_empty());
        for us in [0, 63, 64, 255, 256, 1 << 27, 1 << 28, 1 << 40] {
            times.record(Duration::from_micros(us));
        }
        let found = times.by_factor_of_four().into_iter().filter(|(_, count)| *count > 0).collect::<Vec<_>>();
        assert_eq!(found, [(0.000064, 2), (0.000256, 2), (0.001024, 1), (268.435456, 1), (f64::INFINITY, 2)]);
        assert_eq!(times.by_factor_of_four().len(), COARSE_BUCKETS);
        assert!(!times.is_empty() && times.sum_seconds() > 1e6);
    }

    #[test]
    fn percentiles_of_a_known_crowd() {
        let mut times = Histogram::default();
        for us in 1..=1000 {
            times.record(Duration::from_micros(us), 1);
        }
        assert_eq!((times.count(), times.max_us(), times.mean_us()), (1000, 1000, 500.5));
        let near = |found: u64, exact: u64| found >= exact && found <= exact + exact / 60;
        assert!(near(times.percentile_us(0.5), 500), "{}", times.percentile_us(0.5));
        assert!(near(times.percentile_us(0.99), 990), "{}", times.percentile_us(0.99));
        assert_eq!(times.percentile_us(1.0), 1000);
        assert_eq!(Histogram::default().percentile_us(0.5), 0);
    }
}
