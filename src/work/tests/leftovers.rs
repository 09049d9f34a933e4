//! What a killed node process left is ended, unmounted and removed by the next start.
//!
//! Not here: where the folders are, and folders below `/run` (`places.rs`).

use super::{passable, sandbox};
use crate::node::spawn;
use crate::work::leftovers;
use crate::work::sandbox::SandboxLimits;
use crate::work::scratch::Scratch;
use std::time::Duration;

#[test]
fn a_start_clears_what_a_killed_process_left() {
    let dir = passable();
    let jobs = dir.path().join("jo bs");
    assert!(leftovers::reset_jobs_dir(&jobs).unwrap().is_empty());
    let left = Scratch::create(&jobs.join("1-1"), None, 1).unwrap();
    std::fs::write(left.job().join("file"), "x").unwrap();
    let path = left.path().to_path_buf();
    std::mem::forget(left);
    // Simulates a node that was killed before the parent-death signal of its programs was set.
    let bounds = SandboxLimits { wall_s: 60, cpu_s: 5, data: 1 << 30, file: 1 << 20, processes: 500 };
    let words = ["sleep", "60"].map(String::from);
    let sandbox = sandbox();
    if let Some(user) = sandbox.user(4000) {
        std::os::unix::fs::chown(&path, Some(user), Some(user)).unwrap();
        std::os::unix::fs::chown(path.join("job"), Some(user), Some(user)).unwrap();
    }
    let mut child = sandbox.command(&words, &path, &[], 4000, &bounds).spawn().unwrap();
    let old = leftovers::reset_jobs_dir(&jobs).unwrap();
    assert!(!child.wait().unwrap().success(), "its programs are ended");
    assert_eq!(old, [dir.path().join("jo bs.old-0")]);
    assert!(std::fs::read_dir(&jobs).unwrap().next().is_none());
    leftovers::remove_old(&old[0]);
    assert!(!old[0].exists(), "nothing is mounted there any more");
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!table.contains(&dir.path().display().to_string()), "{table}");
}

/// Two nodes start: one removes the folder that the other left when it was killed, while the other creates it again.
#[test]
fn a_start_waits_for_another_node_that_removes_its_folder() {
    let dir = passable();
    let jobs = dir.path().join("jobs");
    leftovers::reset_jobs_dir(&jobs).unwrap();
    let found = std::fs::File::open(&jobs).unwrap();
    fs2::FileExt::try_lock_exclusive(&found).unwrap();
    let (tell, cleared) = std::sync::mpsc::sync_channel(1);
    let starts = jobs.clone();
    let start = spawn::spawn("start", move || {
        let old = leftovers::reset_jobs_dir(&starts).unwrap();
        tell.send((old, leftovers::hold(&starts).unwrap())).unwrap();
    });
    assert!(cleared.recv_timeout(Duration::from_millis(200)).is_err(), "it is still being removed");
    leftovers::remove_old(&jobs);
    drop(found);
    let (_, _held) = cleared.recv().unwrap();
    start.unwrap().join().unwrap();
    assert!(jobs.exists(), "what was made anew is still there");
}
