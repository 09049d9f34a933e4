//! What a node finds in its folder when it starts: its identity and its log.
//!
//! A log is removed without being asked in one case only: when it is certainly the rest of an unfinished bootstrap. Any
//! other log without an identity, or with one that names no cluster, is refused, because other nodes rely on its
//! promises.
//! Not here: reading the log (`store/`), what follows from it (`start.rs`).

use crate::raft::{self, Durable, HardState};
use crate::store::error::StoreError;
use crate::store::identity::{self, StoredIdentity};
use crate::store::{self, Files, Store};
use crate::types::{Identity, NodeId, NodeKind};
use log::info;
use std::path::Path;
use std::sync::Arc;
use uuid::Uuid;

/// Reads this node's identity; a new folder gets one. `must_discard`: its state is discarded first, as the user asked.
///
/// # Errors
/// Beside those of the disk, [`StoreError::OtherKind`] if the folder is a witness's and the node is none, or the reverse:
/// a witness's log was cut without the data, and a full node's snapshots would stay where none belong.
pub(crate) fn load_identity(
    files: &dyn Files,
    dir: &Path,
    id: NodeId,
    kind: NodeKind,
    must_discard: bool,
) -> Result<StoredIdentity, StoreError> {
    let is_witness = kind == NodeKind::Witness;
    let found = match must_discard {
        true => {
            let me = identity::discard(files, dir, id, Uuid::new_v4())?;
            info!("this node's state was discarded, as asked by --rejoin");
            Some(me)
        }
        false => identity::load(files, dir)?,
    };
    let is_known = found.is_some();
    let mut me = found.unwrap_or_else(|| StoredIdentity::new(id, Uuid::new_v4()));
    let is_used = me.cluster.is_some() && me.has_log;
    if me.is_witness != is_witness && is_used {
        return Err(StoreError::OtherKind { dir: dir.to_path_buf(), node: id, is_witness: me.is_witness });
    }
    if me.is_witness != is_witness || !is_known {
        me.is_witness = is_witness;
        identity::save(files, dir, &me)?;
    }
    Ok(me)
}

/// Opens the store. The rest of an unfinished bootstrap is removed, because no other node has seen it, and the node
/// looks for a cluster like any new node.
pub(crate) fn open(
    files: &Arc<dyn Files>,
    dir: &Path,
    me: &mut StoredIdentity,
) -> Result<(Store, Durable), StoreError> {
    let (store, durable) = identity::open_store(Arc::clone(files), dir, me, store::Options::default())?;
    if me.cluster.is_some() || durable == Durable::default() {
        return Ok((store, durable));
    }
    drop(store);
    if !is_unfinished_bootstrap(&durable, me.identity()) {
        return Err(StoreError::lost_identity(dir, "identity.json names no cluster"));
    }
    info!("discarding the data of an unfinished bootstrap");
    let is_witness = me.is_witness;
    *me = StoredIdentity { is_witness, ..identity::discard(&**files, dir, me.id, Uuid::new_v4())? };
    identity::save(&**files, dir, me)?;
    identity::open_store(Arc::clone(files), dir, me, store::Options::default())
}

/// Whether a log is the one that this identity wrote when it bootstrapped a cluster, or the beginning of it: a member
/// of a cluster writes more before it promises anything.
fn is_unfinished_bootstrap(durable: &Durable, me: Identity) -> bool {
    let first = raft::bootstrap_state(me);
    durable.snapshot.is_none()
        && [HardState::default(), first.hard_state].contains(&durable.hard_state)
        && first.entries.starts_with(&durable.entries)
}

#[cfg(test)]
mod tests {
    use crate::node::process::open::*;
    use crate::raft::{Entry, Payload, Persist};
    use crate::store::RealFiles;
    use crate::types::{Index, Term};
    use std::path::PathBuf;

    const ME: NodeId = NodeId(1);

    /// A folder with this log, and an identity that has not come to know its cluster.
    fn leave(data: &Path, uuid: Uuid, left: Durable) -> PathBuf {
        let dir = identity::folder(data, ME);
        let mut me = load_identity(&RealFiles, &dir, ME, NodeKind::Full, false).unwrap();
        let (mut store, _) = open(&(Arc::new(RealFiles) as Arc<dyn Files>), &dir, &mut me).unwrap();
        let persist = Persist { hard_state: Some(left.hard_state), entries: left.entries, ..Persist::default() };
        store.write(&persist).unwrap();
        store.sync().unwrap();
        identity::save(&RealFiles, &dir, &StoredIdentity { has_log: true, ..StoredIdentity::new(ME, uuid) }).unwrap();
        dir
    }

