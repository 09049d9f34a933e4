//! Changes to the plan that a seed draws, by name, so that a run can be repeated with the plan that it had.
//!
//! Not here: changes for single tests (`tests.rs`, `planted_bugs/`).

use super::environment::plan::{FaultKind, Plan, TICK_US, TakeoverPlan, pick};
use fastrand::Rng;

/// A change to the plan that a seed drew, to aim the run at something.
#[derive(Clone, Copy)]
pub struct Tuning {
    /// What `phalanx sim replay --plan` or, for those of single tests, `PHALANX_PLAN` calls it.
    pub name: &'static str,
    pub change: fn(&mut Plan, &mut Rng),
}

/// Without jobs, the database and hostile processes: most kept seeds are older than those, and mean what they meant
/// only without them.
pub const WITHOUT_JOBS: Tuning = Tuning {
    name: "without-jobs",
    change: |plan, rng| {
        (plan.jobs, plan.sql) = (None, 0.0);
        (WITHOUT_HOSTILE.change)(plan, rng);
    },
};

/// Without hostile processes, and with a secret.
pub const WITHOUT_HOSTILE: Tuning =
    Tuning { name: "without-hostile", change: |plan, _| (plan.hostile, plan.has_secret) = (0.0, true) };

/// Nodes of one host that are killed until one is left, which hosts the voters of the dead.
pub const TAKEOVER: Tuning = Tuning {
    name: "takeover",
    change: |plan, rng| {
        plan.voters = plan.voters.max(2);
        plan.drift.resize(plan.nodes(), 1.0);
        let election_us = plan.election_us();
        let after_us = *pick(rng, &[0, election_us / 4, election_us]);
        plan.takeover = Some(TakeoverPlan { after_us, strike_us: election_us * rng.u64(4..=12) });
    },
};

/// One witness among three voters or two among five, disks that are lost for good, and full voters that lag.
pub const WITNESS: Tuning = Tuning {
    name: "witness",
    change: |plan, rng| {
        let (voters, witnesses) = *pick(rng, &[(3, 1), (3, 1), (5, 2), (5, 1)]);
        plan.voters = voters;
        plan.drift.resize(plan.nodes(), 1.0);
        let mut nodes: Vec<usize> = (0..voters).collect();
        rng.shuffle(&mut nodes);
        plan.witnesses = nodes.into_iter().take(witnesses).collect();
        (plan.jobs, plan.alter_us) = (None, None);
        plan.snapshot_every = *pick(rng, &[Some(3), Some(8), Some(30)]);
        let election_us = plan.election_timeout_ticks.0 * TICK_US;
        for (kind, mean) in [(FaultKind::Wipe, 8), (FaultKind::Crash, 3), (FaultKind::Pause, 3)] {
            if !plan.has(kind) {
                plan.faults.push((kind, mean * election_us));
            }
        }
    },
};

/// Those of the command line.
pub const ALL: [Tuning; 4] = [WITHOUT_JOBS, WITHOUT_HOSTILE, TAKEOVER, WITNESS];
