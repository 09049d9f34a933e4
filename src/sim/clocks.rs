//! Wrong wall clocks, and log time: whatever the clocks show, log time advances at the rate of real time.
//!
//! The nodes keep log time with the real `cluster/log_clock.rs`, on virtual time as their monotonic clock, and send it
//! to each other as they send heartbeats. A leader that has log time may advance the stamps of entries only by the time
//! that has passed since log time was first read from a wall clock, with a tolerance of one part in [`SLEW`]. A leader
//! without log time reads its wall clock and begins a new log time: it has just started and has no message of another
//! node. A node that receives two such times may have any time between them.
//!
//! Not here: what ends when (`sim/checks/kv_model.rs`).

use super::violation::{CheckResult, violation};
use super::world::World;
use crate::cluster::log_clock::SLEW;
use crate::types::NodeId;
use fastrand::Rng;

/// How wrong a clock is that is wrong.
const WRONG_MS: u64 = 3_600_000;
/// Time between two heartbeats that carry log time, in ticks.
const TELL_EVERY_TICKS: u64 = 8;

impl World {
    /// In one run of four the clock of one node is an hour ahead or behind. From a separate source, so that other seeds
    /// stay what they were.
    pub fn set_clocks(&mut self, seed: u64) {
        let mut rng = Rng::with_seed(seed.rotate_left(8));
        if rng.u8(0..4) == 0 {
            let node = rng.usize(0..self.hosts.len());
            let clock_ms = &mut self.hosts[node].clock_offset_ms;
            *clock_ms = if rng.bool() { *clock_ms + WRONG_MS } else { *clock_ms - WRONG_MS };
        }
    }

    /// A node's own wall clock in milliseconds.
    pub fn clock_ms(&self, node: usize) -> u64 {
        self.now / 1_000 + self.hosts[node].clock_offset_ms
    }

    /// A node has applied entries: its log time is not before their stamps.
    pub fn keep_time(&mut self, node: usize) {
        if let Some(process) = self.hosts[node].process.as_mut() {
            process.log_clock.applied(process.service.log_ms(), self.now);
        }
    }

    /// Heartbeats carry a node's log time.
    pub fn send_log_time(&mut self, node: usize) {
        let host = &self.hosts[node];
        if !(self.now / host.tick_us).is_multiple_of(TELL_EVERY_TICKS) {
            return;
        }
        let Some(log_ms) = host.process.as_ref().and_then(|process| process.log_clock.now(self.now)) else { return };
        let who = NodeId(node as u64 + 1);
        for other in (0..self.hosts.len()).filter(|other| *other != node) {
            if let (false, Some(process)) = (self.net.is_cut(node, other), self.hosts[other].process.as_mut()) {
                let is_leader = process.raft.view().leader == Some(who);
                process.log_clock.on_log_time(log_ms, is_leader, self.now);
            }
        }
    }

    /// What the leader's host stamps the next entry with.
    pub fn stamp_ms(&mut self, node: usize) -> CheckResult<u64> {
        let (now_us, wall_ms) = (self.now, self.clock_ms(node));
        let Some(process) = self.hosts[node].process.as_mut() else { return Ok(wall_ms) };
        let is_kept = process.log_clock.now(now_us).is_some();
        let kept_ms = process.log_clock.stamp(now_us, wall_ms);
        let at_ms = if self.bugs.host.log_time_is_wall_time { wall_ms } else { kept_ms };
        let ahead_ms = at_ms.saturating_sub(now_us / 1_000);
        if !is_kept {
            let (least, most) = self.time_begun.unwrap_or((ahead_ms, ahead_ms));
            self.time_begun = Some((least.min(ahead_ms), most.max(ahead_ms)));
            self.coverage.times_begun += 1;
            return Ok(at_ms);
        }
        self.coverage.stamps_kept += 1;
        // Every leader rounds once, and truncates to whole milliseconds.
        let slew_ms = now_us / 1_000 / SLEW + self.coverage.elections + 2;
        let (least, most) = self.time_begun.expect("log time is adopted from a node that began it");
        if ahead_ms + slew_ms < least || ahead_ms > most + slew_ms {
            return violation!(
                "TimeFlows",
                "n{} stamps an entry with {at_ms} ms, {ahead_ms} ahead of the time that has gone by; begun: {least} to {most}",
                node + 1
            );
        }
        Ok(at_ms)
    }
}
