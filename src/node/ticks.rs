//! When raft's ticks are due, for a thread that sleeps through several of them.
//!
//! Invariants: K1 a tick that passed while the thread slept, and can ring no timer, comes before the input that woke it:
//! otherwise raft would measure the time between two heartbeats as up to twice as long. K2 a tick that may ring a timer
//! comes after all inputs that have arrived: a node that was late itself holds no silence against others.
//! Not here: how many ticks can ring no timer (`threads/core/turns.rs`).

use crate::limits::TICK_MS;
use std::time::{Duration, Instant};

const TICK: Duration = Duration::from_millis(TICK_MS);
/// A process that was frozen for longer than this does not make up for the ticks it missed.
const CATCH_UP_MAX: Duration = Duration::from_millis(100);

/// The time of the next tick.
#[derive(Debug)]
pub struct TickClock {
    next: Instant,
}

impl TickClock {
    pub fn new(now: Instant) -> TickClock {
        TickClock { next: now + TICK }
    }

    /// Until when the thread may sleep if the next `skip` ticks can ring no timer.
    pub fn wake_at(&self, skip: u32) -> Instant {
        self.next + TICK * skip
    }

    /// How many of the `skip` ticks are due before the inputs.
    pub fn due_before_inputs(&mut self, skip: u32, now: Instant) -> u32 {
        self.take(now, skip)
    }

    /// How many ticks are due after the inputs.
    pub fn due_after_inputs(&mut self, now: Instant) -> u32 {
        if now > self.next + CATCH_UP_MAX {
            self.next = now;
        }
        self.take(now, u32::MAX)
    }

    fn take(&mut self, now: Instant, most: u32) -> u32 {
        let mut taken = 0;
        while taken < most && self.next <= now {
            self.next += TICK;
            taken += 1;
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_that_may_fire_a_timer_come_after_the_inputs() {
        let start = Instant::now();
        let mut clock = TickClock::new(start);
        assert_eq!(clock.wake_at(9), start + TICK * 10);
        // A heartbeat wakes it after seven ticks; nine could ring no timer.
        assert_eq!((clock.due_before_inputs(9, start + TICK * 7), clock.due_after_inputs(start + TICK * 7)), (7, 0));
        // It slept to the end: the tenth may ring.
        let end = start + TICK * 17;
        assert_eq!((clock.due_before_inputs(9, end), clock.due_after_inputs(end)), (9, 1));
        // Nothing may be skipped: all come after the inputs.
        assert_eq!((clock.due_before_inputs(0, end + TICK * 2), clock.due_after_inputs(end + TICK * 2)), (0, 2));
    }

    #[test]
    fn a_frozen_process_does_not_make_up_for_all_it_missed() {
        let start = Instant::now();
        let mut clock = TickClock::new(start);
        let thawed = start + Duration::from_secs(5);
        assert_eq!((clock.due_before_inputs(9, thawed), clock.due_after_inputs(thawed)), (9, 1));
        assert_eq!(clock.wake_at(0), thawed + TICK);
    }
}
