//! What this node knows of differences between the nodes' states, its own first.
//!
//! A node that differs from the majority is corrupt: it serves no reads, does not lead if another can, gives its state
//! to no other node and saves no snapshot, until it has replaced its state by that of a node that agrees. When there is
//! no majority the cluster is split: every node refuses the writes of clients, because it is unknown which state is
//! right.
//!
//! Invariants: I1 digests are reported only of the present state: a replacement begins a new epoch, and digests of the
//! earlier state are dropped. I2 no snapshot is being saved while a corrupt state is replaced.
//! Not here: comparing and acting on it (`node/snapshots/checkpoints.rs`), the transfer (`node/snapshots/rebuild.rs`).

use crate::cluster::integrity::{Difference, Findings, StateReport};
use crate::lock::{Mutex, lock};
use crate::outcome::Reason;
use crate::services::digests::StateDigest;
use crate::store::integrity_record::{FindingKind, IntegrityRecord};
use crate::types::Index;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Digests that are reported: of two checkpoints that others wait for, and of two more for late nodes.
const DIGESTS_KEPT: usize = 4;

/// Whether this node's state and those of the others agree.
#[derive(Debug)]
pub struct Integrity {
    state: Mutex<State>,
    is_corrupt: AtomicBool,
    is_split: AtomicBool,
    /// A snapshot is being written.
    is_saving: AtomicBool,
    /// A digest is being taken.
    is_digesting: AtomicBool,
    /// Grows when the services' state is replaced.
    epoch: AtomicU64,
    /// Index of the newest checkpoint applied.
    checkpoint: AtomicU64,
    /// Differences found on any node since the start.
    pub differences: AtomicU64,
    /// Digests taken, and the microseconds that the newest took, rests included.
    pub digests: AtomicU64,
    pub digest_us: AtomicU64,
}

#[derive(Debug)]
struct State {
    report: Arc<StateReport>,
    split: Option<Difference>,
    findings: Arc<Findings>,
    /// When the newest checkpoint was applied, or the node started.
    checkpoint_at: Instant,
}

impl Integrity {
    /// `record`: what an earlier process knew.
    pub fn new(record: Option<IntegrityRecord>) -> Integrity {
        let found = |kind: FindingKind| {
            let record = record.as_ref().filter(|record| record.kind == kind)?;
            Some(Difference { index: record.index, parts: record.parts.clone() })
        };
        let (corrupt, split) = (found(FindingKind::Corrupt), found(FindingKind::Split));
        Integrity {
            is_corrupt: AtomicBool::new(corrupt.is_some()),
            is_split: AtomicBool::new(split.is_some()),
            is_saving: AtomicBool::default(),
            is_digesting: AtomicBool::default(),
            epoch: AtomicU64::default(),
            checkpoint: AtomicU64::default(),
            differences: AtomicU64::default(),
            digests: AtomicU64::default(),
            digest_us: AtomicU64::default(),
            state: Mutex::new(State {
                report: Arc::new(StateReport { corrupt, ..StateReport::default() }),
                split,
                findings: Arc::default(),
                checkpoint_at: Instant::now(),
            }),
        }
    }

    /// This node's state differs from the majority's.
    pub fn is_corrupt(&self) -> bool {
        self.is_corrupt.load(Ordering::SeqCst)
    }

    /// It is unknown which state is right.
    pub fn is_split(&self) -> bool {
        self.is_split.load(Ordering::SeqCst)
    }

    /// What this node reports about itself.
    pub fn report(&self) -> Arc<StateReport> {
        Arc::clone(&lock(&self.state).report)
    }

    /// The difference for which no majority agrees.
    pub fn split(&self) -> Option<Difference> {
        lock(&self.state).split.clone()
    }

    /// The newest comparison of all nodes.
    pub fn findings(&self) -> Arc<Findings> {
        Arc::clone(&lock(&self.state).findings)
    }

    pub fn set_findings(&self, findings: Arc<Findings>) {
        lock(&self.state).findings = findings;
    }

    /// Marks this node as corrupt, or removes the mark.
    pub fn set_corrupt(&self, difference: Option<Difference>) {
        let mut state = lock(&self.state);
        self.is_corrupt.store(difference.is_some(), Ordering::SeqCst);
        state.report = Arc::new(StateReport { corrupt: difference, digests: state.report.digests.clone() });
    }

    /// Marks the cluster as split, or no longer.
    pub fn set_split(&self, difference: Option<Difference>) {
        let mut state = lock(&self.state);
        self.is_split.store(difference.is_some(), Ordering::SeqCst);
        state.split = difference;
    }

    /// A checkpoint was applied.
    pub fn set_checkpoint(&self, index: Index) {
        lock(&self.state).checkpoint_at = Instant::now();
        self.checkpoint.store(index.0, Ordering::Release);
    }

