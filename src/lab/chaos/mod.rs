//! A cluster that is broken on purpose while clients record what they did, and the verdict on what they recorded
//! (`phalanx chaos run`).
//!
//! - `endpoints.rs` sends one operation over HTTP, the Redis protocol or SQL; `clients.rs` has the threads that send them
//!   and record the outcomes (`records.rs`).
//! - `judge.rs` checks each key's history as soon as no more is added to it, so that an hour needs no more memory than a
//!   minute.
//! - `observer.rs` notes who leads; `plan.rs` decides what is broken when, by a seed or a file.
//! - `report.rs` gathers the figures, `html.rs` draws them.
//!
//! Not here: how a history is checked (`check/`), what a fault is (`faults/`), the commands that inject one
//! (`cli/lab/chaos/faults.rs`).

pub mod clients;
pub mod endpoints;
pub mod html;
pub mod judge;
pub mod observer;
pub mod plan;
pub mod records;
pub mod report;

use self::clients::Clients;
use self::endpoints::Target;
use self::judge::Judge;
use self::observer::Observer;
use self::plan::{Options, Step};
use self::report::{Injected, Report};
use super::{Cluster, Result, poll};
use serde_json::json;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a cluster without faults may take until it is healthy: a snapshot waits for the digests of a majority, for a
/// minute at most.
const HEALTHY_WITHIN: Duration = Duration::from_secs(90);
/// How long a node may take to stop.
const STOPPED_WITHIN: Duration = Duration::from_secs(15);
/// Default of the setting `voters_max`.
const VOTERS_MAX: usize = 5;

/// A run that has ended: its report, and the cluster, whose folder stays if something was wrong.
pub struct Ended {
    pub report: Report,
    pub cluster: Cluster,
}

/// Injects a fault, given as the command line says it; returns what was done, or why it was not.
pub type Injector = Box<dyn FnMut(&str) -> std::result::Result<String, String>>;

/// Runs it. `say` gets each line as it happens, and `count` the operations that were acknowledged so far.
///
/// # Errors
/// Processes do not start, or the cluster does not become healthy without faults.
pub fn run(
    exe: &Path,
    options: &Options,
    injector: impl FnOnce(&Cluster) -> Injector,
    say: &mut dyn FnMut(&str),
) -> Result<Ended> {
    let mut cluster = Cluster::prepare(exe, &json!({"snapshot_every_entries": 5000, "cluster_name": "chaos"}))?;
    cluster.keep = true;
    for id in 1..=options.nodes {
        cluster.spawn(id, &["--lab"])?;
    }
    let leader = cluster.settle()?;
    say(&format!("{} nodes run, node {leader} leads; their folder is {}", options.nodes, cluster.dir().display()));
    let mut inject = injector(&cluster);
    let begun = Instant::now();
    let target = Target::of(&cluster, options.nodes, options.is_eventual);
    endpoints::prepare(&target)?;
    let observer = Observer::start(&cluster, begun)?;
    let judge = Judge::start(target.clone(), begun)?;
    let clients = Clients::start(&target, options.clients, options.pace, begun, &judge.inbox())?;
    let ids = (1..=options.nodes).collect();
    let mut run = Run {
        cluster: &cluster,
        clients: &clients,
        begun,
        ids,
        injected: Vec::new(),
        slow_recoveries: Vec::new(),
        say,
    };
    run.until(options, &mut inject);
    let (injected, slow_recoveries) = (run.injected, run.slow_recoveries);
    say("no fault any more; the clients end, and each key is read once more");
    clients.finish();
    let judged = judge.finish();
    let changes = observer.finish();
    let differences = digests(exe, &cluster)?;
    let lasted = begun.elapsed();
    let bad_ends = cluster.stop_orderly(STOPPED_WITHIN)?;
    let report =
        Report { differences, bad_ends, slow_recoveries, ..Report::new(options, lasted, judged, changes, injected) };
    cluster.keep = !report.is_fine();
    Ok(Ended { report, cluster })
}

struct Run<'a> {
    cluster: &'a Cluster,
    clients: &'a Clients,
    begun: Instant,
    ids: Vec<u64>,
    injected: Vec<Injected>,
    /// Times at which the cluster was not healthy again in time, and what was missing.
    slow_recoveries: Vec<String>,
    say: &'a mut dyn FnMut(&str),
}

impl Run<'_> {
    fn until(&mut self, options: &Options, inject: &mut Injector) {
        let end = self.begun + options.lasts;
        let mut plan = options.plan.clone();
        while Instant::now() < end {
            match plan.next(&self.ids) {
                Some(Step::Wait(span)) => poll::pause_until((Instant::now() + span).min(end)),
                Some(Step::At(at)) => poll::pause_until((self.begun + at).min(end)),
                Some(Step::Inject(command)) => self.inject(&command, inject),
                Some(Step::Calm) => self.calm(inject),
                None => poll::pause_until(end),
            }
        }
        self.calm(inject);
    }

    fn inject(&mut self, command: &str, inject: &mut Injector) {
        let at = self.begun.elapsed();
        let result = inject(command);
        let line = match &result {
            Ok(done) => done.replace('\n', "; "),
            Err(why) => format!("not done: {why}"),
        };
        let acknowledged = self.clients.acknowledged();
        (self.say)(&format!("{:8.1} s  {acknowledged:>8} acknowledged  chaos {command}  ({line})", at.as_secs_f64()));
        self.injected.push(Injected { at, command: command.to_string(), result });
    }

    /// Ends all faults, and waits until the cluster is healthy and acknowledges writes.
    fn calm(&mut self, inject: &mut Injector) {
        self.inject("heal", inject);
        let before = self.clients.acknowledged();
        let acknowledges = || (self.clients.acknowledged() > before).then_some(());
        let what = "operations are acknowledged without faults";
        let recovered = poll::wait_until(what, HEALTHY_WITHIN, acknowledges);
        let voters = (self.ids.len()).min(VOTERS_MAX);
        if let Err(e) = recovered.and_then(|()| self.cluster.settle_within(voters, HEALTHY_WITHIN)) {
            // The run goes on: what clients were promised is judged all the same.
            let slow = format!("{:.1} s: {e}", self.begun.elapsed().as_secs_f64());
            (self.say)(&slow);
            self.slow_recoveries.push(slow);
        }
    }
}

/// The difference between the nodes' states, if there is any.
fn digests(exe: &Path, cluster: &Cluster) -> Result<Option<String>> {
    let settled = cluster.wait_explained("all nodes hold the same state", HEALTHY_WITHIN, || {
        let mut command = std::process::Command::new(exe);
        let output = command.args(["check", "digest", "-e", &cluster.http(1)]).current_dir(cluster.dir()).output();
        let output = output.map_err(|e| e.to_string())?;
        match output.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()),
        }
    });
    Ok(settled.err().map(|e| e.to_string()))
}
