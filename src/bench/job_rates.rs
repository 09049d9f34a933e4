//! The figures of `phalanx bench job`: the overhead of a job compared with the bare command in the same sandbox, jobs
//! per second compared with `xargs`, how soon a dead worker's job restarts on another node, and whether a long queue
//! survives the death of all nodes.
//!
//! The bare command is exactly the one that a worker starts; jobs and bare commands alternate, so that noise of the
//! machine affects both. Data is in a temporary folder.
//! Not here: printing (`cli/lab/bench.rs`), the client (`lab/jobs.rs`).

use super::failover::median;
use crate::lab::cluster::Cluster;
use crate::lab::folders::Folder;
use crate::lab::jobs::Jobs;
use crate::lab::web::Connection;
use crate::lab::{LabError, Result};
use crate::progress::Progress;
use crate::settings::SandboxKind;
use crate::work::sandbox::{Sandbox, SandboxLimits};
use crate::work::scratch::Scratch;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Longest wait for one thing.
const PATIENCE: Duration = Duration::from_secs(60);
/// Slots of each of the three nodes.
const SLOTS: u64 = 2;
const NODES: u64 = 3;
/// Connections that submit jobs.
const HANDS: usize = 8;
/// A user number of the sandbox that no slot of these nodes has.
const OWN_SLOT: u32 = 4999;

/// What to measure, and how often.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Number of sequential jobs to measure the overhead with
    #[arg(long, default_value_t = 200, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub singles: u64,
    /// Number of jobs to measure the throughput with
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub many: u64,
    /// Number of workers to kill
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub kills: u64,
    /// Number of queued jobs when all nodes are killed; 0 skips this part
    #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = clap::value_parser!(u64).range(0..=50_000))]
    pub queue: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    pub what: &'static str,
    /// Unit of the figures.
    pub unit: &'static str,
    pub median: f64,
    pub worst: f64,
    /// Target; empty: the figure is only for comparison.
    pub target: &'static str,
    /// Whether the target is met.
    pub is_met: bool,
}

fn finding(
    what: &'static str,
    unit: &'static str,
    samples: &[f64],
    target: &'static str,
    is_met: impl Fn(f64, f64) -> bool,
) -> Finding {
    let (median, worst) = (median(samples), samples.iter().copied().fold(f64::NAN, f64::max));
    Finding { what, unit, median, worst, target, is_met: is_met(median, worst) }
}

/// A figure without a target.
fn comparison(what: &'static str, unit: &'static str, samples: &[f64]) -> Finding {
    finding(what, unit, samples, "", |_, _| true)
}

/// Runs the plan; `progress` shows how far it is.
///
/// # Errors
/// Nodes do not start, programs cannot be sandboxed here, or a job is lost.
pub fn run(exe: &Path, options: &Options, progress: &Progress) -> Result<Vec<Finding>> {
    let settings = json!({"jobs_enabled": true, "job_slots": SLOTS});
    let mut cluster = Cluster::ready(exe, NODES, &settings)?;
    wait_workers(&cluster, NODES)?;
    let bare = Bare::new()?;
    let mut findings = overhead(&cluster, &bare, options.singles as usize, progress)?;
    findings.extend(throughput(&cluster, &bare, options.many as usize, progress)?);
    findings.push(restarts(&mut cluster, options.kills, progress)?);
    if options.queue > 0 {
        findings.extend(queue(&mut cluster, options.queue as usize, progress)?);
    }
    Ok(findings)
}

/// Waits until this many workers have joined and can run jobs.
///
/// # Errors
/// They are not in time; a worker's own reason, if it has one.
pub fn wait_workers(cluster: &Cluster, count: u64) -> Result<()> {
    let workers = cluster.wait_explained("the workers have joined", PATIENCE, || {
        let leader = cluster.leader().ok_or("there is no leader")?;
        let workers = cluster.status(leader).map_err(|e| e.to_string())?.jobs.workers;
        let here = workers.iter().filter(|worker| worker.is_here).count() as u64;
        if here >= count { Ok(workers) } else { Err(format!("{here} of {count} have")) }
    })?;
    match workers.into_iter().find_map(|worker| worker.trouble.clone()) {
        Some(trouble) => Err(LabError::Answer(trouble)),
        None => Ok(()),
    }
}

