//! Log time, by which everything in the log expires, and the skew between the clocks of nodes.
//!
//! The leader stamps each entry with log time. Times to live, locks, sessions and tokens are counted in it. If it were
//! the leader's wall clock, a leader with a clock an hour ahead would end all of them at once, and under the next
//! leader all new ones would last an hour too long. So log time is *elapsed* time: it begins with the wall clock of the
//! first node and then follows a monotonic clock. Every node keeps it: from the newest stamp that it has applied, and
//! from the leader's log time, which is in each of the leader's heartbeats. A new leader continues from there. A node
//! that has just started takes it from any node that keeps it.
//!
//! Log time is also shown as wall time, so it is adjusted to the wall clock if it is off: at most one part in [`SLEW`],
//! faster or slower, so no period is more than that part too short or too long. The wall clock is the median of all
//! nodes that are heard, so one wrong clock among three or more has no effect.
//!
//! Only if no node has kept the time, after all nodes were down, the wall clock determines how long that was.
//!
//! Invariants: T1 on one node, while it leads, log time never decreases. T2 during a leadership it grows by the elapsed
//! time, plus or minus one part in [`SLEW`]. Not here: reading clocks (`node/shared/clock.rs`), what expires
//! (`services/`).

use crate::types::NodeId;
use std::collections::BTreeMap;

/// Log time is adjusted to the wall clock by at most one part in this many; times to live deviate by at most that part.
pub const SLEW: u64 = 16;
/// Skew above which a warning is logged: far more than the error of a node with a time server, or than the delay of a
/// heartbeat on a busy machine.
pub const SKEW_WARN_MS: i64 = 1_000;
/// Number of consecutive heartbeats that must show the skew, because a single one may have been delayed.
const SKEW_BEATS: u32 = 3;

/// A node's log time. All times are in milliseconds unless a name says otherwise.
#[derive(Debug, Default)]
pub struct LogClock {
    /// Log time at `read_us`, in microseconds, because a busy leader reads it several times in a millisecond.
    at_us: u64,
    /// Monotonic time at which `at_us` was valid; `None`: no node has kept the time since then.
    read_us: Option<u64>,
}

impl LogClock {
    /// Returns the clock at the start of a node: the newest stamp on disk (0: none) is a lower bound.
    pub fn recovered(stamp_ms: u64) -> LogClock {
        LogClock { at_us: stamp_ms.saturating_mul(1000), read_us: None }
    }

    /// Returns the log time for a stamp by the leader. `wall_ms` is the median wall clock.
    pub fn stamp(&mut self, mono_us: u64, wall_ms: u64) -> u64 {
        let wall_us = wall_ms.saturating_mul(1000);
        match self.read_us {
            None => self.at_us = self.at_us.max(wall_us),
            Some(read_us) => {
                let elapsed_us = mono_us.saturating_sub(read_us);
                let most_us = elapsed_us / SLEW;
                let there_us = self.at_us.saturating_add(elapsed_us);
                self.at_us = wall_us.clamp(there_us - most_us, there_us.saturating_add(most_us));
                if most_us == 0 {
                    // The time is too short to be divided by `SLEW`; it is added to the next one.
                    self.at_us = there_us - elapsed_us;
                    return self.at_us / 1000;
                }
            }
        }
        self.read_us = Some(mono_us);
        self.at_us / 1000
    }

    /// Returns the log time without changing anything; `None` if no node has kept it.
    pub fn now(&self, mono_us: u64) -> Option<u64> {
        let read_us = self.read_us?;
        Some(self.at_us.saturating_add(mono_us.saturating_sub(read_us)) / 1000)
    }

    /// Records that an entry with this stamp was applied. It was stamped some time ago, so log time is at least that.
    pub fn applied(&mut self, stamp_ms: u64, mono_us: u64) {
        let stamp_us = stamp_ms.saturating_mul(1000);
        match self.now(mono_us) {
            Some(now_ms) if stamp_ms <= now_ms => {}
            Some(_) => (self.at_us, self.read_us) = (stamp_us, Some(mono_us)),
            // It may have been stamped before all nodes were down.
            None => self.at_us = self.at_us.max(stamp_us),
        }
    }

