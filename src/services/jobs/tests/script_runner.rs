//! The language of the scripts: commands of the jobs, and the changes by each.
//!
//! - time: `at MS` sets the log time of the next lines; `wait MS` advances it and applies an entry without commands
//! - workers: `join NODE [slots=N] [life=N] LANGUAGE...`, `leave NODE [life=N]`
//! - clients: `submit LANGUAGE [keep=MS] [times=N]`, `cancel JOB`
//! - attempts: `give-back JOB NODE [life=N] attempt=N WHY`, `printed JOB NODE [life=N] attempt=N out=TEXT`
//! - ends: `end JOB NODE [life=N] attempt=N [exit=N] [out=TEXT] [outcome=NAME]`
//! - queries: `jobs` (all), `past JOB`, `workers`, `next-expiry`; `snapshot` saves the state and continues with the
//!   restored one
//!
//! After each command it prints the changed jobs and workers. Everything is executed by two tables, one of which is
//! saved and restored before each entry: they must stay equal.

use super::super::{Answer, Command, End, JobOutcome, JobTable, State, Worker};
use super::{process, request, restored, saved, stamp};
use crate::services::Service;
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;

/// Runs the commands of a script.
#[derive(Default)]
pub struct ScriptRunner {
    table: JobTable,
    twin: JobTable,
    index: u64,
    at_ms: u64,
    highest: u64,
}

type Failure = Box<dyn Error>;

impl goldenscript::Runner for ScriptRunner {
    type Command = goldenscript::Command;

    fn run(&mut self, line: &Self::Command, _: &goldenscript::Context) -> Result<String, Failure> {
        let mut args = line.consume_args();
        let mut out = String::new();
        macro_rules! word {
            () => {
                args.next_pos().map(str::to_string).ok_or("a word is missing")?
            };
        }
        macro_rules! number {
            () => {
                word!().parse::<u64>()?
            };
        }
        macro_rules! key {
            ($key:literal) => {
                args.take_key($key).map(str::parse).transpose()?
            };
        }
        let command = match line.name.as_str() {
            "at" => {
                self.at_ms = number!();
                None
            }
            "wait" => {
                self.at_ms += number!();
                out += &self.entry(None)?;
                None
            }
            "join" => {
                let (slots, life) = (key!("slots").unwrap_or(1), key!("life").unwrap_or(1));
                let worker = process(number!(), life);
                let runtimes = std::iter::from_fn(|| args.next_pos().map(str::to_string)).collect();
                Some(Command::Join { worker, slots, runtimes, trouble: None })
            }
            "leave" => {
                let life = key!("life").unwrap_or(1);
                let is_lost = !key!("farewell").unwrap_or(false);
                Some(Command::Leave { worker: process(number!(), life), is_lost })
            }
            "submit" => {
                let keep_ms = key!("keep").unwrap_or(60_000);
                let times: u64 = key!("times").unwrap_or(1);
                let language = word!();
                for _ in 1..times {
                    out += &self.entry(Some(Command::Submit(request(&language, keep_ms))))?;
                }
                Some(Command::Submit(request(&language, keep_ms)))
            }
            "cancel" => Some(Command::Cancel { job: number!() }),
            "end" => {
                let life = key!("life").unwrap_or(1);
                let attempt = key!("attempt").ok_or("which attempt?")?;
                let exit_code = key!("exit");
                let stdout = args.take_key("out").unwrap_or_default().to_string();
                let outcome = match args.take_key("outcome") {
                    None => JobOutcome::Finished,
                    Some("timed-out") => JobOutcome::TimedOut,
                    Some("memory-exceeded") => JobOutcome::MemoryExceeded,
                    Some("not-compiled") => JobOutcome::NotCompiled,
                    Some(other) => return Err(format!("unknown outcome {other}").into()),
                };
                let (job, node) = (number!(), number!());
                let end = End { exit_code, stdout: stdout.into_bytes().into(), ..End::bare(outcome) };
                Some(Command::End { job, worker: process(node, life), attempt, end })
            }
            "give-back" => {
                let life = key!("life").unwrap_or(1);
                let attempt = key!("attempt").ok_or("which attempt?")?;
                let (job, node, why) = (number!(), number!(), word!());
                Some(Command::GiveBack { job, worker: process(node, life), attempt, why })
            }
            "printed" => {
                let life = key!("life").unwrap_or(1);
                let attempt = key!("attempt").ok_or("which attempt?")?;
                let stdout = args.take_key("out").unwrap_or_default().to_string().into_bytes().into();
                let (job, node) = (number!(), number!());
                Some(Command::Printed { job, worker: process(node, life), attempt, stdout, stderr: Default::default() })
            }
            "past" => {
                let id = number!();
                for past in self.table.job(id).map_or(&[][..], |job| &job.past) {
                    let (why, said) = (past.not_started.as_deref(), String::from_utf8_lossy(&past.stdout));
                    let why = why.map_or("lost".to_string(), |why| format!("not started: {why}"));
                    writeln!(out, "attempt {} on n{}, {why}, said {said:?}", past.attempt, past.worker.id.0)?;
                }
                None
            }
            "jobs" => {
                for id in 1..=self.highest {
                    writeln!(out, "job {id}: {}", self.state_of(id))?;
                }
                None
            }
            "workers" => {
                for worker in self.table.workers() {
                    writeln!(out, "{}", show_worker(worker))?;
                }
                None
            }
            "next-expiry" => {
                writeln!(out, "{:?}", self.table.next_expiry_ms())?;
                None
            }
            "snapshot" => {
                self.table = restored(&saved(&self.table));
                assert_eq!(self.table, self.twin);
                None
            }
            other => return Err(format!("unknown command '{other}'").into()),
        };
        args.reject_next()?;
        if command.is_some() {
            out += &self.entry(command)?;
        }
        Ok(out)
    }
}