/// The command that a worker starts for a shell script that says `true`, without the worker.
struct Bare {
    sandbox: Sandbox,
    scratch: Scratch,
    /// Dropped last: it contains the others.
    _folder: Folder,
}

impl Bare {
    fn new() -> Result<Bare> {
        let folder = Folder::make("phalanx-bare-")?;
        // The folder of each command is private, but the users that run jobs must be able to traverse this one.
        let opened = std::fs::set_permissions(folder.path(), Permissions::from_mode(0o711));
        opened.map_err(LabError::io("open a temporary folder"))?;
        let sandbox =
            Sandbox::try_out(SandboxKind::Full, folder.path()).map_err(|e| LabError::Answer(e.to_string()))?;
        let path = folder.path().join("scratch");
        let user = sandbox.user(OWN_SLOT);
        let scratch = Scratch::create(&path, user, 64).map_err(LabError::io("make a folder"))?;
        let script = scratch.job().join("main.sh");
        std::fs::write(&script, "true").map_err(LabError::io("write a script"))?;
        if user.is_some() {
            chown(script, user, user).map_err(LabError::io("give the script away"))?;
        }
        Ok(Bare { sandbox, scratch, _folder: folder })
    }

    fn command(&self) -> Command {
        let bounds = SandboxLimits { wall_s: 60, cpu_s: 10, data: 512 << 20, file: 64 << 20, processes: 512 };
        let words = ["sh", "main.sh"].map(String::from);
        self.sandbox.command(&words, self.scratch.path(), &[], OWN_SLOT, &bounds)
    }

    fn run(&self) -> Result<Duration> {
        let begun = Instant::now();
        let mut command = self.command();
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        let status = status.map_err(LabError::io("start the sandbox"))?;
        if status.success() {
            Ok(begun.elapsed())
        } else {
            Err(LabError::Answer(format!("the bare command: {status}")))
        }
    }

    /// Runs it `count` times with `xargs`, `at_once` at a time.
    fn by_xargs(&self, count: usize, at_once: u64) -> Result<Duration> {
        let command = self.command();
        let quoted = |word: &std::ffi::OsStr| format!("'{}'", word.to_string_lossy().replace('\'', "'\\''"));
        let line: Vec<String> = std::iter::once(command.get_program()).chain(command.get_args()).map(quoted).collect();
        let script = self.scratch.path().join("bare.sh");
        let text = format!("#!/bin/sh\nexec {} </dev/null >/dev/null 2>&1\n", line.join(" "));
        std::fs::write(&script, text).map_err(LabError::io("write a script"))?;
        let begun = Instant::now();
        let line = format!("seq {count} | xargs -P {at_once} -I N sh {}", script.display());
        let status = Command::new("sh").args(["-c", &line]).status().map_err(LabError::io("start xargs"))?;
        if status.success() { Ok(begun.elapsed()) } else { Err(LabError::Answer(format!("xargs: {status}"))) }
    }
}

fn job() -> Value {
    json!({"language": "shell", "source": "true"})
}

/// Jobs and bare commands, alternating.
fn overhead(cluster: &Cluster, bare: &Bare, count: usize, progress: &Progress) -> Result<Vec<Finding>> {
    progress
        .begin_counted(&format!("{count} jobs one after another, each compared with the bare command"), count as u64);
    let follower = (1..=NODES).find(|id| Some(*id) != cluster.leader()).unwrap_or(1);
    let mut connection = Connection::open(&cluster.http(follower), PATIENCE).map_err(LabError::io("connect"))?;
    let (mut bares, mut jobs) = (Vec::new(), Vec::new());
    for _ in 0..count {
        bares.push(ms(bare.run()?));
        let begun = Instant::now();
        let answer = connection.ask("POST", "/v1/jobs?wait=30s", Some(&job()), Instant::now() + PATIENCE);
        let answer = answer.map_err(LabError::io("submit a job"))?;
        if answer.json()["state"] != "finished" {
            return Err(LabError::Answer(format!("a job ended with {}", answer.text())));
        }
        jobs.push(ms(begun.elapsed()));
        progress.advance(1);
    }
    let beyond: Vec<f64> = jobs.iter().zip(&bares).map(|(job, bare)| job - bare).collect();
    Ok(vec![
        comparison("bare command in its sandbox", "ms", &bares),
        comparison("job, from submit to result, through a follower", "ms", &jobs),
        finding("overhead of a job", "ms", &beyond, "median <= 10", |median, _| median <= 10.0),
    ])
}

