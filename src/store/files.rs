//! The only way to the disk: a small set of operations that the simulator and the tests replace by a faulty disk.
//!
//! Every durable byte goes through [`Files`] and [`File`]. Each call is one step that a crash can come
//! before or after. What a call promises: `sync_data` makes a file's bytes and length survive a power cut; `sync_dir`
//! makes the folder's names survive (creations, renames, removals); nothing else survives for certain.
//! Not here: retries of writes and syncs. There are none anywhere: after a failed sync the kernel may have dropped the
//! very bytes. An open that fails because no file descriptor is free has changed no byte, and is retried for a while.

use super::error::{StoreError, is_out_of_descriptors};
use rustix::fs::{Mode, OFlags};
use rustix::process::{geteuid, umask};
use std::fs;
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How long opening a file is tried again while no descriptor is left, and how often. A leader with a disk that hangs
/// for so long steps down.
const DESCRIPTORS_WITHIN: Duration = Duration::from_secs(30);
const DESCRIPTORS_AGAIN: Duration = Duration::from_millis(20);

/// A disk. Paths are whole paths as the caller knows them.
pub trait Files: Send + Sync {
    /// A new, empty file for writing and reading; an old one of that name is emptied.
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>>;
    /// An existing file for writing and reading.
    fn open(&self, path: &Path) -> io::Result<Box<dyn File>>;
    /// An existing file for reading; works on files that may not be written.
    fn open_read(&self, path: &Path) -> io::Result<Box<dyn File>>;
    /// A whole file's bytes.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// Gives a file another name; a file that had it is replaced in the same step.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Names in a folder, sorted; `NotFound` if there is no such folder.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Creates a folder and its parents; it may exist.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Makes the names in a folder durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Bytes that this process may still fill.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;
}

/// An open file. Removing or renaming its path leaves it usable, as on any Unix.
pub trait File: Send {
    /// Writes all bytes at an offset; beyond the end the file grows.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Reads at an offset until the buffer is full or the file ends; returns the number of bytes.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
    /// Makes the file at least this long, with zeros, and reserves the room for it on disk.
    fn allocate(&mut self, bytes: u64) -> io::Result<()>;
    /// Makes the bytes and the length durable (`fdatasync`).
    fn sync_data(&mut self) -> io::Result<()>;
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Cuts (or zero-fills) to this length.
    fn truncate(&mut self, bytes: u64) -> io::Result<()>;
}

/// Bytes that [`remove_gently`] frees in one step.
const FREE_STEP_BYTES: u64 = 2 << 20;

/// Removes a large file in steps, calling `pause` in between. Some file systems delay every sync of the disk while they
/// free a large file: 130 MB took ext4 with `discard` 75 ms; in steps no sync waited for more than 3 ms. The file is
/// first renamed to `shrunk` in its folder, so that no later reader opens it, and the remainder after a crash is not
/// taken for a whole file. If a reader has it open (`is_unread` returns false), it is removed in one step, and stays
/// whole for that reader.
///
/// # Errors
/// Those of the disk.
pub fn remove_gently(
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

/// Mode of a file that other users may read, from the umask of the start; set by [`make_all_private`].
static SHARED_MODE: OnceLock<u32> = OnceLock::new();

/// From now on the owner keeps the rights to files that this process creates, even under a umask that removes them
/// (777): the process must be able to read its own files.
pub fn keep_own_rights() {
    let before = umask(Mode::RWXG | Mode::RWXO);
    umask(before & !Mode::RWXU);
}

/// From now on every file and folder that this process creates, including those of SQLite, is private to its owner,
/// unless its rights are widened afterwards.
pub fn make_all_private() {
    let before = umask(Mode::RWXG | Mode::RWXO);
    SHARED_MODE.get_or_init(|| 0o666 & !before.as_raw_mode());
}

/// Mode of a new file that other users may read: by the umask with which this process was started, or 644 before
/// [`make_all_private`] was called.
pub fn shared_mode() -> u32 {
    SHARED_MODE.get().copied().unwrap_or(0o644)
}

/// Creates a folder and its parents with mode 700, whatever the umask. A dangling link is left as it is: the disk that
/// it points to may not be mounted.
///
/// # Errors
/// The system's.
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

/// Removes the rights of group and others to a node's folder, its files, and its subfolders with their files; returns
/// the folder's previous mode if it was wider. Folders of jobs are not changed.
///
/// # Errors
/// The system's: the folder is another user's, for instance.
pub fn narrow(dir: &Path) -> io::Result<Option<u32>> {
    let before = fs::metadata(dir)?.mode() & 0o777;
    if before & 0o077 != 0 {
        fs::set_permissions(dir, fs::Permissions::from_mode(before & 0o700))?;
    }
    narrow_below(dir, true)?;
    Ok((before & 0o077 != 0).then_some(before))
}

/// Removes the rights of group and others to the folder of all nodes, if this user owns it and it holds only what nodes
/// and `run.sh` create: a folder that is used for other things too is not changed. Returns the previous mode if it was
/// wider.
///
/// # Errors
/// The system's.
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
        // Of a link the rights of the link, which say nothing: it is left alone.
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

/// Opens a file of the node. A pipe or device is refused: opening or reading it could block for ever, or never end.
///
/// # Errors
/// When the system refuses, or it is not a regular file.
pub fn open_regular(options: &mut fs::OpenOptions, path: &Path) -> io::Result<fs::File> {
    // Does nothing to a regular file; a pipe is opened without waiting for its other end.
    options.custom_flags(OFlags::NONBLOCK.bits() as i32);
    let file = when_there_is_room(|| options.open(path))?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(ErrorKind::InvalidInput, "this is not a regular file")),
    }
}

/// Retries an open for a while when no file descriptor is free: descriptors become free again, and the disk is sound.
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

/// The machine's file system.
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
            // A name that is not UTF-8 is none of ours.
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
            // A file system that cannot reserve still takes the zeros that the caller writes next.
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
    fn what_is_no_regular_file_is_refused_at_once() {
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
    fn what_a_node_makes_is_for_nobody_else() {
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
        let (dir, stranger) = (data.path().join("node-1"), data.path().join("stranger"));
        for folder in ["wal", "jobs/7"] {
            fs::create_dir_all(dir.join(folder)).unwrap();
        }
        let files = [stranger.clone(), dir.join("node.json"), dir.join("wal/0.wal"), dir.join("jobs/7/main.sh")];
        for file in &files {
            fs::write(file, "").unwrap();
            fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
        }
        std::os::unix::fs::symlink(&stranger, dir.join("link")).unwrap();
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
