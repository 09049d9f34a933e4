//! Writes the log: appending, syncing, rotation, and removing the segments that a snapshot covers.
//!
//! Records are buffered; a sync writes them in one piece and then syncs once. A full segment is synced before the next
//! one gets its name, and the next one's header is synced before that; so only the last segment can have a torn tail.
//!
//! Invariants: W1 `position` is the end of the last record, and only zeros follow it. W2 the place of a record in its
//! batch counts from `batch_start`, which advances only after a successful sync. W3 a segment is removed only when a
//! snapshot covers the log's last index at the next segment's start, and segments are removed oldest first.
//! Not here: reading it back (`recover.rs`), poisoning after an error (`store/store.rs`).

use super::record::{self, Header, Position, Record};
use super::segment;
use crate::planted_bugs::is_planted;
use crate::raft::{Entry, HardState};
use crate::store::error::StoreError;
use crate::store::{File, Files, Options};
use crate::types::{Index, Term};
use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// File name of the next segment while it is being filled with zeros.
const SPARE_NAME: &str = "next.tmp";
/// File name of the next segment while it is created at rotation, because none was created in advance.
const HURRIED_NAME: &str = "hurried.tmp";
/// File name of a segment that is being removed.
pub const SHRUNK_NAME: &str = "gone.tmp";
/// Number of zero bytes that are written and synced in one step, so that a concurrent sync of the log waits only
/// briefly.
const ZERO_STEP_BYTES: usize = 256 << 10;
/// Size of the buffer at which it is written even without a sync.
const BUFFER_BYTES_MAX: usize = 1 << 20;

/// The log, open for appending.
pub struct Wal {
    files: Arc<dyn Files>,
    dir: PathBuf,
    options: Options,
    /// The last segment.
    file: Box<dyn File>,
    /// Numbers of all segments, oldest first, each with the log's last index at its start.
    segments: Vec<(u64, Index)>,
    /// Length of the last segment in bytes: records, then zeros.
    room: u64,
    /// Offset after its header.
    begins: u64,
    /// Offset at which the buffer will be written.
    position: u64,
    /// Framed records that are not written yet.
    buffer: Vec<u8>,
    /// Sequence of the next record.
    sequence: u64,
    /// Sequence of the first record since the last sync.
    batch_start: u64,
    /// Whether a record other than a seal is not synced yet.
    is_dirty: bool,
    hard_state: HardState,
    last: (Index, Term),
    spare: Option<Spare>,
    /// Whether a [`SpareJob`] was handed out and has not returned.
    is_making_spare: bool,
    /// Whether a [`SpareJob`] was created during this segment: it is not repeated if the disk is full.
    has_tried_spare: bool,
}

/// A preallocated next segment, filled with zeros.
pub struct Spare {
    file: Box<dyn File>,
    path: PathBuf,
    bytes: u64,
}

impl fmt::Debug for Spare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spare segment of {} bytes", self.bytes)
    }
}

/// The job of creating the next segment, which any thread can run while the log is written.
pub struct SpareJob {
    files: Arc<dyn Files>,
    path: PathBuf,
    bytes: u64,
}

impl SpareJob {
    /// Reserves disk space, so that a full disk is detected before a header is written, and fills the file with zeros:
    /// with space that is only reserved, each sync would write metadata.
    ///
    /// # Errors
    /// Returns an error if the disk fails or is full; the file is then unusable.
    pub fn run(self) -> Result<Spare, StoreError> {
        let bytes = self.bytes;
        let mut spare = self.reserve()?;
        let mut zeroed = 0;
        while zeroed < bytes {
            let step = (bytes - zeroed).min(ZERO_STEP_BYTES as u64);
            let written = spare.file.write_at(zeroed, &ZEROS[..step as usize]);
            written.map_err(|e| StoreError::io("write to", &spare.path, e))?;
            spare.file.sync_data().map_err(|e| StoreError::io("sync", &spare.path, e))?;
            zeroed += step;
        }
        Ok(spare)
    }

    fn reserve(self) -> Result<Spare, StoreError> {
        let SpareJob { files, path, bytes } = self;
        let mut file = files.create(&path).map_err(|e| StoreError::io("create", &path, e))?;
        file.allocate(bytes).map_err(|e| StoreError::io("reserve room for", &path, e))?;
        Ok(Spare { file, path, bytes })
    }
}

impl Wal {
    /// Returns the number of the last segment.
    fn segment(&self) -> u64 {
        self.segments.last().expect("a log has at least one segment").0
    }

    /// Returns the path of the last segment.
    pub fn path(&self) -> PathBuf {
        self.dir.join(segment::file_name(self.segment()))
    }

    /// Returns the last index of the log, synced or not.
    pub fn last_index(&self) -> Index {
        self.last.0
    }

    /// Returns term and vote, synced or not.
    pub fn hard_state(&self) -> HardState {
        self.hard_state
    }

