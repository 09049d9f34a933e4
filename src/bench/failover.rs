//! The figures of `phalanx bench failover`: how long clients wait when a leader dies, freezes or transfers its
//! leadership.
//!
//! Five nodes with the default settings; one client that knows all addresses writes a key every 5 ms, one at a time,
//! and continues with the next address when a node fails. The measurement starts right before the fault and ends at the
//! acknowledgement of the first write that was proposed after the fault. Before each round all nodes are voters and
//! have caught up, and the client moves to a random node, which is the leader one time in five. After each round the
//! fault is verified: the old process is gone or stopped, another node leads in a higher term.
//! Not here: printing (`cli/lab/bench.rs`), checks of histories (`check/`).

use super::monitors;
use crate::lab::cluster::SETTLE_WITHIN;
use crate::lab::{Cluster, LabError, Result, poll, web};
use crate::progress::Progress;
use serde::Serialize;
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

/// Nodes of the cluster under test.
const NODES: u64 = 5;
/// Time between two proposals.
const PACE: Duration = Duration::from_millis(5);
/// A round in which nothing is acknowledged for this long has failed.
const GIVE_UP: Duration = Duration::from_secs(20);

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// Leader killed (SIGKILL) to next acknowledged command
    Kill,
    /// Leader frozen (SIGSTOP) to next acknowledged command
    Stop,
    /// Leadership transfer: the longest wait of a command
    HandOver,
    /// Five processes started to first redirect to a live worker
    ColdStart,
    /// CPU of an idle node
    Idle,
    /// Many monitor pages on one node
    Monitors,
}

impl Part {
    /// In the order in which they run.
    pub const ALL: [Part; 6] = [Part::Kill, Part::Stop, Part::HandOver, Part::ColdStart, Part::Idle, Part::Monitors];

    fn rounds(self) -> usize {
        match self {
            Part::Kill => 20,
            Part::Stop | Part::HandOver => 10,
            Part::ColdStart => 5,
            Part::Idle | Part::Monitors => 1,
        }
    }
}

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Run only these parts
    #[arg(long, value_delimiter = ',', value_name = "PART")]
    pub only: Vec<Part>,
    /// Rounds per part [default: kill 20, stop 10, hand-over 10, cold-start 5]
    #[arg(long, value_name = "N")]
    pub rounds: Option<usize>,
    /// Number of open monitor pages
    #[arg(long, default_value_t = 2000, value_name = "N")]
    pub monitors: usize,
    /// Seconds to measure idle nodes
    #[arg(long, default_value_t = 20, value_name = "SECONDS")]
    pub idle: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// What was measured.
    pub part: Part,
    pub what: String,
    /// `ms`, `% of a core`, `MiB`.
    pub unit: &'static str,
    /// Every measurement, in order.
    pub samples: Vec<f64>,
    pub median: f64,
    pub worst: f64,
    pub target: &'static str,
    /// Whether the target is met.
    pub is_met: bool,
}

impl Figure {
    fn new(part: Part, what: &str, unit: &'static str, samples: Vec<f64>, goal: Goal) -> Figure {
        let (median, worst) = (median(&samples), samples.iter().copied().fold(f64::NAN, f64::max));
        let is_met = !samples.is_empty() && median <= goal.median && worst <= goal.worst;
        Figure { part, what: what.into(), unit, samples, median, worst, target: goal.words, is_met }
    }
}

/// The default settings, that is with jobs: the lab's clusters have them off.
fn defaults() -> Value {
    json!({"jobs_enabled": true})
}

/// A target: in words and as bounds.
struct Goal {
    words: &'static str,
    median: f64,
    worst: f64,
}

/// Runs the plan; `progress` shows how far it is.
///
/// # Errors
/// Processes do not start, do not settle between rounds, or a fault cannot be proved.
pub fn run(exe: &Path, options: &Options, progress: &Progress) -> Result<Vec<Figure>> {
    monitors::raise_file_limit();
    let wanted = |part: &Part| options.only.is_empty() || options.only.contains(part);
    let mut figures = Vec::new();
    let mut shared: Option<Cluster> = None;
    for part in Part::ALL.into_iter().filter(wanted) {
        let rounds = options.rounds.unwrap_or(part.rounds()).max(1);
        if part == Part::ColdStart {
            // Its rounds start their own processes.
            shared = None;
            figures.push(cold_start(exe, rounds, progress)?);
            continue;
        }
        if shared.is_none() {
            progress.begin("starting five nodes");
            shared = Some(Cluster::ready(exe, NODES, &defaults())?);
        }
        let cluster = shared.as_mut().expect("started just above");
        match part {
            Part::Kill => figures.push(kill(cluster, rounds, progress)?),
            Part::Stop => figures.push(stop(cluster, rounds, progress)?),
            Part::HandOver => figures.push(hand_over(cluster, rounds, progress)?),
            Part::Idle => figures.push(idle(cluster, Duration::from_secs(options.idle.max(1)), progress)?),
            Part::Monitors => figures.extend(hold_monitors(cluster, options.monitors, progress)?),
            Part::ColdStart => unreachable!("handled above"),
        }
    }
    Ok(figures)
}

