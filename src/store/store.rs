//! The store, for the disk thread: recovery, writing, syncing, compaction, and what happens after an error.
//!
//! Invariants: S1 after an error of a write or sync nothing is written any more. S2 a received snapshot is used only
//! once its record is on disk. S3 what recovery returns is on disk, without a gap between snapshot and log, and a
//! suffix that contradicts the snapshot is removed permanently.
//! Not here: the log's own recovery (`store/wal/writer.rs`), threads (`node/`).

use super::error::StoreError;
use super::files::remove_in_steps;
use super::wal::record::Record;
use super::wal::recover::{self, Torn};
use super::wal::replay::Replay;
use super::wal::writer::{self, Spare, SpareJob, Wal};
use super::{Files, Options, Poison, SNAPSHOTS_DIR, SnapshotReader, SnapshotReceiver, Snapshots, WAL_DIR};
use crate::raft::{Durable, HardState, Persist, SnapshotMeta};
use crate::types::{Index, Term};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The job of removing log segments and snapshots that a newer snapshot covers.
pub struct CutJob {
    files: Arc<dyn Files>,
    /// Paths of the segments, oldest first.
    segments: Vec<PathBuf>,
    snapshots: Snapshots,
    index: Index,
}

impl CutJob {
    /// Removes the files, calling `pause` between steps.
    ///
    /// # Errors
    /// Returns the disk's error; the store then writes nothing any more.
    pub fn run(self, pause: &mut dyn FnMut()) -> Result<(), StoreError> {
        let poison = self.snapshots.poison();
        poison.check()?;
        let shrunk = |path: &Path| path.with_file_name(writer::SHRUNK_NAME);
        let mut segments = self.segments.iter();
        segments
            .try_for_each(|path| remove_in_steps(&*self.files, path, &shrunk(path), || true, pause))
            .and_then(|()| self.snapshots.remove_before(self.index, pause))
            .inspect_err(|e| poison.set(e))
    }
}

/// The opened durable state of one node.
pub struct Store {
    files: Arc<dyn Files>,
    wal: Wal,
    snapshots: Snapshots,
    options: Options,
    /// The snapshot whose install record was written and not synced yet.
    installing: Option<SnapshotMeta>,
    poison: Poison,
    torn: Option<Torn>,
}

impl Store {
    /// Opens a node's folder, creates it if necessary, and returns the recovered state.
    pub fn open(files: Arc<dyn Files>, dir: &Path, mut options: Options) -> Result<(Store, Durable), StoreError> {
        options.node = options.node.or_else(|| super::error::node_of(dir));
        let (wal_dir, snapshots_dir) = (dir.join(WAL_DIR), dir.join(SNAPSHOTS_DIR));
        for made in [&*wal_dir, &*snapshots_dir] {
            files.create_dir(made).map_err(|e| StoreError::io("create", made, e))?;
        }
        // After a failed sync of its folder, a rename may be visible now and lost after a power failure: what is read
        // must be durable.
        for made in [&*wal_dir, &*snapshots_dir, dir] {
            files.sync_dir(made).map_err(|e| StoreError::io("sync", made, e))?;
        }
        let poison = Poison::default();
        let snapshots = Snapshots::new(files.clone(), snapshots_dir, &options, poison.clone());
        let numbers = recover::segments_in(&*files, &wal_dir, &options)?;
        if numbers.is_empty() && (options.must_exist || !snapshots.list()?.is_empty()) {
            return Err(StoreError::LogMissing { dir: wal_dir, node: options.node });
        }
        let (wal, replay, torn) = if numbers.is_empty() {
            (writer::create(Arc::clone(&files), &wal_dir, &options)?, Replay::new(&options), None)
        } else {
            let log = recover::read(&*files, &wal_dir, &options, &numbers, |_, _, _, _| {})?;
            let torn = log.torn.clone();
            let (wal, replay) = recover::repair(Arc::clone(&files), &wal_dir, &options, log)?;
            (wal, replay, torn)
        };
        let mut store = Store { files, wal, snapshots, options, installing: None, poison, torn };
        let durable = store.reconcile(replay, &wal_dir)?;
        store.snapshots.tidy()?;
        Ok((store, durable))
    }

    /// Combines log and snapshot to the recovered state.
    fn reconcile(&mut self, mut replay: Replay, wal_dir: &Path) -> Result<Durable, StoreError> {
        let snapshot = self.snapshot_in_use(&replay)?;
        let base = snapshot.as_ref().map_or((Index(0), Term(0)), |meta| (meta.index, meta.term));
        let fit = replay.entries_after(base);
        let (entries, is_continued) = fit.map_err(|why| {
            let node = self.options.node;
            StoreError::Damaged { file: wal_dir.to_path_buf(), offset: 0, why, node }
        })?;
        let last_term = entries.last().map_or(base.1, |entry| entry.term);
        let mut hard_state = replay.hard_state;
        if hard_state.term < last_term {
            // The snapshot was durable before the record of its term, so no vote of this node in that term was sent.
            hard_state = HardState { term: last_term, vote: None };
            self.wal.append(&Record::HardState(hard_state))?;
        }
        if let (false, Some(meta)) = (is_continued, &snapshot) {
            self.wal.append(&Record::Install(meta.clone()))?;
        }
        self.wal.sync()?;
        Ok(Durable { hard_state, snapshot, entries })
    }