    pub fn checkpoint(&self) -> Index {
        Index(self.checkpoint.load(Ordering::Acquire))
    }

    /// How long ago that was, or the start.
    pub fn checkpoint_age(&self) -> Duration {
        lock(&self.state).checkpoint_at.elapsed()
    }

    /// Epoch of the state that is in place.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    /// The services' state was replaced: reports about the earlier one are dropped.
    pub fn begin_epoch(&self) {
        let mut state = lock(&self.state);
        self.epoch.fetch_add(1, Ordering::SeqCst);
        state.report = Arc::new(StateReport { corrupt: state.report.corrupt.clone(), digests: Vec::new() });
    }

    /// A digest was taken of the state of this epoch.
    pub fn add_digest(&self, epoch: u64, digest: StateDigest) {
        let mut state = lock(&self.state);
        if epoch != self.epoch() || state.report.digests.iter().any(|known| known.index >= digest.index) {
            return;
        }
        let mut report = StateReport::clone(&state.report);
        if report.digests.len() == DIGESTS_KEPT {
            report.digests.remove(0);
        }
        report.digests.push(digest);
        state.report = Arc::new(report);
    }

    /// Begins to save a snapshot, unless one is being saved or this state must not be kept.
    pub fn begin_saving(&self) -> bool {
        if self.is_saving.swap(true, Ordering::SeqCst) {
            return false;
        }
        // After the flag: the thread that marks this node as corrupt accesses the two in the other order (I2).
        if self.is_corrupt() {
            self.end_saving();
            return false;
        }
        true
    }

    pub fn end_saving(&self) {
        self.is_saving.store(false, Ordering::SeqCst);
    }

    /// Whether a snapshot is being saved.
    pub fn is_saving(&self) -> bool {
        self.is_saving.load(Ordering::SeqCst)
    }

    /// Begins to take a digest, unless one is being taken.
    pub fn begin_digest(&self) -> bool {
        !self.is_digesting.swap(true, Ordering::SeqCst)
    }

    /// Whether a digest is being taken.
    pub fn is_digesting(&self) -> bool {
        self.is_digesting.load(Ordering::SeqCst)
    }

    pub fn end_digest(&self) {
        self.is_digesting.store(false, Ordering::SeqCst);
    }

    /// The difference that makes this node corrupt.
    pub fn corrupt(&self) -> Option<Difference> {
        self.is_corrupt().then(|| self.report().corrupt.clone()).flatten()
    }

    /// Why no reads are served, if they are not.
    pub fn no_reads(&self) -> Option<Reason> {
        self.corrupt().map(Reason::Corrupt)
    }

    /// Why no writes are accepted, if they are not.
    pub fn no_writes(&self) -> Option<Reason> {
        if !self.is_split() {
            return None;
        }
        self.split().map(Reason::Split)
    }
}

#[cfg(test)]
mod tests {
    use crate::node::views::integrity::*;

    fn digest(index: u64) -> StateDigest {
        StateDigest { index: Index(index), parts: vec![(2, index)] }
    }

    #[test]
    fn a_digest_of_a_replaced_state_is_never_reported() {
        let integrity = Integrity::new(None);
        let before = integrity.epoch();
        integrity.add_digest(before, digest(7));
        integrity.begin_epoch();
        assert!(integrity.report().digests.is_empty(), "it was of the state before");
        integrity.add_digest(before, digest(8));
        assert!(integrity.report().digests.is_empty(), "it was taken of the state before");
        for index in 9..20 {
            integrity.add_digest(integrity.epoch(), digest(index));
        }
        integrity.add_digest(integrity.epoch(), digest(12));
        let indexes: Vec<u64> = integrity.report().digests.iter().map(|digest| digest.index.0).collect();
        assert_eq!(indexes, [16, 17, 18, 19]);
    }

    #[test]
    fn a_corrupt_state_is_not_saved_and_a_mark_outlives_the_process() {
        let integrity = Integrity::new(None);
        assert!(integrity.begin_saving() && !integrity.begin_saving());
        integrity.end_saving();
        let difference = Difference { index: Index(7), parts: vec![2] };
        integrity.set_corrupt(Some(difference));
        assert!(!integrity.begin_saving() && !integrity.is_saving());
        let why = integrity.no_reads().unwrap().to_string();
        assert!(why.starts_with("this node's key-value differs from the majority's at index 7"), "{why}");
        assert_eq!(integrity.no_writes(), None);
        let record = |kind| IntegrityRecord { uuid: uuid::Uuid::nil(), kind, index: Index(7), parts: vec![2] };
        assert!(Integrity::new(Some(record(FindingKind::Corrupt))).no_reads().is_some());
        let split = Integrity::new(Some(record(FindingKind::Split)));
        assert!(split.no_reads().is_none() && split.no_writes().unwrap().to_string().starts_with("read-only: "));
    }
}
