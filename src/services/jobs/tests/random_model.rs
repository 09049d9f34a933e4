//! Random histories: workers run what the job table assigns to them, crash, return as another process, report late and
//! twice; the leader declares them lost, rightly and wrongly; clients cancel. A job ends at most once in all cases, and
//! when the crashes stop, every job ends.
//!
//! One seed fixes a history. The whole state goes through a snapshot now and then, and a second table that applied the
//! same entries must be equal.

use super::super::{Answer, Command, End, JobId, JobOutcome, JobTable, State};
use super::{process, request, restored, saved, stamp};
use crate::services::Service;
use crate::types::Identity;
use fastrand::Rng;
use std::collections::{BTreeMap, BTreeSet};

const LANGUAGES: [&str; 3] = ["java", "python", "sh"];
const NODES: u64 = 4;

/// One virtual worker process.
struct Process {
    who: Identity,
    is_alive: bool,
    /// The attempts that it runs, in its own view.
    runs: BTreeSet<(JobId, u32)>,
}

struct World {
    rng: Rng,
    table: JobTable,
    twin: JobTable,
    index: u64,
    at_ms: u64,
    processes: Vec<Process>,
    lives: u64,
    /// Ends that were reported and may be reported again.
    reported: Vec<Command>,
    submitted: BTreeSet<JobId>,
    cancelled: BTreeSet<JobId>,
    /// How each job ended, as first seen.
    ends: BTreeMap<JobId, (u32, End)>,
    /// Ends that were acknowledged.
    acknowledged: BTreeSet<JobId>,
}

impl World {
    fn new(seed: u64) -> World {
        World {
            rng: Rng::with_seed(seed),
            table: JobTable::default(),
            twin: JobTable::default(),
            index: 0,
            at_ms: 0,
            processes: Vec::new(),
            lives: 0,
            reported: Vec::new(),
            submitted: BTreeSet::new(),
            cancelled: BTreeSet::new(),
            ends: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
        }
    }

    fn entry(&mut self, command: Command) -> Answer {
        self.index += 1;
        self.at_ms += self.rng.u64(0..20);
        let at = stamp(self.index, self.at_ms);
        if self.rng.u8(..) < 16 {
            self.twin = restored(&saved(&self.twin));
        }
        self.twin.expire(at);
        self.twin.run(at, command.clone());
        self.table.expire(at);
        let answer = self.table.run(at, command);
        self.table.check();
        assert_eq!(self.table, self.twin);
        self.check();
        answer
    }

    /// Checks that ended jobs stay unchanged until they are forgotten.
    fn check(&mut self) {
        for id in &self.submitted {
            let Some(job) = self.table.job(*id) else { continue };
            let State::Ended { end, .. } = &job.state else {
                assert!(!self.ends.contains_key(id), "job {id} had ended and is {:?}", job.state);
                continue;
            };
            let now = (job.attempt, (**end).clone());
            let first = self.ends.entry(*id).or_insert_with(|| now.clone());
            assert_eq!(*first, now, "job {id} ended twice");
        }
    }

    /// Starts a node's next process.
    fn begin(&mut self, node: u64) {
        self.lives += 1;
        let who = process(node, self.lives);
        self.processes.retain(|old| old.who.id != who.id);
        self.processes.push(Process { who, is_alive: true, runs: BTreeSet::new() });
        // Each node has a language of its own beside the one that all have.
        let runtimes = [LANGUAGES[node as usize % 3].to_string(), "sh".to_string()].into();
        let slots = self.rng.u64(1..=3);
        self.entry(Command::Join { worker: who, slots, runtimes, trouble: None });
    }

    /// A process compares its work with the applied log: it begins new attempts and drops those that are no longer its
    /// own.
    fn learn(&mut self, place: usize) {
        let process = &mut self.processes[place];
        process.runs = self.table.work_of(process.who).into_iter().collect();
    }

    fn report(&mut self, place: usize) {
        let worker = self.processes[place].who;
        let runs: Vec<_> = self.processes[place].runs.iter().copied().collect();
        let Some((job, attempt)) = self.rng.choice(runs) else { return };
        let stdout = format!("{job} by {worker:?} in {attempt}").into_bytes().into();
        let end = End { exit_code: Some(0), stdout, ..End::bare(JobOutcome::Finished) };
        let command = Command::End { job, worker, attempt, end };
        self.reported.push(command.clone());
        // The report may get lost with its sender.
        if self.rng.u8(..) < 230 {
            self.hear(command);
        }
        self.processes[place].runs.remove(&(job, attempt));
    }

    fn hear(&mut self, command: Command) {
        let Command::End { job, .. } = command else { return };
        if self.entry(command) == Answer::Done {
            assert!(self.acknowledged.insert(job), "two ends of job {job} were acknowledged");
        }
    }

    fn step(&mut self) {
        let place = self.rng.usize(..self.processes.len().max(1));
        let node = self.rng.u64(1..=NODES);
        match self.rng.u8(0..100) {
            0..30 => {
                let language = *self.rng.choice(&LANGUAGES).expect("there are some");
                let keep_ms = self.rng.u64(0..2000);
                if let Answer::Submitted(id) = self.entry(Command::Submit(request(language, keep_ms))) {
                    self.submitted.insert(id);
                }
            }
            30..34 => self.begin(node),
            // A crash, which the leader has not noticed yet.
            34..37 if !self.processes.is_empty() => self.processes[place].is_alive = false,
            // The leader declares a process lost, rightly or wrongly.
            37..40 if !self.processes.is_empty() => {
                let worker = self.processes[place].who;
                self.entry(Command::Leave { worker, is_lost: true });
            }
            40..43 => {
                let ids: Vec<_> = self.submitted.iter().copied().collect();
                if let Some(job) = self.rng.choice(ids)
                    && self.entry(Command::Cancel { job }) == Answer::Done
                {
                    self.cancelled.insert(job);
                }
            }
            43..48 if !self.reported.is_empty() => {
                let again = self.rng.usize(..self.reported.len());
                self.hear(self.reported[again].clone());
            }
            _ if !self.processes.is_empty() && self.processes[place].is_alive => {
                self.learn(place);
                self.report(place);
            }
            _ => {}
        }
    }

    /// Ends the crashes: every node gets a process that keeps running.
    fn stop_faults(&mut self) {
        for node in 1..=NODES {
            self.begin(node);
        }
        for round in 0.. {
            assert!(round < 10_000, "jobs are left when nothing goes wrong any more: {:?}", self.table.counts());
            if self.table.counts() == (0, 0) {
                break;
            }
            for place in 0..self.processes.len() {
                self.learn(place);
                self.report(place);
            }
        }
        for id in &self.submitted {
            assert!(self.ends.contains_key(id) || self.table.job(*id).is_none(), "job {id} has not ended");
        }
    }
}

#[test]
fn every_job_ends_once_whoever_dies() {
    let (mut ended, mut again) = (0, 0);
    for seed in 1..=300 {
        let life = std::panic::AssertUnwindSafe(|| {
            let mut world = World::new(seed);
            world.begin(1);
            for _ in 0..400 {
                world.step();
            }
            world.stop_faults();
            (world.ends.len(), world.ends.values().filter(|(attempt, _)| *attempt > 1).count())
        });
        match std::panic::catch_unwind(life) {
            Ok((all, repeated)) => (ended, again) = (ended + all, again + repeated),
            Err(why) => {
                eprintln!("a life failed: seed {seed}");
                std::panic::resume_unwind(why);
            }
        }
    }
    assert!(ended > 10_000 && again > 500, "too little happened: {ended} ends, {again} of them in a later attempt");
}
