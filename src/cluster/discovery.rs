//! How a node that starts finds its cluster, joins it, or founds one.
//!
//! A node with state resumes; it never founds. A newcomer asks every address it knows for the leader, a bounded number of
//! times, and joins the leader that answers. If nobody is in a cluster, those who look line up, highest id first; whoever's
//! turn it is takes the lock of `config.json`, reads it again, and founds only if nobody has meanwhile. So the lock decides;
//! the line-up only makes the highest id the likely founder. With `peers` (other hosts, no shared file) a node founds only
//! when all of them look as well and none has a higher id: one that is not heard may hold the data of an earlier cluster.
//!
//! Invariants: D1 a cluster is founded under the exclusive lock alone, and not while `config.json` or a data folder
//! speaks of another that may live. D2 `config.json` is written before the founder's own data, and the lock is held until
//! both are: a crash in between leaves a file that no data stands behind, which the next newcomer sets aside with a warning.
//! D3 nothing is merged: data of one cluster beside a `config.json` of another is an error for a person. D4 nobody joins or
//! founds a cluster beside another one that has this host's front door.
//! Not here: the sockets ([`World`] is the node's), what the leader does with a join (`node/`).

use super::config_file::{ConfigFileError, Lock, Projection, read};
use super::folders::{self, LOCAL_IDS, Traces};
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

/// While it waits for its next round, a node looks this often whether `config.json` has changed.
const GLANCE: Duration = Duration::from_millis(20);
/// Once a cluster is known and only its leader or its consent is missing, rounds are this short ...
const EAGER: Duration = Duration::from_millis(50);
/// ... for so many rounds; after them, and when founding is not allowed, a round takes at least [`PATIENT`].
const EAGER_ROUNDS: u32 = 40;
/// Longest wait for all answers of a round: what has not come by then counts as silent.
const ROUND_MAX: Duration = Duration::from_millis(600);
/// The same for a node that has state: it starts anyway, and peers that answer late compare when they connect.
const RESUME_PATIENCE: Duration = Duration::from_millis(200);
/// Further looks, an election timeout apart, at which a leader must still lead before a node gives its log up for it: without a
/// quorum it steps down within two.
const LEADER_STAYS_LOOKS: u32 = 3;
/// Between rounds of a search that has become long.
const PATIENT: Duration = Duration::from_millis(1000);
/// A refused join is normal while others join (one change at a time); so many in a row are worth a line.
const JOINS_WORTH_A_LINE: u32 = 10;
/// The front door is another cluster's if that cluster has not answered at any address in so many rounds on end: one of ours
/// may be slow to answer just after it was founded.
const FRONT_ROUNDS: u32 = 5;
/// Characters of somebody else's words in a line of the log.
const WORDS_MAX: usize = 300;
/// A `config.json` younger than this is never called stale: its founder may be just about to answer.
const STALE_AFTER: Duration = Duration::from_secs(2);

/// Who looks, and with what in hand.
#[derive(Clone, Debug)]
pub struct Seeker<'a> {
    /// The node.
    pub me: Identity,
    /// Cluster that its data belongs to; `None` for a newcomer.
    pub cluster: Option<Uuid>,
    /// What its disk holds of the promises that it made.
    pub kept: Promise,
    /// Whether it has a log of that cluster. With a cluster and without a log (`--rejoin`) it may only join that one.
    pub has_log: bool,
    /// Who votes, as its log says.
    pub voters: BTreeMap<NodeId, Uuid>,
    /// Peer addresses that it knew last (`identity.json`).
    pub known: Vec<String>,
    /// Why it must leave the founding to others (too little room on its disk to lead), if so.
    pub no_founder: Option<String>,
    /// What the user chose.
    pub settings: &'a Settings,
}

