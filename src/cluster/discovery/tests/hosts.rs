//! Discovery over virtual hosts, each with a folder, a secret and a version of its own: a majority that agrees creates the
//! cluster, whoever differs does not keep it waiting, and there are never two.

use super::*;
use crate::lab::poll;
use crate::wire::Mismatch;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

/// A process on a host; another one takes its place when it is started again.
struct Process {
    /// Nodes with the same one agree.
    kind: u64,
    /// What its data belongs to.
    cluster: Mutex<Option<Uuid>>,
    claims: Claims,
    is_stopped: AtomicBool,
    is_silent: AtomicBool,
}

impl Process {
    fn start(kind: u64) -> Arc<Process> {
        let (cluster, claims) = (Mutex::default(), Claims::default());
        let (is_stopped, is_silent) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Process { kind, cluster, claims, is_stopped, is_silent })
    }
}

/// Hosts 1 to n.
struct Hosts {
    dir: TempDir,
    at: Mutex<BTreeMap<u64, Arc<Process>>>,
    /// The hosts, each with its kind.
    bootstrapped: Mutex<Vec<(u64, u64)>>,
    bugs: DiscoveryBugs,
    /// As a slow disk does.
    bootstrap_takes: Duration,
    bootstraps_begun: AtomicUsize,
}

impl Hosts {
    /// One host for each of these kinds.
    fn new(kinds: &[u64]) -> Hosts {
        let at = (1..).zip(kinds).map(|(id, kind)| (id, Process::start(*kind))).collect();
        Hosts {
            dir: tempfile::tempdir().unwrap(),
            at: Mutex::new(at),
            bootstrapped: Mutex::default(),
            bugs: DiscoveryBugs::default(),
            bootstrap_takes: Duration::ZERO,
            bootstraps_begun: AtomicUsize::new(0),
        }
    }

    fn process(&self, id: u64) -> Arc<Process> {
        Arc::clone(&self.at.lock().unwrap()[&id])
    }

    /// Stops the process of a host and starts another.
    fn start_again(&self, id: u64, kind: u64) {
        let old = self.at.lock().unwrap().insert(id, Process::start(kind)).unwrap();
        old.is_stopped.store(true, Ordering::Relaxed);
    }

    fn settings(&self, id: u64) -> Settings {
        let dir = self.dir.path().join(format!("host-{id}"));
        let peers = self.at.lock().unwrap().keys().map(|id| address(*id)).collect();
        Settings {
            config_file_path: dir.join("config.json"),
            data_dir: dir.join("data"),
            discovery_interval_ms: 10,
            cluster_secret: Some("s".into()),
            peers,
            ..Settings::default()
        }
    }

    /// The present process of a host looks for its cluster until it is stopped.
    fn search(&self, id: u64, until: Instant) -> Decision {
        let (process, settings, me) = (self.process(id), self.settings(id), who(id));
        let seeker = Seeker { bugs: self.bugs, ..new_seeker(me, &settings) };
        // One that is killed while it bootstraps.
        discover(&seeker, &Host { hosts: self, id, process, until }).unwrap_or(Decision::Stopping)
    }

    /// All present processes at once; returns which host ended how.
    fn search_all(&self, for_ms: u64) -> BTreeMap<u64, Decision> {
        let until = Instant::now() + Duration::from_millis(for_ms);
        let ids: Vec<u64> = self.at.lock().unwrap().keys().copied().collect();
        std::thread::scope(|scope| {
            let all: Vec<_> = ids.iter().map(|id| (*id, scope.spawn(|| self.search(*id, until)))).collect();
            all.into_iter().map(|(id, thread)| (id, thread.join().unwrap())).collect()
        })
    }

    fn bootstrapped(&self) -> Vec<u64> {
        self.bootstrapped.lock().unwrap().iter().map(|(id, _)| *id).collect()
    }
}

/// One process's access to the net.
struct Host<'a> {
    hosts: &'a Hosts,
    id: u64,
    process: Arc<Process>,
    until: Instant,
}

