//! This node's own row in its heartbeats.
//!
//! Not here: when they are sent (`node/threads/gossip.rs`), how rows travel (`wire/heartbeat.rs`).

use crate::cluster::gossip::GossipRow;
use crate::node::shared::Shared;
use crate::node::sql::reader_pool::ReaderPool;
use crate::types::{NodeId, Standing};

pub fn own_row(shared: &Shared) -> GossipRow {
    // The view may be some milliseconds old; what was applied since is in the log and committed.
    let (view, applied) = (shared.view(), shared.applied());
    let raft = &view.raft;
    GossipRow {
        id: shared.me.id,
        uuid: shared.me.uuid,
        counter: 0,
        load: shared.sessions.count() as u64,
        sessions_opened_total: shared.sessions.opened_total(),
        role: raft.role,
        standing: standing(shared, shared.me.id),
        term: raft.term,
        last_index: raft.last_index.max(applied),
        promise: raft.promised.unwrap_or_default(),
        commit_index: raft.commit_index.max(applied),
        applied_index: applied,
        pace: shared.activity.pace(),
        state: shared.integrity.report(),
        prepared_load: shared.sql.as_ref().map_or(0, ReaderPool::prepared_load),
        jobs: shared.job_report(),
        is_disk_low: shared.is_disk_low(),
        pid: std::process::id(),
        addresses: shared.settings.addresses(shared.me.id),
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
