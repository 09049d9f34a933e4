//! How much work requests may do together, so that expensive requests do not add up: a token bucket of steps that log
//! time fills.
//!
//! A request may use the whole budget only when the bucket is nearly full. With less in the bucket it may use a small
//! budget, and with an empty bucket a minimal one, which is enough for most requests. A request that needs more then is
//! undone, and the answer says when to retry: the endpoint waits, not the log. So the work of entries that are in
//! the log and not applied yet is never much more than one bucket.
//!
//! Invariants: A1 the bucket's level follows from the entries' times and from the steps of their commands alone, and is
//! stored with their changes: it is the same on every node. A2 a request on its own may always use the whole budget.
//! Not here: what a step is (`step_cost.rs`), where requests wait (`node/sql/load_permit.rs`).

use crate::services::sql::commands::STEPS_MAX;
use serde::{Deserialize, Serialize};

/// Capacity of the bucket.
const BUCKET_STEPS: i64 = STEPS_MAX as i64;
/// Steps that a millisecond of log time adds; the bucket fills in `FILLS_IN_MS`.
const STEPS_PER_MS: i64 = BUCKET_STEPS / FILLS_IN_MS as i64;
const FILLS_IN_MS: u64 = 600;
/// Shortest retry delay that a client is given.
const WAIT_MS_MIN: u64 = 250;
/// From this level on a request may use the whole budget.
const MUCH_FROM: i64 = BUCKET_STEPS / 4 * 3;
/// The budget of a request below that level, and when the bucket is empty.
const LITTLE_STEPS: u64 = STEPS_MAX / 50;
const LEAST_STEPS: u64 = STEPS_MAX / 200;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowance {
    /// Steps left; negative after a request that used more than there was.
    left: i64,
    /// Log time of the newest command.
    at_ms: u64,
}

impl Default for Allowance {
    fn default() -> Allowance {
        Allowance { left: BUCKET_STEPS, at_ms: 0 }
    }
}

impl Allowance {
    /// The budget of a command at this log time.
    pub fn budget(&mut self, now_ms: u64) -> u64 {
        let passed = i64::try_from(now_ms.saturating_sub(self.at_ms)).unwrap_or(i64::MAX);
        self.left = self.left.saturating_add(passed.saturating_mul(STEPS_PER_MS)).min(BUCKET_STEPS);
        self.at_ms = self.at_ms.max(now_ms);
        match self.left {
            MUCH_FROM.. => STEPS_MAX,
            1.. => LITTLE_STEPS,
            _ => LEAST_STEPS,
        }
    }

    /// Takes the steps that a command used.
    pub fn charge(&mut self, steps: u64) {
        self.left = self.left.saturating_sub(i64::try_from(steps).unwrap_or(i64::MAX));
    }

    /// Milliseconds after which a command that needs more should be retried: when the bucket has filled, if no other
    /// command uses much before. A retry that comes too early takes steps out of the bucket, so there is a minimum.
    pub fn wait_ms(&self) -> u64 {
        let missing = MUCH_FROM.saturating_sub(self.left).max(0).cast_unsigned();
        missing.div_ceil(STEPS_PER_MS.cast_unsigned()).max(WAIT_MS_MIN)
    }
}

#[cfg(test)]
mod tests {
    use crate::services::sql::budget::token_bucket::*;

    #[test]
    fn one_request_may_do_much_and_the_next_waits_for_log_time() {
        let mut allowance = Allowance::default();
        assert_eq!(allowance.budget(1000), STEPS_MAX);
        allowance.charge(STEPS_MAX);
        assert_eq!(allowance.budget(1000), LEAST_STEPS);
        let wait_ms = allowance.wait_ms();
        assert!((400..=600).contains(&wait_ms), "{wait_ms}");
        assert_eq!(allowance.budget(1000 + wait_ms - 1), LITTLE_STEPS);
        assert_eq!(allowance.budget(1000 + wait_ms), STEPS_MAX);
    }

    #[test]
    fn in_any_second_no_more_is_allowed_than_a_bucket_and_what_fills_it() {
        let (mut allowance, mut used) = (Allowance::default(), 0);
        for now_ms in 0..1000 {
            // Eight commands in each millisecond that use all that they may.
            for _ in 0..8 {
                let steps = allowance.budget(now_ms);
                if steps > LEAST_STEPS {
                    allowance.charge(steps);
                    used += steps;
                }
            }
        }
        assert!(used <= STEPS_MAX * 3, "{used}");
    }

    #[test]
    fn log_time_that_stands_still_or_goes_back_fills_nothing() {
        let mut allowance = Allowance::default();
        allowance.budget(5000);
        allowance.charge(2 * STEPS_MAX);
        assert_eq!((allowance.budget(5000), allowance.budget(10)), (LEAST_STEPS, LEAST_STEPS));
        assert_eq!(allowance.budget(u64::MAX), STEPS_MAX);
    }
}
