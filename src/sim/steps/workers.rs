//! Virtual workers: each process runs the jobs that the log gives to it, as `node/threads/worker.rs` does, in virtual
//! time.
//!
//! A process draws an identity, and joins once it is a member and a linearizable read has shown that it can follow the
//! log: otherwise it would be assigned jobs that it never learns of. It compares the jobs that the applied job table
//! assigns to it with those that it runs: starts new ones, stops those that are no longer assigned to it, and reports
//! ends until the log has them or the job is assigned elsewhere. All of that is lost with the process. A program is a
//! duration and an output that names job, attempt and worker. Some never begin, because their sandbox does not start:
//! those are given back. The output of a stopped one is reported as well. The leader checks workers by the real rule,
//! on its own evidence: broken links, and silence.
//! Not here: assignment (`services/jobs/`), liveness of workers (`cluster/worker_liveness.rs`), the checks
//! (`sim/checks/jobs_checker.rs`).

use crate::cluster::worker_liveness::{Patience, WorkerLiveness};
use crate::raft::Input;
use crate::services::jobs::{self, End, JobId, JobOutcome, State};
use crate::services::sessions::Tag;
use crate::sim::checks::jobs_checker::output_of;
use crate::sim::environment::plan::TICK_US;
use crate::sim::events::SimEvent;
use crate::sim::model::host::Ask;
use crate::sim::model::services::{Body, Command};
use crate::sim::model::worker::{Key, UnreportedEnd, Worker};
use crate::sim::violation::CheckResult;
use crate::sim::world::World;
use crate::types::{Identity, NodeId, Ticks};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// Attempts of workers and leaders are numbered from here, above those of all clients.
pub(crate) const FIRST_WORD: u64 = 1 << 63;
/// One sandbox of so many does not start.
const BROKEN_SANDBOXES: u64 = 8;
/// A time that does not come.
const NEVER: u64 = u64::MAX / 2;

impl World {
    fn worker(&mut self, node: usize) -> Option<&mut Worker> {
        self.hosts[node].process.as_mut()?.worker.as_mut()
    }

    /// A process that has just started gets its worker.
    pub fn start_worker(&mut self, node: usize) {
        let Some(plan) = self.plan.jobs.as_ref().filter(|_| !self.hosts[node].is_witness) else { return };
        let (uuid, origin) = (Uuid::from_u128(self.rng.u128(..)), Uuid::from_u128(self.rng.u128(..)));
        let ready_at = self.now + self.rng.u64(0..=plan.ready_us);
        let (slots, languages) = &plan.workers[node];
        let keeps = self.bugs.host.worker_keeps_identity;
        let host = &mut self.hosts[node];
        let uuid = if keeps { host.identity.uuid } else { uuid };
        let Some(process) = host.process.as_mut() else { return };
        process.worker = Some(Worker {
            who: Identity { id: host.identity.id, uuid },
            origin,
            slots: *slots,
            runtimes: languages.iter().map(|language| language.to_string()).collect(),
            next_join: ready_at,
            running: BTreeMap::new(),
            unreported: BTreeMap::new(),
            number: 0,
            look_at: None,
            turn: 0,
            worker_liveness: WorkerLiveness::default(),
            next_worker_check: 0,
        });
        self.look_at(node, ready_at);
    }

    /// Schedules the next check of a worker at this time, if none is earlier.
    fn look_at(&mut self, node: usize, at: u64) {
        let life = self.hosts[node].life;
        let Some(worker) = self.worker(node) else { return };
        if worker.look_at.is_none_or(|settled| settled > at) {
            worker.look_at = Some(at);
            self.at(at, SimEvent::Work { node, life });
        }
    }

    /// Entries were applied: if the job table has changed, its worker checks soon.
    pub fn maybe_wake_worker(&mut self, node: usize) {
        let Some(process) = self.hosts[node].process.as_ref() else { return };
        if process.worker.as_ref().is_some_and(|worker| worker.turn != process.service.jobs().turn()) {
            let delay = self.rng.u64(0..2_000);
            self.look_at(node, self.now + delay);
        }
    }

