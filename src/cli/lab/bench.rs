//! `phalanx bench`: measures failover, reads and writes, SQL, redirects, jobs and chat on this machine.
//!
//! It starts nodes of its own on free ports with data in a temporary folder; a running cluster is used only if its
//! addresses are given. Not here: what is measured, and its arguments (`bench/`).

use super::{lab_fault, own_program};
use crate::bench::kv_rates::{LoadArgs, Rate};
use crate::bench::protocols::CommandKind;
use crate::bench::{chat_rates, failover, front_rates, job_rates, kv_rates, large_store, sql_rates};
use crate::cli::client;
use crate::cli::fault::{Fault, code};
use crate::cli::term::{self, Colour};
use crate::lab::LabError;
use crate::lab::folders::clean_up_on_signals;
use crate::progress::Progress;
use serde_json::json;
use std::path::Path;

/// Arguments of `phalanx bench`.
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  phalanx bench failover --only kill\n  phalanx bench kv --clients 16 --seconds 10\n  \
    phalanx bench read --endpoint 127.0.0.1:7701,127.0.0.1:7702\n\n\
    Without --endpoint each starts nodes of its own on free ports and removes their data. Most take as long as their \
    rounds or seconds say, and some seconds to start nodes; failover and job take minutes. Use a release build."
)]
pub struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

/// What to measure.
#[derive(Clone, Debug, clap::Subcommand)]
enum BenchCommand {
    /// Failover: leader killed, frozen, leadership transferred; cold start; idle CPU; many monitor pages; a witness; several hosts:
    /// leader's host vanished, slow and lossy links (10 minutes; only as root on Linux)
    Failover(failover::Options),
    /// Writes (SET) over the Redis protocol, strong and eventual
    Kv(kv_rates::Options),
    /// Reads (GET) over the Redis protocol, strong and eventual
    Read(kv_rates::Options),
    /// SQL over HTTP: single-row inserts, then linearizable point queries
    Sql(sql_rates::Options),
    /// Front door: redirects per second over kept connections, and with a connection for each request
    Front(front_rates::Options),
    /// Jobs: overhead, throughput compared with xargs, restart when a worker dies, recovery of a long queue when all
    /// nodes die
    Job(job_rates::Options),
    /// Chat: delivery time of messages to many readers of one room on one node
    Chat(chat_rates::Options),
    /// Large store: memory, writes during a snapshot, restart, catch-up after the data is deleted
    Snapshot(large_store::Options),
}

pub fn run(args: &BenchArgs) -> Result<(), Fault> {
    let (exe, progress) = (own_program()?, Progress::new());
    clean_up_on_signals();
    match &args.command {
        BenchCommand::Failover(options) => {
            let report = failover::run(&exe, options, &progress).map_err(lab_fault)?;
            failover_figures(&report, args.json)?;
        }
        BenchCommand::Kv(options) => keys(&exe, CommandKind::Set, options, &progress, args.json)?,
        BenchCommand::Read(options) => keys(&exe, CommandKind::Get, options, &progress, args.json)?,
        BenchCommand::Sql(options) => sql(&exe, options, &progress, args.json)?,
        BenchCommand::Front(options) => front(&exe, options, &progress, args.json)?,
        BenchCommand::Job(options) => {
            let findings = job_rates::run(&exe, options, &progress).map_err(lab_fault)?;
            let all_met = findings.iter().all(|finding| finding.is_met);
            let value = json!({"build": build(), "figures": findings, "all_met": all_met});
            let row = |f: &job_rates::Finding| {
                let met = met((!f.target.is_empty()).then_some(f.is_met));
                vec![f.what.into(), f.unit.into(), number(f.median), number(f.worst), f.target.into(), met]
            };
            show(args.json, &value, "", &["WHAT", "UNIT", "MEDIAN", "WORST", "TARGET", "MET"], &findings, row);
        }
        BenchCommand::Chat(options) => chat(&exe, options, &progress, args.json)?,
        BenchCommand::Snapshot(options) => {
            let findings = large_store::run(&exe, options, &progress).map_err(lab_fault)?;
            let (keys, bytes) = (options.keys, options.value_bytes);
            let value = json!({"build": build(), "keys": keys, "value_bytes": bytes, "figures": findings});
            let head = format!("{keys} keys of 16 bytes, values of {bytes} bytes, three nodes\n");
            let row = |f: &large_store::Finding| {
                let target = f.bound.map_or(String::new(), |bound| format!("<= {bound}"));
                let met = met(f.bound.map(|bound| f.value <= bound));
                vec![f.what.to_string(), f.unit.to_string(), format!("{:.2}", f.value), target, met]
            };
            show(args.json, &value, &head, &["WHAT", "UNIT", "VALUE", "TARGET", "MET"], &findings, row);
        }
    }
    Ok(())
}

