//! How a node that starts finds its cluster, joins it, or bootstraps a new one.
//!
//! A node with state resumes; it never bootstraps. A new node asks every address it knows for the leader, a bounded
//! number of times, and joins the leader that answers. If no node is in a cluster, the nodes that look take turns,
//! highest id first. A node whose turn it is takes the lock of `config.json`, reads it again, and bootstraps only if no
//! other node has meanwhile. So the lock decides; the turns only make the highest id the likely one. With `peers`
//! (other hosts, no shared file) a node bootstraps only when all of them are looking, too, and none has a higher id: a
//! node that does not answer may have the data of an earlier cluster.
//!
//! Invariants: D1 a cluster is created under the exclusive lock alone, and not while `config.json` or a data folder
//! names another cluster that may still exist. D2 `config.json` is written before the node's own data, and the lock is
//! held until both are: a crash in between leaves a file without data, which the next new node renames with a warning.
//! D3 nothing is merged: data of one cluster beside a `config.json` of another is an error for a person. D4 no node
//! joins or bootstraps a cluster beside another one that uses this host's front port.
//! Not here: the sockets ([`World`] is the node's), what the leader does with a join (`node/`).

use super::config_file::{ConfigFileError, Lock, Projection, read};
use super::folders::{self, LOCAL_IDS, Traces};
use crate::address;
use crate::raft::Promise;
use crate::settings::Settings;
use crate::types::{Addresses, Identity, Liveness, NodeId, Term};
use crate::wire::Whereabouts;
use log::{debug, info, warn};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use uuid::Uuid;

/// How often a node checks whether `config.json` has changed while it waits for its next round.
const GLANCE: Duration = Duration::from_millis(20);
/// Duration of a round once a cluster is known and only its leader or the accepted join is missing.
const EAGER: Duration = Duration::from_millis(50);
/// Number of such short rounds; afterwards, and if a bootstrap is not allowed, a round takes at least [`PATIENT`].
const EAGER_ROUNDS: u32 = 40;
/// Maximum wait for the answers of a round; an address that has not answered by then counts as silent.
const ROUND_MAX: Duration = Duration::from_millis(600);
/// The same for a node that has state: it starts anyway, and the comparison with peers that answer later follows when
/// they connect.
const RESUME_PATIENCE: Duration = Duration::from_millis(200);
/// Number of further rounds, an election timeout apart, in which a leader must still lead before a node sets its log
/// aside for it: without a quorum, a leader steps down within two.
const LEADER_STAYS_LOOKS: u32 = 3;
/// Time between rounds of a long search.
const PATIENT: Duration = Duration::from_millis(1000);
/// Number of consecutive refused joins after which they are logged; a few are normal while other nodes join (one change
/// of the membership at a time).
const JOINS_WORTH_A_LINE: u32 = 10;
/// The cluster at the front port counts as another one if it has not answered at any known address in this many
/// consecutive rounds: this node's own cluster may answer slowly just after it was created.
const FRONT_ROUNDS: u32 = 5;
/// Maximum number of characters of another process's message in a log line.
const WORDS_MAX: usize = 300;
/// A `config.json` younger than this never counts as stale, because its node may not answer yet.
const STALE_AFTER: Duration = Duration::from_secs(2);

/// The node that looks for its cluster, with its recovered state.
#[derive(Clone, Debug)]
pub struct Seeker<'a> {
    /// Id and uuid of the node.
    pub me: Identity,
    /// Cluster that its data belongs to; `None` for a new node.
    pub cluster: Option<Uuid>,
    /// Votes and acknowledged entries that its disk has.
    pub kept: Promise,
    /// Whether it has a log of that cluster. With a cluster and without a log (`--rejoin`) it may only join that
    /// cluster.
    pub has_log: bool,
    /// The voters according to its log.
    pub voters: BTreeMap<NodeId, Uuid>,
    /// Last known peer addresses (`identity.json`).
    pub known: Vec<String>,
    /// If it must not bootstrap: the reason (too little disk space to lead).
    pub no_bootstrap: Option<String>,
    /// The node's settings.
    pub settings: &'a Settings,
}

