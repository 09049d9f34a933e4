//! A node's state is changed without a log entry, as a fault of its memory or disk would do; the nodes must detect and
//! repair it.
//!
//! Leaders put checkpoints into the log, nodes that apply one report the digest of their state, and the real comparison
//! (`cluster/integrity.rs`) finds the nodes that are wrong. The wrong node takes the state of one that agrees and
//! applies again what its own log has after it, as a real node does. Rules: `Integrity` (no sound node is called
//! corrupt, and a repaired state equals that of the others), and `Progress` at the end: no difference remains.
//!
//! Only a majority of sound voters can detect a change. So one node is altered in a run, and snapshots are off, because
//! a follower could receive the state of a leader whose difference is not detected yet.
//! Not here: when it is on (`planted_bugs/`, `tests.rs`), the real threads and transfers
//! (`node/snapshots/checkpoints.rs`, `node/snapshots/rebuild.rs`).

use super::events::SimEvent;
use super::model::host::Ask;
use super::model::services::{Body, Command};
use super::steps::workers::FIRST_WORD;
use super::violation::{CheckResult, violation};
use super::world::World;
use crate::cluster::integrity::{Findings, NodeReport, compare_reports};
use crate::raft::{Payload, Role};
use crate::services::Replicated;
use crate::services::chat::Chat;
use crate::services::digests::part_name;
use crate::services::directory::Directory;
use crate::services::jobs::JobTable;
use crate::services::kv::Store;
use crate::services::registry::{PARTS, SESSIONS};
use crate::services::sessions::Tag;
use crate::services::sql::Database;
use crate::types::{Identity, Index, NodeId};
use uuid::Uuid;

/// Digests that a node reports.
const DIGESTS_KEPT: usize = 4;

impl World {
    /// Some node's state is altered, if a process runs.
    pub fn on_alter(&mut self) -> CheckResult {
        let running: Vec<usize> = (0..self.hosts.len()).filter(|node| self.hosts[*node].process.is_some()).collect();
        let part = PARTS[self.rng.usize(0..PARTS.len())].0;
        if running.is_empty() || self.in_liveness_phase {
            return Ok(());
        }
        let node = running[self.rng.usize(0..running.len())];
        let host = &mut self.hosts[node];
        if let Some(process) = host.process.as_mut() {
            process.service.registry.alter(part);
            host.altered = Some(part);
            self.note(|_| format!("n{}: {} is altered", node + 1, part_name(part)));
        }
        Ok(())
    }

    /// The leader puts a checkpoint into the log. Repeated until the liveness phase has begun and no node is altered.
    pub fn on_checkpoint(&mut self) -> CheckResult {
        if !self.in_liveness_phase || self.altered().is_some() {
            let delay = self.plan.election_us();
            self.after(delay, SimEvent::Checkpoint);
        }
        let Some(leader) = self.newest_leader() else { return Ok(()) };
        self.words += 1;
        let attempt = FIRST_WORD + self.words;
        let tag = Tag { origin: Uuid::from_u128(u128::from(self.words) << 64), number: 1, done_below: 1 };
        self.hand_in(leader, Ask::Driver, Command { attempt, at_ms: 0, tag, body: Body::Checkpoint })
    }

    /// A node has applied a checkpoint: it reports the digest of its state.
    pub fn report_digest(&mut self, node: usize) -> CheckResult {
        let Some(process) = self.hosts[node].process.as_mut() else { return Ok(()) };
        let digest = process.service.registry.state_digest(&[], &mut || {});
        let digests = &mut process.report.digests;
        digests.push(digest);
        if digests.len() > DIGESTS_KEPT {
            digests.remove(0);
        }
        self.compare(node)
    }

    /// A node whose state is altered and not healed, in a process that runs and belongs to the cluster. Also `None` if
    /// no majority of the voters is sound: one was replaced and has not joined yet.
    pub fn altered(&self) -> Option<usize> {
        let leader = self.hosts[self.newest_leader()?].process.as_ref()?;
        let membership = leader.raft.view().membership;
        let running = || self.hosts.iter().enumerate().filter(|(_, host)| host.process.is_some() && !host.is_left_out);
        let is_voter = |who: &Identity| membership.voters.get(&who.id) == Some(&who.uuid);
        let right = running().filter(|(_, host)| host.altered.is_none() && is_voter(&host.identity)).count();
        let mut altered = running().filter(|(_, host)| host.altered.is_some());
        altered.next().map(|(node, _)| node).filter(|_| right > membership.voters.len() / 2)
    }

