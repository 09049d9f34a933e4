//! Chooses the node for the next client of the front door.
//!
//! Each node decides for its own listener, without asking others. A worker's estimate is the load that it last reported
//! (`load.rs`) plus its pending clients: those that this node has redirected to it and those that other nodes have
//! reported. A pending client is removed when the worker's count of opened sessions grows, or after two seconds (it has
//! not connected). An opening may be reported before the redirect that caused it, so openings also wait for theirs, for
//! a shorter time.
//!
//! Several nodes choose at the same moment, and each gets the others' latest choices only some milliseconds later. If
//! all took the lowest estimate they would all fill the same worker, then all the next, and would oscillate. So during
//! a flow of clients, a node does not follow the estimates. It redirects its own clients to the workers in rotation,
//! and corrects an imbalance at the beginning of the flow by its share only (its part of all clients). The nodes use
//! different orders, chosen so that each worker is early in some and late in others: the imbalances of unfinished
//! rotations do not add up. For five nodes and four workers that alone keeps each worker within two clients of the
//! mean, regardless of the timing. After a moment without redirects the estimates are exact, and the lowest one is taken. A
//! worker with an estimate far from the lowest is avoided also during a flow (a worker that has returned empty is
//! filled).
//!
//! Clients go to nodes that can serve them: that report to be ready, in a heartbeat that is no older than usual, and
//! that answer a question (`reachability/probes.rs`) if this node has just sent clients to them. The leader gets clients
//! only when no other node can serve; learners get clients. If no node can serve, the nodes that may elect a leader in a
//! moment get clients, and without such this node alone, which can say what is wrong.
//! Not here: the listener (`http/front_door.rs`), informing and asking the other nodes (`node/`).

use super::reachability::probes::Probes;
use crate::types::NodeId;
use std::collections::{BTreeMap, VecDeque};

/// Time after a redirect at which a client that has not connected to its worker is no longer expected.
const HAND_OUT_EXPIRES_MS: u64 = 2000;
/// Time after which an opened session without a matching redirect counts as a client that connected directly.
const OPENING_EXPIRES_MS: u64 = 300;
/// Time without a redirect by any node after which the estimates are exact, and the lowest one is chosen.
const ESTIMATES_EXACT_AFTER_MS: u64 = 30;
/// Time without a redirect by any node after which a flow ends; the next flow begins with the present estimates.
const FLOW_ENDS_AFTER_MS: u64 = 300;
/// During a flow, workers whose estimate exceeds the lowest by more than this are avoided. Well above the error that
/// unreported redirects of other nodes can cause.
const ESTIMATE_SPREAD_MAX: f64 = 6.0;
/// Maximum number of remembered pending clients of one worker. Beyond it the oldest counts as connected.
const PENDING_MAX: usize = 20_000;

#[derive(Clone, Debug, Default)]
struct Worker {
    http: String,
    /// Last reported load.
    load: u64,
    /// Last reported number of opened sessions; `None` before the first report.
    opened_total: Option<u64>,
    /// Time of the redirect of each pending client, oldest first.
    pending: VecDeque<u64>,
    /// Times of opened sessions that no known redirect explains yet.
    openings: VecDeque<u64>,
    /// Estimate at the start of the flow.
    began_at: u64,
    /// Number of clients that this node redirected to it in this flow.
    assigned: u64,
    /// Its position in this node's rotation.
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
        self.load.saturating_add(self.pending.len() as u64)
    }
}

fn drop_older(times: &mut VecDeque<u64>, now_ms: u64, age_ms: u64) {
    while times.front().is_some_and(|at| now_ms.saturating_sub(*at) >= age_ms) {
        times.pop_front();
    }
}

/// A node that is online, this one included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub id: NodeId,
    /// `host:port` of its HTTP server.
    pub http: String,
    /// Its newest heartbeat is no older than usual.
    pub is_fresh: bool,
    /// It says that it can serve clients.
    pub is_ready: bool,
}

