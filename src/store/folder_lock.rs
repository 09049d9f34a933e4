//! The lock of a data folder, so that only one process works in it.
//!
//! The file `lock` is locked while the process lives; the system releases it however the process ends. It has the
//! process id, for messages.
//! Not here: whose folder it is (`identity.rs`).

use super::anchor::Anchor;
use super::error::StoreError;
use super::identity::folder;
use crate::types::NodeId;
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const LOCK_NAME: &str = "lock";
/// How long a start waits for the lock of its folder: a killed process may hold it for a moment, and a node that hosts
/// its voter (`cluster/takeover/`) usually for less than a second or two.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
const LOCK_AGAIN: Duration = Duration::from_millis(20);

/// The lock of a data folder, held by the process that uses it.
#[derive(Debug)]
pub struct FolderLock {
    dir: PathBuf,
    folder: std::fs::File,
    /// The open lock file; the system releases the lock when it is closed, however the process ends.
    file: std::fs::File,
}

impl FolderLock {
    /// Returns an anchor of the folder and of the log in it, for checks while the process runs.
    ///
    /// # Errors
    /// Returns an error if the log's folder does not exist, or if the node's folder was replaced.
    pub fn anchor(&self) -> Result<Anchor, StoreError> {
        Anchor::new(&self.dir, (&self.dir, &self.folder), (&self.dir.join(LOCK_NAME), &self.file))
    }
}

/// Does the same as [`lock`], but retries for [`LOCK_PATIENCE`]: a killed process keeps its lock until the kernel has
/// freed its memory.
pub fn lock_with_retries(dir: &Path) -> Result<FolderLock, StoreError> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match lock(dir) {
            Err(StoreError::Locked { .. }) if Instant::now() < deadline => std::thread::sleep(LOCK_AGAIN),
            other => return other,
        }
    }
}

/// Locks a data folder for this process, and creates it if necessary. Returns [`StoreError::Locked`] if another process
/// has locked it.
pub fn lock(dir: &Path) -> Result<FolderLock, StoreError> {
    let path = dir.join(LOCK_NAME);
    super::create_private_dir(dir).map_err(|e| refused("create", dir, e))?;
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let opened = super::files::open_regular(&mut options, &path);
    let mut file = opened.map_err(|e| refused("open", &path, e))?;
    match fs2::FileExt::try_lock_exclusive(&file) {
        Ok(()) => {}
        Err(e) if e.raw_os_error() == fs2::lock_contended_error().raw_os_error() => {
            let mut holder = String::new();
            // The process id is only for the message; if it cannot be read, it is left out.
            let _ = file.read_to_string(&mut holder);
            return Err(StoreError::Locked { dir: dir.to_path_buf(), process: holder.trim().parse().ok() });
        }
        Err(e) => return Err(StoreError::io("lock", &path, e)),
    }
    let noted = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
    noted.map_err(|e| StoreError::io("write to", &path, e))?;
    let folder = std::fs::File::open(dir).map_err(|e| refused("open", dir, e))?;
    Ok(FolderLock { dir: dir.to_path_buf(), folder, file })
}

/// Returns the error for a folder that cannot be used: it belongs to another user, or the system's error.
fn refused(doing: &str, path: &Path, source: std::io::Error) -> StoreError {
    let user = rustix::process::geteuid().as_raw();
    let nearest = path.ancestors().find_map(|folder| std::fs::metadata(folder).ok());
    match nearest.is_some_and(|it| it.uid() != user) && source.kind() == ErrorKind::PermissionDenied {
        true => StoreError::OtherUser { dir: path.to_path_buf(), source },
        false => StoreError::io(doing, path, source),
    }
}

/// Whether a process has locked this folder.
pub fn is_in_use(dir: &Path) -> bool {
    let mut options = std::fs::OpenOptions::new();
    let Ok(file) = super::files::open_regular(options.read(true), &dir.join(LOCK_NAME)) else { return false };
    fs2::FileExt::try_lock_shared(&file).is_err()
}

/// Locks the folder of the lowest id that no process uses: a new one, or one of a node that is not running.
/// `is_free` may exclude an id, for instance because its port is in use.
pub fn lock_lowest(data_dir: &Path, is_free: impl Fn(NodeId) -> bool) -> Result<(NodeId, FolderLock), StoreError> {
    for id in (1..=NodeId::MAX).map(NodeId).filter(|id| is_free(*id)) {
        match lock(&folder(data_dir, id)) {
            Ok(lock) => return Ok((id, lock)),
            Err(StoreError::Locked { .. }) => {}
            Err(e) => return Err(e),
        }
    }
    Err(StoreError::Locked { dir: data_dir.to_path_buf(), process: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_holders_never_share_a_folder() {
        let data = tempfile::tempdir().unwrap();
        let dir = folder(data.path(), NodeId(1));
        assert!(!is_in_use(&dir));
        let held = lock(&dir).unwrap();
        assert!(is_in_use(&dir));
        let error = lock(&dir).unwrap_err().to_string();
        assert!(error.contains(&format!("(pid {})", std::process::id())), "{error}");
        let (second, _held_too) = lock_lowest(data.path(), |id| id != NodeId(2)).unwrap();
        assert_eq!(second, NodeId(3));
        drop(held);
        assert_eq!(lock_lowest(data.path(), |_| true).unwrap().0, NodeId(1));
    }
}
