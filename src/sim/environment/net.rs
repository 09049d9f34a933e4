//! A seeded network between nodes: which links work, the delay of each packet, and which packets are lost, duplicated
//! or replayed.
//!
//! A packet is checked twice: when it is sent (loss, delay, copies) and when it arrives (links cut meanwhile).
//! With `is_ordered` each directed link keeps its order, as TCP does; without, every packet takes its own time.
//!
//! Not here: the event queue (`sim/world.rs`), the content of packets.

use super::plan::NetPlan;
use fastrand::Rng;

/// How a set of nodes is cut apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Two halves without a connection.
    Halves,
    /// One node alone.
    Alone,
    /// One node that receives from no node, but reaches all.
    Deaf,
    /// One node that receives from all, but reaches no node.
    Mute,
    /// A random set of directed links.
    OneWay,
    /// Each node reaches only its two neighbours.
    Ring,
    /// As a ring, with the ends apart.
    Chain,
    /// All reach one node, and only that one.
    Star,
    /// Two halves that share one node.
    Bridge,
}

/// All shapes, for drawing one.
pub const SHAPES: [Shape; 9] = [
    Shape::Halves,
    Shape::Alone,
    Shape::Deaf,
    Shape::Mute,
    Shape::OneWay,
    Shape::Ring,
    Shape::Chain,
    Shape::Star,
    Shape::Bridge,
];

/// The network of one run; nodes are numbered from 0.
pub struct Network {
    plan: NetPlan,
    nodes: usize,
    /// `cut[from][to]`
    cut: Vec<Vec<bool>>,
    /// When the last packet of a directed link arrives, for order.
    last_arrival: Vec<Vec<u64>>,
}

impl Network {
    /// A network without cuts.
    pub fn new(nodes: usize, plan: NetPlan) -> Network {
        Network { plan, nodes, cut: vec![vec![false; nodes]; nodes], last_arrival: vec![vec![0; nodes]; nodes] }
    }

    /// No faults, no cuts, short delays.
    pub fn stop_faults(&mut self) {
        self.plan = NetPlan::without_faults();
        self.whole();
    }

    /// Restores all links.
    pub fn whole(&mut self) {
        self.cut.iter_mut().for_each(|row| row.fill(false));
    }

    /// Whether packets pass from one node to the other.
    pub fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cut[from][to]
    }

    /// Cuts or mends one directed link.
    pub fn set_cut(&mut self, from: usize, to: usize, is_cut: bool) {
        self.cut[from][to] = is_cut;
    }

    /// Arrival times of a packet sent now: none if it is lost, several if it is doubled.
    pub fn send(&mut self, now: u64, from: usize, to: usize, rng: &mut Rng) -> [Option<u64>; 2] {
        if self.cut[from][to] || rng.f64() < self.plan.loss {
            return [None, None];
        }
        let first = self.arrival(now, from, to, rng);
        let second = (rng.f64() < self.plan.duplicate).then(|| self.arrival(now, from, to, rng));
        [Some(first), second]
    }

    /// When a packet sent now would arrive.
    pub fn arrival(&mut self, now: u64, from: usize, to: usize, rng: &mut Rng) -> u64 {
        let mut delay = rng.u64(self.plan.delay_us.0..=self.plan.delay_us.1);
        if rng.f64() < self.plan.spike {
            delay += rng.u64(0..=self.plan.spike_us);
        }
        let mut at = now + delay.max(1);
        if self.plan.is_ordered {
            at = at.max(self.last_arrival[from][to] + 1);
            self.last_arrival[from][to] = at;
        }
        at
    }

    /// Cuts the network into a shape, in place of the previous cuts.
    pub fn shape(&mut self, shape: Shape, rng: &mut Rng) {
        self.whole();
        let mut order: Vec<usize> = (0..self.nodes).collect();
        rng.shuffle(&mut order);
        let n = order.len();
        let one = order[0];
        let half = rng.usize(0..=n);
        let distance = |a: usize, b: usize| a.abs_diff(b);
        for a in 0..n {
            for b in 0..n {
                let (from, to) = (order[a], order[b]);
                let is_cut = from != to
                    && match shape {
                        Shape::Halves => (a < half) != (b < half),
                        Shape::Alone => from == one || to == one,
                        Shape::Deaf => to == one,
                        Shape::Mute => from == one,
                        Shape::OneWay => rng.u8(0..3) == 0,
                        Shape::Ring => !(distance(a, b) == 1 || distance(a, b) == n - 1),
                        Shape::Chain => distance(a, b) != 1,
                        Shape::Star => from != one && to != one,
                        Shape::Bridge => from != one && to != one && (a < half) != (b < half),
                    };
                self.cut[from][to] = is_cut;
            }
        }
    }
}
