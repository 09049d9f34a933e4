//! A new node: whether the cluster that it has found is the right one, and the request to join it.

use super::error::{DiscoveryError, front_taken};
use super::search::{Search, Survey};
use super::world::{Decision, FrontOwner, JoinAnswer};
use crate::cluster::config::file::Projection;
use log::{info, warn};
use uuid::Uuid;

/// Number of consecutive refused joins after which they are logged; a few are normal while other nodes join (one change
/// of the membership at a time).
const REFUSED_JOINS_LOGGED_FROM: u32 = 10;
/// The cluster at the front door counts as another one if it has not answered at any known address in this many
/// consecutive rounds: this node's own cluster may answer slowly just after it was created.
const FRONT_ROUNDS: u32 = 5;

impl Search<'_> {
    /// Whether a new node may continue although a cluster uses the front door: only if it is about to join that
    /// cluster. A cluster that answers at no known address is another one.
    pub(super) fn check_front_door(
        &mut self,
        owner: FrontOwner,
        survey: &Survey,
        named: Option<&Projection>,
    ) -> Result<bool, DiscoveryError> {
        let settings = self.seeker.settings;
        let named = named.map(|named| named.cluster_info.id);
        if let Some(other) = named.filter(|named| *named != owner.cluster && survey.clusters.contains_key(named)) {
            return Err(front_taken(settings, owner, format!("this node is configured to join cluster {other}")));
        }
        if named == Some(owner.cluster) || survey.clusters.contains_key(&owner.cluster) {
            self.front_rounds = 0;
            return Ok(true);
        }
        self.front_rounds += 1;
        // A node that rejects this one may belong to that cluster: its reason must be resolved first.
        let is_declining = survey.rejected.is_some() || !survey.differing.is_empty();
        let may_be_declining = is_declining && survey.clusters.is_empty();
        if self.front_rounds < FRONT_ROUNDS || may_be_declining {
            return Ok(false);
        }
        let why = "none of its nodes answers at the addresses that this node knows (to join that cluster, add one of \
            them to peers)";
        Err(front_taken(settings, owner, why.to_string()))
    }

    /// Joins the leader of the right cluster, if one is known; logs why it cannot.
    pub(super) fn try_join(&mut self, survey: &Survey, named: Option<&Projection>) -> Option<Decision> {
        let wanted = self.seeker.cluster.or(named.map(|named| named.cluster_info.id));
        let cluster = match wanted {
            Some(wanted) if survey.clusters.contains_key(&wanted) => wanted,
            Some(wanted) => {
                if let Some(other) = survey.clusters.keys().next() {
                    self.log_change(
                        log::Level::Warn,
                        "clusters",
                        format!(
                            "looking for cluster {wanted}, which is named by this node's data folder or {}, but \
                             cluster {other} answers; to join that one, move the folder and the file away",
                            self.seeker.settings.config_file_path.display()
                        ),
                    );
                }
                return None;
            }
            None if survey.clusters.len() > 1 => {
                let all = survey.clusters.keys().map(Uuid::to_string).collect::<Vec<_>>().join(" and ");
                self.log_change(
                    log::Level::Warn,
                    "clusters",
                    format!("clusters {all} answer: set peers or config_file_path to select one"),
                );
                return None;
            }
            None => *survey.clusters.keys().next()?,
        };
        let Some((_, id, addresses)) = &survey.clusters[&cluster] else {
            self.log_change(
                log::Level::Info,
                "leader",
                format!("cluster {cluster} has no leader yet; waiting for one"),
            );
            return None;
        };
        match self.world.join(&addresses.peer, cluster) {
            Ok(JoinAnswer::Joined { cluster: theirs, members, identities }) if theirs == cluster => {
                info!("joined cluster {cluster} through its leader, node {}", id.0);
                return Some(Decision::Joined { cluster, members, identities });
            }
            Ok(JoinAnswer::Joined { cluster: theirs, .. }) => {
                warn!("cannot join cluster {cluster}: {} is in cluster {theirs}", addresses.peer);
            }
            Ok(JoinAnswer::Elsewhere(there)) => {
                self.heard_of.extend(there.leader.map(|(_, addresses)| addresses.peer).filter(|a| !a.is_empty()));
            }
            Err(why) => {
                self.joins_refused += 1;
                if self.joins_refused >= REFUSED_JOINS_LOGGED_FROM {
                    self.log_change(
                        log::Level::Warn,
                        "join",
                        format!("the leader, node {}, does not accept this node yet: {why}", id.0),
                    );
                }
            }
        }
        None
    }
}
