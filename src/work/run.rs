//! One attempt of one job: creates the scratch folder, runs the compiler and the program, and returns the result.
//!
//! One thread does all of it: it writes standard input, reads the output up to its limit, checks time, memory,
//! processes and files every few milliseconds, and kills all processes when a limit is exceeded. No matter what the program
//! does, the attempt ends soon after its time limit, and its folder is removed.
//!
//! Invariants: R1 no process or file of the attempt outlives it. R2 output is cut exactly at its limit. R3 an exceeded
//! limit is reported, whatever the program did afterwards. R4 a result means that the program has begun: a sandbox that
//! does not start is retried, and finally reported as an error.
//! Not here: the sandbox (`sandbox.rs`), the folder (`scratch.rs`), whether the result counts (`services/jobs/`).

use super::WorkError;
use super::namespace::Namespace;
use super::process_tree::{self, ProcessTree};
use super::runtimes::{self, AvailableRuntime, LAUNCHER, Places};
use super::sandbox::{self, SandboxLimits, Sandbox};
use super::scratch::{FILES_MAX, Scratch};
use crate::services::jobs::{End, JobOutcome, Limits, Request};
use crate::settings::SandboxKind;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::chown;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Minimum time between two checks of the program's memory, processor time, processes and files.
const CHECK_EVERY: Duration = Duration::from_millis(20);
/// Maximum time between two such checks.
const CHECK_SELDOM: Duration = Duration::from_millis(100);
/// The time until the next check is this multiple of the time that the check took, within these bounds.
const CHECK_SHARE: u32 = 10;
/// Time between two counts of the program's files, which may be many.
const FILES_EVERY: Duration = Duration::from_millis(100);
/// Time between two checks whether the program has exited, once its output is closed.
const REAP_EVERY: Duration = Duration::from_millis(1);
/// How long to read remaining output after the program has exited.
const DRAIN_MAX: Duration = Duration::from_millis(500);
/// Time between `SIGTERM` at the time limit and `SIGKILL`: a program that handles it may print its last output.
const TERM_GRACE: Duration = Duration::from_millis(200);
/// Pauses before the retries of starting a sandbox. A failed start is usually a temporary shortage of a resource that
/// other processes use.
const START_PAUSES_MS: [u64; 5] = [20, 80, 200, 400, 800];
/// No retry begins later than this after the first try, because a start that hangs takes [`START_MAX`].
const START_TRIES_FOR: Duration = Duration::from_millis(1500);
/// How long a sandbox may take to start. The program's time limit counts from its start.
const START_MAX: Duration = Duration::from_secs(10);
/// Time between two checks for cancellation during a pause.
const PAUSE_STEP: Duration = Duration::from_millis(20);
/// Maximum bytes of a failed sandbox's output in the error.
const REASON_BYTES_MAX: usize = 1000;
/// Limits of a compiler: higher than those of most programs, because users cannot influence what it needs.
const COMPILER: Limits =
    Limits { wall_ms: 60_000, cpu_ms: 60_000, memory_mb: 2048, output_bytes: 256 << 10, files_mb: 256, processes: 256 };
/// Signals that show which limit was reached.
const SIGKILL: i32 = 9;
const SIGXCPU: i32 = 24;
const SIGXFSZ: i32 = 25;

/// An output stream of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputStream {
    Out,
    /// Standard error.
    Err,
}

/// An attempt to be made.
pub struct Attempt<'a> {
    /// The sandbox for the compiler and the program.
    pub sandbox: &'a Sandbox,
    /// The runtime of the request's language.
    pub found: &'a AvailableRuntime,
    /// Source files, arguments and standard input.
    pub request: &'a Request,
    pub limits: Limits,
    /// Path of the scratch folder. It must not exist; it is created for the attempt and removed at its end.
    pub scratch: PathBuf,
    /// Number of the worker's slot, which determines the user id if the node is root.
    pub slot: u32,
    /// When it becomes true, the attempt is stopped and ends as [`JobOutcome::Cancelled`].
    pub is_cancelled: &'a AtomicBool,
    /// Called with each piece of the program's output as it arrives.
    pub hear: &'a mut dyn FnMut(OutputStream, &[u8]),
}

