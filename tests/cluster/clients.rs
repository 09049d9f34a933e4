//! Threads that play clients and onlookers while a test breaks nodes.
//!
//! [`Writer`] writes numbered keys and remembers what was acknowledged; [`Onlooker`] asks every node who leads and
//! keeps every (term, leader) that it ever saw. Not here: breaking things (`lab::Cluster`).

use phalanx::lab::web::{self, KeyClient};
use phalanx::lab::{Cluster, poll};
use phalanx::node::views::status::Status;
use phalanx::raft::Role;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// One acknowledged note.
#[derive(Clone, Debug)]
pub struct Ack {
    pub id: String,
    pub text: String,
    pub begun: Instant,
    pub ended: Instant,
}

/// What a writer did.
#[derive(Debug, Default)]
pub struct Written {
    pub acks: Vec<Ack>,
    /// Writes that nobody acknowledged in time: they may be there or not.
    pub doubtful: usize,
}

impl Written {
    /// The longest that a note waited from proposal to acknowledgement, among those proposed after `since`.
    pub fn longest_wait(&self, since: Instant) -> Duration {
        let after = self.acks.iter().filter(|a| a.ended > since);
        after.map(|a| a.ended - a.begun).max().unwrap_or_default()
    }

    /// Writes acknowledged after a moment.
    pub fn since(&self, moment: Instant) -> usize {
        self.acks.iter().filter(|a| a.begun > moment).count()
    }
}

/// Writes a note every few milliseconds until it is told to finish.
pub struct Writer {
    stop: Arc<AtomicBool>,
    acked: Arc<AtomicUsize>,
    thread: JoinHandle<Written>,
}

impl Writer {
    /// Starts at the node at `place` in the cluster's list of addresses; goes on with the others when that fails.
    pub fn start(cluster: &Cluster, name: &str, place: usize, pace: Duration) -> Writer {
        let mut keys = cluster.keys();
        keys.go_to(place);
        let (stop, name) = (Arc::new(AtomicBool::new(false)), name.to_string());
        let acked = Arc::new(AtomicUsize::new(0));
        let (should_stop, counted) = (stop.clone(), acked.clone());
        let thread = std::thread::spawn(move || write(&mut keys, &name, pace, &should_stop, &counted));
        Writer { stop, acked, thread }
    }

    /// Writes acknowledged so far.
    pub fn acked(&self) -> usize {
        self.acked.load(Ordering::Relaxed)
    }

    /// Stops and tells what it did.
    pub fn finish(self) -> Written {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn write(keys: &mut KeyClient, name: &str, pace: Duration, should_stop: &AtomicBool, acked: &AtomicUsize) -> Written {
    let mut written = Written::default();
    let mut count = 0;
    while !should_stop.load(Ordering::Relaxed) {
        count += 1;
        let (id, text) = (format!("{name}-{count}"), format!("text {count} of {name}"));
        let begun = Instant::now();
        match keys.put(&id, &text, begun + Duration::from_secs(8)) {
            Ok(()) => {
                acked.fetch_add(1, Ordering::Relaxed);
                written.acks.push(Ack { id, text, begun, ended: Instant::now() });
            }
            Err(_) => written.doubtful += 1,
        }
        poll::pause_until(begun + pace);
    }
    written
}

/// Reads every acknowledged note again; panics if one is missing or different.
pub fn assert_all_there(cluster: &Cluster, written: &Written) {
    assert!(!written.acks.is_empty(), "nothing was acknowledged: the test proves nothing");
    let mut keys = cluster.keys();
    for ack in &written.acks {
        let found = keys.read(&ack.id, Instant::now() + Duration::from_secs(10)).unwrap();
        assert_eq!(found.as_ref(), Some(&ack.text), "acknowledged note {} is not what was written", ack.id);
    }
}

/// Asks every node again and again who leads.
pub struct Onlooker {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<BTreeMap<u64, BTreeSet<u64>>>,
}

impl Onlooker {
    pub fn start(cluster: &Cluster) -> Onlooker {
        let stop = Arc::new(AtomicBool::new(false));
        let (should_stop, addresses, password) = (stop.clone(), cluster.addresses(), cluster.client_password());
        let thread = std::thread::spawn(move || {
            let mut seen: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
            while !should_stop.load(Ordering::Relaxed) {
                for address in &addresses {
                    let within = Duration::from_millis(100);
                    let answer = web::ask_with(password.as_deref(), address, "GET", "/v1/status", None, within);
                    let Ok(answer) = answer else { continue };
                    let Ok(status) = serde_json::from_slice::<Status>(&answer.body) else { continue };
                    if status.node.role == Role::Leader {
                        seen.entry(status.cluster.term.0).or_default().insert(status.node.id.0);
                    }
                }
                poll::pause(Duration::from_millis(5));
            }
            seen
        });
        Onlooker { stop, thread }
    }

    /// Every leader seen, by term; panics if a term had two.
    pub fn assert_one_leader_per_term(self) -> BTreeMap<u64, BTreeSet<u64>> {
        self.stop.store(true, Ordering::Relaxed);
        let seen = self.thread.join().unwrap();
        assert!(!seen.is_empty(), "no leader was ever seen: the test proves nothing");
        for (term, leaders) in &seen {
            assert_eq!(leaders.len(), 1, "two leaders in term {term}: {leaders:?}");
        }
        seen
    }
}

/// How long this machine keeps a thread waiting that only wants to wake: what a busy neighbour takes is not the cluster's.
pub struct Stalls {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Duration>,
}

impl Stalls {
    /// Begins to watch.
    pub fn start() -> Stalls {
        let stop = Arc::new(AtomicBool::new(false));
        let should_stop = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut worst = Duration::ZERO;
            while !should_stop.load(Ordering::Relaxed) {
                let asleep = Instant::now();
                poll::pause(Duration::from_millis(1));
                worst = worst.max(asleep.elapsed());
            }
            worst
        });
        Stalls { stop, thread }
    }

    /// The longest that a wake-up took.
    pub fn worst(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("it only sleeps")
    }
}
