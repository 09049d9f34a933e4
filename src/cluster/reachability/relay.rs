//! Which peers a node reaches only by way of another node, and by which.
//!
//! A connection that breaks, or over which nothing arrives any more, may be the only one that does: then the frames for
//! that peer go to a node that is connected to both, which passes them on over its own connection, once. A leader hears
//! each node at every heartbeat, and each node its leader; other pairs may be silent for long, so their silence says
//! nothing, and only a missing connection counts. Every node reports in its heartbeats which peers it does not reach;
//! that tells who can pass frames on, and has the peer itself use another way too, where one direction alone is cut.
//!
//! Invariants: Y1 a frame is passed on once, by a node that has a working connection of its own to the receiver. Y2 no
//! way leads to a peer whose port refuses connections: its process is gone. Y3 what a peer reports never becomes a
//! report of this node, so two nodes do not keep each other on a detour.
//! Not here: connections (`node/shared/link.rs`), passing frames on (`node/peer/relay.rs`).

use super::rhythm::{Bounds, Rhythm};
use crate::types::NodeId;
use std::collections::BTreeMap;

/// What a node knows of its connection to one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerLink {
    pub id: NodeId,
    /// There is a connection to it.
    pub is_connected: bool,
    /// Its port refused the last connection: its process is gone.
    pub is_refused: bool,
    /// It leads, or this node does: each hears the other regularly.
    pub is_regular: bool,
    /// When a frame last arrived over a connection that it made to this node; 0: never.
    pub heard_ms: u64,
}

/// What heartbeats say of the peers.
pub trait Reports {
    /// Whether the peer is alive and reports that it does not reach `other`. `None`: it has not been heard lately.
    fn misses(&self, peer: NodeId, other: NodeId) -> Option<bool>;
}

/// The ways to all peers, for this node and for its heartbeats.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ways {
    /// Peers without a working connection, as this node has found by itself.
    pub unreached: Vec<NodeId>,
    /// By peer: the node that passes frames on to it.
    pub relayed: BTreeMap<NodeId, NodeId>,
}

#[derive(Debug)]
struct Path {
    heard: Rhythm,
    was_regular: bool,
    down_since_ms: Option<u64>,
}

/// The connections to all peers over time.
#[derive(Debug)]
pub struct Paths {
    me: NodeId,
    bounds: Bounds,
    /// A connection that is missing for less than this is just being made.
    down_ms: u64,
    paths: BTreeMap<NodeId, Path>,
    relayed: BTreeMap<NodeId, NodeId>,
}

impl Paths {
    pub fn new(me: NodeId, gossip_ms: u64, fail_after_ms: u64) -> Paths {
        let bounds = Bounds::of(gossip_ms, fail_after_ms);
        Paths { me, bounds, down_ms: gossip_ms, paths: BTreeMap::new(), relayed: BTreeMap::new() }
    }

    /// This process was suspended for so long: that is no silence of the others.
    pub fn exclude_pause(&mut self, pause_ms: u64, now_ms: u64) {
        self.paths.values_mut().for_each(|path| path.heard.exclude(pause_ms, now_ms));
    }

    /// The ways now; to be called at each heartbeat with all peers.
    pub fn update(&mut self, now_ms: u64, links: &[PeerLink], reports: &impl Reports) -> Ways {
        self.paths.retain(|id, _| links.iter().any(|link| link.id == *id));
        let unreached: Vec<NodeId> =
            links.iter().filter(|link| !self.reaches(now_ms, link)).map(|link| link.id).collect();
        let works = |id: NodeId| !unreached.contains(&id) && reports.misses(id, self.me) != Some(true);
        let passes_on = |by: NodeId, to: NodeId| by != to && works(by) && reports.misses(by, to) == Some(false);
        let mut relayed = BTreeMap::new();
        for link in links.iter().filter(|link| !works(link.id) && !link.is_refused) {
            // The present way, as long as there is one.
            let present = self.relayed.get(&link.id).copied().into_iter();
            let mut all = present.chain(links.iter().map(|other| other.id));
            if let Some(by) = all.find(|by| links.iter().any(|it| it.id == *by) && passes_on(*by, link.id)) {
                relayed.insert(link.id, by);
            }
        }
        self.relayed.clone_from(&relayed);
        Ways { unreached, relayed }
    }

    /// Whether the connection to a peer works, by this node's own evidence.
    fn reaches(&mut self, now_ms: u64, link: &PeerLink) -> bool {
        let path = self.paths.entry(link.id).or_insert_with(|| Path {
            heard: Rhythm::new(now_ms),
            was_regular: false,
            down_since_ms: None,
        });
        if !link.is_regular || !path.was_regular {
            // Its silence until now says nothing.
            path.heard.restart(now_ms);
        } else if link.heard_ms > path.heard.heard_ms() {
            path.heard.on_message(link.heard_ms, self.bounds);
        }
        path.was_regular = link.is_regular;
        let down_since_ms = *path.down_since_ms.get_or_insert(now_ms);
        if link.is_connected {
            path.down_since_ms = None;
        }
        let is_down = !link.is_connected && now_ms - down_since_ms.min(now_ms) >= self.down_ms;
        !is_down && !link.is_refused && path.heard.is_fresh(now_ms, self.bounds)
    }
}

#[cfg(test)]
#[path = "tests/relay.rs"]
mod tests;