/// One command of an attempt: the compiler or the program.
struct Start<'a> {
    words: Vec<String>,
    stdin: &'a [u8],
    limits: Limits,
    bounds: SandboxLimits,
    /// Folders that it can read besides the system folders.
    folders: Vec<PathBuf>,
    /// Whether its output is passed to [`Attempt::hear`]: true for the program, false for the compiler.
    is_heard: bool,
}

impl Attempt<'_> {
    /// Runs the attempt and returns how it ended.
    ///
    /// # Errors
    /// Returns [`WorkError`] if this machine failed: the program did not run, or its result is unknown.
    pub fn run(mut self) -> Result<End, WorkError> {
        let class = self.class();
        let files_mb = self.limits.files_mb.max(COMPILER.files_mb);
        let scratch = Scratch::make(&self.scratch, self.sandbox.user(self.slot), files_mb);
        let scratch = &scratch.map_err(WorkError::io("create the job's folder"))?;
        let files = match self.write_files(scratch, &class) {
            Err(e) if self.is_cancelled.load(Ordering::Relaxed) => {
                log::debug!("a job was cancelled before it started: {e}");
                return Ok(End::bare(JobOutcome::Cancelled));
            }
            Err(e) => return Ok(End::bare(JobOutcome::Failed(format!("cannot write the job's files: {e}")))),
            Ok(files) => files,
        };
        let places = Places { home: self.found.home.as_deref(), files: &files, class: &class };
        let runtime = &self.found.runtime;
        let mut compile_ms = 0;
        if !runtime.compile.is_empty() {
            let words = runtimes::fill(&runtime.compile, &places);
            let ran = self.execute(scratch, &words, &[], COMPILER, false)?;
            compile_ms = ran.took.as_millis() as u64;
            if ran.stopped_by == Some(JobOutcome::Cancelled) {
                return Ok(End::bare(JobOutcome::Cancelled));
            }
            if ran.exit_code != Some(0) || ran.stopped_by.is_some() {
                let mut said = ran.stdout;
                said.extend_from_slice(&ran.stderr);
                if let Some(why) = ran.stopped_by {
                    said.extend_from_slice(format!("the compiler was stopped: {}\n", why.word()).as_bytes());
                }
                return Ok(End {
                    exit_code: ran.exit_code,
                    signal: ran.signal,
                    stderr: said.into(),
                    compile_ms,
                    ..End::bare(JobOutcome::NotCompiled)
                });
            }
        }
        let mut words = runtimes::fill(&runtime.run, &places);
        words.extend(self.request.args.iter().cloned());
        let stdin = self.request.stdin.clone();
        let ran = self.execute(scratch, &words, &stdin, self.limits, true)?;
        Ok(End {
            outcome: ran.stopped_by.unwrap_or(JobOutcome::Finished),
            exit_code: ran.exit_code,
            signal: ran.signal,
            stdout: ran.stdout.into(),
            stderr: ran.stderr.into(),
            compile_ms,
            run_ms: ran.took.as_millis() as u64,
            memory_peak_kib: ran.memory_peak_kib,
        })
    }

    /// Returns the class to start of a Java source, an empty string for other languages.
    fn class(&self) -> String {
        self.java_source().and_then(|source| runtimes::java_class(&source)).unwrap_or_default()
    }

    fn java_source(&self) -> Option<String> {
        let is_java = self.found.runtime.run.iter().any(|word| word.contains("{class}"));
        let source = self.request.files.first().filter(|_| is_java).map(|(_, source)| source);
        source.map(|source| String::from_utf8_lossy(source).into_owned())
    }

    /// Writes the source files into the job's folder and returns their names.
    fn write_files(&self, scratch: &Scratch, class: &str) -> io::Result<Vec<String>> {
        let (job, until) = (scratch.job(), Instant::now() + Duration::from_millis(self.limits.wall_ms));
        let mut made = Vec::new();
        let mut files = Vec::new();
        let launcher = (LAUNCHER.0.to_string(), LAUNCHER.1.as_bytes());
        let given = self.named().into_iter().zip(&self.request.files).map(|(name, (_, content))| (name, &content[..]));
        for (name, content) in given.chain((!class.is_empty()).then_some(launcher)) {
            let folders = Path::new(&name).ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty());
            for folder in folders.collect::<Vec<_>>().into_iter().rev() {
                if self.is_cancelled.load(Ordering::Relaxed) {
                    return Err(io::Error::other("it was cancelled"));
                }
                if Instant::now() >= until {
                    let limit = self.limits.wall_ms;
                    return Err(io::Error::other(format!("it takes longer than wall_ms allows, {limit} ms")));
                }
                if made.len() as u64 >= FILES_MAX {
                    return Err(io::Error::other(format!("there are more than {FILES_MAX} files and folders")));
                }
                let folder = job.join(folder);
                if !folder.is_dir() {
                    fs::create_dir(&folder)?;
                    made.push(folder);
                }
            }
            let path = job.join(&name);
            match fs::File::create_new(&path) {
                Ok(mut file) => file.write_all(content)?,
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                    return Err(io::Error::other(format!("two of them are named {name}")));
                }
                Err(e) => return Err(e),
            }
            made.push(path);
            files.push(name);
        }
        if let Some(user) = self.sandbox.user(self.slot) {
            made.iter().try_for_each(|path| chown(path, Some(user), Some(user)))?;
        }
        Ok(files)
    }

    /// Returns the names under which the request's files are written. The first file of a Java request is named after
    /// its class if it has the default name.
    fn named(&self) -> Vec<String> {
        let mut names: Vec<String> = self.request.files.iter().map(|(name, _)| name.clone()).collect();
        let (runtime, source) = (&self.found.runtime, self.java_source());
        if let Some(class) = source.and_then(|source| runtimes::java_file(&source)) {
            let name = format!("{class}.java");
            if names.first() == Some(&runtime.file_name) && !names.contains(&name) && name != LAUNCHER.0 {
                names[0] = name;
            }
        }
        names
    }

    fn execute(
        &mut self,
        scratch: &Scratch,
        words: &[String],
        stdin: &[u8],
        limits: Limits,
        is_heard: bool,
    ) -> Result<Ran, WorkError> {
        let runtime = &self.found.runtime;
        // The kernel's limits are higher than the job's: a program that exceeds its own limit is stopped here with the
        // right reason, and until then the kernel bounds by how much it exceeds it.
        let processes = limits.processes + runtime.threads + PROCESSES_MORE;
        let stacks_mb = (limits.processes + runtime.threads) * STACK_MB;
        let megabytes = limits.memory_mb + runtime.reserves_mb + stacks_mb + DATA_MORE_MB;
        let bounds = SandboxLimits {
            wall_s: limits.wall_ms.div_ceil(1000) + START_MAX.as_secs(),
            cpu_s: limits.cpu_ms.div_ceil(1000).max(1),
            data: megabytes.saturating_mul(1 << 20),
            file: limits.files_mb << 20,
            processes,
        };
        let mut folders: Vec<PathBuf> = self.found.home.iter().cloned().collect();
        // A compiled program needs no toolchain, and without a toolchain that only root can read its sandbox can be set
        // up by the slot's user, which isolates better.
        if words.first().is_some_and(|word| word.starts_with("./"))
            && !self.sandbox.is_by_user(scratch.path(), &folders)
        {
            folders.clear();
        }
        let prefix: &[String] = if is_heard { &self.found.prefix } else { &[] };
        let start = Start { words: [prefix, words].concat(), stdin, limits, bounds, folders, is_heard };
        start_patiently(self.is_cancelled, || self.execute_once(scratch, &start))
    }

    fn execute_once(&mut self, scratch: &Scratch, start: &Start) -> Result<Ran, WorkError> {
        let Start { words, stdin, limits, bounds, folders, is_heard } = start;
        scratch.forget_start().map_err(WorkError::io("write into the job's folder"))?;
        let before = scratch.used(None).unwrap_or_default();
        let mut command = self.sandbox.command(words, scratch.path(), folders, self.slot, bounds);
        let child = spawn(&mut command).map_err(|e| WorkError::NotStarted { why: e.to_string() })?;
        let mut deaf = |_: OutputStream, _: &[u8]| {};
        let hear: &mut dyn FnMut(OutputStream, &[u8]) = if *is_heard { self.hear } else { &mut deaf };
        let watch = Watch {
            limits: *limits,
            threads: self.found.runtime.threads,
            scratch,
            before,
            tree: ProcessTree {
                pid: child.id(),
                wrapper_levels: self.sandbox.levels(),
                home: (self.sandbox.kind() == SandboxKind::Limits).then(|| scratch.job()),
            },
            own: self.sandbox.own_processes(),
            inner: None,
            namespace: None,
            is_cancelled: self.is_cancelled,
            begun: Instant::now(),
            checked_at: Instant::now(),
            counted: Instant::now(),
            stopped_by: None,
            kill_at: None,
            pace: CHECK_EVERY,
            memory_peak_kib: 0,
            memory_files_kib: 0,
            cpu_peak_ms: 0,
            output_left: limits.output_bytes,
            started_at: None,
            sandbox_said: Vec::new(),
        };
        let ran = watch.follow(child, stdin, hear).map_err(WorkError::io("follow the program"))?;
        match &ran.not_started {
            Some(why) if ran.stopped_by != Some(JobOutcome::Cancelled) => {
                Err(WorkError::NotStarted { why: why.clone() })
            }
            _ => Ok(self.with_outcome(scratch, limits, ran)),
        }
    }

    /// Derives the command's exit code, signal and exceeded limit from the exit code of bubblewrap.
    ///
    /// If a signal ended the command, the code is 128 plus the signal's number. A program may exit with such a code
    /// itself, so the signal of a limit counts only if the program was close to that limit. For other signals the codes
    /// 129 to 159 are ambiguous, as in every shell.
    fn with_outcome(&self, scratch: &Scratch, limits: &Limits, mut ran: Ran) -> Ran {
        if self.sandbox.kind() == SandboxKind::Full
            && let Some(code @ SIGNALS_FIRST..=SIGNALS_LAST) = ran.exit_code
        {
            (ran.exit_code, ran.signal) = match code - 128 {
                SIGXCPU if ran.cpu_peak_ms < limits.cpu_ms / 2 => (Some(code), None),
                SIGXFSZ if scratch.longest() < (limits.files_mb << 20) / 2 => (Some(code), None),
                signal => (None, Some(signal)),
            };
        }
        if ran.stopped_by.is_none() {
            ran.stopped_by = match ran.signal {
                Some(SIGXCPU) => Some(JobOutcome::TimedOut),
                Some(SIGXFSZ) => Some(JobOutcome::FilesExceeded),
                _ => ran.has_too_many_files.then_some(JobOutcome::FilesExceeded),
            };
        } else if ran.signal.is_none() {
            (ran.exit_code, ran.signal) = (None, Some(SIGKILL));
        }
        ran
    }
}

