//! Starting a sandbox: other processes of the same user are not counted against a job, and a command that never began
//! has no result, but the reason why it did not start.

use super::{BOMB, LIMITS, SandboxLimits, Scratch, attempt, finished, found, passable, request, sandbox, shell, text};
use crate::node::spawn;
use crate::services::jobs::{JobOutcome, Limits, Request};
use crate::types::ProcessLimit;
use crate::work::WorkError;
use crate::work::run::{Attempt, start_with_retries};
use crate::work::runtimes::AvailableRuntime;
use crate::work::sandbox::how_it_ended;
use crate::work::{leftovers, process_tree};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Number of threads of a desktop session.
const OTHERS: usize = 400;

/// Threads of this program's user that do nothing until the guard is dropped.
struct Idle {
    _let_go: Vec<mpsc::SyncSender<()>>,
}

impl Idle {
    fn new(count: usize) -> Idle {
        let begin = |_| {
            let (let_go, wait) = mpsc::sync_channel::<()>(1);
            spawn::spawn("idle", move || {
                let _ = wait.recv();
            })
            .expect("the system has room for threads");
            let_go
        };
        Idle { _let_go: (0..count).map(begin).collect() }
    }
}

#[test]
fn other_threads_of_the_user_do_not_count() {
    let _idle = Idle::new(OTHERS);
    let limits = Limits { processes: 8, ..LIMITS };
    for _ in 0..3 {
        let source = "for i in 1 2 3 4; do sleep 0.05 & done; wait; echo all";
        let end = attempt(&sandbox(), &Request { limits, ..request("shell", source) }, &mut |_, _| {}).unwrap();
        finished(&end, 0, "all\n");
    }
}

#[test]
fn the_kernel_bounds_the_processes_of_a_job_alone() {
    if sandbox().process_limit() == ProcessLimit::Watched {
        return eprintln!("skipped: this kernel counts all processes of a user together");
    }
    // Run directly, without the watching thread, which would end it as well.
    let (sandbox, dir, slot) = (sandbox(), passable(), std::process::id().wrapping_mul(16) + 11);
    let scratch = Scratch::create(&dir.path().join("1-1"), sandbox.user(slot), 1).unwrap();
    let said_by = |processes: u64, forks: u64| {
        let bounds = SandboxLimits { wall_s: 60, cpu_s: 50, data: 1 << 30, file: 1 << 20, processes };
        let script = format!("for i in $(seq {forks}); do sleep 30 >/dev/null 2>&1 & done; echo all");
        let output = sandbox.command(&["sh".into(), "-c".into(), script], scratch.path(), &[], slot, &bounds).output();
        output.map(|output| (text(&output.stdout), text(&output.stderr))).unwrap()
    };
    assert_eq!(said_by(64, 40).0, "all\n");
    let (out, err) = said_by(64, 80);
    assert!(out.is_empty() && err.to_lowercase().contains("fork"), "{out}{err}");
}

#[test]
fn a_fork_bomb_touches_no_other_slot() {
    let (tell, outcomes) = mpsc::sync_channel(3);
    let bomb = spawn::spawn("bomb", move || {
        (0..3).for_each(|_| tell.send(shell(BOMB).outcome).unwrap());
    });
    for number in 0..12 {
        let end = shell(&format!("for i in 1 2 3; do (sleep 0.02; echo {number}) & done; wait"));
        finished(&end, 0, &format!("{number}\n").repeat(3));
    }
    bomb.unwrap().join().unwrap();
    assert_eq!(outcomes.iter().collect::<Vec<_>>(), [const { JobOutcome::ProcessesExceeded }; 3]);
}

/// Runs a shell script with the detected shell, modified by `change`.
fn run_changed(change: impl FnOnce(&mut AvailableRuntime)) -> (Result<JobOutcome, WorkError>, Vec<u8>) {
    let (mut found, dir) = (found("shell").unwrap(), passable());
    change(&mut found);
    let mut heard = Vec::new();
    let attempt = Attempt {
        sandbox: &sandbox(),
        found: &found,
        request: &request("shell", "echo fine"),
        limits: LIMITS,
        scratch: dir.path().join("attempt"),
        slot: std::process::id().wrapping_mul(16) + 9,
        is_cancelled: &Arc::new(AtomicBool::new(false)),
        hear: &mut |_, bytes| heard.extend_from_slice(bytes),
    };
    (attempt.run().map(|end| end.outcome), heard)
}

