//! Bytes that survive a power cut: the log, snapshots and this node's identity, all below `data/node-<id>/`.
//!
//! - [`Store`] (`store.rs`) is the interface for the disk thread: recovery, write, sync, compaction.
//! - `wal/` is the log: `wal/writer.rs` appends to segments, `wal/recover.rs` reads them and distinguishes a torn tail
//!   from damage.
//! - `snapshot/` writes, receives and reads snapshots; `identity.rs` has the owner of the folder, `folder_lock.rs` its
//!   lock; `anchor.rs` checks whether the folder is still the one that was opened; `integrity_record.rs` records that a
//!   state is wrong.
//! - `files.rs` is the only access to the disk, so that the simulator and the tests can replace it by a faulty one;
//!   `poison.rs` remembers a failure; `error.rs` has the errors; `inspect.rs` reads a folder without changing it
//!   (`phalanx log`).
//!
//! `docs/disk-format.md` shows every byte. Rules: after an error of a write or sync, nothing is written any more; only
//! the unsynced tail of the last segment may be cut, any other damage prevents the start, with file and offset;
//! directories are synced after create, rename and remove. Not here: when to sync and what may be sent afterwards
//! (`node/`), what entries mean (`raft/`).

pub(crate) mod anchor;
pub(crate) mod error;
pub(crate) mod files;
pub(crate) mod folder_lock;
pub(crate) mod identity;
pub(crate) mod inspect;
pub(crate) mod integrity_record;
mod poison;
pub(crate) mod snapshot;
#[expect(clippy::module_inception, reason = "the module's owner has the module's name")]
mod store;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod wal;

pub use self::wal::writer::{Spare, SpareJob};
pub use error::StoreError;
pub use files::{
    File, Files, RealFiles, create_private_dir, keep_own_rights, make_all_private, narrow, narrow_data, shared_mode,
};
use poison::Poison;
pub use snapshot::{SnapshotReader, SnapshotReceiver, SnapshotSaver, Snapshots};
pub use store::{CutJob, Store};

#[cfg(any(test, feature = "planted-bugs"))]
use crate::planted_bugs::StoreBugs;
use crate::types::NodeId;
use std::path::Path;

/// Folder of the log below a node's folder.
pub const WAL_DIR: &str = "wal";
/// Folder of the snapshots below a node's folder.
pub const SNAPSHOTS_DIR: &str = "snapshots";

#[derive(Clone, Debug)]
pub struct Options {
    /// Node that owns the data, for error messages; `None`: derived from the folder's name (`node-3`).
    pub node: Option<NodeId>,
    /// Bytes of the first segment. Each one after it is twice as large as the one before, up to `segment_bytes_max`:
    /// an idle node's log stays small, a busy one rotates seldom.
    pub segment_bytes_min: u64,
    /// Maximum size of a segment; a larger record gets a segment for itself.
    pub segment_bytes_max: u64,
    /// Whether a missing log is an error: with an empty log, the node would have forgotten its votes and entries.
    pub must_exist: bool,
    /// Bytes in one chunk of a snapshot file.
    pub snapshot_chunk_bytes: usize,
    /// Planted bugs, for the simulator to find.
    #[cfg(any(test, feature = "planted-bugs"))]
    pub bugs: StoreBugs,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            node: None,
            segment_bytes_min: crate::limits::SEGMENT_BYTES_MIN,
            segment_bytes_max: crate::limits::SEGMENT_BYTES_MAX,
            must_exist: false,
            snapshot_chunk_bytes: crate::limits::SNAPSHOT_CHUNK_BYTES,
            #[cfg(any(test, feature = "planted-bugs"))]
            bugs: StoreBugs::default(),
        }
    }
}

/// Returns the free bytes for this process on the disk of `dir`.
pub fn free_bytes(dir: &Path) -> Result<u64, StoreError> {
    RealFiles.free_bytes(dir).map_err(|e| StoreError::io("ask for the free space of", dir, e))
}

/// Bytes of the files directly in `dir`; 0 if it cannot be read.
pub fn file_bytes(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).filter(|it| it.is_file()).map(|it| it.len()).sum()
}