    /// Records the log time of another node. The leader's is adopted; that of other nodes only while this node has
    /// none, because it has just started and may be elected before it receives a leader's heartbeat.
    pub fn on_log_time(&mut self, log_ms: u64, is_leader: bool, mono_us: u64) {
        if is_leader || self.read_us.is_none() {
            let log_us = log_ms.saturating_mul(1000);
            self.at_us = if is_leader { log_us } else { log_us.max(self.at_us) };
            self.read_us = Some(mono_us);
        }
    }
}

/// The other nodes' wall clocks, compared with this node's.
#[derive(Debug, Default)]
pub struct Skews {
    rows: BTreeMap<NodeId, Skew>,
}

/// One other node's clock.
#[derive(Debug)]
struct Skew {
    /// How far it is ahead of this node's clock (negative: behind), minus the delay of its heartbeats.
    ahead_ms: i64,
    /// Number of consecutive heartbeats that showed more than [`SKEW_WARN_MS`].
    heartbeats: u32,
    /// When the newest heartbeat was received, in microseconds of this node's monotonic clock.
    came_us: u64,
    their_wall_ms: u64,
    is_told: bool,
}

/// A change of a clock's skew that is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SkewNews {
    /// The clock of that node is ahead of this node's by this many milliseconds.
    Off(i64),
    /// The clocks agree again.
    Fine,
}

impl Skews {
    /// Records the wall clock in a node's heartbeat. A heartbeat is used only if the time since the previous one is
    /// about the same at the receiver as at the sender: after this process was suspended, delayed heartbeats arrive
    /// together.
    pub fn on_heartbeat(&mut self, id: NodeId, their_wall_ms: u64, wall_ms: u64, mono_us: u64) -> Option<SkewNews> {
        let ahead_ms = (i128::from(their_wall_ms) - i128::from(wall_ms)).clamp(i64::MIN.into(), i64::MAX.into()) as i64;
        let first = Skew { ahead_ms, heartbeats: 0, came_us: mono_us, their_wall_ms, is_told: false };
        let row = self.rows.entry(id).or_insert(first);
        let came_after_ms = mono_us.saturating_sub(std::mem::replace(&mut row.came_us, mono_us)) / 1000;
        let sent_after_ms = their_wall_ms.saturating_sub(std::mem::replace(&mut row.their_wall_ms, their_wall_ms));
        let is_late = came_after_ms >= sent_after_ms.saturating_add(SKEW_WARN_MS as u64);
        if is_late || came_after_ms < sent_after_ms / 2 {
            return None;
        }
        // A delay makes a clock seem behind, never ahead.
        row.ahead_ms = if ahead_ms >= row.ahead_ms { ahead_ms } else { row.ahead_ms.midpoint(ahead_ms) };
        row.heartbeats =
            if ahead_ms.unsigned_abs() >= SKEW_WARN_MS as u64 { row.heartbeats.saturating_add(1) } else { 0 };
        match (row.heartbeats, row.is_told) {
            (SKEW_BEATS.., false) => {
                row.is_told = true;
                Some(SkewNews::Off(ahead_ms))
            }
            (0, true) => {
                row.is_told = false;
                Some(SkewNews::Fine)
            }
            _ => None,
        }
    }

    /// Removes a node that has failed or is no longer a member: its clock does not count any more.
    pub fn forget(&mut self, id: NodeId) {
        self.rows.remove(&id);
    }