/// Calls `once` until it returns anything but [`WorkError::NotStarted`], with a pause before each retry; returns the
/// last result. Stops early when the job is cancelled.
pub(crate) fn start_patiently<T>(
    is_cancelled: &AtomicBool,
    mut once: impl FnMut() -> Result<T, WorkError>,
) -> Result<T, WorkError> {
    let last = Instant::now() + START_TRIES_FOR;
    for pause_ms in START_PAUSES_MS {
        match once() {
            Err(e @ WorkError::NotStarted { .. }) if Instant::now() < last => {
                log::info!("starting a job's sandbox again: {e}");
                let until = last.min(Instant::now() + Duration::from_millis(pause_ms));
                while Instant::now() < until {
                    if is_cancelled.load(Ordering::Relaxed) {
                        return Err(e);
                    }
                    std::thread::sleep(PAUSE_STEP);
                }
            }
            other => return other,
        }
    }
    once()
}

/// Exit codes by which bubblewrap reports that a signal ended its command.
const SIGNALS_FIRST: i32 = 129;
const SIGNALS_LAST: i32 = 159;
/// Stack size of each thread in MiB. Most of it stays unused; the used part counts against the memory limit.
const STACK_MB: u64 = 8;
/// Number of processes that the kernel allows a program beyond its limit. With fewer, a fork bomb would end before the
/// next check, because shells that cannot fork exit, and the reason would not be reported.
const PROCESSES_MORE: u64 = 256;
/// Writable memory in MiB that the kernel allows beyond the limit: for libraries, and for mappings that stay untouched.
const DATA_MORE_MB: u64 = 256;

