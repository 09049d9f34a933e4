//! Snapshot files: written or received in chunks, durable before they are used, read whole or as a stream.
//!
//! A file has the format's name, a header (what it covers), chunks, and a trailer with the CRC of all of it. It is
//! written under a temporary name, synced, renamed, and the folder is synced. A snapshot of this node is named `….snap`
//! then. A received one is `….incoming` until the log has a record that it replaces the log's beginning; recovery
//! finishes that step after a crash. Snapshots may be saved, received and read by other threads while the log is
//! written: [`Snapshots`] is a handle to clone. If the newest snapshot is damaged, the start fails: with an older one,
//! entries before the log would be missing.
//! Not here: when a snapshot is taken (`node/`), what its bytes mean (`services/`), dropping covered segments
//! (`store/wal/writer.rs`).

use super::error::StoreError;
use super::files::remove_in_steps;
use super::{File, Files, Options, Poison};
use crate::raft::SnapshotMeta;
use crate::types::{Index, NodeId, Term};
use serde::{Deserialize, Serialize};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// First bytes of every snapshot; the last one is the version of the format.
pub const MAGIC: &[u8; 8] = b"PHLXSNP1";
/// Bytes before the payload of each frame (header, chunk or trailer): `u32` length, `u32` CRC-32 of the length and the
/// payload.
const FRAME_BYTES: usize = 8;
/// Maximum length of a frame, because a reader allocates the declared length.
const FRAME_BYTES_MAX: usize = 64 << 20;

/// A snapshot is synced in pieces of this size, because one sync of all of it would delay the syncs of the log.
const SYNC_BYTES: u64 = 512 << 10;

/// Header of a snapshot file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    meta: SnapshotMeta,
    /// Length of the services' state in bytes, the sum of all chunks.
    bytes: u64,
}

/// The snapshots folder of one node.
#[derive(Clone)]
pub struct Snapshots {
    files: Arc<dyn Files>,
    dir: PathBuf,
    chunk_bytes: usize,
    node: Option<NodeId>,
    slots: Slots,
    readers: Readers,
    /// Shared with the store: a failed sync of a snapshot also stops the log.
    poison: Poison,
}

/// Returns the file name of a snapshot from its index, term and suffix.
fn name_of(index: Index, term: Term, suffix: &str) -> String {
    format!("{:020}-{:020}.{suffix}", index.0, term.0)
}

fn parse_name(name: &str, suffix: &str) -> Option<(Index, Term)> {
    let (index, term) = name.strip_suffix(suffix)?.strip_suffix('.')?.split_once('-')?;
    let is_number = |s: &str| s.len() == 20 && s.bytes().all(|b| b.is_ascii_digit());
    if !is_number(index) || !is_number(term) {
        return None;
    }
    Some((Index(index.parse().ok()?), Term(term.parse().ok()?)))
}

/// Whether this is the name of a complete snapshot, in use or received.
pub(crate) fn is_whole(name: &str) -> bool {
    parse_name(name, "snap").or_else(|| parse_name(name, "incoming")).is_some()
}

impl Snapshots {
    pub(crate) fn new(files: Arc<dyn Files>, dir: PathBuf, options: &Options, poison: Poison) -> Snapshots {
        let chunk_bytes = options.snapshot_chunk_bytes.clamp(1, FRAME_BYTES_MAX);
        Snapshots {
            files,
            dir,
            chunk_bytes,
            node: options.node,
            slots: Slots::default(),
            readers: Readers::default(),
            poison,
        }
    }

    /// Returns the failure state that is shared with the log.
    pub(crate) fn poison(&self) -> &Poison {
        &self.poison
    }

    /// Returns index and term of every snapshot in use, oldest first.
    pub fn list(&self) -> Result<Vec<(Index, Term)>, StoreError> {
        self.list_suffix("snap")
    }

    fn list_suffix(&self, suffix: &str) -> Result<Vec<(Index, Term)>, StoreError> {
        let names = self.files.list(&self.dir).map_err(|e| StoreError::io("list", &self.dir, e))?;
        Ok(names.iter().filter_map(|name| parse_name(name, suffix)).collect())
    }

