//! One node's search: it asks the addresses that it knows, and logs what it finds.

use super::claims::{Found, Grant};
use super::earlier_clusters::{self, LOCAL_IDS};
use super::world::{AskError, Seeker, World};
use crate::cluster::config::file::Projection;
use crate::types::{Addresses, NodeId, Term};
use crate::wire::{DiscoveryAnswer, Mismatch};
use log::debug;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use uuid::Uuid;

/// Time between rounds of a long search.
pub(super) const LONG_ROUND: Duration = Duration::from_millis(1000);
/// Wait for the answers of the first rounds; an address that has not answered by then counts as silent.
const PATIENCE_MIN: Duration = Duration::from_millis(600);
/// Maximum number of characters of another process's message in a log line.
const QUOTED_CHARS_MAX: usize = 300;

/// One node's search.
pub(super) struct Search<'a> {
    pub seeker: &'a Seeker<'a>,
    pub world: &'a dyn World,
    /// Addresses that other nodes have named.
    pub heard_of: BTreeSet<String>,
    /// Last line logged for each topic: a search logs changes, not each round.
    pub logged: BTreeMap<&'static str, String>,
    pub joins_refused: u32,
    /// Number of consecutive rounds in which the front door was used by a cluster that answered at no known address.
    pub front_rounds: u32,
    /// How long this round waits for answers.
    pub patience: Duration,
}

/// The answers of one round.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// Clusters that an asked node is in, each with the leader of the newest term that was named.
    pub clusters: BTreeMap<Uuid, Option<(Term, NodeId, Addresses)>>,
    /// Other nodes that search for a cluster.
    pub searching: BTreeSet<NodeId>,
    /// Addresses at which they answered.
    pub searching_at: BTreeSet<String>,
    /// Addresses at which this node itself answered.
    pub own: BTreeSet<String>,
    /// Addresses that did not answer in time.
    pub silent: BTreeSet<String>,
    /// Addresses of nodes that cannot be in one cluster with this one: why, and the cluster that their data belongs to.
    pub differing: BTreeMap<String, (Mismatch, Option<Uuid>)>,
    /// Claims that other nodes make or have granted.
    pub claims: BTreeSet<Uuid>,
    /// Message about a node that refused the request, with its reason.
    pub rejected: Option<String>,
    /// Whether a node that may be in a cluster refused the request.
    pub is_declined: bool,
    pub asked: usize,
}

