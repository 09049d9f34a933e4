//! `integrity.json` in a node's folder: that its state is known to be wrong, or that no majority knows what is right.
//!
//! A restart must not serve what was found corrupt, so the mark outlives the process; it goes when the state was
//! replaced.
//! Not here: who finds out (`cluster/integrity.rs`), what follows (`node/snapshots/checkpoints.rs`).

use super::Files;
use super::error::StoreError;
use crate::types::Index;
use serde::{Deserialize, Serialize};
use std::io::ErrorKind;
use std::path::Path;
use uuid::Uuid;

const FILE_NAME: &str = "integrity.json";
const TEMPORARY_NAME: &str = "integrity.json.tmp";

/// What the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// This node differs from the majority.
    Corrupt,
    /// There is no majority.
    Split,
}

/// The mark.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Of which node: a state under another uuid is another.
    pub uuid: Uuid,
    /// What was found.
    pub kind: Kind,
    /// At which checkpoint.
    pub index: Index,
    /// In which parts of the state, by number.
    pub parts: Vec<u8>,
}

/// Reads the mark of this identity. A file that cannot be read counts as corrupt: it was written for a reason.
///
/// # Errors
/// When the folder cannot be read.
pub fn load(files: &dyn Files, dir: &Path, uuid: Uuid) -> Result<Option<Mark>, StoreError> {
    let path = dir.join(FILE_NAME);
    let bytes = match files.read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(StoreError::io("read", &path, e)),
    };
    let unread = || Mark { uuid, kind: Kind::Corrupt, index: Index(0), parts: Vec::new() };
    let mark: Mark = serde_json::from_slice(&bytes).unwrap_or_else(|_| unread());
    Ok(Some(mark).filter(|mark| mark.uuid == uuid))
}

/// Writes it, durable when this returns; `None` removes it.
///
/// # Errors
/// When the disk fails.
pub fn save(files: &dyn Files, dir: &Path, mark: Option<&Mark>) -> Result<(), StoreError> {
    let (path, temporary) = (dir.join(FILE_NAME), dir.join(TEMPORARY_NAME));
    match mark {
        Some(mark) => {
            let mut bytes = serde_json::to_vec_pretty(mark).expect("a mark is plain data");
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
    fn a_mark_is_read_back_until_it_is_removed_and_only_by_its_own_identity() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        assert_eq!(load(&RealFiles, dir.path(), one).unwrap(), None);
        let mark = Mark { uuid: one, kind: Kind::Corrupt, index: Index(7), parts: vec![2, 4] };
        save(&RealFiles, dir.path(), Some(&mark)).unwrap();
        assert_eq!(load(&RealFiles, dir.path(), one).unwrap(), Some(mark));
        assert_eq!(load(&RealFiles, dir.path(), other).unwrap(), None);
        std::fs::write(dir.path().join(FILE_NAME), b"{").unwrap();
        assert_eq!(load(&RealFiles, dir.path(), one).unwrap().map(|mark| mark.kind), Some(Kind::Corrupt));
        save(&RealFiles, dir.path(), None).unwrap();
        save(&RealFiles, dir.path(), None).unwrap();
        assert_eq!(load(&RealFiles, dir.path(), one).unwrap(), None);
    }
}
