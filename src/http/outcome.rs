//! The node's outcomes as results: a reason becomes an error with its status in the table of all reasons.
//!
//! `Unknown` (it may or may not have been done) is never reported as a refusal.
//! Not here: the table (`outcome/codes.rs`), the body of an error (`protocol/error.rs`).

use super::protocol::error::ApiError;
use crate::outcome::codes::FAILED;
use crate::outcome::{Coded, Outcome};
use crate::services::Reply;
use crate::types::Index;

/// The result, or the error of an outcome without one.
pub(crate) fn done<T>(outcome: Outcome<T>) -> Result<T, ApiError> {
    match outcome {
        Outcome::Done(done) => Ok(done),
        Outcome::Refused(why) => Err(refused(&why)),
        Outcome::Unknown(why) => Err(ApiError::unknown(why.codes().status, why.to_string()).with_leader()),
    }
}

/// The error for a reason of the node or a service, for what is certainly not done.
pub(crate) fn refused(why: &impl Coded) -> ApiError {
    ApiError::refused(why.codes().status, why.to_string()).with_leader()
}

/// The same as [`done`] for a command or query of a service: the bytes of its answer.
pub(crate) fn answered(outcome: Outcome<(Index, Reply)>) -> Result<(Index, Vec<u8>), ApiError> {
    match done(outcome)? {
        (index, Reply::Ok(bytes)) => Ok((index, bytes)),
        (_, Reply::Failed(why)) => Err(failed(why)),
    }
}

/// A service could not execute the command, for the reason in its sentence.
pub(crate) fn failed(why: String) -> ApiError {
    ApiError::refused(FAILED.status, why).with_leader()
}

/// This server cannot decode the answer of the services: a bug, or a leader of another version.
pub(crate) fn unexpected() -> ApiError {
    ApiError::unknown(500, "the answer of the services cannot be decoded")
}
