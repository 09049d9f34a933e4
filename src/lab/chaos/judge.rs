//! The judge: checks the history of each key once no more operations are added to it, and counts.
//!
//! Keys belong to an epoch of some seconds. When the epoch is over and each of its operations has an answer or none any
//! more, each key is read once more, its history is checked, and only what the key may hold from then on is kept. At the
//! end of the run each key that was written more than once is read again: a write that was lost after its epoch is found
//! there.
//! Not here: the search for an order (`check/`).

use super::super::{LabError, Result, poll};
use super::endpoints::{Ask, Door, Endpoint, Outcome, Target};
use super::records::{EPOCH, ONCE, Recorded, Tally, written};
use crate::check::{Action, Operation, Verdict, check_history};
use crate::node::spawn;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// After an epoch, the time until each of its operations has an answer or none: the clients' longest wait and more.
const ANSWERED_WITHIN: Duration = Duration::from_secs(10);
/// Per key; far more than any history of these clients has needed.
const STEPS_MAX: u64 = 20_000_000;
/// Operations that wait for the judge; then the clients wait.
const INBOX_MAX: usize = 100_000;
/// A read of the judge is repeated for so long: faults may last.
const READ_WITHIN: Duration = Duration::from_secs(120);
/// Violations that are kept in full.
const VIOLATIONS_MAX: usize = 20;

/// What the judge has found.
#[derive(Clone, Debug, Default)]
pub struct Judged {
    pub tally: Tally,
    pub keys: u64,
    pub violations: Vec<String>,
    /// Beyond those that are kept in full.
    pub more_violations: u64,
    pub undecided: Vec<String>,
    /// Keys of which an acknowledged write is not there at the end.
    pub lost: Vec<String>,
}

/// What a key may hold after its epoch.
struct Settled {
    door: Door,
    last: Option<String>,
    /// Values of writes that may still happen.
    may_follow: BTreeSet<String>,
    /// Additions whose outcome is unknown: the sum may change.
    may_change: bool,
}

pub struct Judge {
    inbox: Sender<Recorded>,
    result: Receiver<Judged>,
}

impl Judge {
    /// # Errors
    /// The system refuses a thread.
    pub fn start(target: Target, begun: Instant) -> Result<Judge> {
        let ((inbox, recorded), (to, result)) = (bounded(INBOX_MAX), bounded(1));
        let court = Court {
            reader: Reader::new(target),
            begun,
            epochs: BTreeMap::new(),
            judged_below: 0,
            settled: BTreeMap::new(),
            judged: Judged::default(),
        };
        let judge = move || _ = to.send(court.run(&recorded));
        spawn::spawn("judge", judge).map_err(LabError::io("start the judge"))?;
        Ok(Judge { inbox, result })
    }

    pub fn inbox(&self) -> Sender<Recorded> {
        self.inbox.clone()
    }

    /// Ends when all clients have ended and everything is judged.
    pub fn finish(self) -> Judged {
        drop(self.inbox);
        self.result.recv().expect("the judge does not panic")
    }
}

struct Court {
    reader: Reader,
    begun: Instant,
    /// Operations by epoch, door and key.
    epochs: BTreeMap<u64, BTreeMap<(Door, String), Vec<Operation>>>,
    /// Earlier epochs were judged.
    judged_below: u64,
    settled: BTreeMap<String, Settled>,
    judged: Judged,
}