    /// A worker compares the jobs that it runs with those assigned to it.
    pub fn on_work(&mut self, node: usize) -> CheckResult {
        let (now, life, bugs) = (self.now, self.hosts[node].life, self.bugs.host);
        let Some(plan) = &self.plan.jobs else { return Ok(()) };
        let (least_us, most_us) = plan.run_us;
        let Some(process) = self.hosts[node].process.as_mut() else { return Ok(()) };
        let Some(worker) = process.worker.as_mut() else { return Ok(()) };
        if worker.look_at.is_none_or(|at| at > now) {
            return Ok(());
        }
        worker.look_at = None;
        let table = process.service.jobs();
        worker.turn = table.turn();
        let mine: BTreeSet<Key> = table.work_of(worker.who).into_iter().collect();
        let am_here = is_here(table, worker.who);
        let who = worker.who;
        let (stopped, begun) = worker.compare(&mine, bugs.lost_worker_goes_on);
        for (job, attempt) in stopped {
            // A stopped program takes time to end as well.
            let delay = self.rng.u64(100..3_000);
            self.after(delay, SimEvent::Ended { node, life, job, attempt });
        }
        for (job, attempt) in begun {
            self.note(|_| format!("n{} begins attempt {attempt} at job {job}", node + 1));
            let has_started = !is_sandbox_broken(job, attempt, who);
            self.client_checker.jobs_checker.on_begun(who, job, attempt, has_started)?;
            let delay = self.rng.u64(least_us..=most_us);
            self.after(delay, SimEvent::Ended { node, life, job, attempt });
        }
        self.report_ends(node)?;
        if self.is_alive(node, life) && !am_here {
            self.maybe_join(node)?;
        }
        if self.is_alive(node, life) {
            self.schedule_retry(node, am_here);
        }
        Ok(())
    }

    /// A program has ended, or was stopped.
    pub fn on_ended(&mut self, node: usize, key: Key) -> CheckResult {
        let (now, bugs) = (self.now, self.bugs.host);
        let Some(worker) = self.worker(node) else { return Ok(()) };
        let Some(is_cancelled) = worker.running.remove(&key) else { return Ok(()) };
        let ((job, attempt), worker_id) = (key, worker.who);
        let has_started = !is_sandbox_broken(job, attempt, worker_id);
        let stdout = output_of(job, attempt, worker_id).into_bytes().into();
        let command = match (has_started, is_cancelled) {
            (true, false) => {
                let end = End { exit_code: Some(0), stdout, ..End::bare(JobOutcome::Finished) };
                Some(jobs::Command::End { job, worker: worker_id, attempt, end })
            }
            (true, true) => {
                let stderr = Default::default();
                Some(jobs::Command::Printed { job, worker: worker_id, attempt, stdout, stderr })
            }
            (false, false) if bugs.failed_sandbox_is_a_result => {
                let end = End { exit_code: Some(1), ..End::bare(JobOutcome::Finished) };
                Some(jobs::Command::End { job, worker: worker_id, attempt, end })
            }
            (false, false) => {
                let why = "no namespaces".to_string();
                Some(jobs::Command::GiveBack { job, worker: worker_id, attempt, why })
            }
            (false, true) => None,
        };
        if let Some(command) = command {
            let is_past = is_cancelled;
            worker.unreported.insert(key, UnreportedEnd { command, is_past, tag: None, next_try: now });
        }
        self.look_at(node, now);
        Ok(())
    }

    /// The result of a reported end: the log has it, or may not have it. In both cases the worker remembers it until
    /// its job table shows the end: otherwise the attempt would be started again.
    pub fn on_end_reported(&mut self, node: usize, key: Key, is_taken: bool) {
        let Some(plan) = &self.plan.jobs else { return };
        let is_settled = is_taken || self.bugs.host.ends_are_told_once;
        let at = if is_settled { NEVER } else { self.now + plan.again_us };
        let Some(worker) = self.worker(node) else { return };
        let Some(unreported) = worker.unreported.get_mut(&key) else { return };
        unreported.next_try = at;
        if is_settled && unreported.is_past {
            worker.unreported.remove(&key);
        }
        if at < NEVER {
            self.look_at(node, at);
        }
    }

