//! Clients that write, read and count through any node, with a record of each operation, and the check of the record.
//!
//! Keys change every few seconds, so that each has a history which can be searched. At the end each key is read once
//! more: a lost write is a history that nothing explains. Not here: what is broken meanwhile (`random_faults.rs`).

use phalanx::check::{Action, Operation, Verdict, check_history};
use phalanx::lab::hosts::CLIENT_PASSWORD;
use phalanx::lab::web::{Connection, KeyClient};
use phalanx::lab::{Result, poll};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Between two operations of one client.
const PACE: Duration = Duration::from_millis(15);
/// Longer than a node takes to answer, whatever happens (`request_timeout_ms`).
const ANSWER_WITHIN: Duration = Duration::from_secs(8);
const KEYS_CHANGE_AFTER: Duration = Duration::from_secs(4);
const REGISTERS: u64 = 4;
const COUNTERS: u64 = 2;
/// Per key; far more than any history of these clients has needed.
const STEPS_MAX: u64 = 20_000_000;

enum Outcome {
    Done(Action),
    /// Certainly without effect.
    Refused,
    Unknown(Action),
}

/// What all clients did.
#[derive(Debug, Default)]
pub struct Records {
    operations: Vec<Operation>,
    pub acknowledged: usize,
    refused: usize,
    unknown: usize,
}

impl Records {
    fn add(&mut self, mut operation: Operation, outcome: Outcome, at_us: u64) {
        let (action, return_us) = match outcome {
            Outcome::Done(action) => (action, Some(at_us)),
            Outcome::Unknown(action) => (action, None),
            Outcome::Refused => return self.refused += 1,
        };
        (operation.action, operation.return_us) = (action, return_us);
        *(if return_us.is_some() { &mut self.acknowledged } else { &mut self.unknown }) += 1;
        self.operations.push(operation);
    }

    /// The keys whose history no order explains, or none was found for, with the reason.
    pub fn unexplained_keys(&self) -> Vec<String> {
        let mut by_key: BTreeMap<&str, Vec<Operation>> = BTreeMap::new();
        for operation in &self.operations {
            by_key.entry(&operation.key).or_default().push(operation.clone());
        }
        let judged = by_key.values().map(|operations| check_history(operations, STEPS_MAX));
        judged.filter(|it| it.verdict != Verdict::Ok).map(|it| format!("{:?}: {:?}", it.verdict, it.why)).collect()
    }

    /// The longest time in which no client got an answer.
    fn longest_gap(&self) -> Duration {
        let mut returns: Vec<u64> = self.operations.iter().filter_map(|it| it.return_us).collect();
        returns.sort_unstable();
        Duration::from_micros(returns.windows(2).map(|two| two[1] - two[0]).max().unwrap_or_default())
    }
}

impl fmt::Display for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut times: Vec<u64> = self.operations.iter().filter_map(|it| Some(it.return_us? - it.call_us)).collect();
        times.sort_unstable();
        let at = |share: usize| times.get(times.len() * share / 100).copied().unwrap_or_default() as f64 / 1000.0;
        write!(
            f,
            "{} operations acknowledged, {} refused, {} unknown; p50 {:.1} ms, p99 {:.1} ms; no answer for {:.1} s at most",
            self.acknowledged,
            self.refused,
            self.unknown,
            at(50),
            at(99),
            self.longest_gap().as_secs_f64(),
        )
    }
}

/// Clients at work.
pub struct Recorders {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<Records>>,
    addresses: Vec<String>,
    begun: Instant,
}

impl Recorders {
    pub fn start(addresses: &[String], clients: u64) -> Recorders {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let begun = Instant::now();
        let start = |id| {
            let (stop, acknowledged, addresses) = (stop.clone(), acknowledged.clone(), addresses.to_vec());
            let mut client = RecordedClient { id, count: 0, rng: fastrand::Rng::with_seed(id), addresses, begun };
            std::thread::spawn(move || client.run(&stop, &acknowledged))
        };
        let threads = (1..=clients).map(start).collect();
        Recorders { stop, acknowledged, threads, addresses: addresses.to_vec(), begun }
    }

