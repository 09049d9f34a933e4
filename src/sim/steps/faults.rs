//! The fault injector: causes the faults that this seed has drawn at random times, and ends them again.
//!
//! Two kinds of fault destroy what a node has promised: a wiped disk and a flipped bit. Raft tolerates the permanent
//! loss of a minority of voters, not more; so these faults occur only while a majority of every membership in play is
//! left. All other faults occur without such a limit.
//!
//! Not here: the faults of the network itself (`sim/environment/net.rs`), crashes between two effects (`effects.rs`),
//! healing (`liveness.rs`).

use crate::cluster::autopilot;
use crate::raft::{Change, Input, Membership};
use crate::sim::environment::disk::CrashKind;
use crate::sim::environment::net::SHAPES;
use crate::sim::environment::plan::{FaultKind, TICK_US, pick};
use crate::sim::events::SimEvent;
use crate::sim::model::host::Ask;
use crate::sim::violation::CheckResult;
use crate::sim::world::World;
use crate::types::{Identity, NodeId, Ticks};

impl World {
    /// Time until a fault strikes next.
    pub fn fault_delay(&mut self, at: usize) -> u64 {
        let (_, mean) = self.plan.faults[at];
        self.rng.u64(mean / 4..=mean * 7 / 4)
    }

    pub fn on_fault(&mut self, at: usize) -> CheckResult {
        if self.in_liveness_phase {
            return Ok(());
        }
        let delay = self.fault_delay(at);
        self.after(delay, SimEvent::Fault { at });
        let (kind, _) = self.plan.faults[at];
        let node = self.rng.usize(0..self.hosts.len());
        let election_us = self.plan.election_timeout_ticks.0 * TICK_US;
        let some_us = self.rng.u64(election_us / 4..election_us * 5);
        self.note(|_| format!("fault {kind:?} n{}", node + 1));
        let about = (!matches!(kind, FaultKind::RestartAll | FaultKind::Partition)).then_some(node);
        self.record(|recording, now| recording.on_mark(now, about, kind.name().into()));
        match kind {
            FaultKind::Crash => {
                if self.rng.u8(0..3) == 0 {
                    let operations = self.rng.u32(0..20);
                    self.hosts[node].disk().faults.die_after = Some(operations);
                } else {
                    let death = if self.rng.bool() { CrashKind::PowerCut } else { CrashKind::Killed };
                    let down_us = if self.rng.bool() { some_us } else { some_us / 20 };
                    self.crash(node, death, down_us);
                }
            }
            FaultKind::RestartAll => {
                let death = if self.rng.u8(0..5) == 0 { CrashKind::Killed } else { CrashKind::PowerCut };
                for node in 0..self.hosts.len() {
                    let down_us = self.rng.u64(1_000..election_us);
                    self.crash(node, death, down_us);
                }
            }
            FaultKind::CrashLoop => {
                self.hosts[node].loops_until = self.now + election_us * 6;
                self.crash(node, CrashKind::Killed, some_us / 4);
            }
            FaultKind::Pause => {
                if self.hosts[node].process.is_some() && self.hosts[node].paused_until <= self.now {
                    self.hosts[node].paused_until = self.now + some_us;
                    self.after(some_us, SimEvent::Thaw { node });
                }
            }
            FaultKind::Partition => {
                let shape = *pick(&mut self.rng, &SHAPES);
                self.net.shape(shape, &mut self.rng);
                self.coverage.partitions += 1;
                self.note(|_| format!("network is {shape:?}"));
                self.after(some_us * 2, SimEvent::Mend);
            }
            FaultKind::OneWay => {
                let to = self.rng.usize(0..self.hosts.len());
                self.net.set_cut(node, to, node != to);
                self.after(some_us * 2, SimEvent::Mend);
            }
            FaultKind::FalseLinkLost => {
                let about = self.rng.usize(0..self.hosts.len());
                if about != node {
                    let life = self.hosts[node].life;
                    self.after(0, SimEvent::Link { node, life, about, is_up: false });
                    if self.rng.u8(0..3) > 0 {
                        self.after(some_us / 4, SimEvent::Link { node, life, about, is_up: true });
                    }
                }
            }
            FaultKind::ClockJump => {
                self.hosts[node].clock_offset_ms += self.rng.u64(0..1_000);
                let life = self.hosts[node].life;
                let ticks = self.rng.u64(1..=self.plan.election_timeout_ticks.0 * 2);
                for _ in 0..ticks {
                    if self.is_alive(node, life) {
                        self.step(node, Input::Tick)?;
                    }
                }
            }
            FaultKind::DiskError => {
                let which = self.rng.u8(0..4);
                {
                    let mut disk = self.hosts[node].disk();
                    match which {
                        0 => disk.faults.write_error = true,
                        1 => disk.faults.sync_error = true,
                        _ => disk.faults.sync_error_once = true,
                    }
                }
                self.after(some_us, SimEvent::DiskWell { node });
            }
            FaultKind::FlipBit => self.flip_bit(node),
            FaultKind::DiskHang => self.hosts[node].hung_until = self.now + some_us,
            FaultKind::DiskSlow => self.hosts[node].slow_until = self.now + some_us * 3,
            FaultKind::DiskFull => {
                self.hosts[node].is_low = true;
                let is_full = self.rng.u8(0..3) == 0;
                self.hosts[node].disk().faults.is_full = is_full;
                self.after(some_us, SimEvent::DiskWell { node });
                self.step(node, Input::DiskLow(true))?;
            }
            FaultKind::ReadError => {
                self.hosts[node].disk().faults.read_error = true;
                self.after(some_us, SimEvent::DiskWell { node });
                if self.rng.bool() {
                    self.crash(node, CrashKind::Killed, some_us / 8);
                }
            }
            FaultKind::Wipe => {
                let who = self.hosts[node].identity;
                if !self.is_hosted(node) && self.can_spare(|lost| *lost == who) {
                    self.crash(node, CrashKind::PowerCut, some_us);
                    self.wipe(node);
                }
            }
            FaultKind::Transfer => {
                let at = self.newest_leader().unwrap_or(node);
                let to = self.rng.bool().then_some(NodeId(node as u64 + 1));
                if let Some(process) = self.hosts[at].process.as_mut() {
                    let token = process.token(Ask::Driver);
                    self.step(at, Input::Transfer { token, to })?;
                }
            }
            FaultKind::Campaign => self.step(node, Input::Lead)?,
            FaultKind::Member => self.change_some_member()?,
            FaultKind::Snapshot => self.maybe_snapshot(node, true)?,
        }
        Ok(())
    }

