//! Heartbeats by gossip: which nodes sent heartbeats, when, and which have failed.
//!
//! Each heartbeat increments this node's counter and sends the table of all live nodes to the leader and to two random
//! peers. A counter that does not change for `fail_after_ms`, or a refused reconnect, marks its node as failed. Gossip
//! is advisory: it changes no voter, vote or commit.
//!
//! Times are milliseconds since 1970 that never decrease (start time plus a monotonic clock). Counters begin there too,
//! so a restarted process is ahead of the earlier one. If the wall clock was set back meanwhile, it is not: the node
//! receives its old counter from a peer and continues above it, or, once it is marked as failed, its own row is
//! accepted with any counter.
//!
//! Invariants: G1 the counter of a row decreases only if the node itself sends it after it was marked as failed. G2
//! failed rows are not sent on, so old rows neither revive a node nor spread. G3 each edge is returned once. G4 after a
//! refused reconnect only the node itself can prove that it is alive, until older rows have expired.
//! Not here: threads and sockets (`node/`), which nodes are dead for the membership (`autopilot.rs`).

use super::reachability::rhythm::{Bounds, Rhythm};
use crate::limits::GOSSIP_LOG_MAX;
use crate::raft::{Promise, Role};
use crate::settings::Settings;
use crate::types::{Identity, NodeId};
pub use crate::wire::heartbeat::{GossipRow, GossipTable};
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;

/// Number of random peers that receive a heartbeat besides the leader.
const RANDOM_PEERS: usize = 2;
/// Number of identities with remembered promises; further ones are not remembered.
const PROMISES_MAX: usize = 4096;
/// Greater counters are not accepted, so that a counter can always be incremented.
const COUNTER_MAX: u64 = 1 << 62;
/// Edges kept for `/v1/gossip`, apart from the heartbeats so that these do not push them out.
const EDGES_MAX: usize = 100;

/// A change of a node's liveness.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edge {
    /// The node sent no heartbeat for `fail_after_ms`, or its port refuses connections.
    Failed {
        id: NodeId,
        /// Whether its port refused a connection; otherwise its counter did not change.
        is_refused: bool,
    },
    /// The node's counter increases again.
    Back {
        id: NodeId,
        /// How long it counted as failed, in milliseconds.
        down_ms: u64,
    },
}

impl Edge {
    /// Returns the node whose liveness changed.
    pub fn id(&self) -> NodeId {
        match self {
            Edge::Failed { id, .. } | Edge::Back { id, .. } => *id,
        }
    }
}

/// Formats the line for the log, which tests also read.
impl fmt::Display for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Edge::Failed { id, .. } => write!(f, "no heartbeat from node {}: failed", id.0),
            Edge::Back { id, down_ms } => write!(f, "node {} is back after {down_ms} ms", id.0),
        }
    }
}

/// One received row, for `/v1/gossip`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReceivedRow {
    /// Time of receipt, in milliseconds since 1970.
    pub at_ms: u64,
    /// Node that sent the row.
    pub from: NodeId,
    /// Node that the row is about.
    pub about: NodeId,
    pub counter: u64,
    pub load: u64,
}

/// One edge, for `/v1/gossip`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EdgeLine {
    /// Time of the edge, in milliseconds since 1970.
    pub at_ms: u64,
    /// Node whose liveness changed.
    pub about: NodeId,
    /// The line that was logged.
    pub text: String,
}

/// Output of one heartbeat.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GossipRound {
    /// Nodes to which the table is to be sent.
    pub to: Vec<NodeId>,
    /// The table, the same for all of them.
    pub table: GossipTable,
    /// Nodes that have failed.
    pub edges: Vec<Edge>,
}

/// State of a node, as this one sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PeerState {
    Alive,
    Failed {
        since_ms: u64,
    },
    /// Failed, and its port refused a connection: until `deaf_until_ms` only rows from the node itself are accepted.
    Refused {
        since_ms: u64,
        deaf_until_ms: u64,
    },
}

#[derive(Clone, Debug)]
struct KnownNode {
    row: GossipRow,
    /// When its counter increased at this node.
    moved: Rhythm,
    state: PeerState,
}

/// One node's view of all others, from gossip.
#[derive(Debug)]
pub struct Gossip {
    me: Identity,
    counter: u64,
    fail_after_ms: u64,
    /// How long a counter may stand still until its node is not chosen for clients.
    bounds: Bounds,
    pause_ms: u64,
    last_tick_ms: u64,
    known: BTreeMap<NodeId, KnownNode>,
    /// Votes and acknowledged entries of each node, as far as they were received.
    promises: BTreeMap<Identity, Promise>,
    heard: VecDeque<ReceivedRow>,
    edges: VecDeque<EdgeLine>,
}

