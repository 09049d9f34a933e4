//! Snapshot files: written or received in chunks, durable before they are used, read whole or as a stream.
//!
//! A file has the format's name, a header (what it covers), chunks, and a trailer with the CRC of all of it. It is
//! written under a temporary name, synced, renamed, and the folder is synced. A snapshot of this node is named `….snap`
//! then. A received one is `….incoming` until the log has a record that it replaces the log's beginning; recovery
//! finishes that step after a crash. Snapshots may be saved, received and read by other threads while the log is
//! written: [`Snapshots`] is a handle to clone. If the newest snapshot is damaged, the start fails: with an older one,
//! entries before the log would be missing.
//!
//! This file has the folder of all snapshots, `writer.rs` saves and receives one, `reader.rs` reads one.
//! Not here: when a snapshot is taken (`node/`), what its bytes mean (`services/`), dropping covered segments
//! (`store/wal/writer.rs`).

mod reader;
mod writer;

pub use reader::SnapshotReader;
pub use writer::{SnapshotReceiver, SnapshotSaver};

use super::error::StoreError;
use super::files::remove_in_steps;
use super::{Files, Options, Poison};
use crate::raft::SnapshotMeta;
use crate::types::{Index, NodeId, Term};
use serde::{Deserialize, Serialize};
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// First bytes of every snapshot; the last one is the version of the format.
pub const MAGIC: &[u8; 8] = b"PHLXSNP1";
/// Bytes before the payload of each frame (header, chunk or trailer): `u32` length, `u32` CRC-32 of the length and the
/// payload.
const FRAME_BYTES: usize = 8;
/// Maximum length of a frame, because a reader allocates the declared length.
const FRAME_BYTES_MAX: usize = 64 << 20;

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

fn frame_crc(length: [u8; 4], bytes: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&length);
    crc.update(bytes);
    crc.finalize()
}