fn failover_figures(report: &failover::Report, is_json: bool) -> Result<(), Fault> {
    let (figures, skipped) = (&report.figures, &report.skipped);
    let all_met = figures.iter().all(|f| f.is_met);
    let value = json!({"build": build(), "figures": figures, "skipped": skipped, "all_met": all_met});
    let row = |f: &failover::Figure| {
        let met = met((!f.target.is_empty()).then_some(f.is_met));
        let [median, p90, worst] = [f.median, f.p90, f.worst].map(number);
        vec![f.what.clone(), f.unit.clone(), f.samples.len().to_string(), median, p90, worst, f.target.clone(), met]
    };
    let columns = ["WHAT", "UNIT", "N", "MEDIAN", "P90", "WORST", "TARGET", "MET"];
    if is_json || !figures.is_empty() {
        show(is_json, &value, "", &columns, figures, row);
    }
    if !is_json {
        term::out(&figures.iter().map(distribution).collect::<String>());
    }
    match figures.is_empty() {
        false => Ok(()),
        true => Err(Fault::failed("nothing was measured: the parts were skipped, see above")),
    }
}

/// The histogram of a figure, and how warm the processes were, in a few lines; empty without either.
fn distribution(figure: &failover::Figure) -> String {
    let mut lines = Vec::new();
    let bars = figure.histogram.iter().map(|bar| format!("{} to {}: {}", bound(bar.from), bound(bar.to), bar.count));
    let bars: Vec<String> = bars.collect();
    if !bars.is_empty() {
        lines.push(bars.join(", "));
    }
    if let Some(warm) = &figure.warm {
        let median =
            |median: Option<f64>| median.map_or(String::new(), |median| format!(" (median {})", number(median)));
        let (shortest, longest) = warm.timeouts_ms;
        lines.push(format!(
            "election timeouts {} to {} ms; shorter than the configured {} ms (warm processes, quiet machine) in {} rounds{}, not in {}{}",
            bound(shortest),
            bound(longest),
            bound(warm.configured_ms),
            warm.rounds,
            median(warm.median),
            figure.samples.len() - warm.rounds,
            median(warm.others_median)
        ));
    }
    match lines.is_empty() {
        true => String::new(),
        false => format!("{}, {}\n  {}\n", figure.what, figure.unit, lines.join("\n  ")),
    }
}

/// A bound of a bar, without the noise of its computation.
fn bound(x: f64) -> String {
    format!("{}", (x * 1000.0).round() / 1000.0)
}

/// With the password that the setting has for running servers. Nodes of its own have none.
fn with_password(common: &LoadArgs) -> Result<LoadArgs, Fault> {
    let mut common = common.clone();
    if !common.endpoints.is_empty() {
        common.password = client::settings(None)?.client_password;
    }
    Ok(common)
}

fn keys(
    exe: &Path,
    verb: CommandKind,
    options: &kv_rates::Options,
    progress: &Progress,
    is_json: bool,
) -> Result<(), Fault> {
    let options = &kv_rates::Options { common: with_password(&options.common)?, ..options.clone() };
    let common = &options.common;
    let next = "check that these servers use the Redis protocol; use --mode strong for servers other than Phalanx";
    let rates = kv_rates::run(exe, verb, options, progress).map_err(|e| load_fault(common, e, next))?;
    let what = if verb == CommandKind::Set { "writes" } else { "reads" };
    let nodes = if common.endpoints.is_empty() { json!(common.nodes) } else { json!(common.endpoints) };
    let value = json!({
        "build": build(), "what": what, "nodes": nodes, "clients": common.clients, "pipeline": options.pipeline,
        "value_bytes": options.value_bytes, "keys": options.keys, "seconds": common.span.as_secs_f64(), "rates": rates,
    });
    let (clients, pipeline, bytes, keys) = (common.clients, options.pipeline, options.value_bytes, options.keys);
    let head = format!("{what}: {clients} clients x {pipeline}, {bytes} byte values, {keys} keys; {}", servers(common));
    show_rates(is_json, &value, &head, &rates);
    Ok(())
}

fn sql(exe: &Path, options: &sql_rates::Options, progress: &Progress, is_json: bool) -> Result<(), Fault> {
    let options = &sql_rates::Options { common: with_password(&options.common)?, ..options.clone() };
    let common = &options.common;
    let next = "give HTTP addresses of nodes, for example --endpoint 127.0.0.1:6701";
    let rates = sql_rates::run(exe, options, progress).map_err(|e| load_fault(common, e, next))?;
    let (clients, bytes, rows, servers) = (common.clients, options.value_bytes, options.rows, servers(common));
    let value = json!({
        "build": build(), "nodes": servers, "clients": clients, "value_bytes": bytes, "rows": rows,
        "seconds": common.span.as_secs_f64(), "rates": rates,
    });
    let head = format!("{clients} clients, rows of {bytes} bytes, {rows} of them to be read; {servers}");
    show_rates(is_json, &value, &head, &rates);
    Ok(())
}

