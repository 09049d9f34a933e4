//! Discovery over a virtual peer port and a real folder: every way to begin, and five that begin at once.
#![allow(clippy::unwrap_used)] // tests; clippy.toml covers only functions that carry #[test]

use super::*;
use crate::cluster::config::file::{self, ConfigFileError, Lock};
use crate::planted_bugs::DiscoveryBugs;
use crate::raft::Promise;
use crate::settings::Settings;
use crate::store::{RealFiles, identity};
use crate::types::{Identity, Index, Liveness, NodeId, Term};
use crate::wire::DiscoveryAnswer;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Instant;
use tempfile::TempDir;
use uuid::Uuid;

mod hosts;

const CLUSTER: Uuid = Uuid::from_u128(7);
const OTHER: Uuid = Uuid::from_u128(8);

/// What listens at an address.
#[derive(Clone, Debug)]
enum At {
    Looking(NodeId),
    Member { cluster: Uuid, leader: Option<NodeId>, refuses_joins: u32 },
    Silent,
    Declining,
    Unproved,
}

/// All peer ports of the test, and the folder that the nodes share.
struct Net {
    dir: TempDir,
    at: Mutex<HashMap<String, At>>,
    bootstrapped: Mutex<Vec<(NodeId, Uuid)>>,
    waiting: (Mutex<()>, Condvar),
    /// What each member remembers of the node that asks.
    remembered: Mutex<HashMap<NodeId, Promise>>,
    /// Term that each member is in, if not the first.
    terms: Mutex<HashMap<NodeId, u64>>,
    /// The leader steps down as soon as a node waits.
    steps_down: AtomicBool,
    /// The cluster that has the front door.
    front: Mutex<Option<Uuid>>,
    /// Who votes, in the eyes of a node with a log.
    voters: Mutex<BTreeMap<NodeId, Uuid>>,
}

impl Net {
    fn new() -> Net {
        let waiting = (Mutex::new(()), Condvar::new());
        Net {
            dir: tempfile::tempdir().unwrap(),
            at: Mutex::default(),
            bootstrapped: Mutex::default(),
            waiting,
            remembered: Mutex::default(),
            terms: Mutex::default(),
            steps_down: AtomicBool::new(false),
            front: Mutex::default(),
            voters: Mutex::default(),
        }
    }

    fn settings(&self) -> Settings {
        Settings {
            config_file_path: self.dir.path().join("config.json"),
            data_dir: self.dir.path().join("data"),
            discovery_interval_ms: 20,
            ..Settings::default()
        }
    }

    fn put(&self, id: u64, at: At) {
        self.at.lock().unwrap().insert(address(id), at);
    }

    fn leads(&self, id: u64, cluster: Uuid) {
        self.put(id, At::Member { cluster, leader: Some(NodeId(id)), refuses_joins: 0 });
    }

    /// Leaves `identity.json` of node `id` in the shared data folder.
    fn leave_data(&self, id: u64, cluster: Uuid) {
        let mut me = identity::StoredIdentity::new(NodeId(id), Uuid::from_u128(u128::from(id)));
        (me.cluster, me.has_log) = (Some(cluster), true);
        identity::save(&RealFiles, &self.settings().node_dir(NodeId(id)), &me).unwrap();
    }

    /// Leaves a log of node `id` with this `identity.json` beside it.
    fn leave_log(&self, id: u64, identity: Option<&str>) {
        let dir = self.settings().node_dir(NodeId(id));
        std::fs::create_dir_all(dir.join("wal")).unwrap();
        std::fs::write(dir.join("wal/0000000000000001.wal"), "x").unwrap();
        if let Some(text) = identity {
            std::fs::write(dir.join("identity.json"), text).unwrap();
        }
    }

    /// Leaves a `config.json` of `cluster` with node 4 as its leader, `age_s` seconds old.
    fn leave_config(&self, cluster: Uuid, age_s: u64) {
        let settings = self.settings();
        let addresses = settings.addresses(NodeId(4));
        let row = (NodeId(4), &addresses, Liveness::Leader, 0);
        let projection = Projection::new(cluster, Term(3), 9, Some(NodeId(4)), [row]);
        file::write(&settings.config_file_path, &projection, &|_| true).unwrap();
        let file = std::fs::File::options().write(true).open(&settings.config_file_path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(age_s)).unwrap();
    }

