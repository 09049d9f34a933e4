//! The status and the monitor frame, built from what the threads of the node have published.
//!
//! Not here: when a frame is due (`node/threads/monitor.rs`), the shapes (`node/views/status.rs`), the rules for health
//! (`cluster/health.rs`).

use super::heartbeat::{own_row, standing};
use crate::cluster::gossip::GossipRow;
use crate::cluster::integrity::Difference;
use crate::limits::SESSIONS_SHOWN_MAX;
use crate::lock::lock;
use crate::node::shared::Shared;
use crate::node::shared::cluster_state::is_member_online;
use crate::node::views::frames::Published;
use crate::node::views::status::{
    ClusterStatus, DifferenceRow, DigestRow, EventLine, IntegrityStatus, Liveness, MonitorFrame, NodeRow, NodeStatus,
    Status,
};
use crate::raft::Role;
use crate::services::digests::part_name;
use crate::services::directory::History;
use crate::types::{NodeId, Term};
use crate::wire::heartbeat::{ClientRates, Load};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Events in one frame.
const EVENTS_SHOWN_MAX: usize = 30;

/// The present frame.
pub fn frame(shared: &Shared, seq: u64) -> Published {
    let frame = MonitorFrame { seq, at_ms: shared.now_ms(), status: status(shared), events: events(&shared.history()) };
    encode(frame)
}

/// The newest lines of the history, which all nodes have alike, oldest first.
fn events(history: &History) -> Vec<EventLine> {
    let shown = history.lines.len().min(EVENTS_SHOWN_MAX);
    let first = history.newest - shown as u64;
    let lines = history.lines.iter().skip(history.lines.len() - shown);
    let numbered = lines.zip(first + 1..).map(|(line, seq)| EventLine {
        seq,
        at_ms: line.at_ms,
        kind: line.kind.clone(),
        node: line.node,
        text: line.text.clone(),
    });
    numbered.collect()
}

/// Encodes a frame for all viewers.
fn encode(frame: MonitorFrame) -> Published {
    let json = serde_json::to_string(&frame).expect("a frame is plain data");
    // Inside a script element nothing may look like a tag.
    let json: Arc<str> = json.replace('<', "\\u003c").into();
    Published { seq: frame.seq, json, frame: Arc::new(frame) }
}

/// Everything of `/v1/status`.
pub fn status(shared: &Shared) -> Status {
    let view = shared.view();
    let raft = &view.raft;
    let health = shared.health();
    Status {
        node: NodeStatus {
            id: shared.me.id,
            uuid: shared.me.uuid,
            role: raft.role,
            membership: standing(shared, shared.me.id),
            version: env!("CARGO_PKG_VERSION").to_string(),
            uptime_ms: shared.uptime_ms(),
        },
        cluster: ClusterStatus {
            id: Some(shared.cluster),
            name: shared.settings.cluster_name.clone(),
            leader: raft.leader,
            term: raft.term,
            has_quorum: health.has_quorum,
            voters: raft.membership.voters.keys().copied().collect(),
            learners: raft.membership.learners.keys().copied().collect(),
            failure_tolerance: health.failure_tolerance,
            verdict: health.health,
            reasons: health.reasons,
            integrity: IntegrityStatus { digests: Vec::new(), ..integrity(shared) },
        },
        nodes: rows(shared),
        sessions: shared.sessions.newest(SESSIONS_SHOWN_MAX),
        sessions_total: shared.sessions.count(),
        failovers: shared.history().leaders.iter().rev().cloned().collect(),
        jobs: shared.jobs().status.clone(),
    }
}

/// Whether the nodes hold the same state, as this one knows.
pub fn integrity(shared: &Shared) -> IntegrityStatus {
    let row = |node: Option<NodeId>, difference: &Difference| DifferenceRow {
        node,
        index: difference.index,
        parts: difference.parts.iter().map(|number| part_name(*number).to_string()).collect(),
    };
    let known = &shared.integrity;
    // First: a digest that ends after this must not look like one that was skipped.
    let is_digesting = known.is_digesting();
    let report = known.report();
    let digests = report.digests.iter().map(|digest| DigestRow {
        index: digest.index,
        parts: digest.parts.iter().map(|(number, it)| (part_name(*number).to_string(), format!("{it:016x}"))).collect(),
    });
    IntegrityStatus {
        agreed_index: known.findings().agreed,
        checkpoint_index: known.checkpoint(),
        checkpoint_age_ms: known.checkpoint_age().as_millis() as u64,
        is_digesting,
        corrupt: shared.corrupt_nodes().iter().map(|(id, it)| row(Some(*id), it)).collect(),
        split: known.split().map(|split| row(None, &split)),
        digests: digests.collect(),
    }
}

