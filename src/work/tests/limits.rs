//! The mode without a full sandbox (`jobs_sandbox` `limits`): programs that see the whole machine are still stopped,
//! reported correctly, and leave neither processes nor files.

use super::{LIMITS, PATIENT, attempt, fill_with_empty_files, finished, request, text};
use crate::lab::poll::wait_until;
use crate::services::jobs::{End, JobOutcome, Limits, Request};
use crate::settings::SandboxKind;
use crate::work::leftovers;
use crate::work::monitor::OutputStream;
use crate::work::sandbox::{Sandbox, SandboxLimits};
use crate::work::scratch::Scratch;
use std::time::{Duration, Instant};

fn sandbox() -> Sandbox {
    Sandbox::try_out(SandboxKind::Limits, &std::env::temp_dir()).expect("prlimit and timeout are on every Linux")
}

/// A number that no other program of this machine has among its arguments.
fn mark() -> String {
    (1_000_000_000 + fastrand::u64(0..1_000_000_000)).to_string()
}

/// Processes that have this argument.
fn marked(mark: &str) -> Vec<String> {
    let pids = std::fs::read_dir("/proc").unwrap().flatten().map(|row| row.path());
    let lines = pids.filter_map(|pid| std::fs::read(pid.join("cmdline")).ok()).map(|line| text(&line));
    lines.filter(|line| line.split('\0').any(|word| word == mark)).collect()
}

/// Waits, because killed processes take a moment to disappear.
#[track_caller]
fn nothing_is_left(mark: &str) {
    let gone = wait_until("no process is left", Duration::from_secs(5), || marked(mark).is_empty().then_some(()));
    assert!(gone.is_ok(), "{:?}", marked(mark));
}

/// Runs a program whose first argument is its mark; asserts that nothing of it is left.
fn run_as(language: &str, limits: Limits, source: &str, hear: &mut dyn FnMut(&str)) -> Option<End> {
    let mark = mark();
    let request = Request { limits, args: vec![mark.clone()], ..request(language, source) };
    let begun = Instant::now();
    let end = attempt(&sandbox(), &request, &mut |_: OutputStream, _| hear(&mark))?;
    let most = Duration::from_millis(limits.wall_ms) + Duration::from_secs(8);
    assert!(begun.elapsed() < most, "{:?}", begun.elapsed());
    nothing_is_left(&mark);
    Some(end)
}

fn shell(limits: Limits, source: &str) -> End {
    run_as("shell", limits, source, &mut |_| {}).expect("every machine has a shell")
}

#[test]
fn a_fork_bomb_is_stopped_without_a_sandbox() {
    // With `exec` the first process stays: it has no need to fork, which fails by then.
    let end = shell(LIMITS, "b() { b $1 | b $1 & }; b $1; exec sleep $1");
    assert_eq!(end.outcome, JobOutcome::ProcessesExceeded, "{}", text(&end.stderr));
}

#[test]
fn a_memory_eater_is_stopped_without_a_sandbox() {
    for source in [
        "x = []\nwhile True: x.append(bytearray(1 << 20))",
        "import os, time\nif os.fork() == 0:\n  os.setsid()\n  x = []\n  while True: x.append(bytearray(1 << 20))\ntime.sleep(60)",
    ] {
        let Some(end) = run_as("python", LIMITS, source, &mut |_| {}) else { return };
        assert_eq!(end.outcome, JobOutcome::MemoryExceeded, "{source} {}", text(&end.stderr));
    }
}

#[test]
fn endless_output_is_cut_without_a_sandbox() {
    let end = shell(LIMITS, "while :; do echo 0123456789012345678901234567890123456789; done & sleep $1");
    assert_eq!(end.outcome, JobOutcome::OutputExceeded);
    assert_eq!(end.stdout.len() + end.stderr.len(), LIMITS.output_bytes as usize);
}

#[test]
fn a_file_filler_is_stopped_without_a_sandbox() {
    let large = shell(LIMITS, "exec head -c 9000000 /dev/zero > large");
    assert_eq!((large.outcome, large.signal), (JobOutcome::FilesExceeded, Some(25)));
    let many = shell(LIMITS, "i=0; while :; do head -c 1000000 /dev/zero > f$i; i=$((i+1)); done");
    assert_eq!(many.outcome, JobOutcome::FilesExceeded);
    let empty = shell(PATIENT, &fill_with_empty_files("$TMPDIR"));
    assert_eq!(empty.outcome, JobOutcome::FilesExceeded, "files without content count, also in its /tmp {empty:?}");
    let unlinked = "for i in 1 2 3 4; do exec 9>f; rm f; head -c 7000000 /dev/zero >&9; sleep $1 & done; sleep $1";
    assert_eq!(
        shell(LIMITS, unlinked).outcome,
        JobOutcome::FilesExceeded,
        "removed files count as long as they are open"
    );
}

/// Children with sessions of their own, one of them without its parent, and all ignoring every signal that can be
/// ignored.
const DETACHED: &str = "trap '' TERM INT HUP; setsid sleep $1 & (setsid sh -c 'sleep $1 & sleep $1' sh $1 &)";

#[test]
fn detached_children_end_with_their_program() {
    let limits = Limits { wall_ms: 500, ..LIMITS };
    let end = shell(limits, &format!("{DETACHED}; while :; do sleep 1; done"));
    assert_eq!(end.outcome, JobOutcome::TimedOut);
    let left = shell(LIMITS, &format!("({DETACHED}) > /dev/null 2>&1; echo done"));
    finished(&left, 0, "done\n");
    let killed = shell(LIMITS, &format!("({DETACHED}) > /dev/null 2>&1; kill -KILL $$"));
    assert_eq!((killed.outcome, killed.signal), (JobOutcome::Finished, Some(9)));
}

#[test]
fn children_were_there_before_they_were_ended() {
    let mut most = 0;
    let source = format!("{DETACHED}; while :; do echo; sleep 0.02; done");
    let limits = Limits { wall_ms: 1000, ..LIMITS };
    run_as("shell", limits, &source, &mut |mark| most = most.max(marked(mark).len()));
    assert!(most >= 5, "the tests above would see nothing: at most {most} were seen");
}

#[test]
fn a_start_ends_detached_children_of_a_killed_process() {
    let dir = super::passable();
    let jobs = dir.path().join("jobs");
    leftovers::reset_jobs_dir(&jobs).unwrap();
    let left = Scratch::create(&jobs.join("1-1"), None, 1).unwrap();
    let path = left.path().to_path_buf();
    std::mem::forget(left);
    let (mark, other) = (mark(), mark());
    let bounds = SandboxLimits { wall_s: 60, cpu_s: 5, data: 1 << 30, file: 1 << 20, processes: 500 };
    let words = ["sh", "-c", DETACHED, "sh", &mark].map(String::from);
    let mut child = sandbox().command(&words, &path, &[], 0, &bounds).spawn().unwrap();
    assert!(child.wait().unwrap().success());
    // A process of the same name that is not part of any job, with another home.
    let mut bystander = std::process::Command::new("sleep").arg(&other).env("HOME", dir.path()).spawn().unwrap();
    wait_until("they are there", Duration::from_secs(5), || (marked(&mark).len() >= 3).then_some(())).unwrap();
    leftovers::reset_jobs_dir(&jobs).unwrap().iter().for_each(|old| leftovers::remove_old(old));
    nothing_is_left(&mark);
    assert_eq!(bystander.try_wait().unwrap(), None, "it belongs to no job");
    bystander.kill().unwrap();
    bystander.wait().unwrap();
}