    fn named(&self) -> Option<Uuid> {
        read(&self.settings().config_file_path).unwrap().map(|found| found.cluster_info.id)
    }

    fn names_starting_with(&self, prefix: &str) -> usize {
        let names = std::fs::read_dir(self.dir.path()).unwrap().flatten();
        names.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix)).count()
    }

    /// A new node searches for at most `for_ms`.
    fn search(&self, id: u64, for_ms: u64) -> Result<Decision, DiscoveryError> {
        self.search_with(id, for_ms, None, false, &self.settings())
    }

    fn search_with(
        &self,
        id: u64,
        for_ms: u64,
        cluster: Option<Uuid>,
        has_log: bool,
        settings: &Settings,
    ) -> Result<Decision, DiscoveryError> {
        let me = who(id);
        if cluster.is_none() {
            self.put(id, At::Looking(me.id));
        }
        let until = Instant::now() + Duration::from_millis(for_ms);
        let kept = Promise { term: Term(has_log.into()), index: Index(100), ..Promise::default() };
        let known = vec![address(24), address(23)];
        let voters = self.voters.lock().unwrap().clone();
        let (no_bootstrap, bugs) = (None, DiscoveryBugs::default());
        let seeker = Seeker { me, cluster, kept, has_log, voters, known, no_bootstrap, settings, bugs };
        discover(&seeker, &TestWorld { net: self, me: me.id, until, bootstrap_fails: false, claims: Claims::default() })
    }
}

fn who(id: u64) -> Identity {
    Identity { id: NodeId(id), uuid: Uuid::from_u128(u128::from(id)) }
}

fn name() -> String {
    Settings::default().cluster_name
}

fn address(id: u64) -> String {
    Settings::default().addresses(NodeId(id)).peer
}

/// One node's access to the net.
struct TestWorld<'a> {
    net: &'a Net,
    me: NodeId,
    until: Instant,
    bootstrap_fails: bool,
    claims: Claims,
}