impl Court {
    fn run(mut self, recorded: &Receiver<Recorded>) -> Judged {
        loop {
            match recorded.recv_timeout(Duration::from_millis(200)) {
                Ok(recorded) => self.add(recorded),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            let over = self.begun.elapsed().saturating_sub(ANSWERED_WITHIN);
            // What has ended by then may still wait here, if the last keys took long to read.
            recorded.try_iter().for_each(|recorded| self.add(recorded));
            while let Some(first) = self.epochs.first_entry() {
                if EPOCH * (*first.key() as u32 + 1) > over {
                    break;
                }
                self.judged_below = first.key() + 1;
                let keys = first.remove();
                self.judge(keys);
            }
        }
        for keys in std::mem::take(&mut self.epochs).into_values() {
            self.judge(keys);
        }
        for (key, settled) in std::mem::take(&mut self.settled) {
            self.look_again(&key, &settled);
        }
        self.judged
    }

    fn add(&mut self, recorded: Recorded) {
        self.judged.tally.add(&recorded);
        // A history of which a part is missing cannot be judged.
        if recorded.epoch < self.judged_below && self.judged.undecided.len() >= VIOLATIONS_MAX {
            return;
        }
        if recorded.epoch < self.judged_below {
            self.judged.undecided.push(format!("an operation of {} s took too long", recorded.at_us / 1_000_000));
            return;
        }
        if let Some(operation) = recorded.operation {
            let keys = self.epochs.entry(recorded.epoch).or_default();
            keys.entry((recorded.door, operation.key.clone())).or_default().push(operation);
        }
    }

    /// Judges the keys of an epoch.
    fn judge(&mut self, keys: BTreeMap<(Door, String), Vec<Operation>>) {
        for ((door, key), mut operations) in keys {
            self.judged.keys += 1;
            let call_us = self.begun.elapsed().as_micros() as u64;
            let Some(last) = self.reader.read(door, &key) else {
                self.judged.undecided.push(format!("key {key}: no node has answered for {} s", READ_WITHIN.as_secs()));
                continue;
            };
            let return_us = Some(self.begun.elapsed().as_micros() as u64);
            let action = Action::Read(last.clone());
            operations.push(Operation { client: 0, key: key.clone(), call_us, return_us, action });
            let judgement = check_history(&operations, STEPS_MAX);
            if let Some(why) = lost_write(&operations, last.as_deref()) {
                self.judged.lost.push(format!("key {key}: {why}"));
            }
            let why = judgement.why.unwrap_or_default();
            match judgement.verdict {
                Verdict::Ok => {}
                Verdict::Violation if self.judged.violations.len() < VIOLATIONS_MAX => self.judged.violations.push(why),
                Verdict::Violation => self.judged.more_violations += 1,
                Verdict::Undecided => self.judged.undecided.push(why),
            }
            // They are many, and no client touches them again.
            if key.contains(ONCE) {
                continue;
            }
            let unknown = || operations.iter().filter(|operation| operation.return_us.is_none());
            let may_follow = unknown().filter_map(written).map(str::to_string).collect();
            let may_change = unknown().any(|operation| matches!(operation.action, Action::Add { .. }));
            self.settled.insert(key, Settled { door, last, may_follow, may_change });
        }
    }

    /// Whether a key still holds what it held after its epoch.
    fn look_again(&mut self, key: &str, settled: &Settled) {
        let Some(now) = self.reader.read(settled.door, key) else {
            self.judged.undecided.push(format!("key {key}: not readable at the end"));
            return;
        };
        let is_late_write = now.as_ref().is_some_and(|now| settled.may_follow.contains(now));
        if now != settled.last && !is_late_write && !settled.may_change {
            self.judged.lost.push(format!("key {key} held {:?} and holds {now:?} at the end", settled.last));
        }
    }
}

/// An acknowledged write that is certainly not in the last value of its key: of a register one that began after the write
/// of that value had returned, of a counter any part of the sum.
fn lost_write(operations: &[Operation], last: Option<&str>) -> Option<String> {
    let acknowledged = || operations.iter().filter(|operation| operation.return_us.is_some());
    let added: i64 = acknowledged()
        .filter_map(|operation| match operation.action {
            Action::Add { by, .. } => Some(by),
            _ => None,
        })
        .sum();
    let sum = last.map_or(Some(0), |last| last.parse::<i64>().ok());
    if let Some(sum) = sum.filter(|sum| *sum < added) {
        return Some(format!("{added} was added and acknowledged, and the sum is {sum}"));
    }
    let of_last = operations.iter().find(|operation| written(operation).is_some() && written(operation) == last);
    let held_since = match (last, of_last) {
        (None, _) => 0,
        // An unknown write may have happened at any time.
        (Some(_), of_last) => of_last?.return_us?,
    };
    let later = acknowledged()
        .filter(|operation| written(operation).is_some())
        .find(|operation| operation.call_us > held_since)?;
    Some(format!("the write of {:?} was acknowledged, and the key holds {last:?}, which is older", written(later)?))
}

/// Reads keys for the judge, at whichever node answers, always linearizably.
struct Reader {
    target: Target,
    endpoints: BTreeMap<Door, Endpoint>,
}

impl Reader {
    fn new(target: Target) -> Reader {
        let target = Target { is_eventual: false, ..target };
        let endpoints = Door::ALL.into_iter().map(|door| (door, Endpoint::new(door, target.clone()))).collect();
        Reader { target, endpoints }
    }

    /// The value; `None` if no node says it in time.
    fn read(&mut self, door: Door, key: &str) -> Option<Option<String>> {
        let endpoint = self.endpoints.get_mut(&door)?;
        let until = Instant::now() + READ_WITHIN;
        while Instant::now() < until {
            let is_open = endpoint.is_open() || endpoint.connect(fastrand::usize(..self.target.http.len())).is_ok();
            if is_open && let Outcome::Done(Action::Read(value)) = endpoint.operate(key, &Ask::Read) {
                return Some(value);
            }
            endpoint.close();
            poll::pause(Duration::from_millis(20));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(action: Action, call_us: u64, return_us: Option<u64>) -> Operation {
        Operation { client: 1, key: "k".into(), call_us, return_us, action }
    }

    #[test]
    fn an_acknowledged_write_is_lost_if_the_key_holds_an_older_value() {
        let write = |value: &str, call_us, return_us| operation(Action::Write(value.into()), call_us, return_us);
        let history = [write("a", 10, Some(20)), write("b", 30, Some(40)), write("c", 35, None)];
        assert!(lost_write(&history, Some("a")).unwrap().contains("\"b\" was acknowledged"));
        assert!(lost_write(&history, None).is_some(), "both are lost");
        assert_eq!(lost_write(&history, Some("b")), None);
        assert_eq!(lost_write(&history, Some("c")), None, "it may have come last");
        let at_once = [write("a", 10, Some(40)), write("b", 20, Some(30))];
        assert!(
            ["a", "b"].into_iter().all(|last| lost_write(&at_once, Some(last)).is_none()),
            "either may be the last"
        );
    }

    #[test]
    fn a_counter_holds_at_least_what_was_acknowledged() {
        let add = |by, return_us| operation(Action::Add { by, sum: None }, 10, return_us);
        let history = [add(3, Some(20)), add(4, Some(20)), add(5, None)];
        assert!(lost_write(&history, Some("4")).is_some() && lost_write(&history, None).is_some());
        assert!(lost_write(&history, Some("7")).is_none() && lost_write(&history, Some("12")).is_none());
    }
}
