//! The `disk` thread: owner of the store. Writes all jobs that wait, syncs once, then reports to `core`.
//!
//! The jobs' promises are sent from here, directly after the sync on which they depend and never before it: a
//! follower's answer that went back through `core` would wait for another thread to wake. A failed write or sync ends
//! the process (exit 3): a disk cannot be trusted after that, and other nodes have every acknowledged entry. Folder and
//! free space are checked between jobs: a full disk is noticed before a write fails, and a node whose folder was
//! removed or replaced ends (exit 3), because no restart would find what it acknowledges.
//! Not here: formats and recovery (`store/`).

use crate::faults::switch;
use crate::node::process::logging::{self, EXIT_DISK};
use crate::node::shared::Shared;
use crate::node::shared::messages::{CoreInput, DiskJob};
use crate::node::spawn;
use crate::raft::{Message, Persist};
use crate::store::anchor::Anchor;
use crate::store::{self, SpareJob, Store, StoreError};
use crate::wire::Frame;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use log::{Level, error, info, warn};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Time between two checks of the folder and its free space.
const SPACE_EVERY: Duration = Duration::from_millis(500);

/// Body of the thread.
pub fn run(shared: &Arc<Shared>, mut store: Store, anchor: Anchor, inbox: &Receiver<DiskJob>) {
    let mut space = Space { shared: Arc::clone(shared), anchor, checked: None, is_low: false, has_warned: false };
    loop {
        space.maybe_check(&store);
        let first = match inbox.recv_timeout(SPACE_EVERY) {
            Ok(job) => job,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        if !take(shared, &mut store, first, inbox) {
            return;
        }
        if let Some(job) = store.spare_job() {
            make_spare(shared, &mut store, job);
        }
    }
}

/// Has the log's next segment made on a separate thread: a batch that comes meanwhile does not wait until it is zeroed.
fn make_spare(shared: &Arc<Shared>, store: &mut Store, job: SpareJob) {
    let to = shared.inboxes.disk.clone();
    let started = spawn::spawn("spare", move || {
        // Fails only when the disk thread has ended.
        let _ = to.send(DiskJob::Spare(job.run()));
    });
    if let Err(e) = started {
        warn!("no thread for the log's next segment err={e}");
        shared.disk_or_exit(store.take_spare(Err(StoreError::NoSpace { doing: "start a thread".to_string() })));
    }
}

/// Handles `first` and all jobs that wait after it; `false` when the thread is to end.
fn take(shared: &Arc<Shared>, store: &mut Store, first: DiskJob, inbox: &Receiver<DiskJob>) -> bool {
    let mut group = Group::default();
    let mut next = Some(first);
    let mut goes_on = true;
    while let Some(job) = next.take().or_else(|| inbox.try_recv().ok()) {
        match job {
            DiskJob::Persist { persist, promises } => group.add(shared, store, &persist, promises),
            DiskJob::Install { persist, promises, data } => {
                group.add(shared, store, &persist, promises);
                group.finish(shared, store);
                if let Some(reader) = shared.disk_or_exit(store.newest_snapshot()) {
                    let _ = data.send(reader);
                }
            }
            DiskJob::Compact { index, job } => {
                group.finish(shared, store);
                // Fails only if the asking thread has ended.
                let _ = job.send(shared.disk_or_exit(store.cut_job(index)));
            }
            DiskJob::Spare(made) => shared.disk_or_exit(store.take_spare(made)),
            DiskJob::Stop => goes_on = false,
        }
        if !goes_on {
            break;
        }
    }
    group.finish(shared, store);
    goes_on
}

/// Jobs that share one sync.
#[derive(Default)]
struct Group {
    seq: Option<u64>,
    promises: Vec<Message>,
}

impl Group {
    fn add(&mut self, shared: &Shared, store: &mut Store, persist: &Persist, promises: Vec<Message>) {
        shared.disk_or_exit(store.write(persist));
        self.seq = Some(persist.seq);
        self.promises.extend(promises);
    }

    fn finish(&mut self, shared: &Arc<Shared>, store: &mut Store) {
        let Some(seq) = self.seq.take() else { return };
        let before = Instant::now();
        shared.disk_or_exit(sync(shared, store));
        shared.counters.syncs.record(before.elapsed(), 1);
        let links = shared.links();
        for promise in self.promises.drain(..) {
            if shared.hosted.contains(&promise.to) {
                shared.inboxes.to_hosted(promise);
            } else if let Some(link) = links.get(&promise.to.id).filter(|link| link.who == promise.to) {
                link.queue(&Frame::Raft(promise));
            }
        }
        links.values().for_each(|link| _ = link.flush());
        shared.inboxes.to_core(CoreInput::Synced(seq));
    }
}

/// Syncs the log, as slowly as the disk of a lab is, or not at all.
fn sync(shared: &Shared, store: &mut Store) -> Result<(), StoreError> {
    if let Some(faults) = switch::get() {
        std::thread::sleep(faults.disk_delay());
        if faults.is_disk_failing() {
            return Err(StoreError::io("sync the log in", &shared.dir, io::Error::other("the lab lets syncs fail")));
        }
    }
    store.sync()
}

/// Watches the data folder and its free space.
struct Space {
    shared: Arc<Shared>,
    anchor: Anchor,
    checked: Option<Instant>,
    is_low: bool,
    /// The warning that the free space cannot be read was logged.
    has_warned: bool,
}

impl Space {
    fn maybe_check(&mut self, store: &Store) {
        if self.checked.is_some_and(|at| at.elapsed() < SPACE_EVERY) {
            return;
        }
        self.checked = Some(Instant::now());
        let reserve_mb = self.shared.settings.disk_reserve_mb;
        let folder = self.anchor.check().and_then(|()| store.check_folder());
        let free = match folder.and_then(|()| store::free_bytes(&self.shared.dir)) {
            Ok(_) if switch::get().is_some_and(switch::Switch::is_disk_full) => 0,
            Ok(free) => free,
            Err(e @ StoreError::FolderGone { .. }) => {
                error!("this node stops: {e}");
                self.shared.event("disk", Some(self.shared.me.id), format!("this node stops: {e}"));
                logging::exit(EXIT_DISK);
            }
            Err(e) => {
                if !std::mem::replace(&mut self.has_warned, true) {
                    warn!("cannot read the free space of the data folder err={e}");
                }
                return;
            }
        };
        if std::mem::take(&mut self.has_warned) {
            info!("the free space of the data folder can be read again");
        }
        let is_low = free < reserve_mb << 20;
        if is_low == self.is_low {
            return;
        }
        self.is_low = is_low;
        let free_mb = free >> 20;
        let text = match is_low {
            true => {
                format!("disk nearly full: {free_mb} MiB free, disk_reserve_mb is {reserve_mb}: no new writes here")
            }
            false => format!("disk has space again: {free_mb} MiB free"),
        };
        log::log!(if is_low { Level::Warn } else { Level::Info }, "{text}");
        self.shared.event("disk", Some(self.shared.me.id), text);
        self.shared.set_disk_low(is_low);
        self.shared.inboxes.to_core(CoreInput::DiskLow(is_low));
    }
}