impl World for TestWorld<'_> {
    fn ask_all(&self, addresses: &[String], _: Duration) -> Vec<Result<DiscoveryAnswer, AskError>> {
        let at = self.net.at.lock().unwrap();
        let answer = |address: &String| match at.get(address) {
            None => Err(AskError::Refused),
            Some(At::Silent) => Err(AskError::Timeout),
            Some(At::Declining) => Err(AskError::Rejected("wrong cluster_secret".into())),
            Some(At::Unproved) => Err(AskError::Unproved("run rm -rf data".into())),
            Some(At::Looking(id)) => Ok(DiscoveryAnswer { id: Some(*id), name: name(), ..DiscoveryAnswer::default() }),
            Some(At::Member { cluster, leader, .. }) => {
                let settings = Settings::default();
                let leader = leader.map(|id| (id, settings.addresses(id)));
                let id = (1..=99).map(NodeId).find(|id| settings.addresses(*id).peer == *address).unwrap();
                let remembered = self.net.remembered.lock().unwrap().get(&id).copied().unwrap_or_default();
                let term = Term(self.net.terms.lock().unwrap().get(&id).copied().unwrap_or(1));
                let who = Some(who(id.0));
                let (cluster, members) = (Some(*cluster), vec![]);
                let name = name();
                Ok(DiscoveryAnswer {
                    cluster,
                    term,
                    members,
                    leader,
                    remembered,
                    who,
                    name,
                    ..DiscoveryAnswer::default()
                })
            }
        };
        addresses.iter().map(answer).collect()
    }

    /// Every node here grants what it is asked for.
    fn claim_all(&self, addresses: &[String], claim: Uuid, _: Duration) -> Vec<Result<DiscoveryAnswer, AskError>> {
        let granted = DiscoveryAnswer { claim: Some(claim), ..DiscoveryAnswer::default() };
        addresses.iter().map(|_| Ok(granted.clone())).collect()
    }

    fn claims(&self) -> &Claims {
        &self.claims
    }

    fn join(&self, address: &str, _: Uuid) -> Result<JoinAnswer, AskError> {
        match self.net.at.lock().unwrap().get_mut(address) {
            Some(At::Member { cluster, leader: Some(_), refuses_joins }) => {
                if *refuses_joins > 0 {
                    *refuses_joins -= 1;
                    return Err(AskError::Rejected("another membership change is in progress".into()));
                }
                Ok(JoinAnswer::Joined { cluster: *cluster, members: vec![], identities: vec![] })
            }
            _ => Err(AskError::Refused),
        }
    }

    fn bootstrap(&self, cluster: Uuid) -> Result<(), String> {
        assert_eq!(self.net.named(), Some(cluster), "config.json comes first");
        let busy = Lock::take(&self.net.settings().config_file_path, &|_| false);
        assert!(matches!(busy, Err(ConfigFileError::Busy { .. })), "the lock is held");
        if self.bootstrap_fails {
            return Err("no space left".into());
        }
        self.net.leave_data(self.me.0, cluster);
        self.net.bootstrapped.lock().unwrap().push((self.me, cluster));
        self.net.leads(self.me.0, cluster);
        Ok(())
    }

    fn front_owner(&self, but: Option<Uuid>) -> Option<FrontOwner> {
        let cluster = self.net.front.lock().unwrap().filter(|owner| but != Some(*owner))?;
        Some(FrontOwner { cluster, name: "the first".into() })
    }

    fn wait(&self, time: Duration) -> bool {
        if self.net.steps_down.load(Ordering::Relaxed) {
            for at in self.net.at.lock().unwrap().values_mut() {
                if let At::Member { leader, .. } = at {
                    *leader = None;
                }
            }
        }
        let until = Instant::now() + time;
        let (mutex, condition) = &self.net.waiting;
        let mut guard = mutex.lock().unwrap();
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            guard = condition.wait_timeout(guard, left).unwrap().0;
        }
        Instant::now() < self.until
    }
}

#[test]
fn a_single_node_bootstraps_after_bounded_attempts() {
    let net = Net::new();
    let begun = Instant::now();
    let Decision::Bootstrapped { cluster } = net.search(1, 5000).unwrap() else { panic!("did not found") };
    assert!(begun.elapsed() >= Duration::from_millis(40), "two pauses between three rounds");
    assert_eq!(net.named(), Some(cluster));
    let info = read(&net.settings().config_file_path).unwrap().unwrap().cluster_info;
    assert_eq!((info.term, info.last_version, info.leader.as_deref()), (Term(1), 1, Some("node_1")));
}

#[test]
fn a_new_node_joins_the_leader_that_answers() {
    let net = Net::new();
    net.put(2, At::Member { cluster: CLUSTER, leader: Some(NodeId(17)), refuses_joins: 0 });
    net.put(17, At::Member { cluster: CLUSTER, leader: Some(NodeId(17)), refuses_joins: 3 });
    assert_eq!(
        net.search(1, 5000).unwrap(),
        Decision::Joined { cluster: CLUSTER, members: vec![], identities: vec![] }
    );
    assert!(net.bootstrapped.lock().unwrap().is_empty());
}

#[test]
fn a_cluster_without_a_leader_is_waited_for() {
    let net = Net::new();
    net.put(2, At::Member { cluster: CLUSTER, leader: None, refuses_joins: 0 });
    assert_eq!(net.search(1, 300).unwrap(), Decision::Stopping);
    assert_eq!(net.named(), None);
}