/// Many jobs at once compared with `xargs` with as many slots, alternating.
fn throughput(cluster: &Cluster, bare: &Bare, count: usize, progress: &Progress) -> Result<Vec<Finding>> {
    let (mut by_xargs, mut by_jobs) = (Vec::new(), Vec::new());
    for round in 1..=3 {
        progress.begin(&format!("{count} jobs at once, round {round}: xargs -P {}, then the cluster", NODES * SLOTS));
        by_xargs.push(count as f64 / bare.by_xargs(count, NODES * SLOTS)?.as_secs_f64());
        let begun = Instant::now();
        let newest = submit(cluster, count)?;
        // Waiting costs the nodes nothing; a client that polled every few milliseconds would affect the measurement.
        let mut jobs = Jobs::new(cluster.addresses());
        jobs.ended(newest, Instant::now() + 10 * PATIENCE)?;
        wait_empty(cluster, 10 * PATIENCE)?;
        by_jobs.push(count as f64 / begun.elapsed().as_secs_f64());
    }
    let ratio = 100.0 * median(&by_jobs) / median(&by_xargs);
    Ok(vec![
        comparison("xargs, sandboxed commands", "per s", &by_xargs),
        comparison("jobs", "per s", &by_jobs),
        finding("jobs against xargs", "%", &[ratio], ">= 80", |median, _| median >= 80.0),
    ])
}

/// Submits jobs on several connections to all nodes in turn; returns the id of the newest.
fn submit(cluster: &Cluster, count: usize) -> Result<u64> {
    let addresses = cluster.addresses();
    let (to, done) = crossbeam_channel::bounded(HANDS);
    for hand in 0..HANDS {
        let (address, to) = (addresses[hand % addresses.len()].clone(), to.clone());
        let share = count / HANDS + usize::from(hand < count % HANDS);
        let work = move || drop(to.send(submit_on(&address, share)));
        crate::node::spawn::spawn("hand", work).map_err(LabError::io("start a thread"))?;
    }
    drop(to);
    done.iter().try_fold(0, |newest, done| Ok(newest.max(done?)))
}

fn submit_on(address: &str, count: usize) -> Result<u64> {
    let mut newest = 0;
    let mut connection = Connection::open(address, PATIENCE).map_err(LabError::io("connect"))?;
    for _ in 0..count {
        let answer = connection.ask("POST", "/v1/jobs", Some(&job()), Instant::now() + PATIENCE);
        let answer = answer.map_err(LabError::io("submit a job"))?;
        if answer.status != 202 {
            return Err(LabError::Answer(format!("a job was answered {}: {}", answer.status, answer.text())));
        }
        newest = answer.json()["id"].as_u64().unwrap_or(newest);
    }
    Ok(newest)
}

/// Waits until all jobs have ended.
fn wait_empty(cluster: &Cluster, within: Duration) -> Result<()> {
    cluster.wait_explained("every job has ended", within, || {
        let leader = cluster.leader().ok_or("there is no leader")?;
        // A leader that has just started may not have applied all of its log: a linearizable read waits until it has.
        let read = cluster.get(leader, "/v1/jobs?limit=1").map_err(|e| e.to_string())?;
        if read.status != 200 {
            return Err(format!("node {leader} answered {}", read.text()));
        }
        let jobs = cluster.status(leader).map_err(|e| e.to_string())?.jobs;
        let open = jobs.queued + jobs.running;
        if open == 0 { Ok(()) } else { Err(format!("{open} have not")) }
    })
}

