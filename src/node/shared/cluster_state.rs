//! The state of the cluster, derived from what this node's threads have published: which nodes are online and where,
//! and whether the cluster is healthy, and why not.
//!
//! Not here: the published values (`state.rs`), the rules for health (`cluster/health.rs`).

use super::state::Shared;
use crate::cluster::gossip::Gossip;
use crate::cluster::health::{self, HealthReport, Situation};
use crate::cluster::integrity::Difference;
use crate::lock::lock;
use crate::node::quota;
use crate::outcome::{NoLeader, Outsider};
use crate::raft::{Membership, Promise, Role, View, quorum};
use crate::types::{Addresses, Identity, NodeId};
use crate::wire::heartbeat::GossipRow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use uuid::Uuid;

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
