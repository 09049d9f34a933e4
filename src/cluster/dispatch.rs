//! The front port's choice: which node takes the next client.
//!
//! Each node decides for its own listener, without asking others. A worker's estimate is the load that it last reported
//! plus its pending clients: those that this node has redirected to it and those that other nodes have reported. A
//! pending client is removed when the worker's count of opened sessions grows, or after two seconds (it has not
//! connected). An opening may be reported before the redirect that caused it, so openings also wait for theirs, for a
//! shorter time.
//!
//! Several nodes choose at the same moment, and each gets the others' latest choices only some milliseconds later. If
//! all took the lowest estimate they would all fill the same worker, then all the next, and would oscillate. So during
//! a flow of clients, a node does not follow the estimates. It redirects its own clients to the workers in rotation,
//! and corrects an imbalance at the beginning of the flow by its share only (its part of all clients). The nodes use
//! different orders, chosen so that each worker is early in some and late in others: the imbalances of unfinished
//! rotations do not add up. For five nodes and four workers that alone keeps each worker within two clients of the
//! mean, whatever the timing. After a moment without redirects the estimates are exact, and the lowest one is taken. A
//! worker with an estimate far from the lowest is avoided also during a flow (a worker that has returned empty is
//! filled).
//!
//! The leader gets clients only when no other node is online; learners get clients.
//! Not here: the listener (`http/front.rs`), informing the other nodes (`node/`).

use crate::types::NodeId;
use std::collections::{BTreeMap, VecDeque};

/// A client that has not arrived by then never will.
const HAND_OUT_EXPIRES_MS: u64 = 2000;
/// An opening without a redirect for so long is a client that has connected directly.
const OPENING_EXPIRES_MS: u64 = 300;
/// After so long without a redirect by any node, the estimates are exact, and the lowest one is taken.
const QUIET_MS: u64 = 30;
/// After so long without a redirect by any node, the flow is over, and the next one begins with the present estimates.
const CALM_MS: u64 = 300;
/// In a flow, workers this far above the lowest estimate are avoided: well above what hand-outs not heard of explain.
const SWING: f64 = 6.0;
/// Clients on their way to one worker that are remembered. More: the oldest counts as arrived.
const PENDING_MAX: usize = 20_000;

#[derive(Clone, Debug, Default)]
struct Worker {
    http: String,
    /// As last reported.
    load: u64,
    /// As last reported; `None` before the first report.
    opened_total: Option<u64>,
    /// When each pending client was redirected, oldest first.
    pending: VecDeque<u64>,
    /// Openings that no known hand-out explains yet.
    openings: VecDeque<u64>,
    /// Estimate when the flow began.
    began_at: u64,
    /// How often this node chose it in this flow.
    dealt: u64,
    /// Its place in this node's order of dealing.
    place: u64,
}

impl Worker {
    fn expire(&mut self, now_ms: u64) {
        drop_older(&mut self.pending, now_ms, HAND_OUT_EXPIRES_MS);
        drop_older(&mut self.openings, now_ms, OPENING_EXPIRES_MS);
    }

    fn hand_out(&mut self, now_ms: u64, count: u32) {
        for _ in 0..count {
            if self.openings.pop_front().is_none() {
                if self.pending.len() == PENDING_MAX {
                    self.pending.pop_front();
                }
                self.pending.push_back(now_ms);
            }
        }
    }

    fn estimate(&self) -> u64 {
        self.load + self.pending.len() as u64
    }
}

fn drop_older(times: &mut VecDeque<u64>, now_ms: u64, age_ms: u64) {
    while times.front().is_some_and(|at| now_ms.saturating_sub(*at) >= age_ms) {
        times.pop_front();
    }
}

/// One node's view of the workers.
#[derive(Clone, Debug)]
pub struct Dispatch {
    me: NodeId,
    workers: BTreeMap<NodeId, Worker>,
    eligible: Vec<NodeId>,
    /// Last hand-out that this node made or heard of; `None` before the first.
    last_ms: Option<u64>,
    /// Hand-outs of this node in this flow, whatever workers there were.
    own: u64,
    /// Hand-outs of the other nodes in this flow.
    foreign: u64,
}

impl Dispatch {
    /// Knows no worker yet.
    pub fn new(me: NodeId) -> Dispatch {
        Dispatch { me, workers: BTreeMap::new(), eligible: Vec::new(), last_ms: None, own: 0, foreign: 0 }
    }

    /// Sets the nodes that are online, this one included, with `host:port` of their HTTP servers, and the leader.
    pub fn set_online(&mut self, leader: Option<NodeId>, online: &[(NodeId, String)]) {
        let nodes_before = self.workers.len();
        self.workers.retain(|id, _| online.iter().any(|(other, _)| other == id));
        for (id, http) in online {
            self.workers.entry(*id).or_default().http.clone_from(http);
        }
        let nodes: Vec<NodeId> = self.workers.keys().copied().collect();
        let mut eligible: Vec<NodeId> = nodes.iter().copied().filter(|id| Some(*id) != leader).collect();
        if eligible.is_empty() {
            eligible.clone_from(&nodes);
        }
        if eligible == self.eligible && nodes.len() == nodes_before {
            return;
        }
        self.eligible = eligible;
        let me = nodes.iter().position(|id| *id == self.me).unwrap_or(0);
        for (id, place) in self.eligible.iter().zip(order_of_dealing(me, nodes.len(), self.eligible.len())) {
            if let Some(worker) = self.workers.get_mut(id) {
                worker.place = place as u64;
            }
        }
        // The flow of clients continues through the same nodes, so only the rotation restarts. If a node also forgot
        // its share, it would correct the whole imbalance, and so would all the others.
        self.begin_turns();
    }

