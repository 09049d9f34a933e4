//! This node's own row in its heartbeats.
//!
//! Not here: when they are sent (`node/threads/gossip.rs`), how rows travel (`wire/heartbeat.rs`).

use super::process::cpu_time;
use super::readiness;
use crate::cluster::gossip::GossipRow;
use crate::cluster::load::NodeActivity;
use crate::lock::lock;
use crate::node::shared::Shared;
use crate::node::sql::reader_pool::ReaderPool;
use crate::types::{Index, NodeId, NodeKind, Standing};
use std::time::{Duration, Instant};

pub fn own_row(shared: &Shared) -> GossipRow {
    // The view may be some milliseconds old; what was applied since is in the log and committed.
    let (view, applied, ways) = (shared.view(), shared.applied(), shared.ways());
    let raft = &view.raft;
    GossipRow {
        id: shared.me.id,
        uuid: shared.me.uuid,
        counter: 0,
        load: shared.load(),
        sessions_opened_total: shared.sessions.opened_total(),
        role: raft.role,
        standing: standing(shared, shared.me.id),
        term: raft.term,
        last_index: raft.last_index.max(applied),
        promise: raft.promised.unwrap_or_default(),
        commit_index: raft.commit_index.max(applied),
        applied_index: applied,
        held_index: raft.commit_index.min(raft.durable_index),
        cut_index: if shared.kind == NodeKind::Witness { raft.snapshot_index } else { Index(0) },
        pace: shared.activity.rates(),
        state: shared.integrity.report(),
        prepared_load: shared.sql.as_ref().map_or(0, ReaderPool::prepared_load),
        jobs: shared.job_report(),
        is_disk_low: shared.is_disk_low(),
        pid: std::process::id(),
        addresses: shared.settings.addresses(shared.me.id),
        is_ready: readiness::missing(shared).is_empty(),
        unreached: ways.unreached.clone(),
        relayed: ways.relayed.iter().map(|(to, by)| (*to, *by)).collect(),
    }
}

/// Standing of a node in the newest membership that this one knows.
pub fn standing(shared: &Shared, id: NodeId) -> Standing {
    let view = shared.view();
    let membership = &view.raft.membership;
    match (membership.voters.contains_key(&id), membership.learners.contains_key(&id)) {
        (true, _) => Standing::Voter,
        (_, true) => Standing::Learner,
        _ => Standing::None,
    }
}

/// Takes note of what this node did since the last call, for its load. To be called at each heartbeat.
#[derive(Debug)]
pub struct LoadWatch {
    since: Instant,
    cpu: Duration,
}

/// Shortest time over which processor time is measured.
const LOAD_WINDOW: Duration = Duration::from_secs(1);

impl LoadWatch {
    pub fn new() -> LoadWatch {
        LoadWatch { since: Instant::now(), cpu: cpu_time() }
    }

    pub fn maybe_note(&mut self, shared: &Shared) {
        let span = self.since.elapsed();
        if span < LOAD_WINDOW {
            return;
        }
        let cpu = cpu_time();
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let used = cpu.saturating_sub(self.cpu).as_secs_f64() / span.as_secs_f64() / processors as f64;
        let jobs = shared.jobs();
        let own = jobs.status.workers.iter().find(|worker| worker.id == shared.me.id);
        let doing = NodeActivity {
            requests_per_s: shared.activity.rates().kv_ops_per_s,
            jobs: own.map_or(0, |worker| worker.running.len() as u64),
            cpu_percent: (used * 100.0) as u64,
        };
        lock(&shared.load_meter).note(doing);
        (self.since, self.cpu) = (Instant::now(), cpu);
    }
}
