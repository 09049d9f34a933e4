//! The folder of one attempt: created, measured and removed; and the cleanup at start after a killed node process.
//!
//! If the node is root, each folder is a separate tmpfs as large as the attempt's limit: no program can use more, and
//! the kernel reports at once how much is used, including deleted files that are still open. If mounting is refused,
//! it is a plain folder and its files are counted.
//!
//! Invariants: S1 a mount is removed at the end of its attempt, or at the next start of its node. S2 programs left by a
//! killed node process are killed at the next start of the node.
//! Not here: walks through folders (`untrusted_dir.rs`), which folder is bound where (`sandbox.rs`).

use super::process_tree::{self, ProcessTree};
use super::{syscall_filter, untrusted_dir};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStringExt;
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
const MORE_MB: u64 = 16;
const MORE_FILES: u64 = 1000;
/// Parent of the attempts' folders if the users of the slots have no access to the node's own folder.
const RUN: &str = "/run/phalanx-jobs";
/// How often a folder that others remove meanwhile is created before that is an error.
const HOLD_TRIES: u32 = 100;
/// The wrapper programs around a command, by which leftover processes of a killed node are recognized.
const WRAPPERS: [&str; 8] = ["sh", "bash", "setpriv", "chrt", "nice", "timeout", "prlimit", "bwrap"];

/// The folder of one attempt.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    is_mounted: bool,
}

impl Scratch {
    /// Creates the folder with a capacity of `files_mb` MiB. `user` becomes the owner of the program's folders; `None`
    /// leaves them to the user of this process.
    ///
    /// # Errors
    /// Returns the error of the system call that failed, also if the folder exists already.
    pub fn make(path: &Path, user: Option<u32>, files_mb: u64) -> io::Result<Scratch> {
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
        let count = untrusted_dir::count(&self.path, FILES_MAX + MORE_FILES)?;
        let device = fs::metadata(&self.path).ok()?.dev();
        let unlinked = processes.map_or(0, |tree| process_tree::unlinked_files(tree, device).device_bytes);
        Some((count.files, count.bytes + unlinked))
    }

    /// Returns the length of the longest file in bytes, including holes; `u64::MAX` if the files cannot be counted.
    pub fn longest(&self) -> u64 {
        untrusted_dir::count(&self.path, FILES_MAX + MORE_FILES).map_or(u64::MAX, |count| count.longest)
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
    let options = format!("mode=0700,size={}m,nr_inodes={}", files_mb + MORE_MB, FILES_MAX + MORE_FILES);
    let options = std::ffi::CString::new(options).expect("numbers have no zero byte");
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    // The source names the folder, so that a leftover process can be attributed to its node (`end_leftovers`).
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
fn unmount(path: &Path) {
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
fn unmount(_: &Path) {}

/// Returns the folder in which a node creates the folders of its attempts: `own`, or, if the node is root and the users
/// of its slots have no access to it, the folder `name` below `/run`.
pub fn place(own: &Path, name: &str) -> PathBuf {
    let is_root = rustix::process::geteuid().is_root();
    // A relative path would resolve differently inside a sandbox.
    let own = std::path::absolute(own).unwrap_or_else(|_| own.to_path_buf());
    let other = Path::new(RUN).join(name);
    // `/run` is small, and may be mounted without permission to execute: it is used only if each attempt gets a
    // separate file system.
    let is_fit = || {
        let probe = other.join("probe");
        hold(&other).is_ok_and(|_held| Scratch::make(&probe, None, 1).is_ok_and(|probe| probe.is_mounted))
    };
    if !is_root || is_passable(&own) {
        return own;
    }
    if is_fit() {
        return other;
    }
    // Only the probe can have created it.
    let _ = fs::remove_dir(&other);
    own
}

/// Whether all users have search permission on the folders above this one.
pub fn is_passable(path: &Path) -> bool {
    path.ancestors().skip(1).all(|folder| fs::metadata(folder).is_ok_and(|it| it.mode() & 0o001 != 0))
}

/// Kills the processes and removes the mounts that a killed process of this node left below the folder of its attempts,
/// renames that folder, and creates it again. Returns the renamed folders; the caller removes them, which may take
/// long.
///
/// # Errors
/// Returns the system's error if the folder cannot be renamed, created again or listed.
pub fn clear(jobs: &Path) -> io::Result<Vec<PathBuf>> {
    // Another node that considers the folder abandoned removes whatever has this path; the lock protects the new
    // folder.
    let _held = if jobs.exists() { Some(hold(jobs)?) } else { None };
    end_leftovers(jobs);
    for path in mounted_below(jobs) {
        unmount(&path);
    }
    let name = jobs.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let old = |n: u32| jobs.with_file_name(format!("{name}.old-{n}"));
    if jobs.exists() {
        let free = (0..).map(old).find(|path| !path.exists()).expect("some number is free");
        fs::rename(jobs, free)?;
    }
    make(jobs)?;
    let prefix = format!("{name}.old-");
    let rows = fs::read_dir(jobs.parent().unwrap_or(Path::new("/")))?.flatten();
    Ok(rows.filter(|row| row.file_name().to_string_lossy().starts_with(&prefix)).map(|row| row.path()).collect())
}

/// Creates the folder of a node's attempts if it is missing. It is private to its owner, or, if the node is root and
/// the users of slots can reach it, searchable by all users. The parent below `/run` is shared by all nodes.
fn make(jobs: &Path) -> io::Result<()> {
    let is_root = rustix::process::geteuid().is_root();
    let above = jobs.parent().filter(|above| *above == Path::new(RUN));
    for folder in above.into_iter().chain([jobs]) {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        if is_root && is_passable(folder) {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o711))?;
        }
    }
    Ok(())
}

/// Locks the folder of a node's attempts, so that [`remove_abandoned`] of another node leaves it alone until the
/// returned file is dropped. Creates the folder if it is missing.
///
/// # Errors
/// Returns the system's error if the folder cannot be created, opened or locked.
pub fn hold(jobs: &Path) -> io::Result<fs::File> {
    let mut tries = 0;
    loop {
        tries += 1;
        // Another node that starts may remove it, or its empty parent, before it is locked.
        match make(jobs).and_then(|()| fs::File::open(jobs)) {
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::AlreadyExists) && tries < HOLD_TRIES => {}
            Err(e) => return Err(e),
            Ok(folder) => {
                fs2::FileExt::lock_shared(&folder)?;
                if is_at(&folder, jobs) {
                    return Ok(folder);
                }
            }
        }
    }
}

