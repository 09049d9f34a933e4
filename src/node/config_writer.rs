//! The `config` thread: while this node leads, keeps `config.json` true.
//!
//! A thread of its own, because the file's lock may be held by a process that is frozen; nothing else may wait for it.
//! Not here: the file's format, lock and rules (`cluster/config_file.rs`).

use super::monitor;
use super::shared::Shared;
use crate::cluster::config_file::{Keeper, Projection, Written};
use crate::raft::Role;
use crate::types::Addresses;
use log::{info, warn};
use std::sync::Arc;
use std::time::Duration;

/// Between two looks at whether something must be written.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Body of the thread.
pub fn run(shared: &Arc<Shared>) {
    let mut keeper = Keeper::default();
    let mut last_problem = String::new();
    let wait = |pause: Duration| {
        std::thread::sleep(pause);
        !shared.is_stopped()
    };
    while wait(LOOK_EVERY) {
        let view = shared.view();
        if view.raft.role != Role::Leader || !view.raft.has_committed_own_term {
            // Somebody else may write now: what this node wrote last says nothing any more.
            keeper = Keeper::default();
            continue;
        }
        let problem = match keeper.keep(shared.now_ms(), &shared.settings.config_file_path, projection(shared), &wait) {
            None | Some(Ok(Written::Yes)) => String::new(),
            Some(Ok(Written::NotWritten { term, .. })) => format!("it was written by the leader of term {term}"),
            Some(Err(e)) => e.to_string(),
        };
        // The edge, not every try.
        if problem != last_problem {
            match problem.is_empty() {
                true => info!("config.json is written again"),
                false => warn!("config.json is not written: {problem}"),
            }
            last_problem = problem;
        }
    }
}

fn projection(shared: &Shared) -> Projection {
    let status = monitor::status(shared);
    let rows: Vec<_> = status
        .nodes
        .into_iter()
        .map(|row| (row.id, Addresses { peer: row.peer, http: row.http, kv: row.kv }, row.status, row.load))
        .collect();
    let nodes = rows.iter().map(|(id, addresses, status, load)| (*id, addresses, *status, *load));
    Projection::new(shared.cluster, status.cluster.term, 0, status.cluster.leader, nodes)
}
