//! Wrong wall clocks, and log time: whatever the clocks show, log time advances at the rate of real time.
//!
//! The nodes keep log time with the real `cluster/log_clock.rs`, on virtual time as their monotonic clock, and send it
//! to each other as they send heartbeats. A leader that has log time may advance the stamps of entries only by the time
//! that has passed since log time was first read from a wall clock, with a tolerance of one part in [`SLEW`]. A leader
//! without log time reads its wall clock and begins a new log time: it has just started and has no message of another
//! node. A node that receives two such times may have any time between them.
//!
//! Not here: when a key expires (`sim/checks/kv_model.rs`).

use super::violation::{CheckResult, violation};
use super::world::World;
use crate::cluster::log_clock::SLEW;
use crate::types::NodeId;
use fastrand::Rng;

/// Error of a wrong clock.
const WRONG_MS: u64 = 3_600_000;

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
    pub fn observe_applied_time(&mut self, node: usize) {
        if let Some(process) = self.hosts[node].process.as_mut() {
            process.log_clock.applied(process.service.log_ms(), self.now);
        }
    }

    /// Heartbeats carry a node's log time.
    pub fn send_log_time(&mut self, node: usize) {
        if !self.is_heartbeat_due(node) {
            return;
        }
        let (now_us, who) = (self.now, NodeId(node as u64 + 1));
        let process = self.hosts[node].process.as_ref();
        let Some(log_ms) = process.and_then(|process| process.log_clock.now(now_us)) else { return };
        for process in self.processes_reached_from(node) {
            let is_leader = process.raft.view().leader == Some(who);
            process.log_clock.on_log_time(log_ms, is_leader, now_us);
        }
    }

    /// What the leader's host stamps the next entry with.
    pub fn stamp_ms(&mut self, node: usize) -> CheckResult<u64> {
        let (now_us, wall_ms) = (self.now, self.clock_ms(node));
        let Some(process) = self.hosts[node].process.as_mut() else { return Ok(wall_ms) };
        let has_log_time = process.log_clock.now(now_us).is_some();
        let log_ms = process.log_clock.stamp(now_us, wall_ms);
        let at_ms = if self.bugs.host.log_time_is_wall_time { wall_ms } else { log_ms };
        let ahead_ms = at_ms.saturating_sub(now_us / 1_000);
        if !has_log_time {
            let (least, most) = self.log_time_offsets.unwrap_or((ahead_ms, ahead_ms));
            self.log_time_offsets = Some((least.min(ahead_ms), most.max(ahead_ms)));
            self.coverage.times_begun += 1;
            return Ok(at_ms);
        }
        self.coverage.stamps_kept += 1;
        // Every leader rounds once, and truncates to whole milliseconds.
        let slew_ms = now_us / 1_000 / SLEW + self.coverage.elections + 2;
        let (least, most) = self.log_time_offsets.expect("log time is adopted from a node that began it");
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
