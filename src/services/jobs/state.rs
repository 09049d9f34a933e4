//! The state: all jobs, the workers, and what each command changes.
//!
//! A job is queued, then assigned to a worker, then ended; if its worker is lost it is queued again, and its attempt
//! number grows by one at the next assignment. An end is accepted only from the worker that has the job, in the present
//! attempt: a worker that was considered lost and reports later is refused, so each job ends once, however often it
//! ran. A sandbox that did not start does not end the job: the job is queued again, with a preference for another
//! worker, until that has happened too often.
//!
//! Invariants: J1 a queued job is in its language's queue and nowhere else. J2 an assigned job is in the `running` set
//! of its worker, which is in the table, and of no other worker. J3 an ended job never changes, except that workers add
//! the output of stopped attempts once; it is in `ended` until it is forgotten. J4 no job is queued while a worker
//! could take it. J5 the byte counts equal the sums over the jobs that they count.
//! Not here: assigning jobs to workers (`schedule.rs`), queries (`queries.rs`), the format of the snapshot
//! (`snapshot.rs`).

use super::commands::{
    ARGS_BYTES_MAX, ARGS_MAX, ATTEMPTS_MAX, AWAY_MAX_MS, Answer, Bytes, Command, ENDED_BYTES_MAX, End, FILES_MAX, Job,
    JobId, JobOutcome, LOSS_COUNTS_AFTER_MS, LOSSES_MAX, NAME_BYTES_MAX, NAME_PARTS_MAX, OPEN_BYTES_MAX, OPEN_MAX,
    OUTPUT_BYTES_MAX, PART_BYTES_MAX, PAST_OUTPUT_BYTES_MAX, PastAttempt, REASON_BYTES_MAX, REQUEST_BYTES_MAX, Refusal,
    Request, SETBACKS_MAX, State, WORKERS_MAX, Worker,
};
#[cfg(any(test, feature = "planted-bugs"))]
use crate::planted_bugs::JobsBugs;
use crate::planted_bugs::is_planted;
use crate::types::{Identity, NodeId, Stamp};
use imbl::{OrdMap, OrdSet};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// All jobs and workers. A clone shares its data with the original (copy-on-write).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobTable {
    pub(super) jobs: OrdMap<JobId, Job>,
    /// Queued jobs by language.
    queues: OrdMap<String, OrdSet<JobId>>,
    /// Ended jobs, ordered by the log time until which they are kept.
    ended: OrdSet<(u64, JobId)>,
    workers: BTreeMap<NodeId, Worker>,
    newest: JobId,
    /// Number of changes so far.
    turn: u64,
    /// Number of jobs that are queued or assigned, and their bytes.
    open: (usize, usize),
    ended_bytes: usize,
    #[cfg(any(test, feature = "planted-bugs"))]
    pub bugs: JobsBugs,
}

impl JobTable {
    pub fn job(&self, id: JobId) -> Option<&Job> {
        self.jobs.get(&id)
    }

    /// Returns every worker, including absent ones, ordered by node.
    pub fn workers(&self) -> impl Iterator<Item = &Worker> {
        self.workers.values()
    }

    /// Returns the jobs that are assigned to a worker process, with their attempts; empty if another process of the
    /// node has joined since.
    pub fn work_of(&self, who: Identity) -> Vec<(JobId, u32)> {
        let worker = self.workers.get(&who.id).filter(|worker| worker.who == who && worker.is_here);
        let jobs = worker.into_iter().flat_map(|worker| &worker.running);
        jobs.filter_map(|id| Some((*id, self.jobs.get(id)?.attempt))).collect()
    }

    /// Returns the number of queued and assigned jobs, and their size in bytes.
    pub fn open(&self) -> (usize, usize) {
        self.open
    }

    /// Returns the number of changes so far: a reader that has seen the state at this number has seen all changes.
    pub fn turn(&self) -> u64 {
        self.turn
    }

