//! Planted bugs: known mistakes behind switches of tests and of the feature `planted-bugs`, and how the simulator is
//! aimed at each.
//!
//! A simulator that finds nothing may be unable to find anything. So every mistake of the list below is switched on in
//! turn, and the simulator must find it within a bounded number of seeds. A few mistakes need rare circumstances; for
//! those the plan that a seed draws is tuned (more of the faults that matter, fewer of those that interfere). The seeds
//! themselves are not chosen.
//!
//! Not here: the switches (`src/planted_bugs.rs`, `sim/model/host.rs`, `sim/model/services.rs`).

use super::environment::plan::{FAULTS, FaultKind, JobsPlan, Plan};
use super::model::host::Bugs;
#[cfg(feature = "planted-bugs")]
use super::{Failure, run};
use super::{Options, Tuning};
use crate::types::Ticks;
use fastrand::Rng;

#[cfg(test)]
mod tests;

/// A planted bug.
pub struct Planted {
    pub name: &'static str,
    plant: fn(&mut Bugs),
    tune: fn(&mut Plan, &mut Rng),
    /// Within so many seeds it must be found.
    pub seeds_max: u64,
}

const fn planted(name: &'static str, seeds_max: u64, tune: fn(&mut Plan, &mut Rng), plant: fn(&mut Bugs)) -> Planted {
    Planted { name, plant, tune, seeds_max }
}

/// Faults that are on in an aimed run, each as often as usual times `rate` (smaller is more often).
fn only(plan: &mut Plan, kinds: &[(FaultKind, f64)]) {
    let election_us = plan.election_timeout_ticks.0 * super::environment::plan::TICK_US;
    plan.faults = FAULTS
        .iter()
        .filter_map(|(kind, mean)| {
            let (_, rate) = kinds.iter().find(|(on, _)| on == kind)?;
            Some((*kind, (*mean as f64 * rate * election_us as f64) as u64))
        })
        .collect();
}

fn as_drawn(_: &mut Plan, _: &mut Rng) {}

fn voters(plan: &mut Plan, count: usize) {
    (plan.voters, plan.spares) = (count, 0);
    plan.drift = vec![1.0; count];
}

/// Hostile processes that send all kinds of messages.
fn hostile(plan: &mut Plan, _: &mut Rng) {
    (plan.hostile, plan.has_secret) = (4.0, false);
}

/// Leadership transfers whose order is lost, and no other fault that would end the term.
fn lost_orders(plan: &mut Plan, _: &mut Rng) {
    voters(plan, 3);
    plan.net.loss = 0.3;
    only(plan, &[(FaultKind::Transfer, 0.3)]);
}

/// Transfer orders that arrive late.
fn late_orders(plan: &mut Plan, _: &mut Rng) {
    voters(plan, 3);
    (plan.net.is_ordered, plan.net.replay, plan.net.spike) = (false, 0.05, 0.1);
    only(plan, &[(FaultKind::Transfer, 0.5), (FaultKind::Campaign, 0.5), (FaultKind::Pause, 1.0)]);
}

/// Leaders that are cut off with a long log suffix that no other node has, while the other nodes continue.
fn cut_off_leaders(plan: &mut Plan, _: &mut Rng) {
    voters(plan, 3);
    plan.net.loss = 0.0;
    (plan.clients, plan.think_us, plan.reads) = (4, 1_000, 0.1);
    plan.deadline_us = plan.election_timeout_ticks.0 * super::environment::plan::TICK_US / 8;
    (plan.append_bytes_max, plan.inflight_bytes_max, plan.uncommitted_bytes_max) = (1 << 20, 8 << 20, 64 << 20);
    plan.heartbeat_ticks = Ticks(2);
    plan.apply_us = 0;
    plan.sync_us = (50, 200);
    only(plan, &[(FaultKind::Partition, 0.6), (FaultKind::RestartAll, 0.5)]);
}

/// The same, and snapshots of every third entry.
fn cut_off_leaders_with_snapshots(plan: &mut Plan, rng: &mut Rng) {
    cut_off_leaders(plan, rng);
    only(plan, &[(FaultKind::Partition, 0.6)]);
    plan.snapshot_every = Some(3);
}

