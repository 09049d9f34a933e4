//! The folder of one attempt: made, measured and removed; and what is done at start about those of a killed process.
//!
//! As root each is a file system of its own in memory, as large as the attempt may make it: nothing that a program does can
//! take more, and the system itself knows at once what is used, also by files that have no name any more. Where mounting is
//! refused it is a plain folder, whose files are counted.
//!
//! Invariants: S1 a mount ends with its attempt, or at the next start of its node. S2 no program of a killed process of this
//! node outlives the next start.
//! Not here: walks through folders (`untrusted_dir.rs`), what is bound to where (`sandbox.rs`).

use super::process_tree::{self, Family};
use super::{syscall_filter, untrusted_dir};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

/// Where the command finds its scratch folder.
pub const HOME: &str = "/job";
/// The program's own folder, in the attempt's.
pub const JOB: &str = "job";
/// Its `/tmp`.
pub const TMP: &str = "tmp";
/// Its `/dev/shm`.
pub const SHM: &str = "shm";
/// What bubblewrap reads the filter of system calls from; the program does not see it.
pub const FILTER: &str = "filter";
/// Holds [`BEGUN`] from the last stage before the program on, and is as large before; the program does not see it.
pub const STARTED: &str = "started";
const BEGUN: &[u8] = b"\n";
const NOT_BEGUN: &[u8] = b"-";
/// Files and folders that may lie about.
pub const FILES_MAX: u64 = 10_000;
/// Room beyond the limits, so that who reaches one is told so, and not that the disk is full.
const MORE_MB: u64 = 16;
const MORE_FILES: u64 = 1000;
/// Where attempts have their folders if the node's own cannot be reached by the users of its slots.
const RUN: &str = "/run/phalanx-jobs";
/// The programs around a command, by which those of a killed process are known.
const WALLS: [&str; 8] = ["sh", "bash", "setpriv", "chrt", "nice", "timeout", "prlimit", "bwrap"];

/// The folder of one attempt.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    is_mounted: bool,
}

impl Scratch {
    /// Makes it, with room for so many MiB, for a user if that is another than this program's.
    ///
    /// # Errors
    /// What the system says, also that there is such a folder.
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
            // It may pass through, and put nothing in the place of what is this program's own.
            chown(path, None, Some(user))?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o710))?;
        }
        Ok(scratch)
    }

    /// Whether the command that was run in it last has begun, beyond all that is done before it.
    pub fn has_started(&self) -> bool {
        fs::read(self.path.join(STARTED)).is_ok_and(|it| it == BEGUN)
    }

    /// Another command is to be run in it.
    ///
    /// # Errors
    /// What the system says.
    pub fn forget_start(&self) -> io::Result<()> {
        fs::write(self.path.join(STARTED), NOT_BEGUN)
    }

    /// The whole of it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the program has its files.
    pub fn job(&self) -> PathBuf {
        self.path.join(JOB)
    }

    /// Whether [`Scratch::used`] costs next to nothing.
    pub fn is_quick(&self) -> bool {
        self.is_mounted
    }

    /// Files and bytes in it, those without names included as far as these processes have them open. `None`: too
    /// many to count.
    pub fn used(&self, processes: Option<&Family>) -> Option<(u64, u64)> {
        if self.is_mounted {
            let it = rustix::fs::statvfs(&self.path).ok()?;
            return Some((it.f_files - it.f_ffree, (it.f_blocks - it.f_bfree) * it.f_frsize));
        }
        let count = untrusted_dir::count(&self.path, FILES_MAX + MORE_FILES)?;
        let device = fs::metadata(&self.path).ok()?.dev();
        let nameless = processes.map_or(0, |family| process_tree::nameless(family, device).on_device);
        Some((count.files, count.bytes + nameless))
    }

    /// Bytes of the longest file, holes included.
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

