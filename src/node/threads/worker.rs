//! The `worker` thread: runs the jobs that the log assigns to this node, each on its own thread, and reports how they
//! ended. On a gateway or witness, or where jobs are off, it only ensures that no earlier process of this node keeps any.
//!
//! `apply` publishes the jobs after each change. An attempt that is assigned to this process and does not run is
//! started; one that runs and is no longer assigned to it is stopped at once. So a node that was declared lost and
//! returns drops the jobs that other nodes have by now. Ends are proposed until the log has them or assigns the job to
//! another worker.
//!
//! Invariants: W1 an attempt is begun once by a process. W2 no more programs run at once than there are slots, also
//! while one that was stopped has not ended yet. W3 no program runs longer than this thread; if the process is killed,
//! the system ends its programs (`work/sandbox.rs`).
//! Not here: assigning jobs (`services/jobs/`), lost workers (`node/threads/core/`), sandboxes and compilers (`work/`).

use crate::node::shared::Shared;
use crate::node::shared::messages::WorkerInput;
use crate::node::shared::request::{Ack, Answered, Level, Operation, ReplyTo, Waiter};
use crate::node::spawn;
use crate::node::views::jobs::{AssignedAttempt, JobsView};
use crate::node::views::live_output::Output;
use crate::outcome::Outcome;
use crate::services::Replicated;
use crate::services::jobs::JobTable;
use crate::services::jobs::commands::LIMITS_MOST;
use crate::services::jobs::{Command, End, JobId, JobOutcome, Query};
use crate::settings::SandboxKind;
use crate::types::{Identity, NodeKind, ProcessLimit};
use crate::wire::heartbeat::JobReport;
use crate::work::WorkError;
use crate::work::leftovers;
use crate::work::run::Attempt;
use crate::work::runtimes::{self, AvailableRuntime};
use crate::work::sandbox::Sandbox;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use log::{info, warn};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Time between two tries to join, and to report an end that was not accepted.
const AGAIN_AFTER: Duration = Duration::from_millis(200);
/// Time between two checks when nothing is to be tried again.
const CHECK_EVERY: Duration = Duration::from_secs(5);
/// Time between two tries whether a sandbox can be built where none could.
const PROBE_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// How long programs that were stopped may take to end when the node stops.
const WIND_DOWN: Duration = Duration::from_secs(2);

/// A program that runs, or is being stopped.
struct Running {
    slot: u32,
    is_cancelled: Arc<AtomicBool>,
}

/// How an attempt ended, or what it had printed when it was stopped, until the log has it.
struct PendingEnd {
    command: Vec<u8>,
    /// The attempt is no longer this worker's: its output is dropped as soon as it is in the log.
    is_past: bool,
    /// `None`: it is in the log, and is kept until this node's copy of the jobs shows it: otherwise the attempt would
    /// be started again.
    next_try: Option<Instant>,
}

struct Worker {
    shared: Arc<Shared>,
    inbox: Sender<WorkerInput>,
    /// Where scratch folders are made.
    scratch: PathBuf,
    sandbox: Option<Sandbox>,
    found: BTreeMap<String, AvailableRuntime>,
    /// Why this node can run nothing.
    trouble: Option<String>,
    /// The machine was probed.
    is_ready: bool,
    next_join: Instant,
    next_leave: Instant,
    /// When it is tried again whether a sandbox can be built; `None`: one can be, or this is being tried.
    next_probe: Option<Instant>,
    is_probing: bool,
    running: BTreeMap<(JobId, u32), Running>,
    pending_ends: BTreeMap<(JobId, u32), PendingEnd>,
}

