//! Ways to peers: which connection counts as broken, by whom frames go, and when they go directly again.
#![allow(clippy::unwrap_used)] // tests; clippy.toml covers only functions that carry #[test]

use super::*;

const GOSSIP_MS: u64 = 200;

/// Who is heard, and whom each of them misses.
#[derive(Default)]
struct Heard(BTreeMap<NodeId, Vec<NodeId>>);

impl Reports for Heard {
    fn misses(&self, peer: NodeId, other: NodeId) -> Option<bool> {
        self.0.get(&peer).map(|missed| missed.contains(&other))
    }
}

fn heard(rows: &[(u64, &[u64])]) -> Heard {
    Heard(rows.iter().map(|(id, missed)| (NodeId(*id), missed.iter().map(|id| NodeId(*id)).collect())).collect())
}

fn link(id: u64, heard_ms: u64) -> PeerLink {
    PeerLink { id: NodeId(id), is_connected: true, is_refused: false, is_regular: false, heard_ms }
}

/// Node 1 of three: node 3 leads and is heard until `silent_from_ms`; node 2 is heard always. Returns the ways at the end.
fn follow(paths: &mut Paths, from_ms: u64, to_ms: u64, silent_from_ms: u64, reports: &Heard) -> Ways {
    let mut ways = Ways::default();
    for now_ms in (from_ms..=to_ms).step_by(GOSSIP_MS as usize) {
        let leader = PeerLink { is_regular: true, ..link(3, now_ms.min(silent_from_ms)) };
        ways = paths.update(now_ms, &[link(2, now_ms), leader], reports);
    }
    ways
}

fn relayed(pairs: &[(u64, u64)]) -> BTreeMap<NodeId, NodeId> {
    pairs.iter().map(|(to, by)| (NodeId(*to), NodeId(*by))).collect()
}

#[test]
fn a_leader_that_falls_silent_is_reached_through_a_node_that_reaches_it() {
    let reports = heard(&[(2, &[]), (3, &[])]);
    let mut paths = Paths::new(NodeId(1), GOSSIP_MS, 2000);
    assert_eq!(follow(&mut paths, 0, 2600, 2000, &reports), Ways::default(), "three intervals of silence are usual");
    let ways = follow(&mut paths, 2800, 2800, 2000, &reports);
    assert_eq!((ways.unreached, ways.relayed), (vec![NodeId(3)], relayed(&[(3, 2)])));
    // It is heard again.
    assert_eq!(follow(&mut paths, 3000, 3000, 3000, &reports), Ways::default());
}

#[test]
fn no_way_leads_through_a_node_that_does_not_reach_the_peer_or_is_not_heard() {
    for reports in [heard(&[(2, &[3]), (3, &[])]), heard(&[(2, &[1]), (3, &[])]), heard(&[(3, &[])])] {
        let mut paths = Paths::new(NodeId(1), GOSSIP_MS, 2000);
        let ways = follow(&mut paths, 0, 4000, 2000, &reports);
        assert_eq!((ways.unreached, ways.relayed), (vec![NodeId(3)], relayed(&[])), "{:?}", reports.0);
    }
}

/// Y2, and a connection that is only just being made.
#[test]
fn a_missing_connection_counts_after_a_moment_and_a_dead_process_has_no_way() {
    let reports = heard(&[(2, &[]), (3, &[])]);
    let mut paths = Paths::new(NodeId(1), GOSSIP_MS, 2000);
    let down = PeerLink { is_connected: false, ..link(3, 0) };
    assert_eq!(paths.update(0, &[link(2, 0), down], &reports), Ways::default());
    let ways = paths.update(200, &[link(2, 0), down], &reports);
    assert_eq!(ways.relayed, relayed(&[(3, 2)]), "whether it leads or not");
    let refused = PeerLink { is_refused: true, ..down };
    let ways = paths.update(400, &[link(2, 0), refused], &reports);
    assert_eq!((ways.unreached, ways.relayed), (vec![NodeId(3)], relayed(&[])));
    assert_eq!(paths.update(600, &[link(2, 0), link(3, 0)], &reports), Ways::default(), "it is connected again");
}

/// Only one direction is cut: node 3 does not hear this node, which hears it.
#[test]
fn a_peer_that_reports_this_node_missing_is_reached_through_another_and_not_reported_itself() {
    let mut paths = Paths::new(NodeId(1), GOSSIP_MS, 2000);
    let ways = follow(&mut paths, 0, 1000, 9000, &heard(&[(2, &[]), (3, &[1])]));
    assert_eq!((ways.unreached, ways.relayed), (vec![], relayed(&[(3, 2)])), "Y3");
    assert_eq!(follow(&mut paths, 1200, 1200, 9000, &heard(&[(2, &[]), (3, &[])])), Ways::default());
}

#[test]
fn the_present_way_is_kept_and_a_pause_of_this_node_breaks_nothing() {
    let mut paths = Paths::new(NodeId(1), GOSSIP_MS, 2000);
    let down = PeerLink { is_connected: false, ..link(5, 0) };
    let links = [link(2, 0), link(3, 0), down];
    let first = heard(&[(2, &[5]), (3, &[]), (5, &[])]);
    paths.update(0, &links, &first);
    assert_eq!(paths.update(200, &links, &first).relayed, relayed(&[(5, 3)]));
    let both = heard(&[(2, &[]), (3, &[]), (5, &[])]);
    assert_eq!(paths.update(400, &links, &both).relayed, relayed(&[(5, 3)]));
    let reports = heard(&[(2, &[]), (3, &[])]);
    let mut paths = Paths::new(NodeId(1), GOSSIP_MS, 2000);
    follow(&mut paths, 0, 1000, 1000, &reports);
    paths.exclude_pause(9000, 10_000);
    assert_eq!(follow(&mut paths, 10_200, 10_200, 1000, &reports), Ways::default());
}

/// A new leader has sent nothing to a node that it had nothing to say to before.
#[test]
fn silence_before_a_node_led_does_not_count() {
    let reports = heard(&[(2, &[]), (3, &[])]);
    let mut paths = Paths::new(NodeId(1), GOSSIP_MS, 2000);
    for now_ms in (0..10_000).step_by(200) {
        assert_eq!(paths.update(now_ms, &[link(2, 0), link(3, 0)], &reports), Ways::default());
    }
    assert_eq!(follow(&mut paths, 10_000, 10_600, 0, &reports), Ways::default());
    assert_eq!(follow(&mut paths, 10_800, 11_000, 0, &reports).unreached, [NodeId(3)]);
}
