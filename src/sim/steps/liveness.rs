//! The end of a run: faults stop, a random majority is healed, and progress must return.
//!
//! Some nodes may stay broken, as long as a majority of every membership in play is well: down, cut off, deaf,
//! mute, or with a disk that hangs. Within ten election timeouts there must be a leader; then every client gets its
//! answer, all healed members hold the same log and state, terms stop growing, queues are empty, no leadership transfer
//! is stuck, no node leads that has something to write and whose disk hangs, every healed member works, no broken one
//! that the leader can know of counts as a worker, and every job that some worker can run has ended. The rule is called
//! `Progress`.
//!
//! Not here: safety, which is asserted all along (`sim/checks/raft_checker.rs`, `sim/checks/client_checker.rs`).

use crate::raft::Raft;
use crate::sim::environment::disk::CrashKind;
use crate::sim::environment::plan::{DiskFailure, TICK_US};
use crate::sim::events::SimEvent;
use crate::sim::violation::{CheckResult, violation};
use crate::sim::world::World;
use crate::types::{Identity, Term};
use std::collections::BTreeSet;

impl World {
    /// Faults stop.
    pub fn on_liveness_phase(&mut self) -> CheckResult {
        self.in_liveness_phase = true;
        self.liveness.began = self.now;
        self.net.stop_faults();
        self.release_all_hosted();
        self.note(|_| "faults stop".into());
        let broken = self.choose_broken();
        for node in 0..self.hosts.len() {
            self.heal(node)?;
        }
        for (node, how) in broken {
            self.note(|_| format!("n{} stays broken: {how:?}", node + 1));
            self.hosts[node].is_left_out = true;
            for other in 0..self.hosts.len() {
                let (hears, speaks) = match how {
                    DiskFailure::CutOff => (false, false),
                    DiskFailure::Deaf => (false, true),
                    DiskFailure::Mute => (true, false),
                    DiskFailure::Down | DiskFailure::HungDisk => (true, true),
                };
                self.net.set_cut(other, node, !hears && other != node);
                self.net.set_cut(node, other, !speaks && other != node);
            }
            match how {
                DiskFailure::Down => self.crash(node, CrashKind::Killed, 0),
                DiskFailure::HungDisk => self.hosts[node].hung_until = u64::MAX / 2,
                _ => {}
            }
        }
        for node in 0..self.hosts.len() {
            let life = self.hosts[node].life;
            for about in (0..self.hosts.len()).filter(|about| *about != node) {
                let is_up = self.hosts[about].process.is_some();
                if is_up || (self.hosts[about].is_left_out && self.rng.bool()) {
                    self.after(1_000, SimEvent::Link { node, life, about, is_up });
                }
            }
        }
        self.after(TICK_US, SimEvent::Look);
        Ok(())
    }

    /// Some nodes that a majority can do without.
    fn choose_broken(&mut self) -> Vec<(usize, DiskFailure)> {
        if let Some(broken) = &self.plan.broken {
            let leader = self.newest_leader();
            let others = (0..self.hosts.len()).filter(|node| Some(*node) != leader);
            let order = leader.into_iter().chain(others);
            return order.zip(broken).filter_map(|(node, how)| Some((node, (*how)?))).collect();
        }
        if self.rng.bool() {
            return Vec::new();
        }
        let mut order: Vec<usize> = (0..self.hosts.len()).collect();
        self.rng.shuffle(&mut order);
        let mut lost: BTreeSet<Identity> = BTreeSet::new();
        let mut broken = Vec::new();
        for node in order {
            let who = self.hosts[node].identity;
            lost.insert(who);
            if self.can_spare(|identity| lost.contains(identity)) && self.rng.u8(0..4) > 0 {
                let all = [
                    DiskFailure::Down,
                    DiskFailure::CutOff,
                    DiskFailure::Deaf,
                    DiskFailure::Mute,
                    DiskFailure::HungDisk,
                ];
                broken.push((node, *crate::sim::environment::plan::pick(&mut self.rng, &all)));
            } else {
                lost.remove(&who);
            }
        }
        broken
    }

