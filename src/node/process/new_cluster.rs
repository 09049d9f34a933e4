//! A new cluster out of one surviving folder (`phalanx recover`), after the disks of a majority of the voters were lost for good.
//!
//! The former cluster can never commit again, and only a person can know that its other voters will not come back. So
//! the folder gets a new identity in a new cluster: its log continues with one entry that makes that identity the only
//! voter, which then commits all that the log holds. Nodes of the two clusters reject each other at the handshake, so
//! what comes back of the former one joins nothing.
//!
//! Invariants: N1 the former state stays, in a copy that no node can be started on. N2 each step can be followed by a crash: the
//! copy is whole before anything changes; after the entry the former identity is not a member in its own log and cannot
//! win an election, and a repeated run has the result of one run. N3 it is refused while the folders beside this one
//! hold a majority or a newer log, and while a node of that cluster, or another cluster, answers at a known address.
//! Not here: the words for people (`cli/local/recover.rs`), how others join the new cluster (`cluster/discovery.rs`).

use crate::cluster::config_file::{self, ConfigFileError, Lock, Projection};
use crate::cluster::folders::{self, LOCAL_IDS};
use crate::node::peer::discovery_client::Asker;
use crate::raft::{self, Durable, Membership};
use crate::settings::Settings;
use crate::store::error::StoreError;
use crate::store::identity::{self, FolderLock, Me};
use crate::store::inspect::{self, Seen};
use crate::store::wal::record::Record;
use crate::store::{self, Files, RealFiles, SNAPSHOTS_DIR, Store, WAL_DIR, mark};
use crate::types::{Identity, Index, Liveness, NodeId, Term};
use crate::wire::codec::WireError;
use crate::wire::seal::Key;
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

