//! The leader's side of a join: makes the new node a learner, replacing a lost disk's identity under the same id.
//!
//! The old identity is removed before the new one is added, so one number never votes twice. A number is in use while
//! its holder answers the leader. A holder that is silent may only be restarting: the new node gets the number when the
//! holder has been silent for `dead_after_ms`, or at once if the new node answers at the holder's address, which no two
//! nodes can have. Each step is a separate membership change, committed before the next.
//! Not here: finding the leader (`cluster/discovery/`), becoming a voter (`cluster/autopilot.rs`).

use super::discovery_client::Asker;
use super::silent_learners::SILENT_LEARNERS_MAX;
use crate::address;
use crate::node::shared::Shared;
use crate::node::shared::messages::CoreInput;
use crate::node::shared::request::Operation;
use crate::raft::{Change, Promise};
use crate::services::Replicated;
use crate::services::directory::Command;
use crate::services::directory::Directory;
use crate::types::{Identity, NodeId, NodeKind};
use crate::wire::{DiscoveryAnswer, Frame, Hello};
use log::info;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

/// What this node answers to a node that looks for a cluster, or for its place in one.
pub fn discovery_answer(shared: &Shared, asker: NodeId) -> DiscoveryAnswer {
    let view = shared.view();
    let members = shared.known_addresses();
    let leader = view.raft.leader.and_then(|id| members.iter().find(|(m, _)| *m == id).cloned());
    let (cluster, id, term) = (Some(shared.cluster), Some(shared.me.id), view.raft.term);
    let holder = view.raft.membership.uuid_of(asker);
    let name = shared.settings.cluster_name.clone();
    let (remembered, who, claim) = (Promise::default(), None, None);
    DiscoveryAnswer { cluster, id, term, leader, members, holder, name, claim, remembered, who }
}

/// Whether a connection comes from another machine.
fn is_from_another_host(stream: &TcpStream) -> bool {
    let ip = |address: io::Result<SocketAddr>| address.ok().map(|address| address.ip().to_canonical());
    let (there, here) = (ip(stream.peer_addr()), ip(stream.local_addr()));
    there != here && there.is_some_and(|ip| !ip.is_loopback())
}

/// Why two nodes on different machines cannot reach each other at the addresses that they tell.
fn unreachable_address(ours: &str, theirs: &str) -> Option<String> {
    let is_loopback = |at: &str| address::split(at).is_some_and(|(host, _)| address::is_loopback(host));
    let (whose, at) = match (is_loopback(ours), is_loopback(theirs)) {
        (true, _) => ("the leader", ours),
        (_, true) => ("this node", theirs),
        _ => return None,
    };
    Some(format!("{whose} says that it is reached at {at}, which only its own machine can: set advertise_host there"))
}

/// Answers a node that asks to join.
pub fn admit(shared: &Shared, stream: &TcpStream, hello: &Hello, kind: NodeKind) -> Frame {
    let who = hello.from;
    let ours = shared.settings.addresses(shared.me.id).peer;
    if is_from_another_host(stream)
        && let Some(why) = unreachable_address(&ours, &hello.addresses.peer)
    {
        return Frame::Reject { why };
    }
    if shared.view().raft.leader != Some(shared.me.id) {
        return Frame::DiscoveryAnswer(discovery_answer(shared, who.id));
    }
    if who.id.0 == 0 || who.id.0 > NodeId::MAX {
        return Frame::Reject { why: format!("node ids are 1 to {}", NodeId::MAX) };
    }
    let deadline = shared.request_deadline();
    let admitted = check_admission(shared, hello).and_then(|()| {
        // A gateway or witness is registered as one before it is a member: no leader ever makes a gateway a voter, or
        // sends data to a witness.
        if kind != NodeKind::Full {
            register(shared, hello, kind, deadline)?;
        }
        make_member(shared, who, deadline)
    });
    match admitted {
        Ok(()) => {
            shared.inboxes.to_core(CoreInput::Met { who, addresses: hello.addresses.clone(), is_proved: false });
            let identities = shared.view().raft.membership.members().collect();
            Frame::Joined { cluster: shared.cluster, members: shared.known_addresses(), identities }
        }
        Err(why) => Frame::Reject { why },
    }
}