    /// Returns the jobs that ended last, newest first.
    pub fn last_ended(&self, most: usize) -> impl Iterator<Item = (JobId, &Job)> {
        self.ended.iter().rev().take(most).filter_map(|(_, id)| Some((*id, self.jobs.get(id)?)))
    }

    /// Returns the number of queued jobs and the number of assigned jobs.
    pub fn counts(&self) -> (usize, usize) {
        let queued = self.queues.values().map(OrdSet::len).sum();
        (queued, self.open.0 - queued)
    }

    pub(crate) fn queues(&self) -> impl Iterator<Item = (&str, &OrdSet<JobId>)> {
        self.queues.iter().map(|(language, jobs)| (language.as_str(), jobs))
    }

    pub(crate) fn parts(&self) -> (&OrdMap<JobId, Job>, &BTreeMap<NodeId, Worker>, JobId, u64) {
        (&self.jobs, &self.workers, self.newest, self.turn)
    }

    /// Creates a table from the content of a snapshot; everything else is derived from the jobs.
    pub(crate) fn of(
        jobs: OrdMap<JobId, Job>,
        workers: BTreeMap<NodeId, Worker>,
        newest: JobId,
        turn: u64,
    ) -> JobTable {
        let mut table = JobTable { workers, newest, turn, ..JobTable::default() };
        for (id, job) in &jobs {
            match &job.state {
                State::Queued => table.put_in_queue(*id, &job.request.language),
                State::Assigned { .. } => {}
                State::Ended { at_ms, .. } => {
                    table.ended.insert((at_ms.saturating_add(job.request.keep_ms), *id));
                    table.ended_bytes += job.bytes();
                    continue;
                }
            }
            table.open.0 += 1;
            table.open.1 += job.bytes();
        }
        table.jobs = jobs;
        table
    }

    /// Applies a command, then assigns jobs.
    pub fn run(&mut self, at: Stamp, command: Command) -> Answer {
        let done = match command {
            Command::Submit(request) => self.submit(at, request),
            Command::Join { worker, slots, runtimes, trouble } => {
                self.join(worker, slots, runtimes, trouble, at);
                Ok(Answer::Done)
            }
            Command::Leave { worker, is_lost } => {
                self.leave(worker, is_lost, at);
                Ok(Answer::Done)
            }
            Command::End { job, worker, attempt, end } => self.end(at, job, worker, attempt, end),
            Command::Cancel { job } => self.cancel(at, job),
            Command::GiveBack { job, worker, attempt, why } => self.give_back(at, job, worker, attempt, why),
            Command::Printed { job, worker, attempt, stdout, stderr } => {
                self.printed(job, worker, attempt, stdout, stderr)
            }
        };
        if done.is_ok() {
            self.turn += 1;
        }
        self.assign(at);
        done.unwrap_or_else(Answer::Refused)
    }

    fn submit(&mut self, at: Stamp, request: Request) -> Result<Answer, Refusal> {
        check_request(&request)?;
        let is_known = |worker: &&Worker| worker.is_here || at.at_ms.saturating_sub(worker.left_ms) < AWAY_MAX_MS;
        let mut known = self.workers.values().filter(is_known);
        if !known.any(|worker| worker.runtimes.contains(&request.language)) {
            let known = || self.workers.values().filter(is_known);
            let there: BTreeSet<&String> = known().flat_map(|worker| &worker.runtimes).collect();
            let there = there.into_iter().cloned().collect();
            let trouble = known().find_map(|worker| worker.trouble.clone());
            return Err(Refusal::NoRuntime { wanted: request.language, there, trouble });
        }
        if self.open.0 >= OPEN_MAX || self.open.1 + request.bytes() > OPEN_BYTES_MAX {
            return Err(Refusal::Full);
        }
        self.newest += 1;
        let id = self.newest;
        self.put_in_queue(id, &request.language);
        let job = Job {
            request: Arc::new(request),
            submitted_ms: at.at_ms,
            attempt: 0,
            losses: 0,
            given: 0,
            state: State::Queued,
            past: Vec::new(),
        };
        self.open.0 += 1;
        self.open.1 += job.bytes();
        self.jobs.insert(id, job);
        Ok(Answer::Submitted(id))
    }

