//! Nodes that stop in order: they say goodbye, go on for a moment, and end. Some hear it and some do not, some that said
//! goodbye end before a leader has acted, and some stop all at once.
//!
//! The rules are the real ones (`cluster/departures.rs`), the leader's part is the driver's (`faults.rs`).
//! Not here: the checks, which are those of every other fault.

use crate::raft::Input;
use crate::sim::environment::disk::CrashKind;
use crate::sim::events::SimEvent;
use crate::sim::model::host::Ask;
use crate::sim::violation::CheckResult;
use crate::sim::world::World;
use crate::types::NodeId;

impl World {
    /// One node stops, or several within a moment.
    pub fn on_departures(&mut self, mean_us: u64) -> CheckResult {
        if self.in_liveness_phase {
            return Ok(());
        }
        let next = self.rng.u64(mean_us / 4..=mean_us * 7 / 4);
        self.after(next, SimEvent::Departures);
        let count = if self.rng.u8(0..4) == 0 { self.rng.usize(1..=self.hosts.len()) } else { 1 };
        let first = self.rng.usize(0..self.hosts.len());
        for step in 0..count {
            let node = (first + step) % self.hosts.len();
            let (life, delay) = (self.hosts[node].life, self.rng.u64(0..200_000));
            self.after(delay, SimEvent::Goodbye { node, life });
        }
        Ok(())
    }

    /// A node says goodbye, which some do not hear, and transfers the leadership if it leads.
    pub fn on_goodbye(&mut self, node: usize) -> CheckResult {
        if self.in_liveness_phase {
            return Ok(());
        }
        let (who, life) = (self.hosts[node].identity, self.hosts[node].life);
        self.note(|_| format!("n{} says goodbye", node + 1));
        self.coverage.goodbyes += 1;
        for other in 0..self.hosts.len() {
            if self.hosts[other].process.is_some() && (other == node || self.rng.u8(0..8) > 0) {
                let now_ms = self.now / 1000;
                self.hosts[other].departures.on_goodbye(who, now_ms);
                self.report_departures(other)?;
            }
        }
        if self.hosts[node].leads().is_some()
            && let Some(process) = self.hosts[node].process.as_mut()
        {
            let token = process.token(Ask::Driver);
            self.step(node, Input::Transfer { token, to: None })?;
        }
        let stays_us = self.rng.u64(1_000..1_200_000);
        self.after(stays_us, SimEvent::Depart { node, life });
        Ok(())
    }

    /// A node that has said goodbye ends, and is back sooner or later.
    pub fn on_depart(&mut self, node: usize) -> CheckResult {
        if !self.in_liveness_phase {
            let down_us = self.rng.u64(1_000..self.plan.election_us() * 8);
            self.crash(node, CrashKind::Killed, down_us);
        }
        Ok(())
    }

    /// A node has connected to another again.
    pub fn on_return(&mut self, node: usize, about: usize) -> CheckResult {
        self.hosts[node].departures.on_return(NodeId(about as u64 + 1));
        self.report_departures(node)
    }

    fn report_departures(&mut self, node: usize) -> CheckResult {
        let leaving = self.hosts[node].departures.leaving(self.now / 1000);
        self.step(node, Input::Leaving(leaving))
    }
}