    /// Returns the paths of all complete snapshots, in use or received, oldest first; for inspection.
    pub(crate) fn paths(&self) -> Result<Vec<PathBuf>, StoreError> {
        let names = match self.files.list(&self.dir) {
            Err(e) if e.kind() == ErrorKind::NotFound => Vec::new(),
            names => names.map_err(|e| StoreError::io("list", &self.dir, e))?,
        };
        Ok(names.iter().filter(|name| is_whole(name)).map(|name| self.dir.join(name)).collect())
    }

    /// Begins to write a snapshot of this node's services, whose state has `bytes` bytes.
    pub fn begin(&self, meta: &SnapshotMeta, bytes: u64) -> Result<SnapshotSaver, StoreError> {
        let writer = self.poison.guard(|| Writer::new(self, meta, bytes, "save"))?;
        Ok(SnapshotSaver { writer, buffer: Vec::with_capacity(self.chunk_bytes), synced: 0, failed: None })
    }

    /// Writes a snapshot of a state in memory durably. It is the newest snapshot then if its index is the highest.
    pub fn save(&self, meta: &SnapshotMeta, data: &[u8]) -> Result<(), StoreError> {
        let saver = self.begin(meta, data.len() as u64)?;
        saver.finish_after(|saver| saver.write_all(data))
    }

