//! Reads the log at start, after any kind of stop, and distinguishes a torn tail from damage.
//!
//! Everything is read. Where the last segment stops being readable, either a later record proves that the unreadable
//! bytes had been synced (damage: refuse), or they belong to the batch that was never synced (torn tail: overwrite with
//! zeros, so that it never reappears). An earlier segment was synced whole before the next one got its name: it must be
//! readable up to the record before the next one's header. Everything that recovery keeps is written again and synced
//! before it is used.
//! Not here: the state after a sequence of records (`replay.rs`), reading one segment (`segment.rs`).

use super::record::{Position, Record};
use super::replay::Replay;
use super::segment::{self, Scan, Source};
use super::writer::{self, LogEnd, Wal};
use crate::planted_bugs::is_planted;
use crate::store::error::StoreError;
use crate::store::{Files, Options};
use crate::types::Index;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The log as it is on disk.
pub struct RecoveredLog {
    /// The state after its records.
    pub replay: Replay,
    /// Numbers of the segments, oldest first, each with the log's last index at its start.
    pub segments: Vec<(u64, Index)>,
    /// The torn tail, which [`repair`] overwrites with zeros.
    pub torn: Option<Torn>,
    path: PathBuf,
    bytes: Vec<u8>,
    scan: Scan,
}

/// Unreadable bytes at the end of the log that were never synced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Torn {
    /// The last segment.
    pub file: PathBuf,
    pub offset: u64,
    /// Length of the tail in bytes.
    pub bytes: u64,
    /// Why it cannot be read.
    pub why: String,
}

impl fmt::Display for Torn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Torn { file, offset, bytes, why } = self;
        write!(f, "{bytes} bytes at byte {offset} of {} were never synced: {why}", file.display())
    }
}

/// Returns the numbers of the segments in a folder, in order; a gap between them is damage.
pub fn segments_in(files: &dyn Files, dir: &Path, options: &Options) -> Result<Vec<u64>, StoreError> {
    let names = files.list(dir).map_err(|e| StoreError::io("list", dir, e))?;
    let numbers: Vec<u64> = names.iter().filter_map(|name| segment::number_of(name)).collect();
    if let Some(pair) = numbers.windows(2).find(|pair| pair[0] + 1 != pair[1]) {
        let file = dir.join(segment::file_name(pair[0] + 1));
        let why = "this segment is missing between two others".to_string();
        return Err(StoreError::Damaged { file, offset: 0, why, node: options.node });
    }
    Ok(numbers)
}

/// Reads the whole log without changing it, and passes each record to `each`. `numbers` are the segments, at least one.
pub fn read(
    files: &dyn Files,
    dir: &Path,
    options: &Options,
    numbers: &[u64],
    mut each: impl FnMut(&Path, usize, Position, &Record),
) -> Result<RecoveredLog, StoreError> {
    let mut replay = Replay::new(options);
    let mut segments = Vec::new();
    let mut last: Option<(PathBuf, Vec<u8>, Scan)> = None;
    for number in numbers {
        let path = dir.join(segment::file_name(*number));
        let bytes = files.read(&path).map_err(|e| StoreError::io("read", &path, e))?;
        let source = Source { path: &path, number: *number, bytes: &bytes, node: options.node };
        if let Some((file, _, scan)) = last.take() {
            let (begins, expected) = (segment::first_sequence(source)?, scan.next_sequence);
            if begins != expected {
                let why = scan.stopped.as_deref().unwrap_or("nothing but zeros");
                let why = format!("{why}; record {expected} belongs here, the next segment begins with {begins}");
                return Err(StoreError::Damaged { file, offset: scan.end as u64, why, node: options.node });
            }
        }
        let scan = segment::scan(source, |offset, at, record| {
            each(&path, offset, at, &record);
            replay.apply(record)
        })?;
        segments.push((*number, scan.header.last.0));
        last = Some((path, bytes, scan));
    }
    let (path, bytes, scan) = last.expect("at least one segment");
    let torn = tail(options, &path, &bytes, &scan)?;
    Ok(RecoveredLog { replay, segments, torn, path, bytes, scan })
}

/// Determines whether what follows the last record of the last segment is a torn tail or damage.
fn tail(options: &Options, path: &Path, bytes: &[u8], scan: &Scan) -> Result<Option<Torn>, StoreError> {
    if scan.filled <= scan.end {
        return Ok(None);
    }
    let source = Source { path, number: scan.header.segment, bytes, node: options.node };
    let why = scan.stopped.as_deref().unwrap_or("zeros where a record belongs");
    if !is_planted!(options, damage_is_torn_tail)
        && let Some((later, sequence)) = segment::proof(source, scan)
    {
        let why = format!("{why}, but record {sequence} at byte {later} was written after this had been synced");
        return Err(source.damaged(scan.end, why));
    }
    let (offset, bytes) = (scan.end as u64, (scan.filled - scan.end) as u64);
    Ok(Some(Torn { file: path.to_path_buf(), offset, bytes, why: why.to_string() }))
}

/// Overwrites the torn tail with zeros, ensures that the rest is on disk, and opens the log for appending.
pub fn repair(
    files: Arc<dyn Files>,
    dir: &Path,
    options: &Options,
    log: RecoveredLog,
) -> Result<(Wal, Replay), StoreError> {
    let RecoveredLog { replay, segments, path, mut bytes, scan, .. } = log;
    // Written again: a sync that failed before the restart may have left the bytes in memory only. The torn part
    // becomes zeros in the same step, so that it never reappears.
    let mut file = files.open(&path).map_err(|e| StoreError::io("open", &path, e))?;
    let filled = scan.filled.max(scan.end);
    bytes[scan.end..].fill(0);
    if scan.unproven < filled {
        let written = file.write_at(scan.unproven as u64, &bytes[scan.unproven..filled]);
        written.map_err(|e| StoreError::io("write to", &path, e))?;
    }
    file.sync_data().map_err(|e| StoreError::io("sync", &path, e))?;
    let end = LogEnd {
        file,
        segments,
        room: bytes.len() as u64,
        begins: scan.header_end as u64,
        position: scan.end as u64,
        sequence: scan.next_sequence,
        hard_state: replay.hard_state,
        last: (replay.last_index(), replay.last_term().unwrap_or_default()),
    };
    Ok((writer::resume(files, dir, options, end)?, replay))
}
