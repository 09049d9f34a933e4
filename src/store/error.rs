//! Errors of the store. Each message says what the operator can do.

use crate::types::NodeId;
use rustix::io::Errno;
use std::io;
use std::path::{Path, PathBuf};

/// Why an operation of the store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Bytes that were synced before differ from what was written. They are never repaired automatically.
    #[error("damaged file {} at byte {offset}: {why}; `phalanx node --id {} --rejoin` discards this node's state and \
        joins again", .file.display(), advice(.node))]
    Damaged {
        file: PathBuf,
        /// Offset of the first bad byte, or of the record that contains it.
        offset: u64,
        why: String,
        /// Node that owns the data, if known.
        node: Option<NodeId>,
    },
    /// The file was written by another version of Phalanx.
    #[error("{} has format {found:?}, but this program reads only {expected:?}", .file.display())]
    Version {
        file: PathBuf,
        /// The format name at its beginning.
        found: String,
        /// The format name that this program reads.
        expected: String,
    },
    /// The log is missing although this node may have voted or acknowledged entries before.
    #[error("no log in {} though this node has been in a cluster before; put it back, or `phalanx node --id {} --rejoin` starts it as a new identity", .dir.display(), advice(.node))]
    LogMissing {
        /// Expected folder of the log.
        dir: PathBuf,
        /// Node that owns the data, if known.
        node: Option<NodeId>,
    },
    /// The disk is full.
    #[error("no space left on the disk: cannot {doing}")]
    NoSpace {
        /// The operation, as a verb phrase: "write to PATH".
        doing: String,
    },
    /// Another process uses this folder.
    #[error("{} is in use by another phalanx process{}", .dir.display(), .process.map_or(String::new(), |pid| format!(" (pid {pid})")))]
    Locked {
        dir: PathBuf,
        /// Its process id, if it could be read from the lock file.
        process: Option<u32>,
    },
    /// The folder, or its parent, is accessible only to another user.
    #[error(
        "cannot open {}: {source}; it belongs to another user: start all nodes of a host as the same user, or give \
         this one its own data_dir", .dir.display()
    )]
    OtherUser { dir: PathBuf, source: io::Error },
    /// The folder, its lock or its log is no longer the one that this process opened: a restart would not find what is
    /// written now.
    #[error(
        "{} {what}: the node's folder was removed, renamed or replaced while the node ran, and what it writes would be lost. \
         Put the folder back and start the node again; if it is gone, `phalanx node --id {}` starts without it and fetches the \
         state from the other nodes", .path.display(), advice(.node)
    )]
    FolderGone {
        /// Path at which it should be.
        path: PathBuf,
        /// What is at this path instead.
        what: &'static str,
        /// Node that owns the data, if known.
        node: Option<NodeId>,
    },
    /// A system call failed.
    #[error("cannot {doing}: {source}")]
    Io {
        /// The operation, as a verb phrase: "write to PATH".
        doing: String,
        source: io::Error,
    },
    /// An earlier write or sync failed; the content of the disk is unknown, so nothing is written any more.
    #[error("the disk failed earlier ({why}); restart the node when the disk works again")]
    Poisoned { why: String },
    /// A received snapshot is invalid (gap, too long, wrong length); the receiver starts the transfer again.
    #[error("snapshot transfer broken: {0}")]
    Transfer(String),
    /// `identity.json` cannot be parsed.
    #[error("{} is not readable: {why}; restore it, or, while a majority of the other voters runs, `phalanx node --id {} --rejoin` starts over as a new identity", .file.display(), advice(.node))]
    Identity {
        file: PathBuf,
        why: String,
        /// Node that owns the data, if known.
        node: Option<NodeId>,
    },
    /// The folder is named after one node and contains the data of another one.
    #[error("{} is the folder of node {}, not of node {}, as its identity.json says; {advice}", .dir.display(), .owner.0, .node.0)]
    ForeignFolder {
        dir: PathBuf,
        /// Node that owns the data.
        owner: NodeId,
        /// Node in the folder's name.
        node: NodeId,
        /// Where the right folders may be, and what to do.
        advice: String,
    },
    /// A witness's folder was opened as that of a node that keeps data, or the reverse.
    #[error("{}: {}", .dir.display(), other_kind(*.node, *.is_witness))]
    OtherKind {
        /// The node's folder.
        dir: PathBuf,
        /// Node that owns the data.
        node: NodeId,
        /// Whether the folder is a witness's.
        is_witness: bool,
    },
    /// The folder contains a log, but no identity or no cluster.
    #[error("{} holds the log of a node in a cluster, but {why}; put that file back from a copy of the folder. If there is none: while a majority of the other voters runs, move the folder away, and node {} joins as a new node; otherwise write the file by hand (docs/operations.md, \"A lost identity.json\")", .dir.display(), advice(.node))]
    IdentityLost {
        dir: PathBuf,
        why: &'static str,
        /// Node that owns the data, if known.
        node: Option<NodeId>,
    },
}

impl StoreError {
    /// Whether a file could not be opened because no file descriptor is left.
    pub fn is_out_of_descriptors(&self) -> bool {
        matches!(self, StoreError::Io { source, .. } if is_out_of_descriptors(source))
    }

    /// Returns the error for a node's folder that contains a log without an identity.
    pub fn lost_identity(dir: &Path, why: &'static str) -> StoreError {
        StoreError::IdentityLost { dir: dir.to_path_buf(), why, node: node_of(dir) }
    }

    /// Converts a system error of an operation on a path; `doing` is a verb such as "write to".
    pub(crate) fn io(doing: &str, path: &Path, source: io::Error) -> StoreError {
        let doing = format!("{doing} {}", path.display());
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::NoSpace { doing },
            _ => StoreError::Io { doing, source },
        }
    }
}

fn other_kind(node: NodeId, is_witness: bool) -> String {
    let n = node.0;
    match is_witness {
        true => format!(
            "node {n} is a witness: start it with --witness, or with --rejoin to discard its log and have it join as a node \
             that keeps the data"
        ),
        false => format!(
            "node {n} keeps data there: start it without --witness, or with --witness --rejoin to discard the data and have \
             it join as a witness"
        ),
    }
}

/// Returns the node's number for a `--id` option in a message, or a placeholder.
fn advice(node: &Option<NodeId>) -> String {
    node.map_or("N".to_string(), |n| n.0.to_string())
}

/// Parses the node id from a folder name such as `node-3`.
pub(crate) fn node_of(dir: &Path) -> Option<NodeId> {
    let name = dir.file_name()?.to_str()?;
    name.strip_prefix("node-")?.parse().ok().map(NodeId)
}

/// Whether this process or the system has no file descriptor left.
pub fn is_out_of_descriptors(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    code == Some(Errno::MFILE.raw_os_error()) || code == Some(Errno::NFILE.raw_os_error())
}