#[test]
fn a_node_with_state_resumes_or_refuses() {
    let net = Net::new();
    let settings = net.settings();
    let resume = || net.search_with(1, 0, Some(CLUSTER), true, &settings);
    assert_eq!(resume().unwrap(), Decision::Resume);
    std::fs::write(&settings.config_file_path, "mangled").unwrap();
    assert_eq!(resume().unwrap(), Decision::Resume);
    net.leave_config(CLUSTER, 0);
    assert_eq!(resume().unwrap(), Decision::Resume);
    std::fs::remove_file(&settings.config_file_path).unwrap();
    net.leave_config(OTHER, 0);
    let error = resume().unwrap_err().to_string();
    for word in [&CLUSTER.to_string(), &OTHER.to_string(), "config.json", "node-1", "start again", "new node"] {
        assert!(error.contains(word), "{word} is missing: {error}");
    }
    assert_eq!(net.named(), Some(OTHER));
}

#[test]
fn a_node_that_discarded_its_state_joins_its_cluster_only() {
    let net = Net::new();
    let settings = net.settings();
    let rejoin = |for_ms| net.search_with(1, for_ms, Some(CLUSTER), false, &settings).unwrap();
    assert_eq!(rejoin(200), Decision::Stopping, "it never bootstraps");
    net.leads(3, OTHER);
    assert_eq!(rejoin(200), Decision::Stopping, "it never joins another");
    net.leads(2, CLUSTER);
    assert_eq!(rejoin(5000), Decision::Joined { cluster: CLUSTER, members: vec![], identities: vec![] });
}

#[test]
fn a_stale_file_is_set_aside_and_a_young_one_is_not() {
    let net = Net::new();
    net.leave_config(CLUSTER, 3600);
    assert!(matches!(net.search(1, 5000).unwrap(), Decision::Bootstrapped { .. }));
    assert_ne!(net.named(), Some(CLUSTER));
    assert_eq!(net.names_starting_with("config.json.stale-"), 1);
    let net = Net::new();
    net.leave_config(CLUSTER, 0);
    assert_eq!(net.search(1, 500).unwrap(), Decision::Stopping);
    assert_eq!(net.named(), Some(CLUSTER));
}

#[test]
fn a_file_or_data_of_a_cluster_that_may_live_is_respected() {
    for why in [
        "data",
        "data without file",
        "log without identity",
        "log with a mangled identity",
        "silent node",
        "other host",
        "declining node",
    ] {
        let net = Net::new();
        let mut settings = net.settings();
        if !["data without file", "declining node", "log with a mangled identity"].contains(&why) {
            net.leave_config(CLUSTER, 3600);
        }
        match why {
            "silent node" => net.put(4, At::Silent),
            "declining node" => net.put(3, At::Declining),
            "other host" => settings.host = "localhost".into(),
            "log without identity" => net.leave_log(4, None),
            "log with a mangled identity" => net.leave_log(4, Some("{")),
            _ => net.leave_data(4, CLUSTER),
        }
        let before = net.named();
        assert_eq!(net.search_with(1, 300, None, false, &settings).unwrap(), Decision::Stopping, "{why}");
        assert_eq!(net.named(), before, "{why}");
        assert!(net.bootstrapped.lock().unwrap().is_empty(), "{why}");
    }
}

#[test]
fn a_file_of_a_dead_cluster_does_not_keep_from_a_living_one() {
    let net = Net::new();
    net.leave_config(CLUSTER, 3600);
    net.leads(2, OTHER);
    assert_eq!(net.search(1, 5000).unwrap(), Decision::Joined { cluster: OTHER, members: vec![], identities: vec![] });
    assert_eq!(net.names_starting_with("config.json.stale-"), 1);
    assert!(net.bootstrapped.lock().unwrap().is_empty());
}

/// A node with an empty folder that may bootstrap a cluster.
fn new_seeker(me: Identity, settings: &Settings) -> Seeker<'_> {
    Seeker {
        me,
        cluster: None,
        kept: Promise::default(),
        has_log: false,
        voters: BTreeMap::new(),
        known: Vec::new(),
        no_bootstrap: None,
        settings,
        bugs: DiscoveryBugs::default(),
    }
}

