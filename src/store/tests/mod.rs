//! Scripted workloads against a model, over a treacherous disk.
//!
//! `crash.rs` stops the machine at every operation; `damage.rs` cuts and flips what lies on disk; `failing.rs` lets
//! operations fail and the disk run full. All judge by the model below: what was synced is there, and what is there was
//! written.

mod crash;
mod damage;
mod failing;
pub(crate) mod fault_files;

use super::error::StoreError;
use super::{Options, Store};
use crate::raft::{Durable, Entry, HardState, Membership, Payload, Persist, SnapshotMeta};
use crate::types::{Identity, Index, NodeId, Term};
use fault_files::FaultFiles;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use uuid::Uuid;

/// One step of a script.
#[derive(Clone, Debug)]
pub enum Step {
    Write(Persist),
    Sync,
    Prepare,
    Save(u64),
    Receive(SnapshotMeta),
}

/// What the records so far mean.
#[derive(Clone, Debug, Default)]
struct State {
    hard_state: HardState,
    log: BTreeMap<u64, Entry>,
    /// Index and term of the installed snapshot that the log restarted after.
    base: (u64, u64),
}

/// Everything that may be on disk.
#[derive(Clone, Debug)]
pub struct Model {
    /// After each record that was written, oldest first.
    states: Vec<State>,
    /// The last one that was synced for certain.
    synced: usize,
    /// Newest own snapshot that is durable, and one that may be.
    saved: (u64, u64),
    maybe_saved: (u64, u64),
}

pub fn dir() -> &'static Path {
    Path::new("data/node-3")
}

pub fn options() -> Options {
    Options { segment_bytes_min: 300, segment_bytes_max: 700, snapshot_chunk_bytes: 64, ..Options::default() }
}

pub fn who(id: u64) -> Identity {
    Identity { id: NodeId(id), uuid: Uuid::from_u128(u128::from(id)) }
}

pub fn hard_state(term: u64, vote: u64) -> HardState {
    HardState { term: Term(term), vote: (vote > 0).then(|| who(vote)) }
}

pub fn entry(index: u64, term: u64) -> Entry {
    let payload = match index % 5 {
        0 => Payload::Noop,
        1 => Payload::Membership(Arc::new(Membership {
            voters: BTreeMap::new(),
            learners: [(NodeId(term), Uuid::from_u128(9))].into(),
        })),
        _ => Payload::Command(vec![(index * 16 + term) as u8; 10 + (index * 7 % 50) as usize].into()),
    };
    Entry { index: Index(index), term: Term(term), payload }
}

pub fn meta(index: u64, term: u64) -> SnapshotMeta {
    SnapshotMeta { index: Index(index), term: Term(term), membership: Membership::default() }
}

/// The services' state of the tests' snapshots.
pub fn data(index: u64) -> Vec<u8> {
    (0..200).map(|i| (i * index) as u8).collect()
}

pub fn entries(range: std::ops::RangeInclusive<u64>, term: u64) -> Persist {
    Persist { entries: range.map(|index| entry(index, term)).collect(), ..Persist::default() }
}

/// A script that does everything: appends, overwritten suffixes, votes, rotation, own snapshots, an install, a snapshot
/// ahead of the synced log.
pub fn script() -> Vec<Step> {
    use Step::{Prepare, Receive, Save, Sync, Write};
    let state = |term, vote| Persist { hard_state: Some(hard_state(term, vote)), ..Persist::default() };
    let mut steps = vec![
        Write(state(1, 1)),
        Write(entries(1..=3, 1)),
        Sync,
        Write(entries(4..=5, 1)),
        Sync,
        Prepare,
        Prepare,
        Write(entries(6..=9, 1)),
        Write(state(2, 0)),
        Write(state(2, 2)),
        Write(entries(5..=6, 2)),
        Sync,
        Prepare,
        Prepare,
        Prepare,
    ];
    for index in 7..=12 {
        steps.extend([Write(entries(index..=index, 2)), Sync, Prepare]);
    }
    steps.extend([Save(7), Save(8), Save(9), Save(10), Save(11)]);
    steps.extend([
        Write(entries(13..=20, 2)),
        Sync,
        Write(Persist { hard_state: Some(hard_state(3, 1)), ..entries(15..=16, 3) }),
        Sync,
        Write(entries(17..=19, 3)),
        Sync,
        Save(14),
        Receive(meta(18, 4)),
        Write(Persist { hard_state: Some(hard_state(4, 0)), install: Some(meta(18, 4)), ..entries(19..=20, 4) }),
        Sync,
        Receive(meta(30, 4)),
        Write(Persist { install: Some(meta(30, 4)), ..Persist::default() }),
        Write(entries(31..=33, 4)),
        Sync,
        Write(entries(34..=36, 4)),
        Sync,
        Save(35),
        Write(Persist { hard_state: Some(hard_state(6, 3)), ..entries(36..=39, 6) }),
        Save(38),
        Sync,
        Write(entries(40..=44, 6)),
    ]);
    // Compaction beside every kind of segment border.
    for index in 45..=52 {
        steps.extend([Write(entries(index..=index, 6)), Sync, Save(index - 2)]);
    }
    steps
}

impl Default for Model {
    fn default() -> Model {
        Model { states: vec![State::default()], synced: 0, saved: (0, 0), maybe_saved: (0, 0) }
    }
}

impl Model {
    fn push(&mut self, change: impl FnOnce(&mut State)) {
        let mut state = self.states.last().unwrap().clone();
        change(&mut state);
        self.states.push(state);
    }

