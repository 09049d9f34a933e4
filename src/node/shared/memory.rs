//! The one budget for the bytes that all connections of this node hold, in and out.
//!
//! Everything that grows with what a client sends, or with what it does not read, holds a [`Reservation`]: bodies that
//! arrive, the queue of a transaction, replies that wait for their socket. So clients cannot use more than the budget.
//!
//! Invariants: M1 `used` is the sum of all reservations that exist. M2 what [`Reservation::resize`] grants keeps `used`
//! within the share for a reservation of this size: a large one is refused while there is room for small ones, and
//! these while there is room for request heads. So a client that fills the budget with large requests cannot block
//! health checks. M3 the first bytes of a connection are always granted, and health checks need no more:
//! `connections_max` bounds them.
//! Not here: limits of one connection (`limits.rs`), the number of connections (`node/handle.rs`).

use crate::outcome::MEMORY_FULL;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// Bytes that every connection may hold, whatever others hold: its first buffers, which suffice for a health check.
pub const FIRST_BYTES: usize = 8 << 10;
/// A request head with the buffer that it is read into.
const HEAD_BYTES: usize = 20 << 10;
/// The largest reservation that counts as small.
const SMALL_BYTES: usize = 64 << 10;
/// The default budget is a quarter of the machine's memory, and at most this.
const DEFAULT_BYTES_MAX: u64 = 1 << 30;

/// The budget has no room for this many bytes now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{MEMORY_FULL}")]
pub struct Full;

/// Bytes that may be held, and how many are.
#[derive(Debug)]
pub struct MemoryBudget {
    bytes_max: usize,
    used: AtomicUsize,
    refused: AtomicU64,
}

impl MemoryBudget {
    pub fn new(bytes_max: usize) -> Arc<MemoryBudget> {
        Arc::new(MemoryBudget { bytes_max, used: AtomicUsize::new(0), refused: AtomicU64::new(0) })
    }

    /// From the setting, in MiB; without it a quarter of the memory that this process may use, at most 1 GiB.
    pub fn of_setting(megabytes: Option<u64>) -> Arc<MemoryBudget> {
        let bytes = match megabytes {
            Some(megabytes) => megabytes << 20,
            None => memory_bytes().map_or(DEFAULT_BYTES_MAX, |all| (all / 4).min(DEFAULT_BYTES_MAX)),
        };
        MemoryBudget::new(usize::try_from(bytes).unwrap_or(usize::MAX))
    }

    /// An empty reservation.
    pub fn reservation(self: &Arc<MemoryBudget>) -> Reservation {
        Reservation { budget: Arc::clone(self), bytes: 0 }
    }

    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Bytes that are held now.
    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// How often a reservation could not grow.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// Up to which sum reservations of so many bytes are granted.
    fn share(&self, bytes: usize) -> usize {
        if bytes <= FIRST_BYTES {
            usize::MAX
        } else if bytes <= HEAD_BYTES {
            self.bytes_max
        } else if bytes <= SMALL_BYTES {
            self.bytes_max / 8 * 7
        } else {
            self.bytes_max / 4 * 3
        }
    }
}

/// Bytes that are held until it is dropped.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<MemoryBudget>,
    bytes: usize,
}

impl Reservation {
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// An empty reservation of the same budget.
    pub fn another(&self) -> Reservation {
        self.budget.reservation()
    }

    /// Changes the size of the reservation; a smaller one is always granted.
    ///
    /// # Errors
    /// When the budget has no room for them: the reservation keeps its size.
    pub fn resize(&mut self, bytes: usize) -> Result<(), Full> {
        let more = bytes.saturating_sub(self.bytes);
        if more > 0 {
            let before = self.budget.used.fetch_add(more, Relaxed);
            if before.saturating_add(more) > self.budget.share(bytes) {
                self.budget.used.fetch_sub(more, Relaxed);
                self.budget.refused.fetch_add(1, Relaxed);
                return Err(Full);
            }
        } else if bytes < self.bytes {
            self.budget.used.fetch_sub(self.bytes - bytes, Relaxed);
        }
        self.bytes = bytes;
        Ok(())
    }

    /// Changes the size for bytes that exist already; returns whether there is room for them. If not, the owner must
    /// soon free some.
    pub fn force(&mut self, bytes: usize) -> bool {
        if self.resize(bytes).is_ok() {
            return true;
        }
        self.budget.used.fetch_add(bytes - self.bytes, Relaxed);
        self.bytes = bytes;
        false
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Relaxed);
    }
}

/// Resident memory of this process in bytes; 0 where the system does not report it.
pub fn resident_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}

/// Memory that this process may use: the machine's, or a lower limit of a control group. `None`: unknown.
fn memory_bytes() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| of_meminfo(&text));
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    group_limits(Path::new("/sys/fs/cgroup"), &groups).into_iter().chain(machine).min()
}

