//! A faulty disk in memory, for the tests of this module: it counts operations and fails or crashes at the n-th.
//!
//! What is not synced may be lost at a power cut, wholly or sector by sector and in any order, and a write may be torn
//! at any byte. Names that were made, renamed or removed since the folder's last sync may be lost too, in any pattern.
//! A failed sync forgets what it should have made durable, as Linux does: later syncs succeed without it. A killed
//! process loses nothing that it has written. Not here: scripted workloads (the other files here).

use crate::store::{File, Files};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Torn writes and lost ones fall on multiples of this, except for the one that a crash interrupts.
const SECTOR_BYTES: usize = 512;

/// What happens at an operation, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The machine or process stops: this operation and all later ones fail; it may have been half done.
    Crash(u64),
    /// This one fails.
    Once(u64),
    /// This one and all later ones fail.
    Forever(u64),
}

/// How the disk comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// Only the process was killed: everything written is there.
    Kill,
    /// Power cut: nothing is there but what was synced.
    LoseAll,
    /// Power cut: any part of what was not synced is there.
    LoseSome(u64),
}

#[derive(Default)]
struct Inode {
    /// What a reader sees.
    seen: Vec<u8>,
    /// What a power cut leaves for certain.
    durable: Vec<u8>,
    /// Since the last sync: (offset, bytes), or a new length.
    pending: Vec<Pending>,
}

enum Pending {
    Write(usize, Vec<u8>),
    Length(usize),
}

#[derive(Clone)]
enum Naming {
    Link(PathBuf, usize),
    Rename(PathBuf, PathBuf),
    Unlink(PathBuf),
}

#[derive(Default)]
struct Disk {
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    naming: Vec<Naming>,
    folders: BTreeSet<PathBuf>,
    operations: u64,
    fault: Option<Fault>,
    has_crashed: bool,
    /// Bytes that all files together may take.
    room: Option<u64>,
}

/// The disk; clones share it.
#[derive(Clone, Default)]
pub struct FaultFiles(Arc<Mutex<Disk>>);

impl FaultFiles {
    fn with<T>(&self, run: impl FnOnce(&mut Disk) -> T) -> T {
        run(&mut self.0.lock().unwrap())
    }

    /// Plans one fault, counted from now on; `None` for a well disk.
    pub fn plan(&self, fault: Option<Fault>) {
        self.with(|disk| (disk.fault, disk.operations, disk.has_crashed) = (fault, 0, false));
    }

    /// Operations since the last plan.
    pub fn operations(&self) -> u64 {
        self.with(|disk| disk.operations)
    }

    /// Limits the bytes of all files together.
    pub fn set_room(&self, room: Option<u64>) {
        self.with(|disk| disk.room = room);
    }

    /// The machine or process starts again; the disk is well from now on.
    pub fn restart(&self, how: Restart) {
        self.plan(None);
        self.with(|disk| match how {
            Restart::Kill => {}
            Restart::LoseAll => disk.lose(false, &mut |_| 0, &mut |_| false),
            Restart::LoseSome(seed) => {
                let rng = std::cell::RefCell::new(fastrand::Rng::with_seed(seed));
                // Sometimes most is lost, sometimes little: an even chance per sector hides the rare patterns.
                let keep = rng.borrow_mut().u32(0..=100);
                let lose_from = &mut |n: usize| rng.borrow_mut().usize(0..=n);
                disk.lose(seed % 2 == 1, lose_from, &mut |_| rng.borrow_mut().u32(0..100) < keep);
            }
        });
    }

    /// A file's bytes, to be damaged and put back.
    pub fn get(&self, path: &Path) -> Vec<u8> {
        self.with(|disk| disk.inodes[disk.names[path]].seen.clone())
    }

    /// Replaces a file's bytes, durably.
    pub fn put(&self, path: &Path, bytes: Vec<u8>) {
        self.with(|disk| {
            let number = disk.names[path];
            disk.inodes[number] = Inode { seen: bytes.clone(), durable: bytes, pending: Vec::new() };
        });
    }

    /// A disk of its own with the same content, all of it durable.
    pub fn copy(&self) -> FaultFiles {
        self.with(|disk| {
            let mut copy = Disk { folders: disk.folders.clone(), ..Disk::default() };
            for (name, number) in &disk.names {
                copy.names.insert(name.clone(), copy.inodes.len());
                let seen = disk.inodes[*number].seen.clone();
                copy.inodes.push(Inode { durable: seen.clone(), seen, pending: Vec::new() });
            }
            copy.durable_names = copy.names.clone();
            FaultFiles(Arc::new(Mutex::new(copy)))
        })
    }