/// Nodes that die often, and find an older copy of their disk.
fn older_disks(plan: &mut Plan, _: &mut Rng) {
    plan.restores = 0.5;
    only(plan, &[(FaultKind::Crash, 0.3)]);
}

/// Heartbeats that get lost while appends get through, and reads all the time.
fn slow_rounds(plan: &mut Plan, _: &mut Rng) {
    voters(plan, 2);
    plan.net.loss = 0.15;
    plan.net.delay_us = (100, 3_000);
    (plan.clients, plan.think_us, plan.reads) = (4, 1_000, 0.5);
    plan.deadline_us = plan.election_us() * 2;
    plan.apply_us = 0;
    only(plan, &[]);
}

/// Jobs, regardless of what the seed has drawn; no client cancels them.
fn jobs(plan: &mut Plan, rng: &mut Rng) {
    let drawn = plan.jobs.take().unwrap_or_else(|| JobsPlan::draw(rng, plan));
    plan.jobs = Some(JobsPlan { share: 0.6, cancels: 0.0, ..drawn });
}

/// Chat only.
fn talk(plan: &mut Plan, _: &mut Rng) {
    (plan.talk, plan.jobs) = (0.9, None);
    plan.clients = 3;
}

/// Workers whose heartbeats arrive late: they count as lost, and join again while their messages are still on the way.
fn false_alarms(plan: &mut Plan, rng: &mut Rng) {
    jobs(plan, rng);
    voters(plan, 3);
    (plan.heartbeat_ticks, plan.election_timeout_ticks) = (Ticks(2), Ticks(20));
    (plan.net.loss, plan.net.is_ordered, plan.net.delay_us) = (0.0, false, (100, 1_000));
    (plan.net.spike, plan.net.spike_us) = (0.3, 300_000);
    (plan.apply_us, plan.sync_us, plan.deadline_us) = (0, (50, 200), 100_000);
    (plan.clients, plan.think_us) = (4, 1_000);
    only(plan, &[]);
    if let Some(jobs) = &mut plan.jobs {
        (jobs.run_us, jobs.again_us, jobs.ready_us) = ((1_000, 60_000), 3_000, 1_000);
        (jobs.fail_after_ticks, jobs.open_max) = (Ticks(12), 8);
        jobs.workers.fill((1, vec!["sh", "java", "python"]));
    }
}

/// The database, regardless of what the seed has drawn.
fn database(plan: &mut Plan, _: &mut Rng) {
    voters(plan, 3);
    (plan.sql, plan.jobs, plan.clients) = (0.7, None, 4);
    (plan.think_us, plan.reads) = (1_000, 0.1);
}

/// The same, on nodes that die often and find their files.
fn database_and_crashes(plan: &mut Plan, rng: &mut Rng) {
    database(plan, rng);
    plan.snapshot_every = Some(8);
    only(plan, &[(FaultKind::Crash, 0.3)]);
}

/// One node's state is altered in the middle of the run; the network and leaders come and go meanwhile.
pub(crate) fn differences(plan: &mut Plan, rng: &mut Rng) {
    let count = rng.usize(3..=5);
    voters(plan, count);
    (plan.snapshot_every, plan.jobs, plan.sql, plan.talk) = (None, None, 0.2, 0.2);
    plan.alter_us = Some(plan.fault_us / 3);
    only(plan, &[(FaultKind::Partition, 1.0), (FaultKind::Transfer, 1.0), (FaultKind::Pause, 1.0)]);
}

/// Nodes that are killed until one is left, and nothing else that ends a leadership.
fn takeovers(plan: &mut Plan, rng: &mut Rng) {
    (super::tuning::TAKEOVER.change)(plan, rng);
    plan.jobs = None;
    plan.clients = 4;
    only(plan, &[(FaultKind::Pause, 1.0), (FaultKind::Partition, 1.0), (FaultKind::DiskSlow, 0.5)]);
}

/// A witness and two full voters of which one loses its disk while the other lags.
fn witness(plan: &mut Plan, rng: &mut Rng) {
    (super::tuning::WITNESS.change)(plan, rng);
    (plan.voters, plan.spares) = (3, 0);
    plan.witnesses = vec![rng.usize(0..3)];
    plan.drift = vec![1.0; 3];
    (plan.snapshot_every, plan.clients, plan.think_us, plan.reads) = (Some(3), 3, 1_000, 0.2);
    only(plan, &[(FaultKind::Wipe, 0.5), (FaultKind::Pause, 0.3), (FaultKind::Partition, 1.0)]);
}

