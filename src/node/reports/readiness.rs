//! Whether this node can serve clients: what `/readyz` says, and what its heartbeats tell the front doors.
//!
//! Not here: the others' readiness, which their heartbeats tell (`cluster/dispatch.rs`).

use crate::lock::lock;
use crate::node::shared::Shared;
use crate::raft::Role;
use crate::types::Index;

/// A node this many entries behind still counts as caught up: under load the two are never equal.
const READY_LAG_MAX: u64 = 1000;

/// What this node lacks; nothing: it knows a leader and has caught up.
pub fn missing(shared: &Shared) -> Vec<String> {
    let view = shared.view();
    let raft = &view.raft;
    let mut missing: Vec<String> = shared.no_reads().iter().map(ToString::to_string).collect();
    if raft.leader.is_none() {
        missing.push("no leader is known".to_string());
    }
    missing.extend(shared.outsider().map(|it| it.describe(shared.me)));
    let now_ms = shared.now_ms();
    // What was committed in the last moment is no lag: the others' heartbeats say more than this node has by then.
    let committed = lock(&shared.lags).committed_at(now_ms.saturating_sub(2 * shared.settings.gossip_ms));
    let lag = committed.max(raft.commit_index).0.saturating_sub(shared.applied().0);
    if lag > READY_LAG_MAX {
        missing.push(format!("{lag} entries behind the leader"));
    }
    // Few entries may be many megabytes, and an empty node of a young cluster is only few behind: a node is ready when it
    // has applied what was committed at its first check.
    let of_leader = leaders_commit_index(shared);
    if let Some(wanted) = shared.must_reach(of_leader).filter(|wanted| shared.applied() < *wanted) {
        missing.push(format!("has applied {} of the first {wanted} entries", shared.applied()));
    } else if of_leader.is_none() && raft.leader.is_some() {
        missing.push("the leader has not been heard yet".to_string());
    }
    if shared.is_stopping() {
        missing.push("stopping".to_string());
    }
    missing
}

/// The commit index that the leader last reported; `None`: it has reported none.
fn leaders_commit_index(shared: &Shared) -> Option<Index> {
    let view = shared.view();
    let index = match view.raft.role {
        Role::Leader => view.raft.commit_index.max(shared.applied()),
        _ => lock(&shared.gossip).row(shared.now_ms(), view.raft.leader?)?.0.commit_index,
    };
    Some(index).filter(|index| index.0 > 0)
}
