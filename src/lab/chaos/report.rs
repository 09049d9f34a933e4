//! The figures of a run, as text and as JSON.
//!
//! Not here: the picture (`html.rs`).

use super::judge::Judged;
use super::observer::{Lead, Leads};
use super::plan::Options;
use serde_json::{Value, json};
use std::fmt::Write;
use std::time::Duration;

/// No acknowledged write for longer than this counts as not available.
pub const GAP_US: u64 = 250_000;

/// A fault that was injected.
#[derive(Clone, Debug)]
pub struct Injected {
    pub at: Duration,
    pub command: String,
    /// What was done, or why it was not.
    pub result: Result<String, String>,
}

/// A change of the leader, and how long clients noticed it.
#[derive(Clone, Debug)]
pub struct Failover {
    pub from: Lead,
    pub to: Lead,
    /// Between the acknowledged writes just before and just after the new leader was seen, in microseconds.
    pub gap_us: u64,
}

/// Everything about one run.
#[derive(Clone, Debug)]
pub struct Report {
    pub nodes: u64,
    pub lasted: Duration,
    pub is_eventual: bool,
    pub judged: Judged,
    pub leads: Leads,
    pub injected: Vec<Injected>,
    pub failovers: Vec<Failover>,
    /// Times without an acknowledged write of more than [`GAP_US`]: begin and end, in microseconds.
    pub gaps: Vec<(u64, u64)>,
    /// The difference between the nodes' states at the end.
    pub differences: Option<String>,
    /// Times at which the cluster was not healthy again in time without faults, and what was missing.
    pub slow_recoveries: Vec<String>,
    /// Nodes that did not stop as they should.
    pub bad_ends: Vec<String>,
}

impl Report {
    pub fn new(options: &Options, lasted: Duration, judged: Judged, leads: Leads, injected: Vec<Injected>) -> Report {
        let writes = judged.tally.write_times();
        let gaps = writes.windows(2).filter(|two| two[1] - two[0] > GAP_US).map(|two| (two[0], two[1])).collect();
        let failovers = leads.leads.windows(2).filter_map(|two| failover(&writes, two[0], two[1])).collect();
        let (nodes, is_eventual) = (options.nodes, options.is_eventual);
        Report {
            nodes,
            lasted,
            is_eventual,
            judged,
            leads,
            injected,
            failovers,
            gaps,
            differences: None,
            bad_ends: Vec::new(),
            slow_recoveries: Vec::new(),
        }
    }

    /// Whether the cluster has kept every promise, and enough happened to say so.
    pub fn is_fine(&self) -> bool {
        let is_decided = self.judged.undecided.is_empty() && self.judged.tally.totals()[0] > 0;
        let is_well = self.bad_ends.is_empty() && self.slow_recoveries.is_empty();
        is_decided && is_well && !self.has_violation()
    }

    pub fn has_violation(&self) -> bool {
        let judged = &self.judged;
        let is_lost = !judged.lost.is_empty() || !judged.violations.is_empty();
        is_lost || !self.leads.doubled.is_empty() || self.differences.is_some()
    }