    /// What the nodes know of each other by what `node` believes to be the membership.
    fn findings(&self, node: usize) -> Option<Findings> {
        let membership = self.hosts[node].process.as_ref()?.raft.view().membership;
        let running_hosts = self.hosts.iter().filter_map(|host| Some((host.identity, host.process.as_ref()?)));
        let node_reports: Vec<NodeReport<'_>> = running_hosts
            .filter(|(who, _)| membership.is_member(who))
            .map(|(who, process)| NodeReport {
                id: who.id,
                is_voter: membership.voters.contains_key(&who.id),
                is_online: true,
                report: &process.report,
            })
            .collect();
        Some(compare_reports(membership.voters.len(), &node_reports))
    }

    fn compare(&mut self, node: usize) -> CheckResult {
        let Some(findings) = self.findings(node) else { return Ok(()) };
        for (id, difference) in &findings.corrupt {
            let altered = self.hosts[id.0 as usize - 1].altered;
            if altered.is_none_or(|part| !difference.parts.contains(&part)) {
                return violation!("Integrity", "n{id} is called corrupt: {difference:?}, altered is {altered:?}");
            }
        }
        // While too few sound voters report, no node counts as corrupt; that is temporary.
        if self.bugs.host.mismatches_are_not_reported {
            return Ok(());
        }
        let corrupt: Vec<NodeId> = findings.corrupt.keys().copied().collect();
        for id in corrupt {
            self.rebuild(id.0 as usize - 1, &findings)?;
        }
        Ok(())
    }

    /// A corrupt node takes the state of a sound one, if its own log continues from there.
    fn rebuild(&mut self, node: usize, findings: &Findings) -> CheckResult {
        let is_sound = |who: Identity| findings.sound.contains_key(&who.id);
        let sources = self.hosts.iter().filter(|host| is_sound(host.identity) && host.altered.is_none());
        let given: Vec<(u64, Vec<u8>)> = sources
            .filter_map(|host| {
                let process = host.process.as_ref()?;
                let mut bytes = Vec::new();
                process.service.snapshot(&mut bytes).expect("a vector takes every byte");
                Some((process.applied, bytes))
            })
            .collect();
        let clock_ms = self.clock_ms(node);
        let Some(process) = self.hosts[node].process.as_mut() else { return Ok(()) };
        // A state that is ahead of this node's log is not used; the next checkpoint compares again.
        let Some((from, bytes)) = given.into_iter().find(|(index, _)| *index <= process.applied) else { return Ok(()) };
        process.service.restore(&mut bytes.as_slice()).expect("it was just written");
        process.report = Default::default();
        process.service.local_ms = clock_ms;
        for index in from + 1..=process.applied {
            let entry = process.raft.entries(Index(index), Index(index)).first().cloned();
            match entry.map(|entry| entry.payload) {
                Some(Payload::Command(bytes)) => {
                    let command = Command::decode(&bytes).expect("the log holds what was proposed");
                    process.service.apply(Index(index), &command);
                }
                Some(Payload::Noop | Payload::Membership(_)) => process.service.registry.skip(Index(index)),
                None => return violation!("Integrity", "n{} has no entry {index} to apply again", node + 1),
            }
        }
        process.service.registry.take_checkpoint();
        let (applied, digest, is_leader) =
            (process.applied, process.service.digest(), process.raft.view().role == Role::Leader);
        let altered = self.hosts[node].altered.take();
        let seen = &mut self.coverage;
        seen.differences_healed += 1;
        match altered {
            Some(Directory::ID) => seen.healed_directory += 1,
            Some(Store::ID) => seen.healed_kv += 1,
            Some(JobTable::ID) => seen.healed_jobs += 1,
            Some(Database::ID) => seen.healed_sql += 1,
            Some(Chat::ID) => seen.healed_chat += 1,
            Some(SESSIONS) => seen.healed_sessions += 1,
            _ => {}
        }
        self.note(|_| format!("n{} has healed from the state at {from}, at {applied} (leader: {is_leader})", node + 1));
        self.client_checker.on_restart(applied, digest)
    }
}
