//! Where attempts have their folders: in the node's own folder, or below `/run` where the users of slots cannot reach
//! that; and that jobs run in both.
//!
//! These tests run three times: as root, as an unprivileged user, and as root without the capability to mount, as in
//! most containers.

use super::{LIMITS, found, request, run_tests_as, text};
use crate::node::spawn;
use crate::services::jobs::{End, JobOutcome};
use crate::settings::SandboxKind;
use crate::work::leftovers;
use crate::work::run::Attempt;
use crate::work::sandbox::Sandbox;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The capability to mount, as a bit of a process's capability set.
const SYS_ADMIN: u64 = 1 << 21;

fn may_mount() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let rights = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(rights.trim(), 16).unwrap() & SYS_ADMIN != 0
}

/// A node's folder that is closed to other users, and the place of its attempts.
struct Closed {
    dir: tempfile::TempDir,
    run: PathBuf,
    name: String,
}

impl Closed {
    fn new() -> Closed {
        let name = format!("test-{}-{}", std::process::id(), fastrand::u64(..));
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o700)).unwrap();
        Closed { dir, run: Path::new("/run/phalanx-jobs").join(&name), name }
    }

    fn own(&self) -> PathBuf {
        self.dir.path().join("jobs")
    }
}

impl Drop for Closed {
    fn drop(&mut self) {
        // An error means that it was never created, or that the test has failed already.
        let _ = std::fs::remove_dir_all(&self.run);
    }
}

#[test]
fn folders_lie_where_the_users_of_slots_may_pass() {
    let closed = Closed::new();
    let placed = leftovers::jobs_dir(&closed.own(), &closed.name);
    if may_mount() {
        // Locked, because other nodes of this machine remove folders that no node has locked.
        let _held = leftovers::hold(&placed).unwrap();
        assert_eq!(placed, closed.run);
        assert!(std::fs::read_dir(&placed).unwrap().next().is_none(), "the probe is gone");
    } else {
        assert_eq!(placed, closed.own(), "a plain folder below /run has little room");
        assert!(!closed.run.exists(), "and nothing of the look stays there");
    }
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!table.contains(&closed.name), "{table}");
    std::fs::set_permissions(closed.dir.path(), PermissionsExt::from_mode(0o711)).unwrap();
    assert_eq!(leftovers::jobs_dir(&closed.own(), &closed.name), closed.own(), "it is open now");
    let relative = leftovers::jobs_dir(Path::new("data/jobs"), &closed.name);
    assert!(relative.is_absolute(), "a sandbox has other folders {}", relative.display());
}

fn run_in(sandbox: &Sandbox, folder: &Path, source: &str) -> End {
    let (found, request) = (found("shell").unwrap(), request("shell", source));
    let attempt = Attempt {
        sandbox,
        found: &found,
        request: &request,
        limits: LIMITS,
        scratch: folder.join("1-1"),
        slot: std::process::id(),
        is_cancelled: &AtomicBool::new(false),
        hear: &mut |_, _| {},
    };
    let end = attempt.run().unwrap();
    assert!(std::fs::read_dir(folder).unwrap().next().is_none(), "the attempt left its folder");
    end
}

#[test]
fn jobs_run_where_their_folders_were_placed() {
    let closed = Closed::new();
    for mode in [0o700, 0o711] {
        std::fs::set_permissions(closed.dir.path(), PermissionsExt::from_mode(mode)).unwrap();
        let placed = leftovers::jobs_dir(&closed.own(), &closed.name);
        leftovers::reset_jobs_dir(&placed).unwrap().iter().for_each(|old| leftovers::remove_old(old));
        let _held = leftovers::hold(&placed).unwrap();
        let tried = Sandbox::try_out(SandboxKind::Full, &placed);
        if rustix::process::geteuid().is_root() && !may_mount() && mode == 0o700 {
            // The users of slots have no access, and root cannot set up a sandbox: that is reported once, not by each
            // job.
            let why = tried.expect_err("a sandbox without the right to build one").to_string();
            assert!(why.contains("chmod o+x") && why.contains(&placed.display().to_string()), "{why}");
            continue;
        }
        let sandbox = tried.unwrap();
        let end = run_in(&sandbox, &placed, "pwd; echo x > y; cat y; ls /tmp; ls ..");
        let said = text(&end.stdout);
        assert!(said.starts_with("/job\nx\n"), "mode {mode:o}: {said} {} {:?}", text(&end.stderr), end.outcome);
        let full = run_in(&sandbox, &placed, "i=0; while :; do head -c 1000000 /dev/zero > f$i; i=$((i+1)); done");
        assert_eq!(full.outcome, JobOutcome::FilesExceeded, "mode {mode:o}: {}", text(&full.stderr));
    }
}