impl Host<'_> {
    fn ask(&self, address: &str, claim: Option<Uuid>) -> Result<DiscoveryAnswer, AskError> {
        let id = (1..=9).find(|id| super::address(*id) == address).ok_or(AskError::Refused)?;
        let there = self.hosts.at.lock().unwrap().get(&id).cloned().ok_or(AskError::Refused)?;
        if there.is_silent.load(Ordering::Relaxed) {
            return Err(AskError::Timeout);
        }
        let cluster = *there.cluster.lock().unwrap();
        if there.kind != self.process.kind {
            return Err(AskError::Differs { what: Mismatch::Secret, cluster });
        }
        if let (Some(claim), None) = (claim, cluster) {
            there.claims.grant(Grant { to: NodeId(self.id), address: super::address(self.id), claim });
        }
        let leader = cluster.map(|_| (NodeId(id), Settings::default().addresses(NodeId(id))));
        let (id, name, claim) = (Some(NodeId(id)), name(), there.claims.current());
        Ok(DiscoveryAnswer { cluster, id, name, claim, leader, ..DiscoveryAnswer::default() })
    }
}

impl World for Host<'_> {
    fn ask_all(&self, addresses: &[String], _: Duration) -> Vec<Result<DiscoveryAnswer, AskError>> {
        addresses.iter().map(|address| self.ask(address, None)).collect()
    }

    fn claim_all(&self, addresses: &[String], claim: Uuid, _: Duration) -> Vec<Result<DiscoveryAnswer, AskError>> {
        addresses.iter().map(|address| self.ask(address, Some(claim))).collect()
    }

    fn claims(&self) -> &Claims {
        &self.process.claims
    }

    fn join(&self, address: &str, cluster: Uuid) -> Result<JoinAnswer, AskError> {
        match self.ask(address, None)?.cluster {
            Some(theirs) if theirs == cluster => {
                Ok(JoinAnswer::Joined { cluster, members: vec![], identities: vec![] })
            }
            _ => Err(AskError::Refused),
        }
    }

    fn bootstrap(&self, cluster: Uuid) -> Result<(), String> {
        self.hosts.bootstraps_begun.fetch_add(1, Ordering::Relaxed);
        poll::pause(self.hosts.bootstrap_takes);
        if self.process.is_stopped.load(Ordering::Relaxed) {
            return Err("killed".into());
        }
        *self.process.cluster.lock().unwrap() = Some(cluster);
        self.hosts.bootstrapped.lock().unwrap().push((self.id, self.process.kind));
        Ok(())
    }

    fn front_owner(&self, _: Option<Uuid>) -> Option<FrontOwner> {
        None
    }

    fn wait(&self, time: Duration) -> bool {
        poll::pause(time);
        Instant::now() < self.until && !self.process.is_stopped.load(Ordering::Relaxed)
    }
}

#[test]
fn a_majority_that_agrees_bootstraps_and_the_others_keep_nobody_waiting() {
    // Kinds of hosts 1 to n, and who bootstraps.
    let cases: [(&[u64], &[u64]); 8] = [
        (&[1, 1, 1, 1, 1], &[5]),
        (&[1, 1, 1, 1, 2], &[4]),
        (&[2, 1, 1, 1, 1], &[5]),
        (&[2, 2, 1, 1, 1], &[5]),
        (&[1, 1, 1, 2, 2], &[3]),
        (&[1, 1, 2, 2, 3], &[]),
        (&[1, 1, 2, 2], &[]),
        (&[1, 2], &[]),
    ];
    for (kinds, expected) in cases {
        let hosts = Hosts::new(kinds);
        let ends = hosts.search_all(if expected.is_empty() { 300 } else { 1200 });
        assert_eq!(hosts.bootstrapped(), expected, "{kinds:?}");
        let Some(first) = expected.first() else { continue };
        for (id, end) in ends {
            let agrees = hosts.process(id).kind == hosts.process(*first).kind;
            let is_in = matches!(end, Decision::Bootstrapped { .. } | Decision::Joined { .. });
            assert_eq!(is_in, agrees, "host {id} of {kinds:?}: {end:?}");
        }
    }
}

