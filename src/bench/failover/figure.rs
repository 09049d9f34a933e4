//! What `phalanx bench failover` finds: figures with their distribution and target.
//!
//! Not here: how they are measured (`one_host.rs`, `several_hosts.rs`), how they are printed (`cli/lab/bench.rs`).

use super::part::Part;
use serde::{Deserialize, Serialize};

/// Bars of a histogram are at most so many.
const BARS_MAX: usize = 10;
/// A distribution of fewer samples is their list.
const HISTOGRAM_SAMPLES_MIN: usize = 5;

/// When nodes that hear no leader any more count it as gone, in ms.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Timeouts {
    /// With the leader lost, a quorum does after this.
    pub(crate) quorum: f64,
    /// Before anything is measured.
    pub(crate) configured: f64,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// In the unit of the figure.
    pub(crate) value: f64,
    /// Election timeouts of the nodes that go on after the fault; `None` where no process is lost.
    pub(crate) timeouts: Option<Timeouts>,
}

impl From<f64> for Sample {
    fn from(value: f64) -> Sample {
        Sample { value, timeouts: None }
    }
}

/// Samples between two bounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bar {
    /// Lower bound, included.
    pub from: f64,
    /// Upper bound, not included.
    pub to: f64,
    pub count: usize,
}

/// Rounds with warm processes: a quorum of those that went on had measured the network, so that their election timeouts
/// were shorter than the configured one (`raft/timeouts.rs`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Warm {
    /// Setting `election_timeout_ms`, which holds until the network is measured.
    pub configured_ms: f64,
    /// Shortest and longest timeout of a quorum in all rounds.
    pub timeouts_ms: (f64, f64),
    /// Rounds with warm processes.
    pub rounds: usize,
    /// Their median; `None` without any.
    pub median: Option<f64>,
    /// The median of the others; `None` without any.
    pub others_median: Option<f64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figure {
    /// What was measured.
    pub part: Part,
    pub what: String,
    /// `ms`, `% of a core`, `MiB`.
    pub unit: String,
    /// Every measurement, in order.
    pub samples: Vec<f64>,
    pub median: f64,
    /// Of ten samples nine are at most this.
    pub p90: f64,
    pub worst: f64,
    /// How the samples are distributed, in bars of one width; empty for a few samples.
    pub histogram: Vec<Bar>,
    /// How warm the processes were; `None` where no process is lost.
    pub warm: Option<Warm>,
    /// Target; empty without one.
    pub target: String,
    /// Whether the target is met; true without one.
    pub is_met: bool,
}

/// A target: in words and as bounds.
pub(crate) struct Goal {
    pub(crate) words: &'static str,
    pub(crate) median: f64,
    pub(crate) worst: f64,
}

impl Goal {
    /// A figure that is shown without a target.
    pub(crate) const NONE: Goal = Goal { words: "", median: f64::INFINITY, worst: f64::INFINITY };
}

impl Figure {
    pub(crate) fn new(part: Part, what: &str, unit: &str, found: &[Sample], goal: Goal) -> Figure {
        let samples: Vec<f64> = found.iter().map(|sample| sample.value).collect();
        let mut sorted = samples.clone();
        sorted.sort_by(f64::total_cmp);
        let (median, worst) = (median(&samples), sorted.last().copied().unwrap_or(f64::NAN));
        Figure {
            part,
            what: what.into(),
            unit: unit.into(),
            median,
            p90: p90(&sorted),
            worst,
            histogram: histogram(&sorted),
            warm: warm(found),
            target: goal.words.into(),
            is_met: !samples.is_empty() && median <= goal.median && worst <= goal.worst,
            samples,
        }
    }
}

/// The median; NaN without samples.
pub(crate) fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

/// The smallest sample that is not exceeded by nine of ten.
fn p90(sorted: &[f64]) -> f64 {
    let rank = (sorted.len() * 9).div_ceil(10);
    rank.checked_sub(1).map_or(f64::NAN, |at| sorted[at])
}

/// Bars as wide as 1, 2 or 5 times a power of ten, the narrowest of which at most [`BARS_MAX`] hold all; those without
/// samples are left out.
fn histogram(sorted: &[f64]) -> Vec<Bar> {
    let (Some(first), Some(last)) = (sorted.first(), sorted.last()) else { return Vec::new() };
    if sorted.len() < HISTOGRAM_SAMPLES_MIN || !(first.is_finite() && last.is_finite()) {
        return Vec::new();
    }
    let widths = (-3..9).flat_map(|power| [1.0, 2.0, 5.0].map(|step| step * 10f64.powi(power)));
    let place = |value: f64, width: f64| (value / width).floor();
    let fits = |width: &f64| place(*last, *width) - place(*first, *width) < BARS_MAX as f64;
    let Some(width) = widths.into_iter().find(fits) else { return Vec::new() };
    let mut bars: Vec<Bar> = Vec::new();
    for value in sorted {
        let from = place(*value, width) * width;
        match bars.last_mut().filter(|bar| bar.from == from) {
            Some(bar) => bar.count += 1,
            None => bars.push(Bar { from, to: from + width, count: 1 }),
        }
    }
    bars
}