    fn heal(&mut self, node: usize) -> CheckResult {
        self.on_disk_well(node)?;
        let life = self.hosts[node].life;
        let host = &mut self.hosts[node];
        host.disk().faults.die_after = None;
        host.tick_us = TICK_US;
        host.hung_until = 0;
        host.slow_until = 0;
        host.loops_until = 0;
        host.down_until = 0;
        if host.paused_until > self.now {
            host.paused_until = self.now;
            self.after(0, SimEvent::Thaw { node });
        }
        let (is_damaged, is_down) = (self.hosts[node].is_damaged, self.hosts[node].process.is_none());
        let soon = self.rng.u64(1_000..20_000);
        if is_damaged {
            // A node with a damaged disk detects it at its next start.
            self.crash(node, CrashKind::Killed, soon);
        }
        if is_down {
            self.hosts[node].is_start_due = false;
            let at = self.now + soon;
            self.start_at(node, at);
        } else if !is_damaged
            && let Some(process) = &self.hosts[node].process
            && process.running.is_some()
        {
            // A hung operation ends now; the event that was scheduled for its end finds nothing to do.
            self.after(100, SimEvent::DiskDone { node, life });
        }
        Ok(())
    }

    /// Checks whether progress has returned, and for how long.
    pub fn on_progress_check(&mut self) -> CheckResult {
        let (usual, timeout) = (self.plan.election_us(), self.plan.longest_election_us());
        let since = self.now - self.liveness.began;
        self.after(usual / 4, SimEvent::Look);
        // Recovery and the first messages need additional time.
        let slack = timeout * 2;
        let leader = self.settled_leader();
        if leader.is_none() && since > timeout * 10 + slack && !self.liveness.clients_stopped {
            return violation!("Progress", "no leader ten election timeouts after the faults stopped{}", self.census());
        }
        if !self.liveness.clients_stopped {
            if leader.is_some() && since > usual * 4 {
                self.liveness.clients_stopped = true;
                self.liveness.stopped_at = self.now;
            }
            return Ok(());
        }
        let missing = self.what_is_missing(leader);
        let top = self.top_term();
        match (&self.liveness.settled, missing) {
            (None, None) => {
                self.liveness.settled = Some((self.now, top, self.client_checker.jobs_checker.membership_changes()))
            }
            (None, Some(missing)) => {
                if self.now - self.liveness.stopped_at > timeout * 25 + self.plan.deadline_us * 4 + self.jobs_us() {
                    return violation!("Progress", "{missing}{}", self.census());
                }
            }
            (Some((at, term, membership_changes)), missing) => {
                if top > *term {
                    // Preemption may hand leadership on once more.
                    if !self.plan.preempt || self.now - self.liveness.stopped_at > timeout * 20 {
                        return violation!(
                            "Progress",
                            "terms grow from {term} to {top} without faults{}",
                            self.census()
                        );
                    }
                    self.liveness.settled = None;
                } else if *membership_changes != self.client_checker.jobs_checker.membership_changes()
                    && !self.plan.preempt
                {
                    // A worker that lagged before may still be declared gone, and joins again.
                    let bound =
                        timeout * 20 + 2 * self.plan.jobs.as_ref().map_or(0, |plan| plan.fail_after_ticks.0 * TICK_US);
                    if self.now - self.liveness.stopped_at > bound {
                        return violation!("Progress", "workers join and leave without faults{}", self.census());
                    }
                    self.liveness.settled = None;
                } else if let Some(missing) = missing {
                    if self.plan.preempt && self.now - self.liveness.stopped_at < timeout * 20 {
                        self.liveness.settled = None;
                        return Ok(());
                    }
                    return violation!("Progress", "{missing}, without faults{}", self.census());
                } else if self.now - *at > usual * 4 {
                    self.coverage.commits += self.raft_checker.committed_len();
                    self.coverage.truncations += self.raft_checker.truncations;
                    self.is_over = true;
                }
            }
        }
        Ok(())
    }

    /// A full node that leads in the highest term of all healed nodes and has a quorum. If its disk hangs, it may lead as
    /// long as it has nothing to write: no node can detect the hang, and no client waits for it.
    fn settled_leader(&self) -> Option<usize> {
        let leader = self.newest_leader()?;
        let view = self.hosts[leader].process.as_ref()?.raft.view();
        let is_stuck = self.hosts[leader].hung_until > 0 && self.hosts[leader].waits_for_disk();
        let is_settled = view.has_quorum && view.term >= self.top_term() && !is_stuck && !self.hosts[leader].is_witness;
        is_settled.then_some(leader)
    }

    /// The highest term of all healed nodes; if there is a leader, of those that are in its membership. A removed node
    /// that has not learnt of its removal may campaign forever, which does no harm.
    fn top_term(&self) -> Term {
        let leader = self.newest_leader().and_then(|leader| self.hosts[leader].process.as_ref());
        let membership = leader.map(|process| process.raft.view().membership);
        let is_member = |who: &Identity| membership.as_ref().is_none_or(|membership| membership.is_member(who));
        let healed = self.hosts.iter().filter(|host| !host.is_left_out && is_member(&host.identity));
        healed.filter_map(|host| Some(host.process.as_ref()?.raft.view().term)).max().unwrap_or_default()
    }

