//! What the system tells this process: Ctrl+C, SIGTERM and SIGHUP, each by its name.
//!
//! A SIGHUP that was ignored when the process began (`nohup`) stays ignored, here and in what it starts.
//! Not here: what a signal means to whom (`start.rs`, `cli/`).

use super::threads;
use signal_hook::consts::{SIGALRM, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;
use std::io;
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
    let mut signals = Signals::new([SIGTERM])?;
    if !is_ignored(SIGHUP) {
        signals.add_signal(SIGHUP)?;
    }
    threads::spawn("signals", move || {
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

/// Whether this process began with a signal ignored. Known where there is a /proc; elsewhere none counts as ignored.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    ignored(&status) & 1 << (signal - 1) != 0
}

/// The mask of ignored signals in the words of proc(5).
fn ignored(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_which_signals_are_ignored() {
        assert_eq!(ignored("Name:\tx\nSigBlk:\t0000000000000001\nSigIgn:\t0000000000001001\n"), 0x1001);
        assert_eq!(ignored(""), 0);
    }
}
