//! A new node where no cluster was found: whether it is its turn to create one, and that no other one may still exist.
//!
//! Over several hosts a majority of `peers` must agree. Two majorities of one list have a node in common, and a node
//! agrees with one of them at most, as to agree is to have the same secret, version and cluster name.

use super::earlier_clusters::{self, Traces};
use super::error::DiscoveryError;
use super::search::{Search, Survey};
use super::world::Decision;
use crate::address;
use crate::cluster::config::file::{ConfigFileError, Lock, Projection};
use crate::planted_bugs::is_planted;
use crate::raft::quorum;
use crate::types::{Liveness, Term};
use crate::wire::DiscoveryAnswer;
use log::{debug, info, warn};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use uuid::Uuid;

/// A `config.json` younger than this never counts as stale, because its node may not answer yet.
const STALE_AFTER: Duration = Duration::from_secs(2);

/// What the nodes in `peers` answered, without this one.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    /// Addresses of those that look for the same cluster.
    agreeing: Vec<String>,
    /// Those that cannot be in one cluster with this node, and have no data.
    differing: Vec<String>,
    /// The same of those that have data.
    holding: Vec<String>,
    missing: Vec<String>,
}

impl Hosts {
    /// This node and all others.
    fn count(&self) -> usize {
        1 + self.agreeing.len() + self.differing.len() + self.unsettled().len()
    }

    /// Those that may have the data of an earlier cluster.
    pub(super) fn unsettled(&self) -> Vec<&String> {
        self.missing.iter().chain(&self.holding).collect()
    }
}