/// How a question failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// No process listens there.
    #[error("connection refused")]
    Refused,
    /// Something may be there, but it did not answer in time.
    #[error("no answer in time")]
    Timeout,
    /// A node is there and declines, in its words (wrong secret, other version, id in use).
    #[error("{0}")]
    Rejected(String),
    /// Something declines that has not proved to know this node's secret: it may be anything that listens there.
    #[error("unproved: {0}")]
    Unproved(String),
    /// Anything else: not a node of ours, a broken connection.
    #[error("{0}")]
    Failed(String),
}

/// Answer to a join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JoinAnswer {
    /// The node is a learner (or was a member already).
    Joined {
        /// Cluster.
        cluster: Uuid,
        /// Its members and where they are.
        members: Vec<(NodeId, Addresses)>,
        /// Who they are.
        identities: Vec<Identity>,
    },
    /// The asked one does not lead (any more); perhaps it knows who does.
    Elsewhere(Whereabouts),
}

/// What discovery needs of the outside. Every call but `wait` is bounded in time by the implementer.
pub trait World {
    /// Asks all of these addresses, preferably at the same time; answers in the same order. What has not come by `patience`
    /// counts as silent.
    fn ask_all(&self, addresses: &[String], patience: Duration) -> Vec<Result<Whereabouts, AskError>>;
    /// Asks the leader at this address to be taken into its cluster.
    ///
    /// # Errors
    /// As for a question.
    fn join(&self, address: &str, cluster: Uuid) -> Result<JoinAnswer, AskError>;
    /// Makes this node the only voter of the new cluster, on disk: the founding log first, the identity that names the
    /// cluster last, so that a crash in between leaves a newcomer. Called while the lock is held.
    ///
    /// # Errors
    /// In words; the node cannot start then.
    fn found(&self, cluster: Uuid) -> Result<(), String>;
    /// The cluster that has this host's front door, if some node listens there and it is not `but`.
    fn front_owner(&self, but: Option<Uuid>) -> Option<FrontOwner>;
    /// Lets this much time pass; `false`: the node stops.
    fn wait(&self, time: Duration) -> bool;
}

/// The cluster that listens at this host's front door (`service_port`).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct FrontOwner {
    /// Its id.
    pub cluster: Uuid,
    /// Its name.
    pub name: String,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The node has state: restart its log; elections follow from that.
    Resume,
    /// The node has state, but of an older time than its peers remember, and a leader is there: it must join again as
    /// somebody else.
    Outdated,
    /// It is a member of this cluster now.
    Joined {
        /// Cluster.
        cluster: Uuid,
        /// Its members and where they are.
        members: Vec<(NodeId, Addresses)>,
        /// Who they are: nobody else is heard until the log names them.
        identities: Vec<Identity>,
    },
    /// It founded this cluster; [`World::found`] has been called.
    Founded {
        /// Cluster.
        cluster: Uuid,
    },
    /// The node was told to stop while it looked.
    Stopping,
}

/// Why a node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    /// D3.
    #[error(
        "{file} names cluster {theirs}, but the data in {data} belongs to cluster {ours}; nothing was changed. \
         If the data is right, move {file} away and start again; if the file is right, move {data} away, \
         and the node joins as a newcomer",
        file = file.display(), data = data.display()
    )]
    OtherCluster {
        /// `config.json`.
        file: PathBuf,
        /// Its cluster.
        theirs: Uuid,
        /// The node's folder.
        data: PathBuf,
        /// Its cluster.
        ours: Uuid,
    },
    /// D4.
    #[error(
        "the front door {address} belongs to another cluster on this host, {name:?} ({theirs}), and {why}: set service_port to \
         another port in settings.json"
    )]
    FrontTaken {
        /// `host:port`.
        address: String,
        /// Name of the cluster that has it.
        name: String,
        /// Its id.
        theirs: Uuid,
        /// In words: why that is not this node's cluster.
        why: String,
    },
    /// The lock or the file cannot be used at all.
    #[error(transparent)]
    ConfigFile(#[from] ConfigFileError),
    /// The founder could not write its own data.
    #[error("cannot found a cluster: {0}")]
    Founding(String),
}