    /// What is still to be done, if anything.
    fn what_is_missing(&self, leader: Option<usize>) -> Option<String> {
        let Some(leader) = leader else { return Some("no leader".into()) };
        for client in &self.clients {
            if let Some(operation) = &client.operation {
                return Some(format!("client {} waits for {:?}", client.id, operation.operation_kind));
            }
        }
        let process = self.hosts[leader].process.as_ref()?;
        let view = process.raft.view();
        if view.commit_index != view.last_index {
            return Some(format!("the leader's log ends at {}, committed is {}", view.last_index, view.commit_index));
        }
        if let Some(to) = view.transfer_to {
            return Some(format!("a leadership transfer to {to} is still under way"));
        }
        for (node, host) in self.hosts.iter().enumerate() {
            let who = host.identity;
            let is_member = view.membership.voters.get(&who.id) == Some(&who.uuid)
                || view.membership.learners.get(&who.id) == Some(&who.uuid);
            if host.is_left_out || !is_member || self.has_no_peer_to_ask(node) {
                continue;
            }
            let Some(process) = &host.process else { return Some(format!("n{} does not run", node + 1)) };
            if process.applied != view.last_index.0 {
                return Some(format!("n{} has applied {} of {}", node + 1, process.applied, view.last_index));
            }
            if process.raft.view().leader != Some(self.hosts[leader].identity.id) {
                return Some(format!("n{} does not follow n{}", node + 1, leader + 1));
            }
            // What was proposed beyond the end of the log was cut from it: its client has given up long ago.
            let proposed = process.waiting.range(..=view.last_index.0).count();
            let waiting = process.jobs.len() + process.held.len() + proposed + process.reads.len();
            if waiting > 0 {
                return Some(format!("n{} has {waiting} things waiting", node + 1));
            }
        }
        if let Some(node) = self.altered() {
            return Some(format!("the state of n{} differs from the others', and it is not repaired", node + 1));
        }
        self.job_that_is_missing(leader)
    }

    /// Whether a node has no reason to accept the leader: the cluster has no secret, and every node that it knows, by
    /// identity or by the address of a number, was replaced or stays broken, as are those that these nodes know in
    /// turn. A user must make it join again.
    pub fn has_no_peer_to_ask(&self, node: usize) -> bool {
        let Some(process) = &self.hosts[node].process else { return false };
        let is_new = process.raft.view().membership.members().next().is_none();
        let leader = self.settled_leader().map(|leader| self.hosts[leader].identity);
        if self.plan.has_secret || is_new {
            return false;
        }
        let mut asked = BTreeSet::from([node]);
        let mut to_ask = vec![node];
        while let Some(process) = to_ask.pop().and_then(|node| self.hosts[node].process.as_ref()) {
            let membership = process.raft.view().membership;
            let others = self.hosts.iter().enumerate().filter(|(_, host)| !host.is_left_out);
            let is_known = |who: &Identity| process.raft.knows(who) || membership.uuid_of(who.id).is_some();
            for (other, host) in others.filter(|(_, host)| is_known(&host.identity)) {
                let names_leader = |raft: &Raft| leader.is_none_or(|leader| raft.knows(&leader));
                if other != node && host.process.as_ref().is_some_and(|process| names_leader(&process.raft)) {
                    return false;
                }
                if host.process.is_some() && asked.insert(other) {
                    to_ask.push(other);
                }
            }
        }
        true
    }

    /// A line for each node, for a failure.
    fn census(&self) -> String {
        let mut text = String::new();
        for (node, host) in self.hosts.iter().enumerate() {
            text.push_str(&format!("\n  n{}{}: ", node + 1, if host.is_left_out { " (left out)" } else { "" }));
            match &host.process {
                None => text.push_str("down"),
                Some(process) => {
                    let view = process.raft.view();
                    text.push_str(&format!(
                        "{:?} term {} leader {:?} log {}..={} commit {} applied {} voters {:?} learners {:?} transfer {:?} quorum {}",
                        view.role,
                        view.term,
                        view.leader,
                        view.snapshot_index,
                        view.last_index,
                        view.commit_index,
                        process.applied,
                        view.membership.voters.keys().collect::<Vec<_>>(),
                        view.membership.learners.keys().collect::<Vec<_>>(),
                        view.transfer_to,
                        view.has_quorum,
                    ));
                }
            }
        }
        text
    }
}
