//! Identities and addresses of the peers, from membership, handshakes and the directory, and one link to each.
//!
//! Not here: a link and its thread (`node/shared/link.rs`, `node/peer/dialer.rs`).

use super::state::Core;
use crate::limits::TICK_MS;
use crate::node::peer::dialer;
use crate::node::process::outdated;
use crate::node::shared::link::Link;
use crate::raft::{Input, Promise, Refused};
use crate::services::directory::Nodes;
use crate::types::{Addresses, Identity, NodeId, Ticks};
use crossbeam_channel::Sender;
use log::{error, info, warn};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

impl Core {
    /// This node's link to the peer works.
    pub(super) fn on_link_up(&mut self, peer: NodeId, round_trip: Duration) {
        // Less than a tick is nothing that a timer could wait for.
        let round_trip = Ticks(round_trip.as_millis() as u64 / TICK_MS);
        self.worker_liveness.mark_reachable(peer);
        self.on_return(peer);
        self.step(Input::LinkUp { peer, round_trip });
        self.requests.on_link_up(peer);
    }

    /// The peer's process is gone: its port refuses connections.
    pub(super) fn on_link_lost(&mut self, id: NodeId) {
        self.worker_liveness.mark_lost(id);
        // The voter of a hosted node runs in this process.
        if !self.shared.hosted.has(id) {
            if let Some(addresses) = self.claimed.remove(&id) {
                self.peer_addresses.insert(id, addresses);
                self.update_links();
            }
            self.step(Input::LinkLost(id));
        }
        self.declare_lost_workers();
    }

    /// The peer's own connection to this node has ended.
    pub(super) fn on_peer_closed(&mut self, who: Identity) {
        self.unknown_peers.remove(&who);
        if self.met.get(&who.id) == Some(&who) {
            self.met.remove(&who.id);
        }
        // An unknown node that used the number says nothing about the node whose number it is.
        if let Some(link) = self.links.get(&who.id).filter(|link| link.who == who) {
            link.check();
        }
    }

    /// A member that was not connected has answered at another address.
    pub(super) fn on_found(&mut self, who: Identity, addresses: Addresses) {
        if self.raft.membership().is_member(&who) && self.peer_addresses.get(&who.id) != Some(&addresses) {
            info!("node {} answers at {} now", who.id.0, addresses.peer);
            self.peer_addresses.insert(who.id, addresses);
            self.update_links();
        }
    }

    /// A node of this cluster, named by a trusted source.
    pub(super) fn on_vouched(&mut self, who: Identity) {
        self.introduce(who);
        if let Some(addresses) = self.unknown_peers.remove(&who) {
            self.learn_address(who, addresses, false);
        }
    }

    /// Has raft accept messages of the identity, and links to it.
    pub(super) fn introduce(&mut self, who: Identity) {
        if !self.raft.knows(&who) {
            self.step(Input::Introduce(who));
            self.update_links();
            self.publish();
        }
    }

    /// A node has connected. The address of an unknown node is ignored if its number is in use: it could divert messages
    /// from a member. Under a free number it gets a link, over which it receives gossip only: so a node that was
    /// removed while it was away learns that it is no longer a member.
    ///
    /// Without a secret any process can claim to be a member. The claim changes no address while a link to that member
    /// is up.
    pub(super) fn learn_address(&mut self, who: Identity, addresses: Addresses, is_proved: bool) {
        let is_free = self.raft.membership().uuid_of(who.id).is_none()
            && self.raft.introduced().all(|known| known.id != who.id)
            && (1..=NodeId::MAX).contains(&who.id.0);
        if self.raft.knows(&who) || is_free {
            self.met.insert(who.id, who);
            let link = self.links.get(&who.id).filter(|link| link.who == who && link.is_up());
            let is_elsewhere = self.peer_addresses.get(&who.id) != Some(&addresses);
            if link.is_some() && is_elsewhere && !is_proved {
                self.claimed.insert(who.id, addresses);
            } else {
                self.claimed.remove(&who.id);
                self.peer_addresses.insert(who.id, addresses);
            }
            self.update_links();
        } else {
            // Bounded by the connections that there may be at once.
            self.unknown_peers.insert(who, addresses);
        }
    }

