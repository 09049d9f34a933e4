//! The `checkpoints` thread: makes all nodes digest their state at the same index, compares the digests, and acts on
//! what it finds about its own node.
//!
//! The leader puts a checkpoint into the log once a minute while anything is applied, and a node that saves a snapshot
//! asks for one. Each node digests a copy of its state then, at a bounded rate and low priority, and reports the result
//! in its heartbeats. Every node compares for itself, so a leader whose own state is wrong detects it as any other node
//! does. A node that differs from the majority marks itself as corrupt, on disk first, transfers leadership and fetches
//! the state of a node that agrees; when it has that, it asks for another checkpoint, which must find nothing.
//! Not here: who is wrong (`cluster/integrity.rs`), what the mark means to clients (`node/views/integrity.rs`), the
//! transfer (`rebuild.rs`).

use super::{rebuild, writer};
use crate::cluster::integrity::{Difference, Findings, NodeReport, StateReport, compare_reports};
use crate::lock::lock;
use crate::node::shared::Shared;
use crate::node::shared::cluster_state::is_member_online;
use crate::node::shared::messages::CoreInput;
use crate::outcome::Reason;
use crate::raft::{Membership, Role};
use crate::services::registry::checkpoint_command;
use crate::store::RealFiles;
use crate::store::integrity_record::{self, FindingKind, IntegrityRecord};
use crate::types::{Identity, Index, NodeId};
use crossbeam_channel::{Receiver, RecvTimeoutError};
use log::{error, info, warn};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Time between two checkpoints while anything is applied.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(60);
/// The same while a node differs, to notice soon when none differs any more.
const CHECKPOINT_SOON: Duration = Duration::from_secs(10);
/// Time between two checks of the reported digests.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// Time between two tries to fetch another node's state.
const REBUILD_AGAIN: Duration = Duration::from_secs(2);

struct Checkpoints {
    shared: Arc<Shared>,
    /// Which nodes were reported as corrupt.
    reported: BTreeMap<NodeId, Difference>,
    rebuild_after: Instant,
    /// Error of the last try to rebuild, which is logged once.
    rebuild_failed: Option<String>,
    last_proposed: Option<Instant>,
}

