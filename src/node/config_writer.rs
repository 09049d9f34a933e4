//! The `config` thread: while this node leads, keeps `config.json` true.
//!
//! A thread of its own, because the file's lock may be held by a process that is frozen; nothing else may wait for it.
//! Not here: the file's format, lock and rules (`cluster/config_file.rs`).

use super::monitor;
use super::shared::Shared;
use crate::cluster::config_file::{ConfigFileError, Keeper, Projection, Written};
use crate::raft::Role;
use crate::types::Addresses;
use log::{info, warn};
use std::path::Path;
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
        let path = &shared.settings.config_file_path;
        // Nothing was due: that says neither that the last problem is over nor that it lasts.
        let Some(outcome) = keeper.keep(shared.now_ms(), path, projection(shared), &wait) else { continue };
        let problem = problem(path, outcome);
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

/// What stands in the way and what a person can do about it; empty if nothing does.
fn problem(path: &Path, outcome: Result<Written, ConfigFileError>) -> String {
    let path = path.display();
    match outcome {
        Ok(Written::Yes) => String::new(),
        Ok(Written::NotWritten { term, .. }) => format!(
            "{path} was written by the leader of term {term}, which is newer; if there never was one (a hand has edited \
             the file), move the file away and it is written anew"
        ),
        Err(e @ ConfigFileError::OtherCluster { .. }) => format!(
            "{e}; if that cluster is gone, move the file away and it is written anew, else give this one another \
             config_file_path"
        ),
        Err(e @ ConfigFileError::Busy { .. }) => {
            format!("{e}; end or thaw the one that holds it (fuser names it)")
        }
        Err(e @ (ConfigFileError::Io { .. } | ConfigFileError::Mangled { .. })) => {
            format!(
                "{e}; move away what stands there, or give this user the right to write there, and it is written anew"
            )
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