/// Why a request to another node failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// No process listens there.
    #[error("connection refused")]
    Refused,
    /// There was no answer in time; a process may listen there.
    #[error("no answer in time")]
    Timeout,
    /// A node refused the request, for this reason (wrong secret, other version, id in use).
    #[error("{0}")]
    Rejected(String),
    /// The request was refused by a process that has not proved to know this node's secret; it may be any program.
    #[error("unproved: {0}")]
    Unproved(String),
    /// Any other failure: not a Phalanx node, a broken connection.
    #[error("{0}")]
    Failed(String),
}

/// Answer to a join request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JoinAnswer {
    /// The node is a learner (or was a member already).
    Joined {
        /// Id of the cluster.
        cluster: Uuid,
        /// Its members with their addresses.
        members: Vec<(NodeId, Addresses)>,
        /// Ids and uuids of the members.
        identities: Vec<Identity>,
    },
    /// The asked node does not lead (any more); it may know the leader.
    Elsewhere(Whereabouts),
}

/// The environment of discovery. The implementation bounds the duration of every call except `wait`.
pub trait World {
    /// Asks all of these addresses, preferably in parallel; returns the answers in the same order. An address that has
    /// not answered within `patience` counts as silent.
    fn ask_all(&self, addresses: &[String], patience: Duration) -> Vec<Result<Whereabouts, AskError>>;
    /// Asks the leader at this address to add this node to its cluster.
    ///
    /// # Errors
    /// Returns the same errors as `ask_all`.
    fn join(&self, address: &str, cluster: Uuid) -> Result<JoinAnswer, AskError>;
    /// Makes this node the only voter of the new cluster, on disk: the first log entry first, the identity that names
    /// the cluster last, so that a crash in between leaves a new node. Called while the lock is held.
    ///
    /// # Errors
    /// Returns a message; the node cannot start then.
    fn bootstrap(&self, cluster: Uuid) -> Result<(), String>;
    /// Returns the cluster that uses this host's front port, if a node listens there and its cluster is not `but`.
    fn front_owner(&self, but: Option<Uuid>) -> Option<FrontOwner>;
    /// Waits for this time; returns `false` if the node stops.
    fn wait(&self, time: Duration) -> bool;
}

/// The cluster that listens at this host's front port (`service_port`).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct FrontOwner {
    /// Id of the cluster.
    pub cluster: Uuid,
    /// Name of the cluster.
    pub name: String,
}

/// Result of discovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The node has state and continues with its log.
    Resume,
    /// The node has state, but its peers remember votes or entries that it lacks, and there is a leader: it must join
    /// again under a new identity.
    Outdated,
    /// The node is a member of this cluster now.
    Joined {
        /// Id of the cluster.
        cluster: Uuid,
        /// Its members with their addresses.
        members: Vec<(NodeId, Addresses)>,
        /// Ids and uuids of the members: messages of other nodes are dropped until the log names them.
        identities: Vec<Identity>,
    },
    /// The node has bootstrapped this cluster; [`World::bootstrap`] was called.
    Bootstrapped {
        /// Id of the cluster.
        cluster: Uuid,
    },
    /// The node stops.
    Stopping,
}

/// Why a node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    /// `config.json` and the node's data name different clusters (D3).
    #[error(
        "{file} names cluster {theirs}, but the data in {data} belongs to cluster {ours}; nothing was changed. If the \
         data is right, move {file} away and start again; if the file is right, move {data} away, and the node joins \
         as a new node",
        file = file.display(), data = data.display()
    )]
    OtherCluster {
        /// Path of `config.json`.
        file: PathBuf,
        /// Cluster in `config.json`.
        theirs: Uuid,
        /// The node's folder.
        data: PathBuf,
        /// Cluster of the node's data.
        ours: Uuid,
    },
    /// Another cluster uses this host's front port (D4).
    #[error(
        "the front door {address} belongs to another cluster on this host, {name:?} ({theirs}), and {why}: set service_port to \
         another port in settings.json"
    )]
    FrontTaken {
        /// Address of the front port, `host:port`.
        address: String,
        /// Name of the cluster that uses it.
        name: String,
        /// Id of that cluster.
        theirs: Uuid,
        /// Message that says why it is not this node's cluster.
        why: String,
    },
    /// The lock or the file cannot be used at all.
    #[error(transparent)]
    ConfigFile(#[from] ConfigFileError),
    /// The node could not write the initial data.
    #[error("cannot bootstrap a cluster: {0}")]
    Bootstrap(String),
}

