//! Which nodes have a wrong state, from the digests that all nodes report: pure, with the same result on every node.
//!
//! Each part of the state (a service, the session table) is compared separately: at one index a majority of the voters
//! must have reported the same digest. A node that has reported another one is corrupt, whether it votes or not. If no
//! majority is possible any more, because the voters that answer differ, the cluster is split: it is unknown which
//! state is right.
//!
//! A voter that has not reported its digest at an index yet is waited for until two newer checkpoints.
//! Not here: the reaction (`node/views/integrity.rs`), computing a digest (`services/digests.rs`).

use crate::raft::quorum;
pub use crate::services::digests::Difference;
use crate::services::digests::StateDigest;
use crate::types::{Index, NodeId};
pub use crate::wire::heartbeat::StateReport;
use std::collections::{BTreeMap, BTreeSet};

/// After this many newer checkpoints a voter's digest is no longer waited for.
const CHECKPOINTS_WAITED: usize = 2;

#[derive(Clone, Copy, Debug)]
pub struct NodeReport<'a> {
    /// Id of the node in the membership.
    pub id: NodeId,
    /// Whether it is a voter, so that its report counts for majorities.
    pub is_voter: bool,
    /// Whether it is online, so that it may report more digests.
    pub is_online: bool,
    pub report: &'a StateReport,
}

/// Result of comparing the reports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Nodes that differ from a majority, each at the newest index at which that is known.
    pub corrupt: BTreeMap<NodeId, Difference>,
    /// Nodes that agree with the majority in every part, at the newest index that they have reported and that is
    /// decided.
    pub sound: BTreeMap<NodeId, Index>,
    /// Parts in which no majority has the same state, if there are any.
    pub split: Option<Difference>,
    /// Newest index at which a majority agrees in every part.
    pub agreed: Option<Index>,
    /// Voters differ at a later index, and the others have not reported it yet.
    pub is_disputed: bool,
}

/// The reports of one checkpoint.
struct Tally {
    index: Index,
    /// Digest of the majority, by part.
    decided: BTreeMap<u8, u64>,
    /// Parts in which voters differ and no majority is possible.
    split: BTreeSet<u8>,
    /// Voters differ in a part, and there is no majority yet.
    is_disputed: bool,
    /// Parts of which a digest is known.
    parts: BTreeSet<u8>,
}

/// Compares the reports. `voters` is the number of all voters, including those without a report.
pub fn compare_reports(voters: usize, node_reports: &[NodeReport<'_>]) -> Findings {
    let indexes: BTreeSet<Index> = node_reports
        .iter()
        .filter(|node_report| node_report.is_voter)
        .flat_map(|node_report| node_report.report.digests.iter().map(|d| d.index))
        .collect();
    let tallies: Vec<Tally> =
        indexes.iter().rev().enumerate().map(|(newer, index)| tally(voters, node_reports, *index, newer)).collect();
    let agreed = tallies.iter().find(|tally| tally.is_decided()).map(|tally| tally.index);
    let open = || tallies.iter().take_while(|tally| !tally.is_decided());
    let split = open().find(|tally| !tally.split.is_empty());
    let mut findings = Findings {
        split: split.map(|tally| Difference { index: tally.index, parts: tally.split.iter().copied().collect() }),
        agreed,
        is_disputed: open().any(|tally| tally.is_disputed),
        ..Findings::default()
    };
    for node_report in node_reports {
        if let Some(difference) = difference(node_report, &tallies) {
            findings.corrupt.insert(node_report.id, difference);
        } else if let Some(tally) =
            tallies.iter().find(|tally| tally.is_decided() && digest_at(node_report, tally.index).is_some())
        {
            findings.sound.insert(node_report.id, tally.index);
        }
    }
    findings
}

/// Returns the parts in which a node differs from the majority, each at the newest checkpoint with a majority.
fn difference(node_report: &NodeReport<'_>, tallies: &[Tally]) -> Option<Difference> {
    let (mut seen, mut parts, mut newest) = (BTreeSet::new(), BTreeSet::new(), Index(0));
    for tally in tallies {
        let Some(digests) = digest_at(node_report, tally.index) else { continue };
        for (number, digest) in &digests.parts {
            let Some(right) = tally.decided.get(number) else { continue };
            if seen.insert(*number) && right != digest {
                parts.insert(*number);
                newest = newest.max(tally.index);
            }
        }
    }
    (!parts.is_empty()).then(|| Difference { index: newest, parts: parts.into_iter().collect() })
}

fn digest_at<'a>(node_report: &NodeReport<'a>, index: Index) -> Option<&'a StateDigest> {
    node_report.report.digests.iter().find(|digest| digest.index == index)
}