#[test]
fn a_bootstrap_that_dies_in_between_leaves_nothing_that_binds() {
    let net = Net::new();
    let settings = net.settings();
    let me = Identity { id: NodeId(1), uuid: Uuid::from_u128(1) };
    let seeker = new_seeker(me, &settings);
    let until = Instant::now() + Duration::from_secs(5);
    let world = TestWorld { net: &net, me: me.id, until, bootstrap_fails: true, claims: Claims::default() };
    let failed = discover(&seeker, &world);
    assert!(matches!(failed, Err(DiscoveryError::Bootstrap(_))));
    let left = net.named().unwrap();
    // Not before the file has aged: its writer might be slow rather than dead.
    assert_eq!(net.search(2, 300).unwrap(), Decision::Stopping);
    assert!(matches!(net.search(2, 10_000).unwrap(), Decision::Bootstrapped { cluster } if cluster != left));
}

#[test]
fn across_hosts_all_peers_must_answer_and_the_highest_id_bootstraps() {
    let net = Net::new();
    let peers = [address(21), address(22), address(23)].to_vec();
    let settings = Settings { peers, ..net.settings() };
    let search = |id, for_ms| net.search_with(id, for_ms, None, false, &settings).unwrap();
    assert_eq!(search(22, 200), Decision::Stopping, "alone");
    net.put(23, At::Looking(NodeId(23)));
    assert_eq!(search(22, 200), Decision::Stopping, "not the highest");
    net.at.lock().unwrap().remove(&address(23));
    net.put(21, At::Looking(NodeId(21)));
    assert_eq!(search(22, 200), Decision::Stopping, "the third may hold the data of an earlier cluster");
    assert!(matches!(look_at(&net, 22, &[21, 22]), Decision::Bootstrapped { .. }), "it was taken out of peers");
}

/// Looks with these hosts in `peers`.
fn look_at(net: &Net, id: u64, hosts: &[u64]) -> Decision {
    let settings = Settings { peers: hosts.iter().map(|id| address(*id)).collect(), ..net.settings() };
    net.search_with(id, 5000, None, false, &settings).unwrap()
}

/// Two of three hosts lost their disks: no cluster may be created beside the data of the third.
#[test]
fn new_nodes_wait_for_a_survivor_and_never_bootstrap_beside_it() {
    let net = Net::new();
    let settings = Settings { peers: [21, 22, 23].map(address).to_vec(), ..net.settings() };
    net.put(21, At::Looking(NodeId(21)));
    net.put(23, At::Member { cluster: CLUSTER, leader: None, refuses_joins: 0 });
    assert_eq!(net.search_with(22, 300, None, false, &settings).unwrap(), Decision::Stopping);
    assert!(net.bootstrapped.lock().unwrap().is_empty());
}

#[test]
fn a_node_whose_peers_remember_more_joins_again_and_waits_while_nobody_leads() {
    let net = Net::new();
    let settings = Settings { election_timeout_ms: 20, ..net.settings() };
    let search = |for_ms| net.search_with(2, for_ms, Some(CLUSTER), true, &settings).unwrap();
    let remember = |term, index| {
        let promise = Promise { term: Term(term), index: Index(index), ..Promise::default() };
        net.remembered.lock().unwrap().insert(NodeId(24), promise);
    };
    assert_eq!(search(1000), Decision::Resume, "nobody to ask");
    net.leads(24, CLUSTER);
    // No node can have promised the last ones.
    for (term, index) in [(0, 0), (0, 900), (1, 100), (u64::MAX, 1), ((1 << 32) + 2, 1), (1, u64::MAX)] {
        remember(term, index);
        assert_eq!(search(1000), Decision::Resume, "term {term} index {index}");
    }
    for (term, index) in [(1, 101), (2, 1)] {
        remember(term, index);
        assert_eq!(search(1000), Decision::Outdated, "term {term} index {index}");
    }
    net.steps_down.store(true, Ordering::Relaxed);
    assert_eq!(
        search(300),
        Decision::Stopping,
        "a leader that steps down had lost its quorum: nothing is given up for it"
    );
    assert_eq!(search(300), Decision::Stopping, "no leader: a majority may be outdated");
    net.leads(24, OTHER);
    assert_eq!(search(1000), Decision::Resume, "another cluster's word is nothing");
}