/// Body of the thread.
pub fn run(shared: &Arc<Shared>, inbox: &Receiver<WorkerInput>) {
    let mut worker = Worker {
        shared: Arc::clone(shared),
        inbox: shared.inboxes.worker.clone(),
        scratch: leftovers::jobs_dir(&shared.dir.join("jobs"), &shared.me.uuid.simple().to_string()),
        sandbox: None,
        found: BTreeMap::new(),
        trouble: None,
        is_ready: false,
        next_join: Instant::now(),
        next_leave: Instant::now(),
        next_probe: None,
        is_probing: false,
        running: BTreeMap::new(),
        pending_ends: BTreeMap::new(),
    };
    worker.clear_scratch();
    leftovers::remove_abandoned();
    let held = leftovers::hold(&worker.scratch);
    if let Err(e) = &held {
        warn!("cannot create the folder for jobs path={} err={e}", worker.scratch.display());
    }
    match (shared.kind, shared.settings.has_jobs()) {
        (NodeKind::Gateway, _) => info!("this node is a gateway: it serves clients, but does not vote or run jobs"),
        (NodeKind::Witness, _) => {
            info!("this node is a witness: it votes and keeps the end of the log, but no data, and serves no clients");
        }
        (NodeKind::Full, false) => info!("jobs are disabled (setting jobs_enabled)"),
        (NodeKind::Full, true) => worker.probe(),
    }
    loop {
        match inbox.recv_deadline(worker.next_check()) {
            Ok(WorkerInput::JobsChanged) | Err(RecvTimeoutError::Timeout) => {}
            Ok(WorkerInput::Ready { sandbox, found }) => worker.on_ready(sandbox, found),
            Ok(WorkerInput::Ended { job, attempt, end }) => worker.on_ended(job, attempt, end),
            Ok(WorkerInput::EndAnswered { job, attempt, is_taken }) => {
                worker.on_end_answered((job, attempt), is_taken);
            }
            Ok(WorkerInput::Sandbox(sandbox)) => worker.on_sandbox(sandbox),
            Ok(WorkerInput::Current) if shared.jobs().am_here => {}
            Ok(WorkerInput::Current) => worker.propose_join(),
            Ok(WorkerInput::Stop) | Err(RecvTimeoutError::Disconnected) => return worker.wind_down(inbox),
        }
        worker.reconcile();
    }
}

impl Worker {
    /// Cleans up after an earlier process that was killed: ends its programs now, and removes its folders in the
    /// background.
    fn clear_scratch(&self) {
        let old = match leftovers::reset_jobs_dir(&self.scratch) {
            Ok(old) => old,
            Err(e) => return warn!("cannot create the folder for jobs path={} err={e}", self.scratch.display()),
        };
        if old.is_empty() {
            return;
        }
        let started =
            spawn::spawn_with_retries("old-jobs", move || old.iter().for_each(|path| leftovers::remove_old(path)));
        if let Err(e) = started {
            warn!("cannot start a thread to remove folders of old jobs; they stay until the next start err={e}");
        }
    }

    /// Tries the sandbox, then looks for compilers at low priority, because a node that starts has more urgent work.
    fn probe(&self) {
        let (kind, wanted) = (self.shared.settings.jobs_sandbox, self.shared.settings.runtimes.clone());
        let (inbox, jobs) = (self.inbox.clone(), self.scratch.clone());
        let started = spawn::spawn("probe", move || {
            let sandbox = Sandbox::try_out(kind, &jobs).map_err(|e| e.to_string());
            spawn::give_way();
            let found = if sandbox.is_ok() { runtimes::find(&wanted) } else { Vec::new() };
            let _ = inbox.send(WorkerInput::Ready { sandbox, found });
        });
        if let Err(e) = started {
            warn!("cannot start a thread to look for compilers; this node runs no jobs err={e}");
        }
    }

    fn on_ready(&mut self, sandbox: Result<Sandbox, String>, found: Vec<AvailableRuntime>) {
        self.is_ready = true;
        match sandbox {
            Ok(sandbox) => (self.sandbox, self.trouble) = (Some(sandbox), None),
            Err(why) => {
                self.next_probe = Some(Instant::now() + PROBE_AGAIN_AFTER);
                warn!("{why}");
                self.shared.event("failure", Some(self.shared.me.id), format!("node {}: {why}", self.shared.me.id.0));
                self.trouble = Some(why);
            }
        }
        if self.sandbox.as_ref().is_some_and(|sandbox| sandbox.kind() == SandboxKind::Limits) {
            warn!("jobs_sandbox is \"limits\": jobs can read and change everything that this node can");
        }
        self.found = found.into_iter().map(|found| (found.runtime.language.clone(), found)).collect();
        self.publish_runtimes();
        let languages: Vec<&str> = self.found.keys().map(String::as_str).collect();
        let limit = match self.sandbox.as_ref().map(Sandbox::process_limit) {
            Some(ProcessLimit::Kernel) => "; the kernel limits each job's processes",
            Some(ProcessLimit::Watched) => "; no kernel limit on each job's processes: they are counted at intervals",
            None => "",
        };
        info!("jobs: {} slots, runtimes [{}]{limit}", self.shared.settings.slots(), languages.join(", "));
        if self.shared.jobs().am_here {
            // It joined when no sandbox could be built.
            self.propose_join();
        }
    }

    /// Reports to the other nodes which jobs this one can run.
    fn publish_runtimes(&self) {
        let found = self.found.values().filter(|_| self.sandbox.is_some());
        let runtimes = found.map(|found| (found.runtime.language.clone(), found.version.clone())).collect();
        let process_limit = self.sandbox.as_ref().map(Sandbox::process_limit);
        self.shared.set_job_report(JobReport { runtimes, process_limit });
    }

