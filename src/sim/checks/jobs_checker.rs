//! The jobs checker: a simple model, updated entry by entry, of which worker has which job and how each job ended.
//!
//! The first node to apply an entry provides its job table. The jobs checker has the table before the entry and the
//! command, and derives which changes they allow; every other change is a violation. Other nodes must then have the
//! same table at the same index. A sandbox that did not start gives the job back and ends no attempt; the output of a
//! stopped attempt may be added later.
//! Rules: `JobEndsOnce`, `JobLost` (a job disappears before its end was kept long enough), `OneJobPerSubmission`,
//! `JobResult` (an end comes from the worker and attempt that had the job at that index, whose program began, with the
//! output of that attempt), `JobHeld` (only a joined worker has jobs, and gets a lost one's as another attempt),
//! `JobSlots`, `JobBegunOnce` (no attempt is begun twice, by no process), `JobTurn` (every change increases the turn).
//! Not here: whether all jobs end when the faults stop (`sim/steps/liveness.rs`), the invariants of the job table
//! (`JobTable::check`).

use crate::services::Reply;
use crate::services::jobs::commands::{LOSSES_MAX, SETBACKS_MAX};
use crate::services::jobs::{self, Answer, End, Job, JobId, JobOutcome, JobTable, State};
use crate::services::sessions::Tag;
use crate::sim::coverage::Coverage;
use crate::sim::model::services::{Applied, Body, Command};
use crate::sim::violation::{CheckResult, Name, name, violation};
use crate::types::{Identity, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A job at the newest index that any node has applied.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    attempt: u32,
    state: State,
    keep_ms: u64,
}

/// What every node must have at an index: the table's turn, the numbers of queued and running jobs, and the job that
/// the entry names.
type TableSummary = (u64, (usize, usize), Option<(JobId, Option<Row>)>);

/// A command of the jobs that took effect with this entry, and what it answered.
type Effect<'a> = Option<(&'a jobs::Command, Answer)>;

#[derive(Default)]
pub struct JobsChecker {
    rows: BTreeMap<JobId, Row>,
    newest: JobId,
    by_name: BTreeMap<Name, JobId>,
    /// Joined workers, with their slots.
    here: BTreeMap<NodeId, (Identity, u64)>,
    /// Number of joins and leaves so far.
    membership_changes: u64,
    /// Attempts that a worker has begun.
    begun: BTreeSet<(JobId, u32)>,
    /// Attempts whose sandbox started.
    started: BTreeSet<(JobId, u32)>,
    /// How often a job was given back.
    setbacks: BTreeMap<JobId, usize>,
    turn: u64,
    now_ms: u64,
    looks: BTreeMap<u64, TableSummary>,
    /// What happened.
    pub seen: Coverage,
}

/// The output of an attempt's program.
pub fn output_of(job: JobId, attempt: u32, worker: Identity) -> String {
    format!("job {job} in attempt {attempt} by {} of {}", worker.uuid, worker.id)
}

fn row(job: &Job) -> Row {
    Row { attempt: job.attempt, state: job.state.clone(), keep_ms: job.request.keep_ms }
}

impl Row {
    fn holder(&self) -> Option<Identity> {
        if let State::Assigned { worker, .. } = &self.state { Some(*worker) } else { None }
    }

    fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended { .. })
    }
}

/// Whether nothing has changed at a job that was cancelled but that its worker has added what was printed.
fn is_added(id: JobId, was: &Row, now: &Row, effect: &Effect<'_>) -> bool {
    let Some((jobs::Command::Printed { job, worker, attempt, stdout, .. }, Answer::Done)) = effect else {
        return false;
    };
    let State::Ended { end, worker: by, at_ms } = &was.state else { return false };
    let end = End { stdout: stdout.clone(), ..(**end).clone() };
    let expected = State::Ended { end: Arc::new(end), worker: *by, at_ms: *at_ms };
    *job == id
        && (*by, was.attempt) == (Some(worker.id), *attempt)
        && stdout[..] == *output_of(id, *attempt, *worker).as_bytes()
        && matches!(&was.state, State::Ended { end, .. } if end.outcome == JobOutcome::Cancelled && end.bytes() == 0)
        && now.state == expected
}

