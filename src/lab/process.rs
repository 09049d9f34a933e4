//! One node process: start, signals, state and output.
//!
//! Both output streams are appended to one file over all restarts, so that a failure shows what a user would have seen.
//! Sending a signal needs the [`Process`], which holds the unreaped child: its pid cannot belong to another process.
//! Not here: which nodes make a cluster (`cluster.rs`).

use super::{LabError, Result, wait_until};
use crate::lock::{Mutex, MutexGuard, lock};
use crate::work::process_tree;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Time for a killed process to end.
const REAP_WITHIN: Duration = Duration::from_secs(10);

/// Children that are not reaped yet: while this is locked, their pids cannot belong to other processes.
static RUNNING: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// Kills all children of this program and what they leave, and waits until all of them have ended; as long as the
/// result is held, no thread starts another. Processes that do not end for [`REAP_WITHIN`] remain.
pub fn kill_all() -> MutexGuard<'static, BTreeSet<u32>> {
    let mut running = lock(&RUNNING);
    let own = rustix::process::getpid();
    // A killed process is gone some time after the signal, and what it started (a program of a job, the nodes within a
    // namespace) some time later. What has lost its parent becomes a child of this program from now on.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_child_subreaper(Some(own));
    let _ = wait_until("all children have ended", REAP_WITHIN, || {
        let children = process_tree::descendants(own.as_raw_pid() as u32, 1);
        for pid in running.iter().chain(&children).filter_map(|pid| Pid::from_raw(*pid as i32)) {
            // Fails if it has just ended.
            let _ = kill_process(pid, Signal::KILL);
        }
        loop {
            match waitpid(None, WaitOptions::NOHANG) {
                Ok(Some((pid, _))) => {
                    running.remove(&(pid.as_raw_pid() as u32));
                }
                Err(Errno::INTR) => {}
                Ok(None) => return None,
                Err(_) => return Some(()),
            }
        }
    });
    running
}

/// A child process and the file that holds its output.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
    pub started: Instant,
}

impl Process {
    /// Starts a program; its output is appended to `log`. Of this process's settings in the environment, it gets those
    /// that `command` sets. Unless `command` puts it into a process group of its own, a signal to this one reaches it.
    ///
    /// # Errors
    /// The program or the log file cannot be opened.
    pub fn start(command: &mut Command, log: &Path) -> Result<Process> {
        let open = || -> Result<File> {
            let file = OpenOptions::new().create(true).append(true).mode(0o600).open(log);
            file.map_err(LabError::io(format!("open {}", log.display())))
        };
        let is_ours = |name: &OsString| name.to_string_lossy().starts_with("PHALANX_");
        for name in std::env::vars_os().map(|(name, _)| name).filter(is_ours) {
            if !command.get_envs().any(|(set, _)| set == name) {
                command.env_remove(name);
            }
        }
        let mut running = lock(&RUNNING);
        let started = Instant::now();
        let child = command.env("NO_COLOR", "1").stdin(Stdio::piped()).stdout(open()?).stderr(open()?).spawn();
        let child = child.map_err(LabError::io(format!("start {}", command.get_program().display())))?;
        running.insert(child.id());
        Ok(Process { child, log: log.to_path_buf(), started })
    }

    /// Its pid: a restarted node has another one.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// The system refused.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.exited().is_some() {
            return Ok(());
        }
        kill_process(Pid::from_child(&self.child), signal)
            .map_err(|e| LabError::Io { what: format!("signal pid {}", self.child.id()), source: e.into() })
    }

    /// How it ended, if it has.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        let mut running = lock(&RUNNING);
        let ended = self.child.try_wait().ok().flatten();
        if ended.is_some() {
            running.remove(&self.child.id());
        }
        ended
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It still runs after `within`.
    pub fn wait(&mut self, within: Duration) -> Result<ExitStatus> {
        wait_until(&format!("pid {} ends", self.pid()), within, || self.exited())
    }

    /// Kills it at once and reaps it.
    ///
    /// # Errors
    /// The system refused.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::KILL)?;
        self.wait(REAP_WITHIN)
    }

    /// Types a line on its standard input.
    ///
    /// # Errors
    /// It no longer reads.
    pub fn type_line(&mut self, line: &str) -> Result<()> {
        let stdin = self.child.stdin.as_mut().ok_or_else(|| LabError::Answer("its standard input is closed".into()))?;
        stdin
            .write_all(format!("{line}\n").as_bytes())
            .and_then(|()| stdin.flush())
            .map_err(LabError::io("type a line"))
    }

    /// Ends its standard input, as Ctrl+D does.
    pub fn close_stdin(&mut self) {
        self.child.stdin = None;
    }

    /// Everything it (and earlier processes with the same log file) wrote.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// State letter of the process as the kernel sees it (`T` is stopped); `None` where there is no /proc.
    pub fn state(&self) -> Option<char> {
        state_of(self.pid())
    }

    /// CPU time used so far, all threads; `None` where there is no /proc.
    pub fn cpu(&self) -> Option<Duration> {
        let fields = stat_fields(self.pid())?;
        // Fields 14 and 15 of proc(5), in ticks of 10 ms; the list starts at field 3.
        let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
        Some(Duration::from_millis(ticks * 10))
    }

    /// Resident memory in KiB; `None` where there is no /proc.
    pub fn resident_kib(&self) -> Option<u64> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).ok()?;
        text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.split_whitespace().next()?.parse().ok()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // There is no caller to return an error to; a child that has already ended is fine.
        let _ = self.kill();
    }
}

/// State letter of a process; `None` if there is none, or no /proc.
pub(super) fn state_of(pid: u32) -> Option<char> {
    stat_fields(pid)?.first()?.chars().next()
}

/// Fields of /proc/PID/stat from the state on: what precedes (pid and name) may hold blanks.
fn stat_fields(pid: u32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let rest = &text[text.rfind(')')? + 1..];
    Some(rest.split_whitespace().map(str::to_string).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, log: &Path) -> Process {
        Process::start(Command::new("/bin/sh").args(["-c", script]), log).unwrap()
    }

    #[test]
    fn freezes_thaws_and_kills_its_child() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = shell("exec cat", &dir.path().join("log"));
        child.signal(Signal::STOP).unwrap();
        wait_until("it is stopped", REAP_WITHIN, || (child.state() == Some('T')).then_some(())).unwrap();
        child.signal(Signal::CONT).unwrap();
        child.type_line("hello").unwrap();
        wait_until("it answers", REAP_WITHIN, || (child.output() == "hello\n").then_some(())).unwrap();
        assert!(!child.kill().unwrap().success());
        assert!(child.state().is_none(), "reaped");
    }

    #[test]
    fn output_of_both_streams_survives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        for _ in 0..2 {
            assert_eq!(shell("echo out; echo err >&2; exit 3", &log).wait(REAP_WITHIN).unwrap().code(), Some(3));
        }
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "out\nerr\nout\nerr\n");
    }
}