/// Compares the reports at one checkpoint. `newer` is the number of later checkpoints with digests.
fn tally(voters: usize, node_reports: &[NodeReport<'_>], index: Index, newer: usize) -> Tally {
    let mut groups: BTreeMap<u8, BTreeMap<u64, usize>> = BTreeMap::new();
    let mut outstanding = 0;
    for node_report in node_reports.iter().filter(|node_report| node_report.is_voter) {
        match digest_at(node_report, index) {
            Some(digests) => {
                for (number, digest) in &digests.parts {
                    *groups.entry(*number).or_default().entry(*digest).or_default() += 1;
                }
            }
            None => outstanding += usize::from(node_report.is_online && newer < CHECKPOINTS_WAITED),
        }
    }
    let (mut decided, mut split, mut is_disputed) = (BTreeMap::new(), BTreeSet::new(), false);
    for (number, group) in &groups {
        let Some((digest, most)) = group.iter().max_by_key(|(_, count)| **count) else { continue };
        if *most >= quorum(voters) {
            decided.insert(*number, *digest);
        } else if group.len() > 1 {
            is_disputed = true;
            if most + outstanding < quorum(voters) {
                split.insert(*number);
            }
        }
    }
    Tally { index, decided, split, is_disputed, parts: groups.into_keys().collect() }
}

impl Tally {
    fn is_decided(&self) -> bool {
        !self.parts.is_empty() && self.decided.len() == self.parts.len()
    }
}

impl Findings {
    /// Whether no node differs.
    pub fn is_clean(&self) -> bool {
        self.corrupt.is_empty() && self.split.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Index and the digests of parts 1 and 2.
    type Report = (u64, u64, u64);

    /// `rows` has for each node its reports: index and the digests of parts 1 and 2; a negative id is offline.
    fn judged(voters: usize, rows: &[(i64, &[Report])]) -> Findings {
        let reports: Vec<StateReport> = rows
            .iter()
            .map(|(_, digests)| StateReport {
                digests: digests
                    .iter()
                    .map(|(index, one, two)| StateDigest { index: Index(*index), parts: vec![(1, *one), (2, *two)] })
                    .collect(),
                ..StateReport::default()
            })
            .collect();
        let node_reports: Vec<NodeReport<'_>> = rows
            .iter()
            .zip(&reports)
            .enumerate()
            .map(|(place, ((id, _), report))| NodeReport {
                id: NodeId(id.unsigned_abs()),
                is_voter: place < voters,
                is_online: *id > 0,
                report,
            })
            .collect();
        compare_reports(voters, &node_reports)
    }

    fn corrupt(findings: &Findings) -> Vec<(u64, u64, Vec<u8>)> {
        findings.corrupt.iter().map(|(id, it)| (id.0, it.index.0, it.parts.clone())).collect()
    }

    #[test]
    fn a_node_that_differs_from_the_majority_is_corrupt() {
        let same: &[(u64, u64, u64)] = &[(7, 1, 2)];
        let clean = judged(3, &[(1, same), (2, same), (3, same)]);
        assert!(clean.is_clean());
        assert_eq!((clean.agreed, clean.sound.len(), clean.is_disputed), (Some(Index(7)), 3, false));
        let one = judged(3, &[(1, same), (2, &[(7, 1, 9)]), (3, same)]);
        assert_eq!((corrupt(&one), one.split.clone()), (vec![(2, 7, vec![2])], None));
        assert_eq!(one.sound.keys().map(|id| id.0).collect::<Vec<_>>(), [1, 3]);
        // A majority is enough without the third voter; a learner does not count for it, but is compared with it.
        let early = judged(3, &[(1, same), (2, same), (3, &[]), (4, &[(7, 5, 5)])]);
        assert_eq!(corrupt(&early), [(4, 7, vec![1, 2])]);
        // Two nodes are wrong, each in another part: each part has its majority.
        let two = judged(3, &[(1, &[(7, 9, 2)]), (2, &[(7, 1, 9)]), (3, same)]);
        assert_eq!(corrupt(&two), [(1, 7, vec![1]), (2, 7, vec![2])]);
        assert_eq!(two.sound.keys().map(|id| id.0).collect::<Vec<_>>(), [3]);
    }

    #[test]
    fn without_a_majority_all_are_split() {
        let split = judged(2, &[(1, &[(7, 1, 2)]), (2, &[(7, 1, 3)])]);
        assert_eq!(split.split, Some(Difference { index: Index(7), parts: vec![2] }));
        assert!(split.corrupt.is_empty() && split.sound.is_empty());
        // The third may still decide which is right, unless it is offline.
        let open = judged(3, &[(1, &[(7, 1, 2)]), (2, &[(7, 1, 3)]), (3, &[])]);
        assert!(open.is_clean() && open.is_disputed);
        assert!(judged(3, &[(1, &[(7, 1, 2)]), (2, &[(7, 1, 3)]), (-3, &[])]).split.is_some());
        // It has not reported for two more checkpoints.
        let late = judged(3, &[(1, &[(7, 1, 2), (8, 1, 2), (9, 1, 2)]), (2, &[(7, 1, 3)]), (3, &[])]);
        assert_eq!(late.split.map(|it| it.index), Some(Index(7)));
        // A newer checkpoint at which the majority agrees ends it.
        let over = judged(3, &[(1, &[(7, 1, 2), (8, 1, 2)]), (2, &[(7, 1, 3), (8, 1, 3)]), (3, &[(8, 1, 2)])]);
        assert_eq!((corrupt(&over), over.split.clone(), over.agreed), (vec![(2, 8, vec![2])], None, Some(Index(8))));
        assert!(!over.is_disputed);
    }

    #[test]
    fn the_newest_that_is_decided_counts() {
        let cured =
            judged(3, &[(1, &[(7, 1, 2), (8, 1, 2)]), (2, &[(7, 1, 9), (8, 1, 2)]), (3, &[(7, 1, 2), (8, 1, 2)])]);
        assert!(cured.is_clean());
        // At 8 only two have reported so far, and differ: the result of 7 remains valid.
        let open = judged(3, &[(1, &[(7, 1, 2), (8, 1, 2)]), (2, &[(7, 1, 9), (8, 1, 9)]), (3, &[(7, 1, 2)])]);
        assert_eq!(corrupt(&open), [(2, 7, vec![2])]);
        assert_eq!(open.agreed, Some(Index(7)));
    }

    #[test]
    fn parts_have_names() {
        let text = |parts: &[u8]| Difference { index: Index(7), parts: parts.to_vec() }.parts_text();
        assert_eq!(text(&[2]), "key-value");
        assert_eq!(text(&[1, 4, 255]), "directory, sql and sessions");
    }
}
