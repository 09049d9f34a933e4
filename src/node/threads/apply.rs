//! The `apply` thread: owner of the services. Runs committed entries in order and answers who waits for them.
//!
//! Invariants: P1 the registry itself asserts that no index is skipped or repeated. P2 a query is answered only from a
//! state that has applied the index it asked for, and never from one that is known to be wrong.
//! Not here: what is committed (`raft/`), what commands mean (`services/`), when a snapshot is due
//! (`node/snapshots/schedule.rs`), what follows from a digest (`node/snapshots/checkpoints.rs`).

use super::large_reads::{self, LargeRead};
use crate::limits::{APPEND_BYTES_MAX, FRAME_BYTES_MAX};
use crate::node::process::logging::{self, EXIT_DISK};
use crate::node::quota;
use crate::node::shared::clock::mono_us;
use crate::node::shared::link::Link;
use crate::node::shared::messages::{ApplyJob, CoreInput};
use crate::node::shared::request::{Answered, Question, ReplyTo};
use crate::node::shared::{Shared, lock};
use crate::node::snapshots::digest::{self, SlowDigest};
use crate::node::snapshots::writer;
use crate::node::spawn;
use crate::node::views::jobs::JobsView;
use crate::outcome::Outcome;
use crate::raft::{Entry, Payload, SnapshotMeta};
use crate::services::Reply;
use crate::services::jobs::{JobId, Query, State};
use crate::services::registry::{Registry, jobs_query};
use crate::store::SnapshotReader;
use crate::types::{Index, NodeId};
use crate::wire::{Forwarded, Frame};
use crossbeam_channel::{Receiver, Sender};
use log::{error, info, warn};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// Somebody who waits for a job to end.
#[derive(Debug)]
struct Awaiter {
    at_least: Index,
    deadline: Instant,
    reply: ReplyTo,
}

struct Apply {
    shared: Arc<Shared>,
    registry: Registry,
    large_reads: Sender<LargeRead>,
    /// Queries ahead of what is applied.
    waiting: BTreeMap<Index, Vec<Question>>,
    /// Who waits for which job to end.
    awaiting: BTreeMap<JobId, Vec<Awaiter>>,
    directory_version: u64,
    jobs_turn: u64,
    chat_turn: u64,
    /// When the database was asked for its size.
    sized_ms: u64,
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
        awaiting: BTreeMap::new(),
        directory_version: u64::MAX,
        jobs_turn: u64::MAX,
        chat_turn: u64::MAX,
        sized_ms: 0,
        slow_sql: Arc::default(),
    };
    apply.publish();
    for job in inbox {
        match job {
            ApplyJob::Entries { run, snapshot_meta } => apply.entries(run, snapshot_meta),
            ApplyJob::Queries { at_least, queries } => apply.queries(at_least, queries),
            ApplyJob::Install { meta, data } => {
                let Ok(snapshot) = data.recv() else { return };
                apply.install(&meta, snapshot);
            }
            ApplyJob::Await { job, at_least, deadline, reply } => {
                let awaiter = Awaiter { at_least, deadline, reply };
                if let Some(awaiter) = apply.tell_if_over(job, awaiter) {
                    let (now, others) = (Instant::now(), apply.awaiting.entry(job).or_default());
                    // Whoever looks again and again must not pile up while nothing happens.
                    others.retain(|other| other.deadline > now);
                    others.push(awaiter);
                }
            }
            // Whoever asked may have given up.
            ApplyJob::Copy { meta, reply } => drop(reply.try_send((meta, apply.registry.clone()))),
            ApplyJob::Replace { meta, data, run, done } => {
                // Fails only if its sender was stopped in between: the state stays marked.
                if let Ok(snapshot) = data.recv() {
                    let _ = done.try_send(apply.replace(&meta, snapshot, &run));
                }
            }
            ApplyJob::Alter { part } => apply.registry.alter(part),
            ApplyJob::LetGo => apply.let_go(),
            ApplyJob::Stop => return,
        }
    }
}