/// What is known of the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KnownLeader {
    /// It is this node.
    Of(NodeId),
    /// There is none, but a majority is heard: there will be one in a moment.
    Electing,
    Unknown,
}

/// Where the next client goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    pub node: NodeId,
    /// `host:port` of its HTTP server.
    pub http: String,
    /// False: no node can serve, and this is the one that was asked.
    pub can_serve: bool,
    /// Nodes that are to be asked whether they are there.
    pub ask: Vec<NodeId>,
}

/// One node's view of the workers.
#[derive(Clone, Debug)]
pub struct Dispatch {
    me: NodeId,
    workers: BTreeMap<NodeId, Worker>,
    eligible: Vec<NodeId>,
    /// Whether the eligible nodes can serve, and whether this one can.
    can_serve: bool,
    is_own_ready: bool,
    probes: Probes,
    /// Time of the last redirect by this node or reported by another one; `None` before the first.
    last_ms: Option<u64>,
    /// Number of redirects by this node in this flow, to any worker.
    own: u64,
    /// Number of redirects by the other nodes in this flow.
    foreign: u64,
}

impl Dispatch {
    /// Returns a view without workers.
    pub fn new(me: NodeId) -> Dispatch {
        Dispatch {
            me,
            workers: BTreeMap::new(),
            eligible: Vec::new(),
            can_serve: false,
            is_own_ready: false,
            probes: Probes::default(),
            last_ms: None,
            own: 0,
            foreign: 0,
        }
    }

    /// Sets the nodes that are online, this one included, and the leader.
    pub fn set_online(&mut self, leadership: KnownLeader, online: &[Candidate]) {
        let nodes_before = self.workers.len();
        self.workers.retain(|id, _| online.iter().any(|other| other.id == *id));
        for other in online {
            self.workers.entry(other.id).or_default().http.clone_from(&other.http);
        }
        self.probes.retain(|id| online.iter().any(|other| other.id == id));
        let nodes: Vec<NodeId> = self.workers.keys().copied().collect();
        self.is_own_ready = online.iter().any(|other| other.id == self.me && other.is_ready);
        let mut eligible = self.eligible_of(leadership, online);
        self.can_serve = !eligible.is_empty();
        if eligible.is_empty() && self.workers.contains_key(&self.me) {
            eligible.push(self.me);
        }
        if eligible == self.eligible && nodes.len() == nodes_before {
            return;
        }
        self.eligible = eligible;
        let me = nodes.iter().position(|id| *id == self.me).unwrap_or(0);
        for (id, place) in self.eligible.iter().zip(assignment_order(me, nodes.len(), self.eligible.len())) {
            if let Some(worker) = self.workers.get_mut(id) {
                worker.place = place as u64;
            }
        }
        // The flow of clients continues through the same nodes, so only the rotation restarts. If a node also forgot
        // its share, it would correct the whole imbalance, and so would all the others.
        self.begin_turns();
    }

    /// The nodes that clients may be sent to, by id; none: no node can serve.
    fn eligible_of(&self, leadership: KnownLeader, online: &[Candidate]) -> Vec<NodeId> {
        let mut ready: Vec<NodeId> = online.iter().filter(|it| it.is_fresh && it.is_ready).map(|it| it.id).collect();
        if ready.is_empty() && leadership == KnownLeader::Electing {
            ready = online.iter().filter(|it| it.is_fresh).map(|it| it.id).collect();
        }
        let followers: Vec<NodeId> = ready.iter().copied().filter(|id| leadership != KnownLeader::Of(*id)).collect();
        let mut eligible = if followers.is_empty() { ready } else { followers };
        eligible.sort_unstable();
        eligible
    }

    /// A node has answered whether it is there.
    pub fn answered(&mut self, now_ms: u64, id: NodeId) {
        self.probes.answered(now_ms, id);
    }

