//! A new cluster from one surviving folder (`phalanx recover`), after the disks of a majority of the voters were lost.
//!
//! The former cluster can never commit again, and only a person can know that its other voters will not return. So the
//! folder gets a new identity in a new cluster: its log continues with one entry that makes that identity the only
//! voter, which then commits everything in the log. Nodes of the two clusters reject each other at the handshake, so a
//! node of the former cluster that returns cannot join.
//!
//! Invariants: N1 the former state is kept in a copy on which no node can be started. N2 the process may crash after
//! each step: the copy is complete before anything changes; after the entry, the former identity is not a member in its
//! own log and cannot win an election, and running it again has the same result. N3 it is refused while the folders
//! beside this one contain a majority or a newer log, and while a node of that cluster, or another cluster, answers at
//! a known address.
//! Not here: the output of the command (`cli/local/recover.rs`), joining the new cluster (`cluster/discovery/`).

use crate::cluster::config::file::{ConfigFileError, Lock, Projection, read};
use crate::cluster::discovery::earlier_clusters::{self, LOCAL_IDS};
use crate::node::peer::discovery_client::Asker;
use crate::raft::{self, Durable, Membership};
use crate::settings::Settings;
use crate::store::error::StoreError;
use crate::store::folder_lock::{self, FolderLock};
use crate::store::identity::{self, StoredIdentity};
use crate::store::inspect::{self, InspectedRecord};
use crate::store::wal::record::Record;
use crate::store::{self, Files, RealFiles, SNAPSHOTS_DIR, Store, WAL_DIR, integrity_record};
use crate::types::{Identity, Index, Liveness, NodeId, NodeKind, Term};
use crate::wire::authentication::Key;
use crate::wire::codec::WireError;
use log::debug;
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// Name of `identity.json` in a copy: without the right name no node starts there.
const FORMER_IDENTITY: &str = "identity.json.former";

/// Why no new cluster was made from a folder. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The folder contains no log, or does not name its cluster.
    #[error("{} contains no log of a cluster: nothing to recover; choose another node", .0.display())]
    NoState(PathBuf),
    /// Files that are written now would belong to another user than the folder.
    #[error("{} belongs to the user with id {owner}: run this command as that user", .dir.display())]
    OtherUser { dir: PathBuf, owner: u32 },
    /// Its user has discarded it.
    #[error("{}: its state was being discarded (--rejoin) when its process ended; choose another node", .0.display())]
    Discarding(PathBuf),
    /// It keeps no data.
    #[error("node {} is a witness and keeps no data: recover from the folder of a node that does", .0.0)]
    Witness(NodeId),
    /// This node is the only voter in its log, so it can lead without the others.
    #[error("node {} is the only voter of its cluster, so a majority is available: start it", .0.0)]
    OnlyVoter(NodeId),
    /// The other folders are enough for a majority.
    #[error(
        "the folders of nodes {0} are available, which is a majority of the voters: nothing is lost, start these nodes"
    )]
    MajorityIsThere(String),
    /// A node of the cluster is running.
    #[error(
        "{0} is running and belongs to the same cluster: stop all nodes first, so that none continues next to the new cluster"
    )]
    Running(String),
    /// Another cluster answers, perhaps created by nodes with wiped disks.
    #[error("another cluster, {cluster}, answers at {address}, an address of this cluster: stop its nodes first")]
    OtherCluster { cluster: Uuid, address: String },
    /// A node of the same cluster may be running.
    #[error("a node at {address} rejects this one and may belong to the same cluster; it says {why:?}")]
    Declines { address: String, why: String },
    /// Another folder has a newer log.
    #[error(
        "node {} has a newer log: {} ends at entry {} of term {}, that of node {} at entry {} of term {}; recover \
         from the newer one, which contains more acknowledged writes",
        .newer.0, .folder.display(), .theirs.1, .theirs.0, .me.0, .ours.1, .ours.0
    )]
    Newer { newer: NodeId, folder: PathBuf, theirs: LogEnd, me: NodeId, ours: LogEnd },
    /// `config.json` is of another cluster.
    #[error("{} names cluster {theirs}, but this folder belongs to cluster {ours}: move the file away if that \
        cluster is gone", .file.display())]
    OtherFile { file: PathBuf, theirs: Uuid, ours: Uuid },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    ConfigFile(#[from] ConfigFileError),
    #[error("cannot copy the former state to {}: {source}", .to.display())]
    Copy { to: PathBuf, source: io::Error },
}

/// Term and index of the last entry of a log.
pub type LogEnd = (Term, Index);

/// A folder from which a new cluster may be made, locked.
pub struct Survivor {
    /// Its former identity.
    pub me: StoredIdentity,
    /// Its former cluster.
    pub cluster: Uuid,
    pub end: LogEnd,
    /// The members that its log names.
    pub membership: Membership,
    /// Whether its state was found to differ from the majority's.
    pub is_corrupt: bool,
    /// Folder for the copy of its former state.
    pub copy: PathBuf,
    settings: Settings,
    dir: PathBuf,
    store: Store,
    durable: Durable,
    _lock: FolderLock,
}

