//! A program on a terminal of its own: types input and reads output.
//!
//! The terminal comes from `script` (Debian package bsdutils), which needs no unsafe code of ours.
//! Not here: what programs print into pipes and files (`process.rs`).

use super::{LabError, Result, poll};
use crate::lock::{Mutex, lock};
use crate::node::spawn;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// Longest wait for expected output.
const PATIENCE: Duration = Duration::from_secs(15);
/// Printed before the exit code when the program has ended.
const ENDED: &str = "[ended with ";

/// A terminal; dropping it hangs up on the program.
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    shown: Arc<Mutex<String>>,
    /// Position up to which the output was checked.
    seen: usize,
}

impl Terminal {
    /// Runs a command line of the shell with these variables besides its environment.
    ///
    /// # Errors
    /// `script` is missing.
    pub fn start(command: &str, envs: &[(&str, &str)]) -> Result<Terminal> {
        // The shell around the program ignores Ctrl+C, so that it can print the exit code.
        let command = format!("trap : INT; {command}; echo \"{ENDED}$?]\"");
        let mut child = Command::new("script")
            .args(["-qec", &command, "/dev/null"])
            .env("SHELL", "/bin/sh")
            .env("TERM", "xterm")
            .envs(envs.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(LabError::io("start script (Debian package bsdutils)"))?;
        let shown = Arc::new(Mutex::new(String::new()));
        let (output, all) = (child.stdout.take(), Arc::clone(&shown));
        let reads = spawn::spawn("terminal", move || {
            let Some(mut output) = output else { return };
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = output.read(&mut buffer) {
                *lock(&all) += &String::from_utf8_lossy(&buffer[..read]);
            }
        });
        let terminal = Terminal { child, shown, seen: 0 };
        reads.map_err(LabError::io("start a thread"))?;
        Ok(terminal)
    }

    /// Types a line and Enter.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn type_line(&mut self, line: &str) -> Result<()> {
        self.press(format!("{line}\r").as_bytes())
    }

    /// Sends the bytes of keys.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn press(&mut self, keys: &[u8]) -> Result<()> {
        let typed = self.child.stdin.as_mut().map_or(Ok(()), |stdin| stdin.write_all(keys));
        typed.map_err(LabError::io("type on the terminal"))
    }

    /// Waits until this text is shown, after the text that was expected last.
    ///
    /// # Errors
    /// It is not shown in time; the error has what was shown.
    pub fn expect(&mut self, text: &str) -> Result<()> {
        let seen = self.seen;
        self.seen = poll::wait_explained(&format!("{text:?} on the terminal"), PATIENCE, || {
            let shown = lock(&self.shown);
            shown[seen..].find(text).map(|at| seen + at + text.len()).ok_or_else(|| shown[seen..].to_string())
        })?;
        Ok(())
    }

    /// Waits until the program has ended with this exit code.
    ///
    /// # Errors
    /// It does not end in time, or with another code; the error has what was shown.
    pub fn expect_end(&mut self, code: i32) -> Result<()> {
        self.expect(&format!("{ENDED}{code}]"))
    }

    /// All that was shown so far.
    pub fn shown(&self) -> String {
        lock(&self.shown).clone()
    }

    /// Whether the program still runs.
    pub fn is_running(&self) -> bool {
        !lock(&self.shown).contains(ENDED)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_gets_input_and_its_output_and_end_are_seen() {
        let mut terminal = Terminal::start("read -r line; echo \"$WORD, $line\"; sh -c 'exit 3'", &[("WORD", "hello")])
            .expect("script is there");
        assert!(terminal.is_running());
        terminal.type_line("you there").unwrap();
        terminal.expect("hello, you there").unwrap();
        terminal.expect_end(3).unwrap();
        assert!(!terminal.is_running());

        let endless = r#"sh -c 'trap "exit 7" INT; echo ready; while :; do sleep 0.05; done'"#;
        let mut terminal = Terminal::start(endless, &[]).unwrap();
        terminal.expect("ready").unwrap();
        terminal.press(b"\x03").unwrap();
        terminal.expect_end(7).unwrap();
    }
}