    /// All files.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.with(|disk| disk.names.keys().cloned().collect())
    }
}

impl Disk {
    /// Counts one operation; `Err` if it fails. A crash lets it happen (unsynced) before it fails.
    fn step<T>(&mut self, run: impl FnOnce(&mut Disk) -> io::Result<T>) -> io::Result<T> {
        self.operations += 1;
        let n = self.operations;
        if self.has_crashed {
            return Err(io::Error::other("crashed"));
        }
        match self.fault {
            Some(Fault::Crash(at)) if at == n => {
                self.has_crashed = true;
                let _ = run(self);
                Err(io::Error::other("crashed"))
            }
            Some(Fault::Once(at)) if at == n => Err(io::Error::other("planned fault")),
            Some(Fault::Forever(at)) if at <= n => Err(io::Error::other("planned fault")),
            _ => run(self),
        }
    }

    fn fails_now(&self) -> bool {
        let n = self.operations + 1;
        match self.fault {
            Some(Fault::Crash(at)) => at == n || self.has_crashed,
            Some(Fault::Once(at)) => at == n,
            Some(Fault::Forever(at)) => at <= n,
            None => false,
        }
    }

    fn used(&self) -> u64 {
        let linked: BTreeSet<usize> = self.names.values().copied().collect();
        linked.iter().map(|n| self.inodes[*n].seen.len() as u64).sum()
    }