    /// A sandbox did not start: if none starts any more, this node is not a worker until one does again, and reports
    /// why. Otherwise jobs that cannot run here would still be assigned here, because they end here first.
    fn probe_again(&mut self) {
        if self.is_probing {
            return;
        }
        (self.is_probing, self.next_probe) = (true, None);
        let (kind, inbox, jobs) = (self.shared.settings.jobs_sandbox, self.inbox.clone(), self.scratch.clone());
        let started = spawn::spawn("probe", move || {
            let _ = inbox.send(WorkerInput::Sandbox(Sandbox::try_out(kind, &jobs).map_err(|e| e.to_string())));
        });
        if let Err(e) = started {
            self.on_sandbox(Err(format!("cannot start a thread to test the sandbox: {e}")));
        }
    }

    fn on_sandbox(&mut self, sandbox: Result<Sandbox, String>) {
        self.is_probing = false;
        let had_trouble = self.trouble.is_some();
        match sandbox {
            // No sandbox could be built until now, so compilers were not searched for yet.
            Ok(_) if self.found.is_empty() => return self.probe(),
            Ok(sandbox) => (self.sandbox, self.trouble) = (Some(sandbox), None),
            Err(why) => {
                self.next_probe = Some(Instant::now() + PROBE_AGAIN_AFTER);
                self.sandbox = None;
                if !had_trouble {
                    warn!("sandboxes no longer start: {why}");
                }
                self.trouble = Some(why);
            }
        }
        if had_trouble != self.trouble.is_some() {
            self.publish_runtimes();
            self.propose_join();
        }
    }

    fn next_check(&self) -> Instant {
        let view = self.shared.jobs();
        let join = (self.is_ready && !view.am_here).then_some(self.next_join);
        let leave = self.previous_incarnation(&view).map(|_| self.next_leave);
        let soonest = self
            .pending_ends
            .values()
            .filter_map(|pending| pending.next_try)
            .chain(join)
            .chain(leave)
            .chain(self.next_probe)
            .min();
        soonest.unwrap_or_else(|| Instant::now() + CHECK_EVERY)
    }

    /// Starts and stops attempts so that what runs is what the log assigns to this process.
    fn reconcile(&mut self) {
        let view = self.shared.jobs();
        let mine: BTreeSet<(JobId, u32)> = view.mine.iter().map(|task| (task.job, task.attempt)).collect();
        for (_, running) in self.running.iter().filter(|(key, _)| !mine.contains(key)) {
            running.is_cancelled.store(true, Ordering::Relaxed);
        }
        let is_settled = |key: &_, pending: &mut PendingEnd| !pending.is_past && !mine.contains(key);
        let settled: Vec<_> = self.pending_ends.extract_if(.., is_settled).collect();
        for ((job, attempt), _) in settled {
            self.shared.live.forget(job, attempt);
        }
        for task in &view.mine {
            let key = (task.job, task.attempt);
            if !self.running.contains_key(&key) && !self.pending_ends.contains_key(&key) {
                self.begin(task);
            }
        }
        let now = Instant::now();
        let is_due = |pending: &PendingEnd| pending.next_try.is_some_and(|at| at <= now);
        let due: Vec<_> =
            self.pending_ends.iter().filter(|(_, pending)| is_due(pending)).map(|(key, _)| *key).collect();
        due.into_iter().for_each(|key| self.propose_end(key));
        if self.is_ready && !view.am_here && self.next_join <= now {
            self.ask_to_join(now);
        }
        if self.next_probe.is_some_and(|at| at <= now) {
            self.probe_again();
        }
        if let Some(previous_incarnation) = self.previous_incarnation(&view).filter(|_| self.next_leave <= now) {
            self.next_leave = now + AGAIN_AFTER;
            if self.shared.view().raft.leader.is_some() {
                self.propose(&Command::Leave { worker: previous_incarnation, is_lost: true });
            }
        }
    }

    /// The earlier process of this node, if it is still registered as a worker: the leader cannot see that another
    /// process answers in its place, and this one may join late or never.
    fn previous_incarnation(&self, view: &JobsView) -> Option<Identity> {
        let me = self.shared.worker;
        view.here.iter().copied().find(|worker| worker.id == me.id && *worker != me)
    }

