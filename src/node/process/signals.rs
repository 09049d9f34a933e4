//! Signals to this process: Ctrl+C, SIGTERM and SIGHUP, distinguished.
//!
//! A SIGHUP that was ignored when the process began (`nohup`) stays ignored, here and in child processes.
//! Not here: the effect of a signal (`start.rs`, `cli/`).

use crate::node::spawn;
use signal_hook::consts::{
    SIGALRM, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2, SIGXFSZ,
};
use signal_hook::iterator::Signals;
use std::io;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Ctrl+C (SIGINT).
    Interrupt,
    /// SIGTERM.
    Terminate,
    /// SIGHUP.
    HangUp,
}

/// Calls `on_signal` for each signal from now on, on separate threads.
///
/// # Errors
/// When the system refuses; signals have their default effect then.
pub fn listen(on_signal: impl Fn(Signal) + Send + Sync + 'static) -> io::Result<()> {
    let on_signal = Arc::new(on_signal);
    let on_interrupt = Arc::clone(&on_signal);
    ctrlc::set_handler(move || on_interrupt(Signal::Interrupt)).map_err(io::Error::other)?;
    // Writing to a file that has reached its size limit (ulimit -f) is then an error, not the end of the process.
    signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
    let mut signals = Signals::new([SIGTERM])?;
    if !is_ignored(SIGHUP) {
        signals.add_signal(SIGHUP)?;
    }
    spawn::spawn("signals", move || {
        for signal in signals.forever() {
            on_signal(if signal == SIGHUP { Signal::HangUp } else { Signal::Terminate });
        }
    })?;
    Ok(())
}

/// From now on signals that would end or stop this process, which go to its whole process group, have no effect on it.
///
/// # Errors
/// When the system refuses.
pub fn ignore_signals() -> io::Result<()> {
    let unused = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2, SIGALRM] {
        signal_hook::flag::register(signal, Arc::clone(&unused))?;
    }
    Ok(())
}

/// Whether this process has a controlling terminal that was not closed.
pub fn has_terminal() -> bool {
    std::fs::File::open("/dev/tty").is_ok()
}

/// Whether this process began with a signal ignored.
fn is_ignored(signal: i32) -> bool {
    match std::fs::read_to_string("/proc/self/status") {
        Ok(status) => ignored(&status) & 1 << (signal - 1) != 0,
        Err(_) => is_ignored_by_shells(signal),
    }
}

/// The same where there is no /proc, from a shell that inherits it from this process: a signal that was ignored when a
/// shell began can neither be caught by it nor end it (POSIX, `trap`).
fn is_ignored_by_shells(signal: i32) -> bool {
    let script = format!("trap 'exit 1' {signal}; kill -{signal} $$; exit 0");
    let mut shell = std::process::Command::new("/bin/sh");
    shell.args(["-c", &script]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    shell.status().is_ok_and(|status| status.success())
}

/// The mask of ignored signals, as in proc(5).
fn ignored(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use crate::node::process::signals::*;

    #[test]
    fn reads_which_signals_are_ignored() {
        assert_eq!(ignored("Name:\tx\nSigBlk:\t0000000000000001\nSigIgn:\t0000000000001001\n"), 0x1001);
        assert_eq!(ignored(""), 0);
    }

    /// Runs itself once more, below a shell that ignores the signal.
    #[test]
    fn a_shell_knows_which_signals_are_ignored() {
        const NAME: &str = "node::process::signals::tests::a_shell_knows_which_signals_are_ignored";
        if std::env::var_os("PHALANX_TEST_IGNORES").is_some() {
            return assert!(is_ignored_by_shells(SIGHUP) && !is_ignored_by_shells(SIGTERM));
        }
        assert_eq!(is_ignored_by_shells(SIGHUP), is_ignored(SIGHUP), "as /proc says");
        let mut again = std::process::Command::new("sh");
        again.args(["-c", "trap '' HUP; exec \"$0\" --exact \"$1\""]).arg(std::env::current_exe().unwrap()).arg(NAME);
        let output = again.env("PHALANX_TEST_IGNORES", "1").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && said.contains("1 passed"),
            "{said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}