    /// Appends a record to the buffer, into the next segment if it does not fit into this one.
    pub fn append(&mut self, record: &Record) -> Result<(), StoreError> {
        self.put(|at, out| record::encode(record, at, out))?;
        match record {
            Record::HardState(state) => self.hard_state = *state,
            Record::Install(meta) => self.last = (meta.index, meta.term),
            Record::Entry(entry) => self.last = (entry.index, entry.term),
            Record::Header(_) | Record::Seal => {}
            #[cfg(any(test, feature = "planted-bugs"))]
            Record::Vote(_) => {}
        }
        Ok(())
    }

    /// Appends an entry, which replaces the entry at its index and removes all entries after it.
    pub fn append_entry(&mut self, entry: &Entry) -> Result<(), StoreError> {
        self.put(|at, out| record::encode_entry(entry, at, out))?;
        self.last = (entry.index, entry.term);
        Ok(())
    }

    fn put(&mut self, encode: impl Fn(Position, &mut Vec<u8>)) -> Result<(), StoreError> {
        let start = self.buffer.len();
        encode(self.next_position(), &mut self.buffer);
        let is_fresh = start == 0 && self.position == self.begins;
        if self.position + self.buffer.len() as u64 > self.room && !is_fresh {
            // Its position changes with the segment, so it is encoded again.
            self.buffer.truncate(start);
            self.rotate()?;
            encode(self.next_position(), &mut self.buffer);
        }
        self.sequence += 1;
        self.is_dirty = true;
        if self.buffer.len() >= BUFFER_BYTES_MAX {
            self.flush()?;
        }
        Ok(())
    }

    fn next_position(&self) -> Position {
        let place = u32::try_from(self.sequence - self.batch_start).expect("a batch is far smaller than 2^32 records");
        Position { segment: self.segment(), sequence: self.sequence, place }
    }

    /// Writes the buffer to the file.
    fn flush(&mut self) -> Result<(), StoreError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let written = self.file.write_at(self.position, &self.buffer);
        written.map_err(|e| StoreError::io("write to", &self.path(), e))?;
        self.position += self.buffer.len() as u64;
        self.room = self.room.max(self.position);
        self.buffer.clear();
        Ok(())
    }

    /// Makes everything appended so far durable.
    pub fn sync(&mut self) -> Result<(), StoreError> {
        if !self.is_dirty {
            return Ok(());
        }
        self.flush()?;
        self.sync_file()?;
        self.seal()
    }

    fn sync_file(&mut self) -> Result<(), StoreError> {
        let mut synced = self.file.sync_data();
        if synced.is_err() && is_planted!(self.options, retry_failed_sync) {
            synced = self.file.sync_data();
        }
        synced.map_err(|e| StoreError::io("sync", &self.path(), e))?;
        self.batch_start = self.sequence;
        self.is_dirty = false;
        Ok(())
    }

    /// Writes a [`Record::Seal`], which proves that everything before it is on disk, so that later damage to the newest
    /// batch is not mistaken for a torn tail. The seal is not synced: it is the first record of the next batch and
    /// becomes durable with it, or when the kernel writes it back.
    pub fn seal(&mut self) -> Result<(), StoreError> {
        record::encode(&Record::Seal, self.next_position(), &mut self.buffer);
        if self.position + self.buffer.len() as u64 > self.room {
            // No space for it in this segment: the next segment's header proves the same.
            self.buffer.clear();
            return Ok(());
        }
        self.sequence += 1;
        self.flush()
    }

    /// Closes the full segment and continues in the next one.
    fn rotate(&mut self) -> Result<(), StoreError> {
        self.flush()?;
        self.sync_file()?;
        // Without a prepared segment no zeros are written, to avoid a delay now; each sync then takes a little longer.
        let mut spare = match self.spare.take() {
            Some(spare) => spare,
            None => self.job(HURRIED_NAME).reserve()?,
        };
        let number = self.segment() + 1;
        let header = Header { segment: number, hard_state: self.hard_state, last: self.last };
        let position = begin(&*self.files, &self.dir, &mut spare, header, self.sequence)?;
        self.file = spare.file;
        self.segments.push((number, self.last.0));
        self.has_tried_spare = false;
        (self.begins, self.position, self.room) = (position, position, spare.bytes);
        self.sequence += 1;
        self.batch_start = self.sequence;
        Ok(())
    }

    /// Returns the job of creating the next segment, once, when this one is half full. Its result must be passed to
    /// [`Wal::take_spare`].
    pub fn spare_job(&mut self) -> Option<SpareJob> {
        if self.position < self.room / 2 || self.spare.is_some() || self.is_making_spare || self.has_tried_spare {
            return None;
        }
        (self.is_making_spare, self.has_tried_spare) = (true, true);
        Some(self.job(SPARE_NAME))
    }

    /// Accepts the result of a [`SpareJob`]. A full disk is not an error yet: rotation will report it.
    pub fn take_spare(&mut self, made: Result<Spare, StoreError>) -> Result<(), StoreError> {
        self.is_making_spare = false;
        match made {
            Ok(spare) => self.spare = Some(spare),
            Err(StoreError::NoSpace { .. }) => self.drop(SPARE_NAME)?,
            Err(e) => return Err(e),
        }
        Ok(())
    }

    fn job(&self, name: &str) -> SpareJob {
        let bytes = (self.room * 2).clamp(self.options.segment_bytes_min, self.options.segment_bytes_max);
        SpareJob { files: Arc::clone(&self.files), path: self.dir.join(name), bytes }
    }

    fn drop(&mut self, name: &str) -> Result<(), StoreError> {
        let path = self.dir.join(name);
        match self.files.remove(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(StoreError::io("remove", &path, e)),
            _ => Ok(()),
        }
    }

    /// Stops using the oldest segments, as far as the snapshot at `index` covers them; returns their paths, oldest
    /// first. The caller must remove them in that order, and sync the folder after each: a power failure must not leave
    /// a gap.
    pub fn cut_below(&mut self, index: Index) -> Vec<PathBuf> {
        let keep = self.segments.iter().rposition(|(_, last)| *last <= index).unwrap_or(0);
        let covered = self.segments.drain(..keep);
        covered.map(|(number, _)| self.dir.join(segment::file_name(number))).collect()
    }

    /// Returns the numbers of the segments on disk, oldest first.
    #[cfg(test)]
    pub fn segment_numbers(&self) -> Vec<u64> {
        self.segments.iter().map(|(number, _)| *number).collect()
    }
}