    /// A node that cannot follow the log (its disk hangs) would be assigned jobs of which it never hears: it joins only
    /// after a linearizable query has succeeded.
    fn ask_to_join(&mut self, now: Instant) {
        self.next_join = now + AGAIN_AFTER;
        let raft = &self.shared.view().raft;
        if raft.leader.is_none() || raft.membership.uuid_of(self.shared.me.id) != Some(self.shared.me.uuid) {
            return;
        }
        let deadline = self.shared.request_deadline();
        self.next_join = deadline;
        let operation =
            Operation::Query { query: JobTable::encode_query(&Query::Glance(0)), level: Level::Linearizable };
        let reply = ReplyTo::Callback(Box::new(ReadWaiter { inbox: self.inbox.clone() }));
        self.shared.inboxes.submit(operation, deadline, reply);
    }

    fn propose_join(&self) {
        let found = self.found.keys().filter(|_| self.sandbox.is_some());
        let command = Command::Join {
            worker: self.shared.worker,
            slots: u64::from(self.shared.settings.slots()),
            runtimes: found.cloned().collect(),
            trouble: self.trouble.clone(),
        };
        self.propose(&command);
    }

    fn propose(&self, command: &Command) {
        self.propose_encoded(JobTable::encode_command(command), ReplyTo::Discard);
    }

    fn propose_encoded(&self, command: Vec<u8>, reply: ReplyTo) {
        let deadline = self.shared.request_deadline();
        self.shared.inboxes.submit(Operation::Command { tag: None, command, ack: Ack::Applied }, deadline, reply);
    }

    /// Begins an attempt if there is a free slot; otherwise it begins when an attempt that was stopped has ended.
    fn begin(&mut self, task: &AssignedAttempt) {
        let taken: BTreeSet<u32> = self.running.values().map(|running| running.slot).collect();
        let Some(slot) = (0..self.shared.settings.slots()).find(|slot| !taken.contains(slot)) else { return };
        let (Some(sandbox), Some(found)) = (self.sandbox.clone(), self.found.get(&task.request.language).cloned())
        else {
            let why = self
                .trouble
                .clone()
                .unwrap_or_else(|| format!("the runtime {} is no longer available", task.request.language));
            return self.on_ended(task.job, task.attempt, Err(why));
        };
        let is_cancelled = Arc::<AtomicBool>::default();
        let output = self.shared.live.begin(task.job, task.attempt);
        let job = Job {
            task: task.clone(),
            sandbox,
            found,
            scratch: self.scratch.join(format!("{}-{}", task.job, task.attempt)),
            // Each slot of each node of a host has a user of its own.
            user: (self.shared.me.id.0 as u32).wrapping_mul(self.shared.settings.slots()).wrapping_add(slot),
            is_cancelled: Arc::clone(&is_cancelled),
            output,
        };
        let inbox = self.inbox.clone();
        // The program gives way to others (`work/sandbox.rs`), but this thread, which watches it, does not.
        let started = spawn::spawn(&format!("job-{slot}"), move || {
            let (job_id, attempt) = (job.task.job, job.task.attempt);
            let end = job.run().map_err(|e| e.to_string());
            // Fails when the worker thread has ended, and then the result is not needed.
            let _ = inbox.send(WorkerInput::Ended { job: job_id, attempt, end });
        });
        match started {
            Ok(_) => {
                self.running.insert((task.job, task.attempt), Running { slot, is_cancelled });
            }
            Err(e) => {
                self.on_ended(task.job, task.attempt, Err(format!("cannot start a thread: {e}")));
            }
        }
    }

    fn on_ended(&mut self, job: JobId, attempt: u32, end: Result<End, String>) {
        let was_cancelled =
            self.running.remove(&(job, attempt)).is_some_and(|running| running.is_cancelled.load(Ordering::Relaxed));
        let worker = self.shared.worker;
        let command = match end {
            Ok(end) if was_cancelled => {
                info!("job {job} attempt {attempt} was stopped: it is no longer assigned to this node");
                self.shared.live.forget(job, attempt);
                if end.bytes() == 0 {
                    return;
                }
                Command::Printed { job, worker, attempt, stdout: end.stdout, stderr: end.stderr }
            }
            Err(_) if was_cancelled => return self.shared.live.forget(job, attempt),
            Ok(end) => {
                let took_ms = end.compile_ms + end.run_ms;
                info!("job {job} attempt {attempt} ended: {} in {took_ms} ms", describe_end(&end));
                Command::End { job, worker, attempt, end }
            }
            Err(why) => {
                warn!("job {job} attempt {attempt} did not start and is returned to the queue: {why}");
                self.probe_again();
                Command::GiveBack { job, worker, attempt, why }
            }
        };
        let is_past = matches!(command, Command::Printed { .. });
        let pending =
            PendingEnd { command: JobTable::encode_command(&command), is_past, next_try: Some(Instant::now()) };
        self.pending_ends.insert((job, attempt), pending);
    }

