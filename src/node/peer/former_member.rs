//! Whether this node is still a member. A node that was removed or replaced while it was stopped finds no trace of that
//! in its own log, and no member informs it: members only connect to the nodes that the membership names. So it
//! receives neither appends nor gossip, and would campaign endlessly. After a long time without a leader it therefore
//! asks which node leads, and asks that leader which identity has its number.
//!
//! A node that waits for the only voter says so.
//!
//! Only the leader's own answer counts, twice in a row: a node that is behind may know an older membership, and a
//! leader that has lost its quorum one that is never committed.
//! Not here: the text for users (`cluster/health.rs`), what a front door of such a node does
//! (`node/threads/gossip.rs`).

use super::discovery_client::{Asker, named_addresses};
use crate::node::shared::Shared;
use crate::outcome::{NoLeader, Outsider};
use crate::types::Identity;
use crate::wire::DiscoveryAnswer;
use log::warn;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// A member hears from the leader within a few election timeouts.
const LEADERLESS_MIN: Duration = Duration::from_secs(8);
/// Other nodes that start at the same time are there by then.
const WAIT_LOGGED_AFTER: Duration = Duration::from_secs(3);
/// Time between two rounds of questions.
const ASK_EVERY: Duration = Duration::from_secs(2);

/// Checks whether this node is still a member.
#[derive(Debug, Default)]
pub struct MembershipCheck {
    leaderless_since: Option<Instant>,
    asked: Option<Instant>,
    /// What the leader said the last time.
    said: Option<Outsider>,
    logged: Option<Outsider>,
    /// The only voter is offline, which was logged.
    is_wait_logged: bool,
}

impl MembershipCheck {
    /// Checks if it is time; to be called often.
    pub fn maybe_check(&mut self, shared: &Shared, asker: &Asker) {
        if shared.view().raft.leader.is_some() {
            *self = MembershipCheck::default();
            return shared.set_outsider(None);
        }
        let since = *self.leaderless_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= WAIT_LOGGED_AFTER && !self.is_wait_logged {
            self.log_wait(shared);
        }
        if since.elapsed() < LEADERLESS_MIN || self.asked.is_some_and(|at| at.elapsed() < ASK_EVERY) {
            return;
        }
        self.asked = Some(Instant::now());
        // No leader just now: the state stays as it is.
        if let Some(answer) = ask_leader(shared, asker) {
            let says = outsider(shared.me, answer.holder);
            if says == self.said {
                shared.set_outsider(says);
            }
            self.said = says;
        }
        let outsider = shared.outsider();
        if let Some(it) = outsider.filter(|_| outsider != self.logged) {
            let text = it.describe(shared.me);
            warn!("{text}");
            shared.event("failure", Some(shared.me.id), text);
        }
        self.logged = outsider;
    }

    /// Says for which node this one waits, if no other can help.
    fn log_wait(&mut self, shared: &Shared) {
        let why = shared.why_no_leader();
        if let NoLeader::OnlyVoterOffline(id) = why {
            self.is_wait_logged = true;
            warn!("{why}");
            shared.event("failure", Some(id), why.to_string());
        }
    }
}

/// What this node is if the leader says that this identity has its number.
fn outsider(me: Identity, holder: Option<Uuid>) -> Option<Outsider> {
    match holder {
        Some(uuid) if uuid == me.uuid => None,
        Some(uuid) => Some(Outsider::Replaced(uuid)),
        None => Some(Outsider::Removed),
    }
}

/// What the leader of this node's cluster answers, if any node that can be reached leads or knows who does.
fn ask_leader(shared: &Shared, asker: &Asker) -> Option<DiscoveryAnswer> {
    let mut addresses = named_addresses(&shared.settings);
    addresses.extend(shared.known_addresses().into_iter().map(|(_, addresses)| addresses.peer));
    addresses.remove(&shared.settings.addresses(shared.me.id).peer);
    let mut asked = BTreeSet::new();
    while let Some(address) = addresses.pop_first() {
        if shared.is_stopping() || !asked.insert(address.clone()) {
            continue;
        }
        let Ok((there, answer)) = asker.who_is_at(&address) else { continue };
        if there.cluster != Some(shared.cluster) {
            continue;
        }
        match answer.leader.clone() {
            Some((leader, _)) if leader == there.who.id => return Some(answer),
            Some((_, at)) => _ = addresses.insert(at.peer),
            None => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use crate::node::peer::former_member::*;
    use crate::types::NodeId;

    #[test]
    fn the_holder_of_the_id_tells_removed_from_replaced() {
        let me = Identity { id: NodeId(2), uuid: Uuid::from_u128(7) };
        assert_eq!(outsider(me, Some(me.uuid)), None);
        let replaced = outsider(me, Some(Uuid::from_u128(9))).unwrap().describe(me);
        assert!(replaced.starts_with("node 2 is now another data folder, with uuid 00000000-"), "{replaced}");
        assert!(
            replaced.contains("`phalanx node --id 2 --rejoin`") && replaced.contains("stop this node"),
            "{replaced}"
        );
        let removed = outsider(me, None).unwrap().describe(me);
        assert!(removed.starts_with("this node was removed") && removed.contains("--id 2 --rejoin"), "{removed}");
    }
}