/// The client's stream of writes: one every [`PACE`], one at a time.
struct Stream {
    keys: web::KeyClient,
    next: Instant,
    count: u64,
    round: String,
}

impl Stream {
    fn new(cluster: &Cluster, round: String) -> Stream {
        Stream { keys: cluster.keys(), next: Instant::now(), count: 0, round }
    }

    /// Writes the next key when its time has come; the time from proposal to acknowledgement.
    fn step(&mut self) -> Result<Duration> {
        poll::pause_until(self.next);
        let begun = Instant::now();
        self.next = begun.max(self.next + PACE);
        self.count += 1;
        let text = format!("{} of {}", self.count, self.round);
        self.keys.put(&format!("bench-{}", self.count % 100), &text, begun + GIVE_UP)?;
        Ok(begun.elapsed())
    }

    /// Writes for this long; returns the longest wait for one write.
    fn flow(&mut self, span: Duration) -> Result<Duration> {
        let end = Instant::now() + span;
        let mut longest = Duration::ZERO;
        while Instant::now() < end {
            longest = longest.max(self.step()?);
        }
        Ok(longest)
    }

    /// Warms the connection up, then pauses for a random time, so that the fault comes at any moment between two
    /// writes.
    fn warm_up(&mut self) -> Result<()> {
        self.flow(Duration::from_millis(fastrand::u64(150..300)))?;
        poll::pause(Duration::from_micros(fastrand::u64(0..5000)));
        Ok(())
    }
}

/// Runs a part's rounds. `run` returns a measurement and describes what happened.
fn rounds(
    name: &str,
    count: usize,
    progress: &Progress,
    mut run: impl FnMut(usize) -> Result<(Duration, String)>,
) -> Result<Vec<f64>> {
    progress.count(count as u64);
    let mut samples = Vec::new();
    for round in 1..=count {
        let (took, what) = run(round)?;
        samples.push(ms(took));
        progress.print_line(&format!("{name} {round}/{count}: {what}, {:.1} ms", ms(took)));
        progress.advance(1);
    }
    Ok(samples)
}

fn kill(cluster: &mut Cluster, count: usize, progress: &Progress) -> Result<Figure> {
    let samples = rounds("kill", count, progress, |round| {
        let leader = cluster.settle()?;
        let term = cluster.status(leader)?.cluster.term;
        let mut stream = Stream::new(cluster, format!("kill {round}"));
        stream.warm_up()?;
        let begun = Instant::now();
        cluster.kill_now(leader)?;
        stream.step()?;
        let took = begun.elapsed();
        let ended = cluster.process(leader)?.wait(Duration::from_secs(5))?;
        let new = cluster.wait_other_leader(leader)?;
        let new_term = cluster.status(new)?.cluster.term;
        if ended.success() || new_term <= term {
            return Err(LabError::Answer(format!("no failover: node {leader} {ended}, term {term} -> {new_term}")));
        }
        cluster.restart(leader)?;
        Ok((took, format!("node {leader} -> node {new}")))
    })?;
    cluster.settle()?;
    let goal = Goal { words: "median <= 50, worst <= 250", median: 50.0, worst: 250.0 };
    Ok(Figure::new(Part::Kill, "leader killed -> next acknowledged command", "ms", samples, goal))
}

fn stop(cluster: &mut Cluster, count: usize, progress: &Progress) -> Result<Figure> {
    let samples = rounds("stop", count, progress, |round| {
        let leader = cluster.settle()?;
        let mut stream = Stream::new(cluster, format!("stop {round}"));
        stream.warm_up()?;
        let begun = Instant::now();
        cluster.freeze(leader)?;
        stream.step()?;
        let took = begun.elapsed();
        let new = cluster.wait_other_leader(leader)?;
        cluster.thaw(leader)?;
        Ok((took, format!("node {leader} -> node {new}")))
    })?;
    cluster.settle()?;
    let goal = Goal { words: "median <= 800", median: 800.0, worst: f64::MAX };
    Ok(Figure::new(Part::Stop, "leader frozen -> next acknowledged command", "ms", samples, goal))
}

