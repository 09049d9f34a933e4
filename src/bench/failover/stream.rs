//! The cluster and the client of the failover figures, and the rounds of a part.
//!
//! Not here: faults (`one_host.rs`, `several_hosts.rs`).

use super::figure::{Sample, Timeouts};
use crate::lab::{Cluster, LabError, Result, poll, web};
use crate::progress::Progress;
use crate::settings::Settings;
use crate::types::Term;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Nodes of the cluster under test.
pub(crate) const NODES: u64 = 5;
/// Time between two proposals.
const PACE: Duration = Duration::from_millis(5);
/// A round in which nothing is acknowledged for this long has failed.
const GIVE_UP: Duration = Duration::from_secs(20);

/// The default settings, that is with jobs: the lab's clusters have them off.
pub(crate) fn defaults() -> Value {
    json!({"jobs_enabled": true})
}

/// The client's stream of writes: one every [`PACE`], one at a time.
pub(crate) struct Stream {
    keys: web::KeyClient,
    next: Instant,
    count: u64,
    round: String,
}

impl Stream {
    pub(crate) fn new(cluster: &Cluster, round: String) -> Stream {
        Stream { keys: cluster.keys(), next: Instant::now(), count: 0, round }
    }

    /// Writes through a random node other than this one, and waits there: how long a client waits for a lost host is its
    /// own choice and says nothing of the cluster.
    pub(crate) fn at_another_than(mut self, id: u64) -> Stream {
        self.keys = self.keys.with_patience(GIVE_UP);
        self.keys.go_to(place_of(another_than(id)));
        self
    }

    /// Writes the next key when its time has come; the time from proposal to acknowledgement.
    pub(crate) fn step(&mut self) -> Result<Duration> {
        poll::pause_until(self.next);
        let begun = Instant::now();
        self.next = begun.max(self.next + PACE);
        self.count += 1;
        let text = format!("{} of {}", self.count, self.round);
        self.keys.put(&format!("bench-{}", self.count % 100), &text, begun + GIVE_UP)?;
        Ok(begun.elapsed())
    }

    /// Writes for this long; returns the longest wait for one write.
    pub(crate) fn flow(&mut self, span: Duration) -> Result<Duration> {
        let end = Instant::now() + span;
        let mut longest = Duration::ZERO;
        while Instant::now() < end {
            longest = longest.max(self.step()?);
        }
        Ok(longest)
    }

    /// Warms the connection up, then pauses for a random time, so that the fault comes at any moment between two
    /// writes.
    pub(crate) fn warm_up(&mut self) -> Result<()> {
        self.flow(Duration::from_millis(fastrand::u64(150..300)))?;
        poll::pause(Duration::from_micros(fastrand::u64(0..5000)));
        Ok(())
    }
}

/// A random node other than this one.
pub(crate) fn another_than(id: u64) -> u64 {
    let others: Vec<u64> = (1..=NODES).filter(|other| *other != id).collect();
    others[fastrand::usize(..others.len())]
}

/// The place of a node in the list of a client of all nodes.
pub(crate) fn place_of(id: u64) -> usize {
    id as usize - 1
}

/// A cluster just before its leader is lost.
pub(crate) struct Before {
    pub(crate) leader: u64,
    term: Term,
    timeouts: Timeouts,
}

impl Before {
    /// Waits until the cluster is healthy.
    pub(crate) fn settle(cluster: &mut Cluster) -> Result<Before> {
        let leader = cluster.settle()?;
        let term = cluster.status(leader)?.cluster.term;
        let running = cluster.running();
        let needed = running.len() / 2;
        let others = running.into_iter().filter(|id| *id != leader);
        let mut timeouts = others.map(|id| election_timeout(cluster, id)).collect::<Result<Vec<_>>>()?;
        timeouts.sort_by(f64::total_cmp);
        let quorum = timeouts.get(needed).copied();
        let quorum = quorum.ok_or_else(|| LabError::Answer(format!("only {} followers run", timeouts.len())))?;
        let configured = Settings::default().election_timeout_ms as f64;
        Ok(Before { leader, term, timeouts: Timeouts { quorum, configured } })
    }

    /// Waits until another node leads, in a higher term; returns it.
    pub(crate) fn wait_failover(&self, cluster: &Cluster) -> Result<u64> {
        let new = cluster.wait_other_leader(self.leader)?;
        let term = cluster.status(new)?.cluster.term;
        if term <= self.term {
            return Err(LabError::Answer(format!("no failover: node {new} leads in term {term}, after {}", self.term)));
        }
        Ok(new)
    }

    /// What a round in which `new` followed it has measured.
    pub(crate) fn round(&self, took: Duration, new: u64) -> Round {
        let sample = Sample { value: ms(took), timeouts: Some(self.timeouts) };
        let what = format!("node {} -> node {new}, election timeout {} ms", self.leader, self.timeouts.quorum);
        Round { sample, what }
    }
}

/// The silence, in ms, after which a node counts the leader as gone.
fn election_timeout(cluster: &Cluster, id: u64) -> Result<f64> {
    let text = cluster.get(id, "/metrics")?.text();
    let row = text.lines().find_map(|line| line.strip_prefix("phalanx_election_timeout_seconds "));
    row.and_then(|value| value.parse::<f64>().ok())
        .map(|seconds| seconds * 1000.0)
        .ok_or_else(|| LabError::Answer(format!("node {id} has no metric of its election timeout")))
}

/// What one round has measured, in ms, and what happened.
pub(crate) struct Round {
    pub(crate) sample: Sample,
    pub(crate) what: String,
}

/// Runs a part's rounds.
pub(crate) fn rounds(
    name: &str,
    count: usize,
    progress: &Progress,
    mut run: impl FnMut(usize) -> Result<Round>,
) -> Result<Vec<Sample>> {
    progress.count(count as u64);
    let mut samples = Vec::new();
    for round in 1..=count {
        let Round { sample, what } = run(round)?;
        samples.push(sample);
        progress.print_line(&format!("{name} {round}/{count}: {what}, {:.1} ms", sample.value));
        progress.advance(1);
    }
    Ok(samples)
}

pub(crate) fn ms(span: Duration) -> f64 {
    (span.as_secs_f64() * 100_000.0).round() / 100.0
}
