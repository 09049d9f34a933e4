//! The stop of a node: say goodbye, transfer leadership, refuse clients, send the last answers, give the vote back where
//! the others need it, sync, join, within five seconds.
//!
//! Invariant: S1 each step ends by the deadline of the whole stop, whatever the steps before it took: what follows them
//! (the last sync, the end of the threads) has time of its own.
//!
//! Not here: how a stop is requested (`node/shared/stopper.rs`), what each thread does at its end, what the others make
//! of a goodbye (`cluster/departures.rs`).

use crate::cluster::{departures, witness};
use crate::node::shared::Shared;
use crate::node::shared::messages::CoreInput;
use crate::node::shared::request::{Operation, transferred_to};
use crate::raft::{Change, Role};
use crate::types::NodeId;
use crate::wire::Frame;
use log::{info, warn};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest wait for `core` to take an input.
const CORE_MAX: Duration = Duration::from_millis(200);
/// Longest wait for a successor.
const TRANSFER_MAX: Duration = Duration::from_millis(1500);
/// Longest wait for client connections to end.
const CLIENTS_MAX: Duration = Duration::from_millis(1500);
/// Longest wait until this node is a learner, from the end of its last client.
const DEMOTION_MAX: Duration = Duration::from_millis(1200);
/// Longest wait of the only voter until a learner that is there has a vote.
const PROMOTION_MAX: Duration = Duration::from_millis(1000);
/// Time between two goodbyes: the first may have met a leader that is gone by now.
const GOODBYE_EVERY: Duration = Duration::from_millis(200);
/// Time between two looks at what is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Tells all nodes that this one stops.
pub fn send_goodbye(shared: &Shared) {
    let _ = shared.inboxes.core.send_timeout(CoreInput::Goodbye(shared.me), CORE_MAX);
    for link in shared.links().values() {
        link.send(&Frame::Goodbye);
    }
}

/// Transfers leadership to the best live voter that does not stop as well, if this node leads.
pub fn transfer_leadership(shared: &Shared, until: Instant) {
    if shared.view().raft.role != Role::Leader {
        return;
    }
    await_other_voter(shared, until);
    if !does_a_voter_stay(shared) {
        return;
    }
    let deadline = until.min(Instant::now() + TRANSFER_MAX);
    match shared.inboxes.ask(Operation::Transfer(None), deadline).into_result() {
        Ok((_, reply)) => {
            let to = transferred_to(&reply).map_or("another node".to_string(), |id| id.to_string());
            info!("leadership transferred to={to}");
        }
        Err(_) if !does_a_voter_stay(shared) => info!("leadership not transferred: all voters stop"),
        Err(why) => warn!("leadership not transferred err={why:?}"),
    }
}

fn does_a_voter_stay(shared: &Shared) -> bool {
    let view = shared.view();
    let witnesses = shared.witnesses();
    let is_staying = |id: &NodeId| *id != shared.me.id && !view.leaving.contains(id) && !witnesses.contains(id);
    view.raft.membership.voters.keys().any(is_staying)
}

/// The only voter waits until the autopilot has promoted a learner that answers, if there is one: otherwise no node
/// could lead.
fn await_other_voter(shared: &Shared, until: Instant) {
    let deadline = until.min(Instant::now() + PROMOTION_MAX);
    let mut unfit = shared.directory().gateways.clone();
    unfit.extend(shared.witnesses());
    while Instant::now() < deadline {
        let view = shared.view();
        let can_vote = |id: NodeId| !unfit.contains(&id) && !view.leaving.contains(&id) && is_linked(shared, id);
        let has_learner = view.raft.membership.learners.keys().any(|id| can_vote(*id));
        if view.raft.membership.voters.len() > 1 || !has_learner {
            return;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Waits until this voter is a learner, if the nodes that stay have no quorum without it until then.
pub fn give_vote_back(shared: &Shared, until: Instant) {
    let (begun, mut said) = (Instant::now(), Instant::now());
    let deadline = until.min(begun + DEMOTION_MAX);
    let is_needed = || {
        let view = shared.view();
        let is_staying = |id: NodeId| !view.leaving.contains(&id) && is_linked(shared, id);
        let is_allowed =
            witness::keeps_full_quorums(&view.raft.membership, &shared.witnesses(), &Change::Demote(shared.me.id));
        is_allowed && departures::is_needed_until_demoted(&view.raft.membership, &shared.me, is_staying)
    };
    while Instant::now() < deadline {
        if !is_needed() {
            return;
        }
        if said.elapsed() >= GOODBYE_EVERY {
            // It may have got the leadership meanwhile.
            transfer_leadership(shared, deadline);
            send_goodbye(shared);
            said = Instant::now();
        }
        std::thread::sleep(LOOK_EVERY);
    }
    warn!("no leader has taken this node's vote back in {} ms", begun.elapsed().as_millis());
}

fn is_linked(shared: &Shared, id: NodeId) -> bool {
    shared.links().get(&id).is_some_and(|link| link.is_up())
}

/// Waits until the client connections are closed.
pub fn drain_clients(shared: &Arc<Shared>, until: Instant) {
    let deadline = until.min(Instant::now() + CLIENTS_MAX);
    while shared.sessions.count() > 0 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    let left = shared.sessions.count();
    if left > 0 {
        info!("{left} client connections did not close in time");
    }
}