    /// Opens the newest snapshot; `None` if there is none.
    pub fn newest(&self) -> Result<Option<SnapshotReader>, StoreError> {
        // Registered before the list is read, so that a file which is removed in the meantime is removed in one step.
        let _reader = self.readers.enter();
        let newest = || -> Result<Option<PathBuf>, StoreError> {
            Ok(self.list()?.pop().map(|(index, term)| self.dir.join(name_of(index, term, "snap"))))
        };
        let Some(path) = newest()? else { return Ok(None) };
        match SnapshotReader::open(self, &path) {
            // It was replaced by a newer one in the meantime.
            Err(StoreError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => match newest()? {
                Some(path) => SnapshotReader::open(self, &path).map(Some),
                None => Ok(None),
            },
            opened => opened.map(Some),
        }
    }

    /// Begins to receive a snapshot from a leader: `bytes` is the length of the services' state.
    pub fn receive(&self, meta: &SnapshotMeta, bytes: u64) -> Result<SnapshotReceiver, StoreError> {
        let writer = self.poison.guard(|| Writer::new(self, meta, bytes, "receive"))?;
        Ok(SnapshotReceiver { writer })
    }

    /// Whether this snapshot was received completely, or is in use already.
    pub fn has_received(&self, meta: &SnapshotMeta) -> Result<bool, StoreError> {
        let key = (meta.index, meta.term);
        Ok(self.list_suffix("incoming")?.contains(&key) || self.list()?.contains(&key))
    }

    /// Puts a received snapshot in use; succeeds if it is in use already.
    pub(crate) fn promote(&self, meta: &SnapshotMeta) -> Result<(), StoreError> {
        let key = (meta.index, meta.term);
        if !self.list_suffix("incoming")?.contains(&key) && self.list()?.contains(&key) {
            return Ok(());
        }
        let from = self.dir.join(name_of(meta.index, meta.term, "incoming"));
        let to = self.dir.join(name_of(meta.index, meta.term, "snap"));
        self.files.rename(&from, &to).map_err(|e| StoreError::io("rename", &from, e))?;
        self.sync_dir()
    }

    /// Puts a received snapshot in use although the log already contains its entries, as if this node had saved it, and
    /// opens it.
    ///
    /// # Errors
    /// Returns the disk's error.
    pub fn adopt(&self, meta: &SnapshotMeta) -> Result<SnapshotReader, StoreError> {
        let _reader = self.readers.enter();
        self.poison.guard(|| {
            self.promote(meta)?;
            SnapshotReader::open(self, &self.dir.join(name_of(meta.index, meta.term, "snap")))
        })
    }

    /// Removes all snapshots before `index`, calling `pause` between steps.
    pub(crate) fn remove_before(&self, index: Index, pause: &mut dyn FnMut()) -> Result<(), StoreError> {
        let old: Vec<_> = self.list()?.into_iter().filter(|(i, _)| *i < index).collect();
        for (index, term) in &old {
            let path = self.dir.join(name_of(*index, *term, "snap"));
            remove_in_steps(&*self.files, &path, &self.dir.join("gone.tmp"), || self.readers.is_empty(), pause)?;
        }
        if old.is_empty() { Ok(()) } else { self.sync_dir() }
    }

    /// Removes incomplete snapshots, and received ones that were never put in use, of an earlier process.
    pub(crate) fn tidy(&self) -> Result<(), StoreError> {
        let names = self.files.list(&self.dir).map_err(|e| StoreError::io("list", &self.dir, e))?;
        for name in names.iter().filter(|name| name.ends_with(".tmp") || parse_name(name, "incoming").is_some()) {
            self.remove(name)?;
        }
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<(), StoreError> {
        let path = self.dir.join(name);
        match self.files.remove(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(StoreError::io("remove", &path, e)),
            _ => Ok(()),
        }
    }

    fn sync_dir(&self) -> Result<(), StoreError> {
        self.files.sync_dir(&self.dir).map_err(|e| StoreError::io("sync", &self.dir, e))
    }
}

/// Names for temporary files, a bit for each that is in use: a deposed and a new leader may both stream the same
/// snapshot. A name that is free again is used first, so that interrupted transfers leave one file, not one each.
#[derive(Clone, Default)]
struct Slots(Arc<AtomicU64>);

struct Slot {
    home: Slots,
    number: u32,
}

impl Slots {
    fn take(&self) -> Result<Slot, StoreError> {
        let lowest_free = |used: u64| (used != u64::MAX).then(|| used | (used + 1));
        match self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, lowest_free) {
            Ok(used) => Ok(Slot { home: self.clone(), number: used.trailing_ones() }),
            Err(_) => Err(StoreError::Transfer("64 snapshots are being written already".to_string())),
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.home.0.fetch_and(!(1 << self.number), Ordering::AcqRel);
    }
}

/// A snapshot file that is being written.
struct Writer {
    home: Snapshots,
    /// Reserves its temporary name.
    _slot: Slot,
    head: Head,
    file: Box<dyn File>,
    path: PathBuf,
    position: u64,
    /// Number of bytes of the file that are synced.
    synced: u64,
    /// Number of bytes of the state so far.
    taken: u64,
    /// CRC of all bytes of the file so far.
    crc: crc32fast::Hasher,
}

impl Writer {
    fn new(home: &Snapshots, meta: &SnapshotMeta, bytes: u64, purpose: &str) -> Result<Writer, StoreError> {
        let slot = home.slots.take()?;
        let path = home.dir.join(format!("{purpose}-{}.tmp", slot.number));
        let file = home.files.create(&path).map_err(|e| StoreError::io("create", &path, e))?;
        let head = Head { meta: meta.clone(), bytes };
        let encoded = postcard::to_stdvec(&head).expect("a head has no unknown length");
        let (home, crc) = (home.clone(), crc32fast::Hasher::new());
        let mut writer = Writer { home, _slot: slot, head, file, path, position: 0, synced: 0, taken: 0, crc };
        writer.put(MAGIC)?;
        writer.frame(&encoded)?;
        Ok(writer)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let written = self.file.write_at(self.position, bytes);
        written.map_err(|e| StoreError::io("write to", &self.path, e))?;
        self.crc.update(bytes);
        self.position += bytes.len() as u64;
        Ok(())
    }

    fn frame(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let length = u32::try_from(bytes.len()).expect("chunks are far smaller than 4 GiB").to_le_bytes();
        let mut framed = Vec::with_capacity(FRAME_BYTES + bytes.len());
        framed.extend_from_slice(&length);
        framed.extend_from_slice(&frame_crc(length, bytes).to_le_bytes());
        framed.extend_from_slice(bytes);
        self.put(&framed)
    }

    /// Writes the next bytes as a chunk; returns whether it synced.
    fn chunk(&mut self, bytes: &[u8]) -> Result<bool, StoreError> {
        if bytes.is_empty() {
            return Ok(false);
        }
        self.taken += bytes.len() as u64;
        self.frame(bytes)?;
        let is_due = self.position - self.synced >= SYNC_BYTES;
        if is_due {
            self.sync()?;
        }
        Ok(is_due)
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        self.synced = self.position;
        self.file.sync_data().map_err(|e| StoreError::io("sync", &self.path, e))
    }

    /// Removes the incomplete file. If that fails, the next start removes it.
    fn abandon(self) {
        let _ = self.home.files.remove(&self.path);
    }

    fn finish(mut self, suffix: &str) -> Result<(), StoreError> {
        let mut trailer = [0; FRAME_BYTES];
        trailer[4..].copy_from_slice(&self.crc.clone().finalize().to_le_bytes());
        self.put(&trailer)?;
        self.sync()?;
        let meta = &self.head.meta;
        let to = self.home.dir.join(name_of(meta.index, meta.term, suffix));
        self.home.files.rename(&self.path, &to).map_err(|e| StoreError::io("rename", &self.path, e))?;
        self.home.sync_dir()
    }
}

fn frame_crc(length: [u8; 4], bytes: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&length);
    crc.update(bytes);
    crc.finalize()
}

/// Writes the state of this node's services. If it is dropped unfinished, a temporary file remains until the next
/// snapshot or start.
pub struct SnapshotSaver {
    writer: Writer,
    /// Bytes of an incomplete chunk.
    buffer: Vec<u8>,
    /// Number of pieces that are synced.
    synced: u64,
    failed: Option<StoreError>,
}

impl SnapshotSaver {
    /// Returns the number of pieces synced so far: when it has grown, the caller may pause to let other threads use the
    /// disk.
    pub fn synced(&self) -> u64 {
        self.synced
    }