fn hand_over(cluster: &mut Cluster, count: usize, progress: &Progress) -> Result<Figure> {
    let samples = rounds("leadership transfer", count, progress, |round| {
        let leader = cluster.settle()?;
        let to = (1..=NODES).filter(|id| *id != leader).nth(fastrand::usize(0..4)).expect("four others");
        let mut stream = Stream::new(cluster, format!("transfer {round}"));
        stream.warm_up()?;
        // The request leaves on a connection of its own and its answer is read later: the writer never pauses.
        let ask = || -> std::io::Result<web::Connection> {
            let mut asking = web::Connection::open(&cluster.http(leader), Duration::from_secs(1))?;
            asking.send("POST", "/v1/leader/transfer", Some(&json!({"to": to})))?;
            Ok(asking)
        };
        let mut asking = ask().map_err(LabError::io("ask for a leadership transfer"))?;
        let longest = stream.flow(Duration::from_millis(300))?;
        let answer =
            asking.answer(Instant::now() + Duration::from_secs(5)).map_err(LabError::io("leadership transfer"))?;
        let new = cluster.wait_other_leader(leader)?;
        if answer.status != 200 || new != to {
            let (status, text) = (answer.status, answer.text());
            return Err(LabError::Answer(format!("leadership transfer to node {to}: {status} {text}")));
        }
        Ok((longest, format!("node {leader} -> node {new}")))
    })?;
    let goal = Goal { words: "<= 20", median: 20.0, worst: 20.0 };
    Ok(Figure::new(Part::HandOver, "leadership transfer: longest wait of a command", "ms", samples, goal))
}

fn cold_start(exe: &Path, count: usize, progress: &Progress) -> Result<Figure> {
    let samples = rounds("cold start", count, progress, |_| {
        let mut cluster = Cluster::prepare(exe, &defaults())?;
        let begun = Instant::now();
        for id in 1..=NODES {
            cluster.spawn(id, &[])?;
        }
        let front = cluster.front();
        let worker = cluster.wait_until("the front door redirects to a living worker", SETTLE_WITHIN, || {
            let redirect = web::get(&front, "/livez", Duration::from_millis(500)).ok()?;
            let to = redirect.header("location")?.strip_prefix("http://")?.strip_suffix("/livez")?.to_string();
            let alive = web::get(&to, "/livez", Duration::from_millis(500)).ok()?;
            (redirect.status == 307 && alive.status == 200).then_some(to)
        })?;
        Ok((begun.elapsed(), format!("worker {worker}")))
    })?;
    let goal = Goal { words: "<= 2000", median: 2000.0, worst: 2000.0 };
    Ok(Figure::new(Part::ColdStart, "cold start of five nodes -> redirect to a living worker", "ms", samples, goal))
}

fn idle(cluster: &mut Cluster, span: Duration, progress: &Progress) -> Result<Figure> {
    cluster.settle()?;
    progress.begin_timed(&format!("idle: watching five nodes for {} s", span.as_secs()), span);
    // Work that earlier parts left over must be done.
    poll::pause(Duration::from_secs(2));
    let used = |cluster: &mut Cluster| -> Result<Vec<Duration>> {
        (1..=NODES).map(|id| Ok(cluster.process(id)?.cpu().unwrap_or_default())).collect()
    };
    let begun = Instant::now();
    let before = used(cluster)?;
    poll::pause(span);
    let after = used(cluster)?;
    let wall = begun.elapsed().as_secs_f64();
    let samples = after.iter().zip(&before).map(|(a, b)| (*a - *b).as_secs_f64() / wall * 100.0).collect();
    let goal = Goal { words: "<= 1 per node", median: 1.0, worst: 1.0 };
    Ok(Figure::new(Part::Idle, "idle node", "% of a core", samples, goal))
}

fn hold_monitors(cluster: &mut Cluster, count: usize, progress: &Progress) -> Result<[Figure; 2]> {
    let leader = cluster.settle()?;
    let id = if leader == 1 { 2 } else { 1 };
    progress.begin(&format!("monitors: {count} pages on node {id} for 15 s"));
    let found = monitors::hold(cluster, id, count, Duration::from_secs(15))?;
    if found.held < count {
        return Err(LabError::Answer(format!("only {} of {count} monitor pages stayed open", found.held)));
    }
    let memory = Goal { words: "<= 200 (2,000 pages)", median: 200.0, worst: 200.0 };
    // A frame leaves at least once a second; half a second more is allowed for sweeping over thousands of sockets.
    let pace = Goal { words: "each second (<= 1500)", median: 1500.0, worst: 1500.0 };
    let silence = vec![found.longest_silence_ms as f64];
    Ok([
        Figure::new(
            Part::Monitors,
            &format!("{count} monitor pages: resident"),
            "MiB",
            vec![found.resident_mib],
            memory,
        ),
        Figure::new(Part::Monitors, &format!("{count} monitor pages: longest silence"), "ms", silence, pace),
    ])
}

fn ms(span: Duration) -> f64 {
    (span.as_secs_f64() * 100_000.0).round() / 100.0
}

pub fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use crate::bench::failover::*;

    #[test]
    fn median_of_odd_even_and_none() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn a_figure_is_met_only_if_both_bounds_hold() {
        let goal = || Goal { words: "", median: 50.0, worst: 250.0 };
        let met = |samples| Figure::new(Part::Kill, "", "ms", samples, goal()).is_met;
        assert!(met(vec![10.0, 49.0, 250.0]));
        assert!(!met(vec![10.0, 51.0, 60.0]));
        assert!(!met(vec![10.0, 11.0, 251.0]));
        assert!(!met(vec![]));
    }
}
