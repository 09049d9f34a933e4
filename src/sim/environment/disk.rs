//! A seeded disk: files whose unsynced bytes a power cut may lose, tear or scatter, and injected faults.
//!
//! Each file has durable bytes and the bytes that its process sees; the difference is a list of writes not yet synced.
//! Names are durable only once their directory is synced. A power cut keeps an arbitrary part of what was not synced;
//! the death of a process alone (`kill -9`) keeps all of it, unsynced: a process that relies on it without a sync may
//! lose it in the next power cut. After a failed sync the page cache forgets what it held (fsyncgate): a second sync
//! that "succeeds" proves nothing.
//!
//! Not here: delays, hangs and slowness (`sim/model/host.rs` schedules them in virtual time).

use crate::store;
use fastrand::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

/// The unit that a disk writes atomically: a torn write keeps or loses whole sectors.
const SECTOR: usize = 512;

/// A write that no sync has covered yet.
#[derive(Clone, Debug)]
enum Unsynced {
    Bytes { offset: usize, bytes: Vec<u8> },
    Length(usize),
}

#[derive(Clone, Debug, Default)]
struct File {
    durable: Vec<u8>,
    seen: Vec<u8>,
    unsynced: Vec<Unsynced>,
    /// Ranges that the newest sync made durable.
    newest: Vec<(usize, usize)>,
}

/// A change of names that no directory sync has covered yet.
#[derive(Clone, Debug)]
enum NameChange {
    Link { path: PathBuf, file: u64 },
    Unlink { path: PathBuf },
    Rename { from: PathBuf, to: PathBuf, file: u64 },
}

/// How a process ended, as its disk sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashKind {
    /// The process died; the machine and its page cache live on.
    Killed,
    /// The power went: what was not synced is lost, torn or scattered.
    PowerCut,
}

/// Which faults the disk has now.
#[derive(Clone, Debug, Default)]
pub struct DiskFaults {
    /// Writes fail.
    pub write_error: bool,
    /// The next sync fails (cleared by it).
    pub sync_error_once: bool,
    /// Every sync fails.
    pub sync_error: bool,
    /// Reads fail.
    pub read_error: bool,
    /// No room: writes that grow a file fail with `StorageFull`.
    pub is_full: bool,
    /// The process dies after this many more operations that change the disk.
    pub die_after: Option<u32>,
}

/// One node's disk.
#[derive(Clone, Debug)]
pub struct Disk {
    rng: Rng,
    files: BTreeMap<u64, File>,
    next_file: u64,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    name_changes: Vec<NameChange>,
    dirs: BTreeSet<PathBuf>,
    /// Faults in force.
    pub faults: DiskFaults,
    /// `die_after` ran out: every operation fails until [`Disk::end_process`].
    pub is_dead: bool,
    /// An injected error has struck this process.
    pub has_failed: bool,
}

/// An injected error.
fn error(kind: io::ErrorKind, what: &str) -> io::Error {
    io::Error::new(kind, format!("injected: {what}"))
}

fn put(to: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if to.len() < offset + bytes.len() {
        to.resize(offset + bytes.len(), 0);
    }
    to[offset..offset + bytes.len()].copy_from_slice(bytes);
}

impl Disk {
    pub fn new(seed: u64) -> Disk {
        Disk {
            rng: Rng::with_seed(seed),
            files: BTreeMap::new(),
            next_file: 1,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            name_changes: Vec::new(),
            dirs: BTreeSet::new(),
            faults: DiskFaults::default(),
            is_dead: false,
            has_failed: false,
        }
    }

    /// Everything gone: a new disk was put in.
    pub fn wipe(&mut self) {
        self.files.clear();
        self.names.clear();
        self.durable_names.clear();
        self.name_changes.clear();
        self.dirs.clear();
    }

