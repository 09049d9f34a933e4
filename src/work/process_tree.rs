//! A process with all its descendants, as `/proc` shows them: how many there are, what they use, and which deleted
//! files they have open.
//!
//! Without a full sandbox, a child whose parent has ended is no longer in the tree: such processes are recognized by
//! the `HOME` of their environment, which they inherit. A process that also changes `HOME` escapes; in that mode every
//! client is trusted. Processes that end during a scan are not counted. Not here: enforcing the limits (`run.rs`).

use super::namespace::Namespace;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Maximum number of threads of one process whose `/proc` files are tried.
const THREADS_ASKED: usize = 64;
/// Maximum number of processes of a tree that are listed.
const MEMBERS_MAX: usize = 10_000;
/// Stops scanning beyond this many open files.
const OPEN_MAX: usize = 20_000;
/// When reading the processes takes longer than this, they are counted again; the scan stops if there are too many by
/// then.
const COUNT_AGAIN: Duration = Duration::from_millis(5);
/// How long killing is repeated while processes start others, and the pause between two rounds.
const KILL_MAX: Duration = Duration::from_secs(2);
const KILL_AGAIN: Duration = Duration::from_millis(1);

/// The processes of one command: a process tree, and optionally all processes with a given home.
#[derive(Clone, Debug)]
pub struct ProcessTree {
    /// Root of the process tree.
    pub pid: u32,
    /// Number of levels at the top of the tree that are not counted (wrapper programs).
    pub wrapper_levels: usize,
    /// If given, all processes with this `HOME` in their environment belong to the tree, too.
    pub home: Option<PathBuf>,
}

/// What a tree of processes uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Number of threads of all processes.
    pub processes: u64,
    /// Private memory, and each process's proportional share of shared memory, in KiB; without file pages that can be
    /// read again.
    pub memory_kib: u64,
    /// Processor time of the processes that exist and of their children that have ended, in milliseconds.
    pub cpu_ms: u64,
}

/// Sizes of the files without a name (memory files and deleted files) that the processes of a tree have open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnlinkedFiles {
    /// Bytes of files in memory (`memfd_create`).
    pub memory_bytes: u64,
    /// Bytes of removed files on the given device.
    pub device_bytes: u64,
}

/// Reads what the processes of a tree use; stops if there are more than `most`. The processes are counted first,
/// because reading one waits for forks in progress, and fast-forking processes may have ended before they are read.
/// With a `namespace` they are counted there, and counted again if reading takes long.
pub fn usage(tree: &ProcessTree, namespace: Option<&Namespace>, most: u64) -> Usage {
    let in_namespace = || namespace.and_then(|namespace| namespace.count(most));
    let mut usage = Usage::default();
    let members = match in_namespace() {
        Some(count) => {
            usage.processes = count;
            if count > most { Vec::new() } else { members(tree) }
        }
        None => counted_members(tree, most, &mut usage.processes),
    };
    let mut counted = Instant::now();
    for pid in members {
        if usage.processes > most {
            break;
        }
        usage.memory_kib += memory_kib(pid);
        usage.cpu_ms += cpu_ms(pid);
        if counted.elapsed() > COUNT_AGAIN {
            usage.processes = in_namespace().unwrap_or(usage.processes);
            counted = Instant::now();
        }
    }
    usage
}

/// Returns the processes of a tree and adds the number of their threads to `count`. Stops once `count` exceeds
/// `most`.
fn counted_members(tree: &ProcessTree, most: u64, count: &mut u64) -> Vec<u32> {
    let mut members = Vec::new();
    // Processes with the given home are found only by reading all processes, so their group is counted first.
    if tree.home.is_some() && is_group_beyond(tree.pid, most.saturating_add(tree.wrapper_levels as u64)) {
        *count = most.saturating_add(1);
        return members;
    }
    each(tree, |pid| {
        *count += threads(pid);
        members.push(pid);
        *count <= most
    });
    members
}

/// Returns the process ids of a tree, the root of the tree first, at most [`MEMBERS_MAX`].
pub fn members(tree: &ProcessTree) -> Vec<u32> {
    let mut members = Vec::new();
    each(tree, |pid| {
        members.push(pid);
        members.len() < MEMBERS_MAX
    });
    members
}

/// Returns the sizes of the files without a name that these processes have open. Deleted files count if they are on
/// `device`.
pub fn unlinked_files(tree: &ProcessTree, device: u64) -> UnlinkedFiles {
    let (mut found, mut seen, mut looked_at) = (UnlinkedFiles::default(), BTreeSet::new(), 0);
    each(tree, |pid| {
        let rows = of_a_living_thread(pid, "fd", |path| {
            let rows: Vec<_> = fs::read_dir(path).ok()?.flatten().take(OPEN_MAX).collect();
            (!rows.is_empty()).then_some(rows)
        });
        for row in rows.into_iter().flatten() {
            looked_at += 1;
            let Ok(target) = fs::read_link(row.path()) else { continue };
            let target = target.to_string_lossy();
            let is_memory = target.starts_with("/memfd:");
            if !is_memory && !target.ends_with(" (deleted)") {
                continue;
            }
            let Ok(it) = fs::metadata(row.path()) else { continue };
            if !seen.insert((it.dev(), it.ino())) {
                continue;
            }
            if is_memory {
                found.memory_bytes += it.blocks() * 512;
            } else if it.dev() == device {
                found.device_bytes += it.blocks() * 512;
            }
        }
        looked_at < OPEN_MAX
    });
    found
}