#[test]
fn a_host_with_data_or_without_an_answer_is_waited_for() {
    for why in ["silent", "data"] {
        let hosts = Hosts::new(&[1, 1, 1, 1, 2]);
        match why {
            "silent" => hosts.process(5).is_silent.store(true, Ordering::Relaxed),
            _ => *hosts.process(5).cluster.lock().unwrap() = Some(CLUSTER),
        }
        std::thread::scope(|scope| {
            for id in 1..=4 {
                let hosts = &hosts;
                let until = Instant::now() + Duration::from_millis(300);
                scope.spawn(move || assert_eq!(hosts.search(id, until), Decision::Stopping, "{why}"));
            }
        });
        assert!(hosts.bootstrapped().is_empty(), "{why}");
    }
}

/// Host 5 is started again with the others' secret while host 4 bootstraps without it, for as long as that may take.
/// Returns who has bootstrapped.
fn corrected_meanwhile(bugs: DiscoveryBugs) -> Vec<u64> {
    let hosts = Hosts { bugs, bootstrap_takes: Duration::from_millis(200), ..Hosts::new(&[1, 1, 1, 1, 2]) };
    let until = Instant::now() + Duration::from_millis(1500);
    std::thread::scope(|scope| {
        let hosts = &hosts;
        for id in 1..=5 {
            scope.spawn(move || hosts.search(id, until));
        }
        let has_begun = || (hosts.bootstraps_begun.load(Ordering::Relaxed) > 0).then_some(());
        poll::wait_until("host 4 bootstraps", Duration::from_secs(5), has_begun).unwrap();
        hosts.start_again(5, 1);
        scope.spawn(move || hosts.search(5, until));
    });
    hosts.bootstrapped()
}

#[test]
fn a_host_that_is_corrected_while_the_majority_bootstraps_joins_it() {
    assert_eq!(corrected_meanwhile(DiscoveryBugs::default()), [4]);
}

/// Hosts that are started again and again, with this secret and that, at moments of this seed: at most one cluster of
/// each kind. Returns what was wrong.
fn broken_rules(runs: u64) -> Vec<String> {
    let mut faults = Vec::new();
    for seed in 0..runs {
        let mut rng = fastrand::Rng::with_seed(seed);
        let kinds: Vec<u64> = (0..5).map(|_| rng.u64(1..=2)).collect();
        let takes = Duration::from_millis(rng.u64(0..40));
        let hosts = Hosts { bootstrap_takes: takes, ..Hosts::new(&kinds) };
        let until = Instant::now() + Duration::from_millis(400);
        std::thread::scope(|scope| {
            let hosts = &hosts;
            for id in 1..=5 {
                scope.spawn(move || hosts.search(id, until));
            }
            for _ in 0..rng.u64(0..6) {
                poll::pause(Duration::from_millis(rng.u64(0..40)));
                let id = rng.u64(1..=5);
                // One that is in a cluster keeps its data.
                if hosts.process(id).cluster.lock().unwrap().is_none() {
                    hosts.start_again(id, rng.u64(1..=2));
                    scope.spawn(move || hosts.search(id, until));
                }
            }
        });
        let all = hosts.bootstrapped.lock().unwrap().clone();
        if [1, 2].iter().any(|kind| all.iter().filter(|(_, its)| its == kind).count() > 1) {
            faults.push(format!("seed {seed}: hosts and their kinds {all:?} each created a cluster"));
        }
    }
    faults
}

#[test]
fn hosts_that_start_again_and_again_never_create_two_clusters() {
    assert_eq!(broken_rules(20), Vec::<String>::new());
}

#[test]
fn each_planted_bug_is_found() {
    // Longer on a machine that has no time for these threads.
    let is_found = [300, 1500, 6000].into_iter().any(|ms| {
        let bugs = DiscoveryBugs { minority_bootstraps: true, ..DiscoveryBugs::default() };
        let hosts = Hosts { bugs, ..Hosts::new(&[1, 1, 2, 2, 3]) };
        hosts.search_all(ms);
        hosts.bootstrapped().len() > 1
    });
    assert!(is_found, "a bootstrap without a majority");
    let claims_nothing = DiscoveryBugs { claims_nothing: true, ..DiscoveryBugs::default() };
    assert_eq!(corrected_meanwhile(claims_nothing), [4, 5], "a bootstrap without grants");
}