/// Decides how this node starts. May search for any length of time; only the duration of each round is bounded.
///
/// # Errors
/// Returns only errors that the operator must resolve.
pub fn discover(seeker: &Seeker, world: &dyn World) -> Result<Decision, DiscoveryError> {
    if let Some(ours) = seeker.cluster {
        let file = seeker.settings.config_file_path.clone();
        // The leader repairs an invalid or unreadable file; it does not contradict our data.
        if let Ok(Some(Projection { cluster_info, .. })) = read(&file)
            && cluster_info.id != ours
        {
            let data = seeker.settings.node_dir(seeker.me.id);
            return Err(DiscoveryError::OtherCluster { file, theirs: cluster_info.id, data, ours });
        }
        if let Some(owner) = world.front_owner(Some(ours)) {
            return Err(DiscoveryError::front_taken(seeker.settings, owner, ours));
        }
    }
    let (heard_of, logged) = (BTreeSet::new(), BTreeMap::new());
    let mut search = Search { seeker, world, heard_of, logged, joins_refused: 0, front_rounds: 0 };
    match (seeker.cluster, seeker.has_log) {
        (Some(ours), true) => Ok(search.resume(ours)),
        _ => search.run(),
    }
}

/// One node's search.
struct Search<'a> {
    seeker: &'a Seeker<'a>,
    world: &'a dyn World,
    /// Addresses that other nodes have named.
    heard_of: BTreeSet<String>,
    /// Last line logged for each topic: a search logs changes, not each round.
    logged: BTreeMap<&'static str, String>,
    joins_refused: u32,
    /// Number of consecutive rounds in which the front port was used by a cluster that answered at no known address.
    front_rounds: u32,
}

/// The answers of one round.
#[derive(Debug, Default)]
struct Survey {
    /// Clusters that an asked node is in, each with the leader of the newest term that was named.
    clusters: BTreeMap<Uuid, Option<(Term, NodeId, Addresses)>>,
    /// Other nodes that search for a cluster.
    searching: BTreeSet<NodeId>,
    /// Addresses at which they answered.
    searching_at: BTreeSet<String>,
    /// Addresses at which this node itself answered.
    own: BTreeSet<String>,
    /// Addresses that did not answer in time.
    silent: BTreeSet<String>,
    /// Message about a node that refused the request, with its reason.
    rejected: Option<String>,
    /// Whether a node that may be in a cluster refused the request.
    is_declined: bool,
    asked: usize,
}

impl DiscoveryError {
    /// Returns the error for a node of cluster `ours` whose front port is used by another cluster.
    pub fn front_taken(settings: &Settings, owner: FrontOwner, ours: Uuid) -> DiscoveryError {
        front_taken(settings, owner, format!("this node is in cluster {ours}"))
    }
}

fn front_taken(settings: &Settings, owner: FrontOwner, why: String) -> DiscoveryError {
    let (address, name, theirs) = (settings.front_door(), owner.name, owner.cluster);
    DiscoveryError::FrontTaken { address, name, theirs, why }
}

