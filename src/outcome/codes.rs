//! The one table with the codes of each reason: HTTP status, prefix in the Redis protocol, exit code of the command
//! line.
//!
//! 503: certainly not applied, and another try may succeed. 409: another try cannot succeed. 507: there is no room.
//! 504: unknown.
//! Not here: texts (`reason.rs` and each service's own), headers that go with a status (`http/`).

use super::reason::{Reason, UnknownReason};
use crate::raft::RefusalCause;
use crate::services::kv::OpError;
use crate::services::{chat, jobs};
use std::fmt::Display;

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Codes {
    /// HTTP status.
    pub status: u16,
    /// First word of the error in the Redis protocol.
    pub resp: &'static str,
    /// Exit code of a command that ends with it.
    pub exit: u8,
}

/// The request cannot be carried out as it is.
pub const FAILED: Codes = failed(400);
/// Certainly not applied: there is no leader, no quorum, or no node that can answer.
pub const UNAVAILABLE: Codes = Codes { status: 503, resp: "CLUSTERDOWN", exit: 4 };
/// Certainly not applied: this node has no memory for it now.
pub const BUSY: Codes = Codes { resp: "BUSY", ..UNAVAILABLE };
/// A quota is reached.
pub const NO_ROOM: Codes = Codes { status: 507, resp: "OOM", exit: 1 };
/// It may or may not be applied.
pub const UNKNOWN: Codes = Codes { status: 504, resp: "UNKNOWN", exit: 5 };

/// What the request itself is to blame for.
const fn failed(status: u16) -> Codes {
    Codes { status, resp: "ERR", exit: 1 }
}

/// Exit code of a command whose request was answered with this status.
pub fn exit_of(status: u16) -> u8 {
    [UNAVAILABLE, UNKNOWN].into_iter().find(|row| row.status == status).unwrap_or(FAILED).exit
}

/// A reason with its row of the table.
pub trait Coded: Display {
    fn codes(&self) -> Codes;
}

impl Coded for Reason {
    fn codes(&self) -> Codes {
        match self {
            Reason::Raft(why) => match why.cause() {
                RefusalCause::Moment | RefusalCause::Room => UNAVAILABLE,
                RefusalCause::Change => failed(409),
            },
            Reason::Gateway(_) | Reason::Witness(_) | Reason::TooFewFullVoters => failed(409),
            Reason::TooLarge { .. } => failed(413),
            Reason::Quota { .. } | Reason::TriggersBeyondQuota { .. } => NO_ROOM,
            Reason::Memory => BUSY,
            Reason::NoLeader(_)
            | Reason::OtherLeads(_)
            | Reason::NotTakenOver(_)
            | Reason::Stopping
            | Reason::Corrupt(_)
            | Reason::LeaderCorrupt(_)
            | Reason::Split(_)
            | Reason::DatabaseBusy
            | Reason::NoDatabase
            | Reason::NoData { .. }
            | Reason::TooManyReads
            | Reason::StaleRead { .. }
            | Reason::Unreadable(_)
            | Reason::NoBackup(_)
            | Reason::NotPrepared
            | Reason::NothingChanged(_) => UNAVAILABLE,
        }
    }
}

impl Coded for UnknownReason {
    fn codes(&self) -> Codes {
        UNKNOWN
    }
}

impl Coded for OpError {
    fn codes(&self) -> Codes {
        match self {
            OpError::TooLarge | OpError::ReplyTooLarge => failed(413),
            OpError::NotAnInteger
            | OpError::Overflow
            | OpError::NoTime
            | OpError::EntrySteps
            | OpError::ReadSteps
            | OpError::NotAFloat
            | OpError::FloatOverflow
            | OpError::NoSuchKey
            | OpError::EntryGrowth
            | OpError::Other(_) => failed(409),
        }
    }
}

impl Coded for jobs::Refusal {
    fn codes(&self) -> Codes {
        use jobs::Refusal as Why;
        match self {
            Why::NoRuntime { there, .. } if there.is_empty() => UNAVAILABLE,
            Why::Full => UNAVAILABLE,
            Why::NoRuntime { .. } | Why::Malformed(_) => failed(400),
            Why::NoSuchJob(_) => failed(404),
            Why::HasEnded(_) | Why::NotYours(_) => failed(409),
        }
    }
}

impl Coded for chat::Refusal {
    fn codes(&self) -> Codes {
        use chat::Refusal as Why;
        failed(match self {
            Why::BadName(_) | Why::BadText(_) | Why::Malformed(_) | Why::Yourself | Why::NotARoom => 400,
            Why::NotLoggedIn | Why::WrongLogIn => 401,
            Why::NotMember | Why::NotYours => 403,
            Why::NoSuchAccount | Why::NoSuchRoom | Why::NoSuchConversation | Why::NoSuchMessage => 404,
            Why::NameTaken | Why::OtherIsGone | Why::ClientIdReused | Why::Full(_) => 409,
            Why::TooLong(_) => 413,
            Why::Slow { .. } => 429,
        })
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
