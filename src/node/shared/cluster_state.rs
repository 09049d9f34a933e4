//! The state of the cluster, derived from what this node's threads have published: which nodes are online and where,
//! and whether the cluster is healthy, and why not.
//!
//! Not here: the published values (`state.rs`), the rules for health (`cluster/health.rs`).

use super::state::Shared;
use crate::cluster::gossip::Gossip;
use crate::cluster::health::{self, HealthReport, Situation};
use crate::cluster::integrity::Difference;
use crate::cluster::witness;
use crate::lock::lock;
use crate::node::quota;
use crate::outcome::{NoLeader, Outsider, Reason};
use crate::raft::{Membership, Promise, Role, View, quorum};
use crate::types::{Addresses, Identity, Index, NodeId, NodeKind};
use crate::wire::heartbeat::GossipRow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use uuid::Uuid;

/// Stands for an index that was not heard.
const UNKNOWN: Index = Index(u64::MAX);

impl Shared {
    /// Whether one more node may join; if so, it is counted.
    pub fn try_add_silent_learner(&self, who: Identity) -> bool {
        lock(&self.silent_learners).try_add(who, &self.view().raft, |who| self.is_registered(who))
    }

    /// A learner that was never heard and that the leader must remove, if there is one.
    pub fn overdue_silent_learner(&self, view: &View) -> Option<NodeId> {
        lock(&self.silent_learners).overdue(view, |who| self.is_registered(who))
    }

    /// Whether the directory has its addresses.
    fn is_registered(&self, who: &Identity) -> bool {
        self.directory().nodes.get(&who.id).is_some_and(|(uuid, _)| *uuid == who.uuid)
    }

    /// Addresses of every known node, this one included, by id.
    pub fn known_addresses(&self) -> Vec<(NodeId, Addresses)> {
        let peer_addresses = self.peer_addresses();
        let mut all: BTreeMap<NodeId, Addresses> =
            self.directory().nodes.iter().map(|(id, (_, addresses))| (*id, addresses.clone())).collect();
        all.extend(peer_addresses.iter().map(|(id, addresses)| (*id, addresses.clone())));
        all.insert(self.me.id, self.settings.addresses(self.me.id));
        let membership = Arc::clone(&self.view().raft.membership);
        all.retain(|id, _| *id == self.me.id || membership.uuid_of(*id).is_some());
        all.into_iter().collect()
    }

    /// Why this node is not a member, according to its own log or the leader; `None`: it is a member as far as it
    /// knows.
    pub fn outsider(&self) -> Option<Outsider> {
        let by_own_log = is_removed(&self.view().raft, self.me).then_some(Outsider::Removed);
        self.asked_outsider().or(by_own_log)
    }

    /// The members that are witnesses, as far as this node has applied the log.
    pub fn witnesses(&self) -> BTreeSet<NodeId> {
        witness::members(&self.view().raft.membership, &self.directory())
    }

    /// Whether this very node is a witness.
    pub fn is_witness(&self, who: Identity) -> bool {
        self.directory().kind_of(who) == NodeKind::Witness
    }

    /// If this node is a witness: why it serves no client.
    pub fn no_data(&self) -> Option<Reason> {
        if self.kind != NodeKind::Witness {
            return None;
        }
        let (view, nodes) = (self.view(), self.directory());
        let is_full = |id: &NodeId| *id != self.me.id && !nodes.witnesses.contains(id) && self.is_online(*id);
        let leader = view.raft.leader.filter(is_full);
        let ask = leader.or_else(|| view.raft.membership.members().map(|who| who.id).find(is_full));
        Some(Reason::NoData { witness: self.me.id, ask })
    }

    /// Why this node serves no reads, if it does not.
    pub fn no_reads(&self) -> Option<Reason> {
        self.no_data().or_else(|| self.integrity.no_reads())
    }