    /// Whether the log has an end that was proposed.
    fn on_end_answered(&mut self, key: (JobId, u32), is_taken: bool) {
        let Some(pending) = self.pending_ends.get_mut(&key) else { return };
        pending.next_try = (!is_taken).then(|| Instant::now() + AGAIN_AFTER);
        if is_taken && pending.is_past {
            self.pending_ends.remove(&key);
        }
    }

    fn propose_end(&mut self, key: (JobId, u32)) {
        let patience = Duration::from_millis(self.shared.settings.request_timeout_ms) * 2;
        let Some(pending) = self.pending_ends.get_mut(&key) else { return };
        pending.next_try = Some(Instant::now() + patience);
        let command = pending.command.clone();
        let waiter = EndWaiter { inbox: self.inbox.clone(), job: key.0, attempt: key.1 };
        self.propose_encoded(command, ReplyTo::Callback(Box::new(waiter)));
    }

    /// Kills all programs, and reports that this process is no longer a worker, so that its jobs restart on others at
    /// once.
    fn wind_down(&mut self, inbox: &Receiver<WorkerInput>) {
        if self.shared.jobs().am_here {
            self.propose(&Command::Leave { worker: self.shared.worker, is_lost: false });
        }
        for running in self.running.values() {
            running.is_cancelled.store(true, Ordering::Relaxed);
        }
        let until = Instant::now() + WIND_DOWN;
        // The output until now is reported as well, if the leader accepts it in time.
        self.pending_ends.retain(|_, pending| pending.is_past);
        while !self.running.is_empty() || !self.pending_ends.is_empty() {
            match inbox.recv_deadline(until) {
                Ok(WorkerInput::Ended { job, attempt, end }) => {
                    self.on_ended(job, attempt, end);
                    if self.pending_ends.contains_key(&(job, attempt)) {
                        self.propose_end((job, attempt));
                    }
                }
                Ok(WorkerInput::EndAnswered { job, attempt, .. }) => drop(self.pending_ends.remove(&(job, attempt))),
                Ok(_) => {}
                Err(_) if self.running.is_empty() => break,
                Err(_) => return warn!("{} jobs did not end in time", self.running.len()),
            }
        }
        // A scratch folder outside the node's own folder is removed here alone. The next start creates it again.
        let _ = std::fs::remove_dir(&self.scratch);
        leftovers::remove_abandoned();
    }
}

/// Everything that one attempt's thread needs.
struct Job {
    task: AssignedAttempt,
    sandbox: Sandbox,
    found: AvailableRuntime,
    scratch: PathBuf,
    user: u32,
    is_cancelled: Arc<AtomicBool>,
    output: Arc<Output>,
}

impl Job {
    fn run(self) -> Result<End, WorkError> {
        let mut hear = |stream, bytes: &[u8]| self.output.append(stream, bytes);
        let attempt = Attempt {
            sandbox: &self.sandbox,
            found: &self.found,
            request: &self.task.request,
            limits: self.task.request.limits.within(LIMITS_MOST),
            scratch: self.scratch,
            slot: self.user,
            is_cancelled: &self.is_cancelled,
            hear: &mut hear,
        };
        let end = attempt.run();
        self.output.end();
        end
    }
}

/// Reports to the worker whether the log has an end.
#[derive(Debug)]
struct EndWaiter {
    inbox: Sender<WorkerInput>,
    job: JobId,
    attempt: u32,
}

impl Waiter for EndWaiter {
    fn answer(self: Box<Self>, answered: Answered) {
        // If the inbox is full, the end is proposed again later, which is harmless.
        let is_taken = matches!(answered, Outcome::Done(_));
        let _ = self.inbox.try_send(WorkerInput::EndAnswered { job: self.job, attempt: self.attempt, is_taken });
    }
}

/// Reports to the worker that a linearizable read was answered.
#[derive(Debug)]
struct ReadWaiter {
    inbox: Sender<WorkerInput>,
}

impl Waiter for ReadWaiter {
    fn answer(self: Box<Self>, answered: Answered) {
        if let Outcome::Done(_) = answered {
            let _ = self.inbox.try_send(WorkerInput::Current);
        }
    }
}

/// An end as text: `finished, exit code 0`.
fn describe_end(end: &End) -> String {
    let how = match &end.outcome {
        JobOutcome::Failed(why) => return format!("failed ({why})"),
        outcome => outcome.word(),
    };
    match (end.exit_code, end.signal) {
        (Some(code), _) => format!("{how}, exit code {code}"),
        (None, Some(signal)) => format!("{how}, signal {signal}"),
        (None, None) => how.to_string(),
    }
}
