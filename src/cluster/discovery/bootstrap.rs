//! A new node where no cluster was found: whether it is its turn to create one, and that no other one may still exist.

use super::error::DiscoveryError;
use super::search::{Search, Survey};
use super::world::Decision;
use crate::address;
use crate::cluster::config_file::{ConfigFileError, Lock, Projection};
use crate::cluster::folders::{self, Traces};
use crate::types::{Liveness, Term};
use log::{info, warn};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use uuid::Uuid;

/// A `config.json` younger than this never counts as stale, because its node may not answer yet.
const STALE_AFTER: Duration = Duration::from_secs(2);

impl Search<'_> {
    /// A node that could not lead must not bootstrap, or the cluster would have no leader. Logs the reason.
    pub(super) fn may_bootstrap(&mut self) -> bool {
        if let Some(why) = self.seeker.no_bootstrap.clone() {
            self.say(
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
                self.say(log::Level::Info, "own cluster", line);
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
        let own = self.seeker.settings.addresses(self.seeker.me.id).peer;
        let hosts: BTreeSet<&String> =
            self.seeker.settings.peers.iter().filter(|peer| **peer != own && !survey.own.contains(*peer)).collect();
        if !hosts.is_empty() {
            let missing: Vec<&str> =
                hosts.iter().filter(|peer| !survey.searching_at.contains(**peer)).map(|peer| peer.as_str()).collect();
            if !missing.is_empty() {
                let line = "a new cluster is created only when all `peers` answer, because one that does not may hold \
                    the data of an earlier cluster: start it, or remove it from peers";
                self.say(log::Level::Warn, "peers", format!("no answer from {} yet; {line}", missing.join(", ")));
            }
            return missing.is_empty() && ahead == 0;
        }
        turns >= ahead
    }

    /// Bootstraps a cluster under the lock, unless one exists or may exist.
    pub(super) fn try_bootstrap(&mut self, survey: &Survey) -> Result<Option<Decision>, DiscoveryError> {
        let settings = self.seeker.settings;
        let wait = |time| self.world.wait(time);
        let lock = match Lock::take(&settings.config_file_path, &wait) {
            Ok(lock) => lock,
            // The holder is probably bootstrapping.
            Err(ConfigFileError::Busy { path }) => {
                self.say(
                    log::Level::Info,
                    "lock",
                    format!("{} is locked by another process; trying again", path.display()),
                );
                return Ok(None);
            }
            Err(e) => return Err(e.into()),
        };
        let Traces { clusters: others, unclear } = folders::traces_below(&settings.data_dir, self.seeker.me.id);
        if let Some(why) = unclear {
            let line = "no new cluster is created while this may be the data of an existing one";
            self.say(log::Level::Warn, "data", format!("{why}; {line}"));
            return Ok(None);
        }
        if let Some(named) = lock.read()? {
            if let Err(why) = self.is_stale(&named, survey, &others) {
                if let Some(why) = why {
                    self.say(log::Level::Info, "file", why);
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
            self.say(
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
