//! Lives of nodes: starting from a disk, dying, losing the disk; and how much loss the cluster can bear.
//!
//! A start is the real recovery: the Raft checker judges what it found. A node that refuses its damaged disk does what
//! a user would do (`--rejoin`): it starts empty under a new identity. Raft tolerates the permanent loss of a minority
//! of voters, so faults that destroy promises ask [`World::can_spare`] first.
//!
//! Not here: when to die (`faults.rs`, `effects.rs`).

use crate::raft::Membership;
use crate::sim::environment::disk::CrashKind;
use crate::sim::environment::plan::FaultKind;
use crate::sim::events::SimEvent;
use crate::sim::model::host::Process;
use crate::sim::model::operations::ClientResult;
use crate::sim::violation::{CheckResult, violation};
use crate::sim::world::World;
use crate::store::error::StoreError;
use crate::types::{Identity, Index};
use std::collections::BTreeSet;
use std::sync::Arc;

impl World {
    /// Schedules a start unless one is due.
    pub fn start_at(&mut self, node: usize, at: u64) {
        let host = &mut self.hosts[node];
        if host.process.is_none() && !host.is_start_due {
            host.is_start_due = true;
            let at = at.max(host.down_until);
            self.at(at, SimEvent::Start { node });
        }
    }

    /// A process starts, if it can.
    pub fn on_start(&mut self, node: usize) -> CheckResult {
        self.hosts[node].is_start_due = false;
        if self.hosts[node].process.is_some() || (self.in_liveness_phase && self.hosts[node].is_left_out) {
            return Ok(());
        }
        if self.hosts[node].down_until > self.now {
            let at = self.hosts[node].down_until;
            self.start_at(node, at);
            return Ok(());
        }
        if self.is_folder_locked(node, None) {
            // A start waits for the lock of its folder; a person, or what supervises the process, starts it again.
            let delay = self.takeover_rng.u64(5_000..50_000);
            self.start_at(node, self.now + delay);
            return Ok(());
        }
        if !self.in_liveness_phase && self.plan.has(FaultKind::Crash) && self.rng.u8(0..20) == 0 {
            // Crashes strike recovery as well.
            let operations = self.rng.u32(0..12);
            self.hosts[node].disk().faults.die_after = Some(operations);
        }
        let (store, durable) = match self.hosts[node].open(&self.plan, &self.bugs) {
            Ok(opened) => opened,
            Err(error) => return self.on_open_failed(node, error),
        };
        if self.hosts[node].disk().is_dead {
            self.end_disk(node);
            let delay = self.rng.u64(10_000..100_000);
            self.start_at(node, self.now + delay);
            return Ok(());
        }
        self.hosts[node].disk().faults.die_after = None;
        if !self.compare_with_remembered(node, &durable)? {
            return Ok(());
        }
        let identity = self.hosts[node].identity;
        self.note(|_| {
            format!(
                "n{} starts: {:?} term {} vote {:?} snapshot {:?} last {}",
                node + 1,
                identity,
                durable.hard_state.term,
                durable.hard_state.vote,
                durable.snapshot.as_ref().map(|meta| meta.index),
                durable.entries.last().map_or(Index(0), |entry| entry.index),
            )
        });
        self.raft_checker.on_recovery(identity, &durable)?;
        self.coverage.starts += 1;
        // Recovery has read every byte that matters: the flipped bit did no harm.
        self.hosts[node].is_damaged = false;
        let rng = self.rng.fork();
        let host = &mut self.hosts[node];
        host.life += 1;
        let process = Process::start(host, &self.plan, &self.bugs, store, durable, rng);
        process.service.check();
        if !host.is_witness {
            self.client_checker.on_restart(process.applied, process.service.digest())?;
        }
        let host = &mut self.hosts[node];
        host.process = Some(process);
        host.departures = Default::default();
        let life = host.life;
        let tick_us = host.tick_us;
        let phase = self.rng.u64(0..tick_us);
        self.after(phase, SimEvent::Tick { node, life });
        if let Some(takeover) = &self.plan.takeover {
            let after = takeover.after_us;
            self.after(after, SimEvent::Takeover { node, life });
        }
        self.name_witnesses(node)?;
        self.start_worker(node);
        for other in 0..self.hosts.len() {
            if other != node && self.hosts[other].process.is_some() {
                for (at, about) in [(node, other), (other, node)] {
                    let delay = self.rng.u64(500..5_000);
                    let life = self.hosts[at].life;
                    self.after(delay, SimEvent::Link { node: at, life, about, is_up: true });
                }
            }
        }
        if self.hosts[node].loops_until > self.now {
            let delay = self.rng.u64(1..self.plan.election_us());
            let life = self.hosts[node].life;
            self.after(delay, SimEvent::Doom { node, life });
        }
        Ok(())
    }

