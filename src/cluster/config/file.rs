//! `config.json`: the cluster's state for users, scripts and nodes that look for the cluster. It is derived from the
//! replicated state and never authoritative.
//!
//! It is written under the exclusive lock of `config.json.lock`: temporary file, sync, rename. So a reader, with or
//! without the lock, sees a complete file. Before it writes, a writer reads the present file: one of another cluster is
//! an error that names both; one that is ahead in (term, version) is kept, so a deposed leader overwrites nothing; one
//! that was edited to something invalid is renamed and rewritten.
//!
//! The lock is taken by trying and waiting, not by blocking in the system: a frozen holder must not block the leader.
//! The caller provides the waiting (`wait` returns false when the node stops).
//! Not here: how a new node uses the file (`cluster/discovery/`), who writes it and when (`keeper.rs`).

use crate::address;
use crate::store::{self, files::open_regular};
use crate::types::{Addresses, Liveness, NodeId, Term};
use log::warn;
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use uuid::Uuid;

/// Largest version: the next one can be counted, and a reader of JSON that has floating-point numbers only knows it.
const VERSION_MAX: u64 = 1 << 53;
/// Time between two tries for the lock; short, because a holder keeps it only for one small write.
const LOCK_RETRY: Duration = Duration::from_millis(2);
/// Number of tries (about a second) after which the lock counts as busy.
const LOCK_TRIES: u32 = 500;
/// Maximum number of links that are followed, as in the kernel.
const LINKS_MAX: usize = 40;
/// Maximum number of bytes that are read; 100 nodes need a thirtieth of it. A longer file is truncated, and so is not
/// valid JSON.
pub const FILE_BYTES_MAX: u64 = 1 << 20;
/// Content of `config.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Projection {
    pub cluster_info: ClusterInfo,
    /// The nodes by name, `node_<id>`.
    #[serde(serialize_with = "by_id")]
    pub nodes: BTreeMap<String, NodeInfo>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterInfo {
    /// Id of the cluster; random, drawn when it was created.
    pub id: Uuid,
    /// Version of the file within a term; increases with each change that the leader writes.
    pub last_version: u64,
    /// Term of the leader that wrote the file.
    pub term: Term,
    /// Name of the leader (`node_<id>`), if there is one.
    pub leader: Option<String>,
    /// Number of listed nodes.
    pub node_number: usize,
    /// The moment (RFC 3339, UTC) since when no node that uses this file has had a leader: what the file says may be
    /// out of date since then. Not in a file that is kept up to date.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_since: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    pub id: NodeId,
    /// Host name or IP address, without brackets.
    pub ip: String,
    /// Port of the peer protocol.
    pub port: u16,
    /// Port of the node's HTTP server.
    pub service_port: u16,
    /// Port of the Redis protocol.
    pub kv_port: u16,
    /// `LEADER`, `ONLINE` or `OFFLINE`.
    pub status: Liveness,
    pub load: u64,
}

/// Errors of reading and writing `config.json`.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFileError {
    /// A system call failed.
    #[error("cannot {what} {path}: {source}", path = path.display())]
    Io {
        /// The operation, as a verb.
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// Another process has held the lock for too long, or this node is stopping.
    #[error("{path} is held by another process", path = path.display())]
    Busy {
        /// The lock file.
        path: PathBuf,
    },
    /// The file is not JSON of the expected form.
    #[error("{path} is not a cluster file: {why}", path = path.display())]
    Mangled { path: PathBuf, why: String },
    /// The file is of another cluster.
    #[error("{path} belongs to cluster {theirs}, this node to cluster {ours}", path = path.display())]
    OtherCluster {
        path: PathBuf,
        /// This node's cluster.
        ours: Uuid,
        /// The file's cluster.
        theirs: Uuid,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// The file has the requested content.
    Yes,
    /// The file was not changed, because it has a newer term or version.
    NotWritten {
        /// Term of the file.
        term: Term,
        /// Version of the file.
        version: u64,
    },
}

impl Projection {
    /// Creates the content of the file. A node with addresses that cannot be parsed is left out.
    pub fn new<'a>(
        cluster: Uuid,
        term: Term,
        version: u64,
        leader: Option<NodeId>,
        nodes: impl IntoIterator<Item = (NodeId, &'a Addresses, Liveness, u64)>,
    ) -> Projection {
        let nodes: BTreeMap<String, NodeInfo> = nodes
            .into_iter()
            .filter_map(|(id, addresses, status, load)| {
                let (ip, port) = address::split(&addresses.peer)?;
                let (_, service_port) = address::split(&addresses.http)?;
                let (_, kv_port) = address::split(&addresses.kv)?;
                let (ip, port, service_port, kv_port) = (ip.to_string(), port?, service_port?, kv_port?);
                Some((name_of(id), NodeInfo { id, ip, port, service_port, kv_port, status, load }))
            })
            .collect();
        let cluster_info = ClusterInfo {
            id: cluster,
            last_version: version,
            term,
            leader: leader.map(name_of),
            node_number: nodes.len(),
            stale_since: None,
        };
        Projection { cluster_info, nodes }
    }

    /// Returns the peer addresses of all nodes, the leader's first.
    pub fn peer_addresses(&self) -> Vec<String> {
        let mut nodes: Vec<(&String, &NodeInfo)> = self.nodes.iter().collect();
        nodes.sort_by_key(|(name, node)| (Some(*name) != self.cluster_info.leader.as_ref(), node.id));
        nodes.into_iter().map(|(_, node)| node.addresses().peer).collect()
    }

    /// Parses the content of a file.
    ///
    /// # Errors
    /// Returns the parser's message.
    pub fn parse(text: &[u8]) -> Result<Projection, String> {
        let parsed: Projection = serde_json::from_slice(text).map_err(|e| e.to_string())?;
        match parsed.cluster_info.last_version <= VERSION_MAX {
            true => Ok(parsed),
            false => Err(format!("last_version is beyond {VERSION_MAX}")),
        }
    }

    /// The content of the file.
    pub fn to_text(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).expect("a projection holds nothing that JSON cannot");
        text.push(b'\n');
        text
    }

    /// Whether it is of a newer leader, or a newer version of the same.
    pub fn is_newer_than(&self, other: &Projection) -> bool {
        let version = |it: &Projection| (it.cluster_info.term, it.cluster_info.last_version);
        version(self) > version(other)
    }

    /// Whether everything but the version is equal.
    pub(super) fn has_same_content(&self, other: &Projection) -> bool {
        let (a, b) = (&self.cluster_info, &other.cluster_info);
        self.nodes == other.nodes && (a.id, a.term, &a.leader) == (b.id, b.term, &b.leader)
    }
}