    /// Counts one operation that changes the disk; the process may die before it.
    fn operate(&mut self) -> io::Result<()> {
        if self.is_dead {
            return Err(error(io::ErrorKind::Other, "the process is dying"));
        }
        match &mut self.faults.die_after {
            Some(0) => {
                self.is_dead = true;
                self.faults.die_after = None;
                Err(error(io::ErrorKind::Other, "the process dies here"))
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Begins an operation that fails as a whole when writes fail.
    fn change(&mut self, what: &str) -> io::Result<()> {
        self.operate()?;
        if self.faults.write_error { Err(error(io::ErrorKind::Other, what)) } else { Ok(()) }
    }

    /// The file of that name.
    pub fn id(&self, path: &Path) -> io::Result<u64> {
        self.read_allowed()?;
        self.names.get(path).copied().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, path.display().to_string()))
    }

    fn file(&mut self, id: u64) -> io::Result<&mut File> {
        self.files.get_mut(&id).ok_or_else(|| error(io::ErrorKind::NotFound, "file is gone"))
    }

    /// Makes an empty file, or empties the one of that name.
    pub fn create(&mut self, path: &Path) -> io::Result<u64> {
        self.change("create")?;
        if self.faults.is_full {
            return Err(error(io::ErrorKind::StorageFull, "create"));
        }
        if let Some(&id) = self.names.get(path) {
            let file = self.file(id)?;
            file.seen.clear();
            file.unsynced.push(Unsynced::Length(0));
            return Ok(id);
        }
        let id = self.next_file;
        self.next_file += 1;
        self.files.insert(id, File::default());
        self.names.insert(path.to_path_buf(), id);
        self.name_changes.push(NameChange::Link { path: path.to_path_buf(), file: id });
        Ok(id)
    }

    /// Writes at an offset; visible at once, durable after a sync.
    pub fn write_at(&mut self, id: u64, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.operate()?;
        if self.faults.write_error {
            // A failed write may have written a part.
            let part = self.rng.usize(0..=bytes.len());
            let file = self.file(id)?;
            put(&mut file.seen, offset as usize, &bytes[..part]);
            file.unsynced.push(Unsynced::Bytes { offset: offset as usize, bytes: bytes[..part].to_vec() });
            return Err(error(io::ErrorKind::Other, "write"));
        }
        let is_full = self.faults.is_full;
        let file = self.file(id)?;
        if is_full && offset as usize + bytes.len() > file.seen.len() {
            return Err(error(io::ErrorKind::StorageFull, "write"));
        }
        put(&mut file.seen, offset as usize, bytes);
        file.unsynced.push(Unsynced::Bytes { offset: offset as usize, bytes: bytes.to_vec() });
        Ok(())
    }

    /// Cuts or grows (with zeros) a file.
    pub fn set_len(&mut self, id: u64, len: u64) -> io::Result<()> {
        self.change("set_len")?;
        let is_full = self.faults.is_full;
        let file = self.file(id)?;
        if is_full && len as usize > file.seen.len() {
            return Err(error(io::ErrorKind::StorageFull, "set_len"));
        }
        file.seen.resize(len as usize, 0);
        file.unsynced.push(Unsynced::Length(len as usize));
        Ok(())
    }

    /// Makes a file's bytes durable.
    pub fn sync_data(&mut self, id: u64) -> io::Result<()> {
        self.operate()?;
        if self.faults.sync_error || self.faults.sync_error_once {
            self.faults.sync_error_once = false;
            // The page cache marks the pages clean: a part is on disk, the rest never will be.
            let mut rng = self.rng.fork();
            let file = self.file(id)?;
            let unsynced = std::mem::take(&mut file.unsynced);
            let kept = rng.usize(0..=unsynced.len());
            for change in &unsynced[..kept] {
                scatter(&mut file.durable, change, &mut rng);
            }
            self.has_failed = true;
            return Err(error(io::ErrorKind::Other, "sync"));
        }
        let file = self.file(id)?;
        if !file.unsynced.is_empty() {
            file.newest.clear();
        }
        for change in file.unsynced.drain(..) {
            apply_whole(&mut file.durable, &change);
            if let Unsynced::Bytes { offset, bytes } = change {
                file.newest.push((offset, offset + bytes.len()));
            }
        }
        Ok(())
    }

    /// Makes the names in a directory durable.
    pub fn sync_dir(&mut self, dir: &Path) -> io::Result<()> {
        self.operate()?;
        if self.faults.sync_error || self.faults.sync_error_once {
            self.faults.sync_error_once = false;
            self.has_failed = true;
            return Err(error(io::ErrorKind::Other, "sync of a directory"));
        }
        let changes = std::mem::take(&mut self.name_changes);
        for change in changes {
            let is_here = match &change {
                NameChange::Link { path, .. } | NameChange::Unlink { path } => path.parent() == Some(dir),
                NameChange::Rename { to, .. } => to.parent() == Some(dir),
            };
            if is_here {
                rename(&mut self.durable_names, &change);
            } else {
                self.name_changes.push(change);
            }
        }
        Ok(())
    }

    /// Gives a file another name, replacing what had it.
    pub fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.change("rename")?;
        let file = self.id(from)?;
        let change = NameChange::Rename { from: from.to_path_buf(), to: to.to_path_buf(), file };
        rename(&mut self.names, &change);
        self.name_changes.push(change);
        Ok(())
    }

