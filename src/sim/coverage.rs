//! How often things happened: a simulation in which nothing happens passes every test.
//!
//! `sim::tests` asserts that over a sweep each of these is common.

use std::ops::AddAssign;

macro_rules! coverage {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of one run, or the sum over many.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Coverage {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl AddAssign for Coverage {
            fn add_assign(&mut self, other: Coverage) {
                $(self.$name += other.$name;)*
            }
        }

        impl Coverage {
            /// Each counter with its name.
            pub fn rows(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }
    };
}

coverage! {
    /// Events of the queue.
    events,
    /// Steps of a raft.
    steps,
    /// Elected leaders.
    elections,
    /// Leadership transfers started.
    transfers,
    /// Memberships that a node adopted.
    memberships,
    /// Processes started.
    starts,
    /// Processes that died.
    crashes,
    /// Those that died between two effects of one step.
    boundary_crashes,
    /// Nodes that stopped because their disk failed.
    disk_errors,
    /// Bits flipped in what was synced.
    bits_flipped,
    /// Membership changes asked for.
    changes_asked,
    /// Of those, changes that the autopilot chose.
    autopilot,
    /// Nodes that said that they stop.
    goodbyes,
    /// Votes that they gave back.
    votes_given_back,
    /// Disks that were refused because they were damaged.
    refused_damage,
    /// Disks lost, each a new identity.
    wipes,
    /// Disks put back to an older copy.
    stale_disks_restored,
    /// Of those, disks that others remembered more of.
    stale_disks_detected,
    /// Logs that had entries cut.
    truncations,
    /// Snapshots written by their own service.
    snapshots_saved,
    /// Snapshots begun to be streamed.
    snapshots_sent,
    /// Snapshots installed on a follower.
    snapshots_installed,
    /// Networks cut into a shape.
    partitions,
    /// Old packets replayed.
    replays,
    /// Tries of a survivor to host the voters of dead processes.
    takeovers_tried,
    /// Of those, tries that got a majority of folders.
    takeovers,
    /// Turns of hosted voters.
    hosted_turns,
    /// Of those, turns as a leader, whose log is newer than its host's.
    hosted_led,
    /// Folders that were given back.
    hosted_released,
    /// Ticks of witnesses that led, because a candidate lacked entries.
    witness_led,
    /// Times that a witness kept its log because too few full voters held it.
    witness_waits,
    /// Messages of hostile processes.
    hostile_messages,
    /// Messages that a node must refuse: those of unknown senders and of members that it does not know yet.
    refused_messages,
    /// Commands proposed to a leader.
    proposals,
    /// Requests that raft refused.
    refusals,
    /// Operations that clients finished or gave up.
    operations,
    /// Linearizable reads that were checked.
    reads,
    /// Entries committed.
    commits,
    /// Jobs submitted.
    jobs,
    /// Attempts that workers began.
    attempts,
    /// Jobs that ended by a report of their worker.
    jobs_finished,
    /// Of those, jobs that had been begun more than once.
    jobs_finished_again,
    jobs_cancelled,
    /// Jobs that were given up, because their workers were lost again and again.
    jobs_given_up,
    /// Ends that came too late and were refused.
    ends_refused,
    /// Jobs that were given back, because their program never began.
    jobs_given_back,
    /// Jobs whose worker reported the output of a stopped attempt later.
    jobs_printed,
    /// Times that a leader declared a worker gone.
    workers_gone,
    /// States that were altered without a log entry, found and healed.
    differences_healed,
    /// Of those, states with an altered directory.
    healed_directory,
    /// With altered keys.
    healed_kv,
    /// With altered jobs.
    healed_jobs,
    /// With an altered database.
    healed_sql,
    /// With an altered chat.
    healed_chat,
    /// With an altered session table.
    healed_sessions,
    /// Entries stamped by a node that kept log time.
    stamps_kept,
    /// Log times restarted from a wall clock, because the leader had just started.
    times_begun,
    /// Jobs that went from a lost worker to another, or back into the queue.
    jobs_moved,
}
