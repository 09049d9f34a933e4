//! Reading a node's folder without changing it, for `phalanx log`.
//!
//! It reads like recovery, and so finds the damage that a start would find; it also checks every snapshot. A torn tail
//! is not damage: a start would cut it. Works beside a running node, which may be writing the newest bytes.
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
pub struct Seen<'a> {
    /// The segment.
    pub file: &'a Path,
    /// Where its frame begins.
    pub offset: usize,
    /// Its numbers.
    pub at: Position,
    /// What it says.
    pub record: &'a Record,
}

/// What a folder holds.
#[derive(Debug, Default)]
pub struct Summary {
    /// Log segments.
    pub segments: usize,
    /// Records of all kinds that could be read.
    pub records: u64,
    /// Term and vote.
    pub hard_state: HardState,
    /// Entries after the newest snapshot: first and last index; `None` if there are none.
    pub entries: Option<(Index, Index)>,
    /// Every snapshot that is whole, oldest first.
    pub snapshots: Vec<SnapshotMeta>,
    /// What a start would cut.
    pub torn: Option<Torn>,
    /// What a start would refuse.
    pub damage: Vec<StoreError>,
}

/// Reads everything in a node's folder and hands each log record to `each`. `Err`: there is nothing to read.
pub fn inspect(files: Arc<dyn Files>, dir: &Path, mut each: impl FnMut(Seen<'_>)) -> Result<Summary, StoreError> {
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
                each(Seen { file, offset, at, record });
            };
            keep(recover::read(&*files, &wal_dir, &options, &numbers, count), &mut summary.damage)?
        }
        Err(e) => keep(Err(e), &mut summary.damage)?,
    };
    let installed = log.as_ref().and_then(|log| log.replay.installed.clone());
    for file in snapshots.paths()? {
        let read = SnapshotReader::open(&snapshots, &file).and_then(SnapshotReader::verify);
        if read.is_err() && !snapshots.paths()?.contains(&file) {
            // The node that lives here has taken it away meanwhile.
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

/// Damage is what an inspection is for: noted, not returned.
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
