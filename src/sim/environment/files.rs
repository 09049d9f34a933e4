//! A virtual disk as the store sees it: the store's own [`Files`], so that its real code runs on it.
//!
//! Not here: what a disk does with bytes (`disk.rs`).

use super::disk::Disk;
use crate::lock::{Mutex, MutexGuard, lock};
use crate::store::{self, Files};
use std::io;
use std::path::Path;
use std::sync::Arc;

/// The disk as the store sees it.
#[derive(Clone)]
pub struct SimFiles(Arc<Mutex<Disk>>);

impl SimFiles {
    /// A handle on a disk that the simulator holds too.
    pub fn new(disk: Arc<Mutex<Disk>>) -> SimFiles {
        SimFiles(disk)
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        lock(&self.0)
    }
}

impl Files for SimFiles {
    fn create(&self, path: &Path) -> io::Result<Box<dyn store::File>> {
        let id = self.disk().create(path)?;
        Ok(Box::new(SimFile { disk: self.clone(), id }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn store::File>> {
        let id = self.disk().id(path)?;
        Ok(Box::new(SimFile { disk: self.clone(), id }))
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn store::File>> {
        self.open(path)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let disk = self.disk();
        Ok(disk.bytes(disk.id(path)?)?.to_vec())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk().rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk().remove(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk().list(dir)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk().create_dir(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk().sync_dir(dir)
    }

    fn free_bytes(&self, _dir: &Path) -> io::Result<u64> {
        Ok(if self.disk().faults.is_full { 0 } else { u64::MAX })
    }
}

/// An open file.
struct SimFile {
    disk: SimFiles,
    id: u64,
}

impl store::File for SimFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.disk.disk().write_at(self.id, offset, bytes)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let disk = self.disk.disk();
        let bytes = disk.bytes(self.id)?;
        let from = (offset as usize).min(bytes.len());
        let count = buffer.len().min(bytes.len() - from);
        buffer[..count].copy_from_slice(&bytes[from..from + count]);
        Ok(count)
    }

    fn allocate(&mut self, bytes: u64) -> io::Result<()> {
        let len = self.len()?;
        if len < bytes { self.disk.disk().set_len(self.id, bytes) } else { Ok(()) }
    }

    fn sync_data(&mut self) -> io::Result<()> {
        self.disk.disk().sync_data(self.id)
    }

    fn len(&self) -> io::Result<u64> {
        self.disk.disk().len(self.id)
    }

    fn truncate(&mut self, bytes: u64) -> io::Result<()> {
        self.disk.disk().set_len(self.id, bytes)
    }
}
