//! Parts of a plan that are left out, so that a run of a seed becomes smaller: fewer nodes, clients, operations and
//! kinds of fault, a shorter fault phase, an earlier end.
//!
//! A restriction is applied to the plan that the seed drew, after its tuning. It is written as arguments of the command
//! line, so that one line runs a shrunk run again. Not here: the search for restrictions (`shrink.rs`).

use crate::sim::environment::plan::{FaultKind, NODES_MAX, Plan, TICK_US};
use std::fmt::Write;

/// Which parts of a plan stay out, and how large the rest may be. The default restricts nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restriction {
    /// So many voters, and no spares.
    pub nodes: Option<usize>,
    pub clients: Option<usize>,
    /// Operations of all clients together, at most.
    pub operations: Option<u64>,
    /// The fault phase ends after so many virtual ticks, or earlier.
    pub fault_ticks: Option<u64>,
    /// The run ends after this virtual tick, without the checks of its end.
    pub until: Option<u64>,
    /// A bit for each of `PARTS` that stays out.
    pub without: u64,
}

/// Largest cluster that a restriction can ask for.
pub const NODES: usize = NODES_MAX;

/// A part of plans that can stay out: its name, and how it is taken out.
pub struct Part {
    pub name: &'static str,
    remove: fn(&mut Plan),
}

const fn part(name: &'static str, remove: fn(&mut Plan)) -> Part {
    Part { name, remove }
}

fn drop_fault(plan: &mut Plan, kind: FaultKind) {
    plan.faults.retain(|(on, _)| *on != kind);
}

/// All parts; their order is that in which a failing run is shrunk.
pub const PARTS: &[Part] = &[
    part("hostile", |plan| (plan.hostile, plan.has_secret) = (0.0, true)),
    part("jobs", |plan| plan.jobs = None),
    part("sql", |plan| plan.sql = 0.0),
    part("chat", |plan| plan.talk = 0.0),
    part("departures", |plan| plan.departures_us = None),
    part("older-disks", |plan| plan.restores = 0.0),
    part("autopilot", |plan| plan.has_autopilot = false),
    part("replacements", |plan| plan.replaces_voters = false),
    part("loss", |plan| plan.net.loss = 0.0),
    part("duplicates", |plan| plan.net.duplicate = 0.0),
    part("spikes", |plan| plan.net.spike = 0.0),
    part("replays", |plan| plan.net.replay = 0.0),
    part("drift", |plan| plan.drift.fill(1.0)),
    part("boundary-crashes", |plan| plan.boundary_crash = 0.0),
    part("crashes", |plan| drop_fault(plan, FaultKind::Crash)),
    part("restarts-of-all", |plan| drop_fault(plan, FaultKind::RestartAll)),
    part("crash-loops", |plan| drop_fault(plan, FaultKind::CrashLoop)),
    part("pauses", |plan| drop_fault(plan, FaultKind::Pause)),
    part("partitions", |plan| drop_fault(plan, FaultKind::Partition)),
    part("one-way-cuts", |plan| drop_fault(plan, FaultKind::OneWay)),
    part("false-link-losses", |plan| drop_fault(plan, FaultKind::FalseLinkLost)),
    part("clock-jumps", |plan| drop_fault(plan, FaultKind::ClockJump)),
    part("disk-errors", |plan| drop_fault(plan, FaultKind::DiskError)),
    part("flipped-bits", |plan| drop_fault(plan, FaultKind::FlipBit)),
    part("disk-hangs", |plan| drop_fault(plan, FaultKind::DiskHang)),
    part("slow-disks", |plan| drop_fault(plan, FaultKind::DiskSlow)),
    part("full-disks", |plan| drop_fault(plan, FaultKind::DiskFull)),
    part("read-errors", |plan| drop_fault(plan, FaultKind::ReadError)),
    part("wipes", |plan| drop_fault(plan, FaultKind::Wipe)),
    part("transfers", |plan| drop_fault(plan, FaultKind::Transfer)),
    part("campaigns", |plan| drop_fault(plan, FaultKind::Campaign)),
    part("member-changes", |plan| drop_fault(plan, FaultKind::Member)),
    part("snapshots", |plan| drop_fault(plan, FaultKind::Snapshot)),
];

impl Restriction {
    /// The restriction that leaves out the parts of these names as well.
    pub fn without_parts<'a>(mut self, names: impl IntoIterator<Item = &'a str>) -> Restriction {
        for name in names {
            if let Some(at) = PARTS.iter().position(|part| part.name == name) {
                self.without |= 1 << at;
            }
        }
        self
    }

    /// Whether the part at this place of `PARTS` stays out.
    pub fn lacks(&self, at: usize) -> bool {
        self.without & (1 << at) != 0
    }

    /// When the run ends, in virtual microseconds: with the last event of its last tick.
    pub fn until_us(&self) -> Option<u64> {
        self.until.map(|tick| tick.saturating_add(1).saturating_mul(TICK_US) - 1)
    }

    /// Takes out of a plan what this leaves out.
    pub fn apply(&self, plan: &mut Plan) {
        for (at, part) in PARTS.iter().enumerate() {
            if self.lacks(at) {
                (part.remove)(plan);
            }
        }
        if let Some(nodes) = self.nodes {
            (plan.voters, plan.spares) = (nodes, 0);
            plan.drift.resize(nodes, 1.0);
            // A majority of witnesses alone could never apply anything.
            plan.witnesses.retain(|witness| *witness < nodes);
            plan.witnesses.truncate(nodes.saturating_sub(1) / 2);
        }
        plan.clients = self.clients.unwrap_or(plan.clients);
        plan.operations_max = self.operations.or(plan.operations_max);
        if let Some(ticks) = self.fault_ticks {
            plan.fault_us = plan.fault_us.min(ticks.saturating_mul(TICK_US));
        }
    }

    /// As arguments of `phalanx sim replay`, each with a space before it.
    pub fn arguments(&self) -> String {
        let mut text = String::new();
        let numbers = [
            ("nodes", self.nodes.map(|count| count as u64)),
            ("clients", self.clients.map(|count| count as u64)),
            ("operations", self.operations),
            ("fault-ticks", self.fault_ticks),
            ("until", self.until),
        ];
        for (name, value) in numbers.into_iter().filter_map(|(name, value)| Some((name, value?))) {
            write!(text, " --{name} {value}").expect("a String takes all");
        }
        let without: Vec<&str> =
            PARTS.iter().enumerate().filter(|(at, _)| self.lacks(*at)).map(|(_, part)| part.name).collect();
        if !without.is_empty() {
            write!(text, " --without {}", without.join(",")).expect("a String takes all");
        }
        text
    }
}