/// Kills a worker with a job and measures the time until the job restarts on another node.
fn restarts(cluster: &mut Cluster, rounds: u64, progress: &Progress) -> Result<Finding> {
    let mut samples = Vec::new();
    let long = json!({"language": "shell", "source": "sleep 2"});
    for round in 1..=rounds {
        let mut jobs = Jobs::new(cluster.addresses());
        let id = jobs.submit(&long, Instant::now() + PATIENCE)?;
        let victim = cluster.wait_until("the job runs", PATIENCE, || {
            let job = cluster.get(1, &format!("/v1/jobs/{id}")).ok()?.json();
            job["worker"].as_u64()
        })?;
        progress.begin(&format!("kill -9 of node {victim} with a job, round {round}"));
        let killed_ms = now_ms();
        cluster.kill_now(victim)?;
        let other = (1..=NODES).find(|id| *id != victim).unwrap_or(1);
        let since = cluster.wait_until("the job restarts on another node", PATIENCE, || {
            let job = cluster.get(other, &format!("/v1/jobs/{id}")).ok()?.json();
            job["since_ms"].as_f64().filter(|_| job["attempt"] == 2)
        })?;
        samples.push(since - killed_ms);
        cluster.restart(victim)?;
        cluster.settle()?;
        wait_workers(cluster, NODES)?;
        jobs.ended(id, Instant::now() + PATIENCE)?;
    }
    Ok(finding("worker killed -> its job restarts elsewhere", "ms", &samples, "each <= 1000", |_, worst| {
        worst <= 1000.0
    }))
}

/// Kills all nodes while a long queue of jobs runs, restarts them, and checks that each job ends once.
fn queue(cluster: &mut Cluster, count: usize, progress: &Progress) -> Result<Vec<Finding>> {
    progress.begin(&format!("{count} jobs in the queue, kill -9 of all nodes, restart"));
    let mut jobs = Jobs::new(cluster.addresses());
    let before: usize = jobs.all(Instant::now() + PATIENCE)?.len();
    let begun = Instant::now();
    submit(cluster, count)?;
    let handing_in = begun.elapsed().as_secs_f64();
    let ended_before = ends(&jobs.all(Instant::now() + PATIENCE)?);
    for id in 1..=NODES {
        cluster.kill(id)?;
    }
    let begun = Instant::now();
    for id in 1..=NODES {
        cluster.spawn(id, &[])?;
    }
    cluster.settle()?;
    let back = begun.elapsed().as_secs_f64();
    wait_empty(cluster, 20 * PATIENCE)?;
    let done = begun.elapsed().as_secs_f64();
    let all = jobs.all(Instant::now() + PATIENCE)?;
    let after = ends(&all);
    let wrong = all.iter().filter(|job| job["state"] != "finished" || job["exit_code"] != 0).count();
    let changed = ended_before.iter().filter(|(id, end)| after.get(*id) != Some(end)).count();
    let lost = (before + count).abs_diff(all.len());
    Ok(vec![
        comparison("submitting the queue", "jobs/s", &[count as f64 / handing_in]),
        comparison("in the queue when all were killed", "jobs", &[(before + count - ended_before.len()) as f64]),
        comparison("all nodes back", "s", &[back]),
        comparison("queue done after the restart", "s", &[done]),
        finding(
            "jobs lost, duplicated, wrong or ended twice",
            "jobs",
            &[(lost + wrong + changed) as f64],
            "0",
            |n, _| n == 0.0,
        ),
    ])
}

/// The end time and attempt of each job that has ended.
fn ends(all: &[Value]) -> BTreeMap<u64, (Value, Value)> {
    let ended = all.iter().filter(|job| !job["ended_ms"].is_null());
    ended.filter_map(|job| Some((job["id"].as_u64()?, (job["ended_ms"].clone(), job["attempt"].clone())))).collect()
}

fn ms(span: Duration) -> f64 {
    span.as_secs_f64() * 1000.0
}

fn now_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, ms)
}