/// Calls `is_next` with each process of the tree until it returns `false`.
fn each(tree: &ProcessTree, mut is_next: impl FnMut(u32) -> bool) {
    let (mut level, mut seen) = (vec![tree.pid], BTreeSet::new());
    for _ in 0..tree.wrapper_levels {
        seen.extend(&level);
        level = level.into_iter().flat_map(children).collect();
    }
    let mut others = tree.home.iter().flat_map(|home| all().filter(move |pid| has_home(*pid, |its| its == home)));
    while let Some(pid) = level.pop().or_else(|| others.next()) {
        if !seen.insert(pid) {
            continue;
        }
        if !is_next(pid) {
            break;
        }
        level.extend(children(pid));
    }
}

/// Returns the processes exactly `levels` levels below this one.
pub fn descendants(pid: u32, levels: usize) -> Vec<u32> {
    (0..levels).fold(vec![pid], |level, _| level.into_iter().flat_map(children).collect())
}

/// Whether a process has a matching `HOME`; `false` if this process may not read its environment.
pub fn has_home(pid: u32, is_meant: impl Fn(&Path) -> bool) -> bool {
    let pairs = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let home = pairs.split(|byte| *byte == 0).find_map(|pair| pair.strip_prefix(b"HOME="));
    home.is_some_and(|home| is_meant(Path::new(OsStr::from_bytes(home))))
}

/// Kills all matching processes, also those that they start in the meantime: the list of processes is read at once, and
/// a process that was forked after that is only in the next one. Gives up after [`KILL_MAX`] with a warning.
pub fn kill_all(is_meant: impl Fn(u32) -> bool) {
    let until = Instant::now() + KILL_MAX;
    loop {
        let left: Vec<u32> = all().filter(|pid| is_meant(*pid)).collect();
        if left.is_empty() {
            return;
        }
        if Instant::now() >= until {
            return log::warn!("{} processes of jobs do not end", left.len());
        }
        for pid in left.into_iter().filter_map(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
            // An error means that the process has ended meanwhile.
            let _ = kill_process(pid, Signal::KILL);
        }
        std::thread::sleep(KILL_AGAIN);
    }
}

fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

fn threads(pid: u32) -> u64 {
    fs::read_dir(format!("/proc/{pid}/task")).map_or(0, |threads| threads.count() as u64)
}

/// Returns the memory of one process in KiB: its private pages and its proportional share of shared pages. Subtracting
/// shared pages instead would miss a mapping that all processes of a job share.
fn memory_kib(pid: u32) -> u64 {
    let rollup =
        of_a_living_thread(pid, "smaps_rollup", |path| fs::read_to_string(path).ok().filter(|it| !it.is_empty()));
    let rollup = rollup.unwrap_or_default();
    let of = |key: &str| {
        let line = rollup.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    match (of("Pss_Anon:"), of("Pss_Shmem:"), of("Pss:")) {
        (Some(own), Some(shared), _) => own + shared,
        (_, _, Some(all)) => all,
        _ => resident_kib(pid),
    }
}

/// Reads a file of any living thread of a process: the first thread may have ended, and its files are empty then.
fn of_a_living_thread<T>(pid: u32, file: &str, read: impl Fn(&Path) -> Option<T>) -> Option<T> {
    read(Path::new(&format!("/proc/{pid}/{file}"))).or_else(|| {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        threads.take(THREADS_ASKED).find_map(|thread| read(&thread.path().join(file)))
    })
}

/// Resident memory without shared pages, where the system reports nothing more exact.
fn resident_kib(pid: u32) -> u64 {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let mut numbers = statm.split_whitespace().filter_map(|number| number.parse::<u64>().ok());
    let (resident, shared) = (numbers.nth(1).unwrap_or(0), numbers.next().unwrap_or(0));
    resident.saturating_sub(shared) * rustix::param::page_size() as u64 / 1024
}

/// Whether a process group has more than `most` processes.
fn is_group_beyond(group: u32, most: u64) -> bool {
    let is_its = |pid: &u32| stat(*pid).split_whitespace().nth(2).is_some_and(|its| its.parse() == Ok(group));
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    all().filter(is_its).nth(most).is_some()
}

/// Process ids of all processes of the machine.
fn all() -> impl Iterator<Item = u32> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    pids.filter_map(|row| row.file_name().to_str()?.parse::<u32>().ok())
}

/// Returns the fields of `/proc/PID/stat` after the process name, which may contain any characters.
fn stat(pid: u32) -> String {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').map_or("", |(_, after)| after).to_string()
}

fn cpu_ms(pid: u32) -> u64 {
    // The times are fields 12 to 15 after the name.
    let ticks: u64 =
        stat(pid).split_whitespace().skip(11).take(4).filter_map(|number| number.parse::<u64>().ok()).sum();
    ticks * 1000 / rustix::param::clock_ticks_per_second()
}