impl JobsChecker {
    /// Number of joins and leaves, repeated ones included.
    pub fn membership_changes(&self) -> u64 {
        self.membership_changes
    }

    /// Jobs that wait or run, at the newest index.
    pub fn open(&self) -> usize {
        self.rows.values().filter(|row| !row.has_ended()).count()
    }

    /// The same jobs.
    pub fn open_jobs(&self) -> impl Iterator<Item = JobId> {
        self.rows.iter().filter(|(_, row)| !row.has_ended()).map(|(id, _)| *id)
    }

    /// The first node has applied an entry.
    pub fn on_applied(&mut self, index: u64, applied: Option<&(Command, Applied)>, table: &JobTable) -> CheckResult {
        self.now_ms = self.now_ms.max(applied.map_or(0, |(command, _)| command.at_ms));
        let effect = match applied {
            Some((Command { body: Body::Jobs(command), tag, .. }, Applied { effect_at, reply: Reply::Ok(reply) }))
                if effect_at.0 == index =>
            {
                Answer::decode(reply).map(|answer| (tag, command, answer))
            }
            _ => None,
        };
        if effect.is_none() && table.turn() == self.turn {
            return Ok(());
        }
        let tag = effect.as_ref().map(|(tag, _, _)| **tag);
        let effect = effect.map(|(_, command, answer)| (command, answer));
        let left = self.update_members(&effect);
        let before = std::mem::take(&mut self.rows);
        let turn_before = std::mem::replace(&mut self.turn, table.turn());
        let mut has_changed = false;
        for (id, was) in before {
            let now = table.job(id).map(row);
            has_changed |= now.as_ref() != Some(&was);
            self.verify_change(index, id, &was, now.as_ref(), &effect, &left)?;
            self.rows.extend(now.map(|now| (id, now)));
        }
        has_changed |= self.verify_new(index, tag, &effect, table)?;
        self.verify_holders(index)?;
        if has_changed && turn_before == table.turn() {
            return violation!("JobTurn", "jobs change at {index} and the turn stays {turn_before}");
        }
        self.looks.insert(index, (table.turn(), table.counts(), self.named(&effect)));
        Ok(())
    }

    /// Another node has applied it too.
    pub fn on_applied_again(&self, index: u64, table: &JobTable) -> CheckResult {
        let Some((turn, counts, named)) = self.looks.get(&index) else { return Ok(()) };
        let is_same = *turn == table.turn()
            && *counts == table.counts()
            && named.as_ref().is_none_or(|(id, named)| table.job(*id).map(row) == *named);
        if is_same {
            return Ok(());
        }
        violation!("StateDigest", "two nodes that have applied {index} differ in their jobs: {named:?}")
    }

    /// A worker begins an attempt.
    pub fn on_begun(&mut self, who: Identity, job: JobId, attempt: u32, has_started: bool) -> CheckResult {
        self.seen.attempts += 1;
        if has_started {
            self.started.insert((job, attempt));
        }
        if self.begun.insert((job, attempt)) {
            return Ok(());
        }
        violation!("JobBegunOnce", "attempt {attempt} at job {job} is begun a second time, by {who:?}")
    }

    /// A client received the answer that its job was submitted.
    pub fn on_acknowledged(&self, tag: &Tag, reply: &[u8]) -> CheckResult {
        let Some(Answer::Submitted(job)) = Answer::decode(reply) else { return Ok(()) };
        let known = self.by_name.get(&name(tag));
        if known == Some(&job) {
            return Ok(());
        }
        violation!("JobLost", "{tag:?} got the answer that it is job {job}, it is {known:?}")
    }

