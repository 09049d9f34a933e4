//! Writes a snapshot file, of this node's services or from a leader.
//!
//! It has a temporary name until all of it is synced. After a failed sync nothing is written any more (`poison`).
//! Not here: the folder and the format's parts (`mod.rs`), reading (`reader.rs`).

use super::{FRAME_BYTES, Head, MAGIC, Slot, Snapshots, frame_crc, name_of};
use crate::raft::SnapshotMeta;
use crate::store::File;
use crate::store::error::StoreError;
use std::io::{self, Write};
use std::path::PathBuf;

/// A snapshot is synced in pieces of this size, because one sync of all of it would delay the syncs of the log.
const SYNC_BYTES: u64 = 512 << 10;

impl Snapshots {
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

    /// Begins to receive a snapshot from a leader: `bytes` is the length of the services' state.
    pub fn receive(&self, meta: &SnapshotMeta, bytes: u64) -> Result<SnapshotReceiver, StoreError> {
        let writer = self.poison.guard(|| Writer::new(self, meta, bytes, "receive"))?;
        Ok(SnapshotReceiver { writer })
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

    /// Makes the received snapshot durable. [`crate::store::Store::write`] with a persist that installs it puts it in
    /// use.
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
