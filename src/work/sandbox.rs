//! A sandbox for one command: it sees a few system folders and its own scratch folder, and has no network.
//!
//! bubblewrap gives it separate namespaces (files, processes, network, host name, users) and a system call filter;
//! `prlimit` limits what each of its processes may use. If the node runs as root, the commands of each slot run as a
//! separate user, because the kernel does not count root's processes against limits; bubblewrap itself runs as that
//! user, so that no job can create namespaces within its sandbox and mount a tmpfs there. Only for folders that this
//! user cannot reach (a toolchain below `/root`) root sets up the sandbox, and then a job can.
//!
//! Limits are set inside the sandbox, where bubblewrap has created a user namespace: since Linux 5.14 the kernel counts
//! `RLIMIT_NPROC` separately in each user namespace, so it counts the job's processes alone, whatever else the same
//! user runs. Where it would also count the user's other processes it is not set ([`ProcessLimit::Watched`]).
//!
//! The last stage before the command is a shell inside the complete sandbox. It writes a byte to a file that the
//! command does not have open: without that byte the command has never begun ([`Scratch::has_started`]), whatever exit
//! code or output was returned.
//!
//! All processes end when the outermost process is killed or the thread that started it ends. A thread may end before
//! the parent-death signal is set up, and a frozen node kills no process: so there is `timeout` around the whole
//! command, and `leftovers::reset_jobs_dir` at the next start. Without that, a process may stay forever: if
//! bubblewrap's outer process is killed before it has written the user mappings, the inner one waits for them without
//! end (`child_wait_fd` in bubblewrap.c).
//! Not here: watching the command (`run.rs`), the folder (`scratch.rs`).

use super::WorkError;
use super::advice;
use super::runtimes::SYSTEM_PATH;
use super::scratch::{self, FILTER, HOME, JOB, SHM, STARTED, Scratch, TMP};
use super::syscall_filter;
use crate::settings::SandboxKind;
use crate::types::ProcessLimit;
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

/// System folders that every command may read, where they exist.
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
/// Prefix of the folders below `/etc` that belong to Java: its own folder has links to them.
const JAVA: &str = "java";
/// Seconds after its time limit at which a command is killed even if no node monitors it.
const ORPHAN_S: u64 = 5;
/// Levels of wrapper processes around a command in [`SandboxKind::Full`]: `timeout` and the outer bubblewrap. The inner
/// bubblewrap process is counted with the command, because the command could make it do work.
pub const LEVELS_FULL: usize = 2;
/// Levels of wrapper processes around a command in [`SandboxKind::Limits`]: `timeout`.
pub const LEVELS_LIMITS: usize = 1;
/// Added to the `nice` value of the command, so that nodes, which must hold elections, and the thread that monitors the
/// command run first. At the same value, a fork bomb of 300 processes lets the monitoring thread run once a second.
const NICE: &str = "10";
/// Maximum number of open files of each process.
const FILES: u64 = 256;
/// First of the user ids that commands get when the node is root: one for each slot, below the usual id ranges of
/// containers.
const USERS: u32 = 60_000;
/// Number of these user ids.
const USERS_COUNT: u32 = 5_000;

/// Descriptor from which bubblewrap reads the system call filter.
const FILTER_FD: &str = "9";
/// Descriptor to which the last stage reports that the command begins.
const STARTED_FD: &str = "8";
/// First Linux version that counts the processes of each user namespace separately.
const COUNTS_BY_NAMESPACE: (u32, u32) = (5, 14);

/// `O_CLOEXEC`, as `/proc` shows it.
const CLOSE_ON_EXEC: u64 = 0o2_000_000;

