//! Tests of the jobs: golden scripts, and random histories of workers that crash, return and repeat reports.
//!
//! One behaviour per file in `scripts/`, named after it. `UPDATE_GOLDENFILES=1 cargo test --lib services::jobs` records
//! them again; review the difference before you commit it.
//! Not here: the language of the scripts (`tests/script_runner.rs`), the random model (`tests/random_model.rs`).

mod random_model;
mod script_runner;

use super::{Answer, Command, End, JobOutcome, JobTable, Limits, Request};
use crate::services::service_contract::{self, restored, saved, stamp};
use crate::types::{Identity, NodeId};
use uuid::Uuid;

#[test]
fn scripts() {
    service_contract::scripts("jobs", script_runner::ScriptRunner::default);
}

/// Returns the identity of a node's process number `life`.
fn process(node: u64, life: u64) -> Identity {
    Identity { id: NodeId(node), uuid: Uuid::from_u128(u128::from(node) << 64 | u128::from(life)) }
}

fn request(language: &str, keep_ms: u64) -> Request {
    let limits = Limits { wall_ms: 1000, cpu_ms: 1000, memory_mb: 64, output_bytes: 1000, files_mb: 1, processes: 8 };
    Request {
        language: language.to_string(),
        files: vec![("main".to_string(), b"code".to_vec().into())],
        stdin: Default::default(),
        args: Vec::new(),
        limits,
        keep_ms,
    }
}

/// A job table with a queued, a running and an ended job.
fn busy() -> JobTable {
    let mut table = JobTable::default();
    let runtimes = ["sh".to_string()].into();
    table.run(stamp(1, 0), Command::Join { worker: process(1, 1), slots: 1, runtimes, trouble: None });
    for index in 2..5 {
        table.run(stamp(index, 0), Command::Submit(request("sh", 1000)));
    }
    let end = End { stdout: b"out".to_vec().into(), ..End::bare(JobOutcome::Finished) };
    table.run(stamp(5, 0), Command::End { job: 1, worker: process(1, 1), attempt: 1, end });
    table.check();
    table
}

#[test]
fn garbage_is_refused_and_changes_nothing() {
    service_contract::garbage_changes_nothing(&mut busy(), &Command::Submit(request("sh", 0)).encode());
}

#[test]
fn a_damaged_snapshot_is_an_error_or_another_state_and_no_allocation() {
    service_contract::damage_costs_nothing(&busy());
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let mut table = busy();
    let before = saved(&table);
    let named = |name: &str| Request { files: vec![(name.to_string(), Default::default())], ..request("sh", 0) };
    let twice = Request { files: vec![named("a").files[0].clone(); 2], ..request("sh", 0) };
    let large = vec![b'x'; super::commands::REQUEST_BYTES_MAX];
    let wrong = [
        named(""),
        named("/etc/passwd"),
        named("a/../b"),
        named("."),
        named("a//b"),
        named("a\0b"),
        named("a\\b"),
        named(&"n".repeat(5000)),
        twice,
        Request { files: Vec::new(), ..request("sh", 0) },
        Request { stdin: large.into(), ..request("sh", 0) },
        Request { args: vec!["a\0".to_string()], ..request("sh", 0) },
        request("", 0),
        request("cobol", 0),
    ];
    for request in wrong {
        let said = format!("{:?} {}", request.files, request.language);
        let answer = table.run(stamp(9, 0), Command::Submit(request));
        assert!(matches!(answer, Answer::Refused(_)), "{said:.200}: {answer:?}");
    }
    assert_eq!(saved(&table), before);
    assert!(matches!(table.run(stamp(9, 0), Command::Submit(named("a/b.c"))), Answer::Submitted(4)));
}

#[test]
fn equal_jobs_spread_evenly() {
    let mut table = JobTable::default();
    for node in 1..=5 {
        let runtimes = ["sh".to_string()].into();
        table.run(stamp(node, 0), Command::Join { worker: process(node, 1), slots: 2, runtimes, trouble: None });
    }
    let mut rng = fastrand::Rng::with_seed(7);
    let (mut had, mut index) = ([0u64; 5], 5);
    for job in 1..=200 {
        index += 1;
        table.run(stamp(index, 0), Command::Submit(request("sh", 1000)));
        // Equal jobs end in the order in which they began, whenever that is.
        while job == 200 || rng.bool() {
            let all = (1..=5).map(|node| process(node, 1));
            let running =
                all.flat_map(|who| table.work_of(who).into_iter().map(move |(job, attempt)| (job, attempt, who)));
            let Some((job, attempt, worker)) = running.min() else { break };
            index += 1;
            had[worker.id.0 as usize - 1] += 1;
            let end = End::bare(JobOutcome::Finished);
            assert_eq!(table.run(stamp(index, 0), Command::End { job, worker, attempt, end }), Answer::Done);
        }
    }
    table.check();
    assert_eq!(had.iter().sum::<u64>(), 200);
    assert!(had.iter().all(|had| had.abs_diff(40) <= 2), "jobs by worker: {had:?}");
}