/// Why a folder is not made a new cluster. Nothing was changed then.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The folder holds no log, or does not say of which cluster it is.
    #[error("{} contains no log of a cluster: nothing to recover; choose another node", .0.display())]
    NoState(PathBuf),
    /// What is written would belong to another user.
    #[error("{} belongs to the user with id {owner}: run this command as that user", .dir.display())]
    OtherUser {
        /// Folder of the node whose state was to be recovered.
        dir: PathBuf,
        /// Number of the user that the folder belongs to.
        owner: u32,
    },
    /// Its user has given it up.
    #[error("{}: its state was being discarded (--rejoin) when its process ended; choose another node", .0.display())]
    Discarding(PathBuf),
    /// Its log names this node as the only voter, so it can lead without the others.
    #[error("node {} is the only voter of its cluster, so a majority is available: start it", .0.0)]
    OnlyVoter(NodeId),
    /// Those who are not lost suffice.
    #[error(
        "the folders of nodes {0} are available, which is a majority of the voters: nothing is lost, start these nodes"
    )]
    MajorityIsThere(String),
    /// A node of the cluster is running.
    #[error(
        "{0} is running and belongs to the same cluster: stop all nodes first, so that none continues next to the new cluster"
    )]
    Running(String),
    /// Another cluster has come in its place, perhaps created by nodes whose disks were wiped.
    #[error("another cluster, {cluster}, answers at {address}, an address of this cluster: stop its nodes first")]
    OtherCluster {
        /// Id of the cluster that answers.
        cluster: Uuid,
        /// Where.
        address: String,
    },
    /// It may be one of the cluster.
    #[error("a node at {address} rejects this one and may belong to the same cluster; it says {why:?}")]
    Declines {
        /// Where.
        address: String,
        /// The reason that it gave at the handshake.
        why: String,
    },
    /// A better one is at hand.
    #[error(
        "node {} has a newer log: {} ends at entry {} of term {}, that of node {} at entry {} of term {}; recover \
         from the newer one, which contains more acknowledged writes",
        .newer.0, .folder.display(), .theirs.1, .theirs.0, .me.0, .ours.1, .ours.0
    )]
    Newer {
        /// Whose it is.
        newer: NodeId,
        /// Where it is.
        folder: PathBuf,
        /// Where it ends.
        theirs: End,
        /// Number of the node whose state was to be recovered.
        me: NodeId,
        /// Where its own ends.
        ours: End,
    },
    /// The file speaks of another cluster.
    #[error("{} names cluster {theirs}, but this folder belongs to cluster {ours}: move the file away if that \
        cluster is gone", .file.display())]
    OtherFile {
        /// `config.json`.
        file: PathBuf,
        /// Cluster that the file names.
        theirs: Uuid,
        /// Cluster that the folder belongs to.
        ours: Uuid,
    },
    /// The folder, or one beside it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// `config.json`.
    #[error(transparent)]
    ConfigFile(#[from] ConfigFileError),
    /// The copy.
    #[error("cannot copy the former state to {}: {source}", .to.display())]
    Copy {
        /// Where.
        to: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Last entry of a log: its term and index.
pub type End = (Term, Index);

/// A folder that a new cluster may be made of, locked.
pub struct Survivor {
    /// Who it was.
    pub me: Me,
    /// Its former cluster.
    pub cluster: Uuid,
    /// Where its log ends.
    pub end: End,
    /// The members that its log names.
    pub membership: Membership,
    /// Whether its state was found to differ from the majority's.
    pub is_corrupt: bool,
    /// Where its former state goes.
    pub copy: PathBuf,
    settings: Settings,
    dir: PathBuf,
    store: Store,
    durable: Durable,
    _lock: FolderLock,
}

impl Survivor {
    /// Locks and reads the folder of node `id` and looks for whatever speaks against a new cluster.
    ///
    /// # Errors
    /// See [`RecoverError`].
    pub fn examine(settings: &Settings, id: NodeId) -> Result<Survivor, RecoverError> {
        let dir = settings.node_dir(id);
        let files: Arc<dyn Files> = Arc::new(RealFiles);
        let nothing = || RecoverError::NoState(dir.clone());
        // Locking a folder makes it.
        if !identity::holds_log(&*files, &dir)? {
            return Err(nothing());
        }
        // Files that root makes would keep the node out.
        let owner = std::fs::metadata(&dir).map_err(|e| StoreError::io("look at", &dir, e))?.uid();
        if owner != rustix::process::geteuid().as_raw() {
            return Err(RecoverError::OtherUser { dir, owner });
        }
        let lock = identity::lock_patiently(&dir)?;
        // Not loaded, which would finish a discard.
        let Some(mut me) = identity::peek(&*files, &dir)? else {
            identity::missing_beside_a_log(&*files, &dir)?;
            return Err(nothing());
        };
        if me.is_discarding {
            return Err(RecoverError::Discarding(dir));
        }
        let cluster = me.cluster.ok_or_else(nothing)?;
        let (store, durable) = identity::open_store(Arc::clone(&files), &dir, &mut me, store::Options::default())?;
        let (Some(end), Some(membership)) = (raft::end_of(&durable), raft::membership_of(&durable).cloned()) else {
            return Err(nothing());
        };
        let is_corrupt = mark::load(&*files, &dir, me.uuid)?.is_some();
        let copy = settings.data_dir.join(format!("node-{}.former-{}", id.0, short(cluster)));
        let settings = settings.clone();
        let survivor =
            Survivor { me, cluster, end, membership, is_corrupt, copy, settings, dir, store, durable, _lock: lock };
        survivor.object_to_folders(&*files)?;
        survivor.object_to_config_file()?;
        survivor.object_to_the_living()?;
        Ok(survivor)
    }

    /// What lies in the folders beside this one.
    fn object_to_folders(&self, files: &dyn Files) -> Result<(), RecoverError> {
        let id = self.me.id;
        let voters = &self.membership.voters;
        if voters.len() == 1 && voters.get(&id) == Some(&self.me.uuid) {
            return Err(RecoverError::OnlyVoter(id));
        }
        let (mut present, mut newest) = (BTreeSet::new(), None);
        for other in folders::ids_below(&self.settings.data_dir) {
            let folder = self.settings.node_dir(other);
            let found = match other == id {
                true => Some(self.me.clone()),
                false => look_into(files, &folder)?,
            };
            let Some(found) = found.filter(|it| it.cluster == Some(self.cluster)) else { continue };
            if other != id && identity::is_in_use(&folder) {
                return Err(RecoverError::Running(format!("node {}, which has {},", other.0, folder.display())));
            }
            let Some(end) = end_of_folder(&folder, other == id, self.end) else { continue };
            newest = newest.max(Some((end, other)));
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

    fn object_to_config_file(&self) -> Result<(), RecoverError> {
        let file = self.settings.config_file_path.clone();
        match config_file::read(&file) {
            Ok(Some(named)) if named.cluster_info.id != self.cluster => {
                Err(RecoverError::OtherFile { file, theirs: named.cluster_info.id, ours: self.cluster })
            }
            // One that cannot be read is set aside like one that can.
            _ => Ok(()),
        }
    }

    /// Who answers at the addresses where nodes of the cluster have been.
    fn object_to_the_living(&self) -> Result<(), RecoverError> {
        let settings = &self.settings;
        // Asks without a cluster id, so that the node that answers reports its own.
        let key = settings.cluster_secret.as_deref().map(Key::of);
        let asker = Asker::new(settings, key, self.me.identity(), None, false);
        let named = config_file::read(&settings.config_file_path).ok().flatten();
        let local = (1..=LOCAL_IDS).map(NodeId).chain(folders::ids_below(&settings.data_dir));
        let mut addresses: BTreeSet<String> = local.map(|id| settings.addresses(id).peer).collect();
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
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Members that its log names, but for this node.
    pub fn others(&self) -> Vec<Identity> {
        self.membership.members().filter(|who| who.id != self.me.id).collect()
    }

    /// Makes the new cluster; its id.
    ///
    /// # Errors
    /// See [`RecoverError`]; it may be tried again.
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
        let me = Me { cluster: Some(cluster), uuid, ..self.me.clone() };
        let persist = raft::sole_voter(&self.durable, me.identity());
        let term = persist.hard_state.map_or(Term(0), |hard| hard.term);
        self.store.write(&persist)?;
        self.store.sync()?;
        identity::save(&RealFiles, &self.dir, &me)?;
        let addresses = self.settings.addresses(me.id);
        lock.write(&Projection::new(cluster, term, 1, None, [(me.id, &addresses, Liveness::Offline, 0)]))?;
        Ok(cluster)
    }

    /// Copies what this folder has promised, its identity last; a copy that is whole already stays.
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
fn look_into(files: &dyn Files, folder: &Path) -> Result<Option<Me>, StoreError> {
    match identity::peek(files, folder) {
        Ok(None) => identity::missing_beside_a_log(files, folder).map(|()| None),
        Err(e) if !identity::holds_log(files, folder).unwrap_or(false) => {
            debug!("looked into {} err=\"{e}\"", folder.display());
            Ok(None)
        }
        other => other,
    }
}

/// Where the log in another folder ends; `None` if it cannot be read, or has none.
fn end_of_folder(folder: &Path, is_own: bool, own: End) -> Option<End> {
    if is_own {
        return Some(own);
    }
    let mut last = None;
    let summary = inspect::inspect(Arc::new(RealFiles), folder, |seen: Seen<'_>| match seen.record {
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

/// Members by number, for people: `1, 2 and 3`.
pub fn numbers(members: impl IntoIterator<Item = NodeId>) -> String {
    let all: BTreeSet<NodeId> = members.into_iter().collect();
    let all: Vec<String> = all.into_iter().map(|id| id.0.to_string()).collect();
    match all.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => all.join(""),
    }
}
