//! Counts the processes of one sandbox in its own process namespace, which stays fast on a busy machine.
//!
//! A process tree is read one process at a time, and each read waits for the kernel lock under which processes start
//! and end, which a fork bomb holds almost permanently. The sandbox has its own `/proc`, with its own processes only; a
//! process that may access the sandbox's first process may list that `/proc`, root or not.
//! Not here: what the processes use (`process_tree.rs`), stopping a job with too many of them (`run.rs`).

use rustix::fs::{AtFlags, Dir, Mode, OFlags, fstat, open, stat, statat};
use std::os::fd::OwnedFd;

/// Link count of a folder without subfolders. `/proc/PID/task` has one more link for each thread.
const LINKS_OF_EMPTY: u64 = 2;

/// The `/proc` of a sandbox.
#[derive(Debug)]
pub struct Namespace {
    proc: OwnedFd,
    /// Path of the first process's `task` folder in the outer `/proc`, because the sandbox hides its own `/proc/1`.
    first: String,
}

impl Namespace {
    /// Returns the namespace of the sandbox with this first process, `None` if the sandbox does not have its own
    /// `/proc` yet or may not be accessed.
    pub fn of(first: u32) -> Option<Namespace> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let proc = open(format!("/proc/{first}/root/proc"), flags, Mode::empty()).ok()?;
        // Before the sandbox is set up, or when it has ended and its process id is reused, this path leads to the
        // `/proc` of this process.
        let is_own = fstat(&proc).ok()?.st_dev != stat("/proc").ok()?.st_dev;
        is_own.then(|| Namespace { proc, first: format!("/proc/{first}/task") })
    }

    /// Returns the number of threads of all processes, or `None` if they cannot be listed. Stops counting beyond
    /// `most`.
    pub fn count(&self, most: u64) -> Option<u64> {
        let names = Dir::read_from(&self.proc).ok()?.flatten().map(|row| row.file_name().to_owned());
        let processes: Vec<_> = names.filter(|name| name.to_bytes().iter().all(u8::is_ascii_digit)).collect();
        let mut count = processes.len() as u64;
        // Each process has at least one thread, which is counted already.
        for name in processes {
            if count > most {
                break;
            }
            let threads = match name.to_bytes() {
                b"1" => stat(&self.first),
                name => statat(&self.proc, [name, b"/task"].concat(), AtFlags::empty()),
            };
            count += threads.map_or(0, |it| it.st_nlink.saturating_sub(LINKS_OF_EMPTY + 1));
        }
        Some(count)
    }
}
