//! Clients that read, write and count through any node and any endpoint, and hand a record of each operation to the judge.
//!
//! Keys change every few seconds, so that each has a history that can be searched (`judge.rs`).

use super::super::{LabError, Result, poll};
use super::endpoints::{Ask, Door, Endpoint, Outcome, Target};
use super::records::{ONCE, Recorded, epoch_at};
use crate::check::Operation;
use crate::node::spawn;
use crossbeam_channel::Sender;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Keys of each door and kind within an epoch.
const REGISTERS: u64 = 4;
const COUNTERS: u64 = 2;
/// Operations until a client turns to another node.
const TURN_AFTER: u64 = 40;

/// Threads of clients at work.
pub struct Clients {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    /// # Errors
    /// The system refuses a thread.
    pub fn start(
        target: &Target,
        count: u64,
        pace: Duration,
        begun: Instant,
        to: &Sender<Recorded>,
    ) -> Result<Clients> {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut threads = Vec::new();
        for id in 1..=count {
            let door = Door::ALL[(id as usize - 1) % Door::ALL.len()];
            let mut client = Client {
                id,
                count: 0,
                rng: fastrand::Rng::with_seed(id),
                endpoint: Endpoint::new(door, target.clone()),
                nodes: target.http.len(),
                begun,
                to: to.clone(),
            };
            let (stop, acknowledged) = (Arc::clone(&stop), Arc::clone(&acknowledged));
            let thread = spawn::spawn("client", move || client.run(pace, &stop, &acknowledged));
            threads.push(thread.map_err(LabError::io("start a client"))?);
        }
        Ok(Clients { stop, acknowledged, threads })
    }

    /// Operations acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Ends when the last operation has an answer or none.
    pub fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a client does not panic");
        }
    }
}

struct Client {
    id: u64,
    count: u64,
    rng: fastrand::Rng,
    endpoint: Endpoint,
    nodes: usize,
    begun: Instant,
    to: Sender<Recorded>,
}

impl Client {
    fn run(&mut self, pace: Duration, stop: &AtomicBool, acknowledged: &AtomicU64) {
        while !stop.load(Ordering::Relaxed) {
            let begun = Instant::now();
            let recorded = self.operate();
            acknowledged.fetch_add(u64::from(recorded.is_acknowledged()), Ordering::Relaxed);
            if self.to.send(recorded).is_err() {
                return;
            }
            poll::pause_until(begun + pace);
        }
    }

    fn operate(&mut self) -> Recorded {
        self.count += 1;
        let epoch = epoch_at(self.begun.elapsed());
        let door = self.endpoint.door();
        let is_counter = door != Door::Sql && self.rng.u8(..4) == 0;
        let (kind, keys) = if is_counter { ("n", COUNTERS) } else { ("r", REGISTERS) };
        let mut key = format!("{}-{kind}{epoch}-{}", door.name(), self.rng.u64(..keys));
        let ask = match (self.rng.bool(), is_counter) {
            (true, _) => Ask::Read,
            (false, true) => Ask::Add(i64::from(self.rng.u8(1..9))),
            (false, false) => Ask::Write(format!("{}-{}", self.id, self.count)),
        };
        // Some keys are written once: no later write hides that one was lost.
        if matches!(ask, Ask::Write(_)) && self.rng.u8(..4) == 0 {
            key = format!("{}-{ONCE}{epoch}-{}-{}", door.name(), self.id, self.count);
        }
        let call_us = self.begun.elapsed().as_micros() as u64;
        if !self.endpoint.is_open() || self.count.is_multiple_of(TURN_AFTER) {
            let place = self.rng.usize(..self.nodes);
            if self.endpoint.connect(place).is_err() {
                return Recorded::refused(door, epoch, call_us, !matches!(ask, Ask::Read));
            }
        }
        let call_us = self.begun.elapsed().as_micros() as u64;
        let outcome = self.endpoint.operate(&key, &ask);
        let at_us = self.begun.elapsed().as_micros() as u64;
        let is_write = !matches!(ask, Ask::Read);
        let (action, return_us) = match outcome {
            Outcome::Done(action) => (action, Some(at_us)),
            Outcome::Unknown(action) => (action, None),
            Outcome::Refused => return Recorded::refused(door, epoch, at_us, is_write),
        };
        let operation = Operation { client: self.id, key, call_us, return_us, action };
        Recorded { door, epoch, at_us, is_write, operation: Some(operation) }
    }
}
