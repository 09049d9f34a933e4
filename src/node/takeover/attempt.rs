//! One try to host the voters of dead processes: all folders of a majority, or none.
//!
//! Beside the lock there is a second sign of death: the voter's address is of this machine, and refuses connections.
//! Without it the folder may be a copy of one that a process on another host uses. And a folder that lacks what this node
//! remembers of its voter's promises is an older copy, and is not used.
//! Not here: what is done with the folders (`thread.rs`).

use crate::address;
use crate::cluster::takeover::folder_claims::{self, FolderClaims};
use crate::cluster::takeover::{ClaimedFolder, HostedVoter, rule};
use crate::node::process::outdated;
use crate::node::shared::Shared;
use crate::raft::{Config, Membership, Promise};
use crate::store::folder_lock::FolderLock;
use crate::types::{Identity, NodeId};
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::time::Duration;

/// A process of this host accepts a connection at once.
const CONNECT_WITHIN: Duration = Duration::from_millis(100);

/// A hosted voter and the lock of its folder, which is released after it is gone: fields are dropped in this order.
pub(super) struct Hosting {
    pub(super) voter: HostedVoter,
    _lock: FolderLock,
}

/// Locks and opens the folders of all dead voters but the `failed` ones; the reason, if these are too few.
pub(super) fn attempt(
    shared: &Shared,
    membership: &Membership,
    config: &Config,
    failed: &BTreeSet<Identity>,
) -> Result<Vec<Hosting>, String> {
    let (data_dir, voters) = (&shared.settings.data_dir, &membership.voters);
    let mut claims = folder_claims::claim(data_dir, shared.cluster, voters, shared.me.id, folder_claims::why_unsafe);
    for claimed in std::mem::take(&mut claims.claimed) {
        let id = claimed.who.id;
        if failed.contains(&claimed.who) {
            claims.unusable.push((id, "it failed while it was hosted".to_string()));
        } else if let Some(why) = why_alive(&address_of(shared, id)) {
            claims.unusable.push((id, why));
        } else {
            claims.claimed.push(claimed);
        }
    }
    let is_majority = |held: BTreeSet<Identity>| rule::is_majority(&membership.voters, shared.me, &held);
    // Before any log is read: two nodes that try at once must not keep folders from each other for long.
    if !is_majority(claims.claimed.iter().map(|claimed| claimed.who).collect()) {
        return Err(describe_shortage(&claims));
    }
    let mut hosted = Vec::new();
    for claimed in std::mem::take(&mut claims.claimed) {
        let id = claimed.who.id;
        match open(shared, claimed, config) {
            Ok(hosting) => hosted.push(hosting),
            Err(why) => claims.unusable.push((id, why)),
        }
    }
    match is_majority(hosted.iter().map(|hosting| hosting.voter.who).collect()) {
        true => Ok(hosted),
        false => Err(describe_shortage(&claims)),
    }
}

/// Where this voter accepts connections.
fn address_of(shared: &Shared, id: NodeId) -> String {
    let known = shared.peer_addresses().get(&id).map(|addresses| addresses.peer.clone());
    known.unwrap_or_else(|| shared.settings.local_addresses(id).peer)
}

/// Why the process that has this address may be alive, if it may.
fn why_alive(at: &str) -> Option<String> {
    if !address::split(at).is_some_and(|(host, _)| address::is_of_this_machine(host)) {
        return Some(format!("its process was at {at}, which is not this host, so this may be a copy"));
    }
    match address::connect(at, CONNECT_WITHIN) {
        Ok(_) => Some("something listens at its address".to_string()),
        Err(e) if e.kind() == ErrorKind::ConnectionRefused => None,
        Err(e) => Some(format!("whether its process runs at {at} is not known: {e}")),
    }
}

fn open(shared: &Shared, mut claimed: ClaimedFolder, config: &Config) -> Result<Hosting, String> {
    let who = claimed.who;
    let (store, durable) = claimed.open().map_err(|e| e.to_string())?;
    let (kept, known) = (Promise::from(&durable), shared.remembers(&who));
    if kept.falls_short_of(&known) {
        return Err(outdated::describe(who.id, shared.me.id, &kept, &known));
    }
    let voter = HostedVoter::new(Config { me: who, ..config.clone() }, store, durable);
    Ok(Hosting { voter, _lock: claimed.lock })
}

/// Why the folders are too few, and what can be done.
fn describe_shortage(claims: &FolderClaims) -> String {
    let list = |ids: &[NodeId]| {
        let ids: Vec<String> = ids.iter().map(|id| id.0.to_string()).collect();
        format!("{} {}", if ids.len() == 1 { "node" } else { "nodes" }, ids.join(", "))
    };
    let mut parts = Vec::new();
    if !claims.in_use.is_empty() {
        parts.push(format!("a process holds the folder of {} (it runs, or is frozen)", list(&claims.in_use)));
    }
    if !claims.elsewhere.is_empty() {
        let who = list(&claims.elsewhere);
        parts.push(format!("the folder of {who} is not on this host (if it is lost: `phalanx recover`)"));
    }
    parts.extend(claims.unusable.iter().map(|(id, why)| format!("the folder of node {} cannot be used: {why}", id.0)));
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn only_a_refusal_of_this_machine_is_a_sign_of_death() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap().to_string();
        assert_eq!(why_alive(&at).as_deref(), Some("something listens at its address"));
        drop(listener);
        assert_eq!(why_alive(&at), None);
        // Another host, which does not answer while the network is cut, and refuses while the process starts again.
        for elsewhere in ["203.0.113.1:5702", "[2001:db8::1]:5702", "node2.invalid:5702", ""] {
            let why = why_alive(elsewhere).unwrap();
            assert!(why.contains("is not this host, so this may be a copy"), "{why}");
        }
    }
}