impl Search<'_> {
    pub(super) fn addresses(&self, named: Option<&Projection>) -> Vec<String> {
        let settings = self.seeker.settings;
        let local = (1..=LOCAL_IDS).map(NodeId).chain(earlier_clusters::ids_below(&settings.data_dir));
        let own = settings.addresses(self.seeker.me.id).peer;
        let all = self.known_addresses(named).into_iter().chain(local.map(|id| settings.local_addresses(id).peer));
        let mut seen = BTreeSet::from([own, settings.local_addresses(self.seeker.me.id).peer]);
        all.filter(|address| seen.insert(address.clone())).collect()
    }

    /// Addresses that the file, the settings or another node has named, without guesses.
    pub(super) fn known_addresses(&self, named: Option<&Projection>) -> Vec<String> {
        let settings = self.seeker.settings;
        let mut seen = BTreeSet::from([settings.addresses(self.seeker.me.id).peer]);
        let named = named.map(Projection::peer_addresses).unwrap_or_default();
        let all = named.into_iter().chain(self.seeker.known.iter().cloned()).chain(settings.peers.iter().cloned());
        all.chain(self.heard_of.iter().cloned()).filter(|address| seen.insert(address.clone())).collect()
    }

    pub(super) fn survey(&mut self, named: Option<&Projection>) -> Survey {
        let addresses = self.addresses(named);
        let mut survey = Survey { asked: addresses.len(), ..Survey::default() };
        let known = self.known_addresses(named);
        let granted = self.world.claims().granted();
        for (address, answer) in addresses.iter().zip(self.world.ask_all(&addresses, self.patience)) {
            if let Some(grant) = granted.as_ref().filter(|grant| has_given_up(grant, address, &answer)) {
                self.world.claims().end(grant);
            }
            self.count(&mut survey, address, answer, known.contains(address));
        }
        self.log_survey(&survey);
        survey
    }

    /// Adds the answer from one address; `is_known`: the address is not a guess.
    fn count(&mut self, survey: &mut Survey, address: &str, answer: Result<DiscoveryAnswer, AskError>, is_known: bool) {
        let has_secret = self.seeker.settings.cluster_secret.is_some();
        let may_be_member = self.seeker.settings.peers.is_empty() || is_known;
        match answer {
            Ok(DiscoveryAnswer { cluster: None, id, .. }) if id == Some(self.seeker.me.id) => {
                survey.own.insert(address.to_string());
            }
            // A member of this node's own cluster may have another name for it already.
            Ok(there) if self.is_named_differently(&there) => {
                survey.differing.insert(address.to_string(), (Mismatch::name(&there.name), there.cluster));
            }
            Ok(DiscoveryAnswer { cluster: None, id, claim, .. }) => {
                survey.searching.extend(id);
                survey.searching_at.insert(address.to_string());
                survey.claims.extend(claim);
            }
            Ok(DiscoveryAnswer { cluster: Some(cluster), term, leader, members, .. }) => {
                let best = survey.clusters.entry(cluster).or_default();
                if let Some((id, addresses)) = leader
                    && best.as_ref().is_none_or(|(newest, ..)| term > *newest)
                {
                    *best = Some((term, id, addresses));
                }
                let peers = members.into_iter().map(|(_, addresses)| addresses.peer);
                self.heard_of.extend(peers.filter(|peer| !peer.is_empty()));
            }
            Err(AskError::Timeout) => {
                survey.silent.insert(address.to_string());
            }
            Err(AskError::Rejected(why)) => {
                // If `peers` names all initial nodes, another process that listens on this host is none of them.
                survey.is_declined |= may_be_member;
                let doubt = "; without a cluster_secret nothing proves that it is a node: find out what listens there \
                             before you follow any advice";
                let doubt = if has_secret { "" } else { doubt };
                survey.rejected =
                    Some(format!("the node at {address} does not talk to this one: {}{doubt}", quoted(&why)));
            }
            // Treated like no answer, otherwise any process could prevent a bootstrap.
            Err(AskError::Unproved(why)) => {
                let doubt = "it has not proved to know the cluster_secret, so it may be another program; if it is a node, \
                             give both the same secret and version";
                survey.rejected =
                    Some(format!("what listens at {address} declines, unproved: {}; {doubt}", quoted(&why)));
                survey.silent.insert(address.to_string());
            }
            Err(AskError::Differs { what, cluster }) => {
                match has_secret {
                    true => _ = survey.silent.insert(address.to_string()),
                    // One that has data is assumed to be in a cluster.
                    false => survey.is_declined |= cluster.is_some() && may_be_member,
                }
                survey.differing.insert(address.to_string(), (what, cluster));
            }
            Err(AskError::Refused) => {}
            Err(AskError::Failed(why)) => debug!("asked {address} err=\"{why}\""),
        }
    }

    fn log_survey(&mut self, survey: &Survey) {
        if !survey.differing.is_empty() {
            let all = survey.differing.iter().map(|(address, (what, _))| format!("{address}: {what}"));
            let all = all.collect::<Vec<_>>().join("; ");
            self.log_change(
                log::Level::Warn,
                "differing",
                format!("nodes that cannot be in one cluster with this one: {all}"),
            );
        }
        if let Some(line) = &survey.rejected {
            self.log_change(log::Level::Warn, "rejected", line.clone());
        } else if survey.clusters.is_empty() {
            let (asked, searching) = (survey.asked, survey.searching.len());
            let line = match searching {
                0 => format!("no node found at {asked} addresses yet; this is normal for the first node"),
                _ => format!(
                    "{searching} of {asked} addresses answered, by nodes that are also looking for a cluster; this is \
                        normal at a first start"
                ),
            };
            self.log_change(log::Level::Info, "search", line);
        }
    }

    fn is_named_differently(&self, there: &DiscoveryAnswer) -> bool {
        let is_ours = self.seeker.cluster.is_some() && self.seeker.cluster == there.cluster;
        !is_ours && there.name != self.seeker.settings.cluster_name
    }

    /// Tells the thread that answers other nodes what it may grant after this round (C3).
    pub(super) fn allow_grants(&self, survey: &Survey) {
        let is_clear = survey.clusters.is_empty() && !survey.is_declined && self.hosts(survey).unsettled().is_empty();
        let found = Found { searching: survey.searching.clone(), claims: survey.claims.clone() };
        self.world.claims().set_found(is_clear.then_some(found));
    }

    /// The wait for answers in a round: longer after each round beyond those after which a cluster may be created, up to
    /// `discovery_timeout_ms`. So a slow network is waited for, and a fast one finds its leader before.
    pub(super) fn patience_of(&self, round: u32) -> Duration {
        let settings = self.seeker.settings;
        let doublings = round.saturating_sub(settings.connection_attempts).min(8);
        (PATIENCE_MIN * (1 << doublings)).min(Duration::from_millis(settings.discovery_timeout_ms))
    }

    /// Logs a line unless it equals the last one about its topic.
    pub(super) fn log_change(&mut self, level: log::Level, topic: &'static str, line: String) {
        if self.logged.get(topic) != Some(&line) {
            log::log!(level, "{line}");
            self.logged.insert(topic, line);
        }
    }
}

/// Whether the holder of a grant answers, at this address, that it no longer claims the right (C2).
fn has_given_up(grant: &Grant, address: &String, answer: &Result<DiscoveryAnswer, AskError>) -> bool {
    match answer {
        Ok(there) if there.id == Some(grant.to) || *address == grant.address => there.claim != Some(grant.claim),
        Err(AskError::Differs { .. }) => *address == grant.address,
        _ => false,
    }
}

/// Quotes and shortens text of another process for a log line.
fn quoted(why: &str) -> String {
    format!("{:?}", why.chars().take(QUOTED_CHARS_MAX).collect::<String>())
}