/// Decides how this node starts. Returns when it has, however long that takes; every round is bounded.
///
/// # Errors
/// Only what a person must resolve.
pub fn discover(seeker: &Seeker, world: &dyn World) -> Result<Decision, DiscoveryError> {
    if let Some(ours) = seeker.cluster {
        let file = seeker.settings.config_file_path.clone();
        // A mangled or unreadable file is the leader's to mend; it says nothing against our data.
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
    let (heard_of, said) = (BTreeSet::new(), BTreeMap::new());
    let mut search = Search { seeker, world, heard_of, said, joins_refused: 0, front_rounds: 0 };
    match (seeker.cluster, seeker.has_log) {
        (Some(ours), true) => Ok(search.resume(ours)),
        _ => search.run(),
    }
}

/// One node's search.
struct Search<'a> {
    seeker: &'a Seeker<'a>,
    world: &'a dyn World,
    /// Addresses that others told.
    heard_of: BTreeSet<String>,
    /// What was said last about each topic: a search speaks when something changes, not each round.
    said: BTreeMap<&'static str, String>,
    joins_refused: u32,
    /// Rounds on end in which a cluster that is heard of nowhere else had the front door.
    front_rounds: u32,
}

/// What one round of questions brought.
#[derive(Debug, Default)]
struct Survey {
    /// Clusters that somebody is in, each with the leader of the newest term that was named.
    clusters: BTreeMap<Uuid, Option<(Term, NodeId, Addresses)>>,
    /// Others who look for a cluster.
    lookers: BTreeSet<NodeId>,
    /// Addresses at which they answered.
    lookers_at: BTreeSet<String>,
    /// Addresses at which this very node answered.
    own: BTreeSet<String>,
    /// Addresses where something is that did not answer in time.
    silent: BTreeSet<String>,
    /// In words: who declined, and why.
    rejected: Option<String>,
    /// A node declined that may be in a cluster.
    is_declined: bool,
    asked: usize,
}

impl DiscoveryError {
    /// A node of cluster `ours` cannot start on this host.
    pub fn front_taken(settings: &Settings, owner: FrontOwner, ours: Uuid) -> DiscoveryError {
        front_taken(settings, owner, format!("this node is in cluster {ours}"))
    }
}

fn front_taken(settings: &Settings, owner: FrontOwner, why: String) -> DiscoveryError {
    let (address, name, theirs) = (settings.front_door(), owner.name, owner.cluster);
    DiscoveryError::FrontTaken { address, name, theirs, why }
}

