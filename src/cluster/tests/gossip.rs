//! Gossip alone and in a small virtual cluster with lost and late tables.
#![allow(clippy::unwrap_used)] // tests; clippy.toml covers only functions that carry #[test]

use super::*;
use crate::raft::Role;
use crate::types::{Addresses, Index, Standing, Term};
use uuid::Uuid;

const START_MS: u64 = 1_800_000_000_000;

fn identity(id: u64) -> Identity {
    Identity { id: NodeId(id), uuid: Uuid::from_u128(u128::from(id)) }
}

fn row(who: Identity, counter: u64) -> GossipRow {
    GossipRow {
        held_index: Index(0),
        cut_index: Index(0),
        promise: Default::default(),
        prepared_load: 0,
        id: who.id,
        uuid: who.uuid,
        counter,
        load: Default::default(),
        sessions_opened_total: 0,
        pace: Default::default(),
        state: Default::default(),
        jobs: Default::default(),
        is_disk_low: false,
        pid: 1,
        role: Role::Follower,
        standing: Standing::Voter,
        term: Term(1),
        last_index: Index(1),
        commit_index: Index(1),
        applied_index: Index(1),
        addresses: Addresses::default(),
        is_ready: true,
        unreached: Vec::new(),
        relayed: Vec::new(),
    }
}

fn table(rows: &[GossipRow]) -> GossipTable {
    GossipTable { rows: rows.to_vec(), ..GossipTable::default() }
}

fn gossip(id: u64) -> Gossip {
    Gossip::new(identity(id), START_MS, &Settings::default())
}

/// Beats every 200 ms from `from_ms` (exclusive) to `to_ms`; returns the edges as lines.
fn beat_until(gossip: &mut Gossip, from_ms: u64, to_ms: u64) -> Vec<String> {
    let mut rng = fastrand::Rng::with_seed(1);
    let mut lines = Vec::new();
    for now_ms in (from_ms..=to_ms).step_by(200).skip(1) {
        let round = gossip.tick(now_ms, row(gossip.me, 0), None, &[], &mut rng);
        lines.extend(round.edges.iter().map(Edge::to_string));
    }
    lines
}

#[test]
fn a_counter_that_stops_is_reported_as_one_failure() {
    let mut g = gossip(1);
    assert!(g.merge(START_MS, NodeId(3), &table(&[row(identity(3), 10)])).is_empty());
    assert!(g.is_online(NodeId(3)));
    assert_eq!(beat_until(&mut g, START_MS, START_MS + 1800), Vec::<String>::new());
    assert_eq!(beat_until(&mut g, START_MS + 1800, START_MS + 9000), ["no heartbeat from node 3: failed"]);
    assert!(!g.is_online(NodeId(3)));
    // The same counter again has no effect; the next one has.
    assert!(g.merge(START_MS + 9000, NodeId(2), &table(&[row(identity(3), 10)])).is_empty());
    let edges = g.merge(START_MS + 10_120, NodeId(2), &table(&[row(identity(3), 11)]));
    assert_eq!(edges.iter().map(Edge::to_string).collect::<Vec<_>>(), ["node 3 is back after 8120 ms"]);
    let lines: Vec<&str> = g.edges().map(|e| e.text.as_str()).collect();
    assert_eq!(lines, ["node 3 is back after 8120 ms", "no heartbeat from node 3: failed"]);
}

#[test]
fn a_refused_reconnect_is_a_failure_that_late_rumours_cannot_undo() {
    let mut g = gossip(1);
    g.merge(START_MS, NodeId(3), &table(&[row(identity(3), 10)]));
    assert_eq!(g.refused(START_MS + 50, NodeId(3)), Some(Edge::Failed { id: NodeId(3), is_refused: true }));
    assert_eq!(g.refused(START_MS + 60, NodeId(3)), None);
    assert_eq!(g.refused(START_MS + 60, NodeId(9)), None, "nothing is known of node 9");
    // Node 2 had heard counter 11 before node 3 died.
    assert!(g.merge(START_MS + 100, NodeId(2), &table(&[row(identity(3), 11)])).is_empty());
    assert!(!g.is_online(NodeId(3)));
    // Its own word counts at once, here that of a new process.
    let edges = g.merge(START_MS + 650, NodeId(3), &table(&[row(identity(3), START_MS + 500)]));
    assert_eq!(edges, [Edge::Back { id: NodeId(3), down_ms: 600 }]);
}

