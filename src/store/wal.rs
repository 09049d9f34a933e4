//! The log over its segments: appending, syncing, rotation, recovery and cutting what a snapshot covers.
//!
//! Records gather in a buffer; a sync writes them in one piece and then syncs once. When a segment is full it is synced,
//! and only then does the next one get its name, header first; so only the last segment can have a torn tail.
//! Recovery reads everything. Where the last segment stops being readable, either a later record proves that the unreadable
//! bytes had been synced (damage: refuse), or they belong to the batch that was never synced (torn tail: overwrite with
//! zeros, so that it never reappears). Whatever recovery keeps, it writes again and syncs before anyone builds on it.
//!
//! Invariants: W1 `position` lies behind the last record and before zeros only. W2 records of a batch get their places from
//! `batch_start`, which moves only after a sync that worked. W3 a segment goes only when a snapshot covers the log's last
//! index at the next segment's start, and segments go oldest first.
//! Not here: poisoning after an error (`store.rs`), what records mean (`replay.rs`).

use super::record::{self, Header, Position, Record};
use super::replay::Replay;
use super::segment::{self, Source};
use super::{File, Files, Options, StoreError};
use crate::raft::{Entry, HardState};
use crate::types::{Index, Term};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The next segment while it is being filled with zeros.
const SPARE_NAME: &str = "next.tmp";
/// Zeros written in one step of [`Wal::prepare`].
const ZERO_STEP_BYTES: usize = 256 << 10;
/// The buffer is written out when it has grown to this, sync or not.
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
    /// Bytes of the last segment that are zeros or records.
    room: u64,
    /// Offset behind its header.
    begins: u64,
    /// Where the next byte goes, without the buffer.
    position: u64,
    /// Framed records that are not written yet.
    buffer: Vec<u8>,
    /// Sequence of the next record.
    sequence: u64,
    /// Sequence of the first record since the last sync.
    batch_start: u64,
    /// Something besides a seal waits for a sync.
    is_dirty: bool,
    hard_state: HardState,
    last: (Index, Term),
    spare: Option<Spare>,
}

/// A next segment in the making.
struct Spare {
    file: Box<dyn File>,
    bytes: u64,
    zeroed: u64,
}

impl Wal {
    /// Number of the last segment.
    fn segment(&self) -> u64 {
        self.segments.last().expect("a log has at least one segment").0
    }

    fn path(&self) -> PathBuf {
        self.dir.join(segment::file_name(self.segment()))
    }

    /// Last index of the log, synced or not.
    pub fn last_index(&self) -> Index {
        self.last.0
    }

