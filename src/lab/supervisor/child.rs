//! The node's process. Its signals, input and end.
//!
//! It is in a process group of its own, so that what a terminal sends to a group comes to the supervisor alone, once;
//! its output goes where that of the supervisor goes.

use crate::faults::control::ProcessState;
use crate::lab::{LabError, Result, wait_until};
use crate::types::NodeId;
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child as Process, ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

/// Time for the node and the kernel to confirm an action.
pub const CONFIRM_WITHIN: Duration = Duration::from_secs(10);

/// The node that is supervised.
#[derive(Clone, Debug)]
pub struct Supervised {
    pub id: NodeId,
    /// Its command line: the program and its arguments.
    pub command: Vec<OsString>,
    pub data_dir: PathBuf,
    /// Its own folder.
    pub node_dir: PathBuf,
}

pub struct Child {
    node: Supervised,
    process: Option<Process>,
    input: Option<ChildStdin>,
    /// The input of the supervisor has ended.
    has_input_ended: bool,
}

impl Child {
    pub fn new(node: &Supervised) -> Child {
        Child { node: node.clone(), process: None, input: None, has_input_ended: false }
    }

    /// Starts it; it must not run. The calling thread must be the last one of this process to end: the kernel kills the
    /// child when the thread that has started it ends.
    pub fn start(&mut self) -> Result<()> {
        let mut command = Command::new(&self.node.command[0]);
        command.args(&self.node.command[1..]).process_group(0).stdin(Stdio::piped());
        let mut process = command.spawn().map_err(LabError::io("start the node"))?;
        self.input = process.stdin.take().filter(|_| !self.has_input_ended);
        self.process = Some(process);
        Ok(())
    }

    /// `None` if it does not run.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// Whether it was not reaped yet.
    pub fn is_alive(&self) -> bool {
        self.process.is_some()
    }

    /// How it has ended, once.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.process.as_mut()?.try_wait().ok().flatten()?;
        self.process = None;
        self.input = None;
        Some(status)
    }

    /// Sends it a signal, if it has not ended.
    pub fn signal(&self, signal: Signal) {
        if let Some(process) = &self.process {
            // Fails only if it has ended: it is not reaped before `ended`.
            let _ = kill_process(Pid::from_child(process), signal);
        }
    }

    /// Waits for its end.
    pub fn reap(&mut self, within: Duration) -> Result<()> {
        wait_until("the node has ended", within, || self.ended().map(drop))
    }

    pub fn process_state(&self) -> ProcessState {
        let Some(process) = &self.process else { return ProcessState::Ended };
        match crate::lab::process::state_of(process.id()) {
            Some('T') => ProcessState::Frozen,
            _ => ProcessState::Running,
        }
    }

    /// Types a line into its console. A node that is frozen with a full pipe loses it.
    pub fn type_line(&mut self, line: &str) {
        if let Some(input) = &mut self.input {
            let _ = writeln!(input, "{line}").and_then(|()| input.flush());
        }
    }

    /// Ends its input, now and after each start.
    pub fn close_input(&mut self) {
        self.has_input_ended = true;
        self.input = None;
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.is_alive() {
            self.signal(Signal::KILL);
            let _ = self.reap(CONFIRM_WITHIN);
        }
    }
}
