//! The only access to the disk: a small set of operations, which the simulator and the tests replace by a faulty disk.
//!
//! Every durable byte goes through [`Files`] and [`File`]. Each call is one step; a crash is possible before and after
//! it. Guarantees: after `sync_data`, a file's bytes and length survive a power failure; after `sync_dir`, the folder's
//! entries do (creations, renames, removals); nothing else is guaranteed to survive.
//! Not here: retries of writes and syncs. There are none anywhere, because after a failed sync the kernel may have
//! dropped the written bytes. An open that fails because no file descriptor is free is retried, because it changes
//! nothing.

use super::error::{StoreError, is_out_of_descriptors};
use rustix::fs::{Mode, OFlags};
use rustix::process::{geteuid, umask};
use std::fs;
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How long opening a file is retried while no file descriptor is free. A leader whose disk hangs for this long steps
/// down.
const DESCRIPTORS_WITHIN: Duration = Duration::from_secs(30);
const DESCRIPTORS_AGAIN: Duration = Duration::from_millis(20);

/// A disk. Paths are the full paths that the caller uses.
pub trait Files: Send + Sync {
    /// Creates an empty file for reading and writing; an existing file is truncated.
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>>;
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Box<dyn File>>;
    /// Opens an existing file for reading; write permission is not needed.
    fn open_read(&self, path: &Path) -> io::Result<Box<dyn File>>;
    /// Reads a whole file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// Renames a file atomically; replaces an existing file at `to`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Returns the names in a folder, sorted; `NotFound` if there is no such folder.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Creates a folder and its parents; succeeds if it exists.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Makes the entries of a folder durable (`fsync`).
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Returns the number of free bytes that this process may use.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;
}

/// An open file. Removing or renaming its path leaves it usable, as on any Unix.
pub trait File: Send {
    /// Writes all bytes at an offset; beyond the end the file grows.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Reads at an offset until the buffer is full or the file ends; returns the number of bytes.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
    /// Extends the file with zeros to at least this length, and reserves disk space for it.
    fn allocate(&mut self, bytes: u64) -> io::Result<()>;
    /// Makes the bytes and the length durable (`fdatasync`).
    fn sync_data(&mut self) -> io::Result<()>;
    /// Returns the length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Truncates or extends (with zeros) the file to this length.
    fn truncate(&mut self, bytes: u64) -> io::Result<()>;
}

/// Bytes that [`remove_in_steps`] frees in one step.
const FREE_STEP_BYTES: u64 = 2 << 20;

/// Removes a large file in steps, calling `pause` in between. Some file systems delay every sync of the disk while they
/// free a large file: for 130 MB, ext4 with `discard` took 75 ms; in steps no sync waited for more than 3 ms. The file
/// is first renamed to `shrunk` in its folder, so that no later reader opens it, and so that its remainder after a
/// crash is not mistaken for a complete file. If a reader has it open (`is_unread` returns false), it is removed in one
/// step, so that its content stays available to that reader.
///
/// # Errors
/// Returns the disk's error.
pub fn remove_in_steps(
    files: &dyn Files,
    path: &Path,
    shrunk: &Path,
    is_unread: impl FnOnce() -> bool,
    pause: &mut dyn FnMut(),
) -> Result<(), StoreError> {
    let dir = path.parent().expect("a file lies in a folder");
    files.rename(path, shrunk).map_err(|e| StoreError::io("rename", path, e))?;
    files.sync_dir(dir).map_err(|e| StoreError::io("sync", dir, e))?;
    if !is_unread() {
        return files.remove(shrunk).map_err(|e| StoreError::io("remove", shrunk, e));
    }
    let mut file = files.open(shrunk).map_err(|e| StoreError::io("open", shrunk, e))?;
    let mut bytes = file.len().map_err(|e| StoreError::io("ask for the length of", shrunk, e))?;
    while bytes > FREE_STEP_BYTES {
        bytes -= FREE_STEP_BYTES;
        file.truncate(bytes).map_err(|e| StoreError::io("cut", shrunk, e))?;
        file.sync_data().map_err(|e| StoreError::io("sync", shrunk, e))?;
        pause();
    }
    files.remove(shrunk).map_err(|e| StoreError::io("remove", shrunk, e))
}

/// Mode of files that other users may read, derived from the umask at start; set by [`make_all_private`].
static SHARED_MODE: OnceLock<u32> = OnceLock::new();

/// Clears the owner's bits of the umask: this process must be able to read the files that it creates from now on, even
/// if it was started with a umask such as 777.
pub fn keep_own_rights() {
    let before = umask(Mode::RWXG | Mode::RWXO);
    umask(before & !Mode::RWXU);
}

/// Sets the umask so that every file and folder that this process creates from now on, including those of SQLite, is
/// private to its owner, unless its mode is widened afterwards.
pub fn make_all_private() {
    let before = umask(Mode::RWXG | Mode::RWXO);
    SHARED_MODE.get_or_init(|| 0o666 & !before.as_raw_mode());
}

