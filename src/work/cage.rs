//! A cage for one command: it sees a few folders of the system, its own scratch folder and nothing else, and reaches nobody.
//!
//! bubblewrap gives it namespaces of its own (files, processes, network, host name, and users where this program is not
//! root), `prlimit` bounds what each of its processes may use. As root the command runs under a user number of its own, for
//! root's processes are not counted against limits. All its processes end when the outermost is killed.
//! Not here: watching it (`run.rs`).

use super::WorkError;
use super::runtimes::SYSTEM_PATH;
use crate::settings::CageKind;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where the command finds its scratch folder.
pub const HOME: &str = "/job";
/// Folders of the system that each command may read, where they are.
const SYSTEM: [&str; 12] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/etc/alternatives",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/ssl/openssl.cnf",
];
/// Folders below `/etc` with this at the beginning of their name belong to Java, whose own folder has links to them.
const JAVA: &str = "java";
/// Room in `/tmp`, in bytes; it is memory.
const TMP_BYTES: u64 = 16 << 20;
/// Open files of each process.
const FILES: u64 = 256;
/// First of the user numbers that are used as root: one for each slot of each node, below those of containers.
const USERS: u32 = 60_000;
/// How many there are.
const USERS_COUNT: u32 = 5_000;

/// `O_CLOEXEC`, as `/proc` shows it.
const CLOSE_ON_EXEC: u64 = 0o2_000_000;

/// What one process of the command may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Seconds of processor time; at one more it is killed.
    pub cpu_s: u64,
    /// Bytes of address space.
    pub space: u64,
    /// Bytes of the largest file.
    pub file: u64,
    /// Processes and threads of the command's user.
    pub processes: u64,
}

/// A way to shut commands in that works on this machine.
#[derive(Clone, Debug)]
pub struct Cage {
    kind: CageKind,
    is_root: bool,
    /// Descriptors that this program was started with, besides the first three: whoever started it forgot to close them.
    inherited: Vec<u32>,
}