/// Result of one command.
struct Ran {
    exit_code: Option<i32>,
    signal: Option<i32>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    took: Duration,
    memory_peak_kib: u64,
    /// Processor time at the last measurement.
    cpu_peak_ms: u64,
    /// Whether the files that it left exceed the limit.
    has_too_many_files: bool,
    /// The limit that it exceeded, or [`JobOutcome::Cancelled`].
    stopped_by: Option<JobOutcome>,
    /// If the program has not begun: the reason.
    not_started: Option<String>,
}

fn spawn(command: &mut Command) -> io::Result<Child> {
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).spawn()?;
    if let Some(pipe) = &child.stdin {
        rustix::io::ioctl_fionbio(pipe, true)?;
    }
    if let Some(pipe) = &child.stdout {
        rustix::io::ioctl_fionbio(pipe, true)?;
    }
    if let Some(pipe) = &child.stderr {
        rustix::io::ioctl_fionbio(pipe, true)?;
    }
    Ok(child)
}

/// Monitors one running command.
struct Watch<'a> {
    limits: Limits,
    threads: u64,
    scratch: &'a Scratch,
    /// Number of files and bytes in the folder when the command began.
    before: (u64, u64),
    tree: ProcessTree,
    /// Number of processes of the tree that belong to the sandbox itself.
    own: usize,
    /// Pidfd of the sandbox's first process, once it was found. It is in another session, so killing the process group
    /// does not reach it.
    inner: Option<OwnedFd>,
    /// The sandbox's process namespace, once the program has begun.
    namespace: Option<Namespace>,
    is_cancelled: &'a AtomicBool,
    begun: Instant,
    checked_at: Instant,
    counted: Instant,
    /// Time between two checks: longer if checks are slow (much memory, many processes).
    pace: Duration,
    stopped_by: Option<JobOutcome>,
    /// When the command is killed: at once, or [`TERM_GRACE`] after `SIGTERM`.
    kill_at: Option<Instant>,
    memory_peak_kib: u64,
    memory_files_kib: u64,
    cpu_peak_ms: u64,
    output_left: u64,
    /// When the program was first seen to have begun. Output after that is the program's.
    started_at: Option<Instant>,
    /// Output before that, which is the sandbox's.
    sandbox_said: Vec<u8>,
}

