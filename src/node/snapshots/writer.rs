//! Body of the `snapshot` thread: writes a copy of the services' state beside the log, then removes what it covers.
//!
//! No other thread waits for it, but other threads use the same disk: it streams the state instead of building it in
//! memory, writes each piece to the disk separately, pauses for as long as the piece took, and removes large files in
//! steps. The log's syncs run in between.
//! Not here: when a snapshot is due (`node/threads/core/`), the copy (`node/threads/apply.rs`), the file
//! (`store/snapshot/`), snapshots between nodes (`transfer.rs`).

use super::witness;
use crate::node::shared::Shared;
use crate::node::shared::messages::{CoreInput, DiskJob};
use crate::raft::SnapshotMeta;
use crate::services::registry::Registry;
use crate::store::SnapshotSaver;
use crate::store::error::StoreError;
use crate::types::{Index, NodeKind};
use crossbeam_channel::bounded;
use log::{info, warn};
use std::io::{self, Write};
use std::time::{Duration, Instant};

/// The longest pause, however slow the disk is.
const REST_MAX: Duration = Duration::from_millis(50);

/// Saves a snapshot and removes the log that it covers. A disk error ends the process, a full disk does not.
pub fn save(shared: &Shared, registry: Registry, meta: &SnapshotMeta) {
    if shared.kind == NodeKind::Witness && !witness::await_release(shared, meta.index) {
        return;
    }
    let (begun, mut bytes) = (Instant::now(), ByteCounter(0));
    if let Err(e) = registry.snapshot(&mut bytes) {
        return warn!("cannot take a snapshot, so the log keeps growing: cannot read the state: {e}");
    }
    let saved = shared.snapshots().begin(meta, bytes.0).and_then(|saver| {
        saver.finish_after(|saver| registry.snapshot(&mut PacedWriter { saver, pace: SavePace::begin(), synced: 0 }))
    });
    if saved.is_ok() {
        registry.saved();
    }
    drop(registry);
    match saved {
        Ok(()) => {}
        Err(e @ (StoreError::NoSpace { .. } | StoreError::Transfer(_))) => {
            return warn!("cannot take a snapshot, so the log keeps growing: {e}");
        }
        Err(e) => shared.disk_or_exit(Err(e)),
    }
    shared.counters.snapshots_saved.record(begun.elapsed());
    info!("snapshot index={} bytes={}", meta.index, bytes.0);
    shared.event("snapshot", None, format!("snapshot of {} bytes at index {}", bytes.0, meta.index));
    remove_covered_log(shared, meta.index);
}

/// Removes the log that is covered by the snapshot at this index, which is durable.
pub fn remove_covered_log(shared: &Shared, index: Index) {
    shared.inboxes.to_core(CoreInput::SnapshotSaved(index));
    let (job, to_remove) = bounded(1);
    // Either fails only when the disk thread has ended; the next start removes the rest then.
    if shared.inboxes.disk.send(DiskJob::Compact { index, job }).is_ok()
        && let Ok(job) = to_remove.recv()
    {
        let mut pace = SavePace::begin();
        shared.disk_or_exit(job.run(&mut || pace.rest()));
    }
}

/// A writer that only counts.
pub struct ByteCounter(pub u64);

impl Write for ByteCounter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A writer that pauses after each piece that has reached the disk.
struct PacedWriter<'a> {
    saver: &'a mut SnapshotSaver,
    pace: SavePace,
    synced: u64,
}

impl Write for PacedWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.saver.write(bytes)?;
        if self.saver.synced() > self.synced {
            self.synced = self.saver.synced();
            self.pace.rest();
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.saver.flush()
    }
}

/// Pauses after each piece for as long as the piece took, so that others can use disk and processor.
pub struct SavePace {
    resumed: Instant,
}

impl SavePace {
    /// Begins a piece.
    pub fn begin() -> SavePace {
        SavePace { resumed: Instant::now() }
    }

    /// A piece is done.
    pub fn rest(&mut self) {
        std::thread::sleep(self.resumed.elapsed().min(REST_MAX));
        self.resumed = Instant::now();
    }
}
