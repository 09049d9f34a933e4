//! Ctrl+C in a shell: it ends what is under way, not the shell.
//!
//! The signal is blocked in all threads and taken by one that waits for it, so it never comes in the middle of anything. While a
//! line is typed the terminal sends none: the line editor reads the key. Other signals end the shell as ever.
//! Not here: what is under way (`mod.rs`).

use crate::node::spawn;
use crossbeam_channel::{Receiver, bounded, select};
use nix::sys::signal::{SigSet, Signal};

/// Ctrl+C as it comes.
pub struct Interrupts(Receiver<()>);

impl Interrupts {
    /// Takes the signal from now on; `None` if the system does not let us, then it ends the process as ever. Threads that were
    /// started before would still be ended by it.
    pub fn catch() -> Option<Interrupts> {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGINT);
        signals.thread_block().ok()?;
        // Full: one that nobody has looked at yet stands for both.
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

    /// Whether one came since the last look.
    pub fn came(&self) -> bool {
        self.0.try_recv().is_ok()
    }

    /// Forgets those that meant something that is over.
    pub fn forget(&self) {
        let _ = self.came();
    }

    /// Waits for work on a thread of its own; `None`: an interrupt came first, and the work goes on without anyone who waits.
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
    fn whoever_waits_is_let_go_by_an_interrupt_and_work_goes_on() {
        let (sender, inbox) = bounded(1);
        let interrupts = Interrupts(inbox);
        sender.send(()).unwrap();
        interrupts.forget();
        assert_eq!(interrupts.or_done(|| 7), Some(7), "an old one ends nothing");
        let (go, told) = bounded::<()>(1);
        let (ended, end) = bounded(1);
        let interrupted = interrupts.or_done(move || {
            sender.send(()).unwrap();
            told.recv().unwrap();
            ended.send("done").unwrap();
        });
        assert_eq!(interrupted, None);
        go.send(()).unwrap();
        assert_eq!(end.recv(), Ok("done"));
    }
}