impl Search<'_> {
    pub(super) fn hosts(&self, survey: &Survey) -> Hosts {
        let own = self.seeker.settings.addresses(self.seeker.me.id).peer;
        let listed: BTreeSet<&String> = self.seeker.settings.peers.iter().collect();
        let mut hosts = Hosts::default();
        for peer in listed.into_iter().filter(|peer| **peer != own && !survey.own.contains(*peer)) {
            let kind = match survey.differing.get(peer) {
                Some((_, Some(_))) => &mut hosts.holding,
                Some((_, None)) => &mut hosts.differing,
                None if survey.searching_at.contains(peer) => &mut hosts.agreeing,
                None => &mut hosts.missing,
            };
            kind.push(peer.clone());
        }
        hosts
    }

    /// A node that could not lead must not bootstrap, or the cluster would have no leader. Logs the reason.
    pub(super) fn may_bootstrap(&mut self) -> bool {
        if let Some(why) = self.seeker.no_bootstrap.clone() {
            self.log_change(
                log::Level::Warn,
                "bootstrap",
                format!("no cluster found, and this node cannot bootstrap one: {why}"),
            );
            return false;
        }
        true
    }

    /// Whether this node may try to bootstrap now. `turns`: rounds that have passed since the bounded attempts.
    pub(super) fn is_my_turn(&mut self, survey: &Survey, named: Option<&Projection>, turns: u32) -> bool {
        if let Some(cluster) = self.seeker.cluster {
            if survey.clusters.is_empty() {
                let line =
                    format!("no node of cluster {cluster} answers yet; this node, which belongs to it, keeps looking");
                self.log_change(log::Level::Info, "own cluster", line);
            }
            return false;
        }
        // A node that declines the connection is assumed to be in a cluster; but a node with a secret assumes that only
        // of a node that has proved the secret. A node in a cluster prevents the bootstrap unless `config.json` names
        // another cluster: then the file may be wrong.
        let is_elsewhere = named.is_some_and(|named| !survey.clusters.contains_key(&named.cluster_info.id));
        if survey.is_declined || (!survey.clusters.is_empty() && !is_elsewhere) {
            return false;
        }
        let ahead = survey.searching.iter().filter(|id| **id > self.seeker.me.id).count() as u32;
        if self.hosts(survey).count() == 1 {
            // Any process on this host may claim to differ: with a secret, the claim is ignored.
            let differing = survey.differing.values().filter(|(_, cluster)| cluster.is_none()).count();
            let is_outnumbered = self.seeker.settings.cluster_secret.is_none() && differing > survey.searching.len();
            if is_outnumbered {
                self.log_too_few(survey.searching.len() + 1, survey.searching.len() + 1 + differing);
            }
            return turns >= ahead && !is_outnumbered;
        }
        self.may_claim(survey) && ahead == 0
    }

    /// Whether the answers of the other hosts allow a bootstrap (D5). Logs why not.
    fn may_claim(&mut self, survey: &Survey) -> bool {
        let hosts = self.hosts(survey);
        let advice = "a new cluster is created only when all `peers` answer, because one that does not may hold the \
            data of an earlier cluster: start it, or remove it from peers";
        if !hosts.missing.is_empty() {
            self.log_change(
                log::Level::Warn,
                "peers",
                format!("no answer from {} yet; {advice}", hosts.missing.join(", ")),
            );
            return false;
        }
        if !hosts.holding.is_empty() {
            let line = "has data of a cluster, and a new one is not created beside it: correct the difference, or \
                remove the data there if it is of no use";
            self.log_change(log::Level::Warn, "peers", format!("{} {line}", hosts.holding.join(", ")));
            return false;
        }
        let (agree, count) = (1 + hosts.agreeing.len(), hosts.count());
        if agree < quorum(count) && !is_planted!(self.seeker, minority_bootstraps) {
            self.log_too_few(agree, count);
            return false;
        }
        // Another one is about to bootstrap: its claim ends, or its cluster answers.
        survey.claims.is_empty()
    }

    fn log_too_few(&mut self, agree: usize, count: usize) {
        let needed = quorum(count);
        let line = format!(
            "no new cluster is created: {agree} of {count} nodes agree on cluster_secret, cluster_name and version, \
             {needed} needed; see the nodes named above"
        );
        self.log_change(log::Level::Warn, "peers", line);
    }

    /// Over several hosts, bootstraps with the grants of all nodes that agree (D5).
    pub(super) fn try_bootstrap_as_granted(&mut self, survey: &Survey) -> Result<Option<Decision>, DiscoveryError> {
        let agreeing = self.hosts(survey).agreeing;
        if agreeing.is_empty() || is_planted!(self.seeker, claims_nothing) {
            return self.try_bootstrap(survey);
        }
        let Some(claim) = self.world.claims().begin() else { return Ok(None) };
        let answers = self.world.claim_all(&agreeing, claim, self.patience);
        let is_granted = |answer: &Result<_, _>| matches!(answer, Ok(DiscoveryAnswer { cluster: None, claim: Some(it), .. }) if *it == claim);
        let granted = answers.iter().filter(|answer| is_granted(answer)).count();
        let decision = match granted == agreeing.len() {
            true => self.try_bootstrap(survey),
            false => {
                debug!("claimed the bootstrap granted={granted} asked={}", agreeing.len());
                Ok(None)
            }
        };
        // After a bootstrap it stands until this node answers as a member.
        if !matches!(decision, Ok(Some(_))) {
            self.world.claims().give_up();
        }
        decision
    }

    /// Bootstraps a cluster under the lock, unless one exists or may exist.
    pub(super) fn try_bootstrap(&mut self, survey: &Survey) -> Result<Option<Decision>, DiscoveryError> {
        let settings = self.seeker.settings;
        let wait = |time| self.world.wait(time);
        let lock = match Lock::take(&settings.config_file_path, &wait) {
            Ok(lock) => lock,
            // The holder is probably bootstrapping.
            Err(ConfigFileError::Busy { path }) => {
                self.log_change(
                    log::Level::Info,
                    "lock",
                    format!("{} is locked by another process; trying again", path.display()),
                );
                return Ok(None);
            }
            Err(e) => return Err(e.into()),
        };
        let Traces { clusters: others, unclear } =
            earlier_clusters::traces_below(&settings.data_dir, self.seeker.me.id);
        if let Some(why) = unclear {
            let line = "no new cluster is created while this may be the data of an existing one";
            self.log_change(log::Level::Warn, "data", format!("{why}; {line}"));
            return Ok(None);
        }
        if let Some(named) = lock.read()? {
            if let Err(why) = self.is_stale(&named, survey, &others) {
                if let Some(why) = why {
                    self.log_change(log::Level::Info, "file", why);
                }
                return Ok(None);
            }
            let aside = lock.set_aside("stale")?;
            let (file, id) = (settings.config_file_path.display(), named.cluster_info.id);
            warn!(
                "{file} named cluster {id}, of which no node answers and no data is left; the file was renamed to {}",
                aside.display()
            );
        }
        if !survey.clusters.is_empty() {
            return Ok(None);
        }
        if let Some((cluster, folder)) = others.iter().next() {
            let folder = folder.display();
            let what = "start its nodes; or run `phalanx recover` if a majority of its disks is lost; \
                        or move its data away to create a new cluster";
            self.log_change(
                log::Level::Warn,
                "data",
                format!("{folder} holds data of cluster {cluster}, of which no node answers: {what}"),
            );
            return Ok(None);
        }
        let cluster = Uuid::new_v4();
        let addresses = settings.addresses(self.seeker.me.id);
        let row = (self.seeker.me.id, &addresses, Liveness::Leader, 0);
        lock.write(&Projection::new(cluster, Term(1), 1, Some(self.seeker.me.id), [row]))?;
        self.world.bootstrap(cluster).map_err(DiscoveryError::Bootstrap)?;
        info!("no leader found: created cluster {cluster}");
        Ok(Some(Decision::Bootstrapped { cluster }))
    }

    /// Returns `Ok` if nothing is left of the cluster that `config.json` names, otherwise the reason why it may still
    /// exist; `Err(None)` if a node of it answers or the file is new, which needs no message.
    fn is_stale(
        &self,
        named: &Projection,
        survey: &Survey,
        others: &BTreeMap<Uuid, PathBuf>,
    ) -> Result<(), Option<String>> {
        let settings = self.seeker.settings;
        let cluster = named.cluster_info.id;
        // Another node bootstrapped while this one waited, or already leads.
        if survey.clusters.contains_key(&cluster) || is_young(&settings.config_file_path) {
            return Err(None);
        }
        let what = format!("{} names cluster {cluster}, of which no node answers", settings.config_file_path.display());
        if let Some(folder) = others.get(&cluster) {
            let (folder, advice) = (
                folder.display(),
                "start its nodes; or run `phalanx recover` if a majority of its disks is lost; \
                                   or move the file and the data away to create a new cluster",
            );
            return Err(Some(format!("{what}; {folder} holds its data: {advice}")));
        }
        let is_silent = |address: &String| survey.silent.contains(address);
        if let Some(address) = named.peer_addresses().into_iter().find(is_silent) {
            return Err(Some(format!(
                "{what}; a process accepts connections at {address} without answering, and may be one of its nodes"
            )));
        }
        if let Some(node) =
            named.nodes.values().find(|node| !address::is_same_host(&node.ip, settings.advertised_host()))
        {
            let advice = "start them, or move the file away to create a new cluster";
            return Err(Some(format!("{what}; it has nodes on other hosts ({}): {advice}", node.ip)));
        }
        Ok(())
    }
}

/// Whether the file was written so recently that its writer may not answer yet.
fn is_young(path: &Path) -> bool {
    let Ok(at) = std::fs::metadata(path).and_then(|meta| meta.modified()) else { return true };
    match SystemTime::now().duration_since(at) {
        Ok(age) => age < STALE_AFTER,
        // Written in the future: the clock was set back, so its age is unknown.
        Err(ahead) => ahead.duration() < STALE_AFTER,
    }
}