impl WriteOutcome {
    /// The file was not changed, as it has this content.
    pub(super) fn not(newer: &Projection) -> WriteOutcome {
        WriteOutcome::NotWritten { term: newer.cluster_info.term, version: newer.cluster_info.last_version }
    }
}

impl NodeInfo {
    /// Returns its addresses in the form that the rest of the program uses.
    pub fn addresses(&self) -> Addresses {
        let [peer, http, kv] = [self.port, self.service_port, self.kv_port].map(|port| address::join(&self.ip, port));
        Addresses { peer, http, kv }
    }
}

/// Returns a node's name in the file: `node_5`.
pub fn name_of(id: NodeId) -> String {
    format!("node_{}", id.0)
}

/// Serializes the nodes in the order of their numbers: `node_10` after `node_9`.
fn by_id<S: Serializer>(nodes: &BTreeMap<String, NodeInfo>, serializer: S) -> Result<S::Ok, S::Error> {
    let mut all: Vec<(&String, &NodeInfo)> = nodes.iter().collect();
    all.sort_by_key(|(_, node)| node.id);
    let mut map = serializer.serialize_map(Some(all.len()))?;
    for (name, node) in all {
        map.serialize_entry(name, node)?;
    }
    map.end()
}

pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// The exclusive lock of one `config.json`; released when dropped, and by the system however the process ends.
#[derive(Debug)]
pub struct Lock {
    config: PathBuf,
    /// The open lock file; closing it releases the lock.
    _file: File,
}

