//! When a node's next snapshot is due: after so many bytes of log or so many entries, whichever comes first.
//!
//! Not here: what a snapshot carries (`node/threads/core/`), how it is written (`writer.rs`, `store/snapshot/`).

use crate::settings::Settings;
use crate::types::NodeId;

/// Number of parts into which the interval between two snapshots is divided, so that nodes take turns.
const TURNS: u64 = 5;

/// Counts towards the next snapshot.
#[derive(Debug)]
pub struct SnapshotSchedule {
    bytes: u64,
    entries: u64,
    bytes_max: u64,
    entries_max: u64,
}

impl SnapshotSchedule {
    /// All nodes apply the same entries. Each begins its count at another number, so that they do not take their
    /// snapshots at the same moment.
    pub fn new(settings: &Settings, me: NodeId) -> SnapshotSchedule {
        let bytes_max = settings.snapshot_every_mb << 20;
        let entries_max = settings.snapshot_every_entries.unwrap_or(u64::MAX);
        let head_start = |most: u64| most / TURNS * (me.0 % TURNS);
        SnapshotSchedule { bytes: head_start(bytes_max), entries: head_start(entries_max), bytes_max, entries_max }
    }

    /// So much of the log was given to `apply`.
    pub fn count(&mut self, entries: u64, bytes: u64) {
        self.entries = self.entries.saturating_add(entries);
        self.bytes = self.bytes.saturating_add(bytes);
    }

    pub fn is_due(&self) -> bool {
        self.bytes >= self.bytes_max || self.entries >= self.entries_max
    }

    /// A snapshot is taken.
    pub fn reset(&mut self) {
        (self.bytes, self.entries) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use crate::node::snapshots::schedule::*;

    /// After how many entries of this size the first snapshots of a node are taken.
    fn due_at(settings: &Settings, me: u64, bytes: u64) -> Vec<u64> {
        let mut pace = SnapshotSchedule::new(settings, NodeId(me));
        let mut due = Vec::new();
        for entry in 1..=100_000 {
            pace.count(1, bytes);
            if pace.is_due() {
                pace.reset();
                due.push(entry);
            }
        }
        due.truncate(3);
        due
    }

    #[test]
    fn whichever_comes_first_and_each_node_in_its_turn() {
        let mut settings = Settings { snapshot_every_mb: 1, ..Settings::default() };
        assert_eq!(due_at(&settings, 5, 1 << 10), [1024, 2048, 3072], "by bytes");
        assert_eq!(due_at(&settings, 1, 1 << 10), [820, 1844, 2868], "its turn comes earlier");
        assert_eq!(due_at(&settings, 5, 1), [] as [u64; 0]);
        settings.snapshot_every_entries = Some(400);
        assert_eq!(due_at(&settings, 5, 1), [400, 800, 1200], "by entries");
        assert_eq!(due_at(&settings, 3, 1), [160, 560, 960]);
        assert_eq!(due_at(&settings, 5, 1 << 12), [256, 512, 768], "large ones by bytes");
    }
}