    fn join(&mut self, who: Identity, slots: u64, runtimes: BTreeSet<String>, trouble: Option<String>, at: Stamp) {
        if self.workers.get(&who.id).is_some_and(|worker| worker.who != who) {
            self.lose(who.id, true, at);
        }
        // A process that joins again keeps its jobs.
        let before = self.workers.remove(&who.id).filter(|worker| worker.who == who && worker.is_here);
        let (running, turn) = before.map_or((BTreeSet::new(), self.turn), |worker| (worker.running, worker.turn));
        let heard = self.turn + 1;
        self.workers
            .insert(who.id, Worker { who, slots, runtimes, trouble, running, is_here: true, left_ms: 0, heard, turn });
        if self.workers.len() > WORKERS_MAX
            && let Some(gone) = self.workers.values().filter(|worker| !worker.is_here).min_by_key(|worker| worker.turn)
        {
            self.workers.remove(&gone.who.id.clone());
        }
    }

    fn leave(&mut self, who: Identity, is_lost: bool, at: Stamp) {
        if self.workers.get(&who.id).is_some_and(|worker| worker.who == who && worker.is_here) {
            self.lose(who.id, is_lost, at);
        }
    }

    /// Handles the loss or departure of a worker: each of its jobs is queued again, or fails if it was tried too often.
    fn lose(&mut self, id: NodeId, is_lost: bool, at: Stamp) {
        let Some(worker) = self.workers.get_mut(&id).filter(|worker| worker.is_here) else { return };
        worker.is_here = false;
        worker.left_ms = at.at_ms;
        let (who, heard) = (worker.who, worker.heard);
        if is_planted!(self, leave_forgets_jobs) {
            return;
        }
        for job in std::mem::take(&mut worker.running) {
            let held = self.jobs.get_mut(&job).expect("J2: a worker's job exists");
            let since_ms = match held.state {
                State::Assigned { since_ms, .. } => since_ms,
                State::Queued | State::Ended { .. } => at.at_ms,
            };
            let is_proven = heard > held.given || at.at_ms.saturating_sub(since_ms) >= LOSS_COUNTS_AFTER_MS;
            held.losses += u32::from(is_lost && is_proven);
            let past = PastAttempt::of(held.attempt, who, None);
            self.open.1 += past.bytes();
            held.past.push(Arc::new(past));
            if held.losses >= LOSSES_MAX || held.attempt >= ATTEMPTS_MAX {
                let why = format!("its worker was lost {} times", held.losses.max(held.attempt));
                self.close(at, job, Some(id), End::bare(JobOutcome::Failed(why)));
            } else {
                self.queue_again(job);
            }
        }
    }

    /// Queues a job again; it must not be assigned any more.
    fn queue_again(&mut self, id: JobId) {
        let job = self.jobs.get_mut(&id).expect("the caller has found the job");
        job.state = State::Queued;
        let language = job.request.language.clone();
        self.put_in_queue(id, &language);
    }