    /// The faults of a node's disk end.
    pub fn on_disk_well(&mut self, node: usize) -> CheckResult {
        {
            let mut disk = self.hosts[node].disk();
            let die_after = disk.faults.die_after;
            disk.faults = crate::sim::environment::disk::DiskFaults { die_after, ..Default::default() };
        }
        if std::mem::take(&mut self.hosts[node].is_low) { self.step(node, Input::DiskLow(false)) } else { Ok(()) }
    }

    /// Damages what a node has synced, if a majority without it is left.
    fn flip_bit(&mut self, node: usize) {
        let who = self.hosts[node].identity;
        if self.hosts[node].is_damaged || !self.can_spare(|lost| *lost == who) {
            return;
        }
        if self.hosts[node].disk().flip_bit() {
            self.hosts[node].is_damaged = true;
            self.coverage.bits_flipped += 1;
            let down_us = self.rng.u64(1_000..100_000);
            if self.rng.bool() {
                self.crash(node, CrashKind::Killed, down_us);
            }
        }
    }

    /// The node that leads in the highest term.
    pub fn newest_leader(&self) -> Option<usize> {
        let leaders = self.hosts.iter().enumerate().filter_map(|(node, host)| Some((host.leads()?, node)));
        leaders.max().map(|(_, node)| node)
    }

    /// A random membership change, asked of the leader; never one that leaves no living majority.
    fn change_some_member(&mut self) -> CheckResult {
        let Some(leader) = self.newest_leader() else { return Ok(()) };
        let Some(process) = self.hosts[leader].process.as_ref() else { return Ok(()) };
        let membership = process.raft.view().membership;
        let node = self.rng.usize(0..self.hosts.len());
        let who = self.hosts[node].identity;
        let change = if membership.voters.get(&who.id) == Some(&who.uuid) {
            if !self.leaves_healthy_majority(&membership, &Change::Remove(who.id)) {
                return Ok(());
            }
            if self.rng.bool() { Change::Demote(who.id) } else { Change::Remove(who.id) }
        } else if membership.learners.get(&who.id) == Some(&who.uuid) {
            if !self.is_well(&who) {
                return Ok(());
            }
            if self.rng.u8(0..4) > 0 { Change::Promote(who.id) } else { Change::Remove(who.id) }
        } else if membership.voters.contains_key(&who.id) || membership.learners.contains_key(&who.id) {
            Change::Remove(who.id)
        } else {
            Change::AddLearner(who)
        };
        self.change(leader, change)
    }