/// Whether a path still leads to the folder that was opened.
fn is_at(folder: &fs::File, path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|it| folder.metadata().is_ok_and(|held| held.ino() == it.ino()))
}

/// Removes the folders below `/run` that no running node has locked. A node that was killed cannot remove its own
/// folder, and may never be started again.
pub fn remove_abandoned() {
    remove_abandoned_below(Path::new(RUN));
}

/// Whether the path is a folder, not a link, owned by the user of this process. Other users' folders are not removed.
fn is_own_folder(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|it| it.is_dir() && it.uid() == rustix::process::geteuid().as_raw())
}

pub(crate) fn remove_abandoned_below(run: &Path) {
    if !is_own_folder(run) {
        return;
    }
    let rows = fs::read_dir(run).into_iter().flatten().flatten().map(|row| row.path());
    for path in rows.filter(|path| is_own_folder(path)) {
        let Ok(folder) = fs::File::open(&path) else { continue };
        // Another node may have removed the folder after it was opened here, and its owner have made another one.
        if fs2::FileExt::try_lock_exclusive(&folder).is_ok() && is_at(&folder, &path) {
            unmount_below(&path);
            remove_old(&path);
        }
    }
    // Fails if other folders are in it, or if it does not exist.
    let _ = fs::remove_dir(run);
}

/// Removes one of the folders that [`clear`] returned, and logs a failure.
pub fn remove_old(path: &Path) {
    if let Err(e) = untrusted_dir::remove(path) {
        log::warn!("cannot remove folders of old jobs path={} err={e}", path.display());
    }
}

/// Kills the wrapper programs of commands in folders below this one, and every process of a sandbox with such a folder:
/// a program can keep the first process of its sandbox from ending with the wrappers. Processes without a sandbox are
/// recognized by the value of `HOME` in their environment.
fn end_leftovers(jobs: &Path) {
    let below = format!("{}/", jobs.display());
    let own = fs::read_link("/proc/self/ns/mnt").ok();
    process_tree::kill_all(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        let program = line.split('\0').next().and_then(|word| word.rsplit('/').next()).unwrap_or_default();
        let is_wrapper = WRAPPERS.contains(&program) && line.contains(&below);
        let is_sandboxed = || {
            let other = fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
            let table = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
            other.is_some() && other != own && table.lines().any(|line| is_mounted_from(line, jobs))
        };
        let has_home = || process_tree::has_home(pid, |home| home != jobs && home.starts_with(jobs));
        is_wrapper || is_sandboxed() || has_home()
    });
}

/// Whether a line of `mountinfo` belongs to the sandbox of a command with a folder below this one. Either the folder's
/// file system was mounted there, or the folder is part of a larger file system, whose mount point the line does not
/// contain. The line must have the sandbox's [`HOME`] as its mount point: other processes with their own mount
/// namespace, such as a service or a sandbox that is being set up, also have a copy of the mount itself.
pub(crate) fn is_mounted_from(line: &str, jobs: &Path) -> bool {
    let (place, source) = line.split_once(" - ").unwrap_or((line, ""));
    let mut fields = place.split(' ').skip(3).map(unescaped);
    let (Some(part), Some(point)) = (fields.next(), fields.next()) else { return false };
    let source = source.split(' ').nth(1).map(unescaped);
    let jobs_of_part =
        part.strip_prefix("/").ok().and_then(|part| part.parent()?.parent()).filter(|_| part.ends_with(JOB));
    point == Path::new(HOME)
        && (source.is_some_and(|source| source.starts_with(jobs) && source != jobs)
            || jobs_of_part.is_some_and(|part| !part.as_os_str().is_empty() && jobs.ends_with(part)))
}

/// Unmounts the file systems that killed nodes left below a folder. Otherwise they would stay until such a node starts
/// again.
pub fn unmount_below(folder: &Path) {
    mounted_below(folder).iter().for_each(|path| unmount(path));
}

/// Mounts below a folder, the deepest first.
fn mounted_below(folder: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let places = table.lines().filter_map(|line| line.split(' ').nth(4)).map(unescaped);
    let mut below: Vec<PathBuf> = places.filter(|path| path != folder && path.starts_with(folder)).collect();
    below.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
    below
}

/// Decodes a path of the system's mount table, where a space is written as `\040`.
fn unescaped(text: &str) -> PathBuf {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((byte, after)) = rest.split_first() {
        let number = rest.get(1..4).and_then(|octal| u8::from_str_radix(std::str::from_utf8(octal).ok()?, 8).ok());
        match number.filter(|_| *byte == b'\\') {
            Some(number) => (bytes.push(number), rest = &rest[4..]),
            None => (bytes.push(*byte), rest = after),
        };
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}
