//! The owner of a data folder, in `identity.json`.
//!
//! The file has the node's number, its uuid, its cluster and the last known addresses of its peers, so that a restart
//! finds them without a shared file. It is replaced atomically. A discarded folder (`--rejoin`) gets its new uuid
//! before its log is removed: the old uuid must never vote with an empty log.
//! Not here: the folder's lock (`folder_lock.rs`), joining and bootstrap (`cluster/discovery/`).

use super::error::StoreError;
use super::wal::segment;
use super::{Files, Options, SNAPSHOTS_DIR, Store, WAL_DIR, snapshot};
use crate::raft::Durable;
use crate::types::{Addresses, Identity, NodeId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use uuid::Uuid;

/// Name of the file in a node's folder.
pub const FILE_NAME: &str = "identity.json";
const TEMPORARY_NAME: &str = "identity.json.tmp";
/// Suffix of folders that were set aside.
const ASIDE_SUFFIX: &str = ".older";

/// Content of `identity.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredIdentity {
    /// The cluster that the data belongs to; `None` until the node has joined or bootstrapped one.
    pub cluster: Option<Uuid>,
    pub id: NodeId,
    /// Random; drawn when the folder was created, and again when its state was discarded.
    pub uuid: Uuid,
    /// Whether a log was created under this uuid. If it is missing then, the node must not start: it could vote twice
    /// in a term.
    #[serde(default)]
    pub has_log: bool,
    /// Whether the removal of an earlier uuid's state was begun; [`load`] finishes it.
    #[serde(default)]
    pub is_discarding: bool,
    /// Whether the folder is a witness's: its log is cut without a snapshot of the data.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_witness: bool,
    /// Last known addresses of the other members.
    #[serde(default)]
    pub peers: BTreeMap<NodeId, Addresses>,
}

impl StoredIdentity {
    /// Returns the identity of a new node without a cluster.
    pub fn new(id: NodeId, uuid: Uuid) -> StoredIdentity {
        StoredIdentity {
            cluster: None,
            id,
            uuid,
            has_log: false,
            is_discarding: false,
            is_witness: false,
            peers: BTreeMap::new(),
        }
    }

    /// Returns number and uuid.
    pub fn identity(&self) -> Identity {
        Identity { id: self.id, uuid: self.uuid }
    }
}

/// Returns the folder of node `id`.
pub fn folder(data_dir: &Path, id: NodeId) -> PathBuf {
    data_dir.join(format!("node-{}", id.0))
}

/// Reads `identity.json`; `None` in a new folder. Finishes a discard that a crash interrupted.
///
/// # Errors
/// Returns [`StoreError::IdentityLost`] if there is a log but no such file: the file is written before the log is
/// created, so a crash cannot be the cause.
pub fn load(files: &dyn Files, dir: &Path) -> Result<Option<StoredIdentity>, StoreError> {
    let Some(mut me) = peek(files, dir)? else {
        missing_beside_a_log(files, dir)?;
        return Ok(None);
    };
    if me.is_discarding {
        finish_discard(files, dir, &mut me)?;
    }
    Ok(Some(me))
}

/// Reads `identity.json` without changing anything.
///
/// # Errors
/// Returns [`StoreError::ForeignFolder`] if the folder is named after another node.
pub fn peek(files: &dyn Files, dir: &Path) -> Result<Option<StoredIdentity>, StoreError> {
    match (read(files, dir)?, super::error::node_of(dir)) {
        (Some(me), Some(node)) if node != me.id => Err(foreign(files, dir, &me, node)),
        (me, _) => Ok(me),
    }
}

/// Reads the file without checking that it belongs to this folder.
fn read(files: &dyn Files, dir: &Path) -> Result<Option<StoredIdentity>, StoreError> {
    let path = dir.join(FILE_NAME);
    let bytes = match files.read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(StoreError::io("read", &path, e)),
    };
    let me = serde_json::from_slice(&bytes);
    me.map(Some).map_err(|e| StoreError::Identity { file: path, why: e.to_string(), node: super::error::node_of(dir) })
}