impl Watch<'_> {
    fn follow(mut self, mut child: Child, mut stdin: &[u8], hear: &mut dyn FnMut(OutputStream, &[u8])) -> io::Result<Ran> {
        let (mut input, mut out, mut err) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let mut status: Option<(ExitStatus, Instant)> = None;
        loop {
            if let Some(pipe) = &mut input
                && is_fed(pipe, &mut stdin)
            {
                input = None;
            }
            if let Some(pipe) = &mut out
                && self.take(pipe, OutputStream::Out, &mut stdout, hear)
            {
                out = None;
            }
            if let Some(pipe) = &mut err
                && self.take(pipe, OutputStream::Err, &mut stderr, hear)
            {
                err = None;
            }
            if status.is_none() {
                self.check_limits();
                if self.stopped_by.is_some() && self.kill_at.is_none_or(|at| at <= Instant::now()) {
                    self.kill(&mut child);
                }
                status = child.try_wait()?.map(|status| (status, Instant::now()));
                if status.is_some() {
                    // Processes that it left running are killed.
                    self.kill_rest(&child);
                    if let Some(its) = &self.tree.home {
                        process_tree::kill_all(|pid| process_tree::has_home(pid, |home| home == its));
                    }
                }
            }
            let is_silent = out.is_none() && err.is_none();
            match &status {
                Some((_, ended)) if is_silent || ended.elapsed() > DRAIN_MAX => break,
                _ => {}
            }
            let wait = if is_silent { REAP_EVERY } else { CHECK_EVERY };
            wait_for(input.as_ref(), out.as_ref(), err.as_ref(), wait)?;
        }
        let (status, ended) = status.expect("the loop ends after the command");
        Ok(Ran {
            exit_code: status.code(),
            signal: status.signal(),
            stdout,
            stderr,
            took: ended - self.begun,
            memory_peak_kib: self.memory_peak_kib,
            cpu_peak_ms: self.cpu_peak_ms,
            has_too_many_files: self.has_too_many_files(None),
            not_started: (!self.scratch.has_started()).then(|| self.reason(status)),
            stopped_by: self.stopped_by,
        })
    }

    /// Reads available output without blocking; returns `true` once the stream is closed.
    fn take(
        &mut self,
        pipe: &mut impl Read,
        from: OutputStream,
        into: &mut Vec<u8>,
        hear: &mut dyn FnMut(OutputStream, &[u8]),
    ) -> bool {
        let mut buffer = [0; 16 << 10];
        // Bounded: a program that prints without end must not prevent the check of its limits.
        for _ in 0..16 {
            match pipe.read(&mut buffer) {
                Ok(0) => return true,
                Ok(read) if !self.has_started() => {
                    let room = REASON_BYTES_MAX.saturating_sub(self.sandbox_said.len());
                    self.sandbox_said.extend_from_slice(&buffer[..read.min(room)]);
                }
                Ok(read) => {
                    let kept = &buffer[..read.min(self.output_left as usize)];
                    self.output_left -= kept.len() as u64;
                    if kept.len() < read {
                        self.stopped_by.get_or_insert(JobOutcome::OutputExceeded);
                    }
                    if !kept.is_empty() {
                        into.extend_from_slice(kept);
                        hear(from, kept);
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return false,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return true,
            }
        }
        false
    }

    fn has_started(&mut self) -> bool {
        if self.started_at.is_none() && self.scratch.has_started() {
            self.started_at = Some(Instant::now());
        }
        self.started_at.is_some()
    }

    /// Returns why the program did not start.
    fn reason(&self, status: ExitStatus) -> String {
        let said = String::from_utf8_lossy(&self.sandbox_said).trim().to_string();
        match (&self.stopped_by, said.is_empty()) {
            (Some(JobOutcome::TimedOut), is_silent) => {
                let said = if is_silent { String::new() } else { format!("; {said}") };
                format!("it took more than {} s{said}", START_MAX.as_secs())
            }
            _ => sandbox::how_it_ended(status, &said),
        }
    }

    /// Stops the program if it was cancelled or exceeds a limit.
    fn check_limits(&mut self) {
        let now = Instant::now();
        let is_late = match (self.has_started(), self.started_at) {
            (true, Some(at)) => now.saturating_duration_since(at) >= Duration::from_millis(self.limits.wall_ms),
            _ => now - self.begun >= START_MAX,
        };
        if self.is_cancelled.load(Ordering::Relaxed) {
            self.stop(JobOutcome::Cancelled, now);
        } else if is_late && self.stopped_by.is_none() {
            self.ask_to_end();
            self.stop(JobOutcome::TimedOut, now + TERM_GRACE);
        } else if now - self.checked_at >= self.pace {
            let over = self.measure();
            self.pace = (now.elapsed() * CHECK_SHARE).clamp(CHECK_EVERY, CHECK_SELDOM);
            self.checked_at = Instant::now();
            if let Some(over) = over {
                self.stop(over, now);
            }
        }
    }

    /// Schedules killing the program at `kill_at` or earlier. The first cause is kept.
    fn stop(&mut self, by: JobOutcome, kill_at: Instant) {
        self.stopped_by.get_or_insert(by);
        self.kill_at = Some(self.kill_at.map_or(kill_at, |at| at.min(kill_at)));
    }

    /// Sends `SIGTERM` to all processes of the program.
    fn ask_to_end(&self) {
        for pid in process_tree::members(&self.tree).into_iter().skip(self.own) {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                // An error means that it has ended meanwhile.
                let _ = kill_process(pid, Signal::TERM);
            }
        }
    }

    fn kill(&mut self, child: &mut Child) {
        self.find_inner();
        self.kill_rest(child);
        // An error means that it has ended meanwhile.
        let _ = child.kill();
    }

    /// Kills all processes except the outermost one, which may have exited already.
    fn kill_rest(&self, child: &Child) {
        #[cfg(target_os = "linux")]
        if let Some(inner) = &self.inner {
            // An error means that it ended with the others.
            let _ = rustix::process::pidfd_send_signal(inner, Signal::KILL);
        }
        kill_group(child);
    }

    /// Opens a pidfd of the sandbox's first process. A program can keep that process from ending together with the
    /// wrapper processes, but not from being killed, and the kernel kills the whole sandbox with it.
    fn find_inner(&mut self) {
        #[cfg(target_os = "linux")]
        if self.inner.is_none() && self.own > 0 {
            let inner = self.inner_pid();
            let open = |pid| rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok();
            self.inner = inner.and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw).and_then(open);
        }
    }

    /// Returns the process id of the sandbox's first process, if it exists.
    fn inner_pid(&self) -> Option<u32> {
        process_tree::descendants(self.tree.pid, self.tree.wrapper_levels).first().copied()
    }

    fn measure(&mut self) -> Option<JobOutcome> {
        self.find_inner();
        if self.namespace.is_none() && self.own > 0 && self.has_started() {
            self.namespace = self.inner_pid().and_then(Namespace::of);
        }
        let processes_max = self.limits.processes + self.threads + self.own as u64;
        let usage = process_tree::usage(&self.tree, self.namespace.as_ref(), processes_max);
        let is_long_ago = self.counted.elapsed() >= FILES_EVERY;
        if is_long_ago {
            self.memory_files_kib = process_tree::unlinked_files(&self.tree, 0).memory_bytes / 1024;
        }
        let memory_kib = usage.memory_kib + self.memory_files_kib;
        self.memory_peak_kib = self.memory_peak_kib.max(memory_kib);
        self.cpu_peak_ms = self.cpu_peak_ms.max(usage.cpu_ms);
        if memory_kib > self.limits.memory_mb << 10 {
            return Some(JobOutcome::MemoryExceeded);
        }
        if usage.processes > processes_max {
            return Some(JobOutcome::ProcessesExceeded);
        }
        if !self.scratch.is_quick() && !is_long_ago {
            return None;
        }
        let is_over = self.has_too_many_files(Some(&self.tree));
        if is_long_ago {
            self.counted = Instant::now();
        }
        is_over.then_some(JobOutcome::FilesExceeded)
    }

    /// Whether the command's files exceed the limit. Files from before the command do not count; it may remove them.
    fn has_too_many_files(&self, processes: Option<&ProcessTree>) -> bool {
        let Some((files, bytes)) = self.scratch.used(processes) else { return true };
        let (files_before, bytes_before) = self.before;
        files > files_before + FILES_MAX || bytes > bytes_before + (self.limits.files_mb << 20)
    }
}

/// Writes standard input without blocking; returns `true` once all is written or the reader has closed the pipe.
fn is_fed(pipe: &mut impl Write, stdin: &mut &[u8]) -> bool {
    while !stdin.is_empty() {
        match pipe.write(stdin) {
            Ok(written) => *stdin = &stdin[written..],
            Err(e) if e.kind() == ErrorKind::WouldBlock => return false,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(_) => return true,
        }
    }
    true
}

fn wait_for(
    input: Option<&impl AsFd>,
    out: Option<&impl AsFd>,
    err: Option<&impl AsFd>,
    most: Duration,
) -> io::Result<()> {
    let mut watched = Vec::new();
    watched.extend(input.map(|pipe| PollFd::new(pipe, PollFlags::OUT)));
    watched.extend(out.map(|pipe| PollFd::new(pipe, PollFlags::IN)));
    watched.extend(err.map(|pipe| PollFd::new(pipe, PollFlags::IN)));
    let most = Timespec { tv_sec: 0, tv_nsec: most.subsec_nanos().into() };
    match poll(&mut watched, Some(&most)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn kill_group(child: &Child) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // An error means that no process is left in the group.
        let _ = kill_process_group(group, Signal::KILL);
    }
}