    /// Returns for each node by how many milliseconds its clock is ahead of this node's.
    pub fn all(&self) -> impl Iterator<Item = (NodeId, i64)> + '_ {
        self.rows.iter().map(|(id, row)| (*id, row.ahead_ms))
    }

    /// Returns this node's wall clock corrected to the median of all nodes; of two middle ones, to the nearer to its
    /// own.
    pub fn middle(&self, wall_ms: u64) -> u64 {
        let mut all: Vec<i64> = self.rows.values().map(|row| row.ahead_ms).chain([0]).collect();
        all.sort_unstable();
        let (low, high) = (all[(all.len() - 1) / 2], all[all.len() / 2]);
        let by_ms = if low.unsigned_abs() <= high.unsigned_abs() { low } else { high };
        // A small difference is more likely delay than skew.
        if by_ms.unsigned_abs() < SKEW_WARN_MS as u64 / 10 { wall_ms } else { wall_ms.saturating_add_signed(by_ms) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: u64 = 3_600_000;
    const WALL_MS: u64 = 1_700_000_000_000;
    const SECOND_US: u64 = 1_000_000;

    /// A leader stamps every 100 us for a second, its wall clock being off: how much log time goes by.
    fn a_second_of(clock: &mut LogClock, from_us: u64, wall_ms: impl Fn(u64) -> u64) -> u64 {
        let before = clock.stamp(from_us, wall_ms(0));
        let mut last = before;
        for us in (100..=SECOND_US).step_by(100) {
            let now = clock.stamp(from_us + us, wall_ms(us / 1000));
            assert!(now >= last, "T1: {now} after {last}");
            last = now;
        }
        last - before
    }

    #[test]
    fn a_leader_whose_clock_is_wrong_counts_seconds_all_the_same() {
        for off in [HOUR_MS as i64, -(HOUR_MS as i64), 0] {
            let wrong = |ms: u64| (WALL_MS + ms).saturating_add_signed(off);
            // The cluster was created by a node that is right, and kept by this one as a follower.
            let mut clock = LogClock::default();
            clock.on_log_time(WALL_MS, true, 0);
            let took_ms = a_second_of(&mut clock, 0, wrong);
            assert!((1_000 - 1_000 / SLEW - 1..=1_000 + 1_000 / SLEW + 1).contains(&took_ms), "{off}: {took_ms} ms");
            // The wall clock jumps while the node leads.
            let took_ms = a_second_of(&mut clock, SECOND_US, |ms| if ms < 500 { WALL_MS + ms } else { wrong(ms) });
            assert!((1_000 - 1_000 / SLEW - 1..=1_000 + 1_000 / SLEW + 1).contains(&took_ms), "{off}: {took_ms} ms");
        }
    }

    #[test]
    fn the_next_leader_goes_on_where_log_time_is() {
        let ahead_ms = WALL_MS + HOUR_MS;
        let mut first = LogClock::default();
        assert_eq!(first.stamp(0, ahead_ms), ahead_ms, "the first time comes from the clock of the first node");
        // A follower with another monotonic clock, right, has applied that.
        let mut next = LogClock::recovered(0);
        next.on_log_time(ahead_ms, true, 7_000_000);
        let stamp_ms = next.stamp(17_000_000, WALL_MS + 10_000);
        assert!((ahead_ms + 10_000 - 10_000 / SLEW..=ahead_ms + 10_000).contains(&stamp_ms), "{}", stamp_ms - ahead_ms);
        // Finally it reaches the wall clock, and never decreases.
        let (mut at_us, mut wall_ms, mut last) = (17_000_000, WALL_MS + 10_000, stamp_ms);
        for _ in 0..20 * HOUR_MS / 1000 {
            (at_us, wall_ms) = (at_us + SECOND_US, wall_ms + 1000);
            let now = next.stamp(at_us, wall_ms);
            assert!(now > last);
            last = now;
        }
        assert_eq!(last, wall_ms);
    }

    #[test]
    fn idle_hours_count_and_so_do_hours_in_which_all_were_down() {
        let mut clock = LogClock::default();
        clock.on_log_time(WALL_MS, true, 0);
        assert_eq!(clock.now(HOUR_MS * 1000), Some(WALL_MS + HOUR_MS));
        assert_eq!(clock.stamp(HOUR_MS * 1000, WALL_MS + HOUR_MS), WALL_MS + HOUR_MS);
        let mut clock = LogClock::recovered(WALL_MS);
        assert_eq!(clock.now(5), None);
        clock.applied(WALL_MS + 5, 3);
        assert_eq!(clock.stamp(10, WALL_MS + HOUR_MS), WALL_MS + HOUR_MS);
        // Never earlier than the newest stamp in the log.
        assert_eq!(LogClock::recovered(WALL_MS).stamp(10, WALL_MS - HOUR_MS), WALL_MS);
        // A node that restarts while the others run adopts it from the leader, whatever its own clock says.
        let mut clock = LogClock::recovered(WALL_MS);
        clock.on_log_time(WALL_MS + 60_000, true, 10);
        let stamp_ms = clock.stamp(1_010, WALL_MS + HOUR_MS);
        assert!((WALL_MS + 60_000..=WALL_MS + 60_002).contains(&stamp_ms), "{}", stamp_ms - WALL_MS);
        // Or, before it hears a leader, from any other; later only from the leader.
        let mut clock = LogClock::recovered(WALL_MS);
        clock.on_log_time(WALL_MS + 60_000, false, 10);
        clock.on_log_time(WALL_MS + HOUR_MS, false, 20);
        assert_eq!(clock.now(1_010), Some(WALL_MS + 60_001));
        clock.on_log_time(WALL_MS + 50_000, true, 30);
        assert_eq!(clock.now(30), Some(WALL_MS + 50_000));
    }

    #[test]
    fn the_middle_clock_is_right_when_one_is_wrong() {
        let mut skews = Skews::default();
        assert_eq!(skews.middle(WALL_MS), WALL_MS);
        // With two clocks it is unknown which is right.
        skews.on_heartbeat(NodeId(2), WALL_MS + HOUR_MS, WALL_MS, 0);
        assert_eq!(skews.middle(WALL_MS), WALL_MS);
        skews.on_heartbeat(NodeId(3), WALL_MS + 2, WALL_MS, 0);
        assert_eq!(skews.middle(WALL_MS), WALL_MS);
        // And seen from the one that is wrong.
        let mut skews = Skews::default();
        skews.on_heartbeat(NodeId(1), WALL_MS, WALL_MS + HOUR_MS, 0);
        skews.on_heartbeat(NodeId(3), WALL_MS + 1, WALL_MS + HOUR_MS, 0);
        assert_eq!(skews.middle(WALL_MS + HOUR_MS), WALL_MS + 1);
        skews.forget(NodeId(3));
        assert_eq!(skews.middle(WALL_MS + HOUR_MS), WALL_MS + HOUR_MS);
    }

    #[test]
    fn skew_is_reported_once_and_a_late_heartbeat_is_not_skew() {
        let mut skews = Skews::default();
        let mut at_us = 0;
        let mut heartbeat = |their_ms: u64, our_ms: u64| {
            at_us += SECOND_US / 5;
            skews.on_heartbeat(NodeId(2), their_ms, our_ms, at_us)
        };
        assert_eq!(heartbeat(WALL_MS, WALL_MS), None);
        assert_eq!(heartbeat(WALL_MS, WALL_MS + 5_000), None, "a heartbeat that was five seconds on its way");
        assert_eq!(heartbeat(WALL_MS + 5_000, WALL_MS + 5_001), None);
        let ahead = WALL_MS + HOUR_MS;
        assert_eq!((heartbeat(ahead, WALL_MS), heartbeat(ahead, WALL_MS)), (None, None));
        assert_eq!(heartbeat(ahead, WALL_MS), Some(SkewNews::Off(HOUR_MS as i64)));
        assert_eq!(heartbeat(ahead, WALL_MS), None);
        assert_eq!(heartbeat(WALL_MS, WALL_MS), Some(SkewNews::Fine));
        assert_eq!(heartbeat(u64::MAX, 0), None);
    }

    #[test]
    fn beats_that_waited_while_this_process_stood_still_are_no_skew() {
        const HEARTBEAT_MS: u64 = 200;
        let mut skews = Skews::default();
        let mut heartbeat = |sent_ms: u64, came_ms: u64| {
            let heard = skews.on_heartbeat(NodeId(2), WALL_MS + sent_ms, WALL_MS + came_ms, came_ms * 1000);
            (heard, skews.all().next().map_or(0, |(_, ahead_ms)| ahead_ms))
        };
        for at_ms in (0..1_000).step_by(HEARTBEAT_MS as usize) {
            assert_eq!(heartbeat(at_ms, at_ms + 1).0, None);
        }
        // Five seconds of beats come in one millisecond.
        let news: Vec<_> =
            (1_000..6_000).step_by(HEARTBEAT_MS as usize).filter_map(|at_ms| heartbeat(at_ms, 6_000).0).collect();
        assert_eq!(news, []);
        assert_eq!(heartbeat(6_000, 6_001), (None, -1), "and they do not count where times are compared");
        // A clock that is behind from then on is reported: its heartbeats arrive at the rate at which they are sent.
        let news: Vec<_> = (7..12).filter_map(|s| heartbeat(s * 1_000 - 5_000, s * 1_000).0).collect();
        assert_eq!(news, [SkewNews::Off(-5_000)]);
    }
}