/// Answers on their way to other nodes: those of one peer leave together.
#[derive(Default)]
struct Answers {
    by_peer: BTreeMap<NodeId, (Link, Vec<(u64, Forwarded)>)>,
    bytes: usize,
}

impl Answers {
    fn give(&mut self, to: ReplyTo, answered: Answered) {
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
        let mut answers = Answers::default();
        for (entry, waiting) in run {
            let replies = self.entry(&entry);
            if self.registry.take_checkpoint() {
                self.checkpoint();
            }
            for (to, reply) in waiting.into_iter().zip(replies) {
                answers.give(to, Outcome::Done(reply));
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
        if !integrity.begin_digest() {
            // The one under way takes long: this checkpoint is left out.
            return;
        }
        let (shared, registry, slow_sql) =
            (Arc::clone(&self.shared), self.registry.clone(), Arc::clone(&self.slow_sql));
        let epoch = integrity.epoch();
        let started = spawn::spawn_patient("digest", move || {
            digest::take(&shared, &registry, epoch, &slow_sql);
            drop(registry);
            shared.integrity.end_digest();
        });
        if let Err(e) = started {
            self.shared.integrity.end_digest();
            warn!("no thread for a digest err={e}");
        }
    }

    /// Takes a copy of the state, which costs nothing, and writes it on a thread of its own, piece by piece: neither commands
    /// nor the log's syncs wait for long.
    fn save_snapshot(&mut self, meta: SnapshotMeta) {
        if !self.shared.integrity.begin_saving() {
            // The one under way is nearly as good, and the next is due after as many bytes again; or this state is wrong.
            return;
        }
        let registry = self.registry.clone();
        let shared = Arc::clone(&self.shared);
        let started = spawn::spawn_patient("snapshot", move || {
            writer::save(&shared, registry, &meta);
            shared.integrity.end_saving();
        });
        if let Err(e) = started {
            self.shared.integrity.end_saving();
            warn!("no thread for a snapshot err={e}");
        }
    }

    /// The state of another node takes the place of this one's.
    fn replace(&mut self, meta: &SnapshotMeta, mut snapshot: SnapshotReader, run: &[Entry]) -> Result<(), String> {
        let was_at = self.registry.applied().index;
        self.registry.restore(&mut snapshot).map_err(|e| format!("the state that was given cannot be read: {e}"))?;
        self.shared.integrity.begin_epoch();
        for entry in run {
            self.entry(entry);
        }
        // None of these checkpoints is told of: the next one is soon.
        self.registry.take_checkpoint();
        let applied = self.registry.applied().index;
        assert!(
            applied >= was_at && applied >= meta.index,
            "state of {} and {} entries end at {applied}",
            meta.index,
            run.len()
        );
        // Equal versions of what is published may stand for different content.
        (self.directory_version, self.jobs_turn, self.chat_turn) = (u64::MAX, u64::MAX, u64::MAX);
        self.publish();
        Ok(())
    }

    fn queries(&mut self, at_least: Index, queries: Vec<Question>) {
        let applied = self.registry.applied().index;
        if applied < at_least {
            self.waiting.entry(at_least).or_default().extend(queries);
            return;
        }
        if let Some(why) = self.shared.integrity.no_reads() {
            // Operation before this state was found to be wrong.
            return queries.into_iter().for_each(|(_, mut reply)| reply.answer(Outcome::Refused(why.clone())));
        }
        for question in queries {
            let (kv, at) = (self.registry.kv(), self.registry.applied());
            let Some((query, mut reply)) = large_reads::answer(&self.large_reads, kv, at, question) else { continue };
            reply.answer(Outcome::Done((applied, self.registry.query(&query))));
        }
    }

    /// Its bytes are never in memory as a whole: those of a large database go from file to file.
    fn install(&mut self, meta: &SnapshotMeta, mut snapshot: SnapshotReader) {
        if let Err(e) = self.registry.restore(&mut snapshot) {
            error!("the leader's snapshot cannot be read, this node stops: {e}");
            logging::exit(EXIT_DISK);
        }
        let applied = self.registry.applied().index;
        assert!(applied == meta.index, "snapshot of index {} holds the state of {applied}", meta.index);
        self.shared.event("snapshot", None, format!("caught up to index {applied} by a snapshot from the leader"));
        self.shared.recovery.installed(applied);
        self.shared.integrity.begin_epoch();
        self.publish();
    }

    fn publish_jobs(&mut self) {
        let turn = self.registry.jobs().turn();
        if turn != self.jobs_turn {
            self.jobs_turn = turn;
            let before = self.shared.jobs();
            self.shared.set_jobs(JobsView::of(self.registry.jobs(), self.shared.worker, &before));
            let now = Instant::now();
            for (job, awaiters) in std::mem::take(&mut self.awaiting) {
                let left = awaiters.into_iter().filter(|awaiter| awaiter.deadline > now);
                let left: Vec<_> = left.filter_map(|awaiter| self.tell_if_over(job, awaiter)).collect();
                if !left.is_empty() {
                    self.awaiting.insert(job, left);
                }
            }
        }
    }

    /// Answers if the job has ended or is not there; else gives the awaiter back.
    fn tell_if_over(&self, job: JobId, mut awaiter: Awaiter) -> Option<Awaiter> {
        let is_over = match self.registry.jobs().job(job) {
            Some(job) => matches!(job.state, State::Ended { .. }),
            None => self.registry.applied().index >= awaiter.at_least,
        };
        if !is_over {
            return Some(awaiter);
        }
        awaiter.reply.answer(self.job(job));
        None
    }

    fn let_go(&mut self) {
        for (job, awaiters) in std::mem::take(&mut self.awaiting) {
            for mut awaiter in awaiters {
                awaiter.reply.answer(self.job(job));
            }
        }
    }

    fn job(&self, job: JobId) -> Answered {
        if let Some(why) = self.shared.integrity.no_reads() {
            return Outcome::Refused(why);
        }
        Outcome::Done((self.registry.applied().index, self.registry.query(&jobs_query(&Query::Job(job)))))
    }

    /// Tells the rest of the node how far the services are and what the directory says; answers queries that waited.
    fn publish(&mut self) {
        let applied = self.registry.applied().index;
        if let Some(told) = self.shared.recovery.applied(applied, self.shared.me.id) {
            info!("{told}");
            self.shared.event("recovery", Some(self.shared.me.id), told);
        }
        let kv = self.registry.kv();
        self.shared.activity.set_store(kv.count() as u64, kv.largest_value() as u64);
        let known = self.shared.sizes();
        // Close to the quota each change is looked at: the last one may have made room, and no other is let in before that is seen.
        let is_close = known.sql_bytes.saturating_mul(10) >= (self.shared.settings.quota_db_mb << 20).saturating_mul(9);
        let is_due = is_close || self.shared.uptime_ms() >= self.sized_ms;
        if is_due {
            self.sized_ms = self.shared.uptime_ms() + quota::LOOK_EVERY_MS;
        }
        self.shared.set_sizes(self.registry.sizes((!is_due).then_some(known)));
        self.shared.set_next_expiry_ms(self.registry.next_expiry_ms());
        self.shared.set_left_at(self.registry.kv().is_left(self.registry.applied()).then_some(applied));
        lock(&self.shared.log_clock).applied(self.registry.applied().at_ms, mono_us());
        let nodes = self.registry.directory().nodes();
        if nodes.version != self.directory_version {
            self.directory_version = nodes.version;
            let nodes = Arc::new(nodes.clone());
            self.shared.set_directory(Arc::clone(&nodes));
            self.shared.inboxes.to_core(CoreInput::Directory(nodes));
        }
        // Last: whoever sees an index applied sees what it brought.
        self.shared.set_applied(applied);
        self.publish_jobs();
        let chat = self.registry.chat();
        if chat.turn() != self.chat_turn {
            self.chat_turn = chat.turn();
            self.shared.chat.set(chat.clone());
        }
        let later = self.waiting.split_off(&applied.next());
        for queries in std::mem::replace(&mut self.waiting, later).into_values() {
            self.queries(applied, queries);
        }
    }
}