    fn grow(&mut self, number: usize, to: usize) -> io::Result<()> {
        let more = to.saturating_sub(self.inodes[number].seen.len()) as u64;
        match self.room {
            Some(room) if self.used() + more > room => Err(ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    fn number(&self, path: &Path) -> io::Result<usize> {
        self.names.get(path).copied().ok_or(ErrorKind::NotFound.into())
    }

    fn rename_in(names: &mut BTreeMap<PathBuf, usize>, naming: &Naming) {
        match naming {
            Naming::Link(path, number) => drop(names.insert(path.clone(), *number)),
            Naming::Rename(from, to) => {
                // A rename whose creation was lost is lost as well.
                if let Some(number) = names.remove(from) {
                    names.insert(to.clone(), number);
                }
            }
            Naming::Unlink(path) => drop(names.remove(path)),
        }
    }

    fn name(&mut self, naming: Naming) {
        Disk::rename_in(&mut self.names, &naming);
        self.naming.push(naming);
    }

    /// A power cut. Pending names are lost from the last one backwards, or (`any_name`) in any pattern.
    /// `first_lost(n)` returns how many of n are kept, `keeps` decides for each sector of each pending write.
    fn lose(
        &mut self,
        any_name: bool,
        first_lost: &mut dyn FnMut(usize) -> usize,
        keeps: &mut dyn FnMut(usize) -> bool,
    ) {
        let pending = std::mem::take(&mut self.naming);
        let kept = first_lost(pending.len());
        for (n, naming) in pending.iter().enumerate() {
            if if any_name { keeps(0) } else { n < kept } {
                Disk::rename_in(&mut self.durable_names, naming);
            }
        }
        self.names = self.durable_names.clone();
        for inode in &mut self.inodes {
            let pending = std::mem::take(&mut inode.pending);
            for change in pending {
                match change {
                    Pending::Length(length) if keeps(0) => inode.durable.resize(length, 0),
                    Pending::Length(_) => {}
                    Pending::Write(offset, bytes) => {
                        // The first piece ends at a sector; now and then a piece is torn within its sector.
                        let mut at = 0;
                        while at < bytes.len() {
                            let next = (SECTOR_BYTES - (offset + at) % SECTOR_BYTES).min(bytes.len() - at);
                            let kept = if keeps(at) { next } else { first_lost(next) };
                            write(&mut inode.durable, offset + at, &bytes[at..at + kept]);
                            at += next;
                        }
                    }
                }
            }
            inode.seen = inode.durable.clone();
        }
    }
}

fn write(into: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    if into.len() < offset + bytes.len() {
        into.resize(offset + bytes.len(), 0);
    }
    into[offset..offset + bytes.len()].copy_from_slice(bytes);
}

impl Files for FaultFiles {
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let number = self.with(|disk| {
            disk.step(|disk| {
                disk.inodes.push(Inode::default());
                let number = disk.inodes.len() - 1;
                disk.name(Naming::Link(path.to_path_buf(), number));
                Ok(number)
            })
        })?;
        Ok(Box::new(FaultFile(self.clone(), number)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let number = self.with(|disk| disk.step(|disk| disk.number(path)))?;
        Ok(Box::new(FaultFile(self.clone(), number)))
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.open(path)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.with(|disk| disk.step(|disk| Ok(disk.inodes[disk.number(path)?].seen.clone())))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.with(|disk| {
            disk.step(|disk| {
                disk.number(from)?;
                disk.name(Naming::Rename(from.to_path_buf(), to.to_path_buf()));
                Ok(())
            })
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.with(|disk| {
            disk.step(|disk| {
                disk.number(path)?;
                disk.name(Naming::Unlink(path.to_path_buf()));
                Ok(())
            })
        })
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.with(|disk| {
            disk.step(|disk| {
                if !disk.folders.contains(dir) {
                    return Err(ErrorKind::NotFound.into());
                }
                let below = disk.names.keys().filter(|path| path.parent() == Some(dir));
                Ok(below.map(|path| path.file_name().unwrap().to_str().unwrap().to_string()).collect())
            })
        })
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        // Folders are durable at once: a lost one would take its files with it, which `sync_dir` of the parent
        // prevents.
        self.with(|disk| {
            disk.step(|disk| {
                disk.folders.insert(dir.to_path_buf());
                Ok(())
            })
        })
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.with(|disk| {
            if disk.fails_now() {
                return disk.step(|_| Ok(()));
            }
            disk.step(|disk| {
                let is_here = |naming: &Naming| match naming {
                    Naming::Link(path, _) | Naming::Rename(path, _) | Naming::Unlink(path) => {
                        path.parent() == Some(dir)
                    }
                };
                let (here, elsewhere) = std::mem::take(&mut disk.naming).into_iter().partition::<Vec<_>, _>(is_here);
                disk.naming = elsewhere;
                here.iter().for_each(|naming| Disk::rename_in(&mut disk.durable_names, naming));
                Ok(())
            })
        })
    }

    fn free_bytes(&self, _dir: &Path) -> io::Result<u64> {
        self.with(|disk| Ok(disk.room.map_or(u64::MAX, |room| room.saturating_sub(disk.used()))))
    }
}

struct FaultFile(FaultFiles, usize);

impl File for FaultFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.with(|disk| {
            disk.step(|disk| {
                let offset = offset as usize;
                disk.grow(self.1, offset + bytes.len())?;
                let inode = &mut disk.inodes[self.1];
                write(&mut inode.seen, offset, bytes);
                inode.pending.push(Pending::Write(offset, bytes.to_vec()));
                Ok(())
            })
        })
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.with(|disk| {
            disk.step(|disk| {
                let rest = disk.inodes[self.1].seen.get(offset as usize..).unwrap_or_default();
                let taken = rest.len().min(buffer.len());
                buffer[..taken].copy_from_slice(&rest[..taken]);
                Ok(taken)
            })
        })
    }

    fn allocate(&mut self, bytes: u64) -> io::Result<()> {
        self.truncate(bytes)
    }

    fn sync_data(&mut self) -> io::Result<()> {
        self.0.with(|disk| {
            let fails = disk.fails_now();
            let has_crashed = matches!(disk.fault, Some(Fault::Crash(_))) && fails;
            if has_crashed {
                // What was pending may or may not be on disk: `lose` decides.
                return disk.step(|_| Ok(()));
            }
            if fails {
                disk.inodes[self.1].pending.clear();
            }
            disk.step(|disk| {
                let inode = &mut disk.inodes[self.1];
                for change in std::mem::take(&mut inode.pending) {
                    match change {
                        Pending::Write(offset, bytes) => write(&mut inode.durable, offset, &bytes),
                        Pending::Length(length) => inode.durable.resize(length, 0),
                    }
                }
                Ok(())
            })
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.0.with(|disk| disk.step(|disk| Ok(disk.inodes[self.1].seen.len() as u64)))
    }

    fn truncate(&mut self, bytes: u64) -> io::Result<()> {
        self.0.with(|disk| {
            disk.step(|disk| {
                disk.grow(self.1, bytes as usize)?;
                let inode = &mut disk.inodes[self.1];
                inode.seen.resize(bytes as usize, 0);
                inode.pending.push(Pending::Length(bytes as usize));
                Ok(())
            })
        })
    }
}