    /// Who is here after a command; those that it makes lose what they had.
    fn update_members(&mut self, effect: &Effect<'_>) -> Vec<Identity> {
        let mut left = Vec::new();
        self.membership_changes +=
            u64::from(matches!(effect, Some((jobs::Command::Join { .. } | jobs::Command::Leave { .. }, _))));
        match effect {
            Some((jobs::Command::Join { worker, slots, .. }, _)) => {
                let before = self.here.insert(worker.id, (*worker, *slots));
                left.extend(before.map(|(who, _)| who).filter(|who| who != worker));
            }
            Some((jobs::Command::Leave { worker, .. }, _))
                if self.here.get(&worker.id).is_some_and(|(who, _)| who == worker) =>
            {
                self.here.remove(&worker.id);
                left.push(*worker);
            }
            _ => {}
        }
        left
    }

    fn named(&self, effect: &Effect<'_>) -> Option<(JobId, Option<Row>)> {
        let id = match effect {
            Some((
                jobs::Command::End { job, .. }
                | jobs::Command::Cancel { job }
                | jobs::Command::GiveBack { job, .. }
                | jobs::Command::Printed { job, .. },
                _,
            )) => *job,
            Some((jobs::Command::Submit(_), Answer::Submitted(job))) => *job,
            _ => return None,
        };
        Some((id, self.rows.get(&id).cloned()))
    }

    /// Whether this may become of a job.
    fn verify_change(
        &mut self,
        index: u64,
        id: JobId,
        was: &Row,
        now: Option<&Row>,
        effect: &Effect<'_>,
        left: &[Identity],
    ) -> CheckResult {
        let broken =
            |rule, what: &str| violation!(rule, "job {id} at {index}: {what}: was {was:?}, is {now:?}, by {effect:?}");
        let Some(now) = now else {
            return match &was.state {
                State::Ended { at_ms, .. } if at_ms.saturating_add(was.keep_ms) <= self.now_ms => Ok(()),
                _ => broken("JobLost", "it is gone"),
            };
        };
        if was.has_ended() {
            let is_added = was != now && is_added(id, was, now, effect);
            self.seen.jobs_printed += u64::from(is_added);
            return if was == now || is_added { Ok(()) } else { broken("JobEndsOnce", "it had ended") };
        }
        let is_given_back = self.is_given_back(id, was, effect);
        let is_lost = is_given_back || was.holder().is_some_and(|holder| left.contains(&holder));
        let is_free = is_lost || was.holder().is_none();
        match &now.state {
            _ if was == now => Ok(()),
            State::Queued if is_lost && now.attempt == was.attempt => {
                self.seen.jobs_moved += 1;
                Ok(())
            }
            State::Assigned { .. } if is_free && now.attempt == was.attempt + 1 => {
                self.seen.jobs_moved += u64::from(is_lost);
                Ok(())
            }
            State::Queued | State::Assigned { .. } => broken("JobHeld", "nothing has made it change hands"),
            State::Ended { .. } if now.attempt != was.attempt => broken("JobResult", "it ends in another attempt"),
            State::Ended { end, .. } => {
                self.verify_end(id, was, end, effect, is_lost).or_else(|what| broken("JobResult", &what))
            }
        }
    }

    /// Whether its worker has given the job back with this entry: it had it, and the program never began.
    fn is_given_back(&mut self, id: JobId, was: &Row, effect: &Effect<'_>) -> bool {
        let Some((jobs::Command::GiveBack { job, worker, attempt, .. }, Answer::Done)) = effect else { return false };
        let is_so = *job == id
            && (was.holder(), was.attempt) == (Some(*worker), *attempt)
            && !self.started.contains(&(id, *attempt));
        if is_so {
            self.seen.jobs_given_back += 1;
            *self.setbacks.entry(id).or_default() += 1;
        }
        is_so
    }