#[test]
fn folders_of_nodes_that_are_gone_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let (gone, there) = (run.join("gone"), run.join("there"));
    for jobs in [&gone, &there] {
        assert!(leftovers::reset_jobs_dir(jobs).unwrap().is_empty());
    }
    std::fs::create_dir_all(gone.join("1-1/job")).unwrap();
    let is_root = rustix::process::geteuid().is_root();
    let others = run.join("others");
    if is_root {
        std::fs::create_dir(&others).unwrap();
        std::os::unix::fs::chown(&others, Some(65_533), Some(65_533)).unwrap();
    }
    let held = leftovers::hold(&there).unwrap();
    leftovers::remove_abandoned_below(&run);
    assert!(!gone.exists() && there.exists(), "the other's node is there, although no job of it runs");
    assert_eq!(others.exists(), is_root, "whose user cares for it");
    let _ = std::fs::remove_dir(&others);
    drop(held);
    leftovers::remove_abandoned_below(&run);
    assert!(!run.exists(), "nothing stays");
    leftovers::remove_abandoned_below(&run);
}

/// Nodes that start at the same time remove folders that nobody has locked, and their parent if it is empty: one that
/// another node is about to lock as well, but never one that it has locked.
#[test]
fn a_folder_stays_while_other_nodes_remove_abandoned_ones() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let is_over = Arc::new(AtomicBool::new(false));
    let begin = |_| {
        let (run, is_over) = (run.clone(), Arc::clone(&is_over));
        let remove = move || {
            while !is_over.load(Ordering::Relaxed) {
                leftovers::remove_abandoned_below(&run);
            }
        };
        spawn::spawn("other", remove).unwrap()
    };
    let others: Vec<_> = (0..3).map(begin).collect();
    let jobs = run.join("jobs");
    let until = Instant::now() + Duration::from_secs(3);
    let mut wrong = Vec::new();
    while Instant::now() < until {
        match leftovers::hold(&jobs) {
            Err(e) => wrong.push(e.to_string()),
            Ok(_held) => {
                let soon = Instant::now() + Duration::from_millis(1);
                while jobs.is_dir() && Instant::now() < soon {}
                if !jobs.is_dir() {
                    wrong.push("it was removed".into());
                }
            }
        }
    }
    is_over.store(true, Ordering::Relaxed);
    others.into_iter().for_each(|other| other.join().unwrap());
    assert!(wrong.is_empty(), "{} times: {}", wrong.len(), wrong[0]);
}

/// Root in a container usually may not mount: then files are counted by walking through the folders, and `/run` is not
/// used.
#[test]
fn root_who_may_not_mount_has_plain_folders() {
    const TESTS: [&str; 4] = [
        "places::folders_lie_where_the_users_of_slots_may_pass",
        "places::jobs_run_where_their_folders_were_placed",
        "too_many_files_are_reported",
        "leftovers::a_start_clears_what_a_killed_process_left",
    ];
    run_tests_as(&["--bounding-set=-sys_admin", "--inh-caps=-sys_admin"].map(String::from), &TESTS);
}

/// Root of a user namespace that has no other ids, as in a container that an ordinary user runs without a line in
/// `/etc/subuid`.
#[test]
fn root_without_users_for_jobs_gets_advice() {
    const NAME: &str = "work::tests::places::root_without_users_for_jobs_gets_advice";
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap();
    if map.split_whitespace().last() != Some("1") {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user"]).arg(std::env::current_exe().unwrap()).args([NAME, "--exact"]);
        let output = command.output().unwrap();
        let said = text(&output.stdout);
        return assert!(output.status.success() && said.contains(" 1 passed"), "{said}{}", text(&output.stderr));
    }
    let dir = tempfile::tempdir().unwrap();
    let why = Sandbox::try_out(SandboxKind::Full, dir.path()).expect_err("jobs would have to be users").to_string();
    for wanted in ["60000 to 64999", "/proc/self/uid_map maps only 0 to 0", "/etc/subuid", "jobs_sandbox to \"limits\""]
    {
        assert!(why.contains(wanted), "{why}");
    }
    Sandbox::try_out(SandboxKind::Limits, dir.path()).unwrap();
}
