//! Why a request was not done, and why it is unknown whether it was. `Display` makes the text; nothing reads it back.
//!
//! Reasons cross the peer port (`wire/mod.rs`): a variant that is added, removed or changed raises `wire::PROTOCOL`.
//! None of them contains a reason, so that no frame of a peer can nest them without end.
//! Not here: statuses and codes (`codes.rs`).

use crate::limits::COMMAND_BYTES_MAX;
use crate::raft::Refusal;
use crate::services::digests::Difference;
use crate::types::{Identity, NodeId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Text of [`Reason::Memory`], for where a request is refused before it is read.
pub const MEMORY_FULL: &str =
    "the memory budget for connections is used up (setting memory_budget_mb); try again, or send less at once";

/// Why a request was certainly not applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Reason {
    /// No leader took it.
    #[error("{0}")]
    NoLeader(NoLeader),
    /// Raft on the leader declined it.
    #[error("{0}")]
    Raft(Refusal),
    /// Only members that may vote are promoted, or lead.
    #[error("node {} is a gateway, which cannot vote", .0.0)]
    Gateway(NodeId),
    /// It leads only to pass entries on.
    #[error("node {} is a witness, which cannot lead", .0.0)]
    Witness(NodeId),
    /// A change of the voters after which too few of them would keep the data.
    #[error(
        "too few voters would keep the data: every quorum needs a full node, witnesses must be fewer than half when one \
         gets its vote, and full voters must hold what witnesses have cut from their logs"
    )]
    TooFewFullVoters,
    /// A client asked a witness.
    #[error("{}", no_data_text(*witness, *ask))]
    NoData { witness: NodeId, ask: Option<NodeId> },
    /// Another node than the one that was to lead does.
    #[error("node {} took the leadership", .0.0)]
    OtherLeads(NodeId),
    /// The transfer of the leadership was given up.
    #[error("node {} did not take over in time", .0.0)]
    NotTakenOver(NodeId),
    /// `core` did not take it or did not answer it.
    #[error("this node is too busy or stopping")]
    Stopping,
    /// More than one entry or frame may carry.
    #[error("the request has {bytes} bytes; at most {COMMAND_BYTES_MAX} are allowed")]
    TooLarge { bytes: u64 },
    /// The budget for what clients send and are sent has no room for it.
    #[error("{MEMORY_FULL}")]
    Memory,
    /// A quota is reached. Bytes or jobs.
    #[error("{}", quota_text(*quota, *used, *most))]
    Quota { quota: QuotaName, used: u64, most: u64 },
    /// What makes room runs triggers, and the database is so far beyond its quota that they must not. In bytes.
    #[error(
        "{} ({} MiB) is exceeded by more than an eighth, and a DELETE may run triggers that insert: use DROP TRIGGER or \
         DROP TABLE first, or raise the setting on every node",
        QuotaName::Database.setting(),
        most >> 20
    )]
    TriggersBeyondQuota { most: u64 },
    /// This node's state is known to be wrong.
    #[error("{}", corrupt_text(.0))]
    Corrupt(Difference),
    /// The same, where a leader found it out of itself and gives the leadership away.
    #[error("the leader is transferring the leadership: {}", corrupt_text(.0))]
    LeaderCorrupt(Difference),
    /// It is unknown which state is right.
    #[error(
        "read-only: the nodes differ in {} at index {} and no majority agrees. Start voters that are offline; or \
         choose the node whose data is right, make it the leader (phalanx leader transfer N), and for each other node: \
         phalanx member remove N, stop it, start it with --rejoin",
        .0.parts_text(),
        .0.index
    )]
    Split(Difference),
    /// Other requests that take long have the database.
    #[error("the database is busy with other long requests; nothing was changed, try again later")]
    DatabaseBusy,
    /// A node that holds no database.
    #[error("this node has no database")]
    NoDatabase,
    /// All pooled readers are in use.
    #[error("too many reads at once; try again later")]
    TooManyReads,
    /// This node is behind further than the read allows.
    #[error("stale read: this node has not heard from a leader {}", age_text(*age_ms))]
    StaleRead { age_ms: Option<u64> },
    /// SQLite cannot read the file.
    #[error("the database cannot be read: {0}")]
    Unreadable(String),
    /// A backup broke off.
    #[error("the database cannot be sent: {0}")]
    NoBackup(String),
    /// A database file that is being loaded.
    #[error("nothing was changed: the nodes did not prepare the file in time")]
    NotPrepared,
    /// It is unknown whether a step of a load was done, but no step before the last one changes a table.
    #[error("nothing was changed: {0}")]
    NothingChanged(UnknownReason),
}