    /// `ok`, `violation` or `undecided`.
    pub fn verdict(&self) -> &'static str {
        match (self.has_violation(), self.is_fine()) {
            (true, _) => "violation",
            (false, true) => "ok",
            (false, false) => "undecided",
        }
    }

    /// The share of the time in which writes were acknowledged.
    pub fn availability(&self) -> f64 {
        let away: u64 = self.gaps.iter().map(|(from, to)| to - from).sum();
        1.0 - away as f64 / (self.lasted.as_micros() as f64).max(1.0)
    }

    /// Faults that happened.
    pub fn faults(&self) -> usize {
        self.injected.iter().filter(|it| it.result.is_ok() && !it.command.starts_with("heal")).count()
    }

    /// A quantile of the times of acknowledged operations, in milliseconds.
    fn quantile_ms(&self, share: f64) -> f64 {
        let mut times: Vec<u32> = self.judged.tally.acknowledged.iter().map(|it| it.1).collect();
        times.sort_unstable();
        let at = ((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1));
        f64::from(times.get(at).copied().unwrap_or_default()) / 1000.0
    }

    fn failover_ms(&self) -> Vec<f64> {
        let mut all: Vec<f64> = self.failovers.iter().map(|it| it.gap_us as f64 / 1000.0).collect();
        all.sort_by(f64::total_cmp);
        all
    }

    /// Violations, lost writes and what could not be decided, a line each.
    pub fn findings(&self) -> Vec<String> {
        let judged = &self.judged;
        let mut all: Vec<String> = judged.violations.iter().map(|it| format!("not linearizable: {it}")).collect();
        if judged.more_violations > 0 {
            all.push(format!("not linearizable: {} more keys", judged.more_violations));
        }
        all.extend(judged.lost.iter().map(|it| format!("lost: {it}")));
        all.extend(self.leads.doubled.iter().cloned());
        all.extend(self.differences.iter().map(|it| format!("the nodes' states differ: {it}")));
        all.extend(self.bad_ends.iter().cloned());
        all.extend(self.slow_recoveries.iter().map(|it| format!("not healthy in time, at {it}")));
        all.extend(judged.undecided.iter().map(|it| format!("undecided: {it}")));
        all
    }

    /// For a person.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let [acknowledged, refused, unknown] = self.judged.tally.totals();
        let mut line = |name: &str, what: String| writeln!(out, "{name:<22}{what}").expect("a String takes all");
        line("verdict", self.verdict().to_string());
        let level = if self.is_eventual { "eventual reads" } else { "linearizable reads" };
        line("run", format!("{:.1} s, {} nodes, {level}", self.lasted.as_secs_f64(), self.nodes));
        line("faults", format!("{} injected and confirmed", self.faults()));
        line("operations", format!("{acknowledged} acknowledged, {refused} refused, {unknown} unknown"));
        for (door, [acknowledged, refused, unknown]) in &self.judged.tally.by_door {
            let what = format!("{acknowledged} acknowledged, {refused} refused, {unknown} unknown");
            line(&format!("  over {}", door.name()), what);
        }
        let violations = self.judged.violations.len() as u64 + self.judged.more_violations;
        line("lost writes", self.judged.lost.len().to_string());
        line("linearizable", format!("{} of {} keys", self.judged.keys.saturating_sub(violations), self.judged.keys));
        line("states of the nodes", if self.differences.is_none() { "equal" } else { "different" }.to_string());
        let failovers = self.failover_ms();
        if let (Some(middle), Some(most)) = (failovers.get(failovers.len() / 2), failovers.last()) {
            line(
                "failovers",
                format!("{}, without a write for {middle:.0} ms (median), {most:.0} ms at most", failovers.len()),
            );
        }
        line(
            "availability",
            format!("{:.2} % (without gaps of more than {} ms)", self.availability() * 100.0, GAP_US / 1000),
        );
        let (p50, p99) = (self.quantile_ms(0.5), self.quantile_ms(0.99));
        line("time of an operation", format!("p50 {p50:.1} ms, p99 {p99:.1} ms"));
        for finding in self.findings() {
            let _ = writeln!(out, "  {finding}");
        }
        out
    }

    pub fn json(&self) -> Value {
        let [acknowledged, refused, unknown] = self.judged.tally.totals();
        let fault = |it: &Injected| {
            json!({"at_ms": it.at.as_millis() as u64, "command": it.command, "confirmed": it.result.is_ok(),
                   "result": it.result.as_ref().unwrap_or_else(|why| why)})
        };
        let failover = |it: &Failover| {
            json!({"term": it.to.term, "from": it.from.node, "to": it.to.node, "at_ms": it.to.from.as_millis() as u64,
                   "without_write_ms": it.gap_us as f64 / 1000.0})
        };
        json!({
            "verdict": self.verdict(),
            "nodes": self.nodes,
            "lasted_ms": self.lasted.as_millis() as u64,
            "level": if self.is_eventual { "eventual" } else { "strong" },
            "acknowledged": acknowledged, "refused": refused, "unknown": unknown,
            "keys": self.judged.keys,
            "not_linearizable": self.judged.violations.len() as u64 + self.judged.more_violations,
            "lost": self.judged.lost.len(),
            "states_equal": self.differences.is_none(),
            "availability": self.availability(),
            "p50_ms": self.quantile_ms(0.5), "p99_ms": self.quantile_ms(0.99),
            "findings": self.findings(),
            "failovers": self.failovers.iter().map(failover).collect::<Vec<_>>(),
            "faults": self.injected.iter().map(fault).collect::<Vec<_>>(),
        })
    }
}

fn failover(writes: &[u64], from: Lead, to: Lead) -> Option<Failover> {
    let seen = to.from.as_micros() as u64;
    let after = writes.partition_point(|at| *at < seen);
    // The new leader is seen only some time after its first writes: the gap is the longest one just before.
    let begin = writes.partition_point(|at| *at < (from.to.as_micros() as u64).saturating_sub(GAP_US));
    let around = writes.get(begin..(after + 1).min(writes.len()))?;
    let gap_us = around.windows(2).map(|two| two[1] - two[0]).max()?;
    (from.node != to.node).then_some(Failover { from, to, gap_us })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lead(term: u64, node: u64, from_ms: u64, to_ms: u64) -> Lead {
        Lead { term, node, from: Duration::from_millis(from_ms), to: Duration::from_millis(to_ms) }
    }

    #[test]
    fn a_failover_is_the_gap_between_two_leaders() {
        let writes = [900_000, 950_000, 1_000_000, 1_400_000, 1_405_000, 9_000_000];
        let failover = failover(&writes, lead(1, 1, 0, 1_000), lead(2, 2, 1_410, 9_000)).unwrap();
        assert_eq!(failover.gap_us, 7_595_000, "no write was acknowledged after the new leader was seen");
        let writes = [900_000, 950_000, 1_000_000, 1_400_000, 1_405_000, 1_411_000, 9_000_000];
        assert_eq!(super::failover(&writes, lead(1, 1, 0, 1_000), lead(2, 2, 1_410, 9_000)).unwrap().gap_us, 400_000);
        assert!(super::failover(&writes, lead(1, 1, 0, 1_000), lead(2, 1, 1_410, 9_000)).is_none(), "the same node");
    }
}