/// Returns the error for swapped folders, with advice where the right ones may be: `dir` is named after `node` and
/// belongs to `me`.
fn foreign(files: &dyn Files, dir: &Path, me: &StoredIdentity, node: NodeId) -> StoreError {
    let data_dir = dir.parent().unwrap_or(Path::new(""));
    let siblings = files.list(data_dir).unwrap_or_default().into_iter().map(|name| data_dir.join(name));
    // The name does not matter: the folder may have been renamed.
    let own = siblings.filter(|at| at != dir && read(files, at).ok().flatten().is_some_and(|it| it.id == node));
    let own: Vec<String> = own.map(|at| at.display().to_string()).collect();
    let home = folder(data_dir, me.id);
    let is_home_taken = read(files, &home).ok().flatten().is_some_and(|it| it.id == me.id);
    let (home, owner, number) = (home.display(), me.id.0, node.0);
    let advice = match (&own[..], is_home_taken) {
        ([], true) => format!(
            "{home} is node {owner}'s as well, so this is a copy of it or from another cluster: move it away; without a folder \
             node {number} starts as a new node"
        ),
        ([], false) => format!(
            "rename it to {home}; node {number}'s own folder does not lie beside it: put that in its place, or node {number} starts as \
             a new node"
        ),
        (own, true) => {
            let own = own.join(" or ");
            format!(
                "node {number}'s own folder seems to be {own}: move this one away and rename that one to {}",
                dir.display()
            )
        }
        (own, false) => {
            let own = own.join(" or ");
            format!(
                "node {number}'s own folder seems to be {own}: stop the nodes, then rename this one to {home} and that one to {}",
                dir.display()
            )
        }
    };
    let owner = me.id;
    StoreError::ForeignFolder { dir: dir.to_path_buf(), owner, node, advice }
}

/// Returns an error if a folder without `identity.json` contains a log or a snapshot.
pub fn missing_beside_a_log(files: &dyn Files, dir: &Path) -> Result<(), StoreError> {
    match holds_log(files, dir)? {
        true => Err(StoreError::lost_identity(dir, "identity.json is missing")),
        false => Ok(()),
    }
}

/// Whether a node's folder contains a log or a snapshot, on which other nodes may rely.
pub fn holds_log(files: &dyn Files, dir: &Path) -> Result<bool, StoreError> {
    let is_segment = |name: &String| segment::number_of(name).is_some();
    Ok(list(files, &dir.join(WAL_DIR))?.iter().any(is_segment)
        || list(files, &dir.join(SNAPSHOTS_DIR))?.iter().any(|name| snapshot::is_whole(name)))
}

/// Replaces `identity.json` atomically and durably.
pub fn save(files: &dyn Files, dir: &Path, me: &StoredIdentity) -> Result<(), StoreError> {
    let (path, temporary) = (dir.join(FILE_NAME), dir.join(TEMPORARY_NAME));
    let mut bytes = serde_json::to_vec_pretty(me).expect("an identity is plain data");
    bytes.push(b'\n');
    files.create_dir(dir).map_err(|e| StoreError::io("create", dir, e))?;
    let mut file = files.create(&temporary).map_err(|e| StoreError::io("create", &temporary, e))?;
    file.write_at(0, &bytes).map_err(|e| StoreError::io("write to", &temporary, e))?;
    file.sync_data().map_err(|e| StoreError::io("sync", &temporary, e))?;
    files.rename(&temporary, &path).map_err(|e| StoreError::io("rename", &temporary, e))?;
    files.sync_dir(dir).map_err(|e| StoreError::io("sync", dir, e))?;
    // The folder itself may be new: without this sync it could be lost in a power failure.
    let above = dir.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    files.sync_dir(above).map_err(|e| StoreError::io("sync", above, e))
}