impl Search<'_> {
    /// A node with state asks the nodes that it knows, once and for a short time, what they remember of it. If none
    /// answers it does not wait: they compare again when they connect.
    ///
    /// Its log is set aside only for a leader that stays and that remembers more itself: one that has just lost its
    /// quorum still reports that it leads, and could add no node. One report is not enough to discard a log: if there
    /// are other voters, one of them must confirm that leader.
    fn resume(&mut self, ours: Uuid) -> Decision {
        let mut lost: Option<Promise> = None;
        let (mut led, mut not_led) = ((None, 0), 0);
        loop {
            let named = read(&self.seeker.settings.config_file_path).ok().flatten();
            let addresses = self.known_addresses(named.as_ref());
            let answers = self.world.ask_all(&addresses, RESUME_PATIENCE);
            let answers: Vec<_> = answers.into_iter().flatten().filter(|there| there.cluster == Some(ours)).collect();
            for there in answers.iter().filter(|there| self.remembers_more(there)) {
                lost.get_or_insert_default().merge(&there.remembered);
            }
            // Kept for all rounds: the votes or entries remain lost even if the node that remembers them fails.
            let Some(known) = lost else { return Decision::Resume };
            let leader = self.leader_that_remembers_more(&answers);
            led = if leader.is_some() && leader == led.0 { (leader, led.1 + 1) } else { (leader, 0) };
            not_led = if leader.is_some() { 0 } else { not_led + 1 };
            let pause = match leader {
                Some(leader) if led.1 == LEADER_STAYS_LOOKS => {
                    let line = "this node renames its log and joins again under a new identity";
                    let what = self.outdated(&known);
                    self.say(log::Level::Warn, "outdated", format!("{what}. Node {leader} leads: {line}"));
                    return Decision::Outdated;
                }
                Some(_) => Duration::from_millis(self.seeker.settings.election_timeout_ms),
                // A node may be about to become leader, or a reported leader about to step down.
                None if not_led <= LEADER_STAYS_LOOKS => {
                    Duration::from_millis(self.seeker.settings.election_timeout_ms)
                }
                None => {
                    let line = "no confirmed leader has a newer log, perhaps because a majority of the nodes was \
                        restored from older copies. Restore the newer folders; or, to keep the older state, stop all \
                        nodes, start those with older folders first, then the others with --rejoin";
                    let what = self.outdated(&known);
                    self.say(log::Level::Error, "outdated", format!("{what}; {line}"));
                    PATIENT
                }
            };
            if !self.world.wait(pause) {
                return Decision::Stopping;
            }
        }
    }

    /// Whether that node remembers a vote or an acknowledged entry that this node's disk has lost.
    fn remembers_more(&self, there: &Whereabouts) -> bool {
        there.remembered.is_possible_after(&self.seeker.kept) && self.seeker.kept.falls_short_of(&there.remembered)
    }

    /// Returns the leader if it answers itself and remembers more than this node's disk has, and if another voter
    /// reports the same or follows it in the same term. In a cluster of fewer than three voters, its own report is
    /// enough.
    fn leader_that_remembers_more(&self, answers: &[Whereabouts]) -> Option<NodeId> {
        let leads = |there: &Whereabouts| there.leader.as_ref().map(|(id, _)| *id);
        let is_of_another = |there: &Whereabouts, leader: Identity| {
            let who = there.who.filter(|who| ![leader.id, self.seeker.me.id].contains(&who.id));
            // Who has proved the secret may have come after this folder's time.
            let has_secret = self.seeker.settings.cluster_secret.is_some();
            who.is_some_and(|who| has_secret || self.seeker.voters.get(&who.id) == Some(&who.uuid))
        };
        let is_backed = |word: &Whereabouts, leader: Identity| {
            self.seeker.voters.len() < 3
                || answers.iter().filter(|there| is_of_another(there, leader)).any(|there| {
                    self.remembers_more(there) || (leads(there) == Some(leader.id) && there.term == word.term)
                })
        };
        let words =
            answers.iter().filter(|there| self.remembers_more(there)).filter_map(|there| Some((there, there.who?)));
        let leaders = words.filter(|(there, who)| leads(there) == Some(who.id) && who.id != self.seeker.me.id);
        leaders.filter(|(there, who)| is_backed(there, *who)).max_by_key(|(there, _)| there.term).map(|(_, who)| who.id)
    }

    /// Returns a message about what this node's folder lacks.
    fn outdated(&self, known: &Promise) -> String {
        let (me, kept) = (self.seeker.me.id.0, &self.seeker.kept);
        format!(
            "the data folder of node {me} is outdated: its log ends in term {} at entry {}, \
             but its peers have seen it in term {} at entry {}",
            kept.term, kept.index, known.term, known.index
        )
    }

    fn run(mut self) -> Result<Decision, DiscoveryError> {
        let settings = self.seeker.settings;
        let interval = Duration::from_millis(settings.discovery_interval_ms);
        let mut eager_left = None;
        for round in 1u32.. {
            let stamp = stamp_of(&settings.config_file_path);
            let named = read(&settings.config_file_path).ok().flatten();
            // Checked before the other nodes are asked: a cluster that uses the front port now then also answers them.
            let front = if self.seeker.cluster.is_none() { self.world.front_owner(None) } else { None };
            let survey = self.survey(named.as_ref());
            let is_front_taken = front.is_some();
            let may_join = match front {
                Some(owner) => self.judge_front(owner, &survey, named.as_ref())?,
                None => true,
            };
            if may_join && let Some(decision) = self.try_join(&survey, named.as_ref()) {
                return Ok(decision);
            }
            if !is_front_taken
                && round >= settings.connection_attempts
                && self.is_my_turn(&survey, named.as_ref(), round - settings.connection_attempts)
                && self.may_bootstrap()
                && let Some(decision) = self.try_bootstrap(&survey)?
            {
                return Ok(decision);
            }
            // Another node has just bootstrapped, according to an answer or the file: it will accept this node soon.
            if !survey.clusters.is_empty() && eager_left.is_none() {
                eager_left = Some(EAGER_ROUNDS);
            }
            let pause = match &mut eager_left {
                Some(left) if *left > 0 => {
                    *left -= 1;
                    EAGER.min(interval)
                }
                _ if round > settings.connection_attempts + EAGER_ROUNDS => PATIENT.max(interval),
                _ => interval,
            };
            match self.wait_for_news(pause, stamp) {
                News::Stopping => return Ok(Decision::Stopping),
                News::Changed => eager_left = Some(EAGER_ROUNDS),
                News::None => {}
            }
        }
        unreachable!("rounds are counted up to more than a lifetime")
    }

    /// A node that could not lead must not bootstrap, or the cluster would have no leader. Logs the reason.
    fn may_bootstrap(&mut self) -> bool {
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

    fn addresses(&self, named: Option<&Projection>) -> Vec<String> {
        let settings = self.seeker.settings;
        let local = (1..=LOCAL_IDS).map(NodeId).chain(folders::ids_below(&settings.data_dir));
        let own = settings.addresses(self.seeker.me.id).peer;
        let all = self.known_addresses(named).into_iter().chain(local.map(|id| settings.local_addresses(id).peer));
        let mut seen = BTreeSet::from([own, settings.local_addresses(self.seeker.me.id).peer]);
        all.filter(|address| seen.insert(address.clone())).collect()
    }

    /// Addresses that the file, the settings or another node has named, without guesses.
    fn known_addresses(&self, named: Option<&Projection>) -> Vec<String> {
        let settings = self.seeker.settings;
        let mut seen = BTreeSet::from([settings.addresses(self.seeker.me.id).peer]);
        let named = named.map(Projection::peer_addresses).unwrap_or_default();
        let all = named.into_iter().chain(self.seeker.known.iter().cloned()).chain(settings.peers.iter().cloned());
        all.chain(self.heard_of.iter().cloned()).filter(|address| seen.insert(address.clone())).collect()
    }

    fn survey(&mut self, named: Option<&Projection>) -> Survey {
        let addresses = self.addresses(named);
        let mut survey = Survey { asked: addresses.len(), ..Survey::default() };
        let known = self.known_addresses(named);
        for (address, answer) in addresses.iter().zip(self.world.ask_all(&addresses, ROUND_MAX)) {
            match answer {
                Ok(Whereabouts { cluster: None, id, .. }) if id == Some(self.seeker.me.id) => {
                    survey.own.insert(address.clone());
                }
                Ok(Whereabouts { cluster: None, id, .. }) => {
                    survey.searching.extend(id);
                    survey.searching_at.insert(address.clone());
                }
                Ok(Whereabouts { cluster: Some(cluster), term, leader, members, .. }) => {
                    let best = survey.clusters.entry(cluster).or_default();
                    if let Some((id, addresses)) = leader
                        && best.as_ref().is_none_or(|(newest, ..)| term > *newest)
                    {
                        *best = Some((term, id, addresses));
                    }
                    let told = members.into_iter().map(|(_, addresses)| addresses.peer);
                    self.heard_of.extend(told.filter(|peer| !peer.is_empty()));
                }
                Err(AskError::Timeout) => {
                    survey.silent.insert(address.clone());
                }
                Err(AskError::Rejected(why)) => {
                    // If `peers` names all initial nodes, another process that listens on this host is none of them.
                    survey.is_declined |= self.seeker.settings.peers.is_empty() || known.contains(address);
                    let is_proved = self.seeker.settings.cluster_secret.is_some();
                    let doubt = "; without a cluster_secret nothing proves that it is a node: find out what listens there \
                                 before you follow any advice";
                    let doubt = if is_proved { "" } else { doubt };
                    survey.rejected =
                        Some(format!("the node at {address} does not talk to this one: {}{doubt}", quoted(&why)));
                }
                // Treated like no answer, otherwise any process could prevent a bootstrap.
                Err(AskError::Unproved(why)) => {
                    let doubt = "it has not proved to know the cluster_secret, so it may be another program; if it is a node, \
                                 give both the same secret and version";
                    survey.rejected =
                        Some(format!("what listens at {address} declines, unproved: {}; {doubt}", quoted(&why)));
                    survey.silent.insert(address.clone());
                }
                Err(AskError::Refused) => {}
                Err(AskError::Failed(why)) => debug!("asked {address} err=\"{why}\""),
            }
        }
        if let Some(line) = &survey.rejected {
            self.say(log::Level::Warn, "rejected", line.clone());
        } else if survey.clusters.is_empty() {
            let (asked, searching) = (survey.asked, survey.searching.len());
            let line = match searching {
                0 => format!("no node found at {asked} addresses yet; this is normal for the first node"),
                _ => format!(
                    "{searching} of {asked} addresses answered, by nodes that are also looking for a cluster; this is \
                        normal at a first start"
                ),
            };
            self.say(log::Level::Info, "search", line);
        }
        survey
    }

    /// Whether a new node may continue although a cluster uses the front port: only if it is about to join that
    /// cluster. A cluster that answers at no known address is another one.
    fn judge_front(
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
        let may_be_declining = survey.rejected.is_some() && survey.clusters.is_empty();
        if self.front_rounds < FRONT_ROUNDS || may_be_declining {
            return Ok(false);
        }
        let why = "none of its nodes answers at the addresses that this node knows (to join that cluster, add one of \
            them to peers)";
        Err(front_taken(settings, owner, why.to_string()))
    }

    /// Joins the leader of the right cluster, if one is known; logs why it cannot.
    fn try_join(&mut self, survey: &Survey, named: Option<&Projection>) -> Option<Decision> {
        let wanted = self.seeker.cluster.or(named.map(|named| named.cluster_info.id));
        let cluster = match wanted {
            Some(wanted) if survey.clusters.contains_key(&wanted) => wanted,
            Some(wanted) => {
                if let Some(other) = survey.clusters.keys().next() {
                    self.say(
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
                self.say(
                    log::Level::Warn,
                    "clusters",
                    format!("clusters {all} answer: set peers or config_file_path to select one"),
                );
                return None;
            }
            None => *survey.clusters.keys().next()?,
        };
        let Some((_, id, addresses)) = &survey.clusters[&cluster] else {
            self.say(log::Level::Info, "leader", format!("cluster {cluster} has no leader yet; waiting for one"));
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
                if self.joins_refused >= JOINS_WORTH_A_LINE {
                    self.say(
                        log::Level::Warn,
                        "join",
                        format!("the leader, node {}, does not accept this node yet: {why}", id.0),
                    );
                }
            }
        }
        None
    }

    /// Whether this node may try to bootstrap now. `turns`: rounds that have passed since the bounded attempts.
    fn is_my_turn(&mut self, survey: &Survey, named: Option<&Projection>, turns: u32) -> bool {
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
    fn try_bootstrap(&mut self, survey: &Survey) -> Result<Option<Decision>, DiscoveryError> {
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

    /// Waits for the next round, or until `config.json` changes.
    fn wait_for_news(&self, pause: Duration, stamp: FileStamp) -> News {
        let mut left = pause;
        while !left.is_zero() {
            let slice = GLANCE.min(left);
            if !self.world.wait(slice) {
                return News::Stopping;
            }
            left -= slice;
            if stamp_of(&self.seeker.settings.config_file_path) != stamp {
                return News::Changed;
            }
        }
        News::None
    }

    /// Logs a line unless it equals the last one about its topic.
    fn say(&mut self, level: log::Level, topic: &'static str, line: String) {
        if self.logged.get(topic) != Some(&line) {
            log::log!(level, "{line}");
            self.logged.insert(topic, line);
        }
    }
}

/// Quotes and shortens text of another process for a log line.
fn quoted(why: &str) -> String {
    format!("{:?}", why.chars().take(WORDS_MAX).collect::<String>())
}

#[derive(Debug, PartialEq, Eq)]
enum News {
    None,
    Changed,
    Stopping,
}

/// Modification time and size of a file, to detect a change; `None` if it does not exist.
type FileStamp = Option<(SystemTime, u64)>;

fn stamp_of(path: &Path) -> FileStamp {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.modified().ok()?, meta.len()))
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

#[cfg(test)]
#[path = "tests/discovery.rs"]
mod tests;
