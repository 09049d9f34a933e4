//! How long requests took, by route and outcome, for `/metrics`.
//!
//! A route is named by its template, never by the path of a request: the number of rows is bounded by the table of
//! routes. Requests for no route of the table share one row. Streams, which last as long as their clients want, are not
//! measured. Not here: which routes there are (`routes.rs`), the text of `/metrics` (`api/health.rs`).

use crate::node::views::latency::CoarseRecorder;
use crate::node::{Metric, MetricValue};
use std::sync::OnceLock;
use std::time::Duration;

/// What an answer says about its request.
const OUTCOMES: [&str; 4] = ["done", "client_error", "refused", "unknown"];

/// Position of the outcome of a status among [`OUTCOMES`]. As in `outcome/codes.rs`, an answer that means "certainly
/// not done" differs from one that leaves it open.
fn outcome_of(status: u16) -> usize {
    match status {
        0..400 => 0,
        400..500 => 1,
        500 | 504 => 3,
        _ => 2,
    }
}

/// Method and template of a route.
pub(crate) type RouteName = (&'static str, &'static str);

#[derive(Debug)]
struct RouteTimes {
    name: RouteName,
    by_outcome: [CoarseRecorder; OUTCOMES.len()],
}

/// The times of all routes since the start, recorded by any thread.
#[derive(Debug, Default)]
pub struct RequestTimes(OnceLock<Box<[RouteTimes]>>);

impl RequestTimes {
    /// Records an answer. `at`: position of the route among `names`, which are the same in each call.
    pub(crate) fn record(&self, names: impl Fn() -> Vec<RouteName>, at: usize, status: u16, took: Duration) {
        let rows = self.0.get_or_init(|| {
            names().into_iter().map(|name| RouteTimes { name, by_outcome: Default::default() }).collect()
        });
        rows[at].by_outcome[outcome_of(status)].record(took);
    }

    /// A row for each route and outcome that has occurred.
    pub(crate) fn rows(&self) -> Vec<Metric> {
        let mut rows = Vec::new();
        for route in self.0.get().into_iter().flatten() {
            for (outcome, times) in OUTCOMES.iter().zip(&route.by_outcome).filter(|(_, times)| !times.is_empty()) {
                let (method, template) = route.name;
                let labels = [("method", method), ("route", template), ("outcome", outcome)];
                rows.push(Metric {
                    name: "phalanx_http_request_duration_seconds",
                    help: "Time from the head of an HTTP request until its answer was ready, streams left out",
                    labels: labels.map(|(name, value)| (name, value.to_string())).to_vec(),
                    value: MetricValue::Histogram { sum: times.sum_seconds(), buckets: times.by_factor_of_four() },
                });
            }
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_sorted_by_what_may_have_been_done() {
        let outcomes =
            [200, 202, 304, 400, 404, 429, 500, 501, 503, 504, 507].map(|status| OUTCOMES[outcome_of(status)]);
        let (ok, client, refused, unknown) = ("done", "client_error", "refused", "unknown");
        assert_eq!(outcomes, [ok, ok, ok, client, client, client, unknown, refused, refused, unknown, refused]);
    }

    #[test]
    fn only_what_has_occurred_has_a_row() {
        let times = RequestTimes::default();
        assert!(times.rows().is_empty());
        let names = || vec![("GET", "/a/{id}"), ("PUT", "/b")];
        times.record(names, 0, 200, Duration::from_millis(3));
        times.record(names, 0, 503, Duration::from_millis(3));
        times.record(names, 0, 204, Duration::from_millis(3));
        let labels: Vec<_> = times.rows().into_iter().map(|row| row.labels).collect();
        let row = |outcome: &str| {
            [("method", "GET"), ("route", "/a/{id}"), ("outcome", outcome)].map(|(name, it)| (name, it.to_string()))
        };
        assert_eq!(labels, [row("done"), row("refused")]);
    }
}