/// Opens the store of this identity. Its log must exist unless this is the first time.
pub fn open_store(
    files: Arc<dyn Files>,
    dir: &Path,
    me: &mut StoredIdentity,
    mut options: Options,
) -> Result<(Store, Durable), StoreError> {
    options.node = Some(me.id);
    options.must_exist |= me.has_log;
    let opened = Store::open(files.clone(), dir, options)?;
    if !me.has_log {
        me.has_log = true;
        save(&*files, dir, me)?;
    }
    Ok(opened)
}

/// Discards this node's state (`--rejoin`) and gives it a new uuid. Cluster and peers are kept if the old identity can
/// still be read, so that the node can join its cluster again.
///
/// # Errors
/// Returns the disk's error, or [`StoreError::ForeignFolder`] if the folder contains another node's state.
pub fn discard(files: &dyn Files, dir: &Path, id: NodeId, uuid: Uuid) -> Result<StoredIdentity, StoreError> {
    let old = match peek(files, dir) {
        Err(foreign @ StoreError::ForeignFolder { .. }) => return Err(foreign),
        old => old.ok().flatten(),
    };
    let mut me = StoredIdentity { is_discarding: true, ..StoredIdentity::new(id, uuid) };
    if let Some(old) = old {
        (me.cluster, me.peers) = (old.cluster, old.peers);
    }
    save(files, dir, &me)?;
    finish_discard(files, dir, &mut me)?;
    Ok(me)
}

/// Renames the folders of this node's log and snapshots, because they lack entries or votes that the node has
/// acknowledged, and gives it a new uuid as [`discard`] does. Folders that were set aside before are removed.
pub fn set_aside(
    files: &dyn Files,
    dir: &Path,
    old: &StoredIdentity,
    uuid: Uuid,
) -> Result<StoredIdentity, StoreError> {
    let mut me = StoredIdentity { is_discarding: true, has_log: false, uuid, ..old.clone() };
    save(files, dir, &me)?;
    for name in [WAL_DIR, SNAPSHOTS_DIR] {
        let (from, to) = (dir.join(name), dir.join(format!("{name}{ASIDE_SUFFIX}")));
        remove_files(files, &to)?;
        files.create_dir(&to).map_err(|e| StoreError::io("create", &to, e))?;
        for file in list(files, &from)? {
            let path = from.join(&file);
            files.rename(&path, &to.join(&file)).map_err(|e| StoreError::io("rename", &path, e))?;
        }
        files.sync_dir(&to).map_err(|e| StoreError::io("sync", &to, e))?;
    }
    finish_discard(files, dir, &mut me)?;
    Ok(me)
}

/// Returns the names in a folder; none if it does not exist.
fn list(files: &dyn Files, dir: &Path) -> Result<Vec<String>, StoreError> {
    match files.list(dir) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        names => names.map_err(|e| StoreError::io("list", dir, e)),
    }
}

/// Removes all files of a folder, if it exists.
fn remove_files(files: &dyn Files, dir: &Path) -> Result<(), StoreError> {
    let names = list(files, dir)?;
    for name in &names {
        let path = dir.join(name);
        files.remove(&path).map_err(|e| StoreError::io("remove", &path, e))?;
    }
    match names.is_empty() {
        true => Ok(()),
        false => files.sync_dir(dir).map_err(|e| StoreError::io("sync", dir, e)),
    }
}