    /// Records a worker's load and its total of opened sessions, from a gossip row or from this node itself.
    pub fn report(&mut self, now_ms: u64, id: NodeId, load: u64, sessions_opened_total: u64) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.expire(now_ms);
        let before = worker.opened_total.replace(sessions_opened_total).unwrap_or(sessions_opened_total);
        if before > sessions_opened_total {
            // The process restarted: pending clients are lost, or will be part of its load.
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

    /// Records another node's report of its redirects.
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

    /// Chooses the worker for the next client. The redirect is counted here; the caller must inform the other nodes and
    /// ask the listed ones immediately. `None`: no node is known.
    pub fn pick(&mut self, now_ms: u64) -> Option<Choice> {
        let is_quiet = self.last_ms.is_none_or(|last| now_ms.saturating_sub(last) >= ESTIMATES_EXACT_AFTER_MS);
        self.note_flow(now_ms);
        let has_silent = self.probes.has_silent(now_ms);
        let is_silent = |id: NodeId| has_silent && self.probes.is_silent(now_ms, id);
        let best = match self.best_of(is_quiet, |id| !is_silent(id)) {
            Some(best) => best,
            // Those that can serve do not answer.
            None if self.is_own_ready => self.me,
            None => self.best_of(is_quiet, |_| true)?,
        };
        let mut ask: Vec<NodeId> = self.eligible.iter().copied().filter(|id| is_silent(*id)).collect();
        ask.push(best);
        ask.retain(|id| *id != self.me && self.probes.ask(now_ms, *id));
        let worker = self.workers.get_mut(&best).expect("eligible workers are online ones");
        worker.hand_out(now_ms, 1);
        worker.assigned += 1;
        self.own += 1;
        Some(Choice { node: best, http: worker.http.clone(), can_serve: self.can_serve, ask })
    }

    /// The eligible worker whose turn it is, of those for which `is_there` is true.
    fn best_of(&self, is_quiet: bool, is_there: impl Fn(NodeId) -> bool) -> Option<NodeId> {
        let all = || self.eligible.iter().filter(|id| is_there(**id)).map(|id| (*id, &self.workers[id]));
        let lowest = all().map(|(_, worker)| worker.estimate()).min()?;
        let began_lowest = all().map(|(_, worker)| worker.began_at).min()?;
        // This node's share of the clients of this flow: it corrects the same share of the imbalance.
        let share = (self.own + 1) as f64 / (self.own + 1 + self.foreign) as f64;
        let places = self.eligible.len() as f64;
        let key = |worker: &Worker| {
            let uneven = (worker.began_at - began_lowest) as f64;
            let swing = ((worker.estimate() - lowest) as f64 - ESTIMATE_SPREAD_MAX).max(0.0);
            worker.assigned as f64 + worker.place as f64 / places + (uneven + swing) * share
        };
        let candidates = all().filter(|(_, worker)| !is_quiet || worker.estimate() == lowest);
        candidates.min_by(|(_, a), (_, b)| key(a).total_cmp(&key(b))).map(|(best, _)| best)
    }

    /// Called at each redirect by this node or another one: begins a new flow if the last one is over.
    fn note_flow(&mut self, now_ms: u64) {
        for worker in self.workers.values_mut() {
            worker.expire(now_ms);
        }
        if self.last_ms.is_none_or(|last| now_ms.saturating_sub(last) >= FLOW_ENDS_AFTER_MS) {
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
            (worker.began_at, worker.assigned) = (worker.estimate(), 0);
        }
    }
}

/// Returns the position of each worker, from 0, in the rotation of node number `node` of `nodes`.
///
/// The sum of a worker's positions over all nodes is nearly the same for all workers. With an even number of nodes,
/// each order is followed by its reverse. With an odd number, the first three orders compensate each other: the listed
/// order, the order rotated by half, and one that makes the sums equal.
fn assignment_order(node: usize, nodes: usize, workers: usize) -> Vec<usize> {
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
