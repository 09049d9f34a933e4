//! Bytes that survive a power cut: the log, snapshots and this node's identity, all below `data/node-<id>/`.
//!
//! The tour: [`Store`] (`store.rs`) is the whole room for its owner, the disk thread: recovery, write, sync, compaction.
//! `wal.rs` is the log over segments; `recover.rs` reads it back and tells a torn tail from damage; `segment.rs` is one segment
//! file, `record.rs` one record, `replay.rs` what a run of records means. `snapshot.rs` writes, receives and reads snapshots.
//! `identity.rs` says who the folder belongs to and keeps two processes out of one folder. `inspect.rs` looks at a folder
//! without changing a byte (`phalanx log`). `anchor.rs` tells whether the folder is still the one that was opened. `mark.rs` keeps that a state is wrong. `poison.rs` remembers a failure. `files.rs` is the only way to the disk, so that the simulator and the tests
//! can put a treacherous one in its place. `docs/disk-format.md` shows every byte.
//!
//! Rules: an error from a write or sync poisons the store, nothing is ever tried again; only the unsynced tail of the last
//! segment may be cut, any other damage refuses to start and names file and offset; directories are synced after create,
//! rename and remove. Not here: when to sync and what may leave afterwards (`node/`), what entries mean (`raft/`).

pub mod anchor;
#[cfg(test)]
pub mod faults;
pub mod files;
pub mod flaws;
pub mod identity;
pub mod inspect;
pub mod mark;
mod poison;
pub mod record;
pub mod recover;
mod replay;
mod segment;
pub mod snapshot;
#[expect(clippy::module_inception, reason = "the room's owner has the room's name")]
mod store;
#[cfg(test)]
mod tests;
mod wal;

pub use files::{
    File, Files, RealFiles, create_private_dir, keep_own_rights, make_all_private, narrow, narrow_data, shared_mode,
};
use poison::Poison;
pub use snapshot::{SnapshotReader, SnapshotReceiver, SnapshotSaver, Snapshots};
pub use store::{CutJob, Store};
pub use wal::{Spare, SpareJob};

use crate::types::NodeId;
use std::io;
use std::path::{Path, PathBuf};

/// Folder of the log below a node's folder.
pub const WAL_DIR: &str = "wal";
/// Folder of the snapshots below a node's folder.
pub const SNAPSHOTS_DIR: &str = "snapshots";

/// Choices of one store.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whose data it is, for advice in errors; `None`: taken from the folder's name (`node-3`).
    pub node: Option<NodeId>,
    /// Bytes of the first segment. Each one after it is twice as large as the one before, up to `segment_bytes_max`:
    /// an idle node's log stays small, a busy one rotates seldom.
    pub segment_bytes_min: u64,
    /// Bytes of a segment at most; a record that is larger still gets a segment of its own.
    pub segment_bytes_max: u64,
    /// Refuse to start on a folder without a log: this node has promised things before, an empty log would forget them.
    pub must_exist: bool,
    /// Bytes in one chunk of a snapshot file.
    pub snapshot_chunk_bytes: usize,
    /// Planted bugs, for the simulator to find.
    #[cfg(test)]
    pub flaws: flaws::Flaws,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            node: None,
            segment_bytes_min: crate::limits::SEGMENT_BYTES_MIN,
            segment_bytes_max: crate::limits::SEGMENT_BYTES_MAX,
            must_exist: false,
            snapshot_chunk_bytes: crate::limits::SNAPSHOT_CHUNK_BYTES,
            #[cfg(test)]
            flaws: flaws::Flaws::default(),
        }
    }
}