fn finish_discard(files: &dyn Files, dir: &Path, me: &mut StoredIdentity) -> Result<(), StoreError> {
    for below in [dir.join(WAL_DIR), dir.join(SNAPSHOTS_DIR)] {
        remove_files(files, &below)?;
    }
    me.is_discarding = false;
    save(files, dir, me)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::RealFiles;

    #[test]
    fn an_identity_comes_back_and_a_mangled_one_is_refused() {
        let data = tempfile::tempdir().unwrap();
        let dir = folder(data.path(), NodeId(3));
        assert_eq!(load(&RealFiles, &dir).unwrap(), None);
        let mut me = StoredIdentity::new(NodeId(3), Uuid::from_u128(7));
        me.cluster = Some(Uuid::from_u128(9));
        me.peers.insert(NodeId(1), Addresses { peer: "127.0.0.1:5701".to_string(), ..Addresses::default() });
        save(&RealFiles, &dir, &me).unwrap();
        assert_eq!(load(&RealFiles, &dir).unwrap(), Some(me.clone()));

        std::fs::write(dir.join(FILE_NAME), "{").unwrap();
        let error = load(&RealFiles, &dir).unwrap_err();
        assert!(matches!(error, StoreError::Identity { .. }), "{error}");
        assert!(error.to_string().contains("--id 3 --rejoin"), "{error}");
    }

    /// Creates a folder `name` with the identity of node `id`.
    fn leave(data: &Path, name: &str, id: u64) -> PathBuf {
        let dir = data.join(name);
        save(&RealFiles, &dir, &StoredIdentity::new(NodeId(id), Uuid::from_u128(id.into()))).unwrap();
        dir
    }

    #[test]
    fn another_nodes_folder_is_named_and_never_discarded() {
        let swapped = [("node-1", 2), ("node-2", 1)];
        let beside = "node 1's own folder seems to be";
        for (others, words) in [
            (
                &swapped[1..],
                vec![beside, "data/node-2: stop the nodes", "this one to data/node-2", "that one to data/node-1"],
            ),
            (&[("node-2", 2)], vec!["data/node-2 is node 2's as well", "move it away", "node 1 starts as a new node"]),
            (&[("node-2", 2), ("old", 1)], vec![beside, "data/old: move this one away", "that one to data/node-1"]),
            (&[], vec!["rename it to data/node-2", "node 1's own folder does not lie beside it"]),
        ] {
            let data = tempfile::tempdir().unwrap();
            let dir = leave(data.path(), "node-1", 2);
            for (name, id) in others {
                leave(data.path(), name, *id);
            }
            let before = std::fs::read(dir.join(FILE_NAME)).unwrap();
            let loaded = load(&RealFiles, &dir).unwrap_err();
            let discarded = discard(&RealFiles, &dir, NodeId(1), Uuid::from_u128(9)).unwrap_err();
            for error in [loaded, discarded] {
                assert!(matches!(error, StoreError::ForeignFolder { .. }), "{error}");
                let error = error.to_string().replace(&data.path().display().to_string(), "data");
                assert!(error.starts_with("data/node-1 is the folder of node 2, not of node 1,"), "{error}");
                for word in &words {
                    assert!(error.contains(word), "{word} is missing: {error}");
                }
                assert!(!error.contains("--rejoin") && !error.contains("not readable"), "{error}");
            }
            assert_eq!(std::fs::read(dir.join(FILE_NAME)).unwrap(), before);
        }
    }

    #[test]
    fn a_log_without_an_identity_is_refused_and_an_empty_folder_is_not() {
        let data = tempfile::tempdir().unwrap();
        let dir = folder(data.path(), NodeId(2));
        let files: Arc<dyn Files> = Arc::new(RealFiles);
        let mut me = StoredIdentity::new(NodeId(2), Uuid::from_u128(1));
        drop(open_store(files.clone(), &dir, &mut me, Options::default()).unwrap());
        std::fs::remove_file(dir.join(FILE_NAME)).unwrap();
        let refused = || load(&*files, &dir).unwrap_err();
        assert!(matches!(refused(), StoreError::IdentityLost { .. }));
        let error = refused().to_string();
        for word in ["identity.json is missing", "node-2", "from a copy", "move the folder away", "node 2 joins"] {
            assert!(error.contains(word), "{word} is missing: {error}");
        }
        assert!(!error.contains("--rejoin"), "moving away loses nothing: {error}");
        std::fs::remove_dir_all(dir.join(WAL_DIR)).unwrap();
        assert_eq!(load(&*files, &dir).unwrap(), None);
        let received = dir.join(SNAPSHOTS_DIR).join("00000000000000000007-00000000000000000002.snap");
        std::fs::write(received, b"x").unwrap();
        assert!(matches!(refused(), StoreError::IdentityLost { .. }), "a snapshot is as good as a log");
    }

    #[test]
    fn a_lost_log_is_refused_and_a_discarded_one_is_not() {
        let data = tempfile::tempdir().unwrap();
        let dir = folder(data.path(), NodeId(2));
        let files: Arc<dyn Files> = Arc::new(RealFiles);
        let mut me = StoredIdentity::new(NodeId(2), Uuid::from_u128(1));
        me.cluster = Some(Uuid::from_u128(5));
        drop(open_store(files.clone(), &dir, &mut me, Options::default()).unwrap());
        assert!(me.has_log);
        std::fs::remove_dir_all(dir.join(WAL_DIR)).unwrap();
        let mut me = load(&*files, &dir).unwrap().unwrap();
        let error = open_store(files.clone(), &dir, &mut me, Options::default()).err().unwrap();
        assert!(matches!(error, StoreError::LogMissing { .. }), "{error}");

        let mut me = discard(&*files, &dir, NodeId(2), Uuid::from_u128(2)).unwrap();
        assert_eq!((me.cluster, me.uuid, me.has_log), (Some(Uuid::from_u128(5)), Uuid::from_u128(2), false));
        assert_eq!(load(&*files, &dir).unwrap(), Some(me.clone()));
        drop(open_store(files.clone(), &dir, &mut me, Options::default()).unwrap());
    }

    #[test]
    fn a_discard_is_finished_at_the_next_load() {
        let data = tempfile::tempdir().unwrap();
        let dir = folder(data.path(), NodeId(2));
        let files: Arc<dyn Files> = Arc::new(RealFiles);
        let mut me = StoredIdentity::new(NodeId(2), Uuid::from_u128(1));
        drop(open_store(files.clone(), &dir, &mut me, Options::default()).unwrap());
        // As a crash leaves it right after the new identity was written.
        save(
            &*files,
            &dir,
            &StoredIdentity { is_discarding: true, ..StoredIdentity::new(NodeId(2), Uuid::from_u128(2)) },
        )
        .unwrap();
        let me = load(&*files, &dir).unwrap().unwrap();
        assert!(!me.is_discarding);
        assert!(files.list(&dir.join(WAL_DIR)).unwrap().is_empty());
    }

    #[test]
    fn no_crash_leaves_the_old_uuid_with_an_empty_log() {
        use crate::raft::{Persist, bootstrap_state};
        use crate::store::tests::fault_files::{Fault, FaultFiles, Restart};
        let dir = folder(Path::new("data"), NodeId(2));
        let (old, new) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let mut seen = [0, 0];
        for (n, seed) in (1..60).flat_map(|n| (0..6).map(move |seed| (n, seed))) {
            let disk = FaultFiles::default();
            let files: Arc<dyn Files> = Arc::new(disk.clone());
            let mut me = StoredIdentity::new(NodeId(2), old);
            let (mut store, _) = open_store(files.clone(), &dir, &mut me, Options::default()).unwrap();
            let first = bootstrap_state(me.identity());
            let hard_state = Some(first.hard_state);
            store.write(&Persist { hard_state, entries: first.entries, ..Persist::default() }).unwrap();
            store.sync().unwrap();
            drop(store);
            disk.plan(Some(Fault::Crash(n)));
            let is_through = discard(&disk, &dir, NodeId(2), new).is_ok();
            disk.restart(Restart::LoseSome(n * 10 + seed));
            let mut me = load(&disk, &dir).unwrap().expect("one of the two");
            let (_, durable) = open_store(files, &dir, &mut me, Options::default()).unwrap();
            let is_empty = durable == Durable::default();
            assert_eq!(me.uuid == new, is_empty, "crash at {n}, seed {seed}: {} with {durable:?}", me.uuid);
            assert!(is_empty || !is_through);
            seen[usize::from(is_empty)] += 1;
        }
        assert!(seen[0] > 5 && seen[1] > 5, "{seen:?}");
    }
}