    fn start(dir: &Path) -> Result<Durable, StoreError> {
        let mut me = load_identity(&RealFiles, dir, ME, NodeKind::Full, false)?;
        open(&(Arc::new(RealFiles) as Arc<dyn Files>), dir, &mut me).map(|(_, durable)| durable)
    }

    #[test]
    fn an_unfinished_bootstrap_is_removed() {
        let uuid = Uuid::from_u128(7);
        let whole = raft::bootstrap_state(Identity { id: ME, uuid });
        let torn = Durable { entries: Vec::new(), ..whole.clone() };
        for left in [whole, torn] {
            let data = tempfile::tempdir().unwrap();
            let dir = leave(data.path(), uuid, left);
            assert_eq!(start(&dir).unwrap(), Durable::default());
            assert_ne!(identity::load(&RealFiles, &dir).unwrap().unwrap().uuid, uuid);
        }
    }

    #[test]
    fn any_other_log_without_a_cluster_stays_and_is_refused() {
        let (uuid, other) = (Uuid::from_u128(7), Uuid::from_u128(8));
        let first = raft::bootstrap_state(Identity { id: ME, uuid });
        let second = Entry { index: Index(2), term: Term(1), payload: Payload::Noop };
        let of_another = raft::bootstrap_state(Identity { id: ME, uuid: other });
        let longer = Durable { entries: [first.entries.clone(), vec![second]].concat(), ..first.clone() };
        let later = Durable { hard_state: HardState { term: Term(2), vote: None }, ..first };
        for left in [of_another, longer, later] {
            let data = tempfile::tempdir().unwrap();
            let dir = leave(data.path(), uuid, left.clone());
            let refused = start(&dir).unwrap_err();
            assert!(matches!(refused, StoreError::IdentityLost { .. }), "{refused}");
            // With the right identity the folder is complete.
            let right = StoredIdentity {
                cluster: Some(Uuid::from_u128(9)),
                ..identity::load(&RealFiles, &dir).unwrap().unwrap()
            };
            identity::save(&RealFiles, &dir, &right).unwrap();
            assert_eq!(start(&dir).unwrap(), left);
        }
    }

    #[test]
    fn the_folder_of_a_witness_opens_as_that_alone() {
        let data = tempfile::tempdir().unwrap();
        let dir = identity::folder(data.path(), ME);
        let as_kind = |kind, rejoin| load_identity(&RealFiles, &dir, ME, kind, rejoin);
        let (full, witness) = (NodeKind::Full, NodeKind::Witness);
        // It has not been in a cluster yet.
        assert!(!as_kind(full, false).unwrap().is_witness);
        let me = as_kind(witness, false).unwrap();
        let used = StoredIdentity { cluster: Some(Uuid::from_u128(9)), has_log: true, ..me };
        identity::save(&RealFiles, &dir, &used).unwrap();
        assert!(as_kind(witness, false).unwrap().is_witness);
        let refused = as_kind(full, false).unwrap_err().to_string();
        assert!(refused.contains("node 1 is a witness: start it with --witness, or with --rejoin"), "{refused}");
        assert!(as_kind(NodeKind::Gateway, false).is_err());
        assert!(!as_kind(full, true).unwrap().is_witness);
        let me = as_kind(full, false).unwrap();
        let used = StoredIdentity { cluster: Some(Uuid::from_u128(9)), has_log: true, ..me };
        identity::save(&RealFiles, &dir, &used).unwrap();
        let refused = as_kind(witness, false).unwrap_err().to_string();
        assert!(refused.contains("node 1 keeps data there: start it without --witness"), "{refused}");
        let text = std::fs::read_to_string(dir.join("identity.json")).unwrap();
        assert!(!text.contains("witness"), "as earlier versions wrote it: {text}");
        assert!(as_kind(witness, true).unwrap().is_witness);
    }

    #[test]
    fn a_log_without_an_identity_stays_and_is_refused() {
        let (data, uuid) = (tempfile::tempdir().unwrap(), Uuid::from_u128(7));
        let first = raft::bootstrap_state(Identity { id: ME, uuid });
        let dir = leave(data.path(), uuid, first.clone());
        let file = dir.join("identity.json");
        let kept = std::fs::read(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        for _ in 0..2 {
            assert!(matches!(start(&dir).unwrap_err(), StoreError::IdentityLost { .. }));
            assert!(!file.exists(), "nothing is written");
        }
        std::fs::write(&file, kept).unwrap();
        let right =
            StoredIdentity { cluster: Some(Uuid::from_u128(9)), ..identity::load(&RealFiles, &dir).unwrap().unwrap() };
        identity::save(&RealFiles, &dir, &right).unwrap();
        assert_eq!(start(&dir).unwrap(), first);
    }
}