/// Returns the mode of a new file that other users may read: according to the umask with which this process was
/// started, or 644 before [`make_all_private`] was called.
pub fn shared_mode() -> u32 {
    SHARED_MODE.get().copied().unwrap_or(0o644)
}

/// Creates a folder and its parents with mode 700, regardless of the umask. A dangling link is left as it is: the disk that
/// it points to may not be mounted.
///
/// # Errors
/// Returns the system's error.
pub fn create_private_dir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| match dangling(dir) {
        Some(why) if e.kind() == ErrorKind::AlreadyExists => io::Error::new(ErrorKind::NotFound, why),
        _ => e,
    })
}

/// Describes the first dangling link on the path to `dir`.
fn dangling(dir: &Path) -> Option<String> {
    dir.ancestors().find_map(|at| {
        let to = fs::read_link(at).ok()?;
        let (at, to) = (at.display(), to.display());
        fs::metadata(dir).is_err().then(|| {
            format!("{at} is a link to {to}, which is not there: mount the disk that it is on, or make that folder")
        })
    })
}

/// Removes the permissions of group and others from a node's folder, its files, and its subfolders with their files;
/// returns the folder's previous mode if it was wider. Folders of jobs are not changed.
///
/// # Errors
/// Returns the system's error, for instance if another user owns the folder.
pub fn narrow(dir: &Path) -> io::Result<Option<u32>> {
    let before = fs::metadata(dir)?.mode() & 0o777;
    if before & 0o077 != 0 {
        fs::set_permissions(dir, fs::Permissions::from_mode(before & 0o700))?;
    }
    narrow_below(dir, true)?;
    Ok((before & 0o077 != 0).then_some(before))
}

/// Removes the permissions of group and others from the data folder of all nodes, if this user owns it and it contains
/// only files of nodes and of `run.sh`: a folder that is also used for other purposes is not changed. Returns the
/// previous mode if it was wider.
///
/// # Errors
/// Returns the system's error.
pub fn narrow_data(dir: &Path) -> io::Result<Option<u32>> {
    let meta = fs::metadata(dir)?;
    let before = meta.mode() & 0o777;
    if before & 0o077 == 0 || meta.uid() != geteuid().as_raw() {
        return Ok(None);
    }
    for row in when_there_is_room(|| fs::read_dir(dir))? {
        let name = row?.file_name();
        let name = name.to_string_lossy();
        if name != "run" && name != "dev" && !name.starts_with("node-") && !name.starts_with("config.json") {
            return Ok(None);
        }
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(before & 0o700))?;
    Ok(Some(before))
}

fn narrow_below(dir: &Path, has_folders: bool) -> io::Result<()> {
    for row in fs::read_dir(dir)?.flatten() {
        // The mode of a link is meaningless; links are skipped.
        let Ok(meta) = row.metadata() else { continue };
        let is_jobs = row.file_name().to_string_lossy().starts_with("jobs");
        let is_folder = meta.is_dir() && has_folders && !is_jobs;
        if (meta.is_file() || is_folder) && meta.mode() & 0o077 != 0 {
            fs::set_permissions(row.path(), fs::Permissions::from_mode(meta.mode() & 0o700))?;
        }
        if is_folder {
            narrow_below(&row.path(), false)?;
        }
    }
    Ok(())
}

/// Opens a file of the node. A pipe or device is refused: opening or reading it could block forever, or never end.
///
/// # Errors
/// Returns the system's error, or an error if it is not a regular file.
pub fn open_regular(options: &mut fs::OpenOptions, path: &Path) -> io::Result<fs::File> {
    // Has no effect on a regular file; a pipe is opened without waiting for its other end.
    options.custom_flags(OFlags::NONBLOCK.bits() as i32);
    let file = when_there_is_room(|| options.open(path))?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(ErrorKind::InvalidInput, "this is not a regular file")),
    }
}