/// Checks whether the new node is admitted now; the error says why not.
fn check_admission(shared: &Shared, hello: &Hello) -> Result<(), String> {
    let who = hello.from;
    let view = shared.view();
    match view.raft.membership.uuid_of(who.id) {
        Some(uuid) if uuid == who.uuid => return Ok(()),
        Some(uuid) => {
            let holder = Identity { id: who.id, uuid };
            let peer = view.raft.peers.iter().find(|peer| peer.who == holder);
            if who.id == shared.me.id || peer.is_some_and(|peer| peer.is_active) {
                return Err(in_use(who.id));
            }
            let dead_after = shared.settings.dead_after_ticks();
            let is_dead = peer.is_none_or(|peer| peer.silent_ticks >= dead_after);
            if !is_dead && !is_at_address_of(shared, who, holder) {
                return Err(format!(
                    "id {} belongs to another data folder, whose node may be restarting: it is replaced when it has \
                     not answered for {} ms (dead_after_ms)",
                    who.id.0, shared.settings.dead_after_ms
                ));
            }
        }
        None => {}
    }
    if shared.try_add_silent_learner(who) {
        return Ok(());
    }
    Err(format!("{SILENT_LEARNERS_MAX} new nodes have not answered since they joined: try again within a minute"))
}

/// Whether the new node answers at the address of the holder of its number: then the holder's disk was replaced, or
/// discarded by its user (`--rejoin`), and the holder cannot return there.
fn is_at_address_of(shared: &Shared, who: Identity, holder: Identity) -> bool {
    let directory = shared.directory();
    let known = directory.nodes.get(&holder.id).filter(|(uuid, _)| *uuid == holder.uuid);
    let Some((_, addresses)) = known else { return false };
    Asker::of(shared).who_is_at(&addresses.peer).is_ok_and(|(there, _)| there.who == who)
}

fn make_member(shared: &Shared, who: Identity, deadline: Instant) -> Result<(), String> {
    match shared.view().raft.membership.uuid_of(who.id) {
        Some(uuid) if uuid == who.uuid => return Ok(()),
        Some(_) => {
            info!("node {} returns with an empty disk: removing its old identity first", who.id.0);
            change(shared, Change::Remove(who.id), deadline)?;
        }
        None => {}
    }
    change(shared, Change::AddLearner(who), deadline)
}

fn register(shared: &Shared, hello: &Hello, kind: NodeKind, deadline: Instant) -> Result<(), String> {
    let command = Command::register(hello.from, hello.addresses.clone(), kind);
    shared.inboxes.run(Directory::encode_command(&command), deadline).into_result().map(drop)
}

fn in_use(id: NodeId) -> String {
    format!("id {} is in use by a live node: choose another --id", id.0)
}

fn change(shared: &Shared, change: Change, deadline: Instant) -> Result<(), String> {
    shared.inboxes.ask(Operation::Change(change), deadline).into_result().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loopback_address_told_to_another_machine_is_reported() {
        let why = |ours, theirs| unreachable_address(ours, theirs).unwrap_or_default();
        assert!(
            why("127.0.0.1:5701", "10.0.0.2:5702").starts_with("the leader says that it is reached at 127.0.0.1:5701")
        );
        assert!(why("10.0.0.1:5701", "[::1]:5702").starts_with("this node says that it is reached at [::1]:5702"));
        assert!(why("10.0.0.1:5701", "localhost:5702").contains("advertise_host"));
        assert_eq!(why("10.0.0.1:5701", "node2.example:5702"), "");
    }
}