/// Limits of one command. `cpu_s`, `data` and `file` apply to each of its processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SandboxLimits {
    /// Wall-clock time of the whole command in seconds; `timeout` kills it [`ORPHAN_S`] later.
    pub wall_s: u64,
    /// Processor time in seconds; one second later the process is killed.
    pub cpu_s: u64,
    /// Writable memory in bytes, used or not (`RLIMIT_DATA`). Address space that is only reserved, such as the ten
    /// gigabytes of a WebAssembly memory, does not count.
    pub data: u64,
    /// Maximum file length in bytes.
    pub file: u64,
    /// Maximum number of processes and threads of the job.
    pub processes: u64,
}

/// A kind of sandbox that was tested on this machine.
#[derive(Clone, Debug)]
pub struct Sandbox {
    kind: SandboxKind,
    is_root: bool,
    /// The users of root's slots can set up their sandboxes themselves, or, without a full sandbox, reach their
    /// folders.
    is_by_user: bool,
    /// Whether the kernel or only the monitoring thread limits the number of a job's processes.
    process_limit: ProcessLimit,
    /// Java's folders below `/etc`.
    java: Vec<String>,
    /// Descriptors above 2 that this process inherited and that a started program would inherit, too.
    inherited: Vec<u32>,
}

impl Sandbox {
    /// Tests the sandbox in a folder like those of attempts, below `jobs`, because it may work elsewhere and not there.
    ///
    /// # Errors
    /// Returns [`WorkError::NoSandbox`] with the reason and what to do.
    pub fn try_out(kind: SandboxKind, jobs: &Path) -> Result<Sandbox, WorkError> {
        let is_root = rustix::process::geteuid().is_root();
        let process_limit = ProcessLimit::Watched;
        let mut sandbox =
            Sandbox { kind, is_root, is_by_user: is_root, process_limit, java: java_folders(), inherited: inherited() };
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        sandbox.process_limit = sandbox.process_limit_on(&release);
        if is_root && sandbox.try_once(jobs).is_ok() {
            return Ok(sandbox);
        }
        sandbox.is_by_user = false;
        sandbox.process_limit = sandbox.process_limit_on(&release);
        sandbox.try_once(jobs).map(|()| sandbox)
    }

    fn try_once(&self, jobs: &Path) -> Result<(), WorkError> {
        let slot = std::process::id();
        let bounds = SandboxLimits { wall_s: 10, cpu_s: 5, data: 1 << 30, file: 1 << 20, processes: 64 };
        let missing: Vec<&str> = self.programs().filter(|program| !on_path(program).is_file()).collect();
        if !missing.is_empty() {
            return Err(WorkError::NoSandbox { why: advice::of_missing(&missing) });
        }
        if let Some(why) = self.user(slot).and_then(|_| advice::of_users(USERS..USERS + USERS_COUNT)) {
            return Err(WorkError::NoSandbox { why });
        }
        let path = jobs.join(format!("phalanx-sandbox-{slot}-{}", fastrand::u64(..)));
        let scratch = Scratch::create(&path, self.user(slot), 1).map_err(|e| WorkError::NoSandbox {
            why: match self.user(slot) {
                Some(user) => format!(
                    "cannot create a folder for user {user} below {}: {e}; root needs the capability CAP_CHOWN there",
                    jobs.display()
                ),
                None => format!(
                    "cannot create a folder below {}: {e}; make it writable for the user of this node",
                    jobs.display()
                ),
            },
        })?;
        let mut command = self.command(&["true".to_string()], scratch.path(), &[], slot, &bounds);
        let output = command.stdin(Stdio::null()).output();
        let closed = match self.user(slot).is_some() && !scratch::is_passable(&path) {
            true => format!("make the folders above {} passable for the users of jobs (chmod o+x), ", jobs.display()),
            false => String::new(),
        };
        let advice = |said: &str| format!("{closed}{}", advice::of_failed_start(said));
        match output {
            Ok(output) if output.status.success() && scratch.has_started() => Ok(()),
            Ok(output) => {
                let why = how_it_ended(output.status, String::from_utf8_lossy(&output.stderr).trim());
                let advice = advice(&why);
                Err(WorkError::NoSandbox { why: format!("{why}; {advice}") })
            }
            Err(e) => {
                let advice = advice(&e.to_string());
                Err(WorkError::NoSandbox { why: format!("no command can be started: {e}; {advice}") })
            }
        }
    }

