//! Dispatch: rules one by one, and five nodes that decide by themselves under 1,000 seeds.
#![allow(clippy::unwrap_used)] // tests; clippy.toml covers only functions that carry #[test]

use super::*;

/// Nodes that can serve.
fn online(ids: &[u64]) -> Vec<Candidate> {
    let http = |id: u64| format!("127.0.0.1:{}", 6700 + id);
    ids.iter().map(|id| Candidate { id: NodeId(*id), http: http(*id), is_fresh: true, is_ready: true }).collect()
}

fn led_by(id: u64) -> KnownLeader {
    KnownLeader::Of(NodeId(id))
}

fn pick(dispatch: &mut Dispatch, now_ms: u64) -> Option<(u64, bool)> {
    dispatch.pick(now_ms).map(|choice| (choice.node.0, choice.can_serve))
}

/// The next choice, with nodes that answer at once.
fn pick_answered(dispatch: &mut Dispatch, now_ms: u64) -> NodeId {
    let choice = dispatch.pick(now_ms).unwrap();
    choice.ask.iter().for_each(|id| dispatch.answered(now_ms, *id));
    choice.node
}

fn picks(dispatch: &mut Dispatch, now_ms: u64, count: usize) -> Vec<u64> {
    (0..count).map(|_| pick_answered(dispatch, now_ms).0).collect()
}

#[test]
fn the_leader_takes_clients_only_when_alone() {
    let mut d = Dispatch::new(NodeId(1));
    assert_eq!(d.pick(0), None);
    d.set_online(led_by(1), &online(&[1]));
    let choice = d.pick(0).unwrap();
    assert_eq!((choice.node, choice.http.as_str(), choice.can_serve), (NodeId(1), "127.0.0.1:6701", true));
    d.set_online(led_by(1), &online(&[1, 2]));
    assert_eq!(picks(&mut d, 0, 3), [2, 2, 2]);
    // While a leader is being elected everyone alive is a worker.
    d.set_online(KnownLeader::Electing, &online(&[1, 2]));
    assert!(picks(&mut d, 0, 4).contains(&1));
    d.set_online(led_by(1), &[]);
    assert_eq!(d.pick(0), None);
}

#[test]
fn the_least_loaded_worker_is_filled_first() {
    let mut d = Dispatch::new(NodeId(9));
    d.set_online(led_by(9), &online(&[1, 2, 3, 9]));
    for (id, load) in [(1, 5), (2, 2), (3, 9)] {
        d.report(0, NodeId(id), load, load);
    }
    assert_eq!(picks(&mut d, 0, 3), [2, 2, 2]);
    let mut next = picks(&mut d, 0, 2);
    next.sort();
    assert_eq!(next, [1, 2]);
}

#[test]
fn clients_on_their_way_arrive_or_expire() {
    let mut d = Dispatch::new(NodeId(9));
    d.set_online(led_by(9), &online(&[1, 9]));
    d.report(0, NodeId(1), 0, 100);
    picks(&mut d, 0, 3);
    d.handed_out(0, &[(NodeId(1), 2), (NodeId(77), 5)]);
    assert_eq!(d.workers[&NodeId(1)].estimate(), 5);
    // Two have connected, and one of them has disconnected again.
    d.report(200, NodeId(1), 1, 102);
    assert_eq!(d.workers[&NodeId(1)].estimate(), 4);
    // An old report changes nothing; after two seconds the rest never came.
    d.report(300, NodeId(1), 1, 102);
    assert_eq!(d.workers[&NodeId(1)].estimate(), 4);
    d.report(2001, NodeId(1), 1, 102);
    assert_eq!(d.workers[&NodeId(1)].estimate(), 1);
}

#[test]
fn an_opening_may_be_heard_of_before_its_hand_out() {
    let mut d = Dispatch::new(NodeId(9));
    d.set_online(led_by(9), &online(&[1, 9]));
    d.report(0, NodeId(1), 0, 0);
    d.report(10, NodeId(1), 1, 1);
    d.handed_out(15, &[(NodeId(1), 1)]);
    assert_eq!(d.workers[&NodeId(1)].estimate(), 1);
    // A client that came by itself explains no hand-out of a second later.
    d.report(20, NodeId(1), 2, 2);
    d.handed_out(1020, &[(NodeId(1), 1)]);
    assert_eq!(d.workers[&NodeId(1)].estimate(), 3);
}