    /// Term and vote, synced or not.
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
            #[cfg(test)]
            Record::Vote(_) => {}
        }
        Ok(())
    }

    /// Appends an entry; it cuts whatever stood at its index and after it.
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

    /// Writes the buffer out.
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
        if synced.is_err() && self.options.flaw(|f| f.retry_failed_sync) {
            synced = self.file.sync_data();
        }
        synced.map_err(|e| StoreError::io("sync", &self.path(), e))?;
        self.batch_start = self.sequence;
        self.is_dirty = false;
        Ok(())
    }

    /// Leaves word that everything so far is on disk, so that later damage to the newest batch is not taken for a torn tail.
    /// The word itself is not synced: it is the first of the next batch and reaches the disk with it, or by and by.
    pub fn seal(&mut self) -> Result<(), StoreError> {
        record::encode(&Record::Seal, self.next_position(), &mut self.buffer);
        if self.position + self.buffer.len() as u64 > self.room {
            // No room for it: the next segment's header will say the same.
            self.buffer.clear();
            return Ok(());
        }
        self.sequence += 1;
        self.flush()
    }

    /// Closes the full segment and goes on in the next one.
    fn rotate(&mut self) -> Result<(), StoreError> {
        self.flush()?;
        self.sync_file()?;
        while !self.is_spare_ready() {
            self.zero_some()?;
        }
        let mut spare = self.spare.take().expect("made ready above");
        let number = self.segment() + 1;
        let header = Header { segment: number, hard_state: self.hard_state, last: self.last };
        let position = begin(&*self.files, &self.dir, &mut *spare.file, header, self.sequence)?;
        self.file = spare.file;
        self.segments.push((number, self.last.0));
        (self.begins, self.position, self.room) = (position, position, spare.bytes);
        self.sequence += 1;
        self.batch_start = self.sequence;
        Ok(())
    }

    /// Does a little of the work for the next segment once this one is half full; called when there is nothing else to do.
    /// Without it rotation does all of that work at once. A full disk is no error yet: rotation will say so.
    pub fn prepare(&mut self) -> Result<(), StoreError> {
        if self.position < self.room / 2 || self.is_spare_ready() {
            return Ok(());
        }
        match self.zero_some() {
            Err(StoreError::NoSpace { .. }) => self.drop_spare(),
            other => other,
        }
    }

    fn drop_spare(&mut self) -> Result<(), StoreError> {
        self.spare = None;
        let path = self.dir.join(SPARE_NAME);
        match self.files.remove(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(StoreError::io("remove", &path, e)),
            _ => Ok(()),
        }
    }

    fn is_spare_ready(&self) -> bool {
        self.spare.as_ref().is_some_and(|spare| spare.zeroed == spare.bytes)
    }

    /// Writes and syncs the next piece of zeros. Zeros, because room that is only reserved costs metadata at each sync.
    fn zero_some(&mut self) -> Result<(), StoreError> {
        let path = self.dir.join(SPARE_NAME);
        let Some(spare) = &mut self.spare else {
            let bytes = (self.room * 2).clamp(self.options.segment_bytes_min, self.options.segment_bytes_max);
            let mut file = self.files.create(&path).map_err(|e| StoreError::io("create", &path, e))?;
            file.allocate(bytes).map_err(|e| StoreError::io("reserve room for", &path, e))?;
            self.spare = Some(Spare { file, bytes, zeroed: 0 });
            return Ok(());
        };
        let step = (spare.bytes - spare.zeroed).min(ZERO_STEP_BYTES as u64);
        let written = spare.file.write_at(spare.zeroed, &ZEROS[..step as usize]);
        written.map_err(|e| StoreError::io("write to", &path, e))?;
        spare.file.sync_data().map_err(|e| StoreError::io("sync", &path, e))?;
        spare.zeroed += step;
        Ok(())
    }

    /// Removes the oldest segments, as far as the snapshot at `index` covers them.
    pub fn cut_below(&mut self, index: Index) -> Result<(), StoreError> {
        let Some(keep) = self.segments.iter().rposition(|(_, last)| *last <= index) else { return Ok(()) };
        for _ in 0..keep {
            let path = self.dir.join(segment::file_name(self.segments[0].0));
            self.files.remove(&path).map_err(|e| StoreError::io("remove", &path, e))?;
            // One by one: a power cut must not leave a gap.
            self.files.sync_dir(&self.dir).map_err(|e| StoreError::io("sync", &self.dir, e))?;
            self.segments.remove(0);
        }
        Ok(())
    }

    /// Numbers of the segments on disk, oldest first.
    #[cfg(test)]
    pub fn segment_numbers(&self) -> Vec<u64> {
        self.segments.iter().map(|(number, _)| *number).collect()
    }
}

/// What zeros are copied from.
static ZEROS: [u8; ZERO_STEP_BYTES] = [0; ZERO_STEP_BYTES];

/// Turns the zeroed spare file into a segment: writes its beginning, syncs it, and only then gives it its name.
fn begin(files: &dyn Files, dir: &Path, file: &mut dyn File, header: Header, sequence: u64) -> Result<u64, StoreError> {
    let spare = dir.join(SPARE_NAME);
    let path = dir.join(segment::file_name(header.segment));
    let mut bytes = segment::preamble(header.segment).to_vec();
    let at = Position { segment: header.segment, sequence, place: 0 };
    record::encode(&Record::Header(header), at, &mut bytes);
    file.write_at(0, &bytes).map_err(|e| StoreError::io("write to", &spare, e))?;
    file.sync_data().map_err(|e| StoreError::io("sync", &spare, e))?;
    files.rename(&spare, &path).map_err(|e| StoreError::io("rename", &spare, e))?;
    files.sync_dir(dir).map_err(|e| StoreError::io("sync", dir, e))?;
    Ok(bytes.len() as u64)
}

/// What recovery found out besides the log itself.
pub struct Recovered {
    /// The log, ready for appending.
    pub wal: Wal,
    /// The state that its records leave behind.
    pub replay: Replay,
    /// The cut tail, for the log of the node: file, offset, bytes and why.
    pub torn: Option<String>,
}