    /// Operations acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Stops the clients, reads each key once more, and returns the record.
    pub fn finish(self) -> Result<Records> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Records::default();
        for thread in self.threads {
            let records = thread.join().expect("a client does not panic");
            all.operations.extend(records.operations);
            all.acknowledged += records.acknowledged;
            all.refused += records.refused;
            all.unknown += records.unknown;
        }
        let keys: BTreeSet<String> = all.operations.iter().map(|it| it.key.clone()).collect();
        let mut client = KeyClient::new(self.addresses).with_password(Some(CLIENT_PASSWORD.into()));
        for key in keys {
            let call_us = self.begun.elapsed().as_micros() as u64;
            let seen = client.read(&key, Instant::now() + Duration::from_secs(20))?;
            let return_us = Some(self.begun.elapsed().as_micros() as u64);
            all.operations.push(Operation { client: 0, key, call_us, return_us, action: Action::Read(seen) });
        }
        Ok(all)
    }
}

struct RecordedClient {
    id: u64,
    count: u64,
    rng: fastrand::Rng,
    addresses: Vec<String>,
    begun: Instant,
}

impl RecordedClient {
    fn run(&mut self, stop: &AtomicBool, acknowledged: &AtomicUsize) -> Records {
        let mut records = Records::default();
        while !stop.load(Ordering::Relaxed) {
            let begun = Instant::now();
            let epoch = self.begun.elapsed().as_secs() / KEYS_CHANGE_AFTER.as_secs();
            let is_counter = self.rng.u8(..4) == 0;
            let key = match is_counter {
                true => format!("n{epoch}-{}", self.rng.u64(..COUNTERS)),
                false => format!("r{epoch}-{}", self.rng.u64(..REGISTERS)),
            };
            let call_us = self.begun.elapsed().as_micros() as u64;
            let outcome = self.operate(&key, is_counter);
            let at_us = self.begun.elapsed().as_micros() as u64;
            if matches!(outcome, Outcome::Done(_)) {
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            let operation = Operation { client: self.id, key, call_us, return_us: None, action: Action::Read(None) };
            records.add(operation, outcome, at_us);
            poll::pause_until(begun + PACE);
        }
        records
    }

    fn operate(&mut self, key: &str, is_counter: bool) -> Outcome {
        self.count += 1;
        let address = &self.addresses[self.rng.usize(..self.addresses.len())];
        let deadline = Instant::now() + ANSWER_WITHIN;
        let Ok(connection) = Connection::open(address, Duration::from_millis(500)) else { return Outcome::Refused };
        let mut connection = connection.with_password(Some(CLIENT_PASSWORD));
        let path = format!("/v1/kv/{key}");
        if self.rng.bool() {
            return match connection.ask("GET", &path, None, deadline) {
                Ok(answer) if answer.status == 200 => Outcome::Done(Action::Read(Some(answer.text()))),
                Ok(answer) if answer.status == 404 => Outcome::Done(Action::Read(None)),
                // A read that was not answered says nothing.
                _ => Outcome::Refused,
            };
        }
        let by = i64::from(self.rng.u8(1..9));
        let value = json!(format!("{}-{}", self.id, self.count));
        let (method, body) = if is_counter { ("POST", json!({"incr": by})) } else { ("PUT", value.clone()) };
        let action = |sum| if is_counter { Action::Add { by, sum } } else { Action::Write(value.to_string()) };
        match connection.ask(method, &path, Some(&body), deadline) {
            Ok(answer) if answer.status == 200 => Outcome::Done(action(answer.json()["value"].as_i64())),
            Ok(answer) if answer.json()["outcome"] == "refused" => Outcome::Refused,
            _ => Outcome::Unknown(action(None)),
        }
    }
}
