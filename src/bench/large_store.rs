//! A store of a million keys: its memory use, the effect of a snapshot on clients that write, and how soon a restarted
//! node has caught up.
//!
//! One client writes a key each millisecond and records the longest wait; others write enough that snapshots become
//! due. The event list of the node shows whether a snapshot was taken.
//! Not here: throughput (`kv_rates.rs`), failover (`failover/`).

use super::load::{self, Load};
use super::monitors;
use super::protocols::{CommandKind, Dialect, Redis};
use crate::lab::{Cluster, LabError, Result, poll};
use crate::node::spawn;
use crate::progress::Progress;
use crossbeam_channel::{Receiver, bounded};
use serde::Serialize;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Bytes of a key as `protocols.rs` writes it.
const KEY_BYTES: u64 = 16;
/// Connections, and commands per batch, of the clients that fill the store.
const FILL: (usize, usize) = (32, 32);
/// A snapshot that no node has reported for this long is not being written.
const SNAPSHOT_TIME: Duration = Duration::from_secs(5);
/// Time between two writes of the client that is measured.
const PACE: Duration = Duration::from_millis(1);

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Number of keys
    #[arg(long, default_value_t = 1_000_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1000..=10_000_000))]
    pub keys: u64,
    /// Size of a value in bytes
    #[arg(long, default_value_t = 100, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..=1 << 16))]
    pub value_bytes: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    pub what: &'static str,
    /// Unit of `value` and `bound`.
    pub unit: &'static str,
    /// The measurement.
    pub value: f64,
    /// Target: the maximum; `None`: the figure is only for comparison.
    pub bound: Option<f64>,
}

/// Runs the plan; `progress` shows how far it is.
///
/// # Errors
/// Nodes do not start, no snapshot is taken, or a node does not come back.
pub fn run(exe: &Path, options: &Options, progress: &Progress) -> Result<Vec<Finding>> {
    monitors::raise_file_limit();
    let mut cluster = Cluster::ready(exe, 3, &json!({}))?;
    let leader = cluster.settle()?;
    let followers: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    let (restarted, wiped) = (followers[0], followers[1]);
    let empty_kib = resident_kib(&mut cluster, leader)?;
    progress.begin_counted(&format!("writing {} keys of {} bytes", options.keys, options.value_bytes), options.keys);
    fill(&cluster, leader, options, progress)?;
    cluster.settle()?;
    let full_kib = resident_kib(&mut cluster, leader)?;
    let beside = (full_kib.saturating_sub(empty_kib) * 1024) as f64 / options.keys as f64;
    let overhead = beside - (KEY_BYTES + options.value_bytes) as f64;
    let finding = |what, unit, value, bound| Finding { what, unit, value, bound };
    let mut findings =
        vec![finding("resident memory of the leader, per key beside its bytes", "bytes", overhead, Some(300.0))];

    progress.begin("waiting for the snapshots of these keys");
    let mut counted = Vec::new();
    loop {
        let now = (1..=3).map(|id| snapshots(&cluster, id)).collect::<Result<Vec<_>>>()?;
        if now == counted {
            break;
        }
        counted = now;
        poll::pause(SNAPSHOT_TIME);
    }

    progress.begin("writing once per millisecond, without other load");
    let watched = Watched::start(&cluster.kv(leader))?;
    poll::pause(Duration::from_secs(5));
    let quiet = watched.finish()?;
    findings.push(finding("longest write without a snapshot", "ms", quiet, None));

    progress.begin("the same while a snapshot is taken");
    let mut seen = snapshots(&cluster, leader)?;
    let deadline = Instant::now() + Duration::from_secs(120);
    let during = loop {
        // Other clients fill the log until a snapshot is due, then stop, so that the machine is free for the snapshot.
        let more = Options { keys: options.keys / 10, ..options.clone() };
        progress.count(more.keys);
        fill(&cluster, leader, &more, progress)?;
        let watched = Watched::start(&cluster.kv(leader))?;
        poll::pause(Duration::from_secs(3));
        let longest = watched.finish()?;
        let now = snapshots(&cluster, leader)?;
        if now > seen {
            break longest;
        }
        seen = now;
        if Instant::now() > deadline {
            return Err(LabError::Answer("no snapshot was taken within two minutes of writing".to_string()));
        }
    };
    findings.push(finding("longest write while a snapshot is taken", "ms", during, Some(20.0)));

    progress.begin(&format!("restarting node {restarted}"));
    cluster.interrupt(restarted)?;
    cluster.process(restarted)?.wait(Duration::from_secs(10))?;
    let begun = Instant::now();
    cluster.spawn(restarted, &[])?;
    wait_ready(&cluster, restarted, Duration::from_secs(60))?;
    let back = begun.elapsed().as_secs_f64();
    findings.push(finding("restarted node is ready", "s", back, Some(3.0)));

    progress.begin(&format!("wiping node {wiped} while a client writes"));
    let watched = Watched::start(&cluster.kv(leader))?;
    cluster.kill(wiped)?;
    cluster.wipe(wiped)?;
    let begun = Instant::now();
    cluster.spawn(wiped, &[])?;
    wait_ready(&cluster, wiped, Duration::from_secs(120))?;
    let caught_up = begun.elapsed().as_secs_f64();
    let meanwhile = watched.finish()?;
    findings.push(finding("wiped node has caught up", "s", caught_up, None));
    findings.push(finding("longest write meanwhile", "ms", meanwhile, None));
    Ok(findings)
}

