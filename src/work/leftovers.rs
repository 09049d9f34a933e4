//! The folder in which a node creates the folders of its attempts, and the cleanup of what a killed node process left.
//!
//! A node that runs locks its folder (`hold`). At its start it kills the programs, removes the mounts and renames the
//! folder that an earlier process left. Below `/run`, every start and stop of a node also removes the folders that no
//! node has locked: a node that was killed may never be started again.
//!
//! Invariant: S2 programs left by a killed node process are killed at the next start of the node.
//! Not here: the folder of one attempt (`scratch.rs`), removal of files (`untrusted_dir.rs`).

use super::scratch::{HOME, JOB, Scratch, is_passable, unmount};
use super::{process_tree, untrusted_dir};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Parent of the attempts' folders if the users of the slots have no access to the node's own folder.
const SHARED_JOBS_DIR: &str = "/run/phalanx-jobs";
/// How often a folder that others remove meanwhile is created before that is an error.
const HOLD_TRIES: u32 = 100;
/// The wrapper programs around a command, by which leftover processes of a killed node are recognized.
const WRAPPERS: [&str; 8] = ["sh", "bash", "setpriv", "chrt", "nice", "timeout", "prlimit", "bwrap"];

/// Returns the folder in which a node creates the folders of its attempts: `own`, or, if the node is root and the users
/// of its slots have no access to it, the folder `name` below `/run`.
pub fn jobs_dir(own: &Path, name: &str) -> PathBuf {
    let is_root = rustix::process::geteuid().is_root();
    // A relative path would resolve differently inside a sandbox.
    let own = std::path::absolute(own).unwrap_or_else(|_| own.to_path_buf());
    let other = Path::new(SHARED_JOBS_DIR).join(name);
    // `/run` is small, and may be mounted without permission to execute: it is used only if each attempt gets a
    // separate file system.
    let is_fit = || {
        let probe = other.join("probe");
        hold(&other).is_ok_and(|_held| Scratch::create(&probe, None, 1).is_ok_and(|probe| probe.is_mounted))
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

/// Kills the processes and removes the mounts that a killed process of this node left below the folder of its attempts,
/// renames that folder, and creates it again. Returns the renamed folders; the caller removes them, which may take
/// long.
///
/// # Errors
/// Returns the system's error if the folder cannot be renamed, created again or listed.
pub fn reset_jobs_dir(jobs: &Path) -> io::Result<Vec<PathBuf>> {
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
    create_jobs_dir(jobs)?;
    let prefix = format!("{name}.old-");
    let rows = fs::read_dir(jobs.parent().unwrap_or(Path::new("/")))?.flatten();
    Ok(rows.filter(|row| row.file_name().to_string_lossy().starts_with(&prefix)).map(|row| row.path()).collect())
}

/// Creates the folder of a node's attempts if it is missing. It is private to its owner, or, if the node is root and
/// the users of slots can reach it, searchable by all users. The parent below `/run` is shared by all nodes.
fn create_jobs_dir(jobs: &Path) -> io::Result<()> {
    let is_root = rustix::process::geteuid().is_root();
    let above = jobs.parent().filter(|above| *above == Path::new(SHARED_JOBS_DIR));
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
        match create_jobs_dir(jobs).and_then(|()| fs::File::open(jobs)) {
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
    remove_abandoned_below(Path::new(SHARED_JOBS_DIR));
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

/// Removes one of the folders that [`reset_jobs_dir`] returned, and logs a failure.
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
