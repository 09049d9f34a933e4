//! Finds members whose address has changed: after all hosts got new addresses, for example, no member knows them. While
//! a member is not connected, the `addr-search` thread asks every address that follows from the settings, `config.json`
//! and the member's number for the identity of the node there; a member of this cluster is connected at that address.
//!
//! The same thread checks now and then whether another cluster shares the front door (`node/process/front_door.rs`),
//! whether a node in `peers` cannot join (`mismatched_peers.rs`), and, after a long time without a leader, whether this
//! node is still a member (`former_member.rs`).
//! Not here: the links (`dialer.rs`); nodes without a cluster (`cluster/discovery/`).

use super::discovery_client::{Asker, named_addresses};
use super::former_member::MembershipCheck;
use super::mismatched_peers::MismatchedPeers;
use crate::node::process::front_door::FrontDoorCheck;
use crate::node::shared::Shared;
use crate::node::shared::messages::CoreInput;
use crate::types::{Addresses, NodeId};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Time between two checks.
const CHECK_INTERVAL: Duration = Duration::from_millis(200);
/// How long a member must be missing before other addresses are asked: a restart takes less.
const MISSING_AFTER: Duration = Duration::from_secs(1);
/// Time between two rounds of questions while there is a leader; without one every check asks.
const RETRY_WITH_LEADER: Duration = Duration::from_secs(5);

/// Body of the thread.
pub fn run(shared: &Arc<Shared>) {
    let asker = Asker::of(shared);
    let mut missing_since: Option<Instant> = None;
    let mut last_round: Option<Instant> = None;
    let mut front_door = FrontDoorCheck::default();
    let mut membership = MembershipCheck::default();
    let mut mismatched_peers = MismatchedPeers::default();
    while !shared.is_stopped() {
        std::thread::sleep(CHECK_INTERVAL);
        front_door.maybe_check(shared);
        membership.maybe_check(shared, &asker);
        mismatched_peers.maybe_check(shared, &asker);
        let missing = missing_members(shared);
        if missing.is_empty() {
            (missing_since, last_round) = (None, None);
            continue;
        }
        let is_new = missing_since.get_or_insert_with(Instant::now).elapsed() < MISSING_AFTER;
        let has_leader = shared.view().raft.leader.is_some();
        if is_new || (has_leader && last_round.is_some_and(|at| at.elapsed() < RETRY_WITH_LEADER)) {
            continue;
        }
        last_round = Some(Instant::now());
        for address in candidate_addresses(shared, &missing) {
            if shared.is_stopping() {
                return;
            }
            if let Ok((found, answer)) = asker.who_is_at(&address)
                && found.cluster == Some(shared.cluster)
                && missing.contains(&found.who.id)
            {
                let own = answer.members.into_iter().find(|(id, _)| *id == found.who.id);
                let own = own.map(|(_, addresses)| addresses).unwrap_or_default();
                let addresses = Addresses { peer: address, ..own };
                shared.inboxes.to_core(CoreInput::Found { who: found.who, addresses });
            }
        }
    }
}

/// Members without a connection.
fn missing_members(shared: &Shared) -> BTreeSet<NodeId> {
    let (view, links) = (shared.view(), shared.links());
    let is_up = |id: NodeId| links.get(&id).is_some_and(|link| link.is_up());
    view.raft.membership.members().map(|who| who.id).filter(|id| *id != shared.me.id && !is_up(*id)).collect()
}

/// Addresses where a missing member may be, without those that a link already uses or tries.
fn candidate_addresses(shared: &Shared, missing: &BTreeSet<NodeId>) -> BTreeSet<String> {
    let settings = &shared.settings;
    let mut all = named_addresses(settings);
    all.extend(missing.iter().map(|id| settings.local_addresses(*id).peer));
    all.remove(&settings.addresses(shared.me.id).peer);
    for link in shared.links().values() {
        all.remove(&link.address);
    }
    all
}