fn warm(found: &[Sample]) -> Option<Warm> {
    let rounds: Vec<(f64, Timeouts)> = found.iter().filter_map(|it| Some((it.value, it.timeouts?))).collect();
    let configured_ms = rounds.first()?.1.configured;
    let timeouts = || rounds.iter().map(|(_, timeouts)| timeouts.quorum);
    let is_warm = |timeouts: &Timeouts| timeouts.quorum < timeouts.configured;
    let values = |wanted: bool| -> Vec<f64> {
        rounds.iter().filter(|(_, it)| is_warm(it) == wanted).map(|(value, _)| *value).collect()
    };
    let median_of = |values: &[f64]| (!values.is_empty()).then(|| median(values));
    let (warm, others) = (values(true), values(false));
    Some(Warm {
        configured_ms,
        timeouts_ms: (timeouts().fold(f64::INFINITY, f64::min), timeouts().fold(0.0, f64::max)),
        rounds: warm.len(),
        median: median_of(&warm),
        others_median: median_of(&others),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(samples: &[f64], goal: Goal) -> Figure {
        let found: Vec<Sample> = samples.iter().copied().map(Sample::from).collect();
        Figure::new(Part::Kill, "", "ms", &found, goal)
    }

    #[test]
    fn median_of_odd_even_and_none() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn a_figure_is_met_only_if_both_bounds_hold() {
        let goal = || Goal { words: "", median: 50.0, worst: 250.0 };
        let met = |samples: &[f64]| figure(samples, goal()).is_met;
        assert!(met(&[10.0, 49.0, 250.0]));
        assert!(!met(&[10.0, 51.0, 60.0]));
        assert!(!met(&[10.0, 11.0, 251.0]));
        assert!(!met(&[]));
    }

    #[test]
    fn nine_of_ten_samples_are_at_most_p90() {
        let samples: Vec<f64> = (1..=20).rev().map(f64::from).collect();
        assert_eq!(figure(&samples, Goal::NONE).p90, 18.0);
        assert_eq!(figure(&[7.0], Goal::NONE).p90, 7.0);
        assert_eq!(figure(&[1.0, 2.0, 3.0], Goal::NONE).p90, 3.0);
    }

    #[test]
    fn a_histogram_has_round_bounds_and_counts_each_sample_once() {
        let bar = |from, to, count| Bar { from, to, count };
        let shown = figure(&[305.0, 200.0, 219.9, 220.0, 204.0, 351.0], Goal::NONE).histogram;
        assert_eq!(shown, [bar(200.0, 220.0, 3), bar(220.0, 240.0, 1), bar(300.0, 320.0, 1), bar(340.0, 360.0, 1)]);
        assert_eq!(figure(&[5.0; 5], Goal::NONE).histogram, [bar(5.0, 5.001, 5)]);
        assert_eq!(figure(&[5.0; 4], Goal::NONE).histogram, [], "four are a list");
        for seed in 0..100 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let samples: Vec<f64> = (0..rng.usize(5..60)).map(|_| rng.f64() * 10f64.powi(rng.i32(-2..6))).collect();
            let bars = figure(&samples, Goal::NONE).histogram;
            assert!((1..=BARS_MAX).contains(&bars.len()), "{samples:?}");
            assert_eq!(bars.iter().map(|bar| bar.count).sum::<usize>(), samples.len(), "{samples:?}");
        }
    }

    #[test]
    fn rounds_with_warm_processes_are_told_apart() {
        let found = [(400.0, 400.0), (420.0, 450.0), (210.0, 200.0), (220.0, 395.0)];
        let timeouts = |quorum| Some(Timeouts { quorum, configured: 400.0 });
        let found = found.map(|(value, quorum)| Sample { value, timeouts: timeouts(quorum) });
        let warm = Figure::new(Part::Stop, "", "ms", &found, Goal::NONE).warm;
        let expected = Warm {
            configured_ms: 400.0,
            timeouts_ms: (200.0, 450.0),
            rounds: 2,
            median: Some(215.0),
            others_median: Some(410.0),
        };
        assert_eq!(warm, Some(expected));
        assert_eq!(figure(&[1.0], Goal::NONE).warm, None, "no process was lost");
    }
}