fn front(exe: &Path, options: &front_rates::Options, progress: &Progress, is_json: bool) -> Result<(), Fault> {
    let mut options = options.clone();
    if options.endpoint.is_some() {
        options.password = client::settings(None)?.client_password;
    }
    let rates = front_rates::run(exe, &options, progress).map_err(|e| match options.endpoint {
        None => lab_fault(e),
        Some(_) => Fault::new(code::FAILED, e, "give the address of a server that answers GET / with 307"),
    })?;
    let servers = options.endpoint.clone().unwrap_or_else(|| format!("{} nodes", options.nodes));
    let seconds = options.span.as_secs_f64();
    let value = json!({
        "build": build(), "servers": servers, "clients": options.clients, "seconds": seconds, "rates": rates,
    });
    show_rates(is_json, &value, &format!("redirects: {} clients; {servers}", options.clients), &rates);
    Ok(())
}

fn chat(exe: &Path, options: &chat_rates::Options, progress: &Progress, is_json: bool) -> Result<(), Fault> {
    let found = chat_rates::run(exe, options, progress).map_err(lab_fault)?;
    let wrong = found.readers_wrong;
    term::answer(is_json, &found, || {
        format!(
            "{} readers, {} messages at {:.0}/s: {} deliveries, readers with a missing or duplicate message: {wrong}\n\
             delivery p50 {:.1} ms, p99 {:.1} ms, longest {:.1} ms",
            found.readers, found.messages, found.rate, found.delivered, found.p50_ms, found.p99_ms, found.max_ms
        )
    });
    match wrong {
        0 => Ok(()),
        _ => Err(Fault::failed(format!("{wrong} readers have a missing or duplicate message"))),
    }
}

/// An error with advice: `next` if the servers were given, else where the nodes' own messages are.
fn load_fault(common: &LoadArgs, e: LabError, next: &str) -> Fault {
    if common.endpoints.is_empty() { lab_fault(e) } else { Fault::new(code::FAILED, e, next) }
}

fn servers(common: &LoadArgs) -> String {
    match common.endpoints.is_empty() {
        true => format!("{} nodes, asked: {:?}", common.nodes, common.target).to_lowercase(),
        false => common.endpoints.join(", "),
    }
}

/// Writes figures: as JSON, or as a table under a title.
fn show<T>(
    is_json: bool,
    value: &serde_json::Value,
    title: &str,
    columns: &[&str],
    figures: &[T],
    row: impl Fn(&T) -> Vec<String>,
) {
    if is_json {
        return term::json(value);
    }
    let rows: Vec<Vec<String>> = figures.iter().map(row).collect();
    term::out(&format!("{title}{}{}", term::table(columns, &rows), debug_note()));
}

fn show_rates(is_json: bool, value: &serde_json::Value, title: &str, rates: &[Rate]) {
    if is_json {
        return term::json(value);
    }
    let row = |r: &Rate| {
        let times = [r.average_ms, r.p50_ms, r.p99_ms, r.max_ms].map(|ms| format!("{ms:.2}"));
        let mut row = vec![r.mode.clone(), format!("{:.0}", r.per_second)];
        row.extend(times);
        row.extend([r.errors.to_string(), format!("{:.0}", r.clients_cpu_percent)]);
        row
    };
    let columns = ["MODE", "PER S", "AVG MS", "P50 MS", "P99 MS", "MAX MS", "ERRORS", "CLIENTS' CPU %"];
    let mut text = format!("{title}\n{}", term::table(&columns, &rates.iter().map(row).collect::<Vec<_>>()));
    for rate in rates {
        if let Some(elections) = rate.elections {
            text += &format!("({}: {elections} elections meanwhile)\n", rate.mode);
        }
        if let Some(why) = &rate.first_error {
            text += &format!("({}: the first error was {why:?})\n", rate.mode);
        }
    }
    term::out(&(text + debug_note()));
}

fn number(x: f64) -> String {
    if x >= 100.0 { format!("{x:.0}") } else { format!("{x:.2}") }
}

/// Whether a target is met; empty without a target.
fn met(is_met: Option<bool>) -> String {
    match is_met {
        Some(true) => term::paint("yes", Colour::Green),
        Some(false) => term::paint("no", Colour::Red),
        None => String::new(),
    }
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