    /// The wrapper programs around a command, except the shell.
    fn programs(&self) -> impl Iterator<Item = &'static str> {
        let bubblewrap = (self.kind == SandboxKind::Full).then_some("bwrap");
        ["setpriv", "nice", "timeout", "prlimit"].into_iter().chain(bubblewrap)
    }

    /// Returns the kind of isolation.
    pub fn kind(&self) -> SandboxKind {
        self.kind
    }

    /// Returns the user that a command in this slot runs as, `None` if it is the user of this process. The user must
    /// own the scratch folder.
    pub fn user(&self, slot: u32) -> Option<u32> {
        (self.is_root && (self.kind == SandboxKind::Full || self.is_by_user)).then(|| USERS + slot % USERS_COUNT)
    }

    /// Whether the kernel or only the monitoring thread limits the number of a job's processes.
    pub fn process_limit(&self) -> ProcessLimit {
        self.process_limit
    }

    fn process_limit_on(&self, release: &str) -> ProcessLimit {
        let has_own_user = self.user(0).is_some();
        let has_own_namespace = self.kind == SandboxKind::Full && version(release) >= COUNTS_BY_NAMESPACE;
        if has_own_user || has_own_namespace { ProcessLimit::Kernel } else { ProcessLimit::Watched }
    }

    /// Returns the number of levels of wrapper processes around the command.
    pub fn levels(&self) -> usize {
        if self.kind == SandboxKind::Full { LEVELS_FULL } else { LEVELS_LIMITS }
    }

    /// Returns how many of the processes below the wrapper levels belong to the sandbox itself.
    pub fn own_processes(&self) -> usize {
        usize::from(self.kind == SandboxKind::Full)
    }

    /// Whether the user of a slot, not root, sets up the sandbox of a command that reads these folders.
    pub fn is_by_user(&self, scratch: &Path, folders: &[PathBuf]) -> bool {
        let is_open = |folder: &PathBuf| {
            scratch::is_passable(folder) && std::fs::metadata(folder).is_ok_and(|it| it.mode() & 0o005 == 0o005)
        };
        self.is_by_user && scratch::is_passable(scratch) && folders.iter().all(is_open)
    }

    /// Returns a command that runs `words` in the sandbox, with `scratch` as its folder and read access to `folders`
    /// besides the system folders. `folders[0]` is the toolchain, whose `bin` comes first in `PATH`.
    pub fn command(
        &self,
        words: &[String],
        scratch: &Path,
        folders: &[PathBuf],
        slot: u32,
        bounds: &SandboxLimits,
    ) -> Command {
        let path = match folders.first() {
            Some(home) => format!("{}/bin:{SYSTEM_PATH}", home.display()),
            None => SYSTEM_PATH.to_string(),
        };
        let user = self.user(slot);
        let is_by_user = user.is_some() && self.is_by_user(scratch, folders);
        let mut line = self.shell_prefix(scratch);
        // As bubblewrap does: the process is killed when the thread that started it ends.
        line.extend(["setpriv", "--pdeathsig", "KILL"].map(String::from));
        line.extend(
            user.filter(|_| is_by_user && self.kind == SandboxKind::Full).into_iter().flat_map(user_switch_args),
        );
        if self.is_root && self.kind == SandboxKind::Limits && !is_by_user {
            // The kernel does not limit the number of root's processes: the monitoring thread must be scheduled before
            // a fork bomb.
            line.extend(["chrt", "-i", "0"].map(String::from));
        }
        line.extend(["nice", "-n", NICE].map(String::from));
        line.extend(["timeout".into(), "-s".into(), "KILL".into(), (bounds.wall_s + ORPHAN_S).to_string()]);
        if self.kind == SandboxKind::Full {
            line.extend(self.bubblewrap(scratch, folders, &path, user.is_some() && !is_by_user));
        }
        line.extend(self.limits(bounds));
        match self.kind {
            SandboxKind::Full => {
                if let Some(user) = user.filter(|_| !is_by_user) {
                    line.push("setpriv".into());
                    line.extend(user_switch_args(user));
                    line.push("--no-new-privs".into());
                }
            }
            // The kernel counts processes only for users other than root, but a toolchain that only root can read
            // needs root.
            SandboxKind::Limits => {
                line.push("setpriv".into());
                line.extend(user.filter(|_| is_by_user).into_iter().flat_map(user_switch_args));
                line.extend(["--pdeathsig", "KILL"].map(String::from));
            }
        }
        line.extend(self.last_stage());
        line.extend_from_slice(words);
        // With an absolute path, `Command` can use `posix_spawn` instead of forking this process.
        let mut command = Command::new(on_path(&line[0]));
        command.args(&line[1..]).env_clear().env("PATH", path);
        if self.kind == SandboxKind::Limits {
            let job = scratch.join(JOB);
            command.current_dir(&job).env("HOME", job).env("TMPDIR", scratch.join(TMP)).env("LANG", "C.UTF-8");
        }
        command
    }

    /// Returns the `prlimit` command line that sets the limits and then executes the rest of the line.
    fn limits(&self, bounds: &SandboxLimits) -> Vec<String> {
        // An absolute path, because the toolchain's folder comes first in the job's `PATH`.
        let mut line = vec![on_path("prlimit").to_string_lossy().into_owned()];
        line.extend([format!("--cpu={}:{}", bounds.cpu_s, bounds.cpu_s + 1), format!("--data={}", bounds.data)]);
        line.extend([format!("--fsize={}", bounds.file), format!("--nofile={FILES}"), "--core=0".into()]);
        if self.process_limit == ProcessLimit::Kernel {
            line.push(format!("--nproc={}", bounds.processes));
        }
        line.push("--".into());
        line
    }

    /// Returns the shell command that reports the start and executes the program. A program that does not exist counts
    /// as not started.
    fn last_stage(&self) -> [String; 4] {
        let exec = match self.kind {
            SandboxKind::Full => "exec",
            // Removes the variables that the shell adds. In a full sandbox bubblewrap clears the environment, and the
            // few variables that the shell then adds are harmless.
            SandboxKind::Limits => "exec env -u PWD -u OLDPWD -u SHLVL -u _",
        };
        let script = format!(
            "command -v \"$1\" >/dev/null || {{ echo \"$1: not found\" >&2; exit 127; }}; \
             echo >&{STARTED_FD}; exec {STARTED_FD}>&-; {exec} \"$@\""
        );
        [on_path("sh").to_string_lossy().into_owned(), "-c".into(), script, "sh".into()]
    }

    /// Returns the `bwrap` command line that builds the sandbox and then executes the rest of the line.
    fn bubblewrap(&self, scratch: &Path, folders: &[PathBuf], path: &str, is_roots: bool) -> Vec<String> {
        let mut line: Vec<String> = vec!["bwrap".into()];
        let mut add = |words: &[&str]| line.extend(words.iter().map(|word| word.to_string()));
        add(&["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]);
        match is_roots {
            // `setpriv` drops both before the command begins.
            true => add(&["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]),
            false => add(&["--unshare-user", "--disable-userns"]),
        }
        add(&["--die-with-parent", "--new-session", "--hostname", "job"]);
        if syscall_filter::bytes().is_some() {
            add(&["--seccomp", FILTER_FD]);
        }
        let given = folders.iter().map(|folder| folder.to_string_lossy().into_owned());
        let shown: Vec<String> =
            SYSTEM.map(str::to_string).into_iter().chain(self.java.iter().cloned()).chain(given).collect();
        // Without this, bubblewrap would create their parent folders with access for root only.
        let above = |path: &String| Path::new(path).ancestors().skip(1).map(Path::to_path_buf).collect::<Vec<_>>();
        let above: BTreeSet<PathBuf> = shown.iter().flat_map(above).filter(|path| path != Path::new("/")).collect();
        for folder in above.iter().filter(|folder| !shown.iter().any(|path| folder.starts_with(path))) {
            add(&["--perms", "0755", "--dir", &folder.to_string_lossy()]);
        }
        for path in &shown {
            add(&["--ro-bind-try", path, path]);
        }
        // The sandbox's first process runs as the same user, and the whole sandbox ends with it: a job must not access
        // its memory.
        add(&["--proc", "/proc", "--perms", "0555", "--tmpfs", "/proc/1", "--remount-ro", "/proc/1", "--dev", "/dev"]);
        // Everything that the command can write is in its scratch folder, where it is limited and counted.
        for (inner, place) in [(SHM, "/dev/shm"), (TMP, "/tmp"), (JOB, HOME)] {
            add(&["--bind", &scratch.join(inner).to_string_lossy(), place]);
        }
        add(&["--remount-ro", "/dev", "--chdir", HOME, "--clearenv"]);
        add(&["--setenv", "PATH", path, "--setenv", "HOME", HOME, "--setenv", "LANG", "C.UTF-8"]);
        add(&["--remount-ro", "/", "--"]);
        line
    }

    /// Returns the start of the command line: a shell that closes the inherited descriptors, opens the filter for
    /// bubblewrap and the file that records the start, makes the command the first candidate of the OOM killer, and
    /// sets the umask 022, so that the command's files have the usual modes (other users have no access to the folder).
    fn shell_prefix(&self, scratch: &Path) -> Vec<String> {
        let closed: String = self.inherited.iter().map(|fd| format!(" {fd}>&-")).collect();
        // `sh` may not be able to close descriptors of two digits; bash is.
        let shell = if closed.is_empty() { "sh" } else { "bash" };
        let filter = match self.kind == SandboxKind::Full && syscall_filter::bytes().is_some() {
            true => format!(" {FILTER_FD}<\"$0/{FILTER}\""),
            false => String::new(),
        };
        // Without permission to set the OOM score, it is left unchanged.
        let script = format!(
            "umask 022; exec{closed} {STARTED_FD}>\"$0/{STARTED}\"{filter}; echo 1000 2>&- >/proc/self/oom_score_adj; exec \"$@\""
        );
        vec![shell.into(), "-c".into(), script, scratch.to_string_lossy().into_owned()]
    }
}

/// Returns why a command has not begun: the output of its sandbox with the signal if there was one, or the exit status
/// if there was no output.
pub(crate) fn how_it_ended(status: ExitStatus, said: &str) -> String {
    match (said.is_empty(), status.signal()) {
        (true, _) => format!("the sandbox ended with {status} and without a message"),
        (false, Some(_)) => format!("{said} ({status})"),
        (false, None) => said.to_string(),
    }
}

/// Returns the first two numbers of a kernel release: `(6, 1)` for `6.1.0-18-amd64`. Missing numbers are 0.
fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Returns the path of a program in [`SYSTEM_PATH`], or its bare name if it is missing, so that the error names it.
fn on_path(program: &str) -> PathBuf {
    let places = SYSTEM_PATH.split(':').map(|folder| Path::new(folder).join(program));
    places.into_iter().find(|place| place.is_file()).unwrap_or_else(|| program.into())
}

/// Returns the arguments with which `setpriv` switches to a user.
fn user_switch_args(user: u32) -> [String; 4] {
    [format!("--reuid={user}"), format!("--regid={user}"), "--clear-groups".into(), "--inh-caps=-all".into()]
}

fn java_folders() -> Vec<String> {
    let names =
        std::fs::read_dir("/etc").into_iter().flatten().flatten().filter_map(|row| row.file_name().into_string().ok());
    names.filter(|name| name.starts_with(JAVA)).map(|name| format!("/etc/{name}")).collect()
}

/// Returns the open descriptors above 2 that a started program would inherit.
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