    fn on_open_failed(&mut self, node: usize, error: StoreError) -> CheckResult {
        self.note(|_| format!("n{} cannot start: {error}", node + 1));
        let was_dead = self.hosts[node].disk().is_dead;
        let has_faults = {
            let disk = self.hosts[node].disk();
            let faults = &disk.faults;
            faults.read_error || faults.write_error || faults.sync_error || faults.is_full || disk.has_failed
        };
        if was_dead || (has_faults && !matches!(error, StoreError::Damaged { .. } | StoreError::LogMissing { .. })) {
            self.end_disk(node);
            let delay = self.rng.u64(20_000..200_000);
            self.start_at(node, self.now + delay);
            return Ok(());
        }
        if !self.hosts[node].is_damaged {
            return violation!("CorruptionNotTorn", "n{} refuses an undamaged disk: {error}", node + 1);
        }
        // What a user does then: `phalanx node --rejoin`.
        self.coverage.refused_damage += 1;
        self.wipe(node);
        let delay = self.rng.u64(20_000..200_000);
        self.start_at(node, self.now + delay);
        Ok(())
    }

    /// Ends the process on the disk, killed or by a power cut.
    pub fn end_disk(&mut self, node: usize) {
        let death = if self.rng.bool() { CrashKind::PowerCut } else { CrashKind::Killed };
        self.hosts[node].disk().end_process(death);
    }

    /// A new disk under the old number, and with it a new identity.
    pub fn wipe(&mut self, node: usize) {
        let old = self.hosts[node].identity;
        self.hosts[node].disk().wipe();
        (self.hosts[node].disk_copy, self.hosts[node].replaced_disk) = (None, None);
        self.hosts[node].is_damaged = false;
        self.coverage.wipes += 1;
        if self.bugs.host.wiped_keeps_identity {
            *self.raft_checker.record(old) = Default::default();
        } else {
            self.raft_checker.record(old).is_destroyed = true;
            self.hosts[node].identity = self.fresh_identity(node);
        }
        (self.hosts[node].sql_file, self.hosts[node].sql_older) = (None, None);
        let fresh = self.hosts[node].identity;
        self.note(|_| format!("n{} wiped: {old:?} is now {fresh:?}", node + 1));
    }

    /// A process ends. Clients that waited for it do not know the outcome; others see their link break.
    pub fn crash(&mut self, node: usize, death: CrashKind, down_us: u64) {
        let Some(process) = self.hosts[node].process.take() else { return };
        self.note(|_| format!("n{} dies: {death:?}", node + 1));
        self.coverage.crashes += 1;
        let was_altered = self.hosts[node].altered.take().is_some();
        if self.plan.sql > 0.0 {
            // A file outlives its process; after a power cut it may be an older one, or none that can be used.
            let newest = process.service.registry.sql().image();
            let older = self.hosts[node].sql_older.replace(newest.clone());
            self.hosts[node].sql_file = match self.rng.u8(0..8) {
                // Without a snapshot, all of it is made again from the log.
                _ if was_altered => None,
                0 => None,
                1 => older,
                _ => Some(newest),
            };
            if was_altered {
                self.hosts[node].sql_older = None;
            }
        }
        self.end_hosted_by(node, death);
        self.hosts[node].disk().end_process(death);
        self.maybe_restore_stale_disk(node);
        self.hosts[node].paused_until = 0;
        let lost = self.asleep.remove(&node).unwrap_or_default();
        for what in lost {
            match what {
                SimEvent::Request { client, attempt, .. } => {
                    self.after(500, SimEvent::Reply { client, attempt, result: ClientResult::Unknown });
                }
                SimEvent::Received { .. } => self.after(0, what),
                _ => {}
            }
        }
        self.forget_asks(process);
        if self.plan.link_signals || self.in_liveness_phase {
            for other in 0..self.hosts.len() {
                if other != node && self.hosts[other].process.is_some() && !self.net.is_cut(node, other) {
                    let delay = self.rng.u64(200..3_000);
                    let life = self.hosts[other].life;
                    self.after(delay, SimEvent::Link { node: other, life, about: node, is_up: false });
                }
            }
        }
        self.start_at(node, self.now + down_us);
    }

    /// Identities whose disks are permanently lost or damaged.
    pub fn destroyed(&self) -> BTreeSet<Identity> {
        self.raft_checker.records().filter(|(_, record)| record.is_destroyed).map(|(who, _)| *who).collect()
    }

    /// Every membership that may still be in force somewhere: the newest committed one and all after it.
    pub fn possible_memberships(&self) -> Vec<Arc<Membership>> {
        let mut all: Vec<Arc<Membership>> = Vec::new();
        let committed = self.raft_checker.committed_len();
        all.extend(self.raft_checker.committed_membership(committed).cloned());
        for (_, record) in self.raft_checker.records() {
            if !record.is_destroyed {
                for log in [&record.latest, &record.durable] {
                    all.extend(log.members_between(committed, u64::MAX).map(|(_, membership)| membership));
                }
            }
        }
        all.dedup();
        all
    }

    /// Whether a majority of every membership in play remains if these nodes are lost as well.
    pub fn can_spare(&self, lost: impl Fn(&Identity) -> bool) -> bool {
        let mut destroyed = self.destroyed();
        destroyed.extend(self.hosts.iter().filter(|host| host.is_damaged).map(|host| host.identity));
        self.possible_memberships().iter().all(|membership| {
            let well = membership
                .voters
                .iter()
                .map(|(&id, &uuid)| Identity { id, uuid })
                .filter(|who| !destroyed.contains(who) && !lost(who))
                .count();
            well > membership.voters.len() / 2
        })
    }
}