impl Cage {
    /// Tries it out.
    ///
    /// # Errors
    /// [`WorkError::NoCage`] with the reason and what to do.
    pub fn try_out(kind: CageKind) -> Result<Cage, WorkError> {
        let cage = Cage { kind, is_root: rustix::process::geteuid().is_root(), inherited: inherited() };
        let scratch = std::env::temp_dir();
        let bounds = Bounds { cpu_s: 5, space: 1 << 30, file: 1 << 20, processes: 16 };
        let mut command = cage.command(&["true".to_string()], &scratch, &[], 0, &bounds);
        let output = command.stdin(Stdio::null()).output();
        let cure = "install bubblewrap (Debian: apt-get install bubblewrap), let users make namespaces (sysctl \
                    kernel.unprivileged_userns_clone=1), or set jobs_cage to \"limits\" where every client is trusted";
        match output {
            Ok(output) if output.status.success() => Ok(cage),
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr).trim().to_string();
                Err(WorkError::NoCage { why: format!("{said}; {cure}") })
            }
            Err(e) => Err(WorkError::NoCage { why: format!("bwrap and prlimit cannot be started: {e}; {cure}") }),
        }
    }

    /// How.
    pub fn kind(&self) -> CageKind {
        self.kind
    }

    /// The user that a command in this slot runs as, if that is another than this program's; it must own the scratch folder.
    pub fn user(&self, slot: u32) -> Option<u32> {
        (self.is_root && self.kind == CageKind::Full).then(|| USERS + slot % USERS_COUNT)
    }

    /// A command that runs `words` in the cage, with `scratch` as its folder and these folders to read besides the system's.
    pub fn command(
        &self,
        words: &[String],
        scratch: &Path,
        folders: &[PathBuf],
        slot: u32,
        bounds: &Bounds,
    ) -> Command {
        let path = match folders.first() {
            Some(home) => format!("{}/bin:{SYSTEM_PATH}", home.display()),
            None => SYSTEM_PATH.to_string(),
        };
        let mut line = Vec::new();
        if !self.inherited.is_empty() {
            let closed: String = self.inherited.iter().map(|fd| format!(" {fd}>&-")).collect();
            line.extend([
                "bash".into(),
                "-c".into(),
                format!("exec{closed}; exec env -u PWD -u OLDPWD -u SHLVL -u _ \"$@\""),
                "cage".into(),
            ]);
        }
        match self.kind {
            CageKind::Full => line.extend(self.walls(scratch, folders, &path)),
            // As bubblewrap does: when the thread that waits for it is gone, it goes.
            CageKind::Limits => line.extend(["setpriv".into(), "--pdeathsig".into(), "KILL".into()]),
        }
        if let Some(user) = self.user(slot) {
            line.extend([
                "setpriv".into(),
                format!("--reuid={user}"),
                format!("--regid={user}"),
                "--clear-groups".into(),
            ]);
            line.extend(["--no-new-privs".into(), "--inh-caps=-all".into()]);
        }
        line.push("prlimit".into());
        line.extend([format!("--cpu={}:{}", bounds.cpu_s, bounds.cpu_s + 1), format!("--as={}", bounds.space)]);
        line.extend([format!("--fsize={}", bounds.file), format!("--nproc={}", bounds.processes)]);
        line.extend([format!("--nofile={FILES}"), "--core=0".into(), "--".into()]);
        line.extend_from_slice(words);
        let mut command = Command::new(&line[0]);
        command.args(&line[1..]).env_clear().env("PATH", path);
        if self.kind == CageKind::Limits {
            command.current_dir(scratch).env("HOME", scratch).env("TMPDIR", scratch).env("LANG", "C.UTF-8");
        }
        command
    }

    fn walls(&self, scratch: &Path, folders: &[PathBuf], path: &str) -> Vec<String> {
        let mut line: Vec<String> = vec!["bwrap".into()];
        let mut add = |words: &[&str]| line.extend(words.iter().map(|word| word.to_string()));
        add(&["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]);
        match self.is_root {
            // `setpriv` gives both up before the command begins.
            true => add(&["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]),
            false => add(&["--unshare-user", "--disable-userns"]),
        }
        add(&["--die-with-parent", "--new-session", "--hostname", "job"]);
        let given = folders.iter().map(|folder| folder.to_string_lossy().into_owned());
        let shown: Vec<String> = SYSTEM.map(str::to_string).into_iter().chain(java_folders()).chain(given).collect();
        // bubblewrap would make the folders above them for root alone.
        let above = |path: &String| Path::new(path).ancestors().skip(1).map(Path::to_path_buf).collect::<Vec<_>>();
        let above: BTreeSet<PathBuf> = shown.iter().flat_map(above).filter(|path| path != Path::new("/")).collect();
        for folder in above.iter().filter(|folder| !shown.iter().any(|path| folder.starts_with(path))) {
            add(&["--perms", "0755", "--dir", &folder.to_string_lossy()]);
        }
        for path in &shown {
            add(&["--ro-bind-try", path, path]);
        }
        add(&[
            "--proc",
            "/proc",
            "--dev",
            "/dev",
            "--perms",
            "1777",
            "--size",
            &TMP_BYTES.to_string(),
            "--tmpfs",
            "/tmp",
        ]);
        add(&["--bind", &scratch.to_string_lossy(), HOME, "--chdir", HOME, "--clearenv"]);
        add(&["--setenv", "PATH", path, "--setenv", "HOME", HOME, "--setenv", "LANG", "C.UTF-8"]);
        add(&["--remount-ro", "/", "--"]);
        line
    }
}

fn java_folders() -> Vec<String> {
    let names =
        std::fs::read_dir("/etc").into_iter().flatten().flatten().filter_map(|row| row.file_name().into_string().ok());
    names.filter(|name| name.starts_with(JAVA)).map(|name| format!("/etc/{name}")).collect()
}

/// Open descriptors that a started program would have as well.
fn inherited() -> Vec<u32> {
    let rows = std::fs::read_dir("/proc/self/fdinfo").into_iter().flatten().flatten();
    let numbers = rows.filter_map(|row| row.file_name().to_str()?.parse::<u32>().ok());
    let is_passed_on = |fd: &u32| {
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap_or_default();
        let flags = info.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("flags:")?.trim(), 8).ok());
        flags.is_some_and(|flags| flags & CLOSE_ON_EXEC == 0)
    };
    numbers.filter(|fd| *fd > 2).filter(is_passed_on).collect()
}
