//! What `apply` publishes of each service for the rest of the node, whenever the service has changed.
//!
//! [`Publisher::publish`] is the place for a service that shows more than replies to queries.
//! Not here: the views themselves (`node/views/`), when they are published (`apply.rs`).

use crate::node::quota::Sizes;
use crate::node::shared::Shared;
use crate::node::shared::messages::CoreInput;
use crate::node::shared::request::{Answered, ReplyTo};
use crate::node::views::jobs::JobsView;
use crate::outcome::Outcome;
use crate::services::Reply;
use crate::services::jobs::{JobId, State};
use crate::services::registry::Registry;
use crate::types::Index;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// What was published last of each service, and publishes what has changed since.
#[derive(Default)]
pub struct Publisher {
    /// Versions, as each service counts them; `None`: nothing yet.
    directory: Option<u64>,
    history: Option<u64>,
    jobs: Option<u64>,
    chat: Option<u64>,
    /// Index of the database's newest entry.
    sql: Option<u64>,
    /// When the database is next searched for triggers, in milliseconds since the start.
    triggers_due_ms: u64,
}

/// How often the database is searched for triggers, which takes longer the more tables it has.
const TRIGGERS_EVERY_MS: u64 = 50;

impl Publisher {
    /// Publishes what differs from what was published last.
    pub fn publish(&mut self, registry: &Registry, shared: &Shared) {
        let (kv, applied) = (registry.kv(), registry.applied());
        shared.activity.set_store(kv.count() as u64, kv.largest_value() as u64);
        shared.set_left_at(kv.has_expired_left(applied).then_some(applied.index));
        self.publish_sizes(registry, shared);
        let nodes = registry.directory().nodes();
        if is_new(&mut self.directory, nodes.version) {
            let nodes = Arc::new(nodes.clone());
            shared.set_directory(Arc::clone(&nodes));
            shared.inboxes.to_core(CoreInput::Directory(nodes));
        }
        let history = registry.directory().history();
        if is_new(&mut self.history, history.version) {
            shared.set_history(Arc::clone(history));
        }
        let jobs = registry.jobs();
        if is_new(&mut self.jobs, jobs.turn()) {
            let before = shared.jobs();
            shared.set_jobs(JobsView::of(jobs, shared.worker, &before));
        }
        let chat = registry.chat();
        if is_new(&mut self.chat, chat.revision()) {
            shared.chat.set(chat.clone());
        }
    }

    /// What quotas are compared with.
    fn publish_sizes(&mut self, registry: &Registry, shared: &Shared) {
        let (sql, known) = (registry.sql(), shared.sizes());
        let is_due = shared.uptime_ms() >= self.triggers_due_ms;
        if is_due {
            self.triggers_due_ms = shared.uptime_ms() + TRIGGERS_EVERY_MS;
        }
        let sql_bytes = if is_new(&mut self.sql, sql.newest()) { sql.used_bytes() } else { known.sql_bytes };
        let has_triggers = if is_due { sql.has_triggers() } else { known.has_triggers };
        shared.set_sizes(Sizes::of(registry, sql_bytes, has_triggers));
    }
}

/// Notes a version; whether it differs from the one before.
fn is_new(published: &mut Option<u64>, version: u64) -> bool {
    published.replace(version) != Some(version)
}

/// A client that waits for a job to end.
#[derive(Debug)]
pub struct JobWaiter {
    /// Once this index is applied, this node knows every job that the client knows.
    pub at_least: Index,
    /// When it gives up.
    pub deadline: Instant,
    /// Where the answer goes.
    pub reply: ReplyTo,
}

/// Clients that wait for jobs to end.
#[derive(Debug, Default)]
pub struct JobWaiters {
    waiting: BTreeMap<JobId, Vec<JobWaiter>>,
    /// Version of the jobs at the last check.
    turn: Option<u64>,
}

impl JobWaiters {
    /// Answers at once if the job has ended or is not there, else when it has.
    pub fn add(&mut self, job: JobId, waiter: JobWaiter, registry: &Registry, shared: &Shared) {
        if let Some(waiter) = answer_if_ended(job, waiter, registry, shared) {
            let (now, others) = (Instant::now(), self.waiting.entry(job).or_default());
            // A client that asks again and again must not pile up while nothing happens.
            others.retain(|other| other.deadline > now);
            others.push(waiter);
        }
    }

    /// Answers for the jobs that have ended since.
    pub fn answer(&mut self, registry: &Registry, shared: &Shared) {
        if !is_new(&mut self.turn, registry.jobs().turn()) {
            return;
        }
        let now = Instant::now();
        for (job, waiters) in std::mem::take(&mut self.waiting) {
            let left = waiters.into_iter().filter(|waiter| waiter.deadline > now);
            let left: Vec<_> = left.filter_map(|waiter| answer_if_ended(job, waiter, registry, shared)).collect();
            if !left.is_empty() {
                self.waiting.insert(job, left);
            }
        }
    }

    /// Answers all, however far their jobs are.
    pub fn answer_all(&mut self, registry: &Registry, shared: &Shared) {
        for mut waiter in std::mem::take(&mut self.waiting).into_values().flatten() {
            waiter.reply.answer(over(registry, shared));
        }
    }
}

/// Answers if the job has ended or is not there; else gives the waiter back.
fn answer_if_ended(job: JobId, mut waiter: JobWaiter, registry: &Registry, shared: &Shared) -> Option<JobWaiter> {
    let has_ended = match registry.jobs().job(job) {
        Some(job) => matches!(job.state, State::Ended { .. }),
        None => registry.applied().index >= waiter.at_least,
    };
    if !has_ended {
        return Some(waiter);
    }
    waiter.reply.answer(over(registry, shared));
    None
}

/// The answer that a wait is over. It does not contain the job, which may have megabytes of output and was published
/// before.
fn over(registry: &Registry, shared: &Shared) -> Answered {
    if let Some(why) = shared.no_reads() {
        return Outcome::Refused(why);
    }
    Outcome::Done((registry.applied().index, Reply::Ok(Vec::new())))
}