#[test]
fn a_log_is_not_set_aside_on_one_word() {
    let net = Net::new();
    let settings = Settings { election_timeout_ms: 20, ..net.settings() };
    let search = |settings: &Settings| net.search_with(2, 500, Some(CLUSTER), true, settings).unwrap();
    let follows = |leader| net.put(23, At::Member { cluster: CLUSTER, leader, refuses_joins: 0 });
    let remember = |id, term| {
        net.remembered.lock().unwrap().insert(NodeId(id), Promise { term: Term(term), ..Promise::default() });
    };
    *net.voters.lock().unwrap() = [2, 23, 24].map(|id| (NodeId(id), who(id).uuid)).into();
    net.leads(24, CLUSTER);
    remember(24, 1000);
    assert_eq!(search(&settings), Decision::Stopping, "it says that it leads, and nobody else is there");
    follows(None);
    assert_eq!(search(&settings), Decision::Stopping, "nobody follows it");
    follows(Some(NodeId(24)));
    net.terms.lock().unwrap().insert(NodeId(24), 1000);
    assert_eq!(search(&settings), Decision::Stopping, "it was followed in an earlier term");
    net.terms.lock().unwrap().clear();
    assert_eq!(search(&settings), Decision::Outdated, "another voter follows it");
    follows(None);
    remember(23, 3);
    assert_eq!(search(&settings), Decision::Outdated, "another voter remembers more as well");
    // The other voter's number under another identity does not count, unless that node has proved the secret.
    net.voters.lock().unwrap().insert(NodeId(23), Uuid::nil());
    assert_eq!(search(&settings), Decision::Stopping);
    assert_eq!(search(&Settings { cluster_secret: Some("s".into()), ..settings.clone() }), Decision::Outdated);
    net.voters.lock().unwrap().remove(&NodeId(23));
    assert_eq!(search(&settings), Decision::Outdated, "with two voters there is no other");
    remember(24, 0);
    assert_eq!(search(&settings), Decision::Stopping, "the leader itself remembers nothing of the kind");
}

/// The cluster at the front door answers at no other known address, or is not the one that the new node belongs to.
#[test]
fn no_node_joins_or_bootstraps_beside_another_clusters_front_door() {
    for why in ["new node", "config.json of another cluster", "a node of another cluster", "data of another cluster"] {
        let net = Net::new();
        *net.front.lock().unwrap() = Some(CLUSTER);
        let mut cluster = None;
        match why {
            "new node" => {}
            "config.json of another cluster" => net.leave_config(OTHER, 0),
            "a node of another cluster" => net.leads(2, OTHER),
            _ => cluster = Some(OTHER),
        }
        let before = net.named();
        let has_log = cluster.is_some();
        let refused = net.search_with(1, 5000, cluster, has_log, &net.settings()).unwrap_err();
        assert!(matches!(refused, DiscoveryError::FrontTaken { .. }), "{why}: {refused}");
        let text = refused.to_string();
        for word in ["\"the first\"", &CLUSTER.to_string(), &net.settings().front_door(), "service_port"] {
            assert!(text.contains(word), "{why}: {word} is missing: {text}");
        }
        assert_eq!(net.named(), before, "{why}");
        assert!(net.bootstrapped.lock().unwrap().is_empty(), "{why}");
    }
}

#[test]
fn the_front_door_of_the_cluster_that_is_joined_keeps_nobody_out() {
    let net = Net::new();
    *net.front.lock().unwrap() = Some(CLUSTER);
    net.leads(2, CLUSTER);
    assert!(matches!(net.search(1, 5000).unwrap(), Decision::Joined { cluster: CLUSTER, .. }));
    let settings = net.settings();
    assert_eq!(net.search_with(1, 0, Some(CLUSTER), true, &settings).unwrap(), Decision::Resume);
    // Its nodes are slow to answer, or decline: it is waited for, and no cluster is created.
    net.leave_config(CLUSTER, 3600);
    net.at.lock().unwrap().clear();
    assert_eq!(net.search(1, 500).unwrap(), Decision::Stopping);
    std::fs::remove_file(settings.config_file_path).unwrap();
    net.put(2, At::Declining);
    assert_eq!(net.search(1, 500).unwrap(), Decision::Stopping);
    assert!(net.bootstrapped.lock().unwrap().is_empty());
}

