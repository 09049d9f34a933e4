//! Follows one running command: feeds its input, reads its output up to the limit, checks time, memory, processes and
//! files every few milliseconds, and kills all of its processes when a limit is exceeded.
//!
//! Not here: what the result means for the attempt (`run.rs`), how processes are measured (`process_tree.rs`).

use super::namespace::Namespace;
use super::process_tree::{self, ProcessTree};
use super::sandbox;
use super::scratch::{FILES_MAX, Scratch};
use crate::services::jobs::{JobOutcome, Limits};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
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
/// Maximum bytes of a failed sandbox's output in the error.
const REASON_BYTES_MAX: usize = 1000;
/// How long a sandbox may take to start. The program's time limit counts from its start.
pub(super) const START_MAX: Duration = Duration::from_secs(10);

/// An output stream of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputStream {
    Out,
    /// Standard error.
    Err,
}

/// Result of one command.
pub(super) struct Ran {
    pub(super) exit_code: Option<i32>,
    pub(super) signal: Option<i32>,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
    pub(super) took: Duration,
    pub(super) memory_peak_kib: u64,
    /// Processor time at the last measurement.
    pub(super) cpu_peak_ms: u64,
    /// Whether the files that it left exceed the limit.
    pub(super) has_too_many_files: bool,
    /// The limit that it exceeded, or [`JobOutcome::Cancelled`].
    pub(super) stopped_by: Option<JobOutcome>,
    /// If the program has not begun: the reason.
    pub(super) not_started: Option<String>,
}

pub(super) fn spawn(command: &mut Command) -> io::Result<Child> {
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

/// One running command, and what it is measured against.
pub(super) struct RunningCommand<'a> {
    pub(super) limits: Limits,
    /// Number of threads that its language's runtime needs beside the job's processes.
    pub(super) threads: u64,
    pub(super) scratch: &'a Scratch,
    /// Number of files and bytes in the folder when the command began.
    pub(super) before: (u64, u64),
    pub(super) tree: ProcessTree,
    /// Number of processes of the tree that belong to the sandbox itself.
    pub(super) own: usize,
    pub(super) is_cancelled: &'a AtomicBool,
}

/// Monitors one running command.
pub(super) struct Monitor<'a> {
    command: RunningCommand<'a>,
    /// Pidfd of the sandbox's first process, once it was found. It is in another session, so killing the process group
    /// does not reach it.
    inner: Option<OwnedFd>,
    /// The sandbox's process namespace, once the program has begun.
    namespace: Option<Namespace>,
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

impl<'a> Monitor<'a> {
    pub(super) fn new(command: RunningCommand<'a>) -> Monitor<'a> {
        let now = Instant::now();
        Monitor {
            output_left: command.limits.output_bytes,
            command,
            inner: None,
            namespace: None,
            begun: now,
            checked_at: now,
            counted: now,
            stopped_by: None,
            kill_at: None,
            pace: CHECK_EVERY,
            memory_peak_kib: 0,
            memory_files_kib: 0,
            cpu_peak_ms: 0,
            started_at: None,
            sandbox_said: Vec::new(),
        }
    }

    pub(super) fn follow(
        mut self,
        mut child: Child,
        mut stdin: &[u8],
        hear: &mut dyn FnMut(OutputStream, &[u8]),
    ) -> io::Result<Ran> {
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
                    self.kill_remaining(&child);
                    if let Some(its) = &self.command.tree.home {
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
            not_started: (!self.command.scratch.has_started()).then(|| self.reason(status)),
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
        if self.started_at.is_none() && self.command.scratch.has_started() {
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
            (true, Some(at)) => now.saturating_duration_since(at) >= Duration::from_millis(self.command.limits.wall_ms),
            _ => now - self.begun >= START_MAX,
        };
        if self.command.is_cancelled.load(Ordering::Relaxed) {
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
        for pid in process_tree::members(&self.command.tree).into_iter().skip(self.command.own) {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                // An error means that it has ended meanwhile.
                let _ = kill_process(pid, Signal::TERM);
            }
        }
    }

    fn kill(&mut self, child: &mut Child) {
        self.find_inner();
        self.kill_remaining(child);
        // An error means that it has ended meanwhile.
        let _ = child.kill();
    }

    /// Kills all processes except the outermost one, which may have exited already.
    fn kill_remaining(&self, child: &Child) {
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
        if self.inner.is_none() && self.command.own > 0 {
            let inner = self.inner_pid();
            let open = |pid| rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok();
            self.inner = inner.and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw).and_then(open);
        }
    }

    /// Returns the process id of the sandbox's first process, if it exists.
    fn inner_pid(&self) -> Option<u32> {
        process_tree::descendants(self.command.tree.pid, self.command.tree.wrapper_levels).first().copied()
    }

    fn measure(&mut self) -> Option<JobOutcome> {
        self.find_inner();
        if self.namespace.is_none() && self.command.own > 0 && self.has_started() {
            self.namespace = self.inner_pid().and_then(Namespace::of);
        }
        let processes_max = self.command.limits.processes + self.command.threads + self.command.own as u64;
        let usage = process_tree::usage(&self.command.tree, self.namespace.as_ref(), processes_max);
        let is_long_ago = self.counted.elapsed() >= FILES_EVERY;
        if is_long_ago {
            self.memory_files_kib = process_tree::unlinked_files(&self.command.tree, 0).memory_bytes / 1024;
        }
        let memory_kib = usage.memory_kib + self.memory_files_kib;
        self.memory_peak_kib = self.memory_peak_kib.max(memory_kib);
        self.cpu_peak_ms = self.cpu_peak_ms.max(usage.cpu_ms);
        if memory_kib > self.command.limits.memory_mb << 10 {
            return Some(JobOutcome::MemoryExceeded);
        }
        if usage.processes > processes_max {
            return Some(JobOutcome::ProcessesExceeded);
        }
        if !self.command.scratch.is_quick() && !is_long_ago {
            return None;
        }
        let is_over = self.has_too_many_files(Some(&self.command.tree));
        if is_long_ago {
            self.counted = Instant::now();
        }
        is_over.then_some(JobOutcome::FilesExceeded)
    }

    /// Whether the command's files exceed the limit. Files from before the command do not count; it may remove them.
    fn has_too_many_files(&self, processes: Option<&ProcessTree>) -> bool {
        let Some((files, bytes)) = self.command.scratch.used(processes) else { return true };
        let (files_before, bytes_before) = self.command.before;
        files > files_before + FILES_MAX || bytes > bytes_before + (self.command.limits.files_mb << 20)
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
