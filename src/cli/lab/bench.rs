//! `phalanx bench`: what a leader's death costs on this machine, and what reads and writes do.
//!
//! It starts nodes of its own on free ports with data in a temporary folder; a running cluster is touched only if its
//! addresses are given. Not here: how each figure is taken (`bench/failover.rs`, `bench/kv_rates.rs`, `bench/large_store.rs`).

use crate::bench::failover::{self, Figure, Part, Plan};
use crate::bench::kv_rates::{self, Mode, Rate, Server, Target};
use crate::bench::protocols::Verb;
use crate::bench::{chat_rates, job_rates, large_store, sql_rates};
use crate::cli::fault::{Fault, code};
use crate::cli::term::{self, Colour};
use crate::lab::folders::clean_up_when_told_to_end;
use crate::progress::Progress;
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;

/// Arguments of `phalanx bench`.
#[derive(Clone, Debug, clap::Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

/// What to measure.
#[derive(Clone, Debug, clap::Subcommand)]
enum BenchCommand {
    /// Failover: leader killed, frozen, leadership transferred; cold start; idle CPU; many monitor pages
    Failover {
        /// Run only these parts
        #[arg(long, value_delimiter = ',', value_name = "PART")]
        only: Vec<Part>,
        /// Rounds per part [default: kill 20, stop 10, hand-over 10, cold-start 5]
        #[arg(long, value_name = "N")]
        rounds: Option<usize>,
        /// Number of open monitor pages
        #[arg(long, default_value_t = 2000, value_name = "N")]
        monitors: usize,
        /// Seconds to measure idle nodes
        #[arg(long, default_value_t = 20, value_name = "SECONDS")]
        idle: u64,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Writes (SET) over the Redis protocol, strong and eventual
    Kv(LoadArgs),
    /// Reads (GET) over the Redis protocol, strong and eventual
    Read(LoadArgs),
    /// SQL over HTTP: single-row inserts, then linearizable point queries
    Sql(SqlArgs),
    /// Jobs: overhead, throughput compared with xargs, restart when a worker dies, recovery of a long queue when all
    /// nodes die
    Job {
        /// Number of sequential jobs to measure the overhead with
        #[arg(long, default_value_t = 200, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000))]
        singles: u64,
        /// Number of jobs to measure the throughput with
        #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000))]
        many: u64,
        /// Number of workers to kill
        #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1000))]
        kills: u64,
        /// Number of queued jobs when all nodes are killed; 0 skips this part
        #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = clap::value_parser!(u64).range(0..=50_000))]
        queue: u64,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Chat: delivery time of messages to many readers of one room on one node
    Chat {
        /// Number of readers, one connection each
        #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=20_000))]
        readers: u64,
        /// Number of accounts of the readers
        #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=9_000))]
        accounts: u64,
        /// Messages per second
        #[arg(long, default_value_t = 200, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=5_000))]
        rate: u64,
        /// Duration in seconds
        #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=600))]
        seconds: u64,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Large store: memory, writes during a snapshot, restart, catch-up after the data is deleted
    Snapshot {
        /// Number of keys
        #[arg(long, default_value_t = 1_000_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1000..=10_000_000))]
        keys: u64,
        /// Size of a value in bytes
        #[arg(long, default_value_t = 100, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..=1 << 16))]
        value_bytes: u64,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// What every load has.
#[derive(Clone, Debug, clap::Args)]
struct CommonArgs {
    /// Connections
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    clients: u64,
    /// Duration in seconds, for each mode or kind of request
    #[arg(long, default_value_t = 5.0, value_name = "SECONDS")]
    seconds: f64,
    /// Number of nodes to start
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=9))]
    nodes: u64,
    /// Nodes that the clients connect to
    #[arg(long, value_enum, default_value_t = Target::Leader)]
    target: Target,
    /// Measure running servers instead, at these ports
    #[arg(long, value_delimiter = ',', value_name = "HOST:PORT")]
    endpoint: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The load of `bench kv` and `bench read`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Data is stored in a temporary folder: set TMPDIR to a folder on the disk to be measured.\n\
    --endpoint accepts any server with the Redis protocol: a running Phalanx, or Redis with\n\
    --mode strong --wait 1.\n\n\
    Example: phalanx bench kv --clients 64 --pipeline 16 --seconds 10")]
struct LoadArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Commands that each client sends before it waits for the replies
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pipeline: u64,
    /// Size of a value in bytes
    #[arg(long, default_value_t = 256, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(0..=1 << 20))]
    value_bytes: u64,
    /// Number of different keys, chosen at random
    #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    keys: u64,
    /// Protocol of the servers at --endpoint; etcd and ZooKeeper have one mode only
    #[arg(long, value_enum, default_value_t = Server::Redis, requires = "endpoint")]
    server: Server,
    /// For Redis: send WAIT N 0 after each batch of commands, so that it counts only when N replicas have it
    #[arg(long, value_name = "N")]
    wait: Option<u32>,
    /// Measure only this mode
    #[arg(long, value_enum)]
    mode: Option<Mode>,
}

/// The load of `bench sql`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Data is stored in a temporary folder: set TMPDIR to a folder on the disk to be measured.\n\
    With --endpoint, the tables bench_grown and bench_read of that database are dropped and created again.")]
struct SqlArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Size of the text in each row, in bytes
    #[arg(long, default_value_t = 100, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(0..=1 << 16))]
    value_bytes: u64,
    /// Number of rows to query
    #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    rows: u64,
    /// Read consistency of the queries
    #[arg(long, default_value = "linearizable", value_parser = ["none", "weak", "linearizable", "strong"])]
    level: String,
}

fn run_chat(plan: &chat_rates::Plan, json: bool) -> Result<(), Fault> {
    let found = chat_rates::measure(plan, &Progress::new())
        .map_err(|e| Fault::new(code::FAILED, e, "see the nodes' last log lines above, if any was started"))?;
    if json {
        term::json(&found);
    } else {
        term::line(&format!(
            "{} readers, {} messages at {:.0}/s: {} deliveries, readers with a missing or duplicate message: {}\n\
             delivery p50 {:.1} ms, p99 {:.1} ms, longest {:.1} ms",
            found.readers,
            found.messages,
            found.rate,
            found.delivered,
            found.readers_wrong,
            found.p50_ms,
            found.p99_ms,
            found.max_ms
        ));
    }
    if found.readers_wrong > 0 {
        return Err(Fault::new(
            code::FAILED,
            format!("{} readers have a missing or duplicate message", found.readers_wrong),
            "",
        ));
    }
    Ok(())
}
pub fn run(args: &BenchArgs) -> Result<(), Fault> {
    let exe = std::env::current_exe().map_err(|e| {
        Fault::new(code::FAILED, format!("cannot find the path of this program: {e}"), "run it with its full path")
    })?;
    clean_up_when_told_to_end();
    let (only, rounds, monitors, idle, json) = match &args.command {
        BenchCommand::Job { singles, many, kills, queue, json } => {
            let count = |number: &u64| *number as usize;
            let (singles, many, kills, queue) = (count(singles), count(many), count(kills), count(queue));
            return run_jobs(&job_rates::Plan { exe, singles, many, kills, queue }, *json);
        }
        BenchCommand::Chat { readers, accounts, rate, seconds, json } => {
            let (readers, accounts) = (*readers as usize, *accounts as usize);
            let (rate, seconds) = (*rate as usize, *seconds as usize);
            return run_chat(&chat_rates::Plan { exe, readers, accounts, rate, seconds }, *json);
        }
        BenchCommand::Failover { only, rounds, monitors, idle, json } => (only, rounds, monitors, idle, json),
        BenchCommand::Kv(load) => return run_load(exe, Verb::Set, load),
        BenchCommand::Read(load) => return run_load(exe, Verb::Get, load),
        BenchCommand::Sql(load) => return run_sql(exe, load),
        BenchCommand::Snapshot { keys, value_bytes, json } => {
            return run_snapshot(&large_store::Plan { exe, keys: *keys, value_bytes: *value_bytes as usize }, *json);
        }
    };
    let plan = Plan {
        exe,
        only: only.clone(),
        rounds: *rounds,
        monitors: *monitors,
        idle: Duration::from_secs((*idle).max(1)),
    };
    let figures = failover::run(&plan, &Progress::new())
        .map_err(|e| Fault::new(code::FAILED, e, "see the nodes' last log lines above, if any was started"))?;
    if *json {
        let all_met = figures.iter().all(|f| f.is_met);
        term::json(&json!({"build": build(), "figures": figures, "all_met": all_met}));
    } else {
        term::out(&render(&figures));
    }
    Ok(())
}

fn span_of(seconds: f64) -> Result<Duration, Fault> {
    match (0.1..=3600.0).contains(&seconds) {
        true => Ok(Duration::from_secs_f64(seconds)),
        false => Err(Fault::new(code::USAGE, format!("--seconds {seconds}: out of range"), "give 0.1 to 3600")),
    }
}

fn run_sql(exe: PathBuf, args: &SqlArgs) -> Result<(), Fault> {
    let plan = sql_rates::Plan {
        exe,
        nodes: args.common.nodes,
        target: args.common.target,
        endpoints: args.common.endpoint.clone(),
        clients: args.common.clients as usize,
        value_bytes: args.value_bytes as usize,
        rows: args.rows,
        level: args.level.clone(),
        span: span_of(args.common.seconds)?,
    };
    let rates = sql_rates::run(&plan, &Progress::new()).map_err(|e| {
        let next = match plan.endpoints.is_empty() {
            true => "see the nodes' last log lines above, if any was started",
            false => "give HTTP addresses of nodes, for example --endpoint 127.0.0.1:6701",
        };
        Fault::new(code::FAILED, e, next)
    })?;
    let servers = servers(&plan.endpoints, plan.nodes, plan.target);
    if args.common.json {
        term::json(&json!({
            "build": build(), "nodes": servers, "clients": plan.clients, "value_bytes": plan.value_bytes,
            "rows": plan.rows, "seconds": args.common.seconds, "rates": rates,
        }));
    } else {
        let (clients, bytes, rows) = (plan.clients, plan.value_bytes, plan.rows);
        let head = format!("{clients} clients, rows of {bytes} bytes, {rows} of them to be read; {servers}");
        term::out(&render_rates(&head, &rates));
    }
    Ok(())
}

fn servers(endpoints: &[String], nodes: u64, target: Target) -> String {
    match endpoints.is_empty() {
        true => format!("{nodes} nodes, asked: {target:?}").to_lowercase(),
        false => endpoints.join(", "),
    }
}

fn run_load(exe: PathBuf, verb: Verb, args: &LoadArgs) -> Result<(), Fault> {
    let plan = kv_rates::Plan {
        exe,
        verb,
        modes: match (args.mode, args.server) {
            (Some(mode), Server::Redis) => vec![mode],
            (None, Server::Redis) => vec![Mode::Strong, Mode::Eventual],
            (_, Server::Etcd | Server::Zookeeper) => vec![Mode::Strong],
        },
        nodes: args.common.nodes,
        target: args.common.target,
        endpoints: args.common.endpoint.clone(),
        server: args.server,
        wait: args.wait,
        clients: args.common.clients as usize,
        pipeline: args.pipeline as usize,
        value_bytes: args.value_bytes as usize,
        keys: args.keys,
        span: span_of(args.common.seconds)?,
    };
    let rates = kv_rates::run(&plan, &Progress::new()).map_err(|e| {
        let next = match plan.endpoints.is_empty() {
            true => "see the nodes' last log lines above, if any was started",
            false => {
                "check that these servers use the Redis protocol; use --mode strong for servers other than Phalanx"
            }
        };
        Fault::new(code::FAILED, e, next)
    })?;
    let what = if verb == Verb::Set { "writes" } else { "reads" };
    if args.common.json {
        let servers = if plan.endpoints.is_empty() { json!(plan.nodes) } else { json!(plan.endpoints) };
        term::json(&json!({
            "build": build(), "what": what, "nodes": servers, "clients": plan.clients, "pipeline": plan.pipeline,
            "value_bytes": plan.value_bytes, "keys": plan.keys, "seconds": args.common.seconds, "rates": rates,
        }));
    } else {
        let head = format!(
            "{what}: {} clients x {}, {} byte values, {} keys; {}",
            plan.clients,
            plan.pipeline,
            plan.value_bytes,
            plan.keys,
            servers(&plan.endpoints, plan.nodes, plan.target)
        );
        term::out(&render_rates(&head, &rates));
    }
    Ok(())
}

fn run_snapshot(plan: &large_store::Plan, json: bool) -> Result<(), Fault> {
    let findings = large_store::run(plan, &Progress::new())
        .map_err(|e| Fault::new(code::FAILED, e, "see the nodes' last log lines above, if any was started"))?;
    if json {
        term::json(&json!({"build": build(), "keys": plan.keys, "value_bytes": plan.value_bytes, "figures": findings}));
        return Ok(());
    }
    let rows: Vec<Vec<String>> = findings
        .iter()
        .map(|f| {
            let (target, met) = match f.bound {
                Some(bound) if f.value <= bound => (format!("<= {bound}"), term::paint("yes", Colour::Green)),
                Some(bound) => (format!("<= {bound}"), term::paint("no", Colour::Red)),
                None => (String::new(), String::new()),
            };
            vec![f.what.to_string(), f.unit.to_string(), format!("{:.2}", f.value), target, met]
        })
        .collect();
    let head = format!("{} keys of 16 bytes, values of {} bytes, three nodes\n", plan.keys, plan.value_bytes);
    term::out(&(head + &term::table(&["WHAT", "UNIT", "VALUE", "TARGET", "MET"], &rows) + debug_note()));
    Ok(())
}

fn run_jobs(plan: &job_rates::Plan, json: bool) -> Result<(), Fault> {
    let findings = job_rates::run(plan, &Progress::new())
        .map_err(|e| Fault::new(code::FAILED, e, "see the nodes' last log lines above, if any was started"))?;
    if json {
        let all_met = findings.iter().all(|finding| finding.is_met);
        term::json(&json!({"build": build(), "figures": findings, "all_met": all_met}));
        return Ok(());
    }
    let rows: Vec<Vec<String>> = findings
        .iter()
        .map(|f| {
            let met = match (f.target, f.is_met) {
                ("", _) => String::new(),
                (_, true) => term::paint("yes", Colour::Green),
                (_, false) => term::paint("no", Colour::Red),
            };
            let number = |x: f64| if x >= 100.0 { format!("{x:.0}") } else { format!("{x:.2}") };
            vec![f.what.into(), f.unit.into(), number(f.median), number(f.worst), f.target.into(), met]
        })
        .collect();
    term::out(&(term::table(&["WHAT", "UNIT", "MEDIAN", "WORST", "TARGET", "MET"], &rows) + debug_note()));
    Ok(())
}

fn render_rates(title: &str, rates: &[Rate]) -> String {
    let rows: Vec<Vec<String>> = rates
        .iter()
        .map(|r| {
            let ms = |x: f64| format!("{x:.2}");
            vec![
                r.mode.clone(),
                format!("{:.0}", r.per_second),
                ms(r.average_ms),
                ms(r.p50_ms),
                ms(r.p99_ms),
                ms(r.max_ms),
                r.errors.to_string(),
                format!("{:.0}", r.clients_cpu_percent),
            ]
        })
        .collect();
    let head = ["MODE", "PER S", "AVG MS", "P50 MS", "P99 MS", "MAX MS", "ERRORS", "CLIENTS' CPU %"];
    let mut text = format!("{title}\n");
    text += &term::table(&head, &rows);
    for rate in rates {
        if let Some(why) = &rate.first_error {
            text += &format!("({}: the first error was {why:?})\n", rate.mode);
        }
    }
    text + debug_note()
}

fn debug_note() -> &'static str {
    match cfg!(debug_assertions) {
        true => "(a debug build: figures for README come from cargo build --release)\n",
        false => "",
    }
}

fn build() -> &'static str {
    if cfg!(debug_assertions) { "debug" } else { "release" }
}

fn render(figures: &[Figure]) -> String {
    let number = |x: f64| if x >= 100.0 { format!("{x:.0}") } else { format!("{x:.2}") };
    let rows: Vec<Vec<String>> = figures
        .iter()
        .map(|f| {
            let met = if f.is_met { term::paint("yes", Colour::Green) } else { term::paint("no", Colour::Red) };
            let rounds = f.samples.len().to_string();
            vec![f.what.clone(), f.unit.into(), rounds, number(f.median), number(f.worst), f.target.into(), met]
        })
        .collect();
    let mut text = term::table(&["WHAT", "UNIT", "N", "MEDIAN", "WORST", "TARGET", "MET"], &rows);
    text += debug_note();
    text
}