impl Lock {
    /// Takes the lock of the file at `config`, and creates folder and lock file if they do not exist. A link is
    /// followed: the lock is beside the file that it points to.
    ///
    /// # Errors
    /// Returns [`ConfigFileError::Busy`] after about a second, or when the node stops.
    pub fn take(config: &Path, wait: &dyn Fn(Duration) -> bool) -> Result<Lock, ConfigFileError> {
        let config = &target(config);
        let path = beside(config, ".lock");
        let failed = |what, source| ConfigFileError::Io { what, path: path.clone(), source };
        if let Some(folder) = config.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder).map_err(|e| failed("create the folder of", e))?;
        }
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = opened.map_err(|e| failed("open", e))?;
        for _ in 0..LOCK_TRIES {
            match fs2::FileExt::try_lock_exclusive(&file) {
                Ok(()) => return Ok(Lock { config: config.to_path_buf(), _file: file }),
                Err(e) if e.raw_os_error() == fs2::lock_contended_error().raw_os_error() => {}
                Err(e) => return Err(failed("lock", e)),
            }
            if !wait(LOCK_RETRY) {
                break;
            }
        }
        Err(ConfigFileError::Busy { path })
    }

    /// Reads the file; `None` if there is none. An invalid file is renamed with a warning, and counts as missing.
    ///
    /// # Errors
    /// Returns an error if a system call fails.
    pub fn read(&self) -> Result<Option<Projection>, ConfigFileError> {
        match read(&self.config) {
            Err(ConfigFileError::Mangled { why, .. }) => {
                let aside = self.set_aside("mangled")?;
                warn!("{} was not a cluster file and is now {} err=\"{why}\"", self.config.display(), aside.display());
                Ok(None)
            }
            other => other,
        }
    }

    /// Renames the file to `config.json.<why>-<time>` and returns the new path.
    ///
    /// # Errors
    /// Returns an error if a system call fails.
    pub fn set_aside(&self, why: &str) -> Result<PathBuf, ConfigFileError> {
        let at_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let aside = beside(&self.config, &format!(".{why}-{at_ms}"));
        let moved = match fs::rename(&self.config, &aside) {
            // A file that is a mount point (a container's volume) cannot be moved.
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy => fs::copy(&self.config, &aside).map(drop),
            other => other,
        };
        moved.map_err(|source| ConfigFileError::Io { what: "set aside", path: self.config.clone(), source })?;
        Ok(aside)
    }

    /// Writes the file unless it has this content already, or a newer term or version.
    ///
    /// # Errors
    /// Returns [`ConfigFileError::OtherCluster`], or an error if a system call fails.
    pub fn write(&self, projection: &Projection) -> Result<WriteOutcome, ConfigFileError> {
        if let Some(found) = self.read()? {
            let (ours, theirs) = (projection.cluster_info.id, found.cluster_info.id);
            if theirs != ours {
                return Err(ConfigFileError::OtherCluster { path: self.config.clone(), ours, theirs });
            }
            if found == *projection {
                return Ok(WriteOutcome::Yes);
            }
            if found.is_newer_than(projection) {
                return Ok(WriteOutcome::not(&found));
            }
        }
        // One name is enough: the process that holds the lock is the only writer. A leftover file is removed, and so is
        // a link at this path: only a file that this process has created is written to.
        let temporary = beside(&self.config, ".tmp");
        let failed = |what, source| ConfigFileError::Io { what, path: temporary.clone(), source };
        let text = projection.to_text();
        match fs::remove_file(&temporary) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed("remove", e)),
            _ => {}
        }
        let mut file = File::create_new(&temporary).map_err(|e| failed("create", e))?;
        // Keeps the file's mode, or uses the umask of this process: other users may read it, it contains no secret.
        let mode =
            fs::metadata(&self.config).map_or_else(|_| store::shared_mode(), |it| it.permissions().mode() & 0o777);
        file.set_permissions(Permissions::from_mode(mode)).map_err(|e| failed("set the rights of", e))?;
        file.write_all(&text).and_then(|()| file.sync_data()).map_err(|e| failed("write", e))?;
        match fs::rename(&temporary, &self.config) {
            // A file that is a mount point cannot be replaced: it is overwritten, and a reader without the lock may see
            // an incomplete file.
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy => {
                // Otherwise the next write removes it.
                let _ = fs::remove_file(&temporary);
                write_in_place(&self.config, &text).map_err(|e| failed("write", e))?;
            }
            other => other.map_err(|e| failed("rename", e))?,
        }
        Ok(WriteOutcome::Yes)
    }
}

/// Returns the file to which a link at `path` points, or `path` itself. Stops after [`LINKS_MAX`] links.
pub(super) fn target(path: &Path) -> PathBuf {
    let mut path = path.to_path_buf();
    for _ in 0..LINKS_MAX {
        match fs::read_link(&path) {
            // A relative target starts at the link's folder; `join` replaces everything if the target is absolute.
            Ok(to) => path = path.parent().unwrap_or(Path::new("")).join(to),
            Err(_) => break,
        }
    }
    path
}

fn write_in_place(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    file.write_all(text)?;
    file.set_len(text.len() as u64)?;
    file.sync_data()
}

/// Reads the file without the lock; `None` if there is none.
///
/// # Errors
/// Returns [`ConfigFileError::Mangled`], or an error if a system call fails.
pub fn read(path: &Path) -> Result<Option<Projection>, ConfigFileError> {
    let mut text = Vec::new();
    let opened = open_regular(OpenOptions::new().read(true), path);
    match opened.and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut text)) {
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(ConfigFileError::Io { what: "read", path: path.to_path_buf(), source }),
    }
    let parsed = Projection::parse(&text);
    parsed.map(Some).map_err(|why| ConfigFileError::Mangled { path: path.to_path_buf(), why })
}

/// Takes the lock and writes the file unless it has a newer term or version.
///
/// # Errors
/// Returns the errors of [`Lock::take`] and [`Lock::write`].
pub fn write(
    path: &Path,
    projection: &Projection,
    wait: &dyn Fn(Duration) -> bool,
) -> Result<WriteOutcome, ConfigFileError> {
    Lock::take(path, wait)?.write(projection)
}

#[cfg(test)]
#[path = "tests/file.rs"]
pub(super) mod tests;
