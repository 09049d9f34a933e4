//! The load of a node, by which the front doors choose: its client connections, and what it does besides.
//!
//! Everything is counted in client connections, rounded down, so that small differences between idle nodes count
//! nothing: equal clients spread as if connections alone counted. A node that answers many requests, runs jobs or uses
//! much processor time gets fewer clients.
//! Not here: where the figures come from (`node/reports/heartbeat.rs`), what is chosen (`dispatch.rs`).

pub use crate::wire::heartbeat::Load;

/// Requests answered in a second that count as one client connection.
const REQUESTS_PER_CONNECTION: u64 = 200;
/// Client connections that one running job counts as.
const CONNECTIONS_PER_JOB: u64 = 5;
/// Percent of the machine's processor time, used by the node's process, that count as one client connection.
const CPU_PERCENT_PER_CONNECTION: u64 = 10;
/// Each second the average moves to the newest figure by one part in so many.
const SMOOTHING: u64 = 3;
/// Figures are kept in thousandths.
const SCALE: u64 = 1000;

/// What a node did in the last second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeActivity {
    /// Requests answered in a second.
    pub requests_per_s: u64,
    /// Jobs that run.
    pub jobs: u64,
    /// Percent of the machine's processor time that the node's process used. The programs of jobs count as jobs.
    pub cpu_percent: u64,
}

/// The averages from which the load follows.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadMeter {
    requests: u64,
    cpu: u64,
    jobs: u64,
}

impl LoadMeter {
    /// To be called once a second.
    pub fn note(&mut self, doing: NodeActivity) {
        let moved = |average: u64, newest: u64| {
            let newest = newest.saturating_mul(SCALE);
            // The remainder is dropped at last: an idle node's average becomes 0.
            let next = (average.saturating_mul(SMOOTHING - 1) / SMOOTHING).saturating_add(newest / SMOOTHING);
            if newest == 0 && next < SCALE { 0 } else { next }
        };
        self.requests = moved(self.requests, doing.requests_per_s);
        self.cpu = moved(self.cpu, doing.cpu_percent);
        // How many jobs run is exact.
        self.jobs = doing.jobs;
    }

    /// The load with so many connections open.
    pub fn load(&self, connections: u64) -> Load {
        Load {
            connections,
            requests: self.requests / SCALE / REQUESTS_PER_CONNECTION,
            jobs: self.jobs.saturating_mul(CONNECTIONS_PER_JOB),
            cpu: self.cpu / SCALE / CPU_PERCENT_PER_CONNECTION,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(seconds: u64, meter: &mut LoadMeter, doing: NodeActivity) -> Load {
        (0..seconds).for_each(|_| meter.note(doing));
        meter.load(7)
    }

    #[test]
    fn load_counts_present_activity_only() {
        let mut meter = LoadMeter::default();
        let busy = NodeActivity { requests_per_s: 4000, jobs: 2, cpu_percent: 45 };
        let first = after(1, &mut meter, busy);
        assert!((4..10).contains(&first.requests) && first.jobs == 10, "{first:?}");
        let load = after(20, &mut meter, busy);
        assert!((19..=20).contains(&load.requests), "{load:?}");
        assert_eq!((load.connections, load.jobs, load.cpu), (7, 10, 4));
        assert_eq!(load.total(), 7 + load.requests + 10 + 4);
        let idle = after(30, &mut meter, NodeActivity::default());
        assert_eq!((idle.total(), meter.requests, meter.cpu), (7, 0, 0));
    }

    #[test]
    fn small_differences_count_nothing() {
        let mut meter = LoadMeter::default();
        let little = NodeActivity { requests_per_s: 150, jobs: 0, cpu_percent: 9 };
        assert_eq!(after(30, &mut meter, little), Load { connections: 7, ..Load::default() });
        let all =
            after(2, &mut meter, NodeActivity { requests_per_s: u64::MAX, jobs: u64::MAX, cpu_percent: u64::MAX });
        assert!(all.total() >= all.work(), "no overflow: {all:?}");
    }
}