/// Source of zeros for writing.
static ZEROS: [u8; ZERO_STEP_BYTES] = [0; ZERO_STEP_BYTES];

/// Turns the prepared file into a segment: writes its preamble and header, syncs it, and only then renames it.
fn begin(files: &dyn Files, dir: &Path, spare: &mut Spare, header: Header, sequence: u64) -> Result<u64, StoreError> {
    let path = dir.join(segment::file_name(header.segment));
    let mut bytes = segment::preamble(header.segment).to_vec();
    let at = Position { segment: header.segment, sequence, place: 0 };
    record::encode(&Record::Header(header), at, &mut bytes);
    spare.file.write_at(0, &bytes).map_err(|e| StoreError::io("write to", &spare.path, e))?;
    spare.file.sync_data().map_err(|e| StoreError::io("sync", &spare.path, e))?;
    files.rename(&spare.path, &path).map_err(|e| StoreError::io("rename", &spare.path, e))?;
    files.sync_dir(dir).map_err(|e| StoreError::io("sync", dir, e))?;
    Ok(bytes.len() as u64)
}

/// Creates the first segment of an empty log.
pub fn create(files: Arc<dyn Files>, dir: &Path, options: &Options) -> Result<Wal, StoreError> {
    let bytes = options.segment_bytes_min;
    let mut spare = SpareJob { files: Arc::clone(&files), path: dir.join(SPARE_NAME), bytes }.run()?;
    let header = Header { segment: 1, hard_state: HardState::default(), last: (Index(0), Term(0)) };
    let position = begin(&*files, dir, &mut spare, header, 1)?;
    Ok(Wal {
        files,
        dir: dir.to_path_buf(),
        options: options.clone(),
        file: spare.file,
        segments: vec![(1, Index(0))],
        room: bytes,
        begins: position,
        position,
        buffer: Vec::new(),
        sequence: 2,
        batch_start: 2,
        is_dirty: false,
        hard_state: header.hard_state,
        last: header.last,
        spare: None,
        is_making_spare: false,
        has_tried_spare: false,
    })
}

/// Opens the log at the end that recovery found: everything before `position` is on disk, everything after it is zero.
pub fn resume(files: Arc<dyn Files>, dir: &Path, options: &Options, end: LogEnd) -> Result<Wal, StoreError> {
    let mut wal = Wal {
        files,
        dir: dir.to_path_buf(),
        options: options.clone(),
        file: end.file,
        segments: end.segments,
        room: end.room,
        begins: end.begins,
        position: end.position,
        buffer: Vec::new(),
        sequence: end.sequence,
        batch_start: end.sequence,
        is_dirty: false,
        hard_state: end.hard_state,
        last: end.last,
        spare: None,
        is_making_spare: false,
        has_tried_spare: false,
    };
    // Temporary files of an earlier process.
    [SPARE_NAME, HURRIED_NAME, SHRUNK_NAME].iter().try_for_each(|name| wal.drop(name))?;
    Ok(wal)
}

/// Where a recovered log ends.
pub struct LogEnd {
    /// The last segment.
    pub file: Box<dyn File>,
    /// All segments, oldest first, each with the log's last index at its start.
    pub segments: Vec<(u64, Index)>,
    /// Length of the last segment.
    pub room: u64,
    /// Offset after its header.
    pub begins: u64,
    /// Offset after its last record.
    pub position: u64,
    /// Sequence of the next record.
    pub sequence: u64,
    /// Term and vote.
    pub hard_state: HardState,
    pub last: (Index, Term),
}
