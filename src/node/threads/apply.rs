//! The `apply` thread: owner of the services. Runs committed entries in order and answers the requests that wait for
//! them.
//!
//! Invariants: P1 the registry itself asserts that no index is skipped or repeated. P2 a query is answered only from a
//! state that has applied the index it asked for, and never from one that is known to be wrong.
//! Not here: what is committed (`raft/`), what commands mean (`services/`), when a snapshot is due
//! (`node/snapshots/schedule.rs`), what follows from a digest (`node/snapshots/checkpoints.rs`).

use super::large_reads::{self, LargeRead};
use super::publish::{JobWaiter, JobWaiters, Publisher};
use crate::limits::{APPEND_BYTES_MAX, FRAME_BYTES_MAX};
use crate::lock::{Mutex, lock};
use crate::node::process::logging::{self, EXIT_DISK};
use crate::node::shared::Shared;
use crate::node::shared::clock::mono_us;
use crate::node::shared::link::Link;
use crate::node::shared::messages::{ApplyJob, CoreInput};
use crate::node::shared::request::{Answered, Question, ReplyTo};
use crate::node::snapshots::digest::{self, SlowDigest};
use crate::node::snapshots::writer;
use crate::node::spawn;
use crate::node::views::events::Author;
use crate::outcome::Outcome;
use crate::raft::{Entry, Payload, SnapshotMeta};
use crate::services::Reply;
use crate::services::registry::Registry;
use crate::store::SnapshotReader;
use crate::types::{Index, NodeId, NodeKind};
use crate::wire::{Forwarded, Frame};
use crossbeam_channel::{Receiver, Sender};
use log::{error, info, warn};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

struct Apply {
    shared: Arc<Shared>,
    registry: Registry,
    large_reads: Sender<LargeRead>,
    /// Queries ahead of what is applied.
    waiting: BTreeMap<Index, Vec<Question>>,
    publisher: Publisher,
    job_waiters: JobWaiters,
    /// The newest digest of the database that took long.
    slow_sql: Arc<Mutex<Option<SlowDigest>>>,
}

/// Body of the thread; `registry` is what the newest snapshot held.
pub fn run(shared: &Arc<Shared>, registry: Registry, large_reads: Sender<LargeRead>, inbox: &Receiver<ApplyJob>) {
    let mut apply = Apply {
        shared: Arc::clone(shared),
        registry,
        large_reads,
        waiting: BTreeMap::new(),
        publisher: Publisher::default(),
        job_waiters: JobWaiters::default(),
        slow_sql: Arc::new(Mutex::default()),
    };
    apply.publish();
    for job in inbox {
        match job {
            ApplyJob::Entries { run, snapshot_meta } => apply.entries(run, snapshot_meta),
            ApplyJob::Queries { at_least, queries } => apply.queries(at_least, queries),
            ApplyJob::Notify => apply.shared.inboxes.to_core(CoreInput::Applied),
            ApplyJob::Install { meta, data } => {
                let Ok(snapshot) = data.recv() else { return };
                apply.install(&meta, snapshot);
            }
            ApplyJob::Await { job, at_least, deadline, reply } => {
                let waiter = JobWaiter { at_least, deadline, reply };
                apply.job_waiters.add(job, waiter, &apply.registry, &apply.shared);
            }
            // The thread that asked may have given up.
            ApplyJob::Copy { meta, reply } => drop(reply.try_send((meta, apply.registry.clone()))),
            ApplyJob::Replace { meta, data, run, done } => {
                // Fails only if its sender was stopped in between: the state stays marked.
                if let Ok(snapshot) = data.recv() {
                    let _ = done.try_send(apply.replace(&meta, snapshot, &run));
                }
            }
            ApplyJob::Alter { part } => apply.registry.alter(part),
            ApplyJob::AnswerWaiting => apply.job_waiters.answer_all(&apply.registry, &apply.shared),
            ApplyJob::Stop => return,
        }
    }
}

/// Answers to other nodes, gathered by peer so that one frame carries them.
#[derive(Default)]
struct PeerAnswers {
    by_peer: BTreeMap<NodeId, (Link, Vec<(u64, Forwarded)>)>,
    bytes: usize,
}

impl PeerAnswers {
    fn add(&mut self, to: ReplyTo, answered: Answered) {
        match to {
            ReplyTo::Peer(link, number) => {
                let answer = Forwarded::from(answered).within(FRAME_BYTES_MAX / 2);
                self.bytes += answer.size();
                let (_, answers) = self.by_peer.entry(link.who.id).or_insert_with(|| (link, Vec::new()));
                answers.push((number, answer));
                if self.bytes > APPEND_BYTES_MAX {
                    self.send();
                }
            }
            mut other => other.answer(answered),
        }
    }

    fn send(&mut self) {
        self.bytes = 0;
        for (link, answers) in std::mem::take(&mut self.by_peer).into_values() {
            link.send(&Frame::Forwarded(answers));
        }
    }
}

impl Apply {
    fn entries(&mut self, run: Vec<(Entry, Vec<ReplyTo>)>, snapshot_meta: Option<SnapshotMeta>) {
        let mut answers = PeerAnswers::default();
        let is_peer = |to: &&ReplyTo| matches!(to, ReplyTo::Peer(..));
        for (entry, waiting) in run {
            self.shared.activity.record_forwarded(waiting.iter().filter(is_peer).count() as u64);
            let begun = Instant::now();
            let replies = self.entry(&entry);
            self.shared.counters.applies.record(begun.elapsed(), 1);
            if self.registry.take_checkpoint() {
                self.checkpoint();
            }
            for (to, reply) in waiting.into_iter().zip(replies) {
                answers.add(to, Outcome::Done(reply));
            }
        }
        answers.send();
        self.publish();
        if let Some(meta) = snapshot_meta {
            self.save_snapshot(meta);
        }
    }

