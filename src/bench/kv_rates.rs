//! The figures of `phalanx bench kv` and `phalanx bench read`: commands per second and their latency.
//!
//! Without addresses it starts nodes of its own with the default settings and data in a temporary folder, and drives
//! their Redis port; with addresses it drives the servers there. Reads find every key, because all are written first.
//! Not here: the clients (`load.rs`), printing (`cli/lab/bench.rs`).

use super::etcd_zookeeper::{Etcd, Task, ZooKeeper};
use super::load::{self, Load, Tally};
use super::monitors;
use super::protocols::{CommandKind, Dialect, Redis};
use crate::lab::cluster::{Cluster, SETTLE_WITHIN};
use crate::lab::{LabError, Result};
use crate::progress::Progress;
use serde::Serialize;
use serde_json::json;
use std::path::Path;
use std::time::Duration;

/// Clients that write the keys to be read.
const FILL_CLIENTS: usize = 16;
/// Commands in each of their batches.
const FILL_PIPELINE: usize = 16;

/// The consistency that the clients ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Linearizable: acknowledged by a quorum; reads see every write acknowledged before
    Strong,
    /// Acknowledged by the leader alone; reads see what their node has applied
    Eventual,
}

/// The kind of the servers.
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

/// The nodes that the clients connect to.
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

/// What the loads of `bench kv`, `bench read` and `bench sql` have in common.
#[derive(Clone, Debug, clap::Args)]
pub struct LoadArgs {
    /// Connections
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub clients: u64,
    /// Duration in seconds, for each mode or kind of request
    #[arg(long = "seconds", default_value = "5", value_name = "SECONDS", value_parser = parse_seconds)]
    pub span: Duration,
    /// Number of nodes to start
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=9))]
    pub nodes: u64,
    /// Nodes that the clients connect to
    #[arg(long, value_enum, default_value_t = Target::Leader)]
    pub target: Target,
    /// Measure running servers instead, at these addresses, whose data it changes
    #[arg(long = "endpoint", visible_alias = "endpoints", value_delimiter = ',', value_name = "HOST:PORT")]
    pub endpoints: Vec<String>,
    /// What these servers require: the setting `client_password`, never an argument.
    #[arg(skip)]
    pub password: Option<String>,
}

pub(super) fn parse_seconds(text: &str) -> std::result::Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.1..=3600.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "give 0.1 to 3600 seconds".to_string())
}

impl LoadArgs {
    /// The servers to drive. Without endpoints, nodes are started, which live as long as `own`; those that `target`
    /// selects are driven, at the address that `address` gives.
    ///
    /// # Errors
    /// Nodes do not start, or none is selected.
    pub fn servers(
        &self,
        own: &mut Option<Cluster>,
        exe: &Path,
        address: fn(&Cluster, u64) -> String,
        progress: &Progress,
    ) -> Result<Vec<String>> {
        if !self.endpoints.is_empty() {
            return Ok(self.endpoints.clone());
        }
        progress.begin(&format!("starting {} nodes", self.nodes));
        let cluster = own.insert(Cluster::ready(exe, self.nodes, &json!({}))?);
        let leader = cluster.wait_leader()?;
        let selected = (1..=self.nodes).filter(|id| match self.target {
            Target::Leader => *id == leader,
            Target::Follower => *id != leader,
            Target::All => true,
        });
        let addresses: Vec<String> = selected.map(|id| address(cluster, id)).collect();
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

    /// A load on these servers.
    pub fn load(&self, addresses: Vec<String>, pipeline: usize, keys: u64) -> Load {
        let warm_up = (self.span / 5).min(Duration::from_secs(2));
        Load { addresses, clients: self.clients as usize, pipeline, keys, warm_up, span: self.span }
    }
}

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Data is stored in a temporary folder: set TMPDIR to a folder on the disk to be measured.\n\
    --endpoint accepts any server with the Redis protocol: a running Phalanx, or Redis with\n\
    --mode strong --wait 1. It overwrites the keys key:000000000000, key:000000000001 and so on there, --keys of them.\n\n\
    strong, the default of Phalanx, is what level=linearizable is over HTTP.\n\n\
    Example: phalanx bench kv --clients 64 --pipeline 16 --seconds 10")]
pub struct Options {
    #[command(flatten)]
    pub common: LoadArgs,
    /// Commands that each client sends before it waits for the replies
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub pipeline: u64,
    /// Size of a value in bytes
    #[arg(long, default_value_t = 256, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(0..=1 << 20))]
    pub value_bytes: u64,
    /// Number of different keys, chosen at random
    #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub keys: u64,
    /// Protocol of the servers at --endpoint; etcd and ZooKeeper have one mode only
    #[arg(long, value_enum, default_value_t = Server::Redis, requires = "endpoints")]
    pub server: Server,
    /// For Redis: send WAIT N 0 after each batch of commands, so that it counts only when N replicas have it
    #[arg(long, value_name = "N")]
    pub wait: Option<u32>,
    /// Measure only this mode
    #[arg(long, value_enum)]
    pub mode: Option<Mode>,
}

impl Options {
    fn modes(&self) -> Vec<Mode> {
        match (self.mode, self.server) {
            (Some(mode), Server::Redis) => vec![mode],
            (None, Server::Redis) => vec![Mode::Strong, Mode::Eventual],
            (_, Server::Etcd | Server::Zookeeper) => vec![Mode::Strong],
        }
    }
}

/// The result of one load.
#[derive(Clone, Debug, Serialize)]
pub struct Rate {
    /// The mode, or the kind of request.
    pub mode: String,
    /// Commands per second.
    pub per_second: f64,
    /// Mean time of one, in milliseconds.
    pub average_ms: f64,
    pub p50_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
    pub max_ms: f64,
    /// Commands that were refused.
    pub errors: u64,
    /// The first such answer.
    pub first_error: Option<String>,
    /// Share of one core that the clients used, in percent.
    pub clients_cpu_percent: f64,
    /// Terms that began meanwhile; `None` where servers of others are measured.
    pub elections: Option<u64>,
}

impl Rate {
    /// The figures of a load.
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
            elections: None,
        }
    }
}