    /// Returns the newest snapshot after checking all of it; puts a received one in use if the log begins after it.
    fn snapshot_in_use(&mut self, replay: &Replay) -> Result<Option<SnapshotMeta>, StoreError> {
        let newest = self.snapshots.list()?.pop().map_or(Index(0), |(index, _)| index);
        if let Some(installed) = replay.installed.as_ref().filter(|meta| meta.index > newest)
            && self.snapshots.has_received(installed)?
        {
            self.snapshots.promote(installed)?;
        }
        self.snapshots.newest()?.map(SnapshotReader::verify).transpose()
    }

    /// Returns the torn tail that recovery removed; `None` if there was none.
    pub fn torn_tail(&self) -> Option<&Torn> {
        self.torn.as_ref()
    }

    /// Writes one persist; it is durable only after [`Store::sync`].
    pub fn write(&mut self, persist: &Persist) -> Result<(), StoreError> {
        self.guard(|store| store.try_write(persist))
    }

    fn try_write(&mut self, persist: &Persist) -> Result<(), StoreError> {
        if let Some(state) = persist.hard_state {
            self.write_hard_state(state)?;
        }
        if let Some(meta) = &persist.install {
            if !self.snapshots.has_received(meta)? {
                return Err(StoreError::Transfer(format!("snapshot {} was never received whole", meta.index)));
            }
            self.wal.append(&Record::Install(meta.clone()))?;
            self.installing = Some(meta.clone());
        }
        for entry in &persist.entries {
            let last = self.wal.last_index();
            assert!(entry.index <= last.next(), "hole in the log: entry {} after {last}", entry.index);
            self.wal.append_entry(entry)?;
        }
        Ok(())
    }

    fn write_hard_state(&mut self, state: HardState) -> Result<(), StoreError> {
        #[cfg(any(test, feature = "planted-bugs"))]
        if self.options.bugs.vote_in_its_own_record {
            self.wal.append(&Record::Vote(state.vote))?;
        }
        let before = self.wal.hard_state();
        assert!(state.term >= before.term, "the term would go back: {} -> {}", before.term, state.term);
        self.wal.append(&Record::HardState(state))
    }

    /// Checks that the file to which the log is written still has its name.
    ///
    /// # Errors
    /// Returns [`StoreError::FolderGone`] if it has not. Any other error means that the check was not possible.
    pub fn check_folder(&self) -> Result<(), StoreError> {
        let path = self.wal.path();
        match std::fs::metadata(&path) {
            Ok(_) => Ok(()),
            Err(e) if e.kind() == ErrorKind::NotFound => {
                Err(StoreError::FolderGone { path, what: "is gone", node: self.options.node })
            }
            Err(e) => Err(StoreError::io("look at", &path, e)),
        }
    }

    /// Makes everything written so far durable.
    pub fn sync(&mut self) -> Result<(), StoreError> {
        self.guard(|store| {
            store.wal.sync()?;
            match store.installing.take() {
                Some(meta) => store.snapshots.promote(&meta),
                None => Ok(()),
            }
        })
    }

    /// Returns the job of creating the next log segment, when it is time for it; another thread runs it while this one
    /// continues to write. A segment that is not created in advance also works, but each sync in it also writes
    /// metadata.
    pub fn spare_job(&mut self) -> Option<SpareJob> {
        self.wal.spare_job()
    }

    /// Takes the result of that job.
    pub fn take_spare(&mut self, made: Result<Spare, StoreError>) -> Result<(), StoreError> {
        self.guard(|store| store.wal.take_spare(made))
    }

    /// Creates the next log segment in this thread, if it is time for it.
    #[cfg(test)]
    pub fn prepare(&mut self) -> Result<(), StoreError> {
        self.poison.check()?;
        match self.spare_job() {
            Some(job) => self.take_spare(job.run()),
            None => Ok(()),
        }
    }

    /// Writes a snapshot of this node's services durably, and removes what it covers. In a node, [`Store::snapshots`]
    /// does the first part on another thread, and [`Store::cut_job`] the second.
    #[cfg(test)]
    pub fn save_snapshot(&mut self, meta: &SnapshotMeta, data: &[u8]) -> Result<(), StoreError> {
        self.snapshots.save(meta, data)?;
        self.compact(meta.index)
    }

    /// Removes the log segments that the durable snapshot at `index` covers, and all snapshots before it.
    pub fn compact(&mut self, index: Index) -> Result<(), StoreError> {
        self.cut_job(index)?.run(&mut || {})
    }