/// Makes the first segment of an empty log.
pub fn create(files: Arc<dyn Files>, dir: &Path, options: &Options) -> Result<Recovered, StoreError> {
    let spare = dir.join(SPARE_NAME);
    let bytes = options.segment_bytes_min;
    let mut file = files.create(&spare).map_err(|e| StoreError::io("create", &spare, e))?;
    file.allocate(bytes).map_err(|e| StoreError::io("reserve room for", &spare, e))?;
    let mut zeroed = 0;
    while zeroed < bytes {
        let step = (bytes - zeroed).min(ZERO_STEP_BYTES as u64);
        let written = file.write_at(zeroed, &ZEROS[..step as usize]);
        written.map_err(|e| StoreError::io("write to", &spare, e))?;
        zeroed += step;
    }
    let replay = Replay::new(options);
    let header = Header { segment: 1, hard_state: replay.hard_state, last: (Index(0), Term(0)) };
    let position = begin(&*files, dir, &mut *file, header, 1)?;
    let wal = Wal {
        files,
        dir: dir.to_path_buf(),
        options: options.clone(),
        file,
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
    };
    Ok(Recovered { wal, replay, torn: None })
}

/// Numbers of the segments in a folder, in order; a gap between them is damage.
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

/// Reads the whole log, cuts a torn tail, and opens it for appending. `numbers` are the segments, at least one.
pub fn recover(files: Arc<dyn Files>, dir: &Path, options: &Options, numbers: &[u64]) -> Result<Recovered, StoreError> {
    let mut replay = Replay::new(options);
    let mut segments = Vec::new();
    let mut tail = None;
    let mut previous = None;
    for number in numbers {
        let path = dir.join(segment::file_name(*number));
        let bytes = files.read(&path).map_err(|e| StoreError::io("read", &path, e))?;
        let source = Source { path: &path, number: *number, bytes: &bytes, node: options.node };
        if let Some((expected, file, offset, why)) = previous.take() {
            let begins = segment::first_sequence(source)?;
            if begins != expected {
                let why = format!("{why}; record {expected} should stand here, the next segment begins with {begins}");
                return Err(StoreError::Damaged { file, offset, why, node: options.node });
            }
        }
        let scan = segment::scan(source, |_, _, record| replay.apply(record))?;
        segments.push((*number, scan.header.last.0));
        let why = scan.stopped.clone().unwrap_or_else(|| "nothing but zeros".to_string());
        previous = Some((scan.next_sequence, path.clone(), scan.end as u64, why));
        tail = Some((path, bytes, scan));
    }
    let (path, mut bytes, scan) = tail.expect("at least one segment");
    let number = *numbers.last().expect("at least one segment");
    let source = Source { path: &path, number, bytes: &bytes, node: options.node };
    if scan.filled > scan.end
        && !options.flaw(|f| f.damage_is_torn_tail)
        && let Some((later, sequence)) = segment::proof(source, &scan)
    {
        let why = scan.stopped.as_deref().unwrap_or("zeros");
        let why =
            format!("{why}, but the whole record {sequence} at byte {later} was written after this had been synced");
        return Err(source.damaged(scan.end, why));
    }
    let torn = (scan.filled > scan.end).then(|| {
        let why = scan.stopped.as_deref().unwrap_or("zeros where a record should begin");
        let (end, cut) = (scan.end, scan.filled - scan.end);
        format!("cut {cut} bytes that were never synced from {} at byte {end}: {why}", path.display())
    });
    // Written again: a sync that failed before the restart may have left the bytes in memory only. The torn part becomes
    // zeros in the same step, so that it never reappears.
    let mut file = files.open(&path).map_err(|e| StoreError::io("open", &path, e))?;
    let filled = scan.filled.max(scan.end);
    bytes[scan.end..].fill(0);
    if scan.unproven < filled {
        let written = file.write_at(scan.unproven as u64, &bytes[scan.unproven..filled]);
        written.map_err(|e| StoreError::io("write to", &path, e))?;
    }
    file.sync_data().map_err(|e| StoreError::io("sync", &path, e))?;
    let mut wal = Wal {
        files,
        dir: dir.to_path_buf(),
        options: options.clone(),
        file,
        segments,
        room: bytes.len() as u64,
        begins: scan.header_end as u64,
        position: scan.end as u64,
        buffer: Vec::new(),
        sequence: scan.next_sequence,
        batch_start: scan.next_sequence,
        is_dirty: false,
        hard_state: replay.hard_state,
        last: (replay.last_index(), replay.last_term().unwrap_or_default()),
        spare: None,
    };
    wal.drop_spare()?;
    Ok(Recovered { wal, replay, torn })
}