    /// Removes a name. Its bytes are freed when no durable name is left, which has no visible effect.
    pub fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.change("remove")?;
        self.id(path)?;
        let change = NameChange::Unlink { path: path.to_path_buf() };
        rename(&mut self.names, &change);
        self.name_changes.push(change);
        Ok(())
    }

    /// Names directly in a directory, sorted.
    pub fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.read_allowed()?;
        if !self.dirs.contains(dir) {
            return Err(io::Error::new(io::ErrorKind::NotFound, dir.display().to_string()));
        }
        Ok(self
            .names
            .keys()
            .filter(|path| path.parent() == Some(dir))
            .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
            .collect())
    }

    fn read_allowed(&self) -> io::Result<()> {
        if self.is_dead {
            return Err(error(io::ErrorKind::Other, "the process is dying"));
        }
        if self.faults.read_error {
            return Err(error(io::ErrorKind::Other, "read"));
        }
        Ok(())
    }

    /// Makes a folder and those above it. Folders are durable at once: losing one is losing its names, which is
    /// covered.
    pub fn create_dir(&mut self, dir: &Path) -> io::Result<()> {
        self.operate()?;
        self.dirs.extend(dir.ancestors().map(Path::to_path_buf));
        Ok(())
    }

    /// Length of a file.
    pub fn len(&self, id: u64) -> io::Result<u64> {
        self.read_allowed()?;
        self.files.get(&id).map(|file| file.seen.len() as u64).ok_or_else(|| error(io::ErrorKind::NotFound, "len"))
    }

    /// All bytes of a file, as its process sees them.
    pub fn bytes(&self, id: u64) -> io::Result<&[u8]> {
        self.read_allowed()?;
        self.files.get(&id).map(|file| file.seen.as_slice()).ok_or_else(|| error(io::ErrorKind::NotFound, "read"))
    }

    /// The process is gone. Handles are void; what the next process finds depends on how this one died.
    pub fn end_process(&mut self, death: CrashKind) {
        self.is_dead = false;
        self.has_failed = false;
        self.faults.die_after = None;
        if death == CrashKind::Killed {
            return;
        }
        let mut rng = self.rng.fork();
        for file in self.files.values_mut() {
            let unsynced = std::mem::take(&mut file.unsynced);
            match rng.u8(0..5) {
                0 => {}
                1 => unsynced.iter().for_each(|change| apply_whole(&mut file.durable, change)),
                2 => unsynced.iter().for_each(|change| scatter(&mut file.durable, change, &mut rng)),
                _ => {
                    // In order up to a point, and the write at that point torn in two.
                    let kept = rng.usize(0..=unsynced.len());
                    unsynced[..kept].iter().for_each(|change| apply_whole(&mut file.durable, change));
                    if let Some(Unsynced::Bytes { offset, bytes }) = unsynced.get(kept) {
                        let part = rng.usize(0..=bytes.len());
                        put(&mut file.durable, *offset, &bytes[..part]);
                    }
                }
            }
            file.seen = file.durable.clone();
        }
        // File systems keep the order of changes to names (ext4, xfs and apfs journal them).
        let kept = rng.usize(0..=self.name_changes.len());
        for change in self.name_changes.drain(..).take(kept) {
            rename(&mut self.durable_names, &change);
        }
        self.names = self.durable_names.clone();
        let names = &self.names;
        self.files.retain(|id, _| names.values().any(|named| named == id));
    }

    /// Flips one bit that a sync covered; `false` if there is none to flip.
    ///
    /// What the newest sync of a log segment covered is spared: until later bytes are on disk, a flipped bit cannot be
    /// told from a torn write, so no log can refuse it.
    pub fn flip_bit(&mut self) -> bool {
        let names: Vec<(&PathBuf, u64)> = self.durable_names.iter().map(|(path, &id)| (path, id)).collect();
        if names.is_empty() {
            return false;
        }
        let (path, id) = names[self.rng.usize(0..names.len())];
        let is_log = path.parent().is_some_and(|dir| dir.ends_with(store::WAL_DIR));
        let mut rng = self.rng.fork();
        let Some(file) = self.files.get_mut(&id) else { return false };
        // Where there is something to damage: preallocated zeros at the end are the duller target.
        let Some(last) = file.durable.iter().rposition(|&byte| byte != 0) else { return false };
        let at = rng.usize(0..=last);
        if is_log && file.newest.iter().any(|(from, to)| (*from..*to).contains(&at)) {
            return false;
        }
        let bit = 1u8 << rng.u8(0..8);
        file.durable[at] ^= bit;
        if at < file.seen.len() {
            file.seen[at] ^= bit;
        }
        true
    }
}

fn apply_whole(to: &mut Vec<u8>, change: &Unsynced) {
    match change {
        Unsynced::Bytes { offset, bytes } => put(to, *offset, bytes),
        Unsynced::Length(len) => to.resize(*len, 0),
    }
}

/// Keeps an arbitrary set of the sectors that a change touches.
fn scatter(to: &mut Vec<u8>, change: &Unsynced, rng: &mut Rng) {
    match change {
        Unsynced::Bytes { offset, bytes } => {
            let mut from = 0;
            while from < bytes.len() {
                let sector_end = ((offset + from) / SECTOR + 1) * SECTOR - offset;
                let until = sector_end.min(bytes.len());
                if rng.bool() {
                    put(to, offset + from, &bytes[from..until]);
                }
                from = until;
            }
        }
        Unsynced::Length(len) => {
            if rng.bool() {
                to.resize(*len, 0);
            }
        }
    }
}

fn rename(names: &mut BTreeMap<PathBuf, u64>, change: &NameChange) {
    match change {
        NameChange::Link { path, file } => {
            names.insert(path.clone(), *file);
        }
        NameChange::Unlink { path } => {
            names.remove(path);
        }
        NameChange::Rename { from, to, file } => {
            names.remove(from);
            names.insert(to.clone(), *file);
        }
    }
}
