//! Ctrl+C in the SQL shell: it ends the statement in progress, not the shell.
//!
//! The signal is blocked in all threads and received by one that waits for it, so it never interrupts other code. While
//! a line is typed the terminal sends no signal: the line editor reads the key. Other signals end the shell as usual.
//! Not here: the statement in progress (`mod.rs`).

use crate::node::spawn;
use crossbeam_channel::{Receiver, bounded, select};
use nix::sys::signal::{SigSet, Signal};

/// Receives Ctrl+C.
pub struct Interrupts(Receiver<()>);

impl Interrupts {
    /// Receives the signal from now on; `None` if the system refuses, and then the signal ends the process as usual.
    /// Threads that were started earlier do not block the signal and would still be ended by it.
    pub fn catch() -> Option<Interrupts> {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGINT);
        signals.thread_block().ok()?;
        // When the queue is full, one interrupt is unread already, which is enough.
        let (sender, inbox) = bounded(1);
        let waits = spawn::spawn("interrupts", move || {
            while signals.wait().is_ok() {
                let _ = sender.try_send(());
            }
        });
        match waits {
            Ok(_) => Some(Interrupts(inbox)),
            Err(_) => {
                let _ = signals.thread_unblock();
                None
            }
        }
    }

    /// Whether an interrupt came since the last call.
    pub fn came(&self) -> bool {
        self.0.try_recv().is_ok()
    }

    /// Discards interrupts that were meant for work that is over.
    pub fn forget(&self) {
        let _ = self.came();
    }

    /// Runs work on a thread of its own and waits for it; `None`: an interrupt came first, and the work continues
    /// without being waited for.
    pub fn or_done<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (sender, done) = bounded(1);
        let started = spawn::spawn("question", move || drop(sender.send(work())));
        started.ok()?;
        select! {
            recv(done) -> result => result.ok(),
            recv(self.0) -> _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::cli::sql::interrupt::*;

    #[test]
    fn an_interrupt_ends_the_wait_and_the_work_continues() {
        let (sender, inbox) = bounded(1);
        let interrupts = Interrupts(inbox);
        sender.send(()).unwrap();
        interrupts.forget();
        assert_eq!(interrupts.or_done(|| 7), Some(7), "an old one ends nothing");
        let (go, goes_on) = bounded::<()>(1);
        let (ended, end) = bounded(1);
        let interrupted = interrupts.or_done(move || {
            sender.send(()).unwrap();
            goes_on.recv().unwrap();
            ended.send("done").unwrap();
        });
        assert_eq!(interrupted, None);
        go.send(()).unwrap();
        assert_eq!(end.recv(), Ok("done"));
    }
}
