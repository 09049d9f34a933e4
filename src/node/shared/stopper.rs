//! The switch that stops this process.
//!
//! The first Ctrl+C (or SIGTERM, or `quit`) begins an orderly stop; a second one exits at once. Nothing is lost either
//! way: what was acknowledged is on a quorum's disks.
//! Not here: how the node stops then (`node/process/stop.rs`).

use crate::lock::{Mutex, lock};
use crate::node::process::logging;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Exit code of a second Ctrl+C: as a shell reports an interrupt.
const EXIT_INTERRUPTED: i32 = 130;
/// Different causes this close to each other are one event.
const SAME_EVENT_MAX: Duration = Duration::from_secs(1);

/// The effect of a call of [`Stopper::stop`].
#[derive(Debug, PartialEq, Eq)]
enum StopStep {
    Begin,
    SameEvent,
    AtOnce,
}

/// Asks the node to stop.
#[derive(Clone, Debug)]
pub struct Stopper {
    first: Sender<&'static str>,
    asked: Arc<Mutex<Option<(&'static str, Instant)>>>,
}

impl Stopper {
    /// The switch, and what the main thread waits on.
    pub fn new() -> (Stopper, Receiver<&'static str>) {
        let (first, wait) = bounded(1);
        (Stopper { first, asked: Arc::new(Mutex::default()) }, wait)
    }

    /// Begins an orderly stop; the second call ends the process at once. Another cause within [`SAME_EVENT_MAX`] is the
    /// same event: a terminal that is closed sends SIGHUP and ends the input, a service manager sends SIGHUP after
    /// SIGTERM.
    pub fn stop(&self, why: &'static str) {
        match self.note(why, Instant::now()) {
            StopStep::Begin => {}
            StopStep::SameEvent => return,
            StopStep::AtOnce => {
                logging::print("phalanx: stopped at once, as asked twice");
                logging::exit(EXIT_INTERRUPTED);
            }
        }
        // Succeeds: this is the only message that is ever sent.
        let _ = self.first.try_send(why);
    }

    fn note(&self, why: &'static str, now: Instant) -> StopStep {
        let mut asked = lock(&self.asked);
        match *asked {
            None => {
                *asked = Some((why, now));
                StopStep::Begin
            }
            Some((first, at)) if first != why && now.duration_since(at) < SAME_EVENT_MAX => StopStep::SameEvent,
            Some(_) => StopStep::AtOnce,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::node::shared::stopper::*;

    #[test]
    fn two_causes_at_once_are_one_event_and_the_same_twice_is_impatience() {
        let second = Duration::from_secs(1);
        let (stopper, _wait) = Stopper::new();
        let begun = Instant::now();
        assert_eq!(stopper.note("hangup", begun), StopStep::Begin);
        assert_eq!(stopper.note("termination", begun + second / 2), StopStep::SameEvent);
        assert_eq!(stopper.note("end of input", begun + second / 2), StopStep::SameEvent);
        assert_eq!(stopper.note("hangup", begun + second / 2), StopStep::AtOnce);
        assert_eq!(stopper.note("termination", begun + second), StopStep::AtOnce);
    }
}
