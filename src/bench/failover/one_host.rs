//! The failover figures of five nodes on this host.
//!
//! Not here: several hosts (`several_hosts.rs`).

use super::figure::{Figure, Goal, Sample};
use super::part::Part;
use super::stream::{Before, NODES, Round, Stream, another_than, defaults, ms, rounds};
use crate::bench::monitors;
use crate::lab::cluster::SETTLE_WITHIN;
use crate::lab::{Cluster, LabError, Result, poll, web};
use crate::progress::Progress;
use serde_json::json;
use std::path::Path;
use std::time::{Duration, Instant};

/// The witness of the cluster that has one.
const WITNESS: u64 = 3;

pub(crate) fn kill(cluster: &mut Cluster, count: usize, progress: &Progress) -> Result<Figure> {
    let samples = kill_leaders("kill", cluster, count, progress)?;
    let goal = Goal { words: "median <= 50, worst <= 250", median: 50.0, worst: 250.0 };
    Ok(Figure::new(Part::Kill, "leader killed -> next acknowledged command", "ms", &samples, goal))
}

/// Two full nodes and a witness, which never leads: the other full node takes over with its vote.
pub(crate) fn witness(exe: &Path, count: usize, progress: &Progress) -> Result<Figure> {
    progress.begin("starting two full nodes and a witness");
    let mut cluster = Cluster::prepare(exe, &defaults())?;
    cluster.spawn(1, &[])?;
    cluster.spawn(2, &[])?;
    cluster.spawn(WITNESS, &["--witness"])?;
    let samples = kill_leaders("witness", &mut cluster, count, progress)?;
    let goal = Goal { words: "median <= 50, worst <= 250", median: 50.0, worst: 250.0 };
    let what = "two full nodes and a witness: leader killed -> next acknowledged command";
    Ok(Figure::new(Part::Witness, what, "ms", &samples, goal))
}

/// Kills the leader in each round and starts it again.
fn kill_leaders(name: &str, cluster: &mut Cluster, count: usize, progress: &Progress) -> Result<Vec<Sample>> {
    let samples = rounds(name, count, progress, |round| {
        let before = Before::settle(cluster)?;
        let leader = before.leader;
        let mut stream = Stream::new(cluster, format!("{name} {round}"));
        stream.warm_up()?;
        let begun = Instant::now();
        cluster.kill_now(leader)?;
        stream.step()?;
        let took = begun.elapsed();
        let ended = cluster.process(leader)?.wait(Duration::from_secs(5))?;
        let new = before.wait_failover(cluster)?;
        if ended.success() {
            return Err(LabError::Answer(format!("node {leader} was not killed: {ended}")));
        }
        cluster.restart(leader)?;
        Ok(before.round(took, new))
    })?;
    cluster.settle()?;
    Ok(samples)
}

pub(crate) fn stop(cluster: &mut Cluster, count: usize, progress: &Progress) -> Result<Figure> {
    let samples = rounds("stop", count, progress, |round| {
        let before = Before::settle(cluster)?;
        let mut stream = Stream::new(cluster, format!("stop {round}"));
        stream.warm_up()?;
        let begun = Instant::now();
        cluster.freeze(before.leader)?;
        stream.step()?;
        let took = begun.elapsed();
        let new = before.wait_failover(cluster)?;
        cluster.thaw(before.leader)?;
        Ok(before.round(took, new))
    })?;
    cluster.settle()?;
    let goal = Goal { words: "median <= 250", median: 250.0, worst: f64::INFINITY };
    Ok(Figure::new(Part::Stop, "leader frozen -> next acknowledged command", "ms", &samples, goal))
}

pub(crate) fn transfer(cluster: &mut Cluster, count: usize, progress: &Progress) -> Result<Figure> {
    let samples = rounds("leadership transfer", count, progress, |round| {
        let leader = cluster.settle()?;
        let to = another_than(leader);
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
        Ok(Round { sample: ms(longest).into(), what: format!("node {leader} -> node {new}") })
    })?;
    let goal = Goal { words: "<= 20", median: 20.0, worst: 20.0 };
    Ok(Figure::new(Part::Transfer, "leadership transfer: longest wait of a command", "ms", &samples, goal))
}

pub(crate) fn cold_start(exe: &Path, count: usize, progress: &Progress) -> Result<Figure> {
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
        Ok(Round { sample: ms(begun.elapsed()).into(), what: format!("worker {worker}") })
    })?;
    let goal = Goal { words: "<= 2000", median: 2000.0, worst: 2000.0 };
    Ok(Figure::new(Part::ColdStart, "cold start of five nodes -> redirect to a living worker", "ms", &samples, goal))
}

pub(crate) fn idle(cluster: &mut Cluster, span: Duration, progress: &Progress) -> Result<Figure> {
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
    let share = |(after, before): (&Duration, &Duration)| ((*after - *before).as_secs_f64() / wall * 100.0).into();
    let samples: Vec<_> = after.iter().zip(&before).map(share).collect();
    let goal = Goal { words: "<= 1 per node", median: 1.0, worst: 1.0 };
    Ok(Figure::new(Part::Idle, "idle node", "% of a core", &samples, goal))
}

pub(crate) fn hold_monitors(cluster: &mut Cluster, count: usize, progress: &Progress) -> Result<[Figure; 2]> {
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
    let silence = [(found.longest_silence_ms as f64).into()];
    let what = |what: &str| format!("{count} monitor pages: {what}");
    Ok([
        Figure::new(Part::Monitors, &what("resident"), "MiB", &[found.resident_mib.into()], memory),
        Figure::new(Part::Monitors, &what("longest silence"), "ms", &silence, pace),
    ])
}