    /// A peer has said what it remembers of this node's promises. Without a message on `compared` the link is not used:
    /// this node is outdated, or the peer remembers the impossible.
    pub(super) fn on_remembered(&mut self, by: Identity, promise: &Promise, compared: Option<Sender<()>>) {
        let is_possible = self.compare_promise(by, promise);
        if let (false, true, Some(compared)) = (self.is_outdated, is_possible, compared) {
            let _ = compared.try_send(());
        }
    }

    /// A node whose disk lacks what it once promised must not vote or acknowledge again under this identity. Returns
    /// whether the promise is possible at all.
    ///
    /// Nothing is discarded here: the node stops and restarts itself, and then more than one peer must confirm it
    /// (`cluster/discovery/`).
    fn compare_promise(&mut self, by: Identity, promise: &Promise) -> bool {
        let kept = self.raft.kept();
        if !promise.is_possible_after(&kept) {
            self.shared.counters.refuse_frame(Refused::TermJump(by, promise.term));
            return false;
        }
        if self.is_outdated || !kept.falls_short_of(promise) {
            return true;
        }
        self.is_outdated = true;
        let text = outdated::describe(self.shared.me.id, by.id, &kept, promise);
        error!("{text}");
        self.shared.event("disk", Some(self.shared.me.id), text);
        self.shared.stopper.stop(outdated::OUTDATED);
        true
    }

    pub(super) fn on_directory(&mut self, nodes: &Nodes) {
        let membership = self.raft.membership();
        for (id, (uuid, addresses)) in &nodes.nodes {
            // An address that the member itself has sent is newer than the one in the log.
            let is_current = membership.uuid_of(*id).is_none_or(|member| member == *uuid);
            if is_current && self.met.get(id).is_none_or(|met| met.uuid != *uuid) {
                self.peer_addresses.insert(*id, addresses.clone());
            }
        }
        self.update_witnesses();
        self.update_links();
        self.is_view_stale = true;
    }

    /// One link to each other member, and to each node that is connected to this one: the log of a new node does not
    /// name its leader yet.
    pub(super) fn update_links(&mut self) {
        let mut others = self.met.clone();
        others.extend(self.raft.membership().members().map(|who| (who.id, who)));
        // Newer than the identity in the membership, which is behind.
        others.extend(self.raft.introduced().map(|who| (who.id, who)));
        // The identity that answered last: another one may have answered before, and been introduced.
        let answering = self.answering.values().filter(|who| self.raft.knows(who)).map(|who| (who.id, *who));
        others.extend(answering.filter(|(id, _)| others.contains_key(id)).collect::<Vec<_>>());
        others.remove(&self.shared.me.id);
        let mut wanted = BTreeMap::new();
        for (id, who) in &others {
            let address = match self.peer_addresses.get(id) {
                Some(addresses) => addresses.peer.clone(),
                // Its address is unknown: the default port of its number, on this host.
                None => self.shared.settings.local_addresses(*id).peer,
            };
            wanted.insert(*id, (*who, address));
        }
        let is_same = |link: &Link, want: &(Identity, String)| link.who == want.0 && link.address == want.1;
        let before = self.links.len();
        self.links.retain(|id, link| wanted.get(id).is_some_and(|want| is_same(link, want)));
        let mut has_changed = self.links.len() != before;
        for (id, (who, address)) in wanted {
            if !self.links.contains_key(&id) {
                match dialer::start(Arc::clone(&self.shared), who, address) {
                    Ok(link) => {
                        self.links.insert(id, link);
                        has_changed = true;
                    }
                    Err(e) => warn!("cannot start a thread for the link to {id} err={e}"),
                }
            }
        }
        if has_changed {
            self.shared.set_links(&self.links);
        }
        self.shared.set_peer_addresses(&self.peer_addresses);
    }
}