    /// Returns the same as a job for another thread, because removing large files takes long. The log no longer uses
    /// the segments from now on. A job must have ended before the next one is requested.
    pub fn cut_job(&mut self, index: Index) -> Result<CutJob, StoreError> {
        self.poison.check()?;
        let known = self.snapshots.list().inspect_err(|e| self.poison.set(e))?;
        let newest = known.last().map_or(Index(0), |(index, _)| *index);
        assert!(index <= newest, "no snapshot at {index} to compact the log to; the newest is at {newest}");
        let segments = self.wal.cut_below(index);
        Ok(CutJob { files: Arc::clone(&self.files), segments, snapshots: self.snapshots.clone(), index })
    }

    /// Opens the newest snapshot, for the services at start and for followers; `None` if there is none.
    pub fn newest_snapshot(&self) -> Result<Option<SnapshotReader>, StoreError> {
        self.snapshots.newest()
    }

    /// Begins to receive a snapshot of `bytes` bytes from a leader, beside the log.
    pub fn receive_snapshot(&self, meta: &SnapshotMeta, bytes: u64) -> Result<SnapshotReceiver, StoreError> {
        self.snapshots.receive(meta, bytes)
    }

    /// Returns a handle for threads that save, receive or stream snapshots while this one writes the log.
    pub fn snapshots(&self) -> Snapshots {
        self.snapshots.clone()
    }

    /// Returns the numbers of the log's segments, oldest first.
    #[cfg(test)]
    pub(crate) fn segment_numbers(&self) -> Vec<u64> {
        self.wal.segment_numbers()
    }

    /// Runs one operation unless an earlier one failed; records a failure permanently.
    fn guard(&mut self, run: impl FnOnce(&mut Store) -> Result<(), StoreError>) -> Result<(), StoreError> {
        self.poison.check()?;
        let result = run(self);
        if let Err(e) = &result {
            self.poison.set(e);
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::{Entry, Membership, Payload};
    use crate::store::RealFiles;

    fn entry(index: u64, term: u64, bytes: usize) -> Entry {
        let payload = Payload::Command(vec![index as u8; bytes].into());
        Entry { index: Index(index), term: Term(term), payload }
    }

    fn open(dir: &Path) -> (Store, Durable) {
        let options = Options { segment_bytes_min: 4096, segment_bytes_max: 16384, ..Options::default() };
        Store::open(Arc::new(RealFiles), dir, options).unwrap()
    }

    #[test]
    fn a_real_folder_keeps_what_was_synced() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, durable) = open(dir.path());
        assert_eq!(durable, Durable::default());
        let state = HardState { term: Term(2), vote: None };
        store.write(&Persist { seq: 1, hard_state: Some(state), ..Persist::default() }).unwrap();
        for index in 1..=100 {
            store.write(&Persist { entries: vec![entry(index, 2, 500)], ..Persist::default() }).unwrap();
            store.sync().unwrap();
            store.prepare().unwrap();
        }
        store.write(&Persist { entries: vec![entry(90, 2, 20_000), entry(91, 2, 1)], ..Persist::default() }).unwrap();
        store.sync().unwrap();
        assert!(store.segment_numbers().len() > 3);
        drop(store);
        let (mut store, durable) = open(dir.path());
        let mut entries: Vec<_> = (1..90).map(|i| entry(i, 2, 500)).collect();
        entries.extend([entry(90, 2, 20_000), entry(91, 2, 1)]);
        assert_eq!(durable, Durable { hard_state: state, snapshot: None, entries: entries.clone() });

        let meta = SnapshotMeta { index: Index(80), term: Term(2), membership: Membership::default() };
        store.save_snapshot(&meta, &vec![7; 1_000_000]).unwrap();
        drop(store);
        let (mut store, durable) = open(dir.path());
        let after = entries.split_off(80);
        assert_eq!(durable, Durable { hard_state: state, snapshot: Some(meta), entries: after });
        assert_eq!(store.newest_snapshot().unwrap().unwrap().read_all().unwrap(), vec![7; 1_000_000]);

        let meta = SnapshotMeta { index: Index(85), term: Term(3), membership: Membership::default() };
        let mut receiver = store.receive_snapshot(&meta, 10).unwrap();
        receiver.chunk(0, b"01234").unwrap();
        receiver.chunk(5, b"56789").unwrap();
        receiver.finish().unwrap();
        let state = HardState { term: Term(3), vote: None };
        let persist =
            Persist { seq: 9, hard_state: Some(state), install: Some(meta.clone()), entries: vec![entry(86, 3, 5)] };
        store.write(&persist).unwrap();
        store.sync().unwrap();
        drop(store);
        let (store, durable) = open(dir.path());
        assert_eq!(durable, Durable { hard_state: state, snapshot: Some(meta), entries: vec![entry(86, 3, 5)] });
        assert_eq!(store.newest_snapshot().unwrap().unwrap().read_all().unwrap(), b"0123456789");
    }
}