#[test]
fn a_restarted_worker_begins_anew() {
    let mut d = Dispatch::new(NodeId(9));
    d.set_online(led_by(9), &online(&[1, 9]));
    d.report(0, NodeId(1), 50, 500);
    picks(&mut d, 0, 3);
    d.report(100, NodeId(1), 0, 0);
    assert_eq!(d.workers[&NodeId(1)].estimate(), 0);
}

/// Five nodes, of which node `leader` leads, the other four are workers. `clients` arrive at random nodes at random
/// times within `span_ms`; hand-outs are known elsewhere 15 ms later (they are reported together, every 10 ms), gossip
/// rows 10 ms later; a client reaches its worker within 1 to 5 ms. Returns the loads at the end.
fn simulate(seed: u64, clients: usize, span_ms: u64, gossip_ms: u64) -> Vec<u64> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let ids = [1, 2, 3, 4, 5];
    let leader = NodeId(rng.u64(1..=5));
    let mut nodes: Vec<Dispatch> = ids.iter().map(|id| Dispatch::new(NodeId(*id))).collect();
    for node in &mut nodes {
        node.set_online(KnownLeader::Of(leader), &online(&ids));
        for id in ids {
            node.report(0, NodeId(id), 0, 0);
        }
    }
    let mut arrivals: Vec<u64> = (0..clients).map(|_| rng.u64(0..span_ms)).collect();
    arrivals.sort();
    let mut loads: BTreeMap<NodeId, u64> = BTreeMap::new();
    let mut landing: BTreeMap<u64, Vec<NodeId>> = BTreeMap::new();
    let mut sent: BTreeMap<u64, Vec<(usize, NodeId)>> = BTreeMap::new();
    let mut rows: BTreeMap<u64, Vec<(NodeId, u64)>> = BTreeMap::new();
    let mut next = 0;
    for now in 0..span_ms + 20 {
        for id in landing.remove(&now).unwrap_or_default() {
            *loads.entry(id).or_default() += 1;
        }
        for (from, id) in sent.remove(&now).unwrap_or_default() {
            for (_, node) in nodes.iter_mut().enumerate().filter(|(at, _)| *at != from) {
                node.handed_out(now, &[(id, 1)]);
            }
        }
        for (id, load) in rows.remove(&now).unwrap_or_default() {
            for node in &mut nodes {
                node.report(now, id, load, load);
            }
        }
        for id in ids.map(NodeId).into_iter().filter(|id| (now + id.0 * 37) % gossip_ms == 0) {
            rows.entry(now + 10).or_default().push((id, loads.get(&id).copied().unwrap_or(0)));
        }
        while next < arrivals.len() && arrivals[next] == now {
            let at = rng.usize(0..nodes.len());
            let id = pick_answered(&mut nodes[at], now);
            assert_ne!(id, leader, "the leader took a client");
            sent.entry(now + 15).or_default().push((at, id));
            landing.entry(now + rng.u64(1..=5)).or_default().push(id);
            next += 1;
        }
    }
    ids.map(NodeId).iter().filter(|id| **id != leader).map(|id| loads.get(id).copied().unwrap_or(0)).collect()
}

fn worst_of(seeds: u64, clients: usize, span_ms: u64, gossip_ms: u64) -> (f64, u64, Vec<u64>) {
    let mut worst = (0.0, 0, Vec::new());
    for seed in 0..seeds {
        let loads = simulate(seed, clients, span_ms, gossip_ms);
        assert_eq!(loads.iter().sum::<u64>(), clients as u64);
        let mean = clients as f64 / loads.len() as f64;
        let off = loads.iter().map(|load| (*load as f64 - mean).abs()).fold(0.0, f64::max);
        if off > worst.0 {
            worst = (off, seed, loads);
        }
    }
    worst
}

