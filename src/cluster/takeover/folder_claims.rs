//! The folders of other voters on this host: finding and locking them.
//!
//! A lock proves something only where all processes that may use the folder see the same locks: on a file system of this
//! machine. So none is taken on one that another machine may share; a folder may be a link, or a file system of its own.
//!
//! Invariants: F1 a claimed folder holds the very identity and cluster that the membership names, has a log, is locked,
//! and belongs to this user: in a data folder that others can write to, one could put a voter of their making. F2 nothing
//! is created in a folder that is not another voter's.
//! Not here: what is done in it (`hosted_voter.rs`), whether it helps (`rule.rs`).

use crate::raft::Durable;
use crate::store::folder_lock::{self, FolderLock};
use crate::store::identity::{self, StoredIdentity};
use crate::store::{Files, Options, RealFiles, Store, StoreError};
use crate::types::{Identity, NodeId};
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use uuid::Uuid;

/// The locked folder of a voter whose process is dead.
#[derive(Debug)]
pub struct ClaimedFolder {
    pub who: Identity,
    dir: PathBuf,
    me: StoredIdentity,
    /// Held until the voter's raft and store are gone.
    pub lock: FolderLock,
}

/// What became of the voters' folders.
#[derive(Debug, Default)]
pub struct FolderClaims {
    pub claimed: Vec<ClaimedFolder>,
    /// Voters with a process that holds its folder's lock: it runs, or is frozen.
    pub in_use: Vec<NodeId>,
    /// Voters without a folder here: they are on other hosts.
    pub elsewhere: Vec<NodeId>,
    /// Voters with a folder that cannot be used, and why.
    pub unusable: Vec<(NodeId, String)>,
}

/// Tries to lock the folders of all voters but this one; waits for none. `why_not`: [`why_unsafe`].
pub fn claim(
    data_dir: &Path,
    cluster: Uuid,
    voters: &BTreeMap<NodeId, Uuid>,
    me: NodeId,
    why_not: impl Fn(&Path) -> std::io::Result<Option<String>>,
) -> FolderClaims {
    let mut claims = FolderClaims::default();
    for who in voters.iter().filter(|(id, _)| **id != me).map(|(&id, &uuid)| Identity { id, uuid }) {
        let dir = identity::folder(data_dir, who.id);
        match owner(&dir) {
            Ok(Some(owner)) if is_of(&owner, who, cluster) => {}
            Err(e) => {
                claims.unusable.push((who.id, e.to_string()));
                continue;
            }
            Ok(_) => {
                claims.elsewhere.push(who.id);
                continue;
            }
        }
        if let Some(why) = why_not(&dir).unwrap_or_else(|e| Some(e.to_string())) {
            claims.unusable.push((who.id, why));
            continue;
        }
        match folder_lock::lock(&dir).and_then(|lock| Ok((lock, owner(&dir)?))) {
            // Read again: its process may have changed it before it ended.
            Ok((lock, Some(me))) if is_of(&me, who, cluster) => {
                claims.claimed.push(ClaimedFolder { who, dir, me, lock })
            }
            Ok(_) => claims.elsewhere.push(who.id),
            Err(StoreError::Locked { .. }) => claims.in_use.push(who.id),
            Err(e) => claims.unusable.push((who.id, e.to_string())),
        }
    }
    claims
}

fn owner(dir: &Path) -> Result<Option<StoredIdentity>, StoreError> {
    identity::peek(&RealFiles, dir)
}

/// Whether the folder is a voter's, with everything that the voter has promised.
fn is_of(owner: &StoredIdentity, who: Identity, cluster: Uuid) -> bool {
    owner.identity() == who && owner.cluster == Some(cluster) && owner.has_log && !owner.is_discarding
}

impl ClaimedFolder {
    /// Opens its log, as a start of its process would.
    ///
    /// # Errors
    /// Returns the disk's error, or the damage.
    pub fn open(&mut self) -> Result<(Store, Durable), StoreError> {
        let files: Arc<dyn Files> = Arc::new(RealFiles);
        identity::open_store(files, &self.dir, &mut self.me, Options::default())
    }
}

/// Why the folder of another voter must not be used, if there is a reason.
///
/// # Errors
/// Returns an error if the system cannot tell.
pub fn why_unsafe(dir: &Path) -> std::io::Result<Option<String>> {
    let (owner, user) = (std::fs::metadata(dir)?.uid(), rustix::process::geteuid().as_raw());
    match owner == user {
        true => why_no_proof(dir),
        false => Ok(Some(format!("{} belongs to another user ({owner}, not {user})", dir.display()))),
    }
}

/// Whether the locks in this folder are seen by every process that could use it; else the reason.
///
/// # Errors
/// Returns an error if the system cannot tell.
#[cfg(target_os = "linux")]
pub fn why_no_proof(data_dir: &Path) -> std::io::Result<Option<String>> {
    /// Of <linux/magic.h>: ext2 to ext4, XFS, Btrfs, tmpfs, F2FS, overlayfs, ZFS, bcachefs.
    const LOCAL: [u64; 8] =
        [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0xf2f5_2010, 0x794c_7630, 0x2fc1_2fc1, 0xca45_1a4e];
    let kind = rustix::fs::statfs(data_dir)?.f_type as u64 & 0xffff_ffff;
    let why = || format!("{} is on a file system (type {kind:#x}) that other machines may share", data_dir.display());
    Ok((!LOCAL.contains(&kind)).then(why))
}

