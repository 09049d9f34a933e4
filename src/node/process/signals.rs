//! What the system tells this process: Ctrl+C, SIGTERM and SIGHUP, each by its name.
//!
//! A SIGHUP that was ignored when the process began (`nohup`) stays ignored, here and in what it starts.
//! Not here: what a signal means to whom (`start.rs`, `cli/`).

use crate::node::spawn;
use signal_hook::consts::{
    SIGALRM, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2, SIGXFSZ,
};
use signal_hook::iterator::Signals;
use std::io;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// What was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Ctrl+C (SIGINT).
    Interrupt,
    /// SIGTERM.
    Terminate,
    /// SIGHUP.
    HangUp,
}

/// Calls `obey` for each signal from now on, on threads of its own.
///
/// # Errors
/// When the system refuses; signals end the process then, as ever.
pub fn listen(obey: impl Fn(Signal) + Send + Sync + 'static) -> io::Result<()> {
    let obey = Arc::new(obey);
    let on_interrupt = Arc::clone(&obey);
    ctrlc::set_handler(move || on_interrupt(Signal::Interrupt)).map_err(io::Error::other)?;
    // A file that has reached the limit of its size (ulimit -f) is an error of the disk, told as such.
    signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
    let mut signals = Signals::new([SIGTERM])?;
    if !is_ignored(SIGHUP) {
        signals.add_signal(SIGHUP)?;
    }
    spawn::spawn("signals", move || {
        for signal in signals.forever() {
            obey(if signal == SIGHUP { Signal::HangUp } else { Signal::Terminate });
        }
    })?;
    Ok(())
}

/// From now on signals to end or to stop this process, which it gets with all of its process group, do nothing here.
///
/// # Errors
/// When the system refuses.
pub fn withstand() -> io::Result<()> {
    let nobody_asks = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2, SIGALRM] {
        signal_hook::flag::register(signal, Arc::clone(&nobody_asks))?;
    }
    Ok(())
}

/// Whether a terminal controls this process: one that was closed does no more.
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

/// The same where there is no /proc, as a shell has it from this process: what was ignored when it began it can neither catch nor
/// be ended by (POSIX, `trap`).
fn is_ignored_by_shells(signal: i32) -> bool {
    let script = format!("trap 'exit 1' {signal}; kill -{signal} $$; exit 0");
    let mut shell = std::process::Command::new("/bin/sh");
    shell.args(["-c", &script]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    shell.status().is_ok_and(|status| status.success())
}

/// The mask of ignored signals in the words of proc(5).
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
