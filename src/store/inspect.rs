//! Reading a node's folder without changing it, for `phalanx log`.
//!
//! It reads the log as recovery does, so it finds the damage that a start would find; it also checks every snapshot. A
//! torn tail is not damage: a start would remove it. It can be used while the node is running and writing.
//! Not here: printing (`cli/local/log.rs`).

use super::error::StoreError;
use super::wal::record::{Position, Record};
use super::wal::recover::{self, Torn};
use super::{Files, Options, SNAPSHOTS_DIR, SnapshotReader, Snapshots, WAL_DIR};
use crate::raft::{HardState, SnapshotMeta};
use crate::types::{Index, Term};
use std::path::Path;
use std::sync::Arc;

/// One record with its position.
pub struct InspectedRecord<'a> {
    pub file: &'a Path,
    /// Offset of its frame.
    pub offset: usize,
    /// Its position in the log.
    pub at: Position,
    pub record: &'a Record,
}

/// Content of a node's folder.
#[derive(Debug, Default)]
pub struct Summary {
    pub segments: usize,
    /// Number of readable records of all kinds.
    pub records: u64,
    /// Term and vote.
    pub hard_state: HardState,
    /// First and last index of the entries after the newest snapshot; `None` if there are none.
    pub entries: Option<(Index, Index)>,
    /// All complete snapshots, oldest first.
    pub snapshots: Vec<SnapshotMeta>,
    /// The torn tail, which a start would remove.
    pub torn: Option<Torn>,
    /// Damage that would prevent a start.
    pub damage: Vec<StoreError>,
}

/// Reads everything in a node's folder and passes each log record to `each`.
///
/// # Errors
/// Returns an error if there is nothing to read. Damage is not an error, but part of the summary.
pub fn inspect(
    files: Arc<dyn Files>,
    dir: &Path,
    mut each: impl FnMut(InspectedRecord<'_>),
) -> Result<Summary, StoreError> {
    let options = Options { node: super::error::node_of(dir), ..Options::default() };
    let (wal_dir, snapshots_dir) = (dir.join(WAL_DIR), dir.join(SNAPSHOTS_DIR));
    let mut summary = Summary::default();
    let snapshots = Snapshots::new(files.clone(), snapshots_dir, &options, super::Poison::default());
    let log = match recover::segments_in(&*files, &wal_dir, &options) {
        Ok(numbers) if numbers.is_empty() => {
            if !snapshots.paths()?.is_empty() {
                summary.damage.push(StoreError::LogMissing { dir: wal_dir.clone(), node: options.node });
            }
            None
        }
        Ok(numbers) => {
            summary.segments = numbers.len();
            let count = |file: &Path, offset, at, record: &Record| {
                summary.records += 1;
                each(InspectedRecord { file, offset, at, record });
            };
            keep(recover::read(&*files, &wal_dir, &options, &numbers, count), &mut summary.damage)?
        }
        Err(e) => keep(Err(e), &mut summary.damage)?,
    };
    let installed = log.as_ref().and_then(|log| log.replay.installed.clone());
    for file in snapshots.paths()? {
        let read = SnapshotReader::open(&snapshots, &file).and_then(SnapshotReader::verify);
        if read.is_err() && !snapshots.paths()?.contains(&file) {
            // The running node has removed it in the meantime.
            continue;
        }
        let meta = keep(read, &mut summary.damage)?;
        // A received snapshot counts once the log begins after it; otherwise a start removes it.
        let is_in_use = file.extension().is_some_and(|e| e == "snap") || meta == installed;
        summary.snapshots.extend(meta.filter(|_| is_in_use));
    }
    if let Some(mut log) = log {
        let base = summary.snapshots.last().map_or((Index(0), Term(0)), |meta| (meta.index, meta.term));
        summary.hard_state = log.replay.hard_state;
        summary.torn = log.torn;
        match log.replay.entries_after(base) {
            Ok((entries, _)) => summary.entries = entries.first().map(|e| e.index).zip(entries.last().map(|e| e.index)),
            Err(why) => {
                summary.damage.push(StoreError::Damaged { file: wal_dir, offset: 0, why, node: options.node });
            }
        }
    }
    Ok(summary)
}

/// Moves an error that is damage into `damage`; returns other errors.
fn keep<T>(result: Result<T, StoreError>, damage: &mut Vec<StoreError>) -> Result<Option<T>, StoreError> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(e @ (StoreError::Damaged { .. } | StoreError::Version { .. } | StoreError::LogMissing { .. })) => {
            damage.push(e);
            Ok(None)
        }
        Err(e) => Err(e),
    }
}
