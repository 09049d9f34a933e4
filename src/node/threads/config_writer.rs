//! The `config` thread: keeps the `config.json` that this node uses up to date, and, while this node leads, tells all
//! nodes what it is to contain.
//!
//! A separate thread, because the file's lock may be held by a process that is frozen, and nothing else may wait for
//! it.
//! Not here: the file's format and lock (`cluster/config/file.rs`), when it is written (`cluster/config/keeper.rs`).

use crate::cluster::config::file::{ConfigFileError, FILE_BYTES_MAX, Projection, WriteOutcome, read};
use crate::cluster::config::keeper::{Contact, Keeper, VersionAuthor};
use crate::lock::lock;
use crate::node::reports::status::status;
use crate::node::shared::Shared;
use crate::raft::Role;
use crate::time;
use crate::types::{Addresses, NodeId};
use crate::wire::Frame;
use log::{debug, info, warn};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Time between two checks whether something must be written.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The leader sends the newest version again after this time for each node, and after a second at least: a frame may be
/// lost with its connection, and a new node has none.
const SEND_AGAIN_MS: (u64, u64) = (50, 1000);
/// Unsent bytes of a link beyond which nothing is added: it is sent again.
const LINK_BYTES_MAX: usize = 1 << 20;

/// A node that has led for so many election timeouts beside a file of a newer leader is not a deposed leader: a deposed
/// one would have heard of the newer leader, or lost its quorum.
const LEADS_AFTER_TIMEOUTS: u32 = 3;

/// Body of the thread.
pub fn run(shared: &Arc<Shared>) {
    let path = &shared.settings.config_file_path;
    let (mut announcer, mut keeper, mut contact) = (Announcer::default(), Keeper::default(), Contact::default());
    let election_timeout = Duration::from_millis(shared.settings.election_timeout_ms);
    let mut report = Report::new(election_timeout * LEADS_AFTER_TIMEOUTS);
    let wait = |pause: Duration| {
        std::thread::sleep(pause);
        !shared.is_stopped()
    };
    while wait(LOOK_EVERY) {
        let (view, now_ms) = (shared.view(), shared.now_ms());
        let leads = view.raft.role == Role::Leader;
        let is_author = leads && view.raft.has_committed_own_term && view.raft.has_quorum;
        if is_author {
            announcer.author_version(shared, path);
        } else {
            // Another leader may have gone on since.
            announcer = Announcer::default();
        }
        let is_in_contact = is_author || (!leads && view.raft.leader.is_some());
        let out_of_contact_since = contact.observe(now_ms, path, is_in_contact);
        let newest = lock(&shared.config_file).clone();
        if let Some(since_ms) = out_of_contact_since {
            let (known, since) = ((shared.cluster, newest.as_deref()), time::rfc3339(since_ms));
            if let Err(e) = contact.mark_stale(now_ms, path, known, &since, &wait) {
                debug!("config.json is not marked as stale err=\"{e}\"");
            }
        }
        let (true, Some(newest)) = (is_in_contact, newest) else {
            report.out_of_contact();
            continue;
        };
        // `None`: it is unknown whether the last problem persists.
        let outcome = keeper.keep(now_ms, path, &newest, &wait);
        if is_author {
            announcer.maybe_send(shared, &newest);
        }
        match outcome.and_then(|outcome| report.edge(Instant::now(), path, outcome)) {
            Some(problem) if problem.is_empty() => info!("config.json is written again"),
            Some(problem) => warn!("config.json is not written: {problem}"),
            None => {}
        }
    }
}

/// A frame of another node: what the file is to contain, if that node leads.
pub fn hear(shared: &Shared, from: NodeId, text: &[u8]) {
    let raft = &shared.view().raft;
    // A leader that this node does not follow (yet) sends it again.
    if raft.leader != Some(from) || text.len() as u64 > FILE_BYTES_MAX {
        return;
    }
    let is_ours = |heard: &Projection| heard.cluster_info.term == raft.term && heard.cluster_info.id == shared.cluster;
    let Some(heard) = Projection::parse(text).ok().filter(is_ours) else { return };
    let mut newest = lock(&shared.config_file);
    if newest.as_ref().is_none_or(|newest| heard.is_newer_than(newest)) {
        *newest = Some(Arc::new(heard));
    }
}

/// The leader's part.
#[derive(Default)]
struct Announcer {
    author: VersionAuthor,
    /// What was sent last, and when.
    sent: Option<(Arc<Projection>, u64)>,
}

impl Announcer {
    /// Makes a new version after a change.
    fn author_version(&mut self, shared: &Shared, path: &Path) {
        let now_ms = shared.now_ms();
        if !self.author.is_due(now_ms) {
            return;
        }
        let on_disk = read(path).ok().flatten().map(|found| found.cluster_info);
        if let Some(new) = self.author.revise(now_ms, projection(shared), on_disk.as_ref()) {
            *lock(&shared.config_file) = Some(new);
        }
    }

    /// Sends a new version to all nodes, and the present one again now and then.
    fn maybe_send(&mut self, shared: &Shared, newest: &Arc<Projection>) {
        let now_ms = shared.now_ms();
        let again_ms = (newest.nodes.len() as u64 * SEND_AGAIN_MS.0).max(SEND_AGAIN_MS.1);
        let is_sent =
            |(sent, at): &(Arc<Projection>, u64)| Arc::ptr_eq(sent, newest) && now_ms.saturating_sub(*at) < again_ms;
        if self.sent.as_ref().is_some_and(is_sent) {
            return;
        }
        let frame = Frame::ConfigFile(newest.to_text());
        for link in shared.links().values() {
            link.try_send(&frame, LINK_BYTES_MAX);
        }
        self.sent = Some((Arc::clone(newest), now_ms));
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

    /// This node does not know whether it would be right.
    fn out_of_contact(&mut self) {
        self.ahead = None;
    }

    /// The problem, if it differs from the last one; empty: it is over.
    fn edge(&mut self, now: Instant, path: &Path, outcome: Result<WriteOutcome, ConfigFileError>) -> Option<String> {
        match outcome {
            Ok(WriteOutcome::NotWritten { .. }) => {
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
fn problem(path: &Path, outcome: Result<WriteOutcome, ConfigFileError>) -> String {
    let path = path.display();
    match outcome {
        Ok(WriteOutcome::Yes) => String::new(),
        Ok(WriteOutcome::NotWritten { term, .. }) => format!(
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
    fn a_former_leader_cannot_change_a_newer_leaders_file() {
        let path = Path::new("config.json");
        let ahead = || Ok(WriteOutcome::NotWritten { term: Term(9), version: 1 });
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let mut report = Report::new(Duration::from_secs(3));
        assert_eq!(report.edge(at(0), path, ahead()), None, "thawed: it will step down");
        // Frozen for a minute, twice: time passes, and it has not looked.
        assert_eq!(report.edge(at(60), path, ahead()), None);
        report.out_of_contact();
        assert_eq!(report.edge(at(120), path, ahead()), None);
        assert_eq!(report.edge(at(121), path, ahead()), None);
        assert_eq!(report.edge(at(122), path, ahead()), None, "not for long enough");
        let said = report.edge(at(123), path, ahead()).unwrap();
        assert!(
            said.contains("term 9") && said.contains("was edited") && said.contains("move the file away"),
            "{said}"
        );
        assert_eq!(report.edge(at(124), path, ahead()), None, "the edge alone");
        assert_eq!(report.edge(at(125), path, Ok(WriteOutcome::Yes)).as_deref(), Some(""));
    }
}