#[cfg(not(target_os = "linux"))]
pub fn why_no_proof(data_dir: &Path) -> std::io::Result<Option<String>> {
    Ok(Some(format!("whether {} is shared with other machines is only known on Linux", data_dir.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: Uuid = Uuid::from_u128(77);

    fn who(id: u64) -> Identity {
        Identity { id: NodeId(id), uuid: Uuid::from_u128(id.into()) }
    }

    /// Leaves the folder of a voter that has run.
    fn leave(data: &Path, id: u64) -> PathBuf {
        let dir = identity::folder(data, NodeId(id));
        let mut me = StoredIdentity { cluster: Some(CLUSTER), ..StoredIdentity::new(NodeId(id), who(id).uuid) };
        identity::save(&RealFiles, &dir, &me).unwrap();
        drop(identity::open_store(Arc::new(RealFiles), &dir, &mut me, Options::default()).unwrap());
        dir
    }

    #[test]
    fn only_folders_of_dead_voters_are_claimed_and_by_one_alone() {
        let data = tempfile::tempdir().unwrap();
        let voters: BTreeMap<NodeId, Uuid> = (1..=7).map(|id| (NodeId(id), who(id).uuid)).collect();
        for id in [1, 2, 3] {
            leave(data.path(), id);
        }
        let running = folder_lock::lock(&identity::folder(data.path(), NodeId(3))).unwrap();
        // 4: another identity. 5: another cluster. 6: being discarded. 7: nothing.
        leave(data.path(), 4);
        let change = |id: u64, change: fn(&mut StoredIdentity)| {
            let dir = leave(data.path(), id);
            let mut me = identity::peek(&RealFiles, &dir).unwrap().unwrap();
            change(&mut me);
            identity::save(&RealFiles, &dir, &me).unwrap();
        };
        change(4, |me| me.uuid = Uuid::from_u128(400));
        change(5, |me| me.cluster = Some(Uuid::from_u128(78)));
        change(6, |me| me.is_discarding = true);
        let first = claim(data.path(), CLUSTER, &voters, NodeId(1), why_unsafe);
        let ids = |claims: &FolderClaims| claims.claimed.iter().map(|it| it.who.id.0).collect::<Vec<_>>();
        assert_eq!((ids(&first), &first.in_use), (vec![2], &vec![NodeId(3)]));
        assert_eq!(first.elsewhere, [4, 5, 6, 7].map(NodeId));
        assert!(!identity::folder(data.path(), NodeId(7)).exists(), "nothing is created");
        // Another survivor, and the process itself.
        let second = claim(data.path(), CLUSTER, &voters, NodeId(3), why_unsafe);
        assert_eq!((ids(&second), &second.in_use), (vec![1], &vec![NodeId(2)]));
        assert!(matches!(folder_lock::lock(&identity::folder(data.path(), NodeId(2))), Err(StoreError::Locked { .. })));
        drop((first, running, second));
        assert_eq!(ids(&claim(data.path(), CLUSTER, &voters, NodeId(1), why_unsafe)), vec![2, 3]);
    }

    #[test]
    fn a_file_system_that_machines_may_share_proves_nothing() {
        // Of no file system that is on a disk of this machine.
        assert!(why_no_proof(Path::new("/proc")).unwrap().is_some());
    }

    #[test]
    fn each_folder_has_an_owner_and_a_file_system_of_its_own() {
        let data = tempfile::tempdir().unwrap();
        let voters: BTreeMap<NodeId, Uuid> = (1..=4).map(|id| (NodeId(id), who(id).uuid)).collect();
        let dirs = [2, 3, 4].map(|id| leave(data.path(), id));
        // As if it were a link to a folder that machines share.
        let shared = |dir: &Path| if *dir == dirs[0] { why_no_proof(Path::new("/proc")) } else { why_unsafe(dir) };
        let mut unusable = vec![NodeId(2)];
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&dirs[1], Some(65_534), None).unwrap();
            unusable.push(NodeId(3));
        }
        let claims = claim(data.path(), CLUSTER, &voters, NodeId(1), shared);
        assert_eq!(claims.unusable.iter().map(|(id, _)| *id).collect::<Vec<_>>(), unusable);
        assert_eq!(claims.claimed.len() + unusable.len(), 3);
        assert!(claims.unusable[0].1.contains("other machines"), "{:?}", claims.unusable);
        for (id, why) in &claims.unusable[1..] {
            assert!(why.contains("belongs to another user (65534, not 0)"), "{id} {why}");
        }
        // A folder that is a link: its target counts.
        std::os::unix::fs::symlink("/proc/self", data.path().join("link")).unwrap();
        assert!(why_unsafe(&data.path().join("link")).unwrap().is_some());
    }

    #[test]
    fn a_damaged_folder_is_not_opened() {
        let data = tempfile::tempdir().unwrap();
        let dir = leave(data.path(), 2);
        let voters = BTreeMap::from([(NodeId(2), who(2).uuid)]);
        std::fs::remove_dir_all(dir.join(crate::store::WAL_DIR)).unwrap();
        let mut claims = claim(data.path(), CLUSTER, &voters, NodeId(1), why_unsafe);
        assert!(matches!(claims.claimed[0].open(), Err(StoreError::LogMissing { .. })));
    }
}