impl Gossip {
    /// Returns a view without other nodes. `now_ms` is also the first value of this node's counter.
    pub fn new(me: Identity, now_ms: u64, settings: &Settings) -> Gossip {
        Gossip {
            me,
            counter: now_ms.min(COUNTER_MAX / 2),
            fail_after_ms: settings.fail_after_ms,
            bounds: Bounds::of(settings.gossip_ms, settings.fail_after_ms),
            // A gap this long between two heartbeats means that this process was suspended, not all other nodes.
            pause_ms: (3 * settings.gossip_ms).min(settings.fail_after_ms / 2).max(1),
            last_tick_ms: now_ms,
            known: BTreeMap::new(),
            promises: BTreeMap::new(),
            heard: VecDeque::new(),
            edges: VecDeque::new(),
        }
    }

    /// One heartbeat, every `gossip_ms`. `row` is this node's own (its `counter` is filled in here); `peers` are the
    /// nodes to which there is or will be a connection, alive or not.
    pub fn tick(
        &mut self,
        now_ms: u64,
        mut row: GossipRow,
        leader: Option<NodeId>,
        peers: &[NodeId],
        rng: &mut fastrand::Rng,
    ) -> GossipRound {
        assert_eq!(row.id, self.me.id, "a node beats for itself only");
        self.exclude_own_pause(now_ms);
        self.counter += 1;
        row.counter = self.counter;
        row.uuid = self.me.uuid;
        let mut edges = Vec::new();
        for (&id, known) in &mut self.known {
            if known.state == PeerState::Alive && known.moved.silence_ms(now_ms) >= self.fail_after_ms {
                known.state = PeerState::Failed { since_ms: now_ms };
                edges.push(Edge::Failed { id, is_refused: false });
            }
        }
        self.note_edges(now_ms, &edges);
        let mut rest: Vec<NodeId> =
            peers.iter().copied().filter(|&id| id != self.me.id && Some(id) != leader).collect();
        rng.shuffle(&mut rest);
        rest.truncate(RANDOM_PEERS);
        let to = leader.filter(|id| *id != self.me.id && peers.contains(id)).into_iter().chain(rest).collect();
        let mut rows: Vec<GossipRow> = self.rows().map(|known| known.row.clone()).collect();
        rows.push(row);
        rows.sort_by_key(|row| row.id);
        GossipRound { to, table: GossipTable { rows, ..GossipTable::default() }, edges }
    }

    /// Merges a peer's table; returns the nodes that are back.
    pub fn merge(&mut self, now_ms: u64, from: NodeId, table: &GossipTable) -> Vec<Edge> {
        let mut edges = Vec::new();
        for row in &table.rows {
            if row.id == self.me.id {
                // A row of an earlier process under this id has a greater counter: continue above it, otherwise other
                // nodes ignore this node's rows.
                let is_echo = row.uuid == self.me.uuid && row.counter <= self.counter;
                if !is_echo && (self.counter..COUNTER_MAX / 2).contains(&row.counter) {
                    self.counter = row.counter + 1;
                }
            } else if row.counter > COUNTER_MAX {
                // No clock and no number of heartbeats leads to such a counter.
            } else if (1..=NodeId::MAX).contains(&row.id.0) {
                edges.extend(self.take(now_ms, from, row));
            }
        }
        self.note_edges(now_ms, &edges);
        edges
    }

    /// Records that a connection to the node broke and its port refuses a new one, so its process has ended.
    pub fn refused(&mut self, now_ms: u64, id: NodeId) -> Option<Edge> {
        let known = self.known.get_mut(&id)?;
        let deaf_until_ms = now_ms + self.fail_after_ms;
        let (since_ms, edge) = match known.state {
            PeerState::Alive => (now_ms, Some(Edge::Failed { id, is_refused: true })),
            PeerState::Failed { since_ms } | PeerState::Refused { since_ms, .. } => (since_ms, None),
        };
        known.state = PeerState::Refused { since_ms, deaf_until_ms };
        self.note_edges(now_ms, edge.as_slice());
        edge
    }

    /// Whether a row of the node was received recently. Always true for this node.
    pub fn is_online(&self, id: NodeId) -> bool {
        id == self.me.id || self.known.get(&id).is_some_and(|k| k.state == PeerState::Alive)
    }

    /// Whether the node is online and its newest row is no older than is usual for it. Always true for this node.
    pub fn is_fresh(&self, now_ms: u64, id: NodeId) -> bool {
        let is_fresh = |k: &KnownNode| k.state == PeerState::Alive && k.moved.is_fresh(now_ms, self.bounds);
        id == self.me.id || self.known.get(&id).is_some_and(is_fresh)
    }

    /// Returns another node that has recently reported that it leads.
    pub fn leader(&self) -> Option<NodeId> {
        let leads = |known: &&KnownNode| known.state == PeerState::Alive && known.row.role == Role::Leader;
        self.known.values().filter(leads).max_by_key(|known| known.row.term).map(|known| known.row.id)
    }

    /// Whether a row of exactly this identity was received recently, not of another one with the same number, such as a
    /// node with an old disk that returned after it was replaced.
    pub fn is_online_as(&self, who: Identity) -> bool {
        who == self.me || (self.is_online(who.id) && self.known.get(&who.id).is_some_and(|k| k.row.uuid == who.uuid))
    }