/// Whatever listens at a peer port may decline; it is believed only where it may be a node.
#[test]
fn an_unknown_node_that_declines_prevents_no_bootstrap() {
    let net = Net::new();
    net.put(3, At::Unproved);
    let settings = Settings { cluster_secret: Some("s".into()), ..net.settings() };
    assert!(matches!(net.search_with(1, 5000, None, false, &settings).unwrap(), Decision::Bootstrapped { .. }));

    // Without a secret no node can prove its identity: a declining node counts at an address where a bootstrapping node
    // may be, which `peers` decides.
    for (declining, peers) in [(3, vec![address(1), address(2)]), (3, vec![]), (1, vec![address(1), address(2)])] {
        let net = Net::new();
        net.put(1, At::Looking(NodeId(1)));
        net.put(declining, At::Declining);
        let settings = Settings { peers: peers.clone(), ..net.settings() };
        let decision = net.search_with(2, 2000, None, false, &settings).unwrap();
        let is_founded = matches!(decision, Decision::Bootstrapped { .. });
        assert_eq!(is_founded, declining == 3 && !peers.is_empty(), "{declining} declines: {decision:?}");
    }
}

#[test]
fn a_held_lock_delays_the_bootstrap() {
    let net = Net::new();
    let held = Lock::take(&net.settings().config_file_path, &|_| true).unwrap();
    assert_eq!(net.search(1, 300).unwrap(), Decision::Stopping);
    drop(held);
    assert!(matches!(net.search(1, 5000).unwrap(), Decision::Bootstrapped { .. }));
}

/// A hundred times five nodes at once: one bootstrap each time, and everyone is in its cluster. In every other run no
/// node is known to look, so that no node learns that it should yield.
#[test]
fn five_at_once_never_found_two_clusters() {
    let mut highest = 0;
    for start in 0..100 {
        let net = Net::new();
        let settings = net.settings();
        for id in (1..=5).filter(|_| start % 2 == 0) {
            net.put(id, At::Looking(NodeId(id)));
        }
        let ends: Vec<Decision> = std::thread::scope(|scope| {
            let nodes: Vec<_> = (1..=5u64)
                .map(|id| {
                    let (net, settings) = (&net, &settings);
                    scope.spawn(move || net.search_with(id, 20_000, None, false, settings).unwrap())
                })
                .collect();
            nodes.into_iter().map(|node| node.join().unwrap()).collect()
        });
        let bootstrapped = net.bootstrapped.lock().unwrap().clone();
        assert_eq!(bootstrapped.len(), 1, "start {start}: {bootstrapped:?} {ends:?}");
        let (first, cluster) = bootstrapped[0];
        for end in &ends {
            let is_there = matches!(end, Decision::Bootstrapped { cluster: c } | Decision::Joined { cluster: c, .. } if *c == cluster);
            assert!(is_there, "start {start}: {ends:?}");
        }
        assert_eq!(net.names_starting_with("config.json.stale-"), 0, "start {start}");
        highest += u32::from(first == NodeId(5));
    }
    assert!(highest > 80, "the highest id bootstrapped only {highest} of 100 clusters");
}

#[test]
fn a_node_without_room_to_lead_leaves_the_bootstrap_to_others() {
    let net = Net::new();
    let settings = net.settings();
    let me = Identity { id: NodeId(3), uuid: Uuid::from_u128(3) };
    let until = Instant::now() + Duration::from_millis(400);
    let no_bootstrap = Some("no room".to_string());
    let seeker = Seeker { no_bootstrap, ..new_seeker(me, &settings) };
    let world = TestWorld { net: &net, me: me.id, until, bootstrap_fails: false, claims: Claims::default() };
    assert_eq!(discover(&seeker, &world).unwrap(), Decision::Stopping);
    assert_eq!(net.named(), None);
    assert!(matches!(net.search(2, 5_000).unwrap(), Decision::Bootstrapped { .. }));
}