impl Search<'_> {
    /// A node with state asks those whom it knows, once and briefly, what they remember of it. Nobody there to ask is no
    /// reason to wait: they compare again when they connect.
    ///
    /// Its log is set aside only for a leader that stays and that remembers more itself: one that has just lost its quorum still
    /// says that it leads, and could take nobody in. And it is not one word that a log is given up for: another voter must stand
    /// by that leader, where there are others.
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
            // Once told, for good: that whoever knew better has gone does not bring the forgotten promises back.
            let Some(known) = lost else { return Decision::Resume };
            let leader = self.leader_that_remembers_more(&answers);
            led = if leader.is_some() && leader == led.0 { (leader, led.1 + 1) } else { (leader, 0) };
            not_led = if leader.is_some() { 0 } else { not_led + 1 };
            let pause = match leader {
                Some(leader) if led.1 == LEADER_STAYS_LOOKS => {
                    let line = "its log is set aside, and it joins again under a new identity";
                    let what = self.outdated(&known);
                    self.say(log::Level::Warn, "outdated", format!("{what}. Node {leader} leads: {line}"));
                    return Decision::Outdated;
                }
                Some(_) => Duration::from_millis(self.seeker.settings.election_timeout_ms),
                // One may be about to lead, or to lose the lead that it says it has.
                None if not_led <= LEADER_STAYS_LOOKS => {
                    Duration::from_millis(self.seeker.settings.election_timeout_ms)
                }
                None => {
                    let line = "no leader is there to join again that says so itself and that another voter follows, perhaps \
                                because a majority was put back to older copies. \
                                Put the newer folders back; or, to go back to the older state for good, stop all nodes, start \
                                those with older folders first, and the others with --rejoin";
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

    /// Whether somebody remembers what this node's disk has lost, and what can have been at all.
    fn remembers_more(&self, there: &Whereabouts) -> bool {
        there.remembered.is_possible_after(&self.seeker.kept) && self.seeker.kept.falls_short_of(&there.remembered)
    }

    /// The leader, if it answers itself and remembers more, and if another voter says so too or follows it in the same term. In a
    /// cluster of fewer than three voters its own word is enough.
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

    /// In words: what this node's folder lacks.
    fn outdated(&self, known: &Promise) -> String {
        let (me, kept) = (self.seeker.me.id.0, &self.seeker.kept);
        format!(
            "the data folder of node {me} is older than what its peers remember of it: it ends in term {} at entry {}, \
             they remember term {} and entry {}",
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
            // Before the others are asked: whoever listens at the front door by now answers them as well.
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
                && self.may_found()
                && let Some(decision) = self.try_found(&survey)?
            {
                return Ok(decision);
            }
            // A founder was heard of, by an answer or by the file: its consent is a matter of moments.
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

    /// A founder that could not lead would leave everybody without a leader: it steps back, and says so.
    fn may_found(&mut self) -> bool {
        if let Some(why) = self.seeker.no_founder.clone() {
            self.say(log::Level::Warn, "founder", format!("no cluster found, and this node cannot found one: {why}"));
            return false;
        }
        true
    }

    fn addresses(&self, named: Option<&Projection>) -> Vec<String> {
        let settings = self.seeker.settings;
        let local = (1..=LOCAL_IDS).map(NodeId).chain(folders::ids_below(&settings.data_dir));
        let own = settings.addresses(self.seeker.me.id).peer;
        let all = self.known_addresses(named).into_iter().chain(local.map(|id| settings.addresses(id).peer));
        let mut seen = BTreeSet::from([own]);
        all.filter(|address| seen.insert(address.clone())).collect()
    }

    /// Addresses that somebody has named: no guesses.
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
                    survey.lookers.extend(id);
                    survey.lookers_at.insert(address.clone());
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
                    // Where all founders are named, whoever else listens on this host is none of them.
                    survey.is_declined |= self.seeker.settings.peers.is_empty() || known.contains(address);
                    let is_proved = self.seeker.settings.cluster_secret.is_some();
                    let doubt = "; without a cluster_secret nothing proves that it is a node: find out what listens there \
                                 before you follow any advice";
                    let doubt = if is_proved { "" } else { doubt };
                    survey.rejected =
                        Some(format!("the node at {address} does not talk to this one: {}{doubt}", quoted(&why)));
                }
                // As silent as whatever else listens there: else any process could keep a cluster from being founded.
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
            let (asked, looking) = (survey.asked, survey.lookers.len());
            let line = match looking {
                0 => format!("nobody answered at {asked} addresses yet; this is normal for the first node"),
                _ => format!(
                    "{looking} of {asked} addresses answered, by nodes that look as well; this is normal at a first start"
                ),
            };
            self.say(log::Level::Info, "search", line);
        }
        survey
    }

    /// Whether a newcomer may go on beside the cluster that has the front door: if it is the one that it is about to join. A
    /// cluster that has the door and is heard of nowhere else is another one.
    fn judge_front(
        &mut self,
        owner: FrontOwner,
        survey: &Survey,
        named: Option<&Projection>,
    ) -> Result<bool, DiscoveryError> {
        let settings = self.seeker.settings;
        let named = named.map(|named| named.cluster_info.id);
        if let Some(other) = named.filter(|named| *named != owner.cluster && survey.clusters.contains_key(named)) {
            return Err(front_taken(settings, owner, format!("this node is to join cluster {other}")));
        }
        if named == Some(owner.cluster) || survey.clusters.contains_key(&owner.cluster) {
            self.front_rounds = 0;
            return Ok(true);
        }
        self.front_rounds += 1;
        // Whoever declines to talk may be of that cluster: what it says is to be mended first.
        let may_be_declining = survey.rejected.is_some() && survey.clusters.is_empty();
        if self.front_rounds < FRONT_ROUNDS || may_be_declining {
            return Ok(false);
        }
        let why = "none of its nodes answers at the addresses that this node asks (to join that cluster, name one of them in \
                   peers)";
        Err(front_taken(settings, owner, why.to_string()))
    }

    /// Joins the leader of the right cluster, if one is known; says so when it cannot.
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
                            "looking for cluster {wanted}, which this node's folder or {} names, but cluster {other} answers; to \
                             join that one, move the folder and the file away",
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
                    format!("clusters {all} answer: set peers or config_file_path to one of them"),
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
                info!("joined cluster {cluster} by way of its leader, node {}", id.0);
                return Some(Decision::Joined { cluster, members, identities });
            }
            Ok(JoinAnswer::Joined { cluster: theirs, .. }) => {
                warn!("asked to join cluster {cluster}, but {} is in cluster {theirs}", addresses.peer);
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
                        format!("node {} leads but does not take this node in: {why}", id.0),
                    );
                }
            }
        }
        None
    }

    /// Whether this node may try to found now. `turns`: rounds that have passed since the bounded attempts.
    fn is_my_turn(&mut self, survey: &Survey, named: Option<&Projection>, turns: u32) -> bool {
        if let Some(cluster) = self.seeker.cluster {
            if survey.clusters.is_empty() {
                let line = format!("nobody of cluster {cluster} answers yet; looking on, it cannot be founded anew");
                self.say(log::Level::Info, "own cluster", line);
            }
            return false;
        }
        // A node that declines to talk is in a cluster, as far as we know; but whoever has a secret believes that of nobody who has
        // not proved it. One that is in a cluster stands in our way
        // unless the file names another one: then the file may be what is wrong.
        let is_elsewhere = named.is_some_and(|named| !survey.clusters.contains_key(&named.cluster_info.id));
        if survey.is_declined || (!survey.clusters.is_empty() && !is_elsewhere) {
            return false;
        }
        let ahead = survey.lookers.iter().filter(|id| **id > self.seeker.me.id).count() as u32;
        let own = self.seeker.settings.addresses(self.seeker.me.id).peer;
        let hosts: BTreeSet<&String> =
            self.seeker.settings.peers.iter().filter(|peer| **peer != own && !survey.own.contains(*peer)).collect();
        if !hosts.is_empty() {
            let missing: Vec<&str> =
                hosts.iter().filter(|peer| !survey.lookers_at.contains(**peer)).map(|peer| peer.as_str()).collect();
            if !missing.is_empty() {
                let line = "a cluster is founded only when all that `peers` names answer, because one that does not may hold the \
                            data of an earlier cluster: start it, or take it out of peers";
                self.say(log::Level::Warn, "peers", format!("no answer from {} yet; {line}", missing.join(", ")));
            }
            return missing.is_empty() && ahead == 0;
        }
        turns >= ahead
    }

    /// Under the lock: founds a cluster unless there is one, or may be.
    fn try_found(&mut self, survey: &Survey) -> Result<Option<Decision>, DiscoveryError> {
        let settings = self.seeker.settings;
        let wait = |time| self.world.wait(time);
        let lock = match Lock::take(&settings.config_file_path, &wait) {
            Ok(lock) => lock,
            // Whoever holds it founds, most likely.
            Err(ConfigFileError::Busy { path }) => {
                self.say(
                    log::Level::Info,
                    "lock",
                    format!("{} is held by another process; looking on", path.display()),
                );
                return Ok(None);
            }
            Err(e) => return Err(e.into()),
        };
        let Traces { clusters: others, unclear } = folders::traces_below(&settings.data_dir, self.seeker.me.id);
        if let Some(why) = unclear {
            let line = "no cluster is founded while that may be the data of one";
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
                "{file} named cluster {id}, which nobody answers for and no data is left of; it is now {}",
                aside.display()
            );
        }
        if !survey.clusters.is_empty() {
            return Ok(None);
        }
        if let Some((cluster, folder)) = others.iter().next() {
            let folder = folder.display();
            let what = "start its nodes; go on from one of them (`phalanx recover`) if a majority of its disks is lost for good; \
                        or move its data away to begin anew";
            self.say(
                log::Level::Warn,
                "data",
                format!("{folder} holds data of cluster {cluster}, which nobody answers for: {what}"),
            );
            return Ok(None);
        }
        let cluster = Uuid::new_v4();
        let addresses = settings.addresses(self.seeker.me.id);
        let row = (self.seeker.me.id, &addresses, Liveness::Leader, 0);
        lock.write(&Projection::new(cluster, Term(1), 1, Some(self.seeker.me.id), [row]))?;
        self.world.found(cluster).map_err(DiscoveryError::Founding)?;
        info!("no leader found: founded cluster {cluster}");
        Ok(Some(Decision::Founded { cluster }))
    }

    /// Whether nothing is left of the cluster that the file names; otherwise what speaks against it, unless that is plain.
    fn is_stale(
        &self,
        named: &Projection,
        survey: &Survey,
        others: &BTreeMap<Uuid, PathBuf>,
    ) -> Result<(), Option<String>> {
        let settings = self.seeker.settings;
        let cluster = named.cluster_info.id;
        // Somebody founded while this node stood in line, or leads already.
        if survey.clusters.contains_key(&cluster) || is_young(&settings.config_file_path) {
            return Err(None);
        }
        let what = format!("{} names cluster {cluster}, which nobody answers for", settings.config_file_path.display());
        if let Some(folder) = others.get(&cluster) {
            let (folder, advice) = (
                folder.display(),
                "start its nodes; go on from one of them (`phalanx recover`) if a majority of its disks is lost for \
                                   good; or move the file and the data away to begin anew",
            );
            return Err(Some(format!("{what}; {folder} holds data of it: {advice}")));
        }
        let is_silent = |address: &String| survey.silent.contains(address);
        if let Some(address) = named.peer_addresses().into_iter().find(is_silent) {
            return Err(Some(format!("{what}; what listens at {address} is silent, and may be its node")));
        }
        if let Some(node) = named.nodes.values().find(|node| node.ip != settings.host) {
            let advice = "start them, or move the file away to begin anew";
            return Err(Some(format!("{what}; it has nodes on other hosts ({}): {advice}", node.ip)));
        }
        Ok(())
    }

    /// Waits for the next round, or less long when `config.json` changes.
    fn wait_for_news(&self, pause: Duration, stamp: Stamp) -> News {
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

    /// Logs a line unless it is the last one said about its topic.
    fn say(&mut self, level: log::Level, topic: &'static str, line: String) {
        if self.said.get(topic) != Some(&line) {
            log::log!(level, "{line}");
            self.said.insert(topic, line);
        }
    }
}

/// What somebody else said, as it may stand in a line of the log.
fn quoted(why: &str) -> String {
    format!("{:?}", why.chars().take(WORDS_MAX).collect::<String>())
}

#[derive(Debug, PartialEq, Eq)]
enum News {
    None,
    Changed,
    Stopping,
}

/// What changes when a file is written: its time and size, `None` if it is not there.
type Stamp = Option<(SystemTime, u64)>;

fn stamp_of(path: &Path) -> Stamp {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.modified().ok()?, meta.len()))
}

/// Whether the file was written so lately that its writer may not have begun to answer.
fn is_young(path: &Path) -> bool {
    let Ok(at) = std::fs::metadata(path).and_then(|meta| meta.modified()) else { return true };
    match SystemTime::now().duration_since(at) {
        Ok(age) => age < STALE_AFTER,
        // Written in the future: the clock was set back, and nobody can say when it was.
        Err(ahead) => ahead.duration() < STALE_AFTER,
    }
}

#[cfg(test)]
#[path = "tests/discovery.rs"]
mod tests;