    /// A worker's own figures, from a gossip row (or, for this node, first hand).
    pub fn report(&mut self, now_ms: u64, id: NodeId, load: u64, sessions_opened_total: u64) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.expire(now_ms);
        let before = worker.opened_total.replace(sessions_opened_total).unwrap_or(sessions_opened_total);
        if before > sessions_opened_total {
            // The process restarted: whatever was on its way is lost or will show in its load.
            worker.pending.clear();
            worker.openings.clear();
        }
        for _ in before..sessions_opened_total.min(before + PENDING_MAX as u64) {
            if worker.pending.pop_front().is_none() {
                worker.openings.push_back(now_ms);
            }
        }
        worker.load = load;
    }

    /// Another node reports which nodes it sent clients to.
    pub fn handed_out(&mut self, now_ms: u64, choices: &[(NodeId, u32)]) {
        for (id, count) in choices {
            let count = (*count).min(PENDING_MAX as u32);
            if self.workers.contains_key(id) {
                self.note_flow(now_ms);
                self.foreign += u64::from(count);
            }
            if let Some(worker) = self.workers.get_mut(id) {
                worker.hand_out(now_ms, count);
            }
        }
    }

    /// The worker for the next client, with its address. It is counted here; the other nodes must be informed at once.
    pub fn pick(&mut self, now_ms: u64) -> Option<(NodeId, String)> {
        let is_quiet = self.last_ms.is_none_or(|last| now_ms.saturating_sub(last) >= QUIET_MS);
        self.note_flow(now_ms);
        let all = || self.eligible.iter().map(|id| (*id, &self.workers[id]));
        let lowest = all().map(|(_, worker)| worker.estimate()).min()?;
        let began_lowest = all().map(|(_, worker)| worker.began_at).min()?;
        // One in so many clients of this flow comes through this node: its share of what is to be corrected.
        let share = (self.own + 1) as f64 / (self.own + 1 + self.foreign) as f64;
        let places = self.eligible.len() as f64;
        let key = |worker: &Worker| {
            let uneven = (worker.began_at - began_lowest) as f64;
            let swing = ((worker.estimate() - lowest) as f64 - SWING).max(0.0);
            worker.dealt as f64 + worker.place as f64 / places + (uneven + swing) * share
        };
        let candidates = all().filter(|(_, worker)| !is_quiet || worker.estimate() == lowest);
        let (best, _) = candidates.min_by(|(_, a), (_, b)| key(a).total_cmp(&key(b)))?;
        let worker = self.workers.get_mut(&best).expect("eligible workers are online ones");
        worker.hand_out(now_ms, 1);
        worker.dealt += 1;
        self.own += 1;
        Some((best, worker.http.clone()))
    }

    /// A hand-out is about to be made or was heard of: begins a new flow if the last one is over.
    fn note_flow(&mut self, now_ms: u64) {
        for worker in self.workers.values_mut() {
            worker.expire(now_ms);
        }
        if self.last_ms.is_none_or(|last| now_ms.saturating_sub(last) >= CALM_MS) {
            self.begin_flow();
        }
        self.last_ms = Some(now_ms);
    }

    fn begin_flow(&mut self) {
        (self.own, self.foreign) = (0, 0);
        self.begin_turns();
    }

    fn begin_turns(&mut self) {
        for worker in self.workers.values_mut() {
            (worker.began_at, worker.dealt) = (worker.estimate(), 0);
        }
    }
}

/// Place of each worker, 0 first, in the order in which node number `node` of `nodes` deals.
///
/// A worker's places add up to nearly the same over all nodes. With an even number of nodes each order is followed by
/// its reverse; with an odd number the first three level each other out: as listed, half a turn on, and what is then
/// missing.
fn order_of_dealing(node: usize, nodes: usize, workers: usize) -> Vec<usize> {
    let mut sums = vec![0; workers];
    for at in 0.. {
        let places: Vec<usize> = if at == 0 {
            (0..workers).collect()
        } else if at == 1 && nodes % 2 == 1 {
            (0..workers).map(|worker| (worker + workers / 2) % workers).collect()
        } else {
            let mut latest_first: Vec<usize> = (0..workers).collect();
            latest_first.sort_by_key(|worker| (std::cmp::Reverse(sums[*worker]), *worker));
            let mut places = vec![0; workers];
            for (place, worker) in latest_first.into_iter().enumerate() {
                places[worker] = place;
            }
            places
        };
        if at == node {
            return places;
        }
        for (sum, place) in sums.iter_mut().zip(places) {
            *sum += place;
        }
    }
    unreachable!("every node has its turn")
}

#[cfg(test)]
#[path = "tests/dispatch.rs"]
mod tests;
