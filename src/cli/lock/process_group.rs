//! The processes under a lock: the guardian, which leads a process group of its own, and the command, which is in that
//! group with all processes that it starts.
//!
//! The group lives as long as the guardian, so its number cannot be reused while it may be signalled. On a terminal the
//! group is in the foreground instead of this process: Ctrl+C and Ctrl+Z reach the command. When the command is
//! stopped, this process stops as well, as the shell expects; both continue together.
//! Not here: the lock (`mod.rs`), what the guardian does (`guardian.rs`).

use super::lease::{Lease, since_boot};
use crate::lab::poll;
use crate::node::spawn;
use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use nix::sys::signal::{SigSet, Signal as Blocked};
use rustix::process::{self, Pid, Signal, WaitId, WaitIdOptions};
use rustix::termios;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

/// Longest time for the guardian to start, and to end on request.
const GUARDIAN_MAX: Duration = Duration::from_secs(5);
/// Longest wait for killed processes to be gone; only the kernel can hold them longer.
const GONE_MAX: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Capacity of the queue of the guardian's words that are not read yet.
const WORDS_MAX: usize = 16;

/// What the guardian reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuardianReport {
    /// The lock was acquired or renewed by a request that was sent at this time.
    Kept(Duration),
    /// Another holder has the lock, or had it meanwhile.
    Lost,
    /// The guardian has ended.
    Gone,
}

/// The state of the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandState {
    Runs,
    Ended,
}

/// The guardian's process group with the command in it.
pub struct Group {
    guardian: Child,
    orders: Option<ChildStdin>,
    words: Receiver<GuardianReport>,
    id: Pid,
    command: Child,
    /// The terminal whose foreground the group was given.
    terminal: Option<File>,
}

impl Group {
    /// Starts the guardian and the command.
    ///
    /// # Errors
    /// One of them cannot be started; then neither runs.
    pub fn start(command: &[OsString], lease: &Lease) -> io::Result<Group> {
        let mut guardian = start_guardian()?;
        let id = Pid::from_child(&guardian);
        let started = (|| {
            let mut orders = guardian.stdin.take();
            let line = serde_json::to_string(lease)? + "\n";
            orders.as_mut().map_or(Ok(()), |orders| orders.write_all(line.as_bytes()))?;
            let words = listen(&mut guardian)?;
            // From here on the guardian survives signals to the group, and notices when this process is gone.
            match words.recv_timeout(GUARDIAN_MAX) {
                Ok(GuardianReport::Kept(_)) => {}
                _ => return Err(io::Error::other("the guardian process did not start")),
            }
            let terminal = foreground();
            if let Some(terminal) = &terminal {
                give(terminal, id);
            }
            let spawned = Command::new(&command[0])
                .args(&command[1..])
                .env("PHALANX_LOCK_TOKEN", lease.token.to_string())
                .env("PHALANX_LOCK_NAME", &lease.name)
                .process_group(id.as_raw_nonzero().get())
                .spawn();
            if let (Err(_), Some(terminal)) = (&spawned, &terminal) {
                give(terminal, process::getpgrp());
            }
            Ok((orders, words, spawned?, terminal))
        })();
        match started {
            Ok((orders, words, command, terminal)) => Ok(Group { guardian, orders, words, id, command, terminal }),
            Err(e) => {
                let _ = guardian.kill();
                let _ = guardian.wait();
                Err(e)
            }
        }
    }

    /// Number of the process group.
    pub fn id(&self) -> i32 {
        self.id.as_raw_nonzero().get()
    }

    /// Signals the whole group. The guardian ignores all signals but SIGKILL and SIGSTOP.
    pub fn signal(&self, signal: Signal) {
        // The group may be empty by now.
        let _ = process::kill_process_group(self.id, signal);
    }

    /// The next word of the guardian, after a short wait.
    pub fn hear(&self, within: Duration) -> Option<GuardianReport> {
        match self.words.recv_timeout(within) {
            Ok(word) => Some(word),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(GuardianReport::Gone),
        }
    }

    /// Checks the command. If it was stopped from the terminal, this process stops as well, and returns when both
    /// continue.
    ///
    /// # Errors
    /// The command's state cannot be read.
    pub fn step(&mut self) -> io::Result<CommandState> {
        let id = || WaitId::Pid(Pid::from_child(&self.command));
        let look = WaitIdOptions::EXITED | WaitIdOptions::STOPPED | WaitIdOptions::NOHANG;
        // A command that has ended is not reaped here, so that its process number is not reused.
        let Some(seen) = process::waitid(id(), look | WaitIdOptions::NOWAIT)? else { return Ok(CommandState::Runs) };
        if !seen.stopped() {
            return Ok(CommandState::Ended);
        }
        let _ = process::waitid(id(), WaitIdOptions::STOPPED | WaitIdOptions::NOHANG)?;
        if seen.stopping_signal() == Some(Signal::STOP.as_raw()) {
            // Not stopped by the terminal: the sender of SIGSTOP will continue it.
            return Ok(CommandState::Runs);
        }
        if let Some(terminal) = self.terminal.take() {
            give(&terminal, process::getpgrp());
        }
        process::kill_process(process::getpid(), Signal::STOP)?;
        // Resumed in the foreground or in the background (`fg`, `bg`).
        self.terminal = foreground();
        if let Some(terminal) = &self.terminal {
            give(terminal, self.id);
        }
        self.signal(Signal::CONT);
        Ok(CommandState::Runs)
    }