    /// Handles a sandbox that did not start: the job is queued again, or fails if that has happened too often.
    fn give_back(&mut self, at: Stamp, id: JobId, who: Identity, attempt: u32, why: String) -> Result<Answer, Refusal> {
        let job = self.jobs.get_mut(&id).ok_or(Refusal::NoSuchJob(id))?;
        match &job.state {
            State::Ended { .. } => return Err(Refusal::HasEnded(id)),
            State::Assigned { worker, .. } if *worker == who && job.attempt == attempt => {}
            State::Assigned { .. } | State::Queued => return Err(Refusal::NotYours(id)),
        }
        let why: String = why.chars().take(REASON_BYTES_MAX / 4).collect();
        let past = PastAttempt::of(attempt, who, Some(why.clone()));
        self.open.1 += past.bytes();
        job.past.push(Arc::new(past));
        let setbacks = job.setbacks().count();
        let is_given_up = setbacks >= SETBACKS_MAX || attempt >= ATTEMPTS_MAX;
        self.release(id, who.id);
        if let Some(worker) = self.workers.get_mut(&who.id) {
            worker.heard = self.turn;
        }
        match is_given_up {
            true => {
                let why = format!(
                    "its sandbox did not start, {setbacks} times; the last failure, on node {}: {why}",
                    who.id.0
                );
                self.close(at, id, Some(who.id), End::bare(JobOutcome::Failed(why)));
            }
            false => self.queue_again(id),
        }
        Ok(Answer::Done)
    }

    /// Adds the output of a stopped attempt, once: to the result of a job that was cancelled in this attempt, or to the
    /// record of the lost attempt.
    fn printed(
        &mut self,
        id: JobId,
        who: Identity,
        attempt: u32,
        stdout: Bytes,
        stderr: Bytes,
    ) -> Result<Answer, Refusal> {
        if stdout.len() + stderr.len() > OUTPUT_BYTES_MAX {
            return Err(Refusal::Malformed(format!("an output of more than {OUTPUT_BYTES_MAX} bytes")));
        }
        let job = self.jobs.get_mut(&id).ok_or(Refusal::NoSuchJob(id))?;
        let bytes_before = job.bytes();
        let past = job.past.iter_mut().find(|past| (past.attempt, past.worker) == (attempt, who));
        match (&mut job.state, past) {
            (_, Some(past)) if past.stdout.is_empty() && past.stderr.is_empty() => {
                let past = Arc::make_mut(past);
                (past.stdout, past.stderr) = (tail(stdout), tail(stderr));
            }
            (State::Ended { end, worker: Some(worker), .. }, None)
                if end.outcome == JobOutcome::Cancelled
                    && end.bytes() == 0
                    && (*worker, job.attempt) == (who.id, attempt) =>
            {
                *end = Arc::new(End { stdout, stderr, ..end.as_ref().clone() });
            }
            _ => return Err(Refusal::NotYours(id)),
        }
        let more = job.bytes() - bytes_before;
        match &job.state {
            State::Ended { .. } => {
                self.ended_bytes += more;
                self.forget_beyond_bound();
            }
            State::Queued | State::Assigned { .. } => self.open.1 += more,
        }
        Ok(Answer::Done)
    }

    fn end(&mut self, at: Stamp, id: JobId, who: Identity, attempt: u32, end: End) -> Result<Answer, Refusal> {
        let job = self.jobs.get(&id).ok_or(Refusal::NoSuchJob(id))?;
        let mut holder = who.id;
        match &job.state {
            State::Ended { .. } if is_planted!(self, ended_may_end) => {
                let held = self.jobs.get_mut(&id).expect("it was just looked at");
                held.state = State::Ended { end: Arc::new(end), worker: Some(who.id), at_ms: at.at_ms };
                return Ok(Answer::Done);
            }
            State::Ended { .. } => return Err(Refusal::HasEnded(id)),
            State::Assigned { worker, .. }
                if *worker == who && (job.attempt == attempt || is_planted!(self, old_attempts_end)) => {}
            State::Assigned { worker, .. } if is_planted!(self, ends_of_the_lost_count) => holder = worker.id,
            State::Assigned { .. } | State::Queued => return Err(Refusal::NotYours(id)),
        }
        if end.bytes() > OUTPUT_BYTES_MAX {
            return Err(Refusal::Malformed(format!("an output of more than {OUTPUT_BYTES_MAX} bytes")));
        }
        self.release(id, holder);
        if let Some(worker) = self.workers.get_mut(&holder) {
            worker.heard = self.turn;
        }
        self.close(at, id, Some(who.id), end);
        Ok(Answer::Done)
    }

