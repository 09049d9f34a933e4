//! Folders as hostile programs leave them: counted and removed with bounded stack, descriptors and path length.
//!
//! A program may nest thirty thousand folders, remove their permissions, and replace them by links at any time. So
//! nothing here recurses, and each step goes from an open folder to one name in it, and never follows a link.
//!
//! Invariants: D1 nothing outside the folder is changed. D2 the work is bounded by the number of files, not by their
//! depth: removal moves deeper folders to the top, counting stops at [`DEPTH_MAX`].
//! Not here: creating the folder (`scratch.rs`), limits (`run.rs`).

use rustix::fs::{self, AtFlags, CWD, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Maximum nesting depth of a count; each level takes one open descriptor.
const DEPTH_MAX: usize = 200;
/// Maximum number of directory entries that are read into memory at once.
const BATCH: usize = 1024;
/// Permissions that the owner needs to list a folder and to empty it.
const OPEN: Mode = Mode::RWXU;

/// Number and size of the files in a folder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirUsage {
    /// Files and folders.
    pub files: u64,
    /// Bytes that the files occupy, without holes and without blocks preallocated beyond their ends.
    pub bytes: u64,
    /// Length of the longest file in bytes, holes included.
    pub longest: u64,
}

/// Counts the files in a folder and its subfolders. Returns `None` if there are more than `most`, if they are nested
/// deeper than [`DEPTH_MAX`], or if a folder cannot be read.
pub fn count(top: &Path, most: u64) -> Option<DirUsage> {
    let mut count = DirUsage::default();
    let mut open = vec![Dir::new(present(open_folder(CWD, top)).ok()??).ok()?];
    loop {
        let depth = open.len();
        let Some(folder) = open.last_mut() else { break };
        let Some(row) = folder.read() else {
            open.pop();
            continue;
        };
        let row = row.ok()?;
        let name = row.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        count.files += 1;
        if count.files > most {
            return None;
        }
        let fd = folder.fd().ok()?;
        let Some(it) = present(fs::statat(fd, name, AtFlags::SYMLINK_NOFOLLOW)).ok()? else { continue };
        if FileType::from_raw_mode(it.st_mode) != FileType::Directory {
            let length = u64::try_from(it.st_size).unwrap_or(0);
            count.bytes += length.min(u64::try_from(it.st_blocks).unwrap_or(0) * 512);
            count.longest = count.longest.max(length);
        } else if depth == DEPTH_MAX {
            return None;
        } else if let Some(inner) = present(open_folder(fd, name)).ok()? {
            open.push(Dir::new(inner).ok()?);
        }
    }
    Some(count)
}

/// Removes a folder with all its content, at any depth and also without permissions.
///
/// # Errors
/// Returns the error of the system call that failed; a file that does not exist any more is not an error.
pub fn remove(top: &Path) -> io::Result<()> {
    // Most are empty: their content was on a tmpfs that is unmounted by now.
    if fs::rmdir(top).is_ok() {
        return Ok(());
    }
    let Some(folder) = present(open_folder(CWD, top))? else { return Ok(()) };
    let mut lifted = 0;
    loop {
        let rows = batch(&folder)?;
        if rows.is_empty() {
            break;
        }
        for (name, kind) in rows {
            if is_unlinked(folder.as_fd(), &name, kind)? {
                continue;
            }
            if let Some(inner) = present(open_folder(&folder, &name))? {
                lift(&inner, &folder, &mut lifted)?;
                present(fs::unlinkat(&folder, &name, AtFlags::REMOVEDIR))?;
            }
        }
    }
    drop(folder);
    present(fs::rmdir(top))?;
    Ok(())
}

/// Empties a folder: removes its files and moves its subfolders to `top`, under names that are not used there.
fn lift(inner: &OwnedFd, top: &OwnedFd, lifted: &mut u64) -> io::Result<()> {
    loop {
        let rows = batch(inner)?;
        if rows.is_empty() {
            return Ok(());
        }
        for (name, kind) in rows {
            // A folder without write permission cannot be moved, because moving changes its `..` entry. `open_folder`
            // sets the permissions.
            if is_unlinked(inner.as_fd(), &name, kind)? || present(open_folder(inner, &name))?.is_none() {
                continue;
            }
            loop {
                *lifted += 1;
                match fs::renameat(inner, &name, top, format!(".lifted-{lifted}")) {
                    Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => {}
                    other => {
                        present(other)?;
                        break;
                    }
                }
            }
        }
    }
}

/// Removes a file; returns `false` if it is a folder, which is left as it is.
fn is_unlinked(folder: BorrowedFd<'_>, name: &CString, kind: FileType) -> io::Result<bool> {
    if kind == FileType::Directory {
        return Ok(false);
    }
    match fs::unlinkat(folder, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => Ok(false),
        other => present(other).map(|_| true),
    }
}

/// Returns the first names in a folder with their types, at most [`BATCH`].
fn batch(folder: &OwnedFd) -> io::Result<Vec<(CString, FileType)>> {
    let mut rows = Vec::new();
    let mut dir = Dir::read_from(folder)?;
    while let Some(row) = dir.read() {
        let row = row?;
        if !matches!(row.file_name().to_bytes(), b"." | b"..") {
            rows.push((row.file_name().to_owned(), row.file_type()));
        }
        if rows.len() == BATCH {
            break;
        }
    }
    Ok(rows)
}

/// Opens a folder after giving its owner full permissions. Never follows a link.
fn open_folder(at: impl AsFd, name: impl rustix::path::Arg + Copy) -> rustix::io::Result<OwnedFd> {
    let kind = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = fs::openat(&at, name, kind | OFlags::PATH, Mode::empty())?;
    if !Mode::from_raw_mode(fs::fstat(&place)?.st_mode).contains(OPEN) {
        // Fails for a folder of another user; the open below shows whether that matters.
        let _ = fs::chmod(format!("/proc/self/fd/{}", place.as_raw_fd()), OPEN);
    }
    fs::openat(&at, name, kind | OFlags::RDONLY, Mode::empty())
}

/// Returns `None` instead of the error if the file does not exist any more.
fn present<T>(result: rustix::io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(it) => Ok(Some(it)),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e.into()),
    }
}
