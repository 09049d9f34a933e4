//! The front door's choice: which worker takes the next client.
//!
//! Each node's door decides by itself, without asking anyone. A worker's estimate is the load that it last reported plus
//! the clients on their way to it: what this door handed out and what the other doors said they did. A client on its way
//! is struck off when the worker's count of sessions opened grows, or after two seconds (it never came). An opening may be
//! heard of before the hand-out that caused it, so openings wait for theirs as well, for a shorter time.
//!
//! Several doors choose at the same moment, and each knows of the others' latest choices only when told. If all simply
//! took the lowest estimate they would all fill the same worker. So a door counts each of its own latest choices once
//! more for every choice that the others most likely made meanwhile (they think alike), and breaks near-ties by a
//! rotation that differs from door to door, so that their rounding errors do not add up.
//!
//! The leader takes clients only when no one else is online; a worker that is offline never does; learners do.
//! Not here: the listener (`http/front.rs`), telling the other doors (`node/`).

use crate::types::NodeId;
use std::collections::{BTreeMap, VecDeque};

/// A client that has not arrived by then never will.
const HAND_OUT_EXPIRES_MS: u64 = 2000;
/// An opening whose hand-out was not heard of by then had none: a client that came directly.
const OPENING_EXPIRES_MS: u64 = 300;
/// How long a choice takes to be known at the other doors, generously.
const UNSEEN_MS: u64 = 15;
/// Clients on their way to one worker that are remembered. More: the oldest counts as arrived.
const PENDING_MAX: usize = 20_000;

#[derive(Clone, Debug, Default)]
struct Worker {
    http: String,
    /// As last reported.
    load: u64,
    /// As last reported; `None` before the first report.
    opened_total: Option<u64>,
    /// When each client on its way was handed out, oldest first.
    pending: VecDeque<u64>,
    /// Openings that no known hand-out explains yet.
    openings: VecDeque<u64>,
    /// When this door chose it, as far as the others may not know.
    unseen: VecDeque<u64>,
}

impl Worker {
    fn expire(&mut self, now_ms: u64) {
        drop_older(&mut self.pending, now_ms, HAND_OUT_EXPIRES_MS);
        drop_older(&mut self.openings, now_ms, OPENING_EXPIRES_MS);
        drop_older(&mut self.unseen, now_ms, UNSEEN_MS);
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

/// One door's view of the workers.
#[derive(Clone, Debug)]
pub struct Dispatch {
    me: NodeId,
    workers: BTreeMap<NodeId, Worker>,
    eligible: Vec<NodeId>,
    /// All nodes that have a door, for the place of this one among them.
    doors: Vec<NodeId>,
    /// Latest hand-outs of the other doors: when heard, and how many.
    foreign: VecDeque<(u64, u32)>,
    picks: u64,
}

impl Dispatch {
    /// Knows no worker yet.
    pub fn new(me: NodeId) -> Dispatch {
        Dispatch {
            me,
            workers: BTreeMap::new(),
            eligible: Vec::new(),
            doors: vec![me],
            foreign: VecDeque::new(),
            picks: 0,
        }
    }

    /// Who is online now, this node among them, with `host:port` of its HTTP door, and who leads. Call it at each change.
    pub fn set_online(&mut self, leader: Option<NodeId>, online: &[(NodeId, String)]) {
        self.workers.retain(|id, _| online.iter().any(|(other, _)| other == id));
        for (id, http) in online {
            self.workers.entry(*id).or_default().http.clone_from(http);
        }
        self.doors = self.workers.keys().copied().collect();
        self.eligible = self.doors.iter().copied().filter(|id| Some(*id) != leader).collect();
        if self.eligible.is_empty() {
            self.eligible.clone_from(&self.doors);
        }
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

    /// Another door said whom it sent clients to.
    pub fn handed_out(&mut self, now_ms: u64, choices: &[(NodeId, u32)]) {
        for (id, count) in choices {
            let count = (*count).min(PENDING_MAX as u32);
            if let Some(worker) = self.workers.get_mut(id) {
                worker.expire(now_ms);
                worker.hand_out(now_ms, count);
                self.foreign.push_back((now_ms, count));
            }
        }
    }

    /// The worker for the next client, and where. It is counted here; tell the other doors at once.
    pub fn pick(&mut self, now_ms: u64) -> Option<(NodeId, String)> {
        while self.foreign.front().is_some_and(|(at, _)| now_ms.saturating_sub(*at) >= UNSEEN_MS) {
            self.foreign.pop_front();
        }
        for worker in self.workers.values_mut() {
            worker.expire(now_ms);
        }
        let rivals = self.rivals();
        let place = self.doors.iter().position(|id| *id == self.me).unwrap_or(0) as u64;
        let count = self.eligible.len() as u64;
        let key = |(at, id): (u64, &NodeId)| {
            let worker = &self.workers[id];
            let turn = (at + count * 8 - place % count) % count;
            let dither = turn * (rivals + 1) / count;
            (worker.estimate() + rivals * worker.unseen.len() as u64 + dither, turn)
        };
        let (_, best) = (0..).zip(&self.eligible).min_by_key(|(at, id)| key((*at, id)))?;
        let best = *best;
        let worker = self.workers.get_mut(&best).expect("eligible workers are online ones");
        worker.hand_out(now_ms, 1);
        worker.unseen.push_back(now_ms);
        self.picks += 1;
        Some((best, worker.http.clone()))
    }

    /// How many choices the other doors most likely make for each one of this door: by what they told lately.
    fn rivals(&self) -> u64 {
        let mine = self.workers.values().map(|worker| worker.unseen.len() as u64).sum::<u64>().max(1);
        let theirs = self.foreign.iter().map(|(_, count)| u64::from(*count)).sum::<u64>();
        (theirs / mine).min((self.doors.len() as u64).saturating_sub(1))
    }
}

#[cfg(test)]
#[path = "tests/dispatch.rs"]
mod tests;
