//! The leader's side of a join: makes the newcomer a learner, replacing a lost disk's identity under the same id.
//!
//! The old identity goes before the new one comes, so one number never votes twice. A number whose holder answers the
//! leader is in use and stays with it. Each step is a membership change of its own, committed before the next.
//! Not here: finding the leader (`cluster/discovery.rs`), becoming a voter (`cluster/autopilot.rs`).

use crate::node::shared::Shared;
use crate::node::shared::messages::CoreInput;
use crate::node::shared::request::Operation;
use crate::raft::{Change, Promise};
use crate::services::directory::Command;
use crate::services::registry::directory_command;
use crate::types::{Identity, NodeId, Outcome};
use crate::wire::{Frame, Hello, Whereabouts};
use log::info;
use std::time::{Duration, Instant};

/// What this node tells those who look for a cluster, or for their place in it.
pub fn whereabouts(shared: &Shared, asker: NodeId) -> Whereabouts {
    let view = shared.view();
    let members = shared.known_addresses();
    let leader = view.raft.leader.and_then(|id| members.iter().find(|(m, _)| *m == id).cloned());
    let (cluster, id, term) = (Some(shared.cluster), Some(shared.me.id), view.raft.term);
    let holder = view.raft.membership.uuid_of(asker);
    Whereabouts { cluster, id, term, leader, members, holder, remembered: Promise::default() }
}

/// Answers a node that asks to join.
pub fn admit(shared: &Shared, hello: &Hello, is_gateway: bool) -> Frame {
    let who = hello.from;
    if shared.view().raft.leader != Some(shared.me.id) {
        return Frame::Whereabouts(whereabouts(shared, who.id));
    }
    if who.id.0 == 0 || who.id.0 > NodeId::MAX {
        return Frame::Reject { why: format!("node ids go from 1 to {}", NodeId::MAX) };
    }
    let deadline = Instant::now() + Duration::from_millis(shared.settings.request_timeout_ms);
    // A gateway is known as such before it is a member: so no leader ever makes it a voter.
    let named = if is_gateway { register_gateway(shared, hello, deadline) } else { Ok(()) };
    match named.and_then(|()| make_member(shared, who, deadline)) {
        Ok(()) => {
            shared.inboxes.to_core(CoreInput::Met { who, addresses: hello.addresses.clone(), is_proved: false });
            let identities = shared.view().raft.membership.members().collect();
            Frame::Joined { cluster: shared.cluster, members: shared.known_addresses(), identities }
        }
        Err(why) => Frame::Reject { why },
    }
}

fn make_member(shared: &Shared, who: Identity, deadline: Instant) -> Result<(), String> {
    let view = shared.view();
    let membership = &view.raft.membership;
    let holder = membership.voters.get(&who.id).or_else(|| membership.learners.get(&who.id)).copied();
    match holder {
        Some(uuid) if uuid == who.uuid => return Ok(()),
        Some(_) => {
            let is_answering = view.raft.peers.iter().any(|peer| peer.who.id == who.id && peer.is_active);
            if who.id == shared.me.id || is_answering {
                return Err(in_use(who.id));
            }
            info!("node {} comes back with an empty disk: its old identity leaves first", who.id.0);
            change(shared, Change::Remove(who.id), deadline)?;
        }
        None => {}
    }
    change(shared, Change::AddLearner(who), deadline)
}

fn register_gateway(shared: &Shared, hello: &Hello, deadline: Instant) -> Result<(), String> {
    let who = hello.from;
    if shared.view().raft.membership.uuid_of(who.id).is_some_and(|uuid| uuid != who.uuid) && shared.is_online(who.id) {
        return Err(in_use(who.id));
    }
    let command = Command::Register { who, addresses: hello.addresses.clone(), is_gateway: true };
    match shared.inboxes.run(directory_command(&command), deadline) {
        Outcome::Done(_) => Ok(()),
        Outcome::Refused(why) | Outcome::Unknown(why) => Err(why),
    }
}

fn in_use(id: NodeId) -> String {
    format!("id {} is in use by a live node: choose another --id", id.0)
}

fn change(shared: &Shared, change: Change, deadline: Instant) -> Result<(), String> {
    match shared.inboxes.ask(Operation::Change(change), deadline) {
        Outcome::Done(_) => Ok(()),
        Outcome::Refused(why) | Outcome::Unknown(why) => Err(why),
    }
}