impl ScriptRunner {
    /// Applies one entry: first its time, then the command.
    fn entry(&mut self, command: Option<Command>) -> Result<String, Failure> {
        let before = self.states();
        self.index += 1;
        let at = stamp(self.index, self.at_ms);
        self.twin = restored(&saved(&self.twin));
        let mut answers = Vec::new();
        for table in [&mut self.table, &mut self.twin] {
            table.expire(at);
            answers.push(command.clone().map(|command| table.run(at, command)));
            table.check();
        }
        assert_eq!(answers[0], answers[1]);
        assert_eq!(self.table, self.twin);
        let mut out = String::new();
        match &answers[0] {
            Some(Answer::Submitted(id)) => {
                self.highest = *id;
                writeln!(out, "job {id} submitted")?;
            }
            Some(Answer::Refused(why)) => writeln!(out, "refused: {why}")?,
            Some(Answer::Done) | None => {}
        }
        for (id, now) in self.states() {
            if before.get(&id).is_none_or(|before| *before != now) {
                writeln!(out, "  job {id}: {now}")?;
            }
        }
        Ok(out)
    }

    fn states(&self) -> BTreeMap<u64, String> {
        (1..=self.highest).map(|id| (id, self.state_of(id))).collect()
    }

    fn state_of(&self, id: u64) -> String {
        let Some(job) = self.table.job(id) else { return "forgotten".to_string() };
        match &job.state {
            State::Queued => format!("queued, begun {} times", job.attempt),
            State::Assigned { worker, .. } => format!("runs on n{}, attempt {}", worker.id.0, job.attempt),
            State::Ended { end, worker, .. } => {
                let place = worker.map_or(String::new(), |node| format!(" on n{}", node.0));
                let code = end.exit_code.map_or(String::new(), |code| format!(", exit code {code}"));
                let said = match String::from_utf8_lossy(&end.stdout) {
                    text if text.is_empty() => String::new(),
                    text => format!(", said {text:?}"),
                };
                format!("ended{place}: {:?}{code}{said}", end.outcome)
            }
        }
    }
}

fn show_worker(worker: &Worker) -> String {
    let there = if worker.is_here { "here" } else { "away" };
    let languages: Vec<_> = worker.runtimes.iter().map(String::as_str).collect();
    let (id, slots, running) = (worker.who.id.0, worker.slots, &worker.running);
    format!("n{id} {there}, {slots} slots, runs {running:?}, has {}", languages.join(" "))
}
