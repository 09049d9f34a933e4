//! The node's outcomes as results: which status goes with each way of failing.
//!
//! `Refused` (certainly not done) is 503, 409 when asking again cannot help, 507 when there is no room; `Unknown` is 504: it
//! may or may not have been done, and is never dressed up as a refusal.
//! Not here: the body of an error (`protocol/error.rs`).

use super::protocol::error::ApiError;
use crate::node::quota;
use crate::raft::Refusal;
use crate::services::Reply;
use crate::types::{Index, Outcome};

/// What was done, or the error that an outcome without it is.
pub(crate) fn done<T>(outcome: Outcome<T>) -> Result<T, ApiError> {
    let error = match outcome {
        Outcome::Done(done) => return Ok(done),
        Outcome::Refused(why) if quota::named_in(&why).is_some() => ApiError::refused(507, why),
        Outcome::Refused(why) => {
            let is_final = [Refusal::BadChange, Refusal::Unsafe, Refusal::BadTarget, Refusal::NotCaughtUp]
                .iter()
                .any(|refusal| why.contains(&refusal.to_string()));
            ApiError::refused(if is_final { 409 } else { 503 }, why)
        }
        Outcome::Unknown(why) => ApiError::unknown(504, why),
    };
    Err(error.with_leader())
}

/// The same for a command or query of a service: the bytes that it answered.
pub(crate) fn answered(outcome: Outcome<(Index, Reply)>) -> Result<(Index, Vec<u8>), ApiError> {
    match done(outcome)? {
        (index, Reply::Ok(bytes)) => Ok((index, bytes)),
        (_, Reply::Failed(why)) => Err(ApiError::refused(400, why).with_leader()),
    }
}

/// The services answered what this server does not understand: a bug, or a leader of another version.
pub(crate) fn unexpected() -> ApiError {
    ApiError::unknown(500, "the services gave an answer that this door does not know")
}
