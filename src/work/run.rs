//! One attempt of one job: creates the scratch folder, runs the compiler and the program, and returns the result.
//!
//! One thread does all of it. No matter what the program does, the attempt ends soon after its time limit, and its folder
//! is removed.
//!
//! Invariants: R1 no process or file of the attempt outlives it. R2 output is cut exactly at its limit. R3 an exceeded
//! limit is reported, whatever the program did afterwards. R4 a result means that the program has begun: a sandbox that
//! does not start is retried, and finally reported as an error.
//! Not here: the running command (`monitor.rs`), the sandbox (`sandbox.rs`), the folder (`scratch.rs`), whether the
//! result counts (`services/jobs/`).

use super::WorkError;
use super::monitor::{Monitor, OutputStream, Ran, RunningCommand, START_MAX, spawn};
use super::process_tree::ProcessTree;
use super::runtimes::{self, AvailableRuntime, LAUNCHER, Places};
use super::sandbox::{Sandbox, SandboxLimits};
use super::scratch::{FILES_MAX, Scratch};
use crate::services::jobs::{End, JobOutcome, Limits, Request};
use crate::settings::SandboxKind;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Pauses before the retries of starting a sandbox. A failed start is usually a temporary shortage of a resource that
/// other processes use.
const START_PAUSES_MS: [u64; 5] = [20, 80, 200, 400, 800];
/// No retry begins later than this after the first try, because a start that hangs takes [`START_MAX`].
const START_TRIES_FOR: Duration = Duration::from_millis(1500);
/// Time between two checks for cancellation during a pause.
const PAUSE_STEP: Duration = Duration::from_millis(20);
/// Limits of a compiler: higher than those of most programs, because users cannot influence what it needs.
const COMPILER: Limits =
    Limits { wall_ms: 60_000, cpu_ms: 60_000, memory_mb: 2048, output_bytes: 256 << 10, files_mb: 256, processes: 256 };
/// Signals that show which limit was reached.
const SIGKILL: i32 = 9;
const SIGXCPU: i32 = 24;
const SIGXFSZ: i32 = 25;

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
        let scratch = Scratch::create(&self.scratch, self.sandbox.user(self.slot), files_mb);
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
        start_with_retries(self.is_cancelled, || self.execute_once(scratch, &start))
    }

    fn execute_once(&mut self, scratch: &Scratch, start: &Start) -> Result<Ran, WorkError> {
        let Start { words, stdin, limits, bounds, folders, is_heard } = start;
        scratch.forget_start().map_err(WorkError::io("write into the job's folder"))?;
        let before = scratch.used(None).unwrap_or_default();
        let mut command = self.sandbox.command(words, scratch.path(), folders, self.slot, bounds);
        let child = spawn(&mut command).map_err(|e| WorkError::NotStarted { why: e.to_string() })?;
        let mut deaf = |_: OutputStream, _: &[u8]| {};
        let hear: &mut dyn FnMut(OutputStream, &[u8]) = if *is_heard { self.hear } else { &mut deaf };
        let tree = ProcessTree {
            pid: child.id(),
            wrapper_levels: self.sandbox.levels(),
            home: (self.sandbox.kind() == SandboxKind::Limits).then(|| scratch.job()),
        };
        let (threads, own) = (self.found.runtime.threads, self.sandbox.own_processes());
        let is_cancelled = self.is_cancelled;
        let running = RunningCommand { limits: *limits, threads, scratch, before, tree, own, is_cancelled };
        let ran = Monitor::new(running).follow(child, stdin, hear).map_err(WorkError::io("follow the program"))?;
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
pub(crate) fn start_with_retries<T>(
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