/// Body of the thread.
pub fn run(shared: &Arc<Shared>, inbox: &Receiver<()>) {
    let mut checkpoints = Checkpoints {
        shared: Arc::clone(shared),
        reported: BTreeMap::new(),
        rebuild_after: Instant::now(),
        rebuild_failed: None,
        last_proposed: None,
    };
    if let Some(why) = shared.integrity.no_reads().or_else(|| shared.integrity.no_writes()) {
        error!("{why}");
        shared.event("state", Some(shared.me.id), format!("node {}: {why}", shared.me.id.0));
    }
    loop {
        match inbox.recv_timeout(CHECK_EVERY) {
            Ok(()) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if shared.is_stopping() {
            return;
        }
        checkpoints.check();
    }
}

impl Checkpoints {
    fn check(&mut self) {
        let findings = Arc::new(self.find());
        self.shared.integrity.set_findings(Arc::clone(&findings));
        self.check_split(&findings);
        self.check_own(&findings);
        self.report_corrupt_nodes();
        if self.shared.integrity.is_corrupt() && Instant::now() >= self.rebuild_after {
            self.rebuild(&findings);
        }
        self.maybe_propose(&findings);
    }

    /// Compares the digests that all members report.
    fn find(&self) -> Findings {
        let view = self.shared.view();
        let membership: &Membership = &view.raft.membership;
        let me = self.shared.me;
        // A witness has no state to compare.
        let witnesses = self.shared.witnesses();
        let mut reports: Vec<(NodeId, bool, Arc<StateReport>)> = Vec::new();
        if !witnesses.contains(&me.id) {
            reports.push((me.id, true, self.shared.integrity.report()));
        }
        {
            let gossip = lock(&self.shared.gossip);
            for (row, ..) in gossip.all(self.shared.now_ms()) {
                let is_compared = row.id != me.id && !witnesses.contains(&row.id);
                if membership.uuid_of(row.id) == Some(row.uuid) && is_compared {
                    let is_online = is_member_online(&gossip, membership, me.id, row.id);
                    reports.push((row.id, is_online, Arc::clone(&row.state)));
                }
            }
        }
        let node_reports: Vec<NodeReport<'_>> = reports
            .iter()
            .map(|(id, is_online, report)| NodeReport {
                id: *id,
                is_voter: membership.voters.contains_key(id),
                is_online: *is_online,
                report,
            })
            .collect();
        let full_voters = membership.voters.keys().filter(|id| !witnesses.contains(id)).count();
        compare_reports(full_voters, &node_reports)
    }

    fn check_split(&self, findings: &Findings) {
        let integrity = &self.shared.integrity;
        match (integrity.split(), &findings.split) {
            (None, Some(split)) => {
                integrity.set_split(Some(split.clone()));
                integrity.differences.fetch_add(1, Ordering::Relaxed);
                let text = Reason::Split(split.clone()).to_string();
                error!("{text}");
                self.shared.event("state", None, text);
                if !integrity.is_corrupt() {
                    self.save(Some((FindingKind::Split, split)));
                }
            }
            (Some(split), None) if findings.agreed.is_some_and(|agreed| agreed > split.index) => {
                integrity.set_split(None);
                let text = "a majority of the voters agrees on the state again: writes are accepted".to_string();
                info!("{text}");
                self.shared.event("state", None, text);
                if !integrity.is_corrupt() {
                    self.save(None);
                }
            }
            _ => {}
        }
    }

    fn check_own(&self, findings: &Findings) {
        let (integrity, id) = (&self.shared.integrity, self.shared.me.id);
        let Some(difference) = findings.corrupt.get(&id).filter(|_| !integrity.is_corrupt()) else { return };
        // In this order: from now on no read is served, also after a restart.
        integrity.set_corrupt(Some(difference.clone()));
        self.save(Some((FindingKind::Corrupt, difference)));
        self.shared.inboxes.to_core(CoreInput::Corrupt(true));
        let parts = difference.parts_text();
        error!(
            "state differs from the majority's parts=\"{parts}\" index={}: refusing reads until it is rebuilt",
            difference.index
        );
    }

    fn save(&self, found: Option<(FindingKind, &Difference)>) {
        let record = found.map(|(kind, difference)| IntegrityRecord {
            uuid: self.shared.me.uuid,
            kind,
            index: difference.index,
            parts: difference.parts.clone(),
        });
        self.shared.disk_or_exit(integrity_record::save(&RealFiles, &self.shared.dir, record.as_ref()));
    }

    /// Reports which nodes are corrupt, and which no longer are.
    fn report_corrupt_nodes(&mut self) {
        let corrupt = self.shared.corrupt_nodes();
        for (id, difference) in &corrupt {
            if !self.reported.contains_key(id) {
                self.shared.integrity.differences.fetch_add(1, Ordering::Relaxed);
                let parts = difference.parts_text();
                let text = format!(
                    "the state of node {} differs from the majority's in {parts} at index {}: it refuses reads and is \
                     being rebuilt",
                    id.0, difference.index
                );
                warn!("{text}");
                self.shared.event("state", Some(*id), text);
            }
        }
        let rebuilt: BTreeSet<NodeId> = self.reported.keys().copied().filter(|id| !corrupt.contains_key(id)).collect();
        for id in rebuilt.iter().filter(|id| **id != self.shared.me.id && self.shared.is_online(**id)) {
            let text = format!("node {} has rebuilt its state", id.0);
            info!("{text}");
            self.shared.event("state", Some(*id), text);
        }
        self.reported = corrupt;
    }

    /// Fetches the state of a node that agrees with the majority.
    fn rebuild(&mut self, findings: &Findings) {
        self.rebuild_after = Instant::now() + REBUILD_AGAIN;
        let shared = Arc::clone(&self.shared);
        if shared.integrity.is_saving() {
            return;
        }
        let Some((from, address)) = self.source(findings) else {
            return self.failed("no online node is known to agree with the majority".to_string());
        };
        info!("rebuilding the state from={}", from.id);
        shared.event(
            "state",
            Some(shared.me.id),
            format!("node {} fetches the state from node {}", shared.me.id.0, from.id.0),
        );
        let begun = Instant::now();
        match rebuild::fetch(&shared, from, &address) {
            Ok(index) => self.rebuilt(from, index, begun.elapsed()),
            Err(why) => self.failed(why),
        }
    }

    fn rebuilt(&mut self, from: Identity, index: Index, took: Duration) {
        let shared = Arc::clone(&self.shared);
        writer::remove_covered_log(&shared, index);
        shared.integrity.set_corrupt(None);
        self.save(shared.integrity.split().as_ref().map(|split| (FindingKind::Split, split)));
        shared.inboxes.to_core(CoreInput::Corrupt(false));
        self.rebuild_failed = None;
        let (id, seconds) = (shared.me.id.0, took.as_secs_f64());
        let text = format!(
            "node {id} rebuilt its state from node {} at index {index} in {seconds:.1} s and serves reads again",
            from.id.0
        );
        warn!("{text}");
        shared.event("state", Some(shared.me.id), text);
        // The next checkpoint shows whether the state is correct now.
        shared.integrity.set_findings(Arc::default());
        self.propose();
    }

    fn failed(&mut self, why: String) {
        if self.rebuild_failed.as_ref() != Some(&why) {
            warn!("cannot rebuild the state yet: {why}");
            let text = format!("node {} could not rebuild its state yet: {why}", self.shared.me.id.0);
            self.shared.event("state", Some(self.shared.me.id), text);
            self.rebuild_failed = Some(why);
        }
    }

    /// Which node is asked for the state: not the leader, if another one agrees.
    fn source(&self, findings: &Findings) -> Option<(Identity, String)> {
        let view = self.shared.view();
        let sound =
            |id: &NodeId| findings.sound.contains_key(id) && *id != self.shared.me.id && self.shared.is_online(*id);
        let mut all: Vec<(NodeId, String)> = self
            .shared
            .known_addresses()
            .into_iter()
            .filter(|(id, _)| sound(id))
            .map(|(id, at)| (id, at.peer))
            .collect();
        fastrand::shuffle(&mut all);
        all.sort_by_key(|(id, _)| view.raft.leader == Some(*id));
        let (id, address) = all.into_iter().next()?;
        Some((Identity { id, uuid: view.raft.membership.uuid_of(id)? }, address))
    }

    /// On the leader: the next checkpoint, if it is time and there is anything new.
    fn maybe_propose(&mut self, findings: &Findings) {
        let integrity = &self.shared.integrity;
        if self.shared.view().raft.role != Role::Leader {
            return;
        }
        let is_calm = findings.is_clean() && !findings.is_disputed && self.reported.is_empty() && !integrity.is_split();
        let has_news = self.shared.applied() > integrity.checkpoint();
        let since_proposed = self.last_proposed.map(|at| at.elapsed());
        if is_due(is_calm, has_news, integrity.checkpoint_age(), since_proposed) {
            self.propose();
        }
    }

    fn propose(&mut self) {
        self.last_proposed = Some(Instant::now());
        let deadline = self.shared.request_deadline();
        if let Err(why) = self.shared.inboxes.run(checkpoint_command(), deadline).into_result() {
            log::debug!("no checkpoint err={why:?}");
        }
    }
}

/// Whether the leader proposes a checkpoint: `is_calm`, no node is known to differ; `has_news`, something was applied
/// since the last checkpoint, which is `age` old. One that was proposed and never came is not repeated at once.
fn is_due(is_calm: bool, has_news: bool, age: Duration, since_proposed: Option<Duration>) -> bool {
    let every = if is_calm { CHECKPOINT_EVERY } else { CHECKPOINT_SOON };
    age >= every && since_proposed.is_none_or(|since| since >= every) && (has_news || !is_calm)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// docs/operations.md: at least once a minute while anything is written, and sooner while a node differs.
    #[test]
    fn checkpoints_are_due_each_minute_and_sooner_while_a_node_differs() {
        let seconds = Duration::from_secs;
        assert!(is_due(true, true, seconds(60), None));
        assert!(!is_due(true, true, seconds(59), None));
        assert!(!is_due(true, false, seconds(600), None), "a cluster that is at rest writes nothing");
        assert!(is_due(false, false, seconds(10), None), "whoever differs is looked at again without news");
        assert!(!is_due(false, true, seconds(9), None));
        // One is on its way, or was lost.
        assert!(!is_due(true, true, seconds(90), Some(seconds(59))));
        assert!(is_due(true, true, seconds(90), Some(seconds(60))));
        assert!(!is_due(false, true, seconds(90), Some(seconds(9))));
        assert!(is_due(false, true, seconds(90), Some(seconds(10))));
    }
}