/// `false`: it was refused.
#[cfg(target_os = "linux")]
fn mount(path: &Path, files_mb: u64) -> bool {
    use rustix::mount::MountFlags;
    let options = format!("mode=0700,size={}m,nr_inodes={}", files_mb + MORE_MB, FILES_MAX + MORE_FILES);
    let options = std::ffi::CString::new(options).expect("numbers have no zero byte");
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    // Its source tells whose it is, to who looks at a process that is left (`end_leftovers`).
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
    // Now, whoever still dies in it.
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

/// Where a node has the folders of its attempts: in its own, or if it is root's and closed to the users of its slots, in one
/// of this name where they may pass.
pub fn place(own: &Path, name: &str) -> PathBuf {
    let is_root = rustix::process::geteuid().is_root();
    // A relative one means nothing to a sandbox, whose folders are others.
    let own = std::path::absolute(own).unwrap_or_else(|_| own.to_path_buf());
    let other = Path::new(RUN).join(name);
    // `/run` has little room, and may forbid to run what lies there: only where each attempt gets a file system of its own.
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
    // It was made for the look, if at all.
    let _ = fs::remove_dir(&other);
    own
}

/// Whether all users may pass through the folders above this one.
pub fn is_passable(path: &Path) -> bool {
    path.ancestors().skip(1).all(|folder| fs::metadata(folder).is_ok_and(|it| it.mode() & 0o001 != 0))
}

/// Ends what a killed process of this node left below the folder of its attempts, and moves the rest out of the way: gives
/// the folders that are to be removed, which may take long.
///
/// # Errors
/// When the folder cannot be created again.
pub fn clear(jobs: &Path) -> io::Result<Vec<PathBuf>> {
    // Another node that has found it abandoned removes whatever has its name: not the new one in its place.
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

/// Makes the folder of a node's attempts, if it is not there: for its owner alone, and as root's, where the users of slots reach
/// it, for them to pass through. The folder above, below `/run`, is the same for all nodes.
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

/// Keeps the folder of a node's attempts, which [`clear`] has made, from [`remove_abandoned`] as long as this lives.
///
/// # Errors
/// What the system says.
pub fn hold(jobs: &Path) -> io::Result<fs::File> {
    loop {
        make(jobs)?;
        let folder = fs::File::open(jobs)?;
        fs2::FileExt::lock_shared(&folder)?;
        // Another node that starts may have removed it before.
        if fs::metadata(jobs).is_ok_and(|it| folder.metadata().is_ok_and(|held| held.ino() == it.ino())) {
            return Ok(folder);
        }
    }
}

/// Removes the folders below `/run` of nodes that are gone and did not do so themselves: they may never be started
/// again.
pub fn remove_abandoned() {
    remove_abandoned_below(Path::new(RUN));
}

/// Whether this program's user owns it, and not a link of that name: others care for their own.
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
        if fs2::FileExt::try_lock_exclusive(&folder).is_ok() {
            unmount_below(&path);
            remove_old(&path);
        }
    }
    // Others are there, or it never was.
    let _ = fs::remove_dir(run);
}

/// Removes one of the folders that [`clear`] gave, and says if it cannot.
pub fn remove_old(path: &Path) {
    if let Err(e) = untrusted_dir::remove(path) {
        log::warn!("cannot remove folders of old jobs path={} err={e}", path.display());
    }
}

/// Kills the walls around commands in folders below this one, and whoever has such a folder mounted as its own: a program may
/// have seen to it that the first process of its sandbox outlives the walls. What had no walls is known by its home.
fn end_leftovers(jobs: &Path) {
    let below = format!("{}/", jobs.display());
    let own = fs::read_link("/proc/self/ns/mnt").ok();
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in pids.filter_map(|row| row.file_name().to_str()?.parse::<i32>().ok()) {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        let program = line.split('\0').next().and_then(|word| word.rsplit('/').next()).unwrap_or_default();
        let is_wall = WALLS.contains(&program) && line.contains(&below);
        let is_sandboxed = || {
            let other = fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
            let table = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
            other.is_some() && other != own && table.lines().any(|line| is_mounted_from(line, jobs))
        };
        if (is_wall || is_sandboxed())
            && let Some(pid) = rustix::process::Pid::from_raw(pid)
        {
            // It has ended by itself meanwhile.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
    process_tree::end_at_home(|home| home != jobs && home.starts_with(jobs));
}

/// Whether a line of a table of mounts tells of a sandbox whose command has its folder below this one: its file system
/// was mounted there, or it is a part of another, whose own place above it the line does not tell. Only where a sandbox
/// shows the folder it counts: whoever has mounts of its own, a service or a sandbox that is being built, has a copy of
/// the mount itself as well.
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

/// Unmounts what jobs of killed nodes have left below a folder: only the next start of such a node would.
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

/// A path of the system's table of mounts, where a space is `\040`.
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
