//! The figures of `phalanx bench kv` and `phalanx bench read`: commands in a second, and how long each takes.
//!
//! Without addresses it starts nodes of its own with the default settings and data in a temporary folder, and drives
//! their Redis port; with addresses it drives whatever stands there. Reads find every key: they are written before.
//! Not here: the clients (`load.rs`), printing (`cli/lab/bench.rs`).

use super::etcd_zookeeper::{Etcd, Task, ZooKeeper};
use super::load::{self, Load, Tally};
use super::monitors;
use super::protocols::{Dialect, Redis, Verb};
use crate::lab::cluster::{Cluster, SETTLE_WITHIN};
use crate::lab::{LabError, Result};
use crate::progress::Progress;
use serde::Serialize;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How many clients write the keys that are read later.
const FILL_CLIENTS: usize = 16;
/// Commands in each of their runs.
const FILL_PIPELINE: usize = 16;

/// What the clients promise themselves from an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Acknowledged by a quorum; reads see every write acknowledged before
    Strong,
    /// Acknowledged by the leader alone; reads see what their node has applied
    Eventual,
}

/// What the servers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Server {
    /// Phalanx, or anything else that uses the Redis protocol
    Redis,
    /// etcd, by gRPC
    Etcd,
    /// ZooKeeper: setData, and reads of the asked server's copy
    Zookeeper,
}

/// Which nodes the clients talk to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// The leader
    Leader,
    /// The followers, in turn
    Follower,
    /// All nodes, in turn
    All,
}

/// What to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The program to start.
    pub exe: PathBuf,
    /// Write or read.
    pub verb: Verb,
    /// One figure each.
    pub modes: Vec<Mode>,
    /// Nodes to start.
    pub nodes: u64,
    /// Who is asked, of the nodes that were started.
    pub target: Target,
    /// Running servers to drive instead.
    pub endpoints: Vec<String>,
    /// What they are.
    pub server: Server,
    /// `WAIT n 0` after each run of commands.
    pub wait: Option<u32>,
    /// Connections.
    pub clients: usize,
    /// Commands in one run.
    pub pipeline: usize,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// Number of keys.
    pub keys: u64,
    /// Counted for each mode.
    pub span: Duration,
}

/// One line of the answer.
#[derive(Clone, Debug, Serialize)]
pub struct Rate {
    /// How the clients asked, or for what.
    pub mode: String,
    /// Commands in a second.
    pub per_second: f64,
    /// Mean time of one, in milliseconds.
    pub average_ms: f64,
    /// Half are at or below.
    pub p50_ms: f64,
    /// 99 of 100 are at or below.
    pub p99_ms: f64,
    /// The longest.
    pub max_ms: f64,
    /// Commands that were refused.
    pub errors: u64,
    /// The first such answer.
    pub first_error: Option<String>,
    /// Share of one core that the clients used, in percent.
    pub clients_cpu_percent: f64,
}

impl Rate {
    /// A load's figures by its name.
    pub fn new(mode: impl Into<String>, tally: &Tally) -> Rate {
        let ms = |us: f64| (us / 10.0).round() / 100.0;
        Rate {
            mode: mode.into(),
            per_second: tally.rate().round(),
            average_ms: ms(tally.times.mean_us()),
            p50_ms: ms(tally.times.percentile_us(0.5) as f64),
            p99_ms: ms(tally.times.percentile_us(0.99) as f64),
            max_ms: ms(tally.times.max_us() as f64),
            errors: tally.errors,
            first_error: tally.first_error.clone(),
            clients_cpu_percent: (tally.own_cpu * 100.0).round(),
        }
    }
}