impl Survivor {
    /// Locks and reads the folder of node `id`, and checks that a new cluster may be made.
    ///
    /// # Errors
    /// See [`RecoverError`].
    pub fn examine(settings: &Settings, id: NodeId) -> Result<Survivor, RecoverError> {
        let dir = settings.node_dir(id);
        let files: Arc<dyn Files> = Arc::new(RealFiles);
        let nothing = || RecoverError::NoState(dir.clone());
        // Before the lock, which would create the folder.
        if !identity::holds_log(&*files, &dir)? {
            return Err(nothing());
        }
        // The node could not use files that root creates.
        let owner = std::fs::metadata(&dir).map_err(|e| StoreError::io("look at", &dir, e))?.uid();
        if owner != rustix::process::geteuid().as_raw() {
            return Err(RecoverError::OtherUser { dir, owner });
        }
        let lock = folder_lock::lock_with_retries(&dir)?;
        // `load` would finish a discard.
        let Some(mut me) = identity::peek(&*files, &dir)? else {
            identity::missing_beside_a_log(&*files, &dir)?;
            return Err(nothing());
        };
        if me.is_discarding {
            return Err(RecoverError::Discarding(dir));
        }
        if me.is_witness {
            return Err(RecoverError::Witness(id));
        }
        let cluster = me.cluster.ok_or_else(nothing)?;
        let (store, durable) = identity::open_store(Arc::clone(&files), &dir, &mut me, store::Options::default())?;
        let (Some(end), Some(membership)) = (raft::end_of(&durable), raft::membership_of(&durable).cloned()) else {
            return Err(nothing());
        };
        let is_corrupt = integrity_record::load(&*files, &dir, me.uuid)?.is_some();
        let copy = settings.data_dir.join(format!("node-{}.former-{}", id.0, short(cluster)));
        let settings = settings.clone();
        let survivor =
            Survivor { me, cluster, end, membership, is_corrupt, copy, settings, dir, store, durable, _lock: lock };
        survivor.check_other_folders(&*files)?;
        survivor.check_config_file()?;
        survivor.check_running_nodes()?;
        Ok(survivor)
    }

    fn check_other_folders(&self, files: &dyn Files) -> Result<(), RecoverError> {
        let id = self.me.id;
        let voters = &self.membership.voters;
        if voters.len() == 1 && voters.get(&id) == Some(&self.me.uuid) {
            return Err(RecoverError::OnlyVoter(id));
        }
        let (mut present, mut newest) = (BTreeSet::new(), None);
        for other in earlier_clusters::ids_below(&self.settings.data_dir) {
            let folder = self.settings.node_dir(other);
            let found = match other == id {
                true => Some(self.me.clone()),
                false => inspect_folder(files, &folder)?,
            };
            let Some(found) = found.filter(|it| it.cluster == Some(self.cluster)) else { continue };
            if other != id && folder_lock::is_in_use(&folder) {
                return Err(RecoverError::Running(format!("node {}, which has {},", other.0, folder.display())));
            }
            let Some(end) = end_of_folder(&folder, other == id, self.end) else { continue };
            if !found.is_witness {
                newest = newest.max(Some((end, other)));
            }
            if voters.get(&other) == Some(&found.uuid) {
                present.insert(other);
            }
        }
        if present.len() > voters.len() / 2 {
            return Err(RecoverError::MajorityIsThere(numbers(present)));
        }
        match newest.filter(|(end, _)| *end > self.end) {
            Some((theirs, newer)) => {
                let folder = self.settings.node_dir(newer);
                Err(RecoverError::Newer { newer, folder, theirs, me: id, ours: self.end })
            }
            None => Ok(()),
        }
    }

    fn check_config_file(&self) -> Result<(), RecoverError> {
        let file = self.settings.config_file_path.clone();
        match read(&file) {
            Ok(Some(named)) if named.cluster_info.id != self.cluster => {
                Err(RecoverError::OtherFile { file, theirs: named.cluster_info.id, ours: self.cluster })
            }
            // A file that cannot be read is set aside later like one that can.
            _ => Ok(()),
        }
    }