/// Retries an open for [`DESCRIPTORS_WITHIN`] while no file descriptor is free, which is temporary and no disk fault.
fn when_there_is_room<T>(open: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let deadline = Instant::now() + DESCRIPTORS_WITHIN;
    loop {
        match open() {
            Err(error) if is_out_of_descriptors(&error) && Instant::now() < deadline => {
                std::thread::sleep(DESCRIPTORS_AGAIN);
            }
            opened => return opened,
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub struct RealFiles;

impl Files for RealFiles {
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true).mode(0o600);
        Ok(Box::new(RealFile(open_regular(&mut options, path)?)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true);
        Ok(Box::new(RealFile(open_regular(&mut options, path)?)))
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn File>> {
        Ok(Box::new(RealFile(open_regular(fs::OpenOptions::new().read(true), path)?)))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        open_regular(fs::OpenOptions::new().read(true), path)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for row in fs::read_dir(dir)? {
            // No file of a node has a name that is not UTF-8.
            if let Ok(name) = row?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        create_private_dir(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        when_there_is_room(|| fs::File::open(dir))?.sync_all()
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        fs2::available_space(dir)
    }
}

/// A file of the machine.
struct RealFile(fs::File);

#[cfg(unix)]
impl File for RealFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(&self.0, bytes, offset)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match std::os::unix::fs::FileExt::read_at(&self.0, &mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn allocate(&mut self, bytes: u64) -> io::Result<()> {
        // Not fs2's `allocate`: it reports a stale error number when the disk is full.
        match rustix::fs::fallocate(&self.0, rustix::fs::FallocateFlags::empty(), 0, bytes) {
            Ok(()) => {}
            // If the file system cannot reserve space, the zeros that the caller writes next do.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
            Err(e) => return Err(e.into()),
        }
        if self.len()? < bytes {
            self.0.set_len(bytes)?;
        }
        Ok(())
    }

    fn sync_data(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn truncate(&mut self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn a_file_is_opened_again_when_descriptors_come_back() {
        let tries = std::cell::Cell::new(0);
        let opened = when_there_is_room(|| {
            tries.set(tries.get() + 1);
            if tries.get() < 3 { Err(Errno::MFILE.into()) } else { Ok("open") }
        });
        assert_eq!((opened.unwrap(), tries.get()), ("open", 3));
        let refused: io::Result<()> = when_there_is_room(|| Err(Errno::NOENT.into()));
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::NotFound, "anything else is told at once");
    }

    #[test]
    fn files_that_are_not_regular_are_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let (pipe, zero) = (dir.path().join("pipe"), dir.path().join("zero"));
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &zero).unwrap();
        for path in [&pipe, &zero] {
            let opened =
                [RealFiles.open(path).map(drop), RealFiles.open_read(path).map(drop), RealFiles.read(path).map(drop)];
            for opened in opened {
                assert!(opened.unwrap_err().to_string().contains("not a regular file"));
            }
        }
    }

    #[test]
    fn files_of_a_node_are_private() {
        let data = tempfile::tempdir().unwrap();
        let dir = data.path().join("data/node-1");
        RealFiles.create_dir(&dir.join("wal")).unwrap();
        drop(RealFiles.create(&dir.join("wal/0.wal")).unwrap());
        assert_eq!([&data.path().join("data"), &dir, &dir.join("wal")].map(|path| mode(path)), [0o700; 3]);
        assert_eq!(mode(&dir.join("wal/0.wal")), 0o600);
        assert_eq!(narrow(&dir).unwrap(), None);
    }

    #[test]
    fn a_link_that_leads_nowhere_is_named_and_left() {
        let data = tempfile::tempdir().unwrap();
        let (link, to) = (data.path().join("wal"), data.path().join("disk/wal"));
        std::os::unix::fs::symlink(&to, &link).unwrap();
        for dir in [link.clone(), link.join("below")] {
            let error = create_private_dir(&dir).unwrap_err().to_string();
            assert!(error.contains(&format!("is a link to {}, which is not there", to.display())), "{error}");
        }
        assert!(!to.exists());
        fs::create_dir_all(&to).unwrap();
        create_private_dir(&link).unwrap();
        fs::write(data.path().join("file"), "").unwrap();
        let error = create_private_dir(&data.path().join("file")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    }

    #[test]
    fn an_older_wider_folder_is_narrowed_with_all_that_is_the_nodes_own() {
        let data = tempfile::tempdir().unwrap();
        let (dir, foreign) = (data.path().join("node-1"), data.path().join("foreign"));
        for folder in ["wal", "jobs/7"] {
            fs::create_dir_all(dir.join(folder)).unwrap();
        }
        let files = [foreign.clone(), dir.join("node.json"), dir.join("wal/0.wal"), dir.join("jobs/7/main.sh")];
        for file in &files {
            fs::write(file, "").unwrap();
            fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
        }
        std::os::unix::fs::symlink(&foreign, dir.join("link")).unwrap();
        for folder in [&dir, &dir.join("wal"), &dir.join("jobs")] {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
        }
        assert_eq!(narrow(&dir).unwrap(), Some(0o755));
        assert_eq!(files.each_ref().map(|file| mode(file)), [0o755, 0o700, 0o700, 0o755]);
        assert_eq!([&dir, &dir.join("wal"), &dir.join("jobs")].map(|path| mode(path)), [0o700, 0o700, 0o755]);
        assert_eq!(narrow(&dir).unwrap(), None);
    }

    #[test]
    fn the_folder_of_all_nodes_is_narrowed_unless_it_holds_other_things() {
        let above = tempfile::tempdir().unwrap();
        let data = above.path().join("data");
        fs::create_dir_all(data.join("node-1")).unwrap();
        fs::create_dir(data.join("run")).unwrap();
        fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(data.join("letter.txt"), "").unwrap();
        assert_eq!((narrow_data(&data).unwrap(), mode(&data)), (None, 0o755), "as /tmp or a home would");
        fs::remove_file(data.join("letter.txt")).unwrap();
        assert_eq!((narrow_data(&data).unwrap(), mode(&data)), (Some(0o755), 0o700));
        assert_eq!(narrow_data(&data).unwrap(), None);
    }
}
