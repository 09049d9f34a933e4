//! Fork bombs: they are detected soon, also on a busy machine, because the monitoring thread has a higher priority and
//! counts the processes in one step.
//!
//! These tests run twice: as root, and as an unprivileged user.

use super::{LIMITS, attempt, finished, passable, request, run, sandbox, shell, text};
use crate::lab::poll::wait_until;
use crate::services::jobs::{JobOutcome, Limits, Request};
use crate::work::namespace::Namespace;
use crate::work::process_tree;
use crate::work::sandbox::SandboxLimits;
use crate::work::scratch::Scratch;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Forks as fast as it can and retries failed forks: it never ends by itself, and each of its processes is busy.
const BOMB_IN_C: &str = r#"
    #include <unistd.h>
    int main() { write(1, "begun\n", 6); for (;;) fork(); }"#;

/// Programs that use all processors until the guard is dropped.
struct Busy(Vec<Child>);

impl Busy {
    fn new(count: usize) -> Busy {
        let begin = |_| Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        Busy((0..count).map(begin).collect())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for child in &mut self.0 {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

#[test]
fn a_fork_bomb_in_c_is_noticed_soon_on_a_busy_machine() {
    let processors = std::thread::available_parallelism().unwrap().get();
    let _busy = Busy::new(2 * processors);
    let limits = Limits { wall_ms: 60_000, cpu_ms: 60_000, ..LIMITS };
    let request = Request { limits, ..request("c", BOMB_IN_C) };
    let mut all_took = Vec::new();
    // Other tests run at the same time, so the median of three is compared.
    for _ in 0..3 {
        let mut begun = None;
        let Some(end) = attempt(&sandbox(), &request, &mut |_, _| begun = begun.or_else(|| Some(Instant::now())))
        else {
            return;
        };
        assert_eq!(end.outcome, JobOutcome::ProcessesExceeded, "{}", text(&end.stderr));
        let took = begun.map_or(Duration::from_millis(end.run_ms), |begun| begun.elapsed());
        all_took.push(took);
    }
    all_took.sort_unstable();
    assert!(all_took[1] < Duration::from_secs(3), "{all_took:?}");
}

#[test]
fn programs_give_way_to_their_watcher() {
    let own = Command::new("nice").output().unwrap().stdout;
    let own: i32 = text(&own).trim().parse().unwrap();
    finished(&shell("nice"), 0, &format!("{}\n", (own + 10).min(19)));
}

#[test]
fn the_processes_of_a_sandbox_are_counted_in_one_look() {
    let (sandbox, dir, slot) = (sandbox(), passable(), std::process::id().wrapping_mul(16) + 13);
    let scratch = Scratch::create(&dir.path().join("1-1"), sandbox.user(slot), 1).unwrap();
    let bounds = SandboxLimits { wall_s: 60, cpu_s: 50, data: 1 << 30, file: 1 << 20, processes: 64 };
    let words = ["sh", "-c", "for i in 1 2 3 4 5; do sleep 60 & done; : > ready; wait"].map(String::from);
    let mut command = sandbox.command(&words, scratch.path(), &[], slot, &bounds);
    let mut child = command.stdin(Stdio::null()).spawn().unwrap();
    wait_until("all are there", Duration::from_secs(20), || scratch.job().join("ready").exists().then_some(()))
        .unwrap();
    assert!(Namespace::of(std::process::id()).is_none(), "this program is in no sandbox");
    let first = process_tree::descendants(child.id(), sandbox.levels())[0];
    let namespace = Namespace::of(first).expect("whoever started it may look into it");
    // The sandbox's first process, the shell, and the processes that the shell started.
    assert_eq!(namespace.count(1000), Some(7));
    assert!(namespace.count(3).is_some_and(|count| count > 3));
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("none is left", Duration::from_secs(20), || (namespace.count(1000) == Some(0)).then_some(())).unwrap();
}

#[test]
fn threads_are_counted_where_the_processes_of_a_sandbox_are() {
    let source = "import threading, time\nfor _ in range(60): threading.Thread(target=time.sleep, args=(30,)).start()";
    let Some(end) = run(&request("python", source)) else { return };
    assert_eq!(end.outcome, JobOutcome::ProcessesExceeded, "{}", text(&end.stderr));
}