/// Why the disk could not do what it must.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Bytes that were once synced are not what was written. Never repaired by guessing.
    #[error("damaged file {} at byte {offset}: {why}; `phalanx node --id {} --rejoin` discards this node's state and fetches it again from the leader", .file.display(), advice(.node))]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Where the first bad byte is, or the record that holds it begins.
        offset: u64,
        /// What is wrong.
        why: String,
        /// Whose data it is, if known.
        node: Option<NodeId>,
    },
    /// Written by another version of Phalanx.
    #[error("{} has format {found:?}, this program reads {expected:?} only", .file.display())]
    Version {
        /// The file.
        file: PathBuf,
        /// Its first bytes.
        found: String,
        /// What they should be.
        expected: String,
    },
    /// The log is gone though this node has promised things before.
    #[error("no log in {} though this node has been in a cluster before; put it back, or `phalanx node --id {} --rejoin` starts it as a new identity", .dir.display(), advice(.node))]
    LogMissing {
        /// Where the log should be.
        dir: PathBuf,
        /// Whose data it is, if known.
        node: Option<NodeId>,
    },
    /// The disk is full.
    #[error("no space left on the disk: cannot {doing}")]
    NoSpace {
        /// What it was about to do.
        doing: String,
    },
    /// Another process works in this folder.
    #[error("{} is in use by another phalanx process{}", .dir.display(), .process.map_or(String::new(), |pid| format!(" (pid {pid})")))]
    Locked {
        /// The folder.
        dir: PathBuf,
        /// The process, if it left word.
        process: Option<u32>,
    },
    /// The folder, or the one above it, is for another user alone.
    #[error(
        "cannot open {}: {source}; it is another user's: start all nodes of a host as the same user, or give this one a data_dir \
         of its own", .dir.display()
    )]
    OtherUser {
        /// The folder.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The folder, or what keeps it, is not what this process opened: what it writes is lost to a restart.
    #[error(
        "{} {what}: the node's folder was removed, renamed or replaced while the node ran, and what it writes would be lost. \
         Put the folder back and start the node again; if it is gone, `phalanx node --id {}` starts without it and fetches the \
         state from the other nodes", .path.display(), advice(.node)
    )]
    FolderGone {
        /// Where it should be.
        path: PathBuf,
        /// What is found there.
        what: &'static str,
        /// Whose data it is, if known.
        node: Option<NodeId>,
    },
    /// The disk refused.
    #[error("cannot {doing}: {source}")]
    Io {
        /// What it was about to do.
        doing: String,
        /// What the system said.
        source: io::Error,
    },
    /// An earlier write or sync failed; what is on disk is unknown, so nothing is written any more.
    #[error("the disk failed earlier ({why}); restart the node once the disk is well")]
    Poisoned {
        /// The first error.
        why: String,
    },
    /// A snapshot arrives in a way that makes no sense (gap, too long, wrong length); the receiver starts over.
    #[error("snapshot transfer broken: {0}")]
    Transfer(String),
    /// `identity.json` was mangled.
    #[error("{} is not readable: {why}; restore it, or, while a majority of the other voters runs, `phalanx node --id {} --rejoin` starts over as a new identity", .file.display(), advice(.node))]
    Identity {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        why: String,
        /// Whose data it is, if known.
        node: Option<NodeId>,
    },
    /// The folder bears one node's number and holds another node's data.
    #[error("{} is the folder of node {}, not of node {}, as its identity.json says; {advice}", .dir.display(), .owner.0, .node.0)]
    ForeignFolder {
        /// The folder.
        dir: PathBuf,
        /// Whose data it is.
        owner: NodeId,
        /// Whose number is in its name.
        node: NodeId,
        /// Where the right folders may be, and what to do.
        advice: String,
    },
    /// There is a log, and nothing that says who made its promises in which cluster.
    #[error("{} holds the log of a node in a cluster, but {why}; put that file back from a copy of the folder. If there is none: while a majority of the other voters runs, move the folder away, and node {} joins as a newcomer; otherwise write the file by hand (docs/operations.md, \"A lost identity.json\")", .dir.display(), advice(.node))]
    IdentityLost {
        /// The node's folder.
        dir: PathBuf,
        /// What is wrong.
        why: &'static str,
        /// Whose data it is, if known.
        node: Option<NodeId>,
    },
}

impl StoreError {
    /// Whether a file could not be opened because no file descriptor is left.
    pub fn is_out_of_descriptors(&self) -> bool {
        matches!(self, StoreError::Io { source, .. } if files::is_out_of_descriptors(source))
    }

    /// The log in a node's folder is nobody's.
    pub fn lost_identity(dir: &Path, why: &'static str) -> StoreError {
        StoreError::IdentityLost { dir: dir.to_path_buf(), why, node: node_of(dir) }
    }

    /// Wraps what the system said about an operation on a path: `doing` is a verb, such as "write to".
    pub(crate) fn io(doing: &str, path: &Path, source: io::Error) -> StoreError {
        let doing = format!("{doing} {}", path.display());
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::NoSpace { doing },
            _ => StoreError::Io { doing, source },
        }
    }
}

/// Bytes free for this process on the disk that holds `dir`.
pub fn free_bytes(dir: &Path) -> Result<u64, StoreError> {
    RealFiles.free_bytes(dir).map_err(|e| StoreError::io("ask for the free space of", dir, e))
}

/// The number that a person types after `--id`.
fn advice(node: &Option<NodeId>) -> String {
    node.map_or("N".to_string(), |n| n.0.to_string())
}

/// Reads the id off a folder's name, `node-3`.
pub(crate) fn node_of(dir: &Path) -> Option<NodeId> {
    let name = dir.file_name()?.to_str()?;
    name.strip_prefix("node-")?.parse().ok().map(NodeId)
}
