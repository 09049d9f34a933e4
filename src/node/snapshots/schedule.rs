//! When a node's next snapshot is due: after so many bytes of log or so many entries, whichever comes first.
//!
//! Not here: what a snapshot carries (`node/threads/core/`), how it is written (`writer.rs`, `store/snapshot.rs`).

use crate::settings::Settings;
use crate::types::NodeId;

/// Into how many parts the way between two snapshots is divided, for nodes to take turns.
const TURNS: u64 = 5;

/// See the module.
#[derive(Debug)]
pub struct SnapshotPace {
    bytes: u64,
    entries: u64,
    bytes_max: u64,
    entries_max: u64,
}

impl SnapshotPace {
    /// All nodes apply the same entries; each begins its count elsewhere, so that they do not take their snapshots at one moment.
    pub fn new(settings: &Settings, me: NodeId) -> SnapshotPace {
        let bytes_max = settings.snapshot_every_mb << 20;
        let entries_max = settings.snapshot_every_entries.unwrap_or(u64::MAX);
        let head_start = |most: u64| most / TURNS * (me.0 % TURNS);
        SnapshotPace { bytes: head_start(bytes_max), entries: head_start(entries_max), bytes_max, entries_max }
    }

    /// So much of the log was handed on to be applied.
    pub fn count(&mut self, entries: u64, bytes: u64) {
        self.entries = self.entries.saturating_add(entries);
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Whether enough went by.
    pub fn is_due(&self) -> bool {
        self.bytes >= self.bytes_max || self.entries >= self.entries_max
    }

    /// A snapshot is taken.
    pub fn begin_anew(&mut self) {
        (self.bytes, self.entries) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use crate::node::snapshots::schedule::*;

    /// After how many entries of this size the first snapshots of a node are taken.
    fn due_at(settings: &Settings, me: u64, bytes: u64) -> Vec<u64> {
        let mut pace = SnapshotPace::new(settings, NodeId(me));
        let mut due = Vec::new();
        for entry in 1..=100_000 {
            pace.count(1, bytes);
            if pace.is_due() {
                pace.begin_anew();
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