/// Every planted bug.
pub const ALL: &[Planted] = &[
    planted("forget_vote_on_step_down", 2_000, as_drawn, |f| f.raft.forget_vote_on_step_down = true),
    planted("answer_before_sync", 2_000, as_drawn, |f| f.raft.answer_before_sync = true),
    planted("commit_old_term", 2_000, as_drawn, |f| f.raft.commit_old_term = true),
    planted("truncate_after_prev", 2_000, as_drawn, |f| f.raft.truncate_after_prev = true),
    planted("ack_own_last_index", 2_000, as_drawn, |f| f.raft.ack_own_last_index = true),
    planted("count_duplicate_vote", 2_000, as_drawn, |f| f.raft.count_duplicate_vote = true),
    planted("count_learner", 2_000, as_drawn, |f| f.raft.count_learner = true),
    planted("count_earlier_session", 2_000, as_drawn, |f| f.raft.count_earlier_session = true),
    planted("skip_log_freshness", 2_000, as_drawn, |f| f.raft.skip_log_freshness = true),
    planted("priority_vetoes", 2_000, as_drawn, |f| f.raft.priority_vetoes = true),
    planted("read_before_own_commit", 2_000, as_drawn, |f| f.raft.read_before_own_commit = true),
    planted("reuse_read_context", 2_000, slow_rounds, |f| f.raft.reuse_read_context = true),
    planted("change_before_own_commit", 2_000, as_drawn, |f| f.raft.change_before_own_commit = true),
    planted("two_changes", 2_000, as_drawn, |f| f.raft.two_changes = true),
    planted("snapshot_loses_membership", 2_000, as_drawn, |f| f.raft.snapshot_loses_membership = true),
    planted("snapshot_keeps_conflict", 2_000, cut_off_leaders_with_snapshots, |f| {
        f.raft.snapshot_keeps_conflict = true
    }),
    planted("transfer_never_cleared", 2_000, lost_orders, |f| f.raft.transfer_never_cleared = true),
    planted("late_transfer_obeyed", 2_000, late_orders, |f| f.raft.late_transfer_obeyed = true),
    planted("vote_in_its_own_record", 2_000, as_drawn, |f| f.store.vote_in_its_own_record = true),
    planted("replay_resurrects_truncated", 2_000, cut_off_leaders, |f| f.store.replay_resurrects_truncated = true),
    planted("damage_is_torn_tail", 2_000, as_drawn, |f| f.store.damage_is_torn_tail = true),
    planted("retry_failed_sync", 2_000, as_drawn, |f| f.store.retry_failed_sync = true),
    planted("apply_twice_after_restart", 2_000, as_drawn, |f| f.host.apply_twice_after_restart = true),
    planted("wiped_keeps_identity", 2_000, as_drawn, |f| f.host.wiped_keeps_identity = true),
    planted("outdated_keeps_identity", 2_000, older_disks, |f| f.host.outdated_keeps_identity = true),
    planted("synced_before_sync", 2_000, as_drawn, |f| f.host.synced_before_sync = true),
    planted("snapshot_without_membership", 2_000, as_drawn, |f| f.host.snapshot_without_membership = true),
    planted("sessions_left_out_of_snapshot", 2_000, as_drawn, |f| f.host.service.sessions_left_out_of_snapshot = true),
    planted("keys_left_out_of_snapshot", 2_000, as_drawn, |f| f.host.service.keys_left_out_of_snapshot = true),
    planted("local_clock_in_apply", 2_000, as_drawn, |f| f.host.service.local_clock_in_apply = true),
    planted("expiry_by_local_clock", 2_000, as_drawn, |f| f.host.service.expiry_by_local_clock = true),
    planted("copies_run_again", 2_000, as_drawn, |f| f.host.service.copies_run_again = true),
    planted("submissions_run_again", 2_000, jobs, |f| f.host.service.submissions_run_again = true),
    planted("jobs_left_out_of_snapshot", 2_000, jobs, |f| f.host.service.jobs_left_out_of_snapshot = true),
    planted("old_attempts_end", 2_000, false_alarms, |f| f.host.service.jobs.old_attempts_end = true),
    planted("ends_of_the_lost_count", 2_000, jobs, |f| {
        f.host.service.jobs.ends_of_the_lost_count = true;
        f.host.lost_worker_goes_on = true;
    }),
    planted("leave_forgets_jobs", 2_000, jobs, |f| f.host.service.jobs.leave_forgets_jobs = true),
    planted("slots_are_not_counted", 2_000, jobs, |f| f.host.service.jobs.slots_are_not_counted = true),
    planted("ended_may_end", 2_000, jobs, |f| f.host.service.jobs.ended_may_end = true),
    planted("repeats_are_delivered", 2_000, talk, |f| f.host.service.chat.repeats_are_delivered = true),
    planted("numbers_are_counted", 2_000, talk, |f| f.host.service.chat.numbers_are_counted = true),
    planted("read_marks_are_not_saved", 2_000, talk, |f| f.host.service.chat.read_marks_are_not_saved = true),
    planted("nobody_is_gone", 2_000, jobs, |f| f.host.nobody_is_gone = true),
    planted("stuck_are_not_gone", 2_000, jobs, |f| f.host.stuck_are_not_gone = true),
    planted("joins_without_a_read", 2_000, jobs, |f| f.host.joins_without_a_read = true),
    planted("hears_unknown_senders", 200, hostile, |f| f.raft.hears_unknown_senders = true),
    planted("terms_wrap", 200, hostile, |f| f.raft.terms_wrap = true),
    planted("worker_keeps_identity", 2_000, jobs, |f| f.host.worker_keeps_identity = true),
    planted("failed_sandbox_is_a_result", 2_000, jobs, |f| f.host.failed_sandbox_is_a_result = true),
    planted("ends_are_told_once", 2_000, jobs, |f| f.host.ends_are_told_once = true),
    planted("sql_now_is_the_nodes_clock", 200, database, |f| f.host.service.sql_by_local_clock = true),
    planted("sql_date_in_another_spelling_is_the_nodes_clock", 200, database, |f| {
        f.host.service.sql_overlooks_spellings = true
    }),
    planted("sql_columns_of_a_stale_statement", 200, database, |f| f.host.service.sql.columns_before_first_step = true),
    planted("sql_seed_of_the_node", 200, database, |f| f.host.service.sql_seed_of_the_node = true),
    planted("sql_entries_run_again", 500, database_and_crashes, |f| f.host.service.sql.entries_run_again = true),
    planted("mismatches_are_not_reported", 50, differences, |f| f.host.mismatches_are_not_reported = true),
    planted("log_time_is_wall_time", 200, as_drawn, |f| f.host.log_time_is_wall_time = true),
    planted("folder_locks_are_shared", 500, takeovers, |f| f.host.folder_locks_are_shared = true),
    planted("released_voters_go_on", 500, takeovers, |f| f.host.released_voters_go_on = true),
    planted("hosted_vote_for_older_logs", 500, takeovers, |f| f.host.hosted_vote_for_older_logs = true),
    planted("witness_cuts_at_once", 500, witness, |f| f.host.witness_cuts_at_once = true),
    planted("witness_leads_like_any", 200, witness, |f| f.host.witness_leads_like_any = true),
    planted("sql_left_out_of_snapshot", 500, database_and_crashes, |f| f.host.service.sql.left_out_of_snapshot = true),
];

impl Planted {
    /// How the simulator runs a seed with this bug.
    pub fn options(&self) -> Options {
        let mut bugs = Bugs::default();
        (self.plant)(&mut bugs);
        // `replay_planted` tunes the plan as the bug's row says.
        let tuning = Tuning { name: self.name, change: self.tune };
        Options { bugs, bugs_name: Some(self.name), tuning: Some(tuning), ..Options::default() }
    }

    /// The first of the seeds from `from` on whose run breaks a rule, and how many seeds it took; `goes_on` may stop
    /// the search.
    #[cfg(feature = "planted-bugs")]
    pub fn first(&self, from: u64, count: u64, goes_on: impl Fn() -> bool) -> Option<(u64, Box<Failure>)> {
        let seeds = (from..from.saturating_add(count)).take_while(|_| goes_on());
        seeds.zip(1..).find_map(|(seed, tries)| Some((tries, run(seed, &self.options()).err()?)))
    }
}