    /// Returns the votes and acknowledged entries of this identity, as far as they were received.
    pub fn remembered(&self, who: &Identity) -> Promise {
        self.promises.get(who).copied().unwrap_or_default()
    }

    fn remember(&mut self, row: &GossipRow) {
        let who = Identity { id: row.id, uuid: row.uuid };
        if self.promises.len() < PROMISES_MAX || self.promises.contains_key(&who) {
            self.promises.entry(who).or_default().merge(&row.promise);
        }
    }

    /// Returns the newest row of another node, alive or failed, and the milliseconds since its counter increased.
    pub fn row(&self, now_ms: u64, id: NodeId) -> Option<(&GossipRow, u64)> {
        let known = self.known.get(&id)?;
        Some((&known.row, known.moved.silence_ms(now_ms)))
    }

    /// Returns for every other node, by id: its newest row, whether it is online, and the milliseconds since its
    /// counter increased.
    pub fn all(&self, now_ms: u64) -> Vec<(&GossipRow, bool, u64)> {
        self.known.values().map(|k| (&k.row, k.state == PeerState::Alive, k.moved.silence_ms(now_ms))).collect()
    }

    /// Returns the received rows, newest first.
    pub fn received(&self) -> impl Iterator<Item = &ReceivedRow> {
        self.heard.iter().rev()
    }

    /// Returns the liveness changes, newest first.
    pub fn edges(&self) -> impl Iterator<Item = &EdgeLine> {
        self.edges.iter().rev()
    }

    /// Returns the body of `/v1/gossip`.
    pub fn to_json(&self, now_ms: u64) -> serde_json::Value {
        let rows = self.all(now_ms).into_iter().map(|(row, is_online, age_ms)| {
            serde_json::json!({"id": row.id, "uuid": row.uuid, "counter": row.counter, "load": row.load.total(),
                "role": row.role, "term": row.term, "applied_index": row.applied_index,
                "status": if is_online { "ONLINE" } else { "OFFLINE" }, "heartbeat_age_ms": age_ms})
        });
        serde_json::json!({
            "node": self.me.id,
            "counter": self.counter,
            "rows": rows.collect::<Vec<_>>(),
            "failures": self.edges().collect::<Vec<_>>(),
            "heard": self.received().collect::<Vec<_>>(),
        })
    }

    fn rows(&self) -> impl Iterator<Item = &KnownNode> {
        self.known.values().filter(|known| known.state == PeerState::Alive)
    }

    fn take(&mut self, now_ms: u64, from: NodeId, row: &GossipRow) -> Option<Edge> {
        let bounds = self.bounds;
        let Some(known) = self.known.get_mut(&row.id) else {
            let known = KnownNode { row: row.clone(), moved: Rhythm::new(now_ms), state: PeerState::Alive };
            self.known.insert(row.id, known);
            self.remember(row);
            self.note_heard(now_ms, from, row);
            return None;
        };
        let is_first_hand = from == row.id;
        // A failed node that sends its own row is alive, whatever an earlier process under its id has sent: the clock
        // from which that process began to count may have been wrong.
        let has_begun_anew = is_first_hand && known.state != PeerState::Alive && row.counter != known.row.counter;
        if row.counter <= known.row.counter && !has_begun_anew {
            return None;
        }
        known.row = row.clone();
        self.remember(row);
        let known = self.known.get_mut(&row.id)?;
        let mut edge = None;
        match known.state {
            PeerState::Refused { deaf_until_ms, .. } if !is_first_hand && now_ms < deaf_until_ms => return None,
            PeerState::Failed { since_ms } | PeerState::Refused { since_ms, .. } => {
                let down_ms = now_ms.saturating_sub(since_ms);
                edge = Some(Edge::Back { id: row.id, down_ms });
            }
            PeerState::Alive => {}
        }
        known.state = PeerState::Alive;
        known.moved.on_message(now_ms, bounds);
        self.note_heard(now_ms, from, row);
        edge
    }

    /// If this process was suspended or got no processor time, the others are not counted as silent for that time.
    fn exclude_own_pause(&mut self, now_ms: u64) {
        let gap_ms = now_ms.saturating_sub(self.last_tick_ms);
        if gap_ms > self.pause_ms {
            for known in self.known.values_mut() {
                known.moved.exclude(gap_ms, now_ms);
            }
        }
        self.last_tick_ms = now_ms;
    }

    fn note_heard(&mut self, at_ms: u64, from: NodeId, row: &GossipRow) {
        if self.heard.len() == GOSSIP_LOG_MAX {
            self.heard.pop_front();
        }
        self.heard.push_back(ReceivedRow { at_ms, from, about: row.id, counter: row.counter, load: row.load.total() });
    }

    fn note_edges(&mut self, at_ms: u64, edges: &[Edge]) {
        for edge in edges {
            if self.edges.len() == EDGES_MAX {
                self.edges.pop_front();
            }
            self.edges.push_back(EdgeLine { at_ms, about: edge.id(), text: edge.to_string() });
        }
    }
}

#[cfg(test)]
#[path = "tests/gossip.rs"]
mod tests;