/// Issue item 9: each within two of the mean, in a second, in a burst, and a little slower.
#[test]
fn clients_are_spread_evenly_though_nodes_decide_alone() {
    let mut failed = Vec::new();
    for (span_ms, gossip_ms) in [(1000, 200), (50, 200), (1000, 20), (10, 200)] {
        for clients in [200, 199, 198, 197] {
            // The promise itself under 1,000 seeds, its neighbours under fewer.
            let seeds = if clients == 200 && gossip_ms == 200 && span_ms >= 50 { 1000 } else { 50 };
            let (off, seed, loads) = worst_of(seeds, clients, span_ms, gossip_ms);
            println!("{clients} clients in {span_ms} ms, gossip {gossip_ms} ms: {off} off, seed {seed}: {loads:?}");
            if off > 2.0 {
                failed.push((clients, span_ms, gossip_ms, off, seed, loads));
            }
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn the_orders_of_dealing_level_each_other_out() {
    for (nodes, workers) in [(2, 1), (3, 2), (4, 3), (5, 4), (6, 5), (7, 6), (4, 4), (100, 99)] {
        let orders: Vec<Vec<usize>> = (0..nodes).map(|node| assignment_order(node, nodes, workers)).collect();
        for order in &orders {
            let mut places = order.clone();
            places.sort();
            assert_eq!(places, (0..workers).collect::<Vec<_>>(), "{nodes} nodes");
        }
        let sums: Vec<usize> = (0..workers).map(|worker| orders.iter().map(|order| order[worker]).sum()).collect();
        let spread = sums.iter().max().unwrap() - sums.iter().min().unwrap();
        assert!(spread <= 1, "{nodes} nodes, {workers} workers: {sums:?}");
    }
}

/// What is seen when one person opens page after page: always the least-loaded worker, whatever was dealt before.
#[test]
fn unhurried_clients_go_to_the_least_loaded() {
    let mut d = Dispatch::new(NodeId(9));
    d.set_online(led_by(9), &online(&[1, 2, 3, 9]));
    let mut loads = BTreeMap::from([(NodeId(1), 4u64), (NodeId(2), 1), (NodeId(3), 1)]);
    for n in 0..12u64 {
        let now = n * 100;
        for (id, load) in &loads {
            d.report(now, *id, *load, *load);
        }
        let least = *loads.values().min().unwrap();
        let id = pick_answered(&mut d, now + 50);
        assert_eq!(loads[&id], least, "client {n} went to {id}: {loads:?}");
        *loads.get_mut(&id).unwrap() += 1;
    }
}

/// A worker that lost all its clients fills up again even while clients flow without a pause.
#[test]
fn an_emptied_worker_fills_up_in_a_flow() {
    let mut d = Dispatch::new(NodeId(9));
    d.set_online(led_by(9), &online(&[1, 2, 3, 9]));
    for id in 1..=3 {
        d.report(0, NodeId(id), 100, 100);
    }
    picks(&mut d, 5, 30);
    d.report(20, NodeId(2), 0, 0);
    let again = picks(&mut d, 25, 60);
    assert!(again.iter().filter(|id| **id == 2).count() > 50, "{again:?}");
}

/// A worker that is heard of in the middle of a flow is filled by all nodes together: none of them sends it the whole
/// of what it lacks.
#[test]
fn a_node_corrects_its_share_also_when_workers_change_in_a_flow() {
    let mut d = Dispatch::new(NodeId(1));
    d.set_online(led_by(9), &online(&[1, 2, 3, 4, 9]));
    for id in 1..=4 {
        d.report(0, NodeId(id), 12, 12);
    }
    picks(&mut d, 0, 10);
    d.handed_out(1, &[(NodeId(1), 10), (NodeId(2), 10), (NodeId(3), 10), (NodeId(4), 10)]);
    d.set_online(led_by(9), &online(&[1, 2, 3, 4, 5, 9]));
    d.report(2, NodeId(5), 12, 12);
    d.set_online(led_by(9), &online(&[1, 2, 3, 4, 5, 9]));
    let to_new = picks(&mut d, 2, 20).iter().filter(|id| **id == 5).count();
    assert!((4..=14).contains(&to_new), "{to_new} of 20");
}

/// A node that says that it cannot serve, or of which nothing was heard for longer than usual, gets no client.
#[test]
fn clients_go_only_to_nodes_that_can_serve() {
    let mut d = Dispatch::new(NodeId(1));
    let but = |id: usize, change: fn(&mut Candidate)| {
        let mut all = online(&[1, 2, 3, 9]);
        change(&mut all[id - 1]);
        all
    };
    d.set_online(led_by(9), &but(2, |it| it.is_ready = false));
    assert!(!picks(&mut d, 0, 30).contains(&2), "not ready");
    d.set_online(led_by(9), &but(3, |it| it.is_fresh = false));
    assert!(!picks(&mut d, 0, 30).contains(&3), "not heard");
    // A node that cannot serve sends clients to those that can.
    d.set_online(KnownLeader::Unknown, &but(1, |it| it.is_ready = false));
    assert!(!picks(&mut d, 0, 30).contains(&1), "this node itself is not ready");
    // The followers do not reach their leader.
    let mut all = online(&[1, 2, 3, 9]);
    all[..3].iter_mut().for_each(|it| it.is_ready = false);
    d.set_online(led_by(9), &all);
    assert_eq!(pick(&mut d, 0), Some((9, true)));
}

#[test]
fn without_a_node_that_can_serve_those_that_may_elect_a_leader_get_clients_or_this_one_alone() {
    let mut d = Dispatch::new(NodeId(1));
    let mut all = online(&[1, 2, 3]);
    all.iter_mut().for_each(|it| it.is_ready = false);
    all[2].is_fresh = false;
    d.set_online(KnownLeader::Electing, &all);
    let of: Vec<_> = (0..6).map(|_| pick(&mut d, 0).unwrap()).collect();
    assert!(of.contains(&(1, true)) && of.contains(&(2, true)) && !of.contains(&(3, true)), "{of:?}");
    d.set_online(KnownLeader::Unknown, &all);
    assert_eq!(pick(&mut d, 0), Some((1, false)));
    d.set_online(KnownLeader::Unknown, &all[1..]);
    assert_eq!(pick(&mut d, 0), None, "this node was removed");
}

/// A host that vanished gets the clients of the first moment only, also while its heartbeats are still fresh.
#[test]
fn a_node_that_does_not_answer_gets_no_more_clients_until_it_does() {
    let mut d = Dispatch::new(NodeId(9));
    d.set_online(led_by(9), &online(&[1, 2, 3, 9]));
    let mut sent = Vec::new();
    for now in 0..3000 {
        let choice = d.pick(now).unwrap();
        if choice.node == NodeId(2) {
            sent.push(now);
        }
        for id in choice.ask {
            assert_ne!(id, NodeId(9), "this node needs no question");
            if id != NodeId(2) || now >= 2000 {
                d.answered(now, id);
            }
        }
    }
    assert!(sent.iter().all(|at| *at <= 200 || *at >= 2000), "{sent:?}");
    let back = sent.iter().find(|at| **at >= 2000).unwrap();
    assert!(*back <= 2300, "asked again, it answers: {back}");
    // All workers are silent: the leader serves by itself.
    let mut d = Dispatch::new(NodeId(9));
    d.set_online(led_by(9), &online(&[1, 9]));
    assert_eq!(pick(&mut d, 0), Some((1, true)));
    assert_eq!(pick(&mut d, 500), Some((9, true)));
    let mut cut_off = online(&[1, 9]);
    cut_off[1].is_ready = false;
    d.set_online(led_by(9), &cut_off);
    assert_eq!(pick(&mut d, 600), Some((1, true)), "nothing better is known");
}

/// What a node does counts beside its connections; equal ones are spread as before.
#[test]
fn a_busy_node_gets_fewer_clients() {
    let mut d = Dispatch::new(NodeId(9));
    d.set_online(led_by(9), &online(&[1, 2, 3, 9]));
    for (id, load) in [(1, 10), (2, 0), (3, 0)] {
        d.report(0, NodeId(id), load, 0);
    }
    assert!(!picks(&mut d, 0, 20).contains(&1));
    let next = picks(&mut d, 0, 12);
    assert!(next.contains(&1), "the others have as much to do by now: {next:?}");
}
