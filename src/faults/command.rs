//! What a person asks for, in terms of requests to the supervisors of the nodes.
//!
//! Not here: how it is said (`cli/lab/chaos/faults.rs`), who the leader is.

use super::control::{self, Action, ControlError, LabNode};
use super::{Fault, FaultKind, LinkQuality};
use crate::types::NodeId;
use std::collections::BTreeSet;
use std::path::Path;

/// Sides of a partition at most: a node each.
const GROUPS_MAX: usize = 9;
/// Links that are named one by one.
const LINKS_SHOWN_MAX: usize = 6;

/// Something that the lab does.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// The same to the process of each of these nodes.
    Process { nodes: Vec<NodeId>, action: Action },
    /// These faults of one node.
    Node { node: NodeId, fault: Fault, for_ms: Option<u64> },
    /// The directions of links that become so bad. Pairs of nodes, from and to.
    Links { links: BTreeSet<(NodeId, NodeId)>, quality: LinkQuality, for_ms: Option<u64> },
    /// End the faults of these nodes, of one kind or all. Those of a link are at both of its ends, so the other nodes of
    /// the lab are asked, too.
    Heal { nodes: Vec<NodeId>, all: Vec<NodeId>, kind: Option<FaultKind> },
}

impl Command {
    /// In one line what concerns several nodes at once; `None`: each node has its own line.
    pub fn summary(&self) -> Option<String> {
        match self {
            Command::Links { links, quality, .. } => Some(format!("{}: {quality}, in force", names(links))),
            Command::Heal { nodes, all, kind } => {
                let what = kind.map_or("all faults".to_string(), |kind| format!("faults of {kind}"));
                let ids: Vec<String> = nodes.iter().map(|node| node.0.to_string()).collect();
                let whose =
                    if nodes.len() < all.len() { format!(" of node {}", ids.join(", ")) } else { String::new() };
                Some(format!("{what}{whose} healed"))
            }
            Command::Process { .. } | Command::Node { .. } => None,
        }
    }
}

/// Links as a person names them: those of both directions once.
fn names(links: &BTreeSet<(NodeId, NodeId)>) -> String {
    let both = |(from, to): &(NodeId, NodeId)| links.contains(&(*to, *from));
    let shown = links.iter().filter(|(from, to)| from < to || !both(&(*from, *to)));
    let names: Vec<String> =
        shown.map(|link| format!("{} {} {}", link.0.0, if both(link) { "-" } else { "to" }, link.1.0)).collect();
    match names.len() {
        0..=LINKS_SHOWN_MAX => format!("links {}", names.join(", ")),
        many => format!("{many} links"),
    }
}

/// The links between groups of nodes, in both directions, or only from the first group to the others.
///
/// # Errors
/// A node is in two groups, or there is no second group.
pub fn between(groups: &[Vec<NodeId>], is_one_way: bool) -> Result<BTreeSet<(NodeId, NodeId)>, String> {
    let mut seen = BTreeSet::new();
    if let Some(twice) = groups.iter().flatten().find(|node| !seen.insert(**node)) {
        return Err(format!("node {} is named twice", twice.0));
    }
    if !(2..=GROUPS_MAX).contains(&groups.len()) || groups.iter().any(Vec::is_empty) {
        return Err("a partition has at least two sides, with a node each".to_string());
    }
    let mut links = BTreeSet::new();
    for (at, group) in groups.iter().enumerate() {
        for from in group {
            for (_, other) in groups.iter().enumerate().filter(|(other, _)| *other != at) {
                links.extend(other.iter().map(|to| (*from, *to)));
            }
        }
        if is_one_way {
            break;
        }
    }
    Ok(links)
}