    fn entry(&mut self, entry: &Entry) -> Vec<(Index, Reply)> {
        match &entry.payload {
            Payload::Command(bytes) => self.registry.apply(entry.index, bytes),
            Payload::Noop => {
                self.registry.skip(entry.index);
                Vec::new()
            }
            Payload::Membership(_) => {
                self.registry.skip(entry.index);
                vec![(entry.index, Reply::Ok(Vec::new()))]
            }
        }
    }

    /// Takes a copy of the state, which costs nothing, and digests it on a thread of its own.
    fn checkpoint(&mut self) {
        let integrity = &self.shared.integrity;
        integrity.set_checkpoint(self.registry.applied().index);
        if self.shared.kind == NodeKind::Witness || !integrity.begin_digest() {
            // There is no state to compare, or the previous digest takes long: this checkpoint is left out.
            return;
        }
        let (shared, registry, slow_sql) =
            (Arc::clone(&self.shared), self.registry.clone(), Arc::clone(&self.slow_sql));
        let epoch = integrity.epoch();
        let started = spawn::spawn_with_retries("digest", move || {
            digest::take(&shared, &registry, epoch, &slow_sql);
            drop(registry);
            shared.integrity.end_digest();
        });
        if let Err(e) = started {
            self.shared.integrity.end_digest();
            warn!("cannot start a thread for a digest err={e}");
        }
    }

    /// Takes a copy of the state, which costs nothing, and writes it on a thread of its own, piece by piece: neither
    /// commands nor the log's syncs wait for long.
    fn save_snapshot(&mut self, meta: SnapshotMeta) {
        if !self.shared.integrity.begin_saving() {
            // The one that is being saved is nearly as new; or this state is wrong.
            return;
        }
        let registry = self.registry.clone();
        let shared = Arc::clone(&self.shared);
        let started = spawn::spawn_with_retries("snapshot", move || {
            writer::save(&shared, registry, &meta);
            shared.integrity.end_saving();
        });
        if let Err(e) = started {
            self.shared.integrity.end_saving();
            warn!("cannot start a thread for a snapshot err={e}");
        }
    }

    /// The state of another node takes the place of this one's.
    fn replace(&mut self, meta: &SnapshotMeta, mut snapshot: SnapshotReader, run: &[Entry]) -> Result<(), String> {
        let was_at = self.registry.applied().index;
        self.registry.restore(&mut snapshot).map_err(|e| format!("the state that was received cannot be read: {e}"))?;
        self.shared.integrity.begin_epoch();
        for entry in run {
            self.entry(entry);
        }
        // No digest is taken for these checkpoints: the next one is soon.
        self.registry.take_checkpoint();
        let applied = self.registry.applied().index;
        assert!(
            applied >= was_at && applied >= meta.index,
            "state of {} and {} entries end at {applied}",
            meta.index,
            run.len()
        );
        // Equal versions may stand for different content.
        self.publisher = Publisher::default();
        self.publish();
        Ok(())
    }

    fn queries(&mut self, at_least: Index, queries: Vec<Question>) {
        let applied = self.registry.applied().index;
        if applied < at_least {
            self.waiting.entry(at_least).or_default().extend(queries);
            return;
        }
        if let Some(why) = self.shared.no_reads() {
            // They were sent before this state was found to be wrong.
            return queries.into_iter().for_each(|(_, mut reply)| reply.answer(Outcome::Refused(why.clone())));
        }
        for question in queries {
            large_reads::answer(&self.large_reads, &self.registry, question);
        }
    }

    /// Its bytes are never in memory as a whole: a large database is copied from file to file.
    fn install(&mut self, meta: &SnapshotMeta, mut snapshot: SnapshotReader) {
        let begun = Instant::now();
        if let Err(e) = self.registry.restore(&mut snapshot) {
            error!("the leader's snapshot cannot be read, this node stops: {e}");
            logging::exit(EXIT_DISK);
        }
        let applied = self.registry.applied().index;
        assert!(applied == meta.index, "snapshot of index {} holds the state of {applied}", meta.index);
        self.shared.event("snapshot", None, format!("caught up to index {applied} by a snapshot from the leader"));
        self.shared.counters.snapshots_installed.record(begun.elapsed());
        self.shared.catch_up.installed(applied);
        self.shared.integrity.begin_epoch();
        self.publish();
    }

    /// Publishes how far the services are and what they show; answers queries that waited.
    fn publish(&mut self) {
        let applied = self.registry.applied().index;
        if let Some(text) = self.shared.catch_up.applied(applied, self.shared.me.id) {
            info!("{text}");
            self.shared.history_event(Author::Noticer, "recovery", Some(self.shared.me.id), text);
        }
        self.publisher.publish(&self.registry, &self.shared);
        self.shared.set_next_expiry_ms(self.registry.next_expiry_ms());
        lock(&self.shared.log_clock).applied(self.registry.applied().at_ms, mono_us());
        // Last: a thread that sees an index as applied also sees its effects.
        self.shared.set_applied(applied);
        self.job_waiters.answer(&self.registry, &self.shared);
        let later = self.waiting.split_off(&applied.next());
        for queries in std::mem::replace(&mut self.waiting, later).into_values() {
            self.queries(applied, queries);
        }
    }
}
