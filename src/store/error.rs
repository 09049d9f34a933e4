//! What can go wrong on the disk, each with what a person does about it.

use crate::types::NodeId;
use rustix::io::Errno;
use std::io;
use std::path::{Path, PathBuf};

/// Why the disk could not do what it must.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Bytes that were once synced are not what was written. Never repaired by guessing.
    #[error("damaged file {} at byte {offset}: {why}; `phalanx node --id {} --rejoin` discards this node's state and \
        joins again", .file.display(), advice(.node))]
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
    #[error("{} has format {found:?}, but this program reads only {expected:?}", .file.display())]
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
        "cannot open {}: {source}; it belongs to another user: start all nodes of a host as the same user, or give \
         this one its own data_dir", .dir.display()
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
    #[error("the disk failed earlier ({why}); restart the node when the disk works again")]
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
    /// There is a log without an identity or cluster.
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
        matches!(self, StoreError::Io { source, .. } if is_out_of_descriptors(source))
    }

    /// The log in a node's folder has no identity.
    pub fn lost_identity(dir: &Path, why: &'static str) -> StoreError {
        StoreError::IdentityLost { dir: dir.to_path_buf(), why, node: node_of(dir) }
    }

    /// An error of the system in an operation on a path: `doing` is a verb, such as "write to".
    pub(crate) fn io(doing: &str, path: &Path, source: io::Error) -> StoreError {
        let doing = format!("{doing} {}", path.display());
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::NoSpace { doing },
            _ => StoreError::Io { doing, source },
        }
    }
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

/// Whether this process or the system has no file descriptor left.
pub fn is_out_of_descriptors(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    code == Some(Errno::MFILE.raw_os_error()) || code == Some(Errno::NFILE.raw_os_error())
}