    fn cancel(&mut self, at: Stamp, id: JobId) -> Result<Answer, Refusal> {
        let worker = match &self.jobs.get(&id).ok_or(Refusal::NoSuchJob(id))?.state {
            State::Ended { .. } => return Err(Refusal::HasEnded(id)),
            State::Assigned { worker, .. } => Some(worker.id),
            State::Queued => None,
        };
        match worker {
            Some(worker) => self.release(id, worker),
            None => self.take_from_queue(id),
        }
        self.close(at, id, worker, End::bare(JobOutcome::Cancelled));
        Ok(Answer::Done)
    }

    /// Assigns a queued job to a worker.
    pub(crate) fn give(&mut self, at: Stamp, id: JobId, to: NodeId) {
        self.take_from_queue(id);
        self.turn += 1;
        let worker = self.workers.get_mut(&to).expect("a job is assigned to workers only");
        worker.running.insert(id);
        worker.turn = self.turn;
        let job = self.jobs.get_mut(&id).expect("J1: a queued job exists");
        job.attempt += 1;
        job.given = self.turn;
        job.state = State::Assigned { worker: worker.who, since_ms: at.at_ms };
    }

    fn release(&mut self, id: JobId, from: NodeId) {
        self.turn += 1;
        let worker = self.workers.get_mut(&from).expect("J2: an assigned job has a worker");
        assert!(worker.running.remove(&id), "J2: job {id} is not among those of node {from}");
        worker.turn = self.turn;
    }

    /// Ends a job. It must have been removed from its queue and its worker.
    fn close(&mut self, at: Stamp, id: JobId, worker: Option<NodeId>, end: End) {
        let job = self.jobs.get_mut(&id).expect("the caller has found the job");
        self.open.0 -= 1;
        self.open.1 -= job.bytes();
        job.state = State::Ended { end: Arc::new(end), worker, at_ms: at.at_ms };
        self.ended_bytes += job.bytes();
        self.ended.insert((at.at_ms.saturating_add(job.request.keep_ms), id));
        self.forget_beyond_bound();
    }

    fn forget_beyond_bound(&mut self) {
        while self.ended_bytes > ENDED_BYTES_MAX && self.ended.len() > 1 {
            self.forget_first();
        }
    }

    /// Returns the log time at which the next ended job is forgotten.
    pub(super) fn next_forgotten_ms(&self) -> Option<u64> {
        self.ended.get_min().map(|(until_ms, _)| *until_ms)
    }

    pub(super) fn forget_first(&mut self) {
        let Some((_, id)) = self.ended.remove_min() else { return };
        self.turn += 1;
        let job = self.jobs.remove(&id).expect("J3: an ended job exists until its time");
        self.ended_bytes -= job.bytes();
    }

    fn put_in_queue(&mut self, id: JobId, language: &str) {
        match self.queues.get_mut(language) {
            Some(queue) => drop(queue.insert(id)),
            None => drop(self.queues.insert(language.to_string(), OrdSet::unit(id))),
        }
    }

    fn take_from_queue(&mut self, id: JobId) {
        let language = &self.jobs.get(&id).expect("J1: a queued job exists").request.language;
        let queue = self.queues.get_mut(language).expect("J1: a queued job stands in its queue");
        assert!(queue.remove(&id).is_some(), "J1: job {id} is not in the queue of {language}");
        if queue.is_empty() {
            self.queues.remove(language);
        }
    }