    /// Waits for the end of the command and of all processes in its group: what has not ended by then is killed.
    /// `None`: a process cannot be ended even so.
    pub fn end(&mut self, kill_at: Duration) -> Option<ExitStatus> {
        while matches!(self.step(), Ok(CommandState::Runs)) && since_boot() < kill_at {
            poll::pause(LOOK_EVERY);
        }
        let has_ended = matches!(self.step(), Ok(CommandState::Ended));
        if has_ended {
            self.dismiss();
        } else {
            // Ends the guardian as well.
            self.signal(Signal::KILL);
            let _ = self.guardian.wait();
        }
        let status = self.reap()?;
        // Ends whatever the command has left behind.
        self.signal(Signal::TERM);
        self.signal(Signal::CONT);
        let gone_at = since_boot().max(kill_at) + GONE_MAX;
        while is_at_work(self.id) {
            match since_boot() {
                now if now >= gone_at => return None,
                now if now >= kill_at => self.signal(Signal::KILL),
                _ => {}
            }
            poll::pause(LOOK_EVERY);
        }
        if let Some(terminal) = self.terminal.take() {
            give(&terminal, process::getpgrp());
            if status.signal() == Some(Signal::INT.as_raw()) {
                // Ctrl+C was meant for everything that runs in the terminal's foreground: also for a script around this
                // program.
                let _ = process::kill_current_process_group(Signal::INT);
            }
        }
        Some(status)
    }

    fn dismiss(&mut self) {
        if let Some(orders) = &mut self.orders {
            // The guardian may have ended already.
            let _ = orders.write_all(b"done\n");
        }
        let by = since_boot() + GUARDIAN_MAX;
        while matches!(self.guardian.try_wait(), Ok(None)) && since_boot() < by {
            poll::pause(LOOK_EVERY);
        }
        let _ = self.guardian.kill();
        let _ = self.guardian.wait();
    }

    fn reap(&mut self) -> Option<ExitStatus> {
        let by = since_boot() + GONE_MAX;
        loop {
            match self.command.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if since_boot() < by => poll::pause(LOOK_EVERY),
                _ => return None,
            }
        }
    }
}

/// Whether a process of the group can still run. A process that has ended and has not been reaped, as in containers
/// without an init, cannot.
fn is_at_work(group: Pid) -> bool {
    if process::test_kill_process_group(group).is_err() {
        return false;
    }
    let mut stats = std::fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|row| {
        row.file_name().to_str()?.parse::<u32>().ok()?;
        std::fs::read_to_string(row.path().join("stat")).ok()
    });
    let mut is_known = false;
    let is_found = stats.any(|stat| {
        is_known = true;
        is_member_at_work(&stat, group.as_raw_nonzero().get())
    });
    // Without /proc, every process that can be signalled counts.
    is_found || !is_known
}

/// Parses /proc/PID/stat: state, parent and process group follow the name, which may contain any characters.
fn is_member_at_work(stat: &str, group: i32) -> bool {
    let mut fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
    let (state, in_group) = (fields.next(), fields.nth(1));
    in_group == Some(&group.to_string()) && !matches!(state, Some("Z" | "X"))
}

fn start_guardian() -> io::Result<Child> {
    // This path is valid even if the program's file was replaced since.
    let itself = Path::new("/proc/self/exe");
    let exe = if itself.exists() { itself.to_path_buf() } else { std::env::current_exe()? };
    Command::new(exe)
        .arg0("phalanx")
        .args(["lock", "keep"])
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
}

fn listen(guardian: &mut Child) -> io::Result<Receiver<GuardianReport>> {
    let (tell, words) = bounded(WORDS_MAX);
    let said = guardian.stdout.take().ok_or_else(|| io::Error::other("stdout of the guardian was piped"))?;
    spawn::spawn("guardian", move || {
        for line in BufReader::new(said).lines() {
            let Ok(line) = line else { return };
            let word = line.strip_prefix("kept ").and_then(|ms| ms.parse().ok()).map(Duration::from_millis);
            if tell.send(word.map_or(GuardianReport::Lost, GuardianReport::Kept)).is_err() {
                return;
            }
        }
    })?;
    Ok(words)
}

/// The terminal, if this process is in the foreground there.
fn foreground() -> Option<File> {
    let terminal = File::options().read(true).write(true).open("/dev/tty").ok()?;
    (termios::tcgetpgrp(&terminal).ok()? == process::getpgrp()).then_some(terminal)
}

/// Puts a process group into the foreground. SIGTTOU, which would stop a background process for it, is blocked
/// meanwhile.
fn give(terminal: &File, to: Pid) {
    let mut stops = SigSet::empty();
    stops.add(Blocked::SIGTTOU);
    let _ = stops.thread_block();
    // Fails if the terminal is gone.
    let _ = termios::tcsetpgrp(terminal, to);
    let _ = stops.thread_unblock();
}

#[cfg(test)]
mod tests {
    use crate::cli::lock::process_group::*;

    #[test]
    fn the_dead_do_not_work() {
        assert!(is_member_at_work("17 (a) b) S 1 42 42 0", 42));
        assert!(!is_member_at_work("17 (sleep) Z 1 42 42 0", 42));
        assert!(!is_member_at_work("17 (sleep) S 42 4 42 0", 42));
    }

    #[test]
    fn a_group_is_at_work_until_its_last_member_has_ended() {
        let mut child = Command::new("sleep").arg("60").process_group(0).spawn().unwrap();
        let group = Pid::from_child(&child);
        assert!(is_at_work(group));
        child.kill().unwrap();
        poll::wait_until("it is dead, though nobody has reaped it", Duration::from_secs(5), || {
            (!is_at_work(group)).then_some(())
        })
        .unwrap();
        child.wait().unwrap();
        assert!(!is_at_work(group));
    }
}
