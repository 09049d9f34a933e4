//! Nodes in `peers` that cannot join this node's cluster, because their secret, version or cluster name differs. They do
//! not keep the others from creating it (`cluster/discovery/bootstrap.rs`), so the running nodes say what is wrong with
//! them. Only what listens at an address in `peers` can be one.
//! Not here: how the health names them (`cluster/health.rs`).

use super::discovery_client::Asker;
use crate::node::shared::Shared;
use crate::wire::Mismatch;
use crate::wire::codec::WireError;
use log::{info, warn};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Time between two rounds of questions.
const ASK_EVERY: Duration = Duration::from_secs(2);

/// Asks the nodes in `peers` that are not members.
#[derive(Debug, Default)]
pub struct MismatchedPeers {
    asked: Option<Instant>,
}

impl MismatchedPeers {
    /// Asks if it is time; to be called often.
    pub fn maybe_check(&mut self, shared: &Shared, asker: &Asker) {
        let settings = &shared.settings;
        if settings.peers.is_empty() || self.asked.is_some_and(|at| at.elapsed() < ASK_EVERY) {
            return;
        }
        let own = settings.addresses(shared.me.id).peer;
        let members: Vec<String> = shared.known_addresses().into_iter().map(|(_, addresses)| addresses.peer).collect();
        let others = settings.peers.iter().filter(|peer| **peer != own && !members.contains(peer));
        let mismatched: BTreeMap<String, String> =
            others.filter_map(|peer| Some((peer.clone(), difference(shared, asker, peer)?.to_string()))).collect();
        let before = shared.set_mismatched_peers(mismatched.clone());
        for (peer, what) in mismatched.iter().filter(|(peer, what)| before.get(*peer) != Some(what)) {
            warn!("{peer}, which is in peers, cannot join: {what}");
        }
        for peer in before.keys().filter(|peer| !mismatched.contains_key(*peer)) {
            info!("{peer}, which is in peers, no longer differs");
        }
        self.asked = Some(Instant::now());
    }
}

fn difference(shared: &Shared, asker: &Asker, peer: &str) -> Option<Mismatch> {
    match asker.who_is_at(peer) {
        Err(WireError::Differs { what, .. }) => Some(what),
        Ok((there, known)) if there.cluster != Some(shared.cluster) && known.name != shared.settings.cluster_name => {
            Some(Mismatch::name(&known.name))
        }
        _ => None,
    }
}