/// Measures writes or reads; `progress` shows how far it is.
///
/// # Errors
/// Nodes do not start, or a server cannot be driven.
pub fn run(exe: &Path, verb: CommandKind, options: &Options, progress: &Progress) -> Result<Vec<Rate>> {
    monitors::raise_file_limit();
    // Dropped at the end: it kills its nodes.
    let mut own = None;
    let addresses = options.common.servers(&mut own, exe, Cluster::kv, progress)?;
    let random = std::iter::repeat_with(|| fastrand::alphanumeric() as u8);
    let value: Vec<u8> = random.take(options.value_bytes as usize).collect();
    let load = options.common.load(addresses, options.pipeline as usize, options.keys);
    let password = options.common.password.as_deref();
    // Reads find every key, and ZooKeeper writes only to nodes that exist.
    if verb == CommandKind::Get || options.server == Server::Zookeeper {
        progress.begin_counted(&format!("writing {} keys", options.keys), options.keys);
        let load = Load { clients: FILL_CLIENTS, pipeline: FILL_PIPELINE, ..load.clone() };
        let speak = || -> Box<dyn Dialect> {
            match options.server {
                Server::Redis => {
                    Box::new(Redis::new(CommandKind::Set, value.clone(), false, None).with_password(password))
                }
                Server::Etcd => Box::new(Etcd::new(CommandKind::Set, value.clone())),
                Server::Zookeeper => Box::new(ZooKeeper::new(Task::Create, value.clone())),
            }
        };
        let tally = load::fill(&load, &speak, progress)?;
        if let Some(why) = tally.first_error {
            let (failed, all) = (tally.errors, options.keys);
            return Err(LabError::Answer(format!("{failed} of {all} keys could not be written: {why}")));
        }
    }
    let mut rates = Vec::new();
    for mode in options.modes() {
        let name = format!("{mode:?}").to_lowercase();
        let (clients, pipeline, span) = (options.common.clients, options.pipeline, options.common.span);
        progress.begin_timed(&format!("{name}: {clients} clients x {pipeline} for {} s", span.as_secs()), span);
        let speak = || -> Box<dyn Dialect> {
            match (options.server, verb) {
                (Server::Redis, verb) => {
                    let is_eventual = mode == Mode::Eventual;
                    Box::new(Redis::new(verb, value.clone(), is_eventual, options.wait).with_password(password))
                }
                (Server::Etcd, verb) => Box::new(Etcd::new(verb, value.clone())),
                (Server::Zookeeper, CommandKind::Set) => Box::new(ZooKeeper::new(Task::Write, value.clone())),
                (Server::Zookeeper, CommandKind::Get) => Box::new(ZooKeeper::new(Task::Read, Vec::new())),
            }
        };
        let before = own.as_ref().map(term).transpose()?;
        let mut rate = Rate::new(name, &load::run(&load, &speak)?);
        let after = own.as_ref().map(term).transpose()?;
        rate.elections = after.zip(before).map(|(after, before)| after - before);
        rates.push(rate);
    }
    Ok(rates)
}

/// The newest term that any node knows.
fn term(cluster: &Cluster) -> Result<u64> {
    let terms = cluster.statuses().into_values().map(|status| status.cluster.term.0);
    terms.max().ok_or_else(|| LabError::Answer("no node tells its term".to_string()))
}
