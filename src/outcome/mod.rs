//! The outcome of a request: done, certainly not done, or unknown; and why.
//!
//! A reason is a type from where it arises to the endpoint that shows it, also between nodes: `reason.rs` has the
//! reasons and their texts, `codes.rs` the one table of HTTP statuses, prefixes in the Redis protocol and exit codes.
//! Not here: what services answer to a command that was applied (each service's own types); HTTP bodies
//! (`http/protocol/error.rs`).

pub(crate) mod codes;
mod reason;

pub use self::codes::{Coded, Codes};
pub use self::reason::{MEMORY_FULL, NoLeader, Outsider, QuotaName, Reason, UnknownReason};

/// What an answer to a client means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<T> {
    /// Applied, once; the reply.
    Done(T),
    /// Certainly not applied; safe to send again.
    Refused(Reason),
    /// It may or may not be applied.
    Unknown(UnknownReason),
}

impl<T> Outcome<T> {
    /// The same outcome with another reply.
    pub fn map<U>(self, reply: impl FnOnce(T) -> U) -> Outcome<U> {
        match self {
            Outcome::Done(done) => Outcome::Done(reply(done)),
            Outcome::Refused(why) => Outcome::Refused(why),
            Outcome::Unknown(why) => Outcome::Unknown(why),
        }
    }

    /// For callers that do the same whether it is refused or unknown.
    ///
    /// # Errors
    /// The text of the reason.
    pub fn into_result(self) -> Result<T, String> {
        match self {
            Outcome::Done(done) => Ok(done),
            Outcome::Refused(why) => Err(why.to_string()),
            Outcome::Unknown(why) => Err(why.to_string()),
        }
    }
}