fn rows(shared: &Shared) -> Vec<NodeRow> {
    let view = shared.view();
    let raft = &view.raft;
    let now_ms = shared.now_ms();
    let mut heard: BTreeMap<NodeId, (GossipRow, bool, Option<u64>)> = BTreeMap::new();
    {
        let gossip = lock(&shared.gossip);
        for (row, _, age_ms) in gossip.all(now_ms) {
            let is_online = is_member_online(&gossip, &raft.membership, shared.me.id, row.id);
            heard.insert(row.id, (row.clone(), is_online, Some(age_ms)));
        }
    }
    heard.insert(shared.me.id, (own_row(shared), true, Some(0)));
    // A row is as old as its node's last heartbeat, and a heartbeat that came by way of another node may be older by one
    // or two: what was committed since then is no lag.
    let (newest, mut committed_then) = {
        let lags = lock(&shared.lags);
        let then = |age_ms: u64| lags.committed_at(now_ms.saturating_sub(age_ms + 2 * shared.settings.gossip_ms));
        let of = |(id, (_, is_online, age_ms)): (&NodeId, &(GossipRow, bool, Option<u64>))| {
            age_ms.filter(|_| *is_online).map(|age_ms| (*id, then(age_ms)))
        };
        (lags.committed_at(u64::MAX), heard.iter().filter_map(of).collect::<BTreeMap<_, _>>())
    };
    let gateways = &shared.directory().gateways;
    let witnesses = shared.witnesses();
    let corrupt = shared.corrupt_nodes();
    let mut clocks: BTreeMap<NodeId, i64> = lock(&shared.skews).all().collect();
    clocks.insert(shared.me.id, 0);
    let mut rows = Vec::new();
    for (id, addresses) in shared.known_addresses() {
        let (row, is_online, heartbeat_age_ms) = heard.remove(&id).unwrap_or_default();
        let status = match (is_online, raft.leader == Some(id)) {
            (true, true) => Liveness::Leader,
            (true, false) => Liveness::Online,
            (false, _) => Liveness::Offline,
        };
        let committed = committed_then.remove(&id).unwrap_or(newest);
        let (role, term) = role_and_term(status, (row.role, row.term), raft.term);
        rows.push(NodeRow {
            id,
            status,
            role,
            membership: standing(shared, id),
            term,
            load: if is_online { row.load.total() } else { 0 },
            load_parts: if is_online { row.load } else { Load::default() },
            last_index: row.last_index,
            commit_index: row.commit_index,
            applied_index: row.applied_index,
            lag: committed.max(row.commit_index).0.saturating_sub(row.applied_index.0),
            // The last figures of a dead node are out of date.
            pace: if is_online { row.pace } else { ClientRates::default() },
            pid: is_on_same_host(shared, &addresses.http).then_some(row.pid).filter(|_| is_online),
            http: addresses.http,
            kv: addresses.kv,
            peer: addresses.peer,
            heartbeat_age_ms,
            is_gateway: gateways.contains(&id),
            is_witness: witnesses.contains(&id),
            is_corrupt: corrupt.contains_key(&id),
            is_disk_low: is_online && row.is_disk_low,
            clock_ahead_ms: clocks.get(&id).copied(),
        });
    }
    rows
}

/// A node's role and term beside its liveness. What was heard may be older than what this node knows of the leader.
fn role_and_term(status: Liveness, heard: (Role, Term), term: Term) -> (Role, Term) {
    match (status, heard.0) {
        (Liveness::Leader, _) => (Role::Leader, heard.1.max(term)),
        (_, Role::Leader) => (Role::Follower, heard.1),
        _ => heard,
    }
}

/// Whether a node has the same host in its address as this one: only then its pid is one of this host.
fn is_on_same_host(shared: &Shared, http: &str) -> bool {
    let host = |address: &str| address.rsplit_once(':').map(|(host, _)| host.to_string());
    host(http) == host(&shared.settings.addresses(shared.me.id).http)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_one_opinion_of_the_leader() {
        let (old, new) = (Term(2), Term(3));
        // Just elected; its heartbeats of before are still the newest.
        assert_eq!(role_and_term(Liveness::Leader, (Role::Follower, old), new), (Role::Leader, new));
        // Just deposed, or lost: it last said that it leads.
        assert_eq!(role_and_term(Liveness::Online, (Role::Leader, old), new), (Role::Follower, old));
        assert_eq!(role_and_term(Liveness::Offline, (Role::Leader, old), new), (Role::Follower, old));
        assert_eq!(role_and_term(Liveness::Online, (Role::Candidate, new), old), (Role::Candidate, new));
    }
}