    /// Calls `write` to write the whole state, and makes the snapshot durable. It is the newest then if its index is
    /// the highest.
    ///
    /// # Errors
    /// Returns an error if the disk fails or is full, if `write` fails, or if it wrote another number of bytes than was
    /// announced.
    pub fn finish_after(mut self, write: impl FnOnce(&mut SnapshotSaver) -> io::Result<()>) -> Result<(), StoreError> {
        let written = write(&mut self).and_then(|()| self.put_buffer());
        let poison = self.writer.home.poison.clone();
        let (taken, bytes) = (self.writer.taken, self.writer.head.bytes);
        let done = match (self.failed.take(), written) {
            (Some(failed), _) => Err(failed),
            (None, Err(e)) => Err(StoreError::Transfer(format!("the services' state cannot be written: {e}"))),
            (None, Ok(())) if taken != bytes => {
                Err(StoreError::Transfer(format!("the services wrote {taken} bytes and had announced {bytes}")))
            }
            (None, Ok(())) => return poison.guard(|| self.writer.finish("snap")),
        };
        self.writer.abandon();
        done
    }

    fn put_buffer(&mut self) -> io::Result<()> {
        let poison = self.writer.home.poison.clone();
        match poison.guard(|| self.writer.chunk(&self.buffer)) {
            Ok(is_synced) => {
                self.synced += u64::from(is_synced);
                self.buffer.clear();
                Ok(())
            }
            Err(e) => {
                let said = io::Error::other(e.to_string());
                self.failed = Some(e);
                Err(said)
            }
        }
    }
}

impl Write for SnapshotSaver {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.writer.home.chunk_bytes - self.buffer.len();
        let taken = bytes.len().min(room);
        self.buffer.extend_from_slice(&bytes[..taken]);
        if taken == room {
            self.put_buffer()?;
        }
        Ok(taken)
    }

    /// Does nothing: only [`SnapshotSaver::finish_after`] makes a snapshot durable.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Receives a leader's snapshot, chunk by chunk. If it is dropped without `finish` or `abandon`, a temporary file
/// remains until the next transfer or start.
pub struct SnapshotReceiver {
    writer: Writer,
}

impl SnapshotReceiver {
    /// Returns the number of bytes received so far: the offset at which the next chunk must begin.
    pub fn received(&self) -> u64 {
        self.writer.taken
    }