    /// The members that are witnesses, each with the index up to which its log is cut, as it has said last.
    pub fn witness_cuts(&self) -> BTreeMap<NodeId, Index> {
        let (view, nodes, now_ms) = (self.view(), self.directory(), self.now_ms());
        let membership = &view.raft.membership;
        let gossip = lock(&self.gossip);
        let cut = |id: NodeId| match id == self.me.id {
            true => view.raft.snapshot_index,
            false => {
                let row = gossip.row(now_ms, id).filter(|(row, _)| membership.uuid_of(id) == Some(row.uuid));
                row.map_or(UNKNOWN, |(row, _)| row.cut_index)
            }
        };
        witness::members(membership, &nodes).into_iter().map(|id| (id, cut(id))).collect()
    }

    /// Up to where enough full voters hold the log on disk: a witness may cut its own there. A voter that has not been
    /// heard counts as holding `unheard`.
    pub fn releasable(&self, unheard: Index) -> Index {
        let (view, nodes) = (self.view(), self.directory());
        let membership = &view.raft.membership;
        let now_ms = self.now_ms();
        let own = view.raft.commit_index.min(view.raft.durable_index);
        let gossip = lock(&self.gossip);
        let held = |who: Identity| match who == self.me {
            true => own,
            false => gossip
                .row(now_ms, who.id)
                .filter(|(row, _)| row.uuid == who.uuid)
                .map_or(unheard, |(row, _)| row.held_index),
        };
        let voters = membership.voters.iter().map(|(&id, &uuid)| Identity { id, uuid });
        let full = voters.filter(|who| nodes.kind_of(*who) != NodeKind::Witness);
        witness::releasable(membership.voters.len(), full.map(held).collect())
    }

    /// What this node remembers of another's promises.
    pub fn remembers(&self, who: &Identity) -> Promise {
        let mut promise = lock(&self.gossip).remembered(who);
        promise.merge(&self.view().raft.remembered(who));
        promise
    }

    /// Whether a node is online, as far as this one knows.
    pub fn is_online(&self, id: NodeId) -> bool {
        is_member_online(&lock(&self.gossip), &self.view().raft.membership, self.me.id, id)
    }

    /// Every node that is known to be corrupt, by its own report or by what this node has found.
    pub fn corrupt_nodes(&self) -> BTreeMap<NodeId, Difference> {
        let mut corrupt = self.integrity.findings().corrupt.clone();
        if let Some(own) = &self.integrity.report().corrupt {
            corrupt.insert(self.me.id, own.clone());
        }
        for (row, is_online, _) in lock(&self.gossip).all(self.now_ms()) {
            if let Some(difference) = row.state.corrupt.clone().filter(|_| is_online) {
                corrupt.insert(row.id, difference);
            }
        }
        corrupt
    }

