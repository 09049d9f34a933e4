//! Reads a snapshot file, as a stream or whole.
//!
//! Every byte is checked: each frame's CRC, the CRC of the whole file, and the announced length.
//! Not here: the folder and the format's parts (`mod.rs`), writing (`writer.rs`).

use super::{FRAME_BYTES, FRAME_BYTES_MAX, Head, MAGIC, Reading, Snapshots, frame_crc, name_of, parse_name};
use crate::raft::SnapshotMeta;
use crate::store::File;
use crate::store::error::StoreError;
use crate::types::{Index, NodeId, Term};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

impl Snapshots {
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