    fn write(&mut self, persist: &Persist) {
        if let Some(hard_state) = persist.hard_state {
            self.push(|state| state.hard_state = hard_state);
        }
        if let Some(meta) = &persist.install {
            self.push(|state| (state.log, state.base) = (BTreeMap::new(), (meta.index.0, meta.term.0)));
        }
        for entry in &persist.entries {
            self.push(|state| {
                state.log.split_off(&entry.index.0);
                state.log.insert(entry.index.0, entry.clone());
            });
        }
    }

    fn term_at(&self, index: u64) -> u64 {
        self.states.last().unwrap().log[&index].term.0
    }

    /// Everything that recovery may return.
    fn allowed(&self) -> Vec<Durable> {
        let mut allowed = Vec::new();
        for state in &self.states[self.synced..] {
            for own in [self.saved, self.maybe_saved] {
                let base = if state.base.0 > own.0 { state.base } else { own };
                // If the log ends before the snapshot or contradicts it, only the snapshot counts.
                let is_there = base == state.base || state.log.get(&base.0).is_some_and(|e| e.term.0 == base.1);
                let after = || state.log.range(base.0 + 1..).map(|(_, e)| e.clone()).collect::<Vec<_>>();
                let entries = if is_there { after() } else { Vec::new() };
                let last_term = entries.last().map_or(Term(base.1), |e| e.term);
                let hard_state = match state.hard_state.term < last_term {
                    true => HardState { term: last_term, vote: None },
                    false => state.hard_state,
                };
                let snapshot = (base.0 > 0).then(|| meta(base.0, base.1));
                allowed.push(Durable { hard_state, snapshot, entries });
            }
        }
        allowed
    }

    /// Checks what recovery returned.
    pub fn judge(&self, durable: &Durable) -> Result<(), String> {
        match self.allowed().contains(durable) {
            true => Ok(()),
            false => Err(format!("recovered {}, synced was {}", brief(durable), brief(&self.allowed()[0]))),
        }
    }
}

pub fn brief(durable: &Durable) -> String {
    let log: Vec<_> = durable.entries.iter().map(|e| format!("{}/{}", e.index, e.term)).collect();
    let snapshot = durable.snapshot.as_ref().map(|m| (m.index, m.term));
    format!("{:?} snapshot {snapshot:?} log [{}]", durable.hard_state, log.join(" "))
}

pub fn open(disk: &FaultFiles, options: &Options) -> Result<(Store, Durable), StoreError> {
    Store::open(Arc::new(disk.clone()), dir(), options.clone())
}

/// Runs a script until its end or the first error, keeping the model up to date.
pub fn run(store: &mut Store, model: &mut Model, steps: &[Step]) -> Result<(), StoreError> {
    for step in steps {
        match step {
            Step::Write(persist) => {
                model.write(persist);
                store.write(persist)?;
            }
            Step::Sync => {
                store.sync()?;
                model.synced = model.states.len() - 1;
            }
            Step::Prepare => store.prepare()?,
            Step::Save(index) => {
                let term = model.term_at(*index);
                model.maybe_saved = (*index, term);
                store.save_snapshot(&meta(*index, term), &data(*index))?;
                model.saved = model.maybe_saved;
            }
            Step::Receive(meta) => {
                let data = data(meta.index.0);
                let mut receiver = store.receive_snapshot(meta, data.len() as u64)?;
                for (place, chunk) in data.chunks(90).enumerate() {
                    receiver.chunk(place as u64 * 90, chunk)?;
                }
                receiver.finish()?;
            }
        }
    }
    Ok(())
}

/// Opens the disk after a restart and judges what it holds, then once more after a power cut: what recovery returned is
/// durable, and goes on being so when more is written.
pub fn reopen_and_judge(disk: &FaultFiles, options: &Options, model: &Model) -> Result<(), String> {
    use fault_files::Restart;
    let (store, durable) = open(disk, options).map_err(|e| format!("refused: {e}"))?;
    model.judge(&durable)?;
    if let Some(snapshot) = &durable.snapshot {
        let bytes = store.newest_snapshot().unwrap().unwrap().read_all().map_err(|e| e.to_string())?;
        if bytes != data(snapshot.index.0) {
            return Err(format!("another snapshot's bytes at {}", snapshot.index));
        }
    }
    drop(store);
    disk.restart(Restart::LoseAll);
    let (mut store, again) = open(disk, options).map_err(|e| format!("refused the second time: {e}"))?;
    if again != durable {
        return Err(format!("recovered {}, the second time {}", brief(&durable), brief(&again)));
    }
    let last = durable.entries.last().map_or(durable.snapshot.as_ref().map_or(0, |m| m.index.0), |e| e.index.0);
    let mut expected = durable;
    let term = expected.hard_state.term.0.max(1);
    expected.hard_state = hard_state(term + 1, 2);
    let more = Persist { hard_state: Some(expected.hard_state), ..entries(last + 1..=last + 6, term + 1) };
    expected.entries.extend(more.entries.clone());
    store.write(&more).map_err(|e| e.to_string())?;
    store.sync().map_err(|e| e.to_string())?;
    drop(store);
    disk.restart(Restart::LoseAll);
    let (_, grown) = open(disk, options).map_err(|e| format!("refused after more was written: {e}"))?;
    match grown == expected {
        true => Ok(()),
        false => Err(format!("wrote up to {}, found {}", brief(&expected), brief(&grown))),
    }
}