    /// The cluster's health, from what this node knows.
    pub fn health(&self) -> HealthReport {
        let view = self.view();
        let raft = &view.raft;
        let is_leader = raft.role == Role::Leader;
        let corrupt = self.corrupt_nodes().into_keys().collect();
        let now_ms = self.now_ms();
        let (witnesses, cuts, releasable) = (self.witnesses(), self.witness_cuts(), self.releasable(UNKNOWN));
        let is_cut =
            |id: &NodeId, cut: Index| cut > releasable && cut < UNKNOWN && raft.membership.voters.contains_key(id);
        let cut_logs = cuts.into_iter().filter(|(id, cut)| is_cut(id, *cut)).collect();
        let stuck = lock(&self.lags).stuck(now_ms, self.settings.fail_after_ms);
        let ways = self.ways();
        let gossip = lock(&self.gossip);
        let is_reachable = |id: NodeId, uuid: Uuid| {
            id == self.me.id
                || gossip.is_online_as(Identity { id, uuid })
                || (is_leader && raft.peers.iter().any(|peer| peer.who.id == id && peer.is_active))
        };
        let is_named = |row: &GossipRow| raft.membership.uuid_of(row.id) == Some(row.uuid);
        let rows = gossip.all(now_ms).into_iter().filter(|(row, is_online, _)| *is_online && is_named(row));
        let mut disk_low: BTreeSet<NodeId> = rows.filter(|(row, ..)| row.is_disk_low).map(|(row, ..)| row.id).collect();
        if self.is_disk_low() {
            disk_low.insert(self.me.id);
        }
        let leader = raft.leader.or_else(|| gossip.leader());
        let cut_off = leader.map_or_else(BTreeMap::new, |leader| {
            let rows = gossip.all(now_ms).into_iter().filter(|(row, is_online, _)| *is_online && is_named(row));
            let others = rows.map(|(row, ..)| (row.id, way_to(leader, &row.unreached, row.relayed.iter().copied())));
            let own = way_to(leader, &ways.unreached, ways.relayed.iter().map(|(to, by)| (*to, *by)));
            let all = others.chain([(self.me.id, own)]).filter(|(id, _)| *id != leader);
            all.filter_map(|(id, way)| Some((id, way?))).collect()
        });
        health::assess(&Situation {
            cut_off,
            disk_low,
            outsider: self.outsider().map(|it| it.describe(self.me)),
            leader: raft.leader,
            voters: raft.membership.voters.iter().map(|(id, uuid)| (*id, is_reachable(*id, *uuid))).collect(),
            learners: raft.membership.learners.iter().map(|(id, uuid)| (*id, is_reachable(*id, *uuid))).collect(),
            gateways: self.directory().gateways.clone(),
            witnesses,
            cut_logs,
            stuck,
            voters_max: self.settings.voters_max,
            quotas: quota::reached(&self.settings, &self.sizes()),
            mismatched_peers: self.mismatched_peers(),
            takeover: self.hosted.note(),
            corrupt,
            split: self.integrity.no_writes().map(|why| why.to_string()),
            has_quorum: is_leader.then_some(raft.has_quorum),
        })
    }

    /// Why a request found no leader.
    pub fn why_no_leader(&self) -> NoLeader {
        if let Some(outsider) = self.outsider() {
            return NoLeader::Outsider(outsider, self.me);
        }
        let view = self.view();
        let voters = &view.raft.membership.voters;
        let reachable = voters.keys().filter(|id| self.is_online(**id)).count();
        let needed = quorum(voters.len());
        match reachable < needed {
            true if voters.len() == 1 => NoLeader::OnlyVoterOffline(*voters.keys().next().expect("one")),
            true => {
                NoLeader::NoQuorum { reachable: reachable as u64, voters: voters.len() as u64, needed: needed as u64 }
            }
            false => NoLeader::NotInTime,
        }
    }
}

/// How a node reaches the leader, if it has no working connection to it: through another node, or not at all.
fn way_to(
    leader: NodeId,
    unreached: &[NodeId],
    mut relayed: impl Iterator<Item = (NodeId, NodeId)>,
) -> Option<Option<NodeId>> {
    let through = relayed.find(|(to, _)| *to == leader).map(|(_, by)| by);
    (through.is_some() || unreached.contains(&leader)).then_some(through)
}

/// Whether the newest membership that this node knows does not contain it, and it has no leader. The log of a new node
/// that is still catching up does not name it either, but such a node has a leader.
pub fn is_removed(raft: &View, me: Identity) -> bool {
    raft.leader.is_none() && !raft.membership.voters.is_empty() && !raft.membership.is_member(&me)
}

/// Whether the node is online under the identity that the membership names: an old disk that was put back under the
/// same number has another identity.
pub fn is_member_online(gossip: &Gossip, membership: &Membership, me: NodeId, id: NodeId) -> bool {
    let is_named = |uuid: Uuid| gossip.is_online_as(Identity { id, uuid });
    id == me || membership.uuid_of(id).map_or_else(|| gossip.is_online(id), is_named)
}
