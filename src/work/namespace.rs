//! Counts the processes of one sandbox in its own process namespace: one short list, however busy the machine is.
//!
//! A tree of processes is read one process at a time, and each read waits for the lock under which processes start and
//! end, which a fork bomb holds all the time. The sandbox has its own `/proc`, with its own processes only; a process
//! that may access the sandbox's first process may list that `/proc`, root or not.
//! Not here: what its processes use (`process_tree.rs`), what follows (`run.rs`).

use rustix::fs::{AtFlags, Dir, Mode, OFlags, fstat, open, stat, statat};
use std::os::fd::OwnedFd;

/// Links of a folder without subfolders: each link more is a thread.
const LINKS_OF_EMPTY: u64 = 2;

/// The `/proc` of a sandbox.
#[derive(Debug)]
pub struct Namespace {
    proc: OwnedFd,
    /// Threads of its first process, which has a hidden folder in that `/proc`.
    first: String,
}

impl Namespace {
    /// The namespace of the sandbox with this first process. `None`: the sandbox does not have its own `/proc` yet, or
    /// may not be accessed.
    pub fn of(first: u32) -> Option<Namespace> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let proc = open(format!("/proc/{first}/root/proc"), flags, Mode::empty()).ok()?;
        // Before the sandbox is set up, or when it is gone and its process number is reused, this path leads to this
        // program's own `/proc`.
        let is_own = fstat(&proc).ok()?.st_dev != stat("/proc").ok()?.st_dev;
        is_own.then(|| Namespace { proc, first: format!("/proc/{first}/task") })
    }

    /// The number of its threads, over all processes. Stops counting beyond `most`.
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
