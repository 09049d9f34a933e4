//! What `apply` shows the rest of the node of each service, whenever the service has changed.
//!
//! A row of [`publishers`] is all that a service needs which shows something outside of replies to queries.
//! Not here: the views themselves (`node/views/`), when they are published (`apply.rs`).

use crate::node::quota::{LOOK_EVERY_MS, Sizes};
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

/// Shows one part of the state.
pub trait Publish: Send {
    /// Shows it, if it differs from what was shown last.
    fn publish(&mut self, registry: &Registry, shared: &Shared);
    /// The state was replaced: equal versions may stand for different content.
    fn reset(&mut self) {}
}

/// One publisher for each part of the state that others look at.
pub fn publishers() -> Vec<Box<dyn Publish>> {
    vec![
        Box::new(Keys),
        Box::<Space>::default(),
        Box::new(Directory { version: u64::MAX }),
        Box::new(Jobs { turn: u64::MAX }),
        Box::new(Chat { turn: u64::MAX }),
    ]
}

/// How many keys there are, and whether something waits to be removed.
struct Keys;

impl Publish for Keys {
    fn publish(&mut self, registry: &Registry, shared: &Shared) {
        let (kv, applied) = (registry.kv(), registry.applied());
        shared.activity.set_store(kv.count() as u64, kv.largest_value() as u64);
        shared.set_left_at(kv.is_left(applied).then_some(applied.index));
    }
}

/// What quotas are compared with.
#[derive(Default)]
struct Space {
    /// When the database is asked for its size next, in milliseconds since the start.
    due_ms: u64,
}

impl Publish for Space {
    fn publish(&mut self, registry: &Registry, shared: &Shared) {
        let known = shared.sizes();
        // Close to the quota each change is looked at: the last one may have made room, and no other is let in before that is seen.
        let is_close = known.sql_bytes.saturating_mul(10) >= (shared.settings.quota_db_mb << 20).saturating_mul(9);
        let is_due = is_close || shared.uptime_ms() >= self.due_ms;
        if is_due {
            self.due_ms = shared.uptime_ms() + LOOK_EVERY_MS;
        }
        shared.set_sizes(Sizes::of(registry, (!is_due).then_some(known)));
    }
}

struct Directory {
    version: u64,
}

impl Publish for Directory {
    fn publish(&mut self, registry: &Registry, shared: &Shared) {
        let nodes = registry.directory().nodes();
        if nodes.version != self.version {
            self.version = nodes.version;
            let nodes = Arc::new(nodes.clone());
            shared.set_directory(Arc::clone(&nodes));
            shared.inboxes.to_core(CoreInput::Directory(nodes));
        }
    }

    fn reset(&mut self) {
        self.version = u64::MAX;
    }
}

struct Jobs {
    turn: u64,
}

impl Publish for Jobs {
    fn publish(&mut self, registry: &Registry, shared: &Shared) {
        let turn = registry.jobs().turn();
        if turn != self.turn {
            self.turn = turn;
            let before = shared.jobs();
            shared.set_jobs(JobsView::of(registry.jobs(), shared.worker, &before));
        }
    }

    fn reset(&mut self) {
        self.turn = u64::MAX;
    }
}

struct Chat {
    turn: u64,
}

impl Publish for Chat {
    fn publish(&mut self, registry: &Registry, shared: &Shared) {
        let chat = registry.chat();
        if chat.turn() != self.turn {
            self.turn = chat.turn();
            shared.chat.set(chat.clone());
        }
    }

    fn reset(&mut self) {
        self.turn = u64::MAX;
    }
}

/// A client that waits for a job to end.
#[derive(Debug)]
pub struct JobWaiter {
    /// What it knows of was applied here once this index is.
    pub at_least: Index,
    /// When it gives up.
    pub deadline: Instant,
    /// Where the answer goes.
    pub reply: ReplyTo,
}

/// Clients that wait for jobs to end.
#[derive(Debug)]
pub struct JobWaiters {
    waiting: BTreeMap<JobId, Vec<JobWaiter>>,
    turn: u64,
}

impl Default for JobWaiters {
    fn default() -> JobWaiters {
        JobWaiters { waiting: BTreeMap::new(), turn: u64::MAX }
    }
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
        if std::mem::replace(&mut self.turn, registry.jobs().turn()) == self.turn {
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
            waiter.reply.answer(told(registry, shared));
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
    waiter.reply.answer(told(registry, shared));
    None
}

/// That the wait is over: the job, which may have megabytes of output, was published before.
fn told(registry: &Registry, shared: &Shared) -> Answered {
    if let Some(why) = shared.integrity.no_reads() {
        return Outcome::Refused(why);
    }
    Outcome::Done((registry.applied().index, Reply::Ok(Vec::new())))
}