/// The requests that carry a command out: each node and what its supervisor is asked.
pub fn requests(command: &Command) -> Vec<(NodeId, Action)> {
    match command {
        Command::Process { nodes, action } => nodes.iter().map(|node| (*node, action.clone())).collect(),
        Command::Node { node, fault, for_ms } => {
            vec![(*node, Action::Add { faults: vec![fault.clone()], for_ms: *for_ms })]
        }
        Command::Links { links, quality, for_ms } => {
            // Both ends have a fault: the one that connects holds its bytes back, and each may be the one.
            let nodes: BTreeSet<NodeId> = links.iter().flat_map(|(from, to)| [*from, *to]).collect();
            let of = |node: NodeId| {
                let own = links.iter().filter(move |(from, to)| *from == node || *to == node);
                own.map(|(from, to)| Fault::Link { from: *from, to: *to, quality: *quality }).collect()
            };
            nodes.iter().map(|node| (*node, Action::Add { faults: of(*node), for_ms: *for_ms })).collect()
        }
        Command::Heal { nodes, all, kind } => {
            let has_links = kind.is_none_or(|kind| kind == FaultKind::Link);
            let others = all.iter().filter(|node| has_links && !nodes.contains(node));
            let healed = nodes.iter().map(|node| (*node, Action::Heal { kind: *kind }));
            let both = healed.chain(others.map(|node| (*node, Action::HealLinks { to: nodes.clone() })));
            let mut requests: Vec<_> = both.collect();
            requests.sort_by_key(|(node, _)| *node);
            requests
        }
    }
}

/// Carries a command out; returns what each supervisor says, in the order of the nodes.
pub fn carry_out(data_dir: &Path, command: &Command) -> Vec<(NodeId, Result<LabNode, ControlError>)> {
    let ask = |(node, action)| (node, control::ask(data_dir, node, &action));
    requests(command).into_iter().map(ask).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(ids: &[u64]) -> Vec<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    #[test]
    fn a_partition_cuts_every_link_between_its_sides() {
        let links = between(&[nodes(&[1, 2]), nodes(&[3])], false).unwrap();
        let expected = [(1, 3), (2, 3), (3, 1), (3, 2)].map(|(from, to)| (NodeId(from), NodeId(to)));
        assert_eq!(links, BTreeSet::from(expected));
        let one_way = between(&[nodes(&[1, 2]), nodes(&[3])], true).unwrap();
        assert_eq!(one_way, BTreeSet::from([(NodeId(1), NodeId(3)), (NodeId(2), NodeId(3))]));
        assert_eq!(between(&[nodes(&[1]), nodes(&[2]), nodes(&[3])], false).unwrap().len(), 6);
    }

    #[test]
    fn links_are_named_once() {
        let cut = LinkQuality { is_cut: true, ..LinkQuality::default() };
        let summary = |groups: &[Vec<NodeId>], is_one_way| {
            let links = between(groups, is_one_way).unwrap();
            Command::Links { links, quality: cut, for_ms: None }.summary().unwrap()
        };
        assert_eq!(summary(&[nodes(&[1]), nodes(&[2, 3])], false), "links 1 - 2, 1 - 3: cut, in force");
        assert_eq!(summary(&[nodes(&[2]), nodes(&[1])], true), "links 2 to 1: cut, in force");
        assert_eq!(summary(&[nodes(&[1, 2, 3]), nodes(&[4, 5, 6])], false), "9 links: cut, in force");
    }

    #[test]
    fn sides_share_no_node() {
        assert!(between(&[nodes(&[1, 2]), nodes(&[2])], false).unwrap_err().contains("node 2"));
        for too_few in [vec![], vec![nodes(&[1])], vec![nodes(&[1]), vec![]]] {
            assert!(between(&too_few, false).is_err());
        }
    }

    #[test]
    fn both_ends_of_the_links_of_a_node_are_healed() {
        let heal = |kind| Command::Heal { nodes: nodes(&[2]), all: nodes(&[1, 2, 3]), kind };
        let links = |id| (NodeId(id), Action::HealLinks { to: nodes(&[2]) });
        assert_eq!(requests(&heal(None)), [links(1), (NodeId(2), Action::Heal { kind: None }), links(3)]);
        let disk = Some(FaultKind::Disk);
        assert_eq!(requests(&heal(disk)), [(NodeId(2), Action::Heal { kind: disk })]);
    }

    #[test]
    fn both_ends_of_a_link_have_its_fault() {
        let links = BTreeSet::from([(NodeId(1), NodeId(2))]);
        let quality = LinkQuality { is_cut: true, ..LinkQuality::default() };
        let requests = requests(&Command::Links { links, quality, for_ms: Some(7) });
        let fault = Fault::Link { from: NodeId(1), to: NodeId(2), quality };
        let action = Action::Add { faults: vec![fault], for_ms: Some(7) };
        assert_eq!(requests, [(NodeId(1), action.clone()), (NodeId(2), action)]);
    }
}