/// Why no leader took a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum NoLeader {
    /// This node is no longer a member.
    #[error("{}", .0.describe(*.1))]
    Outsider(Outsider, Identity),
    /// Too few voters are online.
    #[error("no quorum: {reachable} of {voters} voters reachable, {needed} needed")]
    NoQuorum { reachable: u64, voters: u64, needed: u64 },
    /// The only voter is offline: the others have given their votes back, or have none yet.
    #[error(
        "no quorum: node {n}, which has the only vote, is offline: start it (phalanx node --id {n}), or, if its folder is \
         lost, see phalanx recover",
        n = .0.0
    )]
    OnlyVoterOffline(NodeId),
    /// There is a majority, so there should be one.
    #[error("no leader answered in time; an election may be under way: try again")]
    NotInTime,
}

/// Why it is unknown whether a request was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum UnknownReason {
    /// `core` did not answer in time.
    #[error("no answer in time: it may or may not be applied")]
    NoAnswer,
    /// The node ended meanwhile.
    #[error("this node stopped before the answer: it may or may not be applied")]
    Stopped,
    /// It left for the log, and its deadline has passed.
    #[error("no answer in time, it may or may not be applied ({0})")]
    TooLate(NoLeader),
    /// The entry that would show the result is no longer in the log.
    #[error("a snapshot replaced this part of the log before the answer")]
    LogReplaced,
    /// The leader that had it is gone.
    #[error("the leader was lost before it answered")]
    LeaderLost,
    /// A bug, or a leader of another version.
    #[error("the database returned an unexpected answer")]
    StrangeAnswer,
    /// The same for a transfer of the leadership.
    #[error("the answer names no leader")]
    NoLeaderNamed,
}

/// Why a node with a log of its cluster is not a member of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outsider {
    /// No member has its id.
    Removed,
    /// Its number is another identity's, and so another folder's.
    Replaced(Uuid),
}

impl Outsider {
    /// A sentence for users: why the node `me` is not a member, and what to do.
    pub fn describe(self, me: Identity) -> String {
        let n = me.id.0;
        match self {
            Outsider::Removed => format!(
                "this node was removed from the cluster: stop it, or start it with `phalanx node --id {n} --rejoin` to \
                 discard its folder's state and join again"
            ),
            Outsider::Replaced(holder) => format!(
                "node {n} is now another data folder, with uuid {holder}: this one, with uuid {}, was replaced and is \
                 no longer a member; stop this node and start the other folder, or, if that one is gone, `phalanx node \
                 --id {n} --rejoin` discards this folder's state and joins again",
                me.uuid
            ),
        }
    }
}

/// What a setting bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum QuotaName {
    Keys,
    Database,
    Chat,
    ChatAccount,
    Jobs,
    JobsBytes,
}

impl QuotaName {
    pub fn setting(self) -> &'static str {
        match self {
            QuotaName::Keys => "quota_kv_mb",
            QuotaName::Database => "quota_db_mb",
            QuotaName::Chat => "quota_chat_mb",
            QuotaName::ChatAccount => "quota_chat_account_mb",
            QuotaName::Jobs => "quota_jobs",
            QuotaName::JobsBytes => "quota_jobs_mb",
        }
    }

    /// What it limits, as text.
    pub fn what(self) -> &'static str {
        match self {
            QuotaName::Keys => "keys and values",
            QuotaName::Database => "the database",
            QuotaName::Chat => "messages of the chat",
            QuotaName::ChatAccount => "messages of one account",
            QuotaName::Jobs | QuotaName::JobsBytes => "jobs that wait or run",
        }
    }
}

fn quota_text(quota: QuotaName, used: u64, most: u64) -> String {
    let (used, most) = match quota {
        QuotaName::Jobs => (used.to_string(), most.to_string()),
        _ => (format!("{:.1}", used as f64 / f64::from(1 << 20)), format!("{} MiB", most >> 20)),
    };
    let (name, what) = (quota.setting(), quota.what());
    format!("{name} is reached: {used} of {most} for {what}; remove some, or raise the setting on every node")
}

fn corrupt_text(difference: &Difference) -> String {
    format!(
        "this node's {} differs from the majority's at index {}: it refuses reads until its state is rebuilt; \
         ask another node",
        difference.parts_text(),
        difference.index
    )
}

fn no_data_text(witness: NodeId, ask: Option<NodeId>) -> String {
    let ask = ask.map_or("another node".to_string(), |id| format!("node {}", id.0));
    format!("node {} is a witness, which keeps no data and serves no clients: ask {ask}", witness.0)
}

fn age_text(age_ms: Option<u64>) -> String {
    age_ms.map_or("yet".to_string(), |ms| format!("for {ms} ms"))
}