fn fill(cluster: &Cluster, leader: u64, options: &Options, progress: &Progress) -> Result<()> {
    let value = vec![b'v'; options.value_bytes as usize];
    let load = Load {
        addresses: vec![cluster.kv(leader)],
        clients: FILL.0,
        pipeline: FILL.1,
        keys: options.keys,
        warm_up: Duration::ZERO,
        span: Duration::ZERO,
    };
    let speak = || -> Box<dyn Dialect> { Box::new(Redis::new(CommandKind::Set, value.clone(), false, None)) };
    match load::fill(&load, &speak, progress)?.first_error {
        Some(why) => Err(LabError::Answer(format!("a key could not be written: {why}"))),
        None => Ok(()),
    }
}

fn resident_kib(cluster: &mut Cluster, id: u64) -> Result<u64> {
    cluster.process(id)?.resident_kib().ok_or(LabError::NotRunning(id))
}

/// Number of snapshots of its own state in the events of the node.
fn snapshots(cluster: &Cluster, id: u64) -> Result<usize> {
    let answer = cluster.get(id, "/v1/events")?;
    let events: Value = serde_json::from_slice(&answer.body).map_err(|e| LabError::Answer(e.to_string()))?;
    let is_own = |event: &&Value| event["text"].as_str().is_some_and(|text| text.starts_with("snapshot of "));
    Ok(events["events"].as_array().map_or(0, |list| list.iter().filter(is_own).count()))
}

fn wait_ready(cluster: &Cluster, id: u64, within: Duration) -> Result<()> {
    cluster.wait_explained(&format!("node {id} is ready"), within, || match cluster.get(id, "/readyz") {
        Ok(answer) if answer.status == 200 => Ok(()),
        Ok(answer) => Err(answer.text()),
        Err(e) => Err(e.to_string()),
    })
}

/// A client that writes at a steady pace and records its longest wait.
struct Watched {
    stop: Arc<AtomicBool>,
    longest: Receiver<std::io::Result<Duration>>,
}

impl Watched {
    fn start(address: &str) -> Result<Watched> {
        let stop = Arc::new(AtomicBool::new(false));
        let (address, should_stop) = (address.to_string(), Arc::clone(&stop));
        let (done, longest) = bounded(1);
        spawn::spawn("watched", move || {
            // The channel has room for it.
            let _ = done.try_send(write_until(&address, &should_stop));
        })
        .map_err(LabError::io("start a client"))?;
        Ok(Watched { stop, longest })
    }

    /// Its longest wait in milliseconds.
    fn finish(self) -> Result<f64> {
        self.stop.store(true, Ordering::Relaxed);
        let longest = self.longest.recv().map_err(|_| LabError::Answer("the watched client panicked".to_string()))?;
        Ok(longest.map_err(LabError::io("write at a steady pace"))?.as_secs_f64() * 1000.0)
    }
}

fn write_until(address: &str, stop: &AtomicBool) -> std::io::Result<Duration> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut reader = BufReader::new(socket.try_clone()?);
    let (mut longest, mut line) = (Duration::ZERO, String::new());
    while !stop.load(Ordering::Relaxed) {
        let asked = Instant::now();
        socket.write_all(b"SET watched x\r\n")?;
        line.clear();
        reader.read_line(&mut line)?;
        if line != "+OK\r\n" {
            return Err(std::io::Error::other(format!("answered {line:?}")));
        }
        longest = longest.max(asked.elapsed());
        poll::pause_until(asked + PACE);
    }
    Ok(longest)
}