#[test]
fn a_sandbox_that_does_not_start_is_no_end() {
    // A path below a file cannot be mounted: bubblewrap fails, as where namespaces are exhausted.
    let nowhere = PathBuf::from("/usr/bin/env/toolchain");
    let (ended, heard) = run_changed(|found| found.home = Some(nowhere));
    let why = ended.expect_err("it never began").to_string();
    assert!(why.contains("the sandbox did not start") && why.contains("bwrap"), "{why}");
    assert_eq!(text(&heard), "", "what the sandbox says is not the program's");
    // The sandbox is complete, but the program does not exist.
    let (ended, _) = run_changed(|found| found.runtime.run = vec!["no-such-program".into()]);
    let why = ended.expect_err("it never began").to_string();
    assert!(why.contains("no-such-program: not found"), "{why}");
    let (ended, heard) = run_changed(|_| {});
    assert_eq!((ended.unwrap(), text(&heard)), (JobOutcome::Finished, "fine\n".to_string()));
}

#[test]
fn a_sandbox_that_hangs_is_not_tried_again() {
    let is_cancelled = AtomicBool::new(false);
    let not_started = || WorkError::NotStarted { why: "it took more than 10 s".into() };
    let mut tries = 0;
    let ended: Result<(), WorkError> = start_with_retries(&is_cancelled, || {
        tries += 1;
        // Longer than [`START_TRIES_FOR`]: no retry begins after that.
        assert!(Command::new("sleep").arg("1.6").status().unwrap().success());
        Err(not_started())
    });
    assert!(matches!(ended, Err(WorkError::NotStarted { .. })));
    assert_eq!(tries, 1);
    // Tries that fail at once are repeated for that long, and the last one may succeed.
    let (mut tries, begun) = (0, Instant::now());
    let ended = start_with_retries(&is_cancelled, || {
        tries += 1;
        if tries == 6 { Ok(begun.elapsed()) } else { Err(not_started()) }
    });
    let took = ended.unwrap().as_millis();
    assert!((1400..2500).contains(&took), "{took} ms");
}

#[test]
fn a_sandbox_that_ends_without_a_word_tells_its_status() {
    let ended = |script: &str| Command::new("sh").args(["-c", script]).status().unwrap();
    assert_eq!(
        how_it_ended(ended("kill -9 $$"), ""),
        "the sandbox ended with signal: 9 (SIGKILL) and without a message"
    );
    assert_eq!(how_it_ended(ended("exit 3"), ""), "the sandbox ended with exit status: 3 and without a message");
    assert_eq!(how_it_ended(ended("exit 1"), "bwrap: no namespace"), "bwrap: no namespace");
    assert_eq!(how_it_ended(ended("kill -9 $$"), "half a word"), "half a word (signal: 9 (SIGKILL))");
}

#[test]
fn exit_codes_of_wrappers_are_not_mistaken_for_their_failure() {
    // The exit codes of bubblewrap, `timeout`, `prlimit` and the shell when they fail.
    for code in [1, 124, 125, 126, 127] {
        let end = shell(&format!("echo 'bwrap: Creating new namespace failed' >&2; exit {code}"));
        finished(&end, code, "");
    }
}

/// A node is killed while it starts a command, and starts again: wrapper processes that are just being forked must end,
/// too. bubblewrap's inner process waits forever for an outer one that was killed before it wrote the user mappings,
/// and with it anybody who reads the output of both.
#[test]
fn a_start_of_the_node_ends_sandboxes_that_are_being_set_up() {
    let (sandbox, dir, slot) = (sandbox(), passable(), std::process::id().wrapping_mul(16) + 13);
    let jobs = dir.path().join("jobs");
    let below = format!("{}/", jobs.display());
    let is_left = |pid: &String| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        text(&line).starts_with("bwrap\0") && text(&line).contains(&below)
    };
    for round in 0..15 {
        leftovers::reset_jobs_dir(&jobs).unwrap().iter().for_each(|old| leftovers::remove_old(old));
        let scratch = Scratch::create(&jobs.join("1-1"), sandbox.user(slot), 1).unwrap();
        let bounds = SandboxLimits { wall_s: 60, cpu_s: 5, data: 1 << 30, file: 1 << 20, processes: 64 };
        let mut command = sandbox.command(&["sleep", "60"].map(String::from), scratch.path(), &[], slot, &bounds);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // `timeout`, or the outer or the inner process of bubblewrap has begun.
        let deadline = Instant::now() + Duration::from_secs(10);
        while process_tree::descendants(child.id(), round % 3).is_empty() && Instant::now() < deadline {}
        leftovers::reset_jobs_dir(&jobs).unwrap().iter().for_each(|old| leftovers::remove_old(old));
        assert!(!child.wait().unwrap().success(), "it was killed");
        let pids = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|row| row.file_name().into_string().ok());
        let left: Vec<String> = pids.filter(is_left).collect();
        std::mem::forget(scratch);
        assert!(left.is_empty(), "round {round}: processes {left:?} go on");
    }
}
