//! `integrity.json` in a node's folder: records that the node's state is wrong, or that no majority has the same state.
//!
//! A node must not serve a corrupt state after a restart, so the record is durable; it is removed once the state was
//! replaced.
//! Not here: the detection (`cluster/integrity.rs`), the reaction (`node/snapshots/checkpoints.rs`).

use super::Files;
use super::error::StoreError;
use crate::types::Index;
use serde::{Deserialize, Serialize};
use std::io::ErrorKind;
use std::path::Path;
use uuid::Uuid;

const FILE_NAME: &str = "integrity.json";
const TEMPORARY_NAME: &str = "integrity.json.tmp";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FindingKind {
    /// This node's state differs from the majority's.
    Corrupt,
    /// No majority of the voters has the same state.
    Split,
}

/// Content of `integrity.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntegrityRecord {
    /// Uuid of the node; a record with another uuid is about a discarded state.
    pub uuid: Uuid,
    pub kind: FindingKind,
    /// Index of the checkpoint.
    pub index: Index,
    /// Numbers of the parts of the state that differ.
    pub parts: Vec<u8>,
}

/// Reads the record of this identity. A file that cannot be parsed counts as [`FindingKind::Corrupt`].
///
/// # Errors
/// Returns an error if the file cannot be read.
pub fn load(files: &dyn Files, dir: &Path, uuid: Uuid) -> Result<Option<IntegrityRecord>, StoreError> {
    let path = dir.join(FILE_NAME);
    let bytes = match files.read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(StoreError::io("read", &path, e)),
    };
    let unread = || IntegrityRecord { uuid, kind: FindingKind::Corrupt, index: Index(0), parts: Vec::new() };
    let record: IntegrityRecord = serde_json::from_slice(&bytes).unwrap_or_else(|_| unread());
    Ok(Some(record).filter(|record| record.uuid == uuid))
}

/// Writes the record durably; `None` removes it.
///
/// # Errors
/// Returns the disk's error.
pub fn save(files: &dyn Files, dir: &Path, record: Option<&IntegrityRecord>) -> Result<(), StoreError> {
    let (path, temporary) = (dir.join(FILE_NAME), dir.join(TEMPORARY_NAME));
    match record {
        Some(record) => {
            let mut bytes = serde_json::to_vec_pretty(record).expect("a record is plain data");
            bytes.push(b'\n');
            let mut file = files.create(&temporary).map_err(|e| StoreError::io("create", &temporary, e))?;
            file.write_at(0, &bytes).map_err(|e| StoreError::io("write to", &temporary, e))?;
            file.sync_data().map_err(|e| StoreError::io("sync", &temporary, e))?;
            files.rename(&temporary, &path).map_err(|e| StoreError::io("rename", &temporary, e))?;
        }
        None => match files.remove(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(StoreError::io("remove", &path, e)),
            _ => {}
        },
    }
    files.sync_dir(dir).map_err(|e| StoreError::io("sync", dir, e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::RealFiles;

    #[test]
    fn a_record_is_read_back_until_it_is_removed_and_only_by_its_own_identity() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        assert_eq!(load(&RealFiles, dir.path(), one).unwrap(), None);
        let record = IntegrityRecord { uuid: one, kind: FindingKind::Corrupt, index: Index(7), parts: vec![2, 4] };
        save(&RealFiles, dir.path(), Some(&record)).unwrap();
        assert_eq!(load(&RealFiles, dir.path(), one).unwrap(), Some(record));
        assert_eq!(load(&RealFiles, dir.path(), other).unwrap(), None);
        std::fs::write(dir.path().join(FILE_NAME), b"{").unwrap();
        assert_eq!(load(&RealFiles, dir.path(), one).unwrap().map(|record| record.kind), Some(FindingKind::Corrupt));
        save(&RealFiles, dir.path(), None).unwrap();
        save(&RealFiles, dir.path(), None).unwrap();
        assert_eq!(load(&RealFiles, dir.path(), one).unwrap(), None);
    }
}