    /// Asserts the invariants; for tests and the simulator.
    #[cfg(any(test, feature = "planted-bugs"))]
    pub fn check(&self) {
        let (mut queued, mut open, mut ended_bytes) = (0, (0, 0), 0);
        for (id, job) in &self.jobs {
            let in_queue = self.queues.get(&job.request.language).is_some_and(|queue| queue.contains(id));
            let holders: Vec<_> = self.workers.values().filter(|worker| worker.running.contains(id)).collect();
            match &job.state {
                State::Queued => {
                    assert!(in_queue && holders.is_empty(), "J1: job {id} is queued, held by {holders:?}");
                    queued += 1;
                }
                State::Assigned { worker, .. } => {
                    assert!(!in_queue, "J1: job {id} is assigned and in its queue");
                    let is_right = holders.len() == 1 && holders[0].who == *worker && holders[0].is_here;
                    assert!(is_right, "J2: job {id} of {worker:?} is held by {holders:?}");
                }
                State::Ended { at_ms, .. } => {
                    assert!(!in_queue && holders.is_empty(), "J3: job {id} has ended, held by {holders:?}");
                    assert!(self.ended.contains(&(at_ms.saturating_add(job.request.keep_ms), *id)), "J3: {id}");
                    ended_bytes += job.bytes();
                    continue;
                }
            }
            open = (open.0 + 1, open.1 + job.bytes());
        }
        assert_eq!(queued, self.counts().0, "J1: jobs in queues");
        assert_eq!(self.ended.len(), self.jobs.len() - open.0, "J3: rows of ended jobs");
        assert_eq!((open, ended_bytes), (self.open, self.ended_bytes), "J5: counts");
        let mut again = self.clone();
        again.assign(Stamp::default());
        assert!(again == *self, "J4: a job waits that a worker could take");
    }
}

fn check_request(request: &Request) -> Result<(), Refusal> {
    let malformed = |why: String| Err(Refusal::Malformed(why));
    if request.bytes() > REQUEST_BYTES_MAX {
        return malformed(format!(
            "the request has {} bytes; at most {REQUEST_BYTES_MAX} are allowed",
            request.bytes()
        ));
    }
    if request.files.is_empty() || request.files.len() > FILES_MAX {
        return malformed(format!("the request has {} files; 1 to {FILES_MAX} are allowed", request.files.len()));
    }
    if request.language.is_empty() || request.language.len() > NAME_BYTES_MAX {
        return malformed("no language given".to_string());
    }
    let mut names = BTreeSet::new();
    for (name, _) in &request.files {
        let is_plain = |part: &str| {
            !matches!(part, "" | "." | "..")
                && part.len() <= PART_BYTES_MAX
                && !part.contains(|c: char| c.is_control() || c == '\\')
        };
        if name.split('/').count() > NAME_PARTS_MAX || !name.split('/').all(is_plain) {
            return malformed(format!(
                "{name:.80?} is not a valid file name: use a relative path of at most {NAME_PARTS_MAX} parts of at \
                 most {PART_BYTES_MAX} bytes"
            ));
        }
        if !names.insert(name) {
            return malformed(format!("two files are named {name:?}"));
        }
    }
    let is_folder = |name: &&String| {
        names.range(format!("{name}/")..).next().is_some_and(|next| next.starts_with(&format!("{name}/")))
    };
    if let Some(name) = names.iter().copied().find(is_folder) {
        return malformed(format!("{name:?} is both a file and a folder of another file"));
    }
    if request.args.len() > ARGS_MAX {
        return malformed(format!("the request has {} arguments; at most {ARGS_MAX} are allowed", request.args.len()));
    }
    if request.args.iter().map(String::len).sum::<usize>() > ARGS_BYTES_MAX {
        return malformed(format!("the arguments have more than {ARGS_BYTES_MAX} bytes together"));
    }
    if let Some(arg) = request.args.iter().find(|arg| arg.contains('\0')) {
        return malformed(format!("an argument contains a zero byte: {arg:.80?}"));
    }
    Ok(())
}

/// Returns the last [`super::commands::PAST_OUTPUT_BYTES_MAX`] bytes of an output.
fn tail(bytes: Bytes) -> Bytes {
    let from = bytes.len().saturating_sub(PAST_OUTPUT_BYTES_MAX);
    bytes[from..].to_vec().into()
}