#[test]
fn a_node_whose_clock_was_ahead_once_is_heard_when_it_speaks_for_itself() {
    const DAY_MS: u64 = 86_400_000;
    let mut g = gossip(1);
    g.merge(START_MS, NodeId(3), &table(&[row(identity(3), START_MS + DAY_MS)]));
    // Its process has started again, with the right clock: nothing is known of that while it counts as alive.
    assert!(g.merge(START_MS + 100, NodeId(3), &table(&[row(identity(3), START_MS + 100)])).is_empty());
    assert_eq!(beat_until(&mut g, START_MS, START_MS + 3000), ["no heartbeat from node 3: failed"]);
    // Other nodes may still send its old row: that does not bring it online again.
    assert!(g.merge(START_MS + 3100, NodeId(2), &table(&[row(identity(3), START_MS + 2000)])).is_empty());
    let edges = g.merge(START_MS + 3200, NodeId(3), &table(&[row(identity(3), START_MS + 2100)]));
    assert_eq!(edges.len(), 1);
    assert!(g.is_online(NodeId(3)));
    // From here on rumours of it count.
    g.merge(START_MS + 3300, NodeId(2), &table(&[row(identity(3), START_MS + 2200)]));
    assert_eq!(g.row(START_MS + 3300, NodeId(3)).unwrap().0.counter, START_MS + 2200);
}

#[test]
fn no_counter_is_the_last_one() {
    let mut g = gossip(1);
    let mut rng = fastrand::Rng::with_seed(1);
    g.merge(START_MS, NodeId(3), &table(&[row(identity(3), 7)]));
    g.merge(START_MS, NodeId(2), &table(&[row(identity(3), u64::MAX), row(identity(1), u64::MAX)]));
    assert_eq!(g.row(START_MS, NodeId(3)).unwrap().0.counter, 7);
    // The largest that is believed at all does not drive the node itself beyond it.
    g.merge(START_MS, NodeId(2), &table(&[row(Identity { id: NodeId(1), uuid: Uuid::nil() }, COUNTER_MAX)]));
    let round = g.tick(START_MS + 200, row(identity(1), 0), None, &[], &mut rng);
    assert!(round.table.rows.iter().any(|row| row.id == NodeId(1) && row.counter < START_MS + 1000));
    // Nor does a clock at the end of time.
    let mut late = Gossip::new(identity(1), u64::MAX, &Settings::default());
    late.tick(u64::MAX, row(identity(1), 0), None, &[], &mut rng);
}

#[test]
fn the_dead_are_not_passed_on_and_the_log_is_bounded() {
    let mut g = gossip(1);
    let mut rng = fastrand::Rng::with_seed(1);
    g.merge(START_MS, NodeId(2), &table(&[row(identity(2), 1), row(identity(3), 1)]));
    g.refused(START_MS, NodeId(3));
    let round = g.tick(START_MS + 200, row(identity(1), 0), Some(NodeId(2)), &[NodeId(2), NodeId(3)], &mut rng);
    let ids: Vec<u64> = round.table.rows.iter().map(|row| row.id.0).collect();
    assert_eq!(ids, [1, 2]);
    for n in 0..2 * GOSSIP_LOG_MAX as u64 {
        g.merge(START_MS + n, NodeId(2), &table(&[row(identity(2), 2 + n)]));
    }
    assert_eq!(g.received().count(), GOSSIP_LOG_MAX);
    let newest = g.received().next().unwrap();
    assert_eq!((newest.from, newest.about, newest.counter), (NodeId(2), NodeId(2), 2 * GOSSIP_LOG_MAX as u64 + 1));
    assert_eq!(g.to_json(START_MS)["heard"][0]["counter"], 2 * GOSSIP_LOG_MAX as u64 + 1);
}

#[test]
fn a_heartbeat_goes_to_the_leader_and_two_others() {
    let mut g = gossip(1);
    let mut rng = fastrand::Rng::with_seed(4);
    let peers: Vec<NodeId> = (2..=9).map(NodeId).collect();
    for n in 1..50 {
        let round = g.tick(START_MS + n * 200, row(identity(1), 0), Some(NodeId(5)), &peers, &mut rng);
        let mut to = round.to.clone();
        to.sort();
        to.dedup();
        assert_eq!((to.len(), to.contains(&NodeId(5)), to.contains(&NodeId(1))), (3, true, false), "{:?}", round.to);
    }
    let round = g.tick(START_MS + 20_000, row(identity(1), 0), Some(NodeId(1)), &peers, &mut rng);
    assert_eq!(round.to.len(), 2, "the leader does not send to itself");
}