    /// Writes the next chunk; returns an error if `offset` is not [`SnapshotReceiver::received`].
    pub fn chunk(&mut self, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        let (taken, total) = (self.writer.taken, self.writer.head.bytes);
        if offset != taken {
            return Err(StoreError::Transfer(format!("a chunk at {offset}, but {taken} bytes are here")));
        }
        if bytes.len() as u64 > total - taken {
            return Err(StoreError::Transfer(format!("more than the {total} bytes that were announced")));
        }
        let poison = self.writer.home.poison.clone();
        poison.guard(|| {
            bytes.chunks(self.writer.home.chunk_bytes).try_for_each(|part| self.writer.chunk(part).map(|_| ()))
        })
    }

    /// Removes the incomplete file, for instance when the sender has failed or a newer transfer begins.
    pub fn abandon(self) {
        self.writer.abandon();
    }

    /// Makes the received snapshot durable. [`super::Store::write`] with a persist that installs it puts it in use.
    pub fn finish(self) -> Result<SnapshotMeta, StoreError> {
        let (taken, total) = (self.writer.taken, self.writer.head.bytes);
        if taken != total {
            self.abandon();
            return Err(StoreError::Transfer(format!("it ended after {taken} of {total} bytes")));
        }
        let (meta, poison) = (self.writer.head.meta.clone(), self.writer.home.poison.clone());
        poison.guard(|| self.writer.finish("incoming"))?;
        Ok(meta)
    }
}

/// Counts the open readers of snapshots. While there are any, files are removed in one step, which leaves their content
/// available to a reader.
#[derive(Clone, Default)]
struct Readers(Arc<AtomicU64>);

/// Registration of one open reader.
struct Reading(Readers);

impl Readers {
    fn enter(&self) -> Reading {
        self.0.fetch_add(1, Ordering::SeqCst);
        Reading(self.clone())
    }