    fn report_ends(&mut self, node: usize) -> CheckResult {
        let (now, life) = (self.now, self.hosts[node].life);
        let patience = if self.bugs.host.ends_are_told_once { NEVER } else { self.plan.deadline_us * 2 };
        let Some(worker) = self.worker(node) else { return Ok(()) };
        let due = worker.unreported.iter().filter(|(_, unreported)| unreported.next_try <= now).map(|(key, _)| *key);
        for key in due.collect::<Vec<_>>() {
            // A node sends a command again under its old name; a worker that has given up waiting proposes it under a
            // new one.
            let is_renamed = self.rng.bool();
            let Some(worker) = self.worker(node) else { return Ok(()) };
            let fresh = worker.tag();
            let Some(unreported) = worker.unreported.get_mut(&key) else { continue };
            unreported.next_try = now.saturating_add(patience);
            let tag = *unreported.tag.get_or_insert(fresh);
            let tag = if is_renamed { fresh } else { tag };
            unreported.tag = Some(tag);
            let command = unreported.command.clone();
            self.submit(node, tag, command, Some(key))?;
            if !self.is_alive(node, life) {
                return Ok(());
            }
        }
        Ok(())
    }

    fn maybe_join(&mut self, node: usize) -> CheckResult {
        let (now, patience_us) = (self.now, self.plan.deadline_us);
        let Some(again_us) = self.plan.jobs.as_ref().map(|plan| plan.again_us) else { return Ok(()) };
        let me = self.hosts[node].identity;
        let Some(process) = self.hosts[node].process.as_mut() else { return Ok(()) };
        let Some(worker) = process.worker.as_mut().filter(|worker| worker.next_join <= now) else { return Ok(()) };
        worker.next_join = now + again_us;
        let view = process.raft.view();
        if view.leader.is_none() || view.membership.uuid_of(me.id) != Some(me.uuid) {
            return Ok(());
        }
        worker.next_join = now + patience_us;
        if self.bugs.host.joins_without_a_read {
            return self.join(node);
        }
        let token = process.token(Ask::Join);
        self.step(node, Input::Read { token })
    }

    /// A linearizable read was served: this node follows the log. It joins unless it has meanwhile.
    pub fn join(&mut self, node: usize) -> CheckResult {
        let Some(process) = self.hosts[node].process.as_mut() else { return Ok(()) };
        let Some(worker) = process.worker.as_mut() else { return Ok(()) };
        if is_here(process.service.jobs(), worker.who) {
            return Ok(());
        }
        let (slots, runtimes) = (worker.slots, worker.runtimes.clone());
        let command = jobs::Command::Join { worker: worker.who, slots, runtimes, trouble: None };
        let tag = worker.tag();
        self.submit(node, tag, command, None)
    }

    /// Schedules the next check for when something is to be tried again.
    fn schedule_retry(&mut self, node: usize, am_here: bool) {
        let Some(worker) = self.worker(node) else { return };
        let join = (!am_here).then_some(worker.next_join);
        let soonest = worker.unreported.values().map(|unreported| unreported.next_try).chain(join).min();
        if let Some(at) = soonest.filter(|at| *at < NEVER) {
            self.look_at(node, at);
        }
    }

    /// A node's own command, about an end or not.
    fn submit(&mut self, node: usize, tag: Tag, command: jobs::Command, about: Option<Key>) -> CheckResult {
        self.words += 1;
        let attempt = FIRST_WORD + self.words;
        self.note(|_| format!("n{} says {command:?}", node + 1));
        let command = Command { attempt, at_ms: 0, tag, body: Body::Jobs(command) };
        self.hand_in(node, Ask::Work { attempt, about }, command)
    }

    /// A node is notified about a link: evidence for the check of workers.
    pub fn note_link(&mut self, node: usize, about: usize, is_up: bool) -> CheckResult {
        let life = self.hosts[node].life;
        let is_there = self.hosts[about].process.is_some() && !self.hosts[about].is_left_out;
        let Some(worker) = self.worker(node) else { return Ok(()) };
        let id = NodeId(about as u64 + 1);
        if is_up {
            worker.worker_liveness.mark_reachable(id);
            return Ok(());
        }
        worker.worker_liveness.mark_lost(id);
        if self.in_liveness_phase && is_there {
            // Reports about links may overtake each other; the node learns the true state when it tries to connect.
            self.after(5_000, SimEvent::Link { node, life, about, is_up: true });
        }
        self.check_workers(node)
    }

    /// The leader checks workers at intervals.
    pub fn maybe_check_workers(&mut self, node: usize) -> CheckResult {
        let now = self.now;
        let Some(again_us) = self.plan.jobs.as_ref().map(|plan| plan.again_us) else { return Ok(()) };
        let Some(worker) = self.worker(node).filter(|worker| worker.next_worker_check <= now) else { return Ok(()) };
        worker.next_worker_check = now + again_us;
        self.check_workers(node)
    }