#[test]
fn a_new_identity_replaces_the_old_row() {
    let mut g = gossip(1);
    g.merge(START_MS, NodeId(3), &table(&[row(identity(3), START_MS)]));
    let wiped = Identity { id: NodeId(3), uuid: Uuid::from_u128(77) };
    g.merge(START_MS + 900, NodeId(2), &table(&[row(wiped, START_MS + 800)]));
    assert_eq!(g.row(START_MS + 1000, NodeId(3)).map(|(row, age_ms)| (row.uuid, age_ms)), Some((wiped.uuid, 100)));
    assert!(g.is_online_as(wiped) && !g.is_online_as(identity(3)));
}

#[test]
fn a_node_whose_clock_went_back_gets_ahead_of_its_forerunner() {
    let mut late = Gossip::new(identity(3), START_MS - 3_600_000, &Settings::default());
    late.merge(START_MS - 3_599_000, NodeId(1), &table(&[row(identity(3), START_MS)]));
    let mut rng = fastrand::Rng::with_seed(1);
    let round = late.tick(START_MS - 3_598_900, row(identity(3), 0), None, &[], &mut rng);
    assert!(round.table.rows[0].counter > START_MS);
    // Its own echo changes nothing.
    let counter = late.counter;
    late.merge(START_MS - 3_598_800, NodeId(1), &round.table);
    assert_eq!(late.counter, counter);
}

#[test]
fn a_process_that_was_suspended_reports_no_failures() {
    let mut g = gossip(1);
    g.merge(START_MS, NodeId(3), &table(&[row(identity(3), 10)]));
    beat_until(&mut g, START_MS, START_MS + 400);
    let mut rng = fastrand::Rng::with_seed(1);
    let round = g.tick(START_MS + 60_000, row(identity(1), 0), None, &[], &mut rng);
    assert!(round.edges.is_empty(), "{:?}", round.edges);
    // But silence that lasts is still found.
    assert_eq!(beat_until(&mut g, START_MS + 60_000, START_MS + 63_000), ["no heartbeat from node 3: failed"]);
}

/// Seven nodes, tables lost one time in five and late by up to 150 ms: no node is suspected while all are running;
/// every other node marks a killed node as failed within `fail_after_ms` plus a second; after a restart it is online
/// again on every node.
#[test]
fn a_virtual_cluster_finds_its_dead_and_only_them() {
    for seed in 0..50 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let ids: Vec<NodeId> = (1..=7).map(NodeId).collect();
        let mut nodes: BTreeMap<NodeId, Gossip> = ids.iter().map(|id| (*id, gossip(id.0))).collect();
        let mut edges: BTreeMap<NodeId, Vec<String>> = BTreeMap::new();
        let mut mail: BTreeMap<u64, Vec<(NodeId, NodeId, GossipTable)>> = BTreeMap::new();
        for t in 0..30_000u64 {
            let now_ms = START_MS + t;
            let is_dead = |id: NodeId| id == NodeId(3) && (10_000..18_000).contains(&t);
            if t == 18_000 {
                nodes.insert(NodeId(3), Gossip::new(identity(3), now_ms, &Settings::default()));
            }
            for &id in ids.iter().filter(|id| (t + id.0 * 29) % 200 == 0 && !is_dead(**id)) {
                let node = nodes.get_mut(&id).unwrap();
                let round = node.tick(now_ms, row(identity(id.0), 0), Some(NodeId(7)), &ids, &mut rng);
                edges.entry(id).or_default().extend(round.edges.iter().map(|e| format!("{t} {e}")));
                for to in round.to {
                    if rng.u8(0..5) > 0 {
                        mail.entry(now_ms + rng.u64(1..150)).or_default().push((id, to, round.table.clone()));
                    }
                }
            }
            for (from, to, table) in mail.remove(&now_ms).unwrap_or_default() {
                if !is_dead(to) {
                    let new = nodes.get_mut(&to).unwrap().merge(now_ms, from, &table);
                    edges.entry(to).or_default().extend(new.iter().map(|e| format!("{t} {e}")));
                }
            }
        }
        for id in ids.iter().filter(|id| **id != NodeId(3)) {
            let lines = &edges[id];
            assert_eq!(lines.len(), 2, "seed {seed} {id}: {lines:?}");
            let (at, line) = lines[0].split_once(' ').unwrap();
            assert_eq!(line, "no heartbeat from node 3: failed", "seed {seed} {id}");
            assert!((11_500..13_200).contains(&at.parse::<u64>().unwrap()), "seed {seed} {id}: {lines:?}");
            assert!(lines[1].contains("node 3 is back after"), "seed {seed} {id}: {lines:?}");
        }
    }
}
