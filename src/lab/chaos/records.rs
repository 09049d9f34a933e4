//! What clients record: one operation as it ended, and the counts and times of all.
//!
//! Not here: what the records mean (`judge.rs`).

use super::endpoints::Door;
use crate::check::{Action, Operation};
use std::collections::BTreeMap;
use std::time::Duration;

/// Time for which keys are used.
pub const EPOCH: Duration = Duration::from_secs(4);
/// Begins the middle part of the keys that are written once.
pub const ONCE: &str = "once";

/// Which epoch a moment of the run belongs to.
pub fn epoch_at(at: Duration) -> u64 {
    at.as_secs() / EPOCH.as_secs()
}

/// One operation of a client, as it ended.
pub struct Recorded {
    pub door: Door,
    pub epoch: u64,
    /// When it ended, in microseconds of the run.
    pub at_us: u64,
    pub is_write: bool,
    /// `None`: refused, without effect.
    pub operation: Option<Operation>,
}

impl Recorded {
    pub fn refused(door: Door, epoch: u64, at_us: u64, is_write: bool) -> Recorded {
        Recorded { door, epoch, at_us, is_write, operation: None }
    }

    pub fn is_acknowledged(&self) -> bool {
        self.operation.as_ref().is_some_and(|operation| operation.return_us.is_some())
    }
}

/// The value that an operation has written, if it is a register's.
pub fn written(operation: &Operation) -> Option<&str> {
    match &operation.action {
        Action::Write(value) => Some(value),
        _ => None,
    }
}

/// Counts and times of the operations of all clients.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Acknowledged, refused, unknown.
    pub by_door: BTreeMap<Door, [u64; 3]>,
    /// When each acknowledged operation ended and how long it took, in microseconds; whether it was a write.
    pub acknowledged: Vec<(u64, u32, bool)>,
}

impl Tally {
    pub fn add(&mut self, recorded: &Recorded) {
        let counts = self.by_door.entry(recorded.door).or_default();
        match &recorded.operation {
            None => counts[1] += 1,
            Some(operation) if operation.return_us.is_none() => counts[2] += 1,
            Some(operation) => {
                counts[0] += 1;
                let took = u32::try_from(recorded.at_us - operation.call_us).unwrap_or(u32::MAX);
                self.acknowledged.push((recorded.at_us, took, recorded.is_write));
            }
        }
    }

    /// Acknowledged, refused, unknown, of all doors.
    pub fn totals(&self) -> [u64; 3] {
        self.by_door.values().fold([0; 3], |all, one| std::array::from_fn(|at| all[at] + one[at]))
    }

    /// The times of acknowledged writes in order.
    pub fn write_times(&self) -> Vec<u64> {
        let mut times: Vec<u64> = self.acknowledged.iter().filter(|it| it.2).map(|it| it.0).collect();
        times.sort_unstable();
        times
    }
}
