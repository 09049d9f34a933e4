//! A process with all its children, as `/proc` shows them: how many there are and how much memory they have.
//!
//! What is gone while one looks is not counted. Not here: what is done about it (`run.rs`).

use std::fs;

/// Beyond so many processes nobody counts on: it is too many anyway.
const SEEN_MAX: usize = 4096;

/// What a tree of processes uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processes, each thread of theirs counted.
    pub processes: usize,
    /// Memory that they have to themselves or share, in KiB.
    pub memory_kib: u64,
}

/// Looks at the process and all its children, except for `outer` levels at the top (the cage's own).
pub fn usage(pid: u32, outer: usize) -> Usage {
    let mut level = vec![pid];
    for _ in 0..outer {
        level = level.into_iter().flat_map(children).collect();
    }
    let mut usage = Usage::default();
    while let Some(pid) = level.pop() {
        usage.processes += threads(pid);
        usage.memory_kib += memory_kib(pid);
        if usage.processes >= SEEN_MAX {
            break;
        }
        level.extend(children(pid));
    }
    usage
}

fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

fn threads(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count)
}

fn memory_kib(pid: u32) -> u64 {
    // Pages of 4 KiB: resident without those of files, which others have as well.
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let mut numbers = statm.split_whitespace().filter_map(|number| number.parse::<u64>().ok());
    let (resident, shared) = (numbers.nth(1).unwrap_or(0), numbers.next().unwrap_or(0));
    resident.saturating_sub(shared) * rustix::param::page_size() as u64 / 1024
}