    /// On the leader: declares workers gone, so that their jobs are assigned to others.
    fn check_workers(&mut self, node: usize) -> CheckResult {
        let (now, life, bugs) = (Ticks(self.now / TICK_US), self.hosts[node].life, self.bugs.host);
        let Some(silent_max) = self.plan.jobs.as_ref().map(|plan| plan.fail_after_ticks) else { return Ok(()) };
        let still_max = if bugs.stuck_are_not_gone { Ticks(NEVER) } else { silent_max };
        let patience = Patience { silent_max, still_max, again: self.plan.election_timeout_ticks };
        let Some(process) = self.hosts[node].process.as_mut() else { return Ok(()) };
        let Some(worker) = process.worker.as_mut() else { return Ok(()) };
        let workers = process.service.jobs().workers();
        let here: Vec<Identity> = workers.filter(|worker| worker.is_here).map(|worker| worker.who).collect();
        let due = worker.worker_liveness.due(&process.raft.view(), now, patience, &here);
        for who in due.into_iter().filter(|_| !bugs.nobody_is_gone) {
            let Some(worker) = self.worker(node) else { return Ok(()) };
            let tag = worker.tag();
            self.coverage.workers_gone += 1;
            self.submit(node, tag, jobs::Command::Leave { worker: who, is_lost: true }, None)?;
            if !self.is_alive(node, life) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Additional time that jobs may need at the end of a run: all that wait may share one slot, and restart when their
    /// worker turns out to be gone.
    pub fn jobs_us(&self) -> u64 {
        let Some(plan) = &self.plan.jobs else { return 0 };
        let lost_us = (plan.fail_after_ticks.0 + self.plan.election_timeout_ticks.0) * TICK_US;
        plan.open_max as u64 * 3 * (plan.run_us.1 + self.plan.deadline_us * 2)
            + (lost_us + plan.ready_us + plan.again_us) * 4
    }

    /// In the liveness phase: a member that should be a worker and is not, or a job that a worker should have run.
    pub fn job_that_is_missing(&self, leader: usize) -> Option<String> {
        self.plan.jobs.as_ref()?;
        let process = self.hosts[leader].process.as_ref()?;
        let (table, membership) = (process.service.jobs(), process.raft.view().membership);
        for (node, host) in self.hosts.iter().enumerate().filter(|(_, host)| !host.is_left_out) {
            let is_member = membership.uuid_of(host.identity.id) == Some(host.identity.uuid);
            let Some(worker) = host.process.as_ref().and_then(|process| process.worker.as_ref()) else { continue };
            if is_member && !is_here(table, worker.who) && !self.has_no_peer_to_ask(node) {
                return Some(format!("n{} is a member and does not work", node + 1));
            }
        }
        // A worker that stays broken is declared gone as soon as the leader can know: when it lacks what is
        // committed, or falls silent.
        let view = process.raft.view();
        for worker in table.workers().filter(|worker| worker.is_here && Some(worker.who.id) != view.leader) {
            let is_left_out = self.hosts[worker.who.id.0 as usize - 1].is_left_out;
            let is_fit = view
                .peers
                .iter()
                .any(|peer| peer.who.id == worker.who.id && peer.is_active && peer.match_index >= view.commit_index);
            if is_left_out && !is_fit {
                return Some(format!("n{} is out of order and counts as a worker", worker.who.id.0));
            }
        }
        for id in self.client_checker.jobs_checker.open_jobs() {
            let Some(job) = table.job(id) else { continue };
            let takers =
                table.workers().filter(|worker| worker.is_here && worker.runtimes.contains(&job.request.language));
            match &job.state {
                State::Queued if takers.count() == 0 => {}
                state => return Some(format!("job {id} has not ended: {state:?}, begun {} times", job.attempt)),
            }
        }
        None
    }
}

/// Whether this attempt's program never begins. Derived without a random draw, so that seeds stay what they were.
fn is_sandbox_broken(job: JobId, attempt: u32, who: Identity) -> bool {
    (who.uuid.as_u128() as u64 ^ job ^ (u64::from(attempt) << 3)).is_multiple_of(BROKEN_SANDBOXES)
}

fn is_here(table: &jobs::JobTable, who: Identity) -> bool {
    table.workers().any(|worker| worker.who == who && worker.is_here)
}