    /// Asks all addresses where nodes of the cluster have been.
    fn check_running_nodes(&self) -> Result<(), RecoverError> {
        let settings = &self.settings;
        // Asks without a cluster id, so that the node that answers reports its own.
        let key = settings.cluster_secret.as_deref().map(Key::of);
        let asker = Asker::new(settings, key, self.me.identity(), None, NodeKind::Full);
        let named = read(&settings.config_file_path).ok().flatten();
        let local = (1..=LOCAL_IDS).map(NodeId).chain(earlier_clusters::ids_below(&settings.data_dir));
        let mut addresses: BTreeSet<String> = local.map(|id| settings.local_addresses(id).peer).collect();
        addresses.extend(self.me.peers.values().map(|addresses| addresses.peer.clone()));
        addresses.extend(named.iter().flat_map(Projection::peer_addresses));
        addresses.extend(settings.peers.iter().cloned());
        for address in addresses {
            match asker.who_is_at(&address) {
                Ok((there, _)) if there.cluster == Some(self.cluster) => {
                    return Err(RecoverError::Running(format!("node {} at {address}", there.who.id.0)));
                }
                // A node that looks for a cluster joins the new one.
                Ok((there, _)) => {
                    if let Some(cluster) = there.cluster {
                        return Err(RecoverError::OtherCluster { cluster, address });
                    }
                }
                Err(WireError::Rejected(why) | WireError::Unproved(why)) => {
                    return Err(RecoverError::Declines { address, why });
                }
                Err(e @ WireError::Differs { .. }) => {
                    return Err(RecoverError::Declines { address, why: e.to_string() });
                }
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Members that its log names, except this node.
    pub fn others(&self) -> Vec<Identity> {
        self.membership.members().filter(|who| who.id != self.me.id).collect()
    }

    /// Makes the new cluster; returns its id.
    ///
    /// # Errors
    /// See [`RecoverError`]; another try may succeed.
    pub fn recover(mut self) -> Result<Uuid, RecoverError> {
        self.keep_copy().map_err(|source| RecoverError::Copy { to: self.copy.clone(), source })?;
        let wait = |pause: Duration| {
            std::thread::sleep(pause);
            true
        };
        let lock = Lock::take(&self.settings.config_file_path, &wait)?;
        if lock.read()?.is_some() {
            lock.set_aside("former")?;
        }
        let (cluster, uuid) = (Uuid::new_v4(), Uuid::new_v4());
        let me = StoredIdentity { cluster: Some(cluster), uuid, ..self.me.clone() };
        let persist = raft::sole_voter(&self.durable, me.identity());
        let term = persist.hard_state.map_or(Term(0), |hard| hard.term);
        self.store.write(&persist)?;
        self.store.sync()?;
        identity::save(&RealFiles, &self.dir, &me)?;
        let addresses = self.settings.addresses(me.id);
        lock.write(&Projection::new(cluster, term, 1, None, [(me.id, &addresses, Liveness::Offline, 0)]))?;
        Ok(cluster)
    }

    /// Copies log, snapshots and identity, in this order; a copy that is complete already is kept.
    fn keep_copy(&self) -> io::Result<()> {
        if self.copy.join(FORMER_IDENTITY).exists() {
            return Ok(());
        }
        if self.copy.exists() {
            std::fs::remove_dir_all(&self.copy)?;
        }
        for name in [WAL_DIR, SNAPSHOTS_DIR] {
            let (from, to) = (self.dir.join(name), self.copy.join(name));
            store::create_private_dir(&to)?;
            for row in std::fs::read_dir(from)? {
                let row = row?;
                if row.file_type()?.is_file() {
                    copy_file(&row.path(), &to.join(row.file_name()))?;
                }
            }
            File::open(&to)?.sync_all()?;
        }
        copy_file(&self.dir.join(identity::FILE_NAME), &self.copy.join(FORMER_IDENTITY))?;
        File::open(&self.copy)?.sync_all()?;
        File::open(&self.settings.data_dir)?.sync_all()
    }
}

fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::copy(from, to)?;
    File::open(to)?.sync_all()
}

/// The identity in another folder. A log without an identity file may belong to the cluster and lack only that file.
fn inspect_folder(files: &dyn Files, folder: &Path) -> Result<Option<StoredIdentity>, StoreError> {
    match identity::peek(files, folder) {
        Ok(None) => identity::missing_beside_a_log(files, folder).map(|()| None),
        Err(e) if !identity::holds_log(files, folder).unwrap_or(false) => {
            debug!("looked into {} err=\"{e}\"", folder.display());
            Ok(None)
        }
        other => other,
    }
}

/// The end of the log in another folder; `None` if it cannot be read, or is empty.
fn end_of_folder(folder: &Path, is_own: bool, own: LogEnd) -> Option<LogEnd> {
    if is_own {
        return Some(own);
    }
    let mut last = None;
    let summary = inspect::inspect(Arc::new(RealFiles), folder, |seen: InspectedRecord<'_>| match seen.record {
        Record::Entry(entry) => last = Some((entry.term, entry.index)),
        Record::Header(header) => last = Some((header.last.1, header.last.0)),
        Record::Install(meta) => last = Some((meta.term, meta.index)),
        _ => {}
    });
    let summary = summary.ok().filter(|summary| summary.damage.is_empty())?;
    let snapshot = summary.snapshots.last().map(|meta| (meta.term, meta.index));
    last.max(snapshot).filter(|(_, index)| index.0 > 0)
}

/// The first eight digits of a cluster's id.
fn short(cluster: Uuid) -> String {
    cluster.simple().to_string()[..8].to_string()
}

/// Numbers of members as text: `1, 2 and 3`.
pub fn numbers(members: impl IntoIterator<Item = NodeId>) -> String {
    let all: BTreeSet<NodeId> = members.into_iter().collect();
    let all: Vec<String> = all.into_iter().map(|id| id.0.to_string()).collect();
    match all.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => all.join(""),
    }
}