    /// Whether a job that was open may end so.
    fn verify_end(
        &mut self,
        id: JobId,
        was: &Row,
        end: &End,
        effect: &Effect<'_>,
        is_lost: bool,
    ) -> Result<(), String> {
        match effect {
            Some((jobs::Command::End { job, worker, attempt, end: reported }, Answer::Done)) if *job == id => {
                if (was.holder(), was.attempt) != (Some(*worker), *attempt) {
                    return Err(format!("attempt {attempt} by {worker:?} ends it and did not have it"));
                }
                if !self.started.contains(&(id, *attempt)) {
                    return Err(format!("the program of attempt {attempt} never began"));
                }
                if end != reported || end.stdout != output_of(id, *attempt, *worker).as_bytes() {
                    return Err("its end is not what its worker told".into());
                }
                self.seen.jobs_finished += 1;
                self.seen.jobs_finished_again += u64::from(*attempt > 1);
                Ok(())
            }
            Some((jobs::Command::Cancel { job }, Answer::Done)) if *job == id => {
                self.seen.jobs_cancelled += 1;
                if end.outcome == JobOutcome::Cancelled { Ok(()) } else { Err("it was taken back".into()) }
            }
            Some((jobs::Command::GiveBack { job, .. }, Answer::Done)) if *job == id && is_lost => {
                let setbacks = self.setbacks.get(&id).copied().unwrap_or(0);
                let is_given_up = matches!(end.outcome, JobOutcome::Failed(_)) && setbacks >= SETBACKS_MAX;
                if is_given_up { Ok(()) } else { Err(format!("it was given back {setbacks} times")) }
            }
            _ if is_lost && was.attempt >= LOSSES_MAX && matches!(end.outcome, JobOutcome::Failed(_)) => {
                self.seen.jobs_given_up += 1;
                Ok(())
            }
            _ => Err("no worker has ended it".into()),
        }
    }

    /// Whether there is a new job, and may be.
    fn verify_new(
        &mut self,
        index: u64,
        tag: Option<Tag>,
        effect: &Effect<'_>,
        table: &JobTable,
    ) -> Result<bool, crate::sim::violation::Violation> {
        if let Some((jobs::Command::End { job, .. }, Answer::Refused(_))) = effect {
            self.seen.ends_refused += u64::from(*job <= self.newest);
        }
        let next = self.newest + 1;
        let Some((jobs::Command::Submit(_), Answer::Submitted(id))) = effect else {
            if table.job(next).is_some() {
                violation!("OneJobPerSubmission", "job {next} comes from nowhere at {index}")?;
            }
            return Ok(false);
        };
        let tag = tag.expect("what takes effect has a tag");
        if let Some(first) = self.by_name.insert(name(&tag), *id) {
            violation!("OneJobPerSubmission", "{tag:?} is job {first} and job {id} at {index}")?;
        }
        let Some(job) = table.job(*id).filter(|_| *id == next) else {
            return violation!("JobLost", "{tag:?} got the answer at {index} that it is job {id}; {next} was to come");
        };
        let now = row(job);
        let is_fresh = match &now.state {
            State::Queued => now.attempt == 0,
            State::Assigned { .. } => now.attempt == 1,
            State::Ended { .. } => false,
        };
        if !is_fresh || table.job(next + 1).is_some() {
            violation!("OneJobPerSubmission", "job {id} is new at {index} and {now:?}")?;
        }
        self.seen.jobs += 1;
        self.newest = *id;
        self.rows.insert(*id, now);
        Ok(true)
    }

    /// Only who is here has jobs, and no more than it has slots.
    fn verify_holders(&self, index: u64) -> CheckResult {
        let mut held: BTreeMap<Identity, u64> = BTreeMap::new();
        for (id, row) in &self.rows {
            let Some(holder) = row.holder() else { continue };
            let Some((_, slots)) = self.here.get(&holder.id).filter(|(who, _)| *who == holder) else {
                return violation!("JobHeld", "{holder:?} has job {id} at {index} and is not here");
            };
            let count = held.entry(holder).or_default();
            *count += 1;
            if *count > *slots {
                return violation!("JobSlots", "{holder:?} has {count} jobs at {index}, and {slots} slots");
            }
        }
        Ok(())
    }
}
