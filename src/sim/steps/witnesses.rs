//! Witnesses: voters without data. They hold their logs until the full voters have them, lead only to pass entries on,
//! and answer no client.
//!
//! The rules are the real ones (`cluster/witness.rs`, `raft/election.rs`), and so are their services: a registry that
//! keeps the directory alone. What other nodes know of each other's logs comes without delay, which is the hard case: a
//! witness never waits longer for old figures than for new ones.
//! Rules checked: `WitnessServes` (no answer of a witness to a client), and all others: an entry that only a witness
//! and a lost disk held must be there in the end (`Progress`, `AckedDurable`, `Linearizable`).
//! Not here: which seeds have witnesses (`sim/tuning.rs`), the disk of one (`effects.rs`).

use crate::cluster::witness;
use crate::raft::{Change, Input, Membership, SnapshotMeta};
use crate::sim::environment::plan::TICK_US;
use crate::sim::events::SimEvent;
use crate::sim::model::host::Ask;
use crate::sim::model::log_reports::LogReport;
use crate::sim::model::operations::ClientResult;
use crate::sim::violation::{CheckResult, violation};
use crate::sim::world::World;
use crate::types::{Identity, Index, NodeId};
use std::collections::{BTreeMap, BTreeSet};

impl World {
    fn witnesses(&self) -> BTreeSet<NodeId> {
        self.plan.witnesses.iter().map(|node| NodeId(*node as u64 + 1)).collect()
    }

    /// The members that are witnesses, each with the index up to which its log is cut.
    pub fn witness_cuts(&self, membership: &Membership) -> BTreeMap<NodeId, Index> {
        let all = self.witnesses();
        let members = membership.members().filter(|who| all.contains(&who.id));
        members.map(|who| (who.id, self.log_reports.get(&who).map_or(Index(u64::MAX), |report| report.cut))).collect()
    }

    /// Whether witnesses allow a change that `leader` is asked for.
    pub fn is_allowed_by_witnesses(&self, leader: usize, change: &Change) -> bool {
        if self.plan.witnesses.is_empty() {
            return true;
        }
        let Some(process) = self.hosts[leader].process.as_ref() else { return true };
        let view = process.raft.view();
        !self.hosts[leader].is_witness && witness::is_allowed(&view, &self.witness_cuts(&view.membership), change)
    }

    /// A process has started: it knows who the witnesses are.
    pub fn name_witnesses(&mut self, node: usize) -> CheckResult {
        match self.plan.witnesses.is_empty() {
            true => Ok(()),
            false => self.step(node, Input::Witnesses(self.witnesses())),
        }
    }

    /// With each tick a node reports how far its log is, and a witness that leads passes the leadership on.
    pub fn on_witness_tick(&mut self, node: usize) -> CheckResult {
        if self.plan.witnesses.is_empty() {
            return Ok(());
        }
        let who = self.hosts[node].identity;
        let Some(process) = self.hosts[node].process.as_mut() else { return Ok(()) };
        let view = process.raft.view();
        let held = view.commit_index.min(view.durable_index);
        self.log_reports.insert(who, LogReport { held, cut: view.snapshot_index });
        if !self.hosts[node].is_witness || self.bugs.host.witness_leads_like_any {
            return Ok(());
        }
        let Some(process) = self.hosts[node].process.as_mut() else { return Ok(()) };
        if process.leads().is_none() {
            return Ok(());
        }
        self.coverage.witness_led += 1;
        let token = process.token(Ask::Driver);
        self.step(node, Input::Transfer { token, to: None })
    }

    /// Whether a snapshot may take the place of the log of a node; if not, it is tried again later.
    pub fn may_save(&mut self, node: usize, meta: &SnapshotMeta, bytes: &[u8]) -> bool {
        if !self.hosts[node].is_witness || self.bugs.host.witness_cuts_at_once {
            return true;
        }
        let Some(process) = self.hosts[node].process.as_ref() else { return true };
        let (membership, witnesses) = (process.raft.view().membership, self.witnesses());
        let voters = membership.voters.iter().map(|(&id, &uuid)| Identity { id, uuid });
        let full = voters.filter(|who| !witnesses.contains(&who.id));
        let held = full.map(|who| self.log_reports.get(&who).copied().unwrap_or_default().held).collect();
        if witness::releasable(membership.voters.len(), held) >= meta.index {
            return true;
        }
        self.coverage.witness_waits += 1;
        let life = self.hosts[node].life;
        let again = SimEvent::Save { node, life, meta: Box::new(meta.clone()), bytes: bytes.to_vec() };
        self.after(4 * TICK_US, again);
        false
    }

    /// What a leader streams to a witness instead of its newest snapshot: the small part of its present state. `None`:
    /// the receiver is no witness.
    pub fn state_for_witness(&self, from: usize, to: Identity) -> Option<(SnapshotMeta, Vec<u8>)> {
        let process = self.hosts[from].process.as_ref().filter(|_| self.witnesses().contains(&to.id))?;
        let meta = process.raft.snapshot_meta(Index(process.applied))?;
        let mut bytes = Vec::new();
        process.service.registry.for_witness().snapshot(&mut bytes).expect("a vector takes every byte");
        Some((meta, bytes))
    }

    /// A witness answers no client, not even through another node.
    pub fn check_witness_answer(&self, node: usize, ask: &Ask, result: &ClientResult) -> CheckResult {
        let is_client = matches!(ask, Ask::Command(_) | Ask::Read { .. } | Ask::Forwarded { .. });
        let is_answer = !matches!(result, ClientResult::Refused | ClientResult::Unknown);
        match self.hosts[node].is_witness && is_client && is_answer {
            true => violation!("WitnessServes", "n{} is a witness and answers {result:?} to {ask:?}", node + 1),
            false => Ok(()),
        }
    }
}
