//! Older copies of disks: what a node does whose data folder was restored from one, and what the other nodes remember
//! of it.
//!
//! Such a disk lacks votes and acknowledgements that its node has given. Only other nodes can detect that, so every
//! process remembers the promises of others that it receives (`raft/state/promise.rs`), and a starting node is compared
//! with all that is remembered. A disk that has less than that is replaced by a new identity, like a lost one; so
//! this fault asks [`World::can_spare`] first. A disk that was not restored from a copy must never have less, whatever
//! else has happened to it.
//!
//! A loss that no running process remembers cannot be detected, and its detection is not promised: then the newest disk
//! is put back instead.
//!
//! Not here: the comparison itself (`raft/state/promise.rs`).

use super::violation::{CheckResult, violation};
use super::world::World;
use crate::raft::{Durable, Promise};
use crate::types::Identity;

impl World {
    /// A process has died: perhaps its disk is copied, perhaps an older copy is put in its place.
    pub fn maybe_restore_stale_disk(&mut self, node: usize) {
        if self.plan.restores == 0.0 || self.in_liveness_phase || self.hosts[node].replaced_disk.is_some() {
            return;
        }
        let who = self.hosts[node].identity;
        let is_due = self.stale_disk_rng.f64() < self.plan.restores;
        let has_copy = self.hosts[node].disk_copy.as_ref().is_some_and(|(of, _)| *of == who);
        let is_sound = !self.hosts[node].is_damaged;
        if has_copy && is_due && is_sound && self.can_spare(|lost| *lost == who) {
            let host = &mut self.hosts[node];
            let Some((_, copy)) = host.disk_copy.take() else { return };
            let newest = host.replace_disk(copy);
            // Until it has started, it is one that cannot be counted on.
            (host.replaced_disk, host.is_damaged) = (Some(newest), true);
            self.coverage.stale_disks_restored += 1;
            self.note(|_| format!("n{} is restored to an older copy of its disk", node + 1));
        } else if is_sound && self.stale_disk_rng.bool() {
            let copy = self.hosts[node].disk().clone();
            self.hosts[node].disk_copy = Some((who, copy));
        }
    }

    /// Heartbeats report to the other nodes what a node has promised.
    pub fn send_promise(&mut self, node: usize) {
        if !self.is_heartbeat_due(node) {
            return;
        }
        let host = &self.hosts[node];
        let who = host.identity;
        let Some(promise) = host.process.as_ref().and_then(|process| process.raft.promised()) else { return };
        for process in self.processes_reached_from(node) {
            process.memory.entry(who).or_default().merge(&promise);
        }
    }

    /// What the running processes remember of an identity.
    fn remembered(&self, who: &Identity) -> Promise {
        let mut all = Promise::default();
        for process in self.hosts.iter().filter_map(|host| host.process.as_ref()) {
            all.merge(&process.memory.get(who).copied().unwrap_or_default());
            all.merge(&process.raft.view().remembered(who));
        }
        all
    }

    /// The result for a starting node. `false`: it does not continue with this disk under this identity.
    pub fn compare_with_remembered(&mut self, node: usize, durable: &Durable) -> CheckResult<bool> {
        let who = self.hosts[node].identity;
        let (kept, known) = (Promise::from(durable), self.remembered(&who));
        let is_short = kept.falls_short_of(&known);
        let Some(newest) = self.hosts[node].replaced_disk.take() else {
            return match is_short && !self.hosts[node].is_damaged {
                true => violation!(
                    "IdentityOnce",
                    "n{} holds {kept:?}, others remember {known:?}, and its disk was not restored",
                    node + 1
                ),
                false => Ok(true),
            };
        };
        if is_short && !self.in_liveness_phase {
            if self.bugs.host.outdated_keeps_identity {
                return Ok(true);
            }
            self.note(|_| format!("n{} holds {kept:?}, others remember {known:?}: its disk is outdated", node + 1));
            self.coverage.stale_disks_detected += 1;
            self.wipe(node);
        } else {
            self.hosts[node].replace_disk(newest);
            self.hosts[node].is_damaged = false;
        }
        let delay = self.stale_disk_rng.u64(20_000..200_000);
        self.start_at(node, self.now + delay);
        Ok(false)
    }
}