fn of_meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes << 10)
}

/// Limits of this process' control group and of its parents, in version 2 (`0::/a/b`) and in version 1
/// (`5:memory:/a/b`). In a container the path may be one of the host, and the limit is at the root.
fn group_limits(root: &Path, groups: &str) -> Vec<u64> {
    let mut limits = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(kinds), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (base, file) = match kinds {
            "" => (root.to_path_buf(), "memory.max"),
            kinds if kinds.split(',').any(|kind| kind == "memory") => (root.join("memory"), "memory.limit_in_bytes"),
            _ => continue,
        };
        let inner = base.join(path.trim_start_matches('/'));
        let all = inner.ancestors().take_while(|folder| folder.starts_with(&base));
        limits.extend(all.filter_map(|folder| fs::read_to_string(folder.join(file)).ok()?.trim().parse::<u64>().ok()));
    }
    limits
}

#[cfg(test)]
mod tests {
    use crate::node::shared::memory::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn large_ones_leave_room_for_small_ones_and_these_for_heads() {
        let budget = MemoryBudget::new(64 * MIB);
        let mut all: Vec<Vec<Reservation>> = Vec::new();
        for (bytes, granted, used) in [
            (8 * MIB, 6, 48 * MIB),
            (SMALL_BYTES + 1, 0, 48 * MIB),
            (SMALL_BYTES, 128, 56 * MIB),
            (HEAD_BYTES + 1, 0, 56 * MIB),
            (HEAD_BYTES, 409, 56 * MIB + 409 * HEAD_BYTES),
            (FIRST_BYTES, 1000, 56 * MIB + 409 * HEAD_BYTES + 1000 * FIRST_BYTES),
        ] {
            let mut these: Vec<Reservation> = (0..1000).map(|_| budget.reservation()).collect();
            let found = these.iter_mut().filter_map(|it| it.resize(bytes).ok()).count();
            assert_eq!((found, budget.used()), (granted, used), "{bytes} bytes each");
            all.push(these);
        }
        // Who is refused holds what it held; to give some back is always granted.
        assert_eq!((all[0][6].resize(MIB), all[0][6].bytes()), (Err(Full), 0));
        all.truncate(1);
        assert_eq!(
            (all[0][0].resize(MIB), all[0][6].resize(8 * MIB), all[0][6].resize(7 * MIB)),
            (Ok(()), Err(Full), Ok(()))
        );
        assert_eq!(budget.used(), 48 * MIB);
        drop(all);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn memory_already_in_use_counts_even_beyond_the_budget() {
        let budget = MemoryBudget::new(4 * MIB);
        let mut one = budget.reservation();
        assert!(one.force(3 * MIB) && !one.force(5 * MIB));
        assert_eq!((budget.used(), one.another().resize(MIB)), (5 * MIB, Err(Full)));
        assert!(one.force(MIB));
        assert_eq!(budget.used(), MIB);
    }

    #[test]
    fn many_threads_never_get_more_than_there_is() {
        let budget = MemoryBudget::new(64 * MIB);
        std::thread::scope(|scope| {
            for at in 0..8 {
                let budget = &budget;
                scope.spawn(move || {
                    for round in 0..2000 {
                        let mut one = budget.reservation();
                        let is_granted = one.resize(((at + round) % 40 + 1) * MIB).is_ok();
                        // The sum may be higher for a moment, by those who are about to be refused.
                        assert!(!is_granted || one.bytes() <= 48 * MIB);
                    }
                });
            }
        });
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn the_default_follows_machine_and_control_group() {
        assert_eq!(of_meminfo("MemTotal:       24682336 kB\nMemFree: 1 kB\n"), Some(24_682_336 << 10));
        assert_eq!(of_meminfo("nothing"), None);
        let root = tempfile::tempdir().unwrap();
        for (file, text) in [
            ("memory.max", "max\n"),
            ("a/memory.max", "536870912\n"),
            ("a/b/memory.max", "max\n"),
            ("memory/c/memory.limit_in_bytes", "1048576\n"),
        ] {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let limits = |groups| group_limits(root.path(), groups);
        assert_eq!(limits("0::/a/b\n"), [536_870_912]);
        assert!(limits("0::/\n").is_empty());
        assert_eq!(limits("5:cpu,memory:/c\n3:cpu:/a\n"), [1_048_576]);
        assert_eq!(limits("0::/../a\n2:memory:/none\nnonsense\n"), limits("0::/../a\n"));
        assert_eq!(MemoryBudget::of_setting(Some(16)).bytes_max(), 16 << 20);
        let default = MemoryBudget::of_setting(None).bytes_max();
        assert!(default > 0 && default <= 1 << 30);
    }
}
