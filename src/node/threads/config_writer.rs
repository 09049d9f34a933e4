//! The `config` thread: while this node leads, keeps `config.json` up to date.
//!
//! A separate thread, because the file's lock may be held by a process that is frozen, and nothing else may wait for
//! it.
//! Not here: the file's format, lock and rules (`cluster/config_file.rs`).

use crate::cluster::config_file::{ConfigFileError, Keeper, Projection, Written};
use crate::node::reports::status::status;
use crate::node::shared::Shared;
use crate::raft::Role;
use crate::types::Addresses;
use log::{info, warn};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Time between two checks whether something must be written.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A node that has led for so many election timeouts beside a file of a newer leader is not a deposed leader: a deposed
/// one would have heard of the newer leader, or lost its quorum.
const LEADS_AFTER_TIMEOUTS: u32 = 3;

/// Body of the thread.
pub fn run(shared: &Arc<Shared>) {
    let mut keeper = Keeper::default();
    let election_timeout = Duration::from_millis(shared.settings.election_timeout_ms);
    let mut report = Report::new(election_timeout * LEADS_AFTER_TIMEOUTS);
    let wait = |pause: Duration| {
        std::thread::sleep(pause);
        !shared.is_stopped()
    };
    while wait(LOOK_EVERY) {
        let view = shared.view();
        if view.raft.role != Role::Leader || !view.raft.has_committed_own_term {
            // Another leader may write the file now, so what this node wrote last is out of date.
            keeper = Keeper::default();
            report.no_leader();
            continue;
        }
        let path = &shared.settings.config_file_path;
        // `None`: nothing was due, so it is unknown whether the last problem persists.
        let Some(outcome) = keeper.keep(shared.now_ms(), path, projection(shared), &wait) else { continue };
        match report.edge(Instant::now(), path, outcome) {
            Some(problem) if problem.is_empty() => info!("config.json is written again"),
            Some(problem) => warn!("config.json is not written: {problem}"),
            None => {}
        }
    }
}

/// What was reported about the file.
struct Report {
    last_problem: String,
    /// Since when the file was found to be of a newer term, and how often.
    ahead: Option<(Instant, u32)>,
    /// How long and how often that must be found before the file is assumed to be wrong, not this leader.
    ahead_min: (Duration, u32),
}

impl Report {
    fn new(ahead_min: Duration) -> Report {
        // More than one check: a process may have been frozen between two checks.
        Report { last_problem: String::new(), ahead: None, ahead_min: (ahead_min, 3) }
    }

    /// This node does not lead.
    fn no_leader(&mut self) {
        self.ahead = None;
    }

    /// The problem, if it differs from the last one; empty: it is over.
    fn edge(&mut self, now: Instant, path: &Path, outcome: Result<Written, ConfigFileError>) -> Option<String> {
        match outcome {
            Ok(Written::NotWritten { .. }) => {
                let (since, checks) = self.ahead.get_or_insert((now, 0));
                *checks += 1;
                // A leader that was frozen or cut off while another one was elected does not know that for a moment.
                if now.saturating_duration_since(*since) < self.ahead_min.0 || *checks < self.ahead_min.1 {
                    return None;
                }
            }
            _ => self.ahead = None,
        }
        let problem = problem(path, outcome);
        if problem == self.last_problem {
            return None;
        }
        self.last_problem = problem.clone();
        Some(problem)
    }
}

/// Why the file was not written and what a person can do about it; empty if it was.
fn problem(path: &Path, outcome: Result<Written, ConfigFileError>) -> String {
    let path = path.display();
    match outcome {
        Ok(Written::Yes) => String::new(),
        Ok(Written::NotWritten { term, .. }) => format!(
            "{path} names term {term}, which is newer than the current term: the file was edited, or copied from \
             another cluster; move the file away, and the leader writes it again"
        ),
        Err(e @ ConfigFileError::OtherCluster { .. }) => format!(
            "{e}; if that cluster is gone, move the file away, and the leader writes it again; otherwise give this \
             cluster another config_file_path"
        ),
        Err(e @ ConfigFileError::Busy { .. }) => {
            format!("{e}; stop or continue that process (fuser shows its pid)")
        }
        Err(e @ (ConfigFileError::Io { .. } | ConfigFileError::Mangled { .. })) => {
            format!("{e}; move it away, or give this user permission to write there, and it is written again")
        }
    }
}

fn projection(shared: &Shared) -> Projection {
    let status = status(shared);
    let rows: Vec<_> = status
        .nodes
        .into_iter()
        .map(|row| (row.id, Addresses { peer: row.peer, http: row.http, kv: row.kv }, row.status, row.load))
        .collect();
    let nodes = rows.iter().map(|(id, addresses, status, load)| (*id, addresses, *status, *load));
    Projection::new(shared.cluster, status.cluster.term, 0, status.cluster.leader, nodes)
}

#[cfg(test)]
mod tests {
    use crate::node::threads::config_writer::*;
    use crate::types::Term;

    #[test]
    fn a_leader_of_the_past_says_nothing_of_a_newer_leaders_file() {
        let path = Path::new("config.json");
        let ahead = || Ok(Written::NotWritten { term: Term(9), version: 1 });
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let mut report = Report::new(Duration::from_secs(3));
        assert_eq!(report.edge(at(0), path, ahead()), None, "thawed: it will step down");
        // Frozen for a minute, twice: time passes, and it has not looked.
        assert_eq!(report.edge(at(60), path, ahead()), None);
        report.no_leader();
        assert_eq!(report.edge(at(120), path, ahead()), None);
        assert_eq!(report.edge(at(121), path, ahead()), None);
        assert_eq!(report.edge(at(122), path, ahead()), None, "not for long enough");
        let said = report.edge(at(123), path, ahead()).unwrap();
        assert!(
            said.contains("term 9") && said.contains("was edited") && said.contains("move the file away"),
            "{said}"
        );
        assert_eq!(report.edge(at(124), path, ahead()), None, "the edge alone");
        assert_eq!(report.edge(at(125), path, Ok(Written::Yes)).as_deref(), Some(""));
    }
}