    fn is_empty(&self) -> bool {
        self.0.load(Ordering::SeqCst) == 0
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Reads one snapshot from beginning to end and checks every byte; continues to work if this process removes the file.
pub struct SnapshotReader {
    file: Box<dyn File>,
    _reading: Reading,
    path: PathBuf,
    node: Option<NodeId>,
    head: Head,
    position: u64,
    length: u64,
    given: u64,
    crc: crc32fast::Hasher,
    /// Bytes of the present chunk that `Read` has not returned yet.
    rest: io::Cursor<Vec<u8>>,
    is_done: bool,
}

impl SnapshotReader {
    pub(crate) fn open(home: &Snapshots, path: &Path) -> Result<SnapshotReader, StoreError> {
        let reading = home.readers.enter();
        let file = home.files.open_read(path).map_err(|e| StoreError::io("open", path, e))?;
        let length = file.len().map_err(|e| StoreError::io("read", path, e))?;
        let meta = SnapshotMeta { index: Index(0), term: Term(0), membership: Default::default() };
        let mut reader = SnapshotReader {
            file,
            _reading: reading,
            path: path.to_path_buf(),
            node: home.node,
            head: Head { meta, bytes: 0 },
            position: 0,
            length,
            given: 0,
            crc: crc32fast::Hasher::new(),
            rest: io::Cursor::default(),
            is_done: false,
        };
        reader.read_head()?;
        Ok(reader)
    }

    /// Returns index, term and membership that the snapshot covers.
    pub fn meta(&self) -> &SnapshotMeta {
        &self.head.meta
    }

    /// Returns the length of the services' state in bytes.
    pub fn bytes(&self) -> u64 {
        self.head.bytes
    }

    /// Returns the next chunk, or `None` at the end if all checksums and lengths were correct.
    pub fn next_chunk(&mut self) -> Result<Option<Vec<u8>>, StoreError> {
        if self.is_done {
            return Ok(None);
        }
        let all_before = self.crc.clone().finalize();
        let (offset, crc, bytes) = self.read_frame()?;
        if !bytes.is_empty() {
            self.given += bytes.len() as u64;
            return Ok(Some(bytes));
        }
        if crc != all_before {
            return Err(self.damaged(offset, "the checksum of the whole file does not match"));
        }
        if self.given != self.head.bytes {
            let why = format!("it holds {} bytes of state, its head says {}", self.given, self.head.bytes);
            return Err(self.damaged(offset, why));
        }
        if self.position != self.length {
            return Err(self.damaged(self.position, "something stands behind the trailer"));
        }
        self.is_done = true;
        Ok(None)
    }

    /// Reads and checks all remaining bytes.
    pub fn read_all(mut self) -> Result<Vec<u8>, StoreError> {
        let mut data = Vec::new();
        while let Some(chunk) = self.next_chunk()? {
            data.extend_from_slice(&chunk);
        }
        Ok(data)
    }

    /// Checks all remaining bytes without keeping them.
    pub fn verify(mut self) -> Result<SnapshotMeta, StoreError> {
        while self.next_chunk()?.is_some() {}
        Ok(self.head.meta)
    }

    fn read_head(&mut self) -> Result<(), StoreError> {
        let magic = self.take(MAGIC.len(), 0)?;
        if magic[..7] == MAGIC[..7] && magic != MAGIC && magic[7].is_ascii_digit() {
            return Err(StoreError::Version {
                file: self.path.clone(),
                found: String::from_utf8_lossy(&magic).into_owned(),
                expected: String::from_utf8_lossy(MAGIC).into_owned(),
            });
        }
        if magic != MAGIC {
            return Err(self.damaged(0, "it does not begin like a snapshot"));
        }
        let (offset, _, bytes) = self.read_frame()?;
        let head = postcard::from_bytes::<Head>(&bytes);
        self.head = head.map_err(|e| self.damaged(offset, format!("unreadable head: {e}")))?;
        let name = self.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let says = parse_name(name, "snap").or_else(|| parse_name(name, "incoming"));
        if says != Some((self.head.meta.index, self.head.meta.term)) {
            return Err(self.damaged(offset, "its head is another snapshot's"));
        }
        Ok(())
    }

    /// Returns offset, CRC and payload of the next frame. An empty payload is the trailer; the caller checks its CRC.
    fn read_frame(&mut self) -> Result<(u64, u32, Vec<u8>), StoreError> {
        let offset = self.position;
        let frame = self.take(FRAME_BYTES, offset)?;
        let length: [u8; 4] = frame[..4].try_into().expect("four bytes");
        let crc = u32::from_le_bytes(frame[4..].try_into().expect("four bytes"));
        let bytes = u32::from_le_bytes(length) as usize;
        if bytes > FRAME_BYTES_MAX {
            return Err(self.damaged(offset, format!("a chunk of {bytes} bytes")));
        }
        let payload = self.take(bytes, offset)?;
        if bytes > 0 && frame_crc(length, &payload) != crc {
            return Err(self.damaged(offset, "the checksum does not match"));
        }
        Ok((offset, crc, payload))
    }

    /// Reads the next bytes; `blame` is the offset of their frame, for the error.
    fn take(&mut self, bytes: usize, blame: u64) -> Result<Vec<u8>, StoreError> {
        if bytes as u64 > self.length - self.position {
            return Err(self.damaged(blame, "the file ends too early"));
        }
        let mut buffer = vec![0; bytes];
        let read = self.file.read_at(self.position, &mut buffer);
        if read.map_err(|e| StoreError::io("read", &self.path, e))? < bytes {
            return Err(self.damaged(blame, "the file ends too early"));
        }
        self.crc.update(&buffer);
        self.position += bytes as u64;
        Ok(buffer)
    }

    fn damaged(&self, offset: u64, why: impl Into<String>) -> StoreError {
        StoreError::Damaged { file: self.path.clone(), offset, why: why.into(), node: self.node }
    }
}

/// The services read their state through this; a damaged file is an error of kind `InvalidData`.
impl Read for SnapshotReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let taken = self.rest.read(buffer)?;
            if taken > 0 || buffer.is_empty() {
                return Ok(taken);
            }
            match self.next_chunk() {
                Ok(Some(chunk)) => self.rest = io::Cursor::new(chunk),
                Ok(None) => return Ok(0),
                Err(e) => return Err(io::Error::new(ErrorKind::InvalidData, e)),
            }
        }
    }
}