/// Runs the plan; `progress` shows how far it is.
///
/// # Errors
/// Nodes do not start, or a server cannot be driven.
pub fn run(plan: &Plan, progress: &Progress) -> Result<Vec<Rate>> {
    monitors::raise_file_limit();
    // Dropped at the end: it kills its nodes.
    let mut own = None;
    let addresses = if plan.endpoints.is_empty() {
        start(&mut own, &plan.exe, plan.nodes, plan.target, Cluster::kv, progress)?
    } else {
        plan.endpoints.clone()
    };
    let value: Vec<u8> = std::iter::repeat_with(|| fastrand::alphanumeric() as u8).take(plan.value_bytes).collect();
    let load = Load {
        addresses,
        clients: plan.clients,
        pipeline: plan.pipeline,
        keys: plan.keys,
        warm_up: (plan.span / 5).min(Duration::from_secs(2)),
        span: plan.span,
    };
    // Reads find every key, and ZooKeeper writes only to nodes that exist.
    if plan.verb == Verb::Get || plan.server == Server::Zookeeper {
        progress.begin_counted(&format!("writing {} keys", plan.keys), plan.keys);
        let load = Load { clients: FILL_CLIENTS, pipeline: FILL_PIPELINE, ..load.clone() };
        let speak = || -> Box<dyn Dialect> {
            match plan.server {
                Server::Redis => Box::new(Redis::new(Verb::Set, value.clone(), false, None)),
                Server::Etcd => Box::new(Etcd::new(Verb::Set, value.clone())),
                Server::Zookeeper => Box::new(ZooKeeper::new(Task::Create, value.clone())),
            }
        };
        let tally = load::fill(&load, &speak, progress)?;
        if let Some(why) = tally.first_error {
            return Err(LabError::Answer(format!(
                "{} of {} keys could not be written: {why}",
                tally.errors, plan.keys
            )));
        }
    }
    let mut rates = Vec::new();
    for mode in &plan.modes {
        let (clients, pipeline) = (plan.clients, plan.pipeline);
        progress
            .begin(&format!("{mode:?}: {clients} clients x {pipeline} for {} s", plan.span.as_secs()).to_lowercase());
        let speak = || -> Box<dyn Dialect> {
            match (plan.server, plan.verb) {
                (Server::Redis, verb) => Box::new(Redis::new(verb, value.clone(), *mode == Mode::Eventual, plan.wait)),
                (Server::Etcd, verb) => Box::new(Etcd::new(verb, value.clone())),
                (Server::Zookeeper, Verb::Set) => Box::new(ZooKeeper::new(Task::Write, value.clone())),
                (Server::Zookeeper, Verb::Get) => Box::new(ZooKeeper::new(Task::Read, Vec::new())),
            }
        };
        rates.push(Rate::new(format!("{mode:?}").to_lowercase(), &load::run(&load, &speak)?));
    }
    Ok(rates)
}

/// Starts nodes, which live as long as `own`; addresses of those that are to be asked, at the port that `door` names.
///
/// # Errors
/// Nodes do not start, or there is none to ask.
pub fn start(
    own: &mut Option<Cluster>,
    exe: &Path,
    nodes: u64,
    target: Target,
    door: fn(&Cluster, u64) -> String,
    progress: &Progress,
) -> Result<Vec<String>> {
    progress.begin(&format!("starting {nodes} nodes"));
    let cluster = own.insert(Cluster::ready(exe, nodes, &json!({}))?);
    targets(cluster, nodes, target, door)
}

/// Addresses of the nodes that are to be asked, once they take connections.
fn targets(cluster: &Cluster, nodes: u64, target: Target, door: fn(&Cluster, u64) -> String) -> Result<Vec<String>> {
    let leader = cluster.wait_leader()?;
    let chosen = (1..=nodes).filter(|id| match target {
        Target::Leader => *id == leader,
        Target::Follower => *id != leader,
        Target::All => true,
    });
    let addresses: Vec<String> = chosen.map(|id| door(cluster, id)).collect();
    if addresses.is_empty() {
        return Err(LabError::Answer("a cluster of one node has no follower".to_string()));
    }
    for address in &addresses {
        cluster.wait_until(&format!("{address} takes clients"), SETTLE_WITHIN, || {
            std::net::TcpStream::connect(address).ok()
        })?;
    }
    Ok(addresses)
}