    /// Whether an identity's disk is there and sound.
    fn is_well(&self, who: &Identity) -> bool {
        let host = &self.hosts[who.id.0 as usize - 1];
        host.identity == *who && !host.is_damaged && !host.is_left_out
    }

    /// Whether sound disks are a majority of the voters after a change.
    pub fn leaves_healthy_majority(&self, membership: &Membership, change: &Change) -> bool {
        let mut after = membership.voters.clone();
        match change {
            Change::Demote(id) | Change::Remove(id) => {
                after.remove(id);
            }
            Change::Promote(id) => after.extend(membership.learners.get(id).map(|uuid| (*id, *uuid))),
            Change::AddLearner(_) => {}
        }
        let well = after.iter().filter(|(id, uuid)| self.is_well(&Identity { id: **id, uuid: **uuid })).count();
        well > after.len() / 2
    }

    fn change(&mut self, leader: usize, change: Change) -> CheckResult {
        if !self.is_allowed_by_witnesses(leader, &change) {
            return Ok(());
        }
        let Some(process) = self.hosts[leader].process.as_mut() else { return Ok(()) };
        let token = process.token(Ask::Driver);
        self.note(|_| format!("n{} is asked for {change:?}", leader + 1));
        self.coverage.changes_asked += 1;
        self.step(leader, Input::Change { token, change })
    }

    /// Those of the real autopilot, with the times of this plan.
    pub(super) fn autopilot_rules(&self) -> autopilot::Rules {
        let dead_after = Ticks(self.plan.election_timeout_ticks.0 * 3);
        let (unfit, hosted, witnesses) = Default::default();
        autopilot::Rules { voters_min: 3, voters_max: 5, dead_after, unfit, hosted, witnesses }
    }

    /// The driver does what an autopilot does: replaces identities that are permanently lost.
    pub fn on_driver(&mut self) -> CheckResult {
        if self.liveness.clients_stopped {
            return Ok(());
        }
        let delay = self.rng.u64(1..self.plan.election_us());
        self.after(delay, SimEvent::Driver);
        let Some(leader) = self.newest_leader() else { return Ok(()) };
        let Some(process) = self.hosts[leader].process.as_ref() else { return Ok(()) };
        let view = process.raft.view();
        let now_ms = self.now / 1000;
        match self.hosts[leader].departures.decide(&view, now_ms) {
            Some(change) if self.leaves_healthy_majority(&view.membership, &change) => {
                self.coverage.votes_given_back += 1;
                return self.change(leader, change);
            }
            _ => {}
        }
        if self.plan.has_autopilot {
            let leaving = self.hosts[leader].departures.leaving(now_ms);
            let witnesses = self.witness_cuts(&view.membership);
            let rules = autopilot::Rules { unfit: leaving, witnesses, ..self.autopilot_rules() };
            match autopilot::decide(&view, &rules) {
                // The autopilot cannot know of damage that no node has detected yet; the simulator does not require it
                // to.
                Some(change) if !self.leaves_healthy_majority(&view.membership, &change) => return Ok(()),
                Some(change) => {
                    self.coverage.autopilot += 1;
                    return self.change(leader, change);
                }
                None => {}
            }
        }
        if !self.plan.replaces_voters {
            return Ok(());
        }
        let membership = view.membership;
        let members = membership.voters.iter().chain(&membership.learners);
        let lost = members
            .map(|(&id, &uuid)| Identity { id, uuid })
            .find(|who| self.hosts[who.id.0 as usize - 1].identity != *who);
        if let Some(lost) = lost {
            return self.change(leader, Change::Remove(lost.id));
        }
        let new_node = self
            .hosts
            .iter()
            .map(|host| host.identity)
            .find(|who| !membership.voters.contains_key(&who.id) && !membership.learners.contains_key(&who.id));
        if let Some(new_node) = new_node {
            return self.change(leader, Change::AddLearner(new_node));
        }
        // A leader cannot know that a learner has just lost its disk; promoting it then can cost the quorum
        // permanently.
        let learners = membership.learners.iter().map(|(&id, &uuid)| Identity { id, uuid });
        if self.plan.has_autopilot {
            return Ok(());
        }
        match learners.filter(|who| self.is_well(who)).map(|who| who.id).next() {
            Some(learner) if membership.voters.len() < 5 => self.change(leader, Change::Promote(learner)),
            _ => Ok(()),
        }
    }
}
