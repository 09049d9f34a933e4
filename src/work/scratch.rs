//! The folder of one attempt: created, measured and removed.
//!
//! If the node is root, each folder is a separate tmpfs as large as the attempt's limit: no program can use more, and
//! the kernel reports at once how much is used, including deleted files that are still open. If mounting is refused,
//! it is a plain folder and its files are counted.
//!
//! Invariant: S1 the mount and the folder are removed at the end of their attempt; what a killed node process leaves,
//! at the next start of its node, and if it is below `/run`, also by any node of this user that starts or stops
//! (`leftovers.rs`).
//! Not here: where these folders are (`leftovers.rs`), walks through them (`untrusted_dir.rs`), which folder is bound
//! where (`sandbox.rs`).

use super::process_tree::{self, ProcessTree};
use super::{syscall_filter, untrusted_dir};
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

/// Path of the scratch folder inside the sandbox.
pub const HOME: &str = "/job";
/// The program's own folder, inside the attempt's.
pub const JOB: &str = "job";
/// Its `/tmp`.
pub const TMP: &str = "tmp";
/// Its `/dev/shm`.
pub const SHM: &str = "shm";
/// The file with the system call filter, which bubblewrap reads; the program does not see it.
pub const FILTER: &str = "filter";
/// The file that contains [`BEGUN`] once the last stage before the program has run, and [`NOT_BEGUN`], of the same
/// length, before. The program does not see it.
pub const STARTED: &str = "started";
const BEGUN: &[u8] = b"\n";
const NOT_BEGUN: &[u8] = b"-";
/// Maximum number of files and folders that an attempt may create.
pub const FILES_MAX: u64 = 10_000;
/// Capacity of the file system beyond the limits, so that a program that exceeds a limit is stopped with that reason
/// instead of failing with a full disk.
const SPARE_MB: u64 = 16;
const SPARE_FILES: u64 = 1000;
/// The folder of one attempt.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    /// It is a file system of its own.
    pub(super) is_mounted: bool,
}

impl Scratch {
    /// Creates the folder with a capacity of `files_mb` MiB. `user` becomes the owner of the program's folders; `None`
    /// leaves them to the user of this process.
    ///
    /// # Errors
    /// Returns the error of the system call that failed, also if the folder exists already.
    pub fn create(path: &Path, user: Option<u32>, files_mb: u64) -> io::Result<Scratch> {
        fs::DirBuilder::new().mode(0o700).create(path)?;
        let is_mounted = rustix::process::geteuid().is_root() && mount(path, files_mb);
        let scratch = Scratch { path: path.to_path_buf(), is_mounted };
        let inner = [(JOB, 0o700), (TMP, 0o1777), (SHM, 0o1777)].map(|(name, mode)| (path.join(name), mode));
        for (folder, mode) in &inner {
            fs::create_dir(folder)?;
            fs::set_permissions(folder, fs::Permissions::from_mode(*mode))?;
        }
        if let Some(bytes) = syscall_filter::bytes() {
            fs::write(path.join(FILTER), bytes)?;
        }
        scratch.forget_start()?;
        if let Some(user) = user {
            inner.iter().try_for_each(|(folder, _)| chown(folder, Some(user), Some(user)))?;
            // The user may pass through, but cannot replace this program's own files.
            chown(path, None, Some(user))?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o710))?;
        }
        Ok(scratch)
    }

    /// Whether the last command in this folder has itself begun, as opposed to only the sandbox stages before it.
    pub fn has_started(&self) -> bool {
        fs::read(self.path.join(STARTED)).is_ok_and(|it| it == BEGUN)
    }

    /// Resets the record of a start. Must be called before another command is run in this folder.
    ///
    /// # Errors
    /// Returns the error of the write.
    pub fn forget_start(&self) -> io::Result<()> {
        fs::write(self.path.join(STARTED), NOT_BEGUN)
    }

    /// Path of the whole folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Path of the program's own folder.
    pub fn job(&self) -> PathBuf {
        self.path.join(JOB)
    }

    /// Whether [`Scratch::used`] is cheap: the kernel keeps the counts, so no walk through the files is needed.
    pub fn is_quick(&self) -> bool {
        self.is_mounted
    }

    /// Returns the number of files and bytes in the folder, including deleted files that `processes` have open.
    /// Returns `None` if there are too many files to count, or if they cannot be read.
    pub fn used(&self, processes: Option<&ProcessTree>) -> Option<(u64, u64)> {
        if self.is_mounted {
            let it = rustix::fs::statvfs(&self.path).ok()?;
            return Some((it.f_files - it.f_ffree, (it.f_blocks - it.f_bfree) * it.f_frsize));
        }
        let count = untrusted_dir::count(&self.path, FILES_MAX + SPARE_FILES)?;
        let device = fs::metadata(&self.path).ok()?.dev();
        let unlinked = processes.map_or(0, |tree| process_tree::unlinked_files(tree, device).device_bytes);
        Some((count.files, count.bytes + unlinked))
    }

    /// Returns the length of the longest file in bytes, including holes; `u64::MAX` if the files cannot be counted.
    pub fn longest(&self) -> u64 {
        untrusted_dir::count(&self.path, FILES_MAX + SPARE_FILES).map_or(u64::MAX, |count| count.longest)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.is_mounted {
            unmount(&self.path);
        }
        if let Err(e) = untrusted_dir::remove(&self.path) {
            log::warn!("cannot remove a job's folder path={} err={e}", self.path.display());
        }
    }
}

/// Mounts a tmpfs; returns `false` if the system refuses.
#[cfg(target_os = "linux")]
fn mount(path: &Path, files_mb: u64) -> bool {
    use rustix::mount::MountFlags;
    let options = format!("mode=0700,size={}m,nr_inodes={}", files_mb + SPARE_MB, FILES_MAX + SPARE_FILES);
    let options = std::ffi::CString::new(options).expect("numbers have no zero byte");
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    // The source names the folder, so that a leftover process can be attributed to its node (`leftovers.rs`).
    match rustix::mount::mount(path, path, "tmpfs", flags, options.as_c_str()) {
        Ok(()) => true,
        Err(e) => {
            log::debug!(
                "cannot mount a file system for a job, its files are counted instead path={} err={e}",
                path.display()
            );
            false
        }
    }
}

#[cfg(target_os = "linux")]
pub(super) fn unmount(path: &Path) {
    use rustix::mount::UnmountFlags;
    // Detached immediately, even if a process that is exiting still uses it.
    if let Err(e) = rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        log::warn!("cannot unmount a job's file system path={} err={e}", path.display());
    }
}

#[cfg(not(target_os = "linux"))]
fn mount(_: &Path, _: u64) -> bool {
    false
}

#[cfg(not(target_os = "linux"))]
pub(super) fn unmount(_: &Path) {}

/// Whether all users have search permission on the folders above this one.
pub fn is_passable(path: &Path) -> bool {
    path.ancestors().skip(1).all(|folder| fs::metadata(folder).is_ok_and(|it| it.mode() & 0o001 != 0))
}
